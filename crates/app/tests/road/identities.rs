//! Who calls, by what is shown without a secret on the wire: certificates of clients, and requests that another program has signed.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use transept_testkit::certificates::{Authority, Identity, KeyKind, Usage};
use transept_testkit::parts::{lacks, python};

use crate::stage::{Ask, Backend, Call, Caller, Down, Framed, Gateway, Served, Setup, Up};

const MOBILE: &str =
    "{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {name: mobile}, spec: {groups: [apps]}}";

fn guard(scheme: &str, more: &str) -> String {
    format!(
        "apiVersion: transept.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {{name: guard}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: gate-0}}]
  schemes: [{{name: shown, {scheme}}}]
  failures: {{requests: 1000}}
{more}"
    )
}

/// Has a request answered by the backend; gives it as it came there, and by whom it was, as the backend was told.
async fn admitted(down: &Down, gateway: &Gateway, backend: &mut Backend, ask: Ask, content: &str) -> (Served, String) {
    let mut caller = Caller::connect(down, gateway.address).await;
    let is_framed = ask.is_framed();
    let mut call = caller.ask(ask).await;
    if is_framed {
        call.send(content.as_bytes()).await;
        call.end(&[]).await;
    }
    let mut served = backend.next().await;
    assert_eq!(served.whole().await.content, content.as_bytes());
    let id = served.field("x-auth-id").unwrap_or_default().to_owned();
    served.begin(200, Framed::Length(2), &[]).await;
    served.send(b"in").await;
    assert_eq!(call.answer().await, (200, "in".to_owned()));
    (served, id)
}

/// What a request is answered that does not get to the backend.
async fn refused(down: &Down, gateway: &Gateway, ask: Ask, content: &str) -> (u16, String, Option<String>) {
    let mut caller = Caller::connect(down, gateway.address).await;
    let is_framed = ask.is_framed();
    let mut call = caller.ask(ask).await;
    if is_framed {
        call.send(content.as_bytes()).await;
        call.end(&[]).await;
    }
    let (status, body) = call.answer().await;
    (status, body, call.field("www-authenticate").map(str::to_owned))
}

/// Opens a tunnel.
async fn tunnel<'c>(caller: &'c mut Caller, backend: &mut Backend, ask: Ask) -> (Call<'c>, Served) {
    let mut call = caller.ask(ask.with("connection", "Upgrade").with("upgrade", "websocket")).await;
    let mut served = backend.next().await;
    served.send_raw(b"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    call.head().await;
    assert_eq!(call.status, 101);
    (call, served)
}

/// Bytes still pass.
async fn passes(call: &mut Call<'_>, served: &mut Served) {
    call.send(b"ping").await;
    assert_eq!(served.read_raw(4).await.expect("heard"), b"ping");
}

/// Both ends hear that it is over.
async fn is_cut(call: &mut Call<'_>, served: &mut Served) {
    assert!(served.read_raw(1).await.is_err(), "the backend hears of it");
    assert!(!matches!(call.piece().await, Ok(Some(_))));
}

/// A site whose clients have certificates.
struct Site {
    identity: Arc<Identity>,
    clients: Authority,
}

impl Site {
    fn new() -> Site {
        let identity = Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["site.test"]).expect("a certificate");
        Site { identity: Arc::new(identity), clients: Authority::new(KeyKind::Ecdsa).expect("an authority") }
    }

    fn client(&self, name: &str) -> Arc<Identity> {
        Arc::new(self.clients.issue(Usage::Client, &[name]).expect("a certificate"))
    }

    fn down(&self, client: &Arc<Identity>) -> Down {
        Down::MutualTls { server: Arc::clone(&self.identity), client: Arc::clone(client) }
    }

    fn setup(&self, backend: &Backend, mode: &str) -> Setup {
        Setup::before(backend).tls(&self.identity).clients(&self.clients, mode).document(MOBILE)
    }
}

/// The SHA-256 of a certificate, as people write it.
fn fingerprint(identity: &Identity) -> String {
    let der = identity.certificate().expect("DER");
    let print = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    let digits: Vec<String> = print.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    digits.join(":")
}

fn machines(consumers: &str) -> String {
    guard(&format!("clientCertificate: {{name: DNS, consumers: [{consumers}]}}"), "")
}

