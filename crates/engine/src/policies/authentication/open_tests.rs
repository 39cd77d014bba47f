//! Tokens by which something was let in that is still under way: what ends it, and what a policy that comes later has to say to their bearers.

use std::time::Duration;

use std::net::SocketAddr;

use serde_json::{Value, json};
use transept_wire::head::{Request, Response};

use super::scheme::Fault;
use super::token_tests::{
    Desk, FETCHED, INTROSPECTION, NOW, Visit, answer, compile, inline, keys_of, looked_up, reason, token,
};
use super::*;
use crate::callout::Callout;
use crate::document::{Documents, Occasion, Step};
use crate::exchange::{Connection, Notes, Now};
use crate::jose::tests::Issuer;
use crate::keep::Keep;
use crate::policies::authentication::scheme::AnyScheme;
use crate::principal::Principal;

/// Whether what this principal has opened may go on, and who it is today.
fn recheck(desk: &Desk, principal: &Arc<Principal>) -> Result<Arc<Principal>, String> {
    let mut visit = desk.ask("").1;
    visit.notes.principal = Some(Arc::clone(principal));
    match desk.visit(&mut visit, |policy, x| policy.on_recheck(x)) {
        Verdict::Continue => Ok(visit.notes.principal.expect("a principal")),
        refusal => Err(reason(&refusal).1),
    }
}

/// The same under another configuration.
fn under(desk: &Desk, spec: &str, principal: &Arc<Principal>) -> Result<Arc<Principal>, String> {
    let (policy, problems) = compile(spec, "", &desk.keep);
    assert!(problems.is_empty(), "{problems:?}");
    let other = Desk { policy: policy.expect("a policy"), keep: Keep::default(), now: desk.now };
    recheck(&other, principal)
}

fn let_in((verdict, visit): (Verdict, Visit)) -> Arc<Principal> {
    assert!(verdict.goes_on(), "{verdict:?}");
    visit.notes.principal.expect("a principal")
}

#[test]
fn what_a_token_has_opened_ends_with_its_key_and_with_what_is_expected() {
    let issuer = Issuer::new();
    let mut desk = Desk::new(&inline(&issuer, ""));
    let claims = json!({"scope": "a", "realm": {"roles": ["clerk"]}});
    let principal = let_in(desk.ask(&token(&issuer, "e", claims)));
    assert_eq!(recheck(&desk, &principal).expect("it stands").scopes, ["a".into()]);
    let refused = |spec: &str| under(&desk, spec, &principal).expect_err("it ends");
    assert!(refused(&inline(&Issuer::new(), "")).contains("not one of the issuer's any more"));
    assert!(refused(&inline(&issuer, ", algorithms: [RS256]")).contains("not one of the issuer's any more"));
    assert!(refused(&inline(&issuer, "").replace("[shop]", "[bank]")).contains("another audience"));
    assert!(refused(&inline(&issuer, "").replace("login.test", "other.test")).contains("another issuer"));
    assert!(refused(&inline(&issuer, ", requiredClaims: [{name: scope, values: [b]}]")).contains("`scope`"));
    assert!(refused(&inline(&issuer, ", sender: Required")).contains("not bound to who shows it"));
    // Under another name, and with a narrower reading of who it is.
    let mut renamed = issuer.ec_jwk();
    renamed["kid"] = json!("e2");
    let spec = inline(&issuer, ", claims: {groups: realm.roles}").replace("\"kid\":\"e\"", "\"kid\":\"e2\"");
    assert!(spec.contains("e2"));
    assert_eq!(under(&desk, &spec, &principal).expect("it stands").groups, ["clerk".into()]);
    desk.now = NOW + 1030;
    assert!(recheck(&desk, &principal).expect_err("it ends").contains("ended"));
}

#[test]
fn what_a_token_has_opened_ends_when_the_issuer_has_taken_its_key_back() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let mut desk = Desk::new(FETCHED);
    let (verdict, visit, _) = desk.ask_with_keys(&token(&issuer, "e", json!({})), &keys_of(&[issuer.ec_jwk()]));
    let principal = let_in((verdict, visit));
    assert!(recheck(&desk, &principal).is_ok());
    desk.now = NOW + 700;
    let document = Documents::of(&desk.keep).all().remove(0);
    let changes = Documents::of(&desk.keep).changes();
    let fetch = |body: &str| {
        let mut fetch = document.begin(&Occasion::Due, desk.monotonic()).expect("due");
        fetch.first();
        assert!(matches!(fetch.take(answer(200, body), desk.monotonic()), Step::Over(_)));
    };
    fetch(&keys_of(&[other.ec_jwk()]));
    assert!(recheck(&desk, &principal).expect_err("it ends").contains("not one of the issuer's any more"));
    assert_ne!(Documents::of(&desk.keep).changes(), changes, "who holds connections is told to judge them again");
    // Where the keys have not been fetched yet, nobody can tell; it is judged when they have been.
    let elsewhere = FETCHED.replace("/keys", "/other-keys");
    let (policy, _) = compile(&elsewhere, "", &desk.keep);
    let before = std::mem::replace(&mut desk.policy, policy.expect("a policy"));
    assert!(recheck(&desk, &principal).is_ok());
    let document = Documents::of(&desk.keep).all().into_iter().find(|one| one.label.contains("other")).expect("one");
    let mut fetch = document.begin(&Occasion::Due, desk.monotonic()).expect("due");
    fetch.first();
    assert!(matches!(fetch.take(answer(500, ""), desk.monotonic()), Step::Over(Err(_))));
    assert!(recheck(&desk, &principal).expect_err("it ends").contains("not known any more"));
    drop(before);
}

