//! The problems of a world with their places, collected beside the status.
//!
//! Filled by every part of `attach`. Conditions say the same things in the words of Gateway API; this is what `check` prints.

use std::collections::HashMap;
use std::fmt;

use crate::kinds::Metadata;
use crate::place::{Invalid, Place, Spot};
use crate::world::World;

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
        let at = if spot.line == 0 { meta.at.clone() } else { Place::new(meta.at.file.clone(), spot) };
        let mut invalid = Invalid::new(at, why);
        invalid.object = Some(meta.object_name());
        invalid.field = field.into();
        let remedy = remedy.into();
        if !remedy.is_empty() {
            invalid.remedy(remedy);
        }
        self.problems.push(invalid);
    }

    /// Adds what an objection says.
    pub(super) fn object(&mut self, meta: &Metadata, spot: Spot, field: impl Into<String>, objection: &Objection) {
        self.add(meta, spot, field, objection.why.as_str(), objection.remedy);
    }

    /// The problems, each once, in the order of files and lines.
    pub(super) fn into_problems(mut self, world: &World) -> Vec<Invalid> {
        let sources = world.sources().iter();
        let order: HashMap<&str, usize> = sources.zip(0..).map(|(s, n)| (&*s.name, n)).collect();
        self.problems.sort_by_key(|one| (order.get(&*one.at.file).copied(), one.at.line, one.at.column));
        self.problems.dedup();
        for problem in &mut self.problems {
            world.complete(problem);
        }
        self.problems
    }
}

/// Why something is not accepted. Displays as it stands in a condition's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Objection {
    /// The reason of the condition.
    pub(super) reason: &'static str,
    /// What is wrong, as a clause.
    pub(super) why: String,
    /// What would make it right, as a clause.
    pub(super) remedy: &'static str,
}

impl Objection {
    pub(super) fn new(reason: &'static str, why: impl Into<String>, remedy: &'static str) -> Self {
        Self { reason, why: why.into(), remedy }
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sentence(&self.why, self.remedy))
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
