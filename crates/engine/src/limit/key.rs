//! What a limit counts by: parts of a request that together are a key.
//!
//! A spec that the limiting policies share, and what becomes of it. Keys are written so that no two different ones read the same, hashed
//! with a secret seed, and never leave the process except as a hash.

use std::net::IpAddr;

use smallvec::SmallVec;
use transept_model::place::Spot;
use transept_model::schema::{Decoder, HEADER_NAME, Rule, Text};
use transept_model::value::Value;
use transept_model::{choice, object};
use transept_wire::head::FieldName;
use twox_hash::XxHash3_128;

use super::plans::Plans;
use crate::exchange::Exchange;
use crate::expression::TextExpression;
use crate::policies::{Caution, CompileCx, Identified, Known, Phase, kind};
use crate::principal::{Principal, PrincipalKind, Voucher};

object! {
    /// A part of a key. One of `from`, `header`, `claim` and `expression`.
    pub struct KeyPartSpec {
        /// Something that is known about a request. Users of two issuers are two, also under one name.
        from: Option<KeySource>;
        /// The value of this header field; of several lines the first.
        header: Option<Text> => Rule::Is(&HEADER_NAME);
        /// The value of this claim of the principal, by the path of its members: `realm_access.tenant`. Text, numbers and booleans.
        claim: Option<Text> => Rule::Length(1, 256);
        /// Text that an expression makes of the request and who makes it: `request.path.split("/")[1]`. Empty text, and no value, is none.
        expression: Option<TextExpression>;
        /// With `from: Address`, how many bits of an IPv4 address count.
        ipv4_prefix: u8 = 32 => Rule::Range(1, 32);
        /// With `from: Address`, how many bits of an IPv6 address count. Who has one address usually has all of a /64.
        ipv6_prefix: u8 = 64 => Rule::Range(1, 128);
    }
    check check_part;
}

choice! {
    /// What is known about a request.
    pub enum KeySource {
        /// Who makes it: a user, an app or a workload.
        Principal = "Principal",
        /// Which app makes it. A workload of the mesh counts as one; users have none.
        App = "App",
        /// Which credential was shown: the name of a key, the id of a token.
        Credential = "Credential",
        /// The client's address.
        Address = "Address",
        /// Which rule of which route takes it.
        Route = "Route",
    }
}

choice! {
    /// What happens to a request that lacks a part of the key.
    pub enum Missing {
        /// It is refused with 400.
        Reject = "Reject",
        /// All that lack the same part share one key.
        Share = "Share",
        /// The limit does not hold for it.
        Skip = "Skip",
    }
}

fn check_part(part: &KeyPartSpec, _: &Value, cx: &mut Decoder) {
    let written = [part.from.is_some(), part.header.is_some(), part.claim.is_some(), part.expression.is_some()];
    if written.iter().filter(|written| **written).count() != 1 {
        cx.refuse(part.at, "one of `from`, `header`, `claim` and `expression` is needed")
            .remedy("write one; several parts are several items of the list");
    }
    let prefixes = part.ipv4_prefix != 32 || part.ipv6_prefix != 64;
    if prefixes && part.from != Some(KeySource::Address) {
        cx.refuse(part.at, "only an address has a prefix").remedy("write it beside `from: Address`");
    }
}

/// A compiled key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    parts: Vec<Part>,
    missing: Missing,
    /// Where the limit is written.
    pub(crate) at: Spot,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Principal,
    App,
    Credential,
    Address { ipv4: u8, ipv6: u8 },
    Route,
    Header(FieldName),
    Claim(Box<str>),
    Expression(TextExpression),
}

/// A key as bytes.
pub(crate) type KeyBytes = SmallVec<[u8; 96]>;

/// What became of the key of a request.
#[derive(Debug)]
pub(crate) enum Found {
    /// It is in the bytes.
    Whole,
    /// The limit does not hold.
    Skipped,
    /// The request lacks this part.
    Lacks(String),
}

