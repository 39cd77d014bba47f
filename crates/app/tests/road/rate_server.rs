//! The gateway as a rate limit service: asked by another gateway, and by a gRPC client in Python.

use serde_json::{Value, json};
use tokio::process::Command;
use transept_testkit::parts::python;

use crate::service::{has_grpc, program};
use crate::stage::{Ask, Backend, Caller, Down, Framed, Gateway, Nobody, Setup, Up, soon};

/// A gateway that answers, whose route leads nowhere else.
async fn server() -> Gateway {
    let policy = "apiVersion: transept.dev/v1alpha1\nkind: RateLimitServerPolicy\nmetadata: {name: serve}\nspec:\n  \
                  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all}]\n  domain: shop\n  \
                  headers: Ietf\n  limits:\n  \
                  - {name: gold, requests: 100, per: 24h, descriptor: [{key: plan, value: gold}, {key: user}]}\n  \
                  - {name: user, requests: 2, per: 24h, descriptor: [{key: plan}, {key: user}]}";
    Setup::of(&[Nobody::here().address], Up::Http1).document(policy).start().await
}

#[tokio::test]
async fn another_gateway_asks_and_both_count_together() {
    let server = server().await;
    let backend = format!(
        "apiVersion: transept.dev/v1alpha1\nkind: Backend\nmetadata: {{name: limits}}\nspec: {{protocol: H2C, endpoints: \
         [{{address: {}, port: {}}}]}}",
        server.address.ip(),
        server.address.port()
    );
    let policy = "apiVersion: transept.dev/v1alpha1\nkind: RateLimitServicePolicy\nmetadata: {name: ask}\nspec:\n  \
                  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all}]\n  \
                  backendRef: {group: transept.dev, kind: Backend, name: limits}\n  domain: shop\n  timeout: 5s\n  \
                  descriptors:\n  - entries: [{key: plan, header: X-Plan}, {key: user, header: X-User}]";
    let mut passed = 0;
    for _ in 0..2 {
        let web = Backend::start(Up::Http1).await;
        let gateway = Setup::before(&web).document(&backend).document(policy).start().await;
        let _answering = web.answer_all();
        let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
        for _ in 0..3 {
            let mut call = caller.ask(Ask::get("/").with("X-Plan", "free").with("X-User", "ada")).await;
            let (status, _) = call.answer().await;
            assert!(matches!(status, 200 | 429), "{status}");
            passed += usize::from(status == 200);
            if status == 429 {
                let wait: u64 = call.field("retry-after").and_then(|text| text.parse().ok()).expect("Retry-After");
                assert!((43_100..=43_200).contains(&wait), "{wait}");
            }
        }
    }
    assert_eq!(passed, 2, "of two gateways together");
}

#[tokio::test]
async fn a_client_in_another_language_is_told_all_that_envoy_reads() {
    if !has_grpc().await {
        return;
    }
    let server = server().await;
    let mut command = Command::new(python());
    command.arg("-B").arg(program("ask_rate_limit.py")).arg(server.address.to_string()).kill_on_drop(true);
    let output = soon(command.output()).await.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut told: Vec<Value> =
        output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(told.len(), 6, "{told:?}");
    let mut reset = Vec::new();
    for status in told.iter_mut().filter_map(|line| line.pointer_mut("/statuses/0/4")) {
        reset.push(status.take().as_u64().expect("seconds"));
    }
    let ok = |left: u64, name: &str| {
        let limit = if name == "user" { 2 } else { 100 };
        json!({"status": "OK", "code": 1, "statuses": [[1, limit, 4, left, null]], "fields": ["ratelimit-policy", "ratelimit"]})
    };
    assert_eq!(lower(&told[0]), ok(1, "user"));
    assert_eq!(lower(&told[1]), ok(0, "user"));
    let over = ["ratelimit-policy", "ratelimit", "retry-after"];
    assert_eq!(lower(&told[2]), json!({"status": "OK", "code": 2, "statuses": [[2, 2, 4, 0, null]], "fields": over}));
    assert!((43_100..=43_200).contains(&reset[2]), "{reset:?}");
    assert_eq!(lower(&told[3]), ok(50, "gold"));
    assert_eq!(told[4]["statuses"][0][0], 1, "nothing limits it");
    assert_eq!(told[5], json!({"status": "INVALID_ARGUMENT"}));
}

/// With names of fields in lower case.
fn lower(line: &Value) -> Value {
    let mut line = line.clone();
    for name in line["fields"].as_array_mut().into_iter().flatten() {
        *name = name.as_str().expect("a name").to_ascii_lowercase().into();
    }
    line
}

#[tokio::test]
async fn garbage_and_other_protocols_are_refused_and_the_server_goes_on() {
    let server = server().await;
    let target = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    let mut caller = Caller::connect(&Down::H2c, server.address).await;
    let ask = || Ask::post(target, Framed::Open).with("Content-Type", "application/grpc").with("TE", "trailers");
    for garbage in [&b""[..], b"\0\0\0\0\x01", b"\xff\xff\xff\xff\xff\xff", &[0; 70_000]] {
        let mut call = caller.ask(ask()).await;
        let _ = call.try_send(garbage).await;
        let _ = call.try_end().await;
        call.head().await;
        let expected = if garbage.len() > 65_536 { "8" } else { "3" };
        assert_eq!(call.field("grpc-status"), Some(expected), "{} bytes", garbage.len());
    }
    let mut old = Caller::connect(&Down::Http11, server.address).await;
    let mut call = old.ask(Ask::post(target, Framed::Length(0))).await;
    assert_eq!(call.answer().await.0, 400);
}
