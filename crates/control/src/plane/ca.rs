//! The certificate authority of the control plane: its key in a file of its own, and what it signs.
//!
//! Used by `plane`. It signs for an identity that was proven elsewhere, by a token or by a certificate. The key never leaves
//! its file (`ca.key`, readable by its owner alone) but for this process; the certificate is beside it (`ca.pem`).

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls_pki_types::UnixTime;
use transept_identity::authority::{Issued, NotIssued};
use transept_identity::request::BadRequest;
use transept_identity::{Authority, Bundle, Fingerprint, PrivateKey, Request, SpiffeId, Svid, TrustDomain};
use transept_xds::mesh::CONTROL_PATH;

const KEY: &str = "ca.key";
const CHAIN: &str = "ca.pem";
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

/// The authority with what it signs by default.
#[derive(Debug)]
pub struct Ca {
    authority: Authority,
    provider: Arc<CryptoProvider>,
    leaf_life: Duration,
}

impl Ca {
    /// Reads the authority from its files in `directory`, or makes a new root when there is none. `leaf_life` is how long what
    /// it signs lives.
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
        let (key, chain) = (directory.join(KEY), directory.join(CHAIN));
        let unfinished = directory.join(format!("{CHAIN}{UNFINISHED}"));
        // The key was in place before the process ended; its certificate was whole already.
        if key.exists() && !chain.exists() && unfinished.exists() {
            std::fs::rename(&unfinished, &chain).map_err(|error| CaError::Io(chain.clone(), error.to_string()))?;
        }
        let authority = match (key.exists(), chain.exists()) {
            (true, true) => read(trust_domain, &key, &chain)?,
            (false, false) => make(directory, trust_domain, &provider, now)?,
            (true, false) => return Err(CaError::Half(chain)),
            (false, true) => return Err(CaError::Half(key)),
        };
        Ok(Self { authority, provider, leaf_life })
    }

    /// Signs a certificate for a request (PKCS#10 in DER) whose sender has proven to be `id`.
    ///
    /// # Errors
    /// The request is for something else, or nothing can be signed now.
    pub fn sign(&self, request: &[u8], id: &SpiffeId, now: UnixTime) -> Result<Issued, NotSigned> {
        let request = Request::read(request, id).map_err(NotSigned::Request)?;
        let serial = random(&self.provider).ok_or(NotSigned::Random)?;
        self.authority.issue(&request, self.leaf_life, now, serial).map_err(NotSigned::Authority)
    }

    /// A fresh certificate for the control plane itself. The root is part of its chain, so that who joins can compare it with
    /// the fingerprint that came with the token.
    ///
    /// # Errors
    /// Nothing can be signed now.
    pub fn own_svid(&self, now: UnixTime) -> Result<Svid, String> {
        let id = SpiffeId::parse(&format!("{}{CONTROL_PATH}", self.authority.trust_domain().id()))
            .map_err(|error| error.to_string())?;
        let key = PrivateKey::generate().map_err(|error| error.to_string())?;
        let request = transept_identity::request::create(&key, &id).map_err(|error| error.to_string())?;
        let issued = self.sign(&request, &id, now).map_err(|error| error.to_string())?;
        let chain = issued.chain.into_iter().chain(self.authority.root().cloned()).collect();
        Svid::new(chain, key, &self.provider).map_err(|error| error.to_string())
    }

    /// The bundle of the trust domain, with this sequence.
    ///
    /// # Errors
    /// The authority has no root of its own.
    pub fn bundle(&self, sequence: u64) -> Result<Bundle, String> {
        let root = self.authority.root().cloned().ok_or("the chain in ca.pem does not end with a root")?;
        let mut bundle =
            Bundle::new(self.authority.trust_domain().clone(), [root]).map_err(|error| error.to_string())?;
        bundle.sequence = Some(sequence);
        Ok(bundle)
    }

    /// The fingerprint of the root.
    pub fn root(&self) -> Option<Fingerprint> {
        self.authority.root().map(|root| Fingerprint::of(root))
    }

    /// Who signs, with its chain.
    pub fn authority(&self) -> &Authority {
        &self.authority
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
    Authority::from_pem(trust_domain, &certificates, &secret)
        .map_err(|error| CaError::Bad(chain.to_owned(), error.to_string()))
}

fn make(
    directory: &Path,
    trust_domain: &TrustDomain,
    provider: &CryptoProvider,
    now: UnixTime,
) -> Result<Authority, CaError> {
    let bad = |why: String| CaError::Bad(directory.join(KEY), why);
    let serial = random(provider).ok_or_else(|| bad("the crypto library has no randomness".into()))?;
    let authority = Authority::create_root(trust_domain, now, serial).map_err(|error| bad(error.to_string()))?;
    let texts = [(KEY, authority.key_pem()), (CHAIN, authority.chain_pem().into())];
    // Both are whole on the disk before one of them counts, and the key counts first.
    for (name, text) in &texts {
        let path = directory.join(format!("{name}{UNFINISHED}"));
        write_new(&path, text.as_bytes()).map_err(|error| CaError::Io(path, error.to_string()))?;
    }
    for (name, _) in &texts {
        let path = directory.join(name);
        std::fs::rename(directory.join(format!("{name}{UNFINISHED}")), &path)
            .map_err(|error| CaError::Io(path, error.to_string()))?;
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
        for name in [KEY, CHAIN] {
            let mode = directory.path().join(name).metadata().expect("a file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let other = open(directory.path(), "other.test").expect_err("another trust domain");
        assert!(other.to_string().contains("shop.test"), "{other}");

        let svid = second.own_svid(now()).expect("signed");
        assert_eq!(svid.id().as_str(), "spiffe://shop.test/transept/control");
        assert_eq!(svid.chain().last().map(|root| Fingerprint::of(root)), second.root());
        assert_eq!(svid.leaf().not_after.as_secs(), now().as_secs() + LIFE.as_secs());
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_missing_ends_the_start() {
        let directory = tempfile::tempdir().expect("temporary directory");
        open(directory.path(), "shop.test").expect("made");
        let (key, chain) = (directory.path().join(KEY), directory.path().join(CHAIN));
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o604)).expect("chmod");
        assert!(matches!(open(directory.path(), "shop.test"), Err(CaError::Open(_))));
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("chmod");

        // Ended between the two renames: the certificate is found and put in place.
        std::fs::rename(&chain, directory.path().join("ca.pem.new")).expect("renamed");
        open(directory.path(), "shop.test").expect("finished");
        std::fs::remove_file(&chain).expect("removed");
        assert!(matches!(open(directory.path(), "shop.test"), Err(CaError::Half(path)) if path == chain));
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
