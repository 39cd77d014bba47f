//! The roots of the mesh while they change: who holds which bundle and which certificate, and what follows from that.
//!
//! Called by `core` for every certificate, every sign of life and every second. The stages and when one may be left are those of
//! `transept_identity::rotation`; here they meet the store, the authorities and the proxies.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use serde_json::{Value, json};
use transept_identity::authority::Issued;
use transept_identity::rotation::{Advance, Holder, Stage, is_due};
use transept_identity::{Accept, Bundle, Fingerprint, LiveBundles, PeerVerifier, Purpose, Rotation, SpiffeId};
use transept_xds::mesh::{Answer, Beat};

use super::super::ca::{Ca, Younger};
use super::super::registry::HEARTBEAT;
use super::super::store::Write;
use super::clock::SETTLING;
use super::resident::RESIDENT;
use super::{Inherited, Inner, Member, NotDone, Plane, now};

/// The fewest digits of a fingerprint that name a root: as many as are shown.
const SHORTEST: usize = 8;
/// What people are shown as the name of those that nobody knows of.
const BEFORE: &str = "whoever joined before the state was lost";
/// The same of a state that is an older one.
const SINCE: &str = "whoever joined after the copy of the state was made";
/// How long members may take to connect again after a start: their longest pause (`transept_xds::backoff`), and some time to be served.
pub(super) const RETURN: Duration = Duration::from_secs(45);
/// A state that has noted something in this time is nobody's older copy.
const FRESH: Duration = Duration::from_secs(10);
/// Characters that are kept of what a proxy calls itself.
const LONGEST_NODE: usize = 253;

impl Plane {
    /// The rotation with a certificate that is about to be handed out.
    pub(super) fn note_issued(
        &self,
        inner: &Inner,
        id: &SpiffeId,
        (nonce, node): (&[u8], &str),
        issued: &Issued,
    ) -> Rotation {
        let mut rotation = inner.rotation.clone();
        if !self.doubts_clock(&rotation) {
            rotation.forget_ended_leaves(now());
        }
        if let Some(root) = issued.root {
            let instance = instance(id, nonce);
            rotation.note_issued(&instance, root, issued.leaf.not_after);
            if !node.is_empty() {
                rotation.note_name(&instance, &name_of_proxy(id, node));
            }
        }
        rotation
    }

