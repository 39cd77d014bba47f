//! What was measured, as a table with ratios to each peer and as JSON with every sample.
//!
//! Filled by the scenarios, printed by `main`. Medians and half-spreads; no figure is compared with one of another run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::mesh::Meshed;
use crate::options::Options;
use crate::scenarios::Scenario;
use crate::stage::Stage;

/// One closed-loop measurement of one peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// CPU time of the process tree per answered request, in microseconds.
    pub(crate) cpu_per_request: f64,
    pub(crate) per_second: f64,
    /// Median latency in microseconds; h2load's is a mean.
    pub(crate) middle: Option<f64>,
    /// 99th percentile in microseconds.
    pub(crate) p99: Option<f64>,
    /// Busy share of the proxy's core, 0 to 1.
    pub(crate) core: f64,
}

/// Memory of one peer, in KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) idle: u64,
    pub(crate) loaded: u64,
    pub(crate) connections: usize,
}

impl Memory {
    /// KiB per idle connection.
    pub(crate) fn per_connection(self) -> f64 {
        self.loaded.saturating_sub(self.idle) as f64 / self.connections.max(1) as f64
    }
}

/// The start of one peer with a table of routes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) ready: Duration,
    /// At the first answer, in KiB.
    pub(crate) memory: u64,
    /// A few seconds later, in KiB.
    pub(crate) at_rest: u64,
}

/// One peer under a change of configuration.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// From each switch to the first answer of the new backend.
    pub(crate) effective: Vec<Duration>,
    pub(crate) failed: u64,
    /// Client connections that the peer closed.
    pub(crate) closed: u64,
    pub(crate) requests: u64,
    /// From the time a request was due.
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

/// All results of one run.
#[derive(Debug)]
pub(crate) struct Results {
    machine: String,
    versions: Vec<(String, String)>,
    /// Peers in the order of the command line.
    samples: BTreeMap<Scenario, Vec<(String, Vec<Sample>)>>,
    memory: Vec<(String, Memory)>,
    starts: Vec<(String, Start)>,
    changes: Vec<(String, Vec<Change>)>,
    pub(crate) mesh: Meshed,
}

impl Results {
    pub(crate) fn new(options: &Options, _stage: &Stage) -> Self {
        Self {
            machine: machine(),
            versions: options.peers.iter().map(|peer| (peer.kind.name().to_owned(), peer.version.clone())).collect(),
            samples: BTreeMap::new(),
            memory: Vec::new(),
            starts: Vec::new(),
            changes: Vec::new(),
            mesh: Meshed::default(),
        }
    }

    pub(crate) fn add(&mut self, scenario: Scenario, label: &str, sample: Sample) {
        append(self.samples.entry(scenario).or_default(), label, sample);
    }

    pub(crate) fn add_memory(&mut self, label: &str, memory: Memory) {
        self.memory.push((label.to_owned(), memory));
    }

    pub(crate) fn add_start(&mut self, label: &str, start: Start) {
        self.starts.push((label.to_owned(), start));
    }

    pub(crate) fn add_change(&mut self, label: &str, change: Change) {
        append(&mut self.changes, label, change);
    }

