//! What the schemes have found about a request, and what becomes of it.
//!
//! Called by the policy for each request, and again when a scheme has what it has asked somebody for. What a credential is good for is found out by the
//! schemes, what their findings mean together by `judgement`, and what a refusal says by `challenges`; a connection that lives on is looked at by `recheck`.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use transept_wire::head::{FieldId, FieldName, Request};

use super::exhibits::Exhibits;
use super::failures::Hold;
use super::judgement::Judgement;
use super::nonces::{Use, Uses};
use super::requirement::{Alternative, Need};
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
    /// With the failure that was counted ahead, if one was.
    Invalid(Box<str>, Option<Arc<Hold>>),
    /// It is genuine, and over.
    Over(Box<str>),
    Unavailable(Box<str>, Option<Later>),
    /// With what it uses up when it lets somebody in.
    Valid(Arc<Principal>, Uses),
}

/// What is remembered while a scheme waits for what it has asked for.
pub(super) struct Waiting {
    pub(super) outcomes: Outcomes,
    pub(super) scheme: usize,
    pub(super) between: Box<dyn Any + Send>,
    /// The failure that was counted ahead.
    pub(super) hold: Option<Hold>,
    /// What was used up for the request already.
    pub(super) spent: Uses,
}

/// What the alternatives have come to.
struct Tried<'p> {
    /// The first that holds.
    held: Option<&'p Alternative>,
    /// The first that would hold with more scopes.
    lacking: Option<Lacking<'p>>,
    outcomes: Outcomes,
}

/// What is to become of a request by its alternatives, unless something that is shown is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SoFar {
    /// One holds.
    LetIn,
    /// None holds, and without one nobody is let in.
    Refused,
    Open,
}

/// An alternative whose credentials are all there, and the first of them that lacks a scope.
#[derive(Clone, Copy)]
struct Lacking<'p> {
    alternative: &'p Alternative,
    need: &'p Need,
}

impl AuthenticationPolicy {
    /// Notes what a scheme has found; the verdict by which it asks for something is the error.
    pub(super) fn settle(
        &self,
        index: usize,
        proof: Proof,
        hold: Option<Hold>,
        mut outcomes: Outcomes,
        x: &mut Exchange<'_>,
    ) -> Result<Outcomes, Verdict> {
        let outcome = match proof {
            Proof::Absent => Outcome::Absent,
            Proof::Invalid(why) => Outcome::Invalid(why, hold.map(Arc::new)),
            Proof::Over(why) => Outcome::Over(why),
            Proof::Unavailable(why) => Outcome::Unavailable(why, None),
            Proof::Later(why, later) => Outcome::Unavailable(why, Some(later)),
            Proof::Valid(principal) => Outcome::Valid(principal, Uses::new()),
            Proof::Once(principal, uses) => Outcome::Valid(principal, uses),
            Proof::Answer(reply) => return Err(Verdict::Respond(reply)),
            Proof::Refused(reply) => {
                if hold.is_none() {
                    self.note_failure(&outcomes, x);
                }
                return Err(Verdict::Respond(reply));
            }
            Proof::Ask(callout, between) => {
                let is_try = self.schemes.get(index).is_some_and(|named| named.scheme.is_try(&callout, x));
                let hold = match is_try && !is_counted(&outcomes) {
                    true => {
                        let hold = self.failures.hold(&self.limit, x.client, x.now.monotonic, x.random);
                        Some(hold.map_err(limited)?)
                    }
                    false => None,
                };
                x.notes.between =
                    Some(Box::new(Waiting { outcomes, scheme: index, between, hold, spent: Uses::new() }));
                return Err(Verdict::Call(callout));
            }
        };
        self.tell(index, &outcome, x);
        if let Some(place) = outcomes.get_mut(index) {
            *place = Some(outcome);
        }
        Ok(outcomes)
    }

    fn tell(&self, index: usize, outcome: &Outcome, x: &mut Exchange<'_>) {
        let name = self.name_of(index);
        x.tell(|| match outcome {
            Outcome::Absent => format!("scheme {name}: no credentials"),
            Outcome::Invalid(why, _) | Outcome::Over(why) => format!("scheme {name}: {why}"),
            Outcome::Unavailable(why, _) => format!("scheme {name}: cannot tell, {why}"),
            Outcome::Valid(principal, _) => format!("scheme {name}: {}", describe(principal)),
        });
    }

