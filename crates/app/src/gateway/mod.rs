//! A running gateway: the sources, the proxy and the admin server joined, from start to drain.
//!
//! Called by the subcommands that serve; they differ in their sources, and in whether they are members of a mesh. The order is: load, bind the admin server, start the
//! proxy, tell; then, until a signal ends it, every update of the feed goes into the proxy. This file holds the order; what is
//! known at any moment is in [`Standing`], how it is told is in `announce`.

pub(crate) mod announce;
mod args;
mod binds;
mod certificates;
mod embedded;
mod member;
mod retry;
mod standing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::watch;
use transept_control::plane::Plane;
use transept_control::{Loader, Sources, StartError, Trigger, Update, follow};
use transept_proxy::{BindOutcome, Proxy};

use self::announce::Next;
use crate::admin::{ADMIN, Admin};
use crate::commands::Exit;
use crate::logging::Format;
use crate::signals::{Signals, Wish};

pub(crate) use args::ServeArgs;
pub(crate) use binds::explain as explain_bind;
pub(crate) use embedded::{MeshPlan, Opened, serve_with_mesh};
pub(crate) use member::serve_member;
pub(crate) use retry::Retry;
use standing::Member;
pub(crate) use standing::{Readiness, Standing, write_plane_metrics, write_update_metrics};

/// Serves `sources` until a signal ends it; `opened` is called once, when traffic is taken, with the address of the admin server.
///
/// # Errors
/// The admin server or the proxy cannot start.
pub(crate) fn serve(sources: Sources, args: &ServeArgs, opened: impl FnOnce(Option<SocketAddr>)) -> Result<Exit> {
    let format = args.log.log.settle();
    let Some((trigger, feed)) = begun(follow(sources, Loader::for_serving().at(args.locale())), format)? else {
        return Ok(Exit::Findings);
    };
    let proxy = Arc::new(Proxy::start(&args.options()).context("the data plane cannot start")?);
    let gateway = Gateway { trigger: Some(trigger), ..Gateway::new(proxy, feed, args, format) };
    gateway.run(opened)
}

/// The follower, when the first load was good; why it was refused is told.
fn begun(
    following: Result<(Trigger, watch::Receiver<Arc<Update>>), StartError>,
    format: Format,
) -> Result<Option<(Trigger, watch::Receiver<Arc<Update>>)>> {
    match following {
        Ok(running) => Ok(Some(running)),
        Err(StartError::Refused(refused)) => {
            announce::refused_start(&refused, format);
            Ok(None)
        }
        Err(StartError::Thread(error)) => Err(error).context("the configuration thread"),
    }
}

/// Everything that is joined.
struct Gateway<'a> {
    proxy: Arc<Proxy>,
    feed: watch::Receiver<Arc<Update>>,
    /// Loads again what comes from files.
    trigger: Option<Trigger>,
    args: &'a ServeArgs,
    format: Format,
    /// Says how the membership in the mesh stands.
    member: Option<Member>,
    /// The control plane in this process.
    plane: Option<Arc<Plane>>,
    /// How many refused attempts have been told of.
    refusals: u64,
    /// Whether SIGHUP ends it, as when its terminal is closed, and is no wish to load the configuration again.
    ends_with_terminal: bool,
}

