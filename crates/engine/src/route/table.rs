//! The routes of one listener, indexed so that the hundred-thousandth costs what the tenth costs.
//!
//! A lookup takes the patterns that fit the host, most specific first; of each it asks for the exact path, then the regular
//! expressions, then the prefixes from the longest to `/`; and in each of these it tries the few candidates in the order of
//! precedence. The order is that of the standard (Gateway API `HTTPRouteRule.matches`): exact path, longest prefix, method, number of
//! headers, number of query parameters, oldest route, name, first rule. The host comes first of all, and a wider host is only asked
//! when no rule of the narrower one matches: precedence is given to the *rules* of the route with the longer hostname, so rules of
//! the others still count. Regular expressions stand between exact paths and prefixes; the standard leaves that open.
//!
//! Built by `compile/routes.rs`, asked by `route`. No allocation per lookup.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use transept_wire::head::Request;

use super::Routed;
use super::hosts::Hosts;
use super::predicates::{Lost, Predicates, Preflights};
use crate::explain::Trace;
use crate::rule::Rule;

/// Where in the precedence of paths a match stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathKey {
    /// The whole path.
    Exact(Box<[u8]>),
    /// Decided by [`Predicates::path`].
    Pattern,
    /// Whole segments at the start of the path; without the trailing slash, so `/` is empty.
    Prefix(Box<[u8]>),
}

impl PathKey {
    /// A prefix as written: a trailing slash means nothing.
    pub fn prefix(written: &[u8]) -> PathKey {
        let mut bytes = written;
        while let Some(shorter) = bytes.strip_suffix(b"/") {
            bytes = shorter;
        }
        PathKey::Prefix(bytes.into())
    }
}

/// One match of one rule under one hostname, on its way into a table.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The hostname pattern, lower-case; empty for any.
    pub hostname: Arc<str>,
    /// The path.
    pub path: PathKey,
    /// Specificity among entries with one path, before all else: of a gRPC match the characters of service and method.
    pub specificity: (u32, u32),
    /// Everything else that is asked.
    pub predicates: Arc<Predicates>,
    /// The rule.
    pub rule: Arc<Rule>,
    /// Position of the route among the routes of the listener: oldest first, then by name.
    pub order: u32,
    /// Position of the match in the rule.
    pub index: u16,
}

/// The routes of one listener.
#[derive(Debug, Default)]
pub struct RouteTable {
    hosts: Hosts,
    per_host: Vec<PerHost>,
    exact: Index,
    prefix: Index,
    /// All paths of `exact` and `prefix`, each once.
    paths: Vec<u8>,
    candidates: Vec<Candidate>,
    rules: Vec<Arc<Rule>>,
    predicates: Vec<Arc<Predicates>>,
}

#[derive(Debug)]
struct PerHost {
    pattern: Arc<str>,
    /// The lengths of prefixes that exist under this host, longest first. A path is only hashed at these.
    lengths: Box<[u16]>,
    patterns: Range<u32>,
}

#[derive(Debug, Default)]
struct Index {
    slots: HashTable<Slot>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Slot {
    host: u32,
    path: Piece,
    candidates: Range<u32>,
}

/// A piece of [`RouteTable::paths`].
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: u32,
    length: u32,
}

impl Piece {
    fn of(self, paths: &[u8]) -> &[u8] {
        let start = self.start as usize;
        paths.get(start..start + self.length as usize).unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    rule: u32,
    predicates: u32,
    index: u16,
    preflights: Preflights,
}

/// In [`Candidate::predicates`]: there are none.
const NONE: u32 = u32::MAX;

impl Index {
    fn hash(&self, host: u32, path: &[u8]) -> u64 {
        self.hasher.hash_one((host, path))
    }

    fn find(&self, host: u32, path: &[u8], paths: &[u8]) -> Option<Range<u32>> {
        if self.slots.is_empty() {
            return None;
        }
        self.slots
            .find(self.hash(host, path), |slot| slot.host == host && slot.path.of(paths) == path)
            .map(|slot| slot.candidates.clone())
    }

    fn insert(&mut self, slot: Slot, paths: &[u8]) {
        let hash = self.hash(slot.host, slot.path.of(paths));
        let Index { slots, hasher } = self;
        slots.insert_unique(hash, slot, |slot| hasher.hash_one((slot.host, slot.path.of(paths))));
    }
}

impl RouteTable {
    /// Builds the table. The order of the entries does not matter.
    pub fn new(entries: Vec<Entry>) -> RouteTable {
        let mut table = RouteTable::default();
        let hosts: Vec<u32> = entries.iter().map(|entry| table.host(&entry.hostname)).collect();
        let mut placed: Vec<(u32, &Entry)> = hosts.into_iter().zip(&entries).collect();
        // What is still equal then stands for the same.
        placed.sort_unstable_by(|(host, a), (other, b)| {
            host.cmp(other).then_with(|| a.path.cmp(&b.path)).then_with(|| precedence(a).cmp(&precedence(b)))
        });
        table.reserve(&placed);
        let mut pieces = HashMap::new();
        for same in placed.chunk_by(|(host, a), (other, b)| host == other && a.path == b.path) {
            let start = table.candidates.len() as u32;
            for (_, entry) in same {
                table.push(entry);
            }
            if let Some((host, entry)) = same.first() {
                table.place(*host, &entry.path, start..table.candidates.len() as u32, &mut pieces);
            }
        }
        for host in &mut table.per_host {
            // Sorting is by bytes; the lookup wants lengths, longest first.
            let mut lengths = std::mem::take(&mut host.lengths).into_vec();
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
            host.lengths = lengths.into_boxed_slice();
        }
        table.per_host.shrink_to_fit();
        table.paths.shrink_to_fit();
        table.rules.shrink_to_fit();
        table.predicates.shrink_to_fit();
        table
    }

