//! Policies into chains: each compiled once, then merged along Gateway > listener > route > rule.
//!
//! Called by `compile`. Which policy targets what, and whether the target exists, was decided by `attach`; here it is decided which
//! policy is in force where, and in `verdicts` what that means for its status (GEP-713): a spec that does not compile is `Invalid` and fails
//! closed, a policy that others replace everywhere is `Overridden`.

mod verdicts;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use smallvec::SmallVec;
use transept_model::attach::{PolicyAttachment, PolicyTarget};
use transept_model::place::{Invalid, ObjectName};
use transept_model::policy::{Merge, Policy};
use transept_model::schema::{Decoder, Text};
use transept_model::world::World;

use crate::keep::{Idle, Keep};
use crate::policies::{AnyPolicy, Chain, CompileCx, Force, KINDS, KindFacts, Needs, Phase, PolicyName, Reach, Step};
use crate::redact::CredentialPlaces;
use crate::rule::Site;
use crate::settings::Settings;
use crate::traffic::Traffic;

pub(super) use self::verdicts::tell_where_they_stand;
use self::verdicts::{Company, Spread, Verdicts};

/// All policies of one compile.
pub(super) struct Policies<'w> {
    on: HashMap<&'w PolicyTarget, Vec<Placed>>,
    verdicts: Vec<Verdicts>,
    company: RefCell<Company>,
    pub(super) problems: Vec<Invalid>,
    /// What policies need from outside.
    pub(super) needs: Needs,
    /// Where they look for credentials.
    pub(super) credentials: CredentialPlaces,
}

/// One policy on one target.
struct Placed {
    kind: usize,
    step: Arc<Step>,
    /// Position in `verdicts`.
    policy: usize,
}

/// The policies of one kind in force at one place, each with its position in `verdicts`.
type Slot = SmallVec<[(Arc<Step>, usize); 1]>;

/// The policies in force at one place, by kind. More than one of a kind only where they come together.
#[derive(Clone, Default)]
pub(super) struct Effective {
    by_kind: Vec<Slot>,
    clients: Clients,
}

/// Whether those who get to a place can have proven an identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Clients {
    /// As a member of the mesh, or by a certificate that the listener has verified.
    #[default]
    Proven,
    /// Nobody has asked them for a certificate, or any was good enough.
    Unproven,
}

impl Effective {
    /// The same below a listener with such clients.
    pub(super) fn for_clients(self, clients: Clients) -> Effective {
        Effective { clients, ..self }
    }

    fn all(&self) -> impl Iterator<Item = &(Arc<Step>, usize)> {
        self.by_kind.iter().flatten()
    }
}

