//! The decision of an `AuthorizationPolicy`: worked examples of its order, for requests and for connections that are not looked at.

use std::net::SocketAddr;
use std::time::Duration;

use transept_wire::head::Request;

use super::super::tests::{compile, compile_among, refusals};
use super::*;
use crate::exchange::{Connection, Notes, Now};
use crate::principal::{Principal, Voucher};
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

/// What is said about a request of somebody with these header lines; the cause when it is refused.
fn told(
    policy: &AuthorizationPolicy,
    principal: Option<Principal>,
    lines: &[(&str, &str)],
) -> (Option<String>, Vec<String>) {
    let mut request = Request::build("GET", "http", "shop.test", "/orders/7").expect("a request");
    for (name, value) in lines {
        let name = transept_wire::head::FieldName::new(name).expect("a name");
        request.fields.push(&name, value.as_bytes()).expect("a value");
    }
    let mut notes = Notes::told();
    notes.principal = principal.map(Arc::new);
    let verdict = policy.on_request(&mut Exchange {
        now: Now { monotonic: Duration::ZERO, unix: Duration::ZERO },
        random: 0,
        connection: &connection(None),
        client: [192, 0, 2, 1].into(),
        listener_port: 8080,
        request: &mut request,
        notes: &mut notes,
    });
    (cause(verdict).err(), notes.told.unwrap_or_default().lines)
}

fn is_let_in(policy: &AuthorizationPolicy, principal: Option<Principal>) -> bool {
    told(policy, principal, &[]).0.is_none()
}

fn ann() -> Principal {
    let claims = serde_json::json!({"realm_access": {"roles": ["clerk"]}, "level": 3, "verified": true});
    let serde_json::Value::Object(claims) = claims else { panic!("an object") };
    Principal {
        kind: PrincipalKind::User,
        id: "ann".into(),
        scheme: "staff".into(),
        groups: vec!["staff".into()],
        scopes: vec!["orders:read".into()],
        claims,
        ..Principal::default()
    }
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
        "deny: [{to: [{methods: [delete]}]}]",
        "allow: [{to: [{hosts: ['shop.test:80']}]}]",
        "deny: [{to: [{headers: [{name: X-Role, values: [' a']}]}]}]",
        "deny: [{to: [{headers: [{name: X-Role, values: [b, 'a ']}]}]}]",
        "allow: [{from: [{kinds: [anonymous], groups: [staff]}]}]",
        "allow: [{from: [{addresses: [10.1.0.0/16], notAddresses: [10.0.0.0/8]}]}]",
        "allow: [{from: [{principals: ['a*b']}]}]",
        "allow: [{when: ['request.mehtod == \"GET\"']}]",
    ] {
        assert_eq!(refusals::<AuthorizationPolicy>(&format!("{wrong}\n")).len(), 1, "{wrong}");
    }
}

#[test]
fn an_empty_list_is_refused_where_it_would_hold_for_all() {
    let source = |field: &str| format!("from: [{{{field}: []}}]");
    let operation = |field: &str| format!("to: [{{{field}: []}}]");
    let sources =
        ["kinds", "principals", "schemes", "groups", "scopes", "claims", "identities", "namespaces", "addresses"];
    let mut rules: Vec<String> = sources.into_iter().map(source).collect();
    rules.extend(["ports", "methods", "paths", "hosts", "headers"].into_iter().map(operation));
    rules.extend(["from: []", "to: []", "when: []"].map(str::to_owned));
    rules.push("from: [{claims: [{path: role, values: []}]}]".to_owned());
    rules.push("to: [{headers: [{name: X-Role, values: []}]}]".to_owned());
    for rule in rules {
        for list in ["allow", "deny"] {
            let found = refusals::<AuthorizationPolicy>(&format!("{list}: [{{{rule}}}]\n"));
            assert_eq!(found.len(), 1, "{list} {rule}: {found:?}");
            assert!(found[0].why.contains("an empty list asks for nothing"), "{rule}: {found:?}");
        }
    }
    // Nobody is taken away, which is what it says.
    compile::<AuthorizationPolicy>("deny: []\nallow: [{from: [{notGroups: [], notPrincipals: []}]}]\n");
}

