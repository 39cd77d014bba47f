//! Who may call: API keys and passwords through the real binary, keys made and taken back by the real command while traffic flows.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{Ask, Backend, Call, Caller, Down, Framed, Gateway, Served, Setup, Up, soon};

const GUARD: &str = "\
apiVersion: transept.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {name: guard}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gate-0}]
  schemes: [{name: key, apiKey: {query: api_key}}, {name: staff, basic: {users: {name: staff, key: users}}}]
  failures: {requests: 1000}
---
apiVersion: v1
kind: Secret
metadata: {name: staff}
stringData: {users: 'ann:$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe'}
";

fn transept(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_transept")).args(arguments).env_clear().output().expect("the binary starts")
}

/// A gateway with a file of keys that only `transept key` writes.
struct Desk {
    directory: TempDir,
    backend: Backend,
    gateway: Gateway,
    generation: u64,
}

impl Desk {
    async fn new() -> Desk {
        let directory = tempfile::tempdir().expect("temporary directory");
        let keys = directory.path().join("keys.yaml");
        std::fs::write(
            &keys,
            "{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {name: mobile}, spec: {plan: gold}}\n",
        )
        .expect("written");
        let backend = Backend::start(Up::Http1).await;
        let log = directory.path().join("access.log");
        let setup = Setup::before(&backend)
            .document(GUARD)
            .argument(keys.to_str().expect("UTF-8"))
            .argument(format!("--access-log={}", log.display()))
            .argument("--access-log-format=json");
        Desk { gateway: setup.start().await, directory, backend, generation: 1 }
    }

    fn keys(&self) -> PathBuf {
        self.directory.path().join("keys.yaml")
    }

