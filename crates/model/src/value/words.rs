//! Words that come again and again in configuration, each kept in memory once.
//!
//! Used while files are read: names of fields, kinds, namespaces and backends stand in thousands of objects. Long texts are not looked up:
//! they hardly repeat.

use std::collections::HashSet;
use std::sync::Arc;

/// Longer texts are not shared.
const LONGEST: usize = 64;

/// The words met so far.
#[derive(Debug, Default)]
pub(crate) struct Words(HashSet<Arc<str>>);

impl Words {
    /// `text` in shared memory; the same memory as before when it is a word met before.
    pub(crate) fn share(&mut self, text: &str) -> Arc<str> {
        if text.len() > LONGEST {
            return text.into();
        }
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.0.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_kept_once() {
        let mut words = Words::default();
        let first = words.share("Service");
        assert!(Arc::ptr_eq(&first, &words.share("Service")));
        assert!(!Arc::ptr_eq(&first, &words.share("service")));
        let long = "x".repeat(LONGEST + 1);
        assert!(!Arc::ptr_eq(&words.share(&long), &words.share(&long)));
    }
}
