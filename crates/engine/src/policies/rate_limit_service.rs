//! `RateLimitServicePolicy`: asks a rate limit service whether a request may pass (Envoy's `RateLimitService`, v3, over gRPC).
//!
//! For those who have such a service, and rules in it. Each request is asked about, so each waits for the service; a `RateLimitPolicy` with a
//! `store` does not. The request is described by descriptors, as Envoy does it: one that lacks a part is left out, and where none is left
//! the service is not asked. All policies of the kind at one place are asked, one after the other. What a service wants to be added to the request
//! is added when it lets it pass; what the response is to tell waits in the notes of the exchange.

use std::sync::Arc;
use std::time::Duration;

use transept_model::kinds::BackendObjectReference;
use transept_model::policy::{Merge, Target};
use transept_model::schema::{Decoder, HEADER_NAME, Rule, Text};
use transept_model::value::Value;
use transept_model::{choice, object};
use transept_wire::head::{FieldId, FieldName, Method, Request, Response};

use super::{CompileCx, Phase, Policy, PolicyName};
use crate::callout::{Callee, Callout, CalloutResult, HttpCall};
use crate::exchange::Exchange;
use crate::ext_authz::may_change;
use crate::filters::headers::remove_alike;
use crate::judge::Repeat;
use crate::limit::Standing;
use crate::limit::fields::{Label, LimitHeaders, refusal};
use crate::limit::key::{KeySource, hash, part_text};
use crate::limit::service::{Heard, Served};
use crate::protobuf::{Writer, grpc_frame};
use crate::reason::Reason;
use crate::reply::Audience;
use crate::services::{AskedService, ServiceRole};
use crate::verdict::{Reply, ReplyBody, Verdict};

mod answer;

use answer::{Said, Status, read};

object! {
    /// Asks a rate limit service (Envoy's, v3) whether a request may pass.
    pub struct RateLimitServicePolicySpec {
        /// The service. It is spoken to over HTTP/2.
        backend_ref: BackendObjectReference;
        /// The domain, by which the service tells sets of rules apart.
        domain: Text => Rule::Length(1, 253);
        /// What the service is told, each by itself.
        descriptors: Vec<DescriptorSpec> => Rule::MinItems(1), Rule::MaxItems(32);
        /// What a request counts.
        hits: u32 = 1 => Rule::Range(1, 1_000_000);
        /// How long the service may take.
        timeout: Duration = Duration::from_millis(100);
        /// What becomes of a request when the service does not answer.
        on_unavailable: ServiceUnavailable = ServiceUnavailable::Deny;
        /// Which fields tell of the service's limits where it says their numbers, and has no such fields of its own.
        headers: LimitHeaders = LimitHeaders::Ietf;
    }
    check check_spec;
}

choice! {
    /// What becomes of a request when a rate limit service does not answer.
    pub enum ServiceUnavailable {
        /// It is refused with 503.
        Deny = "Deny",
        /// It passes uncounted, which the access log says of it.
        Allow = "Allow",
    }
}

object! {
    /// A descriptor: entries that together name what is counted. It is left out when the request lacks one of them.
    pub struct DescriptorSpec {
        /// The entries, in the order of the service's rules.
        entries: Vec<EntrySpec> => Rule::MinItems(1), Rule::MaxItems(16);
    }
}

object! {
    /// An entry: its key, and one of `value`, `from`, `header` and `claim`.
    pub struct EntrySpec {
        /// The key, as the service's rules name it.
        key: Text => Rule::Length(1, 253);
        /// This value.
        value: Option<Text> => Rule::Length(1, 1_024);
        /// Something that is known about the request.
        from: Option<KeySource>;
        /// The value of this header field.
        header: Option<Text> => Rule::Is(&HEADER_NAME);
        /// The value of this claim of the principal.
        claim: Option<Text> => Rule::Length(1, 256);
    }
    check check_entry;
}

fn check_spec(spec: &RateLimitServicePolicySpec, _: &Value, cx: &mut Decoder) {
    if spec.timeout.is_zero() || spec.timeout > Duration::from_secs(10) {
        cx.refuse(spec.at, "`timeout` must be above 0s and at most 10s");
    }
}

