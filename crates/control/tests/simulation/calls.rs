//! Requests: from a program or from outside, through the verbs of the engine at the side of the caller, to an endpoint, and through the
//! verbs at the side that is called; each decision is compared with the oracle, and each choice with what is known of endpoints.
//!
//! Called by `events`. What an endpoint does is written in the run: it answers, is ill, or is not there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use transept_engine::Now;
use transept_engine::balance::Event;
use transept_engine::explain::{Ask, Explanation, explain};
use transept_engine::judge::{self, Attempt, Judgement, Outcome, Resend, Terms, judge};
use transept_engine::pick::{self, Call, Chosen, Probe};
use transept_engine::reason::Reason;
use transept_engine::rule::{RouteKind, Rule};
use transept_engine::snapshot::{Backend, Snapshot};
use transept_engine::traffic::{Resource, Verdicts, Wellness};

use crate::objects::{Manners, PATHS, Place, SERVICES, identity};
use crate::oracle::{self, Force, Question};
use crate::proxy::{OUTBOUND, PROGRAM, Role, service_of};
use crate::run::Run;

/// How many requests may be under way at a proxy.
const UNDER_WAY: usize = 4;

/// What is noted beside the memory of a worker.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// Requests and retries that were counted, by rule or backend.
    budgets: BTreeMap<u64, (Vec<Duration>, Vec<Duration>)>,
    /// Until when endpoints are ejected, by backend.
    ejected: BTreeMap<(u64, SocketAddr), Duration>,
}

/// A request.
#[derive(Clone, Debug)]
struct Wish {
    method: &'static str,
    path: &'static str,
}

impl Run {
    /// The program beside a proxy, or somebody before the gateway, sends a request.
    pub(crate) fn call(&mut self, caller: usize) -> Result<(), String> {
        let wish =
            Wish { method: self.dice.one(&["GET", "GET", "GET", "DELETE", "POST"]), path: self.dice.one(&PATHS) };
        let at = self.dice.below(SERVICES.len());
        let random = self.dice.next();
        self.end_some(caller);
        let member = &self.members[caller];
        let Some(proxy) = member.proxy.as_ref().filter(|_| member.is_running()) else { return Ok(()) };
        let Some(snapshot) = proxy.snapshot.clone() else { return Ok(()) };
        let force = Force::of_proxy(proxy, &self.truth.archive)?;
        let url = match &proxy.role {
            Role::Gateway => format!("http://shop.test:8080{}", wish.path),
            Role::Sidecar(..) => format!("http://{}:{}{}", SERVICES[at], OUTBOUND + at as u16, wish.path),
            Role::Open(_) => format!("http://{}{}", SERVICES[at], wish.path),
        };
        let role = proxy.role.clone();
        let question = Question { identity: None, method: wish.method, path: wish.path };
        let expected = match &role {
            Role::Gateway => force.at_gateway(&question).unwrap_or(oracle::Outcome::Refused),
            _ => force.outbound(SERVICES[at], wish.path),
        };
        let found = explain(&snapshot, &ask(wish.method, &url, None, self.now_of(caller), random)?);
        let context = || format!("member {caller} decides {} {url}", wish.method);
        let compared =
            compare(&expected, &found).and_then(|rule| self.check_services(&role, at, &force, rule).map(|()| rule));
        let Some(rule) = compared.map_err(|why| format!("{}: {why}", context()))? else { return Ok(()) };
        self.check_healths(caller, &snapshot);
        let rule = rule.clone();
        self.forward(caller, &rule, &found, &force, &wish, random).map_err(|why| format!("{}: {why}", context()))
    }

    /// While every Service is there, a proxy knows those that it asked for, and those that its rules lead to.
    fn check_services(
        &self,
        role: &Role,
        called: usize,
        force: &Force,
        rule: Option<&Arc<Rule>>,
    ) -> Result<(), String> {
        if self.truth.manners == Manners::Wild {
            return Ok(());
        }
        let asked = match role {
            Role::Gateway => false,
            Role::Open(_) => true,
            Role::Sidecar(own, others) => *own == SERVICES[called] || others.contains(SERVICES[called]),
        };
        if asked && !force.knows(SERVICES[called]) {
            return Err(format!("{} is asked for, and not known", SERVICES[called]));
        }
        let broken = |one: &transept_engine::rule::BrokenRef| one.why.contains("Service");
        match rule
            .and_then(|rule| rule.backends.iter().find_map(|one| one.target.as_ref().err().filter(|one| broken(one))))
        {
            Some(broken) if asked || *role == Role::Gateway => Err(broken.why.to_string()),
            _ => Ok(()),
        }
    }

