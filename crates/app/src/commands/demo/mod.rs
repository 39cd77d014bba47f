//! `transept demo`: a shop of three services as processes of their own, in a mesh, behind a gateway, with a little traffic.
//!
//! The gateway and the control plane are those of `run --mesh`, in this process, with a state that ends with it. `crew` starts the
//! services with their sidecars, `part` is such a process, `services` what they do. The configuration is `shop.yaml` with the port
//! filled in, written to a directory of its own so that it can be edited while the demo runs.

mod crew;
pub(crate) mod part;
mod services;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use transept_control::Sources;
use transept_control::plane::{Question, Setup};
use transept_identity::TrustDomain;
use transept_identity::authority::LEAF_LIFE;

use self::crew::{Crew, Post};
use self::services::Service;
use super::Exit;
use crate::access_log::Target;
use crate::console::{self, BOLD, FAINT, PLAIN};
use crate::gateway::{self, MeshPlan, Opened, ServeArgs};
use crate::logging;
use crate::table;

const SHOP: &str = include_str!("shop.yaml");
/// How many ports above the wanted one are tried.
const PORTS: u16 = 100;
/// Pause between two requests of the demo's own traffic.
const PACE: Duration = Duration::from_millis(200);
/// Pause between two looks whether everybody is there, and how long that may take.
const GLANCE: Duration = Duration::from_millis(50);
const OPENING: Duration = Duration::from_secs(60);
/// Verdicts on services come soon: who looks around does not wait.
const REPORTS: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  transept demo
  transept demo --port 9000 --quiet --access-log stdout

Ports that are taken, that of the admin server among them, give way to free ones. Stop it with Ctrl-C; it ends with its \
terminal too.";

/// Run a shop of three services in a mesh behind a gateway, to look around
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Port of the gateway on 127.0.0.1; when it is taken, the next free one (0: any)
    #[arg(long, env = "TRANSEPT_PORT", default_value_t = 8080)]
    port: u16,

    /// No traffic but yours
    #[arg(long)]
    quiet: bool,

    #[command(flatten)]
    serve: ServeArgs,
}

/// Serves until a signal ends it.
pub(crate) fn run(mut args: Args) -> Result<Exit> {
    // Lines about the demo's own traffic, and about every registration, would push away what there is to try.
    args.serve.access_log.access_log.get_or_insert(Target::Off);
    if std::env::var_os("RUST_LOG").is_none() {
        args.serve.log.log_level.get_or_insert_with(|| "warn".to_owned());
    }
    // Every worker finds out for itself that an endpoint fails; with little traffic one finds out sooner than many.
    args.serve.workers.get_or_insert(NonZeroUsize::MIN);
    logging::start(&args.serve.log)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("demo").enable_all().build()?;
    let port = free_port(args.port)?;
    args.serve.admin.give_way();
    let posts = Post::all()?;
    let directory = Scratch::create()?;
    let file = directory.0.join("shop.yaml");
    std::fs::write(&file, SHOP.replace("@PORT@", &port.to_string())).with_context(|| file.display().to_string())?;

    let mut sources = Sources::new();
    sources.add_path(&file).map_err(|invalid| *invalid)?;
    let plan = MeshPlan {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        directory: directory.0.join("mesh"),
        setup: Setup { trust_domain: TrustDomain::new("transept.local")?, leaf_life: LEAF_LIFE },
        identity: None,
        report_interval: REPORTS,
        api: None,
        ends_with_terminal: true,
    };
    let shop = Shop {
        gateway: (Ipv4Addr::LOCALHOST, port).into(),
        directory: directory.0.clone(),
        file,
        state: plan.directory.clone(),
        posts,
        quiet: args.quiet,
    };
    let (stop, stopped) = oneshot::channel();
    let mut open = None;
    let exit = gateway::serve_with_mesh(sources, &plan, &args.serve, |opened| {
        open = Some(runtime.spawn(shop.open(opened, stopped)));
    });
    // Nobody waits any more when it has failed already.
    let _ = stop.send(());
    if let Some(open) = open {
        runtime.block_on(open)??;
    }
    exit
}

