//! Who makes a request: one description for gateway and mesh.
//!
//! Made by `AuthenticationPolicy` from credentials, or from the verified identity of a connection; read by the policies that come after it,
//! by the log and by explanations. A principal holds no secret: its credential is named, never shown.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use serde_json::{Map, Value};

use crate::exchange::Exchange;

/// What a principal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// A person, by a token or a session.
    User,
    /// A program of a consumer, by a key or a client of its own.
    App,
    /// A member of the mesh, by its SPIFFE id.
    Workload,
    /// Nobody in particular.
    #[default]
    Anonymous,
}

impl PrincipalKind {
    /// The word for it in logs, headers and rules.
    pub const fn as_str(self) -> &'static str {
        match self {
            PrincipalKind::User => "user",
            PrincipalKind::App => "app",
            PrincipalKind::Workload => "workload",
            PrincipalKind::Anonymous => "anonymous",
        }
    }

    /// Whether it is a program that calls for itself: a workload counts as an app.
    pub const fn is_program(self) -> bool {
        matches!(self, PrincipalKind::App | PrincipalKind::Workload)
    }
}

/// Who vouches for the name of a principal. Names are unique for each of them only: an issuer may call somebody what another calls somebody else
/// (RFC 7519 section 4.1.2), or as a Consumer is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Voucher {
    /// The scheme by which it was recognised.
    #[default]
    Scheme,
    /// We do: it is a Consumer.
    Consumer,
    /// The issuer of a token.
    Issuer(Box<str>),
}

/// Who makes a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Principal {
    /// What it is.
    pub kind: PrincipalKind,
    /// Its name, unique among those of its kind for whom the same one vouches: the name of a Consumer, the `sub` of a token, a SPIFFE id. Empty for
    /// anonymous.
    pub id: Box<str>,
    /// Who vouches for its name.
    pub voucher: Voucher,
    /// The groups that it belongs to.
    pub groups: Vec<Box<str>>,
    /// What its credential is good for (RFC 6749 section 3.3).
    pub scopes: Vec<Box<str>>,
    /// What its token says.
    pub claims: Map<String, Value>,
    /// The plan that it has subscribed to.
    pub plan: Option<Box<str>>,
    /// The tenant that it belongs to.
    pub tenant: Option<Box<str>>,
    /// The name of the scheme by which it was recognised, as the policy calls it.
    pub scheme: Box<str>,
    /// Which credential it has shown: the name of a key, the `jti` of a token; nothing by which the credential could be used.
    pub credential: Option<Box<str>>,
    /// When its credential ends, since the Unix epoch; a connection that lives longer is ended then.
    pub until: Option<Duration>,
    /// When the answer ends by which somebody else has vouched for it, since the Unix epoch: he is asked again about a connection that
    /// lives longer.
    pub asked: Option<Duration>,
    /// What stands for the credential as it is stored, by which a credential that has become another one under the same name is told apart.
    pub stored: Option<StoredMark>,
    /// Where several credentials are required together: all of them, with the first. Empty where one was enough.
    pub together: Vec<Arc<Principal>>,
}

/// A digest of what is stored of a credential. It is compared and never shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoredMark([u8; 32]);

impl StoredMark {
    /// The mark of an entry of these parts.
    pub(crate) fn of(parts: &[&[u8]]) -> StoredMark {
        let mut made = digest::Context::new(&digest::SHA256);
        for part in parts {
            made.update(&(part.len() as u64).to_le_bytes());
            made.update(part);
        }
        // It is 32 bytes long.
        StoredMark(made.finish().as_ref().try_into().unwrap_or_default())
    }
}

impl fmt::Debug for StoredMark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("StoredMark").finish_non_exhaustive()
    }
}

impl Principal {
    /// A member of the mesh.
    pub fn workload(identity: &str) -> Principal {
        Principal { kind: PrincipalKind::Workload, id: identity.into(), ..Principal::default() }
    }

    /// `user 7f2`, `anonymous`.
    pub fn describe(&self) -> String {
        match self.kind {
            PrincipalKind::Anonymous => "anonymous".to_owned(),
            kind => format!("{} {}", kind.as_str(), self.id),
        }
    }

    /// Whether the credential is good for `scope`.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|one| **one == *scope)
    }

    /// A claim by the path of its members, such as `realm_access.roles`. A claim whose own name has the dots wins.
    pub fn claim(&self, path: &str) -> Option<&Value> {
        claim(&self.claims, path)
    }
}

/// A claim by the path of its members, such as `realm_access.roles`. A claim whose own name has the dots wins.
pub fn claim<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    if let Some(whole) = claims.get(path) {
        return Some(whole);
    }
    let mut steps = path.split('.');
    let mut found = claims.get(steps.next()?)?;
    for step in steps {
        found = found.as_object()?.get(step)?;
    }
    Some(found)
}

impl Exchange<'_> {
    /// Who makes the request, if a policy has found out, or else the verified identity of the connection. None is anonymous.
    pub fn principal(&self) -> Option<Arc<Principal>> {
        match (&self.notes.principal, self.identity()) {
            (Some(principal), _) => Some(Arc::clone(principal)),
            (None, Some(identity)) => Some(Arc::new(Principal::workload(identity))),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_found_by_its_path() {
        let claims =
            serde_json::json!({"realm_access": {"roles": ["a"]}, "https://shop.test/plan": "gold", "sub": "7"});
        let Value::Object(claims) = claims else { panic!("an object") };
        let principal = Principal { claims, ..Principal::default() };
        assert_eq!(principal.claim("realm_access.roles"), Some(&serde_json::json!(["a"])));
        assert_eq!(principal.claim("https://shop.test/plan"), Some(&serde_json::json!("gold")));
        assert_eq!(principal.claim("sub.deeper"), None);
        assert_eq!(principal.claim("missing"), None);
    }

    #[test]
    fn it_is_described_by_kind_and_name() {
        assert_eq!(Principal::default().describe(), "anonymous");
        assert_eq!(Principal::workload("spiffe://a/ns/b/sa/c").describe(), "workload spiffe://a/ns/b/sa/c");
    }
}
