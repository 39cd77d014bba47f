//! Netlink: messages to the kernel and its answers, as bytes. `nftables` and `route` fill them in.
//!
//! Layout as in `linux/netlink.h`: a header and attributes, each padded to four bytes; headers in the order of the
//! machine, what stands in attributes as their subsystem wants it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
const NESTED: u16 = 0x8000;
/// `NLA_TYPE_MASK`: without the flags for nested and for network order.
const TYPE: u16 = 0x3fff;

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;

pub(super) const NLM_F_REQUEST: u16 = 0x001;
pub(super) const NLM_F_ACK: u16 = 0x004;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;

/// How long the kernel may take for an answer. It answers before `send` returns, so this is only against waiting forever.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than any answer: the kernel makes those of a dump at most 32 KiB long.
const LONGEST: usize = 64 * 1024;

/// Messages that are being written, one after the other.
#[derive(Default)]
pub(super) struct Messages {
    bytes: Vec<u8>,
    count: u32,
    /// Where the last one starts.
    last: usize,
}

impl Messages {
    /// Appends a message: a fixed head of its subsystem, and attributes. Its number is returned; the first is 0.
    pub(super) fn push(&mut self, kind: u16, flags: u16, head: &[u8], fill: impl FnOnce(&mut Attributes<'_>)) -> u32 {
        let (start, number) = (self.bytes.len(), self.count);
        self.count += 1;
        self.last = start;
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(number.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(head);
        pad(&mut self.bytes);
        fill(&mut Attributes(&mut self.bytes));
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        number
    }

    /// Asks for an answer to the last message even if it succeeds.
    pub(super) fn acknowledge_last(&mut self) {
        if let Some([low, high]) = self.bytes.get_mut(self.last + 6..self.last + 8) {
            let flags = u16::from_ne_bytes([*low, *high]) | NLM_F_ACK;
            [*low, *high] = flags.to_ne_bytes();
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Attributes that are being written.
pub(super) struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.sized(kind, |out| out.extend(value));
    }

    /// A text with the zero byte that the kernel expects at its end.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.sized(kind, |out| {
            out.extend(value.as_bytes());
            out.push(0);
        });
    }

    /// A number in network order.
    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.sized(kind | NESTED, |out| fill(&mut Attributes(out)));
    }

    fn sized(&mut self, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        fill(self.0);
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        if let Some(place) = self.0.get_mut(start..start + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        pad(self.0);
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// One message of the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    pub(super) kind: u16,
    pub(super) number: u32,
    /// After the header: the head of the subsystem and the attributes.
    pub(super) body: &'a [u8],
}

impl Answer<'_> {
    /// What an answer of kind [`NLMSG_ERROR`] says; `Ok` is an acknowledgement.
    pub(super) fn outcome(&self) -> io::Result<()> {
        match self.body.first_chunk::<4>().map(|code| i32::from_ne_bytes(*code)) {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "an answer of the kernel is too short")),
        }
    }
}

/// The messages in what was received; what is cut off ends them.
pub(super) fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let message = bytes.get(..length)?;
        let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
        let number = u32::from_ne_bytes(*message.get(8..)?.first_chunk()?);
        let body = message.get(HEADER..)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer { kind, number, body })
    })
}

/// The attributes in `bytes` and their kinds, without flags; what is cut off ends them.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & TYPE;
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A socket to a subsystem of the kernel, in the network namespace of the thread that opened it.
pub(super) struct Link(OwnedFd);

impl Link {
    pub(super) fn open(subsystem: Option<Protocol>) -> io::Result<Link> {
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, subsystem)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Link(socket))
    }

    pub(super) fn send(&self, messages: &Messages) -> io::Result<()> {
        // The kernel takes only what fits in the socket's buffer, its own needs counted. More than the system allows to all
        // is for those with CAP_NET_ADMIN outside any user namespace; what is too long for the others is told by `sendto`.
        let size = messages.bytes().len().saturating_mul(2);
        if sockopt::set_socket_send_buffer_size_force(&self.0, size).is_err() {
            sockopt::set_socket_send_buffer_size(&self.0, size)?;
        }
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.0, messages.bytes(), SendFlags::empty(), &kernel)?;
        Ok(())
    }

    /// Waits for messages of the kernel.
    pub(super) fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; LONGEST];
        let (length, _) = rustix::io::retry_on_intr(|| rustix::net::recv(&self.0, &mut *buffer, RecvFlags::empty()))?;
        buffer.truncate(length);
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut messages = Messages::default();
        messages.push(7, NLM_F_REQUEST, &[1, 2, 3, 4], |out| {
            out.text(1, "cart");
            out.nested(2, |out| out.number(3, 9));
        });
        messages.push(8, 0, &[], |_| {});
        let read: Vec<_> = answers(messages.bytes()).collect();
        assert_eq!(read.iter().map(|answer| (answer.kind, answer.number)).collect::<Vec<_>>(), [(7, 0), (8, 1)]);
        let fields: Vec<_> = attributes(&read[0].body[4..]).collect();
        assert_eq!(fields[0], (1, b"cart\0".as_slice()));
        assert_eq!(attributes(fields[1].1).collect::<Vec<_>>(), [(3, [0, 0, 0, 9].as_slice())]);
    }

    #[test]
    fn what_is_cut_off_or_senseless_ends_the_reading() {
        let mut messages = Messages::default();
        messages.push(7, 0, &[0; 4], |out| out.text(1, "cart"));
        for length in 0..messages.bytes().len() {
            assert_eq!(answers(&messages.bytes()[..length]).count(), 0, "{length}");
        }
        assert_eq!(answers(&[0; 64]).count(), 0, "a length of nothing must not be read for ever");
        assert_eq!(answers(&[255; 64]).count(), 0);
        assert_eq!(attributes(&[0; 16]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
    }
}
