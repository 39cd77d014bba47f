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

fn compiled(yaml: &str, previous: Option<&Snapshot>) -> (Compiled, Status) {
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

fn site(endpoint: &str, protocol: &str, header: &str) -> String {
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
fn who_counts_by_a_principal_that_nobody_finds_out_is_told_so() {
    let policies = |missing: &str, authentication: &str| {
        format!(
            "{}---
apiVersion: transept.dev/v1alpha1
kind: RateLimitPolicy
metadata: {{name: each}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: default}}]
  limits:
  - {{name: who, requests: 5, per: 1m, key: [{{from: Principal}}], missing: {missing}}}
  - {{name: where, requests: 5, per: 1m, key: [{{from: Address}}]}}
{authentication}",
            site("10.0.0.1", "HTTP", "a")
        )
    };
    let notes = |yaml: &str| {
        let notes = compiled(yaml, None).0.notes;
        notes.into_iter().map(|note| note.to_string()).collect::<Vec<_>>()
    };
    for (missing, said) in [
        ("Skip", "limit `who` counts by principal, and `missing: Skip` means that the limit never holds"),
        ("Share", "`missing: Share` counts all requests under one key"),
        ("Reject", "`missing: Reject` refuses all requests"),
    ] {
        let found = notes(&policies(missing, ""));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("RateLimitPolicy default/each") && found[0].contains(said), "{found:?}");
        assert!(!found[0].contains("where`"), "{found:?}");
        assert_eq!(
            line(&policies(missing, ""), &found[0]),
            "  - {name: who, requests: 5, per: 1m, key: [{from: Principal}], missing: MISSING}"
                .replace("MISSING", missing)
        );
    }
    let covered = "---
apiVersion: transept.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {name: keys}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: site}]
  require: [{keys: []}]
  schemes: [{name: keys, apiKey: {}}]
";
    assert_eq!(notes(&policies("Skip", covered)), Vec::<String>::new());
    let other = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: other}
spec: {hostnames: [other.test], rules: [{backendRefs: [{group: transept.dev, kind: Backend, name: app}]}]}
";
    let found = notes(&policies("Skip", &format!("{covered}{other}")));
    assert!(found.len() == 1 && found[0].contains("where no AuthenticationPolicy stands"), "{found:?}");
}

#[test]
fn who_asks_for_scopes_that_nobody_finds_out_is_told_so() {
    let policy = |allow: &str| {
        format!(
            "{}---
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: readers}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: default}}]
  allow: [{{from: [{{{allow}}}]}}]
",
            site("10.0.0.1", "HTTP", "a")
        )
    };
    let on_service = |allow: &str| {
        let service = "---\n{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80}]}}\n";
        let to =
            |kind: &str| policy(allow).replace("group: gateway.networking.k8s.io, kind: Gateway, name: default", kind);
        format!("{}{service}", to("group: '', kind: Service, name: cart"))
    };
    let notes = |yaml: &str| compiled(yaml, None).0.notes.iter().map(ToString::to_string).collect::<Vec<_>>();
    let found = notes(&policy("scopes: [orders.read]"));
    assert!(found.len() == 1 && found[0].contains("AuthorizationPolicy default/readers"), "{found:?}");
    assert!(found[0].contains("no AuthenticationPolicy finds that out where it is in force; attach"), "{found:?}");
    assert_eq!(notes(&policy("addresses: [10.0.0.0/8]")), Vec::<String>::new());
    // Beside a program of the mesh there is nobody else who could.
    let found = notes(&on_service("groups: [staff]"));
    assert!(found.len() == 1 && found[0].contains("on a Service ask for `identities`"), "{found:?}");
    for known in [
        "identities: ['*']",
        "namespaces: [shop]",
        "principals: ['spiffe://transept.local/ns/a/sa/b']",
        "addresses: [10.0.0.0/8]",
    ] {
        assert_eq!(notes(&on_service(known)), Vec::<String>::new(), "{known}");
    }
}

