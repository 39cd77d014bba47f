//! Correlation: `x-request-id` and W3C `traceparent`, kept or made.
//!
//! Called by the proxy once per request, before policies. A member of a mesh, and who sends spans to a collector, puts a span of its own
//! into every trace ([`begin_span`]), which its access log names; without spans of our own the parent of a trace that goes on is left as
//! it came. Exporting spans is the proxy's.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use transept_wire::head::{FieldId, FieldName, Fields};

use crate::exchange::{Now, draw};
use crate::forwarded::Peer;
use crate::settings::TraceEdge;

static REQUEST_ID: FieldName = FieldName::known(FieldId::X_REQUEST_ID);
static TRACEPARENT: FieldName = FieldName::known(FieldId::TRACEPARENT);

/// The longest request id that is kept.
const LONGEST_ID: usize = 128;

/// Keeps the draws of identifiers apart from those that other parts take from the same random number.
const FIRST_DRAW: u64 = 512;

/// Keys of this process, by which identifiers are made.
static VEIL: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The `n`th number of a random one that others may see: they cannot conclude from it on the random number, of which seeds are made and choices.
fn veiled(random: u64, n: u64) -> u64 {
    VEIL.hash_one(draw(random, n))
}

/// Whether a trace came with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// It did, and goes on.
    Kept,
    /// It begins here.
    Begun,
}

/// What a request is called, and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correlation {
    /// Its trace.
    pub trace: Trace,
    /// Whether it has the `x-request-id` that came with it.
    pub is_named: bool,
}

/// The place of one hop in a trace, as hexadecimal digits (W3C Trace Context level 2, section 3.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The trace.
    pub trace: [u8; 32],
    /// This hop.
    pub id: [u8; 16],
    /// Who called; none when the trace begins here.
    pub parent: Option<[u8; 16]>,
    /// Whether whoever began the trace wants it recorded (section 3.2.3).
    pub sampled: bool,
}

/// Makes sure that a request carries one `x-request-id` and one valid `traceparent`. Those that came are kept if they are valid and
/// the edge lets them in; a trace that is not kept loses its `tracestate` too.
pub fn correlate(fields: &mut Fields, peer: Peer, edge: TraceEdge, now: Now, random: u64) -> Correlation {
    let believed = edge == TraceEdge::Continue || peer == Peer::Trusted;
    let is_named = believed && only(fields, FieldId::X_REQUEST_ID).is_some_and(is_request_id);
    if !is_named {
        // Hexadecimal digits and hyphens are a valid value.
        let _ = fields.set(&REQUEST_ID, &request_id(now, random));
    }
    if !(believed && only(fields, FieldId::TRACEPARENT).is_some_and(is_traceparent)) {
        fields.remove_id(FieldId::TRACESTATE);
        let _ = fields.set(&TRACEPARENT, &traceparent(random));
        return Correlation { trace: Trace::Begun, is_named };
    }
    Correlation { trace: Trace::Kept, is_named }
}

/// Makes the span of this hop the parent of what follows: the one that came with the trace becomes our own parent, and in a trace that begins
/// here the one that began it is ours. None without a valid `traceparent`.
pub fn begin_span(fields: &mut Fields, trace: Trace, random: u64) -> Option<Span> {
    let came = fields.first(FieldId::TRACEPARENT).filter(|value| is_traceparent(value))?;
    let trace_id = came.get(3..35)?.try_into().ok()?;
    let parent: [u8; 16] = came.get(36..52)?.try_into().ok()?;
    let sampled =
        came.get(54).is_some_and(|digit| matches!(digit, b'1' | b'3' | b'5' | b'7' | b'9' | b'b' | b'd' | b'f'));
    if trace == Trace::Begun {
        return Some(Span { trace: trace_id, id: parent, parent: None, sampled });
    }
    let mut id = [0; 16];
    write_hex(&mut id, veiled(random, FIRST_DRAW + 5) | 1);
    let mut value = [0; 55];
    value.copy_from_slice(came.get(..55)?);
    // What a later version has said beyond these parts is not understood, and so not passed on (section 4.3).
    value[..2].copy_from_slice(b"00");
    value[36..52].copy_from_slice(&id);
    // Hexadecimal digits and hyphens are a valid value.
    let _ = fields.set(&TRACEPARENT, &value);
    Some(Span { trace: trace_id, id, parent: Some(parent), sampled })
}

