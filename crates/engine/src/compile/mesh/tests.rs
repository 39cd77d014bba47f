//! What a station listens on, and what survives a change of the world.

use std::sync::Arc;

use transept_model::attach::{Surroundings, attach};
use transept_model::load;
use transept_model::place::SourceText;
use transept_model::world::World;

use super::*;
use crate::exchange::Connection;
use crate::policies::MODEL_KINDS;
use crate::reason::Reason;
use crate::{admit, admit_connection, admit_stream, admit_to};

const WORLD: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{name: http, port: 80, targetPort: 8080}, {name: db, port: 5432, appProtocol: postgres}]}
---
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop}
spec: {services: [cart], address: 10.0.0.7, ports: [{port: 80, targetPort: 8080}], tunnel: {}}
---
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: cart, sectionName: http}]
  allow: [{from: [{namespaces: [till]}], to: [{methods: [GET]}]}]
---
apiVersion: transept.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: cart, namespace: shop}
spec: {targetRefs: [{group: '', kind: Service, name: cart}], limits: {requests: 5}}
";

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn world(yaml: &str) -> World {
    let loaded = load(&[SourceText::new("test.yaml", yaml)], MODEL_KINDS);
    assert!(loaded.invalid.is_empty(), "{:?}", loaded.invalid);
    loaded.world
}

fn station() -> Station {
    let outbound = |listen: u16, service: &str| Outbound {
        listen: local(listen),
        service: service.into(),
        namespace: "shop".into(),
        port: 80,
    };
    Station {
        namespace: "shop".into(),
        workload: "cart-1".into(),
        services: vec!["cart".into()],
        identity: "spiffe://transept.local/ns/shop/sa/cart".into(),
        inbound: vec![Inbound { listen: local(15008), announced: None }],
        app: vec![AppPort { port: 80, to: local(8080), protocol: AppProtocol::Unknown }],
        outbound: vec![outbound(9001, "cart"), outbound(9002, "nobody")],
        http_proxy: Some(local(3128)),

        captured: None,
        plaintext: None,
        awake: None,
    }
}

fn compiled(yaml: &str, station: &Station, previous: Option<&Snapshot>) -> Compiled {
    let world = world(yaml);
    let attached = attach(&world, &Surroundings::default());
    let compiled = compile_station(&world, &attached, station, previous, 1);
    assert!(compiled.problems.is_empty(), "{:?}", compiled.problems);
    compiled
}

fn bind(snapshot: &Snapshot, port: u16) -> &Arc<Bind> {
    snapshot.bind(&local(port)).expect("a bind")
}

#[test]
fn a_station_listens_on_both_sides() {
    let snapshot = compiled(WORLD, &station(), None).install();
    let roles: Vec<_> = snapshot.binds.iter().map(|bind| (bind.address.port(), bind.role, bind.secure)).collect();
    assert_eq!(
        roles,
        [
            (3128, Role::Outbound, Secure::Plain),
            (9001, Role::Outbound, Secure::Plain),
            (9002, Role::Outbound, Secure::Plain),
            (15008, Role::Inbound, Secure::Mesh),
        ]
    );
    let inbound = bind(&snapshot, 15008);
    assert!(Arc::ptr_eq(inbound.listener_for_port(80).expect("80"), inbound.listener_for_port(8080).expect("8080")));
    assert!(inbound.listener_for_port(81).is_none());
    let http_proxy = bind(&snapshot, 3128);
    let speaks = |port| http_proxy.listener_for_authority("cart.shop", Some(port)).map(|listener| listener.speaks);
    assert_eq!((speaks(80), speaks(5432), speaks(81)), (Some(Speaks::Detect), Some(Speaks::Opaque), None));
}

#[test]
fn a_service_that_is_not_there_answers_so_until_it_is() {
    let snapshot = compiled(WORLD, &station(), None).install();
    let listener = &bind(&snapshot, 9002).listeners[0];
    let rule = listener.stream.as_ref().expect("a rule");
    let broken = rule.backends[0].target.as_ref().expect_err("no such Service");
    assert_eq!(broken.reason, Reason::BackendInvalid);
}

