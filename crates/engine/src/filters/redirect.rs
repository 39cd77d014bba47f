//! `RequestRedirect`: an answer that sends the client elsewhere.
//!
//! Called by `Filters`. The rules for scheme and port are those of the standard (`HTTPRequestRedirectFilter.port`): a port that is
//! written wins, else the well-known port of a scheme that is written, else the port of the listener; 80 on http and 443 on https are
//! left out. Behind a proxy that ends TLS the client knows nothing of that port, and the one of its scheme counts. The query is kept.

use std::io::Write;

use smallvec::SmallVec;
use transept_wire::head::{FieldId, FieldName};
use transept_wire::normalize;

use super::rewrite::PathChange;
use crate::exchange::Exchange;
use crate::reason::Reason;
use crate::verdict::Reply;

/// A redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; none keeps the scheme of the request.
    pub scheme: Option<Box<str>>,
    /// The new host; none keeps the host of the request.
    pub hostname: Option<Box<str>>,
    /// The new port.
    pub port: Option<u16>,
    /// The new path.
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

impl Redirect {
    /// The answer to a request.
    pub(crate) fn reply(&self, x: &Exchange<'_>, prefix: usize) -> Reply {
        let asked_scheme = x.scheme();
        let scheme = self.scheme.as_deref().unwrap_or(asked_scheme);
        let is_listeners = self.scheme.is_none() && asked_scheme == x.connection.scheme();
        let port = match self.port {
            Some(port) => port,
            None if is_listeners => x.listener_port,
            None => well_known(scheme).unwrap_or(x.listener_port),
        };
        let mut location = Vec::with_capacity(128);
        location.extend_from_slice(scheme.as_bytes());
        location.extend_from_slice(b"://");
        match &self.hostname {
            Some(hostname) => location.extend_from_slice(hostname.as_bytes()),
            None => location.extend_from_slice(host_of(x.request.authority())),
        }
        if well_known(scheme) != Some(port) {
            // Writing to a Vec cannot fail.
            let _ = write!(location, ":{port}");
        }
        match &self.path {
            Some(change) => {
                let mut path: SmallVec<[u8; 256]> = SmallVec::new();
                change.apply(x.request.path(), prefix, &mut path);
                location.extend_from_slice(&path);
            }
            None => location.extend_from_slice(x.request.path()),
        }
        if let Some(query) = x.request.query() {
            location.push(b'?');
            location.extend_from_slice(query);
        }
        Reply::new(Reason::Redirected)
            .with_status(self.status)
            .with_field(FieldName::known(FieldId::LOCATION), location)
            .without_body()
    }
}

fn host_of(authority: &[u8]) -> &[u8] {
    normalize::authority(authority).map_or(authority, |parts| parts.host)
}

fn well_known(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{Connection, Notes, Now, TlsFacts};
    use std::time::Duration;
    use transept_wire::head::Request;

    fn location(redirect: &Redirect, port: u16, tls: bool, target: &str) -> String {
        location_of(redirect, port, tls, if tls { "https" } else { "http" }, target)
    }

    fn location_of(redirect: &Redirect, port: u16, tls: bool, scheme: &str, target: &str) -> String {
        let mut request = Request::build("GET", scheme, "example.org:9999", target).expect("a request");
        let address = format!("127.0.0.1:{port}").parse().expect("an address");
        let connection = Connection::new(address, address, tls.then(TlsFacts::default));
        let x = Exchange {
            now: Now { monotonic: Duration::ZERO, unix: Duration::ZERO },
            random: 0,
            connection: &connection,
            client: address.ip(),
            listener_port: port,
            request: &mut request,
            notes: &mut Notes::new(),
        };
        let reply = redirect.reply(&x, "/old".len());
        String::from_utf8_lossy(&reply.fields[0].1).into_owned()
    }

    fn plain() -> Redirect {
        Redirect { scheme: None, hostname: None, port: None, path: None, status: 302 }
    }

    #[test]
    fn scheme_and_port() {
        let to = |scheme: Option<&str>, port| Redirect { scheme: scheme.map(Into::into), port, ..plain() };
        for (listener, tls, scheme, port, expected) in [
            (80, false, None, None, "http://example.org/p"),
            (80, false, None, Some(80), "http://example.org/p"),
            (80, false, None, Some(8080), "http://example.org:8080/p"),
            (80, false, Some("https"), None, "https://example.org/p"),
            (80, false, Some("https"), Some(443), "https://example.org/p"),
            (80, false, Some("https"), Some(8443), "https://example.org:8443/p"),
            (8080, false, None, None, "http://example.org:8080/p"),
            (8080, false, None, Some(80), "http://example.org/p"),
            (8080, false, Some("https"), None, "https://example.org/p"),
            (443, true, None, None, "https://example.org/p"),
            (443, true, None, Some(8443), "https://example.org:8443/p"),
            (443, true, Some("http"), None, "http://example.org/p"),
            (443, true, Some("http"), Some(8080), "http://example.org:8080/p"),
        ] {
            assert_eq!(location(&to(scheme, port), listener, tls, "/p"), expected);
        }
    }

    #[test]
    fn behind_a_proxy_that_ends_tls_the_scheme_and_its_port_are_the_clients() {
        let kept = plain();
        assert_eq!(location_of(&kept, 8080, false, "https", "/p"), "https://example.org/p");
        assert_eq!(location_of(&kept, 8443, true, "http", "/p"), "http://example.org/p");
        let written = Redirect { port: Some(8443), ..plain() };
        assert_eq!(location_of(&written, 8080, false, "https", "/p"), "https://example.org:8443/p");
    }

    #[test]
    fn host_path_and_query() {
        let redirect = Redirect {
            hostname: Some("new.example".into()),
            path: Some(PathChange::Prefix(b"/new".as_slice().into())),
            ..plain()
        };
        assert_eq!(location(&redirect, 80, false, "/old/lemon?x=1&y"), "http://new.example/new/lemon?x=1&y");
    }
}
