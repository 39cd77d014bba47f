//! One open connection to a control plane with its two long calls, and the tasks that read them.
//!
//! Made by `member`, which writes into the calls itself; what arrives comes back as events with the number of the connection.

use prost::Message;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use transept_xds::mesh::REGISTER;

use super::{Event, report};
use crate::feed::contact::{Connection, Messages, Sender, Unreached};
use crate::sight::Sight;

/// An open connection. Dropping it closes it.
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) discovery: Sender,
    pub(super) beats: Sender,
    readers: [AbortHandle; 2],
    /// The task that reports, once there is something to report.
    reports: Option<AbortHandle>,
}

impl Link {
    /// Begins both calls.
    pub(super) async fn open(
        connection: Connection,
        number: u64,
        reports: mpsc::Sender<Event>,
    ) -> Result<Self, Unreached> {
        let (discovery, responses) = connection.call(transept_xds::METHOD).await?;
        let (beats, answers) = connection.call(REGISTER).await?;
        let readers = [
            read(responses, reports.clone(), number, move |response| Event::Response(number, Box::new(response))),
            read(answers, reports, number, move |answer| Event::Answer(number, answer)),
        ];
        Ok(Self { connection, discovery, beats, readers, reports: None })
    }

    /// Reports what a proxy sees, unless that is going on.
    pub(super) fn begin_reports(&mut self, sight: &Sight, proxy: &str) {
        if self.reports.is_none() {
            self.reports = Some(report::begin(self.connection.clone(), sight.clone(), proxy.to_owned()));
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.readers.iter().chain(&self.reports).for_each(AbortHandle::abort);
    }
}

/// Reads a call to its end in a task of its own. A reader that is not listened to waits, and so does the control plane.
fn read<M: Message + Default + 'static>(
    mut messages: Messages,
    reports: mpsc::Sender<Event>,
    number: u64,
    report: impl Fn(M) -> Event + Send + 'static,
) -> AbortHandle {
    let task = tokio::spawn(async move {
        let why = loop {
            match messages.next().await {
                Ok(Some(message)) => {
                    if reports.send(report(message)).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break None,
                Err(why) => break Some(why),
            }
        };
        let _ = reports.send(Event::Closed(number, why)).await;
    });
    task.abort_handle()
}
