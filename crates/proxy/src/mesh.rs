//! The proxy as a member of the mesh: the identity that it shows, whom it believes, and the TLS configurations made of both.
//!
//! Given by `app` in [`crate::Options`]; read by `secure.rs` for tunnels that come in and by `upstream/hbone.rs` for those that go
//! out. Identities and roots are live: a renewed certificate and a new root apply to the next handshake. Where they come from
//! is the caller's business.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{ClientConfig, ServerConfig};
use transept_engine::reason::Reason;
use transept_engine::verdict::Reply;
use transept_identity::Fingerprint;
use transept_identity::bundle::{Bundles, LiveBundles};
use transept_identity::handshake::{ClientAuth, LiveSvid, PeerVerifier, client_config, server_config};
use transept_identity::spiffe::SpiffeId;
use transept_identity::svid::Leaf;
use transept_identity::verify::{Accept, Purpose};
use transept_identity::xfcc;
use transept_model::attach::Locale;

/// The protocol inside the TLS of a tunnel.
const ALPN: &[&[u8]] = &[b"h2"];

/// What a gateway outside the mesh is told when only a tunnel would lead on.
pub(crate) const OUTSIDE: &str = "this gateway is not a member of the mesh, and can make no tunnel: start it with `transept run --mesh`, or \
                                  join it to a control plane with `transept proxy --control`";

/// What makes a process a member of the mesh.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// The SVID that we show, on both sides.
    pub svid: Arc<LiveSvid>,
    /// The roots by trust domain.
    pub bundles: LiveBundles,
    /// Where the machine is, which others are told with each tunnel.
    pub locale: Locale,
}

impl Mesh {
    /// Of a machine of which nobody has said where it is.
    pub fn new(svid: Arc<LiveSvid>, bundles: LiveBundles) -> Mesh {
        Mesh { svid, bundles, locale: Locale::default() }
    }

    /// On a machine that is there.
    pub fn at(self, locale: Locale) -> Mesh {
        Mesh { locale, ..self }
    }
}

/// The TLS side of a membership, shared by all workers.
pub(crate) struct Membership {
    svid: Arc<LiveSvid>,
    bundles: LiveBundles,
    /// Where we are, as the rest of the baggage.
    whereabouts: String,
    peers: PeerVerifier,
    server: Arc<ServerConfig>,
    clients: Mutex<HashMap<Box<str>, Arc<ClientConfig>>>,
}

/// Who is at the other end of a tunnel.
pub(crate) struct Member {
    /// Its SPIFFE id.
    pub identity: Arc<str>,
    /// What `X-Forwarded-Client-Cert` says about it.
    pub forwarded: Arc<str>,
    /// Its certificates, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
}

/// How far the roots in force vouch for the peer of a connection that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// As for anybody who comes.
    Whole,
    /// Only this root does, which was replaced in order: what is under way goes on, and nothing new begins.
    Retiring(Fingerprint),
    /// Not at all.
    Gone,
}

impl Membership {
    /// # Errors
    /// When the crypto provider lacks what TLS 1.3 needs.
    pub(crate) fn new(mesh: &Mesh) -> Result<Membership, rustls::Error> {
        let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        // A trust domain that we do not know has no roots, so accepting all that we know means: accepting our own
        // and those that we were told of.
        let own = mesh.svid.load().id().trust_domain();
        let peers = PeerVerifier::new(mesh.bundles.clone(), Accept::TrustDomain(own), provider);
        let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
        let server = server_config(mesh.svid.clone(), peers.clone(), ClientAuth::Required, ALPN, clock)?;
        Ok(Membership {
            svid: mesh.svid.clone(),
            bundles: mesh.bundles.clone(),
            whereabouts: whereabouts(&mesh.locale),
            peers,
            server: Arc::new(server),
            clients: Mutex::default(),
        })
    }

    /// Who we are.
    pub(crate) fn own_identity(&self) -> Arc<str> {
        self.svid.load().id().as_str().into()
    }

    /// Who we are, in the words that requests for tunnels use (OpenTelemetry's, as members of W3C baggage); none for an identity of another
    /// form than that of a workload.
    pub(crate) fn baggage(&self) -> Option<String> {
        let svid = self.svid.load();
        let own = svid.id().workload()?;
        let (namespace, name) = (own.namespace(), own.service_account());
        Some(format!("k8s.namespace.name={namespace},service.name={name}{}", self.whereabouts))
    }

