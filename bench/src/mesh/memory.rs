//! Scenario r: memory of a proxy that stands beside a program: idle, and with many endpoints known.
//!
//! Called by `mesh`. Only the caller's proxy is looked at, after some requests and a rest; it runs on one core and so with one worker.
//! Our sidecar asks for what its program calls, so that with many Services each is called once; nobody is behind their endpoints.
//! Resident pages of the program's file count in full, although all processes of one program share them; the proportional size counts
//! them in shares, here with the control plane and the other sidecar.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::certificates::Trust;
use super::control::until_answered;
use super::envoy::{self, Manner};
use super::report::{Meshed, Weight};
use super::world::Crowd;
use super::{Pair, PairPorts, SERVICES, SOURCE, Told};
use crate::client::Client;
use crate::options::Options;
use crate::peers::Kind;
use crate::stage::BACKEND;

/// After this long everybody has given back what only the start needed, and says once more that he lives.
const REST: Duration = Duration::from_secs(12);
/// How long a call lasts that only tells the sidecar of a Service.
const GLANCE: Duration = Duration::from_millis(50);
/// Connections with one request each between two rests, so that what requests need is there.
const REQUESTS: usize = 100;

pub(super) fn run(options: &Options, at: &Path, results: &mut Meshed) -> anyhow::Result<()> {
    let crowds = [
        Crowd { services: 0, endpoints_of_each: 0 },
        Crowd { services: 1, endpoints_of_each: options.endpoints },
        Crowd { services: options.endpoints.div_ceil(10), endpoints_of_each: 10 },
    ];
    let trust = Trust::make(&at.join("trust"))?;
    let ports = PairPorts::of(0);
    for peer in &options.peers {
        for (number, crowd) in crowds.into_iter().enumerate() {
            let at = at.join(format!("{}-{number}", peer.kind.name()));
            std::fs::create_dir_all(&at)?;
            let pair = match peer.kind {
                Kind::Transept => {
                    let mut files = crowd.files(name);
                    files.push(("services.yaml".to_owned(), SERVICES.to_owned()));
                    Pair::sidecars(peer, ports, &at, &files, &interest(crowd, ports))?
                }
                Kind::Envoy => {
                    let told = Told { ports, backend: BACKEND, source: SOURCE, trust: &trust };
                    let arguments = envoy::arguments(Manner::Tunnels, &told, crowd, &at)?;
                    Pair::start(peer.kind.name(), peer, ports, &arguments, &at)?
                }
                Kind::Nginx | Kind::Haproxy => continue,
            };
            until_answered(ports.http)?;
            if peer.kind == Kind::Transept {
                call_all(crowd, ports)?;
            }
            std::thread::sleep(REST);
            for _ in 0..REQUESTS {
                until_answered(ports.http)?;
            }
            std::thread::sleep(REST);
            let Some(proxies) = &pair.proxies else { continue };
            let pages = proxies.caller.pages()?;
            eprintln!(
                "  {:<10} {:<32} {:.1} MiB resident, {:.1} anonymous, {:.1} proportional",
                pair.label,
                crowd.label(),
                pages.resident as f64 / 1024.0,
                pages.anonymous as f64 / 1024.0,
                pages.proportional as f64 / 1024.0
            );
            results.weights.push(Weight { label: pair.label.clone(), known: crowd.label(), pages });
        }
    }
    Ok(())
}

/// What makes a sidecar ask for a crowd: one upstream, of which it holds everything, or being a proxy to every service, of which it holds
/// the names until they are called.
fn interest(crowd: Crowd, ports: PairPorts) -> Vec<String> {
    match crowd.services {
        0 => Vec::new(),
        1 => vec![format!("--upstream={}:80=127.0.0.1:{}", name(0), ports.called_http)],
        _ => vec![format!("--http-proxy=127.0.0.1:{}", ports.called_http)],
    }
}

fn name(service: usize) -> String {
    format!("big-{service}")
}

/// Calls every Service once, where that is what makes a sidecar hold it, and makes sure that it holds all endpoints.
fn call_all(crowd: Crowd, ports: PairPorts) -> anyhow::Result<()> {
    if crowd.services > 1 {
        for service in (0..crowd.services).map(name) {
            // Nobody is there, which takes its time to be found out: ten endpoints, and a budget for retries. It is enough to have called.
            let mut client = Client::connect_for(local(ports.called_http), GLANCE)?;
            if let Ok(answer) = client.ask(&service, &format!("http://{service}/")) {
                ensure!(answer.status == 503, "{service} answers {}, and nobody is there", answer.status);
            }
        }
        std::thread::sleep(REST);
    }
    let host = local(ports.admin);
    let answer = Client::connect(host)?.ask(&host.to_string(), "/status")?;
    let status: Value = serde_json::from_slice(&answer.body).context("the status of the sidecar")?;
    let held = status["mesh"]["holds"]["endpoints"].as_u64().context("the status tells of no endpoints")?;
    let crowded = u64::try_from(crowd.services * crowd.endpoints_of_each)?;
    // Beside those of the crowd: the backend and the sidecar's own, when it is called.
    ensure!((crowded..=crowded + 2).contains(&held), "the sidecar holds {held} endpoints and not {crowded}");
    eprintln!("  the sidecar holds {held} endpoints");
    Ok(())
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
