//! What an HTTP echo pod answers, whatever the version of HTTP: the paths, the query and the headers that steer it, and the
//! JSON that it sends. Called by the two codecs beside it; it never touches a socket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Pod;

/// A request as a pod sees it.
#[derive(Clone, Debug)]
pub(super) struct Incoming {
    pub method: String,
    pub target: String,
    pub host: String,
    pub proto: &'static str,
    pub fields: Vec<(String, String)>,
    pub tls: Option<Arc<EchoTls>>,
}

/// The TLS part of an echo, as the pod saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EchoTls {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: String,
    /// Server name indication; empty if none.
    pub server_name: String,
    /// ALPN result.
    pub negotiated_protocol: Option<String>,
    /// Name of the cipher suite.
    pub cipher_suite: String,
    /// PEM of the certificates that the peer showed.
    pub peer_certificates: Vec<String>,
}

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Respond(Response),
    /// Reset the connection.
    Reset,
    /// Become a WebSocket.
    WebSocket,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub(super) fn plain(status: u16, text: &str) -> Response {
        let kind = ("Content-Type".to_owned(), "text/plain; charset=utf-8".to_owned());
        Response { status, fields: vec![kind], body: text.as_bytes().to_vec() }
    }

    fn empty(status: u16) -> Response {
        Response { status, fields: Vec::new(), body: Vec::new() }
    }
}

/// Decides on one request, after the delays that it asks for.
pub(super) async fn answer(pod: &Pod, incoming: &Incoming) -> Outcome {
    let (path, query) = incoming.target.split_once('?').unwrap_or((&incoming.target, ""));
    let query = Query(query);
    if path == "/health" {
        return Outcome::Respond(Response::plain(200, "OK"));
    }
    if path == "/ws" && incoming.proto == "HTTP/1.1" {
        return Outcome::WebSocket;
    }
    if let Some(code) = path.strip_prefix("/status/") {
        return Outcome::Respond(match code.parse() {
            Ok(code @ 100..1000) => Response::empty(code),
            _ => Response::plain(400, "not a status code"),
        });
    }
    if path.starts_with("/retry/") && !(incoming.proto == "HTTP/2.0" && incoming.tls.is_none()) {
        return attempt(pod, incoming, &query).await;
    }
    if let Some(delay) = query.value("delay") {
        match parse_duration(delay) {
            Some(delay) => tokio::time::sleep(delay).await,
            None => return Outcome::Respond(Response::plain(500, "bad delay")),
        }
    }
    Outcome::Respond(echo(pod, incoming))
}

/// `/retry/...`: fails so many times per uuid, then echoes.
async fn attempt(pod: &Pod, incoming: &Incoming, query: &Query<'_>) -> Outcome {
    let refuse = |why: &str| Outcome::Respond(Response::plain(400, why));
    let Some(uuid) = query.value("uuid").filter(|uuid| !uuid.is_empty()) else {
        return refuse("uuid is missing");
    };
    let Some(succeed_after) = query.value("succeedAfter").and_then(|count| count.parse::<u64>().ok()) else {
        return refuse("succeedAfter is missing");
    };
    let mut attempts = pod.attempts.lock().await;
    let count = attempts.entry(uuid.to_owned()).or_default();
    *count += 1;
    if *count > succeed_after {
        return Outcome::Respond(echo(pod, incoming));
    }
    if let Some(delay) = query.value("delayRetry") {
        match parse_duration(delay) {
            Some(delay) => tokio::time::sleep(delay).await,
            None => return refuse("bad delayRetry"),
        }
    }
    match query.value("responseCode").map(str::parse) {
        None => Outcome::Reset,
        Some(Ok(code @ 100..1000)) => Outcome::Respond(Response::empty(code)),
        Some(_) => refuse("bad responseCode"),
    }
}

fn echo(pod: &Pod, incoming: &Incoming) -> Response {
    pod.log.note(&incoming.target);
    let mut fields = vec![
        ("Content-Type".to_owned(), "application/json".to_owned()),
        ("X-Content-Type-Options".to_owned(), "nosniff".to_owned()),
    ];
    let wished = incoming.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-echo-set-header"));
    for (name, value) in wished.flat_map(|(_, wishes)| wished_fields(wishes)) {
        match fields.iter_mut().find(|(n, _)| *n == name) {
            Some((_, present)) => *present = format!("{present},{value}"),
            None => fields.push((name, value)),
        }
    }
    let mut body = Echo::of(pod, incoming).to_json().to_string().into_bytes();
    body.push(b'\n');
    Response { status: 200, fields, body }
}

