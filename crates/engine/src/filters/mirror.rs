//! `RequestMirror`: which copies of a request are sent.
//!
//! Asked by the proxy after `screen`. Sending the copies and dropping their answers is the proxy's work.

use std::sync::Arc;

use super::Filters;
use crate::exchange::{below, draw};
use crate::rule::BrokenRef;
use crate::snapshot::Backend;

/// One mirror.
#[derive(Debug)]
pub struct Mirror {
    /// Where the copies go; a broken reference takes none.
    pub target: Result<Arc<Backend>, BrokenRef>,
    /// Of `denominator` requests so many are copied.
    pub numerator: u32,
    /// See `numerator`; not zero.
    pub denominator: u32,
}

/// Keeps the draws of mirrors apart from those that other parts take from the same random number.
const FIRST_DRAW: u64 = 64;

impl Filters {
    /// The backends that get a copy of this request, each drawn by itself.
    pub fn mirrors(&self, random: u64) -> impl Iterator<Item = &Arc<Backend>> {
        self.mirrors.iter().enumerate().filter_map(move |(index, mirror)| {
            let chosen = mirror.numerator >= mirror.denominator
                || below(draw(random, FIRST_DRAW + index as u64), u64::from(mirror.denominator))
                    < u64::from(mirror.numerator);
            if chosen { mirror.target.as_ref().ok() } else { None }
        })
    }
}
