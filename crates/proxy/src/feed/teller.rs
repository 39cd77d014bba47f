//! Reports for a control plane in the same process: the same as over the wire, without one.
//!
//! Asked by `app` once per interval. Live requests are not among them: only the called side tells of those, and a gateway is not called.

use transept_xds::report::Report;

use super::member::told::Told;
use crate::sight::Sight;

/// What a proxy has told, and so what is left to tell.
pub struct Teller {
    sight: Sight,
    told: Told,
    proxy: Option<String>,
}

impl Teller {
    /// Tells what a proxy sees that calls itself `proxy`.
    pub fn new(sight: Sight, proxy: &str) -> Self {
        Self { sight, told: Told::default(), proxy: Some(proxy.to_owned()) }
    }

    /// What has moved since the last time; none when the proxy has ended.
    pub async fn tell(&mut self) -> Option<Report> {
        let (graph, backends) = self.sight.observe().await?;
        let mut report = self.told.totals(&graph, &backends)?;
        report.epoch = self.sight.epoch();
        report.generation = self.sight.generation();
        report.proxy = self.proxy.take().unwrap_or_default();
        // It is heard where it is told.
        self.told.acknowledge(report.sequence);
        Some(report)
    }
}
