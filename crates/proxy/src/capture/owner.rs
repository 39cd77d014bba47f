//! Who wrote rules, told in the rules themselves, so that a later process can see whether their writer still lives.
//!
//! A process number alone would not do: numbers are used again. So the time of the process's start is told with it, and
//! the process namespace in which the number counts.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// As much of a workload's name as is told: all of it, if it is the DNS name that it should be.
const LONGEST: usize = 160;

/// The process that wrote rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The workload that it wrote them for.
    pub workload: String,
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did: field 22 of `/proc/PID/stat`.
    pub started: u64,
    /// The process namespace in which the number counts: the inode of `/proc/PID/ns/pid`.
    pub space: u64,
}

/// Whether an owner lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It does.
    Lives,
    /// It is gone.
    Gone,
    /// It cannot be seen from here: it counts in another process namespace, or told nothing of itself.
    Unknown,
}

impl Owner {
    /// This process.
    pub fn this(workload: &str) -> Owner {
        let pid = std::process::id();
        // It becomes part of names and of texts for other programs.
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '-' };
        let workload = workload.chars().take(LONGEST).map(plain).collect();
        Owner { workload, pid, started: start_of(pid).unwrap_or_default(), space: space() }
    }

    /// One of whom only the workload is known.
    pub(super) fn unknown(workload: &str) -> Owner {
        Owner { workload: workload.to_owned(), pid: 0, started: 0, space: 0 }
    }

    /// Reads what [`Display`](fmt::Display) wrote.
    pub(super) fn parse(text: &str) -> Option<Owner> {
        let mut words = text.split_ascii_whitespace();
        if words.next() != Some("transept") {
            return None;
        }
        let workload = words.next()?.to_owned();
        let mut number = |key: &str| words.next()?.strip_prefix(key)?.parse::<u64>().ok();
        let (pid, started, space) = (number("pid=")?, number("started=")?, number("pidns=")?);
        Some(Owner { workload, pid: u32::try_from(pid).ok()?, started, space })
    }

    /// Whether the process lives.
    pub fn liveness(&self) -> Liveness {
        if self.pid == 0 || self.space != space() {
            return Liveness::Unknown;
        }
        if start_of(self.pid) == Some(self.started) { Liveness::Lives } else { Liveness::Gone }
    }

    /// Whether rules of this owner go when `next` writes its own: those of the dead, and those of its own workload.
    ///
    /// # Errors
    /// When they are of the same workload and their owner is another process that lives.
    pub(super) fn yields_to(&self, next: &Owner) -> Result<bool, super::CaptureError> {
        let liveness = if self == next { Liveness::Unknown } else { self.liveness() };
        match (liveness, self.workload == next.workload) {
            (Liveness::Gone, _) | (Liveness::Unknown, true) => Ok(true),
            (Liveness::Lives, true) => Err(super::CaptureError::Taken(self.clone())),
            (_, false) => Ok(false),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Owner { workload, pid, started, space } = self;
        write!(f, "transept {workload} pid={pid} started={started} pidns={space}")
    }
}

/// When a process started; none when there is no such process, or it has ended and only waits for its parent.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in brackets, may hold anything; the fields after it do not.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn space() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |space| space.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_read_as_it_was_written() {
        let owner = Owner::this("cart-1");
        assert_eq!(Owner::this("a b\"\n").workload, "a-b--");
        assert!(owner.started > 0 && owner.space > 0);
        assert_eq!(Owner::parse(&owner.to_string()), Some(owner));
        for text in ["", "transept", "transept cart pid=x", "other cart pid=1 started=2 pidns=3"] {
            assert_eq!(Owner::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_dead_are_known_from_the_living() {
        let owner = Owner::this("cart-1");
        assert_eq!(owner.liveness(), Liveness::Lives);
        let earlier = Owner { started: owner.started - 1, ..owner.clone() };
        assert_eq!(earlier.liveness(), Liveness::Gone, "the number was used again");
        let elsewhere = Owner { space: 1, ..owner };
        assert_eq!(elsewhere.liveness(), Liveness::Unknown);
    }

    #[test]
    fn the_living_keep_their_rules() {
        let this = Owner::this("cart-1");
        let other = Owner { pid: std::os::unix::process::parent_id(), ..this.clone() };
        let other = Owner { started: start_of(other.pid).unwrap(), ..other };
        assert!(matches!(other.yields_to(&this), Err(super::super::CaptureError::Taken(_))));
        assert!(!Owner { workload: "shop-1".to_owned(), ..other }.yields_to(&this).unwrap());
        assert!(this.yields_to(&this).unwrap(), "a process replaces its own");
        assert!(Owner::unknown("cart-1").yields_to(&this).unwrap());
        assert!(!Owner::unknown("shop-1").yields_to(&this).unwrap());
    }
}
