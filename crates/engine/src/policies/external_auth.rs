//! `ExternalAuthPolicy`, and the filter `ExternalAuth` of routes (GEP-1494): a service of the user says whether a request may pass.
//!
//! Both are this one policy: the filter is put into the chain of its rule by `compile/routes.rs`. The service is asked after our own
//! AuthorizationPolicies, so that it is not troubled with what they refuse. Over gRPC it is Envoy's `ext_authz` (`ext_authz.rs`), over HTTP
//! the request itself without its content (`forward_auth`). Whatever keeps an answer away or makes it unusable is a failure, and a failure refuses
//! unless `onFailure` says otherwise.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use super::patterns::field_name;
use transept_model::kinds::filters::{ExternalAuthProtocol, ForwardBodyConfig, GrpcAuthConfig, HttpAuthConfig};
use transept_model::kinds::{BackendObjectReference, ExternalAuthFilter};
use transept_model::place::Spot;
use transept_model::policy::{Merge, Target};
use transept_model::schema::{Decoder, Labels, Rule, Text};
use transept_model::value::Value;
use transept_model::{choice, object};
use transept_wire::head::{FieldId, FieldName, Method, Request, Response};

use super::{Caution, CompileCx, Known, Phase, Policy};
use crate::callout::{Answer, Callee, Callout, CalloutResult, HttpCall};
use crate::exchange::Exchange;
use crate::ext_authz::{self, Begin, Decision, How, Told, may_change};
use crate::filters::headers::remove_alike;
use crate::judge::Repeat;
use crate::reason::Reason;
use crate::reply::Audience;
use crate::services::{AskedService, ServiceRole};
use crate::verdict::{Reply, ReplyBody, Verdict};

mod forward_auth;
#[cfg(test)]
mod tests;

/// How long the service has, when nothing else is written.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The largest answer that is read, in bytes of content.
const LARGEST_ANSWER: usize = 64 * 1024;
/// The most of a body that is shown.
const LARGEST_BODY: u32 = 1024 * 1024;

choice! {
    /// What becomes of a request when the service does not answer, or not in a way that can be used.
    pub enum WithoutAnswer {
        /// It is refused with 503.
        Refuse = "Refuse",
        /// It passes, as though there were no policy.
        Allow = "Allow",
    }
}

object! {
    /// Asks a service of the user whether requests may pass: Envoy's `ext_authz` v3 over gRPC, or a plain HTTP request.
    pub struct ExternalAuthPolicySpec {
        /// The protocol of the service.
        protocol: ExternalAuthProtocol;
        /// The service.
        backend_ref: BackendObjectReference;
        /// Settings for the gRPC protocol.
        grpc: Option<GrpcAuthConfig>;
        /// Settings for the HTTP protocol.
        http: Option<HttpAuthConfig>;
        /// Whether the service gets to see the request's body.
        forward_body: Option<ForwardBodyConfig>;
        /// How long the service has, all of reading the body apart.
        timeout: Duration = TIMEOUT;
        /// What becomes of a request without an answer.
        on_failure: WithoutAnswer = WithoutAnswer::Refuse;
        /// What a gRPC service is told beside the request (`context_extensions`).
        extensions: Labels => Rule::MaxEntries(64);
    }
    check check_spec;
}

fn check_spec(spec: &ExternalAuthPolicySpec, value: &Value, cx: &mut Decoder) {
    let (other, is_set) = match spec.protocol {
        ExternalAuthProtocol::Grpc => ("http", spec.http.is_some()),
        ExternalAuthProtocol::Http => ("grpc", spec.grpc.is_some()),
    };
    if is_set {
        cx.refuse_field(value, other, format!("is set, but `protocol` is {}", spec.protocol)).remedy("remove it");
    }
    if spec.protocol == ExternalAuthProtocol::Http && !spec.extensions.is_empty() {
        cx.refuse_field(value, "extensions", "they are told to gRPC services only").remedy("remove them");
    }
    if spec.timeout.is_zero() {
        cx.refuse_field(value, "timeout", "nobody answers within no time").remedy("write how long to wait, as `500ms`");
    }
    if let Some(body) = spec.forward_body.as_ref().filter(|body| body.max_size > LARGEST_BODY) {
        let why =
            format!("the service would be shown {} bytes of each body, the most is {LARGEST_BODY}", body.max_size);
        cx.refuse_field(value, "forwardBody", why);
    }
}

