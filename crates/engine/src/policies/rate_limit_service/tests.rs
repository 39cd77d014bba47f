//! Tests of `RateLimitServicePolicy`: what becomes of a request, and of its response, by what a service says.

use std::net::SocketAddr;

use transept_wire::head::Fields;

use super::super::tests::compile;
use super::*;
use crate::callout::Answer;
use crate::exchange::{Connection, Notes, Now};

const SHOP: &str = "backendRef: {group: transept.dev, kind: Backend, name: limits}\ndomain: shop\n\
    descriptors: [{entries: [{key: tenant, header: X-Tenant}, {key: remote_address, from: Address}]}, \
    {entries: [{key: plan, value: gold}, {key: user, header: X-User}]}]\n";

/// An exchange with a request of these fields.
fn exchange<T>(fields: &[(&str, &str)], notes: &mut Notes, work: impl FnOnce(&mut Exchange<'_>) -> T) -> (T, Request) {
    let mut request = Request::build("GET", "http", "a.test", "/").expect("a request");
    for (name, value) in fields {
        request.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
    }
    let address: SocketAddr = "192.0.2.1:9".parse().expect("an address");
    let done = work(&mut Exchange {
        now: Now { monotonic: Duration::from_secs(60), unix: Duration::from_secs(60) },
        random: 7,
        connection: &Connection::new(address, address, None),
        client: address.ip(),
        listener_port: 80,
        request: &mut request,
        notes,
    });
    (done, request)
}

fn answered(write: impl FnOnce(&mut Writer)) -> CalloutResult {
    let mut message = Writer::default();
    write(&mut message);
    let mut trailers = Fields::new();
    trailers.push(&FieldName::known(FieldId::GRPC_STATUS), b"0").expect("a field");
    let body = grpc_frame(&message.into_bytes());
    CalloutResult::Answered(Box::new(Answer { status: 200, body, trailers, ..Answer::default() }))
}

/// A status of a limit: its name, its code, how much is left, the seconds until it is reset.
fn limit(message: &mut Writer, name: &str, code: u64, left: u64, reset: u64) {
    message.message(2, |status| {
        status.number(1, code);
        status.message(2, |current| {
            current.number(1, 10);
            current.number(2, 2);
            current.bytes(3, name.as_bytes());
        });
        status.number(3, left);
        status.message(4, |duration| duration.number(1, reset));
    });
}

/// The verdict, the request and the response after an answer.
fn after(yaml: &str, sent: &[(&str, &str)], result: CalloutResult) -> (Verdict, Request, Response) {
    let policy = compile::<RateLimitServicePolicy>(yaml);
    let mut notes = Notes { between: Some(Box::new(Asking(0))), ..Notes::new() };
    let (verdict, request) = exchange(sent, &mut notes, |x| policy.on_callout(x, result));
    let mut response = Response::new(200);
    for (name, value) in [("RateLimit", "\"backend\";r=1"), ("X-Seen", "backend")] {
        response.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
    }
    exchange(&[], &mut notes, |x| policy.on_response(x, &mut response));
    (verdict, request, response)
}

fn texts(fields: &Fields, name: &str) -> Vec<String> {
    let name = FieldName::new(name).expect("a name");
    fields.all_named(&name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
}

#[test]
fn a_request_that_passes_gets_the_fields_of_the_service_and_its_response_tells_of_the_limits() {
    let result = answered(|message| {
        message.number(1, 1);
        limit(message, "ten", 1, 7, 17);
        limit(message, "", 1, 3, 0);
        limit(message, "ten", 1, 5, 20);
        message.entry(3, b"X-Seen", b"limits");
        message.entry(4, b"X-Tier", b"free");
        message.entry(4, b"X-Auth-Id", b"somebody");
    });
    let sent = [("X-Tenant", "ada"), ("x_tier", "gold"), ("X-Auth-Id", "ada")];
    let (verdict, request, response) = after(SHOP, &sent, result);
    assert!(verdict.goes_on(), "{verdict:?}");
    assert_eq!(texts(&request.fields, "x-tier"), ["free"]);
    assert!(texts(&request.fields, "x_tier").is_empty(), "a client does not speak for the service");
    assert_eq!(texts(&request.fields, "x-auth-id"), ["ada"], "nor the service for who has found out who it is");
    assert_eq!(texts(&response.fields, "x-seen"), ["backend", "limits"]);
    assert_eq!(texts(&response.fields, "ratelimit-policy"), [r#""ten";q=10;w=60, "shop";q=10;w=60"#]);
    assert_eq!(texts(&response.fields, "ratelimit"), [r#""ten";r=5;t=20, "shop";r=3;t=0"#]);
}

#[test]
fn a_refusal_is_the_services_own_and_its_fields_of_limits_are_its_word() {
    let refused = |fields: &'static [(&'static str, &'static str)], body: &'static [u8]| {
        answered(move |message| {
            message.number(1, 2);
            limit(message, "ten", 2, 9, 17);
            limit(message, "other", 1, 9, 90);
            fields.iter().for_each(|(name, value)| message.entry(3, name.as_bytes(), value.as_bytes()));
            message.bytes(5, body);
        })
    };
    let (verdict, _, response) = after(SHOP, &[("X-Tenant", "ada")], refused(&[], b""));
    let Verdict::Respond(reply) = verdict else { panic!("{verdict:?}") };
    assert_eq!((reply.status, &reply.body), (429, &ReplyBody::Problem));
    assert_eq!(reply.fields, [(FieldName::known(FieldId::RETRY_AFTER), b"17".to_vec())]);
    assert_eq!(reply.problem.expect("a problem").members[0].1, serde_json::json!(["ten"]));
    assert_eq!(texts(&response.fields, "ratelimit"), [r#""ten";r=0;t=17, "other";r=9;t=90"#]);

    let own = &[("RateLimit", "\"own\";r=0"), ("Retry-After", "3"), ("Content-Type", "text/x-own")];
    let (verdict, _, response) = after(SHOP, &[("X-Tenant", "ada")], refused(own, b"full"));
    let Verdict::Respond(reply) = verdict else { panic!("{verdict:?}") };
    assert_eq!(reply.body, ReplyBody::Bytes { media_type: "text/x-own".into(), bytes: b"full".into() });
    assert_eq!(texts(&response.fields, "ratelimit"), ["\"own\";r=0"]);
    assert!(texts(&response.fields, "ratelimit-policy").is_empty());
    assert_eq!(texts(&response.fields, "retry-after"), ["3"]);
    let quiet = format!("{SHOP}headers: \"Off\"\n");
    let (_, _, response) = after(&quiet, &[("X-Tenant", "ada")], refused(&[], b"full"));
    assert_eq!(texts(&response.fields, "ratelimit"), ["\"backend\";r=1"]);
}

#[test]
fn without_an_answer_the_log_is_told_once_and_the_access_log_each_time() {
    for (unavailable, passes) in [("Allow", true), ("Deny", false)] {
        let policy = compile::<RateLimitServicePolicy>(&format!("{SHOP}onUnavailable: {unavailable}\n"));
        let ask = |result: CalloutResult| {
            let mut notes = Notes { between: Some(Box::new(Asking(0))), ..Notes::new() };
            let (verdict, _) = exchange(&[], &mut notes, |x| policy.on_callout(x, result));
            let services = notes.services.unwrap_or_default();
            (verdict.goes_on(), services.turns.len(), services.uncounted.is_some())
        };
        assert_eq!(ask(CalloutResult::Failed("no answer".into())), (passes, 1, passes));
        assert_eq!(ask(CalloutResult::Failed("no answer".into())), (passes, 0, passes));
        assert_eq!(ask(answered(|message| message.number(1, 1))), (true, 0, false), "it has failed just now");
    }
}

#[test]
fn an_explanation_says_what_the_service_is_asked_and_no_secret() {
    let policy = compile::<RateLimitServicePolicy>(SHOP);
    let sent = [("X-Tenant", "secret-of-ada")];
    let (line, _) = exchange(&sent, &mut Notes::told(), |x| policy.services[0].describe(x));
    let start =
        "RateLimitServicePolicy default/test: asks about 1 hit of domain shop; descriptor (tenant=header X-Tenant #";
    assert!(line.starts_with(start), "{line}");
    assert!(
        line.ends_with(
            ", remote_address=192.0.2.1); descriptor (plan=gold, user: no header X-User), which is left out"
        )
    );
    assert!(!line.contains("secret-of-ada"));
}
