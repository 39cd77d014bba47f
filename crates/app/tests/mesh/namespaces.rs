//! What a policy says of a whole namespace holds for every Service in it, also for one that only registrations mention, and from the first request on.

use rustix::process::Signal;
use transept_testkit::echo::Port;
use transept_testkit::launch::unused_address;

use crate::stage::{Mesh, answered, program, soon, until};

/// Closed but for `web`.
const CLOSED: &str = "\
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: closed}
spec:
  targetRefs: [{group: '', kind: Namespace, name: default}]
  allow: [{name: web, from: [{identities: [default/web]}]}]
---
apiVersion: transept.dev/v1alpha1
kind: MeshPolicy
metadata: {name: closed}
spec: {targetRefs: [{group: '', kind: Namespace, name: default}], mode: Strict}
";

/// What a sidecar keeps on its disk.
fn kept(mesh: &Mesh, name: &str) -> String {
    std::fs::read_to_string(mesh.path(&format!("{name}.state/configuration"))).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_on_a_namespace_holds_for_services_that_only_registrations_mention() {
    let mut mesh = Mesh::start(CLOSED).await;
    let behind = program("misc-1", Port::Http1).await;
    let tunnels = unused_address().expect("an address");
    let misc = mesh.sidecar("misc").await.at(tunnels).port(80, behind.address, "");
    let (web, desk) = (mesh.sidecar("web").await.upstream("misc"), mesh.sidecar("desk").await.upstream("misc"));
    let (mut running, _web, _desk) = (misc.start().await, web.start().await, desk.start().await);
    answered(web.local[0], 200).await;
    answered(desk.local[0], 403).await;
    let line = soon(running.log_line_with("\"status\":403")).await;
    assert!(line.contains("AuthorizationPolicy default/closed, no rule allows it"), "{line}");
    let both = |text: &String| ["AuthorizationPolicy", "MeshPolicy"].iter().all(|kind| text.contains(kind));
    until(|| async { kept(&mesh, "desk") }, both).await;

    // A policy on the Service adds to it, and a rule of the namespace that denies is not taken back by it.
    let own = "\
---
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: own}
spec:
  targetRefs: [{group: '', kind: Service, name: misc}]
  allow: [{name: desk, from: [{identities: [default/desk]}]}]
";
    mesh.configure(&format!("{CLOSED}{own}"));
    answered(desk.local[0], 200).await;
    answered(web.local[0], 200).await;
    until(|| async { kept(&mesh, "misc") }, |text| text.contains("/own\"")).await;
    let denied = CLOSED.replace("  allow: [{name: web,", "  deny: [{name: web,");
    mesh.configure(&format!("{denied}{own}"));
    answered(web.local[0], 403).await;
    answered(desk.local[0], 200).await;

    // It is known after a restart without a control plane, before anything else is.
    mesh.configure(CLOSED);
    answered(desk.local[0], 403).await;
    until(|| async { kept(&mesh, "misc") }, |text| text.contains("/closed\"") && !text.contains("/own\"")).await;
    mesh.kill_control().await;
    running.signal(Signal::KILL).expect("sent");
    soon(running.ended()).await.expect("it ends");
    let _running = misc.start().await;
    answered(desk.local[0], 403).await;
    answered(web.local[0], 200).await;
}
