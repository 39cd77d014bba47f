//! Traffic capture: the rules that lead a program's connections through the proxy beside it, without the program's
//! knowledge.
//!
//! The sidecar calls [`capture`] once with a [`Plan`]; what it holds then takes the rules away when it is dropped. Rules
//! are written by nf_tables netlink messages of our own (`nftables`), or by `iptables-restore` where the kernel has no
//! nf_tables (`iptables`). They hold for the network namespace of the calling thread. Accepted connections ask [`origin`]
//! where they were going, and the proxy opens its own by [`connect`], which the rules leave alone.
//!
//! A process that is killed leaves its rules behind on purpose: a program whose sidecar has died is cut off, not exposed.
//! The next start finds them by the mark of their owner (`owner`) and takes them away.
//!
//! Deliberately absent: listening, and every decision about a connection.

mod iptables;
mod netlink;
mod nftables;
pub mod origin;
mod own;
mod owner;
mod route;
mod rules;

use std::fmt;
use std::io;

pub use ipnet::IpNet;
use ipnet::Ipv4Net;

pub use origin::{LoopGuard, Unusable};
pub use own::{connect, connect_from};
pub use owner::{Liveness, Owner};
pub use rules::{
    Chain, DnsPlan, InboundPlan, Match, NOBODY, OutboundPlan, Plan, Rule, Scope, ServicePort, Transport, Verdict,
};

/// The packet mark of connections that the proxy itself opens, which no rule captures.
pub const MARK: u32 = 0x539;

/// Puts the mark on a socket before it connects or sends, so that the rules leave it alone.
///
/// # Errors
/// That of the operating system: `SO_MARK` needs CAP_NET_ADMIN.
pub fn mark(socket: &impl std::os::fd::AsFd, mark: u32) -> io::Result<()> {
    socket2::SockRef::from(socket).set_mark(mark)
}

/// What wrote the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// Netlink messages to nf_tables.
    Nftables,
    /// The program `iptables-restore`.
    Iptables,
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Means::Nftables => "nf_tables",
            Means::Iptables => "iptables",
        })
    }
}

/// Why rules could not be read, written or removed.
#[derive(Debug)]
pub enum CaptureError {
    /// The process may not change the rules of its network namespace.
    NotPermitted,
    /// The kernel lacks something; the text says what was refused.
    Unsupported(String),
    /// Another process that lives captures for the same workload here.
    Taken(Owner),
    /// `iptables-restore` or `iptables-save` refused.
    Program {
        /// Its name.
        program: &'static str,
        /// What it wrote.
        said: String,
    },
    /// Any other error of the operating system.
    System {
        /// What was done.
        doing: String,
        /// What came of it.
        error: io::Error,
    },
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CaptureError::NotPermitted => f.write_str(
                "capturing traffic needs CAP_NET_ADMIN in this network namespace: start as root, give the program the \
                 capability (setcap cap_net_admin+ep, AmbientCapabilities=CAP_NET_ADMIN, docker run --cap-add NET_ADMIN), \
                 or use explicit ports, which need no privilege",
            ),
            CaptureError::Unsupported(what) => write!(
                f,
                "the kernel refused {what} as unknown: it needs nf_tables with the modules nf_tables, nft_chain_nat, \
                 nft_redir and nft_fib_inet, or iptables-restore in PATH with the modules iptable_nat, xt_REDIRECT, \
                 xt_mark, xt_owner and xt_addrtype"
            ),
            CaptureError::Taken(owner) => {
                write!(f, "process {} already captures traffic for workload {} here", owner.pid, owner.workload)
            }
            CaptureError::Program { program, said } => write!(f, "{program} failed: {}", said.trim()),
            CaptureError::System { doing, error } => write!(f, "{doing}: {error}"),
        }
    }
}

impl std::error::Error for CaptureError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CaptureError::System { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Rules in force. Dropping it removes them.
#[derive(Debug)]
pub struct Captured {
    owner: Owner,
    means: Means,
    virtual_range: Ipv4Net,
    released: bool,
}

/// Writes the rules of a plan in the network namespace of the calling thread, in one step: at no moment does half of them
/// hold. Removes what processes that are gone left behind, and sees to it that virtual addresses have a route, without
/// which a program could not connect to them.
///
/// # Errors
/// See [`CaptureError`]; no rule holds then.
pub fn capture(plan: &Plan) -> Result<Captured, CaptureError> {
    match capture_by(Means::Nftables, plan) {
        Err(CaptureError::Unsupported(what)) if iptables::is_present() => {
            tracing::info!(what, "the kernel has no nf_tables for this; trying iptables-restore");
            capture_by(Means::Iptables, plan)
        }
        outcome => outcome,
    }
}

/// The same by these means and no other.
///
/// # Errors
/// See [`CaptureError`]; no rule holds then.
pub fn capture_by(means: Means, plan: &Plan) -> Result<Captured, CaptureError> {
    let owner = Owner::this(&plan.workload);
    let mut captured = Captured { owner, means, virtual_range: plan.virtual_range, released: true };
    // Before the rules, so that no connection of ours is led back to us.
    let before = own::set(plan.mark);
    if let Err(error) = captured.replace(plan) {
        own::set(before);
        return Err(error);
    }
    Ok(captured)
}

impl Captured {
    /// What wrote the rules.
    pub fn means(&self) -> Means {
        self.means
    }

