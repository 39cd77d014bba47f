//! Turns the process signals into one stream of requests.
//!
//! SIGTERM and SIGINT ask to stop (a second one: now), SIGHUP asks to reload, SIGUSR1 to open log
//! files again. Called by `gateway`, which decides what to do, and how a stop by the system differs from one by a person.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the operating system, or the person behind it, asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Finish what is going on and exit: the system ends the process.
    Terminate,
    /// The same, from a person at a terminal.
    Interrupt,
    /// Read the configuration again.
    Reload,
    /// Open log files again: they were rotated.
    Reopen,
}

/// The signals that are listened to.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user: Signal,
}

impl Signals {
    /// Takes the signals over from their default action, which would end the process.
    ///
    /// # Errors
    /// The operating system refuses.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Terminate,
            _ = self.interrupt.recv() => Wish::Interrupt,
            _ = self.hangup.recv() => Wish::Reload,
            _ = self.user.recv() => Wish::Reopen,
        }
    }

    /// Waits for the next wish to stop.
    pub(crate) async fn stop(&mut self) {
        while !matches!(self.next().await, Wish::Terminate | Wish::Interrupt) {}
    }
}
