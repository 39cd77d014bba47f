//! The processes of the demo: five programs, each with a sidecar of its own that runs it.
//!
//! Started by `demo` once the gateway is open. Each joins with a token of its own, as everywhere. What ends by itself is told; at
//! the end every one is ended by its number and awaited.

use std::ffi::OsString;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use transept_control::plane::Question;
use transept_identity::token::Uses;

use super::services::Service;
use crate::console;
use crate::gateway::Opened;
use crate::sidecar::TOKEN;

/// The namespace of the shop.
const NAMESPACE: &str = "default";
/// How long a token is good; it is used at once.
const TOKEN_SECONDS: u64 = 600;
/// How long a process may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// One program that is to run.
#[derive(Debug, Clone)]
pub(super) struct Post {
    pub(super) service: Service,
    /// Which instance of the service, from 1.
    instance: u8,
    /// Where the program itself listens.
    pub(super) program: SocketAddr,
    /// Where its sidecar does.
    tunnels: SocketAddr,
}

impl Post {
    /// All of them, each with a free port.
    pub(super) fn all() -> Result<Vec<Post>> {
        let posts = [
            (Service::Web, 1),
            (Service::Catalog, 1),
            (Service::Catalog, 2),
            (Service::Cart(1), 1),
            (Service::Cart(2), 1),
        ];
        let held = hold_ports(posts.len() * 2)?;
        let all = posts.into_iter().zip(held.chunks_exact(2));
        let post = |((service, instance), held): ((Service, u8), &[TcpListener])| {
            Ok(Post { service, instance, program: held[0].local_addr()?, tunnels: held[1].local_addr()? })
        };
        all.map(post).collect()
    }

    /// The name of the instance.
    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.service.name(), self.instance)
    }

    /// The command line of its sidecar, with the program.
    fn command_line(&self, binary: &Path, control: SocketAddr, directory: &Path) -> Vec<OsString> {
        let (name, service, port) = (self.name(), self.service.name(), self.program.port());
        let mut line = format!(
            "demo-part sidecar --service {service} --name {name} --control {control} --listen {tunnels} --port 80:{port}/http \
             --health-path /healthz --health-interval 1s --workers 1 --admin off --log text --access-log off --drain 2s",
            tunnels = self.tunnels,
        );
        if let Service::Cart(_) = self.service {
            line.push_str(" --upstream catalog=0");
        }
        let words = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let mut all = words(&line);
        all.extend(["--state".into(), directory.join(&name).into(), "--".into(), binary.into()]);
        all.extend(words(&format!("demo-part service {service} --instance {name} --port {port}")));
        all
    }
}

/// Free ports, each with the socket that holds it until all are chosen, so that no two are the same. They are below those that the system usually
/// gives to connections (`net.ipv4.ip_local_port_range`, from 32768), of which one could have it before a process has started: where that begins
/// lower, such a process ends and says so. Which ones they are differs from demo to demo.
fn hold_ports(count: usize) -> Result<Vec<TcpListener>> {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    let begin = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or(0).wrapping_mul(61);
    let ports = (0..COUNT).map(|step| FIRST + begin.wrapping_add(step) % COUNT);
    let held: Vec<TcpListener> =
        ports.filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()).take(count).collect();
    anyhow::ensure!(held.len() == count, "no {count} free ports between {FIRST} and {}", FIRST + COUNT - 1);
    Ok(held)
}

/// The running processes.
pub(super) struct Crew {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Crew {
    /// Starts everybody; what each prints goes into a file of its own in `directory`.
    pub(super) fn start(posts: &[Post], opened: &Opened, directory: &Path) -> Result<Crew> {
        let mut crew = Crew { tasks: JoinSet::new(), stop: watch::Sender::new(false) };
        let binary = std::env::current_exe().context("the own binary")?;
        for post in posts {
            let child = start(post, &binary, opened, directory).with_context(|| post.name())?;
            crew.tasks.spawn(attend(post.name(), child, log_of(directory, post), crew.stop.subscribe()));
        }
        Ok(crew)
    }

    /// Ends everybody, and returns when all have ended.
    pub(super) async fn end(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

fn start(post: &Post, binary: &Path, opened: &Opened, directory: &Path) -> Result<Child> {
    let question = Question::CreateToken {
        namespace: NAMESPACE.to_owned(),
        service: post.service.name(),
        uses: Uses::Once,
        seconds: TOKEN_SECONDS,
    };
    let made = opened.plane.answer(&question)?;
    let log = File::create(log_of(directory, post))?;
    let mut command = Command::new(binary);
    // What the environment says to us is not meant for them.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TRANSEPT_")) {
        command.env_remove(name);
    }
    command
        .args(post.command_line(binary, opened.control, directory))
        .env(TOKEN, made["token"].as_str().unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C is for us: we end them in order.
        .process_group(0)
        .kill_on_drop(true);
    Ok(command.spawn()?)
}

fn log_of(directory: &Path, post: &Post) -> PathBuf {
    directory.join(format!("{}.log", post.name()))
}

/// Waits for the end of a process, or brings it about.
async fn attend(name: String, mut child: Child, log: PathBuf, mut stop: watch::Receiver<bool>) {
    // Waiting would close it, and with it the process would end.
    let lifeline = child.stdin.take();
    tokio::select! {
        ended = child.wait() => {
            match ended {
                Ok(status) => console::tell(&format!("{name} has ended ({status}); it has written {}", log.display())),
                Err(error) => console::fail(&format!("{name}: {error}")),
            }
            return;
        }
        _ = stop.wait_for(|stop| *stop) => {}
    }
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // One that has ended meanwhile is not buried yet, so the number is still its own.
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
    drop(lifeline);
}
