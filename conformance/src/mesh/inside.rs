//! The part of the runner that is inside a namespace: it obeys orders from standard input, and ends with it.
//!
//! Started by `host`. Whatever it starts here ends when it does, and with the last process the namespace is gone, with its links,
//! rules and mounts: nothing is left to be tidied up, however the runner ends.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use transept_testkit::echo::{Pod, Port, RequestLog, Serving, serve};
use transept_testkit::launch::{Launch, Running};

use super::calls;
use super::orders::{Answer, Echoes, Order, Place, Start};

/// A program may take this long until it is ready.
const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// What the control plane prints when it takes proxies.
const CONTROL_LINE: &str = "control plane listening on";

/// Obeys until standard input ends.
///
/// # Errors
/// Standard input or output is broken.
pub(crate) fn attend() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut namespace = Namespace::default();
    // The runner waits for this line: only now is the namespace the new one.
    say(&Answer::Done(Value::Null))?;
    for line in std::io::stdin().lines() {
        let done = match serde_json::from_str(&line?) {
            Ok(order) => runtime.block_on(namespace.obey(order)),
            Err(why) => Err(why.into()),
        };
        say(&done.map_or_else(|why| Answer::Failed(format!("{why:#}")), Answer::Done))?;
    }
    Ok(())
}

fn say(answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(std::io::stdout().write_all(&line)?)
}

/// What is in this namespace.
#[derive(Debug, Default)]
struct Namespace {
    serving: Vec<Serving>,
    control: Option<Control>,
    sidecar: Option<Running>,
}

#[derive(Debug)]
struct Control {
    /// Killed when this is dropped.
    _child: Child,
    log: Arc<Mutex<String>>,
}

impl Namespace {
    async fn obey(&mut self, order: Order) -> Result<Value> {
        match order {
            Order::Settle(place) => told(settle(&place).await?),
            Order::Serve(echoes) => told(self.serve(&echoes).await?),
            Order::Control(start) => told(self.start_control(&start).await?),
            Order::Sidecar(start) => {
                self.sidecar = Some(Launch::subcommand(&start.binary, start.arguments).start(START_LIMIT).await?);
                told(())
            }
            Order::Status => told(self.sidecar.as_ref().context("no sidecar runs here")?.status().await?),
            Order::Log => told(self.log()),
            Order::Call(call) => told(calls::call(&call).await?),
            Order::Spread(spread) => told(calls::spread(&spread).await?),
            Order::Stop => told(self.stop().await?),
        }
    }

    async fn serve(&mut self, echoes: &Echoes) -> Result<()> {
        let pod = Pod::new(&echoes.pod, &echoes.namespace, RequestLog::new());
        let http = echoes.http.iter().map(|port| (*port, Port::Http1));
        for (number, port) in http.chain(echoes.grpc.iter().map(|port| (*port, Port::Grpc))) {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, number));
            self.serving.push(serve(address, port, &pod).await.with_context(|| address.to_string())?);
        }
        Ok(())
    }

    async fn start_control(&mut self, start: &Start) -> Result<()> {
        let mut child = Command::new(&start.binary)
            .args(&start.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("no pipe")?).lines();
        let log = Arc::<Mutex<String>>::default();
        let note = |log: &Mutex<String>, line: &str| {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str(line);
            log.push('\n');
        };
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                note(&log, &line);
                if line.contains(CONTROL_LINE) {
                    return Ok(true);
                }
            }
            Ok::<bool, std::io::Error>(false)
        };
        if !timeout(START_LIMIT, ready).await.context("the control plane does not become ready")?? {
            bail!("the control plane ended:\n{}", log.lock().unwrap_or_else(PoisonError::into_inner));
        }
        self.control = Some(Control { _child: child, log: log.clone() });
        // The pipe is read to its end, so that the process never waits for us.
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                note(&log, &line);
            }
        });
        Ok(())
    }

    fn log(&self) -> String {
        let control =
            self.control.as_ref().map(|control| control.log.lock().unwrap_or_else(PoisonError::into_inner).clone());
        control.or(self.sidecar.as_ref().map(Running::log)).unwrap_or_default()
    }

    async fn stop(&mut self) -> Result<()> {
        let Some(mut sidecar) = self.sidecar.take() else {
            return Ok(());
        };
        sidecar.signal(Signal::TERM)?;
        match timeout(STOP_LIMIT, sidecar.ended()).await {
            Ok(ended) if ended.as_ref().is_ok_and(|ended| ended.success()) => Ok(()),
            Ok(ended) => bail!("the sidecar ended with {ended:?}:\n{}", sidecar.log()),
            Err(_) => bail!("the sidecar does not end:\n{}", sidecar.log()),
        }
    }
}

fn told(what: impl Serialize) -> Result<Value> {
    Ok(serde_json::to_value(what)?)
}

/// Gives the namespace its address and its way out, and puts the files of a container in their places.
async fn settle(place: &Place) -> Result<()> {
    let Place { address, prefix, gateway, files } = place;
    for command in [
        "link set lo up".to_owned(),
        format!("address add {address}/{prefix} dev {LINK}"),
        format!("link set {LINK} up"),
        format!("route add default via {gateway}"),
    ] {
        run("ip", command.split(' ')).await?;
    }
    for (target, source) in files {
        if target.exists() {
            run("mount", [Path::new("--bind"), source, target]).await?;
        }
    }
    Ok(())
}

/// The name of the link inside a namespace.
pub(super) const LINK: &str = "eth0";

/// Runs a program to its end.
///
/// # Errors
/// It is not there, or says that it failed.
pub(super) async fn run<A: AsRef<std::ffi::OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = command.output().await.with_context(|| program.to_owned())?;
    if !output.status.success() {
        let arguments: Vec<_> = command.as_std().get_args().map(std::ffi::OsStr::to_string_lossy).collect();
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