#[test]
fn a_limit_that_another_policy_always_reaches_first_is_told_so() {
    let policy = |name: &str, targets: &str, limits: &str| {
        let targets = targets.replace("ROUTE", "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: site}");
        let targets = targets.replace("GATEWAY", "{group: gateway.networking.k8s.io, kind: Gateway, name: default}");
        format!(
            "---\napiVersion: transept.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
             targetRefs: [{targets}]\n  limits:\n  - {{{limits}}}\n"
        )
    };
    let notes = |policies: [String; 2]| {
        let yaml = format!("{}{}", site("10.0.0.1", "HTTP", "a"), policies.concat());
        let notes = compiled(&yaml, None).0.notes.iter().map(ToString::to_string).collect::<Vec<_>>();
        notes.into_iter().filter(|note| note.contains("is never reached")).collect::<Vec<_>>()
    };
    let few = "name: few, requests: 5, per: 1m, key: []";
    let many = "name: many, requests: 50, per: 1m, key: []";
    for policies in [
        [policy("a", "ROUTE", few), policy("b", "ROUTE", many)],
        [policy("b", "ROUTE", many), policy("a", "ROUTE, GATEWAY", few)],
        [policy("b", "ROUTE", many), policy("a", "GATEWAY", few)],
        // What all together reach is reached before what each of them may.
        [policy("a", "ROUTE", few), policy("b", "ROUTE", "name: many, requests: 50, per: 1m, key: [{from: Address}]")],
        [policy("a", "ROUTE", few), policy("b", "ROUTE", "name: many, requests: 50, per: 1m, key: [], plans: [gold]")],
    ] {
        let found = notes(policies);
        let said = "limit `many` is never reached, because `few` of RateLimitPolicy default/a";
        assert!(found.len() == 1 && found[0].contains(said), "{found:?}");
    }
    let elsewhere = "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: other}, spec: {parentRefs: [{name: default}]}}\n";
    let found = notes([policy("a", "ROUTE", few), policy("b", "GATEWAY", few) + elsewhere]);
    assert!(found.len() == 1 && found[0].contains("RateLimitPolicy default/a"), "the one of the route: {found:?}");
    let found = notes([policy("a", "ROUTE", few), policy("b", "ROUTE", few)]);
    assert!(found.len() == 1 && found[0].contains("RateLimitPolicy default/b"), "the younger one: {found:?}");
    for policies in [
        // What comes in elsewhere counts there only.
        [policy("a", "ROUTE", few), policy("b", "ROUTE, GATEWAY", many)],
        [policy("a", "ROUTE", "name: f, requests: 5, per: 1m, key: [{from: Address}]"), policy("b", "ROUTE", many)],
        [policy("a", "ROUTE", "name: f, requests: 5, per: 1m, key: [], plans: [free]"), policy("b", "ROUTE", many)],
        [policy("a", "ROUTE", few), policy("b", "ROUTE", "name: hour, requests: 100, per: 1h, key: []")],
    ] {
        assert_eq!(notes(policies), Vec::<String>::new());
    }
}