#[test]
fn rules_ask_who_calls() {
    for yes in [
        "{principals: [ann]}",
        "{principals: ['*']}",
        "{kinds: [user, app], groups: [staff, root]}",
        "{scopes: ['orders:*']}",
        "{claims: [{path: realm_access.roles, values: [clerk]}, {path: level, values: ['3']}, {path: verified, values: ['true']}]}",
        "{claims: [{path: level}]}",
        "{principals: [ann], schemes: [staff, desk]}",
        "{notPrincipals: [bob], notGroups: [root], notAddresses: [10.0.0.0/8], notIdentities: ['*']}",
    ] {
        let policy = compile::<AuthorizationPolicy>(&format!("allow: [{{from: [{yes}]}}]\n"));
        assert!(is_let_in(&policy, Some(ann())), "{yes}");
    }
    for no in [
        "{principals: [bob]}",
        "{kinds: [workload]}",
        "{kinds: [anonymous]}",
        "{principals: [ann], schemes: [desk]}",
        "{groups: [root]}",
        "{scopes: ['orders:write']}",
        "{claims: [{path: realm_access.roles, values: [chief]}]}",
        "{claims: [{path: level}, {path: missing}]}",
        "{claims: [{path: realm_access, values: ['*']}]}",
        "{notPrincipals: [ann]}",
        "{notGroups: [staff]}",
        "{notAddresses: [192.0.2.0/24]}",
        "{groups: [staff], scopes: ['orders:write']}",
    ] {
        let policy = compile::<AuthorizationPolicy>(&format!("allow: [{{from: [{no}]}}]\n"));
        assert!(!is_let_in(&policy, Some(ann())), "{no}");
    }
}

#[test]
fn no_token_says_that_its_holder_is_a_workload_or_a_consumer() {
    let named = |id: &str| Principal { id: id.into(), voucher: Voucher::Issuer("https://two.test".into()), ..ann() };
    for pattern in [CART, "spiffe://transept.local/*"] {
        let policy = compile::<AuthorizationPolicy>(&format!("allow: [{{from: [{{principals: ['{pattern}']}}]}}]\n"));
        assert!(is_let_in(&policy, Some(Principal::workload(CART))), "{pattern}");
        assert!(!is_let_in(&policy, Some(named(CART))), "{pattern}");
    }
    let consumer = Principal { voucher: Voucher::Consumer, ..named("default/mob") };
    for (rule, is_token_let_in) in [
        ("allow: [{from: [{principals: [default/mob]}]}]", false),
        ("allow: [{from: [{principals: ['default/*']}]}]", false),
        ("allow: [{from: [{principals: ['*']}]}]", true),
        ("allow: [{from: [{principals: [default/mob], schemes: [staff]}]}]", true),
        // Whom a name harms has it from anybody.
        ("deny: [{from: [{principals: ['*'], notPrincipals: [default/mob]}]}]", false),
    ] {
        let policy = compile::<AuthorizationPolicy>(&format!("{rule}\n"));
        assert!(is_let_in(&policy, Some(consumer.clone())), "{rule}");
        assert_eq!(is_let_in(&policy, Some(named("default/mob"))), is_token_let_in, "{rule}");
    }
    for rule in ["deny: [{from: [{principals: [default/mob]}]}]", "allow: [{from: [{notPrincipals: [default/mob]}]}]"] {
        let policy = compile::<AuthorizationPolicy>(&format!("{rule}\n"));
        assert!(
            !is_let_in(&policy, Some(consumer.clone())) && !is_let_in(&policy, Some(named("default/mob"))),
            "{rule}"
        );
    }
    // Who asks for Consumers means no names that no Consumer can have.
    for id in ["default/Mob", "default/mob ", "default/a_b", "default/a/b", "default/"] {
        for (rule, is_let) in [
            ("allow: [{from: [{principals: ['default/*']}]}]", false),
            ("allow: [{from: [{principals: ['default/*'], schemes: [staff]}]}]", true),
            ("deny: [{from: [{principals: ['*'], notPrincipals: ['default/*']}]}]", false),
            ("deny: [{from: [{principals: ['default/*']}]}]", false),
        ] {
            let policy = compile::<AuthorizationPolicy>(&format!("{rule}\n"));
            assert_eq!(is_let_in(&policy, Some(named(id))), is_let, "{id} {rule}");
        }
    }
    for other in ["ann", "org/Ann", "a/b/c", "auth0|7", "/x", "x/"] {
        let policy = compile::<AuthorizationPolicy>(&format!("allow: [{{from: [{{principals: ['{other}']}}]}}]\n"));
        assert!(is_let_in(&policy, Some(named(other))), "{other}");
    }
}

