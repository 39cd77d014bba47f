//! Tests of `verify`: who is proven, who is refused, and why.

use rcgen::{BasicConstraints, CertificateParams, IsCa, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::aws_lc_rs;

use super::*;
use crate::bundle::Bundle;
use crate::forge::{Ca, Forged, HOUR, NOW, bundles, ca_params, domain, id, leaf_params, now, set_validity};

const CART: &str = "spiffe://shop.test/ns/default/sa/cart";

fn check_at(
    chain: &[&CertificateDer<'static>],
    bundles: &Bundles,
    accept: &Accept,
    now: UnixTime,
) -> Result<Peer, Refusal> {
    let provider = aws_lc_rs::default_provider();
    let algorithms = provider.signature_verification_algorithms.all;
    let chain: Vec<_> = chain.iter().map(|der| (*der).clone()).collect();
    let as_client = verify(&chain, bundles, Purpose::Client, accept, algorithms, now);
    let as_server = verify(&chain, bundles, Purpose::Server, accept, algorithms, now);
    assert_eq!(as_client, as_server);
    as_client
}

fn check(chain: &[&CertificateDer<'static>], bundles: &Bundles) -> Result<Peer, Refusal> {
    check_at(chain, bundles, &Accept::TrustDomain(domain("shop.test")), now())
}

fn slug(chain: &[&CertificateDer<'static>], bundles: &Bundles) -> &'static str {
    check(chain, bundles).unwrap_err().slug()
}

#[test]
fn a_leaf_of_the_right_root_is_proven() {
    let root = Ca::root("shop.test", "root");
    let cart = root.leaf(CART);
    let peer = check(&[&cart.certificate], &bundles([("shop.test", &root)])).unwrap();
    assert_eq!(peer.id(), &id(CART));
}

#[test]
fn an_intermediate_is_needed_and_enough() {
    let root = Ca::root("shop.test", "root");
    let intermediate = root.below(&ca_params("shop.test", "intermediate"));
    let second = intermediate.below(&ca_params("shop.test", "second"));
    let cart = second.leaf(CART).certificate;
    let known = bundles([("shop.test", &root)]);
    let (one, two) = (&intermediate.certificate, &second.certificate);
    assert!(check(&[&cart, two, one], &known).is_ok());
    assert!(check(&[&cart, one, two], &known).is_ok(), "the order does not matter");
    assert!(check(&[&cart, two, one, &root.certificate], &known).is_ok(), "the root may be there");
    assert_eq!(slug(&[&cart], &known), "identity.untrusted");
    assert_eq!(slug(&[&cart, one], &known), "identity.untrusted");
    assert_eq!(slug(&[&cart, two], &known), "identity.untrusted");
}

#[test]
fn foreign_chains_are_refused_however_they_are_made() {
    let (ours, theirs) = (Ca::root("shop.test", "root"), Ca::root("bank.test", "root"));
    let both = bundles([("shop.test", &ours), ("bank.test", &theirs)]);
    let only_ours = bundles([("shop.test", &ours)]);

    // Our id, signed by a root that names itself like ours, and by that of a federated domain.
    let impostor = Ca::root("shop.test", "root").leaf(CART).certificate;
    assert_eq!(slug(&[&impostor], &only_ours), "identity.untrusted");
    assert_eq!(slug(&[&theirs.leaf(CART).certificate], &both), "identity.untrusted");
    // The federated domain signs an intermediate that claims to be ours.
    let claimed = theirs.below(&ca_params("shop.test", "claimed"));
    assert_eq!(slug(&[&claimed.leaf(CART).certificate, &claimed.certificate], &both), "identity.untrusted");
    // The impostor brings its root along.
    let root = Ca::root("shop.test", "other");
    assert_eq!(slug(&[&root.leaf(CART).certificate, &root.certificate], &both), "identity.untrusted");
    // Our root signs an id of the other domain: it does not vouch there either.
    let crossed = ours.leaf("spiffe://bank.test/vault").certificate;
    assert_eq!(slug(&[&crossed], &both), "identity.untrusted");

    let vault = theirs.leaf("spiffe://bank.test/vault").certificate;
    assert_eq!(slug(&[&vault], &only_ours), "identity.unknown_trust_domain");
    assert_eq!(slug(&[&vault], &both), "identity.wrong_trust_domain");
    assert_eq!(
        slug(&[&ours.leaf(CART).certificate], &bundles([("bank.test", &theirs)])),
        "identity.unknown_trust_domain"
    );
}

#[test]
fn a_leaf_cannot_sign_another() {
    let root = Ca::root("shop.test", "root");
    let mut params = leaf_params(CART);
    params.distinguished_name.push(rcgen::DnType::CommonName, "leaf");
    let leaf = root.below(&params);
    let forged = leaf.leaf("spiffe://shop.test/admin").certificate;
    assert_eq!(slug(&[&forged, &leaf.certificate], &bundles([("shop.test", &root)])), "identity.bad_chain");
}

#[test]
fn a_path_length_is_kept() {
    let root = Ca::root("shop.test", "root");
    let mut params = ca_params("shop.test", "last");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let last = root.below(&params);
    let beyond = last.below(&ca_params("shop.test", "beyond"));
    let known = bundles([("shop.test", &root)]);
    assert!(check(&[&last.leaf(CART).certificate, &last.certificate], &known).is_ok());
    let chain = [&beyond.leaf(CART).certificate, &beyond.certificate, &last.certificate];
    assert_eq!(slug(&chain, &known), "identity.bad_chain");
}

#[test]
fn nothing_is_valid_outside_its_time() {
    let timed = |begin: u64, end: u64| move |params: &mut CertificateParams| set_validity(params, begin, end);
    let root = Ca::root("shop.test", "root");
    let known = bundles([("shop.test", &root)]);
    let ended = root.changed(CART, timed(NOW - HOUR, NOW - 1)).certificate;
    let refused = check(&[&ended], &known).unwrap_err();
    assert_eq!(refused, Refusal::Expired { id: id(CART), ago: 1 });
    let early = root.changed(CART, timed(NOW + 30, NOW + HOUR)).certificate;
    assert_eq!(check(&[&early], &known).unwrap_err(), Refusal::NotYetValid { id: id(CART), ahead: 30 });
    assert!(check(&[&root.changed(CART, timed(NOW, NOW)).certificate], &known).is_ok());

    let mut params = ca_params("shop.test", "intermediate");
    set_validity(&mut params, NOW - HOUR, NOW - 10);
    let intermediate = root.below(&params);
    let below = intermediate.leaf(CART).certificate;
    assert_eq!(slug(&[&below, &intermediate.certificate], &known), "identity.expired");
}

#[test]
fn an_ended_root_vouches_for_nobody() {
    let mut params = ca_params("shop.test", "root");
    set_validity(&mut params, NOW - 2 * HOUR, NOW - 1);
    let root = Ca::root_with(&PKCS_ECDSA_P256_SHA256, &params);
    let cart = root.leaf(CART).certificate;
    assert_eq!(slug(&[&cart], &bundles([("shop.test", &root)])), "identity.no_roots");
}

#[test]
fn without_bundles_nobody_is_proven() {
    let cart = Ca::root("shop.test", "root").leaf(CART).certificate;
    assert_eq!(slug(&[&cart], &Bundles::default()), "identity.unknown_trust_domain");
    let empty: Bundles = [Bundle::new(domain("shop.test"), []).unwrap()].into_iter().collect();
    assert_eq!(slug(&[&cart], &empty), "identity.no_roots");
    assert_eq!(slug(&[], &empty), "identity.no_certificate");
}

#[test]
fn what_is_no_svid_is_refused_although_the_root_vouches_for_it() {
    let root = Ca::root("shop.test", "root");
    let known = bundles([("shop.test", &root)]);
    let two = root.changed(CART, |params| params.subject_alt_names.push(crate::forge::uri("spiffe://shop.test/x")));
    assert_eq!(slug(&[&two.certificate], &known), "svid.many_uris");
    assert_eq!(slug(&[&root.certificate], &known), "svid.is_ca");
}

#[test]
fn a_tampered_certificate_is_refused() {
    let root = Ca::root("shop.test", "root");
    let known = bundles([("shop.test", &root)]);
    let good = root.leaf(CART).certificate.to_vec();
    let at = good.windows(4).position(|bytes| bytes == b"cart").unwrap();
    let mut other = good.clone();
    other[at..at + 4].copy_from_slice(b"bank");
    let refused = check(&[&CertificateDer::from(other)], &known).unwrap_err();
    assert_eq!(refused, Refusal::Untrusted { id: id("spiffe://shop.test/ns/default/sa/bank") });
    let mut last = good;
    *last.last_mut().unwrap() ^= 1;
    assert!(check(&[&CertificateDer::from(last)], &known).is_err());
}

#[test]
fn only_accepted_identities_pass() {
    let root = Ca::root("shop.test", "root");
    let known = bundles([("shop.test", &root)]);
    let cart = root.leaf(CART).certificate;
    let admit = |accept: Accept| check_at(&[&cart], &known, &accept, now()).map_err(|refusal| refusal.slug());
    assert!(admit(Accept::only(id(CART))).is_ok());
    assert!(admit(Accept::TrustDomains([domain("bank.test"), domain("shop.test")].into())).is_ok());
    assert_eq!(admit(Accept::AnyOf(BTreeSet::new())).unwrap_err(), "identity.unexpected");
    assert_eq!(admit(Accept::TrustDomains(BTreeSet::new())).unwrap_err(), "identity.wrong_trust_domain");
    assert_eq!(admit(Accept::TrustDomain(domain("bank.test"))).unwrap_err(), "identity.wrong_trust_domain");
    let near = id("spiffe://shop.test/ns/default/sa/cart2");
    let refused = check_at(&[&cart], &known, &Accept::only(near), now()).unwrap_err();
    assert_eq!(refused.id(), Some(&id(CART)));
    assert_eq!(refused.to_string(), format!("the peer is `{CART}`; expected `{CART}2`"));
    let many = Accept::AnyOf((0..9).map(|n| id(&format!("spiffe://shop.test/{n}"))).collect());
    let sentence = check_at(&[&cart], &known, &many, now()).unwrap_err().to_string();
    assert!(sentence.ends_with("`spiffe://shop.test/2`, 6 more"), "{sentence}");
}

#[test]
fn old_and_new_root_of_one_name_stand_side_by_side() {
    let (old, new) = (Ca::root("shop.test", "root"), Ca::root("shop.test", "root"));
    let roots = [old.certificate.clone(), new.certificate.clone()];
    let known: Bundles = [Bundle::new(domain("shop.test"), roots).unwrap()].into_iter().collect();
    let leaf = |ca: &Ca| -> Forged { ca.leaf(CART) };
    assert!(check(&[&leaf(&old).certificate], &known).is_ok());
    assert!(check(&[&leaf(&new).certificate], &known).is_ok());
}
