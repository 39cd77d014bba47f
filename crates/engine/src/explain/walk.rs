//! The road, walked for one described request.
//!
//! Called by [`super::explain`]'s users only. Reads like the proxy's own path, with everything it does not know (sockets, TLS, the
//! backend's answer) taken from the [`Ask`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use transept_model::kinds::{Kind, ServiceSpec};
use transept_wire::h1::Malformed;
use transept_wire::head::{FieldId, Fields, Request, Response};
use transept_wire::normalize::{self, Normal};

use super::considered::{Tried, consider};
use super::traffic::{Asked, describe};
use super::{Ask, BackendShare, Explanation, Unlisted, stream};
use crate::balance::Turns;
use crate::callout::CalloutResult;
use crate::exchange::{Connection, Exchange, Notes, TlsFacts};
use crate::filters::Filters;
use crate::policies::{Carried, Chain};
use crate::reason::Reason;
use crate::reply::{Audience, render};
use crate::route::{Routed, route_traced};
use crate::rule::WeightedBackend;
use crate::snapshot::{Backend, Bind, EndpointSource, Listener, Role, Secure, Snapshot};
use crate::traffic::Wellness;
use crate::verdict::{Reply, Verdict};
use crate::{admit_connection, admit_to, forwarded, pick, relay, screen, trace};

/// Takes a described request down the road.
pub fn explain(snapshot: &Snapshot, ask: &Ask) -> Explanation {
    let mut found = Explanation {
        generation: snapshot.generation,
        asked: match ask.carried {
            Carried::Opaque => format!("connection tcp://{}", ask.authority),
            Carried::Unknown => {
                let mut target = Vec::new();
                snapshot.credentials.write_target(ask.target.as_bytes(), &mut target);
                let target = String::from_utf8_lossy(&target);
                format!("{} {}://{}{target}", ask.method, scheme(ask), ask.authority)
            }
        },
        credentials: snapshot.credentials.clone(),
        ..Explanation::default()
    };
    match find_bind(snapshot, ask) {
        Some(bind) => {
            found.bind = Some(Arc::clone(bind));
            if ask.carried == Carried::Opaque || bind.listener_for_streams().is_some() {
                stream::walk(bind, ask, &mut found);
            } else {
                walk(bind, ask, &mut found);
            }
        }
        None => {
            found.reply = Some(Box::new(Reply::new(Reason::ListenerNotFound).with_detail(format!(
                "Nothing listens on port {} for {}.",
                ask.port,
                scheme(ask)
            ))));
        }
    }
    found
}

fn scheme(ask: &Ask) -> &'static str {
    match ask.carried {
        Carried::Opaque => "tcp",
        Carried::Unknown if ask.tls => "https",
        Carried::Unknown => "http",
    }
}

fn find_bind<'s>(snapshot: &'s Snapshot, ask: &Ask) -> Option<&'s Arc<Bind>> {
    let mut binds = snapshot.binds.iter();
    if ask.identity.is_some()
        && let Some(inbound) = binds.clone().find(|bind| bind.listener_for_port(ask.port).is_some())
    {
        return Some(inbound);
    }
    let secure = if ask.tls { Secure::Tls } else { Secure::Plain };
    let on_port = binds.clone().filter(|bind| bind.secure == secure && bind.address.port() == ask.port);
    let fitting = on_port.filter_map(|bind| Some((distance(bind.address.ip(), ask.address)?, bind)));
    let listening = fitting.min_by_key(|(distance, _)| *distance).map(|(_, bind)| bind);
    listening.or_else(|| {
        let host = host_of(ask);
        binds.find(|bind| bind.listener_for_authority(&host, Some(ask.port)).is_some())
    })
}

/// How far a socket is from the address that a client connects to, as the system sees it: it gives a connection to the nearest one. None when
/// it cannot be meant.
fn distance(socket: IpAddr, asked: Option<IpAddr>) -> Option<u8> {
    match (socket, asked) {
        (_, None) => Some(0),
        (socket, Some(asked)) if socket == asked => Some(0),
        (IpAddr::V4(all), Some(IpAddr::V4(_))) if all.is_unspecified() => Some(1),
        // It takes IPv4 as well.
        (IpAddr::V6(all), Some(_)) if all.is_unspecified() => Some(2),
        _ => None,
    }
}

