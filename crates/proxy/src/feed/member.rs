//! The life of a member: an identity, a connection, what was received, what is registered; one task that owns it all.
//!
//! Started by `Feed`. Nothing in here waits for a peer, nor for the disk but for the small files of the identity: dialling,
//! reading and keeping are tasks that report by [`Event`]s, so that one slow thing holds up no other. When to dial and what to say is decided by `transept_xds::Client`, when to
//! renew by `transept_identity::renew`.

mod enrol;
mod link;
mod report;
pub(super) mod told;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_rustls::TlsConnector;
use transept_identity::renew::Renewal;
use transept_identity::{Bundle, LiveBundles, LiveSvid, SpiffeId, Svid};
use transept_model::load::Past;
use transept_xds::client::{Client, Settings, Settled};
use transept_xds::mesh::{Answer, Beat, Workload};
use transept_xds::messages::{DeltaDiscoveryResponse, Node};
use transept_xds::{Key, TypeUrl};

use self::enrol::{find_identity, join, renew};
use self::link::Link;
use super::broken::BrokenPolicies;
use super::contact::{Connection, Unreached, member_tls};
use super::disk::{Disk, Kept};
use super::objects::{self, Travelling};
use super::{FeedError, FeedOptions, Interest, Received, ServiceName, Standing};
use crate::sight::Sight;

/// How long to wait between beats until the control plane says how long.
const BEAT: Duration = Duration::from_secs(10);
/// Stands on the disk for the version of a policy that was refused.
const NO_VERSION: &str = "";
/// Events that may wait; who reports more waits for room.
const EVENTS: usize = 64;

/// What the holder of a feed wants.
#[derive(Debug)]
pub(super) enum Command {
    AskFor(BTreeSet<ServiceName>),
    Register(Workload),
    Report(Sight),
    Leave(oneshot::Sender<()>),
}

/// What happened outside. Those with a number belong to one connection and mean nothing once there is another.
enum Event {
    Opened(u64, Box<Link>),
    NotOpened(u64, Unreached),
    Response(u64, Box<DeltaDiscoveryResponse>),
    Answer(u64, Answer),
    Closed(u64, Option<Unreached>),
    Renewed(Result<Box<(Svid, Bundle)>, Unreached>),
    Stored(u64),
}

/// Everything that the task owns.
pub(super) struct Member {
    options: FeedOptions,
    disk: Disk,
    provider: Arc<CryptoProvider>,
    svid: Arc<LiveSvid>,
    bundles: LiveBundles,
    tls: TlsConnector,
    nonce: Bytes,
    client: Client,
    service: TypeUrl,
    received: watch::Sender<Arc<Received>>,
    standing: watch::Sender<Standing>,
    past: Option<Past>,
    /// Services about which everything was kept on the disk.
    restored: BTreeSet<ServiceName>,
    broken: BrokenPolicies,
    number: u64,
    began: Instant,
    link: Option<Link>,
    /// Counts connections.
    links: u64,
    renewal: Renewal,
    renew_at: Option<Duration>,
    beat_at: Option<Duration>,
    interval: Duration,
    /// Whether the next beat carries the workload.
    introduce: bool,
    leaving: Option<oneshot::Sender<()>>,
    /// Beats on this connection that were not answered yet.
    unanswered: usize,
    /// The number of the configuration that is being written.
    storing: Option<u64>,
    /// What is reported, once the proxy runs.
    sight: Option<Sight>,
    reports: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
}

