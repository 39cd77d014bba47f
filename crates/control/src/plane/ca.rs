//! The certificate authority of the control plane: its key in a file of its own, and what it signs.
//!
//! Used by `plane`. It signs for an identity that was proven elsewhere, by a token or by a certificate. The key never leaves
//! its file (`ca.key`, readable by its owner alone) but for this process; the certificate is beside it (`ca.pem`). While roots change
//! there is a second pair; which of them signs, and which count at all, is said by the state of the rotation.

mod files;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, UnixTime};
use transept_identity::authority::{Issued, NotIssued};
use transept_identity::request::BadRequest;
use transept_identity::{Authority, Bundle, Fingerprint, PrivateKey, Request, Rotation, SpiffeId, Svid, TrustDomain};
use transept_xds::mesh::CONTROL_PATH;

/// What members of meshes keep in a directory.
const OF_MEMBERS: &str = "identity.pem";
/// The name of the first authority's files; those of later ones begin with it.
const FIRST: &str = "ca";
const NO_RANDOMNESS: &str = "the crypto library has no randomness";

/// Why there is no authority. Displays as a sentence that names the file.
#[derive(Debug)]
pub enum CaError {
    /// A file cannot be read or written.
    Io(PathBuf, String),
    /// Others than its owner may read the key.
    Open(PathBuf),
    /// One of the two files is missing; the other one is there.
    Half(PathBuf, PathBuf),
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
            Self::Half(path, other) => write!(
                f,
                "{} is missing, though its counterpart is there; put it back from a backup: a new authority would cut off \
                 every workload. If its root was retired or distrusted, delete {} too",
                path.display(),
                other.display()
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
            Self::Random => f.write_str(NO_RANDOMNESS),
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

/// A root that is younger than the one that signs, and that the state does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Younger {
    /// Its fingerprint.
    pub root: Fingerprint,
    /// What the names of its files begin with.
    pub name: String,
    /// Whether it was made to come after the one that signs, and is not somebody else's.
    pub of_mesh: bool,
}

/// A root that was made and is not trusted yet.
#[derive(Debug)]
pub struct NewRoot {
    root: Fingerprint,
    name: String,
    authority: Authority,
}

impl NewRoot {
    /// Its fingerprint.
    pub fn root(&self) -> Fingerprint {
        self.root
    }
}

#[derive(Debug)]
struct Roots {
    /// By root, with the beginning of the names of their files.
    known: BTreeMap<Fingerprint, (String, Arc<Authority>)>,
    signer: Fingerprint,
}

impl Ca {
    /// Reads the authorities from their files in `directory`, or makes a new root when there is none. The latest one signs until
    /// [`Ca::settle`] says another. `leaf_life` is how long what it signs lives; `said` is what the state says of the roots, when there is one.
    ///
    /// # Errors
    /// The files do not fit, are open to others, or cannot be read or written.
    pub fn open(
        directory: &Path,
        trust_domain: &TrustDomain,
        leaf_life: Duration,
        provider: Arc<CryptoProvider>,
        said: Option<&Rotation>,
        now: UnixTime,
    ) -> Result<Self, CaError> {
        let mut known = BTreeMap::new();
        for name in files::counting(directory, said)? {
            let (key, chain) = files::paths(directory, &name);
            let authority = match (key.exists(), chain.exists()) {
                (true, true) => files::read(trust_domain, &key, &chain)?,
                (true, false) => return Err(CaError::Half(chain, key)),
                (false, _) => return Err(CaError::Half(key, chain)),
            };
            let root = root_of(&authority).ok_or_else(|| no_root(&chain))?;
            known.insert(root, (name, Arc::new(authority)));
        }
        if known.is_empty() {
            if let Some(said) = said {
                return Err(missing(directory, &said.signer()));
            }
            let authority =
                make(trust_domain, &provider, now).map_err(|why| CaError::Bad(directory.to_owned(), why))?;
            files::prepare(directory, FIRST, &authority, "")?;
            files::put_in_place(directory, FIRST)?;
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
        files::any(directory)
    }

    /// The roots that were made after that of `signer`, or in the same second, and are not among these.
    pub fn made_after(&self, signer: Fingerprint, known: &[Fingerprint]) -> Vec<Younger> {
        let roots = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        let Some((_, before)) = roots.known.get(&signer) else { return Vec::new() };
        let younger = |(root, (name, authority)): (&Fingerprint, &(String, Arc<Authority>))| {
            if known.contains(root) || authority.not_before() < before.not_before() {
                return None;
            }
            let text = std::fs::read_to_string(files::paths(&self.directory, name).1).unwrap_or_default();
            Some(Younger { root: *root, name: name.clone(), of_mesh: before.has_vouched_for(authority, &text) })
        };
        roots.known.iter().filter_map(younger).collect()
    }

    /// Lets what a rotation says count: its signer signs, other authorities than those that it trusts are forgotten, and what is gone is deleted.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn settle(&self, said: &Rotation) -> Result<(), CaError> {
        let mut roots = self.roots.write().unwrap_or_else(PoisonError::into_inner);
        let (signer, trusted) = (said.signer(), said.trusted());
        if let Some(absent) = trusted.iter().find(|root| !roots.known.contains_key(root)) {
            return Err(missing(&self.directory, absent));
        }
        roots.signer = signer;
        roots.known.retain(|root, (name, _)| {
            let stays = trusted.contains(root);
            if said.is_gone(root) {
                files::delete(&self.directory, name);
            } else if !stays {
                tracing::warn!(
                    %root,
                    name,
                    "an authority beside that of this mesh is none of it, as far as the state says: it is left alone, and nobody believes it"
                );
            }
            stays
        });
        Ok(())
    }

