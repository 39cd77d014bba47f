//! Listening sockets: one per worker and address, so that the kernel spreads connections and no worker waits for
//! another.
//!
//! Called by [`crate::Proxy::apply`] on the thread that applies a configuration; the workers only accept.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::process::Resource;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// Connections that the kernel keeps until a worker accepts them.
const BACKLOG: i32 = 4096;

/// Silence after which the kernel asks whether a client is still there, three times at a third of this distance.
const KEEPALIVE: Duration = Duration::from_secs(180);

/// Opens `count` listening sockets on `address`. Of two addresses with one port the system prefers the one that says more.
///
/// # Errors
/// That of the operating system, as when the address is not of this machine, the port needs a privilege, or another
/// process listens there. The last is found even if that process would share the port: a stray one would otherwise take
/// a part of the traffic. Beside those of our own that take the same connections, `own`, it cannot be told.
pub(crate) fn listen(address: SocketAddr, count: usize, own: &BTreeSet<SocketAddr>) -> io::Result<Vec<TcpListener>> {
    if !own.iter().any(|&other| overlap(address, other)) {
        drop(bind(address, Sharing::Alone)?);
    }
    (0..count)
        .map(|_| {
            let socket = bind(address, Sharing::Workers)?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
        .collect()
}

/// Whether some connections could come to either.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && (is_any || one.ip() == other.ip())
}

/// Lets the process have as many descriptors as the system allows it: two for every proxied connection. Returns that
/// number. A control plane has it raised too.
pub fn raise_descriptor_limit() -> Option<u64> {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // A refusal leaves what there was, and accepting pauses when that is used up.
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
    rustix::process::getrlimit(Resource::Nofile).current
}

enum Sharing {
    Alone,
    Workers,
}

fn bind(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    // Accepted connections have it from here: what is carried whole may be silent for long, and a client that has vanished would hold it for ever.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3).with_retries(3))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if let Sharing::Workers = sharing {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_an_error() {
        let first = listen("127.0.0.1:0".parse().unwrap(), 1, &BTreeSet::new()).unwrap();
        let address = first[0].local_addr().unwrap();
        assert_eq!(listen(address, 2, &BTreeSet::new()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let elsewhere = BTreeSet::from([SocketAddr::new(address.ip(), address.port() ^ 1)]);
        assert_eq!(listen(address, 2, &elsewhere).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn our_own_sockets_are_in_nobody_s_way() {
        // Somebody else on the machine may have the same port at another address: then with another port.
        let is_shown = || {
            let first = listen("127.0.0.1:0".parse().unwrap(), 2, &BTreeSet::new()).unwrap();
            let address = first[0].local_addr().unwrap();
            let own = BTreeSet::from([address]);
            ["0.0.0.0", "::"].iter().all(|wide| {
                let wide = SocketAddr::new(wide.parse().unwrap(), address.port());
                assert_eq!(listen(wide, 2, &BTreeSet::new()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
                listen(wide, 2, &own).is_ok_and(|sockets| sockets.len() == 2)
            })
        };
        assert!((0..20).any(|_| is_shown()));
    }

    #[test]
    fn workers_share_an_address() {
        let spare = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = spare.local_addr().unwrap();
        drop(spare);
        assert_eq!(listen(address, 3, &BTreeSet::new()).unwrap().len(), 3);
    }
    #[test]
    fn who_is_accepted_is_asked_now_and_then_whether_he_is_there() {
        let own = BTreeSet::new();
        let socket = Socket::from(listen("127.0.0.1:0".parse().unwrap(), 1, &own).unwrap().remove(0));
        socket.set_nonblocking(false).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (accepted, _) = socket.accept().unwrap();
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), KEEPALIVE);
    }
}
