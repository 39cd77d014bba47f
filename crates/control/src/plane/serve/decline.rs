//! Tells a member why there is no place for it, and lets it go.
//!
//! Called by `serve` instead of serving the connection, which keeps its place at the door for that long.

use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use transept_xds::grpc::Failed;

use super::Connection;
use super::call::refuse;

/// How long a connection may stay whose calls are refused: long enough to begin one and to hear why.
const STAY: Duration = Duration::from_secs(5);

/// Refuses every call of a connection until the other side has gone.
pub(super) async fn decline(mut connection: Connection, failed: &Failed) {
    let mut calls = tokio::task::JoinSet::new();
    let exchange = async {
        loop {
            tokio::select! {
                // What has ended is not kept.
                Some(_) = calls.join_next() => {}
                next = connection.accept() => match next {
                    Some(Ok((request, respond))) => { calls.spawn(answer(request, respond, failed.clone())); }
                    // It has gone, which ends its calls too.
                    Some(Err(_)) | None => return,
                },
            }
        }
    };
    // Whoever asks nothing is not told.
    let _ = tokio::time::timeout(STAY, exchange).await;
}

/// Refuses a call once it has begun to speak: whoever still speaks when it is over hears of a broken stream and not of the reason.
async fn answer(request: Request<RecvStream>, respond: SendResponse<Bytes>, failed: Failed) {
    let _ = request.into_body().data().await;
    refuse(respond, &failed);
}
