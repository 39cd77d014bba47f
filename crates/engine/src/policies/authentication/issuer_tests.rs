//! Which issuers are told of a token that a request shows: none that is of no use.

use serde_json::json;
use transept_wire::head::Request;

use super::token_tests::{Desk, FETCHED, INTROSPECTION, Visit, answer, inline, keys_of, looked_up, reason, token};
use super::*;
use crate::callout::Callout;
use crate::exchange::Notes;
use crate::jose::tests::Issuer;
use crate::reason::Reason;

/// Of a token whose keys are known here, whether it is still active, and a key in a field of its own: what is required.
fn desk(issuer: &Issuer, require: &str) -> Desk {
    let one = |text: &str| text.trim_start_matches("schemes: [").trim_end().trim_end_matches(']').to_owned();
    let (jwt, active) = (one(&inline(issuer, "")), one(INTROSPECTION).replace("name: token", "name: active"));
    let all = [("token", jwt), ("active", active), ("key", "{name: key, apiKey: {bearer: false}}".to_owned())];
    let wanted = all.iter().filter(|(name, _)| require.contains(name)).map(|(_, scheme)| &**scheme);
    Desk::new(&format!("schemes: [{}]\nrequire: {require}\n", wanted.collect::<Vec<_>>().join(", ")))
}

/// With a key, beside a token.
fn ask_with_key(desk: &Desk, token: &str, key: &str) -> (Verdict, Visit) {
    let mut visit =
        Visit { request: Request::build("GET", "http", "a.test", "/").expect("a request"), notes: Notes::told() };
    let value = format!("Bearer {token}");
    visit.request.fields.push_bytes(b"Authorization", value.as_bytes()).expect("a field");
    visit.request.fields.push_bytes(b"X-API-Key", key.as_bytes()).expect("a field");
    let verdict = desk.visit(&mut visit, |policy, x| policy.on_request(x));
    (verdict, visit)
}

