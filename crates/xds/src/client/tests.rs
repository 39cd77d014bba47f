//! Clients, response by response.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::messages::{self, Any, ProtoDuration};

const NOW: Duration = Duration::from_secs(100);

fn backend() -> TypeUrl {
    TypeUrl::from("backend")
}

fn key(name: &str) -> Key {
    Key::new(&backend(), name)
}

fn settings() -> Settings {
    Settings { types: vec![backend(), TypeUrl::from("route")], servers: 2, ..Settings::default() }
}

fn connected(settings: Settings) -> Client {
    let mut client = Client::new(settings);
    assert_eq!(client.dial(NOW), Some(0));
    client.connected(NOW);
    while client.next_request().is_some() {}
    client
}

fn resource(name: &str, version: &str, contents: &'static str) -> messages::Resource {
    messages::Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(Any { type_url: "backend".into(), value: Bytes::from_static(contents.as_bytes()) }),
        ttl: None,
    }
}

/// A nonce that no other response has.
fn nonce() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}

fn response(resources: Vec<messages::Resource>, removed: &[&str], progress: &str) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: progress.to_owned(),
        resources,
        type_url: "backend".into(),
        nonce: nonce(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        control_plane: None,
    }
}

/// Receives and settles, and returns the answer.
fn take(client: &mut Client, response: DeltaDiscoveryResponse, refusals: Vec<Refusal>) -> DeltaDiscoveryRequest {
    let batch = client.receive(response).expect("no breach").expect("a batch");
    assert_eq!(client.settle(NOW, batch, refusals), Settled::Held);
    client.next_request().expect("an answer")
}

fn names(client: &Client) -> Vec<String> {
    client.holdings().map(|(key, held)| format!("{}={}", key.name, held.version)).collect()
}

fn refused(request: &DeltaDiscoveryRequest) -> Vec<(String, Reason)> {
    let status = request.error_detail.as_ref().expect("an error");
    let refusals = refusal::from_status(status).expect("our detail");
    refusals.into_iter().map(|refusal| (refusal.name.clone(), refusal.reason())).collect()
}

#[test]
fn a_stream_begins_with_everything_that_is_known() {
    let mut client = Client::new(settings());
    client.subscribe(&key("a")).expect("a known type");
    client.restore(&key("a"), "7", Bytes::from_static(b"x")).expect("a known type");
    assert_eq!((client.dial(NOW), client.dial(NOW)), (Some(0), None));
    assert_eq!(client.next_request(), None);
    client.connected(NOW);
    let first = client.next_request().expect("a request");
    let features = first.node.expect("a node").client_features;
    assert_eq!(features, [format!("{ANNOUNCES}backend"), format!("{ANNOUNCES}route")]);
    assert_eq!((first.type_url.as_str(), first.resource_names_subscribe), ("backend", vec!["a".to_owned()]));
    assert_eq!(first.initial_resource_versions, [("a".to_owned(), "7".to_owned())].into());
    // Of this type nothing is wanted; an empty request would mean all of it.
    let second = client.next_request().expect("a request");
    assert_eq!((second.node, second.type_url.as_str()), (None, "route"));
    assert_eq!(
        (second.resource_names_subscribe, second.resource_names_unsubscribe),
        (vec!["*".into()], vec!["*".into()])
    );
    assert_eq!(client.next_request(), None);
    assert_eq!(client.subscribe(&Key::new(&TypeUrl::from("x"), "a")), Err(UnknownType(TypeUrl::from("x"))));
}

#[test]
fn what_is_refused_keeps_its_last_good_version_and_its_siblings_apply() {
    let mut client = connected(settings());
    take(&mut client, response(vec![resource("a", "1", ""), resource("b", "1", "")], &[], "1@2"), vec![]);
    let no = Refusal::new("a", "2", Reason::Invalid, "no");
    let changes = vec![resource("a", "2", ""), resource("b", "2", ""), resource("c", "1", "")];
    let second = response(changes, &[], "2@2");
    let nonce = second.nonce.clone();
    let reply = take(&mut client, second, vec![no]);
    assert_eq!((refused(&reply), reply.response_nonce), (vec![("a".to_owned(), Reason::Invalid)], nonce));
    assert_eq!(names(&client), ["a=1", "b=2", "c=1"]);
    let reply = take(&mut client, response(vec![], &["b"], "3@3"), vec![]);
    assert_eq!(reply.error_detail, None);
    assert_eq!(names(&client), ["a=1", "c=1"]);
}

