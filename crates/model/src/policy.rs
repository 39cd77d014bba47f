//! The envelope of a policy: what kind it is, what it targets, and its spec as it was written.
//!
//! The table of policy kinds belongs to `engine` and is handed to the loader. What a spec means, how specs of several policies merge and
//! whether a target exists is not decided here.

use crate::kinds::backend_tls_policy::{PolicyTargetReference, check_targets};
use crate::kinds::{GATEWAY_GROUP, Metadata, TRANSEPT_GROUP};
use crate::place::{Invalid, Spot};
use crate::schema::{Decoder, Presence, Rule, Schema, Shape};
use crate::suggest;
use crate::value::{Node, Value, ticked};

/// What a policy can be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A Gateway, with all its listeners.
    Gateway,
    /// One listener of a Gateway (`sectionName`).
    Listener,
    /// An HTTPRoute or GRPCRoute, with all its rules.
    Route,
    /// One rule of an HTTPRoute or GRPCRoute (`sectionName`).
    Rule,
    /// A TCPRoute, or its rule (`sectionName`): for policies that judge connections, which are all that there is of it.
    TcpRoute,
    /// A Service, or one of its ports (`sectionName`).
    Service,
    /// A Backend.
    Backend,
    /// A workload of the mesh.
    Workload,
    /// A Namespace: every Service in it.
    Namespace,
}

impl Target {
    /// The target in words, for messages and documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Target::Gateway => "Gateway",
            Target::Listener => "listener of a Gateway",
            Target::Route => "HTTPRoute or GRPCRoute",
            Target::Rule => "rule of a route",
            Target::TcpRoute => "TCPRoute",
            Target::Service => "Service",
            Target::Backend => "Backend",
            Target::Workload => "workload",
            Target::Namespace => "Namespace",
        }
    }

    /// What a reference points at, by its group, kind and section; none when no policy can be attached to that kind.
    pub fn of(reference: &PolicyTargetReference) -> Option<Target> {
        let section = reference.section_name.is_some();
        match (&*reference.group, &*reference.kind) {
            (GATEWAY_GROUP, "Gateway") if section => Some(Target::Listener),
            (GATEWAY_GROUP, "Gateway") => Some(Target::Gateway),
            (GATEWAY_GROUP, "HTTPRoute" | "GRPCRoute") if section => Some(Target::Rule),
            (GATEWAY_GROUP, "HTTPRoute" | "GRPCRoute") => Some(Target::Route),
            (GATEWAY_GROUP, "TCPRoute") => Some(Target::TcpRoute),
            ("", "Service") => Some(Target::Service),
            ("", "Namespace") => Some(Target::Namespace),
            (TRANSEPT_GROUP, "Backend") => Some(Target::Backend),
            _ => None,
        }
    }
}

/// How policies on different levels, or several on one target, come together (GEP-713).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Merge {
    /// One policy a target; the oldest wins, the others are in conflict.
    None,
    /// All apply, on every level: what they say is put together.
    Together,
    /// The more specific policy replaces the more general one.
    AtomicDefaults,
    /// The more general policy wins whole.
    AtomicOverrides,
    /// The more specific policy is laid over the more general one, field by field (RFC 7386).
    PatchDefaults,
    /// The more general policy is laid over the more specific one, field by field (RFC 7386).
    PatchOverrides,
}

/// A kind of policy, as the table of `engine` declares it.
#[derive(Clone, Copy, Debug)]
pub struct PolicyKind {
    /// Its name: `HeaderPolicy`. Its group and version are `transept.dev/v1alpha1`.
    pub kind: &'static str,
    /// What it is for, in a sentence or two.
    pub about: &'static str,
    /// What it can be attached to.
    pub targets: &'static [Target],
    /// How it merges.
    pub merge: Merge,
    /// What its spec looks like, without `targetRefs`.
    pub shape: fn() -> Shape,
    /// Reads a spec (without `targetRefs`) for its errors only.
    pub check: fn(&Value, &mut Decoder),
}

impl PolicyKind {
    /// A kind of policy whose spec is `S`.
    pub const fn of<S: Schema>(
        kind: &'static str,
        about: &'static str,
        targets: &'static [Target],
        merge: Merge,
    ) -> Self {
        Self { kind, about, targets, merge, shape: S::shape, check: check_spec::<S> }
    }
}

fn check_spec<S: Schema>(value: &Value, cx: &mut Decoder) {
    S::decode(value, cx);
}

/// The annotation that says among how many proxies the limits of a policy are divided. Written by the control plane into what it sends, and by
/// people where there is none.
pub const PROXIES: &str = "transept.dev/proxies";
/// More than these is not a number of proxies.
const MOST_PROXIES: u32 = 10_000;

