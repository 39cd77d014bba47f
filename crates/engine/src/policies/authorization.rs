//! `AuthorizationPolicy`: who may do what, by identity, namespace, address, port, method, path and host.
//!
//! On a Gateway, a listener, a route or a rule it is asked about each request; on a Service it stands at the workloads of that Service
//! and is asked about each connection and, where that carries HTTP, each request. All policies at one place count together: a deny rule
//! that matches refuses; else, when any of them has `allow`, a rule of theirs must match; else everything is allowed. A
//! connection whose requests are not looked at has no method and no path: deny rules that ask for them are taken as matching, allow rules
//! as not matching. The refusal names policy and rule in its cause, for logs and explanations; the caller is told nothing but 403.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use transept_model::object;
use transept_model::policy::{Merge, Target};
use transept_model::schema::{Decoder, Rule as Limit, Text};
use transept_wire::head::Method;
use transept_wire::normalize;

use super::patterns::{HostPattern, IdentityPattern, PathPattern};
use super::{Arrival, Carried, CompileCx, Network, Phase, Policy, PolicyName};
use crate::exchange::Exchange;
use crate::reason::Reason;
use crate::verdict::{Reply, Verdict};

object! {
    /// Who may do what. Deny rules come first, then allow rules; without any allow rules everything else is allowed.
    pub struct AuthorizationPolicySpec {
        /// What is refused, whatever `allow` says.
        deny: Vec<AccessRule> => Limit::MaxItems(256);
        /// What is allowed. When written, here or in another policy at the same place, everything else is refused; an empty
        /// list allows nothing.
        allow: Option<Vec<AccessRule>> => Limit::MaxItems(256);
    }
    check check_spec;
}

object! {
    /// One rule: who, and what. It matches when one of `from` and one of `to` does; what is left out is everybody and everything.
    pub struct AccessRule {
        /// Its name in logs and explanations.
        name: Option<Text> => Limit::Length(1, 63);
        /// Who it is about.
        from: Vec<AccessSource> => Limit::MaxItems(64);
        /// What it is about.
        to: Vec<AccessOperation> => Limit::MaxItems(64);
    }
}

object! {
    /// Who: everything that is written must hold, of each list one.
    pub struct AccessSource {
        /// Verified identities: `spiffe://transept.local/ns/shop/sa/cart`, or `shop/cart` for any trust domain that is
        /// trusted. A `*` at the end stands for anything; alone it is whoever has an identity.
        identities: Vec<IdentityPattern> => Limit::MaxItems(256);
        /// Namespaces of verified identities.
        namespaces: Vec<Text> => Limit::MaxItems(256);
        /// Networks of clients.
        addresses: Vec<Network> => Limit::MaxItems(1024);
    }
}

object! {
    /// What: everything that is written must hold, of each list one.
    pub struct AccessOperation {
        /// Ports: of the listener, or of the program behind a Service.
        ports: Vec<u16> => Limit::MaxItems(256), Limit::Range(1, 65535);
        /// Methods of HTTP.
        methods: Vec<Text> => Limit::MaxItems(32), Limit::Length(1, 64);
        /// Paths: `/cart`, or `/cart/*` for `/cart` and everything below it.
        paths: Vec<PathPattern> => Limit::MaxItems(256);
        /// Hosts: `shop.test`, or `*.shop.test` for every name below it.
        hosts: Vec<HostPattern> => Limit::MaxItems(256);
    }
}

fn check_spec(spec: &AuthorizationPolicySpec, value: &transept_model::value::Value, cx: &mut Decoder) {
    if spec.deny.is_empty() && spec.allow.is_none() {
        cx.refuse(value.at, "the policy says nothing").remedy("write `deny`, `allow` or both");
    }
}

/// One or several compiled `AuthorizationPolicy` objects.
#[derive(Debug)]
pub(crate) struct AuthorizationPolicy {
    parts: Vec<Part>,
}

