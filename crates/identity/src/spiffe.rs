//! SPIFFE ids: trust domains, ids and the names of workloads, exactly as the SPIFFE-ID specification has them.
//!
//! Used by everything that names an identity. An id that exists as a value is a valid one; nothing is repaired while
//! reading, so two ids are equal when their bytes are. What an id may do is left to policies.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest id in bytes, scheme included (SPIFFE-ID, section 2.3).
pub const MAX_ID: usize = 2048;
/// The longest name of a trust domain in bytes (SPIFFE-ID, section 2.3).
pub const MAX_TRUST_DOMAIN: usize = 255;

const SCHEME: &str = "spiffe://";

/// Why a text is no SPIFFE id, trust domain or workload name. Displays as a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// Longer than [`MAX_ID`] (SPIFFE-ID, section 2.3).
    #[error("a SPIFFE id has at most {MAX_ID} bytes, and this one has {0}")]
    TooLong(usize),
    /// The scheme is not `spiffe`, in lower case (SPIFFE-ID, section 2).
    #[error("a SPIFFE id begins with `{SCHEME}`")]
    Scheme,
    /// The trust domain is empty (SPIFFE-ID, section 2.1).
    #[error("the trust domain is empty")]
    NoTrustDomain,
    /// The trust domain is longer than [`MAX_TRUST_DOMAIN`] (SPIFFE-ID, section 2.3).
    #[error("a trust domain has at most {MAX_TRUST_DOMAIN} bytes, and this one has {0}")]
    TrustDomainTooLong(usize),
    /// The trust domain has user information (SPIFFE-ID, section 2.1).
    #[error("a trust domain has no user information: there is an `@`")]
    UserInfo,
    /// The trust domain has a port (SPIFFE-ID, section 2.1).
    #[error("a trust domain has no port: there is a `:`")]
    Port,
    /// Something is percent-encoded (SPIFFE-ID, sections 2.1 and 2.2).
    #[error("nothing in a SPIFFE id is percent-encoded: there is a `%`")]
    Percent,
    /// There is a query (SPIFFE-ID, section 2).
    #[error("a SPIFFE id has no query: there is a `?`")]
    Query,
    /// There is a fragment (SPIFFE-ID, section 2).
    #[error("a SPIFFE id has no fragment: there is a `#`")]
    Fragment,
    /// A byte that no trust domain has (SPIFFE-ID, section 2.1).
    #[error("a trust domain has only lower-case letters, digits, `.`, `-` and `_`, not {}", Byte(*.0))]
    TrustDomainByte(u8),
    /// A byte that no path segment has (SPIFFE-ID, section 2.2).
    #[error("a path segment has only letters, digits, `.`, `-` and `_`, not {}", Byte(*.0))]
    PathByte(u8),
    /// Two slashes follow each other (SPIFFE-ID, section 2.2).
    #[error("a path has no empty segment")]
    EmptySegment,
    /// A segment is `.` or `..` (SPIFFE-ID, section 2.2).
    #[error("a path has no segment `.` or `..`")]
    DotSegment,
    /// The last byte is a slash (SPIFFE-ID, section 2.2).
    #[error("a path does not end with `/`")]
    TrailingSlash,
}

impl BadId {
    /// A stable short name for logs and metrics.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "id.too_long",
            Self::Scheme => "id.scheme",
            Self::NoTrustDomain => "id.no_trust_domain",
            Self::TrustDomainTooLong(_) => "id.trust_domain_too_long",
            Self::UserInfo => "id.user_info",
            Self::Port => "id.port",
            Self::Percent => "id.percent",
            Self::Query => "id.query",
            Self::Fragment => "id.fragment",
            Self::TrustDomainByte(_) => "id.trust_domain_byte",
            Self::PathByte(_) => "id.path_byte",
            Self::EmptySegment => "id.empty_segment",
            Self::DotSegment => "id.dot_segment",
            Self::TrailingSlash => "id.trailing_slash",
        }
    }
}

