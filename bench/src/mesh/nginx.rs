//! Two nginx as the proxies of a mesh: HTTP/1.1 over mutual TLS with kept connections.
//!
//! Called by `mesh`. HTTP only: the module for other streams is not in every build of nginx.

use std::fs;
use std::path::Path;

use super::certificates::{NAME, Trust};
use super::{Ends, Told};
use crate::peers::wrap;

const KEPT: &str = "keepalive 512; keepalive_requests 1000000000;";
const PASS: &str = "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host; \
                    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";

/// Writes both configurations and says how to start each.
pub(super) fn arguments(told: &Told<'_>, directory: &Path) -> anyhow::Result<Ends<Vec<String>>> {
    let Told { ports, backend, trust: Trust { root, caller, called }, .. } = told;
    let root = root.display();
    let out = format!(
        "  upstream to {{ server 127.0.0.1:{}; {KEPT} }}\n  server {{ listen 127.0.0.1:{}; location / {{ proxy_pass https://to; {PASS} \
         proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {}; proxy_ssl_certificate_key {}; proxy_ssl_trusted_certificate {root}; \
         proxy_ssl_verify on; proxy_ssl_name {NAME}; proxy_ssl_server_name on; }} }}\n",
        ports.called_http,
        ports.http,
        caller.chain.display(),
        caller.key.display()
    );
    let into = format!(
        "  upstream to {{ server 127.0.0.1:{backend}; {KEPT} }}\n  server {{ listen 127.0.0.1:{} ssl; ssl_protocols TLSv1.3; \
         ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {root}; ssl_verify_client on; \
         location / {{ proxy_pass http://to; {PASS} }} }}\n",
        ports.called_http,
        called.chain.display(),
        called.key.display()
    );
    Ok(Ends { caller: write(&directory.join("caller"), &out)?, called: write(&directory.join("called"), &into)? })
}

fn write(directory: &Path, servers: &str) -> anyhow::Result<Vec<String>> {
    fs::create_dir_all(directory)?;
    let file = directory.join("nginx.conf");
    fs::write(&file, wrap(directory, servers))?;
    Ok(vec!["-c".to_owned(), file.display().to_string(), "-p".to_owned(), directory.display().to_string()])
}
