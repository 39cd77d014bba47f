//! The mesh DNS server: sockets, bounds, and the table in force. What becomes of a question is in `answer`.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_resolver::proto::op::ResponseCode;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::{self, Outcome};
use super::forward::{Forwarder, Transport, read_framed, write_framed};
use super::system::{Resolvers, System};
use super::table::Table;

/// Questions that are with other name servers at a time; more are answered with a failure.
const FORWARDED: usize = 512;
/// TCP connections at a time; more are closed.
const CONNECTIONS: usize = 128;
/// How long a TCP connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);
/// How often the file that names the name servers is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// The longest question by UDP that is taken whole.
const LONGEST: usize = 4096;
/// Ports that are tried when any will do, until one is free for UDP and TCP on every address.
const PORTS: usize = 16;

/// How a name server runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where questions are taken, by UDP and TCP. With port 0 a free port is chosen, the same for all. An IPv6 address that
    /// the machine does not have is left out, unless it is the first.
    pub listen: Vec<SocketAddr>,
    /// Who is asked for the names of others.
    pub resolvers: Resolvers,
    /// Put on sockets to them, so that the rules of `capture` leave them alone: [`MARK`](crate::capture::MARK), which needs
    /// CAP_NET_ADMIN. None where nothing is captured.
    pub mark: Option<u32>,
}

/// How many questions were answered how, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// From the table.
    pub answered: u64,
    /// By other name servers.
    pub forwarded: u64,
    /// With a failure, for want of an answer of theirs.
    pub failed: u64,
    /// Not at all: no questions.
    pub ignored: u64,
}

#[derive(Debug, Default)]
struct Counters {
    answered: AtomicU64,
    forwarded: AtomicU64,
    failed: AtomicU64,
    ignored: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    table: ArcSwap<Table>,
    system: ArcSwap<System>,
    /// Those that the system names, for who captures the questions to them.
    servers: watch::Sender<Vec<SocketAddr>>,
    forwarder: Forwarder,
    forwarded: Semaphore,
    connections: Arc<Semaphore>,
    counters: Counters,
}

/// A running name server. Dropping it ends it.
#[derive(Debug)]
pub struct NameServer {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    _tasks: JoinSet<()>,
}

impl NameServer {
    /// Starts it on the tokio runtime of the caller.
    ///
    /// # Errors
    /// When an address cannot be listened on, or the file that names the name servers cannot be read.
    pub fn start(options: &Options, table: Table) -> io::Result<NameServer> {
        let sockets = bind(&options.listen)?;
        let addresses = sockets.iter().map(|(udp, _)| udp.local_addr()).collect::<io::Result<Vec<_>>>()?;
        let system = options.resolvers.read(&addresses)?;
        let (servers, _) = watch::channel(system.servers.clone());
        let shared = Arc::new(Shared {
            table: ArcSwap::from_pointee(table),
            system: ArcSwap::from_pointee(system),
            servers,
            forwarder: Forwarder::new(options.mark),
            forwarded: Semaphore::new(FORWARDED),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            counters: Counters::default(),
        });
        let mut tasks = JoinSet::new();
        for (udp, tcp) in sockets {
            tasks.spawn(take_datagrams(shared.clone(), Arc::new(UdpSocket::from_std(udp)?)));
            tasks.spawn(take_connections(shared.clone(), TcpListener::from_std(tcp)?));
        }
        if let Resolvers::File(path) = &options.resolvers {
            tasks.spawn(follow(shared.clone(), path.clone(), addresses.clone()));
        }
        Ok(NameServer { shared, addresses, _tasks: tasks })
    }

    /// Where questions are taken.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Puts another table in force: the next question is answered from it.
    pub fn update(&self, table: Table) {
        self.shared.table.store(Arc::new(table));
    }

    /// The table in force.
    pub fn table(&self) -> Arc<Table> {
        self.shared.table.load_full()
    }

    /// The name servers that the system names, those of our own left out: now, and whenever others are named.
    pub fn servers(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.shared.servers.subscribe()
    }

    /// How many questions were answered how.
    pub fn counts(&self) -> Counts {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            answered: read(&counters.answered),
            forwarded: read(&counters.forwarded),
            failed: read(&counters.failed),
            ignored: read(&counters.ignored),
        }
    }
}

type Pair = (StdUdpSocket, StdTcpListener);

