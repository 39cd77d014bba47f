//! The memory of one exchange: its heads and the facts that the record needs. Reused from request to request, so that
//! a request on the common path allocates nothing.
//!
//! Filled by the edges and the verbs; cleared by the worker when it is given back.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use transept_engine::exchange::{Connection, Exchange, Notes, Now};
use transept_engine::principal::Principal;
use transept_engine::reason::Reason;
use transept_engine::snapshot::Backend;
use transept_engine::trace::Span;
use transept_wire::h1::Protocol;
use transept_wire::head::{Request, Response};

use crate::clock::Moment;
use crate::deadline::Watch;

/// One exchange.
pub(crate) struct Trip {
    /// The request, as it arrived and then as it leaves.
    pub request: Request,
    /// The response, from the backend or our own.
    pub response: Response,
    /// What the request side of the configuration leaves for the response side.
    pub notes: Notes,
    /// The host that was asked for: lower-case, without port.
    pub host: String,
    /// Room for rewriting.
    pub scratch: Vec<u8>,
    /// The derived address of the client.
    pub client: IpAddr,
    /// The protocol that the client wants to switch to.
    pub upgrade: Option<Protocol>,
    /// The request before policies and filters changed it, where there are any.
    original: Request,
    /// Whether `original` is one of this exchange.
    has_original: bool,
    /// The deadline of an HTTP/2 stream, which is no connection with one of its own.
    pub watch: Option<Watch>,
    pub started: Moment,
    /// How long its head was waited for after that.
    pub heading: Duration,
    /// The time that policies have taken to ask somebody.
    pub asked: Duration,
    /// How long the caller waits for the response, where it says so.
    pub patience: Option<Duration>,
    /// Whether the caller is a proxy whose word counts.
    pub relayed: bool,
    pub random: u64,
    /// What the record tells.
    pub facts: Facts,
}

/// A request as it was let in.
#[derive(Clone, Copy)]
pub(crate) struct LetIn<'t> {
    pub request: &'t Request,
    /// The host that was asked for, as routing sees it.
    pub host: &'t str,
    pub client: IpAddr,
    /// Who made it.
    pub principal: Option<&'t Arc<Principal>>,
    /// When it came, since the Unix epoch.
    pub since: Duration,
}

/// What is known about an exchange when it ends.
#[derive(Default)]
pub(crate) struct Facts {
    /// The status that the client got; 0 when it got none.
    pub status: u16,
    pub error: Option<Reason>,
    pub detail: Cow<'static, str>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub tries: u32,
    /// The try that a response is of, counted over all proxies, where one before it was answered or may have been.
    pub attempt: Option<u32>,
    /// The backend of a connection that is no request.
    pub backend: Option<Arc<Backend>>,
    /// The path as it arrived; kept because filters change the request. Empty when there is no access log.
    pub target: Vec<u8>,
    pub request_id: Vec<u8>,
    /// Our place in the trace; none outside a mesh.
    pub span: Option<Span>,
}

impl Default for Trip {
    fn default() -> Self {
        let nowhen = Moment { monotonic: Duration::ZERO, unix: Duration::ZERO };
        Self {
            request: Request::new(),
            response: Response::new(200),
            notes: Notes::new(),
            host: String::new(),
            scratch: Vec::new(),
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            upgrade: None,
            original: Request::new(),
            has_original: false,
            watch: None,
            started: nowhen,
            heading: Duration::ZERO,
            asked: Duration::ZERO,
            patience: None,
            relayed: false,
            random: 0,
            facts: Facts::default(),
        }
    }
}

impl Trip {
    /// Why a limit has not counted it that was to, of one that has passed all the same.
    pub(crate) fn uncounted(&self) -> Option<&str> {
        self.notes.services.as_ref()?.uncounted.as_deref()
    }

    /// Forgets the exchange and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.request.clear();
        self.response.clear();
        self.notes.clear();
        self.host.clear();
        self.scratch.clear();
        self.upgrade = None;
        if self.has_original {
            self.original.clear();
            self.has_original = false;
        }
        self.heading = Duration::ZERO;
        self.asked = Duration::ZERO;
        self.patience = None;
        self.relayed = false;
        if let Some(watch) = &self.watch {
            watch.clear();
        }
        let mut target = std::mem::take(&mut self.facts.target);
        let mut request_id = std::mem::take(&mut self.facts.request_id);
        target.clear();
        request_id.clear();
        self.facts = Facts { target, request_id, ..Facts::default() };
    }

    /// Keeps the request as it is now, before the first change that a policy or a filter makes.
    pub(crate) fn keep_original(&mut self) {
        if !self.has_original {
            self.original.copy_from(&self.request);
            self.has_original = true;
        }
    }

    /// The request as it was let in, and beside it what is told of the response.
    pub(crate) fn let_in(&mut self) -> (LetIn<'_>, &mut Facts) {
        let (let_in, _, facts) = self.parts();
        (let_in, facts)
    }

    /// The request as it was let in, and beside it the response that is waited for.
    pub(crate) fn awaiting(&mut self) -> (LetIn<'_>, &mut Response) {
        let (let_in, response, _) = self.parts();
        (let_in, response)
    }

    fn parts(&mut self) -> (LetIn<'_>, &mut Response, &mut Facts) {
        let let_in = LetIn {
            request: if self.has_original { &self.original } else { &self.request },
            host: &self.host,
            client: self.client,
            principal: self.notes.principal.as_ref(),
            since: self.started.unix,
        };
        (let_in, &mut self.response, &mut self.facts)
    }

    /// When the request is decided: its head has come, and time that policies have taken to ask somebody has passed.
    pub(crate) fn now(&self) -> Now {
        let since = self.heading + self.asked;
        Now { monotonic: self.started.monotonic + since, unix: self.started.unix + since }
    }

    /// The exchange as the engine sees it, and the response beside it.
    pub(crate) fn exchange<'x>(
        &'x mut self,
        connection: &'x Connection,
        listener_port: u16,
    ) -> (Exchange<'x>, &'x mut Response) {
        let now = self.now();
        let exchange = Exchange {
            now,
            random: self.random,
            connection,
            client: self.client,
            listener_port,
            request: &mut self.request,
            notes: &mut self.notes,
        };
        (exchange, &mut self.response)
    }
}
