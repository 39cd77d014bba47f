//! What the backend is told of who calls, in header fields that nobody else can fill in.
//!
//! | field | holds |
//! |---|---|
//! | `x-auth-kind` | `app`, `user`, `workload` or `anonymous` |
//! | `x-auth-id` | who: the namespace and name of a Consumer, the subject of a token |
//! | `x-auth-groups` | groups, with `,` between them |
//! | `x-auth-scopes` | scopes, with spaces between them |
//! | `x-auth-credential` | which credential: the name of an ApiKey, the id of a token |
//! | `x-auth-plan`, `x-auth-tenant` | those of the Consumer |
//!
//! Bytes outside visible ASCII, `%`, and within lists their separators are written as `%XX`, so that no value can pretend to be two.

use smallvec::SmallVec;
use transept_model::choice;
use transept_wire::head::{FieldName, Request};

use crate::principal::Principal;

choice! {
    /// What the backend is told of who calls.
    pub enum IdentityField {
        /// Of which kind it is, in `x-auth-kind`.
        Kind = "Kind",
        /// Who it is, in `x-auth-id`.
        Id = "Id",
        /// Its groups, in `x-auth-groups`.
        Groups = "Groups",
        /// What its credential is good for, in `x-auth-scopes`.
        Scopes = "Scopes",
        /// Which credential it was, in `x-auth-credential`.
        Credential = "Credential",
        /// Its plan, in `x-auth-plan`.
        Plan = "Plan",
        /// Its tenant, in `x-auth-tenant`.
        Tenant = "Tenant",
    }
}

/// What is told unless the policy says otherwise.
pub(super) fn usual() -> Vec<IdentityField> {
    vec![IdentityField::Kind, IdentityField::Id, IdentityField::Groups, IdentityField::Scopes]
}

/// The fields to write.
#[derive(Debug)]
pub(super) struct Forward {
    fields: Vec<(IdentityField, FieldName)>,
}

impl Forward {
    pub(super) fn compile(fields: &[IdentityField]) -> Forward {
        let name = |field: &IdentityField| {
            let name = FieldName::new(format!("x-auth-{}", field.as_str().to_ascii_lowercase()));
            // The words are tokens.
            name.ok().map(|name| (*field, name))
        };
        Forward { fields: fields.iter().filter_map(name).collect() }
    }

    /// Writes the fields. Those that a client has sent were removed before.
    pub(super) fn tell_backend(&self, principal: &Principal, request: &mut Request) {
        let mut text: SmallVec<[u8; 128]> = SmallVec::new();
        for (field, name) in &self.fields {
            text.clear();
            match field {
                IdentityField::Kind => text.extend_from_slice(principal.kind.as_str().as_bytes()),
                IdentityField::Id => encode(&principal.id, b' ', &mut text),
                IdentityField::Groups => list(&principal.groups, b',', &mut text),
                IdentityField::Scopes => list(&principal.scopes, b' ', &mut text),
                IdentityField::Credential => encode(principal.credential.as_deref().unwrap_or(""), b' ', &mut text),
                IdentityField::Plan => encode(principal.plan.as_deref().unwrap_or(""), b' ', &mut text),
                IdentityField::Tenant => encode(principal.tenant.as_deref().unwrap_or(""), b' ', &mut text),
            }
            if !text.is_empty() {
                // Only visible ASCII and spaces are left, so nothing is refused.
                let _ = request.fields.push(name, &text);
            }
        }
    }
}

fn list(items: &[Box<str>], between: u8, out: &mut SmallVec<[u8; 128]>) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(between);
        }
        encode(item, between, out);
    }
}

fn encode(text: &str, between: u8, out: &mut SmallVec<[u8; 128]>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' && byte != between {
            out.push(byte);
        } else {
            out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}
