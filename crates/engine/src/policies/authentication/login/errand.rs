//! What needs the provider: beginning a login, completing it, and renewing a session. Each is a few steps, between which the request waits.

use std::sync::Arc;
use std::time::Duration;

use super::super::super::{PlainHttp, parse_url};
use super::super::client::Ask;
use super::super::flights::Flight;
use super::super::jwt::not_yet;
use super::super::scheme::{Later, Proof};
use super::super::verified::{self, Hash};
use super::grant::{Asked, Trouble};
use super::{LoginScheme, Opened, PATIENCE, Renewal, away, failed};
use crate::callout::{Answer, Callout, CalloutResult, HttpCall, Receiver, Wait};
use crate::document::{Content, Occasion, Sought};
use crate::exchange::Exchange;
use crate::form;
use crate::jose::Refusal;
use crate::judge::Repeat;
use crate::login::{FLOW_RANDOM, Flow, NONCE, Purpose, SESSION_NAME, Session, Written, challenge};
use crate::reason::Reason;
use crate::verdict::Reply;

/// How long an older cookie stands for the session that came out of it, beyond the tokens of that one.
const OVERLAP: Duration = Duration::from_secs(60);
/// How long a provider that could not answer is left alone about one session.
const PAUSE: Duration = Duration::from_secs(10);
/// How long the provider may be away after the tokens of a session have ended, before the session counts as ended, too.
const GRACE: Duration = Duration::from_secs(60);
/// The largest answer of a token endpoint, in bytes.
const MOST_ANSWER: usize = 256 * 1024;
/// Random bytes for any errand.
const RANDOM: usize = FLOW_RANDOM + SESSION_NAME + NONCE;

/// What is done.
pub(super) enum Errand {
    /// A browser is sent to the provider.
    Begin {
        /// Where it wanted to go.
        back: Vec<u8>,
    },
    /// A browser has come back with a code.
    Complete { flow: Flow, code: String },
    /// A session gets newer tokens.
    Renew { opened: Arc<Opened> },
    /// A session was given up, and the provider is told to forget its tokens.
    Leave { reply: Box<Reply> },
}

impl Errand {
    /// By what its answer is remembered. A code and a refresh token are good once, so they are shown once.
    fn key(&self) -> Option<Hash> {
        match self {
            Errand::Complete { flow, .. } => Some(verified::hash(format!("state {}", flow.state).as_bytes())),
            Errand::Renew { opened } => opened.key,
            Errand::Begin { .. } | Errand::Leave { .. } => None,
        }
    }
}

/// What has come from the token endpoint.
#[derive(Debug)]
pub(super) enum Came {
    Answered(Answer),
    Failed(Box<str>),
}

/// Random bytes, by what they are for.
struct Drawn {
    flow: [u8; FLOW_RANDOM],
    name: [u8; SESSION_NAME],
    nonce: [u8; NONCE],
}

impl Drawn {
    fn of(bytes: &[u8]) -> Option<Drawn> {
        let (flow, rest) = bytes.split_first_chunk()?;
        let (name, nonce) = rest.split_first_chunk()?;
        Some(Drawn { flow: *flow, name: *name, nonce: nonce.try_into().ok()? })
    }
}

/// How far an errand is.
pub(super) struct Progress {
    errand: Errand,
    drawn: Option<Drawn>,
    /// Whether the description of the provider was asked for, for the sake of this request.
    described: bool,
    /// Whether its keys were.
    sought: Option<Duration>,
    /// Whether its answer was waited for.
    awaited: bool,
}

impl Progress {
    pub(super) fn new(errand: Errand) -> Progress {
        Progress { errand, drawn: None, described: false, sought: None, awaited: false }
    }
}

