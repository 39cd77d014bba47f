//! Tells the control plane what this proxy sees: who talks to whom, how endpoints are, and the live requests that somebody watches.
//!
//! Begun by `member` with every connection, as a task of its own that ends with the connection: nothing here can hold up the
//! configuration. What is left to tell is kept by `told`; where numbers come from is [`Sight`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use transept_xds::report::{INTERVAL, METHOD, ReportAck, TAP_LEASE, Tapped};

use super::told::Told;
use crate::feed::contact::{Connection, Sender, Unreached};
use crate::sight::Sight;
use crate::tap::Order;

/// How long to wait before another attempt, when the control plane ends the call or does not know it.
const AGAIN: Duration = Duration::from_secs(10);
/// The bounds of what a control plane may ask for as an interval.
const INTERVALS: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(300)];
/// Live requests that may wait to be told; further ones are left out.
const WAITING: usize = 256;
/// Live requests in one report.
const MOST_TAPPED: usize = 64;
/// Reports under way beyond which live requests are left out: the control plane does not keep up.
const MOST_UNDER_WAY: u64 = 32;

/// Reports over `connection` until the task is aborted.
pub(super) fn begin(connection: Connection, sight: Sight, proxy: String) -> AbortHandle {
    let task = tokio::spawn(async move {
        loop {
            match tell(&connection, &sight, &proxy).await {
                Ok(()) => tracing::debug!("the control plane has ended the call for reports"),
                Err(why) => tracing::debug!(%why, "the control plane takes no reports"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    });
    task.abort_handle()
}

/// One call, to its end.
async fn tell(connection: &Connection, sight: &Sight, proxy: &str) -> Result<(), Unreached> {
    let (send, mut acks) = connection.call(METHOD).await?;
    let (told, mut heard) = mpsc::channel(WAITING);
    let mut stream =
        Stream { sight, send, told: Told::default(), interval: INTERVAL, ear: told, order: None, left_out: 0 };
    let mut lease_ends = Instant::now() + TAP_LEASE;
    let mut next = Instant::now();
    let mut first = Some(proxy.to_owned());
    loop {
        tokio::select! {
            ack = acks.next::<ReportAck>() => match ack? {
                Some(ack) => {
                    lease_ends = Instant::now() + TAP_LEASE;
                    stream.take(ack);
                    next = next.min(Instant::now() + stream.interval);
                }
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(next) => {
                next = Instant::now() + stream.interval;
                if !stream.tell_totals(&mut first).await? {
                    return Ok(());
                }
            }
            Some(tapped) = heard.recv() => {
                let mut all = vec![tapped];
                while let Some(more) = heard.try_recv().ok().filter(|_| all.len() < MOST_TAPPED) {
                    all.push(more);
                }
                stream.tell_tapped(all)?;
            }
            () = tokio::time::sleep_until(lease_ends), if stream.order.is_some() => stream.order(None),
        }
    }
}

/// One open call.
struct Stream<'s> {
    sight: &'s Sight,
    send: Sender,
    told: Told,
    interval: Duration,
    /// Where workers put what they are to tell.
    ear: mpsc::Sender<Tapped>,
    order: Option<Arc<Order>>,
    left_out: u64,
}

impl Stream<'_> {
    fn take(&mut self, ack: ReportAck) {
        self.told.acknowledge(ack.sequence);
        if ack.interval_ms > 0 {
            let [least, most] = INTERVALS;
            self.interval = Duration::from_millis(ack.interval_ms.into()).clamp(least, most);
        }
        let known = self.order.as_ref().map_or(&[][..], |order| order.taps());
        if known != ack.taps {
            let order = Order::new(ack.taps, self.sight.workers(), self.ear.clone());
            self.order(Some(order).filter(|order| !order.taps().is_empty()));
        }
    }

    fn order(&mut self, order: Option<Order>) {
        self.order = order.map(Arc::new);
        self.sight.tap(self.order.as_ref());
    }

    /// Tells what has moved; false when the proxy has ended and nothing follows. `proxy` is said once.
    async fn tell_totals(&mut self, proxy: &mut Option<String>) -> Result<bool, Unreached> {
        let Some((graph, backends)) = self.sight.observe().await else { return Ok(false) };
        if let Some(mut report) = self.told.totals(&graph, &backends) {
            report.epoch = self.sight.epoch();
            report.generation = self.sight.generation();
            report.proxy = proxy.take().unwrap_or_default();
            report.left_out = self.take_left_out();
            self.send.send(&report)?;
        }
        Ok(true)
    }

    fn tell_tapped(&mut self, tapped: Vec<Tapped>) -> Result<(), Unreached> {
        if self.told.under_way() >= MOST_UNDER_WAY {
            self.left_out += u64::try_from(tapped.len()).unwrap_or(u64::MAX);
            return Ok(());
        }
        let mut report = self.told.begin();
        report.epoch = self.sight.epoch();
        report.tapped = tapped;
        report.left_out = self.take_left_out();
        self.send.send(&report)
    }

    fn take_left_out(&mut self) -> u64 {
        let heard = self.order.as_ref().map_or(0, |order| order.take_left_out());
        std::mem::take(&mut self.left_out) + heard
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if self.order.is_some() {
            self.sight.tap(None);
        }
    }
}
