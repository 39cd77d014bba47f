//! A rustls session over a socket: records in, records out, nothing held while idle.
//!
//! Called by [`super::Io`] and by the handshakes in `accept.rs` and `upstream/dial.rs`. Which certificates and verifiers a
//! session uses is decided in `tls/`.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use rustls::server::{Accepted, Acceptor};
use tokio::net::TcpStream;

use super::read_some;
use crate::buffer::Inbound;

/// What one write encrypts at most, in bytes: what a connection of HTTP/2 has collected leaves in one system call.
const LARGEST_WRITE: usize = 256 * 1024;

/// One TLS session and the ciphertext that it has not yet digested.
pub(crate) struct TlsSession {
    inner: RefCell<Inner>,
}

struct Inner {
    rustls: Connection,
    ciphertext: Inbound,
    has_plaintext: bool,
    /// What is wrong with what came behind plaintext that was read.
    broken: Option<io::Error>,
    ended: bool,
}

impl TlsSession {
    /// Wraps a session before its handshake.
    pub(crate) fn new(mut rustls: Connection, ciphertext: Inbound) -> Self {
        rustls.set_buffer_limit(Some(LARGEST_WRITE));
        Self { inner: RefCell::new(Inner { rustls, ciphertext, has_plaintext: false, broken: None, ended: false }) }
    }

    /// Drives the handshake to its end.
    ///
    /// # Errors
    /// What rustls refuses is `InvalidData` with the [`rustls::Error`] inside; an alert is sent before it is returned.
    pub(crate) async fn shake_hands(&self, tcp: &TcpStream) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            let mut inner = self.inner.borrow_mut();
            loop {
                ready!(inner.poll_flush(tcp, cx))?;
                if !inner.rustls.is_handshaking() {
                    // The peer's first data may have come with its last flight, and then no socket event tells of it.
                    inner.has_plaintext = true;
                    return Poll::Ready(Ok(()));
                }
                if ready!(inner.poll_receive(tcp, cx))? == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
        })
        .await
    }

    /// Looks at the session, for ALPN, server name and certificates.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&Connection) -> R) -> R {
        look(&self.inner.borrow().rustls)
    }

    pub(super) fn has_buffered(&self) -> bool {
        let inner = self.inner.borrow();
        inner.has_plaintext || inner.broken.is_some() || !inner.ciphertext.is_empty()
    }

    pub(super) fn poll_read(
        &self,
        tcp: &TcpStream,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner.borrow_mut();
        let mut filled = 0;
        loop {
            let read = inner.rustls.reader().read(&mut buffer[filled..]);
            inner.has_plaintext = false;
            match read {
                Ok(count) if count > 0 => {
                    filled += count;
                    inner.has_plaintext = filled == buffer.len();
                    if inner.has_plaintext {
                        return Poll::Ready(Ok(filled));
                    }
                    // Behind the last byte there may be the end.
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Records that have come already are read in the same turn.
                    if filled > 0 && (inner.ciphertext.is_empty() || inner.broken.is_some()) {
                        return Poll::Ready(Ok(filled));
                    }
                    if let Some(error) = inner.broken.take() {
                        return Poll::Ready(Err(error));
                    }
                }
                end if filled == 0 => return Poll::Ready(end.map_err(in_our_words)),
                // The end is told next time, and no event of the socket brings that about.
                _ => {
                    inner.has_plaintext = true;
                    return Poll::Ready(Ok(filled));
                }
            }
            if inner.ended {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            match ready!(inner.poll_receive(tcp, cx)) {
                Ok(_) => {}
                Err(error) if filled == 0 => return Poll::Ready(Err(error)),
                Err(error) => {
                    inner.broken = Some(error);
                    return Poll::Ready(Ok(filled));
                }
            }
            if inner.rustls.wants_write() {
                // Key updates and alerts go out as far as they can; reading does not wait for them.
                let _ = inner.poll_flush(tcp, cx)?;
            }
        }
    }

    pub(super) fn poll_write(
        &self,
        tcp: &TcpStream,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner.borrow_mut();
        ready!(inner.poll_flush(tcp, cx))?;
        let count = inner.rustls.writer().write_vectored(slices)?;
        let _ = inner.poll_flush(tcp, cx)?;
        Poll::Ready(Ok(count))
    }

    pub(super) fn poll_flush(&self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.borrow_mut().poll_flush(tcp, cx)
    }

    pub(super) fn announce_close(&self, tcp: &TcpStream) {
        let mut inner = self.inner.borrow_mut();
        inner.rustls.send_close_notify();
        // Best effort: a peer that does not read loses only the courtesy.
        let _ = inner.rustls.write_tls(&mut Unbuffered(tcp));
    }
}

impl Inner {
    /// Feeds rustls from the socket once; 0 is the end of the stream.
    fn poll_receive(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ciphertext.is_empty() {
            if tcp.poll_read_ready(cx)?.is_pending() {
                self.ciphertext.release();
                return Poll::Pending;
            }
            match read_some(tcp, cx, self.ciphertext.spare()) {
                Poll::Ready(Ok(count)) => self.ciphertext.received(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.ciphertext.release();
                    return Poll::Pending;
                }
            }
        }
        let mut source = self.ciphertext.data();
        let at_end = source.is_empty();
        let taken = self.rustls.read_tls(&mut source)?;
        self.ciphertext.consume(taken);
        self.ended |= at_end;
        if let Err(error) = self.rustls.process_new_packets() {
            // The alert tells the peer why; it is lost when the peer has gone.
            let _ = self.rustls.write_tls(&mut Unbuffered(tcp));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.rustls.wants_write() {
            match self.rustls.write_tls(&mut Unbuffered(tcp)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(tcp.poll_write_ready(cx))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// That a connection ended without `close_notify` (RFC 8446 section 6.1) is said by the library with a reference to its manual.
fn in_our_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), UNANNOUNCED),
        _ => error,
    }
}

/// What is said of such an end.
const UNANNOUNCED: &str = "the other side has ended the connection without a word, as one that was killed";

/// The socket as rustls wants to write to it.
struct Unbuffered<'a>(&'a TcpStream);

