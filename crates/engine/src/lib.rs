//! Transept's engine: given a snapshot, a request head and a time, decide.
//!
//! A functional core. [`compile`] turns a world of resources into a [`snapshot::Snapshot`]; the verbs of the road then decide about
//! one request at a time: [`admit()`], [`route()`], [`screen()`], [`pick`], [`judge()`], [`relay()`], with [`forwarded`] and [`trace`] before
//! them. Called by the proxy on the data path, by the control plane for `check` and status, and by `explain` and the cases offline:
//! always the same code, because time and randomness are arguments and nothing here does IO.

pub mod admit;
pub mod balance;
mod base64;
pub mod callout;
pub mod compile;
mod date;
pub mod document;
pub mod exchange;
pub mod explain;
pub mod expression;
pub mod ext_authz;
pub mod filters;
mod form;
pub mod forwarded;
pub mod health;
pub mod hops;
pub mod jose;
pub mod judge;
pub mod keep;
pub mod key;
pub mod learned;
pub mod limit;
pub mod login;
pub mod password;
pub mod pick;
pub mod policies;
pub mod principal;
mod protobuf;
pub mod reason;
pub mod redact;
pub mod relay;
pub mod reply;
pub mod role;
pub mod route;
pub mod rule;
pub mod screen;
pub mod services;
pub mod settings;
pub mod signature;
pub mod snapshot;
pub mod trace;
pub mod traffic;
pub mod verdict;

pub use admit::{admit, admit_connection, admit_stream, admit_to};
pub use exchange::{Connection, Exchange, Notes, Now};
pub use judge::judge;
pub use reason::Reason;
pub use relay::relay;
pub use route::{Routed, route};
pub use screen::screen;
pub use snapshot::Snapshot;
pub use verdict::{Reply, Verdict};