    pub(crate) fn now_of(&self, member: usize) -> Now {
        Now { monotonic: self.members[member].clock, unix: self.members[member].wall }
    }

    /// Some of the requests that are under way end.
    fn end_some(&mut self, caller: usize) {
        let most = self.dice.below(UNDER_WAY + 1);
        if let Some(proxy) = &mut self.members[caller].proxy {
            while proxy.under_way.len() > most {
                let (permit, endpoint) = proxy.under_way.remove(0);
                proxy.turns.end(endpoint);
                drop(permit);
            }
        }
    }

    /// What active checks would find.
    fn check_healths(&mut self, caller: usize, snapshot: &Snapshot) {
        let checked =
            snapshot.backends.iter().filter(|one| one.traffic.as_ref().is_some_and(|traffic| traffic.check.is_some()));
        for backend in checked {
            let mut verdicts = Verdicts::default();
            for endpoint in backend.endpoints.load().endpoints() {
                let well = !self.sick.contains_key(&endpoint.address.ip());
                let wellness = if well { Wellness::Well } else { Wellness::Unwell("ill".into()) };
                verdicts.by_address.insert(endpoint.address, wellness);
            }
            if backend.ledger.health.load().as_deref() != Some(&verdicts) {
                backend.ledger.health.store(Some(Arc::new(verdicts)));
                self.trace.push(format!("member {caller} checks {}", backend.label));
            }
        }
    }

    /// From *pick* on, with as many tries as *judge* wants.
    fn forward(
        &mut self,
        caller: usize,
        rule: &Rule,
        found: &Explanation,
        force: &Force,
        wish: &Wish,
        random: u64,
    ) -> Result<(), String> {
        let now = self.now_of(caller);
        let Some(proxy) = self.members[caller].proxy.as_mut() else { return Ok(()) };
        let Ok(chosen) = pick::pick_backend(rule, &mut proxy.turns) else { return Ok(()) };
        let Ok(backend) = pick::target(chosen).cloned() else { return Ok(()) };
        let label = format!("{}/{}", backend.id.kind, backend.id.name);
        self.saw.insert(if rule.name.kind == RouteKind::Service {
            "a call straight to a Service"
        } else {
            "a call by a route"
        });
        if force.is_closed(&label) {
            return Err(format!("{label} is used although its policy cannot be"));
        }
        let limits = backend.traffic.as_ref().map(|traffic| traffic.limits).unwrap_or_default();
        let taken = backend.ledger.taken(Resource::Request);
        let permit = match (backend.ledger.take(&limits, Resource::Request), limits.requests) {
            (Err(_), Some(most)) if taken >= most => {
                self.saw.insert("an overflow");
                return Ok(());
            }
            (Ok(permit), most) if most.is_none_or(|most| taken < most) => permit,
            _ => return Err(format!("{label}: {taken} of {:?} requests are under way", limits.requests)),
        };
        let terms = Terms::of(rule, &backend);
        judge::begin(terms, &mut proxy.turns, now);
        self.books[caller].count(&terms, now.monotonic);
        let request = found.forwarded.as_ref();
        let hash = request.and_then(|request| pick::hash(&backend, request, [127, 0, 0, 1].into()));
        // When the first backendRef leads nowhere there is no request to look at; the method says the same.
        let repeat = match request {
            Some(request) => terms.repeat(request),
            None if wish.method == "POST" => judge::Repeat::Harmful,
            None => judge::Repeat::Harmless,
        };
        let (mut tried, mut answered) = (Vec::new(), false);
        let last = loop {
            let call = Call { now, random, hash, tried: &tried, answered };
            let Some(chosen) = self.choose(caller, &backend, &label, force, &call)? else { return Ok(()) };
            let outcome = self.contact(caller, &chosen, &label, wish)?;
            self.learn(caller, &backend, &chosen, outcome, now)?;
            tried.push(chosen.address);
            answered |= !chosen.silent && matches!(outcome, Outcome::Status(_));
            let attempt = Attempt {
                tries: tried.len() as u32,
                outcome,
                repeat,
                resend: Resend::Possible,
                alternatives: pick::alternatives(&backend, &tried, answered),
                hope: false,
                waits: 0,
                left: None,
                usual: None,
                wished: None,
            };
            let Some(proxy) = self.members[caller].proxy.as_mut() else { return Ok(()) };
            let again =
                matches!(outcome, Outcome::Status(500..) | Outcome::Reset | Outcome::TimedOut | Outcome::Unreachable)
                    && judge(terms, &attempt, &mut proxy.turns, now, random) != Judgement::Deliver;
            if !again {
                break chosen.address;
            }
            self.saw.insert("a retry");
            self.books[caller].retry(&terms, now.monotonic).map_err(|why| format!("{label}: {why}"))?;
        };
        if let Some(proxy) = &mut self.members[caller].proxy {
            proxy.turns.begin(last);
            proxy.under_way.push((permit, last));
        }
        Ok(())
    }

