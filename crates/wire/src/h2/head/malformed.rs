//! The closed list of what can be wrong with a message of HTTP/2.
//!
//! Called by everything that reads one. One table gives each fault its status, its stable code and its sentence, as in
//! [`crate::h1::Malformed`]; a fault that both protocols know has the same code and sentence there.

macro_rules! malformed {
    ($($(#[$doc:meta])+ $name:ident = $status:literal, $slug:literal, $sentence:literal;)+) => {
        /// What is wrong with a message. Its stream cannot be used any further, its connection can (RFC 9113 8.1.1).
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

            /// The sentence.
            pub const fn as_str(self) -> &'static str {
                match self { $(Malformed::$name => $sentence,)+ }
            }
        }
    };
}

malformed! {
    /// A name that is empty or no token (RFC 9113 8.2.1).
    FieldName = 400, "field_name", "a field name is empty or holds a character that no name can hold";
    /// A capital letter in a name (RFC 9113 8.2).
    UpperCaseName = 400, "upper_case_name", "a field name holds a capital letter";
    /// `_` in a name, where that is not allowed.
    UnderscoreInName = 400, "underscore_in_name", "a field name holds an underscore";
    /// CR, LF, NUL or another control character in a value (RFC 9113 8.2.1).
    ControlByte = 400, "control_byte", "there is a control character";
    /// A value that begins or ends with a space or a tab (RFC 9113 8.2.1).
    SpaceAtEdge = 400, "space_at_edge", "a field value begins or ends with a space";
    /// A field that means a connection of HTTP/1.1 (RFC 9113 8.2.2).
    ConnectionField = 400, "connection_field", "there is a field that belongs to connections of HTTP/1.1";
    /// `TE` with anything but `trailers` (RFC 9113 8.2.2).
    Te = 400, "te", "the TE field says something other than trailers";
    /// A name that begins with a colon and is none of ours (RFC 9113 8.3).
    PseudoUnknown = 400, "pseudo_unknown", "there is a pseudo-field that nobody knows";
    /// A pseudo-field after a field (RFC 9113 8.3).
    PseudoLate = 400, "pseudo_late", "a pseudo-field stands after a field";
    /// A pseudo-field twice (RFC 9113 8.3).
    PseudoRepeated = 400, "pseudo_repeated", "a pseudo-field stands twice";
    /// `:status` in a request, or one of a request in a response (RFC 9113 8.3).
    PseudoMisplaced = 400, "pseudo_misplaced", "a pseudo-field of a request stands in a response or the other way round";
    /// A pseudo-field in trailers (RFC 9113 8.1).
    PseudoInTrailers = 400, "pseudo_in_trailers", "there is a pseudo-field in trailers";
    /// No `:method` (RFC 9113 8.3.1).
    MethodMissing = 400, "method_missing", "the :method is missing";
    /// No `:scheme` (RFC 9113 8.3.1).
    SchemeMissing = 400, "scheme_missing", "the :scheme is missing";
    /// No `:path` (RFC 9113 8.3.1).
    PathMissing = 400, "path_missing", "the :path is missing";
    /// No `:status` (RFC 9113 8.3.2).
    StatusMissing = 400, "status_missing", "the :status is missing";
    /// A method that is no token, or longer than any we know.
    Method = 400, "method", "the :method is not a token, or longer than any known one";
    /// A scheme other than `http` and `https`.
    Scheme = 400, "scheme", "the :scheme is neither http nor https";
    /// `#` in a path.
    Fragment = 400, "fragment", "the :path holds a fragment";
    /// A path that does not begin with a slash, or holds something other than visible ASCII (RFC 9113 8.3.1).
    Path = 400, "path", "the :path does not begin with a slash, or holds something other than visible ASCII";
    /// `*` with a method other than OPTIONS (RFC 9113 8.3.1).
    AsteriskPath = 400, "asterisk_path", "the :path * belongs to OPTIONS";
    /// CONNECT to a host (RFC 9113 8.5).
    ConnectNotOffered = 400, "connect_not_offered", "CONNECT is not offered";
    /// CONNECT to a host with a scheme or a path (RFC 9113 8.5).
    ConnectTarget = 400, "connect_target", "the target of CONNECT is not a host and a port";
    /// `:protocol` with a method other than CONNECT (RFC 8441 4).
    ProtocolWithoutConnect = 400, "protocol_without_connect", "the :protocol belongs to CONNECT";
    /// `:protocol` is no token.
    Protocol = 400, "protocol", "the :protocol is not a token";
    /// Neither `:authority` nor `Host`.
    HostMissing = 400, "host_missing", "there is neither :authority nor Host";
    /// More than one `Host`.
    HostRepeated = 400, "host_repeated", "there is more than one Host field";
    /// `:authority`, or the `Host` in its place, is no authority, or carries user information (RFC 9113 8.3.1).
    HostInvalid = 400, "host_invalid", "the Host is not a host with an optional port";
    /// `:authority` and `Host` are different (RFC 9113 8.3.1).
    HostMismatch = 400, "host_mismatch", ":authority and the Host field name different hosts";
    /// Not three digits, or 101, which HTTP/2 does not have (RFC 9113 8.3.2 and 8.6).
    Status = 400, "status", "the :status is not one of three digits that HTTP/2 has";
    /// Not a decimal number, or one beyond 2^64-1.
    ContentLength = 400, "content_length", "the Content-Length is not a decimal number";
    /// More than one `Content-Length`.
    ContentLengthRepeated = 400, "content_length_repeated", "there is more than one Content-Length";
    /// A `Content-Length` above zero on a head that ends its stream (RFC 9113 8.1.1).
    BodyMissing = 400, "body_missing", "there is a Content-Length and no body";
    /// `Expect` is not exactly `100-continue`.
    Expectation = 417, "expectation", "the Expect field is not 100-continue";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_statuses_are_errors() {
        let slugs: std::collections::HashSet<_> = Malformed::ALL.iter().map(|fault| fault.slug()).collect();
        assert_eq!(slugs.len(), Malformed::ALL.len());
        for fault in Malformed::ALL {
            assert!(matches!(fault.status(), 400 | 417), "{fault:?}");
            assert_eq!(fault.to_string(), fault.as_str());
            assert!(!fault.as_str().ends_with('.'));
        }
    }
}
