//! Who is refused, over a link between machines: at the door of a workload, and by those who call. Each refusal is told where it
//! happens, with its reason.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};
use tokio_rustls::rustls::time_provider::DefaultTimeProvider;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use transept_identity::handshake::{ClientAuth, client_config, server_config};
use transept_identity::{
    Accept, Authority, Bundle, Bundles, LiveBundles, LiveSvid, PeerVerifier, PrivateKey, Request, SpiffeId, Svid,
    TrustDomain, request,
};
use transept_testkit::echo::Port;

use crate::instances::lead_on;
use crate::machines::{Machine, with_machines};
use crate::stage::{Mesh, answered, program, repeater, say, soon, told, until};
use crate::wiretap::occurs;

const TEST: &str = "refusals::whoever_is_not_let_in_is_told_of_with_the_reason";
/// Where everybody's tunnels come in, unless told otherwise.
const TUNNELS: u16 = 15008;
const CONTROL: u16 = 9909;
const ALPN: &[&[u8]] = &[b"h2"];
const DAY: Duration = Duration::from_secs(24 * 3600);

const POLICY: &str = "\
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: guard}
spec:
  targetRefs: [{group: \"\", kind: Service, name: cart}]
  allow: [{name: web, from: [{identities: [default/web]}]}]
";

fn domain() -> TrustDomain {
    TrustDomain::new("transept.local").expect("a trust domain")
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock"))
}

/// A certificate for a service, from an authority, at a time.
fn issue(authority: &Authority, service: &str, at: UnixTime, life: Duration) -> Svid {
    let id = SpiffeId::parse(&format!("spiffe://transept.local/ns/default/sa/{service}")).expect("an id");
    let key = PrivateKey::generate().expect("a key");
    let asked = request::create(&key, &id).expect("a request");
    let asked = Request::read(&asked, &id).expect("a request");
    let issued = authority.issue(&asked, life, at, *b"made by the test").expect("a certificate");
    Svid::new(issued.chain, key, &default_provider()).expect("an SVID")
}

/// The certificates of this test, all for `web` or `cart`, and what vouches for those that are right.
struct Papers {
    ours: Authority,
    foreign: Authority,
}

impl Papers {
    fn of(mesh: &Mesh) -> Papers {
        let read = |name: &str| std::fs::read_to_string(mesh.path("control").join(name)).expect("readable");
        let ours = Authority::from_pem(&domain(), &read("ca.pem"), &read("ca.key")).expect("an authority");
        Papers { ours, foreign: Authority::create_root(&domain(), now(), *b"not from our CA!").expect("a root") }
    }

    fn good(&self, service: &str) -> Svid {
        issue(&self.ours, service, now(), DAY)
    }

    fn foreign(&self, service: &str) -> Svid {
        issue(&self.foreign, service, now(), DAY)
    }

    /// The root is older than it is, and so is this.
    fn expired(&self, service: &str) -> Svid {
        issue(&self.ours, service, self.ours.not_before(), Duration::from_secs(1))
    }

    fn peers(&self) -> PeerVerifier {
        let root = self.ours.root().expect("a root").clone();
        let bundles: Bundles = [Bundle::new(domain(), [root]).expect("a bundle")].into_iter().collect();
        PeerVerifier::new(LiveBundles::new(bundles), Accept::TrustDomain(domain()), Arc::new(default_provider()))
    }

    /// Asks for a tunnel to a port, as a sidecar does, and gives the status of the answer.
    async fn knock(&self, at: SocketAddr, port: u16, shows: Option<Svid>) -> Result<u16, String> {
        self.knock_by(ALPN, at, port, shows).await
    }

    /// The same by a protocol of the caller's choice.
    async fn knock_by(&self, alpn: &[&[u8]], at: SocketAddr, port: u16, shows: Option<Svid>) -> Result<u16, String> {
        let shows = shows.map(|svid| Arc::new(LiveSvid::new(svid)));
        let config = client_config(shows, self.peers(), alpn, Arc::new(DefaultTimeProvider)).expect("TLS");
        let tcp = TcpStream::connect(at).await.expect("connected");
        let name = ServerName::try_from("cart").expect("a name");
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| error.to_string())?;
        let (mut requests, connection) = h2::client::handshake(tls).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let target = SocketAddr::new(at.ip(), port).to_string();
        let request = http::Request::connect(target).body(()).expect("a request");
        let (response, _body) = requests.send_request(request, false).map_err(|error| error.to_string())?;
        Ok(response.await.map_err(|error| error.to_string())?.status().as_u16())
    }

    /// Plays a workload that shows this; gives where.
    async fn pretend(&self, at: SocketAddr, shows: Svid) -> SocketAddr {
        let shows = Arc::new(LiveSvid::new(shows));
        let clock = Arc::new(DefaultTimeProvider);
        let config = server_config(shows, self.peers(), ClientAuth::Required, ALPN, clock).expect("TLS");
        let listener = TcpListener::bind(at).await.expect("a port");
        let at = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((tcp, _)) = listener.accept().await {
                if let Ok(mut tls) = acceptor.accept(tcp).await {
                    // Nobody may come so far: whoever says something here is told of by what this program is asked.
                    let _ = tls.read_to_end(&mut Vec::new()).await;
                }
            }
        });
        at
    }
}

/// A workload that files tell of.
fn workload(service: &str, tunnel: SocketAddr) -> String {
    format!(
        "---
{{apiVersion: v1, kind: Service, metadata: {{name: {service}}}, spec: {{ports: [{{port: 80}}]}}}}
---
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {{name: {service}-1}}
spec: {{services: [{service}], address: {}, ports: [{{port: 80, targetPort: 80}}], tunnel: {{port: {}}}}}
",
        tunnel.ip(),
        tunnel.port()
    )
}

