//! Tests of `token`: good once, for one workload, and never in the clear.

use proptest::prelude::*;

use super::*;
use crate::forge::{NOW, now};
use crate::svid::moment;

const HOUR: Duration = Duration::from_secs(3600);

fn cart() -> WorkloadName {
    WorkloadName::new("default", "cart").unwrap()
}

fn secret(seed: u8) -> Zeroizing<[u8; SECRET]> {
    Zeroizing::new(std::array::from_fn(|at| seed.wrapping_add(u8::try_from(at).unwrap())))
}

fn made(uses: Uses) -> (Tokens, TokenId, Token) {
    let mut tokens = Tokens::new();
    let (id, token) = tokens.create(cart(), uses, HOUR, now(), secret(1)).unwrap();
    (tokens, id, token)
}

#[test]
fn a_token_is_good_for_its_workload() {
    let (mut tokens, id, token) = made(Uses::Once);
    let grant = tokens.redeem(token.as_str(), b"instance 1", now()).unwrap();
    assert_eq!(grant, Grant { workload: cart(), token: id, first: true });
}

#[test]
fn a_token_vouches_while_it_could_be_redeemed() {
    let (mut tokens, id, token) = made(Uses::Once);
    assert_eq!(tokens.vouch(token.as_str(), now()), Ok(&cart()));
    assert_eq!(tokens.vouch(token.as_str(), moment(NOW + HOUR.as_secs())), Err(BadToken::Ended));
    tokens.redeem(token.as_str(), b"one", now()).unwrap();
    assert_eq!(tokens.vouch(token.as_str(), now()), Err(BadToken::Used));
    assert_eq!(tokens.recognize(token.as_str()), Ok(&cart()));
    tokens.revoke(&id);
    assert_eq!(tokens.vouch(token.as_str(), now()), Err(BadToken::Unknown));

    let (mut tokens, _, token) = made(Uses::Many);
    tokens.redeem(token.as_str(), b"one", now()).unwrap();
    assert_eq!(tokens.vouch(token.as_str(), now()), Ok(&cart()));
}

#[test]
fn a_single_use_is_for_one_instance_which_may_ask_again() {
    let (mut tokens, _, token) = made(Uses::Once);
    assert!(tokens.redeem(token.as_str(), b"one", now()).unwrap().first);
    let retry = tokens.redeem(token.as_str(), b"one", moment(NOW + 5)).unwrap();
    assert!(!retry.first && retry.workload == cart());
    assert_eq!(tokens.redeem(token.as_str(), b"two", now()).unwrap_err(), BadToken::Used);
    assert!(tokens.redeem(token.as_str(), b"one", moment(NOW + RETRY.as_secs())).is_ok());
    assert_eq!(tokens.redeem(token.as_str(), b"one", moment(NOW + RETRY.as_secs() + 1)).unwrap_err(), BadToken::Used);
    assert_eq!(tokens.iter().next().unwrap().used, 1);
}

#[test]
fn a_retry_is_heard_although_the_token_has_ended_meanwhile() {
    let (mut tokens, _, token) = made(Uses::Once);
    let last = NOW + HOUR.as_secs() - 1;
    assert!(tokens.redeem(token.as_str(), b"one", moment(last)).is_ok());
    tokens.forget_ended(moment(last + 10));
    assert!(tokens.redeem(token.as_str(), b"one", moment(last + 10)).is_ok());
}

#[test]
fn a_token_for_many_ends_with_its_time() {
    let (mut tokens, _, token) = made(Uses::Many);
    for nonce in [b"one", b"two", b"one"] {
        assert!(tokens.redeem(token.as_str(), nonce, now()).unwrap().first);
    }
    assert_eq!(tokens.iter().next().unwrap().used, 3);
    assert!(tokens.redeem(token.as_str(), b"x", moment(NOW + 3599)).is_ok());
    assert_eq!(tokens.redeem(token.as_str(), b"x", moment(NOW + 3600)).unwrap_err(), BadToken::Ended);
    tokens.forget_ended(moment(NOW + 3600 + RETRY.as_secs() + 1));
    assert_eq!(tokens.redeem(token.as_str(), b"x", moment(NOW + 5000)).unwrap_err(), BadToken::Unknown);
}