    /// Makes room for what is coming, so that nothing is moved and nothing is left over.
    fn reserve(&mut self, placed: &[(u32, &Entry)]) {
        let paths = || placed.chunk_by(|(host, a), (other, b)| host == other && a.path == b.path);
        let exact = paths().filter(|same| matches!(same.first(), Some((_, Entry { path: PathKey::Exact(_), .. }))));
        let prefix = paths().filter(|same| matches!(same.first(), Some((_, Entry { path: PathKey::Prefix(_), .. }))));
        self.exact.slots = HashTable::with_capacity(exact.count());
        self.prefix.slots = HashTable::with_capacity(prefix.count());
        self.candidates.reserve_exact(placed.len());
    }

    fn host(&mut self, pattern: &Arc<str>) -> u32 {
        let next = self.per_host.len() as u32;
        let id = self.hosts.insert(pattern, next);
        if id == next {
            self.per_host.push(PerHost { pattern: Arc::clone(pattern), lengths: Box::default(), patterns: 0..0 });
        }
        id
    }

    fn push(&mut self, entry: &Entry) {
        let rule = match self.rules.last() {
            Some(last) if Arc::ptr_eq(last, &entry.rule) => self.rules.len() - 1,
            _ => {
                self.rules.push(Arc::clone(&entry.rule));
                self.rules.len() - 1
            }
        } as u32;
        let preflights =
            if entry.rule.filters.answers_preflights() { Preflights::Answered } else { Preflights::Ordinary };
        let predicates = if entry.predicates.is_empty() {
            NONE
        } else {
            self.predicates.push(Arc::clone(&entry.predicates));
            self.predicates.len() as u32 - 1
        };
        self.candidates.push(Candidate { rule, predicates, index: entry.index, preflights });
    }

