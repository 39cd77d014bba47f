//! Signatures of the reference (RFC 9421 appendix B.2), signatures made here, and everything that makes one no good.

use std::net::SocketAddr;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::BASE64;

use super::super::nonces::spent;
use super::super::tests::{compile_scheme, compile_with};
use super::*;
use crate::callout::Callout;
use crate::exchange::{Connection, Notes, Now};
use crate::keep::Keep;

const ED25519_PEM: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----
";

const OBJECTS: &str = "\
{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {name: partner}, spec: {groups: [partners]}}
---
{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {name: gone}, spec: {suspended: true}}
---
apiVersion: v1
kind: Secret
metadata: {name: signing}
stringData:
  shared: a secret of enough bytes
  late: another secret of enough bytes
  short: tooshort
  public: |
    -----BEGIN PUBLIC KEY-----
    MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
    -----END PUBLIC KEY-----
";

const KEYS: &str = "keys: [{id: one, algorithm: hmac-sha256, key: {name: signing, key: shared}, consumer: partner}, \
     {id: late, algorithm: hmac-sha256, key: {name: signing, key: late}, consumer: gone}]";

const NOW: u64 = 1_800_000_000;

fn compiled(spec: &str) -> (Option<SignatureScheme>, Vec<String>) {
    compile_scheme(spec, OBJECTS)
}

fn scheme(more: &str) -> SignatureScheme {
    let (scheme, problems) = compiled(&format!("{{{KEYS}{more}}}\n"));
    assert!(problems.is_empty(), "{problems:?}");
    scheme.expect("a scheme")
}

fn with<T>(request: &mut Request, work: impl FnOnce(&mut Exchange<'_>) -> T) -> T {
    let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
    work(&mut Exchange {
        now: Now { monotonic: Duration::from_secs(5), unix: Duration::from_secs(NOW) },
        random: 1,
        connection: &Connection::new(address, address, None),
        client: address.ip(),
        listener_port: 80,
        request,
        notes: &mut Notes::new(),
    })
}

fn push(request: &mut Request, name: &str, value: &str) {
    request.fields.push(&FieldName::new(name).expect("a name"), value.as_bytes()).expect("a value");
}

fn unsigned() -> Request {
    let mut request = Request::build("POST", "http", "a.test", "/orders?x=1").expect("a request");
    push(&mut request, "Content-Digest", "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:");
    push(&mut request, "X-Amount", "100");
    request
}

/// Signs as a client does.
fn sign(request: &mut Request, inner: &str, secret: &str) {
    let members = dictionary(format!("sig={inner}").as_bytes()).expect("a dictionary");
    let (_, Member::List(items, parameters)) = &members[0] else { panic!("a list") };
    let base = base(request, "http", items, parameters).expect("a base");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), &base);
    push(request, "Signature-Input", &format!("sig={inner}"));
    push(request, "Signature", &format!("sig=:{}:", BASE64.encode(signature.as_ref())));
}

const COVERED: &str = r#"("@method" "@authority" "@path" "@query" "content-digest")"#;
const SECRET: &str = "a secret of enough bytes";

/// What the scheme says of a request with this content.
fn proof(scheme: &SignatureScheme, request: &mut Request, content: &[u8]) -> Result<Arc<Principal>, String> {
    with(request, |x| {
        let mut proof = scheme.authenticate(x);
        if let Proof::Ask(callout, between) = proof {
            let Callout::Body { most } = *callout else { panic!("something else is asked for") };
            let result =
                if content.len() <= most { CalloutResult::Body(content.into()) } else { CalloutResult::BodyTooLarge };
            proof = scheme.resume(x, between, result);
        }
        match spent(proof, x.now.unix) {
            Proof::Valid(principal) => Ok(principal),
            Proof::Invalid(why) | Proof::Unavailable(why) => Err(why.into()),
            other => panic!("{other:?}"),
        }
    })
}

const CONTENT: &[u8] = br#"{"hello": "world"}"#;

#[test]
fn signatures_of_the_reference_are_good() {
    let mut request = Request::build("POST", "https", "example.com", "/foo?param=Value&Pet=dog").expect("a request");
    push(&mut request, "Date", "Tue, 20 Apr 2021 02:07:55 GMT");
    push(&mut request, "Content-Type", "application/json");
    push(&mut request, "Content-Length", "18");
    let base_of = |input: &str| {
        let members = dictionary(format!("s={input}").as_bytes()).expect("a dictionary");
        let (_, Member::List(items, parameters)) = &members[0] else { panic!("a list") };
        base(&request, "https", items, parameters).expect("a base")
    };
    // B.2.6
    let base = base_of(
        r#"("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519""#,
    );
    let signature = BASE64
        .decode(b"wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==")
        .expect("base64");
    let Ok(key) = verifier(SignatureAlgorithm::Ed25519, ED25519_PEM.as_bytes()) else { panic!("a key") };
    assert!(key.is_good(&base, &signature) && !key.is_good(&base[1..], &signature));
    // B.2.5
    let base = base_of(r#"("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret""#);
    let secret = BASE64
        .decode(b"uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==")
        .expect("base64");
    let signature = BASE64.decode(b"pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=").expect("base64");
    assert!(Verifier::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, &secret))).is_good(&base, &signature));
}

