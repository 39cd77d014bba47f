//! Tests of `rotation`.
