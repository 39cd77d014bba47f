//! One login under way: what the browser carries from us through the provider and back.
//!
//! State, nonce and code verifier are made of random bytes that the caller gives. State ties the answer of the provider to this browser (RFC
//! 6749 section 10.12), the nonce ties its token to this login (OpenID Connect Core 1.0 section 3.1.2.1), the verifier ties the code to us
//! (RFC 7636).

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

/// How many random bytes a login needs.
pub(crate) const FLOW_RANDOM: usize = 16 + 16 + 32;

/// The longest target that is gone back to, in bytes.
const MOST_BACK: usize = 2048;

/// A login under way. Never shown.
pub(crate) struct Flow {
    pub(crate) state: String,
    pub(crate) nonce: String,
    pub(crate) verifier: String,
    /// Where the browser wanted to go: a path of this site, and a query.
    pub(crate) back: String,
    /// When it began, since the Unix epoch.
    pub(crate) begun: Duration,
}

impl Flow {
    /// A login that begins, for a browser that wants to go to `back`.
    pub(crate) fn begin(random: &[u8; FLOW_RANDOM], back: &[u8], now: Duration) -> Flow {
        let (state, rest) = random.split_at(16);
        let (nonce, verifier) = rest.split_at(16);
        let encode = |bytes| BASE64URL_NOPAD.encode(bytes);
        Flow {
            state: encode(state),
            nonce: encode(nonce),
            verifier: encode(verifier),
            back: of_this_site(back),
            begun: now,
        }
    }

    /// Whether the provider has sent back this very login. In constant time.
    pub(crate) fn is_answered_by(&self, state: &str) -> bool {
        verify_slices_are_equal(self.state.as_bytes(), state.as_bytes()).is_ok()
    }

    /// As it is sealed.
    pub(crate) fn write(&self) -> Vec<u8> {
        let Flow { state, nonce, verifier, back, begun } = self;
        json!([state, nonce, verifier, back, begun.as_secs()]).to_string().into_bytes()
    }

    /// What was sealed.
    pub(crate) fn read(bytes: &[u8]) -> Option<Flow> {
        let Value::Array(parts) = serde_json::from_slice(bytes).ok()? else { return None };
        let [state, nonce, verifier, back, begun] = parts.as_slice() else { return None };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Flow {
            state: text(state)?,
            nonce: text(nonce)?,
            verifier: text(verifier)?,
            back: text(back)?,
            begun: Duration::from_secs(begun.as_u64()?),
        })
    }
}

/// The code challenge of a verifier, by the method S256 (RFC 7636 section 4.2).
pub(crate) fn challenge(verifier: &str) -> String {
    BASE64URL_NOPAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()).as_ref())
}

/// A target of this site, or else its first page: `//host` and `/\host` mean another site to a browser, and neither spaces nor control
/// characters belong into a `Location`.
pub(crate) fn of_this_site(target: &[u8]) -> String {
    let is_here = match target {
        [b'/'] => true,
        [b'/', second, ..] => !matches!(second, b'/' | b'\\'),
        _ => false,
    };
    if !is_here || target.len() > MOST_BACK || !target.iter().all(|byte| byte.is_ascii_graphic()) {
        return "/".to_owned();
    }
    String::from_utf8_lossy(target).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let random = std::array::from_fn(|at| at as u8);
        let flow = Flow::begin(&random, b"/cart?page=2", Duration::from_secs(7));
        let read = Flow::read(&flow.write()).expect("a flow");
        assert!(read.is_answered_by(&flow.state) && !read.is_answered_by(&flow.nonce));
        assert_eq!((read.back.as_str(), read.begun.as_secs()), ("/cart?page=2", 7));
        assert_eq!(read.verifier, flow.verifier);
        assert_eq!((flow.state.len(), flow.verifier.len()), (22, 43), "RFC 7636 asks for 43 characters at least");
    }

    #[test]
    fn the_challenge_is_that_of_the_rfc() {
        // RFC 7636 appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(challenge(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn nobody_is_sent_to_another_site() {
        for away in ["//evil.test", "/\\evil.test", "https://evil.test/", "evil", "", "/a b", "/a\nb", "/\u{e9}"] {
            assert_eq!(of_this_site(away.as_bytes()), "/", "{away:?}");
        }
        for here in ["/", "/a//b", "/?next=//evil.test", "/a?b=c%20d"] {
            assert_eq!(of_this_site(here.as_bytes()), here);
        }
        assert_eq!(of_this_site(format!("/{}", "a".repeat(3000)).as_bytes()), "/");
    }
}
