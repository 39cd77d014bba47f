//! What proxies in a row tell each other about one request: which try it is, and how long it may still take.
//!
//! Called by the proxy when a request has come in, before each try, and when a response that was tried for again goes out. Without the first, each layer of proxies
//! multiplies the tries of the next; without the second, work goes on that nobody waits for. `x-transept-attempt` counts tries from 1 and stands on
//! requests from the second on, and on responses that a layer has tried again for, or that are its last word: the layers before it leave those alone.
//! `x-transept-timeout` has the form of `grpc-timeout` (gRPC over HTTP/2, "Requests"), which takes its place for gRPC. Who is believed is settled by
//! [`announce`](crate::forwarded::announce), which removes the word of strangers; anybody may give a gRPC request less time than it has.
//! `x-transept-client` is who the client of a gateway is, for the proxies of the mesh that take its word (`forwardedFrom`).
//! `x-transept-unreached` stands on a reply of the proxy beside a program that could not be connected to; it ends at the next proxy, and no program can say it.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use smallvec::SmallVec;
use transept_wire::head::{FieldId, FieldName, Fields, Request, Response};

use crate::reply::is_grpc;

static ATTEMPT: FieldName = FieldName::known(FieldId::X_TRANSEPT_ATTEMPT);
static CLIENT: FieldName = FieldName::known(FieldId::X_TRANSEPT_CLIENT);
static UNREACHED: FieldName = FieldName::known(FieldId::X_TRANSEPT_UNREACHED);
static TIMEOUT: FieldName = FieldName::known(FieldId::X_TRANSEPT_TIMEOUT);
static GRPC_TIMEOUT: FieldName = FieldName::known(FieldId::GRPC_TIMEOUT);

/// The most digits that a timeout may have.
const DIGITS: usize = 8;

/// The most that such a number can say.
const MOST: u128 = 99_999_999;

/// Which try of a layer in front this request is, from 1.
pub fn attempt(request: &Request) -> u32 {
    number(&request.fields).unwrap_or(1).max(1)
}

/// Whether a layer behind has tried for this response more than once, or says that it is its last word: it is not tried for again.
pub fn was_retried(response: &Response) -> bool {
    number(&response.fields).is_some_and(|attempt| attempt > 1) || is_overloaded(response)
}

/// Whether a server, an Envoy for one, says that it is too busy: another try would make it worse.
fn is_overloaded(response: &Response) -> bool {
    response.status == 503 && response.fields.iter().any(|(name, _)| name.as_str().eq_ignore_ascii_case(OVERLOADED))
}

/// Tells an Envoy in front that there is no room: it does not try again.
pub fn tell_overload(fields: &mut Fields) {
    // A word is a valid value.
    let _ = fields.push_bytes(OVERLOADED.as_bytes(), b"true");
}

/// What Envoys call it.
const OVERLOADED: &str = "x-envoy-overloaded";

/// Tells a proxy in front, and nobody else, which try a response is of, if there was another one before it here or further behind.
pub fn pass_on_attempt(response: &mut Response, attempt: Option<u32>, is_relayed: bool) {
    match attempt {
        Some(attempt) if is_relayed => tell_attempt(&mut response.fields, attempt),
        _ if is_relayed => {}
        _ => {
            response.fields.remove_id(FieldId::X_TRANSEPT_ATTEMPT);
        }
    }
}

/// Tells a proxy in front that a reply of our own is the last word: the same request would meet the same here, and each layer that comes again
/// would multiply the tries of the next.
pub fn tell_last_word(response: &mut Response) {
    if !was_retried(response) {
        tell_attempt(&mut response.fields, 2);
    }
}

/// Says that a request was seen by nobody: the program behind the proxy cannot be connected to.
pub fn tell_unreached(response: &mut Response) {
    // A digit is a valid value.
    let _ = response.fields.set(&UNREACHED, b"1");
}

/// Whether the proxy beside a program says that nobody has seen the request.
pub fn is_unreached(response: &Response) -> bool {
    response.fields.contains(FieldId::X_TRANSEPT_UNREACHED)
}

/// Removes what only a proxy may say from what a program, or whoever is behind it, has answered.
pub fn drop_unreached(response: &mut Response) {
    response.fields.remove_id(FieldId::X_TRANSEPT_UNREACHED);
}

fn number(fields: &Fields) -> Option<u32> {
    std::str::from_utf8(fields.first(FieldId::X_TRANSEPT_ATTEMPT)?).ok()?.parse().ok()
}

/// Says which try a message belongs to.
pub fn tell_attempt(fields: &mut Fields, attempt: u32) {
    // A number is a valid value.
    let _ = fields.set(&ATTEMPT, attempt.to_string().as_bytes());
}

