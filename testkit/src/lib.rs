//! Test peers: everything that stands around the real binary in a test.
//!
//! Used by road tests (which start the binary with scripted peers) and by the conformance runner. Nothing here uses a crate
//! of the product: a peer that shared the product's codec would also share its mistakes. So HTTP/1.1, WebSocket and the few
//! protobuf messages are written out here, slowly and plainly; HTTP/2 comes from the `h2` crate, TLS from rustls.
//!
//! - [`echo`]: servers that answer with what they saw;
//! - [`client`]: one request on one new connection, with exact control over the bytes, the names and the trust;
//! - [`dns`]: a name server that says what the test tells it to;
//! - [`peer`]: raw TCP peers that follow a script, for faults;
//! - [`launch`]: the real binary as a child process;
//! - [`parts`]: programs that a machine may lack;
//! - [`certificates`]: authorities and leaves, made in memory.

pub mod certificates;
pub mod client;
pub mod dns;
pub mod echo;
pub mod grpc;
pub mod h1;
pub mod launch;
pub mod parts;
pub mod peer;
mod protobuf;
mod sha1;
pub mod websocket;
