//! The policies: everything that is attached by `targetRefs` and changes what happens to requests.
//!
//! A policy is one file here and one line in the table below. The file holds its spec (which is the YAML), how it compiles, what it
//! says about requests and responses, and its tests; from the table follow the loader's list of kinds, the schema, the reference,
//! `check`, `explain`, and labels. Nothing else in the house names a policy.
//!
//! **Inheritance (GEP-713).** Most kinds are inherited policies with *atomic defaults*: for each request, of all policies of one kind on
//! the Gateway, its listener, the route and its rule, the one on the most specific target applies, whole. Of two on the same target
//! the older applies and the other is in conflict. Where a policy that is replaced would open a gate, all apply instead
//! ([`Merge::Together`]). The merge is done once, by `compile/policies.rs`.
//!
//! **Failing closed.** A policy whose spec does not compile is put in force all the same, as one that answers 500: a broken guard must
//! not open its gate, and must not close anybody else's.
//!
//! Dispatch is static, by an enum that the table makes. Policies do no IO.

mod authentication;
mod authorization;
mod chain;
mod compiling;
mod concurrency;
mod external_auth;
mod header;
mod ip_access;
mod listener;
mod mesh;
mod network;
pub(crate) mod patterns;
mod quota;
mod rate_limit;
mod rate_limit_server;
mod rate_limit_service;
#[cfg(test)]
mod tests;
mod traffic;

use std::fmt;
use std::sync::Arc;

use transept_model::place::{ObjectName, Spot};
use transept_model::policy::{Merge, PolicyKind, Target};
use transept_model::schema::{Decoder, Schema, Text};
use transept_model::value::Value;
use transept_wire::head::Response;

#[doc(hidden)]
pub use authentication::probe_credentials;
pub use chain::{Chain, Force, PolicyName, Step};
pub use compiling::{CompileCx, Origin, PlainHttp, Url};
pub(crate) use compiling::{Needs, Wanted, WantedBackend, parse_url};
pub(crate) use external_auth::ExternalAuthPolicy;
pub use network::Network;
pub use patterns::{HostPattern, IdentityPattern, PathPattern};
pub(crate) use patterns::{is_method_alike, methods};
pub(crate) use quota::QuotaCharge;

use crate::callout::CalloutResult;
use crate::exchange::{Connection, Exchange};
use crate::redact::CredentialPlaces;
use crate::settings::Settings;
use crate::traffic::Traffic;
use crate::verdict::Verdict;

/// When a policy acts. The order is the order of the road; the response side runs it backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Before any request: settings of the listener.
    Settle,
    /// Address, size, method, threats; then CORS preflights are answered.
    Guard,
    /// Who is it?
    Authenticate,
    /// May he?
    Authorize,
    /// How often?
    Limit,
    /// Is it well-formed?
    Validate,
    /// Changes to the request on its way in, and to the response on its way out.
    Transform,
    /// When an endpoint is chosen, and after each try.
    Pick,
}

impl Phase {
    /// The first phase.
    pub const FIRST: Phase = Phase::Settle;
    /// The last phase before the route's filters.
    pub const LAST: Phase = Phase::Transform;

    /// The phase's name in explanations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Settle => "settle",
            Phase::Guard => "guard",
            Phase::Authenticate => "authenticate",
            Phase::Authorize => "authorize",
            Phase::Limit => "limit",
            Phase::Validate => "validate",
            Phase::Transform => "transform",
            Phase::Pick => "pick",
        }
    }
}

