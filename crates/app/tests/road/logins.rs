//! Browsers that log in at a real OpenID provider, through the real binary (`tokens` has the provider).

use std::collections::BTreeMap;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use transept_testkit::client::{Answer, Endpoint, Request, exchange};

use crate::stage::{Answering, Backend, Gateway, Setup, Up, soon};
use crate::tokens::{Provider, is_told_nowhere};

/// Secrets of the gateway, which are to be read nowhere.
const PLANTED: [&str; 2] = ["shop-secret-planted", "seal-planted-0123456789abcdef0123"];

fn policy(provider: &Provider) -> String {
    format!(
        "\
apiVersion: transept.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {{name: who}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: gate-0}}]
  schemes:
  - name: browser
    login:
      issuer: '{}'
      clientId: shop
      clientSecret: {{name: login, key: client}}
      redirectUrl: https://site.test/oauth2/callback
      afterLogout: /bye
      backChannelLogoutPath: /oauth2/backchannel
      session: {{secret: {{name: login, key: seal}}}}
---
{{apiVersion: v1, kind: Secret, metadata: {{name: login}}, stringData: {{client: {}, seal: {}}}}}",
        provider.issuer, PLANTED[0], PLANTED[1]
    )
}

/// A gateway of two workers before a backend that answers everything. What must outlive it is kept in this directory.
async fn stage(provider: &Provider, directory: &Path) -> (Gateway, Answering) {
    let backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend).workers(2).document(&policy(provider));
    let setup = setup.argument(format!("--quotas={}", directory.join("quotas.redb").display()));
    let gateway = setup.argument("--access-log=stdout").argument("--access-log-format=json").start().await;
    (gateway, backend.answer_all())
}

/// A browser: cookies by host, and redirects that are followed.
#[derive(Clone)]
struct Browser {
    site: Endpoint,
    provider: Endpoint,
    issuer: String,
    cookies: BTreeMap<(String, String), String>,
}

impl Browser {
    fn new(gateway: &Gateway, provider: &Provider) -> Browser {
        let site = Endpoint::http1(gateway.address);
        Browser { site, provider: provider.endpoint.clone(), issuer: provider.issuer.clone(), cookies: BTreeMap::new() }
    }

    /// One request of a page that is opened.
    async fn ask(&mut self, url: &str) -> Answer {
        self.send(url, None).await
    }

