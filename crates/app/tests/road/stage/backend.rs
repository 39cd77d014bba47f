//! The backend on the stage.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use transept_testkit::h1::{self, Framing, Pieces, Reader};

use super::{Framed, Whole, fields_of, map_of, next_piece, owned, send_paced, soon, trailers_of};

/// What the backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Up {
    Http1,
    H2c,
}

/// A backend that hands every request to the test.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    pub(crate) up: Up,
    requests: mpsc::UnboundedReceiver<Served>,
    connections: Arc<AtomicUsize>,
    farewell: Arc<Notify>,
    serving: JoinHandle<()>,
}

impl Backend {
    pub(crate) async fn start(up: Up) -> Backend {
        Backend::with_streams(up, 100).await
    }

    /// One that allows so many concurrent streams on an HTTP/2 connection.
    pub(crate) async fn with_streams(up: Up, streams: u32) -> Backend {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("binds");
        Backend::listening(listener, up, streams)
    }

    /// One at the address of another one that has ended.
    pub(crate) async fn after(address: SocketAddr, up: Up) -> Backend {
        Backend::listening(TcpListener::bind(address).await.expect("binds"), up, 100)
    }

    fn listening(listener: TcpListener, up: Up, streams: u32) -> Backend {
        let address = listener.local_addr().expect("bound");
        let (sender, requests) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let farewell = Arc::new(Notify::new());
        let leaving = Arc::clone(&farewell);
        let serving = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (sender, leaving) = (sender.clone(), Arc::clone(&leaving));
                open.spawn(async move {
                    // How a connection ends is told to the test by its requests.
                    let _ended = match up {
                        Up::Http1 => serve_http1(tcp, sender).await,
                        Up::H2c => serve_http2(tcp, sender, streams, &leaving).await,
                    };
                });
            }
        });
        Backend { address, up, requests, connections, farewell, serving }
    }

    /// The next request, once its head is here.
    #[track_caller]
    pub(crate) fn next(&mut self) -> impl Future<Output = Served> {
        let next = soon(self.requests.recv());
        async move { next.await.expect("a request") }
    }

    /// A request that nobody has looked at yet.
    pub(crate) fn unheard(&mut self) -> Option<Served> {
        self.requests.try_recv().ok()
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Says GOAWAY on every HTTP/2 connection that is open, and finishes what is under way.
    pub(crate) fn say_goodbye(&self) {
        self.farewell.notify_waiters();
    }

    /// Answers everything from now on with 200 and the target.
    pub(crate) fn answer_all(self) -> Answering {
        self.answer_with(|mut served| async move {
            let line = format!("{} {}", served.method, served.target);
            if served.try_whole().await.is_ok() {
                served.begin(200, Framed::Length(line.len()), &[]).await;
                served.send(line.as_bytes()).await;
                served.end(&[]).await;
            }
        })
    }

    /// Lets this answer everything from now on.
    pub(crate) fn answer_with<F>(mut self, answer: impl Fn(Served) -> F + Send + 'static) -> Answering
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let targets = Arc::new(std::sync::Mutex::new(Vec::new()));
        let heard = Arc::clone(&targets);
        let farewell = Arc::clone(&self.farewell);
        let answering = tokio::spawn(async move {
            while let Some(served) = self.requests.recv().await {
                let line = format!("{} {}", served.method, served.target);
                heard.lock().expect("not poisoned").push(line);
                tokio::spawn(answer(served));
            }
        });
        Answering { targets, farewell, answering }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// An address on which nobody listens, and nobody will while this is held.
pub(crate) struct Nobody {
    pub(crate) address: SocketAddr,
    pub(crate) socket: socket2::Socket,
}

impl Nobody {
    pub(crate) fn here() -> Nobody {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
        let address = socket.local_addr().expect("bound").as_socket().expect("an address");
        Nobody { address, socket }
    }
}

/// A backend that answers by itself.
pub(crate) struct Answering {
    targets: Arc<std::sync::Mutex<Vec<String>>>,
    farewell: Arc<Notify>,
    answering: JoinHandle<()>,
}

impl Answering {
    /// As [`Backend::say_goodbye`].
    pub(crate) fn say_goodbye(&self) {
        self.farewell.notify_waiters();
    }

    /// Method and target of every request so far.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.targets.lock().expect("not poisoned").clone()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

/// A request at the backend.
pub(crate) struct Served {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) fields: Vec<(String, String)>,
    side: Side,
}

enum Side {
    H1 { reader: Reader<TcpStream>, pieces: Pieces, out: Framed, back: oneshot::Sender<Reader<TcpStream>> },
    H2 { body: h2::RecvStream, respond: h2::server::SendResponse<Bytes>, stream: Option<h2::SendStream<Bytes>> },
}

async fn serve_http1(tcp: TcpStream, requests: mpsc::UnboundedSender<Served>) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut reader = Reader::new(tcp);
    while let Some(head) = reader.read_head().await? {
        let mut line = head.start_line.split(' ').map(str::to_owned);
        let (back, returned) = oneshot::channel();
        let upgrades = head.field("upgrade").is_some();
        let framing = match Framing::of_request(&head) {
            Framing::Empty if upgrades => Framing::UntilClose,
            framing => framing,
        };
        let served = Served {
            method: line.next().unwrap_or_default(),
            target: line.next().unwrap_or_default(),
            fields: head.fields,
            side: Side::H1 { reader, pieces: Pieces::new(framing)?, out: Framed::Not, back },
        };
        let Ok(()) = requests.send(served) else { break };
        match returned.await {
            Ok(again) => reader = again,
            Err(_) => break,
        }
    }
    Ok(())
}

async fn serve_http2(
    tcp: TcpStream,
    requests: mpsc::UnboundedSender<Served>,
    streams: u32,
    farewell: &Notify,
) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut builder = h2::server::Builder::new();
    let handshake = builder.max_concurrent_streams(streams).handshake(tcp);
    let mut connection = handshake.await.map_err(io::Error::other)?;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = farewell.notified() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(accepted) = accepted else { break };
        let (request, respond) = accepted.map_err(io::Error::other)?;
        let (head, body) = request.into_parts();
        let target = head.uri.path_and_query().map(|target| target.to_string());
        let mut fields = owned(&[(":authority", head.uri.authority().map_or("", |a| a.as_str()))]);
        fields.extend(fields_of(&head.headers));
        let served = Served {
            method: head.method.to_string(),
            target: target.unwrap_or_default(),
            fields,
            side: Side::H2 { body, respond, stream: None },
        };
        let Ok(()) = requests.send(served) else { break };
    }
    Ok(())
}

