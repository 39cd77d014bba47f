//! `transept control FILE...`: the control plane of a mesh as a process of its own.
//!
//! It joins the follower of files, the plane and its faces (proxies, programs without one, people). Everything that it decides is
//! decided in `transept_control`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use transept_control::plane::{Admin, Api, Capacity, Plane, RATE, Setup, TlsFiles, say_farewell, serve};
use transept_control::{Loader, StartError, Trigger, Update, follow_apart};
use transept_identity::TrustDomain;
use transept_identity::authority::{LEAF_LIFE, MAX_LEAF_LIFE};
use transept_proxy::raise_descriptor_limit;

use super::Exit;
use crate::admin::{self, AdminArgs, Process, Subject};
use crate::gateway::{Readiness, announce, write_plane_metrics, write_update_metrics};
use crate::logging::{Format, LogArgs};
use crate::report::{self, Severity};
use crate::signals::{Signals, Wish};
use crate::{console, duration, logging};

const EXAMPLES: &str = "\
Examples:
  transept control shop.yaml             for proxies on this machine
  transept control /etc/transept --listen 0.0.0.0:9909 --state /var/lib/transept
  transept control --api 127.0.0.1:9910  programs without a sidecar register over HTTP
  transept token create --service cart   a token with which an instance of `cart` may join
  transept mesh status                   every service, how it is, and what its callers see
  transept certs                         every certificate, its holder and how long it lives

The first start makes a certificate authority in the directory of the state: ca.key and ca.pem, readable by their \
owner alone. Back that directory up. Tokens and registrations are in state.redb beside them.
Files are watched and reloaded when they change, and on SIGHUP; a wrong file keeps the running configuration.
Proxies go on without the control plane, so it may be stopped and started at any time.";

/// Where a control plane has its admin server, if nobody says otherwise: beside that of a gateway, which has the usual one.
const ADMIN: &str = "127.0.0.1:9911";
const ADMIN_HELP: &str =
    "Address of the admin server (/livez, /readyz, /metrics), or `off`; it has no authentication: keep it on loopback";

const INDEX: &str = "\
transept control admin

/livez     the process runs
/readyz    it takes proxies
/metrics   Prometheus metrics: verdicts on services, instances, proxies, configuration, roots

Everything else is asked with `transept mesh status`, `mesh graph`, `mesh tap` and `certs`, on the same machine.
";

/// Run the control plane of a mesh
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(mut_arg("admin", |admin| admin.default_value(ADMIN).help(ADMIN_HELP)))]
pub(crate) struct Args {
    /// YAML or JSON files, directories of them (their *.yaml, *.yml and *.json), or `-` for standard input; none is fine too
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Address and port for proxies; everything on it is TLS, and needs a certificate or a join token
    #[arg(long, env = "TRANSEPT_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:9909", value_parser = parse_address)]
    listen: SocketAddr,

    #[command(flatten)]
    api: ApiArgs,

    #[command(flatten)]
    admin: AdminArgs,

    #[command(flatten)]
    state: StateArgs,

    /// How long certificates of workloads live; they are renewed at half of that
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
    log: LogArgs,
}

/// Where programs without a proxy register.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ApiArgs {
    /// Address of the HTTP API with which programs that have no sidecar register; in clear text on loopback only [default: none]
    #[arg(long, env = "TRANSEPT_API", value_name = "ADDR", value_parser = parse_address)]
    api: Option<SocketAddr>,

    /// Certificate of that API, leaf first, in PEM; read again when it changes
    #[arg(long, env = "TRANSEPT_API_TLS_CERT", value_name = "FILE", requires = "api", requires = "api_tls_key")]
    api_tls_cert: Option<PathBuf>,

    /// Key of that certificate, in PEM
    #[arg(long, env = "TRANSEPT_API_TLS_KEY", value_name = "FILE", requires = "api_tls_cert")]
    api_tls_key: Option<PathBuf>,

    /// Requests per second that one address may make to that API; of IPv6, one network of 64 bits
    #[arg(long, env = "TRANSEPT_API_RATE", value_name = "N", default_value_t = RATE, requires = "api")]
    api_rate: NonZeroU32,
}

