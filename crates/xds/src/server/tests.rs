//! Sessions, request by request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::*;
use crate::messages::{self, Status};
use crate::refusal::{self, Reason};
use crate::resource::Resource;
use crate::source::Everything;

const NOW: Duration = Duration::from_secs(100);

fn kind(name: &str) -> TypeUrl {
    TypeUrl::from(name)
}

fn resource(kind: &str, name: &str, contents: &'static str) -> Resource {
    Resource::new(Key::new(&TypeUrl::from(kind), name), Bytes::from_static(contents.as_bytes()))
}

fn version(contents: &str) -> String {
    Version::of(contents.as_bytes(), None).to_string()
}

fn store(resources: &[(&str, &str, &'static str)]) -> Store {
    let mut store = Store::new();
    for (kind, name, contents) in resources {
        store.put(resource(kind, name, contents));
    }
    store
}

fn session_with(settings: Settings) -> Session<()> {
    let order = ["backend", "slice", "route"].map(kind).to_vec();
    Session::new((), Arc::new(Settings { order, ..settings }))
}

fn session() -> Session<()> {
    session_with(Settings::default())
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn request(kind: &str, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.to_owned(),
        resource_names_subscribe: strings(subscribe),
        resource_names_unsubscribe: strings(unsubscribe),
        ..DeltaDiscoveryRequest::default()
    }
}

fn holding(mut request: DeltaDiscoveryRequest, held: &[(&str, &str)]) -> DeltaDiscoveryRequest {
    let versions = held.iter().map(|(name, contents)| ((*name).to_owned(), version(contents)));
    request.initial_resource_versions = versions.collect();
    request
}

fn answer(to: &Sent, error_detail: Option<Status>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: to.kind.clone(),
        response_nonce: to.nonce.clone(),
        error_detail,
        ..DeltaDiscoveryRequest::default()
    }
}

/// A response, shortened: names with contents, and names removed.
#[derive(Clone, Debug, PartialEq)]
struct Sent {
    kind: String,
    put: Vec<(String, Option<String>)>,
    removed: Vec<String>,
    nonce: String,
    progress: String,
}

impl Sent {
    fn names(&self) -> Vec<&str> {
        self.put.iter().map(|(name, _)| name.as_str()).collect()
    }
}

fn poll(session: &mut Session<()>, now: Duration, store: &Store) -> Vec<Sent> {
    let responses = session.poll(now, store, &Everything).into_iter();
    let shorten = |response: SharedResponse| {
        let resources = response.resources.into_iter().map(|bytes| messages::Resource::decode(bytes).expect("decodes"));
        let text = |any: messages::Any| String::from_utf8(any.value.to_vec()).expect("text");
        Sent {
            kind: response.type_url,
            put: resources.map(|resource| (resource.name, resource.resource.map(text))).collect(),
            removed: response.removed_resources,
            nonce: response.nonce,
            progress: response.system_version_info,
        }
    };
    responses.map(shorten).collect()
}

fn ask(session: &mut Session<()>, request: DeltaDiscoveryRequest, store: &Store) -> Vec<Sent> {
    session.receive(NOW, request, store).expect("no breach");
    poll(session, NOW, store)
}

/// Accepts everything that is on its way and whatever follows, and returns all of it.
fn accept_all(session: &mut Session<()>, mut sent: Vec<Sent>, store: &Store) -> Vec<Sent> {
    let mut at = 0;
    while at < sent.len() {
        let reply = answer(&sent[at], None);
        sent.extend(ask(session, reply, store));
        at += 1;
    }
    sent
}

#[test]
fn a_first_request_without_names_asks_for_all_and_is_answered_even_by_nothing() {
    let mut store = Store::new();
    let mut session = session();
    let sent = ask(&mut session, request("backend", &[], &[]), &store);
    assert_eq!((sent.len(), sent[0].put.len(), sent[0].progress.as_str()), (1, 0, "0@1"));
    session.receive(NOW, answer(&sent[0], None), &store).expect("no breach");
    store.put(resource("backend", "a", "1"));
    let sent = poll(&mut session, NOW, &store);
    assert_eq!(sent[0].put, [("a".to_owned(), Some("1".to_owned()))]);
    // After a name was given, an empty list means nothing new.
    assert_eq!(ask(&mut session, request("backend", &["a"], &[]), &store), []);
}

#[test]
fn all_asked_for_and_given_up_at_once_is_nothing() {
    let store = store(&[("backend", "a", "1")]);
    let mut session = session();
    let sent = ask(&mut session, request("backend", &["*"], &["*"]), &store);
    assert_eq!((sent.len(), sent[0].put.len(), sent[0].removed.len()), (1, 0, 0));
    session.receive(NOW, answer(&sent[0], None), &store).expect("no breach");
    assert!(!session.is_asked(&Key::new(&kind("backend"), "a")));
}

#[test]
fn unknown_names_are_answered_and_asking_again_is_answered_again() {
    let store = store(&[("backend", "a", "1")]);
    let mut session = session();
    let first = ask(&mut session, request("backend", &["a", "b"], &[]), &store);
    assert_eq!((first[0].names(), &first[0].removed), (vec!["a"], &strings(&["b"])));
    session.receive(NOW, answer(&first[0], None), &store).expect("no breach");
    let again = ask(&mut session, request("backend", &["a", "b"], &[]), &store);
    assert_eq!((again[0].names(), &again[0].removed), (vec!["a"], &strings(&["b"])));
}

#[test]
fn a_reconnect_is_sent_what_changed_and_what_vanished() {
    let store = store(&[("backend", "same", "1"), ("backend", "changed", "2")]);
    let mut session = session();
    let held = [("same", "1"), ("changed", "1"), ("vanished", "1")];
    let sent = ask(&mut session, holding(request("backend", &["*"], &[]), &held), &store);
    let sent = accept_all(&mut session, sent, &store);
    assert_eq!((sent[0].names(), sent[0].removed.len()), (vec!["changed"], 0));
    assert_eq!((sent[1].names().len(), &sent[1].removed), (0, &strings(&["vanished"])));
    let holdings: BTreeMap<_, _> = session.holdings().map(|(key, version)| (key.name.to_string(), version)).collect();
    let expected =
        [("same", "1"), ("changed", "2")].map(|(n, c)| (n.to_owned(), Some(Version::of(c.as_bytes(), None))));
    assert_eq!(holdings, BTreeMap::from(expected));
}

#[test]
fn a_server_that_may_know_less_takes_nothing_away_before_the_others_have_come() {
    let mut store = store(&[("backend", "same", "1")]);
    let mut session = session();
    let later = NOW + Duration::from_secs(45);
    session.spare(later, [kind("backend"), kind("slice")].into());
    let held = [("same", "1"), ("back", "1"), ("gone", "1"), ("ended", "1")];
    let sent = ask(&mut session, holding(request("backend", &["*"], &[]), &held), &store);
    let sent = [sent, ask(&mut session, holding(request("route", &["*"], &[]), &[("r", "1")]), &store)].concat();
    let sent = accept_all(&mut session, sent, &store);
    let removed = |sent: &[Sent]| sent.iter().flat_map(|one| one.removed.clone()).collect::<Vec<_>>();
    assert_eq!(removed(&sent), ["r"], "of other types everything is said");
    // One comes back, and one comes back and ends.
    store.put(resource("backend", "back", "1"));
    store.put(resource("backend", "ended", "2"));
    let sent = poll(&mut session, NOW, &store);
    assert_eq!((sent.len(), sent[0].names()), (1, vec!["ended"]));
    accept_all(&mut session, sent, &store);
    store.remove(&resource("backend", "ended", "2").key().clone());
    let sent = poll(&mut session, NOW, &store);
    assert_eq!(removed(&accept_all(&mut session, sent, &store)), ["ended"]);
    assert_eq!(session.wake_at(), Some(later));
    assert_eq!(removed(&poll(&mut session, later, &store)), ["gone"]);
    assert_eq!(session.wake_at(), None);
}

#[test]
fn by_name_too_a_reconnect_is_sent_nothing_that_it_holds() {
    let store = store(&[("backend", "a", "1")]);
    let mut session = session();
    let sent = ask(&mut session, holding(request("backend", &["a", "b"], &[]), &[("a", "1")]), &store);
    assert_eq!((sent[0].names().len(), &sent[0].removed), (0, &strings(&["b"])));
}

#[test]
fn a_stale_nonce_acknowledges_nothing_and_its_subscription_counts() {
    let store = store(&[("backend", "a", "1"), ("backend", "b", "1")]);
    let mut session = session();
    let sent = ask(&mut session, request("backend", &["a"], &[]), &store);
    let stale = DeltaDiscoveryRequest { response_nonce: "stale".into(), ..request("backend", &["b"], &[]) };
    let facts = session.receive(NOW, stale, &store).expect("no breach");
    assert_eq!((facts, poll(&mut session, NOW, &store)), (vec![], vec![]));
    let sent = ask(&mut session, answer(&sent[0], None), &store);
    assert_eq!(sent[0].names(), ["b"]);
}

#[test]
fn one_response_is_on_its_way_and_only_the_latest_state_follows() {
    let mut store = store(&[("backend", "a", "1")]);
    let mut session = session();
    let sent = ask(&mut session, request("backend", &["*"], &[]), &store);
    for contents in ["2", "3", "4"] {
        store.put(resource("backend", "a", contents));
        assert_eq!(poll(&mut session, NOW, &store), []);
    }
    let sent = ask(&mut session, answer(&sent[0], None), &store);
    assert_eq!(sent[0].put, [("a".to_owned(), Some("4".to_owned()))]);
}

#[test]
fn types_are_added_in_order_and_removed_the_other_way_round() {
    let mut store = store(&[("backend", "old", "1"), ("route", "r", "old")]);
    let mut session = session();
    // In any order of requests.
    for kind in ["route", "backend"] {
        let sent = ask(&mut session, request(kind, &["*"], &[]), &store);
        accept_all(&mut session, sent, &store);
    }
    store.put(resource("backend", "new", "1"));
    store.put(resource("route", "r", "new"));
    store.remove(&Key::new(&kind("backend"), "old"));
    let sent = poll(&mut session, NOW, &store);
    let kinds: Vec<_> = sent.iter().map(|sent| (sent.kind.as_str(), sent.removed.len())).collect();
    assert_eq!(kinds, [("backend", 0), ("route", 0)]);
    // The backend's response alone does not release the removal: the route may still lead to the old one.
    assert_eq!(ask(&mut session, answer(&sent[0], None), &store), []);
    let removal = ask(&mut session, answer(&sent[1], None), &store);
    assert_eq!((removal[0].kind.as_str(), &removal[0].removed), ("backend", &strings(&["old"])));
    accept_all(&mut session, removal, &store);

    store.remove(&Key::new(&kind("route"), "r"));
    store.remove(&Key::new(&kind("backend"), "new"));
    let kinds: Vec<_> = poll(&mut session, NOW, &store).into_iter().map(|sent| sent.kind).collect();
    assert_eq!(kinds, ["route", "backend"]);
}

#[test]
fn a_removal_waits_for_the_removal_of_what_points_at_it() {
    let mut store = store(&[("backend", "a", "1"), ("route", "first", "1"), ("route", "second", "1")]);
    // One name fills a response.
    let mut session = session_with(Settings { response_bytes: 1, ..Settings::default() });
    for kind in ["route", "backend"] {
        let sent = ask(&mut session, request(kind, &["*"], &[]), &store);
        accept_all(&mut session, sent, &store);
    }
    for (kind, name) in [("route", "first"), ("route", "second"), ("backend", "a")] {
        store.remove(&Key::new(&TypeUrl::from(kind), name));
    }
    let removed = |sent: &[Sent]| sent.iter().map(|sent| sent.removed.join(" ")).collect::<Vec<_>>();
    let first = poll(&mut session, NOW, &store);
    assert_eq!(removed(&first), ["first"]);
    let rest = ask(&mut session, answer(&first[0], None), &store);
    assert_eq!(removed(&rest), ["second", "a"]);
}

#[test]
fn changes_without_end_do_not_hold_a_removal_up() {
    let mut store = store(&[("backend", "a", "1"), ("route", "r", "1")]);
    let mut session = session();
    for kind in ["route", "backend"] {
        let sent = ask(&mut session, request(kind, &["*"], &[]), &store);
        accept_all(&mut session, sent, &store);
    }
    store.put(resource("route", "r", "2"));
    let mut on_its_way = poll(&mut session, NOW, &store).remove(0);
    store.remove(&Key::new(&kind("backend"), "a"));
    let mut removed = Vec::new();
    for contents in ["3", "4", "5"] {
        // The next change is there before the last one is answered.
        store.put(resource("route", "r", contents));
        assert_eq!(poll(&mut session, NOW, &store), []);
        let mut sent = ask(&mut session, answer(&on_its_way, None), &store);
        on_its_way = sent.remove(0);
        removed.extend(sent.into_iter().flat_map(|sent| sent.removed));
    }
    assert_eq!(removed, ["a"]);
}

#[test]
fn what_points_waits_while_what_is_pointed_at_is_on_its_way() {
    let mut store = store(&[("backend", "a", "1")]);
    let mut session = session();
    ask(&mut session, request("route", &["*"], &[]), &store);
    let sent = ask(&mut session, request("backend", &["*"], &[]), &store);
    let route = Sent { kind: "route".into(), put: vec![], removed: vec![], nonce: "1".into(), progress: String::new() };
    session.receive(NOW, answer(&route, None), &store).expect("no breach");
    store.put(resource("backend", "b", "1"));
    store.put(resource("route", "r", "b"));
    assert_eq!(poll(&mut session, NOW, &store), []);
    let sent = ask(&mut session, answer(&sent[0], None), &store);
    let names: Vec<_> = sent.iter().map(|sent| (sent.kind.as_str(), sent.names())).collect();
    assert_eq!(names, [("backend", vec!["b"]), ("route", vec!["r"])]);
}

#[test]
fn refusals_are_facts_of_their_resource_and_siblings_are_accepted() {
    let mut store = store(&[("backend", "bad", "x"), ("backend", "good", "1")]);
    let mut session = session();
    let sent = ask(&mut session, request("backend", &["*"], &[]), &store);
    let refusal = Refusal::new("bad", &version("x"), Reason::Invalid, "no port");
    let nack = answer(&sent[0], refusal::to_status(vec![refusal.clone()]));
    let facts = session.receive(NOW, nack, &store).expect("no breach");
    let key = |name| Key::new(&kind("backend"), name);
    let of = |contents: &str| Version::of(contents.as_bytes(), None);
    let refused = Fact::Refused { key: key("bad"), version: of("x"), refusal };
    let accepted = Fact::Accepted { key: key("good"), version: of("1") };
    assert_eq!(facts, [refused, accepted]);
    assert_eq!(poll(&mut session, NOW, &store), []);
    assert_eq!(session.refused().collect::<Vec<_>>(), [(key("bad"), of("x"))]);
    // Who refused it may have kept something in its place, and hears of its end.
    store.remove(&key("bad"));
    let sent = poll(&mut session, NOW, &store);
    assert_eq!((sent[0].names(), &sent[0].removed[..]), (vec![], &["bad".to_owned()][..]));
    session.receive(NOW, answer(&sent[0], None), &store).expect("no breach");
    // Another version is another try.
    store.put(resource("backend", "bad", "2"));
    let sent = poll(&mut session, NOW, &store);
    assert_eq!(sent[0].names(), ["bad"]);
    // Without our detail the whole response is refused.
    let plain = Status { code: 3, message: "no".into(), details: vec![] };
    let facts = session.receive(NOW, answer(&sent[0], Some(plain)), &store).expect("no breach");
    assert!(matches!(&facts[..], [Fact::Refused { refusal, .. }] if refusal.message == "no"));
}

#[test]
fn a_refused_version_that_is_taken_back_is_refused_no_more() {
    let mut store = store(&[("backend", "b", "1")]);
    let mut session = session();
    let sent = ask(&mut session, request("backend", &["*"], &[]), &store);
    accept_all(&mut session, sent, &store);
    store.put(resource("backend", "b", "2"));
    let sent = poll(&mut session, NOW, &store);
    let refusal = Refusal::new("b", &version("2"), Reason::Invalid, "no port");
    session.receive(NOW, answer(&sent[0], refusal::to_status(vec![refusal])), &store).expect("no breach");
    // It holds the first version still, and says so once more: whoever was told of the refusal hears that it is over.
    store.put(resource("backend", "b", "1"));
    let sent = poll(&mut session, NOW, &store);
    assert_eq!(sent[0].names(), ["b"]);
    let facts = session.receive(NOW, answer(&sent[0], None), &store).expect("no breach");
    assert!(matches!(&facts[..], [Fact::Accepted { .. }]), "{facts:?}");
    assert_eq!(session.refused().count(), 0);
    assert_eq!(poll(&mut session, NOW, &store), []);
}

#[test]
fn a_large_set_is_split_and_says_when_it_is_whole() {
    let store = store(&[("backend", "a", "1"), ("backend", "b", "1"), ("backend", "c", "1")]);
    let size = resource("backend", "a", "1").encoded().len();
    let mut session = session_with(Settings { response_bytes: 2 * size, ..Settings::default() });
    let sent = ask(&mut session, request("backend", &["*"], &[]), &store);
    let sent = accept_all(&mut session, sent, &store);
    let parts: Vec<_> = sent.iter().map(|sent| (sent.names(), sent.progress.as_str())).collect();
    assert_eq!(parts, [(vec!["a", "b"], "3+2@1"), (vec!["c"], "3@2")]);
}

#[test]
fn a_name_that_all_covers_is_answered_when_it_is_given_up() {
    let store = store(&[("backend", "a", "1")]);
    let mut session = session();
    let sent = ask(&mut session, request("backend", &["*", "a"], &[]), &store);
    accept_all(&mut session, sent, &store);
    let sent = ask(&mut session, request("backend", &[], &["a"]), &store);
    assert_eq!(sent[0].names(), ["a"]);
    accept_all(&mut session, sent, &store);
    let sent = ask(&mut session, request("backend", &[], &["never"]), &store);
    assert_eq!(sent[0].removed, ["never"]);
}

#[test]
fn what_belongs_together_comes_and_goes_together() {
    let mut store = store(&[("backend", "cart", "1"), ("backend", "other", "1")]);
    let along = |name: &str, to: &str| resource("slice", name, "1").joining(vec![Key::new(&kind("backend"), to)]);
    store.put(along("cart-1", "cart"));
    store.put(along("other-1", "other"));
    let mut session = session();
    let sent = ask(&mut session, request("slice", &["*"], &["*"]), &store);
    accept_all(&mut session, sent, &store);
    let sent = ask(&mut session, request("backend", &["cart"], &[]), &store);
    let names: Vec<_> = sent.iter().map(|sent| (sent.kind.as_str(), sent.names())).collect();
    assert_eq!(names, [("backend", vec!["cart"]), ("slice", vec!["cart-1"])]);
    // Only the second response completes the answer.
    assert_eq!([sent[0].progress.as_str(), sent[1].progress.as_str()], ["4+3@3", "4@3"]);
    accept_all(&mut session, sent, &store);
    // It moves to another company, and another one comes.
    store.put(along("cart-1", "other"));
    store.put(along("cart-2", "cart"));
    let sent = poll(&mut session, NOW, &store);
    let sent = accept_all(&mut session, sent, &store);
    assert_eq!((sent[0].names(), &sent[1].removed), (vec!["cart-2"], &strings(&["cart-1"])));
    let sent = ask(&mut session, request("backend", &[], &["cart"]), &store);
    assert_eq!((sent[0].kind.as_str(), &sent[0].removed), ("slice", &strings(&["cart-2"])));
    accept_all(&mut session, sent, &store);
    assert_eq!(session.holdings().count(), 0);
}

#[test]
fn nothing_is_sent_before_the_proxy_said_what_it_holds_of_each_type() {
    let mut store = store(&[("backend", "cart", "1")]);
    store.put(resource("slice", "s", "1").joining(vec![Key::new(&kind("backend"), "cart")]));
    let mut session = session();
    let features = ["backend", "slice"].map(|kind| format!("{ANNOUNCES}{kind}")).to_vec();
    let node = Some(Node { client_features: features, ..Node::default() });
    let first = DeltaDiscoveryRequest { node, ..request("slice", &["*"], &["*"]) };
    assert_eq!(ask(&mut session, holding(first, &[("s", "1")]), &store), []);
    let sent = ask(&mut session, request("backend", &["cart"], &[]), &store);
    let names: Vec<_> = sent.iter().map(|sent| (sent.kind.as_str(), sent.names(), sent.removed.len())).collect();
    assert_eq!(names, [("backend", vec!["cart"], 0), ("slice", vec![], 0)]);
}

#[test]
fn what_has_an_end_is_renewed_without_its_contents() {
    let ttl = Duration::from_secs(9);
    let mut store = Store::new();
    store.put(resource("backend", "fault", "1").with_ttl(ttl));
    let mut session = session();
    let sent = ask(&mut session, request("backend", &["*"], &[]), &store);
    session.receive(NOW, answer(&sent[0], None), &store).expect("no breach");
    let due = NOW + ttl / 3;
    assert_eq!(session.wake_at(), Some(due));
    assert_eq!(poll(&mut session, due - Duration::from_millis(1), &store), []);
    let sent = poll(&mut session, due, &store);
    assert_eq!(sent[0].put, [("fault".to_owned(), None)]);
    // The proxy dropped it meanwhile.
    let lost = Refusal::new("fault", "", Reason::NotHeld, "not held");
    let nack = answer(&sent[0], refusal::to_status(vec![lost]));
    session.receive(due, nack, &store).expect("no breach");
    let sent = poll(&mut session, due, &store);
    assert_eq!(sent[0].put, [("fault".to_owned(), Some("1".to_owned()))]);
}

#[test]
fn nobody_asks_for_more_than_he_may() {
    let store = Store::new();
    let settings = Settings { types: 1, names: 2, held: 1, name_bytes: 9, ..Settings::default() };
    let breach = |request| session_with(settings.clone()).receive(NOW, request, &store).expect_err("a breach");
    assert_eq!(breach(request("backend", &["a", "b", "c"], &[])), Breach::TooManyNames);
    assert_eq!(breach(request("backend", &["0123456789"], &[])), Breach::LongName);
    assert_eq!(breach(holding(request("backend", &[], &[]), &[("a", "1"), ("b", "1")])), Breach::TooManyHeld);
    let mut session = session_with(settings.clone());
    session.receive(NOW, request("backend", &["a", "b"], &[]), &store).expect("no breach");
    session.receive(NOW, request("backend", &["b", "a"], &[]), &store).expect("nothing new");
    let other = session.receive(NOW, request("route", &[], &[]), &store);
    assert_eq!(other, Err(Breach::TooManyTypes));
}

#[test]
fn progress_survives_the_wire() {
    for (progress, text) in [
        (Progress { revision: 7, sent_to: 7, heard: 2 }, "7@2"),
        (Progress { revision: 7, sent_to: 3, heard: 2 }, "7+3@2"),
    ] {
        assert_eq!((progress.to_string().as_str(), Progress::parse(text)), (text, Some(progress)));
    }
    for foreign in ["", "7", "v1", "7+@1", "2026-01-01T00:00:00Z"] {
        assert_eq!(Progress::parse(foreign), None);
    }
}
