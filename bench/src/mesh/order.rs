//! The functions that a sidecar runs through, so that a linker can put them side by side.
//!
//! Called by `main` for `--order`. Two sidecars start, join, carry requests and stop under callgrind, which names every function that was
//! entered. A process has the pages of its program that were touched and those around them: without an order nearly all of
//! them, because what runs and what does not lie mixed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::control::{Control, until_answered};
use super::{PairPorts, SERVICES, sidecar_arguments};
use crate::options::Options;
use crate::peers::Kind;
use crate::process::{LOAD_CORE, Process};
use crate::stage::Stage;

/// How long a sidecar may take to stop under callgrind.
const PATIENCE: Duration = Duration::from_secs(60);

/// Plays and writes the names, one a line.
///
/// # Errors
/// When valgrind is not there, or a sidecar does not do its work.
pub(crate) fn write_order(options: &Options, stage: &Stage, file: &Path) -> anyhow::Result<()> {
    let peer =
        options.peers.iter().find(|peer| peer.kind == Kind::Transept).context("transept is not among the peers")?;
    let at = stage.directory("order");
    let ports = PairPorts::of(0);
    let files = [("services.yaml".to_owned(), SERVICES.to_owned())];
    let control = Control::start(&peer.program, LOAD_CORE, ports.control, &at, &files)?;
    let under = |service: &str| {
        let out = at.join(format!("{service}.calls")).display().to_string();
        let fixed = ["valgrind", "--tool=callgrind", "--demangle=no"].map(str::to_owned);
        [fixed.as_slice(), &[format!("--callgrind-out-file={out}")]].concat()
    };
    let arguments = sidecar_arguments(ports);
    let called = control.sidecar(&under("cart"), "cart", &arguments.called)?;
    let caller = control.sidecar(&under("web"), "web", &arguments.caller)?;
    until_answered(ports.http).with_context(|| control.said())?;
    until_answered(ports.tcp)?;
    for page in ["metrics", "status", "readyz"] {
        let url = format!("http://127.0.0.1:{}/{page}", ports.admin);
        let asked = Command::new("curl").args(["--silent", "--fail", "--output", "/dev/null", &url]).status()?;
        ensure!(asked.success(), "{url} does not answer");
    }
    let mut names = BTreeSet::new();
    for (service, process) in [("web", caller), ("cart", called)] {
        stop(process)?;
        let calls = fs::read_to_string(at.join(format!("{service}.calls"))).context("callgrind wrote nothing")?;
        names.extend(calls.lines().filter_map(name).map(str::to_owned));
    }
    ensure!(!names.is_empty(), "no function has a name: the binary was stripped");
    fs::write(file, names.iter().map(|name| format!("{name}\n")).collect::<String>())?;
    eprintln!("wrote {} functions to {}", names.len(), file.display());
    Ok(())
}

fn stop(mut process: Process) -> anyhow::Result<()> {
    process.signal(Signal::TERM)?;
    let begin = Instant::now();
    while process.is_running() {
        ensure!(begin.elapsed() < PATIENCE, "a sidecar does not stop");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The function that a line names for the first time: `fn=(7) _ZN...`, and the same with `cfn`. Recursion is marked behind the name.
fn name(line: &str) -> Option<&str> {
    let line = line.strip_prefix('c').unwrap_or(line).strip_prefix("fn=(")?;
    let (_, name) = line.split_once(") ")?;
    let name = name.split('\'').next().unwrap_or(name);
    // What has no symbol has its address for a name.
    (!name.starts_with("0x") && !name.starts_with('(')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_named_once_and_without_what_callgrind_adds() {
        assert_eq!(name("fn=(12) _ZN5tokio3run17h0123456789abcdefE"), Some("_ZN5tokio3run17h0123456789abcdefE"));
        assert_eq!(name("cfn=(13) drop'2"), Some("drop"));
        for other in ["fn=(12)", "calls=3 15", "cfn=(9) 0x0000000000001050", "fn=(1) (below main)"] {
            assert_eq!(name(other), None, "{other}");
        }
    }
}