    /// Notes what a proxy says that it holds, while that matters.
    pub(super) fn note_report(
        &self,
        inner: &mut Inner,
        id: &SpiffeId,
        beat: &Beat,
        chain: &[CertificateDer<'static>],
    ) -> Result<(), NotDone> {
        let instance = instance(id, &beat.nonce);
        if beat.leaves {
            let is_it = |member: &&mut Member| member.is(&instance);
            inner.members.values_mut().filter(is_it).for_each(|member| member.left = true);
        }
        // A proxy that is not known has joined before the state was lost, or after the copy was made that took its place.
        let is_known = inner.rotation.knows(&instance) && inner.rotation.has_left(&instance) == beat.leaves;
        if matches!(inner.rotation.stage(), Stage::Steady { .. }) && is_known {
            return Ok(());
        }
        let (Some(root), Some(leaf)) = (self.root_of(&inner.rotation, chain), chain.first()) else { return Ok(()) };
        let Ok(leaf) = transept_identity::Leaf::parse(leaf) else { return Ok(()) };
        let mut rotation = inner.rotation.clone();
        rotation.note_report(&instance, beat.bundle_sequence, root, leaf.not_after);
        if !beat.proxy.is_empty() {
            rotation.note_name(&instance, &name_of_proxy(id, &beat.proxy));
        }
        rotation.note_left(&instance, beat.leaves);
        if rotation != inner.rotation {
            self.store(&[Write::Rotation(&rotation)])?;
            inner.rotation = rotation;
        }
        Ok(())
    }

    /// What a proxy is to be told that holds the bundle with this sequence and shows this chain.
    pub(in crate::plane) fn news(&self, sequence: u64, chain: &[CertificateDer<'static>]) -> Answer {
        let (latest, document) = self.bundle_document();
        let signing = {
            let inner = self.lock();
            let signing = matches!(inner.rotation.stage(), Stage::Signing { .. });
            signing.then(|| inner.rotation.clone())
        };
        let renew = signing.is_some_and(|rotation| self.root_of(&rotation, chain) != Some(rotation.signer()));
        Answer {
            interval_ms: u32::try_from(HEARTBEAT.as_millis()).unwrap_or(u32::MAX),
            bundle: if sequence < latest { document } else { String::new() },
            renew,
            refused: String::new(),
            unasked: false,
        }
    }

    /// Begins to replace the root: a new one is made and announced to every proxy.
    pub(in crate::plane) fn rotate(&self) -> Result<Value, NotDone> {
        let wrong = |why: String| NotDone::Wrong(why);
        if self.clock_has_jumped() {
            let why = "the clock of this machine has jumped in the last ten minutes: a root that is made now may begin, or end, at a wrong time";
            return Err(wrong(format!("{why}; see to the clock, and try again then")));
        }
        let mut inner = self.lock();
        if !matches!(inner.rotation.stage(), Stage::Steady { .. }) {
            return Err(wrong("a rotation is under way already; `transept certs` shows what it waits for".into()));
        }
        inner.rotation.may_announce().map_err(|error| wrong(error.to_string()))?;
        let new = self.ca.prepare_root(now()).map_err(|error| wrong(error.to_string()))?;
        let root = new.root();
        let mut rotation = inner.rotation.clone();
        rotation.announce(root, now()).map_err(|error| wrong(error.to_string()))?;
        rotation.number_by_clock(now());
        self.store(&[Write::Rotation(&rotation)])?;
        self.ca.add_root(new);
        inner.rotation = rotation;
        tracing::info!(%root, "a new root is announced");
        self.hold_bundle(&inner.rotation);
        Ok(json!({"root": root.to_string()}))
    }

    /// Begins to replace the root when the last third of its life has begun, without anybody who asks for it. `moment` is counted from the
    /// start.
    pub(super) fn renew_root(&self, moment: Duration) {
        let root = self.ca.authority();
        if !is_due(root.not_before(), root.not_after(), now()) || !self.may_renew_root(moment) {
            return;
        }
        tracing::warn!(root = %self.ca.root(), ends = root.not_after().as_secs(), "the root is in the last third of its life and is replaced");
        if let Err(error) = self.rotate() {
            tracing::error!("the root cannot be replaced, and it is tried again in {SETTLING:?}: {error}");
            self.lock().no_root_before = moment + SETTLING;
        }
    }

    /// Whether a root may be replaced by what the clock says: that has gone on evenly, and somebody has a certificate that is good by it. If
    /// nobody has, the clock is wrong, or nobody needs another root.
    fn may_renew_root(&self, moment: Duration) -> bool {
        let has_settled = {
            let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
            clock.has_settled(now(), moment)
        };
        let inner = self.lock();
        let is_held = has_good_holder(&inner.rotation, now());
        let is_steady = matches!(inner.rotation.stage(), Stage::Steady { .. });
        has_settled && is_held && is_steady && inner.rotation.may_announce().is_ok() && moment >= inner.no_root_before
    }

    /// Whether the clock may be wrong, so that nothing is forgotten for good that has ended by it.
    pub(super) fn doubts_clock(&self, rotation: &Rotation) -> bool {
        self.clock_has_jumped() || self.nobody_is_good(rotation, self.began.elapsed())
    }

    /// Whether there are members, and by the clock not one of them has a certificate that is good: then it is the clock that is wrong, or nobody is
    /// there who needs another root. Those of whom only is known that there may be some renew nothing: where they are all, their certificates end by a clock that
    /// cannot be set, and that begins with the process. `moment` is counted from the start.
    pub(super) fn nobody_is_good(&self, rotation: &Rotation, moment: Duration) -> bool {
        let is_member = |name: &str| name != RESIDENT && !is_unknown(name);
        if rotation.count(is_member) > 0 {
            return !has_good_holder(rotation, now());
        }
        let is_there = rotation.holders(now()).any(|holder| is_unknown(holder.proxy));
        rotation.count(is_unknown) > 0 && !is_there && moment < self.ca.leaf_life()
    }

    /// Whether what depends on the clock has to wait.
    pub(super) fn clock_has_jumped(&self) -> bool {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.has_jumped(now(), self.began.elapsed())
    }

    /// Goes to the next stage of a rotation, if there is one and it may, and forgets retired roots whose time is over.
    /// `moment` is counted from the start.
    pub(super) fn turn(&self, inner: &mut Inner, moment: Duration) -> Result<(), NotDone> {
        let is_steady = matches!(inner.rotation.stage(), Stage::Steady { .. });
        let is_over = inner.rotation.awaits_unknown() && moment >= RETURN;
        if self.clock_has_jumped() || (is_steady && !is_over && inner.rotation.retired().is_empty()) {
            return Ok(());
        }
        let mut rotation = inner.rotation.clone();
        let is_over = is_over && rotation.end_await();
        // A clock that goes on evenly may still be wrong.
        let (forgotten, advance) = match self.nobody_is_good(&rotation, moment) {
            true => (false, Advance::Idle),
            false => (rotation.forget_retired(now()), rotation.advance(now())),
        };
        if let Advance::Retired(root) = advance {
            self.keep_for_open(&mut rotation, &root);
        }
        if rotation.sequence() != inner.rotation.sequence() {
            rotation.number_by_clock(now());
        }
        let is_new = forgotten || matches!(advance, Advance::Signs(_) | Advance::Retired(_));
        if !is_new && !is_over {
            return Ok(());
        }
        // What is stored comes first: after an end at any moment the next start goes on from there.
        self.store(&[Write::Rotation(&rotation)])?;
        inner.rotation = rotation;
        match advance {
            Advance::Signs(root) => tracing::info!(%root, "the new root signs"),
            Advance::Retired(root) => tracing::info!(%root, "the old root is retired"),
            _ => {}
        }
        if is_new {
            self.follow_rotation(inner);
        }
        Ok(())
    }

    /// Has a root that has just been retired count for what is open. Every leaf of it has ended by then, and whatever was made under
    /// it has had the life of a leaf to end by itself.
    fn keep_for_open(&self, rotation: &mut Rotation, root: &Fingerprint) {
        let Some(certificate) = self.ca.certificate(root) else { return };
        let until = Duration::from_secs(now().as_secs()).saturating_add(self.ca.leaf_life());
        rotation.keep_for_open(certificate, UnixTime::since_unix_epoch(until));
    }

    /// Takes a root out of the bundle at once. `root` is its fingerprint, or the beginning of it.
    pub(in crate::plane) fn distrust(&self, root: &str) -> Result<Value, NotDone> {
        let wrong = |why: String| NotDone::Wrong(why);
        if root.len() < SHORTEST {
            return Err(wrong(format!(
                "`{root}` is too short: at least {SHORTEST} digits of the fingerprint are needed"
            )));
        }
        let mut inner = self.lock();
        let trusted = inner.rotation.trusted();
        let mut meant = trusted.iter().chain(inner.rotation.retired().keys());
        let meant = meant.find(|known| known.to_string().starts_with(root)).copied();
        let Some(root) = meant else {
            return Err(wrong(format!("no root `{root}` is trusted or retiring; `transept certs` shows all")));
        };
        let mut rotation = inner.rotation.clone();
        rotation.distrust(&root).map_err(|error| wrong(format!("{}: {error}", root.short())))?;
        rotation.number_by_clock(now());
        self.store(&[Write::Rotation(&rotation)])?;
        inner.rotation = rotation;
        tracing::warn!(%root, "a root is distrusted: what it vouched for ends now");
        self.follow_rotation(&inner);
        self.replace_distrusted_resident(&mut inner)?;
        Ok(json!({"distrusted": root.to_string()}))
    }

    /// Lets authorities, own certificate and bundle be what the rotation says.
    fn follow_rotation(&self, inner: &Inner) {
        if let Err(error) = self.ca.settle(&inner.rotation) {
            tracing::error!(%error, "the authorities do not follow the rotation");
            return;
        }
        self.replace_own();
        self.hold_bundle(&inner.rotation);
    }

    /// Puts the bundle of a rotation in force and has the proxies told.
    fn hold_bundle(&self, rotation: &Rotation) {
        match bundle_of(&self.ca, rotation) {
            Ok(bundle) => self.bundles.store([bundle].into_iter().collect()),
            Err(error) => tracing::error!(%error, "the bundle cannot be made"),
        }
        self.turned.send_modify(|count| *count += 1);
    }

    /// The bundle as a document, with its sequence.
    pub(in crate::plane) fn bundle_document(&self) -> (u64, String) {
        let bundles = self.bundles.load();
        let bundle = bundles.of(self.trust_domain().as_str());
        bundle.map_or((0, String::new()), |bundle| (bundle.sequence.unwrap_or(0), bundle.to_jwks()))
    }

    /// Which of the trusted roots a chain leads to.
    pub(super) fn root_of(&self, rotation: &Rotation, chain: &[CertificateDer<'static>]) -> Option<Fingerprint> {
        let leads = |root: &Fingerprint| {
            let Ok(bundle): Result<Bundle, _> = self.ca.bundle(&[*root], 0) else { return false };
            let bundles = LiveBundles::new([bundle].into_iter().collect());
            let accept = Accept::TrustDomain(self.trust_domain().clone());
            PeerVerifier::new(bundles, accept, self.ca.provider().clone()).peer(chain, Purpose::Client, now()).is_ok()
        };
        rotation.trusted().into_iter().find(leads)
    }
}

/// Whether a member that is known has a certificate that is good at `now`. The resident renews by the same clock and says nothing of it, nor does what stands for
/// everybody unknown.
fn has_good_holder(rotation: &Rotation, now: UnixTime) -> bool {
    let mut holders = rotation.holders(now);
    holders.any(|holder| holder.proxy != RESIDENT && !holder.refused && !is_unknown(holder.proxy))
}

/// Whether a holder is no member, but stands for those that nobody knows of.
fn is_unknown(name: &str) -> bool {
    [BEFORE, SINCE].iter().any(|unknown| name.ends_with(unknown))
}

/// Whether that is a member that is known.
fn is_member(name: &str) -> bool {
    name != RESIDENT && !is_unknown(name)
}

/// The members that a state knows and that have not left, whether their leaves have ended or not.
pub(super) fn inherited(rotation: &Rotation) -> BTreeMap<String, Inherited> {
    let members = rotation.holders(UnixTime::since_unix_epoch(Duration::ZERO));
    let members = members.filter(|holder| is_member(holder.proxy) && !holder.left);
    let member = |holder: Holder<'_>| {
        let inherited = Inherited { name: holder.name.to_owned(), until: holder.until, refused: holder.refused };
        (holder.proxy.to_owned(), inherited)
    };
    members.map(member).collect()
}

/// Whether there was an authority before the state was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// It is made now.
    New,
    /// It was there, and may have signed.
    Old,
}

/// The rotation that was stored, or one of which nothing is known yet. A root of the mesh that is younger than the state is taken in: members
/// may have certificates of it, and of the one before, which nobody knows of. Where the authority may have signed before, somebody may be away with a certificate that nobody knows of any more: it
/// counts until every such certificate has ended.
///
/// # Errors
/// Only a newer state could say which of several roots signs, or what a root is that was not made to come after the one that signs.
pub(super) fn restore(stored: Option<Rotation>, ca: &Ca, age: Age, now: UnixTime) -> Result<Rotation, String> {
    if let Some(mut stored) = stored {
        // Whether it is the newest does not show. Who joined after a copy of it was made becomes known by connecting again.
        if now.as_secs().abs_diff(stored.noted_last(ca.leaf_life())) > FRESH.as_secs() {
            stored.await_unknown();
        }
        return match ca.made_after(stored.signer(), &stored.trusted())[..] {
            [] => Ok(stored),
            [Younger { root, of_mesh: true, .. }] if stored.take_in(root, now).is_ok() => {
                stored.number_by_clock(now);
                for root in stored.trusted() {
                    note_unknown(&mut stored, SINCE, root, ca, now);
                }
                tracing::warn!(
                    %root,
                    "a root is there that the state does not know: the state is an older copy. The root is announced, and signs when every \
                     certificate that may be unknown has ended"
                );
                Ok(stored)
            }
            ref several => {
                let names: Vec<&str> = several.iter().map(|one| &*one.name).collect();
                Err(format!(
                    "the state does not know the authority in {} (.key and .pem), which is younger than the one that signs. If state.redb is an \
                     older copy, put the newest one back; if it is the newest, nobody has a certificate of that authority: move its files away",
                    names.join(", ")
                ))
            }
        };
    }
    if ca.authorities().len() > 1 {
        let why = "there are several authorities in the directory, and the state that says which one signs is lost";
        return Err(format!("{why}; put state.redb back from a backup"));
    }
    let mut rotation = Rotation::new(ca.root());
    rotation.number_by_clock(now);
    if age == Age::Old {
        note_unknown(&mut rotation, BEFORE, ca.root(), ca, now);
        tracing::warn!(
            "state.redb is new, and the authority beside it is not: tokens and registrations from before are not known, and the root can be \
             replaced when every certificate that it may have signed before has ended"
        );
    }
    Ok(rotation)
}

/// Has a rotation count those who may have a certificate of a root that nobody knows of, as long as it may live.
fn note_unknown(rotation: &mut Rotation, name: &str, root: Fingerprint, ca: &Ca, now: UnixTime) {
    let unknown = format!("{} {name}", ca.trust_domain().id());
    let until = Duration::from_secs(now.as_secs()).saturating_add(ca.leaf_life());
    rotation.note_issued(&unknown, root, UnixTime::since_unix_epoch(until));
    rotation.note_name(&unknown, name);
}

/// The bundle that a rotation says is in force.
///
/// # Errors
/// A root of it is not known, or cannot be used.
pub(super) fn bundle_of(ca: &Ca, rotation: &Rotation) -> Result<Bundle, String> {
    let mut bundle = ca.bundle(&rotation.trusted(), rotation.sequence())?;
    for retired in rotation.retired().values() {
        let until = UnixTime::since_unix_epoch(Duration::from_secs(retired.until));
        bundle.retire(retired.certificate.clone(), until).map_err(|error| error.to_string())?;
    }
    Ok(bundle)
}

/// What people are shown as the name of a proxy. What it calls itself stands behind what it has proven, so that it cannot speak for
/// another one.
pub(in crate::plane) fn name_of_proxy(id: &SpiffeId, node: &str) -> String {
    let proven = match id.workload() {
        Some(workload) => format!("{}/{}", workload.namespace(), workload.service_account()),
        None => id.path().to_owned(),
    };
    // It is shown on terminals.
    let node: String = node.chars().take(LONGEST_NODE).filter(|char| !char.is_control()).collect();
    format!("{proven}/{node}")
}

/// The name of an instance in the rotation: several share an identity, and each has to hold the bundle.
fn instance(id: &SpiffeId, nonce: &[u8]) -> String {
    format!("{id} {}", Fingerprint::of(nonce).short())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use transept_identity::TrustDomain;
    use transept_identity::rotation::MOST_RETIRING;

    use super::super::Setup;
    use super::*;

    fn open(directory: &Path) -> std::sync::Arc<Plane> {
        let trust_domain = TrustDomain::new("shop.test").expect("a domain");
        Plane::open(directory, Setup { trust_domain, leaf_life: Duration::from_secs(3600) }).expect("it starts")
    }

    /// The files of authorities, with what is in them.
    fn files(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
        let all = directory.read_dir().expect("a directory").map(|one| one.expect("an entry").path());
        let of_authorities = all.filter(|path| !path.ends_with(super::super::STATE));
        let mut files: Vec<_> =
            of_authorities.map(|path| (path.clone(), std::fs::read(&path).expect("readable"))).collect();
        files.sort();
        files
    }

    #[test]
    fn a_rotation_that_may_not_begin_makes_no_root() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plane = open(directory.path());
        let before = files(directory.path());
        for number in 0..MOST_RETIRING {
            let certificate = CertificateDer::from(number.to_be_bytes().to_vec());
            plane.lock().rotation.keep_for_open(certificate, now());
        }
        let why = plane.rotate().expect_err("too many").to_string();
        assert!(why.contains("16 roots are retiring"), "{why}");
        assert_eq!((files(directory.path()), plane.ca.authorities().len()), (before, 1));
    }

