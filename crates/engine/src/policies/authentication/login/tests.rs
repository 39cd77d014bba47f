//! A whole login, with the provider and the browser played, and what goes wrong on the way. Sessions that are there already have a room of
//! their own (`sessions`).

mod logouts;
mod sessions;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::task::{Context, Waker};
use std::time::Duration;

use serde_json::{Value, json};
use transept_model::place::Invalid;
use transept_wire::head::{FieldId, Request, Response};

use super::super::super::Policy;
use super::super::super::tests::refusals;
use super::super::{AuthenticationPolicy, token_tests};
use crate::callout::{Answer, Callout, CalloutResult};
use crate::document::Step;
use crate::exchange::{Connection, Exchange, Notes, Now};
use crate::form;
use crate::jose::tests::Issuer;
use crate::keep::Keep;
use crate::login::challenge;
use crate::login::ended::{ENDED, End, Ended, Subject};
use crate::reason::Reason;
use crate::verdict::{Reply, Verdict};

const NOW: u64 = 1_800_000_000;
const SECRETS: &str = "\
{apiVersion: v1, kind: Secret, metadata: {name: login}, stringData: {client: 'client-planted', seal: 'seal-planted-0123456789abcdef0123', old: 'older-planted-0123456789abcdef012', short: abc}}
";
const LOGIN: &str = "issuer: 'https://login.test', clientId: shop, clientSecret: {name: login, key: client}, redirectUrl: 'https://shop.test/oauth2/callback', session: {secret: {name: login, key: seal}}";

fn spec(more: &str) -> String {
    format!("schemes: [{{name: browser, login: {{{LOGIN}{more}}}}}]\n")
}

fn compile(spec: &str, keep: &Keep) -> (Option<AuthenticationPolicy>, Vec<Invalid>) {
    token_tests::compile(spec, SECRETS, keep)
}

/// A site whose browsers log in, and its provider.
struct Site {
    policy: AuthenticationPolicy,
    keep: Keep,
    issuer: Issuer,
    now: u64,
    drawn: u8,
    /// What the provider says to whoever asks for tokens: an answer, or nothing at all.
    tokens: Option<(u16, Value)>,
    /// The forms that it was sent.
    asked: Vec<String>,
    /// Those by which tokens were taken back.
    revoked: Vec<String>,
    /// What was brought to the disk; None while it is full.
    disk: Option<Vec<(Subject, End)>>,
}

/// A browser with its cookies.
#[derive(Clone, Default)]
struct Browser {
    cookies: BTreeMap<String, String>,
}

impl Browser {
    fn request(&self, method: &str, target: &str, fields: &[(&str, &str)]) -> Request {
        let (host, target) = target.strip_prefix("https://").map_or(("shop.test", target), |rest| {
            let at = rest.find('/').expect("a path");
            rest.split_at(at)
        });
        let mut request = Request::build(method, "https", host, target).expect("a request");
        for (name, value) in fields {
            request.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
        }
        let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !pairs.is_empty() {
            request.fields.push_bytes(b"cookie", pairs.join("; ").as_bytes()).expect("a field");
        }
        request
    }
}

/// What became of a request.
struct Came {
    verdict: Verdict,
    request: Request,
    notes: Notes,
    set: Vec<String>,
}

impl Came {
    fn reply(&self) -> &Reply {
        match &self.verdict {
            Verdict::Respond(reply) => reply,
            other => panic!("{other:?} instead of a reply; told: {:?}", self.notes.told),
        }
    }

    fn location(&self) -> String {
        let field = self.reply().fields.iter().find(|(name, _)| name.id() == FieldId::LOCATION);
        String::from_utf8(field.expect("a location").1.clone()).expect("text")
    }

    fn cause(&self) -> &str {
        self.reply().cause.as_deref().unwrap_or_default()
    }
}

