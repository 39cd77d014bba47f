//! Attachment by small worlds: one rule of Gateway API each.

// `object!` makes public types, as configuration types are.
#![allow(unreachable_pub)]

use std::time::{Duration, Instant};

use super::*;
use crate::load::load;
use crate::place::SourceText;
use crate::policy::{Merge, PolicyKind, Target};
use crate::status::{Condition, Conditions};

crate::object! {
    /// A policy of the tests.
    pub struct TestSpec {
        /// Anything.
        value: Option<u32>;
    }
}

const TARGETS: &[Target] = &[Target::Gateway, Target::Listener, Target::Route, Target::Rule];

const KINDS: &[PolicyKind] = &[
    PolicyKind::of::<TestSpec>("DirectPolicy", "One a target.", TARGETS, Merge::None),
    PolicyKind::of::<TestSpec>("LayeredPolicy", "Merges.", TARGETS, Merge::PatchDefaults),
];

fn attached_in(text: &str, surroundings: &Surroundings) -> Attached {
    let loaded = load(&[SourceText::new("world.yaml", text)], KINDS);
    assert!(loaded.invalid.is_empty(), "{:#?}", loaded.invalid);
    attach(&loaded.world, surroundings)
}

fn attached(text: &str) -> Attached {
    attached_in(text, &Surroundings::default())
}

fn reason<'a>(conditions: &'a Conditions, kind: &str) -> (&'a str, &'a str) {
    let found: &Condition = conditions.find(kind).unwrap();
    (found.status.as_str(), &found.reason)
}

fn route_reason<'a>(attached: &'a Attached, kind: &str, name: &str) -> (&'a str, &'a str) {
    let status = attached.status.route(kind, "default", name).unwrap();
    reason(&status.parents[0].conditions, "Accepted")
}

fn listener<'a>(attached: &'a Attached, gateway: &str, name: &str) -> &'a Conditions {
    let status = attached.status.gateway("default", gateway).unwrap();
    &status.listener(name).unwrap().conditions
}

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  listeners:
  - {name: http, port: 8080, protocol: HTTP}
";

const SERVICE: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: cart}
spec: {ports: [{port: 80}]}
";

fn route(kind: &str, name: &str, rest: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}}}
spec:
  rules: [{{backendRefs: [{{name: cart, port: 80}}]}}]
{rest}"
    )
}

#[test]
fn a_route_without_names_gets_those_of_the_listener() {
    let world = GATEWAY.replace("protocol: HTTP}", "protocol: HTTP, hostname: '*.shop.test'}");
    let world = format!("{world}{SERVICE}{}", route("HTTPRoute", "cart", "  parentRefs: [{name: web}]"));
    let attached = attached(&world);
    let listener = &attached.gateways[0].listeners[0];
    assert!(listener.serving);
    assert_eq!(listener.routes.len(), 1);
    assert_eq!(listener.routes[0].hostnames[0].as_str(), "*.shop.test");
    assert!(attached.problems.is_empty(), "{:#?}", attached.problems);
    assert_eq!(attached.gateways[0].addresses, [IpAddr::V4(Ipv4Addr::UNSPECIFIED)]);
}

#[test]
fn a_route_with_two_parents_on_one_listener_counts_once() {
    let parents = "  parentRefs: [{name: web, port: 8080}, {name: web, port: 8081}]";
    let world = format!("{GATEWAY}{SERVICE}{}", route("HTTPRoute", "cart", parents));
    let attached = attached(&world);
    let status = attached.status.route("HTTPRoute", "default", "cart").unwrap();
    assert_eq!(reason(&status.parents[0].conditions, "Accepted"), ("True", "Accepted"));
    assert_eq!(reason(&status.parents[1].conditions, "Accepted"), ("False", "NoMatchingParent"));
    let gateway = attached.status.gateway("default", "web").unwrap();
    assert_eq!(gateway.listeners[0].attached_routes, 1);
    assert_eq!(attached.problems.len(), 1);
    assert_eq!(attached.problems[0].field, "spec.parentRefs[1]");
    assert!(attached.problems[0].line.is_some());
}

