//! Tests of `handshake`.
