//! Clients with a timetable: requests at a fixed rate, latency counted from the time at which each was due.
//!
//! Called by `load`. A closed loop waits for the slow answer and so hides the requests that it delayed; here they are late.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::client::Client;
use crate::load::Seen;
use crate::process::{LOAD_CORE, stay_on};

/// Runs the clients on the load core.
///
/// # Errors
/// When any request failed, or was answered with anything but 200.
pub(crate) fn run(url: &str, connections: u32, per_second: u32, length: Duration) -> anyhow::Result<Seen> {
    let address: SocketAddr =
        url.trim_start_matches("http://").trim_end_matches('/').parse().context("the URL names no address")?;
    let interval = Duration::from_secs(1) * connections / per_second;
    let begin = Instant::now() + Duration::from_millis(50);
    let logs: Vec<anyhow::Result<Vec<Duration>>> = thread::scope(|scope| {
        let clients: Vec<_> = (0..connections)
            .map(|at| {
                scope.spawn(move || ask_on_time(address, begin + interval * at / connections, interval, begin + length))
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap_or_else(|_| anyhow::bail!("a client panicked"))).collect()
    });
    let mut late = Vec::new();
    for log in logs {
        late.extend(log?);
    }
    ensure!(!late.is_empty(), "no request was answered");
    late.sort_unstable();
    let at = |percent: usize| {
        late.get((late.len() * percent / 100).min(late.len() - 1)).map(|time| time.as_secs_f64() * 1e6)
    };
    Ok(Seen {
        requests: late.len() as u64,
        per_second: late.len() as f64 / length.as_secs_f64(),
        middle: at(50),
        p99: at(99),
    })
}

/// One client: how late each answer was.
fn ask_on_time(address: SocketAddr, first: Instant, interval: Duration, end: Instant) -> anyhow::Result<Vec<Duration>> {
    stay_on(LOAD_CORE)?;
    let mut client = Client::connect(address)?;
    let mut late = Vec::new();
    let mut due = first;
    while due < end {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let answer = client.ask("localhost", "/")?;
        ensure!(answer.status == 200, "an answer has the status {}", answer.status);
        late.push(due.elapsed());
        if answer.closes {
            client = Client::connect(address)?;
        }
        due += interval;
    }
    Ok(late)
}
