//! A control plane that was built anew: the same names, and another root. Who was a member of the one before joins with a new token, whatever
//! is in its state. And one that has lost its state but not its root: its members stay.

use serde_json::Value;
use tokio::process::Command;

use crate::outages::{certificates, roots};
use crate::stage::{Mesh, Pair, answered, binary, until};

/// Whom a rotation waits for.
fn waiting(shown: &Value) -> Vec<String> {
    let all = shown["waiting"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter_map(|one| one.as_str()).map(str::to_owned).collect()
}

fn connected(status: &Value) -> usize {
    let members = status["members"].as_array().map_or(&[][..], Vec::as_slice);
    members.iter().filter(|member| member["connected"] == true).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_join_a_control_plane_that_was_built_anew_with_new_tokens() {
    let mut mesh = Mesh::start("").await;
    let pair = Pair::start(&mesh).await;
    mesh.kill_control().await;
    std::fs::remove_dir_all(mesh.path("control")).expect("removed");
    mesh.start_control().await;
    // Their tokens are of the one before. They go on, and say what helps.
    let helps = |status: &std::io::Result<Value>| {
        let failure = status.as_ref().ok().and_then(|status| status["mesh"]["failure"].as_str());
        failure.is_some_and(|failure| failure.contains("transept token create --service web"))
    };
    let status = until(|| pair.web.status(), helps).await.expect("a status");
    assert_eq!(status["readiness"], "ready", "others take its certificate: {status}");
    let refused = |metrics: &String| metrics.contains("\ntransept_mesh_certificate_refused 1\n");
    until(|| async { pair.web.metrics().await.unwrap_or_default() }, refused).await;
    answered(pair.local(), 200).await;
    assert_eq!(connected(&mesh.status().await), 0);

    let Pair { cart, web, cart_setup, web_setup, .. } = pair;
    drop((cart, web));
    for service in ["cart", "web"] {
        mesh.token(service).await;
    }
    let (_cart, _web) = (cart_setup.start().await, web_setup.start().await);
    until(|| mesh.status(), |status| connected(status) == 2).await;
    answered(web_setup.local[0], 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_state_is_lost_a_new_root_waits_for_everybody_who_may_have_a_certificate() {
    let mut mesh = Mesh::start("").await;
    let pair = Pair::start(&mesh).await;
    mesh.kill_control().await;
    let state = mesh.path("control").join("state.redb");
    // As the message about a damaged one says.
    std::fs::rename(&state, state.with_extension("away")).expect("moved");
    mesh.start_control().await;
    until(|| mesh.status(), |status| connected(status) == 2).await;
    answered(pair.local(), 200).await;
    let Pair { cart: _cart, mut web, web_setup, .. } = pair;
    web.signal(rustix::process::Signal::KILL).expect("sent");
    web.ended().await.expect("it ends");

    certificates(&mesh, &["--rotate"]).await;
    let for_web = |shown: &Value| waiting(shown).iter().any(|one| one.contains("default/web"));
    let for_cart = |shown: &Value| waiting(shown).iter().any(|one| one.contains("default/cart"));
    let shown = until(|| certificates(&mesh, &[]), |shown| for_web(shown) && !for_cart(shown)).await;
    assert_eq!(shown["stage"], "announced", "{shown}");
    let _web = web_setup.start().await;
    let shown = until(|| certificates(&mesh, &[]), |shown| !for_web(shown)).await;
    // Somebody who has not come since may have one, too.
    assert_eq!(waiting(&shown).len(), 1, "{shown}");
    assert!(waiting(&shown)[0].contains("whoever joined before the state was lost"), "{shown}");
    assert_eq!(shown["stage"], "announced");
    answered(web_setup.local[0], 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_state_beside_an_authority_is_no_new_one() {
    let mut mesh = Mesh::start("").await;
    mesh.kill_control().await;
    std::fs::write(mesh.path("control").join("state.redb"), "").expect("emptied");
    let output = Command::new(binary()).arg("control").arg("--state").arg(mesh.path("control")).output().await;
    let output = output.expect("it starts");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("it is empty") && told.contains("backup"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_certificate_has_ended_is_not_ready() {
    let mut mesh = Mesh::start_with("", &["--leaf-life=4s"]).await;
    let pair = Pair::start(&mesh).await;
    assert_eq!(pair.web.status().await.expect("a status")["readiness"], "ready");
    mesh.kill_control().await;
    let ended = |status: &std::io::Result<Value>| {
        let readiness = status.as_ref().ok().and_then(|status| status["readiness"].as_str());
        readiness.is_some_and(|readiness| readiness.contains("has ended"))
    };
    until(|| pair.web.status(), ended).await.expect("a status");
}

/// A copy of the state from before a root was announced, and before members joined: the root is announced again, and whoever has a certificate stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_state_takes_in_a_root_that_is_younger_and_cuts_nobody_off() {
    let mut mesh = Mesh::start("").await;
    mesh.kill_control().await;
    let state = mesh.path("control").join("state.redb");
    let copy = state.with_extension("copy");
    std::fs::copy(&state, &copy).expect("copied");
    mesh.start_control().await;
    let pair = Pair::start(&mesh).await;
    until(|| mesh.status(), |status| connected(status) == 2).await;
    let Pair { cart: _cart, mut web, web_setup, .. } = pair;
    web.signal(rustix::process::Signal::KILL).expect("sent");
    web.ended().await.expect("it ends");
    let before = certificates(&mesh, &["--rotate"]).await;
    assert_eq!((before["stage"].as_str(), roots(&before).len()), (Some("announced"), 2));

    mesh.kill_control().await;
    std::fs::rename(&copy, &state).expect("put back");
    mesh.start_control().await;
    let for_unknown =
        |shown: &Value| waiting(shown).iter().any(|one| one.contains("after the copy of the state was made"));
    let shown = certificates(&mesh, &[]).await;
    assert_eq!((shown["stage"].as_str(), roots(&shown)), (Some("announced"), roots(&before)));
    assert!(for_unknown(&shown), "{shown}");
    // Its token is not known any more, and its certificate is enough.
    let _web = web_setup.start().await;
    until(|| mesh.status(), |status| connected(status) == 2).await;
    answered(web_setup.local[0], 200).await;
    let shown = until(|| certificates(&mesh, &[]), |shown| waiting(shown).len() == 1).await;
    assert_eq!(shown["stage"], "announced");
    assert!(for_unknown(&shown), "{shown}");
}
