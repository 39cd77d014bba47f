//! The answer of a rate limit service as it comes over the wire: Envoy's `RateLimitResponse`.
//!
//! Read by `policies/rate_limit_service.rs`. What the service says is bounded by the size of its answer; a field that it may not set, or that is
//! none, is left out.

use std::time::Duration;

use transept_wire::head::{FieldId, FieldName};

use crate::callout::Answer;
use crate::ext_authz::may_change;
use crate::forwarded::tells_of_client;
use crate::protobuf::{Content, Garbled, Reader, grpc_message};

/// The most header fields that an answer may ask for.
const MOST_FIELDS: usize = 256;
/// The most limits that it may tell of. There is one for each descriptor.
const MOST_STATUSES: usize = 256;
/// The longest time until a limit is reset that is believed.
const LONGEST: u64 = 86_400 * 366;

/// What a service says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Whether the request is over a limit.
    pub(super) refuses: bool,
    /// How the limits stand that the descriptors have met.
    pub(super) statuses: Vec<Status>,
    /// Fields that it adds to the response.
    pub(super) response: Vec<(FieldName, Vec<u8>)>,
    /// The media type of its refusal.
    pub(super) media_type: Option<Vec<u8>>,
    /// Fields that it adds to the request.
    pub(super) request: Vec<(FieldName, Vec<u8>)>,
    /// The content of its refusal.
    pub(super) body: Vec<u8>,
}

/// How a limit stands.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) is_over: bool,
    /// Its name; none where it has none.
    pub(super) name: String,
    /// How many requests; none where the service does not say.
    pub(super) quota: Option<u32>,
    /// In which time.
    pub(super) window: Option<Duration>,
    pub(super) left: u32,
    pub(super) reset: Option<Duration>,
}

/// Reads an answer.
///
/// # Errors
/// A sentence for logs.
pub(super) fn read(answer: &Answer) -> Result<Said, String> {
    if answer.status != 200 {
        return Err(format!("its answer has the status {}", answer.status));
    }
    match answer.trailers.first(FieldId::GRPC_STATUS).or_else(|| answer.fields.first(FieldId::GRPC_STATUS)) {
        Some(b"0") => {}
        Some(code) => return Err(format!("the call ended with grpc-status {}", code.escape_ascii())),
        None => return Err("the call ended without a grpc-status".to_owned()),
    }
    let message = grpc_message(&answer.body).map_err(|Garbled| "its answer is not one message".to_owned())?;
    response(message).map_err(|Garbled| "its answer is not a RateLimitResponse".to_owned())
}

/// `RateLimitResponse`: `overall_code` is 1, `statuses` are 2, `response_headers_to_add` 3, `request_headers_to_add` 4, `raw_body` 5.
fn response(message: &[u8]) -> Result<Said, Garbled> {
    let (mut said, mut code, mut fields) = (Said::default(), 0, 0);
    let mut reader = Reader::new(message);
    while let Some((number, content)) = reader.next()? {
        match number {
            1 => code = content.number()?,
            2 if said.statuses.len() == MOST_STATUSES => return Err(Garbled),
            2 => said.statuses.push(status(content)?),
            3 | 4 if fields == MOST_FIELDS => return Err(Garbled),
            3 => {
                fields += 1;
                if let Some((name, value)) = field(content)? {
                    match name.id() {
                        FieldId::CONTENT_TYPE => said.media_type = Some(value),
                        // They are of who answers, which is the backend or we.
                        FieldId::DATE | FieldId::SERVER => {}
                        _ => said.response.push((name, value)),
                    }
                }
            }
            4 => {
                fields += 1;
                said.request.extend(field(content)?.filter(|(name, _)| !tells_of_client(name)));
            }
            5 => said.body = content.bytes()?.to_vec(),
            _ => {}
        }
    }
    said.refuses = code == 2;
    // Unknown is no word to let anybody pass by.
    if matches!(code, 1 | 2) { Ok(said) } else { Err(Garbled) }
}

/// `HeaderValue`: `key` is 1, `value` is 2, `raw_value` is 3. None of a field that nobody may set.
fn field(content: Content<'_>) -> Result<Option<(FieldName, Vec<u8>)>, Garbled> {
    let (mut name, mut value) = (None, &[][..]);
    let mut reader = Reader::new(content.bytes()?);
    while let Some((number, content)) = reader.next()? {
        match number {
            1 => name = FieldName::new(content.bytes()?).ok(),
            2 | 3 => value = content.bytes()?,
            _ => {}
        }
    }
    Ok(name.filter(may_change).map(|name| (name, value.to_vec())))
}

/// `DescriptorStatus`: `code` is 1, `current_limit` 2, `limit_remaining` 3, `duration_until_reset` 4.
fn status(content: Content<'_>) -> Result<Status, Garbled> {
    let mut status = Status::default();
    let mut reader = Reader::new(content.bytes()?);
    while let Some((number, content)) = reader.next()? {
        match number {
            1 => status.is_over = content.number()? == 2,
            2 => current_limit(content.bytes()?, &mut status)?,
            3 => status.left = u32::try_from(content.number()?).unwrap_or(u32::MAX),
            4 => status.reset = duration(content.bytes()?)?,
            _ => {}
        }
    }
    Ok(status)
}

