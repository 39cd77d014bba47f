//! The schemes that read tokens, in a whole policy: documents and answers of the issuer are played, and so is the time.

use std::time::Duration;

use std::net::SocketAddr;

use serde_json::json;
use transept_model::place::{Invalid, ObjectName, SourceText};
use transept_model::schema::Schema;
use transept_model::value::{Budget, read};
use transept_model::{Loaded, load};
use transept_wire::head::Request;

use super::super::tests::refusals;
use super::super::{MODEL_KINDS, Needs};
use super::*;
use crate::callout::{Answer, Callee, Callout};
use crate::document::{Documents, Occasion, Step};
use crate::exchange::{Connection, Notes, Now};
use crate::jose::tests::Issuer;
use crate::keep::Keep;
use crate::reason::Reason;
use crate::snapshot::{Backend, Endpoint, EndpointSet};

pub(super) const NOW: u64 = 1_800_000_000;

/// A policy with one issuer, at a time.
pub(super) struct Desk {
    pub(super) policy: AuthenticationPolicy,
    pub(super) keep: Keep,
    pub(super) now: u64,
}

/// A request under way.
pub(super) struct Visit {
    pub(super) request: Request,
    pub(super) notes: Notes,
}

const SECRETS: &str = "\
{apiVersion: v1, kind: Secret, metadata: {name: shared}, stringData: {key: 0123456789abcdef0123456789abcdef, short: abc, pem: \"-----BEGIN PUBLIC KEY-----\", client: 'pläin & secret'}}
---
";

/// A policy among Secrets and these objects, as though its configuration were in force.
pub(super) fn compile(spec: &str, extra: &str, keep: &Keep) -> (Option<AuthenticationPolicy>, Vec<Invalid>) {
    let text = format!("{SECRETS}{extra}");
    let Loaded { world, invalid, .. } = load(&[SourceText::new("world.yaml", &*text)], MODEL_KINDS);
    assert!(invalid.is_empty(), "{invalid:?}");
    let mut cx = Decoder::new("test.yaml".into());
    let (values, problems) = read(&SourceText::new("test.yaml", spec), &Budget::default());
    assert!(problems.is_empty(), "{problems:?}");
    let name = ObjectName { kind: "AuthenticationPolicy".into(), namespace: "default".into(), name: "test".into() };
    let mut needs = Needs::default();
    let policy = AuthenticationPolicySpec::decode(&values[0], &mut cx).and_then(|spec| {
        AuthenticationPolicy::compile(&spec, &mut CompileCx::new(&mut cx, &world, &name, keep, &mut needs))
    });
    for (document, source) in &needs.documents {
        document.go_live(source.clone());
    }
    for one in &needs.wanted {
        settle(&one.callee);
    }
    (policy, cx.into_problems())
}

fn settle(callee: &Callee) {
    let endpoints = EndpointSet::new(vec![Endpoint::at(SocketAddr::from(([127, 0, 0, 1], 9)))]);
    let _ = callee.set(Ok(Arc::new(Backend::for_tests(endpoints, None))));
}

impl Desk {
    pub(super) fn new(spec: &str) -> Desk {
        let keep = Keep::default();
        let (policy, problems) = compile(spec, "", &keep);
        assert!(problems.is_empty(), "{problems:?}");
        Desk { policy: policy.expect("a policy"), keep, now: NOW }
    }