impl LoginScheme {
    /// The next step, or the end.
    pub(super) fn go(&self, mut progress: Progress, x: &mut Exchange<'_>) -> Proof {
        let Some(content) = self.provider.content(x.now.monotonic) else {
            if !progress.described && self.provider.may_help(&Occasion::Due, x.now.monotonic) {
                progress.described = true;
                return self.refresh(progress, Occasion::Due);
            }
            let why = self.provider.error().unwrap_or_else(|| "it has not come yet".into());
            return self.give_up(&progress.errand, &format!("the description at {}: {why}", self.provider.label), x);
        };
        let came = match progress.errand.key() {
            Some(key) => match self.memory.answers.find(&key, 0, x.now.unix) {
                Some(came) => Some(came),
                None => return self.ask(progress, key, &content, x),
            },
            None => None,
        };
        let Some(drawn) = &progress.drawn else {
            return Proof::Ask(Box::new(Callout::Random(RANDOM)), Box::new(progress));
        };
        let (asked, answer) = match (&progress.errand, came.as_deref()) {
            (Errand::Begin { back }, _) => return self.send_away(back, drawn, &content, x),
            (errand, Some(Came::Failed(why))) => return self.give_up(errand, why, x),
            (Errand::Complete { flow, .. }, Some(Came::Answered(answer))) => {
                (Asked { nonce: &flow.nonce, known: None, name: Session::name(&drawn.name) }, answer)
            }
            (Errand::Renew { opened }, Some(Came::Answered(answer))) => {
                let session = &opened.session;
                (Asked { nonce: &session.nonce, known: Some(session), name: session.name.clone() }, answer)
            }
            (errand, _) => return self.give_up(errand, "there is no answer", x),
        };
        match self.judge(answer, asked, &content.keys, x.now.unix) {
            Ok(session) => {
                let nonce = drawn.nonce;
                self.settle(progress.errand, session, nonce, x)
            }
            Err(Trouble::UnknownKey(kid)) => {
                let occasion = Occasion::UnknownKey(kid);
                match self.provider.seek(&occasion, progress.sought, x.now.monotonic) {
                    Sought::Fetch => {
                        progress.sought = Some(x.now.monotonic);
                        self.refresh(progress, occasion)
                    }
                    Sought::Absent => {
                        let why = "the ID token is signed by a key that the provider does not show";
                        self.give_up(&progress.errand, why, x)
                    }
                    Sought::Failed(why) => {
                        self.give_up(&progress.errand, &format!("newer keys of the provider: {why}"), x)
                    }
                    Sought::Later { wait, .. } => {
                        let why = not_yet(&Refusal::UnknownKey, &self.provider, wait);
                        match self.give_up(&progress.errand, &why, x) {
                            Proof::Unavailable(why) => Proof::Later(why, Later { wait, is_guess: false }),
                            other => other,
                        }
                    }
                }
            }
            Err(Trouble::Unavailable(why)) => self.give_up(&progress.errand, &why, x),
            Err(Trouble::Refused(why)) => self.refused(&progress.errand, &why, x),
        }
    }

    /// Goes on with what came of the last step.
    pub(super) fn go_on(&self, mut progress: Progress, result: CalloutResult, x: &mut Exchange<'_>) -> Proof {
        if let Errand::Leave { reply } = progress.errand {
            return Proof::Answer(reply);
        }
        match result {
            CalloutResult::Random(bytes) => {
                progress.drawn = Drawn::of(&bytes);
                if progress.drawn.is_none() {
                    return self.give_up(&progress.errand, "there are no random bytes", x);
                }
            }
            CalloutResult::Failed(why) => return self.give_up(&progress.errand, &why, x),
            CalloutResult::Assumed => return self.assume(&progress.errand, x),
            _ => {}
        }
        self.go(progress, x)
    }

