//! The rules for HTTP answers, one test each; a rule that no test can break would be no rule.

use serde_json::json;

use super::*;

fn sent() -> Sent {
    Sent {
        scheme: Scheme::Http,
        method: "GET".to_owned(),
        target: "/a?x=1".to_owned(),
        host: Some("example.com:8080".to_owned()),
        headers: BTreeMap::from([("X-A".to_owned(), "1,2".to_owned())]),
    }
}

fn expect(value: serde_json::Value) -> Expect {
    serde_json::from_value(value).expect("an expectation")
}

fn echoed(change: impl FnOnce(&mut serde_json::Value)) -> Answer {
    let mut body = json!({
        "path": "/a?x=1", "host": "example.com:8080", "method": "GET",
        "headers": {"X-A": ["1", "2"]}, "namespace": "infra", "pod": "infra-backend-v1-h-s",
    });
    change(&mut body);
    Answer {
        status: 200,
        fields: vec![("Content-Type".to_owned(), "application/json".to_owned())],
        body: body.to_string().into_bytes(),
        ..Answer::default()
    }
}

fn redirected(status: u16, location: &str) -> Answer {
    let fields = vec![("location".to_owned(), location.to_owned())];
    Answer { status, fields, ..Answer::default() }
}

fn complaints(wanted: serde_json::Value, answer: &Answer) -> Vec<String> {
    compare(&expect(wanted), &sent(), answer, None)
}

#[test]
fn an_unchanged_request_is_what_the_backend_must_have_seen() {
    let wanted = json!({"status": [200], "backend": "infra-backend-v1", "namespace": "infra"});
    let check = |change: fn(&mut serde_json::Value)| complaints(wanted.clone(), &echoed(change)).len();
    assert_eq!(check(|_| {}), 0);
    assert_eq!(check(|body| body["host"] = json!("example.com")), 1);
    assert_eq!(check(|body| body["path"] = json!("/a")), 1);
    assert_eq!(check(|body| body["headers"]["X-A"] = json!(["1, 2"])), 1);
    assert_eq!(check(|body| body["headers"]["X-A"] = json!(["1,2"])), 0);
    assert_eq!(check(|body| body["pod"] = json!("infra-backend-v2-h-s")), 1);
    assert_eq!(check(|body| body["namespace"] = json!("other")), 1);
}

#[test]
fn only_what_seen_lists_is_compared_beside_method_and_path() {
    let wanted = json!({"status": [200], "seen": {
        "method": "GET", "path": "/b", "headers": {"x-set": "v"}, "absent_headers": ["X-A"],
    }});
    let answer = echoed(|body| {
        body["path"] = json!("/b");
        body["host"] = json!("rewritten");
        body["headers"] = json!({"X-Set": ["v"]});
    });
    assert_eq!(complaints(wanted.clone(), &answer), Vec::<String>::new());
    assert_eq!(complaints(wanted, &echoed(|_| {})).len(), 3);
}

#[test]
fn a_body_of_another_type_counts_for_nothing() {
    let mut answer = echoed(|_| {});
    answer.fields[0].1 = "application/json; charset=utf-8".to_owned();
    assert!(!complaints(json!({"status": [200], "namespace": "infra"}), &answer).is_empty());
    assert_eq!(complaints(json!({"status": [200], "answered_by": "gateway"}), &answer), Vec::<String>::new());
    let from_backend = complaints(json!({"status": [200], "answered_by": "gateway"}), &echoed(|_| {}));
    assert_eq!(from_backend.len(), 1);
}

#[test]
fn timeouts_are_interchangeable_and_other_statuses_are_not() {
    let status = |status| Answer { status, ..Answer::default() };
    assert_eq!(complaints(json!({"status": [504]}), &status(408)), Vec::<String>::new());
    assert_eq!(complaints(json!({"status": [408, 200]}), &status(504)), Vec::<String>::new());
    assert_eq!(complaints(json!({"status": [503]}), &status(504)).len(), 1);
}

#[test]
fn response_headers_are_joined_and_may_differ_in_spaces_when_told() {
    let mut answer = echoed(|_| {});
    answer.fields.push(("X-B".to_owned(), "1".to_owned()));
    answer.fields.push(("x-b".to_owned(), "2".to_owned()));
    let exact = |value: &str| complaints(json!({"status": [200], "response_headers": {"X-B": value}}), &answer).len();
    assert_eq!((exact("1,2"), exact("1, 2")), (0, 1));
    let spaced =
        json!({"status": [200], "ignore_whitespace": true, "response_headers_one_of": {"X-B": ["2, 1", "1, 2"]}});
    assert_eq!(complaints(spaced, &answer), Vec::<String>::new());
    let absent = json!({"status": [200], "response_absent_headers": ["x-B"]});
    assert_eq!(complaints(absent, &answer).len(), 1);
}

#[test]
fn the_port_of_a_redirect_is_compared_by_its_own_rule() {
    let unported = json!({"status": [302], "redirect": {"scheme": "http", "host": "h", "path": "/p"}});
    let check =
        |wanted: &serde_json::Value, location: &str| complaints(wanted.clone(), &redirected(302, location)).len();
    assert_eq!(check(&unported, "http://h/p"), 0);
    assert_eq!(check(&unported, "http://h:80/p?q=1"), 0);
    assert_eq!(check(&unported, "http://h:443/p"), 1);
    assert_eq!(check(&unported, "https://h:443/p"), 1);
    assert_eq!(check(&unported, "http://other/p"), 1);
    let ported = json!({"status": [302], "redirect": {"scheme": "http", "port": 8080, "path": "/p"}});
    assert_eq!(check(&ported, "http://any:8080/p"), 0);
    assert_eq!(check(&ported, "http://any/p"), 1);
}

#[test]
fn a_relative_location_takes_the_rest_from_the_request() {
    let wanted =
        json!({"status": [302], "redirect": {"scheme": "http", "host": "example.com", "port": 8080, "path": "/p"}});
    assert_eq!(complaints(wanted.clone(), &redirected(302, "/p")), Vec::<String>::new());
    assert_eq!(complaints(wanted.clone(), &redirected(302, "/q")).len(), 1);
    assert_eq!(complaints(wanted, &redirected(301, "/p")).len(), 1);
}
