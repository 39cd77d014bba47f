//! One request on its way: what policies and filters may look at and change.
//!
//! Built by the proxy for each request (and by `explain` and the cases from their own facts), passed by the verbs to every policy
//! and filter. Time and randomness are fields, so that the same request decides the same way twice.

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use transept_wire::head::Request;
use transept_wire::normalize::PathRules;

use crate::callout::CalloutResult;
use crate::limit::body_cost::{Bill, Meter};
use crate::limit::inquiry::Inquiry;
use crate::limit::touched::Touched;
use crate::login::{Handed, Written};
use crate::policies::{PolicyName, QuotaCharge};
use crate::principal::Principal;
use crate::services::ServiceNotes;
use crate::verdict::Replied;

/// The time of a decision, read once by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Time since an arbitrary start; never goes back. For timers, windows and backoff.
    pub monotonic: Duration,
    /// Time since the Unix epoch. For identifiers and for what is written down.
    pub unix: Duration,
}

/// What is known about the downstream connection. Made once per connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The other end of the socket (or what the PROXY protocol said it is).
    pub peer: SocketAddr,
    /// Our end of the socket.
    pub local: SocketAddr,
    /// Facts of the TLS session, or none on a plain connection.
    pub tls: Option<TlsFacts>,
    /// The verified SPIFFE id of the peer, from its certificate; on a stream inside a tunnel, that of the tunnel's peer.
    pub identity: Option<Arc<str>>,
    /// Where the client wanted to go, when that is not our end: the target of a tunnel, or the original destination.
    pub destination: Option<SocketAddr>,
    /// What `X-Forwarded-Client-Cert` says about the peer, ready to be sent; none is not sent.
    pub client_certificate: Option<Arc<str>>,
    /// The requests on it are of several clients, and the address of each comes with his request: a tunnel of a member whose word is taken.
    pub is_shared: bool,
    peer_text: Box<str>,
}

/// What the TLS handshake settled.
#[derive(Clone, Debug, Default)]
pub struct TlsFacts {
    /// The server name that the client asked for, lower-case.
    pub server_name: Option<Box<str>>,
    /// The negotiated application protocol, such as `h2`.
    pub alpn: Option<Box<[u8]>>,
    /// The client's verified leaf certificate.
    pub client_certificate: Option<ClientCertificate>,
}

/// A certificate of a client that was verified when the connection began. The connection may outlive it.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// The certificate itself.
    pub leaf: CertificateDer<'static>,
    /// From when on it is no good any more, since the Unix epoch.
    pub until: Duration,
}

/// The certificate that the client has shown has ended since the connection began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CertificateEnded;

impl ClientCertificate {
    /// Of a certificate that was verified. None when it does not say in a way that can be read when it ends.
    pub fn read(leaf: &CertificateDer<'_>) -> Option<ClientCertificate> {
        let until = transept_model::certificate::read_end(leaf)?;
        Some(ClientCertificate { leaf: leaf.clone().into_owned(), until })
    }
}

impl TlsFacts {
    /// Whether the client's certificate was good when the connection began and is not any more, at this time since the Unix epoch. Nobody knows who
    /// speaks then, also not that it is somebody who is denied.
    pub fn has_outlived_certificate(&self, unix: Duration) -> bool {
        self.certificate_left(unix).is_some_and(|left| left.is_zero())
    }

    /// How much longer the certificate is good that the client was verified by; none without one.
    pub fn certificate_left(&self, unix: Duration) -> Option<Duration> {
        self.client_certificate.as_ref().map(|shown| shown.until.saturating_sub(unix))
    }
}

impl Connection {
    /// Describes a connection. An IPv4-mapped IPv6 peer (RFC 4291 section 2.5.5.2) counts as IPv4.
    pub fn new(peer: SocketAddr, local: SocketAddr, tls: Option<TlsFacts>) -> Connection {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        Connection {
            peer,
            local,
            tls,
            identity: None,
            destination: None,
            client_certificate: None,
            is_shared: false,
            peer_text: peer.ip().to_string().into_boxed_str(),
        }
    }

    /// The verified SPIFFE id of its peer at a time since the Unix epoch: by a certificate that was shown to a listener it is one until that ends.
    pub fn identity_at(&self, unix: Duration) -> Option<&Arc<str>> {
        let is_over = self.tls.as_ref().is_some_and(|tls| tls.has_outlived_certificate(unix));
        self.identity.as_ref().filter(|_| !is_over)
    }

    /// The same connection with the verified SPIFFE id of its peer.
    pub fn with_identity(mut self, identity: impl Into<Arc<str>>) -> Connection {
        self.identity = Some(identity.into());
        self
    }

    /// The same connection with the place its client wanted to go to.
    pub fn with_destination(mut self, destination: SocketAddr) -> Connection {
        self.destination = Some(destination);
        self
    }

    /// The peer's address as text, formatted once per connection.
    pub fn peer_text(&self) -> &str {
        &self.peer_text
    }

