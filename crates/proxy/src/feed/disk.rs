//! What a proxy keeps on the disk: its identity, whom it believes, and the last good configuration.
//!
//! Used by `member`, off the threads that wait for sockets, by one process at a time: two with one identity and one registration would
//! take both from each other. Every file is whole or is the one before: it is written beside, forced
//! to the disk and renamed into place. The configuration carries a checksum, so that a disk that lies is noticed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustls::crypto::CryptoProvider;
use serde_json::{Value, json};
use transept_identity::{Bundle, Fingerprint, Svid};

const IDENTITY: &str = "identity.pem";
const BUNDLE: &str = "bundle.json";
const NONCE: &str = "nonce";
const CONFIGURATION: &str = "configuration";
/// What control planes keep in a directory.
const OF_CONTROL_PLANES: [&str; 2] = ["ca.key", "state.redb"];
/// Locked by the process that uses the directory, whose number it holds.
const LOCK: &str = "lock";
/// Begins the file of the configuration; a checksum of the rest follows.
const MAGIC: &str = "transept configuration 1 ";

/// A directory that nobody else has while this is there. It ends with the process, however that ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// One resource as it is kept: type, name, version, contents.
pub(super) type Kept = (String, String, String, String);

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Disk(PathBuf);

impl Disk {
    /// Opens the directory, or makes it for its owner alone.
    ///
    /// # Errors
    /// It cannot be made, or is that of a control plane.
    pub(super) fn open(path: &Path) -> io::Result<Disk> {
        // Who tidied up there would take an authority for something of his own.
        if let Some(other) = OF_CONTROL_PLANES.iter().find(|other| path.join(other).exists()) {
            let why =
                format!("it holds the state of a control plane ({other}); give this member a directory of its own");
            return Err(io::Error::other(why));
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Disk(path.to_owned()))
    }

    /// Takes the directory for this process.
    ///
    /// # Errors
    /// Another process has it, or no file can be made in it.
    pub(super) fn lock(&self) -> Result<Lock, String> {
        let path = self.0.join(LOCK);
        let explained = |error: io::Error| explain(&path, &error);
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = opened.map_err(explained)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(self.is_taken(&path)),
            // Some file systems have no locks; they are no reason not to serve.
            Err(TryLockError::Error(error)) => {
                tracing::warn!(%error, path = %path.display(), "nothing prevents two processes from using this directory");
            }
        }
        let written = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
        written.map_err(explained)?;
        Ok(Lock { _file: file })
    }

    fn is_taken(&self, lock: &Path) -> String {
        let number = read(lock).ok().flatten().unwrap_or_default();
        let holder = match number.trim() {
            "" => "another process".to_owned(),
            number => format!("process {number}"),
        };
        format!(
            "{}: {holder} uses this directory, and two would take identity and registration from each other; stop it, or give this one a \
             directory of its own with --state (a sidecar also a name of its own with --name)",
            self.0.display()
        )
    }

    /// The identity with its bundle, if both are there.
    ///
    /// # Errors
    /// They are there and cannot be used.
    pub(super) fn read_identity(&self, provider: &CryptoProvider) -> Result<Option<(Svid, Bundle)>, String> {
        let path = self.0.join(IDENTITY);
        let Some(pem) = read(&path)? else { return Ok(None) };
        let mode = path.metadata().map_err(|error| explain(&path, &error))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(format!("{} can be read by others than its owner; `chmod 600` it", path.display()));
        }
        let pem = zeroize::Zeroizing::new(pem);
        let svid = Svid::from_pem(&pem, &pem, provider).map_err(|error| damaged(&path, &error))?;
        let path = self.0.join(BUNDLE);
        let Some(document) = read(&path)? else { return Ok(None) };
        let bundle = Bundle::from_jwks(svid.id().trust_domain(), &document).map_err(|error| damaged(&path, &error))?;
        Ok(Some((svid, bundle)))
    }

    /// Keeps an identity; key and chain are in one file, so that they always fit.
    pub(super) fn write_identity(&self, svid: &Svid) -> io::Result<()> {
        let text = zeroize::Zeroizing::new(format!("{}{}", *svid.key().to_pem(), svid.chain_pem()));
        self.replace(IDENTITY, text.as_bytes())
    }

    /// Keeps a bundle.
    pub(super) fn write_bundle(&self, bundle: &Bundle) -> io::Result<()> {
        self.replace(BUNDLE, bundle.to_jwks().as_bytes())
    }

    /// What tells this instance from others: kept before it is used for the first time, so that a lost answer can be asked for
    /// again.
    pub(super) fn nonce(&self, fresh: [u8; 16]) -> Result<Vec<u8>, String> {
        let path = self.0.join(NONCE);
        if let Some(nonce) = read(&path)?.filter(|nonce| !nonce.is_empty() && nonce.len() <= 128) {
            return Ok(nonce.into_bytes());
        }
        let nonce: String = fresh.iter().map(|byte| format!("{byte:02x}")).collect();
        self.replace(NONCE, nonce.as_bytes()).map_err(|error| explain(&path, &error))?;
        Ok(nonce.into_bytes())
    }

    /// The last configuration, if one was kept. What is damaged counts as none, and is told.
    pub(super) fn read_configuration(&self) -> Option<Vec<Kept>> {
        let path = self.0.join(CONFIGURATION);
        let text = match read(&path) {
            Ok(text) => text?,
            Err(why) => {
                tracing::warn!(%why, "the configuration that was kept cannot be read");
                return None;
            }
        };
        let whole = text.strip_prefix(MAGIC).and_then(|rest| rest.split_once('\n'));
        let sound = whole.filter(|(sum, body)| Fingerprint::of(body.as_bytes()).to_string() == *sum);
        let items = sound.and_then(|(_, body)| serde_json::from_str::<Vec<[String; 4]>>(body).ok());
        let Some(items) = items else {
            tracing::warn!(file = %path.display(), "the configuration that was kept is damaged and counts as none");
            return None;
        };
        let kept = items.into_iter().map(|[type_url, name, version, contents]| (type_url, name, version, contents));
        Some(kept.collect())
    }

    /// Keeps a configuration.
    pub(super) fn write_configuration(&self, items: &[Kept]) -> io::Result<()> {
        let items: Vec<Value> = items.iter().map(|(a, b, c, d)| json!([a, b, c, d])).collect();
        let body = Value::Array(items).to_string();
        let text = format!("{MAGIC}{}\n{body}", Fingerprint::of(body.as_bytes()));
        self.replace(CONFIGURATION, text.as_bytes())
    }

    /// Puts a file in the place of the one before, readable by its owner alone.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let beside = self.0.join(format!("{name}.new"));
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, self.0.join(name))?;
        File::open(&self.0)?.sync_all()
    }
}