/// A compiled `ExternalAuthPolicy`, or a filter `ExternalAuth`.
#[derive(Debug)]
pub(crate) struct ExternalAuthPolicy {
    callee: Callee,
    protocol: Protocol,
    /// How much of the body is shown, in bytes; none shows none.
    body: Option<usize>,
    timeout: Duration,
    without_answer: WithoutAnswer,
    /// Whether the service answers; a filter does not keep that, and refuses each request that it gets no answer about.
    asked: Option<Arc<AskedService>>,
    /// Where the service is written.
    at: Spot,
}

#[derive(Debug)]
enum Protocol {
    Grpc { allowed: Vec<FieldName>, extensions: Vec<(Box<str>, Box<str>)> },
    Http(forward_auth::Settings),
}

/// What is remembered between the body and the answer, or until the answer.
struct Asked;

/// What the service has made of a request.
enum Outcome {
    Decided(Decision),
    /// Nothing that can be used. The sentence is for logs.
    Failed(String),
}

impl Policy for ExternalAuthPolicy {
    const KIND: &'static str = "ExternalAuthPolicy";
    const ABOUT: &'static str = "Asks a service of the user whether requests may pass.";
    const PHASE: Phase = Phase::Authorize;
    const MERGE: Merge = Merge::AtomicDefaults;
    const TARGETS: &'static [Target] = &[Target::Gateway, Target::Listener, Target::Route, Target::Rule];
    type Spec = ExternalAuthPolicySpec;

    fn compile(spec: &ExternalAuthPolicySpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let protocol = match spec.protocol {
            ExternalAuthProtocol::Grpc => {
                let extensions =
                    spec.extensions.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into()));
                grpc(spec.grpc.as_ref(), extensions.collect())
            }
            ExternalAuthProtocol::Http => forward_auth::Settings::compile(spec.http.as_ref()).map(Protocol::Http),
        };
        match protocol {
            Ok(protocol) => Some(ExternalAuthPolicy {
                callee: cx.backend(&spec.backend_ref),
                protocol,
                body: shown(spec.forward_body.as_ref()),
                timeout: spec.timeout,
                without_answer: spec.on_failure,
                asked: Some(cx.asked_service(ServiceRole::Authorizer)),
                at: spec.http.as_ref().map_or(spec.at, |http| http.at),
            }),
            Err(why) => {
                cx.refuse(spec.at, why);
                None
            }
        }
    }

    fn cautions(&self, _: Known) -> Vec<Caution> {
        let Protocol::Http(settings) = &self.protocol else { return Vec::new() };
        let what = "without `http.allowedResponseHeaders` a field that the service leaves out of an answer is the client's own; list those that \
                    the backend relies on, so that no client can send them";
        let caution = settings.takes_any_answer().then(|| Caution { at: self.at, what: what.to_owned() });
        caution.into_iter().collect()
    }

    fn on_request(&self, x: &mut Exchange<'_>) -> Verdict {
        match self.body {
            Some(most) => {
                x.notes.between = Some(Box::new(Asked) as Box<dyn Any + Send>);
                Callout::BodyBegin { most }.into()
            }
            None => self.ask(x, None),
        }
    }

    fn on_callout(&self, x: &mut Exchange<'_>, result: CalloutResult) -> Verdict {
        match result {
            CalloutResult::Body(bytes) => self.ask(x, Some((&bytes, Begin::Whole))),
            CalloutResult::BodyBegin(bytes) => self.ask(x, Some((&bytes, Begin::Cut))),
            CalloutResult::Assumed if x.notes.between.take().is_some() => self.ask(x, None),
            CalloutResult::Assumed => {
                x.tell(|| "external authorization: taken as allowed".to_owned());
                Verdict::Continue
            }
            CalloutResult::Answered(answer) => {
                let outcome = self.read(*answer);
                self.settle(x, outcome)
            }
            CalloutResult::Failed(why) => self.settle(x, Outcome::Failed(why.into())),
            // Nothing else was asked for.
            _ => self.settle(x, Outcome::Failed("the body could not be read".to_owned())),
        }
    }

    fn on_response(&self, x: &mut Exchange<'_>, response: &mut Response) {
        for change in std::mem::take(&mut x.notes.response_changes) {
            apply(&mut response.fields, change);
        }
    }
}

