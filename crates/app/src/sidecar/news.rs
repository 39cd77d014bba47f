//! What a sidecar follows from its start to the end of its program: configurations, the connection to the control plane, what the program calls for
//! the first time.
//!
//! Waited for by `sidecar`, also while it stops: until the program has ended its calls go on, and policies bind who is still connected. What is
//! done about the news is decided there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, watch};
use transept_proxy::Wanted;
use transept_proxy::feed::{Feed, Received, Standing};

use super::transparent::Transparent;

/// Something has happened.
pub(super) enum News {
    /// There is another configuration.
    Received(Arc<Received>),
    /// The program calls somebody for the first time.
    Wanted(Wanted),
    /// Whether there is a control plane now.
    Connection(bool),
    /// The system names other servers.
    Servers,
    /// Nobody tells whose an address is: it is time to do without.
    Alone,
    /// What could not be opened is tried again.
    Retry,
}

/// Where news come from.
pub(super) struct Sources {
    received: watch::Receiver<Arc<Received>>,
    connection: watch::Receiver<Standing>,
    wanted: mpsc::UnboundedReceiver<Wanted>,
    /// The name servers that the system names; none where no names are captured.
    pub(super) servers: Option<watch::Receiver<Vec<SocketAddr>>>,
}

impl Sources {
    pub(super) fn new(
        feed: &Feed,
        wanted: mpsc::UnboundedReceiver<Wanted>,
        transparent: Option<&Transparent>,
    ) -> Sources {
        Sources {
            received: feed.received(),
            connection: feed.standing(),
            wanted,
            servers: transparent.map(Transparent::servers),
        }
    }

    /// The configuration that came last; it is no news any more.
    pub(super) fn latest(&mut self) -> Arc<Received> {
        self.received.borrow_and_update().clone()
    }

    /// Whether there is a control plane; it is no news any more.
    pub(super) fn is_connected(&mut self) -> bool {
        self.connection.borrow_and_update().connected
    }

    /// The next news. `alone` is when nobody is waited for any longer, `retry` is ready when it is time to try again. Given up half-way, it loses
    /// nothing.
    ///
    /// # Errors
    /// The feed has ended, which only the end of the process may do.
    pub(super) async fn next(&mut self, alone: Option<Instant>, retry: impl Future<Output = ()>) -> Result<News> {
        tokio::select! {
            changed = self.received.changed() => {
                changed.context("the feed has ended")?;
                Ok(News::Received(self.latest()))
            }
            Some(wanted) = self.wanted.recv() => Ok(News::Wanted(wanted)),
            Ok(()) = self.connection.changed() => Ok(News::Connection(self.is_connected())),
            () = changed(&mut self.servers) => Ok(News::Servers),
            () = sleep_until(alone) => Ok(News::Alone),
            () = retry => Ok(News::Retry),
        }
    }
}

/// Waits for a time; for ever when there is none.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Waits for another value; for ever when there is nobody who would have one.
async fn changed<T>(values: &mut Option<watch::Receiver<T>>) {
    let ended = match values {
        Some(values) => values.changed().await.is_err(),
        None => true,
    };
    if ended {
        std::future::pending().await
    }
}
