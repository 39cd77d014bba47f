//! The policies in force for a rule or a listener, in the order of their phases.
//!
//! Made by `compile/policies.rs`, run by `screen` and `relay`, shown by `explain`.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use transept_wire::head::Response;

use super::{AnyPolicy, Arrival, ExternalAuthPolicy, Phase};
use crate::exchange::Exchange;
use crate::reason::Reason;
use crate::rule::Site;
use crate::verdict::{Reply, Verdict};

/// Policies in the order of their phases. Empty for most rules.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    steps: Arc<[Arc<Step>]>,
}

/// One policy on one target.
#[derive(Debug)]
pub struct Step {
    /// Which policy it is; of several that act as one, the one on the most general target.
    pub name: Arc<PolicyName>,
    /// The other policies that act as one with it.
    pub also: Vec<Arc<PolicyName>>,
    /// When it acts.
    pub phase: Phase,
    /// Whether it works.
    pub force: Force,
    pub(crate) policy: Option<Arc<AnyPolicy>>,
}

impl Step {
    /// A filter that is a policy in all but its place in the configuration.
    pub(crate) fn of_filter(name: PolicyName, policy: ExternalAuthPolicy) -> Step {
        Step {
            name: Arc::new(name),
            also: Vec::new(),
            phase: Phase::Authorize,
            force: Force::Working,
            policy: Some(Arc::new(AnyPolicy::ExternalAuth(policy))),
        }
    }
}

/// Whether a policy works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// It does.
    Working,
    /// Its spec is invalid: it answers every request with 500.
    FailsClosed,
}

/// Which policy, and where it was attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyName {
    /// The kind.
    pub kind: &'static str,
    /// Namespace of the policy.
    pub namespace: Box<str>,
    /// Name of the policy.
    pub name: Box<str>,
    /// What it is attached to, such as `Gateway shop/main` or `HTTPRoute shop/cart, rule checkout`.
    pub target: Box<str>,
    /// Where it is written.
    pub place: Site,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// What becomes of whatever meets a policy that cannot be used.
fn unusable(step: &Step) -> Reply {
    Reply::new(Reason::PolicyInvalid).because(step.name.to_string())
}

impl Chain {
    /// A chain of these policies. Within a phase the order of the table of kinds stays.
    pub(crate) fn new(mut steps: Vec<Arc<Step>>) -> Chain {
        steps.sort_by_key(|step| step.phase);
        Chain { steps: steps.into() }
    }

    /// The same policies and a filter that acts among them.
    pub(crate) fn with(self, filter: Option<&Arc<Step>>) -> Chain {
        match filter {
            Some(filter) => Chain::new(self.steps.iter().chain(std::iter::once(filter)).cloned().collect()),
            None => self,
        }
    }

    /// Whether no policy is in force.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The names of all policies in force, in order.
    pub fn names(&self) -> impl Iterator<Item = &Arc<PolicyName>> {
        self.steps.iter().flat_map(|step| std::iter::once(&step.name).chain(&step.also))
    }

    /// The policies in order.
    pub fn steps(&self) -> &[Arc<Step>] {
        &self.steps
    }

    /// The pages that its policies answer.
    pub(crate) fn pages(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter_map(|step| step.policy.as_ref()?.page())
    }

    /// Shows a connection to every policy.
    pub(crate) fn meet(&self, x: &Arrival<'_>) -> Verdict {
        for step in self.steps.iter() {
            let verdict = match &step.policy {
                Some(policy) => policy.on_connect(x),
                None => unusable(step).into(),
            };
            if !matches!(verdict, Verdict::Continue) {
                return verdict;
            }
        }
        Verdict::Continue
    }

    /// Runs the request side of the policies in some phases. Notes which policy answered. When a policy has asked for something, it is called
    /// again with what came of it, and goes on from that policy.
    pub(crate) fn screen(&self, x: &mut Exchange<'_>, phases: RangeInclusive<Phase>) -> Verdict {
        let begin = x.notes.reached;
        for (index, step) in self.steps.iter().enumerate().skip(begin) {
            if !phases.contains(&step.phase) {
                continue;
            }
            let verdict = match (&step.policy, x.notes.outcome.take()) {
                (Some(policy), Some(outcome)) => policy.on_callout(x, outcome),
                (Some(policy), None) => policy.on_request(x),
                (None, _) => unusable(step).into(),
            };
            match verdict {
                Verdict::Continue => x.notes.between = None,
                Verdict::Call(_) => {
                    x.notes.reached = index;
                    return verdict;
                }
                Verdict::Respond(_) => {
                    // One of several that act as one has said already which it is.
                    x.notes.answered_by.get_or_insert_with(|| Arc::clone(&step.name));
                    return verdict;
                }
            }
        }
        Verdict::Continue
    }

    /// Asks the policies of a phase again about a connection that is still open.
    pub(crate) fn recheck(&self, x: &mut Exchange<'_>, phase: Phase) -> Verdict {
        for step in self.steps.iter().filter(|step| step.phase == phase) {
            let verdict = match &step.policy {
                Some(policy) => policy.on_recheck(x),
                None => unusable(step).into(),
            };
            if !verdict.goes_on() {
                return verdict;
            }
        }
        Verdict::Continue
    }

    /// Runs the response side, last phase first.
    pub(crate) fn relay(&self, x: &mut Exchange<'_>, response: &mut Response) {
        for policy in self.steps.iter().rev().filter_map(|step| step.policy.as_ref()) {
            policy.on_response(x, response);
        }
    }
}
