//! Findings that are right as they stand, each with its reason.
//!
//! Called by `tidy::judge` last. An entry that forgives nothing any more is itself a finding, so that the list only holds
//! what is needed.

use super::tree::Tree;
use super::{Finding, Weight};

/// One exception: a rule, in one file, for a reason.
pub(crate) struct Allowed {
    pub(crate) rule: &'static str,
    pub(crate) path: &'static str,
    /// Why the rule does not fit here; shown to nobody but the reader of this table.
    pub(crate) reason: &'static str,
}

/// The exceptions of this repository.
pub(crate) const ALLOWED: &[Allowed] = &[
    Allowed {
        rule: "sleep",
        path: "testkit/src/echo/answer.rs",
        reason: "the delay is what the request asks the echo server for",
    },
    Allowed {
        rule: "sleep",
        path: "testkit/src/launch.rs",
        reason: "another process's readiness can only be polled, under a deadline",
    },
    Allowed {
        rule: "sleep",
        path: "crates/app/tests/road/pairs.rs",
        reason: "a sender that is at a standstill is told by nothing but time",
    },
    Allowed {
        rule: "sleep",
        path: "crates/app/tests/road/limits.rs",
        reason: "the client that drips is the test: its pace is what must not help it",
    },
    Allowed {
        rule: "beside",
        path: "crates/model/tests/conformance_status.rs",
        reason: "it replays the status steps of the same cases as the conformance runner",
    },
];

/// Takes the allowed findings out and adds one for each entry that forgave nothing.
pub(crate) fn forgive(findings: Vec<Finding>, allowed: &[Allowed], tree: &Tree) -> Vec<Finding> {
    let mut used = vec![false; allowed.len()];
    let mut kept: Vec<Finding> = findings
        .into_iter()
        .filter(|finding| {
            let entry = allowed.iter().position(|entry| entry.rule == finding.rule && entry.path == finding.path);
            if let Some(entry) = entry {
                used[entry] = true;
            }
            entry.is_none()
        })
        .collect();
    for (entry, used) in allowed.iter().zip(used) {
        if !used && tree.file(entry.path).is_some() {
            let message = format!("the exception for `{}` ({}) is no longer needed", entry.rule, entry.reason);
            kept.push(Finding { weight: Weight::Fail, ..Finding::fail(entry.path, 0, "allowed", message) });
        }
    }
    kept
}
