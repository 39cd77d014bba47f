//! BackendTLSPolicies: which one rules a port of a backend, and whether its certificates can be used.
//!
//! Built once per [`super::References`]. Two policies for the same section of the same target are a conflict that the older one wins
//! (then `{namespace}/{name}`); a policy for a port beats one for the whole Service without a conflict. What clients of the
//! policy see as status is left to `attach`.

use std::collections::HashMap;
use std::sync::Arc;

use super::resolved::{BackendKey, BackendTls, Roots, San};
use super::secrets::BundleRef;
use super::{RefProblem, RefReason, References, Referrer};
use crate::kinds::{
    BackendTlsPolicySpec, LocalObjectReference, Object, SubjectAltName, TRANSEPT_GROUP, WellKnownCaCertificates,
};
use crate::place::Spot;
use crate::world::World;

/// A BackendTLSPolicy with what was found out about it.
#[derive(Debug)]
pub(crate) struct TlsPolicy<'w> {
    pub(crate) policy: &'w Arc<Object<BackendTlsPolicySpec>>,
    /// What to do with connections; the problem when there is no certificate left to trust.
    pub(crate) tls: Result<Arc<BackendTls>, RefProblem>,
    /// Certificate references that lead nowhere.
    pub(crate) broken: Vec<BrokenRef>,
    /// Per target reference: the older policy that has taken the same target, if there is one.
    pub(crate) lost_to: Vec<Option<usize>>,
}

/// One of several references to trusted certificates that leads nowhere.
#[derive(Debug, Clone)]
pub(crate) struct BrokenRef {
    /// Its place in the list.
    pub(crate) index: usize,
    /// Where it stands.
    pub(crate) at: Spot,
    /// Why it leads nowhere.
    pub(crate) problem: RefProblem,
}

/// What may be trusted, and the references to it that lead nowhere.
pub(super) struct FoundRoots {
    pub(super) roots: Result<Roots, RefProblem>,
    pub(super) broken: Vec<BrokenRef>,
}

/// One section of one target, and the policy that rules it.
#[derive(Debug)]
struct Ruled<'w> {
    section: Option<&'w str>,
    policy: usize,
    /// Policies that wanted the same, oldest first, the ruling one included.
    all: Vec<usize>,
}

/// All BackendTLSPolicies, by target.
#[derive(Debug, Default)]
pub(super) struct TlsPolicies<'w> {
    policies: Vec<TlsPolicy<'w>>,
    by_target: HashMap<BackendKey<'w>, Vec<Ruled<'w>>>,
}

impl<'w> TlsPolicies<'w> {
    /// Sorts the policies of `world`, which come oldest first, by target. [`References::judge_tls`] looks at their certificates afterwards.
    pub(super) fn new(world: &'w World) -> Self {
        let mut all = Self::default();
        for policy in world.backend_tls_policies() {
            all.add(policy);
        }
        all
    }

    fn add(&mut self, policy: &'w Arc<Object<BackendTlsPolicySpec>>) {
        let index = self.policies.len();
        let namespace = policy.meta.namespace.as_str();
        let mut lost_to = Vec::new();
        for target in &policy.spec.target_refs {
            let Some(key) = BackendKey::new(&target.group, &target.kind, namespace, &target.name) else {
                lost_to.push(None);
                continue;
            };
            let section = target.section_name.as_deref();
            let ruled = self.by_target.entry(key).or_default();
            match ruled.iter_mut().find(|r| r.section == section) {
                Some(taken) => {
                    lost_to.push(Some(taken.policy));
                    taken.all.push(index);
                }
                None => {
                    lost_to.push(None);
                    ruled.push(Ruled { section, policy: index, all: vec![index] });
                }
            }
        }
        self.policies.push(TlsPolicy {
            policy,
            tls: Err(RefProblem::new(RefReason::NoValidCACertificate, "its certificates have not been looked at", "")),
            broken: Vec::new(),
            lost_to,
        });
    }

    pub(super) fn all(&self) -> &[TlsPolicy<'w>] {
        &self.policies
    }

    pub(super) fn all_mut(&mut self) -> &mut [TlsPolicy<'w>] {
        &mut self.policies
    }

