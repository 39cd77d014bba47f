//! Carries orders of limits to the stores that several proxies share, and brings back what was granted.
//!
//! One task and one connection per store, on the background runtime, started and stopped by [`crate::Proxy::apply`]. All orders
//! that wait go out together; while their answers come the next ones gather. A server that does not answer in time, or answers with an error,
//! is left: the limits are told, and it is tried again after a pause that grows to [`LATEST`]. One that only closes its connection, as servers
//! do with those that are idle, is connected to again at once, and what it has not answered is sent once more: if it had been done,
//! it is counted twice, at most once for each order. A connection that is seen to be closed before anything is sent on it costs nothing. What is spoken is in `resp`; the arithmetic that the
//! server does for us is the token bucket of the engine (GCRA), with the server's own clock.

mod resp;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use transept_engine::limit::store::{Grant, Order, STORES, Store, StoreAddress, Stores};
use transept_engine::snapshot::{Snapshot, UpstreamProtocol};

use crate::documents::escape;
use crate::worker::Shared;
use resp::{Client, Reply, Trouble};

/// The first pause before a store is tried again, and the longest.
const SOONEST: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(5);
/// Orders that go out together.
const AT_ONCE: usize = 256;

/// What the server computes. `KEYS[1]` is the bucket, kept as the moment when it is full, in microseconds of the server's clock, the time in
/// which it fills, and when that was: one that fills in another time now has the same share in it, and where the clock was set back it takes no longer than
/// before until it is full. The arguments are the time of one token, the size of the bucket,
/// how many tokens are wanted, and how many it must be at least; -1 takes what is wanted in any case. To want none is only to look. Gives what was granted, how long to wait,
/// what is left, and when it is full; nothing where the key holds what is no bucket. Nobody owes more than what ten years pay: the
/// server takes no numbers without end.
const SCRIPT: &str = "\
local interval, burst, want, least = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local fills, full, latest, moved = burst * interval, now, now + 315576000000000, false
local function keep()
  redis.call('SET', KEYS[1], string.format('%.3f %.3f %.0f', full, fills, now), 'PX', math.ceil((full - now) / 1000) + 1000)
end
local kept = redis.pcall('GET', KEYS[1])
if kept then
  if type(kept) == 'table' then
    if string.find(kept.err, 'WRONGTYPE', 1, true) then return false end
    return kept
  end
  local was_full, filled, then_was = string.match(kept, '^(%d+%.?%d*) (%d+%.?%d*) ?(%d*)$')
  if not was_full then return false end
  local back = math.max((tonumber(then_was) or 0) - now, 0)
  full = math.max(tonumber(was_full) - back, now)
  local is_another = math.abs(tonumber(filled) - fills) > 1000
  if is_another then full = now + (full - now) * fills / tonumber(filled) end
  moved = is_another or back > 0
  full = math.min(full, latest)
end
local room = math.floor((now + fills - full) / interval + 0.000001)
if want == 0 then return {0, 0, room, math.ceil(full - now)} end
local granted = want
if least >= 0 then granted = math.min(want, room) end
if least >= 0 and granted < least then
  if moved then keep() end
  return {0, math.ceil(full + (least - burst) * interval - now), room, math.ceil(full - now)}
end
full = math.min(full + granted * interval, latest)
keep()
return {granted, 0, room - granted, math.ceil(full - now)}
";

/// The tasks that carry.
#[derive(Default)]
pub(crate) struct Carrying {
    stores: Option<Arc<Stores>>,
    tasks: Vec<(Weak<Store>, JoinHandle<()>)>,
}

impl Carrying {
    /// Starts tasks for the stores that a configuration has brought, and stops those of stores that nobody uses.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot, shared: &Arc<Shared>, runtime: &tokio::runtime::Handle) {
        if let Some(stores) = snapshot.keep.known::<Stores>(STORES) {
            self.stores = Some(stores);
        }
        self.tasks.retain(|(store, task)| {
            let used = store.strong_count() > 0;
            if !used {
                task.abort();
            }
            used
        });
        for store in self.stores.iter().flat_map(|stores| stores.living()) {
            if self.tasks.iter().any(|(known, _)| known.as_ptr() == Arc::as_ptr(&store)) {
                continue;
            }
            let bell = Arc::new(Notify::new());
            let ring = Arc::clone(&bell);
            store.attend(Box::new(move || ring.notify_one()));
            let carrier = Carrier { address: store.address.clone(), store: Arc::downgrade(&store), bell };
            let task = runtime.spawn(carrier.carry(Arc::clone(shared)));
            self.tasks.push((Arc::downgrade(&store), task));
        }
    }
}

/// Appends whether stores answer, in the Prometheus text format.
pub(crate) fn write_metrics(stores: &[(String, Option<bool>)], out: &mut String) {
    if stores.is_empty() {
        return;
    }
    out.push_str(
        "# HELP transept_limit_store_up Whether a store of shared limits answers.\n# TYPE transept_limit_store_up gauge\n",
    );
    for (store, answers) in stores {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "transept_limit_store_up{{store=\"{}\"}} {}",
            escape(store),
            u8::from(*answers == Some(true))
        );
    }
}

