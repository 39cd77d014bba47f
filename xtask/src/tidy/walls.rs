//! The walls of the house: which crate may know which, what the pure crates must not touch, where `unsafe` may stand.
//!
//! Called by `tidy::judge`. Reads manifests and the masked code; what a crate reaches through a third one is left to the
//! dependency graph itself (cargo refuses cycles, cargo-deny the banned crates).

use super::Finding;
use super::rust::{Source, has_word};
use super::tree::{File, Tree};

/// One crate of the product and what it may reach.
struct Room {
    /// Directory under `crates/`, and the package `transept-NAME`.
    name: &'static str,
    /// Our crates that it may depend on.
    knows: &'static [&'static str],
    /// Foreign crates that it must not depend on.
    never: &'static [&'static str],
}

/// Runtimes, sockets, clocks and dice: what a pure crate does without.
const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "hyper-util",
    "h2",
    "socket2",
    "rustix",
    "notify",
    "hickory-resolver",
    "rand",
    "getrandom",
    "fastrand",
    "tokio-rustls",
    "rustls-native-certs",
    "mio",
    "anyhow",
    "tracing-subscriber",
];

/// Below the application errors are types.
const TYPED: &[&str] = &["anyhow", "eyre"];

const ROOMS: &[Room] = &[
    Room { name: "model", knows: &[], never: IMPURE },
    Room { name: "wire", knows: &[], never: IMPURE },
    Room { name: "engine", knows: &["model", "wire"], never: IMPURE },
    Room { name: "identity", knows: &["model"], never: IMPURE },
    Room { name: "xds", knows: &["model"], never: IMPURE },
    Room { name: "proxy", knows: &["model", "wire", "engine", "identity", "xds"], never: TYPED },
    Room { name: "control", knows: &["model", "engine", "identity", "xds"], never: TYPED },
    Room { name: "app", knows: &["model", "wire", "engine", "identity", "xds", "proxy", "control"], never: &[] },
];

/// Paths that the pure crates must not name outside tests, with what to do instead.
const IMPURE_PATHS: &[(&str, &str)] = &[
    ("tokio", "no runtime: take what you need as an argument"),
    ("std::fs", "no files: take the text as an argument"),
    ("std::net::TcpStream", "no sockets: `proxy` owns them"),
    ("std::net::TcpListener", "no sockets: `proxy` owns them"),
    ("std::net::UdpSocket", "no sockets: `proxy` owns them"),
    ("std::net::ToSocketAddrs", "no lookups: `proxy` resolves names"),
    ("std::os::unix::net", "no sockets: `proxy` owns them"),
    ("std::process", "no processes"),
    ("std::thread", "no threads"),
    ("std::env", "no environment: take the value as an argument"),
    ("std::time::SystemTime", "no clock: time arrives as an argument"),
    ("std::time::Instant", "no clock: time arrives as an argument"),
];

/// Fragments of code that the pure crates must not hold outside tests, with what to do instead.
const IMPURE_FRAGMENTS: &[(&str, &str)] = &[
    ("Instant::now", "no clock: time arrives as an argument"),
    ("SystemTime::now", "no clock: time arrives as an argument"),
    ("thread_rng", "no dice: randomness arrives as an argument"),
    ("rand::", "no dice: randomness arrives as an argument"),
    ("thread_local!", "no hidden state: take it as an argument"),
    ("File::open", "no files: take the text as an argument"),
];

pub(crate) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for file in &tree.files {
        if file.name() == "Cargo.toml" {
            manifest(file, findings);
        }
    }
    for (file, source) in tree.rust() {
        if let Some(room) = room_of(file) {
            strangers(room, file, source, findings);
            if room.never == IMPURE {
                purity(room, file, source, findings);
            }
        }
        danger(file, source, findings);
    }
    one_danger_a_crate(tree, findings);
}

fn room_of(file: &File) -> Option<&'static Room> {
    ROOMS.iter().find(|room| file.home().strip_prefix("crates/") == Some(room.name))
}

/// Arrows between crates, as the manifest draws them.
fn manifest(file: &File, findings: &mut Vec<Finding>) {
    let Some(directory) = file.path.strip_prefix("crates/").and_then(|path| path.strip_suffix("/Cargo.toml")) else {
        return;
    };
    let Some(room) = ROOMS.iter().find(|room| room.name == directory) else {
        findings.push(Finding::fail(&file.path, 0, "walls", "a new crate needs its arrows in xtask/src/tidy/walls.rs"));
        return;
    };
    let mut section = String::new();
    let mut inherits_lints = false;
    for (number, line) in file.text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').to_owned();
            if let Some(name) = section.rsplit_once("dependencies.").map(|(_, name)| name.to_owned()) {
                arrow(room, file, number + 1, &name, section.contains("dev-"), findings);
            }
            continue;
        }
        inherits_lints |= section == "lints" && line.replace(' ', "") == "workspace=true";
        if section.ends_with("dependencies")
            && let Some(name) = line.split(['.', '=', ' ']).next()
            && !name.is_empty()
            && !name.starts_with('#')
        {
            arrow(room, file, number + 1, name, section.ends_with("dev-dependencies"), findings);
        }
    }
    if !inherits_lints {
        findings.push(Finding::fail(
            &file.path,
            0,
            "walls",
            "the crate does not inherit the lints: add `[lints] workspace = true`",
        ));
    }
}

