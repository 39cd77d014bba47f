//! A program in the mesh: the proxy beside it, its registration, and the order in which all of it starts and stops.
//!
//! Called by the subcommand. Starting: join, hold a configuration, listen, register, and then the program. Stopping: the registration
//! says so, inbound drains, the program is told, outbound works until it has ended. This file holds the order; the program is in
//! `program`, what a killed sidecar left of it in `leftover`, its health in `probe`, what is compiled in `station`, flags and environment in `places` and
//! `plan`, the own address in `whereabouts`, the services that it asks for in `asked`, what it follows in `news`, memory that it can spare in `pages`.

mod asked;
mod free_ports;
mod kept;
mod leftover;
mod news;
mod pages;
mod places;
mod plan;
mod probe;
mod program;
mod station;
mod transparent;
mod whereabouts;

use std::io::IsTerminal;
use std::mem;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use transept_control::Update;
use transept_engine::compile::mesh::Captured;
use transept_engine::health::Verdict;
use transept_proxy::feed::{self, Feed, Received};
use transept_proxy::{BindOutcome, Proxy, Wanted};
use transept_xds::mesh::Condition;

use self::asked::Asked;
use self::leftover::Left;
use self::news::{News, Sources};
use self::program::{Ambient, End, Mail, Program, Terminal, code_of, name_of};
use self::station::Stationing;
use crate::admin::{ADMIN, Admin};
use crate::commands::Exit;
use crate::gateway::announce::{self, Next};
use crate::gateway::{Retry, Standing};
use crate::logging::Format;

pub(crate) use free_ports::FreePorts;
pub(crate) use places::{AppPort, Listen, Upstream, check_admin, check_locals, check_ports, is_label, parse_local};
pub(crate) use plan::Plan;
pub(crate) use probe::Question;
pub(crate) use program::TOKEN;
pub(crate) use station::Place;
pub(crate) use transparent::Transparent;

/// How long a control plane that seems to be there may leave it open where services are that were not asked for before.
const RESPITE: Duration = Duration::from_secs(4);
/// What is left for connections of a program that has ended.
const AFTERMATH: Duration = Duration::from_secs(1);

/// Runs until the program or a signal ends it.
///
/// # Errors
/// The mesh cannot be joined, or the proxy cannot start.
pub(crate) fn serve(mut plan: Plan) -> Result<Exit> {
    let asked = Asked::begin(&plan);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("sidecar").enable_all().build()?;
    runtime.block_on(plan.find_address());
    plan.settle_inbound()?;
    let joined = runtime.block_on(join(&plan, &asked))?;
    let Some((mail, feed)) = joined else { return Ok(Exit::Fine) };
    plan.check_identity(&feed)?;
    // At the first start the control plane may have been there only now.
    runtime.block_on(plan.find_address());
    plan.settle_inbound()?;
    let prepare = async { Transparent::prepare(&plan.place, &plan.state, &plan.instances_in, &mut plan.free) };
    let transparent = if plan.transparent { Some(runtime.block_on(prepare)?) } else { None };
    let mut options = plan.serve.options();
    options.mesh = Some(feed.mesh().at(plan.place.locale.clone()));
    let (demand, wanted) = mpsc::unbounded_channel();
    options.demand = Some(demand);
    let proxy = Arc::new(Proxy::start(&options).context("the data plane cannot start")?);
    feed.report(proxy.sight());
    let sidecar = Sidecar {
        plan,
        feed,
        asked,
        proxy: proxy.clone(),
        transparent,
        verdict: watch::Sender::new(Condition::Unhealthy),
    };
    let exit = runtime.block_on(sidecar.attend(wanted, mail));
    // The proxy has a runtime of its own, which must not end inside another: it goes last, on this thread.
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(proxy);
    exit
}

/// Joins the mesh and waits for the first configuration; `None` when a signal ends the wait.
async fn join(plan: &Plan, asked: &Asked) -> Result<Option<(Mail, Feed)>> {
    let mut mail = Mail::open()?;
    let joining = async {
        tracing::info!(control = plan.control, "joining the mesh");
        let feed = Feed::start(plan.feed_options(asked.interest())).await?;
        hold_configuration(plan, &feed).await.context("the feed has ended")?;
        anyhow::Ok(feed)
    };
    tokio::pin!(joining);
    loop {
        tokio::select! {
            joined = &mut joining => return joined.map(|feed| Some((mail, feed))),
            signal = mail.next() => if matches!(signal, Signal::TERM | Signal::INT) {
                return Ok(None);
            },
        }
    }
}

