//! Schemes of policies on routes of Services that let nobody in: what clients are held against does not leave the control plane.
//!
//! Called by `compile` for its notes. Secrets, keys and Consumers are for gateways; the proxy of a caller, which carries such a route out, has none of them.

use transept_model::attach::{Attached, PolicyTarget};
use transept_model::place::{Note, Place};
use transept_model::value::{Node, Value};

use super::super::key_of;

/// The words of schemes that need them.
const KEYED: [&str; 3] = ["apiKey", "basic", "hmac"];

/// What the owners of such policies should know.
pub(in crate::compile) fn keyless_schemes(attached: &Attached) -> Vec<Note> {
    let mut notes = Vec::new();
    for attachment in attached.policies.iter().filter(|one| one.policy.kind == "AuthenticationPolicy") {
        let (kind, namespace, name) = match &attachment.target {
            PolicyTarget::Route { kind, namespace, name } => (*kind, &**namespace, &**name),
            PolicyTarget::Rule { kind, namespace, route, .. } => (*kind, &**namespace, &**route),
            _ => continue,
        };
        let mut routes = attached.services.iter().flat_map(|service| &service.routes);
        if !routes.any(|one| key_of(&one.route) == (kind, namespace, name)) {
            continue;
        }
        for scheme in schemes(&attachment.policy.spec) {
            let Some(word) = KEYED.into_iter().find(|word| scheme.field(word).is_some()) else { continue };
            let named = scheme.field("name").and_then(Value::text).unwrap_or(word);
            let what = format!(
                "{kind} {namespace}/{name} has a Service as its parent, and is carried out by the proxies of callers, which get neither keys nor Secrets: scheme `{named}` \
                 (`{word}`) lets nobody in there; ask for tokens (`jwt`), or for identities by an AuthorizationPolicy on the Service"
            );
            let meta = &attachment.policy.meta;
            let at = Place::new(meta.at.file.clone(), scheme.at);
            notes.push(Note { at, object: Some(meta.object_name()), what });
        }
    }
    notes
}

fn schemes(spec: &Value) -> &[Value] {
    match spec.field("schemes").map(|schemes| &schemes.node) {
        Some(Node::List(schemes)) => schemes,
        _ => &[],
    }
}
