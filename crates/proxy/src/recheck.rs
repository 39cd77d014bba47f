//! Connections that live for long are judged again: when a configuration comes into force, and when the roots of the mesh change.
//!
//! What was let in under other rules must not outlive them. Called by the worker when something has changed; the connections that
//! carry no requests, those that a request has opened by an upgrade, those between two proxies, and exchanges whose response has lasted for a
//! while (events, streams of gRPC, downloads) stand in a list here. Other requests are judged one by one and need none of this.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use transept_engine::admit::admit_stream;
use transept_engine::exchange::{Connection, Exchange, Notes, Now};
use transept_engine::principal::Principal;
use transept_engine::reason::Reason;
use transept_engine::route::route;
use transept_engine::screen::screen_again;
use transept_engine::snapshot::Snapshot;
use transept_identity::{Bundles, Fingerprint, Purpose};
use transept_wire::h2::Code;
use transept_wire::head::Request;

use crate::deadline::Watch;
use crate::failure::{Failure, Repeat, Side};
use crate::h2::{Driver, Over};
use crate::mesh::{Membership, Trust};
use crate::path::admit_here;
use crate::trip::LetIn;
use crate::worker::Worker;

/// What is under way between two proxies when the roots that vouched for one of them are not believed any more may end within this time.
/// A root that is replaced in order retires first, and then this is for what has lived on for longer than it counts.
const RESPITE: Duration = Duration::from_secs(5);

/// How long a response lasts before it is listed with what lives for long. What has changed until then is found when it is.
const LASTING: Duration = Duration::from_secs(2);

/// What a connection was let in for.
pub(crate) enum Ground {
    /// The certificates of a member of the mesh, leaf first, and which end of the connection it is.
    Certificates(Vec<CertificateDer<'static>>, Purpose),
    /// The policies of the listener of a port behind a bind of the mesh.
    Admission { connection: Box<Connection>, bound: SocketAddr, port: u16 },
    /// The policies of a route for connections, on a bind of a Gateway or on the way out of a workload.
    Passage { connection: Box<Connection>, bound: SocketAddr },
    /// The policies on a request that is still under way.
    Request(Box<Opening>),
}

/// A request that is still under way, as it was when it was let in.
pub(crate) struct Opening {
    request: Request,
    connection: Connection,
    /// The address that the worker listens on.
    bound: SocketAddr,
    host: String,
    client: IpAddr,
    principal: Option<Arc<Principal>>,
}

/// Where a request came in, and under which configuration it was let in.
#[derive(Clone, Copy)]
pub(crate) struct Entrance<'e> {
    pub worker: &'e Worker,
    pub connection: &'e Connection,
    /// The address that the worker listens on.
    pub bound: SocketAddr,
    pub generation: u64,
}

impl Opening {
    /// Whether it would be let in today. That nobody would serve it any more does not end it.
    fn stands(&self, snapshot: &Snapshot, now: Now) -> bool {
        let bind = snapshot.bind(&self.bound);
        let listener = bind.map(|bind| admit_here(bind, &self.connection, &self.request, &self.host));
        let Some(Ok(listener)) = listener else { return true };
        let routed = route(listener, &self.request, &self.host);
        // Guards change nothing in a request; the copy only keeps them from doing so here.
        let (mut request, mut notes) = (self.request.clone(), Notes::new());
        notes.principal.clone_from(&self.principal);
        let mut exchange = Exchange {
            now,
            random: 0,
            connection: &self.connection,
            client: self.client,
            listener_port: listener.port,
            request: &mut request,
            notes: &mut notes,
        };
        screen_again(listener, routed.as_ref(), &mut exchange).goes_on()
    }
}

impl Entrance<'_> {
    /// Adds a request to the list. One that would not be let in by now has ended already.
    pub(crate) fn stand(&self, let_in: LetIn<'_>) -> Rc<Standing> {
        let opening = Opening {
            request: let_in.request.clone(),
            connection: self.connection.clone(),
            bound: self.bound,
            host: let_in.host.to_owned(),
            client: let_in.client,
            principal: let_in.principal.cloned(),
        };
        let now = self.worker.clock.now();
        let until = opening.principal.as_ref().and_then(|principal| principal.until);
        let lasts = until.map(|until| until.saturating_sub(now.unix));
        let snapshot = self.worker.snapshot();
        let stands = snapshot.generation == self.generation || opening.stands(&snapshot, now.into());
        let standing = self.worker.standings.add_until(Ground::Request(Box::new(opening)), lasts);
        standing.ended.set(!stands);
        standing
    }

    /// Runs what delivers a response, for as long as the request would be let in. Whoever is done soon is not looked at again: the list is for
    /// what has lasted for a while.
    pub(crate) async fn while_it_stands(
        &self,
        watch: &Watch,
        let_in: LetIn<'_>,
        mut delivering: Pin<&mut impl Future<Output = Result<(), Failure>>>,
    ) -> Result<(), Failure> {
        let mut listed_at = None;
        let mut standing = None;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(outcome) = delivering.as_mut().poll(cx) {
                if listed_at.is_some() {
                    watch.nudge(None);
                }
                return Poll::Ready(outcome);
            }
            if standing.is_none() {
                let now = watch.last_sweep();
                let at = *listed_at.get_or_insert_with(|| {
                    watch.nudge(Some(now + LASTING));
                    now + LASTING
                });
                if now < at {
                    watch.listen(cx);
                    return Poll::Pending;
                }
            }
            let standing = standing.get_or_insert_with(|| self.stand(let_in));
            standing.poll_ended(cx).map(|()| Err(denied()))
        })
        .await
    }
}

