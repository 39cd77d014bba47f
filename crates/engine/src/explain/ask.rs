//! A described request: what `explain` and the cases send down the road.
//!
//! Called by the command line and by the cases. Reads a URL into its parts; judging them is left to the road.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use transept_model::secrecy::ticked_url;
use transept_wire::head::{FieldId, Fields, Method, Version};

use crate::exchange::Now;
use crate::policies::Carried;

/// A described request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// The HTTP version.
    pub version: Version,
    /// Whether it is a request, or a connection that is not looked at (`tcp://`).
    pub carried: Carried,
    /// Whether it comes over TLS.
    pub tls: bool,
    /// Host and port as the client writes them.
    pub authority: String,
    /// The port that the client connects to.
    pub port: u16,
    /// Path and query.
    pub target: String,
    /// Header fields. `Host` replaces the authority, as it does in a real request.
    pub fields: Fields,
    /// The other end of the connection.
    pub peer: IpAddr,
    /// The verified SPIFFE id of the client, if it has one. With one, a request to a port of a program in the mesh is asked about at
    /// the proxy of that program.
    pub identity: Option<String>,
    /// The TLS server name; none is the host of the URL.
    pub server_name: Option<String>,
    /// Our end of the connection; none is any address with the port.
    pub address: Option<IpAddr>,
    /// When it comes.
    pub now: Now,
    /// Its random bits.
    pub random: u64,
    /// Who answers for a Service without an endpoint.
    pub unlisted: Unlisted,
    /// What the backend would answer.
    pub assumed: Assumed,
}

/// Who answers for a Service of which the configuration holds no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlisted {
    /// Nobody: the configuration is everything.
    Nobody,
    /// Instances that have registered in the mesh, of which files tell nothing.
    Instances,
}

/// A response that a backend is assumed to give.
#[derive(Clone, Debug)]
pub struct Assumed {
    /// Its status code.
    pub status: u16,
    /// Its fields.
    pub fields: Fields,
}

impl Ask {
    /// A request without fields, from 127.0.0.1; with the scheme `tcp` a connection, which has no method.
    ///
    /// # Errors
    /// A sentence about what is wrong with the method or the URL.
    pub fn new(method: &str, url: &str) -> Result<Ask, String> {
        let method = Method::from_bytes(method.as_bytes()).ok_or_else(|| format!("`{method}` is not a method"))?;
        let (carried, tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (Carried::Unknown, false, rest),
            Some(("https", rest)) => (Carried::Unknown, true, rest),
            Some(("tcp", rest)) => (Carried::Opaque, false, rest),
            Some((scheme, _)) => {
                return Err(format!("the scheme `{scheme}` is none of http, https and tcp"));
            }
            None => (Carried::Unknown, false, url),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let target = match target {
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            target => target.to_owned(),
        };
        if authority.is_empty() {
            return Err(format!(
                "{} has no host; write the whole URL, such as http://localhost:8080/",
                ticked_url(url)
            ));
        }
        let parts = transept_wire::normalize::authority(authority.as_bytes())
            .map_err(|why| format!("`{authority}` is not a host: {why}"))?;
        if carried == Carried::Opaque && (parts.port.is_none() || target != "/") {
            return Err(format!("{} does not say where a connection goes; write `tcp://host:port`", ticked_url(url)));
        }
        Ok(Ask {
            method,
            version: Version::Http11,
            carried,
            tls,
            port: parts.port.unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.to_owned(),
            target,
            fields: Fields::new(),
            peer: Ipv4Addr::LOCALHOST.into(),
            identity: None,
            server_name: None,
            address: None,
            now: Now { monotonic: Duration::ZERO, unix: Duration::ZERO },
            random: 0,
            unlisted: Unlisted::Nobody,
            assumed: Assumed { status: 200, fields: Fields::new() },
        })
    }

    /// Adds a header field. `Host` becomes the authority.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn add_field(&mut self, name: &str, value: &str) -> Result<(), String> {
        if FieldId::from_bytes(name.as_bytes()) == FieldId::HOST {
            value.clone_into(&mut self.authority);
            return Ok(());
        }
        self.fields.push_bytes(name.as_bytes(), value.as_bytes()).map_err(|why| format!("`{name}`: {why}"))
    }

    /// The peer's socket address, with a port that means nothing.
    pub(super) fn peer_address(&self) -> SocketAddr {
        SocketAddr::new(self.peer, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_host_is_told_what_is_missing() {
        for url in ["/api", "http:///api", "?x=1", ""] {
            let why = Ask::new("GET", url).expect_err(url);
            assert!(why.contains("has no host") && why.contains("http://localhost:8080/"), "{why}");
        }
        assert!(Ask::new("GET", "localhost:8080/api").is_ok_and(|ask| ask.port == 8080));
    }
}