#[tokio::test]
async fn a_certificate_says_whose_request_it_is() {
    let site = Site::new();
    let (named, pinned, other) =
        (site.client("mobile.clients.test"), site.client("old.clients.test"), site.client("other.clients.test"));
    let mut backend = Backend::start(Up::Http1).await;
    let pin = fingerprint(&pinned);
    let consumers =
        format!("{{consumer: mobile, name: mobile.clients.test}}, {{consumer: mobile, fingerprint: '{pin}'}}");
    let gateway = site.setup(&backend, "AllowValidOnly").document(&machines(&consumers)).start().await;
    for client in [&named, &pinned] {
        let (_, id) = admitted(&site.down(client), &gateway, &mut backend, Ask::get("/"), "").await;
        assert_eq!(id, "default/mobile");
    }
    let (status, body, challenge) = refused(&site.down(&other), &gateway, Ask::get("/"), "").await;
    assert_eq!((status, challenge.as_deref()), (401, Some("ClientCertificate realm=\"transept\"")));
    assert!(body.contains("auth.credentials_invalid"), "{body}");
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_of_its_client() {
    const LIFE: Duration = Duration::from_secs(3);
    let site = Site::new();
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = site.setup(&backend, "AllowValidOnly").start().await;
    let client = site.clients.issue_for(Usage::Client, &["mobile.clients.test"], LIFE).expect("a certificate");
    let down = site.down(&Arc::new(client));
    // Nobody asks who it is, and still nobody can go on as nobody: the connection is over.
    let mut idle = Caller::connect(&down, gateway.address).await;
    idle.use_once(&mut backend).await;
    // What the backend has as a whole is not undone.
    let mut ordering = Caller::connect(&down, gateway.address).await;
    let mut order = ordering.ask(Ask::post("/orders", Framed::Length(4))).await;
    order.send(b"shoe").await;
    order.end(&[]).await;
    let mut ordered = backend.next().await;
    assert_eq!(ordered.whole().await.content, b"shoe");
    // What is under way ends, too.
    let mut caller = Caller::connect(&down, gateway.address).await;
    let mut call = caller.ask(Ask::get("/events")).await;
    let mut served = backend.next().await;
    served.begin(200, Framed::Open, &[]).await;
    served.send(b"first").await;
    call.head().await;
    assert_eq!(call.piece().await.expect("a piece").as_deref(), Some(&b"first"[..]));
    assert!(idle.sees_the_end().await);
    assert!(call.piece().await.is_err(), "cut, and not taken for the whole");
    ordered.answer(201, "done").await;
    assert_eq!(order.answer().await, (201, "done".to_owned()));
}

#[tokio::test]
async fn another_certificate_of_the_server_asks_no_client_to_come_again() {
    let site = Site::new();
    let mut backend = Backend::start(Up::Http1).await;
    let open = Setup::before(&backend).tls(&site.identity);
    let setup = open.clone().clients(&site.clients, "AllowValidOnly");
    let mut gateway = setup.start().await;
    let mut caller = Caller::connect(&site.down(&site.client("mobile.clients.test")), gateway.address).await;
    caller.use_once(&mut backend).await;
    let renewed = Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["site.test"]).expect("a certificate");
    gateway.reload(&setup.tls(&Arc::new(renewed))).await;
    caller.use_once(&mut backend).await;
    // Other clients are let in now: who this one is was found out by rules that are gone.
    gateway.reload(&open.clients(&Site::new().clients, "AllowValidOnly")).await;
    assert_eq!(caller.ask(Ask::get("/")).await.answer().await.0, 421);
}

#[tokio::test]
async fn a_certificate_that_nobody_has_to_verify_says_nothing() {
    let site = Site::new();
    let (known, stranger) = (site.client("mobile.clients.test"), Site::new().client("mobile.clients.test"));
    let backend = Backend::start(Up::Http1).await;
    let policy = machines("{consumer: mobile, name: mobile.clients.test}");
    let gateway = site.setup(&backend, "AllowInsecureFallback").document(&policy).start().await;
    for down in [site.down(&stranger), site.down(&known), Down::Http11Tls(Arc::clone(&site.identity))] {
        let (status, body, _) = refused(&down, &gateway, Ask::get("/"), "").await;
        assert_eq!(status, 401);
        assert!(body.contains("auth.credentials_missing"), "{body}");
    }
}