/// One kind of policy: implemented once per file.
pub trait Policy: Sized + Send + Sync + fmt::Debug + 'static {
    /// The kind in resources.
    const KIND: &'static str;
    /// One sentence for the reference.
    const ABOUT: &'static str;
    /// When it acts.
    const PHASE: Phase;
    /// How several of the kind come together at one place.
    const MERGE: Merge = Merge::AtomicDefaults;
    /// What it may be attached to.
    const TARGETS: &'static [Target];
    /// The spec as it is written, without `targetRefs`.
    type Spec: Schema;

    /// Makes the policy from its spec. What is wrong is written into `cx`; nothing is returned then.
    fn compile(spec: &Self::Spec, cx: &mut CompileCx<'_>) -> Option<Self>;

    /// When this one acts, where its spec decides.
    fn phase(&self) -> Phase {
        Self::PHASE
    }

    /// The names of the Secrets in its own namespace that a policy with this spec needs. A proxy is sent no others.
    fn secrets(spec: &Self::Spec) -> Vec<Text> {
        let _ = spec;
        Vec::new()
    }

    /// All policies of the kind in force at one place that act in the same phase as one, when they come together.
    fn join(all: &[(&Arc<PolicyName>, &Self)]) -> Option<Self> {
        let _ = all;
        None
    }

    /// Changes the settings of the listeners under its target.
    fn settle(&self, settings: &mut Settings) {
        let _ = settings;
    }

    /// How the backends under its target are used.
    fn traffic(&self) -> Option<&Traffic> {
        None
    }

    /// The ports that it names, and those that they lead to, each with where it is named.
    fn ports(&self) -> Vec<(u16, Spot)> {
        Vec::new()
    }

    /// Says where in requests it looks for credentials, so that no log repeats them.
    fn credential_places(&self, places: &mut CredentialPlaces) {
        let _ = places;
    }

    /// The path of a page that it answers to GET, where the routes that it is on do not take it themselves.
    fn page(&self) -> Option<&str> {
        None
    }

    /// How the endpoints of the Services under its target may be called; none when it says nothing about that.
    fn reach(&self) -> Option<Reach> {
        None
    }

    /// What its owner should know although nothing is wrong with it, by what is found out of clients where it is in force.
    fn cautions(&self, known: Known) -> Vec<Caution> {
        let _ = known;
        Vec::new()
    }

    /// What its owner should know where it judges connections that nobody looks into.
    fn of_connections(&self) -> Vec<Caution> {
        Vec::new()
    }

    /// What its owner should know because another policy of the kind, of this name, stands on all of its targets, too, and they act together.
    fn beside(&self, other: &Self, name: &ObjectName, age: Age) -> Vec<Caution> {
        let _ = (other, name, age);
        Vec::new()
    }

    /// Looks at a connection before it is let through.
    fn on_connect(&self, x: &Arrival<'_>) -> Verdict {
        let _ = x;
        Verdict::Continue
    }

    /// Looks at a request on its way in.
    fn on_request(&self, x: &mut Exchange<'_>) -> Verdict {
        let _ = x;
        Verdict::Continue
    }

    /// Goes on with a request for which it has asked for something ([`Verdict::Call`]). What it needs to remember in between is
    /// in [`Notes::between`](crate::exchange::Notes::between). Without its own, it is asked from the beginning, and finds in its memory what
    /// the callout has brought.
    fn on_callout(&self, x: &mut Exchange<'_>, result: CalloutResult) -> Verdict {
        let _ = result;
        self.on_request(x)
    }

    /// Looks again at a request that was let in before and is still under way as an open connection: whether it would be let in
    /// today, by what is known of it. Its credentials are not there any more; who it was is in [`Notes::principal`](crate::exchange::Notes::principal).
    fn on_recheck(&self, x: &mut Exchange<'_>) -> Verdict {
        let _ = x;
        Verdict::Continue
    }

    /// Looks at a response on its way out, the backend's or our own.
    fn on_response(&self, x: &mut Exchange<'_>, response: &mut Response) {
        let _ = (x, response);
    }
}

/// Where policies that authenticate stand beside a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identified {
    /// At all rules that it is in force for.
    Everywhere,
    /// At some of them.
    Partly,
    /// At none.
    Nowhere,
}

/// What is found out of clients where a policy is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where policies that authenticate stand.
    pub identified: Identified,
    /// Where clients prove an identity to the listener, or to the mesh.
    pub proven: Identified,
    /// Where one or the other tells who the client is.
    pub named: Identified,
    /// Where proxies in front are trusted to say who the client is.
    pub forwarded: Identified,
}

/// What the owner of a policy should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caution {
    /// Where it is written.
    pub at: Spot,
    /// What it is, and what helps.
    pub what: String,
}

/// Which of two policies that say the same is the one too many: the younger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// It comes first.
    Older,
    /// The other one comes first.
    Younger,
}

