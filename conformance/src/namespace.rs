//! A network of our own: the real ports (80, 443, ...) are free there, and nothing collides with the machine. Called by `main`
//! before anything else, while there is one thread.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

/// Tells the second start that it is the second.
const INSIDE: &str = "TRANSEPT_CONFORMANCE_NAMESPACE";

/// The network that the cases run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// One of our own, which ends with us.
    Own,
    /// That of the machine.
    Machine,
}

/// Starts this program again in a user and network namespace of its own, and brings up the loopback interface there. Where
/// user namespaces are forbidden, root does without; where all are, root goes on in the network of the machine.
///
/// # Errors
/// Neither is possible.
pub(crate) fn enter() -> Result<Network> {
    if std::env::var_os(INSIDE).is_some() {
        bring_up_loopback().context("the loopback interface cannot be brought up")?;
        return Ok(Network::Own);
    }
    for way in ["-Urn", "-n"] {
        let tried = Command::new("unshare").args([way, "true"]).output();
        if tried.is_ok_and(|tried| tried.status.success()) {
            let own = std::env::current_exe()?;
            let failure =
                Command::new("unshare").arg(way).arg(own).args(std::env::args_os().skip(1)).env(INSIDE, "1").exec();
            return Err(failure).context("`unshare` cannot start this program again");
        }
    }
    if rustix::process::getuid().is_root() {
        return Ok(Network::Machine);
    }
    bail!("ports below 1024 are needed: run as root, or where `unshare -Urn` works")
}

/// Sets the flag IFF_UP on interface 1, which is always `lo`, by one rtnetlink message (rtnetlink(7)).
fn bring_up_loopback() -> std::io::Result<()> {
    const AF_NETLINK: i32 = 16;
    const NETLINK_ROUTE: i32 = 0;
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST: u16 = 1;
    const NLM_F_ACK: u16 = 4;
    const LOOPBACK: i32 = 1;
    const IFF_UP: u32 = 1;
    const LENGTH: u32 = 32;
    let mut message = Vec::new();
    message.extend_from_slice(&LENGTH.to_ne_bytes());
    message.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    message.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    // Sequence number and port: one message, no other socket.
    message.extend_from_slice(&[0; 8]);
    // struct ifinfomsg: family, padding, type, index, flags, change mask.
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&LOOPBACK.to_ne_bytes());
    message.extend_from_slice(&IFF_UP.to_ne_bytes());
    message.extend_from_slice(&IFF_UP.to_ne_bytes());
    let socket = Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_ROUTE)))?;
    socket.send(&message)?;
    let mut answer = [0; 256];
    let count = std::io::Read::read(&mut &socket, &mut answer)?;
    // The acknowledgement holds the error number after its own header of 16 bytes.
    match answer.get(16..20).filter(|_| count >= 20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(std::io::Error::from_raw_os_error(-error)),
        None => Err(std::io::ErrorKind::InvalidData.into()),
    }
}
