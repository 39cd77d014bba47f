//! GatewayClasses and Gateways: which are ours, whether they are accepted, and their status.
//!
//! Called first by `attach`. A Gateway is ours when its class names our controller, when it names no class, or when there is no
//! class at all (configuration from files). Gateways of other controllers are left alone, without a word in their status.

use std::sync::Arc;

use super::addresses::Addresses;
use super::findings::{Findings, sentence};
use super::listeners::{self, ListenerDraft};
use super::{AttachedGateway, Surroundings};
use crate::kinds::{CONTROLLER_NAME, FrontendValidationMode, GatewayClassSpec, GatewaySpec, Object};
use crate::references::{FoundPair, RefProblem, RefReason, References, Referrer};
use crate::status::{
    ClassStatus, Condition, Conditions, GatewayStatus, ObjectStatus, SUPPORTED_FEATURES, Status, StatusAddress,
    StatusBody, Truth,
};
use crate::world::World;

const API_VERSION: &str = "gateway.networking.k8s.io/v1";

/// A Gateway of ours on its way to an [`AttachedGateway`].
#[derive(Debug)]
pub(super) struct GatewayDraft {
    pub(super) gateway: Arc<Object<GatewaySpec>>,
    pub(super) listeners: Vec<ListenerDraft>,
    pub(super) addresses: Addresses,
    /// Why the Gateway as a whole is not accepted: reason and sentence.
    pub(super) refused: Option<(&'static str, String)>,
    /// What became of the client certificate, when the spec names one.
    client_identity: Option<Result<FoundPair, RefProblem>>,
}

/// Writes the status of every GatewayClass of ours.
pub(super) fn judge_classes(world: &World, status: &mut Status, findings: &mut Findings) {
    for class in world.gateway_classes() {
        if class.spec.controller_name != CONTROLLER_NAME {
            continue;
        }
        let mut conditions = Conditions::new(class.meta.generation);
        conditions.set(match refuse_class(class) {
            None => Condition::new("Accepted", Truth::True, "Accepted", "Gateways of this class are served."),
            Some((why, remedy)) => {
                let spot = class.spec.parameters_ref.as_ref().map(|p| p.at);
                let message = sentence(&why, remedy);
                findings.add(&class.meta, spot.unwrap_or_default(), "spec.parametersRef", why, remedy);
                Condition::new("Accepted", Truth::False, "InvalidParameters", message)
            }
        });
        conditions.set(Condition::new(
            "SupportedVersion",
            Truth::True,
            "SupportedVersion",
            "The Gateway API types of version 1.6 are understood.",
        ));
        status.insert(
            class.meta.object_name(),
            ObjectStatus {
                api_version: API_VERSION.into(),
                generation: class.meta.generation,
                body: StatusBody::Class(ClassStatus { conditions, supported_features: SUPPORTED_FEATURES }),
            },
        );
    }
}

fn refuse_class(class: &Object<GatewayClassSpec>) -> Option<(String, &'static str)> {
    let parameters = class.spec.parameters_ref.as_ref()?;
    Some((
        format!("parametersRef names a {} and no kind of parameters is known", parameters.kind),
        "remove `parametersRef`",
    ))
}

enum Ownership {
    /// Ours; with the sentence that refuses its class.
    Ours(Option<String>),
    /// Of another controller.
    Foreign,
    /// Of a class that does not exist.
    Unknown(String),
}

fn find_owner(world: &World, gateway: &Object<GatewaySpec>) -> Ownership {
    let Some(name) = &gateway.spec.gateway_class_name else {
        return Ownership::Ours(None);
    };
    match world.gateway_class(name) {
        Some(class) if class.spec.controller_name == CONTROLLER_NAME => Ownership::Ours(
            refuse_class(class)
                .map(|(why, remedy)| sentence(&format!("the GatewayClass {name} is not accepted: {why}"), remedy)),
        ),
        Some(_) => Ownership::Foreign,
        None if world.gateway_classes().is_empty() => Ownership::Ours(None),
        None => Ownership::Unknown(name.to_string()),
    }
}

/// Drafts our Gateways, oldest first.
pub(super) fn draft(
    world: &World,
    references: &References<'_>,
    surroundings: &Surroundings,
    status: &mut Status,
    findings: &mut Findings,
) -> Vec<GatewayDraft> {
    listeners::report_kept(world, findings);
    let mut drafts = Vec::new();
    for gateway in world.gateways().iter().filter(|gateway| !surroundings.is_elsewhere(&gateway.meta)) {
        match find_owner(world, gateway) {
            Ownership::Foreign => {}
            Ownership::Unknown(class) => leave_pending(gateway, &class, status, findings),
            Ownership::Ours(class_refused) => {
                drafts.push(draft_one(gateway, class_refused, references, surroundings, findings))
            }
        }
    }
    drafts
}

fn leave_pending(gateway: &Object<GatewaySpec>, class: &str, status: &mut Status, findings: &mut Findings) {
    let why = format!("there is no GatewayClass {class}");
    let remedy =
        format!("add a GatewayClass {class} with `controllerName: {CONTROLLER_NAME}`, or correct `gatewayClassName`");
    let mut conditions = Conditions::new(gateway.meta.generation);
    for kind in ["Accepted", "Programmed"] {
        let message = sentence(&why, &remedy);
        conditions.set(Condition::new(kind, Truth::Unknown, "Pending", message));
    }
    findings.add(&gateway.meta, gateway.spec.at, "spec.gatewayClassName", why, remedy);
    let body = GatewayStatus { addresses: Vec::new(), conditions, listeners: Vec::new() };
    insert(gateway, body, status);
}

fn insert(gateway: &Object<GatewaySpec>, body: GatewayStatus, status: &mut Status) {
    status.insert(
        gateway.meta.object_name(),
        ObjectStatus {
            api_version: API_VERSION.into(),
            generation: gateway.meta.generation,
            body: StatusBody::Gateway(body),
        },
    );
}

fn draft_one(
    gateway: &Arc<Object<GatewaySpec>>,
    class_refused: Option<String>,
    references: &References<'_>,
    surroundings: &Surroundings,
    findings: &mut Findings,
) -> GatewayDraft {
    let addresses = Addresses::choose(gateway, surroundings, findings);
    let mut refused = class_refused.map(|message| ("InvalidParameters", message));
    let infrastructure = gateway.spec.infrastructure.as_ref();
    if let Some(parameters) = infrastructure.and_then(|i| i.parameters_ref.as_ref()) {
        let why = format!("parametersRef names a {} and no kind of parameters is known", parameters.kind);
        let remedy = "remove `infrastructure.parametersRef`";
        refused.get_or_insert(("InvalidParameters", sentence(&why, remedy)));
        let field = "spec.infrastructure.parametersRef";
        findings.add(&gateway.meta, parameters.at, field, why, remedy);
    }
    if refused.is_none() && !addresses.unsupported.is_empty() {
        refused = Some(("UnsupportedAddress", addresses.unsupported.join(" ")));
    }
    GatewayDraft {
        gateway: gateway.clone(),
        listeners: listeners::draft(gateway, references, findings),
        client_identity: find_identity(gateway, references, findings),
        addresses,
        refused,
    }
}

fn find_identity(
    gateway: &Object<GatewaySpec>,
    references: &References<'_>,
    findings: &mut Findings,
) -> Option<Result<FoundPair, RefProblem>> {
    let backend = gateway.spec.tls.as_ref()?.backend.as_ref()?;
    let reference = backend.client_certificate_ref.as_ref()?;
    let from = Referrer::new("Gateway", &gateway.meta.namespace);
    let found = references.key_pair(&from, reference, RefReason::InvalidClientCertificateRef);
    if let Err(problem) = &found {
        findings.add(
            &gateway.meta,
            reference.at,
            "spec.tls.backend.clientCertificateRef",
            problem.why.as_str(),
            problem.remedy.as_str(),
        );
    }
    Some(found)
}

impl GatewayDraft {
    /// Whether the Gateway as a whole is accepted: nothing refuses it, and at least one listener is valid.
    fn accepted(&self) -> Condition {
        if let Some((reason, message)) = &self.refused {
            return Condition::new("Accepted", Truth::False, *reason, message.as_str());
        }
        let invalid: Vec<_> = self
            .listeners
            .iter()
            .filter(|listener| listener.refused.is_some())
            .map(|listener| listener.name.as_str())
            .collect();
        let (truth, reason, message) = if invalid.is_empty() {
            let message = "The Gateway is served.".to_owned();
            (Truth::True, "Accepted", message)
        } else {
            let names = invalid.join(", ");
            let message = format!("Not valid: {names}. Their own conditions say why.");
            let all = invalid.len() == self.listeners.len();
            let truth = if all { Truth::False } else { Truth::True };
            (truth, "ListenersNotValid", message)
        };
        Condition::new("Accepted", truth, reason, message)
    }

