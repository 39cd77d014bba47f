//! The program beside which the sidecar stands: started, told of signals, waited for.
//!
//! Called by `sidecar`, which knows when each of this happens. When the sidecar is the first process of a container it is also
//! the parent of every orphan in it, and buries those too.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, wait, waitpid};
use rustix::thread::{CapabilitySet, configure_capability_in_ambient_set};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::Instant;

/// What shells answer for a program that was ended by a signal, besides the number of the signal.
const BY_SIGNAL: i32 = 128;
/// What shells answer for a program that they do not find.
const NOT_FOUND: u8 = 127;
/// What shells answer for a program that they cannot start for another reason.
const NOT_STARTED: u8 = 126;

/// How many signals to stop it takes until the program is killed.
const SIGNALS_TO_KILL: u32 = 3;

/// The variable that may hold the join token. It is not handed on: who has it can join the mesh.
pub(crate) const TOKEN: &str = "TRANSEPT_TOKEN";

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, with this code.
    Code(i32),
    /// By a signal of this number.
    Signal(i32),
}

impl End {
    /// The exit code of the sidecar, which is the one that a shell would give.
    pub(crate) fn exit_code(self) -> u8 {
        let code = match self {
            End::Code(code) => code,
            End::Signal(number) => BY_SIGNAL + number,
        };
        // The system itself keeps the lowest eight bits.
        u8::try_from(code & 0xff).unwrap_or(u8::MAX)
    }

    fn of(status: WaitStatus) -> Option<End> {
        let signal = || status.terminating_signal().map(End::Signal);
        status.exit_status().map(End::Code).or_else(signal)
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Code(code) => write!(out, "exit code {code}"),
            End::Signal(number) => write!(out, "signal {number}"),
        }
    }
}

/// The exit code for a program that could not be started.
pub(crate) fn code_of(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_STARTED,
    }
}

/// Whether a signal of the terminal reaches the program without us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// The program shares our terminal, whose Ctrl-C goes to both.
    Shared,
    /// There is none.
    None,
}

/// What of our capabilities a program gets beyond what it has by its user and its file (capabilities(7), the ambient set).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ambient {
    /// All that the sidecar was given.
    Passed,
    /// All but CAP_NET_ADMIN, which was given for the capture: who has it can go around the mesh.
    WithoutNetAdmin,
}

/// A program that was started.
#[derive(Debug)]
pub(crate) struct Program {
    pid: Pid,
    terminal: Terminal,
    children: unix::Signal,
    end: Option<End>,
}

