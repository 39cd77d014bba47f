//! Back-channel logout (OpenID Connect Back-Channel Logout 1.0): the provider tells the site, without the browser, that somebody has logged out.
//!
//! The message is a token, signed by the provider's keys, about one session (`sid`) or about all of a person (`sub`). Sessions are in cookies,
//! so what is remembered is that they were given up, and when: one whose ID token is no younger is good for nothing, and a login that comes
//! later is. The provider is told that it was understood when that is stored: it says it once, and the cookies outlive this process. Nobody but the
//! provider can fill the memory.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use transept_wire::head::{FieldId, FieldName};

use super::super::jwt::not_yet;
use super::super::scheme::{Later, Proof};
use super::super::verified::{Hash, hash};
use super::{LoginScheme, failed, fruitless};
use crate::callout::{Callout, CalloutResult, Wait};
use crate::document::{Occasion, Sought};
use crate::exchange::Exchange;
use crate::form;
use crate::jose::{Claims, Expectations, Expiry, KeySet, Refusal, Token};
use crate::login::ended::{End, Ticket};
use crate::principal::Principal;
use crate::reason::Reason;
use crate::redact::{is_named, parameters};
use crate::verdict::Reply;

/// The member of `events` that makes a token one of logout (section 2.4).
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// The longest message that is read, in bytes.
const MOST_MESSAGE: usize = 32 * 1024;
/// How long a message may have been under way.
const OLDEST: Duration = Duration::from_secs(600);
/// How long the provider waits at most for what it has said to be stored.
const PATIENCE_WITH_DISK: Duration = Duration::from_secs(5);
/// What claims are about: a session, and a person.
fn subjects(claims: &Claims) -> impl Iterator<Item = Hash> + '_ {
    let of =
        |name: &str| claims.get(name).and_then(Value::as_str).map(|value| hash(format!("{name} {value}").as_bytes()));
    ["sid", "sub"].into_iter().filter_map(of)
}

/// A message that is read.
#[derive(Default)]
pub(super) struct Message {
    token: Option<String>,
    /// Whether the description of the provider was asked for, for its sake.
    described: bool,
    /// Whether its keys were.
    sought: Option<Duration>,
    /// What it says is known, and is being stored.
    storing: Option<Ticket>,
}

impl LoginScheme {
    /// Somebody says that he is the provider.
    pub(super) fn hear(&self, x: &Exchange<'_>) -> Proof {
        let is_browser = x.request.fields.iter().any(|(name, _)| name.bytes.eq_ignore_ascii_case(b"sec-fetch-site"));
        if is_browser {
            // Any page could make it come here, so nobody is blamed for it.
            return fruitless("a browser has sent it, and no provider", "This place is for the provider.");
        }
        Proof::Ask(Box::new(Callout::Body { most: MOST_MESSAGE }), Box::new(Message::default()))
    }

    /// Goes on with what came of the last step.
    pub(super) fn hear_on(&self, mut message: Message, result: CalloutResult, x: &mut Exchange<'_>) -> Proof {
        if let Some(ticket) = message.storing {
            return match self.logouts.stored().is_stored(ticket) {
                true => heard(),
                // Known here all the same. The provider may say it again.
                false => Proof::Unavailable("the logout cannot be stored (see --quotas)".into()),
            };
        }
        match result {
            CalloutResult::Body(content) => message.token = logout_token(&content),
            CalloutResult::BodyTooLarge => return no_good("the message is longer than 32 KiB"),
            CalloutResult::Failed(why) => return Proof::Unavailable(why),
            CalloutResult::Assumed => {
                x.tell(|| {
                    format!("scheme {}: the message of the provider is not read here, and taken to be good", self.name)
                });
                return heard();
            }
            _ => {}
        }
        let Some(token) = message.token.as_deref() else {
            return no_good("there is not exactly one `logout_token`");
        };
        let Some(content) = self.provider.content(x.now.monotonic) else {
            if !message.described && self.provider.may_help(&Occasion::Due, x.now.monotonic) {
                message.described = true;
                return self.wait_for_keys(message, Occasion::Due);
            }
            return Proof::Unavailable("the keys of the provider are not known".into());
        };
        match self.believe_logout(token, &content.keys, x.now.unix) {
            Ok(claims) => {
                let at = claims.get("iat").and_then(Value::as_u64).map_or(x.now.unix, Duration::from_secs);
                // One about a session says nothing of the others of the person.
                let end = End { at, until: x.now.unix + self.logouts.longest() };
                let ticket = subjects(&claims).next().and_then(|subject| self.logouts.note(subject, end, x.now.unix));
                self.provider.judge_again();
                x.tell(|| format!("scheme {}: the provider has logged somebody out", self.name));
                ticket.map_or_else(heard, |ticket| self.wait_for_disk(message, ticket))
            }
            Err((refusal, Some(kid))) => {
                let occasion = Occasion::UnknownKey(kid);
                match self.provider.look(&occasion, message.sought, x.now.monotonic) {
                    Sought::Fetch => {
                        message.sought = Some(x.now.monotonic);
                        self.wait_for_keys(message, occasion)
                    }
                    Sought::Absent => no_good(&refusal.why()),
                    Sought::Failed(why) => Proof::Unavailable(format!("newer keys of the provider: {why}").into()),
                    // The provider says it again, and whoever has made it up has shown nothing of a client's.
                    Sought::Later { wait, .. } => {
                        Proof::Later(not_yet(&refusal, &self.provider, wait).into(), Later { wait, is_guess: false })
                    }
                }
            }
            Err((refusal, None)) => no_good(&refusal.why()),
        }
    }

