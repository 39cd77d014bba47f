//! Huffman-coded strings (RFC 7541 section 5.2): the decoder. We write none.
//!
//! Called for each string of a block that says it is coded. One look at a table gives up to two symbols; the long codes,
//! which no usual text has, are found by their length.

mod code;

use code::SYMBOLS;

/// Bits that index the table. Two letters or digits take ten to thirteen bits, so most looks give two of them.
const PEEK: u32 = 11;

/// The longest code.
const LONGEST: u32 = 30;

/// What the next [`PEEK`] bits begin with.
#[derive(Clone, Copy)]
struct Step {
    symbols: [u8; 2],
    /// Bits of the first code; 0 when it is longer than [`PEEK`].
    first: u8,
    /// Bits of both codes, or of the first one when there is no room for a second.
    both: u8,
}

static STEPS: [Step; 1 << PEEK] = steps();

const fn steps() -> [Step; 1 << PEEK] {
    let mut table = [Step { symbols: [0; 2], first: 0, both: 0 }; 1 << PEEK];
    let mut code = 0;
    let mut group = 0;
    // Codes count upwards, so their ranges of the table follow each other.
    while group < SYMBOLS.len() && SYMBOLS[group].0 <= PEEK {
        let (length, symbols) = SYMBOLS[group];
        let mut nth = 0;
        while nth < symbols.len() {
            let end = code + (1 << (PEEK - length));
            while code < end {
                table[code] = Step { symbols: [symbols[nth], 0], first: length as u8, both: length as u8 };
                code += 1;
            }
            nth += 1;
        }
        group += 1;
    }
    let mut index = 0;
    while index < table.len() {
        let first = table[index];
        if first.first != 0 {
            let next = table[index << first.first & (table.len() - 1)];
            let both = first.first + next.first;
            if next.first != 0 && both as u32 <= PEEK {
                table[index] = Step { symbols: [first.symbols[0], next.symbols[0]], first: first.first, both };
            }
        }
        index += 1;
    }
    table
}

/// Not a code, the code that ends a string, or padding other than up to seven ones.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadCode;

/// Decodes a string to the beginning of the buffer, which grows when it is too short and never shrinks; the number of
/// bytes that are the string.
pub(super) fn decode(source: &[u8], buffer: &mut Vec<u8>) -> Result<usize, BadCode> {
    // The shortest code has five bits; a step may write one byte more than it counts.
    let most = source.len() * 8 / 5 + 2;
    if buffer.len() < most {
        buffer.resize(most, 0);
    }
    let out = buffer.as_mut_slice();
    let mut length = 0;
    let mut bits = Bits { rest: source, window: 0, count: 0 };
    loop {
        if bits.count < LONGEST {
            bits.refill();
        }
        let step = STEPS[(bits.window >> (u64::BITS - PEEK)) as usize];
        let both = u32::from(step.both);
        if both != 0 && both <= bits.count {
            out.get_mut(length..length + 2).ok_or(BadCode)?.copy_from_slice(&step.symbols);
            length += 1 + usize::from(step.both != step.first);
            bits.drop(both);
            continue;
        }
        // A long code, or the end is near.
        let window = bits.window | u64::MAX >> bits.count;
        let Some((symbol, width)) = first_symbol(window).filter(|(_, width)| *width <= bits.count) else {
            return if bits.count < 8 && window == u64::MAX { Ok(length) } else { Err(BadCode) };
        };
        *out.get_mut(length).ok_or(BadCode)? = symbol;
        length += 1;
        bits.drop(width);
    }
}

/// The bits of a string that have not been decoded.
struct Bits<'a> {
    rest: &'a [u8],
    /// The next bits, from the highest one on. Those beyond the count are right, but there may be more of them.
    window: u64,
    count: u32,
}

impl Bits<'_> {
    /// Makes at least 56 bits of the window count, or all that there are.
    #[inline]
    fn refill(&mut self) {
        if let Some(chunk) = self.rest.first_chunk() {
            self.window |= u64::from_be_bytes(*chunk) >> self.count;
            let whole = (63 - self.count) / 8;
            self.rest = self.rest.get(whole as usize..).unwrap_or_default();
            self.count += whole * 8;
            return;
        }
        while let [byte, rest @ ..] = self.rest
            && self.count < 56
        {
            self.window |= u64::from(*byte) << (56 - self.count);
            self.count += 8;
            self.rest = rest;
        }
    }

    #[inline]
    fn drop(&mut self, width: u32) {
        self.window <<= width;
        self.count -= width;
    }
}