#[test]
fn the_program_and_the_services_keep_their_backends() {
    let before = compiled(WORLD, &station(), None).install();
    let changed = WORLD.replace("10.0.0.7", "10.0.0.8");
    let moved = Station { app: vec![AppPort { to: local(8081), ..station().app[0] }], ..station() };
    let same = compiled(&changed, &station(), Some(&before));
    let cart = |snapshot: &Snapshot| {
        let found =
            snapshot.backends.iter().find(|backend| backend.id.kind == "Service" && backend.id.port == Some(80));
        Arc::clone(found.expect("a backend"))
    };
    assert!(Arc::ptr_eq(&cart(same.snapshot()), &cart(&before)));
    assert!(Arc::ptr_eq(&bind(same.snapshot(), 3128).settings, &bind(&before, 3128).settings));
    let at = |backend: &Backend| backend.endpoints.load().endpoints()[0].address;
    assert_eq!(at(&cart(&before)), ([10, 0, 0, 7], 8080).into());
    let same = same.install();
    assert_eq!(at(&cart(&same)), ([10, 0, 0, 8], 8080).into());
    let program = |snapshot: &Snapshot| {
        let found = snapshot.backends.iter().find(|backend| backend.id.kind == "Workload");
        Arc::clone(found.expect("a backend"))
    };
    assert!(Arc::ptr_eq(&program(&same), &program(&before)));
    assert!(program(&same).traffic.is_none() && cart(&same).traffic.is_some());
    let moved = compiled(&changed, &moved, Some(&same)).install();
    assert_eq!(at(&program(&moved)), local(8081));
}

#[test]
fn a_connection_is_judged_when_it_comes_and_when_it_turns_out_not_to_be_http() {
    let snapshot = compiled(WORLD, &station(), None).install();
    let inbound = bind(&snapshot, 15008);
    let from = |identity: &str| {
        Connection::new(local(5000), local(15008), None).with_identity(identity).with_destination(local(8080))
    };
    let till = from("spiffe://transept.local/ns/till/sa/till");
    let listener = admit_to(inbound, &till, "", None).expect("a listener");
    assert_eq!(listener.name.to_string(), "shop/cart/inbound-80");
    assert_eq!(admit_connection(listener, &till), Ok(()));
    let refusal = admit_stream(listener, &till).expect_err("a rule that asks for a method allows no stream");
    assert_eq!(refusal.cause.as_deref(), Some("AuthorizationPolicy shop/cart, no rule allows it"));
    assert!(admit_connection(listener, &from("spiffe://transept.local/ns/desk/sa/desk")).is_err());
    let kinds: Vec<_> = listener.chain.names().map(|name| name.kind).collect();
    assert_eq!(kinds, ["AuthorizationPolicy"]);
}

#[test]
fn the_station_of_a_service_is_known_from_the_world() {
    let world = world(WORLD);
    let station = Station::beside(&world, "shop", "cart").expect("a Service");
    let ports: Vec<_> = station.app.iter().map(|app| (app.port, app.to.port(), app.protocol)).collect();
    assert_eq!(ports, [(80, 8080, AppProtocol::Unknown), (5432, 5432, AppProtocol::Opaque)]);
    assert_eq!(station.identity, "spiffe://transept.local/ns/shop/sa/cart");
    assert!(Station::beside(&world, "shop", "card").is_none());
    let caller = Station::of_caller("shop", "card");
    let snapshot = compiled(WORLD, &caller, None).install();
    let out = snapshot.binds.iter().find(|bind| bind.role == Role::Outbound).expect("a way out");
    assert!(out.listener_for_authority("cart", Some(80)).is_some(), "names are those of its namespace");
}

#[test]
fn ports_that_lead_to_one_of_the_program_are_guarded_together() {
    let both =
        WORLD.replace("{name: db, port: 5432, appProtocol: postgres}", "{name: desk, port: 81, targetPort: 8080}");
    let guarded = |section: &str| {
        let world = both.replace("sectionName: http", &format!("sectionName: {section}"));
        let snapshot = compiled(&world, &station(), None).install();
        let listener = bind(&snapshot, 15008).listener_for_port(8080).expect("a listener").clone();
        let connection = Connection::new(([10, 0, 0, 1], 1).into(), local(15008), None);
        admit_connection(&listener, &connection).is_err()
    };
    assert!(guarded("http") && guarded("desk"));
}