pub(super) fn host_of(ask: &Ask) -> String {
    normalize::authority(ask.authority.as_bytes())
        .map(|parts| String::from_utf8_lossy(parts.host).to_ascii_lowercase())
        .unwrap_or_default()
}

pub(super) fn connection_of(bind: &Bind, ask: &Ask) -> Connection {
    let tls = ask.tls.then(|| {
        let name = ask.server_name.clone().unwrap_or_else(|| host_of(ask));
        TlsFacts { server_name: Some(name.into()), ..TlsFacts::default() }
    });
    let local = SocketAddr::new(ask.address.unwrap_or(bind.address.ip()), bind.address.port());
    let mut connection = Connection::new(ask.peer_address(), local, tls);
    connection.identity = ask.identity.as_deref().map(Into::into);
    if bind.role == Role::Inbound {
        connection.destination = Some(SocketAddr::new(local.ip(), ask.port));
    }
    connection
}

/// The request head as the codec would give it, normalised.
fn read(bind: &Bind, ask: &Ask, found: &mut Explanation) -> Result<(Request, String), Box<Reply>> {
    let refuse = |reason, why: String| Box::new(Reply::new(reason).with_detail(why));
    let mut request = Request::build(ask.method.as_str(), scheme(ask), &ask.authority, &ask.target)
        .map_err(|why| refuse(Reason::RequestMalformed, why.to_string()))?;
    request.version = ask.version;
    read_fields(bind, ask, &mut request, found).map_err(|why| refuse(Reason::RequestMalformed, why.to_string()))?;
    let mut out = Vec::new();
    let rules = &bind.settings.path;
    let normal =
        normalize::path(request.path(), rules, &mut out).map_err(|why| refuse(Reason::PathRefused, why.to_string()))?;
    if normal == Normal::Rewritten {
        request.set_path(&out).map_err(|why| refuse(Reason::PathRefused, why.to_string()))?;
        found.normalized = Some(String::from_utf8_lossy(request.path()).into_owned());
    }
    let parts =
        normalize::authority(request.authority()).map_err(|why| refuse(Reason::AuthorityInvalid, why.to_string()))?;
    let mut lower = Vec::new();
    let host = normalize::host_lower(parts.host, &mut lower).to_owned();
    Ok((request, host))
}

/// The fields that the codec lets through.
fn read_fields(bind: &Bind, ask: &Ask, request: &mut Request, found: &mut Explanation) -> Result<(), Malformed> {
    request.fields.copy_from(&ask.fields);
    let mut fate = Ok(());
    request.fields.retain(|name, _| {
        let name = name.as_str();
        if !name.contains('_') {
            return true;
        }
        let is_kept = bind.settings.underscore.keeps(name.as_bytes()).unwrap_or_else(|why| {
            fate = Err(why);
            true
        });
        if !is_kept {
            found.without_fields.push(name.to_owned());
        }
        is_kept
    });
    fate
}