/// Waits until there is a configuration to begin with. What was kept on the disk is enough, if it tells of every service that the command line
/// names: the program may call a new one at once, and nobody would know it yet. It is waited for while there is somebody to ask.
async fn hold_configuration(plan: &Plan, feed: &Feed) -> Result<(), watch::error::RecvError> {
    let (mut received, mut standing, mut contact) = (feed.received(), feed.standing(), feed.standing());
    let kept = async {
        let knows_all =
            received.wait_for(|received| received.kept).await.map(|received| plan.is_told(&received.world))?;
        if !knows_all {
            let away = contact.wait_for(|standing| standing.failure.is_some());
            if let Ok(away) = tokio::time::timeout(RESPITE, away).await {
                away?;
            }
        }
        Ok(())
    };
    tokio::select! {
        kept = kept => kept,
        synced = standing.wait_for(|standing| standing.synced) => synced.map(drop),
    }
}

/// Everything that is joined.
struct Sidecar {
    plan: Plan,
    feed: Feed,
    asked: Asked,
    proxy: Arc<Proxy>,
    /// Gone after the program, whose calls it captures.
    transparent: Option<Transparent>,
    verdict: watch::Sender<Condition>,
}

/// Why the sidecar stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The program has ended by itself.
    Ended(End),
    /// A signal: the system's, or that of a person.
    Told(Signal),
}

/// What is in force, and who tells of it.
struct InForce {
    stationing: Stationing,
    standing: Arc<Standing>,
    retry: Retry,
    format: Format,
}

impl Sidecar {
    /// Everything after joining. `wanted` tells what the program calls for the first time.
    async fn attend(mut self, wanted: mpsc::UnboundedReceiver<Wanted>, mut mail: Mail) -> Result<Exit> {
        let mut sources = Sources::new(&self.feed, wanted, self.transparent.as_ref());
        let first = sources.latest();
        let mut in_force = self.begin(&first).await?;
        self.register();
        let started = match self.end_leftover(&mut sources, &mut in_force, &mut mail).await {
            Left::None => self.start_program(),
            Left::Told => Err(Exit::Fine),
        };
        let mut program = match started {
            Ok(program) => program,
            Err(exit) => {
                self.feed.leave().await;
                return Ok(exit);
            }
        };
        tokio::spawn(pages::tend(self.feed.standing()));
        let (tell, mut verdicts) = watch::channel(Condition::Unhealthy);
        if let Some(question) = self.plan.question.clone() {
            tokio::spawn(async move { question.ask(|verdict, why| note(&tell, verdict, why)).await });
        }
        self.asked.note_connection(sources.is_connected(), Instant::now());
        let cause = loop {
            tokio::select! {
                news = sources.next(self.asked.alone_at(), in_force.retry.due()) => {
                    self.follow(news?, &mut sources, &mut in_force).await?;
                }
                Ok(()) = verdicts.changed() => {
                    self.verdict.send_replace(*verdicts.borrow_and_update());
                    self.register();
                }
                end = ended(&mut program) => break Cause::Ended(end),
                signal = mail.next() => match signal {
                    Signal::TERM | Signal::INT => break Cause::Told(signal),
                    signal => self.hand_on(signal, &mut program),
                },
            }
        };
        in_force.standing.begin_draining();
        let code = match cause {
            Cause::Ended(end) => self.follow_program(end).await,
            Cause::Told(signal) => {
                let limit = self.plan.serve.drain;
                let over = tokio::time::Instant::now() + limit;
                let end = {
                    let stopping = pin!(self.stop(signal, over, &mut program, &mut mail));
                    self.follow_until(stopping, &mut sources, &mut in_force).await
                };
                self.feed.leave().await;
                self.proxy.drain(AFTERMATH.min(over.saturating_duration_since(tokio::time::Instant::now()))).await;
                tracing::info!("stopped");
                end.map(End::exit_code)
            }
        };
        Ok(code.map_or(Exit::Fine, Exit::Program))
    }

    /// Does what has to be done about news.
    async fn follow(&mut self, news: News, sources: &mut Sources, in_force: &mut InForce) -> Result<()> {
        match news {
            News::Received(latest) => self.take(&latest, in_force).await?,
            News::Wanted(wanted) => {
                self.ask(wanted);
                self.go_on_alone(in_force).await?;
            }
            News::Connection(connected) => {
                self.asked.note_connection(connected, Instant::now());
                if connected {
                    self.find_address().await;
                }
            }
            News::Servers => self.follow_servers(sources.servers.as_mut()),
            News::Alone => self.go_on_alone(in_force).await?,
            News::Retry => self.retry(in_force).await?,
        }
        Ok(())
    }