    /// The tables as Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{}\n", self.machine);
        for (name, version) in &self.versions {
            let _ = writeln!(text, "{name}: {version}");
        }
        for (scenario, peers) in &self.samples {
            let _ = write!(text, "\n{}) {}\n\n", scenario.letter(), scenario.title());
            closed_loop(peers, &mut text);
        }
        self.memory_table(&mut text);
        self.start_table(&mut text);
        self.change_table(&mut text);
        self.mesh.table(&mut text);
        text
    }

    fn memory_table(&self, text: &mut String) {
        if self.memory.is_empty() {
            return;
        }
        let _ = write!(
            text,
            "\ni) {}\n\n| | idle MiB | connections | MiB | KiB per connection |\n|---|---|---|---|---|\n",
            Scenario::Memory.title()
        );
        for (label, memory) in &self.memory {
            let (idle, loaded) = (memory.idle as f64 / 1024.0, memory.loaded as f64 / 1024.0);
            let _ = writeln!(
                text,
                "| {label} | {idle:.1} | {} | {loaded:.1} | {:.2} |",
                memory.connections,
                memory.per_connection()
            );
        }
    }

    fn start_table(&self, text: &mut String) {
        if self.starts.is_empty() {
            return;
        }
        text.push_str("\nj) start\n\n| | ms to the first answer on the last route | MiB then | MiB at rest |\n|---|---|---|---|\n");
        for (label, start) in &self.starts {
            let _ = writeln!(
                text,
                "| {label} | {:.0} | {:.1} | {:.1} |",
                start.ready.as_secs_f64() * 1e3,
                start.memory as f64 / 1024.0,
                start.at_rest as f64 / 1024.0
            );
        }
    }

    fn change_table(&self, text: &mut String) {
        if self.changes.is_empty() {
            return;
        }
        let _ = write!(
            text,
            "\nk) {}\n\n| | effective after ms | failed | closed | requests | p99 µs | max µs |\n|---|---|---|---|---|---|---|\n",
            Scenario::Change.title()
        );
        for (label, changes) in &self.changes {
            let mut times: Vec<f64> =
                changes.iter().flat_map(|change| &change.effective).map(|time| time.as_secs_f64() * 1e3).collect();
            times.sort_by(f64::total_cmp);
            let sum = |count: fn(&Change) -> u64| changes.iter().map(count).sum::<u64>();
            let p99 = changes.iter().map(|change| change.p99.as_micros()).max().unwrap_or_default();
            let max = changes.iter().map(|change| change.max.as_micros()).max().unwrap_or_default();
            let _ = writeln!(
                text,
                "| {label} | {:.1} to {:.1} | {} | {} | {} | {p99} | {max} |",
                times.first().copied().unwrap_or_default(),
                times.last().copied().unwrap_or_default(),
                sum(|change| change.failed),
                sum(|change| change.closed),
                sum(|change| change.requests)
            );
        }
    }

    /// Every sample.
    pub(crate) fn json(&self) -> String {
        let samples: BTreeMap<&str, BTreeMap<&str, Value>> = self
            .samples
            .iter()
            .map(|(scenario, peers)| {
                let peers = peers
                    .iter()
                    .map(|(label, samples)| (label.as_str(), samples.iter().map(sample_json).collect()))
                    .collect();
                (scenario.letter(), peers)
            })
            .collect();
        let memory: Vec<Value> = self
            .memory
            .iter()
            .map(|(label, memory)| json!({ "peer": label, "idle_kib": memory.idle, "loaded_kib": memory.loaded, "connections": memory.connections }))
            .collect();
        let starts: Vec<Value> = self
            .starts
            .iter()
            .map(|(label, start)| json!({ "peer": label, "ready_ms": start.ready.as_secs_f64() * 1e3, "memory_kib": start.memory, "at_rest_kib": start.at_rest }))
            .collect();
        let changes: Vec<Value> = self
            .changes
            .iter()
            .flat_map(|(label, changes)| changes.iter().map(move |change| change_json(label, change)))
            .collect();
        let versions: BTreeMap<&str, &str> =
            self.versions.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect();
        let all = json!({
            "machine": self.machine, "versions": versions, "samples": samples, "memory": memory, "starts": starts, "changes": changes,
            "mesh": self.mesh.json(),
        });
        format!("{all:#}\n")
    }
}

pub(crate) fn append<T>(to: &mut Vec<(String, Vec<T>)>, label: &str, item: T) {
    match to.iter_mut().find(|(known, _)| known == label) {
        Some((_, items)) => items.push(item),
        None => to.push((label.to_owned(), vec![item])),
    }
}

