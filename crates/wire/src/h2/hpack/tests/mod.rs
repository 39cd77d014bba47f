//! The examples of RFC 7541 appendix C, what is no block, and what changes the size of the table.

use super::huffman::tests::encode as huffman;
use super::*;

type Lines = Vec<(String, String)>;

/// A block in hexadecimal digits, its lines, and what the table holds after it.
type Example<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)]);

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Lines, BadBlock> {
    let mut lines = Vec::new();
    decoder.decode(block, |line| lines.push((text(line.name()), text(line.value()))))?;
    Ok(lines)
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn lines(expected: &[(&str, &str)]) -> Lines {
    expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Reads the blocks one after the other.
#[track_caller]
fn check(decoder: &mut Decoder, blocks: &[Example<'_>]) {
    for (hex, expected, table) in blocks {
        assert_eq!(read(decoder, &bytes(hex)), Ok(lines(expected)), "{hex}");
        let held: Lines = (0x80 + 62u8..).map_while(|index| read(decoder, &[index]).ok()).flatten().collect();
        assert_eq!(held, lines(table), "after {hex}");
    }
}

#[test]
fn literals_and_an_index() {
    // RFC 7541 C.2.
    let cases: [Example<'_>; 4] = [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            &[("custom-key", "custom-header")],
            &[("custom-key", "custom-header")],
        ),
        ("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")], &[]),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")], &[]),
        ("82", &[(":method", "GET")], &[]),
    ];
    for case in cases {
        check(&mut Decoder::new(4096), &[case]);
    }
}

const AUTHORITY: (&str, &str) = (":authority", "www.example.com");
const NO_CACHE: (&str, &str) = ("cache-control", "no-cache");
const CUSTOM: (&str, &str) = ("custom-key", "custom-value");
const REQUESTS: [&[(&str, &str)]; 3] = [
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), AUTHORITY],
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), AUTHORITY, NO_CACHE],
    &[(":method", "GET"), (":scheme", "https"), (":path", "/index.html"), AUTHORITY, CUSTOM],
];
const AFTER_REQUESTS: [&[(&str, &str)]; 3] = [&[AUTHORITY], &[NO_CACHE, AUTHORITY], &[CUSTOM, NO_CACHE, AUTHORITY]];

#[test]
fn requests() {
    // RFC 7541 C.3, and C.4 with Huffman coding.
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new(4096);
        for at in 0..3 {
            check(&mut decoder, &[(blocks[at], REQUESTS[at], AFTER_REQUESTS[at])]);
        }
    }
}

const PRIVATE: (&str, &str) = ("cache-control", "private");
const DATE: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
const LATER: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:22 GMT");
const LOCATION: (&str, &str) = ("location", "https://www.example.com");
const GZIP: (&str, &str) = ("content-encoding", "gzip");
const COOKIE: (&str, &str) = ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");
const S302: (&str, &str) = (":status", "302");
const S307: (&str, &str) = (":status", "307");
const RESPONSES: [&[(&str, &str)]; 3] = [
    &[S302, PRIVATE, DATE, LOCATION],
    &[S307, PRIVATE, DATE, LOCATION],
    &[(":status", "200"), PRIVATE, LATER, LOCATION, GZIP, COOKIE],
];
const AFTER_RESPONSES: [&[(&str, &str)]; 3] =
    [&[LOCATION, DATE, PRIVATE, S302], &[S307, LOCATION, DATE, PRIVATE], &[COOKIE, GZIP, LATER]];

#[test]
fn responses_with_a_table_of_256_bytes() {
    // RFC 7541 C.5, and C.6 with Huffman coding.
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d
         546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f
         6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b
         2076 6572 7369 6f6e 3d31",
    ];
    let coded = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7
         8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335
         dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new(4096);
        assert_eq!(read(&mut decoder, &bytes("3fe101")), Ok(Vec::new()));
        for at in 0..3 {
            check(&mut decoder, &[(blocks[at], RESPONSES[at], AFTER_RESPONSES[at])]);
        }
    }
}

