//! One host of the mesh, seen from the runner: a namespace on the bridge, and the part of the runner in it that takes orders.

use std::net::Ipv4Addr;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use super::inside::{LINK, run};
use super::orders::{Answer, Order};
use crate::options::INSIDE_FLAG;

/// The bridge that joins all hosts.
const BRIDGE: &str = "hosts";
/// The address of the bridge: the way out of every host, and where names of others are asked for.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The length of the prefix of all hosts.
pub(super) const PREFIX: u8 = 24;
/// Everything that is needed, in a namespace of its own.
const PROBE: &str = "ip link add probe type bridge && ip link add here type veth peer name there \
                     && mount --bind /etc/hosts /etc/hosts";

/// Whether hosts can be made here.
///
/// # Errors
/// Why not.
pub(super) async fn probe() -> Result<()> {
    let why = "no network namespace can be made here (unshare --net --mount, ip, mount)";
    run("unshare", ["--net", "--mount", "sh", "-c", PROBE]).await.context(why)
}

/// Makes the bridge in the network of the runner.
pub(super) async fn make_bridge() -> Result<()> {
    for command in [
        format!("link add {BRIDGE} type bridge"),
        format!("address add {GATEWAY}/{PREFIX} dev {BRIDGE}"),
        format!("link set {BRIDGE} up"),
    ] {
        run("ip", command.split(' ')).await?;
    }
    Ok(())
}

/// The address of the host with this number.
pub(super) fn address_of(number: u8) -> Ipv4Addr {
    let [a, b, c, _] = GATEWAY.octets();
    Ipv4Addr::new(a, b, c, number)
}

/// A namespace with somebody in it.
#[derive(Debug)]
pub(super) struct Host {
    /// Its address.
    pub(super) address: Ipv4Addr,
    orders: Mutex<Orders>,
    /// Ends with its standard input, or when this is dropped.
    _child: Child,
}

#[derive(Debug)]
struct Orders {
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

impl Host {
    /// Makes a namespace and links it to the bridge; number 1 is the bridge's own.
    ///
    /// # Errors
    /// It is not permitted, or something is missing.
    pub(super) async fn make(number: u8) -> Result<Host> {
        let mut child = Command::new("unshare")
            .args(["--net", "--mount"])
            .arg(std::env::current_exe()?)
            .arg(format!("--{INSIDE_FLAG}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("unshare")?;
        let to = child.stdin.take().context("no pipe")?;
        let mut from = BufReader::new(child.stdout.take().context("no pipe")?).lines();
        from.next_line().await?.context("it ended before it was there")?;
        let process = child.id().context("it has ended")?;
        let near = format!("host{number}");
        for command in [
            format!("link add {near} type veth peer name {LINK} netns {process}"),
            format!("link set {near} master {BRIDGE} up"),
        ] {
            run("ip", command.split(' ')).await?;
        }
        Ok(Host { address: address_of(number), orders: Mutex::new(Orders { to, from }), _child: child })
    }

    /// Has an order carried out, and gives what came of it.
    ///
    /// # Errors
    /// It could not be.
    pub(super) async fn tell<T: DeserializeOwned>(&self, order: &Order) -> Result<T> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        let mut orders = self.orders.lock().await;
        orders.to.write_all(&line).await?;
        let answer = orders.from.next_line().await?.with_context(|| format!("nobody is left at {}", self.address))?;
        match serde_json::from_str(&answer)? {
            Answer::Done(value) => Ok(serde_json::from_value(value)?),
            Answer::Failed(why) => bail!(why),
        }
    }
}
