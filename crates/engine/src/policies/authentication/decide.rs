//! What the schemes have found about a request, and what becomes of it.
//!
//! Called by the policy for each request, and again when a scheme has what it has asked somebody for. What a credential is good for is found out by the
//! schemes, and what a refusal says by `challenges`; a connection that lives on is looked at by `recheck`.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use transept_model::schema::Text;
use transept_wire::head::{FieldId, FieldName, Request};

use super::failures::Hold;
use super::requirement::Alternative;
use super::scheme::{Fault, Later, Proof};
use super::{Anonymous, AuthenticationPolicy, Credentials};
use crate::exchange::Exchange;
use crate::principal::Principal;
use crate::reason::Reason;
use crate::verdict::{Reply, Verdict};

/// What is known of each scheme of a request so far.
pub(super) type Outcomes = SmallVec<[Option<Outcome>; 2]>;

/// What a scheme has found.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Absent,
    Invalid(Box<str>, Counted),
    /// It is genuine, and over.
    Over(Box<str>),
    Unavailable(Box<str>, Option<Later>),
    Valid(Arc<Principal>),
}

/// Whether a failure has been counted already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Yes,
    No,
}

/// What is remembered while a scheme waits for what it has asked for.
pub(super) struct Waiting {
    pub(super) outcomes: Outcomes,
    pub(super) scheme: usize,
    pub(super) between: Box<dyn Any + Send>,
    /// The failure that was counted ahead.
    pub(super) hold: Option<Hold>,
}

impl AuthenticationPolicy {
    /// Notes what a scheme has found; the verdict by which it asks for something is the error.
    pub(super) fn settle(
        &self,
        index: usize,
        proof: Proof,
        counted: Counted,
        mut outcomes: Outcomes,
        x: &mut Exchange<'_>,
    ) -> Result<Outcomes, Verdict> {
        let name = self.schemes.get(index).map_or("", |named| &named.name);
        let outcome = match proof {
            Proof::Absent => Outcome::Absent,
            Proof::Invalid(why) => Outcome::Invalid(why, counted),
            Proof::Over(why) => Outcome::Over(why),
            Proof::Unavailable(why) => Outcome::Unavailable(why, None),
            Proof::Later(why, later) => Outcome::Unavailable(why, Some(later)),
            Proof::Valid(principal) => Outcome::Valid(principal),
            Proof::Answer(reply) => return Err(Verdict::Respond(reply)),
            Proof::Refused(reply) => {
                self.note_failure(counted, x);
                return Err(Verdict::Respond(reply));
            }
            Proof::Ask(callout, between) => {
                let is_try = self.schemes.get(index).is_some_and(|named| named.scheme.is_try(&callout, x));
                let hold = match is_try {
                    true => {
                        let hold = self.failures.hold(&self.limit, x.client, x.now.monotonic, x.random);
                        Some(hold.map_err(limited)?)
                    }
                    false => None,
                };
                x.notes.between = Some(Box::new(Waiting { outcomes, scheme: index, between, hold }));
                return Err(Verdict::Call(callout));
            }
        };
        x.tell(|| match &outcome {
            Outcome::Absent => format!("scheme {name}: no credentials"),
            Outcome::Invalid(why, _) | Outcome::Over(why) => format!("scheme {name}: {why}"),
            Outcome::Unavailable(why, _) => format!("scheme {name}: cannot tell, {why}"),
            Outcome::Valid(principal) => format!("scheme {name}: {}", describe(principal)),
        });
        if let Some(place) = outcomes.get_mut(index) {
            *place = Some(outcome);
        }
        Ok(outcomes)
    }

    /// Whether a request has another `Authorization` field beside one that is read here: the backend would get that one, and take the caller for somebody
    /// else. The field stands once (RFC 9110 section 11.6.2).
    pub(super) fn is_ambiguous(&self, request: &Request) -> bool {
        let count = |request: &Request| request.fields.all(FieldId::AUTHORIZATION).count();
        let all = count(request);
        if all < 2 {
            return false;
        }
        let mut rest = request.clone();
        self.schemes.iter().for_each(|named| named.scheme.strip(&mut rest));
        (1..all).contains(&count(&rest))
    }

    pub(super) fn refuse_ambiguous(&self, x: &Exchange<'_>) -> Verdict {
        self.note_failure(Counted::No, x);
        let why = "there are several `Authorization` fields, and not all are credentials that are read here";
        self.refuse(Reply::new(Reason::CredentialsInvalid).because(why.to_owned()), |_| Fault::Invalid)
    }

    /// Whether all that a request shows is known to be good already.
    pub(super) fn shows_only_what_is_known(&self, x: &Exchange<'_>) -> bool {
        let mut shown = self.schemes.iter().filter(|named| named.scheme.presents(x));
        shown.all(|named| named.scheme.is_known(x))
    }

