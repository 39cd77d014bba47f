//! The compiled rules of an `AuthorizationPolicy`, and whether one matches.
//!
//! Called by the policy. A match says what it rests on and a miss what was missing, for explanations; both are words that are there anyway,
//! so that a request pays nothing for them.

use std::fmt;
use std::net::IpAddr;

use serde_json::Value as Json;
use transept_model::place::Spot;
use transept_wire::head::{FieldName, Method};

use super::super::patterns::{HostPattern, IdentityPattern, NamePattern, PathPattern, is_method_alike, methods};
use super::super::{CompileCx, Network};
use super::{AccessHeader, AccessOperation, AccessRule, AccessSource};
use crate::exchange::Exchange;
use crate::expression::{Condition, Fault};
use crate::principal::{Principal, PrincipalKind, Voucher};
use crate::redact::is_alike;

/// A compiled rule.
#[derive(Debug)]
pub(super) struct Access {
    /// Its name, or `deny[0]`.
    pub(super) label: Box<str>,
    side: Side,
    from: Vec<AccessSource>,
    to: Vec<Operation>,
    when: Vec<Condition>,
}

/// What a rule does when it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Deny,
    Allow,
}

#[derive(Debug)]
struct Operation {
    at: Spot,
    ports: Vec<u16>,
    methods: Vec<Method>,
    paths: Vec<PathPattern>,
    hosts: Vec<HostPattern>,
    headers: Vec<Header>,
    not_methods: Vec<Method>,
    not_paths: Vec<PathPattern>,
    not_hosts: Vec<HostPattern>,
}

#[derive(Debug)]
struct Header {
    name: FieldName,
    values: Vec<NamePattern>,
}

/// Who and what is judged.
pub(super) struct Subject<'a> {
    pub identity: Option<&'a str>,
    /// None while there are several clients behind a connection.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub http: Option<Http<'a>>,
}

/// A request that can be looked at.
pub(super) struct Http<'a> {
    pub exchange: &'a Exchange<'a>,
    pub principal: Option<&'a Principal>,
    pub host: &'a str,
}

/// What a rule does that asks for something which cannot be seen.
#[derive(Clone, Copy)]
pub(super) enum Unseen {
    /// It does as if that held.
    Holds,
    /// It does not match.
    Fails,
}

/// What a match rests on.
pub(super) struct Matched<'r> {
    from: Option<(usize, &'r AccessSource)>,
    to: Option<usize>,
    conditions: usize,
    fault: Option<(usize, Fault)>,
}

/// Why a rule does not match.
pub(super) enum Missed {
    /// A field of an entry of `from`; of several entries, the last one's.
    From(usize, &'static str),
    /// A field of an entry of `to`; of several entries, the last one's.
    To(usize, &'static str),
    /// A condition that is false.
    When(usize),
    /// A condition that has no value.
    Fault(usize, Fault),
    /// Nothing is known that `when` could ask.
    Unseen,
}

impl fmt::Display for Matched<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if let Some((index, source)) = &self.from {
            words.push(format!("from[{index}] ({})", source.written().join(", ")));
        }
        if let Some(index) = self.to {
            words.push(format!("to[{index}]"));
        }
        if self.conditions > 0 {
            words.push(format!("all of `when` ({})", self.conditions));
        }
        if let Some((index, fault)) = &self.fault {
            words.push(format!("when[{index}] has no value ({fault}), which counts as true here"));
        }
        if words.is_empty() {
            return out.write_str("it asks for nothing");
        }
        out.write_str(&words.join(", "))
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missed::From(index, field) => write!(out, "from[{index}].{field}"),
            Missed::To(index, field) => write!(out, "to[{index}].{field}"),
            Missed::When(index) => write!(out, "when[{index}] is false"),
            Missed::Fault(index, fault) => write!(out, "when[{index}] has no value: {fault}"),
            Missed::Unseen => out.write_str("`when` asks for a request that cannot be seen"),
        }
    }
}

impl Access {
    pub(super) fn compile(list: &str, index: usize, spec: &AccessRule, side: Side, cx: &mut CompileCx<'_>) -> Access {
        let label = match &spec.name {
            Some(name) => name.to_string(),
            None => format!("{list}[{index}]"),
        };
        let to = spec.to.iter().map(|operation| Operation::compile(operation, cx)).collect();
        Access { label: label.into(), side, to, from: spec.from.clone(), when: spec.when.clone() }
    }