/// How endpoints may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Through their tunnels only.
    TunnelOnly,
    /// Also in clear text, where there is no tunnel.
    Any,
}

/// A connection that wants to a port of a program in the mesh, or to a listener that looks at connections only.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The connection.
    pub connection: &'a Connection,
    /// The port that it wants to.
    pub port: u16,
    /// What it carries.
    pub carried: Carried,
}

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// Perhaps HTTP, whose requests will be judged one by one.
    Unknown,
    /// Something that is not looked at.
    Opaque,
}

/// What is known about a kind without an object of it.
#[derive(Clone, Copy, Debug)]
pub struct KindFacts {
    /// The kind in resources.
    pub kind: &'static str,
    /// When it acts.
    pub phase: Phase,
    /// How several come together.
    pub merge: Merge,
    /// Whether it judges requests and knows nothing of connections that nobody looks into.
    pub passes_connections_by: bool,
}

/// Of a kind that can be on these: routes of requests, but not of connections.
const fn passes_connections_by(targets: &[Target]) -> bool {
    let (mut index, mut requests, mut connections) = (0, false, false);
    while index < targets.len() {
        match targets[index] {
            Target::Route => requests = true,
            Target::TcpRoute => connections = true,
            _ => {}
        }
        index += 1;
    }
    requests && !connections
}

/// The table: one line per policy makes the enum, its dispatch and the list of kinds.
macro_rules! policies {
    ($( $variant:ident($type:ty); )*) => {
        /// Any compiled policy.
        #[derive(Debug)]
        pub(crate) enum AnyPolicy { $( $variant($type), )* }

        /// Every kind of policy.
        pub const KINDS: &[KindFacts] = &[ $( KindFacts {
            kind: <$type as Policy>::KIND,
            phase: <$type as Policy>::PHASE,
            merge: <$type as Policy>::MERGE,
            passes_connections_by: passes_connections_by(<$type as Policy>::TARGETS),
        }, )* ];

        /// Every kind as the loader wants it.
        pub const MODEL_KINDS: &[PolicyKind] = &[ $( PolicyKind::of::<<$type as Policy>::Spec>(
            <$type as Policy>::KIND,
            <$type as Policy>::ABOUT,
            <$type as Policy>::TARGETS,
            <$type as Policy>::MERGE,
        ), )* ];

        impl AnyPolicy {
            /// Reads and compiles a spec. None when `cx` now holds a reason, or when the kind is not in the table.
            pub(crate) fn compile(kind: &str, spec: &Value, cx: &mut CompileCx<'_>) -> Option<AnyPolicy> {
                $( if kind == <$type as Policy>::KIND {
                    let before = cx.count();
                    let spec = <<$type as Policy>::Spec as Schema>::decode(spec, cx)?;
                    let policy = <$type as Policy>::compile(&spec, cx)?;
                    return (cx.count() == before).then_some(AnyPolicy::$variant(policy));
                } )*
                None
            }

            /// The names of the Secrets that a policy needs, in its own namespace. None of a spec that cannot be read.
            fn secrets(kind: &str, spec: &Value) -> Vec<Text> {
                $( if kind == <$type as Policy>::KIND {
                    let mut cx = Decoder::new("".into());
                    let spec = <<$type as Policy>::Spec as Schema>::decode(spec, &mut cx);
                    return spec.map_or_else(Vec::new, |spec| <$type as Policy>::secrets(&spec));
                } )*
                Vec::new()
            }

            /// Several policies of one kind as one, if the kind does that.
            pub(crate) fn join(all: &[(&Arc<PolicyName>, &AnyPolicy)]) -> Option<AnyPolicy> {
                $( {
                    let same: Vec<(&Arc<PolicyName>, &$type)> = all
                        .iter()
                        .filter_map(|(name, policy)| match policy {
                            AnyPolicy::$variant(policy) => Some((*name, policy)),
                            _ => None,
                        })
                        .collect();
                    if !same.is_empty() {
                        return <$type as Policy>::join(&same).map(AnyPolicy::$variant);
                    }
                } )*
                None
            }

            pub(crate) fn phase(&self) -> Phase {
                match self { $( AnyPolicy::$variant(policy) => policy.phase(), )* }
            }

            pub(crate) fn settle(&self, settings: &mut Settings) {
                match self { $( AnyPolicy::$variant(policy) => policy.settle(settings), )* }
            }

            pub(crate) fn traffic(&self) -> Option<&Traffic> {
                match self { $( AnyPolicy::$variant(policy) => policy.traffic(), )* }
            }

            pub(crate) fn ports(&self) -> Vec<(u16, Spot)> {
                match self { $( AnyPolicy::$variant(policy) => policy.ports(), )* }
            }

            pub(crate) fn credential_places(&self, places: &mut CredentialPlaces) {
                match self { $( AnyPolicy::$variant(policy) => policy.credential_places(places), )* }
            }

            pub(crate) fn page(&self) -> Option<&str> {
                match self { $( AnyPolicy::$variant(policy) => policy.page(), )* }
            }

            pub(crate) fn reach(&self) -> Option<Reach> {
                match self { $( AnyPolicy::$variant(policy) => policy.reach(), )* }
            }

            pub(crate) fn cautions(&self, known: Known) -> Vec<Caution> {
                match self { $( AnyPolicy::$variant(policy) => policy.cautions(known), )* }
            }

            pub(crate) fn of_connections(&self) -> Vec<Caution> {
                match self { $( AnyPolicy::$variant(policy) => policy.of_connections(), )* }
            }

            pub(crate) fn beside(&self, other: &AnyPolicy, name: &ObjectName, age: Age) -> Vec<Caution> {
                match (self, other) {
                    $( (AnyPolicy::$variant(one), AnyPolicy::$variant(other)) => one.beside(other, name, age), )*
                    _ => Vec::new(),
                }
            }

            pub(crate) fn on_connect(&self, x: &Arrival<'_>) -> Verdict {
                match self { $( AnyPolicy::$variant(policy) => policy.on_connect(x), )* }
            }

            pub(crate) fn on_request(&self, x: &mut Exchange<'_>) -> Verdict {
                match self { $( AnyPolicy::$variant(policy) => policy.on_request(x), )* }
            }

            pub(crate) fn on_callout(&self, x: &mut Exchange<'_>, result: CalloutResult) -> Verdict {
                match self { $( AnyPolicy::$variant(policy) => policy.on_callout(x, result), )* }
            }

            pub(crate) fn on_recheck(&self, x: &mut Exchange<'_>) -> Verdict {
                match self { $( AnyPolicy::$variant(policy) => policy.on_recheck(x), )* }
            }

            pub(crate) fn on_response(&self, x: &mut Exchange<'_>, response: &mut Response) {
                match self { $( AnyPolicy::$variant(policy) => policy.on_response(x, response), )* }
            }
        }
    };
}