    fn programmed(&self, accepted: &Condition) -> Condition {
        let refuse = |reason, message: String| Condition::new("Programmed", Truth::False, reason, message);
        if accepted.status != Truth::True {
            let message = "The Gateway is not accepted, so nothing is served.".to_owned();
            return refuse("Invalid", message);
        }
        if !self.addresses.unusable.is_empty() {
            return refuse("AddressNotUsable", self.addresses.unusable.join(" "));
        }
        let serving = self.listeners.iter().filter(|l| l.can_serve()).count();
        let message = format!("{serving} of {} listeners are served.", self.listeners.len());
        Condition::new("Programmed", Truth::True, "Programmed", message)
    }

    fn insecure(&self) -> Option<Condition> {
        let frontend = self.gateway.spec.tls.as_ref()?.frontend.as_ref()?;
        let ports = frontend.per_port.iter().map(|port| &port.tls);
        let insecure = std::iter::once(&frontend.default)
            .chain(ports)
            .filter_map(|tls| tls.validation.as_ref())
            .any(|validation| validation.mode == FrontendValidationMode::AllowInsecureFallback);
        insecure.then(|| {
            Condition::new(
                "InsecureFrontendValidationMode",
                Truth::True,
                "ConfigurationChanged",
                "Clients are let in without a valid certificate (AllowInsecureFallback): backends must decide about them.",
            )
        })
    }

