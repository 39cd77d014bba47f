//! Base64 (RFC 4648 section 4) of what clients send: one text for given bytes and no other.
//!
//! The library takes several padded texts in a row for one, so that the same bytes could be spelled in many ways: what is remembered by its text
//! would be new again, and two readers could disagree. Called wherever a client's base64 with padding is read; base64url is `jose`'s.

use data_encoding::BASE64_NOPAD;

/// The bytes of a text that ends with the padding it needs. None for every other spelling.
pub(crate) fn padded(text: &[u8]) -> Option<Vec<u8>> {
    text.len().is_multiple_of(4).then(|| decoded(text))?
}

/// The same, also of a text without padding.
pub(crate) fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 || padding > 0 && !text.len().is_multiple_of(4) {
        return None;
    }
    BASE64_NOPAD.decode(text.get(..text.len() - padding)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_one_spelling() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob")] {
            assert_eq!(padded(text.as_bytes()).as_deref(), Some(bytes.as_bytes()), "{text}");
            let bare = text.trim_end_matches('=');
            assert_eq!(decoded(bare.as_bytes()).as_deref(), Some(bytes.as_bytes()), "{bare}");
        }
        for text in ["Zg", "Zg=", "Zg===", "====", "=", "Zg==Zg==", "Zh==", "Zm9=", "Zm 9v", "Zm9v\n", "Zm9-", "Zg=A"] {
            assert_eq!(padded(text.as_bytes()), None, "{text}");
        }
        for text in ["Zg=", "Zg==Zg==", "Zh", "Z", "Zg===", "===="] {
            assert_eq!(decoded(text.as_bytes()), None, "{text}");
        }
    }
}
