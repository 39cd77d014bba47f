//! What a field line of HTTP/2 is by itself: which name it has and what is wrong with it (RFC 9113 sections 8.2 and 8.3).
//!
//! Called by the tables, once for each line that they keep, and by the decoder for lines that are not kept. Which lines may
//! stand together, and in which message, is the business of [`crate::h2::head`].

use crate::grammar::{self, TARGET, UNDERSCORE};
use crate::h2::head::Malformed;
use crate::head::{FieldId, Indexing, Method};
use crate::normalize;

/// A field line as a block had it.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    /// The line as HTTP/1.1 writes it, when it lies in a table; otherwise nothing.
    pub(super) whole: &'a [u8],
    pub(super) kind: Kind,
    pub(super) fault: Option<Malformed>,
    pub(super) indexing: Indexing,
}

impl<'a> Line<'a> {
    /// The name, whatever it is.
    pub fn name(&self) -> &'a [u8] {
        self.name
    }

    /// The value, whatever it is.
    pub fn value(&self) -> &'a [u8] {
        self.value
    }

    /// Whether the line was sent as one that no table on its way may hold (RFC 7541 section 6.2.3).
    pub fn is_never_indexed(&self) -> bool {
        self.indexing == Indexing::Never
    }

    /// What the line counts in a list of fields (RFC 9113 section 6.5.2), in bytes.
    #[inline]
    pub(in crate::h2) fn size(&self) -> usize {
        self.name.len() + self.value.len() + super::OVERHEAD
    }

    #[inline]
    pub(in crate::h2) fn kind(&self) -> Kind {
        self.kind
    }

    #[inline]
    pub(in crate::h2) fn fault(&self) -> Option<Malformed> {
        self.fault
    }

    #[inline]
    pub(in crate::h2) fn indexing(&self) -> Indexing {
        self.indexing
    }

    /// The line as HTTP/1.1 writes it, when it exists in this form.
    #[inline]
    pub(in crate::h2) fn whole(&self) -> Option<&'a [u8]> {
        (!self.whole.is_empty()).then_some(self.whole)
    }
}

/// What a name makes of its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::h2) enum Kind {
    /// A pseudo-field.
    Pseudo(Pseudo),
    /// A field.
    Field(FieldId),
    /// A field, which is not well-known, with `_` in its name.
    Underscored,
    /// Not a name.
    Bad(Malformed),
}

/// The pseudo-fields of RFC 9113 section 8.3 and RFC 8441.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::h2) enum Pseudo {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
}

impl Pseudo {
    /// The bit of this name in a set of pseudo-fields.
    #[inline]
    pub(in crate::h2) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Kind {
    /// What a name says.
    pub(super) fn of(name: &[u8]) -> Kind {
        if let [b':', rest @ ..] = name {
            return match rest {
                b"method" => Kind::Pseudo(Pseudo::Method),
                b"scheme" => Kind::Pseudo(Pseudo::Scheme),
                b"authority" => Kind::Pseudo(Pseudo::Authority),
                b"path" => Kind::Pseudo(Pseudo::Path),
                b"protocol" => Kind::Pseudo(Pseudo::Protocol),
                b"status" => Kind::Pseudo(Pseudo::Status),
                _ => Kind::Bad(Malformed::PseudoUnknown),
            };
        }
        let id = FieldId::from_bytes(name);
        if !id.is_other() && id.as_str().as_bytes() == name {
            return Kind::Field(id);
        }
        if !grammar::is_token(name) {
            return Kind::Bad(Malformed::FieldName);
        }
        if name.iter().any(u8::is_ascii_uppercase) {
            return Kind::Bad(Malformed::UpperCaseName);
        }
        let underscored = name.iter().any(|&byte| grammar::class(byte) & UNDERSCORE != 0);
        if underscored { Kind::Underscored } else { Kind::Field(FieldId::OTHER) }
    }

    /// What is wrong with a line of this kind that has the value, wherever it stands.
    pub(super) fn fault(self, value: &[u8]) -> Option<Malformed> {
        match self {
            Kind::Bad(fault) => Some(fault),
            Kind::Pseudo(pseudo) => pseudo.fault(value),
            Kind::Underscored => value_fault(value),
            Kind::Field(id) => value_fault(value).or_else(|| field_fault(id, value)),
        }
    }
}

/// The fields that mean a connection of HTTP/1.1 (RFC 9113 section 8.2.2).
pub(in crate::h2) const CONNECTION_SPECIFIC: u128 = FieldId::CONNECTION.bit()
    | FieldId::KEEP_ALIVE.bit()
    | FieldId::PROXY_CONNECTION.bit()
    | FieldId::TRANSFER_ENCODING.bit()
    | FieldId::UPGRADE.bit();

fn field_fault(id: FieldId, value: &[u8]) -> Option<Malformed> {
    if CONNECTION_SPECIFIC & id.bit() != 0 {
        return Some(Malformed::ConnectionField);
    }
    match id {
        FieldId::TE if !value.eq_ignore_ascii_case(b"trailers") => Some(Malformed::Te),
        FieldId::CONTENT_LENGTH if grammar::decimal(value).is_none() => Some(Malformed::ContentLength),
        _ => None,
    }
}

fn value_fault(value: &[u8]) -> Option<Malformed> {
    if grammar::find_control(value).is_some() {
        return Some(Malformed::ControlByte);
    }
    let edge = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    (edge(value.first()) || edge(value.last())).then_some(Malformed::SpaceAtEdge)
}

impl Pseudo {
    fn fault(self, value: &[u8]) -> Option<Malformed> {
        let (valid, fault) = match self {
            Pseudo::Path => return path_fault(value),
            Pseudo::Method => (Method::from_bytes(value).is_some(), Malformed::Method),
            Pseudo::Scheme => {
                (value.eq_ignore_ascii_case(b"http") || value.eq_ignore_ascii_case(b"https"), Malformed::Scheme)
            }
            Pseudo::Authority => (normalize::authority(value).is_ok(), Malformed::HostInvalid),
            Pseudo::Protocol => (grammar::is_token(value), Malformed::Protocol),
            Pseudo::Status => (is_status(value), Malformed::Status),
        };
        (!valid).then_some(fault)
    }
}

/// Path and query as HTTP/1.1 takes them. `*` is a path of some requests.
fn path_fault(value: &[u8]) -> Option<Malformed> {
    match value.iter().find(|&&byte| grammar::class(byte) & TARGET == 0) {
        Some(b'#') => Some(Malformed::Fragment),
        Some(_) => Some(Malformed::Path),
        None if value.starts_with(b"/") || value == b"*" => None,
        None => Some(Malformed::Path),
    }
}

/// Three digits, of which the first is none of `0`; 101 does not exist in HTTP/2 (RFC 9113 section 8.6).
fn is_status(value: &[u8]) -> bool {
    matches!(value, [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9']) && value != b"101"
}
