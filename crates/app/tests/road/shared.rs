//! Limits that several gateways share through a real server of Redis, and of Valkey where that is installed: together they keep the limit,
//! also while the server is killed, stands still, and comes back; over TLS, and with users and passwords that are wrong.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use transept_testkit::certificates::{Authority, KeyKind, Usage};
use transept_testkit::launch::unused_port;
use transept_testkit::parts::lacks;

use crate::rates::explain;
use crate::stage::{Answering, Ask, Backend, Caller, Down, Gateway, Setup, Up, soon};

const PASSWORD: &str = "planted-password-7391";

/// The servers that are installed. Redis must be where nothing may be missing; few systems have a package of Valkey.
async fn installed() -> Vec<&'static str> {
    let mut found = Vec::new();
    for program in ["redis-server", "valkey-server"] {
        let version = Command::new(program).arg("--version").stdout(Stdio::null()).status().await;
        if version.is_ok_and(|status| status.success()) {
            found.push(program);
        } else if program == "redis-server" {
            lacks(program);
        }
    }
    found
}

/// A running server. It is killed when this is dropped.
struct Redis {
    port: u16,
    child: Child,
}

impl Redis {
    async fn start(program: &'static str, port: u16) -> Redis {
        let port_text = port.to_string();
        Redis::start_with(program, port, &["--port", &port_text, "--requirepass", PASSWORD]).await
    }

    /// One that speaks TLS only, with a certificate for `localhost` out of this directory.
    async fn start_tls(program: &'static str, directory: &Path) -> Redis {
        let file = |name: &str| directory.join(name).to_str().expect("UTF-8").to_owned();
        let port = unused_port();
        let arguments = [
            ["--port", "0"],
            ["--tls-port", &port.to_string()],
            ["--tls-cert-file", &file("server.pem")],
            ["--tls-key-file", &file("server.key")],
            ["--tls-auth-clients", "no"],
            ["--requirepass", PASSWORD],
        ];
        Redis::start_with(program, port, arguments.as_flattened()).await
    }

    async fn start_with(program: &'static str, port: u16, arguments: &[&str]) -> Redis {
        let child = Command::new(program)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("a server of the package of this name");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let open = async {
            let mut pace = tokio::time::interval(std::time::Duration::from_millis(10));
            while TcpStream::connect(address).await.is_err() {
                pace.tick().await;
            }
        };
        soon(open).await;
        Redis { port, child }
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).expect("small"))).expect("running");
        kill_process(id, signal).expect("signalled");
    }

    /// Has the server do something, and waits until it is done.
    async fn ask(&self, words: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("connected");
        stream.write_all(format!("AUTH {PASSWORD}\r\n{words}\r\n").as_bytes()).await.expect("sent");
        let mut lines = BufReader::new(stream).lines();
        for _ in 0..2 {
            let line = soon(lines.next_line()).await.expect("read").expect("a reply");
            assert!(!line.starts_with('-'), "{line}");
        }
    }

    /// What a script gives that runs in one of its databases.
    async fn number(&self, database: u32, script: &str) -> i64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("connected");
        let words = format!("AUTH {PASSWORD}\r\nSELECT {database}\r\nEVAL \"{script}\" 0\r\n");
        stream.write_all(words.as_bytes()).await.expect("sent");
        let mut lines = BufReader::new(stream).lines();
        let mut last = String::new();
        for _ in 0..3 {
            last = soon(lines.next_line()).await.expect("read").expect("a reply");
        }
        last.strip_prefix(':').and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{last}"))
    }

    async fn kill(mut self) -> u16 {
        self.signal(Signal::KILL);
        soon(self.child.wait()).await.expect("it has ended");
        self.port
    }
}

/// A gateway with a limit that is counted in the server on this port.
async fn gateway(port: u16, requests: u32, unavailable: &str) -> (Gateway, Answering) {
    let store = format!("url: 'redis://127.0.0.1:{port}/2', passwordSecret: store, onUnavailable: {unavailable}");
    with_store(&store, requests, PASSWORD, None).await
}

/// A gateway with a limit that is counted in a store, whose password is in the Secret `store`, and its authority in the ConfigMap `ca`.
async fn with_store(store: &str, requests: u32, password: &str, authority: Option<&Authority>) -> (Gateway, Answering) {
    let limit = format!("{{name: all, requests: {requests}, per: 1h, key: []}}");
    with_limit(store, &limit, password, authority).await
}

