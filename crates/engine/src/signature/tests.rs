//! What is signed of the request in RFC 9421 appendix B.2, and digests of its content.

use super::structured::Member;
use super::*;

/// The request of appendix B.2.
pub(crate) fn request() -> Request {
    let mut request = Request::build("POST", "https", "example.com", "/foo?param=Value&Pet=dog").expect("a request");
    for (name, value) in [
        ("Date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("Content-Type", "application/json"),
        ("Content-Digest", "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"),
        ("Content-Length", "18"),
    ] {
        request.fields.push(&FieldName::new(name).expect("a name"), value.as_bytes()).expect("a value");
    }
    request
}

fn signed(input: &str) -> Result<String, Wrong> {
    let members = structured::dictionary(input.as_bytes()).expect("a dictionary");
    let (_, Member::List(items, parameters)) = &members[0] else { panic!("a list") };
    base(&request(), "https", items, parameters).map(|base| String::from_utf8(base).expect("text"))
}

#[test]
fn the_base_of_the_reference() {
    let input = r#"sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519""#;
    assert_eq!(
        signed(input).expect("a base"),
        "\"date\": Tue, 20 Apr 2021 02:07:55 GMT
\"@method\": POST
\"@path\": /foo
\"@authority\": example.com
\"content-type\": application/json
\"content-length\": 18
\"@signature-params\": (\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\");created=1618884473;keyid=\"test-key-ed25519\""
    );
}

#[test]
fn derived_components() {
    for (component, value) in [
        (r#""@target-uri""#, "https://example.com/foo?param=Value&Pet=dog"),
        (r#""@request-target""#, "/foo?param=Value&Pet=dog"),
        (r#""@query""#, "?param=Value&Pet=dog"),
        (r#""@scheme""#, "https"),
        (r#""@query-param";name="Pet""#, "dog"),
        (r#""content-type";bs"#, ":YXBwbGljYXRpb24vanNvbg==:"),
        (r#""content-digest";key="sha-256""#, ":X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"),
        (r#""host""#, "example.com"),
    ] {
        let base = signed(&format!("s=({component})")).expect("a base");
        assert_eq!(base.lines().next(), Some(&*format!("{component}: {value}")));
    }
    for wrong in [
        r#""@status""#,
        r#""@method";x"#,
        r#""Date""#,
        r#""x-missing""#,
        r#""@query-param";name="missing""#,
        r#""@query-param""#,
        r#""date";sf"#,
        r#""date";tr"#,
        r#""date" "date""#,
        "date",
        r#""a b""#,
    ] {
        assert!(signed(&format!("s=({wrong})")).is_err(), "{wrong}");
    }
}

#[test]
fn a_larger_component_covers_a_smaller_one() {
    let members = structured::dictionary(br#"s=("@request-target" "@method" "date";bs)"#).expect("a dictionary");
    let (_, Member::List(items, _)) = &members[0] else { panic!("a list") };
    for (name, covered) in
        [("@path", true), ("@query", true), ("@method", true), ("@authority", false), ("date", false)]
    {
        assert_eq!(covers(items, name), covered, "{name}");
    }
}

#[test]
fn digests_of_content() {
    let content = br#"{"hello": "world"}"#;
    let good = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";
    assert!(is_digest_of(good.as_bytes(), content));
    assert!(is_digest_of(format!("unixsum=:AAAA:, {good}").as_bytes(), content));
    assert!(!is_digest_of(good.as_bytes(), b"{}"));
    assert!(!is_digest_of(format!("{good}, sha-512=:AAAA:").as_bytes(), content));
    for none in ["", "unixsum=:AAAA:", "sha-256=X48E", "sha-256=1"] {
        assert!(!is_digest_of(none.as_bytes(), content), "{none}");
    }
}

#[test]
fn what_a_fuzzer_asks_for_holds() {
    for input in [r#"s=("date" "@method";x);created=1;keyid="k\\"", t=:AA==:, u"#, "s=()", "=", "s=(\"date\")"] {
        assert!(probe(input.as_bytes(), &request()), "{input}");
    }
}
