//! Envoy's external authorization over gRPC (`envoy.service.auth.v3.Authorization/Check`): the question as bytes, and the answer read.
//!
//! Called by `ExternalAuth`. The field numbers are those of Envoy's API, v3. What the answer asks for that is not done here makes the
//! answer unusable rather than half used.

use transept_wire::head::{FieldId, FieldName};

use crate::exchange::Exchange;
use crate::filters::headers::is_reserved;
use crate::protobuf::{Garbled, Reader, Writer};

/// The most changes that an answer may ask for.
const MOST_CHANGES: usize = 256;
/// The longest name of a rule that is repeated in logs.
const LONGEST_RULE: usize = 128;

/// What is told about a request beside itself.
pub(crate) struct Told<'a> {
    /// Which fields of the request are shown, by name in lower case; all when there are none.
    pub allowed: &'a [FieldName],
    /// The body, or its begin.
    pub body: Option<(&'a [u8], Begin)>,
    /// What the configuration tells the service.
    pub extensions: &'a [(Box<str>, Box<str>)],
}

/// How much of a body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// All of it.
    Whole,
    /// Its begin.
    Cut,
}

/// The message of a gRPC call with its prefix: not compressed, and its length. The message has room for UTF-8 only; target and host
/// of a request are visible ASCII, and what of its fields is not UTF-8 is shown with U+FFFD in its place.
pub(crate) fn question(x: &Exchange<'_>, told: &Told<'_>) -> Vec<u8> {
    let mut check = Writer::default();
    check.message(1, |attributes| {
        attributes.message(1, |source| {
            address(source, x.client, x.connection.peer.port());
            source.bytes(4, x.identity().map_or("", |identity| identity).as_bytes());
        });
        attributes.message(2, |destination| address(destination, x.connection.local.ip(), x.listener_port));
        attributes.message(4, |request| {
            request.message(1, |time| {
                time.number(1, x.now.unix.as_secs());
                time.number(2, u64::from(x.now.unix.subsec_nanos()));
            });
            request.message(2, |http| write_http(http, x, told));
        });
        for (key, value) in told.extensions {
            attributes.entry(10, key.as_bytes(), value.as_bytes());
        }
        if let Some(name) = x.connection.tls.as_ref().and_then(|tls| tls.server_name.as_deref()) {
            attributes.message(12, |session| session.bytes(1, name.as_bytes()));
        }
    });
    let message = check.into_bytes();
    let mut framed = Vec::with_capacity(message.len() + 5);
    framed.push(0);
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(&message);
    framed
}

fn address(peer: &mut Writer, ip: std::net::IpAddr, port: u16) {
    peer.message(1, |address| {
        address.message(1, |socket| {
            socket.bytes(2, ip.to_canonical().to_string().as_bytes());
            socket.number(3, u64::from(port));
        });
    });
}

