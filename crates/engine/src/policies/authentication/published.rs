//! Whether what should be a secret is a key of a pair, or a certificate: somebody else may know it, and whoever does could sign (RFC 8725 section 2.1).
//!
//! Asked of every secret for HMAC that a configuration names. It comes in the forms in which people keep keys, with text around them, and encoded once
//! more. What is as short and as random as a secret, such as the 32 bytes of an Ed25519 key alone or the number that is an RSA key, cannot be
//! told from one.

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};

/// No key is longer.
const LONGEST: usize = 64 * 1024;
/// No key, and no certificate, has less in it, however it is written.
const SHORTEST: usize = 32;
/// How often something may have been encoded: an entry of a Secret by hand, and the PEM in it.
const DEEPEST: usize = 3;
/// In how many places of a secret, and of what is encoded in it, a key is looked for.
const MOST_PLACES: usize = 256;
/// Words of which one stands in every key that is written as text, or beside it: in PEM, in what `openssl -text` and `-modulus` print, in a JWK, in keys
/// of SSH. In lower case.
const WORDS: &[&str] = &[
    "-----begin",
    "-----end",
    "public key",
    "public-key",
    "private key",
    "private-key",
    "modulus",
    "ssh-rsa",
    "ssh-ed25519",
    "ecdsa-sha2",
];

/// How what DER begins with, and PEM, begins when it is encoded, once and twice.
const STARTS: &[&[u8]] = &[
    b"MA", b"MB", b"MC", b"MD", b"ME", b"MF", b"MG", b"MH", b"MI", b"MJ", b"MK", b"ML", b"MM", b"MN", b"MO", b"MP",
    b"30", b"0x30", b"TU", b"LS0t", b"TFMw",
];

/// Whether a secret is a key of a pair or a certificate.
pub(super) fn is_key_of_a_pair(secret: &[u8]) -> bool {
    is_key(secret.get(..LONGEST).unwrap_or(secret), DEEPEST, &mut MOST_PLACES.clone())
}

fn is_key(bytes: &[u8], deeper: usize, places: &mut usize) -> bool {
    if is_der(bytes) {
        return true;
    }
    // UTF-16 is text with zeros between.
    let bytes: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    let inner = text.trim_matches(is_blank);
    let is_json = inner.starts_with(['{', '[']) && serde_json::from_str::<serde_json::Value>(inner).is_ok();
    if is_json || is_jwk(&text) || WORDS.iter().any(|word| text.contains(word)) {
        return true;
    }
    let Some(deeper) = deeper.checked_sub(1) else { return false };
    // Something may stand before it, and what is encoded may begin with each word that DER begins with when it is encoded.
    let starts = (1..bytes.len()).filter(|at| {
        let is_first = at.checked_sub(1).and_then(|before| bytes.get(before)).is_some_and(|byte| !is_digit(*byte));
        is_first && bytes.get(*at..).is_some_and(|rest| STARTS.iter().any(|start| rest.starts_with(start)))
    });
    for at in std::iter::once(0).chain(starts.take(64)) {
        let Some(left) = places.checked_sub(1) else { return false };
        *places = left;
        let inner = bytes.get(at..).and_then(decoded).filter(|inner| inner.len() >= SHORTEST);
        if inner.is_some_and(|inner| is_key(&inner, deeper, places)) {
            return true;
        }
    }
    false
}

/// Whether text has the member `kty` of a JWK in it (RFC 7517 section 4.1), in JSON, escaped JSON, YAML, or as programs print it.
fn is_jwk(text: &str) -> bool {
    let is_quote = |char: &char| char.is_whitespace() || matches!(char, '"' | '\'' | '\\');
    let plain: String = text.chars().filter(|char| !is_quote(char)).collect();
    plain
        .match_indices("kty:")
        .any(|(at, _)| plain.get(..at).is_some_and(|before| before.ends_with(['{', ',', '-']) || before.is_empty()))
}

/// What text may have at its ends beside white space.
fn is_blank(char: char) -> bool {
    char.is_whitespace() || matches!(char, '\u{feff}' | '\u{fffd}' | '"' | '\'')
}

/// Whether a byte may stand in base64 of either kind, and so in hexadecimal digits.
fn is_digit(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_')
}

/// What text stands for in hexadecimal digits, or else in base64 of either kind, to the first character that does not belong there. What
/// stands between digits where people break them into lines, quote and list them does not count.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let is_between = |byte: u8| byte.is_ascii_whitespace() || !byte.is_ascii() || b"\"':,;\\".contains(&byte);
    let text: Vec<u8> = text.iter().copied().filter(|byte| !is_between(*byte)).collect();
    let text = String::from_utf8(text).ok()?;
    // In base64 the same two characters may be part of the key.
    let hexadecimal = text.replace("0x", "");
    if hexadecimal.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return HEXLOWER_PERMISSIVE.decode(hexadecimal.as_bytes()).ok();
    }
    let digits = text.bytes().take_while(|byte| is_digit(*byte)).map(|byte| match byte {
        b'-' => b'+',
        b'_' => b'/',
        byte => byte,
    });
    let mut digits: Vec<u8> = digits.collect();
    let length = digits.len() * 3 / 4;
    digits.resize(digits.len().next_multiple_of(4), b'A');
    let mut bytes = BASE64.decode(&digits).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// The tag, the content and the rest of a value in DER (X.690 section 8.1).
