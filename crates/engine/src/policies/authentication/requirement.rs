//! `require` of `AuthenticationPolicy`: OpenAPI's `security`, a list of alternatives that each name schemes and scopes.
//!
//! Called by the policy's spec and compile.

use serde_json::Value as Json;
use transept_model::place::Spot;
use transept_model::schema::{Decoder, Schema, Shape, Text};
use transept_model::secrecy::may_be_credential;
use transept_model::value::{Node, Value, quote};

use super::AuthenticationPolicySpec;

/// Schemes that must hold together, in the order in which they are written, each with the scopes that its credential must be good for.
/// Without any scheme: no credentials are needed.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct Requirement {
    at: Spot,
    schemes: Vec<(Text, Vec<Text>)>,
}

impl Schema for Requirement {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        let Node::Map(entries) = &value.node else {
            cx.expected(value, "a mapping");
            if let Some(name) = value.text().filter(|name| !may_be_credential(name)) {
                cx.amend(format!("write `{{{name}: []}}`"));
            }
            return None;
        };
        let mut schemes = Vec::with_capacity(entries.len());
        for entry in entries {
            let step = transept_model::schema::Step::Key(entry.key.clone());
            let scopes = cx.within(step, |cx| {
                if entry.value.is_null() {
                    cx.refuse(entry.at, "it is not said which scopes are needed")
                        .remedy("write them, or `[]` for none");
                    return None;
                }
                let scopes = <Vec<Text>>::decode(&entry.value, cx)?;
                for scope in scopes.iter().filter(|scope| !is_scope(scope)) {
                    cx.refuse(entry.value.at, format!("{} cannot be a scope", quote(scope)))
                        .remedy("use visible ASCII without spaces, `\"` and `\\` (RFC 6749)");
                }
                Some(scopes)
            })?;
            schemes.push((Text::from(&*entry.key), scopes));
        }
        Some(Requirement { at: value.at, schemes })
    }

    fn shape() -> Shape {
        Shape::Map(Box::new(<Vec<Text>>::shape()))
    }

    fn encode(&self) -> Json {
        let map: serde_json::Map<String, Json> =
            self.schemes.iter().map(|(name, scopes)| (name.to_string(), scopes.encode())).collect();
        map.into()
    }
}

/// RFC 6749 section 3.3.
fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~'))
}

/// A requirement, compiled.
#[derive(Debug)]
pub(super) struct Alternative {
    pub(super) needs: Vec<Need>,
}

#[derive(Debug)]
pub(super) struct Need {
    /// Position in the list of schemes.
    pub(super) scheme: usize,
    pub(super) scopes: Vec<Text>,
}

/// Refuses requirements that name unknown schemes, and schemes that no requirement names.
pub(super) fn check(spec: &AuthenticationPolicySpec, value: &Value, cx: &mut Decoder) {
    let Some(require) = &spec.require else { return };
    if require.is_empty() {
        cx.refuse_field(value, "require", "an empty list of requirements lets nobody in")
            .remedy("remove `require`, so that any one of the schemes suffices, or write one");
        return;
    }
    let known: Vec<&str> = spec.schemes.iter().map(|scheme| &*scheme.name).collect();
    for (index, requirement) in require.iter().enumerate() {
        for (name, _) in requirement.schemes.iter().filter(|(name, _)| !known.contains(&&**name)) {
            cx.within("require", |cx| {
                cx.within(index, |cx| {
                    let why = format!("there is no scheme {} in `schemes`", quote(name));
                    cx.refuse(requirement.at, why).remedy(format!("write one of {}, or add it", known.join(", ")));
                });
            });
        }
    }
    for scheme in &spec.schemes {
        let named = require.iter().flat_map(|one| &one.schemes).any(|(name, _)| *name == scheme.name);
        if !named {
            let why = format!("no requirement names the scheme `{}`, so that it lets nobody in", &*scheme.name);
            cx.refuse(scheme.at, why).remedy(format!("add `- {{{}: []}}` to `require`, or remove it", &*scheme.name));
        }
    }
}

/// The alternatives that name schemes, and whether there is one that names none.
pub(super) fn compile(spec: &AuthenticationPolicySpec) -> (Vec<Alternative>, bool) {
    let Some(require) = &spec.require else {
        let each =
            (0..spec.schemes.len()).map(|scheme| Alternative { needs: vec![Need { scheme, scopes: Vec::new() }] });
        return (each.collect(), false);
    };
    let position = |name: &Text| spec.schemes.iter().position(|scheme| scheme.name == *name);
    let needs = |one: &Requirement| Alternative {
        needs: one
            .schemes
            .iter()
            .filter_map(|(name, scopes)| Some(Need { scheme: position(name)?, scopes: scopes.clone() }))
            .collect(),
    };
    let alternatives = require.iter().filter(|one| !one.schemes.is_empty()).map(needs).collect();
    (alternatives, require.iter().any(|one| one.schemes.is_empty()))
}
