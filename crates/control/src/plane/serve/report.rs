//! The stream on which a proxy reports what it sees, and is told which live requests are wanted.
//!
//! Called by `serve`. What is believed, and what comes of it, is the business of `seen`.

use std::sync::Arc;

use transept_identity::SpiffeId;
use transept_xds::grpc::Failed;
use transept_xds::report::{Report, ReportAck, Tap};

use super::call::{Call, Reply};
use crate::plane::core::Plane;
use crate::plane::seen::Stream;

/// A proxy that reports; dropping it tells that it does not any more.
struct Reporting {
    plane: Arc<Plane>,
    stream: Stream,
}

impl Drop for Reporting {
    fn drop(&mut self) {
        let now = self.plane.elapsed();
        self.plane.seen().close(&self.stream, now);
    }
}

/// Takes reports until the stream ends. Nothing here waits for a disk.
pub(super) async fn take_reports(
    plane: &Arc<Plane>,
    identity: &SpiffeId,
    call: &mut Call,
    reply: &mut Reply,
) -> Result<(), Failed> {
    let (stream, mut changed) = {
        let mut seen = plane.seen();
        (seen.open(identity), seen.taps.subscribe())
    };
    let mut reporting = Reporting { plane: plane.clone(), stream };
    let mut sequence = 0;
    let mut wanted: Vec<Tap> = Vec::new();
    loop {
        tokio::select! {
            report = call.next::<Report>() => {
                let Some(report) = report? else { return Ok(()) };
                sequence = report.sequence;
                let (now, stream) = (plane.elapsed(), &mut reporting.stream);
                wanted = {
                    let mut seen = plane.seen();
                    seen.take(stream, &report, now);
                    seen.wanted(stream)
                };
            }
            // The sender lives as long as the plane. A wish does not wait for the next report.
            _ = changed.changed() => {
                let latest = plane.seen().wanted(&reporting.stream);
                if latest == wanted {
                    continue;
                }
                wanted = latest;
            }
        }
        let interval = plane.seen().interval();
        let interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
        reply.send(&ReportAck { sequence, interval_ms, taps: wanted.clone() })?;
    }
}
