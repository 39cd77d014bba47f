//! What the owners of policies should know: where each is in force, what else stands there, and what it cannot do.
//!
//! Noted by `compile` while rules are made, and told as notes and in the status once all are. Which policy is in force where is decided by the
//! parent.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use transept_model::attach::{PolicyAttachment, PolicyTarget};
use transept_model::kinds::{Object, WorkloadSpec};
use transept_model::place::{Note, ObjectName, Place, Spot};
use transept_model::status::{Condition, Truth};
use transept_model::world::World;
use transept_wire::normalize::{Form, Slashes};

use super::{Clients, Effective, Policies};
use crate::policies::{Age, AnyPolicy, Caution, Identified, KINDS, Known, Phase, Step, kind};
use crate::settings::Settings;

/// What became of a policy.
pub(super) struct Verdicts {
    pub(super) name: ObjectName,
    pub(super) at: Place,
    /// Where its first target is written.
    pub(super) target: Spot,
    pub(super) policy: Option<Arc<AnyPolicy>>,
    /// Whether it is found out who makes requests at the rules where it is in force.
    pub(super) identified: Spread,
    /// Whether clients prove an identity there.
    pub(super) proven: Spread,
    /// One or the other.
    pub(super) named: Spread,
    /// Whether proxies in front are trusted there.
    pub(super) forwarded: Spread,
    /// Whether it is also above connections that nobody looks into, of which it knows nothing.
    pub(super) passes_by: Cell<bool>,
    /// Whether it judges such connections.
    pub(super) meets_connections: Cell<bool>,
    pub(super) invalid: Option<String>,
    pub(super) in_force: Cell<bool>,
    pub(super) replaced: Cell<bool>,
    /// Whether it has a target above routes.
    pub(super) is_above_routes: Cell<bool>,
    /// Whether it decides about requests at a rule to which their paths come as they are.
    pub(super) meets_raw_paths: Cell<bool>,
    /// What the policy cannot do here, though it is in force.
    pub(super) without: Cell<&'static str>,
}

/// Where something holds of the rules where a policy is in force.
#[derive(Default)]
pub(super) struct Spread {
    holds: Cell<bool>,
    does_not: Cell<bool>,
}

impl Spread {
    /// Takes note of one of them.
    fn note(&self, holds: bool) {
        if holds { self.holds.set(true) } else { self.does_not.set(true) }
    }

    fn place(&self) -> Identified {
        match (self.holds.get(), self.does_not.get()) {
            (_, false) => Identified::Everywhere,
            (true, true) => Identified::Partly,
            (false, true) => Identified::Nowhere,
        }
    }
}

/// At how many rules policies stand, and at how many beside another one of their kind, by their positions.
#[derive(Default)]
pub(super) struct Company {
    rules: BTreeMap<usize, usize>,
    shared: BTreeMap<(usize, usize), usize>,
}

impl Company {
    fn meet(&mut self, effective: &Effective) {
        for slot in effective.by_kind.iter().filter(|slot| slot.len() > 1) {
            for (_, one) in slot {
                let others = slot.iter().filter(|(_, other)| other != one);
                others.for_each(|(_, other)| *self.shared.entry((*one, *other)).or_default() += 1);
            }
        }
        effective.all().for_each(|(_, one)| *self.rules.entry(*one).or_default() += 1);
    }

    /// Pairs of which the first stands nowhere without the second, and whether that one stands elsewhere, too.
    fn pairs(&self) -> impl Iterator<Item = ((usize, usize), bool)> {
        let rules = |one: &usize| self.rules.get(one).copied().unwrap_or(0);
        let everywhere = self.shared.iter().filter(move |((one, _), count)| rules(one) == **count);
        everywhere.map(move |(pair, count)| (*pair, rules(&pair.1) > *count))
    }
}

