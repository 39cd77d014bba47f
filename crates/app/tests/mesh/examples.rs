//! What the documentation tells to type works as it stands there.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};
use transept_testkit::launch::{unused_address, unused_port};

use crate::stage::{PATIENCE, binary, soon, until};

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The commands of a page from a heading on: what stands alone in its blocks without a language.
pub(crate) fn commands(page: &str, heading: &str) -> Vec<String> {
    let text = std::fs::read_to_string(repository().join(page)).expect("readable");
    let (_, text) = text.split_once(heading).expect("the heading");
    let text = text.split_once("\n## ").map_or(text, |(section, _)| section);
    let blocks = text.split("```").skip(1).step_by(2);
    let lines = blocks.filter_map(|block| block.strip_prefix('\n')).flat_map(str::lines);
    lines.filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}

/// A command line in a shell, with `transept` in the search path. With `exec` in front, what ends the shell ends the command.
pub(crate) fn shell(line: &str, directory: &Path) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let own = binary().parent().expect("a directory").display().to_string();
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(line)
        .current_dir(directory)
        .env("PATH", format!("{own}:{path}"))
        .env("TRANSEPT_ADMIN", "off");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

pub(crate) async fn terminate(mut child: Child) -> Option<i32> {
    let pid =
        child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw).expect("it runs");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
    soon(child.wait()).await.expect("it ends").code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_programs_on_machines_talk_as_their_page_says() {
    let directory = tempfile::tempdir().expect("temporary directory");
    std::os::unix::fs::symlink(repository().join("examples"), directory.path().join("examples")).expect("linked");
    let commands = commands("examples/vm/README.md", "# Programs on machines");
    let [control, cart, web] = commands.as_slice() else { panic!("three commands: {commands:?}") };
    // The ports of the page may be taken on this machine.
    let (plane, tunnels) = (unused_address().expect("an address"), unused_address().expect("an address"));
    let program = unused_port();
    let local = unused_port();
    let cart = cart.replace("8080", &program.to_string());
    let web = web.replace("9001", &local.to_string());

    let control = shell(&format!("exec {control}"), directory.path())
        .env("TRANSEPT_LISTEN", plane.to_string())
        .spawn()
        .expect("it starts");
    let listens = || async { tokio::net::TcpStream::connect(plane).await.is_ok() };
    until(listens, |listens| *listens).await;
    let cart = shell(&format!("exec env {cart}"), directory.path())
        .env("TRANSEPT_CONTROL", plane.to_string())
        .env("TRANSEPT_LISTEN", tunnels.to_string())
        .spawn()
        .expect("it starts");
    let open = || async { tokio::net::TcpStream::connect(("127.0.0.1", program)).await.is_ok() };
    until(open, |open| *open).await;
    let called = shell(&web, directory.path()).env("TRANSEPT_CONTROL", plane.to_string()).output();
    let called = tokio::time::timeout(PATIENCE, called).await.expect("in time").expect("it starts");
    let said = String::from_utf8_lossy(&called.stdout).into_owned();
    assert_eq!(called.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&called.stderr));
    assert!(said.contains("\"caller\": \"spiffe://transept.local/ns/default/sa/web\""), "{said}");
    // The sidecar ends as its program did.
    assert_eq!(terminate(cart).await, Some(143));
    assert_eq!(terminate(control).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mesh_of_the_first_page_starts_with_its_two_commands() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("temporary directory");
    let commands = commands("README.md", "## A mesh in two commands");
    let [control, sidecar] = commands.as_slice() else { panic!("two commands: {commands:?}") };
    let (plane, tunnels) = (unused_address().expect("an address"), unused_address().expect("an address"));
    let program = unused_port();
    let cart = directory.path().join("cart");
    let script = repository().join("examples/vm/cart.py");
    std::fs::write(&cart, format!("#!/bin/sh\nexec python3 '{}' {program}\n", script.display())).expect("written");
    std::fs::set_permissions(&cart, std::fs::Permissions::from_mode(0o755)).expect("allowed");
    let state = directory.path().join("state");

    let control = shell(&format!("exec {control}"), directory.path())
        .env("TRANSEPT_LISTEN", plane.to_string())
        .env("TRANSEPT_STATE", &state)
        .spawn()
        .expect("it starts");
    let listens = || async { tokio::net::TcpStream::connect(plane).await.is_ok() };
    until(listens, |listens| *listens).await;
    // The token is made by the state of the control plane; the sidecar has one of its own.
    let own = directory.path().join("sidecar");
    let sidecar = sidecar.replace("8080", &program.to_string());
    let sidecar = shell(&format!("exec env 'TRANSEPT_STATE={}' {sidecar}", own.display()), directory.path())
        .env("TRANSEPT_CONTROL", plane.to_string())
        .env("TRANSEPT_LISTEN", tunnels.to_string())
        .env("TRANSEPT_STATE", &state)
        .spawn()
        .expect("it starts");
    let open = || async { tokio::net::TcpStream::connect(("127.0.0.1", program)).await.is_ok() };
    until(open, |open| *open).await;
    assert_eq!(terminate(sidecar).await, Some(143));
    assert_eq!(terminate(control).await, Some(0));
}