impl ApiArgs {
    /// Binds the API when it is asked for, and says where it is.
    pub(crate) async fn bind(&self, format: Format) -> Result<Option<Api>> {
        let Some(address) = self.api else { return Ok(None) };
        let files = self.api_tls_cert.clone().zip(self.api_tls_key.clone());
        let files = files.map(|(certificate, key)| TlsFiles { certificate, key });
        let api = Api::bind(address, files, self.api_rate).await?;
        logging::say_place(format, &format!("registration API listening on {}", api.url()));
        Ok(Some(api))
    }
}

/// Where a control plane keeps its state, and whose it is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct StateArgs {
    /// Directory of the state: certificate authority, tokens, registrations [default: /var/lib/transept/control for root, else
    /// ~/.local/state/transept/control]
    #[arg(long, env = "TRANSEPT_STATE", value_name = "DIR")]
    state: Option<PathBuf>,

    /// Trust domain of the mesh: the first part of every identity [default: transept.local]
    #[arg(long, env = "TRANSEPT_TRUST_DOMAIN", value_name = "NAME", value_parser = parse_trust_domain)]
    trust_domain: Option<TrustDomain>,
}

impl StateArgs {
    /// The directory.
    pub(super) fn directory(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(|| default_state("control"))
    }

    /// The directory, if one is written.
    pub(super) fn given(&self) -> Option<&Path> {
        self.state.as_deref()
    }

    /// The trust domain, if one is written.
    pub(super) fn trust_domain(&self) -> Option<&TrustDomain> {
        self.trust_domain.as_ref()
    }

    /// The set-up of a plane, with certificates that live for `leaf_life`.
    ///
    /// # Errors
    /// There is no usual trust domain.
    pub(super) fn setup(&self, leaf_life: Duration) -> Result<Setup> {
        let usual = || TrustDomain::new(USUAL_DOMAIN);
        let trust_domain = self.trust_domain.clone().map_or_else(usual, Ok)?;
        Ok(Setup { trust_domain, leaf_life })
    }
}

/// The trust domain of a mesh that is not told of another one.
const USUAL_DOMAIN: &str = "transept.local";

/// An address and a port to listen on, whose meaning is nobody else's to guess.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is not an address and a port, such as 127.0.0.1:9909 or 0.0.0.0:9909 for every address")
    })
}

/// The usual directory for the state of one role.
pub(crate) fn default_state(role: &str) -> PathBuf {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state"));
    let own = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).or(home);
    let base = match own {
        Some(own) if !rustix::process::geteuid().is_root() => own,
        _ => PathBuf::from("/var/lib"),
    };
    base.join("transept").join(role)
}

fn parse_trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::new(text).map_err(|error| error.to_string())
}

/// The shortest life of a certificate: its moments are whole seconds, and half of it is for renewing it.
const SHORTEST_LIFE: Duration = Duration::from_secs(4);

/// How long a certificate may live.
pub(super) fn parse_life(text: &str) -> Result<Duration, String> {
    let life = duration::parse(text)?;
    if life < SHORTEST_LIFE || life > MAX_LEAF_LIFE {
        return Err(format!(
            "certificates live between {}s and {}h; {}h is usual",
            SHORTEST_LIFE.as_secs(),
            hours(MAX_LEAF_LIFE),
            hours(LEAF_LIFE)
        ));
    }
    Ok(life)
}

/// How often proxies may report.
pub(super) fn parse_report_interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    if interval < Duration::from_millis(100) || interval > Duration::from_secs(20) {
        return Err("proxies report at least every 20s, and at most every 100ms; 5s is usual".to_owned());
    }
    Ok(interval)
}

fn hours(life: Duration) -> u64 {
    life.as_secs() / 3600
}

