//! The real binary as a child process: found, started on given files, awaited, asked, stopped.
//!
//! Called by road tests and by the conformance runner. The only waiting by time is the polling of the admin endpoint. A child
//! that is not stopped is killed when its [`Running`] is dropped.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::client::{Answer, Endpoint, Request, exchange};

const POLL: Duration = Duration::from_millis(10);
/// How long a child that was killed is waited for.
const LAST_MOMENT: Duration = Duration::from_secs(5);
const ADMIN_LINE: &str = "admin listening on http://";

/// Finds the binary: `TRANSEPT_BIN`, or `transept` beside the test executable or above it.
///
/// # Errors
/// There is none.
pub fn find_binary() -> io::Result<PathBuf> {
    if let Some(named) = std::env::var_os("TRANSEPT_BIN") {
        return Ok(PathBuf::from(named));
    }
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).map(|dir| dir.join("transept")).find(|path| path.is_file());
    found.ok_or_else(|| {
        let hint = "no binary `transept` beside this executable; build it with `cargo build -p transept-app`, or set TRANSEPT_BIN";
        io::Error::new(io::ErrorKind::NotFound, hint)
    })
}

/// An address for a listener that nobody else uses: a loopback address of this process with a port that was free on it.
///
/// # Errors
/// Nothing can be bound.
pub fn unused_address() -> io::Result<SocketAddr> {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let process = std::process::id().to_be_bytes();
    let host = NEXT.fetch_add(1, Ordering::Relaxed) % 250 + 1;
    let address = Ipv4Addr::new(127, 128 | process[2], process[3], host);
    TcpListener::bind((address, 0))?.local_addr()
}

/// A port of 127.0.0.1 for who cannot be given another address. It is below those that the system gives to connections, of which one
/// could else have it the moment after.
///
/// # Panics
/// When thousands of them are taken.
pub fn unused_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or(0).wrapping_mul(61);
    let ports = std::iter::repeat_with(|| FIRST + process.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT);
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    ports.take(COUNT.into()).find(free).expect("a port that nobody has")
}

/// Why the binary is not running.
#[derive(Debug)]
pub struct LaunchError {
    /// One sentence.
    pub why: String,
    /// Everything that it has printed.
    pub log: String,
}

impl fmt::Display for LaunchError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}\n{}", self.why, self.log)
    }
}

impl std::error::Error for LaunchError {}

/// How to start the binary.
#[derive(Clone, Debug)]
pub struct Launch {
    binary: PathBuf,
    arguments: Vec<OsString>,
}

impl Launch {
    /// `run` of this binary (see [`find_binary`]) on these files or directories, with the admin
    /// endpoint on a free port.
    pub fn run<P: AsRef<Path>>(binary: &Path, sources: impl IntoIterator<Item = P>) -> Launch {
        let sources = sources.into_iter();
        let sources = sources.map(|source| source.as_ref().as_os_str().to_owned());
        let run = std::iter::once(OsString::from("run"));
        Launch::subcommand(binary, run.chain(sources))
    }

    /// Any subcommand that serves traffic, such as `["proxy", "--to", URL]`, with the admin endpoint
    /// on a free port.
    pub fn subcommand<A: Into<OsString>>(binary: &Path, arguments: impl IntoIterator<Item = A>) -> Launch {
        let mut arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        arguments.extend(["--admin".into(), "127.0.0.1:0".into()]);
        Launch { binary: binary.to_owned(), arguments }
    }

    /// With one more argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Launch {
        self.arguments.push(argument.into());
        self
    }

    /// Starts it and waits until it says that it is ready.
    ///
    /// # Errors
    /// It cannot be started, ends, or is not ready within `patience`.
    pub async fn start(self, patience: Duration) -> Result<Running, LaunchError> {
        let deadline = Instant::now() + patience;
        let mut child = Command::new(&self.binary)
            .args(&self.arguments)
            // Tests that run in a pod see what users outside of one see.
            .env_remove("KUBERNETES_SERVICE_HOST")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|why| LaunchError {
                why: format!("{} cannot be started: {why}", self.binary.display()),
                log: String::new(),
            })?;
        let log = Log::default();
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(log.clone().collect(stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(log.clone().collect(stderr));
        }
        let failed = |why: String| LaunchError { why, log: log.text() };
        let admin = tokio::select! {
            line = log.line_with(ADMIN_LINE) => line,
            ended = child.wait() => {
                // What it printed last may still be on its way through the pipe.
                let _drained = timeout(POLL * 10, log.grown.notified()).await;
                return Err(failed(format!("it ended before it was ready: {ended:?}")));
            }
            () = tokio::time::sleep_until(deadline) => return Err(failed("it does not name its admin address".to_owned())),
        };
        let admin = admin.split(ADMIN_LINE).nth(1).and_then(|rest| rest.split('"').next()?.trim().parse().ok());
        let Some(admin) = admin else {
            return Err(failed("its admin line has no address".to_owned()));
        };
        let mut running = Running { child, admin, log };
        match timeout_at(deadline, running.become_ready()).await {
            Ok(Ok(())) => Ok(running),
            Ok(Err(why)) => Err(LaunchError { why, log: running.log() }),
            Err(_) => Err(LaunchError { why: "it does not become ready".to_owned(), log: running.log() }),
        }
    }
}