/// One object's rules with its name; no name before they are joined.
#[derive(Clone, Debug)]
struct Part {
    name: Option<Arc<PolicyName>>,
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    deny: Vec<Access>,
    allow: Option<Vec<Access>>,
}

/// A compiled rule.
#[derive(Debug)]
struct Access {
    /// Its name, or `deny[0]`.
    label: Box<str>,
    from: Vec<AccessSource>,
    to: Vec<Operation>,
}

#[derive(Debug)]
struct Operation {
    ports: Vec<u16>,
    methods: Vec<Method>,
    paths: Vec<PathPattern>,
    hosts: Vec<HostPattern>,
}

impl Operation {
    fn needs_http(&self) -> bool {
        !(self.methods.is_empty() && self.paths.is_empty() && self.hosts.is_empty())
    }
}

/// Who and what is judged.
struct Subject<'a> {
    identity: Option<&'a str>,
    address: IpAddr,
    port: u16,
    http: Option<Http<'a>>,
}

struct Http<'a> {
    method: Method,
    path: &'a [u8],
    host: &'a str,
}

/// What a rule does that asks for something which cannot be seen.
#[derive(Clone, Copy)]
enum Unseen {
    /// It does as if that held.
    Holds,
    /// It does not match.
    Fails,
}

impl AuthorizationPolicy {
    /// The refusal, if there is one, and whose it is.
    fn judge(&self, subject: &Subject<'_>, deny: Unseen, allow: Unseen) -> Option<(Reply, Option<Arc<PolicyName>>)> {
        for part in &self.parts {
            if let Some(rule) = part.rules.deny.iter().find(|rule| rule.matches(subject, deny)) {
                let cause = format!("{}, rule {}", Named(part), rule.label);
                return Some((Reply::new(Reason::NotAuthorized).because(cause), part.name.clone()));
            }
        }
        let mut with_allow = self.parts.iter().filter(|part| part.rules.allow.is_some()).peekable();
        let first = *with_allow.peek()?;
        let allowed =
            with_allow.flat_map(|part| part.rules.allow.iter().flatten()).any(|rule| rule.matches(subject, allow));
        if allowed {
            return None;
        }
        let cause = format!("{}, no rule allows it", Named(first));
        Some((Reply::new(Reason::NotAuthorized).because(cause), first.name.clone()))
    }
}

struct Named<'a>(&'a Part);

impl fmt::Display for Named<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.name {
            Some(name) => name.fmt(out),
            None => out.write_str(AuthorizationPolicy::KIND),
        }
    }
}

impl Access {
    fn compile(list: &str, index: usize, spec: &AccessRule, cx: &mut Decoder) -> Access {
        let label = match &spec.name {
            Some(name) => name.to_string(),
            None => format!("{list}[{index}]"),
        };
        let to = spec.to.iter().map(|operation| Operation {
            ports: operation.ports.clone(),
            methods: operation
                .methods
                .iter()
                .filter_map(|method| {
                    let known = Method::from_bytes(method.as_bytes());
                    if known.is_none() {
                        cx.refuse(operation.at, format!("`{}` is not a method", &**method));
                    }
                    known
                })
                .collect(),
            paths: operation.paths.clone(),
            hosts: operation.hosts.clone(),
        });
        Access { label: label.into(), to: to.collect(), from: spec.from.clone() }
    }

    fn matches(&self, subject: &Subject<'_>, unseen: Unseen) -> bool {
        let from = self.from.is_empty() || self.from.iter().any(|source| source.matches(subject));
        from && (self.to.is_empty() || self.to.iter().any(|operation| operation.matches(subject, unseen)))
    }
}

