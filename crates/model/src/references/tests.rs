//! References by small worlds: what leads somewhere, and the reason when it does not.

use super::*;
use crate::load::load;
use crate::place::SourceText;

const WORLD: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart}
spec:
  ports:
  - {name: web, port: 80, targetPort: 8080}
  - {name: grpc, port: 90, appProtocol: kubernetes.io/h2c}
  - {name: ws, port: 91, appProtocol: kubernetes.io/ws}
  - {name: wss, port: 92, appProtocol: kubernetes.io/wss}
  - {name: odd, port: 93, appProtocol: HTTPS}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: web, port: 8080}, {name: other, port: 1}]
endpoints:
- {addresses: [10.0.0.1, 10.9.9.9], zone: a}
- {addresses: [10.0.0.2], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.0.0.3], conditions: {ready: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-2, labels: {kubernetes.io/service-name: cart}}
addressType: IPv6
ports: [{name: web, port: 8080}]
endpoints:
- {addresses: ['fd00::1']}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-3, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: web, port: 8080}]
endpoints:
- {addresses: [10.0.0.1]}
---
apiVersion: v1
kind: Service
metadata: {name: ending}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ending-1, labels: {kubernetes.io/service-name: ending}}
addressType: IPv4
ports: [{}]
endpoints:
- {addresses: [10.0.1.1], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.0.1.2], conditions: {ready: false, serving: false, terminating: true}}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: api.example.com, ports: [{port: 443}]}
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: elsewhere}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: open, namespace: elsewhere}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: open, namespace: elsewhere}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
  to: [{group: '', kind: Service, name: open}]
---
apiVersion: transept.dev/v1alpha1
kind: Backend
metadata: {name: mixed}
spec:
  endpoints:
  - {address: 127.0.0.1, port: 3000, weight: 3}
  - {address: api.example.com, port: 443}
  connectTimeout: 2s
---
apiVersion: transept.dev/v1alpha1
kind: Backend
metadata: {name: secure}
spec:
  endpoints: [{address: api.example.com, port: 443}]
  protocol: HTTP11
  tls: {}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: whole}
spec:
  targetRefs: [{group: '', kind: Service, name: cart}]
  validation: {wellKnownCACertificates: System, hostname: whole.test}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: port}
spec:
  targetRefs: [{group: '', kind: Service, name: cart, sectionName: web}]
  validation: {wellKnownCACertificates: System, hostname: port.test}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: broken}
spec:
  targetRefs: [{group: '', kind: Service, name: ending}]
  validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: none}], hostname: a.test}
";

fn world() -> World {
    let loaded = load(&[SourceText::new("world.yaml", WORLD)], &[]);
    assert!(loaded.invalid.is_empty(), "{:#?}", loaded.invalid);
    loaded.world
}

fn target<'a>(name: &'a str, port: u16) -> BackendTarget<'a> {
    BackendTarget { group: "", kind: "Service", namespace: None, name, port: Some(port), grant: Grant::Needed }
}

fn addresses(source: &EndpointSource) -> Vec<String> {
    let EndpointSource::Static(addresses) = source else {
        panic!("{source:?} is not static");
    };
    let show = |a: &EndpointAddress| std::net::SocketAddr::new(a.ip, a.port).to_string();
    addresses.iter().map(show).collect()
}

const HTTP: &str = "HTTPRoute";

#[test]
fn a_service_stands_for_its_ready_endpoints() {
    let world = world();
    let references = References::new(&world);
    let from = Referrer::new(HTTP, "default");
    let cart = references.resolve_backend(&from, &target("cart", 80)).unwrap();
    assert_eq!(addresses(&cart.endpoints), ["10.0.0.1:8080", "[fd00::1]:8080"]);
    assert_eq!(cart.id.to_string(), "Service default/cart:80");
    let ending = references.resolve_backend(&from, &target("ending", 80)).unwrap();
    assert_eq!(addresses(&ending.endpoints), ["10.0.1.1:80"]);
    let outside = references.resolve_backend(&from, &target("outside", 443)).unwrap();
    let EndpointSource::Dns { names, .. } = outside.endpoints else {
        panic!("{:?} is not DNS", outside.endpoints);
    };
    assert_eq!((&*names[0].name, names[0].port), ("api.example.com", 443));
}

