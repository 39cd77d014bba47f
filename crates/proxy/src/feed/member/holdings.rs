//! What a member has received: taken in from the wire and from the disk, made into a world, told and kept.
//!
//! Called by `member` when something arrives and at its start. What is owed to the control plane for it is known by
//! `transept_xds::Client`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use transept_xds::client::{Change, Settled};
use transept_xds::mesh::{address_key, namespace_guard_key};
use transept_xds::messages::DeltaDiscoveryResponse;
use transept_xds::{Key, TypeUrl};

use super::{Event, Member};
use crate::feed::broken::BrokenPolicies;
use crate::feed::contact::Unreached;
use crate::feed::disk::Kept;
use crate::feed::objects::{self, Travelling};
use crate::feed::{Interest, Received, ServiceName};

/// Stands on the disk for the version of a policy that was refused.
const NO_VERSION: &str = "";

impl Member {
    /// Takes in what was kept on the disk.
    pub(super) fn restore(&mut self) {
        let Some(kept) = self.disk.read_configuration() else { return };
        // That there is nothing is an answer too, such as after the only instance of a Service has left.
        let said_nothing = kept.is_empty();
        for (type_url, name, version, contents) in kept {
            let key = Key::new(&TypeUrl::from(type_url.as_str()), &name);
            // A kind that this version no longer knows is left out.
            if version == NO_VERSION {
                let _ = self.client.restore_refused(&key);
                self.broken.restore(key, contents.into());
            } else {
                let _ = self.client.restore(&key, &version, contents.into());
            }
        }
        if said_nothing || self.client.holdings().next().is_some() {
            self.restored = self.options.interest.services().cloned().unwrap_or_default();
            self.publish(true);
        }
    }

    pub(super) fn subscribe(&mut self, kinds: &[Travelling]) {
        let services = self.options.interest.services().cloned().unwrap_or_default();
        let wanted = |kind: &&Travelling| match &self.options.interest {
            Interest::Everything => true,
            Interest::Services(_) => kind.shared,
            // Asked for all at once, Services come alone.
            Interest::OnDemand(_) => kind.shared || kind.type_url == self.service,
        };
        for kind in kinds.iter().filter(wanted) {
            // The types are the client's own.
            let _ = self.client.subscribe_all(&kind.type_url);
        }
        for service in services {
            let _ = self.client.subscribe(&namespace_guard_key(&service.0));
            let _ = self.client.subscribe(&self.key(&service));
        }
    }

    /// What this proxy asks for one by one.
    fn own(&self) -> BTreeSet<Key> {
        self.options.interest.services().into_iter().flatten().map(|service| self.key(service)).collect()
    }

    pub(super) fn settle(&mut self, response: DeltaDiscoveryResponse) -> bool {
        let batch = match self.client.receive(response) {
            Ok(Some(batch)) => batch,
            Ok(None) => return false,
            Err(breach) => {
                self.close(Some(Unreached::Away(format!("the control plane breaks the protocol: {breach}"))));
                return false;
            }
        };
        let refusals = objects::judge(&batch);
        for refusal in &refusals {
            let kind = batch.type_url();
            tracing::error!(resource = %format!("{kind} {}", refusal.name), why = %refusal.message, "a resource is refused");
        }
        let broken = BrokenPolicies::find(&batch, &refusals);
        let own = self.own();
        if self.options.interest != Interest::Everything {
            self.older.hold(&batch, &refusals, &mut self.client, &own);
        }
        // The word that there is nothing of a name is no resource.
        let sent = batch.changes().iter().filter(|change| matches!(change, Change::Put { .. })).count();
        let count = u64::try_from(sent.saturating_sub(refusals.len())).unwrap_or(0);
        let settled = self.client.settle(self.began.elapsed(), batch, refusals);
        self.broken.take(broken, &self.client);
        self.older.release(&mut self.client, &own);
        // Before everything has arrived for the first time there is only a part to show.
        let is_news = settled == Settled::Held && (self.number > 0 || self.client.is_synced());
        self.untold |= is_news;
        self.flush();
        if settled == Settled::Held {
            self.tell(|standing| standing.received += count);
        }
        is_news
    }

    /// Makes a world of what is held, tells of it and has it kept.
    pub(super) fn publish(&mut self, kept: bool) {
        self.untold = false;
        let holdings: Vec<_> = self.client.holdings().map(|(key, held)| (key, held.payload.clone())).collect();
        let held = holdings.iter().map(|(key, payload)| (&key.type_url, &key.name, payload));
        let parts = self.broken.among(held).into_iter();
        let Some(world) = objects::load(parts, self.past.as_ref()) else { return };
        self.past = Some(world.past());
        self.number += 1;
        let kept = kept || (self.received.borrow().kept && !self.client.is_synced());
        let answered = self.answered();
        let is_known = |address: &&IpAddr| self.client.is_answered(&address_key(**address));
        let located = self.addresses.iter().filter(is_known).copied().collect();
        self.received.send_replace(Arc::new(Received { world, number: self.number, kept, answered, located }));
        if !kept {
            self.keep();
        }
    }

    /// Asks whose these addresses are, and no more about others.
    pub(super) fn ask_about(&mut self, addresses: BTreeSet<IpAddr>) {
        let mut dropped = false;
        for gone in self.addresses.difference(&addresses) {
            dropped |= self.client.unsubscribe(&address_key(*gone)).unwrap_or(false);
        }
        for new in addresses.difference(&self.addresses) {
            // The type is the client's own.
            let _ = self.client.subscribe(&address_key(*new));
        }
        self.addresses = addresses;
        if dropped {
            self.publish(false);
        }
    }

    /// The Services that were asked for and about which everything is here.
    fn answered(&self) -> BTreeSet<ServiceName> {
        let asked = self.options.interest.services().into_iter().flatten();
        let is_here =
            |service: &&ServiceName| self.restored.contains(*service) || self.client.is_answered(&self.key(service));
        asked.filter(is_here).cloned().collect()
    }

    /// Writes the configuration to the disk, unless that is going on; then it is written again after that.
    pub(super) fn keep(&mut self) {
        if self.storing.is_some() {
            return;
        }
        let number = self.number;
        self.storing = Some(number);
        let text = |payload: &Bytes| Some(std::str::from_utf8(payload).ok()?.to_owned());
        let broken = self.broken.parts().filter_map(|(type_url, name, payload)| {
            Some((type_url.as_str().to_owned(), name.to_string(), NO_VERSION.to_owned(), text(payload)?))
        });
        let items: Vec<Kept> = self
            .client
            .holdings()
            // What ends by itself must not outlive a restart.
            .filter(|(_, held)| held.ends.is_none())
            .filter_map(|(key, held)| {
                let version = held.version.to_string();
                Some((key.type_url.as_str().to_owned(), key.name.to_string(), version, text(&held.payload)?))
            })
            .chain(broken)
            .collect();
        let (disk, reports) = (self.disk.clone(), self.reports.clone());
        tokio::spawn(async move {
            let written = tokio::task::spawn_blocking(move || disk.write_configuration(&items)).await;
            if let Ok(Err(error)) = written {
                tracing::error!(%error, "the configuration cannot be kept on the disk");
            }
            let _ = reports.send(Event::Stored(number)).await;
        });
    }
}