#[tokio::test]
async fn a_tunnel_ends_when_its_certificate_is_pinned_no_more() {
    let site = Site::new();
    let (old, new) = (site.client("a.clients.test"), site.client("b.clients.test"));
    let mut backend = Backend::start(Up::Http1).await;
    let setup = site.setup(&backend, "AllowValidOnly");
    let pins = |clients: &[&Arc<Identity>]| {
        let pin = |client: &&Arc<Identity>| format!("{{consumer: mobile, fingerprint: '{}'}}", fingerprint(client));
        machines(&clients.iter().map(pin).collect::<Vec<_>>().join(", "))
    };
    let mut gateway = setup.clone().document(&pins(&[&old, &new])).start().await;
    let mut first = Caller::connect(&site.down(&old), gateway.address).await;
    let (mut call, mut served) = tunnel(&mut first, &mut backend, Ask::get("/")).await;
    let mut second = Caller::connect(&site.down(&new), gateway.address).await;
    let (mut other_call, mut other_served) = tunnel(&mut second, &mut backend, Ask::get("/")).await;
    passes(&mut call, &mut served).await;
    gateway.reload(&setup.document(&pins(&[&new]))).await;
    is_cut(&mut call, &mut served).await;
    passes(&mut other_call, &mut other_served).await;
}

const SECRET: &str = "a secret that both sides know";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs()
}

/// The fields that Python signs a request with; none where there is no Python.
fn sign(ask: &Value) -> Option<Map<String, Value>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/programs/sign.py");
    let mut command = Command::new(python());
    command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut process) = command.spawn() else {
        lacks("Python");
        return None;
    };
    process.stdin.take().expect("its input").write_all(ask.to_string().as_bytes()).expect("written");
    let output = process.wait_with_output().expect("it ends");
    assert!(output.status.success());
    match serde_json::from_slice(&output.stdout).expect("JSON") {
        Value::Object(fields) => Some(fields),
        other => panic!("{other}"),
    }
}

fn with_fields(mut ask: Ask, fields: &Map<String, Value>) -> Ask {
    for (name, value) in fields {
        ask = ask.with(name, value.as_str().expect("text"));
    }
    ask
}

fn signed_post(target: &str, content: &str, fields: &Map<String, Value>) -> Ask {
    with_fields(Ask::post(target, Framed::Length(content.len())), fields)
}

fn partner(secret: &str, more: &str) -> String {
    let policy = guard(
        "signature: {keys: [{id: one, algorithm: hmac-sha256, key: {name: partner, key: secret}, consumer: mobile}]}",
        more,
    );
    format!(
        "{policy}\n---\n{{apiVersion: v1, kind: Secret, metadata: {{name: partner}}, stringData: {{secret: {secret}}}}}"
    )
}

/// What is asked to be signed: a POST with content, or a GET without.
fn asked(target: &str, content: Option<&str>) -> Value {
    json!({"method": if content.is_some() { "POST" } else { "GET" }, "authority": "site.test", "target": target,
        "content": content, "keyid": "one", "created": now(), "secret": SECRET})
}

