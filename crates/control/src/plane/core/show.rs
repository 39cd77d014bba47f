//! What people are shown of a control plane: tokens, certificates, members, registrations and refusals, as JSON.
//!
//! Asked by `admin`. Nothing is changed here.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use rustls_pki_types::UnixTime;
use serde_json::{Value, json};
use transept_identity::Fingerprint;
use transept_identity::renew::Remaining;
use transept_identity::rotation::{Holder, Stage};
use transept_model::suggest::nearest;

use super::super::registry::learned;
use super::super::strict::Strict;
use super::clock::SETTLING;
use super::resident::RESIDENT;
use super::roots::RETURN;
use super::{FORGET, Inner, Member, Plane, now};

/// Instances that are named when a rotation waits for them.
const SHOWN: usize = 20;

impl Plane {
    /// All tokens, without what they are.
    pub(in crate::plane) fn list_tokens(&self) -> Value {
        let inner = self.lock();
        let tokens = inner.tokens.iter().map(|token| {
            json!({
                "id": token.id.as_str(),
                "namespace": token.workload.namespace(),
                "service": token.workload.service_account(),
                "uses": token.uses,
                "used": token.used,
                "created": token.created.as_secs(),
                "ends": token.ends.as_secs(),
            })
        });
        tokens.collect()
    }

    /// Every certificate that is known, its holder, and how much of its life is left.
    pub(in crate::plane) fn certificates(&self) -> Value {
        let mut all = Vec::new();
        for authority in self.ca.authorities() {
            let Some(root) = authority.root() else { continue };
            let (from, until) = (authority.not_before(), authority.not_after());
            let mut shown = certificate("root", "control plane", self.trust_domain().id().as_str(), from, until);
            shown["fingerprint"] = Fingerprint::of(root).to_string().into();
            shown["signs"] = (Fingerprint::of(root) == self.ca.root()).into();
            all.push(shown);
        }
        let own = self.own.load();
        let leaf = own.leaf();
        all.push(certificate("leaf", "control plane", leaf.id.as_str(), leaf.not_before, leaf.not_after));
        let inner = self.lock();
        if let Some(resident) = &inner.resident {
            let svid = resident.load();
            let leaf = svid.leaf();
            let mut shown = certificate("leaf", RESIDENT, leaf.id.as_str(), leaf.not_before, leaf.not_after);
            shown["connected"] = true.into();
            all.push(shown);
        }
        let trusted = inner.rotation.trusted();
        // Nobody waits for a certificate of whoever has stopped in order.
        let is_over = |member: &Member| member.has_left() && member.leaf.not_after < now();
        for (proxy, member) in inner.members.iter().filter(|(_, member)| !is_over(member)) {
            let leaf = &member.leaf;
            let mut shown = certificate("leaf", proxy, leaf.id.as_str(), leaf.not_before, leaf.not_after);
            shown["connected"] = (member.streams > 0).into();
            shown["refused"] = member.root.is_none_or(|root| !trusted.contains(&root)).into();
            shown["left"] = member.has_left().into();
            all.push(shown);
        }
        all.extend(self.certificates_of_others(&inner));
        let awaited = inner.rotation.waiting();
        let mut waiting: Vec<String> = awaited.iter().take(SHOWN).map(ToString::to_string).collect();
        if awaited.len() > SHOWN {
            waiting.push(format!("and {} more", awaited.len() - SHOWN));
        }
        if !waiting.is_empty() && self.clock_has_jumped() {
            waiting.insert(0, format!("the clock of this machine has jumped: nothing is changed until it has gone on evenly for {SETTLING:?}"));
        }
        let is_steady = matches!(inner.rotation.stage(), Stage::Steady { .. });
        let is_nobody_good = self.nobody_is_good(&inner.rotation, self.began.elapsed());
        if !is_steady && is_nobody_good {
            waiting.insert(0, "by the clock of this machine nobody has a certificate that is good: nothing is changed until somebody has".to_owned());
        }
        if inner.rotation.awaits_unknown() && !is_steady {
            let seconds = RETURN.saturating_sub(self.began.elapsed()).as_secs();
            waiting.insert(0, format!("members may be about to connect again after the start: up to {seconds} s more"));
        }
        let now = now().as_secs();
        let retiring = inner.rotation.retired().iter().map(|(root, retired)| {
            let left = retired.until.saturating_sub(now);
            json!({"fingerprint": root.to_string(), "until": retired.until, "secondsLeft": left})
        });
        json!({
            "trustDomain": self.trust_domain().as_str(),
            "stage": inner.rotation.stage().slug(),
            "waiting": waiting,
            "clockInDoubt": is_nobody_good || self.clock_has_jumped(),
            "retiring": retiring.collect::<Vec<_>>(),
            "certificates": all,
        })
    }

