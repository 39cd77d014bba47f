//! Where keys are, as the command line and the environment say it.
//!
//! For `transept key`. What is written on the command line goes before what the environment holds, and says one place.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use super::super::control::StateArgs;

/// Where keys are.
#[derive(Debug)]
pub(super) struct Place {
    /// The file; without it, they are in the state.
    pub(super) file: Option<PathBuf>,
    pub(super) namespace: String,
    pub(super) state: StateArgs,
}

/// The same, as it is read.
#[derive(Debug, Args)]
struct Written {
    /// File with the ApiKeys, one of those that a gateway is started with; without it, they are in the state of the control plane
    #[arg(long, env = "TRANSEPT_KEYS", value_name = "FILE")]
    file: Option<PathBuf>,

    /// Namespace of the keys
    #[arg(long, env = "TRANSEPT_NAMESPACE", value_name = "NAME", default_value = "default")]
    namespace: String,

    #[command(flatten)]
    state: StateArgs,
}

/// Arguments that say different places: the first one's with any of the others.
const APART: [(&str, &[&str]); 2] =
    [("print", &["file", "state", "trust_domain"]), ("file", &["state", "trust_domain"])];

impl FromArgMatches for Place {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        // Not all commands have all of them.
        let is_written = |id: &str| {
            matches.try_contains_id(id).is_ok_and(|is_there| is_there)
                && matches.value_source(id) == Some(ValueSource::CommandLine)
        };
        for (one, others) in APART {
            if let Some(other) = others.iter().find(|other| is_written(one) && is_written(other)) {
                let why = format!("the argument '{}' cannot be used with '{}'\n", flag(one), flag(other));
                return Err(clap::Error::raw(ErrorKind::ArgumentConflict, why));
            }
        }
        let Written { file, namespace, state } = Written::from_arg_matches(matches)?;
        let is_elsewhere = is_written("state") || is_written("trust_domain");
        Ok(Place { file: file.filter(|_| !is_elsewhere), namespace, state })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Place::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Place {
    fn augment_args(command: Command) -> Command {
        Written::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Written::augment_args_for_update(command)
    }
}

fn flag(id: &str) -> String {
    format!("--{}", id.replace('_', "-"))
}