/// The shop and where everything of it is.
struct Shop {
    gateway: SocketAddr,
    directory: PathBuf,
    file: PathBuf,
    state: PathBuf,
    posts: Vec<Post>,
    quiet: bool,
}

impl Shop {
    /// Starts the services, tells what there is to try, and ends them when the gateway has stopped.
    async fn open(self, opened: Opened, mut stopped: oneshot::Receiver<()>) -> Result<()> {
        let crew = match Crew::start(&self.posts, &opened, &self.directory) {
            Ok(crew) => crew,
            Err(error) => {
                console::fail(&format!("the services of the shop cannot be started: {error:#}"));
                return Err(error);
            }
        };
        let shopping = async {
            let everybody = everybody_is_there(self.gateway, &opened, self.posts.len());
            if tokio::time::timeout(OPENING, everybody).await.is_err() {
                console::fail(&format!("not every service answers; their logs are in {}", self.directory.display()));
            }
            console::tell(&self.introduce(opened.admin));
            if !self.quiet {
                visit(self.gateway).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = shopping => {}
            _ = &mut stopped => {}
        }
        crew.end().await;
        Ok(())
    }

    fn introduce(&self, admin: Option<SocketAddr>) -> String {
        let (gateway, file, state) = (self.gateway, self.file.display(), self.state.display());
        let transept = own_name();
        let status = admin.map(|admin| format!("{transept} status --admin http://{admin}"));
        let mut out = format!(
            "\n{BOLD}The shop is open at http://{gateway}{PLAIN}\n
  Five programs, each with a sidecar of its own. The gateway calls them, and they each other, by mutual TLS.\n\n"
        );
        out.push_str(&lines(&[
            (format!("curl http://{gateway}/catalog"), "a service behind a rewritten path, of two instances"),
            (format!("curl http://{gateway}/cart"), "version 1 or, one time in ten, 2; it asks the catalogue"),
            (format!("curl http://{gateway}/cart -H 'x-preview: yes'"), "always version 2"),
            (format!("curl -i http://{gateway}/old"), "a redirect"),
            (format!("curl -i http://{gateway}/cart -X POST"), "what the service saw, and who its caller is"),
            (format!("curl -i http://{gateway}/catalog -X DELETE"), "403: the catalogue may only be read"),
        ]));
        out.push_str(&format!("\n  {transept} explain GET http://{gateway}/old -f {file}\n\n"));
        let of_mesh = |command: &str| format!("{transept} {command} --state {state}");
        out.push_str(&lines(&[
            (of_mesh("mesh status"), ""),
            (of_mesh("mesh graph"), "who calls whom; --watch: again and again"),
            (of_mesh("mesh tap catalog"), "its requests, live"),
            (of_mesh("certs"), ""),
        ]));
        if let (Some(admin), Some(status)) = (admin, &status) {
            out.push_str(&format!("\n  {status}\n  curl http://{admin}/metrics\n"));
        }
        if let Some(second) = self.posts.iter().rfind(|post| post.service == Service::Catalog) {
            let (name, program) = (second.name(), second.program);
            let breaks = format!("{name} answers 503, but says that it is well");
            let mut rows = vec![
                (format!("curl -X POST http://{program}/break"), breaks.as_str()),
                (format!("curl -i http://{gateway}/catalog"), "still 200: what it fails is tried on the other one"),
            ];
            rows.extend(status.map(|status| (status, "soon it is ejected: left alone, and tried now and then")));
            rows.push((
                format!("curl -X POST http://{program}/mend"),
                "back at the next try, after 5 s, 10 s, 20 s ...",
            ));
            out.push_str(&format!("\n  Break something:\n\n{}", lines(&rows)));
        }
        out.push_str(&format!(
            "\n  edit {file} and it is reloaded\n{FAINT}  logs of the services are in {}\n  stop with Ctrl-C{PLAIN}\n",
            self.directory.display()
        ));
        out
    }
}

/// How this program is called: by its name where that leads to it, else by its path.
fn own_name() -> String {
    let own = std::env::current_exe().and_then(std::fs::canonicalize).ok();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join("transept")).find(|one| one.is_file());
    match own {
        Some(own) if found.and_then(|found| found.canonicalize().ok()).as_ref() != Some(&own) => {
            own.display().to_string()
        }
        _ => "transept".to_owned(),
    }
}

