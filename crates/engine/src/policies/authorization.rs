//! `AuthorizationPolicy`: who may do what, by principal, identity, address, port, method, path, host, header and expression.
//!
//! On a Gateway, a listener, a route or a rule it is asked about each request; on a Service it stands at the workloads of that Service
//! and is asked about each connection and, where that carries HTTP, each request. All policies at one place count together: a deny rule
//! that matches refuses; else, when any of them has `allow`, a rule of theirs must match; else everything is allowed. A
//! connection whose requests are not looked at has no principal, no method and no path: deny rules that ask for them are taken as matching,
//! allow rules as not matching. The refusal names policy and rule in its cause, for logs and explanations; the caller is told nothing
//! but 403, and by a challenge which scope it is that its credential lacks, if it lacks nothing else. The spec is here, rules are matched in `rules`.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;
use transept_model::place::Spot;
use transept_model::policy::{Merge, Target};
use transept_model::schema::{Decoder, HEADER_NAME, Rule as Limit, Text};
use transept_model::value::{Value, quote};
use transept_model::world::World;
use transept_model::{choice, object};
use transept_wire::head::{FieldId, FieldName, Request};
use transept_wire::normalize::{self, Form, MergeSlashes, Normal, PathRules, Slashes};

use super::authentication::AuthenticationPolicy;
use super::patterns::{HostPattern, IdentityPattern, NamePattern, PathPattern};
use super::{Arrival, Carried, Caution, CompileCx, Identified, Known, Network, Phase, Policy, PolicyName};
use crate::exchange::Exchange;
use crate::expression::Condition;
use crate::principal::PrincipalKind;
use crate::reason::Reason;
use crate::verdict::{Reply, Verdict};

mod rules;

use rules::{Access, Http, Subject, Unseen};

object! {
    /// Who may do what. Deny rules come first, then allow rules; without any allow rules everything else is allowed.
    pub struct AuthorizationPolicySpec {
        /// What is refused, whatever `allow` says.
        deny: Vec<AccessRule> => Limit::MaxItems(256);
        /// What is allowed. When written, here or in another policy at the same place, everything else is refused; an empty
        /// list allows nothing.
        allow: Option<Vec<AccessRule>> => Limit::MaxItems(256);
    }
    check check_spec;
}

object! {
    /// One rule: who, what, and when. It matches when one of `from` and one of `to` does, and everything in `when` holds; what is left
    /// out is everybody, everything and always.
    pub struct AccessRule {
        /// Its name in logs and explanations.
        name: Option<Text> => Limit::Length(1, 63);
        /// Who it is about.
        from: Vec<AccessSource> => Limit::NotEmpty, Limit::MaxItems(64);
        /// What it is about.
        to: Vec<AccessOperation> => Limit::NotEmpty, Limit::MaxItems(64);
        /// Expressions (CEL) that must all hold. One that has no value for a request, because it asks for a header that is not there
        /// for example, holds in a deny rule and does not in an allow rule.
        when: Vec<Condition> => Limit::NotEmpty, Limit::MaxItems(16);
    }
}

choice! {
    /// What somebody is.
    pub enum WhoCalls {
        /// A person, by a token or a session.
        User = "user",
        /// A program of a consumer, by a key or a client of its own.
        App = "app",
        /// A member of the mesh, by its SPIFFE id.
        Workload = "workload",
        /// Nobody in particular.
        Anonymous = "anonymous",
    }
}

impl WhoCalls {
    const fn is(self, kind: PrincipalKind) -> bool {
        matches!(
            (self, kind),
            (WhoCalls::User, PrincipalKind::User)
                | (WhoCalls::App, PrincipalKind::App)
                | (WhoCalls::Workload, PrincipalKind::Workload)
                | (WhoCalls::Anonymous, PrincipalKind::Anonymous)
        )
    }
}

