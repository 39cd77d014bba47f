//! What survives a change of the world, and what the status says about policies.

use std::fmt::Write as _;
use std::sync::Arc;

use transept_model::attach::{Locale, Surroundings, attach};
use transept_model::load;
use transept_model::place::SourceText;

use super::{Compiled, compile};
use crate::policies::MODEL_KINDS;
use crate::snapshot::Snapshot;
use transept_model::status::{Status, Truth};

pub(super) fn compiled(yaml: &str, previous: Option<&Snapshot>) -> (Compiled, Status) {
    compiled_in(yaml, previous, &Surroundings::default())
}

fn compiled_in(yaml: &str, previous: Option<&Snapshot>, surroundings: &Surroundings) -> (Compiled, Status) {
    let loaded = load(&[SourceText::new("test.yaml", yaml)], MODEL_KINDS);
    assert!(loaded.invalid.is_empty(), "{:?}", loaded.invalid);
    let attached = attach(&loaded.world, surroundings);
    let compiled = compile(&loaded.world, &attached, previous, 2);
    let mut status = attached.status.clone();
    compiled.report(&mut status);
    (compiled, status)
}

pub(super) fn site(endpoint: &str, protocol: &str, header: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: site}}
spec:
  rules:
  - name: main
    filters:
    - {{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: X-A, value: {header}}}]}}}}
    backendRefs: [{{group: transept.dev, kind: Backend, name: app}}]
---
apiVersion: transept.dev/v1alpha1
kind: Backend
metadata: {{name: app}}
spec: {{protocol: {protocol}, endpoints: [{{address: {endpoint}, port: 80}}]}}
"
    )
}

fn addresses(snapshot: &Snapshot) -> Vec<String> {
    let backends = snapshot.backends.iter();
    backends
        .flat_map(|backend| backend.endpoints.load().endpoints().to_vec())
        .map(|endpoint| endpoint.address.to_string())
        .collect()
}

#[test]
fn a_backend_survives_a_change_of_its_endpoints_which_waits_for_the_installation() {
    let before = compiled(&site("10.0.0.1", "HTTP", "a"), None).0.install();
    let (after, _) = compiled(&site("10.0.0.2", "HTTP", "b"), Some(&before));
    assert!(Arc::ptr_eq(&before.backends[0], &after.snapshot().backends[0]));
    assert_eq!(addresses(&before), ["10.0.0.1:80"]);
    let after = after.install();
    assert_eq!(addresses(&after), ["10.0.0.2:80"]);
    assert!(Arc::ptr_eq(&before.binds[0].settings, &after.binds[0].settings));
}

#[test]
fn a_backend_with_another_protocol_is_another_backend() {
    let before = compiled(&site("10.0.0.1", "HTTP", "a"), None).0.install();
    let after = compiled(&site("10.0.0.1", "H2C", "a"), Some(&before)).0.install();
    assert!(!Arc::ptr_eq(&before.backends[0], &after.backends[0]));
}

#[test]
fn what_dns_found_survives() {
    let before = compiled(&site("app.test", "HTTP", "a"), None).0.install();
    let source = &before.backends[0].source;
    before.backends[0].endpoints.store(Arc::new(source.assemble(&[vec![[10, 0, 0, 9].into()]])));
    let after = compiled(&site("app.test", "HTTP", "b"), Some(&before)).0.install();
    assert_eq!(addresses(&after), ["10.0.0.9:80"]);
}

#[test]
fn the_key_of_a_rule_is_the_same_in_every_generation() {
    let key = |snapshot: &Snapshot| {
        snapshot.binds[0].listeners[0].routes.rules().next().map(|rule| rule.key).expect("a rule")
    };
    let before = compiled(&site("10.0.0.1", "HTTP", "a"), None).0.install();
    let after = compiled(&site("10.0.0.2", "HTTP", "b"), Some(&before)).0.install();
    assert_eq!(key(&before), key(&after));
}

fn policy(kind: &str, name: &str, target: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: transept.dev/v1alpha1
kind: {kind}
metadata: {{name: {name}}}
spec: {{targetRefs: [{{group: gateway.networking.k8s.io, {target}}}], {spec}}}
"
    )
}

