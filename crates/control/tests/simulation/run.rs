//! One run: a world, and the time that passes in it. What happens is chosen in `events`, what is asked in `calls`, what must hold in
//! the end in `together`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use prost::Message;
use transept_engine::judge::Outcome;
use transept_xds::mesh::{Answer, Beat};

use crate::calls::Books;
use crate::dice::Dice;
use crate::member::{Member, State};
use crate::network::{Link, Stream};
use crate::objects::{GATEWAY, SERVICES};
use crate::plane::Plane;
use crate::proxy::{Proxy, Role};
use crate::truth::Truth;

/// Events of a run before the trouble stops.
const EVENTS: usize = 50;
/// How long a proxy may hold what its control plane does not publish any more, on a connection that lives.
const BOUND: Duration = Duration::from_secs(60);
/// How long it takes at most to put a configuration into force, and to write it to the disk.
const COMPILING: Duration = Duration::from_secs(6);
const STORING: Duration = Duration::from_secs(2);
/// How long one step of time may not be.
const TICK: Duration = Duration::from_millis(1);

/// A control plane, and how it stands.
pub(crate) struct Site {
    pub(crate) plane: Plane,
    pub(crate) state: State,
    /// Until when nobody reaches it.
    pub(crate) away: Duration,
    /// Since when nothing was wrong with it.
    pub(crate) steady: Duration,
}

pub(crate) struct Run {
    pub(crate) dice: Dice,
    pub(crate) now: Duration,
    pub(crate) truth: Truth,
    pub(crate) sites: Vec<Site>,
    pub(crate) members: Vec<Member>,
    pub(crate) links: BTreeMap<u64, Link>,
    pub(crate) books: Vec<Books>,
    /// Addresses where not everything is well.
    pub(crate) sick: BTreeMap<IpAddr, Outcome>,
    /// Whether there is trouble.
    pub(crate) troubled: bool,
    /// Whether responses are small; then much time may pass until everything is told.
    pub(crate) small: bool,
    next_link: u64,
    /// Messages of discovery that were sent.
    pub(crate) told: usize,
    /// Since when each member was not disturbed.
    steady: Vec<Duration>,
    pub(crate) trace: Vec<String>,
    /// What has happened in it.
    pub(crate) saw: BTreeSet<&'static str>,
}

