//! Scenario s: how long a change takes from the write to each of a thousand proxies, and what it costs the control plane.
//!
//! Called by `mesh`. The control plane is the real program on the core of proxies. The proxies are simulated (see `member`), all on one
//! thread of the load core, with one identity and a connection each. A change of a route is a file that is renamed into place; a
//! change of an endpoint is a new registration over the connection of a workload. The next change begins when everybody has the
//! one before. Envoy is only ever a client here, so it is no peer.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustls::time_provider::DefaultTimeProvider;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;
use transept_identity::handshake::client_config;
use transept_identity::{Accept, PeerVerifier, SpiffeId, Ticket};
use transept_proxy::Mesh;
use transept_proxy::feed::{Feed, FeedOptions, Interest};
use transept_xds::mesh::{CONTROL_PATH, Condition, Port, Workload};

use super::PairPorts;
use super::control::Control;
use super::member::{Fleet, MARK, News, What};
use super::report::{Joined, Meshed, Passage, Way};
use super::world::Crowd;
use crate::options::Options;
use crate::peers::Kind;
use crate::process::{LOAD_CORE, PROXY_CORE, stay_on, thread_cpu};

/// How many proxies join at a time.
const DOOR: usize = 32;
/// How long nothing may be heard.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the control plane does after the last proxy has a change (reading confirmations) belongs to the change.
const AFTERMATH: Duration = Duration::from_millis(200);

pub(super) fn run(options: &Options, at: &Path, results: &mut Meshed) -> anyhow::Result<()> {
    let Some(peer) = options.peers.iter().find(|peer| peer.kind == Kind::Transept) else { return Ok(()) };
    let crowds = [
        Crowd { services: 1, endpoints_of_each: options.endpoints.div_ceil(10) },
        Crowd { services: options.endpoints.div_ceil(10), endpoints_of_each: 10 },
        Crowd { services: 1, endpoints_of_each: options.endpoints },
    ];
    for (number, crowd) in crowds.into_iter().enumerate() {
        let at = at.join(number.to_string());
        let mut files = crowd.files(name);
        files.push(("route.yaml".to_owned(), route(0)));
        let control = Control::start(&peer.program, PROXY_CORE, PairPorts::of(0).control, &at, &files)?;
        let way = std::thread::scope(|scope| {
            let playing = scope.spawn(|| {
                stay_on(LOAD_CORE)?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                LocalSet::new().block_on(&runtime, play(options, &control, crowd))
            });
            playing.join().unwrap_or_else(|_| bail!("the simulation panicked"))
        });
        results.ways.push(way.with_context(|| control.said())?);
    }
    Ok(())
}

/// Everybody calls the first Service.
fn name(service: usize) -> String {
    if service == 0 { "cart".to_owned() } else { format!("other-{service}") }
}

/// A route of the Service that everybody calls, in one version.
fn route(mark: usize) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: cart}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: cart}}]\n  rules:\n  - filters:\n    - type: RequestHeaderModifier\n      \
         requestHeaderModifier: {{set: [{{name: x-version, value: {MARK}{mark}}}]}}\n    backendRefs: [{{name: cart, port: 80}}]\n"
    )
}

/// An instance of the Service that everybody calls, in one version.
fn instance(mark: usize) -> Workload {
    Workload {
        namespace: "default".to_owned(),
        name: "cart-live".to_owned(),
        services: vec!["cart".to_owned()],
        service_account: "cart".to_owned(),
        address: "127.0.0.1".to_owned(),
        ports: vec![Port {
            name: String::new(),
            port: 80,
            target_port: 8080,
            app_protocol: "http".to_owned(),
            learned: String::new(),
        }],
        tunnel_port: 15_008,
        zone: format!("{MARK}{mark}"),
        region: String::new(),
        weight: 1,
        condition: Condition::Healthy.into(),
    }
}

/// What is heard from the fleet.
struct Ear {
    news: mpsc::UnboundedReceiver<News>,
    proxies: usize,
}

impl Ear {
    async fn next(&mut self) -> anyhow::Result<News> {
        let news =
            tokio::time::timeout(PATIENCE, self.news.recv()).await.context("nothing is heard from the proxies")?;
        match news.context("all proxies have ended")? {
            News::Ended(error) => Err(error.context("a simulated proxy has ended")),
            news => Ok(news),
        }
    }

    /// Waits until everybody has everything.
    async fn synced(&mut self) -> anyhow::Result<()> {
        let mut left = self.proxies;
        while left > 0 {
            left -= usize::from(matches!(self.next().await?, News::Synced));
        }
        Ok(())
    }

    /// Waits until everybody has a change; how long after its beginning each did, in order.
    async fn all_have(&mut self, what: What, mark: usize, begin: Instant) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(self.proxies);
        while times.len() < self.proxies {
            if let News::Has(kind, number, at) = self.next().await?
                && (kind, number) == (what, mark)
            {
                times.push(at.saturating_duration_since(begin));
            }
        }
        times.sort_unstable();
        Ok(times)
    }
}

