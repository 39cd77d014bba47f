//! The end of a run: the trouble stops, and everything must come together.
//!
//! Called by `run`. A proxy must then hold what it should see by scope and interest and nothing else, and decide like one that was
//! given all of it at once.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use transept_engine::Snapshot;
use transept_engine::explain::explain;
use transept_xds::Key;

use crate::calls::ask;
use crate::member::{Member, State};
use crate::objects::{PATHS, SERVICES, Spec, access_type, identity};
use crate::oracle::Question;
use crate::plane::{Plane, Viewer, sees};
use crate::proxy::{OUTBOUND, PROGRAM, Proxy, Role, compile_for, load, types};
use crate::run::Run;

/// The time in which everything must have come together.
const PATIENCE: Duration = Duration::from_secs(240);

impl Run {
    pub(crate) fn calm(&mut self) -> Result<(), String> {
        self.note("calm");
        self.troubled = false;
        self.sick.clear();
        if self.dice.chance(60) {
            self.truth.mend(&mut self.dice);
        }
        let all = self.truth.ops.len();
        for site in &mut self.sites {
            site.away = Duration::ZERO;
            if let State::Stopped { until, .. } | State::Gone { until } = &mut site.state {
                *until = self.now;
            }
            site.plane.follow(&self.truth, all);
        }
        for member in &mut self.members {
            if let State::Stopped { until, .. } | State::Gone { until } = &mut member.state {
                *until = self.now;
            }
        }
        for link in self.links.values_mut() {
            link.heal();
        }
        let end = self.now + PATIENCE;
        loop {
            self.advance(Duration::from_secs(1))?;
            match self.is_together() {
                Ok(()) => break,
                Err(why) if self.now >= end => return Err(format!("not together after {PATIENCE:?}: {why}")),
                Err(_) => {}
            }
        }
        self.note("together");
        for index in 0..self.members.len() {
            self.compare_decisions(index).map_err(|why| format!("member {index}: {why}"))?;
        }
        // Nothing is said any more, except that an instance which nobody plays falls silent.
        let (told, published) = (self.told, self.revisions());
        self.advance(Duration::from_secs(15))?;
        if self.told != told && self.revisions() == published {
            return Err(format!("{} messages without a change", self.told - told));
        }
        for _ in 0..4 {
            let caller = self.dice.below(self.members.len());
            self.call(caller)?;
        }
        Ok(())
    }

    fn revisions(&self) -> Vec<u64> {
        self.sites.iter().map(|site| site.plane.store.revision()).collect()
    }

    fn is_together(&self) -> Result<(), String> {
        for (index, member) in self.members.iter().enumerate() {
            let about = |why: String| format!("member {index} {why}");
            let link = member.link.and_then(|id| self.links.get(&id)).filter(|link| !link.cut);
            let (Some(link), Some(id)) = (link, member.link) else { return Err(about("is not connected".into())) };
            let plane = &self.sites[link.plane].plane;
            self.is_registered(member, plane).map_err(about)?;
            if let Some(proxy) = &member.proxy {
                let viewer = member.viewer().unwrap_or(Viewer::Sidecar);
                expected(proxy, viewer, plane, &self.truth.archive).map_err(about)?;
                let idle = link.up.is_idle() && link.down.is_idle() && !proxy.stale;
                if !idle || !proxy.client.is_synced() {
                    return Err(about("is still being told".into()));
                }
                self.is_refusal_known(proxy, plane, id).map_err(about)?;
            }
        }
        Ok(())
    }

    /// A member that lives is registered, unless somebody else took its name while it did not.
    fn is_registered(&self, member: &Member, plane: &Plane) -> Result<(), String> {
        let Some(workload) = &member.workload else { return Ok(()) };
        let name = (workload.namespace.clone(), workload.name.clone());
        match plane.registry.entry(&name) {
            Some(entry) if entry.nonce == b"another" => Ok(()),
            Some(entry) if !entry.lapsed && entry.workload == *workload && member.registered => Ok(()),
            other => Err(format!("is not registered as it is: {other:?}")),
        }
    }

    /// What a proxy refuses is known to its control plane.
    fn is_refusal_known(&self, proxy: &Proxy, plane: &Plane, link: u64) -> Result<(), String> {
        let told = |key: &Key| plane.refused.get(key).is_some_and(|links| links.contains(&link));
        let wanted = wanted(proxy, Viewer::Sidecar, &plane.published);
        match wanted.values().find(|spec| spec.bad && sees_too(proxy, &spec.key) && !told(&spec.key)) {
            Some(spec) => Err(format!("refuses {}, and the control plane does not know", spec.key)),
            None => Ok(()),
        }
    }

