//! Scenarios m to q: what two proxies between a client and a backend cost, beside no proxy at all and beside peers that do the same.
//!
//! Called by `scenarios`. Client and backend are on the load core, both proxies on the other one, each with one worker. Memory
//! of a sidecar (r) and the way of a change (s) have their own files.

mod bulk;
mod certificates;
mod control;
mod envoy;
mod member;
mod memory;
mod nginx;
mod order;
mod propagate;
mod report;
mod wire;
mod world;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use self::certificates::Trust;
use self::control::{Control, until_answered};
use self::envoy::Manner;
use self::report::Cost;
use self::world::Crowd;
use crate::load::{Load, Seen};
use crate::options::{Options, Peer};
use crate::peers::Kind;
use crate::process::{LOAD_CORE, PROXY_CORE, Process, core_busy};
use crate::report::Results;
use crate::scenarios::Scenario;
use crate::stage::{BACKEND, Stage};

pub(crate) use self::order::write_order;
pub(crate) use self::report::Meshed;

/// Where bytes in bulk come from.
const SOURCE: u16 = 18_084;
/// The first port of the first pair; each has ten.
const FIRST: u16 = 18_200;
/// How many pairs of one scenario may run at once.
const PAIRS: u16 = 6;
/// Requests per second in the scenario of latency: what two proxies on one core can bear.
const RATE: u32 = 4_000;
/// No endpoints but those that are called.
const NOBODY: Crowd = Crowd { services: 0, endpoints_of_each: 0 };

/// All ports that the scenarios of the mesh use.
pub(crate) fn ports() -> impl Iterator<Item = u16> {
    (FIRST..FIRST + 10 * PAIRS).chain([SOURCE])
}

/// Ports of one pair.
#[derive(Debug, Clone, Copy)]
struct PairPorts {
    /// HTTP/1.1 into the caller's proxy.
    http: u16,
    /// The same, as bytes that nobody reads.
    tcp: u16,
    /// Bytes in bulk.
    bulk: u16,
    /// The same three between the proxies, where they have ports of their own.
    called_http: u16,
    called_tcp: u16,
    called_bulk: u16,
    /// Tunnels, where everything is in one.
    tunnels: u16,
    control: u16,
    /// The caller's endpoint for operators.
    admin: u16,
}

impl PairPorts {
    fn of(pair: u16) -> Self {
        let first = FIRST + 10 * pair;
        let [http, tcp, bulk, called_http, called_tcp, called_bulk, tunnels, control, admin] =
            std::array::from_fn(|at| first + at as u16);
        Self { http, tcp, bulk, called_http, called_tcp, called_bulk, tunnels, control, admin }
    }
}

/// What a pair is told.
#[derive(Debug, Clone, Copy)]
struct Told<'a> {
    ports: PairPorts,
    backend: u16,
    source: u16,
    trust: &'a Trust,
}

/// One of each side.
#[derive(Debug)]
struct Ends<T> {
    caller: T,
    called: T,
}

/// Two proxies that run, or none.
#[derive(Debug)]
struct Pair {
    label: String,
    proxies: Option<Ends<Process>>,
    ports: PairPorts,
    _control: Option<Control>,
}

/// The Services of the mesh: the same backend as HTTP and as bytes, and bytes in bulk.
const SERVICES: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: cart}\nspec:\n  ports:\n  \
                        - {name: http, port: 80, appProtocol: http}\n  - {name: tcp, port: 81, appProtocol: tcp}\n  \
                        - {name: bulk, port: 82, appProtocol: tcp}\n";

impl Pair {
    /// No proxy: the backend itself.
    fn direct() -> Self {
        let ports = PairPorts { http: BACKEND, tcp: BACKEND, bulk: SOURCE, ..PairPorts::of(0) };
        Self { label: "direct".to_owned(), proxies: None, ports, _control: None }
    }

    /// Two programs with these arguments, ready when the backend answers through both.
    fn start(label: &str, peer: &Peer, ports: PairPorts, ends: &Ends<Vec<String>>, at: &Path) -> anyhow::Result<Self> {
        let start = |side: &str, arguments: &[String]| {
            Process::start(label, PROXY_CORE, &peer.program, arguments, &at.join(format!("{side}.log")))
        };
        let proxies = Ends { called: start("called", &ends.called)?, caller: start("caller", &ends.caller)? };
        until_answered(ports.http).with_context(|| {
            let said =
                ["caller.log", "called.log"].map(|name| std::fs::read_to_string(at.join(name)).unwrap_or_default());
            format!("{label} as two proxies:\n{}", said.concat())
        })?;
        Ok(Self { label: label.to_owned(), proxies: Some(proxies), ports, _control: None })
    }

    /// A control plane on the load core, which has nothing to do, and two sidecars.
    fn sidecars(
        peer: &Peer,
        ports: PairPorts,
        at: &Path,
        files: &[(String, String)],
        more: &[String],
    ) -> anyhow::Result<Self> {
        let control = Control::start(&peer.program, LOAD_CORE, ports.control, at, files)?;
        let arguments = sidecar_arguments(ports);
        let called = control.sidecar(&[], "cart", &arguments.called)?;
        let out = [arguments.caller.as_slice(), more].concat();
        let caller = control.sidecar(&[], "web", &out)?;
        until_answered(ports.http).with_context(|| control.said())?;
        let proxies = Some(Ends { caller, called });
        Ok(Self { label: "transept".to_owned(), proxies, ports, _control: Some(control) })
    }

    fn cpu(&self) -> anyhow::Result<Ends<Duration>> {
        match &self.proxies {
            Some(proxies) => Ok(Ends { caller: proxies.caller.cpu()?, called: proxies.called.cpu()? }),
            None => Ok(Ends { caller: Duration::ZERO, called: Duration::ZERO }),
        }
    }
}