#[test]
fn a_quota_or_a_place_that_another_policy_always_reaches_first_is_told_so() {
    let notes = |kind: &str, list: &str, first: &str, second: &str| {
        let policy = |name: &str, entry: &str| {
            let targets = "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: site}]";
            format!(
                "---\n{{apiVersion: transept.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}}}, spec: {{{targets}, {list}: [{entry}]}}}}\n"
            )
        };
        let yaml = format!("{}{}{}", site("10.0.0.1", "HTTP", "a"), policy("a", first), policy("b", second));
        let notes = compiled(&yaml, None).0.notes.iter().map(ToString::to_string).collect::<Vec<_>>();
        notes.into_iter().filter(|note| note.contains("is never reached")).collect::<Vec<_>>()
    };
    let quotas = |first: &str, second: &str| notes("QuotaPolicy", "quotas", first, second);
    let places = |first: &str, second: &str| notes("ConcurrencyPolicy", "limits", first, second);
    let day = "{name: day, requests: 5, per: Day, key: []}";
    for (found, said) in [
        (quotas(day, "{name: many, requests: 50, per: Day, key: []}"), "quota `many`"),
        (quotas(day, "{name: many, requests: 9, per: Day, key: [{from: Address}]}"), "quota `many`"),
        (quotas("{name: month, requests: 155, per: Month, key: []}", day), "quota `month`"),
        (quotas(day, &day.replace("day", "same")), "quota `same`"),
        (
            places("{name: few, requests: 5, key: []}", "{name: each, requests: 9, key: [{from: Address}]}"),
            "limit `each`",
        ),
        (places("{name: few, requests: 5, key: []}", "{name: same, requests: 5, key: []}"), "limit `same`"),
    ] {
        assert!(found.len() == 1 && found[0].contains(&format!("{said} is never reached")), "{said}: {found:?}");
    }
    for found in [
        quotas(day, "{name: many, requests: 50, per: Day, key: [], soft: true}"),
        quotas(&day.replace("key", "soft: true, key"), "{name: many, requests: 50, per: Day, key: []}"),
        quotas(day, "{name: month, requests: 100, per: Month, key: []}"),
        quotas(day, "{name: local, requests: 50, per: Day, timeZone: Europe/Berlin, key: []}"),
        // Who waits for one of the few may have a place here.
        places("{name: few, requests: 5, key: [], queue: {requests: 9}}", "{name: more, requests: 9, key: []}"),
    ] {
        assert_eq!(found, Vec::<String>::new());
    }
}

#[test]
fn a_plan_that_looks_misspelled_is_told() {
    let notes = |plans: &str| {
        let consumer =
            "---\n{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {name: shop}, spec: {plan: gold}}\n";
        let policy = |kind: &str, list: &str, rest: &str| {
            let targets = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: default}]";
            let limit = format!("{{name: a, requests: 5, {rest}key: [], plans: [{plans}]}}");
            format!(
                "---\n{{apiVersion: transept.dev/v1alpha1, kind: {kind}, metadata: {{name: p}}, spec: {{{targets}, {list}: [{limit}]}}}}\n"
            )
        };
        let all = [
            policy("RateLimitPolicy", "limits", "per: 1m, "),
            policy("QuotaPolicy", "quotas", "per: Day, "),
            policy("ConcurrencyPolicy", "limits", ""),
        ];
        let yaml = format!("{}{consumer}{}", site("10.0.0.1", "HTTP", "a"), all.concat());
        let notes = compiled(&yaml, None).0.notes.iter().map(ToString::to_string).collect::<Vec<_>>();
        notes.into_iter().filter(|note| note.contains("is for plan")).collect::<Vec<_>>()
    };
    let found = notes("silver, glod");
    let said = |note: &String| note.contains("for plan `glod`, which no Consumer has; did you mean `gold`?");
    assert!(found.len() == 3 && found.iter().all(said), "{found:?}");
    // Others may be told of by tokens.
    assert_eq!(notes("gold, silver"), Vec::<String>::new());
}

/// The line that a note points at.
fn line<'y>(yaml: &'y str, note: &str) -> &'y str {
    let number = note.split(':').nth(1).and_then(|number| number.parse::<usize>().ok()).expect("a line");
    yaml.lines().nth(number - 1).expect("a line of the file")
}

