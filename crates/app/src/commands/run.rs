//! `transept run FILE...`: the gateway from files, reloaded when they change; with `--mesh`, the control plane of a mesh as well.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ArgGroup;
use transept_control::Sources;
use transept_identity::WorkloadName;
use transept_model::SourceText;

use super::Exit;
use super::control::{ApiArgs, StateArgs, parse_address, parse_life, parse_report_interval};
use crate::gateway::{self, MeshPlan, ServeArgs};
use crate::report::{self, Severity};
use crate::{console, logging};

const EXAMPLES: &str = "\
Examples:
  transept run shop.yaml
  transept run /etc/transept --log json --access-log /var/log/transept/access.log
  transept run shop.yaml --resolver 10.0.0.2 --resolver 10.0.0.3
  generate | transept run - --admin off
  transept run shop.yaml --mesh  the control plane as well, for `transept token`, `certs` and `mesh`

Files are watched and reloaded when they change, and on SIGHUP; a wrong file keeps the running configuration.
SIGTERM and SIGINT drain and exit 0; a second one exits at once. SIGUSR1 opens log files again.
Requests are logged to standard output: text on a terminal, JSON elsewhere; `--access-log off` saves the cost.
Without a Gateway in the files there is one named `default` with an HTTP listener on port 8080, unless their routes \
name another.";

/// Run the gateway from configuration files
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// YAML or JSON files, directories of them (their *.yaml, *.yml and *.json), or `-` for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    mesh: MeshArgs,

    #[command(flatten)]
    serve: ServeArgs,
}

/// Flags of the control plane in the same process.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group = ArgGroup::new("only with a mesh")
    .args(["mesh_listen", "mesh_identity", "leaf_life", "report_interval", "trust_domain", "api"])
    .multiple(true)
    .requires("mesh"))]
struct MeshArgs {
    /// Be the control plane of a mesh as well, whose workloads the gateway calls through tunnels with mutual TLS
    #[arg(long, env = "TRANSEPT_MESH")]
    mesh: bool,

    /// Address and port for sidecars; everything on it is TLS, and needs a certificate or a join token
    #[arg(long, env = "TRANSEPT_MESH_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:9909", value_parser = parse_address)]
    mesh_listen: SocketAddr,

    /// Identity of the gateway in the mesh, for policies to name [default: that of the first Gateway of the files by namespace
    /// and name; default/default when there is none]
    #[arg(long, env = "TRANSEPT_MESH_IDENTITY", value_name = "NAMESPACE/NAME", value_parser = parse_identity)]
    mesh_identity: Option<WorkloadName>,

    /// How long certificates of the mesh live; they are renewed at half of that
    #[arg(long, env = "TRANSEPT_LEAF_LIFE", value_name = "DURATION", default_value = "24h", value_parser = parse_life)]
    leaf_life: Duration,

    /// How often proxies report what they see, between 100ms and 20s; verdicts on services are made of two reports each
    #[arg(
        long,
        env = "TRANSEPT_REPORT_INTERVAL",
        value_name = "DURATION",
        default_value = "5s",
        value_parser = parse_report_interval
    )]
    report_interval: Duration,

    #[command(flatten)]
    api: ApiArgs,

    #[command(flatten)]
    state: StateArgs,
}

fn parse_identity(text: &str) -> Result<WorkloadName, String> {
    let (namespace, name) = text
        .split_once('/')
        .ok_or_else(|| format!("`{text}` is not a namespace and a name, such as default/gateway"))?;
    WorkloadName::new(namespace, name).map_err(|error| error.to_string())
}

/// What somebody is told who names a state that nobody would keep.
fn state_without_mesh(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "--state {directory} (or TRANSEPT_STATE) is where the control plane of a mesh keeps its authority, tokens, registrations and API keys, and this \
         gateway has none: add --mesh to be the control plane as well, run `transept proxy --control ADDR` for a gateway of a control plane \
         elsewhere, or leave it away; what quotas have counted is kept in --quotas FILE"
    )
}

/// Serves until a signal ends it.
pub(crate) fn run(args: Args) -> Result<Exit> {
    if let (false, Some(directory)) = (args.mesh.mesh, args.mesh.state.given()) {
        console::fail(&state_without_mesh(directory));
        return Ok(Exit::Usage);
    }
    logging::start(&args.serve.log)?;
    let Some(sources) = collect(&args.files)? else {
        return Ok(Exit::Findings);
    };
    if !args.mesh.mesh {
        return gateway::serve(sources, &args.serve, |_| {});
    }
    let plan = MeshPlan {
        listen: args.mesh.mesh_listen,
        directory: args.mesh.state.directory(),
        setup: args.mesh.state.setup(args.mesh.leaf_life)?,
        identity: args.mesh.mesh_identity,
        report_interval: args.mesh.report_interval,
        api: Some(args.mesh.api),
        ends_with_terminal: false,
    };
    gateway::serve_with_mesh(sources, &plan, &args.serve, |_| {})
}

/// Turns the files of a command line into sources; `None` when one of them cannot be read even once, which is told.
pub(super) fn collect(files: &[PathBuf]) -> Result<Option<Sources>> {
    let mut sources = Sources::new();
    for file in files {
        if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input")?;
            sources.add_text(SourceText::new("<stdin>", text));
        } else if let Err(invalid) = sources.add_path(file) {
            console::tell(report::show(Severity::Error, &invalid).trim_end());
            return Ok(None);
        }
    }
    Ok(Some(sources))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_of_the_mesh_are_refused_without_it() {
        let parse = |line: &str| Line::try_parse_from(line.split_whitespace());
        assert!(parse("run a.yaml").is_ok_and(|line| !line.args.mesh.mesh));
        assert!(parse("run a.yaml --mesh --state s --trust-domain a.test --mesh-listen 127.0.0.1:0").is_ok());
        for flag in ["--trust-domain a.test", "--mesh-listen 127.0.0.1:0", "--mesh-identity a/b", "--leaf-life 1h"] {
            assert!(
                parse(&format!("run a.yaml {flag}")).is_err_and(|why| why.to_string().contains("--mesh")),
                "{flag}"
            );
        }
        assert!(parse_identity("gateway").is_err_and(|why| why.contains("default/gateway")));
    }
}