object! {
    /// Who: everything that is written must hold, of each list one; of `claims` all.
    pub struct AccessSource {
        /// What the principal is.
        kinds: Vec<WhoCalls> => Limit::NotEmpty, Limit::MaxItems(4), Limit::Unique;
        /// Names of principals: of a Consumer, the `sub` of a token, a SPIFFE id. A `*` at the end stands for anything; alone it is
        /// whoever is not anonymous. NAMESPACE/NAME is let in as a Consumer only, and a SPIFFE id as a workload only, unless
        /// `schemes` names the schemes whose word counts. Any issuer may have a `sub` in its tokens: where there are several, write `schemes`, too.
        principals: Vec<NamePattern> => Limit::NotEmpty, Limit::MaxItems(256);
        /// Names of the schemes of an AuthenticationPolicy by which the principal is recognised; where several are required together, the first.
        schemes: Vec<Text> => Limit::NotEmpty, Limit::MaxItems(16);
        /// Groups that the principal belongs to.
        groups: Vec<NamePattern> => Limit::NotEmpty, Limit::MaxItems(256);
        /// What the principal's credential is good for.
        scopes: Vec<NamePattern> => Limit::NotEmpty, Limit::MaxItems(256);
        /// What the principal's token says.
        claims: Vec<AccessClaim> => Limit::NotEmpty, Limit::MaxItems(16);
        /// Verified identities: `spiffe://transept.local/ns/shop/sa/cart`, or `shop/cart` for any trust domain that is
        /// trusted. A `*` at the end stands for anything; alone it is whoever has an identity.
        identities: Vec<IdentityPattern> => Limit::NotEmpty, Limit::MaxItems(256);
        /// Namespaces of verified identities.
        namespaces: Vec<Text> => Limit::NotEmpty, Limit::MaxItems(256);
        /// Networks of clients.
        addresses: Vec<Network> => Limit::NotEmpty, Limit::MaxItems(1024);
        /// Principals that are not meant; whoever is anonymous is none of them.
        not_principals: Vec<NamePattern> => Limit::MaxItems(256);
        /// Groups whose members are not meant.
        not_groups: Vec<NamePattern> => Limit::MaxItems(256);
        /// Identities that are not meant; who has none is none of them.
        not_identities: Vec<IdentityPattern> => Limit::MaxItems(256);
        /// Networks whose clients are not meant.
        not_addresses: Vec<Network> => Limit::MaxItems(1024);
    }
    check check_source;
}

object! {
    /// A claim of a token: text, a number, true or false, or a list of which one item fits.
    pub struct AccessClaim {
        /// Its name, or a path to it: `realm_access.roles`. A claim whose own name has the dots comes first.
        path: Text => Limit::Length(1, 256);
        /// What it may be; a `*` at the end stands for anything. Without it, the claim must be there.
        values: Vec<NamePattern> => Limit::NotEmpty, Limit::MaxItems(256);
    }
}

object! {
    /// What: everything that is written must hold, of each list one; of `headers` all.
    pub struct AccessOperation {
        /// Ports: of the listener, or behind a Service those of the program. The port of a Service stands for the one of the program that it
        /// leads to.
        ports: Vec<u16> => Limit::NotEmpty, Limit::MaxItems(256), Limit::Range(1, 65535);
        /// Methods of HTTP. A deny rule means them in any case, an allow rule as they are written.
        methods: Vec<Text> => Limit::NotEmpty, Limit::MaxItems(32), Limit::Length(1, 64);
        /// Paths: `/cart`, or `/cart/*` for `/cart` and everything below it.
        paths: Vec<PathPattern> => Limit::NotEmpty, Limit::MaxItems(256);
        /// Hosts: `shop.test`, or `*.shop.test` for every name below it.
        hosts: Vec<HostPattern> => Limit::NotEmpty, Limit::MaxItems(256);
        /// Header fields.
        headers: Vec<AccessHeader> => Limit::NotEmpty, Limit::MaxItems(16);
        /// Methods that are not meant.
        not_methods: Vec<Text> => Limit::MaxItems(32), Limit::Length(1, 64);
        /// Paths that are not meant.
        not_paths: Vec<PathPattern> => Limit::MaxItems(256);
        /// Hosts that are not meant.
        not_hosts: Vec<HostPattern> => Limit::MaxItems(256);
    }
}

object! {
    /// A header field. In an allow rule every line of it must fit; in a deny rule it is enough that a line does, or an item of a list in
    /// one, so that nobody escapes by writing the field twice.
    pub struct AccessHeader {
        /// Its name.
        name: Text => Limit::Is(&HEADER_NAME);
        /// What it may be, without spaces at the ends; a `*` at the end stands for anything. Without it, the field must be there.
        values: Vec<NamePattern> => Limit::NotEmpty, Limit::MaxItems(256);
    }
    check check_header;
}

