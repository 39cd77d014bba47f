//! PEM text out of DER, and certificates out of PEM text.
//!
//! Called where chains, roots and keys are written or read as text. What the bytes mean is left to the caller.

use data_encoding::BASE64;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

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
/// What is damaged, in the words of the library.
pub(crate) fn read_certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

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