#[test]
fn who_signs_is_the_consumer_of_the_key() {
    let scheme = scheme("");
    let mut request = unsigned();
    sign(&mut request, &format!("{COVERED};created={NOW};keyid=\"one\";alg=\"hmac-sha256\""), SECRET);
    let principal = proof(&scheme, &mut request, CONTENT).expect("a principal");
    assert_eq!((&*principal.id, principal.credential.as_deref()), ("default/partner", Some("one")));
    assert_eq!(&*principal.groups[0], "partners");
    scheme.strip(&mut request);
    assert!(
        request.fields.first_named(&scheme.input).is_none() && request.fields.first_named(&scheme.signature).is_none()
    );
}

#[test]
fn what_was_changed_after_it_was_signed_is_refused() {
    let scheme = scheme("");
    let signed = || {
        let mut request = unsigned();
        sign(&mut request, &format!("{COVERED};created={NOW};keyid=\"one\""), SECRET);
        request
    };
    assert!(proof(&scheme, &mut signed(), CONTENT).is_ok());
    assert_eq!(
        proof(&scheme, &mut signed(), b"{}").expect_err("refused"),
        "the content is not the one whose digest was signed"
    );
    let mut moved = signed();
    moved.set_query(Some(b"x=2")).expect("a query");
    assert_eq!(proof(&scheme, &mut moved, CONTENT).expect_err("refused"), "the signature is wrong");
    let mut other = signed();
    other.method = transept_wire::head::Method::Get;
    assert_eq!(proof(&scheme, &mut other, CONTENT).expect_err("refused"), "the signature is wrong");
    let mut forged = unsigned();
    sign(&mut forged, &format!("{COVERED};created={NOW};keyid=\"one\""), "another secret, just as long");
    assert_eq!(proof(&scheme, &mut forged, CONTENT).expect_err("refused"), "the signature is wrong");
}

#[test]
fn a_signature_says_when_and_by_whom_it_was_made_and_covers_what_it_must() {
    let scheme = scheme("");
    let old = NOW - 300;
    let ahead = NOW + 31;
    for (inner, why) in [
        (format!("{COVERED};keyid=\"one\""), "it does not say when it was made"),
        (format!("{COVERED};created={old};keyid=\"one\""), "it has ended"),
        (format!("{COVERED};created={NOW};expires={NOW};keyid=\"one\""), "it has ended"),
        (format!("{COVERED};created={ahead};keyid=\"one\""), "it was made in the future"),
        (format!("{COVERED};created={NOW};keyid=\"two\""), "no signature has a key that is known here"),
        (format!("{COVERED};created={NOW}"), "no signature has a key that is known here"),
        (format!("{COVERED};created={NOW};keyid=\"late\""), "the key belongs to a Consumer that is suspended"),
        (
            format!("{COVERED};created={NOW};keyid=\"one\";alg=\"ed25519\""),
            "it names another algorithm than that of its key",
        ),
        (format!("(\"@method\" \"@authority\" \"@path\");created={NOW};keyid=\"one\""), "it does not cover @query"),
        (
            format!("(\"@method\" \"@target-uri\");created={NOW};keyid=\"one\""),
            "the signature does not cover content-digest",
        ),
    ] {
        let mut request = unsigned();
        sign(&mut request, &inner, SECRET);
        assert_eq!(proof(&scheme, &mut request, CONTENT).expect_err("refused"), why, "{inner}");
    }
    let mut request = unsigned();
    sign(&mut request, &format!("(\"@method\" \"@target-uri\");created={NOW};keyid=\"one\""), SECRET);
    assert!(proof(&scheme, &mut request, b"").is_ok());
    for (input, signature) in
        [("sig=(", "sig=:AA==:"), ("sig=();keyid=\"one\"", "other=:AA==:"), ("a=1", "a=1"), ("x=(), x=()", "")]
    {
        let mut request = unsigned();
        push(&mut request, "Signature-Input", input);
        push(&mut request, "Signature", signature);
        assert!(proof(&scheme, &mut request, CONTENT).is_err(), "{input}");
    }
    assert!(matches!(with(&mut unsigned(), |x| scheme.authenticate(x)), Proof::Absent));
}

