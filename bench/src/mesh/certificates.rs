//! An authority and two leaves with the identities of the mesh, for peers that bring no authority of their own.
//!
//! Called by `mesh` once; Envoy and nginx read the files. The same P-256 keys, identities and mutual verification as Transept's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256, SanType,
};

/// The name that callers verify where a name is verified.
pub(super) const NAME: &str = "cart";

/// One end of a connection between proxies.
#[derive(Debug, Clone)]
pub(super) struct End {
    /// Its SPIFFE id.
    pub(super) identity: String,
    pub(super) chain: PathBuf,
    pub(super) key: PathBuf,
}

/// The files of both ends.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    pub(super) root: PathBuf,
    pub(super) caller: End,
    pub(super) called: End,
}

impl Trust {
    /// # Errors
    /// When keys cannot be made or files not be written.
    pub(super) fn make(directory: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(directory)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut parameters = CertificateParams::default();
        // Of its own: OpenSSL takes a leaf that is named like its issuer for the issuer.
        parameters.distinguished_name.push(DnType::CommonName, "root");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(parameters, key)?;
        let root = directory.join("root.pem");
        fs::write(&root, authority.pem())?;
        let end = |service: &str| -> anyhow::Result<End> {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let identity = format!("spiffe://transept.local/ns/default/sa/{service}");
            let mut parameters = CertificateParams::new([NAME.to_owned()])?;
            parameters.subject_alt_names.push(SanType::URI(identity.as_str().try_into().context("an identity")?));
            parameters.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let signed = parameters.signed_by(&key, &authority)?;
            let end = End {
                identity,
                chain: directory.join(format!("{service}.pem")),
                key: directory.join(format!("{service}.key")),
            };
            fs::write(&end.chain, signed.pem())?;
            fs::write(&end.key, key.serialize_pem())?;
            Ok(end)
        };
        Ok(Self { root, caller: end("web")?, called: end("cart")? })
    }
}
