//! What became of the sockets, in words.
//!
//! Called by `announce` and `standing` after every update. What a failure means for the status of listeners and Gateways is
//! `model`'s business. An address that is not of this machine is known before (`control` asks the system), so what fails here
//! is mostly a port: taken, or not allowed.

use std::io;
use std::net::SocketAddr;

use transept_engine::snapshot::Snapshot;
use transept_proxy::BindOutcome;

/// The names of the listeners on an address.
pub(super) fn names(snapshot: &Snapshot, address: SocketAddr) -> Vec<String> {
    snapshot
        .bind(&address)
        .map_or_else(Vec::new, |bind| bind.listeners.iter().map(|listener| listener.name.to_string()).collect())
}

/// A failed bind as a sentence with its remedy.
pub(crate) fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens on this port; stop it or choose another port".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "this port needs a privilege (CAP_NET_BIND_SERVICE); choose one from 1024 up".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "the address is not one of this machine".to_owned(),
        _ => error.to_string(),
    }
}

/// The sockets that could not be opened, each with the reason.
pub(super) fn failed(outcomes: &[BindOutcome]) -> Vec<(SocketAddr, String)> {
    let failure = |outcome: &BindOutcome| {
        let error = outcome.bound.as_ref().err()?;
        Some((outcome.address, explain(error)))
    };
    outcomes.iter().filter_map(failure).collect()
}
