//! The listeners of one Gateway: whether they are valid, whom they let attach, and what they need for TLS.
//!
//! Called by the drafting of Gateways. Conflicts between Gateways that share an address are settled in `binds`; routes are counted in
//! by `routes`.

mod kinds;
mod tls;

use std::collections::HashMap;

pub(super) use kinds::RouteKinds;
use tls::draft_tls;
pub(super) use tls::report_kept;

use super::findings::{Findings, sentence};
use super::overlap::Names;
use super::{AttachedListener, AttachedRoute, ListenerTls};
use crate::hostname::Hostname;
use crate::kinds::gateway::RouteNamespaces;
use crate::kinds::{GatewaySpec, Listener, Metadata, NamespacesFrom, Object, Protocol};
use crate::place::Spot;
use crate::references::{RefProblem, References};
use crate::status::{Condition, Conditions, ListenerStatus, Truth};
use crate::world::World;

/// A listener on its way to an [`AttachedListener`].
#[derive(Debug)]
pub(super) struct ListenerDraft {
    pub(super) name: String,
    pub(super) index: usize,
    pub(super) at: Spot,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    pub(super) hostname: Option<Hostname>,
    pub(super) kinds: RouteKinds,
    namespaces: RouteNamespaces,
    /// Why it is not accepted: reason and sentence.
    pub(super) refused: Option<(&'static str, String)>,
    /// Whether that is because of another listener of the same Gateway.
    conflicted: bool,
    /// References that lead nowhere, and kinds that are not known: the first reason, and all sentences.
    unresolved: Vec<(&'static str, String)>,
    tls: Option<ListenerTls>,
    pub(super) routes: Vec<AttachedRoute>,
    pub(super) http_names: Names,
    pub(super) grpc_names: Names,
}

/// Drafts the listeners of a Gateway and settles their conflicts.
pub(super) fn draft(
    gateway: &Object<GatewaySpec>,
    references: &References<'_>,
    findings: &mut Findings,
) -> Vec<ListenerDraft> {
    let mut drafts: Vec<_> = gateway
        .spec
        .listeners
        .iter()
        .enumerate()
        .map(|(index, listener)| draft_one(gateway, index, listener, references, findings))
        .collect();
    find_conflicts(&gateway.meta, &mut drafts, findings);
    drafts
}

fn draft_one(
    gateway: &Object<GatewaySpec>,
    index: usize,
    listener: &Listener,
    references: &References<'_>,
    findings: &mut Findings,
) -> ListenerDraft {
    let mut draft = ListenerDraft {
        name: listener.name.to_string(),
        index,
        at: listener.at,
        port: listener.port,
        protocol: listener.protocol.clone(),
        hostname: None,
        kinds: RouteKinds::none(),
        namespaces: listener.allowed_routes.namespaces.clone(),
        refused: None,
        conflicted: false,
        unresolved: Vec::new(),
        tls: None,
        routes: Vec::new(),
        http_names: Names::default(),
        grpc_names: Names::default(),
    };
    if !is_served(&listener.protocol) {
        let why = format!("protocol {} is not supported", listener.protocol);
        draft.refuse(&gateway.meta, "UnsupportedProtocol", "protocol", &why, "use HTTP, HTTPS or TCP", findings);
        return draft;
    }
    if let Some(name) = &listener.hostname {
        match Hostname::parse(name) {
            Ok(name) => draft.hostname = Some(name),
            Err(problem) => draft.refuse(
                &gateway.meta,
                "UnsupportedValue",
                "hostname",
                &problem.to_string(),
                "write a DNS name, or `*.` and one",
                findings,
            ),
        }
    }
    let (allowed, unknown) = RouteKinds::read(&listener.protocol, &listener.allowed_routes.kinds);
    draft.kinds = allowed;
    if listener.protocol == Protocol::Https {
        draft_tls(&mut draft, gateway, listener, references, findings);
    }
    for (position, spot, kind) in unknown {
        let why = format!("routes of kind {kind} cannot attach to this listener");
        let remedy = if listener.protocol == Protocol::Tcp { "use TCPRoute" } else { "use HTTPRoute or GRPCRoute" };
        let field = draft.field(&format!("allowedRoutes.kinds[{position}]"));
        draft.unresolved("InvalidRouteKinds", sentence(&why, remedy));
        findings.add(&gateway.meta, spot, field, why, remedy);
    }
    draft
}

/// Whether listeners of a protocol can be opened.
fn is_served(protocol: &Protocol) -> bool {
    matches!(protocol, Protocol::Http | Protocol::Https | Protocol::Tcp)
}

/// What a Gateway's listener must not share with another one of the same port.
fn find_conflicts(meta: &Metadata, drafts: &mut [ListenerDraft], findings: &mut Findings) {
    let mut by_port: HashMap<u16, Vec<usize>> = HashMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        if is_served(&draft.protocol) {
            by_port.entry(draft.port).or_default().push(index);
        }
    }
    for (port, indexes) in by_port {
        let Some(&first) = indexes.first() else {
            continue;
        };
        // Inside one Gateway nobody wins: all listeners that cannot be told apart are refused.
        if let Some(&other) = indexes.iter().find(|i| drafts[**i].protocol != drafts[first].protocol) {
            let both = format!("{} and {}", drafts[first].protocol, drafts[other].protocol);
            for &index in &indexes {
                let why = format!("port {port} is used with both {both}");
                let remedy = "give the listeners of one protocol another port";
                drafts[index].conflict(meta, "ProtocolConflict", "port", &why, remedy, findings);
            }
            continue;
        }
        let mut by_name: HashMap<Option<Hostname>, Vec<usize>> = HashMap::new();
        for index in indexes {
            let name = drafts[index].hostname.clone();
            by_name.entry(name).or_default().push(index);
        }
        for same in by_name.into_values().filter(|same| same.len() > 1) {
            let names: Vec<_> = same.iter().map(|i| drafts[*i].name.clone()).collect();
            for index in same {
                let why = format!("{} have the same port and hostname", names.join(" and "));
                let remedy = "give each of them a hostname or port of its own";
                drafts[index].conflict(meta, "HostnameConflict", "hostname", &why, remedy, findings);
            }
        }
    }
}

impl ListenerDraft {
    /// The path of a field of this listener inside its Gateway.
    pub(super) fn field(&self, name: &str) -> String {
        format!("spec.listeners[{}].{name}", self.index)
    }

