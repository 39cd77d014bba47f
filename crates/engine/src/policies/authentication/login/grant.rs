//! What a provider's answers are worth: tokens for a code or a refresh token, held against what was asked (OpenID Connect Core 1.0 sections
//! 3.1.3.7 and 12.2).

use std::time::Duration;

use aws_lc_rs::digest;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use super::{AccessToken, LoginScheme};
use crate::callout::Answer;
use crate::jose::{Algorithm, Claims, KeySet, Refusal, Token, parse_json};
use crate::login::Session;

/// How long tokens are good when nobody says so.
const USUALLY: Duration = Duration::from_secs(3600);

/// Why an answer is no session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The provider refuses: the code or the refresh token is no good, or what came for it is not what was asked for.
    Refused(Box<str>),
    /// The provider cannot say it at present, or not to us.
    Unavailable(Box<str>),
    /// The ID token is signed by a key that is not known yet.
    UnknownKey(Box<str>),
}

/// What was asked for.
pub(super) struct Asked<'s> {
    /// The nonce of the login.
    pub(super) nonce: &'s str,
    /// The session that is renewed; none when it begins.
    pub(super) known: Option<&'s Session>,
    /// The name of a session that begins.
    pub(super) name: Box<str>,
}

impl LoginScheme {
    /// The session that an answer of the token endpoint makes.
    pub(super) fn judge(
        &self,
        answer: &Answer,
        asked: Asked<'_>,
        keys: &KeySet,
        now: Duration,
    ) -> Result<Session, Trouble> {
        let said = read(answer)?;
        let text = |name: &str| said.get(name).and_then(Value::as_str);
        let kind = text("token_type").unwrap_or("Bearer");
        if !kind.eq_ignore_ascii_case("bearer") {
            return Err(refused("the access token is not a bearer token"));
        }
        let (id_token, expires) = match (text("id_token"), asked.known) {
            (Some(token), known) => {
                let claims = self.believe(token, asked.nonce, known, text("access_token"), keys, now)?;
                (token, claims.get("exp").and_then(Value::as_u64))
            }
            (None, Some(known)) => (&*known.id_token, None),
            (None, None) => return Err(refused("the provider sent no ID token")),
        };
        let lifetime = match (said.get("expires_in").and_then(Value::as_u64), expires) {
            (Some(seconds), _) => Duration::from_secs(seconds.min(u64::from(u32::MAX))),
            (None, Some(expires)) => Duration::from_secs(expires).saturating_sub(now),
            (None, None) => USUALLY,
        };
        let begun = now + self.lifetime;
        let kept = |name: &str, before: fn(&Session) -> Option<&str>| {
            text(name).or(asked.known.and_then(before)).map(Box::from)
        };
        let access_token = match self.access_token {
            AccessToken::HandedOn => text("access_token").map(Box::from),
            AccessToken::Dropped => None,
        };
        let session = Session {
            name: asked.known.map_or(asked.name, |known| known.name.clone()),
            id_token: id_token.into(),
            nonce: asked.nonce.into(),
            // A provider that says nothing has granted what was asked for (RFC 6749 section 5.1).
            scope: kept("scope", |session| session.scope.as_deref()).or_else(|| Some(self.scope.clone())),
            access_token,
            // A provider that does not replace it means it to be used again (RFC 6749 section 6).
            refresh_token: kept("refresh_token", |session| session.refresh_token.as_deref()),
            renewed: now,
            due: now + lifetime,
            until: asked.known.map_or(begun, |known| known.until),
        };
        if now >= session.ends() {
            return Err(refused("the tokens of the provider have ended already"));
        }
        Ok(session)
    }

