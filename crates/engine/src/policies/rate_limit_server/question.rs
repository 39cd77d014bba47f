//! A call of `ShouldRateLimit` as it comes over the wire: Envoy's `RateLimitRequest`.
//!
//! Read by `policies/rate_limit_server.rs`. What a client sends is bounded by the size of its call and by how many descriptors and entries
//! there may be; everything else is refused.

use smallvec::SmallVec;

use crate::protobuf::{Garbled, Reader, grpc_message};

/// The most descriptors in a call, and entries in a descriptor.
const MOST: usize = 64;

/// What is asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Question<'b> {
    pub(super) domain: &'b str,
    pub(super) descriptors: SmallVec<[Descriptor<'b>; 4]>,
    /// What a descriptor adds that does not say it itself.
    pub(super) hits: u32,
}

/// What is to be counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor<'b> {
    pub(super) entries: SmallVec<[(&'b str, &'b str); 4]>,
    pub(super) hits: Option<u32>,
}

/// Reads a call with the prefix of gRPC: `domain` is 1, `descriptors` are 2, `hits_addend` is 3.
pub(super) fn read(call: &[u8]) -> Result<Question<'_>, Garbled> {
    let mut question = Question::default();
    let mut reader = Reader::new(grpc_message(call)?);
    while let Some((field, content)) = reader.next()? {
        match field {
            1 => question.domain = content.text()?,
            2 if question.descriptors.len() < MOST => question.descriptors.push(descriptor(content.bytes()?)?),
            2 => return Err(Garbled),
            3 => question.hits = clamp(content.number()?),
            _ => {}
        }
    }
    // A field that is not there is 1, says the protocol.
    question.hits = question.hits.max(1);
    let is_whole = !question.domain.is_empty() && !question.descriptors.is_empty();
    if is_whole { Ok(question) } else { Err(Garbled) }
}

/// `RateLimitDescriptor`: `entries` are 1, `hits_addend` is 3 (a number in a message, so that zero can be told from nothing),
/// `is_negative_hits` is 4. A limit of the caller's own (2) is not taken: limits are ours.
fn descriptor(message: &[u8]) -> Result<Descriptor<'_>, Garbled> {
    let mut descriptor = Descriptor::default();
    let mut reader = Reader::new(message);
    while let Some((field, content)) = reader.next()? {
        match field {
            1 if descriptor.entries.len() < MOST => descriptor.entries.push(entry(content.bytes()?)?),
            1 => return Err(Garbled),
            3 => {
                let mut hits = 0;
                let mut wrapped = Reader::new(content.bytes()?);
                while let Some((field, content)) = wrapped.next()? {
                    if field == 1 {
                        hits = content.number()?;
                    }
                }
                descriptor.hits = Some(clamp(hits));
            }
            // Taking back what was never taken would be a way around the limit.
            4 if content.number()? != 0 => return Err(Garbled),
            _ => {}
        }
    }
    if descriptor.entries.is_empty() { Err(Garbled) } else { Ok(descriptor) }
}

/// `Entry`: `key` is 1, `value` is 2.
fn entry(message: &[u8]) -> Result<(&str, &str), Garbled> {
    let (mut key, mut value) = ("", "");
    let mut reader = Reader::new(message);
    while let Some((field, content)) = reader.next()? {
        match field {
            1 => key = content.text()?,
            2 => value = content.text()?,
            _ => {}
        }
    }
    if key.is_empty() { Err(Garbled) } else { Ok((key, value)) }
}

/// More hits than any limit has room for are as good as those.
fn clamp(hits: u64) -> u32 {
    u32::try_from(hits).unwrap_or(u32::MAX).min(1_000_000_000)
}