/// `RateLimit`: `requests_per_unit` is 1, `unit` is 2, `name` is 3.
fn current_limit(message: &[u8], status: &mut Status) -> Result<(), Garbled> {
    let mut reader = Reader::new(message);
    // Zero is what a number is that is not there, and a limit of none is one.
    status.quota = Some(0);
    while let Some((number, content)) = reader.next()? {
        match number {
            1 => status.quota = Some(u32::try_from(content.number()?).unwrap_or(u32::MAX)),
            2 => status.window = window(content.number()?),
            3 => content.text()?.clone_into(&mut status.name),
            _ => {}
        }
    }
    Ok(())
}

/// A time by Envoy's name of it. Months and years are those of services, which count 30 and 365 days.
fn window(unit: u64) -> Option<Duration> {
    let seconds = match unit {
        1 => 1,
        2 => 60,
        3 => 3_600,
        4 => 86_400,
        5 => 86_400 * 30,
        6 => 86_400 * 365,
        7 => 86_400 * 7,
        _ => return None,
    };
    Some(Duration::from_secs(seconds))
}

/// `google.protobuf.Duration`: `seconds` is 1, `nanos` is 2. None of one that is below zero.
fn duration(message: &[u8]) -> Result<Option<Duration>, Garbled> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(message);
    while let Some((number, content)) = reader.next()? {
        match number {
            1 => seconds = content.number()?,
            2 => nanos = content.number()?,
            _ => {}
        }
    }
    let whole = i64::try_from(seconds).is_ok();
    let rest = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    Ok(rest.filter(|_| whole).map(|nanos| Duration::new(seconds.min(LONGEST), nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::Writer;

    fn written(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut message = Writer::default();
        write(&mut message);
        message.into_bytes()
    }

    fn names(fields: &[(FieldName, Vec<u8>)]) -> Vec<&str> {
        fields.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn all_that_a_service_says_is_read() {
        let said = response(&written(|message| {
            message.number(1, 2);
            message.message(2, |status| {
                status.number(1, 2);
                status.message(2, |limit| {
                    limit.number(1, 10);
                    limit.number(2, 2);
                    limit.bytes(3, b"ten");
                });
                status.message(4, |duration| {
                    duration.number(1, 17);
                    duration.number(2, 5);
                });
            });
            message.message(2, |status| {
                status.number(1, 1);
                status.number(3, 7);
                status.message(4, |duration| duration.number(1, u64::MAX));
            });
            message.bytes(5, b"go away");
        }));
        let over = Status {
            is_over: true,
            name: "ten".to_owned(),
            quota: Some(10),
            window: Some(Duration::from_secs(60)),
            left: 0,
            reset: Some(Duration::new(17, 5)),
        };
        // A time that is below zero is none.
        let other = Status { left: 7, ..Status::default() };
        let expected =
            Said { refuses: true, statuses: vec![over, other], body: b"go away".to_vec(), ..Said::default() };
        assert_eq!(said, Ok(expected));
    }

    #[test]
    fn fields_of_framing_and_of_who_the_client_is_are_nobody_elses() {
        let all = [
            "X-Tier",
            "Content-Length",
            "Transfer-Encoding",
            "Connection",
            "Host",
            "Date",
            "Content-Type",
            "x-auth-id",
            "X_Auth_Id",
            "X-Forwarded-For",
            "x_forwarded_for",
            "Authorization",
            "Cookie",
            "X-Forwarded-Client-Cert",
            "no name",
        ];
        let said = response(&written(|message| {
            message.number(1, 1);
            for number in [3, 4] {
                for name in all {
                    message.entry(number, name.as_bytes(), b"v");
                }
            }
        }));
        let said = said.expect("an answer");
        assert_eq!(names(&said.request), ["X-Tier", "Date", "Content-Type"]);
        let response =
            ["X-Tier", "x-auth-id", "X_Auth_Id", "X-Forwarded-For", "x_forwarded_for", "Authorization", "Cookie"];
        assert_eq!(names(&said.response)[..7], response);
        assert_eq!(said.media_type.as_deref(), Some(&b"v"[..]));
    }

    #[test]
    fn what_is_unknown_or_garbled_lets_nobody_pass() {
        assert_eq!(response(&[]), Err(Garbled));
        assert_eq!(response(&written(|message| message.number(1, 3))), Err(Garbled));
        for garbage in [&[0x08][..], &[0x12, 0x05, 0x08], &[0x0a, 0x01, 0x01], &[0xff; 20]] {
            assert_eq!(response(garbage), Err(Garbled), "{garbage:?}");
        }
        let fields = written(|message| {
            message.number(1, 1);
            (0..=MOST_FIELDS).for_each(|_| message.entry(3, b"a", b"b"));
        });
        let statuses = written(|message| {
            message.number(1, 1);
            (0..=MOST_STATUSES).for_each(|_| message.message(2, |status| status.number(1, 1)));
        });
        for many in [fields, statuses] {
            assert_eq!(response(&many), Err(Garbled));
        }
    }
}
