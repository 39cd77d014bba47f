//! The HTTP API of the registry, for programs that have no proxy: they register, give signs of life, and take themselves out.
//!
//! Started by the application with an address; it can be served for any plane. Here are the listener, its limits and TLS. `routes` says
//! what may be asked for, `body` reads what is registered, `answer` writes what comes back, and everything is done by `core`.

mod answer;
mod body;
mod certificate;
mod quota;
mod routes;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use self::certificate::Certificate;
pub use self::certificate::TlsFiles;
use self::quota::Quotas;
use super::core::Plane;
use super::places::{Capacity, Places, whose};

/// Requests per second of one address, unless told otherwise: a machine with a thousand programs gives that many signs of life.
pub const RATE: NonZeroU32 = NonZeroU32::new(100).unwrap();
/// The part of all connections that one address may have open at a time.
const OF_ONE_ADDRESS: usize = 4;
/// How long a handshake may take, and then the head of the request.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a connection may last. It carries one request.
const CONNECTION_TIME: Duration = Duration::from_secs(60);
/// The longest head of a request in bytes.
const LONGEST_HEAD: usize = 16 << 10;
/// How long to pause when no connection can be accepted, because file descriptors are used up, for example.
const PAUSE: Duration = Duration::from_millis(100);

/// Why the API is not served. Displays as a sentence that says what to do.
#[derive(Debug)]
pub enum ApiError {
    /// Other machines reach the address, and there is no TLS.
    Clear(SocketAddr),
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// A file of the certificate cannot be used.
    Certificate(PathBuf, String),
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear(address) => write!(
                f,
                "the registration API takes secrets, and other machines reach {address}: give it a certificate with --api-tls-cert FILE \
                 and --api-tls-key FILE, or an address on loopback"
            ),
            Self::Listen(address, error) => {
                write!(f, "the registration API cannot listen on {address} (choose another with --api ADDR): {error}")
            }
            Self::Certificate(path, why) => {
                write!(f, "the certificate of the registration API, {}: {why}", path.display())
            }
        }
    }
}

impl std::error::Error for ApiError {}

/// The bound API, which does not answer yet.
#[derive(Debug)]
pub struct Api {
    listener: TcpListener,
    address: SocketAddr,
    certificate: Option<Arc<Certificate>>,
    quotas: Arc<Quotas>,
}

impl Api {
    /// Binds the address; port 0 is any free one. With `tls` everything is TLS, and without it only addresses on loopback will do.
    /// `rate` is how many requests per second are answered to one address.
    ///
    /// # Errors
    /// It must not be served there, or cannot.
    pub async fn bind(address: SocketAddr, tls: Option<TlsFiles>, rate: NonZeroU32) -> Result<Self, ApiError> {
        if tls.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(ApiError::Clear(address));
        }
        let certificate = tls.map(Certificate::open).transpose()?.map(Arc::new);
        let listen = |error| ApiError::Listen(address, error);
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { listener, address, certificate, quotas: Arc::new(Quotas::new(rate)) })
    }

    /// Where it listens, with its scheme.
    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Answers for `plane`, so many at a time as there is room for, while others wait; never ends.
    pub async fn serve(self, plane: Arc<Plane>, capacity: Capacity) {
        let room = Arc::new(Semaphore::new(capacity.visits));
        let places = Places::new(capacity.visits.div_ceil(OF_ONE_ADDRESS));
        let began = Instant::now();
        loop {
            let Ok(place) = room.clone().acquire_owned().await else { return };
            let (stream, from) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "the registration API cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let from = from.ip().to_canonical();
            let Some(own) = places.take(whose(from)) else {
                // Whoever holds that many reads no answer on another one.
                tracing::debug!(%from, "an address has too many connections to the registration API");
                continue;
            };
            let visit = Visit { plane: plane.clone(), quotas: self.quotas.clone(), began, from };
            let certificate = self.certificate.clone();
            tokio::spawn(async move {
                let _ = tokio::time::timeout(CONNECTION_TIME, attend(visit, certificate, stream)).await;
                drop((place, own));
            });
        }
    }
}

/// A connection, and what its requests are asked of.
struct Visit {
    plane: Arc<Plane>,
    quotas: Arc<Quotas>,
    /// Where the time of the quotas begins.
    began: Instant,
    from: IpAddr,
}

/// One connection to its end.
async fn attend(visit: Visit, certificate: Option<Arc<Certificate>>, stream: TcpStream) {
    let Some(certificate) = certificate else { return exchange(visit, stream).await };
    let from = visit.from;
    let handshake = async {
        let config = tokio::task::spawn_blocking(move || certificate.current()).await.map_err(io::Error::other)?;
        TlsAcceptor::from(config).accept(stream).await
    };
    match tokio::time::timeout(HEAD_TIME, handshake).await {
        Ok(Ok(stream)) => exchange(visit, stream).await,
        Ok(Err(error)) => tracing::debug!(%from, %error, "a handshake with the registration API failed"),
        Err(_) => {}
    }
}

async fn exchange(visit: Visit, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(|request| {
        let Visit { plane, quotas, began, from } = &visit;
        let allowed = quotas.ask(*from, began.elapsed());
        let (plane, from) = (plane.clone(), *from);
        async move { Ok::<_, std::convert::Infallible>(routes::respond(plane, request, from, allowed).await) }
    });
    // A client that breaks off is nothing to report. One that asks again connects again, so that nobody keeps a place of others.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(LONGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
