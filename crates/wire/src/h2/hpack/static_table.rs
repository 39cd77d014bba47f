//! The static table (RFC 7541 appendix A).
//!
//! Read by the decoder by index and by the encoder by name. Each entry stands here as the line that HTTP/1.1 would write, so
//! that taking one over is a copy.

use super::line::{Kind, Line, Pseudo};
use crate::h2::head::Malformed;
use crate::head::{FieldId, Indexing};

/// The number of entries; dynamic ones have the numbers after it.
pub(super) const LENGTH: usize = 61;

/// The numbers of the entries that a head begins with.
pub(in crate::h2) mod number {
    pub(in crate::h2) const AUTHORITY: usize = 1;
    pub(in crate::h2) const GET: usize = 2;
    pub(in crate::h2) const POST: usize = 3;
    pub(in crate::h2) const METHOD: usize = GET;
    pub(in crate::h2) const ROOT: usize = 4;
    pub(in crate::h2) const PATH: usize = ROOT;
    pub(in crate::h2) const HTTP: usize = 6;
    pub(in crate::h2) const HTTPS: usize = 7;
    pub(in crate::h2) const SCHEME: usize = HTTP;
    pub(in crate::h2) const STATUS: usize = 8;
    /// The statuses of the entries from [`STATUS`] on.
    pub(in crate::h2) const STATUSES: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
}

macro_rules! fault {
    [] => { None };
    [$fault:expr] => { Some($fault) };
}

macro_rules! entries {
    ($($name:literal $value:literal $kind:expr $(, $fault:expr)?;)+) => {
        static ENTRIES: [Line<'static>; LENGTH] = [$(Line {
            name: $name.as_bytes(),
            value: $value.as_bytes(),
            whole: concat!($name, ": ", $value, "\r\n").as_bytes(),
            kind: $kind,
            fault: fault![$($fault)?],
            indexing: Indexing::Allowed,
        }),+];

        /// The kinds once more, because constants cannot read a static.
        const KINDS: [Kind; LENGTH] = [$($kind),+];
    };
}

const OTHER: Kind = Kind::Field(FieldId::OTHER);

entries! {
    ":authority" "" Kind::Pseudo(Pseudo::Authority), Malformed::HostInvalid;
    ":method" "GET" Kind::Pseudo(Pseudo::Method);
    ":method" "POST" Kind::Pseudo(Pseudo::Method);
    ":path" "/" Kind::Pseudo(Pseudo::Path);
    ":path" "/index.html" Kind::Pseudo(Pseudo::Path);
    ":scheme" "http" Kind::Pseudo(Pseudo::Scheme);
    ":scheme" "https" Kind::Pseudo(Pseudo::Scheme);
    ":status" "200" Kind::Pseudo(Pseudo::Status);
    ":status" "204" Kind::Pseudo(Pseudo::Status);
    ":status" "206" Kind::Pseudo(Pseudo::Status);
    ":status" "304" Kind::Pseudo(Pseudo::Status);
    ":status" "400" Kind::Pseudo(Pseudo::Status);
    ":status" "404" Kind::Pseudo(Pseudo::Status);
    ":status" "500" Kind::Pseudo(Pseudo::Status);
    "accept-charset" "" OTHER;
    "accept-encoding" "gzip, deflate" Kind::Field(FieldId::ACCEPT_ENCODING);
    "accept-language" "" Kind::Field(FieldId::ACCEPT_LANGUAGE);
    "accept-ranges" "" Kind::Field(FieldId::ACCEPT_RANGES);
    "accept" "" Kind::Field(FieldId::ACCEPT);
    "access-control-allow-origin" "" Kind::Field(FieldId::ACCESS_CONTROL_ALLOW_ORIGIN);
    "age" "" Kind::Field(FieldId::AGE);
    "allow" "" Kind::Field(FieldId::ALLOW);
    "authorization" "" Kind::Field(FieldId::AUTHORIZATION);
    "cache-control" "" Kind::Field(FieldId::CACHE_CONTROL);
    "content-disposition" "" Kind::Field(FieldId::CONTENT_DISPOSITION);
    "content-encoding" "" Kind::Field(FieldId::CONTENT_ENCODING);
    "content-language" "" Kind::Field(FieldId::CONTENT_LANGUAGE);
    "content-length" "" Kind::Field(FieldId::CONTENT_LENGTH), Malformed::ContentLength;
    "content-location" "" Kind::Field(FieldId::CONTENT_LOCATION);
    "content-range" "" Kind::Field(FieldId::CONTENT_RANGE);
    "content-type" "" Kind::Field(FieldId::CONTENT_TYPE);
    "cookie" "" Kind::Field(FieldId::COOKIE);
    "date" "" Kind::Field(FieldId::DATE);
    "etag" "" Kind::Field(FieldId::ETAG);
    "expect" "" Kind::Field(FieldId::EXPECT);
    "expires" "" Kind::Field(FieldId::EXPIRES);
    "from" "" OTHER;
    "host" "" Kind::Field(FieldId::HOST);
    "if-match" "" Kind::Field(FieldId::IF_MATCH);
    "if-modified-since" "" Kind::Field(FieldId::IF_MODIFIED_SINCE);
    "if-none-match" "" Kind::Field(FieldId::IF_NONE_MATCH);
    "if-range" "" Kind::Field(FieldId::IF_RANGE);
    "if-unmodified-since" "" Kind::Field(FieldId::IF_UNMODIFIED_SINCE);
    "last-modified" "" Kind::Field(FieldId::LAST_MODIFIED);
    "link" "" Kind::Field(FieldId::LINK);
    "location" "" Kind::Field(FieldId::LOCATION);
    "max-forwards" "" Kind::Field(FieldId::MAX_FORWARDS);
    "proxy-authenticate" "" Kind::Field(FieldId::PROXY_AUTHENTICATE);
    "proxy-authorization" "" Kind::Field(FieldId::PROXY_AUTHORIZATION);
    "range" "" Kind::Field(FieldId::RANGE);
    "referer" "" Kind::Field(FieldId::REFERER);
    "refresh" "" OTHER;
    "retry-after" "" Kind::Field(FieldId::RETRY_AFTER);
    "server" "" Kind::Field(FieldId::SERVER);
    "set-cookie" "" Kind::Field(FieldId::SET_COOKIE);
    "strict-transport-security" "" Kind::Field(FieldId::STRICT_TRANSPORT_SECURITY);
    "transfer-encoding" "" Kind::Field(FieldId::TRANSFER_ENCODING), Malformed::ConnectionField;
    "user-agent" "" Kind::Field(FieldId::USER_AGENT);
    "vary" "" Kind::Field(FieldId::VARY);
    "via" "" Kind::Field(FieldId::VIA);
    "www-authenticate" "" Kind::Field(FieldId::WWW_AUTHENTICATE);
}

