//! Following real files: what becomes of a change, of a mistake, of a link that moves, of a key file beside the configuration.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Receiver;
use transept_control::plane::{Plane, Question, Setup};
use transept_control::{Loader, Sources, StartError, Trigger, Update, follow, follow_apart};
use transept_identity::TrustDomain;

/// Long enough for a busy machine; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  rules:
  - backendRefs: [{group: transept.dev, kind: Backend, name: app}]
---
apiVersion: transept.dev/v1alpha1
kind: Backend
metadata: {name: app}
spec: {endpoints: [{address: 127.0.0.1, port: 3000}]}
";

fn start(path: &Path) -> (Trigger, Receiver<Arc<Update>>) {
    let mut sources = Sources::new();
    sources.add_path(path).expect("a path");
    follow(sources, Loader::for_checking()).expect("a good configuration")
}

fn stage(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("shop.yaml");
    std::fs::write(&file, text).expect("written");
    (directory, file)
}

async fn next(feed: &mut Receiver<Arc<Update>>) -> Arc<Update> {
    tokio::time::timeout(PATIENCE, feed.changed()).await.expect("in time").expect("the follower lives");
    feed.borrow_and_update().clone()
}

fn port(update: &Update) -> u16 {
    update.loaded.snapshot.binds[0].address.port()
}

#[tokio::test]
async fn a_change_is_published_and_a_mistake_beside_what_works() {
    let (_keep, file) = stage(ROUTE);
    let (_trigger, mut feed) = start(&file);
    assert_eq!(port(&feed.borrow_and_update()), 8080);

    std::fs::write(&file, ROUTE.replace("rules:", "rulez:")).expect("written");
    let update = next(&mut feed).await;
    let refused = update.refused.as_ref().expect("refused");
    assert!(refused.invalid[0].to_string().contains("shop.yaml:5:3"), "{:?}", refused.invalid);
    assert_eq!((update.loaded.generation, update.succeeded, update.failed), (1, 1, 1));

    std::fs::write(&file, ROUTE.replace("3000", "3001")).expect("written");
    let update = next(&mut feed).await;
    assert!(update.refused.is_none());
    assert_eq!((update.loaded.generation, update.succeeded, update.failed), (2, 2, 1));
}

#[tokio::test]
async fn a_control_plane_shows_that_a_reload_was_refused() {
    let (directory, file) = stage(ROUTE);
    let setup =
        Setup { trust_domain: TrustDomain::new("shop.test").expect("a name"), leaf_life: Duration::from_secs(3600) };
    let plane = Plane::open(&directory.path().join("state"), setup).expect("a plane");
    let mut sources = Sources::new();
    sources.add_path(&file).expect("a path");
    let (_trigger, mut feed) =
        follow_apart(sources, Loader::for_checking(), plane.clone()).expect("a good configuration");
    let shown = || plane.answer(&Question::Status).expect("a status")["lastReload"].clone();
    assert_eq!(shown()["ok"], true);

    std::fs::write(&file, ROUTE.replace("rules:", "rulez:")).expect("written");
    assert!(next(&mut feed).await.refused.is_some());
    let refused = shown();
    assert_eq!(refused["ok"], false);
    assert!(refused["errors"][0].as_str().is_some_and(|why| why.contains("shop.yaml:5:3")), "{refused}");

    std::fs::write(&file, ROUTE.replace("3000", "3001")).expect("written");
    assert!(next(&mut feed).await.refused.is_none());
    assert_eq!(shown()["ok"], true);
}

#[tokio::test]
async fn a_new_file_in_a_directory_is_found() {
    let (directory, _) = stage(ROUTE);
    let (_trigger, mut feed) = start(directory.path());
    let more_is_there = |update: &Update| update.loaded.settled.status.route("HTTPRoute", "default", "more").is_some();
    assert!(!more_is_there(&feed.borrow_and_update()));
    let more = ROUTE.split("---").next().expect("the route").replace("name: shop}", "name: more}");
    std::fs::write(directory.path().join("more.yaml"), more).expect("written");
    let update = next(&mut feed).await;
    assert!(more_is_there(&update));
}

#[tokio::test]
async fn a_trigger_loads_though_nothing_changed() {
    let (_keep, file) = stage(ROUTE);
    let (trigger, mut feed) = start(&file);
    feed.borrow_and_update();
    trigger.reload();
    assert_eq!(next(&mut feed).await.loaded.generation, 2);
}

#[tokio::test]
async fn who_asks_to_load_waits_for_whoever_writes_to_a_file() {
    let (_keep, file) = stage(ROUTE);
    let (trigger, mut feed) = start(&file);
    // Once it has loaded again it watches.
    trigger.reload();
    next(&mut feed).await;
    let mut writer = std::fs::File::create(&file).expect("truncated");
    trigger.reload();
    let soon = tokio::time::timeout(Duration::from_millis(300), feed.changed()).await;
    assert!(soon.is_err(), "an empty file was read");
    writer.write_all(ROUTE.replace("3000", "3001").as_bytes()).expect("written");
    drop(writer);
    let update = next(&mut feed).await;
    assert_eq!((update.succeeded, port(&update)), (3, 8080));
}

#[tokio::test]
async fn a_file_that_a_secret_names_is_watched() {
    let secret = "\
apiVersion: v1
kind: Secret
metadata: {name: key, annotations: {transept.dev/from-file: \"token=token.txt\"}}
";
    let (directory, file) = stage(&format!("{ROUTE}---\n{secret}"));
    let token = directory.path().join("token.txt");
    std::fs::write(&token, "one").expect("written");
    let (_trigger, mut feed) = start(&file);
    let read = |update: &Update| -> Vec<u8> {
        let secret = update.loaded.past.secret("default", "key").expect("the Secret");
        secret.spec.entry("token").expect("the entry").to_vec()
    };
    assert_eq!(read(&feed.borrow_and_update()), b"one");
    std::fs::write(&token, "two").expect("written");
    assert_eq!(read(&*next(&mut feed).await), b"two");
}

#[test]
fn a_first_load_that_is_wrong_is_no_start() {
    let (_keep, file) = stage("kind: Gatewey\n");
    let mut sources = Sources::new();
    sources.add_path(&file).expect("a path");
    let outcome = follow(sources, Loader::for_checking());
    assert!(matches!(outcome, Err(StartError::Refused(refused)) if !refused.invalid.is_empty()));
}
