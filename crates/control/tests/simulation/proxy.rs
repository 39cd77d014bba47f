//! A proxy: a client of discovery, what came of its payloads, the snapshot that is in force, and the memory of its worker.
//!
//! Owned by a `member`. What `proxy::feed` and the sidecar do with batches, with the disk and with worlds is done here with the same
//! functions of the product: the loader, `attach`, `compile_station` or `compile`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use transept_engine::Snapshot;
use transept_engine::balance::Turns;
use transept_engine::compile::mesh::{AppPort, AppProtocol, Inbound, Outbound, Station, compile_station};
use transept_engine::compile::{Compiled, compile};
use transept_engine::policies::MODEL_KINDS;
use transept_engine::traffic::Permit;
use transept_model::attach::{Locale, Surroundings, attach};
use transept_model::catalogue::catalogue;
use transept_model::load::{Broken, Past};
use transept_model::{Loader, SourceText, World};
use transept_xds::client::{Batch, Change, Settings, Settled};
use transept_xds::messages::{DeltaDiscoveryResponse, Node};
use transept_xds::refusal::{Reason, Refusal};
use transept_xds::{Client, Key, TypeUrl};

use crate::objects::{GATEWAY, NAMESPACE, SERVICES, identity, service_key};
use crate::truth::Archive;

/// Kinds that a sidecar asks for whole.
const SHARED: [&str; 3] = ["Namespace", "ReferenceGrant", "GatewayClass"];
/// Where the outbound ports of a sidecar begin, one for each service.
pub(crate) const OUTBOUND: u16 = 9001;
/// The port of every program.
pub(crate) const PROGRAM: u16 = 8080;

/// What a proxy is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Gateway,
    /// Beside a program that calls these services only.
    Sidecar(&'static str, BTreeSet<&'static str>),
    /// Beside a program that may call everything.
    Open(&'static str),
}

/// What of the configuration is in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct InForce {
    /// Versions of what is held.
    pub(crate) held: BTreeMap<Key, Arc<str>>,
    /// Policies that could not be used, and close their targets.
    pub(crate) broken: BTreeMap<Key, Bytes>,
}

/// What is on the disk.
#[derive(Clone, Debug, Default)]
struct Disk {
    held: Vec<(Key, Arc<str>, Bytes)>,
    broken: BTreeMap<Key, Bytes>,
}

pub(crate) struct Proxy {
    pub(crate) role: Role,
    pub(crate) client: Client,
    pub(crate) in_force: InForce,
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    pub(crate) turns: Turns,
    /// Requests that have not ended, each with where it went.
    pub(crate) under_way: Vec<(Option<Permit>, SocketAddr)>,
    broken: BTreeMap<Key, Bytes>,
    past: Option<Past>,
    number: u64,
    pub(crate) stale: bool,
    /// When what is held will be in force.
    publish_at: Option<Duration>,
    disk: Disk,
    /// Something newer than what is on the disk, or on its way there, is in force.
    unkept: bool,
    /// What is being written, and when that is done by the clock of the proxy.
    storing: Option<(Duration, Disk)>,
}

/// All types, in the order of the product.
pub(crate) fn types() -> &'static [TypeUrl] {
    static TYPES: LazyLock<Vec<TypeUrl>> = LazyLock::new(|| {
        let kinds = catalogue(MODEL_KINDS).into_iter();
        kinds.map(|kind| TypeUrl::of(kind.group, kind.versions.first().copied().unwrap_or("v1"), kind.kind)).collect()
    });
    &TYPES
}

fn text(key: &Key, payload: &Bytes) -> Option<SourceText> {
    Some(SourceText::new(key.to_string(), std::str::from_utf8(payload).ok()?))
}

/// The world of what is held and of broken policies.
pub(crate) fn load<'p>(
    parts: impl Iterator<Item = (&'p Key, &'p Bytes)>,
    past: Option<&Past>,
) -> Result<World, String> {
    let texts: Vec<SourceText> = parts.filter_map(|(key, payload)| text(key, payload)).collect();
    let mut loader = Loader::new(MODEL_KINDS).broken_policies(Broken::Kept);
    if let Some(past) = past {
        loader = loader.after(past);
    }
    let loaded = loader.load(&texts);
    match loaded.invalid.first() {
        Some(invalid) => Err(format!("what was received does not fit together: {}", invalid.why)),
        None => Ok(loaded.world),
    }
}

impl Proxy {
    pub(crate) fn new(role: Role) -> Self {
        let mut proxy = Self {
            client: Self::client(),
            role,
            in_force: InForce::default(),
            snapshot: None,
            turns: Turns::new(),
            under_way: Vec::new(),
            broken: BTreeMap::new(),
            past: None,
            number: 0,
            stale: false,
            publish_at: None,
            disk: Disk::default(),
            unkept: false,
            storing: None,
        };
        proxy.ask();
        proxy
    }

