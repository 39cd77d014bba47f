//! What files are taken to mean that leave their Gateway, or the parents of their routes, out.

use super::*;

#[test]
fn without_a_gateway_there_is_the_default_one() {
    let loaded =
        good(&http_rule("backendRefs: [{name: a, port: 80}]").replace("name: web", "name: web, namespace: shop"));
    let gateway = loaded.world.gateway("default", "default").unwrap();
    let listener = &gateway.spec.listeners[0];
    assert_eq!((listener.port, &listener.protocol), (8080, &Protocol::Http));
    let parent = &loaded.world.http_routes()[0].spec.parent_refs[0];
    assert_eq!(parent.namespace.as_deref(), Some("default"));
    assert_eq!(parent.name, "default");
    assert_eq!(loaded.world.namespace_labels("shop").len(), 1);
    // A route that belongs to somebody else's Gateway does not open a port.
    let loaded = good(&http_route("parentRefs: [{name: other}]"));
    assert!(loaded.world.gateways().is_empty());
    let loaded = good(&http_route("parentRefs: [{name: default}]"));
    assert_eq!(loaded.world.gateways().len(), 1);
}

#[test]
fn files_of_one_gateway_have_the_default_one_also_without_a_route() {
    let gateways = |text: &str| {
        let files = [SourceText::new("a.yaml", text)];
        let loaded = Loader::new(KINDS).for_one_gateway().load(&files);
        assert_eq!(loaded.invalid, []);
        loaded.world.gateways().len()
    };
    let of_the_mesh = http_route("parentRefs: [{group: '', kind: Service, name: a}]");
    assert_eq!((gateways(""), gateways(&of_the_mesh)), (1, 1));
    assert!(good(&of_the_mesh).world.gateways().is_empty(), "other proxies are not given a port");
    assert_eq!(gateways(&http_route("parentRefs: [{name: other}]")), 0);
    assert_eq!(gateways(&http_route("useDefaultGateways: All")), 0);
    let tcp = http_route("rules: [{backendRefs: [{name: a, port: 80}]}]")
        .replace("HTTPRoute", "TCPRoute")
        .replace("/v1\n", "/v1alpha2\n");
    assert_eq!(gateways(&tcp), 0);
    assert_eq!(gateways(&gateway(&format!("listeners:\n{LISTENER}"))), 1);
}

#[test]
fn a_route_without_parents_attaches_to_the_only_gateway() {
    let gateway_text = gateway(&format!("listeners:\n{LISTENER}"));
    let loaded = good(&format!("{gateway_text}---\n{}", http_route("rules: [{}]")));
    assert_eq!(loaded.world.http_routes()[0].spec.parent_refs[0].name, "web");
    assert_eq!(loaded.world.gateways().len(), 1);
    let second = gateway_text.replace("name: web", "name: two");
    let loaded = good(&format!("{gateway_text}---\n{second}---\n{}", http_route("rules: [{}]")));
    assert!(loaded.world.http_routes()[0].spec.parent_refs.is_empty());
    assert!(loaded.notes[0].what.contains("2 Gateways"));
    // A Gateway of another controller is not counted.
    let class = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: theirs}\nspec: {controllerName: example.com/x}\n";
    let theirs =
        gateway(&format!("gatewayClassName: theirs\nlisteners:\n{LISTENER}")).replace("name: web", "name: two");
    let loaded = good(&format!("{class}---\n{gateway_text}---\n{theirs}---\n{}", http_route("rules: [{}]")));
    assert_eq!(loaded.world.http_routes()[0].spec.parent_refs[0].name, "web");
    let served: Vec<bool> = ["web", "two"]
        .iter()
        .map(|name| loaded.world.serves(&loaded.world.gateway("default", name).unwrap().spec))
        .collect();
    assert_eq!(served, [true, false]);
}