    /// Enters the candidates for one path of one host; `pieces` are the paths that are in `paths` already.
    fn place<'e>(
        &mut self,
        host: u32,
        path: &'e PathKey,
        candidates: Range<u32>,
        pieces: &mut HashMap<&'e [u8], Piece>,
    ) {
        let mut piece = |path: &'e [u8]| {
            let paths = &mut self.paths;
            *pieces.entry(path).or_insert_with(|| {
                let start = paths.len() as u32;
                paths.extend_from_slice(path);
                Piece { start, length: path.len() as u32 }
            })
        };
        match path {
            PathKey::Exact(path) => {
                let path = piece(path);
                self.exact.insert(Slot { host, path, candidates }, &self.paths);
            }
            PathKey::Pattern => {
                if let Some(host) = self.per_host.get_mut(host as usize) {
                    host.patterns = candidates;
                }
            }
            PathKey::Prefix(path) => {
                let length = u16::try_from(path.len()).unwrap_or(u16::MAX);
                let path = piece(path);
                self.prefix.insert(Slot { host, path, candidates }, &self.paths);
                if let Some(host) = self.per_host.get_mut(host as usize) {
                    let mut lengths = std::mem::take(&mut host.lengths).into_vec();
                    if lengths.last() != Some(&length) {
                        lengths.push(length);
                    }
                    host.lengths = lengths.into_boxed_slice();
                }
            }
        }
    }

    /// The number of matches in the table, over all hosts.
    pub fn len(&self) -> usize {
        self.candidates.len()
    }

    /// Whether the table has no match at all.
    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// The rules in the table; a rule may come several times.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.iter()
    }

    /// Finds the rule for a request. `host` is lower-case, without port and trailing dot.
    pub(crate) fn find<'s, T: Trace>(&'s self, request: &Request, host: &str, trace: &mut T) -> Option<Routed<'s>> {
        self.hosts.find(host).find_map(|id| self.find_under(id, request, trace))
    }

    fn find_under<'s, T: Trace>(&'s self, id: u32, request: &Request, trace: &mut T) -> Option<Routed<'s>> {
        let host = self.per_host.get(id as usize)?;
        let path = request.path();
        if let Some(range) = self.exact.find(id, path, &self.paths)
            && let Some(routed) = self.first(range, request, path.len(), host, trace)
        {
            return Some(routed);
        }
        if !host.patterns.is_empty()
            && let Some(routed) = self.first(host.patterns.clone(), request, path.len(), host, trace)
        {
            return Some(routed);
        }
        for &length in &host.lengths {
            let length = usize::from(length);
            let whole_segments = match path.get(length) {
                Some(next) => *next == b'/' || length == 0,
                None => length == path.len(),
            };
            if whole_segments
                && let Some(prefix) = path.get(..length)
                && let Some(range) = self.prefix.find(id, prefix, &self.paths)
                && let Some(routed) = self.first(range, request, length, host, trace)
            {
                return Some(routed);
            }
        }
        None
    }

    fn first<'s, T: Trace>(
        &'s self,
        range: Range<u32>,
        request: &Request,
        prefix: usize,
        host: &'s PerHost,
        trace: &mut T,
    ) -> Option<Routed<'s>> {
        let candidates = self.candidates.get(range.start as usize..range.end as usize)?;
        for candidate in candidates {
            let rule = self.rules.get(candidate.rule as usize)?;
            let lost = self.lost(candidate, request);
            if T::ON {
                trace.candidate(rule, candidate.index, &host.pattern, lost);
            }
            if lost.is_none() {
                return Some(Routed {
                    rule,
                    matched_prefix: prefix,
                    hostname: &host.pattern,
                    match_index: candidate.index,
                });
            }
        }
        None
    }

    fn lost<'s>(&'s self, candidate: &Candidate, request: &Request) -> Option<Lost<'s>> {
        if candidate.predicates == NONE {
            return None;
        }
        self.predicates.get(candidate.predicates as usize)?.lost(request, candidate.preflights)
    }

    /// Every match in the table with what it asks; for explanations, not for traffic.
    pub(crate) fn survey(&self) -> Vec<Surveyed<'_>> {
        let exact = self
            .exact
            .slots
            .iter()
            .map(|slot| (slot.host, AskedPath::Exact(slot.path.of(&self.paths)), &slot.candidates));
        let prefix = self
            .prefix
            .slots
            .iter()
            .map(|slot| (slot.host, AskedPath::Prefix(slot.path.of(&self.paths)), &slot.candidates));
        let patterns = self.per_host.iter().enumerate();
        let patterns = patterns.map(|(id, host)| (id as u32, AskedPath::Pattern, &host.patterns));
        let mut found = Vec::with_capacity(self.candidates.len());
        for (host, path, range) in exact.chain(prefix).chain(patterns) {
            for at in range.clone() {
                if let Some(host) = self.per_host.get(host as usize)
                    && let Some(candidate) = self.candidates.get(at as usize)
                    && let Some(rule) = self.rules.get(candidate.rule as usize)
                {
                    found.push(Surveyed {
                        rule,
                        index: candidate.index,
                        hostname: &host.pattern,
                        path,
                        predicates: self.predicates.get(candidate.predicates as usize).map(|asked| &**asked),
                        preflights: candidate.preflights,
                    });
                }
            }
        }
        found
    }
}

/// One match of the table as an explanation looks at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surveyed<'s> {
    pub(crate) rule: &'s Arc<Rule>,
    pub(crate) index: u16,
    pub(crate) hostname: &'s str,
    pub(crate) path: AskedPath<'s>,
    pub(crate) predicates: Option<&'s Predicates>,
    pub(crate) preflights: Preflights,
}

/// The path that a match asks for, as the index holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AskedPath<'s> {
    Exact(&'s [u8]),
    Pattern,
    Prefix(&'s [u8]),
}

impl AskedPath<'_> {
    /// Whether a path fits; patterns are left to the predicates.
    pub(crate) fn fits(&self, path: &[u8]) -> bool {
        match self {
            AskedPath::Exact(asked) => path == *asked,
            AskedPath::Prefix(asked) => path
                .strip_prefix(*asked)
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')) || asked.is_empty()),
            AskedPath::Pattern => true,
        }
    }
}

impl std::fmt::Display for AskedPath<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AskedPath::Exact(path) => write!(out, "the path {}", path.escape_ascii()),
            AskedPath::Prefix(b"") => out.write_str("any path"),
            AskedPath::Prefix(path) => write!(out, "paths under {}", path.escape_ascii()),
            AskedPath::Pattern => out.write_str("a path pattern"),
        }
    }
}

/// The order among entries with one host and one path; smaller is tried first.
fn precedence(entry: &Entry) -> impl Ord + use<> {
    use std::cmp::Reverse;
    let pattern = match &entry.predicates.path {
        Some(super::predicates::PathTest::Pattern(pattern)) => pattern.as_str().len(),
        _ => 0,
    };
    (
        Reverse(pattern),
        Reverse(entry.specificity),
        Reverse(entry.predicates.method.is_some()),
        Reverse(entry.predicates.headers.len()),
        Reverse(entry.predicates.query.len()),
        entry.order,
        entry.rule.name.index,
        entry.index,
    )
}
