//! The certificate of the API, from two files that are read again when they change.
//!
//! Used by `api` for every handshake. A pair that cannot be used does not take the place of one that works.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::ApiError;

/// The files of a certificate, in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The key of the leaf.
    pub key: PathBuf,
}

/// What tells a file from what was there before: the system's number of it, its length, and when it was written.
type Stamp = (u64, u64, i64, i64);

#[derive(Debug)]
pub(super) struct Certificate {
    files: TlsFiles,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    config: Arc<ServerConfig>,
    stamps: [Option<Stamp>; 2],
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// Which of them cannot be used, and why.
    pub(super) fn open(files: TlsFiles) -> Result<Self, ApiError> {
        let stamps = stamps(&files);
        let held = Mutex::new(Held { config: load(&files)?, stamps });
        Ok(Self { files, held })
    }

    /// What to serve now. Reads the files again when they have changed, so call it where the disk may be waited for.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        if stamps != held.stamps {
            held.stamps = stamps;
            match load(&self.files) {
                Ok(config) => {
                    held.config = config;
                    tracing::info!(file = %self.files.certificate.display(), "the certificate of the registration API was read again");
                }
                Err(error) => tracing::warn!(%error, "the certificate before stays in use"),
            }
        }
        held.config.clone()
    }
}

fn stamps(files: &TlsFiles) -> [Option<Stamp>; 2] {
    let stamp = |path: &Path| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
    };
    [stamp(&files.certificate), stamp(&files.key)]
}

fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, ApiError> {
    let of_chain = |why: String| ApiError::Certificate(files.certificate.clone(), why);
    let of_key = |why: String| ApiError::Certificate(files.key.clone(), why);
    let text = fs::read(&files.certificate).map_err(|error| of_chain(error.to_string()))?;
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| of_chain(error.to_string()))?;
    if chain.is_empty() {
        return Err(of_chain("there is no certificate in it (PEM)".into()));
    }
    let text = zeroize::Zeroizing::new(fs::read(&files.key).map_err(|error| of_key(error.to_string()))?);
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| of_key(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| of_chain(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| of_key(format!("it does not fit the certificate: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use transept_testkit::certificates::{Identity, KeyKind, Usage};

    use super::*;

    fn write(files: &TlsFiles, identity: &Identity) {
        fs::write(&files.certificate, &identity.certificate_pem).expect("written");
        fs::write(&files.key, &identity.key_pem).expect("written");
    }

    #[test]
    fn a_changed_pair_is_read_again_and_a_broken_one_is_not_used() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let files = TlsFiles { certificate: directory.path().join("a.pem"), key: directory.path().join("a.key") };
        let missing = Certificate::open(files.clone()).expect_err("there is none").to_string();
        assert!(missing.contains("a.pem"), "{missing}");

        let one = Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["a.test"]).expect("a certificate");
        let other = Identity::self_signed(KeyKind::Rsa, Usage::Server, &["b.test"]).expect("a certificate");
        write(&files, &one);
        let certificate = Certificate::open(files.clone()).expect("a pair");
        let first = certificate.current();
        assert!(Arc::ptr_eq(&first, &certificate.current()), "what has not changed is not read again");

        // The one of them without the other.
        fs::write(&files.certificate, &other.certificate_pem).expect("written");
        assert!(Arc::ptr_eq(&first, &certificate.current()));
        let refused = Certificate::open(files.clone()).expect_err("they do not fit").to_string();
        assert!(refused.contains("a.key"), "{refused}");
        write(&files, &other);
        assert!(!Arc::ptr_eq(&first, &certificate.current()));

        fs::write(&files.certificate, "nothing").expect("written");
        let refused = Certificate::open(files).expect_err("it is none").to_string();
        assert!(refused.contains("no certificate in it"), "{refused}");
    }
}
