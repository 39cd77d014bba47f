//! The scheme `basic` (RFC 7617): names and passwords, from a Secret in the form of htpasswd.
//!
//! Verifying a password is slow on purpose, so it is computed off the worker, a few at a time (`gate`), and what was good is remembered for a
//! while: by a keyed hash of name, password and stored hash, so that a password that was changed is not good any more. Who shows the same
//! name and password while they are computed waits for what comes of it. A name that is not known costs
//! the time of one of the users, always of the same one.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use transept_model::object;
use transept_model::schema::{Labels, Rule, Text};
use transept_wire::head::{FieldId, NameRef, Request};

use super::super::CompileCx;
use super::exhibits::{Exhibit, add_lines};
use super::flights::{Flight, Flights};
use super::gate::Gate;
use super::scheme::{Fault, Proof, Scheme, after_word};
use super::secret::SecretEntry;
use crate::base64;
use crate::callout::{Callout, CalloutResult, Computation, Wait};
use crate::exchange::{Exchange, below, draw};
use crate::password::PasswordHash;
use crate::principal::{Principal, PrincipalKind, StoredMark};

object! {
    /// Names and passwords (RFC 7617), for a few people and old programs.
    pub struct BasicSchemeSpec {
        /// The users: lines of `NAME:HASH` as `htpasswd -B` writes them, with bcrypt or Argon2 hashes.
        users: SecretEntry;
        /// The groups of users: names of users, with commas between them, by group.
        groups: Labels => Rule::MaxEntries(64);
        /// How long a password that was good is not computed again.
        remember: Duration = Duration::from_secs(300);
    }
    check check_basic;
}

fn check_basic(spec: &BasicSchemeSpec, value: &transept_model::value::Value, cx: &mut transept_model::schema::Decoder) {
    if spec.remember > Duration::from_secs(3600) {
        cx.refuse_field(value, "remember", "a password is remembered for an hour at most");
    }
}

/// The compiled scheme.
#[derive(Debug)]
pub(super) struct BasicScheme {
    users: HashMap<Box<str>, User>,
    decoys: Decoys,
    remember: Duration,
    memory: Arc<Memory>,
    gate: Arc<Gate>,
}

/// What the passwords of unknown users are compared with: the hashes of the known ones. Which of them, the name decides, in a way that
/// nobody outside can tell and that is always the same as long as the users are; so names that are known are not told from others by the time
/// that they take, also where the hashes are of different kinds and costs.
struct Decoys {
    hashes: Vec<Arc<PasswordHash>>,
    key: Box<hmac::Key>,
}

impl fmt::Debug for Decoys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Decoys").finish_non_exhaustive()
    }
}

impl Decoys {
    /// `text` is what the hashes stand in; whoever knows it needs no names.
    fn new(hashes: Vec<Arc<PasswordHash>>, text: &str) -> Decoys {
        Decoys { hashes, key: Box::new(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes())) }
    }

    fn of(&self, name: &str) -> Option<&Arc<PasswordHash>> {
        let tag = hmac::sign(&self.key, name.as_bytes());
        let number = tag.as_ref().iter().take(8).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        self.hashes.get(usize::try_from(below(number, self.hashes.len() as u64)).unwrap_or(0))
    }
}

#[derive(Debug)]
struct User {
    hash: Arc<PasswordHash>,
    /// The hash as it is stored.
    text: Box<str>,
    principal: Arc<Principal>,
}

/// What was found of passwords: until when that holds, in monotonic time.
#[derive(Debug, Default)]
struct Memory {
    key: OnceLock<hmac::Key>,
    told: Mutex<HashMap<[u8; 32], (Told, Duration)>>,
    /// What is computed at present.
    flights: Arc<Flights>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Good,
    /// It is no good for this scheme, and another one knows it.
    Bad,
}

/// The most that is remembered. Only passwords that are good for a scheme are, so nobody outside can fill it.
const REMEMBERED: usize = 4096;

/// How long a request waits for another one's computation of the same password.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is remembered while a password is computed, here or for another request.
struct Asked {
    user: Option<Box<str>>,
    proof: [u8; 32],
    /// Wakes those who wait when what came of it is noted.
    _flight: Option<Flight>,
}

impl Scheme for BasicScheme {
    type Spec = BasicSchemeSpec;

