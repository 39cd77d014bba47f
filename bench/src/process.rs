//! A pinned child process: its whole tree's CPU time and memory, signals, and its end.
//!
//! Used by `stage` and the scenarios. Reads `/proc` and so runs on Linux only; decides nothing about what is measured.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

/// The core of the load generator and the backend.
pub(crate) const LOAD_CORE: usize = 0;
/// The core of the proxy under test.
pub(crate) const PROXY_CORE: usize = 1;

/// Keeps the calling thread on one core.
///
/// # Errors
/// Those of the operating system.
pub(crate) fn stay_on(core: usize) -> anyhow::Result<()> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).context("cannot stay on a core")
}

/// CPU time of the calling thread since it began.
///
/// # Errors
/// Those of the operating system.
pub(crate) fn thread_cpu() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split_whitespace().next().and_then(|field| field.parse().ok()).context("no CPU time")?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// How long a program may take to end after a polite request.
const PATIENCE: Duration = Duration::from_secs(3);

/// Memory of a process tree, in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pages {
    /// Everything that is mapped and present; what several share counts in each.
    pub(crate) resident: u64,
    /// The part of it that belongs to no file.
    pub(crate) anonymous: u64,
    /// What is present, with what is shared divided by the number of those who share it.
    pub(crate) proportional: u64,
}

/// A running program with everything it started; ended on drop.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts a program pinned to one core; what it says goes to a file.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(
        name: &str,
        core: usize,
        program: &Path,
        arguments: &[String],
        log: &Path,
    ) -> anyhow::Result<Self> {
        let log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Its number, for programs that are asked about it.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the program still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// CPU time of every thread of the process tree since each began.
    ///
    /// # Errors
    /// When the program has ended.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut nanoseconds = 0;
        for pid in self.tree() {
            let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
                continue;
            };
            for thread in threads.flatten() {
                let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
                nanoseconds +=
                    text.split_whitespace().next().and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
            }
        }
        ensure!(nanoseconds > 0, "{} has ended", self.name);
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Proportional set size of the process tree, in KiB.
    ///
    /// # Errors
    /// When the program has ended.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        Ok(self.pages()?.proportional)
    }

    /// The pages of the process tree in memory.
    ///
    /// # Errors
    /// When the program has ended.
    pub(crate) fn pages(&self) -> anyhow::Result<Pages> {
        let mut pages = Pages::default();
        for pid in self.tree() {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            let field = |name: &str| line(name).split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
            pages.resident += field("Rss:").unwrap_or_default();
            pages.anonymous += field("Anonymous:").unwrap_or_default();
            pages.proportional += field("Pss:").unwrap_or_default();
        }
        ensure!(pages.resident > 0, "{} has ended", self.name);
        Ok(pages)
    }

    /// Sends a signal to the program itself, not to its children.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// The program and all its descendants.
    fn tree(&self) -> Vec<u32> {
        let mut found = vec![self.child.id()];
        let mut at = 0;
        while let Some(pid) = found.get(at).copied() {
            at += 1;
            let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
                continue;
            };
            for thread in threads.flatten() {
                let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
        }
        found
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let tree = self.tree();
        let _ = self.signal(Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        for pid in tree.into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Busy time of one core since the machine started, softirq and stolen time included.
///
/// # Errors
/// When `/proc/stat` has no such core.
pub(crate) fn core_busy(core: usize) -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{core} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name)).with_context(|| format!("no core {core}"))?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let idle: u64 = fields.get(3..5).unwrap_or_default().iter().sum();
    // The first eight fields are disjoint; guest time is contained in user time.
    let ticks = fields.iter().take(8).sum::<u64>() - idle;
    Ok(Duration::from_millis(ticks * 10))
}

/// Lets this process and its children open as many files as the system allows.
///
/// # Errors
/// When the limit cannot be set.
pub(crate) fn raise_file_limit() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit on open files")
}