#[test]
fn a_slice_says_which_port_is_meant_and_a_workload_how_it_is_reached() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: all}
spec: {ports: [{name: http, port: 80, targetPort: web}, {name: other, port: 81}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: all-1, labels: {kubernetes.io/service-name: all}}
addressType: IPv4
ports: [{name: http, port: 9090}]
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}, {addresses: [10.0.0.3]}, {addresses: [10.0.0.4]}]
---
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {name: one}
spec: {services: [cart, all], address: 10.0.0.1, ports: [{port: 80, targetPort: 8080}, {port: 90, targetPort: 9090}], tunnel: {}}
---
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {name: two}
spec: {services: [cart, all], address: 10.0.0.2, ports: [{port: 80, targetPort: 8080}], tunnel: {}}
---
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {name: three}
spec: {services: [all], address: 10.0.0.3, ports: [{port: 9090}], tunnel: {}, health: Unhealthy}
---
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {name: five}
spec: {services: [all], address: 10.0.0.5, ports: [{port: 80, targetPort: 8080}], tunnel: {}}
";
    let loaded = load(&[SourceText::new("world.yaml", text)], &[]);
    assert!(loaded.invalid.is_empty(), "{:#?}", loaded.invalid);
    let service = loaded.world.service("default", "all").unwrap();
    let shown = |port: usize| {
        let EndpointSource::Static(found) = find_endpoints(&loaded.world, service, &service.spec.ports[port]) else {
            panic!("not static");
        };
        let identity =
            |one: &EndpointAddress| one.tunnel.as_ref().map_or("none".to_owned(), |one| one.identity.clone());
        found.iter().map(|one| format!("{}:{} {}", one.ip, one.port, identity(one))).collect::<Vec<_>>()
    };
    let cart = "spiffe://transept.local/ns/default/sa/cart";
    let all = "spiffe://transept.local/ns/default/sa/all";
    assert_eq!(
        shown(0),
        [
            format!("10.0.0.1:9090 {cart}"),
            // By its own port, because no slice knows it.
            format!("10.0.0.5:8080 {all}"),
            // The port of the slice is none of its workload's.
            "10.0.0.2:9090 none".to_owned(),
            "10.0.0.4:9090 none".to_owned(),
        ]
    );
    assert_eq!(shown(1), [""; 0]);
}

#[test]
fn an_instance_may_be_called_for_one_service_and_not_for_another() {
    let text = "
{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: all}, spec: {ports: [{port: 80}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}]
---
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {name: one, annotations: {transept.dev/silent: 'other, cart'}}
spec: {services: [cart, all], address: 10.0.0.1, ports: [{port: 80}], tunnel: {}}
";
    let loaded = load(&[SourceText::new("world.yaml", text)], &[]);
    assert!(loaded.invalid.is_empty(), "{:#?}", loaded.invalid);
    let found = |service: &str| {
        let service = loaded.world.service("default", service).unwrap();
        addresses(&find_endpoints(&loaded.world, service, &service.spec.ports[0]))
    };
    assert_eq!(found("cart"), ["10.0.0.1:80", "10.0.0.2:80"]);
    assert_eq!(found("all"), ["10.0.0.1:80"]);
    let service = loaded.world.service("default", "cart").unwrap();
    let EndpointSource::Static(found) = find_endpoints(&loaded.world, service, &service.spec.ports[0]) else {
        panic!("not static");
    };
    let marks: Vec<(bool, bool)> = found.iter().map(|one| (one.silent, one.tunnel.is_some())).collect();
    assert_eq!(marks, [(true, true), (false, false)], "it comes last, and is not called in clear text");
}

