//! Requests signed by HMAC in `Authorization`, and everything that makes a signature no good.

use std::net::SocketAddr;

use aws_lc_rs::digest;
use data_encoding::BASE64;

use super::super::nonces::spent;
use super::super::tests::compile_scheme;
use super::*;
use crate::callout::Callout;
use crate::exchange::{Connection, Notes, Now};

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

const KEYS: &str = "keys: [{username: ann, secret: {name: signing, key: shared}, consumer: partner}, \
     {username: late, secret: {name: signing, key: late}, consumer: gone}]";
const SECRET: &str = "a secret of enough bytes";
/// Fri, 15 Jan 2027 08:00:00 GMT.
const NOW: u64 = 1_800_000_000;
const DATE: &str = "Fri, 15 Jan 2027 08:00:00 GMT";
const ANOTHER: &str = "the content is not the one whose digest was signed";
const CONTENT: &[u8] = br#"{"hello": "world"}"#;

fn scheme(more: &str) -> HmacScheme {
    let (scheme, problems) = compile_scheme(&format!("{{{KEYS}{more}}}\n"), OBJECTS);
    assert!(problems.is_empty(), "{problems:?}");
    scheme.expect("a scheme")
}

fn push(request: &mut Request, name: &str, value: &str) {
    request.fields.push(&FieldName::new(name).expect("a name"), value.as_bytes()).expect("a value");
}

fn unsigned(date: &str) -> Request {
    let mut request = Request::build("POST", "http", "a.test", "/orders?x=1").expect("a request");
    push(&mut request, "Date", date);
    let digest = BASE64.encode(digest::digest(&digest::SHA256, CONTENT).as_ref());
    push(&mut request, "Digest", &format!("SHA-256={digest}"));
    push(&mut request, "X-Amount", "100");
    request
}

