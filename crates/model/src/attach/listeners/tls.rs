//! TLS of an HTTPS listener: its certificates, and how its clients are verified.
//!
//! Called by the drafting of listeners. A certificate that breaks while it is in use stays in use as it was. Otherwise, a broken
//! certificate leaves the others in force; when none is left the listener is not
//! served. When clients must be verified and no authority is left, the listener is not even accepted: it fails closed.

use std::sync::Arc;

use super::ListenerDraft;
use crate::attach::findings::Findings;
use crate::attach::{ClientValidation, ListenerTls};
use crate::certificate::KeyPair;
use crate::kinds::{FrontendValidation, GatewaySpec, Listener, Metadata, Object};
use crate::references::{BundleRef, RefProblem, RefReason, References, Referrer, read_pair};
use crate::world::World;

/// Finds what TLS needs, and notes in `draft` what is not there.
pub(super) fn draft_tls(
    draft: &mut ListenerDraft,
    gateway: &Object<GatewaySpec>,
    listener: &Listener,
    references: &References<'_>,
    findings: &mut Findings,
) {
    let from = Referrer::new("Gateway", &gateway.meta.namespace);
    let certificates = find_certificates(draft, &gateway.meta, listener, &from, references, findings);
    let validation = find_validation(gateway, listener.port);
    let client_validation = match validation {
        None => None,
        Some((validation, field)) => match verify_clients(draft, gateway, validation, &field, references, findings) {
            Some(found) => Some(found),
            None => return,
        },
    };
    draft.tls = Some(ListenerTls { certificates, client_validation });
}

/// Tells of every Secret that holds no good key pair now and has one from before in use.
pub(in crate::attach) fn report_kept(world: &World, findings: &mut Findings) {
    for secret in world.secrets() {
        if world.kept_pair(&secret.meta.namespace, &secret.meta.name).is_none() {
            continue;
        }
        let Err(problem) = read_pair(secret, RefReason::InvalidCertificateRef) else {
            continue;
        };
        let why = format!("{}; the certificate it held before stays in use", problem.why);
        findings.add(&secret.meta, secret.meta.at.spot(), "", why, problem.remedy);
    }
}

fn find_certificates(
    draft: &mut ListenerDraft,
    meta: &Metadata,
    listener: &Listener,
    from: &Referrer<'_>,
    references: &References<'_>,
    findings: &mut Findings,
) -> Vec<Arc<KeyPair>> {
    let refs = listener.tls.as_ref().map_or(&[][..], |tls| tls.certificate_refs.as_slice());
    if refs.is_empty() {
        let problem = RefProblem::new(
            RefReason::InvalidCertificateRef,
            "the listener has no certificate",
            "add `tls.certificateRefs` with a Secret that holds tls.crt and tls.key",
        );
        draft.unresolved_reference(meta, listener.at, "tls.certificateRefs", &problem, findings);
    }
    let mut certificates = Vec::new();
    for (position, reference) in refs.iter().enumerate() {
        match references.key_pair(from, reference, RefReason::InvalidCertificateRef) {
            Ok(found) => {
                certificates.push(found.pair);
                // That the Secret is out of order is told once, and not for every listener that uses it.
                if let Some(problem) = found.outdated {
                    draft.unresolved(problem.reason.as_str(), problem.to_string());
                }
            }
            Err(problem) => {
                let field = format!("tls.certificateRefs[{position}]");
                draft.unresolved_reference(meta, reference.at, &field, &problem, findings);
            }
        }
    }
    certificates
}

/// The settings for clients of a port, with their path in the Gateway: those of the port, else the default.
fn find_validation(gateway: &Object<GatewaySpec>, port: u16) -> Option<(&FrontendValidation, String)> {
    let frontend = gateway.spec.tls.as_ref()?.frontend.as_ref()?;
    let own = frontend.per_port.iter().enumerate().find(|(_, p)| p.port == port);
    let (config, field) = match own {
        Some((index, own)) => (&own.tls, format!("spec.tls.frontend.perPort[{index}].tls")),
        None => (&frontend.default, "spec.tls.frontend.default".to_owned()),
    };
    Some((config.validation.as_ref()?, field))
}

/// The authorities for client certificates; nothing when none is left, and then the listener is refused.
fn verify_clients(
    draft: &mut ListenerDraft,
    gateway: &Object<GatewaySpec>,
    validation: &FrontendValidation,
    field: &str,
    references: &References<'_>,
    findings: &mut Findings,
) -> Option<ClientValidation> {
    let from = Referrer::new("Gateway", &gateway.meta.namespace);
    let mut roots = Vec::new();
    for (position, reference) in validation.ca_certificate_refs.iter().enumerate() {
        let found = references.bundle(
            &from,
            &BundleRef {
                group: &reference.group,
                kind: &reference.kind,
                namespace: reference.namespace.as_deref().unwrap_or(from.namespace),
                name: &reference.name,
                unknown_kind: RefReason::InvalidCACertificateKind,
            },
        );
        match found {
            Ok(certificates) => roots.extend(certificates),
            Err(problem) => {
                findings.add(
                    &gateway.meta,
                    reference.at,
                    format!("{field}.validation.caCertificateRefs[{position}]"),
                    problem.why.as_str(),
                    problem.remedy.as_str(),
                );
                draft.unresolved(problem.reason.as_str(), problem.to_string());
            }
        }
    }
    if roots.is_empty() {
        let message = "No authority for client certificates is left, so the listener is closed.";
        draft.refused.get_or_insert(("NoValidCACertificate", message.to_owned()));
        return None;
    }
    Some(ClientValidation { roots, mode: validation.mode })
}
