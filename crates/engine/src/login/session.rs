//! A browser that is logged in: what its cookie says, once it is open.

use std::fmt;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value, json};

use crate::jose::{Claims, parse_json};

/// How many random bytes name a session.
pub(crate) const SESSION_NAME: usize = 16;

/// A session. Its tokens are never shown.
#[derive(Clone, PartialEq)]
pub(crate) struct Session {
    /// Its name, for logs: nothing by which it could be used.
    pub(crate) name: Box<str>,
    /// The ID token, which was verified when it came.
    pub(crate) id_token: Box<str>,
    /// The nonce of the login, which later ID tokens repeat if they have any.
    pub(crate) nonce: Box<str>,
    /// What the provider has granted, in words (RFC 6749 section 3.3); none when it did not say.
    pub(crate) scope: Option<Box<str>>,
    /// The access token, if the backend gets it.
    pub(crate) access_token: Option<Box<str>>,
    /// By which newer tokens are got.
    pub(crate) refresh_token: Option<Box<str>>,
    /// When the tokens came, since the Unix epoch.
    pub(crate) renewed: Duration,
    /// When they end.
    pub(crate) due: Duration,
    /// When the session ends, whatever the provider says.
    pub(crate) until: Duration,
}

impl Session {
    /// A name of random bytes.
    pub(crate) fn name(random: &[u8; SESSION_NAME]) -> Box<str> {
        BASE64URL_NOPAD.encode(random).into()
    }

    /// When it is over without newer tokens; with a refresh token they can be got.
    pub(crate) fn ends(&self) -> Duration {
        if self.refresh_token.is_some() { self.until } else { self.due.min(self.until) }
    }

    /// When newer tokens are asked for: half a minute before the end of these, or earlier when they are good for a short time only.
    pub(crate) fn refreshed_from(&self) -> Option<Duration> {
        self.refresh_token.as_ref()?;
        let life = self.due.saturating_sub(self.renewed);
        Some(self.due.saturating_sub((life / 4).min(Duration::from_secs(30))))
    }

    /// What the ID token says, with the scope that was granted if the token has none.
    pub(crate) fn claims(&self) -> Option<Claims> {
        let payload = self.id_token.split('.').nth(1)?;
        let Value::Object(mut claims) = parse_json(&BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?).ok()? else {
            return None;
        };
        if let Some(scope) = &self.scope {
            claims.entry("scope").or_insert_with(|| Value::String(scope.to_string()));
        }
        Some(claims)
    }

    /// As it is sealed.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut all = json!({
            "n": self.name, "i": self.id_token, "o": self.nonce,
            "b": self.renewed.as_secs(), "d": self.due.as_secs(), "u": self.until.as_secs(),
        });
        let optional = [("s", &self.scope), ("a", &self.access_token), ("r", &self.refresh_token)];
        if let Value::Object(members) = &mut all {
            for (name, value) in optional {
                members.extend(value.iter().map(|value| (name.to_owned(), Value::String(value.to_string()))));
            }
        }
        all.to_string().into_bytes()
    }

    /// What was sealed.
    pub(crate) fn read(bytes: &[u8]) -> Option<Session> {
        let Value::Object(all) = serde_json::from_slice::<Value>(bytes).ok()? else { return None };
        let text = |all: &Map<String, Value>, name: &str| all.get(name).and_then(Value::as_str).map(Box::from);
        let time = |name: &str| all.get(name).and_then(Value::as_u64).map(Duration::from_secs);
        Some(Session {
            name: text(&all, "n")?,
            id_token: text(&all, "i")?,
            nonce: text(&all, "o")?,
            scope: text(&all, "s"),
            access_token: text(&all, "a"),
            refresh_token: text(&all, "r"),
            renewed: time("b")?,
            due: time("d")?,
            until: time("u")?,
        })
    }
}

/// An access token on its way to a backend. Never shown.
#[derive(Clone)]
pub(crate) struct Handed(pub(crate) Box<str>);

impl fmt::Debug for Handed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Handed(..)")
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Session").field("name", &self.name).field("due", &self.due).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let payload = BASE64URL_NOPAD.encode(br#"{"sub":"ann","exp":100}"#);
        Session {
            name: Session::name(&[1; SESSION_NAME]),
            id_token: format!("e30.{payload}.c2ln").into(),
            nonce: "n".into(),
            scope: Some("openid orders.read".into()),
            access_token: None,
            refresh_token: Some("refresh-planted".into()),
            renewed: Duration::from_secs(1000),
            due: Duration::from_secs(1300),
            until: Duration::from_secs(9000),
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let session = session();
        assert_eq!(Session::read(&session.write()), Some(session.clone()));
        assert_eq!(Session::read(b"{}"), None);
        let claims = session.claims().expect("claims");
        assert_eq!((claims["sub"].as_str(), claims["scope"].as_str()), (Some("ann"), Some("openid orders.read")));
        assert!(!format!("{session:?}").contains("planted"));
    }

    #[test]
    fn newer_tokens_are_asked_for_ahead_of_the_end() {
        let mut session = session();
        assert_eq!(session.refreshed_from(), Some(Duration::from_secs(1270)));
        assert_eq!(session.ends(), session.until);
        session.due = Duration::from_secs(1004);
        assert_eq!(session.refreshed_from(), Some(Duration::from_secs(1003)));
        session.refresh_token = None;
        assert_eq!((session.refreshed_from(), session.ends()), (None, session.due));
    }
}