#[test]
fn what_an_introspected_token_has_opened_ends_with_what_is_expected_and_with_who_was_asked() {
    let desk = Desk::new(INTROSPECTION);
    let (_, mut visit) = desk.ask("opaque");
    let active = json!({"active": true, "sub": "7", "aud": "shop", "scope": "a"}).to_string();
    let verdict = desk.resume(&mut visit, answer(200, &active));
    let principal = let_in((verdict, visit));
    assert_eq!(recheck(&desk, &principal).expect("it stands").scopes, ["a".into()]);
    let shop = INTROSPECTION.replace("anyAudience: true", "audiences: [shop]");
    assert!(under(&desk, &shop, &principal).is_ok());
    let refused = |spec: &str| under(&desk, spec, &principal).expect_err("it ends");
    assert!(refused(&shop.replace("[shop]", "[bank]")).contains("another audience"));
    assert!(refused(&shop.replace("/look", "/other")).contains("another issuer is asked"));
    assert!(refused(&shop.replace("clientId: gate", "clientId: door")).contains("another issuer is asked"));
    assert!(refused(&shop.replace("audiences", "sender: Proof, audiences")).contains("not bound"));
}

/// What becomes of a token with this answer about it, shown so.
fn shown_with(desk: &Desk, word: &str, bound: &Value, proof: Option<&str>) -> Result<(), String> {
    let mut visit =
        Visit { request: Request::build("GET", "http", "a.test", "/").expect("a request"), notes: Notes::new() };
    visit.request.fields.push_bytes(b"Authorization", format!("{word} opaque").as_bytes()).expect("a field");
    if let Some(proof) = proof {
        visit.request.fields.push_bytes(b"DPoP", proof.as_bytes()).expect("a field");
    }
    let mut verdict = desk.visit(&mut visit, |policy, x| policy.on_request(x));
    if let Verdict::Call(_) = &verdict {
        let _ = looked_up(verdict);
        let active = json!({"active": true, "sub": "7", "cnf": bound}).to_string();
        verdict = desk.resume(&mut visit, answer(200, &active));
    }
    match verdict {
        Verdict::Continue => {
            let left: Vec<_> = visit.request.fields.iter().map(|(name, _)| name.as_str().to_owned()).collect();
            assert!(left.iter().all(|name| name.starts_with("x-auth")), "{left:?}");
            Ok(())
        }
        refusal => Err(reason(&refusal).1),
    }
}

#[test]
fn an_introspected_token_is_good_for_whom_it_was_given_to() {
    let client = Issuer::new();
    let jwk = client.ec_jwk();
    let text = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]);
    let digest = |text: &str| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        data_encoding::BASE64URL_NOPAD.encode(digest.as_ref())
    };
    let proof = |jti: &str| {
        let claims =
            json!({"jti": jti, "htm": "GET", "htu": "http://a.test/", "iat": NOW, "ath": digest("opaque")}).to_string();
        let header = json!({"alg": "ES256", "typ": "dpop+jwt", "jwk": jwk}).to_string();
        client.token_of("ES256", &header, &claims)
    };
    let desk = Desk::new(INTROSPECTION);
    let bound = json!({ "jkt": digest(&text) });
    assert_eq!(shown_with(&desk, "DPoP", &bound, Some(&proof("1"))), Ok(()));
    // The answer is remembered, and the binding with it.
    let why = |word: &str, proof: Option<&str>| shown_with(&desk, word, &bound, proof).expect_err("refused");
    assert!(why("DPoP", Some(&proof("1"))).contains("seen before"));
    assert!(why("Bearer", None).contains("as a bearer token"));
    assert!(why("DPoP", None).contains("not exactly one proof"));
    assert_eq!(shown_with(&desk, "DPoP", &bound, Some(&proof("2"))), Ok(()));
    for (bound, word, why) in [
        (json!({"x5t#S256": "x"}), "Bearer", "the client has shown none"),
        (json!({"unknown": "x"}), "Bearer", "not understood"),
        (Value::Null, "Bearer", "not understood"),
        (json!({ "jkt": "other" }), "DPoP", "another key"),
    ] {
        let told = shown_with(&Desk::new(INTROSPECTION), word, &bound, Some(&proof("3"))).expect_err("refused");
        assert!(told.contains(why), "{bound}: {told}");
    }
    // Whoever shows it, where the policy says so.
    let anybody = Desk::new(&INTROSPECTION.replace("anyAudience", "sender: Anybody, anyAudience"));
    assert_eq!(shown_with(&anybody, "Bearer", &json!({"x5t#S256": "x"}), None), Ok(()));
    let AnyScheme::Introspection(scheme) =
        &Desk::new(&INTROSPECTION.replace("anyAudience", "sender: Proof, anyAudience")).policy.schemes[0].scheme
    else {
        panic!("another scheme")
    };
    assert!(scheme::Scheme::challenge(scheme, "shop", &Fault::Missing).starts_with("DPoP realm=\"shop\", algs="));
}

