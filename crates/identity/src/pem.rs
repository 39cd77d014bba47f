//! PEM text out of DER, and certificates out of PEM text.
//!
//! Called where chains, roots and keys are written or read as text. What the bytes mean is left to the caller.

use data_encoding::BASE64;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{Error, PemObject as _};

/// Bytes per line: 64 characters (RFC 7468, section 2).
const LINE: usize = 48;

/// One block with lines of 64 characters (RFC 7468).
pub(crate) fn write(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    text.reserve(der.len() * 3 / 2 + label.len());
    for line in der.chunks(LINE) {
        BASE64.encode_append(line, &mut text);
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// The certificates as blocks, in their order.
pub(crate) fn write_certificates<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    certificates.into_iter().map(|der| write("CERTIFICATE", der)).collect()
}

/// Every certificate block of the text, in its order; blocks of another kind are passed over.
///
/// # Errors
/// What is damaged.
pub(crate) fn read_certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(|error| explain(&error))
}

/// The first block of a kind that the library does not know; none when there is none, or it is damaged.
pub(crate) fn read_other(label: &str, text: &str) -> Option<CertificateDer<'static>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (lines, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let characters: String = lines.split_whitespace().collect();
    BASE64.decode(characters.as_bytes()).ok().map(CertificateDer::from)
}

/// What is damaged, in words: the library gives lines of the text as lists of numbers.
pub(crate) fn explain(error: &Error) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match error {
        Error::MissingSectionEnd { end_marker } => {
            format!("the text ends before its line `-----END {}-----`", text(end_marker))
        }
        // What stands there may be part of a key.
        Error::IllegalSectionStart { .. } => "a line with `-----BEGIN` is not whole".to_owned(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_told_in_words() {
        let whole = write("CERTIFICATE", &[7; 100]);
        let cut = read_certificates(&whole[..whole.len() - 30]);
        assert_eq!(cut, Err("the text ends before its line `-----END CERTIFICATE-----`".to_owned()));
        let begun = read_certificates("-----BEGIN CERTIFICATE\nAAAA\n");
        assert_eq!(begun, Err("a line with `-----BEGIN` is not whole".to_owned()));
    }

    #[test]
    fn lines_have_64_characters_and_are_read_back() {
        for length in [0, 1, 47, 48, 49, 200] {
            let der = vec![7; length];
            let text = write("CERTIFICATE", &der);
            assert!(text.lines().all(|line| line.len() <= 64), "{text}");
            assert_eq!(read_certificates(&text), Ok(vec![CertificateDer::from(der)]));
        }
    }
}