    /// `https` on a TLS connection, else `http`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// One request with everything that a decision about it may use.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// When the request is decided.
    pub now: Now,
    /// Fresh random bits for this request.
    pub random: u64,
    /// The downstream connection.
    pub connection: &'a Connection,
    /// The client's address as derived by [`crate::forwarded::derive`]; the only address policies use.
    pub client: IpAddr,
    /// The port of the listener that took the request.
    pub listener_port: u16,
    /// The request head, normalised, on its way to the backend.
    pub request: &'a mut Request,
    /// What the request side leaves for the response side. Kept by the caller between both.
    pub notes: &'a mut Notes,
}

impl Exchange<'_> {
    /// The certificate of the client, which has not ended.
    ///
    /// # Errors
    /// Why there is none to go by.
    pub(crate) fn client_certificate(&self) -> Result<Option<&ClientCertificate>, CertificateEnded> {
        let shown = self.connection.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref());
        match shown {
            Some(shown) if self.now.unix >= shown.until => Err(CertificateEnded),
            shown => Ok(shown),
        }
    }

    /// `https` or `http`: by which the client has called, as far as is known. Who takes a request writes into it what its connection says, and then what a
    /// trusted proxy in front says ([`crate::forwarded::told_scheme`]).
    pub(crate) fn scheme(&self) -> &'static str {
        match self.request.scheme() {
            b"https" => "https",
            b"http" => "http",
            _ => self.connection.scheme(),
        }
    }

    /// The verified SPIFFE id of the peer. Connections of the mesh are ended with their certificates.
    pub(crate) fn identity(&self) -> Option<&Arc<str>> {
        self.connection.identity_at(self.now.unix)
    }

    /// Whether somebody listens to [`Exchange::tell`].
    pub(crate) fn is_told(&self) -> bool {
        self.notes.told.is_some()
    }

    /// How long the request may still wait for limits, of which this one lets it wait `most`. All waits of a request together take no
    /// longer than the longest that one of them allows. None when it has waited that long.
    pub(crate) fn may_wait(&mut self, most: Duration) -> Option<Duration> {
        let patience = &mut self.notes.patience;
        patience.most = patience.most.max(most);
        patience.since = Some(self.now.monotonic);
        Some(patience.most.saturating_sub(patience.spent)).filter(|left| !left.is_zero())
    }

    /// Notes that a wait for a limit is over.
    pub(crate) fn has_waited(&mut self) {
        if let Some(since) = self.notes.patience.since.take() {
            self.notes.patience.spent += self.now.monotonic.saturating_sub(since);
        }
    }

    /// Says how something was decided, to an explanation; on the data path nothing is said and nothing computed. No secret belongs in it.
    pub fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(told) = &mut self.notes.told {
            told.lines.push(what());
        }
    }

    /// Notes how a gateway that runs can be asked about what was told last.
    pub(crate) fn inquire(&mut self, inquiry: impl FnOnce() -> Inquiry) {
        if let Some(told) = &mut self.notes.told
            && let Some(line) = told.lines.len().checked_sub(1)
        {
            let mut inquiry = inquiry();
            inquiry.line = line;
            told.inquiries.push(inquiry);
        }
    }
}

/// What an exchange holds, and gives back by dropping it.
pub type Held = Vec<Box<dyn Any + Send>>;

/// What the request side of an exchange leaves for its response side. Reused between requests: call [`Notes::clear`]. Lists keep their memory
/// from request to request, so that they have none inside: most requests need none of it, and should not touch it.
#[derive(Debug, Default)]
pub struct Notes {
    pub(crate) cors: CorsNote,
    /// How much of the current path stands for what the rule's match covered.
    pub(crate) matched_prefix: usize,
    /// The key of the rule that takes the request; zero without a rule.
    pub(crate) rule_key: u64,
    /// How its listener reads paths.
    pub(crate) paths: PathRules,
    /// Whether a request that was let in before is judged again, and is not to be counted a second time.
    pub(crate) again: bool,
    /// Whether, besides, who has vouched for it may be asked anew.
    pub(crate) asks: bool,
    /// Whether a trusted proxy, and not the client, has named the request: its `x-request-id` is the one that came.
    pub is_named_by_proxy: bool,
    /// How the gateway itself answers, when it does. Set before the response side runs.
    pub replied: Option<Replied>,
    /// The limits that the request has touched.
    pub(crate) touched: Touched,
    /// How long it has waited for limits.
    pub(crate) patience: Patience,
    /// What it has taken of quotas.
    pub(crate) charges: Vec<QuotaCharge>,
    /// What its bodies cost, when that is known at their end.
    pub(crate) bill: Option<Box<Bill>>,
    /// The policy that answered the request instead of the backend, for logs and explanations.
    pub answered_by: Option<Arc<PolicyName>>,
    /// Who makes the request, once a policy has found out.
    pub principal: Option<Arc<Principal>>,
    /// What a policy that has asked for something wants to remember until it is asked again. Forgotten when it lets the request go on.
    pub between: Option<Box<dyn Any + Send>>,
    /// What policies say of their decisions, when somebody listens: an explanation.
    pub(crate) told: Option<Told>,
    /// What is given back before the end of the response is sent, and whatever becomes of the exchange: places among those that may be under way.
    pub held: Held,
    /// Fields that a service has asked to be added to the backend's response.
    pub(crate) response_changes: Vec<crate::ext_authz::Change>,
    /// What has come of asking services about it.
    pub services: Option<Box<ServiceNotes>>,
    /// The scope that a client lacks for what it may not do; empty where several would do of which none can be named.
    pub(crate) lacking: Option<Box<str>>,
    /// Cookies to be set with the response, whoever makes it.
    pub(crate) cookies: Vec<Written>,
    /// The tokens of sessions that the backend may get, each by the name of its scheme.
    pub(crate) handed: Vec<(Arc<str>, Handed)>,
    /// Where in the chain of policies the request is, while one of them waits for what it has asked for.
    pub(crate) reached: usize,
    /// What has come of it.
    pub(crate) outcome: Option<CalloutResult>,
}