    /// The ports that it names, and those that they lead to.
    pub(super) fn ports(&self) -> impl Iterator<Item = (u16, Spot)> {
        self.to.iter().flat_map(|operation| operation.ports.iter().map(|port| (*port, operation.at)))
    }

    /// Whether it wants to know who makes the request.
    pub(super) fn asks_principal(&self) -> bool {
        self.from.iter().any(AccessSource::asks_principal)
    }

    /// Where it asks for what only a credential says.
    pub(super) fn asks_credential(&self) -> Option<Spot> {
        self.from.iter().find(|source| source.asks_credential()).map(|source| source.at)
    }

    /// The schemes that it names, and where each is written.
    pub(super) fn schemes(&self) -> impl Iterator<Item = (&str, Spot)> {
        self.from.iter().flat_map(|source| source.schemes.iter().map(|name| (&**name, source.at)))
    }

    /// The names that only Consumers have, and where each is written.
    pub(super) fn consumers(&self) -> impl Iterator<Item = (&str, Spot)> {
        self.from.iter().flat_map(|source| source.consumers(self.side).map(|name| (name, source.at)))
    }

    /// Where it asks for an identity, so that it matches nobody who has none.
    pub(super) fn asks_identity(&self) -> Option<Spot> {
        let asks = |source: &&AccessSource| !(source.identities.is_empty() && source.namespaces.is_empty());
        self.from.iter().find(asks).map(|source| source.at)
    }

    /// Where it asks for what only requests have, so that connections of which nobody sees any are all refused by it, or none is let in.
    pub(super) fn asks_request(&self) -> Option<(Spot, Side)> {
        let asks = |source: &&AccessSource| source.asks_principal();
        let needs = |operation: &&Operation| operation.needs_http();
        let (from, to) = match self.side {
            Side::Deny => (self.from.iter().find(asks), self.to.iter().find(needs)),
            Side::Allow => (
                self.from.first().filter(|_| self.from.iter().all(|source| asks(&source))),
                self.to.first().filter(|_| self.to.iter().all(|operation| needs(&operation))),
            ),
        };
        let condition = self.when.first().map(|_| Spot::default());
        let at = from.map(|source| source.at).or(to.map(|operation| operation.at)).or(condition)?;
        Some((at, self.side))
    }

    /// The scopes of which one is all that a known principal lacks for this rule to match.
    pub(super) fn lacks_scopes(&self, subject: &Subject<'_>) -> Option<&[NamePattern]> {
        let principal = subject.http.as_ref()?.principal.filter(|one| one.kind != PrincipalKind::Anonymous)?;
        let fits = |operation: &Operation| operation.misses(subject, Unseen::Fails, self.side).is_none();
        if !one_of(&self.to, fits) {
            return None;
        }
        let matched = Matched { from: None, to: None, conditions: 0, fault: None };
        self.conditions(subject, Unseen::Fails, matched).ok()?;
        let lacking = self.from.iter().find(|source| {
            source.misses(subject, Unseen::Fails, self.side) == Some("scopes") && source.has_claims(Some(principal))
        });
        lacking.map(|source| &*source.scopes)
    }

    /// Whether it matches: what that rests on, or what was missing.
    pub(super) fn matches(&self, subject: &Subject<'_>, unseen: Unseen) -> Result<Matched<'_>, Missed> {
        let mut matched = Matched { from: None, to: None, conditions: self.when.len(), fault: None };
        if !self.from.is_empty() {
            let mut missed = "";
            let found =
                self.from.iter().enumerate().find(|(_, source)| match source.misses(subject, unseen, self.side) {
                    None => true,
                    Some(field) => {
                        missed = field;
                        false
                    }
                });
            matched.from = Some(found.ok_or(Missed::From(self.from.len() - 1, missed))?);
        }
        if !self.to.is_empty() {
            let mut missed = "";
            let found = self.to.iter().position(|operation| match operation.misses(subject, unseen, self.side) {
                None => true,
                Some(field) => {
                    missed = field;
                    false
                }
            });
            matched.to = Some(found.ok_or(Missed::To(self.to.len() - 1, missed))?);
        }
        self.conditions(subject, unseen, matched)
    }

    fn conditions<'r>(
        &'r self,
        subject: &Subject<'_>,
        unseen: Unseen,
        mut matched: Matched<'r>,
    ) -> Result<Matched<'r>, Missed> {
        if self.when.is_empty() {
            return Ok(matched);
        }
        let Some(http) = &subject.http else {
            return match unseen {
                Unseen::Holds => Ok(matched),
                Unseen::Fails => Err(Missed::Unseen),
            };
        };
        for (index, condition) in self.when.iter().enumerate() {
            match (condition.holds(http.exchange), self.side) {
                (Ok(true), _) => {}
                (Ok(false), _) => return Err(Missed::When(index)),
                (Err(fault), Side::Deny) => matched.fault = Some((index, fault)),
                (Err(fault), Side::Allow) => return Err(Missed::Fault(index, fault)),
            }
        }
        Ok(matched)
    }
}