fn check_entry(entry: &EntrySpec, _: &Value, cx: &mut Decoder) {
    let written = [entry.value.is_some(), entry.from.is_some(), entry.header.is_some(), entry.claim.is_some()];
    if written.iter().filter(|written| **written).count() != 1 {
        cx.refuse(entry.at, "one of `value`, `from`, `header` and `claim` is needed")
            .remedy("write one; several parts are several entries");
    }
}

#[derive(Debug)]
struct Service {
    callee: Callee,
    domain: Box<str>,
    descriptors: Vec<DescriptorSpec>,
    hits: u32,
    timeout: Duration,
    unavailable: ServiceUnavailable,
    headers: LimitHeaders,
    /// Whether it answers.
    asked: Arc<AskedService>,
}

/// One or several compiled `RateLimitServicePolicy` objects.
#[derive(Debug)]
pub(crate) struct RateLimitServicePolicy {
    services: Vec<Arc<Service>>,
    /// The policies that they belong to, once they are joined.
    owners: Vec<Arc<PolicyName>>,
}

/// Which of the services is being asked.
struct Asking(usize);

/// The largest answer that is read.
const LARGEST: usize = 64 * 1024;

impl Service {
    /// The message, with the prefix of gRPC. None when no descriptor is left.
    fn question(&self, x: &Exchange<'_>) -> Option<Vec<u8>> {
        let mut message = Writer::default();
        message.bytes(1, self.domain.as_bytes());
        let mut any = false;
        for descriptor in &self.descriptors {
            let entries: Option<Vec<(&str, Vec<u8>)>> =
                descriptor.entries.iter().map(|entry| Some((&*entry.key, entry.read(x)?))).collect();
            let Some(entries) = entries else { continue };
            any = true;
            message.message(2, |descriptor| {
                for (key, value) in &entries {
                    descriptor.entry(1, key.as_bytes(), value);
                }
            });
        }
        message.number(3, u64::from(self.hits));
        let message = message.into_bytes();
        any.then(|| grpc_frame(&message))
    }

    /// The question in words, for explanations. What may be secret is shown as a hash.
    fn describe(&self, x: &Exchange<'_>) -> String {
        let mut text = format!("{}: asks about {} of domain {}", self.asked.policy(), hits(self.hits), self.domain);
        for descriptor in &self.descriptors {
            let entries: Vec<String> = descriptor.entries.iter().map(|entry| entry.describe(x)).collect();
            let is_whole = descriptor.entries.iter().all(|entry| entry.read(x).is_some());
            let left_out = if is_whole { "" } else { ", which is left out" };
            text.push_str(&format!("; descriptor ({}){left_out}", entries.join(", ")));
        }
        text
    }

    /// What the response tells of limits, by what the service says of them.
    fn served(&self, statuses: &[Status]) -> Vec<Served> {
        let mut all: Vec<Served> = Vec::new();
        for status in statuses {
            let Some(quota) = status.quota else { continue };
            let name = status.name(&self.domain);
            let left = if status.is_over { 0 } else { i64::from(status.left) };
            let served = Served {
                label: Label::new(name, quota, status.window, None, self.headers),
                standing: Standing { left, full_in: status.reset.unwrap_or_default() },
                wait: status.reset.filter(|_| status.is_over),
                timed: status.reset.is_some(),
            };
            // Two limits of one name would be two answers to one question: the tighter one holds.
            match all.iter_mut().find(|known| *known.label.name == *name) {
                Some(known) if left < known.standing.left => *known = served,
                Some(_) => {}
                None => all.push(served),
            }
        }
        all
    }
}

impl Status {
    /// The name of the limit; that of the domain where the service gives it none.
    fn name<'n>(&'n self, domain: &'n str) -> &'n str {
        if self.name.is_empty() { domain } else { &self.name }
    }
}

fn hits(count: u32) -> String {
    if count == 1 { "1 hit".to_owned() } else { format!("{count} hits") }
}

impl EntrySpec {
    fn read(&self, x: &Exchange<'_>) -> Option<Vec<u8>> {
        match (&self.value, &self.header) {
            (Some(value), _) => Some(value.as_bytes().to_vec()),
            (None, Some(header)) => {
                // Text is what goes over the wire.
                let value = x.request.fields.first_named(&FieldName::new(&**header).ok()?)?;
                Some(String::from_utf8_lossy(value).into_owned().into_bytes())
            }
            (None, None) => part_text(self.from, self.claim.as_deref(), x).map(String::into_bytes),
        }
    }

