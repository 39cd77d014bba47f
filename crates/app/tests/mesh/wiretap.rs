//! Somebody who listens on every link of a machine: all bytes that pass, and the TCP streams in them put together.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Frames of every protocol (`ETH_P_ALL`), in the byte order of the wire.
const EVERYTHING: u16 = 3_u16.to_be();
/// Longer than a frame whose segments are yet to be cut.
const LONGEST: usize = 128 * 1024;
const ETHERNET: usize = 14;
const TCP: u8 = 6;
const SYN: u8 = 2;

/// Listens from its making on.
pub(crate) struct Wiretap {
    stop: Arc<AtomicBool>,
    listening: JoinHandle<Heard>,
}

impl Wiretap {
    /// Begins, in the network namespace of the calling thread.
    pub(crate) fn begin() -> Wiretap {
        let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(EVERYTHING))))
            .expect("a packet socket");
        // It wakes up now and then to see whether it is over; then it still takes in what waits.
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let listening = std::thread::spawn(move || {
            let (mut heard, mut frame) = (Heard::default(), vec![0; LONGEST]);
            loop {
                match socket.read(&mut frame) {
                    Ok(length) => heard.take(&frame[..length]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if told.load(Ordering::Relaxed) {
                            return heard;
                        }
                    }
                    // A link that goes away.
                    Err(_) => {}
                }
            }
        });
        Wiretap { stop, listening }
    }

    /// Ends, and gives all that was heard.
    pub(crate) fn end(self) -> Heard {
        self.stop.store(true, Ordering::Relaxed);
        self.listening.join().expect("it ends")
    }
}

/// What was heard.
#[derive(Default)]
pub(crate) struct Heard {
    /// Every frame, one behind the other, but for those that stay on the machine.
    pub(crate) frames: Vec<u8>,
    /// One direction of a TCP connection each.
    pub(crate) streams: BTreeMap<(SocketAddrV4, SocketAddrV4), Stream>,
}

/// The bytes of one direction of a TCP connection, in their order.
#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) bytes: Vec<u8>,
    /// The sequence number of the next byte; none before the first.
    next: Option<u32>,
    /// Whether something is missing in between.
    pub(crate) torn: bool,
}

impl Heard {
    fn take(&mut self, frame: &[u8]) {
        let packet = frame.get(ETHERNET..).unwrap_or_default();
        if frame.get(12..ETHERNET) == Some(&[8, 0]) {
            let address = |at: usize| packet.get(at..)?.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes));
            if address(12).is_some_and(|source| source.is_loopback()) {
                return;
            }
            if let Some(segment) = Segment::read(packet) {
                self.streams.entry(segment.ends).or_default().take(&segment);
            }
        }
        self.frames.extend_from_slice(frame);
    }
}

/// A part of a TCP stream (RFC 9293 section 3.1).
struct Segment<'a> {
    ends: (SocketAddrV4, SocketAddrV4),
    sequence: u32,
    opens: bool,
    data: &'a [u8],
}

impl Segment<'_> {
    fn read(packet: &[u8]) -> Option<Segment<'_>> {
        let total = usize::from(u16::from_be_bytes(*packet.get(2..)?.first_chunk()?));
        // What comes after it fills the frame up.
        let segment = packet.get(usize::from(packet[0] & 15) * 4..total.min(packet.len()))?;
        let address = |at: usize| packet.get(at..)?.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes));
        let port = |at: usize| segment.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
        if *packet.get(9)? != TCP {
            return None;
        }
        Some(Segment {
            ends: (SocketAddrV4::new(address(12)?, port(0)?), SocketAddrV4::new(address(16)?, port(2)?)),
            sequence: u32::from_be_bytes(*segment.get(4..)?.first_chunk()?),
            opens: segment.get(13)? & SYN != 0,
            data: segment.get(usize::from(segment.get(12)? >> 4) * 4..)?,
        })
    }
}

impl Stream {
    /// A frame is heard on every link that it passes, and counts once.
    fn take(&mut self, segment: &Segment<'_>) {
        if segment.opens {
            self.next = Some(segment.sequence.wrapping_add(1));
            return;
        }
        let next = *self.next.get_or_insert(segment.sequence);
        let mut known = next.wrapping_sub(segment.sequence);
        if known > u32::MAX / 2 {
            self.torn |= !segment.data.is_empty();
            known = 0;
        }
        let new = usize::try_from(known).ok().and_then(|known| segment.data.get(known..)).unwrap_or_default();
        if let Some(length) = u32::try_from(new.len()).ok().filter(|length| *length > 0) {
            self.bytes.extend_from_slice(new);
            self.next = Some(segment.sequence.wrapping_add(known).wrapping_add(length));
        }
    }
}

/// Whether bytes occur in others.
pub(crate) fn occurs(needle: &[u8], hay: &[u8]) -> bool {
    hay.windows(needle.len()).any(|window| window == needle)
}

/// The number of records with data of the application, if a stream is TLS from its first byte to its last (RFC 8446 section 5.1).
pub(crate) fn records(mut bytes: &[u8]) -> Result<usize, String> {
    const APPLICATION_DATA: u8 = 23;
    let mut count = 0;
    while let [kind, major, minor, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if !(20..=APPLICATION_DATA).contains(kind) || *major != 3 || *minor > 3 || length > (1 << 14) + 256 {
            return Err(format!("not a record: {}", bytes[..bytes.len().min(40)].escape_ascii()));
        }
        count += usize::from(*kind == APPLICATION_DATA);
        // The last one may be cut off by the end of listening.
        bytes = rest.get(length..).unwrap_or_default();
    }
    Ok(count)
}
