//! HTTP traffic: the `http` and `pod_matches_header` steps.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use transept_testkit::certificates::certificate_from_pem;
use transept_testkit::client::{self, Answer, Endpoint, Exchange, Protocol, Tls, Trust};
use transept_testkit::echo::Echo;

use super::{Stage, uuid};
use crate::case::{self, Expect, Http, HttpCase, PodMatchesHeader, Scheme};
use crate::compare::http::{Sent, compare};
use crate::converge::{Attempt, REQUEST_LIMIT, converge};

/// So many cases of one step run at the same time.
const SIDE_BY_SIDE: usize = 4;

impl Stage<'_> {
    pub(super) async fn http(&self, step: &Http) -> Result<(), Vec<String>> {
        let endpoint = self.endpoint(step).await.map_err(|why| vec![why])?;
        let complaints = futures_util::stream::iter(&step.cases)
            .map(|case| async {
                let outcome = self.http_case(&endpoint, step.scheme, case).await;
                outcome.err().map(|why| format!("{}: {why}", case.name))
            })
            .buffer_unordered(SIDE_BY_SIDE)
            .filter_map(async |complaint| complaint)
            .collect::<Vec<_>>()
            .await;
        if complaints.is_empty() { Ok(()) } else { Err(complaints) }
    }

    async fn endpoint(&self, step: &Http) -> Result<Endpoint, String> {
        let address = self.dial(&step.gateway, step.port).await?;
        let protocol = match step.protocol {
            case::Protocol::H1 => Protocol::Http1,
            case::Protocol::H2 | case::Protocol::H2c => Protocol::Http2,
        };
        let tls = match &step.tls {
            None => None,
            Some(options) => Some(self.tls(options).map_err(|why| format!("{why:#}"))?),
        };
        if tls.is_some() != (step.scheme == Scheme::Https) {
            return Err("https wants `tls`, and only https does".to_owned());
        }
        Ok(Endpoint { address, protocol, tls })
    }

    fn tls(&self, options: &case::Tls) -> anyhow::Result<Tls> {
        let trust = if options.trust.starts_with("secret:") {
            Trust::Leaf(self.certificates.identity(&options.trust)?.certificate()?)
        } else {
            Trust::Authority(certificate_from_pem(self.certificates.authority(&options.trust)?)?)
        };
        let identity = match &options.client_cert {
            Some(reference) => Some(self.certificates.identity(reference)?.clone()),
            None => None,
        };
        Ok(Tls { server_name: options.server_name.clone(), trust, identity })
    }

    async fn http_case(&self, endpoint: &Endpoint, scheme: Scheme, case: &HttpCase) -> Result<(), String> {
        let client_cert = match case.expect.seen.as_ref().and_then(|seen| seen.client_cert.as_deref()) {
            Some(reference) => {
                let identity = self.certificates.identity(reference).map_err(|why| format!("{why:#}"))?;
                Some(identity.certificate_pem.as_str())
            }
            None => None,
        };
        let constant = case.unique_query.as_deref().map(|name| format!("{name}={}", uuid()));
        let target = with_query(&case.request.path, constant.as_deref());
        let expect = match &constant {
            Some(query) => expecting_query(&case.expect, query),
            None => case.expect.clone(),
        };
        converge(self.patience, async || {
            let target = if case.fresh_uuid { target.replace("{uuid}", &uuid()) } else { target.clone() };
            let (request, sent) = prepare(endpoint.address, scheme, &case.request, &target);
            let exchange = client::exchange(endpoint, &request).await;
            judge(&expect, &sent, &exchange, client_cert)
        })
        .await?;
        for mirror in &case.mirrored_to {
            let log = self.scene.log(&mirror.namespace, &mirror.backend).map_err(|why| format!("{why:#}"))?;
            let limit = Duration::from_secs(mirror.within_s).min(REQUEST_LIMIT);
            let logged = tokio::time::timeout(limit, log.wait_for(&target)).await;
            logged.map_err(|_| format!("no copy of {target} reached {}", mirror.backend))?;
        }
        Ok(())
    }

    pub(super) async fn pod_matches_header(&self, step: &PodMatchesHeader) -> Result<(), String> {
        let endpoint = Endpoint::http1(self.dial(&step.gateway, step.port).await?);
        for _ in 0..step.requests {
            let (request, _) = prepare(endpoint.address, Scheme::Http, &step.request, &step.request.path);
            let answer = client::exchange(&endpoint, &request).await.outcome.map_err(|why| why.to_string())?;
            let echo = Echo::parse(&answer.body).ok_or_else(|| format!("no echo, status {}", answer.status))?;
            let mut named = echo.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(&step.header));
            let values = named.next().map(|(_, values)| values.as_slice()).unwrap_or_default();
            let right = match values {
                [only] => echo.pod.starts_with(only.as_str()),
                [first, ..] => !step.single_value && echo.pod.starts_with(first.as_str()),
                [] => false,
            };
            if !right {
                return Err(format!("pod {} saw {}: {values:?}", echo.pod, step.header));
            }
        }
        Ok(())
    }
}

