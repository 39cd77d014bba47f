//! Two members of a mesh, each with a data plane of its own, and a program behind one of them: what goes through the tunnel
//! between them, and what does not.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use transept_engine::compile::mesh::{AppPort, AppProtocol, Inbound, Outbound, Station, compile_station};
use transept_engine::policies::MODEL_KINDS;
use transept_identity::authority::{Authority, LEAF_LIFE};
use transept_identity::{
    Bundle, Bundles, LiveBundles, LiveSvid, PrivateKey, Request, Svid, TrustDomain, WorkloadName, request,
};
use transept_model::attach::{Surroundings, attach};
use transept_model::load::load;
use transept_model::place::SourceText;
use transept_proxy::{Mesh, Options, Proxy};
use transept_testkit::launch::unused_port;

const DOMAIN: &str = "transept.local";

/// Waits for what happens soon, or fails.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it happens in time")
}

/// A CA in memory.
struct Trust {
    provider: Arc<CryptoProvider>,
    authority: Authority,
}

impl Trust {
    fn new() -> Trust {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let domain = TrustDomain::new(DOMAIN).expect("a trust domain");
        let serial = random(&provider);
        Trust { authority: Authority::create_root(&domain, now(), serial).expect("a root"), provider }
    }

    fn bundles(&self) -> Bundles {
        let root = self.authority.root().expect("a root").clone();
        [Bundle::new(self.authority.trust_domain().clone(), [root]).expect("a bundle")].into_iter().collect()
    }

    fn svid(&self, name: &str) -> Svid {
        let workload = WorkloadName::new("default", name).expect("a name");
        let id = workload.id(self.authority.trust_domain()).expect("an id");
        let key = PrivateKey::generate().expect("a key");
        let asked = request::create(&key, &id).expect("a request");
        let request = Request::read(&asked, &id).expect("a request");
        let issued = self.authority.issue(&request, LEAF_LIFE, now(), random(&self.provider)).expect("a certificate");
        Svid::new(issued.chain, key, &self.provider).expect("an SVID")
    }

    fn member(&self, name: &str) -> Mesh {
        Mesh::new(Arc::new(LiveSvid::new(self.svid(name))), LiveBundles::new(self.bundles()))
    }
}

fn random<const N: usize>(provider: &CryptoProvider) -> [u8; N] {
    let mut bytes = [0; N];
    provider.secure_random.fill(&mut bytes).expect("random bytes");
    bytes
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970"))
}

/// An address that nobody listens on at the moment.
fn unused() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], unused_port()))
}

/// What a program does with a connection.
#[derive(Clone, Copy)]
enum Program {
    /// Answers one request after the other with what it got.
    Http,
    /// Says `hello` first, then sends back what comes.
    Greeter,
    /// Sends back what comes.
    Echo,
}

async fn start(program: Program) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(converse(program, tcp));
        }
    });
    address
}

