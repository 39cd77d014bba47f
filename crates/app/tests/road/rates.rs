//! Limits with the real binary: across workers and reloads, and quotas across a sudden end.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::stage::{Answering, Ask, Backend, Caller, Down, Framed, Gateway, Setup, Up, soon};

/// An object of this kind on the route, with these lines as its spec.
fn policy(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: transept.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: limit}}\nspec:\n  \
         targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all}}]\n  {spec}\n"
    )
}

async fn stage(setup: impl FnOnce(Setup) -> Setup) -> (Setup, Gateway, Answering) {
    let backend = Backend::start(Up::Http1).await;
    let setup = setup(Setup::before(&backend));
    let gateway = setup.start().await;
    (setup, gateway, backend.answer_all())
}

/// How many of so many requests pass, each on a connection of its own.
async fn passing(gateway: &Gateway, count: usize) -> usize {
    let mut passed = 0;
    for _ in 0..count {
        let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let (status, _) = call.answer().await;
        assert!(matches!(status, 200 | 429), "{status}");
        passed += usize::from(status == 200);
    }
    passed
}

#[tokio::test]
async fn a_limit_is_exact_over_all_workers_and_survives_a_reload() {
    let limit = |requests: u32| {
        let spec = format!("limits: [{{name: all, requests: {requests}, per: 1h, key: []}}]");
        policy("RateLimitPolicy", &spec)
    };
    let backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend).workers(4);
    let mut gateway = setup.clone().document(&limit(20)).start().await;
    let answering = backend.answer_all();
    assert_eq!(passing(&gateway, 30).await, 20);
    // More is allowed, and what was used stays used: an empty bucket is empty.
    gateway.reload(&setup.clone().document(&limit(40))).await;
    assert_eq!(passing(&gateway, 5).await, 0);
    assert_eq!(answering.heard().len(), 20);
}

/// How much is left, as a response says.
fn left(told: Option<&str>) -> i64 {
    let left = told.and_then(|told| told.split(";r=").nth(1)?.split(';').next()?.parse().ok());
    left.expect("what is left")
}

#[tokio::test]
async fn what_a_response_costs_is_taken_when_it_is_there() {
    let spec = "limits: [{name: all, requests: 1000, per: 1s, key: [], responseCost: X-Cost, \
                costs: [{paths: [/look], cost: 0}, {paths: [/slow], cost: 1000}]}]";
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).document(&policy("RateLimitPolicy", spec)).start().await;
    let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
    let mut slow = caller.ask(Ask::get("/slow")).await;
    let mut served = soon(backend.next()).await;
    // The bucket is half full again before the backend answers.
    let full = async {
        loop {
            let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
            let mut call = caller.ask(Ask::get("/look")).await;
            backend.next().await.answer(200, "").await;
            call.answer().await;
            if left(call.field("ratelimit")) >= 500 {
                return;
            }
        }
    };
    soon(full).await;
    served.begin(200, Framed::Length(2), &[("X-Cost", "3")]).await;
    served.send(b"ok").await;
    served.end(&[]).await;
    slow.answer().await;
    assert!(left(slow.field("ratelimit")) >= 490, "{:?}", slow.field("ratelimit"));
}

/// What an explanation says of the limits of the gateway that runs.
pub(super) fn explain(gateway: &Gateway, admin: Option<SocketAddr>, fields: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_transept"));
    command.args(["explain", "GET", &format!("http://{}/", gateway.address), "-f"]).arg(gateway.file());
    command.args(fields.iter().flat_map(|field| ["-H", field]));
    command.args(admin.map(|admin| format!("--running={admin}")));
    let output = command.env_clear().output().expect("the binary starts");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn an_explanation_knows_how_much_is_left_and_takes_nothing() {
    let per_user = "limits: [{name: users, requests: 8, per: 1h, missing: Share, key: [{header: X-User}]}]";
    let documents = policy("RateLimitPolicy", per_user)
        + "---\n"
        + &policy("QuotaPolicy", "quotas: [{name: year, requests: 100, per: Month, key: []}]")
        + "---\n"
        + &policy("ConcurrencyPolicy", "limits: [{name: wide, requests: 5, key: []}]");
    let directory = tempfile::tempdir().expect("a directory");
    let quotas = format!("--quotas={}", directory.path().join("quotas.redb").display());
    let (_, gateway, _answering) = stage(|setup| setup.document(&documents).argument(quotas)).await;
    assert_eq!(passing(&gateway, 9).await, 8);
    let admin = gateway.running.admin();
    for _ in 0..2 {
        let (code, text) = explain(&gateway, Some(admin), &[]);
        assert_eq!(code, Some(0), "{text}");
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("in the gateway that runs: ")).collect();
        let [users, year, wide] = lines[..] else { panic!("{text}") };
        assert!(
            users.contains("7 of 8 left") && users.contains("runs: 0 of 8 left, room for this request in "),
            "{users}"
        );
        assert!(year.ends_with("runs: 92 of 100 left"), "{year}");
        assert!(wide.ends_with("runs: 5 of 5 places left"), "{wide}");
    }
    // Somebody else has all of it, and without being asked the gateway says nothing.
    let (_, other) = explain(&gateway, Some(admin), &["X-User: 7"]);
    assert!(other.contains("runs: 8 of 8 left\n"), "{other}");
    let (_, alone) = explain(&gateway, None, &[]);
    assert!(alone.contains("7 of 8 left") && !alone.contains("the gateway that runs"), "{alone}");
    let nobody = SocketAddr::from(([127, 0, 0, 1], transept_testkit::launch::unused_port()));
    assert_eq!(explain(&gateway, Some(nobody), &[]).0, Some(3));
}

