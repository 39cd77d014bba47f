//! `transept demo`: a shop of three services behind a gateway, in one process, with a little traffic.
//!
//! The services are in `services`, the configuration is `shop.yaml` with the ports filled in, written to a directory of its own
//! so that it can be edited while the demo runs. Everything else is the gateway that `run` starts.

mod services;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use transept_control::Sources;

use self::services::Service;
use super::Exit;
use crate::access_log::Target;
use crate::console::{self, BOLD, FAINT, PLAIN};
use crate::gateway::{self, ServeArgs};
use crate::logging;

const SHOP: &str = include_str!("shop.yaml");
/// How many ports above the wanted one are tried.
const PORTS: u16 = 100;
/// Pause between two requests of the demo's own traffic.
const PACE: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
Examples:
  transept demo
  transept demo --port 9000 --quiet --access-log stdout

Stop it with Ctrl-C.";

/// Run three small services behind a gateway, to look around
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
    // Lines about the demo's own traffic would push away what there is to try.
    args.serve.access_log.access_log.get_or_insert(Target::Off);
    logging::start(&args.serve.log)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("demo").enable_all().build()?;
    let port = free_port(args.port)?;
    let shop = runtime.block_on(start_shop(port))?;
    let directory = Scratch::create()?;
    let file = directory.0.join("shop.yaml");
    std::fs::write(&file, shop).with_context(|| file.display().to_string())?;

    let mut sources = Sources::new();
    sources.add_path(&file).map_err(|invalid| *invalid)?;
    let gateway = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let quiet = args.quiet;
    let services = runtime.handle().clone();
    gateway::serve(sources, &args.serve, move |admin| {
        console::tell(&introduce(gateway, admin, &file));
        if !quiet {
            services.spawn(visit(gateway));
        }
    })
}

/// Starts the services and fills their ports into the configuration.
async fn start_shop(port: u16) -> Result<String> {
    let mut shop = SHOP.replace("@PORT@", &port.to_string());
    for service in [Service::Web, Service::Catalog, Service::Cart(1), Service::Cart(2)] {
        let address = service.start().await?;
        let mark = format!("@{}@", service.name().to_uppercase().replace('-', "_"));
        shop = shop.replace(&mark, &address.port().to_string());
    }
    Ok(shop)
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

fn introduce(gateway: SocketAddr, admin: Option<SocketAddr>, file: &Path) -> String {
    let mut out = format!(
        "\n{BOLD}The shop is open at http://{gateway}{PLAIN}\n
  curl http://{gateway}/catalog                         a service behind a rewritten path
  curl http://{gateway}/cart                            version 1 or, one time in ten, 2
  curl http://{gateway}/cart -H 'x-preview: yes'        always version 2
  curl -i http://{gateway}/old                          a redirect
  curl -i http://{gateway}/cart -X POST                 what the service saw
  transept explain GET http://{gateway}/cart -f {}
",
        file.display()
    );
    if let Some(admin) = admin {
        out.push_str(&format!("  transept status --admin http://{admin}\n  curl http://{admin}/metrics\n"));
    }
    out.push_str(&format!("\n  edit {} and it is reloaded\n{FAINT}  stop with Ctrl-C{PLAIN}\n", file.display()));
    out
}

/// A visitor who looks around for ever, so that metrics have something to show.
async fn visit(gateway: SocketAddr) {
    const WALK: [&str; 6] = ["/", "/catalog", "/cart", "/catalog", "/old", "/cart/nowhere"];
    let mut pace = tokio::time::interval(PACE);
    for path in WALK.iter().cycle() {
        pace.tick().await;
        if let Err(error) = ask(gateway, path).await {
            tracing::debug!(%error, path, "the demo's visitor got no answer");
        }
    }
}

async fn ask(gateway: SocketAddr, path: &str) -> Result<()> {
    let stream = TcpStream::connect(gateway).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header(HOST, gateway.to_string()).body(Empty::<Bytes>::new())?;
    sender.send_request(request).await?.into_body().collect().await?;
    Ok(())
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

    #[tokio::test]
    async fn every_mark_of_the_shop_is_filled_in() {
        let shop = start_shop(8080).await.expect("the services start");
        assert!(!shop.contains('@'), "{shop}");
    }
}
