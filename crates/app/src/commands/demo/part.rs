//! One process of the demo: a sidecar, or a service under it. It ends when the demo does, however that ends.
//!
//! Started by `crew` as a hidden subcommand. What ties it to the demo is its standard input, a pipe that nobody writes to: the
//! system closes it with the demo, also when that is killed. A service has the pipe from its sidecar.

use std::io::{ErrorKind, Read};

use anyhow::{Context, Result};

use super::services;
use crate::commands::{Exit, sidecar};

/// A process of the demo
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// As `transept sidecar`
    Sidecar(Box<sidecar::Args>),
    /// A service of the shop
    Service(services::Args),
}

/// Runs until it is told to end, or the demo has ended.
pub(crate) fn run(args: Args) -> Result<Exit> {
    std::thread::Builder::new().name("lifeline".to_owned()).spawn(follow_demo).context("a thread")?;
    match args.role {
        Role::Sidecar(args) => sidecar::run(*args),
        Role::Service(args) => services::run(&args),
    }
}

fn follow_demo() {
    let mut nothing = [0];
    loop {
        match std::io::stdin().lock().read(&mut nothing) {
            Ok(0) => break,
            Err(error) if error.kind() != ErrorKind::Interrupted => break,
            _ => {}
        }
    }
    std::process::exit(0);
}
