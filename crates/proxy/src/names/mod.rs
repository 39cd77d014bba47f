//! Mesh DNS: gives every service a virtual address, and answers a program's questions for its name. That of a headless service, and the
//! names below it, are answered with the addresses of its instances.
//!
//! The sidecar starts a [`NameServer`] beside the program and leads the program's questions to it (`capture`, or
//! `resolv.conf`). What a name means and which service an address stands for is in the pure [`Table`], which also says
//! where a captured connection to a virtual address is going. Questions that are not the mesh's go on to the name servers
//! of the system, byte for byte.
//!
//! Deliberately absent: which services there are, and a cache for the answers of others, who have their own.

mod answer;
mod forward;
mod server;
mod system;
mod table;

pub use server::{Counts, NameServer, Options};
pub use system::Resolvers;
pub use table::{Assigned, Instance, Meaning, MeshService, Realm, Table, Target};

/// The same number for the same bytes in every process and every version: FNV-1a, and a step that spreads what differs only
/// at the end.
pub(crate) fn stable_hash(bytes: &[u8]) -> u64 {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}
