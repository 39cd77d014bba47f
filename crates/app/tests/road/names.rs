//! Backends behind DNS names: addresses follow what the name server says, and what was good outlives its failures.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use transept_testkit::dns::{Family, NameServer, Reply, Transport};
use transept_testkit::echo::{Pod, Port, RequestLog, Serving, serve};
use transept_testkit::launch::unused_address;

use crate::stage::{Ask, Caller, Gateway, Setup, soon};

const NAME: &str = "app.shop.test";
/// A time to live after which nothing is asked again while a test runs.
const LONG: u32 = 3600;

/// A backend that says its name.
async fn pod(name: &str, at: SocketAddr) -> Serving {
    let pod = Pod::new(name, "default", RequestLog::default());
    serve(at, Port::Http1, &pod).await.expect("a backend")
}

/// Two backends on one port, as the addresses of one name are.
async fn pods() -> (Serving, Serving) {
    let one = pod("one", unused_address().expect("an address")).await;
    let host = unused_address().expect("an address").ip();
    let two = pod("two", (host, one.address.port()).into()).await;
    (one, two)
}

fn at(pods: &[&Serving], ttl: u32) -> Reply {
    Reply::Addresses(pods.iter().map(|pod| pod.address.ip()).collect(), ttl)
}

/// The name of the backend that answers.
async fn who_answers(gateway: &Gateway) -> String {
    let (status, body) = Caller::http11(gateway.address).await.get("/").await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    body["pod"].as_str().expect("a name").to_owned()
}

/// What the status says about a name.
fn told<'s>(status: &'s Value, name: &str) -> &'s Value {
    let names = status["names"].as_array().expect("a list");
    names.iter().find(|one| one["name"] == name).unwrap_or(&Value::Null)
}

/// Waits until a name resolves to just these backends.
async fn resolved(gateway: &Gateway, name: &str, pods: &[&Serving]) {
    let mut addresses: Vec<IpAddr> = pods.iter().map(|pod| pod.address.ip()).collect();
    addresses.sort_unstable();
    let wanted: Vec<Value> = addresses.iter().map(|address| address.to_string().into()).collect();
    let good = |one: &Value| one["addresses"].as_array() == Some(&wanted) && one["error"].is_null();
    gateway.status_when(|status| good(told(status, name))).await;
}

/// Waits until a name does not resolve for this reason.
async fn failing(gateway: &Gateway, name: &str, why: &str) -> Value {
    let bad = |one: &Value| one["error"].as_str().is_some_and(|error| error.contains(why));
    gateway.status_when(|status| bad(told(status, name))).await
}

#[tokio::test]
async fn the_time_to_live_is_followed() {
    let ((one, two), server) = (pods().await, NameServer::start().await.expect("a name server"));
    server.say(NAME, at(&[&one], 1));
    server.say("calm.shop.test", at(&[&one], LONG));
    let port = one.address.port();
    let gateway = Setup::named(&server).name(NAME, port, 1).name("calm.shop.test", port, 0).start().await;
    resolved(&gateway, NAME, &[&one]).await;
    assert_eq!(who_answers(&gateway).await, "one");

    server.say(NAME, at(&[&two], 1));
    resolved(&gateway, NAME, &[&two]).await;
    for _ in 0..5 {
        assert_eq!(who_answers(&gateway).await, "two");
    }
    let asked = soon(server.asked(NAME, Family::A, 3)).await;
    for pair in asked.windows(2) {
        let pause = pair[1].at - pair[0].at;
        assert!(pause >= Duration::from_millis(990), "asked again after {pause:?}");
    }
    // Once, or a second time because the answer to the first was late.
    assert!(server.questions("calm.shop.test", Family::A).len() < 3);
}

#[tokio::test]
async fn a_time_to_live_of_zero_is_no_loop() {
    let ((one, _two), server) = (pods().await, NameServer::start().await.expect("a name server"));
    server.say(NAME, at(&[&one], 0));
    let gateway = Setup::named(&server).name(NAME, one.address.port(), 1).start().await;
    let asked = soon(server.asked(NAME, Family::A, 3)).await;
    for pair in asked.windows(2) {
        let pause = pair[1].at - pair[0].at;
        assert!(pause >= Duration::from_millis(990), "asked again after {pause:?}");
    }
    assert_eq!(who_answers(&gateway).await, "one");
}

