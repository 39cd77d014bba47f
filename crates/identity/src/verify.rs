//! Verification of a peer: from the certificates it showed to the SPIFFE id that it has proven, or the reason why not.
//!
//! Called by the verifiers in `handshake`, and again for live connections when bundles or policies change. The trust domain
//! that the leaf claims chooses the roots before a chain is built, so that a root never vouches for another domain. That
//! the peer holds the key of the leaf is proven by the handshake, not here.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::bundle::{Bundles, Root};
use crate::fingerprint::Fingerprint;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::svid::{self, Leaf, NotSvid};

/// What the peer is in the handshake, which decides what its certificate must be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The peer connected to us: clientAuth.
    Client,
    /// We connected to the peer: serverAuth.
    Server,
}

/// Which of the proven identities are the right ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accept {
    /// One of these: what a client knows about the service it calls. An empty set accepts nobody.
    AnyOf(BTreeSet<SpiffeId>),
    /// Anyone of this trust domain: what a server demands before policies decide.
    TrustDomain(TrustDomain),
    /// Anyone of these trust domains.
    TrustDomains(BTreeSet<TrustDomain>),
}

impl Accept {
    /// Exactly this identity.
    pub fn only(id: SpiffeId) -> Self {
        Self::AnyOf(BTreeSet::from([id]))
    }

    fn check(&self, id: &SpiffeId) -> Result<(), Refusal> {
        let wrong_domain = |expected: String| Refusal::WrongTrustDomain { id: id.clone(), expected };
        match self {
            Self::AnyOf(ids) if ids.contains(id) => Ok(()),
            Self::AnyOf(ids) => Err(Refusal::Unexpected { id: id.clone(), expected: list(ids) }),
            Self::TrustDomain(domain) if domain.as_str() == id.trust_domain_name() => Ok(()),
            Self::TrustDomain(domain) => Err(wrong_domain(format!("`{domain}`"))),
            Self::TrustDomains(domains) if domains.contains(id.trust_domain_name()) => Ok(()),
            Self::TrustDomains(domains) => Err(wrong_domain(list(domains))),
        }
    }
}

/// Up to three of them; a message is no place for a thousand.
fn list<T: fmt::Display>(items: &BTreeSet<T>) -> String {
    let mut text: Vec<String> = items.iter().take(3).map(|item| format!("`{item}`")).collect();
    match items.len() {
        0 => return "nobody".into(),
        1..=3 => {}
        more => text.push(format!("{} more", more - 3)),
    }
    text.join(", ")
}

/// Why a peer was not accepted. Displays as a sentence; nothing of it is sent to the peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// The leaf breaks a rule of X509-SVID.
    #[error(transparent)]
    NotSvid(#[from] NotSvid),
    /// There is no bundle for the trust domain of the leaf.
    #[error("the trust domain of `{id}` is not known here")]
    UnknownTrustDomain {
        /// What the leaf claims.
        id: SpiffeId,
    },
    /// The bundle of the trust domain is empty, or all its roots have expired.
    #[error(
        "there is no root for the trust domain of `{id}` that is valid by the clock of this machine; is that right?"
    )]
    NoRoots {
        /// What the leaf claims.
        id: SpiffeId,
    },
    /// A certificate of the chain has ended.
    #[error(
        "the certificate of `{id}`, or one that vouches for it, has expired: it ended {ago} s ago by the clock of this machine"
    )]
    Expired {
        /// What the leaf claims.
        id: SpiffeId,
        /// Seconds since the end.
        ago: u64,
    },
    /// A certificate of the chain is not valid yet: usually one of the clocks is wrong.
    #[error("the certificate of `{id}`, or one that vouches for it, is valid only in {ahead} s; is the clock right?")]
    NotYetValid {
        /// What the leaf claims.
        id: SpiffeId,
        /// Seconds until the beginning.
        ahead: u64,
    },
    /// No chain leads to a root of the leaf's trust domain: signed by someone else, or an intermediate is missing.
    #[error("no root of its trust domain vouches for `{id}`: it is foreign, or its chain is incomplete")]
    Untrusted {
        /// What the leaf claims.
        id: SpiffeId,
    },
    /// A chain leads to a root, but breaks a rule of RFC 5280.
    #[error("the chain of `{id}` is not valid: {why}")]
    BadChain {
        /// What the leaf claims.
        id: SpiffeId,
        /// What the library says.
        why: String,
    },
    /// Proven, but of another trust domain than is accepted here.
    #[error("`{id}` is not of the trust domain {expected}")]
    WrongTrustDomain {
        /// What the peer has proven to be.
        id: SpiffeId,
        /// What is accepted.
        expected: String,
    },
    /// Proven, but someone else than was expected.
    #[error("the peer is `{id}`; expected {expected}")]
    Unexpected {
        /// What the peer has proven to be.
        id: SpiffeId,
        /// Who is accepted.
        expected: String,
    },
}