/// The entry with the number, which begins at 1.
#[inline]
pub(super) fn entry(number: usize) -> Option<&'static Line<'static>> {
    ENTRIES.get(number.wrapping_sub(1))
}

/// By the number of a [`FieldId`], the number of the first entry with its name, or 0.
static NUMBERS: [u8; 128] = {
    let mut numbers = [0; 128];
    let mut at = LENGTH;
    while at > 0 {
        if let Kind::Field(id) = KINDS[at - 1]
            && !id.is_other()
        {
            numbers[id.number()] = at as u8;
        }
        at -= 1;
    }
    numbers
};

/// The number of an entry with the name of a well-known field; 0 when there is none.
#[inline]
pub(super) fn number_of(id: FieldId) -> usize {
    usize::from(NUMBERS[id.number() & 127])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_what_their_names_say() {
        for (at, line) in ENTRIES.iter().enumerate() {
            assert_eq!(line.kind, Kind::of(line.name), "{}", line.name.escape_ascii());
            let whole = [line.name, b": ", line.value, b"\r\n"].concat();
            assert_eq!(line.whole, whole);
            assert_eq!(line.fault, line.kind.fault(line.value), "{}", line.name.escape_ascii());
            assert_eq!(entry(at + 1).map(Line::name), Some(line.name));
        }
        assert!(entry(0).is_none() && entry(LENGTH + 1).is_none());
    }

    #[test]
    fn numbers_are_those_of_the_rfc() {
        // One of each column of RFC 7541 appendix A; the others follow from the order of the list, which has 61 entries.
        for (number, name, value) in [
            (1, ":authority", ""),
            (2, ":method", "GET"),
            (8, ":status", "200"),
            (14, ":status", "500"),
            (16, "accept-encoding", "gzip, deflate"),
            (28, "content-length", ""),
            (32, "cookie", ""),
            (38, "host", ""),
            (47, "max-forwards", ""),
            (58, "user-agent", ""),
            (61, "www-authenticate", ""),
        ] {
            let line = entry(number).expect("an entry");
            assert_eq!((line.name, line.value), (name.as_bytes(), value.as_bytes()));
        }
    }

    #[test]
    fn names_are_found() {
        for line in &ENTRIES {
            let id = FieldId::from_bytes(line.name);
            if !id.is_other() {
                assert_eq!(entry(number_of(id)).map(Line::name), Some(line.name));
            }
        }
        assert_eq!(number_of(FieldId::GRPC_STATUS), 0);
        assert_eq!(number_of(FieldId::OTHER), 0);
    }
}
