//! The seventh verb of the road: the listener that takes a request.
//!
//! Called by the proxy once per request, after normalisation. A Gateway isolates its listeners by hostname: a request is served by
//! the one listener that fits its host best and by no other. On TLS the server name chose a listener before; when the host now
//! chooses another, the client has reused a connection that was not meant for this host and is told so (RFC 9110 section 15.5.20).

use std::sync::Arc;

use crate::exchange::Connection;
use crate::reason::Reason;
use crate::snapshot::{Bind, Listener};
use crate::verdict::Reply;

/// Finds the listener for a request. `host` is lower-case, without port and trailing dot.
///
/// # Errors
/// The reply, 404 or 421, when no listener takes it.
pub fn admit<'s>(
    bind: &'s Bind,
    connection: &Connection,
    host: &str,
) -> Result<&'s Arc<Listener>, Box<Reply>> {
    let by_host = bind.listener_for_host(host);
    let Some(tls) = &connection.tls else {
        return by_host.ok_or_else(|| Box::new(Reply::new(Reason::ListenerNotFound)));
    };
    match (by_host, bind.listener_for_sni(tls.server_name.as_deref())) {
        (Some(wanted), Some(secured)) if Arc::ptr_eq(wanted, secured) => Ok(wanted),
        _ => Err(Box::new(Reply::new(Reason::Misdirected).with_detail(
            "The TLS handshake was for another host. Open a new connection for this one.",
        ))),
    }
}
