//! The control plane as a process of its own, with real proxies' feeds against it: joining, renewal, configuration, registration, and
//! what is left of all that when one of them is killed.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;
use transept_identity::{Accept, PeerVerifier, Purpose, Ticket};
use transept_proxy::feed::{Feed, FeedError, FeedOptions, Interest, Received, Standing};
use transept_testkit::client::{Endpoint, Request, exchange};
use transept_testkit::launch::{Launch, unused_address};
use transept_xds::mesh::{Port, Workload};

const BINARY: &str = env!("CARGO_BIN_EXE_transept");
const PATIENCE: Duration = Duration::from_secs(60);

const SHOP: &str = "\
apiVersion: v1
kind: Service
metadata: {name: bank}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {password: geheim}
";

/// A mesh in a temporary directory.
struct Mesh {
    directory: TempDir,
    address: SocketAddr,
}

/// A control plane that is killed with its handle, as by `kill -9`.
struct Control(Child);

impl Mesh {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::write(directory.path().join("shop.yaml"), SHOP).expect("written");
        // Later starts need the address of the first one, so it is chosen here.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|probe| probe.local_addr()).expect("a free port");
        Self { directory, address }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the control plane and waits until it takes proxies.
    async fn control(&self, more: &[&str]) -> Control {
        self.control_by(&[], more).await
    }

    /// Has a program start it.
    async fn control_by(&self, program: &[&str], more: &[&str]) -> Control {
        let mut words = program.iter().copied().chain([BINARY]);
        let mut child = Command::new(words.next().unwrap_or(BINARY))
            .args(words)
            .arg("control")
            .arg(self.path("shop.yaml"))
            .args(["--listen", &self.address.to_string(), "--log", "text"])
            .arg("--state")
            .arg(self.path("control"))
            .args(more)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let ready = async {
            let mut seen = Vec::new();
            while let Some(line) = lines.next_line().await.expect("readable") {
                if line.contains("control plane listening on") {
                    return;
                }
                seen.push(line);
            }
            panic!("it ended before it was ready:\n{}", seen.join("\n"));
        };
        timeout(PATIENCE, ready).await.expect("ready in time");
        // The pipe is read to its end, so that the process never waits for us.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Control(child)
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let command = Command::new(BINARY).args(arguments).arg("--state").arg(self.path("control")).output();
        timeout(PATIENCE, command).await.expect("in time").expect("started")
    }

    async fn ticket(&self, service: &str, more: &[&str]) -> Ticket {
        let made = self.run(&[&["token", "create", "--service", service], more].concat()).await;
        assert!(made.status.success(), "{made:?}");
        Ticket::read(&String::from_utf8(made.stdout).expect("text")).expect("a ticket")
    }

    async fn ask(&self, arguments: &[&str]) -> Value {
        let shown = self.run(&[arguments, &["--json"]].concat()).await;
        serde_json::from_slice(&shown.stdout).unwrap_or_else(|error| panic!("{error}: {shown:?}"))
    }

    fn options(&self, node: &str, ticket: Option<Ticket>) -> FeedOptions {
        FeedOptions {
            control: vec![self.address.to_string()],
            state: self.path(node),
            ticket,
            node: node.to_owned(),
            interest: Interest::Services(BTreeSet::from([name("bank")])),
            address: None,
            workload: None,
        }
    }
}

impl Control {
    /// Kills it, without a chance to tidy up.
    async fn kill(mut self) {
        self.0.kill().await.expect("killed");
    }
}

fn name(service: &str) -> (String, String) {
    ("default".to_owned(), service.to_owned())
}

fn cart(instance: &str) -> Workload {
    Workload {
        namespace: "default".into(),
        name: instance.into(),
        services: vec!["cart".into()],
        service_account: "cart".into(),
        ports: vec![Port { port: 80, target_port: 8080, ..Port::default() }],
        tunnel_port: 15008,
        ..Workload::default()
    }
}

async fn start(options: FeedOptions) -> Feed {
    timeout(PATIENCE, Feed::start(options)).await.expect("in time").expect("a feed")
}

