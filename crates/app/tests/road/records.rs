//! What the access log and the metrics tell of an exchange, however it ended.

use serde_json::Value;

use crate::stage::raw::to_the_end;
use crate::stage::{Ask, Backend, Caller, Down, Framed, Gateway, Setup, Up, soon};

/// The line about the request for this path.
async fn record(gateway: &Gateway, path: &str) -> Value {
    let line = soon(gateway.running.log_line_with(&format!("\"path\":\"{path}\""))).await;
    serde_json::from_str(&line).unwrap_or_else(|why| panic!("{why}: {line}"))
}

async fn stage(policy: &str) -> (Gateway, Backend) {
    let backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend).policy(policy).rule("timeouts: {request: 400ms}");
    let setup = setup.rule("matches: [{path: {value: /known}}]");
    let gateway = setup.argument("--access-log=stdout").argument("--access-log-format=json").start().await;
    (gateway, backend)
}

#[tokio::test]
async fn a_good_exchange_is_recorded() {
    for down in [Down::Http11, Down::H2c] {
        let (gateway, mut backend) = stage("limits: {}").await;
        let mut caller = Caller::connect(&down, gateway.address).await;
        let ask = Ask::post("/known?q=1", Framed::Length(5))
            .with("authorization", "Bearer secret-token")
            .with("cookie", "session=secret-token")
            .with("user-agent", "a \"client\"\u{e4}\\")
            .with("x-request-id", "mine-1");
        let mut call = caller.ask(ask).await;
        call.send(b"hello").await;
        call.end(&[]).await;
        let mut served = backend.next().await;
        served.whole().await;
        served.answer(201, "done").await;
        assert_eq!(call.answer().await.0, 201);
        let record = record(&gateway, "/known?q=1").await;
        assert_eq!(
            (&record["status"], &record["method"], &record["host"]),
            (&201.into(), &"POST".into(), &"site.test".into())
        );
        assert_eq!((&record["flags"], &record["error"]), (&"-".into(), &Value::Null));
        assert_eq!((&record["bytes_in"], &record["bytes_out"]), (&5.into(), &4.into()));
        assert_eq!((&record["client"], &record["request_id"]), (&"127.0.0.1".into(), &"mine-1".into()));
        assert_eq!(record["endpoint"], backend.address.to_string());
        assert!(!record.to_string().contains("secret-token"), "{record}");
    }
}

#[tokio::test]
async fn every_failure_has_its_letters() {
    for down in [Down::Http11, Down::H2c] {
        let (gateway, mut backend) = stage("limits: {bodyBytes: 10}").await;
        let mut caller = Caller::connect(&down, gateway.address).await;
        let told = async |path: &str, status: u16, flags: &str, error: &str| {
            let record = record(&gateway, path).await;
            assert_eq!(
                (&record["status"], &record["flags"], &record["error"]),
                (&status.into(), &flags.into(), &error.into()),
                "{down:?} {record}"
            );
        };
        caller.get("/unknown").await;
        told("/unknown", 404, "NR", "route.not_found").await;

        let mut call = caller.ask(Ask::get("/known/silent")).await;
        let _silent = backend.next().await;
        call.head().await;
        told("/known/silent", 504, "UT", "request.timeout").await;
        drop(call);

        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/known/reset")).await;
        backend.next().await.reset();
        call.head().await;
        told("/known/reset", 503, "UC", "upstream.reset").await;
        drop(call);

        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/known/broken")).await;
        let mut served = backend.next().await;
        served.send_raw(b"nonsense\r\n\r\n").await;
        call.head().await;
        told("/known/broken", 502, "UPE", "upstream.malformed").await;
        drop(call);

        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/known/cut")).await;
        let mut served = backend.next().await;
        served.begin(200, Framed::Length(9), &[]).await;
        served.send(b"a part").await;
        call.head().await;
        served.reset();
        assert!(call.try_whole().await.is_err());
        told("/known/cut", 200, "UC", "upstream.incomplete").await;
        drop(call);

        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::post("/known/large", Framed::Length(20))).await;
        call.head().await;
        assert_eq!(call.status, 413);
        told("/known/large", 413, "DPE", "request.body_too_large").await;
    }
}

#[tokio::test]
async fn a_client_that_cancels_is_recorded() {
    let (gateway, mut backend) = stage("limits: {}").await;
    let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
    let call = caller.ask(Ask::get("/known/left")).await;
    let mut served = backend.next().await;
    call.cancel();
    served.sees_the_end().await;
    let record = record(&gateway, "/known/left").await;
    assert_eq!((&record["status"], &record["flags"]), (&499.into(), &"DC".into()));
}

/// What could not be read has no path, and is recorded all the same.
#[tokio::test]
async fn what_is_no_request_is_recorded() {
    let (gateway, _backend) = stage("timeouts: {head: 300ms}").await;
    to_the_end(gateway.address, "nonsense\r\n\r\n").await;
    let line = soon(gateway.running.log_line_with("request.malformed")).await;
    let told: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&told["status"], &told["flags"]), (&400.into(), &"DPE".into()));
    to_the_end(gateway.address, "GET / HTTP/1.1\r\n").await;
    let line = soon(gateway.running.log_line_with("request.head_timeout")).await;
    let told: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&told["status"], &told["flags"]), (&408.into(), &"DT".into()));
    let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
    let mut ask = Ask::get("/");
    for _ in 0..150 {
        ask = ask.with("x-a", "1");
    }
    let mut call = caller.ask(ask).await;
    call.head().await;
    let line = soon(gateway.running.log_line_with("request.headers_too_large")).await;
    let told: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&told["status"], &told["flags"]), (&431.into(), &"DPE".into()));
}

/// What clients invent makes no new series.
#[tokio::test]
async fn metrics_do_not_grow_with_what_clients_send() {
    let (gateway, backend) = stage("limits: {}").await;
    let _answering = backend.answer_all();
    let series = async || gateway.running.metrics().await.expect("metrics").lines().count();
    let known =
        ["GET /unknown HTTP/1.1\r\nHost: a", "XYZ /unknown HTTP/1.1\r\nHost: a", "GET /known HTTP/1.1\r\nHost: a"];
    for request in known {
        to_the_end(gateway.address, format!("{request}\r\nConnection: close\r\n\r\n")).await;
    }
    let before = series().await;
    for number in 0..30 {
        let request =
            format!("M{number} /known/{number}?{number} HTTP/1.1\r\nHost: h{number}.test\r\nConnection: close\r\n\r\n");
        to_the_end(gateway.address, request).await;
        let request = format!(
            "GET /{number} HTTP/1.1\r\nHost: h{number}.test\r\nUser-Agent: {number}\r\nConnection: close\r\n\r\n"
        );
        to_the_end(gateway.address, request).await;
    }
    let after = series().await;
    assert!(after <= before + 40, "{before} lines have become {after}");
}