#[test]
fn whoever_is_not_let_in_is_told_of_with_the_reason() {
    with_machines(TEST, None, || {
        let middle = Machine::middle();
        let mesh = middle.run(Mesh::start_at(SocketAddr::new(middle.address().into(), CONTROL), POLICY, &[]));
        let cart_machine = Machine::linked(1);
        let tunnels = SocketAddr::new(cart_machine.address().into(), TUNNELS);
        let (http, bytes) = cart_machine.run(async { (program("cart-1", Port::Http1).await, repeater("").await) });
        let cart = middle.run(mesh.sidecar("cart")).at(tunnels).port(80, http.address, "").port(90, bytes, "/tcp");
        let cart = cart_machine.run(cart.argument("--log-level=info,transept_proxy::secure=debug").start());

        // Certificates that are right: one identity is let in, another is not, for requests and for bytes.
        let (web_machine, bank_machine) = (Machine::linked(2), Machine::linked(3));
        let caller = async |service| mesh.sidecar(service).await.upstream("cart:80").upstream("cart:90");
        let (web, bank) = middle.run(async { (caller("web").await, caller("bank").await) });
        let (_web, _bank) = (web_machine.run(web.start()), bank_machine.run(bank.start()));
        web_machine.run(async {
            answered(web.local[0], 200).await;
            say(&mut TcpStream::connect(web.local[1]).await.expect("connected"), "\u{1}words\n", "\u{1}words\n").await;
        });
        bank_machine.run(async {
            answered(bank.local[0], 403).await;
            assert_eq!(soon(heard(bank.local[1], b"\x01words\n")).await, b"");
        });
        let from = format!("\"client\":\"{}\"", bank_machine.address());
        let line = cart_machine.run(told(&cart, &from));
        assert!(line.contains("AuthorizationPolicy default/guard, no rule allows it"), "{line}");

        // By hand, from the middle. A certificate of the test is as good as another when it is right.
        let papers = Papers::of(&mesh);
        let knock = |shows| middle.run(soon(papers.knock(tunnels, 80, shows)));
        assert_eq!(knock(Some(papers.good("web"))), Ok(200));
        assert_eq!(knock(Some(papers.good("bank"))), Ok(401));
        let refused = [
            (Some(papers.expired("web")), "identity.expired"),
            (Some(papers.foreign("web")), "identity.untrusted"),
            (None, "peer sent no certificates"),
        ];
        for (number, (shows, why)) in (1..).zip(refused) {
            let outcome = knock(shows);
            assert!(outcome.is_err(), "{why}: {outcome:?}");
            let failures = || async { failures(&cart.metrics().await.expect("metrics")) };
            cart_machine.run(until(failures, |failures| *failures == number));
            let line = cart_machine.run(told(&cart, why));
            assert!(line.contains(&middle.address().to_string()), "who it was: {line}");
        }
        // Tunnels that lead nowhere: to a port that is nobody's, and to an address that nobody has told the workload of.
        let elsewhere = middle.run(papers.knock(tunnels, 99, Some(papers.good("web"))));
        assert_eq!(elsewhere, Ok(503));
        cart_machine.run(told(&cart, "port 99 is none of the program's"));
        let translated = middle.run(lead_on(SocketAddr::new(middle.address().into(), 0), tunnels));
        assert_eq!(middle.run(soon(papers.knock(translated, 80, Some(papers.good("web"))))), Ok(400));
        let line = cart_machine.run(told(&cart, "is no address of this workload"));
        assert!(line.contains(&format!("\"host\":\"{}:80\"", middle.address())), "{line}");
        // Clear text gets no word of HTTP.
        let answer = middle.run(soon(heard(tunnels, b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n")));
        assert!(!occurs(b"HTTP/", &answer), "{}", answer.escape_ascii());
        cart_machine
            .run(until(|| async { failures(&cart.metrics().await.expect("metrics")) }, |failures| *failures == 4));
        cart_machine.run(told(&cart, "InvalidContentType"));
        // Nor does a member that does not say that it speaks HTTP/2.
        let silent = middle.run(soon(papers.knock_by(&[], tunnels, 80, Some(papers.good("web")))));
        assert!(silent.is_err(), "{silent:?}");
        cart_machine.run(told(&cart, "ALPN h2"));

        // Those who pretend to be somebody get no request.
        let anywhere = SocketAddr::new(middle.address().into(), 0);
        let (foreign, expired) = middle.run(async {
            (
                papers.pretend(anywhere, papers.foreign("stock")).await,
                papers.pretend(anywhere, papers.expired("price")).await,
            )
        });
        mesh.configure(&format!("{POLICY}{}{}", workload("stock", foreign), workload("price", expired)));
        let caller = middle.run(mesh.sidecar("office")).upstream("stock").upstream("price");
        let _caller = bank_machine.run(caller.start());
        for local in &caller.local {
            let refused = bank_machine.run(answered(*local, 502));
            let why = String::from_utf8_lossy(&refused.body).into_owned();
            assert!(why.contains("upstream.certificate_invalid"), "{why}");
        }
    });
}

/// All that comes back when this is said; nothing, also when the connection is cut off.
async fn heard(at: SocketAddr, words: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(at).await
        && stream.write_all(words).await.is_ok()
    {
        let _ = stream.read_to_end(&mut answer).await;
    }
    answer
}

/// The number of handshakes that failed, in the metrics of a sidecar.
fn failures(metrics: &str) -> u32 {
    let line = metrics.lines().find_map(|line| line.strip_prefix("transept_tls_handshake_failures_total "));
    line.and_then(|count| count.parse().ok()).expect("a count")
}
