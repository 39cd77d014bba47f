//! Whether what was let in before, and is still under way, would be let in today.
//!
//! Called by `AuthenticationPolicy` when the configuration has changed, and when an answer has ended by which somebody else has vouched. What is
//! known of each credential is whose it was, and a mark of how it was stored. Each must be good today, and together they must be what is
//! required today. Who it is, its groups and scopes among that, is said anew, for the policies that ask after this one.

use std::any::Any;
use std::slice;

use super::decide::{Outcome, Outcomes, combined, valid};
use super::nonces::Uses;
use super::requirement::{Alternative, Need};
use super::scheme::{Fault, Proof};
use super::{Anonymous, AuthenticationPolicy};
use crate::exchange::Exchange;
use crate::reason::Reason;
use crate::verdict::{Reply, Verdict};

/// What is remembered while somebody is asked anew.
struct Asking {
    outcomes: Outcomes,
    /// Which of the credentials he is asked about.
    index: usize,
    between: Box<dyn Any + Send>,
}

impl AuthenticationPolicy {
    pub(super) fn recheck(&self, x: &mut Exchange<'_>) -> Verdict {
        let Some(principal) = x.notes.principal.clone() else {
            return match self.anonymous {
                Anonymous::Allowed => Verdict::Continue,
                Anonymous::Refused => self.refuse(Reply::new(Reason::CredentialsMissing), |_| Fault::Missing),
            };
        };
        // To whom nothing has been said yet hears it as one who comes today.
        let refuse = |scheme: &str, why: String| {
            let is_it = |other: usize| self.schemes.get(other).is_some_and(|named| *named.name == *scheme);
            let fault = |other: usize| if is_it(other) { Fault::Invalid } else { Fault::Missing };
            self.refuse(Reply::new(Reason::CredentialsInvalid).because(why), fault)
        };
        let shown =
            if principal.together.is_empty() { slice::from_ref(&principal) } else { principal.together.as_slice() };
        let asking = x.notes.between.take().and_then(|between| between.downcast::<Asking>().ok());
        let (mut outcomes, begun, mut resumed) = match asking.map(|asking| *asking) {
            Some(Asking { outcomes, index, between }) => (outcomes, index, Some(between).zip(x.notes.outcome.take())),
            None => (Outcomes::from_elem(None, self.schemes.len()), 0, None),
        };
        for (index, one) in shown.iter().enumerate().skip(begun) {
            if one.until.is_some_and(|until| x.now.unix >= until) {
                return refuse(&one.scheme, format!("scheme {}: the credential has ended", one.scheme));
            }
            let found = self.schemes.iter().zip(&mut outcomes).find(|(named, _)| named.name == one.scheme);
            let Some((named, outcome)) = found else {
                return refuse(&one.scheme, format!("there is no scheme {} any more", one.scheme));
            };
            let proof = match resumed.take() {
                Some((between, result)) => named.scheme.resume(x, between, result),
                None if x.notes.asks => named.scheme.renew(one, x),
                None => named.scheme.stands(one, x).map_or_else(Proof::Invalid, Proof::Valid),
            };
            match proof {
                // What was used up is not used up again.
                Proof::Valid(today) | Proof::Once(today, _) => *outcome = Some(Outcome::Valid(today, Uses::new())),
                Proof::Ask(callout, between) => {
                    x.notes.between = Some(Box::new(Asking { outcomes, index, between }));
                    return Verdict::Call(callout);
                }
                Proof::Invalid(why) | Proof::Over(why) => {
                    return refuse(&one.scheme, format!("scheme {}: {why}", named.name));
                }
                Proof::Unavailable(why) | Proof::Later(why, _) => {
                    let cause = format!("scheme {}: {why}", named.name);
                    return Reply::new(Reason::AuthenticationUnavailable).because(cause).into();
                }
                Proof::Absent => {
                    return refuse(&one.scheme, format!("scheme {}: it was not shown in this way", named.name));
                }
                Proof::Answer(reply) | Proof::Refused(reply) => return Verdict::Respond(reply),
            }
        }
        let held = self.alternatives.iter().find(|alternative| holds(alternative, &outcomes));
        let needs = held.map_or(&[][..], |alternative| &alternative.needs);
        let today = combined(needs.iter().filter_map(|need| valid(&outcomes, need.scheme)));
        match (today, self.anonymous) {
            (Some(today), _) => x.notes.principal = Some(today),
            // As when it was let in: credentials that are good and lack scopes are no worse than none, and half of what is asked for together is none.
            (None, Anonymous::Allowed) => {
                let is_complete =
                    |one: &&Alternative| one.needs.iter().all(|need| valid(&outcomes, need.scheme).is_some());
                let needs = self.alternatives.iter().find(is_complete).map_or(&[][..], |one| &one.needs);
                x.notes.principal = combined(needs.iter().filter_map(|need| valid(&outcomes, need.scheme)));
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
