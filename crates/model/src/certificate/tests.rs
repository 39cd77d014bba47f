//! Certificates of every kind that must load, and every kind of damage that must be named.

use rcgen::{CertificateParams, KeyPair as Generated, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, SanType};

use super::*;

fn self_signed(key: &Generated, names: &[&str], uris: &[&str]) -> String {
    let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
    for uri in uris {
        params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
    }
    params.self_signed(key).unwrap().pem()
}

fn ecdsa() -> Generated {
    Generated::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// Cuts the PKCS#1 or SEC1 key out of the PKCS#8 wrapping: it is the content of the last OCTET STRING of the outer sequence.
fn unwrap_pkcs8(der: &[u8], label: &str) -> String {
    let (_, outer) = read_element(der);
    let (rest, _version) = read_element(outer);
    let (rest, _algorithm) = read_element(rest);
    let (_, inner) = read_element(rest);
    let body = data_encoding::BASE64.encode(inner);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).unwrap());
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

/// Splits one DER element: (what follows it, its content).
fn read_element(der: &[u8]) -> (&[u8], &[u8]) {
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

#[test]
fn every_key_form_loads() {
    let rsa = Generated::generate_for(&PKCS_RSA_SHA256).unwrap();
    let ec = ecdsa();
    let ed = Generated::generate_for(&PKCS_ED25519).unwrap();
    for (key, pem, algorithm) in [
        (&rsa, rsa.serialize_pem(), KeyAlgorithm::Rsa),
        (&rsa, unwrap_pkcs8(rsa.serialized_der(), "RSA PRIVATE KEY"), KeyAlgorithm::Rsa),
        (&ec, ec.serialize_pem(), KeyAlgorithm::Ecdsa),
        (&ec, unwrap_pkcs8(ec.serialized_der(), "EC PRIVATE KEY"), KeyAlgorithm::Ecdsa),
        (&ed, ed.serialize_pem(), KeyAlgorithm::Ed25519),
    ] {
        let certificate = self_signed(key, &["*.Shop.test", "shop.test"], &[]);
        let pair = KeyPair::from_pem(certificate.as_bytes(), pem.as_bytes()).unwrap();
        assert_eq!(pair.algorithm, algorithm);
        assert_eq!(pair.dns_names, ["*.shop.test", "shop.test"]);
        assert!(pair.not_after > 1_700_000_000);
    }
}

#[test]
fn a_bare_leaf_named_star_is_a_server_certificate_and_a_trust_anchor() {
    let key = ecdsa();
    let certificate = self_signed(&key, &["*.org"], &["*", "spiffe://shop.test/cart"]);
    let pair = KeyPair::from_pem(certificate.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    assert_eq!(pair.dns_names, ["*.org"]);
    assert_eq!(read_bundle(certificate.as_bytes()).unwrap(), pair.chain);
}

#[test]
fn damage_is_named() {
    let key = ecdsa();
    let certificate = self_signed(&key, &["a.test"], &[]);
    let pem = key.serialize_pem();
    let load = |chain: &str, key: &str| {
        KeyPair::from_pem(chain.as_bytes(), key.as_bytes()).expect_err("this pair must not load")
    };
    assert_eq!(load("", &pem), CertificateProblem::NoCertificate);
    assert_eq!(load(&certificate, ""), CertificateProblem::NoKey);
    assert_eq!(load(&certificate, &ecdsa().serialize_pem()), CertificateProblem::KeyMismatch);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert_eq!(load(&certificate, encrypted), CertificateProblem::EncryptedKey);
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(load(garbage, &pem), CertificateProblem::BadCertificate(1, _)));
    let both = format!("{certificate}{garbage}");
    assert!(matches!(load(&both, &pem), CertificateProblem::BadCertificate(2, _)));
    let torn = "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n";
    assert!(matches!(load(torn, &pem), CertificateProblem::BadPem(_)));
    let bad_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(matches!(load(&certificate, bad_key), CertificateProblem::BadKey(_)));
    assert_eq!(read_bundle(b""), Err(CertificateProblem::NoCertificate));
    assert!(matches!(read_bundle(garbage.as_bytes()), Err(CertificateProblem::BadCertificate(1, _))));
}

#[test]
fn the_key_never_shows_in_debug() {
    let key = ecdsa();
    let pair =
        KeyPair::from_pem(self_signed(&key, &["a.test"], &[]).as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let shown = format!("{pair:?}");
    let first_bytes = format!("{:?}", &key.serialized_der()[..8]);
    assert!(!shown.contains(first_bytes.trim_matches(['[', ']'])));
    assert!(!shown.to_lowercase().contains("secret"));
    assert!(shown.contains("a.test"));
}

#[test]
fn the_names_of_a_client_are_read_by_kind() {
    let mut params = CertificateParams::new(vec!["Mobile.clients.test".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "mobile");
    params.subject_alt_names.push(SanType::URI("urn:app:mobile".try_into().unwrap()));
    params.subject_alt_names.push(SanType::Rfc822Name("ann@shop.test".try_into().unwrap()));
    let certificate = params.self_signed(&ecdsa()).unwrap();
    let names = read_names(certificate.der()).expect("names");
    // The generator has a common name of its own, too.
    assert_eq!(names.common.last().map(String::as_str), Some("mobile"));
    assert_eq!(names.dns, ["mobile.clients.test"]);
    assert_eq!((&*names.uris[0], &*names.emails[0]), ("urn:app:mobile", "ann@shop.test"));
    let mut odd = CertificateParams::default();
    odd.distinguished_name.push(rcgen::DnType::CommonName, "ad\u{0}min");
    assert_eq!(read_names(odd.self_signed(&ecdsa()).unwrap().der()), None);
    assert_eq!(read_names(b"\x30\x03abc"), None);
}

#[test]
fn a_certificate_is_good_to_the_end_of_its_last_second() {
    let mut params = CertificateParams::default();
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let certificate = params.self_signed(&ecdsa()).unwrap();
    // date -ud 2030-01-01 +%s
    assert_eq!(read_end(certificate.der()), Some(Duration::from_secs(1_893_456_001)));
    assert_eq!(read_end(b"\x30\x03abc"), None);
}
