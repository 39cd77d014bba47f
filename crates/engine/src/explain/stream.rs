//! The short road of a connection that is not looked at, walked for a described one.
//!
//! Called by `walk` for `tcp://` and for listeners that look at nothing. Reads like `splice.rs` of the proxy: admit, pick, connect.

use std::sync::Arc;

use super::walk::{connection_of, host_of, note_endpoints, note_policies};
use super::{Ask, BackendShare, Explanation};
use crate::admit::admit_stream;
use crate::balance::Turns;
use crate::pick;
use crate::reason::Reason;
use crate::role::{Role, Speaks};
use crate::rule::Rule;
use crate::snapshot::{Bind, EndpointSource, Listener};
use crate::verdict::Reply;

/// Takes a described connection down its road.
pub(super) fn walk(bind: &Bind, ask: &Ask, found: &mut Explanation) {
    let connection = connection_of(bind, ask);
    found.is_stream = true;
    found.identity.clone_from(&connection.identity);
    let refuse = |reason, why: &str| Some(Box::new(Reply::new(reason).with_detail(why.to_owned())));
    let Some(listener) = find_listener(bind, ask) else {
        found.reply = refuse(Reason::ListenerNotFound, "What comes here must be HTTP: nothing else is let through.");
        return;
    };
    found.listener = Some(Arc::clone(listener));
    let Some(rule) = &listener.stream else {
        found.reply = refuse(Reason::RouteNotFound, "No TCPRoute is attached to the listener.");
        return;
    };
    if listener.speaks == Speaks::Http {
        found.reply = refuse(
            Reason::RequestMalformed,
            "Only requests may come to the port, by its declaration or because of policies on its routes: anything else is refused.",
        );
        return;
    }
    found.rule = Some(Arc::clone(rule));
    note_policies(listener, &rule.chain, found);
    found.reply = match admit_stream(listener, &connection) {
        Ok(()) => pick(rule, ask, found),
        Err(reply) => Some(reply),
    };
}

fn find_listener<'b>(bind: &'b Bind, ask: &Ask) -> Option<&'b Arc<Listener>> {
    match bind.role {
        Role::Gateway => bind.listener_for_streams(),
        Role::Inbound => bind.listener_for_port(ask.port),
        Role::Outbound if bind.is_found_by_authority() => bind.listener_for_authority(&host_of(ask), Some(ask.port)),
        Role::Outbound => bind.callee(None),
    }
}

/// Picks and notes where the connection goes; gives the reason when it goes nowhere.
fn pick(rule: &Rule, ask: &Ask, found: &mut Explanation) -> Option<Box<Reply>> {
    found.backends = rule.backends.iter().map(BackendShare::from).collect();
    let mut turns = Turns::new();
    let target = match pick::pick_backend(rule, &mut turns).and_then(pick::target) {
        Ok(target) => target,
        Err(reply) => return Some(reply),
    };
    found.backend = Some(target.label.to_string());
    note_endpoints(target, ask.unlisted, found);
    if target.source != EndpointSource::Static || found.awaits_instances {
        return None;
    }
    let hash = pick::hash_stream(target, ask.peer);
    match pick::pick_endpoint(
        target,
        &mut turns,
        &pick::Call { now: ask.now, random: ask.random, hash, tried: &[], answered: false },
    ) {
        Ok(chosen) => {
            // Without a hash it depends on the moment.
            found.endpoint = hash.map(|_| chosen.address.to_string());
            None
        }
        Err(reply) => Some(reply),
    }
}
