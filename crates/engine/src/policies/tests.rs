//! What the tests of policies share: a policy from YAML, a request from an address.

use std::net::SocketAddr;
use std::time::Duration;

use transept_model::place::{Invalid, ObjectName, SourceText};
use transept_model::schema::{Decoder, Schema};
use transept_model::value::{Budget, Value, read};
use transept_model::world::World;
use transept_wire::head::Request;

use super::{CompileCx, KINDS, MODEL_KINDS, Needs, Policy};
use crate::exchange::{Connection, Exchange, Notes, Now};
use crate::keep::Keep;
use crate::verdict::Verdict;

fn value(yaml: &str) -> Value {
    let (values, problems) = read(&SourceText::new("test.yaml", yaml), &Budget::default());
    assert!(problems.is_empty(), "{problems:?}");
    values.into_iter().next().expect("a document")
}

fn attempt<P: Policy>(yaml: &str) -> (Option<P>, Vec<Invalid>) {
    attempt_among(yaml, &World::default())
}

fn attempt_among<P: Policy>(yaml: &str, world: &World) -> (Option<P>, Vec<Invalid>) {
    let mut cx = Decoder::new("test.yaml".into());
    let name = ObjectName { kind: P::KIND.into(), namespace: "default".into(), name: "test".into() };
    let (keep, mut needs) = (Keep::default(), Needs::default());
    let spec = P::Spec::decode(&value(yaml), &mut cx);
    let policy = spec.and_then(|spec| P::compile(&spec, &mut CompileCx::new(&mut cx, world, &name, &keep, &mut needs)));
    (policy, cx.into_problems())
}

pub(super) fn compile<P: Policy>(yaml: &str) -> P {
    let (policy, problems) = attempt(yaml);
    assert!(problems.is_empty(), "{problems:?}");
    policy.expect("a policy without problems")
}

/// A policy where there are these objects, too.
pub(super) fn compile_among<P: Policy>(yaml: &str, objects: &str) -> P {
    let loaded = transept_model::load(&[SourceText::new("world.yaml", objects)], MODEL_KINDS);
    assert!(loaded.invalid.is_empty(), "{:?}", loaded.invalid);
    let (policy, problems) = attempt_among(yaml, &loaded.world);
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
