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
//! | `x-auth-claim-NAME` | a claim that the policy names: a text, number or truth value as it is, a list of them with `,` between |
//!
//! Bytes outside visible ASCII, `%`, and within lists their separators are written as `%XX`, so that no value can pretend to be two.

use serde_json::Value;
use smallvec::SmallVec;
use transept_model::schema::{Rule, SECTION_NAME, Text};
use transept_model::{choice, object};
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

object! {
    /// A claim that the backend is told.
    pub struct ClaimField {
        /// The claim; inside another it is written with a dot.
        claim: Text => Rule::Length(1, 256);
        /// The end of the field's name: `email` is told in `x-auth-claim-email`.
        name: Text => Rule::Is(&SECTION_NAME);
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
    claims: Vec<(Box<str>, FieldName)>,
}

impl Forward {
    pub(super) fn compile(fields: &[IdentityField], claims: &[ClaimField]) -> Forward {
        let name = |field: &IdentityField| {
            let name = FieldName::new(format!("x-auth-{}", field.as_str().to_ascii_lowercase()));
            // The words are tokens.
            name.ok().map(|name| (*field, name))
        };
        let claim = |one: &ClaimField| {
            let name = FieldName::new(format!("x-auth-claim-{}", &*one.name));
            name.ok().map(|name| ((&*one.claim).into(), name))
        };
        Forward { fields: fields.iter().filter_map(name).collect(), claims: claims.iter().filter_map(claim).collect() }
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
        for (path, name) in &self.claims {
            text.clear();
            match principal.claim(path) {
                Some(Value::Array(all)) => {
                    for (index, item) in all.iter().filter(|item| is_plain(item)).enumerate() {
                        if index > 0 {
                            text.push(b',');
                        }
                        write_plain(item, &mut text);
                    }
                }
                Some(one) => write_plain(one, &mut text),
                None => {}
            }
            if !text.is_empty() {
                let _ = request.fields.push(name, &text);
            }
        }
    }
}

fn is_plain(value: &Value) -> bool {
    !matches!(value, Value::Object(_) | Value::Array(_) | Value::Null)
}

/// Objects have no one spelling, and are not told.
fn write_plain(value: &Value, out: &mut SmallVec<[u8; 128]>) {
    match value {
        Value::String(text) => encode(text, b',', out),
        Value::Number(number) => encode(&number.to_string(), b',', out),
        Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        _ => {}
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
