//! Tests of the table: what is remembered, what is forgotten, and for whom.

use std::sync::Arc;
use std::time::Duration;

use super::super::bucket::Bucket;
use super::super::window::Window;
use super::*;
use crate::exchange::draw;

const SECOND: u64 = 1_000_000_000;

fn ten_a_minute() -> Algorithm {
    Algorithm::Bucket(Bucket::new(10, Duration::from_secs(60), 10).expect("a bucket"))
}

/// A table of a limit with so many keys.
struct Kept {
    table: Table,
    keys: usize,
}

impl std::ops::Deref for Kept {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.table
    }
}

fn kept(keys: usize) -> Kept {
    Kept { table: Table::new(), keys }
}

/// Takes one; false when there is none left.
fn take(table: &Kept, algorithm: &Algorithm, hash: u64, now: u64) -> bool {
    take_some(table, algorithm, hash, now, 1)
}

fn take_some(table: &Kept, algorithm: &Algorithm, hash: u64, now: u64, cost: u32) -> bool {
    let mut held = table.hold(hash, &table.terms(*algorithm, table.keys), now);
    match held.algorithm.charge(held.cell(), now, cost) {
        Ok(cell) => {
            held.put(cell);
            true
        }
        Err(_) => false,
    }
}

/// Somebody who stops before he has spent all, and a flood of others, again and again: how often he passes.
fn passed_among_floods(algorithm: &Algorithm, cost: u32, stops_at: u32) -> u32 {
    let table = kept(1_024);
    let mut passed = 0;
    for round in 0..5 {
        let mut now = (1 + round) * SECOND;
        let mut own = 0;
        while own < stops_at && take_some(&table, algorithm, draw(7, 1), now, cost) {
            own += cost;
        }
        passed += own / cost;
        for flood in 0..20_000 {
            now += 10_000;
            take_some(&table, algorithm, draw(8, round * 20_000 + flood), now, cost);
        }
    }
    passed
}

#[test]
fn a_flood_resets_nobody_whatever_the_algorithm_and_the_cost() {
    let hour = Duration::from_secs(3_600);
    let bucket = Algorithm::Bucket(Bucket::new(10, hour, 10).expect("a bucket"));
    let window = Algorithm::Window(Window::new(10, hour));
    for algorithm in [bucket, window] {
        assert!(passed_among_floods(&algorithm, 1, 9) <= 10, "{algorithm:?}: nine of ten are used before each flood");
        assert_eq!(passed_among_floods(&algorithm, 6, 10), 1, "{algorithm:?}: there is room for one that costs six");
    }
}

#[test]
fn new_keys_find_room_after_a_flood_whatever_they_cost() {
    let hour = Duration::from_secs(3_600);
    let bucket = Algorithm::Bucket(Bucket::new(10, hour, 10).expect("a bucket"));
    let window = Algorithm::Window(Window::new(10, hour));
    for algorithm in [bucket, window] {
        for (each, cost) in [(1, 10), (1, 1), (5, 10), (5, 5)] {
            let table = kept(1_024);
            for flood in 0..20_000 {
                take_some(&table, &algorithm, draw(8, flood), SECOND, each);
            }
            let passed = (0..200).filter(|new| take_some(&table, &algorithm, draw(9, *new), SECOND, cost)).count();
            assert_eq!(passed, 200, "{algorithm:?}: a flood of keys that use {each}, then new ones that use {cost}");
        }
    }
}

#[test]
fn terms_that_nobody_brings_change_nothing() {
    let (table, limit) = (kept(100_000), ten_a_minute());
    let running = table.terms(limit, 100_000);
    for key in 0..3_000 {
        assert!(take(&table, &limit, draw(1, key), SECOND));
    }
    // A configuration that is looked at and refused.
    table.terms(Algorithm::Window(Window::new(3, Duration::from_secs(5))), 1_000);
    for key in 0..6_000 {
        let mut held = table.hold(draw(2, key), &running, SECOND);
        let cell = held.algorithm.charge(held.cell(), SECOND, 1).expect("room");
        held.put(cell);
    }
    assert_eq!((table.size().0, table.forgotten()), (9_000, 0));
}

