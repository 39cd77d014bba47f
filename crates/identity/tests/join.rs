//! The life of a workload through the public interface alone: a token, a request, a certificate, a handshake, a renewal.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use transept_identity::authority::{Authority, LEAF_LIFE};
use transept_identity::handshake::{ClientAuth, client_config, refusal, server_config};
use transept_identity::renew::{Remaining, Renewal};
use transept_identity::request;
use transept_identity::token::{SECRET, Uses};
use transept_identity::{
    Accept, Bundle, Bundles, LiveBundles, LiveSvid, PeerVerifier, PrivateKey, Purpose, Request, SpiffeId, Svid, Tokens,
    TrustDomain, WorkloadName, xfcc,
};

const START: u64 = 1_800_000_000;

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

#[derive(Debug)]
struct Clock(UnixTime);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// A control plane in memory.
struct Control {
    provider: Arc<CryptoProvider>,
    authority: Authority,
    tokens: Tokens,
}

impl Control {
    fn new() -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let domain = TrustDomain::new("shop.test").unwrap();
        let authority = Authority::create_root(&domain, at(START), random(&provider)).unwrap();
        Self { provider, authority, tokens: Tokens::new() }
    }

    fn bundles(&self) -> Bundles {
        let root = self.authority.root().unwrap().clone();
        [Bundle::new(self.authority.trust_domain().clone(), [root]).unwrap()].into_iter().collect()
    }

    /// A workload joins with a token made for it.
    fn join(&mut self, name: &str, now: u64) -> Svid {
        let workload = WorkloadName::new("default", name).unwrap();
        let secret = random::<SECRET>(&self.provider).into();
        let life = Duration::from_secs(600);
        let (_, token) = self.tokens.create(workload, Uses::Once, life, at(now), secret).unwrap();
        let grant = self.tokens.redeem(token.as_str(), b"instance", at(now)).unwrap();
        self.renew(&grant.workload.id(self.authority.trust_domain()).unwrap(), now)
    }

    /// A workload that has proven `id` asks for a certificate.
    fn renew(&self, id: &SpiffeId, now: u64) -> Svid {
        let key = PrivateKey::generate().unwrap();
        let asked = request::create(&key, id).unwrap();
        let request = Request::read(&asked, id).unwrap();
        let issued = self.authority.issue(&request, LEAF_LIFE, at(now), random(&self.provider)).unwrap();
        Svid::new(issued.chain, key, &self.provider).unwrap()
    }
}

fn random<const N: usize>(provider: &CryptoProvider) -> [u8; N] {
    let mut bytes = [0; N];
    provider.secure_random.fill(&mut bytes).unwrap();
    bytes
}

/// A handshake in memory; the answer is the server's end, or why one of them gave up.
fn shake(client: ClientConfig, server: ServerConfig) -> Result<ServerConnection, rustls::Error> {
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(server)
}

#[test]
fn a_workload_joins_talks_and_renews() {
    let mut control = Control::new();
    let cart = Arc::new(LiveSvid::new(control.join("cart", START)));
    let bank = Arc::new(LiveSvid::new(control.join("bank", START)));
    let (cart_id, bank_id) = (cart.load().id().clone(), bank.load().id().clone());
    assert_eq!(cart_id.as_str(), "spiffe://shop.test/ns/default/sa/cart");

    let everyone = Accept::TrustDomain(control.authority.trust_domain().clone());
    let peers = PeerVerifier::new(LiveBundles::new(control.bundles()), everyone, control.provider.clone());
    let meet = |now: u64| {
        let clock = || Arc::new(Clock(at(now)));
        let to_bank = peers.accepting(Accept::only(bank_id.clone()));
        let client = client_config(Some(cart.clone()), to_bank, &[b"h2"], clock()).unwrap();
        let server = server_config(bank.clone(), peers.clone(), ClientAuth::Required, &[b"h2"], clock()).unwrap();
        shake(client, server)
    };

    let server = meet(START).unwrap();
    let peer = peers.peer(server.peer_certificates().unwrap(), Purpose::Client, at(START)).unwrap();
    assert_eq!(peer.id(), &cart_id);
    let header = xfcc::append(None, &bank_id, &peer.leaf);
    assert!(header.starts_with("By=spiffe://shop.test/ns/default/sa/bank;Hash="), "{header}");
    assert!(header.ends_with(";Subject=\"\";URI=spiffe://shop.test/ns/default/sa/cart"), "{header}");

    // At half its life the leaf is due; both are replaced one after the other, and nobody is turned away.
    let leaf = cart.load().leaf().clone();
    let renewal = Renewal::new(leaf.not_before, leaf.not_after);
    let due = START + renewal.first_wait(at(START), u64::from_ne_bytes(random(&control.provider))).as_secs();
    assert!(renewal.remaining(at(due + 900)) >= Remaining::Half && renewal.may_show(at(due)));
    cart.store(control.renew(&cart_id, due));
    assert!(meet(due).is_ok());
    bank.store(control.renew(&bank_id, due));
    assert!(meet(due).is_ok());
    assert_ne!(cart.load().leaf().fingerprint, leaf.fingerprint);

    // Without another renewal it is over one day later, and not a second earlier.
    let end = cart.load().leaf().not_after.as_secs();
    assert!(meet(end).is_ok());
    let error = meet(end + 1).unwrap_err();
    assert_eq!(refusal(&error).unwrap().slug(), "identity.expired");
}