    /// Follows the news until something else is done.
    async fn follow_until<T>(
        &mut self,
        mut done: Pin<&mut impl Future<Output = T>>,
        sources: &mut Sources,
        in_force: &mut InForce,
    ) -> T {
        loop {
            let news = tokio::select! {
                done = &mut done => return done,
                news = sources.next(self.asked.alone_at(), in_force.retry.due()) => news,
            };
            let followed = match news {
                Ok(news) => self.follow(news, sources, in_force).await,
                Err(error) => Err(error),
            };
            if let Err(error) = followed {
                tracing::warn!("what is in force now stays so: {error:#}");
                return done.await;
            }
        }
    }

    /// Puts the first configuration in force and opens the doors.
    async fn begin(&mut self, first: &Received) -> Result<InForce> {
        let identity = self.feed.svid().load().id().to_string();
        let format = self.plan.serve.log.log.settle();
        let admin = Admin::bind_beside_others(&self.plan.serve.admin, ADMIN, format).await?;
        let mut stationing = Stationing::new(self.plan.place.clone(), identity.clone());
        stationing.take_plaintext(self.transparent.as_ref().and_then(Transparent::plaintext));
        self.follow_membership(first);
        stationing.take_captured(self.capture(first));
        stationing.take_awake(self.asked.awake(first));
        let update = stationing.take(&first.world);
        drop(mem::take(&mut self.plan.free));
        let outcomes = self.apply(&update).await?;
        announce::loaded(&update, format);
        // The others would call us in vain, or the program would call somebody else.
        let in_vain = outcomes.iter().any(|outcome| outcome.bound.is_err());
        announce::listeners(&update, &outcomes, &[], if in_vain { Next::End } else { Next::Retry });
        if in_vain {
            anyhow::bail!("not every listener could be opened{}", self.plan.other_place(&outcomes));
        }
        self.plan.place.warn_of_strangers();
        if let Some(transparent) = &mut self.transparent {
            transparent.begin()?;
        }
        let retry = Retry::begin(&outcomes, Instant::now());
        let standing = Standing::new(self.proxy.clone(), update, outcomes, retry.pause());
        let health = self.plan.question.is_some().then(|| self.verdict.subscribe());
        let member = describe(&self.plan.place, identity.clone(), &self.feed, health);
        let standing = Arc::new(standing.with_member(member));
        if let Some(admin) = admin {
            tokio::spawn(admin.serve(standing.clone()));
        }
        tracing::info!(identity, from_disk = first.kept, "in the mesh");
        Ok(InForce { stationing, standing, retry, format })
    }

    /// Ends the program that a killed sidecar has left, if there is one to be started in its place.
    async fn end_leftover(&mut self, sources: &mut Sources, in_force: &mut InForce, mail: &mut Mail) -> Left {
        if self.plan.program.is_empty() {
            return Left::None;
        }
        let (state, patience) = (self.plan.state.clone(), self.plan.serve.drain);
        let ending = pin!(leftover::end(&state, patience, mail));
        self.follow_until(ending, sources, in_force).await
    }

    /// Starts the program, if there is one to start; tells when it cannot be.
    fn start_program(&self) -> Result<Option<Program>, Exit> {
        if self.plan.program.is_empty() {
            return Ok(None);
        }
        let terminal = if std::io::stdin().is_terminal() { Terminal::Shared } else { Terminal::None };
        let place = &self.plan.place;
        let identity = self.feed.svid().load().id().to_string();
        let environment = places::environment(&identity, &place.upstreams, place.http_proxy);
        let ambient = if self.plan.transparent { Ambient::WithoutNetAdmin } else { Ambient::Passed };
        match Program::start(&self.plan.program, &environment, (terminal, ambient)) {
            Ok(program) => {
                tracing::info!(pid = program.pid(), "the program is started");
                leftover::keep(&self.plan.state, program.pid());
                Ok(Some(program))
            }
            Err(error) => {
                let name = self.plan.program.first().cloned().unwrap_or_default();
                tracing::error!(program = %name.to_string_lossy(), "the program cannot be started: {error}");
                Err(Exit::Program(code_of(&error)))
            }
        }
    }

    /// Finds the own address, if it was not known at the start, and registers with it.
    async fn find_address(&mut self) {
        if self.plan.inbound.is_some() && self.plan.address.is_none() {
            self.plan.find_address().await;
            self.register();
        }
    }