#[test]
fn what_is_no_block() {
    let endless: &[u8] = &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00];
    let cases: [(&str, &[u8]); 16] = [
        ("index 0", &[0x80]),
        ("an index beyond the static table", &[0x80 + 62]),
        ("a name beyond the static table", &[0x40 + 0x3e, 0]),
        ("an index that is cut", &[0xff]),
        ("an index without end", endless),
        ("an index that is huge", &[0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        ("a literal without name", &[0x00]),
        ("a literal without value", &[0x00, 1, b'a']),
        ("a name that is cut", &[0x00, 2, b'a']),
        ("a value that is cut", &[0x00, 1, b'a', 2, b'b']),
        ("a length that is cut", &[0x00, 1, b'a', 0x7f]),
        ("a length that is huge", &[0x00, 1, b'a', 0x7f, 0xff, 0xff, 0xff, 0x7f, b'b']),
        ("the end of a string within one", &[0x00, 1, b'a', 0x84, 0xff, 0xff, 0xff, 0xff]),
        ("padding that is too long", &[0x00, 1, b'a', 0x82, 0x1f, 0xff]),
        ("padding with zeros", &[0x00, 1, b'a', 0x81, 0x18]),
        ("a change of the size after a field", &[0x82, 0x20]),
    ];
    for (name, block) in cases {
        assert_eq!(read(&mut Decoder::new(4096), block), Err(BadBlock), "{name}");
    }
}

#[test]
fn the_table_is_as_large_as_both_agreed() {
    let mut decoder = Decoder::new(8192);
    // 8192 = 31 + 8161, 8193 = 31 + 8162.
    assert_eq!(read(&mut decoder, &[0x3f, 0xe1, 0x3f, 0x82]).map(|lines| lines.len()), Ok(1));
    assert_eq!(read(&mut decoder, &[0x3f, 0xe2, 0x3f]), Err(BadBlock));
    // Several changes in a row are fine, and the last one holds.
    let mut decoder = Decoder::new(4096);
    assert_eq!(read(&mut decoder, &[0x20, 0x3f, 0xe1, 0x01, 0x40, 1, b'a', 1, b'b']), Ok(lines(&[("a", "b")])));
    assert_eq!(read(&mut decoder, &[0xbe]), Ok(lines(&[("a", "b")])));
    assert_eq!(read(&mut decoder, &[0x20]), Ok(Vec::new()));
    assert_eq!(read(&mut decoder, &[0xbe]), Err(BadBlock), "an empty table has no entry");
}

#[test]
fn a_smaller_table_has_to_be_acknowledged() {
    let mut decoder = Decoder::new(0);
    // The peer does not know yet.
    assert_eq!(read(&mut decoder, &[0x40, 1, b'a', 1, b'b']), Ok(lines(&[("a", "b")])));
    assert_eq!(read(&mut decoder, &[0xbe]), Ok(lines(&[("a", "b")])));
    decoder.settings_acknowledged();
    assert_eq!(read(&mut decoder, &[0x20, 0x82]), Ok(lines(&[(":method", "GET")])));
    assert_eq!(read(&mut decoder, &[0x82]), Ok(lines(&[(":method", "GET")])));
    assert_eq!(read(&mut decoder, &[0x21]), Err(BadBlock));

    let mut decoder = Decoder::new(100);
    decoder.settings_acknowledged();
    assert_eq!(read(&mut decoder, &[0x82]), Err(BadBlock), "the change is missing");
}

#[test]
fn a_name_may_be_that_of_the_entry_that_has_to_go() {
    let mut decoder = Decoder::new(4096);
    // Room for one entry of 32 + 3 + 1 bytes.
    assert_eq!(read(&mut decoder, &[0x3f, 0x05]), Ok(Vec::new()));
    assert_eq!(read(&mut decoder, &[0x40, 3, b'x', b'-', b'a', 1, b'1']), Ok(lines(&[("x-a", "1")])));
    assert_eq!(read(&mut decoder, &[0x7e, 1, b'2']), Ok(lines(&[("x-a", "2")])));
    assert_eq!(read(&mut decoder, &[0xbe]), Ok(lines(&[("x-a", "2")])));
    // What does not fit is a line all the same, and leaves nothing behind.
    assert_eq!(read(&mut decoder, &[0x7e, 2, b'3', b'3']), Ok(lines(&[("x-a", "33")])));
    assert_eq!(read(&mut decoder, &[0xbe]), Err(BadBlock));
}

#[test]
fn coded_names_and_values_meet_in_one_line() {
    let (name, value) = (huffman(b"x-name"), huffman(b"a value, coded"));
    let mut block = vec![0x40, 0x80 | name.len() as u8];
    block.extend_from_slice(&name);
    block.push(0x80 | value.len() as u8);
    block.extend_from_slice(&value);
    let mut decoder = Decoder::new(4096);
    assert_eq!(read(&mut decoder, &block), Ok(lines(&[("x-name", "a value, coded")])));
    assert_eq!(read(&mut decoder, &[0xbe]), Ok(lines(&[("x-name", "a value, coded")])));
}

#[test]
fn only_lines_that_say_so_are_never_indexed() {
    for (first, expected) in [(0x00, false), (0x10, true), (0x40, false)] {
        let mut never = Vec::new();
        let block = [first, 1, b'a', 1, b'b'];
        Decoder::new(0).decode(&block, |line| never.push(line.is_never_indexed())).expect("a block");
        assert_eq!(never, [expected], "{first:#x}");
    }
}

#[test]
fn an_encoder_answers_a_smaller_table_once() {
    let mut encoder = Encoder::new();
    let mut begun = |size: Option<usize>| {
        if let Some(size) = size {
            encoder.set_peer_table_size(size);
        }
        let mut out = Vec::new();
        encoder.begin(&mut out);
        out
    };
    assert_eq!(begun(None), []);
    assert_eq!(begun(Some(65_536)), []);
    assert_eq!(begun(Some(4096)), [0x20]);
    assert_eq!(begun(None), []);
    assert_eq!(begun(Some(0)), [0x20]);
    assert_eq!(begun(Some(4096)), []);
}
