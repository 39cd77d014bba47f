//! Metrics of the process itself and of the build, in the names that Prometheus client libraries use.
//!
//! Called when `/metrics` is asked. Read from `/proc`; where that is absent, the values are left out rather than guessed.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::commands::version::{REVISION, VERSION};

/// Ticks per second of `/proc/self/stat`: the kernel reports in `USER_HZ`, which is 100 on every architecture we build for.
const TICKS: f64 = 100.0;

/// What is known since the process started.
#[derive(Debug)]
pub(crate) struct Process {
    started: SystemTime,
}

impl Process {
    /// Notes the start time.
    pub(crate) fn begin() -> Self {
        Process { started: SystemTime::now() }
    }

    /// Appends the metrics.
    pub(crate) fn write_metrics(&self, out: &mut String) {
        write_metric(
            out,
            "transept_build_info",
            "gauge",
            "What runs: always 1.",
            &[(format!("{{version=\"{VERSION}\",revision=\"{REVISION}\"}}"), 1.0)],
        );
        let started = self.started.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let plain = [
            ("process_start_time_seconds", "gauge", "Start time, in seconds since the epoch.", Some(started)),
            ("process_cpu_seconds_total", "counter", "CPU time in user and system mode.", cpu_seconds()),
            ("process_resident_memory_bytes", "gauge", "Memory in RAM.", status_bytes("VmRSS:")),
            ("process_virtual_memory_bytes", "gauge", "Address space in use.", status_bytes("VmSize:")),
            ("process_open_fds", "gauge", "Open file descriptors.", open_files()),
            ("process_max_fds", "gauge", "Most file descriptors that may be open.", most_files()),
        ];
        for (name, kind, help, value) in plain {
            if let Some(value) = value {
                write_metric(out, name, kind, help, &[(String::new(), value)]);
            }
        }
    }
}

/// Appends one metric family in the text exposition format; each sample is its label set in braces, or nothing, and its value.
pub(crate) fn write_metric(out: &mut String, name: &str, kind: &str, help: &str, samples: &[(String, f64)]) {
    // Writing to a String cannot fail.
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    for (labels, value) in samples {
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    cpu_seconds_of(&stat)
}

/// Reads user and system time from the text of `/proc/self/stat`.
fn cpu_seconds_of(stat: &str) -> Option<f64> {
    // The program name, in parentheses, may hold blanks; what follows the last parenthesis starts with field 3.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

fn status_bytes(key: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kibibytes * 1024.0)
}

fn open_files() -> Option<f64> {
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(count as f64)
}

fn most_files() -> Option<f64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_survives_odd_program_names() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 100 1 1";
        assert_eq!(cpu_seconds_of(stat), Some(3.0));
        assert_eq!(cpu_seconds_of("nothing"), None);
    }

    #[test]
    fn a_family_reads_as_prometheus_wants_it() {
        let mut out = String::new();
        write_metric(&mut out, "transept_x_total", "counter", "Help.", &[("{result=\"ok\"}".to_owned(), 2.0)]);
        assert_eq!(
            out,
            "# HELP transept_x_total Help.\n# TYPE transept_x_total counter\ntransept_x_total{result=\"ok\"} 2\n"
        );
    }
}
