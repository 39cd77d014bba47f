//! Fields that end at this hop (RFC 9110 7.6.1).
//!
//! Called by the proxy between reading a head and deciding on it, whatever codec the head came from: first what
//! `Connection` names goes, then our own fields are added, so that a client cannot have them removed.

use super::framing;
use crate::grammar;
use crate::head::{FieldId, Fields, SmallText};

/// What the removed fields said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stripped {
    /// The protocol the message wants to switch to, when it named one in `Upgrade` and `Connection: upgrade`.
    pub upgrade: Option<Protocol>,
    /// The sender reads trailers (`TE: trailers`). The line is kept, in just this form.
    pub te_trailers: bool,
    /// The sender closes the connection.
    pub close: bool,
}

/// The name of a protocol in an `Upgrade` field, such as `websocket`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Protocol(SmallText);

impl Protocol {
    /// `name` or `name/version`, of at most [`SmallText::CAPACITY`] bytes. HTTP/2 over clear text is no such protocol:
    /// that upgrade is obsolete (RFC 9113 3.1) and never passed on.
    pub fn new(name: &[u8]) -> Option<Protocol> {
        let mut parts = name.splitn(2, |&byte| byte == b'/');
        let valid = parts.all(grammar::is_token) && !name.eq_ignore_ascii_case(b"h2c");
        if valid { SmallText::new(name).map(Protocol) } else { None }
    }

    /// The name as written.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Whether the two names mean the same protocol.
    pub fn matches(&self, other: &Protocol) -> bool {
        self.as_bytes().eq_ignore_ascii_case(other.as_bytes())
    }

    /// The first protocol in `Upgrade` that is one.
    pub(super) fn wanted(fields: &Fields) -> Option<Protocol> {
        fields.all(FieldId::UPGRADE).flat_map(grammar::members).find_map(Protocol::new)
    }
}

/// Fields that mean this connection, and are never passed on. `TE` is passed on in one form only.
const HOP_BY_HOP: u128 = FieldId::CONNECTION.bit()
    | FieldId::KEEP_ALIVE.bit()
    | FieldId::PROXY_CONNECTION.bit()
    | FieldId::TRANSFER_ENCODING.bit()
    | FieldId::UPGRADE.bit()
    | FieldId::HTTP2_SETTINGS.bit()
    | FieldId::PROXY_AUTHENTICATE.bit()
    | FieldId::PROXY_AUTHORIZATION.bit();

/// Removes the fields that end at this hop, and those that `Connection` names.
///
/// `Connection` can name only fields that we have no name for. Every field of [`FieldId`]'s table is protected, so that
/// no client can take framing, `Host`, `Forwarded`, `Authorization`, a request id or a trace from the next hop.
pub fn strip_hop_by_hop(fields: &mut Fields) -> Stripped {
    if !fields.may_contain(HOP_BY_HOP | FieldId::TE.bit()) {
        return Stripped::default();
    }
    // A head that did not come from `h1` may name more than its limit: that is no reason to keep the fields.
    let options = framing::options(fields).unwrap_or_default();
    let te_trailers = fields.all(FieldId::TE).flat_map(grammar::members).any(|m| m.eq_ignore_ascii_case(b"trailers"));
    let upgrade = if options.upgrade { Protocol::wanted(fields) } else { None };
    if fields.contains(FieldId::CONNECTION) {
        fields.remove_listed(FieldId::CONNECTION);
    }
    fields.remove_ids(HOP_BY_HOP);
    if te_trailers {
        fields.keep_only(FieldId::TE, b"trailers");
    } else {
        fields.remove_id(FieldId::TE);
    }
    Stripped { upgrade, te_trailers, close: options.close }
}
