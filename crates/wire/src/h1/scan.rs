//! Looking at bytes before they are parsed: whether parsing them is worth while, and whether they are HTTP/2.
//!
//! Called by whoever reads a connection. Decides nothing about a message.

use super::Limits;

/// Remembers how much of an incomplete head has been looked at, so that a peer that sends a byte at a time costs one
/// look per byte and not one parse of everything.
///
/// After a parser has said that a head is incomplete, ask [`Scan::is_worth_parsing`] for every read; parse again only
/// when it says so. It says no only when a parse could not end: an error that an incomplete head already contains may
/// be found when its section ends or a limit is reached, never later. With it, reading a head is linear in its length.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scan {
    seen: usize,
    first_line: bool,
}

impl Scan {
    /// For the next head, of which nothing has been seen.
    pub const fn new() -> Scan {
        Scan { seen: 0, first_line: false }
    }

    /// Whether parsing the bytes could end with anything but "incomplete". Call it with all bytes of the head so far,
    /// each time there are more. True for the first call of a head.
    pub fn is_worth_parsing(&mut self, bytes: &[u8], limits: &Limits) -> bool {
        let from = std::mem::replace(&mut self.seen, bytes.len());
        let mut worth = from == 0 || bytes.len() >= limits.head_bytes;
        // The first line may turn out too long; a terminator and a leading empty line do not count.
        let line_limit = limits.request_line.saturating_add(4);
        worth |= from < line_limit && bytes.len() >= line_limit;
        for at in memchr::memchr_iter(b'\n', bytes.get(from..).unwrap_or_default()) {
            let line = &bytes[..from + at];
            worth |= !line.ends_with(b"\r") || line.ends_with(b"\n\r");
            // A complete first line may be wrong (HTTP/0.9 sends no more). A leading empty line is none.
            if !self.first_line && line.len() > 1 {
                self.first_line = true;
                worth = true;
            }
        }
        worth
    }
}

/// The client connection preface of HTTP/2 (RFC 9113 3.4).
const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a connection speaks HTTP/2 from its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preface {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// Not enough bytes to tell.
    Partial,
}

/// Looks for the HTTP/2 preface at the beginning of a connection.
pub fn is_h2_preface(bytes: &[u8]) -> Preface {
    if bytes.starts_with(H2_PREFACE) {
        Preface::Yes
    } else if H2_PREFACE.starts_with(bytes) {
        Preface::Partial
    } else {
        Preface::No
    }
}

/// Whether the first bytes of a server are those of HTTP/2: a SETTINGS frame (RFC 9113 3.4 and 6.5), which servers may send before the
/// client has said anything. They write a frame whole, so fewer bytes are something else.
pub fn is_h2_settings(bytes: &[u8]) -> bool {
    match bytes {
        [0, high, low, 4, 0, 0, 0, 0, 0, ..] => u16::from_be_bytes([*high, *low]).is_multiple_of(6),
        _ => false,
    }
}

/// The longest method that [`begins_with_request_line`] takes for one.
const LONGEST_METHOD: usize = 24;
/// The longest line that [`begins_with_request_line`] waits for the end of.
const LONGEST_LINE: usize = 8 * 1024;

/// Looks for a request line of HTTP/1.x (RFC 9112 3) at the beginning of a connection that may speak anything: a method in capital
/// letters, a target in one of the forms that there are, and the version, to the end of the line. A word alone is none.
///
/// `No` comes with the first byte that no request line has at its place; a line of more than 8 KiB is none. Empty lines before it are passed
/// over, because programs do that too.
pub fn begins_with_request_line(bytes: &[u8]) -> Preface {
    let empty = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let bytes = bytes.get(empty..).unwrap_or_default();
    let is_of_method = |byte: &u8| matches!(byte, b'A'..=b'Z' | b'-' | b'_');
    let length = bytes.iter().take_while(|byte| is_of_method(byte)).count();
    let (method, rest) = bytes.split_at(length);
    let target = match rest {
        _ if length > LONGEST_METHOD => return Preface::No,
        [] => return Preface::Partial,
        [b' ', target @ ..] if length > 0 => target,
        _ => return Preface::No,
    };
    let length = target.iter().take_while(|byte| !matches!(byte, 0..=b' ' | 0x7f)).count();
    let (target, rest) = target.split_at(length);
    if !may_be_target(method, target) || bytes.len() - rest.len() > LONGEST_LINE {
        return Preface::No;
    }
    match rest {
        [] => Preface::Partial,
        [b' ', version @ ..] if !target.is_empty() => ends_with_version(version),
        _ => Preface::No,
    }
}

/// Whether bytes are the beginning of a request target (RFC 9112 3.2).
fn may_be_target(method: &[u8], target: &[u8]) -> bool {
    let absolute = |scheme: &[u8]| {
        let length = scheme.len().min(target.len());
        target[..length].eq_ignore_ascii_case(&scheme[..length])
    };
    match target {
        [] | [b'/' | b'*', ..] => true,
        _ if method == b"CONNECT" => true,
        _ => absolute(b"http://") || absolute(b"https://"),
    }
}

