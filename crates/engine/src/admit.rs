//! The seventh verb of the road: the listener that takes a request, and whether a connection may be made at all.
//!
//! Called by the proxy once per request, after normalisation. A Gateway isolates its listeners by hostname: a request is served by
//! the one listener that fits its host best and by no other. On TLS the server name chose a listener before; when the host now
//! chooses another, the client has reused a connection that was not meant for this host and is told so (RFC 9110 section 15.5.20).
//! In the mesh a listener stands for a port of a program (inbound) or of a Service (outbound), and where the client wants to go decides.

use std::sync::Arc;

use crate::exchange::Connection;
use crate::policies::{Arrival, Carried};
use crate::reason::Reason;
use crate::role::Role;
use crate::settings::Plaintext;
use crate::snapshot::{Bind, Listener, Speaks};
use crate::verdict::{Reply, Verdict};

/// Finds the listener for a request. `host` is lower-case, without port and trailing dot.
///
/// # Errors
/// The reply, 404 or 421, when no listener takes it.
pub fn admit<'s>(bind: &'s Bind, connection: &Connection, host: &str) -> Result<&'s Arc<Listener>, Box<Reply>> {
    admit_to(bind, connection, host, None)
}

/// The same for a request whose authority names a port. The port counts only where listeners are found by it: on the outbound bind
/// of clients that were told of a proxy.
///
/// # Errors
/// The reply, 404 or 421, when no listener takes it.
pub fn admit_to<'s>(
    bind: &'s Bind,
    connection: &Connection,
    host: &str,
    port: Option<u16>,
) -> Result<&'s Arc<Listener>, Box<Reply>> {
    let not_found = || Box::new(Reply::new(Reason::ListenerNotFound));
    match bind.role {
        Role::Inbound => {
            let wanted = connection.destination.unwrap_or(connection.local).port();
            let listener = bind.listener_for_port(wanted).ok_or_else(not_found)?;
            return admit_plaintext(listener, connection).map(|()| listener);
        }
        Role::Outbound if bind.is_found_by_authority() => {
            return bind.listener_for_authority(host, port).ok_or_else(not_found);
        }
        Role::Outbound if bind.is_captured() => {
            let wanted = connection.destination.and_then(|destination| bind.listener_for_destination(destination));
            return wanted.ok_or_else(not_found);
        }
        Role::Outbound | Role::Gateway => {}
    }
    let by_host = bind.listener_for_host(host);
    let Some(tls) = &connection.tls else {
        return by_host.ok_or_else(not_found);
    };
    match (by_host, bind.listener_for_sni(tls.server_name.as_deref())) {
        (Some(wanted), Some(secured)) if Arc::ptr_eq(wanted, secured) => Ok(wanted),
        _ => Err(Box::new(
            Reply::new(Reason::Misdirected)
                .with_detail("The TLS handshake was for another host. Open a new connection for this one."),
        )),
    }
}

/// Whether a connection to a listener may be made, before anything is known of what it carries: asked when a tunnel is opened. Where
/// HTTP may come, only what no request could change refuses; the rest is said to each request.
///
/// # Errors
/// The refusal; its `cause` names the policy and the rule.
pub fn admit_connection(listener: &Listener, connection: &Connection) -> Result<(), Box<Reply>> {
    let carried = match listener.speaks {
        Speaks::Http | Speaks::Detect => Carried::Unknown,
        Speaks::Opaque => Carried::Opaque,
    };
    arrive(listener, connection, carried)
}

/// The same for a connection that turned out to carry something else than HTTP, so that there will be no requests to judge.
///
/// # Errors
/// The refusal; its `cause` names the policy and the rule.
pub fn admit_stream(listener: &Listener, connection: &Connection) -> Result<(), Box<Reply>> {
    arrive(listener, connection, Carried::Opaque)
}

/// On the way into a workload, whoever has no identity has not come through the mesh.
fn admit_plaintext(listener: &Listener, connection: &Connection) -> Result<(), Box<Reply>> {
    let settings = &listener.settings;
    let refused =
        settings.role == Role::Inbound && connection.identity.is_none() && settings.plaintext == Plaintext::Refused;
    if !refused {
        return Ok(());
    }
    let cause = match listener.settled_by.first() {
        Some(step) => format!("{}, mode Strict", step.name),
        None => "no MeshPolicy says `mode: Permissive`".to_owned(),
    };
    Err(Box::new(Reply::new(Reason::MeshPlaintext).because(cause)))
}

fn arrive(listener: &Listener, connection: &Connection, carried: Carried) -> Result<(), Box<Reply>> {
    admit_plaintext(listener, connection)?;
    let arrival = Arrival { connection, port: listener.port, carried };
    // A rule for connections has the policies of its listener too.
    let chain = match (&listener.stream, carried) {
        (Some(rule), Carried::Opaque) => &rule.chain,
        _ => &listener.chain,
    };
    match chain.meet(&arrival) {
        Verdict::Continue => Ok(()),
        Verdict::Respond(reply) => Err(reply),
        // Nothing can be asked while a connection waits to be let in: whoever needs to has not let it in.
        Verdict::Call(_) => Err(Box::new(Reply::new(Reason::PolicyInvalid))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::TlsFacts;
    use crate::snapshot::Secure;

    /// The section of the listener that takes the request, or the status of the refusal.
    fn admitted(bind: &Bind, server_name: Option<&str>, host: &str) -> Result<String, u16> {
        let tls = (bind.secure == Secure::Tls)
            .then(|| TlsFacts { server_name: server_name.map(Into::into), ..TlsFacts::default() });
        let connection = Connection::new(([192, 0, 2, 1], 5000).into(), bind.address, tls);
        match admit(bind, &connection, host) {
            Ok(listener) => Ok(listener.name.section.to_string()),
            Err(reply) => Err(reply.status),
        }
    }

    #[test]
    fn a_host_of_another_listener_than_the_server_name_is_misdirected() {
        let bind = Bind::for_tests(Secure::Tls, &["", "*.shop.test", "api.shop.test"]);
        let sni = Some("api.shop.test");
        assert_eq!(admitted(&bind, sni, "api.shop.test"), Ok("api.shop.test".into()));
        assert_eq!(admitted(&bind, sni, "www.shop.test"), Err(421));
        assert_eq!(admitted(&bind, sni, "other.test"), Err(421));
        assert_eq!(admitted(&bind, Some("a.shop.test"), "b.shop.test"), Ok("*.shop.test".into()));
        assert_eq!(admitted(&bind, None, "other.test"), Ok("".into()));
        assert_eq!(admitted(&bind, Some("unknown.test"), "other.test"), Ok("".into()));
        assert_eq!(admitted(&bind, None, "api.shop.test"), Err(421));
    }

    #[test]
    fn in_clear_text_the_host_alone_decides() {
        let bind = Bind::for_tests(Secure::Plain, &["*.shop.test"]);
        assert_eq!(admitted(&bind, None, "a.shop.test"), Ok("*.shop.test".into()));
        assert_eq!(admitted(&bind, None, "shop.test"), Err(404));
    }
}
