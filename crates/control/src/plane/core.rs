//! What the control plane knows and may change, behind one lock: registry, tokens, rotation, and the resources that follow.
//!
//! Called by `serve` for proxies and by `admin` for people, always off the threads that wait for sockets: nothing is confirmed
//! before it is on the disk. What changed is put into the store of resources soon after, many changes at once, and never while
//! a proxy waits for its answer.

mod clock;
mod keys;
pub(super) mod lease;
mod measures;
mod presence;
mod refused;
mod resident;
mod roots;
mod share;
mod show;
mod sight;
mod sweep;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use rustls_pki_types::{CertificateDer, UnixTime};
use serde_json::Value;
use tokio::sync::{Notify, watch};
use transept_identity::authority::Issued;
use transept_identity::renew::Remaining;
use transept_identity::rotation::CLOCK_SLACK;
use transept_identity::svid::Leaf;
use transept_identity::token::BadToken;
use transept_identity::{Bundles, Fingerprint, LiveBundles, LiveSvid, Rotation, SpiffeId, Tokens, TrustDomain};
use transept_model::SourceText;
use transept_xds::mesh::{Answer, Beat};
use transept_xds::report::INTERVAL;
use transept_xds::source::Scope;
use transept_xds::{Key, Resource, TypeUrl};

use self::clock::Clock;
use super::ca::{Ca, CaError, NotSigned, make_directory};
use super::files::{Files, Reader};
use super::leases::Leases;
use super::registry::{self, Name, Registry, name_of};
use super::seen::Seen;
use super::sharing::Sharing;
use super::source::{self, GUARDS, Kinds};
use super::store::{Store, StoreError, Write};
use crate::follow::Trigger;
use crate::load::Loaded;
use crate::outside::Shelf;

use refused::Refused;
use roots::{Age, name_of_proxy};
pub use tokens::check_first_token;

/// The file of the store.
pub(super) const STATE: &str = "state.redb";
/// Proxies whose last word is longer ago are forgotten in lists.
const FORGET: Duration = Duration::from_secs(24 * 3600);
/// With more proxies than this, those that are not connected are forgotten at once: what they call themselves is their choice.
const MOST_MEMBERS: usize = 20_000;

/// How the control plane is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Whose authority it is.
    pub trust_domain: TrustDomain,
    /// How long certificates of workloads live.
    pub leaf_life: Duration,
}

/// Why the control plane does not start. Displays as a sentence.
#[derive(Debug)]
pub enum StartError {
    /// The directory cannot be made.
    Directory(String),
    /// The store.
    Store(StoreError),
    /// The authority.
    Ca(CaError),
    /// Its own certificate.
    Own(String),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Ca(error) => error.fmt(f),
            Self::Directory(why) | Self::Own(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for StartError {}

/// Why something asked for was not done. Displays as a sentence that is safe to send back.
#[derive(Debug)]
pub enum NotDone {
    /// The token is not good.
    Token(BadToken),
    /// The certificate is not signed.
    Sign(NotSigned),
    /// What people asked for makes no sense.
    Wrong(String),
    /// It cannot be stored now; the details are in the log.
    Store,
}

impl std::fmt::Display for NotDone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token(why) => why.fmt(f),
            Self::Sign(why) => why.fmt(f),
            Self::Wrong(why) => f.write_str(why),
            Self::Store => f.write_str("the control plane cannot store anything now"),
        }
    }
}

impl std::error::Error for NotDone {}

/// The state behind the lock.
#[derive(Debug)]
struct Inner {
    registry: Registry,
    /// Registrations that changed since they were stored last.
    unsaved: BTreeSet<Name>,
    leases: Leases,
    /// Counts the changes of the registrations.
    registrations: u64,
    /// Who is told of them, when a gateway lives in this process.
    follower: Option<Trigger>,
    /// The identity of that gateway.
    resident: Option<Arc<LiveSvid>>,
    tokens: Tokens,
    rotation: Rotation,
    /// When a root that is due is made again after a failure, counted from the start.
    no_root_before: Duration,
    /// ApiKeys and Consumers that are in no file, by kind and name.
    kept: BTreeMap<String, Value>,
    files: Arc<Files>,
    /// The keys of what is published beside the files.
    registered: BTreeSet<Key>,
    members: BTreeMap<String, Member>,
    sharing: Sharing,
    refused: Refused,
    /// What was made of the files, with the status of their objects.
    loaded: Option<Arc<Loaded>>,
    /// Why the latest attempt to load files was refused, and when.
    reload: Option<(Arc<crate::load::Refused>, SystemTime)>,
    /// Who had a certificate when the state was opened, those included whose leaf has ended; by what each is noted as.
    inherited: BTreeMap<String, Inherited>,
}

