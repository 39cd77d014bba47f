//! Among how many proxies a limit is divided: those that hold its policy and are connected.
//!
//! Held by `core`, which sends each policy with the number and stores it. Pure: time arrives as an argument, counted from the start. Their number
//! grows at once, and falls only when a proxy has been away for [`LEASE`]: a proxy that restarts, or a control plane that does, gives nobody a
//! larger share for the moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use transept_model::kinds::TRANSEPT_GROUP;
use transept_xds::{Key, TypeUrl};

use super::registry::LEASE;
use super::source::Kinds;

/// The kind of policies that can be divided.
const KIND: &str = "RateLimitPolicy";

/// The type of the policies that can be divided.
pub(super) fn dividable(kinds: &Kinds) -> Option<TypeUrl> {
    kinds.type_of(TRANSEPT_GROUP, KIND)
}

/// The policies among objects whose limits are divided among proxies.
pub(super) fn divided(objects: &[Value], kinds: &Kinds) -> BTreeMap<Key, Value> {
    let shares = |object: &&Value| object["kind"] == KIND && object["spec"]["perProxy"] == "Share";
    objects.iter().filter(shares).filter_map(|object| Some((kinds.key(object)?, object.clone()))).collect()
}

/// Who holds which policies.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// By proxy: what it holds, and since when it is away.
    proxies: BTreeMap<String, Holder>,
    /// What was told before this process began. Holds until those who were there have had the time to return.
    before: BTreeMap<String, u32>,
    /// What was told last.
    told: BTreeMap<String, u32>,
}

#[derive(Debug)]
struct Holder {
    policies: BTreeSet<Key>,
    away: Option<Duration>,
}

impl Sharing {
    /// With the numbers that were stored.
    pub(super) fn restore(told: BTreeMap<String, u32>) -> Sharing {
        Sharing { proxies: BTreeMap::new(), before: told.clone(), told }
    }

    /// Notes which policies a connected proxy holds. Says whether that is news.
    pub(super) fn hold(&mut self, proxy: &str, policies: BTreeSet<Key>) -> bool {
        if policies.is_empty() {
            return self.proxies.remove(proxy).is_some();
        }
        let known = self.proxies.get(proxy).map(|holder| &holder.policies);
        let is_news = known != Some(&policies);
        self.proxies.insert(proxy.to_owned(), Holder { policies, away: None });
        is_news
    }

    /// Notes that a proxy is away.
    pub(super) fn depart(&mut self, proxy: &str, now: Duration) {
        if let Some(holder) = self.proxies.get_mut(proxy) {
            holder.away.get_or_insert(now);
        }
    }

    /// Forgets who has been away for too long. Says whether that changes anything.
    pub(super) fn sweep(&mut self, now: Duration) -> bool {
        let count = self.proxies.len();
        self.proxies.retain(|_, holder| holder.away.is_none_or(|since| now < since + LEASE));
        let mut changed = self.proxies.len() != count;
        if now >= LEASE && !self.before.is_empty() {
            self.before.clear();
            changed = true;
        }
        changed
    }

    /// Among how many a policy is divided; `residents` hold every policy.
    pub(super) fn number(&self, key: &Key, residents: usize) -> u32 {
        let holders = self.proxies.values().filter(|holder| holder.policies.contains(key)).count() + residents;
        let before = self.before.get(&key.to_string()).copied().unwrap_or_default();
        u32::try_from(holders).unwrap_or(u32::MAX).max(before).max(1)
    }

    /// The numbers that were told last, by key.
    pub(super) fn told(&self) -> &BTreeMap<String, u32> {
        &self.told
    }

    /// Notes the numbers that are told from now on.
    pub(super) fn tell(&mut self, told: BTreeMap<String, u32>) {
        self.told = told;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(name: &str) -> Key {
        Key::new(&dividable(&Kinds::default()).expect("it travels"), name)
    }

    fn holds(names: &[&str]) -> BTreeSet<Key> {
        names.iter().map(|name| key(name)).collect()
    }

    #[test]
    fn the_number_grows_at_once_and_falls_when_a_proxy_stays_away() {
        let mut sharing = Sharing::default();
        assert_eq!(sharing.number(&key("shop/a"), 0), 1, "nobody divides by nothing");
        assert!(sharing.hold("one", holds(&["shop/a"])));
        assert!(!sharing.hold("one", holds(&["shop/a"])));
        assert!(sharing.hold("two", holds(&["shop/a", "shop/b"])));
        assert_eq!((sharing.number(&key("shop/a"), 0), sharing.number(&key("shop/b"), 1)), (2, 2));
        sharing.depart("one", 10 * SECOND);
        sharing.depart("one", 20 * SECOND);
        assert!(!sharing.sweep(39 * SECOND));
        assert_eq!(sharing.number(&key("shop/a"), 0), 2, "it may be back soon");
        assert!(sharing.sweep(40 * SECOND));
        assert_eq!(sharing.number(&key("shop/a"), 0), 1);
    }

    #[test]
    fn a_proxy_that_returns_was_never_away_and_one_that_lets_go_is() {
        let mut sharing = Sharing::default();
        sharing.hold("one", holds(&["shop/a"]));
        sharing.hold("two", holds(&["shop/a"]));
        sharing.depart("one", SECOND);
        assert!(!sharing.hold("one", holds(&["shop/a"])));
        assert!(!sharing.sweep(100 * SECOND));
        assert_eq!(sharing.number(&key("shop/a"), 0), 2);
        assert!(sharing.hold("one", holds(&[])));
        assert_eq!(sharing.number(&key("shop/a"), 0), 1);
    }

    #[test]
    fn what_was_told_before_a_restart_holds_until_all_may_have_returned() {
        let told = BTreeMap::from([(key("shop/a").to_string(), 3)]);
        let mut sharing = Sharing::restore(told);
        sharing.hold("one", holds(&["shop/a"]));
        assert!(!sharing.sweep(29 * SECOND));
        assert_eq!(sharing.number(&key("shop/a"), 0), 3);
        for proxy in ["two", "three", "four"] {
            sharing.hold(proxy, holds(&["shop/a"]));
        }
        assert_eq!(sharing.number(&key("shop/a"), 0), 4);
        sharing.hold("four", holds(&[]));
        sharing.hold("three", holds(&[]));
        assert!(sharing.sweep(30 * SECOND) && !sharing.sweep(31 * SECOND));
        assert_eq!(sharing.number(&key("shop/a"), 0), 2);
    }
}