fn value(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Whether bytes begin with a key or a certificate in DER: SubjectPublicKeyInfo and certificates (RFC 5280 section 4.1), PKCS #1, PKCS #8.
/// Random bytes do once in many millions.
fn is_der(bytes: &[u8]) -> bool {
    let Some((0x30, content, _)) = value(bytes) else { return false };
    if content.len() < SHORTEST {
        return false;
    }
    match value(content) {
        // The name of an algorithm; or a version or a number first, as certificates have it.
        Some((0x30, inner, _)) => matches!(value(inner), Some((0x06 | 0x02 | 0xa0, _, _))),
        // A modulus, or the version of a private key.
        Some((0x02, number, _)) => number.len() == 1 || number.len() >= 64,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64_MIME, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

    use super::*;

    /// An Ed25519 key, and RSA keys of 2,048 bits by their shape, one of which has `0x` in it wherever its base64 begins.
    fn keys() -> [Vec<u8>; 3] {
        let small = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        let large =
            [0x30, 0x82, 0x01, 0x22, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
        let marks = [0xd3, 0x1d, 0x31].repeat(92);
        [
            [&small[..], &[7; 32]].concat(),
            [&large[..], &[9; 0x126 - 17]].concat(),
            [&large[..], &[0], &marks, &[9]].concat(),
        ]
    }

    #[test]
    fn a_key_is_told_in_any_form() {
        for key in keys() {
            let (plain, url) = (BASE64.encode(&key), BASE64URL_NOPAD.encode(&key));
            let lines = BASE64_MIME.encode(&key);
            let pem = format!("-----BEGIN PUBLIC KEY-----\n{plain}\n-----END PUBLIC KEY-----\n");
            let pairs = HEXUPPER.encode(&key).into_bytes();
            let pairs: Vec<_> = pairs.chunks(2).map(|pair| String::from_utf8_lossy(pair).into_owned()).collect();
            let forms = [
                format!("# the key of the issuer\n{pem}"),
                format!("Bag Attributes\n    localKeyID: 01\n{pem}"),
                format!("\u{feff}{pem}"),
                BASE64.encode(pem.as_bytes()),
                BASE64.encode(BASE64_MIME.encode(pem.as_bytes()).as_bytes()),
                format!("\"{}\"", pem.replace('\n', "\\n")),
                pem.replace("-----BEGIN PUBLIC KEY-----\n", ""),
                format!("# the key of the issuer\n{lines}"),
                format!("tls.crt: {}", BASE64.encode(pem.as_bytes())),
                format!("key: {}", BASE64.encode(BASE64.encode(pem.as_bytes()).as_bytes())),
                format!("key: {plain} # of the issuer\n"),
                format!("'{}'", lines.replace("\r\n", "\\n")),
                HEXLOWER.encode(&key),
                pairs.join(":"),
                pairs.join(" "),
                format!("0x{}", pairs.concat()),
                format!("key: 0x{}", pairs.concat()),
                pairs.iter().map(|pair| format!("0x{pair}, ")).collect(),
                format!("{plain}\n"),
                pem,
                lines,
                url,
            ];
            for form in forms {
                assert!(is_key_of_a_pair(form.as_bytes()), "{form}");
                let wide: Vec<u8> = form.encode_utf16().flat_map(u16::to_le_bytes).collect();
                assert!(is_key_of_a_pair(&wide), "{form}");
            }
            assert!(is_key_of_a_pair(&key));
        }
        for form in [
            " {\"kty\": \"RSA\", \"n\": \"wQ\", \"e\": \"AQAB\"}".to_owned(),
            "[{\"kty\": \"RSA\"}]".to_owned(),
            "keys: {\"kty\": \"EC\"}".to_owned(),
            "\"{\\\"kty\\\":\\\"RSA\\\",\\\"n\\\":\\\"wQ\\\"}\"".to_owned(),
            "{'e': 'AQAB', 'kty': 'RSA'}".to_owned(),
            "{kty: RSA, n: wQ}".to_owned(),
            "kty: EC\ncrv: P-256\n".to_owned(),
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ me@here".to_owned(),
            "AAAAB3NzaC1yc2EAAAADAQABAAABgQDBAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
            "Public-Key: (2048 bit)\nModulus:\n    00:c1".to_owned(),
        ] {
            assert!(is_key_of_a_pair(form.as_bytes()), "{form}");
        }
    }

    #[test]
    fn a_text_full_of_beginnings_is_looked_through_in_bounded_time() {
        let mut text = "MA MA ".repeat(LONGEST / 6);
        for _ in 0..DEEPEST {
            text = BASE64.encode(text.as_bytes());
        }
        assert!(!is_key_of_a_pair(text.as_bytes()));
    }

    #[test]
    fn a_secret_is_none() {
        for secret in [
            &b"0123456789abcdef0123456789abcdef0123456789abcdef"[..],
            b"30123456789abcdef0123456789abcdef0123456789abcdef",
            b"MCowBQYDK2VwAyEA",
            b"{h4rd-to-gu3ss, and printable: it only begins like a key}",
            b"a long sentence, My own, that is 30 years old and nobody knows",
            &[0x30; 64],
            &[0xff; 64],
            b"",
        ] {
            assert!(!is_key_of_a_pair(secret), "{secret:?}");
        }
    }

    #[test]
    fn random_bytes_are_none_in_any_form() {
        for seed in 0..20_000_u32 {
            let bytes = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, &seed.to_le_bytes());
            let bytes = bytes.as_ref();
            let forms = [bytes, HEXLOWER.encode(bytes).as_bytes(), BASE64.encode(bytes).as_bytes()].map(<[u8]>::to_vec);
            assert!(forms.iter().all(|form| !is_key_of_a_pair(form)), "{seed}");
        }
    }
}
