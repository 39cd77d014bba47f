//! The proxy's side of the control connection: an identity that stays fresh, the configuration that it may see, and its own
//! registration.
//!
//! Started by `app` when a control plane is named. What was received is kept on the disk, with the identity, so that the proxy serves
//! while no control plane is there, across its own restart too. The pieces: `disk` keeps, `contact` dials and speaks gRPC,
//! `objects` turns payloads into a world, `broken` closes what a policy that cannot be used should guard, `kept` asks for what an older version needs, `member` holds it all together. What is done with a world is the caller's business.

mod broken;
mod contact;
mod disk;
mod kept;
mod member;
mod objects;
mod teller;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use transept_identity::{LiveBundles, LiveSvid, Ticket};
use transept_model::World;
use transept_xds::mesh::Workload;

pub use contact::Unreached;
use disk::{Disk, Lock};
use member::{Command, Member};
pub use teller::Teller;

use crate::mesh::Mesh;
use crate::sight::Sight;

/// `namespace/name` of a Service.
pub type ServiceName = (String, String);

/// What of the configuration a proxy asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Everything that it may see: a gateway.
    Everything,
    /// These Services with all that belongs to them, and what holds for everyone: a sidecar.
    Services(BTreeSet<ServiceName>),
    /// The same, and of all other Services that they exist: a sidecar whose program may call any of them.
    OnDemand(BTreeSet<ServiceName>),
}

impl Interest {
    /// The Services that are asked for with all that belongs to them.
    fn services(&self) -> Option<&BTreeSet<ServiceName>> {
        match self {
            Interest::Everything => None,
            Interest::Services(services) | Interest::OnDemand(services) => Some(services),
        }
    }
}

/// How to reach a control plane, and as whom.
#[derive(Clone, Debug)]
pub struct FeedOptions {
    /// Addresses of control planes, `host:port`; tried in turn.
    pub control: Vec<String>,
    /// The directory for identity and configuration; made when it is not there, readable by its owner alone.
    pub state: PathBuf,
    /// What `transept token create` printed; needed until there is an identity in the directory.
    pub ticket: Option<Ticket>,
    /// What this proxy calls itself, for people.
    pub node: String,
    /// What it asks for.
    pub interest: Interest,
    /// The address of this machine that it will register, which connections come from before that, too.
    pub address: Option<IpAddr>,
    /// What it registers; nothing for a gateway.
    pub workload: Option<Workload>,
}

/// Why there is no feed. Displays as a sentence.
#[derive(Debug)]
pub enum FeedError {
    /// The directory cannot be used.
    State(String),
    /// There is neither an identity nor a token for one.
    NoTicket(PathBuf),
    /// The control plane refuses the token, or is not the one that the token names.
    NotJoined(String),
    /// TLS or keys cannot be set up.
    Crypto(String),
}

impl fmt::Display for FeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTicket(state) => write!(
                f,
                "there is no identity in {} that is still valid, and no join token; `transept token create` at the control plane \
                 makes one",
                state.display()
            ),
            Self::State(why) | Self::NotJoined(why) | Self::Crypto(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for FeedError {}

/// The latest configuration that could be used as a whole.
#[derive(Debug)]
pub struct Received {
    /// Its objects.
    pub world: World,
    /// Counts configurations since the start; 0 is none at all.
    pub number: u64,
    /// Whether it is what was kept on the disk, and no control plane has confirmed it yet.
    pub kept: bool,
    /// The Services of which everything is here that was asked for.
    pub answered: BTreeSet<ServiceName>,
    /// The addresses of which is known whose they are, among those that were asked about.
    pub located: BTreeSet<IpAddr>,
}

/// How the connection stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether a control plane is there.
    pub connected: bool,
    /// Whether everything that was asked for has been answered, and the configuration tells of it.
    pub synced: bool,
    /// Whether the workload is registered, as far as the latest answer says.
    pub registered: bool,
    /// Why it is not, when it was refused.
    pub refused: Option<String>,
    /// The number of the configuration that is on the disk.
    pub stored: u64,
    /// How many resources were received since the start, those that were refused not counted.
    pub received: u64,
    /// How often the certificate was renewed since the start.
    pub renewed: u64,
    /// Whether the control plane and this proxy did not take each other's certificates when they met last: only a new token helps.
    pub unbelieved: bool,
    /// Why the certificate in use is not on the disk.
    pub unkept: Option<String>,
    /// Why the latest attempt to reach a control plane failed.
    pub failure: Option<String>,
}

