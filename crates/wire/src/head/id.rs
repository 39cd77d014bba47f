//! Small numbers for well-known field names.
//!
//! Called by whoever compares names. The table is the whole truth: a new name is one line in it.

/// A well-known field name as a small number, or [`FieldId::OTHER`] for every name that the table does not list.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FieldId(u8);

macro_rules! field_ids {
    ($($constant:ident = $text:literal),+ $(,)?) => {
        /// Position in this list is the number of the id; the first entry stands for all other names.
        const NAMES: &[&str] = &["", $($text),+];

        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Number { OTHER, $($constant),+ }

        impl FieldId {
            /// Any name that is not well-known.
            pub const OTHER: FieldId = FieldId(Number::OTHER as u8);
            $(
                #[doc = concat!("`", $text, "`")]
                pub const $constant: FieldId = FieldId(Number::$constant as u8);
            )+
        }
    };
}

field_ids! {
    HOST = "host",
    CONTENT_LENGTH = "content-length",
    TRANSFER_ENCODING = "transfer-encoding",
    CONNECTION = "connection",
    KEEP_ALIVE = "keep-alive",
    PROXY_CONNECTION = "proxy-connection",
    TE = "te",
    TRAILER = "trailer",
    UPGRADE = "upgrade",
    HTTP2_SETTINGS = "http2-settings",
    EXPECT = "expect",
    MAX_FORWARDS = "max-forwards",
    PROXY_AUTHENTICATE = "proxy-authenticate",
    PROXY_AUTHORIZATION = "proxy-authorization",
    PROXY_STATUS = "proxy-status",
    ACCEPT = "accept",
    ACCEPT_ENCODING = "accept-encoding",
    ACCEPT_LANGUAGE = "accept-language",
    ACCEPT_RANGES = "accept-ranges",
    ACCESS_CONTROL_ALLOW_CREDENTIALS = "access-control-allow-credentials",
    ACCESS_CONTROL_ALLOW_HEADERS = "access-control-allow-headers",
    ACCESS_CONTROL_ALLOW_METHODS = "access-control-allow-methods",
    ACCESS_CONTROL_ALLOW_ORIGIN = "access-control-allow-origin",
    ACCESS_CONTROL_EXPOSE_HEADERS = "access-control-expose-headers",
    ACCESS_CONTROL_MAX_AGE = "access-control-max-age",
    ACCESS_CONTROL_REQUEST_HEADERS = "access-control-request-headers",
    ACCESS_CONTROL_REQUEST_METHOD = "access-control-request-method",
    AGE = "age",
    ALLOW = "allow",
    ALT_SVC = "alt-svc",
    AUTHORIZATION = "authorization",
    BAGGAGE = "baggage",
    CACHE_CONTROL = "cache-control",
    CONTENT_DISPOSITION = "content-disposition",
    CONTENT_ENCODING = "content-encoding",
    CONTENT_LANGUAGE = "content-language",
    CONTENT_LOCATION = "content-location",
    CONTENT_RANGE = "content-range",
    CONTENT_TYPE = "content-type",
    COOKIE = "cookie",
    DATE = "date",
    EARLY_DATA = "early-data",
    ETAG = "etag",
    EXPIRES = "expires",
    FORWARDED = "forwarded",
    GRPC_MESSAGE = "grpc-message",
    GRPC_STATUS = "grpc-status",
    GRPC_TIMEOUT = "grpc-timeout",
    IF_MATCH = "if-match",
    IF_MODIFIED_SINCE = "if-modified-since",
    IF_NONE_MATCH = "if-none-match",
    IF_RANGE = "if-range",
    IF_UNMODIFIED_SINCE = "if-unmodified-since",
    LAST_MODIFIED = "last-modified",
    LINK = "link",
    LOCATION = "location",
    ORIGIN = "origin",
    PRAGMA = "pragma",
    PRIORITY = "priority",
    RANGE = "range",
    REFERER = "referer",
    RETRY_AFTER = "retry-after",
    SEC_WEBSOCKET_ACCEPT = "sec-websocket-accept",
    SEC_WEBSOCKET_KEY = "sec-websocket-key",
    SEC_WEBSOCKET_PROTOCOL = "sec-websocket-protocol",
    SEC_WEBSOCKET_VERSION = "sec-websocket-version",
    SERVER = "server",
    SET_COOKIE = "set-cookie",
    STRICT_TRANSPORT_SECURITY = "strict-transport-security",
    TRACEPARENT = "traceparent",
    TRACESTATE = "tracestate",
    USER_AGENT = "user-agent",
    VARY = "vary",
    VIA = "via",
    WWW_AUTHENTICATE = "www-authenticate",
    X_ENVOY_ORIGINAL_PATH = "x-envoy-original-path",
    X_FORWARDED_CLIENT_CERT = "x-forwarded-client-cert",
    X_FORWARDED_FOR = "x-forwarded-for",
    X_FORWARDED_HOST = "x-forwarded-host",
    X_FORWARDED_PORT = "x-forwarded-port",
    X_FORWARDED_PREFIX = "x-forwarded-prefix",
    X_FORWARDED_PROTO = "x-forwarded-proto",
    X_ORIGINAL_URL = "x-original-url",
    X_REAL_IP = "x-real-ip",
    X_REQUEST_ID = "x-request-id",
    X_REWRITE_URL = "x-rewrite-url",
    X_TRANSEPT_ATTEMPT = "x-transept-attempt",
    X_TRANSEPT_CLIENT = "x-transept-client",
    X_TRANSEPT_TIMEOUT = "x-transept-timeout",
    X_TRANSEPT_UNREACHED = "x-transept-unreached",
}

