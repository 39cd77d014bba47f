//! The mesh on the stage: the control plane as a process, sidecars as processes, programs in the test itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};
use transept_testkit::client::{Answer, Endpoint, Request, exchange};
use transept_testkit::echo::{self, Pod, Port, RequestLog, Serving};
use transept_testkit::launch::{Launch, LaunchError, Running, unused_address};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often a state is asked for that comes by itself.
const PACE: Duration = Duration::from_millis(20);

pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_transept"))
}

/// Awaits what must come.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

/// Asks again until the answer is the one.
pub(crate) async fn until<T, F: Future<Output = T>>(mut ask: impl FnMut() -> F, good: impl Fn(&T) -> bool) -> T
where
    T: std::fmt::Debug,
{
    let mut pace = tokio::time::interval(PACE);
    let over = Instant::now() + PATIENCE;
    loop {
        pace.tick().await;
        let answer = ask().await;
        if good(&answer) {
            return answer;
        }
        assert!(Instant::now() < over, "it does not come to this in time: {answer:?}");
    }
}

/// A control plane with its files.
pub(crate) struct Mesh {
    directory: TempDir,
    pub(crate) address: SocketAddr,
    arguments: Vec<String>,
    control: Option<Child>,
    /// Where the control plane that was started last has its admin server.
    admin: Option<SocketAddr>,
}

impl Mesh {
    /// A control plane that is given this configuration.
    pub(crate) async fn start(yaml: &str) -> Mesh {
        Mesh::start_with(yaml, &[]).await
    }

    /// The same with more arguments.
    pub(crate) async fn start_with(yaml: &str, arguments: &[&str]) -> Mesh {
        // It starts more than once, so the system's choice is made here.
        Mesh::start_at(unused_address().expect("an address"), yaml, arguments).await
    }

    /// The same at an address that is given.
    pub(crate) async fn start_at(address: SocketAddr, yaml: &str, arguments: &[&str]) -> Mesh {
        let mut mesh = Mesh::prepare(address, yaml, arguments);
        mesh.start_control().await;
        mesh
    }

    /// A place for a mesh with this configuration; nothing runs yet.
    pub(crate) fn prepare(address: SocketAddr, yaml: &str, arguments: &[&str]) -> Mesh {
        let mesh = Mesh {
            directory: tempfile::tempdir().expect("temporary directory"),
            address,
            arguments: arguments.iter().map(|one| (*one).to_owned()).collect(),
            control: None,
            admin: None,
        };
        std::fs::write(mesh.path("mesh.yaml"), yaml).expect("written");
        mesh
    }