#[test]
fn who_is_silent_is_called_when_nobody_else_is_there() {
    let instance = |name: &str, last: u8, annotation: &str, health: &str| {
        format!(
            "---\napiVersion: transept.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, annotations: {{{annotation}}}}}\n\
             spec: {{services: [cart], address: 10.0.0.{last}, ports: [{{port: 80}}], tunnel: {{}}, health: {health}}}\n"
        )
    };
    let silent = instance("one", 1, "transept.dev/silent: cart", "Unhealthy");
    let ending = "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.0.0.4], conditions: {ready: false, serving: true, terminating: true}}]
";
    let found = |others: &[&str]| {
        let service = "{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80}]}}\n";
        let text = format!("{service}{silent}{}", others.concat());
        let loaded = load(&[SourceText::new("world.yaml", &*text)], &[]);
        assert!(loaded.invalid.is_empty(), "{:#?}", loaded.invalid);
        let service = loaded.world.service("default", "cart").unwrap();
        let EndpointSource::Static(found) = find_endpoints(&loaded.world, service, &service.spec.ports[0]) else {
            panic!("not static");
        };
        found.iter().map(|one| (one.ip.to_string(), one.silent)).collect::<Vec<_>>()
    };
    let at = |last: u8, silent: bool| (format!("10.0.0.{last}"), silent);
    let (well, unwell) = (instance("two", 2, "", "Healthy"), instance("three", 3, "", "Unhealthy"));
    assert_eq!(found(&[]), [at(1, false)]);
    assert_eq!(found(&[&unwell]), [at(1, false)], "one that says that it is not well is called by nobody");
    assert_eq!(found(&[&unwell, &well]), [at(2, false), at(1, true)]);
    assert_eq!(found(&[ending]), [at(4, false), at(1, true)]);
    assert_eq!(found(&[&instance("four", 1, "", "Healthy")]), [at(1, false)], "one at its address comes before it");
}

#[test]
fn the_protocol_comes_from_the_port() {
    let world = world();
    let references = References::new(&world);
    for (kind, port, expected) in [
        (HTTP, 80, Ok(AppProtocol::Http)),
        (HTTP, 90, Ok(AppProtocol::Http2)),
        (HTTP, 91, Ok(AppProtocol::WebSocket)),
        (HTTP, 92, Ok(AppProtocol::WebSocket)),
        (HTTP, 93, Ok(AppProtocol::Http)),
        (HTTP, 53, Err(RefReason::UnsupportedProtocol)),
        ("GRPCRoute", 80, Ok(AppProtocol::Http2)),
        ("GRPCRoute", 91, Err(RefReason::UnsupportedProtocol)),
    ] {
        let from = Referrer::new(kind, "default");
        let found = references.resolve_backend(&from, &target("cart", port));
        let found = found.map(|b| b.protocol).map_err(|p| p.reason);
        assert_eq!(found, expected, "{kind} to port {port}");
    }
}

#[test]
fn every_failure_has_its_reason() {
    let world = world();
    let references = References::new(&world);
    let from = Referrer::new(HTTP, "default");
    let elsewhere = |name| BackendTarget { namespace: Some("elsewhere"), ..target(name, 80) };
    let odd = BackendTarget { kind: "NonExistent", ..target("cart", 80) };
    for (wanted, expected) in [
        (target("cart", 80), None),
        (target("cart", 81), Some(RefReason::BackendNotFound)),
        (target("none", 80), Some(RefReason::BackendNotFound)),
        (elsewhere("open"), None),
        (elsewhere("far"), Some(RefReason::RefNotPermitted)),
        // Without a grant nothing is said about what exists.
        (elsewhere("none"), Some(RefReason::RefNotPermitted)),
        (odd, Some(RefReason::InvalidKind)),
    ] {
        let found = references.resolve_backend(&from, &wanted);
        assert_eq!(found.err().map(|p| p.reason), expected, "{wanted:?}");
    }
    let grpc = Referrer::new("GRPCRoute", "default");
    let found = references.resolve_backend(&grpc, &elsewhere("open"));
    assert_eq!(found.unwrap_err().reason, RefReason::RefNotPermitted);
    let problem = references.resolve_backend(&from, &target("carp", 80)).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "There is no Service default/carp. Add it, or correct the name (did you mean cart?)."
    );
}