#[test]
fn a_dangling_parent_is_reported_and_named() {
    let world = format!("{GATEWAY}{SERVICE}{}", route("HTTPRoute", "cart", "  parentRefs: [{name: wep}]"));
    let attached = attached(&world);
    assert_eq!(route_reason(&attached, "HTTPRoute", "cart"), ("False", "NoMatchingParent"));
    assert_eq!(attached.problems[0].remedy.as_deref(), Some("did you mean web?"));
}

#[test]
fn one_name_is_not_served_by_both_kinds_of_routes() {
    let parents = "  parentRefs: [{name: web}]\n  hostnames: [a.shop.test]";
    let wild = "  parentRefs: [{name: web}]\n  hostnames: ['*.shop.test']";
    let other = "  parentRefs: [{name: web}]\n  hostnames: [shop.test]";
    let world = format!(
        "{GATEWAY}{SERVICE}{}{}{}",
        route("HTTPRoute", "old", parents),
        route("GRPCRoute", "young", wild),
        route("GRPCRoute", "apart", other),
    );
    let attached = attached(&world);
    assert_eq!(route_reason(&attached, "HTTPRoute", "old"), ("True", "Accepted"));
    assert_eq!(route_reason(&attached, "GRPCRoute", "young"), ("False", "HostnameConflict"));
    assert_eq!(route_reason(&attached, "GRPCRoute", "apart"), ("True", "Accepted"));
}

#[test]
fn listeners_that_cannot_be_told_apart_all_lose() {
    let world = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  listeners:
  - {name: plain, port: 8080, protocol: HTTP}
  - {name: secure, port: 8080, protocol: HTTPS, tls: {certificateRefs: [{name: none}]}}
  - {name: other, port: 8081, protocol: HTTP}
  - {name: udp, port: 8081, protocol: UDP}
  - {name: web, port: 8082, protocol: HTTP}
  - {name: tcp, port: 8082, protocol: TCP}
";
    let attached = attached(world);
    for name in ["plain", "secure", "web", "tcp"] {
        let conditions = listener(&attached, "web", name);
        assert_eq!(reason(conditions, "Accepted"), ("False", "ProtocolConflict"));
        assert_eq!(reason(conditions, "Conflicted"), ("True", "ProtocolConflict"));
        assert_eq!(reason(conditions, "Programmed"), ("False", "Invalid"));
    }
    assert_eq!(reason(listener(&attached, "web", "other"), "Programmed"), ("True", "Programmed"));
    assert_eq!(reason(listener(&attached, "web", "udp"), "Accepted"), ("False", "UnsupportedProtocol"));
    let gateway = attached.status.gateway("default", "web").unwrap();
    assert_eq!(reason(&gateway.conditions, "Accepted"), ("True", "ListenersNotValid"));
}

