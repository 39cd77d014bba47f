//! Request heads: RFC 9112 3 and the framing of requests.
//!
//! Called by the proxy on the bytes of a downstream connection. Decides what a request is, never whether it is allowed:
//! CONNECT and upgrades are told to the caller, who refuses them unless something asked for them.

use super::{Body, Halt, Limits, Malformed, framing, section, window};
use crate::grammar;
use crate::head::{FieldId, Method, Request, SmallText, Version};
use crate::normalize::{self, Authority};

/// What the head of a request says about the connection and about what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestMeta {
    /// Bytes of the head, with an empty line before it and the one that ends it.
    pub head_len: usize,
    /// The framing of the body.
    pub body: Body,
    /// The client will send another request on the connection when we let it.
    pub keep_alive: bool,
    /// The client waits for 100 before it sends the body. False when there is no body to wait for.
    pub expect_continue: bool,
    /// The request asks for another protocol, other than HTTP/2; [`super::strip_hop_by_hop`] says which.
    pub upgrade: bool,
    /// The form the target had.
    pub form: TargetForm,
}

/// The forms of a request target (RFC 9112 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetForm {
    /// `/path?query`
    Origin,
    /// `http://host/path?query`. The scheme is the client's claim; nothing is done with it.
    Absolute,
    /// `host:port`, of CONNECT.
    Authority,
    /// `*`, of OPTIONS.
    Asterisk,
}

/// Parses a request head at the beginning of the bytes.
///
/// `Ok(None)` means that the head is not complete: call again with all of the bytes and more. Each call parses from the
/// beginning; [`super::Scan`] tells the calls that cannot succeed from the others. The answer does not depend on how
/// the bytes were split. The request is cleared first, and is in use only after `Ok(Some(..))`.
///
/// One empty line before the request line is skipped (RFC 9112 2.2). `Host` is taken out of the fields; its value, or
/// the authority of an absolute target, becomes [`Request::authority`]. The scheme stays empty: the connection knows it.
///
/// # Errors
/// [`Malformed`]: answer with its status and close the connection.
pub fn parse_request(bytes: &[u8], limits: &Limits, into: &mut Request) -> Result<Option<RequestMeta>, Malformed> {
    into.clear();
    match parse(bytes, limits, into) {
        Ok(meta) => Ok(Some(meta)),
        Err(Halt::Incomplete) => {
            into.clear();
            Ok(None)
        }
        Err(Halt::Malformed(malformed)) => Err(malformed),
    }
}

fn parse(bytes: &[u8], limits: &Limits, into: &mut Request) -> Result<RequestMeta, Halt> {
    let start = match bytes {
        [b'\r', b'\n', ..] => 2,
        [] | [b'\r'] => return Err(Halt::Incomplete),
        _ => 0,
    };
    let line_limit = start + limits.request_line.saturating_add(2);
    let head = window(bytes, limits.head_bytes.min(u32::MAX as usize));
    let line = window(head, line_limit);
    let too_long =
        if line_limit <= limits.head_bytes { Malformed::RequestLineTooLong } else { Malformed::HeadTooLarge };
    let parsed = parse_line(line, start, into)
        .map_err(|halt| halt.at_limit(line, line_limit.min(limits.head_bytes), too_long))?;

    let rules =
        section::Rules { fields: limits.fields, too_many: Malformed::TooManyFields, underscore: limits.underscore };
    let head_len = section::parse(head, parsed.end, &rules, &mut into.fields)
        .map_err(|halt| halt.at_limit(head, limits.head_bytes, Malformed::HeadTooLarge))?;

    settle_authority(&parsed, into)?;
    let options = framing::options(&into.fields)?;
    let body = framing::announced(&into.fields, into.version)?;
    let upgrade = framing::upgrade(&into.fields, options, into.version).is_some();
    if upgrade && !body.is_empty() {
        return Err(Malformed::UpgradeWithBody.into());
    }
    if parsed.form == TargetForm::Authority && !body.is_empty() {
        return Err(Malformed::ConnectWithBody.into());
    }
    Ok(RequestMeta {
        head_len,
        body,
        keep_alive: options.persists(into.version),
        expect_continue: expects_continue(into)? && !body.is_empty(),
        upgrade,
        form: parsed.form,
    })
}

