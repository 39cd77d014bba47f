//! The content of signed requests: read whole, and held against the digest that was signed. For the schemes `signature` and `hmac`.

use std::any::Any;

use super::scheme::Proof;
use crate::callout::{Callout, CalloutResult};

/// Whether the digest of the content is among what was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coverage {
    Signed,
    Unsigned,
}

impl Coverage {
    /// Asks for the content, of which `most` bytes may be covered. Whether there is any is known for certain only when it is read.
    pub(super) fn ask(self, most: usize, between: Box<dyn Any + Send>) -> Proof {
        let most = if self == Coverage::Signed { most } else { 0 };
        Proof::Ask(Box::new(Callout::Body { most }), between)
    }

    /// Whether the request is good with the content that it has. `field` is the one that holds the digest.
    ///
    /// # Errors
    /// The proof that it is not.
    pub(super) fn judge(
        self,
        field: &str,
        result: &CalloutResult,
        is_digest_of: impl FnOnce(&[u8]) -> bool,
    ) -> Result<(), Proof> {
        match (result, self) {
            (CalloutResult::Assumed, _) => Ok(()),
            (CalloutResult::Body(content), Coverage::Unsigned) if content.is_empty() => Ok(()),
            (CalloutResult::Body(content), Coverage::Signed) if is_digest_of(content) => Ok(()),
            (CalloutResult::Body(_), Coverage::Signed) => {
                Err(Proof::invalid("the content is not the one whose digest was signed"))
            }
            (CalloutResult::Body(_) | CalloutResult::BodyTooLarge, Coverage::Unsigned) => {
                Err(Proof::invalid(format!("the signature does not cover {field}")))
            }
            (CalloutResult::BodyTooLarge, Coverage::Signed) => {
                Err(Proof::invalid("the content is longer than signatures may cover here"))
            }
            _ => Err(Proof::Unavailable("the content could not be read".into())),
        }
    }
}
