//! The programs that are compared, each told to do the same work in its own words.
//!
//! Used by `stage` and the scenarios. The same work means: one worker, keep-alive to the backend, `X-Forwarded-For` added, no
//! access log, the same P-256 certificate. Every peer listens on four ports: see `Ports`.

mod envoy;
mod haproxy;
mod nginx;
mod transept;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::bail;
use rustix::process::Signal;

use crate::guards::Guarding;
use crate::options::Peer;
use crate::process::{PROXY_CORE, Process};
use crate::stage::{Certificate, wait_until_open};

pub(crate) use nginx::{backend_configuration, wrap};

/// A program that can stand between the load and the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Nginx,
    Haproxy,
    Envoy,
    Transept,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Nginx, Self::Haproxy, Self::Envoy, Self::Transept];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Transept => "transept",
        }
    }

    /// # Errors
    /// When no peer has the name.
    pub(crate) fn named(name: &str) -> anyhow::Result<Self> {
        match Self::ALL.into_iter().find(|kind| kind.name() == name) {
            Some(kind) => Ok(kind),
            None => bail!("`{name}` is not a peer: nginx, haproxy, envoy or transept"),
        }
    }
}

/// Ports of one running peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    /// HTTP/1.1 in, HTTP/1.1 to the backend.
    pub(crate) http: u16,
    /// The same under TLS.
    pub(crate) https: u16,
    /// HTTP/2 without TLS in, HTTP/1.1 to the backend.
    pub(crate) h2: u16,
    /// HTTP/2 without TLS in and to the backend.
    pub(crate) h2_to_h2: u16,
    /// The peer's own endpoint for operators, where it has one.
    pub(crate) admin: u16,
}

impl Ports {
    /// Five ports in a row.
    pub(crate) fn from(first: u16) -> Self {
        Self { http: first, https: first + 1, h2: first + 2, h2_to_h2: first + 3, admin: first + 4 }
    }

    pub(crate) fn all(self) -> [u16; 5] {
        [self.http, self.https, self.h2, self.h2_to_h2, self.admin]
    }

    pub(crate) fn http_address(self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.http).into()
    }
}

/// What a peer is configured to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) ports: Ports,
    /// The backend that speaks HTTP/1.1.
    pub(crate) backend: u16,
    /// The backend that speaks HTTP/2 without TLS.
    pub(crate) backend_h2: u16,
    pub(crate) certificate: &'a Certificate,
    pub(crate) routes: Routes,
    pub(crate) mode: Mode,
    /// Who is let through the plain port.
    pub(crate) guarding: Option<&'a Guarding>,
}

/// Whether a peer must be able to change its configuration, where that takes more processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Steady,
    Reloadable,
}

/// The routes of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Routes {
    /// Everything goes to the backend.
    Any,
    /// As many hosts with ten path prefixes each, counted from the last one down.
    Table { hosts: usize, prefixes: usize },
}

impl Routes {
    /// Number of hosts of the largest table; the last host is in every table.
    pub(crate) const HOSTS: usize = 500;
    /// Number of prefixes per host of the largest table.
    pub(crate) const PREFIXES: usize = 10;
    /// The host of the last route.
    pub(crate) const LAST_HOST: &'static str = "h499.test";
    /// A path under the last route's prefix.
    pub(crate) const LAST_PATH: &'static str = "/p9/x";

    /// The hosts and path prefixes of a table.
    pub(crate) fn table(hosts: usize, prefixes: usize) -> impl Iterator<Item = (String, Vec<String>)> {
        (Self::HOSTS - hosts..Self::HOSTS).map(move |host| {
            let paths = (Self::PREFIXES - prefixes..Self::PREFIXES).map(|prefix| format!("/p{prefix}")).collect();
            (format!("h{host}.test"), paths)
        })
    }
}

/// A peer that runs, with the directory of its configuration.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) peer: Peer,
    pub(crate) ports: Ports,
    pub(crate) process: Process,
    directory: PathBuf,
}

impl Running {
    /// Writes the configuration into `directory` and starts the peer; returns before it listens.
    ///
    /// # Errors
    /// When the configuration cannot be written or the program cannot be started.
    pub(crate) fn launch(peer: &Peer, plan: &Plan<'_>, directory: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(directory)?;
        let arguments = match peer.kind {
            Kind::Nginx => nginx::arguments(plan, directory)?,
            Kind::Haproxy => haproxy::arguments(plan, directory)?,
            Kind::Envoy => envoy::arguments(plan, directory)?,
            Kind::Transept => transept::arguments(plan, directory)?,
        };
        let process = Process::start(peer.kind.name(), PROXY_CORE, &peer.program, &arguments, &directory.join("log"))?;
        Ok(Self { peer: peer.clone(), ports: plan.ports, process, directory: directory.to_path_buf() })
    }

    /// Like `launch`, and waits until the peer listens on all its ports.
    ///
    /// # Errors
    /// Also when it ends or does not listen in time; the error holds what it said.
    pub(crate) fn start(peer: &Peer, plan: &Plan<'_>, directory: &Path) -> anyhow::Result<Self> {
        let mut running = Self::launch(peer, plan, directory)?;
        let ports = plan.ports;
        for port in [ports.http, ports.https, ports.h2, ports.h2_to_h2] {
            if let Err(error) = wait_until_open(port, &mut running.process) {
                let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
                bail!("{} did not start: {error:#}\n{log}", peer.kind.name());
            }
        }
        Ok(running)
    }

    /// Sends the traffic of the plain port to another backend while the peer runs.
    ///
    /// # Errors
    /// When the new configuration cannot be written or the program is gone.
    pub(crate) fn switch(&self, plan: &Plan<'_>) -> anyhow::Result<()> {
        match self.peer.kind {
            Kind::Nginx => {
                nginx::arguments(plan, &self.directory)?;
                self.process.signal(Signal::HUP)
            }
            Kind::Haproxy => {
                haproxy::arguments(plan, &self.directory)?;
                self.process.signal(Signal::USR2)
            }
            Kind::Envoy => envoy::write_routes(plan, &self.directory),
            Kind::Transept => transept::write_routes(plan, &self.directory),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.peer.kind.name()
    }
}

/// Replaces a file in one step, as an editor or a mounted volume does.
pub(crate) fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let next = path.with_extension("next");
    fs::write(&next, text)?;
    fs::rename(&next, path)?;
    Ok(())
}
