//! Root rotation in acknowledged stages, so that at no moment two workloads cannot verify each other.
//!
//! Held by `control`, which stores it before it acts on it. Announce: the new root joins the bundle, the old one signs. Sign:
//! every proxy is known to hold the new bundle, so the new root signs. Retire: every leaf of the old root is known to be
//! replaced or has ended, so the old root vouches for nobody new; for what is open it counts a while longer. A stage is left when what
//! is known allows it, and never because time has passed. Only distrust skips one, and that may cut. Keys and bundles themselves are
//! left to `authority` and `bundle`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};

use crate::fingerprint::Fingerprint;
use crate::svid::moment;

/// How long after its end a leaf still counts as in use: a proxy's clock may be behind.
pub const CLOCK_SLACK: Duration = Duration::from_secs(300);

/// Roots that may be retiring at a time.
pub const MOST_RETIRING: usize = 16;

/// Where a rotation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stage")]
pub enum Stage {
    /// One root is trusted and signs.
    Steady {
        /// It.
        root: Fingerprint,
    },
    /// Both roots are trusted, the old one signs, and the proxies are learning the new one.
    Announced {
        /// The root that signs.
        old: Fingerprint,
        /// The root that is to follow.
        new: Fingerprint,
        /// Seconds since the Unix epoch.
        since: u64,
    },
    /// Both roots are trusted, the new one signs, and the leaves of the old one are being replaced.
    Signing {
        /// The root that is to go.
        old: Fingerprint,
        /// The root that signs.
        new: Fingerprint,
        /// Seconds since the Unix epoch.
        since: u64,
    },
}

impl Stage {
    /// A stable short name for logs, metrics and people.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Steady { .. } => "steady",
            Self::Announced { .. } => "announced",
            Self::Signing { .. } => "signing",
        }
    }
}

/// What is known about one proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    /// The sequence of the bundle that it last said it holds.
    holds: u64,
    /// Under which roots it may have a leaf, and until when in seconds since the Unix epoch.
    leaves: BTreeMap<Fingerprint, u64>,
    /// What people call it; empty when that was never told.
    #[serde(default)]
    name: String,
    /// Whether it has said that it ends, and was not heard since.
    #[serde(default)]
    left: bool,
}

/// A proxy that has no leaf but one of a root that was distrusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct CutOff {
    name: String,
    /// When that leaf ends, in seconds since the Unix epoch.
    until: u64,
}

/// Who holds a leaf, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder<'r> {
    /// The proxy, as it was noted.
    pub proxy: &'r str,
    /// What people call it; empty when that was never told.
    pub name: &'r str,
    /// When its last leaf ends.
    pub until: UnixTime,
    /// Whether it has none but of a root that was distrusted.
    pub refused: bool,
    /// Whether it has said that it ends, and was not heard since.
    pub left: bool,
}

/// A root that was replaced in order: it counts for connections that were made under it, and for nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Its certificate in DER.
    #[serde(with = "base64")]
    pub certificate: CertificateDer<'static>,
    /// Until when it counts, in seconds since the Unix epoch.
    pub until: u64,
}

/// What a stage still waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The proxy, by what people call it when that is known.
    pub proxy: String,
    /// What it lacks.
    pub lacks: Lacks,
}

/// What one proxy lacks before the next stage. It stops to count when its leaf has ended, or when it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacks {
    /// It has not said that it holds the bundle with the new root.
    Bundle {
        /// The sequence of that bundle.
        sequence: u64,
        /// When its last leaf ends.
        until: UnixTime,
    },
    /// It may still show a leaf of the old root.
    Leaf {
        /// When that leaf ends.
        until: UnixTime,
    },
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lacks {
            Lacks::Bundle { sequence, .. } => {
                write!(f, "`{}` has not confirmed bundle {sequence}", self.proxy)
            }
            Lacks::Leaf { .. } => write!(f, "`{}` may still show a leaf of the old root", self.proxy),
        }
    }
}

/// What [`Rotation::advance`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advance {
    /// No rotation is under way.
    Idle,
    /// The stage stays: these proxies are not there yet.
    Waits(Vec<Waiting>),
    /// The new root signs from now on.
    Signs(Fingerprint),
    /// The old root, given here, vouches for nobody new; its key can be destroyed.
    Retired(Fingerprint),
}

/// Why a rotation is not begun or not given up. Displays as a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// One rotation at a time.
    #[error("a rotation is under way already")]
    UnderWay,
    /// The root is the one that is trusted already.
    #[error("the root is trusted already")]
    SameRoot,
    /// It was trusted before.
    #[error("the root is retired or distrusted, and is never trusted again")]
    Gone,
    /// The last ones are not over yet.
    #[error("{MOST_RETIRING} roots are retiring; the next rotation can begin when the first of them has gone")]
    TooMany,
    /// There is none, or the new root has signed, so that the way back is a rotation too.
    #[error("there is no rotation that could be given up: the new root has signed, or there is none")]
    TooLate,
}