    /// Tries the alternatives with what is known, and asks the schemes that have not been asked.
    pub(super) fn decide(&self, mut outcomes: Outcomes, x: &mut Exchange<'_>) -> Verdict {
        let mut lacking: Option<(usize, &[Text])> = None;
        for alternative in &self.alternatives {
            let mut holds = true;
            for need in &alternative.needs {
                if outcomes.get(need.scheme).is_some_and(Option::is_none) {
                    let Some(named) = self.schemes.get(need.scheme) else { continue };
                    let proof = named.scheme.authenticate(x);
                    outcomes = match self.settle(need.scheme, proof, Counted::No, outcomes, x) {
                        Ok(outcomes) => outcomes,
                        Err(call) => return call,
                    };
                }
                let principal = match outcomes.get(need.scheme) {
                    Some(Some(Outcome::Valid(principal))) => principal,
                    _ => {
                        holds = false;
                        break;
                    }
                };
                if !need.scopes.iter().all(|scope| principal.has_scope(scope)) {
                    lacking.get_or_insert((need.scheme, &need.scopes));
                    holds = false;
                    break;
                }
            }
            if holds {
                let principals = alternative.needs.iter().filter_map(|need| valid(&outcomes, need.scheme));
                if let Some(principal) = combined(principals) {
                    // Else whoever has one good credential could try out as many others as he likes.
                    outcomes = match self.ask_the_rest(outcomes, |index, known| self.is_open(index, known), x) {
                        Ok(outcomes) => outcomes,
                        Err(call) => return call,
                    };
                    if self.has_bad(&outcomes) {
                        break;
                    }
                    if self.has_guess(&outcomes) {
                        self.note_failure(Counted::No, x);
                    }
                    return self.let_in(principal, x);
                }
            }
        }
        // Whoever shows credentials means them, also where none are required.
        match self.ask_the_rest(outcomes, |index, known| !self.is_known(index, known), x) {
            Ok(outcomes) => self.without_alternative(&outcomes, lacking, x),
            Err(call) => call,
        }
    }

    /// Whether something that was shown is no good for anybody. A token that may be meant for several schemes is so when none of those that read its field
    /// knows it, and each can tell.
    fn has_bad(&self, outcomes: &Outcomes) -> bool {
        outcomes.iter().enumerate().any(|(index, outcome)| {
            let is_excused = match outcome {
                Some(Outcome::Over(_)) => self.is_known(index, outcomes),
                Some(Outcome::Invalid(..)) => self.stands(index, outcomes),
                _ => true,
            };
            !is_excused && (self.is_meant_for(index) || self.is_shared(index))
        })
    }

    /// Whether what a scheme is shown is still to be judged, beside a credential that is good: not a token that another scheme that reads its field knows.
    fn is_open(&self, index: usize, outcomes: &Outcomes) -> bool {
        self.is_meant_for(index) || (self.is_shared(index) && !self.stands(index, outcomes))
    }

    /// Whether a token in the field that a scheme reads is known to one that reads it, or may be.
    fn stands(&self, index: usize, outcomes: &Outcomes) -> bool {
        self.is_known(index, outcomes) || self.is_doubtful(index, outcomes)
    }

    /// Whether a token in the field that a scheme reads is known to one that reads it.
    fn is_known(&self, index: usize, outcomes: &Outcomes) -> bool {
        self.has_in_field(index, outcomes, |outcome| matches!(outcome, Outcome::Valid(_)))
    }

    /// Whether a token in the field that a scheme reads may be meant for one that reads it and cannot tell.
    fn is_doubtful(&self, index: usize, outcomes: &Outcomes) -> bool {
        self.has_in_field(index, outcomes, |outcome| matches!(outcome, Outcome::Unavailable(..)))
    }

    fn has_in_field(&self, index: usize, outcomes: &Outcomes, is_it: impl Fn(&Outcome) -> bool) -> bool {
        let field = |index: usize| self.schemes.get(index).and_then(|named| named.scheme.token_field());
        let Some(own) = field(index) else { return false };
        let here = outcomes.iter().enumerate().filter(|(other, _)| field(*other) == Some(own));
        let mut standing = here.filter(|(other, _)| self.is_enough_without(*other, index));
        standing.any(|(_, outcome)| outcome.as_ref().is_some_and(&is_it))
    }

    /// Whether a token that one scheme knows need not be known to the other: not where the two are asked for together, and never apart.
    fn is_enough_without(&self, one: usize, other: usize) -> bool {
        let needs = |alternative: &Alternative, index: usize| alternative.needs.iter().any(|need| need.scheme == index);
        one == other || self.alternatives.iter().any(|all| needs(all, one) && !needs(all, other))
    }

