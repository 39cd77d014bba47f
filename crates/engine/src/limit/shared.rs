//! A limit that several proxies share through a store: the spec of the store, and drawing on it.
//!
//! The counting is the store's, as a token bucket; what is here are the tokens taken in advance (`lease.rs`), the orders for more, what
//! becomes of requests while the store does not answer, and the question how a key stands (`inquiry.rs` asks it).

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use transept_model::certificate::read_bundle;
use transept_model::schema::{Decoder, RESOURCE_NAME, Rule, Text};
use transept_model::secrecy::ticked_url;
use transept_model::value::Value;
use transept_model::{choice, object};

use super::bucket::Bucket;
use super::lease::{Drawn, Leases, Ticket};
use super::store::{Order, STORES, Store, StoreAddress, Stores};
use super::{Algorithm, Standing};
use crate::callout::Wait;
use crate::policies::CompileCx;
use crate::snapshot::{Roots, UpstreamTls};

object! {
    /// A Redis or Valkey server through which several proxies share the limits of a policy.
    pub struct StoreSpec {
        /// Where it is: `redis://store.test:6379`, or `rediss://` for TLS; `/3` at the end for another database than 0.
        url: Text => Rule::Length(1, 512);
        /// The user, of a server that has several.
        username: Option<Text> => Rule::Length(1, 253);
        /// The Secret whose entry `password` is the password.
        password_secret: Option<Text> => Rule::Is(&RESOURCE_NAME);
        /// The ConfigMap whose entry `ca.crt` has the authorities that may sign the server's certificate (those of the system).
        ca_config_map: Option<Text> => Rule::Is(&RESOURCE_NAME);
        /// How long the server may take to answer.
        timeout: Duration = Duration::from_millis(250);
        /// What becomes of requests while it does not.
        on_unavailable: StoreUnavailable = StoreUnavailable::Local;
    }
    check check_store;
}

choice! {
    /// What becomes of requests while a store does not answer.
    pub enum StoreUnavailable {
        /// Each proxy counts by itself, as though it were the only one.
        Local = "Local",
        /// They pass uncounted.
        Allow = "Allow",
        /// They are refused with 503.
        Deny = "Deny",
    }
}

fn check_store(store: &StoreSpec, _: &Value, cx: &mut Decoder) {
    let Some((tls, ..)) = parse(&store.url) else {
        cx.refuse(store.at, format!("{} is not the URL of a store", ticked_url(&store.url)))
            .remedy("write redis://HOST:PORT or rediss://HOST:PORT; the user is `username`, and `passwordSecret` names the entry of a Secret with the password");
        return;
    };
    if store.ca_config_map.is_some() && !tls {
        cx.refuse(store.at, "`caConfigMap` means nothing without TLS").remedy("write `rediss://`, or leave it out");
    }
    if store.username.is_some() && store.password_secret.is_none() {
        cx.refuse(store.at, "a user has a password").remedy("write `passwordSecret`");
    }
    if store.timeout.is_zero() || store.timeout > Duration::from_secs(10) {
        cx.refuse(store.at, "`timeout` must be above 0s and at most 10s");
    }
}

/// Whether TLS is spoken, host, port and database.
fn parse(url: &str) -> Option<(bool, &str, u16, u32)> {
    let (scheme, rest) = url.split_once("://")?;
    let tls = match scheme {
        "redis" => false,
        "rediss" => true,
        _ => return None,
    };
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return None;
    }
    let database = if database.is_empty() { 0 } else { database.parse().ok()? };
    let parts = transept_wire::normalize::authority(authority.as_bytes()).ok()?;
    let host = std::str::from_utf8(parts.host).ok()?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((tls, host, parts.port.unwrap_or(6379), database))
}

impl StoreSpec {
    /// The store that is meant.
    pub(crate) fn open(&self, cx: &mut CompileCx<'_>) -> Option<Arc<Store>> {
        let (tls, host, port, database) = parse(&self.url)?;
        let password = match &self.password_secret {
            Some(secret) => Some(cx.secret_text(self.at, secret, "password", "`password`")?),
            None => None,
        };
        let tls = match tls {
            true => Some(Arc::new(UpstreamTls {
                server_name: Some(host.into()),
                roots: self.roots(cx)?,
                subject_alt_names: Vec::new(),
                client_identity: None,
            })),
            false => None,
        };
        let address = StoreAddress {
            host: host.into(),
            port,
            database,
            tls,
            username: self.username.as_ref().map(|name| (&**name).into()),
            password: password.map(Into::into),
            timeout: self.timeout,
        };
        Some(cx.keep_for_all(STORES, Stores::default).open(&address))
    }