/// Why a root stays trusted. Displays as a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotDistrusted {
    /// It is neither trusted nor retiring.
    #[error("no root with this fingerprint is trusted")]
    Unknown,
    /// Without it nobody could prove anything.
    #[error("it is the only root, so nobody could prove anything; announce another one first")]
    Only,
    /// It has signed already, and the old one is about to go.
    #[error("it is the root that signs; it can be replaced when the old one has gone")]
    Signs,
}

/// The roots of one trust domain, and what is known about every proxy that lives under them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    #[serde(flatten)]
    stage: Stage,
    /// The sequence of the bundle in force (`spiffe_sequence`).
    sequence: u64,
    proxies: BTreeMap<String, Member>,
    #[serde(default)]
    retired: BTreeMap<Fingerprint, Retired>,
    #[serde(default)]
    cut_off: BTreeMap<String, CutOff>,
    /// Roots that were retired, distrusted or given up. For ever: whatever is left of one must not bring it back.
    #[serde(default)]
    gone: BTreeSet<Fingerprint>,
    /// Whether members that are not known may be on their way back. Stored, so that another start does not take it for settled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    awaiting: bool,
}

impl Rotation {
    /// Begins with one root, and with bundle number 1.
    pub fn new(root: Fingerprint) -> Self {
        Self {
            stage: Stage::Steady { root },
            sequence: 1,
            proxies: BTreeMap::new(),
            retired: BTreeMap::new(),
            cut_off: BTreeMap::new(),
            gone: BTreeSet::new(),
            awaiting: false,
        }
    }

    /// Has every stage wait, because this may be an older copy of what was known, and members that joined since may be about to connect
    /// again; until [`Rotation::end_await`].
    pub fn await_unknown(&mut self) {
        self.awaiting = true;
    }

    /// Whoever was on the way back has had the time to come; true when somebody was awaited.
    pub fn end_await(&mut self) -> bool {
        std::mem::take(&mut self.awaiting)
    }

    /// Whether stages wait for members that are not known.
    pub fn awaits_unknown(&self) -> bool {
        self.awaiting
    }

    /// When something was noted last, as far as it shows, in seconds since the Unix epoch: a bundle, or a leaf that lives for `leaf_life`.
    pub fn noted_last(&self, leaf_life: Duration) -> u64 {
        let ends = self.proxies.values().flat_map(|member| member.leaves.values());
        ends.map(|until| until.saturating_sub(leaf_life.as_secs())).max().unwrap_or_default().max(self.sequence)
    }

    /// Numbers the bundle in force by the clock, unless its number is higher. To be called whenever that has changed: so a number that was told
    /// from a state that is lost, or newer than the copy that took its place, does not come again for another bundle.
    pub fn number_by_clock(&mut self, now: UnixTime) {
        self.sequence = self.sequence.max(now.as_secs());
    }

    /// Whether anything is known of a proxy.
    pub fn knows(&self, proxy: &str) -> bool {
        self.proxies.contains_key(proxy)
    }

    /// Where it stands.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// The sequence of the bundle in force: it grows with every change of [`Rotation::trusted`] and of [`Rotation::retired`].
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The roots of the bundle in force, the signing one first.
    pub fn trusted(&self) -> Vec<Fingerprint> {
        match self.stage {
            Stage::Steady { root } => vec![root],
            Stage::Announced { old, new, .. } => vec![old, new],
            Stage::Signing { old, new, .. } => vec![new, old],
        }
    }

    /// The roots that count only for what is open.
    pub fn retired(&self) -> &BTreeMap<Fingerprint, Retired> {
        &self.retired
    }

    /// Whether a root was trusted once and is not any more: it never is again, and its key is to be destroyed wherever it is found.
    pub fn is_gone(&self, root: &Fingerprint) -> bool {
        self.gone.contains(root)
    }

    /// The root that signs.
    pub fn signer(&self) -> Fingerprint {
        match self.stage {
            Stage::Steady { root } => root,
            Stage::Announced { old, .. } => old,
            Stage::Signing { new, .. } => new,
        }
    }

    /// Notes a leaf that is about to be handed to a proxy: store this before the answer leaves. It may never arrive, so
    /// earlier leaves of the proxy still count.
    pub fn note_issued(&mut self, proxy: &str, root: Fingerprint, not_after: UnixTime) {
        self.cut_off.remove(proxy);
        let member = self.proxies.entry(proxy.to_owned()).or_default();
        member.left = false;
        let until = member.leaves.entry(root).or_default();
        *until = (*until).max(not_after.as_secs());
    }

