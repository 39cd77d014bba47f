//! The scheme `apiKey`: keys of ApiKey objects in the namespace of the policy.
//!
//! Junk is refused by its checksum, without a look-up. What is left is hashed and looked up in a table of hashes; a key that is not
//! known costs as much as one that is, and there is nothing that a cache of failures could save. Of a key only its object's name goes into
//! logs, never anything that was sent.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::{constant_time, hmac};
use hashbrown::HashMap;
use smallvec::SmallVec;
use transept_model::kinds::{ApiKeySpec, KeyHash, Object};
use transept_model::object;
use transept_model::place::Spot;
use transept_model::schema::{HEADER_NAME, Rule, Text};
use transept_wire::head::{FieldId, FieldName, NameRef, Request};

use super::super::CompileCx;
use super::consumer::principal;
use super::exhibits::{Exhibit, add_lines};
use super::scheme::{Fault, Proof, Scheme, after_word, challenge};
use super::secret::SecretEntry;
use crate::exchange::Exchange;
use crate::key::{self, LastUse, LastUses, NoKey};
use crate::principal::{Principal, StoredMark};
use crate::redact::{CredentialPlaces, is_named, parameters, without_parameter};

object! {
    /// Keys of the ApiKey objects in the namespace of the policy, as `transept key create` makes them.
    pub struct ApiKeySchemeSpec {
        /// The header field that holds the key.
        header: Text = "X-API-Key".into() => Rule::Is(&HEADER_NAME);
        /// True when `Authorization: Bearer KEY` is looked at, too.
        bearer: bool = true;
        /// The parameter of the query that may hold the key. URLs end up in logs and histories of others, so there is none unless
        /// it is written.
        query: Option<Text> => Rule::Length(1, 64);
        /// The pepper under which keys were hashed (`hmac-sha256:`): a secret without which stolen hashes are of no use.
        pepper: Option<SecretEntry>;
    }
}

/// The compiled scheme.
#[derive(Debug)]
pub(super) struct ApiKeyScheme {
    header: FieldName,
    bearer: Bearer,
    query: Option<Box<str>>,
    pepper: Option<Box<hmac::Key>>,
    keys: HashMap<[u8; 32], Known>,
    by_name: OnceLock<HashMap<Box<str>, [u8; 32]>>,
    /// Where it is written.
    pub(super) at: Spot,
    /// What is remembered lives as long as somebody holds it.
    _uses: Arc<LastUses>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bearer {
    Read,
    Ignored,
}

#[derive(Debug)]
struct Known {
    key: Arc<Object<ApiKeySpec>>,
    principal: Arc<Principal>,
    /// Why it is no good whatever the time is.
    barred: Option<&'static str>,
    used: LastUse,
}

/// A key in a request.
enum Sought<'r> {
    None,
    /// Several that differ.
    Several,
    One(Cow<'r, [u8]>),
}

impl Scheme for ApiKeyScheme {
    type Spec = ApiKeySchemeSpec;

    fn compile(name: &Text, spec: &ApiKeySchemeSpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let pepper = match &spec.pepper {
            Some(entry) => Some(Box::new(key::pepper(&entry.read(cx)?))),
            None => None,
        };
        // The format of names has been checked when it was read.
        let header = FieldName::new(spec.header.as_bytes()).ok()?;
        let uses = LastUses::kept(cx.keep_everywhere());
        Some(ApiKeyScheme {
            header,
            bearer: if spec.bearer { Bearer::Read } else { Bearer::Ignored },
            query: spec.query.as_deref().map(Into::into),
            pepper,
            keys: known_keys(name, &uses, cx),
            by_name: OnceLock::new(),
            at: spec.at,
            _uses: uses,
        })
    }

    fn secrets(spec: &ApiKeySchemeSpec) -> Vec<Text> {
        spec.pepper.iter().map(|entry| entry.name.clone()).collect()
    }

    fn places(&self, places: &mut CredentialPlaces) {
        places.fields.insert(self.header.as_str().to_ascii_lowercase().into());
        places.parameters.extend(self.query.clone());
    }

    fn presents(&self, x: &Exchange<'_>) -> bool {
        !matches!(self.find(x.request), Sought::None)
    }