    /// Refuses the listener; the first reason stays.
    pub(super) fn refuse(
        &mut self,
        meta: &Metadata,
        reason: &'static str,
        field: &str,
        why: &str,
        remedy: &str,
        findings: &mut Findings,
    ) {
        findings.add(meta, self.at, self.field(field), why, remedy);
        self.refused.get_or_insert((reason, sentence(why, remedy)));
    }

    fn conflict(
        &mut self,
        meta: &Metadata,
        reason: &'static str,
        field: &str,
        why: &str,
        remedy: &str,
        findings: &mut Findings,
    ) {
        self.conflicted = self.refused.is_none();
        self.refuse(meta, reason, field, why, remedy, findings);
    }

    /// Notes a reference that leads nowhere.
    fn unresolved(&mut self, reason: &'static str, message: String) {
        self.unresolved.push((reason, message));
    }

    fn unresolved_reference(
        &mut self,
        meta: &Metadata,
        spot: Spot,
        field: &str,
        problem: &RefProblem,
        findings: &mut Findings,
    ) {
        let field = self.field(field);
        let (why, remedy) = (problem.why.as_str(), problem.remedy.as_str());
        findings.add(meta, spot, field, why, remedy);
        self.unresolved(problem.reason.as_str(), problem.to_string());
    }

    /// Whether routes of this namespace may attach.
    pub(super) fn allows_namespace(&self, gateway: &str, route: &str, world: &World) -> bool {
        match self.namespaces.from {
            NamespacesFrom::All => true,
            NamespacesFrom::None => false,
            NamespacesFrom::Same => gateway == route,
            NamespacesFrom::Selector => self
                .namespaces
                .selector
                .as_ref()
                .is_some_and(|selector| selector.matches(&world.namespace_labels(route))),
        }
    }

    /// Whether it can be opened, as far as the listener itself goes.
    pub(super) fn can_serve(&self) -> bool {
        let has_certificates = match (&self.protocol, &self.tls) {
            (Protocol::Https, Some(tls)) => !tls.certificates.is_empty(),
            (Protocol::Https, None) => false,
            _ => true,
        };
        self.refused.is_none() && has_certificates && self.kinds != RouteKinds::none()
    }

    /// The status, for a Gateway that is `open` (accepted) or not.
    pub(super) fn status(&self, generation: i64, open: bool) -> ListenerStatus {
        let mut conditions = Conditions::new(generation);
        conditions.set(match &self.refused {
            None => Condition::new("Accepted", Truth::True, "Accepted", "The listener is valid."),
            Some((reason, message)) => Condition::new("Accepted", Truth::False, *reason, message.as_str()),
        });
        conditions.set(match self.unresolved.first() {
            None => Condition::new("ResolvedRefs", Truth::True, "ResolvedRefs", "Everything it refers to is there."),
            Some((reason, _)) => {
                let messages: Vec<_> = self.unresolved.iter().map(|(_, m)| m.as_str()).collect();
                Condition::new("ResolvedRefs", Truth::False, *reason, messages.join(" "))
            }
        });
        let (truth, reason, message) = if !open {
            let message = "The Gateway is not accepted, so its listeners are not served.";
            (Truth::False, "Invalid", message)
        } else if self.can_serve() {
            (Truth::True, "Programmed", "The listener is served.")
        } else {
            let message = "The listener is not served; the other conditions say why.";
            (Truth::False, "Invalid", message)
        };
        conditions.set(Condition::new("Programmed", truth, reason, message));
        conditions.set(match &self.refused {
            Some((reason, message)) if self.conflicted => {
                Condition::new("Conflicted", Truth::True, *reason, message.as_str())
            }
            _ => Condition::new("Conflicted", Truth::False, "NoConflicts", "No other listener is in the way."),
        });
        ListenerStatus {
            name: self.name.clone(),
            supported_kinds: self.kinds.names(),
            attached_routes: u32::try_from(self.routes.len()).unwrap_or(u32::MAX),
            conditions,
        }
    }

    /// The result, for a Gateway that is `open` (accepted) or not.
    pub(super) fn finish(self, open: bool) -> AttachedListener {
        AttachedListener {
            serving: open && self.can_serve(),
            name: self.name,
            port: self.port,
            protocol: self.protocol,
            hostname: self.hostname,
            tls: self.tls,
            routes: self.routes,
        }
    }
}
