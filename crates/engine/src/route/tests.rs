//! Precedence of routes.