#[test]
fn what_a_response_names_twice_is_refused() {
    let mut client = connected(settings());
    let twice = vec![resource("a", "1", ""), resource("b", "1", ""), resource("a", "2", "")];
    let reply = take(&mut client, response(twice, &[], "1@2"), vec![]);
    assert_eq!((refused(&reply), names(&client)), (vec![("a".to_owned(), Reason::Duplicate)], vec!["b=1".to_owned()]));
    let reply = take(&mut client, response(vec![resource("b", "2", "")], &["b"], "2@3"), vec![]);
    assert_eq!((refused(&reply), names(&client)), (vec![("b".to_owned(), Reason::Duplicate)], vec!["b=1".to_owned()]));
}

#[test]
fn nothing_is_held_beyond_the_limits() {
    let mut client = connected(Settings { resources: 2, bytes: 4, ..settings() });
    let many =
        vec![resource("a", "1", "123"), resource("b", "1", "12"), resource("c", "1", "1"), resource("d", "1", "")];
    let reply = take(&mut client, response(many, &[], "1@2"), vec![]);
    let limit = |name: &str| (name.to_owned(), Reason::Limit);
    assert_eq!((refused(&reply), names(&client)), (vec![limit("b"), limit("d")], vec!["a=1".into(), "c=1".into()]));
    // What replaces something may take its place.
    take(&mut client, response(vec![resource("a", "2", "abc")], &[], "2@3"), vec![]);
    assert_eq!(names(&client), ["a=2", "c=1"]);
}

#[test]
fn unknown_types_are_refused_and_broken_responses_end_the_stream() {
    let mut client = connected(settings());
    let unknown = DeltaDiscoveryResponse { type_url: "x".into(), ..response(vec![resource("a", "1", "")], &[], "") };
    assert!(client.receive(unknown).expect("no breach").is_none());
    let reply = client.next_request().expect("an answer");
    assert_eq!((reply.type_url.as_str(), refused(&reply)), ("x", vec![("a".to_owned(), Reason::UnknownType)]));
    let other = messages::Resource {
        resource: Some(Any { type_url: "route".into(), value: Bytes::new() }),
        ..resource("a", "1", "")
    };
    let reply = take(&mut client, response(vec![other], &[], "1@2"), vec![]);
    assert_eq!(refused(&reply), [("a".to_owned(), Reason::Invalid)]);

    let mut breach = |response| client.receive(response).expect_err("a breach");
    assert_eq!(breach(DeltaDiscoveryResponse { nonce: String::new(), ..response(vec![], &[], "") }), Breach::NoNonce);
    assert_eq!(breach(response(vec![resource("", "1", "")], &[], "")), Breach::BadName);
    client.receive(response(vec![], &[], "")).expect("no breach");
    assert_eq!(client.receive(response(vec![], &[], "")).expect_err("a breach"), Breach::Overrun);
    client.disconnected(NOW, 0);
    assert_eq!(client.receive(response(vec![], &[], "")).expect_err("a breach"), Breach::NoStream);
}

#[test]
fn a_subscription_is_answered_once_what_comes_along_is_here() {
    let mut client = connected(settings());
    client.subscribe(&key("a")).expect("a known type");
    assert!(!client.is_synced());
    client.next_request().expect("a request");
    // It was sent before the subscription was heard.
    take(&mut client, response(vec![], &[], "5@2"), vec![]);
    assert!(!client.is_answered(&key("a")));
    take(&mut client, response(vec![resource("a", "1", "")], &[], "5+4@3"), vec![]);
    assert!(!client.is_answered(&key("a")) && client.held(&key("a")).is_some());
    let along = DeltaDiscoveryResponse { type_url: "route".into(), ..response(vec![], &[], "5@3") };
    take(&mut client, along, vec![]);
    assert!(client.is_answered(&key("a")) && client.is_synced());
    assert!(!client.is_answered(&key("b")));
}