/// A byte as a message shows it: never a control character.
struct Byte(u8);

impl fmt::Display for Byte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_ascii_graphic() {
            write!(f, "`{}`", char::from(self.0))
        } else {
            write!(f, "byte 0x{:02x}", self.0)
        }
    }
}

/// The name of a trust domain (SPIFFE-ID, section 2.1): the realm that one set of roots vouches for.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads a name, such as `shop.example`.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn new(name: &str) -> Result<Self, BadId> {
        check_trust_domain(name)?;
        Ok(Self(Arc::from(name)))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the trust domain itself, which its signing certificates carry (X509-SVID, section 3.2).
    pub fn id(&self) -> SpiffeId {
        SpiffeId { text: format!("{SCHEME}{}", self.0).into(), domain: self.0.len() }
    }
}

/// A SPIFFE id (SPIFFE-ID, section 2). Cloning it copies a pointer.
#[derive(Clone)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Length of the trust domain.
    domain: usize,
}

impl SpiffeId {
    /// Reads an id, such as `spiffe://shop.example/ns/default/sa/cart`.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        if text.len() > MAX_ID {
            return Err(BadId::TooLong(text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(BadId::Scheme)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        check_trust_domain(&rest[..end])?;
        check_path(&rest[end..])?;
        Ok(Self { text: Arc::from(text), domain: end })
    }

    /// The id as text, which is also what a certificate carries.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name of the trust domain, for looking it up without a copy.
    pub fn trust_domain_name(&self) -> &str {
        &self.text[SCHEME.len()..SCHEME.len() + self.domain]
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(Arc::from(self.trust_domain_name()))
    }

    /// The path with its leading slash; empty for the id of a trust domain itself.
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + self.domain..]
    }

    /// The workload that the id names, when its path is `/ns/<namespace>/sa/<service account>`.
    pub fn workload(&self) -> Option<WorkloadName> {
        let mut segments = self.path().strip_prefix("/ns/")?.split('/');
        let (namespace, sa, account) = (segments.next()?, segments.next()?, segments.next()?);
        if sa != "sa" || segments.next().is_some() {
            return None;
        }
        WorkloadName::new(namespace, account).ok()
    }
}

/// A workload by its namespace and service account: the two parts of a mesh identity that people write.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "WorkloadParts", into = "WorkloadParts")]
pub struct WorkloadName {
    namespace: Arc<str>,
    service_account: Arc<str>,
}

impl WorkloadName {
    /// Names the workload that runs as `service_account` in `namespace`.
    ///
    /// # Errors
    /// When one of them cannot be a segment of a SPIFFE path (SPIFFE-ID, section 2.2).
    pub fn new(namespace: &str, service_account: &str) -> Result<Self, BadId> {
        check_segment(namespace)?;
        check_segment(service_account)?;
        Ok(Self { namespace: Arc::from(namespace), service_account: Arc::from(service_account) })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, the form that Istio and its kin use too.
    ///
    /// # Errors
    /// When the id would be longer than [`MAX_ID`].
    pub fn id(&self, trust_domain: &TrustDomain) -> Result<SpiffeId, BadId> {
        let text = format!("{SCHEME}{trust_domain}/ns/{}/sa/{}", self.namespace, self.service_account);
        if text.len() > MAX_ID {
            return Err(BadId::TooLong(text.len()));
        }
        Ok(SpiffeId { text: text.into(), domain: trust_domain.0.len() })
    }
}

/// How a workload name is stored.
#[derive(Serialize, Deserialize)]
struct WorkloadParts {
    namespace: String,
    service_account: String,
}

impl TryFrom<WorkloadParts> for WorkloadName {
    type Error = BadId;

