//! `transept completion SHELL`: prints a completion script, generated from the command line itself.

use std::io::Write;

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use super::Exit;

const EXAMPLES: &str = "\
Examples:
  transept completion bash > /etc/bash_completion.d/transept
  transept completion zsh > ~/.zfunc/_transept
  transept completion fish > ~/.config/fish/completions/transept.fish";

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The shell that shall complete `transept`
    shell: Shell,
}

/// Prints the script on standard output.
pub(crate) fn run(args: &Args) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "transept", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Exit::Fine)
}