/// Signs as a client does, and says so as `who`.
fn sign(request: &mut Request, who: &str, algorithm: &str, headers: &str, secret: &str) {
    let said = |signature: &str| {
        format!(r#"hmac username="{who}", algorithm="{algorithm}", headers="{headers}", signature="{signature}""#)
    };
    let shown = Shown::read(parameters(said("").as_bytes()).expect("the form")).expect("well-formed");
    let base = shown.base(request).expect("a base");
    let by = if algorithm == "hmac-sha512" { hmac::HMAC_SHA512 } else { hmac::HMAC_SHA256 };
    let signature = hmac::sign(&hmac::Key::new(by, secret.as_bytes()), &base);
    push(request, "Authorization", &said(&BASE64.encode(signature.as_ref())));
}

const COVERED: &str = "date host @request-target digest";

fn signed(headers: &str) -> Request {
    let mut request = unsigned(DATE);
    sign(&mut request, "ann", "hmac-sha256", headers, SECRET);
    request
}

/// What the scheme says of a request with this content, some seconds from now.
fn proof_at(
    scheme: &HmacScheme,
    seconds: u64,
    request: &mut Request,
    content: &[u8],
) -> Result<Arc<Principal>, String> {
    let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
    let mut x = Exchange {
        now: Now { monotonic: Duration::from_secs(5), unix: Duration::from_secs(seconds) },
        random: 1,
        connection: &Connection::new(address, address, None),
        client: address.ip(),
        listener_port: 80,
        request,
        notes: &mut Notes::new(),
    };
    let mut proof = scheme.authenticate(&mut x);
    if let Proof::Ask(callout, between) = proof {
        let Callout::Body { most } = *callout else { panic!("something else is asked for") };
        let result =
            if content.len() <= most { CalloutResult::Body(content.into()) } else { CalloutResult::BodyTooLarge };
        proof = scheme.resume(&mut x, between, result);
    }
    match spent(proof, x.now.unix) {
        Proof::Valid(principal) => Ok(principal),
        Proof::Invalid(why) | Proof::Unavailable(why) => Err(why.into()),
        other => panic!("{other:?}"),
    }
}

fn proof(scheme: &HmacScheme, request: &mut Request, content: &[u8]) -> Result<Arc<Principal>, String> {
    proof_at(scheme, NOW, request, content)
}

fn refusal(scheme: &HmacScheme, mut request: Request) -> String {
    proof(scheme, &mut request, CONTENT).expect_err("refused")
}

#[test]
fn who_signs_is_the_consumer_of_the_key() {
    let scheme = scheme("");
    let mut request = signed(COVERED);
    push(&mut request, "Authorization", "Bearer other");
    let principal = proof(&scheme, &mut request, CONTENT).expect("a principal");
    assert_eq!((&*principal.id, principal.credential.as_deref()), ("default/partner", Some("ann")));
    assert_eq!(&*principal.groups[0], "partners");
    scheme.strip(&mut request);
    let left: Vec<&[u8]> = request.fields.all(FieldId::AUTHORIZATION).collect();
    assert_eq!(left, [&b"Bearer other"[..]]);
    for (algorithm, headers) in [
        ("hmac-sha512", COVERED),
        ("HMAC-SHA256", "Host Date (request-target) Digest"),
        ("hmac-sha256", "request-line host date digest"),
    ] {
        let mut request = unsigned(DATE);
        sign(&mut request, "ann", algorithm, headers, SECRET);
        assert!(proof(&scheme, &mut request, CONTENT).is_ok(), "{algorithm} {headers}");
    }
}

#[test]
fn a_signature_of_somebody_else_is_understood() {
    // By `openssl dgst -sha256 -hmac`, over `x-date: ...\nhost: a.test\n@request-target: get /`.
    let mut request = Request::build("GET", "http", "a.test", "/").expect("a request");
    push(&mut request, "X-Date", DATE);
    let line =
        r#"Signature keyId="ann",algorithm="hmac-sha256",headers="x-date host @request-target",signature="SIGNATURE""#;
    push(&mut request, "Authorization", &line.replace("SIGNATURE", "Q6VHj2b1JCjygD3GJMOMT9drO/rd2SRx2NXmDu/wqpk="));
    assert_eq!(proof(&scheme(""), &mut request, b"").expect("a principal").credential.as_deref(), Some("ann"));
}

#[test]
fn what_was_changed_after_it_was_signed_is_refused() {
    let scheme = scheme("");
    assert_eq!(proof(&scheme, &mut signed(COVERED), b"{}").expect_err("refused"), ANOTHER);
    let change = |change: &dyn Fn(&mut Request)| {
        let mut request = signed("date host @request-target digest x-amount");
        change(&mut request);
        refusal(&scheme, request)
    };
    let wrong = "the signature is wrong";
    assert_eq!(change(&|request| request.set_query(Some(b"x=2")).expect("a query")), wrong);
    assert_eq!(change(&|request| request.set_path(b"/other").expect("a path")), wrong);
    assert_eq!(change(&|request| request.set_authority(b"b.test").expect("a host")), wrong);
    assert_eq!(change(&|request| request.method = transept_wire::head::Method::Put), wrong);
    assert_eq!(change(&|request| push(request, "X-Amount", "1000")), wrong);
    let mut forged = unsigned(DATE);
    sign(&mut forged, "ann", "hmac-sha256", COVERED, "another secret, as long");
    assert_eq!(refusal(&scheme, forged), wrong);
}

#[test]
fn only_what_is_signed_counts() {
    let scheme = scheme("");
    for (headers, why) in [
        ("date host digest", "it does not cover @request-target"),
        ("date @request-target digest", "it does not cover host"),
        ("host @request-target digest", "it does not cover `date` or `x-date`"),
        ("date host @request-target", "the signature does not cover digest"),
    ] {
        assert_eq!(refusal(&scheme, signed(headers)), why);
    }
    assert!(proof(&scheme, &mut signed("date host @request-target"), b"").is_ok(), "without content");
    // A fresh time beside an old signature.
    let mut old = unsigned("Fri, 15 Jan 2027 07:00:00 GMT");
    sign(&mut old, "ann", "hmac-sha256", COVERED, SECRET);
    push(&mut old, "X-Date", DATE);
    assert_eq!(refusal(&scheme, old), "it has ended");
}

#[test]
fn a_signature_is_good_near_the_time_that_it_says() {
    let scheme = scheme("");
    for (seconds, why) in [(301, "it has ended"), (3600, "it has ended")] {
        assert_eq!(proof_at(&scheme, NOW + seconds, &mut signed(COVERED), CONTENT).expect_err("refused"), why);
    }
    assert_eq!(
        proof_at(&scheme, NOW - 301, &mut signed(COVERED), CONTENT).expect_err("refused"),
        "it was made in the future"
    );
    for now in [NOW - 300, NOW + 300] {
        assert!(proof_at(&scheme, now, &mut signed(COVERED), CONTENT).is_ok());
    }
    for date in ["yesterday", "", "1800000000", "Fri, 15 Jan 2027 08:00:00 +0200", "Mon, 15 Jan 2027 08:00:00 GMT"] {
        let mut request = unsigned(date);
        sign(&mut request, "ann", "hmac-sha256", COVERED, SECRET);
        assert_eq!(refusal(&scheme, request), "`date` is no HTTP date", "{date}");
    }
    let mut two = unsigned(DATE);
    push(&mut two, "Date", DATE);
    sign(&mut two, "ann", "hmac-sha256", COVERED, SECRET);
    assert_eq!(refusal(&scheme, two), "`date` is no HTTP date");
}

#[test]
fn who_shows_what_is_no_signature_is_refused() {
    let scheme = scheme(", algorithms: [hmac-sha256]");
    for (who, algorithm, why) in [
        ("bob", "hmac-sha256", "the key is not known"),
        ("late", "hmac-sha256", "the key belongs to a Consumer that is suspended"),
        ("ann", "hmac-sha512", "it names an algorithm that is not taken here"),
        ("ann", "hmac-sha1", "it names an algorithm that is not taken here"),
        ("ann", "none", "it names an algorithm that is not taken here"),
    ] {
        let mut request = unsigned(DATE);
        sign(&mut request, who, algorithm, COVERED, SECRET);
        assert_eq!(refusal(&scheme, request), why);
    }
    let mut twice = signed(COVERED);
    sign(&mut twice, "ann", "hmac-sha256", COVERED, SECRET);
    assert_eq!(refusal(&scheme, twice), "several signatures are shown");
    for (line, why) in [
        ("hmac x", "its parameters are not well-formed"),
        (
            r#"hmac username="ann", algorithm="hmac-sha256", headers="date", signature="A""#,
            "the signature is not base64",
        ),
    ] {
        let mut request = unsigned(DATE);
        push(&mut request, "Authorization", line);
        assert_eq!(refusal(&scheme, request), why);
    }
}

#[test]
fn a_signature_is_good_once_where_that_is_asked_for() {
    let scheme = scheme(", once: true");
    assert!(proof(&scheme, &mut signed(COVERED), CONTENT).is_ok());
    assert_eq!(refusal(&scheme, signed(COVERED)), "the signature was seen before");
    assert_eq!(proof(&scheme, &mut signed("host date @request-target digest"), b"{}").expect_err("refused"), ANOTHER);
    assert!(proof(&scheme, &mut signed("host date @request-target digest"), CONTENT).is_ok(), "it was not spent");
    let again = super::tests::scheme("");
    assert!(
        proof(&again, &mut signed(COVERED), CONTENT).is_ok() && proof(&again, &mut signed(COVERED), CONTENT).is_ok()
    );
}

#[test]
fn a_signature_that_is_spelled_in_another_way_is_none() {
    let scheme = scheme(", once: true");
    let request = signed(COVERED);
    assert!(proof(&scheme, &mut request.clone(), CONTENT).is_ok());
    let said = String::from_utf8_lossy(request.fields.first(FieldId::AUTHORIZATION).expect("a field")).into_owned();
    let (before, rest) = said.split_once("signature=\"").expect("a signature");
    let text = rest.trim_end_matches('"');
    let bytes = BASE64.decode(text.as_bytes()).expect("base64");
    // The same bytes as two texts in a row, which one decoder takes for one.
    let other = format!("{}{}", BASE64.encode(&bytes[..1]), BASE64.encode(&bytes[1..]));
    assert_eq!(BASE64.decode(other.as_bytes()).as_deref(), Ok(&*bytes));
    let mut again = request.clone();
    let value = format!("{before}signature=\"{other}\"");
    again.fields.set(&FieldName::known(FieldId::AUTHORIZATION), value.as_bytes()).expect("a value");
    assert_eq!(refusal(&scheme, again), "the signature is not base64");
}

#[test]
fn content_need_not_be_signed_where_that_is_said() {
    let scheme = scheme(", unsignedContent: true");
    assert!(proof(&scheme, &mut signed("date host @request-target"), b"anything").is_ok());
    assert_eq!(proof(&scheme, &mut signed(COVERED), b"anything").expect_err("a digest"), ANOTHER);
}

#[test]
fn the_challenge_says_what_to_sign() {
    assert_eq!(
        scheme("").challenge("shop", &Fault::Missing),
        r#"hmac realm="shop", algorithm="hmac-sha256", headers="@request-target host date""#
    );
    assert_eq!(
        scheme(", required: [X-Date], algorithms: [hmac-sha512]").challenge("shop", &Fault::Missing),
        r#"hmac realm="shop", algorithm="hmac-sha512", headers="X-Date""#
    );
}

#[test]
fn keys_that_cannot_work_are_refused() {
    let key = |entry: &str, consumer: &str| {
        format!("{{keys: [{{username: k, secret: {{name: signing, key: {entry}}}, consumer: {consumer}}}]}}\n")
    };
    for (spec, why) in [
        (key("public", "partner"), "is no secret for HMAC"),
        (key("short", "partner"), "shorter than 16 bytes"),
        (key("missing", "partner"), "not have the entry that `key` names"),
        (key("shared", "nobody"), "there is no Consumer default/nobody"),
        (format!("{{{}}}\n", KEYS.replace("key: late", "key: shared")), "the keys ann and late have the same secret"),
        ("{keys: []}\n".to_owned(), "needs at least 1 item"),
        (format!("{{{KEYS}, clockSkew: 0s}}\n"), "a second to a day apart"),
        (format!("{{{KEYS}, clockSkew: 48h}}\n"), "a second to a day apart"),
        (format!("{{{KEYS}, required: ['(created)']}}\n"), "no name of a field"),
        (format!("{{{KEYS}, algorithms: [hmac-sha1]}}\n"), "hmac-sha1"),
    ] {
        let (_, problems) = compile_scheme::<HmacScheme>(&spec, OBJECTS);
        assert!(problems.iter().any(|problem| problem.contains(why)), "{spec}: {problems:?}");
        assert!(problems.iter().all(|problem| !problem.contains("enough bytes")), "{problems:?}");
    }
}
