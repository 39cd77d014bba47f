//! Two Envoys as the proxies of a mesh, with mutual TLS between them, in two manners: a TLS connection for each connection and
//! HTTP/1.1 in it, as sidecars mostly do, or HTTP/2, with CONNECT for what is not HTTP, as Transept does.
//!
//! Called by `mesh` and by its scenario of memory.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::certificates::{End, Trust};
use super::world::Crowd;
use super::{Ends, Told};

const TYPES: &str = "type.googleapis.com/envoy";

/// What is spoken between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// HTTP/1.1, or bytes, in a TLS connection for each connection.
    Single,
    /// HTTP/2: everything in few TLS connections.
    Tunnels,
}

/// Writes both configurations and says how to start each.
pub(super) fn arguments(
    manner: Manner,
    told: &Told<'_>,
    known: Crowd,
    directory: &Path,
) -> anyhow::Result<Ends<Vec<String>>> {
    fs::create_dir_all(directory)?;
    let mut clusters = caller_clusters(manner, told);
    for service in 0..known.services {
        let name = format!("service-{service}");
        let endpoints = endpoints(&name, service, known.endpoints_of_each);
        let mut cluster = json!({
            "name": name,
            "connect_timeout": "5s",
            "transport_socket": upstream_tls(manner, told.trust),
        });
        // Every file is watched by itself, and of watches a process may have few.
        if known.services == 1 {
            let file = directory.join("endpoints.json");
            let mut resource = endpoints;
            resource["@type"] = json!(format!("{TYPES}.config.endpoint.v3.ClusterLoadAssignment"));
            fs::write(&file, json!({ "resources": [resource] }).to_string())?;
            let source = json!({ "resource_api_version": "V3", "path_config_source": { "path": file } });
            cluster["type"] = json!("EDS");
            cluster["eds_cluster_config"] = json!({ "eds_config": source });
        } else {
            cluster["type"] = json!("STATIC");
            cluster["load_assignment"] = endpoints;
        }
        clusters.push(cluster);
    }
    let caller = bootstrap("caller", &caller_listeners(manner, told), &clusters);
    let (listeners, clusters) = called(manner, told);
    let called = bootstrap("called", &listeners, &clusters);
    Ok(Ends { caller: write(directory, "caller", &caller)?, called: write(directory, "called", &called)? })
}

fn write(directory: &Path, name: &str, bootstrap: &Value) -> anyhow::Result<Vec<String>> {
    let file = directory.join(format!("{name}.json"));
    fs::write(&file, bootstrap.to_string())?;
    let file = file.display().to_string();
    Ok(["-c", &file, "--concurrency", "1", "--disable-hot-restart", "-l", "error"].map(str::to_owned).to_vec())
}

fn bootstrap(name: &str, listeners: &[Value], clusters: &[Value]) -> Value {
    json!({
        "node": { "id": name, "cluster": "bench" },
        "static_resources": { "listeners": listeners, "clusters": clusters },
    })
}

/// So many endpoints that nobody calls.
fn endpoints(cluster: &str, service: usize, count: usize) -> Value {
    let endpoints: Vec<Value> = (0..count)
        .map(|at| {
            let number = service * count + at;
            let ip = format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255);
            json!({ "endpoint": { "address": { "socket_address": { "address": ip, "port_value": 15008 } } } })
        })
        .collect();
    json!({ "cluster_name": cluster, "endpoints": [{ "lb_endpoints": endpoints }] })
}

fn caller_listeners(manner: Manner, told: &Told<'_>) -> Vec<Value> {
    let stream = |name: &str| {
        let mut proxy = tcp_proxy(name);
        if manner == Manner::Tunnels {
            proxy["typed_config"]["tunneling_config"] = json!({ "hostname": format!("{name}:80") });
        }
        proxy
    };
    vec![
        listener(told.ports.http, &http("http", &route("http")), None),
        listener(told.ports.tcp, &stream("tcp"), None),
        listener(told.ports.bulk, &stream("bulk"), None),
    ]
}

