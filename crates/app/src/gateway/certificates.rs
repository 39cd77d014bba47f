//! When the certificates of the listeners end, for metrics and status.
//!
//! Called by `standing` after every update. That a certificate is valid now is `model`'s business; here is only its last day.

use serde_json::{Value, json};
use transept_engine::snapshot::Snapshot;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// One certificate of one listener.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ending {
    listener: String,
    name: String,
    serial: String,
    /// Seconds since the epoch.
    at: i64,
}

/// The certificates of all listeners.
pub(super) fn find(snapshot: &Snapshot) -> Vec<Ending> {
    let mut endings = Vec::new();
    for listener in snapshot.binds.iter().flat_map(|bind| &bind.listeners) {
        let Some(tls) = &listener.tls else { continue };
        for pair in &tls.certificates {
            let Some(leaf) = pair.certified().cert.first() else {
                continue;
            };
            let ending = read(&listener.name.to_string(), leaf);
            // A listener on several addresses is one listener.
            endings.extend(ending.filter(|ending| !endings.contains(ending)));
        }
    }
    endings
}

fn read(listener: &str, der: &[u8]) -> Option<Ending> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let name = alternative.and_then(|names| {
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
    });
    Some(Ending {
        listener: listener.to_owned(),
        name: name.unwrap_or_else(|| certificate.subject().to_string()),
        serial: format!("{:x}", certificate.serial),
        at: certificate.validity().not_after.timestamp(),
    })
}

impl Ending {
    /// As a sample: labels in braces, and the time.
    pub(super) fn to_sample(&self) -> (String, f64) {
        let labels = format!(
            "{{listener=\"{}\",name=\"{}\",serial=\"{}\"}}",
            escape(&self.listener),
            escape(&self.name),
            self.serial
        );
        (labels, self.at as f64)
    }

    /// For the status page.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "listener": self.listener,
            "name": self.name,
            "serial": self.serial,
            "notAfter": jiff::Timestamp::from_second(self.at).ok().map(|at| at.to_string()),
        })
    }
}

/// A label value as the text format wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use transept_testkit::certificates::{Identity, KeyKind, Usage};

    use super::*;

    #[test]
    fn a_certificate_is_named_by_its_first_dns_name() {
        let identity =
            Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["shop.test", "*.shop.test"]).expect("a certificate");
        let der = identity.certificate().expect("DER");
        let ending = read("default/web/https", &der).expect("readable");
        assert_eq!(ending.name, "shop.test");
        let (labels, at) = ending.to_sample();
        assert!(labels.starts_with("{listener=\"default/web/https\",name=\"shop.test\","));
        assert!(at > 1_700_000_000.0, "{at}");
        assert_eq!(read("x", b"not a certificate"), None);
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