/// Decides on one exchange.
pub(super) fn judge(expect: &Expect, sent: &Sent, exchange: &Exchange, client_cert: Option<&str>) -> Attempt {
    if expect.client_cert_requested && !exchange.certificate_requested {
        return Attempt::Retry("the server did not ask for a client certificate".to_owned());
    }
    match (&exchange.outcome, expect.client_error, expect.http_error) {
        (Err(_), true, _) => Attempt::Pass,
        (Ok(answer), true, _) => Attempt::Retry(format!("status {} instead of a refusal", answer.status)),
        (Err(failure), false, _) => Attempt::Retry(failure.to_string()),
        (Ok(Answer { status: 200, .. }), false, true) => Attempt::Final("status 200 instead of an error".to_owned()),
        (Ok(Answer { status: status @ (408 | 504), .. }), false, true) => {
            Attempt::Retry(format!("status {status} instead of another error"))
        }
        (Ok(_), false, true) => Attempt::Pass,
        (Ok(answer), false, false) => Attempt::from_complaints(compare(expect, sent, answer, client_cert)),
    }
}

/// The request for the wire, and the part of it that is compared later.
pub(super) fn prepare(
    address: SocketAddr,
    scheme: Scheme,
    request: &case::Request,
    target: &str,
) -> (client::Request, Sent) {
    let usual = address.port() == scheme.usual_port();
    let own_host = if usual { address.ip().to_string() } else { address.to_string() };
    let wishes: Vec<String> = request.echo_set_headers.iter().map(|(name, value)| format!("{name}:{value}")).collect();
    let mut wire = client::Request {
        method: request.method.clone(),
        target: target.to_owned(),
        host: request.host.clone().unwrap_or(own_host),
        fields: request.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        body: Vec::new(),
    };
    wire.fields.push(("X-Echo-Set-Header".to_owned(), wishes.join(",")));
    let sent = Sent {
        scheme,
        method: request.method.clone(),
        target: target.to_owned(),
        host: request.host.clone(),
        headers: request.headers.clone(),
    };
    (wire, sent)
}

/// The path with one more part in its query.
pub(super) fn with_query(path: &str, query: Option<&str>) -> String {
    match query {
        None => path.to_owned(),
        Some(query) if path.contains('?') => format!("{path}&{query}"),
        Some(query) => format!("{path}?{query}"),
    }
}

/// The expectation with the same query in the path that the backend sees.
pub(super) fn expecting_query(expect: &Expect, query: &str) -> Expect {
    let mut changed = expect.clone();
    if let Some(seen) = &mut changed.seen {
        seen.path = with_query(&seen.path, Some(query));
    }
    changed
}

#[cfg(test)]
mod tests {
    use std::io;

    use transept_testkit::client::Failure;

    use super::*;

    fn sent() -> Sent {
        let request = serde_json::from_value(serde_json::json!({"path": "/"})).expect("a request");
        prepare(SocketAddr::from(([127, 64, 1, 1], 80)), Scheme::Http, &request, "/").1
    }

    fn judged(expect: serde_json::Value, outcome: Result<u16, ()>, certificate_requested: bool) -> Attempt {
        let expect: Expect = serde_json::from_value(expect).expect("an expectation");
        let outcome = outcome
            .map(|status| Answer { status, ..Answer::default() })
            .map_err(|()| Failure::Exchange(io::ErrorKind::ConnectionReset.into()));
        judge(&expect, &sent(), &Exchange { outcome, certificate_requested }, None)
    }

    #[test]
    fn an_error_answer_is_wanted_and_a_single_success_is_final() {
        let wanted = serde_json::json!({"http_error": true});
        assert_eq!(judged(wanted.clone(), Ok(502), false), Attempt::Pass);
        assert!(matches!(judged(wanted.clone(), Ok(200), false), Attempt::Final(_)));
        assert!(matches!(judged(wanted.clone(), Ok(504), false), Attempt::Retry(_)));
        assert!(matches!(judged(wanted, Err(()), false), Attempt::Retry(_)));
    }

    #[test]
    fn a_refusal_is_no_answer_at_all_and_the_certificate_was_asked_for() {
        let wanted = serde_json::json!({"client_error": true, "client_cert_requested": true});
        assert_eq!(judged(wanted.clone(), Err(()), true), Attempt::Pass);
        assert!(matches!(judged(wanted.clone(), Err(()), false), Attempt::Retry(_)));
        assert!(matches!(judged(wanted, Ok(403), true), Attempt::Retry(_)));
    }

    #[test]
    fn without_a_host_the_address_stands_in_with_its_unusual_port() {
        let request =
            serde_json::from_value(serde_json::json!({"path": "/", "echo_set_headers": {"a": "1", "b": "2"}}));
        let request: case::Request = request.expect("a request");
        let prepared = |port, scheme| prepare(SocketAddr::from(([127, 64, 1, 1], port)), scheme, &request, "/").0;
        assert_eq!(prepared(80, Scheme::Http).host, "127.64.1.1");
        assert_eq!(prepared(443, Scheme::Https).host, "127.64.1.1");
        assert_eq!(prepared(8080, Scheme::Http).host, "127.64.1.1:8080");
        let wishes = ("X-Echo-Set-Header".to_owned(), "a:1,b:2".to_owned());
        assert!(prepared(80, Scheme::Http).fields.contains(&wishes));
    }
}