    /// Starts a gateway with the control plane in the same process.
    pub(crate) async fn start_embedded(&self) -> Running {
        let arguments = [
            "run".to_owned(),
            self.path("mesh.yaml").display().to_string(),
            "--mesh".to_owned(),
            format!("--mesh-listen={}", self.address),
            format!("--state={}", self.path("control").display()),
        ];
        let arguments = arguments.into_iter().chain(self.arguments.iter().cloned());
        Launch::subcommand(binary(), arguments).start(PATIENCE).await.unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// A file or directory of this mesh.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the admin server of the control plane says there.
    pub(crate) async fn ask(&self, path: &str) -> (u16, String) {
        let admin = self.admin.expect("it runs");
        let answer = send(admin, &Request::get(&admin.to_string(), path)).await.expect("an answer");
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Starts the control plane and waits until it takes proxies.
    pub(crate) async fn start_control(&mut self) {
        let mut child = Command::new(binary())
            .arg("control")
            .arg(self.path("mesh.yaml"))
            .args(["--listen", &self.address.to_string(), "--admin=127.0.0.1:0", "--state"])
            .arg(self.path("control"))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut seen = String::new();
        while let Some(line) = soon(lines.next_line()).await.expect("text") {
            if let Some((_, admin)) = line.split_once("admin listening on http://") {
                let admin = admin.split('"').next().and_then(|admin| admin.parse().ok());
                self.admin = Some(admin.expect("an address"));
            }
            if line.contains("control plane listening on") {
                // The pipe is read to its end, so that the process never waits for us.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                self.control = Some(child);
                return;
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        panic!("it ended before it was ready:\n{seen}");
    }

    /// Kills the control plane, without a chance to tidy up.
    pub(crate) async fn kill_control(&mut self) {
        self.control.take().expect("it runs").kill().await.expect("killed");
    }

    /// Gives it another configuration.
    pub(crate) fn configure(&self, yaml: &str) {
        let beside = self.path("mesh.new");
        std::fs::write(&beside, yaml).expect("written");
        std::fs::rename(&beside, self.path("mesh.yaml")).expect("renamed");
    }

    /// Asks the control plane about the mesh.
    pub(crate) async fn status(&self) -> serde_json::Value {
        let shown = self.transept(&["mesh", "status", "--json"]).await;
        serde_json::from_str(&shown).unwrap_or(serde_json::Value::Null)
    }

    /// Who calls whom, as the control plane has heard.
    pub(crate) async fn graph(&self) -> serde_json::Value {
        let shown = self.transept(&["mesh", "graph", "--json"]).await;
        serde_json::from_str(&shown).unwrap_or(serde_json::Value::Null)
    }

    /// What a command that asks the control plane prints.
    pub(crate) async fn transept(&self, arguments: &[&str]) -> String {
        let output = Command::new(binary()).args(arguments).arg("--state").arg(self.path("control")).output();
        String::from_utf8(soon(output).await.expect("it starts").stdout).expect("text")
    }

    /// The file of a new join token for a service.
    pub(crate) async fn token(&self, service: &str) -> PathBuf {
        self.token_in("default", service).await
    }

    async fn token_in(&self, namespace: &str, service: &str) -> PathBuf {
        let token = self.transept(&["token", "create", "--namespace", namespace, "--service", service]).await;
        assert!(!token.is_empty(), "a token");
        let file = self.path(&format!("{namespace}.{service}.token"));
        std::fs::write(&file, token).expect("written");
        file
    }

    /// A sidecar of the only instance of a service.
    pub(crate) async fn sidecar(&self, service: &str) -> Sidecar {
        self.instance(service, service).await
    }

    /// A sidecar of an instance of a service.
    pub(crate) async fn instance(&self, service: &str, name: &str) -> Sidecar {
        self.instance_in("default", service, name).await
    }

    /// The same in a namespace.
    pub(crate) async fn instance_in(&self, namespace: &str, service: &str, name: &str) -> Sidecar {
        let token = self.token_in(namespace, service).await;
        let mut arguments = vec!["sidecar".to_owned(), "--service".to_owned(), service.to_owned()];
        arguments.push(format!("--namespace={namespace}"));
        arguments.push(format!("--name={name}"));
        arguments.push(format!("--control={}", self.address));
        arguments.push(format!("--state={}", self.path(&format!("{name}.state")).display()));
        arguments.push(format!("--token-file={}", token.display()));
        arguments.push("--workers=1".to_owned());
        arguments.push("--health-interval=200ms".to_owned());
        Sidecar { arguments, tunnels: unused_address().expect("an address"), local: Vec::new() }
    }
}

/// A sidecar that is to be started.
#[derive(Clone)]
pub(crate) struct Sidecar {
    arguments: Vec<String>,
    /// Where its tunnels come in.
    pub(crate) tunnels: SocketAddr,
    /// The local addresses of its upstreams, in order.
    pub(crate) local: Vec<SocketAddr>,
}

impl Sidecar {
    /// With one more argument.
    pub(crate) fn argument(mut self, argument: impl Into<String>) -> Sidecar {
        self.arguments.push(argument.into());
        self
    }

    /// Beside a program that listens here, under this port for others, maybe with a protocol.
    pub(crate) fn port(self, service: u16, program: SocketAddr, protocol: &str) -> Sidecar {
        let tunnels = self.tunnels;
        let with = self.argument(format!("--port={service}:{}{protocol}", program.port()));
        match with.arguments.iter().any(|argument| argument.starts_with("--listen=")) {
            true => with,
            false => with.argument(format!("--listen={tunnels}")),
        }
    }

    /// Whose tunnels come in at an address that is given.
    pub(crate) fn at(mut self, tunnels: SocketAddr) -> Sidecar {
        self.tunnels = tunnels;
        self
    }

    /// With a service, such as `cart:80`, under a local address of its own.
    pub(crate) fn upstream(mut self, target: &str) -> Sidecar {
        let local = unused_address().expect("an address");
        self.local.push(local);
        self.argument(format!("--upstream={target}={local}"))
    }

    /// With another value for an argument that it has.
    pub(crate) fn changed(mut self, name: &str, value: &str) -> Sidecar {
        let prefix = format!("--{name}=");
        let found = self.arguments.iter_mut().find(|argument| argument.starts_with(&prefix));
        *found.expect("the argument") = format!("{prefix}{value}");
        self
    }

    /// Without an argument that it has.
    pub(crate) fn without(mut self, name: &str) -> Sidecar {
        self.arguments.retain(|argument| !argument.starts_with(&format!("--{name}=")));
        self
    }

    /// Starts it without a program of its own.
    pub(crate) async fn start(&self) -> Running {
        self.try_start().await.unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// The same, where it may refuse.
    pub(crate) async fn try_start(&self) -> Result<Running, LaunchError> {
        Launch::subcommand(binary(), self.arguments.clone()).start(PATIENCE).await
    }

    /// What it says when it does not start.
    pub(crate) async fn refusal(&self) -> String {
        self.try_start().await.expect_err("it does not start").log
    }

    /// The command that starts it with a program.
    pub(crate) fn command(&self, program: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(&self.arguments).args(["--admin=off", "--log=text", "--"]).args(program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }
}

/// A program of the mesh.
pub(crate) async fn program(name: &str, port: Port) -> Serving {
    logging_program(name, port, &RequestLog::new()).await
}

/// The same, which notes what it is asked.
pub(crate) async fn logging_program(name: &str, port: Port, log: &RequestLog) -> Serving {
    let pod = Pod::new(name, "default", log.clone());
    echo::serve(SocketAddr::from(([127, 0, 0, 1], 0)), port, &pod).await.expect("served")
}

/// A program that gives back what it gets, and speaks first if it has something to say.
pub(crate) async fn repeater(greeting: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(greeting.as_bytes()).await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

/// A program whose responses never end.
pub(crate) async fn events() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: one\n\n";
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(head).await;
                let _ = stream.read(&mut [0]).await;
            });
        }
    });
    address
}

/// Asks such a program over a connection, and returns when its response has begun.
pub(crate) async fn begin_events(stream: &mut TcpStream) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n").await.expect("sent");
    let mut received = Vec::new();
    while !received.windows(3).any(|part| part == b"one") {
        let count = soon(stream.read_buf(&mut received)).await.expect("a response");
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&received));
    }
}