/// A member that the state knew of when it was opened.
#[derive(Debug, Clone)]
struct Inherited {
    /// What people call it; empty when that was never told.
    name: String,
    until: UnixTime,
    /// Whether it had no leaf but one of a root that was distrusted.
    refused: bool,
}

/// What is known of a proxy.
#[derive(Debug, Clone)]
struct Member {
    identity: String,
    /// What tells it from others of its name; empty when it does not say.
    instance: String,
    address: SocketAddr,
    leaf: Arc<Leaf>,
    /// Which root vouches for it.
    root: Option<Fingerprint>,
    streams: usize,
    seen: Instant,
    /// Whether it has said that it ends, and has not come back.
    left: bool,
    /// Types of this control plane that the proxy does not understand.
    lacks: BTreeSet<TypeUrl>,
    /// Services that the proxy asked for and that are not there.
    missing: BTreeSet<String>,
}

impl Member {
    /// Whether it is the proxy that is noted so.
    fn is(&self, noted: &str) -> bool {
        noted.split_once(' ').is_some_and(|(identity, instance)| identity == self.identity && instance == self.instance)
    }

    /// Whether it has ended as it said, so that nobody misses it.
    fn has_left(&self) -> bool {
        self.left && self.streams == 0
    }
}

/// What proxies may see: the resources, and who is a gateway.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    pub(super) resources: transept_xds::Store,
    pub(super) visible: Visible,
    /// Counts the changes of what is visible to whom.
    pub(super) rules: u64,
}

/// Secrets are for the gateways that use them, wherever they are, keys and whose they are for every gateway, and a gateway sees no other Gateway than itself; everything else is for every member.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Visible(source::Secrets);

impl Scope for Visible {
    type Viewer = SpiffeId;

    fn sees(&self, viewer: &SpiffeId, resource: &Resource) -> bool {
        let kind = resource.key().type_url.as_str();
        let is_gateway = kind.starts_with("gateway.networking.k8s.io/") && kind.ends_with("/Gateway");
        let is_key = matches!(kind, "transept.dev/v1alpha1/ApiKey" | "transept.dev/v1alpha1/Consumer");
        if !is_gateway && !is_key && kind != "core/v1/Secret" {
            return true;
        }
        let own = viewer.workload().map(|own| (own.namespace().to_owned(), own.service_account().to_owned()));
        let Visible(secrets) = self;
        let Some((own, named)) = own.and_then(|own| secrets.gateways.get_key_value(&own)) else { return is_gateway };
        let Some((namespace, name)) = resource.key().name.split_once('/') else { return false };
        if is_key {
            return true;
        }
        if is_gateway {
            return namespace == own.0 && name == own.1;
        }
        let secret = (namespace.to_owned(), name.to_owned());
        named.contains(&secret) || secrets.shared.contains(&secret)
    }
}

/// A running control plane, shared by everyone who serves it.
#[derive(Debug)]
pub struct Plane {
    setup: Setup,
    pub(super) kinds: Kinds,
    reader: Reader,
    store: Store,
    ca: Ca,
    pub(super) own: Arc<LiveSvid>,
    pub(super) bundles: LiveBundles,
    inner: Mutex<Inner>,
    pub(super) shelves: RwLock<Shelves>,
    /// Moves with every change of the shelves.
    pub(super) changed: watch::Sender<u64>,
    /// Moves with every stage of a change of roots.
    pub(super) turned: watch::Sender<u64>,
    /// Whether the control plane is being stopped; who serves a member listens.
    pub(super) ending: watch::Sender<bool>,
    stale: Notify,
    began: Instant,
    /// Whether members may hold what is not known here: the state was lost, or may be an older copy.
    may_lack: bool,
    clock: Mutex<Clock>,
    /// What proxies report.
    seen: Mutex<Seen>,
}