/// An empty list asks for nothing.
fn one_of<T>(list: &[T], holds: impl FnMut(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(holds)
}

impl AccessSource {
    fn asks_principal(&self) -> bool {
        !(self.kinds.is_empty()
            && self.principals.is_empty()
            && self.schemes.is_empty()
            && self.groups.is_empty()
            && self.scopes.is_empty()
            && self.claims.is_empty()
            && self.not_principals.is_empty()
            && self.not_groups.is_empty())
    }

    /// The fields that are written, for explanations.
    fn written(&self) -> Vec<&'static str> {
        let fields = [
            ("kinds", self.kinds.is_empty()),
            ("principals", self.principals.is_empty()),
            ("schemes", self.schemes.is_empty()),
            ("groups", self.groups.is_empty()),
            ("scopes", self.scopes.is_empty()),
            ("claims", self.claims.is_empty()),
            ("identities", self.identities.is_empty()),
            ("namespaces", self.namespaces.is_empty()),
            ("addresses", self.addresses.is_empty()),
            ("notPrincipals", self.not_principals.is_empty()),
            ("notGroups", self.not_groups.is_empty()),
            ("notIdentities", self.not_identities.is_empty()),
            ("notAddresses", self.not_addresses.is_empty()),
        ];
        fields.into_iter().filter(|(_, empty)| !empty).map(|(name, _)| name).collect()
    }

    /// The field that does not hold, if there is one.
    fn misses(&self, subject: &Subject<'_>, unseen: Unseen, side: Side) -> Option<&'static str> {
        let identity = subject.identity;
        let is = |pattern: &IdentityPattern| identity.is_some_and(|identity| pattern.matches(identity));
        if !one_of(&self.identities, is) {
            return Some("identities");
        }
        if self.not_identities.iter().any(is) {
            return Some("notIdentities");
        }
        if !one_of(&self.namespaces, |namespace| identity.and_then(namespace_of) == Some(&**namespace)) {
            return Some("namespaces");
        }
        if let Some(missed) = self.misses_address(subject.address, unseen) {
            return Some(missed);
        }
        if !self.asks_principal() {
            return None;
        }
        match (&subject.http, unseen) {
            (Some(http), _) => self.misses_principal(http.principal, side),
            (None, Unseen::Holds) => None,
            (None, Unseen::Fails) => Some("principals"),
        }
    }

    fn misses_address(&self, address: Option<IpAddr>, unseen: Unseen) -> Option<&'static str> {
        let Some(address) = address else {
            return match unseen {
                Unseen::Fails if !self.addresses.is_empty() => Some("addresses"),
                Unseen::Fails if !self.not_addresses.is_empty() => Some("notAddresses"),
                _ => None,
            };
        };
        let contains = |network: &Network| network.contains(address);
        if !one_of(&self.addresses, contains) {
            return Some("addresses");
        }
        self.not_addresses.iter().any(contains).then_some("notAddresses")
    }

    fn misses_principal(&self, principal: Option<&Principal>, side: Side) -> Option<&'static str> {
        let kind = principal.map_or(PrincipalKind::Anonymous, |principal| principal.kind);
        if !one_of(&self.kinds, |wanted| wanted.is(kind)) {
            return Some("kinds");
        }
        let principal = principal.filter(|principal| principal.kind != PrincipalKind::Anonymous);
        // Whom a name helps must have it from whoever may give it; whom it harms may have it from anybody.
        let is = |pattern: &NamePattern, helps: bool| {
            principal
                .is_some_and(|one| pattern.matches(&one.id) && !(helps && self.is_pretended(one, pattern.as_str())))
        };
        if !one_of(&self.principals, |pattern| is(pattern, side == Side::Allow)) {
            return Some("principals");
        }
        if self.not_principals.iter().any(|pattern| is(pattern, side == Side::Deny)) {
            return Some("notPrincipals");
        }
        if !one_of(&self.schemes, |scheme| principal.is_some_and(|principal| *principal.scheme == **scheme)) {
            return Some("schemes");
        }
        let groups = principal.map_or(&[][..], |principal| &principal.groups);
        let member = |pattern: &NamePattern| groups.iter().any(|group| pattern.matches(group));
        if !one_of(&self.groups, member) {
            return Some("groups");
        }
        if self.not_groups.iter().any(member) {
            return Some("notGroups");
        }
        let scopes = principal.map_or(&[][..], |principal| &principal.scopes);
        if !one_of(&self.scopes, |pattern| scopes.iter().any(|scope| pattern.matches(scope))) {
            return Some("scopes");
        }
        if self.has_claims(principal) { None } else { Some("claims") }
    }

    fn has_claims(&self, principal: Option<&Principal>) -> bool {
        self.claims.iter().all(|wanted| {
            let claim = principal.and_then(|principal| principal.claim(&wanted.path));
            claim.is_some_and(|claim| one_of(&wanted.values, |pattern| claim_fits(claim, pattern)))
        })
    }

    /// Whether a principal fits by a name that is not for those to give who vouch for it: a workload's or a Consumer's, where no scheme is named whose
    /// word is to count. What is asked for may be Consumers, and their names in any form.
    fn is_pretended(&self, principal: &Principal, pattern: &str) -> bool {
        let is_of_consumer = || is_of_consumers(&principal.id) || are_of_consumers(pattern);
        self.schemes.is_empty()
            && pattern != "*"
            && (principal.kind != PrincipalKind::Workload && principal.id.starts_with("spiffe:")
                || principal.voucher != Voucher::Consumer && is_of_consumer())
    }

    /// The names in it that help whoever has them, and that only a Consumer has; a `*` at their end stands for anything.
    fn consumers(&self, side: Side) -> impl Iterator<Item = &str> {
        let names = if side == Side::Allow { &self.principals } else { &self.not_principals };
        let names = names.iter().filter(|_| self.schemes.is_empty()).map(NamePattern::as_str);
        names.filter(|name| are_of_consumers(name))
    }

    /// Whether it asks for what only a credential says, and no certificate of the mesh.
    fn asks_credential(&self) -> bool {
        !self.groups.is_empty()
            || !self.schemes.is_empty()
            || !self.scopes.is_empty()
            || !self.claims.is_empty()
            || self.principals.iter().any(|name| !name.is_of_the_mesh() && name.exact().is_some())
    }
}