/// What the sidecar of a caller and that of the backend are told beside who they are.
fn sidecar_arguments(ports: PairPorts) -> Ends<Vec<String>> {
    let called = vec![
        format!("--listen=127.0.0.1:{}", ports.tunnels),
        format!("--port=80:{BACKEND}/http,81:{BACKEND}/tcp,82:{SOURCE}/tcp"),
        "--admin=off".to_owned(),
    ];
    let upstreams = [(80, ports.http), (81, ports.tcp), (82, ports.bulk)];
    let caller = upstreams
        .iter()
        .map(|(port, local)| format!("--upstream=cart:{port}=127.0.0.1:{local}"))
        .chain([format!("--admin=127.0.0.1:{}", ports.admin)])
        .collect();
    Ends { caller, called }
}

/// Runs one scenario of the mesh.
///
/// # Errors
/// When proxies do not start, or any answer is not the backend's.
pub(crate) fn run(scenario: Scenario, options: &Options, stage: &Stage, results: &mut Results) -> anyhow::Result<()> {
    let at = stage.directory(&format!("mesh-{}", scenario.letter()));
    match scenario {
        Scenario::MeshMemory => memory::run(options, &at, &mut results.mesh),
        Scenario::MeshChange => propagate::run(options, &at, &mut results.mesh),
        _ => compare(scenario, options, &at, results),
    }
}

fn compare(scenario: Scenario, options: &Options, at: &Path, results: &mut Results) -> anyhow::Result<()> {
    if scenario == Scenario::MeshBulk {
        bulk::serve(SOURCE)?;
    }
    let trust = Trust::make(&at.join("trust"))?;
    let mut pairs = vec![Pair::direct()];
    for peer in &options.peers {
        for label in ways(scenario, peer.kind) {
            let ports = PairPorts::of(u16::try_from(pairs.len())?);
            let told = Told { ports, backend: BACKEND, source: SOURCE, trust: &trust };
            let at = at.join(label.replace(' ', "-"));
            std::fs::create_dir_all(&at)?;
            pairs.push(match peer.kind {
                Kind::Transept => {
                    Pair::sidecars(peer, ports, &at, &[("services.yaml".to_owned(), SERVICES.to_owned())], &[])?
                }
                Kind::Envoy => {
                    let manner = if *label == "envoy" { Manner::Single } else { Manner::Tunnels };
                    Pair::start(label, peer, ports, &envoy::arguments(manner, &told, NOBODY, &at)?, &at)?
                }
                Kind::Nginx | Kind::Haproxy => Pair::start(label, peer, ports, &nginx::arguments(&told, &at)?, &at)?,
            });
        }
    }
    measure(scenario, &pairs, options, &mut results.mesh)
}

/// In how many ways a peer takes part in a scenario, by the names that they have in the tables.
fn ways(scenario: Scenario, kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Transept => &["transept"],
        Kind::Envoy => &["envoy", "envoy h2"],
        Kind::Nginx if matches!(scenario, Scenario::MeshHttp | Scenario::MeshOnTime) => &["nginx"],
        Kind::Nginx | Kind::Haproxy => &[],
    }
}

/// Puts one load on a pair.
fn load(scenario: Scenario, ports: PairPorts, length: Duration) -> anyhow::Result<Seen> {
    let url = |port: u16| format!("http://127.0.0.1:{port}/");
    match scenario {
        Scenario::MeshHttp => Load::Wrk { connections: 64, headers: &[] }.run(&url(ports.http), length),
        Scenario::MeshConnections => {
            Load::Wrk { connections: 32, headers: &["Connection: close"] }.run(&url(ports.tcp), length)
        }
        Scenario::MeshOnTime => Load::OnTime { connections: 64, per_second: RATE }.run(&url(ports.http), length),
        Scenario::MeshBulk => bulk::take(SocketAddr::from((Ipv4Addr::LOCALHOST, ports.bulk)), length),
        _ => Load::Wrk { connections: 64, headers: &[] }.run(&url(ports.tcp), length),
    }
}

fn measure(scenario: Scenario, pairs: &[Pair], options: &Options, results: &mut Meshed) -> anyhow::Result<()> {
    for pair in pairs {
        until_answered(pair.ports.http)?;
        load(scenario, pair.ports, options.length.min(Duration::from_secs(1)))?;
    }
    for round in 0..options.rounds {
        let mut order: Vec<&Pair> = pairs.iter().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for pair in order {
            let cost = once(scenario, pair, options.length)
                .with_context(|| format!("{} in scenario {}", pair.label, scenario.letter()))?;
            eprintln!(
                "  round {} {:<10} {:8.2} µs for both proxies {:9.0}/s",
                round + 1,
                pair.label,
                cost.both(),
                cost.per_second
            );
            results.add_cost(scenario, &pair.label, cost);
        }
    }
    Ok(())
}

fn once(scenario: Scenario, pair: &Pair, length: Duration) -> anyhow::Result<Cost> {
    let busy = || anyhow::Ok(core_busy(LOAD_CORE)? + core_busy(PROXY_CORE)?);
    let (cpu, machine) = (pair.cpu()?, busy()?);
    let seen = load(scenario, pair.ports, length)?;
    let (after, machine) = (pair.cpu()?, busy()?.saturating_sub(machine));
    anyhow::ensure!(seen.requests > 0, "nothing came through");
    let each = |time: Duration| time.as_secs_f64() * 1e6 / seen.requests as f64;
    Ok(Cost {
        caller: each(after.caller - cpu.caller),
        called: each(after.called - cpu.called),
        machine: each(machine),
        per_second: seen.per_second,
        middle: seen.middle,
    })
}