// The set of present ids is a `u128`.
const _: () = assert!(NAMES.len() <= 128);

const SLOTS: usize = 512;

/// Open addressing over (length, first byte, last byte): 0 is an empty slot.
static TABLE: [u8; SLOTS] = {
    let mut table = [0u8; SLOTS];
    let mut number = 1;
    while number < NAMES.len() {
        let mut slot = slot_of(NAMES[number].as_bytes());
        while table[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        table[slot] = number as u8;
        number += 1;
    }
    table
};

#[inline]
const fn slot_of(name: &[u8]) -> usize {
    let first = (name[0] | 0x20) as usize;
    let middle = (name[name.len() / 2] | 0x20) as usize;
    let last = (name[name.len() - 1] | 0x20) as usize;
    (name.len() * 29 + first * 5 + middle * 67 + last * 13) % SLOTS
}

/// Whether the bytes are the known name, whatever their case. Setting bit 5 makes letters lower case and maps no
/// other byte to one of a known name, except control bytes, which have neither bit 5 nor bit 6.
#[inline]
fn is_name(known: &[u8], name: &[u8]) -> bool {
    if known.len() != name.len() {
        return false;
    }
    if let (Some(known_end), Some(name_end)) = (known.last_chunk(), name.last_chunk()) {
        let (known_words, _) = known.as_chunks();
        let (name_words, _) = name.as_chunks();
        return is_word(*known_end, *name_end)
            && known_words.iter().zip(name_words).all(|(known, name)| is_word(*known, *name));
    }
    if let (Some(known_end), Some(name_end)) = (known.last_chunk(), name.last_chunk())
        && let (Some(known_start), Some(name_start)) = (known.first_chunk(), name.first_chunk())
    {
        return is_word(join(*known_start, *known_end), join(*name_start, *name_end));
    }
    known.eq_ignore_ascii_case(name)
}

#[inline]
const fn join([a, b, c, d]: [u8; 4], [e, f, g, h]: [u8; 4]) -> [u8; 8] {
    [a, b, c, d, e, f, g, h]
}

#[inline]
const fn is_word(known: [u8; 8], name: [u8; 8]) -> bool {
    const CASE: u64 = 0x2020_2020_2020_2020;
    const BIT_6: u64 = CASE << 1;
    let (known, name) = (u64::from_le_bytes(known), u64::from_le_bytes(name));
    name | CASE == known && (name << 1 | name) & BIT_6 == BIT_6
}

impl FieldId {
    /// The id of a name, whatever its case; [`FieldId::OTHER`] when it is not well-known.
    #[inline]
    pub fn from_bytes(name: &[u8]) -> FieldId {
        if name.is_empty() {
            return FieldId::OTHER;
        }
        let mut slot = slot_of(name);
        loop {
            let number = TABLE[slot];
            if number == 0 || is_name(NAMES[number as usize].as_bytes(), name) {
                return FieldId(number);
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    /// The name in lower case; empty for [`FieldId::OTHER`].
    #[inline]
    pub const fn as_str(self) -> &'static str {
        NAMES[self.0 as usize]
    }

    /// Whether the name is not in the table of well-known names.
    #[inline]
    pub const fn is_other(self) -> bool {
        self.0 == 0
    }

    /// The position of this id in a table of all of them, of which there are at most 128.
    #[inline]
    pub(crate) const fn number(self) -> usize {
        self.0 as usize
    }

    /// The bit of this id in a set of ids.
    #[inline]
    pub(crate) const fn bit(self) -> u128 {
        1 << self.0
    }
}

impl std::fmt::Debug for FieldId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_other() { "(other)" } else { self.as_str() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case() {
        for (number, name) in NAMES.iter().enumerate().skip(1) {
            let id = FieldId::from_bytes(name.as_bytes());
            assert_eq!((id.0 as usize, id.as_str()), (number, *name));
            assert_eq!(FieldId::from_bytes(name.to_ascii_uppercase().as_bytes()), id);
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));
            assert_eq!(FieldId::from_bytes(&name.as_bytes()[1..]), FieldId::OTHER);
        }
    }

    #[test]
    fn near_misses_are_other() {
        for name in ["", "h", "hos", "hostt", "content_length", "content\rlength", "x-user", "TRANSFER-ENCODINg "] {
            assert!(FieldId::from_bytes(name.as_bytes()).is_other(), "{name:?}");
        }
    }

    #[test]
    fn probing_is_short() {
        let mut longest = 0;
        for name in &NAMES[1..] {
            let mut slot = slot_of(name.as_bytes());
            let mut steps = 1;
            while NAMES[TABLE[slot] as usize] != *name {
                slot = (slot + 1) % SLOTS;
                steps += 1;
            }
            longest = longest.max(steps);
        }
        assert!(longest <= 4, "{longest}");
    }
}
