//! Sessions of browsers that have logged in at an OpenID provider: what is in their cookies, and how cookies are read and written.
//!
//! Used by the scheme `login` of `AuthenticationPolicy`, which knows the protocol. No session is stored anywhere: all of it is in the
//! browser, sealed, so that any proxy with the same secret knows it, and none loses it in a restart.

mod cookies;
mod flow;
mod seal;
mod session;

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
