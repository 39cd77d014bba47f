//! A headless Service whose instances have addresses outside the private ranges. By its name it is called in tunnels all the same: every
//! address that a name is answered with is captured.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use transept_testkit::echo::{Port, Serving};
use transept_testkit::launch::Running;

use crate::instances::{addresses, seen};
use crate::machines::{Machine, with_machines};
use crate::stage::{Mesh, PATIENCE, program, until};
use crate::wiretap::{Wiretap, occurs};

const TEST: &str = "public::a_headless_service_is_called_in_tunnels_wherever_its_instances_are";
const CONTROL: u16 = 9909;

const CART: &str = "\
{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {clusterIP: None, ports: [{port: 80}]}}
---
# From these addresses no instance reaches the control plane, so it cannot show itself that it is there.
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-v4, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
endpoints: [{addresses: [203.0.113.1]}]
ports: [{}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-v6, labels: {kubernetes.io/service-name: cart}}
addressType: IPv6
endpoints: [{addresses: ['2001:db8::2']}]
ports: [{}]
---
apiVersion: transept.dev/v1alpha1
kind: MeshPolicy
metadata: {name: cart}
spec: {targetRefs: [{group: '', kind: Service, name: cart}], mode: Strict}
";

/// An instance of cart on a machine of its own, under an address that it has besides.
struct Placed {
    _machine: Machine,
    _program: Serving,
    _sidecar: Running,
}

fn place(mesh: &Mesh, middle: &Machine, number: u8, address: &str, length: u8) -> Placed {
    let machine = Machine::linked(number);
    machine.also(&format!("{address}/{length}"));
    let program = machine.run(program("cart", Port::Http1));
    let setup = middle.run(mesh.instance("cart", &format!("cart-{number}")));
    let setup =
        setup.argument(format!("--address={address}")).argument(format!("--port=80:{}", program.address.port()));
    let sidecar = machine.run(setup.start());
    Placed { _machine: machine, _program: program, _sidecar: sidecar }
}

#[test]
fn a_headless_service_is_called_in_tunnels_wherever_its_instances_are() {
    with_machines(TEST, None, || {
        let middle = Machine::middle();
        let tap = Wiretap::begin();
        let mesh = middle.run(Mesh::start_at(SocketAddr::new(middle.address().into(), CONTROL), CART, &[]));
        let _carts = [place(&mesh, &middle, 1, "203.0.113.1", 24), place(&mesh, &middle, 2, "2001:db8::2", 64)];
        let web = Machine::linked(9);
        web.also("203.0.113.9/24");
        web.also("2001:db8::9/64");
        let setup = middle.run(mesh.instance("web", "web")).argument("--transparent");
        let all: BTreeSet<IpAddr> = ["203.0.113.1", "2001:db8::2"].map(|one| one.parse().expect("an address")).into();
        for instances_in in ["10.0.0.0/8", "none"] {
            let sidecar = web.run(setup.clone().argument(format!("--instances-in={instances_in}")).start());
            web.run(until(|| addresses("cart.default.svc.cluster.local"), |found| *found == all));
            for address in &all {
                let echo = web.run(seen(SocketAddr::new(*address, 80), "/geheim-path"));
                let echo = echo.unwrap_or_else(|why| panic!("{instances_in} {address}: {why}\n{}", sidecar.log()));
                let said = echo.header("x-forwarded-client-cert").expect("an identity");
                assert!(said.contains("URI=spiffe://transept.local/ns/default/sa/web"), "{said}");
            }
            assert!(web.run(sidecar.stop(PATIENCE)).expect("it ends").success());
        }
        assert!(!occurs(b"geheim", &tap.end().frames));
    });
}
