//! Tests of `svid`: one hostile certificate for every rule.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};
use rustls::crypto::aws_lc_rs;

use super::*;
use crate::forge::{Ca, HOUR, NOW, id, lax_key_usage, raw_names, set_validity, uri};

const CART: &str = "spiffe://shop.test/ns/default/sa/cart";

fn parse(change: impl FnOnce(&mut CertificateParams)) -> Result<Leaf, NotSvid> {
    Leaf::parse(&Ca::root("shop.test", "root").changed(CART, change).certificate)
}

#[test]
fn a_right_leaf_says_who_it_names_and_when() {
    let forged = Ca::root("shop.test", "root").leaf(CART);
    let leaf = Leaf::parse(&forged.certificate).unwrap();
    assert_eq!(leaf.id, id(CART));
    assert_eq!((leaf.not_before.as_secs(), leaf.not_after.as_secs()), (NOW - HOUR, NOW + HOUR));
    assert_eq!(leaf.life(), Duration::from_secs(2 * HOUR));
    assert_eq!(leaf.fingerprint, Fingerprint::of(&forged.certificate));
    assert_eq!((leaf.subject.as_str(), leaf.dns_names.len()), ("", 0));
}

#[test]
fn other_names_and_usages_are_allowed_beside_the_id() {
    let leaf = parse(|params| {
        params.distinguished_name.push(DnType::OrganizationName, "Shop, \"Inc\"");
        params.distinguished_name.push(DnType::CommonName, "cart");
        params.subject_alt_names.push(SanType::DnsName("cart.default".try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning);
    })
    .unwrap();
    assert_eq!(leaf.subject, "CN=cart,O=Shop\\2C \\22Inc\\22");
    assert_eq!(leaf.dns_names, ["cart.default"]);
    assert!(parse(|params| params.extended_key_usages.clear()).is_ok());
    assert!(parse(|params| params.is_ca = IsCa::NoCa).is_ok());
}

type Change = fn(&mut CertificateParams);

#[test]
fn every_broken_rule_is_found_and_named() {
    let table: &[(&str, Change)] = &[
        ("svid.no_uri", |params| params.subject_alt_names.clear()),
        ("svid.no_uri", |params| params.subject_alt_names = vec![SanType::DnsName("cart".try_into().unwrap())]),
        ("svid.many_uris", |params| params.subject_alt_names.push(uri("spiffe://shop.test/other"))),
        ("svid.many_uris", |params| params.subject_alt_names.push(uri("https://shop.test/"))),
        ("svid.many_uris", |params| params.subject_alt_names.push(uri(CART))),
        ("svid.bad_uri", |params| params.subject_alt_names = vec![uri("https://shop.test/cart")]),
        ("svid.bad_uri", |params| params.subject_alt_names = vec![uri("spiffe://shop.test/cart/")]),
        ("svid.bad_uri", |params| params.subject_alt_names = vec![uri("spiffe://Shop.test/cart")]),
        ("svid.not_ia5", |params| params.subject_alt_names = vec![uri("spiffe://shop.test/cart\0.evil")]),
        ("svid.not_ia5", |params| {
            params.subject_alt_names.clear();
            params.custom_extensions = vec![raw_names(&[(6, "spiffe://shop.test/caf\u{e9}".as_bytes())], true)];
        }),
        ("svid.not_ia5", |params| {
            params.subject_alt_names.clear();
            params.custom_extensions = vec![raw_names(&[(6, b"spiffe://shop.test/\xff")], true)];
        }),
        ("svid.many_uris", |params| {
            params.subject_alt_names.clear();
            params.custom_extensions = vec![raw_names(&[(6, CART.as_bytes()), (6, b"\xff")], true)];
        }),
        ("svid.malformed", |params| {
            params.subject_alt_names.clear();
            params.custom_extensions = vec![raw_names(&[(6, CART.as_bytes()), (2, b"\xff")], true)];
        }),
        ("svid.malformed", |params| {
            params.custom_extensions = vec![raw_names(&[(6, CART.as_bytes())], true)];
        }),
        ("svid.names_not_critical", |params| {
            params.subject_alt_names.clear();
            params.custom_extensions = vec![raw_names(&[(6, CART.as_bytes())], false)];
        }),
        ("svid.root_path", |params| params.subject_alt_names = vec![uri("spiffe://shop.test")]),
        ("svid.is_ca", |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ("svid.no_key_usage", |params| params.key_usages.clear()),
        ("svid.key_usage_not_critical", |params| {
            params.key_usages.clear();
            params.custom_extensions = vec![lax_key_usage()];
        }),
        ("svid.no_digital_signature", |params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
        ("svid.may_sign", |params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ("svid.may_sign", |params| params.key_usages.push(KeyUsagePurpose::CrlSign)),
        ("svid.extended_key_usage", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ("svid.extended_key_usage", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        ("svid.extended_key_usage", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]),
        ("svid.malformed", |params| set_validity(params, NOW, NOW - HOUR)),
    ];
    for (row, (slug, change)) in table.iter().enumerate() {
        let refused = parse(change).unwrap_err();
        assert_eq!(refused.slug(), *slug, "row {row}: {refused}");
        assert!(!refused.to_string().is_empty());
    }
}

#[test]
fn names_may_be_lax_when_there_is_a_subject() {
    let leaf = parse(|params| {
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "cart");
        params.subject_alt_names.clear();
        params.custom_extensions = vec![raw_names(&[(6, CART.as_bytes())], false)];
    });
    assert_eq!(leaf.unwrap().id, id(CART));
}

#[test]
fn junk_is_no_certificate() {
    let good = Ca::root("shop.test", "root").leaf(CART).certificate;
    let mut longer = good.to_vec();
    longer.push(0);
    for junk in [&[][..], b"\x30", b"hello", &good[..good.len() - 1], &longer] {
        assert_eq!(Leaf::parse(junk).unwrap_err().slug(), "svid.malformed");
    }
}

#[test]
fn chain_and_key_belong_together_and_are_read_back() {
    let provider = aws_lc_rs::default_provider();
    let root = Ca::root("shop.test", "root");
    let (cart, other) = (root.leaf(CART), root.leaf(CART));
    let svid = cart.svid(&[&root]);
    let again = Svid::from_pem(&svid.chain_pem(), &svid.key().to_pem(), &provider).unwrap();
    assert_eq!((again.leaf(), again.chain()), (svid.leaf(), svid.chain()));
    assert_eq!(again.id(), &id(CART));

    let mismatch = Svid::new(vec![cart.certificate.clone()], other.key.clone(), &provider);
    assert_eq!(mismatch.unwrap_err(), BadSvid::KeyMismatch);
    assert_eq!(Svid::new(vec![], cart.key.clone(), &provider).unwrap_err(), BadSvid::Empty);
    let root_as_leaf = Svid::new(vec![root.certificate.clone()], cart.key.clone(), &provider);
    assert_eq!(root_as_leaf.unwrap_err(), BadSvid::Leaf(NotSvid::IsCa));
    assert!(matches!(Svid::from_pem("", &cart.key.to_pem(), &provider), Err(BadSvid::Empty)));
    assert!(matches!(Svid::from_pem(&svid.chain_pem(), "", &provider), Err(BadSvid::Key(BadKey::Missing))));
}

#[test]
fn the_key_is_never_shown() {
    let svid = Ca::root("shop.test", "root").leaf(CART).svid(&[]);
    let shown = format!("{svid:?}");
    assert!(shown.contains(CART) && !shown.to_lowercase().contains("key"), "{shown}");
}
