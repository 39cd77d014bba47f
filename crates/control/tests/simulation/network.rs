//! Connections between members and control planes: two streams in each direction, whose messages are late, and which break.
//!
//! Within a stream messages keep their order, because the transport is TCP; streams overtake each other, and so do connections. A
//! break lets a part of what is on its way arrive, and each end learns of it at a time of its own. Some messages arrive twice: signs of life
//! and their answers, and responses. Requests of discovery do not: both ends of a stream count them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::dice::Dice;

/// The longest delay of a message on a connection that does not break.
pub(crate) const SLOWEST: Duration = Duration::from_secs(2);
/// How long an end may not know that its connection is gone.
const HALF_OPEN: Duration = Duration::from_secs(60);
/// Of a hundred messages, those that arrive twice.
const REPEATED: usize = 5;
/// Messages of one stream that may be on their way: an announcement of each type, an answer to each, and some beats.
const MOST: usize = 96;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Discovery,
    Beats,
}

#[derive(Debug, Default)]
pub(crate) struct Pipe {
    waiting: VecDeque<(Duration, Vec<u8>)>,
    latest: Duration,
    ends: Option<Duration>,
}

impl Pipe {
    /// When something arrives next, be it the end.
    fn next(&self) -> Option<Duration> {
        self.waiting.front().map(|(due, _)| *due).or(self.ends)
    }

    fn take(&mut self, now: Duration) -> Option<Vec<u8>> {
        self.waiting.pop_front_if(|(due, _)| *due <= now).map(|(_, message)| message)
    }

    fn is_over(&self, now: Duration) -> bool {
        self.waiting.is_empty() && self.ends.is_some_and(|ends| ends <= now)
    }
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Way {
    discovery: Pipe,
    beats: Pipe,
}

impl Way {
    fn pipe(&mut self, stream: Stream) -> &mut Pipe {
        match stream {
            Stream::Discovery => &mut self.discovery,
            Stream::Beats => &mut self.beats,
        }
    }

    pub(crate) fn take(&mut self, stream: Stream, now: Duration) -> Option<Vec<u8>> {
        self.pipe(stream).take(now)
    }

    pub(crate) fn is_over(&self, now: Duration) -> bool {
        self.discovery.is_over(now) && self.beats.is_over(now)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.discovery.waiting.is_empty() && self.beats.waiting.is_empty()
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) member: usize,
    pub(crate) plane: usize,
    pub(crate) up: Way,
    pub(crate) down: Way,
    pub(crate) cut: bool,
    pub(crate) opened: Duration,
    slowest: Duration,
    /// Of a hundred messages, those that arrive twice now.
    repeated: usize,
    /// Whether one has.
    pub(crate) has_repeated: bool,
}

impl Link {
    pub(crate) fn new(member: usize, plane: usize, now: Duration, slow: bool) -> Self {
        let slowest = if slow { SLOWEST } else { Duration::from_millis(20) };
        Self {
            member,
            plane,
            up: Way::default(),
            down: Way::default(),
            cut: false,
            opened: now,
            slowest,
            repeated: REPEATED,
            has_repeated: false,
        }
    }

    fn send(way: &mut Way, stream: Stream, due: Duration, message: Vec<u8>) -> Result<(), String> {
        let pipe = way.pipe(stream);
        if pipe.ends.is_some() {
            return Ok(());
        }
        pipe.latest = pipe.latest.max(due);
        pipe.waiting.push_back((pipe.latest, message));
        if pipe.waiting.len() > MOST {
            Err(format!("{} messages wait on {stream:?}", pipe.waiting.len()))
        } else {
            Ok(())
        }
    }

    pub(crate) fn send_up(
        &mut self,
        dice: &mut Dice,
        now: Duration,
        stream: Stream,
        message: Vec<u8>,
    ) -> Result<(), String> {
        let due = now + dice.within(self.slowest);
        if stream == Stream::Beats && dice.chance(self.repeated) {
            self.has_repeated = true;
            Self::send(&mut self.up, stream, due, message.clone())?;
            return Self::send(&mut self.up, stream, due + dice.within(self.slowest), message);
        }
        Self::send(&mut self.up, stream, due, message)
    }

    pub(crate) fn send_down(
        &mut self,
        dice: &mut Dice,
        now: Duration,
        stream: Stream,
        message: Vec<u8>,
    ) -> Result<(), String> {
        let due = now + dice.within(self.slowest);
        if dice.chance(self.repeated) {
            self.has_repeated = true;
            Self::send(&mut self.down, stream, due, message.clone())?;
            return Self::send(&mut self.down, stream, due + dice.within(self.slowest), message);
        }
        Self::send(&mut self.down, stream, due, message)
    }

    /// Breaks it.
    pub(crate) fn cut(&mut self, dice: &mut Dice, now: Duration) {
        self.cut = true;
        for way in [&mut self.up, &mut self.down] {
            let notice = if dice.chance(20) { dice.within(HALF_OPEN) } else { dice.within(SLOWEST) };
            for pipe in [&mut way.discovery, &mut way.beats] {
                let kept = dice.below(pipe.waiting.len() + 1);
                pipe.waiting.truncate(kept);
                pipe.ends.get_or_insert(now + notice);
            }
        }
    }

    /// Breaks it at once for one end, whose process is gone.
    pub(crate) fn abandon_up(&mut self, now: Duration) {
        self.cut = true;
        self.up = Way::default();
        Self::end(&mut self.up, now);
        Self::end(&mut self.down, now);
    }

    pub(crate) fn abandon_down(&mut self, now: Duration) {
        self.cut = true;
        self.down = Way::default();
        Self::end(&mut self.up, now);
        Self::end(&mut self.down, now);
    }

    fn end(way: &mut Way, now: Duration) {
        for pipe in [&mut way.discovery, &mut way.beats] {
            pipe.ends.get_or_insert(now);
        }
    }

    /// When something arrives next.
    pub(crate) fn next(&self) -> Option<Duration> {
        [&self.up, &self.down].into_iter().flat_map(|way| [way.discovery.next(), way.beats.next()]).flatten().min()
    }

    /// No more delays, and nothing arrives twice.
    pub(crate) fn heal(&mut self) {
        self.slowest = Duration::from_millis(20);
        self.repeated = 0;
    }
}
