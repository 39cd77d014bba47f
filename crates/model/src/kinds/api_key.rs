//! ApiKey (transept.dev/v1alpha1): a key of a Consumer, of which only a hash is stored.
//!
//! Made by `transept key create`, which shows the key itself once and to nobody else. Who may come in with it is decided by
//! AuthenticationPolicies of the same namespace.

use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use ipnet::IpNet;
use serde_json::Value as Json;

use crate::kinds::TRANSEPT_GROUP;
use crate::kinds::metadata::{Body, Kind, Scope};
use crate::schema::{Decoder, Moment, RESOURCE_NAME, Rule, Schema, Shape, Text};
use crate::value::{Value, quote};

crate::object! {
    /// An ApiKey: whose it is, its hash, and what it is good for.
    pub struct ApiKeySpec {
        /// The Consumer that it belongs to, in the same namespace.
        consumer: Text => Rule::Is(&RESOURCE_NAME);
        /// The hash of the key: `sha256:` and 64 hexadecimal digits, or `hmac-sha256:` and as many, made with the pepper that the
        /// AuthenticationPolicy names.
        hash: KeyHash;
        /// The first characters of the key, by which people tell keys apart. Not secret.
        prefix: Option<Text> => Rule::Length(1, 64);
        /// What it is good for; a requirement of an AuthenticationPolicy may ask for it.
        scopes: Vec<Text> => Rule::MaxItems(64), Rule::Length(1, 128), Rule::Unique;
        /// When it begins to be good.
        not_before: Option<Moment>;
        /// When it ends: it is good strictly before this.
        expires: Option<Moment>;
        /// Networks of the clients that may use it. Without any, all may.
        addresses: Vec<ClientNetwork> => Rule::NotEmpty, Rule::MaxItems(256);
        /// Origins of the pages that may use it, such as `https://app.shop.test`: browsers say which in `Origin`, and a request that says none, or
        /// another, is refused. Programs can say what they like. Without any, all may.
        origins: Vec<Text> => Rule::NotEmpty, Rule::MaxItems(256), Rule::Length(1, 512), Rule::Unique;
        /// True when it is not good at present.
        disabled: bool = false;
    }
    check check_key;
}

/// The most characters of what is random in a key that may be public: 83 bits stay secret.
const MOST_SHOWN: usize = 8;

impl Kind for ApiKeySpec {
    const KIND: &'static str = "ApiKey";
    const GROUP: &'static str = TRANSEPT_GROUP;
    const VERSIONS: &'static [&'static str] = &["v1alpha1"];
    const BODY: Body = Body::Spec;
    const SCOPE: Scope = Scope::Namespaced;
    const ABOUT: &'static str = "A key of a Consumer, of which only a hash is stored; made by `transept key create`.";
}

impl ApiKeySpec {
    /// A prefix as it may be shown: none where it is a whole key, or most of one.
    pub fn shown_prefix(prefix: &str) -> Option<&str> {
        Some(prefix).filter(|prefix| !is_whole(prefix))
    }

    /// Whether the key may be used at this time since the Unix epoch.
    ///
    /// # Errors
    /// Why not, in words that fit behind "the key".
    pub fn is_good(&self, now: Duration) -> Result<(), &'static str> {
        if self.disabled {
            return Err("is disabled");
        }
        if self.not_before.is_some_and(|begin| now < begin.unix()) {
            return Err("is not good yet");
        }
        if self.expires.is_some_and(|end| now >= end.unix()) {
            return Err("has expired");
        }
        Ok(())
    }
}

/// The hash of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash {
    /// How it was made.
    pub by: KeyHashing,
    /// The hash.
    pub bytes: [u8; 32],
}

/// How the hash of a key is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyHashing {
    /// SHA-256 of the key.
    Sha256,
    /// HMAC with SHA-256 of the key, under a pepper.
    HmacSha256,
}

impl KeyHashing {
    const ALL: [KeyHashing; 2] = [KeyHashing::Sha256, KeyHashing::HmacSha256];

    /// The word in front of the hash.
    pub const fn as_str(self) -> &'static str {
        match self {
            KeyHashing::Sha256 => "sha256",
            KeyHashing::HmacSha256 => "hmac-sha256",
        }
    }
}

impl KeyHash {
    /// Reads `sha256:` or `hmac-sha256:` and hexadecimal digits.
    pub fn parse(text: &str) -> Option<KeyHash> {
        let (word, digits) = text.split_once(':')?;
        let by = KeyHashing::ALL.into_iter().find(|by| by.as_str() == word)?;
        let bytes = HEXLOWER.decode(digits.to_ascii_lowercase().as_bytes()).ok()?;
        Some(KeyHash { by, bytes: bytes.try_into().ok()? })
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.by.as_str(), HEXLOWER.encode(&self.bytes))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:...", self.by.as_str())
    }
}

