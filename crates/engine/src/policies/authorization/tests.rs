//! The decision of an `AuthorizationPolicy`: worked examples of its order, for requests and for connections that are not looked at.

use std::net::SocketAddr;
use std::time::Duration;

use transept_wire::head::Request;

use super::super::tests::{compile, refusals};
use super::*;
use crate::exchange::{Connection, Notes, Now};
use crate::rule::Site;

const CART: &str = "spiffe://transept.local/ns/shop/sa/cart";
const DESK: &str = "spiffe://transept.local/ns/desk/sa/desk";

fn connection(identity: Option<&str>) -> Connection {
    let peer: SocketAddr = "192.0.2.1:5000".parse().expect("an address");
    let connection = Connection::new(peer, "127.0.0.1:15008".parse().expect("an address"), None);
    match identity {
        Some(identity) => connection.with_identity(identity),
        None => connection,
    }
}

fn cause(verdict: Verdict) -> Result<(), String> {
    match verdict {
        Verdict::Continue => Ok(()),
        Verdict::Call(_) => panic!("it asks nobody"),
        Verdict::Respond(reply) => {
            assert_eq!((reply.status, &*reply.detail), (403, ""));
            Err(reply.cause.map(String::from).unwrap_or_default())
        }
    }
}

/// The cause of the refusal of a request, `METHOD /path`, to `shop.test`.
fn request(policy: &AuthorizationPolicy, identity: Option<&str>, asked: &str) -> Result<(), String> {
    let (method, path) = asked.split_once(' ').expect("a method and a path");
    let mut request = Request::build(method, "http", "Shop.test:8080", path).expect("a request");
    cause(policy.on_request(&mut Exchange {
        now: Now { monotonic: Duration::ZERO, unix: Duration::ZERO },
        random: 0,
        connection: &connection(identity),
        client: [192, 0, 2, 1].into(),
        listener_port: 8080,
        request: &mut request,
        notes: &mut Notes::new(),
    }))
}

fn connect(policy: &AuthorizationPolicy, identity: Option<&str>, carried: Carried) -> Result<(), String> {
    cause(policy.on_connect(&Arrival { connection: &connection(identity), port: 8080, carried }))
}

#[test]
fn deny_beats_allow_beats_the_default() {
    let policy = compile::<AuthorizationPolicy>(
        "deny: [{name: admin, to: [{paths: [/admin/*]}]}]\nallow: [{from: [{identities: [shop/cart]}]}]\n",
    );
    assert_eq!(request(&policy, Some(CART), "GET /"), Ok(()));
    assert_eq!(request(&policy, Some(CART), "GET /admin/x"), Err("AuthorizationPolicy, rule admin".into()));
    assert_eq!(request(&policy, Some(DESK), "GET /"), Err("AuthorizationPolicy, no rule allows it".into()));
    assert_eq!(request(&policy, None, "GET /"), Err("AuthorizationPolicy, no rule allows it".into()));
}

#[test]
fn without_allow_everything_else_is_allowed() {
    let policy = compile::<AuthorizationPolicy>("deny: [{from: [{namespaces: [desk]}]}]\n");
    assert_eq!(request(&policy, Some(CART), "GET /"), Ok(()));
    assert_eq!(request(&policy, None, "GET /"), Ok(()));
    assert_eq!(request(&policy, Some(DESK), "GET /"), Err("AuthorizationPolicy, rule deny[0]".into()));
}

#[test]
fn an_empty_allow_allows_nothing_and_an_empty_rule_everything() {
    assert!(request(&compile("allow: []\n"), Some(CART), "GET /").is_err());
    assert_eq!(request(&compile("allow: [{}]\n"), None, "GET /"), Ok(()));
    assert!(request(&compile("deny: [{}]\n"), Some(CART), "GET /").is_err());
}