#[test]
fn nobody_is_asked_whether_a_token_is_active_that_is_no_good() {
    let issuer = Issuer::new();
    let forged = token(&Issuer::new(), "e", json!({}));
    let ended = token(&issuer, "e", json!({"exp": 7}));
    for require in ["[{token: [], active: []}]", "[{active: [], token: []}]", "[{active: [], token: []}, {key: []}]"] {
        let desk = desk(&issuer, require);
        for bad in ["opaque", &forged, &ended] {
            assert_eq!(reason(&desk.ask(bad).0).0, Reason::CredentialsInvalid, "{require} {bad}");
        }
        let (verdict, mut visit) = desk.ask(&token(&issuer, "e", json!({})));
        let _ = looked_up(verdict);
        assert!(desk.resume(&mut visit, answer(200, r#"{"active":true,"sub":"7"}"#)).goes_on());
    }
    // Where the issuer may know better he is asked.
    for require in ["[{token: []}, {active: []}]", "[{token: [], key: []}, {active: []}]"] {
        for bad in ["opaque", &forged, &ended] {
            let _ = looked_up(desk(&issuer, require).ask(bad).0);
        }
    }
}

#[test]
fn nobody_is_asked_about_a_token_that_is_not_enough() {
    let issuer = Issuer::new();
    for require in ["[{active: [], key: []}]", "[{key: [], active: []}]"] {
        let (verdict, visit) = desk(&issuer, require).ask("opaque");
        assert_eq!(reason(&verdict).0, Reason::CredentialsMissing, "{require}");
        let told = visit.notes.told.expect("told").lines;
        assert!(told.iter().any(|line| line.contains("active: is not asked")), "{told:?}");
    }
    // What is wrong with the token may be what the issuer knows better, so that the key is all that is missing.
    let both = desk(&issuer, "[{token: []}, {active: [], key: []}]");
    let (verdict, mut visit) = both.ask("opaque");
    let _ = looked_up(verdict);
    let verdict = both.resume(&mut visit, answer(200, r#"{"active":true,"sub":"7"}"#));
    assert_eq!(reason(&verdict).0, Reason::CredentialsMissing);
    // Where nobody needs credentials, what is shown is judged all the same.
    let _ = looked_up(desk(&issuer, "[{active: [], key: []}, {}]").ask("opaque").0);
}

#[test]
fn an_issuer_is_asked_who_speaks_for_what_others_find_no_good() {
    let one = |name: &str| {
        let text = INTROSPECTION.trim_start_matches("schemes: [").trim_end().trim_end_matches(']');
        text.replace("name: token", &format!("name: {name}")).replace("/look", &format!("/{name}"))
    };
    let first = one("first").replace("anyAudience", "remember: 0s, anyAudience");
    let schemes = [one("other"), one("second"), first, "{name: key, apiKey: {bearer: false}}".to_owned()].join(", ");
    let desk =
        Desk::new(&format!("schemes: [{schemes}]\nrequire: [{{first: [], second: []}}, {{other: [], key: []}}]\n"));
    let (mut verdict, mut visit) = desk.ask("opaque");
    for (path, status, said) in
        [("/first", 500, ""), ("/second", 200, r#"{"active":false}"#), ("/other", 200, r#"{"active":true,"sub":"7"}"#)]
    {
        assert_eq!(looked_up(verdict).request.path(), path.as_bytes());
        verdict = desk.resume(&mut visit, answer(status, said));
    }
    assert_eq!(reason(&verdict).0, Reason::CredentialsMissing);
    // What the two others say is remembered.
    let (verdict, mut visit) = desk.ask("opaque");
    assert_eq!(looked_up(verdict).request.path(), b"/first");
    assert_eq!(reason(&desk.resume(&mut visit, answer(500, ""))).0, Reason::CredentialsMissing);
}

#[test]
fn an_issuer_is_asked_who_may_know_that_something_is_no_guess() {
    let (issuer, newer) = (Issuer::new(), Issuer::new());
    let one = |text: &str| text.trim_start_matches("schemes: [").trim_end().trim_end_matches(']').to_owned();
    let schemes = format!("{}, {}", one(FETCHED), one(INTROSPECTION).replace("name: token", "name: active"));
    let require = "[{token: []}, {active: [], key: []}]";
    let desk =
        Desk::new(&format!("schemes: [{schemes}, {{name: key, apiKey: {{bearer: false}}}}]\nrequire: {require}\n"));
    let (verdict, _, fetches) = desk.ask_with_keys(&token(&issuer, "e", json!({})), &keys_of(&[issuer.ec_jwk()]));
    assert_eq!((verdict.goes_on(), fetches), (true, 1));
    let (verdict, mut visit) = desk.ask(&token(&newer, "new", json!({})));
    let Verdict::Call(callout) = verdict else { panic!("{verdict:?}") };
    let Callout::Refresh { document, occasion } = *callout else { panic!("{callout:?}") };
    let mut fetch = document.begin(&occasion, desk.monotonic()).expect("due");
    fetch.first();
    let _ = fetch.take(answer(200, &keys_of(&[issuer.ec_jwk()])), desk.monotonic());
    let _ = looked_up(desk.resume(&mut visit, CalloutResult::Refreshed));
    // By another key that is new, so soon that nobody may ask for it.
    let (verdict, mut visit) = desk.ask(&token(&newer, "newer", json!({})));
    let _ = looked_up(verdict);
    let verdict = desk.resume(&mut visit, answer(200, r#"{"active":true,"sub":"7"}"#));
    assert_eq!(reason(&verdict).0, Reason::AuthenticationUnavailable);
}

#[test]
fn nobody_is_asked_about_a_token_beside_a_bad_key() {
    let issuer = Issuer::new();
    let bad = super::tests::key(1);
    for require in ["[{key: []}, {active: []}]", "[{active: [], key: []}]", "[{key: []}, {active: []}, {}]"] {
        let (verdict, _) = ask_with_key(&desk(&issuer, require), "opaque", &bad);
        assert_eq!(reason(&verdict).0, Reason::CredentialsInvalid, "{require}");
    }
}

#[test]
fn a_token_that_one_scheme_knows_is_shown_to_no_other() {
    let issuer = Issuer::new();
    let both = inline(&issuer, "").trim_end().trim_end_matches(']').to_owned()
        + ","
        + INTROSPECTION.trim_start_matches("schemes: [");
    let desk = Desk::new(&both.replace("name: token, introspection", "name: opaque, introspection"));
    let (verdict, visit) = desk.ask(&token(&issuer, "e", json!({})));
    assert!(verdict.goes_on(), "{:?}", visit.notes.told);
    assert_eq!(looked_up(desk.ask("opaque").0).body, b"token=opaque&token_type_hint=access_token");
    // In a field of its own another one is judged, whoever is known by the first.
    let own = both.replace("name: token, introspection: {", "name: opaque, introspection: {header: x-token, ");
    let desk = Desk::new(&own);
    let mut visit =
        Visit { request: Request::build("GET", "http", "a.test", "/").expect("a request"), notes: Notes::told() };
    let good = format!("Bearer {}", token(&issuer, "e", json!({})));
    visit.request.fields.push_bytes(b"Authorization", good.as_bytes()).expect("a field");
    visit.request.fields.push_bytes(b"X-Token", b"guess").expect("a field");
    let _ = looked_up(desk.visit(&mut visit, |policy, x| policy.on_request(x)));
    let verdict = desk.resume(&mut visit, answer(200, r#"{"active":false}"#));
    assert_eq!(reason(&verdict).0, Reason::CredentialsInvalid);
}

#[test]
fn an_api_key_is_told_to_no_issuer_wherever_it_stands() {
    let key = super::tests::key(1);
    let beside = |key: &str| INTROSPECTION.trim_end().trim_end_matches(']').to_owned() + key + "]\n";
    for keys in [", {name: key, apiKey: {bearer: false}}", ", {name: key, apiKey: {}}"] {
        let (verdict, _) = Desk::new(&beside(keys)).ask(&key);
        assert_eq!(reason(&verdict).0, Reason::CredentialsInvalid, "{keys}");
    }
    let own = beside(", {name: key, apiKey: {}}").replace("introspection: {", "introspection: {header: x-token, ");
    let mut visit =
        Visit { request: Request::build("GET", "http", "a.test", "/").expect("a request"), notes: Notes::told() };
    visit.request.fields.push_bytes(b"X-Token", key.as_bytes()).expect("a field");
    let verdict = Desk::new(&own).visit(&mut visit, |policy, x| policy.on_request(x));
    assert_eq!(reason(&verdict).0, Reason::CredentialsInvalid);
    // Where there are no keys it is a token like any other.
    let _ = looked_up(Desk::new(INTROSPECTION).ask(&key).0);
}
