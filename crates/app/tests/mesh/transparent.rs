//! A sidecar that captures, in a network namespace of the test's own: a program knows nothing but names.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use transept_proxy::capture;
use transept_proxy::names::Resolvers;
use transept_testkit::client::Request;
use transept_testkit::echo::{Echo, Port};

use crate::alone::{alone, alone_with};
use crate::stage::{Mesh, PATIENCE, answered, program, send, told, until};

const TEST: &str = "transparent::a_program_calls_a_service_by_its_name";

/// The address of a name, as the name server of the system tells it; none when it has none.
pub(crate) async fn resolve(name: &'static str) -> Option<Ipv4Addr> {
    let asking = tokio::task::spawn_blocking(move || {
        let servers = Resolvers::File("/etc/resolv.conf".into()).servers().ok()?;
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        socket.connect(servers.iter().find(|server| server.is_ipv4())?).expect("connected");
        let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            question.push(u8::try_from(label.len()).expect("a label"));
            question.extend(label.bytes());
        }
        question.extend([0, 0, 1, 0, 1]);
        socket.send(&question).expect("sent");
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).ok()?;
        // One answer, and nothing after its address.
        let answers = u16::from_be_bytes([buffer[6], buffer[7]]);
        let address: [u8; 4] = *buffer[..length].last_chunk()?;
        (answers == 1).then_some(address.into())
    });
    asking.await.expect("it ends")
}

#[test]
fn a_program_calls_a_service_by_its_name() {
    alone(TEST, call_by_name());
}

/// A Service with an address of its own, as a cluster gives it.
const CART: &str = "{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: \
                    {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7, 'fd96::7'], ports: [{port: 80}]}}";
const CLUSTER_ADDRESSES: [&str; 2] = ["10.96.0.7:80", "[fd96::7]:80"];

fn ip(arguments: &str) {
    let status = std::process::Command::new("ip").args(arguments.split(' ')).status().expect("it starts");
    assert!(status.success(), "ip {arguments}");
}

async fn call_by_name() {
    ip("-6 addr add fd09::1/64 dev here nodad");
    ip("-6 route add default dev here");
    let mesh = Mesh::start(CART).await;
    let cart_program = program("cart-1", Port::Http1).await;
    let _cart = mesh.sidecar("cart").await.port(80, cart_program.address, "").start().await;
    let setup = mesh.sidecar("web").await.argument("--transparent");
    let web = setup.start().await;
    let owner = &capture::owners().expect("owners")[0];
    assert_eq!(owner.workload, "web");

    let address = until(|| resolve("cart.mesh"), Option::is_some).await.expect("an address");
    assert_eq!(resolve("cart").await, Some(address));
    assert_eq!(resolve("cart.default.svc.cluster.local").await, Some(address));
    let cart = SocketAddr::new(address.into(), 80);
    answered(cart, 200).await;
    let seen = Echo::parse(&send(cart, &Request::get("cart", "/x")).await.expect("an answer").body).expect("an echo");
    assert_eq!((seen.path.as_str(), seen.pod.as_str()), ("/x", "cart-1"));
    let said = seen.header("x-forwarded-client-cert").expect("an identity");
    assert!(said.contains("URI=spiffe://transept.local/ns/default/sa/web"), "{said}");
    for address in CLUSTER_ADDRESSES {
        let address: SocketAddr = address.parse().expect("an address");
        let by_address = send(address, &Request::get("cart", "/")).await.expect("an answer");
        let seen = Echo::parse(&by_address.body).expect("an echo").header("x-forwarded-client-cert");
        assert_eq!(seen.as_deref(), Some(&*said), "also by {address}, that of the Service in the cluster");
    }
    let direct = send(cart_program.address, &Request::get("cart", "/")).await.expect("an answer");
    assert!(Echo::parse(&direct.body).expect("an echo").header("x-forwarded-client-cert").is_none(), "left alone");
    let other_port = tokio::net::TcpStream::connect((address, 81)).await.expect_err("the service does not have it");
    assert_eq!(other_port.kind(), std::io::ErrorKind::ConnectionRefused);

    // Whose program a call is of can be told as long as there is one.
    let why = mesh.sidecar("bank").await.argument("--transparent").refusal().await;
    assert!(why.contains("workload web") && why.contains("network namespace of its own"), "{why}");
    answered(cart, 200).await;

    // One that is killed leaves its rules; the next start removes them, and gives the same addresses.
    web.signal(rustix::process::Signal::KILL).expect("sent");
    until(
        || async { capture::owners().expect("owners").iter().map(capture::Owner::liveness).collect::<Vec<_>>() },
        |all| *all == [capture::Liveness::Gone],
    )
    .await;
    let web = setup.start().await;
    assert_eq!(until(|| resolve("cart.mesh"), Option::is_some).await, Some(address));
    answered(cart, 200).await;
    assert!(web.stop(PATIENCE).await.expect("it ends").success());
    assert_eq!(capture::owners().expect("owners"), []);

    // So does that of a sidecar that captures nothing, and that they would keep from the control plane.
    let web = setup.start().await;
    web.signal(rustix::process::Signal::KILL).expect("sent");
    until(
        || async { capture::owners().expect("owners").iter().map(capture::Owner::liveness).collect::<Vec<_>>() },
        |all| *all == [capture::Liveness::Gone],
    )
    .await;
    let bank = mesh.sidecar("bank").await.start().await;
    told(&bank, "removed the rules of a sidecar that was killed").await;
    assert_eq!(capture::owners().expect("owners"), []);
}

#[test]
fn a_namespace_with_loopback_alone_is_told_of() {
    const LONELY: &str = "transparent::a_namespace_with_loopback_alone_is_told_of";
    alone_with(LONELY, "ip link set lo up", None, || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mesh = Mesh::start("").await;
            let web = mesh.sidecar("web").await.argument("--transparent").start().await;
            told(&web, "no IPv4 route but over loopback").await;
        });
    });
}