    /// The claims of an ID token that is genuine, for us, and of this login.
    fn believe(
        &self,
        text: &str,
        nonce: &str,
        known: Option<&Session>,
        access_token: Option<&str>,
        keys: &KeySet,
        now: Duration,
    ) -> Result<Claims, Trouble> {
        let no_good = |refusal: Refusal| refused(&format!("the ID token: {}", refusal.why()));
        let token = Token::parse(text.as_bytes()).map_err(no_good)?;
        // An access token is none, though it is signed by the same key (RFC 9068 section 2.1).
        if token.kind() == Some("at+jwt") {
            return Err(refused("the ID token is an access token (`typ`)"));
        }
        self.expected.check_kind(token.kind()).map_err(no_good)?;
        let payload = token.verify(keys, self.allowed).map_err(|refusal| match (refusal, token.kid()) {
            (Refusal::UnknownKey, Some(kid)) => Trouble::UnknownKey(kid.into()),
            (refusal, _) => no_good(refusal),
        })?;
        let claims = Token::claims(payload).map_err(no_good)?;
        // It has just come from the provider itself. When a session is renewed, a clock that is wrong, ours or its, ends no session.
        let issued = claims.get("iat").and_then(Value::as_u64).map(Duration::from_secs);
        let at = issued.filter(|_| known.is_some()).unwrap_or(now);
        self.expected.check(&claims, at).map_err(no_good)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let has_several = claims.get("aud").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
        match text("azp") {
            Some(party) if *party != *self.client_id => {
                return Err(refused("the ID token was issued to another client (`azp`)"));
            }
            None if has_several => {
                return Err(refused("the ID token is for several, and does not say for whom first (`azp`)"));
            }
            _ => {}
        }
        match (text("nonce"), known) {
            (Some(said), _) if said == nonce => {}
            // Newer ones need not repeat it.
            (None, Some(_)) => {}
            _ => return Err(refused("the ID token is of another login (`nonce`)")),
        }
        if let Some(known) = known
            && known.claims().is_none_or(|before| before.get("sub") != claims.get("sub"))
        {
            return Err(refused("the newer ID token is about somebody else (`sub`)"));
        }
        if let (Some(hash), Some(access_token)) = (text("at_hash"), access_token)
            && half_hash(token.algorithm(), access_token).is_some_and(|expected| expected != hash)
        {
            return Err(refused("the access token is not the one of the ID token (`at_hash`)"));
        }
        Ok(claims)
    }
}

/// The members of an answer that says yes.
fn read(answer: &Answer) -> Result<Map<String, Value>, Trouble> {
    let members = match parse_json(&answer.body) {
        Ok(Value::Object(members)) => Some(members),
        _ => None,
    };
    let error = members.as_ref().and_then(|all| all.get("error")).and_then(Value::as_str).map(str::to_owned);
    match (answer.status, error.as_deref(), members) {
        (200, None, Some(members)) => Ok(members),
        (200, ..) => Err(Trouble::Unavailable("the provider's answer cannot be understood".into())),
        (401, ..) | (_, Some("invalid_client" | "unauthorized_client"), _) => {
            Err(Trouble::Unavailable("the provider refuses our own client credentials".into()))
        }
        // Only this says that what we have shown is no good (RFC 6749 section 5.2); others are about the moment, or about us.
        (400..=499, Some(error @ "invalid_grant"), _) => Err(refused(&format!("the provider answers {error}"))),
        (400..=499, Some(error), _) => {
            Err(Trouble::Unavailable(format!("the provider answers {}", word(error)).into()))
        }
        (status, ..) => Err(Trouble::Unavailable(format!("the provider answers with status {status}").into())),
    }
}

fn refused(why: &str) -> Trouble {
    Trouble::Refused(why.into())
}

/// An error code of RFC 6749, for logs; what is none is not repeated.
pub(super) fn word(error: &str) -> &str {
    let is_word =
        (1..=64).contains(&error.len()) && error.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if is_word { error } else { "with an error" }
}

/// OpenID Connect Core 1.0 section 3.1.3.6: the left half of the hash that the signature uses. None for algorithms with none of their own.
fn half_hash(algorithm: Algorithm, access_token: &str) -> Option<String> {
    let hash = match algorithm {
        Algorithm::RS256 | Algorithm::PS256 | Algorithm::ES256 => &digest::SHA256,
        Algorithm::RS384 | Algorithm::PS384 | Algorithm::ES384 => &digest::SHA384,
        Algorithm::RS512 | Algorithm::PS512 | Algorithm::ES512 => &digest::SHA512,
        _ => return None,
    };
    let whole = digest::digest(hash, access_token.as_bytes());
    let half = whole.as_ref().get(..whole.as_ref().len() / 2)?;
    Some(BASE64URL_NOPAD.encode(half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_token_is_that_of_the_standard() {
        // OpenID Connect Core 1.0 appendix A.4.
        let token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
        assert_eq!(half_hash(Algorithm::RS256, token).as_deref(), Some("77QmUPtjPfzWtF2AnpK9RQ"));
    }

    #[test]
    fn what_is_no_error_code_is_not_repeated() {
        assert_eq!(word("access_denied"), "access_denied");
        for other in ["", "a\nb", "<script>", &"a".repeat(65)] {
            assert_eq!(word(other), "with an error");
        }
    }
}