impl Refusal {
    /// A stable short name for logs and metrics.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::NoCertificate => "identity.no_certificate",
            Self::NotSvid(rule) => rule.slug(),
            Self::UnknownTrustDomain { .. } => "identity.unknown_trust_domain",
            Self::NoRoots { .. } => "identity.no_roots",
            Self::Expired { .. } => "identity.expired",
            Self::NotYetValid { .. } => "identity.not_yet_valid",
            Self::Untrusted { .. } => "identity.untrusted",
            Self::BadChain { .. } => "identity.bad_chain",
            Self::WrongTrustDomain { .. } => "identity.wrong_trust_domain",
            Self::Unexpected { .. } => "identity.unexpected",
        }
    }

    /// The identity that was claimed, or proven and not accepted.
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::NoCertificate | Self::NotSvid(_) => None,
            Self::UnknownTrustDomain { id }
            | Self::NoRoots { id }
            | Self::Expired { id, .. }
            | Self::NotYetValid { id, .. }
            | Self::Untrusted { id }
            | Self::BadChain { id, .. }
            | Self::WrongTrustDomain { id, .. }
            | Self::Unexpected { id, .. } => Some(id),
        }
    }
}

/// A peer whose identity is proven and accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its leaf certificate.
    pub leaf: Arc<Leaf>,
}

impl Peer {
    /// Who it is.
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }
}

/// A leaf that a root of its own trust domain vouches for, and for how long that is known.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    pub(crate) leaf: Arc<Leaf>,
    /// When it was proven; an earlier moment is proven anew.
    pub(crate) from: UnixTime,
    /// The earliest end among all certificates involved.
    pub(crate) until: UnixTime,
}

/// Verifies the certificates of a peer (X509-SVID, section 5): leaf first, the rest in any order.
///
/// # Errors
/// The first reason to refuse it.
pub fn verify(
    chain: &[CertificateDer<'_>],
    bundles: &Bundles,
    purpose: Purpose,
    accept: &Accept,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
    now: UnixTime,
) -> Result<Peer, Refusal> {
    let (leaf, intermediates) = chain.split_first().ok_or(Refusal::NoCertificate)?;
    let proof = prove(leaf, intermediates, bundles, purpose, algorithms, now)?;
    admit(proof.leaf, accept)
}

/// Compares a proven identity with those that are accepted.
pub(crate) fn admit(leaf: Arc<Leaf>, accept: &Accept) -> Result<Peer, Refusal> {
    accept.check(&leaf.id)?;
    Ok(Peer { leaf })
}

/// Proves who the leaf names, whoever is accepted.
pub(crate) fn prove(
    der: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundles: &Bundles,
    purpose: Purpose,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
    now: UnixTime,
) -> Result<Proof, Refusal> {
    let leaf = Leaf::parse(der)?;
    let Some(bundle) = bundles.of(leaf.id.trust_domain_name()) else {
        return Err(Refusal::UnknownTrustDomain { id: leaf.id });
    };
    let anchors = bundle.anchors(now);
    if anchors.is_empty() {
        return Err(Refusal::NoRoots { id: leaf.id });
    }
    build_chain(der, intermediates, &anchors, purpose, algorithms, now)
        .map_err(|error| refuse_chain(&leaf.id, error))?;
    let ends = intermediates
        .iter()
        .filter_map(|der| svid::read_validity(&svid::read(der).ok()?).ok())
        .map(|(_, not_after)| not_after)
        .chain(bundle.roots().iter().filter(|root| root.is_valid(now)).map(|root| root.not_after))
        .map(|end| end.as_secs());
    let until = ends.fold(leaf.not_after.as_secs(), u64::min);
    Ok(Proof { leaf: Arc::new(leaf), from: now, until: svid::moment(until) })
}

/// The retiring root that vouched for these certificates at the moment `at`, if there is one at `now`. That is for connections that
/// are open: it proves nothing about somebody who comes.
pub(crate) fn find_retiring(
    der: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundles: &Bundles,
    purpose: Purpose,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
    (at, now): (UnixTime, UnixTime),
) -> Option<(Arc<Leaf>, Fingerprint)> {
    let leaf = Leaf::parse(der).ok()?;
    let domain = leaf.id.trust_domain_name();
    let vouches = |root: &Root| {
        root.is_valid(at) && build_chain(der, intermediates, &[root.anchor()], purpose, algorithms, at).is_ok()
    };
    let mut retiring = bundles.of(domain)?.retiring().iter().filter(|one| now.as_secs() <= one.until.as_secs());
    let found = retiring.find(|one| vouches(&one.root))?.root.fingerprint;
    Some((Arc::new(leaf), found))
}

/// Finds a path from a leaf to one of the anchors (RFC 5280, section 6.1).
fn build_chain(
    der: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    purpose: Purpose,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
    now: UnixTime,
) -> Result<(), webpki::Error> {
    let usage = match purpose {
        Purpose::Client => KeyUsage::client_auth(),
        Purpose::Server => KeyUsage::server_auth(),
    };
    let end = EndEntityCert::try_from(der)?;
    end.verify_for_usage(algorithms, anchors, intermediates, now, usage, None, None).map(drop)
}

fn refuse_chain(id: &SpiffeId, error: webpki::Error) -> Refusal {
    let id = id.clone();
    match error {
        webpki::Error::CertExpired { time, not_after } => {
            Refusal::Expired { id, ago: time.as_secs().saturating_sub(not_after.as_secs()) }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            Refusal::NotYetValid { id, ahead: not_before.as_secs().saturating_sub(time.as_secs()) }
        }
        // A root of the same name with another key is as foreign as one with another name.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => Refusal::Untrusted { id },
        other => Refusal::BadChain { id, why: other.to_string() },
    }
}

#[cfg(test)]
mod tests;
