//! Tests of `bundle`: what may be a root, and the document.

use rcgen::{IsCa, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};

use super::*;
use crate::forge::{Ca, HOUR, NOW, ca_params, domain, now};
use crate::svid::moment;

fn shop() -> TrustDomain {
    domain("shop.test")
}

#[test]
fn a_bundle_goes_through_pem_and_through_its_document() {
    let roots = [
        Ca::root("shop.test", "p256"),
        Ca::root_with(&PKCS_ECDSA_P384_SHA384, &ca_params("shop.test", "p384")),
        Ca::root_with(&PKCS_ED25519, &ca_params("shop.test", "ed25519")),
        Ca::root_with(&PKCS_RSA_SHA256, &ca_params("shop.test", "rsa")),
    ];
    let mut bundle = Bundle::new(shop(), roots.iter().map(|root| root.certificate.clone())).unwrap();
    assert_eq!(bundle.roots().len(), 4);
    assert_eq!(Bundle::from_pem(shop(), &bundle.to_pem()).unwrap(), bundle);

    bundle.sequence = Some(u64::MAX);
    bundle.refresh_hint = Some(Duration::from_secs(300));
    let text = bundle.to_jwks();
    assert_eq!(Bundle::from_jwks(shop(), &text).unwrap(), bundle);
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["spiffe_refresh_hint"], 300);
    let keys = document["keys"].as_array().unwrap();
    let kinds: Vec<_> = keys.iter().map(|key| (key["kty"].as_str().unwrap(), key["crv"].as_str())).collect();
    assert_eq!(kinds, [("EC", Some("P-256")), ("EC", Some("P-384")), ("OKP", Some("Ed25519")), ("RSA", None)]);
    for key in keys {
        assert_eq!(key["use"], "x509-svid");
        assert!(key.get("kid").is_none() && key["x5c"].as_array().is_some_and(|x5c| x5c.len() == 1));
    }
    assert_eq!(keys[0]["x"].as_str().unwrap().len(), 43);
    assert_eq!(keys[3]["e"], "AQAB");
}

#[test]
fn a_retiring_root_travels_along_and_who_does_not_know_of_it_passes_it_over() {
    let (new, old) = (Ca::root("shop.test", "new"), Ca::root("shop.test", "old"));
    let mut bundle = Bundle::new(shop(), [new.certificate.clone()]).unwrap();
    bundle.retire(old.certificate.clone(), moment(NOW + HOUR)).unwrap();
    bundle.retire(old.certificate.clone(), moment(NOW)).unwrap();
    bundle.retire(new.certificate.clone(), moment(NOW)).unwrap();
    assert_eq!((bundle.roots().len(), bundle.retiring().len()), (1, 1));
    let text = bundle.to_jwks();
    assert_eq!(Bundle::from_jwks(shop(), &text).unwrap(), bundle);
    let document: Value = serde_json::from_str(&text).unwrap();
    let uses: Vec<_> = document["keys"].as_array().unwrap().iter().map(|key| key["use"].as_str().unwrap()).collect();
    assert_eq!(uses, ["x509-svid", "transept-retiring"], "readers pass over a use that they do not know");
    assert_eq!(Bundle::from_pem(shop(), &bundle.to_pem()).unwrap().roots().len(), 1);

    let old = Fingerprint::of(&old.certificate);
    let bundles: Bundles = [bundle].into_iter().collect();
    let counts = |second| (bundles.holds(&old, moment(second)), bundles.retiring(moment(second)).count());
    assert_eq!((counts(NOW + HOUR), counts(NOW + HOUR + 1)), ((true, 1), (false, 0)));
    assert!(bundles.holds(&Fingerprint::of(&new.certificate), now()));

    let foreign = Ca::root("bank.test", "bank").certificate;
    let mut bundle = Bundle::new(shop(), []).unwrap();
    assert!(matches!(bundle.retire(foreign, now()), Err(BadBundle::Foreign { number: 1, .. })));
    let without = text.replace("transept_until", "something");
    let error = Bundle::from_jwks(shop(), &without).unwrap_err().to_string();
    assert!(error.contains("`transept_until`"), "{error}");
}

