//! Proxies and their control plane are on different machines, and nothing gets through between them for longer than a lease.

use std::net::SocketAddr;

use transept_testkit::client::Request;

use crate::machines::{Machine, Way, with_machines};
use crate::outages::Shop;
use crate::stage::{Mesh, PATIENCE, send, until};

const TEST: &str = "partition::nothing_is_lost_while_nobody_reaches_the_control_plane";
const CONTROL: u16 = 9909;

/// What is told to proxies that hear nothing.
const POLICY: &str = "\
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: guard}
spec:
  targetRefs: [{group: \"\", kind: Service, name: cart}]
  deny: [{name: no-deletes, to: [{methods: [DELETE]}]}]
";

#[test]
fn nothing_is_lost_while_nobody_reaches_the_control_plane() {
    with_machines(TEST, None, || {
        let middle = Machine::middle();
        let ways = [Way::Both, Way::ToIt, Way::FromIt];
        // One mesh for each way that can be cut, all at the same time.
        let cut: Vec<_> = (1..).zip(ways).map(|(number, way)| (Machine::linked(number), way)).collect();
        std::thread::scope(|scope| {
            let running: Vec<_> =
                cut.iter().map(|(machine, way)| scope.spawn(|| endure(&middle, machine, *way))).collect();
            for one in running {
                one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
    });
}

/// Everything but the control plane is in the middle.
fn endure(middle: &Machine, far: &Machine, way: Way) {
    let mesh = far.run(Mesh::start_at(SocketAddr::new(far.address().into(), CONTROL), "", &[]));
    let shop = middle.run(Shop::start_at(&mesh, 2, Some(middle.address().into())));
    middle.run(shop.all(|mesh| mesh["registered"] == true));
    let crowd = middle.run(shop.open(PATIENCE / 120));
    far.cut(way);
    mesh.configure(POLICY);
    // All leases have ended, as the control plane sees it. It takes nobody out, because all fell silent together.
    let frozen = |status: &serde_json::Value| status["frozen"] == true;
    let status = middle.run(until(|| mesh.status(), frozen));
    assert_eq!(status["workloads"].as_array().map(Vec::len), Some(3), "{way:?}: {status}");
    middle.run(crowd.more());
    let mut delete = Request::get("cart", "/");
    delete.method = "DELETE".to_owned();
    let send = || send(shop.setup.local[0], &delete);
    // Who is only not heard may hear still.
    let status = middle.run(send()).expect("an answer").status;
    assert!(status == 200 || way == Way::ToIt, "{way:?}: {status}, it was not cut off");

    far.mend();
    // What they have missed reaches them, and they are alive again.
    middle.run(until(send, |answer| answer.as_ref().is_ok_and(|answer| answer.status == 403))).expect("an answer");
    middle.run(until(|| mesh.status(), |status| status["frozen"] == false));
    middle.run(crowd.more());
    middle.run(crowd.end()).is_clean();
}