async fn converse(program: Program, mut tcp: TcpStream) -> std::io::Result<()> {
    if let Program::Http = program {
        let mut got = Vec::new();
        loop {
            while !got.ends_with(b"\r\n\r\n") {
                if tcp.read_buf(&mut got).await? == 0 {
                    return Ok(());
                }
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", got.len());
            tcp.write_all(&[head.as_bytes(), &got].concat()).await?;
            got.clear();
        }
    }
    if let Program::Greeter = program {
        tcp.write_all(b"hello\n").await?;
    }
    let (mut from, mut to) = tcp.split();
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// A data plane that may be dropped where tasks run: its runtime ends on a thread of its own.
struct OffDuty(Option<Proxy>);

impl std::ops::Deref for OffDuty {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        self.0.as_ref().expect("it runs until it is dropped")
    }
}

impl Drop for OffDuty {
    fn drop(&mut self) {
        let proxy = self.0.take();
        std::thread::spawn(move || drop(proxy)).join().expect("it ends");
    }
}

/// `front` on one side, `cart` with its program on the other.
struct Stage {
    front: OffDuty,
    cart: OffDuty,
    trust: Trust,
    cart_mesh: Mesh,
    program: SocketAddr,
    /// Where `front` finds `cart`.
    local: SocketAddr,
    /// Where `cart` takes tunnels.
    tunnels: SocketAddr,
}

impl Stage {
    async fn new(program: Program) -> Stage {
        let trust = Trust::new();
        let front = trust.member("front");
        Stage::with(program, trust, front, "").await
    }

    async fn with(program: Program, trust: Trust, front: Mesh, policies: &str) -> Stage {
        Stage::before(start(program).await, trust, front, policies)
    }

    /// With a program of the test's own.
    fn before(program: SocketAddr, trust: Trust, front: Mesh, policies: &str) -> Stage {
        let cart_mesh = trust.member("cart");
        let start = |mesh: &Mesh| {
            let options = Options { workers: NonZeroUsize::new(1), mesh: Some(mesh.clone()), ..Options::default() };
            OffDuty(Some(Proxy::start(&options).expect("a proxy")))
        };
        let (front, cart) = (start(&front), start(&cart_mesh));
        let stage = Stage { front, cart, trust, cart_mesh, program, local: unused(), tunnels: unused() };
        stage.apply(policies, "cart");
        stage
    }

    /// Puts the configuration in force on both sides. `account` is who the workload is said to be.
    fn apply(&self, policies: &str, account: &str) {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: cart}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
             apiVersion: transept.dev/v1alpha1\nkind: Workload\nmetadata: {{name: cart-1}}\n\
             spec: {{services: [cart], serviceAccount: {account}, address: 127.0.0.1, ports: [{{port: 80, targetPort: {}}}], \
             tunnel: {{protocol: HBONE, port: {}}}}}\n{policies}",
            self.program.port(),
            self.tunnels.port(),
        );
        let loaded = load(&[SourceText::new("mesh.yaml", text.as_str())], MODEL_KINDS);
        assert!(loaded.invalid.is_empty(), "{:?}", loaded.invalid);
        let attached = attach(&loaded.world, &Surroundings::default());
        let station = |name: &str| Station {
            plaintext: None,
            awake: None,
            namespace: "default".into(),
            workload: format!("{name}-1"),
            services: vec![name.into()],
            identity: format!("spiffe://{DOMAIN}/ns/default/sa/{name}"),
            inbound: Vec::new(),
            app: Vec::new(),
            outbound: Vec::new(),
            http_proxy: None,

            captured: None,
        };
        let outbound = Outbound { listen: self.local, service: "cart".into(), namespace: "default".into(), port: 80 };
        let app = AppPort { port: 80, to: self.program, protocol: AppProtocol::Unknown };
        let front = Station { outbound: vec![outbound], ..station("front") };
        let cart = Station {
            inbound: vec![Inbound { listen: self.tunnels, announced: None }],
            app: vec![app],
            ..station("cart")
        };
        for (proxy, station) in [(&self.front, &front), (&self.cart, &cart)] {
            let compiled = compile_station(&loaded.world, &attached, station, None, 1);
            assert!(compiled.problems.is_empty(), "{:?}", compiled.problems);
            for outcome in proxy.apply(compiled.install()) {
                outcome.bound.expect("listening");
            }
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.local).await.expect("connected")
    }

    async fn get(&self) -> String {
        ask(&mut self.connect().await).await
    }
}

/// One request over a connection; the whole answer, which has a length.
async fn ask(tcp: &mut TcpStream) -> String {
    tcp.write_all(b"GET /a HTTP/1.1\r\nhost: cart\r\nx-forwarded-client-cert: forged\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    soon(async {
        loop {
            let text = String::from_utf8_lossy(&answer).to_lowercase();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                if length.and_then(|length| length.parse::<usize>().ok()).is_some_and(|length| body.len() >= length) {
                    return text;
                }
            }
            assert_ne!(tcp.read_buf(&mut answer).await.expect("an answer"), 0, "{text}");
        }
    })
    .await
}

const DENY: &str = "---\napiVersion: transept.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: closed}\n\
    spec: {targetRefs: [{group: '', kind: Service, name: cart}], deny: [{name: no-front, from: [{identities: [default/front]}]}]}\n";

#[tokio::test]
async fn requests_arrive_with_the_identity_of_their_sender() {
    let stage = Stage::new(Program::Http).await;
    let mut tcp = stage.connect().await;
    for _ in 0..3 {
        let answer = ask(&mut tcp).await;
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        assert!(answer.contains("uri=spiffe://transept.local/ns/default/sa/front"), "{answer}");
        assert!(!answer.contains("forged"), "{answer}");
    }
}

#[tokio::test]
async fn bytes_go_both_ways_and_end_one_by_one() {
    let stage = Stage::new(Program::Echo).await;
    let mut tcp = stage.connect().await;
    let sent: Vec<u8> = (0..1_000_000_u32).map(|index| (index % 251) as u8 | 0x80).collect();
    let (mut from, mut to) = tcp.split();
    let sending = async {
        to.write_all(&sent).await.expect("sent");
        to.shutdown().await.expect("ended");
    };
    let mut back = Vec::new();
    let (_, read) = soon(async { tokio::join!(sending, from.read_to_end(&mut back)) }).await;
    read.expect("everything");
    assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
}

