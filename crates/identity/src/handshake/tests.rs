//! Tests of `handshake`: real handshakes in memory, in both directions.

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConnection, HandshakeKind, RootCertStore, ServerConnection};

use super::*;
use crate::bundle::{Bundle, Bundles};
use crate::forge::{Ca, HOUR, NOW, bundles, domain, id, now, set_validity};
use crate::spiffe::SpiffeId;
use crate::svid::moment;

const CART: &str = "spiffe://shop.test/ns/default/sa/cart";
const BANK: &str = "spiffe://shop.test/ns/default/sa/bank";

#[derive(Debug)]
struct At(UnixTime);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

fn clock() -> Arc<dyn TimeProvider> {
    Arc::new(At(now()))
}

fn verifier(bundles: Bundles, accept: Accept) -> PeerVerifier {
    PeerVerifier::new(LiveBundles::new(bundles), accept, Arc::new(aws_lc_rs::default_provider()))
}

fn only(text: &str) -> Accept {
    Accept::only(id(text))
}

fn client(svid: Svid, peers: PeerVerifier) -> Arc<ClientConfig> {
    Arc::new(client_config(Some(Arc::new(LiveSvid::new(svid))), peers, &[b"h2"], clock()).unwrap())
}

fn server(svid: Svid, peers: PeerVerifier) -> Arc<ServerConfig> {
    Arc::new(server_config(Arc::new(LiveSvid::new(svid)), peers, ClientAuth::Required, &[b"h2"], clock()).unwrap())
}

/// Both ends of a finished handshake.
#[derive(Debug)]
struct Joined {
    client: ClientConnection,
    server: ServerConnection,
}

impl Joined {
    /// Whom the server sees, and whom the client sees.
    fn ids(&self) -> (SpiffeId, SpiffeId) {
        let id = |chain: Option<&[CertificateDer<'static>]>| Leaf::parse(&chain.unwrap()[0]).unwrap().id;
        (id(self.server.peer_certificates()), id(self.client.peer_certificates()))
    }
}

/// Which end gave up, and why.
#[derive(Debug)]
enum Broken {
    Client(Error),
    Server(Error),
}

impl Broken {
    fn slug(&self) -> (&'static str, &'static str) {
        let slug = |error| refusal(error).map_or("none", Refusal::slug);
        match self {
            Self::Client(error) => ("client", slug(error)),
            Self::Server(error) => ("server", slug(error)),
        }
    }
}

/// Passes bytes to and fro until neither end has any left.
fn shake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<Joined, Broken> {
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().map_err(Broken::Server)?;
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(Broken::Client)?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Joined { client, server })
}

fn in_shop() -> Accept {
    Accept::TrustDomain(domain("shop.test"))
}

