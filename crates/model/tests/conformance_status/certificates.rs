//! The Secrets and ConfigMaps that the cases expect to exist.
//!
//! Status does not depend on who signed what, so one RSA leaf (PKCS#1, as the official suite writes it) and one CA stand for all.

use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SanType};
use serde_json::{Value, json};

const SECRETS: &[(&str, &str)] = &[
    ("gateway-conformance-web-backend", "certificate"),
    ("gateway-conformance-infra", "tls-validity-checks-certificate"),
    ("gateway-conformance-infra", "tls-validity-checks-client-certificate"),
    ("gateway-conformance-infra", "tls-validity-checks-per-port-client-certificate"),
    ("gateway-conformance-infra", "tls-checks-certificate"),
    ("gateway-conformance-infra", "tls-checks-client-certificate"),
    ("gateway-conformance-infra", "tls-passthrough-checks-certificate"),
    ("gateway-conformance-app-backend", "tls-passthrough-checks-certificate"),
    ("gateway-conformance-infra", "tls-terminate-checks-certificate"),
];

const CONFIG_MAPS: &[(&str, &str)] = &[
    ("gateway-conformance-web-backend", "web-backend-cm"),
    ("gateway-conformance-infra", "tls-validity-checks-ca-certificate"),
    ("gateway-conformance-infra", "tls-validity-checks-per-port-ca-certificate"),
    ("gateway-conformance-infra", "tls-checks-ca-certificate"),
    ("gateway-conformance-infra", "mismatch-ca-certificate"),
];

pub(crate) fn objects() -> Vec<Value> {
    let (certificate, key) = leaf();
    let ca = authority();
    let secrets = SECRETS.iter().map(|(namespace, name)| {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"namespace": namespace, "name": name},
            "type": "kubernetes.io/tls",
            "data": {
                "tls.crt": BASE64.encode(certificate.as_bytes()),
                "tls.key": BASE64.encode(key.as_bytes()),
            },
        })
    });
    let maps = CONFIG_MAPS.iter().map(|(namespace, name)| {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"namespace": namespace, "name": name},
            "data": {"ca.crt": ca},
        })
    });
    secrets.chain(maps).collect()
}

fn leaf() -> (String, String) {
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let mut params = CertificateParams::new(vec!["*.org".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("*".try_into().unwrap()));
    let certificate = params.self_signed(&key).unwrap().pem();
    (certificate, pkcs1(key.serialized_der()))
}

fn authority() -> String {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&key).unwrap().pem()
}

/// The PKCS#1 key inside a PKCS#8 one, as PEM.
fn pkcs1(pkcs8: &[u8]) -> String {
    let (_, outer) = element(pkcs8);
    let (rest, _version) = element(outer);
    let (rest, _algorithm) = element(rest);
    let (_, inner) = element(rest);
    let body = BASE64.encode(inner);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n", lines.join("\n"))
}

/// Splits one DER element: (what follows it, its content).
fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let first = usize::from(der[1]);
    let (length, header) = if first < 0x80 {
        (first, 2)
    } else {
        let count = first & 0x7f;
        let length = der[2..2 + count].iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
        (length, 2 + count)
    };
    (&der[header + length..], &der[header..header + length])
}
