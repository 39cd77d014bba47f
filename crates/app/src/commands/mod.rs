//! One file per subcommand: its arguments, their help, and one function `run` that `main` calls.

pub(crate) mod asking;
pub(crate) mod certs;
pub(crate) mod check;
pub(crate) mod completion;
pub(crate) mod control;
pub(crate) mod demo;
pub(crate) mod explain;
pub(crate) mod key;
pub(crate) mod mesh;
pub(crate) mod proxy;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod sidecar;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod version;

use std::process::ExitCode;

/// How a subcommand ends; the same numbers for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything is fine.
    Fine,
    /// The command worked and found something wrong, or it failed.
    Findings,
    /// The command line makes no sense.
    Usage,
    /// The other side does not answer.
    Unreachable,
    /// As the program did that ran inside.
    Program(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Fine => 0,
            Exit::Findings => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
            Exit::Program(code) => code,
        })
    }
}