impl Key {
    /// Compiles the parts of a key. `missing` may be left out where nothing can be missing.
    pub(crate) fn compile(
        parts: Option<&Vec<KeyPartSpec>>,
        missing: Option<Missing>,
        at: Spot,
        phase: Phase,
        cx: &mut CompileCx<'_>,
    ) -> Option<Key> {
        let Some(parts) = parts else {
            cx.refuse(at, "what is counted by is not said").remedy(
                "write `key: [{from: Address}]` or other parts, or `key: []` for one limit that everybody shares",
            );
            return None;
        };
        let compiled: Vec<Part> = parts.iter().filter_map(compile_part).collect();
        let may_lack = compiled.iter().any(|part| !matches!(part, Part::Address { .. } | Part::Route));
        if may_lack && missing.is_none() {
            cx.refuse(at, "a request may lack a part of the key, and what becomes of it then is not said").remedy(
                "write `missing: Reject`, `missing: Share` (one key for all of them) or `missing: Skip` (no limit)",
            );
            return None;
        }
        for (part, spec) in compiled.iter().zip(parts) {
            judge_part(part, spec, phase, cx);
        }
        Some(Key { parts: compiled, missing: missing.unwrap_or(Missing::Share), at })
    }

    /// Writes the key of a request.
    pub(crate) fn write(&self, x: &Exchange<'_>, out: &mut KeyBytes) -> Found {
        for part in &self.parts {
            if part.write(x, out).is_some() {
                continue;
            }
            match self.missing {
                Missing::Reject => return Found::Lacks(part.name()),
                Missing::Skip => return Found::Skipped,
                Missing::Share => out.push(0xff),
            }
        }
        Found::Whole
    }

    /// Where a part of it is not found out, and what happens there.
    fn unknown(&self, known: Known) -> Option<(Identified, String)> {
        let mut places = self.parts.iter().filter_map(|part| Some((part, part.found_out(known)?)));
        let (part, place) = places.find(|(_, place)| *place != Identified::Everywhere)?;
        let missing = match self.missing {
            Missing::Reject => "`missing: Reject` refuses all requests",
            Missing::Share => "`missing: Share` counts all requests under one key",
            Missing::Skip => "`missing: Skip` means that the limit never holds",
        };
        Some((place, format!("counts by {}, and {missing}", part.name())))
    }

    /// The first part that the request lacks, for explanations.
    pub(crate) fn lacking(&self, x: &Exchange<'_>) -> Option<String> {
        let mut bytes = KeyBytes::new();
        self.parts.iter().find(|part| part.write(x, &mut bytes).is_none()).map(Part::name)
    }

    /// The key of a request for explanations. What may be secret is shown as a hash.
    pub(crate) fn describe(&self, x: &Exchange<'_>) -> String {
        if self.parts.is_empty() {
            return "everybody".to_owned();
        }
        let lacks = match self.missing {
            Missing::Share => " (missing: Share, one key with all that have none)",
            Missing::Reject => " (missing: Reject)",
            Missing::Skip => " (missing: Skip)",
        };
        let parts: Vec<String> = self.parts.iter().map(|part| part.describe(x, lacks)).collect();
        parts.join(", ")
    }
}

/// What the owner of limits should know where nobody finds out who makes a request, and of plans that look misspelled: each with its name, its key
/// and its plans.
pub(crate) fn cautions<'l>(limits: impl Iterator<Item = (&'l str, &'l Key, &'l Plans)>, known: Known) -> Vec<Caution> {
    let remedy = "attach an AuthenticationPolicy to the same targets, or count by something else";
    let say = |name: &str, key: &Key, plans: &Plans| {
        let (place, what) = match plans.is_everybody() {
            true => key.unknown(known)?,
            false => (known.identified, "is for some plans only, and anonymous requests are on none".to_owned()),
        };
        let place = match place {
            Identified::Everywhere => return None,
            Identified::Partly if known.proven == Identified::Nowhere => "where no AuthenticationPolicy stands",
            Identified::Partly => "where no AuthenticationPolicy stands and clients prove no identity",
            Identified::Nowhere => "here, because no AuthenticationPolicy stands where this one is in force",
        };
        let what = format!("nobody finds out who makes requests {place}: limit `{name}` {what}; {remedy}");
        Some(Caution { at: key.at, what })
    };
    let all = limits.flat_map(|(name, key, plans)| [say(name, key, plans), plans.caution(name, key.at)]);
    all.flatten().collect()
}

