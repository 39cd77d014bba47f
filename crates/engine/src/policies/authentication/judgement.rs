//! What the findings of several schemes about one request mean together.
//!
//! Asked by `decide`, which has the schemes look; here nothing is looked at but what they have found. The rule is about what is shown, not about
//! schemes: **what one scheme finds no good is held against nobody where another scheme knows the very same thing**, such as a key of the pepper
//! before, or a token of the other issuer; whatever nobody knows is held against whoever shows it, also beside something good. Who knows it
//! has to be enough for some alternative of `require`: what two schemes are asked for together about one token, one of them cannot settle alone,
//! unless another alternative holds without the other.

use std::sync::Arc;

use smallvec::SmallVec;

use super::decide::{Outcome, Outcomes, valid};
use super::exhibits::{BEYOND, Exhibits, Shown};
use super::nonces::Uses;
use super::requirement::{Alternative, Need};
use crate::principal::Principal;

/// Of so many that have not been asked it is tried out what they may find.
const MOST_OPEN: usize = 4;

/// What is required, and what of what is shown each scheme reads.
#[derive(Debug)]
pub(super) struct Judgement<'j> {
    pub(super) alternatives: &'j [Alternative],
    pub(super) exhibits: &'j Exhibits,
}

/// What another scheme has to have found about a thing, to speak for it.
type Enough = fn(&Outcome) -> bool;

fn is_valid(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Valid(..))
}

/// It is good, or nobody can tell at present.
fn may_be_valid(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Valid(..) | Outcome::Unavailable(..))
}