fn closed_loop(peers: &[(String, Vec<Sample>)], text: &mut String) {
    let cpu: Vec<(f64, f64)> =
        peers.iter().map(|(_, samples)| spread(samples, |sample| Some(sample.cpu_per_request))).collect();
    text.push_str("| | CPU µs/request |");
    let rivals: Vec<usize> = (0..peers.len()).filter(|at| !peers[*at].0.starts_with("transept")).collect();
    for rival in &rivals {
        let _ = write!(text, " vs {} |", peers[*rival].0);
    }
    text.push_str(" requests/s | median µs | p99 µs | core busy |\n|---|---|");
    text.push_str(&"---|".repeat(rivals.len() + 4));
    text.push('\n');
    for ((label, samples), (middle, half)) in peers.iter().zip(&cpu) {
        let _ = write!(text, "| {label} | {middle:.2} ±{:.0} % |", 100.0 * half / middle);
        for rival in &rivals {
            let _ = write!(text, " {:.2} |", middle / cpu[*rival].0);
        }
        let figure = |value: fn(&Sample) -> Option<f64>| with_ratios(peers, &rivals, spread(samples, value).0, value);
        let _ = writeln!(
            text,
            " {} | {} | {} | {:.0} % |",
            figure(|sample| Some(sample.per_second)),
            figure(|sample| sample.middle),
            figure(|sample| sample.p99),
            100.0 * spread(samples, |sample| Some(sample.core)).0
        );
    }
    text.push_str("\nIn parentheses: the same as ratios to each peer, in the order of the columns.\n");
}

/// A figure, and behind it its ratio to that of each rival.
fn with_ratios(
    peers: &[(String, Vec<Sample>)],
    rivals: &[usize],
    own: f64,
    value: fn(&Sample) -> Option<f64>,
) -> String {
    if own.is_nan() {
        return "-".to_owned();
    }
    let ratios: Vec<String> =
        rivals.iter().map(|rival| format!("{:.2}", own / spread(&peers[*rival].1, value).0)).collect();
    if ratios.is_empty() { format!("{own:.0}") } else { format!("{own:.0} ({})", ratios.join(", ")) }
}

/// Median and half of the distance between the extremes; not a number when nothing was measured.
pub(crate) fn spread<T>(samples: &[T], value: impl Fn(&T) -> Option<f64>) -> (f64, f64) {
    let mut values: Vec<f64> = samples.iter().filter_map(value).collect();
    values.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (values.first(), values.last()) else {
        return (f64::NAN, f64::NAN);
    };
    let half = (last - first) / 2.0;
    let upper = values[values.len() / 2];
    let middle = if values.len() % 2 == 1 { upper } else { f64::midpoint(upper, values[values.len() / 2 - 1]) };
    (middle, half)
}

fn sample_json(sample: &Sample) -> Value {
    json!({
        "cpu_us_per_request": sample.cpu_per_request,
        "requests_per_second": sample.per_second,
        "median_us": sample.middle,
        "p99_us": sample.p99,
        "core_busy": sample.core,
    })
}

fn change_json(label: &str, change: &Change) -> Value {
    let effective: Vec<f64> = change.effective.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    json!({
        "peer": label, "effective_ms": effective, "failed": change.failed, "closed": change.closed, "requests": change.requests,
        "p99_us": change.p99.as_micros() as u64, "max_us": change.max.as_micros() as u64,
    })
}

/// The processor, the number of cores and the kernel.
fn machine() -> String {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} x {}, Linux {}, loopback only", cores, model.trim_start_matches([' ', '\t', ':']), kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cpu_per_request: f64) -> Sample {
        Sample { cpu_per_request, per_second: 1000.0, middle: Some(90.0), p99: None, core: 0.5 }
    }

    #[test]
    fn the_median_ignores_an_outlier() {
        let samples = [sample(10.0), sample(90.0), sample(12.0)];
        assert_eq!(spread(&samples, |sample| Some(sample.cpu_per_request)), (12.0, 40.0));
        assert_eq!(spread(&samples[..2], |sample| Some(sample.cpu_per_request)).0, 50.0);
    }

    #[test]
    fn every_row_has_its_ratio_to_every_rival() {
        let mut text = String::new();
        closed_loop(&[("nginx".to_owned(), vec![sample(10.0)]), ("transept".to_owned(), vec![sample(9.0)])], &mut text);
        assert!(text.contains("| vs nginx |"), "{text}");
        assert!(text.contains("| transept | 9.00 ±0 % | 0.90 | 1000 (1.00) | 90 (1.00) | - | 50 % |"), "{text}");
    }
}
