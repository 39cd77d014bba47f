//! The Secrets and ConfigMaps that the suite makes before its first case. Made once per run and shared by all cases, as the
//! official suite does.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use data_encoding::BASE64;
use serde_json::{Value, json};
use transept_testkit::certificates::{Authority, Identity, KeyKind, Usage};

use crate::topology::{CertificateObject, Certificates};

/// Everything that was made, by `namespace/name`.
#[derive(Debug, Default)]
pub(crate) struct CertificateStore {
    identities: HashMap<String, Arc<Identity>>,
    authorities: HashMap<String, String>,
    objects: Vec<Value>,
}

impl CertificateStore {
    /// Makes all certificates of the topology, with RSA keys in PKCS#1.
    ///
    /// # Errors
    /// The topology names an authority that it does not hold, or a certificate cannot be made.
    pub(crate) fn make(wanted: &Certificates) -> Result<CertificateStore> {
        let mut store = CertificateStore::default();
        let mut authorities = HashMap::new();
        for object in wanted.objects.iter().filter(|object| object.object == "ConfigMap") {
            let authority = Authority::new(KeyKind::Rsa)?;
            let pem = authority.certificate_pem();
            store.objects.push(config_map(&object.reference, &pem)?);
            store.authorities.insert(object.reference.clone(), pem);
            authorities.insert(object.reference.as_str(), authority);
        }
        for object in wanted.objects.iter().filter(|object| object.object != "ConfigMap") {
            let identity = issue(object, &authorities).with_context(|| object.reference.clone())?;
            store.objects.push(secret(&object.reference, &identity)?);
            store.identities.insert(object.reference.clone(), Arc::new(identity));
        }
        Ok(store)
    }

    /// The objects for the world.
    pub(crate) fn objects(&self) -> &[Value] {
        &self.objects
    }

    /// The certificate and key behind `secret:namespace/name`.
    ///
    /// # Errors
    /// There is no such Secret.
    pub(crate) fn identity(&self, reference: &str) -> Result<&Arc<Identity>> {
        let found = reference.strip_prefix("secret:").and_then(|name| self.identities.get(name));
        found.with_context(|| format!("no certificate for {reference}"))
    }

    /// The PEM of the authority behind `configmap:namespace/name`.
    ///
    /// # Errors
    /// There is no such ConfigMap.
    pub(crate) fn authority(&self, reference: &str) -> Result<&str> {
        let found = reference.strip_prefix("configmap:").and_then(|name| self.authorities.get(name));
        found.map(String::as_str).with_context(|| format!("no authority for {reference}"))
    }
}

fn issue(object: &CertificateObject, authorities: &HashMap<&str, Authority>) -> Result<Identity> {
    let usage = match object.usage.as_deref() {
        Some("server auth") => Usage::Server,
        Some("client auth") => Usage::Client,
        other => bail!("unknown usage {other:?}"),
    };
    let names: Vec<&str> = object.dns_names.iter().chain(&object.uri_names).map(String::as_str).collect();
    match object.signed_by.as_deref() {
        Some("itself") => Ok(Identity::self_signed(KeyKind::Rsa, usage, &names)?),
        Some(authority) => {
            let authority = authorities.get(authority).with_context(|| format!("no authority {authority}"))?;
            Ok(authority.issue(usage, &names)?)
        }
        None => bail!("nobody signs it"),
    }
}

fn config_map(reference: &str, pem: &str) -> Result<Value> {
    let (namespace, name) = split(reference)?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {"ca.crt": pem},
    }))
}

fn secret(reference: &str, identity: &Identity) -> Result<Value> {
    let (namespace, name) = split(reference)?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "kubernetes.io/tls",
        "data": {
            "tls.crt": BASE64.encode(identity.certificate_pem.as_bytes()),
            "tls.key": BASE64.encode(identity.key_pem.as_bytes()),
        },
    }))
}

/// Cuts `namespace/name`.
///
/// # Errors
/// There is no slash.
pub(crate) fn split(reference: &str) -> Result<(&str, &str)> {
    reference.split_once('/').with_context(|| format!("not namespace/name: {reference}"))
}