impl Schema for KeyHash {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        let Some(text) = value.text() else {
            cx.expected(value, "a hash");
            return None;
        };
        let hash = KeyHash::parse(text);
        if hash.is_none() {
            // What stands there may be the key itself, so it is not repeated.
            cx.refuse(value.at, "this is not the hash of a key")
                .remedy("write `sha256:` and 64 hexadecimal digits; `transept key create` does");
        }
        hash
    }

    fn shape() -> Shape {
        Shape::Text
    }

    fn encode(&self) -> Json {
        self.to_string().into()
    }
}

/// The clients that may use a credential: an address, or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientNetwork(pub IpNet);

impl ClientNetwork {
    /// Whether an address (no IPv4-mapped IPv6) lies in it.
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        self.0.contains(&address)
    }

    fn parse(text: &str) -> Option<ClientNetwork> {
        let network = text.parse().ok().or_else(|| text.parse().ok().map(|address: std::net::IpAddr| address.into()));
        network.filter(|network: &IpNet| network.trunc() == *network).map(ClientNetwork)
    }
}

impl Schema for ClientNetwork {
    fn decode(value: &Value, cx: &mut Decoder) -> Option<Self> {
        let network = value.text().and_then(ClientNetwork::parse);
        if network.is_none() {
            let what = value.text().map_or_else(|| value.describe(), quote);
            cx.refuse(value.at, format!("{what} is not a network"))
                .remedy("write an address, or the first address of a network: 192.0.2.7, 192.0.2.0/24, 2001:db8::/32");
        }
        network
    }

    fn shape() -> Shape {
        Shape::Text
    }

    fn encode(&self) -> Json {
        self.0.to_string().into()
    }
}

fn check_key(key: &ApiKeySpec, value: &Value, cx: &mut Decoder) {
    if let (Some(begin), Some(end)) = (key.not_before, key.expires)
        && end <= begin
    {
        cx.refuse_field(value, "expires", "the key ends before it begins").remedy("write a later moment");
    }
    if key.prefix.as_deref().is_some_and(is_whole) {
        // It is not repeated.
        cx.refuse_field(value, "prefix", "this is a whole key, or most of one, and whoever reads it here could use it")
            .remedy(
                "write its first characters only, as `transept key create` does, and replace the key: it is known now",
            );
    }
    if let Some(origin) = key.origins.iter().find(|origin| !is_origin(origin)) {
        let why = format!("{} is no origin as browsers write it, so the key would be good nowhere", quote(origin));
        cx.refuse_field(value, "origins", why).remedy(
            "write scheme and host in lower case, and the port unless it is the usual one: `https://app.shop.test`",
        );
    }
}

/// Whether what should be the first characters of a key shows so much of what is random in it that the rest could be tried out, or all. How the key is
/// spelled is not known here: whatever stands between other characters and is no word counts.
fn is_whole(prefix: &str) -> bool {
    let pieces = prefix.split(|char: char| !char.is_ascii_alphanumeric());
    pieces.filter(|piece| !is_word(piece)).map(str::len).sum::<usize>() > MOST_SHOWN
}