/// Whether a name has the form that Consumers' have: NAMESPACE/NAME, both as Kubernetes takes them.
pub(super) fn is_of_consumers(name: &str) -> bool {
    let is_part = |part: &str| {
        let ends = [part.bytes().next(), part.bytes().last()];
        let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        ends.iter().all(|end| end.is_some_and(inside)) && part.bytes().all(|byte| inside(byte) || b"-.".contains(&byte))
    };
    name.split_once('/').is_some_and(|(namespace, name)| is_part(namespace) && is_part(name))
}

/// Whether a pattern, whose last character may stand for anything, asks for such names.
fn are_of_consumers(pattern: &str) -> bool {
    is_of_consumers(&pattern.replace('*', "x"))
}

/// Whether a claim, or an item of a list in it, fits.
fn claim_fits(claim: &Json, pattern: &NamePattern) -> bool {
    match claim {
        Json::String(text) => pattern.matches(text),
        Json::Number(number) => pattern.matches(&number.to_string()),
        Json::Bool(flag) => pattern.matches(if *flag { "true" } else { "false" }),
        Json::Array(items) => items.iter().any(|item| !item.is_array() && claim_fits(item, pattern)),
        Json::Null | Json::Object(_) => false,
    }
}

/// The namespace in `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
fn namespace_of(identity: &str) -> Option<&str> {
    let path = identity.strip_prefix("spiffe://")?.split_once('/')?.1;
    let (namespace, account) = path.strip_prefix("ns/")?.split_once('/')?;
    account.strip_prefix("sa/").filter(|account| !account.is_empty() && !account.contains('/'))?;
    Some(namespace)
}