#[test]
fn who_asks_for_what_no_client_can_prove_is_told_so() {
    let certificates = "metadata: {name: certified}\nspec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: site}]\n";
    let yaml = |kind: &str, rest: &str| {
        format!(
            "{}---\napiVersion: transept.dev/v1alpha1\nkind: {kind}\n{certificates}{rest}",
            site("10.0.0.1", "HTTP", "a")
        )
    };
    let identities = "  allow:\n  - from: [{addresses: [10.0.0.0/8]}]\n  - from: [{identities: [shop/desk]}]\n";
    for (text, said, at) in [
        (yaml("AuthorizationPolicy", identities), "it asks for identities", "  - from: [{identities: [shop/desk]}]"),
        (
            yaml("AuthorizationPolicy", "  deny:\n  - from:\n    - {namespaces: [shop]}\n"),
            "it asks for identities",
            "    - {namespaces: [shop]}",
        ),
        (
            yaml("AuthenticationPolicy", "  schemes:\n  - {name: c, clientCertificate: {}}\n"),
            "scheme c looks for certificates of clients",
            "  - {name: c, clientCertificate: {}}",
        ),
    ] {
        let notes: Vec<String> = compiled(&text, None).0.notes.iter().map(ToString::to_string).collect();
        assert!(notes.len() == 1 && notes[0].contains(said), "{notes:?}");
        assert!(notes[0].contains("`tls.frontend.default.validation.caCertificateRefs`"), "the remedy: {notes:?}");
        assert_eq!(line(&text, &notes[0]), at);
    }
    let not = yaml("AuthorizationPolicy", "  deny: [{from: [{notIdentities: [shop/desk]}]}]\n");
    assert!(compiled(&not, None).0.notes.is_empty(), "that matches those without one");
    let in_the_mesh = yaml("AuthorizationPolicy", identities).replace(
        "group: gateway.networking.k8s.io, kind: HTTPRoute, name: site",
        "group: '', kind: Service, name: cart",
    );
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: cart}\nspec: {ports: [{port: 80}]}\n";
    assert!(compiled(&(in_the_mesh + service), None).0.notes.is_empty());
}

#[test]
fn who_asks_for_two_keys_that_may_be_one_is_told_so() {
    let notes = |first: &str, second: &str, require: &str| {
        let text = format!(
            "{}---\napiVersion: transept.dev/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {{name: two}}\nspec:\n  \
             targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: site}}]\n  schemes:\n  \
             - {{name: device, apiKey: {{{first}}}}}\n  - {{name: user, apiKey: {{{second}}}}}\n{require}",
            site("10.0.0.1", "HTTP", "a")
        );
        let notes: Vec<String> = compiled(&text, None).0.notes.iter().map(ToString::to_string).collect();
        notes.into_iter().map(|note| (line(&text, &note).trim().to_owned(), note)).collect::<Vec<_>>()
    };
    let both = "  require: [{device: [], user: []}]\n";
    let told = notes("header: X-Device", "header: X-User", both);
    let [(at, note)] = &told[..] else { panic!("{told:?}") };
    assert!(at.starts_with("- {name: user"), "{at}");
    assert!(
        note.contains("schemes device and user are asked for together") && note.contains("in `authorization`"),
        "{note}"
    );
    let told = notes("header: X-Key, bearer: false", "header: x-key", both);
    assert!(told.len() == 1 && told[0].1.contains("in `x-key`"), "{told:?}");
    let told = notes("header: X-Device, bearer: false, query: k", "header: X-User, query: k", both);
    assert!(told.len() == 1 && told[0].1.contains("in the parameter `k`"), "{told:?}");
    for (first, second, require) in [
        ("header: X-Device, bearer: false", "header: X-User", both),
        ("header: X-Device", "header: X-User", "  require: [{device: []}, {user: []}]\n"),
        ("header: X-Device", "header: X-User", ""),
    ] {
        assert!(notes(first, second, require).is_empty(), "{first} {second} {require}");
    }
}

