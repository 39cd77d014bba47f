//! Objects of the files that speak of a Service that exists by registration alone: their status is what is in force.

use transept_testkit::echo::Port;

use crate::stage::{Mesh, PATIENCE, program, until};

const OBJECTS: &str = "\
{apiVersion: v1, kind: Service, metadata: {name: api}, spec: {ports: [{name: http, port: 80}, {name: mail, port: 25}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: misc}
spec:
  parentRefs: [{group: '', kind: Service, name: misc, port: 2525}]
  rules: [{backendRefs: [{name: api, port: 25}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api}
spec:
  parentRefs: [{group: '', kind: Service, name: api, port: 80}]
  rules: [{backendRefs: [{name: misc, port: 2525}]}]
---
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: misc}
spec:
  targetRefs: [{group: '', kind: Service, name: misc}]
  allow: [{name: nobody, from: [{identities: [default/nobody]}]}]
";

const REASONS: [&str; 3] = ["NoMatchingParent", "BackendNotFound", "TargetNotFound"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_of_objects_knows_services_that_only_registrations_mention() {
    let mesh = Mesh::start(OBJECTS).await;
    let said = || async { mesh.transept(&["mesh", "status", "--objects"]).await };
    let lacks = |said: &String| REASONS.iter().all(|reason| said.contains(reason));
    until(said, lacks).await;
    let misc_program = program("misc-1", Port::Http1).await;
    let misc = mesh.sidecar("misc").await.port(2525, misc_program.address, "").start().await;
    let knows = |said: &String| said.contains("Accepted") && !REASONS.iter().any(|reason| said.contains(reason));
    until(said, knows).await;
    assert!(misc.stop(PATIENCE).await.expect("it ends").success());
    until(said, lacks).await;
}