/// A part of a key as text, for a service that is asked by text.
pub(crate) fn part_text(from: Option<KeySource>, claim: Option<&str>, x: &Exchange<'_>) -> Option<String> {
    let principal = x.principal();
    match (from, claim) {
        (Some(KeySource::Address), _) => Some(x.client.to_canonical().to_string()),
        (Some(KeySource::Route), _) => Some(format!("{:016x}", x.notes.rule_key)),
        (Some(KeySource::Principal), _) => {
            principal.filter(|one| one.kind != PrincipalKind::Anonymous).map(|one| one.id.to_string())
        }
        (Some(KeySource::App), _) => principal.filter(|one| one.kind.is_program()).map(|one| one.id.to_string()),
        (Some(KeySource::Credential), _) => principal?.credential.as_ref().map(ToString::to_string),
        (None, Some(path)) => match principal?.claim(path)? {
            serde_json::Value::String(value) => Some(value.clone()),
            value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => Some(value.to_string()),
            _ => None,
        },
        (None, None) => None,
    }
}

/// What is known under a key.
pub(crate) fn hash(seed: u64, key: &[u8]) -> u64 {
    let both = XxHash3_128::oneshot_with_seed(seed, key);
    (both >> 64) as u64 ^ both as u64
}

fn compile_part(spec: &KeyPartSpec) -> Option<Part> {
    if let (None, Some(expression)) = (spec.from, &spec.expression) {
        return Some(Part::Expression(expression.clone()));
    }
    Some(match (&spec.from, &spec.header, &spec.claim) {
        (Some(KeySource::Principal), ..) => Part::Principal,
        (Some(KeySource::App), ..) => Part::App,
        (Some(KeySource::Credential), ..) => Part::Credential,
        (Some(KeySource::Address), ..) => Part::Address { ipv4: spec.ipv4_prefix, ipv6: spec.ipv6_prefix },
        (Some(KeySource::Route), ..) => Part::Route,
        (None, Some(header), _) => Part::Header(FieldName::new(&**header).ok()?),
        (None, None, Some(claim)) => Part::Claim((&**claim).into()),
        (None, None, None) => return None,
    })
}

/// What a part can never find.
fn judge_part(part: &Part, spec: &KeyPartSpec, phase: Phase, cx: &mut CompileCx<'_>) {
    let needs_credentials = matches!(part, Part::Credential | Part::Claim(_));
    if phase < Phase::Authenticate && part.asks_principal() {
        cx.refuse(spec.at, format!("before authentication nobody knows the {}", part.about()))
            .remedy("count by `from: Address` there, or leave out `stage: BeforeAuthentication`");
        return;
    }
    let authenticates = |policy: &transept_model::policy::Policy| {
        kind(policy.kind).is_some_and(|facts| facts.phase == Phase::Authenticate)
    };
    if needs_credentials && !cx.world.policies().iter().any(|policy| authenticates(policy)) {
        cx.refuse(
            spec.at,
            format!("nothing here finds out the {}: there is no policy that authenticates", part.name()),
        )
        .remedy("add an AuthenticationPolicy to the same target, or count by something else");
    }
}

impl Part {
    fn name(&self) -> String {
        match self {
            Part::Principal => "principal".to_owned(),
            Part::App => "app".to_owned(),
            Part::Credential => "credential".to_owned(),
            Part::Address { .. } => "address".to_owned(),
            Part::Route => "route".to_owned(),
            Part::Header(name) => format!("header {}", name.as_str()),
            Part::Claim(path) => format!("claim {path}"),
            Part::Expression(expression) => format!("value of {}", expression.text()),
        }
    }

    /// Whether it needs to know who makes the request.
    fn asks_principal(&self) -> bool {
        match self {
            Part::Principal | Part::App | Part::Credential | Part::Claim(_) => true,
            Part::Expression(expression) => expression.asks_principal(),
            Part::Address { .. } | Part::Route | Part::Header(_) => false,
        }
    }