impl Policies<'_> {
    /// Takes note of what stands above connections that nobody looks into.
    pub(in crate::compile) fn meet_connections(&self, effective: &Effective) {
        for (step, policy) in effective.all() {
            let judges_requests = KINDS.iter().any(|facts| facts.kind == step.name.kind && facts.passes_connections_by);
            if let Some(verdicts) = self.verdicts.get(*policy) {
                if judges_requests { verdicts.passes_by.set(true) } else { verdicts.meets_connections.set(true) }
            }
        }
        self.meet_clients(effective);
    }

    /// Takes note of what can be known of those who get to a place.
    fn meet_clients(&self, effective: &Effective) {
        for verdicts in effective.all().filter_map(|(_, policy)| self.verdicts.get(*policy)) {
            verdicts.proven.note(effective.clients == Clients::Proven);
        }
    }

    /// Takes note of what stands together at a rule.
    pub(in crate::compile) fn meet(&self, effective: &Effective) {
        self.company.borrow_mut().meet(effective);
        let mut steps = effective.all().map(|(step, _)| step.phase);
        let is_identified = steps.any(|phase| phase == Phase::Authenticate);
        let settings = settings_of(effective);
        let is_forwarded = !settings.trusted_proxies.is_empty();
        for (_, policy) in effective.all() {
            let Some(verdicts) = self.verdicts.get(*policy) else { continue };
            verdicts.identified.note(is_identified);
            verdicts.named.note(is_identified || effective.clients == Clients::Proven);
            verdicts.forwarded.note(is_forwarded);
        }
        // Paths stay as they come, or a part of them does.
        if settings.path.form == Form::Raw || settings.path.encoded_slash == Slashes::Keep {
            let decides = |step: &Step| matches!(step.phase, Phase::Authenticate | Phase::Authorize);
            for (_, policy) in effective.all().filter(|(step, _)| decides(step)) {
                if let Some(verdicts) = self.verdicts.get(*policy) {
                    verdicts.meets_raw_paths.set(true);
                }
            }
        }
        self.meet_clients(effective);
    }

    /// The ports that a policy names, and those that they lead to, each with where it is named.
    pub(in crate::compile) fn ports_named_by(&self, name: &ObjectName) -> BTreeMap<u16, Spot> {
        let compiled = self.verdicts.iter().filter(|verdicts| verdicts.name == *name);
        compiled.filter_map(|verdicts| verdicts.policy.as_ref()).flat_map(|policy| policy.ports()).collect()
    }

    /// Takes note of what is known of callers beside programs of the mesh: their identities, and nothing that a credential says.
    fn meet_members(&self) {
        let is_beside =
            |target: &PolicyTarget| matches!(target, PolicyTarget::Service { .. } | PolicyTarget::Namespace { .. });
        let placed = self.on.iter().filter(|(target, _)| is_beside(target)).flat_map(|(_, placed)| placed);
        for verdicts in placed.filter_map(|one| self.verdicts.get(one.policy)) {
            verdicts.identified.note(false);
            verdicts.proven.note(true);
            verdicts.named.note(true);
        }
    }

    /// What the owners of policies should know, once all rules are made.
    pub(in crate::compile) fn notes(&self) -> Vec<Note> {
        self.meet_members();
        let note = |verdicts: &Verdicts, at: Spot, what: String| {
            let at = if at.line == 0 { verdicts.at.clone() } else { Place::new(Arc::clone(&verdicts.at.file), at) };
            Note { at, object: Some(verdicts.name.clone()), what }
        };
        let cautions = self.verdicts.iter().flat_map(|verdicts| {
            let known = Known {
                identified: verdicts.identified.place(),
                proven: verdicts.proven.place(),
                named: verdicts.named.place(),
                forwarded: verdicts.forwarded.place(),
            };
            let mut all = verdicts.policy.as_ref().map(|policy| policy.cautions(known)).unwrap_or_default();
            if let Some(policy) = verdicts.policy.as_ref().filter(|_| verdicts.meets_connections.get()) {
                all.extend(policy.of_connections());
            }
            all.into_iter().map(move |caution| note(verdicts, caution.at, caution.what))
        });
        let passes_by = self.verdicts.iter().filter(|verdicts| verdicts.passes_by.get()).map(|verdicts| {
            let what = "it judges requests, and a listener of TCP below its target takes connections without looking into them: nothing of \
                        it holds there; connections are judged by AuthorizationPolicy and IpAccessPolicy";
            note(verdicts, verdicts.target, what.to_owned())
        });
        let raw = self.verdicts.iter().filter(|one| one.meets_raw_paths.get() && !one.is_above_routes.get());
        let raw = raw.map(|verdicts| {
            let what = "it is on a route, and a ListenerPolicy above leaves paths as they are (`form: Raw`), or encoded slashes in them \
                        (`encodedSlashes: Keep`): a request for `/x/../admin`, `/%61dmin` or `/admin%2Fx` takes another route than one for `/admin`, where \
                        nobody asks this policy; attach it to the Gateway or the listener, or write `form: Refuse` and `encodedSlashes: Refuse`";
            note(verdicts, verdicts.target, what.to_owned())
        });
        let beside = self.beside().into_iter().map(|(verdicts, caution)| note(verdicts, caution.at, caution.what));
        cautions.chain(passes_by).chain(raw).chain(beside).collect()
    }

    /// What the owners of policies should know of others that stand wherever theirs do, by the order of the policies.
    fn beside(&self) -> Vec<(&Verdicts, Caution)> {
        let mut targets: BTreeMap<usize, usize> = BTreeMap::new();
        let mut shared: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for placed in self.on.values() {
            for one in placed {
                *targets.entry(one.policy).or_default() += 1;
                let others = placed.iter().filter(|other| other.kind == one.kind && other.policy != one.policy);
                for other in others {
                    *shared.entry((one.policy, other.policy)).or_default() += 1;
                }
            }
        }
        let on_the_same = shared.into_iter().filter(|(pair, count)| targets.get(&pair.0) == Some(count));
        let mut pairs: BTreeMap<(usize, usize), bool> = on_the_same.map(|(pair, _)| (pair, false)).collect();
        // What stands above a route stands at each of its rules. Above other routes may come.
        let is_of_routes = |one: usize| self.verdicts.get(one).is_some_and(|verdicts| !verdicts.is_above_routes.get());
        pairs.extend(self.company.borrow().pairs().filter(|((one, _), _)| is_of_routes(*one)));
        let cautions = pairs.into_iter().filter_map(|((one, other), is_elsewhere)| {
            // Others use up as well what is counted elsewhere, too.
            let age = if one < other && !is_elsewhere { Age::Older } else { Age::Younger };
            let (one, other) = (self.verdicts.get(one)?, self.verdicts.get(other)?);
            let cautions = one.policy.as_ref()?.beside(other.policy.as_ref()?, &other.name, age);
            Some(cautions.into_iter().map(move |caution| (one, caution)))
        });
        cautions.flatten().collect()
    }

    /// The conditions that follow for the status of each policy.
    pub(in crate::compile) fn conditions(&self) -> Vec<(ObjectName, Condition)> {
        self.verdicts
            .iter()
            .filter_map(|verdicts| {
                let condition = match (&verdicts.invalid, verdicts.in_force.get(), verdicts.replaced.get()) {
                    (Some(why), _, _) => Condition::new(
                        "Accepted",
                        Truth::False,
                        "Invalid",
                        format!("{why}. Until it is mended, requests to its targets are answered with 500."),
                    ),
                    (None, true, false) => {
                        let without = verdicts.without.get();
                        let reason = if without.is_empty() { "Programmed" } else { "PartiallyProgrammed" };
                        Condition::new("Programmed", Truth::True, reason, format!("The policy is in force.{without}"))
                    }
                    (None, true, true) => Condition::new(
                        "Programmed",
                        Truth::True,
                        "PartiallyProgrammed",
                        format!(
                            "The policy is in force, except where one on a more specific target replaces it.{}",
                            verdicts.without.get()
                        ),
                    ),
                    (None, false, true) => Condition::new(
                        "Programmed",
                        Truth::False,
                        "Overridden",
                        "Other policies of this kind, older ones or on more specific targets, replace it everywhere.",
                    ),
                    (None, false, false) => return None,
                };
                Some((verdicts.name.clone(), condition))
            })
            .collect()
    }
}

