//! Connections that live for long are judged again: when a configuration comes into force, when the roots of the mesh change, when an issuer of tokens
//! has other keys, and when an answer has ended by which somebody has vouched for them (`inquiry`).
//!
//! What was let in under other rules must not outlive them. Called by the worker when something has changed; the connections that
//! carry no requests, those that a request has opened by an upgrade, those between two proxies, and exchanges whose response has lasted for a
//! while (events, streams of gRPC, downloads) stand in a list here. Other requests are judged one by one and need none of this.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use transept_engine::admit::admit_stream;
use transept_engine::document::Documents;
use transept_engine::exchange::Connection;
use transept_engine::reason::Reason;
use transept_engine::snapshot::{Backend, BackendId, Listener, Snapshot, Speaks};
use transept_engine::verdict::Reply;
use transept_identity::{Bundles, Fingerprint, Purpose};
use transept_wire::h2::Code;

use crate::clock::Moment;
use crate::failure::{Failure, Repeat, Side};
use crate::h2::{Driver, Over};
use crate::mesh::{Membership, Trust};
use crate::worker::Worker;

mod inquiry;
mod request;

use inquiry::Asking;
pub(crate) use request::{Ends, Entrance, Opening};

/// What is under way between two proxies when the roots that vouched for one of them are not believed any more may end within this time.
/// A root that is replaced in order retires first, and then this is for what has lived on for longer than it counts.
const RESPITE: Duration = Duration::from_secs(5);
/// Why bytes may not come where they could before.
pub(crate) const REQUESTS_ONLY: &str = "the port carries requests only";

/// What a connection was let in for.
pub(crate) enum Ground {
    /// The certificates of a member of the mesh, leaf first, and which end of the connection it is.
    Certificates(Vec<CertificateDer<'static>>, Purpose),
    /// The policies of the listener of a port behind a bind of the mesh.
    Admission { connection: Box<Connection>, bound: SocketAddr, port: u16 },
    /// The policies of a route for connections, on a bind of a Gateway or on the way out of a workload.
    Passage { connection: Box<Connection>, course: Course },
    /// The policies on a request that is still under way.
    Request(Rc<Opening>),
    /// That nobody in the mesh is where a captured connection goes.
    Stranger { connection: Box<Connection>, bound: SocketAddr },
}

/// By what the listener of a connection that carries no requests is found, on a bind of a Gateway or on the way out of a workload.
#[derive(Clone, Debug)]
pub(crate) struct Course {
    /// The address that the worker listens on.
    pub(crate) bound: SocketAddr,
    /// The Service that a program asked its proxy for: host, lower-case, and port.
    pub(crate) asked: Option<(Box<str>, Option<u16>)>,
}

impl Course {
    /// The listener that takes the connection by what is in force.
    pub(crate) fn listener<'s>(&self, snapshot: &'s Snapshot, connection: &Connection) -> Option<&'s Arc<Listener>> {
        match &self.asked {
            Some((host, port)) => snapshot.bind(&self.bound)?.listener_for_authority(host, *port),
            None => find_callee(snapshot, self.bound, connection),
        }
    }
}

/// Why a connection that was let in must end.
#[derive(Clone, Debug)]
enum Cause {
    /// It would not be let in today. Names policy and rule, or what else says so.
    Denied(Option<Box<str>>),
    /// The credential by which it was let in has ended.
    Outlived,
    /// A policy says this of the request today.
    Refused(Box<Reply>),
    /// This policy lets nobody call the endpoint without a tunnel.
    NoTunnel(Arc<str>),
}

/// One connection in the list; it leaves it when this is dropped.
pub(crate) struct Standing {
    ground: Ground,
    ended: OnceCell<Cause>,
    /// The Service, or the instance, of which an endpoint is called without a tunnel.
    without_tunnel: OnceCell<BackendId>,
    /// The retiring root that it depends on. With it, nothing new begins here.
    retiring: Cell<Option<Fingerprint>>,
    /// The end of the credential by which it was let in.
    until: RefCell<Option<Pin<Box<tokio::time::Sleep>>>>,
    waker: RefCell<Option<Waker>>,
    /// Who has vouched for it is asked again from time to time.
    asking: OnceCell<Asking>,
}

