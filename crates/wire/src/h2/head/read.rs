//! Field blocks to heads.
//!
//! Called by the connection. The lines come judged one by one from the decoder; here is decided which may stand together and
//! what they mean. The first fault is the one that is told, and nothing is stored after it.

use super::{Connect, HeadLimits, Malformed, Refused, Unreadable};
use crate::grammar;
use crate::h1;
use crate::h2::hpack::{Decoder, Kind, Line, Pseudo};
use crate::head::{FieldId, FieldName, Fields, Method, Request, Response, Version};
use crate::normalize;

/// What the head of a request says about what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestHead {
    /// The length of the body, when the head states it.
    pub length: Option<u64>,
    /// The client waits for 100 before it sends the body, when there is one.
    pub expect_continue: bool,
}

/// Reads the head of a request.
///
/// `Host` is taken out of the fields; it or `:authority` becomes [`Request::authority`]. The scheme is the client's claim.
/// A field with `_` in its name is left out. The parts of a split `Cookie` become one field in the place of the first (RFC
/// 9113 section 8.2.3). The request is cleared first, and is of use only after `Ok`.
///
/// # Errors
/// [`Unreadable`].
pub fn read_request(
    decoder: &mut Decoder,
    block: &[u8],
    limits: &HeadLimits,
    into: &mut Request,
) -> Result<RequestHead, Unreadable> {
    into.clear();
    into.version = Version::Http2;
    let mut crumbs = std::mem::take(&mut decoder.crumbs);
    let mut reading = RequestReading {
        tally: Tally::new(limits),
        connect: limits.connect,
        into,
        crumbs: &mut crumbs,
        cookies: Cookies::None,
        seen: 0,
        host: Host::Absent,
        head: RequestHead::default(),
    };
    let decoded = decoder.decode(block, |line| reading.take(line));
    let head = reading.finish();
    decoder.crumbs = crumbs;
    decoded?;
    Ok(head?)
}

/// Reads the head of a response: the length that it states for its body.
///
/// A `Host` field is left out. The response is cleared first, and is of use only after `Ok`.
///
/// # Errors
/// [`Unreadable`].
pub fn read_response(
    decoder: &mut Decoder,
    block: &[u8],
    limits: &HeadLimits,
    into: &mut Response,
) -> Result<Option<u64>, Unreadable> {
    into.clear();
    into.version = Version::Http2;
    let mut tally = Tally::new(limits);
    let mut length = None;
    decoder.decode(block, |line| {
        tally.take(line, |tally| match line.kind() {
            Kind::Pseudo(Pseudo::Status) if tally.lines > 0 => Err(Malformed::PseudoLate.into()),
            Kind::Pseudo(Pseudo::Status) if into.status != 0 => Err(Malformed::PseudoRepeated.into()),
            Kind::Pseudo(Pseudo::Status) => {
                into.status = grammar::decimal(line.value()).map_or(0, |status| status as u16);
                Ok(())
            }
            Kind::Pseudo(_) => Err(Malformed::PseudoMisplaced.into()),
            Kind::Field(FieldId::HOST) => tally.count(),
            Kind::Field(FieldId::CONTENT_LENGTH) if length.is_some() => Err(Malformed::ContentLengthRepeated.into()),
            Kind::Field(id) => {
                if id == FieldId::CONTENT_LENGTH {
                    length = grammar::decimal(line.value());
                }
                tally.count()?;
                store(&mut into.fields, id, line)
            }
            Kind::Underscored => {
                tally.count()?;
                store(&mut into.fields, FieldId::OTHER, line)
            }
            Kind::Bad(fault) => Err(fault.into()),
        });
    })?;
    tally.finish()?;
    if into.status == 0 {
        return Err(Refused::Malformed(Malformed::StatusMissing).into());
    }
    Ok(length)
}

/// Reads trailers. Those that a trailer section may not have (RFC 9110 section 6.5.1) are left out. The fields are cleared
/// first, and are of use only after `Ok`.
///
/// # Errors
/// [`Unreadable`].
pub fn read_trailers(
    decoder: &mut Decoder,
    block: &[u8],
    limits: &HeadLimits,
    into: &mut Fields,
) -> Result<(), Unreadable> {
    into.clear();
    let mut tally = Tally::new(limits);
    decoder.decode(block, |line| {
        tally.take(line, |tally| {
            let id = match line.kind() {
                Kind::Field(id) => id,
                Kind::Underscored => FieldId::OTHER,
                Kind::Pseudo(_) => return Err(Malformed::PseudoInTrailers.into()),
                Kind::Bad(fault) => return Err(fault.into()),
            };
            tally.count()?;
            if h1::may_trail(id) { store(into, id, line) } else { Ok(()) }
        });
    })?;
    Ok(tally.finish()?)
}

