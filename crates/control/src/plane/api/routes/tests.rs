//! The API as a client sees it, on loopback, over a plane of its own: who may do what, and what hostile input gets.

use std::net::SocketAddr;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use transept_identity::TrustDomain;
use transept_identity::token::Uses;
use transept_testkit::client::{Endpoint, exchange};

use super::*;
use crate::plane::api::{Api, ApiError};
use crate::plane::{Question, Setup};

const PATH: &str = "/v1/namespaces/default/workloads/cart-1";
const PORTS: &str = r#"{"ports": [{"port": 80, "targetPort": 8080}]}"#;

struct Mesh {
    _directory: TempDir,
    plane: Arc<Plane>,
    address: SocketAddr,
}

struct Shown {
    status: u16,
    value: Value,
    fields: Vec<(String, String)>,
}

impl Shown {
    #[track_caller]
    fn is(&self, status: u16, code: &str) {
        let shown = self.value["code"].as_str().unwrap_or_default();
        assert_eq!((self.status, shown), (status, code), "{}", self.value);
    }

    fn lease(&self) -> String {
        self.value["lease"].as_str().unwrap_or_else(|| panic!("{}", self.value)).to_owned()
    }
}

impl Mesh {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let trust_domain = TrustDomain::new("transept.local").expect("a name");
        let setup = Setup { trust_domain, leaf_life: Duration::from_secs(3600) };
        let plane = Plane::open(directory.path(), setup).expect("a plane");
        let api = Api::bind("127.0.0.1:0".parse().expect("an address"), None, crate::plane::RATE).await.expect("bound");
        let address = api.address;
        assert_eq!(api.url(), format!("http://{address}"));
        tokio::spawn(api.serve(plane.clone(), crate::plane::Capacity::WHOLE));
        Self { _directory: directory, plane, address }
    }

    fn token(&self, service: &str, uses: Uses) -> String {
        let made = self.plane.create_token("default", service, uses, Duration::from_secs(60)).expect("a token");
        made["token"].as_str().expect("a text").to_owned()
    }

    async fn ask(&self, method: &str, path: &str, bearer: &str, body: &str, more: &[(&str, &str)]) -> Shown {
        let mut request = transept_testkit::client::Request::get("registry", path);
        request.method = method.to_owned();
        request.body = body.as_bytes().to_vec();
        if !bearer.is_empty() {
            request = request.with("authorization", &format!("Bearer {bearer}"));
        }
        for (name, value) in more {
            request = request.with(name, value);
        }
        let answer = exchange(&Endpoint::http1(self.address), &request).await.outcome.expect("an answer");
        let value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        Shown { status: answer.status, value, fields: answer.fields }
    }

    async fn put(&self, path: &str, bearer: &str, body: &str) -> Shown {
        self.ask("PUT", path, bearer, body, &[]).await
    }

    /// What comes back for these bytes.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        stream.write_all(bytes).await.expect("written");
        let mut answer = Vec::new();
        // It may be reset after the answer.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[tokio::test]
async fn an_instance_registers_lives_changes_and_leaves() {
    let mesh = Mesh::start().await;
    let token = mesh.token("cart", Uses::Once);
    let made = mesh.put(PATH, &token, PORTS).await;
    assert_eq!(made.status, 201, "{}", made.value);
    assert_eq!(made.value["identity"], "spiffe://transept.local/ns/default/sa/cart");
    assert_eq!((&made.value["address"], &made.value["intervalMs"]), (&json!("127.0.0.1"), &json!(10_000)));
    assert!(made.fields.iter().any(|(name, value)| name == "cache-control" && value == "no-store"));
    let lease = made.lease();

    let beat = format!("{PATH}/beat");
    let alive = mesh.ask("POST", &beat, &lease, "", &[]).await;
    assert_eq!((alive.status, &alive.value["registered"]), (200, &json!(true)));
    let changed = r#"{"ports": [{"port": 80, "targetPort": 8080}], "health": "Draining", "weight": 3}"#;
    let again = mesh.put(PATH, &lease, changed).await;
    assert_eq!((again.status, &again.value["lease"]), (200, &Value::Null), "a lease is shown once");

    let shown = mesh.ask("GET", PATH, &lease, "", &[]).await;
    assert_eq!((shown.status, &shown.value["spec"]["health"]), (200, &json!("Draining")), "{}", shown.value);
    assert_eq!(shown.value["spec"]["weight"], 3);
    assert!(!shown.value.to_string().contains("transept_lease_"), "{}", shown.value);
    let all = mesh.ask("GET", "/v1/namespaces/default/workloads", &mesh.token("bank", Uses::Once), "", &[]).await;
    assert_eq!((all.status, all.value["items"].as_array().map(Vec::len)), (200, Some(1)), "{}", all.value);
    let status = mesh.plane.answer(&Question::Status).expect("a status");
    assert_eq!((&status["workloads"][0]["name"], &status["members"]), (&json!("cart-1"), &json!([])), "{status}");

    for _ in 0..2 {
        assert_eq!(mesh.ask("DELETE", PATH, &lease, "", &[]).await.status, 204);
    }
    mesh.ask("POST", &beat, &lease, "", &[]).await.is(404, "registration.ended");
    mesh.ask("GET", PATH, &lease, "", &[]).await.is(404, "registration.not_found");
    // It needs no other token to return.
    assert_eq!(mesh.put(PATH, &lease, PORTS).await.status, 201);
    assert_eq!(mesh.ask("POST", &beat, &lease, "", &[]).await.status, 200);
}

