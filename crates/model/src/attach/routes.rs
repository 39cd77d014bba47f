//! Routes and their parents: every HTTPRoute, GRPCRoute and TCPRoute hung on the listeners and Services that take it, and its status.
//!
//! Called after all Gateways are drafted. Routes come oldest first, because the oldest wins. What a route refers to is judged
//! once, whatever its parents say; a dangling reference does not keep a route from attaching.

mod refs;

use std::collections::{BTreeSet, HashMap};

use refs::{JudgedRefs, judge_refs};

use super::findings::{Findings, sentence};
use super::gateways::GatewayDraft;
use super::parents::{About, Candidate, Refusal, attach_to};
use super::services::{AttachedService, ServiceDrafts};
use super::{Extent, RouteRef};
use crate::hostname::Hostname;
use crate::kinds::gateway::DefaultScope;
use crate::kinds::{GATEWAY_GROUP, ParentReference};
use crate::place::Spot;
use crate::references::{BackendKey, References};
use crate::schema::Text;
use crate::status::{
    Condition, Conditions, ObjectStatus, ParentStatus, RouteStatus, Status, StatusBody, StatusRef, Truth,
};
use crate::value::Words;
use crate::world::World;

/// Which Gateways use what: the ancestors of policies. Gateways are numbers of drafts.
#[derive(Debug, Default)]
pub(super) struct Uses<'w> {
    /// Gateways and BackendTLSPolicies (by their number) that concern their backends.
    pub(super) tls_policies: BTreeSet<(usize, usize)>,
    /// The Gateways that requests for a backend come from.
    pub(super) backends: HashMap<BackendKey<'w>, BTreeSet<usize>>,
    /// The Gateways that a route hangs on, by kind, namespace and name.
    pub(super) routes: HashMap<(&'static str, Text, Text), BTreeSet<usize>>,
}

impl RouteRef {
    pub(super) fn parent_refs(&self) -> &[ParentReference] {
        match self {
            Self::Http(route) => &route.spec.parent_refs,
            Self::Grpc(route) => &route.spec.parent_refs,
            Self::Tcp(route) => &route.spec.parent_refs,
        }
    }

    fn hostnames(&self) -> &[Text] {
        match self {
            Self::Http(route) => &route.spec.hostnames,
            Self::Grpc(route) => &route.spec.hostnames,
            Self::Tcp(_) => &[],
        }
    }

    fn wants_default_gateways(&self) -> bool {
        let scope = match self {
            Self::Http(route) => route.spec.use_default_gateways,
            Self::Grpc(route) => route.spec.use_default_gateways,
            Self::Tcp(route) => route.spec.use_default_gateways,
        };
        scope == Some(DefaultScope::All)
    }
}

/// Attaches every route of `world` and writes its status.
pub(super) fn attach_all<'w>(
    (world, extent): (&'w World, Extent),
    references: &References<'w>,
    drafts: &mut [GatewayDraft],
    status: &mut Status,
    findings: &mut Findings,
) -> (Uses<'w>, Vec<AttachedService>) {
    let gateways: Vec<_> = drafts.iter().map(|draft| draft.gateway.clone()).collect();
    let index: HashMap<(&str, &str), usize> = gateways
        .iter()
        .enumerate()
        .map(|(number, gateway)| {
            let meta = &gateway.meta;
            ((meta.namespace.as_str(), meta.name.as_str()), number)
        })
        .collect();
    let http = world.http_routes().iter().map(|route| RouteRef::Http(route.clone()));
    let grpc = world.grpc_routes().iter().map(|route| RouteRef::Grpc(route.clone()));
    let tcp = world.tcp_routes().iter().map(|route| RouteRef::Tcp(route.clone()));
    let mut routes: Vec<RouteRef> = http.chain(grpc).chain(tcp).collect();
    routes.sort_by(|a, b| a.meta().precedence().cmp(&b.meta().precedence()));
    let mut run = Run {
        world,
        extent,
        index,
        drafts,
        findings,
        uses: Uses::default(),
        services: ServiceDrafts::default(),
        words: Words::default(),
    };
    for (order, route) in routes.iter().enumerate() {
        let judged = judge_refs(references, route, run.findings);
        let order = u32::try_from(order).unwrap_or(u32::MAX);
        let parents = run.attach_one(route, order, references, &judged);
        let meta = route.meta();
        status.insert(
            meta.object_name(),
            ObjectStatus {
                api_version: "gateway.networking.k8s.io/v1".into(),
                generation: meta.generation,
                body: StatusBody::Route(RouteStatus { parents }),
            },
        );
    }
    (run.uses, run.services.finish())
}

