//! HTTP/2 connections over a socket: the codec of `wire::h2`, driven by one task and used by the tasks of its streams.
//!
//! A [`Driver`] owns the socket and runs on a task of its own; a [`Stream`] belongs to the exchange that it carries. What
//! they share is a [`Link`]. Streams write into one buffer, and the driver hands it over when all tasks that were ready have
//! run: the responses of one turn of the loop leave in one system call. Called by `edge/h2_server.rs` and by `upstream/`.

mod driver;
mod link;
mod stream;

pub(crate) use driver::{Arrival, Driver, Over, Patience};
pub(crate) use link::{Cut, Link, Ungreeted};
pub(crate) use stream::{More, Stream};

#[cfg(test)]
mod tests;
