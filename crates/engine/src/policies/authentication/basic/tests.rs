//! Names and passwords: what is computed, remembered, counted, and what nobody can tell from outside.

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
fn an_unknown_name_is_compared_with_the_hash_of_a_known_one_and_always_of_the_same() {
    let compiled = |secret: &str| {
        let (scheme, problems) = compile_scheme::<BasicScheme>("{users: {name: staff, key: htpasswd}}\n", secret);
        scheme.unwrap_or_else(|| panic!("{problems:?}"))
    };
    let scheme = compiled(SECRET);
    let of = |scheme: &BasicScheme, name: &str| {
        let hash = scheme.decoys.of(name).expect("a hash");
        // By what it verifies.
        (hash.verify(b"a"), hash.verify(b"password"))
    };
    let names: Vec<String> = (0..40).map(|number| format!("guess-{number}")).collect();
    let all: Vec<_> = names.iter().map(|name| of(&scheme, name)).collect();
    // Both kinds of hash stand in for names that are not known, so that neither gives away that a name is known.
    assert!(all.contains(&(true, false)) && all.contains(&(false, true)));
    let again = compiled(SECRET);
    assert!(names.iter().zip(&all).all(|(name, found)| of(&again, name) == *found));
}

#[test]
fn who_has_a_good_key_cannot_try_out_passwords_beside_it() {
    let spec = "schemes: [{name: staff, basic: {users: {name: staff, key: htpasswd}}}, {name: key, apiKey: {}}]\n";
    let objects = format!("{SECRET}{}", key_object("one", "{consumer: mobile, hash: HASH1}"));
    // Whichever is asked first.
    for spec in [spec.to_owned(), format!("{spec}require: [{{key: []}}, {{staff: []}}]\n")] {
        let desk = Desk::new(&spec, &objects);
        let with = |password| ask_with(&desk, &[("authorization", &shown("ann", password)), ("x-api-key", &key(1))]).0;
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

#[test]
fn a_user_that_stands_twice_is_refused() {
    let twice = SECRET.replace("    bob:$argon2id", "    ann:$argon2id");
    let problems = Desk::refusals(SPEC, &twice);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].why, "line 3 of the entry htpasswd names a user again");
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
    let is_limited =
        |verdict: &Verdict| matches!(verdict, Verdict::Respond(reply) if reply.reason == Reason::AuthenticationLimited);
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

#[test]
fn who_is_one_of_the_second_list_fails_at_the_first_one_in_no_count_and_once_only() {
    let spec = "\
schemes: [{name: staff, basic: {users: {name: staff, key: htpasswd}}}, {name: partners, basic: {users: {name: partners, key: htpasswd}}}]
failures: {requests: 3, per: 60s}
";
    let partners =
        SECRET.replace("name: staff", "name: partners").replace("ann:", "eve:").replace("    bob:", "    # ");
    let desk = Desk::new(spec, &(SECRET.to_owned() + &partners));
    let mut computed = Vec::new();
    for _ in 0..5 {
        let (verdict, notes, times) = ask(&desk, &shown("eve", "a"));
        assert!(verdict.goes_on(), "{verdict:?}");
        assert_eq!(&*notes.principal.expect("a principal").scheme, "partners");
        computed.push(times);
    }
    assert_eq!(computed, [2, 0, 0, 0, 0]);
    // A wrong one is one failure, though two lists were looked at.
    for _ in 0..3 {
        let Verdict::Respond(reply) = ask(&desk, &shown("eve", "b")).0 else { panic!("let in") };
        assert_eq!(reply.reason, Reason::CredentialsInvalid);
    }
    let Verdict::Respond(reply) = ask(&desk, &shown("eve", "b")).0 else { panic!("let in") };
    assert_eq!(reply.reason, Reason::AuthenticationLimited);
}
