//! Envoy as a peer: one worker thread; the plain port's routes come from a file that it watches.
//!
//! Called by `peers`. Its request id and its statistics stay on, as they are by default.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Plan, Routes};
use crate::guards::{AUDIENCE, Guard, Guarding, ISSUER};

const TYPES: &str = "type.googleapis.com/envoy";

/// Writes the configuration of the peer and says how to start it.
pub(super) fn arguments(plan: &Plan<'_>, directory: &Path) -> anyhow::Result<Vec<String>> {
    write_routes(plan, directory)?;
    let file = directory.join("envoy.json");
    fs::write(&file, bootstrap(plan, directory).to_string())?;
    let file = file.display().to_string();
    Ok(["-c", &file, "--concurrency", "1", "--disable-hot-restart", "-l", "error"].map(str::to_owned).to_vec())
}

/// Writes the routes of the plain port: Envoy reloads them when the file is moved into place.
pub(super) fn write_routes(plan: &Plan<'_>, directory: &Path) -> anyhow::Result<()> {
    // The cluster is chosen by the backend's port, so that a switch changes routes only.
    let cluster = format!("h1_{}", plan.backend);
    let hosts: Vec<Value> = match plan.routes {
        Routes::Any => {
            vec![json!({ "name": "any", "domains": ["*"], "routes": [route("/", &cluster)] })]
        }
        Routes::Table { hosts, prefixes } => Routes::table(hosts, prefixes)
            .map(|(host, paths)| {
                let routes: Vec<Value> = paths.iter().map(|path| route(path, &cluster)).collect();
                json!({ "name": host, "domains": [host], "routes": routes })
            })
            .collect(),
    };
    let resource = json!({
        "@type": format!("{TYPES}.config.route.v3.RouteConfiguration"),
        "name": "plain",
        "virtual_hosts": hosts,
    });
    super::replace(&directory.join("routes.json"), &json!({ "resources": [resource] }).to_string())
}

fn route(prefix: &str, cluster: &str) -> Value {
    json!({ "match": { "prefix": prefix }, "route": { "cluster": cluster } })
}

fn bootstrap(plan: &Plan<'_>, directory: &Path) -> Value {
    let Plan { ports, backend, backend_h2, certificate, .. } = *plan;
    let watched = json!({
        "route_config_name": "plain",
        "config_source": { "resource_api_version": "V3", "path_config_source": { "path": directory.join("routes.json") } },
    });
    let fixed = |cluster: &str| json!({ "name": cluster, "virtual_hosts": [{ "name": "any", "domains": ["*"], "routes": [route("/", cluster)] }] });
    let h1 = format!("h1_{backend}");
    let tls = json!({
        "name": "tls",
        "typed_config": {
            "@type": format!("{TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {
                "alpn_protocols": ["http/1.1"],
                "tls_certificates": [{
                    "certificate_chain": { "filename": certificate.chain },
                    "private_key": { "filename": certificate.key },
                }],
            },
        },
    });
    let other = crate::stage::BACKEND_SECOND;
    json!({
        "node": { "id": "bench", "cluster": "bench" },
        "admin": { "address": address(ports.admin) },
        "static_resources": {
            "listeners": [
                listener(ports.http, "rds", &watched, None, plan.guarding.and_then(guarding)),
                listener(ports.https, "route_config", &fixed(&h1), Some(tls), None),
                listener(ports.h2, "route_config", &fixed(&h1), None, None),
                listener(ports.h2_to_h2, "route_config", &fixed("h2"), None, None),
            ],
            "clusters": [cluster(&h1, backend, false), cluster(&format!("h1_{other}"), other, false), cluster("h2", backend_h2, true)],
        },
    })
}

/// The filter that stands before the plain port.
fn guarding(guarding: &Guarding) -> Option<Value> {
    let filter = |name: &str, kind: &str, mut config: Value| {
        config["@type"] = format!("{TYPES}.extensions.filters.http.{kind}").into();
        Some(json!({ "name": name, "typed_config": config }))
    };
    match guarding.guard {
        Guard::ApiKey => filter(
            "keys",
            "api_key_auth.v3.ApiKeyAuth",
            json!({
                "credentials": [{ "key": guarding.key, "client": "bench" }],
                "key_sources": [{ "header": "x-api-key" }],
            }),
        ),
        Guard::Rs256 | Guard::Es256 | Guard::Es256Again => filter(
            "jwt",
            "jwt_authn.v3.JwtAuthentication",
            json!({
                "providers": { "bench": {
                    "issuer": ISSUER, "audiences": [AUDIENCE], "local_jwks": { "inline_string": guarding.jwks },
                } },
                "rules": [{ "match": { "prefix": "/" }, "requires": { "provider_name": "bench" } }],
            }),
        ),
        Guard::External => filter(
            "ask",
            "ext_authz.v3.ExtAuthz",
            json!({ "http_service": {
                "server_uri": { "uri": "http://127.0.0.1", "cluster": format!("h1_{}", crate::stage::BACKEND), "timeout": "1s" },
            } }),
        ),
        // One bucket for all: it has none for each value of a field.
        Guard::Limit => filter(
            "limit",
            "local_ratelimit.v3.LocalRateLimit",
            json!({
                "stat_prefix": "limit",
                "token_bucket": { "max_tokens": 1_000_000, "tokens_per_fill": 1_000_000, "fill_interval": "1s" },
                "filter_enabled": { "default_value": { "numerator": 100 } },
                "filter_enforced": { "default_value": { "numerator": 100 } },
            }),
        ),
        Guard::LimitManyKeys | Guard::SharedLimit | Guard::Hmac | Guard::Session | Guard::Expressions => None,
    }
}

fn address(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}

fn listener(port: u16, routes_field: &str, routes: &Value, tls: Option<Value>, guard: Option<Value>) -> Value {
    let mut manager = json!({
        "@type": format!("{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": format!("p{port}"),
        "use_remote_address": true,
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": format!("{TYPES}.extensions.filters.http.router.v3.Router") },
        }],
    });
    if let (Some(guard), Some(filters)) = (guard, manager["http_filters"].as_array_mut()) {
        filters.insert(0, guard);
    }
    manager[routes_field] = routes.clone();
    let mut chain = json!({ "filters": [{ "name": "http", "typed_config": manager }] });
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    json!({ "name": format!("l{port}"), "address": address(port), "filter_chains": [chain] })
}

fn cluster(name: &str, port: u16, h2: bool) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(port) } }] }],
        },
    });
    if h2 {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        });
    }
    cluster
}