#[test]
fn who_asks_an_issuer_about_tokens_that_need_no_asking_is_told_so() {
    let notes = |first: &str, second: &str, require: &str| {
        let text = format!(
            "{}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: gate}}\nstringData: {{secret: a-secret-of-a-client}}\n\
             ---\napiVersion: transept.dev/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {{name: two}}\nspec:\n  \
             targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: site}}]\n  schemes:\n  \
             - {{name: first, {first}}}\n  - {{name: second, {second}}}\n{require}",
            site("10.0.0.1", "HTTP", "a")
        );
        let (world, _) = compiled(&text, None);
        assert!(world.problems.is_empty(), "{:?}", world.problems);
        world.notes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let asks = "introspection: {url: 'https://login.test/introspect', clientId: gate, clientSecret: {name: gate, key: secret}, anyAudience: true}";
    let knows = "jwt: {issuer: 'https://login.test', audiences: [shop]}";
    let found = notes(asks, knows, "");
    assert!(found.len() == 1 && found[0].contains("scheme first is tried before second"), "{found:?}");
    for (first, second, require) in [
        (knows, asks, ""),
        (asks, knows, "  require: [{second: []}, {first: []}]\n"),
        (asks, knows, "  require: [{first: [], second: []}]\n"),
        (&*asks.replace("anyAudience", "header: X-Token, anyAudience"), knows, ""),
    ] {
        assert_eq!(notes(first, second, require), Vec::<String>::new());
    }
}

#[test]
fn who_guards_a_route_that_other_spellings_pass_by_is_told_so() {
    let on = |kind: &str, name: &str| {
        format!("  targetRefs: [{{group: gateway.networking.k8s.io, kind: {kind}, name: {name}}}]\n")
    };
    let one = |kind: &str, name: &str, spec: &str| {
        format!("---\napiVersion: transept.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}")
    };
    let (route, gateway) = (on("HTTPRoute", "site"), on("Gateway", "default"));
    let key = "  schemes: [{name: key, apiKey: {}}]\n";
    let backend = "{group: transept.dev, kind: Backend, name: app}";
    let service = format!("  protocol: GRPC\n  backendRef: {backend}\n");
    let guards = |target: &str| {
        one("AuthenticationPolicy", "known", &format!("{target}{key}"))
            + &one("AuthorizationPolicy", "allowed", &format!("{target}  deny: [{{name: all}}]\n"))
            + &one("ExternalAuthPolicy", "asked", &format!("{target}{service}"))
            + &one("HeaderPolicy", "other", &format!("{target}  request: {{remove: [a]}}\n"))
    };
    let listener = |form: &str| one("ListenerPolicy", "paths", &format!("{gateway}  path: {{form: {form}}}\n"));
    let notes = |rest: String| {
        let text = site("10.0.0.1", "HTTP", "a") + &rest;
        let notes: Vec<String> = compiled(&text, None).0.notes.iter().map(ToString::to_string).collect();
        notes.into_iter().filter(|note| note.contains("`form: Raw`")).collect::<Vec<_>>()
    };
    let found = notes(listener("Raw") + &guards(&route));
    assert_eq!(found.len(), 3, "{found:?}");
    for (found, name) in found.iter().zip(["known", "allowed", "asked"]) {
        assert!(found.contains(&format!("default/{name}: it is on a route")), "{found}");
    }
    assert!(notes(listener("Raw") + &guards(&gateway)).is_empty());
    assert!(notes(listener("Refuse") + &guards(&route)).is_empty());
    assert!(notes(guards(&route)).is_empty());
}

#[test]
fn a_route_that_leaves_its_ports_to_requests_alone_is_noted() {
    let asked = "filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, grpc: {}, backendRef: {name: cart, port: 80}}}], ";
    let notes = |filters: &str, parent: &str, other: &str| {
        let yaml = format!(
            "\
apiVersion: v1
kind: Service
metadata: {{name: cart}}
spec: {{ports: [{{name: http, port: 80}}, {{name: db, port: 81}}, {{name: web, port: 82, appProtocol: http}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: cart}}
spec:
  parentRefs: [{{group: '', kind: Service, name: cart{parent}}}]
  rules: [{{{filters}backendRefs: [{{name: cart, port: 80}}]}}]
---
{other}"
        );
        compiled(&yaml, None).0.notes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let key = "apiVersion: transept.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {name: key}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart}], schemes: [{name: key, apiKey: {}}]}
";
    let stream = "apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: db}
spec: {parentRefs: [{group: '', kind: Service, name: cart, port: 81}], rules: [{backendRefs: [{name: cart, port: 81}]}]}
";
    let found = notes("", ", port: 80", key);
    assert!(found.len() == 1 && found[0].contains("scheme `key` lets nobody in there"), "{found:?}");
    let notes = |filters: &str, parent: &str, other: &str| {
        let all = notes(filters, parent, other).into_iter();
        all.filter(|note| !note.contains("lets nobody in there")).collect::<Vec<_>>()
    };
    for (filters, other) in [("", key), (asked, "")] {
        let found = notes(filters, "", other);
        assert!(found.len() == 1 && found[0].contains("(port 80, 81) carries requests only now"), "{found:?}");
        assert!(notes(filters, ", port: 80", other).is_empty(), "whoever names the port knows it");
        let found = notes(filters, "", &format!("{other}---\n{stream}"));
        assert!(
            found.len() == 1 && found[0].contains("(port 80) carries"),
            "bytes have a route of their own: {found:?}"
        );
    }
    assert!(notes("", "", "").is_empty());
}

#[test]
fn free_repeats_where_no_proxy_is_trusted_are_noted() {
    let quotas = "\
---
apiVersion: transept.dev/v1alpha1
kind: QuotaPolicy
metadata: {name: day}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: site}]
  quotas:
  - {name: other, requests: 9, per: Day, key: []}
  - {name: day, requests: 5, per: Day, key: [], repeats: Free}
";
    let trusted = "\
---
apiVersion: transept.dev/v1alpha1
kind: ListenerPolicy
metadata: {name: edge}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: default}]
  clientAddress: {trustedProxies: [10.0.0.0/8]}
";
    let notes = |text: &str| -> Vec<String> { compiled(text, None).0.notes.iter().map(ToString::to_string).collect() };
    let text = site("10.0.0.1", "HTTP", "a") + quotas;
    let found = notes(&text);
    assert!(found.len() == 1 && found[0].contains("`repeats: Free` of quota `day` spares nobody"), "{found:?}");
    assert!(found[0].contains("`clientAddress.trustedProxies`"), "the remedy: {found:?}");
    assert_eq!(line(&text, &found[0]), "  - {name: day, requests: 5, per: Day, key: [], repeats: Free}");
    assert!(notes(&(text + trusted)).is_empty());
}

