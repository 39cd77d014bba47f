//! What the scenarios of the mesh measured, as tables and as JSON.
//!
//! Filled by `mesh`, printed with everything else by `report`. Medians and half-spreads, ratios to each peer, and for latency and
//! throughput to no proxy at all.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::Pages;
use crate::report::{append, spread};
use crate::scenarios::Scenario;

/// One measurement of one pair of proxies. Times are in microseconds for each request or MiB.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// CPU time of the caller's proxy.
    pub(super) caller: f64,
    /// CPU time of the other one.
    pub(super) called: f64,
    /// Busy time of both cores: client, proxies, backend and kernel.
    pub(super) machine: f64,
    pub(super) per_second: f64,
    /// Median latency.
    pub(super) middle: Option<f64>,
}

impl Cost {
    /// CPU time of both proxies.
    pub(super) fn both(&self) -> f64 {
        self.caller + self.called
    }
}

/// Memory of one proxy.
#[derive(Debug, Clone)]
pub(super) struct Weight {
    pub(super) label: String,
    /// What it knows.
    pub(super) known: String,
    pub(super) pages: Pages,
}

/// All proxies with everything that they asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Joined {
    pub(super) took: Duration,
    /// CPU time of the control plane for it.
    pub(super) cpu: Duration,
    /// Its resident memory afterwards, in KiB.
    pub(super) resident: u64,
}

/// One change on its way to all proxies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passage {
    pub(super) first: Duration,
    pub(super) median: Duration,
    pub(super) p99: Duration,
    pub(super) last: Duration,
    /// CPU time of the control plane.
    pub(super) cpu: Duration,
    /// CPU time of all simulated proxies.
    pub(super) simulation: Duration,
}

/// All changes in one configuration.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) label: String,
    pub(super) proxies: usize,
    pub(super) joined: Joined,
    pub(super) routes: Vec<Passage>,
    pub(super) endpoints: Vec<Passage>,
}

/// Everything that the scenarios of the mesh measured.
#[derive(Debug, Default)]
pub(crate) struct Meshed {
    costs: BTreeMap<Scenario, Vec<(String, Vec<Cost>)>>,
    pub(super) weights: Vec<Weight>,
    pub(super) ways: Vec<Way>,
}

impl Meshed {
    pub(super) fn add_cost(&mut self, scenario: Scenario, label: &str, cost: Cost) {
        append(self.costs.entry(scenario).or_default(), label, cost);
    }

    /// The tables as Markdown.
    pub(crate) fn table(&self, text: &mut String) {
        for (scenario, pairs) in &self.costs {
            let _ = write!(text, "\n{}) {}\n\n", scenario.letter(), scenario.title());
            cost_table(pairs, text);
        }
        self.weight_table(text);
        self.way_table(text);
    }

    fn weight_table(&self, text: &mut String) {
        if self.weights.is_empty() {
            return;
        }
        let title = Scenario::MeshMemory.title();
        let _ = write!(
            text,
            "\nr) {title}\n\n| | knows | resident MiB | anonymous MiB | proportional MiB |\n|---|---|---|---|---|\n"
        );
        let mib = |kibibytes: u64| kibibytes as f64 / 1024.0;
        for Weight { label, known, pages } in &self.weights {
            let _ = writeln!(
                text,
                "| {label} | {known} | {:.1} | {:.1} | {:.1} |",
                mib(pages.resident),
                mib(pages.anonymous),
                mib(pages.proportional)
            );
        }
    }

    fn way_table(&self, text: &mut String) {
        if self.ways.is_empty() {
            return;
        }
        let _ = write!(text, "\ns) {}\n\n", Scenario::MeshChange.title());
        text.push_str("| in the files | proxies | s until all hold it | control plane: s of CPU | MiB resident |\n|---|---|---|---|---|\n");
        for Way { label, proxies, joined, .. } in &self.ways {
            let _ = writeln!(
                text,
                "| {label} | {proxies} | {:.1} | {:.1} | {:.0} |",
                joined.took.as_secs_f64(),
                joined.cpu.as_secs_f64(),
                joined.resident as f64 / 1024.0
            );
        }
        text.push_str(
            "\n| | changed | first ms | median ms | p99 ms | last ms | control plane: ms of CPU | all proxies: ms of CPU |\n|---|---|---|---|---|---|---|---|\n",
        );
        for way in &self.ways {
            for (what, passages) in [("a route", &way.routes), ("an endpoint", &way.endpoints)] {
                let _ = write!(text, "| {} | {what} |", way.label);
                for figure in FIGURES {
                    let (middle, half) = spread(passages, |passage| Some(ms(figure(passage))));
                    let _ = write!(text, " {middle:.1} ±{:.0} % |", 100.0 * half / middle);
                }
                text.push('\n');
            }
        }
    }

