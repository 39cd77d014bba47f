//! Who the client is, and what the backend is told about it.
//!
//! Called by the proxy between `normalize` and `admit`'s policies: [`derive()`] gives the one client address that policies and logs
//! use; [`announce`] rewrites the forwarding fields before the request goes upstream. No peer is believed until its network is named in
//! a `ListenerPolicy`: what an untrusted peer says about the client is removed, aliases with underscores included, and replaced. In the
//! mesh the gateway in front has settled all that (who its client is, where others made that known to it, is in `x-transept-client`), and only the certificates of clients are told here.

use std::io::Write as _;
use std::net::IpAddr;

use smallvec::SmallVec;
use transept_wire::head::{FieldId, FieldName, Fields, NameRef, Request};

use crate::exchange::Connection;
use crate::role::Role;
use crate::settings::{Emit, Settings};

/// The client as the gateway sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address; IPv4-mapped addresses are IPv4.
    pub address: IpAddr,
    /// Whether the peer of the connection is a trusted proxy.
    pub peer: Peer,
}

/// Whether the peer of the connection is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A trusted proxy.
    Trusted,
    /// Anybody.
    Untrusted,
}

/// Hops of `X-Forwarded-For` that are looked at, from the right.
const MOST_HOPS: usize = 64;

/// Derives the client's address: the peer, or behind trusted proxies the first untrusted hop of `X-Forwarded-For` from the right. A hop
/// that is no address ends the walk, and the last good one counts.
///
/// Of a member of the mesh whose word is taken (`forwardedFrom`) it is the client that this one has derived, or who connected to it; of one on
/// its own machine the address of that machine.
pub fn derive(connection: &Connection, fields: &Fields, settings: &Settings) -> Client {
    let peer = connection.peer.ip();
    if settings.role == Role::Inbound && settings.believes_forwarder(connection.identity.as_deref()) {
        let last =
            fields.all(FieldId::X_FORWARDED_FOR).last().and_then(|line| line.rsplit(|byte| *byte == b',').next());
        let named = fields.first(FieldId::X_TRANSEPT_CLIENT).or(last).and_then(|hop| parse_hop(hop.trim_ascii()));
        let named = named.filter(|named| !named.is_loopback());
        return Client { address: named.unwrap_or(peer), peer: Peer::Untrusted };
    }
    if settings.trusted_proxies.is_empty() || !settings.trusts(peer) {
        return Client { address: peer, peer: Peer::Untrusted };
    }
    let mut hops: SmallVec<[&[u8]; 8]> = SmallVec::new();
    for line in fields.all(FieldId::X_FORWARDED_FOR) {
        hops.extend(line.split(|byte| *byte == b','));
    }
    let mut address = peer;
    for hop in hops.iter().rev().take(MOST_HOPS) {
        let Some(named) = parse_hop(hop.trim_ascii()) else {
            break;
        };
        address = named;
        if !settings.trusts(named) {
            break;
        }
    }
    Client { address, peer: Peer::Trusted }
}

/// The scheme by which the client has called, where a trusted proxy says so: it may have ended TLS. Several values, and words that are none, say nothing.
pub fn told_scheme(fields: &Fields, client: &Client) -> Option<&'static str> {
    if client.peer == Peer::Untrusted {
        return None;
    }
    let mut lines = fields.all(FieldId::X_FORWARDED_PROTO);
    let (Some(word), None) = (lines.next(), lines.next()) else { return None };
    // Some proxies tell WebSockets apart.
    let is = |known: &[&[u8]]| known.iter().any(|known| known.eq_ignore_ascii_case(word));
    if is(&[b"https", b"wss"]) { Some("https") } else { is(&[b"http", b"ws"]).then_some("http") }
}

/// An address, with a port or brackets perhaps, as proxies write it.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?;
    let address = if let Some(rest) = text.strip_prefix('[') {
        rest.split_once(']')?.0.parse().ok()?
    } else if let Ok(address) = text.parse::<IpAddr>() {
        address
    } else {
        text.rsplit_once(':')?.0.parse::<std::net::Ipv4Addr>().ok()?.into()
    };
    Some(address.to_canonical())
}

