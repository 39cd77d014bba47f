//! Parts of the mesh end, return and change while requests flow.

use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use transept_testkit::echo::{Echo, Port};

use crate::stage::{Mesh, Pair, Traffic, answered, program, repeater, say, soon, until};

/// Requests that pass before and after what happens.
async fn some(pair: &Pair) {
    for _ in 0..20 {
        answered(pair.local(), 200).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_control_plane_is_killed_and_returns() {
    let mut mesh = Mesh::start("").await;
    let pair = Pair::start(&mesh).await;
    let traffic = Traffic::begin(pair.local());
    some(&pair).await;
    mesh.kill_control().await;
    until(|| pair.web.status(), |status| status.as_ref().is_ok_and(|status| status["mesh"]["connected"] == false))
        .await
        .expect("a status");
    some(&pair).await;
    mesh.start_control().await;
    for running in [&pair.web, &pair.cart] {
        until(|| running.status(), |status| status.as_ref().is_ok_and(|status| status["mesh"]["connected"] == true))
            .await
            .expect("a status");
    }
    some(&pair).await;
    assert!(traffic.end().await >= 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_start_from_the_disk_without_a_control_plane() {
    let mut mesh = Mesh::start("").await;
    let mut pair = Pair::start(&mesh).await;
    mesh.kill_control().await;
    // Killed, not stopped: nothing is tidied up, and nobody is told.
    for running in [&mut pair.cart, &mut pair.web] {
        running.signal(Signal::KILL).expect("sent");
        soon(running.ended()).await.expect("it ends");
    }
    pair.cart = pair.cart_setup.start().await;
    pair.web = pair.web_setup.start().await;
    answered(pair.local(), 200).await;
    assert_eq!(pair.web.status().await.expect("a status")["mesh"]["connected"], false);
    // The control plane takes both back as they were.
    mesh.start_control().await;
    let registered = |status: &serde_json::Value| status["mesh"]["registered"] == true;
    until(|| pair.cart.status(), |status| status.as_ref().is_ok_and(registered)).await.expect("a status");
    answered(pair.local(), 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_fails_while_certificates_are_renewed() {
    let mesh = Mesh::start_with("", &["--leaf-life=4s"]).await;
    let pair = Pair::start(&mesh).await;
    let bank = mesh.sidecar("bank").await.port(90, repeater("").await, "");
    let office = mesh.sidecar("office").await.upstream("bank");
    let (_bank, _office) = (bank.start().await, office.start().await);
    let traffic = Traffic::begin(pair.local());
    // A connection that is older than any certificate in use.
    let first_word = || async {
        let mut stream = TcpStream::connect(office.local[0]).await.ok()?;
        stream.write_all(b"\x01").await.ok()?;
        stream.read_u8().await.ok().map(|_| stream)
    };
    let mut stream = until(first_word, Option::is_some).await.expect("a connection");
    for running in [&pair.web, &pair.cart] {
        let renewed = |status: &serde_json::Value| status["mesh"]["renewed"].as_u64().is_some_and(|times| times >= 3);
        until(|| running.status(), |status| status.as_ref().is_ok_and(renewed)).await.expect("a status");
    }
    say(&mut stream, "still here", "still here").await;
    assert!(traffic.end().await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_when_one_of_two_instances_stops() {
    let mesh = Mesh::start("").await;
    let pair = Pair::start(&mesh).await;
    let program = program("cart-2", Port::Http1).await;
    let second = mesh.instance("cart", "cart-2").await.port(80, program.address, "").start().await;
    let registered = |status: &serde_json::Value| status["workloads"].as_array().is_some_and(|all| all.len() == 2);
    until(|| mesh.status(), registered).await;
    let traffic = Traffic::begin(pair.local());
    some(&pair).await;
    let ended = second.stop(Duration::from_secs(30)).await.expect("it ends");
    assert_eq!(ended.code(), Some(0));
    some(&pair).await;
    assert!(traffic.end().await >= 40);
    until(|| mesh.status(), |status| status["workloads"].as_array().is_some_and(|all| all.len() == 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_an_instance_is_killed_no_more_is_lost_than_it_held() {
    let mesh = Mesh::start("").await;
    let pair = Pair::start(&mesh).await;
    let program = program("cart-2", Port::Http1).await;
    let mut second = mesh.instance("cart", "cart-2").await.port(80, program.address, "").start().await;
    let both = || async { answered(pair.local(), 200).await };
    until(both, |answer| Echo::parse(&answer.body).is_some_and(|seen| seen.pod == "cart-2")).await;
    let traffic = Traffic::begin(pair.local());
    some(&pair).await;
    second.signal(Signal::KILL).expect("sent");
    soon(second.ended()).await.expect("it ends");
    some(&pair).await;
    // There is one request at a time.
    assert!(traffic.end_but_for(1).await >= 40);
}
