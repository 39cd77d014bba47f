//! The verb *detect*: which protocol a client speaks.
//!
//! Called by `accept.rs` when a connection is secured, or when it need not be. Starts the edge that serves it from then
//! on, as a task of its own.

use std::rc::Rc;
use std::sync::Arc;

use transept_engine::exchange::Connection;
use transept_engine::snapshot::{Bind, ServerTls};
use transept_wire::h1::{Preface, is_h2_preface};

use crate::accept::Guest;
use crate::buffer::Inbound;
use crate::deadline::Watch;
use crate::edge::h1_server::{self, H1Connection};
use crate::edge::h2_server::{self, Facts};
use crate::io::Io;
use crate::worker::Worker;

/// HTTP/2 by ALPN or by its preface (RFC 9113 section 3.3), else HTTP/1.1.
pub(crate) async fn detect(
    worker: Rc<Worker>,
    io: Io,
    connection: Connection,
    handshake: Option<Arc<ServerTls>>,
    bind: Arc<Bind>,
    watch: Watch,
    guest: Guest,
) {
    let mut inbound = Inbound::default();
    let by_alpn = connection.tls.as_ref().and_then(|tls| tls.alpn.as_deref()).map(|alpn| alpn == b"h2");
    let h2 = match by_alpn {
        Some(h2) => h2,
        None => {
            watch.set_idle(bind.settings.timeouts.idle);
            let mut begun = false;
            loop {
                match watch.wait(|cx| io.poll_fill(cx, &mut inbound)).await {
                    Ok(Ok(count)) if count > 0 => {}
                    _ => return,
                }
                match is_h2_preface(inbound.data()) {
                    Preface::Yes => break true,
                    Preface::No => break false,
                    // From here on the head's deadline counts: a client may not hold a part of a preface for ever.
                    Preface::Partial if !begun => {
                        begun = true;
                        watch.set(bind.settings.timeouts.head);
                    }
                    Preface::Partial => {}
                }
            }
        }
    };
    let bound = bind.address;
    drop(bind);
    if h2 {
        drop(watch);
        let facts = Facts { connection, handshake, bound, _guest: guest };
        tokio::task::spawn_local(h2_server::serve(worker, io, inbound, facts));
    } else {
        let it = H1Connection { io, inbound, connection, handshake, bound, watch, served: 0, _guest: guest };
        tokio::task::spawn_local(h1_server::serve(worker, Box::new(it)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// Every idle client costs the future of its connection and what the connection keeps; an exchange's memory is not
    /// among it.
    #[test]
    fn an_idle_connection_is_small() {
        let future = size_of_future(h1_server::serve);
        assert!((64..=256).contains(&future), "{future} bytes");
        let kept = size_of::<H1Connection>();
        assert!((256..=512).contains(&kept), "{kept} bytes");
    }
}
