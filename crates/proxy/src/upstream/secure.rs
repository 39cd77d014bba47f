//! Which TLS settings a try uses: found once per worker and backend, not once per request.
//!
//! Called by `connect.rs`. Building configurations is `tls/`.

use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashMap;
use rustls::pki_types::ServerName;
use transept_engine::reason::Reason;
use transept_engine::snapshot::{UpstreamProtocol, UpstreamTls};
use transept_model::certificate::KeyPair;

use super::connect::Destination;
use crate::failure::{Failure, Repeat, Side};
use crate::tls::UpstreamClient;
use crate::worker::Worker;

/// TLS settings with the server name that is sent and verified.
pub(crate) struct TlsChoice {
    pub client: UpstreamClient,
    pub name: ServerName<'static>,
    name_hash: u64,
    // An entry keeps what its key points at, so that the key cannot come to mean something else.
    _tls: Arc<UpstreamTls>,
    _identity: Option<Arc<KeyPair>>,
}

impl TlsChoice {
    /// What makes two connections interchangeable as far as TLS goes.
    pub(crate) fn key(&self) -> (u64, u64) {
        (self.client.number, self.name_hash)
    }
}

/// The choices that a worker has made since the last configuration.
#[derive(Default)]
pub(crate) struct TlsChoices {
    known: HashMap<ChoiceKey, Rc<TlsChoice>>,
}

#[derive(PartialEq, Eq, Hash)]
struct ChoiceKey {
    tls: usize,
    identity: usize,
    protocol: UpstreamProtocol,
    host: Option<Arc<str>>,
    address: std::net::IpAddr,
}

impl TlsChoices {
    /// Forgets everything; called when a new configuration is in force.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
    }
}

/// The TLS settings of a try.
///
/// # Errors
/// When the settings cannot be used.
pub(super) fn choose_tls(
    worker: &Worker,
    tls: &Arc<UpstreamTls>,
    destination: &Destination<'_>,
) -> Result<Rc<TlsChoice>, Failure> {
    let identity = tls.client_identity.as_ref().or(destination.identity);
    let host = tls.server_name.as_ref().or(destination.endpoint.host.as_ref());
    let key = ChoiceKey {
        tls: Arc::as_ptr(tls) as usize,
        identity: identity.map_or(0, |identity| Arc::as_ptr(identity) as usize),
        protocol: destination.protocol,
        host: host.cloned(),
        address: destination.endpoint.address.ip(),
    };
    if let Some(choice) = worker.tls_choices.borrow().known.get(&key) {
        return Ok(choice.clone());
    }
    let client =
        worker.shared.tls.client(tls, destination.protocol, identity).map_err(|why| unusable(why.to_string()))?;
    let name = match host {
        Some(host) => {
            ServerName::try_from(host.to_string()).map_err(|_| unusable(format!("{host} is not a server name")))?
        }
        None => ServerName::IpAddress(destination.endpoint.address.ip().into()),
    };
    let name_hash = worker.hasher.hash_one(&name);
    let choice = Rc::new(TlsChoice { client, name, name_hash, _tls: tls.clone(), _identity: identity.cloned() });
    worker.tls_choices.borrow_mut().known.insert(key, choice.clone());
    Ok(choice)
}

fn unusable(why: String) -> Failure {
    Failure::new(Side::Upstream, Reason::BackendTlsInvalid, Repeat::Never, why)
}
