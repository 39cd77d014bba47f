//! What happens in a run: changes of the files, trouble of the network, of processes and of clocks, and requests.
//!
//! Called by `run` once for each event; the dice choose.

use std::net::IpAddr;
use std::time::Duration;

use prost::Message;
use transept_engine::judge::Outcome;
use transept_identity::SpiffeId;
use transept_xds::mesh::{Beat, Condition};

use crate::member::State;
use crate::objects::{Manners, PATHS, SERVICES, identity};
use crate::oracle::Question;
use crate::proxy::Role;
use crate::run::Run;

const HOUR: Duration = Duration::from_secs(3600);

impl Run {
    pub(crate) fn event(&mut self) -> Result<(), String> {
        match self.dice.below(100) {
            0..16 => self.storm(),
            16..30 => self.follow(),
            30..58 => return self.call_some(),
            58..64 => return self.pass_time(),
            64..69 => self.cut_some(),
            69..72 => self.part(),
            72..76 => {
                let member = self.dice.below(self.members.len());
                if self.members[member].is_running() {
                    self.end_member(member, Duration::from_secs(40));
                }
            }
            76..79 => return self.leave(),
            79..81 => self.end_plane(),
            81..85 => self.stop_somebody(),
            85..88 => return self.turn_the_wall_clock(),
            88..91 => return self.intrude(),
            91..93 => self.call_others(),
            93..95 => return self.feel(),
            95..98 => return self.desert(),
            _ => self.fall_ill(),
        }
        Ok(())
    }

    fn storm(&mut self) {
        let count = if self.dice.chance(15) { 12 } else { 1 + self.dice.below(3) };
        for _ in 0..count {
            let said = self.truth.change(&mut self.dice);
            self.note(format!("{}: {said}", self.truth.ops.len()));
        }
    }

    fn follow(&mut self) {
        let plane = self.dice.below(2);
        let (applied, all) = (self.sites[plane].plane.applied, self.truth.ops.len());
        let to = if self.dice.chance(65) { all } else { (applied + 1 + self.dice.below(4)).min(all) };
        if self.sites[plane].state == State::Running && to > applied {
            self.note(format!("plane {plane} follows to {to}"));
            self.sites[plane].plane.follow(&self.truth, to);
        }
    }

    fn call_some(&mut self) -> Result<(), String> {
        let callers: Vec<usize> =
            (0..self.members.len()).filter(|index| self.members[*index].proxy.is_some()).collect();
        for _ in 0..4 + self.dice.below(12) {
            let caller = self.dice.one(&callers);
            if self.dice.chance(35) {
                self.knock(caller)?;
            } else {
                self.call(caller)?;
            }
        }
        Ok(())
    }

    /// Somebody who knows where a program is calls it without asking anybody else.
    fn knock(&mut self, called: usize) -> Result<(), String> {
        let from = identity(self.dice.one(&SERVICES));
        let (method, path) = (self.dice.one(&["GET", "DELETE"]), self.dice.one(&PATHS));
        let member = &self.members[called];
        if member.is_running() && member.workload.is_some() {
            let allowed = self.is_let_in(called, &Question { identity: Some(&from), method, path })?;
            self.saw.extend(allowed.map(|allowed| if allowed { "somebody is let in" } else { "somebody is kept out" }));
        }
        Ok(())
    }

    fn pass_time(&mut self) -> Result<(), String> {
        let time = match self.dice.below(40) {
            0 => HOUR + self.dice.within(Duration::from_secs(200)),
            _ => self.dice.within(Duration::from_secs(100)),
        };
        self.note(format!("{time:?} pass"));
        self.advance(time)
    }

    fn cut_some(&mut self) {
        let open: Vec<u64> = self.links.iter().filter(|(_, link)| !link.cut).map(|(id, _)| *id).collect();
        let Some(id) = self.dice.any(&open) else { return };
        self.note(format!("link {id} breaks"));
        if let Some(link) = self.links.get_mut(&id) {
            link.cut(&mut self.dice, self.now);
        }
    }

