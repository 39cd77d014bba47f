//! The life of a member: an identity, a connection, what was received, what is registered; one task that owns it all.
//!
//! Started by `Feed`. Nothing in here waits for a peer, nor for the disk but for the small files of the identity: dialling,
//! reading and keeping are tasks that report by [`Event`]s, so that one slow thing holds up no other. When to dial and what to say is
//! decided by `transept_xds::Client`. What was received is the matter of `holdings`, signs of life that of `beats`, certificate and
//! roots that of `identity`.

mod beats;
mod enrol;
mod holdings;
mod identity;
mod link;
mod report;
pub(super) mod told;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_rustls::TlsConnector;
use transept_identity::renew::Renewal;
use transept_identity::{Bundle, Fingerprint, LiveBundles, LiveSvid, Svid};
use transept_model::load::Past;
use transept_xds::client::{Client, Settings};
use transept_xds::mesh::{Answer, Workload, address_type, guard_type};
use transept_xds::messages::{DeltaDiscoveryResponse, INSTANCE, Node};
use transept_xds::{Key, TypeUrl};

use self::enrol::{find_identity, join};
use self::link::Link;
use super::broken::BrokenPolicies;
use super::contact::{Connection, Unreached, member_tls};
use super::disk::Disk;
use super::kept::KeptVersions;
use super::objects;
use super::{FeedError, FeedOptions, Interest, Received, ServiceName, Standing};
use crate::sight::Sight;

/// How long to wait between beats until the control plane says how long.
const BEAT: Duration = Duration::from_secs(10);
/// Events that may wait; who reports more waits for room.
const EVENTS: usize = 64;

/// What the holder of a feed wants.
#[derive(Debug)]
pub(super) enum Command {
    AskFor(BTreeSet<ServiceName>),
    AskAbout(BTreeSet<IpAddr>),
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
    Rejoined(Result<Box<(Svid, Bundle)>, Unreached>),
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
    /// Those that are asked about.
    addresses: BTreeSet<IpAddr>,
    received: watch::Sender<Arc<Received>>,
    standing: watch::Sender<Standing>,
    past: Option<Past>,
    /// Services about which everything was kept on the disk.
    restored: BTreeSet<ServiceName>,
    broken: BrokenPolicies,
    older: KeptVersions,
    number: u64,
    /// Whether something has arrived that nobody was told of yet.
    untold: bool,
    began: Instant,
    link: Option<Link>,
    /// Counts connections.
    links: u64,
    renewal: Renewal,
    renew_at: Option<Duration>,
    /// When it is tried again to keep the certificate in use on the disk, which has failed.
    keep_at: Option<Duration>,
    /// Whether the token is being tried again.
    rejoining: bool,
    /// Why the control plane and this proxy do not believe each other, as found last.
    unbelieved: Option<String>,
    /// Why the token has not helped.
    useless: Option<String>,
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
        disk: Disk,
        received: watch::Sender<Arc<Received>>,
        standing: watch::Sender<Standing>,
    ) -> Result<Self, FeedError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
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
            node: describe(&options.node, &nonce),
            types: kinds.iter().map(|kind| kind.type_url.clone()).chain([address_type(), guard_type()]).collect(),
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
            addresses: BTreeSet::new(),
            received,
            standing,
            past: None,
            restored: BTreeSet::new(),
            broken: BrokenPolicies::default(),
            older: KeptVersions::default(),
            number: 0,
            untold: false,
            began: Instant::now(),
            link: None,
            links: 0,
            renewal,
            renew_at: None,
            keep_at: None,
            rejoining: false,
            unbelieved: None,
            useless: None,
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

    fn key(&self, (namespace, name): &ServiceName) -> Key {
        Key::new(&self.service, &format!("{namespace}/{name}"))
    }

    /// Until every handle to the feed is dropped.
    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            self.act();
            let wake = [self.client.wake_at(), self.renew_at, self.keep_at, self.beat_at].into_iter().flatten().min();
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
                () = hears(self.sight.clone()) => self.tell_learned(),
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
        if self.keep_at.is_some_and(|at| at <= now) {
            self.keep_identity();
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
        let registered = self.options.workload.as_ref().and_then(|workload| workload.address.parse().ok());
        let here = registered.or(self.options.address);
        tokio::spawn(async move {
            let opened = match Connection::open_from(here, &address, &tls).await {
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
        let random = self.draw();
        self.client.disconnected(self.began.elapsed(), random);
        self.let_go();
        self.tell(|standing| {
            standing.unbelieved |= matches!(why, Some(Unreached::Distrusted(_)));
            standing.failure = why.map(|why| why.to_string());
        });
    }

    /// Has another connection take the place of this one, at once. Whoever waits for a word that the workload is out hears it there.
    pub(super) fn replace_link(&mut self) {
        self.client.begin_anew(self.began.elapsed());
        let leaving = self.leaving.take();
        self.let_go();
        self.leaving = leaving;
        self.tell(|_| {});
    }

    /// Forgets the connection and what was under way on it.
    fn let_go(&mut self) {
        self.link = None;
        self.links += 1;
        self.unanswered = 0;
        self.beat_at = None;
        self.introduce = self.options.workload.is_some();
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
                // Whatever was the matter with certificate and token is over.
                (self.unbelieved, self.useless) = (None, None);
                self.tell(|standing| {
                    standing.failure = None;
                    standing.unbelieved = false;
                });
                self.beat();
            }
            Event::NotOpened(number, why) if number == current => {
                let why = self.look_into(why);
                self.close(Some(why));
            }
            Event::Closed(number, why) if number == current => self.close(why),
            Event::Response(number, response) if number == current => return self.settle(*response),
            Event::Answer(number, answer) if number == current => self.take_answer(answer),
            Event::Renewed(outcome) => self.take_renewed(outcome),
            Event::Rejoined(outcome) => self.take_rejoined(outcome),
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

    fn obey(&mut self, command: Command) {
        match command {
            Command::AskFor(services) => {
                let Some(before) = self.options.interest.services() else { return };
                let (gone, new): (Vec<_>, Vec<_>) =
                    (before.difference(&services).cloned().collect(), services.difference(before).cloned().collect());
                let mut dropped = false;
                for service in &gone {
                    let key = self.key(service);
                    // What an older version needs stays, and ends with that.
                    if !self.older.adopt(&key) {
                        dropped |= self.client.unsubscribe(&key).unwrap_or(false);
                    }
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
            Command::AskAbout(addresses) => self.ask_about(addresses),
            Command::Register(workload) => {
                self.options.workload = Some(workload);
                self.introduce = true;
                self.beat();
            }
            Command::Report(sight) => {
                self.sight = Some(sight);
                self.begin_reports();
            }
            // Who has registered nothing has a certificate that nobody need wait for any more.
            Command::Leave(done) if self.link.is_some() => {
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
        let synced = connected && self.client.is_synced() && !self.untold;
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

/// Waits until the proxy beside a program hears it speak another protocol; for ever where nothing is seen yet.
async fn hears(sight: Option<Sight>) {
    match sight {
        Some(sight) => sight.hears().await,
        None => std::future::pending().await,
    }
}

/// What this proxy says of itself.
fn describe(name: &str, nonce: &[u8]) -> Node {
    Node {
        id: name.to_owned(),
        user_agent_name: "transept".to_owned(),
        client_features: vec![format!("{INSTANCE}{}", Fingerprint::of(nonce).short())],
        ..Node::default()
    }
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
