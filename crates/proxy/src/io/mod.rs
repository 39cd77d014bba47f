//! One connected stream, plain, under TLS or in a tunnel, read and written without holding a buffer.
//!
//! Every method takes `&self`, so that one task can read a request body from a connection while it writes the response
//! to it. Called by the HTTP/1.1 sides, the tunnel, and the drivers of HTTP/2 connections. Timeouts are the callers'
//! business.

mod tls;
mod tunnel;

pub(crate) use tls::{TlsSession, accept_hello};
pub(crate) use tunnel::{Farewell, Tunnel};

use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::buffer::{Inbound, Outbound};
use crate::h2::Link;

/// A connection: a socket, with its TLS session when it is secured, or a tunnel in somebody else's connection.
pub(crate) enum Io {
    Socket { tcp: TcpStream, tls: Option<Box<TlsSession>> },
    Tunnel(Box<Tunnel>),
}

impl Io {
    /// A plain connection.
    pub(crate) fn plain(tcp: TcpStream) -> Self {
        Io::Socket { tcp, tls: None }
    }

    /// A connection whose handshake is complete.
    pub(crate) fn secured(tcp: TcpStream, session: Box<TlsSession>) -> Self {
        Io::Socket { tcp, tls: Some(session) }
    }

    /// Ready when a read would not wait. Holds no buffer meanwhile.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Io::Socket { tls: Some(tls), .. } if tls.has_buffered() => Poll::Ready(Ok(())),
            Io::Socket { tcp, .. } => tcp.poll_read_ready(cx),
            Io::Tunnel(tunnel) => tunnel.poll_readable(cx),
        }
    }

    /// Reads into `buffer`; 0 is the end of the stream.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Io::Socket { tcp, tls: None } => read_some(tcp, cx, buffer),
            Io::Socket { tcp, tls: Some(tls) } => tls.poll_read(tcp, cx, buffer),
            Io::Tunnel(tunnel) => tunnel.poll_read(cx, buffer),
        }
    }

    /// Reads once into `inbound`, borrowing a buffer only when the socket is ready; 0 is the end of the stream.
    pub(crate) fn poll_fill(&self, cx: &mut Context<'_>, inbound: &mut Inbound) -> Poll<io::Result<usize>> {
        if inbound.is_empty() {
            match self.poll_readable(cx) {
                Poll::Ready(outcome) => outcome?,
                Poll::Pending => {
                    inbound.release();
                    return Poll::Pending;
                }
            }
        }
        let read = match self {
            Io::Tunnel(tunnel) if inbound.is_empty() => tunnel.poll_take(cx, inbound),
            _ => self.poll_read(cx, inbound.spare()).map_ok(|count| {
                inbound.received(count);
                count
            }),
        };
        if read.is_pending() {
            inbound.release();
        }
        read
    }

    /// Writes some of `slices`, in order, and returns how many bytes were taken.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Io::Socket { tcp, tls: None } => write_some(tcp, cx, slices),
            Io::Socket { tcp, tls: Some(tls) } => tls.poll_write(tcp, cx, slices),
            Io::Tunnel(tunnel) => tunnel.poll_write(cx, slices),
        }
    }

    /// Ready when everything taken by [`Io::poll_write`] has been handed to the kernel, or to the connection around a
    /// tunnel.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Io::Socket { tcp, tls: Some(tls) } => tls.poll_flush(tcp, cx),
            Io::Socket { tls: None, .. } | Io::Tunnel(_) => Poll::Ready(Ok(())),
        }
    }

    /// Sends all of `outbound`, then `more`, in as few system calls as possible.
    pub(crate) async fn send(&self, outbound: &mut Outbound, mut more: &[u8]) -> io::Result<()> {
        while !outbound.is_empty() || !more.is_empty() {
            let slices = [IoSlice::new(outbound.pending()), IoSlice::new(more)];
            let slices = match (outbound.is_empty(), more.is_empty()) {
                (true, _) => &slices[1..],
                (_, true) => &slices[..1],
                _ => &slices[..],
            };
            let count = std::future::poll_fn(|cx| self.poll_write(cx, slices)).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let of_outbound = count.min(outbound.pending().len());
            outbound.advance(of_outbound);
            more = &more[count - of_outbound..];
        }
        if let Io::Socket { tls: Some(_), .. } = self {
            std::future::poll_fn(|cx| self.poll_flush(cx)).await?;
        }
        Ok(())
    }

    /// Announces that nothing more will be sent: `close_notify` under TLS, then FIN.
    pub(crate) fn shut_down_writing(&self) {
        match self {
            Io::Socket { tcp, tls } => {
                if let Some(tls) = tls {
                    tls.announce_close(tcp);
                }
                // A failure means that the peer is gone already.
                let _ = rustix::net::shutdown(tcp, rustix::net::Shutdown::Write);
            }
            Io::Tunnel(tunnel) => tunnel.shut_down_writing(),
        }
    }

    /// Tells the peer at once that what it has sent is here. A program that writes a head and then a body, without TCP_NODELAY, keeps the body back until it hears
    /// so (RFC 9293 section 3.7.4), and the kernel would let it wait for some 40 ms (section 3.8.6.3).
    pub(crate) fn acknowledge(&self) {
        if let Io::Socket { tcp, .. } = self {
            // It only makes things quicker.
            let _ = rustix::net::sockopt::set_tcp_quickack(tcp, true);
        }
    }

    /// Makes the kernel send RST instead of FIN when the connection is dropped.
    pub(crate) fn abort_on_drop(&self) {
        match self {
            Io::Socket { tcp, .. } => {
                let _ = socket2::SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO));
            }
            Io::Tunnel(tunnel) => tunnel.abort(),
        }
    }

    /// Ends the connection because a policy does not allow it any more, and says so where the other end would understand it: in a tunnel.
    pub(crate) fn refuse(&self) {
        match self {
            Io::Socket { .. } => {}
            Io::Tunnel(tunnel) => tunnel.refuse(),
        }
    }

    /// Closes a connection that waits for a request. Where the other end would understand it, in a tunnel, it is told that nothing was read, so
    /// that a request that crosses this is not lost, whatever its method.
    pub(crate) fn close_idle(&self) {
        match self {
            Io::Socket { .. } => self.shut_down_writing(),
            Io::Tunnel(tunnel) => tunnel.close_idle(),
        }
    }

    /// Ready when the peer has broken the connection off. That it has closed its half says nothing: it may go on reading.
    pub(crate) fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Io::Socket { tcp, .. } = self else { return Poll::Pending };
        loop {
            if tcp.poll_read_ready(cx).is_pending() {
                return Poll::Pending;
            }
            let mut byte = [0; 1];
            let peeked = tcp
                .try_io(Interest::READABLE, || Ok(rustix::net::recv(tcp, &mut byte, rustix::net::RecvFlags::PEEK)?.1));
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(error),
                Ok(_) => return Poll::Pending,
            }
        }
    }

    /// Whether it is a tunnel in another connection.
    pub(crate) fn is_tunnel(&self) -> bool {
        matches!(self, Io::Tunnel(_))
    }

    /// The connection that this one is a tunnel of, if it is one.
    pub(crate) fn carrier(&self) -> Option<Rc<Link>> {
        match self {
            Io::Tunnel(tunnel) => Some(tunnel.carrier()),
            Io::Socket { .. } => None,
        }
    }

    /// Whether an idle connection has something to say: its end, an error, or bytes that nobody asked for. Such a
    /// connection must not carry another request (RFC 9112 section 9.5).
    pub(crate) fn is_stale(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let tcp = match self {
            // What belongs to TLS itself, such as a session ticket, is digested on the way and says nothing.
            Io::Socket { tcp, tls: Some(tls) } => return tls.poll_read(tcp, &mut cx, &mut [0]).is_ready(),
            Io::Tunnel(tunnel) => return tunnel.is_leaving() || tunnel.poll_readable(&mut cx).is_ready(),
            Io::Socket { tcp, tls: None } => tcp,
        };
        if tcp.poll_read_ready(&mut cx).is_pending() {
            return false;
        }
        let mut byte = [0; 1];
        let peeked =
            tcp.try_io(Interest::READABLE, || Ok(rustix::net::recv(tcp, &mut byte, rustix::net::RecvFlags::PEEK)?.1));
        !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Reads once. A short read means that the socket is drained: its readiness is cleared at once, which saves the read
/// that would only return EAGAIN.
fn read_some(tcp: &TcpStream, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_read_ready(cx))?;
        let mut count = None;
        let outcome = tcp.try_io(Interest::READABLE, || {
            let (_, received) = rustix::net::recv(tcp, &mut *buffer, rustix::net::RecvFlags::empty())?;
            count = Some(received);
            if received > 0 && received < buffer.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (outcome, count) {
            (_, Some(count)) => return Poll::Ready(Ok(count)),
            (Err(error), None) if error.kind() != io::ErrorKind::WouldBlock => {
                return Poll::Ready(Err(error));
            }
            _ => {}
        }
    }
}

fn write_some(tcp: &TcpStream, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        let outcome = match slices {
            [one] => tcp.try_write(one),
            several => tcp.try_write_vectored(several),
        };
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return Poll::Ready(outcome),
        }
    }
}