/// Reads a block of which nothing is wanted: that of a stream that is gone.
///
/// # Errors
/// [`Unreadable::Compression`], never another.
pub fn discard(decoder: &mut Decoder, block: &[u8]) -> Result<(), Unreadable> {
    Ok(decoder.decode(block, |_| ())?)
}

/// What a block has come to.
struct Tally<'l> {
    limits: &'l HeadLimits,
    bytes: usize,
    lines: usize,
    refused: Option<Refused>,
}

impl<'l> Tally<'l> {
    fn new(limits: &'l HeadLimits) -> Tally<'l> {
        Tally { limits, bytes: 0, lines: 0, refused: None }
    }

    /// Takes a line with the function, unless the message is refused already or because of this line.
    #[inline]
    fn take(&mut self, line: &Line<'_>, with: impl FnOnce(&mut Tally<'l>) -> Result<(), Refused>) {
        if self.refused.is_some() {
            return;
        }
        self.bytes += line.size();
        let taken = match line.fault() {
            _ if self.bytes > self.limits.bytes => Err(Refused::TooLarge),
            Some(fault) => Err(fault.into()),
            None => with(self),
        };
        self.refused = taken.err();
    }

    /// Counts a line that is no pseudo-field.
    #[inline]
    fn count(&mut self) -> Result<(), Refused> {
        self.lines += 1;
        if self.lines > self.limits.fields { Err(Refused::TooManyFields) } else { Ok(()) }
    }

    fn finish(&self) -> Result<(), Refused> {
        self.refused.map_or(Ok(()), Err)
    }
}

/// Stores a line that has passed the grammar.
#[inline]
fn store(fields: &mut Fields, id: FieldId, line: &Line<'_>) -> Result<(), Refused> {
    let stored = match line.whole() {
        Some(whole) => fields.take_whole(id, whole, line.name().len()),
        None => fields.take_line(id, line.name(), line.value(), line.indexing()),
    };
    stored.ok_or(Refused::TooLarge)
}