/// Settings for gRPC.
fn grpc(config: Option<&GrpcAuthConfig>, extensions: Vec<(Box<str>, Box<str>)>) -> Result<Protocol, String> {
    let allowed = config.map_or(&[][..], |config| &config.allowed_headers);
    Ok(Protocol::Grpc { allowed: names(allowed)?, extensions })
}

/// The names of header fields.
fn names(texts: &[Text]) -> Result<Vec<FieldName>, String> {
    texts.iter().map(|text| field_name(text)).collect()
}

fn shown(config: Option<&ForwardBodyConfig>) -> Option<usize> {
    config.map(|config| config.max_size.min(LARGEST_BODY) as usize).filter(|most| *most > 0)
}

impl ExternalAuthPolicy {
    /// A filter as its rule has it.
    ///
    /// # Errors
    /// What cannot be served.
    pub(crate) fn of_filter(filter: &ExternalAuthFilter, callee: Callee) -> Result<ExternalAuthPolicy, String> {
        let protocol = match filter.protocol {
            ExternalAuthProtocol::Grpc => grpc(filter.grpc.as_ref(), Vec::new()),
            ExternalAuthProtocol::Http => forward_auth::Settings::compile(filter.http.as_ref()).map(Protocol::Http),
        };
        Ok(ExternalAuthPolicy {
            callee,
            protocol: protocol?,
            body: shown(filter.forward_body.as_ref()),
            timeout: TIMEOUT,
            without_answer: WithoutAnswer::Refuse,
            asked: None,
            at: filter.at,
        })
    }

    fn ask(&self, x: &mut Exchange<'_>, body: Option<(&[u8], Begin)>) -> Verdict {
        x.notes.between = None;
        let backend = match self.callee.get() {
            Some(Ok(backend)) => Arc::clone(backend),
            Some(Err(broken)) => return self.settle(x, Outcome::Failed(broken.why.to_string())),
            None => return self.settle(x, Outcome::Failed("its backend is not settled".to_owned())),
        };
        let made = match &self.protocol {
            Protocol::Grpc { allowed, extensions } => {
                let told = Told { allowed, body, extensions };
                grpc_request(&backend.label).map(|request| (request, ext_authz::question(x, &told)))
            }
            Protocol::Http(settings) => settings.request(x, body.map(|(bytes, _)| bytes)),
        };
        match made {
            Some((request, body)) => {
                let (timeout, repeat) = (self.timeout, Repeat::Harmless);
                let call = HttpCall { backend, request, body, timeout, most: LARGEST_ANSWER, repeat };
                Callout::Http(Box::new(call)).into()
            }
            // It is the client who wrote it so, and must not get in by it.
            None => Reply::new(Reason::AuthorizerUnavailable)
                .because("external authorization: the question cannot be put into words")
                .into(),
        }
    }

    fn read(&self, answer: Answer) -> Outcome {
        match &self.protocol {
            Protocol::Grpc { .. } => read_grpc(&answer),
            Protocol::Http(settings) => settings.read(answer),
        }
    }

    /// What becomes of a request about which no answer came, or none that can be used.
    fn without_answer(&self, x: &mut Exchange<'_>, why: &str) -> Verdict {
        x.tell(|| format!("external authorization: no answer, {why}"));
        let passes = self.without_answer == WithoutAnswer::Allow;
        if let Some(service) = &self.asked {
            let meanwhile = if passes { "requests pass unasked" } else { "requests are refused with 503" };
            service.failed(why, meanwhile, x);
        }
        if !passes {
            return Reply::new(Reason::AuthorizerUnavailable).because(format!("external authorization: {why}")).into();
        }
        let policy = self.asked.as_ref().map_or("external authorization", |service| service.policy());
        x.notes.services().unasked = Some(format!("{policy}: {why}").into());
        if let Protocol::Http(settings) = &self.protocol {
            settings.clear(x.request);
        }
        Verdict::Continue
    }