/// `name:value,name:value`, cut at commas, each cut at its first colon.
fn wished_fields(wishes: &str) -> impl Iterator<Item = (String, String)> {
    wishes
        .split(',')
        .filter_map(|wish| wish.trim().split_once(':'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
}

/// The JSON that an echo pod sends, read back or to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// Request target as received: path and query, byte for byte.
    pub path: String,
    /// Host or `:authority` as received, with its port.
    pub host: String,
    /// Method.
    pub method: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub proto: String,
    /// All values by canonical name (`X-Header-Set`); Host is not in it.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// TLS of the connection to the pod.
    pub tls: Option<EchoTls>,
}

impl Echo {
    fn of(pod: &Pod, incoming: &Incoming) -> Echo {
        let mut headers = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in &incoming.fields {
            headers.entry(canonical(name)).or_default().push(value.clone());
        }
        Echo {
            path: incoming.target.clone(),
            host: incoming.host.clone(),
            method: incoming.method.clone(),
            proto: incoming.proto.to_owned(),
            headers,
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            tls: incoming.tls.as_deref().cloned(),
        }
    }

    /// All values of a header joined with a bare comma; the name is compared without case.
    pub fn header(&self, name: &str) -> Option<String> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, values)| values.join(","))
    }

    fn to_json(&self) -> Value {
        let mut value = json!({
            "path": self.path,
            "host": self.host,
            "method": self.method,
            "proto": self.proto,
            "headers": self.headers,
            "httpPort": "3000",
            "namespace": self.namespace,
            "ingress": "",
            "service": "",
            "pod": self.pod,
        });
        if let Some(tls) = &self.tls {
            let mut part = Map::new();
            part.insert("version".to_owned(), json!(tls.version));
            part.insert("serverName".to_owned(), json!(tls.server_name));
            if let Some(protocol) = &tls.negotiated_protocol {
                part.insert("negotiatedProtocol".to_owned(), json!(protocol));
            }
            part.insert("cipherSuite".to_owned(), json!(tls.cipher_suite));
            if !tls.peer_certificates.is_empty() {
                part.insert("peerCertificates".to_owned(), json!(tls.peer_certificates));
            }
            value["tls"] = Value::Object(part);
        }
        value
    }

    /// Reads an echo; what is absent stays empty. `None` when the bytes are not a JSON object.
    pub fn parse(body: &[u8]) -> Option<Echo> {
        let value: Value = serde_json::from_slice(body).ok()?;
        let object = value.as_object()?;
        let headers = object.get("headers").and_then(Value::as_object);
        Some(Echo {
            path: text(&value, "path"),
            host: text(&value, "host"),
            method: text(&value, "method"),
            proto: text(&value, "proto"),
            headers: headers.into_iter().flatten().map(|(name, values)| (name.clone(), texts(values))).collect(),
            namespace: text(&value, "namespace"),
            pod: text(&value, "pod"),
            tls: object.get("tls").filter(|tls| tls.is_object()).map(|tls| EchoTls {
                version: text(tls, "version"),
                server_name: text(tls, "serverName"),
                negotiated_protocol: tls.get("negotiatedProtocol").and_then(Value::as_str).map(str::to_owned),
                cipher_suite: text(tls, "cipherSuite"),
                peer_certificates: tls.get("peerCertificates").map(texts).unwrap_or_default(),
            }),
        })
    }
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// `x-header-set` becomes `X-Header-Set`, as Go writes it.
fn canonical(name: &str) -> String {
    let mut start = true;
    name.chars()
        .map(|c| {
            let written = if start { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            start = c == '-';
            written
        })
        .collect()
}

/// The query of a request; values are taken as they are, since the suite's need no decoding.
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn value(&self, name: &str) -> Option<&'a str> {
        let mut pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

/// One number with one unit of Go's notation: `1s`, `300ms`, `1.5s`.
fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| c != '.' && !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}