/// What the status says of policies that stand at the workloads of Services: how many of those are in the mesh. Where there is none,
/// nobody asks the policy, and its owner should know.
pub(in crate::compile) fn tell_where_they_stand(
    world: &World,
    attachments: &[PolicyAttachment],
) -> Vec<(ObjectName, Condition)> {
    let mut told = Vec::new();
    for attachment in attachments {
        let is_member = |one: &&Arc<Object<WorkloadSpec>>| one.spec.tunnel.is_some();
        let (members, whose) = match &attachment.target {
            PolicyTarget::Service { namespace, name, .. } => {
                (world.workloads_of(namespace, name).iter().filter(is_member).count(), "Service")
            }
            PolicyTarget::Namespace { name } => {
                let here = world.workloads().iter().filter(|one| one.meta.namespace == *name);
                (here.filter(is_member).count(), "Namespace")
            }
            _ => continue,
        };
        let policy = &attachment.policy;
        let asked_there =
            kind(policy.kind).is_some_and(|facts| matches!(facts.phase, Phase::Authorize | Phase::Settle));
        // With several targets the message would be about one of them.
        if !asked_there || policy.target_refs.len() != 1 {
            continue;
        }
        let message = format!(
            "The policy is attached. It stands at those workloads of the {whose} that are members of the mesh (known: {members})."
        );
        told.push((policy.meta.object_name(), Condition::new("Accepted", Truth::True, "Accepted", message)));
    }
    told
}

/// The settings of a listener where these policies are in force.
fn settings_of(effective: &Effective) -> Settings {
    let mut settings = Settings::default();
    let settling = effective.all().filter(|(step, _)| step.phase == Phase::Settle);
    settling.filter_map(|(step, _)| step.policy.as_ref()).for_each(|policy| policy.settle(&mut settings));
    settings
}