    fn name_of(&self, index: usize) -> &str {
        self.schemes.get(index).map_or("", |named| &named.name)
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
        self.note_failure(&Outcomes::new(), x);
        let why = "there are several `Authorization` fields, and not all are credentials that are read here";
        self.refuse(Reply::new(Reason::CredentialsInvalid).because(why.to_owned()), |_| Fault::Invalid)
    }

    /// Whether all that a request shows is known to be good already.
    pub(super) fn shows_only_what_is_known(&self, x: &Exchange<'_>) -> bool {
        let mut shown = self.schemes.iter().filter(|named| named.scheme.presents(x));
        shown.all(|named| named.scheme.is_known(x))
    }

    /// Decides by what is known, and asks the schemes that have not been asked: the first alternative that holds lets in, unless something else that is shown
    /// is no good. `spent` was used up for the request before.
    pub(super) fn decide(&self, outcomes: Outcomes, mut spent: Uses, x: &mut Exchange<'_>) -> Verdict {
        let verdict = self.judge(outcomes, &mut spent, x).unwrap_or_else(|verdict| verdict);
        keep_spent(&verdict, spent, x);
        verdict
    }

    fn judge(&self, mut outcomes: Outcomes, spent: &mut Uses, x: &mut Exchange<'_>) -> Result<Verdict, Verdict> {
        loop {
            let Tried { held, lacking, outcomes: tried } = self.try_alternatives(outcomes, x)?;
            outcomes = tried;
            let mut is_guess = false;
            let enough = match held {
                Some(enough) if self.shows_nothing_else(&outcomes, x) => enough,
                _ => {
                    let exhibits = Exhibits::of(&self.schemes, x);
                    let judgement = Judgement { alternatives: &self.alternatives, exhibits: &exhibits };
                    let so_far = match (held, lacking, self.anonymous) {
                        (Some(_), ..) => SoFar::LetIn,
                        (None, None, Anonymous::Refused) => SoFar::Refused,
                        _ => SoFar::Open,
                    };
                    outcomes = self.ask_the_rest(outcomes, so_far, &judgement, x)?;
                    // Who was not asked may know what is held against the client, or be what another alternative still needs.
                    if so_far != SoFar::Open && judgement.accuser(&outcomes).is_some() {
                        outcomes = self.ask_the_rest(outcomes, SoFar::Open, &judgement, x)?;
                    }
                    self.tell_unasked(&outcomes, x);
                    self.forgive(&mut outcomes, &judgement, x);
                    if let Some(index) = judgement.accuser(&outcomes) {
                        return Err(self.refuse_for(index, &outcomes, x));
                    }
                    match held {
                        Some(enough) => {
                            is_guess = has_guess(&outcomes, &judgement);
                            enough
                        }
                        None => match self.without_alternative(&outcomes, lacking, &judgement, x)? {
                            Some(enough) => enough,
                            None => return Ok(self.let_in_without(x)),
                        },
                    }
                }
            };
            // Who shows what was used up before is judged again, without it.
            if self.spend(enough, &mut outcomes, spent, x) {
                if is_guess {
                    self.note_failure(&outcomes, x);
                }
                let needed = enough.needs.iter().filter_map(|need| valid(&outcomes, need.scheme));
                return Ok(match combined(needed) {
                    Some(principal) => self.let_in(principal, x),
                    None => self.refuse_incomplete(&outcomes, false, x),
                });
            }
        }
    }

    /// Whether a request shows nothing but what was found good: then there is nothing to hold against it.
    fn shows_nothing_else(&self, outcomes: &Outcomes, x: &Exchange<'_>) -> bool {
        self.schemes.iter().enumerate().all(|(index, named)| match outcomes.get(index) {
            Some(Some(Outcome::Valid(..) | Outcome::Absent)) => true,
            Some(None) => !named.scheme.presents(x),
            _ => false,
        })
    }

