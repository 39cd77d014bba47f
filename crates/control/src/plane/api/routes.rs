//! What may be asked for: paths, methods and who asks.
//!
//! Called by `api` for every request. The content is read whole before anything is decided, so that whoever sends it also reads the
//! answer. What needs the plane is done on threads that may wait for the disk.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};
use transept_identity::Ticket;
use transept_identity::lease::{self, LeaseClaim};
use transept_identity::token::{self, BadToken};
use zeroize::Zeroizing;

use super::answer::{Answer, Problem, done, page, show};
use super::body;
use crate::plane::core::Plane;
use crate::plane::core::lease::{Credential, Denied, Registered};
use crate::plane::registry::HEARTBEAT;

/// The largest content in bytes.
const LARGEST: usize = 64 << 10;
/// How much of a larger one is read and thrown away, so that the answer is not lost.
const THROWN_AWAY: u64 = 1 << 20;
/// How long the content may take.
const CONTENT_TIME: Duration = Duration::from_secs(10);
/// The longest key of an instance.
const LONGEST_KEY: usize = 128;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What a path means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Route {
    Health,
    All { namespace: String },
    One { namespace: String, name: String },
    Beat { namespace: String, name: String },
}

impl Route {
    /// Names are not decoded: those that would need it are none.
    fn read(path: &str) -> Option<Self> {
        if path == "/healthz" {
            return Some(Self::Health);
        }
        let parts: Vec<&str> = path.strip_prefix("/v1/namespaces/")?.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return None;
        }
        let own = |text: &str| text.to_owned();
        match parts.as_slice() {
            [namespace, "workloads"] => Some(Self::All { namespace: own(namespace) }),
            [namespace, "workloads", name] => Some(Self::One { namespace: own(namespace), name: own(name) }),
            [namespace, "workloads", name, "beat"] => Some(Self::Beat { namespace: own(namespace), name: own(name) }),
            _ => None,
        }
    }

    fn methods(&self) -> &'static str {
        match self {
            Self::Health | Self::All { .. } => "GET, HEAD",
            Self::One { .. } => "GET, HEAD, PUT, DELETE",
            Self::Beat { .. } => "POST",
        }
    }
}

/// One request, with what is known of whoever makes it.
struct Call {
    plane: Arc<Plane>,
    route: Route,
    method: Method,
    credential: Credential,
    key: Option<Vec<u8>>,
    content: Bytes,
    from: IpAddr,
}

/// Answers one request. `allowed` is what the quota of the address says: how long to wait when it is used up.
pub(super) async fn respond(
    plane: Arc<Plane>,
    request: Request<Incoming>,
    from: IpAddr,
    allowed: Result<(), Duration>,
) -> Answer {
    let done = async {
        let (head, body) = request.into_parts();
        let content = tokio::time::timeout(CONTENT_TIME, collect(body)).await.map_err(|_| Problem::too_slow())??;
        allowed.map_err(Problem::too_many)?;
        let route = Route::read(head.uri.path()).ok_or_else(Problem::no_path)?;
        let method = if head.method == Method::HEAD { Method::GET } else { head.method };
        if !route.methods().split(", ").any(|allowed| method == allowed) {
            return Err(Problem::method(route.methods()));
        }
        if route == Route::Health {
            return Ok(page(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".to_owned()));
        }
        let credential = credential(&head.headers)?;
        let key = key(&head.headers)?;
        let call = Call { plane, route, method, credential, key, content, from };
        tokio::task::spawn_blocking(move || call.answer()).await.map_err(|_| Problem::failed())?
    };
    done.await.unwrap_or_else(Problem::answer)
}

async fn collect(mut body: Incoming) -> Result<Bytes, Problem> {
    if body.size_hint().lower() > THROWN_AWAY {
        return Err(Problem::too_large(LARGEST));
    }
    let (mut content, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Problem::no_json(format!("it broke off: {error}")))?;
        let Some(data) = frame.data_ref() else { continue };
        length += data.len() as u64;
        if length > THROWN_AWAY {
            break;
        }
        if length <= LARGEST as u64 {
            content.extend_from_slice(data);
        }
    }
    if length > LARGEST as u64 { Err(Problem::too_large(LARGEST)) } else { Ok(content.into()) }
}

/// What the caller shows. That it is a token or a lease is known from its beginning; whether it is good is asked of the plane.
fn credential(fields: &HeaderMap) -> Result<Credential, Problem> {
    let mut all = fields.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return Err(Problem::unauthenticated(
            "say `Authorization: Bearer ` and a join token, or the lease of the instance",
        ));
    };
    let text = value.to_str().ok().and_then(|text| text.split_once(' '));
    let Some((_, text)) = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
        return Err(Problem::unauthenticated("the scheme of `Authorization` is `Bearer`"));
    };
    let text = text.trim();
    if text.starts_with(lease::PREFIX) {
        return LeaseClaim::read(text).map(Credential::Lease).ok_or_else(|| Denied::Lease.into());
    }
    if !text.starts_with(token::PREFIX) {
        return Err(Problem::unauthenticated(
            "this is no join token as `transept token create` prints it, and no lease",
        ));
    }
    match Ticket::read(text) {
        Ok(ticket) => Ok(Credential::Token(Zeroizing::new(ticket.token().to_owned()))),
        Err(_) if !text.contains('.') => Ok(Credential::Token(Zeroizing::new(text.to_owned()))),
        Err(_) => Err(Denied::Token(BadToken::Malformed).into()),
    }
}