/// The reason of a condition of a policy.
fn reason(status: &mut Status, kind: &str, name: &str, condition: &str) -> Option<String> {
    let policy = status.policy_mut(kind, "default", name).expect("a policy with a status");
    let condition = policy.ancestors[0].conditions.find(condition)?;
    Some(format!("{}/{}", condition.status.as_str(), condition.reason))
}

#[test]
fn what_a_policy_has_counted_is_held_while_it_cannot_be_used() {
    let with = |target: &str, limits: &str| {
        site("10.0.0.1", "HTTP", "a")
            + &policy("RateLimitPolicy", "limit", &format!("kind: HTTPRoute, name: {target}"), limits)
    };
    let limits = "limits: [{name: a, requests: 5, per: 1m, key: []}]";
    let before = compiled(&with("site", limits), None).0.install();
    let held = |snapshot: &Snapshot| format!("{:?}", snapshot._idle);
    assert_eq!(held(&before), "Idle(0)");
    let elsewhere = compiled(&with("sight", limits), Some(&before)).0.install();
    drop(before);
    assert_ne!(held(&elsewhere), "Idle(0)", "its target is not there");
    let again = compiled(&with("site", limits), Some(&elsewhere)).0.install();
    assert_eq!(held(&again), "Idle(0)");
    let unusable = limits.replace('}', "}, {name: b, requests: 1, per: 1m}");
    let broken = compiled(&with("site", &unusable), Some(&again)).0.install();
    assert_ne!(held(&broken), "Idle(0)", "another limit of it is not valid");
}

#[test]
fn policies_are_told_whether_they_are_in_force() {
    let stamp = "request: {set: [{name: X-B, value: b}]}";
    let mut yaml = site("10.0.0.1", "HTTP", "a");
    yaml += &policy("HeaderPolicy", "whole", "kind: HTTPRoute, name: site", stamp);
    yaml += &policy("HeaderPolicy", "rule", "kind: HTTPRoute, name: site, sectionName: main", stamp);
    yaml += &policy("HeaderPolicy", "late", "kind: HTTPRoute, name: site, sectionName: main", stamp);
    yaml += &policy("HeaderPolicy", "gateway", "kind: Gateway, name: default", stamp);
    yaml += &policy("IpAccessPolicy", "empty", "kind: Gateway, name: default", "deny: []");
    let (compiled, mut status) = compiled(&yaml, None);
    let mut told = |kind, name, condition| reason(&mut status, kind, name, condition).unwrap_or_default();
    assert_eq!(told("HeaderPolicy", "rule", "Programmed"), "True/Programmed");
    assert_eq!(told("HeaderPolicy", "whole", "Programmed"), "False/Overridden");
    assert_eq!(told("HeaderPolicy", "late", "Programmed"), "False/Overridden");
    assert_eq!(told("HeaderPolicy", "gateway", "Programmed"), "True/PartiallyProgrammed");
    assert_eq!(told("IpAccessPolicy", "empty", "Accepted"), "False/Invalid");
    assert_eq!(told("IpAccessPolicy", "empty", "Programmed"), "");
    assert_eq!(compiled.problems.len(), 1);
    let problem = &compiled.problems[0];
    assert!(problem.line.is_some() && problem.object.is_some(), "{problem:?}");
}

#[test]
fn a_route_without_a_good_match_is_not_accepted() {
    let broken = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: site}
spec:
  rules:
  - matches: [{path: {type: RegularExpression, value: '/(x'}}]
";
    let told = |yaml: &str| {
        let (_, status) = compiled(yaml, None);
        let route = status.route("HTTPRoute", "default", "site").expect("a route");
        let conditions = &route.parents[0].conditions;
        (
            conditions.find("Accepted").map(|condition| condition.status),
            conditions.find("PartiallyInvalid").map(|condition| condition.status),
        )
    };
    assert_eq!(told(broken), (Some(Truth::False), None));
    let half = format!("{broken}  - matches: [{{path: {{value: /y}}}}]\n");
    assert_eq!(told(&half), (Some(Truth::True), Some(Truth::True)));
}

