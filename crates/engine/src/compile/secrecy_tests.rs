//! Secrets in the wrong place: no finding and no condition repeats one.

use transept_model::attach::{Surroundings, attach};
use transept_model::load::{Broken, Loader};
use transept_model::place::SourceText;

use super::compile;
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

#[test]
fn what_is_wrong_elsewhere_is_shown() {
    let said = said(&policy("AuthenticationPolicy", "  schemes:\n  - {name: Shown, basic: {}}\n"));
    assert!(said.iter().any(|one| one.contains("{name: Shown, basic: {}}")), "{said:#?}");
}
