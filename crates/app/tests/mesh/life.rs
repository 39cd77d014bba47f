//! The life of a program under a sidecar: its start, its environment, its signals and its end.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use transept_testkit::client::Endpoint;
use transept_testkit::echo::Port;
use transept_testkit::grpc::Channel;

use crate::alone::alone_with;
use crate::stage::{Mesh, answered, program, repeater, soon, until};

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw).expect("it runs");
    kill_process(pid, signal).expect("sent");
}

fn lines(child: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(child.stdout.take().expect("a pipe")).lines()
}

/// The next line that the program prints; nobody else writes there.
async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    soon(lines.next_line()).await.expect("text").expect("a line")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_starts_when_its_calls_work_and_its_code_is_ours() {
    let mesh = Mesh::start("").await;
    let cart_program = program("cart-1", Port::Http1).await;
    let cart = mesh.sidecar("cart").await.port(80, cart_program.address, "");
    let _cart = cart.start().await;
    let web = mesh.sidecar("web").await.upstream("cart").argument("--http-proxy=127.0.0.1:0");
    let script = "\
test -z \"$TRANSEPT_TOKEN\" || exit 3
test \"$TRANSEPT_IDENTITY\" = spiffe://transept.local/ns/default/sa/web || exit 4
echo \"upstream $TRANSEPT_UPSTREAM_CART\"
echo \"proxy $HTTP_PROXY $http_proxy $NO_PROXY\"
exit 7";
    let mut child = web.command(&["/bin/sh", "-c", script]).env("TRANSEPT_TOKEN", "geheim").spawn().expect("it starts");
    let mut said = lines(&mut child);
    assert_eq!(line(&mut said).await, format!("upstream {}", web.local[0]));
    let proxy = line(&mut said).await;
    assert!(proxy.starts_with("proxy http://127.0.0.1:"), "{proxy}");
    assert!(proxy.ends_with("localhost,127.0.0.1,::1"), "{proxy}");
    assert_eq!(soon(child.wait()).await.expect("it ends").code(), Some(7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_go_to_the_program_and_its_calls_work_until_it_has_ended() {
    let mesh = Mesh::start("").await;
    let (cart_program, web_program) = (program("cart-1", Port::Http1).await, program("web-1", Port::Http1).await);
    let cart = mesh.sidecar("cart").await.port(80, cart_program.address, "");
    let web = mesh.sidecar("web").await.upstream("cart").port(80, web_program.address, "");
    let _cart = cart.start().await;
    // The program waits in `read`, which a trap interrupts at once.
    let script = "\
trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo hup' HUP
trap 'echo term; read answer < \"$PIPE\"; echo last words; exit 9' TERM
echo ready
while :; do sleep 0.05; done";
    let pipe = mesh.path("pipe");
    let made = tokio::process::Command::new("mkfifo").arg(&pipe).status().await.expect("mkfifo");
    assert!(made.success());
    let mut child = web.command(&["/bin/sh", "-c", script]).env("PIPE", &pipe).spawn().expect("it starts");
    let mut said = lines(&mut child);
    assert_eq!(line(&mut said).await, "ready");
    answered(web.local[0], 200).await;
    for (number, word) in [(Signal::USR1, "usr1"), (Signal::USR2, "usr2"), (Signal::HUP, "hup")] {
        signal(&child, number);
        assert_eq!(line(&mut said).await, word);
    }

    signal(&child, Signal::TERM);
    assert_eq!(line(&mut said).await, "term");
    // Nobody can come in any more, but the program, which has not ended, can still call others.
    assert!(tokio::net::TcpStream::connect(web.tunnels).await.is_err());
    answered(web.local[0], 200).await;
    tokio::fs::write(&pipe, "now\n").await.expect("written");
    assert_eq!(line(&mut said).await, "last words");
    assert_eq!(soon(child.wait()).await.expect("it ends").code(), Some(9));
    until(|| mesh.status(), |status| status["workloads"].as_array().is_some_and(|all| all.len() == 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_of_a_killed_sidecar_ends_before_the_next_one_starts() {
    let mesh = Mesh::start("").await;
    let web = mesh.sidecar("web").await;
    let pipe = mesh.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().await.expect("mkfifo");
    assert!(made.success());
    // Both ends are held open, so that neither writing nor reading waits for somebody.
    let held = std::fs::File::options().read(true).write(true).open(&pipe).expect("a pipe");
    let mut said = BufReader::new(tokio::fs::File::from_std(held)).lines();
    let script = "\
exec > \"$PIPE\"
trap \"echo $1 ends; exit 0\" TERM
echo \"$1 starts\"
while :; do sleep 0.05; done";
    let start = |name: &str| {
        let mut command = web.command(&["/bin/sh", "-c", script, "sh", name]);
        command.env("PIPE", &pipe).stdout(Stdio::null()).spawn().expect("it starts")
    };
    let mut first = start("first");
    assert_eq!(soon(said.next_line()).await.expect("text").as_deref(), Some("first starts"));
    // Who is killed before it has noted which program it has started leaves one that nobody knows.
    let note = mesh.path("web.state").join("program");
    until(|| tokio::fs::try_exists(note.clone()), |found| matches!(found, Ok(true))).await.expect("found");
    first.kill().await.expect("killed");
    let mut second = start("second");
    for line in ["first ends", "second starts"] {
        assert_eq!(soon(said.next_line()).await.expect("text").as_deref(), Some(line));
    }
    signal(&second, Signal::TERM);
    assert_eq!(soon(second.wait()).await.expect("it ends").code(), Some(0));
    assert_eq!(soon(said.next_line()).await.expect("text").as_deref(), Some("second ends"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_goes_to_the_program_and_a_third_one_kills_it() {
    let mesh = Mesh::start("").await;
    let script = "trap 'echo term' TERM; trap 'echo int' INT; echo ready; while :; do sleep 0.05; done";
    let mut child = mesh.sidecar("web").await.command(&["/bin/sh", "-c", script]).spawn().expect("it starts");
    let mut said = lines(&mut child);
    assert_eq!(line(&mut said).await, "ready");
    for (number, word) in [(Signal::TERM, "term"), (Signal::INT, "int")] {
        signal(&child, number);
        assert_eq!(line(&mut said).await, word);
    }
    signal(&child, Signal::TERM);
    assert_eq!(soon(child.wait()).await.expect("it ends").code(), Some(128 + 9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_a_signal_ends_or_that_is_not_there_is_told_as_by_a_shell() {
    let mesh = Mesh::start("").await;
    let web = mesh.sidecar("web").await;
    let mut child = web.command(&["/bin/sh", "-c", "kill -KILL $$"]).spawn().expect("it starts");
    assert_eq!(soon(child.wait()).await.expect("it ends").code(), Some(137));

    let mut child = web.command(&["/nowhere/at/all"]).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut said = String::new();
    let mut stderr = child.stderr.take().expect("a pipe");
    soon(stderr.read_to_string(&mut said)).await.expect("text");
    assert_eq!(soon(child.wait()).await.expect("it ends").code(), Some(127));
    assert!(said.contains("the program cannot be started"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_it_is_said_what_is_missing() {
    let mesh = Mesh::start("").await;
    let mut command = tokio::process::Command::new(crate::stage::binary());
    command.args(["sidecar", "--service=cart", "--admin=off"]).arg(format!("--control={}", mesh.address));
    command.arg("--state").arg(mesh.path("nobody")).env_remove("TRANSEPT_TOKEN");
    let output = soon(command.output()).await.expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("transept token create"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_speaks_no_tls_is_told_as_such() {
    let mesh = Mesh::start("").await;
    // What an HTTP server says to bytes that it does not understand.
    let other = repeater("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let mut command = Command::new(crate::stage::binary());
    command.args(["sidecar", "--service=cart", "--admin=off"]).arg(format!("--control={other}"));
    command.arg("--state").arg(mesh.path("cart.state")).arg("--token-file").arg(mesh.token("cart").await);
    let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts");
    let mut said = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let told = soon(async {
        loop {
            let line = said.next_line().await.expect("text").expect("it says so before it ends");
            if line.contains("does not speak TLS") {
                return line;
            }
        }
    });
    assert!(told.await.contains("9909"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_idle_do_not_hold_up_an_instance_that_stops() {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [
        {name: http, port: 80, appProtocol: http}, {name: grpc, port: 81}]}}";
    let mesh = Mesh::start(service).await;
    // One that is said not to be looked at, and one that speaks first: their sidecar cannot end their connections by itself.
    let (http, grpc) = (program("cart-1", Port::Http1).await, program("cart-1", Port::Grpc).await);
    let cart = mesh.sidecar("cart").await.port(80, http.address, "/tcp").port(81, grpc.address, "");
    // More than anybody is waited for here.
    let cart = cart.argument("--drain=300s");
    let web = mesh.sidecar("web").await.upstream("cart:80").upstream("cart:81");
    let (cart, _web) = (cart.start().await, web.start().await);
    answered(web.local[0], 200).await;
    let call = || async {
        let channel = Channel::connect(&Endpoint::h2c(web.local[1])).await.ok()?;
        channel.echo("Echo", "cart", &[]).await.ok()?.seen
    };
    until(call, Option::is_some).await;
    // Sooner than what idles is closed anyway, which is after 55 s.
    assert!(cart.stop(Duration::from_secs(30)).await.expect("it ends in time").success());
}

/// What makes the sidecar the first process of a container.
const FIRST: [&str; 4] = ["--pid", "--fork", "--mount-proc", "--kill-child"];

fn no_container() -> Option<String> {
    let made = std::process::Command::new("unshare").args(FIRST).args(["setsid", "true"]).status();
    (!made.is_ok_and(|status| status.success()))
        .then(|| "no process namespace can be made (unshare, setsid)".to_owned())
}

#[test]
fn the_first_process_of_a_container_waits_for_its_program_and_buries_orphans() {
    const TEST: &str = "life::the_first_process_of_a_container_waits_for_its_program_and_buries_orphans";
    alone_with(TEST, "ip link set lo up", Some(no_container), || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(first_process());
    });
}

async fn first_process() {
    let mesh = Mesh::start("").await;
    let web = mesh.sidecar("web").await;
    // The orphan has a process group that is neither ours nor the program's. What has ended and nobody has buried is in /proc still.
    let script = "\
orphan=$(setsid sh -c '(read answer < \"$PIPE\") > /dev/null & echo $!')
test -d /proc/$orphan && echo alive
echo now > \"$PIPE\"
while test -d /proc/$orphan; do sleep 0.05; done
echo buried
exit 5";
    let pipe = mesh.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().await.expect("mkfifo").success());
    let sidecar = web.command(&["/bin/sh", "-c", script]);
    let sidecar = sidecar.as_std();
    let mut command = Command::new("unshare");
    command.args(FIRST).arg(sidecar.get_program()).args(sidecar.get_args()).env("PIPE", &pipe);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("it starts");
    let mut said = lines(&mut child);
    assert_eq!(line(&mut said).await, "alive");
    assert_eq!(line(&mut said).await, "buried");
    assert_eq!(soon(child.wait()).await.expect("it ends").code(), Some(5));
}