#[test]
fn reads_documents_as_others_write_them() {
    let (one, two) = (Ca::root("shop.test", "one"), Ca::root("shop.test", "two"));
    let encoded = |ca: &Ca| BASE64.encode(&ca.certificate);
    let text = json!({
        "keys": [
            {"use": "jwt-svid", "kty": "EC", "kid": "k", "x": "a", "y": "b", "crv": "P-256"},
            {"use": "x509-svid", "kty": "unheard-of", "x5c": ["AAAA"]},
            {"use": "X509-SVID", "kty": "EC", "x5c": ["AAAA"]},
            {"use": "x509-svid", "kty": "EC"},
            {"use": "x509-svid", "kty": "EC", "x5c": []},
            {"use": "x509-svid", "kty": "EC", "x5c": [encoded(&one), encoded(&two)], "more": 1},
            {"use": "x509-svid", "kty": "EC", "x5c": [encoded(&one)]},
            17
        ],
        "spiffe_sequence": 7,
        "something": "else"
    });
    let bundle = Bundle::from_jwks(shop(), &text.to_string()).unwrap();
    let read: Vec<_> = bundle.roots().iter().map(|root| root.der.clone()).collect();
    assert_eq!(read, [one.certificate]);
    assert_eq!((bundle.sequence, bundle.refresh_hint), (Some(7), None));
    assert!(Bundle::from_jwks(shop(), r#"{"keys": []}"#).unwrap().roots().is_empty());
}

#[test]
fn refuses_documents_that_are_none() {
    let large = format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(MAX_DOCUMENT));
    for text in [
        "",
        "[]",
        "{}",
        r#"{"keys": {}}"#,
        r#"{"keys": [], "spiffe_sequence": "7"}"#,
        r#"{"keys": [], "spiffe_sequence": -1}"#,
        r#"{"keys": [], "spiffe_refresh_hint": 1.5}"#,
        r#"{"keys": [{"use": "x509-svid", "kty": "EC", "x5c": ["?"]}]}"#,
        r#"{"keys": [{"use": "x509-svid", "kty": "EC", "x5c": ["AAAA"]}]}"#,
        &large,
    ] {
        assert!(Bundle::from_jwks(shop(), text).is_err(), "{}", &text[..text.len().min(80)]);
    }
}

#[test]
fn only_a_signing_certificate_of_the_domain_is_a_root() {
    let root = Ca::root("shop.test", "root");
    let refuse =
        |der: &CertificateDer<'static>| Bundle::new(shop(), [root.certificate.clone(), der.clone()]).unwrap_err();
    assert_eq!(refuse(&root.leaf("spiffe://shop.test/cart").certificate), BadBundle::NotCa(2));

    let mut params = ca_params("shop.test", "no sign");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    assert_eq!(refuse(&Ca::root_with(&rcgen::PKCS_ECDSA_P256_SHA256, &params).certificate), BadBundle::NotCa(2));
    params = ca_params("shop.test", "no ca");
    params.is_ca = IsCa::ExplicitNoCa;
    assert_eq!(refuse(&Ca::root_with(&rcgen::PKCS_ECDSA_P256_SHA256, &params).certificate), BadBundle::NotCa(2));

    for foreign in ["evil.test", "shop.test/ns/a/sa/b"] {
        let error = refuse(&Ca::root(foreign, "foreign").certificate);
        assert!(matches!(error, BadBundle::Foreign { number: 2, .. }), "{error}");
    }
    assert!(matches!(refuse(&CertificateDer::from(vec![1, 2])), BadBundle::Root(2, _)));

    // A root without any SPIFFE id is taken: the specification only recommends one.
    params = ca_params("shop.test", "plain");
    params.subject_alt_names.clear();
    assert!(Bundle::new(shop(), [Ca::root_with(&rcgen::PKCS_ECDSA_P256_SHA256, &params).certificate]).is_ok());
}

#[test]
fn there_is_a_limit_and_a_root_counts_once() {
    let root = Ca::root("shop.test", "root").certificate;
    let twice = Bundle::new(shop(), [root.clone(), root.clone()]).unwrap();
    assert_eq!(twice.roots().len(), 1);
    let many = (0..=MAX_ROOTS).map(|number| Ca::root("shop.test", &number.to_string()).certificate);
    assert_eq!(Bundle::new(shop(), many).unwrap_err(), BadBundle::TooLarge);
}

#[test]
fn an_ended_root_is_no_anchor() {
    let mut ended = ca_params("shop.test", "ended");
    crate::forge::set_validity(&mut ended, NOW - 2 * HOUR, NOW - HOUR);
    let ended = Ca::root_with(&rcgen::PKCS_ECDSA_P256_SHA256, &ended);
    let bundle = Bundle::new(shop(), [ended.certificate, Ca::root("shop.test", "root").certificate]).unwrap();
    assert_eq!(bundle.anchors(now()).len(), 1);
    assert_eq!(bundle.anchors(moment(NOW - HOUR)).len(), 2);
    assert!(!bundle.roots()[0].is_valid(now()) && bundle.roots()[1].is_valid(now()));
}

#[test]
fn domains_are_kept_apart() {
    let (shop_root, bank_root) = (Ca::root("shop.test", "shop"), Ca::root("bank.test", "bank"));
    let mut bundles = crate::forge::bundles([("shop.test", &shop_root), ("bank.test", &bank_root)]);
    assert_eq!(bundles.of("shop.test").unwrap().roots().len(), 1);
    assert!(bundles.of("shop").is_none() && bundles.of("SHOP.test").is_none());
    assert_eq!(bundles.iter().count(), 2);
    bundles.remove("bank.test");
    assert!(bundles.of("bank.test").is_none());

    let live = LiveBundles::default();
    let shared = live.clone();
    assert!(shared.load().of("shop.test").is_none());
    live.store(bundles);
    assert!(shared.load().of("shop.test").is_some());
}
