//! Where a captured connection was going before the rules led it here.
//!
//! Called by the outbound and inbound listeners for every connection they accept, before anything is read. A connection
//! that was going to the proxy itself is refused: led on, it would come back for ever.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use rustix::io::Errno;
use socket2::SockRef;

/// Why an accepted connection cannot be led on.
#[derive(Debug)]
pub enum Unusable {
    /// No rule led it here: it was made to this listener itself.
    NotRedirected,
    /// It was going to a listener of this proxy.
    Loop(SocketAddr),
    /// The operating system could not tell.
    System(io::Error),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::NotRedirected => {
                f.write_str("the connection was made to the capture port itself, not redirected to it")
            }
            Unusable::Loop(address) => write!(f, "the connection was going to {address}, a port of this proxy itself"),
            Unusable::System(error) => write!(f, "the original destination is not known: {error}"),
        }
    }
}

impl std::error::Error for Unusable {}

/// Knows the ports of this proxy.
#[derive(Clone, Debug, Default)]
pub struct LoopGuard {
    ports: BTreeSet<u16>,
}

impl LoopGuard {
    /// With every port that the proxy listens on: outbound, inbound, tunnel, names, admin.
    pub fn new(ports: impl IntoIterator<Item = u16>) -> LoopGuard {
        LoopGuard { ports: ports.into_iter().collect() }
    }

    /// Where the connection of an accepted socket was going.
    ///
    /// # Errors
    /// See [`Unusable`]; the connection is to be closed then.
    pub fn destination(&self, socket: &impl AsFd) -> Result<SocketAddr, Unusable> {
        let local = SockRef::from(socket).local_addr().map_err(Unusable::System)?;
        let local = local.as_socket().map(canonical).ok_or(Unusable::NotRedirected)?;
        let destination = original(socket, local.ip()).map_err(Unusable::System)?.ok_or(Unusable::NotRedirected)?;
        if destination == local {
            return Err(Unusable::NotRedirected);
        }
        if self.is_own(destination) {
            return Err(Unusable::Loop(destination));
        }
        Ok(destination)
    }

    /// Whether an address is a listener of this proxy.
    pub fn is_own(&self, address: SocketAddr) -> bool {
        // Only an address of this namespace can be bound. Asked for our own ports only, so hardly ever.
        self.ports.contains(&address.port()) && UdpSocket::bind((address.ip(), 0)).is_ok()
    }
}

/// The destination before the redirect, none when the kernel knows of no connection like this.
fn original(socket: &impl AsFd, local: IpAddr) -> io::Result<Option<SocketAddr>> {
    let socket = SockRef::from(socket);
    // A listener of IPv6 also accepts IPv4, whose destination only the option of IPv4 tells.
    let found = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    match found {
        Ok(address) => Ok(address.as_socket().map(canonical)),
        Err(error) => {
            let unknown = [Errno::NOENT, Errno::NOPROTOOPT, Errno::OPNOTSUPP];
            let is_unknown = unknown.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
            if is_unknown { Ok(None) } else { Err(error) }
        }
    }
}

/// An IPv4 address written as one of IPv6 is told as what it is.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_to_the_listener_itself_is_not_redirected() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let outcome = LoopGuard::default().destination(&accepted);
            assert!(matches!(outcome, Err(Unusable::NotRedirected)), "{outcome:?}");
        }
    }

    #[test]
    fn own_ports_are_refused_on_any_address_of_this_machine() {
        let guard = LoopGuard::new([15001, 15006]);
        assert!(guard.is_own("127.0.0.1:15001".parse().unwrap()));
        assert!(guard.is_own("127.8.9.1:15006".parse().unwrap()));
        assert!(!guard.is_own("127.0.0.1:15002".parse().unwrap()));
        // A documentation address (RFC 5737) is of no machine.
        assert!(!guard.is_own("192.0.2.7:15001".parse().unwrap()));
    }
}
