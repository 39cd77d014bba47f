//! Which endpoints nobody calls because they have no tunnel and a policy wants one: the same answer that callers compile, for people.
//!
//! Asked by the control plane, which calls nobody itself.

use std::collections::BTreeMap;

use transept_model::attach::Attached;
use transept_model::references::find_endpoints;
use transept_model::world::World;

use super::backends::source_of;
use super::policies::Policies;
use crate::keep::Keep;

/// A port of a Service of whose endpoints some are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The namespace of the Service.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// The port.
    pub port: u16,
    /// The policy that wants a tunnel, as its kind, namespace and name.
    pub policy: String,
    /// The endpoints without one: addresses, and names with their ports.
    pub endpoints: Vec<String>,
    /// How many endpoints are called.
    pub called: usize,
}

/// All ports of which endpoints are left out, in the order of the Services.
pub fn find_left_out(world: &World, attached: &Attached) -> Vec<LeftOut> {
    let policies = Policies::new(&attached.policies, world, &Keep::default(), BTreeMap::new());
    let mut found = Vec::new();
    for service in world.services() {
        let (namespace, name) = (&service.meta.namespace, &service.meta.name);
        for port in &service.spec.ports {
            let effective = policies.on_service(namespace, name, port.name.clone());
            let Some(policy) = policies.tunnel_only(&effective) else { continue };
            let (_, endpoints) = source_of(find_endpoints(world, service, port), true);
            if endpoints.left_out().is_empty() {
                continue;
            }
            found.push(LeftOut {
                namespace: namespace.to_string(),
                service: name.to_string(),
                port: port.port,
                policy: policy.to_string(),
                endpoints: endpoints.left_out().iter().map(ToString::to_string).collect(),
                called: endpoints.endpoints().len(),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use transept_model::attach::{Surroundings, attach};
    use transept_model::load::{Broken, Loader};
    use transept_model::place::SourceText;

    use super::*;
    use crate::balance::Turns;
    use crate::compile::compile;
    use crate::exchange::Now;
    use crate::pick::{Call, pick_endpoint};
    use crate::policies::MODEL_KINDS;
    use crate::reason::Reason;
    use crate::snapshot::{Backend, Snapshot};

    /// A gateway before a Service with a member of the mesh and an address that nobody has registered.
    const WORLD: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec: {rules: [{backendRefs: [{name: cart, port: 80}, {name: cart, port: 81}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart}
spec: {ports: [{name: http, port: 80, targetPort: 8080}, {name: admin, port: 81, targetPort: 8081}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: admin, port: 8081}]
endpoints: [{addresses: [10.0.0.7]}, {addresses: [10.0.0.9]}]
---
";
    const MEMBER: &str = "
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {name: cart-1}
spec: {services: [cart], address: 10.0.0.7, ports: [{port: 80, targetPort: 8080}], tunnel: {}}
---
";

    fn policy(name: &str, section: &str, spec: &str) -> String {
        format!(
            "apiVersion: transept.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {{name: {name}}}\nspec: {{targetRefs: [{{group: \"\", kind: \
             Service, name: cart{section}}}], {spec}}}\n---\n"
        )
    }

    fn load(yaml: &str) -> (World, Attached) {
        let loader = Loader::new(MODEL_KINDS).broken_policies(Broken::Kept);
        let loaded = loader.load(&[SourceText::new("test.yaml", yaml)]);
        assert!(loaded.invalid.is_empty(), "{:?}", loaded.invalid);
        let attached = attach(&loaded.world, &Surroundings::default());
        (loaded.world, attached)
    }

    fn compiled(yaml: &str, previous: Option<&Snapshot>) -> Arc<Snapshot> {
        let (world, attached) = load(yaml);
        compile(&world, &attached, previous, 1).install()
    }

    fn port(snapshot: &Snapshot, port: u16) -> &Arc<Backend> {
        snapshot.backends.iter().find(|backend| backend.id.port == Some(port)).expect("a backend")
    }

    fn addresses(backend: &Backend) -> Vec<String> {
        backend.endpoints.load().endpoints().iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    /// What a request gets of a backend: its endpoint, or the reason why there is none with what the log says.
    fn picked(backend: &Backend) -> Result<String, (Reason, String)> {
        let now = Now { monotonic: Duration::ZERO, unix: Duration::ZERO };
        let call = Call { now, random: 3, hash: None, tried: &[], answered: false };
        match pick_endpoint(backend, &mut Turns::new(), &call) {
            Ok(chosen) => Ok(chosen.address.to_string()),
            Err(reply) => Err((reply.reason, reply.cause.map(String::from).unwrap_or_default())),
        }
    }

    #[test]
    fn a_strict_policy_leaves_out_who_has_no_tunnel() {
        let strict = format!("{WORLD}{MEMBER}{}", policy("cart", "", "mode: Strict"));
        for (yaml, expected) in [
            (format!("{WORLD}{MEMBER}"), &["10.0.0.7:8080", "10.0.0.9:8080"][..]),
            (format!("{WORLD}{MEMBER}{}", policy("cart", "", "mode: Permissive")), &["10.0.0.7:8080", "10.0.0.9:8080"]),
            (strict.clone(), &["10.0.0.7:8080"]),
            // A policy that cannot be read may have been strict.
            (format!("{WORLD}{MEMBER}{}", policy("cart", "", "modus: Strict")), &["10.0.0.7:8080"]),
        ] {
            assert_eq!(addresses(port(&compiled(&yaml, None), 80)), expected, "{yaml}");
        }
        let (world, attached) = load(&strict);
        let left_out = find_left_out(&world, &attached);
        assert_eq!((left_out[0].port, left_out[0].called), (80, 1));
        assert_eq!(left_out[0].endpoints, ["10.0.0.9:8080"]);
        assert_eq!(left_out[0].policy, "MeshPolicy default/cart");
    }

    #[test]
    fn the_policy_on_a_port_is_for_this_port() {
        let on_admin = policy("cart", ", sectionName: admin", "mode: Strict");
        let snapshot = compiled(&format!("{WORLD}{on_admin}"), None);
        assert_eq!(addresses(port(&snapshot, 80)).len(), 2);
        assert_eq!(addresses(port(&snapshot, 81)), [""; 0]);
        let opened =
            format!("{WORLD}{}{}", policy("all", "", "mode: Strict"), on_admin.replace("Strict", "Permissive"));
        let snapshot = compiled(&opened, None);
        assert_eq!(addresses(port(&snapshot, 80)), [""; 0]);
        assert_eq!(addresses(port(&snapshot, 81)).len(), 2);
    }

    #[test]
    fn a_registration_that_ends_does_not_turn_calls_into_clear_text() {
        let strict = policy("cart", "", "mode: Strict");
        let with = compiled(&format!("{WORLD}{MEMBER}{strict}"), None);
        assert_eq!(picked(port(&with, 80)), Ok("10.0.0.7:8080".to_owned()));
        let without = compiled(&format!("{WORLD}{strict}"), Some(&with));
        assert!(Arc::ptr_eq(port(&with, 80), port(&without, 80)), "it is the same backend");
        let (reason, cause) = picked(port(&without, 80)).expect_err("nobody");
        assert_eq!((reason, reason.status()), (Reason::MeshNoTunnel, 503));
        assert_eq!(cause, "MeshPolicy default/cart: no tunnel leads to 10.0.0.7:8080, 10.0.0.9:8080");
        let nobody = strict.clone() + WORLD.split("---\napiVersion: discovery").next().expect("the first part");
        assert_eq!(picked(port(&compiled(&nobody, None), 80)).expect_err("nobody").0, Reason::NoEndpoints);
        let open = compiled(WORLD, Some(&without));
        assert!(picked(port(&open, 80)).is_ok());
    }

    #[test]
    fn a_name_has_no_tunnel() {
        let external = "apiVersion: v1\nkind: Service\nmetadata: {name: cart}\nspec: {type: ExternalName, externalName: cart.test, \
                        ports: [{name: http, port: 80}]}\n---\n";
        let route = WORLD.split("---").next().expect("a route").replace(", {name: cart, port: 81}", "");
        let snapshot = compiled(&format!("{route}---\n{external}{}", policy("cart", "", "mode: Strict")), None);
        let (reason, cause) = picked(port(&snapshot, 80)).expect_err("nobody");
        assert_eq!(
            (reason, &*cause),
            (Reason::MeshNoTunnel, "MeshPolicy default/cart: no tunnel leads to cart.test:80")
        );
    }
}