/// Opens every address, all with the same port if any will do.
fn bind(addresses: &[SocketAddr]) -> io::Result<Vec<Pair>> {
    let any_port = addresses.first().is_some_and(|address| address.port() == 0);
    let mut outcome = bind_once(addresses);
    for _ in 1..if any_port { PORTS } else { 1 } {
        match &outcome {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => outcome = bind_once(addresses),
            _ => break,
        }
    }
    outcome
}

fn bind_once(addresses: &[SocketAddr]) -> io::Result<Vec<Pair>> {
    let mut sockets: Vec<Pair> = Vec::new();
    for &address in addresses {
        let mut address = address;
        if let (0, Some((first, _))) = (address.port(), sockets.first()) {
            address.set_port(first.local_addr()?.port());
        }
        match bind_pair(address) {
            Ok(pair) => sockets.push(pair),
            Err(error) if address.is_ipv6() && !sockets.is_empty() && is_absent(&error) => {
                tracing::debug!(%address, %error, "no names are answered on an address that this machine does not have");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

fn is_absent(error: &io::Error) -> bool {
    let no_family = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(no_family)
}

fn bind_pair(address: SocketAddr) -> io::Result<Pair> {
    let udp = StdUdpSocket::bind(address)?;
    let tcp = StdTcpListener::bind(udp.local_addr()?)?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp))
}

/// Reads the file again and again. What was read last stays while it cannot be read.
async fn follow(shared: Arc<Shared>, path: PathBuf, own: Vec<SocketAddr>) {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Ok(text) = tokio::fs::read_to_string(&path).await {
            shared.follow(System::parse(&text, &own));
        }
    }
}

async fn take_datagrams(shared: Arc<Shared>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; LONGEST];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // Told of a reply that did not arrive, as when the program is gone.
                tracing::debug!(%error, "a question was not received");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let message = buffer.get(..length).unwrap_or_default();
        match shared.decide(message) {
            Outcome::Reply(reply) => drop(socket.send_to(&reply, from).await),
            Outcome::Ignore => {}
            Outcome::Forward { question_end, otherwise } => {
                let (shared, socket, message) = (shared.clone(), socket.clone(), message.to_vec());
                // So many tasks only as can hold a permit, and a few that are about to see that there is none.
                tokio::spawn(async move {
                    if let Some(reply) = shared.forward(&message, question_end, otherwise, Transport::Udp).await {
                        // The program may be gone.
                        let _ = socket.send_to(&reply, from).await;
                    }
                });
            }
        }
    }
}

async fn take_connections(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                // When descriptors are used up this comes back at once.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = shared.connections.clone().try_acquire_owned() else {
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            // A connection that breaks has nobody to tell.
            let _ = converse(&shared, stream).await;
            drop(permit);
        });
    }
}

/// Answers the questions of a connection one after the other, until it says nothing for a while.
async fn converse(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let message = timeout(IDLE, read_framed(&mut stream)).await??;
        let reply = match shared.decide(&message) {
            Outcome::Reply(reply) => Some(reply),
            Outcome::Ignore => None,
            Outcome::Forward { question_end, otherwise } => {
                shared.forward(&message, question_end, otherwise, Transport::Tcp).await
            }
        };
        let Some(reply) = reply else {
            return Ok(());
        };
        timeout(IDLE, write_framed(&mut stream, &reply)).await??;
    }
}

impl Shared {
    /// Asks those that the system names now.
    fn follow(&self, system: System) {
        if **self.system.load() == system {
            return;
        }
        tracing::info!(servers = ?system.servers, "other name servers are asked from now on");
        let servers = system.servers.clone();
        self.system.store(Arc::new(system));
        self.servers.send_replace(servers);
    }

    fn decide(&self, message: &[u8]) -> Outcome {
        let outcome = answer::decide(message, &self.table.load(), &self.system.load());
        match &outcome {
            Outcome::Reply(_) => self.counters.answered.fetch_add(1, Ordering::Relaxed),
            Outcome::Ignore => self.counters.ignored.fetch_add(1, Ordering::Relaxed),
            Outcome::Forward { .. } => 0,
        };
        outcome
    }

    async fn forward(
        &self,
        message: &[u8],
        question_end: usize,
        otherwise: ResponseCode,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let system = self.system.load_full();
        let reply = match self.forwarded.try_acquire() {
            Ok(_permit) => self.forwarder.ask(&system.servers, message, question_end, transport).await,
            Err(_) => None,
        };
        match reply {
            Some(reply) => {
                self.counters.forwarded.fetch_add(1, Ordering::Relaxed);
                Some(reply)
            }
            None => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                answer::failure(message, otherwise)
            }
        }
    }
}

#[cfg(test)]
mod tests;
