//! The scheme `login`: browsers that log in at an OpenID provider and have a session afterwards (OpenID Connect Core 1.0 section 3.1).
//!
//! Authorization code with PKCE. The session is in a sealed cookie, nowhere else (`crate::login`); its tokens are renewed ahead of their
//! end, once for all requests that come meanwhile, by the refresh token: whoever shows an older cookie finds what became of it. Who has no session is sent to the provider when it is a browser that opens a page; everybody
//! else gets 401, because a program cannot log in. `errand` is what needs the provider: beginning, completing and renewing; `grant` is
//! what the provider's answers are worth.
//!
//! A session that is no good is no credential at all, instead of a wrong one: browsers show what they have been given, on every
//! request, and cannot be blamed for a cookie that has become old.

mod back_channel;
mod browser;
mod errand;
mod given_up;
mod grant;
mod spec;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use transept_model::schema::Text;
use transept_wire::head::{FieldId, FieldName, Method, Request};
use transept_wire::normalize;

use super::super::CompileCx;
use super::claims::{ClaimNames, TokenOwner, principal};
use super::client::Client;
use super::exhibits::Exhibit;
use super::flights::Flights;
use super::jwt;
use super::scheme::{Fault, Proof, Scheme};
use super::verified::{self, Hash, Verified};
use crate::callout::{Callout, CalloutResult, Receiver};
use crate::document::Document;
use crate::exchange::Exchange;
use crate::jose::{Algorithms, Claims, Expectations, Expiry};
use crate::login::ended::End;
use crate::login::{Flow, Handed, Jar, Purpose, Seals, Session, Written, of_this_site};
use crate::principal::{Principal, StoredMark};
use crate::reason::Reason;
use crate::redact::CredentialPlaces;
use crate::verdict::Reply;

use back_channel::Message;
use browser::{is_opening_a_page, is_own_will, parameter, parameter_text};
use errand::{Came, Errand, Progress};
use given_up::GivenUp;
pub(super) use spec::LoginSpec;

/// Sessions that are remembered open. One of the largest, with all of its cookies full, takes about 40 KiB; a usual one a tenth of that.
const MOST_OPEN: usize = 2048;
/// Sessions that came out of each other and are followed to the newest, at most.
const MOST_FOLLOWED: usize = 64;
/// How long a login may take: the browser forgets it then.
const PATIENCE: Duration = Duration::from_secs(600);

/// The compiled scheme.
#[derive(Debug)]
pub(super) struct LoginScheme {
    name: Box<str>,
    issuer: Box<str>,
    provider: Arc<Document>,
    client_id: Box<str>,
    client: Client,
    places: Places,
    /// The part of the query to the authorization endpoint that is always the same.
    query: Box<str>,
    /// What is asked for in it.
    scope: Box<str>,
    jar: Jar,
    seals: Seals,
    lifetime: Duration,
    /// Whom sessions are by, and for.
    vouches: StoredMark,
    expected: Expectations,
    allowed: Algorithms,
    claims: ClaimNames,
    access_token: AccessToken,
    timeout: Duration,
    memory: Arc<Memory>,
    /// The sessions that browsers have given up, by the hash of their name.
    ended: Arc<GivenUp>,
    /// The logouts that the provider has told of.
    logouts: Arc<GivenUp>,
}

/// The places of the site that mean something here.
#[derive(Debug)]
struct Places {
    /// Where the provider sends browsers back to: the whole URL.
    redirect_url: Box<str>,
    /// Its path.
    callback: Box<str>,
    /// Its scheme and authority.
    site: Box<str>,
    /// Its host, in lower case.
    host: Box<str>,
    login: Option<Box<str>>,
    logout: Box<str>,
    after_logout: Box<str>,
    /// Where the provider says that somebody has logged out.
    back_channel: Option<Box<str>>,
}

/// What becomes of the access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AccessToken {
    Dropped,
    /// The backend gets it.
    HandedOn,
}

/// What is remembered of sessions and of what the provider has said.
#[derive(Debug)]
struct Memory {
    /// By the hash of the cookie.
    open: Verified<Opened>,
    /// By the hash of the refresh token.
    renewals: Verified<Renewal>,
    /// By the hash of the refresh token, or of the state of a login.
    answers: Verified<Came>,
    flights: Arc<Flights>,
}