#[test]
fn names_of_consumers_and_schemes_that_are_not_there_are_told() {
    let told = |rule: &str, objects: &str| {
        let policy = compile_among::<AuthorizationPolicy>(&format!("allow: [{{from: [{rule}]}}]\n"), objects);
        let everywhere = Identified::Everywhere;
        let known = Known { identified: everywhere, proven: everywhere, named: everywhere, forwarded: everywhere };
        policy.cautions(known).into_iter().map(|caution| caution.what).collect::<Vec<_>>().join("; ")
    };
    let consumer = "{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {name: mob}, spec: {}}\n";
    let missing = told("{principals: [ann, default/mob]}", "");
    assert!(missing.starts_with("\"default/mob\" has the form of a Consumer's name"), "{missing}");
    assert_eq!(told("{principals: [default/mob]}", consumer), "");
    assert!(told("{principals: ['default/*', ann]}", "").starts_with("\"default/*\" has the form"));
    assert_eq!(told("{principals: ['default/*', ann, '*']}", consumer), "");
    let schemes = "{principals: [default/mob], schemes: [staff]}";
    assert!(told(schemes, "").starts_with("no AuthenticationPolicy has a scheme \"staff\""));
    let policy = "{apiVersion: transept.dev/v1alpha1, kind: AuthenticationPolicy, metadata: {name: who}, spec: {targetRefs: \
                  [{group: gateway.networking.k8s.io, kind: Gateway, name: web}], schemes: [{name: staff, apiKey: {}}]}}\n";
    assert_eq!(told(schemes, policy), "");
}

#[test]
fn nobody_is_anonymous_and_none_of_the_others() {
    let anonymous = compile::<AuthorizationPolicy>("allow: [{from: [{kinds: [anonymous]}]}]\n");
    assert!(is_let_in(&anonymous, None) && !is_let_in(&anonymous, Some(ann())));
    assert!(is_let_in(&anonymous, Some(Principal::default())));
    for asks in ["principals: ['*']", "groups: ['*']", "scopes: ['*']", "claims: [{path: sub}]"] {
        let policy = compile::<AuthorizationPolicy>(&format!("allow: [{{from: [{{{asks}}}]}}]\n"));
        assert!(!is_let_in(&policy, None) && !is_let_in(&policy, Some(Principal::default())), "{asks}");
    }
    let others = compile::<AuthorizationPolicy>("deny: [{from: [{notPrincipals: [ann]}]}]\n");
    assert!(!is_let_in(&others, None) && is_let_in(&others, Some(ann())));
}

#[test]
fn a_method_in_another_case_is_refused_and_not_let_in() {
    let refused = |yaml: &str, asked: &str| request(&compile(yaml), None, asked).is_err();
    for method in ["DELETE", "delete", "Delete"] {
        let asked = format!("{method} /x");
        assert!(refused("deny: [{to: [{methods: [DELETE]}]}]", &asked), "{method}");
        assert!(refused("allow: [{to: [{notMethods: [DELETE]}]}]", &asked), "{method}");
        assert!(refused("deny: [{to: [{notMethods: [GET]}]}]", &asked), "{method}");
        assert_eq!(refused("allow: [{to: [{methods: [DELETE]}]}]", &asked), method != "DELETE", "{method}");
    }
    assert!(refused("deny: [{to: [{notMethods: [GET]}]}]", "get /x"));
    assert!(!refused("deny: [{to: [{notMethods: [GET]}]}]", "GET /x"));
    assert!(!refused("deny: [{to: [{methods: [DELETE]}]}]", "GET /x"));
}

#[test]
fn a_field_that_is_written_twice_leans_to_deny() {
    let deny = compile::<AuthorizationPolicy>("deny: [{to: [{headers: [{name: X-Role, values: [root]}]}]}]\n");
    let allow =
        compile::<AuthorizationPolicy>("allow: [{to: [{headers: [{name: x-role, values: [clerk, chief*]}]}]}]\n");
    let is_refused = |policy: &AuthorizationPolicy, lines: &[(&str, &str)]| told(policy, None, lines).0.is_some();
    for (lines, denied, not_allowed) in [
        (&[][..], false, true),
        (&[("X-Role", "clerk")][..], false, false),
        (&[("X-Role", "root")], true, true),
        (&[("X-Role", "clerk"), ("x-role", "chief-2")], false, false),
        (&[("X-Role", "clerk"), ("X-Role", "root")], true, true),
        (&[("X-Role", "clerk, root")], true, true),
        // Programs that read `_` as `-` are told nothing that was denied, and nobody gets in by it.
        (&[("X_Role", "root")], true, true),
        (&[("X_Role", "clerk")], false, true),
        (&[("X-Role", "clerk"), ("x_role", "root")], true, false),
    ] {
        assert_eq!(is_refused(&deny, lines), denied, "{lines:?}");
        assert_eq!(is_refused(&allow, lines), not_allowed, "{lines:?}");
    }
}

