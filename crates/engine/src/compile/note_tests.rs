//! What the owners of policies and routes are told of what is not wrong, and probably not meant.

use super::tests::{compiled, site};

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