async fn play(options: &Options, control: &Control, crowd: Crowd) -> anyhow::Result<Way> {
    let web = identity(control, "web").await?;
    let cart = identity(control, "cart").await?;
    let (news, heard) = mpsc::unbounded_channel();
    let mut ear = Ear { news: heard, proxies: options.proxies };
    let (begin, cpu) = (Instant::now(), control.process.cpu()?);
    let proxies = Rc::new(fleet(control, &web, news)?);
    for number in 0..options.proxies {
        // Dropped at once: these register nothing.
        let (_, nothing) = mpsc::unbounded_channel();
        tokio::task::spawn_local(proxies.clone().live(number, nothing));
    }
    ear.synced().await?;
    let joined = Joined {
        took: begin.elapsed(),
        cpu: control.process.cpu()? - cpu,
        resident: control.process.pages()?.resident,
    };
    let label = crowd.label();
    eprintln!("  {label}: {} proxies hold everything after {:.1} s", options.proxies, joined.took.as_secs_f64());
    // Somebody whose changes the others hear of, and who is heard of by nobody here.
    let (aside, mut ignored) = mpsc::unbounded_channel();
    let (register, workloads) = mpsc::unbounded_channel();
    let workload = Rc::new(fleet(control, &cart, aside)?);
    tokio::task::spawn_local(workload.live(options.proxies, workloads));
    register.send(instance(0))?;
    ear.all_have(What::Endpoint, 0, Instant::now()).await.with_context(|| format!("{:?}", ignored.try_recv()))?;
    let mut way = Way { label, proxies: options.proxies, joined, routes: Vec::new(), endpoints: Vec::new() };
    for mark in 1..=options.changes {
        let change = || control.change("route.yaml", &route(mark));
        way.routes.push(pass(control, &mut ear, What::Route, mark, change).await?);
        let change = || Ok(register.send(instance(mark))?);
        way.endpoints.push(pass(control, &mut ear, What::Endpoint, mark, change).await?);
    }
    Ok(way)
}

/// One change from the write to the last proxy.
async fn pass(
    control: &Control,
    ear: &mut Ear,
    what: What,
    mark: usize,
    change: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Passage> {
    let (cpu, own) = (control.process.cpu()?, thread_cpu()?);
    let begin = Instant::now();
    change()?;
    let times = ear.all_have(what, mark, begin).await.with_context(|| format!("{what:?} {mark}"))?;
    let own = thread_cpu()? - own;
    tokio::time::sleep(AFTERMATH).await;
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len() - 1)).copied().unwrap_or_default();
    let passage = Passage {
        first: at(0),
        median: at(50),
        p99: at(99),
        last: at(100),
        cpu: control.process.cpu()? - cpu,
        simulation: own,
    };
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    eprintln!(
        "  {what:?} {mark}: first {:.1} ms, median {:.1}, p99 {:.1}, last {:.1}; control plane {:.1} ms of CPU",
        ms(passage.first),
        ms(passage.median),
        ms(passage.p99),
        ms(passage.last),
        ms(passage.cpu)
    );
    Ok(passage)
}

/// Proxies with one identity.
fn fleet(control: &Control, mesh: &Mesh, news: mpsc::UnboundedSender<News>) -> anyhow::Result<Fleet> {
    let id = mesh.svid.load().id().clone();
    let server = SpiffeId::parse(&format!("{}{CONTROL_PATH}", id.trust_domain().id()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let peers = PeerVerifier::new(mesh.bundles.clone(), Accept::only(server), provider);
    let config = client_config(Some(mesh.svid.clone()), peers, &[b"h2"], Arc::new(DefaultTimeProvider))?;
    let bundles = mesh.bundles.load();
    Ok(Fleet {
        address: control.address.clone(),
        tls: TlsConnector::from(Arc::new(config)),
        bundle_sequence: bundles.of(id.trust_domain_name()).and_then(|bundle| bundle.sequence).unwrap_or(0),
        service: "default/cart",
        news,
        door: Semaphore::new(DOOR),
        contents: RefCell::default(),
    })
}

/// Joins once as an instance of a service, as a real sidecar does, and takes what it got.
async fn identity(control: &Control, service: &str) -> anyhow::Result<Mesh> {
    let feed = Feed::start(FeedOptions {
        control: vec![control.address.clone()],
        state: control.path(&format!("{service}.state")),
        ticket: Some(Ticket::read(&control.token(service)?)?),
        node: service.to_owned(),
        interest: Interest::Services([("default".to_owned(), service.to_owned())].into()),
        address: None,
        workload: None,
    })
    .await?;
    Ok(feed.mesh())
}
