//! Tokens that are good for whom they were given to, and how a client finds its way to one: tokens of a real provider, proofs by a client in another
//! language, certificates on real connections.
//!
//! Where there is no provider (`tokens.rs`) the tests say so and pass, unless `TRANSEPT_REQUIRE_ALL=1`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tokio::process::Command;
use transept_testkit::certificates::{Authority, Identity, KeyKind, Usage};
use transept_testkit::client::{Endpoint, Protocol, Request, Tls, Trust, exchange};

use crate::stage::{Ask, Backend, Caller, Framed, Gateway, Setup, Up, soon};
use crate::tokens::{Provider, is_told_nowhere};

fn modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs")
}

fn policy(scheme: &str, more: &str) -> String {
    format!(
        "\
apiVersion: transept.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {{name: who}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all}}]
  failures: {{requests: 1000}}
  schemes: [{{name: token, {scheme}}}]
{more}---
{{apiVersion: v1, kind: Secret, metadata: {{name: gate}}, stringData: {{secret: gate-secret-planted, nonces: nonces-planted-0123456789abcdef0}}}}"
    )
}

fn signed(provider: &Provider, more: &str) -> String {
    format!("jwt: {{issuer: '{}', audiences: ['https://shop.test']{more}}}", provider.issuer)
}

fn opaque(provider: &Provider, more: &str) -> String {
    format!(
        "introspection: {{url: '{}/token/introspection', clientId: gate, clientSecret: {{name: gate, key: secret}}, anyAudience: true{more}}}",
        provider.issuer
    )
}

