//! The control plane of a mesh: registrations, certificates and configuration for proxies on other machines.
//!
//! Started by the application (`transept control`, `transept run --mesh`). The pieces: `registry` knows which instances live, `store` keeps
//! what must not be lost, `ca` signs, `source` turns files into resources, `adoption` which of them stay here, `members` knows whom they
//! make an instance of what, `strict` which endpoints may not be called, `seen` folds what proxies report, `core` joins them, `places`
//! bounds what is open, and what of it is one caller's, `serve` speaks to proxies, `api` to programs without one and `admin` to people;
//! `kept` reads the keys of a state that may be somebody else's.

pub mod admin;
mod adoption;
pub mod api;
pub mod ca;
pub mod core;
pub(crate) mod files;
mod kept;
pub mod leases;
pub mod members;
mod places;
pub mod registry;
mod seen;
pub mod serve;
mod sharing;
pub mod source;
pub mod store;
mod strict;

pub use admin::{Admin, KeyChange, Question, STARTING, TapFilter, Tapping, ask};
pub use api::{Api, ApiError, RATE, TlsFiles};
pub use core::{Plane, Setup, StartError, check_first_token};
pub use kept::{KeptError, kept, kept_beside};
pub use places::Capacity;
pub use seen::Verdict;
pub use serve::{Reporting, say_farewell, serve};
