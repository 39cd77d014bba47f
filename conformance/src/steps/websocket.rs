//! The `websocket` step: a handshake, then frames that must come back.

use transept_testkit::client::Endpoint;
use transept_testkit::websocket::{BINARY, Frame, TEXT, WebSocket};

use super::Stage;
use crate::case::{Frames, Websocket};
use crate::converge::{Attempt, converge};

impl Stage<'_> {
    pub(super) async fn websocket(&self, step: &Websocket) -> Result<(), String> {
        let endpoint = Endpoint::http1(self.dial(&step.gateway, step.port).await?);
        let usual = endpoint.address.port() == 80;
        let host = if usual { endpoint.address.ip().to_string() } else { endpoint.address.to_string() };
        converge(self.patience, async || match talk(&endpoint, &host, step).await {
            Ok(()) => Attempt::Pass,
            Err(why) => Attempt::Retry(why),
        })
        .await
    }
}

async fn talk(endpoint: &Endpoint, host: &str, step: &Websocket) -> Result<(), String> {
    let opened = WebSocket::connect(endpoint, host, &step.path, &step.origin).await;
    let mut socket = opened.map_err(|why| why.to_string())?;
    for frames in &step.exchange {
        let (opcode, sent, wanted) = match frames {
            Frames::Text { send_text, expect_text } => (TEXT, send_text.as_bytes(), expect_text.as_bytes()),
            Frames::Bytes { send_bytes, expect_bytes } => (BINARY, send_bytes.as_slice(), expect_bytes.as_slice()),
        };
        let frame = Frame { opcode, payload: sent.to_vec() };
        socket.send(&frame).await.map_err(|why| why.to_string())?;
        let got = socket.receive().await.map_err(|why| why.to_string())?;
        if !got.as_ref().is_some_and(|frame| frame.opcode == opcode && frame.payload == wanted) {
            return Err(format!("got {got:?} for {frame:?}"));
        }
    }
    Ok(())
}