/// Fields of one connection (RFC 9110 section 7.6.1), which are taken out before policies are asked.
const OF_CONNECTIONS: &[&str] = &["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

fn check_header(header: &AccessHeader, value: &transept_model::value::Value, cx: &mut Decoder) {
    let is = |name: &str| header.name.eq_ignore_ascii_case(name);
    if is("host") {
        cx.refuse_field(value, "name", "the host of a request is not among its fields here, so this never matches")
            .remedy("write `hosts` beside `headers`");
    }
    if let Some(name) = OF_CONNECTIONS.iter().find(|name| is(name)) {
        let why = format!(
            "`{name}` is about one connection and is taken out before policies are asked, so this never matches"
        );
        cx.refuse_field(value, "name", why).remedy("ask for another field, for methods or for paths");
    }
    // Lines are compared without spaces at their ends (RFC 9110 section 5.5).
    let is_padded = |text: &str| text.trim() != text;
    if header.values.iter().any(|pattern| is_padded(pattern.as_str())) {
        cx.refuse_field(value, "values", "a value has no spaces at its ends, so this never matches")
            .remedy("write it without them");
    }
}

fn check_spec(spec: &AuthorizationPolicySpec, value: &transept_model::value::Value, cx: &mut Decoder) {
    if spec.deny.is_empty() && spec.allow.is_none() {
        cx.refuse(value.at, "the policy says nothing").remedy("write `deny`, `allow` or both");
    }
}

fn check_source(source: &AccessSource, value: &transept_model::value::Value, cx: &mut Decoder) {
    let named = [
        ("principals", !source.principals.is_empty()),
        ("schemes", !source.schemes.is_empty()),
        ("groups", !source.groups.is_empty()),
        ("scopes", !source.scopes.is_empty()),
        ("claims", !source.claims.is_empty()),
    ];
    if source.kinds == [WhoCalls::Anonymous]
        && let Some((field, _)) = named.iter().find(|(_, written)| *written)
    {
        cx.refuse_field(value, field, format!("whoever is anonymous has no {field}, so this never matches"))
            .remedy("leave `kinds` out, or make two entries of `from`");
    }
    let covered = |network: &Network| source.not_addresses.iter().any(|not| not.0.contains(&network.0));
    if !source.addresses.is_empty() && source.addresses.iter().all(covered) {
        cx.refuse_field(value, "notAddresses", "it takes away all of `addresses`, so this never matches");
    }
}

/// One or several compiled `AuthorizationPolicy` objects.
#[derive(Debug)]
pub(crate) struct AuthorizationPolicy {
    parts: Vec<Part>,
    /// Whether some rule wants to know who makes the request.
    asks_principal: bool,
    /// Where some rule asks for what only a credential says.
    asks_credential: Option<Spot>,
    /// Where some rule asks for an identity.
    asks_identity: Option<Spot>,
    /// A name that only a Consumer has, and where it is written, while there is no such Consumer.
    missing: Option<(Box<str>, Spot)>,
    /// A scheme that no AuthenticationPolicy has, and where it is written.
    unknown: Option<(Box<str>, Spot)>,
}

/// One object's rules with its name; no name before they are joined.
#[derive(Clone, Debug)]
struct Part {
    name: Option<Arc<PolicyName>>,
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    deny: Vec<Access>,
    allow: Option<Vec<Access>>,
}

impl AuthorizationPolicy {
    /// The refusal, if there is one, and whose it is. `tell` gets a sentence on what decided, and on rules that could have.
    fn judge(
        &self,
        subject: &Subject<'_>,
        (deny, allow): (Unseen, Unseen),
        tell: &mut dyn FnMut(&dyn fmt::Display),
    ) -> Option<Refusal> {
        for part in &self.parts {
            for rule in &part.rules.deny {
                if let Ok(why) = rule.matches(subject, deny) {
                    let cause = format!("{}, rule {}", Named(part), rule.label);
                    tell(&format_args!("{cause} refuses: {why}"));
                    let reply = Reply::new(Reason::NotAuthorized).because(cause);
                    return Some(Refusal { reply, by: part.name.clone(), lacking: None });
                }
            }
        }
        let mut first = None;
        for part in &self.parts {
            let Some(rules) = &part.rules.allow else { continue };
            first = first.or(Some(part));
            for rule in rules {
                match rule.matches(subject, allow) {
                    Ok(why) => {
                        tell(&format_args!("{}, rule {} allows it: {why}", Named(part), rule.label));
                        return None;
                    }
                    Err(missed) => {
                        tell(&format_args!("{}, rule {} does not match: {missed}", Named(part), rule.label));
                    }
                }
            }
        }
        let first = first?;
        let cause = format!("{}, no rule allows it", Named(first));
        let reply = Reply::new(Reason::NotAuthorized).because(cause);
        let rules = self.parts.iter().flat_map(|part| part.rules.allow.iter().flatten());
        let lacking = rules.filter(|rule| rule.asks_credential().is_some()).find_map(|rule| rule.lacks_scopes(subject));
        Some(Refusal { reply, by: first.name.clone(), lacking: lacking.map(nameable) })
    }
}

impl AuthorizationPolicy {
    /// The refusal of a request as it is.
    fn judge_request(&self, x: &mut Exchange<'_>) -> Option<Refusal> {
        let mut told = Vec::new();
        let is_told = x.is_told();
        let refusal = {
            let x = &*x;
            let mut lower = Vec::new();
            // The codec has refused heads whose authority is no host.
            let host = normalize::authority(x.request.authority()).map(|parts| parts.host).unwrap_or_default();
            let principal = if self.asks_principal { x.principal() } else { None };
            let subject = Subject {
                identity: x.identity().map(|identity| &**identity),
                address: Some(x.client.to_canonical()),
                port: x.listener_port,
                http: Some(Http {
                    exchange: x,
                    principal: principal.as_deref(),
                    host: normalize::host_lower(host, &mut lower),
                }),
            };
            self.judge(&subject, (Unseen::Fails, Unseen::Fails), &mut |line| {
                if is_told {
                    told.push(line.to_string());
                }
            })
        };
        told.into_iter().for_each(|line| x.tell(|| line));
        refusal
    }
}

/// A refusal, whose it is, and the scope that would have helped; empty when none can be named.
struct Refusal {
    reply: Reply,
    by: Option<Arc<PolicyName>>,
    lacking: Option<Box<str>>,
}

/// Of several scopes of which one suffices, one that a challenge can name.
fn nameable(scopes: &[NamePattern]) -> Box<str> {
    // What may stand in a scope (RFC 6749 section 3.3).
    let is_scope = |text: &&str| text.bytes().all(|byte| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~'));
    scopes.iter().filter_map(NamePattern::exact).find(is_scope).unwrap_or_default().into()
}

/// What tells a client that another token would do (RFC 6750 section 3.1), where no policy that authenticates has words of its own.
fn challenge(scope: &str) -> String {
    match scope {
        "" => "Bearer error=\"insufficient_scope\"".to_owned(),
        scope => format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\""),
    }
}

struct Named<'a>(&'a Part);