impl Judgement<'_> {
    /// The scheme whose finding refuses the request. What was recognised and is over comes first: nobody else can know it better.
    pub(super) fn accuser(&self, outcomes: &Outcomes) -> Option<usize> {
        let is_over = |index: &usize| matches!(outcomes.get(*index), Some(Some(Outcome::Over(_))));
        let is_invalid = |index: &usize| matches!(outcomes.get(*index), Some(Some(Outcome::Invalid(..))));
        let all = || 0..outcomes.len();
        let over = all().filter(is_over).find(|index| !self.is_known(*index, outcomes));
        over.or_else(|| all().filter(is_invalid).find(|index| !self.may_be_known(*index, outcomes)))
    }

    /// Whether somebody refuses the request whatever those will find who have not been asked.
    pub(super) fn is_lost(&self, outcomes: &Outcomes) -> bool {
        let is_open = |index: &usize| matches!(outcomes.get(*index), Some(None)) && self.exhibits.read_by(*index) != 0;
        let open: SmallVec<[usize; MOST_OPEN]> = (0..outcomes.len()).filter(is_open).collect();
        if open.len() > MOST_OPEN {
            return false;
        }
        let scopes = self.alternatives.iter().flat_map(|one| &one.needs).flat_map(|need| &need.scopes);
        let scopes = scopes.map(|scope| Box::from(&**scope)).collect();
        let with_all_scopes = Arc::new(Principal { scopes, ..Principal::default() });
        // Who knows what he is shown speaks for others the most; who cannot tell does so, too, and contradicts nobody.
        (0..1usize << open.len()).all(|choice| {
            let mut assumed = outcomes.clone();
            for (place, index) in open.iter().enumerate() {
                let found = match choice >> place & 1 {
                    0 => Outcome::Valid(Arc::clone(&with_all_scopes), Uses::new()),
                    _ => Outcome::Unavailable("".into(), None),
                };
                if let Some(outcome) = assumed.get_mut(*index) {
                    *outcome = Some(found);
                }
            }
            self.accuser(&assumed).is_some()
        })
    }

    /// Whether others know all that a scheme reads.
    pub(super) fn is_known(&self, scheme: usize, outcomes: &Outcomes) -> bool {
        self.is_spoken_for(scheme, outcomes, is_valid)
    }

    /// Whether others know all that a scheme reads, or cannot tell at present.
    pub(super) fn may_be_known(&self, scheme: usize, outcomes: &Outcomes) -> bool {
        self.is_spoken_for(scheme, outcomes, may_be_valid)
    }

    /// Whether an alternative that asks for a scheme could hold, if that one could tell.
    pub(super) fn is_within_reach(&self, scheme: usize, outcomes: &Outcomes) -> bool {
        // One that was not asked could know what it is shown.
        let could = |scheme: usize| match outcomes.get(scheme) {
            Some(None) => self.exhibits.read_by(scheme) != 0,
            _ => has(outcomes, scheme, may_be_valid),
        };
        let mut asked = self.alternatives.iter().filter(|one| asks_for(one, scheme));
        asked.any(|one| one.needs.iter().all(|need| could(need.scheme)))
    }

    /// Whether another scheme that looks at the same thing is asked for together with this one: the two may contradict each other.
    pub(super) fn may_be_contradicted(&self, scheme: usize, schemes: usize) -> bool {
        let shares = |other: &usize| self.exhibits.read_by(scheme) & self.exhibits.read_by(*other) != 0;
        (0..schemes).filter(|other| *other != scheme).filter(shares).any(|other| self.are_asked_together(scheme, other))
    }

    fn is_spoken_for(&self, scheme: usize, outcomes: &Outcomes, enough: Enough) -> bool {
        let read = self.exhibits.read_by(scheme);
        let mut things = (0..Shown::BITS).map(|bit| 1 << bit).filter(|thing| read & thing != 0);
        read & BEYOND == 0 && read != 0 && things.all(|thing| self.speaks_for(thing, scheme, outcomes, enough))
    }

    /// Whether an alternative that does not ask for a scheme has enough of all that it asks about a thing.
    fn speaks_for(&self, thing: Shown, scheme: usize, outcomes: &Outcomes, enough: Enough) -> bool {
        let reads = |other: &usize| self.exhibits.read_by(*other) & thing != 0;
        let is_together = |other: usize| self.are_asked_together(scheme, other);
        // What contradicts one that it is asked for with is settled by no other, unless an alternative holds without it.
        let mut known = (0..outcomes.len()).filter(reads).filter(|other| has(outcomes, *other, is_valid));
        let is_contradiction = known.any(is_together);
        let mut others = self.alternatives.iter().filter(|one| !asks_for(one, scheme));
        others.any(|one| {
            let readers = || one.needs.iter().map(|need| need.scheme).filter(reads);
            let is_enough = readers().next().is_some() && readers().all(|reader| has(outcomes, reader, enough));
            let is_apart = !is_contradiction && !readers().any(is_together);
            is_enough && (is_apart || one.needs.iter().all(|need| is_met(need, outcomes, enough)))
        })
    }

    fn are_asked_together(&self, scheme: usize, other: usize) -> bool {
        self.alternatives.iter().any(|one| asks_for(one, scheme) && asks_for(one, other))
    }
}

fn asks_for(alternative: &Alternative, scheme: usize) -> bool {
    alternative.needs.iter().any(|need| need.scheme == scheme)
}

/// Whether that is enough for a need, with its scopes.
fn is_met(need: &Need, outcomes: &Outcomes, enough: Enough) -> bool {
    let has_scopes =
        valid(outcomes, need.scheme).is_none_or(|one| need.scopes.iter().all(|scope| one.has_scope(scope)));
    has_scopes && has(outcomes, need.scheme, enough)
}