    fn roots(&self, cx: &mut CompileCx<'_>) -> Option<Roots> {
        let Some(name) = &self.ca_config_map else {
            return Some(Roots::System);
        };
        let map = cx.config_map(self.at, name)?;
        match map.spec.entry("ca.crt").and_then(|pem| read_bundle(pem).ok()) {
            Some(certificates) => Some(Roots::Bundle(certificates)),
            None => {
                cx.refuse(self.at, format!("the ConfigMap {} has no certificates under ca.crt", &**name))
                    .remedy("add the certificates of the authorities in PEM");
                None
            }
        }
    }
}

/// How a limit is shared.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Arc<Store>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) unavailable: StoreUnavailable,
    pub(crate) bucket: Bucket,
    /// What the store calls its keys, up to the key: `transept:RateLimitPolicy:shop/burst:all:`.
    prefix: Box<str>,
    /// Held so that it is found by its name.
    _sharings: Arc<Sharings>,
}

/// How a limit is shared by the configurations that there are; the newest is the last. Kept under the name of the limit, for who asks about it.
#[derive(Debug, Default)]
pub(crate) struct Sharings(Mutex<Vec<Weak<Shared>>>);

impl Sharings {
    fn add(&self, shared: &Arc<Shared>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(shared));
    }

    /// As the newest configuration has it.
    pub(crate) fn newest(&self) -> Option<Arc<Shared>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().rev().find_map(Weak::upgrade)
    }
}

/// What a store calls a key: a hash that is the same at all proxies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreName([u8; 16]);

impl StoreName {
    pub(crate) fn of(key: &[u8]) -> StoreName {
        let mut name = [0; 16];
        for (to, from) in name.iter_mut().zip(digest(&SHA256, key).as_ref()) {
            *to = *from;
        }
        StoreName(name)
    }
}

/// What a request has behind it that has waited for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// What was ordered for it may be there. It has been at the limits up to this position.
    For(Ticket, usize),
    /// It has waited for as long as it may.
    InVain,
    /// It is only explained, and nothing was ordered.
    Explained,
}

impl Waited {
    /// Whether it concerns the limit at this position. Not what was ordered at one before it, which is as far as the request has come.
    pub(crate) fn concerns(&self, position: usize) -> bool {
        !matches!(self, Waited::For(_, last) if *last < position)
    }

    /// Where it was for tokens of these, they are not needed any more.
    pub(crate) fn leave(&self, leases: &Leases) -> bool {
        match self {
            Waited::For(ticket, _) if leases.are_of(*ticket) => {
                leases.leave(*ticket);
                true
            }
            _ => false,
        }
    }

    /// How far a request has come that waits at this position now.
    pub(crate) fn last(this: Option<Waited>, position: usize) -> usize {
        match this {
            Some(Waited::For(_, last)) => last.max(position),
            _ => position,
        }
    }
}

/// What becomes of a request at a shared limit.
pub(crate) enum Draw {
    /// It is counted.
    Taken(Standing),
    /// There is no room for so long.
    Refused(Standing, Duration),
    /// It has to wait for tokens, and comes again with the ticket.
    Wait(Wait, Ticket),
    /// The store does not answer: it is counted here.
    Local,
    /// The store does not answer: it is not counted.
    Uncounted,
    /// The store does not answer: it is refused.
    Unavailable,
}

impl Shared {
    /// Draws tokens for a request. One that has waited for as long as it may does not wait again: its store is away, or others were served before it for
    /// all of that time.
    pub(crate) fn draw(&self, hash: u64, key: &[u8], cost: u32, now: u64, waited: Option<Waited>) -> Draw {
        if cost == 0 {
            return Draw::Uncounted;
        }
        if self.store.is_down() {
            return self.without_store();
        }
        let ticket = match waited {
            Some(Waited::Explained) => return Draw::Local,
            Some(Waited::For(ticket, _)) => Some(ticket),
            Some(Waited::InVain) => return self.draw_at_last(hash, cost, now),
            None => None,
        };
        match self.leases.draw(hash, cost, now, ticket) {
            Drawn::Taken(standing, more) => {
                if let Some(want) = more {
                    self.order(&self.leases, hash, StoreName::of(key), want, Some(1));
                }
                Draw::Taken(standing)
            }
            Drawn::Refused(standing, wait, more) => {
                let wait = wait + self.time_of(more);
                Draw::Refused(standing, if wait.is_zero() { self.time_of(cost) } else { wait })
            }
            Drawn::Silent => self.without_store(),
            Drawn::None(want, ticket) => {
                if let Some(want) = want {
                    self.order(&self.leases, hash, StoreName::of(key), want, Some(cost));
                }
                let timeout = self.store.address.timeout * 2;
                let until = self.store.answered(&self.leases, ticket);
                Draw::Wait(Wait { what: "tokens of a shared limit", until, timeout }, ticket)
            }
        }
    }

