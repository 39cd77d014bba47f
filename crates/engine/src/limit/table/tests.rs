//! Tests of the table: what is remembered, what is forgotten, and for whom.

use std::sync::Arc;
use std::time::Duration;

use super::super::bucket::Bucket;
use super::*;
use crate::exchange::draw;

const SECOND: u64 = 1_000_000_000;

fn ten_a_minute() -> Algorithm {
    Algorithm::Bucket(Bucket::new(10, Duration::from_secs(60), 10).expect("a bucket"))
}

/// Takes one; false when there is none left.
fn take(table: &Table, algorithm: &Algorithm, hash: u64, now: u64) -> bool {
    let mut held = table.hold(hash, algorithm, now);
    match algorithm.charge(held.cell(), now, 1) {
        Ok(cell) => {
            held.put(cell, algorithm, now);
            true
        }
        Err(_) => false,
    }
}

#[test]
fn keys_are_counted_each_by_itself() {
    let (table, limit) = (Table::new(100_000), ten_a_minute());
    for key in 0..1_000 {
        let admitted = (0..15).filter(|_| take(&table, &limit, draw(1, key), SECOND)).count();
        assert_eq!(admitted, 10);
    }
    assert_eq!(table.size().0, 1_000);
}

#[test]
fn a_flood_of_keys_does_not_reset_those_that_have_nothing_left() {
    let (table, limit) = (Table::new(4_096), ten_a_minute());
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
    let (table, limit) = (Table::new(1), ten_a_minute());
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
    let (table, limit) = (Table::new(1_000_000), ten_a_minute());
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
    let (table, limit) = (Arc::new(Table::new(1_000)), ten_a_minute());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let table = Arc::clone(&table);
            std::thread::spawn(move || (0..2_000u64).filter(|n| take(&table, &limit, draw(5, n % 20), SECOND)).count())
        })
        .collect();
    let admitted: usize = threads.into_iter().map(|thread| thread.join().expect("a thread")).sum();
    assert_eq!(admitted, 20 * 10);
}