impl Program {
    /// Starts a program: its name, its arguments, and what its environment has besides ours.
    ///
    /// # Errors
    /// It cannot be started; see [`code_of`].
    pub(crate) fn start(
        words: &[OsString],
        environment: &[(String, String)],
        (terminal, ambient): (Terminal, Ambient),
    ) -> io::Result<Program> {
        // Before the start, so that no end is missed.
        let children = unix::signal(SignalKind::child())?;
        let (name, arguments) = words.split_first().ok_or(io::ErrorKind::NotFound)?;
        let mut command = Command::new(name);
        command.args(arguments).env_remove(TOKEN);
        command.envs(environment.iter().map(|(key, value)| (OsStr::new(key), OsStr::new(value))));
        if terminal == Terminal::None {
            // Then whoever signals our group means us, and the order of stopping is ours.
            command.process_group(0);
        }
        let child = match ambient {
            Ambient::Passed => command.spawn()?,
            Ambient::WithoutNetAdmin => spawn_without_net_admin(command)?,
        };
        Ok(Program { pid: Pid::from_child(&child), terminal, children, end: None })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits for its end; may be asked again.
    pub(crate) async fn ended(&mut self) -> End {
        loop {
            if let Some(end) = self.look() {
                return end;
            }
            self.children.recv().await;
        }
    }

    /// Hands a signal on. A program that has ended does not hear it.
    pub(crate) fn signal(&mut self, signal: Signal) {
        // Once it is buried its number may be somebody else's.
        if self.look().is_some() {
            return;
        }
        if let Err(error) = kill_process(self.pid, signal) {
            tracing::debug!(%error, signal = name_of(signal), "the program cannot be signalled");
        }
    }

    /// Hands on what a person at the terminal, or whoever plays one, wants.
    pub(crate) fn interrupt(&mut self) {
        if self.terminal == Terminal::None {
            self.signal(Signal::INT);
        }
    }

    /// Tells it to end and waits for that, but not beyond `over`. `heard` is how many signals to stop have come until now; a second one is
    /// handed on, too, a third one kills it.
    pub(crate) async fn stop(&mut self, mut signal: Signal, mut heard: u32, over: Instant, mail: &mut Mail) -> End {
        loop {
            match signal {
                Signal::INT => self.interrupt(),
                signal => self.signal(signal),
            }
            tokio::select! {
                end = self.ended() => return end,
                another = mail.stop() => {
                    (signal, heard) = (another, heard + 1);
                    if heard >= SIGNALS_TO_KILL {
                        tracing::warn!(signal = name_of(signal), "the program is killed");
                        break;
                    }
                    tracing::warn!(signal = name_of(signal), "a second signal goes to the program, a third one kills it");
                }
                () = tokio::time::sleep_until(over) => {
                    tracing::warn!("the time to drain is over: the program is killed");
                    break;
                }
            }
        }
        self.signal(Signal::KILL);
        self.ended().await
    }

    /// Buries what has ended.
    fn look(&mut self) -> Option<End> {
        if self.end.is_some() {
            return self.end;
        }
        // Only the first process inherits orphans; children of other origin are their starters' to wait for. Orphans, and a program
        // without our terminal, are in groups of their own, so it is not enough to wait for ours, as `waitpid(None)` does.
        let inherits = getpid() == Pid::INIT;
        while self.end.is_none() {
            let buried =
                if inherits { wait(WaitOptions::NOHANG) } else { waitpid(Some(self.pid), WaitOptions::NOHANG) };
            match buried {
                Ok(Some((pid, status))) if pid == self.pid => self.end = End::of(status),
                Ok(Some(_)) => {}
                Ok(None) | Err(rustix::io::Errno::INTR) => break,
                Err(error) => {
                    tracing::error!(%error, "the program cannot be waited for");
                    self.end = Some(End::Code(1));
                }
            }
        }
        self.end
    }
}

/// Starts a program from a thread without CAP_NET_ADMIN in its ambient set, which is a thread's own and the child's by inheritance.
fn spawn_without_net_admin(mut command: Command) -> io::Result<Child> {
    let thread = std::thread::Builder::new().name("program".to_owned());
    let started = thread.spawn(move || {
        configure_capability_in_ambient_set(CapabilitySet::NET_ADMIN, false)?;
        command.spawn()
    })?;
    started.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it has failed")))
}

/// What people call a signal.
pub(crate) fn name_of(signal: Signal) -> &'static str {
    match signal {
        Signal::TERM => "SIGTERM",
        Signal::INT => "SIGINT",
        Signal::HUP => "SIGHUP",
        Signal::USR1 => "SIGUSR1",
        Signal::USR2 => "SIGUSR2",
        Signal::KILL => "SIGKILL",
        _ => "another",
    }
}

/// The signals that a sidecar listens to, in the order of their meaning.
#[derive(Debug)]
pub(crate) struct Mail {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
}