    /// Runs `transept key`, and waits until what it has changed is in force. Gives what it printed.
    async fn key(&mut self, arguments: &[&str]) -> String {
        let file = self.keys();
        let output = transept(&[&["key"], arguments, &["--file", file.to_str().expect("UTF-8")]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.generation += 1;
        let line = format!("\"message\":\"configuration loaded\",\"generation\":{},", self.generation);
        soon(self.gateway.running.log_line_with(&line)).await;
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }
}

fn with_key(key: &str) -> Ask {
    Ask::get("/").with("x-api-key", key)
}

/// What the gateway answers, where the backend is not asked.
async fn refusal(gateway: &Gateway, down: &Down, ask: Ask) -> (u16, Option<String>, String) {
    let mut caller = Caller::connect(down, gateway.address).await;
    let mut call = caller.ask(ask).await;
    let (status, body) = call.answer().await;
    (status, call.field("www-authenticate").map(str::to_owned), body)
}

/// Has a request answered by the backend, and gives the fields by which it was told who calls.
async fn admitted(desk: &mut Desk, ask: Ask) -> (Option<String>, Option<String>) {
    let mut caller = Caller::http11(desk.gateway.address).await;
    let mut call = caller.ask(ask).await;
    let served = desk.backend.next().await;
    let told = (served.field("x-auth-id").map(str::to_owned), served.field("x-api-key").map(str::to_owned));
    assert_eq!(served.field("authorization"), None);
    served.answer(200, "in").await;
    assert_eq!(call.answer().await, (200, "in".to_owned()));
    told
}

#[tokio::test]
async fn a_head_that_comes_slowly_is_judged_when_it_has_come() {
    let mut desk = Desk::new().await;
    let key = desk.key(&["create", "--consumer", "mobile", "--ttl", "2s"]).await;
    let mut slow = TcpStream::connect(desk.gateway.address).await.expect("connected");
    slow.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n").await.expect("sent");
    let file = desk.keys();
    let listed = || transept(&["key", "list", "--file", file.to_str().expect("UTF-8")]).stdout;
    while !String::from_utf8(listed()).expect("UTF-8").contains("expired") {
        tokio::task::yield_now().await;
    }
    slow.write_all(format!("X-API-Key: {key}\r\n\r\n").as_bytes()).await.expect("sent");
    let mut answer = String::new();
    soon(slow.read_to_string(&mut answer)).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[tokio::test]
async fn a_key_is_made_replaced_and_revoked_while_the_gateway_runs() {
    let mut desk = Desk::new().await;
    let first = desk.key(&["create", "--consumer", "mobile", "--scope", "orders.read"]).await;
    assert_eq!(admitted(&mut desk, with_key(&first)).await, (Some("default/mobile".to_owned()), None));
    let second = desk.key(&["rotate", "mobile-1", "--overlap", "1h"]).await;
    admitted(&mut desk, with_key(&first)).await;
    admitted(&mut desk, Ask::get("/").with("authorization", &format!("Bearer {second}"))).await;
    desk.key(&["revoke", "mobile-1"]).await;
    let (status, challenge, body) = refusal(&desk.gateway, &Down::Http11, with_key(&first)).await;
    assert_eq!(status, 401);
    assert_eq!(challenge.as_deref(), Some("Bearer realm=\"transept\", error=\"invalid_token\""));
    assert!(body.contains("auth.credentials_invalid"), "{body}");
    admitted(&mut desk, with_key(&second)).await;
    let admin = desk.gateway.running.admin().to_string();
    let file = desk.keys();
    let listed = transept(&["key", "list", "--file", file.to_str().expect("UTF-8"), "--json", "--admin", &admin]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!((&listed[0]["state"], &listed[1]["state"]), (&"revoked".into(), &"good".into()), "{listed:#}");
    assert!(listed[1]["lastUsed"].is_string() && listed[1]["scopes"][0] == "orders.read", "{listed:#}");
}

/// Who says that a field is about the connection does not have it taken away (RFC 9110 section 7.6.1 is about fields of the sender's).
#[tokio::test]
async fn nobody_takes_the_identity_of_a_request_away() {
    let mut desk = Desk::new().await;
    let key = desk.key(&["create", "--consumer", "mobile"]).await;
    let ask = with_key(&key).with("connection", "x-auth-id, x-auth-kind");
    assert_eq!(admitted(&mut desk, ask).await, (Some("default/mobile".to_owned()), None));
}

#[tokio::test]
async fn a_refusal_names_its_request_and_no_policy() {
    let desk = Desk::new().await;
    let gateway = &desk.gateway;
    for accept in ["application/json", "text/html", "*/*"] {
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(Ask::get("/").with("accept", accept).with("x-request-id", "mine-77")).await;
        let (status, body) = call.answer().await;
        assert_eq!((status, call.field("x-request-id")), (401, Some("mine-77")), "{accept}");
        assert!(
            body.contains("mine-77") && !body.contains("guard") && !body.contains("AuthenticationPolicy"),
            "{body}"
        );
    }
    let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
    let mut call = caller.ask(Ask::get("/").with("content-type", "application/grpc")).await;
    call.answer().await;
    let message = call.field("grpc-message").unwrap_or_default();
    assert!(call.field("x-request-id").is_some() && !message.contains("guard"), "{message}");
}

#[tokio::test]
async fn nothing_comes_after_a_key_that_is_no_good_and_an_end_is_not_forgotten() {
    let mut desk = Desk::new().await;
    let file = desk.keys();
    let file = file.to_str().expect("UTF-8");
    desk.key(&["create", "--consumer", "mobile"]).await;
    desk.key(&["revoke", "mobile-1"]).await;
    desk.key(&["create", "--consumer", "mobile", "--name", "brief-1", "--ttl", "720h"]).await;
    for (name, why) in [("mobile-1", "is revoked"), ("brief-1", "`--ttl 720h`, or `--without-end`")] {
        let output = transept(&["key", "rotate", name, "--file", file]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && output.stdout.is_empty() && told.contains(why), "{told}");
    }
    desk.key(&["rotate", "brief-1", "--ttl", "48h"]).await;
    let ended = std::fs::read_to_string(file)
        .expect("read")
        .replace("expires: \"20", "expires: \"19")
        .replace("expires: 20", "expires: 19");
    std::fs::write(file, ended).expect("written");
    let output = transept(&["key", "rotate", "brief-2", "--ttl", "48h", "--file", file]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("brief-2 ended at 19"), "{output:?}");
}

#[test]
fn without_a_place_no_key_is_made() {
    let nowhere = tempfile::tempdir().expect("a directory");
    let state = nowhere.path().join("state");
    let output = transept(&["key", "create", "--consumer", "mobile", "--state", state.to_str().expect("UTF-8")]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.stdout.is_empty() && told.contains("--file keys.yaml"), "{told}");
    assert!(!state.exists());
}

#[tokio::test]
async fn a_tunnel_ends_when_the_key_that_opened_it_is_revoked() {
    let mut desk = Desk::new().await;
    let key = desk.key(&["create", "--consumer", "mobile"]).await;
    let other = desk.key(&["create", "--consumer", "mobile"]).await;
    let ask = with_key(&key).with("connection", "Upgrade").with("upgrade", "websocket");
    let mut caller = Caller::http11(desk.gateway.address).await;
    let mut call = caller.ask(ask).await;
    let mut served = desk.backend.next().await;
    served.send_raw(b"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    call.head().await;
    assert_eq!(call.status, 101);
    desk.key(&["revoke", "mobile-2"]).await;
    call.send(b"ping").await;
    assert_eq!(served.read_raw(4).await.expect("heard"), b"ping");
    desk.key(&["revoke", "mobile-1"]).await;
    assert!(served.read_raw(1).await.is_err(), "the backend hears of it");
    assert!(!matches!(call.piece().await, Ok(Some(_))));
    assert_eq!(refusal(&desk.gateway, &Down::Http11, with_key(&other)).await.0, 401);
}

/// Opens a stream of events with a key, and hears the first of them.
async fn stream_of<'c>(caller: &'c mut Caller, desk: &mut Desk, key: &str) -> (Call<'c>, Served) {
    let mut call = caller.ask(with_key(key)).await;
    let mut served = desk.backend.next().await;
    served.begin(200, Framed::Open, &[("content-type", "text/event-stream")]).await;
    served.send(b"data: 1\n\n").await;
    call.head().await;
    assert_eq!(call.status, 200);
    assert_eq!(call.piece().await.expect("heard").as_deref(), Some(&b"data: 1\n\n"[..]));
    (call, served)
}

#[tokio::test]
async fn a_stream_ends_when_the_key_that_opened_it_is_revoked() {
    for down in [Down::Http11, Down::H2c] {
        let mut desk = Desk::new().await;
        let mut keys = Vec::new();
        for _ in 0..3 {
            keys.push(desk.key(&["create", "--consumer", "mobile"]).await);
        }
        let mut callers = Vec::new();
        for _ in 0..3 {
            callers.push(Caller::connect(&down, desk.gateway.address).await);
        }
        let mut streams = Vec::new();
        for (caller, key) in callers.iter_mut().zip(&keys) {
            streams.push(stream_of(caller, &mut desk, key).await);
        }
        // The first is judged again when it has lasted for a while, the second when the configuration changes after that.
        for (number, (call, served)) in (1..).zip(streams.iter_mut().take(2)) {
            desk.key(&["revoke", &format!("mobile-{number}")]).await;
            assert!(!matches!(call.piece().await, Ok(Some(_))), "{number}");
            served.sees_the_end().await;
        }
        let (call, served) = &mut streams[2];
        served.send(b"data: 2\n\n").await;
        assert_eq!(call.piece().await.expect("heard").as_deref(), Some(&b"data: 2\n\n"[..]));
    }
}

#[tokio::test]
async fn a_stream_is_judged_by_the_request_as_it_came() {
    let backend = Backend::start(Up::Http1).await;
    let rewrite =
        "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /inside}}}]";
    let rule = |path: &str, method: &str| {
        format!(
            "apiVersion: transept.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: who}}\nspec:\n  \
             targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: gate-0}}]\n  \
             deny: [{{name: stop, to: [{{paths: [{path}], methods: [{method}]}}]}}]"
        )
    };
    let setup = Setup::before(&backend).rule(rewrite);
    let mut desk = (backend, setup.clone().start().await);
    let mut caller = Caller::http11(desk.1.address).await;
    let mut call = caller.ask(Ask::get("/events")).await;
    let mut served = desk.0.next().await;
    assert_eq!(served.target, "/inside");
    served.begin(200, Framed::Open, &[]).await;
    call.head().await;
    // Neither of these is about it.
    desk.1.reload(&setup.clone().document(&rule("/inside", "GET"))).await;
    desk.1.reload(&setup.clone().document(&rule("/events", "POST"))).await;
    served.send(b"on").await;
    assert_eq!(call.piece().await.expect("heard").as_deref(), Some(&b"on"[..]));
    desk.1.reload(&setup.document(&rule("/events", "GET"))).await;
    assert!(!matches!(call.piece().await, Ok(Some(_))));
    served.sees_the_end().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_key() {
    let mut desk = Desk::new().await;
    let key = desk.key(&["create", "--consumer", "mobile", "--ttl", "6s"]).await;
    let mut caller = Caller::http11(desk.gateway.address).await;
    let (mut call, mut served) = stream_of(&mut caller, &mut desk, &key).await;
    assert!(!matches!(call.piece().await, Ok(Some(_))));
    served.sees_the_end().await;
}

#[tokio::test]
async fn an_upload_that_outlasts_its_key_is_told_so() {
    let mut desk = Desk::new().await;
    let key = desk.key(&["create", "--consumer", "mobile", "--ttl", "6s"]).await;
    let mut caller = Caller::http11(desk.gateway.address).await;
    let mut call = caller.ask(Ask::post("/", Framed::Open).with("x-api-key", &key)).await;
    let served = desk.backend.next().await;
    call.send(b"a piece").await;
    soon(call.head()).await;
    assert_eq!(call.status, 401);
    assert_eq!(call.field("www-authenticate"), Some("Bearer realm=\"transept\", error=\"invalid_token\""));
    drop(served);
}

#[tokio::test]
async fn callers_are_refused_in_their_own_way() {
    let desk = Desk::new().await;
    for down in [Down::Http11, Down::H2c] {
        let (status, challenge, body) = refusal(&desk.gateway, &down, Ask::get("/")).await;
        assert_eq!(status, 401);
        assert_eq!(challenge.as_deref(), Some("Bearer realm=\"transept\""));
        assert!(body.contains("auth.credentials_missing"), "{body}");
    }
    let mut caller = Caller::connect(&Down::H2c, desk.gateway.address).await;
    let mut call = caller.ask(Ask::get("/").with("content-type", "application/grpc")).await;
    call.answer().await;
    assert_eq!((call.status, call.field("grpc-status")), (200, Some("16")));
}

/// What nobody may ever see again after it was sent.
fn planted(key: &str) -> Vec<String> {
    let password = "planted-password";
    vec![
        key.to_owned(),
        key.replace("tr_live", "tr_fake"),
        "planted-junk".to_owned(),
        password.to_owned(),
        // `ann:planted-password`, and `ann:a`, in base64.
        "YW5uOnBsYW50ZWQtcGFzc3dvcmQ=".to_owned(),
        "YW5uOmE=".to_owned(),
    ]
}

#[tokio::test]
async fn no_secret_is_ever_repeated() {
    let mut desk = Desk::new().await;
    let key = desk.key(&["create", "--consumer", "mobile"]).await;
    let planted = planted(&key);
    let mut said = String::new();
    for (number, secret) in planted.iter().enumerate() {
        let target = format!("/by-query/{number}?a=1&api_key={secret}");
        for ask in [
            Ask::get(&target),
            with_key(secret).with("x-request-id", &format!("by-header-{number}")),
            Ask::get("/").with("authorization", &format!("Bearer {secret}")),
            Ask::get("/").with("authorization", &format!("Basic {secret}")),
        ] {
            let mut caller = Caller::http11(desk.gateway.address).await;
            let mut call = caller.ask(ask).await;
            let answer = tokio::select! {
                served = desk.backend.next() => {
                    said.push_str(&served.target);
                    served.answer(200, "in").await;
                    call.answer().await
                }
                answer = call.whole() => (call.status, String::from_utf8_lossy(&answer.content).into_owned()),
            };
            said.push_str(&answer.1);
        }
        let url = format!("http://{}{target}", desk.gateway.address);
        let headers = [format!("x-api-key: {secret}"), format!("authorization: Basic {secret}")];
        let config = desk.gateway.file().to_str().expect("UTF-8").to_owned();
        for form in [&["--json"][..], &[]] {
            let mut arguments = vec!["explain", "GET", &url, "-f", &config];
            let keys = desk.keys();
            arguments.extend(["-f", keys.to_str().expect("UTF-8"), "-H", &headers[0], "-H", &headers[1]]);
            arguments.extend(form);
            let output = transept(&arguments);
            said.push_str(&String::from_utf8_lossy(&output.stdout));
            said.push_str(&String::from_utf8_lossy(&output.stderr));
        }
    }
    said.push_str(&desk.gateway.running.status().await.expect("status").to_string());
    let log = log_with(&desk.directory.path().join("access.log"), &format!("/by-query/{}", planted.len() - 1)).await;
    assert!(
        log.contains("/by-query/0?a=1&api_key=(hidden)") && log.contains("\"principal_id\":\"default/mobile\""),
        "{log}"
    );
    assert!(log.contains("\"credential\":\"mobile-1\"") && log.contains("its checksum is wrong"), "{log}");
    said.push_str(&log);
    said.push_str(&desk.gateway.running.log());
    said.push_str(&std::fs::read_to_string(desk.keys()).expect("a file"));
    for secret in &planted {
        assert!(!said.contains(secret.as_str()), "{secret} is in {said}");
    }
}

/// The access log, once it has a line with `words`.
async fn log_with(path: &Path, words: &str) -> String {
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(20));
    soon(async {
        loop {
            pace.tick().await;
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if text.contains(words) {
                return text;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_password_opens_and_a_wrong_one_does_not() {
    let mut desk = Desk::new().await;
    for _ in 0..2 {
        let told = admitted(&mut desk, Ask::get("/").with("authorization", "Basic YW5uOmE=")).await;
        assert_eq!(told.0.as_deref(), Some("default/ann"));
    }
    let wrong = Ask::get("/").with("authorization", "Basic YW5uOmI=");
    assert_eq!(refusal(&desk.gateway, &Down::Http11, wrong).await.0, 401);
}

/// When a process that makes a key is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// At once.
    Begin,
    /// When the new file is there.
    Beside,
    /// When there is something in it.
    Written,
    /// When it has taken the place of the old one.
    Renamed,
    /// When the key is shown.
    Shown,
}

/// Makes a key and kills the process at this moment, or finds that it was quicker. Gives the key if it was shown, whole.
fn create_and_kill(file: &Path, at: Moment) -> Option<String> {
    let beside = file.with_file_name(".keys.yaml.new");
    let inode = || std::fs::metadata(file).map(|found| found.ino()).ok();
    let before = inode();
    let mut process = Command::new(env!("CARGO_BIN_EXE_transept"))
        .args(["key", "create", "--consumer", "mobile", "--file"])
        .arg(file)
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut output = process.stdout.take().expect("its output");
    let mut shown = Vec::new();
    while process.try_wait().expect("a process").is_none() {
        let is_there = match at {
            Moment::Begin => true,
            Moment::Beside => beside.exists(),
            Moment::Written => std::fs::metadata(&beside).is_ok_and(|found| found.len() > 0),
            Moment::Renamed => inode() != before,
            Moment::Shown => {
                let mut first = [0; 1];
                let count = output.read(&mut first).expect("its output");
                shown.extend(first.iter().take(count));
                true
            }
        };
        if is_there {
            process.kill().expect("killed");
            process.wait().expect("it ends");
        }
    }
    output.read_to_end(&mut shown).expect("its output");
    String::from_utf8(shown).expect("UTF-8").strip_suffix('\n').map(str::to_owned)
}

/// Whatever is killed when: the file is whole, and every key that somebody was shown is in it.
#[test]
fn a_file_of_keys_survives_that_its_writers_are_killed() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("keys.yaml");
    std::fs::write(&file, "{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {name: mobile}, spec: {}}\n")
        .expect("written");
    let mut shown = Vec::new();
    for _ in 0..6 {
        for at in [Moment::Begin, Moment::Beside, Moment::Written, Moment::Renamed, Moment::Shown] {
            shown.extend(create_and_kill(&file, at));
            let listed = transept(&["key", "list", "--file", file.to_str().expect("UTF-8"), "--json"]);
            assert!(listed.status.success(), "{at:?}: {}", String::from_utf8_lossy(&listed.stderr));
            let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
            let text = std::fs::read_to_string(&file).expect("a file");
            assert!(text.contains("kind: Consumer"), "{at:?}");
            assert_eq!(text.matches("hash: ").count(), listed.as_array().map_or(0, Vec::len), "{at:?}");
            for key in &shown {
                let hash = transept_engine::key::hash(key.as_bytes(), None).to_string();
                assert!(text.contains(&hash), "{at:?}: a key that was shown is lost");
            }
        }
    }
    assert!(shown.len() >= 6, "{}", shown.len());
    // What the dead have left behind is in nobody's way.
    let output = transept(&["key", "create", "--consumer", "mobile", "--file", file.to_str().expect("UTF-8")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