/// The same with a limit of one's own.
async fn with_limit(store: &str, limit: &str, password: &str, authority: Option<&Authority>) -> (Gateway, Answering) {
    let backend = Backend::start(Up::Http1).await;
    let policy = format!(
        "apiVersion: transept.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{name: shared}}\nspec:\n  \
         targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all}}]\n  \
         store: {{{store}}}\n  limits: [{limit}]"
    );
    let secret =
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: store}}\nstringData: {{password: {password}}}");
    let mut setup = Setup::before(&backend).workers(2).document(&policy).document(&secret);
    if let Some(authority) = authority {
        let pem = serde_json::Value::from(authority.certificate_pem());
        setup = setup
            .document(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca}}\ndata: {{ca.crt: {pem}}}"));
    }
    let gateway = setup.start().await;
    (gateway, backend.answer_all())
}

/// That neither the log nor the status holds the password.
async fn keeps_quiet(gateway: &Gateway, password: &str) {
    let log = gateway.running.log();
    assert!(!log.contains(password), "{log}");
    let told = gateway.running.status().await.expect("a status").to_string();
    assert!(!told.contains(password), "{told}");
}

async fn status(gateway: &Gateway) -> u16 {
    let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    call.answer().await.0
}

async fn until(gateway: &Gateway, wanted: u16) {
    let asking = async { while status(gateway).await != wanted {} };
    soon(asking).await;
}

#[tokio::test]
async fn gateways_together_keep_a_limit() {
    for program in installed().await {
        let redis = Redis::start(program, unused_port()).await;
        let (one, _one_answers) = gateway(redis.port, 100, "Deny").await;
        let (other, _other_answers) = gateway(redis.port, 100, "Deny").await;
        let mut passed = 0;
        for _ in 0..80 {
            for gateway in [&one, &other] {
                match status(gateway).await {
                    200 => passed += 1,
                    status => assert_eq!(status, 429),
                }
            }
        }
        // What was taken in advance and not used in time is lost, never given twice; an hour brings one each 36 seconds.
        assert!((70..=101).contains(&passed), "{passed}");
        for gateway in [&one, &other] {
            keeps_quiet(gateway, PASSWORD).await;
        }
    }
}

#[tokio::test]
async fn an_explanation_asks_the_store_through_a_gateway_and_takes_nothing() {
    for program in installed().await {
        let redis = Redis::start(program, unused_port()).await;
        // Of nine none is taken ahead.
        let (one, _one_answers) = gateway(redis.port, 9, "Local").await;
        let (other, _other_answers) = gateway(redis.port, 9, "Deny").await;
        let says = |gateway: &Gateway, told: &str| {
            for _ in 0..3 {
                let (code, text) = explain(gateway, Some(gateway.running.admin()), &[]);
                assert!(
                    code == Some(0) && text.contains(&format!("in the gateway that runs: {told}")),
                    "{told}: {text}"
                );
                assert!(!text.contains(PASSWORD), "{text}");
            }
        };
        says(&one, "its store says: 9 of 9 left\n");
        for gateway in [&one, &other, &one, &other] {
            assert_eq!(status(gateway).await, 200);
        }
        says(&one, "its store says: 5 of 9 left, as at first in ");
        says(&other, "its store says: 5 of 9 left, as at first in ");
        until(&one, 429).await;
        says(&other, "its store says: 0 of 9 left, room for this request in ");
        let keys = "local key = redis.call('KEYS', '*')[1] redis.call('SET', key, 'junk') return 1";
        assert_eq!(redis.number(2, keys).await, 1);
        says(&one, "its store says nothing of this key, so that it counts by itself: 9 of 9 left\n");
        says(&other, "its store says nothing of this key, so that requests are refused with 503\n");
        redis.kill().await;
        for gateway in [&one, &other] {
            gateway.status_when(|status| status["stores"][0]["state"] == "away").await;
        }
        says(&one, "its store does not answer, so that it counts by itself: 9 of 9 left\n");
        says(&other, "its store does not answer, so that requests are refused with 503\n");
    }
}