/// How long the control plane may take to hear that we leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// A running feed. Dropping it ends the connection; the registration then ends with its lease, or at once with [`Feed::leave`].
#[derive(Debug)]
pub struct Feed {
    svid: Arc<LiveSvid>,
    bundles: LiveBundles,
    received: watch::Receiver<Arc<Received>>,
    standing: watch::Receiver<Standing>,
    commands: mpsc::UnboundedSender<Command>,
    /// Of the directory of what is kept.
    _lock: Lock,
}

impl Feed {
    /// Takes the identity from the disk, or joins for one, which is tried until it succeeds or is refused; then follows the
    /// control plane in the background. Has to be called inside a runtime, which then runs the background work.
    ///
    /// # Errors
    /// There is no identity, and none to be had; or another process uses the directory.
    pub async fn start(options: FeedOptions) -> Result<Feed, FeedError> {
        let (received, latest) = watch::channel(Arc::new(objects::nothing()));
        let (standing, state) = watch::channel(Standing::default());
        let (commands, inbox) = mpsc::unbounded_channel();
        let disk = Disk::open(&options.state)
            .map_err(|error| FeedError::State(format!("{}: {error}", options.state.display())))?;
        let lock = disk.lock().map_err(FeedError::State)?;
        let member = Member::prepare(options, disk, received, standing).await?;
        let (svid, bundles) = (member.svid().clone(), member.bundles().clone());
        tokio::spawn(member.run(inbox));
        Ok(Feed { svid, bundles, received: latest, standing: state, commands, _lock: lock })
    }

    /// What makes the proxy a member of the mesh.
    pub fn mesh(&self) -> Mesh {
        Mesh::new(self.svid.clone(), self.bundles.clone())
    }

    /// The identity, renewed in the background.
    pub fn svid(&self) -> &Arc<LiveSvid> {
        &self.svid
    }

    /// The configuration, now and whenever it changes. Number 0 is none yet.
    pub fn received(&self) -> watch::Receiver<Arc<Received>> {
        self.received.clone()
    }

    /// How the connection stands, now and whenever that changes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Asks for these Services, and no more for others. Of no effect for who asked for everything.
    pub fn ask_for(&self, services: BTreeSet<ServiceName>) {
        // The task ends with this handle only.
        let _ = self.commands.send(Command::AskFor(services));
    }

    /// Registers this workload, in the place of the one before.
    pub fn register(&self, workload: Workload) {
        let _ = self.commands.send(Command::Register(workload));
    }

    /// Reports what a proxy sees to the control plane, as long as the proxy runs.
    pub fn report(&self, sight: Sight) {
        let _ = self.commands.send(Command::Report(sight));
    }

    /// Asks whose these addresses are, and no more about others. The instances that have them become part of the configuration.
    pub fn ask_about(&self, addresses: BTreeSet<IpAddr>) {
        let _ = self.commands.send(Command::AskAbout(addresses));
    }

    /// Takes the workload, if any, out of the mesh, says that this member ends, and waits a moment for the control plane to confirm it. One that cannot be
    /// told finds out by the lease.
    pub async fn leave(&self) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Leave(done)).is_ok() && tokio::time::timeout(FAREWELL, wait).await.is_err() {
            tracing::debug!("the control plane did not hear that we leave");
        }
    }
}