fn caller_clusters(manner: Manner, told: &Told<'_>) -> Vec<Value> {
    let ports = told.ports;
    [("http", ports.called_http), ("tcp", ports.called_tcp), ("bulk", ports.called_bulk)]
        .map(|(name, port)| cluster(name, port, Some(upstream_tls(manner, told.trust)), manner))
        .to_vec()
}

fn called(manner: Manner, told: &Told<'_>) -> (Vec<Value>, Vec<Value>) {
    let ports = told.ports;
    let tls = || Some(downstream_tls(manner, told.trust));
    let stream = |name: &str| match manner {
        Manner::Single => tcp_proxy(name),
        Manner::Tunnels => {
            let connect = json!({
                "match": { "connect_matcher": {} },
                "route": { "cluster": name, "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }] },
            });
            let mut http = http(name, &connect);
            http["typed_config"]["http2_protocol_options"] = json!({ "allow_connect": true });
            http["typed_config"]["upgrade_configs"] = json!([{ "upgrade_type": "CONNECT" }]);
            http
        }
    };
    let listeners = vec![
        listener(ports.called_http, &http("http", &route("http")), tls()),
        listener(ports.called_tcp, &stream("tcp"), tls()),
        listener(ports.called_bulk, &stream("bulk"), tls()),
    ];
    let clusters = [("http", told.backend), ("tcp", told.backend), ("bulk", told.source)]
        .map(|(name, port)| cluster(name, port, None, Manner::Single))
        .to_vec();
    (listeners, clusters)
}

fn address(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}

fn listener(port: u16, filter: &Value, tls: Option<Value>) -> Value {
    let mut chain = json!({ "filters": [filter] });
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    json!({ "name": format!("l{port}"), "address": address(port), "filter_chains": [chain] })
}

fn route(cluster: &str) -> Value {
    json!({ "match": { "prefix": "/" }, "route": { "cluster": cluster } })
}

fn http(name: &str, route: &Value) -> Value {
    json!({
        "name": "http",
        "typed_config": {
            "@type": format!("{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": name,
            "use_remote_address": true,
            "route_config": { "name": name, "virtual_hosts": [{ "name": "any", "domains": ["*"], "routes": [route] }] },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": format!("{TYPES}.extensions.filters.http.router.v3.Router") },
            }],
        },
    })
}

fn tcp_proxy(cluster: &str) -> Value {
    json!({
        "name": "tcp",
        "typed_config": {
            "@type": format!("{TYPES}.extensions.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": cluster,
            "cluster": cluster,
        },
    })
}

fn cluster(name: &str, port: u16, tls: Option<Value>, manner: Manner) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(port) } }] }],
        },
    });
    if let Some(tls) = tls {
        cluster["transport_socket"] = tls;
    }
    if manner == Manner::Tunnels {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        });
    }
    cluster
}

fn upstream_tls(manner: Manner, trust: &Trust) -> Value {
    json!({
        "name": "tls",
        "typed_config": {
            "@type": format!("{TYPES}.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
            "common_tls_context": common(manner, &trust.caller, &trust.called.identity, trust),
        },
    })
}

fn downstream_tls(manner: Manner, trust: &Trust) -> Value {
    json!({
        "name": "tls",
        "typed_config": {
            "@type": format!("{TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "require_client_certificate": true,
            "common_tls_context": common(manner, &trust.called, &trust.caller.identity, trust),
        },
    })
}

/// What both sides of TLS have in common: the own certificate, and who must be at the other end.
fn common(manner: Manner, own: &End, other: &str, trust: &Trust) -> Value {
    let mut context = json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{ "certificate_chain": { "filename": own.chain }, "private_key": { "filename": own.key } }],
        "validation_context": {
            "trusted_ca": { "filename": trust.root },
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": other } }],
        },
    });
    if manner == Manner::Tunnels {
        context["alpn_protocols"] = json!(["h2"]);
    }
    context
}