/// An empty list asks for nothing.
fn one_of<T>(list: &[T], holds: impl FnMut(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(holds)
}

impl AccessSource {
    fn matches(&self, subject: &Subject<'_>) -> bool {
        let identity = subject.identity;
        one_of(&self.identities, |pattern| identity.is_some_and(|identity| pattern.matches(identity)))
            && one_of(&self.namespaces, |namespace| identity.and_then(namespace_of) == Some(&**namespace))
            && one_of(&self.addresses, |network| network.contains(subject.address))
    }
}

/// The namespace in `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
fn namespace_of(identity: &str) -> Option<&str> {
    let path = identity.strip_prefix("spiffe://")?.split_once('/')?.1;
    let (namespace, account) = path.strip_prefix("ns/")?.split_once('/')?;
    account.strip_prefix("sa/").filter(|account| !account.is_empty() && !account.contains('/'))?;
    Some(namespace)
}

impl Operation {
    fn matches(&self, subject: &Subject<'_>, unseen: Unseen) -> bool {
        if !one_of(&self.ports, |port| *port == subject.port) {
            return false;
        }
        match &subject.http {
            Some(http) => {
                one_of(&self.methods, |method| *method == http.method)
                    && one_of(&self.paths, |path| path.matches(http.path))
                    && one_of(&self.hosts, |host| host.matches(http.host))
            }
            None => !self.needs_http() || matches!(unseen, Unseen::Holds),
        }
    }
}

impl Policy for AuthorizationPolicy {
    const KIND: &'static str = "AuthorizationPolicy";
    const ABOUT: &'static str = "Says who may do what, by identity, address, port, method and path.";
    const PHASE: Phase = Phase::Authorize;
    const MERGE: Merge = Merge::Together;
    const TARGETS: &'static [Target] =
        &[Target::Gateway, Target::Listener, Target::Route, Target::Rule, Target::Service];
    type Spec = AuthorizationPolicySpec;

    fn compile(spec: &AuthorizationPolicySpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let mut compile = |list: &str, rules: &[AccessRule]| -> Vec<Access> {
            rules.iter().enumerate().map(|(index, rule)| Access::compile(list, index, rule, cx)).collect()
        };
        let deny = compile("deny", &spec.deny);
        let allow = spec.allow.as_ref().map(|allow| compile("allow", allow));
        Some(AuthorizationPolicy { parts: vec![Part { name: None, rules: Arc::new(Rules { deny, allow }) }] })
    }

    fn join(all: &[(&Arc<PolicyName>, &Self)]) -> Option<Self> {
        let named = |(name, policy): &(&Arc<PolicyName>, &Self)| {
            let name = Arc::clone(name);
            policy
                .parts
                .iter()
                .map(move |part| Part { name: Some(Arc::clone(&name)), rules: Arc::clone(&part.rules) })
                .collect::<Vec<_>>()
        };
        Some(AuthorizationPolicy { parts: all.iter().flat_map(named).collect() })
    }

    fn on_connect(&self, x: &Arrival<'_>) -> Verdict {
        let subject = Subject {
            identity: x.connection.identity.as_deref(),
            address: x.connection.peer.ip(),
            port: x.port,
            http: None,
        };
        // What requests can still tell is left to them.
        let (deny, allow) = match x.carried {
            Carried::Opaque => (Unseen::Holds, Unseen::Fails),
            Carried::Unknown => (Unseen::Fails, Unseen::Holds),
        };
        match self.judge(&subject, deny, allow) {
            Some((reply, _)) => reply.into(),
            None => Verdict::Continue,
        }
    }

    fn on_request(&self, x: &mut Exchange<'_>) -> Verdict {
        let mut lower = Vec::new();
        // The codec has refused heads whose authority is no host.
        let host = normalize::authority(x.request.authority()).map(|parts| parts.host).unwrap_or_default();
        let subject = Subject {
            identity: x.connection.identity.as_deref(),
            address: x.client.to_canonical(),
            port: x.listener_port,
            http: Some(Http {
                method: x.request.method,
                path: x.request.path(),
                host: normalize::host_lower(host, &mut lower),
            }),
        };
        match self.judge(&subject, Unseen::Fails, Unseen::Fails) {
            Some((reply, name)) => {
                x.notes.answered_by = name;
                reply.into()
            }
            None => Verdict::Continue,
        }
    }
}

#[cfg(test)]
mod tests;
