//! `TrafficPolicy` on the road: who is next, who is left alone and tried again, who is asked how he is, and what is too much.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::stage::{Answering, Ask, Backend, Caller, Down, Framed, Gateway, Nobody, Served, Setup, Up, soon};
use crate::tunnels::{AGREED, websocket};

/// A TrafficPolicy for the backend, with these lines in its spec.
fn policy(lines: &[&str]) -> String {
    format!(
        "\
apiVersion: transept.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: app}}
spec:
  targetRefs: [{{group: transept.dev, kind: Backend, name: app}}]
  {}",
        lines.join("\n  ")
    )
}

/// A connection that had gone stale is replaced without being counted, also where retries are configured and none is left.
#[tokio::test]
async fn a_stale_connection_takes_nothing_from_the_budget() {
    let backend = Backend::start(Up::Http1).await;
    let retries = policy(&["retries: {attempts: 1, budget: {percent: 0, perSecond: 0}}"]);
    let (gateway, mut backend) = (Setup::before(&backend).document(&retries).start().await, backend);
    let mut caller = Caller::http11(gateway.address).await;
    for _ in 0..3 {
        let mut call = caller.ask(Ask::get("/first")).await;
        backend.next().await.answer(200, "").await;
        assert_eq!(call.answer().await.0, 200);
        drop(call);
        let mut call = caller.ask(Ask::get("/")).await;
        backend.next().await.reset();
        backend.next().await.answer(200, "fine").await;
        assert_eq!(soon(call.answer()).await, (200, "fine".to_owned()));
    }
}

/// An endpoint that answers everything with its status of the moment and its name, which is its address.
pub(crate) struct Actor {
    pub(crate) address: SocketAddr,
    status: Arc<AtomicU16>,
    answering: Answering,
}

impl Actor {
    pub(crate) async fn start() -> Actor {
        let backend = Backend::start(Up::Http1).await;
        let address = backend.address;
        let status = Arc::new(AtomicU16::new(200));
        let says = Arc::clone(&status);
        let answering = backend.answer_with(move |served| {
            let status = says.load(Ordering::SeqCst);
            async move { served.answer(status, &address.to_string()).await }
        });
        Actor { address, status, answering }
    }

    pub(crate) fn says(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    pub(crate) fn name(&self) -> String {
        self.address.to_string()
    }

    /// How many requests it has had, health checks apart.
    pub(crate) fn heard(&self) -> usize {
        self.answering.heard().iter().filter(|line| !line.ends_with("/health")).count()
    }
}

fn before(actors: &[&Actor], lines: &[&str]) -> Setup {
    let endpoints: Vec<SocketAddr> = actors.iter().map(|actor| actor.address).collect();
    Setup::of(&endpoints, Up::Http1).document(&policy(lines))
}

async fn get(caller: &mut Caller, user: &str) -> (u16, String) {
    let mut call = caller.ask(Ask::get("/").with("x-user", user)).await;
    call.answer().await
}

/// The statuses of so many requests.
async fn statuses(gateway: &Gateway, count: usize) -> Vec<u16> {
    let mut caller = Caller::http11(gateway.address).await;
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(get(&mut caller, "ada").await.0);
    }
    statuses
}

const HOURS: &str = "outlierDetection: {consecutiveErrors: 3, baseEjectionTime: 1h, maxEjectionTime: 2h}";
const IN_TURN: &str = "balancer: {algorithm: RoundRobin}";

#[tokio::test]
async fn an_endpoint_that_fails_is_left_alone_and_a_reload_forgets_nothing() {
    let (good, bad) = (Actor::start().await, Actor::start().await);
    bad.says(500);
    let setup = before(&[&good, &bad], &[HOURS, IN_TURN]);
    let mut gateway = setup.start().await;
    let failures = statuses(&gateway, 20).await.iter().filter(|status| **status == 500).count();
    assert_eq!((failures, bad.heard()), (3, 3));
    let metrics = gateway.running.metrics().await.expect("metrics");
    assert!(metrics.contains("transept_endpoint_ejections_total{backend=\"default/app\"} 1\n"), "{metrics}");
    assert!(metrics.contains("transept_endpoints{backend=\"default/app\",state=\"ejected\"} 1\n"), "{metrics}");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_transept"));
    command.args(["explain", "GET", &format!("http://{}/", gateway.address), "-f"]).arg(gateway.file());
    let explained =
        command.arg(format!("--running={}", gateway.running.admin())).env_clear().output().expect("it starts");
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    for (actor, state) in [(&good, "serving"), (&bad, "ejected")] {
        let line = format!("{} is {state} in the process that runs\n", actor.address);
        assert!(explained.contains(&line), "{line}{explained}");
    }
    gateway.reload(&setup.clone().rule("timeouts: {request: 9s}")).await;
    assert_eq!(statuses(&gateway, 20).await, [200; 20]);
    assert_eq!(bad.heard(), 3);
}