/// Whether somebody may have written it: letters of one case, perhaps with a capital in front, and perhaps a number behind. Chance makes hardly any that
/// long.
fn is_word(piece: &str) -> bool {
    let letters = piece.trim_end_matches(|char: char| char.is_ascii_digit());
    let number = piece.len() - letters.len();
    let behind = letters.get(1..).unwrap_or_default();
    let is_one_case =
        behind.bytes().all(|byte| byte.is_ascii_lowercase()) || letters.bytes().all(|byte| byte.is_ascii_uppercase());
    number <= 4 && is_one_case && letters.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// Whether a text is an origin as it is serialised (RFC 6454 section 6.2); of HTTP, or of an app that brings a scheme of its own.
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b':' | b'[' | b']');
    let usual = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    scheme.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
        && scheme.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'))
        && !authority.is_empty()
        && authority.bytes().all(is_plain)
        && (usual.is_empty() || !authority.ends_with(usual))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SourceText, load};

    const HASH: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn read(spec: &str) -> Result<ApiKeySpec, String> {
        let text = format!("apiVersion: transept.dev/v1alpha1\nkind: ApiKey\nmetadata: {{name: k}}\nspec: {spec}\n");
        let loaded = load(&[SourceText { name: "k.yaml".into(), text: text.into() }], &[]);
        match loaded.invalid.first() {
            Some(problem) => Err(problem.why.clone()),
            None => Ok(loaded.world.api_key("default", "k").expect("a key").spec.clone()),
        }
    }

    #[test]
    fn origins_are_written_as_browsers_do() {
        for good in ["https://app.shop.test", "http://localhost:3000", "https://[::1]:8443", "chrome-extension://abc"] {
            assert!(read(&format!("{{consumer: c, hash: '{HASH}', origins: ['{good}']}}")).is_ok(), "{good}");
        }
        for wrong in [
            "app.shop.test",
            "https://app.shop.test/",
            "HTTPS://a.test",
            "https://A.test",
            "https://a.test:443",
            "null",
            "*",
            "https://",
        ] {
            let why = read(&format!("{{consumer: c, hash: '{HASH}', origins: ['{wrong}']}}")).expect_err(wrong);
            assert!(why.contains("is no origin"), "{wrong}: {why}");
        }
    }

    #[test]
    fn a_whole_key_is_no_prefix_and_is_not_repeated() {
        let written = |prefix: &str| read(&format!("{{consumer: c, hash: '{HASH}', prefix: {prefix}}}"));
        for prefix in ["tr_live_7Xk2", "mine", "tr_live_7Xk2mQ9d", "my_company_production_ab", "ACME-Production2-7Xk2"]
        {
            assert!(written(prefix).is_ok(), "{prefix}");
        }
        for whole in [
            "tr_live_7Xk2mQ9dVb3nR5tYc8pLsw_1ZkP0c",
            "tr_live_7Xk2mQ9dVb3nR5tYc8pLsw",
            "a_b_7Xk2mQ9dV",
            "7Xk2mQ9dVb3nR5tYc8pLsw",
            "live_7Xk2mQ9dVb3nR5tYc8pLsw",
            "tr-live-7Xk2mQ9dVb3nR5tYc8pLsw",
            "tr.7Xk2mQ.9dVb3n.R5tYc8pLsw",
            "7Xk25ec9e7deadbeefcafe0123456789abcdef",
        ] {
            let why = written(whole).expect_err(whole);
            assert!(why.contains("whole key") && !why.contains("7Xk2"), "{why}");
        }
    }

    #[test]
    fn a_key_is_good_strictly_before_its_end() {
        let spec = format!(
            "{{consumer: c, hash: '{HASH}', notBefore: '1970-01-01T00:00:10Z', expires: '1970-01-01T00:00:20Z'}}"
        );
        let key = read(&spec).expect("a key");
        let good = |seconds| key.is_good(Duration::from_secs(seconds));
        assert_eq!(good(9), Err("is not good yet"));
        assert_eq!(good(10), Ok(()));
        assert_eq!(key.is_good(Duration::from_millis(19_999)), Ok(()));
        assert_eq!(good(20), Err("has expired"));
        assert_eq!(ApiKeySpec { disabled: true, ..key }.is_good(Duration::from_secs(15)), Err("is disabled"));
    }

    #[test]
    fn what_is_no_hash_is_refused_and_not_repeated() {
        for wrong in ["tr_live_secret", "sha256:00", "md5:00", &HASH[..70]] {
            let why = read(&format!("{{consumer: c, hash: '{wrong}'}}")).expect_err("a refusal");
            assert!(!why.contains(wrong), "{why}");
        }
        assert_eq!(KeyHash::parse(HASH).expect("a hash").to_string(), HASH);
        assert!(!format!("{:?}", KeyHash::parse(HASH)).contains("9f86"));
    }

    #[test]
    fn networks_and_moments_are_checked() {
        assert!(read(&format!("{{consumer: c, hash: '{HASH}', addresses: [192.0.2.7, '2001:db8::/32']}}")).is_ok());
        assert!(read(&format!("{{consumer: c, hash: '{HASH}', addresses: [192.0.2.7/24]}}")).is_err());
        for none in ["addresses", "origins"] {
            let why = read(&format!("{{consumer: c, hash: '{HASH}', {none}: []}}")).expect_err("all may");
            assert!(why.contains("asks for nothing"), "{why}");
        }
        let turned = "notBefore: '2027-01-02T00:00:00Z', expires: '2027-01-01T00:00:00Z'";
        assert_eq!(
            read(&format!("{{consumer: c, hash: '{HASH}', {turned}}}")),
            Err("the key ends before it begins".to_owned())
        );
    }
}
