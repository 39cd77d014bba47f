//! What the tests of policies share: a policy from YAML, a request from an address.

use std::net::SocketAddr;
use std::time::Duration;

use transept_model::place::{Invalid, SourceText};
use transept_model::schema::{Decoder, Schema};
use transept_model::value::{Budget, Value, read};
use transept_wire::head::Request;

use super::{KINDS, MODEL_KINDS, Policy};
use crate::exchange::{Connection, Exchange, Notes, Now};
use crate::verdict::Verdict;

fn value(yaml: &str) -> Value {
    let (values, problems) = read(&SourceText::new("test.yaml", yaml), &Budget::default());
    assert!(problems.is_empty(), "{problems:?}");
    values.into_iter().next().expect("a document")
}

fn attempt<P: Policy>(yaml: &str) -> (Option<P>, Vec<Invalid>) {
    let mut cx = Decoder::new("test.yaml".into());
    let policy = P::Spec::decode(&value(yaml), &mut cx).and_then(|spec| P::compile(&spec, &mut cx));
    (policy, cx.into_problems())
}

pub(super) fn compile<P: Policy>(yaml: &str) -> P {
    let (policy, problems) = attempt(yaml);
    assert!(problems.is_empty(), "{problems:?}");
    policy.expect("a policy without problems")
}

pub(super) fn refusals<P: Policy>(yaml: &str) -> Vec<Invalid> {
    attempt::<P>(yaml).1
}

pub(super) fn on_request_from<P: Policy>(policy: &P, client: &str) -> Verdict {
    let mut request = Request::build("GET", "http", "a.test", "/").expect("a request");
    let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
    policy.on_request(&mut Exchange {
        now: Now { monotonic: Duration::ZERO, unix: Duration::ZERO },
        random: 0,
        connection: &Connection::new(address, address, None),
        client: client.parse().expect("an address"),
        listener_port: 80,
        request: &mut request,
        notes: &mut Notes::new(),
    })
}

#[test]
fn kinds_are_unique_and_end_alike() {
    for (index, facts) in KINDS.iter().enumerate() {
        assert!(facts.kind.ends_with("Policy"), "{}", facts.kind);
        assert!(KINDS[..index].iter().all(|other| other.kind != facts.kind), "{} twice", facts.kind);
        assert_eq!(MODEL_KINDS[index].kind, facts.kind);
        assert!(!MODEL_KINDS[index].targets.is_empty());
    }
}