/// Commands, each with what it shows, in two columns.
fn lines(rows: &[(String, &str)]) -> String {
    let rows = rows.iter().map(|(command, shows)| vec![format!("  {command}"), (*shows).to_owned()]);
    table::align(&rows.collect::<Vec<_>>()).iter().map(|line| format!("{line}\n")).collect()
}

/// Waits until all instances say that they are well, and every service answers through the gateway. Nobody is asked before: the figures of
/// who looks around begin without failures.
async fn everybody_is_there(gateway: SocketAddr, opened: &Opened, instances: usize) {
    let mut pace = tokio::time::interval(GLANCE);
    while !opened.plane.answer(&Question::Status).is_ok_and(|status| well(&status) == instances) {
        pace.tick().await;
    }
    // What the control plane knows is on its way to the gateway.
    while (opened.endpoints)().len() < instances {
        pace.tick().await;
    }
    for (path, preview) in [("/", "no"), ("/catalog", "no"), ("/cart", "yes"), ("/cart", "no")] {
        while !ask(gateway, path, preview).await.is_ok_and(|status| status == StatusCode::OK) {
            pace.tick().await;
        }
    }
}

/// How many instances are well.
fn well(status: &Value) -> usize {
    let services = status["services"].as_array().into_iter().flatten();
    let instances = services.filter_map(|service| service["instances"].as_array()).flatten();
    instances.filter(|instance| instance["state"] == "healthy").count()
}

/// The wanted port, or the next one that is free on 127.0.0.1.
fn free_port(wanted: u16) -> Result<u16> {
    let last = wanted.saturating_add(PORTS);
    for port in wanted..=last {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener.local_addr()?.port());
        }
    }
    anyhow::bail!("no free port between {wanted} and {last}; choose another with --port")
}

/// A visitor who looks around for ever, so that metrics have something to show.
async fn visit(gateway: SocketAddr) {
    const WALK: [&str; 6] = ["/", "/catalog", "/cart", "/catalog", "/old", "/cart/nowhere"];
    let mut pace = tokio::time::interval(PACE);
    for path in WALK.iter().cycle() {
        pace.tick().await;
        if let Err(error) = ask(gateway, path, "no").await {
            tracing::debug!(%error, path, "the demo's visitor got no answer");
        }
    }
}

async fn ask(gateway: SocketAddr, path: &str, preview: &str) -> Result<StatusCode> {
    let stream = TcpStream::connect(gateway).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header(HOST, gateway.to_string()).header("x-preview", preview);
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = response.status();
    response.into_body().collect().await?;
    Ok(status)
}

/// A directory that only this process uses and that goes away with it.
struct Scratch(PathBuf);

impl Scratch {
    fn create() -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("transept-demo-{}", std::process::id()));
        // Refuses what is there already: in a shared /tmp it may be somebody else's trap.
        std::fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| path.display().to_string())?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_gives_way_to_the_next() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = taken.local_addr().expect("bound").port();
        assert!(free_port(port).is_ok_and(|free| free != port));
    }

    #[test]
    fn the_services_of_the_configuration_are_those_that_are_started() {
        for post in Post::all().expect("free ports") {
            let name = format!("kind: Service\nmetadata: {{name: {}}}", post.service.name());
            assert!(SHOP.contains(&name), "{name}");
        }
        assert_eq!(SHOP.matches('@').count(), 2, "the mark of the port");
    }
}