    fn ruling(&self, backend: &BackendKey<'w>, port_name: Option<&str>) -> Option<&Ruled<'w>> {
        let ruled = self.by_target.get(backend)?;
        let exact = ruled.iter().find(|r| r.section.is_some() && r.section == port_name);
        exact.or_else(|| ruled.iter().find(|r| r.section.is_none()))
    }

    /// The policy for a port of a backend.
    pub(super) fn select(&self, backend: &BackendKey<'w>, port_name: Option<&str>) -> Option<&TlsPolicy<'w>> {
        let ruled = self.ruling(backend, port_name)?;
        self.policies.get(ruled.policy)
    }

    /// Every policy that concerns a port of a backend: the one that rules it, those that lost against it, and those for the
    /// whole backend that it overrides.
    pub(super) fn concerning(
        &self,
        backend: &BackendKey<'w>,
        port_name: Option<&'w str>,
    ) -> impl Iterator<Item = usize> + use<'_, 'w> {
        let ruled = self.by_target.get(backend).map_or(&[][..], Vec::as_slice);
        ruled.iter().filter(move |r| r.section.is_none() || r.section == port_name).flat_map(|r| r.all.iter().copied())
    }
}

impl<'w> References<'w> {
    /// Looks at the certificates of every BackendTLSPolicy.
    pub(super) fn judge_tls(&mut self) {
        let policies = self.tls_policies.all().iter();
        let found: Vec<_> = policies.map(|policy| self.find_policy_roots(policy.policy)).collect();
        for (policy, found) in self.tls_policies.all_mut().iter_mut().zip(found) {
            let validation = &policy.policy.spec.validation;
            if let Some(why) = self.world.broken_tls_policy(&policy.policy.meta.namespace, &policy.policy.meta.name) {
                let remedy = "start a version of Transept that knows what it says, or correct it";
                policy.tls =
                    Err(RefProblem::new(RefReason::Invalid, format!("the policy cannot be used: {why}"), remedy));
                continue;
            }
            policy.tls = found.roots.map(|roots| {
                Arc::new(BackendTls {
                    server_name: Some(validation.hostname.shared()),
                    roots,
                    sans: read_sans(&validation.subject_alt_names),
                    client_identity: None,
                    source: policy.policy.meta.object_name(),
                })
            });
            policy.broken = found.broken;
        }
    }

    fn find_policy_roots(&self, policy: &Object<BackendTlsPolicySpec>) -> FoundRoots {
        let validation = &policy.spec.validation;
        self.find_roots(
            &Referrer::new("BackendTLSPolicy", &policy.meta.namespace),
            &validation.ca_certificate_refs,
            validation.well_known_ca_certificates,
        )
    }

    /// The certificates that a backend's certificate must lead to. Some broken references leave the others in force; when
    /// all are broken there is nothing to trust, and nothing may be sent.
    pub(super) fn find_roots(
        &self,
        from: &Referrer<'_>,
        refs: &[LocalObjectReference],
        well_known: Option<WellKnownCaCertificates>,
    ) -> FoundRoots {
        if refs.is_empty() || well_known == Some(WellKnownCaCertificates::System) {
            return FoundRoots { roots: Ok(Roots::System), broken: Vec::new() };
        }
        let mut bundle = Vec::new();
        let mut broken = Vec::new();
        for (index, reference) in refs.iter().enumerate() {
            let found = self.bundle(
                from,
                &BundleRef {
                    group: &reference.group,
                    kind: &reference.kind,
                    namespace: from.namespace,
                    name: &reference.name,
                    unknown_kind: RefReason::InvalidKind,
                },
            );
            match found {
                Ok(certificates) => bundle.extend(certificates),
                Err(problem) => broken.push(BrokenRef { index, at: reference.at, problem }),
            }
        }
        let roots = if bundle.is_empty() {
            let reasons: Vec<_> = broken.iter().map(|b| b.problem.why.as_str()).collect();
            let why = format!("no certificate is left to trust: {}", reasons.join("; "));
            let remedy = broken.first().map_or("", |b| b.problem.remedy.as_str());
            Err(RefProblem::new(RefReason::NoValidCACertificate, why, remedy))
        } else {
            Ok(Roots::Bundle(bundle.into()))
        };
        FoundRoots { roots, broken }
    }
}

/// The names of which a certificate must have one.
pub(super) fn read_sans(names: &[SubjectAltName]) -> Vec<San> {
    names
        .iter()
        .map(|name| match name {
            SubjectAltName::Hostname(name) => San::Dns(name.shared()),
            SubjectAltName::Uri(uri) => San::Uri(uri.shared()),
        })
        .collect()
}

/// Whether a BackendTLSPolicy may target this kind.
pub(crate) fn is_target(group: &str, kind: &str) -> bool {
    matches!((group, kind), ("", "Service")) || (group, kind) == (TRANSEPT_GROUP, "Backend")
}