    /// Puts the rules of another plan in the place of these, in one step. The workload and the mark stay the same, whatever
    /// the plan says.
    ///
    /// # Errors
    /// See [`CaptureError`]; the rules from before still hold then.
    pub fn replace(&mut self, plan: &Plan) -> Result<(), CaptureError> {
        match self.means {
            Means::Nftables => nftables::install(plan, &self.owner)?,
            Means::Iptables => iptables::install(plan, &self.owner)?,
        }
        self.released = false;
        self.virtual_range = plan.virtual_range;
        if plan.uses_virtual_addresses() { route::ensure(plan.virtual_range) } else { Ok(()) }
    }

    /// Removes the rules, as dropping does, and tells of an error.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn release(mut self) -> Result<(), CaptureError> {
        self.remove()
    }

    fn remove(&mut self) -> Result<(), CaptureError> {
        self.released = true;
        // The mark stays: it does no harm, and another capture of this process may need it.
        match self.means {
            Means::Nftables => nftables::remove(&self.owner)?,
            Means::Iptables => iptables::remove(&self.owner)?,
        }
        if owners()?.is_empty() { route::remove(self.virtual_range) } else { Ok(()) }
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        if !self.released
            && let Err(error) = self.remove()
        {
            tracing::error!(%error, "the rules that capture traffic could not be removed");
        }
    }
}

/// Removes the rules that processes which are gone left behind, and those of this workload if their owner cannot be seen.
/// Returns whose they were. A process that needs the network or names before it captures calls this first: rules that lead
/// to a dead process hold it up too. Not for a process that captures: its own rules would go.
///
/// # Errors
/// See [`CaptureError`].
pub fn remove_leftovers(workload: &str) -> Result<Vec<Owner>, CaptureError> {
    let next = Owner::this(workload);
    let before = owners()?;
    match nftables::remove_leftovers(&next) {
        Err(CaptureError::Unsupported(_)) | Ok(()) => {}
        Err(error) => return Err(error),
    }
    if iptables::is_present() {
        iptables::remove(&next)?;
    }
    let after = owners()?;
    Ok(before.into_iter().filter(|owner| !after.contains(owner)).collect())
}

/// What a sidecar that captures nothing has found of others.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Whose rules were removed.
    pub removed: Vec<Owner>,
    /// Whose rules are there, and who cannot be seen from here.
    pub unseen: Vec<Owner>,
}

/// The same as [`remove_leftovers`] for a process that captures nothing. It looks only where there are rules already, so that nothing is loaded
/// into the kernel on its account.
///
/// # Errors
/// See [`CaptureError`].
pub fn clear(workload: &str) -> Result<Leftovers, CaptureError> {
    let owners: Vec<Owner> = match nftables::tables() {
        Ok(tables) => tables.into_iter().map(|table| table.owner).collect(),
        Err(CaptureError::Unsupported(_)) if iptables::is_used() => iptables::owners()?,
        Err(CaptureError::Unsupported(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let next = Owner::this(workload);
    let yields = |owner: &Owner| owner.yields_to(&next).unwrap_or(false);
    let removed = if owners.iter().any(yields) { remove_leftovers(workload)? } else { Vec::new() };
    let is_unseen = |owner: &Owner| owner.liveness() == Liveness::Unknown && !removed.contains(owner);
    let unseen = owners.into_iter().filter(is_unseen).collect();
    Ok(Leftovers { removed, unseen })
}

/// Who else captures traffic in the network namespace of the calling thread: other workloads whose owners live, or cannot be seen.
///
/// # Errors
/// See [`CaptureError`].
pub fn others(workload: &str) -> Result<Vec<Owner>, CaptureError> {
    let this = Owner::this(workload);
    let is_other = |owner: &Owner| owner.workload != this.workload && owner.liveness() != Liveness::Gone;
    Ok(owners()?.into_iter().filter(is_other).collect())
}

/// Who captures traffic in the network namespace of the calling thread, dead owners among them.
///
/// # Errors
/// See [`CaptureError`].
pub fn owners() -> Result<Vec<Owner>, CaptureError> {
    let mut found = match nftables::tables() {
        Ok(tables) => tables.into_iter().map(|table| table.owner).collect(),
        Err(CaptureError::Unsupported(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    if iptables::is_present() {
        found.extend(iptables::owners()?);
    }
    Ok(found)
}
