//! Tests of the codec as a whole: tables of attacks, splits at every byte, round trips.

mod attacks;
mod bodies;
mod heads;
mod trips;

use super::*;
use crate::head::{FieldId, FieldName, Fields, Method, Request, Response};

type Answer<T> = Result<Option<T>, Malformed>;

/// Feeds the bytes one by one, in one go, and one by one under a [`Scan`], and insists that the answers are the same.
fn read_request_within(bytes: &[u8], limits: &Limits) -> Answer<(Request, RequestMeta)> {
    let parse = |bytes: &[u8]| {
        let mut request = Request::new();
        parse_request(bytes, limits, &mut request).map(|meta| meta.map(|meta| (request, meta)))
    };
    let whole = parse(bytes);
    let first = (0..=bytes.len()).map(|length| parse(&bytes[..length])).find(|answer| *answer != Ok(None));
    assert_eq!(first.unwrap_or(Ok(None)), whole, "split: {}", bytes.escape_ascii());
    let mut scan = Scan::new();
    let scanned = (1..=bytes.len())
        .filter(|&length| scan.is_worth_parsing(&bytes[..length], limits))
        .map(|length| parse(&bytes[..length]))
        .find(|answer| *answer != Ok(None));
    if let Ok(Some(_)) = whole {
        assert_eq!(scanned, Some(whole.clone()), "scan: {}", bytes.escape_ascii());
    } else {
        assert!(scanned.is_none_or(|scanned| scanned == whole), "scan: {}", bytes.escape_ascii());
    }
    whole
}

fn read_request(bytes: impl AsRef<[u8]>) -> Answer<(Request, RequestMeta)> {
    read_request_within(bytes.as_ref(), &Limits::default())
}

/// The request and what is known about it, of a case that must be accepted.
#[track_caller]
fn accepted(bytes: impl AsRef<[u8]>) -> (Request, RequestMeta) {
    let bytes = bytes.as_ref();
    match read_request(bytes) {
        Ok(Some(accepted)) => accepted,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

fn read_response(bytes: impl AsRef<[u8]>, method: Method) -> Answer<(Response, ResponseMeta)> {
    let bytes = bytes.as_ref();
    let parse = |bytes: &[u8]| {
        let mut response = Response::default();
        parse_response(bytes, &method, &Limits::default(), &mut response).map(|meta| meta.map(|meta| (response, meta)))
    };
    let whole = parse(bytes);
    let first = (0..=bytes.len()).map(|length| parse(&bytes[..length])).find(|answer| *answer != Ok(None));
    assert_eq!(first.unwrap_or(Ok(None)), whole, "split: {}", bytes.escape_ascii());
    whole
}

/// A body that was read: content, trailers, and how many bytes of the input were its own.
#[derive(Debug, PartialEq, Eq, Default)]
struct Content {
    data: Vec<u8>,
    trailers: Fields,
    consumed: usize,
    done: bool,
}

/// Reads a body whose input arrives in pieces of the given sizes, the last size being repeated.
fn read_body_in(framing: Body, input: &[u8], sizes: &[usize], limits: &Limits) -> Result<Content, Malformed> {
    let mut decoder = Decoder::new(framing, limits);
    let mut content = Content::default();
    let mut sizes = sizes.iter().copied();
    let mut size = usize::MAX;
    let mut arrived = 0;
    while arrived < input.len() && !decoder.is_done() {
        size = sizes.next().unwrap_or(size).max(1);
        arrived = arrived.saturating_add(size).min(input.len());
        loop {
            let rest = &input[content.consumed..arrived];
            let decoded = decoder.decode(rest)?;
            assert!(decoded.data.end <= decoded.consumed && decoded.consumed <= rest.len());
            content.data.extend_from_slice(&rest[decoded.data.clone()]);
            content.consumed += decoded.consumed;
            assert_eq!(decoded.done, decoder.is_done());
            if decoded.done || content.consumed == arrived {
                break;
            }
            assert!(decoded.consumed > 0, "no progress");
        }
    }
    content.done = decoder.is_done();
    if let Some(trailers) = decoder.trailers() {
        content.trailers.copy_from(trailers);
    }
    Ok(content)
}

/// Reads a body in one piece and byte by byte, and insists that it is the same.
fn read_body(framing: Body, input: impl AsRef<[u8]>) -> Result<Content, Malformed> {
    let limits = Limits::default();
    let whole = read_body_in(framing, input.as_ref(), &[usize::MAX], &limits);
    let bytewise = read_body_in(framing, input.as_ref(), &[1], &limits);
    assert_eq!(whole, bytewise, "{}", input.as_ref().escape_ascii());
    whole
}

fn named(name: &str) -> FieldName {
    FieldName::new(name).expect("a token")
}
