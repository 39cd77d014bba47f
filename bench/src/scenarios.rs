//! The scenarios: what is asked of every peer, and one measurement of one peer.
//!
//! Called by `main` for each scenario. Closed-loop scenarios are here; memory, route tables and changes under load have
//! their own files.

use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::guards::{self, Guard};
use crate::load::Load;
use crate::options::Options;
use crate::peers::{Ports, Routes, Running};
use crate::process::{PROXY_CORE, core_busy};
use crate::report::{Results, Sample};
use crate::stage::Stage;
use crate::{change, memory, mesh, routes};

/// One comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    KeepAlive,
    KeepAliveTls,
    Handshakes,
    H2ToH1,
    H2ToH2,
    OnTime,
    Memory,
    Routes,
    Change,
    MeshHttp,
    MeshTcp,
    MeshBulk,
    MeshConnections,
    MeshOnTime,
    MeshMemory,
    MeshChange,
    Guarded(Guard),
}

impl Scenario {
    pub(crate) const ALL: [Self; 27] = [
        Self::KeepAlive,
        Self::KeepAliveTls,
        Self::Handshakes,
        Self::H2ToH1,
        Self::H2ToH2,
        Self::OnTime,
        Self::Memory,
        Self::Routes,
        Self::Change,
        Self::MeshHttp,
        Self::MeshTcp,
        Self::MeshBulk,
        Self::MeshConnections,
        Self::MeshOnTime,
        Self::MeshMemory,
        Self::MeshChange,
        Self::Guarded(Guard::ApiKey),
        Self::Guarded(Guard::Rs256),
        Self::Guarded(Guard::Es256),
        Self::Guarded(Guard::Es256Again),
        Self::Guarded(Guard::Limit),
        Self::Guarded(Guard::LimitManyKeys),
        Self::Guarded(Guard::External),
        Self::Guarded(Guard::SharedLimit),
        Self::Guarded(Guard::Hmac),
        Self::Guarded(Guard::Session),
        Self::Guarded(Guard::Expressions),
    ];

    /// # Errors
    /// When no scenario has the letter.
    pub(crate) fn named(letter: &str) -> anyhow::Result<Self> {
        match Self::ALL.into_iter().find(|scenario| scenario.letter() == letter) {
            Some(scenario) => Ok(scenario),
            None => bail!("`{letter}` is neither a scenario nor an option; see --help"),
        }
    }

    pub(crate) fn letter(self) -> &'static str {
        match self {
            Self::KeepAlive => "a",
            Self::KeepAliveTls => "b",
            Self::Handshakes => "c",
            Self::H2ToH1 => "d",
            Self::H2ToH2 => "e",
            Self::OnTime => "h",
            Self::Memory => "i",
            Self::Routes => "j",
            Self::Change => "k",
            Self::MeshHttp => "m",
            Self::MeshTcp => "n",
            Self::MeshBulk => "o",
            Self::MeshConnections => "p",
            Self::MeshOnTime => "q",
            Self::MeshMemory => "r",
            Self::MeshChange => "s",
            Self::Guarded(guard) => guard.letter(),
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::KeepAlive => "HTTP/1.1 keep-alive, 64 connections, 1 KiB",
            Self::KeepAliveTls => "HTTP/1.1 keep-alive under TLS 1.3, 64 connections, 1 KiB",
            Self::Handshakes => "a new connection with a full TLS handshake and one request, 32 at a time",
            Self::H2ToH1 => "HTTP/2 without TLS, 8 connections of 32 streams, to an HTTP/1.1 backend",
            Self::H2ToH2 => "HTTP/2 without TLS, 8 connections of 32 streams, to an HTTP/2 backend",
            Self::OnTime => {
                "HTTP/1.1, 10,000 requests per second over 64 connections, latency from the time a request was due"
            }
            Self::Memory => "proportional set size, idle and with idle keep-alive connections",
            Self::Routes => "1 and 5,000 routes, requests on the last one",
            Self::Change => "the backend is switched 3 times under 4,000 requests per second",
            Self::MeshHttp => "two proxies of a mesh, HTTP/1.1 keep-alive, 64 connections, 1 KiB",
            Self::MeshTcp => "two proxies of a mesh, the same bytes on a port whose protocol is not read",
            Self::MeshBulk => "two proxies of a mesh, bytes in bulk over one connection; the unit is MiB",
            Self::MeshConnections => {
                "two proxies of a mesh, a new connection for each request, 32 at a time, protocol not read"
            }
            Self::MeshOnTime => "two proxies of a mesh, HTTP/1.1, 4,000 requests per second over 64 connections",
            Self::MeshMemory => "memory of the proxy beside a program",
            Self::MeshChange => "a change on its way to simulated proxies",
            Self::Guarded(guard) => guard.title(),
        }
    }

    /// The load of a closed-loop scenario and the address it goes to.
    fn load(self, ports: Ports) -> Option<(Load, String)> {
        let wrk = |connections, headers| Load::Wrk { connections, headers };
        let h2load = || Load::H2load { connections: 8, streams: 32 };
        match self {
            Self::KeepAlive => Some((wrk(64, &[]), format!("http://127.0.0.1:{}/", ports.http))),
            Self::KeepAliveTls => Some((wrk(64, &[]), format!("https://127.0.0.1:{}/", ports.https))),
            Self::Handshakes => Some((wrk(32, &["Connection: close"]), format!("https://127.0.0.1:{}/", ports.https))),
            Self::H2ToH1 => Some((h2load(), format!("http://127.0.0.1:{}/", ports.h2))),
            Self::H2ToH2 => Some((h2load(), format!("http://127.0.0.1:{}/", ports.h2_to_h2))),
            Self::OnTime => {
                let load = Load::OnTime { connections: 64, per_second: 10_000 };
                Some((load, format!("http://127.0.0.1:{}/", ports.http)))
            }
            _ => None,
        }
    }
}