/// A policy: its envelope, and its spec as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its kind.
    pub kind: &'static str,
    /// How policies of its kind merge.
    pub merge: Merge,
    /// Its name, labels, age.
    pub meta: Metadata,
    /// What it targets, in its own namespace.
    pub target_refs: Vec<PolicyTargetReference>,
    /// Its spec without `targetRefs`.
    pub spec: Value,
    /// Why it cannot be used, when it was kept although it is not valid ([`crate::load::Broken::Kept`]). Its targets are known as
    /// far as they could be read; whoever applies it fails closed on them.
    pub broken: Option<Box<str>>,
}

impl Policy {
    /// Among how many proxies its limits are divided, by [`PROXIES`]. The text itself when it is no such number.
    pub fn proxies(&self) -> Result<Option<u32>, &str> {
        let Some(text) = self.meta.annotations.get(PROXIES) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (1..=MOST_PROXIES).contains(number));
        number.map(Some).ok_or(text)
    }

    /// Reads the spec. The loader has done so before, so that there are errors only when `S` is not the type of the table.
    pub fn decode<S: Schema>(&self) -> Result<S, Vec<Invalid>> {
        let mut cx = Decoder::new(self.meta.at.file.clone());
        cx.about(Some(self.meta.object_name()));
        let spec = cx.within("spec", |cx| S::decode(&self.spec, cx));
        match (spec, cx.count()) {
            (Some(spec), 0) => Ok(spec),
            _ => Err(cx.into_problems()),
        }
    }
}

/// The rules of `spec.targetRefs`.
pub(crate) const TARGET_RULES: &[Rule] = &[Rule::MinItems(1), Rule::MaxItems(16)];

/// Reads the contents of a policy: `spec` without its `targetRefs`, and those.
pub(crate) fn read(kind: &PolicyKind, spec: Value, cx: &mut Decoder) -> Option<(Vec<PolicyTargetReference>, Value)> {
    let at = spec.at;
    let Node::Map(entries) = spec.node else {
        cx.expected(&spec, "a mapping");
        return None;
    };
    let (targets, mut rest): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| &*entry.key == "targetRefs");
    let written = targets.first().map(|entry| &entry.value);
    let misspelled = rest.iter().position(|entry| is_like_targets(&entry.key)).filter(|_| written.is_none());
    let target_refs: Option<Vec<PolicyTargetReference>> = match misspelled.map(|index| rest.remove(index)) {
        Some(entry) => {
            let invalid = cx.refuse(entry.at, format!("unknown field {}", ticked(&entry.key)));
            invalid.is_misshapen = true;
            invalid.remedy("did you mean `targetRefs`?");
            None
        }
        None => cx.field("targetRefs", written, at, Presence::ByType, TARGET_RULES),
    };
    let rest = Value { at, node: Node::Map(rest) };
    if let Some(refs) = &target_refs {
        cx.within("targetRefs", |cx| {
            check_targets(refs, cx);
            for (index, reference) in refs.iter().enumerate() {
                cx.within(index, |cx| check_target(kind, reference, reference.at, cx));
            }
        });
    }
    (kind.check)(&rest, cx);
    target_refs.map(|refs| (refs, rest))
}

/// Whether a field is meant to be `targetRefs`. No field of a policy begins so.
fn is_like_targets(key: &str) -> bool {
    key.get(..6).is_some_and(|begin| begin.eq_ignore_ascii_case("target"))
        || suggest::nearest(key, ["targetRefs"]).is_some()
}

/// The targets of a policy that cannot be read whole, as far as they are told, and the rest of its spec. A part that is named in a
/// way that cannot be read stands for the whole. None when no target is told.
pub(crate) fn salvage(spec: Value) -> Option<(Vec<PolicyTargetReference>, Value)> {
    let at = spec.at;
    let references = spec.field("targetRefs")?.items().iter().filter_map(|reference| {
        let text = |field: &str| reference.field(field).and_then(Value::text);
        Some(PolicyTargetReference {
            at: reference.at,
            group: text("group").unwrap_or_default().into(),
            kind: text("kind")?.into(),
            name: text("name")?.into(),
            section_name: text("sectionName").map(Into::into),
        })
    });
    let references: Vec<_> = references.collect();
    let Node::Map(mut entries) = spec.node else { return None };
    entries.retain(|entry| &*entry.key != "targetRefs");
    (!references.is_empty()).then_some((references, Value { at, node: Node::Map(entries) }))
}

/// The article before the name of a kind.
pub(crate) fn article(kind: &str) -> &'static str {
    if kind.starts_with(['A', 'E', 'I', 'O']) || kind.starts_with("HTTP") { "an" } else { "a" }
}

/// The group of a kind that policies are attached to, for who has written another one.
fn group_of(kind: &str) -> Option<&'static str> {
    match kind {
        "Gateway" | "HTTPRoute" | "GRPCRoute" | "TCPRoute" => Some(GATEWAY_GROUP),
        "Service" | "Namespace" => Some("\"\""),
        "Backend" => Some(TRANSEPT_GROUP),
        _ => None,
    }
}