    /// Whether a token that nobody knows looks like a guess, although nobody can tell yet.
    fn has_guess(&self, outcomes: &Outcomes) -> bool {
        let is_guess =
            |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Unavailable(_, Some(later))) if later.is_guess);
        outcomes.iter().enumerate().any(|(index, outcome)| is_guess(outcome) && !self.is_known(index, outcomes))
    }

    /// Whether what a scheme is shown can be meant for one of another kind.
    fn is_shared(&self, index: usize) -> bool {
        self.schemes.get(index).is_some_and(|named| named.scheme.token_field().is_some())
    }

    /// Whether what a scheme finds can be meant for no other.
    fn is_meant_for(&self, index: usize) -> bool {
        let Some(named) = self.schemes.get(index) else { return false };
        let kind = std::mem::discriminant(&named.scheme);
        let of_the_kind = self.schemes.iter().filter(|other| std::mem::discriminant(&other.scheme) == kind);
        named.scheme.token_field().is_none() && of_the_kind.count() == 1
    }

    /// Asks schemes that have not been asked although the request shows a credential of theirs.
    fn ask_the_rest(
        &self,
        mut outcomes: Outcomes,
        counts: impl Fn(usize, &Outcomes) -> bool,
        x: &mut Exchange<'_>,
    ) -> Result<Outcomes, Verdict> {
        for (index, named) in self.schemes.iter().enumerate() {
            if outcomes.get(index).is_some_and(Option::is_none) && counts(index, &outcomes) && named.scheme.presents(x)
            {
                let proof = named.scheme.authenticate(x);
                outcomes = self.settle(index, proof, Counted::No, outcomes, x)?;
            }
        }
        Ok(outcomes)
    }

    /// What becomes of a request for which no alternative holds.
    fn without_alternative(
        &self,
        outcomes: &Outcomes,
        lacking: Option<(usize, &[Text])>,
        x: &mut Exchange<'_>,
    ) -> Verdict {
        // A token that is no good for one scheme may be meant for another that reads its field, and knows it or cannot tell.
        // One that was recognised and is over is not.
        let is_over = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Over(_)));
        let first = outcomes.iter().position(is_over);
        let order = first.into_iter().chain((0..outcomes.len()).filter(|index| Some(*index) != first));
        for (index, outcome) in order.filter_map(|index| Some((index, outcomes.get(index)?))) {
            let name = self.schemes.get(index).map_or("", |named| &named.name);
            let counted = match outcome {
                Some(Outcome::Invalid(_, counted)) => *counted,
                _ => Counted::No,
            };
            match outcome {
                Some(Outcome::Invalid(..) | Outcome::Over(_)) if self.is_known(index, outcomes) => {}
                Some(Outcome::Invalid(..)) if self.is_doubtful(index, outcomes) => {}
                Some(Outcome::Invalid(why, _) | Outcome::Over(why)) => {
                    self.note_failure(counted, x);
                    let reply = Reply::new(Reason::CredentialsInvalid).because(format!("scheme {name}: {why}"));
                    return self.refuse(reply, |other| if other == index { Fault::Invalid } else { Fault::Missing });
                }
                _ => {}
            }
        }
        for (index, outcome) in outcomes.iter().enumerate() {
            let Some(Outcome::Unavailable(why, later)) = outcome else { continue };
            let is_known = self.is_known(index, outcomes);
            if is_known && self.anonymous == Anonymous::Allowed {
                continue;
            }
            if !is_known && later.is_some_and(|later| later.is_guess) {
                self.note_failure(Counted::No, x);
            }
            return self.unavailable(index, why, *later);
        }
        let known = (0..outcomes.len()).find_map(|index| valid(outcomes, index));
        match (self.anonymous, known, lacking) {
            (Anonymous::Allowed, Some(principal), _) => self.let_in(Arc::clone(principal), x),
            (Anonymous::Allowed, None, _) => self.let_in_without(x),
            (Anonymous::Refused, _, Some((scheme, scopes))) => {
                let words: Vec<&str> = scopes.iter().map(|scope| &**scope).collect();
                let who = known.map(|principal| principal.describe()).unwrap_or_default();
                let mut reply = Reply::new(Reason::ScopeInsufficient)
                    .because(format!("{who} needs the scopes {}", words.join(" ")));
                let challenge = self.schemes.get(scheme).map(|named| self.challenge(named, &Fault::Scopes(&words)));
                if let Some(challenge) = challenge {
                    reply = reply.with_field(FieldName::known(FieldId::WWW_AUTHENTICATE), challenge);
                }
                reply.into()
            }
            (Anonymous::Refused, _, None) => {
                if let Some(verdict) = self.invite(outcomes, x) {
                    return verdict;
                }
                if let Some(wait) = self.failures.wait(&self.limit, x.client, x.now.monotonic) {
                    return limited(wait);
                }
                // A page of somebody else can make a browser come without what it would show.
                if !self.schemes.iter().any(|named| named.scheme.is_ambient()) {
                    self.note_failure(Counted::No, x);
                }
                self.refuse(Reply::new(Reason::CredentialsMissing), |_| Fault::Missing)
            }
        }
    }

    /// What a scheme that is required does for a client that has shown nothing.
    fn invite(&self, outcomes: &Outcomes, x: &mut Exchange<'_>) -> Option<Verdict> {
        let mut needs = self.alternatives.iter().flat_map(|alternative| &alternative.needs);
        let (scheme, proof) = needs.find_map(|need| {
            let is_absent = matches!(outcomes.get(need.scheme), Some(None | Some(Outcome::Absent)));
            let named = self.schemes.get(need.scheme).filter(|_| is_absent)?;
            Some((need.scheme, named.scheme.invite(x)?))
        })?;
        match self.settle(scheme, proof, Counted::No, outcomes.clone(), x) {
            Ok(outcomes) => match outcomes.get(scheme) {
                Some(Some(Outcome::Unavailable(why, later))) => Some(self.unavailable(scheme, why, *later)),
                _ => None,
            },
            Err(verdict) => Some(verdict),
        }
    }

    fn unavailable(&self, scheme: usize, why: &str, later: Option<Later>) -> Verdict {
        let name = self.schemes.get(scheme).map_or("", |named| &named.name);
        let mut reply = Reply::new(Reason::AuthenticationUnavailable).because(format!("scheme {name}: {why}"));
        if let Some(later) = later {
            reply = reply.with_field(FieldName::known(FieldId::RETRY_AFTER), seconds(later.wait));
        }
        reply.into()
    }

    fn note_failure(&self, counted: Counted, x: &Exchange<'_>) {
        if counted == Counted::No {
            self.failures.count(&self.limit, x.client, x.now.monotonic, x.random);
        }
    }

    pub(super) fn strip(&self, x: &mut Exchange<'_>) {
        if self.credentials == Credentials::Removed {
            for named in &self.schemes {
                named.scheme.strip(x.request);
            }
        }
    }

    /// Lets a request in that shows no credentials. By its certificate it may be a workload's all the same.
    pub(super) fn let_in_without(&self, x: &mut Exchange<'_>) -> Verdict {
        self.strip(x);
        let principal = x.principal().unwrap_or_default();
        self.forward.tell_backend(&principal, x.request);
        Verdict::Continue
    }

    fn let_in(&self, principal: Arc<Principal>, x: &mut Exchange<'_>) -> Verdict {
        self.strip(x);
        let together = principal.together.iter().map(|one| &one.scheme);
        for scheme in std::iter::once(&principal.scheme).chain(together) {
            if let Some(named) = self.schemes.iter().find(|named| named.name == *scheme) {
                named.scheme.hand_on(x);
            }
        }
        self.forward.tell_backend(&principal, x.request);
        x.notes.principal = Some(principal);
        Verdict::Continue
    }
}