    /// What becomes of a request that has waited for as long as it may.
    fn draw_at_last(&self, hash: u64, cost: u32, now: u64) -> Draw {
        match self.leases.draw_at_once(hash, cost, now) {
            Some(standing) => Draw::Taken(standing),
            None if self.leases.has_run_out(hash) => Draw::Refused(self.standing(hash, now), self.time_of(cost)),
            None => self.without_store(),
        }
    }

    /// How a key stands at a moment at which nobody asks the store: what is not known to be used is there.
    pub(crate) fn standing(&self, hash: u64, now: u64) -> Standing {
        let known = self.leases.standing(hash, now);
        let used = known.full_in.as_nanos().div_ceil(self.bucket.interval().as_nanos().max(1));
        let left = i64::from(self.bucket.burst).saturating_sub(i64::try_from(used).unwrap_or(i64::MAX));
        Standing { left: known.left.max(left), ..known }
    }

    /// When there may be so many tokens again, where nothing better is known.
    fn time_of(&self, cost: u32) -> Duration {
        self.bucket.interval().saturating_mul(cost)
    }

    pub(crate) fn without_store(&self) -> Draw {
        match self.unavailable {
            StoreUnavailable::Local => Draw::Local,
            StoreUnavailable::Allow => Draw::Uncounted,
            StoreUnavailable::Deny => Draw::Unavailable,
        }
    }

    /// Takes what a response has cost, whether it is there or not.
    pub(crate) fn debit(&self, hash: u64, name: StoreName, cost: u32) {
        if !self.store.is_down() {
            self.order(&self.leases, hash, name, cost, None);
        }
    }

    /// Asks the store how a key stands, which takes nothing of it. The answer is at the leases that come back: where the store has answered
    /// they have run out.
    pub(crate) fn look(&self, hash: u64, key: &[u8], now: u64) -> (Arc<Leases>, Wait) {
        let leases = Arc::new(Leases::new(self.bucket.burst, 1));
        let ticket = match leases.draw(hash, 1, now, None) {
            Drawn::None(_, ticket) => Some(ticket),
            _ => None,
        };
        let timeout = self.store.address.timeout * 2;
        let until = match ticket {
            Some(ticket) if !self.store.is_down() => {
                self.order(&leases, hash, StoreName::of(key), 0, Some(0));
                self.store.answered(&leases, ticket)
            }
            _ => Box::pin(std::future::ready(())),
        };
        (leases, Wait { what: "what a store knows of a limit", until, timeout })
    }

    fn order(&self, leases: &Arc<Leases>, hash: u64, name: StoreName, want: u32, least: Option<u32>) {
        let mut key = String::from(&*self.prefix);
        for byte in name.0 {
            key.push_str(&format!("{byte:02x}"));
        }
        self.store.order(Order {
            key,
            interval: self.bucket.interval_in_microseconds(),
            burst: self.bucket.burst,
            want,
            least,
            leases: Arc::clone(leases),
            hash,
            is_open: AtomicBool::new(least.is_some()),
        });
    }
}

/// Shares a limit through a store. Only a token bucket that counts attempts can be. `name` is the one of the limit.
pub(crate) fn share(
    store: &Arc<Store>,
    spec: &StoreSpec,
    algorithm: &Algorithm,
    (name, keys): (&str, usize),
    cx: &CompileCx<'_>,
) -> Option<Arc<Shared>> {
    let Algorithm::Bucket(bucket) = algorithm else {
        return None;
    };
    let burst = bucket.burst;
    // What another store has said, or the same about a bucket that fills in another time, is of no use.
    let interval = bucket.interval().as_nanos();
    let leases = cx.keep(&format!("leases of {name} {burst} {interval} {keys} {:p}", Arc::as_ptr(store)), || {
        Leases::new(burst, keys)
    });
    let sharings = cx.keep(&super::kept_as(name), Sharings::default);
    let policy = format!("{}:{}/{}", cx.name.kind, cx.name.namespace, cx.name.name);
    let shared = Arc::new(Shared {
        store: Arc::clone(store),
        leases,
        unavailable: spec.on_unavailable,
        bucket: *bucket,
        prefix: format!("transept:{policy}:{name}:").replace(' ', ":").into(),
        _sharings: Arc::clone(&sharings),
    });
    sharings.add(&shared);
    Some(shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_stores() {
        assert_eq!(parse("redis://store.test"), Some((false, "store.test", 6379, 0)));
        assert_eq!(parse("rediss://[::1]:6380/3"), Some((true, "::1", 6380, 3)));
        for wrong in ["http://store.test", "redis://u:p@store.test", "redis://store.test/a", "redis://", "store.test"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
