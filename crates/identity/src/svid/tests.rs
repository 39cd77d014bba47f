//! Tests of `svid`.
