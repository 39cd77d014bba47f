//! The scheme `basic` (RFC 7617): names and passwords, from a Secret in the form of htpasswd.
//!
//! Verifying a password is slow on purpose, so it is computed off the worker, a few at a time (`gate`), and what was good is remembered for a
//! while: by a keyed hash of name, password and stored hash, so that a password that was changed is not good any more. Who shows the same
//! name and password while they are computed waits for what comes of it. A name that is not known costs
//! the time of the user whose hash takes longest.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use transept_model::object;
use transept_model::schema::{Labels, Rule, Text};
use transept_wire::head::{FieldId, Request};

use super::super::CompileCx;
use super::flights::{Flight, Flights};
use super::gate::Gate;
use super::scheme::{Fault, Proof, Scheme};
use super::secret::SecretEntry;
use crate::base64;
use crate::callout::{Callout, CalloutResult, Computation, Wait};
use crate::exchange::{Exchange, draw};
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
    /// What the passwords of unknown users are compared with: the hash that takes longest.
    decoy: Arc<PasswordHash>,
    remember: Duration,
    memory: Arc<Memory>,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct User {
    hash: Arc<PasswordHash>,
    /// The hash as it is stored.
    text: Box<str>,
    principal: Arc<Principal>,
}

/// Passwords that were good: until when, in monotonic time.
#[derive(Debug, Default)]
struct Memory {
    key: OnceLock<hmac::Key>,
    good: Mutex<HashMap<[u8; 32], Duration>>,
    /// What is computed at present.
    flights: Arc<Flights>,
}

