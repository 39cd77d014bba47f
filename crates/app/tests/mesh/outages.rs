//! Parts of the mesh end, return and change while many clients send requests, over HTTP/1.1 and HTTP/2: what is lost is what a dead
//! instance held, to the request.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use transept_testkit::echo::{Port, RequestLog, Serving};
use transept_testkit::launch::Running;

use crate::crowd::{Crowd, PACE};
use crate::stage::{Mesh, PATIENCE, Sidecar, logging_program, repeater, say, soon, until};

/// An instance of cart: two programs, of which one speaks HTTP/1.1 and the other HTTP/2, behind one sidecar.
pub(crate) struct Instance {
    setup: Sidecar,
    running: Running,
    /// What its programs were asked.
    log: RequestLog,
    programs: Vec<Serving>,
}

impl Instance {
    async fn start(mesh: &Mesh, name: &str, ip: Option<IpAddr>) -> Instance {
        let log = RequestLog::new();
        let mut programs = Vec::new();
        for port in [Port::Http1, Port::H2c] {
            programs.push(logging_program(name, port, &log).await);
        }
        let setup = placed(mesh.instance("cart", name).await, ip);
        let setup = setup.port(80, programs[0].address, "").port(81, programs[1].address, "/h2c");
        Instance { running: setup.start().await, setup, log, programs }
    }

    /// Returns when its programs are asked again.
    async fn is_asked(&self) {
        let before = self.log.len();
        until(|| async { self.log.len() }, |now| *now > before + 10).await;
    }

    /// Kills its sidecar, without a chance to tidy up; gives when it was surely dead.
    async fn kill(&mut self) -> Instant {
        kill(&mut self.running).await
    }
}

/// With its tunnels at this address.
fn placed(setup: Sidecar, ip: Option<IpAddr>) -> Sidecar {
    let port = setup.tunnels.port();
    match ip {
        Some(ip) => setup.at(SocketAddr::new(ip, port)),
        None => setup,
    }
}

async fn kill(running: &mut Running) -> Instant {
    running.signal(Signal::KILL).expect("sent");
    soon(running.ended()).await.expect("it ends");
    Instant::now()
}

/// Instances of cart, and a web whose sidecar calls them.
pub(crate) struct Shop {
    pub(crate) carts: Vec<Instance>,
    pub(crate) web: Running,
    pub(crate) setup: Sidecar,
}

impl Shop {
    /// Starts so many instances, all on loopback.
    async fn start(mesh: &Mesh, instances: usize) -> Shop {
        Shop::start_at(mesh, instances, None).await
    }

    /// The same where others reach them at an address.
    pub(crate) async fn start_at(mesh: &Mesh, instances: usize, ip: Option<IpAddr>) -> Shop {
        let mut carts = Vec::new();
        for number in 1..=instances {
            carts.push(Instance::start(mesh, &format!("cart-{number}"), ip).await);
        }
        // It has a port itself, so that it registers too.
        let setup = mesh.sidecar("web").await.upstream("cart:80").upstream("cart:81");
        let setup = placed(setup, ip).port(80, carts[0].programs[0].address, "");
        Shop { carts, web: setup.start().await, setup }
    }

    /// Clients of all instances.
    pub(crate) async fn open(&self, pace: Duration) -> Crowd {
        // Until every instance is known, nobody counts.
        let early = Crowd::begin(self.setup.local[0], self.setup.local[1], PACE).await;
        for cart in &self.carts {
            cart.is_asked().await;
        }
        early.end().await;
        Crowd::begin(self.setup.local[0], self.setup.local[1], pace).await
    }

    /// Every sidecar.
    pub(crate) fn sidecars(&self) -> impl Iterator<Item = &Running> {
        self.carts.iter().map(|cart| &cart.running).chain([&self.web])
    }

