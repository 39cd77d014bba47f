//! Tests of `ca`: what an end between any two steps leaves behind, and what is signed.

use std::os::unix::fs::PermissionsExt;

use transept_identity::rotation::Advance;

use super::*;

const LIFE: Duration = Duration::from_secs(3600);

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000))
}

fn open(directory: &Path, domain: &str) -> Result<Ca, CaError> {
    open_with(directory, domain, None)
}

fn open_with(directory: &Path, domain: &str, said: Option<&Rotation>) -> Result<Ca, CaError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ca::open(directory, &TrustDomain::new(domain).expect("a domain"), LIFE, provider, said, now())
}

fn add(ca: &Ca) -> Fingerprint {
    let new = ca.prepare_root(now()).expect("another one");
    let root = new.root();
    ca.add_root(new);
    root
}

/// What is in the directory, by name.
fn listed(directory: &Path) -> Vec<String> {
    let all = directory.read_dir().expect("a directory");
    let mut names: Vec<String> =
        all.map(|one| one.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn an_authority_is_made_once_and_read_from_then_on() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let first = open(directory.path(), "shop.test").expect("made");
    let second = open(directory.path(), "shop.test").expect("read");
    assert_eq!(first.root(), second.root());
    for name in ["ca.key", "ca.pem"] {
        let mode = directory.path().join(name).metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let other = open(directory.path(), "other.test").expect_err("another trust domain");
    assert!(other.to_string().contains("shop.test"), "{other}");

    let svid = second.own_svid(now()).expect("signed");
    assert_eq!(svid.id().as_str(), "spiffe://shop.test/transept/control");
    assert_eq!(svid.chain().last().map(|root| Fingerprint::of(root)), Some(second.root()));
    assert_eq!(svid.leaf().not_after.as_secs(), now().as_secs() + LIFE.as_secs());
}

#[test]
fn a_key_that_others_can_read_or_that_is_missing_ends_the_start() {
    let directory = tempfile::tempdir().expect("temporary directory");
    open(directory.path(), "shop.test").expect("made");
    let (key, chain) = (directory.path().join("ca.key"), directory.path().join("ca.pem"));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o604)).expect("chmod");
    assert!(matches!(open(directory.path(), "shop.test"), Err(CaError::Open(_))));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("chmod");

    let good = std::fs::read(&key).expect("readable");
    std::fs::write(&key, "").expect("emptied");
    assert!(matches!(open(directory.path(), "shop.test"), Err(CaError::Bad(path, _)) if path == key));
    std::fs::write(&key, good).expect("written");

    // Ended between the two renames: the certificate is found and put in place.
    std::fs::rename(&chain, directory.path().join("ca.pem.new")).expect("renamed");
    open(directory.path(), "shop.test").expect("finished");
    std::fs::remove_file(&chain).expect("removed");
    assert!(matches!(open(directory.path(), "shop.test"), Err(CaError::Half(path, _)) if path == chain));
}

#[test]
fn another_root_signs_when_it_is_told_to_and_the_first_one_goes_with_its_files() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let ca = open(directory.path(), "shop.test").expect("made");
    let first = ca.root();
    let second = add(&ca);
    assert_eq!((ca.root(), ca.authorities().len()), (first, 2));
    assert_eq!(ca.bundle(&[first, second], 2).expect("both").roots().len(), 2);
    let mut said = Rotation::new(first);
    said.announce(second, now()).expect("announced");
    assert!(matches!(said.advance(now()), Advance::Signs(_)));
    ca.settle(&said).expect("known");
    let again = open(directory.path(), "shop.test").expect("read");
    again.settle(&said).expect("known");
    assert_eq!(again.root(), second);
    assert!(matches!(said.advance(now()), Advance::Retired(_)));
    ca.settle(&said).expect("known");
    assert!(!directory.path().join("ca.key").exists() && !directory.path().join("ca.pem").exists());
    let again = open(directory.path(), "shop.test").expect("read");
    assert_eq!((again.root(), again.authorities().len()), (second, 1));
    assert!(matches!(again.settle(&Rotation::new(first)), Err(CaError::Bad(..))));
    assert_eq!(again.root(), second);
}

