//! AuthenticationPolicy with keys of one namespace: what is let in, what is refused and how, and what the backend is told.

use std::time::Duration;

use std::net::SocketAddr;

use transept_model::place::{Invalid, ObjectName, SourceText};
use transept_model::schema::Schema;
use transept_model::value::{Budget, read};
use transept_model::{Loaded, load};
use transept_wire::head::Request;

use super::super::tests::refusals;
use super::super::{MODEL_KINDS, Needs};
use super::*;
use crate::exchange::{Connection, Notes, Now};
use crate::keep::Keep;
use crate::key;
use crate::principal::Principal;
use crate::reason::Reason;
use crate::verdict::Reply;

/// A key that is one for certain, made of a number instead of chance.
pub(super) fn key(number: u8) -> String {
    let mut next = number;
    key::make("tr", "test", |bytes| {
        for byte in bytes {
            next = next.wrapping_mul(73).wrapping_add(number | 1);
            *byte = next;
        }
    })
}

fn objects(keys: &str) -> String {
    let hashed = |number| key::hash(key(number).as_bytes(), None).to_string();
    let mut text = "\
{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {name: mobile}, spec: {groups: [apps, 'a,b'], plan: gold, tenant: acme}}
---
{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {name: late}, spec: {suspended: true}}
---
"
    .to_owned();
    text.push_str(keys);
    for number in 0..9 {
        text = text.replace(&format!("HASH{number}"), &format!("'{}'", hashed(number)));
    }
    text
}

pub(super) fn key_object(name: &str, spec: &str) -> String {
    format!("{{apiVersion: transept.dev/v1alpha1, kind: ApiKey, metadata: {{name: {name}}}, spec: {spec}}}\n---\n")
}

const NOW: Duration = Duration::from_secs(1_800_000_000);

/// Requests to one policy, each from the same client at the same time unless it says otherwise.
pub(super) struct Desk {
    policy: AuthenticationPolicy,
    client: &'static str,
    now: Duration,
}

impl AuthenticationPolicy {
    /// Asks about a request, or goes on with it.
    pub(super) fn ask_for_tests(&self, x: &mut Exchange<'_>, result: Option<CalloutResult>) -> Verdict {
        match result {
            Some(result) => self.on_callout(x, result),
            None => self.on_request(x),
        }
    }

    /// Asks about a request of a client that has not failed too often.
    pub(super) fn decide_for_tests(&self, x: &mut Exchange<'_>) -> Verdict {
        self.decide(Outcomes::from_elem(None, self.schemes.len()), Uses::new(), x)
    }
}

/// A scheme among these objects, and what is wrong with it.
pub(super) fn compile_scheme<S: scheme::Scheme>(spec: &str, objects: &str) -> (Option<S>, Vec<String>) {
    compile_with("test", spec, objects, &Keep::default())
}

/// The same by another name, with what others of its kind remember.
pub(super) fn compile_with<S: scheme::Scheme>(
    scheme: &str,
    spec: &str,
    objects: &str,
    keep: &Keep,
) -> (Option<S>, Vec<String>) {
    let Loaded { world, invalid, .. } = load(&[SourceText::new("world.yaml", objects)], MODEL_KINDS);
    assert!(invalid.is_empty(), "{invalid:?}");
    let mut cx = Decoder::new("test.yaml".into());
    let (values, problems) = read(&SourceText::new("test.yaml", spec), &Budget::default());
    assert!(problems.is_empty(), "{problems:?}");
    let spec = S::Spec::decode(&values[0], &mut cx);
    let name = ObjectName { kind: "AuthenticationPolicy".into(), namespace: "default".into(), name: "test".into() };
    let mut needs = Needs::default();
    let scheme = spec.and_then(|spec| {
        let mut compiling = CompileCx::new(&mut cx, &world, &name, keep, &mut needs);
        S::compile(&scheme.into(), &spec, &mut compiling)
    });
    (scheme, cx.into_problems().into_iter().map(|problem| problem.why).collect())
}

/// What became of a request.
struct Came {
    verdict: Verdict,
    request: Request,
    notes: Notes,
}

impl Desk {
    pub(super) fn new(spec: &str, objects: &str) -> Desk {
        let (policy, problems) = Desk::compile(spec, objects);
        assert!(problems.is_empty(), "{problems:?}");
        Desk { policy: policy.expect("a policy"), client: "192.0.2.1", now: NOW }
    }

    pub(super) fn refusals(spec: &str, objects: &str) -> Vec<Invalid> {
        Desk::compile(spec, objects).1
    }