/// Serves until a signal ends it.
pub(crate) fn run(args: Args) -> Result<Exit> {
    logging::start(&args.log)?;
    let Some(sources) = super::run::collect(&args.files)? else {
        return Ok(Exit::Findings);
    };
    let directory = args.state.directory();
    let plane = Plane::open(&directory, args.state.setup(args.leaf_life)?)?;
    let (trigger, feed) = match follow_apart(sources, Loader::for_distributing().keeping_objects(), plane.clone()) {
        Ok(running) => running,
        Err(StartError::Refused(refused)) => {
            for invalid in &refused.invalid {
                console::tell(report::show(Severity::Error, invalid).trim_end());
            }
            console::fail("the configuration is refused; nothing is started");
            return Ok(Exit::Findings);
        }
        Err(StartError::Thread(error)) => return Err(error).context("the configuration thread"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().thread_name("control").enable_all().build()?;
    let exit = runtime.block_on(attend(&args, &plane, &trigger, feed));
    runtime.shutdown_timeout(Duration::from_secs(1));
    exit
}

async fn attend(
    args: &Args,
    plane: &Arc<Plane>,
    trigger: &Trigger,
    mut feed: watch::Receiver<Arc<Update>>,
) -> Result<Exit> {
    let mut signals = Signals::listen()?;
    let process = Process::begin();
    let directory = args.state.directory();
    let format = args.log.log.settle();
    plane.report_every(args.report_interval);
    let first = feed.borrow_and_update().clone();
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen for proxies on {} (choose another with --listen ADDR)", args.listen))?;
    let address = listener.local_addr()?;
    let admin = Admin::bind(&directory).with_context(|| format!("the admin socket in {}", directory.display()))?;
    let api = args.api.bind(format).await?;
    let watched = admin::Admin::bind_beside_others(&args.admin, ADMIN, format).await?;
    let capacity = Capacity::within(raise_descriptor_limit());
    tokio::spawn(plane.clone().attend());
    if let Some(api) = api {
        tokio::spawn(api.serve(plane.clone(), capacity));
    }
    tokio::spawn(admin.serve(plane.clone()));
    if let Some(watched) = watched {
        tokio::spawn(watched.serve(Arc::new(Watched { plane: plane.clone(), process, feed: feed.clone() })));
    }
    let mut serving = tokio::spawn(serve(plane.clone(), listener, capacity));
    logging::say_place(format, &format!("control plane listening on {address}"));
    tracing::info!(
        %address,
        trust_domain = plane.trust_domain().as_str(),
        state = %directory.display(),
        root = %plane.ca().root(),
        "control plane ready"
    );
    announce::loaded(&first, format);
    loop {
        tokio::select! {
            changed = feed.changed() => {
                changed.context("the configuration thread has ended")?;
                let update = feed.borrow_and_update().clone();
                match &update.refused {
                    Some(refused) => announce::refused_reload(&update, refused, format),
                    None => announce::loaded(&update, format),
                }
            }
            ended = &mut serving => {
                ended.context("the task that serves proxies")?.context("proxies cannot be served")?;
                anyhow::bail!("the task that serves proxies has ended");
            }
            wish = signals.next() => match wish {
                Wish::Reload => trigger.reload(),
                Wish::Reopen => {}
                Wish::Terminate | Wish::Interrupt => break,
            }
        }
    }
    tracing::info!("the control plane stops; its members go on with what it has told them");
    say_farewell(plane).await;
    Ok(Exit::Fine)
}

/// The control plane as its admin server shows it.
struct Watched {
    plane: Arc<Plane>,
    process: Process,
    feed: watch::Receiver<Arc<Update>>,
}

impl Subject for Watched {
    const INDEX: &'static str = INDEX;

    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }

    async fn metrics(&self) -> String {
        let mut out = String::new();
        write_plane_metrics(&self.plane, &mut out).await;
        let update = self.feed.borrow().clone();
        write_update_metrics(&update, &mut out);
        self.process.write_metrics(&mut out);
        out
    }

    /// It is asked for on its socket, where only the user who runs it is answered.
    async fn status(&self) -> Option<Value> {
        None
    }

    async fn limits(&self, _: &Value) -> Option<Value> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_out_of_bounds_is_refused_with_the_bounds() {
        assert_eq!(parse_life("1h"), Ok(Duration::from_secs(3600)));
        assert!(parse_life("0s").is_err_and(|why| why.contains("2160h")));
        assert!(parse_life("3000h").is_err());
        assert_eq!(parse_report_interval("100ms"), Ok(Duration::from_millis(100)));
        assert!(parse_report_interval("21s").is_err_and(|why| why.contains("20s")));
        assert!(parse_trust_domain("Shop").is_err());
    }
}