impl Mail {
    /// Takes the signals over from their default action, which would end the process.
    ///
    /// # Errors
    /// The operating system refuses.
    pub(crate) fn open() -> io::Result<Mail> {
        Ok(Mail {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hangup: unix::signal(SignalKind::hangup())?,
            user1: unix::signal(SignalKind::user_defined1())?,
            user2: unix::signal(SignalKind::user_defined2())?,
        })
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.hangup.recv() => Signal::HUP,
            _ = self.user1.recv() => Signal::USR1,
            _ = self.user2.recv() => Signal::USR2,
        }
    }

    /// The next signal that means stopping.
    pub(crate) async fn stop(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if matches!(signal, Signal::TERM | Signal::INT) {
                return signal;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, environment: &[(String, String)]) -> Program {
        let words = ["/bin/sh", "-c", script].map(OsString::from);
        Program::start(&words, environment, (Terminal::None, Ambient::Passed)).expect("it starts")
    }

    #[tokio::test]
    async fn the_code_of_the_program_is_told_and_told_again() {
        let mut program = sh("exit 7", &[]);
        assert_eq!(program.ended().await, End::Code(7));
        assert_eq!(program.ended().await.exit_code(), 7);
        // Its number may belong to somebody else now.
        program.signal(Signal::KILL);
    }

    #[tokio::test]
    async fn signals_reach_the_program_and_one_that_ends_it_is_128_more() {
        let mut program = sh("kill -STOP $$; exit 0", &[]);
        program.signal(Signal::TERM);
        program.signal(Signal::CONT);
        let end = program.ended().await;
        assert_eq!(end, End::Signal(15));
        assert_eq!(end.exit_code(), 143);
    }

    #[tokio::test]
    async fn the_environment_has_what_was_added() {
        let added = [("TRANSEPT_SERVICE".to_owned(), "cart".to_owned())];
        let mut program = sh("test \"$TRANSEPT_SERVICE\" = cart && test -n \"$PATH\"", &added);
        assert_eq!(program.ended().await, End::Code(0));
    }

    #[tokio::test]
    async fn what_does_not_start_answers_as_a_shell_does() {
        for (name, code) in [("/nowhere/at/all", 127), ("/", 126)] {
            let error = Program::start(&[name.into()], &[], (Terminal::None, Ambient::WithoutNetAdmin))
                .expect_err("no program");
            assert_eq!(code_of(&error), code, "{error}");
        }
    }

    /// The ambient set that a program was started with.
    async fn ambient_of(ambient: Ambient) -> CapabilitySet {
        let place = tempfile::tempdir().expect("a directory");
        let script = format!("exec grep CapAmb /proc/self/status > {}/out", place.path().display());
        let words = ["/bin/sh", "-c", &script].map(OsString::from);
        let mut program = Program::start(&words, &[], (Terminal::None, ambient)).expect("it starts");
        assert_eq!(program.ended().await, End::Code(0));
        let said = std::fs::read_to_string(place.path().join("out")).expect("it was written");
        let digits = said.split_ascii_whitespace().nth(1).expect("a number");
        CapabilitySet::from_bits_retain(u64::from_str_radix(digits, 16).expect("hexadecimal"))
    }

    #[tokio::test]
    async fn what_was_given_for_the_capture_is_not_handed_on() {
        use rustix::thread::{capabilities, set_capabilities};
        let ours = CapabilitySet::NET_ADMIN | CapabilitySet::NET_BIND_SERVICE;
        let mut sets = capabilities(None).expect("asked");
        if !sets.permitted.contains(ours) {
            // Nothing that could be installed: it is a matter of who runs the tests.
            return transept_testkit::parts::skips("CAP_NET_ADMIN and CAP_NET_BIND_SERVICE are needed");
        }
        sets.inheritable |= ours;
        set_capabilities(None, sets).expect("set");
        for one in [CapabilitySet::NET_ADMIN, CapabilitySet::NET_BIND_SERVICE] {
            configure_capability_in_ambient_set(one, true).expect("set");
        }
        assert!(ambient_of(Ambient::Passed).await.contains(ours));
        let passed = ambient_of(Ambient::WithoutNetAdmin).await;
        assert!(passed.contains(CapabilitySet::NET_BIND_SERVICE) && !passed.contains(CapabilitySet::NET_ADMIN));
    }
}