/// Whether bytes are the end of a request line. How it ends exactly is for the parser to judge.
fn ends_with_version(bytes: &[u8]) -> Preface {
    const VERSION: &[u8] = b"HTTP/1.";
    let Some(rest) = bytes.strip_prefix(VERSION) else {
        return if VERSION.starts_with(bytes) { Preface::Partial } else { Preface::No };
    };
    match rest {
        [] => Preface::Partial,
        [b'0'..=b'9'] => Preface::Partial,
        [b'0'..=b'9', b'\r' | b'\n', ..] => Preface::Yes,
        _ => Preface::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_is_told_from_the_first_words_of_other_protocols() {
        let lines = [
            "GET / HTTP/1.1\r",
            "M-SEARCH * HTTP/1.1\r",
            "OPTIONS * HTTP/1.0\n",
            "CONNECT cart:80 HTTP/1.1\r",
            "GET HTTP://cart/ HTTP/1.1\r",
            "POST https://cart HTTP/1.9\r",
            "\r\nGET / HTTP/1.1\r",
        ];
        for line in lines {
            let bytes = line.as_bytes();
            for length in 0..bytes.len() {
                assert_eq!(begins_with_request_line(&bytes[..length]), Preface::Partial, "{line:?} {length}");
            }
            assert_eq!(begins_with_request_line(bytes), Preface::Yes, "{line:?}");
            assert_eq!(begins_with_request_line(&[bytes, b"more"].concat()), Preface::Yes, "{line:?}");
        }
        // Each with the number of bytes after which it is told.
        let others = [
            ("PING\r\n", 5),
            ("PING :server\r\n", 6),
            ("HELO me\r\n", 6),
            ("EHLO http.example\r\n", 10),
            ("MAIL FROM:<a@b>\r\n", 6),
            ("get key\r\n", 1),
            ("GET key\r\n", 5),
            ("GET /key\r\n", 9),
            ("SET /key 1\r\n", 10),
            ("GET  /", 5),
            ("GET / HTTP/2.0\r\n", 12),
            ("GET / HTTP/1.x\r\n", 14),
            ("GET / HTTP/1.10\r\n", 15),
            (" GET /", 1),
            ("\r\n\r\nHELO me\r\n", 10),
            ("*1\r\n$4\r\nPING", 1),
            ("SSH-2.0-x\r\n", 5),
            ("\u{16}\u{3}\u{1}", 1),
        ];
        for (line, told) in others {
            let bytes = line.as_bytes();
            assert_eq!(begins_with_request_line(&bytes[..told - 1]), Preface::Partial, "{line:?}");
            assert_eq!(begins_with_request_line(&bytes[..told]), Preface::No, "{line:?}");
            assert_eq!(begins_with_request_line(bytes), Preface::No, "{line:?}");
        }
        assert_eq!(begins_with_request_line(&[b'A'; LONGEST_METHOD + 1]), Preface::No);
        let long = format!("GET /{}", "a".repeat(LONGEST_LINE));
        assert_eq!(begins_with_request_line(&long.as_bytes()[..LONGEST_LINE]), Preface::Partial);
        assert_eq!(begins_with_request_line(long.as_bytes()), Preface::No);
    }

    #[test]
    fn a_server_of_http2_may_speak_first() {
        assert!(is_h2_settings(b"\0\0\0\x04\0\0\0\0\0"));
        assert!(is_h2_settings(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"));
        for other in [&b"\0\0\x05\x04\0\0\0\0\0"[..], b"\0\0\0\x04\0\0\0\0", b"220 ready\r\n", b"J\0\0\0\x0a8.0.33"] {
            assert!(!is_h2_settings(other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn the_preface_is_recognised_byte_by_byte() {
        for length in 0..H2_PREFACE.len() {
            assert_eq!(is_h2_preface(&H2_PREFACE[..length]), Preface::Partial);
        }
        assert_eq!(is_h2_preface(H2_PREFACE), Preface::Yes);
        assert_eq!(is_h2_preface(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrest"), Preface::Yes);
        assert_eq!(is_h2_preface(b"PRI * HTTP/1.1"), Preface::No);
        assert_eq!(is_h2_preface(b"GET"), Preface::No);
    }

    #[test]
    fn looks_at_each_byte_once() {
        let limits = Limits::default();
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
        let mut scan = Scan::new();
        let worth: Vec<usize> =
            (1..=head.len()).filter(|&length| scan.is_worth_parsing(&head[..length], &limits)).collect();
        assert_eq!(worth, [1, 16, head.len()]);

        let mut scan = Scan::new();
        assert!(scan.is_worth_parsing(b"GET / HTTP/1.1\r\nHo", &limits));
        assert!(!scan.is_worth_parsing(b"GET / HTTP/1.1\r\nHost: a\r\n", &limits));
        assert!(scan.is_worth_parsing(b"GET / HTTP/1.1\r\nHost: a\r\nX: y\n", &limits), "a bare LF is an error now");
    }
}
