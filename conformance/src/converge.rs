//! Waiting until something becomes and stays right (sections 3.1 and 4 of the suite's description).

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// One request may take this long.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// The only limit that conformance fixes for traffic.
const CEILING: Duration = Duration::from_secs(30);
const BETWEEN_FAILURES: Duration = Duration::from_millis(100);
const SUCCESSES_IN_A_ROW: usize = 3;

/// What became of one attempt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// Right.
    Pass,
    /// Not right yet.
    Retry(String),
    /// Wrong for good.
    Final(String),
}

impl Attempt {
    /// A pass when there is nothing to complain about.
    pub(crate) fn from_complaints(complaints: Vec<String>) -> Attempt {
        if complaints.is_empty() { Attempt::Pass } else { Attempt::Retry(complaints.join("; ")) }
    }
}

/// Attempts until three in a row pass. An attempt that fails after `patience` is the last one; attempts that pass go on up to the
/// limit that conformance sets.
///
/// # Errors
/// What the last failing attempt complained about.
pub(crate) async fn converge(patience: Duration, mut attempt: impl AsyncFnMut() -> Attempt) -> Result<(), String> {
    let start = Instant::now();
    let mut passed = 0;
    let mut last = "it passed, but too slowly".to_owned();
    while passed < SUCCESSES_IN_A_ROW {
        if start.elapsed() > CEILING {
            return Err(last);
        }
        match timeout(REQUEST_LIMIT, attempt()).await {
            Ok(Attempt::Pass) => passed += 1,
            Ok(Attempt::Final(why)) => return Err(why),
            Ok(Attempt::Retry(why)) => {
                (passed, last) = (0, why);
                if start.elapsed() > patience {
                    return Err(last);
                }
                sleep(BETWEEN_FAILURES).await;
            }
            Err(_) => {
                (passed, last) = (0, format!("no answer within {REQUEST_LIMIT:?}"));
                if start.elapsed() > patience {
                    return Err(last);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn three_successes_in_a_row_are_needed() {
        let mut results = vec![true, true, false, true, true, true, false];
        results.reverse();
        let mut asked = 0;
        let outcome = converge(Duration::from_secs(5), async || {
            asked += 1;
            match results.pop() {
                Some(true) => Attempt::Pass,
                _ => Attempt::Retry("no".to_owned()),
            }
        });
        assert_eq!(outcome.await, Ok(()));
        assert_eq!(asked, 6);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_with_the_last_complaint() {
        let outcome = converge(Duration::from_secs(5), async || Attempt::Retry("status 404".to_owned()));
        assert_eq!(outcome.await, Err("status 404".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_final_attempt_is_not_repeated() {
        let mut asked = 0;
        let outcome = converge(Duration::from_secs(5), async || {
            asked += 1;
            Attempt::Final("status 200".to_owned())
        });
        assert_eq!(outcome.await, Err("status 200".to_owned()));
        assert_eq!(asked, 1);
    }
}