impl Operation {
    fn compile(spec: &AccessOperation, cx: &mut CompileCx<'_>) -> Operation {
        let ports = cx.ports_meant(&spec.ports);
        let mut methods = |names| methods(names, spec.at, cx);
        Operation {
            at: spec.at,
            ports,
            methods: methods(&spec.methods),
            not_methods: methods(&spec.not_methods),
            paths: spec.paths.clone(),
            hosts: spec.hosts.clone(),
            headers: spec.headers.iter().filter_map(Header::compile).collect(),
            not_paths: spec.not_paths.clone(),
            not_hosts: spec.not_hosts.clone(),
        }
    }

    fn needs_http(&self) -> bool {
        !(self.methods.is_empty()
            && self.paths.is_empty()
            && self.hosts.is_empty()
            && self.headers.is_empty()
            && self.not_methods.is_empty()
            && self.not_paths.is_empty()
            && self.not_hosts.is_empty())
    }

    /// The field that does not hold, if there is one.
    fn misses(&self, subject: &Subject<'_>, unseen: Unseen, side: Side) -> Option<&'static str> {
        if !one_of(&self.ports, |port| *port == subject.port) {
            return Some("ports");
        }
        let Some(http) = &subject.http else {
            return match unseen {
                Unseen::Fails if self.needs_http() => Some("methods"),
                _ => None,
            };
        };
        let request = &*http.exchange.request;
        // Methods are case-sensitive (RFC 9110 section 9.1), and programs that do not know it take `delete` for DELETE: what a rule refuses, it refuses
        // in any case, and what it lets in is only what is spelled right.
        let is = |method: &Method| *method == request.method;
        let is_alike = |method: &Method| is_method_alike(method, &request.method);
        let (named, excluded) = match side {
            Side::Deny => (one_of(&self.methods, is_alike), self.not_methods.iter().any(is)),
            Side::Allow => (one_of(&self.methods, is), self.not_methods.iter().any(is_alike)),
        };
        if !named {
            return Some("methods");
        }
        if excluded {
            return Some("notMethods");
        }
        let path = |pattern: &PathPattern| pattern.matches(request.path());
        if !one_of(&self.paths, path) {
            return Some("paths");
        }
        if self.not_paths.iter().any(path) {
            return Some("notPaths");
        }
        let host = |pattern: &HostPattern| pattern.matches(http.host);
        if !one_of(&self.hosts, host) {
            return Some("hosts");
        }
        if self.not_hosts.iter().any(host) {
            return Some("notHosts");
        }
        if !self.headers.iter().all(|header| header.matches(http.exchange, side)) {
            return Some("headers");
        }
        None
    }
}

impl Header {
    fn compile(spec: &AccessHeader) -> Option<Header> {
        // The format of names has been checked when it was read.
        Some(Header { name: FieldName::new(spec.name.as_bytes()).ok()?, values: spec.values.clone() })
    }

    fn matches(&self, x: &Exchange<'_>, side: Side) -> bool {
        let fits = |text: &[u8]| {
            // What cannot be read is denied, and allows nothing.
            match std::str::from_utf8(text.trim_ascii()) {
                Ok(text) => one_of(&self.values, |pattern| pattern.matches(text)),
                Err(_) => matches!(side, Side::Deny),
            }
        };
        match side {
            Side::Allow => {
                let mut lines = x.request.fields.all_named(&self.name).peekable();
                lines.peek().is_some() && lines.all(fits)
            }
            // Programs that see no difference between `-` and `_` read the one for the other, so both are denied; only what is spelled right allows.
            Side::Deny => {
                let named = |name: &[u8]| is_alike(self.name.as_bytes(), name);
                let mut lines = x.request.fields.iter().filter(|(name, _)| named(name.bytes)).map(|(_, line)| line);
                lines.any(|line| fits(line) || line.split(|byte| *byte == b',').any(fits))
            }
        }
    }
}
