//! Private keys: made, read, and kept out of logs.
//!
//! Used for the keys of workloads and of the authority. Where a key is stored, and with which rights, is left to the
//! shells.

use std::fmt;

use rcgen::{PKCS_ECDSA_P256_SHA256, SignatureAlgorithm};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{Error as PemError, PemObject as _};
use zeroize::{Zeroize as _, Zeroizing};

use crate::pem;

/// A private key. `Debug` shows only that there is one; the bytes are wiped when it is dropped.
pub struct PrivateKey(PrivateKeyDer<'static>);

/// Why a private key cannot be used. Displays as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// The text holds no private key in a form that is known.
    #[error("there is no private key in the PEM text")]
    Missing,
    /// The PEM block is damaged.
    #[error("the PEM text of the private key is damaged: {0}")]
    Pem(String),
    /// The key is of no known kind, too small, or damaged.
    #[error("the private key cannot be used: {0}; use ECDSA P-256 or P-384, Ed25519, or RSA of at least 2048 bits")]
    Unusable(String),
    /// The crypto library could not make a key.
    #[error("no private key could be made: {0}")]
    NotMade(String),
}

impl PrivateKey {
    /// Makes an ECDSA P-256 key, the kind that leaves and roots of the mesh have.
    ///
    /// # Errors
    /// When the crypto library has no randomness.
    pub fn generate() -> Result<Self, BadKey> {
        Self::generate_for(&PKCS_ECDSA_P256_SHA256)
    }

    pub(crate) fn generate_for(algorithm: &'static SignatureAlgorithm) -> Result<Self, BadKey> {
        let pair = rcgen::KeyPair::generate_for(algorithm).map_err(|error| BadKey::NotMade(error.to_string()))?;
        Ok(Self(PrivateKeyDer::from(pair)))
    }

    /// Reads the first private key of the text: PKCS#8, PKCS#1 or SEC 1, not encrypted.
    ///
    /// # Errors
    /// When there is none, or it is damaged. Whether it can sign shows when it is used.
    pub fn from_pem(text: &str) -> Result<Self, BadKey> {
        match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
            Ok(key) => Ok(Self(key)),
            Err(PemError::NoItemsFound) => Err(BadKey::Missing),
            Err(error) => Err(BadKey::Pem(pem::explain(&error))),
        }
    }

    /// The key as PEM, for a file that only its owner reads. The text is wiped when it is dropped.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let label = match &self.0 {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        Zeroizing::new(pem::write(label, self.0.secret_der()))
    }

    /// The key as the TLS library takes it.
    pub fn der(&self) -> &PrivateKeyDer<'static> {
        &self.0
    }

    /// The key in the form that signs certificates and requests.
    pub(crate) fn signer(&self) -> Result<rcgen::KeyPair, BadKey> {
        rcgen::KeyPair::try_from(&self.0).map_err(|error| BadKey::Unusable(error.to_string()))
    }
}

impl From<PrivateKeyDer<'static>> for PrivateKey {
    fn from(key: PrivateKeyDer<'static>) -> Self {
        Self(key)
    }
}

impl Clone for PrivateKey {
    fn clone(&self) -> Self {
        Self(self.0.clone_key())
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_and_never_shown() {
        let key = PrivateKey::generate().unwrap();
        let text = key.to_pem();
        let again = PrivateKey::from_pem(&text).unwrap();
        assert_eq!(again.der(), key.der());
        assert!(again.signer().is_ok());
        assert_eq!(format!("{key:?}"), "PrivateKey(..)");
        assert_ne!(PrivateKey::generate().unwrap().der(), key.der());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(PrivateKey::from_pem("").unwrap_err(), BadKey::Missing);
        let junk = "-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n";
        assert!(matches!(PrivateKey::from_pem(junk), Err(BadKey::Pem(_))));
        let empty = PrivateKey::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        assert!(matches!(empty.signer(), Err(BadKey::Unusable(_))));
    }
}