#[tokio::test]
async fn connections_that_fail_count_too() {
    let (good, nobody) = (Actor::start().await, Nobody::here());
    let setup = Setup::of(&[good.address, nobody.address], Up::Http1);
    let gateway = setup.document(&policy(&[HOURS, IN_TURN])).start().await;
    // The client notices nothing: what could not be sent is sent elsewhere.
    assert_eq!(statuses(&gateway, 20).await, [200; 20]);
    let metrics = gateway.running.metrics().await.expect("metrics");
    let refused =
        "transept_upstream_connect_failures_total{backend=\"default/app\",reason=\"upstream.connection_refused\"} 3\n";
    assert!(metrics.contains(refused), "{metrics}");
}

#[tokio::test]
async fn one_request_finds_out_that_an_endpoint_is_well_again() {
    let (good, bad) = (Actor::start().await, Actor::start().await);
    bad.says(500);
    let outliers = "outlierDetection: {consecutiveErrors: 3, baseEjectionTime: 100ms, maxEjectionTime: 200ms}";
    let gateway = before(&[&good, &bad], &[outliers, IN_TURN]).start().await;
    let mut caller = Caller::http11(gateway.address).await;
    // Ejected, and the probe fails.
    soon(async {
        while bad.heard() < 4 {
            get(&mut caller, "ada").await;
        }
    })
    .await;
    bad.says(200);
    soon(async { while get(&mut caller, "ada").await.1 != bad.name() {} }).await;
    let places: BTreeSet<String> = [get(&mut caller, "ada").await.1, get(&mut caller, "ada").await.1].into();
    assert_eq!(places, [good.name(), bad.name()].into());
}

/// A response that has begun is proof enough that its endpoint is back, however long it goes on.
#[tokio::test]
async fn who_could_not_be_reached_is_back_with_the_first_head() {
    let (good, away) = (Actor::start().await, Nobody::here());
    let address = away.address;
    let gateway = Setup::of(&[good.address, address], Up::Http1).start().await;
    assert_eq!(statuses(&gateway, 30).await, [200; 30]);
    soon(gateway.running.log_line_with("an endpoint cannot be reached")).await;
    drop(away);
    let _endless = Backend::after(address, Up::Http1).await.answer_with(|mut served| async move {
        served.begin(200, Framed::Open, &[("x-endless", "yes")]).await;
        served.sees_the_end().await;
    });
    let mut callers = Vec::new();
    for _ in 0..2 {
        soon(async {
            loop {
                let mut caller = Caller::http11(gateway.address).await;
                let mut call = caller.ask(Ask::get("/")).await;
                call.head().await;
                if call.field("x-endless").is_some() {
                    break callers.push(caller);
                }
            }
        })
        .await;
        soon(gateway.running.log_line_with("an endpoint has recovered")).await;
    }
}

/// Neither a client that goes away nor a limit of our own is the fault of an endpoint.
#[tokio::test]
async fn what_others_did_is_no_failure() {
    let (mut one, mut other) = (Backend::start(Up::Http1).await, Backend::start(Up::Http1).await);
    let outliers = "outlierDetection: {consecutiveErrors: 1, baseEjectionTime: 1h, maxEjectionTime: 2h}";
    let setup = Setup::of(&[one.address, other.address], Up::Http1);
    let gateway = setup.document(&policy(&[outliers, IN_TURN, "limits: {requests: 1}"])).start().await;
    for _ in 0..4 {
        let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
        let mut second = Caller::http11(gateway.address).await;
        let call = caller.ask(Ask::get("/")).await;
        let mut served: Served = tokio::select! { served = one.next() => served, served = other.next() => served };
        assert_eq!(second.get("/").await.0, 503);
        call.cancel();
        served.sees_the_end().await;
    }
    let metrics = gateway.running.metrics().await.expect("metrics");
    assert!(!metrics.contains("transept_endpoint_ejections_total{"), "{metrics}");
}

