//! Transept as a peer: one worker, its resources in two files, one of which is replaced when the backend is switched.
//!
//! Called by `peers`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::{Plan, Routes};
use crate::guards::{AUDIENCE, Guard, Guarding, ISSUER, REDIS};

/// Writes the resources and says how to start the gateway.
pub(super) fn arguments(plan: &Plan<'_>, directory: &Path) -> anyhow::Result<Vec<String>> {
    fs::write(directory.join("gateway.yaml"), gateway(plan)?)?;
    write_routes(plan, directory)?;
    let files = ["gateway.yaml", "routes.yaml"].map(|name| directory.join(name).display().to_string());
    let admin = format!("127.0.0.1:{}", plan.ports.admin);
    let fixed = ["--admin", &admin, "--workers", "1", "--access-log", "off"].map(str::to_owned);
    Ok(["run".to_owned()].into_iter().chain(files).chain(fixed).collect())
}

/// Writes the routes of the plain port and its backend.
pub(super) fn write_routes(plan: &Plan<'_>, directory: &Path) -> anyhow::Result<()> {
    let mut text = backend("plain", "HTTP11", plan.backend);
    match plan.routes {
        Routes::Any => text.push_str(&route("plain", "http", None, &["/".to_owned()], "plain")),
        Routes::Table { hosts, prefixes } => {
            for (at, (host, paths)) in Routes::table(hosts, prefixes).enumerate() {
                text.push_str(&route(&format!("plain-{at}"), "http", Some(&host), &paths, "plain"));
            }
        }
    }
    if let Some(guarding) = plan.guarding {
        text.push_str(&guard(guarding));
    }
    super::replace(&directory.join("routes.yaml"), &text)
}

fn gateway(plan: &Plan<'_>) -> anyhow::Result<String> {
    let ports = plan.ports;
    let mut text = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: bench\nspec:\n  gatewayClassName: transept\n  \
                    addresses:\n  - type: IPAddress\n    value: 127.0.0.1\n  listeners:\n"
        .to_owned();
    for (name, port) in [("http", ports.http), ("h2", ports.h2), ("h2-to-h2", ports.h2_to_h2)] {
        let _ = writeln!(text, "  - name: {name}\n    port: {port}\n    protocol: HTTP");
    }
    let _ = writeln!(
        text,
        "  - name: https\n    port: {}\n    protocol: HTTPS\n    tls:\n      certificateRefs:\n      - name: bench",
        ports.https
    );
    let _ = writeln!(
        text,
        "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: bench\ntype: kubernetes.io/tls\nstringData:"
    );
    for (key, path) in [("tls.crt", &plan.certificate.chain), ("tls.key", &plan.certificate.key)] {
        let _ = writeln!(text, "  {key}: |");
        for line in fs::read_to_string(path)?.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    text.push_str(&backend("h1", "HTTP11", plan.backend));
    text.push_str(&backend("h2", "H2C", plan.backend_h2));
    for (name, listener, backend) in [("https", "https", "h1"), ("h2", "h2", "h1"), ("h2-to-h2", "h2-to-h2", "h2")] {
        text.push_str(&route(name, listener, None, &["/".to_owned()], backend));
    }
    Ok(text)
}

/// The policy that stands before the plain port.
fn guard(guarding: &Guarding) -> String {
    let policy = |kind: &str, spec: &str| {
        format!(
            "---\napiVersion: transept.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: guard\nspec:\n  targetRefs:\n  \
             - group: gateway.networking.k8s.io\n    kind: HTTPRoute\n    name: plain\n{spec}"
        )
    };
    let limit = |store: &str| {
        let limits = "  limits:\n  - name: users\n    requests: 1000000\n    per: 1s\n    missing: Reject\n    key:\n    - header: X-User\n";
        policy("RateLimitPolicy", &format!("{store}{limits}"))
    };
    match guarding.guard {
        Guard::ApiKey => {
            let hash = transept_engine::key::hash(guarding.key.as_bytes(), None);
            policy("AuthenticationPolicy", "  schemes: [{name: key, apiKey: {}}]\n")
                + "---\napiVersion: transept.dev/v1alpha1\nkind: Consumer\nmetadata:\n  name: bench\nspec: {}\n"
                + &format!(
                    "---\napiVersion: transept.dev/v1alpha1\nkind: ApiKey\nmetadata:\n  name: bench\nspec:\n  consumer: bench\n  hash: {hash}\n"
                )
        }
        Guard::Rs256 | Guard::Es256 | Guard::Es256Again => policy(
            "AuthenticationPolicy",
            &format!(
                "  schemes:\n  - name: token\n    jwt:\n      issuer: {ISSUER}\n      audiences: [{AUDIENCE}]\n      keys:\n        inline: '{}'\n",
                guarding.jwks
            ),
        ),
        Guard::Hmac => {
            policy(
                "AuthenticationPolicy",
                "  schemes:\n  - name: partner\n    hmac:\n      keys: [{username: bench, secret: {name: guard, key: secret}, consumer: bench}]\n      \
                 required: ['@request-target']\n      clockSkew: 24h\n",
            ) + "---\napiVersion: transept.dev/v1alpha1\nkind: Consumer\nmetadata:\n  name: bench\nspec: {}\n"
                + &secret(guarding)
        }
        Guard::Session => {
            policy(
                "AuthenticationPolicy",
                &format!(
                    "  schemes:\n  - name: browser\n    login:\n      issuer: {ISSUER}\n      clientId: {AUDIENCE}\n      \
                     redirectUrl: https://site.bench.test/back\n      session: {{secret: {{name: guard, key: secret}}}}\n"
                ),
            ) + &secret(guarding)
        }
        Guard::Expressions => policy(
            "AuthorizationPolicy",
            "  allow:\n  - when:\n    - 'request.headers[\"x-user\"] == \"1\"'\n    - 'request.path.startsWith(\"/\") && request.method == \"GET\"'\n    \
             - 'source.address.inNetwork(\"127.0.0.0/8\")'\n",
        ),
        Guard::Limit | Guard::LimitManyKeys => limit(""),
        Guard::SharedLimit => limit(&format!("  store:\n    url: redis://127.0.0.1:{REDIS}\n")),
        Guard::External => policy(
            "ExternalAuthPolicy",
            "  protocol: HTTP\n  backendRef:\n    group: transept.dev\n    kind: Backend\n    name: plain\n",
        ),
    }
}

fn secret(guarding: &Guarding) -> String {
    format!("---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: guard\nstringData:\n  secret: {}\n", guarding.secret)
}

fn backend(name: &str, protocol: &str, port: u16) -> String {
    format!(
        "---\napiVersion: transept.dev/v1alpha1\nkind: Backend\nmetadata:\n  name: {name}\nspec:\n  protocol: {protocol}\n  endpoints:\n  \
         - address: 127.0.0.1\n    port: {port}\n"
    )
}

fn route(name: &str, listener: &str, host: Option<&str>, paths: &[String], backend: &str) -> String {
    let mut text = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: {name}\nspec:\n  parentRefs:\n  - name: bench\n    \
         sectionName: {listener}\n"
    );
    if let Some(host) = host {
        let _ = writeln!(text, "  hostnames: [{host}]");
    }
    text.push_str("  rules:\n");
    for path in paths {
        let _ = writeln!(
            text,
            "  - matches:\n    - path:\n        type: PathPrefix\n        value: {path}\n    backendRefs:\n    - group: transept.dev\n      \
             kind: Backend\n      name: {backend}"
        );
    }
    text
}
