//! Questions by their bytes: names of ours, of others, and what is no question at all.

use std::net::Ipv4Addr;

use hickory_resolver::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::super::system::System;
use super::super::table::Instance;
use super::super::table::tests::shop;
use super::*;

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(message: &Message) -> Outcome {
    decide(&message.to_vec().unwrap(), &shop(), &System::default())
}

fn answered(name: &str, kind: RecordType) -> Message {
    match ask(&question(name, kind)) {
        Outcome::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{name}: {other:?}"),
    }
}

fn cart() -> Ipv4Addr {
    match shop().resolve("cart") {
        Meaning::Service(address) => address,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_is_answered_with_its_address_in_the_case_of_the_question() {
    let reply = answered("cArT.shop.SVC.cluster.local.", RecordType::A);
    assert_eq!(reply.metadata.id, 0x1234);
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available && reply.metadata.recursion_desired);
    assert_eq!(reply.queries[0].name().to_ascii(), "cArT.shop.SVC.cluster.local.");
    assert_eq!(reply.answers[0].name.to_ascii(), "cArT.shop.SVC.cluster.local.");
    assert_eq!(reply.answers[0].data, RData::A(A(cart())));
    assert!((5..=30).contains(&reply.answers[0].ttl));
    assert!(reply.edns.is_none());
}

#[test]
fn a_headless_service_is_answered_with_its_instances_each_question_with_another_first() {
    let instance = |name: &str, address: &str| Instance {
        name: Some(name.to_owned()),
        address: address.parse().expect("an address"),
        ready: true,
    };
    let instances = vec![instance("a", "10.0.0.1"), instance("b", "10.0.0.2"), instance("c", "fd00::3")];
    let table = shop().with_instances("shop", "cart", instances);
    let ask = |id: u16, name: &str, kind| {
        let mut asked = question(name, kind);
        asked.metadata.id = id;
        let outcome = decide(&asked.to_vec().expect("bytes"), &table, &System::default());
        let Outcome::Reply(bytes) = outcome else { panic!("{name}: {outcome:?}") };
        let reply = Message::from_vec(&bytes).expect("a message");
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{name}");
        reply.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ask(2, "cart.", RecordType::A), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(ask(3, "cart.", RecordType::A), ["10.0.0.2", "10.0.0.1"]);
    assert_eq!(ask(3, "cart.shop.svc.cluster.local.", RecordType::AAAA), ["fd00::3"]);
    assert_eq!(ask(3, "b.cart.shop.svc.cluster.local.", RecordType::A), ["10.0.0.2"]);
    assert_eq!(
        ask(3, "b.cart.shop.svc.cluster.local.", RecordType::AAAA),
        [""; 0],
        "it is there, and has none of these"
    );
}

#[test]
fn other_records_of_a_service_are_there_and_empty() {
    for kind in [RecordType::AAAA, RecordType::MX, RecordType::HTTPS, RecordType::TXT] {
        let reply = answered("cart.", kind);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{kind}");
        assert!(reply.answers.is_empty());
        assert_eq!(reply.authorities[0].record_type(), RecordType::SOA, "so that it is kept");
    }
    assert_eq!(answered("shop.mesh.", RecordType::A).metadata.response_code, ResponseCode::NoError);
}

#[test]
fn unknown_names_of_ours_are_not_there_and_those_of_others_go_on() {
    for name in ["checkout.mesh.", "checkout.shop.svc.cluster.local."] {
        let reply = answered(name, RecordType::A);
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{name}");
        assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    }
    for name in ["example.com.", "checkout.", "checkout.shop."] {
        assert!(matches!(ask(&question(name, RecordType::A)), Outcome::Forward { .. }), "{name}");
    }
}

#[test]
fn names_of_a_cluster_that_is_there_go_on_to_it() {
    let system = System::parse("search shop.svc.cluster.local", &[]);
    let ask = |name| decide(&question(name, RecordType::A).to_vec().unwrap(), &shop(), &system);
    assert!(matches!(ask("checkout.shop.svc.cluster.local."), Outcome::Forward { .. }));
    assert!(matches!(ask("cart.shop.svc.cluster.local."), Outcome::Reply(_)));
    assert!(matches!(ask("checkout.mesh."), Outcome::Reply(_)));
}

#[test]
fn a_virtual_address_tells_its_name() {
    let [a, b, c, d] = cart().octets();
    let reply = answered(&format!("{d}.{c}.{b}.{a}.in-addr.arpa."), RecordType::PTR);
    let RData::PTR(name) = &reply.answers[0].data else { panic!("{reply:?}") };
    assert_eq!(name.0.to_ascii(), "cart.shop.svc.cluster.local.");
    let reply = answered("1.2.3.255.in-addr.arpa.", RecordType::PTR);
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    let other = question("1.0.0.10.in-addr.arpa.", RecordType::PTR);
    assert!(matches!(ask(&other), Outcome::Forward { .. }));
}

#[test]
fn edns_is_answered_with_edns() {
    let mut asked = question("cart.", RecordType::A);
    asked.set_edns(Edns::new());
    let Outcome::Reply(bytes) = ask(&asked) else { panic!() };
    assert_eq!(Message::from_vec(&bytes).unwrap().edns.unwrap().max_payload(), PAYLOAD);
}

#[test]
fn what_is_no_question_is_refused_or_ignored() {
    let mut message = question("cart.", RecordType::A);
    message.metadata.message_type = MessageType::Response;
    assert_eq!(ask(&message), Outcome::Ignore);

    let mut message = question("cart.", RecordType::A);
    message.metadata.op_code = OpCode::Status;
    let Outcome::Reply(bytes) = ask(&message) else { panic!() };
    assert_eq!(code_of(&bytes), ResponseCode::NotImp);

    let mut message = question("cart.", RecordType::A);
    message.add_query(Query::query(Name::from_ascii("b.").unwrap(), RecordType::A));
    let Outcome::Reply(bytes) = ask(&message) else { panic!() };
    assert_eq!(code_of(&bytes), ResponseCode::FormErr);
    assert_eq!(decide(&[], &shop(), &System::default()), Outcome::Ignore);
}

#[test]
fn hostile_bytes_are_taken_without_a_panic() {
    let mut asked = question("cart.shop.svc.cluster.local.", RecordType::A);
    asked.set_edns(Edns::new());
    let whole = asked.to_vec().unwrap();
    let (table, system) = (shop(), System::default());
    for length in 0..whole.len() {
        let _ = decide(&whole[..length], &table, &system);
        let _ = failure(&whole[..length], ResponseCode::NXDomain);
    }
    // Every byte of it changed to what is most likely to go wrong: lengths, pointers, flags.
    for place in 0..whole.len() {
        for value in [0, 1, 0x3f, 0x40, 0x80, 0xc0, 0xff] {
            let mut changed = whole.clone();
            changed[place] = value;
            let _ = decide(&changed, &table, &system);
            let _ = failure(&changed, ResponseCode::ServFail);
            let _ = is_answer(&changed, &whole, usize::from(value) * 7, [0x12, 0x34]);
        }
    }
    // And many bytes changed at once, the same in every run.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..20_000 {
        let mut changed = whole.clone();
        for _ in 0..4 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let place = usize::try_from(random >> 32).unwrap() % changed.len();
            changed[place] = random.to_ne_bytes()[0];
        }
        let _ = decide(&changed, &table, &system);
    }
    // A name that points at itself.
    let mut looped = whole[..12].to_vec();
    looped.extend([0xc0, 12, 0, 1, 0, 1]);
    assert!(
        matches!(decide(&looped, &table, &system), Outcome::Reply(bytes) if code_of(&bytes) == ResponseCode::FormErr)
    );
}

