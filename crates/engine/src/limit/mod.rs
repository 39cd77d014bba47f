//! What limits are made of: the arithmetic of buckets and windows, the memory of keys, and what clients are told.
//!
//! Used by the policies that limit (`policies/rate_limit.rs`, `policies/concurrency.rs`, `policies/quota.rs`). Everything here is told
//! the time; nothing waits and nothing is sent.

pub mod body_cost;
pub mod book;
pub(crate) mod bucket;
pub(crate) mod charge;
pub(crate) mod cost;
pub(crate) mod fields;
pub mod inquiry;
pub(crate) mod key;
pub(crate) mod lease;
pub(crate) mod ledger;
pub(crate) mod period;
pub(crate) mod places;
pub(crate) mod plans;
pub(crate) mod repeats;
pub(crate) mod scan;
pub(crate) mod service;
pub(crate) mod shared;
pub mod store;
pub(crate) mod table;
pub(crate) mod touched;
pub(crate) mod unreached;
pub(crate) mod window;

use std::time::Duration;

use transept_model::choice;

use crate::policies::Phase;

choice! {
    /// When limits are looked at.
    pub enum Stage {
        /// Before anybody is asked who he is: for limits by address, which failed attempts to authenticate count against too.
        BeforeAuthentication = "BeforeAuthentication",
        /// When it is known who asks and that he may.
        AfterAuthorization = "AfterAuthorization",
    }
}

impl Stage {
    /// The phase that it is.
    pub(crate) fn phase(self) -> Phase {
        match self {
            Stage::BeforeAuthentication => Phase::Guard,
            Stage::AfterAuthorization => Phase::Limit,
        }
    }
}

/// What is remembered of one key. What the halves mean is the algorithm's business; zero is a key that has never been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) first: u64,
    pub(crate) second: u64,
}

/// How a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// A token bucket.
    Bucket(bucket::Bucket),
    /// A sliding window.
    Window(window::Window),
}

/// How much of a limit is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// What may be used now; below zero when more was used than was there.
    pub(crate) left: i64,
    /// When it is as it was at the beginning.
    pub(crate) full_in: Duration,
}

impl Algorithm {
    /// The cell after a charge, or how long to wait until there is room for it. `now` and all times are in nanoseconds of one clock.
    pub(crate) fn charge(&self, cell: Cell, now: u64, cost: u32) -> Result<Cell, Duration> {
        match self {
            Algorithm::Bucket(bucket) => bucket.charge(cell, now, cost),
            Algorithm::Window(window) => window.charge(cell, now, cost),
        }
    }

    /// The cell after a charge that is made in any case, and may leave less than nothing.
    pub(crate) fn debit(&self, cell: Cell, now: u64, cost: u32) -> Cell {
        match self {
            Algorithm::Bucket(bucket) => bucket.debit(cell, now, cost),
            Algorithm::Window(window) => window.debit(cell, now, cost),
        }
    }

    /// The cell after a charge is taken back.
    pub(crate) fn refund(&self, cell: Cell, now: u64, cost: u32) -> Cell {
        match self {
            Algorithm::Bucket(bucket) => bucket.refund(cell, cost),
            Algorithm::Window(window) => window.refund(cell, now, cost),
        }
    }

    /// How much is left.
    pub(crate) fn standing(&self, cell: Cell, now: u64) -> Standing {
        match self {
            Algorithm::Bucket(bucket) => bucket.standing(cell, now),
            Algorithm::Window(window) => window.standing(cell, now),
        }
    }

    /// The share of the limit that is used, in parts of [`WHOLE`]; more than that with a debt, and zero when the cell may as well be forgotten.
    pub(crate) fn share(&self, cell: Cell, now: u64) -> u64 {
        match self {
            Algorithm::Bucket(bucket) => bucket.share(cell, now),
            Algorithm::Window(window) => window.share(cell, now),
        }
    }

    /// What a cell that another algorithm has counted is worth here: who has used half has used half.
    pub(crate) fn take_over(&self, cell: Cell, from: &Algorithm, now: u64) -> Cell {
        match (self, from) {
            // It means the same: when it is full.
            (Algorithm::Bucket(one), Algorithm::Bucket(other)) if one.fills_as(other) => cell,
            // What came when stays, as a part of what fits.
            (Algorithm::Window(one), Algorithm::Window(other)) if one.length == other.length => {
                one.rescale(cell, other)
            }
            // A share is rounded up; what is more than it by less than a token must not cost one.
            _ => match (from.share(cell, now).checked_sub(1), self) {
                (None, _) => Cell::default(),
                (Some(share), Algorithm::Bucket(bucket)) => bucket.with_share(share, now),
                (Some(share), Algorithm::Window(window)) => window.with_share(share, now),
            },
        }
    }

    /// The share of one of so many proxies.
    pub(crate) fn divided(self, proxies: u32) -> Algorithm {
        match self {
            Algorithm::Bucket(bucket) => Algorithm::Bucket(bucket.divided(proxies)),
            Algorithm::Window(window) => Algorithm::Window(window.divided(proxies)),
        }
    }

    /// Among how many proxies it is divided.
    pub(crate) fn proxies(&self) -> u32 {
        match self {
            Algorithm::Bucket(bucket) => bucket.proxies(),
            Algorithm::Window(window) => window.proxies,
        }
    }

    /// What can be used at once, after a long time without use.
    pub(crate) fn capacity(&self) -> u32 {
        match self {
            Algorithm::Bucket(bucket) => bucket.capacity(),
            Algorithm::Window(window) => window.most,
        }
    }

    /// The time in which that much can be used again and again.
    pub(crate) fn period(&self) -> Duration {
        match self {
            Algorithm::Bucket(bucket) => bucket.fills_in(),
            Algorithm::Window(window) => Duration::from_nanos(window.length),
        }
    }
}

/// The part of a name under which the cells of a limit are kept.
pub(crate) fn kept_as(limit: &str) -> String {
    format!("limit {limit}")
}

/// All of a limit, in the parts that shares are told in.
pub(crate) const WHOLE: u64 = 1 << 32;

/// Nanoseconds, as far as they go: 584 years.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Whole seconds, rounded up: a client that waits them has waited long enough. Less than a microsecond is what rates like seven a minute have
/// been rounded by, and no time to wait.
pub(crate) fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_micros() > 0)
}