async fn until(feed: &Feed, ready: impl Fn(&Standing) -> bool) -> Standing {
    let mut standing = feed.standing();
    let found = timeout(PATIENCE, standing.wait_for(&ready)).await.map(|found| found.expect("a feed").clone());
    found.unwrap_or_else(|_| panic!("not in time: {:?}", feed.standing().borrow()))
}

async fn world(feed: &Feed, ready: impl Fn(&Received) -> bool) {
    let mut received: watch::Receiver<_> = feed.received();
    let found = timeout(PATIENCE, received.wait_for(|latest| ready(latest))).await.map(drop);
    found.expect("the configuration in time");
}

fn has_service(received: &Received, service: &str) -> bool {
    received.world.service("default", service).is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_joins_gets_what_it_asks_for_and_hears_of_changes() {
    let mesh = Mesh::new();
    // A token can be made before the first start.
    let ticket = mesh.ticket("cart", &["--init"]).await;
    assert_eq!(ticket.id.as_str(), "spiffe://transept.local/ns/default/sa/cart");
    let _control = mesh.control(&[]).await;
    let feed = start(mesh.options("proxy", Some(ticket))).await;
    assert_eq!(feed.svid().load().id().as_str(), "spiffe://transept.local/ns/default/sa/cart");
    until(&feed, |standing| standing.synced).await;
    world(&feed, |received| has_service(received, "bank")).await;
    {
        let latest = feed.received().borrow().clone();
        assert!(!has_service(&latest, "other"), "only what was asked for");
        assert!(latest.world.secret("default", "hidden").is_none(), "a sidecar sees no secret");
        assert!(!latest.kept);
    }

    // Another service is asked for when it is needed, and a change of the files arrives by itself.
    feed.ask_for(BTreeSet::from([name("bank"), name("new")]));
    std::fs::write(mesh.path("shop.yaml"), SHOP.replace("other", "new")).expect("written");
    world(&feed, |received| has_service(received, "new")).await;

    let certs = mesh.ask(&["certs"]).await;
    let holders: Vec<&str> =
        certs["certificates"].as_array().expect("a list").iter().filter_map(|one| one["holder"].as_str()).collect();
    assert_eq!(holders, ["control plane", "control plane", "default/cart/proxy"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_and_nothing_is_sent_again() {
    let mesh = Mesh::new();
    let _control = mesh.control(&["--leaf-life", "4s"]).await;
    let feed = start(mesh.options("proxy", Some(mesh.ticket("cart", &[]).await))).await;
    let first = feed.svid().load().leaf().fingerprint;
    let standing = until(&feed, |standing| standing.synced).await;
    until(&feed, |standing| standing.renewed >= 3 && standing.synced).await;
    assert_ne!(feed.svid().load().leaf().fingerprint, first);
    // Each renewal began another connection; what was held was not sent again.
    assert_eq!(feed.standing().borrow().received, standing.received);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_control_plane_has_lost_nothing_that_it_confirmed() {
    let mesh = Mesh::new();
    let control = mesh.control(&[]).await;
    let ticket = mesh.ticket("cart", &[]).await;
    let options = FeedOptions { workload: Some(cart("cart-1")), ..mesh.options("proxy", Some(ticket.clone())) };
    let feed = start(options).await;
    let before = until(&feed, |standing| standing.registered && standing.synced && standing.stored > 0).await;
    let root = mesh.ask(&["certs"]).await["certificates"][0]["fingerprint"].clone();

    control.kill().await;
    until(&feed, |standing| !standing.connected).await;
    let control = mesh.control(&[]).await;
    let after = until(&feed, |standing| standing.registered && standing.synced).await;
    assert_eq!(after.received, before.received, "what is held is not sent again");
    assert_eq!(mesh.ask(&["certs"]).await["certificates"][0]["fingerprint"], root);

    // Without the proxy only the disk can know of the registration and of the token's use.
    drop(feed);
    control.kill().await;
    let _control = mesh.control(&[]).await;
    let status = mesh.ask(&["mesh", "status"]).await;
    assert_eq!(status["workloads"][0]["name"], "cart-1", "{status}");
    let again = timeout(PATIENCE, Feed::start(mesh.options("another", Some(ticket)))).await.expect("in time");
    assert!(matches!(&again, Err(FeedError::NotJoined(why)) if why.contains("has been used")), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_starts_from_its_disk_while_the_control_plane_is_away() {
    let mesh = Mesh::new();
    let control = mesh.control(&[]).await;
    let feed = start(mesh.options("proxy", Some(mesh.ticket("cart", &[]).await))).await;
    until(&feed, |standing| standing.synced && standing.stored > 0).await;
    let fingerprint = feed.svid().load().leaf().fingerprint;
    drop(feed);
    control.kill().await;

    let feed = start(mesh.options("proxy", None)).await;
    assert_eq!(feed.svid().load().leaf().fingerprint, fingerprint);
    {
        let latest = feed.received().borrow().clone();
        assert!(has_service(&latest, "bank") && latest.kept);
    }
    until(&feed, |standing| standing.failure.is_some()).await;

    // When it is back, what was kept is confirmed and nothing is sent.
    let _control = mesh.control(&[]).await;
    let standing = until(&feed, |standing| standing.synced).await;
    assert_eq!(standing.received, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_made_where_a_mesh_is_and_for_names_that_a_workload_can_have() {
    let mesh = Mesh::new();
    let refused = async |arguments: &[&str]| {
        let output = mesh.run(arguments).await;
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let create = ["token", "create", "--service", "cart"];
    for arguments in [&create[..], &["token", "list"], &["token", "revoke", "3f9a0c1b2d4e"]] {
        let said = refused(arguments).await;
        assert!(said.contains("there is no control plane's state in") && said.contains("--init"), "{said}");
    }
    assert!(!mesh.path("control").exists(), "nothing is made by mistake");
    mesh.ticket("cart", &["--init"]).await;
    // Now there is one, and it is the one of its trust domain.
    let said = refused(&[&create[..], &["--trust-domain", "shop.test"]].concat()).await;
    assert!(said.contains("transept.local") && said.contains("shop.test"), "{said}");
    let _control = mesh.control(&[]).await;
    let said = refused(&[&create[..], &["--trust-domain", "shop.test"]].concat()).await;
    assert!(said.contains("transept.local") && said.contains("shop.test"), "{said}");
    mesh.ticket("cart", &["--trust-domain", "transept.local"]).await;
    let long = "a".repeat(64);
    for (name, remedy) in
        [("Cart", "lower-case letters"), ("cart.shop", "`--service cart --namespace shop`"), (&long, "at most 63")]
    {
        let said = refused(&["token", "create", "--service", name]).await;
        assert!(said.contains("no Service can be called") && said.contains(remedy), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_logs_what_is_wrong_with_its_files() {
    let mesh = Mesh::new();
    let route = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec: {rules: [{backendRefs: [{name: nowhere, port: 80}]}]}
";
    std::fs::write(mesh.path("shop.yaml"), route).expect("written");
    let mut child = Command::new(BINARY)
        .arg("control")
        .arg(mesh.path("shop.yaml"))
        .args(["--listen", "127.0.0.1:0", "--log", "text", "--state"])
        .arg(mesh.path("control"))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let said = async |lines: &mut tokio::io::Lines<BufReader<tokio::process::ChildStderr>>, words: &str| {
        while let Some(line) = timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("readable") {
            if line.contains(words) {
                return;
            }
        }
        panic!("it ended without a word of `{words}`");
    };
    said(&mut lines, "there is no Service default/nowhere").await;
    said(&mut lines, "configuration loaded").await;
    std::fs::write(mesh.path("shop.new"), route.replace("nowhere", "elsewhere")).expect("written");
    std::fs::rename(mesh.path("shop.new"), mesh.path("shop.yaml")).expect("renamed");
    said(&mut lines, "there is no Service default/elsewhere").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_right_stays_outside() {
    let mesh = Mesh::new();
    let _control = mesh.control(&[]).await;
    let refused = async |node: &str, ticket: Option<Ticket>| {
        let started = timeout(PATIENCE, Feed::start(mesh.options(node, ticket))).await.expect("in time");
        started.expect_err("refused").to_string()
    };
    assert!(refused("nothing", None).await.contains("transept token create"));

    // A token that was never made here, under the right root.
    let good = mesh.ticket("cart", &[]).await;
    let other = Mesh::new();
    let foreign = other.ticket("cart", &["--init"]).await;
    let mixed = Ticket::new(foreign.token(), good.root, good.id.clone());
    assert!(refused("unknown", Some(mixed)).await.contains("not known"));

    // The right token for somebody else's control plane: the token is not even sent.
    let wrong_root = Ticket::new(good.token(), foreign.root, good.id.clone());
    assert!(refused("root", Some(wrong_root)).await.contains("fingerprint"));
    let joined = start(mesh.options("good", Some(good))).await;
    until(&joined, |standing| standing.synced).await;

    // A token that has ended, and one that was taken back.
    let short = mesh.ticket("cart", &["--ttl", "1s"]).await;
    let ended = async || {
        let tokens = mesh.ask(&["token", "list"]).await;
        let ends = tokens.as_array().expect("a list").iter().filter_map(|one| one["ends"].as_u64()).min();
        SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs() >= ends.expect("a token")
    };
    let wait = async { while !ended().await {} };
    timeout(PATIENCE, wait).await.expect("it ends");
    assert!(refused("ended", Some(short)).await.contains("has ended"));
    let revoked = mesh.ticket("bank", &[]).await;
    let list = mesh.ask(&["token", "list"]).await;
    let of_bank = list.as_array().expect("a list").iter().find(|one| one["service"] == "bank").expect("bank's token");
    assert!(mesh.run(&["token", "revoke", of_bank["id"].as_str().expect("an id")]).await.status.success());
    assert!(refused("revoked", Some(revoked)).await.contains("not known"));

    // A certificate of another authority for the same trust domain: the control plane does not let it in, nor it the control plane.
    let _other_control = other.control(&[]).await;
    let ticket = other.ticket("cart", &[]).await;
    drop(start(other.options("stranger", Some(ticket))).await);
    let stranger = FeedOptions { control: vec![mesh.address.to_string()], ..other.options("stranger", None) };
    let stranger = start(stranger).await;
    let standing = until(&stranger, |standing| standing.failure.is_some()).await;
    assert!(!standing.connected, "{standing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_becomes_a_service_for_others_and_ends_with_its_instance() {
    let mesh = Mesh::new();
    let _control = mesh.control(&[]).await;
    let seller = start(FeedOptions {
        workload: Some(cart("cart-1")),
        ..mesh.options("cart-1", Some(mesh.ticket("cart", &[]).await))
    })
    .await;
    until(&seller, |standing| standing.registered).await;
    let buyer = start(FeedOptions {
        interest: Interest::Services(BTreeSet::from([name("cart")])),
        ..mesh.options("buyer", Some(mesh.ticket("buyer", &[]).await))
    })
    .await;
    let instances = |received: &Received| received.world.workloads_of("default", "cart").len();
    world(&buyer, |received| has_service(received, "cart") && instances(received) == 1).await;

    // A second instance cannot take the name, and gets in under its own.
    let ticket = mesh.ticket("cart", &["--reusable"]).await;
    let thief = start(FeedOptions { workload: Some(cart("cart-1")), ..mesh.options("thief", Some(ticket)) }).await;
    let refused = until(&thief, |standing| standing.refused.is_some()).await.refused;
    assert!(refused.is_some_and(|why| why.contains("another instance")));
    let greedy = Workload { services: vec!["bank".into()], ..cart("cart-2") };
    thief.register(greedy);
    until(&thief, |standing| standing.refused.as_ref().is_some_and(|why| why.contains("`bank`"))).await;
    thief.register(cart("cart-2"));
    world(&buyer, |received| instances(received) == 2).await;

    timeout(PATIENCE, seller.leave()).await.expect("confirmed in time");
    world(&buyer, |received| instances(received) == 1).await;
}

/// Whether each of two would let the other in at this moment.
fn believe_each_other(one: &Feed, other: &Feed) {
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    for (shows, judges) in [(one, other), (other, one)] {
        let svid = shows.svid().load();
        let accept = Accept::TrustDomain(svid.id().trust_domain());
        let peers = PeerVerifier::new(judges.mesh().bundles, accept, provider.clone());
        let now = tokio_rustls::rustls::pki_types::UnixTime::since_unix_epoch(since);
        let judged = peers.peer(svid.chain(), Purpose::Client, now);
        assert!(judged.is_ok(), "{} is refused: {judged:?}", svid.id());
    }
}

fn roots(feed: &Feed) -> Vec<String> {
    let bundles = feed.mesh().bundles.load();
    let bundle = bundles.of("transept.local").expect("a bundle");
    bundle.roots().iter().map(|root| root.fingerprint.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_is_replaced_while_everybody_believes_everybody() {
    let mesh = Mesh::new();
    let control = mesh.control(&[]).await;
    let options =
        FeedOptions { workload: Some(cart("cart-1")), ..mesh.options("cart", Some(mesh.ticket("cart", &[]).await)) };
    let one = start(options).await;
    let other = start(mesh.options("bank", Some(mesh.ticket("bank", &[]).await))).await;
    until(&one, |standing| standing.registered && standing.synced).await;
    until(&other, |standing| standing.synced).await;
    let before = roots(&one);
    assert_eq!(before.len(), 1);

    let begun = mesh.run(&["certs", "--rotate"]).await;
    assert!(begun.status.success(), "{begun:?}");
    // Another one at the same time is refused, and an end in the middle stops nothing.
    assert_eq!(mesh.run(&["certs", "--rotate"]).await.status.code(), Some(1));
    control.kill().await;
    let _control = mesh.control(&[]).await;
    let turned = async {
        loop {
            believe_each_other(&one, &other);
            let after = [roots(&one), roots(&other)];
            if after.iter().all(|roots| roots.len() == 1 && *roots != before) {
                return after;
            }
            tokio::task::yield_now().await;
        }
    };
    let after = timeout(PATIENCE, turned).await.unwrap_or_else(|_| panic!("{:?} {:?}", roots(&one), roots(&other)));
    assert_eq!(after[0], after[1]);
    until(&one, |standing| standing.registered && standing.synced).await;
    let certs = mesh.ask(&["certs"]).await;
    assert_eq!(certs["stage"], "steady", "{certs}");
    assert_eq!(certs["certificates"][0]["fingerprint"], after[0][0].as_str());
    assert_eq!(certs["certificates"].as_array().expect("a list").iter().filter(|one| one["kind"] == "root").count(), 1);

    // Who joins now joins under the new root.
    let third = start(mesh.options("third", Some(mesh.ticket("third", &[]).await))).await;
    believe_each_other(&one, &third);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_a_member_and_calls_a_workload_through_its_tunnel() {
    let mesh = Mesh::new();
    let listen = unused_address().expect("an address");
    let gateway = format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: web}}, spec: {{gatewayClassName: transept, \
         addresses: [{{type: IPAddress, value: {}}}], listeners: [{{name: http, protocol: HTTP, port: {}}}]}}}}\n---\n\
         {{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: web}}, spec: {{rules: \
         [{{backendRefs: [{{name: cart, port: 80}}]}}]}}}}\n",
        listen.ip(),
        listen.port(),
    );
    std::fs::write(mesh.path("shop.yaml"), gateway).expect("written");
    let _control = mesh.control(&[]).await;

    // A program that shows whom its sidecar saw, and beside it a sidecar.
    let program = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = program.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in program.incoming() {
            answer_with_caller(&stream.expect("a connection"));
        }
    });
    let token = mesh.ticket("cart", &[]).await.write();
    let mut sidecar = Command::new(BINARY);
    sidecar.args(["sidecar", "--service", "cart", "--address", "127.0.0.1", "--listen", "127.0.0.1:0"]);
    sidecar.args([
        "--admin",
        "127.0.0.1:0",
        "--port",
        &format!("80:{port}/http"),
        "--control",
        &mesh.address.to_string(),
    ]);
    sidecar.arg("--state").arg(mesh.path("sidecar")).env("TRANSEPT_TOKEN", token.as_str());
    sidecar.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _sidecar = sidecar.kill_on_drop(true).spawn().expect("started");

    let token = mesh.path("web.token");
    std::fs::write(&token, mesh.ticket("web", &[]).await.write().as_bytes()).expect("written");
    let arguments = ["proxy", "--control", &mesh.address.to_string(), "--access-log", "off"];
    let running = Launch::subcommand(Path::new(BINARY), arguments)
        .argument("--token-file")
        .argument(&token)
        .argument("--state")
        .argument(mesh.path("web"))
        .start(PATIENCE)
        .await
        .expect("ready");
    let served = async {
        loop {
            let request = Request::get("shop.test", "/");
            let answer = exchange(&Endpoint::http1(listen), &request).await.outcome.expect("an answer");
            // Until the sidecar has registered there is nobody to call.
            if answer.status == 200 {
                return String::from_utf8_lossy(&answer.body).into_owned();
            }
        }
    };
    let caller = timeout(PATIENCE, served).await.unwrap_or_else(|_| panic!("not served:\n{}", running.log()));
    assert!(caller.contains("URI=spiffe://transept.local/ns/default/sa/web"), "{caller}");
}

/// Answers one request with what it says of its caller's certificate.
fn answer_with_caller(mut stream: &std::net::TcpStream) {
    use std::io::{BufRead, Write};
    let lines = std::io::BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let shown: Vec<String> = lines.filter(|line| line.starts_with("x-forwarded-client-cert")).collect();
    let body = shown.join("");
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
}

#[tokio::test]
async fn as_many_descriptors_are_used_as_the_system_allows() {
    let mesh = Mesh::new();
    let control = mesh.control_by(&["sh", "-c", "ulimit -Sn 256; exec \"$0\" \"$@\""], &[]).await;
    let limits = format!("/proc/{}/limits", control.0.id().expect("it runs"));
    let limits = std::fs::read_to_string(limits).expect("readable");
    let open_files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let [.., used, allowed, _] = open_files.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{open_files}") };
    assert_eq!(used, allowed);
}

/// Looks at a mesh, and changes of it, that are for another trust domain or another place.
#[tokio::test]
async fn a_question_to_the_wrong_control_plane_is_refused_with_what_is_wrong() {
    let mesh = Mesh::new();
    let _control = mesh.control(&[]).await;
    let file = mesh.path("shop.yaml").display().to_string();
    for command in [&["certs"][..], &["mesh", "status"], &["mesh", "graph"], &["key", "list"], &["token", "list"]] {
        let output = mesh.run(&[command, &["--trust-domain", "other.test"]].concat()).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && told.contains("and not of other.test"), "{command:?}: {told}");
        let output = Command::new(BINARY).args(command).args(["--state", &file]).output().await.expect("run");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && told.contains(&file), "{command:?}: {told}");
    }
}

#[tokio::test]
async fn a_state_that_cannot_be_used_ends_the_start_with_the_reason() {
    let mesh = Mesh::new();
    let _control = mesh.control(&[]).await;
    let second = |state: &Path| {
        let arguments = ["control", "--listen", "127.0.0.1:0", "--log", "text", "--state"];
        Command::new(BINARY).args(arguments).arg(state).kill_on_drop(true).output()
    };
    let output = timeout(PATIENCE, second(&mesh.path("control"))).await.expect("in time").expect("started");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("another control plane runs"), "{told}");

    let damaged = mesh.path("damaged");
    std::fs::create_dir(&damaged).expect("made");
    let open = mesh.run(&["certs"]).await;
    assert!(open.status.success(), "{open:?}");
    std::fs::write(damaged.join("state.redb"), "no database").expect("written");
    std::fs::set_permissions(
        damaged.join("state.redb"),
        <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600),
    )
    .expect("chmod");
    let output = timeout(PATIENCE, second(&damaged)).await.expect("in time").expect("started");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("damaged"), "{told}");
}
