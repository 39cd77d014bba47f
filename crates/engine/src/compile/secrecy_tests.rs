//! Secrets in the wrong place: no finding and no condition repeats one.

use transept_model::attach::{Surroundings, attach};
use transept_model::load::{Broken, Loader};
use transept_model::place::SourceText;

use super::compile;
use crate::explain::{Ask, explain};
use crate::policies::MODEL_KINDS;

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: site}
spec: {rules: [{backendRefs: [{group: transept.dev, kind: Backend, name: app}]}]}
---
apiVersion: transept.dev/v1alpha1
kind: Backend
metadata: {name: app}
spec: {endpoints: [{address: 10.0.0.1, port: 80}]}
";

fn policy(kind: &str, spec: &str) -> String {
    let target = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: site}";
    format!(
        "{ROUTE}---\napiVersion: transept.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: p}}\nspec:\n  targetRefs: [{target}]\n{spec}"
    )
}

/// A policy with this scheme, in one line or several.
fn scheme(text: &str) -> String {
    policy("AuthenticationPolicy", &format!("  schemes:\n  - name: s\n    {text}\n"))
}

fn token(more: &str) -> String {
    scheme(&format!("jwt: {{issuer: 'https://l.test', audiences: [a], {more}}}"))
}

fn asked(more: &str) -> String {
    scheme(&format!(
        "introspection:\n      url: https://l.test/i\n      clientId: g\n      audiences: [a]\n      {more}"
    ))
}

fn store(text: &str) -> String {
    policy("RateLimitPolicy", &format!("  store: {text}\n  limits: [{{name: m, requests: 1, per: 1s, key: []}}]\n"))
}

/// All that is said of a configuration: as it is printed, in the status, and by a proxy that keeps what cannot be used.
fn said(text: &str) -> Vec<String> {
    let mut said = Vec::new();
    for broken in [Broken::Refused, Broken::Kept] {
        let loaded = Loader::new(MODEL_KINDS).broken_policies(broken).load(&[SourceText::new("a.yaml", text)]);
        said.extend(loaded.invalid.iter().flat_map(|one| [one.snippet(), one.to_string()]));
        said.extend(loaded.notes.iter().map(ToString::to_string));
        let attached = attach(&loaded.world, &Surroundings::default());
        let compiled = compile(&loaded.world, &attached, None, 1);
        said.extend(compiled.problems.iter().map(|one| one.snippet()));
        let mut status = attached.status.clone();
        compiled.report(&mut status);
        said.push(format!("{status:?}"));
    }
    said
}