    fn compile(spec: &str, keys: &str) -> (Option<AuthenticationPolicy>, Vec<Invalid>) {
        let Loaded { world, invalid, .. } = load(&[SourceText::new("world.yaml", &*objects(keys))], MODEL_KINDS);
        assert!(invalid.is_empty(), "{invalid:?}");
        let mut cx = Decoder::new("test.yaml".into());
        let (values, problems) = read(&SourceText::new("test.yaml", spec), &Budget::default());
        assert!(problems.is_empty(), "{problems:?}");
        let spec = AuthenticationPolicySpec::decode(&values[0], &mut cx).expect("a spec");
        let name = ObjectName { kind: "AuthenticationPolicy".into(), namespace: "default".into(), name: "test".into() };
        let (keep, mut needs) = (Keep::default(), Needs::default());
        let mut compiling = CompileCx::new(&mut cx, &world, &name, &keep, &mut needs);
        let policy = AuthenticationPolicy::compile(&spec, &mut compiling);
        (policy, cx.into_problems())
    }

    pub(super) fn with<R>(
        &self,
        target: &str,
        fields: &[(&str, &str)],
        notes: &mut Notes,
        ask: impl FnOnce(&AuthenticationPolicy, &mut Exchange<'_>) -> R,
    ) -> (R, Request) {
        let mut request = Request::build("GET", "http", "a.test", target).expect("a request");
        for (name, value) in fields {
            request.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
        }
        let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
        let result = ask(
            &self.policy,
            &mut Exchange {
                now: Now { monotonic: Duration::from_secs(5), unix: self.now },
                random: 1,
                connection: &Connection::new(address, address, None),
                client: self.client.parse().expect("an address"),
                listener_port: 80,
                request: &mut request,
                notes,
            },
        );
        (result, request)
    }

    /// Whether a connection that this principal has opened may go on, and who it is today.
    pub(super) fn recheck(&self, principal: Option<&Arc<Principal>>) -> Option<Arc<Principal>> {
        let mut notes = Notes::new();
        notes.principal = principal.cloned();
        let (verdict, _) = self.with("/", &[], &mut notes, |policy, x| policy.on_recheck(x));
        verdict.goes_on().then(|| notes.principal.unwrap_or_default())
    }

    fn ask(&self, target: &str, fields: &[(&str, &str)]) -> Came {
        let mut notes = Notes::told();
        let (verdict, request) = self.with(target, fields, &mut notes, |policy, x| policy.on_request(x));
        Came { verdict, request, notes }
    }
}

impl Came {
    fn reply(&self) -> &Reply {
        match &self.verdict {
            Verdict::Respond(reply) => reply,
            other => panic!("{other:?} instead of a reply"),
        }
    }

    fn reason(&self) -> Reason {
        self.reply().reason
    }