    pub(crate) fn is_gateway(&self) -> bool {
        self.role == Role::Gateway
    }

    fn client() -> Client {
        Client::new(Settings { node: Node::default(), types: types().to_vec(), servers: 2, ..Settings::default() })
    }

    /// What it asks for by name; none is everything.
    pub(crate) fn names(&self) -> Option<BTreeSet<Key>> {
        match &self.role {
            Role::Sidecar(own, called) => Some(called.iter().chain([own]).map(|name| service_key(name)).collect()),
            Role::Gateway | Role::Open(_) => None,
        }
    }

    /// Whether it asks for all of a type.
    pub(crate) fn wants_all(&self, type_url: &TypeUrl) -> bool {
        self.names().is_none() || SHARED.iter().any(|kind| type_url.as_str().ends_with(&format!("/{kind}")))
    }

    fn ask(&mut self) {
        for type_url in types() {
            if self.wants_all(type_url) {
                self.client.subscribe_all(type_url).expect("a known type");
            }
        }
        for key in self.names().into_iter().flatten() {
            self.client.subscribe(&key).expect("a known type");
        }
    }

    /// Another set of services that its program calls.
    pub(crate) fn call_others(&mut self, others: BTreeSet<&'static str>) {
        let before = self.names().unwrap_or_default();
        if let Role::Sidecar(_, called) = &mut self.role {
            *called = others;
        }
        let after = self.names().unwrap_or_default();
        for key in before.difference(&after) {
            self.stale |= self.client.unsubscribe(key).expect("a known type");
        }
        for key in after.difference(&before) {
            self.client.subscribe(key).expect("a known type");
        }
        self.stale |= self.forget_mended();
    }

    /// A new process, with the last good configuration from the disk.
    pub(crate) fn restart(&mut self) {
        let disk = self.disk.clone();
        *self = Self { disk, ..Self::new(self.role.clone()) };
        for (key, version, payload) in &self.disk.held {
            self.client.restore(key, version, payload.clone()).expect("a known type");
        }
        for key in self.disk.broken.keys() {
            self.client.restore_refused(key).expect("a known type");
        }
        self.broken = self.disk.broken.clone();
        self.stale = !self.disk.held.is_empty();
    }

    /// When it has to do something although nothing arrives. Nothing that it holds has an end of its own.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        let dial = (!self.client.is_connected()).then(|| self.client.wake_at()).flatten();
        dial.into_iter().chain(self.storing.as_ref().map(|(at, _)| *at)).chain(self.publish_at).min()
    }

    /// Takes a response in and settles it. False when the control plane breaks the protocol.
    pub(crate) fn receive(&mut self, now: Duration, bytes: &[u8], archive: &Archive) -> Result<(), String> {
        let response = DeltaDiscoveryResponse::decode(bytes).map_err(|error| error.to_string())?;
        let batch = self.client.receive(response).map_err(|breach| format!("a breach: {breach}"))?;
        let Some(batch) = batch else { return Ok(()) };
        let refusals = judge(&batch, archive)?;
        let guards = find_guards(&batch, &refusals);
        let settled = self.client.settle(now, batch, refusals);
        for (key, payload) in guards {
            if self.client.is_refused(&key) {
                self.broken.insert(key, payload);
            }
        }
        self.forget_mended();
        self.stale |= settled == Settled::Held && (self.number > 0 || self.client.is_synced());
        Ok(())
    }

    fn forget_mended(&mut self) -> bool {
        let before = self.broken.len();
        let client = &self.client;
        self.broken.retain(|key, _| client.is_refused(key));
        before != self.broken.len()
    }

    pub(crate) fn broken(&self) -> &BTreeMap<Key, Bytes> {
        &self.broken
    }

    /// Puts what is held into force when its time has come, and has it written to the disk, which takes until `stored`. A world takes
    /// some time to compile, and what arrives meanwhile is part of it.
    pub(crate) fn publish(&mut self, now: Duration, ready: Duration, stored: Duration) -> Result<(), String> {
        if self.stale {
            self.publish_at.get_or_insert(ready);
        }
        if self.publish_at.is_none_or(|at| at > now) {
            return Ok(());
        }
        (self.publish_at, self.stale) = (None, false);
        let holdings: Vec<(Key, Arc<str>, Bytes)> =
            self.client.holdings().map(|(key, held)| (key, held.version.clone(), held.payload.clone())).collect();
        let parts = holdings.iter().map(|(key, _, payload)| (key, payload));
        let world = load(parts.chain(&self.broken), self.past.as_ref())?;
        self.past = Some(world.past());
        self.number += 1;
        let compiled = compile_for(&self.role, &world, self.snapshot.as_deref(), self.number);
        let snapshot = compiled.install();
        self.turns.prune(&snapshot);
        self.snapshot = Some(snapshot);
        self.in_force = InForce {
            held: holdings.iter().map(|(key, version, _)| (key.clone(), version.clone())).collect(),
            broken: self.broken.clone(),
        };
        self.unkept |= self.client.is_synced();
        self.keep(stored);
        Ok(())
    }

    /// Begins to write to the disk what is held, unless that is going on; then it is written again after that.
    fn keep(&mut self, stored: Duration) {
        if self.storing.is_none() && std::mem::take(&mut self.unkept) {
            let held = self.client.holdings().map(|(key, held)| (key, held.version.clone(), held.payload.clone()));
            self.storing = Some((stored, Disk { held: held.collect(), broken: self.broken.clone() }));
        }
    }

    /// Notes that the disk is done; what it writes next takes until `stored`.
    pub(crate) fn store(&mut self, now: Duration, stored: Duration) {
        if let Some((_, disk)) = self.storing.take_if(|(at, _)| *at <= now) {
            self.disk = disk;
            self.keep(stored);
        }
    }
}