#[test]
fn a_rule_on_a_port_that_nothing_has_is_noted() {
    let notes = |target: &str, port: u16| {
        let yaml = format!(
            "\
apiVersion: v1
kind: Service
metadata: {{name: cart}}
spec: {{ports: [{{name: http, port: 80, targetPort: {target}}}]}}
---
apiVersion: transept.dev/v1alpha1
kind: Workload
metadata: {{name: cart-1}}
spec: {{services: [cart], address: 10.0.0.7, ports: [{{port: 80, targetPort: 9090}}], tunnel: {{}}}}
---
apiVersion: transept.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: cart}}
spec:
  targetRefs: [{{group: '', kind: Service, name: cart}}]
  deny: [{{to: [{{ports: [{port}]}}]}}]
"
        );
        compiled(&yaml, None).0.notes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let found = notes("8080", 81);
    assert!(found.len() == 1 && found[0].contains("AuthorizationPolicy default/cart"), "{found:?}");
    assert!(found[0].contains("a rule names port 81") && found[0].ends_with("they have 80, 8080, 9090"), "{found:?}");
    assert!(found[0].starts_with("test.yaml:16:"), "{found:?}");
    for port in [80, 8080, 9090] {
        assert_eq!(notes("8080", port), Vec::<String>::new());
    }
    // Which port a name stands for, each instance says for itself.
    assert_eq!(notes("web", 81), Vec::<String>::new());
}

#[test]
fn a_rule_on_a_port_that_no_listener_has_is_noted() {
    let notes = |port: u16| {
        let yaml = format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: edge}}, spec: {{gatewayClassName: transept, \
             listeners: [{{name: http, protocol: HTTP, port: 80}}]}}}}\n---\n{{apiVersion: transept.dev/v1alpha1, kind: \
             AuthorizationPolicy, metadata: {{name: p}}, spec: {{targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: \
             edge}}], deny: [{{to: [{{ports: [{port}]}}]}}]}}}}\n"
        );
        compiled(&yaml, None).0.notes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let found = notes(99);
    assert!(
        found.len() == 1 && found[0].contains("names port 99, which no listener of Gateway default/edge"),
        "{found:?}"
    );
    assert_eq!(notes(80), Vec::<String>::new());
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
