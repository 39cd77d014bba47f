//! Bodies: chunks, extensions, trailers, and ends that come too early. Each body is read whole and byte by byte.

use super::*;

#[track_caller]
fn refused(row: &str, input: impl AsRef<[u8]>, why: Malformed) {
    let found = read_body(Body::Chunked, input.as_ref());
    assert_eq!(found.as_ref().err(), Some(&why), "{row}: {found:?}");
}

#[test]
fn lengths_end_where_they_say() {
    let content = read_body(Body::Length(5), "helloGET / HTTP/1.1").expect("a body");
    assert_eq!((content.data.as_slice(), content.consumed, content.done), (&b"hello"[..], 5, true));
    let content = read_body(Body::Length(0), "GET").expect("no body");
    assert_eq!((content.consumed, content.done), (0, true));
    let content = read_body(Body::None, "GET").expect("no body");
    assert_eq!((content.consumed, content.done), (0, true));
    let content = read_body(Body::UntilClose, "all of it").expect("a body");
    assert_eq!((content.data.as_slice(), content.done), (&b"all of it"[..], false));
}

#[test]
fn chunks_are_joined() {
    let input = "5\r\nhello\r\n00a;name=\"v a l\";x\r\n, world!!!\r\n0;last\r\n\r\nGET";
    let content = read_body(Body::Chunked, input).expect("a body");
    assert_eq!(content.data, b"hello, world!!!");
    assert_eq!((content.consumed, content.done), (input.len() - 3, true));
    assert!(content.trailers.is_empty());
    let content = read_body(Body::Chunked, "A\r\n0123456789\r\n000\r\n\r\n").expect("a body");
    assert_eq!((content.data.as_slice(), content.done), (&b"0123456789"[..], true));
}

#[test]
fn one_call_gives_one_piece() {
    let mut decoder = Decoder::new(Body::Chunked, &Limits::default());
    let input = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(decoder.remaining(), None);
    assert_eq!(decoder.decode(input), Ok(Decoded { consumed: 6, data: 3..6, done: false }));
    assert_eq!(decoder.decode(&input[6..12]), Ok(Decoded { consumed: 6, data: 5..6, done: false }));
    assert_eq!(decoder.remaining(), Some(1));
    assert_eq!(decoder.decode(&input[12..]), Ok(Decoded { consumed: 1, data: 0..1, done: false }));
    assert_eq!(decoder.decode(&input[13..]), Ok(Decoded { consumed: 7, data: 7..7, done: true }));
    assert_eq!(decoder.decode(b"next"), Ok(Decoded { consumed: 0, data: 0..0, done: true }));
    assert_eq!(decoder.remaining(), Some(0));
}

#[test]
fn attacks_on_chunks() {
    use Malformed::*;
    for (row, input, why) in [
        ("chunk-size: empty", "\r\n", ChunkSize),
        ("chunk-size: extension without size", ";x\r\n", ChunkSize),
        ("chunk-size: sign", "+5\r\nhello\r\n", ChunkSize),
        ("chunk-size: minus", "-5\r\n", ChunkSize),
        ("chunk-size: 0x", "0x5\r\nhello\r\n", ChunkSize),
        ("chunk-size: leading space", " 5\r\nhello\r\n", ChunkSize),
        ("chunk-size: trailing space", "5 \r\nhello\r\n", ChunkSize),
        ("chunk-size: space before an extension", "5 ;x\r\nhello\r\n", ChunkSize),
        ("chunk-size: no hex", "5g\r\n", ChunkSize),
        ("chunk-size: underscore", "1_0\r\n", ChunkSize),
        ("chunk-size: overflow", "10000000000000000\r\n", ChunkSize),
        ("chunk-size: bare LF", "5\nhello\r\n", BareLf),
        ("chunk-size: bare CR", "5\rXhello", BareCr),
        ("chunk-size: CR CR LF", "5\r\r\nhello", BareCr),
        ("TERM.EXT: bare LF in an extension", "5;a\nb\r\nhello\r\n", BareLf),
        ("EXT.TERM: bare CR in an extension", "5;a\rb\r\nhello\r\n", BareCr),
        ("chunk extension: NUL", "5;\0\r\nhello\r\n", Nul),
        ("chunk extension: control byte", "5;\x02\r\nhello\r\n", ChunkExtension),
        ("chunk terminator: LF", "5\r\nhello\n0\r\n\r\n", ChunkTerminator),
        ("chunk terminator: ONE.TWO", "5\r\nhelloXX0\r\n\r\n", ChunkTerminator),
        ("chunk terminator: TERM.SPILL", "5\r\nhello\rX0\r\n\r\n", ChunkTerminator),
        ("chunk terminator: data too long", "5\r\nhello!\r\n0\r\n\r\n", ChunkTerminator),
        ("trailers: bare LF", "0\r\nX: y\n\r\n", BareLf),
        ("trailers: bare LF as the empty line", "0\r\n\n", BareLf),
        ("trailers: obs-fold", "0\r\nX: y\r\n z\r\n\r\n", FoldedLine),
        ("trailers: no colon", "0\r\nX\r\n\r\n", FieldName),
        ("trailers: NUL", "0\r\nX: \0\r\n\r\n", Nul),
        ("trailers: bare CR", "0\r\nX: a\rb\r\n\r\n", BareCr),
        ("trailers: space before the colon", "0\r\nX : a\r\n\r\n", SpaceBeforeColon),
    ] {
        refused(row, input, why);
    }
    // The largest size is no fault; the content just never ends.
    let content = read_body(Body::Chunked, "ffffffffffffffff\r\nabc").expect("a body");
    assert_eq!((content.data.as_slice(), content.done), (&b"abc"[..], false));
}