    /// For tunnels that come in.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For tunnels to a proxy that must be `identity`.
    ///
    /// # Errors
    /// A sentence when the identity is not one, or TLS cannot be set up.
    pub(crate) fn client(&self, identity: &str) -> Result<Arc<ClientConfig>, String> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = clients.get(identity) {
            return Ok(config.clone());
        }
        let id = SpiffeId::parse(identity).map_err(|error| error.to_string())?;
        let peers = self.peers.accepting(Accept::only(id));
        let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
        let config = client_config(Some(self.svid.clone()), peers, ALPN, clock).map_err(|error| error.to_string())?;
        let config = Arc::new(config);
        clients.insert(identity.into(), config.clone());
        Ok(config)
    }

    /// The peer of a handshake that has succeeded.
    pub(crate) fn member(&self, rustls: &rustls::Connection, unix: Duration) -> Option<Member> {
        let chain = rustls.peer_certificates()?;
        let peer = self.peers.peer(chain, Purpose::Client, UnixTime::since_unix_epoch(unix)).ok()?;
        Some(Member {
            identity: peer.id().as_str().into(),
            forwarded: self.describe(&peer.leaf),
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
        })
    }

    /// What today's roots say of a peer that was believed with these certificates. That a certificate has ended meanwhile does
    /// not end a connection: it was valid when the connection was made, and another follows.
    pub(crate) fn trust(&self, chain: &[CertificateDer<'_>], end: Purpose, unix: Duration) -> Trust {
        let Some(leaf) = chain.first().and_then(|leaf| Leaf::parse(leaf).ok()) else {
            return Trust::Gone;
        };
        // That a certificate has ended is said before anybody asks who vouches for it, so the question is about its last moment.
        let last = Duration::from_secs(leaf.not_after.as_secs());
        let at = UnixTime::since_unix_epoch(unix.min(last));
        let peers = match end {
            Purpose::Client => self.peers.clone(),
            // That it is the one who was called was proven when the connection was made.
            Purpose::Server => self.peers.accepting(Accept::only(leaf.id)),
        };
        if peers.peer(chain, end, at).is_ok() {
            return Trust::Whole;
        }
        peers.retiring(chain, end, at, UnixTime::since_unix_epoch(unix)).map_or(Trust::Gone, Trust::Retiring)
    }

    /// Whether a root counts still, and be it only for what is open.
    pub(crate) fn holds(&self, root: &Fingerprint, unix: Duration) -> bool {
        self.bundles.load().holds(root, UnixTime::since_unix_epoch(unix))
    }

    /// Whether an id is one that only the roots of our own mesh may vouch for.
    pub(crate) fn owns(&self, id: &str) -> bool {
        SpiffeId::parse(id).is_ok_and(|id| id.trust_domain_name() == self.svid.load().id().trust_domain_name())
    }

    /// The roots that are in force.
    pub(crate) fn roots(&self) -> Arc<Bundles> {
        self.bundles.load()
    }

    fn describe(&self, leaf: &Leaf) -> Arc<str> {
        let mut out = String::new();
        xfcc::write(&mut out, self.svid.load().id(), leaf);
        out.into()
    }
}

/// The reply when no endpoint can be used, as the log of this gateway tells it: with the remedy when it can make no tunnel at all.
pub(crate) fn advise(membership: Option<&Membership>, reply: Box<Reply>) -> Box<Reply> {
    if membership.is_some() || reply.reason != Reason::MeshNoTunnel {
        return reply;
    }
    let cause = reply.cause.as_deref().map_or_else(|| OUTSIDE.to_owned(), |cause| format!("{cause}; {OUTSIDE}"));
    Box::new(reply.because(cause))
}

/// The SPIFFE id in a certificate that has been verified, if it is that of a workload.
pub(crate) fn identity_in(leaf: &CertificateDer<'_>) -> Option<Arc<str>> {
    Leaf::parse(leaf).ok().map(|leaf| leaf.id.as_str().into())
}