fn has(outcomes: &Outcomes, scheme: usize, enough: Enough) -> bool {
    outcomes.get(scheme).is_some_and(|outcome| outcome.as_ref().is_some_and(enough))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{below, draw};

    fn one(needs: &[usize]) -> Alternative {
        let need = |scheme: &usize| Need { scheme: *scheme, scopes: Vec::new() };
        Alternative { needs: needs.iter().map(need).collect() }
    }

    fn found(letter: char) -> Option<Outcome> {
        match letter {
            'v' => Some(Outcome::Valid(Arc::new(Principal::default()), Uses::new())),
            'i' => Some(Outcome::Invalid("".into(), None)),
            'o' => Some(Outcome::Over("".into())),
            'u' => Some(Outcome::Unavailable("".into(), None)),
            'a' => Some(Outcome::Absent),
            _ => None,
        }
    }

    /// Which scheme refuses, where these are the alternatives, what each scheme reads, and what it has found.
    fn accuser(alternatives: &[&[usize]], read: &[Shown], letters: &str) -> Option<usize> {
        let alternatives: Vec<Alternative> = alternatives.iter().map(|needs| one(needs)).collect();
        let exhibits = Exhibits::new(read);
        let judgement = Judgement { alternatives: &alternatives, exhibits: &exhibits };
        judgement.accuser(&letters.chars().map(found).collect())
    }

    #[test]
    fn what_another_scheme_knows_is_held_against_nobody() {
        let either: &[&[usize]] = &[&[0], &[1]];
        // Two peppers, one key.
        assert_eq!(accuser(either, &[1, 1], "iv"), None);
        assert_eq!(accuser(either, &[1, 1], "ov"), None);
        assert_eq!(accuser(either, &[1, 1], "ii"), Some(0));
        assert_eq!(accuser(either, &[1, 1], "io"), Some(1));
        assert_eq!(accuser(either, &[1, 1], "iu"), None);
        assert_eq!(accuser(either, &[1, 1], "ou"), Some(0));
        // Two fields, two keys.
        assert_eq!(accuser(either, &[1, 2], "iv"), Some(0));
        assert_eq!(accuser(either, &[1, 2], "iu"), Some(0));
        // One reads both fields.
        assert_eq!(accuser(either, &[3, 2], "iv"), Some(0));
        assert_eq!(accuser(either, &[2, 3], "iv"), None);
        // One that shows nothing is no good for nobody.
        assert_eq!(accuser(either, &[0, 1], "iv"), Some(0));
        assert_eq!(accuser(either, &[BEYOND, BEYOND], "iv"), Some(0));
    }

    #[test]
    fn what_is_asked_for_together_is_not_settled_by_one() {
        // A token and whether it is still active; a key.
        assert_eq!(accuser(&[&[0, 1], &[2]], &[1, 1, 2], "viv"), Some(1));
        assert_eq!(accuser(&[&[0, 1], &[2]], &[1, 1, 2], "ivv"), Some(0));
        assert_eq!(accuser(&[&[0, 1], &[2]], &[1, 1, 2], "vuv"), None);
        // The token alone is enough for another alternative, or with a key that is there.
        assert_eq!(accuser(&[&[0, 1], &[0]], &[1, 1], "vi"), None);
        assert_eq!(accuser(&[&[0, 1], &[0, 2]], &[1, 1, 2], "viv"), None);
        assert_eq!(accuser(&[&[0, 1], &[0, 2]], &[1, 1, 0], "via"), Some(1));
        // A third scheme that knows the token, too, settles it only where it is enough.
        assert_eq!(accuser(&[&[0, 1], &[2]], &[1, 1, 1], "viv"), None);
        assert_eq!(accuser(&[&[0, 1], &[2, 3]], &[1, 1, 1, 0], "viva"), Some(1));
        // One that cannot tell contradicts nobody.
        assert_eq!(accuser(&[&[0, 1], &[2, 3]], &[1, 1, 1, 0], "uiva"), None);
        // Two populations of certificates, each with a key: that the key is missing says nothing of the certificate.
        assert_eq!(accuser(&[&[0, 2], &[1, 2]], &[1, 1, 0], "via"), None);
    }

    #[test]
    fn nothing_that_others_may_find_helps_who_is_lost() {
        let (mut lost, mut open) = (0, 0);
        for seed in 0..100_000 {
            let mut step = 0;
            let mut pick = |most: u64| {
                step += 1;
                below(draw(seed, step), most)
            };
            let schemes = 1 + pick(4) as usize;
            let mut alternatives: Vec<Alternative> = (0..1 + pick(3))
                .map(|_| one(&(0..schemes).filter(|_| pick(2) == 0).collect::<Vec<_>>()))
                .filter(|alternative| !alternative.needs.is_empty())
                .collect();
            for need in alternatives.iter_mut().flat_map(|alternative| &mut alternative.needs) {
                need.scopes = if pick(3) == 0 { vec!["a".into()] } else { Vec::new() };
            }
            let exhibits = Exhibits::new(&(0..schemes).map(|_| pick(8)).collect::<Vec<Shown>>());
            let judgement = Judgement { alternatives: &alternatives, exhibits: &exhibits };
            let letters: Vec<char> =
                (0..schemes).map(|_| ['v', 'i', 'o', 'u', 'a', '?', '?'][pick(7) as usize]).collect();
            let outcomes: Outcomes = letters.iter().copied().map(found).collect();
            let asked: Vec<usize> =
                (0..schemes).filter(|index| letters[*index] == '?' && exhibits.read_by(*index) != 0).collect();
            // Everything that they may find, valid also without the scope.
            let all = 5usize.pow(u32::try_from(asked.len()).expect("few"));
            let is_refused = |choice: usize| {
                let (mut outcomes, mut rest) = (outcomes.clone(), choice);
                for index in &asked {
                    outcomes[*index] = found(['v', 'i', 'o', 'u', 'a'][rest % 5]);
                    if rest % 5 == 0
                        && let Some(Outcome::Valid(principal, _)) = &mut outcomes[*index]
                    {
                        *principal = Arc::new(Principal { scopes: vec!["a".into()], ..Principal::default() });
                    }
                    rest /= 5;
                }
                judgement.accuser(&outcomes).is_some()
            };
            let expected = (0..all).all(is_refused);
            assert_eq!(judgement.is_lost(&outcomes), expected, "{alternatives:?} {exhibits:?} {letters:?}");
            if expected { lost += 1 } else { open += 1 }
        }
        assert!(lost > 10_000 && open > 10_000, "{lost} {open}");
    }

    #[test]
    fn what_nobody_knows_is_always_held_against_who_shows_it() {
        let (mut refused, mut passed) = (0, 0);
        for seed in 0..200_000 {
            let mut step = 0;
            let mut pick = |most: u64| {
                step += 1;
                below(draw(seed, step), most)
            };
            let schemes = 1 + pick(4) as usize;
            let alternatives: Vec<Vec<usize>> = (0..1 + pick(4))
                .map(|_| (0..schemes).filter(|_| pick(2) == 0).collect::<Vec<_>>())
                .filter(|needs| !needs.is_empty())
                .collect();
            let read: Vec<Shown> = (0..schemes).map(|_| pick(8)).collect();
            let letters: Vec<char> = (0..schemes).map(|_| ['v', 'i', 'o', 'u', 'a'][pick(5) as usize]).collect();
            let text: String = letters.iter().collect();
            let all: Vec<&[usize]> = alternatives.iter().map(Vec::as_slice).collect();
            let accused = accuser(&all, &read, &text);
            let is = |index: usize, wanted: &str| wanted.contains(letters[index]);
            for thing in [1, 2, 4] {
                let readers: Vec<usize> = (0..schemes).filter(|index| read[*index] & thing != 0).collect();
                let is_refused = readers.iter().any(|index| is(*index, "io"));
                let is_maybe_known = readers.iter().any(|index| is(*index, "vu"));
                assert!(!is_refused || is_maybe_known || accused.is_some(), "{alternatives:?} {read:?} {text}");
            }
            match accused {
                Some(index) => {
                    refused += 1;
                    assert!(is(index, "io"), "{alternatives:?} {read:?} {text}");
                    // Where an alternative holds without the accuser that reads all that it reads, nothing is held against anybody.
                    let knows = |needs: &&Vec<usize>| {
                        let union = needs.iter().fold(0, |sum, need| sum | read[*need]);
                        !needs.contains(&index)
                            && needs.iter().all(|need| is(*need, "v"))
                            && read[index] != 0
                            && read[index] & !union == 0
                    };
                    assert!(!alternatives.iter().any(|needs| knows(&needs)), "{alternatives:?} {read:?} {text}");
                }
                None => passed += 1,
            }
        }
        assert!(refused > 10_000 && passed > 10_000, "{refused} {passed}");
    }
}