fn write_http(http: &mut Writer, x: &Exchange<'_>, told: &Told<'_>) {
    let request = &*x.request;
    let scheme = x.scheme().as_bytes();
    let id = request.fields.first(FieldId::X_REQUEST_ID).unwrap_or_default();
    http.bytes(1, String::from_utf8_lossy(id).as_bytes());
    http.bytes(2, request.method.as_bytes());
    for (name, value) in [
        (":method", request.method.as_bytes()),
        (":authority", request.authority()),
        (":path", request.target()),
        (":scheme", scheme),
    ] {
        http.entry(3, name.as_bytes(), value);
    }
    let mut seen: Vec<String> = Vec::with_capacity(request.fields.len());
    for (name, _) in request.fields.iter() {
        let lower = name.as_str().to_ascii_lowercase();
        let Ok(name) = FieldName::new(&lower) else { continue };
        if seen.contains(&lower) || !(told.allowed.is_empty() || told.allowed.contains(&name)) {
            continue;
        }
        let mut joined = Vec::new();
        for (index, line) in request.fields.all_named(&name).enumerate() {
            if index > 0 {
                joined.push(b',');
            }
            joined.extend_from_slice(line);
        }
        // Values are text in this message.
        http.entry(3, lower.as_bytes(), String::from_utf8_lossy(&joined).as_bytes());
        seen.push(lower);
    }
    if let Some((_, begin)) = &told.body {
        let partial: &[u8] = if *begin == Begin::Cut { b"true" } else { b"false" };
        http.entry(3, b"x-envoy-auth-partial-body", partial);
    }
    http.bytes(4, request.target());
    http.bytes(5, request.authority());
    http.bytes(6, scheme);
    http.bytes(7, request.query().unwrap_or_default());
    let length = request
        .fields
        .first(FieldId::CONTENT_LENGTH)
        .and_then(|text| std::str::from_utf8(text).ok()?.parse::<u64>().ok());
    // An unknown length is -1, which is all ones here.
    http.number(9, length.unwrap_or(u64::MAX));
    http.bytes(
        10,
        match request.version {
            transept_wire::head::Version::Http10 => b"HTTP/1.0",
            transept_wire::head::Version::Http11 => b"HTTP/1.1",
            transept_wire::head::Version::Http2 => b"HTTP/2",
        },
    );
    if let Some((body, _)) = &told.body {
        let field = if std::str::from_utf8(body).is_ok() { 11 } else { 12 };
        http.bytes(field, body);
    }
}

/// What the service says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// 0 lets the request pass (`google.rpc.Code`).
    pub code: u64,
    /// Why, for logs.
    pub message: String,
    /// The status of a refusal; 403 when the service says nothing.
    pub status: u16,
    /// The body of a refusal.
    pub body: String,
    /// Changes of the request that passes, or fields of the refusal.
    pub fields: Vec<Change>,
    /// Fields that are removed from the request.
    pub remove: Vec<FieldName>,
    /// Fields that are added to the backend's response.
    pub response: Vec<Change>,
    /// Which rule of the service decided, when it tells: the text `rule` of its metadata.
    pub rule: Option<String>,
}

/// A header field in an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub name: FieldName,
    pub value: Vec<u8>,
    pub how: How,
}

/// What is done with what is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum How {
    /// It is replaced.
    #[default]
    Set,
    /// A line is added.
    Add,
    /// It stays, and nothing is added.
    AddIfAbsent,
    /// It is replaced, and nothing is done when there is nothing.
    Replace,
}

/// Reads a gRPC message with its prefix.
///
/// # Errors
/// A sentence for logs.
pub(crate) fn answer(framed: &[u8]) -> Result<Decision, &'static str> {
    let (prefix, message) = framed.split_at_checked(5).ok_or("its answer holds no message")?;
    if prefix.first() != Some(&0) {
        return Err("its answer is compressed, which it was not asked for");
    }
    let length = prefix.get(1..5).and_then(|length| <[u8; 4]>::try_from(length).ok()).map(u32::from_be_bytes);
    if length.map(|length| length as usize) != Some(message.len()) {
        return Err("its answer is not one message");
    }
    check_response(message)
}

fn check_response(message: &[u8]) -> Result<Decision, &'static str> {
    let garbled = |_: Garbled| "its answer is not a CheckResponse";
    let mut decision = Decision { status: 403, ..Decision::default() };
    let (mut says_anything, mut unknown, mut refuses) = (false, false, false);
    let mut reader = Reader::new(message);
    while let Some((field, content)) = reader.next().map_err(garbled)? {
        match field {
            1 => {
                says_anything = true;
                status(content.bytes().map_err(garbled)?, &mut decision).map_err(garbled)?;
            }
            2 => {
                refuses = true;
                denied(content.bytes().map_err(garbled)?, &mut decision).map_err(garbled)?;
            }
            3 => {
                says_anything = true;
                unknown |= accepted(content.bytes().map_err(garbled)?, &mut decision).map_err(garbled)?;
            }
            4 => decision.rule = rule(content.bytes().map_err(garbled)?).map_err(garbled)?,
            _ => {}
        }
    }
    // Nothing at all would be "allowed" by the defaults of the message: too little to let anybody in.
    if !says_anything {
        return Err("its answer says neither yes nor no");
    }
    if refuses && decision.code == 0 {
        return Err("its answer says yes and refuses");
    }
    if unknown {
        return Err("its answer changes the query, which is not done here");
    }
    Ok(decision)
}

