//! Machines of a test: network namespaces with links between them. What runs on one has its sockets and its processes there.
//!
//! The namespace that `alone.rs` gives a test is the machine that all links lead to.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use tokio::runtime::{Builder, Runtime};

use crate::alone::alone_with;

/// The last part of the address of the machine in the middle.
const MIDDLE: u8 = 254;
/// The bridge that joins all links.
const BRIDGE: &str = "hub";
/// The link of a machine, as it sees it.
const LINK: &str = "wire";

/// The hardware address of nobody: what is sent to it gets lost.
const NOBODY: &str = "02:00:00:00:00:fe";

/// The address of a machine by its number.
fn address_of(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, number)
}

/// Runs a test in a process of its own that is alone in its network namespace. `missing` names what else it lacks.
pub(crate) fn with_machines(test: &str, missing: Option<fn() -> Option<String>>, body: impl FnOnce()) {
    alone_with(test, "ip link set lo up", missing, body);
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("it starts");
    assert!(status.success(), "ip {arguments}");
}

fn runtime(builder: &mut Builder) -> Runtime {
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

/// A machine. Dropping it ends its links and whatever runs on its runtime.
pub(crate) struct Machine {
    number: u8,
    runtime: Runtime,
    /// What keeps the namespace; none in the middle, which is the test's own.
    keeper: Option<Child>,
}

impl Machine {
    /// The machine in the middle. To be made first.
    pub(crate) fn middle() -> Machine {
        ip(&format!("link add {BRIDGE} type bridge"));
        ip(&format!("addr add {}/24 dev {BRIDGE}", address_of(MIDDLE)));
        ip(&format!("link set {BRIDGE} up"));
        Machine { number: MIDDLE, runtime: runtime(&mut Builder::new_multi_thread()), keeper: None }
    }

    /// Another machine, linked to the middle.
    pub(crate) fn linked(number: u8) -> Machine {
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo made; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        BufReader::new(keeper.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("text");
        let here = format!("to-{number}");
        ip(&format!("link add {here} type veth peer name {LINK} netns {}", keeper.id()));
        ip(&format!("link set {here} master {BRIDGE} up"));
        let space = std::fs::File::open(format!("/proc/{}/ns/net", keeper.id())).expect("a namespace");
        let runtime = runtime(Builder::new_multi_thread().on_thread_start(move || enter(&space)));
        let machine = Machine { number, runtime, keeper: Some(keeper) };
        machine.inside(|| {
            ip("link set lo up");
            ip(&format!("addr add {}/24 dev {LINK}", machine.address()));
            ip(&format!("link set {LINK} up"));
            ip(&format!("route add default via {} dev {LINK}", address_of(MIDDLE)));
        });
        machine
    }

    /// Its address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        address_of(self.number)
    }

    /// Gives it another address on its link, such as `203.0.113.1/24`.
    pub(crate) fn also(&self, address: &str) {
        // Of IPv6 nobody else is asked first whether he has it.
        let more = if address.contains(':') { " nodad" } else { "" };
        self.inside(|| ip(&format!("addr add {address} dev {LINK}{more}")));
    }

    /// Runs something to its end on this machine.
    pub(crate) fn run<T: Send>(&self, what: impl Future<Output = T> + Send) -> T {
        self.inside(|| self.runtime.block_on(what))
    }

    /// Lets nothing through any more between this machine and the middle, without a word to either.
    pub(crate) fn cut(&self, way: Way) {
        let lead_astray = |to: u8, link: &str| {
            ip(&format!("neigh replace {} lladdr {NOBODY} dev {link} nud permanent", address_of(to)))
        };
        match way {
            Way::Both => ip(&format!("link set to-{} down", self.number)),
            Way::ToIt => lead_astray(self.number, BRIDGE),
            Way::FromIt => self.inside(|| lead_astray(MIDDLE, LINK)),
        }
    }

    /// Lets everything through again.
    pub(crate) fn mend(&self) {
        ip(&format!("link set to-{} up", self.number));
        let forget = |to: u8, link: &str| {
            // There may be nothing to forget.
            let _ = Command::new("ip")
                .args(["neigh", "del", &address_of(to).to_string(), "dev", link])
                .stderr(Stdio::null())
                .status();
        };
        forget(self.number, BRIDGE);
        self.inside(|| forget(MIDDLE, LINK));
    }

    /// Does something in a thread on this machine; sockets and processes stay where they were made.
    fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let space = self
            .keeper
            .as_ref()
            .map(|keeper| std::fs::File::open(format!("/proc/{}/ns/net", keeper.id())).expect("a namespace"));
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                space.iter().for_each(enter);
                body()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Which way between a machine and the middle is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Both,
    ToIt,
    FromIt,
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            // That it has ended already is fine.
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
    }
}

fn enter(space: &std::fs::File) {
    rustix::thread::move_into_link_name_space(space.as_fd(), None).expect("the namespace can be entered");
}
