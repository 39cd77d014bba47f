//! What a policy asks for that the engine cannot do, because it does no IO: a call over the network, the body of the request, slow
//! computing.
//!
//! A policy returns a [`Callout`] as its verdict; the proxy performs it and shows the same policy the [`CalloutResult`]
//! (`Policy::on_callout`). Explanations perform nothing and say [`CalloutResult::Assumed`].

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use transept_wire::head::{Fields, Request};

use crate::document::{Document, Occasion};
use crate::judge::Repeat;
use crate::rule::BrokenRef;
use crate::snapshot::Backend;

/// Something to do before a policy can decide.
#[derive(Debug)]
pub enum Callout {
    /// Ask a server.
    Http(Box<HttpCall>),
    /// Ask a server, and wait for its answer like [`Callout::Http`], but finish also when the request is given up meanwhile: what is
    /// asked changes something there, and the answer must not be lost. The outcome goes to who is named here; the policy
    /// goes on with [`CalloutResult::Waited`].
    Detached(Box<HttpCall>, Receiver),
    /// Read the body of the request, up to this many bytes, and keep it to be forwarded.
    Body {
        /// The largest body that is read, in bytes.
        most: usize,
    },
    /// Read the begin of the body of the request, up to this many bytes, and keep it to be forwarded with the rest.
    BodyBegin {
        /// How much is read, in bytes.
        most: usize,
    },
    /// Wait for something that goes on elsewhere in the process.
    Wait(Wait),
    /// Draw random bytes that nobody can foresee, this many.
    Random(usize),
    /// Compute something that takes longer than a worker may be held up: milliseconds.
    Compute(Computation),
    /// Fetch a document, or wait for the fetch that is under way; one at a time over all workers.
    Refresh {
        /// The document.
        document: Arc<Document>,
        /// Why.
        occasion: Occasion,
    },
}

/// Who gets the outcome of a detached call, once.
pub struct Receiver(pub Box<dyn FnOnce(CalloutResult) + Send>);

impl fmt::Debug for Receiver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Receiver").finish_non_exhaustive()
    }
}

/// A request of a policy's own. What it holds may be secret, and is not shown.
pub struct HttpCall {
    /// Whom to ask. Over HTTP/2 where the backend's protocol says so, and always when the request is one of gRPC.
    pub backend: Arc<Backend>,
    /// The head: method, authority, target, fields. `Content-Length` is written by the proxy.
    pub request: Request,
    /// The content.
    pub body: Vec<u8>,
    /// How long all of it may take.
    pub timeout: Duration,
    /// The largest answer that is read, in bytes of content.
    pub most: usize,
    /// Whether the server may be asked twice: where a pooled connection turns out to have been closed, it may have heard the question.
    pub repeat: Repeat,
}

impl fmt::Debug for HttpCall {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("HttpCall").field("backend", &self.backend.label).finish_non_exhaustive()
    }
}

/// Something that goes on elsewhere.
pub struct Wait {
    /// What is waited for, for logs and explanations: `the quota to be written`.
    pub what: &'static str,
    /// Ready when it has happened, or will not.
    pub until: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// How long it may take.
    pub timeout: Duration,
}

impl fmt::Debug for Wait {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Wait").field("what", &self.what).finish_non_exhaustive()
    }
}

/// Slow computing, and what it is.
pub struct Computation {
    /// What is computed, for logs and explanations.
    pub what: &'static str,
    /// Runs on a thread for such things.
    pub run: Box<dyn FnOnce() -> Box<dyn Any + Send> + Send>,
}

impl fmt::Debug for Computation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Computation").field("what", &self.what).finish_non_exhaustive()
    }
}

/// What came of a callout.
#[derive(Debug)]
pub enum CalloutResult {
    /// The server's answer, whatever its status.
    Answered(Box<Answer>),
    /// The body of the request, whole.
    Body(Arc<[u8]>),
    /// The begin of the body of the request, which is longer.
    BodyBegin(Arc<[u8]>),
    /// The body is larger than was asked for.
    BodyTooLarge,
    /// What was waited for has happened.
    Waited,
    /// Random bytes, as many as were asked for.
    Random(Vec<u8>),
    /// What was computed.
    Computed(Box<dyn Any + Send>),
    /// The document was fetched or not; what it is now is to be seen there.
    Refreshed,
    /// Nothing came of it. The sentence is for logs; it holds no secret.
    Failed(Box<str>),
    /// Nothing was performed: an explanation goes on as though it had gone well.
    Assumed,
}

/// A whole answer. Its content may be secret, and is not shown.
#[derive(Default)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub fields: Fields,
    /// The content.
    pub body: Vec<u8>,
    /// The trailer fields.
    pub trailers: Fields,
}

impl fmt::Debug for Answer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Callout {
    /// What is done, for explanations: `asks shop/auth:9001, GET /check`.
    pub fn describe(&self) -> String {
        match self {
            Callout::Http(call) | Callout::Detached(call, _) => {
                format!("asks {}, {} {}", call.backend.label, call.request.method, call.request.path().escape_ascii())
            }
            Callout::Body { most } => format!("reads the body of the request, up to {most} bytes"),
            Callout::BodyBegin { most } => format!("reads the first {most} bytes of the body of the request"),
            Callout::Wait(wait) => format!("waits for {}", wait.what),
            Callout::Random(count) => format!("draws {count} random bytes"),
            Callout::Compute(computation) => format!("computes {}", computation.what),
            Callout::Refresh { document, .. } => format!("fetches {}", document.label),
        }
    }
}

/// A backend that a policy asks; settled when all backends of the configuration are.
pub type Callee = Arc<OnceLock<Result<Arc<Backend>, BrokenRef>>>;
