//! What became of the sockets, written into the status of the listeners that wanted them.
//!
//! Called by `standing` after every update. A listener that shares its address with others shares its fate; a listener with
//! several addresses stays programmed while one of them is open. An address that is not of this machine is known before
//! (`control` asks the system), so what fails here is a port: taken, or not allowed.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use transept_engine::snapshot::{ListenerName, Snapshot};
use transept_model::status::Status;
use transept_proxy::BindOutcome;

/// The names of the listeners on an address.
pub(super) fn names(snapshot: &Snapshot, address: SocketAddr) -> Vec<String> {
    snapshot.bind(&address).map_or_else(Vec::new, |bind| {
        bind.listeners
            .iter()
            .map(|listener| listener.name.to_string())
            .collect()
    })
}

/// A failed bind as a sentence with its remedy.
pub(super) fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens on this port; stop it or choose another port".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "this port needs a privilege (CAP_NET_BIND_SERVICE); choose one from 1024 up".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "the address is not one of this machine".to_owned(),
        _ => error.to_string(),
    }
}

/// Marks every listener as not programmed that has no open address.
pub(super) fn judge(status: &mut Status, snapshot: &Snapshot, outcomes: &[BindOutcome]) {
    let mut fates: BTreeMap<&ListenerName, Vec<&BindOutcome>> = BTreeMap::new();
    for outcome in outcomes {
        let Some(bind) = snapshot.bind(&outcome.address) else {
            continue;
        };
        for listener in &bind.listeners {
            fates.entry(&listener.name).or_default().push(outcome);
        }
    }
    for (name, fate) in fates {
        if fate.iter().any(|outcome| outcome.bound.is_ok()) {
            continue;
        }
        let mut reason = "PortUnavailable";
        let mut why = Vec::new();
        for outcome in fate {
            let Err(error) = &outcome.bound else {
                continue;
            };
            if error.kind() == io::ErrorKind::AddrNotAvailable {
                reason = "AddressNotUsable";
            }
            why.push(format!("{}: {}", outcome.address, explain(error)));
        }
        status.refuse_listener(
            (&name.namespace, &name.gateway),
            &name.section,
            reason,
            &why.join("; "),
        );
    }
}
