//! Calls of an instance by its own address, each instance on a machine of its own: by the names of a headless Service, and by the bare
//! address. They take the tunnel to exactly this instance, and somebody who listens on the link hears nothing.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;
use transept_testkit::client::Request;
use transept_testkit::echo::{Echo, Port, Serving};
use transept_testkit::launch::Running;

use crate::machines::{Machine, with_machines};
use crate::stage::{Mesh, program, repeater, say, send, soon, until};
use crate::wiretap::{Wiretap, occurs};

const TEST: &str = "instances::a_call_of_an_instances_own_address_takes_its_tunnel";
const CONTROL: u16 = 9909;
const TUNNELS: u16 = 15008;

const CART: &str = "\
{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {clusterIP: None, ports: [{name: http, port: 80}, {name: mail, port: 25}]}}
---
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: cart}
spec:
  targetRefs: [{group: '', kind: Service, name: cart}]
  allow: [{name: web, from: [{identities: [default/web]}]}]
---
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: secrets}
spec:
  targetRefs: [{group: '', kind: Service, name: cart, sectionName: http}]
  deny: [{name: secrets, to: [{paths: [/secret]}]}]
";

/// An instance of cart on a machine of its own, with a program of HTTP and one that speaks first.
struct Placed {
    machine: Machine,
    http: Serving,
    mail: SocketAddr,
    _sidecar: Running,
}

fn place(mesh: &Mesh, middle: &Machine, number: u8, name: &'static str) -> Placed {
    let machine = Machine::linked(number);
    let (http, mail) = machine.run(async { (program(name, Port::Http1).await, repeater("220 ready\r\n").await) });
    let setup = middle.run(mesh.instance("cart", name));
    let ports = [(80, http.address), (25, mail)];
    let setup =
        ports.iter().fold(setup, |setup, (port, program)| setup.argument(format!("--port={port}:{}", program.port())));
    let sidecar = machine.run(setup.argument("--transparent").start());
    Placed { machine, http, mail, _sidecar: sidecar }
}

/// What the program saw that answers a request.
pub(crate) async fn seen(at: SocketAddr, path: &str) -> Result<Echo, String> {
    let answer = send(at, &Request::get("anybody", path)).await?;
    Echo::parse(&answer.body).ok_or_else(|| format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)))
}

/// The addresses of a name, as programs find them.
#[expect(clippy::disallowed_methods, reason = "the resolver of the system is what is tested")]
pub(crate) async fn addresses(name: &str) -> BTreeSet<IpAddr> {
    let found = tokio::net::lookup_host((name, 80)).await.map(|all| all.map(|one| one.ip()).collect());
    found.unwrap_or_default()
}

#[test]
fn a_call_of_an_instances_own_address_takes_its_tunnel() {
    with_machines(TEST, None, || {
        let middle = Machine::middle();
        let tap = Wiretap::begin();
        let control = SocketAddr::new(middle.address().into(), CONTROL);
        let mut mesh = middle.run(Mesh::start_at(control, CART, &["--report-interval=200ms"]));
        let carts = [place(&mesh, &middle, 1, "cart-0"), place(&mesh, &middle, 2, "cart-1")];
        let web = Machine::linked(9);
        let setup = middle.run(mesh.instance("web", "web")).argument("--transparent");
        let sidecar = web.run(setup.start());
        let at = |cart: &Placed, port: u16| SocketAddr::new(cart.machine.address().into(), port);
        let told = |log: &Running| log.log();

        // The very first call of an address waits until it is known whose it is.
        for (cart, name) in carts.iter().zip(["cart-0", "cart-1"]) {
            let http = at(cart, cart.http.address.port());
            for _ in 0..5 {
                let echo =
                    web.run(seen(http, "/geheim-path")).unwrap_or_else(|why| panic!("{why}\n{}", told(&sidecar)));
                assert_eq!(echo.pod, name, "nobody else");
                let said = echo.header("x-forwarded-client-cert").expect("an identity");
                assert!(said.contains("URI=spiffe://transept.local/ns/default/sa/web"), "{said}");
            }
            // By the port of the Service as well, because that is what a name of the Service is called with.
            assert_eq!(web.run(seen(at(cart, 80), "/")).expect("an answer").pod, name);
            let mail = at(cart, cart.mail.port());
            web.run(async {
                let mut stream = soon(TcpStream::connect(mail)).await.expect("connected");
                say(&mut stream, "", "220 ready\r\n").await;
                say(&mut stream, "HELO geheim\r\n", "HELO geheim\r\n").await;
            });
        }
        let denied = web.run(send(at(&carts[0], 80), &Request::get("cart", "/secret"))).expect("an answer");
        assert_eq!(denied.status, 403, "the policies of the called side apply");

        // Names: of one instance, and of all of them.
        let both: BTreeSet<IpAddr> = carts.iter().map(|cart| cart.machine.address().into()).collect();
        let one = BTreeSet::from([IpAddr::from(carts[1].machine.address())]);
        web.run(async {
            until(|| addresses("cart.default.svc.cluster.local"), |found| *found == both).await;
            until(|| addresses("cart-1.cart.default.svc.cluster.local"), |found| *found == one).await;
        });

        // Both ends report the edge, and nobody else is on it.
        let edge = |graph: &serde_json::Value| {
            let edges = graph["edges"].as_array().cloned().unwrap_or_default();
            edges.iter().any(|edge| edge["source"] == "default/web" && edge["destination"] == "default/cart")
        };
        middle.run(until(|| mesh.graph(), edge));

        // Somebody outside the mesh is reached as ever, also one who is called for the first time while there is no control plane.
        let stranger = middle.run(program("stranger", Port::Http1));
        let forwarding = middle.run(lead_on(SocketAddr::new(middle.address().into(), 0), stranger.address));
        let echo = web.run(seen(forwarding, "/offen-path")).expect("an answer");
        assert_eq!((echo.pod.as_str(), echo.header("x-forwarded-client-cert")), ("stranger", None));
        middle.run(mesh.kill_control());
        let other = Machine::linked(7);
        let far = other.run(program("other", Port::Http1));
        let forwarding = other.run(lead_on(SocketAddr::new(other.address().into(), 0), far.address));
        let alone = || seen(forwarding, "/offen-path");
        web.run(until(alone, |echo| echo.as_ref().is_ok_and(|echo| echo.pod == "other"))).expect("an answer");
        assert_eq!(web.run(seen(at(&carts[1], 80), "/geheim-path")).expect("an answer").pod, "cart-1");

        let heard = tap.end();
        assert!(occurs(b"offen-path", &heard.frames), "what is not protected is heard");
        assert!(!occurs(b"geheim", &heard.frames));
        for (from, to) in heard.streams.keys() {
            let is_cart = |address: &std::net::Ipv4Addr| carts.iter().any(|cart| cart.machine.address() == *address);
            let is_web = |address: &std::net::Ipv4Addr| web.address() == *address;
            let between = is_web(from.ip()) && is_cart(to.ip()) || is_cart(from.ip()) && is_web(to.ip());
            assert!(!between || [from.port(), to.port()].contains(&TUNNELS), "{from} {to}");
        }
        drop((sidecar, carts));
    });
}

/// A port of an address that others reach, whose connections go on to a program.
pub(crate) async fn lead_on(here: SocketAddr, program: SocketAddr) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind(here).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut to = TcpStream::connect(program).await?;
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    address
}
