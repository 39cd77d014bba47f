//! The containers of `examples/compose` as processes: the commands of its page and of its files, word by word, with addresses,
//! ports and paths in the place of those that containers have.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use transept_testkit::client::Request;
use transept_testkit::launch::{unused_address, unused_port};

use crate::alone::alone;
use crate::examples::{commands, repository, shell, terminate};
use crate::stage::{answered, binary, send, soon, until};

/// The image of every role.
const IMAGE: &str = "transept";
/// What a service in the files may say; everything else would be said to Docker alone.
const KNOWN: [&str; 11] = [
    "image",
    "build",
    "command",
    "volumes",
    "restart",
    "ports",
    "secrets",
    "depends_on",
    "network_mode",
    "user",
    "cap_add",
];

fn directory() -> PathBuf {
    repository().join("examples/compose")
}

fn read(name: &str) -> Value {
    let text = std::fs::read_to_string(directory().join(name)).expect("readable");
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn words(list: &Value) -> Vec<String> {
    let one = |word: &Value| word.as_str().unwrap_or_else(|| panic!("a text: {word}")).to_owned();
    list.as_array().into_iter().flatten().map(one).collect()
}

/// The files as Docker would join them: of a service, a later file replaces what it names.
fn join(files: &[&str]) -> Value {
    let mut all = read(files[0]);
    for file in &files[1..] {
        for (service, fields) in read(file)["services"].as_object().expect("services") {
            for (field, value) in fields.as_object().expect("fields") {
                all["services"][service][field] = value.clone();
            }
        }
    }
    all
}

/// What is named somewhere exists.
fn check(files: &Value) {
    let services = files["services"].as_object().expect("services");
    for (name, service) in services {
        for field in service.as_object().expect("fields").keys() {
            assert!(KNOWN.contains(&field.as_str()), "{name}: {field}");
        }
        assert_eq!(service["image"] == IMAGE, service["command"][0] != "python3", "{name}");
        for other in words(&service["depends_on"]) {
            assert!(services.contains_key(&other), "{name} depends on {other}");
        }
        for secret in words(&service["secrets"]) {
            assert!(files["secrets"][&secret]["file"].is_string(), "{name}: the secret {secret}");
        }
        for volume in words(&service["volumes"]) {
            let (from, to) = volume.split_once(':').expect("from:to");
            match from.starts_with('.') {
                true => assert!(directory().join(from).is_file() && to.ends_with(":ro"), "{name}: {volume}"),
                false => assert!(files["volumes"][from].is_object(), "{name}: {volume}"),
            }
        }
        if words(&service["command"]).iter().any(|word| word == "--transparent") {
            assert_eq!(words(&service["cap_add"]), ["NET_ADMIN"], "{name}");
            assert_eq!(service["user"], "0:0", "{name}");
        }
    }
}

/// The composition on one machine.
struct Composition {
    files: Value,
    home: TempDir,
    control: SocketAddr,
    gateway: SocketAddr,
    /// Where the page finds the cart.
    upstream: SocketAddr,
    /// The port of the program in each network.
    programs: BTreeMap<String, u16>,
    running: Vec<(String, Child)>,
}

impl Composition {
    fn prepare() -> Composition {
        let mut all = Composition {
            files: Value::Null,
            home: tempfile::tempdir().expect("temporary directory"),
            control: unused_address().expect("an address"),
            gateway: unused_address().expect("an address"),
            upstream: unused_address().expect("an address"),
            programs: BTreeMap::new(),
            running: Vec::new(),
        };
        for network in ["cart", "web"] {
            all.programs.insert(network.to_owned(), unused_port());
        }
        // A Gateway of a container has the container's addresses.
        let mesh = std::fs::read_to_string(directory().join("mesh.yaml")).expect("readable");
        let class = "gatewayClassName: transept\n";
        let own = format!("{class}  addresses: [{{type: IPAddress, value: {}}}]\n", all.gateway.ip());
        let mesh = mesh.replace(class, &own).replace("port: 8080", &format!("port: {}", all.gateway.port()));
        assert!(mesh.contains(&own));
        std::fs::write(all.home.path().join("mesh.yaml"), mesh).expect("written");
        all
    }

    /// A file or directory of a container.
    fn place(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// What stands in a command of this service, as it is here.
    fn translate(&self, service: &str, word: &str) -> String {
        let fields = &self.files["services"][service];
        let mut word = word.to_owned();
        for volume in words(&fields["volumes"]) {
            let (from, to) = volume.split_once(':').expect("from:to");
            let here = match (from, from.starts_with('.')) {
                ("./mesh.yaml", _) => self.place("mesh.yaml"),
                (_, true) => directory().join(from),
                (_, false) => self.place(from),
            };
            word = word.replace(to.trim_end_matches(":ro"), &here.display().to_string());
        }
        for secret in words(&fields["secrets"]) {
            let file = self.files["secrets"][&secret]["file"].as_str().expect("a file");
            word = word.replace(&format!("/run/secrets/{secret}"), &self.place(file).display().to_string());
        }
        let network = fields["network_mode"].as_str().and_then(|mode| mode.strip_prefix("service:")).unwrap_or(service);
        if let Some(port) = self.programs.get(network) {
            word = word.replace("8080", &port.to_string());
        }
        let addresses =
            [("control:9909", self.control), ("0.0.0.0:9909", self.control), ("127.0.0.1:9001", self.upstream)];
        for (there, here) in addresses {
            word = word.replace(there, &here.to_string());
        }
        word
    }

    /// Starts a container's process.
    fn start(&mut self, service: &str) {
        let fields = &self.files["services"][service];
        let all: Vec<String> = words(&fields["command"]).iter().map(|word| self.translate(service, word)).collect();
        let mut command = match fields["image"].as_str() {
            Some(IMAGE) => Command::new(binary()),
            _ => Command::new(&all[0]),
        };
        let rest = if fields["image"] == IMAGE { &all[..] } else { &all[1..] };
        command.args(rest).env("TRANSEPT_ADMIN", "off").stdin(Stdio::null());
        if service.ends_with("-sidecar") {
            command.env("TRANSEPT_LISTEN", unused_address().expect("an address").to_string());
        }
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        self.running.push((service.to_owned(), command.spawn().unwrap_or_else(|error| panic!("{service}: {error}"))));
    }

    /// Does what a line of the page says.
    async fn obey(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("docker compose exec -T ") {
            let (service, line) = rest.split_once(' ').expect("a command");
            let line = self.translate(service, line);
            let output = soon(shell(&line, self.home.path()).output()).await.expect("it starts");
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        } else if line.starts_with("docker compose") {
            let flags: Vec<&str> = line.split_whitespace().skip(2).collect();
            let named = flags.windows(2).filter(|pair| pair[0] == "-f").map(|pair| pair[1]);
            let mut files: Vec<&str> = named.collect();
            if files.is_empty() {
                files.push("compose.yaml");
            }
            self.files = join(&files);
            check(&self.files);
            let only = flags.last().filter(|flag| self.files["services"][**flag].is_object());
            let services = self.files["services"].as_object().expect("services").keys().cloned();
            let wanted: Vec<String> = services.filter(|name| only.is_none_or(|only| only == name)).collect();
            for service in wanted {
                if self.running.iter().all(|(running, _)| *running != service) {
                    self.start(&service);
                }
            }
            let control = self.control;
            let listens = || async move { tokio::net::TcpStream::connect(control).await.is_ok() };
            until(listens, |listens| *listens).await;
        } else if let Some(url) = line.strip_prefix("curl http://127.0.0.1:8080") {
            answered(self.gateway, 200).await;
            let answer = send(self.gateway, &Request::get("127.0.0.1:8080", url)).await.expect("an answer");
            let page: Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert_eq!(page["caller"], "spiffe://transept.local/ns/default/sa/edge", "{page}");
            assert_eq!(page["cart"]["caller"], "spiffe://transept.local/ns/default/sa/web", "{page}");
        } else {
            let output = soon(shell(line, self.home.path()).output()).await.expect("it starts");
            assert!(output.status.success(), "{line}");
        }
    }

    /// Ends everything.
    async fn end(self) {
        for (service, child) in self.running {
            let code = terminate(child).await;
            // Python is ended by the signal.
            let expected = if self.files["services"][&service]["image"] == IMAGE { Some(0) } else { None };
            assert_eq!(code, expected, "{service}");
        }
    }
}

async fn refuses(composition: &Composition) {
    let mut post = Request::get("127.0.0.1:8080", "/");
    post.method = "POST".to_owned();
    assert_eq!(send(composition.gateway, &post).await.expect("an answer").status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_containers_talk_as_their_page_says() {
    let mut composition = Composition::prepare();
    let lines = commands("examples/compose/README.md", "# Services in containers");
    assert!(lines.len() >= 7, "{lines:?}");
    for line in &lines {
        composition.obey(line).await;
    }
    refuses(&composition).await;
    composition.end().await;
}

const TRANSPARENT: &str = "compose::the_page_calls_the_cart_by_its_name";

#[test]
fn the_page_calls_the_cart_by_its_name() {
    alone(TRANSPARENT, async {
        let mut composition = Composition::prepare();
        let transparent = commands("examples/compose/README.md", "## Without a setting");
        let [transparent] = transparent.as_slice() else { panic!("one command: {transparent:?}") };
        for line in commands("examples/compose/README.md", "# Services in containers") {
            // The file stands beside the other one: everything else is the same.
            composition.obey(if line == "docker compose up --detach" { transparent } else { &line }).await;
        }
        assert!(composition.files["services"]["web-sidecar"]["cap_add"].is_array());
        refuses(&composition).await;
        composition.end().await;
    });
}

#[test]
fn the_image_is_made_of_what_it_needs() {
    let recipe = std::fs::read_to_string(directory().join("Dockerfile")).expect("readable");
    assert!(recipe.contains("\nENTRYPOINT [\"transept\"]\n"), "the commands in the files begin with a subcommand");
    assert!(recipe.contains("\nUSER 65532:65532\n"));
    let ignored = std::fs::read_to_string(directory().join("Dockerfile.dockerignore")).expect("readable");
    let context = tempfile::tempdir().expect("temporary directory");
    let copies =
        recipe.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--from"));
    for line in copies {
        let mut names: Vec<&str> = line.split_whitespace().collect();
        names.pop();
        for name in names {
            assert!(ignored.lines().any(|line| line == format!("!{name}")), "{name} is kept from the image");
            let from = repository().join(name);
            assert!(from.exists(), "{name}");
            std::os::unix::fs::symlink(from.canonicalize().expect("a path"), context.path().join(name))
                .expect("linked");
        }
    }
    // A workspace of which a member is missing is none.
    let cargo = Path::new(env!("CARGO"));
    let read = std::process::Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--locked"])
        .current_dir(context.path())
        .output()
        .expect("it starts");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
}
