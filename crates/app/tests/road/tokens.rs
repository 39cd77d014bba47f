//! Tokens of a real OpenID provider: the npm package `oidc-provider`, run by Node (`tests/programs/provider.mjs`).
//!
//! Where it is not installed the tests say so and pass, unless `TRANSEPT_REQUIRE_ALL=1`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use transept_testkit::client::{Answer, Endpoint, Request, exchange};
use transept_testkit::launch::unused_port;
use transept_testkit::parts::lacks;

use crate::stage::{Answering, Backend, Gateway, PATIENCE, Setup, Up, soon};

const RSA: &str = "https://shop.test/rs";
const ELLIPTIC: &str = "https://shop.test/es";
/// The secret that the gateway shows to the provider, which nobody else may see.
const PLANTED: &str = "gate-secret-planted";

pub(crate) struct Provider {
    _child: Child,
    pub(crate) issuer: String,
    pub(crate) endpoint: Endpoint,
}

impl Provider {
    /// None where there is no such program.
    pub(crate) async fn start() -> Option<Provider> {
        let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
        let modules = home.join(".cache/transept-tools/node/node_modules");
        if !modules.join("oidc-provider").is_dir() {
            lacks("oidc-provider");
            return None;
        }
        let port = unused_port();
        let mut child = Command::new("node")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs/provider.mjs"))
            .arg(modules)
            .arg(port.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        // Its many files are read from a disk that others use, too.
        let line = tokio::time::timeout(PATIENCE * 4, lines.next_line()).await.expect("the provider starts in time");
        assert_eq!(line.expect("a line").as_deref(), Some("ready"));
        let address = ([127, 0, 0, 1], port).into();
        Some(Provider { _child: child, issuer: format!("http://127.0.0.1:{port}"), endpoint: Endpoint::http1(address) })
    }

    async fn say(&self, request: Request) -> Answer {
        soon(exchange(&self.endpoint, &request)).await.outcome.expect("an answer of the provider")
    }

    pub(crate) async fn tell(&self, what: &str) {
        let answer = self.say(Request::get("127.0.0.1", &format!("/test/{what}"))).await;
        assert_eq!(answer.status, 200, "{what}");
    }

    /// How often something was asked for.
    pub(crate) async fn count(&self, what: &str) -> u64 {
        let answer = self.say(Request::get("127.0.0.1", "/test/counts")).await;
        let counts: Value = serde_json::from_slice(&answer.body).expect("JSON");
        counts[what].as_u64().expect("a number")
    }

    /// A token for a resource, or an opaque one.
    pub(crate) async fn token(&self, resource: &str) -> String {
        let mut request = Request::get("127.0.0.1", "/token")
            .with("content-type", "application/x-www-form-urlencoded")
            .with("authorization", "Basic am9iOmpvYi1zZWNyZXQ=");
        request.method = "POST".into();
        request.body = format!("grant_type=client_credentials&scope=orders.read&resource={resource}").into_bytes();
        if resource.is_empty() {
            request.body = b"grant_type=client_credentials&scope=orders.read".to_vec();
        }
        let answer = self.say(request).await;
        let granted: Value = serde_json::from_slice(&answer.body).expect("JSON");
        granted["access_token"].as_str().unwrap_or_else(|| panic!("{granted}")).to_owned()
    }
}

fn policy(scheme: &str) -> String {
    format!(
        "\
apiVersion: transept.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {{name: who}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: gate-0}}]
  failures: {{requests: 1000}}
  schemes: [{{name: token, {scheme}}}]
  require: [{{token: [orders.read]}}]
---
{{apiVersion: v1, kind: Secret, metadata: {{name: gate}}, stringData: {{secret: {PLANTED}}}}}"
    )
}

fn signed(provider: &Provider) -> String {
    policy(&format!("jwt: {{issuer: '{}', audiences: ['https://shop.test']}}", provider.issuer))
}

fn opaque(provider: &Provider) -> String {
    policy(&format!(
        "introspection: {{url: '{}/token/introspection', clientId: gate, clientSecret: {{name: gate, key: secret}}, anyAudience: true}}",
        provider.issuer
    ))
}

/// A gateway of two workers with this policy.
fn guarded(backend: &Backend, policy: &str) -> Setup {
    let setup = Setup::before(backend).workers(2).document(policy);
    setup.argument("--access-log=stdout").argument("--access-log-format=json")
}

/// The same before a backend that answers everything.
async fn stage(policy: &str) -> (Gateway, Answering) {
    let backend = Backend::start(Up::Http1).await;
    let gateway = guarded(&backend, policy).start().await;
    (gateway, backend.answer_all())
}

async fn ask(gateway: &Gateway, token: &str) -> Answer {
    let request = Request::get("site.test", "/orders").with("authorization", &format!("Bearer {token}"));
    soon(exchange(&Endpoint::http1(gateway.address), &request)).await.outcome.expect("an answer")
}

/// What must be nowhere in what people read.
pub(crate) async fn is_told_nowhere(gateway: &Gateway, secrets: &[&str]) {
    let status = gateway.running.status().await.expect("status").to_string();
    let metrics = gateway.running.metrics().await.expect("metrics");
    let told = format!("{}{status}{metrics}", gateway.running.log());
    for secret in secrets {
        let tail = secret.rsplit('.').next().unwrap_or(secret);
        assert!(!told.contains(tail), "a secret was told: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_a_provider_are_found_and_its_rotation_under_load_is_followed_by_one_fetch() {
    let Some(provider) = Provider::start().await else { return };
    let (gateway, _backend) = stage(&signed(&provider)).await;
    let (rsa, elliptic) = (provider.token(RSA).await, provider.token(ELLIPTIC).await);
    for token in [&rsa, &elliptic, &rsa, &elliptic] {
        let answer = ask(&gateway, token).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    }
    assert_eq!((provider.count("descriptions").await, provider.count("keys").await), (1, 1));
    let line = soon(gateway.running.log_line_with("\"path\":\"/orders\"")).await;
    let record: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(record["principal_id"], "job", "{record}");

    provider.tell("rotate").await;
    let fresh = [provider.token(RSA).await, provider.token(ELLIPTIC).await];
    let load = (0..40).map(|number| {
        let (endpoint, token) = (Endpoint::http1(gateway.address), fresh[number % 2].clone());
        tokio::spawn(async move {
            let request = Request::get("site.test", "/new").with("authorization", &format!("Bearer {token}"));
            exchange(&endpoint, &request).await.outcome.expect("an answer").status
        })
    });
    for asked in load.collect::<Vec<_>>() {
        assert_eq!(soon(asked).await.expect("it ends"), 200);
    }
    assert_eq!(provider.count("keys").await, 2, "one fetch for all of them");
    // The old keys are gone, and what was good by them is not good any more.
    assert_eq!(ask(&gateway, &rsa).await.status, 401);
    let status = gateway.running.status().await.expect("status");
    assert_eq!(status["documents"][0]["fetched"], 2, "{status:#}");
    let metrics = gateway.running.metrics().await.expect("metrics");
    assert!(metrics.contains("transept_document_fetches_total{document=\""), "{metrics}");
    is_told_nowhere(&gateway, &[&rsa, &elliptic, &fresh[0], &fresh[1]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_good_by_a_key_that_is_gone_is_not_after_the_policy_was_out_of_force() {
    let Some(provider) = Provider::start().await else { return };
    let backend = Backend::start(Up::Http1).await;
    let in_force = guarded(&backend, &signed(&provider));
    let out_of_force = guarded(&backend, &signed(&provider).replace("name: gate-0", "name: elsewhere"));
    let mut gateway = in_force.start().await;
    let _backend = backend.answer_all();
    let token = provider.token(ELLIPTIC).await;
    assert_eq!(ask(&gateway, &token).await.status, 200);
    gateway.reload(&out_of_force).await;
    gateway.status_when(|status| status["documents"].as_array().is_none_or(Vec::is_empty)).await;
    provider.tell("rotate").await;
    gateway.reload(&in_force).await;
    gateway.status_when(|status| status["documents"][0]["fetched"] == 1).await;
    assert_eq!(ask(&gateway, &token).await.status, 401);
    assert_eq!(ask(&gateway, &provider.token(ELLIPTIC).await).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_away_keeps_nobody_from_being_ready_and_what_is_known_stays_in_use() {
    let Some(provider) = Provider::start().await else { return };
    let token = provider.token(ELLIPTIC).await;
    provider.tell("down").await;
    let (gateway, _backend) = stage(&signed(&provider)).await;
    let answer = ask(&gateway, &token).await;
    assert_eq!(answer.status, 503, "nobody can tell");
    assert!(String::from_utf8_lossy(&answer.body).contains("auth.unavailable"));
    assert_eq!(ask(&gateway, "no.token.atall").await.status, 401, "that needs no key");
    provider.tell("up").await;
    gateway.status_when(|status| status["documents"][0]["fetched"] == 1).await;
    assert_eq!(ask(&gateway, &token).await.status, 200);
    provider.tell("down").await;
    assert_eq!(ask(&gateway, &token).await.status, 200, "the keys are known");
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_may_be_thirty_seconds_apart() {
    let Some(provider) = Provider::start().await else { return };
    let (gateway, _backend) = stage(&signed(&provider)).await;
    for (skew, status) in [("-100", 200), ("-900", 401), ("20", 200), ("200", 401)] {
        provider.tell(&format!("skew?seconds={skew}")).await;
        let token = provider.token(ELLIPTIC).await;
        let answer = ask(&gateway, &token).await;
        assert_eq!(answer.status, status, "{skew}: {}", String::from_utf8_lossy(&answer.body));
        if status == 401 {
            assert_eq!(answer.field("www-authenticate"), Some("Bearer realm=\"transept\", error=\"invalid_token\""));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_somebody_else_or_without_the_scope_is_refused() {
    let Some(provider) = Provider::start().await else { return };
    let needs = signed(&provider).replace("orders.read]", "orders.write]");
    let (gateway, _backend) = stage(&needs).await;
    let answer = ask(&gateway, &provider.token(RSA).await).await;
    assert_eq!(answer.status, 403);
    let challenge = "Bearer realm=\"transept\", error=\"insufficient_scope\", scope=\"orders.write\"";
    assert_eq!(answer.field("www-authenticate"), Some(challenge));
    let elsewhere = provider.token("https://elsewhere.test/rs").await;
    assert_eq!(ask(&gateway, &elsewhere).await.status, 401);
    assert_eq!(ask(&gateway, &provider.token("").await).await.status, 401, "an opaque one");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opaque_token_is_looked_up_once_and_nobody_is_let_in_when_the_provider_is_away() {
    let Some(provider) = Provider::start().await else { return };
    let (gateway, _backend) = stage(&opaque(&provider)).await;
    let token = provider.token("").await;
    let load = (0..20).map(|_| {
        let (endpoint, token) = (Endpoint::http1(gateway.address), token.clone());
        tokio::spawn(async move {
            let request = Request::get("site.test", "/orders").with("authorization", &format!("Bearer {token}"));
            exchange(&endpoint, &request).await.outcome.expect("an answer").status
        })
    });
    for asked in load.collect::<Vec<_>>() {
        assert_eq!(soon(asked).await.expect("it ends"), 200);
    }
    assert_eq!(provider.count("lookups").await, 1, "one question for all of them");
    assert_eq!(ask(&gateway, "made-up").await.status, 401);
    let another = provider.token("").await;
    provider.tell("down").await;
    assert_eq!(ask(&gateway, &another).await.status, 503);
    assert_eq!(ask(&gateway, &token).await.status, 200, "it was looked up before");
    is_told_nowhere(&gateway, &[PLANTED, &token, &another]).await;
}