#[tokio::test]
async fn what_is_too_much_is_refused_at_once() {
    let mut backend = Backend::start(Up::Http1).await;
    let retries = "retries: {attempts: 3, codes: [503]}";
    let setup = Setup::before(&backend).document(&policy(&["limits: {requests: 1}", retries]));
    let gateway = setup.workers(2).start().await;
    // Who is slow to send what is read before the backend is asked takes up nothing.
    let mut slow = Caller::http11(gateway.address).await;
    let mut half = slow.ask(Ask::new("PUT", "/slow").framed(Framed::Length(4))).await;
    half.send(b"ha").await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/first")).await;
    let served = backend.next().await;
    let mut other = Caller::http11(gateway.address).await;
    for _ in 0..3 {
        let mut refused = other.ask(Ask::get("/second")).await;
        let (status, body) = refused.answer().await;
        assert_eq!((status, body.contains("backend.overflow")), (503, true), "{body}");
        assert_eq!(refused.field("proxy-status"), Some("transept; error=connection_limit_reached"));
    }
    let metrics = gateway.running.metrics().await.expect("metrics");
    let left = "transept_backend_limit_remaining{backend=\"default/app\",resource=\"requests\"} 0\n";
    assert!(metrics.contains(left), "{metrics}");
    served.answer(200, "first").await;
    assert_eq!(call.answer().await, (200, "first".to_owned()));
    drop(call);
    let _answering = backend.answer_all();
    soon(async { while other.get("/third").await.0 != 200 {} }).await;
}

#[tokio::test]
async fn who_belongs_together_finds_the_same_endpoint() {
    for balancer in ["RingHash", "Maglev"] {
        let actors = [Actor::start().await, Actor::start().await, Actor::start().await];
        let line = format!("balancer: {{algorithm: {balancer}, hashOn: [{{header: x-user}}]}}");
        let gateway = before(&actors.each_ref(), &[&line]).workers(2).start().await;
        let mut places = BTreeSet::new();
        for user in 0..40 {
            let user = format!("user-{user}");
            let mut callers = [Caller::http11(gateway.address).await, Caller::http11(gateway.address).await];
            let first = get(&mut callers[0], &user).await.1;
            for caller in &mut callers {
                assert_eq!(get(caller, &user).await.1, first, "{balancer} {user}");
            }
            places.insert(first);
        }
        assert_eq!(places.len(), 3, "{balancer}");
    }
}

#[tokio::test]
async fn the_backend_says_what_is_tried_again() {
    let mut backend = Backend::start(Up::Http1).await;
    let retries = "retries: {attempts: 2, codes: [503], perTryTimeout: 2s, backoff: {base: 1ms}}";
    let gateway = Setup::before(&backend).document(&policy(&[retries])).start().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::get("/")).await;
    backend.next().await.answer(503, "no").await;
    let mut silent = backend.next().await;
    backend.next().await.answer(200, "third").await;
    assert_eq!(call.answer().await, (200, "third".to_owned()));
    silent.sees_the_end().await;
    drop(call);
    let mut call = caller.ask(Ask::post("/", Framed::Length(2))).await;
    call.send(b"me").await;
    let mut served = backend.next().await;
    served.whole().await;
    served.answer(503, "once").await;
    assert_eq!(call.answer().await, (503, "once".to_owned()));
}

/// Waits until both endpoints have been asked.
pub(crate) async fn one_is_well_and_one_is_not(gateway: &Gateway) {
    soon(gateway.running.log_line_with("an endpoint is well")).await;
    soon(gateway.running.log_line_with("an endpoint is unwell")).await;
}

