//! Scenario j: what 5,000 routes cost beside one: memory, start and CPU per request on the last route.
//!
//! Called by `scenarios`. Each peer runs twice at once, with the small and with the large table, and is measured in turn.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::client::Client;
use crate::load::Load;
use crate::options::Options;
use crate::peers::{Ports, Routes, Running};
use crate::report::{Results, Start};
use crate::scenarios::{Job, Scenario, measure};
use crate::stage::Stage;

/// How long a peer may take until it answers on its last route.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(options: &Options, stage: &Stage, results: &mut Results) -> anyhow::Result<()> {
    let tables = [
        ("1", Routes::Table { hosts: 1, prefixes: 1 }),
        ("5000", Routes::Table { hosts: Routes::HOSTS, prefixes: Routes::PREFIXES }),
    ];
    let mut running = Vec::new();
    for peer in &options.peers {
        for (name, routes) in tables {
            let slot = u16::try_from(running.len())?;
            let label = format!("{} {name}", peer.kind.name());
            let plan = stage.plan(slot, routes);
            let begin = Instant::now();
            let one = Running::launch(peer, &plan, &stage.directory(&format!("j-{slot}")))?;
            until_answered(plan.ports, &label)?;
            let start = Start { ready: begin.elapsed(), memory: one.process.memory()? };
            eprintln!(
                "  {label:<14} {:.0} ms to the first answer, {:.1} MiB",
                start.ready.as_secs_f64() * 1e3,
                start.memory as f64 / 1024.0
            );
            results.add_start(&label, start);
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
