//! Documents fetched and not fetched, with the answers and the time played.

use std::net::SocketAddr;

use super::*;
use crate::callout::{Answer, CalloutResult};
use crate::policies::{PlainHttp, parse_url};
use crate::snapshot::{Backend, Endpoint, EndpointSet};

const KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const OTHER: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"b","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A URL whose backend is settled.
fn url(text: &str) -> Url {
    let (origin, authority, target) = parse_url(text, PlainHttp::Anywhere).expect("a URL");
    let endpoints = EndpointSet::new(vec![Endpoint::at(SocketAddr::new([127, 0, 0, 1].into(), origin.port))]);
    let backend = Backend::for_tests(endpoints, None);
    let callee = crate::callout::Callee::default();
    callee.set(Ok(Arc::new(backend))).expect("not settled before");
    Url {
        callee,
        authority: authority.into(),
        scheme: if origin.tls { "https" } else { "http" },
        target: target.into(),
    }
}

fn live(keep: &Keep, text: &str, source: Source) -> Arc<Document> {
    let document = Document::of(keep, text, text, &source);
    document.go_live(source);
    document
}

fn keys_at(keep: &Keep) -> Arc<Document> {
    let text = "https://login.test/keys";
    live(keep, text, Source { url: url(text), kind: SourceKind::Keys })
}

fn provider(keep: &Keep) -> Arc<Document> {
    let (issuer, text) = ("https://login.test", "https://login.test/.well-known/openid-configuration");
    let (origin, _, _) = parse_url(issuer, PlainHttp::OnLoopback).expect("a URL");
    let kind = SourceKind::Provider { issuer: issuer.into(), origins: vec![(origin, url(issuer))] };
    live(keep, text, Source { url: url(text), kind })
}

fn answer(body: &str, cache: &str) -> CalloutResult {
    let mut answer = Answer { status: 200, body: body.into(), ..Answer::default() };
    answer.fields.push_bytes(b"Cache-Control", cache.as_bytes()).expect("a field");
    CalloutResult::Answered(Box::new(answer))
}

/// Fetches, and says what came of it.
fn fetch(document: &Arc<Document>, body: &str, cache: &str, now: Duration) -> Result<(), String> {
    let mut fetch = document.begin(&Occasion::Due, now).expect("a fetch is due");
    assert!(matches!(fetch.first(), Step::Ask(_)));
    match fetch.take(answer(body, cache), now) {
        Step::Over(outcome) => outcome.map_err(String::from),
        Step::Ask(_) => panic!("one call suffices"),
    }
}

#[test]
fn a_document_is_due_as_its_answer_says_within_bounds() {
    let keep = Keep::default();
    let document = keys_at(&keep);
    assert_eq!(document.due(), Duration::ZERO);
    let version = |document: &Arc<Document>| document.content(document.due()).expect("keys").version;
    fetch(&document, KEYS, "", at(0)).expect("a good fetch");
    let first = version(&document);
    for (cache, seconds) in
        [("", 600), ("max-age=1", 60), ("public, Max-Age=300", 300), ("max-age=999999", 86_400), ("max-age=x", 600)]
    {
        let now = document.due();
        fetch(&document, KEYS, cache, now).expect("a good fetch");
        assert_eq!(document.due(), now + at(seconds), "{cache}");
    }
    assert_eq!(version(&document), first, "the same text is the same content");
    fetch(&document, OTHER, "", document.due()).expect("a good fetch");
    let other = version(&document);
    assert_ne!(other, first);
    // What was verified by the keys of before is not good by these when the configuration comes back to it.
    drop(document);
    let again = keys_at(&keep);
    assert!(again.content(at(0)).is_none());
    fetch(&again, OTHER, "", at(0)).expect("a good fetch");
    assert_eq!(version(&again), other);
}

