//! A client and a server that talk over a pipe: requests, bodies, trailers, resets, changes of windows and goodbyes at random,
//! in packets of random sizes. A seed repeats a run: `TRANSEPT_SEED=n` plays that one alone, `TRANSEPT_SEEDS=n` plays so many.
//!
//! What must hold, whatever happens: every byte comes in its order, nobody sends more than was allowed, what collects is
//! bounded, and in the end both sides agree that nothing is open and nothing is owed.

use super::frame::{FIRST_WINDOW, setting};
use super::send::ENOUGH;
use super::*;
use crate::head::Fields;

/// Random numbers that a seed repeats (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn one_of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Mostly little, sometimes a lot.
    fn size(&mut self, most: usize) -> usize {
        let bound = self.one_of(&[0, 10, 1000, 20_000, most]).min(most);
        self.below(bound + 1)
    }
}

/// The bytes of every body: those of one stream and direction begin at a place of their own.
const PATTERN: usize = 251;

fn pattern(count: usize) -> Vec<u8> {
    (0..count + PATTERN).map(|n| (n % PATTERN) as u8).collect()
}

/// One half of an exchange that this side sends.
#[derive(Debug)]
struct Outgoing {
    size: usize,
    sent: usize,
    trailers: bool,
    /// Heads that come first: of responses, interim ones and the final one.
    heads: usize,
    done: bool,
}

/// A stream as its user sees it.
#[derive(Debug)]
struct Talk {
    key: Key,
    out: Outgoing,
    received: usize,
    /// Received and not yet taken.
    held: usize,
    /// The peer's half is complete.
    whole: bool,
    trailers: bool,
    /// Somebody broke it off.
    cut: bool,
}

/// One end and what its user keeps.
struct Side {
    end: Connection,
    ahead: Vec<u8>,
    /// On the way to this side.
    pipe: Vec<u8>,
    talks: Vec<Talk>,
    /// Windows of streams may be negative, because the peer has made them smaller.
    shrunk: bool,
    /// This side has changed the windows that it gives and holds nobody to them.
    generous: bool,
    started: usize,
    /// What this side's streams received in the end, by stream: bytes, trailers, whether it was cut.
    outcomes: Vec<(u32, usize, bool, bool)>,
}

struct Run {
    dice: Dice,
    bytes: Vec<u8>,
    most: usize,
    requests: usize,
    /// What each stream shall carry: request bytes and trailers, response bytes and trailers.
    plans: Vec<(usize, bool, usize, bool)>,
    client: Side,
    server: Side,
    goodbye: bool,
}

fn start(stream: u32, request: bool) -> usize {
    (stream as usize * 7 + usize::from(request)) % PATTERN
}

