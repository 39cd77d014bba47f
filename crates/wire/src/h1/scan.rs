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

#[cfg(test)]
mod tests {
    use super::*;

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
