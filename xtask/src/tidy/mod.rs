//! The house rules as one check: what no test enforces decays.
//!
//! `check` reads the tree once and runs every rule over it, so that one run shows every finding. Called by `main` and by the
//! test below, which makes the ordinary `cargo test` fail when the tree is not tidy. Formatting and lints are left to rustfmt
//! and clippy, licences and bans of crates to cargo-deny.

mod allowed;
mod policies;
mod rust;
mod style;
mod text;
mod tree;
mod walls;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

pub(crate) use tree::Tree;

/// One breach of a rule at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Relative to the root of the repository, with forward slashes.
    pub(crate) path: String,
    /// 1-based; 0 when the finding is about the file as a whole.
    pub(crate) line: usize,
    /// The rule's short name, as `allowed` and the messages use it.
    pub(crate) rule: &'static str,
    /// What is wrong and what to do instead.
    pub(crate) message: String,
    /// Whether it fails the run.
    pub(crate) weight: Weight,
}

/// Whether a finding fails the run or is only shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    Fail,
    Warn,
}

impl Finding {
    pub(crate) fn fail(path: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, rule, message: message.into(), weight: Weight::Fail }
    }

    pub(crate) fn warn(path: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Self {
        Self { weight: Weight::Warn, ..Self::fail(path, line, rule, message) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}", self.path, self.line.max(1), self.rule, self.message)
    }
}

/// Everything one run found, sorted by place.
#[derive(Debug)]
pub(crate) struct Report {
    /// Files read.
    pub(crate) files: usize,
    /// Findings that fail the run.
    pub(crate) failures: Vec<Finding>,
    /// Findings that are only shown.
    pub(crate) warnings: Vec<Finding>,
}

/// The root of the repository: the parent of this crate's directory. Cargo says which: a target directory that two checkouts share may hold
/// what the other one built.
pub(crate) fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Reads the tree under `root` and runs every rule.
///
/// # Errors
/// When a file or directory cannot be read.
pub(crate) fn check(root: &Path) -> anyhow::Result<Report> {
    Ok(judge(&Tree::read(root)?))
}

/// Runs every rule over a tree in memory.
pub(crate) fn judge(tree: &Tree) -> Report {
    let mut findings = Vec::new();
    walls::check(tree, &mut findings);
    style::check(tree, &mut findings);
    text::check(tree, &mut findings);
    policies::check(tree, &mut findings);
    let mut findings = allowed::forgive(findings, allowed::ALLOWED, tree);
    findings.sort();
    findings.dedup();
    let (failures, warnings) = findings.into_iter().partition(|finding| finding.weight == Weight::Fail);
    Report { files: tree.files.len(), failures, warnings }
}