    /// Where that is found out; none of what needs nobody. Who is known by a certificate is a principal, and has neither a credential nor claims.
    fn found_out(&self, known: Known) -> Option<Identified> {
        match self {
            part if !part.asks_principal() => None,
            Part::Principal | Part::App | Part::Expression(_) => Some(known.named),
            _ => Some(known.identified),
        }
    }

    /// What has to be known for it.
    fn about(&self) -> String {
        match self {
            Part::Expression(_) => "principal".to_owned(),
            part => part.name(),
        }
    }

    /// Writes the part, or gives none when the request lacks it.
    fn write(&self, x: &Exchange<'_>, out: &mut KeyBytes) -> Option<()> {
        let principal = x.notes.principal.as_deref();
        match self {
            Part::Address { ipv4, ipv6 } => {
                let (bits, bytes) = masked(x.client, *ipv4, *ipv6);
                out.push(bits);
                out.extend_from_slice(&bytes);
            }
            Part::Route => out.extend_from_slice(&x.notes.rule_key.to_le_bytes()),
            Part::Header(name) => text(x.request.fields.first_named(name)?, out),
            Part::Principal => match (principal, x.identity()) {
                (Some(one), _) if one.kind != PrincipalKind::Anonymous => {
                    out.push(one.kind as u8);
                    text(one.id.as_bytes(), out);
                    voucher(one, out);
                }
                (None, Some(identity)) => {
                    out.push(PrincipalKind::Workload as u8);
                    text(identity.as_bytes(), out);
                }
                _ => return None,
            },
            Part::App => match (principal, x.identity()) {
                (Some(app), _) if app.kind == PrincipalKind::App => {
                    text(app.id.as_bytes(), out);
                    voucher(app, out);
                }
                // No app is without a name.
                (Some(workload), _) if workload.kind == PrincipalKind::Workload => {
                    text(b"", out);
                    text(workload.id.as_bytes(), out);
                    voucher(workload, out);
                }
                (None, Some(identity)) => {
                    text(b"", out);
                    text(identity.as_bytes(), out);
                }
                _ => return None,
            },
            Part::Credential => {
                let principal = principal?;
                text(principal.scheme.as_bytes(), out);
                voucher(principal, out);
                text(principal.credential.as_deref()?.as_bytes(), out);
            }
            Part::Claim(path) => {
                let principal = principal?;
                match principal.claim(path)? {
                    serde_json::Value::String(value) => {
                        out.push(0);
                        text(value.as_bytes(), out);
                    }
                    value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => {
                        out.push(1);
                        text(value.to_string().as_bytes(), out);
                    }
                    _ => return None,
                }
                voucher(principal, out);
            }
            // Names that nobody has are empty in expressions, and would be one key that nobody has asked for.
            Part::Expression(expression) => {
                let written = |value: &str| (!value.is_empty()).then(|| text(value.as_bytes(), out));
                expression.value(x, written).ok().flatten()?;
            }
        }
        Some(())
    }

    fn describe(&self, x: &Exchange<'_>, lacks: &str) -> String {
        let mut bytes = KeyBytes::new();
        let name = self.name();
        if self.write(x, &mut bytes).is_none() {
            return format!("no {name}{lacks}");
        }
        match self {
            Part::Principal | Part::App => x.principal().map_or_else(|| name, |one| one.describe()),
            Part::Address { ipv4, ipv6 } => match x.client.to_canonical() {
                IpAddr::V4(_) => format!("address {}/{ipv4}", masked_address(x.client, *ipv4, *ipv6)),
                IpAddr::V6(_) => format!("address {}/{ipv6}", masked_address(x.client, *ipv4, *ipv6)),
            },
            Part::Route => "this rule".to_owned(),
            Part::Credential | Part::Header(_) | Part::Claim(_) | Part::Expression(_) => {
                format!("{name} #{:08x}", hash(0, &bytes) as u32)
            }
        }
    }
}

/// Who vouches for the name of a principal: the same name is somebody else elsewhere.
fn voucher(principal: &Principal, out: &mut KeyBytes) {
    match &principal.voucher {
        Voucher::Consumer => out.push(0),
        Voucher::Issuer(issuer) => {
            out.push(1);
            text(issuer.as_bytes(), out);
        }
        Voucher::Scheme => {
            out.push(2);
            text(principal.scheme.as_bytes(), out);
        }
    }
}

