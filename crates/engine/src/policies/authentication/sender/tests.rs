//! Tokens that are bound to a certificate or a key, and everything by which somebody else might use them.

use std::net::SocketAddr;

use serde_json::json;

use super::super::jwt::JwtScheme;
use super::super::nonces::spent;
use super::super::scheme::Scheme;
use super::super::tests::{compile_scheme, compile_with};
use super::*;
use crate::exchange::{ClientCertificate, Connection, Notes, Now, TlsFacts};
use crate::jose::tests::Issuer;
use crate::keep::Keep;

const NOW: u64 = 1_800_000_000;
/// Before the tokens.
const CERTIFICATE_ENDS: Duration = Duration::from_secs(NOW + 500);
const SECRETS: &str = "\
{apiVersion: v1, kind: Secret, metadata: {name: nonces}, stringData: {key: 0123456789abcdef0123456789abcdef, other: fedcba9876543210fedcba9876543210, short: abc}}
";

/// An issuer of tokens, a client with a key, and a scheme.
struct Stage {
    issuer: Issuer,
    client: Issuer,
    scheme: JwtScheme,
}

impl Stage {
    fn new(more: &str) -> Stage {
        Stage::with(Issuer::new(), more)
    }

    fn with(issuer: Issuer, more: &str) -> Stage {
        Stage::among(issuer, more, &Keep::default())
    }

    /// Beside others, with what they remember.
    fn among(issuer: Issuer, more: &str, keep: &Keep) -> Stage {
        let keys = json!({"keys": [issuer.ec_jwk()]});
        let spec = format!("{{issuer: i, anyAudience: true, keys: {{inline: '{keys}'}}{more}}}\n");
        let (scheme, problems) = compile_with("test", &spec, SECRETS, keep);
        assert!(problems.is_empty(), "{problems:?}");
        Stage { issuer, client: Issuer::new(), scheme: scheme.expect("a scheme") }
    }

    /// A token that is bound so.
    fn token(&self, bound: &Value) -> String {
        let mut claims = json!({"iss": "i", "sub": "7", "exp": NOW + 1000, "jti": "t"});
        if !bound.is_null() {
            claims["cnf"] = bound.clone();
        }
        self.issuer.token_of("ES256", &json!({"alg": "ES256", "kid": "e"}).to_string(), &claims.to_string())
    }

    /// One that is bound to the client's key.
    fn bound(&self) -> String {
        self.token(&json!({ "jkt": thumbprint(&self.client) }))
    }

