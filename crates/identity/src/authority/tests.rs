//! Tests of `authority`: what it issues, and what it refuses to.

use rcgen::PublicKeyData as _;
use rustls::crypto::aws_lc_rs;

use super::*;
use crate::bundle::{Bundle, Bundles};
use crate::forge::{NOW, domain, id, now};
use crate::renew::Renewal;
use crate::svid::{Svid, moment};
use crate::verify::{Accept, Purpose, verify};

const CART: &str = "spiffe://shop.test/ns/default/sa/cart";
const SERIAL: [u8; 16] = [0xfe, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

fn root() -> Authority {
    Authority::create_root(&domain("shop.test"), now(), SERIAL).unwrap()
}

fn request_for(text: &str) -> (PrivateKey, Request) {
    let key = PrivateKey::generate().unwrap();
    let der = request::create(&key, &id(text)).unwrap();
    (key, Request::read(&der, &id(text)).unwrap())
}

fn bundles(root: &Authority) -> Bundles {
    [Bundle::new(root.trust_domain().clone(), [root.root().unwrap().clone()]).unwrap()].into_iter().collect()
}

fn is_proven(issued: &Issued, bundles: &Bundles, at: UnixTime) -> bool {
    let provider = aws_lc_rs::default_provider();
    let algorithms = provider.signature_verification_algorithms.all;
    [Purpose::Client, Purpose::Server]
        .into_iter()
        .all(|purpose| verify(&issued.chain, bundles, purpose, &Accept::only(id(CART)), algorithms, at).is_ok())
}

#[test]
fn a_root_is_a_signing_svid_of_its_domain() {
    let root = root();
    let certificate = svid::read(root.root().unwrap()).unwrap();
    assert_eq!(svid::read_names(&certificate).unwrap().0.unwrap().as_str(), "spiffe://shop.test");
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
    assert!(certificate.basic_constraints().unwrap().unwrap().critical && certificate.is_ca());
    assert_eq!(certificate.raw_serial(), [&[0], &SERIAL[..]].concat(), "positive, whatever the first bit");
    assert_eq!(certificate.subject().to_string(), "O=Transept, CN=shop.test root fe020304");
    assert_eq!(root.not_before(), moment(NOW - 60));
    assert_eq!(root.not_after(), moment(NOW + 3650 * DAY));
    assert_eq!(bundles(&root).of("shop.test").unwrap().roots().len(), 1);
}

#[test]
fn a_leaf_is_an_svid_that_its_root_vouches_for() {
    let root = root();
    let (key, request) = request_for(CART);
    let issued = root.issue(&request, LEAF_LIFE, now(), SERIAL).unwrap();
    assert_eq!(issued.chain.len(), 1, "the root is not sent along");
    assert_eq!(issued.root, Some(Fingerprint::of(root.root().unwrap())));
    assert_eq!(issued.leaf.id, id(CART));
    assert_eq!((issued.leaf.not_before, issued.leaf.not_after), (moment(NOW - 60), moment(NOW + DAY)));
    assert!(is_proven(&issued, &bundles(&root), now()));
    assert!(is_proven(&issued, &bundles(&root), moment(NOW - 60)), "a clock that is behind");
    assert!(!is_proven(&issued, &bundles(&root), moment(NOW + DAY + 1)));

    let certificate = svid::read(&issued.chain[0]).unwrap();
    assert_eq!(certificate.raw_serial(), [&[0], &SERIAL[..]].concat());
    assert!(certificate.subject_alternative_name().unwrap().unwrap().critical);
    assert_eq!(certificate.public_key().subject_public_key.data.as_ref(), key.signer().unwrap().der_bytes());
    let svid = Svid::new(issued.chain, key, &aws_lc_rs::default_provider()).unwrap();
    assert_eq!(svid.id(), &id(CART));
}

#[test]
fn leaves_carry_the_key_of_the_request_whatever_its_kind() {
    let root = root();
    for kind in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
        let key = PrivateKey::generate_for(kind).unwrap();
        let request = Request::read(&request::create(&key, &id(CART)).unwrap(), &id(CART)).unwrap();
        let issued = root.issue(&request, LEAF_LIFE, now(), SERIAL).unwrap();
        assert!(is_proven(&issued, &bundles(&root), now()));
        assert!(Svid::new(issued.chain, key, &aws_lc_rs::default_provider()).is_ok());
    }
}

