//! Integers of RFC 7541 section 5.1.
//!
//! Called by the decoder and the encoder. A prefix of fewer than eight bits shares its byte with the kind of what follows.

/// Continuation bytes that are read: together with a prefix they say more than any table or block of ours is long, and
/// nobody who means well pads a number with zeros.
const MOST_CONTINUATIONS: usize = 4;

/// Reads an integer with a prefix of so many bits at the beginning of the bytes: its value and what follows it. `None`
/// when the bytes end within it, or when it goes on for longer than [`MOST_CONTINUATIONS`].
#[inline]
pub(super) fn read(bytes: &[u8], prefix: u32) -> Option<(usize, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let full = (1usize << prefix) - 1;
    let value = usize::from(first) & full;
    if value < full { Some((value, rest)) } else { read_continuation(rest, full) }
}

fn read_continuation(bytes: &[u8], mut value: usize) -> Option<(usize, &[u8])> {
    for (at, &byte) in bytes.iter().take(MOST_CONTINUATIONS).enumerate() {
        value += usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at + 1..)?));
        }
    }
    None
}

/// Appends an integer with a prefix of so many bits; `kind` has the bits above the prefix.
#[inline]
pub(super) fn write(out: &mut Vec<u8>, kind: u8, prefix: u32, value: usize) {
    let full = (1usize << prefix) - 1;
    if value < full {
        out.push(kind | value as u8);
        return;
    }
    out.push(kind | full as u8);
    let mut rest = value - full;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_rfc() {
        // RFC 7541 C.1.
        assert_eq!(read(&[0b1110_1010], 5), Some((10, &[][..])));
        assert_eq!(read(&[0b0001_1111, 0b1001_1010, 0b0000_1010, 7], 5), Some((1337, &[7][..])));
        assert_eq!(read(&[42], 8), Some((42, &[][..])));
        let mut out = Vec::new();
        write(&mut out, 0b0100_0000, 5, 10);
        write(&mut out, 0, 5, 1337);
        write(&mut out, 0, 8, 42);
        assert_eq!(out, [0b0100_1010, 0b0001_1111, 0b1001_1010, 0b0000_1010, 42]);
    }

    #[test]
    fn written_is_read_back() {
        for prefix in 4..=8 {
            for value in (0..2000).chain((1 << 20) - 300..(1 << 20) + 300) {
                let mut out = Vec::new();
                write(&mut out, 0, prefix, value);
                assert_eq!(read(&out, prefix), Some((value, &[][..])));
                assert_eq!(read(&out[..out.len() - 1], prefix), None, "{value} cut");
            }
        }
    }

    #[test]
    fn endless_and_huge_numbers_are_refused() {
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], 7), None);
        assert_eq!(read(&[0x7f, 0x80, 0x80, 0x80, 0x80, 0x00], 7), None);
        assert_eq!(read(&[0x7f, 0xff, 0xff, 0xff, 0x7f], 7), Some((127 + (1 << 28) - 1, &[][..])));
        assert_eq!(read(&[], 7), None);
    }
}
