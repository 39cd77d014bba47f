//! What a policy, a filter or a verb of the road may say about a request: go on, answer now, or do something first.
//!
//! Made by `screen`, `admit`, `pick` and the policies; performed by the proxy, rendered by `reply`. Nothing here knows the format of
//! a response: a [`Reply`] is the meaning, `reply::render` the bytes.

use std::borrow::Cow;

use transept_wire::head::FieldName;

use crate::callout::Callout;
use crate::reason::Reason;

/// The outcome of one step of the road.
#[derive(Debug)]
#[must_use]
pub enum Verdict {
    /// Go on to the next step.
    Continue,
    /// Answer with this reply; later steps of the request side do not run, the response side does.
    Respond(Box<Reply>),
    /// Do this first, and ask again with what came of it ([`Notes::resume`](crate::exchange::Notes::resume)).
    Call(Box<Callout>),
}

impl Verdict {
    /// Whether the next step may follow.
    pub fn goes_on(&self) -> bool {
        matches!(self, Verdict::Continue)
    }
}

/// A response that the gateway makes by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Why; a row of the closed table.
    pub reason: Reason,
    /// The status code. Usually that of the reason; redirects and parse errors choose their own.
    pub status: u16,
    /// One sentence for the caller. Holds no address, no name of a resource and no internals, because the caller may be anybody.
    pub detail: Cow<'static, str>,
    /// Fields in addition to those that rendering adds.
    pub fields: Vec<(FieldName, Vec<u8>)>,
    /// The content.
    pub body: ReplyBody,
    /// What the problem document says beside what every one says.
    pub problem: Option<Box<Problem>>,
    /// Who refused and by which rule, for logs and explanations. Never sent.
    pub cause: Option<Box<str>>,
}

/// What the response side has to know of a [`Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replied {
    /// Why.
    pub reason: Reason,
    /// The status that the client is told; callers that speak gRPC get it in the way of gRPC.
    pub status: u16,
}

impl From<&Reply> for Replied {
    fn from(reply: &Reply) -> Replied {
        Replied { reason: reply.reason, status: reply.status }
    }
}

/// A kind of problem that is described elsewhere than with our reasons (RFC 9457 section 3.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its type, a URI.
    pub kind: &'static str,
    /// Members that belong to it.
    pub members: Vec<(&'static str, serde_json::Value)>,
}

/// The content of a [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyBody {
    /// A problem document (RFC 9457), or what the caller understands better.
    Problem,
    /// No content.
    Empty,
    /// The message of a gRPC call that has succeeded, without its prefix.
    Grpc(Vec<u8>),
    /// Given bytes.
    Bytes {
        /// The value of `Content-Type`.
        media_type: Cow<'static, str>,
        /// The content.
        bytes: Cow<'static, [u8]>,
    },
}

impl Reply {
    /// A problem reply with the reason's status code and its title as detail.
    pub fn new(reason: Reason) -> Reply {
        Reply {
            reason,
            status: reason.status(),
            detail: Cow::Borrowed(""),
            fields: Vec::new(),
            body: ReplyBody::Problem,
            problem: None,
            cause: None,
        }
    }

    /// The same reply with a sentence for the caller.
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Reply {
        self.detail = detail.into();
        self
    }

    /// The same reply with a word for logs on who refused and by which rule.
    pub fn because(mut self, cause: impl Into<Box<str>>) -> Reply {
        self.cause = Some(cause.into());
        self
    }

    /// The same reply with another status code.
    pub fn with_status(mut self, status: u16) -> Reply {
        self.status = status;
        self
    }

    /// The same reply with one more field.
    pub fn with_field(mut self, name: FieldName, value: impl Into<Vec<u8>>) -> Reply {
        self.fields.push((name, value.into()));
        self
    }

    /// The same reply without content.
    pub fn without_body(mut self) -> Reply {
        self.body = ReplyBody::Empty;
        self
    }
}

impl From<Reason> for Reply {
    fn from(reason: Reason) -> Reply {
        Reply::new(reason)
    }
}

impl From<Callout> for Verdict {
    fn from(callout: Callout) -> Verdict {
        Verdict::Call(Box::new(callout))
    }
}

impl From<Reply> for Verdict {
    fn from(reply: Reply) -> Verdict {
        Verdict::Respond(Box::new(reply))
    }
}