#[test]
fn the_program_is_guarded_when_its_service_is_not_there() {
    let (_, rest) = WORLD.split_once("---\n").expect("more than the Service");
    for world in [rest.to_owned(), rest.replace(", sectionName: http", "")] {
        let world = world.as_str();
        let snapshot = compiled_with_problems(world, &station()).install();
        let listener = bind(&snapshot, 15008).listener_for_port(8080).expect("a listener").clone();
        let connection = Connection::new(([10, 0, 0, 1], 1).into(), local(15008), None);
        assert!(admit_connection(&listener, &connection).is_err());
    }
}

fn compiled_with_problems(yaml: &str, station: &Station) -> Compiled {
    let world = world(yaml);
    let attached = attach(&world, &Surroundings::default());
    compile_station(&world, &attached, station, None, 1)
}

#[test]
fn policies_name_the_port_of_the_program_or_one_of_the_service_that_leads_to_it() {
    let refused = |port: u16| {
        let rules = format!("deny: [{{to: [{{ports: [{port}]}}]}}]");
        let world = WORLD.replace("allow: [{from: [{namespaces: [till]}], to: [{methods: [GET]}]}]", &rules);
        assert!(world.contains(&rules));
        let snapshot = compiled(&world, &station(), None).install();
        let connection = Connection::new(([10, 0, 0, 1], 1).into(), local(15008), None)
            .with_identity("spiffe://transept.local/ns/shop/sa/desk");
        [80, 8080].map(|called| {
            let listener = bind(&snapshot, 15008).listener_for_port(called).expect("a listener").clone();
            admit_connection(&listener, &connection).is_err()
        })
    };
    assert_eq!((refused(8080), refused(80), refused(81)), ([true, true], [true, true], [false, false]));
}

/// Whether strangers are let in on the plaintext bind, on port 80 of the Service, and why not.
fn stranger(policies: &str) -> Option<String> {
    let station = Station { plaintext: Some(local(15006)), ..station() };
    let services = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{name: http, port: 80, targetPort: 8080}, {name: old, port: 81, targetPort: 8080}]}
";
    let snapshot = compiled(&format!("{services}{policies}"), &station, None).install();
    let connection = Connection::new(([10, 0, 0, 1], 1).into(), local(15006), None).with_destination(local(8080));
    let bind = bind(&snapshot, 15006);
    assert!(bind.is_captured() && bind.role == Role::Inbound && bind.secure == Secure::Plain);
    let admitted = admit(bind, &connection, "cart");
    let listener = bind.listener_for_port(8080).expect("a listener");
    let refusals = [admit_connection(listener, &connection).err(), admit_stream(listener, &connection).err()];
    let refusal = admitted.err();
    assert!(refusals.iter().all(|other| *other == refusal), "the same whatever is asked: {refusals:?}");
    refusal.map(|reply| reply.cause.expect("a cause").to_string())
}

fn mesh_policy(name: &str, section: &str, mode: &str) -> String {
    format!(
        "---\napiVersion: transept.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{mode: {mode}, \
         targetRefs: [{{group: '', kind: Service, name: cart{section}}}]}}\n"
    )
}

#[test]
fn strangers_are_let_in_where_every_port_that_may_be_meant_is_permissive() {
    let (http, old) = (", sectionName: http", ", sectionName: old");
    assert_eq!(stranger("").as_deref(), Some("no MeshPolicy says `mode: Permissive`"));
    assert_eq!(stranger(&mesh_policy("all", "", "Permissive")), None);
    let strict = stranger(&(mesh_policy("all", "", "Permissive") + &mesh_policy("one", old, "Strict")));
    assert_eq!(strict.as_deref(), Some("MeshPolicy shop/one, mode Strict"));
    assert!(stranger(&mesh_policy("one", http, "Permissive")).is_some(), "the other port leads there too");
    assert_eq!(stranger(&(mesh_policy("one", http, "Permissive") + &mesh_policy("two", old, "Permissive"))), None);
    assert_eq!(
        stranger(
            &(mesh_policy("all", "", "Strict")
                + &mesh_policy("b", http, "Permissive")
                + &mesh_policy("c", old, "Permissive"))
        ),
        None
    );
}