/// Region and zone, as members of baggage that follow others. What a value may not have is written with percent signs (W3C Baggage, section 3.3.1.3).
fn whereabouts(locale: &Locale) -> String {
    let mut words = String::new();
    for (key, value) in [("cloud.region", &locale.region), ("cloud.availability_zone", &locale.zone)] {
        let Some(value) = value else { continue };
        words.push_str(&format!(",{key}="));
        for byte in value.bytes() {
            match byte {
                b'"' | b',' | b';' | b'\\' | b'%' | ..=b' ' | 0x7f.. => words.push_str(&format!("%{byte:02X}")),
                _ => words.push(byte.into()),
            }
        }
    }
    words
}

#[cfg(test)]
pub(crate) mod tests {
    use transept_identity::authority::{Authority, LEAF_LIFE};
    use transept_identity::{Bundle, PrivateKey, Request, Svid, TrustDomain, request};

    use super::*;

    pub(crate) const NOW: u64 = 1_800_000_000;

    pub(crate) fn root(serial: u8) -> Authority {
        let domain = TrustDomain::new("transept.local").expect("a trust domain");
        let serial = std::array::from_fn(|index| serial.wrapping_add(u8::try_from(index).unwrap_or(0)));
        Authority::create_root(&domain, UnixTime::since_unix_epoch(Duration::from_secs(NOW)), serial).expect("a root")
    }

    pub(crate) fn bundles(authority: &Authority) -> Bundles {
        let root = authority.root().expect("a root").clone();
        [Bundle::new(authority.trust_domain().clone(), [root]).expect("a bundle")].into_iter().collect()
    }

    /// A member whose certificate is from this root, and that certificate.
    pub(crate) fn member(ours: &Authority) -> (Mesh, Vec<CertificateDer<'static>>) {
        let id = SpiffeId::parse("spiffe://transept.local/ns/default/sa/cart").expect("an id");
        let key = PrivateKey::generate().expect("a key");
        let asked = request::create(&key, &id).expect("a request");
        let asked = Request::read(&asked, &id).expect("a request");
        let serial = std::array::from_fn(|index| u8::try_from(index + 3).unwrap_or(0));
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        let issued = ours.issue(&asked, LEAF_LIFE, now, serial).expect("a certificate");
        let chain = issued.chain.clone();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let svid = Svid::new(issued.chain, key, &provider).expect("an SVID");
        let locale = Locale::new(Some("b 1,%"), Some("eu"));
        let mesh = Mesh { svid: Arc::new(LiveSvid::new(svid)), bundles: LiveBundles::new(bundles(ours)), locale };
        (mesh, chain)
    }

    #[test]
    fn a_tunnel_says_who_asks_and_from_where() {
        let (mut mesh, _) = member(&root(1));
        let baggage = |mesh: &Mesh| Membership::new(mesh).expect("a membership").baggage();
        let own = "k8s.namespace.name=default,service.name=cart";
        let here = format!("{own},cloud.region=eu,cloud.availability_zone=b%201%2C%25");
        assert_eq!(baggage(&mesh), Some(here));
        mesh.locale = Locale::default();
        assert_eq!(baggage(&mesh).as_deref(), Some(own));
    }

    #[test]
    fn the_end_of_a_certificate_hides_no_change_of_roots() {
        let (ours, others) = (root(1), root(2));
        let (mesh, chain) = member(&ours);
        let membership = Membership::new(&mesh).expect("a membership");
        let (during, after) = (Duration::from_secs(NOW + 1), Duration::from_secs(NOW) + LEAF_LIFE * 2);
        let trust = || {
            let ends = [Purpose::Client, Purpose::Server];
            ends.map(|end| (membership.trust(&chain, end, during), membership.trust(&chain, end, after)))
        };
        assert_eq!(trust(), [(Trust::Whole, Trust::Whole); 2]);
        mesh.bundles.store(bundles(&others));
        assert_eq!(trust(), [(Trust::Gone, Trust::Gone); 2]);

        // Replaced in order, it counts for what is open until its time is over.
        let old = ours.root().expect("a root").clone();
        let root = Fingerprint::of(&old);
        let mut bundle = (**bundles(&others).of("transept.local").expect("a bundle")).clone();
        bundle.retire(old, UnixTime::since_unix_epoch(after - Duration::from_secs(1))).expect("a root");
        mesh.bundles.store([bundle].into_iter().collect());
        assert_eq!(trust(), [(Trust::Retiring(root), Trust::Gone); 2]);
        assert!(membership.holds(&root, during) && !membership.holds(&root, after));
    }
}
