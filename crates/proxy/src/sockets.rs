//! Listening sockets: one per worker and address, so that the kernel spreads connections and no worker waits for
//! another.
//!
//! Called by [`crate::Proxy::apply`] on the thread that applies a configuration; the workers only accept.

use std::io;
use std::net::{SocketAddr, TcpListener};

use rustix::process::Resource;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel keeps until a worker accepts them.
const BACKLOG: i32 = 4096;

/// Opens `count` listening sockets on `address`.
///
/// # Errors
/// That of the operating system, as when the address is not of this machine, the port needs a privilege, or another
/// process listens there. The last is found even if that process would share the port: a stray one would otherwise take
/// a part of the traffic.
pub(crate) fn listen(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    drop(bind(address, Sharing::Alone)?);
    (0..count)
        .map(|_| {
            let socket = bind(address, Sharing::Workers)?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
        .collect()
}

/// Lets the process have as many descriptors as the system allows it: two for every proxied connection. Returns that
/// number.
pub(crate) fn raise_descriptor_limit() -> Option<u64> {
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
        let first = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let address = first[0].local_addr().unwrap();
        assert_eq!(listen(address, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn workers_share_an_address() {
        let spare = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = spare.local_addr().unwrap();
        drop(spare);
        assert_eq!(listen(address, 3).unwrap().len(), 3);
    }
}
