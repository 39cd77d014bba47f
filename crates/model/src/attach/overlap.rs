//! Whether a host name pattern meets any of a set of patterns, without comparing it to each of them.
//!
//! Called by the attachment of routes, which must keep the names of HTTPRoutes and GRPCRoutes on one listener apart. It
//! knows nothing of routes.

use std::collections::HashSet;

use crate::hostname::Hostname;

/// A set of host name patterns that can tell whether another pattern has a host in common with one of them.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Some route takes every host.
    any: bool,
    exact: HashSet<Hostname>,
    /// The domains behind wildcards.
    wildcards: HashSet<Box<str>>,
    /// Every domain that some pattern of the set lies below.
    parents: HashSet<Box<str>>,
}

impl Names {
    /// Adds patterns; none at all means every host.
    pub(super) fn add(&mut self, names: &[Hostname]) {
        self.any |= names.is_empty();
        for name in names {
            let domain = name.wildcard_domain();
            for parent in parents_of(domain.unwrap_or(name.as_str())) {
                self.parents.insert(parent.into());
            }
            match domain {
                Some(domain) => {
                    self.wildcards.insert(domain.into());
                }
                None => {
                    self.exact.insert(name.clone());
                }
            }
        }
    }

    /// Whether one of `names` (none means every host) meets one of the set.
    pub(super) fn meet(&self, names: &[Hostname]) -> bool {
        if self.any {
            return true;
        }
        if names.is_empty() {
            return !self.exact.is_empty() || !self.wildcards.is_empty();
        }
        names.iter().any(|name| self.meets(name))
    }

    fn meets(&self, name: &Hostname) -> bool {
        match name.wildcard_domain() {
            None => self.exact.contains(name) || self.below_a_wildcard(name.as_str()),
            Some(domain) => {
                self.wildcards.contains(domain) || self.parents.contains(domain) || self.below_a_wildcard(domain)
            }
        }
    }

    fn below_a_wildcard(&self, name: &str) -> bool {
        parents_of(name).any(|parent| self.wildcards.contains(parent))
    }
}

/// `b.c` and `c` for `a.b.c`.
fn parents_of(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(name.split_once('.'), |(_, rest)| rest.split_once('.')).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<Hostname> {
        texts.iter().map(|t| Hostname::parse(t).unwrap()).collect()
    }

    #[test]
    fn it_agrees_with_comparing_each_pair() {
        let all = ["a.com", "b.a.com", "c.b.a.com", "*.a.com", "*.b.a.com", "*.com", "x.org", "*.x.org"];
        for one in all {
            let mut set = Names::default();
            set.add(&names(&[one]));
            assert!(set.meet(&[]), "{one} and every host");
            for other in all {
                let expected = names(&[one])[0].intersection(&names(&[other])[0]).is_some();
                assert_eq!(set.meet(&names(&[other])), expected, "{one} and {other}");
            }
        }
    }

    #[test]
    fn an_empty_set_meets_nothing_and_every_host_meets_all() {
        assert!(!Names::default().meet(&[]));
        assert!(!Names::default().meet(&names(&["a.com"])));
        let mut set = Names::default();
        set.add(&[]);
        assert!(set.meet(&names(&["a.com"])));
        assert!(set.meet(&[]));
    }
}
