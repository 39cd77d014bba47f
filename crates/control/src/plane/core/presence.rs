//! Which proxies are connected, and by which name each is known.
//!
//! Told by `serve` of the streams of discovery. Several proxies may have one identity and call themselves alike, as copies of a machine do;
//! what counts proxies counts each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rustls_pki_types::CertificateDer;
use transept_identity::SpiffeId;
use transept_identity::svid::Leaf;
use transept_xds::messages::Node;

use super::{FORGET, MOST_MEMBERS, Member, Plane, name_of_proxy};

/// Characters that are kept of what tells proxies of one name apart.
const LONGEST_INSTANCE: usize = 16;

impl Plane {
    /// Notes that a stream of a proxy begins, and says by which name the proxy is known.
    pub(in crate::plane) fn arrive(
        &self,
        who: &SpiffeId,
        node: &Node,
        (from, leaf, chain): (SocketAddr, &Arc<Leaf>, &[CertificateDer<'static>]),
    ) -> String {
        let instance: String = node.instance().chars().take(LONGEST_INSTANCE).collect();
        let mut inner = self.lock();
        let root = self.root_of(&inner.rotation, chain);
        let proxy = own_name(&inner.members, name_of_proxy(who, &node.id), &instance);
        let member = inner.members.entry(proxy.clone()).or_insert_with(|| Member {
            identity: who.as_str().to_owned(),
            instance: String::new(),
            address: from,
            leaf: leaf.clone(),
            root,
            streams: 0,
            seen: Instant::now(),
            left: false,
            lacks: BTreeSet::new(),
            missing: BTreeSet::new(),
        });
        // A stream tells of what it misses when that is not nothing.
        member.missing.clear();
        member.instance = instance;
        member.leaf = leaf.clone();
        member.root = root;
        member.address = from;
        member.streams += 1;
        member.left = false;
        member.seen = Instant::now();
        proxy
    }

    /// Notes that one ends.
    pub(in crate::plane) fn depart(&self, proxy: &str) {
        let mut inner = self.lock();
        if let Some(member) = inner.members.get_mut(proxy) {
            member.streams = member.streams.saturating_sub(1);
            member.seen = Instant::now();
        }
        if inner.members.get(proxy).is_none_or(|member| member.streams == 0) {
            // It tells again what it refuses when it returns.
            inner.refused.forget_proxy(proxy);
            inner.sharing.depart(proxy, self.began.elapsed());
        }
        let room = inner.members.len() <= MOST_MEMBERS;
        inner.members.retain(|_, member| member.streams > 0 || (room && member.seen.elapsed() < FORGET));
    }
}

/// The name of a proxy among others: its own, unless another one that is connected has it. Who was known by another name keeps it; one that
/// is built anew takes the place of the one before.
fn own_name(members: &BTreeMap<String, Member>, name: String, instance: &str) -> String {
    let apart = format!("{name}~{instance}");
    let is_taken = |member: &Member| member.streams > 0 && member.instance != instance;
    if members.contains_key(&apart) || members.get(&name).is_some_and(is_taken) { apart } else { name }
}
