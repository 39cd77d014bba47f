//! Discovery in a storm: proxies and two control planes over connections that break, seed by seed.
//!
//! A failing seed says how to play it again: `TRANSEPT_SEED=n` plays one and shows its last events, `TRANSEPT_SEEDS=n` sets how many
//! are played.

mod dice;
mod plane;
mod proxy;
mod run;
mod truth;

use run::{Mode, Run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn play(mode: Mode, name: &str) {
    let one = number("TRANSEPT_SEED");
    let count = number("TRANSEPT_SEEDS").unwrap_or(1500);
    let seeds = one.map_or(0..count, |seed| seed..seed + 1);
    for seed in seeds {
        let mut run = Run::new(seed, mode);
        if let Err(why) = run.play() {
            let shown = if one.is_some() { 80 } else { 5 };
            let from = run.trace.len().saturating_sub(shown);
            panic!(
                "seed {seed}: {why}\nafter:\n  {}\nagain: TRANSEPT_SEED={seed} cargo test -p transept-xds --test simulation {name}",
                run.trace[from..].join("\n  "),
            );
        }
    }
}

#[test]
fn everything_at_once_comes_together() {
    play(Mode::Wild, "everything_at_once_comes_together");
}

#[test]
fn a_route_is_never_without_its_service() {
    play(Mode::Gentle, "a_route_is_never_without_its_service");
}
