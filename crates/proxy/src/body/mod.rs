//! Message bodies on their way: where one comes from ([`Source`]), where it goes ([`Sink`]), and the loop between them.
//!
//! The same loop carries requests upstream and responses downstream, over every pairing of HTTP/1.1 and HTTP/2.
//! Called by `attempt.rs` and `relay.rs`; heads are not its business.

mod remembered;
mod sink;
mod source;

pub(crate) use sink::{H1Sink, H2Sink, Sink};
pub(crate) use source::{H1Source, H2Source, Source};

use std::cell::Cell;
use std::task::Poll;

use transept_engine::forwarded;
use transept_engine::redact::CredentialPlaces;
use transept_wire::head::{Fields, NameRef};

use crate::failure::Failure;

/// Moves a whole body, with its trailers. Others may watch how many bytes have been moved.
///
/// Nothing is held back: what has arrived is sent before the next wait, so events of a stream are never delayed, and
/// the next piece is read only when the last one was taken, so a slow receiver slows the sender.
///
/// # Errors
/// The failure of either side; which side it was is in the failure.
pub(crate) async fn carry(source: &mut Source<'_>, sink: &mut Sink<'_>, moved: &Cell<u64>) -> Result<(), Failure> {
    loop {
        let data = source.data();
        if !data.is_empty() {
            let length = data.len();
            sink.write(data).await?;
            source.consume(length);
            moved.set(moved.get() + length as u64);
            continue;
        }
        if source.advance()? {
            continue;
        }
        if source.is_done() {
            let trailers = source.trailers();
            let kept = trailers.and_then(|trailers| drop_claims(trailers, sink, None));
            return sink.finish(kept.as_deref().or(trailers)).await;
        }
        sink.flush().await?;
        fill_unless_gone(source, sink).await?;
    }
}

/// Waits for more of the body, and gives up when the receiver has gone meanwhile.
pub(crate) async fn fill_unless_gone(source: &mut Source<'_>, sink: &mut Sink<'_>) -> Result<(), Failure> {
    let mut filling = std::pin::pin!(source.fill());
    std::future::poll_fn(|cx| match sink.poll_gone(cx) {
        Poll::Ready(failure) => Poll::Ready(Err(failure)),
        Poll::Pending => filling.as_mut().poll(cx),
    })
    .await
}

/// Trailers without what a backend may not be told; none when all of them may pass. A backend is told by no trailer who its client is: what
/// heads may not say, trailers may not either. Nor are there credentials in trailers (RFC 9110 section 6.5.1): nobody looks for them there,
/// and so nobody would take them away.
pub(crate) fn drop_claims(
    trailers: &Fields,
    sink: &Sink<'_>,
    credentials: Option<&CredentialPlaces>,
) -> Option<Box<Fields>> {
    let claims = |name: NameRef<'_>| {
        forwarded::claims_identity(name.bytes) || credentials.is_some_and(|credentials| credentials.hides(name))
    };
    if !sink.leads_upstream() || !trailers.iter().any(|(name, _)| claims(name)) {
        return None;
    }
    let mut kept = Box::new(Fields::new());
    kept.copy_from(trailers);
    kept.retain(|name, _| !claims(name));
    Some(kept)
}