/// The first symbol and the length of its code; `None` for the code that ends a string.
fn first_symbol(window: u64) -> Option<(u8, u32)> {
    let step = STEPS[(window >> (u64::BITS - PEEK)) as usize];
    if step.first != 0 {
        return Some((step.symbols[0], u32::from(step.first)));
    }
    let bits = (window >> (u64::BITS - LONGEST)) as usize;
    let mut base = 0;
    for (length, symbols) in SYMBOLS {
        let width = LONGEST - length;
        if let Some(&symbol) = symbols.get((bits - base) >> width) {
            return Some((symbol, length));
        }
        base += symbols.len() << width;
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The code and its length of every symbol.
    pub(crate) fn codes() -> [(u32, u32); 256] {
        let mut codes = [(0, 0); 256];
        let (mut code, mut before) = (0, SYMBOLS[0].0);
        for (length, symbols) in SYMBOLS {
            code <<= length - before;
            before = length;
            for &symbol in symbols {
                codes[usize::from(symbol)] = (code, length);
                code += 1;
            }
        }
        assert_eq!(code, (1 << 30) - 1, "one code is left");
        codes
    }

    /// Codes a string, a bit at a time.
    pub(crate) fn encode(text: &[u8]) -> Vec<u8> {
        let codes = codes();
        let mut bits: Vec<bool> = Vec::new();
        for &byte in text {
            let (code, length) = codes[usize::from(byte)];
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, &bit| byte << 1 | u8::from(bit))).collect()
    }

    /// Decodes a bit at a time.
    fn decode_simply(source: &[u8]) -> Option<Vec<u8>> {
        let codes = codes();
        let mut text = Vec::new();
        let (mut code, mut length) = (0u32, 0);
        for bit in source.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)) {
            code = code << 1 | u32::from(bit);
            length += 1;
            if let Some(symbol) = codes.iter().position(|known| *known == (code, length)) {
                text.push(symbol as u8);
                (code, length) = (0, 0);
            }
            if length == 30 {
                return None;
            }
        }
        (length < 8 && code == (1 << length) - 1).then_some(text)
    }

    fn decoded(source: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = vec![0xaa; 3];
        let length = decode(source, &mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    #[test]
    fn codes_are_those_of_the_rfc() {
        let codes = codes();
        assert!(codes.iter().all(|(_, length)| *length >= 5), "every byte has a code");
        // A few from each end of the table of RFC 7541 appendix B.
        for (symbol, code, length) in [
            (0, 0x1ff8, 13),
            (1, 0x007f_ffd8, 23),
            (2, 0x0fff_ffe2, 28),
            (9, 0x00ff_ffea, 24),
            (10, 0x3fff_fffc, 30),
            (22, 0x3fff_fffe, 30),
            (48, 0x0, 5),
            (92, 0x7fff0, 19),
            (126, 0x1ffd, 13),
            (195, 0x7fff1, 19),
            (249, 0x0fff_fffe, 28),
            (255, 0x03ff_ffee, 26),
        ] {
            assert_eq!(codes[symbol], (code, length), "{symbol}");
        }
    }

    #[test]
    fn every_byte_comes_back_at_every_offset() {
        for byte in 0..=255u8 {
            for before in 0..9 {
                let mut text = vec![b'a'; before];
                text.extend([byte, b'1', byte]);
                assert_eq!(decoded(&encode(&text)).as_deref(), Some(&text[..]), "{byte} after {before}");
            }
        }
    }

    #[test]
    fn padding_is_up_to_seven_ones() {
        assert_eq!(decoded(b""), Some(Vec::new()));
        assert_eq!(decoded(&[0x1f]), Some(b"a".to_vec()));
        assert_eq!(decoded(&[0x1e]), None, "padding of zeros");
        assert_eq!(decoded(&[0x1f, 0xff]), None, "a byte of padding too much");
        assert_eq!(decoded(&[0xff]), None, "nothing but padding");
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), None, "the end of a string");
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xfc]), None, "the end of a string, badly padded");
    }

    #[test]
    fn ones_are_never_text() {
        for length in 0..24 {
            for before in 0..24 {
                let mut source = vec![0u8; before];
                source.extend(std::iter::repeat_n(0xff, length));
                assert_eq!(decoded(&source), decode_simply(&source), "{length} after {before}");
            }
        }
    }

    proptest! {
        #[test]
        fn text_comes_back(text in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(decoded(&encode(&text)), Some(text));
        }

        #[test]
        fn usual_text_comes_back(text in "[ -~]{0,120}") {
            prop_assert_eq!(decoded(&encode(text.as_bytes())), Some(text.into_bytes()));
        }

        #[test]
        fn any_bytes_mean_what_they_mean_bit_by_bit(
            source in prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(0xff)], 0..24),
        ) {
            prop_assert_eq!(decoded(&source), decode_simply(&source));
        }
    }
}