/// What only a proxy may say; removed when the peer is not trusted.
const CLAIMS: &[FieldId] = &[
    FieldId::X_FORWARDED_CLIENT_CERT,
    FieldId::X_FORWARDED_FOR,
    FieldId::X_FORWARDED_HOST,
    FieldId::X_FORWARDED_PORT,
    FieldId::X_FORWARDED_PROTO,
    FieldId::X_FORWARDED_PREFIX,
    FieldId::X_REAL_IP,
    FieldId::FORWARDED,
    FieldId::X_ORIGINAL_URL,
    FieldId::X_REWRITE_URL,
    FieldId::X_ENVOY_ORIGINAL_PATH,
];

static FORWARDED_FOR: FieldName = FieldName::known(FieldId::X_FORWARDED_FOR);
static FORWARDED_PROTO: FieldName = FieldName::known(FieldId::X_FORWARDED_PROTO);
static FORWARDED_HOST: FieldName = FieldName::known(FieldId::X_FORWARDED_HOST);
static FORWARDED_PORT: FieldName = FieldName::known(FieldId::X_FORWARDED_PORT);
static FORWARDED: FieldName = FieldName::known(FieldId::FORWARDED);
static FORWARDED_CLIENT_CERT: FieldName = FieldName::known(FieldId::X_FORWARDED_CLIENT_CERT);

/// Whether a request comes from a proxy whose word counts, rather than from a client or a program.
pub fn is_relayed(connection: &Connection, client: &Client, role: Role) -> bool {
    match role {
        Role::Gateway => client.peer == Peer::Trusted,
        Role::Inbound => connection.identity.is_some(),
        Role::Outbound => false,
    }
}

/// Rewrites the forwarding fields of a request. Call it before filters run: a filter that sets one of them has the last word.
/// `port` is the listener's.
pub fn announce(request: &mut Request, connection: &Connection, client: &Client, settings: &Settings, port: u16) {
    drop_aliases(&mut request.fields);
    // It is for the next proxy and ends there.
    request.fields.remove_id(FieldId::X_TRANSEPT_CLIENT);
    // What a program passes on, such as who its own client is, is between it and the next one.
    let believed = settings.role == Role::Outbound || is_relayed(connection, client, settings.role);
    if !believed {
        drop_identities(&mut request.fields);
        request.fields.remove_id(FieldId::X_TRANSEPT_ATTEMPT);
        request.fields.remove_id(FieldId::X_TRANSEPT_TIMEOUT);
    } else if settings.role == Role::Gateway {
        // Whose word about addresses is taken may still pass on what its own clients make up.
        drop_principal(&mut request.fields);
    }
    // Nobody in front has settled what a client says that did not come through the mesh.
    let stranger = settings.role == Role::Inbound && connection.identity.is_none();
    if settings.role != Role::Gateway && !stranger {
        announce_certificate(&mut request.fields, connection, settings.role);
        return;
    }
    if client.peer == Peer::Untrusted {
        for id in CLAIMS {
            request.fields.remove_id(*id);
        }
    }
    announce_certificate(&mut request.fields, connection, settings.role);
    let mut text: SmallVec<[u8; 128]> = SmallVec::new();
    for line in request.fields.all(FieldId::X_FORWARDED_FOR) {
        text.extend_from_slice(line);
        text.extend_from_slice(b", ");
    }
    text.extend_from_slice(connection.peer_text().as_bytes());
    // Here and below: addresses, ports, schemes and what came out of a head are valid values, so nothing is refused.
    let _ = request.fields.set(&FORWARDED_FOR, &text);
    if !request.fields.contains(FieldId::X_FORWARDED_PROTO) {
        let _ = request.fields.push(&FORWARDED_PROTO, connection.scheme().as_bytes());
    }
    if !request.fields.contains(FieldId::X_FORWARDED_HOST) {
        text.clear();
        text.extend_from_slice(request.authority());
        let _ = request.fields.push(&FORWARDED_HOST, &text);
    }
    if !request.fields.contains(FieldId::X_FORWARDED_PORT) {
        let mut digits = [0; 5];
        let _ = request.fields.push(&FORWARDED_PORT, decimal(port, &mut digits));
    }
    if settings.forwarded == Emit::Yes {
        text.clear();
        let v6 = connection.peer.is_ipv6();
        let (open, close) = if v6 { ("\"[", "]\"") } else { ("", "") };
        let _ = write!(text, "for={open}{}{close};host=\"", connection.peer_text());
        text.extend_from_slice(request.authority());
        let _ = write!(text, "\";proto={}", connection.scheme());
        let _ = request.fields.push(&FORWARDED, &text);
    }
}