impl Plane {
    /// Opens the state in `directory`, which is made when it is not there.
    ///
    /// # Errors
    /// What is there cannot be used.
    pub fn open(directory: &Path, setup: Setup) -> Result<Arc<Self>, StartError> {
        make_directory(directory).map_err(|e| StartError::Directory(format!("{}: {e}", directory.display())))?;
        let path = directory.join(STATE);
        let age = if Ca::is_in(directory) { Age::Old } else { Age::New };
        if age == Age::Old && path.metadata().is_ok_and(|file| file.len() == 0) {
            return Err(StartError::Store(StoreError::Damaged(path, "it is empty".to_owned())));
        }
        let store = Store::open(&path).map_err(StartError::Store)?;
        let state = store.load().map_err(StartError::Store)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let now = now();
        let ca = Ca::open(directory, &setup.trust_domain, setup.leaf_life, provider, state.rotation.as_ref(), now);
        let ca = ca.map_err(StartError::Ca)?;
        let before = state.rotation.clone();
        // Whoever was away for so long has no certificate any more; or it is the clock.
        let may_be_ahead = before.as_ref().is_some_and(|rotation| {
            let last = rotation.noted_last(setup.leaf_life) + setup.leaf_life.as_secs() + CLOCK_SLACK.as_secs();
            now.as_secs() > last
        });
        let mut rotation = roots::restore(state.rotation, &ca, age, now).map_err(StartError::Own)?;
        if before.as_ref() != Some(&rotation) {
            store.commit(&[Write::Rotation(&rotation)]).map_err(StartError::Store)?;
        }
        // Who lived in the process that had the state before has ended with it.
        rotation.note_ended(resident::RESIDENT);
        ca.settle(&rotation).map_err(StartError::Ca)?;
        let own = ca.own_svid(now).map_err(StartError::Own)?;
        let bundle = roots::bundle_of(&ca, &rotation).map_err(StartError::Own)?;
        let inherited = roots::inherited(&rotation);
        let may_lack = rotation.awaits_unknown() || (before.is_none() && age == Age::Old);
        let inner = Inner {
            registry: Registry::restore(state.entries, Duration::ZERO),
            unsaved: BTreeSet::new(),
            leases: Leases::restore(state.leases),
            registrations: 0,
            follower: None,
            resident: None,
            tokens: state.tokens,
            rotation,
            no_root_before: Duration::ZERO,
            kept: state.objects,
            files: Arc::default(),
            registered: BTreeSet::new(),
            members: BTreeMap::new(),
            sharing: Sharing::restore(state.sharers),
            refused: Refused::default(),
            loaded: None,
            reload: None,
            inherited,
        };
        let bundles: Bundles = [bundle].into_iter().collect();
        let plane = Self {
            setup,
            kinds: Kinds::default(),
            reader: Reader::default(),
            store,
            ca,
            own: Arc::new(LiveSvid::new(own)),
            bundles: LiveBundles::new(bundles),
            inner: Mutex::new(inner),
            shelves: RwLock::default(),
            changed: watch::Sender::new(0),
            turned: watch::Sender::new(0),
            ending: watch::Sender::new(false),
            stale: Notify::new(),
            began: Instant::now(),
            may_lack,
            clock: Mutex::new(Clock::new(may_be_ahead)),
            seen: Mutex::new(Seen::new(INTERVAL)),
        };
        plane.publish(None);
        Ok(Arc::new(plane))
    }

    /// For how long nothing of which types is taken from members that they bring along and that is not known here: what has registered may be about to
    /// connect again, and a service must not be empty until it has, nor be without what guards it.
    pub(super) fn spares(&self) -> Option<(Duration, Arc<[TypeUrl]>)> {
        let rest = roots::RETURN.checked_sub(self.began.elapsed()).filter(|_| self.may_lack)?;
        let guards = GUARDS.map(|kind| ("transept.dev", kind));
        let spared = [("", "Service"), ("transept.dev", "Workload")].into_iter().chain(guards);
        Some((rest, spared.filter_map(|(group, kind)| self.kinds.type_of(group, kind)).collect()))
    }