    /// Says what is to be known about this instance, now.
    fn register(&self) {
        if let Some(workload) = self.plan.workload(*self.verdict.borrow()) {
            if let Some(address) = self.plan.address {
                whereabouts::keep(&self.plan.state, address);
            }
            self.feed.register(workload);
        }
    }

    /// Asks for the Services that this is an instance of, too: their policies count here. For those whose names are answered with the
    /// addresses of their instances. And for those whose instances are called by their addresses: policies on them bind who calls.
    fn follow_membership(&mut self, received: &Received) {
        let world = &received.world;
        let namespace = &self.plan.place.namespace;
        let own = self.plan.place.services(world).into_iter().map(|service| (namespace.clone(), service));
        let named = self.transparent.is_some().then(|| transparent::headless(world)).into_iter().flatten();
        let headless = named.map(|service| (service.meta.namespace.to_string(), service.meta.name.to_string()));
        if let Some(asked) = self.asked.add(own.chain(headless).chain(self.asked.called_instances(received))) {
            self.feed.ask_for(asked);
        }
    }

    /// Where captured calls lead in a configuration; none, when none are captured.
    fn capture(&mut self, received: &Received) -> Option<Captured> {
        let captured = self.transparent.as_mut()?.follow(&received.world);
        let located = captured.located.is_some().then(|| self.asked.located(received));
        Some(Captured { located, ..captured })
    }

    /// Captures questions to the name servers that the system names now.
    fn follow_servers(&mut self, servers: Option<&mut watch::Receiver<Vec<SocketAddr>>>) {
        if let (Some(transparent), Some(servers)) = (&mut self.transparent, servers) {
            transparent.follow_servers(&servers.borrow_and_update());
        }
    }

    /// Asks for what the program calls for the first time.
    fn ask(&mut self, wanted: Wanted) {
        match wanted {
            Wanted::Service(service) => {
                if let Some(asked) = self.asked.call(service) {
                    self.feed.ask_for(asked);
                }
            }
            Wanted::Address(address) => {
                if let Some(addresses) = self.asked.locate(address, Instant::now()) {
                    self.feed.ask_about(addresses);
                }
            }
        }
    }

    /// Without a control plane nobody tells whose an address is: calls of it go on as they can.
    async fn go_on_alone(&mut self, in_force: &mut InForce) -> Result<()> {
        let latest = self.feed.received().borrow().clone();
        if self.asked.give_up(&latest, Instant::now()) {
            self.take(&latest, in_force).await?;
        }
        Ok(())
    }

    /// Puts a new configuration in force.
    async fn take(&mut self, received: &Received, in_force: &mut InForce) -> Result<()> {
        self.asked.hear(received);
        self.follow_membership(received);
        in_force.stationing.take_captured(self.capture(received));
        in_force.stationing.take_awake(self.asked.awake(received));
        let update = in_force.stationing.take(&received.world);
        let before = in_force.standing.outcomes();
        let outcomes = self.apply(&update).await?;
        in_force.retry = Retry::begin(&outcomes, Instant::now());
        in_force.standing.replace(update.clone(), outcomes.clone(), in_force.retry.pause());
        announce::loaded(&update, in_force.format);
        announce::listeners(&update, &outcomes, &before, Next::Retry);
        Ok(())
    }

    async fn apply(&self, update: &Update) -> Result<Arc<[BindOutcome]>> {
        let (proxy, snapshot) = (self.proxy.clone(), update.loaded.snapshot.clone());
        // Opening sockets can block.
        let outcomes = tokio::task::spawn_blocking(move || proxy.apply(snapshot)).await?;
        Ok(outcomes.into())
    }

    /// Tries again to open what could not be opened.
    async fn retry(&self, in_force: &mut InForce) -> Result<()> {
        let proxy = self.proxy.clone();
        let outcomes: Arc<[BindOutcome]> = tokio::task::spawn_blocking(move || proxy.retry()).await?.into();
        in_force.retry.note(&outcomes, Instant::now());
        let before = in_force.standing.outcomes();
        let update = in_force.standing.note_attempt(outcomes.clone(), in_force.retry.pause());
        announce::opened(&update, &outcomes, &before);
        Ok(())
    }

    /// A signal that ends nothing: it is the program's. That log files were moved away means ours as well.
    fn hand_on(&self, signal: Signal, program: &mut Option<Program>) {
        if signal == Signal::USR1 {
            self.proxy.reopen_logs();
        }
        if let Some(program) = program {
            program.signal(signal);
        }
    }