impl Member {
    /// Finds an identity, on the disk or by joining, and takes in what was kept.
    pub(super) async fn prepare(
        options: FeedOptions,
        received: watch::Sender<Arc<Received>>,
        standing: watch::Sender<Standing>,
    ) -> Result<Self, FeedError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let disk = Disk::open(&options.state)
            .map_err(|error| FeedError::State(format!("{}: {error}", options.state.display())))?;
        let nonce = disk.nonce(random(&provider)).map_err(FeedError::State)?;
        let (svid, bundle) = match find_identity(&options, &disk, &provider)? {
            Some(identity) => identity,
            None => join(&options, &disk, &provider, &nonce, &standing).await?,
        };
        let leaf = svid.leaf();
        let renewal = Renewal::new(leaf.not_before, leaf.not_after);
        let svid = Arc::new(LiveSvid::new(svid));
        let bundles = LiveBundles::new([bundle].into_iter().collect());
        let tls = member_tls(svid.clone(), bundles.clone(), provider.clone()).map_err(FeedError::Crypto)?;
        let kinds = objects::kinds();
        let client = Client::new(Settings {
            node: Node { id: options.node.clone(), user_agent_name: "transept".to_owned(), ..Node::default() },
            types: kinds.iter().map(|kind| kind.type_url.clone()).collect(),
            servers: options.control.len(),
            ..Settings::default()
        });
        let (reports, events) = mpsc::channel(EVENTS);
        let mut member = Self {
            disk,
            svid,
            bundles,
            tls,
            nonce: nonce.into(),
            client,
            service: objects::service_type(),
            received,
            standing,
            past: None,
            restored: BTreeSet::new(),
            broken: BrokenPolicies::default(),
            number: 0,
            began: Instant::now(),
            link: None,
            links: 0,
            renewal,
            renew_at: None,
            beat_at: None,
            interval: BEAT,
            introduce: options.workload.is_some(),
            leaving: None,
            unanswered: 0,
            storing: None,
            sight: None,
            reports,
            events,
            provider,
            options,
        };
        member.renew_at = Some(member.renewal.first_wait(now(), member.draw()));
        member.restore();
        member.subscribe(&kinds);
        Ok(member)
    }

    pub(super) fn svid(&self) -> &Arc<LiveSvid> {
        &self.svid
    }

    pub(super) fn bundles(&self) -> &LiveBundles {
        &self.bundles
    }

    /// Takes in what was kept on the disk.
    fn restore(&mut self) {
        for (type_url, name, version, contents) in self.disk.read_configuration() {
            let key = Key::new(&TypeUrl::from(type_url.as_str()), &name);
            // A kind that this version no longer knows is left out.
            if version == NO_VERSION {
                let _ = self.client.restore_refused(&key);
                self.broken.restore(key, contents.into());
            } else {
                let _ = self.client.restore(&key, &version, contents.into());
            }
        }
        if self.client.holdings().next().is_some() {
            self.restored = self.options.interest.services().cloned().unwrap_or_default();
            self.publish(true);
        }
    }

    fn subscribe(&mut self, kinds: &[Travelling]) {
        let services = self.options.interest.services().cloned().unwrap_or_default();
        let wanted = |kind: &&Travelling| match &self.options.interest {
            Interest::Everything => true,
            Interest::Services(_) => kind.shared,
            // Asked for all at once, Services come alone.
            Interest::OnDemand(_) => kind.shared || kind.type_url == self.service,
        };
        for kind in kinds.iter().filter(wanted) {
            // The types are the client's own.
            let _ = self.client.subscribe_all(&kind.type_url);
        }
        for service in services {
            let _ = self.client.subscribe(&self.key(&service));
        }
    }

    fn key(&self, (namespace, name): &ServiceName) -> Key {
        Key::new(&self.service, &format!("{namespace}/{name}"))
    }

    /// Until every handle to the feed is dropped.
    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            self.act();
            let wake = [self.client.wake_at(), self.renew_at, self.beat_at].into_iter().flatten().min();
            let wait = wake.map(|at| at.saturating_sub(self.began.elapsed()));
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                event = self.events.recv() => {
                    let mut next = event;
                    let mut changed = false;
                    // A burst is one change.
                    while let Some(event) = next {
                        changed |= self.take(event);
                        next = self.events.try_recv().ok();
                    }
                    if changed {
                        self.publish(false);
                    }
                }
                () = tokio::time::sleep(wait.unwrap_or(BEAT)) => {}
            }
        }
    }

    /// Does what is due.
    fn act(&mut self) {
        let now = self.began.elapsed();
        if !self.client.expire(now).is_empty() {
            self.publish(false);
        }
        if let Some(server) = self.client.dial(now) {
            self.dial(server);
        }
        if self.beat_at.is_some_and(|at| at <= now) {
            self.beat();
        }
        if self.renew_at.is_some_and(|at| at <= now) {
            self.renew_at = None;
            self.renew();
        }
        self.flush();
    }

    /// Sends what discovery has to say.
    fn flush(&mut self) {
        while let Some(request) = self.link.as_ref().and_then(|_| self.client.next_request()) {
            let sent = self.link.as_mut().map(|link| link.discovery.send(&request));
            if let Some(Err(why)) = sent {
                self.close(Some(why));
            }
        }
        self.tell(|_| {});
    }

    fn dial(&mut self, server: usize) {
        self.links += 1;
        let (number, reports, tls) = (self.links, self.reports.clone(), self.tls.clone());
        let Some(address) = self.options.control.get(server).cloned() else { return };
        tokio::spawn(async move {
            let opened = match Connection::open(&address, &tls).await {
                Ok(connection) => Link::open(connection, number, reports.clone()).await,
                Err(why) => Err(why),
            };
            let event = match opened {
                Ok(link) => Event::Opened(number, Box::new(link)),
                Err(why) => Event::NotOpened(number, why),
            };
            // The task has ended: nobody needs the connection.
            let _ = reports.send(event).await;
        });
    }

    /// Gives the connection up.
    fn close(&mut self, why: Option<Unreached>) {
        if let Some(why) = &why {
            tracing::warn!(%why, "no control plane; what was received stays in force");
        }
        self.link = None;
        self.links += 1;
        self.unanswered = 0;
        self.beat_at = None;
        self.introduce = self.options.workload.is_some();
        let random = self.draw();
        self.client.disconnected(self.began.elapsed(), random);
        self.tell(|standing| {
            standing.failure = why.map(|why| why.to_string());
        });
        // Nobody is there to confirm it; the lease ends by itself.
        if let Some(done) = self.leaving.take() {
            let _ = done.send(());
        }
    }

    /// Takes an event in; true when the configuration has changed.
    fn take(&mut self, event: Event) -> bool {
        let current = self.links;
        match event {
            Event::Opened(number, link) if number == current => {
                tracing::info!("connected to a control plane");
                self.link = Some(*link);
                self.begin_reports();
                self.client.connected(self.began.elapsed());
                self.tell(|standing| standing.failure = None);
                self.beat();
            }
            Event::NotOpened(number, why) if number == current => self.close(Some(why)),
            Event::Closed(number, why) if number == current => self.close(why),
            Event::Response(number, response) if number == current => return self.settle(*response),
            Event::Answer(number, answer) if number == current => self.take_answer(answer),
            Event::Renewed(outcome) => self.take_renewed(outcome),
            Event::Stored(number) => {
                self.storing = None;
                self.tell(|standing| standing.stored = number);
                if number < self.number {
                    self.keep();
                }
            }
            _ => {}
        }
        false
    }

    /// Reports over the open connection, if there is one and something to report.
    fn begin_reports(&mut self) {
        if let (Some(link), Some(sight)) = (&mut self.link, &self.sight) {
            link.begin_reports(sight, &self.options.node);
        }
    }

    fn settle(&mut self, response: DeltaDiscoveryResponse) -> bool {
        let batch = match self.client.receive(response) {
            Ok(Some(batch)) => batch,
            Ok(None) => return false,
            Err(breach) => {
                self.close(Some(Unreached::Away(format!("the control plane breaks the protocol: {breach}"))));
                return false;
            }
        };
        let refusals = objects::judge(&batch);
        for refusal in &refusals {
            let kind = batch.type_url();
            tracing::error!(resource = %format!("{kind} {}", refusal.name), why = %refusal.message, "a resource is refused");
        }
        let broken = BrokenPolicies::find(&batch, &refusals);
        let count = u64::try_from(batch.changes().len().saturating_sub(refusals.len())).unwrap_or(0);
        let settled = self.client.settle(self.began.elapsed(), batch, refusals);
        self.broken.take(broken, &self.client);
        self.flush();
        if settled == Settled::Held {
            self.tell(|standing| standing.received += count);
        }
        // Before everything has arrived for the first time there is only a part to show.
        settled == Settled::Held && (self.number > 0 || self.client.is_synced())
    }

    /// Makes a world of what is held, tells of it and has it kept.
    fn publish(&mut self, kept: bool) {
        let holdings: Vec<_> = self.client.holdings().map(|(key, held)| (key, held.payload.clone())).collect();
        let held = holdings.iter().map(|(key, payload)| (&key.type_url, &key.name, payload));
        let parts = held.chain(self.broken.parts());
        let Some(world) = objects::load(parts, self.past.as_ref()) else { return };
        self.past = Some(world.past());
        self.number += 1;
        let kept = kept || (self.received.borrow().kept && !self.client.is_synced());
        let answered = self.answered();
        self.received.send_replace(Arc::new(Received { world, number: self.number, kept, answered }));
        if !kept {
            self.keep();
        }
    }

    /// The Services that were asked for and about which everything is here.
    fn answered(&self) -> BTreeSet<ServiceName> {
        let asked = self.options.interest.services().into_iter().flatten();
        let is_here =
            |service: &&ServiceName| self.restored.contains(*service) || self.client.is_answered(&self.key(service));
        asked.filter(is_here).cloned().collect()
    }

    /// Writes the configuration to the disk, unless that is going on; then it is written again after that.
    fn keep(&mut self) {
        if self.storing.is_some() {
            return;
        }
        let number = self.number;
        self.storing = Some(number);
        let text = |payload: &Bytes| Some(std::str::from_utf8(payload).ok()?.to_owned());
        let broken = self.broken.parts().filter_map(|(type_url, name, payload)| {
            Some((type_url.as_str().to_owned(), name.to_string(), NO_VERSION.to_owned(), text(payload)?))
        });
        let items: Vec<Kept> = self
            .client
            .holdings()
            // What ends by itself must not outlive a restart.
            .filter(|(_, held)| held.ends.is_none())
            .filter_map(|(key, held)| {
                let version = held.version.to_string();
                Some((key.type_url.as_str().to_owned(), key.name.to_string(), version, text(&held.payload)?))
            })
            .chain(broken)
            .collect();
        let (disk, reports) = (self.disk.clone(), self.reports.clone());
        tokio::spawn(async move {
            let written = tokio::task::spawn_blocking(move || disk.write_configuration(&items)).await;
            if let Ok(Err(error)) = written {
                tracing::error!(%error, "the configuration cannot be kept on the disk");
            }
            let _ = reports.send(Event::Stored(number)).await;
        });
    }

    fn beat(&mut self) {
        let Some(link) = &mut self.link else { return };
        let introduce = self.introduce;
        let beat = Beat {
            workload: self.options.workload.clone().filter(|_| introduce),
            nonce: self.nonce.clone(),
            leaves: self.leaving.is_some(),
            bundle_sequence: sequence(&self.bundles, &self.svid.load().id().clone()),
            proxy: self.options.node.clone(),
        };
        let sent = link.beats.send(&beat);
        self.introduce = false;
        self.unanswered += 1;
        self.beat_at = Some(self.began.elapsed() + self.interval);
        if let Err(why) = sent {
            self.close(Some(why));
        }
    }

    /// What the answer to a beat says of it.
    fn take_confirmation(&mut self, answer: &Answer) {
        if answer.interval_ms > 0 {
            self.interval = Duration::from_millis(answer.interval_ms.into());
        }
        self.unanswered = self.unanswered.saturating_sub(1);
        // The last beat is the one that says it; an answer to one before confirms nothing.
        if self.unanswered == 0
            && let Some(done) = self.leaving.take()
        {
            self.options.workload = None;
            let _ = done.send(());
        }
        let refused = Some(answer.refused.clone()).filter(|why| !why.is_empty());
        if let Some(why) = &refused {
            tracing::warn!(%why, "the workload is not registered");
            self.introduce = true;
        }
        let registered = refused.is_none() && self.options.workload.is_some();
        self.tell(|standing| {
            standing.registered = registered;
            standing.refused = refused;
        });
    }

    fn take_answer(&mut self, answer: Answer) {
        if !answer.unasked {
            self.take_confirmation(&answer);
        }
        // Nothing planned is a renewal that is under way.
        if answer.renew && self.renew_at.is_some() {
            self.renew_at = Some(self.began.elapsed());
        }
        if !answer.bundle.is_empty() {
            match Bundle::from_jwks(self.svid.load().id().trust_domain(), &answer.bundle) {
                Ok(bundle) => self.hold_bundle(&bundle),
                Err(error) => tracing::error!(%error, "the control plane sends a bundle that cannot be used"),
            }
        }
    }

    /// Keeps a bundle, and only then uses it: what we say we hold survives a restart.
    fn hold_bundle(&mut self, bundle: &Bundle) {
        if let Err(error) = self.disk.write_bundle(bundle) {
            tracing::error!(%error, "the bundle cannot be kept on the disk");
            return;
        }
        let mut bundles = (*self.bundles.load()).clone();
        bundles.insert(bundle.clone());
        self.bundles.store(bundles);
        self.beat_at = Some(self.began.elapsed());
    }

    fn renew(&mut self) {
        let id = self.svid.load().id().clone();
        let (tls, provider, reports) = (self.tls.clone(), self.provider.clone(), self.reports.clone());
        let open = self.link.as_ref().map(|link| link.connection.clone());
        let (addresses, nonce) = (self.options.control.clone(), self.nonce.clone());
        tokio::spawn(async move {
            let mut outcome = Err(Unreached::Away("there is no control plane to ask".to_owned()));
            for address in &addresses {
                let connection = match &open {
                    Some(open) => Ok(open.clone()),
                    None => Connection::open(address, &tls).await,
                };
                outcome = match connection {
                    Ok(connection) => renew(&connection, &id, nonce.clone(), &provider).await.map(Box::new),
                    Err(why) => Err(why),
                };
                if outcome.is_ok() || open.is_some() {
                    break;
                }
            }
            let _ = reports.send(Event::Renewed(outcome)).await;
        });
    }

    fn take_renewed(&mut self, outcome: Result<Box<(Svid, Bundle)>, Unreached>) {
        let now_ = self.began.elapsed();
        let kept = outcome.and_then(|renewed| match self.disk.write_identity(&renewed.0) {
            Ok(()) => Ok(renewed),
            Err(error) => Err(Unreached::Away(format!("the certificate cannot be kept on the disk: {error}"))),
        });
        match kept {
            Ok(renewed) => {
                let (svid, bundle) = *renewed;
                let leaf = svid.leaf();
                self.renewal = Renewal::new(leaf.not_before, leaf.not_after);
                self.renew_at = Some(now_ + self.renewal.first_wait(now(), self.draw()));
                tracing::info!(id = %svid.id(), until = leaf.not_after.as_secs(), "the certificate was renewed");
                self.svid.store(svid);
                self.hold_bundle(&bundle);
                self.tell(|standing| standing.renewed += 1);
                // The connection ends with the certificate that it began with: the next one begins with the new one.
                if self.link.is_some() {
                    self.close(None);
                }
            }
            Err(why) => {
                let random = self.draw();
                let wait = self.renewal.wait_after_failure(now(), random);
                tracing::warn!(%why, again_in = ?wait, "the certificate is not renewed yet; the one before stays in use");
                self.renew_at = Some(now_ + wait);
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::AskFor(services) => {
                let Some(before) = self.options.interest.services() else { return };
                let (gone, new): (Vec<_>, Vec<_>) =
                    (before.difference(&services).cloned().collect(), services.difference(before).cloned().collect());
                let mut dropped = false;
                for service in &gone {
                    dropped |= self.client.unsubscribe(&self.key(service)).unwrap_or(false);
                }
                for service in &new {
                    let _ = self.client.subscribe(&self.key(service));
                }
                dropped |= self.broken.take(Vec::new(), &self.client);
                if let Interest::Services(asked) | Interest::OnDemand(asked) = &mut self.options.interest {
                    *asked = services;
                }
                if dropped {
                    self.publish(false);
                }
            }
            Command::Register(workload) => {
                self.options.workload = Some(workload);
                self.introduce = true;
                self.beat();
            }
            Command::Report(sight) => {
                self.sight = Some(sight);
                self.begin_reports();
            }
            Command::Leave(done) if self.link.is_some() && self.options.workload.is_some() => {
                self.leaving = Some(done);
                self.beat();
            }
            Command::Leave(done) => {
                self.options.workload = None;
                let _ = done.send(());
            }
        }
    }

    /// Tells how the connection stands, if that has changed.
    fn tell(&self, change: impl FnOnce(&mut Standing)) {
        let connected = self.link.is_some();
        let synced = connected && self.client.is_synced();
        self.standing.send_if_modified(|standing| {
            let before = standing.clone();
            change(standing);
            standing.connected = connected;
            standing.synced = synced;
            standing.registered &= connected;
            *standing != before
        });
    }

    fn draw(&self) -> u64 {
        u64::from_ne_bytes(random(&self.provider))
    }
}

/// The sequence of the bundle of our own trust domain.
fn sequence(bundles: &LiveBundles, id: &SpiffeId) -> u64 {
    bundles.load().of(id.trust_domain_name()).and_then(|bundle| bundle.sequence).unwrap_or(0)
}

fn random<const N: usize>(provider: &CryptoProvider) -> [u8; N] {
    let mut bytes = [0; N];
    // Without randomness keys cannot be made either; here it would only cost jitter.
    let _ = provider.secure_random.fill(&mut bytes);
    bytes
}

/// The wall clock, for certificates.
fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime::since_unix_epoch(since)
}