    /// Nobody reaches a control plane, or none of both, for a while.
    fn part(&mut self) {
        let which = self.dice.below(3);
        let longest = self.dice.one(&[20, 150, 150, 400]);
        let until = self.now + self.dice.within(Duration::from_secs(longest));
        for plane in (0..2).filter(|plane| which == 2 || which == *plane) {
            self.note(format!("plane {plane} is out of reach until {until:?}"));
            self.sites[plane].away = until;
            for link in self.links.values_mut().filter(|link| link.plane == plane && !link.cut) {
                link.cut(&mut self.dice, self.now);
            }
        }
    }

    /// A member ends in order.
    fn leave(&mut self) -> Result<(), String> {
        let index = self.dice.below(self.members.len());
        let member = &mut self.members[index];
        if !member.is_running() || member.link.is_none() || member.workload.is_none() || member.leaving {
            return Ok(());
        }
        member.leaving = true;
        let beat = member.beat();
        self.note(format!("member {index} leaves"));
        self.send_beat(index, &beat)
    }

    fn end_plane(&mut self) {
        let plane = self.dice.below(2);
        if self.sites[plane].state != State::Running {
            return;
        }
        let until = self.now + self.dice.within(Duration::from_secs(20));
        self.note(format!("plane {plane} is gone until {until:?}"));
        self.sites[plane].state = State::Gone { until };
        for link in self.links.values_mut().filter(|link| link.plane == plane) {
            link.abandon_up(self.now);
        }
    }

    /// A process is stopped for a while, with its clock or without.
    fn stop_somebody(&mut self) {
        let longest = self.dice.one(&[5, 50, 200]);
        let until = self.now + self.dice.within(Duration::from_secs(longest));
        let state = State::Stopped { until, clock_runs: self.dice.chance(50) };
        if self.dice.chance(30) {
            let plane = self.dice.below(2);
            if self.sites[plane].state == State::Running {
                self.note(format!("plane {plane}: {state:?}"));
                self.sites[plane].state = state;
            }
            return;
        }
        let index = self.dice.below(self.members.len());
        if self.members[index].is_running() {
            self.note(format!("member {index}: {state:?}"));
            self.members[index].state = state;
        }
    }

    /// The wall clock jumps, which nobody who is called next should notice.
    fn turn_the_wall_clock(&mut self) -> Result<(), String> {
        let ejects = |index: &usize| self.books[*index].ejects(self.members[*index].clock);
        let index = (0..self.members.len()).find(ejects).unwrap_or_else(|| self.dice.below(self.members.len()));
        let by = self.dice.within(30 * 24 * HOUR);
        let member = &mut self.members[index];
        member.wall = if self.dice.chance(50) { member.wall + by } else { member.wall.saturating_sub(by) };
        self.note(format!("the wall clock of member {index} jumps by {by:?}"));
        for _ in 0..8 {
            self.call(index)?;
        }
        Ok(())
    }

    /// Somebody registers what belongs to another: the name with another nonce, a service with a foreign identity, or a service of its own where another
    /// one is.
    fn intrude(&mut self) -> Result<(), String> {
        let index = self.dice.below(self.members.len());
        let plane = self.dice.below(2);
        let Some(mut workload) = self.members[index].workload.clone() else { return Ok(()) };
        if self.sites[plane].state != State::Running {
            return Ok(());
        }
        let foreign = self.dice.chance(50);
        let service = if foreign { SERVICES.iter().find(|one| **one != workload.services[0]) } else { None };
        let who = identity(service.copied().unwrap_or(&workload.services[0]));
        let who = SpiffeId::parse(&who).map_err(|error| error.to_string())?;
        if let Some(own) = service.filter(|_| self.dice.chance(50)) {
            workload.name = format!("{own}-{}", 90 + index);
            (workload.services, workload.service_account) = (vec![(*own).to_owned()], (*own).to_owned());
        }
        self.note(format!("{who} registers {} at plane {plane}", workload.name));
        let from = self.members[index].address.into();
        let beat = Beat { workload: Some(workload), nonce: b"another".as_slice().into(), ..Beat::default() };
        let plane = &mut self.sites[plane].plane;
        plane.accept(u64::MAX, None, who, from);
        plane.beat(u64::MAX, &beat.encode_to_vec())?;
        plane.depart(u64::MAX);
        Ok(())
    }