    /// The snapshot in force decides like one that is compiled at once from what should be held.
    fn compare_decisions(&mut self, index: usize) -> Result<(), String> {
        let member = &self.members[index];
        let Some((proxy, link)) = member.proxy.as_ref().zip(member.link.and_then(|id| self.links.get(&id))) else {
            return Ok(());
        };
        let viewer = member.viewer().unwrap_or(Viewer::Sidecar);
        let parts = expected(proxy, viewer, &self.sites[link.plane].plane, &self.truth.archive)?;
        let world = load(parts.iter().map(|(key, payload)| (key, payload)), None)?;
        let fresh = compile_for(&proxy.role, &world, None, 1).install();
        let snapshot = proxy.snapshot.as_ref().ok_or("has nothing in force")?;
        let older = |(key, _): &(Key, Bytes)| {
            self.truth.live.get(key).is_some_and(|spec| spec.bad) && proxy.client.held(key).is_some()
        };
        self.saw.extend(parts.iter().find(|part| older(part)).map(|_| "somebody lives on with an older version"));
        self.saw.extend(proxy.broken().keys().next().map(|_| "a policy that is kept though it cannot be used"));
        same_backends(snapshot, &fresh)?;
        for (method, url, identity) in probes(&proxy.role) {
            let decide = |snapshot: &Arc<Snapshot>| -> Result<String, String> {
                let found = explain(snapshot, &ask(method, &url, identity.as_deref(), self.now_of(index), 7)?);
                let rule = found.rule.as_ref().map(|rule| rule.metric_label.clone());
                let reply = found.reply.as_ref().map(|reply| (reply.reason, reply.cause.clone()));
                let policies: Vec<_> = found.policies.iter().map(|policy| policy.to_string()).collect();
                let mut endpoints = found.endpoints.clone();
                endpoints.sort();
                let (backends, traffic, tunnels) = (&found.backends, &found.traffic, found.tunnels.len());
                Ok(format!("{rule:?} {reply:?} {policies:?} {backends:?} {endpoints:?} {traffic:?} {tunnels}"))
            };
            let (here, there) = (decide(snapshot)?, decide(&fresh)?);
            if here != there {
                return Err(format!("decides {method} {url} as {identity:?}:\n    {here}\n  and not:\n    {there}"));
            }
            if let (Some(identity), Some(path)) =
                (&identity, PATHS.iter().find(|path| url.ends_with(&format!(":{PROGRAM}{path}"))))
            {
                self.is_let_in(index, &Question { identity: Some(identity), method, path })?;
            }
        }
        Ok(())
    }
}

/// Requests that tell one configuration from another.
fn probes(role: &Role) -> Vec<(&'static str, String, Option<String>)> {
    let mut probes = Vec::new();
    for path in PATHS {
        match role {
            Role::Gateway => {
                probes.push(("GET", format!("http://shop.test:8080{path}"), None));
                probes.push(("DELETE", format!("http://shop.test:8080{path}"), None));
            }
            Role::Sidecar(own, _) | Role::Open(own) => {
                for (port, service) in (OUTBOUND..).zip(SERVICES) {
                    probes.push(("GET", format!("http://{service}:{port}{path}"), None));
                }
                for (method, from) in [("GET", "desk"), ("DELETE", "cart"), ("GET", "bank")] {
                    probes.push((method, format!("http://{own}:{PROGRAM}{path}"), Some(identity(from))));
                }
            }
        }
    }
    probes
}

fn same_backends(here: &Snapshot, there: &Snapshot) -> Result<(), String> {
    let all = |snapshot: &Snapshot| -> Vec<_> {
        let backends = snapshot.backends.iter();
        backends
            .map(|one| (one.label.clone(), one.protocol, one.endpoints.load_full(), one.traffic.clone(), one.key))
            .collect()
    };
    let (here, there) = (all(here), all(there));
    if here == there { Ok(()) } else { Err(format!("has backends\n    {here:?}\n  and not\n    {there:?}")) }
}

fn sees_too(proxy: &Proxy, key: &Key) -> bool {
    sees(if proxy.is_gateway() { Viewer::Gateway } else { Viewer::Sidecar }, key)
}

/// What a proxy should be sent: what it asks for, what comes along with that, and nothing that it may not see.
fn wanted<'p>(
    proxy: &Proxy,
    viewer: Viewer,
    published: &'p BTreeMap<Key, Rc<Spec>>,
) -> BTreeMap<&'p Key, &'p Rc<Spec>> {
    let mut reached: BTreeSet<Key> = proxy.names().into_iter().flatten().collect();
    loop {
        let before = reached.len();
        for spec in published.values() {
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
    let asked = |key: &Key| reached.contains(key) || proxy.wants_all(&key.type_url);
    published.iter().filter(|(key, _)| asked(key) && sees(viewer, key)).collect()
}

/// What should be in force at a proxy, in the order in which it is loaded; an error when it holds something else.
fn expected(
    proxy: &Proxy,
    viewer: Viewer,
    plane: &Plane,
    archive: &crate::truth::Archive,
) -> Result<Vec<(Key, Bytes)>, String> {
    let wanted = wanted(proxy, viewer, &plane.published);
    let rank = |key: &Key| (types().iter().position(|one| *one == key.type_url), key.name.clone());
    let (mut parts, mut closing) = (Vec::new(), Vec::new());
    for (key, spec) in &wanted {
        let held = proxy.client.held(key);
        let in_force = proxy.in_force.held.get(*key);
        if held.map(|held| &held.version) != in_force {
            return Err(format!("holds {key} in a version that is not in force"));
        }
        match held {
            Some(held) if !spec.bad && *held.version != *spec.version => {
                return Err(format!("holds {key} in an older version"));
            }
            // An older version goes on in place of one that is refused.
            Some(held) if spec.bad && archive.find(key, &held.version)?.bad => {
                return Err(format!("holds {key} although it is of a later version"));
            }
            Some(held) => parts.push(((*key).clone(), held.payload.clone())),
            None if !spec.bad => return Err(format!("does not hold {key}")),
            None => closing.push(((*key).clone(), spec.resource.payload().clone())),
        }
    }
    let more = proxy.client.holdings().map(|(key, _)| key).chain(proxy.broken().keys().cloned());
    if let Some(key) = more.into_iter().find(|key| !wanted.contains_key(key)) {
        return Err(format!("holds {key}, which it should not"));
    }
    // Of what is refused with nothing older in its place, policies are kept.
    closing.retain(|(key, _)| key.type_url == access_type() || key.type_url.as_str().ends_with("/TrafficPolicy"));
    for (key, payload) in &closing {
        if proxy.in_force.broken.get(key) != Some(payload) {
            return Err(format!("has refused {key}, and does not close its targets"));
        }
    }
    parts.sort_by_key(|(key, _)| rank(key));
    parts.extend(closing);
    Ok(parts)
}
