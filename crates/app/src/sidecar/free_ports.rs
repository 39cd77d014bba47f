//! Ports that are free, for whoever says port 0 and has to be told the number before anything listens.
//!
//! Filled by the subcommand and by `transparent`, held in the plan until the proxy listens: a port that is let go at once may be found free a
//! second time, and two listeners would want it. Nobody listens on them meanwhile, so that who calls too early is refused.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

/// How many ports are tried for one that is free on both loopback addresses.
const TRIES: usize = 16;

/// Ports that nobody else is given while this lives.
#[derive(Debug, Default)]
pub(crate) struct FreePorts(Vec<OwnedFd>);

impl FreePorts {
    /// The same address with a free port instead of port 0. Another port is taken at its word.
    ///
    /// # Errors
    /// Nothing can be bound there.
    pub(crate) fn settle(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        if address.port() != 0 {
            return Ok(address);
        }
        let (socket, settled) = bind(address)?;
        self.0.push(socket);
        Ok(settled)
    }

    /// A free port on the loopback addresses, of IPv6 where there is such an address.
    ///
    /// # Errors
    /// Nothing can be bound, or no port is free on both.
    pub(super) fn loopback(&mut self) -> io::Result<Vec<SocketAddr>> {
        for _ in 0..TRIES {
            let (first, v4) = bind((Ipv4Addr::LOCALHOST, 0).into())?;
            match bind((Ipv6Addr::LOCALHOST, v4.port()).into()) {
                Ok((second, v6)) => {
                    self.0.extend([first, second]);
                    return Ok(vec![v4, v6]);
                }
                // Somebody else has it there.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(_) => {
                    self.0.push(first);
                    return Ok(vec![v4]);
                }
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no port is free on both loopback addresses"))
    }

    /// A free port on every address of the machine, of both families where there are both.
    ///
    /// # Errors
    /// Nothing can be bound.
    pub(super) fn everywhere(&mut self) -> io::Result<SocketAddr> {
        self.settle((Ipv6Addr::UNSPECIFIED, 0).into()).or_else(|_| self.settle((Ipv4Addr::UNSPECIFIED, 0).into()))
    }
}

/// A socket that has this address and does not listen.
fn bind(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    net::bind(&socket, &address)?;
    let settled = SocketAddr::try_from(net::getsockname(&socket)?)?;
    Ok((socket, settled))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn no_two_are_alike_and_they_can_be_listened_on_afterwards() {
        let mut free = FreePorts::default();
        let home: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let mut chosen: Vec<SocketAddr> = (0..16).map(|_| free.settle(home).expect("a port")).collect();
        chosen.extend(free.loopback().expect("a port").first());
        chosen.push(free.everywhere().expect("a port"));
        let ports: BTreeSet<u16> = chosen.iter().map(SocketAddr::port).collect();
        assert_eq!(ports.len(), chosen.len());
        for at in &chosen {
            assert!(TcpListener::bind(at).is_err(), "{at} is held");
        }
        let early = TcpStream::connect(chosen[0]).expect_err("nobody listens");
        assert_eq!(early.kind(), io::ErrorKind::ConnectionRefused);
        drop(free);
        TcpListener::bind(chosen[0]).expect("it is free again");
    }

    #[test]
    fn a_port_that_is_named_is_nobody_s_business() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("an address");
        assert_eq!(FreePorts::default().settle(taken).expect("as it was"), taken);
    }
}
