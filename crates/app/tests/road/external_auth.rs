//! A service says whether requests may pass: over gRPC one in Python, over HTTP one that the test plays, with every way to be of no use.

use std::net::SocketAddr;

use crate::service::Service;
use crate::stage::{Ask, Backend, Caller, Framed, Gateway, Nobody, Setup, Up};

fn authorizer(address: SocketAddr) -> String {
    format!(
        "{{apiVersion: transept.dev/v1alpha1, kind: Backend, metadata: {{name: auth}}, spec: {{endpoints: [{{address: {}, port: {}}}]}}}}",
        address.ip(),
        address.port()
    )
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: transept.dev/v1alpha1
kind: ExternalAuthPolicy
metadata: {{name: ask}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all}}]
  backendRef: {{group: transept.dev, kind: Backend, name: auth}}
  {spec}"
    )
}

async fn behind(address: SocketAddr, spec: &str) -> (Gateway, Backend) {
    let backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).document(&authorizer(address)).document(&policy(spec)).start().await;
    (gateway, backend)
}

/// Asks, and lets the backend answer when the request gets there.
async fn asked(gateway: &Gateway, target: &str) -> (u16, Vec<(String, String)>, String) {
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get(target)).await;
    call.head().await;
    let status = call.status;
    let fields = call.fields.clone();
    let whole = call.whole().await;
    (status, fields, String::from_utf8_lossy(&whole.content).into_owned())
}

#[tokio::test]
async fn a_service_in_another_language_lets_pass_and_changes_the_request() {
    let Some(service) = Service::start("authorize.py").await else { return };
    let spec = "protocol: GRPC\n  forwardBody: {maxSize: 16}\n  extensions: {shop: main}";
    let (gateway, mut backend) = behind(service.address, spec).await;
    for (framed, partial, body) in [
        (Framed::Length(5), "false", "hello"),
        (Framed::Open, "false", "hello"),
        (Framed::Length(26), "true", "abcdefghijklmnopqrstuvwxyz"),
        (Framed::Open, "true", "abcdefghijklmnopqrstuvwxyz"),
    ] {
        let mut caller = Caller::http11(gateway.address).await;
        let ask = Ask::post("/ok?x=1", framed).with("X-Team", "blue").with("X-Secret", "s").with("X-User", "forged");
        let mut call = caller.ask(ask).await;
        call.send(body.as_bytes()).await;
        call.end(&[]).await;
        let mut served = backend.next().await;
        assert_eq!(served.field("x-user"), Some("python"));
        assert_eq!(served.field("x-secret"), None);
        let saw: serde_json::Value = serde_json::from_str(served.field("x-saw").expect("a field")).expect("JSON");
        let shown = &body[..body.len().min(16)];
        for (name, expected) in [
            ("method", "POST"),
            ("path", "/ok?x=1"),
            ("team", "blue"),
            ("client", "127.0.0.1"),
            ("partial", partial),
            ("body", shown),
        ] {
            assert_eq!(saw[name], expected, "{framed:?} {name}: {saw}");
        }
        assert_eq!(saw["extensions"]["shop"], "main");
        assert_eq!(served.whole().await.content, body.as_bytes(), "{framed:?}");
        served.begin(200, Framed::Length(4), &[("X-Checked", "by-the-backend"), ("X-Replaced", "no")]).await;
        served.send(b"fine").await;
        served.end(&[]).await;
        call.head().await;
        let lines = |name: &str| -> Vec<String> {
            let fields = call.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
            fields.map(|(_, value)| value.clone()).collect()
        };
        // A line is added to a response, unless the service says that it replaces what is there.
        assert_eq!((call.status, lines("x-checked")), (200, vec!["by-the-backend".to_owned(), "yes".to_owned()]));
        assert_eq!(lines("x-replaced"), ["python"]);
        call.whole().await;
    }
}

#[tokio::test]
async fn a_service_in_another_language_refuses_in_its_own_words() {
    let Some(service) = Service::start("authorize.py").await else { return };
    let (gateway, mut backend) = behind(service.address, "protocol: GRPC").await;
    let (status, fields, body) = asked(&gateway, "/no").await;
    assert_eq!((status, &*body), (401, "python says no"));
    assert!(
        fields
            .iter()
            .any(|(name, value)| name.eq_ignore_ascii_case("www-authenticate") && value == "Bearer realm=\"python\"")
    );
    gateway.running.log_line_with("external authorization, rule python-rule").await;
    assert!(backend.unheard().is_none());
}

#[tokio::test]
async fn no_answer_or_none_that_can_be_used_refuses() {
    let Some(mut service) = Service::start("authorize.py").await else { return };
    let (gateway, mut backend) = behind(service.address, "protocol: GRPC\n  timeout: 300ms").await;
    for target in ["/garbage", "/empty", "/fail", "/slow"] {
        let (status, _, body) = asked(&gateway, target).await;
        assert_eq!(status, 503, "{target}");
        assert!(body.contains("access.unavailable"), "{target}: {body}");
    }
    service.process.kill().await.expect("it ends");
    assert_eq!(asked(&gateway, "/ok").await.0, 503);
    assert!(backend.unheard().is_none());
}

