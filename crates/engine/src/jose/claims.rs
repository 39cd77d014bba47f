//! What a genuine token says, held against what is expected: by whom, for whom, when (RFC 7519 section 4.1, RFC 8725 section 3).
//!
//! Called with claims whose signature was verified, and with those that an introspection endpoint vouches for. Time is an argument.

use std::time::Duration;

use serde_json::{Map, Value};

use super::Refusal;

/// Claims by name.
pub type Claims = Map<String, Value>;

/// What is expected of a token.
#[derive(Clone, Debug)]
pub struct Expectations {
    /// The exact `iss`. Without one, anybody's; only where somebody else vouches for the claims.
    pub issuer: Option<Box<str>>,
    /// `aud` must hold one of these. None expects nothing.
    pub audiences: Option<Vec<Box<str>>>,
    /// `azp` must be one of these. Empty expects nothing.
    pub parties: Vec<Box<str>>,
    /// The kind of token (`typ` in its header, in lower case and without `application/`). Empty allows those that say nothing, `jwt` and
    /// `at+jwt`: a token of another kind was made for something else (RFC 8725 section 3.11).
    pub kinds: Vec<Box<str>>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// How long ago `iat` may be.
    pub max_age: Option<Duration>,
    /// Whether `exp` must be there.
    pub expiry: Expiry,
    /// What else must be there.
    pub required: Vec<WantedClaim>,
}

/// Whether a token must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It must say when.
    Required,
    /// One that does not say is good for ever.
    Optional,
}

/// A claim that must be there.
#[derive(Clone, Debug)]
pub struct WantedClaim {
    /// Its path, such as `realm_access.roles`.
    pub path: Box<str>,
    /// It, or an item of it, must be one of these. Empty: anything but null will do.
    pub values: Vec<Box<str>>,
}

/// For how long a token is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Time since the Unix epoch from which on it is not good any more, leeway included. None: for ever.
    pub until: Option<Duration>,
}

impl Expectations {
    /// Holds the kind of a token against what is expected.
    ///
    /// # Errors
    /// When it was made for something else.
    pub fn check_kind(&self, kind: Option<&str>) -> Result<(), Refusal> {
        let is_good = match (self.kinds.as_slice(), kind) {
            ([], None | Some("jwt" | "at+jwt")) => true,
            (kinds, Some(kind)) => kinds.iter().any(|one| **one == *kind),
            (_, None) => false,
        };
        if is_good { Ok(()) } else { refuse("the token is of another kind (`typ`)") }
    }

    /// Holds the claims of a token against what is expected at `now`, the time since the Unix epoch.
    ///
    /// # Errors
    /// The first thing that is not as expected.
    pub fn check(&self, claims: &Claims, now: Duration) -> Result<Validity, Refusal> {
        if let Some(issuer) = &self.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return refuse("the token is by another issuer (`iss`)");
        }
        self.check_audience(claims)?;
        let validity = self.check_times(claims, now)?;
        if !self.parties.is_empty() {
            let party = claims.get("azp").and_then(Value::as_str);
            if !party.is_some_and(|party| self.parties.iter().any(|one| **one == *party)) {
                return refuse("the token was issued to another client (`azp`)");
            }
        }
        self.check_required(claims)?;
        Ok(validity)
    }

    /// Holds only those claims against what is expected that are required besides the usual ones.
    ///
    /// # Errors
    /// The first that is not as required.
    pub fn check_required(&self, claims: &Claims) -> Result<(), Refusal> {
        match self.required.iter().find(|wanted| !wanted.is_met(claims)) {
            Some(wanted) => Err(Refusal::Claims(format!("the claim `{}` is not as required", wanted.path).into())),
            None => Ok(()),
        }
    }

    fn check_audience(&self, claims: &Claims) -> Result<(), Refusal> {
        let Some(wanted) = &self.audiences else { return Ok(()) };
        let is_ours = |one: &Value| one.as_str().is_some_and(|one| wanted.iter().any(|ours| **ours == *one));
        let is_for_us = match claims.get("aud") {
            None => return refuse("the token names no audience (`aud`)"),
            // RFC 7519 section 4.1.3: a text or a list of texts; anything else means nothing.
            Some(Value::Array(all)) => all.iter().all(Value::is_string) && all.iter().any(is_ours),
            Some(one) => is_ours(one),
        };
        if is_for_us { Ok(()) } else { refuse("the token is for another audience (`aud`)") }
    }

    fn check_times(&self, claims: &Claims, now: Duration) -> Result<Validity, Refusal> {
        let (expires, begins, issued) = (date(claims, "exp")?, date(claims, "nbf")?, date(claims, "iat")?);
        let mut until = match (expires, self.expiry) {
            (None, Expiry::Required) => return refuse("the token does not say when it ends (`exp`)"),
            (None, Expiry::Optional) => None,
            (Some(expires), _) => Some(expires.saturating_add(self.leeway)),
        };
        if until.is_some_and(|until| now >= until) {
            return Err(Refusal::Expired);
        }
        let soon = now.saturating_add(self.leeway);
        if begins.is_some_and(|begins| soon < begins) {
            return refuse("the token is not good yet (`nbf`)");
        }
        if issued.is_some_and(|issued| soon < issued) {
            return refuse("the token was issued in the future (`iat`)");
        }
        if let Some(max_age) = self.max_age {
            let Some(issued) = issued else {
                return refuse("the token does not say when it was issued (`iat`)");
            };
            let ends = issued.saturating_add(max_age).saturating_add(self.leeway);
            if now >= ends {
                return refuse("the token is too old (`iat`)");
            }
            until = Some(until.map_or(ends, |until| until.min(ends)));
        }
        Ok(Validity { until })
    }
}

impl WantedClaim {
    fn is_met(&self, claims: &Claims) -> bool {
        let Some(found) = crate::principal::claim(claims, &self.path).filter(|found| !found.is_null()) else {
            return false;
        };
        let is_one = |value: &Value| self.values.iter().any(|one| matches(value, one));
        match found {
            _ if self.values.is_empty() => true,
            Value::Array(all) => all.iter().any(is_one),
            one => is_one(one),
        }
    }
}

fn matches(value: &Value, text: &str) -> bool {
    match value {
        Value::String(value) => value == text,
        Value::Bool(value) => text == if *value { "true" } else { "false" },
        Value::Number(value) => value.to_string() == text,
        _ => false,
    }
}

fn refuse<T>(why: &'static str) -> Result<T, Refusal> {
    Err(Refusal::Claims(why.into()))
}

/// A NumericDate (RFC 7519 section 2): seconds since the Unix epoch, perhaps with a fraction.
fn date(claims: &Claims, name: &str) -> Result<Option<Duration>, Refusal> {
    /// The year 9999. What is later is a mistake, or an attempt to overflow somebody's arithmetic.
    const LAST: f64 = 253_402_300_799.0;
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(seconds) if (0.0..=LAST).contains(&seconds) => Ok(Some(Duration::from_secs_f64(seconds))),
            _ => Err(Refusal::Claims(format!("the claim `{name}` is no time").into())),
        },
        Some(_) => Err(Refusal::Claims(format!("the claim `{name}` is no time").into())),
    }
}

/// The names in a claim: an item each of a list of texts, or the words of a text (as RFC 8693 section 4.2 writes scopes).
pub fn names(claims: &Claims, path: &str) -> Vec<Box<str>> {
    match crate::principal::claim(claims, path) {
        Some(Value::String(words)) => words.split_ascii_whitespace().map(Box::from).collect(),
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(Box::from).collect(),
        _ => Vec::new(),
    }
}