impl fmt::Display for Named<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.name {
            Some(name) => name.fmt(out),
            None => out.write_str(AuthorizationPolicy::KIND),
        }
    }
}

impl Policy for AuthorizationPolicy {
    const KIND: &'static str = "AuthorizationPolicy";
    const ABOUT: &'static str =
        "Says who may do what, by principal, identity, address, port, method, path, header and expression.";
    const PHASE: Phase = Phase::Authorize;
    const MERGE: Merge = Merge::Together;
    const TARGETS: &'static [Target] = &[
        Target::Gateway,
        Target::Listener,
        Target::Route,
        Target::Rule,
        Target::TcpRoute,
        Target::Service,
        Target::Namespace,
    ];
    type Spec = AuthorizationPolicySpec;

    fn compile(spec: &AuthorizationPolicySpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let mut compile = |list: &str, rules: &[AccessRule], denies| -> Vec<Access> {
            let compiled = rules.iter().enumerate();
            compiled.map(|(index, rule)| Access::compile(list, index, rule, denies, cx)).collect()
        };
        let deny = compile("deny", &spec.deny, rules::Side::Deny);
        let allow = spec.allow.as_ref().map(|allow| compile("allow", allow, rules::Side::Allow));
        let asks_principal = deny.iter().chain(allow.iter().flatten()).any(Access::asks_principal);
        let rules = || deny.iter().chain(allow.iter().flatten());
        let asks_credential = rules().find_map(Access::asks_credential);
        let asks_identity = rules().find_map(Access::asks_identity);
        let names: Vec<String> =
            cx.world.consumers().iter().map(|one| format!("{}/{}", one.meta.namespace, one.meta.name)).collect();
        let is_missing = |(wanted, _): &(&str, Spot)| match wanted.strip_suffix('*') {
            Some(start) => !names.iter().any(|name| name.starts_with(start)),
            None => !names.iter().any(|name| name == wanted),
        };
        let missing = rules().flat_map(Access::consumers).find(is_missing).map(|(name, at)| (name.into(), at));
        let schemes: BTreeSet<&str> = schemes_of(cx.world).collect();
        let is_unknown = |(name, _): &(&str, Spot)| !schemes.contains(name);
        let unknown = rules().flat_map(Access::schemes).find(is_unknown).map(|(name, at)| (name.into(), at));
        let parts = vec![Part { name: None, rules: Arc::new(Rules { deny, allow }) }];
        Some(AuthorizationPolicy { parts, asks_principal, asks_credential, asks_identity, missing, unknown })
    }

    fn join(all: &[(&Arc<PolicyName>, &Self)]) -> Option<Self> {
        let named = |(name, policy): &(&Arc<PolicyName>, &Self)| {
            let name = Arc::clone(name);
            policy
                .parts
                .iter()
                .map(move |part| Part { name: Some(Arc::clone(&name)), rules: Arc::clone(&part.rules) })
                .collect::<Vec<_>>()
        };
        Some(AuthorizationPolicy {
            parts: all.iter().flat_map(named).collect(),
            asks_principal: all.iter().any(|(_, policy)| policy.asks_principal),
            asks_credential: all.iter().find_map(|(_, policy)| policy.asks_credential),
            asks_identity: all.iter().find_map(|(_, policy)| policy.asks_identity),
            missing: None,
            unknown: None,
        })
    }

    fn ports(&self) -> Vec<(u16, Spot)> {
        let rules = |part: &Part| {
            let rules = Arc::clone(&part.rules);
            rules.deny.iter().chain(rules.allow.iter().flatten()).flat_map(Access::ports).collect::<Vec<_>>()
        };
        self.parts.iter().flat_map(rules).collect()
    }

    fn of_connections(&self) -> Vec<Caution> {
        let rules = self.parts.iter().flat_map(|part| part.rules.deny.iter().chain(part.rules.allow.iter().flatten()));
        let say = |(label, at, side): (&str, Spot, rules::Side)| {
            let what = match side {
                rules::Side::Deny => "it refuses connections whatever they carry",
                rules::Side::Allow => "it lets no connection in",
            };
            let what = format!(
                "rule {label} asks for what only requests have, and a listener of TCP below its target takes connections without looking into \
                 them: {what}; for those ask for identities, namespaces, addresses or ports, in a policy of their own"
            );
            Caution { at, what }
        };
        rules.filter_map(|rule| rule.asks_request().map(|(at, side)| (&*rule.label, at, side))).map(say).collect()
    }

    fn cautions(&self, known: Known) -> Vec<Caution> {
        let place = match known.identified {
            Identified::Nowhere => Some("where it is in force"),
            Identified::Partly => Some("at some of the places where it is in force"),
            Identified::Everywhere => None,
        };
        let credential = self.asks_credential.zip(place).map(|(at, place)| {
            let what = "it asks who calls, by principals, groups, scopes or claims, and no AuthenticationPolicy finds that out";
            let remedy = "attach an AuthenticationPolicy to the same target, or to its Gateway; on a Service ask for `identities` or `namespaces`";
            Caution { at, what: format!("{what} {place}; {remedy}") }
        });
        let identity = self.asks_identity.filter(|_| known.proven == Identified::Nowhere).map(|at| {
            let what = "it asks for identities, and no client has one where it is in force: no listener there takes only clients whose \
                        certificates an authority of its own vouches for, and this is not the way into a workload of the mesh";
            let remedy = "write `tls.frontend.default.validation.caCertificateRefs` into the Gateway, or attach the policy to a Service of the mesh";
            Caution { at, what: format!("{what}; {remedy}") }
        });
        let missing = self.missing.as_ref().map(|(name, at)| {
            let what = format!(
                "{} has the form of a Consumer's name, and there is no such Consumer: no token that says so is meant",
                quote(name)
            );
            let remedy = "correct the name, or write `schemes` beside it, by whose tokens it may be said";
            Caution { at: *at, what: format!("{what}; {remedy}") }
        });
        let unknown = self.unknown.as_ref().map(|(name, at)| Caution {
            at: *at,
            what: format!(
                "no AuthenticationPolicy has a scheme {}, so it matches nobody; correct the name",
                quote(name)
            ),
        });
        credential.into_iter().chain(identity).chain(missing).chain(unknown).collect()
    }

    fn on_connect(&self, x: &Arrival<'_>) -> Verdict {
        let subject = Subject {
            identity: x.connection.identity.as_deref(),
            address: (!x.connection.is_shared).then(|| x.connection.peer.ip()),
            port: x.port,
            http: None,
        };
        // What requests can still tell is left to them.
        let unseen = match x.carried {
            Carried::Opaque => (Unseen::Holds, Unseen::Fails),
            Carried::Unknown => (Unseen::Fails, Unseen::Holds),
        };
        match self.judge(&subject, unseen, &mut |_| ()) {
            Some(refusal) => refusal.reply.into(),
            None => Verdict::Continue,
        }
    }

    fn on_recheck(&self, x: &mut Exchange<'_>) -> Verdict {
        self.on_request(x)
    }

    fn on_request(&self, x: &mut Exchange<'_>) -> Verdict {
        let mut refusal = self.judge_request(x);
        // A backend may read the path in another form, and whoever may not have it in one of them does not get it.
        for mut other in other_forms(x) {
            if refusal.is_none() {
                x.tell(|| format!("a backend may read it as {}: judged as that besides", other.path().escape_ascii()));
                std::mem::swap(x.request, &mut other);
                refusal = self.judge_request(x);
                std::mem::swap(x.request, &mut other);
            }
        }
        match refusal {
            Some(Refusal { mut reply, by, lacking }) => {
                if let Some(scope) = &lacking {
                    reply = reply.with_field(FieldName::known(FieldId::WWW_AUTHENTICATE), challenge(scope));
                }
                x.notes.answered_by = by;
                x.notes.lacking = lacking;
                reply.into()
            }
            None => Verdict::Continue,
        }
    }
}

