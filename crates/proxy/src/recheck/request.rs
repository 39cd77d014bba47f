//! Requests that are still under way: what is kept of them, and how they come into the list of what is judged again.
//!
//! An upgrade is listed when it becomes a tunnel (`tunnel.rs`), a response or an upload when it has lasted for a while (`relay.rs`). The others come
//! and go without being listed, so that being judged again costs them nothing.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use transept_engine::exchange::{Connection, Exchange, Notes, Now};
use transept_engine::principal::Principal;
use transept_engine::reason::Reason;
use transept_engine::route::route;
use transept_engine::screen::screen_again;
use transept_engine::snapshot::{Backend, Listener, Snapshot};
use transept_engine::verdict::Verdict;
use transept_wire::head::Request;

use super::inquiry::PACE;
use super::{Asking, Cause, Ground, Standing, refusal};
use crate::deadline::Watch;
use crate::failure::Failure;
use crate::path::admit_here;
use crate::trip::LetIn;
use crate::worker::Worker;

/// How long a response lasts before it is listed with what lives for long. What has changed until then is found when it is.
const LASTING: Duration = Duration::from_secs(2);

/// A request that is still under way, as it was when it was let in.
pub(crate) struct Opening {
    pub(super) request: Request,
    pub(super) connection: Connection,
    /// The address that the worker listens on.
    pub(super) bound: SocketAddr,
    pub(super) host: String,
    client: IpAddr,
    pub(super) principal: Option<Arc<Principal>>,
    /// The time since the Unix epoch by which its credentials are good, where it is not the time of today: that one ends meanwhile ends nothing.
    as_of: Option<Duration>,
}

/// Where a request came in, and under which configuration it was let in.
#[derive(Clone, Copy)]
pub(crate) struct Entrance<'e> {
    pub worker: &'e Rc<Worker>,
    pub connection: &'e Connection,
    /// The address that the worker listens on.
    pub bound: SocketAddr,
    pub generation: u64,
    /// The backend, if the request has gone to it without a tunnel.
    pub in_clear_to: Option<&'e Backend>,
    pub ends: Ends,
    /// Set once the backend has all of the request: that the credential ends then does not undo it.
    pub whole: Option<&'e Cell<bool>>,
}

/// When a request ends that was let in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// When a policy would not let it in any more.
    WithPolicy,
    /// Then, and with the credential that has let it in.
    WithCredential,
}

impl Opening {
    /// Whether it would be let in today; if not, why it ends. That nobody would serve it any more does not end it.
    pub(super) fn judge(&self, snapshot: &Snapshot, now: Now) -> Result<(), Cause> {
        let bind = snapshot.bind_for(&self.bound, self.connection.local);
        let listener = bind.map(|bind| admit_here(bind, &self.connection, &self.request, &self.host));
        let listener = match listener {
            Some(Ok(listener)) => listener,
            Some(Err(reply)) if reply.reason == Reason::MeshPlaintext => return Err(Cause::Denied(reply.cause)),
            Some(Err(_)) | None => return Ok(()),
        };
        let routed = route(listener, &self.request, &self.host);
        // Guards change nothing in a request; the copy only keeps them from doing so here.
        let (mut request, mut notes) = (self.request.clone(), Notes::new());
        notes.principal.clone_from(&self.principal);
        let now = Now { unix: self.as_of.unwrap_or(now.unix), ..now };
        let mut exchange = self.exchange(now, listener, &mut request, &mut notes);
        match screen_again(listener, routed.as_ref(), &mut exchange) {
            Verdict::Continue => Ok(()),
            Verdict::Respond(reply) => Err(Cause::Refused(reply)),
            Verdict::Call(_) => Err(Cause::Denied(None)),
        }
    }

    /// It as the engine sees it.
    pub(super) fn exchange<'x>(
        &'x self,
        now: Now,
        listener: &Listener,
        request: &'x mut Request,
        notes: &'x mut Notes,
    ) -> Exchange<'x> {
        Exchange {
            now,
            random: 0,
            connection: &self.connection,
            client: self.client,
            listener_port: listener.port,
            request,
            notes,
        }
    }
}

