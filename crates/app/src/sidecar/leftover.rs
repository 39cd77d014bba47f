//! The program of a sidecar that was killed: it lives on, and holds the port that the next one needs.
//!
//! Called by `sidecar` around the start of the program. Whose number a process has is told by when it was started, and in which boot and
//! namespace of processes: a number alone may be somebody else's by now.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::kept;
use super::program::Mail;

/// The file, in the state directory.
const KEPT: &str = "program";
/// Where the start of a process is among the fields of `/proc/PID/stat` that follow the name: field 22 (proc(5)).
const STARTED: usize = 22 - 3;

/// How often it is looked whether the program has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What became of a program that was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// There is none, or none any more.
    None,
    /// It may live on: a signal has told us to stop.
    Told,
}

/// Which process it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    pid: i32,
    /// When it was started, in ticks since the boot.
    started: u64,
    /// Which boot, and which namespace of processes: numbers of others mean nothing.
    world: String,
}

impl Mark {
    /// The process that has this number now.
    fn of(pid: i32) -> Option<Mark> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        let world = format!("{}/{}", boot.trim(), namespace.display());
        Some(Mark { pid, started: started_of(&stat)?, world })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{} {} {}", self.pid, self.started, self.world)
    }
}

impl FromStr for Mark {
    type Err = ();

    fn from_str(text: &str) -> Result<Mark, ()> {
        let mut words = text.split_ascii_whitespace();
        let mut word = || words.next().ok_or(());
        let (pid, started, world) = (word()?, word()?, word()?);
        Ok(Mark { pid: pid.parse().map_err(drop)?, started: started.parse().map_err(drop)?, world: world.to_owned() })
    }
}

/// When a process was started, by its `/proc/PID/stat`. The name, in parentheses, may hold blanks and parentheses.
fn started_of(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(STARTED)?.parse().ok()
}

/// Keeps who the program is that was just started.
pub(super) fn keep(state: &Path, pid: i32) {
    let kept = Mark::of(pid).ok_or(io::ErrorKind::Unsupported.into()).and_then(|mark| {
        let text = mark.to_string();
        kept::put(state, KEPT, &text)
    });
    if let Err(error) = kept {
        tracing::debug!(%error, "which process the program is cannot be kept: should the sidecar be killed, nobody ends it");
    }
}

/// Ends the program of the sidecar before, if that was killed: as at any stop by SIGTERM, and by SIGKILL after `patience`.
pub(super) async fn end(state: &Path, patience: Duration, mail: &mut Mail) -> Left {
    let Some((mark, process)) = find(state) else { return Left::None };
    tracing::warn!(
        pid = mark.pid,
        "the sidecar before was killed, and its program is still there: it is told to end, so that there are not two"
    );
    if !send(&mark, &process, Signal::TERM) {
        return Left::None;
    }
    tokio::select! {
        () = ended(&process) => return Left::None,
        _ = mail.stop() => return Left::Told,
        () = tokio::time::sleep(patience) => {}
    }
    tracing::warn!(pid = mark.pid, "the program of the sidecar before does not end: it is killed");
    if !send(&mark, &process, Signal::KILL) {
        return Left::None;
    }
    tokio::select! {
        () = ended(&process) => Left::None,
        _ = mail.stop() => Left::Told,
    }
}

/// The program that is left, if it still is.
fn find(state: &Path) -> Option<(Mark, OwnedFd)> {
    let mark: Mark = kept::read(state, KEPT)?.parse().ok()?;
    // First hold it, then see who it is: between the two nobody else can get its number.
    let process = pidfd_open(Pid::from_raw(mark.pid)?, PidfdFlags::empty()).ok()?;
    (Mark::of(mark.pid)? == mark).then_some((mark, process))
}

/// Waits for the end of a process that is not a child, so that no signal tells of it.
async fn ended(process: &OwnedFd) {
    // It can be read from when it has ended (pidfd_open(2)). A system that cannot say so has nothing to wait for.
    let lives = || {
        let looked = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&Timespec::default()));
        matches!(looked, Ok(0) | Err(rustix::io::Errno::INTR))
    };
    while lives() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Sends a signal; whether there is somebody to wait for.
fn send(mark: &Mark, process: &OwnedFd, signal: Signal) -> bool {
    let sent = pidfd_send_signal(process, signal);
    match sent {
        Ok(()) => true,
        Err(rustix::io::Errno::SRCH) => false,
        Err(error) => {
            tracing::warn!(pid = mark.pid, %error, "the program of the sidecar before cannot be told to end");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Child, Command};

    use super::*;

    fn sh(script: &str) -> Child {
        Command::new("/bin/sh").args(["-c", script]).spawn().expect("it starts")
    }

    fn pid(child: &Child) -> i32 {
        child.id().try_into().expect("a number")
    }

    #[test]
    fn a_mark_is_read_as_it_was_written_and_names_its_process_alone() {
        let own = i32::try_from(std::process::id()).expect("a number");
        let mark = Mark::of(own).expect("it is there");
        assert_eq!(mark.to_string().parse(), Ok(mark.clone()));
        for junk in ["", "7", "7 8", "a 8 b", "7 b c"] {
            assert_eq!(junk.parse::<Mark>(), Err(()), "{junk}");
        }
        assert_eq!(
            started_of("7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 4711 1 1"),
            Some(4711),
            "after a name with a parenthesis"
        );
        // The number of the own process, that somebody else had before.
        let state = tempfile::tempdir().expect("a directory");
        let other = Mark { started: mark.started + 1, ..mark };
        kept::put(state.path(), KEPT, &other.to_string()).expect("kept");
        assert!(find(state.path()).is_none());
    }

    #[tokio::test]
    async fn what_is_left_ends_as_at_a_stop_and_by_force_when_it_does_not() {
        let mut mail = Mail::open().expect("signals");
        let scripts = [("sleep 600 & wait", 15), ("trap '' TERM; echo > \"$0\"; while :; do sleep 0.05; done", 9)];
        for (script, signal) in scripts {
            let state = tempfile::tempdir().expect("a directory");
            assert_eq!(end(state.path(), Duration::ZERO, &mut mail).await, Left::None, "nothing is kept");
            let ready = state.path().join("ready");
            let mut child = Command::new("/bin/sh").args(["-c", script]).arg(&ready).spawn().expect("it starts");
            keep(state.path(), pid(&child));
            while signal == 9 && !ready.exists() {
                tokio::task::yield_now().await;
            }
            let patience = if signal == 9 { Duration::from_millis(10) } else { Duration::from_secs(60) };
            assert_eq!(end(state.path(), patience, &mut mail).await, Left::None);
            assert_eq!(child.wait().expect("it ends").signal(), Some(signal));
            assert_eq!(end(state.path(), Duration::ZERO, &mut mail).await, Left::None, "it is buried");
        }
    }

    #[test]
    fn one_that_has_ended_is_left_alone() {
        let state = tempfile::tempdir().expect("a directory");
        let mut child = sh("exit 0");
        keep(state.path(), pid(&child));
        child.wait().expect("it ends");
        assert!(find(state.path()).is_none());
    }
}