    /// `tenant=header X-Tenant #1a2b3c4d`, `remote_address=192.0.2.1`.
    fn describe(&self, x: &Exchange<'_>) -> String {
        let key = &*self.key;
        let source = match (&self.header, &self.claim, self.from) {
            (Some(header), ..) => format!("header {}", &**header),
            (None, Some(claim), _) => format!("claim {}", &**claim),
            (None, None, Some(from)) => from.as_str().to_ascii_lowercase(),
            (None, None, None) => String::new(),
        };
        let Some(value) = self.read(x) else { return format!("{key}: no {source}") };
        let is_plain = matches!(self.from, Some(KeySource::Principal | KeySource::App | KeySource::Address));
        match self.from {
            Some(KeySource::Route) => format!("{key}=this rule"),
            _ if is_plain || self.value.is_some() => format!("{key}={}", String::from_utf8_lossy(&value)),
            _ => format!("{key}={source} #{:08x}", hash(0, &value) as u32),
        }
    }
}

impl RateLimitServicePolicy {
    /// Asks the services from this one on.
    fn ask(&self, begin: usize, x: &mut Exchange<'_>) -> Verdict {
        for (index, service) in self.services.iter().enumerate().skip(begin) {
            let Some(body) = service.question(x) else {
                x.tell(|| {
                    let policy = service.asked.policy();
                    format!("{policy}: the request lacks a part of every descriptor, so that the service is not asked")
                });
                continue;
            };
            let backend = match service.callee.get() {
                Some(Ok(backend)) => Arc::clone(backend),
                Some(Err(broken)) => match self.without_answer(index, &broken.why, x) {
                    Verdict::Continue => continue,
                    verdict => return verdict,
                },
                None => return Reply::new(Reason::PolicyInvalid).into(),
            };
            let Some(request) = request(&backend.label) else {
                return Reply::new(Reason::PolicyInvalid).into();
            };
            if x.is_told() {
                let line = service.describe(x);
                x.tell(|| line);
            }
            x.notes.between = Some(Box::new(Asking(index)));
            // Asked twice, it would count twice.
            let (timeout, repeat) = (service.timeout, Repeat::Harmful);
            let call = HttpCall { backend, request, body, timeout, most: LARGEST, repeat };
            return Callout::Http(Box::new(call)).into();
        }
        Verdict::Continue
    }

    fn without_answer(&self, index: usize, why: &str, x: &mut Exchange<'_>) -> Verdict {
        let Some(service) = self.services.get(index) else { return Verdict::Continue };
        let passes = service.unavailable == ServiceUnavailable::Allow;
        let cause = format!("{}: {why}", service.asked.policy());
        let meanwhile = if passes { "requests pass uncounted" } else { "requests are refused with 503" };
        service.asked.failed(why, meanwhile, x);
        if passes {
            x.tell(|| format!("{cause}; the request passes all the same"));
            x.notes.services().uncounted = Some(cause.into());
            return Verdict::Continue;
        }
        x.notes.answered_by = self.owners.get(index).map(Arc::clone);
        let reply = Reply::new(Reason::LimitUnavailable).because(cause);
        reply.with_field(FieldName::known(FieldId::RETRY_AFTER), *b"1").into()
    }

    /// What becomes of a request about which a service has said something.
    fn settle(&self, index: usize, mut said: Said, x: &mut Exchange<'_>) -> Verdict {
        let Some(service) = self.services.get(index) else { return Reply::new(Reason::PolicyInvalid).into() };
        service.asked.answered(x);
        let retry_after = |(name, _): &(FieldName, Vec<u8>)| name.id() == FieldId::RETRY_AFTER;
        let (only, fields) = std::mem::take(&mut said.response).into_iter().partition(retry_after);
        let limits = service.served(&said.statuses);
        x.notes.services().heard.push(Heard { limits, fields, only });
        if said.refuses {
            x.notes.answered_by = self.owners.get(index).map(Arc::clone);
            return service.refuse(said, Audience::of(x.request)).into();
        }
        // What a client has sent under the same name is not the service's word.
        for (name, _) in &said.request {
            if may_change(name) {
                remove_alike(&mut x.request.fields, name);
            }
        }
        for (name, value) in &said.request {
            // A value that no field can have is left out.
            let _ = x.request.fields.push(name, value);
        }
        Verdict::Continue
    }
}

