//! A test in a network namespace of its own, with a link that leads nowhere until the test makes another machine at its end.
//!
//! Where no namespace can be made the test says so and passes, unless `TRANSEPT_REQUIRE_ALL=1`.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

/// The address of this machine, and that of the one elsewhere.
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub(crate) const THERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

const INSIDE: &str = "TRANSEPT_MESH_TEST_INSIDE";
const PREPARE: &str = "ip link set lo up && ip link add here type veth peer name there && ip addr add 10.9.0.1/24 dev here \
                       && ip link set here up && ip link set there up && ip route add default dev here";

/// Runs the test of this name again, alone in a namespace, where it runs `body`.
pub(crate) fn alone(test: &str, body: impl Future<Output = ()>) {
    alone_with(test, PREPARE, None, || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(body);
    });
}

/// The same in a namespace that a script prepares, and unless something else is `missing`.
pub(crate) fn alone_with(test: &str, prepare: &str, missing: Option<fn() -> Option<String>>, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let mut unshare = vec!["--net"];
    if !rustix::process::geteuid().is_root() {
        unshare.push("--map-root-user");
    }
    let script = format!("{prepare} && exec \"$@\"");
    let run = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(&unshare).args(["sh", "-c", &script, "sh"]).args(arguments).env(INSIDE, "1");
        command
    };
    let possible = run(&["true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    let unable = || "no network namespace can be made here (unshare --net, ip)".to_owned();
    if let Some(why) = (!possible).then(unable).or_else(|| missing.and_then(|missing| missing())) {
        assert!(std::env::var("TRANSEPT_REQUIRE_ALL").as_deref() != Ok("1"), "{test}: {why}");
        // Not by `eprintln`, which the test runner keeps to itself.
        std::io::stderr().write_all(format!("skipped: {test}: {why}\n").as_bytes()).expect("written");
        return;
    }
    let this = std::env::current_exe().expect("this program");
    let status = run(&[this.to_str().expect("a path"), "--exact", test, "--nocapture"]).status().expect("it starts");
    assert!(status.success(), "{test} failed in its namespace");
}

/// Another machine at the other end of the link.
pub(crate) struct Elsewhere(Child);

impl Elsewhere {
    pub(crate) fn new() -> Elsewhere {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up; echo made; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
        let elsewhere = Elsewhere(child);
        ip(&["link", "set", "there", "netns", &elsewhere.0.id().to_string()]);
        elsewhere.run(|| {
            ip(&["addr", "add", &format!("{THERE}/24"), "dev", "there"]);
            ip(&["link", "set", "there", "up"]);
        });
        elsewhere
    }

    /// Does something there. Sockets stay where they were made.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let space = std::fs::File::open(format!("/proc/{}/ns/net", self.0.id())).expect("a namespace");
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                rustix::thread::move_into_link_name_space(space.as_fd(), None).expect("moved");
                body()
            });
            inside.join().expect("it ends well")
        })
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("it starts");
    assert!(status.success(), "ip {arguments:?}");
}