#[tokio::test]
async fn a_program_may_speak_first() {
    let stage = Stage::new(Program::Greeter).await;
    let mut tcp = stage.connect().await;
    let mut greeting = [0; 6];
    soon(tcp.read_exact(&mut greeting)).await.expect("a greeting");
    assert_eq!(&greeting, b"hello\n");
    tcp.write_all(b"you").await.expect("sent");
    soon(tcp.read_exact(&mut greeting[..3])).await.expect("an echo");
    assert_eq!(&greeting[..3], b"you");
}

#[tokio::test]
async fn a_client_that_ends_its_side_at_once_gets_the_greeting() {
    let stage = Stage::new(Program::Greeter).await;
    // The second time the port is known.
    for _ in 0..2 {
        let mut tcp = stage.connect().await;
        tcp.shutdown().await.expect("one side is ended");
        let mut greeting = Vec::new();
        soon(tcp.read_to_end(&mut greeting)).await.expect("a greeting, and then the end");
        assert_eq!(greeting, b"hello\n");
    }
}

#[tokio::test]
async fn a_workload_that_is_somebody_else_is_not_spoken_to() {
    let stage = Stage::new(Program::Http).await;
    stage.apply("", "somebody-else");
    let answer = stage.get().await;
    assert!(answer.starts_with("http/1.1 502"), "{answer}");
}

#[tokio::test]
async fn a_foreign_certificate_opens_no_tunnel() {
    let foreign = Trust::new();
    let trust = Trust::new();
    // It trusts the mesh, and the mesh does not trust it.
    let mesh = Mesh::new(foreign.member("front").svid, LiveBundles::new(trust.bundles()));
    let stage = Stage::with(Program::Http, trust, mesh, "").await;
    let answer = stage.get().await;
    assert!(answer.starts_with("http/1.1 502") || answer.starts_with("http/1.1 503"), "{answer}");
}

#[tokio::test]
async fn nothing_is_said_to_a_client_without_a_certificate() {
    let stage = Stage::new(Program::Http).await;
    let mut tcp = TcpStream::connect(stage.tunnels).await.expect("connected");
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    // An alert at most, and then the end.
    let _ = soon(tcp.read_to_end(&mut answer)).await;
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{}", answer.escape_ascii());
}

