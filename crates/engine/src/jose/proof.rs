//! Proofs of possession (DPoP, RFC 9449): a JWT that a client makes for one request, signed by a key that stands in it. Such a proof says only that whoever
//! has sent it has the key; whose that is says the token that names the key by its thumbprint.

use std::time::Duration;

use serde_json::Value;

use super::jwk::{Key, thumbprint};
use super::{Algorithm, Claims, Refusal, Token};

/// A proof whose signature is good by its own key.
#[derive(Debug)]
pub struct PossessionProof {
    /// The thumbprint of the key (RFC 7638), in base64url.
    pub thumbprint: String,
    claims: Claims,
}

impl PossessionProof {
    /// Reads a proof and verifies it by the key in it (RFC 9449 section 4.3, steps 2 to 7).
    ///
    /// # Errors
    /// When it is none.
    pub fn read(text: &[u8]) -> Result<PossessionProof, Refusal> {
        let malformed = |why: &'static str| Refusal::Malformed(why.into());
        let (token, header) = Token::parse_with_header(text)?;
        if token.kind() != Some("dpop+jwt") {
            return Err(malformed("its `typ` is not dpop+jwt"));
        }
        let Some(Value::Object(members)) = header.get("jwk") else {
            return Err(malformed("it holds no key (`jwk`)"));
        };
        let key = Key::parse(members).map_err(|why| Refusal::Malformed(format!("the key in it: {why}").into()))?;
        if token.algorithm().is_symmetric() || !key.fits(token.algorithm()) {
            return Err(Refusal::Algorithm);
        }
        let claims = Token::claims(token.verify_by(&key)?)?;
        Ok(PossessionProof { thumbprint: thumbprint(members), claims })
    }

    /// What a claim of it says, when it is text that is not empty.
    ///
    /// # Errors
    /// When it is not.
    pub fn text(&self, claim: &str) -> Result<&str, String> {
        let text = self.claims.get(claim).and_then(Value::as_str).filter(|text| !text.is_empty());
        text.ok_or_else(|| format!("it has no `{claim}`"))
    }

    /// When it was made, since the Unix epoch.
    ///
    /// # Errors
    /// When it does not say.
    pub fn made(&self) -> Result<Duration, String> {
        let seconds = self.claims.get("iat").and_then(Value::as_u64);
        seconds.map(Duration::from_secs).ok_or_else(|| "it does not say when it was made (`iat`)".to_owned())
    }

    /// The algorithms that proofs may be signed by, as a challenge names them.
    pub fn algorithms() -> String {
        let names: Vec<&str> =
            Algorithm::ALL.into_iter().filter(|one| !one.is_symmetric()).map(Algorithm::as_str).collect();
        names.join(" ")
    }
}