#[test]
fn who_has_spent_his_limit_has_spent_it_after_a_change_too() {
    let bucket = |requests, seconds, burst| {
        Algorithm::Bucket(Bucket::new(requests, Duration::from_secs(seconds), burst).expect("a bucket"))
    };
    let window = |most, seconds| Algorithm::Window(Window::new(most, Duration::from_secs(seconds)));
    let buckets = [bucket(5, 60, 5), bucket(5, 60, 6), bucket(6, 60, 6), bucket(5, 120, 5)];
    let all = buckets.into_iter().chain([window(5, 60), window(6, 60), window(6, 90)]).collect::<Vec<_>>();
    for &before in &all {
        for &after in &all {
            let table = kept(1_000);
            while take(&table, &before, 7, SECOND) {}
            assert!(take(&table, &before, 8, SECOND));
            assert_eq!(table.look(&[], SECOND).map(|(_, algorithm)| algorithm), Some(before));
            let left = (0..20).filter(|_| take(&table, &after, 8, SECOND)).count();
            assert!((4..=5).contains(&left), "{before:?} to {after:?}: {left}");
            assert!(!take(&table, &after, 7, SECOND), "{before:?} to {after:?}");
            // A request of the configuration before counts as the new one does.
            let old = Terms { algorithm: before, most: 2, edition: 0 };
            assert_eq!(table.hold(7, &old, SECOND).algorithm, after);
            assert!(!take(&table, &before, 7, SECOND), "and back");
        }
    }
}

#[test]
fn keys_are_counted_each_by_itself() {
    let (table, limit) = (kept(100_000), ten_a_minute());
    for key in 0..1_000 {
        let admitted = (0..15).filter(|_| take(&table, &limit, draw(1, key), SECOND)).count();
        assert_eq!(admitted, 10);
    }
    assert_eq!(table.size().0, 1_000);
}

#[test]
fn a_flood_of_keys_does_not_reset_those_that_have_nothing_left() {
    let (table, limit) = (kept(4_096), ten_a_minute());
    let spent: Vec<u64> = (0..200).map(|n| draw(7, n)).collect();
    for hash in &spent {
        while take(&table, &limit, *hash, SECOND) {}
    }
    for flood in 0..500_000 {
        take(&table, &limit, draw(8, flood), SECOND);
    }
    for hash in &spent {
        assert!(!take(&table, &limit, *hash, SECOND), "a spent key was forgotten");
    }
    assert!(table.forgotten() > 400_000);
    let (keys, bytes) = table.size();
    assert!(keys <= 4_096 && bytes <= 4_096 * 24, "{keys} keys in {bytes} bytes");
}

#[test]
fn where_everything_is_spent_new_keys_share_what_there_is_for_one() {
    let (table, limit) = (kept(1), ten_a_minute());
    // All in the first shard, whose one group has eight places.
    for hash in 1..=8 {
        while take(&table, &limit, hash, SECOND) {}
    }
    let admitted = (100..200).filter(|hash| take(&table, &limit, *hash, SECOND)).count();
    assert_eq!(admitted, 10);
    // A minute later the places are free again.
    let admitted = (200..208).filter(|hash| take(&table, &limit, *hash, 62 * SECOND)).count();
    assert_eq!(admitted, 8);
    assert_eq!(table.forgotten(), 0);
}

#[test]
fn what_has_refilled_makes_room_and_memory_is_given_back() {
    let (table, limit) = (kept(1_000_000), ten_a_minute());
    for key in 0..100_000 {
        take(&table, &limit, draw(3, key), SECOND);
    }
    let (_, flooded) = table.size();
    let later = 600 * SECOND;
    for key in 0..100_000 {
        // Few keys, again and again new ones: each has refilled when the next comes.
        take(&table, &limit, draw(4, key), later + key * 6 * SECOND);
    }
    let (keys, bytes) = table.size();
    assert_eq!(table.forgotten(), 0);
    assert!(bytes * 8 < flooded, "{keys} keys in {bytes} bytes, {flooded} before");
}

#[test]
fn workers_together_admit_what_one_would() {
    let (table, limit) = (Arc::new(kept(1_000)), ten_a_minute());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let table = Arc::clone(&table);
            std::thread::spawn(move || (0..2_000u64).filter(|n| take(&table, &limit, draw(5, n % 20), SECOND)).count())
        })
        .collect();
    let admitted: usize = threads.into_iter().map(|thread| thread.join().expect("a thread")).sum();
    assert_eq!(admitted, 20 * 10);
}