#[test]
fn what_holds_for_a_namespace_holds_for_its_services_unless_they_say_otherwise() {
    let on_namespace =
        |mode: &str| mesh_policy("every", "", mode).replace("kind: Service, name: cart", "kind: Namespace, name: shop");
    assert_eq!(stranger(&on_namespace("Permissive")), None);
    assert_eq!(stranger(&on_namespace("Strict")).as_deref(), Some("MeshPolicy shop/every, mode Strict"));
    assert_eq!(stranger(&(on_namespace("Strict") + &mesh_policy("all", "", "Permissive"))), None);
    assert!(stranger(&(on_namespace("Permissive") + &mesh_policy("all", "", "Strict"))).is_some());

    let world = WORLD.replace("kind: Service, name: cart}], limits", "kind: Namespace, name: shop}], limits");
    assert_ne!(world, WORLD);
    let limit = |world: &str| {
        let snapshot = compiled(world, &station(), None).install();
        let listener = bind(&snapshot, 9001).callee(None).expect("the cart").clone();
        let backend = listener.stream.as_ref().expect("a rule").backends.first().expect("a backend");
        backend.target.as_ref().ok().and_then(|backend| backend.traffic.as_ref()?.limits.requests)
    };
    assert_eq!((limit(&world), limit(WORLD)), (Some(5), Some(5)));
}

#[test]
fn a_port_with_a_tcp_route_alone_is_not_looked_at() {
    let with = |app_protocol: &str, http_route: bool| {
        let http = "
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec: {parentRefs: [{group: '', kind: Service, name: cart}], rules: [{backendRefs: [{name: cart, port: 80}]}]}";
        let yaml = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: cart, namespace: shop}}, spec: {{ports: [{{port: 80{app_protocol}}}]}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: db, namespace: shop}}
spec: {{parentRefs: [{{group: '', kind: Service, name: cart}}], rules: [{{backendRefs: [{{name: cart, port: 80}}]}}]}}{}",
            if http_route { http } else { "" }
        );
        let snapshot = compiled(&yaml, &station(), None).install();
        let listener = bind(&snapshot, 9001).callee(None).expect("the cart").clone();
        let rule = listener.stream.as_ref().expect("a rule");
        (listener.speaks, rule.name.kind)
    };
    assert_eq!(with("", false), (Speaks::Opaque, RouteKind::Tcp));
    assert_eq!(with("", true), (Speaks::Detect, RouteKind::Tcp));
    // Declared as HTTP it takes no such route.
    assert_eq!(with(", appProtocol: http", false), (Speaks::Http, RouteKind::Service));
}

#[test]
fn a_port_whose_routes_have_policies_carries_requests_only() {
    let speaks = |policy: &str| {
        let yaml = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: cart, namespace: shop}}, spec: {{ports: [{{port: 80}}]}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web, namespace: shop}}
spec: {{parentRefs: [{{group: '', kind: Service, name: cart}}], rules: [{{backendRefs: [{{name: cart, port: 80}}]}}]}}
{policy}"
        );
        let snapshot = compiled(&yaml, &station(), None).install();
        bind(&snapshot, 9001).callee(None).expect("the cart").speaks
    };
    assert_eq!(speaks(""), Speaks::Detect);
    let on_route = "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}]";
    let policy = |kind: &str, rest: &str| {
        format!(
            "---\n{{apiVersion: transept.dev/v1alpha1, kind: {kind}, metadata: {{name: a, namespace: shop}}, spec: {{{on_route}, {rest}}}}}"
        )
    };
    assert_eq!(speaks(&policy("AuthorizationPolicy", "deny: [{to: [{paths: [/admin/*]}]}]")), Speaks::Http);
    assert_eq!(speaks(&policy("HeaderPolicy", "request: {set: [{name: X-A, value: b}]}")), Speaks::Detect);
}