/// The value of a field that stands in exactly one line.
fn only(fields: &Fields, id: FieldId) -> Option<&[u8]> {
    let mut values = fields.all(id);
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

fn is_request_id(value: &[u8]) -> bool {
    (1..=LONGEST_ID).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

/// Whether the value is a `traceparent` (W3C Trace Context level 2, section 3.2).
pub fn is_traceparent(value: &[u8]) -> bool {
    let hex = |range: std::ops::Range<usize>| {
        value.get(range).is_some_and(|part| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
    };
    let zero =
        |range: std::ops::Range<usize>| value.get(range).is_some_and(|part| part.iter().all(|byte| *byte == b'0'));
    let dash = |at: usize| value.get(at) == Some(&b'-');
    let version = value.get(..2);
    let end_fits = match version {
        Some(b"00") => value.len() == 55,
        _ => value.len() == 55 || dash(55),
    };
    hex(0..2)
        && version != Some(b"ff")
        && dash(2)
        && hex(3..35)
        && !zero(3..35)
        && dash(35)
        && hex(36..52)
        && !zero(36..52)
        && dash(52)
        && hex(53..55)
        && end_fits
}

/// A new identifier: UUID version 7 (RFC 9562 section 5.7) of the time and the random number.
pub fn request_id(now: Now, random: u64) -> [u8; 36] {
    let millis = now.unix.as_millis() as u64 & 0xffff_ffff_ffff;
    let high = (millis << 16) | 0x7000 | (veiled(random, FIRST_DRAW) & 0x0fff);
    let low = (veiled(random, FIRST_DRAW + 1) & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
    let mut digits = [0; 32];
    write_hex(&mut digits[..16], high);
    write_hex(&mut digits[16..], low);
    let mut out = [b'-'; 36];
    out[..8].copy_from_slice(&digits[..8]);
    out[9..13].copy_from_slice(&digits[8..12]);
    out[14..18].copy_from_slice(&digits[12..16]);
    out[19..23].copy_from_slice(&digits[16..20]);
    out[24..].copy_from_slice(&digits[20..]);
    out
}

/// A new trace, sampled, as backends without a decision of their own expect it from whoever begins one.
pub fn traceparent(random: u64) -> [u8; 55] {
    let mut out = *b"00-00000000000000000000000000000000-0000000000000000-01";
    write_hex(&mut out[3..19], veiled(random, FIRST_DRAW + 2));
    // All-zero identifiers are invalid; one bit keeps them from being.
    write_hex(&mut out[19..35], veiled(random, FIRST_DRAW + 3) | 1);
    write_hex(&mut out[36..52], veiled(random, FIRST_DRAW + 4) | 1);
    out
}

/// Writes all sixteen digits, eight at a time: each request gets up to five numbers in this way.
fn write_hex(out: &mut [u8], value: u64) {
    let halves = [value >> 32, value & 0xffff_ffff];
    for (digits, half) in out.chunks_exact_mut(8).zip(halves) {
        digits.copy_from_slice(&spell(half));
    }
}

/// The eight digits of a number of 32 bits.
fn spell(number: u64) -> [u8; 8] {
    // One digit of four bits to a byte, the highest first.
    let spread = (number << 16 | number) & 0x0000_ffff_0000_ffff;
    let spread = (spread << 8 | spread) & 0x00ff_00ff_00ff_00ff;
    let spread = (spread << 4 | spread) & 0x0f0f_0f0f_0f0f_0f0f;
    // From ten on six more carry into the upper half of the byte, and letters come 39 after the digits.
    let letters = ((spread + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (spread + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Now = Now { monotonic: Duration::ZERO, unix: Duration::from_millis(0x0192_3456_789a) };

    #[test]
    fn traceparents() {
        let good = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(is_traceparent(good));
        assert!(is_traceparent(b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"));
        for bad in [
            &b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"[..],
            b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            b"00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            b"",
        ] {
            assert!(!is_traceparent(bad), "{}", bad.escape_ascii());
        }
        assert!(is_traceparent(&traceparent(0)) && is_traceparent(&traceparent(u64::MAX)));
    }

    #[test]
    fn digits_are_those_that_a_formatter_writes() {
        for number in (0..64).map(|shift| 0xfedc_ba98_7654_3210_u64.rotate_left(shift)).chain([0, 1, 9, 10, u64::MAX]) {
            let mut digits = [0; 16];
            write_hex(&mut digits, number);
            assert_eq!(digits, format!("{number:016x}").as_bytes());
        }
    }

    #[test]
    fn ids_are_uuid_version_7() {
        let id = String::from_utf8(request_id(NOW, 42).to_vec()).expect("text");
        assert!(id.starts_with("01923456-789a-7"), "{id}");
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{id}");
        assert_ne!(request_id(NOW, 1), request_id(NOW, 2));
    }

    #[test]
    fn an_identifier_does_not_tell_the_random_number() {
        // What `draw` does can be undone, so that it must not be seen.
        let seen =
            u64::from_str_radix(std::str::from_utf8(&request_id(NOW, 42)[24..]).expect("text"), 16).expect("digits");
        assert_ne!(seen, draw(42, FIRST_DRAW + 1) & 0xffff_ffff_ffff);
        let seen =
            u64::from_str_radix(std::str::from_utf8(&traceparent(42)[3..19]).expect("text"), 16).expect("digits");
        assert_ne!(seen, draw(42, FIRST_DRAW + 2));
    }

    fn correlated(edge: TraceEdge, peer: Peer) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in [
            ("X-Request-Id", "mine"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "a=b"),
        ] {
            fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
        }
        correlate(&mut fields, peer, edge, NOW, 7);
        fields
    }

    #[test]
    fn what_came_is_kept_or_replaced() {
        let kept = correlated(TraceEdge::Continue, Peer::Untrusted);
        assert_eq!(kept.first(FieldId::X_REQUEST_ID), Some(&b"mine"[..]));
        assert!(kept.contains(FieldId::TRACESTATE));
        assert!(correlated(TraceEdge::Restart, Peer::Trusted).contains(FieldId::TRACESTATE));
        let fresh = correlated(TraceEdge::Restart, Peer::Untrusted);
        assert_ne!(fresh.first(FieldId::X_REQUEST_ID), Some(&b"mine"[..]));
        assert!(!fresh.contains(FieldId::TRACESTATE));
        assert_eq!(fresh.len(), 2);
    }

    #[test]
    fn a_span_is_the_parent_of_the_next() {
        let mut fields = Fields::new();
        let begun = correlate(&mut fields, Peer::Untrusted, TraceEdge::Continue, NOW, 7).trace;
        let first = begin_span(&mut fields, begun, 7).expect("a span");
        assert_eq!((begun, first.parent), (Trace::Begun, None));
        let kept = correlate(&mut fields, Peer::Untrusted, TraceEdge::Continue, NOW, 8).trace;
        let second = begin_span(&mut fields, kept, 8).expect("a span");
        assert_eq!((kept, second.trace, second.parent), (Trace::Kept, first.trace, Some(first.id)));
        assert_ne!(second.id, first.id);
        let third = begin_span(&mut fields, Trace::Kept, 9).expect("a span");
        assert_eq!(third.parent, Some(second.id));
        assert!(fields.first(FieldId::TRACEPARENT).is_some_and(is_traceparent));
        fields.set(&TRACEPARENT, b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more").expect("a value");
        begin_span(&mut fields, Trace::Kept, 9).expect("a span");
        assert!(
            fields
                .first(FieldId::TRACEPARENT)
                .is_some_and(|value| value.starts_with(b"00-0af7") && value.ends_with(b"-01"))
        );
    }

    #[test]
    fn two_lines_are_as_good_as_none() {
        let mut fields = Fields::new();
        fields.push(&REQUEST_ID, b"a").expect("a value");
        fields.push(&REQUEST_ID, b"b").expect("a value");
        let correlation = correlate(&mut fields, Peer::Untrusted, TraceEdge::Continue, NOW, 7);
        assert!(!correlation.is_named);
        assert_eq!(fields.all(FieldId::X_REQUEST_ID).count(), 1);
        assert_eq!(fields.first(FieldId::X_REQUEST_ID).map(<[u8]>::len), Some(36));
    }
}
