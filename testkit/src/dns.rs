//! A name server that says what the test tells it to, over UDP and TCP on one port.
//!
//! Called by road tests. It remembers every question, so that a test waits for what was asked and never for time to pass.
//! Messages are read and written by hand (RFC 1035): one question, answers of types A and AAAA.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What a datagram may hold; a longer answer is sent truncated, so that it is asked for over TCP.
const LARGEST_DATAGRAM: usize = 1232;
/// How long a negative answer may be remembered, by the zone's SOA record, in seconds.
const NEGATIVE_TTL: u32 = 3600;

const TYPE_A: u16 = 1;
const TYPE_SOA: u16 = 6;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

/// What the server says about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// These addresses, with this time to live in seconds; a family without any gets an empty answer.
    Addresses(Vec<IpAddr>, u32),
    /// There is no such name (NXDOMAIN).
    NoSuchName,
    /// The name exists and has no address.
    Empty,
    /// The server cannot tell (SERVFAIL).
    Failure,
    /// Nothing, until something else is said.
    Later,
}

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// The family of addresses that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    A,
    /// IPv6.
    Aaaa,
}

/// One question that was asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// The name, in lower case and without a dot at the end.
    pub name: String,
    /// What was asked for.
    pub family: Family,
    /// How it came.
    pub transport: Transport,
    /// When it came.
    pub at: Instant,
}

/// A name server. It ends when it is dropped.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    desk: Arc<Desk>,
    serving: [JoinHandle<()>; 2],
}

/// What both transports share.
#[derive(Debug, Default)]
struct Desk {
    zone: Mutex<HashMap<String, Reply>>,
    questions: Mutex<Vec<Question>>,
    asked: Notify,
    said: Notify,
}

impl NameServer {
    /// Starts a server that knows no name, on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port is free for both UDP and TCP.
    pub async fn start() -> io::Result<NameServer> {
        let (tcp, udp) = bind().await?;
        NameServer::serve(tcp, udp)
    }

    /// Starts a server that knows no name on this address, as where port 53 is free.
    ///
    /// # Errors
    /// It cannot be bound.
    pub async fn start_at(address: SocketAddr) -> io::Result<NameServer> {
        NameServer::serve(TcpListener::bind(address).await?, UdpSocket::bind(address).await?)
    }

    fn serve(tcp: TcpListener, udp: UdpSocket) -> io::Result<NameServer> {
        let address = tcp.local_addr()?;
        let desk = Arc::<Desk>::default();
        let serving =
            [tokio::spawn(serve_datagrams(udp, desk.clone())), tokio::spawn(serve_connections(tcp, desk.clone()))];
        Ok(NameServer { address, desk, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on says this about a name; about names that nothing was said about it says that there are none.
    pub fn say(&self, name: &str, reply: Reply) {
        lock(&self.desk.zone).insert(name.to_ascii_lowercase(), reply);
        self.desk.said.notify_waiters();
    }

    /// The questions of one family about a name so far.
    pub fn questions(&self, name: &str, family: Family) -> Vec<Question> {
        let of_it = |question: &&Question| question.name == name && question.family == family;
        lock(&self.desk.questions).iter().filter(of_it).cloned().collect()
    }

    /// Waits until so many questions of one family were asked about a name, and gives them. Without a limit: wrap it in a
    /// timeout.
    pub async fn asked(&self, name: &str, family: Family, count: usize) -> Vec<Question> {
        loop {
            let asked = self.desk.asked.notified();
            tokio::pin!(asked);
            // Enabled before looking, so that a question between looking and waiting is not missed.
            asked.as_mut().enable();
            let questions = self.questions(name, family);
            if questions.len() >= count {
                return questions;
            }
            asked.await;
        }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        for task in &self.serving {
            task.abort();
        }
    }
}

/// One port for both; a port that is free for TCP may be taken for UDP.
async fn bind() -> io::Result<(TcpListener, UdpSocket)> {
    let mut attempts = 0;
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((tcp, udp)),
            Err(error) if attempts == 50 => return Err(error),
            Err(_) => attempts += 1,
        }
    }
}

async fn serve_datagrams(udp: UdpSocket, desk: Arc<Desk>) {
    let udp = Arc::new(udp);
    let mut message = [0; 4096];
    while let Ok((length, from)) = udp.recv_from(&mut message).await {
        let (udp, desk, message) = (udp.clone(), desk.clone(), message[..length].to_vec());
        tokio::spawn(async move {
            if let Some(answer) = desk.answer(&message, Transport::Udp).await {
                // Whoever asked may have gone.
                let _ = udp.send_to(&answer, from).await;
            }
        });
    }
}

async fn serve_connections(tcp: TcpListener, desk: Arc<Desk>) {
    while let Ok((stream, _)) = tcp.accept().await {
        // A connection that breaks off has no more questions.
        let desk = desk.clone();
        tokio::spawn(async move {
            let _ended = serve_connection(stream, &desk).await;
        });
    }
}

async fn serve_connection(mut stream: TcpStream, desk: &Desk) -> io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut message = vec![0; usize::from(length)];
        stream.read_exact(&mut message).await?;
        let Some(answer) = desk.answer(&message, Transport::Tcp).await else {
            return Ok(());
        };
        stream.write_u16(u16::try_from(answer.len()).map_err(io::Error::other)?).await?;
        stream.write_all(&answer).await?;
    }
}