    /// The same, or a form that is sent.
    async fn send(&mut self, url: &str, form: Option<&str>) -> Answer {
        let (host, endpoint, target) = match url.strip_prefix("https://site.test") {
            Some(target) => ("site.test", &self.site, target),
            None => {
                let target = url.strip_prefix(&self.issuer).unwrap_or_else(|| panic!("sent to {url}"));
                (self.issuer.trim_start_matches("http://"), &self.provider, target)
            }
        };
        let mut request = Request::get(host, target).with("accept", "text/html").with("sec-fetch-mode", "navigate");
        if let Some(form) = form {
            request = request.with("content-type", "application/x-www-form-urlencoded");
            request.method = "POST".into();
            request.body = form.as_bytes().to_vec();
        }
        let ours = self.cookies.iter().filter(|((of, _), _)| of == host);
        let pairs: Vec<String> = ours.map(|((_, name), value)| format!("{name}={value}")).collect();
        if !pairs.is_empty() {
            request = request.with("cookie", &pairs.join("; "));
        }
        let answer = soon(exchange(endpoint, &request)).await.outcome.expect("an answer");
        let host = host.to_owned();
        for (_, cookie) in answer.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")) {
            let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
            let (name, value) = pair.split_once('=').expect("a pair");
            let key = (host.clone(), name.to_owned());
            match value.is_empty() || attributes.contains("Max-Age=0") {
                true => self.cookies.remove(&key),
                false => self.cookies.insert(key, value.to_owned()),
            };
        }
        answer
    }

    /// Opens a page, wherever that leads.
    async fn open(&mut self, url: &str) -> (String, Answer) {
        let mut url = url.to_owned();
        for _ in 0..12 {
            let answer = self.ask(&url).await;
            if !matches!(answer.status, 301..=303) {
                return (url, answer);
            }
            let to = answer.field("location").expect("a location");
            url = match to.strip_prefix('/') {
                Some(_) if url.starts_with("https://site.test") => format!("https://site.test{to}"),
                Some(_) => format!("{}{to}", self.issuer),
                None => to.to_owned(),
            };
        }
        panic!("it leads nowhere: {url}");
    }

    /// Logs out at the provider, which tells the gateway.
    async fn leave_the_provider(&mut self) {
        let page = self.ask(&format!("{}/session/end", self.issuer)).await;
        let page = String::from_utf8_lossy(&page.body).into_owned();
        let secret = page.split_once("name=\"xsrf\" value=\"").and_then(|(_, rest)| rest.split('"').next());
        let form = format!("xsrf={}&logout=yes", secret.unwrap_or_else(|| panic!("{page}")));
        let answer = self.send(&format!("{}/session/end/confirm", self.issuer), Some(&form)).await;
        assert!(answer.status < 400, "{answer:?}");
    }

    fn session(&self) -> Option<&String> {
        self.cookies.get(&("site.test".to_owned(), "__Host-session".to_owned()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_in_at_a_real_provider_and_out_again() {
    let Some(provider) = Provider::start().await else { return };
    let directory = tempfile::tempdir().expect("temporary directory");
    let (gateway, _backend) = stage(&provider, directory.path()).await;
    let mut browser = Browser::new(&gateway, &provider);
    let (url, answer) = browser.open("https://site.test/cart?page=2").await;
    assert_eq!((url.as_str(), answer.status), ("https://site.test/cart?page=2", 200), "{answer:?}");
    assert_eq!(provider.count("authorization_code").await, 1);
    let line = soon(gateway.running.log_line_with("\"status\":200")).await;
    let record: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (record["principal"].as_str(), record["principal_id"].as_str()),
        (Some("user"), Some("ann")),
        "{record}"
    );
    let callback = soon(gateway.running.log_line_with("/oauth2/callback")).await;
    assert!(callback.contains("/oauth2/callback?(hidden)"), "{callback}");

    // The next page needs nobody, also when the provider is away; a script without a session gets 401.
    provider.tell("down").await;
    assert_eq!(browser.open("https://site.test/orders").await.1.status, 200);
    let script = Request::get("site.test", "/orders").with("accept", "application/json");
    let answer = soon(exchange(&browser.site, &script)).await.outcome.expect("an answer");
    assert_eq!(answer.status, 401);
    provider.tell("up").await;

    let sealed = browser.session().expect("a session").clone();
    let copy = browser.clone();
    let answer = browser.ask("https://site.test/oauth2/logout").await;
    assert_eq!(answer.status, 302);
    let to = answer.field("location").expect("a location").to_owned();
    assert!(to.starts_with(&format!("{}/session/end?id_token_hint=", provider.issuer)), "{to}");
    let (_, answer) = browser.open(&to).await;
    assert_eq!(answer.status, 200, "the provider knows the token, the client and the page to go to: {answer:?}");
    assert!(browser.session().is_none());
    let mut copy =
        Browser { cookies: copy.cookies.into_iter().filter(|((host, _), _)| host == "site.test").collect(), ..browser };
    assert_eq!(copy.ask("https://site.test/").await.status, 302, "a copy of the cookie is no session any more");
    is_told_nowhere(&gateway, &[PLANTED[0], PLANTED[1], &sealed]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_logs_out_at_the_provider_is_out_here_without_the_browser() {
    let Some(provider) = Provider::start().await else { return };
    let directory = tempfile::tempdir().expect("temporary directory");
    let (gateway, _backend) = stage(&provider, directory.path()).await;
    provider.tell(&format!("gateway?at={}", gateway.address)).await;
    let mut browsers = [Browser::new(&gateway, &provider), Browser::new(&gateway, &provider)];
    for browser in &mut browsers {
        assert_eq!(browser.open("https://site.test/").await.1.status, 200);
    }
    let [one, other] = &mut browsers;
    let sealed = one.session().expect("a session").clone();
    one.leave_the_provider().await;
    let line = soon(gateway.running.log_line_with("/oauth2/backchannel")).await;
    let record: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((record["method"].as_str(), record["status"].as_u64()), (Some("POST"), Some(200)), "{record}");
    // Whichever of the two workers is asked.
    for _ in 0..4 {
        assert_eq!(one.ask("https://site.test/").await.status, 302, "the session was given up");
        assert_eq!(other.ask("https://site.test/").await.status, 200, "another session of the same person goes on");
    }
    let (_, answer) = one.open("https://site.test/").await;
    assert_eq!(answer.status, 200, "a new login counts");
    assert_eq!(one.ask("https://site.test/").await.status, 200);
    is_told_nowhere(&gateway, &[PLANTED[0], PLANTED[1], &sealed]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_that_the_provider_has_told_of_survives_a_sudden_end() {
    let Some(provider) = Provider::start().await else { return };
    let directory = tempfile::tempdir().expect("temporary directory");
    let (mut gateway, _backend) = stage(&provider, directory.path()).await;
    provider.tell(&format!("gateway?at={}", gateway.address)).await;
    let mut browsers = [Browser::new(&gateway, &provider), Browser::new(&gateway, &provider)];
    for browser in &mut browsers {
        assert_eq!(browser.open("https://site.test/").await.1.status, 200);
    }
    let [one, other] = &mut browsers;
    one.leave_the_provider().await;
    soon(gateway.running.log_line_with("/oauth2/backchannel")).await;
    gateway.running.signal(Signal::KILL).expect("killed");
    soon(gateway.running.ended()).await.expect("it has ended");
    let (gateway, _backend) = stage(&provider, directory.path()).await;
    for browser in [&mut *one, &mut *other] {
        browser.site = Endpoint::http1(gateway.address);
    }
    assert_eq!(one.ask("https://site.test/").await.status, 302, "the session stays given up");
    assert_eq!(other.ask("https://site.test/").await.status, 200, "another session of the same person goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_end_are_renewed_by_one_request_for_all() {
    let Some(provider) = Provider::start().await else { return };
    provider.tell("ttl?seconds=1").await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let (gateway, _backend) = stage(&provider, directory.path()).await;
    let mut browser = Browser::new(&gateway, &provider);
    assert_eq!(browser.open("https://site.test/").await.1.status, 200);
    // All from now on are good for long; the provider would end the session of who shows a refresh token twice.
    provider.tell("ttl?seconds=300").await;
    let first = browser.session().expect("a session").clone();
    let before = provider.count("refresh_token").await;
    let newer = loop {
        let load: Vec<_> = (0..8)
            .map(|_| {
                let mut one = browser.clone();
                tokio::spawn(async move { (one.ask("https://site.test/").await.status, one.session().cloned()) })
            })
            .collect();
        let mut newer = None;
        for asked in load {
            let (status, session) = soon(asked).await.expect("it ends");
            assert_eq!(status, 200);
            newer = session.filter(|session| *session != first).or(newer);
        }
        if let Some(newer) = newer {
            break newer;
        }
    };
    assert_eq!(provider.count("refresh_token").await, before + 1);
    browser.cookies.insert(("site.test".to_owned(), "__Host-session".to_owned()), newer);
    assert_eq!(browser.ask("https://site.test/").await.status, 200);
    assert_eq!(provider.count("refresh_token").await, before + 1);
}