/// What policies have said of their decisions.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) lines: Vec<String>,
    /// What else is known of some of the lines, where there is a gateway that runs.
    pub(crate) inquiries: Vec<Inquiry>,
}

/// How long a request has waited for limits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    /// The longest that a limit lets it wait.
    most: Duration,
    spent: Duration,
    /// When the wait has begun that is under way.
    since: Option<Duration>,
}

/// What the CORS filter found on the request side. The buffer is kept between requests.
#[derive(Debug, Default)]
pub(crate) struct CorsNote {
    /// Whether the origin may read the response. Not, without a CORS filter or an `Origin`.
    pub(crate) origin_is: Origin,
    /// What goes into `Access-Control-Allow-Origin`, when it may.
    pub(crate) answer: Vec<u8>,
}

/// Whether the origin that asks is among those that may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Origin {
    #[default]
    Refused,
    Allowed,
}

impl Notes {
    /// Notes of a request that has not begun.
    pub fn new() -> Notes {
        Notes::default()
    }

    /// Notes of a request that is explained.
    pub(crate) fn told() -> Notes {
        Notes { told: Some(Told::default()), ..Notes::default() }
    }

    /// Forgets the last request.
    pub fn clear(&mut self) {
        self.cors.origin_is = Origin::Refused;
        self.matched_prefix = 0;
        self.rule_key = 0;
        self.paths = PathRules::default();
        self.again = false;
        self.asks = false;
        self.is_named_by_proxy = false;
        self.replied = None;
        self.touched.clear();
        self.patience = Patience::default();
        self.charges.clear();
        self.bill = None;
        self.answered_by = None;
        self.principal = None;
        self.between = None;
        self.held.clear();
        self.response_changes.clear();
        self.services = None;
        self.lacking = None;
        self.cookies.clear();
        self.handed.clear();
        self.reached = 0;
        self.outcome = None;
    }

    /// What comes of asking services about it.
    pub(crate) fn services(&mut self) -> &mut ServiceNotes {
        self.services.get_or_insert_default()
    }

    /// Who wants to read the body of the response on its way, if anybody does.
    pub fn meter(&self) -> Option<Meter> {
        self.bill.as_ref().map(|bill| bill.meter())
    }

    /// Takes what bodies have cost, when the exchange is over: `now`, which is asked for only then. `bytes_in` are those of the request's body,
    /// `bytes_out` those of the response's.
    pub fn settle_bodies(&mut self, now: impl FnOnce() -> Now, bytes_in: u64, bytes_out: u64) {
        if let Some(mut bill) = self.bill.take() {
            bill.settle(now(), bytes_in, bytes_out);
        }
    }

    /// Lets the policy that has asked for something go on with what came of it, when the request is screened again.
    pub fn resume(&mut self, outcome: CalloutResult) {
        self.outcome = Some(outcome);
    }
}

/// Draws the `n`th of several independent numbers from one random number (splitmix64), so that one request may take several
/// decisions by chance and still be replayed from one number.
pub fn draw(random: u64, n: u64) -> u64 {
    let mut z = random.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Maps random bits to `0..bound` without the bias of a remainder that matters here. Zero for a bound of zero.
pub fn below(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_differ_and_repeat() {
        assert_ne!(draw(7, 0), draw(7, 1));
        assert_eq!(draw(7, 3), draw(7, 3));
    }

    #[test]
    fn below_stays_below() {
        assert_eq!(below(u64::MAX, 10), 9);
        assert_eq!(below(0, 10), 0);
        assert_eq!(below(u64::MAX, 0), 0);
    }

    #[test]
    fn a_mapped_peer_is_ipv4() {
        let peer = "[::ffff:192.0.2.1]:4000".parse().expect("an address");
        let local = "[::]:80".parse().expect("an address");
        assert_eq!(Connection::new(peer, local, None).peer_text(), "192.0.2.1");
    }
}
