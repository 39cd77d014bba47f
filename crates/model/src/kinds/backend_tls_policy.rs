//! BackendTLSPolicy (gateway.networking.k8s.io/v1 and v1alpha3).
//!
//! Whether its certificates resolve and which of several policies wins is decided by `attach`.

use std::collections::HashMap;

use crate::kinds::GATEWAY_GROUP;
use crate::kinds::metadata::{Body, Kind, Scope};
use crate::kinds::refs::LocalObjectReference;
use crate::place::Spot;
use crate::schema::{
    ABSOLUTE_URI, ANNOTATION_KEY, Decoder, GROUP, HOSTNAME, KIND, Labels, OBJECT_NAME, PRECISE_HOSTNAME, Rule,
    SECTION_NAME, Text,
};
use crate::value::Value;

crate::object! {
    /// A BackendTLSPolicy: how TLS towards a Service is made and verified.
    pub struct BackendTlsPolicySpec {
        /// The Services (or Backends) it holds for, in the policy's own namespace.
        target_refs: Vec<PolicyTargetReference> => Rule::MinItems(1), Rule::MaxItems(16);
        /// How the backend's certificate is verified.
        validation: BackendTlsValidation;
        /// Further settings of the implementation.
        options: Labels => Rule::MaxEntries(16), Rule::Keys(&ANNOTATION_KEY), Rule::Length(0, 4096);
    }
    check check_policy;
}

impl BackendTlsPolicySpec {
    /// What stands for a policy of which no more than its targets can be read. Nothing is ever verified by it.
    pub(crate) fn broken(at: Spot, target_refs: Vec<PolicyTargetReference>) -> Self {
        let validation = BackendTlsValidation {
            at,
            ca_certificate_refs: Vec::new(),
            well_known_ca_certificates: None,
            hostname: "".into(),
            subject_alt_names: Vec::new(),
        };
        Self { at, target_refs, validation, options: Labels::default() }
    }
}

impl Kind for BackendTlsPolicySpec {
    const KIND: &'static str = "BackendTLSPolicy";
    const GROUP: &'static str = GATEWAY_GROUP;
    const VERSIONS: &'static [&'static str] = &["v1", "v1alpha3"];
    const BODY: Body = Body::Spec;
    const SCOPE: Scope = Scope::Namespaced;
    const ABOUT: &'static str = "How TLS towards a Service is made and verified.";
}

crate::object! {
    /// What a policy holds for, in its own namespace.
    pub struct PolicyTargetReference {
        /// The group of the target; empty for Service.
        group: Text => Rule::Is(&GROUP);
        /// The kind of the target.
        kind: Text => Rule::Is(&KIND);
        /// The name of the target.
        name: Text => Rule::Is(&OBJECT_NAME);
        /// The part of the target: the name of a port of a Service, of a listener of a Gateway, of a rule of a route.
        section_name: Option<Text> => Rule::Is(&SECTION_NAME);
    }
}

crate::choice! {
    /// Sets of authorities that need no reference.
    pub enum WellKnownCaCertificates {
        /// Those of the operating system.
        System = "System",
    }
}

crate::object! {
    /// How a backend's certificate is verified.
    pub struct BackendTlsValidation {
        /// ConfigMaps with the certificates of authorities under `ca.crt`. Either these or the well-known ones.
        ca_certificate_refs: Vec<LocalObjectReference> => Rule::MaxItems(8);
        /// A well-known set of authorities.
        well_known_ca_certificates as "wellKnownCACertificates": Option<WellKnownCaCertificates>;
        /// The name sent as SNI, and the name the certificate must be for unless `subjectAltNames` are given.
        hostname: Text => Rule::Is(&PRECISE_HOSTNAME);
        /// Names of which the certificate must have one.
        subject_alt_names: Vec<SubjectAltName> => Rule::MaxItems(5);
    }
    check check_validation;
}

crate::union! {
    /// A name in a certificate.
    pub enum SubjectAltName by "type" {
        /// A DNS name.
        Hostname = "Hostname" / "hostname": Text => Rule::Is(&HOSTNAME);
        /// A URI, such as a SPIFFE id.
        Uri = "URI" / "uri": Text => Rule::Is(&ABSOLUTE_URI);
    }
}

fn check_validation(validation: &BackendTlsValidation, value: &Value, cx: &mut Decoder) {
    let refs = !validation.ca_certificate_refs.is_empty();
    let known = validation.well_known_ca_certificates.is_some();
    if refs && known {
        cx.refuse_field(
            value,
            "wellKnownCACertificates",
            "`caCertificateRefs` and `wellKnownCACertificates` cannot both be set",
        )
        .remedy("keep one of them");
    }
    if !refs && !known {
        cx.refuse(value.at, "nothing says which authorities are trusted")
            .remedy("add `caCertificateRefs`, or `wellKnownCACertificates: System`");
    }
}

fn check_policy(policy: &BackendTlsPolicySpec, _: &Value, cx: &mut Decoder) {
    cx.within("targetRefs", |cx| check_targets(&policy.target_refs, cx));
}

/// Holds the rule that targets are distinct: the same object twice only with different section names.
pub(crate) fn check_targets(targets: &[PolicyTargetReference], cx: &mut Decoder) {
    let mut seen: HashMap<(&str, &str, &str), Vec<&PolicyTargetReference>> = HashMap::new();
    // A list that is longer has been refused for its length.
    for (index, target) in targets.iter().enumerate().take(64) {
        let same = seen.entry((&target.group, &target.kind, &target.name)).or_default();
        let section = &target.section_name;
        if let Some(other) = same.iter().find(|other| other.section_name.is_some() != section.is_some()) {
            let why = format!("line {} has the same target, but not with the same fields", other.at.line);
            cx.within(index, |cx| {
                cx.refuse(target.at, why).remedy("set `sectionName` on both or on none");
            });
        } else if let Some(other) = same.iter().find(|other| other.section_name == *section) {
            let why = format!("line {} has the same target", other.at.line);
            cx.within(index, |cx| {
                cx.refuse(target.at, why).remedy("remove one of them");
            });
        }
        same.push(target);
    }
}
