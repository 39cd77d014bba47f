//! Proxies in a row: which of them tries again, and how long each may take.

use std::time::Duration;

use crate::stage::{Ask, Backend, Caller, Down, Framed, Gateway, Setup, Up, soon};

const ATTEMPT: &str = "x-transept-attempt";
const TIMEOUT: &str = "x-transept-timeout";
const RETRY: &str = "retry: {codes: [503], attempts: 2, backoff: 1ms}";

/// A gateway that believes what is in front of it.
async fn inner(backend: &Backend, rule: &str) -> Gateway {
    let setup = Setup::before(backend).policy("clientAddress: {trustedProxies: [127.0.0.0/8]}");
    setup.rule(rule).start().await
}

#[tokio::test]
async fn one_of_two_layers_tries_again() {
    let mut backend = Backend::start(Up::Http1).await;
    let inner = inner(&backend, RETRY).await;
    let outer = Setup::of(&[inner.address], Up::Http1).rule(RETRY).start().await;
    let mut caller = Caller::http11(outer.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    for attempt in [None, Some("2"), Some("3")] {
        let served = backend.next().await;
        assert_eq!(served.field(ATTEMPT), attempt);
        served.answer(503, "no").await;
    }
    assert_eq!(soon(call.answer()).await, (503, "no".to_owned()));
    assert!(backend.unheard().is_none());
}

#[tokio::test]
async fn a_layer_behind_leaves_it_to_the_one_that_has_begun() {
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = inner(&backend, RETRY).await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/").with(ATTEMPT, "2")).await;
    let served = backend.next().await;
    assert_eq!(served.field(ATTEMPT), Some("2"));
    served.answer(503, "no").await;
    assert_eq!(soon(call.answer()).await, (503, "no".to_owned()));
    // It has not tried again itself, and so says nothing.
    assert_eq!(call.field(ATTEMPT), None);
}

#[tokio::test]
async fn a_connection_that_breaks_off_behind_is_tried_again_in_front() {
    let mut backend = Backend::start(Up::Http1).await;
    let inner = inner(&backend, RETRY).await;
    let mut caller = Caller::http11(inner.address).await;
    let mut call = caller.ask(Ask::get("/").with(ATTEMPT, "2")).await;
    backend.next().await.reset();
    let (status, problem) = soon(call.answer()).await;
    assert!(status == 503 && problem.contains("upstream.reset"), "{status} {problem}");
    assert_eq!(call.field(ATTEMPT), None, "whoever is in front has begun to try again, and goes on");
}

#[tokio::test]
async fn what_a_gateway_behind_says_of_itself_is_not_asked_for_again() {
    let policy = "clientAddress: {trustedProxies: [127.0.0.0/8]}";
    let limits = "\
apiVersion: transept.dev/v1alpha1
kind: ConcurrencyPolicy
metadata: {name: places}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gate-0}]
  limits: [{name: one, requests: 1, key: []}]
";
    let mut backend = Backend::start(Up::Http1).await;
    let inner = Setup::before(&backend).policy(policy).document(limits).start().await;
    let outer = Setup::of(&[inner.address], Up::Http1).rule(RETRY).start().await;
    let mut first = Caller::http11(outer.address).await;
    let mut held = first.ask(Ask::get("/held")).await;
    let served = backend.next().await;
    let mut second = Caller::http11(outer.address).await;
    let mut call = second.ask(Ask::get("/")).await;
    let (status, problem) = soon(call.answer()).await;
    assert!(status == 503 && problem.contains("limit.concurrency_exceeded"), "{status} {problem}");
    assert_eq!(call.field(ATTEMPT), None, "it is between proxies");
    let metrics = inner.running.metrics().await.expect("metrics");
    let counts = metrics.lines().filter(|line| line.contains("_count{") && line.contains("limit.concurrency_exceeded"));
    let counts: Vec<_> = counts.filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(counts, ["1"], "{metrics}");
    served.answer(200, "yes").await;
    assert_eq!(soon(held.answer()).await.0, 200);
}