struct Run<'a, 'w> {
    world: &'w World,
    extent: Extent,
    index: HashMap<(&'a str, &'a str), usize>,
    drafts: &'a mut [GatewayDraft],
    findings: &'a mut Findings,
    uses: Uses<'w>,
    services: ServiceDrafts,
    words: Words,
}

/// What became of one parentRef.
enum Outcome {
    /// Attached to these listeners of this Gateway.
    Attached(usize, Vec<String>),
    /// Attached to a Service, which is described.
    OnService(String),
    Refused(Refusal),
    /// The parent belongs to another controller, or is not in this part of the world.
    Foreign,
}

impl<'w> Run<'_, 'w> {
    fn attach_one(
        &mut self,
        route: &RouteRef,
        order: u32,
        references: &References<'w>,
        judged: &JudgedRefs<'w>,
    ) -> Vec<ParentStatus> {
        let hostnames = read_hostnames(route);
        let parents = self.parents_of(route);
        let mut statuses = Vec::with_capacity(parents.len());
        for (position, parent) in parents.iter().enumerate() {
            let outcome = match &hostnames {
                Ok(hostnames) => {
                    let candidate = Candidate { route, hostnames, order };
                    self.attach_to_parent(parent, &candidate)
                }
                Err(problem) => Outcome::Refused(Refusal::new(
                    "UnsupportedValue",
                    About::Hostnames,
                    problem.as_str(),
                    "write DNS names, or `*.` and one",
                )),
            };
            let accepted = match outcome {
                Outcome::Foreign => continue,
                Outcome::Attached(gateway, listeners) => {
                    self.note_uses(gateway, route, references, judged);
                    let message = format!("The route is attached to {}.", listeners.join(", "));
                    Condition::new("Accepted", Truth::True, "Accepted", message)
                }
                Outcome::OnService(what) => {
                    let message = format!("The route is attached to {what}.");
                    Condition::new("Accepted", Truth::True, "Accepted", message)
                }
                Outcome::Refused(refusal) => {
                    let message = sentence(&refusal.why, &refusal.remedy);
                    self.report(route, parent, position, &refusal);
                    Condition::new("Accepted", Truth::False, refusal.reason, message)
                }
            };
            let mut conditions = Conditions::new(route.meta().generation);
            for mut condition in [accepted, judged.condition()] {
                // Most routes are told the same.
                condition.message = self.words.share(&condition.message).into();
                conditions.set(condition);
            }
            statuses.push(ParentStatus { parent_ref: status_ref(parent), conditions });
        }
        statuses
    }

    /// The parents a route names, and the default Gateways if it asks for them (GEP-3793).
    fn parents_of(&self, route: &RouteRef) -> Vec<ParentReference> {
        let mut parents = route.parent_refs().to_vec();
        let own = route.meta().namespace.as_str();
        let implied = |draft: &GatewayDraft| {
            let meta = &draft.gateway.meta;
            ParentReference {
                at: Spot::default(),
                group: GATEWAY_GROUP.into(),
                kind: "Gateway".into(),
                namespace: (meta.namespace != *own).then(|| meta.namespace.clone()),
                name: meta.name.clone(),
                section_name: None,
                port: None,
            }
        };
        if route.wants_default_gateways() {
            let default = |d: &&GatewayDraft| d.gateway.spec.default_scope == Some(DefaultScope::All);
            for parent in self.drafts.iter().filter(default).map(implied) {
                if !parents.contains(&parent) {
                    parents.push(parent);
                }
            }
        }
        parents
    }

    fn attach_to_parent(&mut self, parent: &ParentReference, candidate: &Candidate<'_>) -> Outcome {
        let own = &candidate.route.meta().namespace;
        let namespace = parent.namespace.as_ref().unwrap_or(own);
        if (parent.group.as_str(), parent.kind.as_str()) == ("", "Service") {
            if self.extent == Extent::Part && self.world.service(namespace, &parent.name).is_none() {
                return Outcome::Foreign;
            }
            let attached = self.services.attach(self.world, parent, candidate.route, candidate.order);
            return attached.map_or_else(Outcome::Refused, Outcome::OnService);
        }
        if (parent.group.as_str(), parent.kind.as_str()) != (GATEWAY_GROUP, "Gateway") {
            return Outcome::Refused(Refusal::new(
                "NoMatchingParent",
                About::Parent,
                format!("a route cannot attach to a {}", parent.kind),
                "name a Gateway, or a Service with `group: \"\"`",
            ));
        }
        let Some(&number) = self.index.get(&(namespace.as_str(), parent.name.as_str())) else {
            if self.extent != Extent::Whole || self.world.gateway(namespace, &parent.name).is_some() {
                return Outcome::Foreign;
            }
            return Outcome::Refused(self.no_gateway(namespace, &parent.name));
        };
        match attach_to(&mut self.drafts[number], parent, candidate, self.world) {
            Ok(listeners) => Outcome::Attached(number, listeners),
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    fn no_gateway(&self, namespace: &str, name: &str) -> Refusal {
        let known = self.index.keys().filter(|(ns, _)| *ns == namespace).map(|(_, name)| *name).take(200);
        let remedy = match crate::suggest::nearest(name, known) {
            Some(near) => format!("did you mean {near}?"),
            None => "add the Gateway, or correct the name or namespace of the parentRef".to_owned(),
        };
        Refusal::new("NoMatchingParent", About::Parent, format!("there is no Gateway {namespace}/{name}"), remedy)
    }

    fn report(&mut self, route: &RouteRef, parent: &ParentReference, position: usize, refusal: &Refusal) {
        let field = match refusal.about {
            About::Parent => format!("spec.parentRefs[{position}]"),
            About::Hostnames => "spec.hostnames".to_owned(),
        };
        self.findings.add(route.meta(), parent.at, field, refusal.why.as_str(), refusal.remedy.as_str());
    }

    fn note_uses(&mut self, gateway: usize, route: &RouteRef, references: &References<'w>, judged: &JudgedRefs<'w>) {
        let meta = route.meta();
        let key = (route.kind(), meta.namespace.clone(), meta.name.clone());
        self.uses.routes.entry(key).or_default().insert(gateway);
        for found in &judged.backends {
            let gateways = self.uses.backends.entry(found.key()).or_default();
            gateways.insert(gateway);
            for policy in references.policies_concerning(found) {
                self.uses.tls_policies.insert((gateway, policy));
            }
        }
    }
}

fn read_hostnames(route: &RouteRef) -> Result<Vec<Hostname>, String> {
    let names = route.hostnames().iter();
    names.map(|name| Hostname::parse(name).map_err(|problem| problem.to_string())).collect()
}

fn status_ref(parent: &ParentReference) -> StatusRef {
    StatusRef {
        group: parent.group.clone(),
        kind: parent.kind.clone(),
        namespace: parent.namespace.clone(),
        name: parent.name.clone(),
        section_name: parent.section_name.clone(),
        port: parent.port,
    }
}
