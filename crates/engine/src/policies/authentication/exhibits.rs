//! What a request shows as credentials, by where it stands, and which schemes read it.
//!
//! Asked for by `decide`, so that what one scheme finds no good is held against nobody where another one knows the very same thing.

use smallvec::SmallVec;
use transept_wire::head::{NameRef, Request};

use super::Named;
use crate::exchange::Exchange;

/// Where a credential stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exhibit<'x> {
    /// In this line of the head.
    Line(usize),
    /// In the parameter of the query with this name.
    Parameter(&'x str),
    /// In the cookie with this name.
    Cookie(&'x str),
    /// In the fields of RFC 9421: that there is a signature, and the one that is chosen, by its number.
    Signature(Option<usize>),
    /// In the handshake of the connection.
    Certificate,
}

/// The lines of a head that are of a kind, each as an exhibit.
pub(super) fn add_lines<'x>(
    request: &Request,
    is_one: impl Fn(NameRef<'_>, &[u8]) -> bool,
    add: &mut dyn FnMut(Exhibit<'x>),
) {
    let lines = request.fields.iter().enumerate().filter(|(_, (name, value))| is_one(*name, value));
    lines.for_each(|(line, _)| add(Exhibit::Line(line)));
}

/// A set of what a request shows.
pub(super) type Shown = u64;

/// What is beyond this many counts as one thing, which nobody knows.
const MOST: usize = 63;
pub(super) const BEYOND: Shown = 1 << MOST;

/// What each scheme reads, by its position.
#[derive(Debug)]
pub(super) struct Exhibits(SmallVec<[Shown; 4]>);

impl Exhibits {
    pub(super) fn of(schemes: &[Named], x: &Exchange<'_>) -> Exhibits {
        let mut all: SmallVec<[Exhibit<'_>; 8]> = SmallVec::new();
        let read = |named| {
            let mut read = 0;
            let named: &Named = named;
            named.scheme.exhibits(x, &mut |exhibit| {
                let known = all.iter().position(|other| *other == exhibit);
                let index = known.unwrap_or(all.len());
                if known.is_none() && index < MOST {
                    all.push(exhibit);
                }
                read |= 1 << index.min(MOST);
            });
            read
        };
        Exhibits(schemes.iter().map(read).collect())
    }

    /// What a scheme reads.
    pub(super) fn read_by(&self, scheme: usize) -> Shown {
        self.0.get(scheme).copied().unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn new(read: &[Shown]) -> Exhibits {
        Exhibits(read.into())
    }
}
