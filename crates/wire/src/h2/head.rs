//! Message heads of HTTP/2 (RFC 9113 section 8).
