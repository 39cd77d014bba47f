//! A control plane of ours as a process, and sidecars that join it.
//!
//! Called by the scenarios of the mesh. Its files are a directory, in which a change is a rename.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::client::Client;
use crate::peers::replace;
use crate::process::{PROXY_CORE, Process};

/// How long something may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A control plane that runs.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) process: Process,
    pub(super) address: String,
    program: PathBuf,
    directory: PathBuf,
}

impl Control {
    /// Starts one with these files on a core, and waits until it can be asked.
    ///
    /// # Errors
    /// When it does not start; the error holds what it said.
    pub(super) fn start(
        program: &Path,
        core: usize,
        port: u16,
        directory: &Path,
        files: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let sources = directory.join("files");
        fs::create_dir_all(&sources)?;
        for (name, text) in files {
            fs::write(sources.join(name), text)?;
        }
        let address = format!("127.0.0.1:{port}");
        let state = directory.join("control").display().to_string();
        let sources = sources.display().to_string();
        let arguments = ["control", &sources, "--listen", &address, "--state", &state].map(str::to_owned);
        let log = directory.join("control.log");
        let process = Process::start("the control plane", core, program, &arguments, &log)?;
        let mut control = Self { process, address, program: program.to_path_buf(), directory: directory.to_path_buf() };
        let begin = Instant::now();
        while !fs::read_to_string(&log)?.contains("control plane listening on") {
            let wrong = || format!("no control plane:\n{}", fs::read_to_string(&log).unwrap_or_default());
            ensure!(control.process.is_running() && begin.elapsed() < PATIENCE, "{}", wrong());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(control)
    }

    /// Puts a file in the place of the one of that name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn change(&self, name: &str, text: &str) -> anyhow::Result<()> {
        replace(&self.directory.join("files").join(name), text)
    }

    /// A directory of this mesh.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The text of a join token for any number of instances of a service.
    ///
    /// # Errors
    /// When none is made.
    pub(super) fn token(&self, service: &str) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command.args(["token", "create", "--reusable", "--service", service, "--state"]).arg(self.path("control"));
        let output = command.output().context("cannot ask for a token")?;
        ensure!(output.status.success(), "no token: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A sidecar of a service on the core of proxies, with one worker, maybe as the argument of another program; returns before it is
    /// ready.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn sidecar(&self, under: &[String], service: &str, arguments: &[String]) -> anyhow::Result<Process> {
        let token = self.path(&format!("{service}.token"));
        fs::write(&token, self.token(service)?)?;
        let (token, state) = (token.display().to_string(), self.path(service).display().to_string());
        let fixed = ["sidecar", "--service", service, "--name", service, "--control", &self.address, "--state", &state];
        let usual = ["--token-file", &token, "--workers", "1", "--access-log", "off"];
        let own = self.program.display().to_string();
        let mut all = under.to_vec();
        all.push(own);
        all.extend(fixed.into_iter().chain(usual).map(str::to_owned).chain(arguments.iter().cloned()));
        let program = PathBuf::from(all.remove(0));
        let log = self.path(&format!("{service}.log"));
        Process::start(service, PROXY_CORE, &program, &all, &log)
    }

    /// What everybody said, for an error.
    pub(super) fn said(&self) -> String {
        let read = |name| fs::read_to_string(self.path(name)).unwrap_or_default();
        ["control.log", "cart.log", "web.log"].map(read).concat()
    }
}

/// Asks again until the backend answers on a port.
///
/// # Errors
/// When it does not in time.
pub(super) fn until_answered(port: u16) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let asked = Client::connect(([127, 0, 0, 1], port).into()).and_then(|mut client| client.ask("cart", "/"));
        match asked {
            Ok(answer) if answer.status == 200 && answer.body.len() == 1024 => return Ok(()),
            Ok(answer) => ensure!(begin.elapsed() < PATIENCE, "port {port} answers {}", answer.status),
            Err(error) => ensure!(begin.elapsed() < PATIENCE, "port {port} does not answer: {error:#}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