/// What the client that binds its tokens to a key has met.
async fn dpop(provider: &Provider, gateway: &Gateway, resource: &[&str]) -> Value {
    let mut command = Command::new("node");
    command.arg(modules().join("dpop.mjs")).arg(&provider.issuer);
    command.arg(format!("http://{}", gateway.address)).args(resource);
    let output = soon(command.output()).await.expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_proves_its_key_is_let_in_and_a_thief_is_not() {
    let Some(provider) = Provider::start().await else { return };
    let resource = ["https://shop.test/es"];
    for (scheme, resource) in [
        (signed(&provider, ""), &resource[..]),
        (signed(&provider, ", sender: Proof"), &resource[..]),
        (signed(&provider, ", proofNonces: {name: gate, key: nonces}, sender: Proof"), &resource[..]),
        (opaque(&provider, ", sender: Required"), &[]),
    ] {
        let backend = Backend::start(Up::Http1).await;
        let gateway = Setup::before(&backend).document(&policy(&scheme, "")).start().await;
        let _answering = backend.answer_with(|served| async move {
            let credentials = [served.field("authorization"), served.field("dpop")];
            let told = format!("{credentials:?} {}", served.field("x-auth-id").unwrap_or_default());
            served.answer(200, &told).await;
        });
        let met = dpop(&provider, &gateway, resource).await;
        assert_eq!(met["type"], "DPoP", "{met:#}");
        let asks = scheme.contains("proofNonces");
        assert_eq!(met["first"]["status"], if asks { 401 } else { 200 }, "{met:#}");
        let challenge = met["first"]["challenge"].as_str().unwrap_or_default();
        assert_eq!(challenge.starts_with("DPoP error=\"use_dpop_nonce\""), asks, "{challenge}");
        for good in ["good", "fresh"] {
            assert_eq!(met[good]["status"], 200, "{good}: {met:#}");
            assert_eq!(met[good]["body"], "[None, None] job");
        }
        for bad in ["again", "bearer", "unproved", "stolen", "elsewhere", "method", "other", "old"] {
            assert_eq!(met[bad]["status"], 401, "{bad}: {met:#}");
            let challenge = met[bad]["challenge"].as_str().expect("a challenge");
            assert!(challenge.contains("error=\"invalid_token\""), "{bad}: {challenge}");
            assert_eq!(challenge.contains("DPoP realm="), scheme.contains("sender"), "{bad}: {challenge}");
        }
        let token = met["token"].as_str().expect("a token");
        is_told_nowhere(&gateway, &[token, "gate-secret-planted", "nonces-planted"]).await;
    }
}

/// A token of the provider for a client that has shown this certificate to it.
async fn bound(provider: &Provider, client: &Identity, resource: &str) -> String {
    let certificate: String = client.certificate_pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let mut request = Request::get("127.0.0.1", "/token")
        .with("content-type", "application/x-www-form-urlencoded")
        .with("authorization", "Basic bWFjaGluZTptYWNoaW5lLXNlY3JldA==")
        .with("x-client-cert", &certificate);
    request.method = "POST".into();
    request.body = format!("grant_type=client_credentials&scope=orders.read{resource}").into_bytes();
    let answer = soon(exchange(&provider.endpoint, &request)).await.outcome.expect("an answer of the provider");
    let granted: Value = serde_json::from_slice(&answer.body).expect("JSON");
    granted["access_token"].as_str().unwrap_or_else(|| panic!("{granted}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_bound_to_a_certificate_is_good_on_connections_with_it() {
    let Some(provider) = Provider::start().await else { return };
    let site = Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["site.test"]).expect("a certificate");
    let clients = Authority::new(KeyKind::Ecdsa).expect("an authority");
    let issue = |name: &str| Arc::new(clients.issue(Usage::Client, &[name]).expect("a certificate"));
    let (own, other) = (issue("machine.test"), issue("other.test"));
    let elliptic = "&resource=https://shop.test/es";
    for (scheme, resource) in [
        (signed(&provider, ", sender: Certificate"), elliptic),
        (signed(&provider, ""), elliptic),
        (opaque(&provider, ""), ""),
    ] {
        let backend = Backend::start(Up::Http1).await;
        let setup = Setup::before(&backend).tls(&site).clients(&clients, "AllowValidOnly");
        let gateway = setup.document(&policy(&scheme, "")).start().await;
        let _answering = backend.answer_all();
        let token = bound(&provider, &own, resource).await;
        let address = gateway.address;
        let ask = |identity: Option<&Arc<Identity>>| {
            let trust = Trust::Leaf(site.certificate().expect("DER"));
            let tls = Tls { server_name: "site.test".to_owned(), trust, identity: identity.cloned() };
            let endpoint = Endpoint { address, protocol: Protocol::Http1, tls: Some(tls) };
            let request = Request::get("site.test", "/orders").with("authorization", &format!("Bearer {token}"));
            async move { soon(exchange(&endpoint, &request)).await.outcome.ok().map(|answer| answer.status) }
        };
        assert_eq!(ask(Some(&own)).await, Some(200), "{scheme}");
        assert_eq!(ask(Some(&other)).await, Some(401), "{scheme}");
        assert_eq!(ask(None).await, None, "{scheme}: the listener asks for one");
        is_told_nowhere(&gateway, &[&token]).await;
    }
}

/// What stands behind `name=` in a challenge.
fn parameter(challenge: &str, name: &str) -> String {
    let begin = format!("{name}=\"");
    let rest = challenge.split_once(&begin).unwrap_or_else(|| panic!("{challenge}")).1;
    rest.split('"').next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_knows_nothing_finds_its_way_from_a_refusal_to_a_token() {
    let Some(provider) = Provider::start().await else { return };
    let backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend).rule("matches: [{path: {value: /orders}}]");
    let url = format!("http://{}/orders", setup.last_address());
    let resource =
        format!("  resource: {{url: '{url}', authorizationServers: ['{}'], scopes: [orders.read]}}\n", provider.issuer);
    let setup = setup.document(&policy(&signed(&provider, ""), &resource)).document(
        "apiVersion: transept.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: may}\nspec:\n  \
         targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all}]\n  \
         allow: [{to: [{methods: [GET]}], from: [{scopes: [orders.read]}]}, {from: [{scopes: [orders.admin]}]}]",
    );
    let gateway = setup.start().await;
    let _answering = backend.answer_all();
    let endpoint = Endpoint::http1(gateway.address);
    let say = async |request: Request| soon(exchange(&endpoint, &request)).await.outcome.expect("an answer");
    let authority = gateway.address.to_string();
    let refusal = say(Request::get(&authority, "/orders")).await;
    assert_eq!(refusal.status, 401);
    let place = parameter(refusal.field("www-authenticate").expect("a challenge"), "resource_metadata");
    let target = place.strip_prefix(&format!("http://{authority}")).expect("it is on the same server");
    let found = say(Request::get(&authority, target)).await;
    assert_eq!((found.status, found.field("content-type")), (200, Some("application/json")));
    let metadata: Value = serde_json::from_slice(&found.body).expect("JSON");
    assert_eq!(metadata["resource"], url.as_str(), "{metadata}");
    assert_eq!(metadata["authorization_servers"][0], provider.issuer.as_str());
    assert_eq!(metadata["scopes_supported"][0], "orders.read");
    let token = provider.token("https://shop.test/rs").await;
    let mut request = Request::get(&authority, "/orders").with("authorization", &format!("Bearer {token}"));
    assert_eq!(say(request.clone()).await.status, 200);
    // And from a scope that is lacking to one that is not.
    request.method = "DELETE".into();
    let refusal = say(request).await;
    assert_eq!(refusal.status, 403);
    let challenge = refusal.field("www-authenticate").expect("a challenge");
    assert!(challenge.starts_with("Bearer realm=\"transept\", error=\"insufficient_scope\""), "{challenge}");
    assert_eq!(parameter(challenge, "scope"), "orders.admin");
    assert_eq!(parameter(challenge, "resource_metadata"), place);
    assert_eq!(say(Request::get(&authority, "/.well-known/other")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_has_opened_ends_when_the_provider_takes_its_key_back() {
    let Some(provider) = Provider::start().await else { return };
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).document(&policy(&signed(&provider, ""), "")).start().await;
    let shown = |token: &str| Ask::get("/events").with("authorization", &format!("Bearer {token}"));
    let token = provider.token("https://shop.test/es").await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(shown(&token)).await;
    let mut served = backend.next().await;
    served.begin(200, Framed::Open, &[]).await;
    served.send(b"1").await;
    call.head().await;
    assert_eq!(call.piece().await.expect("heard").as_deref(), Some(&b"1"[..]));
    let mut other = Caller::http11(gateway.address).await;
    let ask = shown(&token).with("connection", "Upgrade").with("upgrade", "websocket");
    let mut tunnel = other.ask(ask).await;
    let mut behind = backend.next().await;
    behind.send_raw(b"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    tunnel.head().await;
    assert_eq!(tunnel.status, 101);
    // The gateway hears of it by the next token, whoever shows it.
    provider.tell("rotate").await;
    let fresh = provider.token("https://shop.test/es").await;
    let mut third = Caller::http11(gateway.address).await;
    let (answer, ()) = tokio::join!(async { third.ask(shown(&fresh)).await.answer().await }, async {
        backend.next().await.answer(200, "in").await
    });
    assert_eq!(answer.0, 200);
    assert!(!matches!(call.piece().await, Ok(Some(_))), "the stream goes on");
    served.sees_the_end().await;
    assert!(behind.read_raw(1).await.is_err(), "the tunnel goes on");
}

#[tokio::test]
async fn an_upload_is_judged_again_before_anybody_has_answered_it() {
    let deny = "apiVersion: transept.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: who}\nspec:\n  \
         targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gate-0}]\n  \
         deny: [{name: stop, to: [{paths: [/upload]}]}]";
    let mut backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend);
    let mut gateway = setup.clone().start().await;
    let mut caller = Caller::http11(gateway.address).await;
    let mut call = caller.ask(Ask::post("/upload", Framed::Open)).await;
    call.send(b"first").await;
    let mut served = backend.next().await;
    assert_eq!(served.piece().await.expect("heard").as_deref(), Some(&b"first"[..]));
    gateway.reload(&setup.document(deny)).await;
    assert_eq!(call.answer().await.0, 403);
    served.sees_the_end().await;
}