#[test]
fn a_nonce_is_good_once() {
    let scheme = scheme(", requireNonce: true, tag: shop");
    let signed = |more: &str| {
        let mut request = unsigned();
        sign(&mut request, &format!("{COVERED};created={NOW};keyid=\"one\"{more}"), SECRET);
        request
    };
    assert_eq!(proof(&scheme, &mut signed(";tag=\"shop\""), CONTENT).expect_err("refused"), "it has no nonce");
    let once = ";nonce=\"n1\";tag=\"shop\"";
    assert!(proof(&scheme, &mut signed(once), CONTENT).is_ok());
    assert_eq!(proof(&scheme, &mut signed(once), CONTENT).expect_err("refused"), "its nonce was seen before");
    assert!(proof(&scheme, &mut signed(";nonce=\"n2\";tag=\"shop\""), CONTENT).is_ok());
    assert!(proof(&scheme, &mut signed(";nonce=\"n3\";tag=\"bank\""), CONTENT).is_err());
}

#[test]
fn an_open_connection_ends_when_the_key_was_replaced() {
    let mut request = unsigned();
    sign(&mut request, &format!("{COVERED};created={NOW};keyid=\"one\""), SECRET);
    let principal = proof(&scheme(""), &mut request, CONTENT).expect("a principal");
    let stands = |objects: &str, spec: &str| {
        let (scheme, problems) = compile_scheme::<SignatureScheme>(spec, objects);
        let scheme = scheme.unwrap_or_else(|| panic!("{problems:?}"));
        with(&mut unsigned(), |x| scheme.stands(&principal, x).is_ok())
    };
    let spec = format!("{{{KEYS}}}\n");
    assert!(stands(OBJECTS, &spec));
    assert!(!stands(&OBJECTS.replace("a secret of enough bytes", "another of enough bytes"), &spec));
    assert!(!stands(
        OBJECTS,
        &spec.replace(
            "algorithm: hmac-sha256, key: {name: signing, key: shared}, consumer: partner",
            "algorithm: ed25519, key: {name: signing, key: public}, consumer: partner"
        )
    ));
    assert!(!stands(OBJECTS, &spec.replace("consumer: partner", "consumer: gone")));
}

#[test]
fn a_nonce_is_spent_by_a_good_request_only() {
    let scheme = scheme("");
    let signed = || {
        let mut request = unsigned();
        sign(&mut request, &format!("{COVERED};created={NOW};keyid=\"one\";nonce=\"n1\""), SECRET);
        request
    };
    // Somebody on the way sends the head again with another body, first.
    assert!(proof(&scheme, &mut signed(), b"{}").is_err());
    assert!(proof(&scheme, &mut signed(), CONTENT).is_ok());
    assert_eq!(proof(&scheme, &mut signed(), CONTENT).expect_err("refused"), "its nonce was seen before");
}

#[test]
fn nobody_uses_up_the_nonces_of_another_key_and_schemes_share_those_of_one() {
    let keys = "keys: [{id: one, algorithm: hmac-sha256, key: {name: signing, key: shared}, consumer: partner}, \
         {id: two, algorithm: hmac-sha256, key: {name: signing, key: shared}, consumer: partner}]";
    let (scheme, problems) = compiled(&format!("{{{keys}}}\n"));
    let mut scheme = scheme.unwrap_or_else(|| panic!("{problems:?}"));
    scheme.nonces = 2;
    let ask = |id: &str, nonce: &str| {
        let mut request = unsigned();
        sign(&mut request, &format!("{COVERED};created={NOW};keyid=\"{id}\";nonce=\"{nonce}\""), SECRET);
        proof(&scheme, &mut request, CONTENT).map(|_| ())
    };
    assert_eq!((ask("one", "a"), ask("one", "b")), (Ok(()), Ok(())));
    assert_eq!(ask("one", "c").expect_err("no room"), "too many nonces of this key are remembered");
    assert_eq!((ask("two", "a"), ask("two", "c")), (Ok(()), Ok(())));
    let keep = Keep::default();
    let of = |name: &str, objects: &str| {
        compile_with::<SignatureScheme>(name, &format!("{{{keys}}}\n"), objects, &keep).0.expect("a scheme")
    };
    let (first, second) = (of("first", OBJECTS), of("second", OBJECTS));
    let other = of("first", &OBJECTS.replace(SECRET, "a newer secret of enough bytes"));
    let nonces = |scheme: &SignatureScheme| Arc::clone(scheme.keys["one"].nonces.memory());
    assert!(Arc::ptr_eq(&nonces(&first), &nonces(&second)), "one signature is shown to both");
    assert!(!Arc::ptr_eq(&nonces(&first), &nonces(&other)));
    // As long as it is good anywhere, and whatever stands around the key.
    let public = |age: &str, objects: &str| {
        let spec = format!(
            "{{maxAge: {age}, keys: [{{id: one, algorithm: ed25519, key: {{name: signing, key: public}}, consumer: partner}}]}}\n"
        );
        compile_with::<SignatureScheme>("first", &spec, objects, &keep).0.expect("a scheme")
    };
    let (short, long) =
        (public("2s", OBJECTS), public("300s", &OBJECTS.replace("  public: |\n", "  public: |\n    ours\n")));
    assert!(Arc::ptr_eq(&nonces(&short), &nonces(&long)));
    let (of_short, at) = (nonces(&short), |after: u64| Duration::from_secs(NOW + after));
    assert_eq!(of_short.spend("n", Life::new(at(0), None), at(0), 10), Ok(()));
    assert!(of_short.knows("n", at(300)));
    drop(long);
    assert!(of_short.knows("n", at(3)) && !of_short.knows("n", at(4)), "nobody takes it for longer any more");
}

