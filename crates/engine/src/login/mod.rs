//! Sessions of browsers that have logged in at an OpenID provider: what is in their cookies, and how cookies are read and written.
//!
//! Used by the scheme `login` of `AuthenticationPolicy`, which knows the protocol. No session is stored anywhere: all of it is in the
//! browser, sealed, so that any proxy with the same secret knows it, and none loses it in a restart. What is stored is that one was given up (`ended`).

mod cookies;
pub mod ended;
mod flow;
mod seal;
mod session;

use std::time::Duration;

use transept_wire::head::Request;

pub(crate) use cookies::{Jar, Written};
pub(crate) use flow::{FLOW_RANDOM, Flow, challenge, of_this_site};
pub(crate) use seal::{NONCE, Purpose, Seals};
pub(crate) use session::{Handed, SESSION_NAME, Session};

/// Shows a jar a `Cookie` field, and holds what is left of it against what it should be. For the fuzzer; false is a fault.
#[doc(hidden)]
pub fn probe(field: &[u8]) -> bool {
    let jar = Jar::new("session");
    let mut request = match Request::build("GET", "https", "a.test", "/") {
        Ok(request) => request,
        Err(_) => return false,
    };
    if request.fields.push_bytes(b"cookie", field).is_err() {
        return true;
    }
    let others = |request: &Request| -> Vec<Vec<u8>> {
        cookies::pairs(request)
            .filter(|(name, _)| !jar.is_ours(name))
            .map(|(name, value)| [name, b"=", value].concat())
            .collect()
    };
    let before = others(&request);
    if let Some(value) = jar.session(&request) {
        let seals = Seals::for_tests();
        if seals.open(Purpose::Session, &value).is_some_and(|bytes| Session::read(&bytes).is_none()) {
            return false;
        }
    }
    jar.remove(&mut request);
    !jar.is_there(&request) && others(&request) == before
}

/// What tells the sessions of one issuer, client and cookie from all others.
pub(crate) fn context(issuer: &str, client: &str, jar: &Jar) -> String {
    [issuer, client, jar.name()].join("\0")
}

/// The cookie of a session that began at `now`, since the Unix epoch, and goes on for a day: as `NAME=VALUE`, for the benchmarks. The secret is the one of
/// the policy, so that nobody can do with it what they could not do anyway.
#[doc(hidden)]
pub fn session_cookie(secret: &[u8], issuer: &str, client: &str, now: Duration) -> Option<String> {
    let jar = Jar::new("session");
    let seals = Seals::new(&[secret], &context(issuer, client, &jar))?;
    let claims = serde_json::json!({ "iss": issuer, "aud": client, "sub": "bench", "groups": ["staff"] }).to_string();
    let until = now + Duration::from_secs(86_400);
    let session = Session {
        name: Session::name(&[7; SESSION_NAME]),
        id_token: format!("e30.{}.AA", data_encoding::BASE64URL_NOPAD.encode(claims.as_bytes())).into(),
        nonce: "n".into(),
        scope: None,
        access_token: None,
        refresh_token: None,
        renewed: now,
        due: until,
        until,
    };
    let sealed = seals.seal(Purpose::Session, [7; NONCE], &session.write())?;
    let Written(cookie) = jar.keep(&Request::new(), &sealed, 60)?.into_iter().next()?;
    let text = String::from_utf8(cookie.into_vec()).ok()?;
    text.split(';').next().map(str::to_owned)
}
