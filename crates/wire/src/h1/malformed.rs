//! The closed list of what can be wrong with a message.
//!
//! Called by every parser of `h1`. One table gives each fault its status, its stable code and its sentence, so that an
//! access log, an error page and a test speak of the same thing.

macro_rules! malformed {
    ($($(#[$doc:meta])+ $name:ident = $status:literal, $slug:literal, $sentence:literal;)+) => {
        /// What is wrong with a message. The connection it came on cannot be used any further.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum Malformed {
            $($(#[$doc])+ #[error($sentence)] $name,)+
        }

        impl Malformed {
            /// Every fault there is.
            pub const ALL: &[Malformed] = &[$(Malformed::$name),+];

            /// The status with which a request is answered. A response with the fault is 502, whatever this says.
            pub const fn status(self) -> u16 {
                match self { $(Malformed::$name => $status,)+ }
            }

            /// A stable code for logs and metrics: lower case and `_`.
            pub const fn slug(self) -> &'static str {
                match self { $(Malformed::$name => $slug,)+ }
            }
        }
    };
}

malformed! {
    /// The first byte is that of a TLS handshake record.
    TlsOnPlainPort = 400, "tls_on_plain_port", "a TLS handshake came to a port that speaks plain HTTP";
    /// Not `method SP target SP version` (RFC 9112 3).
    RequestLine = 400, "request_line", "the request line is not a method, a target and a version with one space between them";
    /// A request line without version.
    Http09 = 400, "http_09", "HTTP/0.9 is not spoken";
    /// A version that is neither HTTP/1.0 nor HTTP/1.1.
    Version = 505, "version", "the HTTP version is neither 1.0 nor 1.1";
    /// A method longer than any we know (RFC 9112 3).
    MethodTooLong = 501, "method_too_long", "the method is longer than any known one";
    /// The first line exceeds its limit.
    RequestLineTooLong = 414, "request_line_too_long", "the first line is too long";
    /// `#` in a target.
    Fragment = 400, "fragment", "the request target holds a fragment";
    /// Not one of the four forms of a target (RFC 9112 3.2), or a character outside visible ASCII.
    Target = 400, "target", "the request target has none of the forms that HTTP knows";
    /// `*` with a method other than OPTIONS (RFC 9112 3.2.4).
    AsteriskTarget = 400, "asterisk_target", "the request target * belongs to OPTIONS";
    /// A CONNECT whose target is not `host:port` (RFC 9112 3.2.3).
    ConnectTarget = 400, "connect_target", "the target of CONNECT is not a host and a port";
    /// A CONNECT with content.
    ConnectWithBody = 400, "connect_with_body", "CONNECT cannot have a body";
    /// HTTP/1.1 without `Host` (RFC 9112 3.2).
    HostMissing = 400, "host_missing", "the Host field is missing";
    /// More than one `Host` line.
    HostRepeated = 400, "host_repeated", "there is more than one Host field";
    /// `Host` or the authority of an absolute target is no authority.
    HostInvalid = 400, "host_invalid", "the Host is not a host with an optional port";
    /// An absolute target and `Host` name different hosts.
    HostMismatch = 400, "host_mismatch", "the request target and the Host field name different hosts";
    /// LF without CR.
    BareLf = 400, "bare_lf", "a line ends with LF instead of CRLF";
    /// CR without LF.
    BareCr = 400, "bare_cr", "there is a CR without LF";
    /// NUL.
    Nul = 400, "nul", "there is a NUL character";
    /// Another control character.
    ControlByte = 400, "control_byte", "there is a control character";
    /// A field name that is empty or no token, or a line without colon.
    FieldName = 400, "field_name", "a field line does not begin with a name and a colon";
    /// A space between name and colon (RFC 9112 5.1).
    SpaceBeforeColon = 400, "space_before_colon", "there is a space between a field name and its colon";
    /// `_` in a name, where that is refused.
    UnderscoreInName = 400, "underscore_in_name", "a field name holds an underscore";
    /// A line that begins with a space (RFC 9112 2.2 and 5.2).
    FoldedLine = 400, "folded_line", "a field line begins with a space";
    /// The head exceeds its limit.
    HeadTooLarge = 431, "head_too_large", "the head is too large";
    /// More field lines than allowed.
    TooManyFields = 431, "too_many_fields", "there are too many fields";
    /// More connection options than anybody needs.
    ConnectionOptions = 431, "connection_options", "the Connection field names too many options";
    /// Not a decimal number, or one beyond 2^64-1.
    ContentLength = 400, "content_length", "the Content-Length is not a decimal number";
    /// More than one `Content-Length`.
    ContentLengthRepeated = 400, "content_length_repeated", "there is more than one Content-Length";
    /// `Content-Length` and `Transfer-Encoding` (RFC 9112 6.1).
    LengthAndTransferEncoding = 400, "length_and_transfer_encoding", "there are both Content-Length and Transfer-Encoding";
    /// Not exactly `chunked`.
    TransferEncoding = 400, "transfer_encoding", "the Transfer-Encoding is not exactly chunked";
    /// A coding we do not implement (RFC 9112 6.1).
    UnknownTransferCoding = 501, "unknown_transfer_coding", "the Transfer-Encoding names a coding other than chunked";
    /// `Transfer-Encoding` in HTTP/1.0 (RFC 9112 6.1).
    TransferEncodingInHttp10 = 400, "transfer_encoding_in_http_10", "HTTP/1.0 has no Transfer-Encoding";
    /// `Expect` is not exactly `100-continue`.
    Expectation = 417, "expectation", "the Expect field is not 100-continue";
    /// A request for another protocol that has a body.
    UpgradeWithBody = 400, "upgrade_with_body", "a request to change the protocol cannot have a body";
    /// Not `HTTP/1.x SP 3DIGIT SP reason` (RFC 9112 4).
    StatusLine = 400, "status_line", "the status line is not a version, a status of three digits and a reason";
    /// Not one to sixteen hexadecimal digits (RFC 9112 7.1).
    ChunkSize = 400, "chunk_size", "a chunk size is not a hexadecimal number";
    /// A control character in a chunk extension.
    ChunkExtension = 400, "chunk_extension", "a chunk extension holds a control character";
    /// A line with a chunk size, or all extensions of a body together, exceed their limit.
    ChunkExtensionsTooLarge = 400, "chunk_extensions_too_large", "the chunk extensions are too large";
    /// The bytes after a chunk are not CRLF.
    ChunkTerminator = 400, "chunk_terminator", "a chunk does not end with CRLF";
    /// The trailer section exceeds its limits.
    TrailersTooLarge = 431, "trailers_too_large", "the trailer section is too large";
    /// The connection ended before the body did.
    Truncated = 400, "truncated", "the connection ended before the body did";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_statuses_are_errors() {
        let slugs: std::collections::HashSet<_> = Malformed::ALL.iter().map(|fault| fault.slug()).collect();
        assert_eq!(slugs.len(), Malformed::ALL.len());
        for fault in Malformed::ALL {
            assert!(matches!(fault.status(), 400 | 414 | 417 | 431 | 501 | 505), "{fault:?}");
            assert!(!fault.to_string().ends_with('.'));
        }
    }
}
