//! The linker script that puts the functions side by side that a sidecar runs through: `crates/app/order.ld`.
//!
//! Called by `main` for `--order`. Two sidecars join, wait, carry requests and stop under callgrind, which names every function that was
//! entered. A process has the pages of its program that were touched and those around them: without an order nearly all of
//! them, because what runs and what does not lie mixed. First comes what runs while there is nothing to do, then what requests need.
//!
//! Hashes of compilers and versions of libraries are left out of the names, so that the script outlives them.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
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

/// How long there is nothing to do: registrations, reports and clocks go on.
const REST: Duration = Duration::from_secs(45);

/// What the script begins with.
const HEAD: &str = "\
/* The functions that a sidecar runs through, side by side: first while there is nothing to do, then for requests. Written by
   `cargo run --release -p transept-bench -- --order crates/app/order.ld`; see docs/performance.md. What is named here and is
   nowhere does no harm. */
";

/// Plays and writes the script.
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
    let ask = || {
        until_answered(ports.http).with_context(|| control.said())?;
        until_answered(ports.tcp)?;
        for page in ["metrics", "status", "readyz"] {
            let url = format!("http://127.0.0.1:{}/{page}", ports.admin);
            let asked = Command::new("curl").args(["--silent", "--fail", "--output", "/dev/null", &url]).status()?;
            ensure!(asked.success(), "{url} does not answer");
        }
        anyhow::Ok(())
    };
    // Twice, so that what only the first request needs is not taken for what every one does.
    ask()?;
    let sidecars = [("web", &caller), ("cart", &called)];
    dump(&sidecars)?;
    std::thread::sleep(REST);
    dump(&sidecars)?;
    ask()?;
    dump(&sidecars)?;
    let (mut idle, mut busy) = (BTreeSet::new(), BTreeSet::new());
    for (service, process) in [("web", caller), ("cart", called)] {
        stop(process)?;
        for (part, patterns) in [(2, &mut idle), (3, &mut busy)] {
            let calls =
                fs::read_to_string(at.join(format!("{service}.calls.{part}"))).context("callgrind wrote nothing")?;
            patterns.extend(entered(&calls, &peer.program).into_iter().map(pattern));
        }
    }
    ensure!(!idle.is_empty() && !busy.is_empty(), "no function has a name: the binary was stripped");
    fs::write(file, script(&idle, &busy))?;
    eprintln!("wrote {} functions that always run, and {} more, to {}", idle.len(), busy.len(), file.display());
    Ok(())
}

/// Has callgrind write down what ran since it last did.
fn dump(sidecars: &[(&str, &Process)]) -> anyhow::Result<()> {
    for (service, process) in sidecars {
        let asked = Command::new("callgrind_control").arg("--dump").arg(process.id().to_string()).output()?;
        ensure!(asked.status.success(), "callgrind does not write down what {service} did");
    }
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

/// The functions of a program that ran, by a file of callgrind: `ob=(1) PROGRAM`, then `fn=(7) NAME` for each, where a number that was there
/// before, also as that of a callee (`cfn=`, `cob=`), stands for its name.
fn entered<'c>(calls: &'c str, program: &Path) -> BTreeSet<&'c str> {
    let (mut objects, mut functions) = (HashMap::new(), HashMap::new());
    let (mut ours, mut found) = (false, BTreeSet::new());
    for line in calls.lines() {
        let Some((kind, entry)) = line.split_once("=(") else { continue };
        let Some((number, name)) = entry.split_once(')') else { continue };
        let known = match kind {
            "ob" | "cob" => &mut objects,
            "fn" | "cfn" => &mut functions,
            _ => continue,
        };
        if !name.is_empty() {
            // Recursion is marked behind the name.
            known.insert(number, name.trim_start().split('\'').next().unwrap_or_default());
        }
        let name = known.get(number).copied().unwrap_or_default();
        match kind {
            "ob" => ours = Path::new(name) == program,
            // What has no symbol has its address for a name.
            "fn" if ours && !name.starts_with("0x") && !name.starts_with('(') => {
                found.insert(name);
            }
            _ => {}
        }
    }
    found
}

/// What a symbol is called by every compiler: `*` for hashes (`17h...E` of the old names, `Cs..._` of the new) and for versions of libraries.
fn pattern(symbol: &str) -> String {
    let symbol = symbol.split(".llvm.").next().unwrap_or(symbol);
    let symbol = symbol
        .strip_suffix("E")
        .and_then(|rest| Some(rest.rsplit_once("17h")?.0))
        .map_or_else(|| symbol.to_owned(), |path| format!("{path}17h*"));
    if let Some(rest) = symbol.strip_prefix("aws_lc_") {
        return format!("aws_lc_*{}", rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_'));
    }
    if !symbol.starts_with("_R") {
        return symbol;
    }
    let mut pattern = String::with_capacity(symbol.len());
    let mut pieces = symbol.split("Cs");
    pattern.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let rest = piece.find('_').and_then(|end| piece.get(end..)).unwrap_or(piece);
        let _ = write!(pattern, "Cs*{rest}");
    }
    pattern
}

/// The script: a section before all the others of the program.
fn script(idle: &BTreeSet<String>, busy: &BTreeSet<String>) -> String {
    let mut script = format!("{HEAD}SECTIONS\n{{\n  .text.order :\n  {{\n");
    for pattern in idle.iter().chain(busy.difference(idle)) {
        let _ = writeln!(script, "    *(.text.{pattern})");
    }
    script.push_str("  }\n}\nINSERT BEFORE .text;\n");
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_the_program_are_found_by_name_and_by_number() {
        let calls = "ob=(1) /bin/transept\nfl=(1) a.rs\nfn=(12) _ZN5tokio3run17h0123456789abcdefE\n7 8\ncob=(2) /lib/libc.so\ncfn=(13) drop'2\n\
                     calls=3 15\nfn=(14) 0x0000000000001050\nob=(2)\nfn=(13)\nfn=(15) malloc\nob=(1)\nfn=(13)\nfn=(16) (below main)\n";
        let found = entered(calls, Path::new("/bin/transept"));
        assert_eq!(found, BTreeSet::from(["_ZN5tokio3run17h0123456789abcdefE", "drop"]));
    }

    #[test]
    fn a_pattern_has_no_hash_and_no_version() {
        for (symbol, expected) in [
            ("_ZN5tokio3run17h0123456789abcdefE", "_ZN5tokio3run17h*"),
            ("_ZN5tokio3run17h0123456789abcdefE.llvm.123", "_ZN5tokio3run17h*"),
            ("_RNvNtCsgEmfK2I1SDS_4core3fmt5write", "_RNvNtCs*_4core3fmt5write"),
            ("aws_lc_0_34_0_sha256_block", "aws_lc_*sha256_block"),
            ("_rjem_je_arena_init", "_rjem_je_arena_init"),
        ] {
            assert_eq!(pattern(symbol), expected);
        }
    }
}