#[test]
fn what_was_good_is_used_for_a_day() {
    let document = keys_at(&Keep::default());
    fetch(&document, KEYS, "", at(0)).expect("a good fetch");
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let now = document.due();
        fetch(&document, "no keys", "", now).expect_err("a bad fetch");
        pauses.push((document.due() - now).as_secs());
        assert!(document.content(now).is_some());
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
    assert!(document.content(at(600 + 86_399)).is_some());
    assert!(document.content(at(600 + 86_400)).is_none());
    assert!(document.error().expect("an error").contains("no set of keys"));
    let state = document.describe(at(100));
    assert_eq!((state.fetched, state.failed, state.keys, state.age), (1, 8, 1, Some(at(100))));
}

#[test]
fn what_is_good_for_a_day_is_used_for_another_one_while_fetches_fail() {
    let document = keys_at(&Keep::default());
    fetch(&document, KEYS, "max-age=86400", at(0)).expect("a good fetch");
    fetch(&document, "no keys", "", at(86_400)).expect_err("a bad fetch");
    assert!(document.content(at(2 * 86_400 - 1)).is_some());
    assert!(document.content(at(2 * 86_400)).is_none());
}

#[test]
fn there_is_one_fetch_at_a_time_and_one_that_is_given_up_has_failed() {
    let document = keys_at(&Keep::default());
    let first = document.begin(&Occasion::Due, at(1)).expect("a fetch");
    assert!(document.begin(&Occasion::Due, at(1)).is_none());
    assert!(document.is_flying() && document.may_help(&Occasion::Due, at(1)), "others wait for it");
    drop(first);
    assert!(!document.is_flying());
    assert!(!document.may_help(&Occasion::Due, at(2)), "who has just failed is not asked for every request");
    assert!(document.may_help(&Occasion::Due, at(6)));
}

#[test]
fn unknown_keys_cause_a_fetch_each_30_seconds_at_most() {
    let document = keys_at(&Keep::default());
    fetch(&document, KEYS, "", at(0)).expect("a good fetch");
    let unknown = |kid: &str| Occasion::UnknownKey(kid.into());
    assert!(document.may_help(&unknown("b"), at(10)));
    let mut seeking = document.begin(&unknown("b"), at(10)).expect("a fetch");
    assert!(document.may_help(&unknown("c"), at(11)), "others wait for the one under way");
    seeking.first();
    assert!(matches!(seeking.take(answer(KEYS, ""), at(12)), Step::Over(Ok(()))));
    let later = |seconds, is_awaited| Sought::Later { wait: Duration::from_secs(seconds), is_awaited };
    assert_eq!(document.seek(&unknown("c"), Some(at(11)), at(12)), later(28, false), "it may have missed it");
    assert_eq!(document.seek(&unknown("c"), None, at(13)), later(27, true));
    assert_eq!(document.seek(&unknown("b"), Some(at(10)), at(12)), Sought::Absent);
    assert_eq!(document.seek(&unknown("b"), None, at(12)), Sought::Absent);
    assert_eq!(document.seek(&Occasion::NamelessKey, None, at(12)), later(28, false));
    assert!(!document.may_help(&unknown("c"), at(39)));
    assert!(document.begin(&unknown("c"), at(39)).is_none());
    assert!(document.may_help(&unknown("c"), at(40)));
    assert!(!document.may_help(&unknown("b"), at(40)), "it was not there");
    assert!(document.may_help(&unknown("b"), at(612)), "but that was long ago");
    for number in 0..MOST_NAMES + 100 {
        document.seek(&unknown(&number.to_string()), None, at(20));
    }
    assert_eq!(document.state().awaited.len(), MOST_NAMES);
    let mut seeking = document.begin(&unknown("999"), at(40)).expect("a fetch");
    seeking.first();
    document.seek(&unknown("late"), Some(at(40)), at(41));
    assert!(matches!(seeking.take(answer(KEYS, ""), at(42)), Step::Over(Ok(()))));
    assert_eq!(document.state().absent.len(), MOST_NAMES, "all that were asked for before it began");
    assert_eq!(document.seek(&unknown(&MOST_NAMES.to_string()), None, at(43)), Sought::Absent);
    assert_eq!(document.seek(&unknown("late"), None, at(43)), later(27, true));
    fetch(&document, OTHER, "", at(700)).expect("a good fetch");
    let absent: Vec<_> = document.state().absent.iter().map(|(name, _)| *name).collect();
    assert_eq!(absent, [name_of("late")], "other keys, other names");
}