/// The request line, its parts as ranges of the bytes.
struct Line<'a> {
    form: TargetForm,
    /// Of an absolute or authority target.
    authority: Option<(&'a [u8], Scheme)>,
    end: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
    /// CONNECT names none.
    Unknown,
}

fn parse_line<'a>(bytes: &'a [u8], start: usize, into: &mut Request) -> Result<Line<'a>, Halt> {
    let rest = bytes.get(start..).unwrap_or_default();
    let (method, rest) = take_method(rest)?;
    into.method = method;
    let target_length =
        rest.iter().position(|&byte| grammar::class(byte) & grammar::TARGET == 0).ok_or(Halt::Incomplete)?;
    let (target, rest) = rest.split_at(target_length);
    match rest {
        [b' ', ..] if target.is_empty() => return Err(Malformed::RequestLine.into()),
        [b' ', ..] => {}
        [byte, tail @ ..] => return Err(bad_target(*byte, tail, target)),
        [] => return Err(Halt::Incomplete),
    }
    let (form, authority) = take_target(target, method, into)?;
    let rest = rest.get(1..).unwrap_or_default();
    into.version = take_version(rest)?;
    let end = bytes.len() - rest.len() + b"HTTP/1.1\r\n".len();
    Ok(Line { form, authority, end })
}

fn take_method(rest: &[u8]) -> Result<(Method, &[u8]), Halt> {
    // The first byte of a TLS record that carries a handshake (RFC 8446 5.1).
    if rest.first() == Some(&0x16) {
        return Err(Malformed::TlsOnPlainPort.into());
    }
    for (name, method) in [(&b"GET "[..], Method::Get), (b"POST ", Method::Post)] {
        if let Some(rest) = rest.strip_prefix(name) {
            return Ok((method, rest));
        }
    }
    let length = rest.iter().take_while(|&&byte| grammar::class(byte) & grammar::TOKEN != 0).count();
    if length > SmallText::CAPACITY {
        return Err(Malformed::MethodTooLong.into());
    }
    let (method, rest) = rest.split_at(length);
    match rest {
        [b' ', rest @ ..] => Ok((Method::from_bytes(method).ok_or(Malformed::RequestLine)?, rest)),
        [] => Err(Halt::Incomplete),
        [b'\n', ..] => Err(Malformed::BareLf.into()),
        [0, ..] => Err(Malformed::Nul.into()),
        _ => Err(Malformed::RequestLine.into()),
    }
}

#[cold]
fn bad_target(byte: u8, tail: &[u8], target: &[u8]) -> Halt {
    match (byte, tail.first()) {
        (b'#', _) => Malformed::Fragment.into(),
        (b'\n', _) => Malformed::BareLf.into(),
        (0, _) => Malformed::Nul.into(),
        (b'\r', None) => Halt::Incomplete,
        (b'\r', Some(b'\n')) if target.is_empty() => Malformed::RequestLine.into(),
        (b'\r', Some(b'\n')) => Malformed::Http09.into(),
        (b'\r', Some(_)) => Malformed::BareCr.into(),
        _ => Malformed::Target.into(),
    }
}

fn take_version(rest: &[u8]) -> Result<Version, Halt> {
    match rest {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', b'\r', b'\n', ..] => return Ok(Version::Http11),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0', b'\r', b'\n', ..] => return Ok(Version::Http10),
        _ => {}
    }
    let version = window(rest, b"HTTP/1.1\r\n".len());
    let complete = version.len() == b"HTTP/1.1\r\n".len();
    Err(match (version, memchr::memchr(b'\n', version)) {
        ([b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b'\r', b'\n'], _)
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Malformed::Version.into()
        }
        (_, Some(at)) if !version[..at].ends_with(b"\r") => Malformed::BareLf.into(),
        (_, None) if !complete => Halt::Incomplete,
        _ => Malformed::RequestLine.into(),
    })
}

type Authorities<'a> = Option<(&'a [u8], Scheme)>;

