//! What a service is asked, and what becomes of a request by its answer; the service is played.

use std::net::SocketAddr;
use std::sync::OnceLock;

use transept_wire::head::Fields;

use super::super::tests::refusals;
use super::*;
use crate::exchange::{Connection, Notes, Now};
use crate::protobuf::Writer;
use crate::rule::BrokenRef;
use crate::services::{ServiceState, Services};

fn policy(protocol: Protocol, without_answer: WithoutAnswer) -> ExternalAuthPolicy {
    let broken = BrokenRef { reason: Reason::BackendInvalid, why: "there is no Service shop/auth".into() };
    ExternalAuthPolicy {
        callee: Arc::new(OnceLock::from(Err(broken))),
        protocol,
        body: None,
        timeout: TIMEOUT,
        without_answer,
        asked: Some(
            Arc::new(Services::default()).open(ServiceRole::Authorizer, "ExternalAuthPolicy shop/ask".to_owned()),
        ),
        at: Spot::default(),
    }
}

fn over_grpc() -> ExternalAuthPolicy {
    policy(grpc(None, Vec::new()).expect("settings"), WithoutAnswer::Refuse)
}

fn over_http(answered: &[&str]) -> ExternalAuthPolicy {
    let config = HttpAuthConfig {
        at: transept_model::place::Spot::default(),
        path: Some("/check/".into()),
        allowed_headers: vec!["x-team".into()],
        allowed_response_headers: answered.iter().map(|name| (*name).into()).collect(),
    };
    policy(Protocol::Http(forward_auth::Settings::compile(Some(&config)).expect("settings")), WithoutAnswer::Refuse)
}

/// The verdict on a request after `result`, and the request as it is then.
fn after(policy: &ExternalAuthPolicy, result: CalloutResult) -> (Verdict, Request) {
    let mut request = sent();
    let verdict = exchange(&mut request, &mut Notes::new(), |x| policy.on_callout(x, result));
    (verdict, request)
}

fn sent() -> Request {
    let mut request = Request::build("POST", "http", "shop.test", "/orders?x=1").expect("a request");
    for (name, value) in [("X-Team", "blue"), ("X-User", "forged"), ("Cookie", "a=b"), ("Authorization", "Basic x")] {
        request.fields.push(&FieldName::new(name).expect("a name"), value.as_bytes()).expect("a value");
    }
    request
}

fn exchange<T>(request: &mut Request, notes: &mut Notes, work: impl FnOnce(&mut Exchange<'_>) -> T) -> T {
    let peer: SocketAddr = "192.0.2.1:5000".parse().expect("an address");
    work(&mut Exchange {
        now: Now { monotonic: Duration::ZERO, unix: Duration::from_secs(1_700_000_000) },
        random: 0,
        connection: &Connection::new(peer, "127.0.0.1:8080".parse().expect("an address"), None),
        client: [192, 0, 2, 1].into(),
        listener_port: 8080,
        request,
        notes,
    })
}

fn fields(lines: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in lines {
        fields.push(&FieldName::new(name).expect("a name"), value.as_bytes()).expect("a value");
    }
    fields
}

fn answered(status: u16, lines: &[(&str, &str)], body: &[u8]) -> CalloutResult {
    let mut trailers = Fields::new();
    trailers.push(&FieldName::known(FieldId::GRPC_STATUS), b"0").expect("a value");
    CalloutResult::Answered(Box::new(Answer { status, fields: fields(lines), body: body.to_vec(), trailers }))
}

fn refused(verdict: Verdict) -> Reply {
    match verdict {
        Verdict::Respond(reply) => *reply,
        other => panic!("{other:?}"),
    }
}

fn value<'r>(request: &'r Request, name: &str) -> Option<&'r [u8]> {
    request.fields.first_named(&FieldName::new(name).expect("a name"))
}