    /// Chooses an endpoint, and looks whether it may be this one.
    fn choose(
        &mut self,
        caller: usize,
        backend: &Arc<Backend>,
        label: &str,
        force: &Force,
        call: &Call<'_>,
    ) -> Result<Option<Chosen>, String> {
        let Some(proxy) = self.members[caller].proxy.as_mut() else { return Ok(None) };
        // Without rules about it nobody is ejected any more; the memory finds out with this choice.
        let ruled = backend.traffic.as_ref().is_some_and(|traffic| traffic.outliers.is_some());
        let ejected = if ruled { proxy.turns.ejected(backend) } else { Vec::new() };
        // Known before the choice: a request that finds out makes others wait for it.
        let away = proxy.turns.absent(backend, call.now);
        let set = backend.endpoints.load_full();
        let health = backend
            .traffic
            .as_ref()
            .filter(|traffic| traffic.check.is_some())
            .and_then(|_| backend.ledger.health.load_full());
        let is_fit = |address: &SocketAddr| {
            !ejected.contains(address) && health.as_ref().is_none_or(|health| health.is_well(address))
        };
        let all = set.endpoints().len();
        let fit = set.endpoints().iter().filter(|one| is_fit(&one.address)).count();
        let untried =
            set.endpoints().iter().filter(|one| is_fit(&one.address) && !call.tried.contains(&one.address)).count();
        let chosen = match pick::pick_endpoint(backend, &mut proxy.turns, call) {
            Ok(chosen) => chosen,
            Err(_) if all == 0 && force.has_instance(label) => {
                return Err(format!("{label}: nobody is called, though somebody may be there"));
            }
            Err(_) if fit == 0 => return Ok(None),
            Err(_) => return Err(format!("{label}: {fit} of {all} endpoints are fit, and none is chosen")),
        };
        let address = chosen.address;
        if !force.is_endpoint(label, address.ip()) {
            return Err(format!("{label}: {address} is no endpoint of it in what is in force"));
        }
        if !force.is_heard(label, address.ip()) {
            self.saw.insert("a silent one is called");
            if call.answered && chosen.silent {
                return Err(format!("{label}: {address} is silent, and chosen although somebody else has answered"));
            }
            let is_away = |address: &SocketAddr| away.iter().any(|(one, _)| one == address);
            let heard = set.endpoints().iter().filter(|one| force.is_heard(label, one.address.ip()));
            let mut left = heard
                .filter(|one| is_fit(&one.address) && !is_away(&one.address) && !call.tried.contains(&one.address));
            if let Some(left) = left.next() {
                return Err(format!("{label}: {address} is silent, and chosen although {} is left", left.address));
            }
        }
        let until = self.books[caller].ejected.get(&(backend.key, address)).copied();
        match chosen.probe {
            // Where all who are fit were tried, whoever is left alone is asked sooner.
            Probe::Yes if until.is_some() && untried == 0 && !call.tried.contains(&address) => {
                self.saw.insert("a probe");
            }
            Probe::Yes if until.is_none_or(|until| until > call.now.monotonic) => {
                return Err(format!(
                    "{label}: {address} is tried before its ejection is over, {until:?}, while {untried} of {all} are fit and untried; tried {:?}",
                    call.tried
                ));
            }
            Probe::Yes => {
                self.saw.insert("a probe");
            }
            // Below the panic threshold of its rank even who is not fit is used.
            Probe::No if untried > 0 && all <= 10 && !is_fit(&address) => {
                return Err(format!("{label}: {address} is chosen although {untried} of {all} are fit and it is not"));
            }
            Probe::No => {}
        }
        if !ruled && health.is_none() {
            let is_away = |address: &SocketAddr| away.iter().any(|(one, _)| one == address);
            let others = set.all().take(if call.answered { all } else { usize::MAX });
            let others = others.filter(|one| one.weight > 0 && !call.tried.contains(&one.address));
            let others = others.filter(|one| !is_away(&one.address)).count();
            if others > 0 && is_away(&address) {
                return Err(format!("{label}: {address} is chosen although it cannot be reached and {others} may be"));
            }
        }
        Ok(Some(chosen))
    }