#[tokio::test]
async fn a_policy_keeps_a_workload_out() {
    let trust = Trust::new();
    let front = trust.member("front");
    let stage = Stage::with(Program::Http, trust, front, DENY).await;
    let answer = stage.get().await;
    assert!(answer.starts_with("http/1.1 403"), "{answer}");
    assert!(!answer.contains("no-front") && !answer.contains("closed"), "{answer}");
    stage.apply("", "cart");
    assert!(stage.get().await.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn a_new_policy_ends_what_is_under_way() {
    let stage = Stage::new(Program::Echo).await;
    let mut tcp = stage.connect().await;
    let mut byte = [0];
    tcp.write_all(b"\x80").await.expect("sent");
    soon(tcp.read_exact(&mut byte)).await.expect("an echo");
    stage.apply(DENY, "cart");
    let ended = soon(tcp.read(&mut byte)).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn a_new_policy_counts_for_a_tunnel_that_has_said_nothing_yet() {
    let program = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let trust = Trust::new();
    let front = trust.member("front");
    let stage = Stage::before(program.local_addr().expect("an address"), trust, front, "");
    let mut tcp = stage.connect().await;
    let (mut landed, _) = soon(program.accept()).await.expect("a connection");
    stage.apply(DENY, "cart");
    tcp.write_all(b"\x80").await.expect("sent");
    let mut byte = [0];
    let got = soon(landed.read(&mut byte)).await;
    assert!(matches!(got, Ok(0) | Err(_)), "{got:?}");
}

#[tokio::test]
async fn new_roots_end_what_is_under_way() {
    let stage = Stage::new(Program::Echo).await;
    let mut tcp = stage.connect().await;
    let mut byte = [0];
    tcp.write_all(b"\x80").await.expect("sent");
    soon(tcp.read_exact(&mut byte)).await.expect("an echo");
    stage.cart_mesh.bundles.store(Trust::new().bundles());
    let ended = soon(tcp.read(&mut byte)).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn new_roots_end_what_was_opened_to_others() {
    let trust = Trust::new();
    let front = trust.member("front");
    let stage = Stage::with(Program::Echo, trust, front.clone(), "").await;
    let mut tcp = stage.connect().await;
    let mut byte = [0];
    tcp.write_all(b"\x80").await.expect("sent");
    soon(tcp.read_exact(&mut byte)).await.expect("an echo");
    front.bundles.store(Trust::new().bundles());
    let ended = soon(tcp.read(&mut byte)).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

/// Answers what it is told to hold when it is told to, and everything else at once.
async fn hold(held: Arc<Notify>, release: Arc<Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let (held, release) = (held.clone(), release.clone());
            tokio::spawn(async move {
                let mut got = Vec::new();
                while tcp.read_buf(&mut got).await.is_ok_and(|count| count > 0) {
                    if !got.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    if got.starts_with(b"POST") {
                        held.notify_one();
                        release.notified().await;
                    }
                    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("sent");
                    got.clear();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn new_roots_let_a_request_that_is_under_way_end() {
    let (held, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let program = hold(held.clone(), release.clone()).await;
    let trust = Trust::new();
    let front = trust.member("front");
    let stage = Stage::before(program, trust, front, "");
    let mut tcp = stage.connect().await;
    // Nobody may send it twice.
    tcp.write_all(b"POST /a HTTP/1.1\r\nhost: cart\r\ncontent-length: 0\r\n\r\n").await.expect("sent");
    soon(held.notified()).await;
    stage.cart_mesh.bundles.store(Trust::new().bundles());
    // From the moment on in which it is known, nothing new comes in.
    soon(async { while stage.get().await.starts_with("http/1.1 200") {} }).await;
    release.notify_one();
    let mut answer = [0; 12];
    soon(tcp.read_exact(&mut answer)).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_from_then_on() {
    let stage = Stage::new(Program::Http).await;
    assert!(stage.get().await.starts_with("http/1.1 200"));
    for _ in 0..5 {
        stage.cart_mesh.svid.store(stage.trust.svid("cart"));
        assert!(stage.get().await.starts_with("http/1.1 200"));
    }
}

#[tokio::test]
async fn the_way_in_drains_by_itself() {
    let stage = Stage::new(Program::Http).await;
    assert!(stage.get().await.starts_with("http/1.1 200"));
    assert!(soon(stage.cart.drain_inbound(Duration::from_secs(10))).await);
    let answer = stage.get().await;
    assert!(answer.starts_with("http/1.1 503"), "{answer}");
}

/// The lines of the edges in the metrics of a proxy.
async fn edges(proxy: &Proxy) -> Vec<String> {
    let mut text = String::new();
    proxy.write_metrics(&mut text).await;
    text.lines().filter(|line| line.starts_with("transept_edge_")).map(ToOwned::to_owned).collect()
}

fn value(edges: &[String], name: &str, labels: &[&str]) -> u64 {
    let is_it =
        |line: &&String| line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label));
    edges.iter().filter(is_it).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[tokio::test]
async fn both_ends_of_an_edge_are_counted() {
    let stage = Stage::new(Program::Http).await;
    let mut tcp = stage.connect().await;
    for _ in 0..3 {
        ask(&mut tcp).await;
    }
    // What has been answered is counted when the last byte is sent, which may be a moment later.
    let (front, cart) = soon(async {
        loop {
            let both = (edges(&stage.front).await, edges(&stage.cart).await);
            let counted = |edges: &[String]| value(edges, "transept_edge_requests_total", &[]) == 3;
            if counted(&both.0) && counted(&both.1) {
                return both;
            }
        }
    })
    .await;
    let names = ["source=\"spiffe://transept.local/ns/default/sa/front\"", "destination=\"default/cart\""];
    let program = format!("workload=\"{}\"", stage.program);
    for (edges, own) in [
        (&front, ["reporter=\"source\"", program.as_str()]),
        (&cart, ["reporter=\"destination\"", "workload=\"cart-1\""]),
    ] {
        let labels = [&names[..], &own, &["code_class=\"2xx\""]].concat();
        assert_eq!(value(edges, "transept_edge_requests_total", &labels), 3, "{edges:?}");
        assert_eq!(value(edges, "transept_edge_errors_total", &names), 0, "{edges:?}");
        assert_eq!(value(edges, "transept_edge_latency_seconds_count", &names), 3, "{edges:?}");
        assert!(value(edges, "transept_edge_bytes_total", &["direction=\"received\""]) > 0, "{edges:?}");
    }

    // A refusal is not the destination's fault; that its program is not there is.
    stage.apply(DENY, "cart");
    soon(async { while !stage.get().await.starts_with("http/1.1 403") {} }).await;
    let cart = edges(&stage.cart).await;
    assert!(value(&cart, "transept_edge_refusals_total", &names) > 0, "{cart:?}");
    assert_eq!(value(&cart, "transept_edge_errors_total", &names), 0, "{cart:?}");
    let trust = Trust::new();
    let front = trust.member("front");
    let absent = Stage::before(unused(), trust, front, "");
    assert!(absent.get().await.starts_with("http/1.1 503"));
    let front = edges(&absent.front).await;
    assert_eq!(value(&front, "transept_edge_errors_total", &names), 1, "{front:?}");
}
