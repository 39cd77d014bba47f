//! Tells the binary which revision of the source it is made of.
//!
//! `TRANSEPT_REVISION` wins, for packagers who build from an archive; otherwise the revision is read out of `.git` beside the
//! workspace, without any program. It never fails the build: what is not found out is `unknown`.
//!
//! Optimised builds for Linux lay out functions in the order of `order.ld` beside this file, where the linker takes such a script (lld and GNU ld
//! do): what a sidecar runs through lies side by side, which is a third of its memory. See `docs/performance.md`.
#![allow(clippy::print_stdout, reason = "a build script speaks to cargo on standard output")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const VARIABLE: &str = "TRANSEPT_REVISION";
const ORDER: &str = "order.ld";

fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    let told = env::var(VARIABLE).ok().and_then(|text| clean(&text));
    let revision = told.or_else(read_git).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env={VARIABLE}={revision}");
    println!("cargo::rerun-if-changed={ORDER}");
    if let Some(script) = env::var_os("CARGO_MANIFEST_DIR").map(|home| PathBuf::from(home).join(ORDER))
        && is_optimised_for_linux()
        && can_link_by(&script).unwrap_or(false)
    {
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
    }
}

fn is_optimised_for_linux() -> bool {
    let is = |name: &str, value: &str| env::var_os(name).is_some_and(|told| told == *value);
    is("CARGO_CFG_TARGET_OS", "linux") && !is("OPT_LEVEL", "0")
}

/// Whether the linker that will be used takes the script, found out by linking the smallest program there is. None: nothing could be tried.
fn can_link_by(script: &Path) -> Option<bool> {
    let directory = PathBuf::from(env::var_os("OUT_DIR")?);
    let source = directory.join("least.rs");
    fs::write(&source, "fn main() {}\n").ok()?;
    let mut link = Command::new(env::var_os("RUSTC")?);
    link.arg(&source).arg("-o").arg(directory.join("least")).arg("--target").arg(env::var_os("TARGET")?);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        link.arg("-C").arg(format!("linker={}", linker.display()));
    }
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    link.args(flags.split('\u{1f}').filter(|flag| !flag.is_empty()));
    link.arg("-C").arg(format!("link-arg=-Wl,-T,{}", script.display()));
    let linked = link.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
    Some(linked.success())
}

/// The revision that is checked out, in twelve digits. Only the workspace's own repository counts: a copy of the source inside
/// another one has nothing to do with that one's revision.
fn read_git() -> Option<String> {
    let workspace = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?).join("../..");
    let git = find_git(&workspace.join(".git"))?;
    let head = read(&git.join("HEAD"))?;
    let Some(reference) = head.strip_prefix("ref: ") else {
        return shorten(&head);
    };
    // A linked working tree keeps its branches in the repository that it belongs to.
    let shared = fs::read_to_string(git.join("commondir")).map_or_else(|_| git.clone(), |dir| git.join(dir.trim()));
    if let Some(revision) = read(&shared.join(reference)) {
        return shorten(&revision);
    }
    let packed = read(&shared.join("packed-refs"))?;
    let line = packed.lines().find(|line| line.ends_with(&format!(" {reference}")))?;
    shorten(line)
}

/// `.git` is a directory, or a file that says where it is.
fn find_git(git: &Path) -> Option<PathBuf> {
    if git.is_dir() {
        return Some(git.to_owned());
    }
    let text = read(git)?;
    Some(git.parent()?.join(text.strip_prefix("gitdir: ")?))
}

/// The text of a file; the build runs again when it changes.
fn read(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    println!("cargo::rerun-if-changed={}", file.display());
    Some(text.trim().to_owned())
}

fn shorten(revision: &str) -> Option<String> {
    let digits = revision.get(..12)?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| digits.to_owned())
}

/// One word of harmless characters: it stands in metrics and JSON.
fn clean(text: &str) -> Option<String> {
    let text = text.trim();
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    (!text.is_empty() && text.bytes().all(harmless)).then(|| text.to_owned())
}