#[tokio::test]
async fn an_endpoint_that_says_it_is_unwell_gets_nothing() {
    let (good, bad) = (Actor::start().await, Actor::start().await);
    bad.says(500);
    let check = "healthCheck: {path: /health, interval: 100ms, healthyThreshold: 1}";
    let gateway = before(&[&good, &bad], &[check, IN_TURN]).start().await;
    one_is_well_and_one_is_not(&gateway).await;
    assert_eq!(statuses(&gateway, 10).await, [200; 10]);
    assert_eq!((good.heard(), bad.heard()), (10, 0));
    let metrics = gateway.running.metrics().await.expect("metrics");
    assert!(metrics.contains("transept_endpoints{backend=\"default/app\",state=\"unwell\"} 1\n"), "{metrics}");
    // It recovers.
    bad.says(200);
    let mut caller = Caller::http11(gateway.address).await;
    soon(async { while get(&mut caller, "ada").await.1 != bad.name() {} }).await;
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_not_tried() {
    let (good, nobody) = (Actor::start().await, Nobody::here());
    let setup = Setup::of(&[good.address, nobody.address], Up::Http1);
    let gateway = setup.document(&policy(&["healthCheck: {type: TCP, interval: 100ms}", IN_TURN])).start().await;
    one_is_well_and_one_is_not(&gateway).await;
    assert_eq!(statuses(&gateway, 10).await, [200; 10]);
    let metrics = gateway.running.metrics().await.expect("metrics");
    assert!(!metrics.contains("transept_upstream_connect_failures_total{"), "{metrics}");
}

/// Speaks `grpc.health.v1`, and answers other requests with its address.
async fn speak_grpc(mut served: Served, address: SocketAddr, serving: u8) {
    if served.target != "/grpc.health.v1.Health/Check" {
        return served.answer(200, &address.to_string()).await;
    }
    let asked = served.whole().await.content;
    assert_eq!(asked, [0, 0, 0, 0, 6, 0x0a, 4, b'c', b'a', b'r', b't']);
    served.begin(200, Framed::Open, &[("content-type", "application/grpc")]).await;
    served.send(&[0, 0, 0, 0, 2, 8, serving]).await;
    served.end(&[("grpc-status", "0")]).await;
}

#[tokio::test]
async fn grpc_servers_are_asked_in_their_own_words() {
    let backends = [Backend::start(Up::H2c).await, Backend::start(Up::H2c).await];
    let addresses = [backends[0].address, backends[1].address];
    let mut serving = 0;
    let _answering = backends.map(|backend| {
        let address = backend.address;
        serving += 1;
        // SERVING, and NOT_SERVING.
        let says = serving;
        backend.answer_with(move |served| speak_grpc(served, address, says))
    });
    let check = "healthCheck: {type: GRPC, service: cart, interval: 100ms}";
    let gateway = Setup::of(&addresses, Up::H2c).document(&policy(&[check, IN_TURN])).start().await;
    one_is_well_and_one_is_not(&gateway).await;
    let mut caller = Caller::http11(gateway.address).await;
    for _ in 0..6 {
        assert_eq!(get(&mut caller, "ada").await, (200, addresses[0].to_string()));
    }
}

#[tokio::test]
async fn only_so_many_wait_for_a_connection() {
    // A queue for accepted connections that is full: the kernel drops what comes.
    let Nobody { socket, address } = Nobody::here();
    socket.listen(0).expect("listens");
    let mut fillers = Vec::new();
    while let Ok(filler) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        fillers.push(filler.expect("connected"));
        assert!(fillers.len() < 16, "the queue is never full");
    }
    let setup = Setup::of(&[address], Up::Http1).backend("connectTimeout: 5s");
    let gateway = setup.document(&policy(&["limits: {pending: 2}"])).start().await;
    let mut waiting = [Caller::http11(gateway.address).await, Caller::http11(gateway.address).await];
    let [first, second] = &mut waiting;
    let (_first, _second) = (first.ask(Ask::get("/")).await, second.ask(Ask::get("/")).await);
    let mut caller = Caller::http11(gateway.address).await;
    soon(async {
        loop {
            // Before both wait, this one waits too, and is told so by the connect timeout.
            let mut call = caller.ask(Ask::get("/")).await;
            if call.answer().await.1.contains("backend.overflow") {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn who_waits_for_a_limit_of_ours_blames_no_endpoint() {
    let [one, two] = [Backend::start(Up::Http1).await, Backend::start(Up::Http1).await];
    let addresses = [one.address, two.address];
    // Whose connection is taken for as long as a client likes, whatever the times of requests are.
    let _answering = [one, two].map(|backend| {
        backend.answer_with(|mut served| async move {
            served.send_raw(AGREED).await;
            served.sees_the_end().await;
        })
    });
    let ejection = "outlierDetection: {consecutiveErrors: 1, baseEjectionTime: 1h, maxEjectionTime: 2h}";
    for (timeouts, status, code) in [
        ("timeouts: {backendRequest: 100ms}", 503, "backend.overflow"),
        ("timeouts: {request: 100ms}", 504, "request.timeout"),
    ] {
        let setup = Setup::of(&addresses, Up::Http1).rule(timeouts);
        let gateway = setup.document(&policy(&["limits: {connections: 1}", ejection])).start().await;
        let mut caller = Caller::http11(gateway.address).await;
        let mut held = caller.ask(websocket()).await;
        held.head().await;
        assert_eq!(held.status, 101);
        let mut waiting = Caller::http11(gateway.address).await;
        let (answered, body) = waiting.ask(Ask::get("/")).await.answer().await;
        assert_eq!((answered, body.contains(code)), (status, true), "{timeouts}: {body}");
        let metrics = gateway.running.metrics().await.expect("metrics");
        let ejected = metrics.lines().find(|line| line.contains("state=\"ejected\""));
        assert_eq!(ejected, Some("transept_endpoints{backend=\"default/app\",state=\"ejected\"} 0"), "{timeouts}");
    }
}

/// Who takes what clients send a little at a time is as slow as one who is silent.
#[tokio::test]
async fn an_endpoint_that_reads_slowly_is_left_alone() {
    let ejection = "outlierDetection: {consecutiveErrors: 1, baseEjectionTime: 1h, maxEjectionTime: 2h}";
    let [one, two] = [Backend::start(Up::Http1).await, Backend::start(Up::Http1).await];
    let setup = Setup::of(&[one.address, two.address], Up::Http1).rule("timeouts: {request: 1s}");
    let _answering = [one, two].map(|backend| {
        backend.answer_with(|mut served| async move {
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            while served.read_raw(64 * 1024).await.is_ok() {
                pace.tick().await;
            }
        })
    });
    let gateway = setup.document(&policy(&[ejection])).start().await;
    let mut stream = TcpStream::connect(gateway.address).await.expect("connected");
    let body = vec![b'x'; 1 << 20];
    let begun = stream.write_all(b"POST / HTTP/1.1\r\nhost: site.test\r\ncontent-length: 1073741824\r\n\r\n").await;
    begun.expect("a head");
    soon(async { while stream.write_all(&body).await.is_ok() {} }).await;
    let line = "transept_endpoints{backend=\"default/app\",state=\"ejected\"} 1";
    let metrics = gateway.running.metrics().await.expect("metrics");
    assert!(metrics.lines().any(|one| one == line), "{metrics}");
}

/// Who is silent is left alone; who waits for the rest of a request is not.
#[tokio::test]
async fn a_time_that_is_over_blames_the_endpoint_that_had_it() {
    let response = "{apiVersion: transept.dev/v1alpha1, kind: ListenerPolicy, metadata: {name: short}, spec: {targetRefs: [{group: \
                    gateway.networking.k8s.io, kind: Gateway, name: gate-0}], timeouts: {response: 200ms}}}";
    let ejection = "outlierDetection: {consecutiveErrors: 1, baseEjectionTime: 1h, maxEjectionTime: 2h}";
    let half = || Ask::post("/", Framed::Length(10));
    for (timeouts, ask, ejected) in [
        ("timeouts: {request: 300ms}", Ask::get("/"), 1),
        ("timeouts: {backendRequest: 300ms}", Ask::get("/"), 1),
        // The listener's time is over long before that of the rule.
        ("timeouts: {request: 10s}", Ask::get("/"), 1),
        ("timeouts: {request: 300ms}", websocket(), 1),
        ("timeouts: {backendRequest: 300ms}", websocket(), 1),
        ("timeouts: {request: 300ms}", half(), 0),
        ("timeouts: {backendRequest: 300ms}", half(), 0),
    ] {
        let [one, two] = [Backend::start(Up::Http1).await, Backend::start(Up::Http1).await];
        let setup = Setup::of(&[one.address, two.address], Up::Http1).rule(timeouts).document(response);
        let _answering = [one, two].map(|backend| {
            backend.answer_with(|mut served| async move {
                served.sees_the_end().await;
            })
        });
        let gateway = setup.document(&policy(&[ejection])).start().await;
        let mut caller = Caller::http11(gateway.address).await;
        let is_half = ask.is_framed();
        let mut call = caller.ask(ask).await;
        if is_half {
            call.send(b"half").await;
        }
        assert_eq!(call.answer().await.0, 504, "{timeouts}");
        let metrics = gateway.running.metrics().await.expect("metrics");
        let line = format!("transept_endpoints{{backend=\"default/app\",state=\"ejected\"}} {ejected}");
        assert!(metrics.lines().any(|one| one == line), "{timeouts} {is_half}: {metrics}");
    }
}