/// What of a batch the proxy cannot use. That is what the run means it not to be able to use, and nothing else.
fn judge(batch: &Batch, archive: &Archive) -> Result<Vec<Refusal>, String> {
    let mut refusals = Vec::new();
    for change in batch.changes() {
        let Change::Put { name, version, payload, .. } = change else { continue };
        let spec = archive.find(&Key::new(batch.type_url(), name), version)?;
        if spec.resource.payload() != payload {
            return Err(format!("{} arrives in version {version} with other contents", spec.key));
        }
        let refusal = spec.refusal(|key, payload| {
            let source = text(key, payload)?;
            Some(Loader::new(MODEL_KINDS).load(&[source]).invalid.into_iter().next()?.why)
        });
        if refusal.is_some() != spec.bad {
            return Err(format!("{} is refused: {refusal:?}", spec.key));
        }
        refusals.extend(refusal.map(|why| Refusal::new(name, version, Reason::Invalid, why)));
    }
    Ok(refusals)
}

/// The policies among what is refused whose targets can be told.
fn find_guards(batch: &Batch, refusals: &[Refusal]) -> Vec<(Key, Bytes)> {
    let mut guards = Vec::new();
    for change in batch.changes() {
        let Change::Put { name, payload, .. } = change else { continue };
        let key = Key::new(batch.type_url(), name);
        let Some(source) = text(&key, payload).filter(|_| refusals.iter().any(|refusal| *refusal.name == **name))
        else {
            continue;
        };
        let loaded = Loader::new(MODEL_KINDS).broken_policies(Broken::Kept).load(&[source]);
        if loaded.invalid.is_empty() && loaded.world.policies().iter().any(|policy| policy.broken.is_some()) {
            guards.push((key, payload.clone()));
        }
    }
    guards
}

/// Compiles a world for a place.
pub(crate) fn compile_for(role: &Role, world: &World, previous: Option<&Snapshot>, generation: u64) -> Compiled {
    let surroundings = Surroundings { locale: Locale::new(Some("a"), None), ..Surroundings::default() };
    let attached = attach(world, &surroundings);
    let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (own, http_proxy) = match role {
        Role::Gateway => return compile(world, &attached, previous, generation),
        Role::Sidecar(own, _) => (*own, None),
        Role::Open(own) => (*own, Some(local(3128))),
    };
    let outbound = (OUTBOUND..).zip(SERVICES).map(|(port, service)| Outbound {
        listen: local(port),
        service: service.to_owned(),
        namespace: NAMESPACE.to_owned(),
        port: 80,
    });
    let station = Station {
        namespace: NAMESPACE.to_owned(),
        workload: format!("{own}-1"),
        services: vec![own.to_owned()],
        identity: identity(own),
        inbound: vec![Inbound { listen: local(15008), announced: None }],
        app: vec![AppPort { port: 80, to: local(PROGRAM), protocol: AppProtocol::Http1 }],
        outbound: outbound.collect(),
        http_proxy,
        captured: None,
        plaintext: None,
        awake: None,
    };
    compile_station(world, &attached, &station, previous, generation)
}

/// The name of a proxy's service.
pub(crate) fn service_of(role: &Role) -> &'static str {
    match role {
        Role::Gateway => GATEWAY,
        Role::Sidecar(own, _) | Role::Open(own) => own,
    }
}