#[test]
fn two_workloads_prove_themselves_to_each_other() {
    let root = Ca::root("shop.test", "root");
    let intermediate = root.below(&crate::forge::ca_params("shop.test", "intermediate"));
    let peers = verifier(bundles([("shop.test", &root)]), in_shop());
    let cart = client(root.leaf(CART).svid(&[]), peers.accepting(only(BANK)));
    let bank = server(intermediate.leaf(BANK).svid(&[&intermediate]), peers.clone());
    let joined = shake(cart, bank).unwrap();
    assert_eq!(joined.ids(), (id(CART), id(BANK)));
    assert_eq!(joined.client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(joined.client.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(joined.server.server_name(), None, "no server name is sent");

    let chain = joined.server.peer_certificates().unwrap();
    assert_eq!(peers.peer(chain, Purpose::Client, now()).unwrap().id(), &id(CART));
}

#[test]
fn the_client_refuses_the_wrong_server() {
    let (root, other) = (Ca::root("shop.test", "root"), Ca::root("shop.test", "root"));
    let known = || bundles([("shop.test", &root)]);
    let ended = root.changed(BANK, |params| set_validity(params, NOW - HOUR, NOW - 1));
    for (svid, slug) in [
        (root.leaf(CART).svid(&[]), "identity.unexpected"),
        (other.leaf(BANK).svid(&[]), "identity.untrusted"),
        (Ca::root("evil.test", "evil").leaf("spiffe://evil.test/bank").svid(&[]), "identity.unknown_trust_domain"),
        (ended.svid(&[]), "identity.expired"),
    ] {
        let cart = client(root.leaf(CART).svid(&[]), verifier(known(), only(BANK)));
        let broken = shake(cart, server(svid, verifier(known(), in_shop()))).unwrap_err();
        assert_eq!(broken.slug(), ("client", slug));
    }
}

#[test]
fn the_server_refuses_the_wrong_client() {
    let (root, other) = (Ca::root("shop.test", "root"), Ca::root("shop.test", "root"));
    let theirs = Ca::root("bank.test", "bank");
    let known = || bundles([("shop.test", &root), ("bank.test", &theirs)]);
    let ended = root.changed(CART, |params| set_validity(params, NOW - HOUR, NOW - 1));
    for (svid, slug) in [
        (theirs.leaf("spiffe://bank.test/vault").svid(&[]), "identity.wrong_trust_domain"),
        (theirs.leaf(CART).svid(&[]), "identity.untrusted"),
        (other.leaf(CART).svid(&[]), "identity.untrusted"),
        (ended.svid(&[]), "identity.expired"),
    ] {
        let bank = server(root.leaf(BANK).svid(&[]), verifier(known(), in_shop()));
        let broken = shake(client(svid, verifier(known(), only(BANK))), bank).unwrap_err();
        assert_eq!(broken.slug(), ("server", slug));
    }
}

/// A workload that is about to join: it has no certificate and knows whom it wants to talk to.
fn joining(peers: PeerVerifier) -> Arc<ClientConfig> {
    Arc::new(client_config(None, peers, &[b"h2"], clock()).unwrap())
}

#[test]
fn a_retiring_root_lets_nobody_in_and_vouches_for_what_is_open() {
    let (new, old, other) =
        (Ca::root("shop.test", "new"), Ca::root("shop.test", "old"), Ca::root("shop.test", "other"));
    let mut bundle = Bundle::new(domain("shop.test"), [new.certificate.clone()]).unwrap();
    bundle.retire(old.certificate.clone(), moment(NOW + 2 * HOUR)).unwrap();
    let peers = verifier([bundle].into_iter().collect(), in_shop());
    let (cart, bank) = (old.leaf(CART), old.leaf(BANK));
    let chain = std::slice::from_ref(&cart.certificate);
    let open =
        |chain: &[CertificateDer<'static>], purpose, now| peers.retiring(chain, purpose, moment(NOW), moment(now));
    for _ in 0..2 {
        let broken =
            shake(client(cart.svid(&[]), peers.accepting(only(BANK))), server(new.leaf(BANK).svid(&[]), peers.clone()));
        assert_eq!(broken.unwrap_err().slug(), ("server", "identity.untrusted"));
        let broken =
            shake(client(new.leaf(CART).svid(&[]), peers.accepting(only(BANK))), server(bank.svid(&[]), peers.clone()));
        assert_eq!(broken.unwrap_err().slug(), ("client", "identity.untrusted"));
        // That it is good for what is open must not be found by the next handshake.
        let root = Some(Fingerprint::of(&old.certificate));
        for purpose in [Purpose::Client, Purpose::Server] {
            assert_eq!(open(chain, purpose, NOW + 2 * HOUR), root);
            assert_eq!(open(chain, purpose, NOW + 2 * HOUR + 1), None);
        }
    }
    assert_eq!(open(&[new.leaf(CART).certificate], Purpose::Client, NOW), None, "the trusted one is not asked here");
    assert_eq!(open(&[other.leaf(CART).certificate], Purpose::Client, NOW), None);
    assert_eq!(open(&[], Purpose::Client, NOW), None);
    let foreign = peers.accepting(only(BANK));
    assert_eq!(foreign.retiring(chain, Purpose::Client, moment(NOW), moment(NOW)), None);
}

#[test]
fn a_client_without_certificate_is_refused() {
    let root = Ca::root("shop.test", "root");
    let peers = verifier(bundles([("shop.test", &root)]), in_shop());
    let bank = server(root.leaf(BANK).svid(&[]), peers.clone());
    let broken = shake(joining(peers), bank).unwrap_err();
    assert!(matches!(broken, Broken::Server(Error::NoCertificatesPresented)), "{broken:?}");
}

#[test]
fn where_joining_is_possible_a_wrong_certificate_is_still_refused() {
    let (root, other) = (Ca::root("shop.test", "root"), Ca::root("shop.test", "root"));
    let peers = verifier(bundles([("shop.test", &root)]), in_shop());
    let svid = Arc::new(LiveSvid::new(root.leaf(BANK).svid(&[])));
    let config = server_config(svid, peers.clone(), ClientAuth::Optional, &[b"h2"], clock()).unwrap();
    let bank = Arc::new(config);
    let joined = shake(joining(peers.accepting(only(BANK))), bank.clone()).unwrap();
    assert!(joined.server.peer_certificates().is_none());
    assert_eq!(shake(client(root.leaf(CART).svid(&[]), peers.clone()), bank.clone()).unwrap().ids().0, id(CART));
    let broken = shake(client(other.leaf(CART).svid(&[]), peers.clone()), bank.clone()).unwrap_err();
    assert_eq!(broken.slug(), ("server", "identity.untrusted"));
    // The one that joins verifies the server like everyone else.
    let broken = shake(joining(peers.accepting(only(CART))), bank).unwrap_err();
    assert_eq!(broken.slug(), ("client", "identity.unexpected"));
}

#[test]
fn an_older_tls_is_refused() {
    let root = Ca::root("shop.test", "root");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(root.certificate.clone()).unwrap();
    let old = ClientConfig::builder_with_details(provider, clock())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let bank = server(root.leaf(BANK).svid(&[]), verifier(bundles([("shop.test", &root)]), in_shop()));
    assert!(matches!(shake(Arc::new(old), bank).unwrap_err(), Broken::Server(Error::PeerIncompatible(_))));
}

#[test]
fn without_bundles_nobody_gets_in() {
    let root = Ca::root("shop.test", "root");
    let cart = client(root.leaf(CART).svid(&[]), verifier(Bundles::default(), only(BANK)));
    let bank = server(root.leaf(BANK).svid(&[]), verifier(Bundles::default(), in_shop()));
    assert_eq!(shake(cart, bank).unwrap_err().slug(), ("client", "identity.unknown_trust_domain"));
}

#[test]
fn a_new_bundle_applies_to_the_next_handshake() {
    let (old, new) = (Ca::root("shop.test", "old"), Ca::root("shop.test", "new"));
    let live = LiveBundles::new(bundles([("shop.test", &old)]));
    let peers = PeerVerifier::new(live.clone(), in_shop(), Arc::new(aws_lc_rs::default_provider()));
    let cart = client(old.leaf(CART).svid(&[]), peers.clone());
    let bank = server(old.leaf(BANK).svid(&[]), peers.clone());
    let joined = shake(cart.clone(), bank.clone()).unwrap();

    // Proven a moment ago and remembered, and still refused now.
    live.store(bundles([("shop.test", &new)]));
    assert_eq!(shake(cart.clone(), bank.clone()).unwrap_err().slug(), ("client", "identity.untrusted"));
    let chain = joined.server.peer_certificates().unwrap();
    assert_eq!(peers.peer(chain, Purpose::Client, now()).unwrap_err().slug(), "identity.untrusted");

    live.store(bundles([("shop.test", &old)]));
    assert!(shake(cart, bank).is_ok());
}

#[test]
fn a_renewed_svid_is_shown_in_the_next_handshake() {
    let root = Ca::root("shop.test", "root");
    let peers = verifier(bundles([("shop.test", &root)]), in_shop());
    let live = Arc::new(LiveSvid::new(root.leaf(CART).svid(&[])));
    let cart = Arc::new(client_config(Some(live.clone()), peers.clone(), &[b"h2"], clock()).unwrap());
    let bank = server(root.leaf(BANK).svid(&[]), peers);
    let shown = |joined: &Joined| joined.server.peer_certificates().unwrap()[0].clone();
    let before = shown(&shake(cart.clone(), bank.clone()).unwrap());
    assert_eq!(before, live.load().chain()[0]);
    live.store(root.leaf(CART).svid(&[]));
    let after = shown(&shake(cart, bank).unwrap());
    assert!(after != before && after == live.load().chain()[0]);
}

#[test]
fn every_handshake_is_a_full_one() {
    let root = Ca::root("shop.test", "root");
    let peers = verifier(bundles([("shop.test", &root)]), in_shop());
    let (cart, bank) = (client(root.leaf(CART).svid(&[]), peers.clone()), server(root.leaf(BANK).svid(&[]), peers));
    for _ in 0..3 {
        let joined = shake(cart.clone(), bank.clone()).unwrap();
        assert_ne!(joined.client.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_ne!(joined.server.handshake_kind(), Some(HandshakeKind::Resumed));
    }
}

#[test]
fn what_is_remembered_ends_with_the_certificate() {
    let root = Ca::root("shop.test", "root");
    let peers = verifier(bundles([("shop.test", &root)]), in_shop());
    let chain = [root.leaf(CART).certificate];
    let at = |seconds| peers.peer(&chain, Purpose::Client, moment(seconds)).map_err(|refusal| refusal.slug());
    assert!(at(NOW).is_ok() && at(NOW + HOUR).is_ok());
    assert_eq!(at(NOW + HOUR + 1).unwrap_err(), "identity.expired");
    assert_eq!(at(NOW - HOUR - 1).unwrap_err(), "identity.not_yet_valid");
    assert_eq!(peers.peer(&[], Purpose::Client, now()).unwrap_err(), Refusal::NoCertificate);
}

#[test]
fn a_proof_is_remembered_by_leaf_and_purpose() {
    let root = Ca::root("shop.test", "root");
    let intermediate = root.below(&crate::forge::ca_params("shop.test", "intermediate"));
    let peers = verifier(bundles([("shop.test", &root)]), in_shop());
    let leaf = intermediate.leaf(CART).certificate;
    let whole = [leaf.clone(), intermediate.certificate.clone()];
    assert!(peers.peer(&whole[..1], Purpose::Client, now()).is_err(), "a refusal is not remembered as one");
    assert!(peers.peer(&whole, Purpose::Client, now()).is_ok());
    assert!(peers.peer(&whole[..1], Purpose::Client, now()).is_ok(), "the chain was proven before");
    assert!(peers.peer(&whole[..1], Purpose::Server, now()).is_err(), "for the other purpose it was not");
    let strict = peers.accepting(only(BANK));
    assert_eq!(strict.peer(&whole, Purpose::Client, now()).unwrap_err().slug(), "identity.unexpected");
}
