//! Decides whether a request to the admin server comes from whom it seems to come from.
//!
//! Called by `admin` for every request, before anything is answered. The server binds to loopback by default, but a browser on the
//! same machine is a way in for any web page: by DNS rebinding (a name of theirs that resolves to 127.0.0.1) and by plain cross-site
//! requests. Names other than those the operator gave are refused, and so is every request that says it comes from another
//! site. There is no authentication here; who may connect is a matter of the address that was chosen.

use std::net::IpAddr;

use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::{Method, StatusCode};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Where questions about limits go, by POST.
pub(super) const LIMITS: &str = "/limits";

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The method could change something; nothing here can be changed.
    Method,
    /// The `Host` is a name that nobody allowed.
    Host,
    /// A page of another site makes the request.
    CrossSite,
}

impl Refusal {
    /// The status code of the answer.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::Host => StatusCode::MISDIRECTED_REQUEST,
            Refusal::CrossSite => StatusCode::FORBIDDEN,
        }
    }

    /// One sentence for the person who tries.
    pub(crate) fn why(self) -> &'static str {
        match self {
            Refusal::Method => "only GET and HEAD are answered here\n",
            Refusal::Host => "this name is not allowed: use an address or localhost, or start with --admin-host NAME\n",
            Refusal::CrossSite => "requests from pages of other sites are refused\n",
        }
    }
}

/// Lets a request through or tells why not; `names` are host names allowed besides `localhost` and addresses.
pub(crate) fn admit(method: &Method, path: &str, fields: &HeaderMap, names: &[String]) -> Result<(), Refusal> {
    // JSON is what no page of another site can send without asking first, and nobody here says yes.
    let is_json = || fields.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let is_question = path == LIMITS && method == Method::POST && is_json();
    if method != Method::GET && method != Method::HEAD && !is_question {
        return Err(Refusal::Method);
    }
    let host = match fields.get(HOST) {
        // HTTP/1.0 probes send none; browsers always do.
        None => None,
        Some(host) => Some(host.to_str().map_err(|_| Refusal::Host)?),
    };
    if host.is_some_and(|host| !is_allowed(name_of(host), names)) {
        return Err(Refusal::Host);
    }
    let same_site = |origin: &str| host.is_some_and(|host| origin.strip_prefix("http://").is_some_and(|at| at == host));
    if fields.get(ORIGIN).is_some_and(|origin| !origin.to_str().is_ok_and(same_site)) {
        return Err(Refusal::CrossSite);
    }
    if fields.get(SEC_FETCH_SITE).is_some_and(|site| site != "same-origin" && site != "none") {
        return Err(Refusal::CrossSite);
    }
    Ok(())
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn name_of(host: &str) -> &str {
    if let Some(inside) = host.strip_prefix('[') {
        return inside.split_once(']').map_or(host, |(address, _)| address);
    }
    host.split_once(':').map_or(host, |(name, _)| name)
}

fn is_allowed(name: &str, names: &[String]) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok()
        || names.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn decide(fields: &[(HeaderName, &'static str)]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.insert(name, HeaderValue::from_static(value));
        }
        admit(&Method::GET, "/status", &map, &["gw.shop.test".to_owned()])
    }

    #[test]
    fn addresses_localhost_and_named_hosts_pass() {
        for host in ["127.0.0.1:9908", "[::1]:9908", "localhost:9908", "10.2.3.4", "gw.shop.test:9908"] {
            assert_eq!(decide(&[(HOST, host)]), Ok(()), "{host}");
        }
        assert_eq!(decide(&[]), Ok(()));
    }

    #[test]
    fn a_rebound_name_is_refused() {
        assert_eq!(decide(&[(HOST, "evil.example:9908")]), Err(Refusal::Host));
        assert_eq!(decide(&[(HOST, "127.0.0.1.evil.example")]), Err(Refusal::Host));
    }

    #[test]
    fn other_sites_are_refused() {
        let host = (HOST, "127.0.0.1:9908");
        let ours = (ORIGIN, "http://127.0.0.1:9908");
        assert_eq!(decide(&[host.clone(), ours]), Ok(()));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8080"] {
            assert_eq!(decide(&[host.clone(), (ORIGIN, origin)]), Err(Refusal::CrossSite), "{origin}");
        }
        assert_eq!(decide(&[host, (SEC_FETCH_SITE, "cross-site")]), Err(Refusal::CrossSite));
    }

    #[test]
    fn methods_that_change_things_are_refused() {
        let decided = admit(&Method::POST, "/status", &HeaderMap::new(), &[]);
        assert_eq!(decided, Err(Refusal::Method));
    }

    #[test]
    fn questions_about_limits_are_no_change_and_no_page_can_send_them() {
        let mut fields = HeaderMap::new();
        assert_eq!(admit(&Method::POST, LIMITS, &fields, &[]), Err(Refusal::Method));
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        assert_eq!(admit(&Method::POST, LIMITS, &fields, &[]), Err(Refusal::Method));
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        assert_eq!(admit(&Method::POST, LIMITS, &fields, &[]), Ok(()));
        assert_eq!(admit(&Method::POST, "/status", &fields, &[]), Err(Refusal::Method));
        assert_eq!(admit(&Method::PUT, LIMITS, &fields, &[]), Err(Refusal::Method));
        fields.insert(HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(admit(&Method::POST, LIMITS, &fields, &[]), Err(Refusal::Host));
    }
}