    /// Looks for an alternative that holds, asking one scheme after the other, of those of an alternative the issuers last.
    fn try_alternatives(&self, mut outcomes: Outcomes, x: &mut Exchange<'_>) -> Result<Tried<'_>, Verdict> {
        let mut lacking = None;
        for alternative in &self.alternatives {
            let issuers_last = [false, true].into_iter().flat_map(|issuers| {
                alternative.needs.iter().filter(move |need| self.asks_issuer(need.scheme) == issuers)
            });
            let mut is_complete = true;
            for need in issuers_last {
                let is_open = matches!(outcomes.get(need.scheme), Some(None));
                let is_in_vain = || self.asks_issuer(need.scheme) && self.is_lost(&outcomes, x);
                if is_open && !is_in_vain() {
                    outcomes = self.ask(need.scheme, outcomes, x)?;
                }
                if valid(&outcomes, need.scheme).is_none() {
                    is_complete = false;
                    break;
                }
            }
            if !is_complete {
                continue;
            }
            let has_scopes = |need: &&Need| {
                valid(&outcomes, need.scheme).is_some_and(|who| need.scopes.iter().all(|scope| who.has_scope(scope)))
            };
            match alternative.needs.iter().find(|need| !has_scopes(need)) {
                None => return Ok(Tried { held: Some(alternative), lacking, outcomes }),
                Some(need) => _ = lacking.get_or_insert(Lacking { alternative, need }),
            }
        }
        Ok(Tried { held: None, lacking, outcomes })
    }

    /// Asks schemes that have not been asked although the request shows a credential of theirs: whoever shows credentials means them, also where none are
    /// required, and whoever has one that is good could else try out as many others as he likes. Beside one that is good nobody is asked about what others
    /// know; and issuers, who come last, not about what others may know. Otherwise all are asked, so that no order decides, but no issuers by whose answer
    /// nothing would change.
    fn ask_the_rest(
        &self,
        mut outcomes: Outcomes,
        so_far: SoFar,
        judgement: &Judgement<'_>,
        x: &mut Exchange<'_>,
    ) -> Result<Outcomes, Verdict> {
        for issuers in [false, true] {
            for (index, named) in self.schemes.iter().enumerate() {
                let is_open = matches!(outcomes.get(index), Some(None)) && named.scheme.asks_issuer() == issuers;
                if !is_open || !named.scheme.presents(x) {
                    continue;
                }
                let is_settled = match (so_far, issuers) {
                    (SoFar::LetIn, true) => judgement.may_be_known(index, &outcomes),
                    (SoFar::LetIn, false) => {
                        judgement.is_known(index, &outcomes)
                            && !judgement.may_be_contradicted(index, self.schemes.len())
                    }
                    (_, false) => false,
                    (_, true) if judgement.accuser(&outcomes).is_some() => judgement.is_lost(&outcomes),
                    (SoFar::Refused, true) => {
                        !judgement.is_within_reach(index, &outcomes) && !has_guess(&outcomes, judgement)
                    }
                    (SoFar::Open, true) => false,
                };
                if !is_settled {
                    outcomes = self.ask(index, outcomes, x)?;
                }
            }
        }
        Ok(outcomes)
    }

    /// Whether something that is shown is no good, whatever those find who have not been asked.
    fn is_lost(&self, outcomes: &Outcomes, x: &Exchange<'_>) -> bool {
        let is_no_good = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Invalid(..) | Outcome::Over(_)));
        outcomes.iter().any(is_no_good) && {
            let exhibits = Exhibits::of(&self.schemes, x);
            Judgement { alternatives: &self.alternatives, exhibits: &exhibits }.is_lost(outcomes)
        }
    }

    fn tell_unasked(&self, outcomes: &Outcomes, x: &mut Exchange<'_>) {
        let unasked = self.schemes.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_none());
        for (named, _) in unasked {
            if x.is_told() && named.scheme.presents(x) {
                x.tell(|| format!("scheme {}: is not asked, nothing depends on it", named.name));
            }
        }
    }

    fn asks_issuer(&self, index: usize) -> bool {
        self.schemes.get(index).is_some_and(|named| named.scheme.asks_issuer())
    }

    fn ask(&self, index: usize, outcomes: Outcomes, x: &mut Exchange<'_>) -> Result<Outcomes, Verdict> {
        let Some(named) = self.schemes.get(index) else { return Ok(outcomes) };
        let proof = named.scheme.authenticate(x);
        self.settle(index, proof, None, outcomes, x)
    }

    /// What another scheme knows was no failure.
    fn forgive(&self, outcomes: &mut Outcomes, judgement: &Judgement<'_>, x: &Exchange<'_>) {
        for (index, named) in self.schemes.iter().enumerate() {
            if judgement.is_known(index, outcomes)
                && let Some(Some(Outcome::Invalid(_, counted))) = outcomes.get_mut(index)
                && let Some(hold) = counted.take()
            {
                self.failures.release(&hold, x.client, x.now.monotonic);
                named.scheme.note_known_elsewhere(x);
            }
        }
    }

    /// Uses up what the schemes of an alternative have found good. False when something was used before, which is noted.
    fn spend(
        &self,
        alternative: &Alternative,
        outcomes: &mut Outcomes,
        spent: &mut Uses,
        x: &mut Exchange<'_>,
    ) -> bool {
        let now = x.now.unix;
        let uses = |scheme: usize| match outcomes.get(scheme) {
            Some(Some(Outcome::Valid(_, uses))) => uses.clone(),
            _ => Uses::new(),
        };
        let needed = alternative.needs.iter().map(|need| need.scheme);
        let all: SmallVec<[(usize, Arc<Use>); 1]> =
            needed.flat_map(|index| uses(index).into_iter().map(move |one| (index, one))).collect();
        // None is used up where another one is no good.
        let checked = all.iter().find_map(|(index, one)| Some((*index, one.check(spent, now).err()?)));
        let refused =
            checked.or_else(|| all.iter().find_map(|(index, one)| Some((*index, one.spend(spent, now).err()?))));
        let Some((index, refusal)) = refused else { return true };
        let outcome = match refusal {
            Proof::Invalid(why) => Outcome::Invalid(why, None),
            Proof::Unavailable(why) => Outcome::Unavailable(why, None),
            _ => Outcome::Absent,
        };
        self.tell(index, &outcome, x);
        if let Some(place) = outcomes.get_mut(index) {
            *place = Some(outcome);
        }
        false
    }

    /// The refusal of what a scheme has found no good.
    fn refuse_for(&self, index: usize, outcomes: &Outcomes, x: &Exchange<'_>) -> Verdict {
        let why = match outcomes.get(index) {
            Some(Some(Outcome::Invalid(why, _) | Outcome::Over(why))) => why,
            _ => "it is no good",
        };
        self.note_failure(outcomes, x);
        let cause = format!("scheme {}: {why}", self.name_of(index));
        let reply = Reply::new(Reason::CredentialsInvalid).because(cause);
        self.refuse(reply, |other| if other == index { Fault::Invalid } else { Fault::Missing })
    }

    /// What becomes of a request for which no alternative holds, and which shows nothing that is no good. Where no credentials are required those that lack
    /// scopes are enough, or none.
    ///
    /// # Errors
    /// The refusal, or where a client is sent.
    fn without_alternative<'p>(
        &self,
        outcomes: &Outcomes,
        lacking: Option<Lacking<'p>>,
        judgement: &Judgement<'_>,
        x: &mut Exchange<'_>,
    ) -> Result<Option<&'p Alternative>, Verdict> {
        let is_guess = has_guess(outcomes, judgement);
        for (index, outcome) in outcomes.iter().enumerate() {
            let Some(Outcome::Unavailable(why, later)) = outcome else { continue };
            // By it the client could be somebody else, or what it shows could be no good.
            let is_unjudged = self.anonymous == Anonymous::Allowed && !judgement.is_known(index, outcomes);
            let is_of_use = is_unjudged || judgement.is_within_reach(index, outcomes);
            if is_of_use {
                if is_guess {
                    self.note_failure(outcomes, x);
                }
                return Err(self.unavailable(index, why, *later));
            }
        }
        match (self.anonymous, lacking) {
            (Anonymous::Allowed, _) => Ok(lacking.map(|one| one.alternative)),
            (Anonymous::Refused, Some(Lacking { need, .. })) => {
                if is_guess {
                    self.note_failure(outcomes, x);
                }
                Err(self.refuse_scopes(need, outcomes))
            }
            (Anonymous::Refused, None) => Err(self.refuse_incomplete(outcomes, is_guess, x)),
        }
    }

    fn refuse_scopes(&self, need: &Need, outcomes: &Outcomes) -> Verdict {
        let words: Vec<&str> = need.scopes.iter().map(|scope| &**scope).collect();
        let who = valid(outcomes, need.scheme).map(|principal| principal.describe()).unwrap_or_default();
        let mut reply =
            Reply::new(Reason::ScopeInsufficient).because(format!("{who} needs the scopes {}", words.join(" ")));
        let challenge = self.schemes.get(need.scheme).map(|named| self.challenge(named, &Fault::Scopes(&words)));
        if let Some(challenge) = challenge {
            reply = reply.with_field(FieldName::known(FieldId::WWW_AUTHENTICATE), challenge);
        }
        reply.into()
    }

    /// Something that is required was not shown.
    fn refuse_incomplete(&self, outcomes: &Outcomes, is_guess: bool, x: &mut Exchange<'_>) -> Verdict {
        if let Some(verdict) = self.invite(outcomes, x) {
            return verdict;
        }
        if let Some(wait) = self.failures.wait(&self.limit, x.client, x.now.monotonic) {
            return limited(wait);
        }
        // A page of somebody else can make a browser come without what it would show.
        if is_guess || !self.schemes.iter().any(|named| named.scheme.is_ambient()) {
            self.note_failure(outcomes, x);
        }
        self.refuse(Reply::new(Reason::CredentialsMissing), |_| Fault::Missing)
    }

    /// What a scheme that is required does for a client that has shown nothing.
    fn invite(&self, outcomes: &Outcomes, x: &mut Exchange<'_>) -> Option<Verdict> {
        let mut needs = self.alternatives.iter().flat_map(|alternative| &alternative.needs);
        let (scheme, proof) = needs.find_map(|need| {
            let is_absent = matches!(outcomes.get(need.scheme), Some(None | Some(Outcome::Absent)));
            let named = self.schemes.get(need.scheme).filter(|_| is_absent)?;
            Some((need.scheme, named.scheme.invite(x)?))
        })?;
        match self.settle(scheme, proof, None, outcomes.clone(), x) {
            Ok(outcomes) => match outcomes.get(scheme) {
                Some(Some(Outcome::Unavailable(why, later))) => Some(self.unavailable(scheme, why, *later)),
                _ => None,
            },
            Err(verdict) => Some(verdict),
        }
    }

    fn unavailable(&self, scheme: usize, why: &str, later: Option<Later>) -> Verdict {
        let cause = format!("scheme {}: {why}", self.name_of(scheme));
        let mut reply = Reply::new(Reason::AuthenticationUnavailable).because(cause);
        if let Some(later) = later {
            reply = reply.with_field(FieldName::known(FieldId::RETRY_AFTER), seconds(later.wait));
        }
        reply.into()
    }

    /// Counts that a request has failed, once.
    fn note_failure(&self, outcomes: &Outcomes, x: &Exchange<'_>) {
        if !is_counted(outcomes) {
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
        Some(Some(Outcome::Valid(principal, _))) => Some(principal),
        _ => None,
    }
}

/// Where somebody is asked, what the request has used up is remembered meanwhile.
pub(super) fn keep_spent(verdict: &Verdict, spent: Uses, x: &mut Exchange<'_>) {
    if let (Verdict::Call(_), Some(between), false) = (verdict, &mut x.notes.between, spent.is_empty())
        && let Some(waiting) = between.downcast_mut::<Waiting>()
    {
        waiting.spent = spent;
    }
}

/// Whether the failure of the request was counted ahead.
fn is_counted(outcomes: &Outcomes) -> bool {
    outcomes.iter().any(|outcome| matches!(outcome, Some(Outcome::Invalid(_, Some(_)))))
}

/// Whether what nobody knows looks like a guess, although nobody can tell yet.
fn has_guess(outcomes: &Outcomes, judgement: &Judgement<'_>) -> bool {
    let is_guess =
        |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Unavailable(_, Some(later))) if later.is_guess);
    outcomes.iter().enumerate().any(|(index, outcome)| is_guess(outcome) && !judgement.is_known(index, outcomes))
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