impl<'e> Entrance<'e> {
    /// Where it came in, of a request that ends with its credential.
    pub(crate) fn new(
        worker: &'e Rc<Worker>,
        connection: &'e Connection,
        bound: SocketAddr,
        generation: u64,
    ) -> Entrance<'e> {
        Entrance { worker, connection, bound, generation, in_clear_to: None, ends: Ends::WithCredential, whole: None }
    }

    /// Whether a request that is about to be sent would still be let in: it may have waited for its body, for a connection or for another try.
    ///
    /// # Errors
    /// Why it ends here.
    pub(crate) fn recheck(&self, let_in: LetIn<'_>) -> Result<(), Failure> {
        let has_outlived = || self.until(let_in).is_some_and(|until| until <= self.worker.clock.now().unix);
        if self.worker.snapshot().generation == self.generation && !has_outlived() {
            return Ok(());
        }
        let standing = self.stand(let_in);
        match standing.has_ended() {
            true => Err(self.failure_of(&standing)),
            false => Ok(()),
        }
    }

    /// When the credential ends by which a request was let in.
    fn until(&self, let_in: LetIn<'_>) -> Option<Duration> {
        let credential = let_in.principal.and_then(|principal| principal.until);
        // It may be by the identity in a certificate alone, without a principal.
        let certificate = self.connection.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref());
        credential.into_iter().chain(certificate.map(|shown| shown.until)).min()
    }

    /// Adds a request to the list. One that would not be let in by now has ended already.
    pub(crate) fn stand(&self, let_in: LetIn<'_>) -> Rc<Standing> {
        let opening = Opening {
            request: let_in.request.clone(),
            connection: self.connection.clone(),
            bound: self.bound,
            host: let_in.host.to_owned(),
            client: let_in.client,
            principal: let_in.principal.cloned(),
            as_of: Some(let_in.since).filter(|_| self.ends == Ends::WithPolicy),
        };
        let now = self.worker.clock.now();
        let until = self.until(let_in).filter(|_| self.ends == Ends::WithCredential);
        let lasts = until.map(|until| until.saturating_sub(now.unix));
        let snapshot = self.worker.snapshot();
        // The keys that its credential is good by may have changed without a configuration.
        let is_as_before = snapshot.generation == self.generation && opening.principal.is_none();
        let judged = if is_as_before { Ok(()) } else { opening.judge(&snapshot, now.into()) };
        let opening = Rc::new(opening);
        let standing = self.worker.standings.add_until(Ground::Request(Rc::clone(&opening)), lasts);
        let asked = opening.principal.as_ref().and_then(|principal| principal.asked);
        if let Some(ends) = asked.filter(|_| self.ends == Ends::WithCredential) {
            // That may be long ago, where the backend took its time.
            let first = ends.max(let_in.since.saturating_add(PACE));
            let _ = standing.asking.set(Asking::begin(self.worker, &standing, &opening, first));
        }
        if let Err(cause) = judged {
            standing.end(cause);
        } else if lasts.is_some_and(|lasts| lasts.is_zero()) {
            standing.end(Cause::Outlived);
        }
        if let Some(backend) = self.in_clear_to {
            standing.note_without_tunnel(&snapshot, backend);
        }
        standing
    }

    /// Runs what delivers a response, or waits for one while a body is sent, for as long as the request would be let in. Whoever is done soon is not looked at again: the list is for
    /// what has lasted for a while.
    pub(crate) async fn while_it_stands<T>(
        &self,
        watch: &Watch,
        let_in: LetIn<'_>,
        mut delivering: Pin<&mut impl Future<Output = Result<T, Failure>>>,
    ) -> Result<T, Failure> {
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
            // The backend works on it: a credential that ends, or of which is said that it has ended, does not undo the answer.
            let ends = if self.whole.is_some_and(Cell::get) { Ends::WithPolicy } else { self.ends };
            loop {
                let stand = || (Entrance { ends, ..*self }.stand(let_in), ends);
                let (listed, listed_for) = standing.get_or_insert_with(stand);
                ready!(listed.poll_ended(cx));
                if *listed_for == ends {
                    return Poll::Ready(Err(self.failure_of(listed)));
                }
                standing = None;
            }
        })
        .await
    }

    /// Why a request ends. One of which a credential has come to its end is answered as one that shows such a credential.
    fn failure_of(&self, standing: &Standing) -> Failure {
        let ended = match &standing.ground {
            Ground::Request(opening) if standing.has_outlived() => opening.principal.as_ref().zip(Some(opening)),
            _ => None,
        };
        let Some((principal, opening)) = ended else { return standing.failure() };
        let now = self.worker.clock.now();
        // The timer and the clock may differ by a moment.
        let unix = principal.until.map_or(now.unix, |until| until.max(now.unix));
        match opening.judge(&self.worker.snapshot(), Now { monotonic: now.monotonic, unix }) {
            Err(Cause::Refused(reply)) => refusal(&reply),
            _ => standing.failure(),
        }
    }
}
