//! What a reference leads to: backends with their endpoints and TLS, certificates, bundles of trusted certificates.
//!
//! Called by `attach` (for conditions) and by the engine's compile (for endpoints). The rules of Gateway API in one place: a
//! grant before anything else is said about another namespace, the kinds that are known, and one reason per failure. It
//! does no IO: DNS names stay names.

mod backends;
mod endpoints;
mod grants;
mod resolved;
mod secrets;
mod tls_policies;

use std::fmt;

pub(crate) use backends::FoundBackend;
pub use endpoints::{DnsEndpoint, EndpointAddress, EndpointSource, EndpointTunnel, find_endpoints};
pub(crate) use resolved::BackendKey;
pub use resolved::{AppProtocol, BackendId, BackendTarget, BackendTls, Grant, ResolvedBackend, Roots, San};
pub use secrets::FoundPair;
pub(crate) use secrets::{BundleRef, read_pair};
pub(crate) use tls_policies::{TlsPolicy, is_target};

use crate::kinds::GATEWAY_GROUP;
use crate::world::World;

/// The object that refers to another one, as grants name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Referrer<'a> {
    /// Its API group.
    pub group: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
}

impl<'a> Referrer<'a> {
    /// An object of Gateway API.
    pub fn new(kind: &'a str, namespace: &'a str) -> Self {
        Self { group: GATEWAY_GROUP, kind, namespace }
    }
}

/// The object that is referred to, as grants name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Target<'a> {
    group: &'a str,
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
}

/// Why a reference leads nowhere, in the words of Gateway API's `ResolvedRefs` conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefReason {
    /// The backend, or its port, does not exist.
    BackendNotFound,
    /// The object is in another namespace and no ReferenceGrant there allows it.
    RefNotPermitted,
    /// The kind is not known here.
    InvalidKind,
    /// The backend speaks a protocol that the route cannot use.
    UnsupportedProtocol,
    /// A listener's certificate is missing or broken.
    InvalidCertificateRef,
    /// The client certificate of a Gateway is missing or broken.
    InvalidClientCertificateRef,
    /// A trusted certificate is missing or broken.
    InvalidCACertificateRef,
    /// A trusted certificate of a kind that is not known here, in a Gateway.
    InvalidCACertificateKind,
    /// No certificate is left that could be trusted.
    NoValidCACertificate,
    /// What is referred to contradicts itself or cannot be used.
    Invalid,
}

impl RefReason {
    /// The reason as it stands in a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BackendNotFound => "BackendNotFound",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::InvalidKind => "InvalidKind",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::InvalidCertificateRef => "InvalidCertificateRef",
            Self::InvalidClientCertificateRef => "InvalidClientCertificateRef",
            Self::InvalidCACertificateRef => "InvalidCACertificateRef",
            Self::InvalidCACertificateKind => "InvalidCACertificateKind",
            Self::NoValidCACertificate => "NoValidCACertificate",
            Self::Invalid => "Invalid",
        }
    }
}

/// A reference that leads nowhere. Displays as one or two sentences: what is wrong, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefProblem {
    /// The reason for the condition.
    pub reason: RefReason,
    /// What is wrong, as a clause without a capital and without a full stop.
    pub why: String,
    /// What would make it right, in the same form.
    pub remedy: String,
}

impl RefProblem {
    pub(crate) fn new(reason: RefReason, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason, why: why.into(), remedy: remedy.into() }
    }

    /// No grant: said in the same words whether the object exists or not.
    fn not_permitted(from: &Referrer<'_>, to: &Target<'_>) -> Self {
        let Referrer { kind, namespace, .. } = from;
        Self::new(
            RefReason::RefNotPermitted,
            format!("the {kind} in namespace {namespace} may not refer to {} {}/{}", to.kind, to.namespace, to.name),
            format!("add a ReferenceGrant in namespace {} from {kind} in {namespace} to {}", to.namespace, to.kind),
        )
    }
}

impl fmt::Display for RefProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_sentence(f, &self.why)?;
        if !self.remedy.is_empty() {
            f.write_str(" ")?;
            write_sentence(f, &self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for RefProblem {}

/// Writes a clause with a capital in front and a full stop behind.
fn write_sentence(f: &mut fmt::Formatter<'_>, clause: &str) -> fmt::Result {
    let mut letters = clause.chars();
    if let Some(first) = letters.next() {
        write!(f, "{}{}.", first.to_uppercase(), letters.as_str())?;
    }
    Ok(())
}

/// A world with its BackendTLSPolicies indexed: what resolves references.
#[derive(Debug)]
pub struct References<'w> {
    world: &'w World,
    tls_policies: tls_policies::TlsPolicies<'w>,
}

impl<'w> References<'w> {
    /// Sorts the BackendTLSPolicies of `world` by target and judges their certificates.
    pub fn new(world: &'w World) -> Self {
        let mut references = Self { world, tls_policies: tls_policies::TlsPolicies::new(world) };
        references.judge_tls();
        references
    }

    /// The BackendTLSPolicies of the world, oldest first.
    pub(crate) fn tls_policies(&self) -> &[TlsPolicy<'w>] {
        self.tls_policies.all()
    }

    fn check_grant(&self, from: &Referrer<'_>, to: &Target<'_>) -> Result<(), RefProblem> {
        if grants::permit(self.world, from, to) { Ok(()) } else { Err(RefProblem::not_permitted(from, to)) }
    }
}

#[cfg(test)]
mod tests;