    /// The program has ended by itself: nobody is left to be called, and nobody to call.
    async fn follow_program(&self, end: End) -> Option<u8> {
        match end {
            End::Code(0) => tracing::info!("the program has ended"),
            end => tracing::warn!(%end, "the program has ended"),
        }
        self.feed.leave().await;
        self.proxy.drain(AFTERMATH).await;
        Some(end.exit_code())
    }

    /// Has the registration say so, drains inbound, and stops the program, in this order, until `over`. A second signal goes to the program, whatever is
    /// waited for, a third one ends it at once.
    fn stop<'p>(
        &mut self,
        signal: Signal,
        over: tokio::time::Instant,
        program: &'p mut Option<Program>,
        mail: &'p mut Mail,
    ) -> impl Future<Output = Option<End>> + use<'p> {
        let limit = self.plan.serve.drain;
        tracing::info!(
            seconds = limit.as_secs_f64(),
            "draining inbound; a second signal goes to the program at once, a third one kills it"
        );
        self.verdict.send_replace(Condition::Draining);
        self.register();
        let delay = if signal == Signal::TERM { self.plan.serve.drain_delay() } else { Duration::ZERO };
        let proxy = self.proxy.clone();
        let drain = async move {
            // Even a pause of nothing would take until the next tick of the clock.
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            proxy.drain_inbound(limit.saturating_sub(delay)).await
        };
        async move {
            let (mut early, mut heard) = (None, 1);
            tokio::select! {
                complete = drain => tracing::info!(complete, "inbound is drained"),
                end = ended(program) => early = Some(end),
                signal = mail.stop() => {
                    heard += 1;
                    tracing::warn!(signal = name_of(signal), "inbound is not waited for");
                }
            }
            match (early, program) {
                (Some(end), _) => Some(end),
                (None, None) => None,
                (None, Some(program)) => Some(program.stop(signal, heard, over, mail).await),
            }
        }
    }
}

/// Waits for the end of the program; for ever when there is none.
async fn ended(program: &mut Option<Program>) -> End {
    match program {
        Some(program) => program.ended().await,
        None => std::future::pending().await,
    }
}

/// Tells of a verdict on the program, in the log and for the registration.
fn note(tell: &watch::Sender<Condition>, verdict: Verdict, why: Option<String>) {
    let condition = match verdict {
        Verdict::Healthy => {
            tracing::info!("the program is well");
            Condition::Healthy
        }
        Verdict::Unhealthy => {
            tracing::warn!(why, "the program is not well");
            Condition::Unhealthy
        }
    };
    // The first verdict of a program that has just been started is what everybody believes already.
    tell.send_if_modified(|known| std::mem::replace(known, condition) != condition);
}

/// What `/status` says about the membership; with how the program is, where anybody looks after it.
fn describe(
    place: &Place,
    identity: String,
    feed: &Feed,
    health: Option<watch::Receiver<Condition>>,
) -> impl Fn() -> Value + Send + Sync + use<> {
    let (standing, received, svid) = (feed.standing(), feed.received(), feed.svid().clone());
    let (namespace, service, name) = (place.namespace.clone(), place.service.clone(), place.workload.clone());
    let inbound: Option<SocketAddr> = place.inbound;
    move || {
        let feed::Standing { connected, synced, registered, refused, unbelieved, unkept, failure, renewed, .. } =
            standing.borrow().clone();
        let leaf = svid.load();
        let world = received.borrow().clone();
        let in_slices: usize = world.world.endpoint_slices().iter().map(|slice| slice.spec.endpoints.len()).sum();
        let ends = i64::try_from(leaf.leaf().not_after.as_secs()).unwrap_or(i64::MAX);
        json!({
            "identity": identity,
            "namespace": namespace,
            "service": service,
            "instance": name,
            "tunnels": inbound.map(|inbound| inbound.to_string()),
            "connected": connected,
            "synced": synced,
            "registered": registered,
            "health": health.as_ref().map(|health| health.borrow().as_str()),
            "refused": refused,
            "unbelieved": unbelieved,
            "failure": failure,
            "unkept": unkept,
            "renewed": renewed,
            "holds": {
                "services": world.world.services().len(),
                "endpoints": world.world.workloads().len() + in_slices,
            },
            "certificateEnds": jiff::Timestamp::from_second(ends).ok().map(|at| at.to_string()),
        })
    }
}
