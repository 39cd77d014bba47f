//! Signs of life: what a member says of itself, and what it is told in answer.
//!
//! Called by `member` when one is due and when an answer has come.

use std::time::Duration;

use transept_identity::{Bundle, LiveBundles, SpiffeId};
use transept_xds::mesh::{Answer, Beat};

use super::Member;

impl Member {
    pub(super) fn beat(&mut self) {
        self.note_learned();
        let Some(link) = &mut self.link else { return };
        let introduce = self.introduce;
        let beat = Beat {
            workload: self.options.workload.clone().filter(|_| introduce),
            nonce: self.nonce.clone(),
            leaves: self.leaving.is_some(),
            bundle_sequence: sequence(&self.bundles, &self.svid.load().id().clone()),
            proxy: self.options.node.clone(),
        };
        let sent = link.beats.send(&beat);
        self.introduce = false;
        self.unanswered += 1;
        self.beat_at = Some(self.began.elapsed() + self.interval);
        if let Err(why) = sent {
            self.close(Some(why));
        }
    }

    /// Another protocol was heard on a port of the program.
    pub(super) fn tell_learned(&mut self) {
        if self.note_learned() {
            self.beat();
        }
    }

    /// Writes into the workload what its ports have been heard to speak; true when that is news.
    fn note_learned(&mut self) -> bool {
        let (Some(sight), Some(workload)) = (&self.sight, &mut self.options.workload) else { return false };
        let heard = sight.learned();
        let mut is_news = false;
        for port in &mut workload.ports {
            let own = if port.target_port == 0 { port.port } else { port.target_port };
            let word = u16::try_from(own).ok().and_then(|own| heard.get(&own)).copied().unwrap_or_default();
            if port.learned != word {
                word.clone_into(&mut port.learned);
                is_news = true;
            }
        }
        self.introduce |= is_news;
        is_news
    }

    /// What the answer to a beat says of it.
    fn take_confirmation(&mut self, answer: &Answer) {
        if answer.interval_ms > 0 {
            self.interval = Duration::from_millis(answer.interval_ms.into());
        }
        self.unanswered = self.unanswered.saturating_sub(1);
        // The last beat is the one that says it; an answer to one before confirms nothing.
        if self.unanswered == 0
            && let Some(done) = self.leaving.take()
        {
            self.options.workload = None;
            let _ = done.send(());
        }
        let refused = Some(answer.refused.clone()).filter(|why| !why.is_empty());
        if let Some(why) = &refused {
            tracing::warn!(%why, "the workload is not registered");
            self.introduce = true;
        }
        let registered = refused.is_none() && self.options.workload.is_some();
        self.tell(|standing| {
            standing.registered = registered;
            standing.refused = refused;
        });
    }

    pub(super) fn take_answer(&mut self, answer: Answer) {
        if !answer.unasked {
            self.take_confirmation(&answer);
        }
        // Nothing planned is a renewal that is under way.
        if answer.renew && self.renew_at.is_some() {
            self.renew_at = Some(self.began.elapsed());
        }
        if !answer.bundle.is_empty() {
            match Bundle::from_jwks(self.svid.load().id().trust_domain(), &answer.bundle) {
                Ok(bundle) => self.hold_bundle(&bundle),
                Err(error) => tracing::error!(%error, "the control plane sends a bundle that cannot be used"),
            }
        }
    }
}

/// The sequence of the bundle of our own trust domain.
fn sequence(bundles: &LiveBundles, id: &SpiffeId) -> u64 {
    bundles.load().of(id.trust_domain_name()).and_then(|bundle| bundle.sequence).unwrap_or(0)
}