#[test]
fn junk_is_refused_before_the_table_is_asked() {
    let (mut tokens, _, token) = made(Uses::Once);
    let text = token.as_str();
    assert!(text.starts_with(PREFIX) && text.len() == PREFIX.len() + 40, "{text}");
    let (upper, longer, spaced) = (text.to_uppercase(), format!("{text}a"), format!(" {text}"));
    let changed_case = format!("{PREFIX}{}", text[PREFIX.len()..].to_uppercase());
    for junk in ["", PREFIX, "hello", &text[..text.len() - 1], &upper, &longer, &spaced, &changed_case] {
        assert_eq!(tokens.redeem(junk, b"one", now()).unwrap_err(), BadToken::Malformed, "{junk}");
    }
    // Well-formed, but never made here.
    let (_, other) = Tokens::new().create(cart(), Uses::Once, HOUR, now(), secret(99)).unwrap();
    assert_eq!(tokens.redeem(other.as_str(), b"one", now()).unwrap_err(), BadToken::Unknown);
    for nonce in [&[][..], &[0; MAX_NONCE + 1]] {
        assert_eq!(tokens.redeem(text, nonce, now()).unwrap_err(), BadToken::Nonce);
    }
    assert!(tokens.redeem(text, &[0; MAX_NONCE], now()).unwrap().first, "nothing of this used it up");
}

#[test]
fn any_single_slip_is_noticed() {
    let (mut tokens, _, token) = made(Uses::Once);
    for at in PREFIX.len()..token.as_str().len() {
        let mut slip = token.as_str().as_bytes().to_vec();
        slip[at] = if slip[at] == b'a' { b'b' } else { b'a' };
        let slip = String::from_utf8(slip).unwrap();
        assert_eq!(tokens.redeem(&slip, b"one", now()).unwrap_err(), BadToken::Malformed);
    }
}

#[test]
fn a_revoked_token_is_not_known() {
    let (mut tokens, id, token) = made(Uses::Many);
    assert!(tokens.revoke(&TokenId::from(id.as_str())) && !tokens.revoke(&id));
    assert_eq!(tokens.redeem(token.as_str(), b"one", now()).unwrap_err(), BadToken::Unknown);
}

#[test]
fn the_table_is_stored_without_the_tokens() {
    let (mut tokens, id, token) = made(Uses::Once);
    tokens.redeem(token.as_str(), b"one", now()).unwrap();
    let stored = serde_json::to_string(&tokens).unwrap();
    let digits = &token.as_str()[PREFIX.len()..];
    let shown = format!("{tokens:?} {token:?}");
    assert!(!stored.contains(digits) && !shown.contains(digits) && shown.contains(id.as_str()));
    let mut again: Tokens = serde_json::from_str(&stored).unwrap();
    assert!(again == tokens);
    assert!(again.redeem(token.as_str(), b"one", now()).is_ok());
    assert_eq!(again.redeem(token.as_str(), b"two", now()).unwrap_err(), BadToken::Used);
    assert!(serde_json::from_str::<Tokens>(&stored.replace("\"hash\":\"", "\"hash\":\"zz")).is_err());
}

#[test]
fn what_cannot_be_made_is_refused() {
    let mut tokens = Tokens::new();
    for life in [Duration::ZERO, MAX_LIFE + Duration::from_secs(1)] {
        assert_eq!(tokens.create(cart(), Uses::Once, life, now(), secret(1)).unwrap_err(), NotMade::Life);
    }
    let same = Zeroizing::new([7; SECRET]);
    assert_eq!(tokens.create(cart(), Uses::Once, HOUR, now(), same).unwrap_err(), NotMade::NotRandom);
    assert!(tokens.create(cart(), Uses::Once, HOUR, now(), secret(1)).is_ok());
    assert_eq!(tokens.create(cart(), Uses::Once, HOUR, now(), secret(1)).unwrap_err(), NotMade::NotRandom);
}

#[test]
fn the_table_is_bounded_and_makes_room_for_itself() {
    let mut tokens = Tokens::new();
    let numbered = |number: usize| {
        let mut bytes = secret(1);
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        bytes
    };
    for number in 0..MAX_TOKENS {
        tokens.create(cart(), Uses::Once, HOUR, now(), numbered(number)).unwrap();
    }
    let one_more = |tokens: &mut Tokens, now| tokens.create(cart(), Uses::Once, HOUR, now, numbered(MAX_TOKENS));
    assert_eq!(one_more(&mut tokens, now()).unwrap_err(), NotMade::TooMany);
    assert!(one_more(&mut tokens, moment(NOW + 2 * HOUR.as_secs())).is_ok());
    assert_eq!(tokens.iter().count(), 1);
}

proptest! {
    #[test]
    fn no_text_panics_and_only_whole_tokens_are_read(text in "(transept_join_)?[a-z2-7A-Z_=]{0,45}") {
        let secret = read(&text);
        prop_assert_eq!(secret.is_some_and(|secret| write(&secret).as_str() == text), false);
    }

    #[test]
    fn what_is_written_is_read(secret: [u8; SECRET]) {
        prop_assert_eq!(*read(write(&secret).as_str()).unwrap(), secret);
    }
}