    pub(super) fn visit<R>(
        &self,
        visit: &mut Visit,
        go: impl FnOnce(&AuthenticationPolicy, &mut Exchange<'_>) -> R,
    ) -> R {
        let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
        go(
            &self.policy,
            &mut Exchange {
                now: Now { monotonic: self.monotonic(), unix: Duration::from_secs(self.now) },
                random: 1,
                connection: &Connection::new(address, address, None),
                client: "192.0.2.1".parse().expect("an address"),
                listener_port: 80,
                request: &mut visit.request,
                notes: &mut visit.notes,
            },
        )
    }

    pub(super) fn monotonic(&self) -> Duration {
        Duration::from_secs(self.now - NOW + 5)
    }

    pub(super) fn ask(&self, token: &str) -> (Verdict, Visit) {
        let mut visit =
            Visit { request: Request::build("GET", "http", "a.test", "/").expect("a request"), notes: Notes::told() };
        if !token.is_empty() {
            let value = format!("Bearer {token}");
            visit.request.fields.push_bytes(b"Authorization", value.as_bytes()).expect("a field");
        }
        let verdict = self.visit(&mut visit, |policy, x| policy.on_request(x));
        (verdict, visit)
    }

    pub(super) fn resume(&self, visit: &mut Visit, result: CalloutResult) -> Verdict {
        self.visit(visit, |policy, x| policy.on_callout(x, result))
    }

    /// Asks, and plays the issuer's set of keys whenever it is asked for.
    pub(super) fn ask_with_keys(&self, token: &str, keys: &str) -> (Verdict, Visit, usize) {
        let (mut verdict, mut visit) = self.ask(token);
        let mut fetches = 0;
        while let Verdict::Call(callout) = verdict {
            let Callout::Refresh { document, occasion } = *callout else { panic!("a document is wanted") };
            let Some(mut fetch) = document.begin(&occasion, self.monotonic()) else { panic!("{occasion:?}") };
            fetches += 1;
            fetch.first();
            let Step::Over(_) = fetch.take(answer(200, keys), self.monotonic()) else { panic!("one call") };
            verdict = self.resume(&mut visit, CalloutResult::Refreshed);
        }
        (verdict, visit, fetches)
    }
}

pub(super) fn answer(status: u16, body: &str) -> CalloutResult {
    CalloutResult::Answered(Box::new(Answer { status, body: body.into(), ..Answer::default() }))
}

pub(super) fn reason(verdict: &Verdict) -> (Reason, String) {
    match verdict {
        Verdict::Respond(reply) => (reply.reason, reply.cause.as_deref().unwrap_or_default().to_owned()),
        other => panic!("{other:?} instead of a reply"),
    }
}

pub(super) fn keys_of(keys: &[serde_json::Value]) -> String {
    json!({ "keys": keys }).to_string()
}

pub(super) fn inline(issuer: &Issuer, more: &str) -> String {
    let keys = keys_of(&[issuer.rsa_jwk(), issuer.ec_jwk()]);
    format!(
        "schemes: [{{name: token, jwt: {{issuer: 'https://login.test', audiences: [shop], keys: {{inline: '{keys}'}}{more}}}}}]\n"
    )
}

pub(super) const FETCHED: &str = "\
schemes: [{name: token, jwt: {issuer: 'https://login.test', audiences: [shop], keys: {url: 'https://login.test/keys'}}}]
";

pub(super) fn token(issuer: &Issuer, kid: &str, changes: serde_json::Value) -> String {
    let mut claims = json!({"iss": "https://login.test", "aud": "shop", "sub": "7", "exp": NOW + 1000});
    for (name, value) in changes.as_object().expect("changes") {
        claims[name] = value.clone();
    }
    issuer.token_of("ES256", &json!({"alg": "ES256", "kid": kid}).to_string(), &claims.to_string())
}

#[test]
fn a_good_token_says_who_calls_and_goes_no_further() {
    let issuer = Issuer::new();
    let desk = Desk::new(&inline(&issuer, ", claims: {groups: realm.roles, plan: plan}"));
    let claims = json!({"scope": "a b", "scp": ["c"], "realm": {"roles": ["clerk"]}, "plan": "gold", "jti": "t1"});
    let (verdict, visit) = desk.ask(&token(&issuer, "e", claims));
    assert!(verdict.goes_on(), "{verdict:?}");
    let principal = visit.notes.principal.as_deref().expect("a principal");
    assert_eq!(principal.describe(), "user 7");
    assert_eq!(principal.scopes, ["a".into(), "b".into(), "c".into()]);
    assert_eq!((principal.groups[0].as_ref(), principal.plan.as_deref()), ("clerk", Some("gold")));
    assert_eq!(principal.credential.as_deref(), Some("t1"));
    assert_eq!(principal.until, Some(Duration::from_secs(NOW + 1030)));
    assert!(visit.request.fields.first(FieldId::AUTHORIZATION).is_none(), "the token is removed");
}

#[test]
fn a_token_that_a_client_got_for_itself_is_an_app() {
    let issuer = Issuer::new();
    let desk = Desk::new(&inline(&issuer, ""));
    for claims in [
        json!({"sub": "job", "client_id": "job"}),
        json!({"sub": "job", "azp": "job"}),
        json!({"sub": "job", "gty": "client-credentials"}),
        json!({"sub": "job", "idtyp": "app"}),
    ] {
        let (_, visit) = desk.ask(&token(&issuer, "e", claims));
        assert_eq!(visit.notes.principal.as_deref().expect("a principal").describe(), "app job");
    }
}

#[test]
fn a_token_that_is_no_good_gets_401_and_a_challenge_that_says_so() {
    let issuer = Issuer::new();
    let desk = Desk::new(&inline(&issuer, ""));
    let (verdict, _) = desk.ask("");
    let Verdict::Respond(reply) = &verdict else { panic!("{verdict:?}") };
    assert_eq!(reply.reason, Reason::CredentialsMissing);
    assert_eq!(reply.fields[0].1, b"Bearer realm=\"transept\"");
    for (bad, why) in [
        (token(&issuer, "e", json!({"exp": NOW - 31})), "expired"),
        (token(&issuer, "e", json!({"aud": "other"})), "another audience"),
        (token(&issuer, "e", json!({"iss": "https://other.test"})), "another issuer"),
        (token(&issuer, "x", json!({})), "unknown key"),
        (token(&Issuer::new(), "e", json!({})), "signature"),
        (token(&issuer, "e", json!({"sub": 7})), "whose it is"),
        ("opaque".to_owned(), "three parts"),
    ] {
        let (verdict, visit) = desk.ask(&bad);
        let (found, cause) = reason(&verdict);
        assert_eq!(found, Reason::CredentialsInvalid);
        assert!(cause.contains(why), "{cause}");
        let Verdict::Respond(reply) = &verdict else { panic!("{verdict:?}") };
        assert_eq!(reply.fields[0].1, b"Bearer realm=\"transept\", error=\"invalid_token\"");
        let told = format!("{:?}{cause}", visit.notes.told);
        let secret = bad.rsplit('.').next().expect("a part");
        assert!(!told.contains(secret), "{told}");
    }
}

#[test]
fn keys_come_when_the_first_token_does_and_new_ones_when_it_names_one() {
    let (old, new) = (Issuer::new(), Issuer::new());
    let mut desk = Desk::new(FETCHED);
    let first = keys_of(&[old.ec_jwk()]);
    let (verdict, _, fetches) = desk.ask_with_keys(&token(&old, "e", json!({})), &first);
    assert!(verdict.goes_on() && fetches == 1, "{verdict:?}");
    let mut rotated = new.ec_jwk();
    rotated["kid"] = json!("e2");
    let both = keys_of(&[old.ec_jwk(), rotated.clone()]);
    let (verdict, _, fetches) = desk.ask_with_keys(&token(&new, "e2", json!({})), &both);
    assert!(verdict.goes_on() && fetches == 1, "{verdict:?}");
    // A made-up name costs the issuer nothing for half a minute, and no more after it was not found.
    use Reason::{AuthenticationUnavailable as Unknown, CredentialsInvalid as Wrong};
    for (second, found, expected) in [(1, Unknown, 0), (29, Unknown, 0), (30, Wrong, 1), (61, Wrong, 0)] {
        desk.now = NOW + second;
        let (verdict, _, fetches) = desk.ask_with_keys(&token(&new, "made-up", json!({})), &both);
        assert_eq!((reason(&verdict).0, fetches), (found, expected), "at {second}");
    }
    // A key that is taken out is gone for tokens that were good before, too.
    assert!(desk.ask(&token(&old, "e", json!({}))).0.goes_on());
    let good = token(&old, "e", json!({}));
    assert!(desk.ask(&good).0.goes_on());
    desk.now = NOW + 700;
    let document = Documents::of(&desk.keep).all().remove(0);
    let mut fetch = document.begin(&Occasion::Due, desk.monotonic()).expect("due");
    fetch.first();
    assert!(matches!(fetch.take(answer(200, &keys_of(&[rotated])), desk.monotonic()), Step::Over(Ok(()))));
    let (verdict, _, _) = desk.ask_with_keys(&good, &both);
    assert!(verdict.goes_on(), "the issuer has it again: {verdict:?}");
}

/// Somebody's junk has spent the fetch of this half minute, and the issuer has a new key.
#[test]
fn who_shows_a_new_key_too_early_comes_again_and_is_not_blamed_but_who_guesses_is() {
    let (old, new) = (Issuer::new(), Issuer::new());
    let mut desk = Desk::new(FETCHED);
    let keys = keys_of(&[old.ec_jwk()]);
    assert!(desk.ask_with_keys(&token(&old, "e", json!({})), &keys).0.goes_on());
    let (verdict, _, fetches) = desk.ask_with_keys(&token(&new, "junk", json!({})), &keys);
    assert_eq!((reason(&verdict).0, fetches), (Reason::CredentialsInvalid, 1));
    let mut rotated = new.ec_jwk();
    rotated["kid"] = json!("e2");
    let both = keys_of(&[old.ec_jwk(), rotated]);
    desk.now = NOW + 10;
    for _ in 0..200 {
        let (verdict, _, _) = desk.ask_with_keys(&token(&new, "e2", json!({})), &both);
        let Verdict::Respond(reply) = &verdict else { panic!("{verdict:?}") };
        assert_eq!(reply.reason, Reason::AuthenticationUnavailable);
        assert_eq!(reply.fields.iter().map(|(_, value)| &**value).collect::<Vec<_>>(), [b"20"]);
    }
    assert!(desk.ask(&token(&old, "e", json!({}))).0.goes_on(), "the address is not locked out");
    desk.now = NOW + 30;
    assert!(desk.ask_with_keys(&token(&new, "e2", json!({})), &both).0.goes_on());
    // Names that nobody has shown before are guesses.
    let mut limited = 0;
    for number in 0..80 {
        let verdict = desk.ask(&token(&new, &format!("guess-{number}"), json!({}))).0;
        limited += usize::from(reason(&verdict).0 == Reason::AuthenticationLimited);
    }
    assert!((19..=22).contains(&limited), "{limited}");
}

#[test]
fn a_signature_by_a_key_without_a_name_causes_a_fetch_each_half_minute_at_most() {
    let (old, new) = (Issuer::new(), Issuer::new());
    let nameless = |issuer: &Issuer| {
        let mut key = issuer.ec_jwk();
        key.as_object_mut().expect("an object").remove("kid");
        keys_of(&[key])
    };
    let unnamed = |issuer: &Issuer| {
        let claims = json!({"iss": "https://login.test", "aud": "shop", "sub": "7", "exp": NOW + 1000});
        issuer.token_of("ES256", r#"{"alg":"ES256"}"#, &claims.to_string())
    };
    let mut desk = Desk::new(FETCHED);
    assert!(desk.ask_with_keys(&unnamed(&old), &nameless(&old)).0.goes_on());
    // The issuer has a new key: the token of it names none, or a name that no key has.
    let (verdict, _, fetches) = desk.ask_with_keys(&unnamed(&new), &nameless(&new));
    assert!(verdict.goes_on() && fetches == 1, "{verdict:?}");
    use Reason::{AuthenticationUnavailable as Unknown, CredentialsInvalid as Wrong};
    for (second, found, expected) in [(1, Unknown, 0), (29, Unknown, 0), (30, Wrong, 1), (31, Unknown, 0)] {
        desk.now = NOW + second;
        let (verdict, _, fetches) = desk.ask_with_keys(&token(&old, "e", json!({})), &nameless(&new));
        assert_eq!((reason(&verdict).0, fetches), (found, expected), "at {second}");
    }
    // Where all have names, a wrong signature is a wrong signature.
    desk.now = NOW + 700;
    let named = keys_of(&[new.ec_jwk()]);
    let document = Documents::of(&desk.keep).all().remove(0);
    let mut fetch = document.begin(&Occasion::Due, desk.monotonic()).expect("due");
    fetch.first();
    assert!(matches!(fetch.take(answer(200, &named), desk.monotonic()), Step::Over(Ok(()))));
    assert_eq!(desk.ask_with_keys(&token(&old, "e", json!({})), &named).2, 0);
    assert_eq!(desk.ask_with_keys(&unnamed(&old), &named).2, 1, "the token names none");
}

#[test]
fn without_keys_nobody_can_tell_and_the_client_is_not_to_blame() {
    let issuer = Issuer::new();
    let desk = Desk::new(FETCHED);
    let good = token(&issuer, "e", json!({}));
    let (verdict, _, _) = desk.ask_with_keys(&good, "broken");
    let (found, cause) = reason(&verdict);
    assert_eq!(found, Reason::AuthenticationUnavailable);
    assert!(cause.contains("https://login.test/keys: it is no set of keys"), "{cause}");
    // It has just failed, and is not asked again for each request; what needs no key to be refused is refused.
    assert_eq!(reason(&desk.ask(&good).0).0, Reason::AuthenticationUnavailable);
    assert_eq!(reason(&desk.ask("a.b").0).0, Reason::CredentialsInvalid);
    let other = token(&issuer, "e", json!({"iss": "https://other.test"}));
    assert_eq!(reason(&desk.ask(&other).0).0, Reason::CredentialsInvalid);
}

#[test]
fn an_explanation_believes_the_token_and_says_so() {
    let issuer = Issuer::new();
    let desk = Desk::new(FETCHED);
    let (verdict, mut visit) = desk.ask(&token(&issuer, "e", json!({})));
    assert!(matches!(&verdict, Verdict::Call(callout) if callout.describe() == "fetches https://login.test/keys"));
    assert!(desk.resume(&mut visit, CalloutResult::Assumed).goes_on());
    let told = visit.notes.told.expect("an explanation").lines;
    assert!(told[0].contains("taken to be good") && told[1].contains("user 7"), "{told:?}");
}

#[test]
fn a_shared_secret_signs_and_nothing_else_does() {
    let spec = |entry: &str, more: &str| {
        format!(
            "schemes: [{{name: token, jwt: {{issuer: i, audiences: [shop], keys: {{sharedSecret: {{name: shared, key: {entry}}}}}{more}}}}}]\n"
        )
    };
    let keep = Keep::default();
    let (policy, problems) = compile(&spec("key", ""), "", &keep);
    assert!(policy.is_some(), "{problems:?}");
    for (entry, more, why) in [
        ("short", "", "fewer than 32 bytes"),
        ("pem", "", "a key of a pair"),
        ("missing", "", "not have the entry that `key` names"),
        ("key", ", algorithms: [RS256]", "does not go with keys of this kind"),
    ] {
        let (policy, problems) = compile(&spec(entry, more), "", &keep);
        assert!(policy.is_none() || !problems.is_empty());
        let told = format!("{problems:?}");
        assert!(told.contains(why), "{told}");
        assert!(!told.contains("0123456789abcdef"), "{told}");
    }
}

#[test]
fn common_mistakes_are_told_with_a_remedy() {
    let issuer = Issuer::new();
    let jwt = |inner: &str| format!("schemes: [{{name: token, jwt: {{{inner}}}}}]\n");
    let mut private = issuer.rsa_jwk();
    private["d"] = json!("AQAB");
    for (inner, why) in [
        ("issuer: 'https://a.test'".to_owned(), "names no audience"),
        ("issuer: 'https://a.test', audiences: [a], anyAudience: true".to_owned(), "either some audiences or any"),
        ("issuer: 'http://a.test', audiences: [a]".to_owned(), "asked in clear text"),
        ("issuer: a.test, audiences: [a]".to_owned(), "is not an https URL"),
        ("issuer: 'https://a.test', audiences: [a], algorithms: [HS256]".to_owned(), "HS256 does not go"),
        ("issuer: 'https://a.test', audiences: [a], leeway: 301s".to_owned(), "above 300s"),
        ("issuer: 'https://a.test', audiences: [a], algorithms: [none]".to_owned(), "none"),
        ("issuer: 'https://a.test', audiences: [a], algorithms: []".to_owned(), "asks for nothing"),
        ("issuer: 'https://a.test', audiences: [a], types: []".to_owned(), "asks for nothing"),
        ("issuer: 'https://a.test', audiences: [a], authorizedParties: []".to_owned(), "asks for nothing"),
        (
            "issuer: 'https://a.test', audiences: [a], requiredClaims: [{name: role, values: []}]".to_owned(),
            "asks for nothing",
        ),
        (format!("issuer: i, audiences: [a], keys: {{inline: '{}'}}", keys_of(&[private])), "private half"),
        (
            format!("issuer: i, audiences: [a], keys: {{inline: '{}'}}", keys_of(&[json!({"kty": "oct", "k": "AA"})])),
            "shared secret",
        ),
        (
            format!(
                "issuer: i, audiences: [a], algorithms: [EdDSA], keys: {{inline: '{}'}}",
                keys_of(&[issuer.ec_jwk()])
            ),
            "none of the keys fits",
        ),
        ("issuer: i, audiences: [a], keys: {inline: '{}', url: 'https://a.test'}".to_owned(), "in several places"),
    ] {
        let problems = refusals::<AuthenticationPolicy>(&jwt(&inner));
        assert!(problems.iter().any(|problem| problem.why.contains(why)), "{inner}: {problems:?}");
        assert!(problems.iter().all(|problem| problem.remedy.is_some()), "{problems:?}");
    }
}

pub(super) const INTROSPECTION: &str = "\
schemes: [{name: token, introspection: {url: 'https://login.test/look', clientId: gate, clientSecret: {name: shared, key: client}, anyAudience: true}}]
";

pub(super) fn looked_up(verdict: Verdict) -> Box<crate::callout::HttpCall> {
    match verdict {
        Verdict::Call(callout) => match *callout {
            Callout::Http(call) => call,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_opaque_token_is_looked_up_once_a_minute() {
    let mut desk = Desk::new(INTROSPECTION);
    let (verdict, mut visit) = desk.ask("opaque+1");
    let call = looked_up(verdict);
    assert_eq!(call.body, b"token=opaque%2B1&token_type_hint=access_token");
    let basic = data_encoding::BASE64.encode("gate:pl%C3%A4in%20%26%20secret".as_bytes());
    assert_eq!(call.request.fields.first(FieldId::AUTHORIZATION), Some(format!("Basic {basic}").as_bytes()));
    // Who comes meanwhile waits.
    let (waits, mut other) = desk.ask("opaque+1");
    assert!(matches!(&waits, Verdict::Call(callout) if matches!(**callout, Callout::Wait(_))));
    let active = r#"{"active":true,"sub":"7","scope":"a b","client_id":"web"}"#;
    assert!(desk.resume(&mut visit, answer(200, active)).goes_on());
    assert!(desk.resume(&mut other, CalloutResult::Waited).goes_on());
    assert_eq!(other.notes.principal.as_deref().expect("a principal").scopes.len(), 2);
    desk.now = NOW + 59;
    assert!(desk.ask("opaque+1").0.goes_on());
    desk.now = NOW + 60;
    let _ = looked_up(desk.ask("opaque+1").0);
}

#[test]
fn what_is_remembered_bears_no_name_that_a_scheme_had_before() {
    let issuer = Issuer::new();
    let jwt = inline(&issuer, "");
    for (spec, token) in [(&*jwt, token(&issuer, "e", json!({}))), (INTROSPECTION, "opaque".to_owned())] {
        let desk = Desk::new(spec);
        let ask = |desk: &Desk| {
            let (verdict, mut visit) = desk.ask(&token);
            let verdict = match verdict {
                Verdict::Call(_) => desk.resume(&mut visit, answer(200, r#"{"active":true,"sub":"7"}"#)),
                verdict => verdict,
            };
            assert!(verdict.goes_on(), "{verdict:?}");
            visit.notes.principal.expect("a principal").scheme.to_string()
        };
        let name = ask(&desk);
        let renamed = spec.replacen(&format!("name: {name}"), "name: partner", 1);
        let (policy, problems) = compile(&renamed, "", &desk.keep);
        assert!(problems.is_empty(), "{problems:?}");
        let desk = Desk { policy: policy.expect("a policy"), ..desk };
        assert_eq!((&*name == "partner", &*ask(&desk)), (false, "partner"));
    }
}

#[test]
fn where_no_answer_is_remembered_nobody_waits_for_that_of_another() {
    let desk = Desk::new(&INTROSPECTION.replace("anyAudience", "remember: 0s, anyAudience"));
    let (first, mut one) = desk.ask("opaque");
    let (second, mut other) = desk.ask("opaque");
    let _ = (looked_up(first), looked_up(second));
    let active = r#"{"active":true,"sub":"7"}"#;
    assert!(desk.resume(&mut one, answer(200, active)).goes_on());
    assert!(desk.resume(&mut other, answer(200, active)).goes_on());
    let _ = looked_up(desk.ask("opaque").0);
}

#[test]
fn what_is_remembered_outlives_a_change_of_the_lines_above() {
    let mut desk = Desk::new(INTROSPECTION);
    let (_, mut visit) = desk.ask("opaque");
    assert!(desk.resume(&mut visit, answer(200, r#"{"active":true,"sub":"7"}"#)).goes_on());
    let again = |spec: &str, desk: &Desk| compile(spec, "", &desk.keep).0.expect("a policy");
    let moved = again(&format!("# Moved.\n\n{INTROSPECTION}"), &desk);
    let before = std::mem::replace(&mut desk.policy, moved);
    assert!(desk.ask("opaque").0.goes_on());
    let other = INTROSPECTION.replace("anyAudience: true", "anyAudience: true, owner: User");
    desk.policy = again(&other, &desk);
    let _ = looked_up(desk.ask("opaque").0);
    drop(before);
    let issuer = Issuer::new();
    let spec = inline(&issuer, "");
    let scheme = |spec: &str| match again(spec, &desk).schemes.swap_remove(0).scheme {
        AnyScheme::Jwt(scheme) => scheme,
        other => panic!("{other:?}"),
    };
    let first = scheme(&spec);
    assert!(first.remembers_with(&scheme(&format!("\n{spec}"))));
    assert!(!first.remembers_with(&scheme(&inline(&issuer, ", leeway: 5s"))));
}

#[test]
fn an_active_token_is_remembered_no_longer_than_it_lives() {
    let mut desk = Desk::new(INTROSPECTION);
    let (_, mut visit) = desk.ask("opaque");
    let active = json!({"active": true, "sub": "7", "exp": NOW + 20}).to_string();
    assert!(desk.resume(&mut visit, answer(200, &active)).goes_on());
    desk.now = NOW + 20;
    let (verdict, mut visit) = desk.ask("opaque");
    let _ = looked_up(verdict);
    assert_eq!(reason(&desk.resume(&mut visit, answer(200, &active))).0, Reason::CredentialsInvalid);
}

#[test]
fn a_token_that_is_not_active_is_remembered_for_ten_seconds() {
    let mut desk = Desk::new(INTROSPECTION);
    let (_, mut visit) = desk.ask("gone");
    assert_eq!(reason(&desk.resume(&mut visit, answer(200, r#"{"active":false}"#))).0, Reason::CredentialsInvalid);
    desk.now = NOW + 9;
    assert_eq!(reason(&desk.ask("gone").0).0, Reason::CredentialsInvalid);
    desk.now = NOW + 10;
    let _ = looked_up(desk.ask("gone").0);
}

#[test]
fn an_active_token_that_is_no_good_here_is_remembered_for_ten_seconds_with_the_reason() {
    let mut desk = Desk::new(&INTROSPECTION.replace("anyAudience: true", "audiences: [shop]"));
    let (_, mut visit) = desk.ask("opaque");
    let (_, mut other) = desk.ask("opaque");
    let active = r#"{"active":true,"sub":"7","aud":"bank"}"#;
    for verdict in [
        desk.resume(&mut visit, answer(200, active)),
        desk.resume(&mut other, CalloutResult::Waited),
        desk.ask("opaque").0,
    ] {
        let (found, cause) = reason(&verdict);
        assert_eq!(found, Reason::CredentialsInvalid);
        assert!(cause.contains("for another audience"), "{cause}");
    }
    desk.now = NOW + 10;
    let _ = looked_up(desk.ask("opaque").0);
}

#[test]
fn who_has_waited_for_an_answer_that_did_not_come_does_not_ask_again() {
    let desk = Desk::new(INTROSPECTION);
    let (_, mut visit) = desk.ask("opaque");
    let mut waiting: Vec<Visit> = (0..3).map(|_| desk.ask("opaque").1).collect();
    assert_eq!(reason(&desk.resume(&mut visit, answer(500, ""))).0, Reason::AuthenticationUnavailable);
    for other in &mut waiting {
        let (found, cause) = reason(&desk.resume(other, CalloutResult::Waited));
        assert_eq!(found, Reason::AuthenticationUnavailable);
        assert!(cause.contains("status 500"), "{cause}");
    }
    // Who comes later asks. When he goes away, one of those who wait does.
    let asking = desk.ask("opaque");
    let (_, mut other) = desk.ask("opaque");
    drop(asking);
    let _ = looked_up(desk.resume(&mut other, CalloutResult::Waited));
}

#[test]
fn when_the_issuer_does_not_answer_nobody_is_let_in() {
    let desk = Desk::new(INTROSPECTION);
    for result in [
        answer(500, ""),
        answer(401, ""),
        answer(200, "{}"),
        answer(200, r#"{"active":"true"}"#),
        answer(200, r#"{"active":false,"active":true}"#),
        answer(200, "[true]"),
        CalloutResult::Failed("no answer within 5000 ms".into()),
    ] {
        let (verdict, mut visit) = desk.ask("opaque");
        let _ = looked_up(verdict);
        let (found, cause) = reason(&desk.resume(&mut visit, result));
        assert_eq!(found, Reason::AuthenticationUnavailable);
        assert!(!cause.contains("secret") && !cause.contains("opaque"), "{cause}");
    }
    // A client that went away while it asked keeps nobody waiting.
    let (verdict, visit) = desk.ask("opaque");
    let _ = looked_up(verdict);
    drop(visit);
    let _ = looked_up(desk.ask("opaque").0);
}

#[test]
fn introspection_must_say_for_whom_tokens_are() {
    let spec = INTROSPECTION.replace(", anyAudience: true", "");
    let problems = refusals::<AuthenticationPolicy>(&spec);
    assert!(problems.iter().any(|problem| problem.why.contains("for whom tokens are")), "{problems:?}");
}