    /// Asks the token endpoint, or waits for who does. What it says is remembered also when this request is given up: what was shown to it
    /// is spent.
    fn ask(&self, mut progress: Progress, key: Hash, content: &Content, x: &mut Exchange<'_>) -> Proof {
        if progress.awaited {
            if let Some(proof) = self.take_renewal(&progress.errand, x) {
                return proof;
            }
            return self.give_up(&progress.errand, "its answer was not remembered", x);
        }
        progress.awaited = true;
        let flight = match self.memory.flights.begin(key) {
            Ok(flight) => flight,
            Err(landing) => {
                let wait = Wait {
                    what: "the provider to answer about this session",
                    until: landing.over,
                    timeout: self.timeout,
                };
                return Proof::Ask(Box::new(Callout::Wait(wait)), Box::new(progress));
            }
        };
        if self.memory.answers.find(&key, 0, x.now.unix).is_some() {
            return self.go(progress, x);
        }
        // What was answered may be used up by now.
        if let Some(proof) = self.take_renewal(&progress.errand, x) {
            return proof;
        }
        let call = match self.call(&progress.errand, content) {
            Ok(call) => call,
            Err(why) => return self.give_up(&progress.errand, &why, x),
        };
        let until = match &progress.errand {
            Errand::Complete { flow, .. } => flow.begun + PATIENCE,
            _ => x.now.unix + OVERLAP,
        };
        let receiver = self.receive(key, flight, x.now.unix, until);
        Proof::Ask(Box::new(Callout::Detached(Box::new(call), receiver)), Box::new(progress))
    }

    /// What another request has made of the answer.
    fn take_renewal(&self, errand: &Errand, x: &mut Exchange<'_>) -> Option<Proof> {
        let Errand::Renew { opened } = errand else { return None };
        let now = x.now.unix;
        Some(match &*self.memory.renewal_of(opened, now)? {
            Renewal::Renewed(newer, _) if self.has_ended(&newer.principal, now) => {
                self.absent(x, "the session was given up")
            }
            Renewal::Renewed(newer, cookies) => {
                x.notes.cookies.extend(cookies.iter().cloned());
                self.let_in(newer, x)
            }
            Renewal::Ended => self.absent(x, "the provider has ended the session"),
        })
    }

    fn receive(&self, key: Hash, flight: Flight, now: Duration, until: Duration) -> Receiver {
        let memory = Arc::clone(&self.memory);
        let soon = now + PAUSE + self.timeout;
        Receiver(Box::new(move |result| {
            let (came, until) = match result {
                // Whoever is too busy may be asked again; what was refused stays refused.
                CalloutResult::Answered(answer) if matches!(answer.status, 200..=403) => {
                    (Came::Answered(*answer), until)
                }
                CalloutResult::Answered(answer) => (Came::Answered(*answer), soon),
                CalloutResult::Failed(why) => (Came::Failed(why), soon),
                _ => (Came::Failed("nothing came of it".into()), soon),
            };
            memory.answers.note(key, Arc::new(came), 0, until, now);
            // Those who wait find it.
            drop(flight);
        }))
    }

    fn refresh(&self, progress: Progress, occasion: Occasion) -> Proof {
        let callout = Callout::Refresh { document: Arc::clone(&self.provider), occasion };
        Proof::Ask(Box::new(callout), Box::new(progress))
    }

    /// Sends a browser to the provider (OpenID Connect Core 1.0 section 3.1.2.1).
    fn send_away(&self, back: &[u8], drawn: &Drawn, content: &Content, x: &Exchange<'_>) -> Proof {
        let Some(endpoint) = content.endpoints.authorization.as_deref().filter(|url| is_web(url)) else {
            return Proof::Unavailable("the provider names no page to log in (`authorization_endpoint`)".into());
        };
        let flow = Flow::begin(&drawn.flow, back, x.now.unix);
        let Some(sealed) = self.seals.seal(Purpose::Flow, drawn.nonce, &flow.write()) else {
            return Proof::Unavailable("the login cannot be sealed".into());
        };
        let own = form::written([
            ("state", &*flow.state),
            ("nonce", &flow.nonce),
            ("code_challenge", &challenge(&flow.verifier)),
            ("code_challenge_method", "S256"),
        ]);
        let mark = if endpoint.contains('?') { '&' } else { '?' };
        let to = format!("{endpoint}{mark}{}&{own}", self.query);
        let cookies = self.jar.keep_flow(x.request, &flow.state, &sealed, PATIENCE.as_secs());
        Proof::Answer(Box::new(away(Reason::LoginRequired, &to, &cookies)))
    }

