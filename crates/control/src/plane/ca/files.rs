//! The files of authorities: how they are made and deleted, so that a process may end between any two steps.
//!
//! Called by `ca` alone. What is being made stands beside its place and counts as soon as the state says so; what the state says is gone
//! counts no more, whatever is left of it. Which of them signs is no matter of files.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use transept_identity::authority::BadAuthority;
use transept_identity::{Authority, Fingerprint, Rotation, TrustDomain};

use super::{CaError, FIRST};

/// What is being written has this behind its name.
const UNFINISHED: &str = "new";

/// The names of the authorities that count, by what stands before `.key` and `.pem`. What was cut short is finished on the way, as far as the
/// state, when there is one, says that it counts, and what is left of a root that is gone is deleted.
pub(super) fn counting(directory: &Path, said: Option<&Rotation>) -> Result<BTreeSet<String>, CaError> {
    let failed = |error: io::Error| CaError::Io(directory.to_owned(), error.to_string());
    let mut counting = BTreeSet::new();
    for name in names(directory)? {
        let (key, chain) = paths(directory, &name);
        let root = root_in(&chain).or_else(|| root_in(&beside(&chain)));
        if let Some(root) = root.filter(|root| said.is_some_and(|said| said.is_gone(root))) {
            tracing::warn!(%root, name, "an authority whose root is retired or distrusted was still there: its files are deleted");
            delete(directory, &name);
            continue;
        }
        match (key.exists(), chain.exists()) {
            (false, false) if root.is_some_and(|root| said.is_some_and(|said| said.trusted().contains(&root))) => {
                put_in_place(directory, &name)?;
            }
            (false, false) => {
                if said.is_some() {
                    // It never counted. Before there is a state, it is made anew.
                    delete(directory, &name);
                }
                continue;
            }
            // The key was in place before the process ended; its certificate was whole already.
            (true, false) if beside(&chain).exists() => std::fs::rename(beside(&chain), &chain).map_err(failed)?,
            _ => {}
        }
        counting.insert(name);
    }
    Ok(counting)
}

/// Whether there is an authority in a directory, or a part of one that may count.
pub(super) fn any(directory: &Path) -> bool {
    let is_there = |name: &String| {
        let (key, chain) = paths(directory, name);
        key.exists() || chain.exists()
    };
    names(directory).is_ok_and(|names| names.iter().any(is_there))
}

/// Every name that a file of an authority has, finished or not.
fn names(directory: &Path) -> Result<BTreeSet<String>, CaError> {
    let failed = |error: io::Error| CaError::Io(directory.to_owned(), error.to_string());
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let mut path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == UNFINISHED) {
            path.set_extension("");
        }
        let kind = path.extension().and_then(|extension| extension.to_str());
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if matches!(kind, Some("key" | "pem")) && (name == FIRST || name.starts_with("ca-")) {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

/// The key and the chain of an authority.
pub(super) fn paths(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
    (directory.join(format!("{name}.key")), directory.join(format!("{name}.pem")))
}

fn beside(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.{UNFINISHED}", path.display()))
}

/// The fingerprint of what stands last in a chain.
fn root_in(chain: &Path) -> Option<Fingerprint> {
    let text = std::fs::read(chain).ok()?;
    let last = CertificateDer::pem_slice_iter(&text).last()?.ok()?;
    Some(Fingerprint::of(&last))
}

/// Reads an authority.
pub(super) fn read(trust_domain: &TrustDomain, key: &Path, chain: &Path) -> Result<Authority, CaError> {
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

/// Writes an authority beside its place, whole and on the disk, with the sign that another one has left for it. It does not count yet.
pub(super) fn prepare(directory: &Path, name: &str, authority: &Authority, voucher: &str) -> Result<(), CaError> {
    let (key, chain) = paths(directory, name);
    for (path, text) in [(&key, authority.key_pem()), (&chain, (authority.chain_pem() + voucher).into())] {
        let path = beside(path);
        write_new(&path, text.as_bytes()).map_err(|error| CaError::Io(path, error.to_string()))?;
    }
    sync(directory)
}

/// Puts what was prepared in its place; the key counts first.
pub(super) fn put_in_place(directory: &Path, name: &str) -> Result<(), CaError> {
    let (key, chain) = paths(directory, name);
    for path in [key, chain] {
        std::fs::rename(beside(&path), &path).map_err(|error| CaError::Io(path, error.to_string()))?;
    }
    sync(directory)
}

/// Deletes all of an authority. Its chain goes last: it says whose key it was, should the process end before.
pub(super) fn delete(directory: &Path, name: &str) {
    let (key, chain) = paths(directory, name);
    for path in [beside(&key), key, beside(&chain), chain] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(path = %path.display(), %error, "an authority that does not count any more cannot be deleted");
                return;
            }
            _ => {}
        }
    }
}

fn sync(directory: &Path) -> Result<(), CaError> {
    let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| CaError::Io(directory.to_owned(), error.to_string()))
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