    /// Notes what a proxy reports about itself: the sequence of the bundle that it holds, and the leaf that it shows. A
    /// proxy reports what it has stored, so that a restart does not take it back; reports of one proxy come in order.
    pub fn note_report(&mut self, proxy: &str, sequence: u64, root: Fingerprint, not_after: UnixTime) {
        let signer = self.signer();
        let member = self.proxies.entry(proxy.to_owned()).or_default();
        member.holds = sequence;
        if root == signer {
            member.leaves.retain(|other, _| *other == signer);
        }
        let until = member.leaves.entry(root).or_default();
        *until = (*until).max(not_after.as_secs());
    }

    /// Notes what people call a proxy that is known.
    pub fn note_name(&mut self, proxy: &str, name: &str) {
        if let Some(member) = self.proxies.get_mut(proxy).filter(|member| !name.is_empty() && member.name != name) {
            name.clone_into(&mut member.name);
        }
    }

    /// Notes whether a proxy that is known has said that it ends. Its leaf is good for whoever starts again with it, and counts until it ends.
    pub fn note_left(&mut self, proxy: &str, left: bool) {
        if let Some(member) = self.proxies.get_mut(proxy) {
            member.left = left;
        }
    }

    /// Whether a proxy has said that it ends, and was not heard since.
    pub fn has_left(&self, proxy: &str) -> bool {
        self.proxies.get(proxy).is_some_and(|member| member.left)
    }

    /// Forgets a proxy whose process is known to have ended. One that was only lost from sight may still be serving and
    /// counts until its leaf ends, so do not call this for it.
    pub fn note_ended(&mut self, proxy: &str) {
        self.proxies.remove(proxy);
    }

    /// Whether a rotation may begin, so that no root is made for one that may not.
    ///
    /// # Errors
    /// When one is under way, or too many roots are retiring.
    pub fn may_announce(&self) -> Result<(), NotNow> {
        match self.stage {
            Stage::Steady { .. } if self.retired.len() < MOST_RETIRING => Ok(()),
            Stage::Steady { .. } => Err(NotNow::TooMany),
            _ => Err(NotNow::UnderWay),
        }
    }

    /// Begins a rotation: the new root joins the bundle.
    ///
    /// # Errors
    /// As [`Rotation::may_announce`] and [`Rotation::take_in`].
    pub fn announce(&mut self, new: Fingerprint, now: UnixTime) -> Result<(), NotNow> {
        self.may_announce()?;
        self.take_in(new, now)
    }

    /// Announces a root that is there already and may have signed, however many are retiring.
    ///
    /// # Errors
    /// When a rotation is under way, or the root is the one in force, or it is gone.
    pub fn take_in(&mut self, new: Fingerprint, now: UnixTime) -> Result<(), NotNow> {
        let Stage::Steady { root: old } = self.stage else {
            return Err(NotNow::UnderWay);
        };
        if old == new {
            return Err(NotNow::SameRoot);
        }
        if self.is_gone(&new) {
            return Err(NotNow::Gone);
        }
        self.stage = Stage::Announced { old, new, since: now.as_secs() };
        self.sequence += 1;
        Ok(())
    }

    /// Gives a rotation up before the new root has signed anything: it leaves the bundle again.
    ///
    /// # Errors
    /// When there is none at that stage.
    pub fn give_up(&mut self) -> Result<(), NotNow> {
        let Stage::Announced { old, new, .. } = self.stage else {
            return Err(NotNow::TooLate);
        };
        self.stage = Stage::Steady { root: old };
        self.gone.insert(new);
        self.sequence += 1;
        Ok(())
    }

    /// Goes one stage further if what is known allows it. Store the result before acting on it.
    pub fn advance(&mut self, now: UnixTime) -> Advance {
        self.forget_ended_leaves(now);
        let waiting = self.waiting();
        match self.stage {
            Stage::Steady { .. } => Advance::Idle,
            _ if self.awaiting || !waiting.is_empty() => Advance::Waits(waiting),
            Stage::Announced { old, new, .. } => {
                self.stage = Stage::Signing { old, new, since: now.as_secs() };
                Advance::Signs(new)
            }
            Stage::Signing { old, new, .. } => {
                self.stage = Stage::Steady { root: new };
                self.gone.insert(old);
                self.sequence += 1;
                Advance::Retired(old)
            }
        }
    }

    /// Lets the root that [`Advance::Retired`] named count until `until` for what is open. Belongs to the same step: nobody may see
    /// the one without the other.
    pub fn keep_for_open(&mut self, certificate: CertificateDer<'static>, until: UnixTime) {
        let root = Fingerprint::of(&certificate);
        self.retired.insert(root, Retired { certificate, until: until.as_secs() });
    }