/// `google.rpc.Status`.
fn status(bytes: &[u8], decision: &mut Decision) -> Result<(), Garbled> {
    let mut reader = Reader::new(bytes);
    while let Some((field, content)) = reader.next()? {
        match field {
            1 => decision.code = content.number()?,
            2 => decision.message = content.text()?.to_owned(),
            _ => {}
        }
    }
    Ok(())
}

/// `DeniedHttpResponse`.
fn denied(bytes: &[u8], decision: &mut Decision) -> Result<(), Garbled> {
    let mut reader = Reader::new(bytes);
    while let Some((field, content)) = reader.next()? {
        match field {
            1 => {
                let mut inner = Reader::new(content.bytes()?);
                while let Some((field, content)) = inner.next()? {
                    if field == 1 {
                        let code = content.number()?;
                        decision.status =
                            u16::try_from(code).ok().filter(|code| (200..600).contains(code)).unwrap_or(403);
                    }
                }
            }
            2 => push(&mut decision.fields, content.bytes()?, How::Set)?,
            3 => decision.body = content.text()?.to_owned(),
            _ => {}
        }
    }
    Ok(())
}

/// `OkHttpResponse`; true when it asks for what is not done here.
fn accepted(bytes: &[u8], decision: &mut Decision) -> Result<bool, Garbled> {
    let mut unknown = false;
    let mut reader = Reader::new(bytes);
    while let Some((field, content)) = reader.next()? {
        match field {
            2 => push(&mut decision.fields, content.bytes()?, How::Set)?,
            5 => {
                let name = FieldName::new(content.bytes()?).map_err(|_| Garbled)?;
                if decision.remove.len() == MOST_CHANGES {
                    return Err(Garbled);
                }
                decision.remove.push(name);
            }
            6 => push(&mut decision.response, content.bytes()?, How::Add)?,
            7 | 8 => unknown = true,
            _ => {}
        }
    }
    Ok(unknown)
}

/// `HeaderValueOption`. `usual` is what is done when it does not say: a line is added to a response, as the protocol has it; in a request and in
/// a refusal what is there is replaced, as it says of the fields of these two.
fn push(to: &mut Vec<Change>, bytes: &[u8], usual: How) -> Result<(), Garbled> {
    let (mut name, mut value, mut append, mut action) = (None, Vec::new(), None, 0);
    let mut reader = Reader::new(bytes);
    while let Some((field, content)) = reader.next()? {
        match field {
            1 => {
                let mut header = Reader::new(content.bytes()?);
                while let Some((field, content)) = header.next()? {
                    match field {
                        1 => name = Some(FieldName::new(content.bytes()?).map_err(|_| Garbled)?),
                        2 | 3 => value = content.bytes()?.to_vec(),
                        _ => {}
                    }
                }
            }
            2 => {
                append = Some(false);
                let mut flag = Reader::new(content.bytes()?);
                while let Some((field, content)) = flag.next()? {
                    if field == 1 {
                        append = Some(content.number()? != 0);
                    }
                }
            }
            3 => action = content.number()?,
            _ => {}
        }
    }
    let how = match (append, action) {
        (Some(true), _) => How::Add,
        (Some(false), _) | (None, 2) => How::Set,
        (None, 0) => usual,
        (None, 1) => How::AddIfAbsent,
        (None, 3) => How::Replace,
        (None, _) => return Err(Garbled),
    };
    let name = name.ok_or(Garbled)?;
    if to.len() == MOST_CHANGES {
        return Err(Garbled);
    }
    to.push(Change { name, value, how });
    Ok(())
}

