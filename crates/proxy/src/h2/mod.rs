//! HTTP/2 connections over a socket: the codec of `wire::h2`, driven by one task and used by the tasks of its streams.
//!
//! A [`Driver`] owns the socket and runs on a task of its own; a [`Stream`] belongs to the exchange that it carries. What
//! they share is a [`Link`]. Streams write into one buffer, and the driver hands it over when all tasks that were ready have
//! run: the responses of one turn of the loop leave in one system call. Called by `edge/h2_server.rs` and by `upstream/`.

mod driver;
mod link;
mod stream;

use transept_wire::h2::Growth;

pub(crate) use driver::{Arrival, Driver, Over, Patience};
pub(crate) use link::{Cut, Link, Ungreeted};
pub(crate) use stream::{More, Stream};

/// Bytes that the other end may send in a tunnel before they are taken: little as long as nobody shows that he reads, since there may be a hundred tunnels whose
/// clients do not.
pub(crate) const TUNNEL_WINDOW: u32 = 64 * 1024;

/// What that grows to. Tunnels that are idle keep what they have grown by: so each may have enough for a network at hand, whatever others have.
pub(crate) const TUNNEL_GROWTH: Growth =
    Growth { largest: 4 * 1024 * 1024, each: 512 * 1024, together: 16 * 1024 * 1024 };

#[cfg(test)]
mod tests;
