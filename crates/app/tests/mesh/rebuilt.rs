//! A control plane that was built anew: the same names, and another root. Who was a member of the one before joins with a new token, whatever
//! is in its state.

use serde_json::Value;

use crate::stage::{Mesh, Pair, answered, until};

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
    until(|| pair.web.status(), helps).await.expect("a status");
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