fn parameter(url: &str, name: &str) -> String {
    let query = url.split_once('?').map_or(url, |(_, query)| query);
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let value = value.unwrap_or_else(|| panic!("no {name} in {url}"));
    form::decoded(value.as_bytes(), |bytes| String::from_utf8(bytes.to_vec()).expect("text"))
}

impl Site {
    fn new(more: &str) -> Site {
        Site::with_spec(&spec(more))
    }

    fn with_spec(spec: &str) -> Site {
        let keep = Keep::default();
        let policy = Site::policy(spec, &keep);
        Site {
            policy,
            keep,
            issuer: Issuer::new(),
            now: NOW,
            drawn: 0,
            tokens: None,
            asked: Vec::new(),
            revoked: Vec::new(),
            disk: Some(Vec::new()),
        }
    }

    fn policy(spec: &str, keep: &Keep) -> AuthenticationPolicy {
        let (policy, problems) = compile(spec, keep);
        assert!(problems.is_empty(), "{problems:?}");
        policy.expect("a policy")
    }

    /// The configuration changes; what is remembered stays.
    fn reload(&mut self, spec: &str) {
        self.policy = Site::policy(spec, &self.keep);
    }

    fn with<R>(
        &self,
        request: &mut Request,
        notes: &mut Notes,
        go: impl FnOnce(&AuthenticationPolicy, &mut Exchange<'_>) -> R,
    ) -> R {
        let address: SocketAddr = "127.0.0.1:443".parse().expect("an address");
        let mut x = Exchange {
            now: Now { monotonic: Duration::from_secs(self.now - NOW + 5), unix: Duration::from_secs(self.now) },
            random: 1,
            connection: &Connection::new(address, address, None),
            client: "192.0.2.1".parse().expect("an address"),
            listener_port: 443,
            request,
            notes,
        };
        go(&self.policy, &mut x)
    }

    fn perform(&mut self, callout: Callout) -> CalloutResult {
        match callout {
            Callout::Refresh { document, occasion } => {
                let now = Duration::from_secs(self.now - NOW + 5);
                if let Some(mut fetch) = document.begin(&occasion, now) {
                    fetch.first();
                    let description = json!({
                        "issuer": "https://login.test", "jwks_uri": "https://login.test/keys",
                        "authorization_endpoint": "https://login.test/authorize?tenant=1",
                        "token_endpoint": "https://login.test/token", "end_session_endpoint": "https://login.test/end",
                        "revocation_endpoint": "https://login.test/revoke",
                    });
                    let keys = json!({"keys": [self.issuer.ec_jwk()]});
                    for said in [description, keys] {
                        if let Step::Over(over) = fetch.take(answered(200, &said), now) {
                            over.expect("it goes well");
                        }
                    }
                }
                CalloutResult::Refreshed
            }
            Callout::Random(count) => {
                self.drawn += 1;
                CalloutResult::Random(vec![self.drawn; count])
            }
            Callout::Detached(call, receiver) if call.request.path() == b"/revoke" => {
                self.revoked.push(String::from_utf8(call.body.clone()).expect("text"));
                (receiver.0)(answered(200, &json!({})));
                CalloutResult::Waited
            }
            Callout::Detached(call, receiver) => {
                self.asked.push(String::from_utf8(call.body.clone()).expect("text"));
                assert_eq!(call.request.path(), b"/token");
                (receiver.0)(match &self.tokens {
                    Some((status, said)) => answered(*status, said),
                    None => CalloutResult::Failed("login.test: nobody answers".into()),
                });
                CalloutResult::Waited
            }
            Callout::Wait(mut wait) => {
                let ended = self.keep.known::<Ended>(ENDED).expect("the list");
                let mut is_over = || wait.until.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
                let batch = ended.take_unwritten();
                match &mut self.disk {
                    Some(written) => {
                        assert!(!is_over(), "nothing is written yet");
                        written.extend(batch.ends.iter().copied());
                        ended.note_written(&batch);
                    }
                    None => {
                        ended.note_unwritten(batch);
                        ended.note_health(false);
                    }
                }
                assert!(is_over());
                CalloutResult::Waited
            }
            other => panic!("{other:?}"),
        }
    }

    fn ask(&mut self, browser: &mut Browser, method: &str, target: &str, fields: &[(&str, &str)]) -> Came {
        let request = browser.request(method, target, fields);
        self.send(browser, request, &[])
    }

    /// What becomes of a request with this content, and what it leaves in the browser.
    fn send(&mut self, browser: &mut Browser, mut request: Request, content: &[u8]) -> Came {
        let mut notes = Notes::told();
        let mut verdict = self.with(&mut request, &mut notes, |policy, x| policy.on_request(x));
        while let Verdict::Call(callout) = verdict {
            let result = match *callout {
                Callout::Body { most } if content.len() > most => CalloutResult::BodyTooLarge,
                Callout::Body { .. } => CalloutResult::Body(content.into()),
                other => self.perform(other),
            };
            verdict = self.with(&mut request, &mut notes, |policy, x| policy.on_callout(x, result));
        }
        let mut response = Response::new(200);
        self.with(&mut request, &mut notes, |policy, x| policy.on_response(x, &mut response));
        let mut set: Vec<Vec<u8>> = response.fields.all(FieldId::SET_COOKIE).map(<[u8]>::to_vec).collect();
        if let Verdict::Respond(reply) = &verdict {
            let cookies = reply.fields.iter().filter(|(name, _)| name.id() == FieldId::SET_COOKIE);
            set.extend(cookies.map(|(_, value)| value.clone()));
        }
        let set: Vec<String> = set.into_iter().map(|one| String::from_utf8(one).expect("text")).collect();
        for one in &set {
            let (pair, attributes) = one.split_once(';').expect("attributes");
            let (name, value) = pair.split_once('=').expect("a pair");
            assert!(
                one.len() < 4096 && attributes.starts_with(" Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age="),
                "{one}"
            );
            match attributes.ends_with("Max-Age=0") {
                true => browser.cookies.remove(name),
                false => browser.cookies.insert(name.to_owned(), value.to_owned()),
            };
        }
        Came { verdict, request, notes, set }
    }

    /// A browser opens a page.
    fn open(&mut self, browser: &mut Browser, target: &str) -> Came {
        self.ask(browser, "GET", target, &[("sec-fetch-mode", "navigate"), ("accept", "text/html")])
    }

    fn id_token(&self, changes: Value) -> String {
        let mut claims =
            json!({"iss": "https://login.test", "aud": "shop", "sub": "ann", "exp": self.now + 300, "iat": self.now});
        for (name, value) in changes.as_object().expect("changes") {
            claims[name] = value.clone();
        }
        self.issuer.token_of("ES256", &json!({"alg": "ES256", "kid": "e"}).to_string(), &claims.to_string())
    }

    /// Goes as far as the provider, and gives what it is asked with.
    fn begin(&mut self, browser: &mut Browser, target: &str) -> String {
        let came = self.open(browser, target);
        assert_eq!(came.reply().reason, Reason::LoginRequired);
        came.location()
    }

    /// Comes back with a code.
    fn come_back(&mut self, browser: &mut Browser, to: &str) -> Came {
        let state = parameter(to, "state");
        self.open(browser, &format!("/oauth2/callback?code=code-planted&state={state}"))
    }

    /// A whole login, after which the tokens are good for five minutes.
    fn log_in(&mut self, browser: &mut Browser, more: Value) -> Came {
        let to = self.begin(browser, "/cart?page=2");
        let mut said = json!({
            "token_type": "Bearer", "access_token": "access-planted", "expires_in": 300,
            "id_token": self.id_token(json!({"nonce": parameter(&to, "nonce")})),
        });
        for (name, value) in more.as_object().expect("changes") {
            said[name] = value.clone();
        }
        self.tokens = Some((200, said));
        self.come_back(browser, &to)
    }
}

fn answered(status: u16, said: &Value) -> CalloutResult {
    CalloutResult::Answered(Box::new(Answer { status, body: said.to_string().into_bytes(), ..Answer::default() }))
}

#[test]
fn a_browser_logs_in_and_comes_back_to_the_page_it_wanted() {
    let mut site = Site::new(", scopes: [profile], parameters: [{name: prompt, value: login}]");
    let mut browser = Browser::default();
    let to = site.begin(&mut browser, "/cart?page=2");
    assert!(to.starts_with("https://login.test/authorize?tenant=1&response_type=code&client_id=shop&"), "{to}");
    assert_eq!(parameter(&to, "redirect_uri"), "https://shop.test/oauth2/callback");
    assert_eq!((parameter(&to, "scope"), parameter(&to, "prompt")), ("openid profile".into(), "login".into()));
    assert_eq!(parameter(&to, "code_challenge_method"), "S256");
    assert_eq!(browser.cookies.len(), 1, "{:?}", browser.cookies);

    let token = site.id_token(json!({"nonce": parameter(&to, "nonce"), "groups": ["staff"]}));
    site.tokens = Some((
        200,
        json!({"token_type": "bearer", "access_token": "access-planted", "expires_in": 300, "id_token": token, "scope": "openid profile"}),
    ));
    let came = site.come_back(&mut browser, &to);
    assert_eq!((came.reply().reason, came.location()), (Reason::LoggedIn, "/cart?page=2".into()), "{}", came.cause());
    let form = site.asked[0].clone();
    assert_eq!(
        (parameter(&form, "grant_type"), parameter(&form, "code")),
        ("authorization_code".into(), "code-planted".into())
    );
    assert_eq!(challenge(&parameter(&form, "code_verifier")), parameter(&to, "code_challenge"));
    assert_eq!(browser.cookies.keys().collect::<Vec<_>>(), ["__Host-session"], "the state of the login is gone");

    browser.cookies.insert("site".into(), "1".into());
    let came = site.open(&mut browser, "/cart?page=2");
    assert!(came.verdict.goes_on(), "{:?} {:?}", came.verdict, came.notes.told);
    let principal = came.notes.principal.as_deref().expect("a principal");
    assert_eq!((principal.describe().as_str(), &*principal.groups[0]), ("user ann", "staff"));
    assert!(principal.has_scope("profile"), "what was granted");
    assert_eq!(principal.until, Some(Duration::from_secs(NOW + 300)));
    assert_eq!(came.request.fields.first(FieldId::COOKIE), Some(&b"site=1"[..]), "ours are for nobody else");
    assert!(!came.request.fields.contains(FieldId::AUTHORIZATION));
    let told = format!("{:?}{:?}", came.notes, site.policy);
    assert!(!told.contains("planted"), "{told}");
}

#[test]
fn programs_get_401_and_browsers_that_open_pages_are_sent_away() {
    let mut site = Site::new("");
    let html = ("accept", "text/html,application/xhtml+xml");
    for (method, fields, reason) in [
        ("GET", &[html][..], Reason::LoginRequired),
        ("HEAD", &[html], Reason::LoginRequired),
        ("GET", &[("sec-fetch-mode", "navigate")], Reason::LoginRequired),
        ("GET", &[("sec-fetch-mode", "cors"), html], Reason::CredentialsMissing),
        ("GET", &[html, ("x-requested-with", "XMLHttpRequest")], Reason::CredentialsMissing),
        ("GET", &[("accept", "*/*")], Reason::CredentialsMissing),
        ("GET", &[("sec-fetch-mode", "websocket"), html], Reason::CredentialsMissing),
        ("GET", &[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")], Reason::CredentialsMissing),
        ("GET", &[("sec-fetch-mode", "navigate"), ("sec-purpose", "prefetch;prerender")], Reason::CredentialsMissing),
        ("POST", &[html], Reason::CredentialsMissing),
    ] {
        let came = site.ask(&mut Browser::default(), method, "/", fields);
        assert_eq!(came.reply().reason, reason, "{method} {fields:?}");
        if reason == Reason::CredentialsMissing {
            let challenge = String::from_utf8_lossy(&came.reply().fields[0].1);
            assert_eq!(challenge, "Cookie realm=\"transept\", cookie-name=\"__Host-session\"");
            assert!(came.set.is_empty());
        }
    }
}

#[test]
fn an_answer_of_the_provider_belongs_to_one_browser_and_one_login() {
    let mut site = Site::new("");
    let mut browser = Browser::default();
    let to = site.begin(&mut browser, "/");
    let state = parameter(&to, "state");
    let back = |more: &str| format!("/oauth2/callback?{more}");
    let no_login = "the browser has begun no such login, or more than ten minutes ago";
    // Another browser, to whom somebody has given the link (login CSRF); a state that is not ours; one that is there twice.
    let mut other = Browser::default();
    for (browser, target) in [
        (&mut other, back(&format!("code=c&state={state}"))),
        (&mut browser.clone(), back(&format!("code=c&state={}A", &state[..21]))),
        (&mut browser.clone(), back("code=c")),
        (&mut browser.clone(), back(&format!("code=c&state={state}&state={state}"))),
    ] {
        let came = site.open(browser, &target);
        assert_eq!((came.reply().reason, came.cause()), (Reason::LoginFailed, no_login), "{target}");
    }
    for (more, why) in [
        ("error=access_denied", "the provider answers access_denied"),
        ("error=%3Cscript%3E", "the provider answers with an error"),
        ("code=c&iss=https://other.test", "the answer is by another provider (`iss`)"),
        ("code=", "the provider sent no code"),
    ] {
        let came = site.open(&mut browser.clone(), &back(&format!("{more}&state={state}")));
        assert_eq!((came.reply().reason, came.cause()), (Reason::LoginFailed, why));
    }
    assert!(site.asked.is_empty(), "the provider is asked for none of them");
    site.now += 600;
    assert_eq!(site.come_back(&mut browser, &to).cause(), no_login);
}

#[test]
fn what_the_provider_gives_is_held_against_what_was_asked() {
    let cases: &[(Value, &str)] = &[
        (json!({"nonce": "of another login"}), "of another login (`nonce`)"),
        (json!({"aud": "bank"}), "another audience"),
        (json!({"aud": ["shop", "bank"]}), "does not say for whom first"),
        (json!({"azp": "bank"}), "another client (`azp`)"),
        (json!({"iss": "https://other.test"}), "another issuer"),
        (json!({"exp": NOW - 31}), "expired"),
        (json!({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}), "not the one of the ID token"),
        (json!({"sub": null}), "whose it is"),
    ];
    for (changes, why) in cases {
        let mut site = Site::new("");
        let mut browser = Browser::default();
        let to = site.begin(&mut browser, "/");
        let mut claims = json!({"nonce": parameter(&to, "nonce")});
        claims.as_object_mut().expect("an object").extend(changes.as_object().expect("changes").clone());
        let token = site.id_token(claims);
        site.tokens = Some((200, json!({"token_type": "Bearer", "access_token": "a", "id_token": token})));
        let came = site.come_back(&mut browser, &to);
        assert_eq!(came.reply().reason, Reason::LoginFailed, "{changes}");
        assert!(came.cause().contains(why), "{changes}: {}", came.cause());
        assert!(!browser.cookies.contains_key("__Host-session"));
    }
    for (answer, reason, why) in [
        (Some((400, json!({"error": "invalid_grant"}))), Reason::LoginFailed, "the provider answers invalid_grant"),
        (Some((200, json!({"access_token": "a"}))), Reason::LoginFailed, "no ID token"),
        (
            Some((401, json!({"error": "invalid_client"}))),
            Reason::AuthenticationUnavailable,
            "our own client credentials",
        ),
        (Some((200, json!([]))), Reason::AuthenticationUnavailable, "cannot be understood"),
        (Some((500, json!({}))), Reason::AuthenticationUnavailable, "status 500"),
        (None, Reason::AuthenticationUnavailable, "nobody answers"),
    ] {
        let mut site = Site::new("");
        let mut browser = Browser::default();
        let to = site.begin(&mut browser, "/");
        site.tokens = answer;
        let came = site.come_back(&mut browser, &to);
        assert_eq!(came.reply().reason, reason, "{why}");
        assert!(came.cause().contains(why), "{}", came.cause());
    }
}

#[test]
fn an_id_token_with_another_key_or_kind_is_none() {
    for (header, is_ours, why) in [
        (json!({"alg": "ES256", "kid": "e", "typ": "at+jwt"}), true, "is an access token"),
        (json!({"alg": "ES256", "kid": "e", "typ": "logout+jwt"}), true, "of another kind"),
        (json!({"alg": "ES256", "kid": "e"}), false, "signature"),
        (json!({"alg": "none"}), true, "algorithm"),
    ] {
        let mut site = Site::new("");
        let mut browser = Browser::default();
        let to = site.begin(&mut browser, "/");
        let claims = json!({"iss": "https://login.test", "aud": "shop", "sub": "ann", "exp": NOW + 300, "nonce": parameter(&to, "nonce")});
        let other = Issuer::new();
        let signer = if is_ours { &site.issuer } else { &other };
        let token = signer.token_of("ES256", &header.to_string(), &claims.to_string());
        site.tokens = Some((200, json!({"id_token": token, "access_token": "a"})));
        let came = site.come_back(&mut browser, &to);
        assert!(came.cause().contains(why), "{header}: {}", came.cause());
    }
}

#[test]
fn the_backend_gets_the_access_token_when_the_policy_says_so() {
    let mut site = Site::new(", forwardAccessToken: true");
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({}));
    let came = site.ask(&mut browser, "POST", "/orders", &[]);
    assert!(came.verdict.goes_on());
    assert_eq!(came.request.fields.first(FieldId::AUTHORIZATION), Some(&b"Bearer access-planted"[..]));
    let (policy, _) = compile(&spec(", forwardAccessToken: true"), &site.keep);
    assert!(!format!("{policy:?}{:?}", came.notes.principal).contains("planted"));
}

#[test]
fn a_site_that_lets_in_everybody_has_a_page_to_log_in() {
    let mut site = Site::with_spec(&format!("{}require: [{{browser: []}}, {{}}]\n", spec(", loginPath: /login")));
    let mut browser = Browser::default();
    assert!(site.open(&mut browser, "/").verdict.goes_on());
    let came = site.open(&mut browser, "/login?return=%2Fcart%3Fpage%3D2");
    let to = came.location();
    let token = site.id_token(json!({"nonce": parameter(&to, "nonce")}));
    site.tokens = Some((200, json!({"id_token": token, "access_token": "a"})));
    assert_eq!(site.come_back(&mut browser, &to).location(), "/cart?page=2");
    let came = site.open(&mut browser, "/");
    assert_eq!(came.notes.principal.as_deref().map(|principal| principal.describe()).as_deref(), Some("user ann"));
    // Nobody is led to another site.
    let mut browser = Browser::default();
    let to = site.open(&mut browser, "/login?return=//evil.test/").location();
    let token = site.id_token(json!({"nonce": parameter(&to, "nonce")}));
    site.tokens = Some((200, json!({"id_token": token, "access_token": "a"})));
    assert_eq!(site.come_back(&mut browser, &to).location(), "/");
}

#[test]
fn guessing_codes_is_a_failure_of_the_client() {
    let mut site = Site::with_spec(&format!("{}failures: {{requests: 2}}\n", spec("")));
    let mut browser = Browser::default();
    let to = site.begin(&mut browser, "/");
    site.tokens = Some((400, json!({"error": "invalid_grant"})));
    let reasons: Vec<Reason> = (0..4).map(|_| site.come_back(&mut browser.clone(), &to).reply().reason).collect();
    assert_eq!(reasons[..2], [Reason::LoginFailed, Reason::LoginFailed]);
    assert_eq!(reasons[3], Reason::AuthenticationLimited, "{reasons:?}");
}

#[test]
fn pages_of_others_shut_nobody_out() {
    let mut site = Site::with_spec(&format!("{}failures: {{requests: 1}}\n", spec("")));
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({}));
    for _ in 0..5 {
        let image = site.ask(&mut Browser::default(), "GET", "/?1", &[("sec-fetch-mode", "no-cors")]);
        assert_eq!(image.reply().reason, Reason::CredentialsMissing);
        assert_eq!(
            site.open(&mut Browser::default(), "/oauth2/callback?code=c&state=s").reply().reason,
            Reason::LoginFailed
        );
        let logout = site.ask(&mut Browser::default(), "GET", "/oauth2/logout", &[("sec-fetch-site", "cross-site")]);
        assert_eq!(logout.reply().status, 403);
    }
    assert!(site.open(&mut browser, "/").verdict.goes_on());
    // Codes that are no good are a failure; who has a session stays in all the same.
    let to = site.begin(&mut Browser::default(), "/");
    let mut stranger = Browser::default();
    let begun = site.begin(&mut stranger, "/");
    assert_ne!(to, begun);
    site.tokens = Some((400, json!({"error": "invalid_grant"})));
    assert_eq!(site.come_back(&mut stranger, &begun).reply().reason, Reason::LoginFailed);
    assert_eq!(site.come_back(&mut stranger, &begun).reply().reason, Reason::AuthenticationLimited);
    assert!(site.open(&mut browser, "/").verdict.goes_on());
}

#[test]
fn a_code_is_shown_to_the_provider_once_however_often_the_browser_comes_back() {
    let mut site = Site::new("");
    let mut browser = Browser::default();
    let to = site.begin(&mut browser, "/cart");
    let token = site.id_token(json!({"nonce": parameter(&to, "nonce")}));
    site.tokens = Some((200, json!({"id_token": token, "access_token": "a"})));
    for _ in 0..3 {
        assert_eq!(site.come_back(&mut browser.clone(), &to).location(), "/cart");
    }
    assert_eq!(site.asked.len(), 1);
}

#[test]
fn a_provider_that_says_nothing_of_scopes_has_granted_what_was_asked_for() {
    let mut site =
        Site::with_spec(&format!("{}require: [{{browser: [orders.read]}}]\n", spec(", scopes: [orders.read]")));
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({}));
    assert!(site.open(&mut browser, "/").verdict.goes_on());
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({"scope": "openid"}));
    assert_eq!(site.open(&mut browser, "/").reply().reason, Reason::ScopeInsufficient);
}