/// The text `rule` in a `google.protobuf.Struct`.
fn rule(bytes: &[u8]) -> Result<Option<String>, Garbled> {
    let mut found = None;
    let mut reader = Reader::new(bytes);
    while let Some((field, content)) = reader.next()? {
        if field != 1 {
            continue;
        }
        let (mut key, mut value) = ("", None);
        let mut entry = Reader::new(content.bytes()?);
        while let Some((field, content)) = entry.next()? {
            match field {
                1 => key = content.text()?,
                2 => {
                    let mut inner = Reader::new(content.bytes()?);
                    while let Some((field, content)) = inner.next()? {
                        if field == 3 {
                            value = Some(content.text()?);
                        }
                    }
                }
                _ => {}
            }
        }
        if key == "rule" {
            found = value.and_then(rule_name);
        }
    }
    Ok(found)
}

/// A name of a rule that may go into logs.
pub(crate) fn rule_name(text: &str) -> Option<String> {
    let printable =
        !text.is_empty() && text.len() <= LONGEST_RULE && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    printable.then(|| text.to_owned())
}

/// Whether a service may set a field of a request or a response: not those that frame the message, and not who is asked.
pub(crate) fn may_change(name: &FieldName) -> bool {
    !is_reserved(name) && name.id() != FieldId::HOST && !name.as_bytes().starts_with(b":")
}