#[test]
fn a_provider_says_where_its_keys_are() {
    let document = provider(&Keep::default());
    let description = r#"{"issuer":"https://login.test","jwks_uri":"https://login.test/keys?v=1","token_endpoint":"https://login.test/t"}"#;
    let mut fetch = document.begin(&Occasion::Due, at(0)).expect("a fetch");
    fetch.first();
    let Step::Ask(call) = fetch.take(answer(description, ""), at(0)) else { panic!("a second call") };
    assert_eq!(call.request.target(), b"/keys?v=1");
    assert!(matches!(fetch.take(answer(KEYS, ""), at(0)), Step::Over(Ok(()))));
    let content = document.content(at(0)).expect("keys");
    assert_eq!(content.endpoints.token.as_deref(), Some("https://login.test/t"));
}

#[test]
fn a_provider_sends_us_nowhere_else() {
    for (description, why) in [
        (r#"{"issuer":"https://other.test","jwks_uri":"https://login.test/keys"}"#, "its `issuer` is not"),
        (r#"{"issuer":"https://login.test/","jwks_uri":"https://login.test/keys"}"#, "the slash at the end"),
        (r#"{"issuer":"https://login.test","jwks_uri":"https://other.test/keys"}"#, "`other.test`, which is not among"),
        (r#"{"issuer":"https://login.test","jwks_uri":"https://login.test:444/keys"}"#, "not among"),
        (r#"{"issuer":"https://login.test","jwks_uri":"http://169.254.169.254/"}"#, "clear text"),
        (r#"{"issuer":"https://login.test","jwks_uri":"file:///etc/passwd"}"#, "not an https URL"),
        (r#"{"issuer":"https://login.test"}"#, "no `jwks_uri`"),
        (r#"{"issuer":"https://login.test","issuer":"https://login.test"}"#, "twice"),
        ("[]", "no object"),
    ] {
        let document = provider(&Keep::default());
        let mut fetch = document.begin(&Occasion::Due, at(0)).expect("a fetch");
        fetch.first();
        let Step::Over(Err(said)) = fetch.take(answer(description, ""), at(0)) else { panic!("{description}") };
        assert!(said.contains(why), "{said}");
        assert!(document.content(at(0)).is_none());
    }
}

#[test]
fn what_is_not_200_is_no_document() {
    let document = keys_at(&Keep::default());
    let mut fetch = document.begin(&Occasion::Due, at(0)).expect("a fetch");
    fetch.first();
    let moved = CalloutResult::Answered(Box::new(Answer { status: 302, body: KEYS.into(), ..Answer::default() }));
    assert!(matches!(fetch.take(moved, at(0)), Step::Over(Err(_))));
}

#[test]
fn a_configuration_that_is_only_compiled_changes_no_source() {
    let keep = Keep::default();
    let document = keys_at(&keep);
    let moved = Source { url: url("https://other.test/moved"), kind: SourceKind::Keys };
    let compiled = Document::of(&keep, "https://login.test/keys", "https://login.test/keys", &moved);
    assert!(Arc::ptr_eq(&document, &compiled));
    let asked = |now| {
        let mut fetch = document.begin(&Occasion::Due, now).expect("a fetch is due");
        let Step::Ask(call) = fetch.first() else { panic!("a call") };
        call.request.target().to_vec()
    };
    assert_eq!(asked(at(0)), b"/keys");
    compiled.go_live(moved.clone());
    assert_eq!(asked(at(1000)), b"/moved");
    // One that nothing in force reads is not fetched.
    let refused = Document::of(&keep, "refused", "https://other.test/moved", &moved);
    assert_eq!(Documents::of(&keep).all().len(), 1);
    drop(refused);
}

#[test]
fn documents_are_listed_while_somebody_uses_them() {
    let keep = Keep::default();
    let document = keys_at(&keep);
    let again = keys_at(&keep);
    assert!(Arc::ptr_eq(&document, &again));
    let documents = Documents::of(&keep);
    assert_eq!(documents.all().len(), 1);
    drop((document, again));
    assert!(documents.all().is_empty());
}