/// Answers the next request with a body in two pieces; tells how the backend was asked to encode it.
async fn answer_in_pieces(backend: &mut Backend, media_type: &str, pieces: [&str; 2]) -> Option<String> {
    let mut served = soon(backend.next()).await;
    let encoding = served.field("accept-encoding").map(str::to_owned);
    let length = pieces.iter().map(|piece| piece.len()).sum::<usize>();
    served.begin(200, Framed::Length(length), &[("Content-Type", media_type)]).await;
    for piece in pieces {
        served.send(piece.as_bytes()).await;
    }
    served.end(&[]).await;
    encoding
}

#[tokio::test]
async fn what_the_body_of_a_response_says_is_taken_when_it_is_over() {
    let spec = "limits: [{name: tokens, requests: 1000, per: 24h, key: [], responseCostBody: {json: usage.total}}]";
    for (up, down) in [(Up::Http1, Down::Http11), (Up::H2c, Down::H2c)] {
        let mut backend = Backend::start(up).await;
        let gateway = Setup::before(&backend).document(&policy("RateLimitPolicy", spec)).start().await;
        let mut caller = Caller::connect(&down, gateway.address).await;
        let answers = [
            ("application/json", ["{\"usage\":{\"to", "tal\":399,\"total_in\":7}}"], 999),
            (
                "text/event-stream",
                ["data: {\"usage\":{\"total\":1}}\n\n", "data: {\"usage\":{\"total\":598}}\n\n"],
                599,
            ),
            ("text/plain", ["{\"usage\":{\"total\":", "9}}"], 0),
        ];
        for (media_type, pieces, before) in answers {
            let mut call = caller.ask(Ask::get("/").with("Accept-Encoding", "gzip")).await;
            let encoding = answer_in_pieces(&mut backend, media_type, pieces).await;
            assert_eq!(encoding.as_deref(), Some("identity"));
            assert_eq!(call.answer().await, (200, pieces.concat()));
            assert_eq!(left(call.field("ratelimit")), before, "{media_type}");
        }
        let mut call = caller.ask(Ask::get("/")).await;
        assert_eq!(call.answer().await.0, 429, "all of it is used");
    }
}

#[tokio::test]
async fn bytes_of_both_bodies_are_counted() {
    let spec = "limits: [{name: bytes, requests: 1000, per: 24h, key: [], responseCostBody: {bytes: Both, per: 10}}]";
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).document(&policy("RateLimitPolicy", spec)).start().await;
    let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
    let mut call = caller.ask(Ask::post("/", Framed::Length(50))).await;
    call.send(&[b'x'; 50]).await;
    call.end(&[]).await;
    answer_in_pieces(&mut backend, "text/plain", ["fifteen letters", "sixteen letters."]).await;
    call.answer().await;
    let mut call = caller.ask(Ask::get("/")).await;
    answer_in_pieces(&mut backend, "text/plain", ["", ""]).await;
    call.answer().await;
    // Two requests, and 81 bytes.
    assert_eq!(left(call.field("ratelimit")), 1000 - 2 - 9);
}