    /// Makes another root. It is on the disk, and counts for nothing: at the next start as soon as the state trusts it, and here once it is
    /// [added](Ca::add_root).
    ///
    /// # Errors
    /// It cannot be made or stored.
    pub fn prepare_root(&self, now: UnixTime) -> Result<NewRoot, CaError> {
        let bad = |why: String| CaError::Bad(self.directory.clone(), why);
        let mark: [u8; 4] = random(&self.provider).ok_or_else(|| bad(NO_RANDOMNESS.to_owned()))?;
        let name = format!("{FIRST}-{}", data_encoding::HEXLOWER.encode(&mark));
        let authority = make(&self.trust_domain, &self.provider, now).map_err(bad)?;
        let root = root_of(&authority).ok_or_else(|| no_root(&self.directory))?;
        let serial = random(&self.provider).ok_or_else(|| bad(NO_RANDOMNESS.to_owned()))?;
        let voucher = self.authority().vouch_for(&authority, now, serial).map_err(|error| bad(error.to_string()))?;
        files::prepare(&self.directory, &name, &authority, &voucher)?;
        Ok(NewRoot { root, name, authority })
    }

    /// Lets a root be known that the state trusts. It signs nothing yet.
    pub fn add_root(&self, new: NewRoot) {
        if let Err(error) = files::put_in_place(&self.directory, &new.name) {
            tracing::error!(%error, "the files of a new root are not in their place yet; the next start puts them there");
        }
        let mut roots = self.roots.write().unwrap_or_else(PoisonError::into_inner);
        roots.known.insert(new.root, (new.name, Arc::new(new.authority)));
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
    if !Ca::is_in(path) && path.join(OF_MEMBERS).exists() {
        let why = "it holds the identity of a member of a mesh; give the control plane a directory of its own";
        return Err(io::Error::other(format!("{why} ({OF_MEMBERS})")));
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn root_of(authority: &Authority) -> Option<Fingerprint> {
    authority.root().map(|root| Fingerprint::of(root))
}

fn no_root(path: &Path) -> CaError {
    CaError::Bad(path.to_owned(), "there is no root at the end of the chain".to_owned())
}

fn missing(directory: &Path, root: &Fingerprint) -> CaError {
    let why = format!(
        "the authority with the root {root} is missing; put its files back from a backup. If it was replaced after this state.redb was stored, \
         put the newest state.redb back, or, when that is lost, move this one away: tokens and registrations are lost then, and members stay"
    );
    CaError::Bad(directory.to_owned(), why)
}

fn make(trust_domain: &TrustDomain, provider: &CryptoProvider, now: UnixTime) -> Result<Authority, String> {
    let serial = random(provider).ok_or(NO_RANDOMNESS)?;
    Authority::create_root(trust_domain, now, serial).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
