//! `cargo xtask`: chores of this repository that are programs rather than promises.
//!
//! Called by people, by the ordinary test run (the tree's own tidiness is a unit test) and by `.ci/run`. Holds no product
//! code: what a user runs lives in `crates/app`, what measures it lives in `bench`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod errors;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask tidy [--quiet]   check the house rules over the whole tree; every finding at once
       cargo xtask errors           print docs/errors.md from the engine's table of reasons";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tidy"] => tidy(Warnings::Show),
        ["tidy", "--quiet"] => tidy(Warnings::Hide),
        ["errors"] => {
            print!("{}", errors::page());
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Whether findings that do not fail the run are printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Warnings {
    Show,
    Hide,
}

fn tidy(warnings: Warnings) -> ExitCode {
    let report = match tidy::check(&tidy::root()) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("tidy: {error:#}");
            return ExitCode::from(2);
        }
    };
    if warnings == Warnings::Show {
        for finding in &report.warnings {
            println!("warning: {finding}");
        }
    }
    for finding in &report.failures {
        println!("error: {finding}");
    }
    println!("tidy: {} files, {} errors, {} warnings", report.files, report.failures.len(), report.warnings.len());
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
