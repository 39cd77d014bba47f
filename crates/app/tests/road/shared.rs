//! Limits that several gateways share through a real server of Redis: together they keep the limit, also while the server is killed, stands
//! still, and comes back.

use std::net::SocketAddr;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use transept_testkit::launch::unused_port;
use transept_testkit::parts::lacks;

use crate::stage::{Answering, Ask, Backend, Caller, Down, Gateway, Setup, Up, soon};

const PASSWORD: &str = "planted-password-7391";

/// Whether the server is installed; where it must be, it is a failure when it is not.
async fn is_installed() -> bool {
    let version = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().await;
    let installed = version.is_ok_and(|status| status.success());
    if !installed {
        lacks("redis-server");
    }
    installed
}

/// A running server. It is killed when this is dropped.
struct Redis {
    port: u16,
    child: Child,
}

impl Redis {
    async fn start(port: u16) -> Redis {
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--requirepass", PASSWORD])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server of the package of this name");
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

    async fn kill(mut self) -> u16 {
        self.signal(Signal::KILL);
        soon(self.child.wait()).await.expect("it has ended");
        self.port
    }
}

/// A gateway with a limit that is counted in the server on this port.
async fn gateway(port: u16, requests: u32, unavailable: &str) -> (Gateway, Answering) {
    let backend = Backend::start(Up::Http1).await;
    let policy = format!(
        "apiVersion: transept.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{name: shared}}\nspec:\n  \
         targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all}}]\n  \
         store: {{url: 'redis://127.0.0.1:{port}/2', passwordSecret: store, onUnavailable: {unavailable}}}\n  \
         limits: [{{name: all, requests: {requests}, per: 1h, key: []}}]"
    );
    let secret =
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: store}}\nstringData: {{password: {PASSWORD}}}");
    let setup = Setup::before(&backend).workers(2).document(&policy).document(&secret);
    let gateway = setup.start().await;
    (gateway, backend.answer_all())
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
    if !is_installed().await {
        return;
    }
    let redis = Redis::start(unused_port()).await;
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
        let log = gateway.running.log();
        assert!(!log.contains(PASSWORD), "{log}");
        let told = gateway.running.status().await.expect("a status").to_string();
        assert!(!told.contains(PASSWORD), "{told}");
    }
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_is_used_again() {
    if !is_installed().await {
        return;
    }
    let redis = Redis::start(unused_port()).await;
    let (deny, _deny_answers) = gateway(redis.port, 1_000, "Deny").await;
    let (local, _local_answers) = gateway(redis.port, 1_000, "Local").await;
    assert_eq!((status(&deny).await, status(&local).await), (200, 200));
    let port = redis.kill().await;
    until(&deny, 503).await;
    for _ in 0..20 {
        assert_eq!(status(&local).await, 200);
    }
    let _redis = Redis::start(port).await;
    until(&deny, 200).await;
    assert!(deny.running.log().contains("the store of shared limits does not answer"));
}

#[tokio::test]
async fn a_server_that_stands_still_holds_nobody_up_for_long() {
    if !is_installed().await {
        return;
    }
    let redis = Redis::start(unused_port()).await;
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