/// The request that a block makes.
struct RequestReading<'a> {
    tally: Tally<'a>,
    connect: Connect,
    into: &'a mut Request,
    crumbs: &'a mut Vec<u8>,
    cookies: Cookies,
    /// The pseudo-fields there were.
    seen: u8,
    host: Host,
    head: RequestHead,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Host {
    Absent,
    Present,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cookies {
    None,
    /// It stands among the fields.
    One,
    /// They are joined outside of the fields.
    Several,
}

/// Fields that say something to the reader of a request.
const TELLING: u128 =
    FieldId::HOST.bit() | FieldId::CONTENT_LENGTH.bit() | FieldId::COOKIE.bit() | FieldId::EXPECT.bit();

const COOKIE: FieldName = FieldName::known(FieldId::COOKIE);

impl<'a> RequestReading<'a> {
    fn take(&mut self, line: &Line<'_>) {
        let RequestReading { tally, into, crumbs, cookies, seen, host, head, connect: _ } = self;
        tally.take(line, |tally| match line.kind() {
            Kind::Pseudo(_) if tally.lines > 0 => Err(Malformed::PseudoLate.into()),
            Kind::Pseudo(pseudo) => take_pseudo(pseudo, line.value(), seen, into),
            Kind::Field(id) => {
                tally.count()?;
                if TELLING & id.bit() == 0 {
                    return store(&mut into.fields, id, line);
                }
                match id {
                    FieldId::HOST => take_host(line.value(), *seen, host, into),
                    FieldId::COOKIE => take_cookie(line, cookies, crumbs, &mut into.fields),
                    _ => take_telling(id, line, head, &mut into.fields),
                }
            }
            Kind::Underscored => {
                tally.count()?;
                let is_kept = tally.limits.underscore.keeps(line.name()).map_err(|_| Malformed::UnderscoreInName)?;
                if is_kept { store(&mut into.fields, FieldId::OTHER, line) } else { Ok(()) }
            }
            Kind::Bad(fault) => Err(fault.into()),
        });
    }

    /// What can be said once all lines are there.
    fn finish(self) -> Result<RequestHead, Refused> {
        self.tally.finish()?;
        let has = |pseudo: Pseudo| self.seen & pseudo.bit() != 0;
        let connect = self.into.method == Method::Connect;
        let fault = if !has(Pseudo::Method) {
            Malformed::MethodMissing
        } else if connect && !has(Pseudo::Protocol) {
            if self.connect == Connect::Refused {
                Malformed::ConnectNotOffered
            } else if has(Pseudo::Scheme) || has(Pseudo::Path) {
                Malformed::ConnectTarget
            } else if !has(Pseudo::Authority) {
                Malformed::HostMissing
            } else {
                return Ok(self.head);
            }
        } else if !connect && has(Pseudo::Protocol) {
            Malformed::ProtocolWithoutConnect
        } else if !has(Pseudo::Scheme) {
            Malformed::SchemeMissing
        } else if !has(Pseudo::Path) {
            Malformed::PathMissing
        } else if self.into.path() == b"*" && self.into.method != Method::Options {
            Malformed::AsteriskPath
        } else if !has(Pseudo::Authority) && self.host == Host::Absent {
            Malformed::HostMissing
        } else {
            if self.cookies == Cookies::Several {
                self.into.fields.set(&COOKIE, self.crumbs).map_err(|_| Refused::TooLarge)?;
            }
            return Ok(self.head);
        };
        Err(fault.into())
    }
}

fn take_pseudo(pseudo: Pseudo, value: &[u8], seen: &mut u8, into: &mut Request) -> Result<(), Refused> {
    if *seen & pseudo.bit() != 0 {
        return Err(Malformed::PseudoRepeated.into());
    }
    *seen |= pseudo.bit();
    let taken = match pseudo {
        Pseudo::Method => {
            into.method = Method::from_bytes(value).ok_or(Malformed::Method)?;
            return Ok(());
        }
        Pseudo::Scheme => into.set_scheme(value),
        Pseudo::Authority => into.take_authority(value),
        Pseudo::Path => into.take_target(value, memchr::memchr(b'?', value).unwrap_or(value.len())),
        Pseudo::Protocol => into.set_protocol(Some(value)),
        Pseudo::Status => return Err(Malformed::PseudoMisplaced.into()),
    };
    // The decoder has looked at the value, so it can only be too long.
    taken.map_err(|_| Refused::TooLarge)
}

/// One authority, whichever field names it (RFC 9113 section 8.3.1).
fn take_host(value: &[u8], seen: u8, host: &mut Host, into: &mut Request) -> Result<(), Refused> {
    if *host == Host::Present {
        return Err(Malformed::HostRepeated.into());
    }
    *host = Host::Present;
    if seen & Pseudo::Authority.bit() != 0 {
        let same = into.authority().eq_ignore_ascii_case(value);
        return if same { Ok(()) } else { Err(Malformed::HostMismatch.into()) };
    }
    normalize::authority(value).map_err(|_| Malformed::HostInvalid)?;
    into.take_authority(value).map_err(|_| Refused::TooLarge)
}

fn take_telling(id: FieldId, line: &Line<'_>, head: &mut RequestHead, fields: &mut Fields) -> Result<(), Refused> {
    if id == FieldId::CONTENT_LENGTH {
        if head.length.is_some() {
            return Err(Malformed::ContentLengthRepeated.into());
        }
        head.length = grammar::decimal(line.value());
    } else {
        // `Expect: 100-continue` is the only expectation (RFC 9110 section 10.1.1).
        if head.expect_continue || !line.value().eq_ignore_ascii_case(b"100-continue") {
            return Err(Malformed::Expectation.into());
        }
        head.expect_continue = true;
    }
    store(fields, id, line)
}

/// HTTP/2 may split cookies over lines; everybody else expects one (RFC 9113 section 8.2.3).
fn take_cookie(
    line: &Line<'_>,
    cookies: &mut Cookies,
    crumbs: &mut Vec<u8>,
    fields: &mut Fields,
) -> Result<(), Refused> {
    if *cookies == Cookies::None {
        *cookies = Cookies::One;
        return store(fields, FieldId::COOKIE, line);
    }
    if *cookies == Cookies::One {
        *cookies = Cookies::Several;
        crumbs.clear();
        crumbs.extend_from_slice(fields.first(FieldId::COOKIE).unwrap_or_default());
    }
    if !line.value().is_empty() {
        if !crumbs.is_empty() {
            crumbs.extend_from_slice(b"; ");
        }
        crumbs.extend_from_slice(line.value());
    }
    Ok(())
}
