//! The problems of a world with their places, collected beside the status.
//!
//! Filled by every part of `attach`. Conditions say the same things in the words of Gateway API; this is what `check` prints.

use crate::kinds::Metadata;
use crate::place::{Invalid, Place, Spot};

/// Problems in the order they were found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: Vec<Invalid>,
}

impl Findings {
    /// Adds a problem of the object `meta` at `spot` (the object's own place when nobody wrote it).
    pub(super) fn add(
        &mut self,
        meta: &Metadata,
        spot: Spot,
        field: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let at = if spot.line == 0 {
            meta.at.clone()
        } else {
            Place::new(meta.at.file.clone(), spot)
        };
        let mut invalid = Invalid::new(at, why);
        invalid.object = Some(meta.object_name());
        invalid.field = field.into();
        let remedy = remedy.into();
        if !remedy.is_empty() {
            invalid.remedy(remedy);
        }
        self.problems.push(invalid);
    }

    /// The problems, each once, in the order of files and lines.
    pub(super) fn into_problems(mut self) -> Vec<Invalid> {
        self.problems.sort_by(|a, b| {
            let key = |i: &Invalid| (i.at.file.clone(), i.at.line, i.at.column);
            key(a).cmp(&key(b))
        });
        self.problems.dedup();
        self.problems
    }
}

/// A clause with its remedy, as it stands in a condition's message.
pub(super) fn sentence(why: &str, remedy: &str) -> String {
    let mut out = capitalised(why);
    if !remedy.is_empty() {
        out.push(' ');
        out.push_str(&capitalised(remedy));
    }
    out
}

fn capitalised(clause: &str) -> String {
    let mut letters = clause.chars();
    match letters.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), letters.as_str()),
        None => String::new(),
    }
}