#[test]
fn an_instance_is_called_by_its_own_address_and_through_its_tunnel() {
    let yaml = format!(
        "{WORLD}---
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {{name: cart-2, namespace: shop}}
spec: {{services: [cart], address: 10.0.0.8, ports: [{{port: 80}}], tunnel: {{}}}}
---
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {{name: old, namespace: shop}}
spec: {{services: [cart], address: 10.0.0.9, ports: [{{port: 80}}]}}
"
    );
    let at = |last: u8, port: u16| SocketAddr::from(([10, 0, 0, last], port));
    let called = |lasts: &[u8]| Station {
        captured: Some(Captured {
            listen: vec![local(15001)],
            services: Vec::new(),
            located: Some(lasts.iter().map(|last| at(*last, 0).ip()).collect()),
        }),
        ..station()
    };
    let before = compiled(&yaml, &called(&[]), None).install();
    assert!([7, 8, 9, 10].iter().all(|last| bind(&before, 15001).is_unlocated(at(*last, 80))), "nobody has asked yet");

    let snapshot = compiled(&yaml, &called(&[7, 9]), Some(&before)).install();
    let out = bind(&snapshot, 15001);
    assert!(out.is_unlocated(at(8, 80)) && !out.is_unlocated(at(9, 80)) && !out.is_unlocated(at(7, 81)));
    assert!(out.callee(Some(at(9, 80))).is_none(), "it has no tunnel");
    assert!(out.callee(Some(at(7, 81))).is_none(), "nor that port");
    let listener = out.callee(Some(at(7, 8080))).expect("the port of its program");
    assert!(Arc::ptr_eq(listener, out.callee(Some(at(7, 80))).expect("that of its Service")));
    assert_eq!((listener.speaks, &*listener.metric_label), (Speaks::Detect, "shop/cart/outbound-cart-1-8080"));
    let backend = listener.stream.as_ref().expect("a rule").backends[0].target.as_ref().expect("a backend");
    assert_eq!((backend.service(), backend.traffic.is_none()), ("cart", true));
    let endpoints = backend.endpoints.load();
    let [endpoint] = endpoints.endpoints() else { panic!("{endpoints:?}") };
    let tunnel = endpoint.tunnel.as_ref().expect("a tunnel");
    assert_eq!((endpoint.address, tunnel.address), (at(7, 8080), at(7, 15008)));
    assert_eq!(&*tunnel.identity, "spiffe://transept.local/ns/shop/sa/cart");

    let strict = format!("{yaml}{}", mesh_policy("all", "", "Strict"));
    let shut = compiled(&strict, &called(&[7, 9]), Some(&snapshot)).install();
    let listener = bind(&shut, 15001).callee(Some(at(9, 80))).expect("somebody to refuse it");
    let backend = listener.stream.as_ref().expect("a rule").backends[0].target.as_ref().expect("a backend");
    assert_eq!(backend.tunnel_only.as_deref(), Some("MeshPolicy shop/all"));
    assert!(backend.endpoints.load().endpoints().is_empty());

    // Who only says that he is there takes nobody's calls, whatever his name.
    let claimed = "---
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {name: aaa, namespace: shop, annotations: {transept.dev/unproven: 'true'}}
spec: {services: [evil], address: 10.0.0.7, ports: [{port: 80, targetPort: 8080}, {port: 5555}], tunnel: {port: 15009}}
";
    let beside = compiled(&format!("{yaml}{claimed}"), &called(&[7, 9]), None).install();
    let listener = bind(&beside, 15001).callee(Some(at(7, 8080))).expect("the instance");
    assert_eq!(&*listener.metric_label, "shop/cart/outbound-cart-1-8080");
    assert!(bind(&beside, 15001).callee(Some(at(7, 5555))).is_none());

    // What is learned about its port outlives a change.
    let listener = out.callee(Some(at(7, 80))).expect("a listener");
    let again = compiled(&yaml, &called(&[7, 8]), Some(&snapshot)).install();
    let same = bind(&again, 15001).callee(Some(at(7, 80))).expect("still");
    let learned = |listener: &Listener| Arc::as_ptr(listener.learned.as_ref().expect("nobody said it"));
    assert_eq!(learned(same), learned(listener));
    assert!(bind(&again, 15001).callee(Some(at(8, 80))).is_some());
}