#[test]
fn five_thousand_routes_compile_in_one_piece() {
    let mut yaml = site("10.0.0.1", "HTTP", "a");
    for n in 0..5_000 {
        write!(
            yaml,
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r{n}}}
spec:
  hostnames: [h{}.test]
  rules:
  - matches: [{{path: {{value: /p{}}}}}]
    backendRefs: [{{group: transept.dev, kind: Backend, name: app}}]
",
            n / 10,
            n % 10
        )
        .expect("a String takes all");
    }
    let loaded = load(&[SourceText::new("test.yaml", yaml.as_str())], MODEL_KINDS);
    let attached = attach(&loaded.world, &Surroundings::default());
    let compiled = compile(&loaded.world, &attached, None, 1);
    let listener = &compiled.snapshot().binds[0].listeners[0];
    assert_eq!(listener.routes.len(), 5_001);
    assert_eq!(compiled.snapshot().backends.len(), 1);
}

/// The site with a policy for the traffic of its backend.
fn steered(endpoint: &str, spec: &str) -> String {
    let site = site(endpoint, "HTTP", "a");
    format!(
        "{site}---
apiVersion: transept.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: app}}
spec:
  targetRefs: [{{group: transept.dev, kind: Backend, name: app}}]
  {spec}
"
    )
}

fn programmed(status: &Status) -> (String, String) {
    let policy = status.policy("TrafficPolicy", "default", "app").expect("a policy");
    let conditions = &policy.ancestors.first().expect("an ancestor").conditions;
    let condition = conditions.find("Programmed").expect("a condition");
    (condition.reason.to_string(), condition.message.to_string())
}

#[test]
fn what_workers_know_together_survives_a_change_of_the_policy() {
    let before = compiled(&steered("10.0.0.1", "limits: {requests: 7}"), None).0.install();
    let (after, status) = compiled(&steered("10.0.0.1", "limits: {requests: 8}"), Some(&before));
    let after = after.install();
    assert!(!Arc::ptr_eq(&before.backends[0], &after.backends[0]));
    assert!(Arc::ptr_eq(&before.backends[0].ledger, &after.backends[0].ledger));
    assert_eq!(before.backends[0].key, after.backends[0].key);
    assert_eq!(programmed(&status).0, "Programmed");
    let same = compiled(&steered("10.0.0.2", "limits: {requests: 8}"), Some(&after)).0.install();
    assert!(Arc::ptr_eq(&same.backends[0], &after.backends[0]));
}

#[test]
fn a_table_goes_with_the_endpoints() {
    let hashed = "balancer: {algorithm: Maglev}";
    let before = compiled(&steered("10.0.0.1", hashed), None).0.install();
    assert!(before.backends[0].endpoints.load().table().is_some());
    let after = compiled(&steered("10.0.0.2", hashed), Some(&before)).0.install();
    assert!(Arc::ptr_eq(&before.backends[0], &after.backends[0]));
    assert!(after.backends[0].endpoints.load().table().is_some());
    let plain = compiled(&site("10.0.0.2", "HTTP", "a"), Some(&after)).0.install();
    assert!(plain.backends[0].endpoints.load().table().is_none());
}

#[test]
fn zones_need_to_know_where_they_are_seen_from() {
    let yaml = steered("10.0.0.1", "locality: {failover: [b]}").replace("port: 80}", "port: 80, zone: b}");
    let (unplaced, status) = compiled(&yaml, None);
    assert!(programmed(&status).1.contains("--zone"), "{:?}", programmed(&status));
    let here = |compiled: Compiled| {
        let snapshot = compiled.install();
        let traffic = snapshot.backends[0].traffic.clone().expect("a policy");
        assert_eq!(snapshot.backends[0].endpoints.load().endpoints()[0].zone.as_deref(), Some("b"));
        traffic.locality.clone().and_then(|locality| locality.here)
    };
    assert_eq!(here(unplaced), None);
    let surroundings = Surroundings { locale: Locale::new(Some("a"), None), ..Surroundings::default() };
    let (placed, status) = compiled_in(&yaml, None, &surroundings);
    assert_eq!(programmed(&status).1, "The policy is in force.");
    assert_eq!(here(placed).as_deref(), Some("a"));
}

