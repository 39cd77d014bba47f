//! TCPRoute (gateway.networking.k8s.io/v1).
//!
//! A connection tells nothing about itself but where it goes, so there is one rule and no matches. Attachment is `attach`'s.

use crate::kinds::GATEWAY_GROUP;
use crate::kinds::metadata::{Body, Kind, Scope};
use crate::kinds::refs::{ParentReference, check_parents, needs_port};
use crate::schema::{Decoder, GROUP, KIND, NAMESPACE, OBJECT_NAME, Rule, SECTION_NAME, Text};
use crate::value::Value;

crate::object! {
    /// A TCPRoute: which backends the connections of a port go to.
    pub struct TcpRouteSpec {
        /// The Gateways (or for the mesh the Services) the route attaches to. When it comes from a file and there is only one
        /// Gateway, it may be left out.
        parent_refs: Vec<ParentReference> => Rule::MaxItems(32);
        /// Attaches the route to the default Gateways of this scope (experimental).
        use_default_gateways: Option<crate::kinds::gateway::DefaultScope>;
        /// What is done with the connections: one rule, because nothing tells them apart.
        rules: Vec<TcpRouteRule> => Rule::MinItems(1), Rule::MaxItems(1);
    }
    check check_tcp_route;
}

impl Kind for TcpRouteSpec {
    const KIND: &'static str = "TCPRoute";
    const GROUP: &'static str = GATEWAY_GROUP;
    const VERSIONS: &'static [&'static str] = &["v1", "v1alpha2"];
    const BODY: Body = Body::Spec;
    const SCOPE: Scope = Scope::Namespaced;
    const ABOUT: &'static str = "Which backends the connections of a port go to, whatever they carry.";
}

crate::object! {
    /// The rule: connections are spread over the backends.
    pub struct TcpRouteRule {
        /// A name. Policies refer to it with `sectionName`.
        name: Option<Text> => Rule::Is(&SECTION_NAME);
        /// Where the connections go, by weight. The share of a backend that does not exist, or has nobody ready, is refused.
        backend_refs: Vec<TcpBackendRef> => Rule::MinItems(1), Rule::MaxItems(16);
    }
}

crate::object! {
    /// A backend with its share of the connections.
    pub struct TcpBackendRef {
        /// The group of the backend; empty for Service.
        group: Text = "".into() => Rule::Is(&GROUP);
        /// The kind of the backend: Service, or Backend of group transept.dev.
        kind: Text = "Service".into() => Rule::Is(&KIND);
        /// The name of the backend.
        name: Text => Rule::Is(&OBJECT_NAME);
        /// The namespace of the backend; without it the route's own. In another one a ReferenceGrant must allow it.
        namespace: Option<Text> => Rule::Is(&NAMESPACE);
        /// The port of the Service. A Backend has its ports at its endpoints.
        port: Option<u16> => Rule::Range(1, 65535);
        /// The share of connections, in proportion to the other weights of the rule.
        weight: u32 = 1 => Rule::Range(0, 1_000_000);
    }
    check check_tcp_backend;
}

fn check_tcp_route(route: &TcpRouteSpec, _: &Value, cx: &mut Decoder) {
    cx.within("parentRefs", |cx| check_parents(&route.parent_refs, cx));
}

fn check_tcp_backend(backend: &TcpBackendRef, value: &Value, cx: &mut Decoder) {
    needs_port(&backend.group, &backend.kind, backend.port, value.at, cx);
}

#[cfg(test)]
mod tests {
    use crate::{SourceText, load};

    fn findings(spec: &str) -> Vec<String> {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {{name: db}}\nspec: {spec}\n"
        );
        let loaded = load(&[SourceText::new("a.yaml", text)], &[]);
        loaded.invalid.into_iter().map(|one| format!("{}: {}", one.field, one.why)).collect()
    }

    #[test]
    fn a_tcp_route_has_one_rule_with_backends() {
        assert_eq!(findings("{rules: [{name: all, backendRefs: [{name: db, port: 5432}]}]}"), Vec::<String>::new());
        let refused = [
            ("{rules: []}", "spec.rules"),
            ("{rules: [{backendRefs: [{name: a, port: 1}]}, {backendRefs: [{name: b, port: 1}]}]}", "spec.rules"),
            ("{rules: [{backendRefs: []}]}", "spec.rules[0].backendRefs"),
            ("{rules: [{backendRefs: [{name: db}]}]}", "spec.rules[0].backendRefs[0]"),
            ("{hostnames: [a.test], rules: [{backendRefs: [{name: db, port: 1}]}]}", "spec"),
        ];
        for (spec, field) in refused {
            let found = findings(spec);
            assert!(found.len() == 1 && found[0].starts_with(field), "{spec}: {found:?}");
        }
    }
}
