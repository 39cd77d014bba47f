//! What the files say: a log of changes, which both control planes follow at their own pace, and everything that was ever said.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use transept_xds::{Key, Version};

use crate::dice::Dice;
use crate::objects::{GUARD, Manners, SERVICES, Spec, Workshop, access_type, key, service_type};

#[derive(Clone)]
pub(crate) enum Op {
    Put(Rc<Spec>),
    Remove(Key),
}

/// The log of the files, and what it amounts to.
pub(crate) struct Truth {
    pub(crate) ops: Vec<Op>,
    pub(crate) live: BTreeMap<Key, Rc<Spec>>,
    pub(crate) workshop: Workshop,
    pub(crate) manners: Manners,
    pub(crate) archive: Archive,
}

/// Every version of every object that a control plane has published, from files and registrations.
#[derive(Default)]
pub(crate) struct Archive(HashMap<(Key, String), Rc<Spec>>);

impl Archive {
    pub(crate) fn add(&mut self, spec: Spec) -> Rc<Spec> {
        self.0.entry((spec.key.clone(), spec.version.clone())).or_insert_with(|| Rc::new(spec)).clone()
    }

    pub(crate) fn find(&self, key: &Key, version: &str) -> Result<&Rc<Spec>, String> {
        let found = self.0.get(&(key.clone(), version.to_owned()));
        found.ok_or_else(|| format!("{key} is held in version {version}, which nobody ever published"))
    }

    pub(crate) fn of_payload(&self, key: &Key, payload: &[u8]) -> Result<&Rc<Spec>, String> {
        self.find(key, &Version::of(payload, None).to_string())
    }
}

impl Truth {
    /// A beginning: some Services, a Gateway, and the guard, which never goes away.
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let manners = if dice.chance(35) { Manners::Gentle } else { Manners::Wild };
        let (workshop, archive) = (Workshop::new(), Archive::default());
        let mut truth = Self { ops: Vec::new(), live: BTreeMap::new(), workshop, manners, archive };
        let guard = truth.workshop.guard(dice, false);
        truth.put(guard);
        for name in SERVICES {
            if manners == Manners::Gentle || dice.chance(60) {
                let service = truth.workshop.service(dice, name, false);
                truth.put(service);
            }
        }
        for _ in 0..3 {
            let shop = &truth.workshop;
            let specs = [
                shop.slice(dice, false),
                shop.traffic(dice, false),
                shop.route(dice, false),
                shop.gateway(dice, false),
            ];
            specs.into_iter().for_each(|spec| truth.put(spec));
        }
        truth
    }

    pub(crate) fn put(&mut self, spec: Spec) {
        let spec = self.archive.add(spec);
        self.live.insert(spec.key.clone(), spec.clone());
        self.ops.push(Op::Put(spec));
    }

    fn remove(&mut self, key: Key) {
        self.live.remove(&key);
        self.ops.push(Op::Remove(key));
    }

    /// Some change; says which.
    pub(crate) fn change(&mut self, dice: &mut Dice) -> String {
        let guard = key(&access_type(), GUARD);
        let gentle = self.manners == Manners::Gentle;
        let stays = |key: &Key| *key == guard || gentle && key.type_url == service_type();
        let keys: Vec<Key> = self.live.keys().filter(|key| !stays(key)).cloned().collect();
        match (dice.below(100), dice.any(&keys)) {
            (0..28, Some(key)) => {
                self.remove(key.clone());
                format!("{key} removed")
            }
            (28..36, _) => {
                let bad = !gentle && dice.chance(35);
                let spec = self.workshop.guard(dice, bad);
                self.put_said(spec)
            }
            _ => {
                let spec = self.workshop.any(dice, self.manners);
                self.put_said(spec)
            }
        }
    }

    fn put_said(&mut self, spec: Spec) -> String {
        let said = format!(
            "{} put{} {}",
            spec.key,
            if spec.bad { ", bad:" } else { ":" },
            String::from_utf8_lossy(spec.resource.payload())
        );
        self.put(spec);
        said
    }

    /// Mends or removes what proxies refuse.
    pub(crate) fn mend(&mut self, dice: &mut Dice) {
        let bad: Vec<Key> = self.live.values().filter(|spec| spec.bad).map(|spec| spec.key.clone()).collect();
        for key in bad {
            if key.name.ends_with(GUARD) {
                let spec = self.workshop.guard(dice, false);
                self.put(spec);
            } else {
                self.remove(key);
            }
        }
    }
}