impl<'a> Gateway<'a> {
    /// One without a mesh, which nothing loads again.
    fn new(proxy: Arc<Proxy>, feed: watch::Receiver<Arc<Update>>, args: &'a ServeArgs, format: Format) -> Gateway<'a> {
        let (trigger, member, plane) = (None, None, None);
        Gateway { proxy, feed, trigger, args, format, member, plane, refusals: 0, ends_with_terminal: false }
    }

    /// Runs it on threads of its own until a signal ends it.
    fn run(self, opened: impl FnOnce(Option<SocketAddr>)) -> Result<Exit> {
        // Two threads, so that a long answer of the admin server does not hold up a reload; no data thread does either.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("admin").enable_all().build()?;
        let proxy = self.proxy.clone();
        let exit = runtime.block_on(self.attend(opened));
        // The proxy has a runtime of its own, which must not end inside another: it goes last, on this thread.
        runtime.shutdown_timeout(Duration::from_secs(1));
        drop(proxy);
        exit
    }

    /// Everything after the first load.
    async fn attend(mut self, opened: impl FnOnce(Option<SocketAddr>)) -> Result<Exit> {
        let mut signals = Signals::listen()?;
        // A gateway of the mesh has sidecars beside it, of which the first may have taken the usual address.
        let admin = match (&self.member, &self.plane) {
            (Some(_), None) => Admin::bind_beside_others(&self.args.admin, ADMIN, self.format).await?,
            _ => Admin::bind(&self.args.admin, self.format).await?,
        };
        let admin_address = admin.as_ref().map(Admin::address);
        let first = self.feed.borrow_and_update().clone();
        let outcomes = self.apply(&first).await?;
        announce::loaded(&first, self.format);
        let in_vain = !outcomes.is_empty() && outcomes.iter().all(|outcome| outcome.bound.is_err());
        announce::listeners(&first, &outcomes, &[], if in_vain { Next::End } else { Next::Retry });
        announce::nothing_served(&outcomes, None);
        if in_vain {
            anyhow::bail!(
                "no listener could be opened; a Gateway in the files says on which addresses and ports to listen"
            );
        }
        let mut retry = Retry::begin(&outcomes, Instant::now());
        let mut standing = Standing::new(self.proxy.clone(), first, outcomes, retry.pause());
        if let Some(member) = self.member.take() {
            standing = standing.with_member(member);
        }
        if let Some(plane) = self.plane.take() {
            standing = standing.with_plane(plane);
        }
        let standing = Arc::new(standing);
        if let Some(admin) = admin {
            tokio::spawn(admin.serve(standing.clone()));
        }
        opened(admin_address);

        let delay = loop {
            tokio::select! {
                changed = self.feed.changed() => {
                    changed.context("the configuration thread has ended")?;
                    self.take_update(&standing, &mut retry).await?;
                }
                () = retry.due() => self.retry(&standing, &mut retry).await?,
                wish = signals.next() => match wish {
                    Wish::Reload if self.ends_with_terminal => break Duration::ZERO,
                    Wish::Reload => match &self.trigger {
                        Some(trigger) => {
                            tracing::info!("SIGHUP: loading the configuration again");
                            trigger.reload();
                        }
                        None => tracing::info!("SIGHUP: the configuration comes from the control plane, by itself"),
                    },
                    Wish::Reopen => {
                        self.proxy.reopen_logs();
                        tracing::info!("SIGUSR1: log files are opened again");
                    }
                    Wish::Terminate => break self.args.drain_delay(),
                    // Whoever sits at the terminal wants it to end.
                    Wish::Interrupt => break Duration::ZERO,
                }
            }
        };
        self.drain(delay, &standing, &mut signals).await;
        Ok(Exit::Fine)
    }

    /// Puts the latest update into force, and tells why files were refused. Both can be news at once: registrations come into force
    /// beside a file with a mistake.
    async fn take_update(&mut self, standing: &Standing, retry: &mut Retry) -> Result<()> {
        let update = self.feed.borrow_and_update().clone();
        if update.loaded.generation == standing.generation() {
            standing.note_refusal(update.clone());
        } else {
            let before = standing.outcomes();
            let outcomes = self.apply(&update).await?;
            *retry = Retry::begin(&outcomes, Instant::now());
            standing.replace(update.clone(), outcomes.clone(), retry.pause());
            announce::loaded(&update, self.format);
            announce::listeners(&update, &outcomes, &before, Next::Retry);
            announce::nothing_served(&outcomes, Some(&before));
        }
        let told = std::mem::replace(&mut self.refusals, update.failed);
        if let Some(refused) = update.refused.as_ref().filter(|_| told != update.failed) {
            announce::refused_reload(&update, refused, self.format);
        }
        Ok(())
    }

    async fn apply(&self, update: &Update) -> Result<Arc<[BindOutcome]>> {
        let proxy = self.proxy.clone();
        let snapshot = update.loaded.snapshot.clone();
        // Opening sockets can block.
        let outcomes = tokio::task::spawn_blocking(move || proxy.apply(snapshot)).await?;
        Ok(outcomes.into())
    }

    /// Tries again to open what could not be opened.
    async fn retry(&self, standing: &Standing, retry: &mut Retry) -> Result<()> {
        let proxy = self.proxy.clone();
        let outcomes: Arc<[BindOutcome]> = tokio::task::spawn_blocking(move || proxy.retry()).await?.into();
        retry.note(&outcomes, Instant::now());
        let before = standing.outcomes();
        let update = standing.note_attempt(outcomes.clone(), retry.pause());
        announce::opened(&update, &outcomes, &before);
        Ok(())
    }

    /// Accepts for a while longer, then lets requests finish; a second signal ends it at once.
    async fn drain(&self, delay: Duration, standing: &Standing, signals: &mut Signals) {
        standing.begin_draining();
        if delay.is_zero() {
            self.proxy.begin_drain().await;
        }
        tracing::info!(
            seconds = self.args.drain.as_secs_f64(),
            delay = delay.as_secs_f64(),
            "draining; a second signal exits at once"
        );
        let drain = async {
            // Even a pause of nothing would take until the next tick of the clock.
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            self.proxy.drain(self.args.drain.saturating_sub(delay)).await
        };
        tokio::select! {
            complete = drain => match complete {
                true => tracing::info!("drained"),
                false => tracing::warn!("the time to drain is over: open connections are cut"),
            },
            () = signals.stop() => tracing::warn!("a second signal: open connections are cut"),
        }
    }
}
