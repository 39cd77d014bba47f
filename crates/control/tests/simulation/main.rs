//! The mesh in a storm, in virtual time: two control planes, proxies, a gateway and instances, a network that breaks, clocks that
//! jump, and requests all the while, seed by seed.
//!
//! Everything that decides is the product's: objects become resources by `control`, travel by sessions and clients of `xds`, become
//! worlds by the loader and snapshots by the engine, whose verbs decide the requests; the registry keeps the leases. Only sockets, disks,
//! clocks and dice are played, and what stands between those and the rest in `control` and `proxy` is told again in a few lines
//! (`plane`, `member`, `proxy`). `oracle` and `leases` say what should come of it by other means.
//!
//! A failing seed says how to play it again: `TRANSEPT_SEED=n` plays one and shows its last events, `TRANSEPT_SEEDS=n` sets how many
//! are played.

mod calls;
mod dice;
mod events;
mod leases;
mod member;
mod network;
mod objects;
mod oracle;
mod plane;
mod proxy;
mod run;
mod together;
mod truth;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use run::Run;

/// Seeds that are played unless somebody says how many. The gate plays thousands.
const SEEDS: u64 = 400;
/// So many seeds see everything in [`SIGHTS`]; if they do not, the runs have become too tame to show anything.
const MANY: u64 = 300;
/// What must happen in some run or other.
const SIGHTS: [&str; 17] = [
    "a call by a route",
    "a call straight to a Service",
    "a freeze",
    "a lapse",
    "a message that arrives twice",
    "a policy that is kept though it cannot be used",
    "a probe",
    "a recovery",
    "a removal",
    "a retry",
    "a silent one is called",
    "an ejection",
    "an endpoint that cannot be reached",
    "an overflow",
    "somebody is kept out",
    "somebody is let in",
    "somebody lives on with an older version",
];
/// Events that are shown of a run that failed: of one that was asked for, and of one of many.
const SHOWN: [usize; 2] = [400, 12];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays one seed; on failure says why, after what, and how to see it again.
fn play(seed: u64, shown: usize) -> Result<BTreeSet<&'static str>, String> {
    let mut run = Run::new(seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| run.play()));
    let why = match outcome {
        Ok(Ok(())) => return Ok(run.saw),
        Ok(Err(why)) => why,
        Err(_) => "a panic, see above".to_owned(),
    };
    let from = run.trace.len().saturating_sub(shown);
    let after = run.trace[from..].join("\n  ");
    Err(format!(
        "seed {seed}: {why}\nafter:\n  {after}\nagain: TRANSEPT_SEED={seed} cargo test -p transept-control --test simulation"
    ))
}

#[test]
fn a_mesh_in_a_storm_stays_safe_and_comes_together() {
    if let Some(seed) = number("TRANSEPT_SEED") {
        if let Err(why) = play(seed, SHOWN[0]) {
            panic!("{why}");
        }
        return;
    }
    let (next, count) = (AtomicU64::new(0), number("TRANSEPT_SEEDS").unwrap_or(SEEDS));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || -> Result<BTreeSet<&'static str>, String> {
        let mut saw = BTreeSet::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return Ok(saw);
            }
            // The others need not go on when one has failed.
            saw.extend(play(seed, SHOWN[1]).inspect_err(|_| next.store(count, Ordering::Relaxed))?);
        }
    };
    let outcomes: Vec<Result<_, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread has ended".to_owned())))
            .collect()
    });
    let mut saw = BTreeSet::new();
    for outcome in outcomes {
        saw.extend(outcome.unwrap_or_else(|why| panic!("{why}")));
    }
    let missing: Vec<_> = SIGHTS.iter().filter(|sight| !saw.contains(*sight)).collect();
    assert!(count < MANY || missing.is_empty(), "in {count} runs nobody has seen {missing:?}");
}
