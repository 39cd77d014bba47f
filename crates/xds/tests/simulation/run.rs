//! One run: what may happen, in an order that the dice choose, and what must hold after each event and in the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use transept_xds::Version;

use crate::dice::Dice;
use crate::plane::Plane;
use crate::proxy::Proxy;
use crate::truth::{NAMES, Op, Truth, fault, key, types};

/// What kind of trouble a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything at once.
    Wild,
    /// Changes keep routes and services together, nothing is refused, settled out of order or asked for no more. So a route must never
    /// be in force without its service, whatever happens to connections and control planes.
    Gentle,
}

/// Bytes in one direction, as frames with their length before them.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    arrived: VecDeque<u8>,
}

impl Pipe {
    fn push(&mut self, frame: &[u8]) {
        self.bytes.extend((frame.len() as u32).to_be_bytes());
        self.bytes.extend(frame);
    }

    /// Moves some bytes to the other end and takes out the frames that are whole there.
    fn deliver(&mut self, count: usize) -> Vec<Vec<u8>> {
        let count = count.min(self.bytes.len());
        self.arrived.extend(self.bytes.drain(..count));
        let mut frames = Vec::new();
        while self.arrived.len() >= 4 {
            let length = self.arrived.iter().take(4).fold(0, |length, byte| length << 8 | usize::from(*byte));
            if self.arrived.len() < 4 + length {
                break;
            }
            frames.push(self.arrived.drain(..4 + length).skip(4).collect());
        }
        frames
    }
}

struct Link {
    proxy: usize,
    plane: usize,
    up: Pipe,
    down: Pipe,
    cut: bool,
}

pub(crate) struct Run {
    dice: Dice,
    mode: Mode,
    now: Duration,
    truth: Truth,
    planes: Vec<Plane>,
    proxies: Vec<Proxy>,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    /// Whether faults happen.
    troubled: bool,
    /// Messages in both directions.
    pub(crate) messages: usize,
    pub(crate) trace: Vec<String>,
}

/// Events of a run before the faults stop.
const EVENTS: usize = 160;
/// Virtual time in which everything must have come together after the last fault.
const PATIENCE: Duration = Duration::from_secs(180);
/// Seconds in which nothing must be said once everything has come together.
const QUIET: usize = 20;

impl Run {
    pub(crate) fn new(seed: u64, mode: Mode) -> Self {
        let mut dice = Dice::new(seed);
        let response_bytes = [1, 150, 400, 1 << 20][dice.below(4)];
        let planes = vec![Plane::new("one", response_bytes), Plane::new("two", response_bytes)];
        let count = 1 + dice.below(3);
        let proxies = (0..count).map(|index| {
            let everything = types().into_iter().collect();
            Proxy::new(index, if dice.chance(50) { everything } else { BTreeSet::new() })
        });
        let proxies = proxies.collect();
        Self {
            dice,
            mode,
            now: Duration::ZERO,
            truth: Truth::default(),
            planes,
            proxies,
            links: BTreeMap::new(),
            next_link: 0,
            troubled: true,
            messages: 0,
            trace: Vec::new(),
        }
    }

    /// The whole run.
    pub(crate) fn play(&mut self) -> Result<(), String> {
        for _ in 0..EVENTS {
            self.event()?;
            self.drive()?;
            self.check()?;
        }
        self.calm()?;
        self.quiet()?;
        self.reconnect_is_free()
    }

    fn note(&mut self, what: String) {
        self.trace.push(what);
    }

    fn event(&mut self) -> Result<(), String> {
        match self.dice.below(100) {
            0..12 => self.storm(),
            12..24 => {
                let (plane, step) = (self.dice.below(2), 1 + self.dice.below(6));
                let to = (self.planes[plane].applied + step).min(self.truth.ops.len());
                self.note(format!("plane {plane} follows to {to}"));
                self.planes[plane].follow(&self.truth, to);
            }
            24..60 => return self.deliver_some(),
            60..75 => {
                let proxy = self.dice.below(self.proxies.len());
                let waiting = self.proxies[proxy].batches.len();
                let at = if self.mode == Mode::Wild { self.dice.below(waiting) } else { 0 };
                self.note(format!("proxy {proxy} settles {at} of {waiting}"));
                return self.proxies[proxy].settle(at, &self.truth);
            }
            75..83 => self.change_interest(),
            83..85 => return self.repeat(),
            85..92 => self.pass_time(),
            92..96 => self.cut(),
            96..98 => self.restart_plane(),
            _ => self.restart_proxy(),
        }
        Ok(())
    }