#[test]
fn an_intermediate_sends_its_chain_along() {
    let root = root();
    let intermediate = root.create_intermediate(now(), [7; 16]).unwrap();
    assert_eq!(intermediate.not_after(), moment(NOW + 365 * DAY));
    let (_, request) = request_for(CART);
    let issued = intermediate.issue(&request, LEAF_LIFE, now(), SERIAL).unwrap();
    assert_eq!(issued.chain.len(), 2);
    assert_eq!(issued.root, Some(Fingerprint::of(root.root().unwrap())));
    assert!(is_proven(&issued, &bundles(&root), now()));

    // Kept without its root, it works the same, and the root is known from the bundle only.
    let alone = pem::write_certificates(&intermediate.chain()[..1]);
    let alone = Authority::from_pem(&domain("shop.test"), &alone, &intermediate.key_pem()).unwrap();
    let issued = alone.issue(&request, LEAF_LIFE, now(), SERIAL).unwrap();
    assert_eq!((issued.chain.len(), issued.root, alone.root()), (2, None, None));
    assert!(is_proven(&issued, &bundles(&root), now()));

    // It may not make another one below itself.
    let beyond = intermediate.create_intermediate(now(), [8; 16]).unwrap();
    let issued = beyond.issue(&request, LEAF_LIFE, now(), SERIAL).unwrap();
    assert!(!is_proven(&issued, &bundles(&root), now()));
}

#[test]
fn nothing_outlives_the_authority() {
    let root = root();
    let end = NOW + 3650 * DAY;
    let (_, request) = request_for(CART);
    let at = |seconds: u64| root.issue(&request, LEAF_LIFE, moment(seconds), SERIAL);
    assert_eq!(at(end - 10).unwrap().leaf.not_after, moment(end));
    assert_eq!(at(end).unwrap_err(), NotIssued::Expired);
    assert_eq!(at(end + DAY).unwrap_err(), NotIssued::Expired);
    assert_eq!(at(NOW - 61).unwrap_err(), NotIssued::NotYetValid);
    assert_eq!(at(NOW - 60).unwrap().leaf.not_before, moment(NOW - 60), "not before the authority either");
    let late = root.create_intermediate(moment(end - 10), [7; 16]).unwrap();
    assert_eq!(late.not_after(), moment(end));
}

#[test]
fn a_leaf_lives_as_long_as_is_allowed() {
    let root = root();
    let (_, request) = request_for(CART);
    let life = |life: Duration| root.issue(&request, life, now(), SERIAL).map(|issued| issued.leaf.not_after);
    assert_eq!(life(Duration::from_secs(5)), Ok(moment(NOW + 5)));
    for (life, back) in [(5, 0), (10, 1), (60, 6), (600, 60), (3600, 60)] {
        let leaf = root.issue(&request, Duration::from_secs(life), now(), SERIAL).unwrap().leaf;
        assert_eq!(leaf.not_before, moment(NOW - back), "a leaf that lives for {life} s");
        let due = Renewal::new(leaf.not_before, leaf.not_after).first_wait(now(), u64::MAX / 2).as_millis();
        let half = u128::from(life) * 500;
        assert!(due <= half && due >= half * 9 / 10, "{due} ms of {life} s");
    }
    assert_eq!(life(MAX_LEAF_LIFE), Ok(moment(NOW + 90 * DAY)));
    for wrong in [Duration::ZERO, MAX_LEAF_LIFE + Duration::from_secs(1), Duration::MAX] {
        assert_eq!(life(wrong).unwrap_err(), NotIssued::Life(wrong));
    }
}

