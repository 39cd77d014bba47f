//! Field blocks: the same lines, and the same refusals, as a second decoder finds that is simple and slow.
#![no_main]

use std::collections::VecDeque;

use libfuzzer_sys::fuzz_target;
use transept_wire::h2::hpack::Decoder;

#[path = "../../crates/wire/src/h2/hpack/huffman/code.rs"]
mod code;

type Line = (Vec<u8>, Vec<u8>);

// The input is a size for the table, and blocks behind a byte with their length.
fuzz_target!(|input: &[u8]| {
    let Some((&choice, mut rest)) = input.split_first() else {
        return;
    };
    let announced = [4096, 0, 100, 1 << 16][usize::from(choice % 4)];
    let mut decoder = Decoder::new(announced);
    let mut simple = Simple { table: VecDeque::new(), max: 4096, limit: announced.max(4096), change_due: false };
    if choice & 4 != 0 {
        decoder.settings_acknowledged();
        simple.limit = announced;
        simple.change_due = announced < 4096;
    }
    while let Some((&length, after)) = rest.split_first() {
        let (block, after) = after.split_at(usize::from(length).min(after.len()));
        rest = after;
        let mut lines = Vec::new();
        let decoded = decoder.decode(block, |line| lines.push((line.name().to_vec(), line.value().to_vec())));
        let expected = simple.decode(block);
        assert_eq!(decoded.is_ok(), expected.is_some(), "{}", block.escape_ascii());
        let Some(expected) = expected else { return };
        assert_eq!(lines, expected);
    }
});

struct Simple {
    /// Newest first.
    table: VecDeque<Line>,
    max: usize,
    limit: usize,
    change_due: bool,
}

impl Simple {
    fn decode(&mut self, mut bytes: &[u8]) -> Option<Vec<Line>> {
        let mut lines = Vec::new();
        while let Some(&first) = bytes.first() {
            match first {
                0x80.. => lines.push(self.line(take_integer(&mut bytes, 7)?)?),
                0x20..=0x3f => {
                    let size = take_integer(&mut bytes, 5)?;
                    if !lines.is_empty() || size > self.limit {
                        return None;
                    }
                    self.max = size;
                    self.change_due = false;
                    self.shrink();
                    continue;
                }
                _ => {
                    let kept = first >= 0x40;
                    let name = match take_integer(&mut bytes, if kept { 6 } else { 4 })? {
                        0 => take_string(&mut bytes)?,
                        index => self.line(index)?.0,
                    };
                    let line = (name, take_string(&mut bytes)?);
                    lines.push(line.clone());
                    if kept {
                        self.table.push_front(line);
                        self.shrink();
                    }
                }
            }
            if self.change_due {
                return None;
            }
        }
        Some(lines)
    }

    fn shrink(&mut self) {
        while self.table.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>() > self.max {
            self.table.pop_back();
        }
    }

    fn line(&self, index: usize) -> Option<Line> {
        if (1..=61).contains(&index) {
            // A test of the decoder has these.
            let mut line = None;
            let one = [0x80 | index as u8];
            Decoder::new(0).decode(&one, |found| line = Some((found.name().to_vec(), found.value().to_vec()))).ok()?;
            return line;
        }
        self.table.get(index.checked_sub(62)?).cloned()
    }
}

fn take_integer(bytes: &mut &[u8], prefix: u32) -> Option<usize> {
    let (&first, mut rest) = bytes.split_first()?;
    let full = (1usize << prefix) - 1;
    let mut value = usize::from(first) & full;
    if value == full {
        for nth in 0.. {
            let (&byte, after) = rest.split_first()?;
            rest = after;
            if nth == 4 {
                return None;
            }
            value += usize::from(byte % 128) * 128usize.pow(nth);
            if byte < 128 {
                break;
            }
        }
    }
    *bytes = rest;
    Some(value)
}

fn take_string(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let coded = *bytes.first()? >= 0x80;
    let length = take_integer(bytes, 7)?;
    let string = bytes.get(..length)?;
    *bytes = &bytes[length..];
    if coded { read_bit_by_bit(string) } else { Some(string.to_vec()) }
}

fn read_bit_by_bit(string: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let (mut code, mut length) = (0u32, 0);
    for bit in string.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)) {
        code = code << 1 | u32::from(bit);
        length += 1;
        let (mut next, mut before) = (0u32, 5);
        for (bits, symbols) in code::SYMBOLS {
            next <<= bits - before;
            before = bits;
            if bits == length && (next..next + symbols.len() as u32).contains(&code) {
                text.push(symbols[(code - next) as usize]);
                (code, length) = (0, 0);
                break;
            }
            next += symbols.len() as u32;
        }
        if length == 30 {
            return None;
        }
    }
    (length < 8 && code == (1 << length) - 1).then_some(text)
}