#[test]
fn what_stands_where_a_reference_should_is_not_repeated() {
    let pem = "-----BEGIN PRIVATE KEY-----\n          PLANTED\n          -----END PRIVATE KEY-----";
    let jwks = r#"{"keys":[{"kty":"oct","k":"PLANTED","kid":"x"}]}"#;
    for text in [
        scheme("hmac: {keys: [{username: u, secret: PLANTED}]}"),
        scheme("hmac:\n      keys:\n      - username: u\n        secret:\n          PLANTED"),
        scheme("hmac: {keys: [{username: u, key: PLANTED}]}"),
        scheme("hmac: {keys: [{username: u, secret: {value: PLANTED}}]}"),
        scheme("signature: {keys: [{id: p, algorithm: hmac-sha256, key: PLANTED}]}"),
        scheme(&format!("signature:\n      keys:\n      - id: p\n        algorithm: ed25519\n        key: |\n          {pem}")),
        scheme("basic: {users: 'ann:$2y$05$PLANTED'}"),
        scheme("basic: {users: [{name: ann, password: PLANTED}]}"),
        scheme("basic: {password: PLANTED}"),
        scheme("apiKey: {keys: [tr_live_PLANTED]}"),
        scheme("apiKey: {pepper: PLANTED}"),
        scheme("login: {issuer: 'https://l.test', clientId: g, clientSecret: PLANTED, cookieSecret: PLANTED}"),
        token("proofNonces: PLANTED"),
        token("secret: PLANTED"),
        token("keys: {sharedSecret: PLANTED}"),
        token(&format!("keys: {{inline: '{jwks}'}}")),
        token(&format!("keys: {{inline: {jwks}}}")),
        scheme(&format!("jwt:\n      issuer: https://l.test\n      keys:\n        inline: |\n          {jwks}")),
        token("keys: {url: 'http://l.test/k?token=PLANTED'}"),
        token("keys: {url: 'https://u:PLANTED@l.test/k'}"),
        token("keys: {url: 'u:PLANTED@l.test'}"),
        asked("clientSecret: PLANTED"),
        asked("clientSecret: {value: PLANTED}"),
        asked("clientSecret: {name: PLANTED_x!, key: k}"),
        asked("clientSecrt: PLANTED"),
        asked("clientSecret: PLANTED: x"),
        store("{url: 'redis://:PLANTED@r.test'}"),
        store("{url: 'u:PLANTED@r.test:6379'}"),
        store("{url: 'redis:/u:PLANTED@r.test'}"),
        store("{url: 'redis://u:a PLANTED@r.test'}"),
        store("\n    url: redis://u:a'PLANTED@r.test"),
        store("{url: 'redis://r.test?password=PLANTED'}"),
        store("{url: 'redis://r.test', password: PLANTED}"),
        store("{url: 'redis://r.test', passwordSecret: PLANTED!x}"),
        store("{url: 'redis://r.test', passwordSecret: {value: PLANTED}}"),
        store("{url: 'redis://u:PLANTED@r.test'"),
        ROUTE.replace(
            "rules: [{",
            "rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Authorization, value: \"Bearer PLANTED\\n\"}]}}], ",
        ),
    ] {
        let said = said(&text);
        assert!(said.iter().any(|one| one.starts_with("a.yaml:")), "{text}\n{said:#?}");
        let shown: Vec<&String> = said.iter().filter(|one| one.contains("PLANTED")).collect();
        assert!(shown.is_empty(), "{text}\n{shown:#?}");
    }
}

/// As `openssl rand -hex 32` makes it.
const RANDOM: &str = "5ec9e7deadbeefcafe0123456789abcdef5ec9e7deadbeefcafe0123456789ab";

fn headers(text: &str) -> String {
    policy("HeaderPolicy", &format!("  request: {text}\n"))
}

fn external(text: &str) -> String {
    let backend = "backendRef: {group: transept.dev, kind: Backend, name: app}";
    policy("ExternalAuthPolicy", &format!("  protocol: HTTP\n  {backend}\n  http: {text}\n"))
}

fn login(text: &str) -> String {
    let session = "session: {secret: {name: s, key: k}}";
    scheme(&format!(
        "login: {{issuer: 'https://l.test', clientId: g, redirectUrl: 'https://shop.test/back', {session}, {text}}}"
    ))
}

fn rule(text: &str) -> String {
    ROUTE.replace("rules: [{", &format!("rules: [{{{text}, "))
}

#[test]
fn what_stands_in_place_of_a_name_or_a_path_is_not_repeated() {
    let filter = "filters: [{type: RequestHeaderModifier, requestHeaderModifier:";
    for text in [
        headers("{set: [{name: 'Authorization: Bearer PLANTED', value: x}]}"),
        headers("{set: [{name: 'X-Up: PLANTED', value: x}]}"),
        headers("{remove: ['X-Up: PLANTED']}"),
        headers("{remove: ['X-Up=PLANTED']}"),
        rule(&format!("{filter} {{set: [{{name: 'X-Up: PLANTED', value: x}}]}}}}]")),
        rule(&format!("{filter} {{remove: ['X-Up PLANTED']}}}}]")),
        external("{allowedHeaders: ['Authorization: Bearer PLANTED']}"),
        external("{path: 'check?token=PLANTED'}"),
        external("{path: 'http://u:PLANTED@h.test/'}"),
        rule("matches: [{headers: [{type: RegularExpression, name: X-Up, value: '(PLANTED'}]}]"),
        rule("matches: [{queryParams: [{type: RegularExpression, name: t, value: '(PLANTED'}]}]"),
        rule("matches: [{path: {value: 'x?token=PLANTED'}}]"),
        login("loginPath: '/in?token=PLANTED'"),
        login("logoutPath: 'out?token=PLANTED', afterLogout: 'u:PLANTED@h.test'"),
        login("scopes: ['Bearer PLANTED']"),
    ] {
        let said = said(&text);
        assert!(said.iter().any(|one| one.starts_with("a.yaml:")), "{text}\n{said:#?}");
        let shown: Vec<&String> = said.iter().filter(|one| one.contains("PLANTED")).collect();
        assert!(shown.is_empty(), "{text}\n{shown:#?}");
    }
}