#[test]
fn a_condition_without_a_value_leans_to_deny() {
    let condition = "when: ['request.headers[\"x-level\"] == \"3\"']";
    let deny = compile::<AuthorizationPolicy>(&format!("deny: [{{name: d, {condition}}}]\n"));
    let allow = compile::<AuthorizationPolicy>(&format!("allow: [{{name: a, {condition}}}]\n"));
    assert!(told(&deny, None, &[("x-level", "2")]).0.is_none() && told(&allow, None, &[("x-level", "2")]).0.is_some());
    assert!(told(&deny, None, &[("x-level", "3")]).0.is_some() && told(&allow, None, &[("x-level", "3")]).0.is_none());
    let (cause, said) = told(&deny, None, &[]);
    assert_eq!(cause.as_deref(), Some("AuthorizationPolicy, rule d"));
    assert!(
        said[0].contains("when[0] has no value (there is no header x-level, at character 1), which counts as true"),
        "{said:?}"
    );
    let (cause, said) = told(&allow, None, &[]);
    assert_eq!(cause.as_deref(), Some("AuthorizationPolicy, no rule allows it"));
    assert!(said[0].contains("when[0] has no value: there is no header x-level"), "{said:?}");
}

#[test]
fn an_explanation_says_which_rule_decided_and_why_others_did_not() {
    let policy = compile::<AuthorizationPolicy>(
        "allow:
- {name: chiefs, from: [{groups: [chief]}]}
- {name: staff, from: [{groups: [staff]}], to: [{methods: [GET], notPaths: [/admin/*]}], when: ['principal.claims.level > 2']}
",
    );
    let (refused, said) = told(&policy, Some(ann()), &[]);
    assert_eq!(refused, None);
    assert_eq!(
        said,
        [
            "AuthorizationPolicy, rule chiefs does not match: from[0].groups",
            "AuthorizationPolicy, rule staff allows it: from[0] (groups), to[0], all of `when` (1)",
        ]
    );
}

#[test]
fn a_connection_that_is_not_looked_at_has_no_principal() {
    for asks in [
        "from: [{groups: [staff]}]",
        "to: [{headers: [{name: x}]}]",
        "when: ['true']",
        "from: [{notPrincipals: [bob]}]",
    ] {
        let deny = compile::<AuthorizationPolicy>(&format!("deny: [{{{asks}}}]\n"));
        assert!(connect(&deny, Some(CART), Carried::Opaque).is_err(), "{asks}");
        assert_eq!(connect(&deny, Some(CART), Carried::Unknown), Ok(()), "{asks}");
        let allow = compile::<AuthorizationPolicy>(&format!("allow: [{{{asks}}}]\n"));
        assert!(connect(&allow, Some(CART), Carried::Opaque).is_err(), "{asks}");
        assert_eq!(connect(&allow, Some(CART), Carried::Unknown), Ok(()), "{asks}");
    }
}

#[test]
fn who_lacks_nothing_but_a_scope_is_told_which() {
    let policy = compile::<AuthorizationPolicy>(
        "allow:
- {from: [{scopes: ['admin*', orders:write, orders:all], groups: [staff], claims: [{path: level, values: ['3']}]}], to: [{paths: [/orders/*]}]}
- {from: [{scopes: [other]}], to: [{paths: [/other/*]}]}
- {from: [{scopes: [never]}], when: ['false']}
",
    );
    let challenge = |path: &str, principal: Option<Principal>| {
        let mut request = Request::build("GET", "http", "shop.test", path).expect("a request");
        let mut notes = Notes::new();
        notes.principal = principal.map(Arc::new);
        let verdict = policy.on_request(&mut Exchange {
            now: Now { monotonic: Duration::ZERO, unix: Duration::ZERO },
            random: 0,
            connection: &connection(None),
            client: [192, 0, 2, 1].into(),
            listener_port: 8080,
            request: &mut request,
            notes: &mut notes,
        });
        let Verdict::Respond(reply) = verdict else { panic!("{verdict:?}") };
        reply.fields.first().map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    let said = challenge("/orders/7", Some(ann()));
    assert_eq!(said.as_deref(), Some(r#"Bearer error="insufficient_scope", scope="orders:write""#));
    let other = challenge("/other/7", Some(ann()));
    assert_eq!(other.as_deref(), Some(r#"Bearer error="insufficient_scope", scope="other""#));
    for principal in [
        None,
        Some(Principal::default()),
        Some(Principal { groups: Vec::new(), ..ann() }),
        Some(Principal { claims: Default::default(), ..ann() }),
    ] {
        assert_eq!(challenge("/orders/7", principal), None);
    }
    assert_eq!(challenge("/elsewhere", Some(ann())), None);
}