#[test]
fn an_authority_signs_for_its_own_domain_only() {
    let (_, request) = request_for("spiffe://bank.test/vault");
    let refused = root().issue(&request, LEAF_LIFE, now(), SERIAL).unwrap_err();
    assert!(matches!(refused, NotIssued::Foreign { .. }), "{refused}");
}

#[test]
fn an_authority_is_read_back_and_checked() {
    let (root, other) = (root(), root());
    let shop = domain("shop.test");
    let again = Authority::from_pem(&shop, &root.chain_pem(), &root.key_pem()).unwrap();
    assert_eq!((again.chain(), again.not_after(), again.root()), (root.chain(), root.not_after(), root.root()));

    let load = |chain: &str, key: &str| Authority::from_pem(&shop, chain, key).unwrap_err();
    assert_eq!(load(&root.chain_pem(), &other.key_pem()), BadAuthority::KeyMismatch);
    assert!(matches!(load("", &root.key_pem()), BadAuthority::Pem(_)));
    assert!(matches!(load(&root.chain_pem(), ""), BadAuthority::Key(BadKey::Missing)));
    let foreign = Authority::from_pem(&domain("bank.test"), &root.chain_pem(), &root.key_pem()).unwrap_err();
    assert!(matches!(foreign, BadAuthority::Foreign { .. }));

    let (key, request) = request_for(CART);
    let leaf = root.issue(&request, LEAF_LIFE, now(), SERIAL).unwrap().chain;
    assert_eq!(load(&pem::write_certificates(&leaf), &key.to_pem()), BadAuthority::NotCa(1));
    let intermediate = root.create_intermediate(now(), [7; 16]).unwrap();
    let mixed = [intermediate.chain()[0].clone(), other.chain()[0].clone()];
    assert_eq!(load(&pem::write_certificates(&mixed), &intermediate.key_pem()), BadAuthority::BrokenChain(1));
}

#[test]
fn the_key_is_never_shown() {
    let root = root();
    let shown = format!("{root:?}");
    assert!(shown.contains("shop.test") && !shown.to_lowercase().contains("key"), "{shown}");
}

#[test]
fn the_longest_trust_domain_fits_into_a_root() {
    let long = domain(&"a".repeat(255));
    let root = Authority::create_root(&long, now(), SERIAL).unwrap();
    let text = svid::read(root.root().unwrap()).unwrap().subject().to_string();
    assert_eq!(text.len(), "O=Transept, CN=".len() + 64, "{text}");
}

#[test]
fn a_root_that_comes_after_another_one_is_told_from_a_foreign_one() {
    let (old, foreign) = (root(), root());
    let new = Authority::create_root(&domain("shop.test"), now(), [7; 16]).unwrap();
    let voucher = old.vouch_for(&new, now(), SERIAL).unwrap();
    let text = new.chain_pem() + &voucher;
    assert!(old.has_vouched_for(&new, &text));
    assert!(!foreign.has_vouched_for(&new, &text), "somebody else's sign");
    assert!(!old.has_vouched_for(&foreign, &text), "for another root");
    assert!(!old.has_vouched_for(&new, &new.chain_pem()) && !old.has_vouched_for(&new, &text[..text.len() - 40]));
    let again = Authority::from_pem(new.trust_domain(), &text, &new.key_pem()).unwrap();
    assert_eq!(again.chain(), new.chain(), "the chain is read as if it were not there");

    // It lets nobody speak for the one who vouched.
    let (_, request) = request_for(CART);
    let mut issued = new.issue(&request, LEAF_LIFE, now(), SERIAL).unwrap();
    issued.chain.push(pem::read_other(VOUCHER, &voucher).unwrap());
    assert!(!is_proven(&issued, &bundles(&old), now()));
}