impl<'w> Policies<'w> {
    pub(super) fn new(
        attachments: &'w [PolicyAttachment],
        world: &World,
        keep: &Keep,
        programs: BTreeMap<u16, BTreeSet<u16>>,
    ) -> Policies<'w> {
        let mut policies = Policies {
            on: HashMap::new(),
            verdicts: Vec::new(),
            company: RefCell::default(),
            problems: Vec::new(),
            needs: Needs { programs, ..Needs::default() },
            credentials: CredentialPlaces::default(),
        };
        let mut compiled: HashMap<*const Policy, (usize, Option<Arc<AnyPolicy>>)> = HashMap::new();
        for attachment in attachments {
            let policy = &attachment.policy;
            let Some((kind, facts)) = KINDS.iter().enumerate().find(|(_, facts)| facts.kind == policy.kind) else {
                continue;
            };
            let (index, body) =
                compiled.entry(Arc::as_ptr(policy)).or_insert_with(|| policies.compile(policy, world, keep)).clone();
            let is_of_route = matches!(attachment.target, PolicyTarget::Route { .. } | PolicyTarget::Rule { .. });
            if let Some(verdicts) = policies.verdicts.get(index).filter(|_| !is_of_route) {
                verdicts.is_above_routes.set(true);
            }
            let step = Arc::new(make_step(facts, policy, &attachment.target, body));
            let placed = policies.on.entry(&attachment.target).or_default();
            // The oldest comes first; a younger one of the same kind on the same target is replaced by it.
            if facts.merge != Merge::Together && placed.iter().any(|other| other.kind == kind) {
                if let Some(verdicts) = policies.verdicts.get(index) {
                    verdicts.replaced.set(true);
                }
            } else {
                placed.push(Placed { kind, step, policy: index });
            }
        }
        policies
    }

    fn compile(&mut self, policy: &Policy, world: &World, keep: &Keep) -> (usize, Option<Arc<AnyPolicy>>) {
        let name = policy.meta.object_name();
        let mut cx = Decoder::new(Arc::clone(&policy.meta.at.file));
        cx.about(Some(name.clone()));
        let compiled = match &policy.broken {
            None => cx.within("spec", |cx| {
                let mut cx = CompileCx::new(cx, world, &name, keep, &mut self.needs);
                AnyPolicy::compile(policy.kind, &policy.spec, &mut cx)
            }),
            Some(why) => {
                cx.refuse(policy.meta.at.spot(), &**why);
                None
            }
        };
        if let Some(policy) = &compiled {
            policy.credential_places(&mut self.credentials);
        }
        let problems = cx.into_problems();
        let invalid = compiled.is_none().then(|| {
            let reasons: Vec<_> = problems.iter().map(|problem| problem.why.as_str()).collect();
            reasons.join("; ")
        });
        self.problems.extend(problems);
        let compiled = compiled.map(Arc::new);
        self.verdicts.push(Verdicts {
            name,
            at: policy.meta.at.clone(),
            target: policy.target_refs.first().map(|target| target.at).unwrap_or_default(),
            policy: compiled.clone(),
            identified: Spread::default(),
            proven: Spread::default(),
            named: Spread::default(),
            forwarded: Spread::default(),
            invalid,
            in_force: Cell::new(false),
            replaced: Cell::new(false),
            without: Cell::new(""),
            passes_by: Cell::new(false),
            meets_connections: Cell::new(false),
            is_above_routes: Cell::new(false),
            meets_raw_paths: Cell::new(false),
        });
        (self.verdicts.len() - 1, compiled)
    }

    /// What those policies remember that are not in force now: they are not valid, or what they are to be on is not there or serves nobody. To be
    /// asked when all rules are made.
    pub(super) fn idle_memories(&self, world: &World, keep: &Keep) -> Idle {
        let in_use: HashSet<&ObjectName> = self
            .verdicts
            .iter()
            .filter(|one| one.policy.is_some() && one.in_force.get())
            .map(|one| &one.name)
            .collect();
        let names = || world.policies().iter().map(|policy| policy.meta.object_name());
        keep.forget_policies_besides(&names().map(|name| name.to_string().into()).collect());
        let idle: BTreeSet<Box<str>> =
            names().filter(|name| !in_use.contains(name)).map(|name| name.to_string().into()).collect();
        if idle.is_empty() { Idle::default() } else { keep.of_policies(&idle) }
    }

    /// Whether there is no policy at all.
    pub(super) fn is_empty(&self) -> bool {
        self.on.is_empty()
    }

    /// Whether anything is attached to this target.
    pub(super) fn touches(&self, target: &PolicyTarget) -> bool {
        self.on.contains_key(target)
    }

    /// The ports of a Service that something is attached to, in order.
    pub(super) fn ports_of(&self, of: &Text, service: &Text) -> Vec<Text> {
        let ports = self.on.keys().filter_map(|target| match target {
            PolicyTarget::Service { namespace, name, port } if namespace == of && name == service => port.clone(),
            _ => None,
        });
        let mut ports: Vec<Text> = ports.collect();
        ports.sort();
        ports
    }

    /// Lays the policies of a more specific target over those of a more general one.
    pub(super) fn lay_over(&self, general: &Effective, target: &PolicyTarget) -> Effective {
        let mut effective = general.clone();
        effective.by_kind.resize_with(KINDS.len(), SmallVec::new);
        for placed in self.on.get(target).into_iter().flatten() {
            let together = KINDS.get(placed.kind).is_some_and(|facts| facts.merge == Merge::Together);
            let Some(slot) = effective.by_kind.get_mut(placed.kind) else {
                continue;
            };
            if together {
                // One policy may have several targets above one place.
                if slot.iter().all(|(_, policy)| *policy != placed.policy) {
                    slot.push((Arc::clone(&placed.step), placed.policy));
                }
                continue;
            }
            for (_, policy) in slot.drain(..) {
                if let Some(verdicts) = self.verdicts.get(policy) {
                    verdicts.replaced.set(true);
                }
            }
            slot.push((Arc::clone(&placed.step), placed.policy));
        }
        effective
    }

    /// The chain that runs where these policies are in force.
    pub(super) fn chain(&self, effective: &Effective) -> Chain {
        let mut steps = Vec::new();
        for (slot, facts) in effective.by_kind.iter().zip(KINDS) {
            for (_, policy) in slot {
                if let Some(verdicts) = self.verdicts.get(*policy) {
                    verdicts.in_force.set(true);
                }
            }
            // Settings are made once; a policy that only settles has nothing to say to a request, unless it is broken.
            let speaks = |step: &Step| step.phase != Phase::Settle || step.force == Force::FailsClosed;
            match facts.merge {
                Merge::Together => {
                    let mut phases: SmallVec<[Phase; 2]> = slot.iter().map(|(step, _)| step.phase).collect();
                    phases.sort();
                    phases.dedup();
                    steps.extend(phases.iter().filter_map(|phase| join(slot, *phase)));
                }
                _ => steps.extend(slot.iter().map(|(step, _)| Arc::clone(step)).filter(|step| speaks(step))),
            }
        }
        Chain::new(steps)
    }

    /// The chain that stands before a program: without what concerns its callers, which is theirs to do.
    pub(super) fn guard(&self, effective: &Effective) -> Chain {
        let guards = |slot: &Slot| slot.iter().all(|(step, _)| step.phase != Phase::Pick);
        let mut effective = effective.clone();
        for slot in &mut effective.by_kind {
            if !guards(slot) {
                slot.clear();
            }
        }
        self.chain(&effective)
    }

    /// What becomes of settings where these policies are in force, and the policies that changed them.
    pub(super) fn settle(&self, mut settings: Settings, effective: &Effective) -> (Settings, Vec<Arc<Step>>) {
        let mut settled_by = Vec::new();
        for (step, _) in effective.all() {
            if step.phase == Phase::Settle
                && let Some(policy) = &step.policy
            {
                policy.settle(&mut settings);
                settled_by.push(Arc::clone(step));
            }
        }
        (settings, settled_by)
    }

    /// The policies in force on every Service of a namespace.
    pub(super) fn on_namespace(&self, name: &Text) -> Effective {
        self.lay_over(&Effective::default(), &PolicyTarget::Namespace { name: name.clone() })
    }

    /// The policies in force on a port of a Service, which may have a name.
    pub(super) fn on_service(&self, namespace: &Text, name: &Text, port: Option<Text>) -> Effective {
        let target = |port| PolicyTarget::Service { namespace: namespace.clone(), name: name.clone(), port };
        let effective = self.lay_over(&self.on_namespace(namespace), &target(None));
        match port {
            Some(port) => self.lay_over(&effective, &target(Some(port))),
            None => effective,
        }
    }

    /// The policy that lets nobody call endpoints without a tunnel where these policies are in force. One that is broken is as strict
    /// as its kind can be.
    pub(super) fn tunnel_only(&self, effective: &Effective) -> Option<Arc<str>> {
        let (step, policy_index) = effective.all().find(|(step, _)| step.phase == Phase::Settle)?;
        if let Some(verdicts) = self.verdicts.get(*policy_index) {
            verdicts.in_force.set(true);
        }
        let strict = step.policy.as_ref().is_none_or(|policy| policy.reach() == Some(Reach::TunnelOnly));
        strict.then(|| step.name.to_string().into())
    }

    /// How a backend is used, and by which policy, where these policies are in force. None without a policy about it.
    ///
    /// # Errors
    /// The name of a policy that is broken.
    pub(super) fn traffic(&self, effective: &Effective, zone: Option<&Arc<str>>) -> Result<Option<Traffic>, String> {
        let mut found = None;
        let steps = effective.all();
        for (step, policy_index) in steps.filter(|(step, _)| step.phase == Phase::Pick) {
            if let Some(verdicts) = self.verdicts.get(*policy_index) {
                verdicts.in_force.set(true);
            }
            match &step.policy {
                None => return Err(step.name.to_string()),
                Some(policy) => {
                    found = policy.traffic().cloned();
                    let Some(traffic) = &mut found else { continue };
                    traffic.policy = step.name.to_string().into();
                    if let Some(locality) = &mut traffic.locality {
                        locality.here = zone.cloned();
                    }
                    let unplaced = traffic.locality.is_some() && zone.is_none();
                    if let (true, Some(verdicts)) = (unplaced, self.verdicts.get(*policy_index)) {
                        verdicts.without.set(NO_ZONE);
                    }
                }
            }
        }
        Ok(found)
    }
}

