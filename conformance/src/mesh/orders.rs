//! What the runner tells the part of itself that is inside a namespace, and what that part tells back: one line of JSON each.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::case::Via;

/// One thing to do inside a namespace.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(super) enum Order {
    /// Make the namespace one with an address and names.
    Settle(Place),
    /// Answer as a pod.
    Serve(Echoes),
    /// Run the control plane, and wait until it takes proxies.
    Control(Start),
    /// Run a sidecar, and wait until it is ready.
    Sidecar(Start),
    /// Tell the status of the sidecar.
    Status,
    /// Tell what the program that runs here has printed.
    Log,
    /// Call somebody once.
    Call(Call),
    /// Call somebody many times.
    Spread(Spread),
    /// End the program that runs here, in order.
    Stop,
}

/// The answer to an order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// What came of it.
    Done(serde_json::Value),
    /// Why it was not possible.
    Failed(String),
}

/// A place in the network.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Place {
    /// The own address.
    pub address: Ipv4Addr,
    /// The length of the prefix of all addresses on the link.
    pub prefix: u8,
    /// Where the way to everybody else begins.
    pub gateway: Ipv4Addr,
    /// Files that others take the place of, as a container finds them.
    pub files: Vec<(PathBuf, PathBuf)>,
}

/// An echo server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Echoes {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Ports for HTTP/1.1.
    pub http: Vec<u16>,
    /// Ports for gRPC in clear text.
    pub grpc: Vec<u16>,
}

/// The binary with its arguments.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    /// The binary.
    pub binary: PathBuf,
    /// All arguments.
    pub arguments: Vec<String>,
}

/// One request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    /// Protocol.
    pub via: Via,
    /// The name or the address to dial.
    pub to: String,
    /// The port to dial.
    pub port: u16,
    /// Host or `:authority`.
    pub authority: String,
    /// Path and query; not for gRPC.
    pub path: String,
    /// The other headers.
    pub headers: Vec<(String, String)>,
}

/// Many requests over connections that are kept open.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spread {
    /// What to send.
    pub call: Call,
    /// How many.
    pub requests: usize,
    /// How many at the same time.
    pub concurrency: usize,
}

/// What came back. Code OK of gRPC is status 200.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saw {
    /// Status.
    pub status: u16,
    /// Header fields of the response.
    pub fields: Vec<(String, String)>,
    /// The pod that answered; empty if none did.
    pub pod: String,
    /// The path and query that it saw.
    pub path: String,
    /// The header fields that it saw.
    pub seen: Vec<(String, String)>,
}

/// How many requests each pod answered.
pub(super) type Counts = BTreeMap<String, usize>;