    fn compile(name: &Text, spec: &BasicSchemeSpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let text = spec.users.read_text(cx)?;
        let mut users = HashMap::new();
        let mut hashes = Vec::new();
        let before = cx.count();
        for (index, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // What stands there is secret, also when it is wrong: it is named by its number.
            let parsed = match line.split_once(':') {
                Some((user, hash)) if !user.is_empty() => PasswordHash::parse(hash).map(|parsed| (user, hash, parsed)),
                _ => Err("this is not NAME:HASH"),
            };
            match parsed {
                // Whose password is good would depend on the order of the lines.
                Ok((user, ..)) if users.contains_key(user) => {
                    let why = format!("line {index} of the entry {} names a user again", &*spec.users.key);
                    cx.refuse(spec.users.at, why).remedy("keep one line for each user");
                }
                Ok((user, hash, parsed)) => {
                    let principal = principal(name, user, hash, &spec.groups, cx);
                    let user_hash = Arc::new(parsed);
                    hashes.push(Arc::clone(&user_hash));
                    let known = User { hash: user_hash, text: hash.into(), principal: Arc::new(principal) };
                    users.insert(Box::from(user), known);
                }
                Err(why) => {
                    let why = format!("line {index} of the entry {}: {why}", &*spec.users.key);
                    cx.refuse(spec.users.at, why).remedy("write lines as `htpasswd -nB NAME` prints them");
                }
            }
        }
        if cx.count() > before {
            return None;
        }
        if hashes.is_empty() {
            cx.refuse(spec.users.at, "there are no users, so nobody could come in")
                .remedy("add lines as `htpasswd -nB NAME` prints them");
            return None;
        }
        Some(BasicScheme {
            users,
            decoys: Decoys::new(hashes, &text),
            remember: spec.remember,
            memory: cx.keep("passwords", Memory::default),
            gate: cx.keep_for_all("passwords that are computed", Gate::default),
        })
    }

    fn secrets(spec: &BasicSchemeSpec) -> Vec<Text> {
        vec![spec.users.name.clone()]
    }

    fn presents(&self, x: &Exchange<'_>) -> bool {
        tokens(x.request).next().is_some()
    }

    fn exhibits<'x>(&'x self, x: &'x Exchange<'_>, add: &mut dyn FnMut(Exhibit<'x>)) {
        let is_one =
            |name: NameRef<'_>, value: &[u8]| name.id == FieldId::AUTHORIZATION && basic_token(value).is_some();
        add_lines(x.request, is_one, add);
    }

    fn note_known_elsewhere(&self, x: &Exchange<'_>) {
        if let Some((name, password)) = tokens(x.request).next().and_then(decode) {
            let stored = self.users.get(&*name).map_or("", |user| &user.text);
            let proof = self.memory.proof(stored, &name, &password, x.random);
            self.memory.remember(proof, Told::Bad, x.now.monotonic, self.remember);
        }
    }

    fn authenticate(&self, x: &mut Exchange<'_>) -> Proof {
        let mut shown = tokens(x.request);
        let token = match (shown.next(), shown.next()) {
            (None, _) => return Proof::Absent,
            (Some(token), None) => token,
            (Some(_), Some(_)) => return Proof::invalid("several names are shown"),
        };
        let Some((name, password)) = decode(token) else {
            return Proof::invalid("what is shown is not a name and a password in base64");
        };
        let user = self.users.get(&*name);
        let proof = self.memory.proof(user.map_or("", |user| &user.text), &name, &password, x.random);
        match (self.memory.recall(&proof, x.now.monotonic), user) {
            (Some(Told::Good), Some(user)) => return Proof::Valid(Arc::clone(&user.principal)),
            (Some(Told::Bad), _) => return Proof::invalid("the name and the password are those of another scheme"),
            _ => {}
        }
        // Where nothing is remembered, those who waited would compute one after another.
        let flight = match self.remember.is_zero() {
            true => Ok(None),
            false => self.memory.flights.begin(proof).map(Some),
        };
        let flight = match flight {
            Ok(flight) => flight,
            Err(landing) => {
                let wait = Wait { what: "the same password to be computed", until: landing.over, timeout: PATIENCE };
                let asked = Asked { user: user.map(|_| name.into()), proof, _flight: None };
                return Proof::Ask(Box::new(Callout::Wait(wait)), Box::new(asked));
            }
        };
        let Some(place) = self.gate.enter(x.client) else {
            return Proof::Unavailable("too many passwords are being computed".into());
        };
        let Some(hash) = user.map(|user| &user.hash).or_else(|| self.decoys.of(&name)).map(Arc::clone) else {
            return Proof::invalid("the name is not known");
        };
        let run = move || -> Box<dyn Any + Send> { Box::new(place.compute(|| hash.verify(&password))) };
        let asked = Asked { user: user.map(|_| name.into()), proof, _flight: flight };
        let computation = Computation { what: "whether the password is good", run: Box::new(run) };
        Proof::Ask(Box::new(Callout::Compute(computation)), Box::new(asked))
    }

