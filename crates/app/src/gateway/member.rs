//! A gateway whose configuration comes from a control plane, and which is a member of the mesh.
//!
//! Called by `proxy --control`. The feed joins and receives; here each world becomes an update like that of files, so that everything
//! after it is the same.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::sync::watch;
use transept_control::{Loaded, Loader, Update};
use transept_proxy::feed::{self, Feed, FeedOptions, Received};
use transept_proxy::{Options, Proxy};

use super::{Gateway, ServeArgs};
use crate::commands::Exit;
use crate::signals::Signals;

/// Joins, waits for a configuration and serves it until a signal ends it.
///
/// # Errors
/// The control plane refuses us, or the admin server or the proxy cannot start.
pub(crate) fn serve_member(options: FeedOptions, args: &ServeArgs) -> Result<Exit> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("admin").enable_all().build()?;
    let begun = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        tokio::select! {
            begun = begin(options) => begun.map(Some),
            () = signals.stop() => Ok(None),
        }
    });
    let Some((feed, first)) = begun? else { return Ok(Exit::Fine) };
    let options = Options { mesh: Some(feed.mesh().at(args.locale())), ..args.options() };
    let proxy = Arc::new(Proxy::start(&options).context("the data plane cannot start")?);
    feed.report(proxy.sight());
    let id = feed.svid().load().id().clone();
    let own = id.workload();
    let own = own.as_ref().map(|own| (own.namespace(), own.service_account()));
    let mut loader = Loader::for_serving().at(args.locale()).of_gateway(own);
    let (updates, receiver) = watch::channel(update(&mut loader, &first));
    let received = feed.received();
    runtime.spawn(follow(received, first.number, loader, updates));
    let format = args.log.log.settle();
    let gateway =
        Gateway { member: Some(Box::new(describe(&feed))), ..Gateway::new(proxy.clone(), receiver, args, format) };
    let exit = runtime.block_on(gateway.attend(|_| {}));
    runtime.block_on(feed.leave());
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    drop((proxy, feed));
    exit
}

/// What `/status` says about the membership.
fn describe(feed: &Feed) -> impl Fn() -> Value + Send + Sync + use<> {
    let (standing, svid) = (feed.standing(), feed.svid().clone());
    move || {
        let feed::Standing { connected, synced, unbelieved, unkept, failure, renewed, .. } = standing.borrow().clone();
        let held = svid.load();
        let ends = i64::try_from(held.leaf().not_after.as_secs()).unwrap_or(i64::MAX);
        json!({
            "identity": held.id().as_str(),
            "connected": connected,
            "synced": synced,
            "unbelieved": unbelieved,
            "failure": failure,
            "unkept": unkept,
            "renewed": renewed,
            "certificateEnds": jiff::Timestamp::from_second(ends).ok().map(|at| at.to_string()),
        })
    }
}

/// Joins and waits for the first configuration.
async fn begin(options: FeedOptions) -> Result<(Feed, Arc<Received>)> {
    let feed = Feed::start(options).await?;
    let mut received = feed.received();
    let first = received.wait_for(|latest| latest.number > 0).await.context("the feed has ended")?.clone();
    if first.kept {
        tracing::warn!(
            "begins with the configuration that was kept on the disk; no control plane has confirmed it yet"
        );
    }
    Ok((feed, first))
}

/// Turns every configuration that arrives into an update, until nobody wants one.
async fn follow(
    mut received: watch::Receiver<Arc<Received>>,
    mut number: u64,
    mut loader: Loader,
    updates: watch::Sender<Arc<Update>>,
) {
    while received.wait_for(|latest| latest.number > number).await.is_ok() {
        let latest = received.borrow_and_update().clone();
        number = latest.number;
        // Compiling takes its time; the feed goes on meanwhile.
        let compiled = tokio::task::spawn_blocking(move || {
            let update = update(&mut loader, &latest);
            (loader, update)
        });
        let Ok((kept, update)) = compiled.await else { return };
        loader = kept;
        if updates.send(update).is_err() {
            return;
        }
    }
}

fn update(loader: &mut Loader, received: &Received) -> Arc<Update> {
    let started = Instant::now();
    let loaded: Arc<Loaded> = loader.take(&received.world);
    let now = SystemTime::now();
    Arc::new(Update {
        succeeded: loaded.generation,
        loaded,
        refused: None,
        at: now,
        loaded_at: now,
        took: started.elapsed(),
        failed: 0,
    })
}