    /// Every sample.
    pub(crate) fn json(&self) -> Value {
        let costs: BTreeMap<&str, BTreeMap<&str, Vec<Value>>> = self
            .costs
            .iter()
            .map(|(scenario, pairs)| {
                let pairs = pairs
                    .iter()
                    .map(|(label, costs)| (label.as_str(), costs.iter().map(cost_json).collect()))
                    .collect();
                (scenario.letter(), pairs)
            })
            .collect();
        let weight = |Weight { label, known, pages }: &Weight| {
            json!({
                "peer": label, "knows": known, "resident_kib": pages.resident, "anonymous_kib": pages.anonymous,
                "proportional_kib": pages.proportional,
            })
        };
        let way = |way: &Way| {
            json!({
                "knows": way.label,
                "proxies": way.proxies,
                "joined": {
                    "seconds": way.joined.took.as_secs_f64(), "cpu_seconds": way.joined.cpu.as_secs_f64(),
                    "resident_kib": way.joined.resident,
                },
                "routes": way.routes.iter().map(passage_json).collect::<Vec<_>>(),
                "endpoints": way.endpoints.iter().map(passage_json).collect::<Vec<_>>(),
            })
        };
        json!({
            "costs": costs,
            "memory": self.weights.iter().map(weight).collect::<Vec<_>>(),
            "changes": self.ways.iter().map(way).collect::<Vec<_>>(),
        })
    }
}

/// The columns of a cost that are compared with no proxy at all.
const COLUMNS: [fn(&Cost) -> Option<f64>; 3] =
    [|cost| Some(cost.machine), |cost| Some(cost.per_second), |cost| cost.middle];

/// The columns of a change.
const FIGURES: [fn(&Passage) -> Duration; 6] = [
    |passage| passage.first,
    |passage| passage.median,
    |passage| passage.p99,
    |passage| passage.last,
    |passage| passage.cpu,
    |passage| passage.simulation,
];

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn cost_table(pairs: &[(String, Vec<Cost>)], text: &mut String) {
    let rivals: Vec<&(String, Vec<Cost>)> =
        pairs.iter().filter(|(label, _)| label != "direct" && label != "transept").collect();
    text.push_str("| | CPU µs of both proxies | the caller's | the other's |");
    for (label, _) in &rivals {
        let _ = write!(text, " vs {label} |");
    }
    text.push_str(" both cores busy, µs | per second | median µs |\n|---|---|---|---|---|---|---|");
    text.push_str(&"---|".repeat(rivals.len()));
    text.push('\n');
    let direct =
        pairs.iter().find(|(label, _)| label == "direct").map(|(_, costs)| costs.as_slice()).unwrap_or_default();
    for (label, costs) in pairs {
        let middle = |value: fn(&Cost) -> Option<f64>| spread(costs, value).0;
        let (both, half) = spread(costs, |cost| Some(cost.both()));
        if both > 0.0 {
            let _ = write!(text, "| {label} | {both:.2} ±{:.0} % |", 100.0 * half / both);
            let _ =
                write!(text, " {:.2} | {:.2} |", middle(|cost| Some(cost.caller)), middle(|cost| Some(cost.called)));
        } else {
            let _ = write!(text, "| {label} | - | - | - |");
        }
        for (_, rival) in &rivals {
            let ratio = both / spread(rival, |cost| Some(cost.both())).0;
            text.push_str(&if both > 0.0 { format!(" {ratio:.2} |") } else { " - |".to_owned() });
        }
        for value in COLUMNS {
            let (own, of_direct) = (middle(value), spread(direct, value).0);
            text.push_str(&if own.is_nan() {
                " - |".to_owned()
            } else {
                format!(" {own:.1} ({:.2}) |", own / of_direct)
            });
        }
        text.push('\n');
    }
    text.push_str("\nIn parentheses: the ratio to no proxy at all.\n");
}

fn cost_json(cost: &Cost) -> Value {
    json!({
        "caller_cpu_us": cost.caller, "called_cpu_us": cost.called, "machine_us": cost.machine, "per_second": cost.per_second,
        "median_us": cost.middle,
    })
}

fn passage_json(passage: &Passage) -> Value {
    json!({
        "first_ms": ms(passage.first), "median_ms": ms(passage.median), "p99_ms": ms(passage.p99), "last_ms": ms(passage.last),
        "control_plane_cpu_ms": ms(passage.cpu), "simulation_cpu_ms": ms(passage.simulation),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(both: f64, middle: f64) -> Cost {
        Cost { caller: both / 2.0, called: both / 2.0, machine: 40.0, per_second: 1000.0, middle: Some(middle) }
    }

    #[test]
    fn costs_are_compared_with_rivals_and_latency_with_no_proxy() {
        let pairs = [("direct", cost(0.0, 50.0)), ("envoy", cost(60.0, 200.0)), ("transept", cost(30.0, 100.0))];
        let pairs: Vec<_> = pairs.into_iter().map(|(label, cost)| (label.to_owned(), vec![cost])).collect();
        let mut text = String::new();
        cost_table(&pairs, &mut text);
        let row = "| transept | 30.00 ±0 % | 15.00 | 15.00 | 0.50 | 40.0 (1.00) | 1000.0 (1.00) | 100.0 (2.00) |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| direct | - | - | - | - | 40.0"), "{text}");
    }
}
