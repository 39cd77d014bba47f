//! What happens to the world: a log of changes, which both control planes follow at their own pace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;
use transept_xds::{Key, Resource, TypeUrl};

use crate::dice::Dice;

pub(crate) const NAMES: usize = 4;

pub(crate) fn service() -> TypeUrl {
    TypeUrl::of("", "v1", "Service")
}

pub(crate) fn slice() -> TypeUrl {
    TypeUrl::of("discovery.k8s.io", "v1", "EndpointSlice")
}

pub(crate) fn route() -> TypeUrl {
    TypeUrl::of("gateway.networking.k8s.io", "v1", "HTTPRoute")
}

pub(crate) fn fault() -> TypeUrl {
    TypeUrl::of("transept.dev", "v1alpha1", "FaultPolicy")
}

pub(crate) fn types() -> Vec<TypeUrl> {
    vec![service(), slice(), route(), fault()]
}

pub(crate) fn key(type_url: &TypeUrl, index: usize) -> Key {
    Key::new(type_url, &format!("shop/n{index}"))
}

/// A resource and what the run needs to know about it.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) key: Key,
    /// Whether proxies refuse it.
    pub(crate) bad: bool,
    pub(crate) joins: Vec<Key>,
    pub(crate) brings: Vec<Key>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) resource: Resource,
    pub(crate) version: String,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put(Box<Spec>),
    Remove(Key),
    Hide(usize, Key),
    Show(usize, Key),
}

/// The log, what it amounts to, and which version each key had from which position on.
#[derive(Default)]
pub(crate) struct Truth {
    pub(crate) ops: Vec<Op>,
    pub(crate) live: BTreeMap<Key, Spec>,
    pub(crate) hidden: BTreeSet<(usize, Key)>,
    pub(crate) history: BTreeMap<Key, Vec<(usize, Option<String>)>>,
}

impl Truth {
    pub(crate) fn push(&mut self, op: Op) {
        self.ops.push(op.clone());
        let at = self.ops.len();
        match op {
            Op::Put(spec) => {
                let version = Some(spec.version.clone());
                self.history.entry(spec.key.clone()).or_default().push((at, version));
                self.live.insert(spec.key.clone(), *spec);
            }
            Op::Remove(key) => {
                self.live.remove(&key);
                self.history.entry(key).or_default().push((at, None));
            }
            Op::Hide(viewer, key) => {
                self.hidden.insert((viewer, key));
            }
            Op::Show(viewer, key) => {
                self.hidden.remove(&(viewer, key));
            }
        }
    }

    /// A change that may be anything.
    pub(crate) fn wild(&mut self, dice: &mut Dice, viewers: usize) {
        let type_url = dice.pick(&types()).expect("types");
        let key = key(&type_url, dice.below(NAMES));
        let op = match dice.below(10) {
            0 | 1 => Op::Remove(key),
            2 => Op::Hide(dice.below(viewers), key),
            3 => Op::Show(dice.below(viewers), key),
            _ => {
                let bad = dice.chance(12);
                Op::Put(Box::new(self.spec(dice, key, bad)))
            }
        };
        self.push(op);
    }

    /// A change that never leaves a route without its service.
    pub(crate) fn gentle(&mut self, dice: &mut Dice) {
        let type_url = dice.pick(&types()).expect("types");
        let key = key(&type_url, dice.below(NAMES));
        let used = |key: &Key| self.live.values().any(|spec| spec.brings.contains(key));
        if dice.chance(30) {
            if !used(&key) {
                self.push(Op::Remove(key));
            }
            return;
        }
        let spec = self.spec(dice, key, false);
        if spec.brings.iter().all(|key| self.live.contains_key(key)) {
            self.push(Op::Put(Box::new(spec)));
        }
    }

    fn spec(&self, dice: &mut Dice, key: Key, bad: bool) -> Spec {
        let index: usize = key.name.trim_start_matches("shop/n").parse().expect("a number");
        let other = |dice: &mut Dice| crate::truth::key(&service(), dice.below(NAMES));
        let (mut joins, mut brings, mut ttl) = (Vec::new(), Vec::new(), None);
        if key.type_url == slice() {
            joins.push(crate::truth::key(&service(), index));
        } else if key.type_url == route() {
            joins.push(other(dice));
            brings.extend((0..dice.below(3)).map(|_| other(dice)));
        } else if key.type_url == fault() {
            joins.push(other(dice));
            ttl = Some(Duration::from_secs(3 + dice.below(10) as u64));
        }
        let body = dice.below(5);
        let leads_to: Vec<&str> = brings.iter().map(|key| key.name.as_ref()).collect();
        let contents = json!({"body": body, "bad": bad, "to": leads_to, "fill": "x".repeat(body * 7)});
        let mut resource = Resource::from_json(key.clone(), &contents).joining(joins.clone()).bringing(brings.clone());
        if let Some(ttl) = ttl {
            resource = resource.with_ttl(ttl);
        }
        let version = resource.version().to_string();
        Spec { key, bad, joins, brings, ttl, resource, version }
    }

    /// What a proxy should hold that asked for `names` and for all of `all`.
    pub(crate) fn wanted(
        &self,
        viewer: usize,
        names: &BTreeSet<Key>,
        all: &BTreeSet<TypeUrl>,
    ) -> BTreeMap<&Key, &Spec> {
        let mut reached = names.clone();
        loop {
            let before = reached.len();
            for spec in self.live.values() {
                if spec.joins.iter().any(|key| reached.contains(key)) {
                    reached.insert(spec.key.clone());
                }
                if reached.contains(&spec.key) {
                    reached.extend(spec.brings.iter().cloned());
                }
            }
            if reached.len() == before {
                break;
            }
        }
        let wanted = self.live.iter().filter(|(key, _)| reached.contains(*key) || all.contains(&key.type_url));
        wanted.filter(|(key, _)| !self.hidden.contains(&(viewer, (*key).clone()))).collect()
    }
}