    fn challenges(&self) -> Vec<String> {
        let name = FieldName::known(FieldId::WWW_AUTHENTICATE);
        let fields = self.reply().fields.iter().filter(|(field, _)| *field == name);
        fields.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    fn id(&self) -> &str {
        assert!(self.verdict.goes_on(), "{:?}", self.verdict);
        self.notes.principal.as_ref().map_or("", |principal| &principal.id)
    }

    fn field(&self, name: &str) -> Option<String> {
        let found = self.request.fields.iter().find(|(field, _)| field.as_str().eq_ignore_ascii_case(name));
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }
}

const ONE: &str = "schemes: [{name: key, apiKey: {query: api_key}}]\n";

fn one_key() -> String {
    key_object("mobile-1", "{consumer: mobile, hash: HASH1, scopes: [orders.read]}")
}

#[test]
fn a_known_key_is_let_in_and_goes_no_further() {
    let desk = Desk::new(ONE, &one_key());
    for came in [
        desk.ask("/", &[("x-api-key", &key(1))]),
        desk.ask("/", &[("authorization", &format!("Bearer {}", key(1)))]),
        desk.ask(&format!("/?a=1&api_key={}&b=2", key(1)), &[]),
    ] {
        assert_eq!(came.id(), "default/mobile");
        let principal = came.notes.principal.as_ref().expect("a principal");
        assert_eq!((principal.plan.as_deref(), principal.tenant.as_deref()), (Some("gold"), Some("acme")));
        assert_eq!((&*principal.scheme, principal.credential.as_deref()), ("key", Some("mobile-1")));
        assert_eq!(came.field("x-auth-kind").as_deref(), Some("app"));
        assert_eq!(came.field("x-auth-id").as_deref(), Some("default/mobile"));
        assert_eq!(came.field("x-auth-groups").as_deref(), Some("apps,a%2Cb"));
        assert_eq!(came.field("x-auth-scopes").as_deref(), Some("orders.read"));
        assert_eq!(came.field("x-auth-credential"), None);
        let whole = format!("{:?}{:?}", came.request, came.notes);
        assert!(!whole.contains(&key(1)), "{whole}");
        assert!(matches!(came.request.query(), None | Some(b"a=1&b=2")));
    }
}

#[test]
fn a_key_may_stand_in_authorization_with_and_without_a_word() {
    let desk = Desk::new("{schemes: [{name: key, apiKey: {header: Authorization}}]}\n", &one_key());
    for shown in [key(1), format!("Bearer {}", key(1))] {
        let came = desk.ask("/", &[("Authorization", &shown)]);
        assert_eq!((came.id(), came.field("authorization")), ("default/mobile", None), "{shown}");
        let twice = desk.ask("/", &[("Authorization", &shown), ("Authorization", &key(2))]);
        assert_eq!(twice.reason(), Reason::CredentialsInvalid);
    }
}

#[test]
fn what_is_no_known_key_is_refused_and_not_repeated() {
    let desk = Desk::new(ONE, &one_key());
    let mistyped = key(1).replace("tr_test", "tr_live");
    for wrong in ["junk", &mistyped, &key(2)] {
        let came = desk.ask("/", &[("x-api-key", wrong)]);
        assert_eq!(came.reason(), Reason::CredentialsInvalid);
        assert_eq!(came.challenges(), ["Bearer realm=\"transept\", error=\"invalid_token\""]);
        let whole = format!("{:?}{:?}", came.verdict, came.notes);
        assert!(!whole.contains(wrong), "{whole}");
    }
    let came = desk.ask("/", &[]);
    assert_eq!(came.reason(), Reason::CredentialsMissing);
    assert_eq!(came.challenges(), ["Bearer realm=\"transept\""]);
    let two = desk.ask("/", &[("x-api-key", &key(1)), ("x-api-key", &key(2))]);
    assert_eq!(two.reason(), Reason::CredentialsInvalid);
}

#[test]
fn bad_credentials_are_refused_also_beside_what_was_not_asked_for() {
    let spec = "schemes: [{name: device, apiKey: {header: X-Device}}, {name: key, apiKey: {}}]\nrequire: [{device: [], key: []}, {}]\n";
    let desk = Desk::new(spec, &one_key());
    assert_eq!(desk.ask("/", &[("x-api-key", "junk")]).reason(), Reason::CredentialsInvalid);
    // Half of what is asked for together is nobody.
    let alone = desk.ask("/", &[("x-api-key", &key(1))]);
    assert_eq!(alone.id(), "");
    assert_eq!(alone.field("x-api-key"), None);
}

#[test]
fn what_clients_say_of_the_principal_is_removed() {
    let desk = Desk::new("schemes: [{name: key, apiKey: {}}]\nrequire: [{key: []}, {}]\n", &one_key());
    let forged =
        [("x-auth-id", "default/root"), ("X_Auth-Groups", "admins"), ("x-auth-plan", "gold"), ("x-auth-token", "7")];
    let came = desk.ask("/", &forged);
    assert_eq!(came.id(), "");
    assert_eq!(came.field("x-auth-kind").as_deref(), Some("anonymous"));
    for gone in ["x-auth-id", "x_auth-groups", "x-auth-plan"] {
        assert_eq!(came.field(gone), None, "{gone}");
    }
    assert_eq!(came.field("x-auth-token").as_deref(), Some("7"));
}

#[test]
fn bad_credentials_are_refused_also_where_none_are_needed() {
    let desk = Desk::new("schemes: [{name: key, apiKey: {}}]\nrequire: [{}, {key: [admin]}]\n", &one_key());
    assert_eq!(desk.ask("/", &[]).id(), "");
    assert_eq!(desk.ask("/", &[("x-api-key", "junk")]).reason(), Reason::CredentialsInvalid);
    // Good ones that are not good enough are as good as none, and better known.
    assert_eq!(desk.ask("/", &[("x-api-key", &key(1))]).id(), "default/mobile");
}

#[test]
fn a_scope_that_is_missing_is_said() {
    let desk = Desk::new(
        "schemes: [{name: key, apiKey: {}}]\nrequire: [{key: [orders.read, orders.write]}]\nrealm: shop\n",
        &one_key(),
    );
    let came = desk.ask("/", &[("x-api-key", &key(1))]);
    assert_eq!(came.reason(), Reason::ScopeInsufficient);
    assert_eq!(
        came.challenges(),
        ["Bearer realm=\"shop\", error=\"insufficient_scope\", scope=\"orders.read orders.write\""]
    );
    let desk = Desk::new(
        "schemes: [{name: key, apiKey: {}}]\nrequire: [{key: [orders.write]}, {key: [orders.read]}]\n",
        &one_key(),
    );
    assert_eq!(desk.ask("/", &[("x-api-key", &key(1))]).id(), "default/mobile");
}

#[test]
fn a_list_is_or_and_a_mapping_is_and() {
    let spec = "\
schemes: [{name: app, apiKey: {bearer: false}}, {name: device, apiKey: {header: x-device-key, bearer: false}}]
require: [{device: [], app: []}]
";
    let keys = one_key() + &key_object("device-7", "{consumer: mobile, hash: HASH2, expires: '2030-01-01T00:00:00Z'}");
    let both = [("x-api-key", &*key(1)), ("x-device-key", &*key(2))];
    let desk = Desk::new(spec, &keys);
    let came = desk.ask("/", &both);
    // The first that is named says who it is.
    let principal = came.notes.principal.as_ref().expect("a principal");
    assert_eq!((principal.credential.as_deref(), principal.until.is_some()), (Some("device-7"), true));
    assert!(principal.scopes.is_empty());
    assert_eq!(desk.ask("/", &both[..1]).reason(), Reason::CredentialsMissing);
    assert_eq!(desk.ask("/", &both[..1]).challenges(), ["ApiKey realm=\"transept\""]);
    let desk = Desk::new(&spec.replace("require: [{device: [], app: []}]", ""), &keys);
    assert!(desk.ask("/", &both[..1]).verdict.goes_on() && desk.ask("/", &both[1..]).verdict.goes_on());
    assert_eq!(desk.ask("/", &[]).reason(), Reason::CredentialsMissing);
}

#[test]
fn a_key_has_a_beginning_an_end_a_place_and_an_owner() {
    let keys = key_object("a", "{consumer: mobile, hash: HASH1, expires: '2027-01-15T08:00:00Z'}")
        + &key_object("b", "{consumer: mobile, hash: HASH2, notBefore: '2027-01-15T08:00:00Z'}")
        + &key_object("c", "{consumer: mobile, hash: HASH3, addresses: [198.51.100.0/24]}")
        + &key_object("d", "{consumer: mobile, hash: HASH4, disabled: true}")
        + &key_object("e", "{consumer: late, hash: HASH5}")
        + &key_object("f", "{consumer: nobody, hash: HASH6}");
    // 2027-01-15T08:00:00Z is NOW.
    let mut desk = Desk::new("schemes: [{name: key, apiKey: {}}]\nfailures: {requests: 1000}\n", &keys);
    let good = |desk: &Desk| -> Vec<bool> {
        (1..=6).map(|number| desk.ask("/", &[("x-api-key", &key(number))]).verdict.goes_on()).collect()
    };
    assert_eq!(good(&desk), [false, true, false, false, false, false]);
    desk.now = NOW - Duration::from_millis(1);
    desk.client = "198.51.100.7";
    assert_eq!(good(&desk), [true, false, true, false, false, false]);
    let came = desk.ask("/", &[("x-api-key", &key(6))]);
    assert_eq!(came.reply().cause.as_deref(), Some("scheme key: the key f belongs to a Consumer that does not exist"));
}

#[test]
fn a_key_for_pages_of_a_site_is_good_for_no_others() {
    let keys =
        key_object("a", "{consumer: mobile, hash: HASH1, origins: ['https://app.test', 'http://localhost:3000']}");
    let desk = Desk::new("schemes: [{name: key, apiKey: {}}]\nfailures: {requests: 1000}\n", &keys);
    let shown = key(1);
    let is_good = |origins: &[&str]| {
        let mut fields = vec![("x-api-key", shown.as_str())];
        fields.extend(origins.iter().map(|origin| ("origin", *origin)));
        desk.ask("/", &fields).verdict.goes_on()
    };
    assert!(is_good(&["https://app.test"]) && is_good(&["http://localhost:3000"]));
    for wrong in [
        &[][..],
        &["https://other.test"],
        &["https://app.test.evil.test"],
        &["null"],
        &["https://app.test", "https://app.test"],
    ] {
        assert!(!is_good(wrong), "{wrong:?}");
    }
    let came = desk.ask("/", &[("x-api-key", &shown)]);
    assert_eq!(came.reply().cause.as_deref(), Some("scheme key: the key a may not be used by pages of this origin"));
}

#[test]
fn who_fails_too_often_waits_whatever_it_shows() {
    let mut desk = Desk::new("schemes: [{name: key, apiKey: {}}]\nfailures: {requests: 2, per: 10s}\n", &one_key());
    assert_eq!(desk.ask("/", &[("x-api-key", "junk")]).reason(), Reason::CredentialsInvalid);
    assert_eq!(desk.ask("/", &[]).reason(), Reason::CredentialsMissing);
    for fields in [&[("x-api-key", &*key(1))][..], &[("x-api-key", "junk")], &[]] {
        let came = desk.ask("/", fields);
        assert_eq!(came.reason(), Reason::AuthenticationLimited);
        assert!(came.reply().fields.contains(&(FieldName::known(FieldId::RETRY_AFTER), b"5".to_vec())));
    }
    desk.client = "192.0.2.2";
    assert_eq!(desk.ask("/", &[("x-api-key", &key(1))]).id(), "default/mobile");
}

#[test]
fn an_open_connection_ends_with_its_credential() {
    let expiring = key_object("mobile-1", "{consumer: mobile, hash: HASH1, expires: '2027-01-15T08:00:01Z'}");
    let stands = |desk: &Desk, principal| desk.recheck(principal).is_some();
    let mut desk = Desk::new(ONE, &expiring);
    let principal = desk.ask("/", &[("x-api-key", &key(1))]).notes.principal;
    assert!(stands(&desk, principal.as_ref()));
    assert!(!stands(&desk, None));
    desk.now = NOW + Duration::from_secs(1);
    assert!(!stands(&desk, principal.as_ref()));
    let revoked = key_object("mobile-1", "{consumer: mobile, hash: HASH1, disabled: true}");
    assert!(!stands(&Desk::new(ONE, &revoked), principal.as_ref()));
    assert!(!stands(&Desk::new(ONE, &key_object("mobile-2", "{consumer: mobile, hash: HASH1}")), principal.as_ref()));
    assert!(!stands(&Desk::new("schemes: [{name: other, apiKey: {}}]\n", &expiring), principal.as_ref()));
}

const TWO: &str = "\
schemes: [{name: app, apiKey: {bearer: false}}, {name: device, apiKey: {header: x-device-key, bearer: false}}]
require: [{device: [], app: []}]
";

#[test]
fn an_open_connection_ends_with_any_credential_that_it_needed() {
    let device = key_object("device-7", "{consumer: mobile, hash: HASH2}");
    let desk = Desk::new(TWO, &(one_key() + &device));
    let both = [("x-api-key", &*key(1)), ("x-device-key", &*key(2))];
    let principal = desk.ask("/", &both).notes.principal;
    assert!(desk.recheck(principal.as_ref()).is_some());
    assert!(Desk::new(TWO, &device).recheck(principal.as_ref()).is_none(), "the second key was revoked");
    assert!(Desk::new(TWO, &one_key()).recheck(principal.as_ref()).is_none(), "the first key was revoked");
    // What was shown beside it is enough today, too, but no good credential any more.
    let either = TWO.replace("[{device: [], app: []}]", "[{device: []}, {device: [], app: []}]");
    assert!(Desk::new(&either, &device).recheck(principal.as_ref()).is_none());
}

#[test]
fn an_open_connection_is_judged_by_what_is_required_today() {
    let desk = Desk::new(ONE, &one_key());
    let principal = desk.ask("/", &[("x-api-key", &key(1))]).notes.principal;
    let today = |require: &str, keys: &str| {
        let spec = format!(
            "schemes: [{{name: key, apiKey: {{}}}}, {{name: other, apiKey: {{header: x-other}}}}]\n{require}\n"
        );
        Desk::new(&spec, keys).recheck(principal.as_ref())
    };
    assert!(today("", &one_key()).is_some());
    assert!(today("require: [{key: [orders.read]}, {other: []}]", &one_key()).is_some());
    assert!(today("require: [{key: [orders.write]}, {other: []}]", &one_key()).is_none());
    assert!(today("require: [{key: [], other: []}]", &one_key()).is_none());
    // Where nothing is required, good credentials that are not good enough are no worse than none.
    assert!(today("require: [{key: [orders.write]}, {other: []}, {}]", &one_key()).is_some());
    // What the key is good for, and who its Consumer is, count as they are today.
    let lesser = key_object("mobile-1", "{consumer: mobile, hash: HASH1, scopes: [orders.list]}");
    assert!(today("require: [{key: [orders.read]}, {other: []}]", &lesser).is_none());
    let principal = today("", &lesser).expect("let in");
    assert_eq!(principal.scopes, ["orders.list".into()]);
}

#[test]
fn an_open_connection_ends_when_its_key_has_become_another_one() {
    let principal = Desk::new(ONE, &one_key()).ask("/", &[("x-api-key", &key(1))]).notes.principal;
    let replaced = key_object("mobile-1", "{consumer: mobile, hash: HASH2, scopes: [orders.read]}");
    assert!(Desk::new(ONE, &replaced).recheck(principal.as_ref()).is_none());
}

#[test]
fn mistakes_in_the_spec_are_refused_with_a_remedy() {
    for (spec, why) in [
        ("schemes: []\n", "the policy names no scheme, so nobody could come in"),
        ("{}\n", "the policy names no scheme, so nobody could come in"),
        ("schemes: [{name: key}]\n", "the scheme `key` needs one of"),
        ("schemes: [{name: key, apiKey: {}}]\nrequire: [{kye: []}]\n", "there is no scheme \"kye\" in `schemes`"),
        ("schemes: [{name: key, apiKey: {}}]\nrequire: [{}]\n", "no requirement names the scheme `key`"),
        ("schemes: [{name: key, apiKey: {}}]\nrequire: [key]\n", "expected a mapping"),
        ("schemes: [{name: key, apiKey: {}}]\nrequire: [{key: ['a b']}]\n", "\"a b\" cannot be a scope"),
        ("schemes: [{name: key, apiKey: {}}]\nrealm: 'a\"b'\n", "the realm cannot be sent"),
        ("schemes: [{name: key, apiKey: {pepper: {name: x, key: y}}}]\n", "there is no Secret default/x"),
    ] {
        let problems = refusals::<AuthenticationPolicy>(spec);
        let first = problems.first().expect(spec);
        assert!(first.why.starts_with(why), "{spec}: {}", first.why);
        assert!(first.remedy.is_some(), "{spec}");
    }
}

/// Schemes with a secret that may be any bytes, and those whose secret is text.
const ANY_BYTES: [&str; 4] = [
    "jwt: {issuer: i, audiences: [a], keys: {sharedSecret: {name: s, key: KEY}}}",
    "hmac: {keys: [{username: u, secret: {name: s, key: KEY}, consumer: mobile}]}",
    "signature: {keys: [{id: u, algorithm: hmac-sha256, key: {name: s, key: KEY}, consumer: mobile}]}",
    "apiKey: {pepper: {name: s, key: KEY}}",
];
const TEXT: [&str; 2] = [
    "introspection: {url: 'https://l.test/i', clientId: a, clientSecret: {name: s, key: KEY}, anyAudience: true}",
    "basic: {users: {name: s, key: KEY}}",
];

#[test]
fn entries_of_secrets_are_read_alike_and_their_names_are_not_repeated() {
    let secret = "\
{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {bytes: '//////////////////////////////////////////8='},
 stringData: {short: \"0123456789abcdef0123456789abcde\\n\", long: \"0123456789abcdef0123456789abcdef\\r\\n\"}}
---
";
    let refused = |scheme: &str, key: &str| {
        let spec = format!("schemes: [{{name: x, {}}}]\n", scheme.replace("KEY", key));
        let problems = Desk::refusals(&spec, secret);
        let told = |one: &Invalid| format!("{}; {}", one.why, one.remedy.as_deref().unwrap_or_default());
        problems.iter().map(told).collect::<Vec<_>>().join("; ")
    };
    for scheme in ANY_BYTES {
        assert_eq!(refused(scheme, "bytes"), "", "{scheme}");
        assert_eq!(refused(scheme, "long"), "", "{scheme}");
    }
    assert!(refused(ANY_BYTES[0], "short").contains("fewer than 32 bytes"), "the line end is no part of it");
    for scheme in TEXT {
        let told = refused(scheme, "bytes");
        assert!(told.contains("the entry that `key` names of the Secret default/s is there, but is no text"), "{told}");
    }
    for scheme in ANY_BYTES.into_iter().chain(TEXT) {
        let told = refused(scheme, "PLANTED");
        assert!(
            told.contains("the Secret default/s does not have the entry that `key` names") && !told.contains("PLANTED"),
            "{told}"
        );
    }
}