#[tokio::test]
async fn who_leaves_before_the_number_comes_pays_what_is_written_for_that() {
    let spec =
        "limits: [{name: tokens, requests: 1000, per: 24h, key: [], responseCostBody: {json: n, otherwise: 5000}}]";
    for down in [Down::Http11, Down::H2c] {
        let mut backend = Backend::start(Up::Http1).await;
        let gateway = Setup::before(&backend).document(&policy("RateLimitPolicy", spec)).start().await;
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = soon(backend.next()).await;
        served.begin(200, Framed::Length(1 << 30), &[("Content-Type", "application/json")]).await;
        served.send(b"{\"text\":\"a").await;
        call.head().await;
        drop(call);
        drop(caller);
        let refused = async {
            loop {
                // Over HTTP/1.1 only writing tells that the client has gone.
                let _ = served.try_send(&[b'a'; 65_536]).await;
                let mut other = Caller::connect(&Down::Http11, gateway.address).await;
                let mut call = other.ask(Ask::get("/")).await;
                tokio::select! {
                    (status, _) = call.answer() => return status,
                    next = backend.next() => next.answer(500, "").await,
                }
            }
        };
        assert_eq!(soon(refused).await, 429);
    }
}

#[tokio::test]
async fn a_refusal_is_a_problem_that_names_its_limit() {
    let (_, gateway, _answering) = stage(|setup| {
        setup.document(&policy("RateLimitPolicy", "limits: [{name: one, requests: 1, per: 1h, key: []}]"))
    })
    .await;
    for down in [Down::Http11, Down::H2c] {
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        if call.answer().await.0 == 200 {
            assert_eq!(call.field("ratelimit"), Some(r#""one";r=0;t=3600"#));
        }
        let mut call = caller.ask(Ask::get("/")).await;
        let (status, body) = call.answer().await;
        assert_eq!(status, 429);
        let problem: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
        assert_eq!(problem["violated-policies"], serde_json::json!(["one"]));
        assert_eq!(problem["code"], "limit.rate_exceeded");
        let wait: u64 = call.field("retry-after").and_then(|text| text.parse().ok()).expect("Retry-After");
        assert!(call.field("ratelimit").is_some_and(|told| told == format!("\"one\";r=0;t={wait}")));
    }
}

#[tokio::test]
async fn a_place_is_free_again_when_its_exchange_is_over() {
    let backend = Backend::start(Up::Http1).await;
    let spec = "limits: [{name: one, requests: 1, key: [], status: 429}]";
    let gateway = Setup::before(&backend).document(&policy("ConcurrencyPolicy", spec)).start().await;
    let mut backend = backend;
    for _ in 0..3 {
        let mut first = Caller::connect(&Down::Http11, gateway.address).await;
        let mut held = first.ask(Ask::get("/held")).await;
        let mut served = soon(backend.next()).await;
        let mut second = Caller::connect(&Down::Http11, gateway.address).await;
        let mut refused = second.ask(Ask::get("/")).await;
        assert_eq!(refused.answer().await.0, 429);
        served.begin(200, Framed::Length(2), &[]).await;
        served.send(b"ok").await;
        served.end(&[]).await;
        assert_eq!(held.answer().await.0, 200);
    }
    // And when its client goes away.
    let mut first = Caller::connect(&Down::H2c, gateway.address).await;
    let left = first.ask(Ask::get("/left")).await;
    let served = soon(backend.next()).await;
    left.cancel();
    let _answering = backend.answer_all();
    let free = async {
        loop {
            let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
            let mut call = caller.ask(Ask::get("/")).await;
            if call.answer().await.0 == 200 {
                return;
            }
        }
    };
    soon(free).await;
    drop(served);
}

#[tokio::test]
async fn a_request_waits_for_a_place_in_a_queue_and_leaves_it_with_its_client() {
    let spec = "limits: [{name: one, requests: 1, key: [], queue: {requests: 2, wait: 60s}}]";
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).workers(2).document(&policy("ConcurrencyPolicy", spec)).start().await;
    let mut callers = Vec::new();
    for _ in 0..5 {
        callers.push(Caller::connect(&Down::H2c, gateway.address).await);
    }
    let [first_caller, one, two, three, last_caller] = &mut callers[..] else { unreachable!("five") };
    let mut first = first_caller.ask(Ask::get("/first")).await;
    let served = soon(backend.next()).await;
    // Of three more two may wait: when one is refused, the others do.
    let mut calls = vec![one.ask(Ask::get("/0")).await, two.ask(Ask::get("/1")).await, three.ask(Ask::get("/2")).await];
    let refused = {
        let [a, b, c] = &mut calls[..] else { unreachable!("three") };
        let one = async {
            tokio::select! {
                (status, _) = a.answer() => (0, status),
                (status, _) = b.answer() => (1, status),
                (status, _) = c.answer() => (2, status),
            }
        };
        soon(one).await
    };
    assert_eq!(refused.1, 503);
    let mut waiting: Vec<_> = calls.into_iter().enumerate().filter(|(index, _)| *index != refused.0).collect();
    let (stays, mut call) = waiting.pop().expect("the second");
    waiting.pop().expect("the first").1.cancel();
    served.answer(200, "").await;
    assert_eq!(first.answer().await.0, 200);
    // Whoever left may have been served before that was noticed.
    let mut served = soon(backend.next()).await;
    while served.target != format!("/{stays}") {
        served = soon(backend.next()).await;
    }
    served.answer(200, "").await;
    assert_eq!(call.answer().await.0, 200);
    let mut last = last_caller.ask(Ask::get("/last")).await;
    soon(backend.next()).await.answer(200, "").await;
    assert_eq!(last.answer().await.0, 200);
}

/// A gateway with a quota that is kept in a file of this directory.
async fn with_quota(directory: &Path, requests: u32) -> (Gateway, Answering) {
    let spec = format!("quotas: [{{name: month, requests: {requests}, per: Month, key: []}}]");
    let file = directory.join("state").join("quotas.redb");
    let (_, gateway, answering) = stage(|setup| {
        let setup = setup.workers(2).document(&policy("QuotaPolicy", &spec));
        setup.argument(format!("--quotas={}", file.display()))
    })
    .await;
    (gateway, answering)
}

#[tokio::test]
async fn a_quota_survives_a_stop_exactly_and_a_sudden_end_but_for_its_slack() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (gateway, _answering) = with_quota(directory.path(), 300).await;
    assert_eq!(passing(&gateway, 50).await, 50);
    soon(gateway.running.stop(crate::stage::PATIENCE)).await.expect("it stops");
    let mut used = 50;
    for round in 0..3 {
        let (mut gateway, _answering) = with_quota(directory.path(), 300).await;
        let passed = passing(&gateway, 40).await;
        used += passed;
        gateway.running.signal(Signal::KILL).expect("killed");
        soon(gateway.running.ended()).await.expect("it has ended");
        assert_eq!(passed, 40, "round {round}");
    }
    // Of 300, one in a hundred may have been forgotten each of the three times.
    let (gateway, _answering) = with_quota(directory.path(), 300).await;
    let left = passing(&gateway, 300).await;
    assert!((300 - used..=300 - used + 3 * 3).contains(&left), "{used} used, {left} left");
}