/// A name that resolved once, then gets this reply, keeps its address; when the server knows it again, the new one is used.
async fn survives(reply: Reply, why: &str) {
    let ((one, two), server) = (pods().await, NameServer::start().await.expect("a name server"));
    server.say(NAME, at(&[&one], 1));
    let gateway = Setup::named(&server).name(NAME, one.address.port(), 1).start().await;
    resolved(&gateway, NAME, &[&one]).await;

    server.say(NAME, reply);
    let status = failing(&gateway, NAME, why).await;
    assert_eq!(told(&status, NAME)["addresses"], serde_json::json!([one.address.ip().to_string()]));
    assert_eq!(who_answers(&gateway).await, "one");
    let metrics = gateway.running.metrics().await.expect("metrics");
    assert!(metrics.contains("transept_dns_names_unresolved 1\n"), "{metrics}");
    soon(gateway.running.log_line_with("what was known stays in use")).await;

    server.say(NAME, at(&[&two], 1));
    resolved(&gateway, NAME, &[&two]).await;
    assert_eq!(who_answers(&gateway).await, "two");
    soon(gateway.running.log_line_with("the name resolves again")).await;
    let metrics = gateway.running.metrics().await.expect("metrics");
    assert!(metrics.contains("transept_dns_names_unresolved 0\n"), "{metrics}");
}

#[tokio::test]
async fn what_was_good_outlives_a_server_that_fails() {
    survives(Reply::Failure, "Server Failure").await;
}

/// Though the zone allows to remember for an hour that there is no such name.
#[tokio::test]
async fn what_was_good_outlives_a_name_that_is_gone() {
    survives(Reply::NoSuchName, "there is no such name").await;
}

#[tokio::test]
async fn what_was_good_outlives_an_empty_answer() {
    survives(Reply::Empty, "the name has no address").await;
}

#[tokio::test]
async fn the_first_request_waits_for_the_first_answer() {
    let ((one, _two), server) = (pods().await, NameServer::start().await.expect("a name server"));
    server.say(NAME, Reply::Later);
    let gateway = Setup::named(&server).name(NAME, one.address.port(), 1).start().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    soon(server.asked(NAME, Family::A, 1)).await;
    server.say(NAME, at(&[&one], LONG));
    assert_eq!(call.answer().await.0, 200);
}

#[tokio::test]
async fn nobody_waits_for_an_answer_for_longer_than_connecting_may_take() {
    let (one, server) = (pods().await.0, NameServer::start().await.expect("a name server"));
    server.say(NAME, Reply::Later);
    let setup = Setup::named(&server).name(NAME, one.address.port(), 1).backend("connectTimeout: 300ms");
    let gateway = setup.start().await;
    let mut caller = Caller::http11(gateway.address).await;
    let began = std::time::Instant::now();
    let (status, body) = caller.get("/").await;
    let body = String::from_utf8_lossy(&body);
    assert!(status == 503 && body.contains("upstream.dns_failed"), "{status} {body}");
    assert!(began.elapsed() >= Duration::from_millis(300), "it has waited");
}

#[tokio::test]
async fn a_name_that_never_resolved_is_told_to_clients() {
    let ((one, _two), server) = (pods().await, NameServer::start().await.expect("a name server"));
    let gateway = Setup::named(&server).name(NAME, one.address.port(), 1).start().await;
    failing(&gateway, NAME, "there is no such name").await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    let (status, body) = call.answer().await;
    assert_eq!(status, 503);
    assert_eq!(call.field("proxy-status"), Some("transept; error=dns_error"));
    let problem: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(problem["code"], "upstream.dns_failed");
    drop(call);

    server.say(NAME, at(&[&one], LONG));
    resolved(&gateway, NAME, &[&one]).await;
    assert_eq!(who_answers(&gateway).await, "one");
}