    fn try_from(parts: WorkloadParts) -> Result<Self, BadId> {
        Self::new(&parts.namespace, &parts.service_account)
    }
}

impl From<WorkloadName> for WorkloadParts {
    fn from(name: WorkloadName) -> Self {
        Self { namespace: name.namespace.to_string(), service_account: name.service_account.to_string() }
    }
}

fn check_trust_domain(name: &str) -> Result<(), BadId> {
    if name.is_empty() {
        return Err(BadId::NoTrustDomain);
    }
    if name.len() > MAX_TRUST_DOMAIN {
        return Err(BadId::TrustDomainTooLong(name.len()));
    }
    match name.bytes().find(|byte| !matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')) {
        None => Ok(()),
        Some(b'@') => Err(BadId::UserInfo),
        Some(b':') => Err(BadId::Port),
        Some(b'%') => Err(BadId::Percent),
        Some(byte) => Err(BadId::TrustDomainByte(byte)),
    }
}

/// An empty path, or segments that each follow a slash.
fn check_path(path: &str) -> Result<(), BadId> {
    match path.bytes().next() {
        None => return Ok(()),
        Some(b'?') => return Err(BadId::Query),
        Some(b'#') => return Err(BadId::Fragment),
        Some(_) => {}
    }
    let segments = &path[1..];
    if segments.is_empty() || segments.ends_with('/') {
        return Err(BadId::TrailingSlash);
    }
    segments.split('/').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), BadId> {
    match segment {
        "" => return Err(BadId::EmptySegment),
        "." | ".." => return Err(BadId::DotSegment),
        _ => {}
    }
    match segment.bytes().find(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))) {
        None => Ok(()),
        Some(b'%') => Err(BadId::Percent),
        Some(b'?') => Err(BadId::Query),
        Some(b'#') => Err(BadId::Fragment),
        Some(byte) => Err(BadId::PathByte(byte)),
    }
}

// Two ids with the same text have the same trust domain, so the text alone decides.
impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl std::hash::Hash for SpiffeId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `namespace/service account`.
impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service_account)
    }
}

impl fmt::Debug for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for SpiffeId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        Self::parse(text)
    }
}

impl FromStr for TrustDomain {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        Self::new(text)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_specification_allows() {
        for (text, domain, path) in [
            ("spiffe://a", "a", ""),
            ("spiffe://shop.example/ns/default/sa/cart", "shop.example", "/ns/default/sa/cart"),
            ("spiffe://my_domain-1.x/A/b.c/D-e_f/...", "my_domain-1.x", "/A/b.c/D-e_f/..."),
            ("spiffe://1.2.3.4/x", "1.2.3.4", "/x"),
        ] {
            let id = SpiffeId::parse(text).unwrap();
            assert_eq!((id.trust_domain_name(), id.path(), id.as_str()), (domain, path, text));
            assert_eq!(id.trust_domain().as_str(), domain);
        }
    }

