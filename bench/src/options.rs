//! What the command line asks for, and which peers this machine has.
//!
//! Called by `main` once. Looks for programs and builds our own; starts none of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::peers::Kind;
use crate::scenarios::Scenario;

/// Shown by `--help`.
pub(crate) const USAGE: &str = "\
usage: transept-bench [SCENARIO...] [OPTIONS]

scenarios (all when none is named):
  a  HTTP/1.1 keep-alive           b  the same under TLS           c  TLS handshakes
  d  HTTP/2 to an HTTP/1.1 backend e  HTTP/2 to an HTTP/2 backend  i  memory, idle and with 10,000 connections
  j  5,000 routes                  k  change of configuration under load
  h  latency at a fixed rate
two proxies of a mesh:
  m  HTTP/1.1                      n  bytes, small                 o  bytes in bulk
  p  new connections               q  latency at a fixed rate      r  memory, idle and with 10,000 endpoints
  s  a change on its way to 1,000 proxies
who may call, and how often:
  t  API key                       u  JWT RS256, each token once   v  JWT ES256, each token once
  w  JWT ES256, 16 tokens          x  rate limit, 16 keys          y  rate limit, a million keys
  z  a server is asked first       l  rate limit kept in Redis     aa requests signed by HMAC
  ab sessions of browsers          ac expressions (CEL)

options:
  --rounds N        rounds per scenario, order reversed in every second one (default 3)
  --seconds S       length of one measurement (default 3)
  --peers LIST      of nginx,haproxy,envoy,transept (default: all that are installed)
  --transept PATH   the binary to measure (default: built with `cargo build --release`)
  --envoy PATH      the envoy binary (default: `envoy` in the search path)
  --connections N   connections of scenario i (default 10000)
  --endpoints N     endpoints of scenarios r and s (default 10000)
  --proxies N       simulated proxies of scenario s (default 1000)
  --changes N       changes of each kind in scenario s (default 20)
  --order FILE      no scenario: write the linker script that puts what sidecars run through side by side; needs `valgrind`
  --json FILE       write every sample as JSON

Close other programs first: two cores are used, one by the load and the backend, one by the proxy under test.";

/// The parsed command line.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) rounds: usize,
    pub(crate) length: Duration,
    pub(crate) peers: Vec<Peer>,
    pub(crate) connections: usize,
    /// Endpoints that a proxy of a mesh knows.
    pub(crate) endpoints: usize,
    /// Simulated proxies, and changes of each kind that they are told of.
    pub(crate) proxies: usize,
    pub(crate) changes: usize,
    pub(crate) json: Option<PathBuf>,
    /// Where the functions that sidecars run through are to be written.
    pub(crate) order: Option<PathBuf>,
}

/// A program that this machine has.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) program: PathBuf,
    /// The first line the program says about its version.
    pub(crate) version: String,
}

impl Options {
    /// Parses the arguments; `None` when help was asked for.
    ///
    /// # Errors
    /// When an argument is unknown, a named peer or a load generator is not installed, or our own build fails.
    pub(crate) fn from_arguments(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Option<Self>> {
        let mut options = Self {
            scenarios: Vec::new(),
            rounds: 3,
            length: Duration::from_secs(3),
            peers: Vec::new(),
            connections: 10_000,
            endpoints: 10_000,
            proxies: 1_000,
            changes: 20,
            json: None,
            order: None,
        };
        let mut wanted: Option<Vec<Kind>> = None;
        let mut transept = None;
        let mut envoy = PathBuf::from("envoy");
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "-h" | "--help" => return Ok(None),
                "--rounds" => options.rounds = value()?.parse().context("--rounds takes a number")?,
                "--seconds" => {
                    options.length = Duration::from_secs_f64(value()?.parse().context("--seconds takes a number")?)
                }
                "--peers" => wanted = Some(value()?.split(',').map(Kind::named).collect::<anyhow::Result<_>>()?),
                "--transept" => transept = Some(PathBuf::from(value()?)),
                "--envoy" => envoy = PathBuf::from(value()?),
                "--connections" => options.connections = value()?.parse().context("--connections takes a number")?,
                "--endpoints" => options.endpoints = value()?.parse().context("--endpoints takes a number")?,
                "--proxies" => options.proxies = value()?.parse().context("--proxies takes a number")?,
                "--changes" => options.changes = value()?.parse().context("--changes takes a number")?,
                "--order" => options.order = Some(PathBuf::from(value()?)),
                "--json" => options.json = Some(PathBuf::from(value()?)),
                name => options.scenarios.push(Scenario::named(name)?),
            }
        }
        ensure!(options.rounds > 0, "--rounds takes at least 1");
        ensure!(options.endpoints > 9, "--endpoints takes at least 10");
        ensure!(options.proxies > 0 && options.changes > 0, "--proxies and --changes take at least 1");
        if options.scenarios.is_empty() {
            options.scenarios = Scenario::ALL.to_vec();
        }
        for tool in ["wrk", "h2load", "taskset", "curl"] {
            ensure!(find(Path::new(tool)).is_some(), "`{tool}` is not installed");
        }
        ensure!(find(Path::new("nginx")).is_some(), "`nginx` is not installed: it is the backend of every scenario");
        for kind in Kind::ALL {
            if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&kind)) {
                continue;
            }
            let program = match kind {
                Kind::Nginx => find(Path::new("nginx")),
                Kind::Haproxy => find(Path::new("haproxy")),
                Kind::Envoy => find(&envoy),
                Kind::Transept => Some(transept.take().map_or_else(build, Ok)?),
            };
            match program {
                Some(program) => options.peers.push(Peer { kind, version: version(kind, &program), program }),
                None if wanted.is_some() => bail!("{} is not installed", kind.name()),
                None => {}
            }
        }
        Ok(Some(options))
    }
}

/// Builds the release binary and says where it is: beside this program.
fn build() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--package", "transept-app"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("cannot run cargo; name a binary with --transept")?;
    ensure!(status.success(), "the release build failed");
    let here = std::env::current_exe()?;
    let target = here.parent().and_then(Path::parent).context("this program lies in no target directory")?;
    let program = target.join("release").join("transept");
    ensure!(program.exists(), "no binary at {}; name one with --transept", program.display());
    Ok(program)
}

/// The program as the search path finds it.
fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.exists().then(|| program.to_path_buf());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

fn version(kind: Kind, program: &Path) -> String {
    let flag = if kind == Kind::Envoy || kind == Kind::Transept { "--version" } else { "-v" };
    let Ok(output) = Command::new(program).arg(flag).output() else {
        return String::new();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    // Envoy says where it lies before it says what it is.
    line.rsplit("version:").next().unwrap_or(line).trim().to_owned()
}