fn arrow(room: &Room, file: &File, line: usize, name: &str, for_tests: bool, findings: &mut Vec<Finding>) {
    let name = name.trim_matches('"');
    match name.strip_prefix("transept-") {
        Some("testkit") if for_tests => {}
        Some(other) if room.knows.contains(&other) => {}
        Some(other) => findings.push(Finding::fail(
            &file.path,
            line,
            "walls",
            format!("`{}` may not know `{other}`; it may know: {}", room.name, list(room.knows)),
        )),
        None if room.never.contains(&name) && !for_tests => findings.push(Finding::fail(
            &file.path,
            line,
            "walls",
            format!("`{}` may not depend on `{name}`", room.name),
        )),
        None => {}
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none of ours".to_owned() } else { names.join(", ") }
}

/// Names of our crates in code that the crate may not know.
fn strangers(room: &Room, file: &File, source: &Source, findings: &mut Vec<Finding>) {
    for other in ROOMS.iter().filter(|other| other.name != room.name && !room.knows.contains(&other.name)) {
        let name = format!("transept_{}", other.name);
        for (line, code) in source.numbered() {
            if has_word(code, &name) {
                let message = format!("`{}` may not name `{name}`; it may know: {}", room.name, list(room.knows));
                findings.push(Finding::fail(&file.path, line, "walls", message));
            }
        }
    }
}

/// No runtime, socket, file, clock or dice in a pure crate; its tests may read files.
fn purity(room: &Room, file: &File, source: &Source, findings: &mut Vec<Finding>) {
    let mut breach = |line: usize, what: &str, instead: &str| {
        let message = format!("`{}` is pure and may not use `{what}`: {instead}", room.name);
        findings.push(Finding::fail(&file.path, line, "walls", message));
    };
    for import in source.imports().iter().filter(|import| !source.test[import.line - 1]) {
        for (path, instead) in IMPURE_PATHS {
            if import.path == *path || import.path.starts_with(&format!("{path}::")) {
                breach(import.line, path, instead);
            }
        }
    }
    for (line, code) in source.product() {
        for (path, instead) in IMPURE_PATHS {
            let inline = format!("{path}::");
            if super::rust::positions(code, path).any(|at| code[at..].starts_with(&inline))
                && !code.trim_start().starts_with("use ")
            {
                breach(line, path, instead);
            }
        }
        for (fragment, instead) in IMPURE_FRAGMENTS {
            let whole = code
                .match_indices(fragment)
                .any(|(at, _)| !code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_'));
            if whole {
                breach(line, fragment, instead);
            }
        }
    }
}

/// `unsafe` stands only in a module that says so, states its invariant and has a test.
fn danger(file: &File, source: &Source, findings: &mut Vec<Finding>) {
    let declared = declares_danger(source);
    if !declared {
        for (line, code) in source.numbered() {
            if has_word(code, "unsafe") && !code.contains("unsafe_code") {
                let message = "`unsafe` outside the crate's one module for it (`#![allow(unsafe_code)]`)";
                findings.push(Finding::fail(&file.path, line, "unsafe", message));
            }
        }
        return;
    }
    if !source.raw.iter().any(|line| line.starts_with("//!") && line.to_lowercase().contains("invariant")) {
        let message = "a module with `unsafe` states its invariant in its header (a `//!` line with the word)";
        findings.push(Finding::fail(&file.path, 0, "unsafe", message));
    }
    if !source.raw.iter().any(|line| line.trim_start().starts_with("#[cfg(test)]")) {
        findings.push(Finding::fail(&file.path, 0, "unsafe", "a module with `unsafe` has a test of its own"));
    }
}

fn declares_danger(source: &Source) -> bool {
    source.code.iter().any(|line| line.contains("allow(unsafe_code") || line.contains("expect(unsafe_code"))
}

fn one_danger_a_crate(tree: &Tree, findings: &mut Vec<Finding>) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (file, _) in tree.rust().filter(|(_, source)| declares_danger(source)) {
        match seen.iter().find(|(home, _)| *home == file.home()) {
            Some((home, first)) => {
                let message = format!("`{home}` already has its one module with `unsafe`: {first}");
                findings.push(Finding::fail(&file.path, 0, "unsafe", message));
            }
            None => seen.push((file.home(), &file.path)),
        }
    }
}
