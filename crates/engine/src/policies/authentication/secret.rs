//! An entry of a Secret, as schemes of `AuthenticationPolicy` name it.

use transept_model::object;
use transept_model::schema::{RESOURCE_NAME, Rule, Text};

use super::super::CompileCx;

object! {
    /// An entry of a Secret in the namespace of the policy.
    pub struct SecretEntry {
        /// The name of the Secret.
        name: Text => Rule::Is(&RESOURCE_NAME);
        /// The entry.
        key: Text => Rule::Length(1, 253);
    }
}

impl SecretEntry {
    /// What stands there. Without it the policy is refused.
    pub(super) fn read(&self, cx: &mut CompileCx<'_>) -> Option<String> {
        cx.secret_entry(self.at, &self.name, &self.key)
    }
}