pub(super) fn valid(outcomes: &Outcomes, scheme: usize) -> Option<&Arc<Principal>> {
    match outcomes.get(scheme) {
        Some(Some(Outcome::Valid(principal))) => Some(principal),
        _ => None,
    }
}

/// Several principals as one: the first, with the claims of the others that it does not have, until the first of their ends.
pub(super) fn combined<'p>(mut principals: impl Iterator<Item = &'p Arc<Principal>>) -> Option<Arc<Principal>> {
    let first = principals.next()?;
    let mut whole: Option<Principal> = None;
    for other in principals {
        let whole =
            whole.get_or_insert_with(|| Principal { together: vec![Arc::clone(first)], ..Principal::clone(first) });
        for (name, value) in &other.claims {
            whole.claims.entry(name).or_insert_with(|| value.clone());
        }
        whole.until = first_of(whole.until, other.until);
        whole.asked = first_of(whole.asked, other.asked);
        whole.together.push(Arc::clone(other));
    }
    Some(whole.map_or_else(|| Arc::clone(first), Arc::new))
}

fn first_of(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// `app default/mobile, credential mobile-1`.
fn describe(principal: &Principal) -> String {
    match &principal.credential {
        Some(credential) => format!("{}, credential {credential}", principal.describe()),
        None => principal.describe(),
    }
}

/// The client has failed too often.
pub(super) fn limited(wait: Duration) -> Verdict {
    Reply::new(Reason::AuthenticationLimited).with_field(FieldName::known(FieldId::RETRY_AFTER), seconds(wait)).into()
}

/// RFC 9110 section 10.2.3: whole seconds, so that nobody is asked back too early.
fn seconds(wait: Duration) -> String {
    wait.as_millis().div_ceil(1000).max(1).to_string()
}