/// Other policies have come into force, and they do not allow what is under way; or its credential has ended.
pub(crate) fn denied() -> Failure {
    let detail = "the connection is not allowed any more";
    Failure::new(Side::Downstream, Reason::NotAuthorized, Repeat::Never, detail)
}

/// One connection in the list; it leaves it when this is dropped.
pub(crate) struct Standing {
    ground: Ground,
    ended: Cell<bool>,
    /// The retiring root that it depends on. With it, nothing new begins here.
    retiring: Cell<Option<Fingerprint>>,
    /// The end of the credential by which it was let in.
    until: RefCell<Option<Pin<Box<tokio::time::Sleep>>>>,
    waker: RefCell<Option<Waker>>,
}

impl Standing {
    /// Ready when the connection must end.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ended.get() {
            return Poll::Ready(());
        }
        if let Some(until) = &mut *self.until.borrow_mut()
            && until.as_mut().poll(cx).is_ready()
        {
            self.ended.set(true);
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn end(&self) {
        self.ended.set(true);
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
    /// When the first of the retiring ones among them ceases to count, since the Unix epoch.
    until: Cell<Option<Duration>>,
}

impl Standings {
    /// Adds a connection.
    pub(crate) fn add(&self, ground: Ground) -> Rc<Standing> {
        self.add_until(ground, None)
    }

    /// Adds a connection that ends after this time at the latest.
    pub(crate) fn add_until(&self, ground: Ground, lasts: Option<Duration>) -> Rc<Standing> {
        let until = RefCell::new(lasts.map(|lasts| Box::pin(tokio::time::sleep(lasts))));
        let (ended, retiring) = (Cell::new(false), Cell::new(None));
        let standing = Rc::new(Standing { ground, ended, retiring, until, waker: RefCell::default() });
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

/// Judges every connection in the list by what is in force now.
pub(crate) fn recheck(worker: &Worker) {
    let standings: Vec<Rc<Standing>> = {
        let mut all = worker.standings.all.borrow_mut();
        all.retain(|standing| standing.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    };
    let snapshot = worker.snapshot();
    let now = worker.clock.now();
    for standing in standings {
        let stands = match &standing.ground {
            Ground::Certificates(chain, end) => {
                let membership = worker.shared.mesh.as_ref();
                membership.is_some_and(|membership| is_believed(membership, &standing, chain, *end, now.unix))
            }
            Ground::Admission { connection, bound, port } => snapshot
                .bind(bound)
                .and_then(|bind| bind.listener_for_port(*port))
                .is_some_and(|listener| admit_stream(listener, connection).is_ok()),
            Ground::Request(opening) => opening.stands(&snapshot, now.into()),
            // Where there is no such listener any more, nobody forbids what was begun.
            Ground::Passage { connection, bound } => snapshot
                .bind(bound)
                .and_then(|bind| bind.listener_for_streams().or_else(|| bind.callee(connection.destination)))
                .is_none_or(|listener| admit_stream(listener, connection).is_ok()),
        };
        if !stands {
            standing.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_ends_with_its_credential() {
        let standings = Standings::default();
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let passage =
            || Ground::Passage { connection: Box::new(Connection::new(address, address, None)), bound: address };
        let lasting = [standings.add(passage()), standings.add_until(passage(), Some(Duration::from_secs(86_400)))];
        let ending = standings.add_until(passage(), Some(Duration::ZERO));
        std::future::poll_fn(|cx| ending.poll_ended(cx)).await;
        for standing in lasting {
            let is_pending = std::future::poll_fn(|cx| Poll::Ready(standing.poll_ended(cx).is_pending())).await;
            assert!(is_pending);
        }
    }
}
