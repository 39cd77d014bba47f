//! Transept's control crate: the configuration of one process, from its sources to a feed of compiled worlds.
//!
//! Called by the application. It reads files, follows them and runs every change through `model` and `engine`; it never touches
//! traffic, and speaks only to proxies that ask for their configuration (`plane`). A configuration that is refused never takes
//! the place of one that works.

mod follow;
mod joined;
mod load;
mod outside;
pub mod plane;
mod settle;
mod sources;
mod trace;
mod watch;

pub use follow::{StartError, Trigger, Update, follow, follow_apart, follow_joined};
pub use load::{Loaded, Loader, Outcome, Refused};
pub use sources::{Reading, Sources};
