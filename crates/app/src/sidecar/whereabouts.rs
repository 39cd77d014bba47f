//! Where others in the mesh reach this instance: found on the way to the control plane, or kept from last time.
//!
//! Called by `sidecar` before it joins, and again when the control plane is there, if it was not. Who starts from its disk needs no
//! control plane, and so no name of one either: where that name is gone with it (containers), the address from last time counts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use super::kept;

/// The file, in the state directory.
const KEPT: &str = "address";
/// How long the name of the control plane is looked for.
const PATIENCE: Duration = Duration::from_secs(3);

/// The own address; none when there is no way to the control plane, and no address of this machine is known from last time.
pub(super) async fn own_address(control: &str, state: &Path) -> Option<IpAddr> {
    match on_the_way(control).await {
        Ok(address) => Some(address),
        Err(error) => {
            let kept = read(state).filter(|address| is_here(*address));
            match kept {
                Some(address) => {
                    tracing::warn!(control, %error, %address, "no way to the control plane; the own address is the one from last time");
                }
                None => {
                    tracing::warn!(control, %error, "no way to the control plane, so the own address is not known yet")
                }
            }
            kept
        }
    }
}

/// Keeps the address for the next start; it is there only with the directory of the identity.
pub(super) fn keep(state: &Path, address: IpAddr) {
    if read(state) == Some(address) {
        return;
    }
    if let Err(error) = kept::put(state, KEPT, &address.to_string()) {
        tracing::warn!(%error, path = %state.join(KEPT).display(), "the own address cannot be kept for the next start");
    }
}

/// What was kept; nothing, when it is not there or no address.
fn read(state: &Path) -> Option<IpAddr> {
    kept::read(state, KEPT)?.trim().parse().ok()
}

/// Whether this machine has the address: it may have got another one since.
fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// The address of this machine that packets to `control` come from: the one that others in the mesh will reach.
///
/// # Errors
/// The name does not resolve in time, or there is no way there.
#[expect(clippy::disallowed_methods, reason = "asked once, before there is a proxy")]
async fn on_the_way(control: &str) -> io::Result<IpAddr> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for there in tokio::time::timeout(PATIENCE, tokio::net::lookup_host(control)).await?? {
        let here = match there {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        // Connecting a datagram socket sends nothing; it only asks for the route.
        match UdpSocket::bind((here, 0)).and_then(|socket| socket.connect(there).and_then(|()| socket.local_addr())) {
            Ok(own) => return Ok(own.ip()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn the_own_address_is_the_one_on_the_way_or_else_the_one_from_last_time() {
        let state = tempfile::tempdir().expect("a directory");
        assert_eq!(own_address("127.0.0.1:9", state.path()).await, Some(HOME));
        assert_eq!(own_address("nothing", state.path()).await, None);
        keep(state.path(), "127.0.0.7".parse().expect("an address"));
        assert_eq!(own_address("127.0.0.1:9", state.path()).await, Some(HOME), "what is found counts");
        assert_eq!(own_address("nothing", state.path()).await, "127.0.0.7".parse().ok());
        keep(state.path(), "192.0.2.1".parse().expect("an address"));
        assert_eq!(own_address("nothing", state.path()).await, None, "the machine has another address by now");
    }
}
