//! Session persistence of route rules (GEP-1619).
//!
//! Carried by HTTPRoute and GRPCRoute rules. How a session is kept is decided elsewhere.

use std::time::Duration;

use crate::schema::{Decoder, Rule, Text};
use crate::value::Value;

crate::choice! {
    /// What carries the session.
    pub enum SessionPersistenceType {
        /// A cookie.
        Cookie = "Cookie",
        /// A header.
        Header = "Header",
    }
}

crate::choice! {
    /// How long the cookie lives in the client.
    pub enum CookieLifetime {
        /// Until the absolute timeout.
        Permanent = "Permanent",
        /// Until the client ends its session.
        Session = "Session",
    }
}

crate::object! {
    /// How the cookie of a session looks.
    pub struct CookieConfig {
        /// How long the cookie lives in the client. `Permanent` needs an `absoluteTimeout`.
        lifetime_type: CookieLifetime = CookieLifetime::Session;
    }
}

crate::object! {
    /// Keeps the requests of a session at the same endpoint.
    pub struct SessionPersistence {
        /// The name of the cookie or header.
        session_name: Option<Text> => Rule::Length(0, 128);
        /// After this time the session ends.
        absolute_timeout: Option<Duration>;
        /// After this time without a request the session ends.
        idle_timeout: Option<Duration>;
        /// What carries the session.
        r#type: SessionPersistenceType = SessionPersistenceType::Cookie;
        /// How the cookie looks.
        cookie_config: Option<CookieConfig>;
    }
    check check_session;
}

fn check_session(session: &SessionPersistence, value: &Value, cx: &mut Decoder) {
    let permanent =
        session.cookie_config.as_ref().is_some_and(|cookie| cookie.lifetime_type == CookieLifetime::Permanent);
    if permanent && session.absolute_timeout.is_none() {
        cx.refuse(value.at, "a permanent cookie needs an end").remedy("add `absoluteTimeout:`");
    }
}