    fn storm(&mut self) {
        let count = if self.dice.chance(20) { 15 } else { 1 + self.dice.below(3) };
        self.note(format!("{count} changes from {}", self.truth.ops.len()));
        for _ in 0..count {
            match self.mode {
                Mode::Wild => self.truth.wild(&mut self.dice, self.proxies.len()),
                Mode::Gentle => self.truth.gentle(&mut self.dice),
            }
        }
    }

    fn deliver_some(&mut self) -> Result<(), String> {
        let ids: Vec<u64> = self.links.keys().copied().collect();
        let Some(id) = self.dice.pick(&ids) else { return Ok(()) };
        let most = [40, 400, 1 << 20][self.dice.below(3)];
        let count = 1 + self.dice.below(most);
        let upward = self.dice.chance(50);
        self.deliver(id, upward, count)
    }

    fn deliver(&mut self, id: u64, upward: bool, count: usize) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let pipe = if upward { &mut link.up } else { &mut link.down };
        let frames = pipe.deliver(count);
        let ended = link.cut && pipe.bytes.is_empty();
        let (proxy, plane) = (link.proxy, link.plane);
        self.messages += frames.len();
        self.trace.push(format!("link {id}: {} frames {}", frames.len(), if upward { "up" } else { "down" }));
        for frame in frames {
            if upward {
                self.planes[plane].receive(self.now, id, &frame)?;
            } else if self.proxies[proxy].link == Some(id) {
                let applied = self.planes[plane].applied;
                self.proxies[proxy].receive(&frame, plane, applied)?;
                // A response may arrive twice. A request may not: both ends of a stream count them.
                if self.troubled && self.dice.chance(10) {
                    self.proxies[proxy].receive(&frame, plane, applied)?;
                }
                self.proxies[proxy].latest = Some((id, frame));
            }
        }
        if ended && upward {
            self.planes[plane].sessions.remove(&id);
        } else if ended {
            self.hang_up(id);
        }
        Ok(())
    }

    /// The latest response arrives once more, after what its proxy has done meanwhile.
    fn repeat(&mut self) -> Result<(), String> {
        let index = self.dice.below(self.proxies.len());
        let proxy = &mut self.proxies[index];
        let Some((id, frame)) = proxy.latest.clone().filter(|(id, _)| proxy.link == Some(*id)) else { return Ok(()) };
        let Some(link) = self.links.get(&id) else { return Ok(()) };
        self.trace.push(format!("proxy {index} hears its latest response again"));
        proxy.receive(&frame, link.plane, self.planes[link.plane].applied)
    }

    /// The proxy learns that its link is gone.
    fn hang_up(&mut self, id: u64) {
        let random = self.dice.next();
        for proxy in self.proxies.iter_mut().filter(|proxy| proxy.link == Some(id)) {
            proxy.link = None;
            proxy.client.disconnected(proxy.clock, random);
        }
    }

    fn change_interest(&mut self) {
        let proxy = self.dice.below(self.proxies.len());
        let type_url = self.dice.pick(&types()).expect("types");
        let mut name = key(&type_url, self.dice.below(NAMES));
        let leave = self.mode == Mode::Wild && self.dice.chance(40);
        if leave {
            let names: Vec<_> = self.proxies[proxy].names.iter().cloned().collect();
            name = self.dice.pick(&names).unwrap_or(name);
        }
        let all = self.mode == Mode::Wild && self.dice.chance(10);
        self.note(format!("proxy {proxy}: {name}, leave {leave}, all {all}"));
        let proxy = &mut self.proxies[proxy];
        if all {
            proxy.toggle_all(&type_url);
        } else if leave {
            proxy.unsubscribe(&name);
        } else {
            proxy.subscribe(&name);
        }
    }

    fn pass_time(&mut self) {
        let step = match self.dice.below(10) {
            0 => Duration::from_secs(1 + self.dice.below(20) as u64),
            _ => Duration::from_millis(self.dice.below(800) as u64),
        };
        self.advance(step);
        if self.dice.chance(15) {
            let proxy = self.dice.below(self.proxies.len());
            let clock = &mut self.proxies[proxy].clock;
            *clock = match self.dice.below(2) {
                0 => clock.saturating_sub(Duration::from_secs(5)),
                _ => *clock + Duration::from_secs(1 + self.dice.below(3600) as u64),
            };
            self.note(format!("the clock of proxy {proxy} jumps"));
        }
        self.note(format!("{step:?} pass"));
    }

    fn advance(&mut self, step: Duration) {
        self.now += step;
        for proxy in &mut self.proxies {
            proxy.clock += step;
            proxy.expire();
        }
    }

    /// Cuts a link: of what is on its way some bytes arrive, and each end learns of it after the last of them.
    fn cut(&mut self) {
        let ids: Vec<u64> = self.links.keys().copied().collect();
        let Some(id) = self.dice.pick(&ids) else { return };
        self.note(format!("link {id} is cut"));
        let Some(link) = self.links.get_mut(&id) else { return };
        link.cut = true;
        for pipe in [&mut link.up, &mut link.down] {
            let kept = self.dice.below(pipe.bytes.len() + 1);
            pipe.bytes.truncate(kept);
        }
    }

    fn restart_plane(&mut self) {
        let plane = self.dice.below(2);
        self.note(format!("plane {plane} restarts"));
        self.planes[plane].restart(&mut self.dice, &self.truth);
        for link in self.links.values_mut().filter(|link| link.plane == plane) {
            link.cut = true;
            link.up.bytes.clear();
        }
    }

    fn restart_proxy(&mut self) {
        let proxy = self.dice.below(self.proxies.len());
        self.note(format!("proxy {proxy} restarts"));
        self.proxies[proxy].restart();
        for link in self.links.values_mut().filter(|link| link.proxy == proxy) {
            link.cut = true;
            link.down.bytes.clear();
        }
    }

    /// What happens by itself: dialling, sending.
    fn drive(&mut self) -> Result<(), String> {
        for index in 0..self.proxies.len() {
            let proxy = &mut self.proxies[index];
            if let Some(plane) = proxy.client.dial(proxy.clock) {
                if self.troubled && self.dice.chance(30) {
                    proxy.client.disconnected(proxy.clock, self.dice.next());
                } else {
                    proxy.client.connected(proxy.clock);
                    self.next_link += 1;
                    proxy.link = Some(self.next_link);
                    let (up, down) = (Pipe::default(), Pipe::default());
                    self.links.insert(self.next_link, Link { proxy: index, plane, up, down, cut: false });
                    self.planes[plane].accept(self.next_link, index);
                    self.trace.push(format!("proxy {index} reaches plane {plane} by link {}", self.next_link));
                }
            }
            let lazy = self.troubled && self.dice.chance(40);
            if let Some(link) = proxy.link.filter(|_| !lazy).and_then(|id| self.links.get_mut(&id)) {
                while let Some(request) = proxy.client.next_request() {
                    if !link.cut {
                        link.up.push(&prost::Message::encode_to_vec(&request));
                    }
                }
            }
        }
        let ids: Vec<u64> = self.links.keys().copied().collect();
        for id in ids {
            if self.troubled && self.dice.chance(30) {
                continue;
            }
            let Some(link) = self.links.get_mut(&id) else { continue };
            for frame in self.planes[link.plane].poll(self.now, id)? {
                if !link.cut {
                    link.down.push(&frame);
                }
            }
            let known = self.planes[link.plane].sessions.contains_key(&id);
            if link.cut && !known && self.proxies[link.proxy].link != Some(id) {
                self.links.remove(&id);
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        for proxy in &self.proxies {
            proxy.check(self.mode == Mode::Gentle)?;
            let Some((id, link)) = proxy.link.and_then(|id| Some((id, self.links.get(&id)?))) else { continue };
            let Some(session) = self.planes[link.plane].sessions.get(&id) else { continue };
            let idle = |pipe: &Pipe| pipe.bytes.is_empty() && pipe.arrived.is_empty();
            let silent = idle(&link.up) && idle(&link.down) && proxy.batches.is_empty() && !link.cut;
            if !silent
                || session.unanswered_since().is_some()
                || proxy.client.has_requests()
                || session.types().count() == 0
            {
                continue;
            }
            // What has an end may have ended without a word.
            let mut believed: BTreeMap<_, _> = session.holdings().filter(|(key, _)| key.type_url != fault()).collect();
            for (key, held) in proxy.client.holdings().filter(|(key, _)| key.type_url != fault()) {
                if believed.remove(&key) != Some(Version::parse(&held.version)) {
                    return Err(format!(
                        "proxy {} holds {key} in a version that its session does not know",
                        proxy.index
                    ));
                }
            }
            // What it refused it announces, so as to be told of its end.
            if let Some(key) = believed.keys().find(|key| !proxy.client.is_refused(key)) {
                return Err(format!("proxy {} does not hold {key}, its session believes it does", proxy.index));
            }
        }
        Ok(())
    }

    /// The faults stop; everything comes together.
    fn calm(&mut self) -> Result<(), String> {
        self.note("calm".into());
        self.troubled = false;
        if self.dice.chance(50) {
            let faults: Vec<_> = self.truth.live.keys().filter(|key| key.type_url == fault()).cloned().collect();
            for key in faults {
                self.truth.push(Op::Remove(key));
            }
        }
        let all = self.truth.ops.len();
        for plane in &mut self.planes {
            plane.follow(&self.truth, all);
        }
        let (end, before) = (self.now + PATIENCE, self.messages);
        while self.now < end {
            self.settle_down()?;
            if self.converged().is_ok() {
                let most = 400 * self.proxies.len();
                let spent = self.messages - before;
                return if spent <= most { Ok(()) } else { Err(format!("{spent} messages to come together")) };
            }
            self.advance(self.until_something());
        }
        self.converged().map_err(|why| format!("not together after {PATIENCE:?}: {why}"))
    }

    /// The time until somebody wants to do something by itself.
    fn until_something(&self) -> Duration {
        let proxies = self.proxies.iter().filter_map(|proxy| Some(proxy.client.wake_at()?.saturating_sub(proxy.clock)));
        let sessions = self.planes.iter().flat_map(|plane| plane.sessions.values());
        let sessions = sessions.filter_map(|session| Some(session.wake_at()?.saturating_sub(self.now)));
        proxies.chain(sessions).min().unwrap_or(PATIENCE).max(Duration::from_millis(1))
    }

    /// Delivers and settles until nothing moves.
    fn settle_down(&mut self) -> Result<(), String> {
        for _ in 0..1000 {
            let before = self.messages;
            self.drive()?;
            let ids: Vec<u64> = self.links.keys().copied().collect();
            for id in ids {
                self.deliver(id, true, usize::MAX)?;
                self.deliver(id, false, usize::MAX)?;
            }
            let mut settled = false;
            for proxy in &mut self.proxies {
                while !proxy.batches.is_empty() {
                    proxy.settle(0, &self.truth)?;
                    settled = true;
                }
            }
            self.check()?;
            if self.messages == before && !settled {
                return Ok(());
            }
        }
        Err("messages go back and forth for ever".into())
    }

    fn converged(&self) -> Result<(), String> {
        for proxy in &self.proxies {
            let index = proxy.index;
            if proxy.link.is_none() {
                return Err(format!("proxy {index} is not connected"));
            }
            let wanted = self.truth.wanted(index, &proxy.names, &proxy.all);
            for (key, spec) in &wanted {
                let version = spec.version.as_str();
                let held = proxy.force.get(*key).map(|force| force.version.as_ref());
                if spec.bad && held == Some(version) {
                    return Err(format!("proxy {index} holds {key} although it is bad"));
                }
                if !spec.bad && held != Some(version) {
                    return Err(format!("proxy {index} holds {key} in {held:?} instead of {version}"));
                }
            }
            if let Some(key) = proxy.force.keys().find(|key| !wanted.contains_key(key)) {
                return Err(format!("proxy {index} holds {key}, which it should not"));
            }
            if !proxy.client.is_synced() || !proxy.names.iter().all(|key| proxy.client.is_answered(key)) {
                return Err(format!("proxy {index} does not know that it was told everything"));
            }
        }
        Ok(())
    }

    /// Once together, nobody has anything to say but heartbeats.
    fn quiet(&mut self) -> Result<(), String> {
        let beats = self.truth.live.keys().filter(|key| key.type_url == fault()).count();
        let before = self.messages;
        for _ in 0..QUIET {
            self.advance(Duration::from_secs(1));
            self.settle_down()?;
        }
        self.converged()?;
        // A heartbeat a second for each, with its answer.
        let most = 2 * QUIET * beats * self.proxies.len();
        let spent = self.messages - before;
        if spent > most { Err(format!("{spent} messages without a change")) } else { Ok(()) }
    }

    /// A proxy that comes back is sent nothing that it holds.
    fn reconnect_is_free(&mut self) -> Result<(), String> {
        for link in self.links.values_mut() {
            link.cut = true;
        }
        for proxy in &mut self.proxies {
            proxy.bodies = 0;
        }
        let (ids, mut waits): (Vec<u64>, usize) = (self.links.keys().copied().collect(), 0);
        for id in ids {
            self.deliver(id, true, usize::MAX)?;
            self.deliver(id, false, usize::MAX)?;
        }
        self.settle_down()?;
        while self.converged().is_err() && waits < 200 {
            self.advance(self.until_something());
            self.settle_down()?;
            waits += 1;
        }
        self.converged()?;
        for proxy in &self.proxies {
            let wanted = self.truth.wanted(proxy.index, &proxy.names, &proxy.all);
            // What was refused is offered once more to every stream; what has an end may have ended meanwhile.
            let may = wanted.values().filter(|spec| spec.bad || spec.ttl.is_some()).count();
            if proxy.bodies > may {
                return Err(format!("proxy {} was sent {} bodies anew, {may} at most", proxy.index, proxy.bodies));
            }
        }
        Ok(())
    }
}
