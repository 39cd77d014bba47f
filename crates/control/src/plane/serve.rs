//! Speaks to proxies: one port, mutual TLS, HTTP/2, and the gRPC methods of the control connection.
//!
//! Started by the application with a bound listener. Who calls is what the certificate says and nothing else. A connection
//! without one may join and do nothing more; a connection ends when the certificate does that it began with, or when its root is
//! distrusted, and serves nothing from then on. What is asked for is done by `core`, on threads that may wait for the disk.

mod call;
mod decline;
mod door;
mod report;

use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request};
use rustls::time_provider::DefaultTimeProvider;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use transept_identity::authority;
use transept_identity::handshake::{ClientAuth, server_config};
use transept_identity::svid::Leaf;
use transept_identity::{Accept, PeerVerifier, Purpose, Refusal, SpiffeId};
use transept_xds::grpc::{Code, Failed};
use transept_xds::mesh::{Answer, Beat, Issued, JOIN, JoinRequest, LONGEST, REGISTER, RENEW, RenewRequest};
use transept_xds::messages::{DeltaDiscoveryRequest, Node};
use transept_xds::report::{LONGEST as LONGEST_REPORT, METHOD as REPORTS};
use transept_xds::server::{Session, Settings};
use transept_xds::{Store, TypeUrl};

use self::call::{Call, Reply, accept, refuse};
use self::decline::decline;
use self::door::{Door, Greeting, Held, Inside, Trouble};
pub use self::report::Reporting;
use self::report::take_reports;
use super::core::{NotDone, Plane, now};
use super::places::Capacity;

