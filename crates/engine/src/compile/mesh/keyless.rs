//! Schemes of policies on routes of Services that let nobody in: what clients are held against does not leave the control plane.
//!
//! Called by `compile` for its notes. Secrets, keys and Consumers are for gateways; the proxy of a caller, which carries such a route out, has none of them.

use transept_model::attach::{Attached, PolicyTarget};
use transept_model::place::{Note, Place};
use transept_model::value::{Node, Value};

use super::super::key_of;

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
            let Some(need) = need(scheme) else { continue };
            let named = scheme.field("name").and_then(Value::text).unwrap_or_default();
            let effect = match need {
                Need::Keys => format!("scheme `{named}` lets nobody in there"),
                Need::Secret => {
                    format!("scheme `{named}` needs some, so that the whole policy lets nothing through there")
                }
            };
            let what = format!(
                "{kind} {namespace}/{name} has a Service as its parent, and is carried out by the proxies of callers, which get neither keys nor Consumers nor Secrets: \
                 {effect}; ask for tokens (`jwt`), or for identities by an AuthorizationPolicy on the Service"
            );
            let meta = &attachment.policy.meta;
            let at = Place::new(meta.at.file.clone(), scheme.at);
            let note = Note { at, object: Some(meta.object_name()), what };
            // A policy may be on several rules of a route.
            if !notes.contains(&note) {
                notes.push(note);
            }
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

/// What a scheme needs that does not travel.
enum Need {
    Keys,
    Secret,
}

fn need(scheme: &Value) -> Option<Need> {
    let has = |path: &[&str]| path.iter().try_fold(scheme, |value, name| value.field(name)).is_some();
    let of_secrets: [&[&str]; 9] = [
        &["clientCertificate", "consumers"],
        &["apiKey", "pepper"],
        &["basic"],
        &["hmac"],
        &["signature"],
        &["login"],
        &["introspection", "clientSecret"],
        &["jwt", "keys", "sharedSecret"],
        &["jwt", "proofNonces"],
    ];
    if of_secrets.into_iter().any(has) {
        return Some(Need::Secret);
    }
    has(&["apiKey"]).then_some(Need::Keys)
}
