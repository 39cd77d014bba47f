//! A body: the same content and the same end however it is split, as a second decoder finds that is simple and slow.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transept_wire::h1::{Body, Decoder, Limits, Malformed};

fuzz_target!(|input: &[u8]| {
    let Some(([kind, step, offset], bytes)) = input.split_first_chunk() else {
        return;
    };
    let framing = match kind % 8 {
        0 => Body::None,
        1 => Body::Length(u64::from(*step)),
        2 => Body::UntilClose,
        _ => Body::Chunked,
    };
    let limits = Limits { chunk_line: 64, trailer_bytes: 256, trailer_fields: 4, ..Limits::default() };
    let whole = read(framing, bytes, bytes.len(), usize::MAX, &limits);
    let pieces = read(framing, bytes, usize::from(*offset), usize::from(*step).max(1), &limits);
    assert_eq!(whole, pieces);

    let Ok(read) = whole else { return };
    match framing {
        Body::None => assert!(read.done && read.consumed == 0),
        Body::Length(length) => {
            assert_eq!(read.data.len(), bytes.len().min(length as usize));
            assert_eq!(read.done, bytes.len() as u64 >= length);
        }
        Body::UntilClose => assert_eq!(read.data, bytes),
        // Those that are accepted are understood alike; those that only one refuses are over its limits.
        Body::Chunked if read.done => {
            let (data, consumed) = read_chunks_simply(bytes).expect("what was accepted is well-formed");
            assert_eq!((data, consumed), (read.data, read.consumed));
        }
        Body::Chunked => assert_eq!(read_chunks_simply(bytes), None),
    }
});

#[derive(Debug, PartialEq)]
struct Read {
    data: Vec<u8>,
    consumed: usize,
    done: bool,
    trailers: String,
}

fn read(framing: Body, bytes: &[u8], first: usize, step: usize, limits: &Limits) -> Result<Read, Malformed> {
    let mut decoder = Decoder::new(framing, limits);
    let mut read = Read { data: Vec::new(), consumed: 0, done: decoder.is_done(), trailers: String::new() };
    let mut arrived = first.min(bytes.len());
    loop {
        while read.consumed < arrived && !read.done {
            let rest = &bytes[read.consumed..arrived];
            let decoded = decoder.decode(rest)?;
            assert!(decoded.consumed > 0 && decoded.consumed <= rest.len());
            read.data.extend_from_slice(&rest[decoded.data]);
            read.consumed += decoded.consumed;
            read.done = decoded.done;
        }
        if arrived == bytes.len() || read.done {
            break;
        }
        arrived = arrived.saturating_add(step).min(bytes.len());
    }
    if let Some(trailers) = decoder.trailers() {
        assert!(trailers.len() <= limits.trailer_fields);
        read.trailers = format!("{trailers:?}");
    }
    assert_eq!(decoder.finish_eof().is_ok(), read.done || framing == Body::UntilClose);
    Ok(read)
}

/// Content and length of a complete chunked body, or nothing.
fn read_chunks_simply(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut data = Vec::new();
    let mut at = 0;
    loop {
        let line = take_line(bytes, &mut at)?;
        let digits = line.split(|&byte| byte == b';').next()?;
        if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if size == 0 {
            while !take_line(bytes, &mut at)?.is_empty() {}
            return Some((data, at));
        }
        data.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size;
        if !take_line(bytes, &mut at)?.is_empty() {
            return None;
        }
    }
}

fn take_line<'a>(bytes: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let rest = bytes.get(*at..)?;
    let end = rest.windows(2).position(|window| window == b"\r\n")?;
    *at += end + 2;
    Some(&rest[..end])
}