policies! {
    Listener(listener::ListenerPolicy);
    IpAccess(ip_access::IpAccessPolicy);
    Authentication(authentication::AuthenticationPolicy);
    Authorization(authorization::AuthorizationPolicy);
    ExternalAuth(external_auth::ExternalAuthPolicy);
    RateLimit(rate_limit::RateLimitPolicy);
    RateLimitService(rate_limit_service::RateLimitServicePolicy);
    RateLimitServer(rate_limit_server::RateLimitServerPolicy);
    Quota(quota::QuotaPolicy);
    Concurrency(concurrency::ConcurrencyPolicy);
    Header(header::HeaderPolicy);
    Traffic(traffic::TrafficPolicy);
    Mesh(mesh::MeshPolicy);
}

/// The facts of a kind in the table.
pub fn kind(name: &str) -> Option<&'static KindFacts> {
    KINDS.iter().find(|facts| facts.kind == name)
}

/// The names of the Secrets that a policy of a kind needs, in its own namespace, by its spec without `targetRefs`.
pub fn secrets_of(kind: &str, spec: &Value) -> Vec<Text> {
    AnyPolicy::secrets(kind, spec)
}

/// A health check as a policy with nothing but `healthCheck: {}` compiles it.
#[cfg(test)]
pub(crate) fn check_for_tests() -> std::sync::Arc<crate::health::Check> {
    let policy = tests::compile::<traffic::TrafficPolicy>("healthCheck: {}\n");
    policy.traffic().and_then(|traffic| traffic.check.clone()).expect("a check")
}