#[tokio::test]
async fn without_an_answer_requests_pass_where_that_is_said() {
    let nobody = Nobody::here();
    let (gateway, mut backend) = behind(nobody.address, "protocol: GRPC\n  onFailure: Allow").await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let mut served = backend.next().await;
    served.whole().await;
    served.answer(200, "fine").await;
    assert_eq!(call.answer().await, (200, "fine".to_owned()));
    gateway.running.log_line_with("\"unasked\":\"ExternalAuthPolicy default/ask: ").await;
    let metrics = gateway.running.metrics().await.expect("metrics");
    let down = "transept_external_auth_service_up{policy=\"ExternalAuthPolicy default/ask\"} 0";
    assert!(metrics.contains(down), "{metrics}");
}

/// A filter in the rule of the route.
fn filter(spec: &str) -> String {
    format!(
        "filters: [{{type: ExternalAuth, externalAuth: {{protocol: HTTP, backendRef: {{group: transept.dev, kind: Backend, name: auth}}, {spec}}}}}]"
    )
}

#[tokio::test]
async fn a_filter_asks_over_http() {
    let mut service = Backend::start(Up::Http1).await;
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend)
        .document(&authorizer(service.address))
        .rule(&filter("http: {path: /check, allowedHeaders: [Cookie], allowedResponseHeaders: [X-User]}, forwardBody: {maxSize: 3}"))
        .start()
        .await;
    let mut caller = Caller::http11(gateway.address).await;
    let ask =
        Ask::post("/cart?x=1", Framed::Open).with("Cookie", "s=1").with("X-User", "forged").with("X-Team", "blue");
    let mut call = caller.ask(ask).await;
    call.send(b"hello").await;
    call.end(&[]).await;
    let mut question = service.next().await;
    assert_eq!((&*question.method, &*question.target), ("POST", "/check/cart?x=1"));
    assert_eq!((question.field("cookie"), question.field("x-team")), (Some("s=1"), None));
    assert_eq!(question.field("x-forwarded-uri"), Some("/cart?x=1"));
    assert_eq!(question.whole().await.content, b"hel");
    question.begin(202, Framed::Length(0), &[("X-User", "ann"), ("X-Other", "no")]).await;
    question.end(&[]).await;
    let mut served = backend.next().await;
    assert_eq!((served.field("x-user"), served.field("x-other")), (Some("ann"), None));
    assert_eq!(served.whole().await.content, b"hello");
    served.answer(200, "fine").await;
    assert_eq!(call.answer().await, (200, "fine".to_owned()));

    let mut call = caller.ask(Ask::get("/cart")).await;
    let mut question = service.next().await;
    question.whole().await;
    question.begin(302, Framed::Length(0), &[("Location", "https://login.test/")]).await;
    question.end(&[]).await;
    call.head().await;
    assert_eq!((call.status, call.field("location")), (302, Some("https://login.test/")));
    call.whole().await;
    assert!(backend.unheard().is_none());
}

#[tokio::test]
async fn a_service_that_hangs_up_over_http_refuses() {
    let mut service = Backend::start(Up::Http1).await;
    let mut backend = Backend::start(Up::Http1).await;
    let gateway =
        Setup::before(&backend).document(&authorizer(service.address)).rule(&filter("http: {}")).start().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    drop(service.next().await);
    call.head().await;
    assert_eq!(call.status, 503);
    call.whole().await;
    let mut call = caller.ask(Ask::get("/")).await;
    let mut question = service.next().await;
    question.whole().await;
    question.answer(500, "broken").await;
    call.head().await;
    assert_eq!(call.status, 503);
    call.whole().await;
    assert!(backend.unheard().is_none());
}

#[tokio::test]
async fn a_service_that_refuses_streams_because_it_is_busy_is_asked_again() {
    let mut service = Backend::start(Up::H2c).await;
    let mut backend = Backend::start(Up::Http1).await;
    let document = authorizer(service.address).replace("spec: {", "spec: {protocol: H2C, ");
    let gateway = Setup::before(&backend).document(&document).rule(&filter("http: {}")).start().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    for _ in 0..3 {
        service.next().await.refuse();
    }
    let mut question = service.next().await;
    question.whole().await;
    question.answer(200, "").await;
    let mut asked = backend.next().await;
    asked.whole().await;
    asked.answer(200, "").await;
    call.head().await;
    assert_eq!(call.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_while_its_body_is_read_harms_nobody() {
    let mut service = Backend::start(Up::Http1).await;
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend)
        .document(&authorizer(service.address))
        .rule(&filter("http: {}, forwardBody: {maxSize: 100}"))
        .rule("timeouts: {request: 300ms}")
        .start()
        .await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::post("/", Framed::Open)).await;
    // The rest never comes: the request ends by its time, and what comes after is no request.
    call.send(b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    call.head().await;
    assert_eq!(call.status, 504);
    assert!(service.unheard().is_none() && backend.unheard().is_none());
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/after")).await;
    let mut question = service.next().await;
    assert_eq!(question.target, "/after");
    question.whole().await;
    question.answer(200, "").await;
    let mut served = backend.next().await;
    assert_eq!(served.target, "/after");
    served.whole().await;
    served.answer(200, "fine").await;
    assert_eq!(call.answer().await, (200, "fine".to_owned()));
}