#[test]
fn an_answer_does_not_count_before_those_ahead_of_it_are_settled() {
    let mut client = connected(settings());
    client.subscribe(&key("a")).expect("a known type");
    client.next_request().expect("a request");
    let ahead =
        client.receive(response(vec![resource("a", "1", "")], &[], "5+4@3")).expect("no breach").expect("a batch");
    let along = DeltaDiscoveryResponse { type_url: "route".into(), ..response(vec![], &[], "5@3") };
    take(&mut client, along, vec![]);
    assert!(!client.is_answered(&key("a")));
    client.settle(NOW, ahead, vec![]);
    assert!(client.is_answered(&key("a")));
}

#[test]
fn changes_of_mind_are_told_once_and_before_the_answer_that_follows_them() {
    let mut client = connected(settings());
    for name in ["a", "b"] {
        client.subscribe(&key(name)).expect("a known type");
    }
    let first = response(vec![resource("a", "1", "")], &[], "1@2");
    let nonce = first.nonce.clone();
    let batch = client.receive(first).expect("no breach").expect("a batch");
    assert!(!client.unsubscribe(&key("a")).expect("a known type"));
    client.settle(NOW, batch, vec![]);
    let told = client.next_request().expect("a request");
    assert_eq!(told.resource_names_subscribe, ["b"]);
    assert_eq!(told.resource_names_unsubscribe, ["a"]);
    assert_eq!(client.next_request().expect("an answer").response_nonce, nonce);
    assert!(client.next_request().is_none() && !client.has_requests());
}

#[test]
fn a_response_that_arrives_twice_brings_nothing_back() {
    let mut client = connected(settings());
    client.subscribe(&key("a")).expect("a known type");
    let first = response(vec![resource("a", "1", "")], &[], "1@2");
    let batch = client.receive(first.clone()).expect("no breach").expect("a batch");
    assert!(client.receive(first.clone()).expect("no breach").is_none(), "before it is settled");
    client.settle(NOW, batch, vec![]);
    assert_eq!(names(&client), ["a=1"]);
    client.unsubscribe(&key("a")).expect("a known type");
    assert!(client.receive(first).expect("no breach").is_none(), "and after that");
    assert_eq!(names(&client), [""; 0]);
}

#[test]
fn what_is_given_up_is_dropped_unless_all_is_wanted() {
    let mut client = connected(settings());
    client.subscribe(&key("a")).expect("a known type");
    take(&mut client, response(vec![resource("a", "1", ""), resource("b", "1", "")], &[], "1@3"), vec![]);
    client.subscribe_all(&backend()).expect("a known type");
    assert!(!client.unsubscribe(&key("a")).expect("a known type"));
    assert_eq!(names(&client), ["a=1", "b=1"]);
    client.subscribe(&key("a")).expect("a known type");
    assert_eq!(client.unsubscribe_all(&backend()).expect("a known type"), ["b".into()]);
    assert!(client.unsubscribe(&key("a")).expect("a known type"));
    assert_eq!(names(&client), [""; 0]);
}

#[test]
fn a_batch_of_an_earlier_stream_is_stale_once_another_began() {
    let mut client = connected(settings());
    let old = client.receive(response(vec![resource("a", "1", "")], &[], "1@2")).expect("no breach").expect("a batch");
    client.disconnected(NOW, 0);
    assert_eq!(client.dial(NOW), Some(1));
    client.connected(NOW);
    assert_eq!(client.settle(NOW, old, vec![]), Settled::Stale);
    assert_eq!(names(&client), [""; 0]);
    // Between two streams it counts: the next one is told.
    while client.next_request().is_some() {}
    let late = client.receive(response(vec![resource("a", "2", "")], &[], "1@2")).expect("no breach").expect("a batch");
    client.disconnected(NOW, 0);
    assert_eq!(client.settle(NOW, late, vec![]), Settled::Held);
    assert_eq!((names(&client), client.next_request()), (vec!["a=2".to_owned()], None));
}

