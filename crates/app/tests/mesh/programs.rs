//! Programs in Python, Node and C that know nothing of the mesh, each on a machine of its own with a sidecar beside it: what they say
//! to each other, and what somebody hears who listens on the link.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};
use transept_testkit::launch::Running;

use crate::machines::{Machine, with_machines};
use crate::stage::{Mesh, soon, until};
use crate::wiretap::{Heard, Wiretap, occurs, records};

const TEST: &str = "programs::programs_of_three_languages_talk_and_the_link_shows_nothing";

/// Where everybody's tunnels come in, unless told otherwise.
const TUNNELS: u16 = 15008;
const CONTROL: u16 = 9909;
/// What programs listen on; each has a machine of its own.
const HTTP: u16 = 8080;
const SECOND: u16 = 8081;
const WEBSOCKET: u16 = 8082;
const TCP: u16 = 7000;
const GREETING: u16 = 2525;

/// The three interpreters, so to speak.
struct Languages {
    directory: tempfile::TempDir,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Python,
    Node,
    C,
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs").join(name)
}

/// The Python with the packages that `.ci/run` installs, else that of the system, which may have them too.
fn python() -> PathBuf {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let own = Path::new(&home).join(".cache/transept-tools/venv/bin/python");
    if own.is_file() { own } else { "python3".into() }
}

/// What of all this the machine lacks.
fn missing() -> Option<String> {
    let works = |program: &Path, argument: &str, more: &str| {
        let mut command = std::process::Command::new(program);
        command.arg(argument).args((!more.is_empty()).then_some(more)).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let needed = [
        (python(), "-c", "import grpc, websockets", "Python with grpcio and websockets"),
        ("node".into(), "--version", "", "Node"),
        ("cc".into(), "--version", "", "a C compiler (cc)"),
    ];
    let lacks = needed.iter().find(|(program, argument, more, _)| !works(program, argument, more));
    lacks.map(|(.., what)| format!("{what} is not installed"))
}

impl Languages {
    fn prepare() -> Languages {
        let languages = Languages { directory: tempfile::tempdir().expect("temporary directory") };
        let compiled = std::process::Command::new("cc")
            .args(["-O1", "-o"])
            .arg(languages.directory.path().join("talk"))
            .arg(source("talk.c"))
            .status()
            .expect("it starts");
        assert!(compiled.success(), "talk.c compiles");
        languages
    }

    fn command(&self, language: Language) -> Command {
        let mut command = match language {
            Language::Python => Command::new(python()),
            Language::Node => Command::new("node"),
            Language::C => Command::new(self.directory.path().join("talk")),
        };
        match language {
            Language::Python => command.arg(source("talk.py")),
            Language::Node => command.arg(source("talk.js")),
            Language::C => &mut command,
        };
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn serve(&self, language: Language, ports: &[(&str, u16)]) -> Child {
        let ports = ports.iter().map(|(protocol, port)| format!("{protocol}={port}"));
        self.command(language).arg("serve").args(ports).spawn().expect("it starts")
    }

    /// What a program that calls prints, or why it does not.
    async fn call(
        &self,
        language: Language,
        protocol: &str,
        host: &str,
        port: u16,
        words: &str,
    ) -> Result<String, String> {
        let mut command = self.command(language);
        command.args(["call", protocol, host, &port.to_string(), words]);
        let output = soon(command.output()).await.expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(said),
            false => Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr))),
        }
    }
}

/// A service: its language, its namespace and name, and its ports with what they are for others.
struct Service {
    language: Language,
    namespace: &'static str,
    name: &'static str,
    /// Protocol, port of the program, and `--port` for the sidecar.
    ports: &'static [(&'static str, u16, &'static str)],
}

const SERVICES: [Service; 3] = [
    Service {
        language: Language::Python,
        namespace: "default",
        name: "cart",
        ports: &[
            ("http", HTTP, "80:8080"),
            ("grpc", SECOND, "81:8081/grpc"),
            ("websocket", WEBSOCKET, "82:8082"),
            ("tcp", TCP, "7000"),
            ("greeting", GREETING, "25:2525"),
        ],
    },
    Service {
        language: Language::Node,
        namespace: "default",
        name: "stock",
        ports: &[
            ("http", HTTP, "80:8080/http"),
            ("h2", SECOND, "81:8081/h2c"),
            ("tcp", TCP, "7000"),
            ("greeting", GREETING, "25:2525"),
        ],
    },
    Service {
        language: Language::C,
        namespace: "shop",
        name: "price",
        ports: &[("http", HTTP, "80:8080"), ("tcp", TCP, "7000:7000/tcp"), ("greeting", GREETING, "25:2525/tcp")],
    },
];

/// Who calls whom: every protocol with every language that speaks it on either side, by every kind of name.
const CALLS: [(Language, &str, &str, u16, &str); 15] = [
    (Language::Python, "http", "stock.default.svc.cluster.local", 80, "node"),
    (Language::Python, "http", "price.shop", 80, "c"),
    (Language::Python, "grpc", "cart", 81, "python"),
    (Language::Python, "websocket", "cart.default", 82, "python"),
    (Language::Python, "tcp", "price.shop.mesh", 7000, "c"),
    (Language::Python, "greeting", "stock", 25, "node"),
    (Language::Node, "http", "cart", 80, "python"),
    (Language::Node, "h2", "stock", 81, "node"),
    (Language::Node, "websocket", "cart.mesh", 82, "python"),
    (Language::Node, "tcp", "cart", 7000, "python"),
    (Language::Node, "greeting", "price.shop", 25, "c"),
    (Language::C, "http", "stock", 80, "node"),
    (Language::C, "http", "price.shop", 80, "c"),
    (Language::C, "tcp", "stock.default", 7000, "node"),
    (Language::C, "greeting", "cart", 25, "python"),
];