    /// What an endpoint makes of a request.
    fn contact(&self, caller: usize, chosen: &Chosen, label: &str, wish: &Wish) -> Result<Outcome, String> {
        let ill = self.sick.get(&chosen.address.ip()).copied();
        let Some(called) = self.members.iter().position(|member| member.is_at(chosen.address)) else {
            return Ok(ill.unwrap_or(Outcome::Status(200)));
        };
        let member = &self.members[called];
        let tunnel = chosen.tunnel.as_ref().ok_or_else(|| format!("{label}: no tunnel leads to {}", chosen.address))?;
        // Somebody of another service may have registered there: whoever answers is not him.
        let (service, is_it) = (label.trim_start_matches("Service/"), *tunnel.identity == *identity(member.service));
        let is_stranger = service != member.service && *tunnel.identity == *identity(service);
        if !member.is_at(tunnel.address) || !(is_it || is_stranger) {
            return Err(format!("{label}: the tunnel to {} leads to {tunnel:?}", chosen.address));
        }
        if !member.is_running() || !is_it {
            return Ok(Outcome::Unreachable);
        }
        let from = identity(service_of(
            &self.members[caller].proxy.as_ref().map_or(Role::Gateway, |proxy| proxy.role.clone()),
        ));
        let question = Question { identity: Some(&from), method: wish.method, path: wish.path };
        match self.is_let_in(called, &question)? {
            Some(false) => Ok(Outcome::Status(403)),
            _ => Ok(ill.unwrap_or(Outcome::Status(200))),
        }
    }

    /// Whether the proxy of an instance lets a request in; none when it is not simulated, or serves nobody yet.
    pub(crate) fn is_let_in(&self, called: usize, question: &Question<'_>) -> Result<Option<bool>, String> {
        let member = &self.members[called];
        let Some((proxy, snapshot)) = member.proxy.as_ref().and_then(|proxy| Some((proxy, proxy.snapshot.as_ref()?)))
        else {
            return Ok(None);
        };
        let force = Force::of_proxy(proxy, &self.truth.archive)?;
        let url = format!("http://{}:{PROGRAM}{}", member.service, question.path);
        let found = explain(snapshot, &ask(question.method, &url, question.identity, self.now_of(called), 1)?);
        let allowed = found.reply.is_none();
        let expected = force.allows(&Place::Service(member.service.to_owned()), question);
        let secret = member.service == SERVICES[0] && question.path.starts_with("/secret");
        if allowed && secret {
            return Err(format!("member {called} lets {question:?} in, which every version of the guard denies"));
        }
        if allowed != expected {
            return Err(format!("member {called} lets {question:?} in: {allowed}, by its policies: {expected}"));
        }
        Ok(Some(allowed))
    }