#[tokio::test]
async fn what_strangers_say_about_tries_and_times_is_nothing() {
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).rule(RETRY).start().await;
    let mut caller = Caller::http11(gateway.address).await;
    let ask = Ask::get("/").with(ATTEMPT, "2").with("X_Transept_Attempt", "2").with(TIMEOUT, "1n");
    let mut call = caller.ask(ask).await;
    let served = backend.next().await;
    assert_eq!((served.field(ATTEMPT), served.field("x_transept_attempt"), served.field(TIMEOUT)), (None, None, None));
    served.answer(503, "no").await;
    backend.next().await.answer(200, "yes").await;
    assert_eq!(soon(call.answer()).await, (200, "yes".to_owned()));
    // It is no proxy, and does not hear of the tries.
    assert_eq!(call.field(ATTEMPT), None);
}

#[tokio::test]
async fn the_time_that_a_rule_gives_is_told() {
    let mut backend = Backend::start(Up::Http1).await;
    let inner = inner(&backend, "timeouts: {request: 30s}").await;
    let outer = Setup::of(&[inner.address], Up::Http1).rule("timeouts: {request: 20s}").start().await;
    let mut caller = Caller::http11(outer.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let served = backend.next().await;
    let told = served.field(TIMEOUT).and_then(|value| value.strip_suffix('u')?.parse().ok()).map(Duration::from_micros);
    // The one behind waits a moment longer than it is told, so that the one in front gives up first.
    let range = Duration::from_secs(10)..Duration::from_millis(20_005);
    assert!(told.is_some_and(|told| range.contains(&told)), "{told:?}");
    served.answer(200, "yes").await;
    assert_eq!(soon(call.answer()).await.0, 200);
}

/// A time that is told is kept, whatever the own rules allow.
#[tokio::test]
async fn the_time_that_a_layer_in_front_gives_is_kept() {
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = inner(&backend, "timeouts: {request: 60s}").await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/").with(TIMEOUT, "300m")).await;
    let mut served = backend.next().await;
    assert_eq!(soon(call.answer()).await.0, 504);
    served.sees_the_end().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/").with(TIMEOUT, "0m")).await;
    assert_eq!(soon(call.answer()).await.0, 504);
    assert!(backend.unheard().is_none());
}

/// A caller's time that ends while a policy asks somebody is the caller's, and none at all asks nobody.
#[tokio::test]
async fn the_time_that_a_caller_gives_holds_for_policies_too() {
    let (mut asked, mut backend) = (Backend::start(Up::Http1).await, Backend::start(Up::Http1).await);
    let guard = format!(
        "\
apiVersion: transept.dev/v1alpha1
kind: ExternalAuthPolicy
metadata: {{name: guard}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: gate-0}}]
  protocol: HTTP
  backendRef: {{group: transept.dev, kind: Backend, name: guard}}
---
apiVersion: transept.dev/v1alpha1
kind: Backend
metadata: {{name: guard}}
spec: {{endpoints: [{{address: 127.0.0.1, port: {port}}}]}}
",
        port = asked.address.port()
    );
    let setup = Setup::before(&backend).policy("clientAddress: {trustedProxies: [127.0.0.0/8]}");
    let gateway = setup.document(&guard).start().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/").with(TIMEOUT, "200m")).await;
    let mut question = asked.next().await;
    let (status, problem) = soon(call.answer()).await;
    assert_eq!(status, 504);
    assert!(problem.contains("request.deadline"), "{problem}");
    question.sees_the_end().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/").with(TIMEOUT, "0m")).await;
    assert_eq!(soon(call.answer()).await.0, 504);
    assert!(asked.unheard().is_none() && backend.unheard().is_none());
}

#[tokio::test]
async fn the_deadline_of_a_grpc_call_is_kept_and_passed_on() {
    let mut backend = Backend::start(Up::H2c).await;
    let gateway = Setup::before(&backend).start().await;
    let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
    let ask = Ask::post("/shop.Cart/Add", Framed::Open).with("content-type", "application/grpc");
    let mut call = caller.ask(ask.with("grpc-timeout", "400m")).await;
    call.send(b"\0\0\0\0\0").await;
    call.end(&[]).await;
    let mut served = backend.next().await;
    let told: u64 =
        served.field("grpc-timeout").and_then(|value| value.strip_suffix('u')?.parse().ok()).expect("a time");
    assert!(told <= 405_000, "the client ends it first, and by a moment: {told}");
    assert_eq!(served.field(TIMEOUT), None);
    // Nobody answers: the call ends as gRPC says that it does.
    assert_eq!(soon(call.answer()).await.0, 200);
    assert_eq!(call.field("grpc-status"), Some("4"));
    served.sees_the_end().await;
}