impl Served {
    /// The first value of a field of the request.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        h1::first(&self.fields, name)
    }

    /// The next piece of the request's body.
    pub(crate) async fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        match &mut self.side {
            Side::H1 { reader, pieces, .. } => soon(pieces.next(reader)).await,
            Side::H2 { body, .. } => soon(next_piece(body)).await,
        }
    }

    /// The body up to its end, or why it was cut.
    pub(crate) async fn try_whole(&mut self) -> io::Result<Whole> {
        let mut whole = Whole::default();
        while let Some(piece) = self.piece().await? {
            whole.content.extend(piece);
        }
        whole.trailers = match &mut self.side {
            Side::H1 { pieces, .. } => pieces.trailers().to_vec(),
            Side::H2 { body, .. } => soon(trailers_of(body)).await?,
        };
        Ok(whole)
    }

    pub(crate) async fn whole(&mut self) -> Whole {
        self.try_whole().await.expect("a whole body")
    }

    /// Sends an interim response.
    pub(crate) async fn try_interim(&mut self, status: u16, fields: &[(&str, &str)]) -> io::Result<()> {
        match &mut self.side {
            Side::H1 { reader, .. } => {
                let head = h1::head_bytes(&format!("HTTP/1.1 {status} x"), &owned(fields));
                reader.send(&head).await
            }
            Side::H2 { respond, .. } => {
                let mut head = http::Response::new(());
                *head.status_mut() = http::StatusCode::from_u16(status).expect("a status");
                *head.headers_mut() = map_of(&owned(fields));
                respond.send_informational(head).map_err(io::Error::other)
            }
        }
    }

    pub(crate) async fn interim(&mut self, status: u16, fields: &[(&str, &str)]) {
        soon(self.try_interim(status, fields)).await.expect("the head is sent");
    }

    /// Sends the head of the response.
    pub(crate) async fn try_begin(&mut self, status: u16, framed: Framed, fields: &[(&str, &str)]) -> io::Result<()> {
        let mut fields = owned(fields);
        if let Framed::Length(length) = framed {
            fields.extend(owned(&[("content-length", &length.to_string())]));
        }
        match &mut self.side {
            Side::H1 { reader, out, .. } => {
                if framed == Framed::Open {
                    fields.extend(owned(&[("transfer-encoding", "chunked")]));
                }
                *out = framed;
                reader.send(&h1::head_bytes(&format!("HTTP/1.1 {status} x"), &fields)).await
            }
            Side::H2 { respond, stream, .. } => {
                let mut head = http::Response::new(());
                *head.status_mut() = http::StatusCode::from_u16(status).expect("a status");
                *head.headers_mut() = map_of(&fields);
                let ends = framed == Framed::Not;
                *stream = Some(respond.send_response(head, ends).map_err(io::Error::other)?);
                Ok(())
            }
        }
    }

    pub(crate) async fn begin(&mut self, status: u16, framed: Framed, fields: &[(&str, &str)]) {
        soon(self.try_begin(status, framed, fields)).await.expect("the head is sent");
    }

    /// Sends a piece of the response's body.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.side {
            Side::H1 { reader, out, .. } if *out == Framed::Open => {
                let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
                framed.extend_from_slice(bytes);
                framed.extend_from_slice(b"\r\n");
                reader.send(&framed).await
            }
            Side::H1 { reader, .. } => reader.send(bytes).await,
            Side::H2 { stream, .. } => send_paced(stream.as_mut().expect("the head was sent"), bytes).await,
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        soon(self.try_send(bytes)).await.expect("the body is sent");
    }

    /// Ends the response; the connection carries the next request, unless its end is the body's end.
    pub(crate) async fn end(self, trailers: &[(&str, &str)]) {
        match self.side {
            Side::H1 { mut reader, out, back, .. } => {
                if out == Framed::Open {
                    let end = h1::head_bytes("0", &owned(trailers));
                    // A gateway that needs no more may have gone.
                    let _gone = reader.send(&end).await;
                }
                if out != Framed::Close {
                    let _gone = back.send(reader);
                }
            }
            Side::H2 { stream: None, .. } => {}
            Side::H2 { stream: Some(mut stream), .. } => {
                // Without a body the head was the end already, which the stream then says.
                let _ended = match trailers {
                    [] => stream.send_data(Bytes::new(), true),
                    _ => stream.send_trailers(map_of(&owned(trailers))),
                };
            }
        }
    }

    /// A whole response with a length.
    pub(crate) async fn answer(mut self, status: u16, body: &str) {
        self.begin(status, Framed::Length(body.len()), &[]).await;
        self.send(body.as_bytes()).await;
        self.end(&[]).await;
    }

    /// Sends bytes just as they are. Only over HTTP/1.1.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        let Side::H1 { reader, .. } = &mut self.side else {
            panic!("only over HTTP/1.1");
        };
        soon(reader.send(bytes)).await.expect("the bytes are sent");
    }

    /// Reads whatever comes. Only over HTTP/1.1.
    pub(crate) async fn read_raw(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let Side::H1 { reader, .. } = &mut self.side else {
            panic!("only over HTTP/1.1");
        };
        soon(reader.read_exact(count)).await
    }

    /// Waits until the gateway has closed the connection or reset the stream.
    pub(crate) async fn sees_the_end(&mut self) {
        match &mut self.side {
            Side::H1 { reader, .. } => {
                while matches!(soon(reader.read_some(1 << 20)).await, Ok(more) if !more.is_empty()) {}
            }
            Side::H2 { respond, stream, .. } => {
                let reset = std::future::poll_fn(|cx| match stream {
                    Some(stream) => stream.poll_reset(cx),
                    None => respond.poll_reset(cx),
                });
                let _reason = soon(reset).await;
            }
        }
    }

    /// Says that the request was not processed (RFC 9113 section 8.7). Only over HTTP/2.
    pub(crate) fn refuse(self) {
        let Side::H2 { mut respond, .. } = self.side else {
            panic!("only over HTTP/2");
        };
        respond.send_reset(h2::Reason::REFUSED_STREAM);
    }

    /// Breaks off: a reset of the connection, or RST_STREAM.
    pub(crate) fn reset(self) {
        match self.side {
            Side::H1 { mut reader, .. } => {
                reader.stream().set_zero_linger().expect("an open socket");
            }
            Side::H2 { mut respond, stream, .. } => match stream {
                Some(mut stream) => stream.send_reset(h2::Reason::INTERNAL_ERROR),
                None => respond.send_reset(h2::Reason::INTERNAL_ERROR),
            },
        }
    }
}
