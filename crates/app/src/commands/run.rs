//! `transept run FILE...`: the gateway from files, reloaded when they change.

use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, Result};
use transept_control::Sources;
use transept_model::SourceText;

use super::Exit;
use crate::gateway::{self, ServeArgs};
use crate::report::{self, Severity};
use crate::{console, logging};

const EXAMPLES: &str = "\
Examples:
  transept run shop.yaml
  transept run /etc/transept --log json --access-log /var/log/transept/access.log
  transept run shop.yaml --resolver 10.0.0.2 --resolver 10.0.0.3
  generate | transept run - --admin off

Files are watched and reloaded when they change, and on SIGHUP; a wrong file keeps the running configuration.
SIGTERM and SIGINT drain and exit 0; a second one exits at once. SIGUSR1 opens log files again.
Requests are logged to standard output: text on a terminal, JSON elsewhere; `--access-log off` saves the cost.
Without a Gateway in the files there is one named `default` with an HTTP listener on port 8080.";

/// Run the gateway from configuration files
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// YAML or JSON files, directories of them (their *.yaml, *.yml and *.json), or `-` for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    serve: ServeArgs,
}

/// Serves until a signal ends it.
pub(crate) fn run(args: Args) -> Result<Exit> {
    logging::start(&args.serve.log)?;
    let Some(sources) = collect(&args.files)? else {
        return Ok(Exit::Findings);
    };
    gateway::serve(sources, &args.serve, |_| {})
}

/// Turns the files of a command line into sources; `None` when one of them cannot be read even once, which is told.
pub(super) fn collect(files: &[PathBuf]) -> Result<Option<Sources>> {
    let mut sources = Sources::new();
    for file in files {
        if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input")?;
            sources.add_text(SourceText::new("<stdin>", text));
        } else if let Err(invalid) = sources.add_path(file) {
            console::tell(report::show(Severity::Error, &invalid).trim_end());
            return Ok(None);
        }
    }
    Ok(Some(sources))
}