#[tokio::test]
async fn who_has_lost_the_answer_asks_again_with_its_key() {
    let mesh = Mesh::start().await;
    for uses in [Uses::Once, Uses::Many] {
        let token = mesh.token("cart", uses);
        let path = format!("/v1/namespaces/default/workloads/cart-{}", uses == Uses::Many);
        let key = |key| [("idempotency-key", key)];
        let first = mesh.ask("PUT", &path, &token, PORTS, &key("a")).await;
        assert_eq!(first.status, 201, "{}", first.value);
        let second = mesh.ask("PUT", &path, &token, PORTS, &key("a")).await;
        assert_eq!(second.status, 200, "{}", second.value);
        let beat = format!("{path}/beat");
        mesh.ask("POST", &beat, &first.lease(), "", &[]).await.is(401, "lease.unknown");
        assert_eq!(mesh.ask("POST", &beat, &second.lease(), "", &[]).await.status, 200);

        // Another instance, by its key or without one.
        let (status, code) = match uses {
            Uses::Once => (401, "token.used"),
            Uses::Many => (409, "registration.name_taken"),
        };
        mesh.ask("PUT", &path, &token, PORTS, &key("b")).await.is(status, code);
        mesh.put(&path, &token, PORTS).await.is(status, code);
        let elsewhere = mesh.ask("PUT", &format!("{path}-2"), &token, PORTS, &key("a")).await;
        assert_eq!(elsewhere.status, if uses == Uses::Once { 401 } else { 201 }, "{}", elsewhere.value);
        assert_eq!(mesh.ask("POST", &beat, &second.lease(), "", &[]).await.status, 200);
    }
    let long = "k".repeat(129);
    let token = mesh.token("cart", Uses::Once);
    mesh.ask("PUT", PATH, &token, PORTS, &[("idempotency-key", &long)]).await.is(400, "registration.key_invalid");
}

#[tokio::test]
async fn nobody_registers_what_is_not_its_own() {
    let mesh = Mesh::start().await;
    let token = mesh.token("cart", Uses::Many);
    let denied = "registration.denied";
    let foreign = r#"{"services": ["bank"], "ports": [{"port": 80}]}"#;
    mesh.put(PATH, &token, foreign).await.is(403, denied);
    let elsewhere = r#"{"address": "10.0.0.7", "ports": [{"port": 80}]}"#;
    mesh.put(PATH, &token, elsewhere).await.is(403, denied);
    mesh.put("/v1/namespaces/other/workloads/cart-1", &token, PORTS).await.is(403, denied);
    mesh.ask("GET", "/v1/namespaces/other/workloads", &token, "", &[]).await.is(403, denied);
    let unsure = mesh.ask("DELETE", PATH, &token, "", &[]).await;
    unsure.is(403, denied);
    mesh.put("/v1/namespaces/default/workloads/Cart", &token, PORTS).await.is(422, "registration.invalid");
    mesh.put("/v1/namespaces/default/workloads/cart%2d1", &token, PORTS).await.is(422, "registration.invalid");

    // The lease of one instance is not for another one.
    let lease = mesh.put(PATH, &token, PORTS).await.lease();
    let other = mesh.put("/v1/namespaces/default/workloads/cart-2", &token, PORTS).await.lease();
    mesh.ask("DELETE", PATH, &other, "", &[]).await.is(403, denied);
    mesh.put(PATH, &other, PORTS).await.is(403, denied);
    let forged = other.replace("cart-2", "cart-1");
    mesh.ask("DELETE", PATH, &forged, "", &[]).await.is(401, "lease.unknown");
    mesh.put(PATH, &lease, foreign).await.is(403, denied);
    assert_eq!(mesh.ask("POST", &format!("{PATH}/beat"), &lease, "", &[]).await.status, 200);
}