#[test]
fn tcp_routes_attach_to_tcp_listeners_and_to_nothing_else() {
    let world = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  listeners:
  - {name: http, port: 8080, protocol: HTTP}
  - {name: tcp, port: 5432, protocol: TCP}
  - {name: odd, port: 5433, protocol: TCP, allowedRoutes: {kinds: [{kind: TCPRoute}, {kind: HTTPRoute}]}}
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: db}
spec:
  parentRefs: [{name: web}]
  rules: [{backendRefs: [{name: db, port: 5432}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: second}
spec:
  parentRefs: [{name: web, port: 5432}]
  rules: [{backendRefs: [{name: db, port: 5432}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: lost}
spec:
  parentRefs: [{name: web, sectionName: http}]
  rules: [{backendRefs: [{name: db, port: 5432}]}]
---
{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {ports: [{port: 5432, appProtocol: kubernetes.io/wss}]}}
";
    let attached = attached(world);
    let gateway = attached.status.gateway("default", "web").unwrap();
    let counts: Vec<_> = gateway.listeners.iter().map(|one| (one.attached_routes, &*one.supported_kinds)).collect();
    assert_eq!(counts, [(0, &["HTTPRoute", "GRPCRoute"][..]), (2, &["TCPRoute"][..]), (1, &["TCPRoute"][..])]);
    assert_eq!(reason(listener(&attached, "web", "odd"), "ResolvedRefs"), ("False", "InvalidRouteKinds"));
    for (name, accepted) in [("db", "Accepted"), ("second", "Accepted"), ("lost", "NotAllowedByListeners")] {
        let status = attached.status.route("TCPRoute", "default", name).unwrap();
        assert_eq!(reason(&status.parents[0].conditions, "Accepted").1, accepted, "{name}");
        assert_eq!(reason(&status.parents[0].conditions, "ResolvedRefs").0, "True", "{name}");
    }
    let tcp = &attached.gateways[0].listeners[1];
    let order: Vec<&str> = tcp.routes.iter().map(|one| &*one.route.meta().name).collect();
    assert_eq!((tcp.serving, order), (true, vec!["db", "second"]));
}

#[test]
fn the_older_gateway_keeps_the_port() {
    let second = GATEWAY.replace("name: web", "name: late");
    let third =
        second.replace("name: late", "name: apart").replace("protocol: HTTP}", "protocol: HTTP, hostname: a.test}");
    let attached = attached(&format!("{GATEWAY}---{second}---{third}"));
    assert_eq!(reason(listener(&attached, "web", "http"), "Accepted"), ("True", "Accepted"));
    assert_eq!(reason(listener(&attached, "late", "http"), "Accepted"), ("False", "PortUnavailable"));
    assert_eq!(reason(listener(&attached, "apart", "http"), "Accepted"), ("True", "Accepted"));
}

#[test]
fn gateways_of_other_controllers_are_left_alone() {
    let class = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: theirs}
spec: {controllerName: example.com/gateway}
---";
    let theirs = GATEWAY.replace("spec:\n", "spec:\n  gatewayClassName: theirs\n");
    let lost = GATEWAY.replace("name: web", "name: lost").replace("spec:\n", "spec:\n  gatewayClassName: nobodys\n");
    let world =
        format!("{class}{theirs}---{lost}{SERVICE}{}", route("HTTPRoute", "cart", "  parentRefs: [{name: web}]"));
    let attached = attached(&world);
    assert!(attached.gateways.is_empty());
    assert!(attached.status.gateway("default", "web").is_none());
    let lost = attached.status.gateway("default", "lost").unwrap();
    assert_eq!(reason(&lost.conditions, "Accepted"), ("Unknown", "Pending"));
    let route = attached.status.route("HTTPRoute", "default", "cart").unwrap();
    assert!(route.parents.is_empty());
}

#[test]
fn a_route_that_asks_for_default_gateways_gets_them() {
    let gateway = GATEWAY.replace("spec:\n", "spec:\n  defaultScope: All\n");
    let world = format!(
        "{gateway}---{}{SERVICE}{}",
        GATEWAY.replace("name: web", "name: other").replace("8080", "8081"),
        route("HTTPRoute", "cart", "  useDefaultGateways: All")
    );
    let attached = attached(&world);
    let status = attached.status.route("HTTPRoute", "default", "cart").unwrap();
    assert_eq!(status.parents.len(), 1);
    assert_eq!(status.parents[0].parent_ref.name, "web");
    assert_eq!(reason(&status.parents[0].conditions, "Accepted"), ("True", "Accepted"));
}

#[test]
fn addresses_that_cannot_be_used_are_left_out() {
    let world = GATEWAY.replace(
        "spec:\n",
        "spec:\n  addresses: [{value: 127.0.0.1}, {value: 192.0.2.1}, {type: Hostname, value: shop.test}]\n",
    );
    let mut surroundings = Surroundings::default();
    let away = "192.0.2.1".parse().unwrap();
    surroundings.unusable.insert(away, "it is not of this machine".to_owned());
    let attached = attached_in(&world, &surroundings);
    assert_eq!(attached.gateways[0].addresses, [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    let status = attached.status.gateway("default", "web").unwrap();
    assert_eq!(reason(&status.conditions, "Programmed"), ("False", "AddressNotUsable"));
    let shown: Vec<_> = status.addresses.iter().map(|a| a.value.as_str()).collect();
    assert_eq!(shown, ["127.0.0.1", "shop.test"]);
}

#[test]
fn sockets_that_do_not_open_are_told() {
    let world = GATEWAY.replace("spec:\n", "spec:\n  addresses: [{value: 127.0.0.1}, {value: 127.0.0.2}]\n")
        + "  - {name: more, port: 8081, protocol: HTTP}\n";
    let attached = attached(&world);
    let socket = |text: &str| (text.parse().unwrap(), "it is taken".to_owned());

    let attached = Settled::from(attached);
    let one = attached.status_after(&[socket("127.0.0.1:8080")]);
    let gateway = one.gateway("default", "web").unwrap();
    assert!(gateway.conditions.holds("Programmed"));
    assert!(gateway.listener("http").unwrap().conditions.holds("Programmed"));

    let both = attached.status_after(&[socket("127.0.0.1:8080"), socket("127.0.0.2:8080")]);
    let gateway = both.gateway("default", "web").unwrap();
    assert!(gateway.conditions.holds("Programmed"));
    assert!(!gateway.listener("http").unwrap().conditions.holds("Programmed"));
    assert_eq!(gateway.addresses.len(), 2);

    let address = attached.status_after(&[socket("127.0.0.1:8080"), socket("127.0.0.1:8081")]);
    let gateway = address.gateway("default", "web").unwrap();
    assert_eq!(reason(&gateway.conditions, "Programmed"), ("False", "AddressNotUsable"));
    assert_eq!(gateway.addresses.len(), 1);
    assert!(gateway.listener("http").unwrap().conditions.holds("Programmed"));
}

#[test]
fn policies_find_their_targets_and_the_oldest_wins() {
    let policy = |kind: &str, name: &str, target: &str| {
        format!(
            "
---
apiVersion: transept.dev/v1alpha1
kind: {kind}
metadata: {{name: {name}}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, {target}}}]
"
        )
    };
    let world = format!(
        "{GATEWAY}{SERVICE}{}{}{}{}{}{}{}{}",
        route("HTTPRoute", "cart", "  parentRefs: [{name: web}]"),
        policy("DirectPolicy", "b-first", "kind: Gateway, name: web"),
        policy("DirectPolicy", "a-second", "kind: Gateway, name: web"),
        policy("LayeredPolicy", "one", "kind: Gateway, name: web, sectionName: http"),
        policy("LayeredPolicy", "two", "kind: Gateway, name: web, sectionName: http"),
        policy("LayeredPolicy", "of-route", "kind: HTTPRoute, name: cart"),
        policy("LayeredPolicy", "lost", "kind: HTTPRoute, name: cart, sectionName: none"),
        policy("LayeredPolicy", "unlike", "kind: Gateway, name: web, sectionName: secure"),
    );
    let attached = attached(&world);
    let accepted = |kind: &str, name: &str| {
        let status = attached.status.policy(kind, "default", name).unwrap();
        let ancestor = &status.ancestors[0];
        let (_, reason) = reason(&ancestor.conditions, "Accepted");
        (ancestor.ancestor_ref.name.to_string(), reason.to_owned())
    };
    let gateway = |reason: &str| ("web".to_owned(), reason.to_owned());
    assert_eq!(accepted("DirectPolicy", "b-first"), gateway("Accepted"));
    assert_eq!(accepted("DirectPolicy", "a-second"), gateway("Conflicted"));
    assert_eq!(accepted("LayeredPolicy", "one"), gateway("Accepted"));
    assert_eq!(accepted("LayeredPolicy", "two"), gateway("Accepted"));
    assert_eq!(accepted("LayeredPolicy", "of-route"), gateway("Accepted"));
    assert_eq!(accepted("LayeredPolicy", "lost"), ("cart".to_owned(), "TargetNotFound".to_owned()));
    let open = "there is no HTTPRoute default/cart with a part named none; the whole of it is without this LayeredPolicy (none of its parts has a name)";
    assert!(attached.problems.iter().any(|problem| problem.why == open), "{:?}", attached.problems);
    let unlike = "the whole of it is without this LayeredPolicy (its parts: http)";
    assert!(attached.problems.iter().any(|problem| problem.why.ends_with(unlike)), "{:?}", attached.problems);
    let names: Vec<_> = attached.policies.iter().map(|attachment| attachment.policy.meta.name.as_str()).collect();
    assert_eq!(names, ["b-first", "one", "two", "of-route"]);
    let listener = PolicyTarget::Listener { namespace: "default".into(), gateway: "web".into(), name: "http".into() };
    let on = |kind| attached.policies_on(kind, &listener).len();
    assert_eq!((on("LayeredPolicy"), on("DirectPolicy")), (2, 0));
}

#[test]
fn what_is_missing_in_a_part_of_the_world_is_no_problem_there() {
    let text = "\
{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: shop}, spec: {parentRefs: [
  {group: '', kind: Service, name: cart}, {group: '', kind: Service, name: bank}, {name: web}]}}
