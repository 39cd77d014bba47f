//! Rules for HTTP answers (section 3.1).

use std::collections::BTreeMap;

use transept_testkit::certificates::certificate_from_pem;
use transept_testkit::client::Answer;
use transept_testkit::echo::Echo;
use transept_testkit::h1;

use crate::case::{AnsweredBy, Expect, Redirect, Scheme, Seen};

/// The request as it went out, as far as the comparison needs it.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub scheme: Scheme,
    pub method: String,
    pub target: String,
    /// Only if the case names a host.
    pub host: Option<String>,
    pub headers: BTreeMap<String, String>,
}

/// Compares an answer with the expectation. `client_cert` is the PEM behind `seen.client_cert`.
pub(crate) fn compare(expect: &Expect, sent: &Sent, answer: &Answer, client_cert: Option<&str>) -> Vec<String> {
    let is_timeout = |status: &u16| matches!(status, 408 | 504);
    if is_timeout(&answer.status) && expect.status.iter().any(is_timeout) {
        return Vec::new();
    }
    if !expect.status.contains(&answer.status) {
        let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)]);
        return vec![format!("status {} instead of {:?} ({})", answer.status, expect.status, body.trim())];
    }
    if !matches!(answer.status, 200 | 204) {
        return match &expect.redirect {
            Some(redirect) => compare_redirect(redirect, sent, answer),
            None => Vec::new(),
        };
    }
    let echo = match answer.field("content-type") {
        Some("application/json") => Echo::parse(&answer.body).unwrap_or_default(),
        _ => Echo::default(),
    };
    let mut complaints = match expect.answered_by {
        Some(AnsweredBy::Gateway) => compare_absence(&echo),
        None => compare_echo(expect, sent, &echo, client_cert),
    };
    complaints.extend(compare_response_headers(expect, &answer.fields));
    complaints
}

fn compare_absence(echo: &Echo) -> Vec<String> {
    if echo.path.is_empty() && echo.namespace.is_empty() {
        return Vec::new();
    }
    vec![format!("answered by {} instead of the gateway", echo.pod)]
}

fn compare_echo(expect: &Expect, sent: &Sent, echo: &Echo, client_cert: Option<&str>) -> Vec<String> {
    let mut complaints = Vec::new();
    if let Some(backend) = expect.backend.as_deref().filter(|backend| !echo.pod.starts_with(backend)) {
        complaints.push(format!("pod {:?} instead of {backend}", echo.pod));
    }
    if let Some(namespace) = expect.namespace.as_deref().filter(|namespace| echo.namespace != **namespace) {
        complaints.push(format!("namespace {:?} instead of {namespace}", echo.namespace));
    }
    let seen = match &expect.seen {
        Some(seen) => seen.clone(),
        None => Seen {
            method: sent.method.clone(),
            path: sent.target.clone(),
            host: sent.host.clone(),
            headers: sent.headers.clone(),
            ..Seen::default()
        },
    };
    complaints.extend(compare_seen(&seen, echo, client_cert));
    complaints
}

fn compare_seen(seen: &Seen, echo: &Echo, client_cert: Option<&str>) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut equal = |what: &str, got: &str, wanted: &str| {
        if got != wanted {
            complaints.push(format!("backend saw {what} {got:?} instead of {wanted:?}"));
        }
    };
    equal("method", &echo.method, &seen.method);
    equal("path", &echo.path, &seen.path);
    if let Some(host) = &seen.host {
        equal("host", &echo.host, host);
    }
    if let Some(sni) = &seen.sni {
        equal("SNI", echo.tls.as_ref().map_or("", |tls| &tls.server_name), sni);
    }
    for (name, value) in &seen.headers {
        equal(name, &echo.header(name).unwrap_or_else(|| "nothing".to_owned()), value);
    }
    for name in &seen.absent_headers {
        if let Some(value) = echo.header(name) {
            complaints.push(format!("backend saw {name}: {value:?}"));
        }
    }
    if seen.client_cert.is_some() && !shows(echo, client_cert) {
        complaints.push("backend did not see the client certificate".to_owned());
    }
    complaints
}

/// Whether the wanted certificate is among those that the backend saw; PEM texts may be broken into lines differently.
fn shows(echo: &Echo, wanted: Option<&str>) -> bool {
    let Some(Ok(wanted)) = wanted.map(certificate_from_pem) else {
        return false;
    };
    let shown = echo.tls.iter().flat_map(|tls| &tls.peer_certificates);
    shown.filter_map(|pem| certificate_from_pem(pem).ok()).any(|certificate| certificate == wanted)
}

fn compare_response_headers(expect: &Expect, fields: &[(String, String)]) -> Vec<String> {
    let mut complaints = Vec::new();
    let reduce = |text: &str| {
        if expect.ignore_whitespace { text.replace(' ', "") } else { text.to_owned() }
    };
    let exact = expect.response_headers.iter().map(|(name, value)| (name, std::slice::from_ref(value)));
    let one_of = expect.response_headers_one_of.iter().map(|(name, values)| (name, values.as_slice()));
    for (name, values) in exact.chain(one_of) {
        match h1::joined(fields, name) {
            None => complaints.push(format!("no response header {name}")),
            Some(got) if values.iter().any(|value| reduce(value) == reduce(&got)) => {}
            Some(got) => complaints.push(format!("response header {name}: {got:?} instead of {values:?}")),
        }
    }
    for name in &expect.response_absent_headers {
        if let Some(got) = h1::joined(fields, name) {
            complaints.push(format!("response header {name}: {got:?} must not be there"));
        }
    }
    complaints
}

fn compare_redirect(wanted: &Redirect, sent: &Sent, answer: &Answer) -> Vec<String> {
    let Some(location) = answer.field("location") else {
        return vec!["no Location".to_owned()];
    };
    let Some(got) = Location::parse(location, sent.scheme, sent.host.as_deref().unwrap_or("gateway")) else {
        return vec![format!("Location {location:?} cannot be read")];
    };
    let mut complaints = Vec::new();
    if got.scheme != wanted.scheme {
        complaints.push(format!("scheme of Location {location} is not {}", wanted.scheme));
    }
    if got.path != wanted.path {
        complaints.push(format!("path of Location {location} is not {}", wanted.path));
    }
    if let Some(host) = wanted.host.as_deref().filter(|host| got.host != **host) {
        complaints.push(format!("host of Location {location} is not {host}"));
    }
    let usual = match got.scheme.as_str() {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let port_is_right = match wanted.port {
        Some(port) => got.port == Some(port),
        None => got.port.is_none() || got.port == usual,
    };
    if !port_is_right {
        let wanted = wanted.port.map_or("absent".to_owned(), |port| port.to_string());
        complaints.push(format!("port of Location {location} is not {wanted}"));
    }
    complaints
}

/// A Location, resolved against the request.
pub(super) struct Location {
    pub scheme: String,
    pub host: String,
    pub port: Option<u16>,
    pub path: String,
}

impl Location {
    /// Reads a Location of a request that went to `host` under `scheme`.
    pub(super) fn parse(location: &str, scheme: Scheme, host: &str) -> Option<Location> {
        let absolute = match location.split_once("://") {
            Some(_) => location.to_owned(),
            None if location.starts_with('/') => format!("{}://{host}{location}", scheme.name()),
            None => return None,
        };
        let (scheme, rest) = absolute.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (authority, None),
        };
        Some(Location { scheme: scheme.to_owned(), host: host.to_owned(), port, path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests;