#[tokio::test]
async fn what_a_trusted_proxy_tries_again_counts_once_over_all_workers_and_reloads() {
    let quota = |requests: u32| {
        let spec = format!("quotas: [{{name: month, requests: {requests}, per: Month, key: [], repeats: Free}}]");
        policy("QuotaPolicy", &spec)
    };
    let trusted = "clientAddress: {trustedProxies: [127.0.0.0/8]}";
    let passing = async |gateway: &Gateway, ids: &[&str]| {
        let mut passed = 0;
        for id in ids {
            // Each on a connection of its own, so that all workers take part.
            let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
            let (status, _) = caller.ask(Ask::get("/").with("x-request-id", id)).await.answer().await;
            passed += usize::from(status == 200);
        }
        passed
    };
    let directory = tempfile::tempdir().expect("a directory");
    for (by_proxy, expected) in [(true, (6, 8, 3)), (false, (3, 1, 0))] {
        let file = directory.path().join(format!("{by_proxy}.redb"));
        let backend = Backend::start(Up::Http1).await;
        let setup = Setup::before(&backend).workers(4).argument(format!("--quotas={}", file.display()));
        let setup = if by_proxy { setup.policy(trusted) } else { setup };
        let mut gateway = setup.clone().document(&quota(3)).start().await;
        let _answering = backend.answer_all();
        let first = passing(&gateway, &["a", "b", "a", "b", "a", "b"]).await;
        gateway.reload(&setup.document(&quota(4))).await;
        let second = passing(&gateway, &["a"; 8]).await;
        let third = passing(&gateway, &["c", "d", "c", "e"]).await;
        assert_eq!((first, second, third), expected, "{by_proxy}");
    }
}

