//! Connections that live longer than the root that they began under: one that is replaced in order ends none of them, one that is
//! distrusted ends them all.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use transept_testkit::client::Endpoint;
use transept_testkit::launch::Running;
use transept_testkit::websocket::{Frame, TEXT, WebSocket};

use crate::outages::{certificates, roots};
use crate::stage::{Mesh, Pair, answered, get, repeater, say, soon, told, until};

/// A bank whose program repeats what it is told, and an office whose sidecar calls it.
struct Office {
    bank: Running,
    _office: Running,
    local: SocketAddr,
}

impl Office {
    async fn start(mesh: &Mesh) -> Office {
        let bank = mesh.sidecar("bank").await.port(90, repeater("").await, "/tcp");
        let office = mesh.sidecar("office").await.upstream("bank");
        Office { bank: bank.start().await, _office: office.start().await, local: office.local[0] }
    }

    /// A connection that the program has answered on.
    async fn connect(&self) -> TcpStream {
        let first_word = || async {
            let mut stream = TcpStream::connect(self.local).await.ok()?;
            stream.write_all(b"\x01").await.ok()?;
            stream.read_u8().await.ok().map(|_| stream)
        };
        until(first_word, Option::is_some).await.expect("a connection")
    }

    /// How often somebody has proven to the bank who he is.
    async fn handshakes(&self) -> u64 {
        let metrics = self.bank.metrics().await.expect("metrics");
        let count = metrics.lines().find_map(|line| line.strip_prefix("transept_tls_handshakes_total "));
        count.and_then(|count| count.parse().ok()).expect("a count")
    }

    /// A connection that is not carried by what carried the ones before: that takes nothing new.
    async fn connect_anew(&self) -> TcpStream {
        let before = self.handshakes().await;
        let connected = || async { (self.connect().await, self.handshakes().await) };
        until(connected, |(_, now)| *now > before).await.0
    }
}

/// Replaces the root, and gives the fingerprint of the old one.
async fn replace_root(mesh: &Mesh) -> String {
    let before = roots(&certificates(mesh, &[]).await);
    assert_eq!(before.len(), 1);
    certificates(mesh, &["--rotate"]).await;
    let replaced = |shown: &Value| {
        let now = roots(shown);
        shown["stage"] == "steady" && now.len() == 1 && now != before
    };
    until(|| certificates(mesh, &[]), replaced).await;
    before.into_iter().next().expect("a root")
}

/// The roots that are retiring.
async fn retiring(mesh: &Mesh) -> Vec<String> {
    let shown = certificates(mesh, &[]).await;
    let all = shown["retiring"].as_array().expect("a list").iter();
    all.map(|one| one["fingerprint"].as_str().expect("a fingerprint").to_owned()).collect()
}

async fn echoes(socket: &mut WebSocket) {
    let frame = Frame { opcode: TEXT, payload: b"still here".to_vec() };
    socket.send(&frame).await.expect("sent");
    assert_eq!(soon(socket.receive()).await.expect("a frame"), Some(frame));
}