#[test]
fn the_question_over_http_is_the_request_without_what_was_not_allowed() {
    let policy = over_http(&[]);
    let Protocol::Http(settings) = &policy.protocol else { panic!("HTTP") };
    let (asked, body) = exchange(&mut sent(), &mut Notes::new(), |x| settings.request(x, None)).expect("a question");
    assert_eq!(
        (asked.target(), asked.authority(), asked.method.as_str()),
        (&b"/check/orders?x=1"[..], &b"shop.test"[..], "POST")
    );
    assert!(body.is_empty());
    for (name, expected) in [
        ("x-team", Some(&b"blue"[..])),
        ("authorization", Some(b"Basic x")),
        ("cookie", None),
        ("x-user", None),
        ("x-forwarded-uri", Some(b"/orders?x=1")),
        ("x-forwarded-method", Some(b"POST")),
        ("x-forwarded-for", Some(b"192.0.2.1")),
    ] {
        assert_eq!(value(&asked, name), expected, "{name}");
    }
}

#[test]
fn what_only_the_service_may_say_nobody_else_says() {
    let (verdict, request) = after(&over_http(&["X-User"]), answered(200, &[], b""));
    assert!(verdict.goes_on());
    assert_eq!(value(&request, "x-user"), None);
    let lines = [("X-User", "ann"), ("X-Other", "1"), ("Content-Length", "7")];
    let (verdict, request) = after(&over_http(&["x-user", "content-length"]), answered(204, &lines, b""));
    assert!(verdict.goes_on());
    assert_eq!((value(&request, "x-user"), value(&request, "x-other")), (Some(&b"ann"[..]), None));
    assert_eq!(value(&request, "content-length"), None);
    let (_, request) = after(&over_http(&[]), answered(200, &[("X-Other", "1"), ("Host", "evil.test")], b""));
    assert_eq!((value(&request, "x-other"), request.authority()), (Some(&b"1"[..]), &b"shop.test"[..]));
}

#[test]
fn a_refusal_over_http_is_the_services_own() {
    let lines = [("Location", "https://login.test/"), ("Set-Cookie", "s=1"), ("X-Auth-Rule", "no-session")];
    let reply = refused(after(&over_http(&[]), answered(302, &lines, b"")).0);
    assert_eq!((reply.status, reply.reason), (302, Reason::NotAuthorized));
    assert_eq!(reply.cause.as_deref(), Some("external authorization, rule no-session"));
    assert_eq!(reply.fields.len(), 2);
    let reply = refused(after(&over_http(&[]), answered(401, &[("Content-Type", "text/html")], b"<p>no")).0);
    assert_eq!(reply.status, 401);
    assert!(matches!(reply.body, ReplyBody::Bytes { media_type, .. } if media_type == "text/html"));
}

#[test]
fn that_requests_pass_unasked_is_told_of_each_and_as_news_once() {
    let open = policy(grpc(None, Vec::new()).expect("settings"), WithoutAnswer::Allow);
    let told = |result| {
        let mut notes = Notes::new();
        assert!(exchange(&mut sent(), &mut notes, |x| open.on_callout(x, result)).goes_on());
        let notes = notes.services.take().expect("notes");
        (notes.unasked, notes.turns.into_iter().map(|turn| turn.now).collect::<Vec<_>>())
    };
    let failed = || CalloutResult::Failed("shop/auth:9001: no answer within 1000 ms".into());
    let unasked = Some("ExternalAuthPolicy shop/ask: shop/auth:9001: no answer within 1000 ms".into());
    let away = ServiceState::Away {
        why: "shop/auth:9001: no answer within 1000 ms".into(),
        meanwhile: "requests pass unasked",
    };
    assert_eq!(told(failed()), (unasked.clone(), vec![away]));
    assert_eq!(told(failed()), (unasked, Vec::new()));
}

#[test]
fn no_answer_refuses_unless_it_is_said_otherwise() {
    let garbage = || answered(200, &[], b"\0\0\0\0\x05hello");
    for result in [
        CalloutResult::Failed("shop/auth:9001: no answer within 1000 ms".into()),
        answered(500, &[], b""),
        garbage(),
        answered(200, &[], b""),
        CalloutResult::BodyTooLarge,
    ] {
        let reply = refused(after(&over_grpc(), result).0);
        assert_eq!((reply.status, reply.reason), (503, Reason::AuthorizerUnavailable));
    }
    let open = policy(grpc(None, Vec::new()).expect("settings"), WithoutAnswer::Allow);
    assert!(after(&open, garbage()).0.goes_on());
    assert!(after(&open, CalloutResult::Failed("x".into())).0.goes_on());
    // What only the service may say, nobody says in its place while it is away.
    let open = ExternalAuthPolicy { without_answer: WithoutAnswer::Allow, ..over_http(&["x-user", "x_team"]) };
    let (verdict, request) = after(&open, CalloutResult::Failed("x".into()));
    assert!(verdict.goes_on());
    let names: Vec<_> = request.fields.iter().map(|(name, _)| name.as_str().to_owned()).collect();
    assert!(!names.iter().any(|name| matches!(&**name, "X-User" | "X-Team")), "{names:?}");
    assert_eq!(refused(after(&over_http(&[]), answered(502, &[], b"")).0).status, 503);
    let nobody = exchange(&mut sent(), &mut Notes::new(), |x| over_grpc().on_request(x));
    assert_eq!(refused(nobody).cause.as_deref(), Some("external authorization: there is no Service shop/auth"));
}

