//! Spans reach a collector from both sides of a call, as one trace.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use transept_testkit::client::Request;
use transept_testkit::echo::Port;

use crate::stage::{Mesh, answered, program, send, until};

/// Takes what is sent to it, and keeps it.
struct Collector {
    address: SocketAddr,
    messages: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    async fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let messages = Arc::new(Mutex::new(Vec::new()));
        let kept = messages.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Some(message) = take(stream).await {
                    kept.lock().expect("nobody failed").push(message);
                }
            }
        });
        Collector { address, messages }
    }

    /// All spans so far, each with the name of the service that it is of.
    fn spans(&self) -> Vec<(String, Value)> {
        let messages = self.messages.lock().expect("nobody failed");
        let of = |message: &Value| {
            let all = &message["resourceSpans"][0];
            let service =
                all["resource"]["attributes"][0]["value"]["stringValue"].as_str().unwrap_or_default().to_owned();
            let spans = all["scopeSpans"][0]["spans"].as_array().cloned().unwrap_or_default();
            spans.into_iter().map(move |span| (service.clone(), span)).collect::<Vec<_>>()
        };
        messages.iter().flat_map(of).collect()
    }

    /// The spans of a trace, by service, once both are there.
    async fn both(&self, trace: &str) -> [Value; 2] {
        let find = || async {
            let spans = self.spans();
            let of = |service: &str| {
                spans
                    .iter()
                    .find(|(name, span)| name == service && span["traceId"] == trace)
                    .map(|(_, span)| span.clone())
            };
            Some([of("web")?, of("cart")?])
        };
        until(find, Option::is_some).await.expect("both are there")
    }
}

/// The content of one message.
async fn take(mut stream: TcpStream) -> Option<Value> {
    let mut got = Vec::new();
    let (head, length) = loop {
        if stream.read_buf(&mut got).await.ok()? == 0 {
            return None;
        }
        let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&got[..end]).to_lowercase();
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        let length = head.split("content-length: ").nth(1)?.lines().next()?.parse::<usize>().ok()?;
        break (end + 4, length);
    };
    while got.len() < head + length {
        if stream.read_buf(&mut got).await.ok()? == 0 {
            return None;
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").await.ok()?;
    serde_json::from_slice(&got[head..]).ok()
}

/// An attribute of a span.
fn attribute<'s>(span: &'s Value, name: &str) -> Option<&'s str> {
    let attributes = span["attributes"].as_array()?;
    let value = &attributes.iter().find(|one| one["key"] == name)?["value"];
    value["stringValue"].as_str().or(value["intValue"].as_str())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_one_trace_with_a_span_of_each_side() {
    let collector = Collector::start().await;
    let to = format!("--spans=http://{}", collector.address);
    let mesh = Mesh::start("").await;
    let program = program("cart-1", Port::Http1).await;
    let cart = mesh.sidecar("cart").await.port(80, program.address, "").argument(&to).start().await;
    let setup = mesh.sidecar("web").await.upstream("cart:80").argument(&to);
    let web = setup.start().await;
    answered(setup.local[0], 200).await;

    let (trace, caller) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let traced = |flags: &str| {
        let value = format!("00-{trace}-{caller}-{flags}");
        Request::get("cart", "/items?secret=1").with("traceparent", &value)
    };
    // What nobody wants recorded is not sent. It is answered first, so it would be there before the other one.
    send(setup.local[0], &traced("00")).await.expect("an answer");
    send(setup.local[0], &traced("01")).await.expect("an answer");
    let [out, inside] = collector.both(trace).await;
    assert_eq!((&out["kind"], &out["parentSpanId"]), (&3.into(), &caller.into()), "{out}");
    assert_eq!((&inside["kind"], &inside["parentSpanId"]), (&2.into(), &out["spanId"]), "{inside}");
    for span in [&out, &inside] {
        assert_eq!(attribute(span, "http.request.method"), Some("GET"), "{span}");
        assert_eq!(attribute(span, "http.response.status_code"), Some("200"), "{span}");
        assert_eq!(attribute(span, "url.path"), Some("/items"), "{span}");
        assert!(!span.to_string().contains("secret"), "{span}");
        let time = |name: &str| span[name].as_str().and_then(|nanos| nanos.parse::<u128>().ok()).expect("a time");
        assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"), "{span}");
    }
    assert_eq!(attribute(&inside, "transept.peer"), Some("spiffe://transept.local/ns/default/sa/web"));
    assert_eq!(attribute(&out, "transept.peer"), Some("spiffe://transept.local/ns/default/sa/cart"));
    assert_eq!(collector.spans().iter().filter(|(_, span)| span["traceId"] == trace).count(), 2);

    let counted = |metrics: &Option<String>| {
        let value = |name: &str| {
            let line = metrics.as_deref()?.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        value("transept_spans_exported_total ").is_some_and(|count| count > 0)
            && value("transept_spans_dropped_total ") == Some(0)
    };
    for sidecar in [&cart, &web] {
        until(|| async { sidecar.metrics().await.ok() }, counted).await;
    }
    // What an alarm needs.
    let metrics = web.metrics().await.expect("metrics");
    let value = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs_f64();
    assert_eq!(value("transept_mesh_control_connected "), Some(1.0));
    let left = value("transept_mesh_certificate_expiration_timestamp_seconds ").expect("an end") - now;
    assert!((23.0 * 3600.0..=24.0 * 3600.0).contains(&left), "{left}");
}
