//! Why a request is decided as it is: the engine's own functions, watched.
//!
//! Called by `transept explain` and by the cases. [`explain`] takes a described request down the whole road, with the very functions that
//! carry traffic, and writes down what each verb found. Traffic runs the same code with [`Silent`], which costs nothing. No name is
//! resolved and no connection made: an explanation ends where the proxy would connect, and goes on with an assumed response.

mod ask;
mod considered;
mod stream;
mod traffic;
mod walk;
mod write;

use std::sync::Arc;

pub use ask::{Ask, Assumed, Unlisted};
pub use considered::Considered;
use serde_json::Value;
use transept_wire::head::{Fields, Request};
pub use walk::explain;

use crate::forwarded::Client;
use crate::limit::inquiry::Inquiry;
use crate::policies::PolicyName;
use crate::principal::Principal;
use crate::redact::CredentialPlaces;
use crate::route::predicates::Lost;
use crate::rule::{Rule, Site, WeightedBackend};
use crate::snapshot::{Bind, Listener};
use crate::verdict::Reply;

/// Watches a route lookup.
pub trait Trace {
    /// Whether anybody looks. When not, no argument is computed.
    const ON: bool;

    /// A match was tried, and won when nothing was lost.
    fn candidate(&mut self, rule: &Arc<Rule>, match_index: u16, hostname: &str, lost: Option<Lost<'_>>);
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Trace for Silent {
    const ON: bool = false;

    fn candidate(&mut self, _: &Arc<Rule>, _: u16, _: &str, _: Option<Lost<'_>>) {}
}

/// Everything that was found about a request, in the order of the road. What was not reached is none or empty.
#[derive(Debug, Default)]
pub struct Explanation {
    /// Where requests may hold credentials, which are not shown.
    pub(crate) credentials: CredentialPlaces,
    /// The generation of the snapshot.
    pub generation: u64,
    /// The request as it was asked: method and URL.
    pub asked: String,
    /// Whether it is a connection that is not looked at, and no request.
    pub is_stream: bool,
    /// The address that takes it.
    pub bind: Option<Arc<Bind>>,
    /// The path as it is matched and forwarded, when it differs from what was asked.
    pub normalized: Option<String>,
    /// The names of fields that are left out because of a `_`.
    pub without_fields: Vec<String>,
    /// The verified identity of the client.
    pub identity: Option<Arc<str>>,
    /// The client, and whether its peer is trusted.
    pub client: Option<Client>,
    /// The listener that takes it.
    pub listener: Option<Arc<Listener>>,
    /// Other listeners of the address, each with why it was not chosen.
    pub other_listeners: Vec<(String, String)>,
    /// The matches that were considered and what became of them: those that were tried, in their order, then the others.
    pub considered: Vec<Considered>,
    /// Matches under other hosts, which were not looked at.
    pub under_other_hosts: usize,
    /// The rule.
    pub rule: Option<Arc<Rule>>,
    /// The policies in force, in the order they run.
    pub policies: Vec<Arc<PolicyName>>,
    /// The policy that answered instead of the backend.
    pub answered_by: Option<Arc<PolicyName>>,
    /// What the policies would do over the network or besides before they decide; none of it was done.
    pub callouts: Vec<String>,
    /// What policies say of their decisions, in order.
    pub told: Vec<String>,
    /// What a gateway that runs can be asked about these.
    pub inquiries: Vec<Inquiry>,
    /// Who makes the request; none is anonymous.
    pub principal: Option<Arc<Principal>>,
    /// The filters of the rule and of the chosen backendRef.
    pub filters: Vec<(String, Site)>,
    /// The backends of the rule with their weights.
    pub backends: Vec<BackendShare>,
    /// The backend that this request would take; another one of the split may come next.
    pub backend: Option<String>,
    /// The addresses of that backend, each with its weight. Names that DNS has still to resolve come with weight zero.
    pub endpoints: Vec<(String, u32)>,
    /// Whether it has none that the configuration tells, so that instances that have registered take it, if there are any.
    pub awaits_instances: bool,
    /// The addresses of that backend that are members of the mesh: where their tunnels lead, and who must be there.
    pub tunnels: Vec<(String, String)>,
    /// What is left out of them, because it has no tunnel, and the policy that wants one.
    pub left_out: Option<(String, Vec<String>)>,
    /// The policy that says how one of them is chosen and how they are watched, and what it says.
    pub traffic: Option<(String, Vec<String>)>,
    /// The address that a hash of the request finds, as long as all are well.
    pub endpoint: Option<String>,
    /// Addresses that health checks found unwell, with the reason.
    pub unwell: Vec<(String, String)>,
    /// The addresses of the backend in the process that runs, each with its state there and the reason for it, when that was asked.
    pub states: Vec<(String, String, Option<String>)>,
    /// Where copies of the request go.
    pub mirrors: Vec<String>,
    /// The request as it leaves for the backend.
    pub forwarded: Option<Request>,
    /// The answer of the gateway itself.
    pub reply: Option<Box<Reply>>,
    /// The response as the client gets it: the gateway's, or the assumed one of the backend.
    pub response: Option<(u16, Fields)>,
}

impl Explanation {
    /// Takes up how the endpoints of the backend stand in a process that runs, out of its `backends`: in them are those with a policy.
    pub fn learn_states(&mut self, backends: &Value) {
        let mut all = backends.as_array().into_iter().flatten();
        let Some(found) = all.find(|one| one["name"].as_str() == self.backend.as_deref()) else { return };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let state = |one: &Value| Some((text(&one["address"])?, text(&one["state"])?, text(&one["why"])));
        self.states = found["endpoints"].as_array().into_iter().flatten().filter_map(state).collect();
    }

    /// Takes up what a gateway that runs says to the `inquiries` ([`crate::limit::inquiry::answer`]): behind the lines that they are about.
    pub fn learn(&mut self, answers: &Value) {
        for (index, inquiry) in std::mem::take(&mut self.inquiries).iter().enumerate() {
            if let Some(line) = self.told.get_mut(inquiry.line) {
                let answer = answers.get(index).unwrap_or(&Value::Null);
                line.push_str("; in the gateway that runs: ");
                line.push_str(&inquiry.read(answer));
            }
        }
    }
}

/// One backend of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendShare {
    /// The backend's label, or the reason why there is none.
    pub backend: Result<String, String>,
    /// Its weight.
    pub weight: u32,
}

impl From<&WeightedBackend> for BackendShare {
    fn from(backend: &WeightedBackend) -> BackendShare {
        BackendShare {
            backend: match &backend.target {
                Ok(target) => Ok(target.label.to_string()),
                Err(broken) => Err(broken.why.to_string()),
            },
            weight: backend.weight,
        }
    }
}
