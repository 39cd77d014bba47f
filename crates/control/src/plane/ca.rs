//! The certificate authority of the control plane: its key in a file of its own, and what it signs.
//!
//! Used by `plane`. It signs for an identity that was proven elsewhere, by a token or by a certificate. The key never leaves
//! its file (`ca.key`, readable by its owner alone) but for this process; the certificate is beside it (`ca.pem`). While roots change
//! there is a second pair; which of them signs is said by the state of the rotation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, UnixTime};
use transept_identity::authority::{BadAuthority, Issued, NotIssued};
use transept_identity::request::BadRequest;
use transept_identity::{Authority, Bundle, Fingerprint, PrivateKey, Request, SpiffeId, Svid, TrustDomain};
use transept_xds::mesh::CONTROL_PATH;

/// The name of the first authority's files; those of later ones begin with it.
const FIRST: &str = "ca";
/// What is being written has this behind its name.
const UNFINISHED: &str = ".new";

/// Why there is no authority. Displays as a sentence that names the file.
#[derive(Debug)]
pub enum CaError {
    /// A file cannot be read or written.
    Io(PathBuf, String),
    /// Others than its owner may read the key.
    Open(PathBuf),
    /// One of the two files is missing.
    Half(PathBuf),
    /// The files are no authority for the trust domain.
    Bad(PathBuf, String),
}

impl fmt::Display for CaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, why) => write!(f, "{}: {why}", path.display()),
            Self::Open(path) => write!(
                f,
                "{} can be read by others than its owner; `chmod 600` it, and think about who may have read it",
                path.display()
            ),
            Self::Half(path) => write!(
                f,
                "{} is missing, though its counterpart is there; put it back from a backup: a new authority would cut off \
                 every workload",
                path.display()
            ),
            Self::Bad(path, why) => write!(f, "{}: {why}", path.display()),
        }
    }
}

impl std::error::Error for CaError {}

/// Why a certificate is not issued. Displays as a sentence that is safe to send back.
#[derive(Debug)]
pub enum NotSigned {
    /// The request is wrong, or for another identity.
    Request(BadRequest),
    /// The authority may not, or cannot.
    Authority(NotIssued),
    /// The crypto library has no randomness.
    Random,
}

impl fmt::Display for NotSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(why) => fmt::Display::fmt(why, f),
            Self::Authority(why) => fmt::Display::fmt(why, f),
            Self::Random => f.write_str("the crypto library has no randomness"),
        }
    }
}

impl std::error::Error for NotSigned {}

/// The authorities of a trust domain: one that signs, and while roots change another one.
#[derive(Debug)]
pub struct Ca {
    directory: PathBuf,
    trust_domain: TrustDomain,
    provider: Arc<CryptoProvider>,
    leaf_life: Duration,
    roots: RwLock<Roots>,
}

#[derive(Debug)]
struct Roots {
    /// By root, with the beginning of the names of their files.
    known: BTreeMap<Fingerprint, (String, Arc<Authority>)>,
    signer: Fingerprint,
}

impl Ca {
    /// Reads the authorities from their files in `directory`, or makes a new root when there is none. The latest one signs until
    /// [`Ca::settle`] says another. `leaf_life` is how long what it signs lives.
    ///
    /// # Errors
    /// The files do not fit, are open to others, or cannot be read or written.
    pub fn open(
        directory: &Path,
        trust_domain: &TrustDomain,
        leaf_life: Duration,
        provider: Arc<CryptoProvider>,
        now: UnixTime,
    ) -> Result<Self, CaError> {
        let mut known = BTreeMap::new();
        for name in pairs(directory)? {
            let (key, chain) = files(directory, &name);
            let authority = match (key.exists(), chain.exists()) {
                (true, true) => read(trust_domain, &key, &chain)?,
                (true, false) => return Err(CaError::Half(chain)),
                (false, _) => return Err(CaError::Half(key)),
            };
            let root = root_of(&authority).ok_or_else(|| no_root(&chain))?;
            known.insert(root, (name, Arc::new(authority)));
        }
        if known.is_empty() {
            let authority = make(directory, FIRST, trust_domain, &provider, now)?;
            let root = root_of(&authority).ok_or_else(|| no_root(directory))?;
            known.insert(root, (FIRST.to_owned(), Arc::new(authority)));
        }
        let latest = known.iter().max_by_key(|(_, (_, authority))| authority.not_before().as_secs());
        let signer = *latest.ok_or_else(|| no_root(directory))?.0;
        let roots = RwLock::new(Roots { known, signer });
        Ok(Self { directory: directory.to_owned(), trust_domain: trust_domain.clone(), provider, leaf_life, roots })
    }

    /// Whether there is an authority in `directory`, or a part of one.
    pub fn is_in(directory: &Path) -> bool {
        pairs(directory).is_ok_and(|names| !names.is_empty())
    }