#[test]
fn a_root_counts_as_soon_as_the_state_trusts_it_and_not_before() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let ca = open(directory.path(), "shop.test").expect("made");
    let mut said = Rotation::new(ca.root());
    // Made, and then the state could not be stored.
    let _ = [ca.prepare_root(now()).expect("one"), ca.prepare_root(now()).expect("two")];
    assert_eq!((listed(directory.path()).len(), ca.authorities().len()), (6, 1));
    let again = open_with(directory.path(), "shop.test", Some(&said)).expect("read");
    assert_eq!(
        (again.authorities().len(), listed(directory.path())),
        (1, ["ca.key", "ca.pem"].map(String::from).into())
    );
    // Stored, and ended before the files were in their place, or between the two.
    for moved in [0, 1] {
        let new = again.prepare_root(now()).expect("three");
        said.announce(new.root(), now()).expect("announced");
        let (key, _) = files::paths(directory.path(), &new.name);
        if moved == 1 {
            std::fs::rename(key.with_extension("key.new"), &key).expect("moved");
        }
        let after = open_with(directory.path(), "shop.test", Some(&said)).expect("finished");
        after.settle(&said).expect("both are there");
        assert_eq!((after.authorities().len(), listed(directory.path()).len()), (2, 4));
        said.distrust(&new.root()).expect("known");
        after.settle(&said).expect("the first is there");
        assert_eq!(listed(directory.path()), ["ca.key", "ca.pem"]);
    }
}

#[test]
fn what_is_left_of_a_root_that_is_gone_brings_it_never_back() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let ca = open(directory.path(), "shop.test").expect("made");
    let mut said = Rotation::new(ca.root());
    for left in [&["key", "pem"][..], &["pem"]] {
        let new = ca.prepare_root(now()).expect("another one");
        let (root, (key, _)) = (new.root(), files::paths(directory.path(), &new.name));
        ca.add_root(new);
        said.announce(root, now()).expect("announced");
        said.distrust(&root).expect("known");
        if !left.contains(&"key") {
            std::fs::remove_file(key).expect("removed");
        }
        let again = open_with(directory.path(), "shop.test", Some(&said)).expect("it starts");
        assert_eq!((again.authorities().len(), listed(directory.path()).len()), (1, 2), "{left:?}");
        assert!(said.take_in(root, now()).is_err());
    }
}

#[test]
fn no_authority_is_made_where_the_state_knows_another_one() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let said = Rotation::new(Fingerprint::of(b"lost"));
    let missing = open_with(directory.path(), "shop.test", Some(&said)).expect_err("it is missing");
    assert!(missing.to_string().contains("from a backup"), "{missing}");
    assert!(listed(directory.path()).is_empty());
}

#[test]
fn only_the_proven_identity_is_signed() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let ca = open(directory.path(), "shop.test").expect("made");
    let (cart, bank) = ("spiffe://shop.test/ns/default/sa/cart", "spiffe://shop.test/ns/default/sa/bank");
    let (cart, bank) = (SpiffeId::parse(cart).expect("an id"), SpiffeId::parse(bank).expect("an id"));
    let key = PrivateKey::generate().expect("a key");
    let request = transept_identity::request::create(&key, &cart).expect("a request");
    assert_eq!(ca.sign(&request, &cart, now()).expect("signed").leaf.id, cart);
    assert!(matches!(ca.sign(&request, &bank, now()), Err(NotSigned::Request(_))));
    assert!(matches!(ca.sign(b"junk", &cart, now()), Err(NotSigned::Request(_))));
}

#[test]
fn a_root_is_of_the_mesh_when_it_was_made_to_come_after_the_one_that_signs() {
    let [directory, other] = [(); 2].map(|()| tempfile::tempdir().expect("temporary directory"));
    let ca = open(directory.path(), "shop.test").expect("made");
    let (first, second) = (ca.root(), add(&ca));
    let foreign = open(other.path(), "shop.test").expect("made");
    for (from, to) in [("ca.key", "ca-bak.key"), ("ca.pem", "ca-bak.pem")] {
        std::fs::copy(other.path().join(from), directory.path().join(to)).expect("copied");
    }
    let again = open(directory.path(), "shop.test").expect("read");
    let younger = again.made_after(first, &[first]);
    let of_mesh: Vec<Fingerprint> = younger.iter().filter(|one| one.of_mesh).map(|one| one.root).collect();
    assert_eq!((younger.len(), of_mesh), (2, vec![second]));

    // What the state does not know is nobody's to delete.
    again.settle(&Rotation::new(first)).expect("it is there");
    assert!(again.authorities().len() == 1 && again.certificate(&foreign.root()).is_none());
    assert_eq!(listed(directory.path()).len(), 6);
}