fn side(end: Connection) -> Side {
    Side {
        end,
        ahead: Vec::new(),
        pipe: Vec::new(),
        talks: Vec::new(),
        shrunk: false,
        generous: false,
        started: 0,
        outcomes: Vec::new(),
    }
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let mut config = || Config {
            stream_window: dice.one_of(&[1, 100, 1000, 16_384, 65_535, 70_000, 262_144]),
            growth: dice.one_of(&[Growth::NONE, Growth { largest: 300_000, each: 262_144, together: 100_000 }]),
            connection_window: dice.one_of(&[1, 65_535, 65_536, 200_000, 1 << 20]),
            max_streams: dice.one_of(&[1, 2, 5, 100]),
            data_frame: dice.one_of(&[LARGEST_FRAME, 1 << 20]),
            ..CONFIG
        };
        let (ours, theirs) = (config(), config());
        let smallest = ours.stream_window.min(theirs.stream_window);
        let most = if smallest < 16_384 { 3000 } else { 300_000 };
        let (mut client, mut server) = (side(Connection::client(ours)), side(Connection::server(theirs)));
        client.shrunk = i64::from(theirs.stream_window) < FIRST_WINDOW;
        server.shrunk = i64::from(ours.stream_window) < FIRST_WINDOW;
        Run {
            bytes: pattern(most),
            most,
            requests: 1 + dice.below(12),
            dice,
            plans: Vec::new(),
            client,
            server,
            goodbye: false,
        }
    }

    fn play(&mut self) {
        for _ in 0..4000 {
            self.step();
            check(&self.client, "client");
            check(&self.server, "server");
            if self.client.started == self.requests && self.client.talks.is_empty() {
                break;
            }
        }
        self.settle();
        self.finish();
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0..8 => self.ask(),
            8..50 => {
                let client = self.dice.chance(50);
                self.talk(client);
            }
            50..90 => {
                let (to_server, size) = (self.dice.chance(50), self.dice.size(40_000));
                self.carry(to_server, size);
            }
            90..96 => {
                let client = self.dice.chance(50);
                let size = self.dice.size(100_000);
                let side = if client { &mut self.client } else { &mut self.server };
                if !side.talks.is_empty() {
                    let at = self.dice.below(side.talks.len());
                    take(side, at, size);
                }
            }
            96 => {
                let (client, window) = (self.dice.chance(50), self.dice.one_of(&[0, 1, 500, 65_535, 300_000]));
                self.change_window(client, window);
            }
            97 => self.cut(),
            98 => {
                let side = if self.dice.chance(50) { &mut self.client } else { &mut self.server };
                side.end.ping();
            }
            _ if self.dice.chance(2) => {
                self.goodbye = true;
                if self.dice.chance(70) { self.server.end.shut_down() } else { self.client.end.shut_down() }
            }
            _ => {}
        }
    }

    /// A request more, if there is room for one.
    fn ask(&mut self) {
        if self.client.started == self.requests {
            return;
        }
        let (size, trailers) = (self.dice.size(self.most), self.dice.chance(20));
        let bodiless = size == 0 && !trailers && self.dice.chance(50);
        let body = match bodiless {
            true => Body::None,
            false if self.dice.chance(50) => Body::Length(size as u64),
            false => Body::Chunked,
        };
        let request = Request::build("POST", "http", "a.test", "/").expect("a request");
        let Ok(key) = self.client.end.send_request(&request, &body, bodiless) else {
            if !self.client.end.takes_streams() {
                self.requests = self.client.started;
            }
            return;
        };
        let answer = (self.dice.size(self.most), self.dice.chance(20));
        self.plans.push((size, trailers, answer.0, answer.1));
        self.client.started += 1;
        assert_eq!(key.id() as usize, 2 * self.client.started - 1);
        let out = Outgoing { size, sent: 0, trailers, heads: 0, done: bodiless };
        self.client.talks.push(talk(key, out));
    }

    /// One side does something on one of its streams.
    fn talk(&mut self, client: bool) {
        let side = if client { &mut self.client } else { &mut self.server };
        if side.talks.is_empty() {
            return;
        }
        let at = self.dice.below(side.talks.len());
        let amount = self.dice.size(self.most);
        send(side, at, amount, client, &self.bytes);
        if self.dice.chance(30) {
            take(side, at, self.most);
        }
        release_finished(side, self.dice.chance(5));
    }

    /// Moves up to so many bytes from one side to the other.
    fn carry(&mut self, to_server: bool, size: usize) -> bool {
        let (from, to) = match to_server {
            true => (&mut self.client, &mut self.server),
            false => (&mut self.server, &mut self.client),
        };
        let mut pending = Vec::new();
        from.end.take_pending(&mut pending);
        to.pipe.extend_from_slice(&pending);
        let size = size.min(to.pipe.len());
        let packet: Vec<u8> = to.pipe.drain(..size).collect();
        to.ahead.extend_from_slice(&packet);
        deliver(to, to_server, &self.plans, &self.bytes, &mut self.dice);
        size > 0
    }

    /// New SETTINGS under way.
    fn change_window(&mut self, client: bool, window: u32) {
        let (side, peer) = match client {
            true => (&mut self.client, &mut self.server),
            false => (&mut self.server, &mut self.client),
        };
        frame::write_settings(&mut side.end.out, &[(setting::INITIAL_WINDOW_SIZE, window)]);
        side.end.config.stream_window = window;
        side.generous = true;
        peer.shrunk = true;
    }

    /// Somebody breaks a stream off.
    fn cut(&mut self) {
        let side = if self.dice.chance(50) { &mut self.client } else { &mut self.server };
        if !side.talks.is_empty() {
            let at = self.dice.below(side.talks.len());
            let talk = &mut side.talks[at];
            side.end.reset(talk.key, Code::CANCEL);
            talk.cut = true;
        }
    }

    /// Nothing new is begun; everything that can happen does.
    fn settle(&mut self) {
        // The last word on windows is a large one.
        self.change_window(true, 65_535);
        self.change_window(false, 65_535);
        self.requests = self.client.started;
        let mut idle = 0;
        while idle < 3 {
            let mut moved = false;
            for client in [true, false] {
                moved |= self.carry(client, usize::MAX);
                let side = if client { &mut self.client } else { &mut self.server };
                for at in 0..side.talks.len() {
                    moved |= send(side, at, usize::MAX, client, &self.bytes);
                    moved |= take(side, at, usize::MAX);
                }
                release_finished(side, false);
                check(side, "settling");
            }
            idle = if moved { 0 } else { idle + 1 };
        }
    }

    fn finish(&mut self) {
        for (side, name) in [(&self.client, "client"), (&self.server, "server")] {
            assert!(side.talks.is_empty(), "the {name} waits for ever: {:?}", side.talks);
            assert_eq!((side.end.open, side.end.unreleased()), (0, 0), "{name}");
            assert!(side.ahead.is_empty() && side.pipe.is_empty());
            assert!(side.end.answered());
        }
        // Both know the same of the windows of the connection.
        assert_eq!(self.client.end.send_window, self.server.end.credit);
        assert_eq!(self.server.end.send_window, self.client.end.credit);
        // What was not broken off is complete.
        for (stream, received, trailers, cut) in &self.client.outcomes {
            let plan = self.plans[*stream as usize / 2];
            assert!(*cut || (*received, *trailers) == (plan.2, plan.3), "response {stream}");
        }
        for (stream, received, trailers, cut) in &self.server.outcomes {
            let plan = self.plans[*stream as usize / 2];
            assert!(*cut || (*received, *trailers) == (plan.0, plan.1), "request {stream}");
        }
        let refused = self.client.outcomes.len() - self.server.outcomes.len();
        assert!(refused == 0 || self.goodbye || self.server.end.config.max_streams < 100);
        if self.goodbye {
            assert!(self.server.end.is_finished() || self.client.end.is_finished());
        }
    }
}