    /// Returns when every sidecar says so of its membership.
    pub(crate) async fn all(&self, says: impl Fn(&serde_json::Value) -> bool) {
        for running in self.sidecars() {
            until(|| running.status(), |status| status.as_ref().is_ok_and(|status| says(&status["mesh"])))
                .await
                .expect("a status");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_the_control_plane_is_killed_and_returns() {
    let mut mesh = Mesh::start("").await;
    let shop = Shop::start(&mesh, 2).await;
    let crowd = shop.open(PACE).await;
    mesh.kill_control().await;
    shop.all(|mesh| mesh["connected"] == false).await;
    crowd.more().await;
    mesh.start_control().await;
    shop.all(|mesh| mesh["connected"] == true && mesh["registered"] == true).await;
    crowd.more().await;
    crowd.end().await.is_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_of_clients_that_is_killed_returns_without_a_control_plane() {
    let mut mesh = Mesh::start("").await;
    let mut shop = Shop::start(&mesh, 2).await;
    let crowd = shop.open(PACE).await;
    mesh.kill_control().await;
    let dead = kill(&mut shop.web).await;
    shop.web = shop.setup.start().await;
    crowd.more().await;
    assert_eq!(shop.web.status().await.expect("a status")["mesh"]["connected"], false);
    crowd.end().await.is_clean_but_for_connections_before(dead);
    // The control plane takes everybody back as they were.
    mesh.start_control().await;
    shop.all(|mesh| mesh["registered"] == true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_of_a_server_that_is_killed_returns_without_a_control_plane() {
    let mut mesh = Mesh::start("").await;
    let mut shop = Shop::start(&mesh, 2).await;
    let crowd = shop.open(PACE).await;
    mesh.kill_control().await;
    let dead = shop.carts[0].kill().await;
    crowd.more().await;
    shop.carts[0].running = shop.carts[0].setup.start().await;
    shop.carts[0].is_asked().await;
    crowd.more().await;
    crowd.end().await.is_clean_but_for(dead, &shop.carts[1].log);
    mesh.start_control().await;
    shop.all(|mesh| mesh["registered"] == true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_is_killed_takes_nothing_along_but_what_it_held() {
    let mesh = Mesh::start("").await;
    let mut shop = Shop::start(&mesh, 2).await;
    let crowd = shop.open(PACE).await;
    // The programs and their sidecar.
    shop.carts[0].programs.clear();
    let dead = shop.carts[0].kill().await;
    crowd.more().await;
    crowd.more().await;
    crowd.end().await.is_clean_but_for(dead, &shop.carts[1].log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_dies_behind_its_sidecar_takes_nothing_along_but_what_it_held() {
    let mesh = Mesh::start("").await;
    let mut shop = Shop::start(&mesh, 2).await;
    let crowd = shop.open(PACE).await;
    // Its sidecar lives, and so do the tunnels that are open.
    shop.carts[0].programs.clear();
    let dead = Instant::now();
    crowd.more().await;
    crowd.more().await;
    crowd.end().await.is_clean_but_for(dead, &shop.carts[1].log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_one_of_two_instances_stops() {
    let mesh = Mesh::start("").await;
    let mut shop = Shop::start(&mesh, 2).await;
    let crowd = shop.open(PACE).await;
    let stopping = shop.carts.remove(0);
    assert_eq!(stopping.running.stop(PATIENCE).await.expect("it ends").code(), Some(0));
    crowd.more().await;
    crowd.end().await.is_clean();
    until(|| mesh.status(), |status| status["workloads"].as_array().is_some_and(|all| all.len() == 2)).await;
}

/// A bank with a program that repeats what it is told, and a connection to it that lasts.
struct Lasting {
    _sidecars: [Running; 2],
    stream: TcpStream,
}

impl Lasting {
    async fn begin(mesh: &Mesh) -> Lasting {
        let bank = mesh.sidecar("bank").await.port(90, repeater("").await, "");
        let office = mesh.sidecar("office").await.upstream("bank");
        let sidecars = [bank.start().await, office.start().await];
        let first_word = || async {
            let mut stream = TcpStream::connect(office.local[0]).await.ok()?;
            stream.write_all(b"\x01").await.ok()?;
            stream.read_u8().await.ok().map(|_| stream)
        };
        let stream = until(first_word, Option::is_some).await.expect("a connection");
        Lasting { _sidecars: sidecars, stream }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_certificates_are_renewed() {
    let mesh = Mesh::start_with("", &["--leaf-life=4s"]).await;
    let shop = Shop::start(&mesh, 1).await;
    let mut lasting = Lasting::begin(&mesh).await;
    let crowd = shop.open(PACE).await;
    shop.all(|mesh| mesh["renewed"].as_u64().is_some_and(|times| times >= 3)).await;
    crowd.more().await;
    crowd.end().await.is_clean();
    // It is older than any certificate in use.
    say(&mut lasting.stream, "still here", "still here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_the_root_is_replaced() {
    let mesh = Mesh::start("").await;
    let shop = Shop::start(&mesh, 2).await;
    let _lasting = Lasting::begin(&mesh).await;
    let crowd = shop.open(PACE).await;
    let before = roots(&certificates(&mesh, &[]).await);
    assert_eq!(before.len(), 1);
    certificates(&mesh, &["--rotate"]).await;
    let replaced = |shown: &serde_json::Value| {
        let now = roots(shown);
        shown["stage"] == "steady" && now.len() == 1 && now != before
    };
    until(|| certificates(&mesh, &[]), replaced).await;
    crowd.more().await;
    crowd.end().await.is_clean();
}

/// What `transept certs` shows.
pub(crate) async fn certificates(mesh: &Mesh, more: &[&str]) -> serde_json::Value {
    let shown = mesh.transept(&[&["certs", "--json"], more].concat()).await;
    serde_json::from_str(&shown).expect("JSON")
}

/// The fingerprints of the roots.
pub(crate) fn roots(shown: &serde_json::Value) -> Vec<String> {
    let all = shown["certificates"].as_array().into_iter().flatten();
    all.filter_map(|one| one["fingerprint"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_stopped_in_order_is_told_so_whether_it_serves_or_only_calls() {
    let mesh =
        Mesh::start("{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80}]}}").await;
    let program = repeater("").await;
    let cart = mesh.sidecar("cart").await.port(80, program, "/tcp").start().await;
    let web = mesh.sidecar("web").await.upstream("cart:80").start().await;
    let gateway = crate::gateway::start(&mesh, "edge").await;
    let left = || async {
        let shown = certificates(&mesh, &[]).await;
        let leaves = shown["certificates"].as_array().cloned().unwrap_or_default();
        let left = |name: &str| {
            let id = format!("/ns/default/sa/{name}");
            let its = |one: &&serde_json::Value| {
                one["kind"] == "leaf" && one["id"].as_str().is_some_and(|own| own.ends_with(&id))
            };
            leaves.iter().find(its).map(|one| one["left"] == true)
        };
        ["cart", "web", "edge"].map(left)
    };
    until(&left, |left| *left == [Some(false); 3]).await;
    for running in [cart, web, gateway] {
        assert!(running.stop(PATIENCE).await.expect("it ends").success());
    }
    until(&left, |left| *left == [Some(true); 3]).await;
}
