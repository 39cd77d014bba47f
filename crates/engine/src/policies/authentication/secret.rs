//! An entry of a Secret, as schemes of `AuthenticationPolicy` name it.

use transept_model::object;
use transept_model::schema::{RESOURCE_NAME, Rule, Text};

use super::super::CompileCx;

object! {
    /// An entry of a Secret in the namespace of the policy. One line end behind its text is no part of it; bytes that are no text (UTF-8) are taken as
    /// they are, where a secret may be any bytes.
    pub struct SecretEntry {
        /// The name of the Secret.
        name: Text => Rule::Is(&RESOURCE_NAME);
        /// The entry.
        key: Text => Rule::Length(1, 253);
    }
}

/// What stands in `key` may be the secret itself.
const CALLED: &str = "that `key` names";

impl SecretEntry {
    /// What stands there. Without it the policy is refused.
    pub(super) fn read(&self, cx: &mut CompileCx<'_>) -> Option<Vec<u8>> {
        cx.secret_entry(self.at, &self.name, &self.key, CALLED)
    }

    /// What stands there, where only text can be used. Without it the policy is refused.
    pub(super) fn read_text(&self, cx: &mut CompileCx<'_>) -> Option<String> {
        cx.secret_text(self.at, &self.name, &self.key, CALLED)
    }
}