fn talk(key: Key, out: Outgoing) -> Talk {
    Talk { key, out, received: 0, held: 0, whole: false, trailers: false, cut: false }
}

/// What holds at any time.
fn check(side: &Side, name: &str) {
    let end = &side.end;
    assert!(end.send_window >= 0, "{name}: the window of the connection is {}", end.send_window);
    assert!(end.credit >= 0 && end.owed as i64 <= i64::from(end.config.connection_window).max(FIRST_WINDOW));
    for talk in &side.talks {
        let Some(stream) = end.streams.find(talk.key) else { continue };
        assert!(stream.send_window >= 0 || side.shrunk, "{name}: {stream:?}");
        let window = i64::from(end.config.stream_window).max(FIRST_WINDOW) + i64::from(stream.grown);
        assert!(side.generous || talk.held as i64 <= window, "{name} holds {talk:?}");
    }
    let streams = side.talks.iter().filter_map(|talk| end.streams.find(talk.key));
    let grown: u32 = streams.map(|stream| stream.counted).sum();
    assert!(end.grown == grown && grown <= end.config.growth.together, "{name}: {grown}");
    let open = side.talks.len();
    assert!(end.unreleased() == open, "{name}: {} and {open}", end.unreleased());
    assert!(end.open as usize <= open);
    // Heads, acknowledgements and updates are small and few.
    assert!(end.pending() <= ENOUGH + 64 * 1024, "{name}: {} bytes wait", end.pending());
    assert!(end.block.is_none() || side.ahead.len() < 20_000);
}

/// Sends the next of what a stream has to send, at most so many bytes. Whether it was anything.
fn send(side: &mut Side, at: usize, amount: usize, client: bool, bytes: &[u8]) -> bool {
    let Side { end, talks, .. } = side;
    let Talk { key, out, cut, .. } = &mut talks[at];
    if out.done || *cut {
        return false;
    }
    if out.heads > 0 {
        out.heads -= 1;
        let status = if out.heads == 0 { 200 } else { 103 };
        let bodiless = out.heads == 0 && out.size == 0 && !out.trailers;
        let told = end.send_response(*key, &Response::new(status), bodiless);
        out.done = told.is_err() || bodiless;
        return true;
    }
    let from = start(key.id(), client);
    let left = &bytes[(from + out.sent) % PATTERN..][..(out.size - out.sent).min(amount)];
    match end.send_data(*key, left) {
        Ok(count) => out.sent += count,
        Err(Gone) => out.done = true,
    }
    let moved = !left.is_empty() && end.pending() > 0;
    // The end comes at once, or later.
    if out.done || out.sent < out.size || (moved && amount % 2 == 1) {
        return moved;
    }
    out.done = true;
    let ended = if out.trailers {
        let mut trailers = Fields::new();
        trailers.push_bytes(b"x-sum", b"1").expect("a field");
        end.send_trailers(*key, &trailers)
    } else {
        end.end(*key)
    };
    // The peer may have broken it off meanwhile.
    let _ = ended;
    true
}