impl Memory {
    /// What has come of renewing a session, if that is known. Where the provider keeps its refresh token, the newer session is kept under the same key.
    fn renewal_of(&self, opened: &Opened, now: Duration) -> Option<Arc<Renewal>> {
        let is_it = |newer: &Opened| newer.key == opened.key && newer.session.due <= opened.session.due;
        // A provider may give one refresh token to several sessions of somebody.
        let is_of_another = |newer: &Opened| newer.session.name != opened.session.name;
        let renewal = self.renewals.find(&opened.key?, 0, now)?;
        match &*renewal {
            Renewal::Renewed(newer, _) if is_it(newer) || is_of_another(newer) => None,
            _ => Some(renewal),
        }
    }
}

/// A session whose cookie was opened.
#[derive(Debug)]
struct Opened {
    session: Session,
    principal: Arc<Principal>,
    /// The hash of its refresh token.
    key: Option<Hash>,
}

/// What has come of renewing a session, for requests that still show an older cookie.
#[derive(Debug)]
enum Renewal {
    Renewed(Arc<Opened>, Vec<Written>),
    /// The provider does not want it any more.
    Ended,
}

/// What a request is about.
enum Page {
    Callback,
    Login,
    Logout,
    BackChannel,
    Any,
}

impl Scheme for LoginScheme {
    type Spec = LoginSpec;
    const IS_AMBIENT: bool = true;

    fn compile(name: &Text, spec: &LoginSpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let provider = jwt::provider(spec.at, &spec.issuer, Some(&spec.whereabouts()), cx)?;
        let client_secret = match &spec.client_secret {
            Some(entry) => Some(entry.read_text(cx)?),
            None => None,
        };
        let jar = Jar::new(&spec.session.cookie);
        let context = crate::login::context(&spec.issuer, &spec.client_id, &jar);
        // Whatever makes another principal of a session, or another session of a cookie, has a memory of its own.
        let mut identity = verified::identity(name, spec);
        let seals = spec.session.seals(&context, &mut identity, cx)?;
        let identity = data_encoding::HEXLOWER.encode(identity.finish().as_ref());
        let expected = Expectations {
            issuer: Some((&*spec.issuer).into()),
            audiences: Some(vec![(&*spec.client_id).into()]),
            parties: Vec::new(),
            kinds: Vec::new(),
            leeway: spec.leeway,
            max_age: None,
            expiry: Expiry::Required,
            required: jwt::wanted(&spec.required_claims),
        };
        let memory = cx.keep(&format!("sessions {identity}"), || Memory {
            open: Verified::new(MOST_OPEN),
            renewals: Verified::new(MOST_OPEN),
            answers: Verified::new(MOST_OPEN),
            flights: Arc::default(),
        });
        let lifetime = spec.session.lifetime;
        let logouts = GivenUp::of(&format!("logouts at {}, client {}", &*spec.issuer, &*spec.client_id), lifetime, cx);
        if spec.back_channel_logout_path.is_some() {
            logouts.stored().want();
        }
        Some(LoginScheme {
            name: (&**name).into(),
            issuer: (&*spec.issuer).into(),
            provider,
            client_id: (&*spec.client_id).into(),
            client: Client::new(&spec.client_id, client_secret.as_deref(), spec.client_authentication),
            places: spec.places()?,
            query: spec.query().into(),
            scope: spec.scope().into(),
            jar,
            seals,
            lifetime,
            vouches: StoredMark::of(&[b"login", context.as_bytes()]),
            expected,
            allowed: Algorithms::asymmetric(),
            claims: spec.claims.clone(),
            access_token: if spec.forward_access_token { AccessToken::HandedOn } else { AccessToken::Dropped },
            timeout: spec.timeout,
            memory,
            ended: GivenUp::of(&format!("ended sessions {context}"), lifetime, cx),
            logouts,
        })
    }

    fn secrets(spec: &LoginSpec) -> Vec<Text> {
        spec.secrets()
    }

    fn places(&self, places: &mut CredentialPlaces) {
        places.paths.insert(self.places.callback.clone());
        if !places.sessions.contains(&self.jar) {
            places.sessions.push(self.jar.clone());
        }
    }

