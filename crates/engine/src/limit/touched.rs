//! What the request side of a limit leaves for its response side: which limits a request has touched, and how they stood then.
//!
//! In the notes of an exchange (`Notes::touched`), written by the policies that limit. Each finds its own by the address of the policy,
//! which lives as long as the exchange holds its snapshot.

use smallvec::SmallVec;

use super::Standing;
use super::shared::StoreName;

/// The limits that a request has touched, in the order in which it met them.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) limits: Vec<Touch>,
    /// Whether fields of a backend about limits have been taken out of the response.
    pub(crate) cleared: bool,
    /// What is left of the limit in the older fields.
    pub(crate) legacy: Option<i64>,
}

/// One limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touch {
    /// The address of the policy.
    pub(crate) policy: usize,
    /// Which limit of it.
    pub(crate) limit: u16,
    /// What it was charged; zero when it was only looked at.
    pub(crate) charged: u32,
    /// What the request costs.
    pub(crate) cost: u32,
    /// Which key.
    pub(crate) hash: u64,
    /// What the client is told of it, if it is.
    pub(crate) partition: Option<u64>,
    /// Whether a shared store has counted it.
    pub(crate) is_shared: bool,
    /// What the store calls the key, where the response may cost something there.
    pub(crate) name: Option<StoreName>,
    pub(crate) standing: Standing,
    /// When there is room again, of a limit that refused.
    pub(crate) wait: Option<std::time::Duration>,
}

impl Touched {
    /// The limits, to be looked at while the notes are changed.
    pub(crate) fn copied(&self) -> SmallVec<[Touch; 4]> {
        SmallVec::from_slice(&self.limits)
    }

    pub(crate) fn clear(&mut self) {
        self.limits.clear();
        self.cleared = false;
        self.legacy = None;
    }
}

/// The name of a policy in [`Touch::policy`].
pub(crate) fn address<T>(policy: &T) -> usize {
    std::ptr::from_ref(policy) as usize
}