/// How long the handshakes of TLS and HTTP/2 may take together, and a connection without a certificate may stay after them.
const GREETING: Duration = Duration::from_secs(15);
/// How long the other side may be silent before it is asked for a sign of life, and how long it has to give one.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a connection stays whose root is distrusted: long enough to be told the new bundle.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long to pause when no connection can be accepted, because file descriptors are used up, for example.
const PAUSE: Duration = Duration::from_millis(100);
/// Streams of one proxy at a time.
const STREAMS: u32 = 16;
/// The longest request of discovery in bytes: a proxy names everything that it holds.
const LONGEST_DISCOVERY: usize = 32 << 20;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
struct Peer {
    address: SocketAddr,
    leaf: Option<Arc<Leaf>>,
    /// What it shows, leaf first.
    chain: Arc<[CertificateDer<'static>]>,
}

impl Peer {
    fn prove(&self) -> Result<(&SpiffeId, &Arc<Leaf>), Failed> {
        let leaf = self.leaf.as_ref().ok_or_else(|| {
            Failed::new(
                Code::Unauthenticated,
                "a certificate of this trust domain is needed for everything but joining",
            )
        })?;
        Ok((&leaf.id, leaf))
    }
}

/// A connection that can take calls.
type Connection = h2::server::Connection<TlsStream<TcpStream>, Bytes>;

/// What a member hears whose call ends with the control plane.
const ENDED: &str = "the control plane was stopped";
/// How long members may take to hear it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Tells every member that the control plane is being stopped, and takes no more. Returns when all have let go, or [`FAREWELL`] is over.
pub async fn say_farewell(plane: &Plane) {
    plane.ending.send_replace(true);
    // Whoever serves a member listens for as long.
    let _ = tokio::time::timeout(FAREWELL, plane.ending.closed()).await;
}

/// Waits until the control plane is being stopped.
async fn ends(mut ending: watch::Receiver<bool>) {
    // The sender lives as long as the plane.
    let _ = ending.wait_for(|ends| *ends).await;
}

/// Serves every connection of `listener`, as many at a time as there is room for, until [`say_farewell`].
///
/// # Errors
/// TLS cannot be set up.
pub async fn serve(plane: Arc<Plane>, listener: TcpListener, capacity: Capacity) -> io::Result<()> {
    let accepted = Accept::TrustDomain(plane.trust_domain().clone());
    let peers = PeerVerifier::new(plane.bundles.clone(), accepted, plane.ca().provider().clone());
    let clock = Arc::new(DefaultTimeProvider);
    let config = server_config(plane.own.clone(), peers.clone(), ClientAuth::Optional, &[b"h2"], clock)
        .map_err(io::Error::other)?;
    let tls = TlsAcceptor::from(Arc::new(config));
    let (door, inside) = (Door::new(capacity), Arc::new(Inside::new(capacity)));
    if capacity != Capacity::WHOLE {
        tracing::warn!(
            members = capacity.members,
            "so few descriptors are allowed that fewer members are served at a time than could be; raise the limit (`ulimit -Hn`, LimitNOFILE=)"
        );
    }
    let settings = Settings { identifier: "transept".to_owned(), order: plane.kinds.order(), ..Settings::default() };
    let ending = plane.ending.subscribe();
    let server = Server { plane, peers, tls, settings: Arc::new(settings), inside };
    tokio::select! {
        () = server.welcome(&listener, door) => {}
        () = ends(ending) => {}
    }
    Ok(())
}

#[derive(Clone)]
struct Server {
    plane: Arc<Plane>,
    peers: PeerVerifier,
    tls: TlsAcceptor,
    settings: Arc<Settings>,
    /// Places of members.
    inside: Arc<Inside>,
}

impl Server {
    /// Takes connections in; never ends.
    async fn welcome(&self, listener: &TcpListener, mut door: Door) {
        let mut trouble = Trouble::default();
        while let Some(place) = door.place().await {
            match listener.accept().await {
                Ok((stream, address)) => {
                    if let Some(greeting) = door.let_in(place, address.ip()) {
                        tokio::spawn(self.clone().attend(stream, address, greeting));
                    }
                }
                Err(error) => {
                    if let Some(times) = trouble.note(Instant::now()) {
                        tracing::warn!(%error, times, "no connection of a proxy can be accepted");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// One connection to its end. `greeting` is its place at the door, given back when the other side turns out to be a member.
    async fn attend(self, stream: TcpStream, address: SocketAddr, greeting: Greeting) {
        // Small messages in both directions: waiting to fill packets only adds delay.
        let _ = stream.set_nodelay(true);
        let Ok(Some((peer, connection))) = tokio::time::timeout(GREETING, self.greet(stream, address)).await else {
            return;
        };
        let turned = self.plane.turned.subscribe();
        let (_place, stay) = match &peer.leaf {
            None => (Held::AtTheDoor(greeting), GREETING),
            Some(leaf) => {
                // Between the handshake and now its root may have been distrusted.
                if let Err(why) = self.look_at(&peer) {
                    return tracing::warn!(%address, id = %leaf.id, %why, "a proxy is sent away");
                }
                let place = match self.inside.take(&leaf.id) {
                    Ok(place) => place,
                    Err(none) => return decline(connection, &none.failed()).await,
                };
                // Not at the end of this function: members stay.
                drop(greeting);
                let left = leaf.not_after.as_secs().saturating_sub(now().as_secs());
                (Held::Inside(place), Duration::from_secs(left + 1))
            }
        };
        match tokio::time::timeout(stay, self.exchange(connection, peer, turned)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%address, %error, "the connection of a proxy broke"),
            Err(_) => {
                tracing::debug!(%address, "the certificate of a connection has ended, and so does the connection")
            }
        }
    }

    /// The handshakes of TLS and of HTTP/2. Whoever is slow with either of them is still at the door.
    async fn greet(&self, stream: TcpStream, address: SocketAddr) -> Option<(Peer, Connection)> {
        let tls = match self.tls.accept(stream).await {
            Ok(tls) => tls,
            Err(error) => {
                let why = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                let refusal = why.and_then(transept_identity::handshake::refusal);
                match refusal {
                    Some(refusal) => tracing::warn!(%address, why = %refusal, "the certificate of a proxy is refused"),
                    None => tracing::debug!(%address, %error, "the handshake with a proxy failed"),
                }
                return None;
            }
        };
        let chain: Arc<[CertificateDer<'static>]> = tls.get_ref().1.peer_certificates().unwrap_or_default().into();
        let leaf = match &*chain {
            [] => None,
            chain => Some(self.peers.peer(chain, Purpose::Client, now()).ok()?.leaf),
        };
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(STREAMS).initial_window_size(1 << 20).initial_connection_window_size(4 << 20);
        builder.max_header_list_size(16 << 10);
        let connection = builder.handshake(tls).await;
        let connection = connection.inspect_err(|error| tracing::debug!(%address, %error, "a proxy speaks no HTTP/2"));
        Some((Peer { address, leaf, chain }, connection.ok()?))
    }

    /// Takes the calls of one connection. `turned` tells of what has changed since its peer was last looked at.
    async fn exchange(
        &self,
        mut connection: Connection,
        peer: Peer,
        mut turned: watch::Receiver<u64>,
    ) -> Result<(), h2::Error> {
        let mut pings = connection.ping_pong();
        let alive = async move {
            let Some(pings) = &mut pings else { return pending().await };
            loop {
                tokio::time::sleep(SILENCE).await;
                match tokio::time::timeout(SILENCE, pings.ping(h2::Ping::opaque())).await {
                    Ok(Ok(_)) => {}
                    _ => return,
                }
            }
        };
        let leave = tokio::time::sleep(Duration::ZERO);
        let ending = self.plane.ending.subscribe();
        let ends = ends(ending.clone());
        tokio::pin!(alive, leave, ends);
        let (mut leaves, mut is_ending) = (false, false);
        let mut calls = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                () = &mut alive => return Ok(()),
                // A rotation waits until nobody shows the old root any more; only a root that is distrusted is still shown.
                _ = turned.changed() => {
                    if !peer.chain.is_empty() && let Err(why) = self.look_at(&peer) {
                        tracing::warn!(address = %peer.address, %why, "a proxy is sent away");
                        leave.as_mut().reset(tokio::time::Instant::now() + LAST_WORDS);
                        leaves = true;
                    }
                }
                () = &mut leave, if leaves => return Ok(()),
                () = &mut ends, if !is_ending => {
                    is_ending = true;
                    connection.graceful_shutdown();
                }
                // What has ended is not kept.
                Some(_) = calls.join_next() => {}
                next = connection.accept() => match next {
                    Some(next) => {
                        let (request, respond) = next?;
                        calls.spawn(self.clone().answer(request, respond, peer.clone()));
                    }
                    // Dropping the set ends calls that are still open: their connection is gone.
                    None => return Ok(()),
                },
            }
        }
    }

    async fn answer(self, request: Request<RecvStream>, respond: SendResponse<Bytes>, peer: Peer) {
        let path = request.uri().path().to_owned();
        if request.method() != Method::POST {
            return refuse(respond, &Failed::new(Code::Unimplemented, "calls are POST requests"));
        }
        let longest = match path.as_str() {
            transept_xds::METHOD => LONGEST_DISCOVERY,
            REPORTS => LONGEST_REPORT,
            _ => LONGEST,
        };
        let mut call = Call::new(request.into_body(), longest);
        let Some(mut reply) = accept(respond) else { return };
        let outcome = tokio::select! {
            outcome = self.perform(&path, &mut call, &mut reply, &peer) => outcome,
            () = ends(self.plane.ending.subscribe()) => Err(Failed::new(Code::Unavailable, ENDED)),
        };
        if let Err(failed) = &outcome {
            tracing::debug!(address = %peer.address, %path, why = %failed, "a call of a proxy failed");
        }
        reply.finish(outcome);
    }

    async fn perform(&self, path: &str, call: &mut Call, reply: &mut Reply, peer: &Peer) -> Result<(), Failed> {
        match path {
            JOIN => self.join(call, reply).await,
            RENEW => self.renew(call, reply, peer).await,
            REGISTER => self.register(call, reply, peer).await,
            REPORTS => self.report(call, reply, peer).await,
            transept_xds::METHOD => self.discover(call, reply, peer).await,
            _ => Err(Failed::new(Code::Unimplemented, format!("there is no method {path}"))),
        }
    }

    async fn join(&self, call: &mut Call, reply: &mut Reply) -> Result<(), Failed> {
        let asked: JoinRequest = call.only().await?;
        let (issued, _) =
            self.run(move |plane| plane.join(&asked.token, (&asked.nonce, &asked.proxy), &asked.request)).await?;
        reply.send(&self.issued(&issued))
    }

    async fn renew(&self, call: &mut Call, reply: &mut Reply, peer: &Peer) -> Result<(), Failed> {
        let id = peer.prove()?.0.clone();
        let asked: RenewRequest = call.only().await?;
        self.prove(peer)?;
        let issued = self.run(move |plane| plane.renew(&id, (&asked.nonce, &asked.proxy), &asked.request)).await?;
        reply.send(&self.issued(&issued))
    }

    /// Who a peer is, now.
    fn prove<'p>(&self, peer: &'p Peer) -> Result<(&'p SpiffeId, &'p Arc<Leaf>), Failed> {
        let proven = peer.prove()?;
        self.look_at(peer).map_err(|refusal| {
            let why = match refusal {
                Refusal::Expired { .. } => "by the clock of the control plane this certificate has ended",
                Refusal::NotYetValid { .. } => "by the clock of the control plane this certificate is not valid yet",
                _ => "the root of this certificate is not trusted any more",
            };
            Failed::new(Code::Unauthenticated, why)
        })?;
        Ok(proven)
    }

    /// Whether a peer would be let in now.
    fn look_at(&self, peer: &Peer) -> Result<(), Refusal> {
        self.peers.peer(&peer.chain, Purpose::Client, now()).map(drop)
    }

    fn issued(&self, issued: &authority::Issued) -> Issued {
        let chain = issued.chain.iter().map(|der| Bytes::copy_from_slice(der)).collect();
        Issued { chain, bundle: self.plane.bundle_document().1 }
    }

    async fn register(&self, call: &mut Call, reply: &mut Reply, peer: &Peer) -> Result<(), Failed> {
        let id = self.prove(peer)?.0.clone();
        let address = peer.address;
        let mut registered = None;
        let mut turned = self.plane.turned.subscribe();
        let mut sequence = 0;
        loop {
            let next = tokio::select! {
                next = call.next::<Beat>() => next?,
                // A change of roots does not wait for the next sign of life.
                _ = turned.changed() => {
                    let chain = peer.chain.clone();
                    let news = self.run(move |plane| Ok(plane.news(sequence, &chain))).await?;
                    if !news.bundle.is_empty() || news.renew {
                        reply.send(&Answer { unasked: true, ..news })?;
                    }
                    continue;
                }
            };
            let Some(mut beat) = next else { return Ok(()) };
            sequence = beat.bundle_sequence;
            let (id, chain) = (id.clone(), peer.chain.clone());
            let (answer, kept): (Answer, _) = self
                .run(move |plane| {
                    let answer = plane.beat(&mut beat, (&id, &chain), address, &mut registered)?;
                    Ok((answer, registered))
                })
                .await?;
            registered = kept;
            reply.send(&answer)?;
        }
    }

    async fn report(&self, call: &mut Call, reply: &mut Reply, peer: &Peer) -> Result<(), Failed> {
        take_reports(&self.plane, self.prove(peer)?.0, call, reply).await
    }

    async fn discover(&self, call: &mut Call, reply: &mut Reply, peer: &Peer) -> Result<(), Failed> {
        let mut turned = self.plane.turned.subscribe();
        let (id, leaf) = self.prove(peer)?;
        let began = Instant::now();
        let mut session = Session::new(id.clone(), self.settings.clone());
        if let Some((rest, types)) = self.plane.spares() {
            session.spare(rest, types);
        }
        let mut changed = self.plane.changed.subscribe();
        let mut rules = 0;
        let mut member: Option<Presence> = None;
        let mut greeted = false;
        let mut missing = BTreeSet::new();
        loop {
            let (responses, now_missing) = {
                let shelves = self.plane.shelves.read().unwrap_or_else(PoisonError::into_inner);
                if rules != shelves.rules {
                    rules = shelves.rules;
                    session.reconsider(&shelves.resources);
                }
                let responses = session.poll(began.elapsed(), &shelves.resources, &shelves.visible);
                (responses, find_missing(&session, &shelves.resources))
            };
            if let Some(presence) = member.as_ref().filter(|_| missing != now_missing) {
                missing.clone_from(&now_missing);
                self.plane.note_missing(&presence.name, now_missing);
            }
            for response in &responses {
                reply.send(response)?;
            }
            let wake = session.wake_at();
            let wait = async {
                match wake {
                    Some(at) => tokio::time::sleep(at.saturating_sub(began.elapsed())).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                // The senders live as long as the plane.
                _ = changed.changed() => {}
                _ = turned.changed() => if self.look_at(peer).is_err() {
                    // Its connection ends when it has had the time to hear of it; it sees nothing more until then.
                    return pending().await;
                },
                request = call.next::<DeltaDiscoveryRequest>() => {
                    let Some(request) = request? else { return Ok(()) };
                    let request_type = request.type_url.clone();
                    let facts = {
                        let shelves = self.plane.shelves.read().unwrap_or_else(PoisonError::into_inner);
                        session.receive(began.elapsed(), request, &shelves.resources)
                    };
                    let facts = facts.map_err(|breach| Failed::new(Code::ResourceExhausted, breach.to_string()))?;
                    let may_divide = self.plane.is_dividable(&request_type);
                    let presence = member.get_or_insert_with(|| {
                        Presence::begin(&self.plane, id, session.node(), (peer.address, leaf, &peer.chain))
                    });
                    if !greeted {
                        greeted = true;
                        self.plane.note_kinds(&presence.name, session.announced());
                    }
                    self.plane.note_facts(&presence.name, facts);
                    if may_divide {
                        self.plane.note_sharer(&presence.name, session.holdings());
                    }
                }
            }
        }
    }

    /// Runs what may wait for the disk, off the threads that wait for sockets.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Plane) -> Result<T, NotDone> + Send + 'static,
    ) -> Result<T, Failed> {
        let plane = self.plane.clone();
        let done = tokio::task::spawn_blocking(move || work(&plane)).await;
        let done = done.map_err(|_| Failed::new(Code::Internal, "the control plane failed"))?;
        done.map_err(|error| {
            let code = match &error {
                NotDone::Token(_) => Code::Unauthenticated,
                NotDone::Sign(_) => Code::PermissionDenied,
                NotDone::Wrong(_) => Code::InvalidArgument,
                NotDone::Store => Code::Unavailable,
            };
            Failed::new(code, error.to_string())
        })
    }
}

/// The Services that a proxy asked for and that are not there. It asks for its own too, which is there when somebody can call it.
fn find_missing(session: &Session<SpiffeId>, store: &Store) -> BTreeSet<String> {
    let kind = TypeUrl::of("", "v1", "Service");
    let own = session.viewer().workload().map(|own| format!("{}/{}", own.namespace(), own.service_account()));
    let asked = session.asked(&kind).filter(|name| own.as_deref() != Some(*name));
    asked.filter(|name| store.resource(&kind, name).is_none()).map(str::to_owned).collect()
}

/// A proxy that is connected; dropping it tells that it is not.
struct Presence {
    plane: Arc<Plane>,
    name: String,
}

impl Presence {
    fn begin(
        plane: &Arc<Plane>,
        id: &SpiffeId,
        node: Option<&Node>,
        peer: (SocketAddr, &Arc<Leaf>, &[CertificateDer<'static>]),
    ) -> Self {
        let name = plane.arrive(id, node.unwrap_or(&Node::default()), peer);
        Self { plane: plane.clone(), name }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.plane.depart(&self.name);
    }
}