#[test]
fn a_policy_for_the_port_beats_one_for_the_service() {
    let world = world();
    let references = References::new(&world);
    let from = Referrer::new(HTTP, "default");
    let server_name = |name, port| {
        let backend = references.resolve_backend(&from, &target(name, port)).unwrap();
        let tls = backend.tls?;
        Some(tls.map(|tls| tls.server_name.clone().unwrap().to_string()))
    };
    assert_eq!(server_name("cart", 80), Some(Ok("port.test".to_owned())));
    assert_eq!(server_name("cart", 90), Some(Ok("whole.test".to_owned())));
    assert_eq!(server_name("outside", 443), None);
    let broken = server_name("ending", 80).unwrap().unwrap_err();
    assert_eq!(broken.reason, RefReason::NoValidCACertificate);
}

#[test]
fn a_backend_names_addresses_and_dns_names() {
    let world = world();
    let references = References::new(&world);
    let from = Referrer::new(HTTP, "default");
    let backend = |name| BackendTarget {
        group: "transept.dev",
        kind: "Backend",
        namespace: None,
        name,
        port: None,
        grant: Grant::Needed,
    };
    let mixed = references.resolve_backend(&from, &backend("mixed")).unwrap();
    let EndpointSource::Dns { names, addresses } = &mixed.endpoints else {
        panic!("{:?} has no names", mixed.endpoints);
    };
    assert_eq!((addresses[0].port, addresses[0].weight), (3000, 3));
    assert_eq!(&*names[0].name, "api.example.com");
    assert_eq!(mixed.connect_timeout, Some(std::time::Duration::from_secs(2)));
    assert!(mixed.tls.is_none());
    let secure = references.resolve_backend(&from, &backend("secure")).unwrap();
    let tls = secure.tls.unwrap().unwrap();
    assert_eq!((secure.protocol, &tls.roots), (AppProtocol::Http11, &Roots::System));
    assert_eq!(tls.server_name, None);
}

/// The endpoints for clients in a zone, of slices that hint so.
fn hinted(zone: &str, hints: &[&str]) -> Vec<String> {
    let endpoint = |(number, zones): (usize, &&str)| {
        let zones: Vec<String> = zones.chars().map(|zone| format!("{{name: {zone}}}")).collect();
        format!("- {{addresses: [10.0.0.{number}], hints: {{forZones: [{}]}}}}\n", zones.join(", "))
    };
    let endpoints: String = hints.iter().enumerate().map(endpoint).collect();
    let yaml = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{ports: [{{port: 80}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s-1, labels: {{kubernetes.io/service-name: s}}}}
addressType: IPv4
ports: [{{port: 80}}]
endpoints:
- {{addresses: [10.9.9.9], conditions: {{ready: false}}}}
{endpoints}"
    );
    let loaded = load(&[SourceText::new("a.yaml", yaml)], &[]);
    assert!(loaded.invalid.is_empty(), "{:?}", loaded.invalid);
    let service = loaded.world.service("default", "s").expect("a Service");
    let mut found = find_endpoints(&loaded.world, service, &service.spec.ports[0]);
    found.keep_hinted(zone);
    match found {
        EndpointSource::Static(addresses) => addresses.iter().map(|one| one.ip.to_string()).collect(),
        EndpointSource::Dns { .. } => Vec::new(),
    }
}

#[test]
fn endpoints_that_name_zones_are_for_those_if_all_do() {
    assert_eq!(hinted("a", &["a", "b", "ab"]), ["10.0.0.0", "10.0.0.2"]);
    assert_eq!(hinted("b", &["a", "b", "ab"]), ["10.0.0.1", "10.0.0.2"]);
    // One that says nothing, or a zone that nobody is for: all of them.
    assert_eq!(hinted("a", &["a", "", "b"]).len(), 3);
    assert_eq!(hinted("c", &["a", "b"]).len(), 2);
}