---
{apiVersion: transept.dev/v1alpha1, kind: DirectPolicy, metadata: {name: p}, spec: {targetRefs: [
  {group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}, {group: gateway.networking.k8s.io, kind: HTTPRoute, name: other}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {name: tls}, spec: {targetRefs: [
  {group: '', kind: Service, name: cart, sectionName: SECTION}, {group: '', kind: Service, name: bank}],
  validation: {hostname: cart.test, wellKnownCACertificates: System}}}
";
    let problems = |section: &str, extent: Extent| -> Vec<String> {
        let surroundings = Surroundings { extent, ..Surroundings::default() };
        let attached = attached_in(&text.replace("SECTION", section), &surroundings);
        attached.problems.iter().map(|problem| problem.why.clone()).collect()
    };
    assert_eq!(problems("http", Extent::Part), [""; 0]);
    let all = problems("http", Extent::Whole);
    for missing in ["Service default/bank", "Gateway default/web", "HTTPRoute default/other"] {
        assert!(all.iter().any(|why| why.contains(&format!("there is no {missing}"))), "{missing}: {all:?}");
    }
    // What is there, but not as it is meant, is known here as well as anywhere.
    let wrong = problems("htp", Extent::Part);
    assert!(matches!(wrong.as_slice(), [why] if why.contains("with a port named htp")), "{wrong:?}");
}

#[test]
fn one_gateway_is_served_and_what_belongs_to_others_is_no_problem() {
    let gateway = |name: &str| {
        let spec = "{gatewayClassName: transept, listeners: [{name: http, protocol: HTTP, port: 8080}]}";
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}}}, spec: {spec}}}\n---\n"
        )
    };
    let rest = "\
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: shop}, spec: {parentRefs: [{name: edge}, {name: inner}]}}
---
{apiVersion: transept.dev/v1alpha1, kind: DirectPolicy, metadata: {name: p}, spec: {targetRefs: [
  {group: gateway.networking.k8s.io, kind: Gateway, name: inner}, {group: gateway.networking.k8s.io, kind: HTTPRoute, name: other}]}}