    fn resolved(&self) -> Option<Condition> {
        Some(match self.client_identity.as_ref()? {
            Ok(FoundPair { outdated: None, .. }) => {
                Condition::new("ResolvedRefs", Truth::True, "ResolvedRefs", "The client certificate is there.")
            }
            Ok(FoundPair { outdated: Some(problem), .. }) | Err(problem) => {
                Condition::new("ResolvedRefs", Truth::False, problem.reason.as_str(), problem.to_string())
            }
        })
    }

    /// Writes the status and gives the result.
    pub(super) fn finish(self, status: &mut Status) -> AttachedGateway {
        let accepted = self.accepted();
        let open = accepted.status == Truth::True;
        let mut conditions = Conditions::new(self.gateway.meta.generation);
        let programmed = self.programmed(&accepted);
        conditions.set(accepted);
        conditions.set(programmed);
        if let Some(condition) = self.resolved() {
            conditions.set(condition);
        }
        if let Some(condition) = self.insecure() {
            conditions.set(condition);
        }
        let generation = self.gateway.meta.generation;
        let (shown, listen) = if open {
            (self.addresses.shown, self.addresses.listen)
        } else {
            (Vec::<StatusAddress>::new(), Vec::new())
        };
        let listeners = self.listeners.iter().map(|l| l.status(generation, open));
        let body = GatewayStatus { addresses: shown, conditions, listeners: listeners.collect() };
        insert(&self.gateway, body, status);
        AttachedGateway {
            addresses: listen,
            listeners: self.listeners.into_iter().map(|listener| listener.finish(open)).collect(),
            client_identity: self.client_identity.and_then(Result::ok).map(|found| found.pair),
            gateway: self.gateway,
        }
    }
}
