//! `RequestHeaderModifier` and `ResponseHeaderModifier`: set, add, remove.
//!
//! Called by `Filters` and by `HeaderPolicy`. The fields that frame a message or belong to one connection cannot be changed here,
//! whatever the configuration says: `is_reserved` names them, and `compile` reports them. What is taken out of a request goes in each spelling that
//! programs read as the same name.

use transept_wire::head::{FieldId, FieldName, Fields, Request};

use crate::redact::is_alike;

/// Changes of header fields; applied in the order remove, set, add, so that `add` after `remove` starts afresh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Fields to remove.
    pub remove: Box<[FieldName]>,
    /// Fields that get exactly one line.
    pub set: Box<[(FieldName, Box<[u8]>)]>,
    /// Lines to add.
    pub add: Box<[(FieldName, Box<[u8]>)]>,
}

/// Whether a field belongs to the codec: message framing and the connection (RFC 9110 section 7.6.1, RFC 9112 section 6).
pub fn is_reserved(name: &FieldName) -> bool {
    matches!(
        name.id(),
        FieldId::CONTENT_LENGTH
            | FieldId::TRANSFER_ENCODING
            | FieldId::CONNECTION
            | FieldId::KEEP_ALIVE
            | FieldId::PROXY_CONNECTION
            | FieldId::TE
            | FieldId::TRAILER
            | FieldId::UPGRADE
            | FieldId::HTTP2_SETTINGS
    )
}

/// Removes what a backend that takes `_` for `-` would read as this field, and the field itself; of a name with `_` this one alone.
pub(crate) fn remove_alike(fields: &mut Fields, name: &FieldName) {
    if name.as_bytes().contains(&b'_') {
        fields.remove(name);
    } else if fields.iter().any(|(field, _)| is_alike(name.as_bytes(), field.bytes)) {
        fields.retain(|field, _| !is_alike(name.as_bytes(), field.bytes));
    }
}

impl HeaderChanges {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Changes the fields of a message.
    pub fn apply(&self, fields: &mut Fields) {
        for name in &self.remove {
            fields.remove(name);
        }
        // Values were checked when they were compiled, so a refusal cannot happen; were it to, leaving the line out is right.
        for (name, value) in &self.set {
            let _ = fields.set(name, value);
        }
        for (name, value) in &self.add {
            let _ = fields.push(name, value);
        }
    }

    /// Changes the fields of a request, in all their spellings where that means to take them away. `Host` is not a field but the authority.
    pub fn apply_to_request(&self, request: &mut Request) {
        let replaced = self.set.iter().map(|(name, _)| name);
        self.remove.iter().chain(replaced).for_each(|name| remove_alike(&mut request.fields, name));
        self.apply(&mut request.fields);
        for (name, value) in self.set.iter().chain(&self.add) {
            if name.id() == FieldId::HOST {
                request.fields.remove_id(FieldId::HOST);
                let _ = request.set_authority(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (FieldName, Box<[u8]>) {
        (FieldName::new(name).expect("a token"), value.as_bytes().into())
    }

    fn changes() -> HeaderChanges {
        HeaderChanges {
            remove: [FieldName::new("X-Gone").expect("a token")].into(),
            set: [pair("X-Set", "new")].into(),
            add: [pair("X-Add", "more")].into(),
        }
    }

    #[test]
    fn set_overwrites_add_appends_remove_removes() {
        let mut request = Request::build("GET", "http", "a.test", "/").expect("a request");
        for (name, value) in [("x-set", "old"), ("x-SET", "older"), ("x-add", "some"), ("x-gone", "1")] {
            request.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
        }
        changes().apply_to_request(&mut request);
        let all = |name: &str| {
            let name = FieldName::new(name).expect("a token");
            request.fields.all_named(&name).map(<[u8]>::to_vec).collect::<Vec<_>>()
        };
        assert_eq!(all("X-Set"), [b"new".to_vec()]);
        assert_eq!(all("X-Add"), [b"some".to_vec(), b"more".to_vec()]);
        assert!(all("X-Gone").is_empty());
    }

    #[test]
    fn host_is_the_authority() {
        let mut request = Request::build("GET", "http", "a.test", "/").expect("a request");
        HeaderChanges { set: [pair("Host", "b.test:81")].into(), ..HeaderChanges::default() }
            .apply_to_request(&mut request);
        assert_eq!(request.authority(), b"b.test:81");
        assert!(!request.fields.contains(FieldId::HOST));
    }

    #[test]
    fn framing_is_reserved() {
        assert!(is_reserved(&FieldName::new("transfer-Encoding").expect("a token")));
        assert!(!is_reserved(&FieldName::new("X-Anything").expect("a token")));
    }
}