    fn resume(&self, x: &mut Exchange<'_>, between: Box<dyn Any + Send>, result: CalloutResult) -> Proof {
        // Until the end of this: those who wait find what came of it.
        let asked = between.downcast::<Asked>().ok();
        let user = asked.as_ref().and_then(|asked| {
            let user = asked.user.as_deref().and_then(|name| self.users.get(name));
            user.map(|user| (user, asked.proof))
        });
        let good = match result {
            CalloutResult::Assumed => Some(true),
            CalloutResult::Computed(computed) => computed.downcast::<bool>().ok().map(|good| *good),
            CalloutResult::Waited => return self.authenticate(x),
            _ => None,
        };
        let Some(good) = good else {
            return Proof::Unavailable("the password could not be computed".into());
        };
        // An explanation may know more than a client.
        match (user, good) {
            (Some((user, proof)), true) => {
                self.memory.remember(proof, Told::Good, x.now.monotonic, self.remember);
                Proof::Valid(Arc::clone(&user.principal))
            }
            (Some(_), false) => Proof::invalid("the password is wrong"),
            (None, _) => Proof::invalid("the name is not known"),
        }
    }

    fn strip(&self, request: &mut Request) {
        if tokens(request).next().is_some() {
            request.fields.retain(|name, value| name.id != FieldId::AUTHORIZATION || basic_token(value).is_none());
        }
    }

    fn challenge(&self, realm: &str, _: &Fault<'_>) -> String {
        format!("Basic realm=\"{realm}\", charset=\"UTF-8\"")
    }

    fn stands(&self, principal: &Arc<Principal>, _: &Exchange<'_>) -> Result<Arc<Principal>, Box<str>> {
        let name = principal.credential.as_deref().unwrap_or_default();
        match self.users.get(name).filter(|user| user.principal.id == principal.id) {
            Some(user) if user.principal.stored == principal.stored => Ok(Arc::clone(&user.principal)),
            Some(_) => Err("the password has changed".into()),
            None => Err("the name is not known any more".into()),
        }
    }
}

fn principal(scheme: &Text, user: &str, hash: &str, groups: &Labels, cx: &CompileCx<'_>) -> Principal {
    let is_in = |members: &str| members.split(',').any(|member| member.trim() == user);
    Principal {
        kind: PrincipalKind::User,
        id: format!("{}/{user}", &*cx.name.namespace).into(),
        groups: groups.iter().filter(|(_, members)| is_in(members)).map(|(group, _)| group.as_str().into()).collect(),
        scheme: (&**scheme).into(),
        credential: Some(user.into()),
        stored: Some(StoredMark::of(&[hash.as_bytes()])),
        ..Principal::default()
    }
}

fn tokens(request: &Request) -> impl Iterator<Item = &[u8]> {
    request.fields.all(FieldId::AUTHORIZATION).filter_map(basic_token)
}

fn basic_token(value: &[u8]) -> Option<&[u8]> {
    after_word(value, "basic")
}

/// The longest token that is looked at.
const LONGEST: usize = 4096;

fn decode(token: &[u8]) -> Option<(String, Vec<u8>)> {
    if token.len() > LONGEST {
        return None;
    }
    let plain = base64::decoded(token)?;
    let colon = plain.iter().position(|byte| *byte == b':')?;
    let name = std::str::from_utf8(plain.get(..colon)?).ok()?.to_owned();
    Some((name, plain.get(colon + 1..)?.to_vec()))
}

/// The name and the password in a value of `Authorization`.
pub(super) fn pair_of(value: &[u8]) -> Option<(String, Vec<u8>)> {
    decode(basic_token(value)?)
}

/// Whether a value of `Authorization` says this, when it is read by another way: by what a client would write.
pub(super) fn is_pair(value: &[u8], name: &str, password: &[u8]) -> bool {
    let written = BASE64.encode(&[name.as_bytes(), b":", password].concat());
    let shown =
        String::from_utf8_lossy(value).trim_end_matches(|c: char| c == '=' || c.is_ascii_whitespace()).to_owned();
    !name.contains(':') && shown.ends_with(written.trim_end_matches('='))
}

impl Memory {
    /// What stands for a stored hash, a name and a password.
    fn proof(&self, stored: &str, name: &str, password: &[u8], random: u64) -> [u8; 32] {
        let key = self.key.get_or_init(|| {
            let seed: Vec<u8> = (0..4).flat_map(|part| draw(random, part).to_le_bytes()).collect();
            hmac::Key::new(hmac::HMAC_SHA256, &seed)
        });
        let mut made = hmac::Context::with_key(key);
        for part in [stored.as_bytes(), name.as_bytes(), password] {
            made.update(&(part.len() as u64).to_le_bytes());
            made.update(part);
        }
        // It is 32 bytes long.
        made.sign().as_ref().try_into().unwrap_or_default()
    }

    fn recall(&self, proof: &[u8; 32], now: Duration) -> Option<Told> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.get(proof).filter(|(_, until)| now < *until).map(|(told, _)| *told)
    }

    fn remember(&self, proof: [u8; 32], what: Told, now: Duration, time: Duration) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= REMEMBERED {
            told.retain(|_, (_, until)| now < *until);
        }
        if told.len() < REMEMBERED {
            told.insert(proof, (what, now + time));
        }
    }
}

#[cfg(test)]
mod tests;
