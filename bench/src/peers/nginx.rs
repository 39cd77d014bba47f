//! nginx, as a peer and as the backend of every scenario.
//!
//! Called by `peers` and `stage`.

use std::fmt::Write as _;
use std::path::Path;

use super::{Plan, Routes};
use crate::guards::{Guard, Guarding};

/// Length of the backend's answer in bytes.
const BODY: usize = 1024;

/// The backend: `first` answers over HTTP/1.1, `h2` over HTTP/2 without TLS, `second` over HTTP/1.1 with another body.
pub(crate) fn backend_configuration(directory: &Path, first: u16, h2: u16, second: u16) -> String {
    let mut servers = String::new();
    for (listen, letter) in [(format!("{first}"), 'a'), (format!("{h2} http2"), 'a'), (format!("{second}"), 'b')] {
        let body = letter.to_string().repeat(BODY);
        let _ = writeln!(servers, "  server {{ listen 127.0.0.1:{listen}; location / {{ return 200 \"{body}\"; }} }}");
    }
    wrap(directory, &servers)
}

/// Writes the configuration of the peer and says how to start it.
pub(super) fn arguments(plan: &Plan<'_>, directory: &Path) -> anyhow::Result<Vec<String>> {
    let file = directory.join("nginx.conf");
    super::replace(&file, &wrap(directory, &servers(plan)))?;
    Ok(vec!["-c".to_owned(), file.display().to_string(), "-p".to_owned(), directory.display().to_string()])
}

fn servers(plan: &Plan<'_>) -> String {
    let Plan { ports, backend, backend_h2, certificate, .. } = *plan;
    let proxy = "proxy_pass http://h1; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host; \
                 proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
    let grpc =
        "grpc_pass grpc://h2; grpc_set_header Host $host; grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
    let mut text = String::new();
    for (name, port) in [("h1", backend), ("h2", backend_h2)] {
        let _ = writeln!(
            text,
            "  upstream {name} {{ server 127.0.0.1:{port}; keepalive 512; keepalive_requests 1000000000; }}"
        );
    }
    match plan.routes {
        Routes::Any => {
            let (outside, inside) = plan.guarding.map(guarding).unwrap_or_default();
            let _ = writeln!(
                text,
                "{outside}  server {{ listen 127.0.0.1:{}; location / {{ {inside}{proxy} }} }}",
                ports.http
            );
        }
        Routes::Table { hosts, prefixes } => {
            for (host, paths) in Routes::table(hosts, prefixes) {
                let _ = write!(text, "  server {{ listen 127.0.0.1:{}; server_name {host}; ", ports.http);
                for path in paths {
                    let _ = write!(text, "location {path} {{ {proxy} }} ");
                }
                text.push_str("}\n");
            }
        }
    }
    let (chain, key) = (certificate.chain.display(), certificate.key.display());
    let _ = writeln!(
        text,
        "  server {{ listen 127.0.0.1:{} ssl; ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3; \
         location / {{ {proxy} }} }}",
        ports.https
    );
    let _ = writeln!(text, "  server {{ listen 127.0.0.1:{} http2; location / {{ {proxy} }} }}", ports.h2);
    let _ = writeln!(text, "  server {{ listen 127.0.0.1:{} http2; location / {{ {grpc} }} }}", ports.h2_to_h2);
    text
}

/// What stands before the plain port: outside of its server and in its location.
fn guarding(guarding: &Guarding) -> (String, String) {
    match guarding.guard {
        Guard::ApiKey => (
            format!("  map $http_x_api_key $unknown {{ default 1; \"{}\" 0; }}\n", guarding.key),
            "if ($unknown) { return 401; } ".to_owned(),
        ),
        Guard::Limit | Guard::LimitManyKeys => (
            "  limit_req_zone $http_x_user zone=users:256m rate=1000000r/s;\n  limit_req_status 429;\n".to_owned(),
            "limit_req zone=users burst=100000 nodelay; ".to_owned(),
        ),
        Guard::External => {
            // The subrequest goes to a location of the same server.
            let ask = "auth_request /_ask; location = /_ask { internal; auth_request off; proxy_pass http://h1/; proxy_http_version 1.1; \
                       proxy_set_header Connection \"\"; proxy_pass_request_body off; proxy_set_header Content-Length \"\"; } ";
            (String::new(), ask.to_owned())
        }
        Guard::Rs256
        | Guard::Es256
        | Guard::Es256Again
        | Guard::SharedLimit
        | Guard::Hmac
        | Guard::Session
        | Guard::Expressions => Default::default(),
    }
}

/// A whole configuration around these servers.
pub(crate) fn wrap(directory: &Path, servers: &str) -> String {
    let at = directory.display();
    format!(
        "daemon off;\nworker_processes 1;\nuser root;\npid {at}/nginx.pid;\nerror_log {at}/error.log crit;\n\
         events {{ worker_connections 12000; }}\n\
         http {{\n  access_log off;\n  default_type text/plain;\n  server_names_hash_max_size 4096;\n  server_names_hash_bucket_size 128;\n  \
         keepalive_requests 1000000000;\n  keepalive_timeout 600s;\n  http2_max_concurrent_streams 256;\n  \
         client_body_temp_path {at}/t1;\n  proxy_temp_path {at}/t2;\n  fastcgi_temp_path {at}/t3;\n  uwsgi_temp_path {at}/t4;\n  scgi_temp_path {at}/t5;\n\
         {servers}}}\n"
    )
}