/// The text of a file; `None` when it is not there.
fn read(path: &Path) -> Result<Option<String>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(explain(path, &error)),
    }
}

/// A file of ours that nobody but us writes is not what we wrote.
fn damaged(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!(
        "{}: {error}; the file is damaged: put it back from a copy, or remove it and join again with a new token (`transept token create`)",
        path.display()
    )
}

fn explain(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Vec<Kept> {
        vec![("core/v1/Service".into(), "default/cart".into(), "1".into(), "{\"a\":\"é\\n\"}".into())]
    }

    #[test]
    fn a_configuration_is_read_back_or_counts_as_none() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let disk = Disk::open(&directory.path().join("proxy")).expect("made");
        assert_eq!(disk.read_configuration(), None);
        disk.write_configuration(&kept()).expect("written");
        assert_eq!(disk.read_configuration(), Some(kept()));

        let path = directory.path().join("proxy").join(CONFIGURATION);
        assert_eq!(path.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).expect("read");
        std::fs::write(&path, text.replace("cart", "bank")).expect("written");
        assert_eq!(disk.read_configuration(), None);
        std::fs::write(&path, &text[..text.len() / 2]).expect("written");
        assert_eq!(disk.read_configuration(), None);
        disk.write_configuration(&[]).expect("written over what was damaged");
        assert_eq!(disk.read_configuration(), Some(Vec::new()), "nothing was said");
        disk.write_configuration(&kept()).expect("written over nothing");
        assert_eq!(disk.read_configuration(), Some(kept()));
    }

    #[test]
    fn the_state_of_a_control_plane_is_left_alone() {
        for file in OF_CONTROL_PLANES {
            let directory = tempfile::tempdir().expect("temporary directory");
            std::fs::write(directory.path().join(file), "").expect("written");
            let why = Disk::open(directory.path()).expect_err("it is somebody else's").to_string();
            assert!(why.contains("holds the state of a control plane") && why.contains(file), "{why}");
            assert_eq!(std::fs::read_dir(directory.path()).expect("read").count(), 1);
        }
    }

    #[test]
    fn one_process_at_a_time_has_the_directory() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let disk = Disk::open(directory.path()).expect("opened");
        let lock = disk.lock().expect("it is free");
        let why = disk.lock().expect_err("it is in use");
        assert!(why.contains(&format!("process {}", std::process::id())) && why.contains("--state"), "{why}");
        drop(lock);
        disk.lock().expect("it is free again");
    }

    #[test]
    fn the_nonce_stays_the_same() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let disk = Disk::open(directory.path()).expect("opened");
        let first = disk.nonce([7; 16]).expect("made");
        assert_eq!(disk.nonce([8; 16]).expect("read"), first);
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        assert!(disk.read_identity(&provider).expect("none yet").is_none());
        let path = directory.path().join(IDENTITY);
        std::fs::write(&path, "junk").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
        let why = disk.read_identity(&provider).expect_err("it is damaged");
        assert!(why.contains(IDENTITY) && why.contains("transept token create"), "{why}");
    }
}