    fn presents(&self, x: &Exchange<'_>) -> bool {
        self.has_page(x) || self.jar.has_session(x.request)
    }

    fn exhibits<'x>(&'x self, x: &'x Exchange<'_>, add: &mut dyn FnMut(Exhibit<'x>)) {
        if self.jar.has_session(x.request) {
            add(Exhibit::Cookie(self.jar.name()));
        }
    }

    fn has_page(&self, x: &Exchange<'_>) -> bool {
        !matches!(self.page(x.request), Page::Any)
    }

    fn is_known(&self, x: &Exchange<'_>) -> bool {
        let opened = self.jar.session(x.request).and_then(|sealed| self.open(&sealed, x.now.unix));
        opened.is_some_and(|opened| x.now.unix < opened.session.ends())
    }

    fn is_try(&self, callout: &Callout, x: &Exchange<'_>) -> bool {
        matches!(callout, Callout::Detached(..)) && matches!(self.page(x.request), Page::Callback)
    }

    fn authenticate(&self, x: &mut Exchange<'_>) -> Proof {
        match self.page(x.request) {
            Page::Callback => self.complete(x),
            Page::Login => {
                let back = parameter(x.request, "return").unwrap_or_default();
                self.go(Progress::new(Errand::Begin { back }), x)
            }
            Page::Logout => self.log_out(x),
            Page::BackChannel => self.hear(x),
            Page::Any => self.look(x),
        }
    }

    fn invite(&self, x: &mut Exchange<'_>) -> Option<Proof> {
        if !is_opening_a_page(x.request) {
            return None;
        }
        if !self.is_our_host(x.request) {
            // The provider sends browsers back to one host, whose cookies no other sees.
            let to = format!("{}{}", self.places.site, of_this_site(x.request.target()));
            x.tell(|| format!("scheme {}: sessions are those of {}", self.name, self.places.site));
            return Some(Proof::Answer(Box::new(away(Reason::LoginRequired, &to, &[]))));
        }
        Some(self.go(Progress::new(Errand::Begin { back: x.request.target().to_vec() }), x))
    }

    fn resume(&self, x: &mut Exchange<'_>, between: Box<dyn Any + Send>, result: CalloutResult) -> Proof {
        let between = match between.downcast::<Progress>() {
            Ok(progress) => return self.go_on(*progress, result, x),
            Err(between) => between,
        };
        match between.downcast::<Message>() {
            Ok(message) => self.hear_on(*message, result, x),
            Err(_) => self.authenticate(x),
        }
    }

    fn strip(&self, request: &mut Request) {
        self.jar.remove(request);
        if self.access_token == AccessToken::HandedOn {
            // The backend takes what stands there for the provider's.
            request.fields.remove_id(FieldId::AUTHORIZATION);
        }
    }

    fn hand_on(&self, x: &mut Exchange<'_>) {
        let token = x.notes.handed.iter().find(|(scheme, _)| **scheme == *self.name);
        if let Some((_, Handed(token))) = token {
            // One that is no field value is not handed on.
            let value = format!("Bearer {token}");
            let _ = x.request.fields.set(&FieldName::known(FieldId::AUTHORIZATION), value.as_bytes());
        }
    }

    /// There is no registered scheme for cookies (RFC 9110 section 16.4.1); a 401 must name one all the same.
    fn challenge(&self, realm: &str, _: &Fault<'_>) -> String {
        format!("Cookie realm=\"{realm}\", cookie-name=\"{}\"", self.jar.name())
    }

    /// What the provider has said of who has logged in is held against what is expected today, and read as it is today.
    fn stands(&self, principal: &Arc<Principal>, x: &Exchange<'_>) -> Result<Arc<Principal>, Box<str>> {
        if principal.stored != Some(self.vouches) {
            return Err("sessions are another provider's by now, or another client's".into());
        }
        if self.has_ended(principal, x.now.unix) {
            return Err("the session was given up".into());
        }
        self.expected.check_required(&principal.claims).map_err(|refusal| Box::from(refusal.why()))?;
        let today = self.principal(principal.claims.clone(), principal.until)?;
        Ok(Arc::new(Principal { credential: principal.credential.clone(), ..today }))
    }
}