/// Puts path and query into the request and gives back the authority that the target names.
fn take_target<'a>(
    target: &'a [u8],
    method: Method,
    into: &mut Request,
) -> Result<(TargetForm, Authorities<'a>), Malformed> {
    if method == Method::Connect {
        let authority = normalize::authority(target).map_err(|_| Malformed::ConnectTarget)?;
        authority.port.ok_or(Malformed::ConnectTarget)?;
        return Ok((TargetForm::Authority, Some((target, Scheme::Unknown))));
    }
    let (form, authority, rest) = match target {
        [b'/', ..] => (TargetForm::Origin, None, target),
        b"*" if method == Method::Options => (TargetForm::Asterisk, None, target),
        b"*" => return Err(Malformed::AsteriskTarget),
        _ => {
            let (scheme, rest) = take_scheme(target).ok_or(Malformed::Target)?;
            let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(end);
            normalize::authority(authority).map_err(|_| Malformed::HostInvalid)?;
            (TargetForm::Absolute, Some((authority, scheme)), rest)
        }
    };
    let taken = match rest {
        // An absolute target without path (RFC 9112 3.2.4 and 3.2.1).
        [] if method == Method::Options => into.take_target(b"*", 1),
        [] => into.take_target(b"/", 1),
        [b'?', ..] => into.set_path(b"/").and_then(|()| into.set_query(rest.get(1..))),
        _ => into.take_target(rest, memchr::memchr(b'?', rest).unwrap_or(rest.len())),
    };
    taken.map_err(|_| Malformed::Target)?;
    Ok((form, authority))
}

fn take_scheme(target: &[u8]) -> Option<(Scheme, &[u8])> {
    let colon = memchr::memchr(b':', window(target, b"https:".len()))?;
    let (name, rest) = target.split_at(colon);
    let scheme = match name {
        name if name.eq_ignore_ascii_case(b"http") => Scheme::Http,
        name if name.eq_ignore_ascii_case(b"https") => Scheme::Https,
        _ => return None,
    };
    Some((scheme, rest.strip_prefix(b"://")?))
}

/// Makes `Host`, or the authority of the target, the authority of the request, and takes the field away.
fn settle_authority(line: &Line<'_>, into: &mut Request) -> Result<(), Malformed> {
    let mut lines = into.fields.all(FieldId::HOST);
    let host = lines.next();
    if lines.next().is_some() {
        return Err(Malformed::HostRepeated);
    }
    let named = match host {
        None if into.version != Version::Http10 => return Err(Malformed::HostMissing),
        None => None,
        Some(host) => Some(normalize::authority(host).map_err(|_| Malformed::HostInvalid)?),
    };
    let taken = match (line.authority, named) {
        (Some((target, scheme)), named) => {
            let parts = normalize::authority(target).map_err(|_| Malformed::HostInvalid)?;
            if named.is_some_and(|named| !means_the_same(&named, &parts, scheme)) {
                return Err(Malformed::HostMismatch);
            }
            into.take_authority(target)
        }
        (None, Some(_)) => into.take_host(),
        (None, None) => Ok(()),
    };
    into.fields.remove_id(FieldId::HOST);
    taken.map_err(|_| Malformed::HeadTooLarge)
}

fn means_the_same(host: &Authority<'_>, target: &Authority<'_>, scheme: Scheme) -> bool {
    let port = |authority: &Authority<'_>| {
        authority.port.or(match scheme {
            Scheme::Http => Some(80),
            Scheme::Https => Some(443),
            Scheme::Unknown => target.port,
        })
    };
    let name = |authority: &Authority<'_>| authority.host.strip_suffix(b".").map_or(authority.host.len(), <[u8]>::len);
    port(host) == port(target) && host.host[..name(host)].eq_ignore_ascii_case(&target.host[..name(target)])
}

/// `Expect: 100-continue` is the only expectation (RFC 9110 10.1.1), and HTTP/1.0 has none.
fn expects_continue(request: &Request) -> Result<bool, Malformed> {
    let mut lines = request.fields.all(FieldId::EXPECT);
    let Some(value) = lines.next() else {
        return Ok(false);
    };
    if lines.next().is_some() || !value.eq_ignore_ascii_case(b"100-continue") {
        return Err(Malformed::Expectation);
    }
    Ok(request.version != Version::Http10)
}