impl Run {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let truth = Truth::new(&mut dice);
        let small = dice.chance(20);
        let response_bytes = if small { 1 + dice.below(800) } else { 4 << 20 };
        let begin = truth.ops.len();
        let site = |_| {
            let mut plane = Plane::new(&truth.workshop.kinds, response_bytes);
            plane.follow(&truth, begin);
            Site { plane, state: State::Running, away: Duration::ZERO, steady: Duration::ZERO }
        };
        let sites = (0..2).map(site).collect();
        let members = gather(&mut dice);
        let count = members.len();
        Self {
            dice,
            now: Duration::ZERO,
            truth,
            sites,
            books: members.iter().map(|_| Books::default()).collect(),
            members,
            links: BTreeMap::new(),
            sick: BTreeMap::new(),
            troubled: true,
            small,
            next_link: 0,
            told: 0,
            steady: vec![Duration::ZERO; count],
            trace: Vec::new(),
            saw: BTreeSet::new(),
        }
    }

    /// The whole run.
    pub(crate) fn play(&mut self) -> Result<(), String> {
        for _ in 0..EVENTS {
            self.event()?;
            let pause = self.dice.within(Duration::from_millis(1500));
            self.advance(pause)?;
        }
        self.calm()?;
        self.sites.iter().for_each(|site| self.saw.extend(&site.plane.saw));
        Ok(())
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        self.trace.push(format!("{:>9.3}s  {}", self.now.as_secs_f64(), what.into()));
    }

    /// Lets time pass; whatever is due in it happens.
    pub(crate) fn advance(&mut self, time: Duration) -> Result<(), String> {
        let end = self.now + time;
        loop {
            self.drive()?;
            if self.now >= end {
                return self.check_age();
            }
            let next = self.next().unwrap_or(end).clamp(self.now + TICK, end.max(self.now + TICK));
            let step = next - self.now;
            self.now = next;
            for site in &mut self.sites {
                match site.state {
                    State::Stopped { clock_runs: false, .. } | State::Gone { .. } => {}
                    _ => site.plane.clock += step,
                }
            }
            self.members.iter_mut().for_each(|member| member.pass(step));
        }
    }

    /// When something is due next.
    fn next(&self) -> Option<Duration> {
        let links = self.links.values().filter(|link| self.hears(link)).filter_map(Link::next);
        let members = self.members.iter().filter_map(|member| member.wakes(self.now));
        let sites = self.sites.iter().map(|site| match site.state {
            State::Stopped { until, .. } | State::Gone { until } => until,
            State::Running => self.now + site.plane.next_sweep().saturating_sub(site.plane.clock),
        });
        links.chain(members).chain(sites).filter(|at| *at > self.now).min()
    }

    fn hears(&self, link: &Link) -> bool {
        self.sites[link.plane].state == State::Running || self.members[link.member].is_running()
    }

    /// Does everything that is due now.
    fn drive(&mut self) -> Result<(), String> {
        self.wake()?;
        for plane in 0..self.sites.len() {
            if self.sites[plane].state == State::Running {
                self.drive_plane(plane)?;
            }
        }
        for member in 0..self.members.len() {
            if self.members[member].is_running() {
                self.drive_member(member)?;
            }
        }
        Ok(())
    }

    /// Whoever was stopped or gone for long enough goes on.
    fn wake(&mut self) -> Result<(), String> {
        for (index, site) in self.sites.iter_mut().enumerate() {
            match site.state {
                State::Stopped { until, .. } if until <= self.now => {
                    site.state = State::Running;
                    site.steady = self.now;
                    // It may look after the leases before it has read what has arrived.
                    if self.dice.chance(50) {
                        site.plane.sweep()?;
                    }
                }
                State::Gone { until } if until <= self.now => {
                    site.state = State::Running;
                    site.steady = self.now;
                    site.plane.restart()?;
                    self.trace.push(format!("plane {index} is back"));
                }
                _ => {}
            }
        }
        for index in 0..self.members.len() {
            match self.members[index].state {
                State::Stopped { until, .. } if until <= self.now => {
                    self.members[index].state = State::Running;
                    self.steady[index] = self.now;
                }
                State::Gone { until } if until <= self.now => {
                    self.members[index].restart();
                    self.books[index] = Books::default();
                    self.steady[index] = self.now;
                    self.note(format!("member {index} is back"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn drive_plane(&mut self, plane: usize) -> Result<(), String> {
        let Run { dice, now, truth, sites, links, told, .. } = self;
        let control = &mut sites[plane].plane;
        for (id, link) in links.iter_mut().filter(|(_, link)| link.plane == plane) {
            while let Some(message) = link.up.take(Stream::Beats, *now) {
                if let Some(answer) = control.beat(*id, &message)? {
                    link.send_down(dice, *now, Stream::Beats, answer.encode_to_vec())?;
                }
            }
            while let Some(message) = link.up.take(Stream::Discovery, *now) {
                control.hear(*id, &message)?;
            }
            if link.up.is_over(*now) {
                control.depart(*id);
            }
        }
        control.sweep()?;
        control.publish(*now, &truth.workshop.kinds, &mut truth.archive)?;
        for (id, link) in links.iter_mut().filter(|(_, link)| link.plane == plane) {
            for frame in control.poll(*id)? {
                // On a link that is gone a control plane may go on for a while; nobody hears it.
                *told += usize::from(!link.cut);
                link.send_down(dice, *now, Stream::Discovery, frame)?;
            }
        }
        Ok(())
    }

    fn drive_member(&mut self, index: usize) -> Result<(), String> {
        self.listen(index)?;
        if self.members[index].ends_at.is_some_and(|at| at <= self.members[index].clock) {
            self.end_member(index, Duration::from_secs(60));
            return Ok(());
        }
        let member = &mut self.members[index];
        let (clock, dial_at) = (member.clock, member.dial_at);
        let server = match &mut member.proxy {
            Some(proxy) => {
                let (ready, stored) = (clock + self.dice.within(COMPILING), clock + self.dice.within(STORING));
                proxy.store(clock, stored);
                proxy.publish(clock, ready, stored).map_err(|why| format!("member {index}: {why}"))?;
                proxy.client.dial(clock).map(|server| (server + index) % 2)
            }
            None => (member.link.is_none() && dial_at <= clock).then(|| self.dice.below(2)),
        };
        if let Some(server) = server {
            self.dial(index, server)?;
        }
        let member = &mut self.members[index];
        if member.link.is_some() && member.beat_at.is_some_and(|at| at <= member.clock) {
            let beat = member.beat();
            self.send_beat(index, &beat)?;
        }
        let Run { dice, now, members, links, told, .. } = self;
        let member = &mut members[index];
        if let (Some(proxy), Some(link)) = (&mut member.proxy, member.link.and_then(|id| links.get_mut(&id))) {
            while let Some(request) = proxy.client.next_request() {
                *told += 1;
                link.send_up(dice, *now, Stream::Discovery, request.encode_to_vec())?;
            }
        }
        Ok(())
    }

    /// Takes in what has arrived at a member.
    fn listen(&mut self, index: usize) -> Result<(), String> {
        let Run { dice, now, members, links, truth, saw, .. } = self;
        let member = &mut members[index];
        let Some(id) = member.link else { return Ok(()) };
        let Some(link) = links.get_mut(&id) else { return Ok(()) };
        let mut ends = false;
        while let Some(message) = link.down.take(Stream::Beats, *now) {
            let answer = Answer::decode(message.as_slice()).map_err(|error| error.to_string())?;
            ends |= member.answered(&answer);
        }
        while let Some(message) = link.down.take(Stream::Discovery, *now) {
            if let Some(proxy) = &mut member.proxy {
                proxy
                    .receive(member.clock, &message, &truth.archive)
                    .map_err(|why| format!("member {index}: {why}"))?;
            }
        }
        saw.extend(link.has_repeated.then_some("a message that arrives twice"));
        if link.down.is_over(*now) {
            member.closed(dice);
        }
        if ends && member.ends_at.is_none() {
            // What is under way at its program ends first.
            member.ends_at = Some(member.clock + dice.within(Duration::from_secs(15)));
        }
        self.links.retain(|id, link| {
            let known = self.sites[link.plane].plane.seats.contains_key(id);
            !link.cut || known || self.members[link.member].link == Some(*id)
        });
        Ok(())
    }

    fn dial(&mut self, index: usize, plane: usize) -> Result<(), String> {
        let site = &mut self.sites[plane];
        let lost = self.troubled && self.dice.chance(15);
        if site.state != State::Running || site.away > self.now || lost {
            self.members[index].closed(&mut self.dice);
            return Ok(());
        }
        self.next_link += 1;
        let id = self.next_link;
        let slow = self.troubled && !self.small && self.dice.chance(30);
        let member = &mut self.members[index];
        site.plane.accept(id, member.viewer(), member.who.clone(), member.address.into());
        let mut link = Link::new(index, plane, self.now, slow);
        if !self.troubled {
            link.heal();
        }
        self.links.insert(id, link);
        if let Some(proxy) = &mut member.proxy {
            proxy.client.connected(member.clock);
        }
        let beat = member.opened(id);
        self.note(format!("member {index} reaches plane {plane} by link {id}"));
        self.send_beat(index, &beat)
    }

    pub(crate) fn send_beat(&mut self, index: usize, beat: &Beat) -> Result<(), String> {
        let link = self.members[index].link.and_then(|id| self.links.get_mut(&id));
        link.map_or(Ok(()), |link| link.send_up(&mut self.dice, self.now, Stream::Beats, beat.encode_to_vec()))
    }

    /// The process of a member is gone, and comes back within `most`.
    pub(crate) fn end_member(&mut self, index: usize, most: Duration) {
        let until = self.now + self.dice.within(most);
        self.note(format!("member {index} is gone until {until:?}"));
        let member = &mut self.members[index];
        member.state = State::Gone { until };
        if let Some(link) = member.link.take().and_then(|id| self.links.get_mut(&id)) {
            link.abandon_down(self.now);
        }
    }

    /// What a proxy holds is what its control plane says, or said a short while ago.
    fn check_age(&self) -> Result<(), String> {
        for (index, member) in self.members.iter().enumerate().filter(|(_, member)| member.is_running()) {
            let Some((proxy, id)) = member.proxy.as_ref().zip(member.link) else { continue };
            let Some(link) = self.links.get(&id).filter(|link| !link.cut && !self.small) else { continue };
            let site = &self.sites[link.plane];
            let calm = site.state == State::Running;
            let since = link.opened.max(site.steady).max(self.steady[index]);
            if !calm || since + BOUND > self.now || proxy.snapshot.is_none() {
                continue;
            }
            for (key, version) in &proxy.in_force.held {
                let published = site.plane.published.get(key);
                let same = published.is_some_and(|spec| *spec.version == **version || spec.bad);
                let old = site.plane.since.get(key).is_none_or(|since| *since + BOUND < self.now);
                if !same && old {
                    return Err(format!(
                        "member {index} still has {key} in force, which plane {} dropped long ago",
                        link.plane
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The members: sidecars, open ones among them, the gateway, and instances whose proxies are not simulated.
fn gather(dice: &mut Dice) -> Vec<Member> {
    let mut members = Vec::new();
    let mut add = |service: &'static str, role: Option<Role>| {
        let number = members.len();
        members.push(Member::new(service, number, role.map(Proxy::new)));
    };
    // The first is beside the service that is guarded.
    for at in 0..1 + dice.below(4) {
        let service = if at == 0 { SERVICES[0] } else { dice.one(&SERVICES) };
        let called = (0..1 + dice.below(3)).map(|_| dice.one(&SERVICES)).collect();
        add(service, Some(if dice.chance(25) { Role::Open(service) } else { Role::Sidecar(service, called) }));
    }
    if dice.chance(60) {
        add(GATEWAY, Some(Role::Gateway));
    }
    for _ in 0..dice.below(5) {
        add(dice.one(&SERVICES), None);
    }
    members
}