impl LoginScheme {
    fn page(&self, request: &Request) -> Page {
        let path = request.path();
        let is_get = matches!(request.method, Method::Get | Method::Head);
        let page = if is_get && path == self.places.callback.as_bytes() {
            Page::Callback
        } else if path == self.places.logout.as_bytes() && (is_get || request.method == Method::Post) {
            Page::Logout
        } else if is_get && self.places.login.as_ref().is_some_and(|login| login.as_bytes() == path) {
            Page::Login
        } else if request.method == Method::Post
            && self.places.back_channel.as_ref().is_some_and(|place| place.as_bytes() == path)
        {
            Page::BackChannel
        } else {
            return Page::Any;
        };
        if self.is_our_host(request) { page } else { Page::Any }
    }

    /// Whether a request is for the host that has these pages, and sessions; whatever the port, which may be mapped on the way.
    fn is_our_host(&self, request: &Request) -> bool {
        let authority = normalize::authority(request.authority());
        authority.is_ok_and(|authority| authority.host.eq_ignore_ascii_case(self.places.host.as_bytes()))
    }

    /// The session that a request shows, or the newest that came out of it.
    fn look(&self, x: &mut Exchange<'_>) -> Proof {
        let Some(sealed) = self.jar.session(x.request) else { return Proof::Absent };
        let now = x.now.unix;
        let Some(mut opened) = self.open(&sealed, now) else {
            return self.absent(x, "the session was not sealed here, or is not what is required");
        };
        let mut cookies = Vec::new();
        for _ in 0..MOST_FOLLOWED {
            match self.memory.renewal_of(&opened, now).as_deref() {
                Some(Renewal::Renewed(newer, written)) => {
                    opened = Arc::clone(newer);
                    cookies.clone_from(written);
                }
                Some(Renewal::Ended) => return self.absent(x, "the provider has ended the session"),
                None => break,
            }
        }
        if self.has_ended(&opened.principal, now) {
            return self.absent(x, "the session was given up");
        }
        if now >= opened.session.ends() {
            return self.absent(x, "the session has ended");
        }
        match opened.session.refreshed_from() {
            Some(from) if now >= from => self.go(Progress::new(Errand::Renew { opened }), x),
            _ => {
                x.notes.cookies.extend(cookies);
                self.let_in(&opened, x)
            }
        }
    }

    fn open(&self, sealed: &[u8], now: Duration) -> Option<Arc<Opened>> {
        let hash = verified::hash(sealed);
        if let Some(opened) = self.memory.open.find(&hash, 0, now) {
            return Some(opened);
        }
        let session = Session::read(&self.seals.open(Purpose::Session, sealed)?)?;
        let opened = self.opened(session).ok()?;
        self.memory.open.note(hash, Arc::clone(&opened), 0, opened.session.ends(), now);
        Some(opened)
    }

    /// A session with its principal, if it is what this policy requires: another may have made it.
    fn opened(&self, session: Session) -> Result<Arc<Opened>, Box<str>> {
        let claims = session.claims().ok_or("the ID token cannot be read")?;
        self.expected.check_required(&claims).map_err(|refusal| Box::from(refusal.why()))?;
        let mut principal = self.principal(claims, Some(session.ends()))?;
        principal.credential = Some(session.name.clone());
        let key = session.refresh_token.as_ref().map(|token| verified::hash(token.as_bytes()));
        Ok(Arc::new(Opened { session, principal: Arc::new(principal), key }))
    }

    fn principal(&self, claims: Claims, until: Option<Duration>) -> Result<Principal, Box<str>> {
        let found = principal(claims, &self.claims, TokenOwner::User, &self.name, until)?;
        Ok(Principal { stored: Some(self.vouches), ..found })
    }

    fn let_in(&self, opened: &Opened, x: &mut Exchange<'_>) -> Proof {
        if self.access_token == AccessToken::HandedOn
            && let Some(token) = &opened.session.access_token
        {
            x.notes.handed.push((Arc::from(&*self.name), Handed(token.clone())));
        }
        Proof::Valid(Arc::clone(&opened.principal))
    }

    fn absent(&self, x: &mut Exchange<'_>, why: &str) -> Proof {
        x.tell(|| format!("scheme {}: {why}, as though there were none", self.name));
        Proof::Absent
    }