#[test]
fn where_a_tunnel_is_wanted_nobody_is_called_at_an_address_of_a_slice_that_did_not_register() {
    let yaml = format!(
        "{WORLD}---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: cart, namespace: shop, labels: {{kubernetes.io/service-name: cart}}}}
addressType: IPv4
endpoints: [{{addresses: [10.0.0.7]}}, {{addresses: [203.0.113.7]}}]
ports: [{{name: http, port: 8080}}, {{name: db, port: 5432}}]
"
    );
    let at = |address: [u8; 4], port: u16| SocketAddr::from((address, port));
    let (registered, stranger) = ([10, 0, 0, 7], [203, 0, 113, 7]);
    let station = Station {
        captured: Some(Captured {
            listen: vec![local(15001)],
            services: Vec::new(),
            located: Some([registered.into(), stranger.into()].into()),
        }),
        ..station()
    };
    let open = compiled(&yaml, &station, None).install();
    assert!(bind(&open, 15001).callee(Some(at(stranger, 8080))).is_none(), "nobody wants a tunnel");
    let strict = format!("{yaml}{}", mesh_policy("http", ", sectionName: http", "Strict"));
    let shut = compiled(&strict, &station, None).install();
    let out = bind(&shut, 15001);
    for port in [8080, 80] {
        let listener = out.callee(Some(at(stranger, port))).expect("somebody to refuse it");
        let backend = listener.stream.as_ref().expect("a rule").backends[0].target.as_ref().expect("a backend");
        assert_eq!(backend.tunnel_only.as_deref(), Some("MeshPolicy shop/http"));
        assert!(backend.endpoints.load().endpoints().is_empty());
    }
    assert!(out.callee(Some(at(stranger, 5432))).is_none(), "the other port is none of this policy's");
    let listener = out.callee(Some(at(registered, 8080))).expect("an instance");
    let backend = listener.stream.as_ref().expect("a rule").backends[0].target.as_ref().expect("a backend");
    assert_eq!(backend.endpoints.load().endpoints().len(), 1, "it has a tunnel");
}

#[test]
fn what_the_proxies_of_all_instances_say_of_a_port_is_a_hint_where_nobody_declared_it() {
    let instance = |name: &str, last: u8, words: &str| {
        format!(
            "---\napiVersion: transept.dev/v1alpha1\nkind: Workload\n\
             metadata: {{name: {name}, namespace: shop, annotations: {{transept.dev/learned: '{words}'}}}}\n\
             spec: {{services: [cart], address: 10.0.0.{last}, ports: [{{port: 80, targetPort: 8080}}, {{port: 5432}}], tunnel: {{}}}}\n"
        )
    };
    let address = SocketAddr::from(([10, 0, 0, 8], 80));
    let station = Station {
        captured: Some(Captured {
            listen: vec![local(15001)],
            services: Vec::new(),
            located: Some([address.ip()].into()),
        }),
        ..station()
    };
    let hints = |others: &[String]| {
        let snapshot = compiled(&format!("{WORLD}{}", others.concat()), &station, None).install();
        let named =
            |port| bind(&snapshot, 3128).listener_for_authority("cart.shop", Some(port)).expect("a listener").hint;
        let own = bind(&snapshot, 15001).callee(Some(address)).map(|listener| listener.hint);
        assert_eq!(bind(&snapshot, 15008).listeners[0].hint, Known::Nothing, "the way in knows by itself");
        (named(80), named(5432), own)
    };
    let first = instance("cart-2", 8, "80=tcp-server-first,5432=tcp");
    assert_eq!(hints(&[]), (Known::Nothing, Known::Nothing, None));
    // The second port is declared.
    assert_eq!(hints(std::slice::from_ref(&first)), (Known::ServerFirst, Known::Nothing, Some(Known::ServerFirst)));
    let same = instance("cart-3", 9, "80=tcp-server-first");
    assert_eq!(hints(&[first.clone(), same]).0, Known::ServerFirst);
    let other = instance("cart-3", 9, "80=http");
    assert_eq!(hints(&[first.clone(), other]), (Known::Nothing, Known::Nothing, Some(Known::ServerFirst)));
    assert_eq!(hints(&[first, instance("cart-3", 9, "80=spdy")]).0, Known::ServerFirst);
}