impl Service {
    /// The refusal: as the service has written it, or a problem document; for callers of gRPC in their words.
    fn refuse(&self, said: Said, audience: Audience) -> Reply {
        let over = || said.statuses.iter().filter(|status| status.is_over);
        let wait = over().filter_map(|status| status.reset).max().unwrap_or_default();
        let mut names: Vec<&str> = Vec::new();
        for name in over().map(|status| status.name(&self.domain)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            names.push(&self.domain);
        }
        let seconds = crate::limit::seconds(wait).max(1);
        let detail = format!("There is room again in {seconds} s.");
        let mut reply = refusal(Reason::RateLimited, &names, wait, detail.into());
        if !said.body.is_empty() && audience != Audience::Grpc {
            let is_text = std::str::from_utf8(&said.body).is_ok();
            let usual = || if is_text { "text/plain; charset=utf-8" } else { "application/octet-stream" };
            let told = said.media_type.and_then(|value| String::from_utf8(value).ok());
            let media_type = told.map_or_else(|| usual().into(), Into::into);
            reply.body = ReplyBody::Bytes { media_type, bytes: said.body.into() };
        }
        reply.because(format!("{}, domain {}", self.asked.policy(), self.domain))
    }
}

fn request(label: &str) -> Option<Request> {
    let host = label.rsplit('/').next().unwrap_or(label);
    let target = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    let mut request = Request::build("POST", "http", host, target)
        .or_else(|_| Request::build("POST", "http", "rate-limit", target))
        .ok()?;
    request.method = Method::Post;
    request.fields.push(&FieldName::known(FieldId::CONTENT_TYPE), b"application/grpc").ok()?;
    request.fields.push(&FieldName::known(FieldId::TE), b"trailers").ok()?;
    Some(request)
}

impl Policy for RateLimitServicePolicy {
    const KIND: &'static str = "RateLimitServicePolicy";
    const ABOUT: &'static str = "Asks a rate limit service whether a request may pass (Envoy's protocol, v3).";
    const PHASE: Phase = Phase::Limit;
    const MERGE: Merge = Merge::Together;
    const TARGETS: &'static [Target] = &[Target::Gateway, Target::Listener, Target::Route, Target::Rule];
    type Spec = RateLimitServicePolicySpec;

    fn compile(spec: &RateLimitServicePolicySpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let service = Service {
            callee: cx.backend(&spec.backend_ref),
            domain: (&*spec.domain).into(),
            descriptors: spec.descriptors.clone(),
            hits: spec.hits,
            timeout: spec.timeout,
            unavailable: spec.on_unavailable,
            headers: spec.headers,
            asked: cx.asked_service(ServiceRole::RateLimit),
        };
        Some(RateLimitServicePolicy { services: vec![Arc::new(service)], owners: Vec::new() })
    }

    fn join(all: &[(&Arc<PolicyName>, &Self)]) -> Option<Self> {
        let (mut services, mut owners) = (Vec::new(), Vec::new());
        for (name, policy) in all {
            services.extend(policy.services.iter().map(Arc::clone));
            owners.extend(policy.services.iter().map(|_| Arc::clone(name)));
        }
        Some(RateLimitServicePolicy { services, owners })
    }

    fn on_request(&self, x: &mut Exchange<'_>) -> Verdict {
        self.ask(0, x)
    }

    fn on_callout(&self, x: &mut Exchange<'_>, result: CalloutResult) -> Verdict {
        let asking = x.notes.between.take().and_then(|between| between.downcast::<Asking>().ok());
        let Some(index) = asking.map(|asking| asking.0) else {
            return Reply::new(Reason::PolicyInvalid).into();
        };
        let said = match result {
            CalloutResult::Answered(answer) => read(&answer),
            CalloutResult::Assumed => return self.ask(index + 1, x),
            CalloutResult::Failed(why) => Err(why.into_string()),
            _ => Err("the service was not asked".to_owned()),
        };
        let verdict = match said {
            Ok(said) => self.settle(index, said, x),
            Err(why) => self.without_answer(index, &why, x),
        };
        if verdict.goes_on() { self.ask(index + 1, x) } else { verdict }
    }

    fn on_response(&self, x: &mut Exchange<'_>, response: &mut Response) {
        let heard = x.notes.services.as_mut().map(|notes| std::mem::take(&mut notes.heard));
        for one in heard.into_iter().flatten() {
            one.tell(&mut x.notes.touched, response);
        }
    }
}

#[cfg(test)]
mod tests;