    /// The call to the token endpoint (RFC 6749 sections 4.1.3 and 6).
    fn call(&self, errand: &Errand, content: &Content) -> Result<HttpCall, String> {
        let endpoint = content.endpoints.token.as_deref().ok_or("the provider names no `token_endpoint`")?;
        let parameters = match errand {
            Errand::Complete { flow, code } => vec![
                ("grant_type", "authorization_code"),
                ("code", &**code),
                ("redirect_uri", &*self.places.redirect_url),
                ("code_verifier", &*flow.verifier),
            ],
            Errand::Renew { opened } => vec![
                ("grant_type", "refresh_token"),
                ("refresh_token", opened.session.refresh_token.as_deref().unwrap_or_default()),
            ],
            Errand::Begin { .. } | Errand::Leave { .. } => Vec::new(),
        };
        self.post(endpoint, &parameters).map_err(|why| format!("its `token_endpoint`: {why}"))
    }

    /// The call that takes the tokens of a session back (RFC 7009), if the provider does that.
    pub(super) fn revoke(&self, session: &Session, now: Duration) -> Option<HttpCall> {
        let content = self.provider.content(now)?;
        let (endpoint, token) = (content.endpoints.revocation.as_deref()?, session.refresh_token.as_deref()?);
        self.post(endpoint, &[("token", token), ("token_type_hint", "refresh_token")]).ok()
    }

    fn post(&self, endpoint: &str, parameters: &[(&str, &str)]) -> Result<HttpCall, String> {
        let url = self.provider.place(endpoint)?;
        let backend = match url.callee.get() {
            Some(Ok(backend)) => Arc::clone(backend),
            Some(Err(broken)) => return Err(broken.why.to_string()),
            None => return Err("the configuration is not in force yet".into()),
        };
        // A code, and many a refresh token, is good for one question.
        let (timeout, repeat) = (self.timeout, Repeat::Harmful);
        let ask = Ask { backend, url: &url, timeout, most: MOST_ANSWER, repeat };
        self.client.call(ask, parameters).ok_or_else(|| "it cannot be asked".to_owned())
    }

    /// There is a session, or a newer one.
    fn settle(&self, errand: Errand, session: Session, nonce: [u8; NONCE], x: &mut Exchange<'_>) -> Proof {
        let now = x.now.unix;
        let opened = match self.opened(session) {
            Ok(opened) => opened,
            Err(why) => return self.refused(&errand, &why, x),
        };
        let (sealed, cookies) = match self.seal(&opened.session, nonce, x) {
            Ok(sealed) => sealed,
            Err(why) => return self.refused(&errand, &why, x),
        };
        let hash = verified::hash(sealed.as_bytes());
        self.memory.open.note(hash, Arc::clone(&opened), 0, opened.session.ends(), now);
        match errand {
            Errand::Complete { flow, .. } => {
                let mut cookies = cookies;
                cookies.push(self.jar.forget_flow(&flow.state));
                x.tell(|| format!("scheme {}: {} has logged in", self.name, opened.principal.describe()));
                Proof::Answer(Box::new(away(Reason::LoggedIn, &flow.back, &cookies)))
            }
            Errand::Renew { opened: older } => {
                // Somebody may have given it up meanwhile.
                if self.has_ended(&opened.principal, now) {
                    return self.absent(x, "the session was given up");
                }
                // Who waited as well finds the one or the other. A provider that keeps its refresh token is asked by the newer cookie as by the older one,
                // so that the answer cannot stay.
                if let Some(key) = older.key {
                    let renewal = Renewal::Renewed(Arc::clone(&opened), cookies.clone());
                    self.memory.renewals.note(key, Arc::new(renewal), 0, opened.session.due + OVERLAP, now);
                    self.memory.answers.forget(&key);
                }
                x.notes.cookies.extend(cookies);
                self.let_in(&opened, x)
            }
            Errand::Begin { .. } | Errand::Leave { .. } => Proof::Absent,
        }
    }