/// Reads an answer and looks at all of it: what a fuzzer calls.
#[doc(hidden)]
pub fn probe(framed: &[u8]) -> bool {
    answer(framed).is_ok_and(|decision| decision.code == 0 && (200..600).contains(&decision.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::default();
        write(&mut writer);
        let message = writer.into_bytes();
        let mut framed = vec![0];
        framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
        framed.extend_from_slice(&message);
        framed
    }

    fn header(option: &mut Writer, name: &str, value: &str) {
        option.message(1, |header| {
            header.bytes(1, name.as_bytes());
            header.bytes(2, value.as_bytes());
        });
    }

    #[test]
    fn an_answer_that_lets_pass_may_change_the_request() {
        let bytes = framed(|answer| {
            answer.message(1, |_| ());
            answer.message(3, |ok| {
                ok.message(2, |option| header(option, "X-User", "ann"));
                ok.message(2, |option| {
                    header(option, "X-Tag", "a");
                    option.message(2, |flag| flag.number(1, 1));
                });
                ok.message(2, |option| {
                    header(option, "X-Maybe", "b");
                    option.number(3, 1);
                });
                ok.bytes(5, b"X-Secret");
                ok.message(6, |option| header(option, "X-Seen", "yes"));
                ok.message(6, |option| {
                    header(option, "X-Only", "yes");
                    option.number(3, 2);
                });
            });
            answer.message(4, |metadata| {
                metadata.message(1, |entry| {
                    entry.bytes(1, b"rule");
                    entry.message(2, |value| value.bytes(3, b"staff-only"));
                });
            });
        });
        let decision = answer(&bytes).expect("an answer");
        assert_eq!((decision.code, decision.rule.as_deref()), (0, Some("staff-only")));
        let hows: Vec<How> = decision.fields.iter().map(|change| change.how).collect();
        assert_eq!(hows, [How::Set, How::Add, How::AddIfAbsent]);
        assert_eq!(decision.remove.len(), 1);
        // A field of the response is added to what is there, unless it is said otherwise.
        let hows: Vec<How> = decision.response.iter().map(|change| change.how).collect();
        assert_eq!(hows, [How::Add, How::Set]);
    }

    #[test]
    fn of_the_fields_of_a_request_those_are_told_that_may_be() {
        let address = "192.0.2.1:80".parse().expect("an address");
        let mut request = transept_wire::head::Request::build("GET", "http", "a.test", "/x").expect("a request");
        for (name, value) in
            [("X-Team", "red"), ("x-team", "blue"), ("Cookie", "sid=planted"), ("Authorization", "Bearer planted")]
        {
            request.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
        }
        let mut notes = crate::exchange::Notes::new();
        let x = Exchange {
            now: crate::exchange::Now { monotonic: std::time::Duration::ZERO, unix: std::time::Duration::ZERO },
            random: 0,
            connection: &crate::exchange::Connection::new(address, address, None),
            client: address.ip(),
            listener_port: 80,
            request: &mut request,
            notes: &mut notes,
        };
        let asked = |allowed: &[FieldName]| {
            let told = Told { allowed, body: None, extensions: &[] };
            String::from_utf8_lossy(&question(&x, &told)).into_owned()
        };
        let some = asked(&[FieldName::new("x-team").expect("a name")]);
        for there in ["x-team", "red,blue", ":method", ":authority", ":path", ":scheme"] {
            assert!(some.contains(there), "{there}: {some:?}");
        }
        for away in ["cookie", "authorization", "planted"] {
            assert!(!some.contains(away), "{away}: {some:?}");
        }
        assert!(asked(&[]).contains("Bearer planted"), "without a list all are");
    }

    #[test]
    fn a_request_holds_no_target_and_no_host_that_is_no_text() {
        let mut request = transept_wire::head::Request::build("GET", "http", "a.test", "/").expect("a request");
        for bytes in [&b"/caf\xe9"[..], b"/\xc3\xa9", b"/\xff", b"/a\x80/b"] {
            assert!(request.set_path(bytes).is_err() && request.set_query(Some(bytes)).is_err(), "{bytes:?}");
            assert!(request.set_authority(bytes.get(1..).unwrap_or_default()).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn an_answer_that_refuses_has_a_status() {
        let bytes = framed(|answer| {
            answer.message(1, |status| {
                status.number(1, 16);
                status.bytes(2, b"no token");
            });
            answer.message(2, |denied| {
                denied.message(1, |status| status.number(1, 401));
                denied.message(2, |option| header(option, "WWW-Authenticate", "Bearer"));
                denied.bytes(3, b"go away");
            });
        });
        let decision = answer(&bytes).expect("an answer");
        assert_eq!((decision.code, decision.status, &*decision.body), (16, 401, "go away"));
        assert_eq!(&*decision.message, "no token");
        let odd = framed(|answer| {
            answer.message(1, |status| status.number(1, 7));
            answer.message(2, |denied| denied.message(1, |status| status.number(1, 100)));
        });
        assert_eq!(answer(&odd).expect("an answer").status, 403);
    }

    #[test]
    fn an_answer_that_says_nothing_lets_nobody_in() {
        assert!(answer(&framed(|_| ())).is_err());
        assert!(answer(&framed(|answer| answer.message(4, |_| ()))).is_err());
        assert!(answer(&framed(|answer| answer.message(3, |ok| ok.bytes(8, b"q")))).is_err());
        let both = framed(|answer| {
            answer.message(1, |_| ());
            answer.message(2, |denied| denied.message(1, |status| status.number(1, 403)));
        });
        assert_eq!(answer(&both), Err("its answer says yes and refuses"));
        assert!(answer(b"").is_err() && answer(&[1, 0, 0, 0, 0]).is_err() && answer(&[0, 0, 0, 0, 9]).is_err());
        assert!(answer(&framed(|answer| answer.bytes(1, b"\xff\xff"))).is_err());
        let split = framed(|answer| {
            answer.message(3, |ok| ok.message(2, |option| header(option, "X-A\r\nX-B", "1")));
        });
        assert!(answer(&split).is_err());
    }

    #[test]
    fn framing_and_host_are_nobody_elses() {
        for (name, may) in [("Host", false), ("Content-Length", false), ("connection", false), ("X-User", true)] {
            assert_eq!(may_change(&FieldName::new(name).expect("a name")), may, "{name}");
        }
    }
}
