//! A body that streams and can be begun again: what has been taken of it is remembered, as long as that is little.
//!
//! Made by `attempt.rs` for requests to backends that may refuse a request after some of its body has been sent: a stream of HTTP/2, or a
//! tunnel whose program is gone.

use super::Source;

/// A body, and what has been taken of it.
pub(crate) struct Remembered<'c> {
    /// What has been taken, from the first byte on.
    bytes: Vec<u8>,
    /// How much of that has been served since the body was begun again.
    served: usize,
    rest: Source<'c>,
    /// How much may be remembered; none when more than that has been taken.
    most: Option<usize>,
}

impl<'c> Remembered<'c> {
    pub(super) fn new(rest: Source<'c>, most: usize) -> Self {
        Self { bytes: Vec::new(), served: 0, rest, most: Some(most) }
    }

    pub(super) fn data(&self) -> &[u8] {
        if self.serves_again() { &self.bytes[self.served..] } else { self.rest.data() }
    }

    pub(super) fn consume(&mut self, count: usize) {
        if self.serves_again() {
            self.served += count;
            return;
        }
        match self.most {
            Some(most) if self.bytes.len() + count <= most => {
                self.bytes.extend_from_slice(&self.rest.data()[..count]);
                self.served = self.bytes.len();
            }
            // Too much: what is remembered is of no use any more.
            _ => self.forget(),
        }
        self.rest.consume(count);
    }

    /// Whether the next bytes are ones that have been taken before.
    pub(super) fn serves_again(&self) -> bool {
        self.served < self.bytes.len()
    }

    pub(super) fn rest(&self) -> &Source<'c> {
        &self.rest
    }

    pub(super) fn rest_mut(&mut self) -> &mut Source<'c> {
        &mut self.rest
    }

    /// How much more can be remembered; none when that does not matter.
    pub(super) fn room(&self) -> Option<usize> {
        let most = self.most.filter(|_| !self.serves_again())?;
        Some(most.saturating_sub(self.bytes.len()))
    }

    /// What is taken from now on need not be remembered.
    pub(super) fn forget(&mut self) {
        if !self.serves_again() {
            self.most = None;
            self.bytes = Vec::new();
            self.served = 0;
        }
    }

    /// Whether all that has been taken is remembered.
    pub(super) fn can_begin_again(&self) -> bool {
        self.most.is_some()
    }

    /// The next bytes are the first again.
    pub(super) fn begin_again(&mut self) {
        self.served = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes up to so many bytes.
    fn take(body: &mut Source<'_>, most: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        while taken.len() < most && !body.is_done() {
            let data = body.data();
            let count = data.len().min(most - taken.len()).min(3);
            taken.extend_from_slice(&data[..count]);
            body.consume(count);
        }
        taken
    }

    #[test]
    fn what_was_taken_comes_again_and_then_the_rest() {
        let mut body = Source::Held(b"0123456789");
        body.remember(8);
        assert_eq!(take(&mut body, 7), b"0123456");
        assert!(body.can_begin_again());
        body.begin_again();
        assert_eq!(take(&mut body, 2), b"01");
        assert_eq!(body.room(), None, "nothing new is taken");
        // Once more, from the middle.
        body.begin_again();
        assert_eq!(take(&mut body, 20), b"0123456789");
        assert!(body.is_done() && !body.can_begin_again(), "more than may be remembered");
    }

    #[test]
    fn what_is_there_is_known_until_it_is_forgotten() {
        let mut body = Source::Held(b"0123456789");
        assert_eq!(body.room(), None);
        body.remember(8);
        assert_eq!(body.room(), Some(8));
        take(&mut body, 5);
        assert_eq!(body.room(), Some(3));
        body.forget();
        assert_eq!((body.room(), body.can_begin_again()), (None, false));
        assert_eq!(take(&mut body, 20), b"56789");
    }

    #[test]
    fn a_body_is_remembered_once_and_an_empty_one_can_always_begin_again() {
        let mut body = Source::Held(b"01");
        body.remember(8);
        assert_eq!(take(&mut body, 1), b"0");
        body.remember(8);
        body.begin_again();
        assert_eq!(take(&mut body, 2), b"01");
        let mut empty = Source::Empty;
        empty.remember(0);
        assert!(empty.can_begin_again() && empty.is_done());
        assert!(!Source::Held(b"x").can_begin_again(), "nobody remembers");
    }
}