    /// A browser comes back from the provider (RFC 6749 section 4.1.2).
    fn complete(&self, x: &mut Exchange<'_>) -> Proof {
        let state = parameter_text(x.request, "state").unwrap_or_default();
        let sealed = self.jar.flow(x.request, &state);
        let flow = sealed.and_then(|sealed| Flow::read(&self.seals.open(Purpose::Flow, sealed)?));
        let Some(flow) = flow.filter(|flow| flow.is_answered_by(&state) && x.now.unix < flow.begun + PATIENCE) else {
            let why = "the browser has begun no such login, or more than ten minutes ago";
            // Any page can make a browser come here, so nobody is blamed for it.
            return fruitless(
                why,
                "This browser has begun no login that this answer belongs to. Begin again, and allow cookies.",
            );
        };
        // RFC 9207: the answer of another provider is none of this login.
        if parameter_text(x.request, "iss").is_some_and(|issuer| *issuer != *self.issuer) {
            return failed("the answer is by another provider (`iss`)", "This is the answer of another provider.");
        }
        if let Some(error) = parameter_text(x.request, "error") {
            let why = format!("the provider answers {}", grant::word(&error));
            return failed(&why, "The provider did not log you in.");
        }
        match parameter_text(x.request, "code") {
            Some(code) if !code.is_empty() => self.go(Progress::new(Errand::Complete { flow, code }), x),
            _ => failed("the provider sent no code", "The answer of the provider is incomplete."),
        }
    }

    /// A browser gives up its session (OpenID Connect RP-Initiated Logout 1.0).
    fn log_out(&self, x: &mut Exchange<'_>) -> Proof {
        if !is_own_will(x.request, &self.places.site) {
            let reply = Reply::new(Reason::LoginFailed)
                .with_status(403)
                .because("another page has asked for the logout, or a browser on its own account")
                .with_detail("Log out on the site itself.");
            return Proof::Answer(Box::new(reply));
        }
        let now = x.now.unix;
        let opened = self.jar.session(x.request).and_then(|sealed| self.open(&sealed, now));
        let cookies = self.jar.forget(x.request);
        let mut to = self.places.after_logout.to_string();
        if let Some(Opened { session, .. }) = opened.as_deref() {
            let name = verified::hash(session.name.as_bytes());
            if self.ended.find(&name, now).is_none() {
                // The browser has forgotten it as well, so nobody waits for the disk.
                self.ended.note(name, End { at: now, until: session.until }, now);
                self.provider.judge_again();
            }
            if let Some(away) = self.end_at_provider(session, x.now.monotonic) {
                to = away;
            }
        }
        let reply = Box::new(away(Reason::LoggedOut, &to, &cookies));
        match opened.and_then(|opened| self.revoke(&opened.session, x.now.monotonic)) {
            Some(call) => {
                let callout = Callout::Detached(Box::new(call), Receiver(Box::new(|_| ())));
                Proof::Ask(Box::new(callout), Box::new(Progress::new(Errand::Leave { reply })))
            }
            None => Proof::Answer(reply),
        }
    }
}

/// A reply that sends a browser somewhere, and is remembered by nobody.
fn away(reason: Reason, to: &str, cookies: &[Written]) -> Reply {
    let mut reply = Reply::new(reason)
        .without_body()
        .with_field(FieldName::known(FieldId::LOCATION), to)
        .with_field(FieldName::known(FieldId::CACHE_CONTROL), "no-store");
    if let Ok(name) = FieldName::new("referrer-policy") {
        reply = reply.with_field(name, "no-referrer");
    }
    for Written(cookie) in cookies {
        reply = reply.with_field(FieldName::known(FieldId::SET_COOKIE), cookie.to_vec());
    }
    reply
}

/// A login that cannot be completed. It counts as a failure of the client.
fn failed(why: &str, detail: &'static str) -> Proof {
    Proof::Refused(Box::new(failure(why, detail)))
}

/// The same where it need not be the client's fault.
fn fruitless(why: &str, detail: &'static str) -> Proof {
    Proof::Answer(Box::new(failure(why, detail)))
}

fn failure(why: &str, detail: &'static str) -> Reply {
    let reply = Reply::new(Reason::LoginFailed).because(why).with_detail(detail);
    reply.with_field(FieldName::known(FieldId::CACHE_CONTROL), "no-store")
}