#[test]
fn what_is_written_together_must_hold_together() {
    let policy = compile::<AuthorizationPolicy>(
        "allow:
- from: [{namespaces: [shop], addresses: [192.0.2.0/24]}, {identities: [desk/desk]}]
  to: [{methods: [GET, HEAD], hosts: [shop.test], ports: [8080]}, {paths: [/health]}]
",
    );
    assert_eq!(request(&policy, Some(CART), "GET /x"), Ok(()));
    assert_eq!(request(&policy, Some(DESK), "HEAD /x"), Ok(()));
    assert!(request(&policy, Some(CART), "POST /x").is_err());
    assert_eq!(request(&policy, Some(CART), "POST /health"), Ok(()));
    assert!(request(&policy, Some("spiffe://transept.local/ns/shop2/sa/cart"), "GET /x").is_err());
    let elsewhere =
        compile::<AuthorizationPolicy>("allow: [{from: [{namespaces: [shop], addresses: [10.0.0.0/8]}]}]\n");
    assert!(request(&elsewhere, Some(CART), "GET /x").is_err());
}

#[test]
fn a_connection_that_is_not_looked_at_is_judged_leaning_to_deny() {
    let deny = compile::<AuthorizationPolicy>(
        "deny: [{name: writes, from: [{namespaces: [desk]}], to: [{methods: [POST]}]}]\n",
    );
    assert_eq!(connect(&deny, Some(DESK), Carried::Opaque), Err("AuthorizationPolicy, rule writes".into()));
    assert_eq!(connect(&deny, Some(DESK), Carried::Unknown), Ok(()));
    assert_eq!(connect(&deny, Some(CART), Carried::Opaque), Ok(()));
    let allow = compile::<AuthorizationPolicy>("allow: [{from: [{namespaces: [desk]}], to: [{methods: [GET]}]}]\n");
    assert!(connect(&allow, Some(DESK), Carried::Opaque).is_err());
    assert_eq!(connect(&allow, Some(DESK), Carried::Unknown), Ok(()));
    assert!(connect(&allow, Some(CART), Carried::Unknown).is_err());
    let ports = compile::<AuthorizationPolicy>("allow: [{to: [{ports: [8080]}]}]\n");
    assert_eq!(connect(&ports, None, Carried::Opaque), Ok(()));
}

#[test]
fn policies_that_come_together_name_the_one_that_refuses() {
    let name = |name: &str| {
        Arc::new(PolicyName {
            kind: "AuthorizationPolicy",
            namespace: "shop".into(),
            name: name.into(),
            target: "Service shop/cart".into(),
            place: Site { file: "test.yaml".into(), line: 1 },
        })
    };
    let (first, second) = (name("first"), name("second"));
    let allow = compile::<AuthorizationPolicy>("allow: [{from: [{identities: [shop/cart]}]}]\n");
    let both =
        compile::<AuthorizationPolicy>("deny: [{to: [{paths: [/no]}]}]\nallow: [{from: [{namespaces: [desk]}]}]\n");
    let policy = AuthorizationPolicy::join(&[(&first, &allow), (&second, &both)]).expect("one policy");
    assert_eq!(request(&policy, Some(CART), "GET /"), Ok(()));
    assert_eq!(request(&policy, Some(DESK), "GET /"), Ok(()));
    assert_eq!(request(&policy, Some(CART), "GET /no"), Err("AuthorizationPolicy shop/second, rule deny[0]".into()));
    assert_eq!(request(&policy, None, "GET /"), Err("AuthorizationPolicy shop/first, no rule allows it".into()));
}

#[test]
fn what_would_never_match_is_refused() {
    for wrong in [
        "{}",
        "deny: []",
        "allow: [{from: [{identities: [cart]}]}]",
        "allow: [{to: [{paths: [/a/../b]}]}]",
        "allow: [{to: [{ports: [0]}]}]",
        "allow: [{to: [{methods: ['G T']}]}]",
        "allow: [{to: [{hosts: ['shop.test:80']}]}]",
    ] {
        assert_eq!(refusals::<AuthorizationPolicy>(&format!("{wrong}\n")).len(), 1, "{wrong}");
    }
}