#[test]
fn only_an_answer_to_the_question_is_one() {
    let asked = question("example.com.", RecordType::A).to_vec().unwrap();
    let end = asked.len();
    let mut reply = question("EXAMPLE.com.", RecordType::A);
    reply.metadata.message_type = MessageType::Response;
    let reply = reply.to_vec().unwrap();
    assert!(is_answer(&reply, &asked, end, [0x12, 0x34]));
    assert!(!is_answer(&reply, &asked, end, [0x12, 0x35]));
    assert!(!is_answer(&asked, &asked, end, [0x12, 0x34]), "a question is no answer");
    let other = question("example.org.", RecordType::A).to_vec().unwrap();
    assert!(!is_answer(&reply, &other, end, [0x12, 0x34]));
    for length in 0..12 {
        assert!(!is_answer(&reply[..length], &asked, end, [0x12, 0x34]) || length >= 6);
    }
}

#[test]
fn a_failure_keeps_the_question() {
    let asked = question("cart.corp.example.", RecordType::A).to_vec().unwrap();
    for code in [ResponseCode::ServFail, ResponseCode::NXDomain] {
        let reply = Message::from_vec(&failure(&asked, code).unwrap()).unwrap();
        assert_eq!((reply.metadata.id, reply.metadata.response_code), (0x1234, code));
        assert_eq!(reply.queries.len(), 1);
    }
    assert_eq!(failure(&[1, 2, 3], ResponseCode::ServFail), None);
}