    /// The roots that were made after that of `signer`, or in the same second, and are not among these.
    pub fn made_after(&self, signer: Fingerprint, known: &[Fingerprint]) -> Vec<Fingerprint> {
        let roots = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        let Some((_, before)) = roots.known.get(&signer) else { return Vec::new() };
        let is_later = |authority: &Authority| authority.not_before() >= before.not_before();
        let unknown = roots.known.iter().filter(|(root, _)| !known.contains(root));
        unknown.filter(|(_, (_, authority))| is_later(authority)).map(|(root, _)| *root).collect()
    }

    /// Lets `signer` sign, and forgets and deletes every authority but those of `trusted`.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn settle(&self, signer: Fingerprint, trusted: &[Fingerprint]) -> Result<(), CaError> {
        let mut roots = self.roots.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(missing) = trusted.iter().chain([&signer]).find(|root| !roots.known.contains_key(root)) {
            let why = format!("the authority with the root {missing} is missing; put its files back from a backup");
            return Err(CaError::Bad(self.directory.clone(), why));
        }
        roots.signer = signer;
        roots.known.retain(|root, (name, _)| {
            let stays = trusted.contains(root);
            if !stays {
                let (key, chain) = files(&self.directory, name);
                for path in [key, chain] {
                    if let Err(error) = std::fs::remove_file(&path) {
                        tracing::error!(path = %path.display(), %error, "a retired authority cannot be deleted");
                    }
                }
            }
            stays
        });
        Ok(())
    }

    /// Makes another root, on the disk before it is known. It signs nothing yet.
    ///
    /// # Errors
    /// It cannot be made or stored.
    pub fn add_root(&self, now: UnixTime) -> Result<Fingerprint, CaError> {
        let mark: [u8; 4] = random(&self.provider).ok_or_else(|| no_root(&self.directory))?;
        let name = format!("{FIRST}-{}", data_encoding::HEXLOWER.encode(&mark));
        let authority = make(&self.directory, &name, &self.trust_domain, &self.provider, now)?;
        let root = root_of(&authority).ok_or_else(|| no_root(&self.directory))?;
        let mut roots = self.roots.write().unwrap_or_else(PoisonError::into_inner);
        roots.known.insert(root, (name, Arc::new(authority)));
        Ok(root)
    }

    /// Signs a certificate for a request (PKCS#10 in DER) whose sender has proven to be `id`.
    ///
    /// # Errors
    /// The request is for something else, or nothing can be signed now.
    pub fn sign(&self, request: &[u8], id: &SpiffeId, now: UnixTime) -> Result<Issued, NotSigned> {
        let request = Request::read(request, id).map_err(NotSigned::Request)?;
        let serial = random(&self.provider).ok_or(NotSigned::Random)?;
        self.authority().issue(&request, self.leaf_life, now, serial).map_err(NotSigned::Authority)
    }

    /// A fresh certificate for the control plane itself. The root is part of its chain, so that who joins can compare it with
    /// the fingerprint that came with the token.
    ///
    /// # Errors
    /// Nothing can be signed now.
    pub fn own_svid(&self, now: UnixTime) -> Result<Svid, String> {
        let id =
            SpiffeId::parse(&format!("{}{CONTROL_PATH}", self.trust_domain.id())).map_err(|error| error.to_string())?;
        let key = PrivateKey::generate().map_err(|error| error.to_string())?;
        let request = transept_identity::request::create(&key, &id).map_err(|error| error.to_string())?;
        let issued = self.sign(&request, &id, now).map_err(|error| error.to_string())?;
        let chain = issued.chain.into_iter().chain(self.authority().root().cloned()).collect();
        Svid::new(chain, key, &self.provider).map_err(|error| error.to_string())
    }

    /// The bundle of these roots, with this sequence.
    ///
    /// # Errors
    /// One of them is not known.
    pub fn bundle(&self, trusted: &[Fingerprint], sequence: u64) -> Result<Bundle, String> {
        let roots = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        let root = |root: &Fingerprint| roots.known.get(root).and_then(|(_, authority)| authority.root().cloned());
        let ders: Option<Vec<_>> = trusted.iter().map(root).collect();
        let ders = ders.ok_or("a root of the bundle is not known")?;
        let mut bundle = Bundle::new(self.trust_domain.clone(), ders).map_err(|error| error.to_string())?;
        bundle.sequence = Some(sequence);
        Ok(bundle)
    }

    /// The certificate of a root that is known.
    pub fn certificate(&self, root: &Fingerprint) -> Option<CertificateDer<'static>> {
        let roots = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        roots.known.get(root).and_then(|(_, authority)| authority.root().cloned())
    }

    /// The fingerprint of the root that signs.
    pub fn root(&self) -> Fingerprint {
        self.roots.read().unwrap_or_else(PoisonError::into_inner).signer
    }

    /// Every authority that is known.
    pub fn authorities(&self) -> Vec<Arc<Authority>> {
        let roots = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        roots.known.values().map(|(_, authority)| authority.clone()).collect()
    }

    /// Who signs, with its chain.
    pub fn authority(&self) -> Arc<Authority> {
        let roots = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        // The signer is always one of the known ones: both change together.
        roots.known[&roots.signer].1.clone()
    }

    /// Whose authority it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The crypto library that signs.
    pub fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    /// How long what it signs lives.
    pub fn leaf_life(&self) -> Duration {
        self.leaf_life
    }
}

