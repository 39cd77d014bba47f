//! The stream on which a proxy reports what it sees, and is told which live requests are wanted.
//!
//! Called by `serve`; by the application for a gateway in the same process. What is believed, and what comes of it, is the business of `seen`.

use std::sync::Arc;
use std::time::Duration;

use transept_identity::SpiffeId;
use transept_xds::grpc::Failed;
use transept_xds::report::{Report, ReportAck, Tap};

use super::call::{Call, Reply};
use crate::plane::core::Plane;
use crate::plane::seen::Stream;

/// A proxy that reports; dropping it tells that it does not any more.
#[derive(Debug)]
pub struct Reporting {
    plane: Arc<Plane>,
    stream: Stream,
}

impl Reporting {
    /// Somebody with this proven identity begins to report.
    pub fn begin(plane: &Arc<Plane>, identity: &SpiffeId) -> Self {
        let stream = plane.seen().open(identity);
        Self { plane: plane.clone(), stream }
    }

    /// Takes a report in.
    pub fn take(&mut self, report: &Report) {
        let now = self.plane.elapsed();
        self.plane.seen().take(&mut self.stream, report, now);
    }

    /// How much time to leave between reports.
    pub fn interval(&self) -> Duration {
        self.plane.seen().interval()
    }

    /// The live requests that the proxy is to tell of.
    fn wanted(&self) -> Vec<Tap> {
        self.plane.seen().wanted(&self.stream)
    }
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
    // First, so that no wish is missed.
    let mut changed = plane.seen().taps.subscribe();
    let mut reporting = Reporting::begin(plane, identity);
    let mut sequence = 0;
    let mut wanted: Vec<Tap> = Vec::new();
    loop {
        tokio::select! {
            report = call.next::<Report>() => {
                let Some(report) = report? else { return Ok(()) };
                sequence = report.sequence;
                reporting.take(&report);
                wanted = reporting.wanted();
            }
            // The sender lives as long as the plane. A wish does not wait for the next report.
            _ = changed.changed() => {
                let latest = reporting.wanted();
                if latest == wanted {
                    continue;
                }
                wanted = latest;
            }
        }
        let interval_ms = u32::try_from(reporting.interval().as_millis()).unwrap_or(u32::MAX);
        reply.send(&ReportAck { sequence, interval_ms, taps: wanted.clone() })?;
    }
}