/// A service that runs.
struct Placed {
    machine: Machine,
    _sidecar: Running,
    _program: Child,
}

fn place(mesh: &Mesh, middle: &Machine, languages: &Languages, service: &Service, number: u8) -> Placed {
    let machine = Machine::linked(number);
    let ports: Vec<_> = service.ports.iter().map(|(protocol, port, _)| (*protocol, *port)).collect();
    let program = machine.run(languages.serve(service.language, &ports));
    let mut setup = middle.run(mesh.instance_in(service.namespace, service.name, service.name));
    for (.., port) in service.ports {
        setup = setup.argument(format!("--port={port}"));
    }
    let sidecar = machine.run(setup.argument("--transparent").start());
    Placed { machine, _sidecar: sidecar, _program: program }
}

#[test]
fn programs_of_three_languages_talk_and_the_link_shows_nothing() {
    with_machines(TEST, Some(missing), || {
        let (middle, languages) = (Machine::middle(), Languages::prepare());
        let tap = Wiretap::begin();
        let mesh = middle.run(Mesh::start_at(SocketAddr::new(middle.address().into(), CONTROL), "", &[]));
        let placed: Vec<_> =
            (1..).zip(&SERVICES).map(|(number, it)| place(&mesh, &middle, &languages, it, number)).collect();
        let web = Machine::linked(9);
        let setup = middle.run(mesh.instance_in("default", "web", "web")).argument("--transparent");
        let sidecar = web.run(setup.start());

        // Until everybody has heard of everybody. From then on every call succeeds at once.
        for host in ["cart", "stock", "price.shop"] {
            let call = || languages.call(Language::C, "http", host, 80, "hello");
            web.run(until(call, |said| said.as_ref().is_ok_and(|said| said.contains("200 OK")))).expect("an answer");
        }
        let mut words = Vec::new();
        for (number, &(language, protocol, host, port, callee)) in CALLS.iter().enumerate() {
            let told = format!("geheim-{number}-{protocol}");
            let said = web.run(languages.call(language, protocol, host, port, &told));
            let said = said.unwrap_or_else(|why| panic!("{language:?} {protocol} {host}: {why}"));
            assert!(said.contains(&format!("{callee}: {told}")), "{language:?} {protocol} {host}: {said}");
            if ["http", "grpc", "h2"].contains(&protocol) {
                assert!(
                    said.contains("URI=spiffe://transept.local/ns/default/sa/web"),
                    "{language:?} {protocol}: {said}"
                );
            }
            words.push(told);
        }
        // Who is called calls others, and is then who it is.
        let call = || languages.call(Language::C, "http", "price.shop", 80, "geheim-chain");
        let said = placed[0].machine.run(call()).expect("an answer");
        assert!(
            said.contains("c: geheim-chain") && said.contains("URI=spiffe://transept.local/ns/default/sa/cart"),
            "{said}"
        );
        words.push("geheim-chain".to_owned());

        // The same without sidecars, so that we know what the link would show.
        let _plain = middle.run(languages.serve(Language::Python, &[("http", HTTP)]));
        let direct = || languages.call(Language::Node, "http", "10.9.0.254", HTTP, "geheim-plain");
        web.run(until(direct, Result::is_ok)).expect("an answer");
        check_heard(&tap.end(), &words);
        drop((sidecar, placed));
    });
}

/// What must have been heard on the link, and what must not.
fn check_heard(heard: &Heard, words: &[String]) {
    assert!(occurs(b"geheim-plain", &heard.frames), "what is not protected is heard");
    for told in words {
        assert!(!occurs(told.as_bytes(), &heard.frames), "{told} was heard");
    }
    let mut tunnels = 0;
    for ((from, to), stream) in &heard.streams {
        assert!(!stream.torn, "{from} {to}: not everything was heard");
        let plain = [from.port(), to.port()].contains(&HTTP);
        for sign in ["POST /tell", "HTTP/1.1", "PRI * HTTP/2.0", "/shop.Talk/Tell", "220 ", "HELO ", "geheim-"] {
            assert!(plain || !occurs(sign.as_bytes(), &stream.bytes), "{from} {to}: {sign} was heard");
        }
        if plain {
            continue;
        }
        assert!([from.port(), to.port()].iter().any(|port| [TUNNELS, CONTROL].contains(port)), "{from} {to}");
        let records = records(&stream.bytes).unwrap_or_else(|why| panic!("{from} {to}: {why}"));
        tunnels += usize::from(to.port() == TUNNELS && records > 0);
    }
    let mut plain = heard.streams.iter().filter(|((_, to), _)| to.port() == HTTP);
    assert!(plain.any(|(_, stream)| occurs(b"POST /tell HTTP/1.1", &stream.bytes)), "and so it reads");
    // From web to each of the three, and from one of them to another.
    assert!(tunnels >= 4, "{tunnels} tunnels");
}
