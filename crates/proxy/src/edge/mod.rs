//! The downstream edges: what a client's connection speaks, and how one request of it enters and leaves the road.
//!
//! `h1_server` and `h2_server` read requests and call [`crate::path::travel`]; [`Replier`] is the way back. Everything
//! between is the same for both protocols. Into a workload of the mesh lead `hbone` and `plaintext`, and from there `entry`.

mod entry;
pub(crate) mod h1_server;
pub(crate) mod h2_server;
pub(crate) mod hbone;
pub(crate) mod plaintext;
mod replier;
mod stream_tasks;

pub(crate) use replier::{Replier, linger};
pub(crate) use stream_tasks::StreamTasks;
