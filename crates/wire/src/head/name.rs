//! Field names that are known to be tokens, and the refusals of names and values that are not.
//!
//! Called by configuration code that names a field once and by `fields`, which looks it up per message.

use super::FieldId;
use crate::grammar;

/// A field name that has passed the grammar (RFC 9110 5.1: a token). Equality and hash ignore case.
#[derive(Clone)]
pub struct FieldName(Text);

#[derive(Clone)]
enum Text {
    Known(FieldId),
    Written { id: FieldId, bytes: Box<[u8]> },
}

/// The name is empty or holds a byte that is not a `tchar`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a field name is one or more letters, digits or any of !#$%&'*+-.^_`|~")]
pub struct BadName;

/// The value holds a control byte other than HTAB (RFC 9110 5.5), or is longer than a head can address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a field value cannot hold CR, LF, NUL or another control character")]
pub struct BadValue;

/// A field that cannot be part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadField {
    /// The name is not a token.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The value holds a control byte.
    #[error(transparent)]
    Value(#[from] BadValue),
}

impl FieldName {
    /// A name as written in a configuration file or a message.
    ///
    /// # Errors
    /// [`BadName`] when it is not a token.
    pub fn new(name: impl AsRef<[u8]>) -> Result<FieldName, BadName> {
        let name = name.as_ref();
        if !grammar::is_token(name) {
            return Err(BadName);
        }
        let id = FieldId::from_bytes(name);
        if !id.is_other() && id.as_str().as_bytes() == name {
            return Ok(FieldName(Text::Known(id)));
        }
        Ok(FieldName(Text::Written { id, bytes: name.into() }))
    }

    /// The name of a well-known field, for constants.
    ///
    /// # Panics
    /// For [`FieldId::OTHER`], which has no name; at compile time when used in a constant.
    pub const fn known(id: FieldId) -> FieldName {
        assert!(!id.is_other(), "FieldId::OTHER has no name");
        FieldName(Text::Known(id))
    }

    /// The id, or [`FieldId::OTHER`].
    #[inline]
    pub fn id(&self) -> FieldId {
        match &self.0 {
            Text::Known(id) | Text::Written { id, .. } => *id,
        }
    }

    /// The name as written.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Known(id) => id.as_str().as_bytes(),
            Text::Written { bytes, .. } => bytes,
        }
    }

    /// The name as written, as text (a token is ASCII).
    #[inline]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl From<FieldId> for FieldName {
    /// See [`FieldName::known`].
    fn from(id: FieldId) -> FieldName {
        FieldName::known(id)
    }
}

impl PartialEq for FieldName {
    fn eq(&self, other: &FieldName) -> bool {
        self.id() == other.id() && (!self.id().is_other() || self.as_bytes().eq_ignore_ascii_case(other.as_bytes()))
    }
}

impl Eq for FieldName {}

impl std::hash::Hash for FieldName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        for byte in self.as_bytes() {
            state.write_u8(byte.to_ascii_lowercase());
        }
        state.write_u8(0xff);
    }
}

impl std::fmt::Display for FieldName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Debug for FieldName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// The name of a field of a message.
#[derive(Clone, Copy)]
pub struct NameRef<'a> {
    /// The id, or [`FieldId::OTHER`].
    pub id: FieldId,
    /// The name as the sender wrote it.
    pub bytes: &'a [u8],
}

impl<'a> NameRef<'a> {
    /// Whether this is the given name, whatever the case.
    #[inline]
    pub fn is(&self, name: &FieldName) -> bool {
        self.id == name.id() && (!self.id.is_other() || self.bytes.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// The name as text (a token is ASCII).
    #[inline]
    pub fn as_str(&self) -> &'a str {
        std::str::from_utf8(self.bytes).unwrap_or_default()
    }
}

impl std::fmt::Debug for NameRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tokens() {
        for bad in ["", " ", "a b", "a:", "a\r\n", "é", "a\0", "(a)"] {
            assert_eq!(FieldName::new(bad), Err(BadName), "{bad:?}");
        }
        assert_eq!(FieldName::new("X-User").map(|name| name.to_string()).as_deref(), Ok("X-User"));
    }

    #[test]
    fn equality_and_hash_ignore_case() {
        let set: std::collections::HashSet<FieldName> =
            ["Host", "host", "HOST", "x-A", "X-a"].into_iter().filter_map(|name| FieldName::new(name).ok()).collect();
        assert_eq!(set.len(), 2);
        const HOST: FieldName = FieldName::known(FieldId::HOST);
        assert!(set.contains(&HOST));
    }
}