#[test]
fn keys_that_cannot_work_are_refused() {
    let key = |algorithm: &str, entry: &str, consumer: &str| {
        format!(
            "{{keys: [{{id: k, algorithm: {algorithm}, key: {{name: signing, key: {entry}}}, consumer: {consumer}}}]}}\n"
        )
    };
    for (spec, why) in [
        (key("hmac-sha256", "public", "partner"), "is no secret for HMAC"),
        (key("hmac-sha256", "short", "partner"), "shorter than 16 bytes"),
        (key("ed25519", "shared", "partner"), "no public key in PEM"),
        (key("ecdsa-p256-sha256", "public", "partner"), "not one for its algorithm"),
        (key("ed25519", "missing", "partner"), "not have the entry that `key` names"),
        (key("ed25519", "public", "nobody"), "there is no Consumer default/nobody"),
        (
            format!("{{{}}}\n", KEYS.replace("key: late", "key: shared")),
            "one and late are the same key of two Consumers",
        ),
        ("{keys: []}\n".to_owned(), "needs at least 1 item"),
        (format!("{{{KEYS}, required: [Date]}}\n"), "not in lower case"),
        (format!("{{{KEYS}, maxAge: 0s}}\n"), "good for a second to a day"),
    ] {
        let (_, problems) = compiled(&spec);
        assert!(problems.iter().any(|problem| problem.contains(why)), "{spec}: {problems:?}");
        assert!(problems.iter().all(|problem| !problem.contains("enough bytes")), "{problems:?}");
    }
}

#[test]
fn a_consumer_may_have_a_key_by_two_names() {
    let same = KEYS.replace("key: late", "key: shared").replace("consumer: gone", "consumer: partner");
    assert_eq!(compiled(&format!("{{{same}}}\n")).1, Vec::<String>::new());
}

#[test]
fn a_key_pair_of_our_own_signs() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a pair");
    let key = Verifier::Public(ParsedPublicKey::new(&ED25519, pair.public_key()).expect("a key"));
    assert!(key.is_good(b"base", pair.sign(b"base").as_ref()) && !key.is_good(b"vase", pair.sign(b"base").as_ref()));
}

#[test]
fn of_two_signatures_each_scheme_exhibits_the_one_that_it_looks_at() {
    let (one, other) = (scheme(""), scheme(", tag: other"));
    let inner = format!("{COVERED};created={NOW};keyid=\"one\"");
    let seen = |input: &str| {
        let mut request = unsigned();
        push(&mut request, "Signature-Input", input);
        with(&mut request, |x| {
            [&one, &other].map(|scheme| {
                let mut all = Vec::new();
                scheme.exhibits(x, &mut |exhibit| all.push(format!("{exhibit:?}")));
                all
            })
        })
    };
    let (own, chosen) = ("Signature(None)".to_owned(), |number| format!("Signature(Some({number}))"));
    let [first, second] = seen(&format!("a={inner}, b={inner};tag=\"other\""));
    assert_eq!((first, second), (vec![own.clone(), chosen(0)], vec![own.clone(), chosen(1)]));
    // What nobody chooses is meant for somebody else.
    let [first, second] = seen(&format!("a={COVERED};created={NOW};keyid=\"nobody\", b={inner}"));
    assert_eq!((first, second), (vec![own.clone(), chosen(1)], vec![own]));
}