/// The most that is remembered. Only good passwords are, so nobody outside can fill it.
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
        let text = spec.users.read(cx)?;
        let mut users = HashMap::new();
        let mut decoy: Option<Arc<PasswordHash>> = None;
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
                Ok((user, hash, parsed)) => {
                    let principal = principal(name, user, hash, &spec.groups, cx);
                    let user_hash = Arc::new(parsed);
                    let costs_more = |decoy: &Arc<PasswordHash>| user_hash.cost() > decoy.cost();
                    if decoy.as_ref().is_none_or(costs_more) {
                        decoy = Some(Arc::clone(&user_hash));
                    }
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
        let Some(decoy) = decoy else {
            cx.refuse(spec.users.at, "there are no users, so nobody could come in")
                .remedy("add lines as `htpasswd -nB NAME` prints them");
            return None;
        };
        Some(BasicScheme {
            users,
            decoy,
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
        if let Some(user) = user
            && self.memory.remembers(&proof, x.now.monotonic)
        {
            return Proof::Valid(Arc::clone(&user.principal));
        }
        let flight = match self.memory.flights.begin(proof) {
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
        let hash = Arc::clone(user.map_or(&self.decoy, |user| &user.hash));
        let run = move || -> Box<dyn Any + Send> { Box::new(place.compute(|| hash.verify(&password))) };
        let asked = Asked { user: user.map(|_| name.into()), proof, _flight: Some(flight) };
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
                self.memory.remember(proof, x.now.monotonic, self.remember);
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
    let (scheme, token) = value.split_at_checked(6)?;
    scheme.eq_ignore_ascii_case(b"basic ").then(|| token.trim_ascii())
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

    fn remembers(&self, proof: &[u8; 32], now: Duration) -> bool {
        let good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        good.get(proof).is_some_and(|until| now < *until)
    }

    fn remember(&self, proof: [u8; 32], now: Duration, time: Duration) {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= REMEMBERED {
            good.retain(|_, until| now < *until);
        }
        if good.len() < REMEMBERED {
            good.insert(proof, now + time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Desk, compile_scheme, key, key_object};
    use super::*;
    use crate::exchange::Notes;
    use crate::reason::Reason;
    use crate::verdict::Verdict;

    const SECRET: &str = "\
apiVersion: v1
kind: Secret
metadata: {name: staff}
stringData:
  htpasswd: |
    # people
    ann:$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe
    bob:$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4
  old: 'ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ='
---
";
    const SPEC: &str =
        "schemes: [{name: staff, basic: {users: {name: staff, key: htpasswd}, groups: {admins: 'bob, eve'}}}]\n";

    fn shown(name: &str, password: &str) -> String {
        format!("Basic {}", BASE64.encode(format!("{name}:{password}").as_bytes()))
    }

    /// Takes a request down the policy, computing what it asks for; with how often that was.
    fn ask(desk: &Desk, authorization: &str) -> (Verdict, Notes, usize) {
        ask_with(desk, &[("authorization", authorization)])
    }

    fn ask_with(desk: &Desk, fields: &[(&str, &str)]) -> (Verdict, Notes, usize) {
        let mut notes = Notes::told();
        let mut computed = 0;
        let (mut verdict, _) = desk.with("/", fields, &mut notes, |policy, x| policy.ask_for_tests(x, None));
        while let Verdict::Call(callout) = verdict {
            let Callout::Compute(computation) = *callout else { panic!("something else is asked for") };
            computed += 1;
            let result = CalloutResult::Computed((computation.run)());
            (verdict, _) = desk.with("/", fields, &mut notes, |policy, x| policy.ask_for_tests(x, Some(result)));
        }
        (verdict, notes, computed)
    }

    #[test]
    fn a_password_is_computed_once_and_then_remembered_for_a_while() {
        let desk = Desk::new(SPEC, SECRET);
        let (verdict, notes, computed) = ask(&desk, &shown("bob", "password"));
        assert!(verdict.goes_on());
        let principal = notes.principal.expect("a principal");
        assert_eq!((&*principal.id, &*principal.groups), ("default/bob", &["admins".into()][..]));
        assert_eq!((principal.kind, computed), (PrincipalKind::User, 1));
        assert_eq!(ask(&desk, &shown("bob", "password")).2, 0);
        assert_eq!(ask(&desk, &shown("bob", "Password")).2, 1);
        assert!(ask(&desk, &shown("ann", "a")).0.goes_on());
    }

    #[test]
    fn a_name_that_is_not_known_costs_as_much_as_one_that_is() {
        let desk = Desk::new(SPEC, SECRET);
        for (name, password) in [("ann", "b"), ("eve", "a"), ("", "")] {
            let (verdict, notes, computed) = ask(&desk, &shown(name, password));
            let Verdict::Respond(reply) = verdict else { panic!("{name} was let in") };
            assert_eq!((reply.reason, computed), (Reason::CredentialsInvalid, 1));
            assert_eq!(reply.detail, "");
            assert!(notes.principal.is_none());
        }
        for junk in ["Basic", "Basic !", "Basic YQ==", &format!("Basic {}", "YQ==".repeat(2000))] {
            let (verdict, _, computed) = ask(&desk, junk);
            assert!(!verdict.goes_on() && computed == 0, "{junk}");
        }
    }

    #[test]
    fn an_open_connection_ends_when_the_password_has_changed() {
        let desk = Desk::new(SPEC, SECRET);
        let principal = ask(&desk, &shown("ann", "a")).1.principal;
        assert!(desk.recheck(principal.as_ref()).is_some());
        let hash = SECRET.lines().find_map(|line| line.trim().strip_prefix("bob:")).expect("a hash");
        let changed: String = SECRET
            .lines()
            .map(|line| if line.trim().starts_with("ann:") { format!("    ann:{hash}\n") } else { format!("{line}\n") })
            .collect();
        assert!(Desk::new(SPEC, &changed).recheck(principal.as_ref()).is_none());
        let groups = SPEC.replace("admins: 'bob, eve'", "admins: ann");
        let today = Desk::new(&groups, SECRET).recheck(principal.as_ref()).expect("let in");
        assert_eq!(today.groups, ["admins".into()]);
    }

    #[test]
    fn unknown_names_cost_as_much_as_the_most_costly_hash() {
        let costs = |lines: &[&str]| {
            let mut secret =
                "{apiVersion: v1, kind: Secret, metadata: {name: staff}, stringData: {htpasswd: \"".to_owned();
            lines.iter().for_each(|line| secret.push_str(&format!("{line}\\n")));
            secret.push_str("\"}}\n");
            let spec = "{users: {name: staff, key: htpasswd}}\n";
            let (scheme, problems) = compile_scheme::<BasicScheme>(spec, &secret);
            scheme.unwrap_or_else(|| panic!("{problems:?}")).decoy.cost()
        };
        let line = |name: &str| SECRET.lines().map(str::trim).find(|line| line.starts_with(name)).expect("a line");
        let (cheap, dear) = (line("ann:"), line("ann:").replace("ann:$2a$06$", "eve:$2a$12$"));
        assert!(costs(&[cheap]) < costs(&[&dear]));
        assert_eq!(costs(&[cheap, &dear, line("bob:")]), costs(&[&dear]));
        assert_eq!(costs(&[&dear, line("bob:"), cheap]), costs(&[&dear]));
        // Memory counts, too.
        let large = line("bob:").replace("m=256", "m=262144");
        assert_eq!(costs(&[cheap, &large, line("bob:")]), costs(&[&large]));
    }

    #[test]
    fn who_has_a_good_key_cannot_try_out_passwords_beside_it() {
        let spec = "schemes: [{name: staff, basic: {users: {name: staff, key: htpasswd}}}, {name: key, apiKey: {}}]\n";
        let objects = format!("{SECRET}{}", key_object("one", "{consumer: mobile, hash: HASH1}"));
        // Whichever is asked first.
        for spec in [spec.to_owned(), format!("{spec}require: [{{key: []}}, {{staff: []}}]\n")] {
            let desk = Desk::new(&spec, &objects);
            let with =
                |password| ask_with(&desk, &[("authorization", &shown("ann", password)), ("x-api-key", &key(1))]).0;
            let Verdict::Respond(reply) = with("guess") else { panic!("a wrong password was let in") };
            assert_eq!(reply.reason, Reason::CredentialsInvalid);
            assert!(with("a").goes_on());
        }
    }

    #[test]
    fn hashes_that_are_quick_to_try_are_refused_without_being_shown() {
        let problems = Desk::refusals(&SPEC.replace("key: htpasswd", "key: old"), SECRET);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].why, "line 1 of the entry old: this is no bcrypt or Argon2 hash");
    }

    /// The verdict on a request whose password nobody has computed yet, and what goes on with it.
    fn begin(desk: &Desk, name: &str, password: &str) -> (Verdict, Notes) {
        let mut notes = Notes::new();
        let authorization = shown(name, password);
        let fields = [("authorization", &*authorization)];
        let (verdict, _) = desk.with("/", &fields, &mut notes, |policy, x| policy.ask_for_tests(x, None));
        (verdict, notes)
    }

    fn resume(desk: &Desk, name: &str, password: &str, mut notes: Notes, result: CalloutResult) -> (Verdict, Notes) {
        let authorization = shown(name, password);
        let fields = [("authorization", &*authorization)];
        let (verdict, _) = desk.with("/", &fields, &mut notes, |policy, x| policy.ask_for_tests(x, Some(result)));
        (verdict, notes)
    }

    fn computed(verdict: Verdict) -> CalloutResult {
        let Verdict::Call(callout) = verdict else { panic!("{verdict:?} instead of a computation") };
        let Callout::Compute(computation) = *callout else { panic!("something else is asked for") };
        CalloutResult::Computed((computation.run)())
    }

    #[test]
    fn failures_are_counted_before_they_are_computed() {
        let desk = Desk::new(&format!("{}failures: {{requests: 2, per: 10s}}\n", SPEC), SECRET);
        let good = begin(&desk, "ann", "a");
        let bad = begin(&desk, "ann", "b");
        let is_limited = |verdict: &Verdict| matches!(verdict, Verdict::Respond(reply) if reply.reason == Reason::AuthenticationLimited);
        assert!(is_limited(&begin(&desk, "ann", "c").0));
        // What was no failure is taken back, and what was one is not counted twice.
        let result = computed(good.0);
        assert!(resume(&desk, "ann", "a", good.1, result).0.goes_on());
        let result = computed(bad.0);
        assert!(!resume(&desk, "ann", "b", bad.1, result).0.goes_on());
        let (verdict, gone) = begin(&desk, "ann", "d");
        assert!(matches!(verdict, Verdict::Call(_)));
        // Who goes away meanwhile has failed.
        drop((verdict, gone));
        assert!(is_limited(&begin(&desk, "ann", "e").0));
    }

    #[test]
    fn the_same_password_is_computed_once_for_all_who_show_it() {
        let desk = Desk::new(&format!("{}failures: {{requests: 1, per: 10s}}\n", SPEC), SECRET);
        let first = begin(&desk, "ann", "a");
        let others: Vec<Notes> = (0..20)
            .map(|_| {
                let mut notes = Notes::new();
                let authorization = shown("ann", "a");
                let fields = [("authorization", &*authorization)];
                // They have passed the limit of failures before.
                let (proof, _) = desk.with("/", &fields, &mut notes, |policy, x| policy.decide_for_tests(x));
                assert!(matches!(&proof, Verdict::Call(callout) if matches!(**callout, Callout::Wait(_))), "{proof:?}");
                notes
            })
            .collect();
        let result = computed(first.0);
        assert!(resume(&desk, "ann", "a", first.1, result).0.goes_on());
        for notes in others {
            assert!(resume(&desk, "ann", "a", notes, CalloutResult::Waited).0.goes_on());
        }
    }
}