impl Desk {
    /// Notes the question and answers it; nothing for a message that is no question.
    async fn answer(&self, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let (name, kind, end) = read_question(message)?;
        let family = match kind {
            TYPE_A => Family::A,
            TYPE_AAAA => Family::Aaaa,
            _ => return None,
        };
        lock(&self.questions).push(Question { name: name.clone(), family, transport, at: Instant::now() });
        self.asked.notify_waiters();
        let reply = self.reply(&name).await;
        let answer = write_answer(message, end, family, &reply);
        if transport == Transport::Udp && answer.len() > LARGEST_DATAGRAM {
            return Some(truncate(message, end));
        }
        Some(answer)
    }
}

impl Desk {
    /// What is to be said about a name, as soon as something is.
    async fn reply(&self, name: &str) -> Reply {
        loop {
            let said = self.said.notified();
            match lock(&self.zone).get(name).cloned().unwrap_or(Reply::NoSuchName) {
                Reply::Later => {}
                reply => return reply,
            }
            said.await;
        }
    }
}

/// The name and the type that a message asks for, and where the question ends.
fn read_question(message: &[u8]) -> Option<(String, u16, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = message.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]);
    message.get(..at + 4)?;
    Some((labels.join("."), kind, at + 4))
}

/// Header and question of an answer: the flags are QR, AA, RD and RA, and those given.
fn begin_answer(message: &[u8], end: usize, flags: u16, answers: usize, authorities: u16) -> Vec<u8> {
    let mut out = message[..2].to_vec();
    out.extend((0x8580 | flags).to_be_bytes());
    out.extend(1u16.to_be_bytes());
    out.extend(u16::try_from(answers).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(authorities.to_be_bytes());
    out.extend([0, 0]);
    out.extend(&message[12..end]);
    out
}

fn write_answer(message: &[u8], end: usize, family: Family, reply: &Reply) -> Vec<u8> {
    let code = match reply {
        Reply::Failure => 2,
        Reply::NoSuchName => 3,
        _ => 0,
    };
    let (addresses, ttl) = match reply {
        Reply::Addresses(addresses, ttl) => (addresses.as_slice(), *ttl),
        _ => (&[][..], 0),
    };
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv4());
    let wanted = match family {
        Family::A => v4,
        Family::Aaaa => v6,
    };
    let negative = wanted.is_empty() && *reply != Reply::Failure;
    let mut out = begin_answer(message, end, code, wanted.len(), u16::from(negative));
    for address in &wanted {
        let (kind, data) = match address {
            IpAddr::V4(address) => (TYPE_A, address.octets().to_vec()),
            IpAddr::V6(address) => (TYPE_AAAA, address.octets().to_vec()),
        };
        write_record(&mut out, kind, ttl, &data);
    }
    if negative {
        let mut data = vec![0, 0];
        for number in [1, 3600, 600, 86_400, NEGATIVE_TTL] {
            data.extend(number.to_be_bytes());
        }
        write_record(&mut out, TYPE_SOA, NEGATIVE_TTL, &data);
    }
    out
}

/// A record about the name of the question, which begins at byte 12.
fn write_record(out: &mut Vec<u8>, kind: u16, ttl: u32, data: &[u8]) {
    out.extend([0xc0, 12]);
    out.extend(kind.to_be_bytes());
    out.extend(CLASS_IN.to_be_bytes());
    out.extend(ttl.to_be_bytes());
    out.extend(u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(data);
}

/// An answer that only says that it did not fit (TC).
fn truncate(message: &[u8], end: usize) -> Vec<u8> {
    begin_answer(message, end, 0x0200, 0, 0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question for `shop.test`.
    fn question(kind: u16) -> Vec<u8> {
        let mut message = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(b"\x04Shop\x04test\0");
        message.extend(kind.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        message
    }

    #[tokio::test]
    async fn addresses_of_the_family_are_answered() {
        let desk = Desk::default();
        let both = vec![IpAddr::from([10, 0, 0, 1]), "fd00::1".parse().expect("an address")];
        lock(&desk.zone).insert("shop.test".to_owned(), Reply::Addresses(both, 5));
        let answer = desk.answer(&question(TYPE_A), Transport::Udp).await.expect("an answer");
        assert_eq!(answer[..12], [7, 7, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer[answer.len() - 16..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 1]);
        let answer = desk.answer(&question(TYPE_AAAA), Transport::Udp).await.expect("an answer");
        assert_eq!(answer.last(), Some(&1));
        let names: Vec<String> = lock(&desk.questions).iter().map(|question| question.name.clone()).collect();
        assert_eq!(names, ["shop.test", "shop.test"]);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_truncated_and_told_over_tcp() {
        let desk = Desk::default();
        let many = (0..300u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes())).collect();
        lock(&desk.zone).insert("shop.test".to_owned(), Reply::Addresses(many, 5));
        let short = desk.answer(&question(TYPE_A), Transport::Udp).await.expect("an answer");
        assert_eq!((short[2] & 2, short[6..8].to_vec()), (2, vec![0, 0]));
        let whole = desk.answer(&question(TYPE_A), Transport::Tcp).await.expect("an answer");
        assert_eq!(whole[6..8], 300u16.to_be_bytes());
    }

    #[tokio::test]
    async fn an_unknown_name_does_not_exist_and_rubbish_is_not_answered() {
        let desk = Desk::default();
        let answer = desk.answer(&question(TYPE_A), Transport::Udp).await.expect("an answer");
        assert_eq!(answer[3] & 15, 3);
        assert_eq!(desk.answer(&question(TYPE_A)[..20], Transport::Udp).await, None);
        assert_eq!(desk.answer(b"x", Transport::Udp).await, None);
    }
}
