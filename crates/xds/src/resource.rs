//! What travels: a resource with its key, the hash of its contents as version, and its bytes, encoded once.
//!
//! Made by the control plane when its world changes, shared by all sessions. What the contents mean is not read here, and which
//! resources belong together is said by whoever makes them.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use serde_json::Value as Json;

use crate::messages::{self, Any};

/// A type of resource: `group/version/Kind`, with `core` for the group without a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeUrl(Arc<str>);

impl TypeUrl {
    /// The type of the objects of one kind.
    pub fn of(group: &str, version: &str, kind: &str) -> Self {
        let group = if group.is_empty() { "core" } else { group };
        Self(format!("{group}/{version}/{kind}").into())
    }

    /// As it stands in messages.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for TypeUrl {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl Borrow<str> for TypeUrl {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which resource: its type and its name, `namespace/name`, or `name` for what lives in no namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its type.
    pub type_url: TypeUrl,
    /// Its name.
    pub name: Arc<str>,
}

impl Key {
    /// The key of `name` in the type `type_url`.
    pub fn new(type_url: &TypeUrl, name: &str) -> Self {
        Self { type_url: type_url.clone(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.type_url, self.name)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A version: the hash of the contents, 32 hexadecimal digits in messages.
///
/// XXH3 with 128 bits: the same contents have the same version in every control plane and after every restart. It tells versions of
/// one resource apart; it is no proof of origin, for which there is the transport.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u128);

impl Version {
    /// The version of these contents, with the time that they hold.
    pub fn of(payload: &[u8], ttl: Option<Duration>) -> Self {
        let seed = ttl.map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        Self(twox_hash::XxHash3_128::oneshot_with_seed(seed, payload))
    }

    /// Reads a version from a message. `None` for what [`Version`] never wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u128::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A resource as a control plane serves it. Immutable: a change is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    key: Key,
    version: Version,
    payload: Bytes,
    encoded: Bytes,
    ttl: Option<Duration>,
    joins: Vec<Key>,
    brings: Vec<Key>,
}

impl Resource {
    /// A resource with these contents, which must be written in one way only: [`canonical`] JSON.
    pub fn new(key: Key, payload: Bytes) -> Self {
        let mut made = Self {
            version: Version::of(&payload, None),
            key,
            payload,
            encoded: Bytes::new(),
            ttl: None,
            joins: Vec::new(),
            brings: Vec::new(),
        };
        made.encode();
        made
    }

    /// A resource with this JSON as its contents.
    pub fn from_json(key: Key, contents: &Json) -> Self {
        Self::new(key, canonical(contents).into())
    }

    /// The same, with an end: a proxy drops it that long after it heard of it last, also when no control plane is there any more.
    /// For what must not outlive its author, such as an injected fault.
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self.version = Version::of(&self.payload, self.ttl);
        self.encode();
        self
    }

    /// The same, coming along to whoever asks for one of `keys`: a route with its service, a policy with its target.
    pub fn joining(mut self, keys: Vec<Key>) -> Self {
        self.joins = keys;
        self
    }

    /// The same, with `keys` coming along to whoever asks for it: a route brings the services that it leads to.
    pub fn bringing(mut self, keys: Vec<Key>) -> Self {
        self.brings = keys;
        self
    }

    /// Which resource this is.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The hash of its contents.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its contents.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// How long a proxy may keep it without hearing of it.
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// Whom it comes along with.
    pub fn joins(&self) -> &[Key] {
        &self.joins
    }

    /// What comes along with it.
    pub fn brings(&self) -> &[Key] {
        &self.brings
    }

    /// The [`messages::Resource`] of it, encoded when it was made.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The message that renews its time to live and carries no contents.
    pub fn heartbeat(&self) -> Bytes {
        let message = messages::Resource { resource: None, ..self.message() };
        message.encode_to_vec().into()
    }

    fn message(&self) -> messages::Resource {
        messages::Resource {
            version: self.version.to_string(),
            resource: Some(Any { type_url: self.key.type_url.as_str().to_owned(), value: self.payload.clone() }),
            name: self.key.name.as_ref().to_owned(),
            ttl: self.ttl.map(Into::into),
        }
    }

    fn encode(&mut self) {
        self.encoded = self.message().encode_to_vec().into();
    }
}

/// Writes JSON in the one way in which equal values have equal bytes: keys sorted by their bytes, no white space.
pub fn canonical(value: &Json) -> Vec<u8> {
    let mut out = Vec::new();
    write_canonical(value, &mut out);
    out
}

fn write_canonical(value: &Json, out: &mut Vec<u8>) {
    match value {
        Json::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_canonical(item, out);
            }
            out.push(b']');
        }
        Json::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by(|a, b| a.0.cmp(b.0));
            out.push(b'{');
            for (index, (name, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(Json::String(name.clone()).to_string().as_bytes());
                out.push(b':');
                write_canonical(value, out);
            }
            out.push(b'}');
        }
        scalar => out.extend_from_slice(scalar.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key() -> Key {
        Key::new(&TypeUrl::of("", "v1", "Service"), "shop/cart")
    }

    #[test]
    fn the_order_of_keys_does_not_matter_and_contents_do() {
        let a: Json = serde_json::from_str(r#"{"b": [1, {"y": 2, "x": "\u00e9"}], "a": null}"#).expect("JSON");
        let b: Json = serde_json::from_str(r#"{"a":null,"b":[1,{"x":"é","y":2}]}"#).expect("JSON");
        assert_eq!(canonical(&a), r#"{"a":null,"b":[1,{"x":"é","y":2}]}"#.as_bytes());
        let (first, second) = (Resource::from_json(key(), &a), Resource::from_json(key(), &b));
        assert_eq!(first, second);
        assert_ne!(first.version(), Resource::from_json(key(), &json!({})).version());
        assert_ne!(first.version(), first.clone().with_ttl(Duration::from_secs(5)).version());
    }

    #[test]
    fn a_version_is_the_same_on_every_machine_and_survives_the_wire() {
        let version = Version::of(b"{}", None);
        assert_eq!(version.to_string(), "dc7048f8f8747f561349cde127705c16");
        assert_eq!(Version::parse(&version.to_string()), Some(version));
        for bad in ["", "1", "+0000000000000000000000000000001", "A58B8CB1BBD98CC2CB4F2F6BF1B0DB1D"] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_resource_is_encoded_as_its_message() {
        let resource = Resource::from_json(key(), &json!({"a": 1})).with_ttl(Duration::from_millis(1500));
        let message = messages::Resource::decode(resource.encoded().clone()).expect("decodes");
        assert_eq!(message.name, "shop/cart");
        assert_eq!(message.version, resource.version().to_string());
        let any = message.resource.expect("contents");
        assert_eq!((any.type_url.as_str(), &any.value[..]), ("core/v1/Service", &br#"{"a":1}"#[..]));
        assert_eq!(message.ttl.and_then(messages::ProtoDuration::to_std), Some(Duration::from_millis(1500)));
        let beat = messages::Resource::decode(resource.heartbeat()).expect("decodes");
        assert_eq!((beat.resource, beat.version), (None, resource.version().to_string()));
    }
}