#[test]
fn another_host_of_the_site_sends_browsers_to_the_one_that_has_sessions() {
    let mut site = Site::new("");
    let came = site.open(&mut Browser::default(), "https://www.shop.test/cart?page=2");
    assert_eq!(came.location(), "https://shop.test/cart?page=2");
    assert!(came.set.is_empty());
    // Its paths are its own.
    let came = site.ask(&mut Browser::default(), "GET", "https://www.shop.test/oauth2/logout", &[]);
    assert_eq!(came.reply().reason, Reason::CredentialsMissing);
    assert_eq!(
        site.ask(&mut Browser::default(), "GET", "https://SHOP.test:8443/oauth2/logout", &[]).reply().reason,
        Reason::LoggedOut
    );
}

#[test]
fn who_is_logged_in_and_lacks_something_else_is_not_sent_around() {
    let both = format!(
        "schemes: [{{name: browser, login: {{{LOGIN}}}}}, {{name: key, apiKey: {{}}}}]\nrequire: [{{browser: [], key: []}}]\n"
    );
    let mut site = Site::with_spec(&both);
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({}));
    assert_eq!(site.open(&mut browser, "/").reply().reason, Reason::CredentialsMissing);
}

#[test]
fn two_logins_have_pages_of_their_own() {
    let other = LOGIN
        .replace("/oauth2/callback", "/b/back")
        .replace("session: {", "logoutPath: /b/logout, session: {cookie: b, ");
    let two = format!("schemes: [{{name: a, login: {{{LOGIN}}}}}, {{name: b, login: {{{other}}}}}]\n");
    let mut site = Site::with_spec(&two);
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({}));
    let came = site.open(&mut browser, "/b/back?code=c&state=s");
    assert_eq!(came.reply().reason, Reason::LoginFailed, "it is not let in by the other session");
    assert_eq!(site.open(&mut browser, "/b/logout").reply().reason, Reason::LoggedOut);
    let same = two.replace("logoutPath: /b/logout, ", "");
    let (_, problems) = compile(&same, &Keep::default());
    assert!(problems[0].why.contains("belongs to the scheme `a` already"), "{problems:?}");
}

