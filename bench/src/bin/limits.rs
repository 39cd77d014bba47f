//! What a limit costs in memory alone: a request's way through its policies and back, with few keys and with a million, and the memory that
//! keys take.
//!
//! Run by people (`cargo run --release -p transept-bench --bin limits`). Calls the functions that the proxy calls, without sockets.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use transept_engine::admit::admit;
use transept_engine::compile::compile;
use transept_engine::exchange::{Connection, Exchange, Notes, Now};
use transept_engine::policies::MODEL_KINDS;
use transept_engine::relay::relay;
use transept_engine::route::route;
use transept_engine::screen::screen;
use transept_engine::snapshot::Snapshot;
use transept_model::attach::{Surroundings, attach};
use transept_model::load;
use transept_model::place::SourceText;
use transept_wire::head::{Request, Response};

const MILLION: u32 = 1_000_000;
/// Requests of one sample, and how many of them the median is taken of.
const COUNT: u32 = 200_000;
const SAMPLES: usize = 9;

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec: {rules: [{backendRefs: [{group: transept.dev, kind: Backend, name: web}]}]}
---
{apiVersion: transept.dev/v1alpha1, kind: Backend, metadata: {name: web}, spec: {endpoints: [{address: 127.0.0.1, port: 1}]}}
";

fn main() -> anyhow::Result<()> {
    println!("| | keys | ns | more than without | memory of the keys |\n|---|---|---|---|---|");
    let off = "Off";
    let without = row("no policy", "", 100, 0.0)?;
    let bucket = |headers: &str| {
        format!(
            "limits: [{{name: a, requests: 1000000, per: 1s, key: [{{from: Address}}], headers: \"{headers}\", maxKeys: 2000000}}]"
        )
    };
    let slow =
        "limits: [{name: a, requests: 100, per: 1h, key: [{from: Address}], headers: \"Off\", maxKeys: 2000000}]";
    let window = "limits: [{name: a, algorithm: SlidingWindow, requests: 100000000, per: 1m, key: [{from: Address}], headers: \"Off\"}]";
    row("token bucket, no fields", &bucket(off), 100, without)?;
    row("token bucket, RateLimit fields", &bucket("Ietf"), 100, without)?;
    row("sliding window, no fields", window, 100, without)?;
    row("token bucket, no fields", slow, MILLION, without)?;
    row("three token buckets, no fields", &three(), 100, without)?;
    Ok(())
}

fn three() -> String {
    let one = |name: &str, requests: u32, per: &str| {
        format!("{{name: {name}, requests: {requests}, per: {per}, key: [{{from: Address}}], headers: \"Off\"}}")
    };
    let limits = [one("a", 1_000_000, "1s"), one("b", 50_000_000, "1m"), one("c", 900_000_000, "1h")];
    format!("limits: [{}]", limits.join(", "))
}

/// Measures requests from so many addresses in turn.
fn row(name: &str, spec: &str, keys: u32, without: f64) -> anyhow::Result<f64> {
    let snapshot = snapshot(spec)?;
    let bind = snapshot.binds.first().context("no address to listen on")?;
    let listener = admit(bind, &connection()?, "a.test").map_err(|_| anyhow::anyhow!("no listener"))?;
    let connection = connection()?;
    let mut request = Request::build("GET", "http", "a.test", "/cart")?;
    let (mut notes, mut response) = (Notes::new(), Response::new(200));
    let begin = Instant::now();
    let mut at = 0u32;
    let mut visit = || {
        at = (at + 1) % keys;
        notes.clear();
        let routed = route(listener, &request, "a.test");
        let now = begin.elapsed();
        let mut x = Exchange {
            now: Now { monotonic: Duration::from_secs(10) + now, unix: Duration::from_secs(1_700_000_000) + now },
            random: u64::from(at),
            connection: &connection,
            // An order that no cache follows.
            client: IpAddr::V4(Ipv4Addr::from_bits(at.wrapping_mul(2_654_435_761))),
            listener_port: 80,
            request: &mut request,
            notes: &mut notes,
        };
        let passes = screen(listener, routed.as_ref(), &mut x).goes_on();
        response.clear();
        response.status = 200;
        relay(listener, routed.as_ref().map(|routed| &**routed.rule), None, &mut x, &mut response);
        black_box(&response);
        passes
    };
    let before = resident()?;
    for _ in 0..keys {
        ensure!(visit(), "{name}: a request is refused");
    }
    let memory = resident()?.saturating_sub(before);
    let mut samples: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            let begin = Instant::now();
            for _ in 0..COUNT {
                black_box(visit());
            }
            begin.elapsed().as_secs_f64() * 1e9 / f64::from(COUNT)
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    let median = samples[SAMPLES / 2];
    let more = median - without;
    println!("| {name} | {keys} | {median:.0} | {more:.0} | {:.1} MiB |", memory as f64 / 1024.0 / 1024.0);
    Ok(median)
}

/// Memory of this process, in bytes.
fn resident() -> anyhow::Result<usize> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kilobytes: usize = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kilobytes * 1024)
}

fn snapshot(spec: &str) -> anyhow::Result<Arc<Snapshot>> {
    let mut text = ROUTE.to_owned();
    if !spec.is_empty() {
        text.push_str(&format!(
            "---\napiVersion: transept.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{name: limit}}\nspec:\n  \
             targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}}]\n  {spec}\n"
        ));
    }
    let loaded = load(&[SourceText::new("limits.yaml", text)], MODEL_KINDS);
    ensure!(loaded.invalid.is_empty(), "{}", loaded.invalid[0]);
    let attached = attach(&loaded.world, &Surroundings::default());
    let compiled = compile(&loaded.world, &attached, None, 1);
    ensure!(compiled.problems.is_empty(), "{}", compiled.problems[0]);
    Ok(compiled.install())
}

fn connection() -> anyhow::Result<Connection> {
    Ok(Connection::new("127.0.0.1:40000".parse()?, "127.0.0.1:8080".parse()?, None))
}