/// A number in decimal, in the room that it gets: what formats anything is not quick enough for each request.
fn decimal(mut number: u16, room: &mut [u8; 5]) -> &[u8] {
    let mut start = room.len();
    for (at, digit) in room.iter_mut().enumerate().rev() {
        *digit = b'0' + (number % 10) as u8;
        start = at;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    room.get(start..).unwrap_or_default()
}

/// Tells whose certificates the connections on the way had: adds that of this one to what a trusted proxy or a member of the mesh has
/// written. What a program says about certificates is no proof of anything and goes no further.
fn announce_certificate(fields: &mut Fields, connection: &Connection, role: Role) {
    let believed = match role {
        // Strangers' claims are gone already.
        Role::Gateway => true,
        Role::Inbound => connection.identity.is_some(),
        Role::Outbound => false,
    };
    if !believed {
        fields.remove_id(FieldId::X_FORWARDED_CLIENT_CERT);
    }
    let own = connection.client_certificate.as_ref().filter(|_| role != Role::Outbound);
    let Some(own) = own else {
        return;
    };
    let mut text: SmallVec<[u8; 256]> = SmallVec::new();
    for line in fields.all(FieldId::X_FORWARDED_CLIENT_CERT) {
        text.extend_from_slice(line);
        text.push(b',');
    }
    text.extend_from_slice(own.as_bytes());
    // A value that is no field value is not sent rather than sent in parts.
    if fields.set(&FORWARDED_CLIENT_CERT, &text).is_err() {
        fields.remove_id(FieldId::X_FORWARDED_CLIENT_CERT);
    }
}

/// The longest name of a field in which an identity may be claimed.
const LONGEST_IDENTITY: usize = 32;

/// Removes fields in which strangers may claim to be somebody.
fn drop_identities(fields: &mut Fields) {
    let claims = |name: NameRef<'_>| name.id == FieldId::OTHER && claims_identity(name.bytes);
    if fields.iter().any(|(name, _)| claims(name)) {
        fields.retain(|name, _| !claims(name));
    }
}

/// Removes the fields in which a backend is told of the principal ([`Principal`](crate::principal::Principal)): nobody but us fills them in.
pub(crate) fn drop_principal(fields: &mut Fields) {
    let claims = |name: NameRef<'_>| name.id == FieldId::OTHER && claims_principal(name.bytes);
    if fields.iter().any(|(name, _)| claims(name)) {
        fields.retain(|name, _| !claims(name));
    }
}

/// The fields that tell of the principal, without `x-auth-`.
const PRINCIPAL: &[&[u8]] = &[b"kind", b"id", b"groups", b"scopes", b"credential", b"plan", b"tenant"];

/// Whether a field is one of those that tell of the principal, whatever its case and with `_` for `-`.
fn claims_principal(name: &[u8]) -> bool {
    let dash = |byte: &u8| matches!(byte, b'-' | b'_');
    let [b'x' | b'X', one, a, u, t, h, two, rest @ ..] = name else { return false };
    dash(one)
        && dash(two)
        && [*a, *u, *t, *h].eq_ignore_ascii_case(b"auth")
        && (PRINCIPAL.iter().any(|known| known.eq_ignore_ascii_case(rest)) || claims_a_claim(rest))
}

/// `claim-email`, in whatever spelling.
fn claims_a_claim(rest: &[u8]) -> bool {
    rest.split_at_checked(6).is_some_and(|(claim, _)| {
        claim.last().is_some_and(|byte| matches!(byte, b'-' | b'_'))
            && claim.get(..5).is_some_and(|word| word.eq_ignore_ascii_case(b"claim"))
    })
}

/// Whether a field claims who the client is: names by which proxies tell programs about certificates. Case does not count, and `_`
/// counts as `-`, since many programs see no difference.
pub fn claims_identity(name: &[u8]) -> bool {
    if !matches!(name.first(), Some(b'c' | b'C' | b'l' | b'L' | b's' | b'S' | b'x' | b'X')) {
        return false;
    }
    let mut lower = [0; LONGEST_IDENTITY];
    let length = name.len().min(LONGEST_IDENTITY);
    for (to, from) in lower.iter_mut().zip(name) {
        *to = if *from == b'_' { b'-' } else { from.to_ascii_lowercase() };
    }
    let lower = lower.get(..length).unwrap_or_default();
    if claims_principal(name) {
        return true;
    }
    let families: [&[u8]; 4] = [b"x-amzn-mtls-", b"x-authenticated-", b"x-consumer-", b"x-transept-"];
    if families.iter().any(|family| lower.starts_with(family)) {
        return true;
    }
    let known = matches!(
        lower,
        b"x-forwarded-client-cert"
            | b"x-forwarded-spiffe-id"
            | b"x-forwarded-tls-client-cert"
            | b"x-forwarded-tls-client-cert-info"
            | b"client-cert"
            | b"client-cert-chain"
            | b"l5d-client-id"
            | b"l5d-remote-ip"
            | b"ssl-client-cert"
            | b"ssl-client-verify"
            | b"ssl-client-subject-dn"
            | b"ssl-client-issuer-dn"
            | b"ssl-client-s-dn"
            | b"ssl-client-i-dn"
            | b"x-arr-clientcert"
            | b"x-client-cert"
            | b"x-client-certificate"
            | b"x-client-dn"
            | b"x-client-verify"
            | b"x-envoy-peer-metadata"
            | b"x-envoy-peer-metadata-id"
            | b"x-spiffe-id"
            | b"x-ssl-cert"
            | b"x-ssl-client-cert"
            | b"x-ssl-client-dn"
            | b"x-ssl-client-s-dn"
            | b"x-ssl-client-verify"
    );
    known && name.len() == length
}

/// Whether a field of a request tells who the client is or where it comes from, or is its credential: what nobody who is only asked about limits may
/// say.
pub(crate) fn tells_of_client(name: &FieldName) -> bool {
    let bytes = name.as_bytes();
    CLAIMS.contains(&name.id())
        || matches!(name.id(), FieldId::AUTHORIZATION | FieldId::COOKIE)
        || claims_identity(bytes)
        || is_alias(bytes)
}

/// Removes fields that a backend which turns `-` into `_` (CGI, WSGI) would take for a forwarding field.
fn drop_aliases(fields: &mut Fields) {
    let claims = |name: NameRef<'_>| name.id == FieldId::OTHER && is_alias(name.bytes);
    if fields.iter().any(|(name, _)| claims(name)) {
        fields.retain(|name, _| !claims(name));
    }
}

/// Whether a field is a forwarding field but for `_` in its name.
fn is_alias(name: &[u8]) -> bool {
    let reads_as = |claim: &[u8]| {
        claim.len() == name.len()
            && claim.iter().zip(name).all(|(a, b)| *a == b.to_ascii_lowercase() || (*a == b'-' && *b == b'_'))
    };
    name.contains(&b'_') && CLAIMS.iter().any(|id| reads_as(id.as_str().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::IdentityPattern;

    fn connection(peer: &str) -> Connection {
        let peer = format!("{peer}:5000").parse().expect("an address");
        Connection::new(peer, "127.0.0.1:80".parse().expect("an address"), None)
    }

    #[test]
    fn every_port_is_written_as_a_formatter_would() {
        for port in 0..=u16::MAX {
            assert_eq!(decimal(port, &mut [0; 5]), port.to_string().as_bytes());
        }
    }

    fn trusting(networks: &[&str]) -> Settings {
        Settings {
            trusted_proxies: networks.iter().map(|network| network.parse().expect("a network")).collect(),
            ..Settings::default()
        }
    }

    /// A gateway of the mesh is believed about its client, where a MeshPolicy says so, and nobody else is.
    #[test]
    fn the_client_of_a_gateway_is_known_behind_it() {
        let edge = "spiffe://transept.local/ns/default/sa/edge";
        let settings = Settings {
            role: Role::Inbound,
            forwarders: [IdentityPattern::parse("default/edge").expect("a pattern")].into(),
            ..Settings::default()
        };
        let gateway = connection("10.0.0.4").with_identity(edge);
        let other = connection("10.0.0.4").with_identity("spiffe://transept.local/ns/default/sa/web");
        let address = |connection: &Connection, fields: &[(&str, &str)]| {
            derive(connection, &request(fields).fields, &settings).address.to_string()
        };
        let hops = ("x-forwarded-for", "198.51.100.9, 10.0.0.9");
        assert_eq!(address(&gateway, &[hops]), "10.0.0.9");
        assert_eq!(address(&gateway, &[hops, ("x-transept-client", "198.51.100.9")]), "198.51.100.9");
        assert_eq!(address(&gateway, &[]), "10.0.0.4");
        for own in ["127.0.0.1", "::1"] {
            assert_eq!(address(&gateway, &[hops, ("x-transept-client", own)]), "10.0.0.4", "one on its machine");
        }
        assert_eq!(address(&other, &[hops, ("x-transept-client", "198.51.100.9")]), "10.0.0.4");
    }

    #[test]
    fn nobody_makes_up_who_the_client_of_a_gateway_is() {
        for role in [Role::Gateway, Role::Outbound, Role::Inbound] {
            let settings = Settings { role, ..trusting(&["10.0.0.0/8"]) };
            let (mut request, connection) = (request(&[("x-transept-client", "192.0.2.66")]), connection("10.0.0.1"));
            let client = derive(&connection, &request.fields, &settings);
            announce(&mut request, &connection, &client, &settings, 80);
            assert!(!request.fields.contains(FieldId::X_TRANSEPT_CLIENT), "{role:?}");
        }
    }

    fn request(fields: &[(&str, &str)]) -> Request {
        let mut request = Request::build("GET", "http", "shop.test:8080", "/").expect("a request");
        for (name, value) in fields {
            request.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
        }
        request
    }

    fn client(peer: &str, forwarded: &str, trusted: &[&str]) -> String {
        let request = request(&[("x-forwarded-for", forwarded)]);
        derive(&connection(peer), &request.fields, &trusting(trusted)).address.to_string()
    }

    #[test]
    fn nobody_is_believed_by_default() {
        assert_eq!(client("192.0.2.1", "203.0.113.9", &[]), "192.0.2.1");
    }

    #[test]
    fn the_first_untrusted_hop_from_the_right() {
        let trusted = &["10.0.0.0/8"];
        assert_eq!(client("10.0.0.1", "203.0.113.9, 198.51.100.4, 10.0.0.2", trusted), "198.51.100.4");
        assert_eq!(client("10.0.0.1", "203.0.113.9:4711", trusted), "203.0.113.9");
        assert_eq!(client("10.0.0.1", "[2001:db8::1]:80", trusted), "2001:db8::1");
        assert_eq!(client("10.0.0.1", "spoofed, 10.0.0.3", trusted), "10.0.0.3");
        assert_eq!(client("10.0.0.1", "", trusted), "10.0.0.1");
        assert_eq!(client("192.0.2.1", "203.0.113.9", trusted), "192.0.2.1");
    }

    fn announced(peer: &str, settings: &Settings, fields: &[(&str, &str)]) -> Vec<String> {
        let (connection, mut request) = (connection(peer), request(fields));
        let client = derive(&connection, &request.fields, settings);
        announce(&mut request, &connection, &client, settings, 80);
        request.fields.iter().map(|(name, value)| format!("{}={}", name.as_str(), value.escape_ascii())).collect()
    }

    #[test]
    fn claims_of_strangers_are_replaced() {
        let fields = [
            ("X-Forwarded-For", "203.0.113.9"),
            ("X-Forwarded-Proto", "https"),
            ("X_Forwarded_For", "203.0.113.9"),
            ("X-Original-URL", "/admin"),
            ("X_SSL_Client_Dn", "CN=root"),
            ("Client-Cert", ":AA==:"),
            ("X-Transept-Anything", "1"),
            ("X-Client-Certificates", "stays"),
            ("Forwarded", "for=1.2.3.4"),
            ("X_other", "stays"),
        ];
        assert_eq!(
            announced("192.0.2.1", &Settings::default(), &fields),
            [
                "X-Client-Certificates=stays",
                "X_other=stays",
                "x-forwarded-for=192.0.2.1",
                "x-forwarded-proto=http",
                "x-forwarded-host=shop.test:8080",
                "x-forwarded-port=80",
            ]
        );
    }

    #[test]
    fn trusted_proxies_are_continued() {
        let settings = Settings { forwarded: Emit::Yes, ..trusting(&["10.0.0.0/8"]) };
        let fields = [("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Proto", "https")];
        assert_eq!(
            announced("10.0.0.1", &settings, &fields),
            [
                "X-Forwarded-For=203.0.113.9, 10.0.0.1",
                "X-Forwarded-Proto=https",
                "x-forwarded-host=shop.test:8080",
                "x-forwarded-port=80",
                "forwarded=for=10.0.0.1;host=\\\"shop.test:8080\\\";proto=http",
            ]
        );
    }

    /// What becomes of a certificate field that says `By=x`, on a connection whose certificate says `By=us`.
    fn certificates(role: Role, identity: Option<&str>) -> Vec<String> {
        let mut connection = connection("192.0.2.1");
        connection.identity = identity.map(Into::into);
        connection.client_certificate = identity.map(|_| "By=us".into());
        let settings = Settings { role, ..Settings::default() };
        let mut request = request(&[("X-Forwarded-Client-Cert", "By=x"), ("X-Forwarded-For", "203.0.113.9")]);
        let client = derive(&connection, &request.fields, &settings);
        announce(&mut request, &connection, &client, &settings, 80);
        request.fields.iter().map(|(name, value)| format!("{}={}", name.as_str(), value.escape_ascii())).collect()
    }

    #[test]
    fn certificates_are_told_by_those_who_saw_them() {
        let member = Some("spiffe://transept.local/ns/shop/sa/cart");
        assert_eq!(
            certificates(Role::Inbound, member),
            ["X-Forwarded-Client-Cert=By=x,By=us", "X-Forwarded-For=203.0.113.9"]
        );
        // Who did not come through the mesh is a stranger, as at a gateway.
        let stranger = certificates(Role::Inbound, None);
        assert_eq!(stranger.first().map(String::as_str), Some("x-forwarded-for=192.0.2.1"));
        assert_eq!(stranger, certificates(Role::Gateway, None));
        assert_eq!(certificates(Role::Outbound, member), ["X-Forwarded-For=203.0.113.9"]);
        assert_eq!(
            certificates(Role::Gateway, member).first().map(String::as_str),
            Some("x-forwarded-client-cert=By=us")
        );
        assert!(!certificates(Role::Gateway, None).iter().any(|field| field.contains("By=")));
    }
}
