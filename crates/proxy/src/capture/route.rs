//! A route for virtual addresses: without one the kernel refuses a connection to them before any rule sees it.
//!
//! A namespace with a default route needs none. Where there is none, one over the loopback interface is added, and marked
//! as ours so that only ours is removed. Nothing is ever sent over it: the rules redirect first.

use std::io;
use std::net::UdpSocket;

use ipnet::Ipv4Net;

use super::CaptureError;
use super::netlink::{self, Link, Messages, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NLMSG_ERROR};

// linux/rtnetlink.h
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RT_TABLE_MAIN: u8 = 254;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const AF_INET: u8 = 2;
/// `rtm_protocol`: who made a route. Numbers from 5 are for programs, and this one is not given to any.
const OURS: u8 = 84;
/// The loopback interface has this number in every network namespace.
const LOOPBACK: u32 = 1;

/// Adds a route for `range` unless there is one.
pub(super) fn ensure(range: Ipv4Net) -> Result<(), CaptureError> {
    if has_route(range) {
        return Ok(());
    }
    match change(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, range) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome.map_err(|error| failure("adding a route for virtual addresses", error)),
    }
}

/// Removes the route that [`ensure`] added, if it did.
pub(super) fn remove(range: Ipv4Net) -> Result<(), CaptureError> {
    match change(RTM_DELROUTE, 0, range) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(()),
        outcome => outcome.map_err(|error| failure("removing the route for virtual addresses", error)),
    }
}

fn failure(doing: &str, error: io::Error) -> CaptureError {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return CaptureError::NotPermitted;
    }
    CaptureError::System { doing: doing.to_owned(), error }
}

/// Connecting a UDP socket asks for a route and sends nothing.
fn has_route(range: Ipv4Net) -> bool {
    let Some(address) = range.hosts().next() else {
        return true;
    };
    UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect((address, 9))).is_ok()
}

fn change(kind: u16, flags: u16, range: Ipv4Net) -> io::Result<()> {
    let link = Link::open(None)?;
    link.send(&message(kind, flags, range))?;
    let received = link.receive()?;
    match netlink::answers(&received).find(|answer| answer.kind == NLMSG_ERROR) {
        Some(answer) => answer.outcome(),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel gave no answer")),
    }
}

fn message(kind: u16, flags: u16, range: Ipv4Net) -> Messages {
    // struct rtmsg: family, destination and source lengths, type of service, table, protocol, scope, type, flags.
    let head = [AF_INET, range.prefix_len(), 0, 0, RT_TABLE_MAIN, OURS, RT_SCOPE_LINK, RTN_UNICAST, 0, 0, 0, 0];
    let mut messages = Messages::default();
    messages.push(kind, NLM_F_REQUEST | NLM_F_ACK | flags, &head, |out| {
        out.bytes(RTA_DST, &range.network().octets());
        out.bytes(RTA_OIF, &LOOPBACK.to_ne_bytes());
    });
    messages
}