/// The schemes of all AuthenticationPolicies.
fn schemes_of(world: &World) -> impl Iterator<Item = &str> {
    let policies = world.policies().iter().filter(|policy| policy.kind == AuthenticationPolicy::KIND);
    let schemes = policies.filter_map(|policy| policy.spec.field("schemes")).flat_map(Value::items);
    schemes.filter_map(|scheme| scheme.field("name")?.text())
}

/// The request with its path as backends may read it: in normal form, where the listener leaves paths as they are; with one slash where it leaves
/// several; with encoded slashes as slashes, where it lets those through; and in each of these ways after another one, because some resolve
/// dot segments before they see to slashes, and some never see to these. None where that is how it came.
fn other_forms(x: &Exchange<'_>) -> SmallVec<[Request; 2]> {
    let rules = x.notes.paths;
    let has_slashes = rules.encoded_slash == Slashes::Keep;
    let is_loose = rules.form == Form::Raw || rules.merge_slashes == MergeSlashes::Keep;
    let mut forms = SmallVec::new();
    if !has_slashes && !is_loose {
        return forms;
    }
    let mut paths = vec![x.request.path().to_vec()];
    let mut index = 0;
    while let Some(path) = paths.get(index).cloned().filter(|_| index < MOST_FORMS) {
        index += 1;
        let decoded = (has_slashes && path.contains(&b'%')).then(|| with_slashes(&path)).filter(|other| *other != path);
        let loose = is_loose.then_some(path);
        for from in [loose, decoded].into_iter().flatten() {
            for merge_slashes in [MergeSlashes::Merge, MergeSlashes::Keep] {
                let rules = PathRules { form: Form::Normalize, merge_slashes, ..rules };
                let mut normal = Vec::new();
                // What has no normal form is judged as it is.
                let form = match normalize::path(&from, &rules, &mut normal) {
                    Ok(Normal::Rewritten) => normal,
                    Ok(Normal::Unchanged) | Err(_) => from.clone(),
                };
                if !paths.contains(&form) {
                    paths.push(form);
                }
            }
        }
    }
    for path in paths.iter().skip(1) {
        let mut request = x.request.clone();
        if request.set_path(path).is_ok() {
            forms.push(request);
        }
    }
    forms
}

/// No path has more forms than that: the ways are few, and each changes nothing a second time.
const MOST_FORMS: usize = 16;

/// A path whose encoded slashes and backslashes are slashes.
fn with_slashes(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, behind)) = rest.split_first() {
        let is_slash = matches!(rest, [b'%', b'2', b'f' | b'F', ..] | [b'%', b'5', b'c' | b'C', ..]);
        out.push(if is_slash { b'/' } else { *first });
        rest = if is_slash { behind.get(2..).unwrap_or_default() } else { behind };
    }
    out
}

#[cfg(test)]
mod tests;
