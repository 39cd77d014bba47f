//! A policy is one file and one line: the file is in the table, on the reference page and in an example.
//!
//! Called by `tidy::judge`. What a policy does is tested beside its code; here is only that no policy is forgotten.

use super::Finding;
use super::tree::{File, Tree};

const DIRECTORY: &str = "crates/engine/src/policies/";
const TABLE: &str = "crates/engine/src/policies/mod.rs";
const REFERENCE: &str = "docs/reference.md";
const EXAMPLES: &str = "examples/";

pub(crate) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    let Some(table) = tree.file(TABLE) else {
        return;
    };
    for file in tree.files.iter().filter(|file| is_policy(file)) {
        let stem = file.name().trim_end_matches(".rs");
        let Some(kind) = kind_of(file) else {
            let message = "implements `Policy` without a `const KIND: &'static str = \"...\"` on one line";
            findings.push(Finding::fail(&file.path, 0, "policy", message));
            continue;
        };
        let in_table = table.rust.as_ref().is_some_and(|source| {
            source
                .product()
                .any(|(_, code)| code.contains(&format!("{stem}::")) && !code.trim_start().starts_with("use "))
        });
        if !in_table {
            findings.push(Finding::fail(
                &file.path,
                0,
                "policy",
                format!("{kind} has no line in the table of {TABLE}"),
            ));
        }
        if !tree.file(REFERENCE).is_some_and(|page| super::rust::has_word(&page.text, &kind)) {
            findings.push(Finding::fail(
                &file.path,
                0,
                "policy",
                format!("{kind} is not in {REFERENCE}; regenerate it"),
            ));
        }
        let line = format!("kind: {kind}");
        let shown = tree
            .files
            .iter()
            .any(|file| file.path.starts_with(EXAMPLES) && file.text.lines().any(|text| text.trim() == line));
        if !shown {
            findings.push(Finding::fail(&file.path, 0, "policy", format!("no file in {EXAMPLES} shows a {kind}")));
        }
    }
}

/// What the policies share lies in the same directory and implements nothing.
fn is_policy(file: &File) -> bool {
    let here = file
        .path
        .strip_prefix(DIRECTORY)
        .is_some_and(|rest| !rest.contains('/') && rest != "mod.rs" && rest != "tests.rs");
    here && (kind_of(file).is_some() || file.text.contains("impl Policy for"))
}

/// The value of the file's `KIND`.
fn kind_of(file: &File) -> Option<String> {
    let line = file.text.lines().find(|line| line.contains("const KIND:"))?;
    line.split('"').nth(1).map(str::to_owned)
}