#[test]
fn who_lacks_a_scope_for_a_later_policy_is_told_in_the_words_of_the_scheme() {
    let issuer = Issuer::new();
    let resource = "realm: shop\nresource: {url: 'https://a.test/', authorizationServers: ['https://login.test']}\n";
    for (sender, scope, begin, end) in [
        ("", "orders.write", "Bearer realm=\"shop\", error=\"insufficient_scope\", scope=\"orders.write\"", ""),
        ("", "", "Bearer realm=\"shop\", error=\"insufficient_scope\"", ""),
        (
            "",
            "w",
            "Bearer realm=\"shop\", error=\"insufficient_scope\", scope=\"w\", resource_metadata=\"https://a.test/",
            resource,
        ),
    ] {
        let desk =
            Desk::new(&format!("{}{}", inline(&issuer, sender), if end.is_empty() { "realm: shop\n" } else { end }));
        let (verdict, mut visit) = desk.ask(&token(&issuer, "e", json!({})));
        assert!(verdict.goes_on());
        visit.notes.lacking = Some(scope.into());
        let mut response = Response::new(403);
        let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
        let mut x = Exchange {
            now: Now { monotonic: Duration::ZERO, unix: Duration::from_secs(NOW) },
            random: 1,
            connection: &Connection::new(address, address, None),
            client: address.ip(),
            listener_port: 80,
            request: &mut visit.request,
            notes: &mut visit.notes,
        };
        desk.policy.on_response(&mut x, &mut response);
        let said = response.fields.first(FieldId::WWW_AUTHENTICATE).expect("a challenge");
        let said = String::from_utf8_lossy(said);
        assert!(said.starts_with(begin), "{said}");
        assert_eq!(said.contains("resource_metadata"), !end.is_empty(), "{said}");
    }
}

/// What becomes of a request with an opaque token that this principal has opened, when its issuer may be asked again.
fn asked_again(desk: &Desk, principal: &Arc<Principal>) -> (Verdict, Visit) {
    let mut visit =
        Visit { request: Request::build("GET", "http", "a.test", "/").expect("a request"), notes: Notes::new() };
    visit.request.fields.push_bytes(b"Authorization", b"Bearer opaque").expect("a field");
    visit.notes.principal = Some(Arc::clone(principal));
    (visit.notes.again, visit.notes.asks) = (true, true);
    let verdict = desk.visit(&mut visit, |policy, x| policy.on_recheck(x));
    (verdict, visit)
}

fn gone_on_with(desk: &Desk, visit: &mut Visit, result: CalloutResult) -> Verdict {
    visit.notes.resume(result);
    desk.visit(visit, |policy, x| policy.on_recheck(x))
}

#[test]
fn an_issuer_is_asked_again_when_its_answer_about_what_is_open_has_ended() {
    let mut desk = Desk::new(INTROSPECTION);
    let (_, mut visit) = desk.ask("opaque");
    let active = |scope: &str| answer(200, &json!({"active": true, "sub": "7", "scope": scope}).to_string());
    let verdict = desk.resume(&mut visit, active("a"));
    let principal = let_in((verdict, visit));
    assert_eq!(principal.asked, Some(Duration::from_secs(NOW + 60)));
    assert!(asked_again(&desk, &principal).0.goes_on(), "the answer holds");
    desk.now = NOW + 60;
    assert!(recheck(&desk, &principal).is_ok(), "a change of the configuration asks nobody");
    let (verdict, mut visit) = asked_again(&desk, &principal);
    assert_eq!(looked_up(verdict).body, b"token=opaque&token_type_hint=access_token");
    // Another connection by the same token waits for the same answer.
    let (other, mut waiting) = asked_again(&desk, &principal);
    assert!(matches!(other, Verdict::Call(callout) if matches!(*callout, Callout::Wait(_))));
    assert!(gone_on_with(&desk, &mut visit, active("b")).goes_on());
    let today = visit.notes.principal.expect("a principal");
    assert_eq!((today.asked, &*today.scopes), (Some(Duration::from_secs(NOW + 120)), &["b".into()][..]));
    assert!(gone_on_with(&desk, &mut waiting, CalloutResult::Waited).goes_on());
    for (result, why) in [
        (answer(200, r#"{"active": false}"#), "not active"),
        (answer(500, ""), "answers with status 500"),
        (CalloutResult::Failed("no answer".into()), "no answer"),
    ] {
        desk.now += 60;
        let (verdict, mut visit) = asked_again(&desk, &today);
        let _ = looked_up(verdict);
        assert!(reason(&gone_on_with(&desk, &mut visit, result)).1.contains(why), "{why}");
    }
}