/// Tells a proxy of the mesh who the client is; nobody else is told, and what an earlier try has told one goes no further.
pub fn tell_client(request: &mut Request, client: Option<IpAddr>) {
    let Some(client) = client else {
        request.fields.remove_id(FieldId::X_TRANSEPT_CLIENT);
        return;
    };
    let mut text: SmallVec<[u8; 48]> = SmallVec::new();
    // Writing to memory cannot fail, and an address is a valid value.
    let _ = write!(text, "{client}");
    let _ = request.fields.set(&CLIENT, &text);
}

/// How long the caller waits for the response, where it says so: the least of what it says. What is no time is no statement.
pub fn timeout(request: &Request) -> Option<Duration> {
    let own = request.fields.first(FieldId::X_TRANSEPT_TIMEOUT).and_then(parse);
    let grpc = request.fields.first(FieldId::GRPC_TIMEOUT).filter(|_| is_grpc(request)).and_then(parse);
    own.into_iter().chain(grpc).min()
}

/// Says how long the response may still take: nothing that is sent on may promise more time than there is.
pub fn tell_timeout(request: &mut Request, left: Duration) {
    let mut text: SmallVec<[u8; 16]> = SmallVec::new();
    let (number, unit) = match left.as_micros() {
        micros if micros <= MOST => (micros, 'u'),
        micros if micros / 1000 <= MOST => (micros / 1000, 'm'),
        micros => ((micros / 1_000_000).min(MOST), 'S'),
    };
    // Writing to memory cannot fail, and digits are a valid value.
    let _ = write!(text, "{number}{unit}");
    let name = if is_grpc(request) { &GRPC_TIMEOUT } else { &TIMEOUT };
    let _ = request.fields.set(name, &text);
}

/// Up to eight digits and a unit.
fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> Request {
        let mut request = Request::build("POST", "http", "a.test", "/a.B/c").expect("a request");
        for (name, value) in fields {
            request.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
        }
        request
    }

    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let read = |value| timeout(&request(&[GRPC, ("grpc-timeout", value)]));
        assert_eq!(read("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(read("2M"), Some(Duration::from_secs(120)));
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(read("99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(read("7n"), Some(Duration::from_nanos(7)));
        assert_eq!(read("0m"), Some(Duration::ZERO));
        for wrong in ["", "m", "1", "1s", "123456789m", "-1m", "+1m", "1.5S", "1 m"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_least_counts_and_a_grpc_timeout_only_for_grpc() {
        let both = [("x-transept-timeout", "2S"), ("grpc-timeout", "1S")];
        assert_eq!(timeout(&request(&both)), Some(Duration::from_secs(2)));
        assert_eq!(timeout(&request(&[both[0], both[1], GRPC])), Some(Duration::from_secs(1)));
        assert_eq!(timeout(&request(&[])), None);
    }

    #[test]
    fn what_is_left_is_told_and_never_rounded_up() {
        let mut plain = request(&[("x-transept-timeout", "9S")]);
        tell_timeout(&mut plain, Duration::from_nanos(1_500_999));
        assert_eq!(plain.fields.first(FieldId::X_TRANSEPT_TIMEOUT), Some(&b"1500u"[..]));
        let mut grpc = request(&[GRPC]);
        for (left, text) in [(99, "99000000u"), (100, "100000m"), (1_000_000, "1000000S"), (u64::MAX, "99999999S")] {
            tell_timeout(&mut grpc, Duration::from_secs(left));
            assert_eq!(grpc.fields.first(FieldId::GRPC_TIMEOUT), Some(text.as_bytes()));
        }
        assert!(!grpc.fields.contains(FieldId::X_TRANSEPT_TIMEOUT));
    }

    #[test]
    fn tries_are_counted_from_one_and_nonsense_is_the_first() {
        assert_eq!(attempt(&request(&[])), 1);
        assert_eq!(attempt(&request(&[("x-transept-attempt", "3")])), 3);
        for wrong in ["", "0", "-1", "x", "99999999999999"] {
            assert_eq!(attempt(&request(&[("x-transept-attempt", wrong)])), 1, "{wrong:?}");
        }
        let mut response = Response::new(503);
        assert!(!was_retried(&response));
        tell_attempt(&mut response.fields, 2);
        assert!(was_retried(&response));
        pass_on_attempt(&mut response, None, true);
        assert!(was_retried(&response), "what was tried further behind is passed on");
        pass_on_attempt(&mut response, Some(3), false);
        assert!(!response.fields.contains(FieldId::X_TRANSEPT_ATTEMPT), "a client hears nothing of it");
        assert!(!was_retried(&response));
        tell_overload(&mut response.fields);
        assert!(was_retried(&response), "who has no room is left alone");
    }
}
