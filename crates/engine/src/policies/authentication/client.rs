//! Ourselves as a client of an OAuth 2.0 server: how we say who we are when we ask it (RFC 6749 section 2.3.1).
//!
//! Used by the schemes that ask a provider: about a token, or for one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use transept_model::choice;
use transept_wire::head::Request;

use super::super::Url;
use crate::callout::HttpCall;
use crate::form;
use crate::judge::Repeat;
use crate::snapshot::Backend;

choice! {
    /// How a client says who it is (RFC 6749 section 2.3.1).
    pub enum ClientAuthentication {
        /// In `Authorization: Basic`.
        Basic = "Basic",
        /// In the body.
        Post = "Post",
    }
}

/// How we say who we are; never shown.
pub(super) struct Client {
    authorization: Option<Vec<u8>>,
    body: String,
}

/// Whom to ask, and how.
pub(super) struct Ask<'u> {
    pub(super) backend: Arc<Backend>,
    pub(super) url: &'u Url,
    pub(super) timeout: Duration,
    /// The largest answer that is read, in bytes.
    pub(super) most: usize,
    /// Whether it may be asked twice.
    pub(super) repeat: Repeat,
}

impl Client {
    /// A client with a secret, or a public one that only says its name.
    pub(super) fn new(id: &str, secret: Option<&str>, how: ClientAuthentication) -> Client {
        match (secret, how) {
            (Some(secret), ClientAuthentication::Basic) => {
                let pair = format!("{}:{}", form::encoded(id), form::encoded(secret));
                let pair = data_encoding::BASE64.encode(pair.as_bytes());
                Client { authorization: Some(format!("Basic {pair}").into_bytes()), body: String::new() }
            }
            (Some(secret), ClientAuthentication::Post) => {
                Client { authorization: None, body: form::written([("client_id", id), ("client_secret", secret)]) }
            }
            (None, _) => Client { authorization: None, body: form::written([("client_id", id)]) },
        }
    }

    /// A call that posts a form. None when the place cannot be asked.
    pub(super) fn call(&self, ask: Ask<'_>, parameters: &[(&str, &str)]) -> Option<HttpCall> {
        let Url { scheme, authority, target, .. } = ask.url;
        let mut request = Request::build("POST", scheme, authority, target).ok()?;
        let mut push = |name: &[u8], value: &[u8]| request.fields.push_bytes(name, value).ok();
        push(b"content-type", b"application/x-www-form-urlencoded")?;
        push(b"accept", b"application/json")?;
        if let Some(authorization) = &self.authorization {
            push(b"authorization", authorization)?;
        }
        let mut body = self.body.clone();
        if !body.is_empty() {
            body.push('&');
        }
        body.push_str(&form::written(parameters.iter().copied()));
        let Ask { backend, timeout, most, repeat, .. } = ask;
        Some(HttpCall { backend, request, body: body.into_bytes(), timeout, most, repeat })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").finish_non_exhaustive()
    }
}