fn text(value: &[u8], out: &mut KeyBytes) {
    out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    out.extend_from_slice(value);
}

fn masked_address(address: IpAddr, ipv4: u8, ipv6: u8) -> IpAddr {
    let (bits, bytes) = masked(address, ipv4, ipv6);
    if bits == 4 {
        let [.., a, b, c, d] = bytes;
        IpAddr::from([a, b, c, d])
    } else {
        IpAddr::from(bytes)
    }
}

/// The version of an address, and the bits of it that count.
fn masked(address: IpAddr, ipv4: u8, ipv6: u8) -> (u8, [u8; 16]) {
    let keep = |bits: u128, width: u32, prefix: u8| {
        let drop = width.saturating_sub(u32::from(prefix));
        bits.checked_shr(drop).and_then(|kept| kept.checked_shl(drop)).unwrap_or(0)
    };
    match address.to_canonical() {
        IpAddr::V4(address) => (4, keep(u128::from(address.to_bits()), 32, ipv4).to_be_bytes()),
        IpAddr::V6(address) => (6, keep(address.to_bits(), 128, ipv6).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_grouped_by_prefix() {
        let of = |text: &str| masked_address(text.parse().expect("an address"), 24, 64).to_string();
        assert_eq!(of("192.0.2.77"), "192.0.2.0");
        assert_eq!(of("::ffff:192.0.2.77"), "192.0.2.0");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(masked_address("192.0.2.77".parse().expect("an address"), 32, 64).to_string(), "192.0.2.77");
    }

    /// The key of a principal by one part.
    fn key_of(part: &Part, principal: Principal) -> KeyBytes {
        let address = "192.0.2.1:80".parse().expect("an address");
        let mut request = transept_wire::head::Request::build("GET", "http", "a.test", "/").expect("a request");
        let mut notes = crate::exchange::Notes::new();
        notes.principal = Some(std::sync::Arc::new(principal));
        let x = Exchange {
            now: crate::exchange::Now { monotonic: std::time::Duration::ZERO, unix: std::time::Duration::ZERO },
            random: 0,
            connection: &crate::exchange::Connection::new(address, address, None),
            client: address.ip(),
            listener_port: 80,
            request: &mut request,
            notes: &mut notes,
        };
        let mut out = KeyBytes::new();
        part.write(&x, &mut out).expect("a key");
        out
    }

    #[test]
    fn one_name_is_as_many_as_vouch_for_it() {
        let by = |voucher: Voucher, scheme: &str| Principal {
            kind: PrincipalKind::App,
            id: "default/mob".into(),
            voucher,
            scheme: scheme.into(),
            credential: Some("1".into()),
            ..Principal::default()
        };
        let issuer = |name: &str| Voucher::Issuer(name.into());
        for part in [Part::Principal, Part::App, Part::Credential] {
            let all = [
                by(Voucher::Consumer, "token"),
                by(issuer("https://one.test"), "token"),
                by(issuer("https://two.test"), "token"),
                by(Voucher::Scheme, "token"),
                by(Voucher::Scheme, "users"),
            ];
            let keys: std::collections::HashSet<_> = all.into_iter().map(|one| key_of(&part, one)).collect();
            assert_eq!(keys.len(), 5, "{part:?}");
        }
        // Of one issuer it is one, by whichever scheme, and of a Consumer by whichever of its keys.
        for voucher in [issuer("https://one.test"), Voucher::Consumer] {
            let keys = ["here", "there"].map(|scheme| key_of(&Part::Principal, by(voucher.clone(), scheme)));
            assert_eq!(keys[0], keys[1]);
        }
    }

    #[test]
    fn parts_cannot_be_moved_from_one_into_the_next() {
        let write = |parts: &[&[u8]]| {
            let mut out = KeyBytes::new();
            parts.iter().for_each(|part| text(part, &mut out));
            out
        };
        assert_ne!(write(&[b"ab", b"c"]), write(&[b"a", b"bc"]));
        assert_ne!(write(&[b"a"]), write(&[b"a", b""]));
    }
}
