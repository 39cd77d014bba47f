//! Why a handshake failed, in words for logs: what the TLS library says of a certificate is the name of a variant.
//!
//! Called by whoever dials and by whoever accepts, with the error of the handshake.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, OtherError};

/// The sentence about a failed handshake; of what is no matter of TLS, the operating system's.
pub(crate) fn in_words(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(why)) => format!("invalid peer certificate: {}", of_certificate(why)),
        Some(Error::AlertReceived(alert)) => of_alert(*alert),
        _ => error.to_string(),
    }
}

fn of_certificate(why: &CertificateError) -> String {
    use CertificateError as C;
    let text = match why {
        C::Other(OtherError(cause)) => return cause.to_string(),
        C::Expired => "it has expired",
        C::NotValidYet => "it is not valid yet",
        C::UnknownIssuer => "none of the authorities that are trusted has issued it",
        C::NotValidForName => "it is for another name",
        C::BadSignature => "its signature is not that of its issuer",
        C::BadEncoding => "it cannot be read",
        // The others have a sentence in the library, or are what nobody meets.
        other => return other.to_string(),
    };
    text.to_owned()
}

fn of_alert(alert: AlertDescription) -> String {
    use AlertDescription as A;
    match alert {
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateRevoked
        | A::CertificateExpired
        | A::CertificateUnknown
        | A::UnknownCA
        | A::AccessDenied => format!("the peer refuses the certificate that it was shown (alert {alert:?})"),
        A::CertificateRequired => "the peer wants a certificate (alert CertificateRequired)".to_owned(),
        A::NoApplicationProtocol => "the peer speaks none of the protocols that were offered (ALPN)".to_owned(),
        other => format!("the peer ended the handshake (alert {other:?})"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_the_library_names_by_a_variant_is_a_sentence() {
        let told = |error: Error| in_words(&io::Error::new(io::ErrorKind::InvalidData, error));
        let own = CertificateError::Other(OtherError(Arc::new(io::Error::other("the root is not trusted"))));
        assert_eq!(told(Error::InvalidCertificate(own)), "invalid peer certificate: the root is not trusted");
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(told(unknown).ends_with("none of the authorities that are trusted has issued it"));
        let alert = Error::AlertReceived(AlertDescription::UnknownCA);
        assert_eq!(told(alert), "the peer refuses the certificate that it was shown (alert UnknownCA)");
        assert_eq!(in_words(&io::ErrorKind::ConnectionReset.into()), "connection reset");
    }
}
