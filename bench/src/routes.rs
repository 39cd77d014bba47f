//! Scenario j: what 5,000 routes cost beside one: memory, start and CPU per request on the last route.
//!
//! Called by `scenarios`. Each peer first starts alone with each of the two tables, because processes of one program share the
//! pages of its file and would share the bill too; then it runs with both at once, and the load goes to them in turn.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::client::Client;
use crate::load::Load;
use crate::options::{Options, Peer};
use crate::peers::{Plan, Ports, Routes, Running};
use crate::report::{Results, Start};
use crate::scenarios::{Job, Scenario, measure};
use crate::stage::Stage;

/// How long a peer may take until it answers on its last route.
const PATIENCE: Duration = Duration::from_secs(30);
/// After this long an allocator has given back what only the start needed.
const REST: Duration = Duration::from_secs(3);

pub(crate) fn run(options: &Options, stage: &Stage, results: &mut Results) -> anyhow::Result<()> {
    let tables = [
        ("1", Routes::Table { hosts: 1, prefixes: 1 }),
        ("5000", Routes::Table { hosts: Routes::HOSTS, prefixes: Routes::PREFIXES }),
    ];
    let mut running = Vec::new();
    for peer in &options.peers {
        for (name, routes) in tables {
            let label = format!("{} {name}", peer.kind.name());
            let plan = stage.plan(u16::try_from(running.len())?, routes);
            results.add_start(&label, start_alone(peer, &plan, &label, stage)?);
        }
        for (name, routes) in tables {
            let slot = u16::try_from(running.len())?;
            let label = format!("{} {name}", peer.kind.name());
            let plan = stage.plan(slot, routes);
            let one = Running::launch(peer, &plan, &stage.directory(&format!("j-{slot}")))?;
            until_answered(plan.ports, &label)?;
            running.push((label, one));
        }
    }
    let jobs: Vec<Job<'_>> = running
        .iter()
        .map(|(label, running)| Job {
            running,
            label: label.clone(),
            load: Load::Wrk { connections: 64, headers: &["Host: h499.test"] },
            url: format!("http://127.0.0.1:{}{}", running.ports.http, Routes::LAST_PATH),
        })
        .collect();
    measure(Scenario::Routes, &jobs, options, results)
}

/// Starts a peer that nothing else of its program runs beside, until it answers on its last route and has come to rest.
fn start_alone(peer: &Peer, plan: &Plan<'_>, label: &str, stage: &Stage) -> anyhow::Result<Start> {
    let begin = Instant::now();
    let one = Running::launch(peer, plan, &stage.directory("j-alone"))?;
    until_answered(plan.ports, label)?;
    let (ready, memory) = (begin.elapsed(), one.process.memory()?);
    std::thread::sleep(REST);
    let start = Start { ready, memory, at_rest: one.process.memory()? };
    eprintln!(
        "  {label:<14} {:.0} ms to the first answer, {:.1} MiB then, {:.1} MiB at rest",
        start.ready.as_secs_f64() * 1e3,
        start.memory as f64 / 1024.0,
        start.at_rest as f64 / 1024.0
    );
    Ok(start)
}

/// Asks for the last route until the backend answers.
fn until_answered(ports: Ports, label: &str) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        if let Ok(mut client) = Client::connect(ports.http_address())
            && let Ok(answer) = client.ask(Routes::LAST_HOST, Routes::LAST_PATH)
            && answer.status == 200
        {
            return Ok(());
        }
        ensure!(begin.elapsed() < PATIENCE, "{label} does not answer on its last route");
        std::thread::sleep(Duration::from_millis(1));
    }
}