fn take(side: &mut Side, at: usize, most: usize) -> bool {
    let Side { end, talks, .. } = side;
    let talk = &mut talks[at];
    let count = talk.held.min(most);
    talk.held -= count;
    if count > 0 {
        end.took(talk.key, count, count == talk.held);
    }
    count > 0
}

/// Lets go of streams that are over, and sometimes of one that is not.
fn release_finished(side: &mut Side, early: bool) {
    let Side { end, talks, outcomes, .. } = side;
    let mut early = early;
    talks.retain(|talk| {
        let finished = talk.cut || (talk.out.done && talk.whole && talk.held == 0);
        if !finished && !std::mem::take(&mut early) {
            return true;
        }
        end.release(talk.key);
        outcomes.push((talk.key.id(), talk.received, talk.trailers, !finished || talk.cut));
        false
    });
}

/// Deals with what has arrived.
fn deliver(side: &mut Side, server: bool, plans: &[(usize, bool, usize, bool)], bytes: &[u8], dice: &mut Dice) {
    loop {
        for stream in side.end.streams.iter_mut().filter(|_| side.generous) {
            stream.credit = stream.credit.max(1 << 20);
        }
        let step = side.end.receive(&side.ahead).unwrap_or_else(|fault| panic!("{fault}"));
        let consumed = step.consumed;
        let quiet = consumed == 0 && step.event.is_none();
        if let Some(event) = step.event {
            note_event(side, event, server, plans, bytes, dice);
        }
        side.ahead.drain(..consumed);
        if quiet {
            return;
        }
    }
}

fn note_event(
    side: &mut Side,
    event: Event,
    server: bool,
    plans: &[(usize, bool, usize, bool)],
    bytes: &[u8],
    dice: &mut Dice,
) {
    let Side { talks, ahead, end, .. } = side;
    let find = |talks: &mut Vec<Talk>, key: Key| talks.iter().position(|talk| talk.key == key).expect("a stream");
    match event {
        Event::Request { stream, head, end: ended } => {
            let plan = plans[stream.id() as usize / 2];
            assert!(server && head.length.is_none_or(|length| length == plan.0 as u64));
            let heads = 1 + dice.below(3);
            let out = Outgoing { size: plan.2, sent: 0, trailers: plan.3, heads, done: false };
            let mut talk = talk(stream, out);
            talk.whole = ended;
            talks.push(talk);
        }
        Event::Response { stream, end: ended, .. } => {
            let at = find(talks, stream);
            assert!(!server && !talks[at].whole && talks[at].received == 0);
            assert!(end.response.status == 103 || end.response.status == 200);
            talks[at].whole = ended;
        }
        Event::Data { stream, range, end: ended } => {
            let at = find(talks, stream);
            let talk = &mut talks[at];
            assert!(!talk.whole && !talk.cut, "{talk:?}");
            let from = (start(stream.id(), server) + talk.received) % PATTERN;
            assert!(ahead[range.clone()] == bytes[from..from + range.len()], "{talk:?} has other bytes");
            talk.received += range.len();
            talk.held += range.len();
            talk.whole = ended;
        }
        Event::Trailers { stream } => {
            let at = find(talks, stream);
            assert!(!talks[at].whole && end.trailers.len() == 1);
            (talks[at].whole, talks[at].trailers) = (true, true);
        }
        Event::Reset { stream, .. } => {
            let at = find(talks, stream);
            talks[at].cut = true;
        }
        Event::GoAway { last, code } => {
            assert_eq!(code, Code::NO_ERROR);
            for talk in talks.iter_mut().filter(|talk| !server && talk.key.id() > last) {
                talk.cut = true;
            }
        }
        Event::Room { .. } => {}
        Event::Refused { .. } | Event::Broken { .. } => panic!("nobody breaks a rule: {event:?}"),
    }
}

#[test]
fn two_ends_understand_each_other() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let one = number("TRANSEPT_SEED");
    let count = number("TRANSEPT_SEEDS").unwrap_or(400);
    for seed in one.map_or(0..count, |seed| seed..seed + 1) {
        let run = std::panic::AssertUnwindSafe(|| Run::new(seed).play());
        if let Err(why) = std::panic::catch_unwind(run) {
            eprintln_seed(seed);
            std::panic::resume_unwind(why);
        }
    }
}

#[expect(clippy::print_stderr, reason = "how to play a failure again")]
fn eprintln_seed(seed: u64) {
    eprintln!("again: TRANSEPT_SEED={seed} cargo test -p transept-wire --lib two_ends_understand_each_other");
}