    /// The client's proof for `GET https://a.test/x` with these changes; null takes a claim away.
    fn proof(&self, token: &str, changes: &Value) -> String {
        let ath = BASE64URL_NOPAD.encode(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        let mut claims = json!({"jti": "p1", "htm": "GET", "htu": "https://a.test/x", "iat": NOW, "ath": ath});
        for (name, value) in changes.as_object().expect("changes") {
            claims[name] = value.clone();
        }
        let header = json!({"alg": "ES256", "typ": "dpop+jwt", "jwk": self.client.ec_jwk()});
        self.client.token_of("ES256", &header.to_string(), &claims.to_string())
    }

    fn ask(&self, fields: &[(&str, &str)], certificate: Option<&[u8]>) -> Result<(), String> {
        self.ask_at(NOW, fields, certificate)
    }

    fn ask_at(&self, now: u64, fields: &[(&str, &str)], certificate: Option<&[u8]>) -> Result<(), String> {
        self.let_in_at(now, fields, certificate).map(|_| ())
    }

    /// Until when what the request opens may last.
    fn let_in_at(
        &self,
        now: u64,
        fields: &[(&str, &str)],
        certificate: Option<&[u8]>,
    ) -> Result<Option<Duration>, String> {
        let mut request = Request::build("GET", "https", "a.test", "/x?q=1").expect("a request");
        for (name, value) in fields {
            request.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
        }
        let address: SocketAddr = "127.0.0.1:443".parse().expect("an address");
        let shown = |der: &[u8]| ClientCertificate { leaf: der.to_vec().into(), until: CERTIFICATE_ENDS };
        let tls = TlsFacts { client_certificate: certificate.map(shown), ..TlsFacts::default() };
        let mut x = Exchange {
            now: Now { monotonic: Duration::from_secs(5), unix: Duration::from_secs(now) },
            random: 1,
            connection: &Connection::new(address, address, Some(tls)),
            client: address.ip(),
            listener_port: 443,
            request: &mut request,
            notes: &mut Notes::new(),
        };
        assert!(self.scheme.presents(&x));
        let proof = self.scheme.authenticate(&mut x);
        let proof = spent(proof, x.now.unix);
        self.scheme.strip(&mut request);
        match proof {
            Proof::Valid(principal) => {
                let left: Vec<_> = request.fields.iter().map(|(name, _)| name.bytes.to_ascii_lowercase()).collect();
                assert!(!left.contains(&b"authorization".to_vec()) && !left.contains(&b"dpop".to_vec()));
                Ok(principal.until)
            }
            Proof::Invalid(why) => Err(why.into()),
            Proof::Answer(reply) => {
                let nonce = reply.fields.iter().find(|(name, _)| name.as_str().eq_ignore_ascii_case("dpop-nonce"));
                assert!(reply.fields.iter().any(|(_, value)| value.starts_with(b"DPoP error=\"use_dpop_nonce\"")));
                Err(String::from_utf8(nonce.expect("a nonce").1.clone()).expect("text"))
            }
            other => panic!("{other:?}"),
        }
    }

    fn show(&self, word: &str, token: &str, proofs: &[&str]) -> Result<(), String> {
        let shown = format!("{word} {token}");
        let mut fields = vec![("Authorization", shown.as_str())];
        fields.extend(proofs.iter().map(|proof| ("DPoP", *proof)));
        self.ask(&fields, None)
    }
}

/// RFC 7638, written another way.
fn thumbprint(client: &Issuer) -> String {
    let jwk = client.ec_jwk();
    let text = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]);
    BASE64URL_NOPAD.encode(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

#[test]
fn a_token_that_is_bound_to_a_key_is_good_with_a_proof_of_it_and_each_proof_once() {
    let stage = Stage::new("");
    let token = stage.bound();
    let proof = stage.proof(&token, &json!({}));
    assert_eq!(stage.show("DPoP", &token, &[&proof]), Ok(()));
    assert_eq!(stage.show("DPoP", &token, &[&proof]).expect_err("again"), "the proof was seen before");
    let another = stage.proof(&token, &json!({"jti": "p2", "htu": "HTTPS://A.test:443/x?q=2#f"}));
    // The scheme of a URL is written in lower case here, whatever RFC 3986 allows.
    assert!(stage.show("DPoP", &token, &[&another]).is_err());
    let another = stage.proof(&token, &json!({"jti": "p2", "htu": "https://A.test:443/x?q=2#f"}));
    assert_eq!(stage.show("dpop", &token, &[&another]), Ok(()));
    // RFC 9449 section 4.3: as RFC 3986 compares URLs.
    for (number, spelling) in ["https://a.test/%78", "https://a.test/y/../x", "https://a.test/./x"].iter().enumerate() {
        let another = stage.proof(&token, &json!({"jti": format!("s{number}"), "htu": spelling}));
        assert_eq!(stage.show("DPoP", &token, &[&another]), Ok(()), "{spelling}");
    }
    assert_eq!(stage.show("Bearer", &stage.token(&Value::Null), &[]), Ok(()), "another is a bearer token");
}

#[test]
fn a_stolen_token_or_proof_is_no_good() {
    let stage = Stage::new("");
    let token = stage.bound();
    let good = stage.proof(&token, &json!({}));
    let shown = |word: &str, proofs: &[&str]| stage.show(word, &token, proofs).expect_err("refused");
    assert!(shown("Bearer", &[]).contains("as a bearer token"));
    assert!(shown("Bearer", &[&good]).contains("as a bearer token"));
    assert!(shown("DPoP", &[]).contains("not exactly one proof"));
    assert!(shown("DPoP", &[&good, &good]).contains("not exactly one proof"));
    assert!(shown("DPoP", &["a.b.c"]).contains("base64url"));
    for (changes, why) in [
        (json!({"htm": "POST"}), "another method"),
        (json!({"htm": "get"}), "another method"),
        (json!({"htu": "https://a.test/y"}), "another URL"),
        (json!({"htu": "https://b.test/x"}), "another URL"),
        (json!({"htu": "http://a.test/x"}), "another URL"),
        (json!({"htu": "https://a.test:444/x"}), "another URL"),
        (json!({"htu": "https://a.test@b.test/x"}), "another URL"),
        (json!({"htu": "/x"}), "another URL"),
        (json!({"ath": "x"}), "another token"),
        (json!({"iat": NOW - 60}), "too long ago"),
        (json!({"iat": NOW + 31}), "in the future"),
        (json!({"iat": "now"}), "does not say when"),
        (json!({"jti": null}), "no `jti`"),
        (json!({"jti": ""}), "no `jti`"),
        (json!({"jti": "x".repeat(257)}), "longer than 256"),
        (json!({"htm": null}), "no `htm`"),
        (json!({"htu": null}), "no `htu`"),
        (json!({"ath": null}), "no `ath`"),
    ] {
        let said = shown("DPoP", &[&stage.proof(&token, &changes)]);
        assert!(said.contains(why), "{changes}: {said}");
    }
    let thief = Stage { client: Issuer::new(), ..stage };
    let said = thief.show("DPoP", &token, &[&thief.proof(&token, &json!({}))]).expect_err("refused");
    assert!(said.contains("another key"), "{said}");
    assert_eq!(thief.show("DPoP", &token, &[&good]), Ok(()), "nothing of this has spent the proof");
}

#[test]
fn a_proof_is_what_it_says_and_nothing_else() {
    let stage = Stage::new("");
    let token = stage.bound();
    let claims = json!({"jti": "p", "htm": "GET", "htu": "https://a.test/x", "iat": NOW}).to_string();
    let mut private = stage.client.ec_jwk();
    private["d"] = json!("AQAB");
    let shared = json!({"kty": "oct", "k": "AAAA"});
    for (header, algorithm, why) in [
        (json!({"alg": "ES256", "typ": "JWT", "jwk": stage.client.ec_jwk()}), "ES256", "`typ`"),
        (json!({"alg": "ES256", "jwk": stage.client.ec_jwk()}), "ES256", "`typ`"),
        (json!({"alg": "ES256", "typ": "dpop+jwt"}), "ES256", "no key"),
        (json!({"alg": "ES256", "typ": "dpop+jwt", "jwk": private}), "ES256", "private half"),
        (json!({"alg": "HS256", "typ": "dpop+jwt", "jwk": shared}), "HS256", "shared secret"),
        (json!({"alg": "HS256", "typ": "dpop+jwt", "jwk": stage.client.ec_jwk()}), "HS256", "algorithm"),
        (json!({"alg": "RS256", "typ": "dpop+jwt", "jwk": stage.client.ec_jwk()}), "RS256", "algorithm"),
        (json!({"alg": "none", "typ": "dpop+jwt", "jwk": stage.client.ec_jwk()}), "ES256", "algorithm"),
        (json!({"alg": "ES256", "typ": "dpop+jwt", "jwk": Issuer::new().ec_jwk()}), "ES256", "signature"),
        (json!({"alg": "ES256", "typ": "dpop+jwt", "jwk": stage.client.ec_jwk(), "crit": ["x"]}), "ES256", "extension"),
    ] {
        let proof = stage.client.token_of(algorithm, &header.to_string(), &claims);
        let said = stage.show("DPoP", &token, &[&proof]).expect_err("refused");
        assert!(said.contains(why), "{header}: {said}");
    }
}

#[test]
fn a_token_that_is_bound_to_a_certificate_is_good_over_that_connection() {
    let stage = Stage::new("");
    let print = BASE64URL_NOPAD.encode(digest::digest(&digest::SHA256, b"leaf").as_ref());
    let token = format!("Bearer {}", stage.token(&json!({ "x5t#S256": print })));
    let ask = |certificate| stage.ask(&[("Authorization", &token)], certificate);
    assert_eq!(ask(Some(b"leaf")), Ok(()));
    assert!(ask(Some(b"other")).expect_err("refused").contains("another certificate"));
    assert!(ask(None).expect_err("refused").contains("has shown none"));
    // It is no better than the certificate, remembered or not.
    let at = |now| stage.let_in_at(now, &[("Authorization", &token)], Some(b"leaf"));
    assert_eq!(at(NOW + 499), Ok(Some(CERTIFICATE_ENDS)));
    assert!(at(NOW + 500).expect_err("refused").contains("has ended"));
    let both = json!({"x5t#S256": print, "jkt": thumbprint(&stage.client)});
    let token = stage.token(&both);
    let (shown, proof) = (format!("DPoP {token}"), stage.proof(&token, &json!({})));
    assert!(stage.ask(&[("Authorization", &shown), ("DPoP", &proof)], None).is_err());
    assert_eq!(stage.ask(&[("Authorization", &shown), ("DPoP", &proof)], Some(b"leaf")), Ok(()));
}

#[test]
fn a_binding_that_is_not_understood_binds() {
    let stage = Stage::new("");
    for bound in
        [json!({"kid": "x"}), json!({"jkt": "x", "jwk": {}}), json!({}), json!("x"), json!({"jkt": 7}), json!([])]
    {
        let token = stage.token(&bound);
        for word in ["Bearer", "DPoP"] {
            assert!(stage.show(word, &token, &[]).is_err(), "{bound}");
        }
    }
    let anybody = Stage::new(", sender: Anybody");
    let token = anybody.token(&json!({"kid": "x"}));
    assert_eq!(anybody.show("Bearer", &token, &[]), Ok(()));
}

#[test]
fn a_binding_may_be_required() {
    let print = BASE64URL_NOPAD.encode(digest::digest(&digest::SHA256, b"leaf").as_ref());
    for (sender, certificate, key) in [("Required", true, true), ("Certificate", true, false), ("Proof", false, true)] {
        let stage = Stage::new(&format!(", sender: {sender}"));
        let bearer = stage.show("Bearer", &stage.token(&Value::Null), &[]).expect_err("refused");
        assert!(bearer.contains("not bound"), "{bearer}");
        let by_certificate = format!("Bearer {}", stage.token(&json!({ "x5t#S256": print })));
        assert_eq!(stage.ask(&[("Authorization", &by_certificate)], Some(b"leaf")).is_ok(), certificate, "{sender}");
        let token = stage.bound();
        assert_eq!(stage.show("DPoP", &token, &[&stage.proof(&token, &json!({}))]).is_ok(), key, "{sender}");
    }
    let challenge = Stage::new(", sender: Proof").scheme.challenge("r", &Fault::Invalid);
    assert!(challenge.starts_with("DPoP realm=\"r\", error=\"invalid_token\", algs=\"RS256 "), "{challenge}");
    assert!(!challenge.contains("HS256"), "{challenge}");
}

#[test]
fn a_token_is_good_once_where_that_is_asked_for() {
    let stage = Stage::new(", once: true");
    let token = stage.token(&Value::Null);
    assert_eq!(stage.show("Bearer", &token, &[]), Ok(()));
    assert_eq!(stage.show("Bearer", &token, &[]).expect_err("again"), "the token was seen before");
    let mut claims = json!({"iss": "i", "sub": "7", "exp": NOW + 1000});
    let header = json!({"alg": "ES256", "kid": "e"}).to_string();
    let nameless = stage.issuer.token_of("ES256", &header, &claims.to_string());
    assert!(stage.show("Bearer", &nameless, &[]).expect_err("refused").contains("no `jti`"));
    claims["jti"] = json!("other");
    assert_eq!(stage.show("Bearer", &stage.issuer.token_of("ES256", &header, &claims.to_string()), &[]), Ok(()));
    // Whoever takes tokens of these keys sees that one was used, and nobody else who calls his issuer so and counts alike.
    let keep = Keep::default();
    let two = [(); 2].map(|()| Stage::among(Issuer::new(), ", once: true", &keep));
    let tokens = two.each_ref().map(|stage| stage.token(&Value::Null));
    for (stage, token) in two.iter().zip(&tokens) {
        assert_eq!(stage.show("Bearer", token, &[]), Ok(()));
    }
    let [first, _] = two;
    let again = Stage::among(first.issuer, ", once: true, leeway: 7s", &keep);
    assert_eq!(again.show("Bearer", &tokens[0], &[]).expect_err("again"), "the token was seen before");
    let spec = "{issuer: 'https://a.test', anyAudience: true, once: true, expiry: false}\n";
    let (_, problems) = compile_scheme::<JwtScheme>(spec, "");
    assert!(problems.iter().any(|problem| problem.contains("remembered for ever")), "{problems:?}");
}

#[test]
fn a_proof_must_hold_a_nonce_where_that_is_asked_for() {
    let with = |entry: &str| format!(", proofNonces: {{name: nonces, key: {entry}}}");
    let stage = Stage::new(&with("key"));
    let token = stage.bound();
    let shown = format!("DPoP {token}");
    let ask = |stage: &Stage, now: u64, changes: &Value| {
        let mut changes = changes.clone();
        changes["iat"] = now.into();
        let proof = stage.proof(&token, &changes);
        stage.ask_at(now, &[("Authorization", &shown), ("DPoP", &proof)], None)
    };
    let nonce = ask(&stage, NOW, &json!({})).expect_err("a nonce");
    assert_eq!(nonce.len(), 22);
    assert_eq!(ask(&stage, NOW, &json!({ "nonce": nonce })), Ok(()), "that it was asked for has not spent the proof");
    for wrong in [json!("made-up"), json!(""), json!(7), json!(format!("{nonce}x"))] {
        assert_eq!(ask(&stage, NOW, &json!({"nonce": wrong, "jti": "p2"})).expect_err("refused"), nonce, "{wrong}");
    }
    // It is good for some minutes, and another one is given out then.
    for (seconds, is_good) in [(149, true), (299, true), (301, false)] {
        let jti = format!("at {seconds}");
        let outcome = ask(&stage, NOW / 150 * 150 + seconds, &json!({"nonce": nonce, "jti": jti}));
        assert_eq!(outcome.is_ok(), is_good, "{seconds}: {outcome:?}");
    }
    assert_ne!(ask(&stage, NOW + 301, &json!({"jti": "p4"})).expect_err("another"), nonce);
    // Another gateway with the same secret knows it; one with another does not.
    let Stage { issuer, client, .. } = stage;
    let again = Stage { client, ..Stage::with(issuer, &with("key")) };
    assert_eq!(ask(&again, NOW, &json!({ "nonce": nonce })), Ok(()));
    let Stage { issuer, client, .. } = again;
    let other = Stage { client, ..Stage::with(issuer, &with("other")) };
    assert!(ask(&other, NOW, &json!({ "nonce": nonce })).is_err_and(|given| given != nonce));
    // Whoever has no bound token needs none; a proof that is no good otherwise is not asked for one.
    assert_eq!(other.show("Bearer", &other.token(&Value::Null), &[]), Ok(()));
    assert!(ask(&other, NOW, &json!({"htm": "POST"})).expect_err("refused").contains("another method"));
    let spec = |more: &str| format!("{{issuer: 'https://a.test', anyAudience: true{more}}}\n");
    for (more, why) in [
        (with("short"), "fewer than 32 bytes"),
        (with("key") + ", sender: Certificate", "mean nothing"),
        (with("key") + ", sender: Anybody", "mean nothing"),
    ] {
        let (_, problems) = compile_scheme::<JwtScheme>(&spec(&more), SECRETS);
        assert!(problems.iter().any(|problem| problem.contains(why)), "{more}: {problems:?}");
    }
}