";
    let served = |text: &str, name: &str| {
        let gateway = Some(("default".into(), name.into()));
        let attached = attached_in(text, &Surroundings { gateway, ..Surroundings::default() });
        let names: Vec<String> = attached.gateways.iter().map(|one| one.gateway.meta.name.to_string()).collect();
        (names, attached.problems.iter().map(|problem| problem.why.clone()).collect::<Vec<_>>())
    };
    // A route without parents stays at the control plane where there are several Gateways, and so the policies on it may.
    for text in [gateway("edge") + rest, gateway("edge") + &gateway("inner") + rest] {
        assert_eq!(served(&text, "edge"), (vec!["edge".to_owned()], Vec::<String>::new()));
        assert_eq!(served(&text, "lost").0, [""; 0]);
    }
    // The one that nobody wrote is everybody's.
    let bare = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: shop}, spec: {}}";
    assert_eq!(served(bare, "edge").0, ["default"]);
}

#[test]
fn many_routes_attach_in_time() {
    let mut world = String::new();
    for gateway in 0..10 {
        world += &GATEWAY.replace("name: web", &format!("name: web-{gateway}"));
        world = world.replace("port: 8080", &format!("port: {}", 9000 + gateway)) + "---";
    }
    world += SERVICE;
    for number in 0..1_000 {
        let rest = format!("  parentRefs: [{{name: web-{}}}]\n  hostnames: [r{number}.shop.test]", number % 10);
        let kind = if number % 2 == 0 { "HTTPRoute" } else { "GRPCRoute" };
        world += &route(kind, &format!("r{number}"), &rest);
    }
    let loaded = load(&[SourceText::new("world.yaml", world)], KINDS);
    assert!(loaded.invalid.is_empty(), "{:#?}", loaded.invalid);
    let start = Instant::now();
    let attached = attach(&loaded.world, &Surroundings::default());
    // Far above what it takes even without optimisation; comparing routes with each other would take longer.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let routes: usize =
        attached.gateways.iter().flat_map(|gateway| &gateway.listeners).map(|listener| listener.routes.len()).sum();
    assert_eq!(routes, 1_000);
}