    /// Whose control plane it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.setup.trust_domain
    }

    /// The authority.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// Takes in texts that have been found good, and has them sent. Call it before proxies are served.
    pub fn set_files(&self, texts: &[SourceText]) {
        self.take_files(Arc::new(self.read_files(texts)));
    }

    /// What texts hold that have been found good.
    pub(crate) fn read_files(&self, texts: &[SourceText]) -> Files {
        self.reader.read(texts, &self.kinds, &Shelf::default())
    }

    /// Has files sent in the place of those before. At once: a proxy that connects before would be told that nothing of it exists.
    pub(crate) fn take_files(&self, files: Arc<Files>) {
        self.publish(Some(files));
    }

    /// Puts changes into the store of resources whenever there are some, looks after leases, and renews the own certificate;
    /// never ends.
    pub async fn attend(self: Arc<Self>) {
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let swept = tokio::select! {
                _ = beat.tick() => true,
                () = self.stale.notified() => false,
            };
            let plane = self.clone();
            let work = tokio::task::spawn_blocking(move || {
                if swept {
                    plane.sweep(plane.began.elapsed());
                    plane.renew_own();
                    plane.renew_root(plane.began.elapsed());
                    plane.judge();
                } else {
                    plane.publish(None);
                }
            });
            if let Err(error) = work.await {
                tracing::error!(%error, "the control plane's own work failed");
            }
        }
    }

    /// Redeems a token for a certificate.
    pub(super) fn join(
        &self,
        token: &str,
        (nonce, node): (&[u8], &str),
        request: &[u8],
    ) -> Result<(Issued, SpiffeId), NotDone> {
        let now = now();
        let mut inner = self.lock();
        inner.tokens.recognize(token).map_err(NotDone::Token)?;
        let mut tokens = inner.tokens.clone();
        let grant = tokens.redeem(token, nonce, now).map_err(NotDone::Token)?;
        let id = grant.workload.id(self.trust_domain()).map_err(|error| NotDone::Wrong(error.to_string()))?;
        // A request that cannot be granted leaves the token as it is.
        let issued = self.ca.sign(request, &id, now).map_err(NotDone::Sign)?;
        let rotation = self.note_issued(&inner, &id, (nonce, node), &issued);
        self.store(&[Write::Tokens(&tokens), Write::Rotation(&rotation)])?;
        inner.tokens = tokens;
        inner.rotation = rotation;
        tracing::info!(%id, token = %grant.token, first = grant.first, "a workload has joined");
        Ok((issued, id))
    }

    /// Another certificate for an identity that is proven by one.
    pub(super) fn renew(&self, id: &SpiffeId, caller: (&[u8], &str), request: &[u8]) -> Result<Issued, NotDone> {
        let mut inner = self.lock();
        let issued = self.ca.sign(request, id, now()).map_err(NotDone::Sign)?;
        let rotation = self.note_issued(&inner, id, caller, &issued);
        self.store(&[Write::Rotation(&rotation)])?;
        inner.rotation = rotation;
        tracing::debug!(%id, "a certificate was renewed");
        Ok(issued)
    }

    /// Takes in a sign of life. `registered` is the workload of the stream, with its nonce, as far as there is one; `chain` is what
    /// the proxy shows.
    pub(super) fn beat(
        &self,
        beat: &mut Beat,
        (who, chain): (&SpiffeId, &[CertificateDer<'static>]),
        from: SocketAddr,
        registered: &mut Option<(Name, Vec<u8>)>,
    ) -> Result<Answer, NotDone> {
        let now = self.began.elapsed();
        let mut inner = self.lock();
        let mut refused = String::new();
        if let Some(mut workload) = beat.workload.take() {
            if workload.address.is_empty() {
                workload.address = from.ip().to_canonical().to_string();
            }
            let name = name_of(&workload);
            let done = registry::check_place(&workload, from.ip());
            match done.and_then(|origin| inner.registry.register(workload, who, &beat.nonce, origin, now)) {
                Ok(changed) => {
                    if changed {
                        inner.unsaved.insert(name.clone());
                    }
                    *registered = Some((name, beat.nonce.to_vec()));
                }
                Err(why) => refused = why.to_string(),
            }
        } else if let Some((name, nonce)) = registered {
            match inner.registry.beat(name, nonce, now) {
                Some(true) => {
                    inner.unsaved.insert(name.clone());
                }
                Some(false) => {}
                None => refused = "the registration has ended; register again".to_owned(),
            }
        }
        if let (true, Some((name, nonce))) = (beat.leaves, &*registered)
            && inner.registry.leave(name, nonce, now)
        {
            inner.unsaved.insert(name.clone());
        }
        self.save(&mut inner)?;
        self.note_report(&mut inner, who, beat, chain)?;
        drop(inner);
        Ok(Answer { refused, ..self.news(beat.bundle_sequence, chain) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What a panic left half done was not confirmed to anybody.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, writes: &[Write<'_>]) -> Result<u64, NotDone> {
        self.store.commit(writes).map_err(|error| {
            tracing::error!(%error, "the state cannot be stored");
            NotDone::Store
        })
    }

    /// Stores the registrations and leases that changed; they stay marked when that fails.
    fn save(&self, inner: &mut Inner) -> Result<(), NotDone> {
        let workloads = inner.unsaved.iter().map(|name| Write::Workload(name, inner.registry.stored(name)));
        let leases = inner.leases.unsaved().map(|(name, lease)| Write::Lease(name, lease));
        let changed: Vec<_> = workloads.chain(leases).collect();
        if changed.is_empty() {
            return Ok(());
        }
        self.store(&changed)?;
        inner.unsaved.clear();
        inner.leases.saved();
        self.note_registrations(inner);
        Ok(())
    }

    /// What is stored of the registrations has changed: it is published, and the gateway in this process hears of it.
    fn note_registrations(&self, inner: &mut Inner) {
        inner.registrations += 1;
        if let Some(follower) = &inner.follower {
            follower.registrations_changed();
        }
        self.stale.notify_one();
    }

    fn renew_own(&self) {
        if self.is_due(self.own.load().leaf()) {
            self.replace_own();
        }
    }

    /// Whether a certificate of this process is to be replaced. One that is due only since the clock has jumped waits until that has gone on
    /// evenly, or little is left: what is made by a clock that runs ahead is not valid yet for anybody else.
    fn is_due(&self, leaf: &Leaf) -> bool {
        match Remaining::at(now(), leaf.not_before, leaf.not_after) {
            Remaining::Plenty => false,
            Remaining::Half => !self.clock_has_jumped(),
            Remaining::Quarter | Remaining::Tenth | Remaining::Ended => true,
            // A root that is not valid yet either signs nothing.
            Remaining::NotYet => self.ca.authority().not_before().as_secs() <= now().as_secs(),
        }
    }

    fn replace_own(&self) {
        match self.ca.own_svid(now()) {
            Ok(svid) => self.own.store(svid),
            Err(error) => tracing::error!(%error, "the control plane's own certificate cannot be renewed"),
        }
    }

    /// Puts what is registered into the store of resources, and other files when there are some. What the files hold was made ready
    /// when it was read, so that a registration costs no more than the registrations.
    fn publish(&self, files: Option<Arc<Files>>) {
        let mut inner = self.lock();
        let mut put = Vec::new();
        let mut gone = std::mem::take(&mut inner.registered);
        if let Some(files) = files {
            let before = std::mem::replace(&mut inner.files, files);
            gone.extend(before.keys().iter().cloned());
            put.extend(inner.files.resources().cloned());
        }
        let files = inner.files.clone();
        // What is divided goes out with the number of those who divide it, and is left out where it stands without.
        put.retain(|resource: &Resource| !files.divided.contains_key(resource.key()));
        put.extend(self.divide(&mut inner, &files));
        let objects = inner.beside_files(&files);
        let registered = objects.iter().filter_map(|object| self.kinds.resource(object));
        // What a file says comes before what was registered under the same name.
        put.extend(registered.filter(|resource| !files.hold(resource.key())).inspect(|resource| {
            inner.registered.insert(resource.key().clone());
        }));
        gone.retain(|key| !files.hold(key) && !inner.registered.contains(key));
        let mut shelves = self.shelves.write().unwrap_or_else(PoisonError::into_inner);
        let before = shelves.resources.revision();
        for resource in put {
            shelves.resources.put(resource);
        }
        for key in &gone {
            shelves.resources.remove(key);
            inner.refused.forget_resource(key);
        }
        let is_visible = shelves.visible.0 == files.secrets;
        let moved = shelves.resources.revision() != before || !is_visible;
        if !is_visible {
            shelves.visible = Visible(files.secrets.clone());
            shelves.rules += 1;
        }
        drop(shelves);
        if moved {
            self.changed.send_modify(|count| *count += 1);
        }
    }
}

/// The wall clock, for certificates and tokens.
pub(super) fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime::since_unix_epoch(since)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_for_gateways() {
        let gateway = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "web", "namespace": "default"}, "spec": {"listeners": []}});
        let visible = Visible(source::secrets(&[gateway]));
        let viewer =
            |name: &str| SpiffeId::parse(&format!("spiffe://transept.local/ns/default/sa/{name}")).expect("an id");
        for kind in ["ApiKey", "Consumer"] {
            let object = json!({"apiVersion": "transept.dev/v1alpha1", "kind": kind,
                "metadata": {"name": "one", "namespace": "shop"}, "spec": {}});
            let resource = Kinds::default().resource(&object).expect("it travels");
            assert!(visible.sees(&viewer("web"), &resource), "{kind}");
            assert!(!visible.sees(&viewer("cart"), &resource), "{kind}");
        }
    }
}
