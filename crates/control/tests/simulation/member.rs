//! Whoever has an identity in the mesh: an instance of a service, with or without a proxy that is simulated too, or the gateway.
//!
//! Driven by `run`. What `proxy::feed` does with its connection and its beats is done here in virtual time; what it does with the
//! configuration is in `proxy`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use transept_identity::SpiffeId;
use transept_xds::mesh::{Answer, Beat, Condition, Port, Workload};

use crate::dice::Dice;
use crate::objects::{NAMESPACE, identity};
use crate::plane::Viewer;
use crate::proxy::Proxy;

const BEAT: Duration = Duration::from_secs(10);

/// What a member does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    /// Its process is stopped until then.
    Stopped {
        until: Duration,
        clock_runs: bool,
    },
    /// Its process is gone; it comes back then.
    Gone {
        until: Duration,
    },
}

pub(crate) struct Member {
    pub(crate) service: &'static str,
    pub(crate) address: Ipv4Addr,
    pub(crate) who: SpiffeId,
    pub(crate) state: State,
    pub(crate) clock: Duration,
    /// The wall clock, which jumps.
    pub(crate) wall: Duration,
    pub(crate) link: Option<u64>,
    /// When one without a proxy dials.
    pub(crate) dial_at: Duration,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) workload: Option<Workload>,
    nonce: Bytes,
    introduce: bool,
    pub(crate) beat_at: Option<Duration>,
    /// It has said that it ends, and waits for a word.
    pub(crate) leaving: bool,
    /// When it ends after that.
    pub(crate) ends_at: Option<Duration>,
    unanswered: usize,
    /// Whether the control plane has confirmed the registration on this connection.
    pub(crate) registered: bool,
}

impl Member {
    pub(crate) fn new(service: &'static str, number: usize, proxy: Option<Proxy>) -> Self {
        let address = Ipv4Addr::new(10, 0, 0, number as u8 + 1);
        let is_gateway = proxy.as_ref().is_some_and(Proxy::is_gateway);
        let workload = (!is_gateway).then(|| Workload {
            namespace: NAMESPACE.to_owned(),
            name: format!("{service}-{number}"),
            services: vec![service.to_owned()],
            service_account: service.to_owned(),
            address: address.to_string(),
            ports: vec![Port { port: 80, target_port: 8080, ..Port::default() }],
            tunnel_port: 15008,
            zone: ["a", "b"][number % 2].to_owned(),
            weight: 1,
            ..Workload::default()
        });
        Self {
            service,
            address,
            who: SpiffeId::parse(&identity(service)).expect("an identity"),
            state: State::Running,
            clock: Duration::from_secs(1000),
            wall: Duration::from_secs(1_800_000_000),
            link: None,
            dial_at: Duration::ZERO,
            proxy,
            workload,
            nonce: format!("{service}-{number}").into_bytes().into(),
            introduce: true,
            beat_at: None,
            leaving: false,
            ends_at: None,
            unanswered: 0,
            registered: false,
        }
    }

    pub(crate) fn viewer(&self) -> Option<Viewer> {
        let proxy = self.proxy.as_ref()?;
        Some(if proxy.is_gateway() { Viewer::Gateway } else { Viewer::Sidecar })
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    pub(crate) fn pass(&mut self, step: Duration) {
        self.wall += step;
        match self.state {
            State::Stopped { clock_runs: false, .. } => {}
            _ => self.clock += step,
        }
    }

    /// When something is to be done although nothing arrives, by the clock of the run.
    pub(crate) fn wakes(&self, now: Duration) -> Option<Duration> {
        if let State::Stopped { until, .. } | State::Gone { until } = self.state {
            return Some(until);
        }
        let dial = match &self.proxy {
            Some(proxy) => proxy.wake_at(),
            None => self.link.is_none().then_some(self.dial_at),
        };
        let at = dial.into_iter().chain(self.beat_at).chain(self.ends_at).min()?;
        Some(now + at.saturating_sub(self.clock))
    }

    /// The connection is there: the first beat.
    pub(crate) fn opened(&mut self, link: u64) -> Beat {
        self.link = Some(link);
        self.introduce = self.workload.is_some() && !self.leaving;
        self.beat()
    }

    /// The connection is gone.
    pub(crate) fn closed(&mut self, dice: &mut Dice) {
        self.link = None;
        self.beat_at = None;
        self.leaving = self.ends_at.is_some();
        self.registered = false;
        self.unanswered = 0;
        self.dial_at = self.clock + dice.within(Duration::from_secs(1));
        if let Some(proxy) = &mut self.proxy {
            proxy.client.disconnected(self.clock, dice.next());
        }
    }

    pub(crate) fn beat(&mut self) -> Beat {
        let introduce = std::mem::take(&mut self.introduce);
        self.unanswered += 1;
        self.beat_at = Some(self.clock + BEAT);
        Beat {
            workload: self.workload.clone().filter(|_| introduce),
            nonce: self.nonce.clone(),
            leaves: self.leaving,
            ..Beat::default()
        }
    }

    /// Says what is to be known about it now.
    pub(crate) fn register(&mut self, condition: Condition) -> Beat {
        if let Some(workload) = &mut self.workload {
            workload.condition = condition.into();
        }
        self.introduce = self.workload.is_some();
        self.beat()
    }

    /// Takes the answer to a beat. True when it has heard that it may end.
    pub(crate) fn answered(&mut self, answer: &Answer) -> bool {
        self.unanswered = self.unanswered.saturating_sub(1);
        let ends = self.leaving && self.unanswered == 0;
        self.introduce |= !answer.refused.is_empty();
        self.registered = answer.refused.is_empty() && self.workload.is_some() && !self.leaving;
        ends
    }

    /// Its process begins anew, with what is on its disk.
    pub(crate) fn restart(&mut self) {
        self.state = State::Running;
        self.link = None;
        self.beat_at = None;
        self.leaving = false;
        self.ends_at = None;
        self.unanswered = 0;
        self.registered = false;
        self.clock = Duration::from_secs(1);
        self.dial_at = self.clock;
        if let Some(workload) = &mut self.workload {
            workload.condition = Condition::Healthy.into();
        }
        if let Some(proxy) = &mut self.proxy {
            proxy.restart();
        }
    }

    /// Where it answers.
    pub(crate) fn is_at(&self, address: SocketAddr) -> bool {
        address.ip() == IpAddr::from(self.address)
    }
}