    fn seal(
        &self,
        session: &Session,
        nonce: [u8; NONCE],
        x: &Exchange<'_>,
    ) -> Result<(String, Vec<Written>), Box<str>> {
        let bytes = session.write();
        let sealed = self.seals.seal(Purpose::Session, nonce, &bytes).ok_or("the session cannot be sealed")?;
        let seconds = session.until.saturating_sub(x.now.unix).as_secs();
        let too_large = || {
            format!(
                "a session of {} bytes does not fit into cookies: let the provider put less into its tokens",
                bytes.len()
            )
        };
        let cookies = self.jar.keep(x.request, &sealed, seconds).ok_or_else(too_large)?;
        Ok((sealed, cookies))
    }

    /// The provider cannot say it at present. A session whose tokens are still good goes on.
    fn give_up(&self, errand: &Errand, why: &str, x: &mut Exchange<'_>) -> Proof {
        let Errand::Renew { opened } = errand else { return Proof::Unavailable(why.into()) };
        let (now, due) = (x.now.unix, opened.session.due);
        if now < due {
            return self.let_in(opened, x);
        }
        if now >= due + GRACE {
            return self.absent(x, "the provider has not renewed the session in time");
        }
        Proof::Unavailable(why.into())
    }

    /// The provider says no.
    fn refused(&self, errand: &Errand, why: &str, x: &mut Exchange<'_>) -> Proof {
        let Errand::Renew { opened } = errand else {
            return failed(why, "The provider's answer is not good for a login. Begin again.");
        };
        if let Some(key) = opened.key {
            self.memory.renewals.note(key, Arc::new(Renewal::Ended), 0, x.now.unix + OVERLAP, x.now.unix);
        }
        self.absent(x, &format!("{why}, so the session has ended"))
    }

    /// In an explanation nobody is asked.
    fn assume(&self, errand: &Errand, x: &mut Exchange<'_>) -> Proof {
        let name = &self.name;
        match errand {
            Errand::Begin { .. } => {
                let back = &self.places.redirect_url;
                x.tell(|| {
                    format!("scheme {name}: a browser is sent to {} to log in, and comes back to {back}", self.issuer)
                });
                Proof::Answer(Box::new(Reply::new(Reason::LoginRequired).without_body()))
            }
            Errand::Complete { flow, .. } => {
                x.tell(|| format!("scheme {name}: nobody is asked here, so the code is taken to be good"));
                Proof::Answer(Box::new(away(Reason::LoggedIn, &flow.back, &[])))
            }
            Errand::Renew { opened } => {
                x.tell(|| format!("scheme {name}: its tokens would be renewed, which is not done here"));
                self.let_in(opened, x)
            }
            Errand::Leave { .. } => Proof::Absent,
        }
    }

    /// Where a browser ends its session at the provider, too (OpenID Connect RP-Initiated Logout 1.0 section 2).
    pub(super) fn end_at_provider(&self, session: &Session, now: Duration) -> Option<String> {
        let content = self.provider.content(now)?;
        let endpoint = content.endpoints.end_session.as_deref().filter(|url| is_web(url))?;
        let after = format!("{}{}", self.places.site, self.places.after_logout);
        let query = form::written([
            ("id_token_hint", &*session.id_token),
            ("client_id", &self.client_id),
            ("post_logout_redirect_uri", &after),
        ]);
        let mark = if endpoint.contains('?') { '&' } else { '?' };
        Some(format!("{endpoint}{mark}{query}"))
    }
}

/// Whether browsers may be sent to a URL of the description.
fn is_web(url: &str) -> bool {
    url.bytes().all(|byte| byte.is_ascii_graphic()) && parse_url(url, PlainHttp::OnLoopback).is_ok()
}
