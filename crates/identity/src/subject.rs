//! A certificate's subject as one line of text (RFC 4514), safe inside a quoted header value.
//!
//! Called when a leaf is read. The text is for logs and `x-forwarded-client-cert`; it is never an identity.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use x509_parser::asn1_rs::ToDer as _;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Short names that RFC 4514, section 3 lists; every other type is written as its dotted OID.
const SHORT: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
];

/// The name from its most specific part to its least (RFC 4514, section 2.1); empty when there is none.
pub(crate) fn write(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (index, part) in parts.iter().rev().enumerate() {
        if index > 0 {
            text.push(',');
        }
        for (index, attribute) in part.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            write_attribute(&mut text, attribute);
        }
    }
    text
}

fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type().to_id_string();
    text.push_str(SHORT.iter().find(|(id, _)| *id == oid).map_or(oid.as_str(), |(_, short)| short));
    text.push('=');
    match attribute.as_str() {
        Ok(value) => escape(text, value),
        Err(_) => {
            text.push('#');
            text.push_str(&HEXLOWER.encode(&attribute.attr_value().to_der_vec().unwrap_or_default()));
        }
    }
}

/// Everything special becomes a pair of hexadecimal digits (RFC 4514, section 2.4 allows it for any byte): no quote, no
/// backslash before the end of a quoted string and no control character is left for a reader to stumble over.
fn escape(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        let edge = (byte == b' ' && (at == 0 || at == last)) || (byte == b'#' && at == 0);
        let plain = (byte.is_ascii_graphic() || byte == b' ') && !br#""+,;<>=\"#.contains(&byte) && !edge;
        if plain {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_bytes_become_pairs_of_digits() {
        for (value, written) in [
            ("cart", "cart"),
            ("a,b;c=d", "a\\2Cb\\3Bc\\3Dd"),
            ("say \"hi\"\\", "say \\22hi\\22\\5C"),
            (" x ", "\\20x\\20"),
            ("#x#", "\\23x#"),
            ("a\r\nb", "a\\0D\\0Ab"),
            ("\u{e4}", "\\C3\\A4"),
            ("", ""),
        ] {
            let mut text = String::new();
            escape(&mut text, value);
            assert_eq!(text, written);
        }
    }
}