#[tokio::test]
async fn a_request_that_another_program_has_signed_is_let_in_once_and_unchanged() {
    let mut backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend).document(MOBILE).document(&partner(SECRET, ""));
    let gateway = setup.start().await;
    let content = r#"{"amount": 100}"#;
    for (number, down) in [Down::Http11, Down::H2c].iter().enumerate() {
        let mut ask = asked("/orders?x=1", Some(content));
        ask["nonce"] = format!("n{number}").into();
        let Some(fields) = sign(&ask) else { return };
        // Another content spends nothing.
        let (status, body, challenge) =
            refused(down, &gateway, signed_post("/orders?x=1", r#"{"amount": 999}"#, &fields), r#"{"amount": 999}"#)
                .await;
        assert_eq!((status, challenge.as_deref()), (401, Some("Signature realm=\"transept\"")), "{body}");
        let (served, id) =
            admitted(down, &gateway, &mut backend, signed_post("/orders?x=1", content, &fields), content).await;
        assert_eq!(id, "default/mobile");
        assert_eq!((served.field("signature"), served.field("signature-input")), (None, None));
        assert!(served.field("content-digest").is_some());
        let again = refused(down, &gateway, signed_post("/orders?x=1", content, &fields), content).await;
        assert_eq!(again.0, 401, "{}", again.1);
        let elsewhere = refused(down, &gateway, signed_post("/orders?x=2", content, &fields), content).await;
        assert_eq!(elsewhere.0, 401, "{}", elsewhere.1);
    }
    let mut old = asked("/", None);
    old["created"] = (now() - 400).into();
    let Some(fields) = sign(&old) else { return };
    assert_eq!(refused(&Down::Http11, &gateway, with_fields(Ask::get("/"), &fields), "").await.0, 401);
}

#[tokio::test]
async fn a_private_key_signs_and_its_public_half_decides() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (private, public) = (directory.path().join("private.pem"), directory.path().join("public.pem"));
    let openssl =
        |arguments: &[&str]| Command::new("openssl").args(arguments).status().is_ok_and(|ended| ended.success());
    let (private_name, public_name) = (private.to_str().expect("UTF-8"), public.to_str().expect("UTF-8"));
    let made = openssl(&["genpkey", "-algorithm", "ed25519", "-out", private_name])
        && openssl(&["pkey", "-in", private_name, "-pubout", "-out", public_name]);
    if !made {
        lacks("openssl with Ed25519");
        return;
    }
    let pem = std::fs::read_to_string(&public).expect("a key").trim_end().replace('\n', "\n    ");
    let policy = guard(
        "signature: {keys: [{id: one, algorithm: ed25519, key: {name: partner, key: public}, consumer: mobile}]}",
        "",
    );
    let secret =
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: partner}}\nstringData:\n  public: |\n    {pem}");
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).document(MOBILE).document(&policy).document(&secret).start().await;
    let mut ask = asked("/orders", None);
    ask["keyFile"] = private_name.into();
    ask.as_object_mut().expect("an object").remove("secret");
    let Some(fields) = sign(&ask) else { return };
    let (_, id) = admitted(&Down::Http11, &gateway, &mut backend, with_fields(Ask::get("/orders"), &fields), "").await;
    assert_eq!(id, "default/mobile");
    assert_eq!(refused(&Down::Http11, &gateway, with_fields(Ask::get("/other"), &fields), "").await.0, 401);
}

#[tokio::test]
async fn a_tunnel_ends_when_the_key_that_signed_it_is_replaced() {
    let mut backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend).document(MOBILE);
    let mut gateway = setup.clone().document(&partner(SECRET, "")).start().await;
    let Some(fields) = sign(&asked("/", None)) else { return };
    let mut caller = Caller::http11(gateway.address).await;
    let (mut call, mut served) = tunnel(&mut caller, &mut backend, with_fields(Ask::get("/"), &fields)).await;
    gateway.reload(&setup.clone().document(&partner(SECRET, "  realm: other"))).await;
    passes(&mut call, &mut served).await;
    gateway.reload(&setup.document(&partner("another secret of both sides", ""))).await;
    is_cut(&mut call, &mut served).await;
}

#[tokio::test]
async fn what_is_left_of_a_signature_goes_no_further() {
    let mut backend = Backend::start(Up::Http1).await;
    let policy = partner(SECRET, "  require: [{shown: []}, {}]");
    let gateway = Setup::before(&backend).document(MOBILE).document(&policy).start().await;
    let ask = Ask::get("/").with("signature", "sig1=:cGxhbnRlZA==:");
    let (served, id) = admitted(&Down::Http11, &gateway, &mut backend, ask, "").await;
    assert_eq!((&*id, served.field("signature")), ("", None));
}

#[tokio::test]
async fn credentials_and_identities_in_trailers_go_no_further() {
    for policy in ["", "limits: {bodyBytes: 1000}"] {
        for (down, up) in [(Down::Http11, Up::Http1), (Down::H2c, Up::H2c)] {
            let mut backend = Backend::start(up).await;
            let scheme = "apiKey: {header: X-Secret}";
            let mut setup = Setup::before(&backend).document(&guard(scheme, "  require: [{shown: []}, {}]"));
            if !policy.is_empty() {
                setup = setup.policy(policy);
            }
            let gateway = setup.start().await;
            let mut caller = Caller::connect(&down, gateway.address).await;
            let ask = Ask::post("/", Framed::Open).with("te", "trailers").with("trailer", "x-sum");
            let mut call = caller.ask(ask).await;
            call.send(b"content").await;
            let trailers = [
                ("x-secret", "7"),
                ("authorization", "Bearer 7"),
                ("cookie", "a=7"),
                ("x-auth-id", "root"),
                ("x-sum", "1"),
            ];
            call.end(&trailers).await;
            let mut served = backend.next().await;
            let whole = served.whole().await;
            assert_eq!(whole.trailers, crate::stage::owned(&[("x-sum", "1")]), "{policy}");
            served.answer(200, "in").await;
            assert_eq!(call.answer().await, (200, "in".to_owned()));
        }
    }
}