#[test]
fn extensions_are_bounded_by_line_and_by_body() {
    let line = |length: usize| format!("1;{}\r\nx\r\n", "e".repeat(length));
    refused("per line", line(5000), Malformed::ChunkExtensionsTooLarge);
    refused("per line, endless", format!("1;{}", "e".repeat(5000)), Malformed::ChunkExtensionsTooLarge);
    refused("per body", line(1000).repeat(17), Malformed::ChunkExtensionsTooLarge);
    let paid = format!("1000;{}\r\n{}\r\n", "e".repeat(1000), "x".repeat(4096)).repeat(40) + "0\r\n\r\n";
    assert!(read_body(Body::Chunked, paid).expect("content pays for extensions").done);
}

#[test]
fn trailers_are_kept_apart_and_forbidden_ones_dropped() {
    let input = "1\r\nx\r\n0\r\nX-Sum: 5\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\nHost: evil\r\n\
                 Authorization: Bearer x\r\nCookie: a\r\nX-Forwarded-For: 1.1.1.1\r\nConnection: close\r\n\
                 grpc-status: 0\r\ngrpc-message: fine\r\nContent-Type: x\r\nX_Sum: 6\r\n\r\nNEXT";
    let content = read_body(Body::Chunked, input).expect("a body");
    let names: Vec<&str> = content.trailers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["X-Sum", "grpc-status", "grpc-message"]);
    assert_eq!(content.consumed, input.len() - 4);
    let only_forbidden = read_body(Body::Chunked, "0\r\nHost: evil\r\n\r\n").expect("a body");
    assert!(only_forbidden.done && only_forbidden.trailers.is_empty());
}

#[test]
fn trailers_are_bounded() {
    use Malformed::TrailersTooLarge;
    refused("bytes", format!("0\r\nX: {}\r\n\r\n", "y".repeat(20_000)), TrailersTooLarge);
    refused("bytes, endless", format!("0\r\nX: {}", "y".repeat(20_000)), TrailersTooLarge);
    refused("lines", format!("0\r\n{}\r\n", "X: y\r\n".repeat(33)), TrailersTooLarge);
}

#[test]
fn an_early_end_is_no_clean_end() {
    let limits = Limits::default();
    for (framing, input, clean) in [
        (Body::Length(5), "hell", false),
        (Body::Length(5), "hello", true),
        (Body::Chunked, "5\r\nhello\r\n", false),
        (Body::Chunked, "5\r\nhello\r\n0\r\n", false),
        (Body::Chunked, "5\r\nhello\r\n0\r\n\r\n", true),
        (Body::Chunked, "0\r\nX: y\r\n", false),
        (Body::UntilClose, "hello", true),
        (Body::None, "", true),
    ] {
        let mut decoder = Decoder::new(framing, &limits);
        let mut rest = input.as_bytes();
        while !rest.is_empty() {
            rest = &rest[decoder.decode(rest).expect("well-formed").consumed..];
        }
        assert_eq!(decoder.finish_eof(), if clean { Ok(()) } else { Err(Malformed::Truncated) }, "{input}");
        assert_eq!(decoder.is_done(), clean);
    }
}

#[test]
fn a_decoder_is_used_again() {
    let limits = Limits::default();
    let mut decoder = Decoder::new(Body::Chunked, &limits);
    decoder.decode(b"0\r\nX: y\r\n\r\n").expect("a body");
    assert!(decoder.trailers().is_some());
    decoder.reset(Body::Length(1), &limits);
    assert!(decoder.trailers().is_none() && !decoder.is_done());
    assert!(decoder.decode(b"x").expect("a body").done);
    assert!(decoder.trailers().is_none());
}
