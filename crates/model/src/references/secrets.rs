//! Key pairs out of Secrets, and bundles of trusted certificates out of ConfigMaps (or Secrets).
//!
//! Called for listeners, client certificates and everything that verifies a peer. The certificates themselves are read in
//! `certificate`.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::{RefProblem, RefReason, References, Referrer, Target};
use crate::certificate::{KeyPair, read_bundle};
use crate::kinds::{Object, SecretBody, SecretObjectReference};
use crate::policy::article;

/// The entry of a ConfigMap or Secret that holds trusted certificates.
const CA_ENTRY: &str = "ca.crt";

/// An object that holds trusted certificates, as its reference names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BundleRef<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// The reason for a kind that is not known: Gateways and BackendTLSPolicies have different words for it.
    pub(crate) unknown_kind: RefReason,
}

/// A key pair that can be used.
#[derive(Debug, Clone)]
pub struct FoundPair {
    /// The pair.
    pub pair: Arc<KeyPair>,
    /// Why it is the one that the Secret held before, and not the one it holds now.
    pub outdated: Option<RefProblem>,
}

impl References<'_> {
    /// The key pair in the Secret that `reference` names, or the one it held last; `reason` stands for everything but a missing
    /// grant.
    ///
    /// # Errors
    /// Another kind than Secret, no grant, no such Secret, or certificates that cannot be used and no pair from before.
    pub fn key_pair(
        &self,
        from: &Referrer<'_>,
        reference: &SecretObjectReference,
        reason: RefReason,
    ) -> Result<FoundPair, RefProblem> {
        let (group, kind) = (reference.group.as_str(), reference.kind.as_str());
        if (group, kind) != ("", "Secret") {
            return Err(RefProblem::new(
                reason,
                format!("a certificate cannot be taken from {}", show_kind(group, kind)),
                "put it into a Secret (group \"\") with the entries tls.crt and tls.key",
            ));
        }
        let namespace = reference.namespace.as_deref().unwrap_or(from.namespace);
        let target = Target { group, kind, namespace, name: &reference.name };
        self.check_grant(from, &target)?;
        let name = &reference.name;
        let Some(secret) = self.world.secret(namespace, name) else {
            return Err(RefProblem::new(
                reason,
                format!("there is no Secret {namespace}/{name}"),
                "add it, with the entries tls.crt and tls.key",
            ));
        };
        let problem = match read_pair(secret, reason) {
            Ok(pair) => return Ok(FoundPair { pair: Arc::new(pair), outdated: None }),
            Err(problem) => problem,
        };
        match self.world.kept_pair(namespace, name) {
            None => Err(problem),
            Some(pair) => {
                let why = format!("{}; the certificate it held before stays in use", problem.why);
                Ok(FoundPair { pair: pair.clone(), outdated: Some(RefProblem { why, ..problem }) })
            }
        }
    }

    /// The trusted certificates in the ConfigMap or Secret that `reference` names, under `ca.crt`.
    ///
    /// # Errors
    /// Another kind, no grant, no such object, or certificates that do not parse.
    pub(crate) fn bundle(
        &self,
        from: &Referrer<'_>,
        reference: &BundleRef<'_>,
    ) -> Result<Vec<CertificateDer<'static>>, RefProblem> {
        let BundleRef { group, kind, namespace, name, unknown_kind } = *reference;
        if !matches!((group, kind), ("", "ConfigMap" | "Secret")) {
            return Err(RefProblem::new(
                unknown_kind,
                format!("trusted certificates cannot be taken from {}", show_kind(group, kind)),
                "put them into a ConfigMap (group \"\") with the entry ca.crt",
            ));
        }
        let target = Target { group, kind, namespace, name };
        self.check_grant(from, &target)?;
        let refuse = |why: String, remedy: &str| RefProblem::new(RefReason::InvalidCACertificateRef, why, remedy);
        let (found, entry) = if kind == "Secret" {
            let secret = self.world.secret(namespace, name);
            (secret.is_some(), secret.and_then(|s| s.spec.entry(CA_ENTRY)))
        } else {
            let map = self.world.config_map(namespace, name);
            (map.is_some(), map.and_then(|m| m.spec.entry(CA_ENTRY)))
        };
        if !found {
            return Err(refuse(
                format!("there is no {kind} {namespace}/{name}"),
                "add it, with the certificates of the authorities under ca.crt",
            ));
        }
        let Some(pem) = entry else {
            return Err(refuse(
                format!("the {kind} {namespace}/{name} has no entry {CA_ENTRY}"),
                "put the certificates of the authorities there, as PEM",
            ));
        };
        read_bundle(pem)
            .map_err(|problem| refuse(format!("the {kind} {namespace}/{name} cannot be used: {problem}"), ""))
    }
}

fn show_kind(group: &str, kind: &str) -> String {
    let article = article(kind);
    if group.is_empty() { format!("{article} {kind}") } else { format!("{article} {kind} of group {group}") }
}

/// The key pair in a Secret.
pub(crate) fn read_pair(secret: &Object<SecretBody>, reason: RefReason) -> Result<KeyPair, RefProblem> {
    let shown = format!("{}/{}", secret.meta.namespace, secret.meta.name);
    let entry = |key: &str| {
        secret.spec.entry(key).ok_or_else(|| {
            RefProblem::new(
                reason,
                format!("the Secret {shown} has no entry {key}"),
                "add tls.crt (certificates, leaf first) and tls.key (the private key), both as PEM",
            )
        })
    };
    KeyPair::from_pem(entry("tls.crt")?, entry("tls.key")?)
        .map_err(|problem| RefProblem::new(reason, format!("the Secret {shown} cannot be used: {problem}"), ""))
}
