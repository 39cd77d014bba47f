//! Whether what was let in before, and is still under way, would be let in today.
//!
//! Called by `AuthenticationPolicy` when the configuration has changed. The credentials are not there any more, but what is known of each of them:
//! whose it was, and a mark of how it was stored. Each must be good today, and together they must be what is required today. Who it
//! is, its groups and scopes among that, is said anew, for the policies that ask after this one.

use std::slice;

use super::requirement::{Alternative, Need};
use super::{Anonymous, AuthenticationPolicy, Outcome, Outcomes, combined, valid};
use crate::exchange::Exchange;
use crate::reason::Reason;
use crate::verdict::{Reply, Verdict};

impl AuthenticationPolicy {
    pub(super) fn recheck(&self, x: &mut Exchange<'_>) -> Verdict {
        let Some(principal) = x.notes.principal.clone() else {
            return match self.anonymous {
                Anonymous::Allowed => Verdict::Continue,
                Anonymous::Refused => Reply::new(Reason::CredentialsMissing).into(),
            };
        };
        let refuse = |why: String| Reply::new(Reason::CredentialsInvalid).because(why).into();
        let shown =
            if principal.together.is_empty() { slice::from_ref(&principal) } else { principal.together.as_slice() };
        let mut outcomes = Outcomes::from_elem(None, self.schemes.len());
        for one in shown {
            if one.until.is_some_and(|until| x.now.unix >= until) {
                return refuse(format!("scheme {}: the credential has ended", one.scheme));
            }
            let found = self.schemes.iter().zip(&mut outcomes).find(|(named, _)| named.name == one.scheme);
            let Some((named, outcome)) = found else {
                return refuse(format!("there is no scheme {} any more", one.scheme));
            };
            match named.scheme.stands(one, x) {
                Ok(today) => *outcome = Some(Outcome::Valid(today)),
                Err(why) => return refuse(format!("scheme {}: {why}", named.name)),
            }
        }
        let held = self.alternatives.iter().find(|alternative| holds(alternative, &outcomes));
        let needs = held.map_or(&[][..], |alternative| &alternative.needs);
        let today = combined(needs.iter().filter_map(|need| valid(&outcomes, need.scheme)));
        match (today, self.anonymous) {
            (Some(today), _) => x.notes.principal = Some(today),
            // As when it was let in: good credentials that are not good enough are no worse than none.
            (None, Anonymous::Allowed) => {
                x.notes.principal = (0..outcomes.len()).find_map(|index| valid(&outcomes, index)).cloned();
            }
            (None, Anonymous::Refused) => {
                let why = "the credentials that were shown are not what is required today";
                return Reply::new(Reason::ScopeInsufficient).because(why).into();
            }
        }
        Verdict::Continue
    }
}

/// Whether all that an alternative needs was found.
fn holds(alternative: &Alternative, outcomes: &Outcomes) -> bool {
    let has = |need: &Need| {
        let principal = valid(outcomes, need.scheme);
        principal.is_some_and(|principal| need.scopes.iter().all(|scope| principal.has_scope(scope)))
    };
    alternative.needs.iter().all(has)
}
