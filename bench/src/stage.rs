//! What every scenario stands on: a directory, free ports, a certificate, the backend.
//!
//! Set by `main` once and handed to the scenarios. Refuses to start while anything else listens on its ports: a stray proxy
//! answers for every peer.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

use crate::mesh;
use crate::options::Options;
use crate::peers::{Mode, Plan, Ports, Routes, backend_configuration};
use crate::process::{LOAD_CORE, Process};

/// The backend over HTTP/1.1.
pub(crate) const BACKEND: u16 = 18_081;
/// The backend over HTTP/2 without TLS.
const BACKEND_H2: u16 = 18_082;
/// The backend over HTTP/1.1 that answers with another body.
pub(crate) const BACKEND_SECOND: u16 = 18_083;
/// The first port of the first peer; each has ten.
const FIRST: u16 = 18_100;
/// How many peers, of one scenario, may run at once.
const SLOTS: u16 = 8;
/// How long a program may take to listen.
const PATIENCE: Duration = Duration::from_secs(15);

/// Files of one self-signed certificate.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    /// Chain and key in one file.
    pub(crate) both: PathBuf,
}

/// The running backend and the material for peers.
#[derive(Debug)]
pub(crate) struct Stage {
    // Fields drop in order: programs end before their directory goes.
    _backend: Process,
    certificate: Certificate,
    directory: TempDir,
}

impl Stage {
    /// Checks the ports, makes the certificate and starts the backend.
    ///
    /// # Errors
    /// When a port is taken, a core is missing or the backend does not start.
    pub(crate) fn set(options: &Options) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism()?.get();
        ensure!(cores > 1, "two cores are needed, one for the load and one for the proxy");
        ensure!(!options.peers.is_empty(), "no peer to measure");
        let peers = (0..SLOTS).flat_map(|slot| slot_ports(slot).all());
        for port in [BACKEND, BACKEND_H2, BACKEND_SECOND].into_iter().chain(peers).chain(mesh::ports()) {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .with_context(|| format!("port {port} is taken: end what listens there"))?;
        }
        let directory = TempDir::with_prefix("transept-bench-")?;
        let certificate = Certificate::make(directory.path())?;
        let at = directory.path().join("backend");
        fs::create_dir_all(&at)?;
        let file = at.join("nginx.conf");
        fs::write(&file, backend_configuration(&at, BACKEND, BACKEND_H2, BACKEND_SECOND))?;
        let arguments = ["-c", &file.display().to_string(), "-p", &at.display().to_string()].map(str::to_owned);
        let mut backend = Process::start("the backend", LOAD_CORE, Path::new("nginx"), &arguments, &at.join("log"))?;
        for port in [BACKEND, BACKEND_H2, BACKEND_SECOND] {
            wait_until_open(port, &mut backend)?;
        }
        Ok(Self { _backend: backend, certificate, directory })
    }

    /// A directory for one peer of one scenario.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What a peer in a slot is told.
    pub(crate) fn plan(&self, slot: u16, routes: Routes) -> Plan<'_> {
        Plan {
            ports: slot_ports(slot),
            backend: BACKEND,
            backend_h2: BACKEND_H2,
            certificate: &self.certificate,
            routes,
            mode: Mode::Steady,
            guarding: None,
        }
    }
}

impl Certificate {
    fn make(directory: &Path) -> anyhow::Result<Self> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let signed = rcgen::CertificateParams::new(names)?.self_signed(&key)?;
        let certificate = Self {
            chain: directory.join("chain.pem"),
            key: directory.join("key.pem"),
            both: directory.join("both.pem"),
        };
        fs::write(&certificate.chain, signed.pem())?;
        fs::write(&certificate.key, key.serialize_pem())?;
        fs::write(&certificate.both, signed.pem() + &key.serialize_pem())?;
        Ok(certificate)
    }
}

fn slot_ports(slot: u16) -> Ports {
    Ports::from(FIRST + 10 * slot)
}

/// Waits until something accepts on a port.
///
/// # Errors
/// When the program ends first or takes too long.
pub(crate) fn wait_until_open(port: u16, process: &mut Process) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    while TcpStream::connect(address).is_err() {
        ensure!(process.is_running(), "it ended before it listened on port {port}");
        if Instant::now() > deadline {
            bail!("nothing listens on port {port}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