    #[test]
    fn a_root_that_is_due_is_replaced_when_the_clock_has_settled_and_somebody_is_there() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plane = open(directory.path());
        let later = SETTLING + Duration::from_secs(1);
        assert!(!plane.may_renew_root(later), "by this clock nobody has a certificate that is good");
        let until = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() + 3600));
        plane.lock().rotation.note_issued("web", plane.ca.root(), until);
        assert!(plane.may_renew_root(later));
        plane.lock().no_root_before = later + later;
        assert!(!plane.may_renew_root(later), "it has failed just now");
    }

    #[test]
    fn nobody_is_forgotten_and_no_stage_is_left_while_the_clock_may_be_wrong() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plane = open(directory.path());
        let long_ago = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() - 10_000));
        plane.lock().rotation.note_issued("web", plane.ca.root(), long_ago);
        plane.rotate().expect("announced");
        // As if the clock had shown that time a moment ago.
        plane.clock.lock().expect("sound").has_jumped(long_ago, plane.began.elapsed());
        let mut inner = plane.lock();
        plane.turn(&mut inner, RETURN).expect("stored");
        assert_eq!(inner.rotation.stage().slug(), "announced");
        assert!(inner.rotation.knows("web"));
    }

    #[test]
    fn no_stage_is_left_by_a_clock_by_which_nobody_has_a_good_certificate() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plane = open(directory.path());
        let long_ago = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() - 10_000));
        let soon = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() + 1000));
        plane.move_in(&transept_identity::WorkloadName::new("default", "edge").expect("a name")).expect("it moves in");
        plane.lock().rotation.note_issued("web", plane.ca.root(), long_ago);
        plane.rotate().expect("announced");
        let mut inner = plane.lock();
        for _ in 0..3 {
            plane.tend_resident(&mut inner).expect("stored");
            plane.turn(&mut inner, RETURN).expect("stored");
            assert_eq!(inner.rotation.stage().slug(), "announced");
        }
        assert!(inner.rotation.knows("web"), "nor is anybody forgotten");
        // Somebody is there: who has ended does not count any more.
        inner.rotation.note_report("cart", u64::MAX, plane.ca.root(), soon);
        plane.turn(&mut inner, RETURN).expect("stored");
        assert_eq!((inner.rotation.stage().slug(), inner.rotation.knows("web")), ("signing", false));
    }

    #[test]
    fn those_of_whom_only_is_known_that_there_may_be_some_end_by_a_clock_that_cannot_be_set() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plane = open(directory.path());
        let long_ago = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() - 10 * 86_400));
        let mut rotation = plane.lock().rotation.clone();
        let life = plane.ca.leaf_life();
        let is_doubted =
            |rotation: &Rotation| [Duration::ZERO, life].map(|moment| plane.nobody_is_good(rotation, moment));
        assert_eq!(is_doubted(&rotation), [false; 2], "nobody is there");
        for unknown in [BEFORE, SINCE] {
            note_unknown(&mut rotation, unknown, plane.ca.root(), &plane.ca, long_ago);
        }
        assert_eq!(is_doubted(&rotation), [true, false]);
        // They vouch for no clock by which somebody else has nothing good.
        note_unknown(&mut rotation, SINCE, plane.ca.root(), &plane.ca, now());
        assert_eq!(is_doubted(&rotation), [false; 2], "they are waited for");
        assert!(!has_good_holder(&rotation, now()));
        rotation.note_issued("web", plane.ca.root(), long_ago);
        assert_eq!(is_doubted(&rotation), [true; 2]);
        rotation.note_issued("cart", plane.ca.root(), now());
        assert_eq!(is_doubted(&rotation), [false; 2]);
    }

    #[test]
    fn after_the_state_was_lost_no_stage_is_left_by_a_clock_that_is_wrong_evenly() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plane = open(directory.path());
        let long_ago = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() - 10 * 86_400));
        note_unknown(&mut plane.lock().rotation, BEFORE, plane.ca.root(), &plane.ca, long_ago);
        plane.rotate().expect("announced");
        let mut inner = plane.lock();
        plane.turn(&mut inner, SETTLING).expect("stored");
        assert_eq!(inner.rotation.stage().slug(), "announced");
        plane.turn(&mut inner, plane.ca.leaf_life()).expect("stored");
        assert_eq!(inner.rotation.stage().slug(), "signing");
    }

    #[test]
    fn a_retired_root_counts_on_while_nobody_has_a_good_certificate_by_the_clock() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plane = open(directory.path());
        let at = |seconds: u64| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let (long_ago, soon) = (at(now().as_secs() - 3 * 86_400), at(now().as_secs() + 1000));
        let mut inner = plane.lock();
        inner.rotation.keep_for_open(CertificateDer::from(vec![1]), long_ago);
        inner.rotation.note_issued("web", plane.ca.root(), long_ago);
        plane.turn(&mut inner, SETTLING).expect("stored");
        assert_eq!(inner.rotation.retired().len(), 1);
        inner.rotation.note_issued("web", plane.ca.root(), soon);
        plane.turn(&mut inner, SETTLING).expect("stored");
        assert!(inner.rotation.retired().is_empty());
    }

    #[test]
    fn certificates_of_a_clock_that_ran_ahead_are_replaced_when_it_is_right() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plane = open(directory.path());
        let name = transept_identity::WorkloadName::new("default", "edge").expect("a name");
        let live = plane.move_in(&name).expect("it moves in");
        // As if they had been made by such a clock.
        let ahead = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() + 3 * 86_400));
        plane.own.store(plane.ca.own_svid(ahead).expect("signed"));
        live.store(plane.ca.own_svid(ahead).expect("signed"));
        plane.renew_own();
        plane.tend_resident(&mut plane.lock()).expect("stored");
        for held in [plane.own.load(), live.load()] {
            assert!(held.leaf().not_before <= now(), "{:?}", held.leaf());
        }
    }

    #[test]
    fn what_is_due_only_by_a_clock_that_has_jumped_waits() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plane = open(directory.path());
        let before = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() - seconds));
        let own = plane.own.load().leaf().clone();
        let made = |seconds: u64| transept_identity::Leaf {
            not_before: before(seconds),
            not_after: UnixTime::since_unix_epoch(Duration::from_secs(before(seconds).as_secs() + 3600)),
            ..own.clone()
        };
        assert!(plane.is_due(&made(2000)) && !plane.is_due(&made(1000)));
        plane.clock.lock().expect("sound").has_jumped(before(10_000), plane.began.elapsed());
        assert!(!plane.is_due(&made(2000)), "more than a quarter is left");
        assert!(plane.is_due(&made(3000)) && plane.is_due(&made(4000)));
    }

    #[test]
    fn the_directory_of_a_member_is_left_alone() {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::write(directory.path().join("identity.pem"), "").expect("written");
        let trust_domain = TrustDomain::new("shop.test").expect("a domain");
        let setup = Setup { trust_domain, leaf_life: Duration::from_secs(3600) };
        let refused = Plane::open(directory.path(), setup).expect_err("it is somebody else's").to_string();
        assert!(refused.contains("it holds the identity of a member of a mesh"), "{refused}");
        assert_eq!(std::fs::read_dir(directory.path()).expect("read").count(), 1);
    }

    #[test]
    fn a_root_that_is_distrusted_stays_away_whatever_is_left_of_its_files() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plane = open(directory.path());
        let first = files(directory.path());
        let distrusted = plane.rotate().expect("announced")["root"].as_str().expect("a root").to_owned();
        let both = files(directory.path());
        assert_eq!(both.len(), 4);
        plane.distrust(&distrusted).expect("it is known");
        drop(plane);
        // As if the process had ended before they were deleted, or between the two.
        for left in [&["key", "pem"][..], &["pem"]] {
            let is_left = |path: &Path| left.iter().any(|kind| path.extension().is_some_and(|own| own == *kind));
            for (path, bytes) in both.iter().filter(|(path, _)| is_left(path)) {
                std::fs::write(path, bytes).expect("put back");
            }
            let plane = open(directory.path());
            assert_eq!(plane.lock().rotation.trusted(), [plane.ca.root()]);
            assert_ne!(plane.ca.root().to_string(), distrusted);
            assert_eq!(files(directory.path()), first);
        }
    }

    #[test]
    fn an_older_state_announces_a_younger_root_and_waits_for_whom_it_does_not_know() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let state = directory.path().join(super::super::STATE);
        drop(open(directory.path()));
        let older = std::fs::read(&state).expect("readable");
        let plane = open(directory.path());
        let first = plane.ca.root();
        plane.rotate().expect("announced");
        drop(plane);
        std::fs::write(&state, older).expect("put back");
        let plane = open(directory.path());
        let mut inner = plane.lock();
        for _ in 0..3 {
            plane.turn(&mut inner, RETURN).expect("stored");
        }
        assert!(matches!(inner.rotation.stage(), Stage::Announced { old, .. } if *old == first));
        let waiting: Vec<String> = inner.rotation.waiting().iter().map(ToString::to_string).collect();
        assert_eq!(waiting, [format!("`{SINCE}` has not confirmed bundle {}", inner.rotation.sequence())]);
        let after = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() + 3600 + 301));
        let mut rotation = inner.rotation.clone();
        assert!(matches!(rotation.advance(after), Advance::Signs(_)));
    }

    #[test]
    fn a_state_that_may_be_an_older_copy_leaves_no_stage_before_members_have_had_the_time_to_return() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let plane = open(directory.path());
        plane.rotate().expect("announced");
        // As if nothing had been noted for long: the numbers of its bundles are small.
        let text = serde_json::to_value(&plane.lock().rotation).expect("written");
        let mut text = text.as_object().expect("fields").clone();
        text.insert("sequence".into(), json!(2));
        let aged: Rotation = serde_json::from_value(text.into()).expect("read");
        plane.store(&[Write::Rotation(&aged)]).expect("stored");
        drop(plane);
        // A member that it knows, and another start, do not make it fresh.
        let plane = open(directory.path());
        let mut rotation = plane.lock().rotation.clone();
        let until = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() + 3600));
        rotation.note_report("web", u64::MAX, plane.ca.root(), until);
        assert!(now().as_secs().abs_diff(rotation.noted_last(plane.ca.leaf_life())) <= FRESH.as_secs());
        plane.store(&[Write::Rotation(&rotation)]).expect("stored");
        drop(plane);
        let plane = open(directory.path());
        let mut inner = plane.lock();
        assert!(inner.rotation.awaits_unknown());
        for moment in [Duration::ZERO, RETURN / 2, RETURN - Duration::from_secs(1)] {
            plane.turn(&mut inner, moment).expect("stored");
            assert_eq!(inner.rotation.stage().slug(), "announced");
        }
        plane.turn(&mut inner, RETURN).expect("stored");
        assert_eq!(inner.rotation.stage().slug(), "signing");
        drop(inner);
        drop(plane);
        // What goes on by itself waits for nobody.
        let fresh = tempfile::tempdir().expect("temporary directory");
        drop(open(fresh.path()));
        let plane = open(fresh.path());
        plane.rotate().expect("announced");
        let mut inner = plane.lock();
        plane.turn(&mut inner, Duration::ZERO).expect("stored");
        assert_eq!(inner.rotation.stage().slug(), "signing");
    }

    #[test]
    fn the_root_of_another_mesh_is_not_taken_in() {
        let [directory, other] = [(); 2].map(|()| tempfile::tempdir().expect("temporary directory"));
        let own = open(directory.path()).ca.root();
        drop(open(other.path()));
        for kind in ["key", "pem"] {
            let to = directory.path().join(format!("ca-bak.{kind}"));
            std::fs::copy(other.path().join(format!("ca.{kind}")), to).expect("copied");
        }
        let trust_domain = TrustDomain::new("shop.test").expect("a domain");
        let setup = Setup { trust_domain, leaf_life: Duration::from_secs(3600) };
        let refused = Plane::open(directory.path(), setup).expect_err("it is younger").to_string();
        assert!(refused.contains("ca-bak") && refused.contains("move its files away"), "{refused}");
        std::fs::remove_file(directory.path().join("ca-bak.key")).expect("moved");
        std::fs::remove_file(directory.path().join("ca-bak.pem")).expect("moved");
        assert_eq!(open(directory.path()).ca.root(), own);
    }
}