    #[test]
    fn refuses_what_the_specification_refuses_and_says_why() {
        let long_domain = format!("spiffe://{}/x", "a".repeat(256));
        let long_id = format!("spiffe://a/{}", "b".repeat(2048 - 10));
        for (text, why) in [
            ("", BadId::Scheme),
            ("spiffe:/a/b", BadId::Scheme),
            ("SPIFFE://a/b", BadId::Scheme),
            ("https://a/b", BadId::Scheme),
            (" spiffe://a/b", BadId::Scheme),
            ("spiffe://", BadId::NoTrustDomain),
            ("spiffe:///b", BadId::NoTrustDomain),
            ("spiffe://?x", BadId::NoTrustDomain),
            ("spiffe://A/b", BadId::TrustDomainByte(b'A')),
            ("spiffe://a b/c", BadId::TrustDomainByte(b' ')),
            ("spiffe://[::1]/c", BadId::TrustDomainByte(b'[')),
            ("spiffe://\u{e4}/c", BadId::TrustDomainByte(0xc3)),
            ("spiffe://a\0/c", BadId::TrustDomainByte(0)),
            ("spiffe://a:80/b", BadId::Port),
            ("spiffe://u@a/b", BadId::UserInfo),
            ("spiffe://%61/b", BadId::Percent),
            ("spiffe://a/", BadId::TrailingSlash),
            ("spiffe://a/b/", BadId::TrailingSlash),
            ("spiffe://a//b", BadId::EmptySegment),
            ("spiffe://a/./b", BadId::DotSegment),
            ("spiffe://a/b/..", BadId::DotSegment),
            ("spiffe://a/%62", BadId::Percent),
            ("spiffe://a/b?c", BadId::Query),
            ("spiffe://a?c", BadId::Query),
            ("spiffe://a/b#c", BadId::Fragment),
            ("spiffe://a#c", BadId::Fragment),
            ("spiffe://a/b\0", BadId::PathByte(0)),
            ("spiffe://a/b\n", BadId::PathByte(b'\n')),
            ("spiffe://a/b~c", BadId::PathByte(b'~')),
            ("spiffe://a/\u{e4}", BadId::PathByte(0xc3)),
            (&long_domain, BadId::TrustDomainTooLong(256)),
            (&long_id, BadId::TooLong(2049)),
        ] {
            assert_eq!(SpiffeId::parse(text).unwrap_err(), why, "{text}");
            assert!(!why.to_string().contains(char::is_control) && why.slug().starts_with("id."));
        }
    }

    #[test]
    fn the_longest_names_are_allowed() {
        let domain = "a".repeat(255);
        assert!(TrustDomain::new(&domain).is_ok());
        let id = format!("spiffe://a/{}", "b".repeat(2048 - 11));
        assert_eq!(SpiffeId::parse(&id).unwrap().as_str().len(), 2048);
    }

    #[test]
    fn a_workload_goes_into_an_id_and_comes_back() {
        let domain = TrustDomain::new("shop.example").unwrap();
        let name = WorkloadName::new("default", "cart").unwrap();
        let id = name.id(&domain).unwrap();
        assert_eq!(id.as_str(), "spiffe://shop.example/ns/default/sa/cart");
        assert_eq!(id, SpiffeId::parse(id.as_str()).unwrap());
        assert_eq!(id.workload(), Some(name));
        for other in ["/ns/default", "/ns/a/sa/b/c", "/ns/a/user/b", "/x/a/sa/b", "", "/ns/sa"] {
            assert_eq!(SpiffeId::parse(&format!("spiffe://a{other}")).unwrap().workload(), None, "{other}");
        }
    }

    #[test]
    fn a_workload_name_cannot_smuggle_a_segment() {
        for (namespace, account, why) in [
            ("a/sa/b", "c", BadId::PathByte(b'/')),
            ("", "c", BadId::EmptySegment),
            ("a", "..", BadId::DotSegment),
            ("a", "b?", BadId::Query),
        ] {
            assert_eq!(WorkloadName::new(namespace, account).unwrap_err(), why);
        }
        let long = WorkloadName::new(&"n".repeat(1024), &"s".repeat(1024)).unwrap();
        assert!(matches!(long.id(&TrustDomain::new("a").unwrap()), Err(BadId::TooLong(_))));
    }

    #[test]
    fn stored_ids_are_checked_when_they_are_read() {
        let id: SpiffeId = serde_json::from_str("\"spiffe://a/b\"").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"spiffe://a/b\"");
        assert!(serde_json::from_str::<SpiffeId>("\"spiffe://a/b/\"").is_err());
        assert!(serde_json::from_str::<TrustDomain>("\"A\"").is_err());
        let name = WorkloadName::new("a", "b").unwrap();
        let text = serde_json::to_string(&name).unwrap();
        assert_eq!(serde_json::from_str::<WorkloadName>(&text).unwrap(), name);
        assert!(serde_json::from_str::<WorkloadName>(r#"{"namespace":"a/b","service_account":"c"}"#).is_err());
    }
}
