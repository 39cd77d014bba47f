//! TLS configurations, built once per content and shared by all workers. The only part of the crate that builds rustls
//! configurations.
//!
//! Called at a handshake, with the settings that the snapshot holds. The snapshot keeps the same pointer as long as the
//! content is the same, so the pointer is the key; an entry holds its `Arc`, so a key cannot come to mean something
//! else while the entry lives.

mod client;
mod names;
mod server;
mod words;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ServerConfig};
use transept_engine::snapshot::{ServerTls, UpstreamProtocol, UpstreamTls};
use transept_model::certificate::KeyPair;

pub(crate) use words::in_words;

/// All TLS configurations in use.
pub(crate) struct TlsConfigs {
    provider: Arc<CryptoProvider>,
    servers: Mutex<HashMap<usize, ServerEntry>>,
    clients: Mutex<Clients>,
}

struct ServerEntry {
    tls: Arc<ServerTls>,
    config: Result<Arc<ServerConfig>, Arc<str>>,
}

#[derive(Default)]
struct Clients {
    issued: u64,
    known: HashMap<ClientKey, ClientEntry>,
}

#[derive(PartialEq, Eq, Hash)]
struct ClientKey {
    tls: usize,
    identity: usize,
    protocol: UpstreamProtocol,
}

struct ClientEntry {
    tls: Arc<UpstreamTls>,
    identity: Option<Arc<KeyPair>>,
    client: Result<UpstreamClient, Arc<str>>,
}

/// A client configuration with a number that no other content ever had, for the keys of connection pools.
#[derive(Clone)]
pub(crate) struct UpstreamClient {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) number: u64,
}

impl TlsConfigs {
    pub(crate) fn new() -> Self {
        Self {
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            servers: Mutex::default(),
            clients: Mutex::default(),
        }
    }

    /// The configuration of a listener.
    ///
    /// # Errors
    /// What the listener's certificates lack, as a sentence; the same every time until the content changes.
    pub(crate) fn server(&self, tls: &Arc<ServerTls>) -> Result<Arc<ServerConfig>, Arc<str>> {
        let key = Arc::as_ptr(tls) as usize;
        if let Some(entry) = lock(&self.servers).get(&key) {
            return entry.config.clone();
        }
        let config = server::build(tls, &self.provider).map(Arc::new).map_err(Arc::from);
        lock(&self.servers).insert(key, ServerEntry { tls: tls.clone(), config: config.clone() });
        config
    }

    /// The configuration towards a backend, showing `identity` to endpoints that ask.
    ///
    /// # Errors
    /// What cannot be used, as a sentence.
    pub(crate) fn client(
        &self,
        tls: &Arc<UpstreamTls>,
        protocol: UpstreamProtocol,
        identity: Option<&Arc<KeyPair>>,
    ) -> Result<UpstreamClient, Arc<str>> {
        let key = ClientKey {
            tls: Arc::as_ptr(tls) as usize,
            identity: identity.map_or(0, |identity| Arc::as_ptr(identity) as usize),
            protocol,
        };
        let mut clients = lock(&self.clients);
        if let Some(entry) = clients.known.get(&key) {
            return entry.client.clone();
        }
        clients.issued += 1;
        let number = clients.issued;
        let client = client::build(tls, protocol, identity.map(Arc::as_ref), &self.provider)
            .map(|config| UpstreamClient { config: Arc::new(config), number })
            .map_err(Arc::from);
        let entry = ClientEntry { tls: tls.clone(), identity: identity.cloned(), client: client.clone() };
        clients.known.insert(key, entry);
        client
    }

    /// Forgets what no snapshot uses any more; called after a new one is in force.
    pub(crate) fn forget_unused(&self) {
        lock(&self.servers).retain(|_, entry| Arc::strong_count(&entry.tls) > 1);
        lock(&self.clients).known.retain(|_, entry| {
            Arc::strong_count(&entry.tls) > 1 && entry.identity.as_ref().is_none_or(|pair| Arc::strong_count(pair) > 1)
        });
    }
}

/// The maps stay whole even if a thread panicked while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