#[test]
fn zones_of_the_same_region_are_known_from_workloads() {
    let workload = |name: &str, zone: &str, region: &str| {
        format!(
            "---\napiVersion: transept.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}}}\nspec: {{services: [other], address: \
             10.0.9.1, ports: [{{port: 80}}], zone: {zone}, region: {region}}}\n"
        )
    };
    let yaml = steered("10.0.0.1", "locality: {failover: [b]}")
        + &workload("one", "a", "east")
        + &workload("two", "c", "east")
        + &workload("three", "d", "west");
    let near_in = |zone: &str, region: Option<&str>| {
        let surroundings = Surroundings { locale: Locale::new(Some(zone), region), ..Surroundings::default() };
        let snapshot = compiled_in(&yaml, None, &surroundings).0.install();
        let traffic = snapshot.backends[0].traffic.clone().expect("a policy");
        let locality = traffic.locality.clone().expect("zones");
        locality.near.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let near = |zone: &str| near_in(zone, None);
    assert_eq!(near("a"), ["c"]);
    assert!(near("d").is_empty() && near("x").is_empty());
    assert_eq!(near_in("x", Some("east")), ["a", "c"], "where nobody of the own zone is left, too");
}

#[test]
fn what_is_wrong_with_a_route_of_the_mesh_is_known_to_its_status() {
    let (compiled, status) = compiled(
        "apiVersion: v1
kind: Service
metadata: {name: cart}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart}
spec:
  parentRefs: [{group: '', kind: Service, name: cart}]
  rules: [{matches: [{path: {type: RegularExpression, value: '/('}}], backendRefs: [{name: cart, port: 80}]}]
",
        None,
    );
    assert_eq!(compiled.problems.len(), 1, "{:?}", compiled.problems);
    assert!(compiled.snapshot().backends.is_empty());
    let route = status.route("HTTPRoute", "default", "cart").expect("a status");
    let accepted = route.parents[0].conditions.find("Accepted").expect("a condition");
    assert_eq!((accepted.status, &*accepted.reason), (Truth::False, "UnsupportedValue"));
}

#[test]
fn a_policy_at_workloads_says_how_many_there_are() {
    let (_, status) = compiled(
        "apiVersion: v1
kind: Service
metadata: {name: cart}
spec: {ports: [{port: 80}]}
---
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: good}
spec: {targetRefs: [{group: '', kind: Service, name: cart}], allow: []}
---
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: broken}
spec: {targetRefs: [{group: '', kind: Service, name: cart}], deny: [{to: [{methods: [G T]}]}]}
",
        None,
    );
    let accepted = |name: &str| {
        let policy = status.policy("AuthorizationPolicy", "default", name).expect("a status");
        let accepted = policy.ancestors[0].conditions.find("Accepted").expect("a condition");
        (accepted.status, accepted.message.to_string())
    };
    let (truth, message) = accepted("good");
    assert_eq!(truth, Truth::True);
    assert!(message.ends_with("members of the mesh (known: 0)."), "{message}");
    assert_eq!(accepted("broken").0, Truth::False);
}