#[tokio::test]
async fn a_crowd_that_finds_no_tokens_is_refused_and_not_taken_for_a_server_that_is_away() {
    for program in installed().await {
        let redis = Redis::start(program, unused_port()).await;
        for unavailable in ["Deny", "Allow"] {
            let store =
                format!("url: 'redis://127.0.0.1:{}', passwordSecret: store, onUnavailable: {unavailable}", redis.port);
            let limit = format!("{{name: {unavailable}, requests: 300, per: 1s, key: []}}");
            let (gateway, _answering) = with_limit(&store, &limit, PASSWORD, None).await;
            let address = gateway.address;
            let began = Instant::now();
            let crowd: Vec<_> = (0..100)
                .map(|_| {
                    tokio::spawn(async move {
                        let mut caller = Caller::connect(&Down::Http11, address).await;
                        let (mut passed, mut other) = (0, Vec::new());
                        for _ in 0..40 {
                            match caller.ask(Ask::get("/")).await.answer().await.0 {
                                200 => passed += 1,
                                429 => {}
                                status => other.push(status),
                            }
                        }
                        (passed, other)
                    })
                })
                .collect();
            let (mut passed, mut other) = (0, Vec::new());
            for one in crowd {
                let (more, others) = one.await.expect("it has asked");
                passed += more;
                other.extend(others);
            }
            assert!(other.is_empty(), "{unavailable}: {other:?}");
            // What the limit says, and what was out: nothing, at the beginning.
            let most = 300.0 + 300.0 * began.elapsed().as_secs_f64() + 1.0;
            assert!((300..=most as u32).contains(&passed), "{unavailable}: {passed} of {most}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_is_used_again() {
    for program in installed().await {
        let redis = Redis::start(program, unused_port()).await;
        let (deny, _deny_answers) = gateway(redis.port, 1_000, "Deny").await;
        let (local, _local_answers) = gateway(redis.port, 1_000, "Local").await;
        assert_eq!((status(&deny).await, status(&local).await), (200, 200));
        let port = redis.kill().await;
        let store = format!("redis://127.0.0.1:{port}/2");
        let state = |state: &'static str| {
            let store = store.clone();
            move |status: &Value| status["stores"] == json!([{"store": store, "state": state}])
        };
        // Before any request has found it out.
        deny.status_when(state("away")).await;
        until(&deny, 503).await;
        for _ in 0..20 {
            assert_eq!(status(&local).await, 200);
        }
        let metrics = deny.running.metrics().await.expect("metrics");
        assert!(metrics.contains(&format!("transept_limit_store_up{{store=\"{store}\"}} 0")), "{metrics}");
        let _redis = Redis::start(program, port).await;
        until(&deny, 200).await;
        deny.status_when(state("answers")).await;
        assert!(deny.running.log().contains("the store of shared limits does not answer"));
    }
}

#[tokio::test]
async fn a_server_that_closes_connections_and_forgets_scripts_is_not_away() {
    for program in installed().await {
        let redis = Redis::start(program, unused_port()).await;
        let (deny, _answers) = gateway(redis.port, 20, "Deny").await;
        assert_eq!(status(&deny).await, 200);
        for _ in 0..6 {
            redis.ask("CLIENT KILL TYPE normal").await;
            assert_eq!(status(&deny).await, 200, "{}", deny.running.log());
            redis.ask("SCRIPT FLUSH").await;
            assert_eq!(status(&deny).await, 200, "{}", deny.running.log());
        }
        let mut rest = 0;
        while status(&deny).await == 200 {
            rest += 1;
        }
        assert!(rest <= 7, "13 have passed, and {rest} after them");
        assert!(!deny.running.log().contains("does not answer"), "{}", deny.running.log());
    }
}

/// One that has become a copy of another server takes connections, and fails at every question.
#[tokio::test]
async fn a_server_that_fails_at_every_question_is_not_said_to_answer() {
    for program in installed().await {
        let redis = Redis::start(program, unused_port()).await;
        let (deny, _answers) = gateway(redis.port, 1_000_000, "Deny").await;
        assert_eq!(status(&deny).await, 200);
        redis.ask(&format!("REPLICAOF 127.0.0.1 {}", unused_port())).await;
        until(&deny, 503).await;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            status(&deny).await;
        }
        let log = deny.running.log();
        assert_eq!(log.matches("the store of shared limits does not answer").count(), 1, "{log}");
        assert_eq!(log.matches("the store of shared limits answers").count(), 1, "{log}");
    }
}

#[tokio::test]
async fn a_key_that_holds_something_else_is_of_no_harm_to_others() {
    for program in installed().await {
        for spoil in ["redis.call('SET', key, 'junk')", "redis.call('DEL', key) redis.call('LPUSH', key, 'junk')"] {
            let redis = Redis::start(program, unused_port()).await;
            let store = format!("url: 'redis://127.0.0.1:{}', passwordSecret: store, onUnavailable: Deny", redis.port);
            let limit = "{name: each, requests: 5, per: 1h, key: [{header: X-Key}], missing: Share}";
            let (gateway, _answering) = with_limit(&store, limit, PASSWORD, None).await;
            let ask = async |key: &str| {
                let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
                let mut call = caller.ask(Ask::get("/").with("x-key", key)).await;
                call.answer().await.0
            };
            assert_eq!(ask("theirs").await, 200);
            redis.ask(&format!("EVAL \"local key = redis.call('KEYS', '*')[1] {spoil} return 1\" 0")).await;
            assert_eq!(ask("theirs").await, 503, "nobody knows how much is left");
            for own in ["a", "b", "c"] {
                assert_eq!(ask(own).await, 200, "{spoil}");
            }
            assert_eq!(ask("theirs").await, 503);
            let log = gateway.running.log();
            assert_eq!(log.matches("holds something else than a limit").count(), 1, "{log}");
            assert!(!log.contains("does not answer"), "{log}");
        }
    }
}

#[tokio::test]
async fn a_bucket_that_is_empty_is_empty_in_another_size_too() {
    for program in installed().await {
        let redis = Redis::start(program, unused_port()).await;
        let store = format!("url: 'redis://127.0.0.1:{}', passwordSecret: store, onUnavailable: Deny", redis.port);
        for (burst, passes) in [(5, 5), (8, 0), (3, 0)] {
            let limit = format!("{{name: all, requests: 5, per: 1h, burst: {burst}, key: []}}");
            let (gateway, _answering) = with_limit(&store, &limit, PASSWORD, None).await;
            let mut passed = 0;
            for _ in 0..8 {
                passed += usize::from(status(&gateway).await == 200);
            }
            assert_eq!(passed, passes, "burst {burst}");
        }
    }
}

#[tokio::test]
async fn a_clock_of_the_server_that_is_set_back_holds_nobody_up() {
    for program in installed().await {
        let redis = Redis::start(program, unused_port()).await;
        let store = format!("url: 'redis://127.0.0.1:{}', passwordSecret: store, onUnavailable: Deny", redis.port);
        let limit = "{name: all, requests: 2, per: 1h, key: []}";
        let (gateway, _answering) = with_limit(&store, limit, PASSWORD, None).await;
        assert_eq!([status(&gateway).await, status(&gateway).await], [200, 200]);
        // As if all of it had been ten days later.
        let later = "for _, key in ipairs(redis.call('KEYS', '*')) do \
                     local full, filled, at = string.match(redis.call('GET', key), '^(%S+) (%S+) (%S+)$') \
                     redis.call('SET', key, string.format('%.3f %s %.0f', full + 864000000000, filled, at + 864000000000)) end return 1";
        redis.ask(&format!("EVAL \"{later}\" 0")).await;
        let (other, _other_answering) = with_limit(&store, limit, PASSWORD, None).await;
        let mut caller = Caller::connect(&Down::Http11, other.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        assert_eq!(call.answer().await.0, 429);
        let wait = call.field("retry-after").and_then(|text| text.parse::<u64>().ok());
        assert!(wait.is_some_and(|wait| (1_700..=1_800).contains(&wait)), "{wait:?}");
        // Where it is empty, time goes on for it all the same.
        let limit = "{name: quick, requests: 1, per: 1s, key: []}";
        let (gateway, _answering) = with_limit(&store, limit, PASSWORD, None).await;
        assert_eq!(status(&gateway).await, 200);
        redis.ask(&format!("EVAL \"{later}\" 0")).await;
        until(&gateway, 429).await;
        until(&gateway, 200).await;
    }
}

#[tokio::test]
async fn what_is_left_is_never_told_to_be_more_again() {
    for program in installed().await {
        let redis = Redis::start(program, unused_port()).await;
        let store = format!("url: 'redis://127.0.0.1:{}', passwordSecret: store, onUnavailable: Deny", redis.port);
        let limit = "{name: day, requests: 100, per: 24h, key: []}";
        let (gateway, _answering) = with_limit(&store, limit, PASSWORD, None).await;
        let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
        let mut before = 100;
        let status = loop {
            let mut call = caller.ask(Ask::get("/")).await;
            let status = call.answer().await.0;
            let told =
                call.field("ratelimit").and_then(|text| text.split(";r=").nth(1)?.split(';').next()?.parse().ok());
            let left: u32 = told.unwrap_or_else(|| panic!("{:?}", call.field("ratelimit")));
            assert!(left <= before, "{left} after {before}");
            before = left;
            if status != 200 {
                break status;
            }
        };
        assert_eq!((status, before), (429, 0));
    }
}

/// What a store holds for a key is good for as long as the bucket takes to fill, in the database that the URL names.
#[tokio::test]
async fn what_is_stored_ends_by_itself_and_is_in_its_own_database() {
    const COUNT: &str = "return #redis.call('KEYS', 'transept:*')";
    let least = |of: &str| {
        format!(
            "local found = -9 for _, key in ipairs(redis.call('KEYS', 'transept:*')) do local left = redis.call('PTTL', key) \
             if found == -9 or left {of} found then found = left end end return found"
        )
    };
    for program in installed().await {
        let redis = Redis::start(program, unused_port()).await;
        let store = |database: u32| {
            format!("url: 'redis://127.0.0.1:{}/{database}', passwordSecret: store, onUnavailable: Deny", redis.port)
        };
        let limit =
            "{name: each, requests: 10, per: 10s, key: [{header: X-Key}], missing: Share, responseCost: X-Cost}";
        let (one, _one) = with_limit(&store(1), limit, PASSWORD, None).await;
        assert_eq!(status(&one).await, 200);
        assert_eq!((redis.number(1, COUNT).await, redis.number(0, COUNT).await), (1, 0));
        let (shortest, longest) = (redis.number(1, &least("<")).await, redis.number(1, &least(">")).await);
        assert!(shortest > 0 && longest <= 11_000, "{shortest} to {longest} ms");
        // Another gateway, or the same one with another URL, counts elsewhere.
        let (other, _other) = with_limit(&store(3), limit, PASSWORD, None).await;
        assert_eq!(status(&other).await, 200);
        assert_eq!((redis.number(1, COUNT).await, redis.number(3, COUNT).await), (1, 1));
    }
}

#[tokio::test]
async fn what_one_limit_refuses_is_not_taken_from_another() {
    for program in installed().await {
        let redis = Redis::start(program, unused_port()).await;
        let store = format!("url: 'redis://127.0.0.1:{}', passwordSecret: store, onUnavailable: Deny", redis.port);
        let limits = "{name: each, requests: 1, per: 1h, key: [{header: X-Key}], missing: Share}, {name: all, requests: 30, per: 1h, key: []}";
        let (gateway, _answering) = with_limit(&store, limits, PASSWORD, None).await;
        let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
        let mut passed = 0;
        // One goes on and on, and others come between.
        for round in 0..200 {
            let key = if round % 10 == 0 { format!("k{round}") } else { "greedy".to_owned() };
            let status = caller.ask(Ask::get("/").with("x-key", &key)).await.answer().await.0;
            passed += usize::from(status == 200);
        }
        assert_eq!(passed, 21);
        let mut more = 0;
        for round in 0..20 {
            let asked = caller.ask(Ask::get("/").with("x-key", &format!("m{round}"))).await.answer().await.0;
            more += usize::from(asked == 200);
        }
        assert!((6..=9).contains(&more), "{more} of 9 that are left");
    }
}

#[tokio::test]
async fn a_debt_that_nobody_lives_to_pay_is_told_and_does_no_harm() {
    for program in installed().await {
        let redis = Redis::start(program, unused_port()).await;
        let store = format!("url: 'redis://127.0.0.1:{}', passwordSecret: store, onUnavailable: Deny", redis.port);
        // Each response costs as many tokens as fill in three million years.
        let limit = "{name: each, requests: 1, per: 24h, burst: 3, key: [{header: X-Key}], missing: Share, \
                     responseCostExpression: '999999999'}";
        let (gateway, _answering) = with_limit(&store, limit, PASSWORD, None).await;
        let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
        for key in ["a", "b"] {
            // What a response has cost is on its way to the store when its client asks again.
            let wait = loop {
                let mut call = caller.ask(Ask::get("/").with("x-key", key)).await;
                match call.answer().await.0 {
                    200 => {}
                    429 => break call.field("retry-after").and_then(|text| text.parse::<u64>().ok()),
                    other => panic!("{other}"),
                }
            };
            assert!(wait.is_some_and(|wait| (300_000_000..400_000_000).contains(&wait)), "{wait:?}");
        }
        // Also one that is there already.
        let all = "for _, key in ipairs(redis.call('KEYS', '*')) do \
                   redis.call('SET', key, '990000000000000000000.000 259200000000.000') end return 1";
        redis.ask(&format!("EVAL \"{all}\" 0")).await;
        let (other, _other_answering) = with_limit(&store, limit, PASSWORD, None).await;
        let mut caller = Caller::connect(&Down::Http11, other.address).await;
        let mut call = caller.ask(Ask::get("/").with("x-key", "a")).await;
        assert_eq!(call.answer().await.0, 429);
        let wait = call.field("retry-after").and_then(|text| text.parse::<u64>().ok());
        assert!(wait.is_some_and(|wait| wait > 300_000_000), "{wait:?}");
        for gateway in [&gateway, &other] {
            assert!(!gateway.running.log().contains("does not answer"), "{}", gateway.running.log());
        }
    }
}

#[tokio::test]
async fn a_server_that_stands_still_holds_nobody_up_for_long() {
    for program in installed().await {
        let redis = Redis::start(program, unused_port()).await;
        let (deny, _deny_answers) = gateway(redis.port, 1_000, "Deny").await;
        let (local, _local_answers) = gateway(redis.port, 1_000, "Local").await;
        assert_eq!((status(&deny).await, status(&local).await), (200, 200));
        redis.signal(Signal::STOP);
        until(&deny, 503).await;
        for _ in 0..20 {
            assert_eq!(status(&local).await, 200);
        }
        redis.signal(Signal::CONT);
        until(&deny, 200).await;
    }
}

#[tokio::test]
async fn a_store_is_spoken_to_over_tls_and_only_where_its_authority_is_trusted() {
    for program in installed().await {
        let authority = Authority::new(KeyKind::Ecdsa).expect("an authority");
        let identity = authority.issue(Usage::Server, &["localhost"]).expect("a certificate");
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::write(directory.path().join("server.pem"), &identity.certificate_pem).expect("write");
        std::fs::write(directory.path().join("server.key"), &identity.key_pem).expect("write");
        let redis = Redis::start_tls(program, directory.path()).await;
        let store = format!(
            "url: 'rediss://localhost:{}', passwordSecret: store, caConfigMap: ca, onUnavailable: Deny",
            redis.port
        );
        let (one, _one_answers) = with_store(&store, 3, PASSWORD, Some(&authority)).await;
        let mut statuses = Vec::new();
        for _ in 0..5 {
            statuses.push(status(&one).await);
        }
        assert_eq!(statuses, [200, 200, 200, 429, 429]);
        keeps_quiet(&one, PASSWORD).await;
        let stranger = Authority::new(KeyKind::Ecdsa).expect("an authority");
        let (other, _other_answers) = with_store(&store, 3, PASSWORD, Some(&stranger)).await;
        until(&other, 503).await;
        other.running.log_line_with("the store of shared limits does not answer").await;
        assert!(other.running.log().contains("invalid peer certificate"), "{}", other.running.log());
        // In clear text it is no server at all.
        let store = format!("url: 'redis://127.0.0.1:{}', passwordSecret: store, onUnavailable: Deny", redis.port);
        let (plain, _plain_answers) = with_store(&store, 3, PASSWORD, None).await;
        until(&plain, 503).await;
        keeps_quiet(&plain, PASSWORD).await;
    }
}

#[tokio::test]
async fn who_a_store_does_not_let_in_is_told_why_and_no_password() {
    for program in installed().await {
        let port = unused_port();
        let port_text = port.to_string();
        let secret = format!(">{PASSWORD}");
        let user = ["--user", "limits", "on", &secret, "~transept:*", "+@all"];
        let arguments = [&["--port", &port_text, "--requirepass", "another-one"][..], &user].concat();
        let _redis = Redis::start_with(program, port, &arguments).await;
        let url = format!("url: 'redis://127.0.0.1:{port}', onUnavailable: Deny");
        let as_limits = format!("{url}, username: limits, passwordSecret: store");
        let (right, _right_answers) = with_store(&as_limits, 9, PASSWORD, None).await;
        assert_eq!(status(&right).await, 200);
        let wrong = "planted-wrong-5512";
        for (store, password, said) in [
            (&as_limits, wrong, "WRONGPASS, user and password are not valid there"),
            (&format!("{url}, passwordSecret: store"), wrong, "WRONGPASS"),
            (&url, wrong, "NOAUTH, it asks for a password: write `passwordSecret`"),
        ] {
            let (gateway, _answers) = with_store(store, 9, password, None).await;
            until(&gateway, 503).await;
            gateway.running.log_line_with(said).await;
            keeps_quiet(&gateway, wrong).await;
            keeps_quiet(&gateway, PASSWORD).await;
        }
    }
}