#[test]
fn an_answer_over_grpc_changes_request_and_response() {
    let mut writer = Writer::default();
    writer.message(1, |_| ());
    writer.message(3, |ok| {
        for (field, name, value) in [(2, "x-user", "ann"), (2, "transfer-encoding", "chunked"), (6, "x-seen", "yes")] {
            ok.message(field, |option| {
                option.message(1, |header| {
                    header.bytes(1, name.as_bytes());
                    header.bytes(2, value.as_bytes());
                });
            });
        }
        ok.bytes(5, b"cookie");
    });
    let message = writer.into_bytes();
    let framed = [&[0, 0, 0, 0, message.len() as u8][..], &message].concat();
    let (mut request, mut notes) = (sent(), Notes::new());
    let policy = over_grpc();
    let verdict = exchange(&mut request, &mut notes, |x| policy.on_callout(x, answered(200, &[], &framed)));
    assert!(verdict.goes_on());
    assert_eq!((value(&request, "x-user"), value(&request, "cookie")), (Some(&b"ann"[..]), None));
    assert_eq!(value(&request, "transfer-encoding"), None);
    let mut response = Response::new(200);
    exchange(&mut request, &mut notes, |x| policy.on_response(x, &mut response));
    assert_eq!(response.fields.first_named(&FieldName::new("x-seen").expect("a name")), Some(&b"yes"[..]));
}

#[test]
fn what_looks_like_a_field_that_the_service_sets_does_not_get_past_it() {
    let mut request = sent();
    for name in ["X_User", "x_other"] {
        request.fields.push(&FieldName::new(name).expect("a name"), b"forged").expect("a value");
    }
    let policy = over_http(&[]);
    let lines = [("X-User", "ann"), ("X-User", "anna")];
    let verdict = exchange(&mut request, &mut Notes::new(), |x| policy.on_callout(x, answered(200, &lines, b"")));
    assert!(verdict.goes_on());
    let named: Vec<_> = request
        .fields
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value).into_owned()))
        .collect();
    let users: Vec<_> = named.iter().filter(|(name, _)| name.to_ascii_lowercase().contains("user")).collect();
    assert_eq!(users.len(), 2, "{named:?}");
    assert!(users.iter().all(|(name, value)| name.contains('-') && value.starts_with("ann")), "{named:?}");
}

#[test]
fn a_body_is_read_before_the_service_is_asked() {
    let policy = ExternalAuthPolicy { body: Some(10), ..over_grpc() };
    let asks = exchange(&mut sent(), &mut Notes::new(), |x| policy.on_request(x));
    assert!(matches!(asks, Verdict::Call(callout) if matches!(*callout, Callout::BodyBegin { most: 10 })));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for wrong in [
        "{protocol: GRPC, backendRef: {name: auth, port: 1}, http: {}}",
        "{protocol: HTTP, backendRef: {name: auth, port: 1}, extensions: {a: b}}",
        "{protocol: HTTP, backendRef: {name: auth, port: 1}, timeout: 0s}",
        "{protocol: HTTP, backendRef: {name: auth, port: 1}, forwardBody: {maxSize: 99999999}}",
        "{protocol: HTTP, backendRef: {name: auth}}",
        "{protocol: GRPC, backendRef: {name: auth, port: 1}, grpc: {allowedHeaders: ['a b']}}",
    ] {
        assert_eq!(refusals::<ExternalAuthPolicy>(&format!("{wrong}\n")).len(), 1, "{wrong}");
    }
}
