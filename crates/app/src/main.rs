//! The `transept` binary: parses the command line and hands over to the file of the subcommand.
//!
//! Nothing is decided here. Exit codes are the same for every subcommand: 0 fine, 1 findings or failure, 2 wrong usage,
//! 3 nobody answers.

mod access_log;
mod admin;
mod commands;
mod console;
mod duration;
mod gateway;
mod logging;
mod report;
mod sidecar;
mod signals;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use commands::Exit;
use commands::asking::Unanswered;

/// jemalloc returns memory to the operating system after load peaks and does not fragment under per-core workers.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const EXAMPLES: &str = "\
Examples:
  transept demo                              three services behind a gateway: look around
  transept proxy --to http://127.0.0.1:3000  a gateway in front of one service, no file at all
  transept run shop.yaml                     a gateway from Gateway API YAML, reloaded on change
  transept control shop.yaml                 the control plane of a mesh
  transept sidecar --service cart -- ./cart  a program in the mesh: identity, mutual TLS, health
  transept check shop.yaml                   every error at once, and the status of each object
  transept explain GET http://localhost:8080/cart -f shop.yaml

Exit codes: 0 fine, 1 findings or failure, 2 wrong usage, 3 nobody answers.
Flags can be environment variables: --drain is TRANSEPT_DRAIN (see --help). NO_COLOR is honoured.";

/// An API gateway and a service mesh that speak Kubernetes Gateway API, in one binary.
#[derive(Debug, Parser)]
#[command(name = "transept", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(commands::run::Args),
    Proxy(commands::proxy::Args),
    Check(commands::check::Args),
    Explain(commands::explain::Args),
    Status(commands::status::Args),
    Demo(commands::demo::Args),
    Schema(commands::schema::Args),
    Control(commands::control::Args),
    Token(commands::token::Args),
    Key(commands::key::Args),
    Certs(commands::certs::Args),
    Mesh(commands::mesh::Args),
    Sidecar(Box<commands::sidecar::Args>),
    Completion(commands::completion::Args),
    Version(commands::version::Args),
}

/// What starts a process of the demo. Nobody writes it, so that it is in no help and in no completion.
#[derive(Debug, Parser)]
#[command(name = "transept")]
enum Part {
    DemoPart(commands::demo::part::Args),
}

/// The word that it begins with.
const PART: &str = "demo-part";

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == PART) {
        let Part::DemoPart(args) = Part::parse();
        return end(commands::demo::part::run(args));
    }
    let outcome = match Cli::parse().command {
        Command::Run(args) => commands::run::run(args),
        Command::Proxy(args) => commands::proxy::run(args),
        Command::Check(args) => commands::check::run(args),
        Command::Explain(args) => commands::explain::run(args),
        Command::Status(args) => commands::status::run(args),
        Command::Demo(args) => commands::demo::run(args),
        Command::Schema(args) => commands::schema::run(&args),
        Command::Control(args) => commands::control::run(args),
        Command::Token(args) => commands::token::run(args),
        Command::Key(args) => commands::key::run(args),
        Command::Certs(args) => commands::certs::run(args),
        Command::Mesh(args) => commands::mesh::run(args),
        Command::Sidecar(args) => commands::sidecar::run(*args),
        Command::Completion(args) => commands::completion::run(&args),
        Command::Version(args) => commands::version::run(&args),
    };
    end(outcome)
}

/// The exit code for what a subcommand has come to, which is told when it failed.
fn end(outcome: anyhow::Result<commands::Exit>) -> ExitCode {
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) if console::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            console::fail(&format!("{error:#}"));
            let exit = if error.is::<Unanswered>() { Exit::Unreachable } else { Exit::Findings };
            exit.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_is_wrapped_by_the_terminal_alone() {
        /// What a terminal of usual width, and clap where there is none, take.
        const WIDTH: usize = 100;
        let mut waiting = vec![Cli::command()];
        while let Some(command) = waiting.pop() {
            waiting.extend(command.get_subcommands().cloned());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines() {
                let is_sentence = line.is_empty() || line.ends_with(['.', ':']);
                let is_example = line.starts_with("  ") && line.chars().count() <= WIDTH;
                assert!(is_sentence || is_example, "{}: {line}", command.get_name());
            }
        }
    }

    #[test]
    fn every_flag_has_an_environment_variable_of_its_name() {
        for command in Cli::command().get_subcommands() {
            for flag in command.get_arguments().filter(|flag| flag.get_long().is_some()) {
                let Some(variable) = flag.get_env() else {
                    continue;
                };
                let long = flag.get_long().unwrap_or_default();
                let expected = format!("TRANSEPT_{}", long.to_uppercase().replace('-', "_"));
                assert_eq!(variable.to_str(), Some(expected.as_str()), "--{long}");
            }
        }
    }
}