/// Waits for the end of a connection on which nothing is said any more.
async fn ends(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // Cut off or ended: in no case does it go on.
    let _ = soon(stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_outlives_a_root_that_is_replaced_and_no_root_that_is_distrusted() {
    let mut mesh = Mesh::start("").await;
    let office = Office::start(&mesh).await;
    let pair = Pair::start(&mesh).await;
    let mut first = office.connect().await;
    let mut socket =
        soon(WebSocket::connect(&Endpoint::http1(pair.local()), "cart", "/ws", "http://cart")).await.expect("upgraded");
    echoes(&mut socket).await;

    let old = replace_root(&mesh).await;
    let second = office.connect_anew().await;
    // What is retiring is on the disk of the control plane; the key that it signed with is not.
    mesh.kill_control().await;
    mesh.start_control().await;
    assert_eq!(retiring(&mesh).await, std::slice::from_ref(&old));
    assert!(!mesh.path("control").join("ca.key").exists());

    let next = replace_root(&mesh).await;
    let mut third = office.connect_anew().await;
    assert_eq!(retiring(&mesh).await.len(), 2);
    certificates(&mesh, &["--distrust", &next[..8]]).await;
    assert_eq!(retiring(&mesh).await, std::slice::from_ref(&old));
    // A connection has some time to end. What was made under the root before it has outlived that time then.
    ends(second).await;
    say(&mut first, "still here", "still here").await;
    say(&mut third, "still here", "still here").await;
    echoes(&mut socket).await;

    certificates(&mesh, &["--distrust", &old]).await;
    ends(first).await;
    assert!(!matches!(soon(socket.receive()).await, Ok(Some(_))));
    assert!(retiring(&mesh).await.is_empty());
    // Everybody has a certificate of the root that is left.
    say(&mut third, "still here", "still here").await;
    assert_eq!(get(pair.local()).await.expect("an answer").status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_nothing_but_a_certificate_of_a_distrusted_root_is_sent_away() {
    let mut mesh = Mesh::start("").await;
    let pair = Pair::start(&mesh).await;
    let only = roots(&certificates(&mesh, &[]).await).remove(0);
    // One that is switched off holds the rotation up.
    let away = mesh.sidecar("away").await;
    let running = away.start().await;
    until(|| running.status(), |status| status.as_ref().is_ok_and(|status| status["mesh"]["connected"] == true))
        .await
        .expect("a status");
    drop(running);
    // Nobody would be left.
    assert!(mesh.transept(&["certs", "--json", "--distrust", &only]).await.is_empty());
    certificates(&mesh, &["--rotate"]).await;
    let waits = |shown: &Value| {
        let waiting = shown["waiting"].as_array().expect("a list");
        shown["stage"] == "announced"
            && waiting.len() == 1
            && waiting[0].as_str().is_some_and(|one| one.starts_with("`default/away/away` "))
    };
    until(|| certificates(&mesh, &[]), waits).await;
    let after = certificates(&mesh, &["--distrust", &only]).await;
    assert_eq!((&after["stage"], roots(&after).contains(&only)), (&Value::from("steady"), false));
    // Both have nothing but a certificate of that root, and are told so before they are sent away.
    for running in [&pair.cart, &pair.web] {
        let gone =
            |status: &std::io::Result<Value>| status.as_ref().is_ok_and(|status| status["mesh"]["connected"] == false);
        until(|| running.status(), gone).await.expect("a status");
    }
    // Who joins now does so under the new root.
    let newcomer = mesh.sidecar("newcomer").await.start().await;
    until(|| newcomer.status(), |status| status.as_ref().is_ok_and(|status| status["mesh"]["connected"] == true))
        .await
        .expect("a status");
    answered(pair.local(), 502).await;
    // All three are shown as what they are, after a restart too, when none of them can come.
    let refused = |shown: &Value| -> Vec<String> {
        let all = shown["certificates"].as_array().expect("a list").iter();
        all.filter(|one| one["refused"] == true).map(|one| one["holder"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(refused(&after), ["default/away/away", "default/cart/cart", "default/web/web"]);
    mesh.kill_control().await;
    mesh.start_control().await;
    let after = certificates(&mesh, &[]).await;
    assert_eq!(refused(&after), ["default/away/away", "default/cart/cart", "default/web/web"]);
    let mut all = after["certificates"].as_array().expect("a list").iter();
    assert!(all.any(|one| one["holder"] == "default/newcomer/newcomer" && one["refused"] == false), "{after}");
    // They have used their tokens up, and say what helps.
    let says = |status: &std::io::Result<Value>, words: &str| {
        let failure = status.as_ref().ok().and_then(|status| status["mesh"]["failure"].as_str().map(str::to_owned));
        failure.is_some_and(|failure| failure.contains(words))
    };
    let helps = |status: &std::io::Result<Value>| {
        says(status, "refuses the certificate of this proxy") && says(status, "`transept token create --service web`")
    };
    until(|| pair.web.status(), helps).await.expect("a status");
    // With a new token and the state that they have, they are members again.
    let Pair { cart, web, cart_setup, web_setup, .. } = pair;
    drop((cart, web));
    mesh.token("cart").await;
    mesh.token("web").await;
    let (_cart, _web) = (cart_setup.start().await, web_setup.start().await);
    answered(web_setup.local[0], 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_ends_while_the_control_plane_is_away_is_replaced_with_the_token() {
    let mut mesh = Mesh::start_with("", &["--leaf-life=4s"]).await;
    let web = mesh.sidecar("web").await.start().await;
    let is = |connected: bool| {
        move |status: &std::io::Result<Value>| {
            status.as_ref().is_ok_and(|status| status["mesh"]["connected"] == connected)
        }
    };
    until(|| web.status(), is(true)).await.expect("a status");
    mesh.kill_control().await;
    told(&web, "the certificate has ended").await;
    mesh.start_control().await;
    told(&web, "joined the mesh again").await;
    until(|| web.status(), is(true)).await.expect("a status");
}

/// As where the disk is full: what is in use then is kept once there is room again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_cannot_be_kept_is_used_all_the_same() {
    let mesh = Mesh::start_with("", &["--leaf-life=4s"]).await;
    let setup = mesh.sidecar("web").await;
    let web = setup.start().await;
    let kept = mesh.path("web.state").join("identity.pem");
    let first = std::fs::read_to_string(&kept).expect("kept");
    // No file takes the place of a directory with something in it.
    std::fs::remove_file(&kept).expect("removed");
    std::fs::create_dir_all(kept.join("in the way")).expect("made");
    let is = |renewed: u64, word: &'static str| {
        move |status: &std::io::Result<Value>| {
            let Ok(status) = status else { return false };
            let why = status["mesh"]["unkept"].as_str().unwrap_or_default();
            status["mesh"]["renewed"].as_u64() >= Some(renewed)
                && why.contains(word)
                && why.is_empty() == word.is_empty()
        }
    };
    until(|| web.status(), is(3, "cannot be kept on the disk")).await.expect("a status");
    std::fs::remove_dir_all(&kept).expect("removed");
    until(|| web.status(), is(3, "")).await.expect("a status");
    assert_ne!(std::fs::read_to_string(&kept).expect("kept"), first);
}
