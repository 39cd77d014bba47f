//! Who has vouched for a request is asked again while it is under way, whenever his answer has ended.
//!
//! Begun when the request comes into the list, by a task of its worker, which ends with the request. What is asked, and what the answer means, is
//! the engine's (`ask_again`). A request ends where it would not be let in, also because nobody answers.

use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;
use transept_engine::callout::{Callout, CalloutResult};
use transept_engine::exchange::Notes;
use transept_engine::route::route;
use transept_engine::screen::ask_again;
use transept_engine::snapshot::Listener;
use transept_engine::verdict::Verdict;

use super::{Cause, Opening, Standing};
use crate::callout::ask_until_heard;
use crate::path::admit_here;
use crate::worker::Worker;

/// The least time between two questions about one request, also where answers are not remembered.
pub(super) const PACE: Duration = Duration::from_secs(1);

/// The task that asks. It ends with what it asks about.
pub(super) struct Asking(AbortHandle);

impl Asking {
    /// Asks at `first` since the Unix epoch, and whenever an answer has ended.
    pub(super) fn begin(
        worker: &Rc<Worker>,
        standing: &Rc<Standing>,
        opening: &Rc<Opening>,
        first: Duration,
    ) -> Asking {
        let (worker, standing, opening) = (Rc::clone(worker), Rc::downgrade(standing), Rc::clone(opening));
        Asking(tokio::task::spawn_local(keep_asking(worker, standing, opening, first)).abort_handle())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep_asking(worker: Rc<Worker>, standing: Weak<Standing>, opening: Rc<Opening>, mut at: Duration) {
    loop {
        tokio::time::sleep(at.saturating_sub(worker.clock.now().unix)).await;
        match opening.ask(&worker).await {
            Ok(Some(ends)) => at = ends.max(worker.clock.now().unix.saturating_add(PACE)),
            // Today it needs nobody who vouches for it.
            Ok(None) => return,
            Err(cause) => {
                if let Some(standing) = standing.upgrade() {
                    standing.end(cause);
                }
                return;
            }
        }
    }
}

impl Opening {
    /// Whether it would be let in today by what somebody says who is asked now: when that answer ends. If not, why it ends.
    async fn ask(&self, worker: &Rc<Worker>) -> Result<Option<Duration>, Cause> {
        let snapshot = worker.snapshot();
        let bind = snapshot.bind_for(&self.bound, self.connection.local);
        let listener = bind.map(|bind| admit_here(bind, &self.connection, &self.request, &self.host));
        let Some(Ok(listener)) = listener else { return Ok(None) };
        let routed = route(listener, &self.request, &self.host);
        let (mut request, mut notes) = (self.request.clone(), Notes::new());
        notes.principal.clone_from(&self.principal);
        loop {
            let mut exchange = self.exchange(worker.clock.now().into(), listener, &mut request, &mut notes);
            match ask_again(listener, routed.as_ref(), &mut exchange) {
                Verdict::Continue => return Ok(notes.principal.and_then(|principal| principal.asked)),
                Verdict::Respond(reply) => return Err(Cause::Refused(reply)),
                Verdict::Call(callout) => notes.resume(perform(*callout, worker, listener).await),
            }
        }
    }
}

/// Performs what can be done without a client who waits. A server that is just starting anew ends nothing: it is asked again for as long as it has
/// time to answer, and has heard nothing.
async fn perform(callout: Callout, worker: &Rc<Worker>, listener: &Listener) -> CalloutResult {
    match callout {
        Callout::Http(call) => ask_until_heard(worker, &call, listener.client_identity.as_ref()).await,
        Callout::Wait(wait) => match tokio::time::timeout(wait.timeout, wait.until).await {
            Ok(()) => CalloutResult::Waited,
            Err(_) => CalloutResult::Failed(format!("waited in vain for {}", wait.what).into()),
        },
        other => CalloutResult::Failed(format!("this is not done again: {}", other.describe()).into()),
    }
}
