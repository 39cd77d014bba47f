//! The proxy's own connections, which the rules must leave alone.
//!
//! The mark is the process's, not a connection's: whatever this process opens, to endpoints, for health checks or to the
//! control plane, is its own. So it is kept once, and [`connect`] is how the proxy opens TCP connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::{TcpSocket, TcpStream};

/// Zero while nothing is captured.
static MARK: AtomicU32 = AtomicU32::new(0);

/// Sets the mark of what is opened from now on, and returns the one before.
pub(super) fn set(mark: u32) -> u32 {
    MARK.swap(mark, Ordering::Relaxed)
}

/// Opens a TCP connection that the rules of this process leave alone; any, while there are no rules.
///
/// # Errors
/// Those of the operating system.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let mark = MARK.load(Ordering::Relaxed);
    if mark == 0 {
        return TcpStream::connect(address).await;
    }
    marked(address, mark)?.connect(address).await
}

/// The same from one of several addresses of this machine.
///
/// # Errors
/// As for a connection of any other; or the address is none of this machine's, or of another family.
pub async fn connect_from(here: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = marked(address, MARK.load(Ordering::Relaxed))?;
    socket.bind(SocketAddr::new(here, 0))?;
    socket.connect(address).await
}

/// A socket for a connection to there, with the mark if there is one.
fn marked(address: SocketAddr, mark: u32) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if mark != 0 {
        super::mark(&socket, mark)?;
    }
    Ok(socket)
}
