//! `RateLimitServicePolicy`: asks a rate limit service whether a request may pass (Envoy's `RateLimitService`, v3, over gRPC).
//!
//! For those who have such a service, and rules in it. Each request is asked about, so each waits for the service; a `RateLimitPolicy` with a
//! `store` does not. The request is described by descriptors, as Envoy does it: one that lacks a part is left out, and where none is left
//! the service is not asked. All policies of the kind at one place are asked, one after the other.

use std::sync::Arc;
use std::time::Duration;

use transept_model::kinds::BackendObjectReference;
use transept_model::object;
use transept_model::policy::{Merge, Target};
use transept_model::schema::{Decoder, HEADER_NAME, Rule, Text};
use transept_model::value::Value;
use transept_wire::head::{FieldId, FieldName, Method, Request};

use super::quota::Unavailable;
use super::{CompileCx, Phase, Policy, PolicyName};
use crate::callout::{Answer, Callee, Callout, CalloutResult, HttpCall};
use crate::exchange::Exchange;
use crate::judge::Repeat;
use crate::limit::fields::refusal;
use crate::limit::key::{KeySource, part_text};
use crate::protobuf::{Content, Garbled, Reader, Writer, grpc_frame, grpc_message};
use crate::reason::Reason;
use crate::verdict::{Reply, Verdict};

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
        on_unavailable: Unavailable = Unavailable::Deny;
    }
    check check_spec;
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
    unavailable: Unavailable,
    /// `RateLimitServicePolicy shop/limits`.
    policy: Box<str>,
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

/// What a service says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Pass,
    /// There is room again after this time, if it says so.
    Refuse(Duration),
}

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
}

impl RateLimitServicePolicy {
    /// Asks the services from this one on.
    fn ask(&self, begin: usize, x: &mut Exchange<'_>) -> Verdict {
        for (index, service) in self.services.iter().enumerate().skip(begin) {
            let Some(body) = service.question(x) else {
                let policy = service.policy.clone();
                x.tell(|| {
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
        if service.unavailable == Unavailable::Allow {
            let line = format!("{}: {why}; the request passes all the same", service.policy);
            x.tell(|| line);
            return Verdict::Continue;
        }
        x.notes.answered_by = self.owners.get(index).map(Arc::clone);
        let cause = format!("{}: {why}", service.policy);
        let reply = Reply::new(Reason::LimitUnavailable).because(cause);
        reply.with_field(FieldName::known(FieldId::RETRY_AFTER), *b"1").into()
    }

    fn refuse(&self, index: usize, wait: Duration, x: &mut Exchange<'_>) -> Verdict {
        x.notes.answered_by = self.owners.get(index).map(Arc::clone);
        let Some(service) = self.services.get(index) else { return Reply::new(Reason::PolicyInvalid).into() };
        let seconds = crate::limit::seconds(wait).max(1);
        let detail = format!("There is room again in {seconds} s.");
        let reply = refusal(Reason::RateLimited, &[&service.domain], wait, detail.into());
        reply.because(format!("{}, domain {}", service.policy, service.domain)).into()
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

fn read_answer(answer: &Answer) -> Result<Said, String> {
    if answer.status != 200 {
        return Err(format!("its answer has the status {}", answer.status));
    }
    match answer.trailers.first(FieldId::GRPC_STATUS).or_else(|| answer.fields.first(FieldId::GRPC_STATUS)) {
        Some(b"0") => {}
        Some(code) => return Err(format!("the call ended with grpc-status {}", code.escape_ascii())),
        None => return Err("the call ended without a grpc-status".to_owned()),
    }
    let message = grpc_message(&answer.body).map_err(|Garbled| "its answer is not one message".to_owned())?;
    read_response(message).map_err(|Garbled| "its answer is not a RateLimitResponse".to_owned())
}

/// `RateLimitResponse`: `overall_code` is 1, `statuses` is 2.
fn read_response(message: &[u8]) -> Result<Said, Garbled> {
    let (mut code, mut wait) = (0, Duration::ZERO);
    let mut reader = Reader::new(message);
    while let Some((field, content)) = reader.next()? {
        match field {
            1 => code = content.number()?,
            2 => {
                let (over, reset) = read_status(content)?;
                if over {
                    wait = wait.max(reset);
                }
            }
            _ => {}
        }
    }
    match code {
        1 => Ok(Said::Pass),
        2 => Ok(Said::Refuse(wait)),
        // Unknown is no word to let anybody pass by.
        _ => Err(Garbled),
    }
}

/// `DescriptorStatus`: `code` is 1, `duration_until_reset` is 4.
fn read_status(content: Content<'_>) -> Result<(bool, Duration), Garbled> {
    let (mut over, mut reset) = (false, Duration::ZERO);
    let mut reader = Reader::new(content.bytes()?);
    while let Some((field, content)) = reader.next()? {
        match field {
            1 => over = content.number()? == 2,
            4 => {
                let mut duration = Reader::new(content.bytes()?);
                while let Some((field, content)) = duration.next()? {
                    if field == 1 {
                        // Negative ones are as good as none.
                        reset = Duration::from_secs(content.number()?.min(86_400 * 366));
                    }
                }
            }
            _ => {}
        }
    }
    Ok((over, reset))
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
            policy: format!("{} {}/{}", cx.name.kind, cx.name.namespace, cx.name.name).into(),
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
            CalloutResult::Answered(answer) => read_answer(&answer),
            CalloutResult::Assumed => Ok(Said::Pass),
            CalloutResult::Failed(why) => Err(why.into_string()),
            _ => Err("the service was not asked".to_owned()),
        };
        let verdict = match said {
            Ok(Said::Pass) => Verdict::Continue,
            Ok(Said::Refuse(wait)) => self.refuse(index, wait, x),
            Err(why) => self.without_answer(index, &why, x),
        };
        if verdict.goes_on() { self.ask(index + 1, x) } else { verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut message = Writer::default();
        write(&mut message);
        message.into_bytes()
    }

    #[test]
    fn ok_passes_and_over_limit_refuses_until_the_last_reset() {
        assert_eq!(read_response(&response(|message| message.number(1, 1))), Ok(Said::Pass));
        let over = response(|message| {
            message.number(1, 2);
            for (code, seconds) in [(2, 7), (1, 90), (2, 30)] {
                message.message(2, |status| {
                    status.number(1, code);
                    status.message(4, |duration| duration.number(1, seconds));
                });
            }
        });
        assert_eq!(read_response(&over), Ok(Said::Refuse(Duration::from_secs(30))));
    }

    #[test]
    fn what_is_unknown_or_garbled_lets_nobody_pass() {
        assert_eq!(read_response(&[]), Err(Garbled));
        assert_eq!(read_response(&response(|message| message.number(1, 3))), Err(Garbled));
        for garbage in [&[0x08][..], &[0x12, 0x05, 0x08], &[0x0a, 0x01, 0x01], &[0xff; 20]] {
            assert_eq!(read_response(garbage), Err(Garbled), "{garbage:?}");
        }
    }
}