    fn wait_for_disk(&self, message: Message, ticket: Ticket) -> Proof {
        let until = self.logouts.stored().stored(ticket);
        let wait = Wait { what: "the logout to be stored", until, timeout: PATIENCE_WITH_DISK };
        Proof::Ask(Box::new(Callout::Wait(wait)), Box::new(Message { storing: Some(ticket), ..message }))
    }

    fn wait_for_keys(&self, message: Message, occasion: Occasion) -> Proof {
        let callout = Callout::Refresh { document: Arc::clone(&self.provider), occasion };
        Proof::Ask(Box::new(callout), Box::new(message))
    }

    /// What a message says that is genuine, for us, and about a logout (section 2.6). With a refusal, the key that may be a new one.
    fn believe_logout(&self, text: &str, keys: &KeySet, now: Duration) -> Result<Claims, (Refusal, Option<Box<str>>)> {
        let plain = |refusal: Refusal| (refusal, None);
        let refuse = |why: &'static str| Err((Refusal::Claims(why.into()), None));
        let token = Token::parse(text.as_bytes()).map_err(plain)?;
        // Older providers give it no kind of its own. An ID token is none by what it says.
        if !matches!(token.kind(), None | Some("jwt" | "logout+jwt")) {
            return refuse("the token is of another kind (`typ`)");
        }
        let payload = token.verify(keys, self.allowed).map_err(|refusal| match (&refusal, token.kid()) {
            (Refusal::UnknownKey, Some(kid)) => (refusal, Some(kid.into())),
            _ => (refusal, None),
        })?;
        let claims = Token::claims(payload).map_err(plain)?;
        let expected = Expectations {
            kinds: Vec::new(),
            max_age: Some(OLDEST),
            expiry: Expiry::Optional,
            required: Vec::new(),
            ..self.expected.clone()
        };
        expected.check(&claims, now).map_err(plain)?;
        if claims.contains_key("nonce") {
            return refuse("the token has a `nonce`, so it is an ID token");
        }
        if !claims.get("events").and_then(|events| events.get(EVENT)).is_some_and(Value::is_object) {
            return refuse("the token is not about a logout (`events`)");
        }
        if subjects(&claims).next().is_none() {
            return refuse("the token does not say who has logged out (`sid`, `sub`)");
        }
        Ok(claims)
    }

    /// Whether a session was given up: by its browser, or as the provider says.
    pub(super) fn has_ended(&self, principal: &Principal, now: Duration) -> bool {
        let name = principal.credential.as_deref().unwrap_or_default();
        self.ended.find(&hash(name.as_bytes()), now).is_some() || self.has_logged_out(&principal.claims, now)
    }

    /// Whether the provider has told that a session with these claims in its ID token was given up.
    fn has_logged_out(&self, claims: &Claims, now: Duration) -> bool {
        let issued = claims.get("iat").and_then(Value::as_u64).map_or(Duration::ZERO, Duration::from_secs);
        // What cannot be read may say so.
        let unread = self.logouts.stored().unread_since().filter(|_| self.places.back_channel.is_some());
        unread.is_some_and(|since| issued <= since)
            || subjects(claims).any(|subject| self.logouts.find(&subject, now).is_some_and(|end| issued <= end.at))
    }
}

/// The token in a form (RFC 1866 section 8.2.1). None when it is there twice: nobody could say which is meant.
fn logout_token(content: &[u8]) -> Option<String> {
    let mut found = parameters(content).filter(|(name, _)| is_named(name, "logout_token"));
    let (_, value) = found.next()?;
    let text = found.next().is_none().then(|| form::decoded(value, |text| String::from_utf8(text.to_vec()).ok()));
    text.flatten()
}

/// The provider is told that it was understood (section 2.8).
fn heard() -> Proof {
    let reply = Reply::new(Reason::LoggedOut).with_status(200).without_body();
    Proof::Answer(Box::new(reply.with_field(FieldName::known(FieldId::CACHE_CONTROL), "no-store")))
}

/// It is none of the provider's messages, which counts as a failure of who has sent it.
fn no_good(why: &str) -> Proof {
    failed(&format!("the logout of the provider: {why}"), "This is no message of the provider about a logout.")
}