    /// The certificates of proxies that were not here since the start: the store knows them, or did when it was opened. Whose leaf has ended
    /// meanwhile is cut off.
    fn certificates_of_others(&self, inner: &Inner) -> Vec<Value> {
        let mut known: BTreeSet<&str> = inner.members.keys().map(String::as_str).collect();
        // Those that are known by another name than their own are here too.
        let here: BTreeSet<String> =
            inner.members.values().map(|member| format!("{} {}", member.identity, member.instance)).collect();
        let now = now();
        let holders: Vec<Holder<'_>> = inner.rotation.holders(now).filter(|holder| holder.proxy != RESIDENT).collect();
        let held: BTreeSet<&str> = holders.iter().map(|holder| holder.proxy).collect();
        let is_listed = self.began.elapsed() < FORGET;
        let ended = inner
            .inherited
            .iter()
            .filter(|(proxy, one)| is_listed && one.until < now && !held.contains(proxy.as_str()));
        let ended = ended.map(|(proxy, one)| Holder {
            proxy,
            name: &one.name,
            until: one.until,
            refused: one.refused,
            left: false,
        });
        let mut all = Vec::new();
        for holder in holders.iter().cloned().chain(ended) {
            let id = holder.proxy.split(' ').next().unwrap_or_default();
            let name = if holder.name.is_empty() { holder.proxy } else { holder.name };
            // Of one that never said what it is called only the identity is known, which it may share.
            let is_here = holder.name.is_empty() && inner.members.values().any(|member| member.identity == id);
            if is_here || here.contains(holder.proxy) || !known.insert(name) {
                continue;
            }
            let begin = holder.until.as_secs().saturating_sub(self.ca.leaf_life().as_secs());
            let begin = UnixTime::since_unix_epoch(Duration::from_secs(begin));
            let mut shown = certificate("leaf", name, id, begin, holder.until);
            shown["connected"] = false.into();
            shown["refused"] = holder.refused.into();
            shown["left"] = holder.left.into();
            all.push(shown);
        }
        all
    }

    /// How services are, who is connected, what is registered, and which resources are refused by whom.
    pub(in crate::plane) fn status(&self) -> Value {
        let (revision, resources) = {
            let shelves = self.shelves.read().unwrap_or_else(PoisonError::into_inner);
            (shelves.resources.revision(), shelves.resources.len())
        };
        let left_out = self.left_out();
        let inner = self.lock();
        let services = self.services(&inner);
        let shown = inner.members.iter().map(|(proxy, member)| {
            json!({
                "proxy": proxy,
                "identity": member.identity,
                "address": member.address.to_string(),
                "connected": member.streams > 0,
                "missing": member.missing.iter().map(|name| missing(name, &services)).collect::<Vec<_>>(),
            })
        });
        let members: Vec<Value> = inner.show_resident().into_iter().chain(shown).collect();
        let workloads: Vec<Value> = inner
            .registry
            .iter()
            .chain(inner.registry.left())
            .map(|(place, entry)| {
                let (namespace, name) = place;
                let silence = inner.registry.kept_silence(place, self.began.elapsed());
                let own = services.iter().filter_map(|one| one["service"].as_str()?.split_once('/'));
                let own = own.filter(|(at, service)| at == namespace && inner.registry.is_silent_for(place, service));
                let not_called_for: Vec<&str> = own.map(|(_, service)| service).collect();
                json!({
                    "namespace": namespace, "name": name, "services": entry.workload.services,
                    "address": entry.workload.address, "lapsed": entry.lapsed, "left": entry.left,
                    "silentFor": silence.map(|silence| silence.as_secs()), "notCalledFor": not_called_for,
                    "replacedBy": inner.registry.replaced_by(place).map(|(namespace, name)| format!("{namespace}/{name}")),
                    "health": entry.workload.condition().as_str(),
                    "learned": learned(&entry.workload),
                })
            })
            .collect();
        json!({
            "trustDomain": self.trust_domain().as_str(),
            "revision": revision,
            "resources": resources,
            "lastReload": Self::show_reload(&inner),
            "frozen": inner.registry.is_frozen(),
            "stored": self.store.is_sound(),
            "members": members,
            "workloads": workloads,
            "refused": self.show_refused(&inner),
            "objects": self.show_refused_objects(&inner),
            "leftOut": left_out,
            "services": services,
        })
    }

    /// The endpoints that nobody calls, because they have no tunnel.
    fn left_out(&self) -> Vec<Value> {
        let (files, registered) = {
            let inner = self.lock();
            (inner.files.clone(), inner.registry.objects(&inner.files.services, &inner.files.members))
        };
        let objects: Vec<Value> =
            files.resources().filter_map(|resource| serde_json::from_slice(resource.payload()).ok()).collect();
        Strict::of(&objects).show(&registered)
    }
}

/// A Service that is asked for and not there, with the name that may have been meant. One that callers have told of lately was there.
fn missing(name: &str, services: &[Value]) -> Value {
    let known: Vec<&str> = services.iter().filter_map(|service| service["service"].as_str()).collect();
    let was_there = known.contains(&name);
    // Names of one namespace alone: the longer it is, the more alike whole names are.
    let (namespace, own) = name.split_once('/').unwrap_or(("", name));
    let here = known.iter().filter_map(|one| one.split_once('/').filter(|(of, _)| *of == namespace));
    let near =
        nearest(own, here.map(|(_, other)| other)).filter(|_| !was_there).map(|near| format!("{namespace}/{near}"));
    json!({"service": name, "near": near, "wasThere": was_there})
}

fn certificate(kind: &str, holder: &str, id: &str, from: UnixTime, until: UnixTime) -> Value {
    let now = now();
    json!({
        "kind": kind,
        "holder": holder,
        "id": id,
        "notBefore": from.as_secs(),
        "notAfter": until.as_secs(),
        "daysLeft": until.as_secs().saturating_sub(now.as_secs()) / 86_400,
        "secondsLeft": until.as_secs().saturating_sub(now.as_secs()),
        "remaining": Remaining::at(now, from, until).slug(),
    })
}
