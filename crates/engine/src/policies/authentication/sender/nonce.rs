//! Nonces for proofs (RFC 9449 section 9): what a client can only know from us, so that nobody has made its proofs ahead for later.
//!
//! Made of the time and a secret, and remembered nowhere: every gateway with the same secret knows those of the others, and a restart forgets none. One is
//! good for some minutes. That a proof is good once is seen to elsewhere.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use data_encoding::BASE64URL_NOPAD;
use transept_wire::head::{FieldId, FieldName};

use super::super::super::CompileCx;
use super::super::scheme::Proof;
use super::super::secret::SecretEntry;
use crate::reason::Reason;
use crate::verdict::Reply;

/// How long the same nonce is given out, in seconds. It is known for as long again, and to a clock that is behind.
const TURN: u64 = 150;
/// The fewest bytes of a secret.
const LEAST: usize = 32;
/// The bytes of a nonce.
const LENGTH: usize = 16;

/// Makes nonces and knows them again.
pub(super) struct ProofNonces {
    key: Box<hmac::Key>,
    field: FieldName,
}

impl ProofNonces {
    /// By this entry of a Secret.
    pub(super) fn compile(entry: &SecretEntry, cx: &mut CompileCx<'_>) -> Option<ProofNonces> {
        let secret = entry.read(cx)?;
        if secret.len() < LEAST {
            cx.refuse(entry.at, "the secret has fewer than 32 bytes, and could be guessed")
                .remedy("make one with `openssl rand -hex 32`");
            return None;
        }
        let key = Box::new(hmac::Key::new(hmac::HMAC_SHA256, &secret));
        Some(ProofNonces { key, field: FieldName::new("dpop-nonce").ok()? })
    }

    fn of(&self, turn: u64) -> String {
        let mut made = hmac::Context::with_key(&self.key);
        made.update(b"nonce for proofs");
        made.update(&turn.to_be_bytes());
        BASE64URL_NOPAD.encode(made.sign().as_ref().get(..LENGTH).unwrap_or_default())
    }

    /// Whether it is one of ours, and of this time.
    pub(super) fn know(&self, nonce: &str, unix: Duration) -> bool {
        let turn = unix.as_secs() / TURN;
        let is = |turn: u64| constant_time::verify_slices_are_equal(self.of(turn).as_bytes(), nonce.as_bytes()).is_ok();
        is(turn) || is(turn.saturating_sub(1)) || is(turn + 1)
    }

    /// The client is told to try again with this one (section 9). That is no failure: it could not know.
    pub(super) fn ask(&self, unix: Duration) -> Proof {
        let challenge =
            "DPoP error=\"use_dpop_nonce\", error_description=\"The proof must hold the nonce in DPoP-Nonce\"";
        let reply = Reply::new(Reason::CredentialsInvalid)
            .because("the proof holds no nonce that was given out lately")
            .with_detail("Prove the key again, with the nonce that comes with this answer.")
            .with_field(FieldName::known(FieldId::WWW_AUTHENTICATE), challenge)
            .with_field(self.field.clone(), self.of(unix.as_secs() / TURN));
        Proof::Answer(Box::new(reply))
    }
}

impl fmt::Debug for ProofNonces {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ProofNonces").finish_non_exhaustive()
    }
}
