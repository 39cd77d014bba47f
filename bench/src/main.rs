//! Transept beside its peers: one command that starts all of them on this machine, loads them in turn and prints ratios.
//!
//! Run by people (`cargo run --release -p transept-bench -- [SCENARIO...]`), never by the tests: a timed test lies on a busy
//! machine. Only ratios to a peer of the same run carry over to another machine. The scenarios are in `scenarios` and `mesh`, what each
//! peer is told in `peers`; what the codec and the route table cost alone is the other program of this package.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod change;
mod client;
mod guards;
mod load;
mod memory;
mod mesh;
mod options;
mod peers;
mod process;
mod report;
mod routes;
mod scenarios;
mod stage;
mod timetable;

use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let Some(options) = options::Options::from_arguments(std::env::args().skip(1))? else {
        println!("{}", options::USAGE);
        return Ok(());
    };
    process::raise_file_limit()?;
    let stage = stage::Stage::set(&options)?;
    if let Some(file) = &options.order {
        return mesh::write_order(&options, &stage, file);
    }
    let mut results = report::Results::new(&options, &stage);
    for scenario in &options.scenarios {
        eprintln!("scenario {}: {}", scenario.letter(), scenario.title());
        scenarios::run(*scenario, &options, &stage, &mut results)?;
    }
    println!("{}", results.table());
    if let Some(path) = &options.json {
        std::fs::write(path, results.json())?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}
