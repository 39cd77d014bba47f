//! What a run found: one report per case, a table by profile, and JSON. Called by `run` and `main`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use crate::case::{Case, Level};

/// What became of a case or a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// As it should be.
    Passed,
    /// Not as it should be.
    Failed,
    /// Left out, with a reason.
    NotInScope,
}

/// One case.
#[derive(Debug, Serialize)]
pub(crate) struct CaseReport {
    /// Name of the case.
    pub name: String,
    /// The profiles that it counts for.
    pub profiles: BTreeMap<String, Level>,
    /// Not counted by the official suite yet.
    pub provisional: bool,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it was left out, had nothing to do, or could not be run.
    pub reason: Option<String>,
    /// Duration in seconds, with start and stop of the binary.
    pub seconds: f64,
    /// Its steps, up to the first that failed.
    pub steps: Vec<StepReport>,
    /// The end of the log of the binary, after a failure.
    pub log: Vec<String>,
}

/// One step.
#[derive(Debug, Serialize)]
pub(crate) struct StepReport {
    /// Place in the case, from 1.
    pub number: usize,
    /// Key of the step.
    pub kind: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Duration in seconds.
    pub seconds: f64,
    /// What was wrong.
    pub complaints: Vec<String>,
}

impl CaseReport {
    /// A report that says passed until something else is found.
    pub(crate) fn new(case: &Case) -> CaseReport {
        CaseReport {
            name: case.name.clone(),
            profiles: case.profiles.clone(),
            provisional: case.provisional,
            outcome: Outcome::Passed,
            reason: None,
            seconds: 0.0,
            steps: Vec::new(),
            log: Vec::new(),
        }
    }
}

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Name and version of the binary, or its path.
    pub binary: String,
    /// Duration in seconds.
    pub seconds: f64,
    /// Counts by profile.
    pub profiles: BTreeMap<String, BTreeMap<Level, Counts>>,
    /// Counts over all cases; a case may count for several profiles.
    pub total: Counts,
    /// All cases that were selected, by name.
    pub cases: Vec<CaseReport>,
}

/// How many cases had which outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    /// As they should be.
    pub passed: usize,
    /// Not as they should be.
    pub failed: usize,
    /// Left out.
    pub not_in_scope: usize,
}

impl Counts {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::NotInScope => self.not_in_scope += 1,
        }
    }
}

impl Report {
    /// Counts the cases.
    pub(crate) fn new(binary: String, seconds: f64, mut cases: Vec<CaseReport>) -> Report {
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        let mut total = Counts::default();
        let mut profiles = BTreeMap::<String, BTreeMap<Level, Counts>>::new();
        for case in &cases {
            total.add(case.outcome);
            for (profile, level) in &case.profiles {
                profiles.entry(profile.clone()).or_default().entry(*level).or_default().add(case.outcome);
            }
        }
        Report { binary, seconds, profiles, total, cases }
    }

    /// Prints the failures and the table.
    ///
    /// # Errors
    /// Nothing can be written.
    pub(crate) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for case in self.cases.iter().filter(|case| case.outcome == Outcome::Failed) {
            print_failure(case, out)?;
        }
        writeln!(out, "\n{:<16}{:<10}{:>7}{:>7}{:>14}", "profile", "level", "passed", "failed", "not in scope")?;
        for (profile, levels) in &self.profiles {
            for (level, counts) in levels {
                let level = match level {
                    Level::Core => "core",
                    Level::Extended => "extended",
                };
                print_row(profile, level, *counts, out)?;
            }
        }
        print_row("all cases", "", self.total, out)?;
        writeln!(out, "\n{} in {:.1} s", self.binary, self.seconds)
    }
}

fn print_row(profile: &str, level: &str, counts: Counts, out: &mut impl Write) -> io::Result<()> {
    let Counts { passed, failed, not_in_scope } = counts;
    writeln!(out, "{profile:<16}{level:<10}{passed:>7}{failed:>7}{not_in_scope:>14}")
}

fn print_failure(case: &CaseReport, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\nFAILED {}", case.name)?;
    if let Some(reason) = &case.reason {
        writeln!(out, "  {}", reason.trim_end().replace('\n', "\n  "))?;
    }
    for step in case.steps.iter().filter(|step| step.outcome == Outcome::Failed) {
        for complaint in &step.complaints {
            writeln!(out, "  step {} ({}): {complaint}", step.number, step.kind)?;
        }
    }
    for line in &case.log {
        writeln!(out, "  | {line}")?;
    }
    Ok(())
}

/// Prints one line per case as it ends, and one per step when times are wanted.
///
/// # Errors
/// Nothing can be written.
pub(crate) fn print_case(case: &CaseReport, times: StepTimes, out: &mut impl Write) -> io::Result<()> {
    let word = match case.outcome {
        Outcome::Passed => "ok",
        Outcome::Failed => "FAILED",
        Outcome::NotInScope => "out",
    };
    let reason = match (&case.reason, case.outcome) {
        (Some(reason), Outcome::Passed | Outcome::NotInScope) => format!("  ({reason})"),
        _ => String::new(),
    };
    writeln!(out, "{word:<7}{:>7.2} s  {}{reason}", case.seconds, case.name)?;
    if times == StepTimes::Shown {
        for step in &case.steps {
            let left_out = if step.outcome == Outcome::NotInScope { "  (left out)" } else { "" };
            writeln!(out, "       {:>7.2} s    {:>2} {}{left_out}", step.seconds, step.number, step.kind)?;
        }
    }
    Ok(())
}

/// Whether the time of every step is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepTimes {
    /// Yes.
    Shown,
    /// No.
    Hidden,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_counts_once_for_each_of_its_profiles() {
        let case = |name: &str, outcome| CaseReport {
            name: name.to_owned(),
            profiles: [("A".to_owned(), Level::Core), ("B".to_owned(), Level::Extended)].into(),
            provisional: false,
            outcome,
            reason: None,
            seconds: 0.0,
            steps: Vec::new(),
            log: Vec::new(),
        };
        let cases = vec![case("b", Outcome::Failed), case("a", Outcome::Passed)];
        let report = Report::new("transept".to_owned(), 1.0, cases);
        let both = Counts { passed: 1, failed: 1, not_in_scope: 0 };
        assert_eq!(report.total, both);
        assert_eq!(report.profiles["B"][&Level::Extended], both);
        let mut printed = Vec::new();
        report.print(&mut printed).expect("prints");
        let printed = String::from_utf8(printed).expect("text");
        assert!(printed.contains("FAILED b"), "{printed}");
        assert!(printed.contains("all cases"), "{printed}");
    }
}
