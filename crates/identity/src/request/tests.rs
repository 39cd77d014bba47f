//! Tests of `request`: what an authority must not be talked into.

use rcgen::{
    BasicConstraints, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519,
    PKCS_RSA_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey,
};

use super::*;
use crate::forge::{id, raw_names};

const CART: &str = "spiffe://shop.test/ns/default/sa/cart";

fn read(der: &[u8]) -> Result<Request, BadRequest> {
    Request::read(der, &id(CART))
}

/// A request for the cart that something was done to, signed by a key of its own.
fn changed(change: impl FnOnce(&mut CertificateParams)) -> Result<Request, BadRequest> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(&id(CART)).unwrap()];
    change(&mut params);
    read(params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der())
}

#[test]
fn our_own_request_is_granted_with_every_kind_of_key() {
    let kinds: [&'static SignatureAlgorithm; 4] =
        [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256];
    for kind in kinds {
        let key = PrivateKey::generate_for(kind).unwrap();
        let der = create(&key, &id(CART)).unwrap();
        let request = read(&der).unwrap();
        assert_eq!(request.id(), &id(CART));
        assert_eq!(request.key().der_bytes(), key.signer().unwrap().der_bytes());
    }
}

#[test]
fn other_kinds_of_key_are_refused() {
    let kinds: [&'static SignatureAlgorithm; 1] = [&PKCS_ECDSA_P521_SHA512];
    for kind in kinds {
        let der = create(&PrivateKey::generate_for(kind).unwrap(), &id(CART)).unwrap();
        assert_eq!(read(&der).unwrap_err().slug(), "request.key");
    }
}

#[test]
fn only_the_allowed_id_is_granted() {
    let key = PrivateKey::generate().unwrap();
    let other = id("spiffe://shop.test/ns/default/sa/admin");
    let der = create(&key, &other).unwrap();
    assert_eq!(read(&der).unwrap_err(), BadRequest::NotAllowed { asked: other.clone(), allowed: id(CART) });
    assert!(Request::read(&der, &other).is_ok());
}

/// A key that shows another's public half.
struct Borrowed {
    shown: KeyPair,
    own: KeyPair,
}

impl PublicKeyData for Borrowed {
    fn der_bytes(&self) -> &[u8] {
        self.shown.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.shown.algorithm()
    }
}

impl SigningKey for Borrowed {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.own.sign(message)
    }
}

#[test]
fn the_sender_must_hold_the_key() {
    let borrowed = Borrowed { shown: KeyPair::generate().unwrap(), own: KeyPair::generate().unwrap() };
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(&id(CART)).unwrap()];
    let der = params.serialize_request(&borrowed).unwrap();
    assert_eq!(read(der.der()).unwrap_err(), BadRequest::NotProven);

    let der = create(&PrivateKey::generate().unwrap(), &id("spiffe://shop.test/ns/default/sa/bank")).unwrap();
    let mut tampered = der.to_vec();
    let at = tampered.windows(4).position(|bytes| bytes == b"bank").unwrap();
    tampered[at..at + 4].copy_from_slice(b"cart");
    assert_eq!(read(&tampered).unwrap_err(), BadRequest::NotProven);
}

#[test]
fn the_kind_of_proof_is_not_the_senders_choice() {
    let der = create(&PrivateKey::generate_for(&PKCS_RSA_SHA256).unwrap(), &id(CART)).unwrap().to_vec();
    // sha256WithRSAEncryption becomes sha1WithRSAEncryption.
    let oid = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
    let at = der.windows(oid.len()).rposition(|bytes| bytes == oid).unwrap();
    let mut weak = der;
    weak[at + oid.len() - 1] = 0x05;
    assert_eq!(read(&weak).unwrap_err(), BadRequest::NotProven);
}

#[test]
fn exactly_one_name_is_asked_for() {
    for (slug, result) in [
        ("request.no_id", changed(|params| params.subject_alt_names.clear())),
        ("request.other_names", changed(|params| params.subject_alt_names.push(uri(&id(CART)).unwrap()))),
        (
            "request.other_names",
            changed(|params| params.subject_alt_names.push(SanType::DnsName("api.shop.test".try_into().unwrap()))),
        ),
        (
            "request.other_names",
            changed(|params| params.subject_alt_names = vec![SanType::DnsName("cart".try_into().unwrap())]),
        ),
        (
            "request.bad_id",
            changed(|params| params.subject_alt_names = vec![SanType::URI("https://shop.test".try_into().unwrap())]),
        ),
        // A second extension with another name must not slip past the first.
        (
            "request.other_names",
            changed(|params| params.custom_extensions = vec![raw_names(&[(6, b"spiffe://shop.test/admin")], false)]),
        ),
        ("request.wants_ca", changed(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
    ] {
        assert_eq!(result.unwrap_err().slug(), slug);
    }
    assert!(changed(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]).is_ok(), "it is not granted");
}

#[test]
fn junk_is_no_request() {
    let good = create(&PrivateKey::generate().unwrap(), &id(CART)).unwrap().to_vec();
    let longer = [good.as_slice(), &[0]].concat();
    for junk in [&[][..], b"\x30\x00", b"hello", &good[..good.len() - 1], &longer] {
        assert_eq!(read(junk).unwrap_err().slug(), "request.malformed");
    }
    assert_eq!(read(&vec![0x30; MAX_REQUEST + 1]).unwrap_err(), BadRequest::TooLarge);
}