    /// Takes in what became of a try.
    fn learn(
        &mut self,
        caller: usize,
        backend: &Arc<Backend>,
        chosen: &Chosen,
        outcome: Outcome,
        now: Now,
    ) -> Result<(), String> {
        let Some(proxy) = self.members[caller].proxy.as_mut() else { return Ok(()) };
        let books = &mut self.books[caller];
        if chosen.probe == Probe::Yes && self.dice.chance(15) {
            proxy.turns.give_up_probe(backend, chosen.address, Duration::ZERO);
            return Ok(());
        }
        let rules = backend.traffic.as_ref().and_then(|traffic| traffic.outliers).filter(|_| !chosen.silent);
        match (proxy.turns.note(backend, chosen, outcome, now), rules) {
            (Some(Event::Ejected(_)), None) | (Some(Event::Unreachable(_)), Some(_)) => {
                return Err(format!("{}: {} is left alone by rules that do not hold", backend.label, chosen.address));
            }
            (Some(Event::Unreachable(time)), None) => {
                self.saw.insert("an endpoint that cannot be reached");
                let (address, seconds) = (chosen.address, time.as_secs());
                self.trace.push(format!("member {caller} cannot reach {address}, and uses others for {seconds} s"));
            }
            (Some(Event::Ejected(time)), Some(rules)) => {
                let set = backend.endpoints.load_full();
                let all = set.endpoints().len();
                let out = proxy.turns.ejected(backend);
                let out = set.endpoints().iter().filter(|one| out.contains(&one.address)).count();
                let most = (all * rules.share as usize / 100).max(usize::from(rules.share > 0));
                let again = chosen.probe == Probe::Yes;
                if !again && (out > most || out >= all) || time > rules.most {
                    return Err(format!("{}: {out} of {all} are ejected, {most} may be, for {time:?}", backend.label));
                }
                self.saw.insert("an ejection");
                books.ejected.insert((backend.key, chosen.address), now.monotonic + time);
                self.trace.push(format!("member {caller} ejects {} of {} for {time:?}", chosen.address, backend.label));
            }
            (Some(Event::Recovered), Some(_)) => {
                self.saw.insert("a recovery");
                books.ejected.remove(&(backend.key, chosen.address));
            }
            (Some(Event::Recovered), None) | (None, _) => {}
        }
        Ok(())
    }
}

/// The request as the engine is asked about it.
pub(crate) fn ask(method: &str, url: &str, identity: Option<&str>, now: Now, random: u64) -> Result<Ask, String> {
    let mut ask = Ask::new(method, url)?;
    ask.identity = identity.map(str::to_owned);
    (ask.now, ask.random) = (now, random);
    Ok(ask)
}

/// Compares a decision with what should be decided; gives the rule that the request goes on with.
fn compare<'f>(expected: &oracle::Outcome, found: &'f Explanation) -> Result<Option<&'f Arc<Rule>>, String> {
    let said = found.reply.as_ref().map(|reply| reply.reason);
    let stopped = matches!(said, Some(Reason::NotAuthorized | Reason::RouteNotFound | Reason::ListenerNotFound));
    let rule = found.rule.as_ref().filter(|_| !stopped);
    let wrong = || {
        let rule = found.rule.as_ref().map(|rule| rule.metric_label.clone());
        Err(format!("by {rule:?} with answer {said:?}, and not {expected:?}"))
    };
    match (expected, rule) {
        (oracle::Outcome::Refused, _) if said.is_some() => Ok(None),
        (oracle::Outcome::Rule(label, backends), Some(rule)) if *rule.metric_label == **label => {
            let named = |kind: &str, name: &str| backends.iter().any(|(label, _)| *label == format!("{kind}/{name}"));
            let known = rule.backends.iter().filter_map(|one| one.target.as_ref().ok());
            match known.into_iter().find(|one| !named(one.id.kind, &one.id.name)) {
                Some(other) => Err(format!("{label} leads to {}, which this version does not name", other.label)),
                None if rule.backends.len() != backends.len() => wrong(),
                None => Ok(Some(rule)),
            }
        }
        (oracle::Outcome::Straight(service), Some(rule)) if rule.name.kind == RouteKind::Service => {
            let right = service.strip_prefix("Service/") == Some(rule.name.route());
            if right { Ok(Some(rule)) } else { wrong() }
        }
        _ => wrong(),
    }
}

impl Books {
    /// Whether there is an ejection that is not over.
    pub(crate) fn ejects(&self, now: Duration) -> bool {
        self.ejected.values().any(|until| *until > now)
    }

    fn count(&mut self, terms: &Terms<'_>, now: Duration) {
        if let Terms::Policy(key, _) = terms {
            self.budgets.entry(*key).or_default().0.push(now);
        }
    }

    /// Retries of the last five seconds are within what the requests of the last ten allow.
    fn retry(&mut self, terms: &Terms<'_>, now: Duration) -> Result<(), String> {
        let Terms::Policy(key, policy) = terms else { return Ok(()) };
        let (requests, retries) = self.budgets.entry(*key).or_default();
        retries.push(now);
        requests.retain(|at| *at + Duration::from_secs(10) >= now);
        retries.retain(|at| *at + Duration::from_secs(5) > now);
        let budget = policy.budget;
        let most = (10 * budget.per_second as usize).max(requests.len() * budget.percent as usize / 100);
        if retries.len() > most { Err(format!("{} retries, {most} may be", retries.len())) } else { Ok(()) }
    }
}
