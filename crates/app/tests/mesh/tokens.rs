//! Tokens are asked for at any moment, and what cannot be made leaves nothing behind.

use std::path::Path;
use std::process::Output;

use tokio::process::Command;

use crate::stage::{Mesh, binary, soon};

async fn create(state: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(["token", "create", "--service", "cart", "--state"]).arg(state).args(more);
    soon(command.output()).await.expect("it starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_made_while_the_control_plane_starts() {
    let mut mesh = Mesh::start("").await;
    let state = mesh.path("control");
    for _ in 0..6 {
        mesh.kill_control().await;
        let ((), made) = tokio::join!(mesh.start_control(), create(&state, &[]));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_made_makes_no_mesh() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let state = directory.path().join("mesh");
    for (more, why) in
        [(["--ttl", "0s"], "a token lives"), (["--namespace", "Shop"], "no namespace can be called `Shop`")]
    {
        let made = create(&state, &[&["--init"][..], &more].concat()).await;
        let told = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(!made.status.success() && told.contains(why), "{told}");
        assert!(!state.exists(), "{told}");
    }
    std::fs::write(&state, "a file").expect("written");
    let told = create(&state, &["--init"]).await.stderr;
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.contains(&format!("--state {}", state.display())) && told.contains("no directory"), "{told}");
}