/// One GET through a local address.
pub(crate) async fn get(at: SocketAddr) -> Result<Answer, String> {
    send(at, &Request::get("cart", "/")).await
}

/// One request through a local address.
pub(crate) async fn send(at: SocketAddr, request: &Request) -> Result<Answer, String> {
    soon(exchange(&Endpoint::http1(at), request)).await.outcome.map_err(|failure| failure.to_string())
}

/// Waits until a request through a local address is answered with this status.
pub(crate) async fn answered(at: SocketAddr, status: u16) -> Answer {
    let ask = || get(at);
    until(ask, |answer| answer.as_ref().is_ok_and(|answer| answer.status == status)).await.expect("an answer")
}

/// A cart with one HTTP program behind its sidecar, and a web whose sidecar calls it.
pub(crate) struct Pair {
    pub(crate) cart: Running,
    pub(crate) web: Running,
    /// How they were started.
    pub(crate) cart_setup: Sidecar,
    pub(crate) web_setup: Sidecar,
    _program: Serving,
}

impl Pair {
    /// Starts both and waits until a request passes.
    pub(crate) async fn start(mesh: &Mesh) -> Pair {
        let program = program("cart-1", Port::Http1).await;
        let cart_setup = mesh.sidecar("cart").await.port(80, program.address, "");
        let web_setup = mesh.sidecar("web").await.upstream("cart");
        let (cart, web) = (cart_setup.start().await, web_setup.start().await);
        answered(web_setup.local[0], 200).await;
        Pair { cart, web, cart_setup, web_setup, _program: program }
    }

    /// Where web calls cart.
    pub(crate) fn local(&self) -> SocketAddr {
        self.web_setup.local[0]
    }
}

/// The first line with this text that a process prints, or has printed.
pub(crate) async fn told(running: &Running, text: &str) -> String {
    match timeout(PATIENCE, running.log_line_with(text)).await {
        Ok(line) => line,
        Err(_) => panic!("nothing is told of `{text}`:\n{}", running.log()),
    }
}

/// Waits until these words pass as bytes: what a sidecar knows of a service comes a moment after it has started.
pub(crate) async fn passes(at: SocketAddr, words: &str, expected: &str) {
    let heard = || async {
        let mut stream = TcpStream::connect(at).await.ok()?;
        stream.write_all(words.as_bytes()).await.ok()?;
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer)
    };
    until(heard, |answer| answer.as_deref() == Some(expected.as_bytes())).await;
}

/// Sends, and reads as many bytes as are expected.
pub(crate) async fn say(stream: &mut TcpStream, words: &str, expected: &str) {
    stream.write_all(words.as_bytes()).await.expect("sent");
    let mut answer = vec![0; expected.len()];
    if let Err(failure) = soon(stream.read_exact(&mut answer)).await {
        panic!("no answer to {words:?}: {failure}");
    }
    assert_eq!(String::from_utf8_lossy(&answer), expected);
}