#[tokio::test]
async fn who_shows_nothing_good_is_told_what_would_be() {
    let mesh = Mesh::start().await;
    mesh.put(PATH, "", PORTS).await.is(401, "registration.unauthenticated");
    mesh.put(PATH, "secret", PORTS).await.is(401, "registration.unauthenticated");
    let basic = mesh.ask("PUT", PATH, "", PORTS, &[("authorization", "Basic YTpi")]).await;
    basic.is(401, "registration.unauthenticated");
    assert!(basic.fields.iter().any(|(name, value)| name == "www-authenticate" && value.starts_with("Bearer")));

    let token = mesh.token("cart", Uses::Once);
    let (secret, _) = token.split_once('.').expect("three parts");
    mesh.put(PATH, &token[..token.len() / 2], PORTS).await.is(401, "token.malformed");
    mesh.put(PATH, &format!("{secret}a"), PORTS).await.is(401, "token.malformed");
    let other = Mesh::start().await;
    mesh.put(PATH, &other.token("cart", Uses::Once), PORTS).await.is(401, "token.unknown");
    mesh.put(PATH, "transept_lease_abc.default/cart-1", PORTS).await.is(401, "lease.unknown");
    // The secret part alone will do.
    assert_eq!(mesh.put(PATH, secret, PORTS).await.status, 201);
    mesh.put(PATH, secret, PORTS).await.is(401, "token.used");
    mesh.ask("GET", PATH, secret, "", &[]).await.is(401, "token.used");

    let revoked = mesh.token("cart", Uses::Many);
    let list = mesh.plane.answer(&Question::ListTokens).expect("a list");
    for one in list.as_array().expect("a list") {
        mesh.plane.revoke_token(one["id"].as_str().expect("an id")).expect("revoked");
    }
    mesh.put(PATH, &revoked, PORTS).await.is(401, "token.unknown");
}

#[tokio::test]
async fn hostile_input_gets_an_answer_and_nothing_else() {
    let mesh = Mesh::start().await;
    let token = mesh.token("cart", Uses::Many);
    assert_eq!(mesh.ask("GET", "/healthz", "", "", &[]).await.status, 200);
    for path in [
        "/",
        "/v1",
        "/v1/namespaces/default",
        "/v1/namespaces//workloads",
        "/v1/namespaces/default/workloads/",
        "/v1/namespaces/default/workloads/../tokens/beat/x",
        "/v1/namespaces/default/workloads/cart-1/beat/",
        "//v1/namespaces/default/workloads",
        "/v1/namespaces/default/secrets",
        "/healthz/",
        "/v2/namespaces/default/workloads",
    ] {
        mesh.ask("GET", path, &token, "", &[]).await.is(404, "registration.path_unknown");
    }
    for (method, path, allow) in [
        ("POST", PATH, "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/v1/namespaces/default/workloads", "GET, HEAD"),
        ("GET", "/v1/namespaces/default/workloads/cart-1/beat", "POST"),
        ("PUT", "/healthz", "GET, HEAD"),
    ] {
        let shown = mesh.ask(method, path, &token, "", &[]).await;
        shown.is(405, "registration.method_refused");
        assert!(shown.fields.iter().any(|(name, value)| name == "allow" && value == allow), "{method} {path}");
    }
    let large = format!("{{\"zone\": \"{}\"}}", "a".repeat(LARGEST));
    mesh.put(PATH, &token, &large).await.is(413, "registration.body_too_large");
    let deep = "[".repeat(LARGEST - 1);
    mesh.put(PATH, &token, &deep).await.is(400, "registration.body_malformed");
    mesh.put(PATH, &token, "ports: [{port: 80}]").await.is(400, "registration.body_malformed");
    mesh.put(PATH, &token, r#"{"ports": [{"port": 80}], "adress": "127.0.0.1"}"#).await.is(422, "registration.invalid");

    // A length that is never sent is not waited for, and heads that are none are refused.
    let endless = "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999\r\n\r\n";
    assert!(mesh.raw(endless.as_bytes()).await.starts_with("HTTP/1.1 413 "));
    let long = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(20 << 10));
    for bytes in [long.as_bytes(), b"\x16\x03\x01\x00\x05hello", b"GET / HTTP/9.9\r\n\r\n"] {
        let answer = mesh.raw(bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(mesh.put(PATH, &token, PORTS).await.status, 201);
}

#[tokio::test]
async fn in_clear_text_it_is_for_this_machine_alone() {
    for address in ["0.0.0.0:0", "[::]:0", "10.0.0.1:0"] {
        let refused =
            Api::bind(address.parse().expect("an address"), None, crate::plane::RATE).await.expect_err("refused");
        assert!(matches!(refused, ApiError::Clear(_)) && refused.to_string().contains("--api-tls-cert"), "{refused}");
    }
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let refused =
        Api::bind(taken.local_addr().expect("an address"), None, crate::plane::RATE).await.expect_err("taken");
    assert!(refused.to_string().contains("--api ADDR"), "{refused}");
}
