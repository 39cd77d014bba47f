//! Clients and backends that break off, refuse and hurry as a seed decides, on shared connections: whatever fails, no answer is
//! given to another request, and none that is cut passes for a whole one.

use crate::stage::{Ask, Backend, Caller, Down, Framed, Served, Setup, Up, soon};

/// A sequence that only the seed decides (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// What belongs to this target and to no other.
fn content_of(target: &str) -> String {
    let mut dice =
        Dice(target.bytes().fold(7_u64, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))));
    target.repeat(usize::try_from(1 + dice.below(2000)).expect("small"))
}

/// What a backend does with a request; the last path segment says which.
async fn misbehave(mut served: Served) {
    let content = content_of(&served.target);
    let (half, rest) = content.as_bytes().split_at(content.len() / 2);
    let deed = served.target.rsplit('/').next().unwrap_or_default().to_owned();
    // Every failure to send is one that a client or the gateway wanted.
    match deed.as_str() {
        "hang-up" => return,
        "reset" => return served.reset(),
        "refuse-early" => {}
        _ => {
            if served.try_whole().await.is_err() {
                return;
            }
        }
    }
    let framed = match deed.as_str() {
        "length" | "refuse-early" | "cut-length" => Framed::Length(content.len()),
        "close" => Framed::Close,
        _ => Framed::Open,
    };
    if served.try_begin(200, framed, &[]).await.is_err() || served.try_send(half).await.is_err() {
        return;
    }
    if deed.starts_with("cut") {
        return served.reset();
    }
    if served.try_send(rest).await.is_ok() {
        served.end(&[]).await;
    }
}

const DEEDS: [&str; 8] = ["length", "chunks", "close", "hang-up", "reset", "refuse-early", "cut-length", "cut-chunks"];

/// One client; gives how many whole answers it got.
async fn clamour(down: Down, address: std::net::SocketAddr, client: u64) -> usize {
    let mut dice = Dice(client);
    let mut answers = 0;
    let mut caller = Caller::connect(&down, address).await;
    for number in 0..40 {
        let deed = DEEDS[usize::try_from(dice.below(8)).expect("small")];
        let target = format!("/{client}/{number}/{deed}");
        let length = usize::try_from(dice.below(100_000)).expect("small");
        let (ask, body) = match dice.below(4) {
            0 => (Ask::post(&target, Framed::Length(length)), length),
            1 => (Ask::post(&target, Framed::Open), length),
            _ => (Ask::get(&target), 0),
        };
        let mut call = caller.ask(ask.with("x-a", "1")).await;
        let breaks_off = dice.below(6) == 0;
        let sent = if breaks_off { body / 2 } else { body };
        let mut good = sent == 0 || soon(call.try_send(&vec![7; sent])).await.is_ok();
        if breaks_off {
            match down {
                Down::H2c => call.cancel(),
                _ => {
                    drop(call);
                    caller = Caller::connect(&down, address).await;
                }
            }
            continue;
        }
        good &= body == 0 || call.try_end().await.is_ok();
        let outcome = match soon(call.try_head()).await {
            Ok(()) => call.try_whole().await.map(|whole| (call.status, whole.content)),
            Err(cut) => Err(cut),
        };
        let closes = call.field("connection") == Some("close");
        drop(call);
        match &outcome {
            Ok((200, content)) => {
                assert_eq!(String::from_utf8_lossy(content), content_of(&target), "an answer to somebody else");
                assert!(!deed.starts_with("cut"), "{target}: a part passes for the whole");
                answers += 1;
            }
            Ok((status, _)) => assert!(matches!(status, 502 | 503), "{target}: {status}"),
            Err(_) => assert!(deed.starts_with("cut") || deed == "refuse-early", "{target}: {outcome:?} {good}"),
        }
        if closes || outcome.is_err() || !good {
            caller = Caller::connect(&down, address).await;
        }
    }
    answers
}

async fn disorder(up: Up) {
    let backend = Backend::start(up).await;
    let gateway = Setup::before(&backend).workers(2).start().await;
    let _misbehaving = backend.answer_with(|served| async move { misbehave(served).await });
    let mut clients = Vec::new();
    for client in 0..16 {
        let down = if client % 2 == 0 { Down::Http11 } else { Down::H2c };
        clients.push(tokio::spawn(clamour(down, gateway.address, client)));
    }
    for client in clients {
        assert!(soon(client).await.expect("only its own answers") > 0);
    }
}

#[tokio::test]
async fn nobody_gets_another_ones_answer_over_http1() {
    disorder(Up::Http1).await;
}

#[tokio::test]
async fn nobody_gets_another_ones_answer_over_h2c() {
    disorder(Up::H2c).await;
}