#[tokio::test]
async fn names_share_requests_by_their_weights() {
    let ((one, two), server) = (pods().await, NameServer::start().await.expect("a name server"));
    let three = pod("three", (unused_address().expect("an address").ip(), one.address.port()).into()).await;
    server.say("heavy.shop.test", at(&[&one], LONG));
    server.say("light.shop.test", at(&[&two, &three], LONG));
    let port = one.address.port();
    let setup = Setup::named(&server).name("heavy.shop.test", port, 3).name("light.shop.test", port, 1);
    let gateway = setup.start().await;
    resolved(&gateway, "heavy.shop.test", &[&one]).await;
    resolved(&gateway, "light.shop.test", &[&two, &three]).await;
    let mut caller = Caller::http11(gateway.address).await;
    let (mut heavy, mut light) = (0, [0, 0]);
    for _ in 0..600 {
        let body: Value = serde_json::from_slice(&caller.get("/").await.1).expect("JSON");
        match body["pod"].as_str() {
            Some("one") => heavy += 1,
            Some("two") => light[0] += 1,
            _ => light[1] += 1,
        }
    }
    // Expected are 450 and twice 75; the bounds are five deviations away.
    assert!((395..=505).contains(&heavy), "{heavy} {light:?}");
    assert!(light.iter().all(|count| (34..=116).contains(count)), "{heavy} {light:?}");
}

#[tokio::test]
async fn a_reload_keeps_what_was_resolved() {
    let ((one, _two), server) = (pods().await, NameServer::start().await.expect("a name server"));
    server.say(NAME, at(&[&one], LONG));
    let setup = Setup::named(&server).name(NAME, one.address.port(), 1);
    let mut gateway = setup.start().await;
    resolved(&gateway, NAME, &[&one]).await;

    // Nobody knows the name any more, and the backend is another one now: with other settings, and a name more.
    server.say(NAME, Reply::Failure);
    gateway.reload(&setup.clone().backend("connectTimeout: 3s").name("late.shop.test", 80, 1)).await;
    for _ in 0..5 {
        assert_eq!(who_answers(&gateway).await, "one");
    }
    failing(&gateway, "late.shop.test", "there is no such name").await;
    assert_eq!(who_answers(&gateway).await, "one");

    // What belongs to another name does not stay in use for ever.
    gateway.reload(&setup.nameless().name("late.shop.test", 80, 1)).await;
    failing(&gateway, "late.shop.test", "there is no such name").await;
    assert_eq!(Caller::http11(gateway.address).await.get("/").await.0, 503);
}

#[tokio::test]
async fn both_families_are_used() {
    let one = pod("one", unused_address().expect("an address")).await;
    let six = pod("six", (Ipv6Addr::LOCALHOST, one.address.port()).into()).await;
    let server = NameServer::start().await.expect("a name server");
    server.say(NAME, at(&[&one, &six], 1));
    let gateway = Setup::named(&server).name(NAME, one.address.port(), 1).start().await;
    resolved(&gateway, NAME, &[&one, &six]).await;
    for wanted in ["one", "six"] {
        soon(async { while who_answers(&gateway).await != wanted {} }).await;
    }
    server.say(NAME, at(&[&six], LONG));
    resolved(&gateway, NAME, &[&six]).await;
    for _ in 0..5 {
        assert_eq!(who_answers(&gateway).await, "six");
    }
}

#[tokio::test]
async fn a_long_answer_comes_over_tcp_and_is_bounded() {
    let server = NameServer::start().await.expect("a name server");
    let many = (1..=300u32).map(|number| IpAddr::from((0x7f40_0000 + number).to_be_bytes())).collect();
    server.say(NAME, Reply::Addresses(many, LONG));
    let gateway = Setup::named(&server).name(NAME, 80, 1).start().await;
    let count = |status: &Value| told(status, NAME)["addresses"].as_array().map_or(0, Vec::len);
    let status = gateway.status_when(|status| count(status) > 0).await;
    assert_eq!(count(&status), 256);
    let asked = server.questions(NAME, Family::A);
    assert!(asked.iter().any(|question| question.transport == Transport::Tcp), "{asked:?}");
}

#[tokio::test]
async fn another_name_server_answers_for_one_that_is_gone() {
    let ((one, _two), server) = (pods().await, NameServer::start().await.expect("a name server"));
    let gone = NameServer::start().await.expect("a name server");
    let setup = Setup::named(&gone).argument(format!("--resolver={}", server.address()));
    drop(gone);
    server.say(NAME, at(&[&one], LONG));
    let gateway = setup.name(NAME, one.address.port(), 1).start().await;
    resolved(&gateway, NAME, &[&one]).await;
    assert_eq!(who_answers(&gateway).await, "one");
}
