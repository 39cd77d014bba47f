//! Zones on the road: who is near comes first, and what happens when he fails.

use std::net::SocketAddr;

use crate::stage::{Caller, Gateway, Setup, Up};
use crate::traffic::Actor;

/// A Service with one endpoint in each zone, in slices that hint as told, and a route to it.
fn zoned(endpoints: &[(SocketAddr, &str, &str)]) -> String {
    let mut text = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: zoned}
spec:
  parentRefs: [{name: gate-0}]
  rules: [{matches: [{path: {value: /zoned}}], backendRefs: [{name: zoned, port: 80}]}]
---
{apiVersion: v1, kind: Service, metadata: {name: zoned}, spec: {ports: [{port: 80}]}}"
        .to_owned();
    for (at, zone, hint) in endpoints {
        let hints = if hint.is_empty() { String::new() } else { format!(", hints: {{forZones: [{{name: {hint}}}]}}") };
        text.push_str(&format!(
            "
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: in-{zone}, labels: {{kubernetes.io/service-name: zoned}}}}
addressType: IPv4
ports: [{{port: {}}}]
endpoints: [{{addresses: [{}], zone: {zone}{hints}}}]",
            at.port(),
            at.ip()
        ));
    }
    text
}

fn locality(lines: &str) -> String {
    format!(
        "\
apiVersion: transept.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: zoned}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: zoned}}]
  locality: {{failover: [b]}}
  {lines}"
    )
}

/// A gateway in zone a.
fn in_zone_a() -> Setup {
    let unused = SocketAddr::from(([127, 0, 0, 1], 9));
    Setup::of(&[unused], Up::Http1).argument("--zone=a")
}

/// The statuses of so many requests.
async fn statuses(gateway: &Gateway, count: usize) -> Vec<u16> {
    let mut caller = Caller::http11(gateway.address).await;
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(caller.get("/zoned").await.0);
    }
    statuses
}

#[tokio::test]
async fn requests_stay_in_the_zone_until_its_endpoint_is_ejected() {
    let (near, next, far) = (Actor::start().await, Actor::start().await, Actor::start().await);
    let slices = zoned(&[(far.address, "c", ""), (near.address, "a", ""), (next.address, "b", "")]);
    let outliers = "outlierDetection: {consecutiveErrors: 2, baseEjectionTime: 1h, maxEjectionTime: 2h}";
    let gateway = in_zone_a().document(&slices).document(&locality(outliers)).start().await;
    assert_eq!(statuses(&gateway, 20).await, [200; 20]);
    assert_eq!((near.heard(), next.heard(), far.heard()), (20, 0, 0));
    near.says(500);
    let after = statuses(&gateway, 20).await;
    assert_eq!(after.iter().filter(|status| **status == 500).count(), 2, "{after:?}");
    assert_eq!((near.heard(), next.heard(), far.heard()), (22, 18, 0));
}

#[tokio::test]
async fn requests_leave_the_zone_while_its_endpoint_is_unwell_and_come_back() {
    let (near, far) = (Actor::start().await, Actor::start().await);
    near.says(500);
    let slices = zoned(&[(near.address, "a", ""), (far.address, "b", "")]);
    let check = "healthCheck: {path: /health, interval: 100ms, healthyThreshold: 1}";
    let gateway = in_zone_a().document(&slices).document(&locality(check)).start().await;
    crate::traffic::one_is_well_and_one_is_not(&gateway).await;
    assert_eq!(statuses(&gateway, 10).await, [200; 10]);
    assert_eq!((near.heard(), far.heard()), (0, 10));
    near.says(200);
    let mut caller = Caller::http11(gateway.address).await;
    crate::stage::soon(async { while caller.get("/zoned").await.1 != near.name().into_bytes() {} }).await;
    let before = far.heard();
    assert_eq!(statuses(&gateway, 10).await, [200; 10]);
    assert_eq!(far.heard(), before);
}

#[tokio::test]
async fn hints_of_slices_hold_while_all_give_one_and_no_policy_says_otherwise() {
    let (near, far) = (Actor::start().await, Actor::start().await);
    // What counts is the zone that an endpoint is for, not the one that it is in.
    let both = zoned(&[(near.address, "b", "a"), (far.address, "a", "b")]);
    let setup = in_zone_a();
    let mut gateway = setup.clone().document(&both).start().await;
    assert_eq!(statuses(&gateway, 10).await, [200; 10]);
    assert_eq!((near.heard(), far.heard()), (10, 0));
    gateway.reload(&setup.clone().document(&both).document(&locality("connectTimeout: 2s"))).await;
    assert_eq!(statuses(&gateway, 10).await, [200; 10]);
    assert_eq!((near.heard(), far.heard()), (10, 10));
    let one = zoned(&[(near.address, "b", "a"), (far.address, "a", "")]);
    gateway.reload(&setup.document(&one)).await;
    assert_eq!(statuses(&gateway, 40).await, [200; 40]);
    assert!(near.heard() > 10 && far.heard() > 10, "{} {}", near.heard(), far.heard());
}
