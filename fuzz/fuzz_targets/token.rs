//! A signed token, a set of keys and claims: what is read is strict, a second JSON parser agrees with ours, and nothing that has expired is good.
//!
//! The first byte chooses what the rest is read as.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use transept_engine::jose::{Algorithm, Expectations, Expiry, KeySet, MOST_TOKEN, Refusal, Token, parse_json};

fuzz_target!(|raw: &[u8]| {
    let Some((kind, rest)) = raw.split_first() else { return };
    match kind % 4 {
        0 => read_token(rest),
        1 => read_keys(rest),
        2 => read_claims(rest),
        _ => read_json(rest),
    }
});

fn read_token(text: &[u8]) {
    let Ok(token) = Token::parse(text) else { return };
    assert!(text.len() <= MOST_TOKEN);
    assert_eq!(text.iter().filter(|byte| **byte == b'.').count(), 2);
    assert!(text.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(byte)));
    assert!(Algorithm::ALL.contains(&token.algorithm()));
    assert!(token.kid().is_none_or(|kid| kid.len() <= 256));
    // Nobody has signed with this secret.
    let keys = KeySet::shared(&[0x5a; 64]);
    assert!(token.verify(&keys, Algorithm::ALL.into_iter().collect()).is_err());
    assert_eq!(token.verify(&keys, [].into_iter().collect()), Err(Refusal::Algorithm));
}

fn read_keys(text: &[u8]) {
    let Ok(set) = KeySet::parse(text) else { return };
    assert!(!set.keys().is_empty());
    for key in set.keys() {
        assert!(key.algorithms().count() > 0);
        assert!(key.algorithms().all(|algorithm| !algorithm.is_symmetric()), "a secret in a set");
    }
    let document: Value = serde_json::from_slice(text).expect("a second parser reads it too");
    assert_eq!(document["keys"].as_array().map(Vec::len), Some(set.keys().len() + set.remarks.len()));
}

fn read_claims(text: &[u8]) {
    let Some((now, text)) = text.split_at_checked(4) else { return };
    let now = Duration::from_secs(now.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    let Ok(claims) = Token::claims(text) else { return };
    let expectations = Expectations {
        issuer: Some("i".into()),
        audiences: Some(vec!["a".into()]),
        parties: Vec::new(),
        kinds: Vec::new(),
        leeway: Duration::from_secs(30),
        max_age: None,
        expiry: Expiry::Required,
        required: Vec::new(),
    };
    let Ok(validity) = expectations.check(&claims, now) else { return };
    assert!(validity.until.is_some_and(|until| now < until));
    assert_eq!(claims["iss"], "i");
    assert!(claims["aud"].to_string().contains("\"a\""));
}

fn read_json(text: &[u8]) {
    if let Ok(value) = parse_json(text) {
        assert_eq!(serde_json::from_slice::<Value>(text).ok(), Some(value));
    }
}