    fn exhibits<'x>(&'x self, x: &'x Exchange<'_>, add: &mut dyn FnMut(Exhibit<'x>)) {
        add_lines(x.request, |name, value| self.key_in(name, value).is_some(), add);
        if let (Some(name), Some(query)) = (&self.query, x.request.query())
            && parameters(query).any(|(key, _)| is_named(key, name))
        {
            add(Exhibit::Parameter(name));
        }
    }

    fn key_fields(&self) -> Vec<FieldName> {
        let bearer = (self.bearer == Bearer::Read).then(|| FieldName::known(FieldId::AUTHORIZATION));
        bearer.into_iter().chain([self.header.clone()]).collect()
    }

    fn authenticate(&self, x: &mut Exchange<'_>) -> Proof {
        let text = match self.find(x.request) {
            Sought::None => return Proof::Absent,
            Sought::Several => return Proof::invalid("several keys are shown"),
            Sought::One(text) => text,
        };
        match key::check(&text) {
            Ok(()) => {}
            Err(NoKey::Form) => return Proof::invalid("what is shown is not spelled like a key"),
            Err(NoKey::Checksum) => return Proof::invalid("the key is mistyped or made up: its checksum is wrong"),
        }
        let Some(known) = self.look_up(&text) else {
            x.tell(|| {
                "authentication: no ApiKey that was read has this key; those that `transept key` has made without `--file` are in the state of \
                 the control plane, which `transept explain --state DIR` reads, too"
                    .to_owned()
            });
            return Proof::invalid("the key is not known");
        };
        match known.is_good(x) {
            Ok(()) => {
                known.used.note(x.now.unix);
                Proof::Valid(Arc::clone(&known.principal))
            }
            Err(why) => Proof::invalid(format!("the key {} {why}", known.key.meta.name)),
        }
    }

    fn strip(&self, request: &mut Request) {
        if request.fields.iter().any(|(name, value)| self.key_in(name, value).is_some()) {
            request.fields.retain(|name, value| self.key_in(name, value).is_none());
        }
        if let Some(name) = &self.query
            && let Some(rest) = without_parameter(request.query().unwrap_or_default(), name)
        {
            let rest = (!rest.is_empty()).then_some(rest);
            // A part of a query is a query.
            let _ = request.set_query(rest.as_deref());
        }
    }

    fn challenge(&self, realm: &str, fault: &Fault<'_>) -> String {
        challenge(if self.bearer == Bearer::Read { "Bearer" } else { "ApiKey" }, realm, fault)
    }

    fn stands(&self, principal: &Arc<Principal>, x: &Exchange<'_>) -> Result<Arc<Principal>, Box<str>> {
        let by_name = self
            .by_name
            .get_or_init(|| self.keys.iter().map(|(hash, known)| ((&*known.key.meta.name).into(), *hash)).collect());
        let name = principal.credential.as_deref().unwrap_or_default();
        let known = by_name.get(name).and_then(|hash| self.keys.get(hash));
        let Some(known) = known.filter(|known| known.principal.id == principal.id) else {
            return Err(format!("there is no key {name} any more").into());
        };
        if known.principal.stored != principal.stored {
            return Err(format!("the key {name} is another one by now").into());
        }
        match known.is_good(x) {
            Ok(()) => Ok(Arc::clone(&known.principal)),
            Err(why) => Err(format!("the key {name} {why}").into()),
        }
    }
}

impl ApiKeyScheme {
    /// A place in which both look for keys.
    pub(super) fn place_shared_with(&self, other: &ApiKeyScheme) -> Option<String> {
        let fields = other.key_fields();
        let field = self.key_fields().into_iter().find(|field| fields.contains(field));
        let field = field.map(|field| format!("`{}`", field.as_str()));
        let query = self.query.as_ref().filter(|query| other.query.as_ref() == Some(*query));
        field.or_else(|| query.map(|query| format!("the parameter `{query}`")))
    }

    /// The key in a line of a head. Where `Authorization` is the field for keys, one may stand there with the word `Bearer` or without it.
    fn key_in<'v>(&self, name: NameRef<'_>, value: &'v [u8]) -> Option<&'v [u8]> {
        let is_bearer = self.bearer == Bearer::Read && name.id == FieldId::AUTHORIZATION;
        let bearer = if is_bearer { bearer_key(value) } else { None };
        bearer.or_else(|| name.is(&self.header).then_some(value))
    }