/// A running binary.
#[derive(Debug)]
pub struct Running {
    child: Child,
    admin: SocketAddr,
    log: Log,
}

impl Running {
    /// Where its admin endpoint listens.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Everything it has printed so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Returns the first line that contains `text`, printed or to be printed. Without a limit: wrap it in a timeout.
    pub async fn log_line_with(&self, text: &str) -> String {
        self.log.line_with(text).await
    }

    /// Asks the admin endpoint.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn ask(&self, path: &str) -> io::Result<Answer> {
        let request = Request::get(&self.admin.to_string(), path);
        exchange(&Endpoint::http1(self.admin), &request).await.outcome.map_err(io::Error::other)
    }

    /// The status of all objects, as JSON.
    ///
    /// # Errors
    /// It does not answer, or not with JSON.
    pub async fn status(&self) -> io::Result<serde_json::Value> {
        let answer = self.ask("/status").await?;
        if answer.status != 200 {
            return Err(io::Error::other(format!("/status answers {}", answer.status)));
        }
        serde_json::from_slice(&answer.body).map_err(io::Error::other)
    }

    /// The metrics, as text.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metrics(&self) -> io::Result<String> {
        let answer = self.ask("/metrics").await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Bytes of memory that it has in use, as the system counts them.
    ///
    /// # Errors
    /// It has ended, or the system does not tell.
    pub fn resident(&self) -> io::Result<usize> {
        let pid = self.child.id().ok_or_else(|| io::Error::other("it has ended"))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<usize>().ok());
        kibibytes.map(|count| count * 1024).ok_or_else(|| io::Error::other("no VmRSS"))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let raw = self.child.id().and_then(|id| i32::try_from(id).ok());
        let pid = raw.and_then(Pid::from_raw).ok_or_else(|| io::Error::other("it has ended"))?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until it has ended by itself, or by a signal that was sent. Without a limit: wrap it in a timeout.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to end (SIGTERM) and waits; kills it when it takes longer than `patience`.
    ///
    /// # Errors
    /// It did not end in time, or had ended before.
    pub async fn stop(mut self, patience: Duration) -> io::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        match timeout(patience, self.child.wait()).await {
            Ok(ended) => ended,
            Err(_) => {
                self.child.kill().await?;
                Err(io::Error::new(io::ErrorKind::TimedOut, "it did not end after SIGTERM"))
            }
        }
    }

    async fn become_ready(&mut self) -> Result<(), String> {
        loop {
            if let Ok(Some(ended)) = self.child.try_wait() {
                return Err(format!("it ended before it was ready: {ended}"));
            }
            if let Ok(answer) = self.ask("/readyz").await
                && answer.status == 200
            {
                return Ok(());
            }
            sleep(POLL).await;
        }
    }
}

/// Kills it and waits for its end: whoever is started next at the same address is to find it free.
impl Drop for Running {
    fn drop(&mut self) {
        let over = Instant::now() + LAST_MOMENT;
        // It may have ended by itself.
        let _ = self.child.start_kill();
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < over {
            std::thread::yield_now();
        }
    }
}

/// What a child prints, line by line. Clones share it.
#[derive(Clone, Debug, Default)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    grown: Arc<Notify>,
}

impl Log {
    async fn collect(self, from: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            self.grown.notify_waiters();
        }
    }

    fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    async fn line_with(&self, text: &str) -> String {
        loop {
            let grown = self.grown.notified();
            tokio::pin!(grown);
            // Enabled before looking, so that a line between looking and waiting is not missed.
            grown.as_mut().enable();
            let found = {
                let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.iter().find(|line| line.contains(text)).cloned()
            };
            match found {
                Some(line) => return line,
                None => grown.await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_ends_early_is_reported_with_what_it_printed() {
        let launch =
            Launch { binary: PathBuf::from("/bin/sh"), arguments: vec!["-c".into(), "echo broken >&2; exit 3".into()] };
        let failure = launch.start(Duration::from_secs(10)).await.expect_err("it ends");
        assert!(failure.why.contains("ended"), "{failure}");
        assert!(failure.log.contains("broken"), "{failure}");
    }

    #[test]
    fn addresses_are_told_apart() {
        let first = unused_address().expect("binds");
        let second = unused_address().expect("binds");
        assert_ne!(first, second);
        assert!(first.ip().is_loopback());
    }
}