/// Added to the status of a policy about zones.
const NO_ZONE: &str = " Its zones do not matter, because the zone of this proxy is not known: start it with `--zone`.";

/// Several policies of one kind and phase as one step. When one of them is broken, that one answers for all: nothing is let through.
fn join(slot: &[(Arc<Step>, usize)], phase: Phase) -> Option<Arc<Step>> {
    let all = || slot.iter().filter(|(step, _)| step.phase == phase);
    if let Some((broken, _)) = all().find(|(step, _)| step.force == Force::FailsClosed) {
        return Some(Arc::clone(broken));
    }
    let (first, _) = all().next()?;
    let joined: Vec<(&Arc<PolicyName>, &AnyPolicy)> =
        all().filter_map(|(step, _)| Some((&step.name, step.policy.as_deref()?))).collect();
    Some(Arc::new(Step {
        name: Arc::clone(&first.name),
        also: all().skip(1).map(|(step, _)| Arc::clone(&step.name)).collect(),
        phase: first.phase,
        force: Force::Working,
        policy: AnyPolicy::join(&joined).map(Arc::new),
    }))
}

fn make_step(facts: &KindFacts, policy: &Policy, target: &PolicyTarget, body: Option<Arc<AnyPolicy>>) -> Step {
    Step {
        name: Arc::new(PolicyName {
            kind: facts.kind,
            namespace: (&*policy.meta.namespace).into(),
            name: (&*policy.meta.name).into(),
            target: describe(target).into(),
            place: Site { file: Arc::clone(&policy.meta.at.file), line: policy.meta.at.line },
        }),
        also: Vec::new(),
        phase: body.as_ref().map_or(facts.phase, |body| body.phase()),
        force: if body.is_some() { Force::Working } else { Force::FailsClosed },
        policy: body,
    }
}

fn describe(target: &PolicyTarget) -> String {
    match target {
        PolicyTarget::Gateway { namespace, name } => {
            format!("Gateway {}/{}", &**namespace, &**name)
        }
        PolicyTarget::Listener { namespace, gateway, name } => {
            format!("Gateway {}/{}, listener {}", &**namespace, &**gateway, &**name)
        }
        PolicyTarget::Route { kind, namespace, name } => format!("{kind} {}/{}", &**namespace, &**name),
        PolicyTarget::Rule { kind, namespace, route, name } => {
            format!("{kind} {}/{}, rule {}", &**namespace, &**route, &**name)
        }
        PolicyTarget::Service { namespace, name, .. } => format!("Service {}/{}", &**namespace, &**name),
        PolicyTarget::Backend { namespace, name } => {
            format!("Backend {}/{}", &**namespace, &**name)
        }
        PolicyTarget::Namespace { name } => format!("Namespace {}", &**name),
    }
}