    fn call_others(&mut self) {
        let index = self.dice.below(self.members.len());
        let others = (0..1 + self.dice.below(3)).map(|_| self.dice.one(&SERVICES)).collect();
        let Some(proxy) = &mut self.members[index].proxy else { return };
        if self.truth.manners == Manners::Wild && matches!(proxy.role, Role::Sidecar(..)) {
            proxy.call_others(others);
            self.note(format!("member {index} is {:?}", self.members[index].proxy.as_ref().map(|proxy| &proxy.role)));
        }
    }

    /// A program is well or is not, and its proxy says so.
    fn feel(&mut self) -> Result<(), String> {
        let index = self.dice.below(self.members.len());
        let condition =
            self.dice.one(&[Condition::Healthy, Condition::Healthy, Condition::Unhealthy, Condition::Draining]);
        let member = &mut self.members[index];
        if !member.is_running() || member.link.is_none() || member.workload.is_none() || member.leaving {
            return Ok(());
        }
        let beat = member.register(condition);
        self.note(format!("member {index} is {condition:?}"));
        self.send_beat(index, &beat)
    }

    /// Of a service with a silent instance nobody else is left: the others say that they are not well, or cannot be reached.
    fn desert(&mut self) -> Result<(), String> {
        let entries = self.sites.iter().flat_map(|site| site.plane.registry.iter());
        let silent: Vec<(String, IpAddr)> = entries
            .filter(|(_, entry)| entry.lapsed)
            .filter_map(|(_, entry)| Some((entry.workload.services[0].clone(), entry.workload.address.parse().ok()?)))
            .collect();
        let Some((service, here)) = self.dice.any(&silent) else { return Ok(()) };
        self.note(format!("of {service} nobody is left but {here}, which is silent"));
        let number = SERVICES.iter().position(|one| *one == service).unwrap_or_default() as u8;
        self.sick.extend((0..8).map(|at| (IpAddr::from([10, 1, number, at]), Outcome::Unreachable)));
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            if *member.service != *service || IpAddr::from(member.address) == here {
                continue;
            }
            let is_there = member.is_running() && member.link.is_some() && member.workload.is_some() && !member.leaving;
            if is_there && self.dice.chance(50) {
                let beat = member.register(Condition::Unhealthy);
                self.send_beat(index, &beat)?;
            } else {
                self.sick.insert(member.address.into(), Outcome::Unreachable);
            }
        }
        self.advance(Duration::from_secs(8))?;
        let callers: Vec<usize> =
            (0..self.members.len()).filter(|index| self.members[*index].proxy.is_some()).collect();
        for _ in 0..40 {
            let caller = self.dice.one(&callers);
            self.call(caller)?;
        }
        Ok(())
    }

    fn fall_ill(&mut self) {
        let address = match self.dice.below(4) {
            0 => self.members[self.dice.below(self.members.len())].address,
            kind => {
                [10, kind as u8, if kind == 3 { 0 } else { self.dice.below(4) as u8 }, self.dice.below(6) as u8].into()
            }
        };
        let outcomes =
            [Outcome::Status(500), Outcome::Status(503), Outcome::Reset, Outcome::TimedOut, Outcome::Unreachable];
        let outcome = self.dice.one(&outcomes);
        if self.dice.chance(15) {
            self.sick.clear();
        }
        self.note(format!("{address} answers {outcome:?}"));
        self.sick.insert(address.into(), outcome);
    }
}
