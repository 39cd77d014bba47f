//! What a configuration of 5,000 routes costs in memory, stage by stage: reading, attaching, compiling.
//!
//! Run by people (`cargo run -p transept-bench --bin footprint`); the profile makes no difference. Calls the very functions that the
//! gateway calls when it loads, and counts what the allocator hands out. What pages the allocator keeps, and what threads and
//! sockets need, is measured by scenario j of the other program of this package.
//!
//! Invariant: the counting allocator passes every call on to the system's with the same layout, and only adds up sizes.
#![allow(unsafe_code)]
#![allow(clippy::print_stdout)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

use anyhow::ensure;
use transept_engine::compile::compile;
use transept_engine::policies::MODEL_KINDS;
use transept_model::attach::{Settled, Surroundings, attach};
use transept_model::load;
use transept_model::place::SourceText;

const MIB: f64 = 1024.0 * 1024.0;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes in use now, and at most since the last row.
static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);
/// Pieces in use now.
static PIECES: AtomicIsize = AtomicIsize::new(0);

/// Adds up the sizes of all memory in use, rounded as jemalloc rounds them.
struct Counting;

fn account(size: usize, sign: isize) {
    let bytes = rounded(size) as isize * sign;
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PIECES.fetch_add(sign, Relaxed);
    PEAK.fetch_max(live, Relaxed);
}

/// The size class of jemalloc: multiples of 16, then four classes to each doubling.
fn rounded(size: usize) -> usize {
    if size <= 8 {
        return 8;
    }
    let step = if size <= 128 { 16 } else { (size - 1).ilog2().checked_sub(2).map_or(16, |power| 1 << power) };
    size.next_multiple_of(step)
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        account(layout.size(), 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        account(layout.size(), -1);
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        account(layout.size(), -1);
        account(size, 1);
        unsafe { System.realloc(memory, layout, size) }
    }
}

fn main() -> anyhow::Result<()> {
    // Few objects with many rules each, as scenario j has them, and one object for each rule, as most clusters have them.
    for (objects, rules) in [(500, 10), (5_000, 1)] {
        println!("{objects} HTTPRoutes with {rules} rules each\n");
        println!("| stage | MiB in use after it | MiB at most during it | pieces |\n|---|---|---|---|");
        measure(objects, rules)?;
        println!();
    }
    Ok(())
}

fn measure(objects: usize, rules: usize) -> anyhow::Result<()> {
    begin();
    let files = [SourceText::new("gateway.yaml", GATEWAY), SourceText::new("routes.yaml", routes(objects, rules))];
    report("texts");
    let loaded = load(&files, MODEL_KINDS);
    ensure!(loaded.invalid.is_empty(), "{}", loaded.invalid[0]);
    drop(files);
    report("load");
    let attached = attach(&loaded.world, &Surroundings::default());
    report("attach");
    let snapshot = compile(&loaded.world, &attached, None, 1).install();
    report("compile");
    let kept = (Settled::from(attached), loaded.world.past());
    drop(loaded);
    report("objects dropped");
    drop(kept);
    report("snapshot alone");
    drop(snapshot);
    report("nothing");
    Ok(())
}

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: bench}\nspec:\n  gatewayClassName: transept\n  \
                       listeners:\n  - {name: http, port: 80, protocol: HTTP}\n  - {name: h2, port: 81, protocol: HTTP}\n---\n\
                       apiVersion: transept.dev/v1alpha1\nkind: Backend\nmetadata: {name: plain}\nspec:\n  protocol: HTTP11\n  \
                       endpoints:\n  - {address: 127.0.0.1, port: 1}\n";

/// So many HTTPRoutes, each with a host of its own and so many rules.
fn routes(objects: usize, rules: usize) -> String {
    let mut text = String::new();
    for host in 0..objects {
        let _ = write!(
            text,
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: plain-{host}\nspec:\n  parentRefs:\n  \
             - name: bench\n    sectionName: http\n  hostnames: [h{host}.test]\n  rules:\n"
        );
        for prefix in 0..rules {
            let _ = writeln!(
                text,
                "  - matches:\n    - path:\n        type: PathPrefix\n        value: /p{prefix}\n    backendRefs:\n    \
                 - group: transept.dev\n      kind: Backend\n      name: plain"
            );
        }
    }
    text
}

/// What is in use already does not count.
fn begin() {
    LIVE.store(0, Relaxed);
    PEAK.store(0, Relaxed);
    PIECES.store(0, Relaxed);
}

/// Writes the row of a stage that has ended and begins the next.
fn report(stage: &str) {
    let live = LIVE.load(Relaxed);
    let peak = PEAK.swap(live, Relaxed);
    println!("| {stage} | {:.2} | {:.2} | {} |", live as f64 / MIB, peak as f64 / MIB, PIECES.load(Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_to_classes() {
        let sizes = [1, 8, 9, 16, 17, 128, 129, 160, 161, 256, 257, 320, 321, 4097];
        assert_eq!(sizes.map(rounded), [8, 8, 16, 16, 32, 128, 160, 160, 192, 256, 320, 320, 384, 5120]);
    }
}
