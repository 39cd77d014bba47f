//! What the two directions of an exchange tell each other while the body of a request streams.
//!
//! Made by `forward.rs` for each try. The body waits until somebody wants it, where the client asks for that (RFC 9110 section 10.1.1). Into a tunnel no more of it goes than is
//! remembered, until the proxy at the other end has said that its program is there: with an interim 100, which it sends unasked once it has passed on some of a body. So a
//! request can be sent elsewhere however large it is, as long as nobody has seen it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::body::{Sink, Source};
use crate::failure::Failure;
use crate::h2::Link;

/// How long a backend may take to ask for the body of a request that expects 100, before it gets it unasked (RFC 9110
/// section 10.1.1 lets every hop go on), and a proxy to say that its program is there.
pub(crate) const UNASKED: Duration = Duration::from_secs(1);

/// When so much of a body has gone on to a program its caller is told. Less than callers remember, so that none waits in vain; a body that is smaller costs nothing.
const TOLD: u64 = 32 * 1024;

/// Something that happens once.
#[derive(Default)]
pub(crate) struct Signal {
    given: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    /// It has happened.
    pub(crate) fn give(&self) {
        self.given.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whether it has happened.
    pub(crate) fn is_given(&self) -> bool {
        self.given.get()
    }

    /// Ready when it has happened.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.given.get() {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Waits for it.
    pub(crate) async fn wait(&self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }
}

/// Whether the proxy that a request comes from waits to hear that its program is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listens {
    /// It may.
    Yes,
    /// It does not: it is no member of the mesh, or has heard 100 already.
    No,
}

/// Between what sends a body and what waits for the response.
pub(crate) struct Gate {
    /// The body is wanted.
    pub wanted: Signal,
    /// The request has arrived where it is answered.
    pub taken: Signal,
    /// So much has gone on that the caller is told.
    pub passed: Signal,
    /// Whether the caller need not be told, or has been.
    told: Cell<bool>,
    /// The connection in a tunnel whose other end says when the request is taken.
    teller: Option<Rc<Link>>,
    /// Whether an answer may be a reason to send the body again, so that it is remembered after it has been taken, too.
    again: Cell<Again>,
    /// Whether all of it that has been sent is remembered.
    is_remembered: Cell<bool>,
}

/// What a body that was seen by somebody is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// It may be sent again.
    Possible,
    /// It is not.
    Never,
}

impl Gate {
    /// One that is closed when the client expects 100.
    pub(crate) fn new(expects_continue: bool, listens: Listens, teller: Option<Rc<Link>>, again: Again) -> Self {
        let wanted = Signal::default();
        if !expects_continue {
            wanted.give();
        }
        let told = Cell::new(listens == Listens::No);
        let (taken, passed, is_remembered) = (Signal::default(), Signal::default(), Cell::new(true));
        Self { wanted, taken, passed, told, teller, again: Cell::new(again), is_remembered }
    }

    /// Notes how much of the body has gone on.
    pub(crate) fn note(&self, moved: u64) {
        if moved >= TOLD && !self.told.get() {
            self.passed.give();
        }
    }

    /// The other end has said that the request is taken.
    pub(crate) fn hear(&self) {
        self.taken.give();
        if let Some(teller) = &self.teller {
            teller.note_silent(false);
        }
    }

    /// An answer is on its way to the client: nothing is sent again.
    pub(crate) fn commit(&self) {
        self.again.set(Again::Never);
        self.taken.give();
    }

    /// Whether the caller need not be told that the request is taken, or has been.
    pub(crate) fn is_told(&self) -> bool {
        self.told.get()
    }

    /// The caller is told.
    pub(crate) fn note_told(&self) {
        self.told.set(true);
    }

    /// How much of the body may be sent now. None is all; zero asks for [`Gate::settle`].
    pub(crate) fn room(&self, source: &mut Source<'_>) -> Option<usize> {
        if self.again.get() == Again::Possible {
            self.is_remembered.set(source.can_begin_again());
            // What is too much forgets itself.
            return if self.taken.is_given() { None } else { source.room() };
        }
        if self.taken.is_given() {
            source.forget();
        }
        source.room()
    }

    /// Whether the request can be sent again because of what was answered.
    pub(crate) fn can_send_again(&self) -> bool {
        self.again.get() == Again::Possible && self.is_remembered.get()
    }

    /// Called when no more can be remembered: waits until the request is taken, where somebody says so.
    ///
    /// # Errors
    /// When what has been written cannot be sent.
    pub(crate) async fn settle(&self, source: &mut Source<'_>, sink: &mut Sink<'_>) -> Result<(), Failure> {
        if let Some(teller) = self.teller.as_ref().filter(|teller| !teller.is_silent()) {
            sink.flush().await?;
            if tokio::time::timeout(UNASKED, self.taken.wait()).await.is_err() {
                // Others need not do so.
                teller.note_silent(true);
            }
        }
        source.forget();
        Ok(())
    }
}
