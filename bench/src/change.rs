//! Scenario k: the backend is switched while clients ask at a fixed rate.
//!
//! Called by `scenarios`. Open loop: every client has its own timetable and latency counts from the time a request was due,
//! so that a pause of the peer is not hidden by clients that wait for it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::client::{Answer, Client};
use crate::options::Options;
use crate::peers::{Mode, Plan, Routes, Running};
use crate::report::{Change, Results};
use crate::stage::{BACKEND_SECOND, Stage};

const CLIENTS: u32 = 32;
const REQUESTS_PER_SECOND: u32 = 4_000;
const SWITCHES: usize = 3;
/// Time before the first switch and after each.
const SETTLE: Duration = Duration::from_millis(1_500);

pub(crate) fn run(options: &Options, stage: &Stage, results: &mut Results) -> anyhow::Result<()> {
    for round in 0..options.rounds {
        for peer in &options.peers {
            let directory = stage.directory(&format!("k{round}-{}", peer.kind.name()));
            let running = Running::start(peer, &plan(stage), &directory)?;
            let change = once(&running, stage).with_context(|| format!("{} under change", running.name()))?;
            eprintln!(
                "  round {} {:<14} effective after {:.1?} ms, {} failed and {} closed of {}",
                round + 1,
                running.name(),
                change.effective.iter().map(|time| time.as_secs_f64() * 1e3).collect::<Vec<_>>(),
                change.failed,
                change.closed,
                change.requests
            );
            results.add_change(running.name(), change);
        }
    }
    Ok(())
}

fn plan(stage: &Stage) -> Plan<'_> {
    Plan { mode: Mode::Reloadable, ..stage.plan(0, Routes::Any) }
}

/// What one client saw.
#[derive(Default)]
struct Log {
    /// When an answer came, from which backend, and how long after it was due.
    answers: Vec<(Instant, u8, Duration)>,
    failed: u64,
    closed: u64,
}

fn once(running: &Running, stage: &Stage) -> anyhow::Result<Change> {
    let stop = AtomicBool::new(false);
    let address = running.ports.http_address();
    let (logs, switches) = thread::scope(|scope| -> anyhow::Result<_> {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|at| {
                scope.spawn({
                    let stop = &stop;
                    move || ask_on_time(address, at, stop)
                })
            })
            .collect();
        let switches = switch(running, stage);
        stop.store(true, Ordering::Relaxed);
        let logs: Vec<Log> = clients.into_iter().filter_map(|client| client.join().ok()).collect();
        Ok((logs, switches?))
    })?;
    ensure!(logs.len() == CLIENTS as usize, "a client ended early");
    let mut effective = Vec::new();
    for (at, letter) in switches {
        let first = logs
            .iter()
            .flat_map(|log| &log.answers)
            .filter(|(when, from, _)| *when > at && *from == letter)
            .map(|(when, ..)| *when)
            .min();
        effective.push(first.context("the switch never took effect")? - at);
    }
    let mut latencies: Vec<Duration> = logs.iter().flat_map(|log| log.answers.iter().map(|(.., late)| *late)).collect();
    latencies.sort();
    Ok(Change {
        effective,
        failed: logs.iter().map(|log| log.failed).sum(),
        closed: logs.iter().map(|log| log.closed).sum(),
        requests: latencies.len() as u64,
        p99: latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default(),
        max: latencies.last().copied().unwrap_or_default(),
    })
}

/// Switches to and fro; returns when each switch began and which letter the new backend answers with.
fn switch(running: &Running, stage: &Stage) -> anyhow::Result<Vec<(Instant, u8)>> {
    let mut switches = Vec::new();
    thread::sleep(SETTLE);
    for at in 0..SWITCHES {
        let mut plan = plan(stage);
        let letter = if at % 2 == 0 {
            plan.backend = BACKEND_SECOND;
            b'b'
        } else {
            b'a'
        };
        switches.push((Instant::now(), letter));
        running.switch(&plan)?;
        thread::sleep(SETTLE);
    }
    Ok(switches)
}

fn ask_on_time(address: SocketAddr, client: u32, stop: &AtomicBool) -> Log {
    let mut log = Log::default();
    let interval = Duration::from_secs(1) * CLIENTS / REQUESTS_PER_SECOND;
    let mut due = Instant::now() + interval * client / CLIENTS;
    let mut connection: Option<Client> = None;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let answer = match connection.take() {
            // A server may close an idle connection at any time; a client then asks again on a new one.
            Some(open) => ask(open).or_else(|_| {
                log.closed += 1;
                ask(Client::connect(address)?)
            }),
            None => Client::connect(address).and_then(ask),
        };
        match answer {
            Ok((answer, open)) if answer.status == 200 && !answer.body.is_empty() => {
                log.answers.push((Instant::now(), answer.body[0], due.elapsed()));
                if answer.closes {
                    log.closed += 1;
                } else {
                    connection = Some(open);
                }
            }
            _ => log.failed += 1,
        }
        due += interval;
    }
    log
}

fn ask(mut open: Client) -> anyhow::Result<(Answer, Client)> {
    Ok((open.ask("localhost", "/")?, open))
}