#[test]
fn what_chance_has_made_is_not_repeated_anywhere() {
    let named = |text: &str| text.replace("RANDOM", RANDOM);
    for text in [
        scheme("hmac: {keys: [{username: u, secret: {name: s, key: k}, consumer: RANDOM}]}"),
        scheme("hmac: {keys: [{username: u, secret: {name: RANDOM, key: k}, consumer: c}]}"),
        scheme("clientCertificate: {consumers: [{consumer: RANDOM, name: a}]}"),
        asked("clientSecret: {name: RANDOM, key: k}"),
        asked("url: RANDOM"),
        token("keys: {url: RANDOM}"),
        token("algorithms: [RANDOM]"),
        login("logoutPath: RANDOM"),
        login("scopes: ['RANDOM x']"),
        headers("{remove: ['RANDOM x']}"),
        rule("matches: [{path: {value: RANDOM}}]"),
        policy("AuthorizationPolicy", "  allow: [{when: [\"request.headers['a'] == sRANDOM\"]}]\n"),
        policy("AuthorizationPolicy", "  allow: [{to: [{methods: [RANDOM]}]}]\n"),
        format!(
            "{ROUTE}---\n{{apiVersion: transept.dev/v1alpha1, kind: ApiKey, metadata: {{name: k}}, spec: {{consumer: RANDOM, hash: 'sha256:{}'}}}}\n",
            "0".repeat(64)
        ),
    ] {
        let text = named(&text);
        let said = said(&text);
        assert!(said.iter().any(|one| one.starts_with("a.yaml:")), "{text}\n{said:#?}");
        let shown: Vec<&String> = said.iter().filter(|one| one.contains("5ec9e7deadbeef")).collect();
        assert!(shown.is_empty(), "{text}\n{shown:#?}");
    }
}

#[test]
fn an_explanation_shows_no_credential_that_a_route_adds() {
    let modifier = |value: &str| {
        rule(&format!(
            "filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: X-Client, value: '{value}'}}]}}}}]"
        ))
    };
    let path = |filter: &str, field: &str, path: &str| {
        rule(&format!(
            "filters: [{{type: {filter}, {field}: {{path: {{type: ReplaceFullPath, replaceFullPath: '{path}'}}}}}}]"
        ))
    };
    let redirect = path("RequestRedirect", "requestRedirect", &format!("/hooks/{RANDOM}"))
        .replace(", backendRefs: [{group: transept.dev, kind: Backend, name: app}]", "");
    for (text, known) in [
        (modifier(&format!("Bearer {RANDOM}")), false),
        (path("URLRewrite", "urlRewrite", &format!("/hooks/{RANDOM}")), false),
        (path("URLRewrite", "urlRewrite", &format!("/x%3Fsig={RANDOM}")), false),
        (redirect, false),
        // Whoever asks knows it.
        (ROUTE.to_owned(), true),
    ] {
        let loaded = Loader::new(MODEL_KINDS).load(&[SourceText::new("a.yaml", &*text)]);
        let attached = attach(&loaded.world, &Surroundings::default());
        let compiled = compile(&loaded.world, &attached, None, 1);
        let asked = if known { format!("/hooks/{RANDOM}") } else { "/x".to_owned() };
        let ask = Ask::new("GET", &format!("http://localhost:8080{asked}")).expect("a request");
        let explanation = explain(compiled.snapshot(), &ask);
        for said in [explanation.to_text(), explanation.to_json().to_string()] {
            assert!(said.contains(if known { RANDOM } else { "(hidden)" }), "{text}\n{said}");
            assert!(known || !said.contains("5ec9e7deadbeef"), "{text}\n{said}");
        }
    }
}

#[test]
fn what_is_wrong_elsewhere_is_shown() {
    let said = said(&policy("AuthenticationPolicy", "  schemes:\n  - {name: Shown, basic: {}}\n"));
    assert!(said.iter().any(|one| one.contains("{name: Shown, basic: {}}")), "{said:#?}");
}
