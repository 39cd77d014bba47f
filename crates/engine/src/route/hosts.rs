//! An index from host names to numbers: exact names, wildcards, and "any", most specific first.
//!
//! Used twice: by a bind to choose its listener, and by a route table to find the routes of a host. The standard's order
//! (Gateway API, `HTTPRoute.spec.hostnames` and `Listener.hostname`): an exact name, then the wildcard with the longest suffix, then
//! no host name at all. `*` stands for one or more labels.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// Longer hosts are no DNS names (RFC 1035 section 2.3.4) and are not looked up, so that a long host costs nothing.
const LONGEST: usize = 255;

/// Host names, each with the number it was given when it was added.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    exact: HashMap<Box<str>, u32, RandomState>,
    wildcard: HashMap<Box<str>, u32, RandomState>,
    any: Option<u32>,
}

impl Hosts {
    /// Gives `pattern` the number `id`, unless it has one already; returns its number. The empty pattern and `*` stand for any host.
    /// Patterns are lower-case.
    pub fn insert(&mut self, pattern: &str, id: u32) -> u32 {
        if pattern.is_empty() || pattern == "*" {
            return *self.any.get_or_insert(id);
        }
        match pattern.strip_prefix("*.") {
            Some(suffix) => *self.wildcard.entry(suffix.into()).or_insert(id),
            None => *self.exact.entry(pattern.into()).or_insert(id),
        }
    }

    /// The number of the most specific pattern that fits `host`.
    pub fn best(&self, host: &str) -> Option<u32> {
        self.find(host).next()
    }

    /// The numbers of all patterns that fit `host`, most specific first.
    pub fn find<'a>(&'a self, host: &'a str) -> Fitting<'a> {
        let rest = if host.len() > LONGEST { "" } else { host };
        Fitting { hosts: self, rest, stage: Stage::Exact }
    }
}

/// The numbers of the patterns that fit a host. See [`Hosts::find`].
#[derive(Debug)]
pub struct Fitting<'a> {
    hosts: &'a Hosts,
    rest: &'a str,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Exact,
    Wildcard,
    Done,
}

impl Iterator for Fitting<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if matches!(self.stage, Stage::Exact) {
            self.stage = Stage::Wildcard;
            if !self.hosts.exact.is_empty()
                && let Some(id) = self.hosts.exact.get(self.rest)
            {
                return Some(*id);
            }
        }
        if matches!(self.stage, Stage::Wildcard) {
            if !self.hosts.wildcard.is_empty() {
                while let Some((first, suffix)) = self.rest.split_once('.') {
                    let whole_label = !first.is_empty();
                    self.rest = suffix;
                    if whole_label && let Some(id) = self.hosts.wildcard.get(suffix) {
                        return Some(*id);
                    }
                }
            }
            self.stage = Stage::Done;
            return self.hosts.any;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(patterns: &[&str]) -> Hosts {
        let mut hosts = Hosts::default();
        for (id, pattern) in patterns.iter().enumerate() {
            hosts.insert(pattern, id as u32);
        }
        hosts
    }

    #[test]
    fn most_specific_first_then_every_wider_one() {
        let hosts = hosts(&["", "*.com", "*.example.com", "a.example.com"]);
        assert_eq!(hosts.find("a.example.com").collect::<Vec<_>>(), [3, 2, 1, 0]);
        assert_eq!(hosts.find("x.y.example.com").collect::<Vec<_>>(), [2, 1, 0]);
        assert_eq!(hosts.find("example.com").collect::<Vec<_>>(), [1, 0]);
        assert_eq!(hosts.find("example.net").collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn a_wildcard_does_not_fit_its_apex() {
        let hosts = hosts(&["*.bar.com"]);
        assert_eq!(hosts.best("bar.com"), None);
        assert_eq!(hosts.best(".bar.com"), None);
        assert_eq!(hosts.best("foo.bar.com"), Some(0));
    }

    #[test]
    fn an_overlong_host_only_fits_any() {
        let long = format!("{}.com", "a".repeat(300));
        assert_eq!(hosts(&["*.com"]).best(&long), None);
        assert_eq!(hosts(&["*.com", "*"]).best(&long), Some(1));
    }

    #[test]
    fn the_first_number_of_a_pattern_stays() {
        let mut hosts = Hosts::default();
        assert_eq!(hosts.insert("a.b", 4), 4);
        assert_eq!(hosts.insert("a.b", 9), 4);
    }
}
