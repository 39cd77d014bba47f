//! The loads: wrk and h2load, how they are called and what their reports say, and clients with a timetable of our own.
//!
//! Used by `scenarios`. A report with a single failed request is an error here: a fast error page wins
//! any benchmark.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::process::LOAD_CORE;
use crate::timetable;

/// What a load generator is asked to do.
#[derive(Debug, Clone)]
pub(crate) enum Load {
    /// wrk with this many connections and these extra header lines.
    Wrk { connections: usize, headers: &'static [&'static str] },
    /// wrk with this many connections, whose requests a script makes, and the header lines of one of them.
    Script { connections: usize, script: PathBuf, headers: Vec<String> },
    /// h2load with this many connections and streams on each.
    H2load { connections: usize, streams: usize },
    /// So many requests a second, each at its own time whatever became of those before, over this many connections.
    OnTime { connections: u32, per_second: u32 },
}

/// What a load generator saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    /// Median latency in microseconds. h2load reports a mean instead.
    pub(crate) middle: Option<f64>,
    /// 99th percentile in microseconds, where the tool reports it.
    pub(crate) p99: Option<f64>,
}

impl Load {
    /// Runs the generator on the load core.
    ///
    /// # Errors
    /// When it cannot be run or any request failed.
    pub(crate) fn run(&self, url: &str, length: Duration) -> anyhow::Result<Seen> {
        if let Self::OnTime { connections, per_second } = self {
            return timetable::run(url, *connections, *per_second, length);
        }
        let mut command = Command::new("taskset");
        command.args(["-c", &LOAD_CORE.to_string()]);
        match self {
            Self::Wrk { connections, headers } => {
                let seconds = length.as_secs().max(1);
                command.args(["wrk", "-t1", "--latency"]).args([format!("-c{connections}"), format!("-d{seconds}s")]);
                for header in *headers {
                    command.args(["-H", header]);
                }
            }
            Self::Script { connections, script, .. } => {
                let seconds = length.as_secs().max(1);
                command.args(["wrk", "-t1", "--latency"]).args([format!("-c{connections}"), format!("-d{seconds}s")]);
                command.arg("-s").arg(script);
            }
            Self::H2load { connections, streams } => {
                let seconds = length.as_secs_f64();
                command.args(["h2load", "-t1"]).args([
                    format!("-c{connections}"),
                    format!("-m{streams}"),
                    format!("-D{seconds}"),
                ]);
            }
            Self::OnTime { .. } => {}
        }
        let output = command.arg(url).output().context("cannot run the load generator")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "the load generator failed: {}", String::from_utf8_lossy(&output.stderr));
        let seen = match self {
            Self::Wrk { .. } | Self::Script { .. } | Self::OnTime { .. } => read_wrk(&text),
            Self::H2load { .. } => read_h2load(&text),
        };
        seen.with_context(|| format!("the load on {url} did not go well:\n{text}"))
    }
}

fn read_wrk(text: &str) -> anyhow::Result<Seen> {
    ensure!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "some requests failed");
    let requests = text
        .lines()
        .find_map(|line| line.split_once(" requests in "))
        .and_then(|(count, _)| count.trim().parse().ok())
        .context("no request count")?;
    let per_second = after(text, "Requests/sec:").and_then(|field| field.parse().ok()).context("no rate")?;
    Ok(Seen {
        requests,
        per_second,
        middle: after(text, "50%").and_then(microseconds),
        p99: after(text, "99%").and_then(microseconds),
    })
}

fn read_h2load(text: &str) -> anyhow::Result<Seen> {
    let line = text.lines().find(|line| line.starts_with("requests:")).context("no request count")?;
    let count = |what: &str| -> anyhow::Result<u64> {
        let fields: Vec<&str> = line.split([' ', ',']).filter(|field| !field.is_empty()).collect();
        let at = fields.iter().position(|field| *field == what).with_context(|| format!("no `{what}`"))?;
        fields.get(at.wrapping_sub(1)).and_then(|field| field.parse().ok()).with_context(|| format!("no `{what}`"))
    };
    ensure!(count("failed")? + count("errored")? + count("timeout")? == 0, "some requests failed");
    let requests = count("succeeded")?;
    let codes = text.lines().find(|line| line.starts_with("status codes:")).context("no status codes")?;
    ensure!(codes.contains(" 0 3xx, 0 4xx, 0 5xx"), "some answers were errors");
    let finished = text.lines().find(|line| line.starts_with("finished in")).context("no rate")?;
    let per_second = finished.split_whitespace().nth(3).and_then(|field| field.parse().ok()).context("no rate")?;
    let mean =
        text.lines().find(|line| line.starts_with("time for request:")).and_then(|line| line.split_whitespace().nth(5));
    Ok(Seen { requests, per_second, middle: mean.and_then(microseconds), p99: None })
}

/// The field that follows a label.
fn after<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.trim_start().starts_with(label))?;
    line.trim_start()[label.len()..].split_whitespace().next()
}

/// A duration such as `91.00us`, `1.20ms`, `0.98s` in microseconds.
fn microseconds(text: &str) -> Option<f64> {
    let split = text.find(|c: char| c.is_alphabetic())?;
    let value: f64 = text[..split].parse().ok()?;
    match &text[split..] {
        "us" => Some(value),
        "ms" => Some(value * 1e3),
        "s" => Some(value * 1e6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "  Latency Distribution\n     50%  812.00us\n     99%    1.20ms\n  1500 requests in 2.00s, 1.5MB read\nRequests/sec:    750.25\n";

    #[test]
    fn reads_a_report_of_wrk() {
        let seen = read_wrk(WRK).expect("a good report");
        assert_eq!(seen, Seen { requests: 1500, per_second: 750.25, middle: Some(812.0), p99: Some(1200.0) });
        assert!(read_wrk(&format!("{WRK}  Non-2xx or 3xx responses: 4\n")).is_err());
        assert!(read_wrk(&format!("{WRK}  Socket errors: connect 0, read 1, write 0, timeout 0\n")).is_err());
    }

    #[test]
    fn reads_a_report_of_h2load() {
        let text = |failed: u32, codes: &str| {
            format!(
                "finished in 2.00s, 5000.50 req/s, 5MB/s\nrequests: 10001 total, 10001 started, 10001 done, {} succeeded, {failed} failed, 0 errored, 0 timeout\nstatus codes: 10001 2xx, {codes}\ntime for request:      120us      9.00ms      1.50ms       300us    70.00%\n",
                10001 - failed
            )
        };
        let seen = read_h2load(&text(0, "0 3xx, 0 4xx, 0 5xx")).expect("a good report");
        assert_eq!(seen, Seen { requests: 10001, per_second: 5000.5, middle: Some(1500.0), p99: None });
        assert!(read_h2load(&text(1, "0 3xx, 0 4xx, 0 5xx")).is_err());
        assert!(read_h2load(&text(0, "0 3xx, 0 4xx, 9 5xx")).is_err());
    }
}