impl Standing {
    /// Ready when the connection must end.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ended.get().is_some() {
            return Poll::Ready(());
        }
        if let Some(until) = &mut *self.until.borrow_mut()
            && until.as_mut().poll(cx).is_ready()
        {
            let _ = self.ended.set(Cause::Outlived);
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Whether the connection must end.
    fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    /// Whether it ends because its credential has.
    fn has_outlived(&self) -> bool {
        matches!(self.ended.get(), Some(Cause::Outlived))
    }

    /// What is recorded of a connection that must end.
    pub(crate) fn failure(&self) -> Failure {
        match self.ended.get() {
            Some(Cause::Outlived) => {
                let detail = "its credential has ended: the connection is not allowed any more";
                Failure::new(Side::Downstream, Reason::NotAuthorized, Repeat::Never, detail)
            }
            Some(Cause::NoTunnel(policy)) => {
                let detail =
                    format!("{policy}: the connection was open without a tunnel, which is not allowed any more");
                Failure::new(Side::Upstream, Reason::MeshNoTunnel, Repeat::Never, detail)
            }
            Some(Cause::Denied(Some(cause))) => {
                let detail = format!("{cause}: the connection is not allowed any more");
                Failure::new(Side::Downstream, Reason::NotAuthorized, Repeat::Never, detail)
            }
            Some(Cause::Refused(reply)) => refusal(reply),
            Some(Cause::Denied(None)) | None => {
                let detail = "the connection is not allowed any more";
                Failure::new(Side::Downstream, Reason::NotAuthorized, Repeat::Never, detail)
            }
        }
    }

    /// Notes that the connection goes on to an endpoint without a tunnel. While it was made, a policy may have come to forbid that.
    pub(crate) fn note_without_tunnel(&self, snapshot: &Snapshot, backend: &Backend) {
        let _ = self.without_tunnel.set(backend.id.clone());
        if let Some(policy) =
            snapshot.backends.iter().find(|one| one.id == backend.id).and_then(|one| one.tunnel_only.clone())
        {
            self.end(Cause::NoTunnel(policy));
        }
    }

    fn end(&self, cause: Cause) {
        let _ = self.ended.set(cause);
        self.wake();
    }

    fn retire(&self, root: Fingerprint) {
        self.retiring.set(Some(root));
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// What is recorded of a request that is answered so, if its client has heard nothing yet.
fn refusal(reply: &Reply) -> Failure {
    let detail = match &reply.cause {
        Some(cause) => format!("{cause}: the connection is not allowed any more").into(),
        None => Cow::Borrowed("the connection is not allowed any more"),
    };
    Failure {
        reply: Some(Box::new(reply.clone())),
        ..Failure::new(Side::Downstream, reply.reason, Repeat::Never, detail)
    }
}

/// The end of a connection between two proxies: nothing new from the moment on in which its root retires or it must end, and in the
/// second case nothing at all after the respite.
#[derive(Default)]
pub(crate) struct Ending {
    retires: bool,
    respite: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Ending {
    /// Ready when the connection has been given up.
    pub(crate) fn poll(&mut self, standing: &Standing, driver: &mut Driver, cx: &mut Context<'_>) -> Poll<Over> {
        if standing.poll_ended(cx).is_pending() {
            if standing.retiring.get().is_some() && !self.retires {
                self.retires = true;
                driver.shut_down();
            }
            return Poll::Pending;
        }
        let respite = self.respite.get_or_insert_with(|| {
            driver.shut_down();
            Box::pin(tokio::time::sleep(RESPITE))
        });
        respite.as_mut().poll(cx).map(|()| driver.give_up(Code::NO_ERROR, "the peer is not trusted any more"))
    }
}

/// The connections of one worker that are judged again.
#[derive(Default)]
pub(crate) struct Standings {
    all: RefCell<Vec<Weak<Standing>>>,
    /// The roots that the list was last judged by. Held, so that no later ones can be at the same address.
    roots: RefCell<Option<Arc<Bundles>>>,
    /// The documents of issuers when the list was last judged, and how often they had changed. Held as the roots are.
    documents: RefCell<Option<(Arc<Documents>, u64)>>,
    /// When the first of the retiring ones among them ceases to count, since the Unix epoch.
    until: Cell<Option<Duration>>,
}

impl Standings {
    /// Adds a connection.
    pub(crate) fn add(&self, ground: Ground) -> Rc<Standing> {
        self.add_until(ground, None)
    }

    /// Adds a connection between two proxies. None when nobody vouches for the other end any more: the roots may have changed since its
    /// handshake, and nobody asks again before they change once more.
    pub(crate) fn add_member(
        &self,
        membership: &Membership,
        chain: Vec<CertificateDer<'static>>,
        end: Purpose,
        unix: Duration,
    ) -> Option<Rc<Standing>> {
        let standing = self.add(Ground::Certificates(chain, end));
        let Ground::Certificates(chain, end) = &standing.ground else { return None };
        is_believed(membership, &standing, chain, *end, unix).then_some(standing)
    }

    /// Adds a captured connection to where nobody in the mesh is, as far as is known.
    pub(crate) fn add_stranger(&self, worker: &Worker, connection: &Connection, bound: SocketAddr) -> Rc<Standing> {
        let standing = self.add(Ground::Stranger { connection: Box::new(connection.clone()), bound });
        // Since somebody looked, it may have become known.
        if let Some(cause) = judge(worker, &worker.snapshot(), worker.clock.now(), &standing) {
            standing.end(cause);
        }
        standing
    }

    /// Adds a connection that ends after this time at the latest.
    pub(crate) fn add_until(&self, ground: Ground, lasts: Option<Duration>) -> Rc<Standing> {
        let until = RefCell::new(lasts.map(|lasts| Box::pin(tokio::time::sleep(lasts))));
        let standing = Rc::new(Standing {
            ground,
            ended: OnceCell::new(),
            without_tunnel: OnceCell::new(),
            retiring: Cell::new(None),
            until,
            waker: RefCell::default(),
            asking: OnceCell::new(),
        });
        let mut all = self.all.borrow_mut();
        if all.len() == all.capacity() {
            all.retain(|standing| standing.strong_count() > 0);
        }
        all.push(Rc::downgrade(&standing));
        standing
    }
}

/// Judges the connections again if the roots have changed since the last time, or one of them counts no more.
pub(crate) fn recheck_roots(worker: &Worker) {
    let Some(membership) = &worker.shared.mesh else { return };
    let standings = &worker.standings;
    let (roots, now) = (membership.roots(), worker.clock.now().unix);
    let is_same = standings.roots.borrow().as_ref().is_some_and(|before| Arc::ptr_eq(before, &roots));
    let is_over = standings.until.get().is_some_and(|until| until < now);
    if is_same && !is_over {
        return;
    }
    let ends = roots.retiring(UnixTime::since_unix_epoch(now)).map(|one| one.until.as_secs()).min();
    // It counts to the end of its last second.
    standings.until.set(ends.map(|end| Duration::from_secs(end.saturating_add(1))));
    standings.roots.replace(Some(roots));
    recheck(worker);
}

/// Judges the connections again if what is known of the keys of some issuer of tokens has changed since the last time.
pub(crate) fn recheck_documents(worker: &Worker) {
    if worker.standings.all.borrow().is_empty() {
        return;
    }
    let documents = Documents::of(&worker.snapshot().keep);
    let changes = documents.changes();
    let before = worker.standings.documents.replace(Some((Arc::clone(&documents), changes)));
    if before.is_none_or(|(before, known)| known != changes || !Arc::ptr_eq(&before, &documents)) {
        recheck(worker);
    }
}

/// Whether a connection that these certificates began may go on. One whose root retires does, and takes nothing new.
fn is_believed(
    membership: &Membership,
    standing: &Standing,
    chain: &[CertificateDer<'_>],
    end: Purpose,
    unix: Duration,
) -> bool {
    // It was believed before, and nobody but that root would vouch for it again.
    if let Some(root) = standing.retiring.get() {
        return membership.holds(&root, unix);
    }
    match membership.trust(chain, end, unix) {
        Trust::Whole => true,
        Trust::Retiring(root) => {
            standing.retire(root);
            true
        }
        Trust::Gone => false,
    }
}

/// The listener that takes a connection that carries no requests, where its bind or its destination tell which.
fn find_callee<'s>(snapshot: &'s Snapshot, bound: SocketAddr, connection: &Connection) -> Option<&'s Arc<Listener>> {
    let bind = snapshot.bind_for(&bound, connection.local)?;
    bind.listener_for_streams().or_else(|| bind.callee(connection.destination))
}

/// Judges every connection in the list by what is in force now.
pub(crate) fn recheck(worker: &Worker) {
    let standings: Vec<Rc<Standing>> = {
        let mut all = worker.standings.all.borrow_mut();
        all.retain(|standing| standing.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    };
    let snapshot = worker.snapshot();
    let now = worker.clock.now();
    let tunnel_only = find_tunnel_only(&snapshot);
    for standing in standings {
        let cause = match standing.without_tunnel.get().and_then(|id| tunnel_only.get(id)) {
            Some(policy) => Some(Cause::NoTunnel(Arc::clone(policy))),
            None => judge(worker, &snapshot, now, &standing),
        };
        if let Some(cause) = cause {
            standing.end(cause);
        }
    }
}

/// The policies that let nobody call what they are on without a tunnel.
fn find_tunnel_only(snapshot: &Snapshot) -> HashMap<&BackendId, &Arc<str>> {
    snapshot.backends.iter().filter_map(|backend| Some((&backend.id, backend.tunnel_only.as_ref()?))).collect()
}

/// Why a connection must end that was let in, if it must.
fn judge(worker: &Worker, snapshot: &Snapshot, now: Moment, standing: &Standing) -> Option<Cause> {
    let judged = match &standing.ground {
        Ground::Certificates(chain, end) => {
            let membership = worker.shared.mesh.as_ref();
            let stands = membership.is_some_and(|membership| is_believed(membership, standing, chain, *end, now.unix));
            if stands { Ok(()) } else { Err(Some("no root vouches for the peer any more".into())) }
        }
        Ground::Admission { connection, bound, port } => {
            let listener = snapshot.bind(bound).and_then(|bind| bind.listener_for_port(*port));
            let gone = || Err(Some(format!("port {port} of the program is gone").into()));
            listener.map_or_else(gone, |listener| pass_bytes(listener, connection))
        }
        Ground::Request(opening) => return opening.judge(snapshot, now.into()).err(),
        // Where there is no such listener any more, nobody forbids what was begun.
        Ground::Passage { connection, course } => {
            course.listener(snapshot, connection).map_or(Ok(()), |listener| pass_bytes(listener, connection))
        }
        // One who has joined meanwhile is called through the tunnel from the next connection on.
        Ground::Stranger { connection, bound } => {
            let listener = find_callee(snapshot, *bound, connection)?;
            let backends = &listener.stream.as_ref()?.backends;
            let policy = backends.iter().find_map(|one| one.target.as_ref().ok()?.tunnel_only.clone())?;
            return Some(Cause::NoTunnel(policy));
        }
    };
    judged.err().map(Cause::Denied)
}

/// Whether bytes may go on to the port of a Service, or of the program.
fn pass_bytes(listener: &Listener, connection: &Connection) -> Result<(), Option<Box<str>>> {
    match listener.speaks {
        Speaks::Http => Err(Some(REQUESTS_ONLY.into())),
        Speaks::Detect | Speaks::Opaque => admit_stream(listener, connection).map_err(|reply| reply.cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::tests::{NOW, bundles, member, root};

    #[test]
    fn a_root_that_goes_between_the_handshake_and_the_list_is_missed_by_nobody() {
        let (ours, others) = (root(1), root(2));
        let (mesh, chain) = member(&ours);
        let membership = Membership::new(&mesh).expect("a membership");
        let (standings, now) = (Standings::default(), Duration::from_secs(NOW + 1));
        for end in [Purpose::Client, Purpose::Server] {
            mesh.bundles.store(bundles(&ours));
            let standing = standings.add_member(&membership, chain.clone(), end, now).expect("it is believed");
            assert!(standing.ended.get().is_none());
            mesh.bundles.store(bundles(&others));
            assert!(standings.add_member(&membership, chain.clone(), end, now).is_none());
        }
    }

    #[tokio::test]
    async fn a_connection_ends_with_its_credential() {
        let standings = Standings::default();
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let course = || Course { bound: address, asked: None };
        let connection = || Box::new(Connection::new(address, address, None));
        let passage = || Ground::Passage { connection: connection(), course: course() };
        let lasting = [standings.add(passage()), standings.add_until(passage(), Some(Duration::from_secs(86_400)))];
        let ending = standings.add_until(passage(), Some(Duration::ZERO));
        std::future::poll_fn(|cx| ending.poll_ended(cx)).await;
        for standing in lasting {
            let is_pending = std::future::poll_fn(|cx| Poll::Ready(standing.poll_ended(cx).is_pending())).await;
            assert!(is_pending);
        }
    }
}