fn key(fields: &HeaderMap) -> Result<Option<Vec<u8>>, Problem> {
    let Some(value) = fields.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value.as_bytes();
    if key.is_empty() || key.len() > LONGEST_KEY {
        return Err(Problem::bad_key(LONGEST_KEY));
    }
    Ok(Some(key.to_vec()))
}

impl Call {
    fn answer(self) -> Result<Answer, Problem> {
        match &self.route {
            Route::Health => Err(Problem::no_path()),
            Route::All { namespace } => self.look(namespace, None),
            Route::One { namespace, name } if self.method == Method::GET => self.look(namespace, Some(name)),
            Route::One { namespace, name } if self.method == Method::PUT => self.put(namespace, name),
            Route::One { namespace, name } => {
                self.plane.remove(self.own_lease(namespace, name)?)?;
                Ok(done())
            }
            Route::Beat { namespace, name } => {
                self.plane.touch(self.own_lease(namespace, name)?)?;
                Ok(show(StatusCode::OK, &json!({"registered": true, "intervalMs": interval()})))
            }
        }
    }

    fn look(&self, namespace: &str, only: Option<&str>) -> Result<Answer, Problem> {
        if !self.plane.may_look(&self.credential, namespace)? {
            return Err(Problem::denied(format!("what you show is not for the namespace `{namespace}`")));
        }
        let mut objects = self.plane.registered(namespace, only);
        match only {
            None => Ok(show(StatusCode::OK, &json!({"items": objects}))),
            Some(name) => {
                let object = objects.pop().ok_or_else(|| Problem::not_found(namespace, name))?;
                Ok(show(StatusCode::OK, &object))
            }
        }
    }

    fn put(&self, namespace: &str, name: &str) -> Result<Answer, Problem> {
        let holder = self.plane.holder(&self.credential)?;
        if let Credential::Lease(_) = &self.credential {
            self.own_lease(namespace, name)?;
        }
        if holder.namespace() != namespace {
            let (own, service) = (holder.namespace(), holder.service_account());
            return Err(Problem::denied(format!(
                "this token may register {own}/{service}, and nothing in `{namespace}`"
            )));
        }
        let workload = body::read(&self.content, &holder, name, self.from)?;
        let registered = match &self.credential {
            Credential::Token(token) => self.plane.enrol(token, self.key.as_deref(), workload, self.from)?,
            Credential::Lease(claim) => self.plane.change(claim, workload, self.from)?,
        };
        Ok(confirm(&registered))
    }

    /// The lease of this very instance, if that is what was shown.
    fn own_lease(&self, namespace: &str, name: &str) -> Result<&LeaseClaim, Problem> {
        let Credential::Lease(claim) = &self.credential else {
            let why = "a join token only registers; show the lease that the registration was answered with";
            return Err(Problem::denied(why));
        };
        if claim.namespace == namespace && claim.name == name {
            return Ok(claim);
        }
        let own = format!("{}/{}", claim.namespace, claim.name);
        Err(Problem::denied(format!("this lease is for {own}, and not for {namespace}/{name}")))
    }
}

fn confirm(registered: &Registered) -> Answer {
    let workload = &registered.entry.workload;
    let mut value = json!({
        "namespace": workload.namespace,
        "name": workload.name,
        "identity": registered.entry.identity,
        "services": workload.services,
        "address": workload.address,
        "intervalMs": interval(),
    });
    if let Some(lease) = &registered.lease {
        value["lease"] = Value::String(lease.to_string());
    }
    show(if registered.is_new { StatusCode::CREATED } else { StatusCode::OK }, &value)
}

fn interval() -> u64 {
    u64::try_from(HEARTBEAT.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
