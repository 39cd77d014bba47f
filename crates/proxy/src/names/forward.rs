//! Questions of others: sent on as they came, to the name servers of the system in their order.
//!
//! Called by `server`, one task per question. Only the number of the question changes: a fresh one makes a forged answer
//! harder (RFC 5452), as does the port, which the kernel chooses anew each time.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

use super::answer::{code_of, is_answer};

/// How long one name server may take.
const ONE: Duration = Duration::from_millis(1500);
/// How long all may take together: programs stop waiting after 5 seconds.
const ALL: Duration = Duration::from_millis(4500);
const ROUNDS: usize = 2;
const LONGEST: usize = 65_535;

/// How a question came, and so is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// Sends questions on.
#[derive(Clone, Debug)]
pub(super) struct Forwarder {
    /// Put on the sockets, so that the rules of `capture` leave them alone.
    mark: Option<u32>,
    numbers: RandomState,
}

impl Forwarder {
    pub(super) fn new(mark: Option<u32>) -> Forwarder {
        Forwarder { mark, numbers: RandomState::new() }
    }

    /// The first good answer of a name server, or the last bad one; none when none answered in time.
    pub(super) async fn ask(
        &self,
        servers: &[SocketAddr],
        question: &[u8],
        question_end: usize,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let mut last = None;
        let all = async {
            for &server in std::iter::repeat_n(servers, ROUNDS).flatten() {
                let one = self.ask_one(server, question, question_end, transport);
                match timeout(ONE, one).await {
                    Ok(Ok(reply)) => match code_of(&reply) {
                        ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused => last = Some(reply),
                        _ => return Some(reply),
                    },
                    Ok(Err(error)) => tracing::debug!(%server, %error, "a name server could not be asked"),
                    Err(_) => tracing::debug!(%server, "a name server did not answer in time"),
                }
            }
            None
        };
        let good = timeout(ALL, all).await.ok().flatten();
        good.or(last)
    }

    /// The answer of one name server, under the number of the question as it came.
    async fn ask_one(
        &self,
        server: SocketAddr,
        question: &[u8],
        question_end: usize,
        transport: Transport,
    ) -> io::Result<Vec<u8>> {
        let too_short = || io::Error::from(io::ErrorKind::InvalidData);
        let came = *question.first_chunk::<2>().ok_or_else(too_short)?;
        let id = self.number(server, came);
        let mut sent = question.to_vec();
        *sent.first_chunk_mut::<2>().ok_or_else(too_short)? = id;
        let fits = |reply: &[u8]| is_answer(reply, question, question_end, id);
        let mut reply = match transport {
            Transport::Udp => self.ask_by_udp(server, &sent, fits).await?,
            Transport::Tcp => self.ask_by_tcp(server, &sent).await?,
        };
        if !fits(&reply) {
            return Err(too_short());
        }
        *reply.first_chunk_mut::<2>().ok_or_else(too_short)? = came;
        Ok(reply)
    }

    async fn ask_by_udp(&self, server: SocketAddr, sent: &[u8], fits: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
        let socket = Socket::new(Domain::for_address(server), Type::DGRAM, Some(Protocol::UDP))?;
        self.prepare(SockRef::from(&socket))?;
        socket.set_nonblocking(true)?;
        // Connected, so that only this name server can answer, and an unreachable one is an error at once.
        socket.connect(&server.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        socket.send(sent).await?;
        let mut buffer = vec![0; LONGEST];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if buffer.get(..length).is_some_and(&fits) {
                buffer.truncate(length);
                buffer.shrink_to_fit();
                return Ok(buffer);
            }
        }
    }

    async fn ask_by_tcp(&self, server: SocketAddr, sent: &[u8]) -> io::Result<Vec<u8>> {
        let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        self.prepare(SockRef::from(&socket))?;
        let mut stream = socket.connect(server).await?;
        write_framed(&mut stream, sent).await?;
        read_framed(&mut stream).await
    }

    fn prepare(&self, socket: SockRef<'_>) -> io::Result<()> {
        self.mark.map_or(Ok(()), |mark| socket.set_mark(mark))
    }

    /// Hard to guess without the keys that `RandomState` drew at the start.
    fn number(&self, server: SocketAddr, came: [u8; 2]) -> [u8; 2] {
        let fresh = RandomState::new().hash_one(came);
        let hash = self.numbers.hash_one((fresh, server));
        let [first, second, ..] = hash.to_ne_bytes();
        [first, second]
    }
}

/// Writes a message with its length before it (RFC 1035, section 4.2.2), in one piece.
pub(super) async fn write_framed(out: &mut (impl AsyncWriteExt + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    out.write_all(&[&length.to_be_bytes(), message].concat()).await
}

/// Reads a message with its length before it.
pub(super) async fn read_framed(input: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let length = input.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    input.read_exact(&mut message).await?;
    Ok(message)
}