/// Random bytes from the crypto library.
pub(super) fn random<const N: usize>(provider: &CryptoProvider) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    provider.secure_random.fill(&mut bytes).ok()?;
    Some(bytes)
}

/// Makes the directory of the state, open to its owner alone, when it is not there.
///
/// # Errors
/// It cannot be made.
pub fn make_directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn read(trust_domain: &TrustDomain, key: &Path, chain: &Path) -> Result<Authority, CaError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| CaError::Io(path, error.to_string())
    };
    if key.metadata().map_err(failed(key))?.permissions().mode() & 0o077 != 0 {
        return Err(CaError::Open(key.to_owned()));
    }
    let secret = zeroize::Zeroizing::new(std::fs::read_to_string(key).map_err(failed(key))?);
    let certificates = std::fs::read_to_string(chain).map_err(failed(chain))?;
    Authority::from_pem(trust_domain, &certificates, &secret).map_err(|error| match error {
        BadAuthority::Key(why) => CaError::Bad(key.to_owned(), format!("{why}; put it back from a backup")),
        error => CaError::Bad(chain.to_owned(), error.to_string()),
    })
}

/// The names of the authorities in a directory: what stands before `.key` and `.pem`.
fn pairs(directory: &Path) -> Result<BTreeSet<String>, CaError> {
    let failed = |error: io::Error| CaError::Io(directory.to_owned(), error.to_string());
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let kind = path.extension().and_then(|extension| extension.to_str());
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if matches!(kind, Some("key" | "pem")) && (name == FIRST || name.starts_with("ca-")) {
            names.insert(name.to_owned());
        }
    }
    // The key was in place before the process ended; its certificate was whole already.
    for name in &names {
        let (key, chain) = files(directory, name);
        let unfinished = chain.with_extension(format!("pem{UNFINISHED}"));
        if key.exists() && !chain.exists() && unfinished.exists() {
            std::fs::rename(&unfinished, &chain).map_err(failed)?;
        }
    }
    Ok(names)
}

/// The key and the chain of an authority.
fn files(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
    (directory.join(format!("{name}.key")), directory.join(format!("{name}.pem")))
}

fn root_of(authority: &Authority) -> Option<Fingerprint> {
    authority.root().map(|root| Fingerprint::of(root))
}

fn no_root(path: &Path) -> CaError {
    CaError::Bad(path.to_owned(), "there is no root at the end of the chain".to_owned())
}

fn make(
    directory: &Path,
    name: &str,
    trust_domain: &TrustDomain,
    provider: &CryptoProvider,
    now: UnixTime,
) -> Result<Authority, CaError> {
    let (key, chain) = files(directory, name);
    let bad = |why: String| CaError::Bad(key.clone(), why);
    let serial = random(provider).ok_or_else(|| bad("the crypto library has no randomness".into()))?;
    let authority = Authority::create_root(trust_domain, now, serial).map_err(|error| bad(error.to_string()))?;
    let texts = [(&key, authority.key_pem()), (&chain, authority.chain_pem().into())];
    let beside = |path: &Path| PathBuf::from(format!("{}{UNFINISHED}", path.display()));
    // Both are whole on the disk before one of them counts, and the key counts first.
    for (path, text) in &texts {
        write_new(&beside(path), text.as_bytes()).map_err(|error| CaError::Io(beside(path), error.to_string()))?;
    }
    for (path, _) in &texts {
        std::fs::rename(beside(path), path).map_err(|error| CaError::Io(path.to_path_buf(), error.to_string()))?;
    }
    std::fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| CaError::Io(directory.to_owned(), error.to_string()))?;
    Ok(authority)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What an earlier start left unfinished never counted.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(3600);

    fn now() -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000))
    }

    fn open(directory: &Path, domain: &str) -> Result<Ca, CaError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Ca::open(directory, &TrustDomain::new(domain).expect("a domain"), LIFE, provider, now())
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
        assert!(matches!(open(directory.path(), "shop.test"), Err(CaError::Half(path)) if path == chain));
    }

    #[test]
    fn another_root_signs_when_it_is_told_to_and_the_first_one_goes_with_its_files() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let ca = open(directory.path(), "shop.test").expect("made");
        let first = ca.root();
        let second = ca.add_root(now()).expect("another one");
        assert_eq!((ca.root(), ca.authorities().len()), (first, 2));
        assert_eq!(ca.bundle(&[first, second], 2).expect("both").roots().len(), 2);
        ca.settle(second, &[second, first]).expect("known");
        let again = open(directory.path(), "shop.test").expect("read");
        again.settle(second, &[second, first]).expect("known");
        ca.settle(second, &[second]).expect("known");
        assert!(!directory.path().join("ca.key").exists() && !directory.path().join("ca.pem").exists());
        let again = open(directory.path(), "shop.test").expect("read");
        assert_eq!((again.root(), again.authorities().len()), (second, 1));
        assert!(matches!(again.settle(first, &[first]), Err(CaError::Bad(..))));
        assert_eq!(again.root(), second);
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
}
