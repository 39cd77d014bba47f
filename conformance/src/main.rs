//! `transept-conformance`: replays the Gateway API conformance suite against the real binary, from files, without Kubernetes.
//!
//! It reads the suite, sets the scene of each case with echo servers on loopback addresses, starts `transept run` on it, replays
//! the steps, and prints a table by profile. Mesh cases have one scene of network namespaces (`mesh`). It exits with 0 when nothing failed, 1 when something did, 2 when it could not run.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use futures_util::StreamExt as _;
use tokio::time::Instant;
use transept_testkit::launch::find_binary;

use crate::case::CaseKind;
use crate::certificates::CertificateStore;
use crate::namespace::Network;
use crate::options::Options;
use crate::report::{CaseReport, Report, StepTimes, print_case};
use crate::run::Run;
use crate::scope::{Decision, Selection, decide};
use crate::suite::Suite;

mod addresses;
mod case;
mod certificates;
mod compare;
mod converge;
mod mesh;
mod namespace;
mod options;
mod patch;
mod report;
mod run;
mod scene;
mod scope;
mod steps;
mod suite;
mod topology;
mod world;

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match options.inside {
        true => mesh::inside::attend().map(|()| ExitCode::SUCCESS),
        false => start(&options),
    };
    match outcome {
        Ok(code) => code,
        Err(why) => {
            // Nobody is left to tell when this fails too.
            let _written = writeln!(std::io::stderr(), "transept-conformance: {why:#}");
            ExitCode::from(2)
        }
    }
}

fn start(options: &Options) -> Result<ExitCode> {
    let mut out = std::io::stdout();
    let root = options.suite.clone().unwrap_or_else(Suite::usual_root);
    if !root.join("cases").is_dir() {
        let required = options.require && std::env::var_os("TRANSEPT_REQUIRE_ALL").is_some_and(|value| value == "1");
        let word = if required { "missing" } else { "skipped" };
        writeln!(out, "conformance {word}: there is no suite at {}", root.display())?;
        return Ok(if required { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    let suite = Suite::load(&root)?;
    if options.list {
        list(&suite, &options.selection(), &mut out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let network = if options.host_network { Network::Machine } else { namespace::enter()? };
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(run(&suite, options, network))?;
    report.print(&mut out)?;
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json).with_context(|| path.display().to_string())?;
    }
    Ok(if report.total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The selected cases with their numbers; a number depends on the suite alone, never on the selection.
fn selected<'a>(
    suite: &'a Suite,
    selection: &'a Selection,
) -> impl Iterator<Item = (u8, &'a case::Case, Decision)> + 'a {
    let numbered = (1..=u8::MAX).zip(&suite.cases);
    numbered
        .filter(|(_, case)| selection.takes(case))
        .map(|(number, case)| (number, case, decide(case, selection.names(case))))
}

fn list(suite: &Suite, selection: &Selection, out: &mut impl std::io::Write) -> Result<()> {
    for (_, case, decision) in selected(suite, selection) {
        match decision {
            Decision::Replay(steps) => writeln!(out, "replay  {} ({} steps)", case.name, steps.len())?,
            Decision::NothingToDo(why) => writeln!(out, "nothing {} ({why})", case.name)?,
            Decision::NotInScope(why) => writeln!(out, "out     {} ({why})", case.name)?,
        }
    }
    Ok(())
}

async fn run(suite: &Suite, options: &Options, network: Network) -> Result<Report> {
    let start = Instant::now();
    let binary = match &options.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => find_binary()?,
    };
    let certificates = CertificateStore::make(&suite.topology.certificates)?;
    let temporary = tempfile::tempdir()?;
    let run = Run {
        suite,
        certificates: &certificates,
        binary,
        directory: options.keep.as_deref().unwrap_or_else(|| temporary.path()),
        workers: options.workers,
        patience: options.patience(),
        apiserver_steps: options.apiserver_steps,
    };
    let jobs = match options.jobs {
        Some(jobs) => jobs.max(1),
        None => std::thread::available_parallelism()?.get(),
    };
    let times = if options.times { StepTimes::Shown } else { StepTimes::Hidden };
    let selection = options.selection();
    let mut reports = Vec::new();
    let mut keep = |report: CaseReport| {
        print_case(&report, times, &mut std::io::stdout())?;
        reports.push(report);
        anyhow::Ok(())
    };
    let (mut of_gateways, mut of_the_mesh) = (Vec::new(), Vec::new());
    for (number, case, decision) in selected(suite, &selection) {
        match decision {
            Decision::Replay(steps) if case.kind == CaseKind::Mesh => of_the_mesh.push((case, steps)),
            decision => of_gateways.push(run.case(number, case, decision)),
        }
    }
    let mut ended = futures_util::stream::iter(of_gateways).buffer_unordered(jobs);
    while let Some(report) = ended.next().await {
        keep(report)?;
    }
    if !of_the_mesh.is_empty() {
        mesh::run_all(&run, network, of_the_mesh, keep).await?;
    }
    let binary = run.binary.display().to_string();
    Ok(Report::new(binary, start.elapsed().as_secs_f64(), reports))
}
