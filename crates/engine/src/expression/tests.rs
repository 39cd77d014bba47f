//! Expressions over one request: what they are worth, what is refused, and that nothing takes long.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use transept_wire::head::{FieldName, Request};

use super::*;
use crate::exchange::{Connection, Notes, Now};
use crate::principal::{Principal, PrincipalKind};

/// 2026-11-28, a Saturday, 20:15 UTC.
const NOW: u64 = 1_795_896_900;

fn with<T>(work: impl FnOnce(&Exchange<'_>) -> T) -> T {
    let mut request =
        Request::build("POST", "http", "Shop.test:8080", "/cart/7?page=2&q=a%20b&two=1&two=2").expect("a request");
    for (name, value) in [("X-Team", "blue"), ("Accept", "text/html"), ("accept", "text/plain"), ("X-Odd", "\u{e9}")] {
        request.fields.push(&FieldName::new(name).expect("a name"), value.as_bytes()).expect("a value");
    }
    request.fields.push(&FieldName::new("x-latin").expect("a name"), b"caf\xe9").expect("a value");
    let peer: SocketAddr = "192.0.2.1:5000".parse().expect("an address");
    let mut notes = Notes::new();
    let claims = json!({
        "sub": "7f2", "level": 3, "ratio": 0.5, "admin": true, "roles": ["reader", "writer"], "none": null,
        "realm_access": {"roles": ["a"]}, "https://shop.test/plan": "gold", "many": (0..300).collect::<Vec<_>>(),
    });
    let Json::Object(claims) = claims else { panic!("an object") };
    notes.principal = Some(Arc::new(Principal {
        kind: PrincipalKind::User,
        id: "ann".into(),
        groups: vec!["staff".into(), "admins".into()],
        scopes: vec!["cart:read".into()],
        claims,
        ..Principal::default()
    }));
    work(&Exchange {
        now: Now { monotonic: Duration::ZERO, unix: Duration::from_secs(NOW) },
        random: 0,
        connection: &Connection::new(peer, peer, None),
        client: "10.1.2.3".parse().expect("an address"),
        listener_port: 8080,
        request: &mut request,
        notes: &mut notes,
    })
}

fn holds(text: &str) -> Result<bool, String> {
    let condition = Condition::compile(text).unwrap_or_else(|flaw| panic!("{text}: {flaw:?}"));
    with(|x| condition.holds(x)).map_err(|fault| fault.to_string())
}

fn flaw(text: &str) -> Flaw {
    match Condition::compile(text) {
        Err(flaw) => flaw,
        Ok(_) => panic!("{text} is taken"),
    }
}

#[test]
fn what_holds_and_what_does_not() {
    for yes in [
        r#"request.method == "POST""#,
        r#"request.path == '/cart/7' && request.host == "shop.test""#,
        r#"request.path.startsWith("/cart/") && !request.path.endsWith("/")"#,
        r#"request.path.matches(r"^/cart/[0-9]+$")"#,
        r#"request.scheme == "http" && request.protocol == "HTTP/1.1""#,
        r#"request.query["page"] == "2" && request.query.q == "a b""#,
        r#"int(request.query["page"]) > 1"#,
        r#""page" in request.query && !("missing" in request.query) && "two" in request.query"#,
        r#"request.headers["x-team"] == "blue" && request.headers["X-TEAM"] == "blue""#,
        r#"request.headers.accept == "text/html, text/plain""#,
        r#"request.headers.accept.split(", ").exists(one, one == "text/plain")"#,
        r#"request.headers["x-odd"].size() == 1"#,
        r#"!("x-missing" in request.headers) && has(request.headers.accept)"#,
        r#"source.address.inNetwork("10.0.0.0/8") && !source.address.inNetwork("2001:db8::/32")"#,
        r#"destination.port == 8080 && source.identity == """#,
        r#"principal.kind == "user" && principal.id == "ann" && principal.plan == """#,
        r#""admins" in principal.groups && !("root" in principal.groups)"#,
        r#"principal.scopes.all(scope, scope.startsWith("cart:"))"#,
        r#"principal.groups.exists_one(group, group == "staff")"#,
        r#"principal.groups.filter(group, group != "staff") == ["admins"]"#,
        r#"principal.groups.map(group, group.size()) == [5, 6]"#,
        r#"principal.groups.join("|") == "staff|admins""#,
        r#"principal.claims.level >= 3 && principal.claims.ratio < 1 && principal.claims.admin"#,
        r#""writer" in principal.claims.roles && principal.claims["roles"][0] == "reader""#,
        r#""a" in principal.claims.realm_access.roles"#,
        r#"principal.claims["https://shop.test/plan"] == "gold""#,
        r#"has(principal.claims.sub) && !has(principal.claims.email) && !has(principal.tenant)"#,
        r#"principal.claims.none == null && principal.claims.sub != 7"#,
        r#"principal.claims == principal.claims && principal.claims.roles == ["reader", "writer"]"#,
        r#"principal.claims.missing == "x" || request.method == "POST""#,
        r#"now.getHours() == 20 && now.getDayOfWeek() == 6 && now.getFullYear() == 2026 && now.getMonth() == 10"#,
        r#"now > timestamp("2026-11-28T00:00:00Z") && now - duration("1h") < now"#,
        r#"(1 + 2) * 3 == 9 && 7 % 4 == 3 && -7 / 2 == -3 && 1.5 + 1 == 2.5 && 0x10 == 16"#,
        "-9223372036854775808 < 0 && -9223372036854775808 + 1 == -9223372036854775807 && -0x8000000000000000 < 0",
        r#""a" + "b" == "ab" && [1] + [2] == [1, 2] && [] + [] == []"#,
        r#"{"a": 1, "b": 2} == {"b": 2, "a": 1} && {"a": 1}["a"] == 1 && "a" in {"a": 1}"#,
        r#"request.method == "GET" ? false : true"#,
        r#""\x41\u0042\n" == "AB\n" && r"\n" == "\\n""#,
        "true // a word at the end",
        r#"string(principal.claims.level) == "3" && double("1.5") == 1.5 && " a ".trim() == "a""#,
        r#""ABC".lowerAscii() == "abc" && size("héé") == 3 && size(request.query) == 4"#,
    ] {
        assert_eq!(holds(yes), Ok(true), "{yes}");
    }
    for no in [
        "false",
        r#"request.method == "GET" && request.headers["x-missing"] == "x""#,
        r#"principal.claims.roles.all(role, role == "reader")"#,
        r#"principal.claims.sub == 7"#,
    ] {
        assert_eq!(holds(no), Ok(false), "{no}");
    }
}

#[test]
fn what_is_not_there_has_no_value_and_says_so() {
    for (text, why) in [
        (r#"request.headers["x-missing"] == "x""#, "there is no header x-missing, at character 1"),
        (r#"true && principal.claims.email == "x""#, "nothing is called `email`, at character 9"),
        (r#"request.query.two == "1""#, "the query has the name more than once, at character 1"),
        (r#"principal.claims.sub > 3"#, "text and a whole number have no order, at character 1"),
        (r#"principal.claims.level.startsWith("3")"#, "it cannot be asked of a whole number and text, at character 1"),
        (r#"principal.claims.sub"#, "the expression is text, not true or false, at character 1"),
        (r#"request.headers["x-latin"] == """#, "the header is not UTF-8 text, at character 1"),
        (r#"principal.groups[2] == "x""#, "a list has no item 2, at character 1"),
        (r#"1 / principal.claims.realm_access == 1"#, "`/` does not take a whole number and a map, at character 1"),
        (r#"9223372036854775807 + 1 == 0"#, "the number does not fit into 64 bits, at character 1"),
        (r#"1 % 0 == 0"#, "it divides by zero, at character 1"),
        (r#"principal.id.inNetwork("10.0.0.0/8")"#, "the text is not an address, at character 1"),
    ] {
        assert_eq!(holds(text), Err(why.to_owned()), "{text}");
    }
}

#[test]
fn what_cannot_work_is_refused_with_its_place_and_a_remedy() {
    for (text, at, why, remedy) in [
        ("reqest.method == 'GET'", 0, "there is no variable `reqest`", Some("did you mean `request`?")),
        (
            "request.headers.x-team == 'a'",
            18,
            "there is no variable `team`",
            Some("write a header with `-` in its name as `request.headers['x-team']`"),
        ),
        ("true && request.mehtod == ''", 8, "`request` has no field `mehtod`", Some("did you mean `method`?")),
        (
            "request.headers.if-none-match == 'a'",
            16,
            "`if` cannot stand here",
            Some("write a header with `-` in its name as `request.headers['if-none-match']`"),
        ),
        (
            "request.headers.x-forwarded-for == 'a'",
            28,
            "`for` cannot stand here",
            Some("write a header with `-` in its name as `request.headers['x-forwarded-for']`"),
        ),
        (
            "request.headers.x-principal == 'a'",
            18,
            "`principal` has no value of its own",
            Some("write a header with `-` in its name as `request.headers['x-principal']`"),
        ),
        ("request", 0, "`request` has no value of its own", None),
        ("request.method = 'GET'", 15, "`=` means nothing here", Some("write `==` to compare")),
        ("true and true", 5, "`and` cannot stand here", Some("write `&&`")),
        ("request.path.beginsWith('/')", 0, "there is no function `beginsWith` behind a value", None),
        (
            "request.path.startWith('/')",
            0,
            "there is no function `startWith` behind a value",
            Some("did you mean `startsWith`?"),
        ),
        (
            "startsWith(request.path, '/')",
            0,
            "there is no function `startsWith`",
            Some("write it behind what it is about: value.startsWith(...)"),
        ),
        (
            "request.method",
            0,
            "the expression is text, not true or false",
            Some(
                "compare it, as in request.method == \"GET\"; whether a header is there says \"x-name\" in request.headers",
            ),
        ),
        (
            "request.method == 7",
            0,
            "text and a whole number are never equal",
            Some("write int(...) around the text, or the number in quotes"),
        ),
        ("size(request.path) == '7'", 0, "a whole number and text are never equal", Some("write 7 without quotes")),
        (
            "request.headers['x-n'] > 5",
            0,
            "text and a whole number have no order",
            Some("write int(...) around the text, or the number in quotes"),
        ),
        (
            "request.headers['x-n'] != null",
            0,
            "text and null are never equal",
            Some("ask whether it is there: has(principal.claims.email), or \"x-name\" in request.headers"),
        ),
        (
            "principal.groups == 'admin'",
            0,
            "a list of texts and text are never equal",
            Some("ask with `in`, as in \"admin\" in principal.groups"),
        ),
        ("7 in principal.groups", 0, "a whole number is never in a list of texts", Some("write string(...) around it")),
        (
            "'a' in request.path",
            0,
            "`in` looks into lists and maps, not into text",
            Some("write text.contains(\"part\")"),
        ),
        ("request.path.matches('(')", 21, "this is not a pattern: unclosed group", None),
        ("request.path.matches(request.method)", 0, "`matches` takes one pattern that is written out", None),
        ("source.address.inNetwork('10.0.0.1/8')", 25, "this is not a network", None),
        ("request.path.startsWith()", 0, "`startsWith` takes 2 values, not 1", None),
        ("request.method && true", 0, "what stands beside `&&` is text, not true or false", None),
        ("principal.groups.name == 'x'", 0, "a list of texts has no field `name`", None),
        ("timestamp('yesterday') < now", 10, "this is not a time", None),
        ("principal.groups.exists(now, true)", 0, "`now` has a meaning already", Some("choose another name")),
        ("has(request)", 0, "`has` takes one field", None),
        ("request.path == 'a", 16, "the text does not end", Some("close it with '")),
        ("b'x' == 'x'", 0, "bytes are not known here", Some("write text, without the `b`")),
        ("1u == 1", 0, "`1` is followed by a letter", Some("unsigned numbers are not known here: leave the `u` out")),
        ("(true", 5, "expected `)`, found the end", None),
        ("true true", 5, "expected the end, `&&` or `||`, found `true`", None),
        ("", 0, "the expression is empty", None),
        ("99999999999999999999 == 1", 0, "`99999999999999999999` is not a number of 64 bits", None),
    ] {
        let found = flaw(text);
        assert_eq!((found.at, &*found.why), (at, why), "{text}");
        if remedy.is_some() {
            assert_eq!(found.remedy.as_deref(), remedy, "{text}");
        }
    }
}

#[test]
fn what_would_take_long_is_refused_or_stopped() {
    let nested =
        "principal.claims.many.exists(a, principal.claims.many.exists(b, principal.claims.many.exists(c, a == b)))";
    assert!(flaw(nested).why.contains("steps for lists of 50 items"), "{:?}", flaw(nested));
    assert!(
        holds("principal.claims.many.all(a, principal.claims.many.exists(b, b == 299))")
            .expect_err("too long")
            .contains("steps")
    );
    // What is compared is paid for by its length, and by all that is in it.
    let long = format!("[\"0123456789abcdef\"]{}", ".map(a, a + a)".repeat(12));
    let compared = holds(&format!("{long}.all(t, principal.claims.many.all(m, t == t))"));
    assert!(compared.as_ref().is_err_and(|why| why.contains("steps")), "{compared:?}");
    let wide = format!("[0]{}", ".map(a, [a, a])".repeat(24));
    let compared = holds(&format!("{wide}.all(x, x == x)"));
    assert!(compared.as_ref().is_err_and(|why| why.contains("steps")), "{compared:?}");
    assert!(flaw(&"(".repeat(500)).why.contains("nested deeper"));
    assert!(flaw(&"!".repeat(500)).why.contains("nested deeper"));
    assert!(flaw(&format!("1{} == 1", "+1".repeat(500))).why.contains("nested deeper"));
    assert!(flaw(&format!("principal.claims{}", ".a".repeat(500))).why.contains("nested deeper"));
    assert!(flaw(&" ".repeat(5000)).why.contains("bytes long"));
    assert!(flaw(r#"request.path.matches("(a{1000}){1000}")"#).why.contains("not a pattern"));
}

#[test]
fn texts_and_numbers_are_values_too() {
    let key = TextExpression::compile(r#"principal.claims.sub + "@" + source.address"#).expect("an expression");
    assert_eq!(with(|x| key.value(x, str::to_owned)).as_deref(), Ok("7f2@10.1.2.3"));
    let cost = NumberExpression::compile(r#"request.path.startsWith("/cart") ? 5 : 1"#).expect("an expression");
    assert_eq!(with(|x| cost.value(x)), Ok(5));
    assert!(NumberExpression::compile("1.5").is_err() && TextExpression::compile("1").is_err());
    let claim = NumberExpression::compile("principal.claims.sub").expect("an expression");
    assert!(with(|x| claim.value(x)).is_err());
}

#[test]
fn a_response_is_asked_for_where_there_is_one() {
    let mut response = Response::new(207);
    for (name, value) in [("X-Tokens", "4200"), ("X-Plain", "many")] {
        response.fields.push(&FieldName::new(name).expect("a name"), value.as_bytes()).expect("a value");
    }
    let value = |text: &str| {
        let expression = ResponseExpression::compile(text).unwrap_or_else(|flaw| panic!("{text}: {flaw:?}"));
        with(|x| expression.value(x, &response)).map_err(|fault| fault.to_string())
    };
    assert_eq!(value(r#"int(response.headers["x-tokens"]) / 1000"#), Ok(4));
    assert_eq!(value(r#"response.status >= 500 ? 0 : size(principal.groups)"#), Ok(2));
    assert_eq!(value(r#"has(response.headers.x_none) || !("x-plain" in response.headers) ? 1 : 3"#), Ok(3));
    // Those of the request are not meant.
    assert_eq!(value(r#"int(response.headers["x-team"])"#), Err("there is no header x-team, at character 5".into()));
    assert!(value(r#"int(response.headers["x-plain"])"#).is_err());
    let early = NumberExpression::compile("response.status").expect_err("there is none");
    assert_eq!((early.at, &*early.why), (0, "there is no response yet"));
    let late = ResponseExpression::compile(r#"request.path == "/" ? 1 : 2"#).expect_err("it is gone");
    assert!(late.why.contains("filters have changed") && late.remedy.is_some_and(|say| say.contains("costExpression")));
    assert!(ResponseExpression::compile("respnse.status").expect_err("no such").remedy.is_some());
}

#[test]
fn nobody_has_empty_names_and_no_claims() {
    let condition = Condition::compile(
        r#"principal.kind == "anonymous" && principal.id == "" && principal.groups == [] && !has(principal.claims.sub)"#,
    )
    .expect("an expression");
    with(|x| {
        let (mut request, mut notes) = (Request::build("GET", "http", "a.test", "/").expect("a request"), Notes::new());
        let nobody = Exchange {
            now: x.now,
            random: 0,
            connection: x.connection,
            client: x.client,
            listener_port: 80,
            request: &mut request,
            notes: &mut notes,
        };
        assert_eq!(condition.holds(&nobody), Ok(true));
    });
}

#[test]
fn only_an_expression_that_asks_for_the_principal_finds_out() {
    assert!(!Condition::compile(r#"request.method == "GET""#).expect("an expression").asks_principal());
    assert!(Condition::compile(r#"has(principal.plan)"#).expect("an expression").asks_principal());
}