/// One task.
struct Carrier {
    address: StoreAddress,
    /// Not held: a store that no policy uses ends.
    store: Weak<Store>,
    bell: Arc<Notify>,
}

/// What the log says of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Answers,
    /// It does not answer, or it refuses us: somebody has to do something else then.
    Away {
        refuses: bool,
    },
}

impl Carrier {
    async fn carry(self, shared: Arc<Shared>) {
        let mut pause = SOONEST;
        let mut told = Told::Nothing;
        while self.store.strong_count() > 0 {
            let trouble = match self.open_in_time(&shared).await {
                Ok(link) => {
                    if told == Told::Nothing {
                        self.tell_that_it_answers(&mut told);
                    }
                    self.note_health(true);
                    let since = Instant::now();
                    let trouble = self.serve(link, &shared, &mut told).await;
                    // A server that takes connections and fails at each question is as good as away.
                    if since.elapsed() > LATEST {
                        pause = SOONEST;
                    }
                    trouble
                }
                Err(trouble) => trouble,
            };
            if matches!(trouble, Trouble::Unused) {
                return;
            }
            self.note_health(false);
            let away = Told::Away { refuses: matches!(trouble, Trouble::Answer(_)) };
            if std::mem::replace(&mut told, away) != away {
                tracing::warn!(store = %self.address, why = %trouble, "the store of shared limits does not answer");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LATEST);
        }
    }

    fn tell_that_it_answers(&self, told: &mut Told) {
        if std::mem::replace(told, Told::Answers) != Told::Answers {
            tracing::info!(store = %self.address, "the store of shared limits answers");
        }
    }

    fn note_health(&self, is_up: bool) {
        if let Some(store) = self.store.upgrade() {
            store.note_health(is_up);
        }
    }

    async fn open_in_time(&self, shared: &Shared) -> Result<Link, Trouble> {
        tokio::time::timeout(self.address.timeout * 4, self.open(shared)).await.unwrap_or(Err(Trouble::Slow))
    }

    /// Connects and gets ready: the client, and the name of the script at the server.
    async fn open(&self, shared: &Shared) -> Result<Link, Trouble> {
        let address = &self.address;
        let tcp = TcpStream::connect((&*address.host, address.port)).await?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &address.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let client = shared.tls.client(tls, UpstreamProtocol::Opaque, None);
                let config = client.map_err(|why| Trouble::Answer(why.to_string()))?.config;
                let name = rustls::pki_types::ServerName::try_from(address.host.to_string());
                let name = name.map_err(|error| Trouble::Answer(error.to_string()))?;
                Box::new(tokio_rustls::TlsConnector::from(config).connect(name, tcp).await?)
            }
        };
        let mut client = Client::new(stream);
        if let Some(password) = &address.password {
            match &address.username {
                Some(user) => client.authenticate(&[b"AUTH", user.as_bytes(), password.as_bytes()]).await?,
                None => client.authenticate(&[b"AUTH", password.as_bytes()]).await?,
            };
        }
        if address.database != 0 {
            client.ask(&[b"SELECT", address.database.to_string().as_bytes()]).await?;
        }
        let script = load_script(&mut client).await?;
        Ok(Link { client, script, is_open: true, opened: Instant::now(), has_strangers: false })
    }

    /// Carries orders until something goes wrong. Where the log says that the server does not answer, it has to do so for a while before that is taken back.
    async fn serve(&self, mut link: Link, shared: &Shared, told: &mut Told) -> Trouble {
        let since = Instant::now();
        loop {
            let Some(store) = self.store.upgrade() else { return Trouble::Unused };
            let mut orders = store.take_orders();
            drop(store);
            if orders.is_empty() {
                tokio::select! {
                    () = self.bell.notified() => {}
                    () = link.client.closed(), if link.is_open => link.is_open = false,
                    // A server that has closed a connection that nobody used may be gone, which is said before the next order finds out. One
                    // that closes them all is given its time.
                    () = tokio::time::sleep_until((link.opened + LATEST).into()), if !link.is_open => {
                        match self.open_in_time(shared).await {
                            Ok(another) => link = another,
                            Err(trouble) => return trouble,
                        }
                    }
                }
                continue;
            }
            while !orders.is_empty() {
                let rest = orders.split_off(orders.len().min(AT_ONCE));
                let mut waiting: VecDeque<&Order> = orders.iter().collect();
                let carried = self.carry_all(&mut link, &mut waiting, shared);
                let outcome = tokio::time::timeout(self.address.timeout, carried).await.unwrap_or(Err(Trouble::Slow));
                if let Err(trouble) = outcome {
                    for order in orders.iter().chain(&rest) {
                        order.give_up();
                    }
                    return trouble;
                }
                if let Some(store) = self.store.upgrade() {
                    store.wake_for(orders.iter());
                }
                orders = rest;
                if since.elapsed() > LATEST {
                    self.tell_that_it_answers(told);
                }
            }
        }
    }

    /// Carries orders, once more over another connection where the server closes this one.
    async fn carry_all(&self, link: &mut Link, waiting: &mut VecDeque<&Order>, shared: &Shared) -> Result<(), Trouble> {
        let (mut was_closed, mut was_unknown) = (false, false);
        while !waiting.is_empty() {
            match self.carry_once(link, waiting, shared).await {
                Err(trouble) if trouble.is_closing() && !was_closed => {
                    (link.is_open, was_closed) = (false, true);
                }
                Err(trouble) => return Err(trouble),
                Ok(()) if waiting.is_empty() => {}
                Ok(()) if was_unknown => return Err(Trouble::NoScript),
                Ok(()) => {
                    link.script.clear();
                    was_unknown = true;
                }
            }
        }
        Ok(())
    }

    /// Carries orders as far as the connection goes, which is opened where it is closed. Those that are not done stay in `waiting`: what was not
    /// answered, and without an error what the server has not done because it does not know the script.
    async fn carry_once(
        &self,
        link: &mut Link,
        waiting: &mut VecDeque<&Order>,
        shared: &Shared,
    ) -> Result<(), Trouble> {
        if !link.is_open {
            *link = self.open(shared).await?;
        }
        if link.script.is_empty() {
            link.script = load_script(&mut link.client).await?;
        }
        exchange(link, waiting, shared).await
    }
}