fn check_target(kind: &PolicyKind, reference: &PolicyTargetReference, at: Spot, cx: &mut Decoder) {
    let target = Target::of(reference);
    let is_part_of_nothing = target == Some(Target::Namespace) && reference.section_name.is_some();
    if target.is_some_and(|target| kind.targets.contains(&target)) && !is_part_of_nothing {
        return;
    }
    if target == Some(Target::Namespace) && kind.targets.contains(&Target::Namespace) {
        // A policy on what is not there would be on nothing.
        cx.refuse(at, "a Namespace has no parts").remedy("leave `sectionName` away");
        return;
    }
    let what = match target {
        Some(target) => format!("{} {}", article(target.as_str()), target.as_str()),
        None => format!("{} of group \"{}\"", reference.kind, reference.group),
    };
    let allowed: Vec<&str> = kind.targets.iter().map(|target| target.as_str()).collect();
    let mut remedy = format!("it attaches to: {}", allowed.join(", "));
    if let (None, Some(group)) = (target, group_of(&reference.kind)) {
        remedy = format!("write `group: {group}`; {remedy}");
    }
    if target == Some(Target::TcpRoute) {
        remedy.push_str("; connections are judged by AuthorizationPolicy and IpAccessPolicy, and bounded by `limits.connections` of ListenerPolicy");
    }
    cx.refuse(at, format!("{} {} cannot be attached to {what}", article(kind.kind), kind.kind)).remedy(remedy);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Broken, Loader};
    use crate::place::SourceText;

    #[allow(unreachable_pub)]
    mod spec {
        crate::object! {
        /// A spec for tests.
        pub struct TestSpec {
            /// How many.
            count: u32 = 1;
        }
        }
    }

    const KINDS: &[PolicyKind] = &[PolicyKind::of::<spec::TestSpec>(
        "TestPolicy",
        "For tests.",
        &[Target::Service, Target::Namespace],
        Merge::None,
    )];

    fn policy(spec: &str) -> SourceText {
        let text =
            format!("{{apiVersion: transept.dev/v1alpha1, kind: TestPolicy, metadata: {{name: a}}, spec: {spec}}}");
        SourceText::new("a.yaml", text)
    }

    #[test]
    fn who_misspells_targets_is_told_how_they_are_written() {
        let told = |spec: &str| {
            let invalid = Loader::new(KINDS).load(&[policy(spec)]).invalid;
            assert_eq!(invalid.len(), 1, "{invalid:?}");
            format!("{}; {}", invalid[0].why, invalid[0].remedy.as_deref().unwrap_or_default())
        };
        for field in ["targetRef", "targetrefs", "targets", "target", "tagetRefs"] {
            let said = told(&format!("{{{field}: [{{group: '', kind: Service, name: cart}}]}}"));
            assert_eq!(said, format!("unknown field `{field}`; did you mean `targetRefs`?"));
        }
        let other = told("{targetRefs: [{group: gateway.networking.k8s.oi, kind: Service, name: cart}]}");
        assert!(other.ends_with("write `group: \"\"`; it attaches to: Service, Namespace"), "{other}");
    }

    #[test]
    fn a_policy_that_is_not_valid_is_kept_on_the_targets_that_it_tells() {
        let loader = Loader::new(KINDS).broken_policies(Broken::Kept);
        let targets = "{group: '', kind: Service, name: cart, sectionName: http}";
        for (spec, why, section) in [
            (format!("{{targetRefs: [{targets}], counts: 2}}"), "counts", Some("http")),
            (format!("{{targetRefs: [{targets}], count: many}}"), "number", Some("http")),
            ("{targetRefs: [{group: '', kind: Service, name: cart, sectionName: 7, part: x}]}".into(), "part", None),
            ("{targetRefs: [{group: '', kind: Gateway, name: cart}]}".into(), "Gateway", None),
            (format!("{{targetRefs: [{targets}], count: }}"), "`count` has no value", Some("http")),
            ("{targetRefs: [{group: '', kind: Namespace, name: cart, sectionName: x}]}".into(), "no parts", Some("x")),
        ] {
            let text = [policy(&spec)];
            assert!(!Loader::new(KINDS).load(&text).invalid.is_empty(), "{spec}");
            let loaded = loader.load(&text);
            assert_eq!((loaded.invalid.len(), loaded.world.policies().len()), (0, 1), "{spec}");
            let kept = &loaded.world.policies()[0];
            assert!(kept.broken.as_ref().is_some_and(|broken| broken.contains(why)), "{:?}", kept.broken);
            let target = &kept.target_refs[0];
            assert_eq!((&*target.name, target.section_name.as_deref()), ("cart", section), "{spec}");
            assert!(!loaded.notes.is_empty());
        }
        for spec in ["{count: 2}", "{targetRefs: []}", "{targetRefs: [{name: cart}]}", "7"] {
            assert!(!loader.load(&[policy(spec)]).invalid.is_empty(), "{spec}: no target is told");
        }
        let good = loader.load(&[policy(&format!("{{targetRefs: [{targets}], count: 2}}"))]);
        assert!(good.invalid.is_empty() && good.world.policies()[0].broken.is_none());
    }
}