fn walk(bind: &Bind, ask: &Ask, found: &mut Explanation) {
    let connection = connection_of(bind, ask);
    found.identity.clone_from(&connection.identity);
    let (mut request, host) = match read(bind, ask, found) {
        Ok(read) => read,
        Err(reply) => {
            found.reply = Some(reply);
            return;
        }
    };
    let listener = match admit_to(bind, &connection, &host, Some(ask.port)) {
        Ok(listener) => listener,
        Err(reply) => {
            found.other_listeners = listeners_but(bind, None, &host);
            found.reply = Some(reply);
            return;
        }
    };
    found.listener = Some(Arc::clone(listener));
    found.other_listeners = listeners_but(bind, Some(listener), &host);
    if bind.role == Role::Inbound
        && let Err(reply) = admit_connection(listener, &connection)
    {
        note_policies(listener, &listener.chain, found);
        found.response = Some((reply.status, Fields::new()));
        found.reply = Some(reply);
        return;
    }
    let settings = &listener.settings;
    let client = forwarded::derive(&connection, &request.fields, settings);
    found.client = Some(client);
    let scheme = forwarded::told_scheme(&request.fields, &client).unwrap_or(connection.scheme());
    // Either is a valid scheme.
    let _ = request.set_scheme(scheme.as_bytes());
    let correlation = trace::correlate(&mut request.fields, client.peer, settings.trace, ask.now, ask.random);
    forwarded::announce(&mut request, &connection, &client, settings, listener.port);

    let mut tried = Tried::default();
    let routed = route_traced(listener, &request, &host, &mut tried);
    (found.considered, found.under_other_hosts) =
        consider(&listener.routes, &request, &host, routed.as_ref(), &tried, &found.credentials);
    found.rule = routed.as_ref().map(|routed| Arc::clone(routed.rule));
    let chain = routed.as_ref().map_or(&listener.chain, |routed| &routed.rule.chain);
    note_policies(listener, chain, found);
    let mut notes = Notes::told();
    notes.is_named_by_proxy = correlation.is_named && forwarded::is_relayed(&connection, &client, settings.role);
    let x = Exchange {
        now: ask.now,
        random: ask.random,
        connection: &connection,
        client: client.address,
        listener_port: listener.port,
        request: &mut request,
        notes: &mut notes,
    };
    decide(listener, routed.as_ref(), x, ask, found);
}

/// The verbs from *screen* on, with the assumed response in place of the backend's.
fn decide<'s>(
    listener: &Listener,
    routed: Option<&Routed<'s>>,
    mut x: Exchange<'_>,
    ask: &Ask,
    found: &mut Explanation,
) {
    let audience = Audience::of(x.request);
    let mut backend = None;
    let verdict = loop {
        match screen(listener, routed, &mut x) {
            Verdict::Call(callout) => {
                found.callouts.push(callout.describe());
                x.notes.resume(CalloutResult::Assumed);
            }
            verdict => break verdict,
        }
    };
    found.credentials.remove_sessions(x.request);
    found.principal = x.principal();
    let told = x.notes.told.take().unwrap_or_default();
    (found.told, found.inquiries) = (told.lines, told.inquiries);
    let reply = match verdict {
        Verdict::Respond(reply) => Some(reply),
        _ => routed.and_then(|routed| forward(routed, &mut backend, &mut x, ask.unlisted, found)),
    };
    let mut response = Response::new(ask.assumed.status);
    match &reply {
        Some(reply) => {
            let id = x.request.fields.first(FieldId::X_REQUEST_ID).map(<[u8]>::to_vec);
            render(reply, audience, id.as_deref(), &mut response, &mut Vec::new());
            x.notes.replied = Some((&**reply).into());
        }
        None => response.fields.copy_from(&ask.assumed.fields),
    }
    relay(listener, routed.map(|routed| &**routed.rule), backend, &mut x, &mut response);
    if reply.is_none() {
        found.forwarded = Some(x.request.clone());
    }
    found.answered_by = x.notes.answered_by.take();
    found.reply = reply;
    found.response = Some((response.status, response.fields));
}

/// Picks and notes where the request goes; gives the reply when it goes nowhere.
fn forward<'s>(
    routed: &Routed<'s>,
    chosen: &mut Option<&'s WeightedBackend>,
    x: &mut Exchange<'_>,
    unlisted: Unlisted,
    found: &mut Explanation,
) -> Option<Box<Reply>> {
    let rule = &**routed.rule;
    note_filters("rule", &rule.filters, x.random, found);
    found.backends = rule.backends.iter().map(BackendShare::from).collect();
    let mut turns = Turns::new();
    let backend = match pick::pick_backend(rule, &mut turns) {
        Ok(backend) => backend,
        Err(reply) => return Some(reply),
    };
    *chosen = Some(backend);
    note_filters("backendRef", &backend.filters, x.random, found);
    if let Verdict::Respond(reply) = pick::apply_backend_filters(backend, x) {
        return Some(reply);
    }
    let target = match pick::target(backend) {
        Ok(target) => target,
        Err(reply) => return Some(reply),
    };
    found.backend = Some(target.label.to_string());
    note_endpoints(target, unlisted, found);
    if target.source == EndpointSource::Static && !found.awaits_instances {
        let call = pick::Call {
            now: x.now,
            random: x.random,
            hash: pick::hash(target, x.request, x.client),
            tried: &[],
            answered: false,
        };
        return match pick::pick_endpoint(target, &mut turns, &call) {
            Ok(chosen) => {
                // Without a hash it depends on the moment.
                found.endpoint = call.hash.map(|_| chosen.address.to_string());
                None
            }
            Err(reply) => Some(reply),
        };
    }
    None
}