#[tokio::test]
async fn a_flood_of_quota_keys_locks_nobody_out_and_resets_nobody_through_a_sudden_end_too() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let begin = async || {
        let file = directory.path().join("quotas.redb");
        let flooded =
            "quotas: [{name: a, requests: 400, per: Month, key: [{header: X-Key}], missing: Skip, maxKeys: 1000}]";
        let other =
            "quotas: [{name: b, requests: 2, per: Month, key: [{header: X-Customer}], missing: Skip, maxKeys: 1000}]";
        let mut other = policy("QuotaPolicy", other);
        other = other.replacen("name: ", "name: another-", 1);
        stage(|setup| {
            let setup = setup.document(&policy("QuotaPolicy", flooded)).document(&other);
            setup.argument(format!("--quotas={}", file.display()))
        })
        .await
    };
    let ask = async |caller: &mut Caller, field: &'static str, key: &str| {
        let mut call = caller.ask(Ask::get("/").with(field, key)).await;
        call.answer().await.0
    };
    let (_, mut gateway, _answering) = begin().await;
    let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
    for _ in 0..400 {
        assert_eq!(ask(&mut caller, "x-key", "much").await, 200);
    }
    assert_eq!(ask(&mut caller, "x-customer", "old").await, 200);
    for key in 0..2_500 {
        assert_eq!(ask(&mut caller, "x-key", &format!("invented {key}")).await, 200, "a new key is let in");
    }
    assert_eq!(ask(&mut caller, "x-key", "much").await, 429, "what has used much keeps its count");
    assert_eq!(ask(&mut caller, "x-customer", "new").await, 200);
    let metrics = gateway.running.metrics().await.expect("metrics");
    let forgotten = metrics.lines().filter(|line| line.starts_with("transept_quota_keys_forgotten_total{"));
    let forgotten: Vec<&str> = forgotten.filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(forgotten, ["1501", "0"], "{metrics}");
    soon(gateway.running.log_line_with("there are more keys than are remembered")).await;
    gateway.running.signal(Signal::KILL).expect("killed");
    soon(gateway.running.ended()).await.expect("it has ended");

    let (_, gateway, _answering) = begin().await;
    let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
    // Of 400, four may have been forgotten.
    let mut left = 0;
    while ask(&mut caller, "x-key", "much").await == 200 {
        left += 1;
    }
    assert!(left <= 4, "{left}");
    assert_eq!(ask(&mut caller, "x-key", "newer").await, 200);
    assert_eq!(ask(&mut caller, "x-customer", "newer").await, 200);
}

#[tokio::test]
async fn quotas_go_on_when_logouts_come_into_their_file() {
    let login = "\
apiVersion: transept.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {name: who}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all}]
  require: [{browser: []}, {}]
  schemes: [{name: browser, login: {issuer: 'https://127.0.0.1:9', clientId: shop, redirectUrl: 'https://site.test/back',
    backChannelLogoutPath: /gone, session: {secret: {name: login, key: seal}}}}]
---
{apiVersion: v1, kind: Secret, metadata: {name: login}, stringData: {seal: planted-0123456789abcdef0123456789}}";
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("quotas.redb");
    let quota = policy("QuotaPolicy", "quotas: [{name: month, requests: 300, per: Month, key: []}]");
    let begin = |setup: Setup| setup.document(&quota).argument(format!("--quotas={}", file.display()));
    let (setup, mut gateway, _answering) = stage(begin).await;
    assert_eq!(passing(&gateway, 20).await, 20);
    gateway.reload(&setup.clone().document(login)).await;
    soon(gateway.running.log_line_with("quotas and logouts are kept")).await;
    assert_eq!(passing(&gateway, 20).await, 20);
    gateway.running.signal(Signal::KILL).expect("killed");
    soon(gateway.running.ended()).await.expect("it has ended");
    let (_, gateway, _answering) = stage(begin).await;
    let left = passing(&gateway, 300).await;
    assert!((260..=263).contains(&left), "{left} left");
}

#[tokio::test]
async fn while_the_file_of_quotas_cannot_be_used_requests_are_refused() {
    let directory = tempfile::tempdir().expect("temporary directory");
    // A directory where the file should be.
    std::fs::create_dir_all(directory.path().join("state").join("quotas.redb")).expect("made");
    let (gateway, answering) = with_quota(directory.path(), 300).await;
    let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let (status, body) = call.answer().await;
    assert_eq!(status, 503);
    assert!(body.contains("limit.unavailable"), "{body}");
    assert!(answering.heard().is_empty());
    assert!(gateway.running.log().contains("quotas cannot be kept"));
}
