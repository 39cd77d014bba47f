//! Tokens of all kinds: those of an issuer of our own, hostile ones, and the public vectors when they are there.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use aws_lc_rs::{hmac, rand};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::*;

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64URL_NOPAD.encode(bytes.as_ref())
}

/// An issuer with a key of each type.
pub(crate) struct Issuer {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    secret: [u8; 64],
}

impl Issuer {
    pub(crate) fn new() -> Issuer {
        let mut secret = [0; 64];
        rand::fill(&mut secret).expect("random bytes");
        Issuer {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"),
            ec: EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"),
            ed: Ed25519KeyPair::generate().expect("a key"),
            secret,
        }
    }

    pub(crate) fn rsa_jwk(&self) -> Value {
        // RSAPublicKey of RFC 8017 appendix A.1.1, whose lengths are known: 2048 bits, and 65537.
        let der = self.rsa.public_key().as_ref();
        json!({"kty": "RSA", "kid": "r", "n": encode(&der[9..265]), "e": encode(&der[267..270])})
    }

    pub(crate) fn ec_jwk(&self) -> Value {
        let point = self.ec.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "kid": "e", "use": "sig", "x": encode(&point[1..33]), "y": encode(&point[33..])})
    }

    pub(crate) fn ed_jwk(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": "d", "alg": "EdDSA", "x": encode(self.ed.public_key())})
    }

    fn keys(&self) -> KeySet {
        set(json!([self.rsa_jwk(), self.ec_jwk(), self.ed_jwk()])).expect("a set")
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |encoding: &'static signature::RsaSignatureEncoding| {
            let mut out = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(encoding, &random, message, &mut out).expect("a signature");
            out
        };
        let mac = |hash| hmac::sign(&hmac::Key::new(hash, &self.secret), message).as_ref().to_vec();
        match algorithm {
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "RS512" => rsa(&signature::RSA_PKCS1_SHA512),
            "PS256" => rsa(&signature::RSA_PSS_SHA256),
            "ES256" => self.ec.sign(&random, message).expect("a signature").as_ref().to_vec(),
            "EdDSA" => self.ed.sign(message).as_ref().to_vec(),
            "HS256" => mac(hmac::HMAC_SHA256),
            "HS512" => mac(hmac::HMAC_SHA512),
            other => panic!("no such algorithm: {other}"),
        }
    }

    /// A token with this header, as text, signed by an algorithm that the header need not name.
    pub(crate) fn token_of(&self, algorithm: &str, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", encode(header), encode(payload));
        let signature = encode(self.sign(algorithm, signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    pub(crate) fn token(&self, algorithm: &str, kid: &str) -> String {
        self.token_of(algorithm, &json!({"alg": algorithm, "kid": kid}).to_string(), r#"{"sub":"7"}"#)
    }
}

fn set(keys: Value) -> Result<KeySet, SetError> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
}

fn verify(token: &str, keys: &KeySet, allowed: Algorithms) -> Result<Claims, Refusal> {
    let parsed = Token::parse(token.as_bytes())?;
    Token::claims(parsed.verify(keys, allowed)?)
}

fn all() -> Algorithms {
    Algorithm::ALL.into_iter().collect()
}

fn is_malformed(outcome: &Result<Claims, Refusal>) -> bool {
    matches!(outcome, Err(Refusal::Malformed(_)))
}

#[test]
fn a_key_has_one_print_however_it_is_spelled() {
    let issuer = Issuer::new();
    let print = |jwk: &Value| {
        let text = json!({ "keys": [jwk] }).to_string();
        *KeySet::parse(text.as_bytes()).expect("keys").keys()[0].print()
    };
    let mut padded = issuer.rsa_jwk();
    for name in ["n", "e"] {
        let bytes = data_encoding::BASE64URL_NOPAD.decode(padded[name].as_str().expect("text").as_bytes());
        padded[name] = json!(encode([&[0][..], &bytes.expect("base64url")].concat()));
    }
    padded["kid"] = json!("another name");
    assert_eq!(print(&padded), print(&issuer.rsa_jwk()));
    assert_ne!(print(&Issuer::new().ec_jwk()), print(&issuer.ec_jwk()));
}

#[test]
fn of_keys_without_a_name_the_first_eight_are_tried() {
    let pairs: Vec<EcdsaKeyPair> =
        (0..9).map(|_| EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key")).collect();
    let jwk = |pair: &EcdsaKeyPair| {
        let point = pair.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])})
    };
    let keys = set(pairs.iter().map(jwk).collect()).expect("a set");
    let token = |pair: &EcdsaKeyPair| {
        let signed = format!("{}.{}", encode(r#"{"alg":"ES256"}"#), encode(r#"{"sub":"7"}"#));
        let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", encode(signature))
    };
    for pair in &pairs[..8] {
        assert_eq!(verify(&token(pair), &keys, all()).expect("good")["sub"], "7");
    }
    assert_eq!(verify(&token(&pairs[8]), &keys, all()), Err(Refusal::Signature));
}

#[test]
fn tokens_of_the_issuer_are_good() {
    let issuer = Issuer::new();
    let keys = issuer.keys();
    for (algorithm, kid) in [("RS256", "r"), ("RS512", "r"), ("PS256", "r"), ("ES256", "e"), ("EdDSA", "d")] {
        let claims = verify(&issuer.token(algorithm, kid), &keys, all()).expect(algorithm);
        assert_eq!(claims["sub"], "7");
    }
    let shared = KeySet::shared(&issuer.secret);
    for algorithm in ["HS256", "HS512"] {
        assert!(verify(&issuer.token(algorithm, "any"), &shared, all()).is_ok());
    }
}

#[test]
fn an_algorithm_that_is_not_allowed_is_refused_though_the_key_could() {
    let issuer = Issuer::new();
    let only: Algorithms = [Algorithm::ES256].into_iter().collect();
    assert_eq!(verify(&issuer.token("RS256", "r"), &issuer.keys(), only), Err(Refusal::Algorithm));
    assert!(verify(&issuer.token("ES256", "e"), &issuer.keys(), only).is_ok());
}

#[test]
fn none_is_no_algorithm_in_any_spelling() {
    let issuer = Issuer::new();
    for name in
        ["none", "None", "NONE", "nOnE", "none ", " none", "none\u{0}", "", "no\u{6e}e", "RS256 ", "rs256", "HS1"]
    {
        for kid in ["", r#","kid":"r""#] {
            let header = format!(r#"{{"alg":{}{kid}}}"#, json!(name));
            let signed = format!("{}.{}", encode(&header), encode("{}"));
            for token in [format!("{signed}."), format!("{signed}.{}", encode(issuer.sign("RS256", signed.as_bytes())))]
            {
                assert_eq!(verify(&token, &issuer.keys(), all()), Err(Refusal::Algorithm), "{name:?}");
            }
        }
    }
    for header in [r#"{}"#, r#"{"alg":null}"#, r#"{"alg":["RS256"]}"#, r#"{"alg":0}"#, r#"["RS256"]"#, "RS256", ""] {
        assert!(is_malformed(&verify(&issuer.token_of("RS256", header, "{}"), &issuer.keys(), all())), "{header}");
    }
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    // The classic confusion: the token is signed by HMAC with what everybody knows.
    let issuer = Issuer::new();
    let signed = format!("{}.{}", encode(r#"{"alg":"HS256","kid":"r"}"#), encode("{}"));
    for secret in [
        issuer.rsa_jwk().to_string(),
        issuer.rsa_jwk()["n"].to_string(),
        String::from_utf8_lossy(issuer.rsa.public_key().as_ref()).into_owned(),
    ] {
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
        let outcome = verify(&format!("{signed}.{}", encode(mac)), &issuer.keys(), all());
        assert_eq!(outcome, Err(Refusal::NoKey));
    }
    let refused = set(json!([{"kty": "oct", "k": encode([7; 32])}])).expect_err("no shared secret in a set");
    assert!(refused.0.contains("belongs into a Secret"), "{refused}");
}

#[test]
fn a_key_verifies_only_what_it_is_for() {
    let issuer = Issuer::new();
    // ES256 by the name of the RSA key, and the other way round.
    assert_eq!(verify(&issuer.token("ES256", "r"), &issuer.keys(), all()), Err(Refusal::NoKey));
    assert_eq!(verify(&issuer.token("RS256", "e"), &issuer.keys(), all()), Err(Refusal::NoKey));
    let with = |name: &str, value: Value| {
        let mut key = issuer.rsa_jwk();
        key[name] = value;
        set(json!([key]))
    };
    let pinned = with("alg", json!("PS256")).expect("a set");
    assert_eq!(verify(&issuer.token("RS256", "r"), &pinned, all()), Err(Refusal::NoKey));
    assert!(verify(&issuer.token("PS256", "r"), &pinned, all()).is_ok());
    assert!(with("key_ops", json!(["sign", "verify"])).is_ok());
    for (name, value) in [
        ("use", json!("enc")),
        ("use", json!(7)),
        ("key_ops", json!(["sign"])),
        ("key_ops", json!("verify")),
        ("alg", json!("ES256")),
        ("alg", json!("none")),
        ("kty", json!("EC")),
        ("kty", json!("rsa")),
        ("d", json!("AQ")),
        ("e", json!("AQ")),
        ("e", json!("Ag")),
        ("e", json!("")),
        ("n", json!("AQAB")),
        ("n", json!("")),
        ("n", json!("A=")),
    ] {
        assert!(with(name, value.clone()).is_err(), "{name}: {value}");
    }
    let mut off_curve = issuer.ec_jwk();
    off_curve["y"] = json!(encode([1; 32]));
    assert!(set(json!([off_curve])).is_err());
    let mut short = issuer.ec_jwk();
    short["x"] = json!(encode([1; 31]));
    assert!(set(json!([short])).is_err());
    let mut other_curve = issuer.ec_jwk();
    other_curve["crv"] = json!("P-384");
    assert!(set(json!([other_curve])).is_err());
}

#[test]
fn a_set_is_used_as_far_as_it_can_be() {
    let issuer = Issuer::new();
    let mut encryption = issuer.rsa_jwk();
    encryption["use"] = json!("enc");
    let found = set(json!([encryption, issuer.ec_jwk(), {"kty": "new"}, 7])).expect("a set");
    assert_eq!((found.keys().len(), found.remarks.len()), (1, 3));
    assert!(found.remarks[0].starts_with("keys[0] (r) is not used"), "{:?}", found.remarks);
    assert!(set(json!([issuer.ec_jwk(), issuer.ec_jwk()])).is_err(), "two keys with one name");
    assert!(set(json!([])).is_err());
    assert!(set(Value::Array(vec![issuer.ec_jwk(); MOST_KEYS + 1])).is_err());
    for text in ["[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, "", "\u{0}"] {
        assert!(KeySet::parse(text.as_bytes()).is_err(), "{text:?}");
    }
}

#[test]
fn a_name_of_a_key_is_nothing_but_a_name() {
    let issuer = Issuer::new();
    for kid in ["../../dev/null", "/etc/passwd", "r' OR '1'='1", "r\u{0}", "R", " r", "http://a.test/keys", "{{7*7}}"] {
        assert_eq!(verify(&issuer.token("RS256", kid), &issuer.keys(), all()), Err(Refusal::UnknownKey), "{kid}");
    }
    assert!(is_malformed(&verify(&issuer.token("RS256", &"r".repeat(257)), &issuer.keys(), all())));
    for kid in ["7", "null", r#"["r"]"#, r#"{"a":1}"#] {
        let header = format!(r#"{{"alg":"RS256","kid":{kid}}}"#);
        assert!(is_malformed(&verify(&issuer.token_of("RS256", &header, "{}"), &issuer.keys(), all())), "{kid}");
    }
    // Without a name, the keys that fit are tried.
    let header = r#"{"alg":"ES256"}"#;
    assert!(verify(&issuer.token_of("ES256", header, "{}"), &issuer.keys(), all()).is_ok());
}

#[test]
fn no_key_is_taken_from_the_token_and_no_url_in_it_matters() {
    let (issuer, attacker) = (Issuer::new(), Issuer::new());
    for extra in [
        json!({"jwk": attacker.rsa_jwk()}),
        json!({"jku": "https://attacker.test/keys"}),
        json!({"x5u": "https://attacker.test/cert"}),
        json!({"x5c": ["MIIB"]}),
    ] {
        let mut header = extra;
        header["alg"] = json!("RS256");
        header["kid"] = json!("r");
        let token = attacker.token_of("RS256", &header.to_string(), "{}");
        assert_eq!(verify(&token, &issuer.keys(), all()), Err(Refusal::Signature));
    }
}

#[test]
fn what_the_header_demands_and_nobody_understands_is_refused() {
    let issuer = Issuer::new();
    for header in [
        r#"{"alg":"RS256","kid":"r","crit":["exp"],"exp":1}"#,
        r#"{"alg":"RS256","kid":"r","crit":[]}"#,
        r#"{"alg":"RS256","kid":"r","b64":false,"crit":["b64"]}"#,
        r#"{"alg":"RS256","kid":"r","b64":true}"#,
        r#"{"alg":"RS256","kid":"r","zip":"DEF"}"#,
        r#"{"alg":"RS256","kid":"r","enc":"A128GCM"}"#,
        r#"{"alg":"RS256","kid":"r","cty":"JWT"}"#,
        r#"{"alg":"RS256","kid":"r","kid":"r"}"#,
        r#"{"alg":"none","alg":"RS256","kid":"r"}"#,
    ] {
        assert!(is_malformed(&verify(&issuer.token_of("RS256", header, "{}"), &issuer.keys(), all())), "{header}");
    }
    let twice = issuer.token_of("RS256", r#"{"alg":"RS256","kid":"r"}"#, r#"{"sub":"a","sub":"b"}"#);
    assert!(is_malformed(&verify(&twice, &issuer.keys(), all())));
}

#[test]
fn only_the_strict_compact_form_is_read() {
    let issuer = Issuer::new();
    let good = issuer.token("ES256", "e");
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let json_form = json!({"protected": header, "payload": payload, "signature": signature}).to_string();
    let hostile = [
        format!("{header}.{payload}"),
        format!("{good}."),
        format!("{good}.{payload}"),
        format!("{good}.{payload}.{signature}"),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}.{payload}.{signature}="),
        format!("{header}.{payload}.{signature}\n"),
        format!(" {good}"),
        good.replace(['-', '_'], "+"),
        json_form,
        "..".to_owned(),
        String::new(),
        format!("{header}.{}.{signature}", "A".repeat(MOST_TOKEN)),
    ];
    for token in hostile.iter().filter(|token| **token != good) {
        assert!(is_malformed(&verify(token, &issuer.keys(), all())), "{token}");
    }
    let longer = format!("{header}.{payload}.{}", encode([0; 65]));
    assert_eq!(verify(&longer, &issuer.keys(), all()), Err(Refusal::Signature));
    // 64 bytes of signature end in a character with four bits that stand for nothing.
    let mut other = good.clone().into_bytes();
    let last = other.last_mut().expect("a character");
    *last += 1;
    assert!(is_malformed(&verify(&String::from_utf8(other).expect("text"), &issuer.keys(), all())));
}

#[test]
fn a_changed_token_is_refused() {
    let issuer = Issuer::new();
    for (algorithm, kid) in [("RS256", "r"), ("ES256", "e"), ("EdDSA", "d")] {
        let token = issuer.token(algorithm, kid);
        let other = issuer.token_of(algorithm, &json!({"alg": algorithm, "kid": kid}).to_string(), r#"{"sub":"8"}"#);
        let parts: Vec<&str> = token.split('.').chain(other.split('.')).collect();
        let mixed = format!("{}.{}.{}", parts[0], parts[4], parts[2]);
        assert_eq!(verify(&mixed, &issuer.keys(), all()), Err(Refusal::Signature));
        let unsigned = format!("{}.{}.", parts[0], parts[1]);
        assert_eq!(verify(&unsigned, &issuer.keys(), all()), Err(Refusal::Signature));
        let null = format!("{}.{}.{}", parts[0], parts[1], encode([0; 64]));
        assert_eq!(verify(&null, &issuer.keys(), all()), Err(Refusal::Signature));
    }
}

#[test]
fn a_short_secret_is_good_for_no_algorithm_that_needs_a_longer_one() {
    assert!(KeySet::shared(&[7; 31]).keys().is_empty());
    let found: Vec<_> = KeySet::shared(&[7; 48]).keys()[0].algorithms().collect();
    assert_eq!(found, [Algorithm::HS256, Algorithm::HS384]);
}

fn expectations() -> Expectations {
    Expectations {
        issuer: Some("https://login.test".into()),
        audiences: Some(vec!["shop".into(), "cart".into()]),
        parties: Vec::new(),
        kinds: Vec::new(),
        leeway: Duration::from_secs(30),
        max_age: None,
        expiry: Expiry::Required,
        required: Vec::new(),
    }
}

/// What is said of claims that are good but for these, at 1000 s.
fn judged(expectations: &Expectations, changes: &Value) -> Result<Validity, String> {
    let mut claims = json!({"iss": "https://login.test", "aud": "shop", "exp": 2000});
    for (name, value) in changes.as_object().expect("changes") {
        claims[name] = value.clone();
    }
    let Value::Object(mut claims) = claims else { panic!("an object") };
    claims.retain(|_, value| *value != json!("REMOVED"));
    expectations.check(&claims, Duration::from_secs(1000)).map_err(|refusal| refusal.why().into_owned())
}

#[test]
fn claims_are_held_against_what_is_expected() {
    let rules = expectations();
    let until = Some(Duration::from_secs(2030));
    assert_eq!(judged(&rules, &json!({})), Ok(Validity { until }));
    for good in
        [json!({"aud": ["x", "cart"]}), json!({"exp": 970.5}), json!({"exp": 971}), json!({"nbf": 1030, "iat": 1030})]
    {
        assert!(judged(&rules, &good).is_ok(), "{good}");
    }
    for (bad, why) in [
        (json!({"iss": "https://login.test/"}), "`iss`"),
        (json!({"iss": "REMOVED"}), "`iss`"),
        (json!({"iss": ["https://login.test"]}), "`iss`"),
        (json!({"aud": "REMOVED"}), "`aud`"),
        (json!({"aud": "SHOP"}), "`aud`"),
        (json!({"aud": "shop cart"}), "`aud`"),
        (json!({"aud": []}), "`aud`"),
        (json!({"aud": ["shop", 7]}), "`aud`"),
        (json!({"aud": {"shop": true}}), "`aud`"),
        (json!({"exp": "REMOVED"}), "`exp`"),
        (json!({"exp": 970}), "`exp`"),
        (json!({"exp": "2000"}), "`exp`"),
        (json!({"exp": -1}), "`exp`"),
        (json!({"exp": 1e300}), "`exp`"),
        (json!({"exp": u64::MAX}), "`exp`"),
        (json!({"exp": null}), "`exp`"),
        (json!({"nbf": 1031}), "`nbf`"),
        (json!({"iat": 1031}), "`iat`"),
        (json!({"iat": true}), "`iat`"),
    ] {
        let refused = judged(&rules, &bad).expect_err("a refusal");
        assert!(refused.contains(why), "{bad}: {refused}");
    }
}

#[test]
fn more_may_be_asked_of_a_token() {
    let mut rules = Expectations { max_age: Some(Duration::from_secs(100)), ..expectations() };
    assert!(judged(&rules, &json!({})).is_err());
    assert!(judged(&rules, &json!({"iat": 870})).is_err());
    assert_eq!(judged(&rules, &json!({"iat": 871})), Ok(Validity { until: Some(Duration::from_secs(1001)) }));
    rules.max_age = None;
    rules.parties = vec!["web".into()];
    assert!(judged(&rules, &json!({})).is_err());
    assert!(judged(&rules, &json!({"azp": "web"})).is_ok());
    rules.parties.clear();
    let wanted = |path: &str, values: &[&str]| WantedClaim {
        path: path.into(),
        values: values.iter().map(|value| Box::from(*value)).collect(),
    };
    rules.required =
        vec![wanted("realm.roles", &["admin", "clerk"]), wanted("email", &[]), wanted("checked", &["true"])];
    let good = json!({"realm": {"roles": ["x", "clerk"]}, "email": "a@a.test", "checked": true});
    assert!(judged(&rules, &good).is_ok());
    for bad in [json!({"realm": {"roles": ["x"]}}), json!({"email": null}), json!({"checked": false})] {
        let mut claims = good.clone();
        for (name, value) in bad.as_object().expect("changes") {
            claims[name] = value.clone();
        }
        assert!(judged(&rules, &claims).is_err(), "{bad}");
    }
    rules.expiry = Expiry::Optional;
    rules.required.clear();
    assert_eq!(judged(&rules, &json!({"exp": "REMOVED"})), Ok(Validity { until: None }));
}

#[test]
fn a_token_of_another_kind_was_made_for_something_else() {
    let mut rules = expectations();
    for kind in [None, Some("jwt"), Some("at+jwt")] {
        assert!(rules.check_kind(kind).is_ok());
    }
    for kind in ["logout+jwt", "dpop+jwt", "id", ""] {
        assert!(rules.check_kind(Some(kind)).is_err(), "{kind}");
    }
    rules.kinds = vec!["at+jwt".into()];
    assert!(rules.check_kind(Some("at+jwt")).is_ok());
    assert!(rules.check_kind(Some("jwt")).is_err());
    assert!(rules.check_kind(None).is_err());
    let issuer = Issuer::new();
    let token = issuer.token_of("ES256", r#"{"alg":"ES256","typ":"Application/AT+JWT"}"#, "{}");
    assert_eq!(Token::parse(token.as_bytes()).expect("a token").kind(), Some("at+jwt"));
}

#[test]
fn names_are_words_or_a_list() {
    let Value::Object(claims) = json!({"scope": "a  b", "scp": ["c d", 7], "n": 1}) else { panic!("an object") };
    assert_eq!(names(&claims, "scope"), ["a".into(), "b".into()]);
    assert_eq!(names(&claims, "scp"), ["c d".into()]);
    assert!(names(&claims, "n").is_empty() && names(&claims, "none").is_empty());
}

/// Project Wycheproof's cases, in the directory that `TRANSEPT_VECTORS` names.
#[test]
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn the_public_vectors_are_judged_as_they_say() {
    let Some(directory) = std::env::var_os("TRANSEPT_VECTORS") else {
        eprintln!("skipped: TRANSEPT_VECTORS names no directory with vectors");
        return;
    };
    let file = std::path::Path::new(&directory).join("wycheproof_json_web_signature_test.json");
    let text = std::fs::read(file).expect("the vectors");
    // Called valid, and refused here. 346 and 350: the key is for PS256 and the token says PS384. 347 and 351: the key is for `ES521`,
    // which no registry has. 372 and 373: a character that is no base64url, which lenient decoders drop (not so RFC 7515 section 2).
    const STRICTER: [u64; 6] = [346, 347, 350, 351, 372, 373];
    // Called invalid for their padding, which they do not have: byte for byte they are case 357, which is valid.
    const SAME_AS_357: [u64; 2] = [367, 370];
    let file: Value = serde_json::from_slice(&text).expect("JSON");
    let mut count = 0;
    for group in file["testGroups"].as_array().expect("groups") {
        let key = if group["public"].is_object() { &group["public"] } else { &group["private"] };
        let keys = if key["kty"] == "oct" { shared_key(key) } else { set(json!([key])).unwrap_or_default() };
        for test in group["tests"].as_array().expect("tests") {
            let id = test["tcId"].as_u64().expect("a number");
            let token = test["jws"].as_str().map_or_else(|| test["jws"].to_string(), str::to_owned);
            let is_good = Token::parse(token.as_bytes()).is_ok_and(|parsed| parsed.verify(&keys, all()).is_ok());
            let should_be = SAME_AS_357.contains(&id) || (test["result"] == "valid" && !STRICTER.contains(&id));
            assert_eq!(is_good, should_be, "case {id}, {}", test["comment"]);
            count += 1;
        }
    }
    assert_eq!(count, 401);
}

fn shared_key(jwk: &Value) -> KeySet {
    let secret = BASE64URL_NOPAD.decode(jwk["k"].as_str().expect("a secret").as_bytes()).expect("base64url");
    let mut keys: Vec<Key> = Key::shared(&secret, jwk["kid"].as_str()).into_iter().collect();
    keys.retain(|key| key.algorithms().any(|one| jwk["alg"] == one.as_str()));
    KeySet::of(keys)
}
