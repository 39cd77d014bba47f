//! The health check as a `TrafficPolicy` writes it.
//!
//! Called by `policies/traffic.rs`. What results mean is `health`; the asking is the proxy's.

use std::time::Duration;

use transept_model::schema::{Decoder, Rule, Text};
use transept_model::value::Value;
use transept_model::{choice, object};

use crate::health::{Check, Probe};

object! {
    /// How endpoints are asked whether they are well.
    pub struct HealthCheckSpec {
        /// What is asked.
        r#type: CheckType = CheckType::Http;
        /// With HTTP, the path, with its query.
        path: Text = Text::from("/") => Rule::Length(1, 1024);
        /// With HTTP, the host (the endpoint's address).
        host: Option<Text> => Rule::Length(1, 253);
        /// With HTTP, the status codes of an endpoint that is well. Another one that is not retriable makes it unwell at once.
        expected_codes: Vec<u16> = vec![200] => Rule::MinItems(1), Rule::MaxItems(32), Rule::Range(200, 599);
        /// With HTTP, status codes that count like no answer: so many in a row as `unhealthyThreshold` says make an endpoint unwell.
        retriable_codes: Vec<u16> => Rule::MaxItems(32), Rule::Range(100, 599);
        /// With GRPC, the name of the service (the server as a whole).
        service: Option<Text> => Rule::Length(1, 256);
        /// The port to ask on (the endpoint's own).
        port: Option<u16> => Rule::Range(1, 65535);
        /// From one check of an endpoint to the next.
        interval: Duration = Duration::from_secs(10);
        /// The same while the endpoint is unwell (as `interval`).
        unhealthy_interval: Option<Duration>;
        /// From a change to the first check after it (as `interval`).
        edge_interval: Option<Duration>;
        /// How much is added to an interval by chance, in percent at most.
        jitter_percent: u32 = 10 => Rule::Range(0, 100);
        /// How long a check may take.
        timeout: Duration = Duration::from_secs(1);
        /// Successes in a row that make an endpoint well again. The first check of all decides alone.
        healthy_threshold: u32 = 2 => Rule::Range(1, 100);
        /// Checks in a row without an answer that make it unwell. A wrong answer decides alone.
        unhealthy_threshold: u32 = 3 => Rule::Range(1, 100);
    }
    check check_check;
}

choice! {
    /// What is asked.
    pub enum CheckType {
        /// A GET over HTTP/1.1 in clear text.
        Http = "HTTP",
        /// A connection.
        Tcp = "TCP",
        /// `grpc.health.v1.Health/Check` over HTTP/2 in clear text.
        Grpc = "GRPC",
    }
}

/// The shortest interval: a check is meant to be a small part of the load.
const SHORTEST: Duration = Duration::from_millis(100);

fn check_check(spec: &HealthCheckSpec, value: &Value, cx: &mut Decoder) {
    let intervals = [Some(spec.interval), spec.unhealthy_interval, spec.edge_interval];
    if intervals.into_iter().flatten().any(|interval| interval < SHORTEST) {
        cx.refuse(spec.at, "an interval is shorter than 100ms").remedy("ask less often");
    }
    if spec.timeout.is_zero() {
        cx.refuse_field(value, "timeout", "no check can be over in no time").remedy("write how long a check may take");
    }
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !spec.path.starts_with('/') || !plain(&spec.path) {
        cx.refuse_field(value, "path", "the path must begin with `/` and have no spaces");
    }
    if spec.host.as_ref().is_some_and(|host| !plain(host)) {
        cx.refuse_field(value, "host", "the host has spaces or control characters");
    }
    if let Some(code) = spec.retriable_codes.iter().find(|code| spec.expected_codes.contains(code)) {
        cx.refuse_field(value, "retriableCodes", format!("{code} is one of the expected codes"))
            .remedy("leave it out of one of the two lists");
    }
    if spec.r#type != CheckType::Grpc && spec.service.is_some() {
        cx.refuse_field(value, "service", "only a check of type GRPC has a service");
    }
    if spec.r#type != CheckType::Http {
        let fields = ["path", "host", "expectedCodes", "retriableCodes"].into_iter();
        for field in fields.filter(|field| value.field(field).is_some()) {
            cx.refuse_field(value, field, format!("only a check of type HTTP has `{field}`"))
                .remedy("remove it, or write `type: HTTP`");
        }
    }
}

impl HealthCheckSpec {
    /// The check that the proxy carries out.
    pub(super) fn compile(&self) -> Check {
        let probe = match self.r#type {
            CheckType::Http => Probe::Http {
                path: (&*self.path).into(),
                host: self.host.as_ref().map(|host| (&**host).into()),
                expected: self.expected_codes.iter().map(|code| (*code, *code)).collect(),
                retriable: self.retriable_codes.clone().into(),
            },
            CheckType::Tcp => Probe::Tcp,
            CheckType::Grpc => Probe::Grpc { service: self.service.as_deref().unwrap_or_default().into() },
        };
        Check {
            probe,
            port: self.port,
            interval: self.interval,
            unhealthy_interval: self.unhealthy_interval.unwrap_or(self.interval),
            edge_interval: self.edge_interval.unwrap_or(self.interval),
            jitter: self.jitter_percent,
            timeout: self.timeout,
            healthy_threshold: self.healthy_threshold,
            unhealthy_threshold: self.unhealthy_threshold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{compile, refusals};
    use super::super::TrafficPolicy;
    use super::*;
    use crate::health::Outcome;
    use crate::policies::Policy;

    #[test]
    fn what_is_not_written_is_as_the_interval() {
        let yaml = "healthCheck: {interval: 7s, path: '/up?a=b', expectedCodes: [200, 204], retriableCodes: [503]}\n";
        let policy = compile::<TrafficPolicy>(yaml);
        let check = policy.traffic().and_then(|traffic| traffic.check.clone()).expect("a check");
        assert_eq!((check.unhealthy_interval, check.edge_interval), (Duration::from_secs(7), Duration::from_secs(7)));
        let read = [204, 503, 500].map(|status| check.read(status));
        assert_eq!(read, [Outcome::Passed, Outcome::Silent, Outcome::Wrong]);
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for yaml in [
            "healthCheck: {interval: 1ms}\n",
            "healthCheck: {timeout: 0s}\n",
            "healthCheck: {path: up}\n",
            "healthCheck: {path: '/a b'}\n",
            "healthCheck: {service: a}\n",
            "healthCheck: {type: TCP, host: a}\n",
            "healthCheck: {type: TCP, path: /up}\n",
            "healthCheck: {type: GRPC, expectedCodes: [200]}\n",
            "healthCheck: {type: TCP, retriableCodes: [503]}\n",
            "healthCheck: {retriableCodes: [503, 200]}\n",
        ] {
            assert_eq!(refusals::<TrafficPolicy>(yaml).len(), 1, "{yaml}");
        }
    }
}