pub(super) fn note_endpoints(backend: &Backend, unlisted: Unlisted, found: &mut Explanation) {
    let set = backend.endpoints.load();
    let nobody = set.endpoints().is_empty() && set.left_out().is_empty();
    found.awaits_instances = unlisted == Unlisted::Instances && nobody && backend.id.kind == ServiceSpec::KIND;
    found.endpoints = set.endpoints().iter().map(|one| (one.address.to_string(), one.weight)).collect();
    let tunnels = set.endpoints().iter().filter_map(|one| one.tunnel.as_ref());
    found.tunnels = tunnels.map(|tunnel| (tunnel.address.to_string(), tunnel.identity.to_string())).collect();
    let left_out: Vec<String> = set.left_out().iter().map(|one| one.to_string()).collect();
    if let (Some(policy), false) = (&backend.tunnel_only, left_out.is_empty()) {
        found.left_out = Some((policy.to_string(), left_out));
    }
    if let Some(traffic) = &backend.traffic {
        found.traffic = Some((traffic.policy.to_string(), describe(traffic, Asked::of(&set))));
        let health = traffic.check.as_ref().and_then(|_| backend.ledger.health.load_full());
        let verdicts = health.iter().flat_map(|health| &health.by_address);
        found.unwell = verdicts
            .filter_map(|(address, wellness)| match wellness {
                Wellness::Well => None,
                Wellness::Unwell(why) => Some((address.to_string(), why.to_string())),
            })
            .collect();
    }
    if let EndpointSource::Dns { names, .. } = &backend.source {
        let waiting =
            names.iter().filter(|name| set.endpoints().iter().all(|one| one.host.as_ref() != Some(&name.name)));
        found.endpoints.extend(waiting.map(|name| (format!("{}:{} (by DNS)", name.name, name.port), 0)));
    }
}

fn note_filters(of: &str, filters: &Filters, random: u64, found: &mut Explanation) {
    found.filters.extend(filters.sites.iter().map(|site| (format!("{} ({of})", site.name), site.place.clone())));
    found.mirrors.extend(filters.mirrors(random).map(|backend| backend.label.to_string()));
}

pub(super) fn note_policies(listener: &Listener, chain: &Chain, found: &mut Explanation) {
    let settled = listener.settled_by.iter().filter(|step| chain.steps().iter().all(|other| !Arc::ptr_eq(other, step)));
    found.policies = settled.map(|step| &step.name).chain(chain.names()).map(Arc::clone).collect();
}

fn listeners_but(bind: &Bind, chosen: Option<&Arc<Listener>>, host: &str) -> Vec<(String, String)> {
    if bind.role != Role::Gateway {
        // They are other Services or ports, which nobody would have expected.
        return Vec::new();
    }
    bind.listeners
        .iter()
        .filter(|other| chosen.is_none_or(|chosen| !Arc::ptr_eq(chosen, other)))
        .map(|other| {
            let why = match &other.hostname {
                Some(hostname) if chosen.is_some() => {
                    format!("its hostname {hostname} fits {host} less well, or not")
                }
                Some(hostname) => format!("its hostname {hostname} does not fit {host}, or not the TLS server name"),
                None => "it has no hostname, and another listener has one that fits".to_owned(),
            };
            (other.name.to_string(), why)
        })
        .collect()
}
