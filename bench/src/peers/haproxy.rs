//! haproxy as a peer: one thread; master and worker where it must be able to reload.
//!
//! Called by `peers`.

use std::fmt::Write as _;
use std::path::Path;

use super::{Mode, Plan, Routes};

/// Writes the configuration of the peer and says how to start it.
pub(super) fn arguments(plan: &Plan<'_>, directory: &Path) -> anyhow::Result<Vec<String>> {
    let map = directory.join("routes.map");
    let mut table = String::new();
    let mut choice = "default_backend h1".to_owned();
    if let Routes::Table { hosts, prefixes } = plan.routes {
        for (host, paths) in Routes::table(hosts, prefixes) {
            for path in paths {
                let _ = writeln!(table, "{host}{path} h1");
            }
        }
        choice = format!("use_backend %[base,map_beg({})]", map.display());
    }
    super::replace(&map, &table)?;
    let file = directory.join("haproxy.cfg");
    super::replace(&file, &configuration(plan, &choice))?;
    let mut arguments = vec!["-db".to_owned(), "-f".to_owned(), file.display().to_string()];
    if plan.mode == Mode::Reloadable {
        arguments.push("-W".to_owned());
    }
    Ok(arguments)
}

fn configuration(plan: &Plan<'_>, choice: &str) -> String {
    let Plan { ports, backend, backend_h2, certificate, .. } = *plan;
    let both = certificate.both.display();
    format!(
        "global\n  nbthread 1\n  no strict-limits\n  maxconn 11000\n  ssl-default-bind-options ssl-min-ver TLSv1.2\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n  option forwardfor\n  http-reuse always\n\
         frontend http\n  bind 127.0.0.1:{http}\n  {choice}\n\
         frontend https\n  bind 127.0.0.1:{https} ssl crt {both} alpn http/1.1\n  default_backend h1\n\
         frontend h2\n  bind 127.0.0.1:{h2} proto h2\n  default_backend h1\n\
         frontend h2h2\n  bind 127.0.0.1:{h2_to_h2} proto h2\n  default_backend h2\n\
         backend h1\n  server b 127.0.0.1:{backend}\n\
         backend h2\n  server b 127.0.0.1:{backend_h2} proto h2\n",
        http = ports.http,
        https = ports.https,
        h2 = ports.h2,
        h2_to_h2 = ports.h2_to_h2,
    )
}
