//! The downstream edges: what a client's connection speaks, and how one request of it enters and leaves the road.
//!
//! `h1_server` and `h2_server` read requests and call [`crate::path::travel`]; [`Replier`] is the way back. Everything
//! between is the same for both protocols.

pub(crate) mod h1_server;
pub(crate) mod h2_server;
pub(crate) mod hbone;
mod replier;
mod stream_tasks;

pub(crate) use replier::{Replier, linger};
pub(crate) use stream_tasks::StreamTasks;
