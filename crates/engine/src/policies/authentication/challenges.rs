//! What clients are told of how to show who they are: a challenge for each scheme, with where the metadata of the API are.
//!
//! Called by `AuthenticationPolicy` when it refuses, and when a policy that comes after it has refused for want of a scope.

use smallvec::SmallVec;
use transept_wire::head::{FieldId, FieldName, Response};

use super::scheme::Fault;
use super::{AuthenticationPolicy, Named};
use crate::exchange::Exchange;
use crate::verdict::{Reply, Verdict};

impl AuthenticationPolicy {
    /// A refusal with a challenge for each scheme (RFC 9110 section 11.6.1), none twice.
    pub(super) fn refuse<'f>(&self, mut reply: Reply, fault: impl Fn(usize) -> Fault<'f>) -> Verdict {
        let mut said: SmallVec<[String; 4]> = SmallVec::new();
        for (index, named) in self.schemes.iter().enumerate() {
            let challenge = self.challenge(named, &fault(index));
            if !said.contains(&challenge) {
                said.push(challenge);
            }
        }
        // Of one scheme that is asked for twice, what says more is enough.
        let says_more =
            |more: &String, less: &String| more.strip_prefix(less.as_str()).is_some_and(|rest| rest.starts_with(','));
        let told: SmallVec<[&String; 4]> =
            said.iter().filter(|less| !said.iter().any(|more| says_more(more, less))).collect();
        for challenge in told {
            reply = reply.with_field(FieldName::known(FieldId::WWW_AUTHENTICATE), challenge.clone());
        }
        reply.into()
    }

    /// A policy that comes after this one has refused a credential for want of a scope: the client is told in the words of its scheme.
    pub(super) fn name_lacking(&self, scope: &str, x: &Exchange<'_>, response: &mut Response) {
        let Some(principal) = &x.notes.principal else { return };
        let Some(named) = self.schemes.iter().find(|named| named.name == principal.scheme) else { return };
        let scopes = [scope];
        let challenge = self.challenge(named, &Fault::Scopes(if scope.is_empty() { &[] } else { &scopes }));
        if challenge.contains("insufficient_scope") {
            // Made of characters that fields may have.
            let _ = response.fields.set(&FieldName::known(FieldId::WWW_AUTHENTICATE), challenge.as_bytes());
        }
    }

    pub(super) fn challenge(&self, named: &Named, fault: &Fault<'_>) -> String {
        let challenge = named.scheme.challenge(&self.realm, fault);
        match &self.metadata {
            Some(metadata) => metadata.name_in(challenge),
            None => challenge,
        }
    }
}