#[test]
fn what_judges_requests_is_not_attached_to_connections() {
    let route = "---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {name: db}\n\
                 spec: {parentRefs: [{name: edge, sectionName: raw}], rules: [{backendRefs: [{name: db, port: 1}]}]}\n";
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\n\
                   spec: {gatewayClassName: transept, listeners: [{name: raw, protocol: TCP, port: 5432}]}\n";
    let policy = |kind: &str, spec: &str, target: &str| {
        format!(
            "{gateway}{route}---\napiVersion: transept.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: one}}\nspec:\n  \
             targetRefs: [{{group: gateway.networking.k8s.io, {target}}}]\n  {spec}\n"
        )
    };
    let connections = "allow: [{from: [{addresses: [10.0.0.0/8]}]}]";
    for (kind, spec, is_taken) in [
        ("AuthenticationPolicy", "schemes: [{name: key, apiKey: {}}]", false),
        ("RateLimitPolicy", "limits: [{name: all, requests: 1, per: 1s, key: []}]", false),
        ("QuotaPolicy", "quotas: [{name: all, requests: 1, per: Day, key: []}]", false),
        ("ConcurrencyPolicy", "limits: [{name: all, requests: 1, key: []}]", false),
        ("HeaderPolicy", "request: {set: [{name: x, value: y}]}", false),
        ("AuthorizationPolicy", connections, true),
        ("IpAccessPolicy", "allow: [10.0.0.0/8]", true),
    ] {
        let text = policy(kind, spec, "kind: TCPRoute, name: db");
        let invalid = load(&[SourceText::new("a.yaml", text)], MODEL_KINDS).invalid;
        assert_eq!(invalid.is_empty(), is_taken, "{kind}: {invalid:?}");
        let told = invalid.iter().map(ToString::to_string).collect::<String>();
        assert!(
            is_taken || told.contains("cannot be attached to a TCPRoute") && told.contains("AuthorizationPolicy"),
            "{told}"
        );
        // Above a listener of TCP it holds for the others, and is said to.
        let notes = compiled(&policy(kind, spec, "kind: Gateway, name: edge"), None).0.notes;
        let passes_by =
            notes.iter().any(|note| note.to_string().contains("takes connections without looking into them"));
        assert_eq!(passes_by, !is_taken, "{kind}: {notes:?}");
    }
    // What rules ask for that connections do not have is told of those that are judged, too.
    let told = |spec: &str, target: &str| {
        let notes = compiled(&policy("AuthorizationPolicy", spec, target), None).0.notes;
        notes.iter().map(ToString::to_string).filter(|note| note.contains("only requests have")).collect::<Vec<_>>()
    };
    for target in ["kind: TCPRoute, name: db", "kind: Gateway, name: edge"] {
        let refused = told("deny: [{to: [{ports: [1]}, {paths: [/admin]}]}]", target);
        assert!(refused.len() == 1 && refused[0].contains("it refuses connections whatever they carry"), "{refused:?}");
        for rule in ["{to: [{paths: [/x]}]}", "{from: [{groups: [x]}]}", "{when: ['request.path == \"/\"']}"] {
            let none = told(&format!("allow: [{rule}]"), target);
            assert!(
                none.len() == 1 && none[0].contains("rule allow[0] ") && none[0].contains("lets no connection in"),
                "{none:?}"
            );
        }
        for fine in [connections, "allow: [{to: [{ports: [1]}, {paths: [/x]}]}]", "deny: [{from: [{namespaces: [x]}]}]"]
        {
            assert_eq!(told(fine, target), Vec::<String>::new(), "{fine}");
        }
    }
}

#[test]
fn who_is_told_secrets_is_not_asked_in_clear_text() {
    let with = |address: &str, more: &str, previous: Option<&Snapshot>| {
        let yaml = format!(
            "{}---
apiVersion: transept.dev/v1alpha1
kind: Backend
metadata: {{name: idp}}
spec: {{endpoints: [{{address: {address}, port: 8443}}]}}
---
apiVersion: transept.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {{name: tokens}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: site}}]
  schemes:
  - name: token
    jwt: {{issuer: 'https://idp.test', audiences: [a], keys: {{url: 'https://idp.test/keys', backendRef: {{group: transept.dev, kind: Backend, name: idp}}}}}}
{more}",
            site("10.0.0.1", "HTTP", "a")
        );
        compiled(&yaml, previous).0
    };
    let told = |address: &str, more: &str| {
        let problems = with(address, more, None).problems;
        problems.iter().map(|one| one.why.clone()).collect::<Vec<_>>().join("; ")
    };
    assert!(told("10.0.0.9", "").contains("default/idp would be asked in clear text"), "{}", told("10.0.0.9", ""));
    assert!(told("idp.test", "").contains("in clear text"));
    assert_eq!((told("127.0.0.1", ""), told("localhost", "")), (String::new(), String::new()));
    // What counts are the endpoints of this generation, and not of the one before.
    let here = with("127.0.0.1", "", None).install();
    let away = with("10.0.0.9", "", Some(&here));
    assert_eq!(away.problems.len(), 1);
    assert!(with("127.0.0.1", "", Some(&away.install())).problems.is_empty());
    let with_tls = "---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: idp}
spec:
  targetRefs: [{group: transept.dev, kind: Backend, name: idp}]
  validation: {hostname: idp.test, wellKnownCACertificates: System}
";
    assert_eq!(told("10.0.0.9", with_tls), "");
}
