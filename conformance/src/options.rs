//! The command line. Called by `main`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::scope::Selection;

/// The flag of the part of the runner that is inside a namespace.
pub(crate) const INSIDE_FLAG: &str = "inside";

/// Replays the Gateway API conformance suite against the real binary, from files, without Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "transept-conformance", version)]
pub(crate) struct Options {
    /// Only this case; a `*` at the end stands for any rest (may be repeated)
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// Only cases of this profile, such as GATEWAY-HTTP (may be repeated)
    #[arg(long = "profile", value_name = "PROFILE")]
    profiles: Vec<String>,
    /// Only cases that need this feature, such as HTTPRouteCORS (may be repeated)
    #[arg(long = "feature", value_name = "FEATURE")]
    features: Vec<String>,
    /// The suite [default: ../shared/conformance beside the workspace]
    #[arg(long, value_name = "DIR")]
    pub suite: Option<PathBuf>,
    /// Fail when the suite is absent and TRANSEPT_REQUIRE_ALL=1 is set
    #[arg(long)]
    pub require: bool,
    /// The binary [default: TRANSEPT_BIN, or `transept` beside this program]
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// Cases at the same time [default: number of CPUs]
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Worker threads of each binary
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub workers: usize,
    /// Seconds that something may take to become right
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    patience: f64,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Print the time of every step
    #[arg(long)]
    pub times: bool,
    /// Write the files of every case below this directory and keep them
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Also run the steps that compare generations, as against an API server
    #[arg(long)]
    pub apiserver_steps: bool,
    /// Stay in the network of the machine
    #[arg(long)]
    pub host_network: bool,
    /// For the runner itself: take orders from standard input, in a namespace of a mesh case
    #[arg(long = INSIDE_FLAG, hide = true)]
    pub inside: bool,
    /// List the selected cases and what would be done with them
    #[arg(long)]
    pub list: bool,
}

impl Options {
    /// What the command line selects.
    pub(crate) fn selection(&self) -> Selection {
        Selection { names: self.cases.clone(), profiles: self.profiles.clone(), features: self.features.clone() }
    }

    /// How long something may take to become right.
    pub(crate) fn patience(&self) -> Duration {
        Duration::try_from_secs_f64(self.patience).unwrap_or(Duration::from_secs(5))
    }
}