    fn find<'r>(&self, request: &'r Request) -> Sought<'r> {
        let mut found: SmallVec<[Cow<'r, [u8]>; 2]> = SmallVec::new();
        let mut add = |text: Cow<'r, [u8]>| {
            if !found.contains(&text) {
                found.push(text);
            }
        };
        request
            .fields
            .iter()
            .filter_map(|(name, value)| self.key_in(name, value))
            .for_each(|key| add(Cow::Borrowed(key)));
        if let (Some(name), Some(query)) = (&self.query, request.query()) {
            parameters(query).filter(|(key, _)| is_named(key, name)).for_each(|(_, value)| add(Cow::Borrowed(value)));
        }
        match (found.pop(), found.is_empty()) {
            (None, _) => Sought::None,
            (Some(one), true) => Sought::One(one),
            (Some(_), false) => Sought::Several,
        }
    }

    fn look_up(&self, text: &[u8]) -> Option<&Known> {
        let find = |hash: KeyHash| {
            let known = self.keys.get(&hash.bytes)?;
            let stored = known.key.spec.hash;
            let same = constant_time::verify_slices_are_equal(&stored.bytes, &hash.bytes).is_ok();
            (same && stored.by == hash.by).then_some(known)
        };
        let peppered = self.pepper.as_deref().and_then(|pepper| find(key::hash(text, Some(pepper))));
        peppered.or_else(|| find(key::hash(text, None)))
    }
}

impl Known {
    fn is_good(&self, x: &Exchange<'_>) -> Result<(), &'static str> {
        if let Some(why) = self.barred {
            return Err(why);
        }
        self.key.spec.is_good(x.now.unix)?;
        let client = x.client.to_canonical();
        let networks = &self.key.spec.addresses;
        if !networks.is_empty() && !networks.iter().any(|network| network.contains(client)) {
            return Err("may not be used from this address");
        }
        let origins = &self.key.spec.origins;
        if !origins.is_empty() {
            let mut said = x.request.fields.all(FieldId::ORIGIN);
            let is_one = said.next().is_some_and(|said| origins.iter().any(|origin| origin.as_bytes() == said));
            if !is_one || said.next().is_some() {
                return Err("may not be used by pages of this origin");
            }
        }
        Ok(())
    }
}

/// The keys of the policy's namespace by hash, each with the principal that it stands for. Of two with one hash the older counts.
fn known_keys(scheme: &Text, uses: &LastUses, cx: &CompileCx<'_>) -> HashMap<[u8; 32], Known> {
    let namespace = &cx.name.namespace;
    let mut keys = HashMap::new();
    for key in cx.world.api_keys().iter().filter(|key| key.meta.namespace == *namespace) {
        let consumer = cx.world.consumer(namespace, &key.spec.consumer);
        let barred = match consumer {
            None => Some("belongs to a Consumer that does not exist"),
            Some(consumer) if consumer.spec.suspended => Some("belongs to a Consumer that is suspended"),
            Some(_) => None,
        };
        let owner = consumer.map(|consumer| &consumer.spec);
        let principal = Principal {
            scopes: key.spec.scopes.iter().map(|scope| Box::from(&**scope)).collect(),
            credential: Some((&*key.meta.name).into()),
            until: key.spec.expires.map(|end| end.unix()),
            stored: Some(StoredMark::of(&[&key.spec.hash.bytes])),
            ..principal(namespace, &key.spec.consumer, owner, scheme)
        };
        let used = uses.of(namespace, &key.meta.name);
        keys.entry(key.spec.hash.bytes).or_insert_with(|| Known {
            key: Arc::clone(key),
            principal: Arc::new(principal),
            barred,
            used,
        });
    }
    keys
}

/// The token of `Bearer TOKEN` (RFC 6750 section 2.1).
pub(super) fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    after_word(value, "bearer")
}

/// One that is spelled like a key. Others belong to other schemes.
fn bearer_key(value: &[u8]) -> Option<&[u8]> {
    bearer_token(value).filter(|token| is_alike(token))
}

pub(super) fn is_alike(token: &[u8]) -> bool {
    key::check(token) != Err(NoKey::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_taken_apart() {
        assert_eq!(bearer_token(b"Bearer  x "), Some(&b"x"[..]));
        assert_eq!(bearer_token(b"bearer x"), Some(&b"x"[..]));
        assert_eq!(bearer_token(b"Bearer\tx"), Some(&b"x"[..]));
        for other in [&b"Basic x"[..], b"Bearer", b"", b"Bearerx y"] {
            assert_eq!(bearer_token(other), None);
        }
    }
}