    /// Forgets the retired roots whose time is over; true when there were some.
    pub fn forget_retired(&mut self, now: UnixTime) -> bool {
        let before = self.retired.len();
        self.retired.retain(|_, retired| now.as_secs() <= retired.until);
        let changed = self.retired.len() != before;
        self.sequence += u64::from(changed);
        changed
    }

    /// Takes a root out of the bundle at once, for what is open too: its key is in wrong hands. Nothing is waited for, so members
    /// that have no other leaf are cut off. A rotation that is under way ends with the other root.
    ///
    /// # Errors
    /// When no other root could take its place.
    pub fn distrust(&mut self, root: &Fingerprint) -> Result<(), NotDistrusted> {
        if self.retired.remove(root).is_none() {
            self.stage = match self.stage {
                Stage::Announced { old, new, .. } if new == *root => Stage::Steady { root: old },
                Stage::Announced { old, new, .. } | Stage::Signing { old, new, .. } if old == *root => {
                    Stage::Steady { root: new }
                }
                Stage::Signing { new, .. } if new == *root => return Err(NotDistrusted::Signs),
                Stage::Steady { root: only } if only == *root => return Err(NotDistrusted::Only),
                _ => return Err(NotDistrusted::Unknown),
            };
        }
        self.gone.insert(*root);
        self.sequence += 1;
        // Its leaves convince nobody any more.
        let cut_off = &mut self.cut_off;
        self.proxies.retain(|proxy, member| {
            let ended = member.leaves.remove(root);
            if let Some(until) = ended.filter(|_| member.leaves.is_empty()) {
                cut_off.insert(proxy.clone(), CutOff { name: std::mem::take(&mut member.name), until });
            }
            !member.leaves.is_empty()
        });
        Ok(())
    }

    /// What the stage waits for, by proxy; empty when it can be left, or when there is no rotation.
    pub fn waiting(&self) -> Vec<Waiting> {
        let lacks = |member: &Member| match self.stage {
            Stage::Steady { .. } => None,
            Stage::Announced { .. } | Stage::Signing { .. } if member.holds < self.sequence => {
                let until = moment(member.leaves.values().copied().max().unwrap_or(0));
                Some(Lacks::Bundle { sequence: self.sequence, until })
            }
            Stage::Announced { .. } => None,
            Stage::Signing { old, .. } => member.leaves.get(&old).map(|until| Lacks::Leaf { until: moment(*until) }),
        };
        let name = |proxy: &String, member: &Member| match &*member.name {
            "" => proxy.clone(),
            name => name.to_owned(),
        };
        let waits =
            |(proxy, member): (&String, &Member)| Some(Waiting { proxy: name(proxy, member), lacks: lacks(member)? });
        self.proxies.iter().filter_map(waits).collect()
    }

    /// How many proxies may hold a leaf that has not ended.
    pub fn proxies(&self) -> usize {
        self.proxies.len()
    }

    /// How many of those are meant whose names are these.
    pub fn count(&self, is_meant: impl Fn(&str) -> bool) -> usize {
        self.proxies.keys().filter(|name| is_meant(name)).count()
    }

    /// Everybody who holds a leaf that has not ended, those whose leaf is refused last.
    pub fn holders(&self, now: UnixTime) -> impl Iterator<Item = Holder<'_>> {
        let members = self.proxies.iter().map(|(proxy, member)| Holder {
            proxy,
            name: &member.name,
            until: moment(member.leaves.values().copied().max().unwrap_or(0)),
            refused: false,
            left: member.left,
        });
        let cut_off = self.cut_off.iter().map(|(proxy, one)| Holder {
            proxy,
            name: &one.name,
            until: moment(one.until),
            refused: true,
            left: false,
        });
        members.chain(cut_off).filter(move |holder| holder.until.as_secs() >= now.as_secs())
    }

    /// Leaves that have ended convince nobody, and a proxy without one has to come back for another.
    pub fn forget_ended_leaves(&mut self, now: UnixTime) {
        let now = now.as_secs();
        self.proxies.retain(|_, member| {
            member.leaves.retain(|_, until| until.saturating_add(CLOCK_SLACK.as_secs()) >= now);
            !member.leaves.is_empty()
        });
        self.cut_off.retain(|_, one| one.until >= now);
    }
}

/// Bytes as text in JSON.
mod base64 {
    use data_encoding::BASE64;
    use rustls_pki_types::CertificateDer;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(der: &CertificateDer<'_>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(der))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CertificateDer<'static>, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(CertificateDer::from).map_err(D::Error::custom)
    }
}

/// Whether it is time for a new root: the last third of the old one's life has begun, before anybody is warned of its end.
pub fn is_due(not_before: UnixTime, not_after: UnixTime, now: UnixTime) -> bool {
    let life = not_after.as_secs().saturating_sub(not_before.as_secs());
    now.as_secs() >= not_after.as_secs().saturating_sub(life / 3)
}

#[cfg(test)]
mod tests;