/// Runs one scenario on every peer.
///
/// # Errors
/// When a peer does not start, or any answer is not the backend's.
pub(crate) fn run(scenario: Scenario, options: &Options, stage: &Stage, results: &mut Results) -> anyhow::Result<()> {
    match scenario {
        Scenario::Memory => memory::run(options, stage, results),
        Scenario::Routes => routes::run(options, stage, results),
        Scenario::Change => change::run(options, stage, results),
        Scenario::Guarded(guard) => guards::run(guard, options, stage, results),
        scenario if scenario >= Scenario::MeshHttp => mesh::run(scenario, options, stage, results),
        _ => closed_loop(scenario, options, stage, results),
    }
}

fn closed_loop(scenario: Scenario, options: &Options, stage: &Stage, results: &mut Results) -> anyhow::Result<()> {
    let mut running = Vec::new();
    for (slot, peer) in (0..).zip(&options.peers) {
        let directory = stage.directory(&format!("{}-{}", scenario.letter(), peer.kind.name()));
        running.push(Running::start(peer, &stage.plan(slot, Routes::Any), &directory)?);
    }
    let jobs: Vec<Job<'_>> = running
        .iter()
        .filter_map(|running| {
            let (load, url) = scenario.load(running.ports)?;
            Some(Job { running, label: running.name().to_owned(), load, url })
        })
        .collect();
    measure(scenario, &jobs, options, results)
}

/// One peer under one load.
pub(crate) struct Job<'a> {
    pub(crate) running: &'a Running,
    pub(crate) label: String,
    pub(crate) load: Load,
    pub(crate) url: String,
}

/// Warms every job up, then measures all of them in turn, the order reversed in every second round.
///
/// # Errors
/// When any answer is not the backend's.
pub(crate) fn measure(
    scenario: Scenario,
    jobs: &[Job<'_>],
    options: &Options,
    results: &mut Results,
) -> anyhow::Result<()> {
    for job in jobs {
        check(job)?;
        job.load.run(&job.url, options.length.min(std::time::Duration::from_secs(1)))?;
    }
    for round in 0..options.rounds {
        let mut order: Vec<&Job<'_>> = jobs.iter().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for job in order {
            let sample =
                once(job, options).with_context(|| format!("{} in scenario {}", job.label, scenario.letter()))?;
            eprintln!(
                "  round {} {:<14} {:8.2} µs/request {:9.0}/s",
                round + 1,
                job.label,
                sample.cpu_per_request,
                sample.per_second
            );
            results.add(scenario, &job.label, sample);
        }
    }
    Ok(())
}

fn once(job: &Job<'_>, options: &Options) -> anyhow::Result<Sample> {
    let (cpu, busy, begin) = (job.running.process.cpu()?, core_busy(PROXY_CORE)?, std::time::Instant::now());
    let seen = job.load.run(&job.url, options.length)?;
    let (cpu, busy, length) =
        (job.running.process.cpu()? - cpu, core_busy(PROXY_CORE)?.saturating_sub(busy), begin.elapsed());
    ensure!(seen.requests > 0, "no request was answered");
    Ok(Sample {
        cpu_per_request: cpu.as_secs_f64() * 1e6 / seen.requests as f64,
        per_second: seen.per_second,
        middle: seen.middle,
        p99: seen.p99,
        core: busy.as_secs_f64() / length.as_secs_f64(),
    })
}

/// Looks at one answer with curl: status and length must be the backend's.
fn check(job: &Job<'_>) -> anyhow::Result<()> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--insecure", "--output", "/dev/null", "--max-time", "5"]);
    command.args(["--write-out", "%{http_code} %{size_download}"]);
    match &job.load {
        Load::H2load { .. } => {
            command.arg("--http2-prior-knowledge");
        }
        Load::Wrk { headers, .. } => {
            for header in *headers {
                command.args(["--header", header]);
            }
        }
        Load::Script { headers, .. } => {
            for header in headers {
                command.args(["--header", header]);
            }
        }
        Load::OnTime { .. } => {}
    }
    let output = command.arg(&job.url).output().context("cannot run curl")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        said == "200 1024",
        "{} answered `{said}` instead of 200 with 1024 bytes: {}",
        job.label,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