impl Write for Unbuffered<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client's hello, read before a configuration is chosen.
pub(crate) struct Hello {
    accepted: Accepted,
    ciphertext: Inbound,
}

impl Hello {
    /// The server name that the client asked for (RFC 6066 section 3), lower-case.
    pub(crate) fn server_name(&self) -> Option<String> {
        self.accepted.client_hello().server_name().map(str::to_ascii_lowercase)
    }

    /// Goes on with the configuration that was chosen for this hello.
    pub(crate) async fn proceed(self, tcp: &TcpStream, config: Arc<rustls::ServerConfig>) -> io::Result<TlsSession> {
        match self.accepted.into_connection(config) {
            Ok(connection) => {
                let session = TlsSession::new(connection.into(), self.ciphertext);
                session.shake_hands(tcp).await?;
                Ok(session)
            }
            Err((error, mut alert)) => {
                let _ = alert.write(&mut Unbuffered(tcp));
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }
}

/// Reads a client's hello.
///
/// # Errors
/// `InvalidData` when what came is not a hello that rustls accepts; `UnexpectedEof` when the client left.
pub(crate) async fn accept_hello(tcp: &TcpStream) -> io::Result<Hello> {
    let mut acceptor = Acceptor::default();
    let mut ciphertext = Inbound::default();
    loop {
        if ciphertext.is_empty() {
            let count = std::future::poll_fn(|cx| {
                ready!(tcp.poll_read_ready(cx))?;
                read_some(tcp, cx, ciphertext.spare())
            })
            .await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            ciphertext.received(count);
        }
        let mut source = ciphertext.data();
        let taken = acceptor.read_tls(&mut source)?;
        ciphertext.consume(taken);
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return Ok(Hello { accepted, ciphertext });
            }
            Ok(None) => {}
            Err((error, mut alert)) => {
                let _ = alert.write(&mut Unbuffered(tcp));
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
    use tokio::net::TcpListener;
    use transept_testkit::certificates::{Authority, KeyKind, Usage};

    use super::*;

    /// Both ends of a connection after the handshake.
    async fn pair() -> [(TlsSession, TcpStream); 2] {
        let authority = Authority::new(KeyKind::Ecdsa).unwrap();
        let leaf = authority.issue(Usage::Server, &["shop.test"]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate()).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let chain = vec![leaf.certificate().unwrap()];
        let server =
            ServerConfig::builder().with_no_client_auth().with_single_cert(chain, leaf.key().unwrap()).unwrap();
        let client = ClientConnection::new(Arc::new(client), ServerName::try_from("shop.test").unwrap()).unwrap();
        let server = ServerConnection::new(Arc::new(server)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let client = TlsSession::new(client.into(), Inbound::default());
        let server = TlsSession::new(server.into(), Inbound::default());
        let (one, other) = tokio::join!(client.shake_hands(&near), server.shake_hands(&far));
        one.and(other).unwrap();
        [(client, near), (server, far)]
    }

    /// Reads as a connection does: when it is told that there is something.
    async fn read(session: &TlsSession, tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            if !session.has_buffered() {
                ready!(tcp.poll_read_ready(cx))?;
            }
            session.poll_read(tcp, cx, buffer)
        })
        .await
    }

    async fn send(session: &TlsSession, tcp: &TcpStream, bytes: &[u8]) {
        let count = std::future::poll_fn(|cx| session.poll_write(tcp, cx, &[IoSlice::new(bytes)])).await.unwrap();
        assert_eq!(count, bytes.len());
        std::future::poll_fn(|cx| session.poll_flush(tcp, cx)).await.unwrap();
    }

    #[tokio::test]
    async fn an_end_behind_data_is_told_although_the_socket_stays_open() {
        let [(client, near), (server, far)] = pair().await;
        let sent: Vec<u8> = (0..40_000_u32).map(|number| number as u8).collect();
        send(&server, &far, &sent).await;
        server.announce_close(&far);
        let (mut buffer, mut got) = (vec![0; 100_000], Vec::new());
        loop {
            match read(&client, &near, &mut buffer).await.unwrap() {
                0 => break,
                count => got.extend_from_slice(&buffer[..count]),
            }
        }
        assert!(got == sent, "{} bytes", got.len());
    }

    #[tokio::test]
    async fn what_came_before_a_broken_record_is_read_and_then_the_fault_is_told() {
        let [(client, near), (server, far)] = pair().await;
        send(&server, &far, &[7; 20_000]).await;
        // A record of application data that nobody has encrypted.
        let mut forged = vec![23, 3, 3, 0, 32];
        forged.resize(5 + 32, 0);
        Unbuffered(&far).write_all(&forged).unwrap();
        let (mut buffer, mut count) = (vec![0; 100_000], 0);
        let fault = loop {
            match read(&client, &near, &mut buffer).await {
                Ok(0) => panic!("a broken connection ended regularly after {count} bytes"),
                Ok(more) => count += more,
                Err(fault) => break fault,
            }
        };
        assert_eq!((count, fault.kind()), (20_000, io::ErrorKind::InvalidData));
    }
}