#[test]
fn what_a_client_writes_is_never_taken_for_the_token_of_the_provider() {
    let mut site =
        Site::with_spec(&format!("{}require: [{{browser: []}}, {{}}]\n", spec(", forwardAccessToken: true")));
    let own = [("authorization", "Bearer made-up")];
    let came = site.ask(&mut Browser::default(), "GET", "/", &own);
    assert!(came.verdict.goes_on() && !came.request.fields.contains(FieldId::AUTHORIZATION));
    site.reload(&spec(", forwardAccessToken: true"));
    let mut browser = Browser::default();
    site.log_in(&mut browser, json!({}));
    let came = site.ask(&mut browser, "GET", "/", &own);
    let values: Vec<&[u8]> = came.request.fields.all(FieldId::AUTHORIZATION).collect();
    assert_eq!(values, [&b"Bearer access-planted"[..]]);
}

#[test]
fn mistakes_are_told_with_a_remedy() {
    let wrong = |from: &str, to: &str| {
        let spec = spec("").replace(from, to);
        assert_ne!(spec, self::spec(""), "{from}");
        let (_, problems) = compile(&spec, &Keep::default());
        problems.first().unwrap_or_else(|| panic!("{to} is taken")).why.clone()
    };
    let callback = "'https://shop.test/oauth2/callback'";
    assert!(wrong(callback, "'http://shop.test/oauth2/callback'").contains("clear text"));
    assert!(wrong(callback, "'https://shop.test'").contains("that of the first page"));
    assert!(wrong(callback, "'https://shop.test/oauth2/logout'").contains("another meaning"));
    assert!(wrong(callback, "'https://shop.test/cb?x=1'").contains("has a query"));
    assert!(wrong("key: seal", "key: short").contains("fewer than 32 bytes"));
    assert!(wrong("key: seal", "key: none").contains("not have the entry that `key` names"));
    assert!(wrong("clientId: shop", "clientId: shop, logoutPath: logout").contains("no path of this site"));
    assert!(wrong("clientId: shop", "clientId: shop, afterLogout: '//evil.test'").contains("no path of this site"));
    assert!(
        wrong("clientId: shop", "clientId: shop, parameters: [{name: state, value: x}]").contains("gateway itself")
    );
    assert!(wrong("clientId: shop", "clientId: shop, scopes: ['a b']").contains("no scope"));
    assert!(
        wrong("clientId: shop", "clientId: shop, parameters: [{name: max_age, value: '60'}]").contains("not looked at")
    );
    assert!(wrong("{secret:", "{cookie: a.b, secret:").contains("holds a dot"));
    assert!(wrong(callback, "'https://shop.test/a/../b'").contains("in the form that paths have"));
    assert!(wrong("{secret:", "{lifetime: 800h, secret:").contains("lifetime"));
    assert!(
        refusals::<AuthenticationPolicy>("schemes: [{name: browser, login: {}}]\n").len() > 2,
        "what is required is named"
    );
}
