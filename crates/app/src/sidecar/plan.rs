//! What the command line says, and what follows from it: the place of tunnels, the services that are asked for, the registration.
//!
//! Made by the subcommand, read by `sidecar`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use transept_identity::{Ticket, WorkloadName};
use transept_model::World;
use transept_proxy::BindOutcome;
use transept_proxy::capture::IpNet;
use transept_proxy::feed::{self, Feed, FeedOptions, Interest};
use transept_xds::mesh::{Condition, Port, Workload};

use super::free_ports::FreePorts;
use super::places::{self, AppPort, Listen};
use super::probe::Question;
use super::station::Place;
use super::whereabouts;
use crate::gateway::ServeArgs;

/// Everything that the command line says.
pub(crate) struct Plan {
    /// The control plane, `host:port`.
    pub(crate) control: String,
    /// The join token, if there is one.
    pub(crate) ticket: Option<Ticket>,
    /// The directory of what is kept.
    pub(crate) state: PathBuf,
    /// Where others reach this instance; none until it is found.
    pub(crate) address: Option<IpAddr>,
    /// Where tunnels are to come in; none when the program has no port.
    pub(crate) inbound: Option<Listen>,
    /// The place in the mesh, in which `inbound` follows from the two above.
    pub(crate) place: Place,
    /// The ports that were chosen for port 0, until the proxy listens on them.
    pub(crate) free: FreePorts,
    /// Whether the program's calls of services are captured.
    pub(crate) transparent: bool,
    /// Where instances may be that the program calls by their own address.
    pub(crate) instances_in: Vec<IpNet>,
    /// How the program is asked whether it is well; none when it has no port.
    pub(crate) question: Option<Question>,
    /// The program with its arguments; empty when it is there already.
    pub(crate) program: Vec<OsString>,
    /// What all that serve have in common.
    pub(crate) serve: ServeArgs,
}

impl Plan {
    /// Finds the own address, if it is needed and not known.
    pub(super) async fn find_address(&mut self) {
        if self.inbound.is_some() && self.address.is_none() {
            self.address = whereabouts::own_address(&self.control, &self.state).await;
        }
    }

    /// Where tunnels come in. As long as the own address is not known they do at every address; who calls has to prove who it is anyway.
    ///
    /// # Errors
    /// The program listens there itself, or finds something else there.
    pub(super) fn settle_inbound(&mut self) -> Result<()> {
        let Some(listen) = self.inbound else { return Ok(()) };
        let ip = listen.ip.or(self.address).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let inbound = SocketAddr::new(ip, listen.port);
        if self.address.is_some() {
            places::check_tunnels(inbound, &self.place.ports)?;
            places::check_inbound(inbound, &self.place.upstreams, self.place.http_proxy)?;
        }
        self.place.inbound = Some(inbound);
        Ok(())
    }

    /// What helps when tunnels cannot come in because the own address is none of this machine, or their port is taken; else nothing.
    pub(super) fn other_place(&self, outcomes: &[BindOutcome]) -> String {
        let Some(inbound) = self.place.inbound else { return String::new() };
        let own = outcomes.iter().find(|outcome| outcome.address == inbound);
        match own.and_then(|outcome| outcome.bound.as_ref().err()).map(std::io::Error::kind) {
            Some(ErrorKind::AddrNotAvailable) => format!(
                ": {} is none of this machine's addresses; if others know the machine by it, give --listen an address of its own, such as \
                 --listen 0.0.0.0:{}",
                inbound.ip(),
                inbound.port()
            ),
            Some(ErrorKind::AddrInUse) => format!(
                ": another process has {inbound}, where tunnels come in; if it is another sidecar, choose another port for one of them, such as \
                 --listen {}",
                inbound.port().checked_add(1).unwrap_or(inbound.port() - 1)
            ),
            _ => String::new(),
        }
    }

    /// Refuses the identity of another workload, which a directory may hold.
    pub(super) fn check_identity(&self, feed: &Feed) -> Result<()> {
        let Place { namespace, service, .. } = &self.place;
        let svid = feed.svid().load();
        let is_own = |name: WorkloadName| name.namespace() == namespace && name.service_account() == service;
        if !svid.id().workload().is_some_and(is_own) {
            anyhow::bail!(
                "{} holds the identity {}, and this is the sidecar of {namespace}/{service}; give it a directory of its own with --state",
                self.state.display(),
                svid.id()
            );
        }
        Ok(())
    }

    pub(super) fn feed_options(&self, interest: Interest) -> FeedOptions {
        FeedOptions {
            control: vec![self.control.clone()],
            state: self.state.clone(),
            ticket: self.ticket.clone(),
            node: self.place.workload.clone(),
            interest,
            address: self.address,
            workload: None,
        }
    }

    /// What is called, and the own service, whose policies count here.
    pub(super) fn services(&self) -> BTreeSet<feed::ServiceName> {
        let own = (self.place.namespace.clone(), self.place.service.clone());
        let called = self.place.upstreams.iter().map(|upstream| {
            let namespace = upstream.namespace.as_ref().unwrap_or(&self.place.namespace);
            (namespace.clone(), upstream.service.clone())
        });
        called.chain([own]).collect()
    }

    /// Whether a configuration tells of every service that the command line names, and of somebody who answers for it.
    pub(super) fn is_told(&self, world: &World) -> bool {
        self.place.upstreams.iter().all(|upstream| {
            let (service, namespace) =
                (&upstream.service, upstream.namespace.as_ref().unwrap_or(&self.place.namespace));
            let has_instances = !world.workloads_of(namespace, service).is_empty();
            world.service(namespace, service).is_some()
                && (has_instances || !world.endpoint_slices_of(namespace, service).is_empty())
        })
    }

    /// The registration; none when nobody can call the program, or nobody knows where.
    pub(super) fn workload(&self, condition: Condition) -> Option<Workload> {
        let (inbound, address) = (self.place.inbound?, self.address?);
        let port = |port: &AppPort| Port {
            name: String::new(),
            port: port.service.into(),
            target_port: port.target.into(),
            app_protocol: port.protocol.clone().unwrap_or_default(),
            // The feed says what is heard.
            learned: String::new(),
        };
        Some(Workload {
            namespace: self.place.namespace.clone(),
            name: self.place.workload.clone(),
            services: vec![self.place.service.clone()],
            service_account: self.place.service.clone(),
            address: address.to_string(),
            ports: self.place.ports.iter().map(port).collect(),
            tunnel_port: inbound.port().into(),
            zone: self.place.locale.zone.as_deref().unwrap_or_default().to_owned(),
            region: self.place.locale.region.as_deref().unwrap_or_default().to_owned(),
            weight: 1,
            condition: condition.into(),
        })
    }
}