/// A connection to a server, which is ready for orders.
struct Link {
    client: Client<Box<dyn Stream>>,
    /// What the server calls the script; empty where it does not know it.
    script: Vec<u8>,
    /// Whether it is not known to be closed.
    is_open: bool,
    opened: Instant,
    /// Whether it was told that keys hold what is not ours.
    has_strangers: bool,
}

/// Tells the server the script, and brings back what it calls it.
async fn load_script(client: &mut Client<Box<dyn Stream>>) -> Result<Vec<u8>, Trouble> {
    match client.ask(&[b"SCRIPT", b"LOAD", SCRIPT.as_bytes()]).await? {
        Reply::Text(name) => Ok(name),
        _ => Err(Trouble::Answer("SCRIPT LOAD gives no name".into())),
    }
}

/// Sends orders together and hands over the answers, and takes what is done out of `waiting`.
async fn exchange(link: &mut Link, waiting: &mut VecDeque<&Order>, shared: &Shared) -> Result<(), Trouble> {
    let Link { client, script, .. } = &mut *link;
    for order in &*waiting {
        let interval = order.interval.to_string();
        let least = order.least.map_or_else(|| "-1".to_owned(), |least| least.to_string());
        let (burst, want) = (order.burst.to_string(), order.want.to_string());
        client.add(&[
            b"EVALSHA",
            &*script,
            b"1",
            order.key.as_bytes(),
            interval.as_bytes(),
            burst.as_bytes(),
            want.as_bytes(),
            least.as_bytes(),
        ]);
    }
    client.send().await?;
    for _ in 0..waiting.len() {
        let reply = link.client.reply().await;
        let Some(order) = waiting.pop_front() else { break };
        let now = u64::try_from(shared.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        match reply.and_then(|reply| read_grant(&reply)) {
            Ok(Some(grant)) => order.deliver(grant, now),
            Ok(None) => {
                order.silence(now);
                if !std::mem::replace(&mut link.has_strangers, true) {
                    tracing::warn!(
                        key = order.key,
                        remedy = "delete it there, and see who else writes keys that begin with `transept:`",
                        "a key at the store of shared limits holds something else than a limit"
                    );
                }
            }
            Err(Trouble::NoScript) => waiting.push_back(order),
            Err(trouble) => {
                waiting.push_front(order);
                return Err(trouble);
            }
        }
    }
    Ok(())
}

/// What was granted; none where the server has something else under the key.
fn read_grant(reply: &Reply) -> Result<Option<Grant>, Trouble> {
    if *reply == Reply::Nothing {
        return Ok(None);
    }
    let wrong = || Trouble::Answer("the script gives something else than four numbers".into());
    let Reply::List(items) = reply else { return Err(wrong()) };
    let [Reply::Number(tokens), Reply::Number(wait), Reply::Number(left), Reply::Number(full)] = items[..] else {
        return Err(wrong());
    };
    let microseconds = |number: i64| Duration::from_micros(u64::try_from(number).unwrap_or(0));
    Ok(Some(Grant {
        tokens: u32::try_from(tokens).map_err(|_| wrong())?,
        wait: microseconds(wait),
        left,
        full_in: microseconds(full),
    }))
}

/// What bytes come from and go to.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_four_numbers() {
        let numbers = |numbers: &[i64]| Reply::List(numbers.iter().map(|number| Reply::Number(*number)).collect());
        let grant = read_grant(&numbers(&[3, 0, -2, 1_500_000])).expect("four numbers").expect("a grant");
        assert_eq!((grant.tokens, grant.left, grant.full_in), (3, -2, Duration::from_millis(1_500)));
        assert!(read_grant(&numbers(&[1, 2, 3])).is_err());
        assert!(read_grant(&numbers(&[-1, 0, 0, 0])).is_err());
        assert!(read_grant(&Reply::Nothing).is_ok_and(|grant| grant.is_none()), "what is there is no bucket");
    }
}