#[test]
fn servers_are_tried_in_turn_after_a_while() {
    let mut client = Client::new(settings());
    assert_eq!(client.dial(NOW), Some(0));
    client.disconnected(NOW, u64::MAX);
    assert_eq!((client.dial(NOW), client.wake_at()), (None, Some(NOW + Duration::from_millis(500))));
    assert_eq!(client.dial(NOW + Duration::from_millis(500)), Some(1));
    client.disconnected(NOW, 0);
    client.disconnected(NOW, u64::MAX);
    assert_eq!(client.dial(NOW), Some(0));
}

#[test]
fn what_has_an_end_ends_unless_it_is_renewed() {
    let mut client = connected(settings());
    let ttl = Some(ProtoDuration { seconds: 9, nanos: 0 });
    let with_end = messages::Resource { ttl, ..resource("a", "1", "") };
    take(&mut client, response(vec![with_end.clone()], &[], "1@2"), vec![]);
    let end = NOW + Duration::from_secs(9);
    assert_eq!((client.wake_at(), client.expire(end - Duration::from_nanos(1))), (Some(end), vec![]));
    let beat = messages::Resource { resource: None, ..with_end };
    let batch = client.receive(response(vec![beat.clone()], &[], "1@3")).expect("no breach").expect("a batch");
    client.settle(NOW + Duration::from_secs(3), batch, vec![]);
    assert_eq!(client.expire(end), []);
    assert_eq!(client.expire(end + Duration::from_secs(3)), [key("a")]);
    let _ = client.next_request();
    let reply = take(&mut client, response(vec![beat], &[], "1@4"), vec![]);
    assert_eq!(refused(&reply), [("a".to_owned(), Reason::NotHeld)]);
}

#[test]
fn what_was_refused_at_first_sight_is_asked_about_until_there_is_something_better() {
    let mut client = connected(settings());
    client.subscribe_all(&backend()).expect("a known type");
    client.next_request().expect("the subscription");
    let no = |version: &str| vec![Refusal::new("a", version, Reason::Invalid, "no")];
    take(&mut client, response(vec![resource("a", "1", "x"), resource("b", "1", "y")], &[], ""), no("1"));
    assert!(client.is_refused(&key("a")) && !client.is_refused(&key("b")));
    let announced = |client: &mut Client| {
        client.disconnected(NOW, 0);
        client.dial(NOW + Duration::from_secs(1000)).expect("a server");
        client.connected(NOW);
        let first = client.next_request().expect("a request").initial_resource_versions;
        while client.next_request().is_some() {}
        first.into_iter().map(|(name, version)| format!("{name}={version}")).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(announced(&mut client), ["a=refused".to_owned(), "b=1".to_owned()].into());
    // Once one is held, a refusal of the next says nothing about it.
    take(&mut client, response(vec![resource("a", "2", "x")], &[], ""), Vec::new());
    take(&mut client, response(vec![resource("a", "3", "x")], &[], ""), no("3"));
    assert!(!client.is_refused(&key("a")));
    assert_eq!(announced(&mut client), ["a=2".to_owned(), "b=1".to_owned()].into());
    client.restore_refused(&key("c")).expect("a known type");
    take(&mut client, response(Vec::new(), &["c"], ""), Vec::new());
    assert!(!client.is_refused(&key("c")), "its end is told");
}

#[test]
fn a_stream_that_is_replaced_is_no_failure() {
    let mut client = connected(settings());
    for _ in 0..9 {
        client.begin_anew(NOW);
        assert_eq!(client.dial(NOW), Some(0), "at once, and the same one");
        client.connected(NOW);
        assert!(client.next_request().is_some(), "everything is asked for anew");
    }
    client.disconnected(NOW, u64::MAX);
    assert_eq!(client.wake_at(), Some(NOW + Duration::from_millis(500)), "the first failure");
}
