//! The ninth verb of the road: policies by phase, then the rule's filters.
//!
//! Called by the proxy after `route`, also when no rule matched: the policies of the listener guard its 404s too. The CORS filter is
//! looked at first and answers after the guards, so that even a refusal can be read by the page that caused it.

use crate::exchange::Exchange;
use crate::policies::Phase;
use crate::reason::Reason;
use crate::route::Routed;
use crate::snapshot::Listener;
use crate::verdict::{Reply, Verdict};

/// Screens a request. With a rule: its policies, its filters. Without: the policies of the listener, then 404. After
/// [`Verdict::Call`], call it again with the same notes, resumed.
pub fn screen(listener: &Listener, routed: Option<&Routed<'_>>, x: &mut Exchange<'_>) -> Verdict {
    x.notes.paths = listener.settings.path;
    let Some(routed) = routed else {
        return match listener.chain.screen(x, Phase::FIRST..=Phase::LAST) {
            Verdict::Continue => Reply::new(Reason::RouteNotFound).into(),
            refusal => refusal,
        };
    };
    let rule = &**routed.rule;
    x.notes.matched_prefix = routed.matched_prefix;
    x.notes.rule_key = rule.key;
    let preflight = rule.filters.cors.as_ref().and_then(|cors| cors.meet(x));
    if !rule.chain.is_empty() {
        let verdict = rule.chain.screen(x, Phase::FIRST..=Phase::Guard);
        if !verdict.goes_on() {
            return verdict;
        }
        if let Some(reply) = preflight {
            return reply.into();
        }
        let verdict = rule.chain.screen(x, Phase::Authenticate..=Phase::LAST);
        if !verdict.goes_on() {
            return verdict;
        }
    } else if let Some(reply) = preflight {
        return reply.into();
    }
    if !rule.filters.touches_request() {
        return Verdict::Continue;
    }
    let (verdict, prefix) = rule.filters.apply_to_request(x, routed.matched_prefix);
    x.notes.matched_prefix = prefix;
    verdict
}

/// Asks again, of a request that was let in before and is still under way as an open connection, whether it would be let in today: its
/// guards, whether its principal still is one, and who may do what. What other policies had to say, they have said. Without a rule that takes it, its listener's
/// policies are asked: that a route is gone ends nothing.
pub fn screen_again(listener: &Listener, routed: Option<&Routed<'_>>, x: &mut Exchange<'_>) -> Verdict {
    let chain = routed.map_or(&listener.chain, |routed| &routed.rule.chain);
    x.notes.again = true;
    x.notes.paths = listener.settings.path;
    let verdict = chain.screen(x, Phase::Guard..=Phase::Guard);
    if !verdict.goes_on() {
        return verdict;
    }
    let verdict = chain.recheck(x, Phase::Authenticate);
    if !verdict.goes_on() {
        return verdict;
    }
    chain.recheck(x, Phase::Authorize)
}

/// The same by what somebody says who is asked anew, because his last answer has ended ([`Principal::asked`](crate::principal::Principal::asked)). A
/// [`Verdict::Call`] is performed, and this is called again with what came of it ([`Notes::resume`](crate::exchange::Notes::resume)).
pub fn ask_again(listener: &Listener, routed: Option<&Routed<'_>>, x: &mut Exchange<'_>) -> Verdict {
    let chain = routed.map_or(&listener.chain, |routed| &routed.rule.chain);
    x.notes.again = true;
    x.notes.asks = true;
    x.notes.paths = listener.settings.path;
    let verdict = chain.recheck(x, Phase::Authenticate);
    if !verdict.goes_on() {
        return verdict;
    }
    chain.recheck(x, Phase::Authorize)
}