    /// What becomes of the request.
    fn settle(&self, x: &mut Exchange<'_>, outcome: Outcome) -> Verdict {
        let decision = match outcome {
            Outcome::Decided(decision) => decision,
            Outcome::Failed(why) => return self.without_answer(x, &why),
        };
        if let Some(service) = &self.asked {
            service.answered(x);
        }
        let by = decision.rule.as_ref().map_or_else(String::new, |rule| format!(", rule {rule}"));
        if decision.code != 0 {
            x.tell(|| format!("external authorization: refused{by}"));
            return refusal(x, decision, &by).into();
        }
        x.tell(|| format!("external authorization: allowed{by}"));
        if let Protocol::Http(settings) = &self.protocol {
            settings.clear(x.request);
        }
        for name in decision.remove.iter().filter(|name| may_change(name)) {
            remove_alike(&mut x.request.fields, name);
        }
        for change in &decision.fields {
            if change.how == How::Set && may_change(&change.name) {
                remove_alike(&mut x.request.fields, &change.name);
            }
        }
        for change in decision.fields {
            apply(&mut x.request.fields, change);
        }
        x.notes.response_changes.extend(decision.response);
        Verdict::Continue
    }
}

fn grpc_request(label: &str) -> Option<Request> {
    // What a service behind several names goes by: its own name, without the port.
    let host = label.rsplit('/').next().unwrap_or(label);
    let target = "/envoy.service.auth.v3.Authorization/Check";
    let mut request = Request::build("POST", "http", host, target)
        .or_else(|_| Request::build("POST", "http", "ext-authz", target))
        .ok()?;
    request.method = Method::Post;
    request.fields.push(&FieldName::known(FieldId::CONTENT_TYPE), b"application/grpc").ok()?;
    request.fields.push(&FieldName::known(FieldId::TE), b"trailers").ok()?;
    Some(request)
}

fn read_grpc(answer: &Answer) -> Outcome {
    let failed = |why: String| Outcome::Failed(why);
    if answer.status != 200 {
        return failed(format!("its answer has the status {}", answer.status));
    }
    let status = answer.trailers.first(FieldId::GRPC_STATUS).or_else(|| answer.fields.first(FieldId::GRPC_STATUS));
    match status {
        Some(b"0") => match ext_authz::answer(&answer.body) {
            Ok(decision) => Outcome::Decided(decision),
            Err(why) => failed(why.to_owned()),
        },
        Some(code) => failed(format!("the call ended with grpc-status {}", code.escape_ascii())),
        None => failed("the call ended without a grpc-status".to_owned()),
    }
}

fn apply(fields: &mut transept_wire::head::Fields, change: ext_authz::Change) {
    let ext_authz::Change { name, value, how } = change;
    if !may_change(&name) {
        return;
    }
    let is_there = fields.first_named(&name).is_some();
    // A value that no field can have is left out.
    let _ = match (how, is_there) {
        (How::Set, _) | (How::Replace, true) => fields.set(&name, &value),
        (How::Add, _) | (How::AddIfAbsent, false) => fields.push(&name, &value),
        (How::AddIfAbsent, true) | (How::Replace, false) => Ok(()),
    };
}

/// The refusal as the service has written it; for callers of gRPC in their words.
fn refusal(x: &Exchange<'_>, decision: Decision, by: &str) -> Reply {
    let cause = format!("external authorization{by}");
    let mut reply = Reply::new(Reason::NotAuthorized).because(cause);
    let is_grpc = Audience::of(x.request) == Audience::Grpc;
    // Whom a page would be sent to log in is refused in the way of gRPC, which knows of no other places.
    if !is_grpc || decision.status >= 400 {
        reply.status = decision.status;
    }
    let mut media_type = None;
    for change in decision.fields.into_iter().filter(|change| may_change(&change.name)) {
        match change.name.id() {
            FieldId::CONTENT_TYPE => media_type = String::from_utf8(change.value).ok(),
            FieldId::DATE | FieldId::SERVER => {}
            FieldId::LOCATION if is_grpc => {}
            _ => reply.fields.push((change.name, change.value)),
        }
    }
    if is_grpc {
        return reply;
    }
    let has_content = !matches!(decision.status, 204 | 304);
    if !decision.body.is_empty() && has_content {
        let media_type = media_type.unwrap_or_else(|| "text/plain; charset=utf-8".to_owned());
        reply.body = ReplyBody::Bytes { media_type: media_type.into(), bytes: decision.body.into_bytes().into() };
    } else if (300..400).contains(&decision.status) || !has_content {
        reply.body = ReplyBody::Empty;
    }
    reply
}
