//! Tests of loading: what is refused, where and why; what may be left out; what is remembered between loads.

use std::cell::RefCell;
use std::time::Duration;

use super::*;
use crate::kinds::{Age, HttpRouteFilter, Protocol, SubjectAltName};
use crate::place::SourceText;
use crate::policy::{Merge, Target};
use crate::schema::Schema;

mod standalone;

#[allow(unreachable_pub)]
mod spec {
    use crate::schema::Rule;

    crate::object! {
    /// A spec for tests.
    pub struct TestSpec {
        /// How many.
        count: u32 = 1 => Rule::Range(1, 10);
    }
    }
}

use spec::TestSpec;

const KINDS: &[PolicyKind] =
    &[PolicyKind::of::<TestSpec>("TestPolicy", "For tests.", &[Target::Gateway, Target::Rule], Merge::None)];

fn load_text(text: &str) -> Loaded {
    load(&[SourceText::new("a.yaml", text)], KINDS)
}

fn good(text: &str) -> Loaded {
    let loaded = load_text(text);
    let shown: Vec<String> = loaded.invalid.iter().map(Invalid::snippet).collect();
    assert!(shown.is_empty(), "{}", shown.join("\n"));
    loaded
}

/// Loads `text` and holds that exactly one thing is wrong: at `line:column`, in `field`, with `why` in the message.
fn wrong(text: &str, place: &str, field: &str, why: &str) -> Invalid {
    let mut loaded = load_text(text);
    let shown: Vec<String> = loaded.invalid.iter().map(Invalid::snippet).collect();
    assert_eq!(loaded.invalid.len(), 1, "{}", shown.join("\n"));
    let one = loaded.invalid.remove(0);
    let shown = one.snippet();
    assert_eq!(format!("{}:{}", one.at.line, one.at.column), place, "{shown}");
    assert_eq!(one.field, field, "{shown}");
    assert!(one.why.contains(why), "{shown}");
    let is_kept_out = match one.object.as_ref().map(|object| &*object.kind) {
        Some("Secret" | "ConfigMap" | "ApiKey") => true,
        Some("TestPolicy") | None => one.is_misshapen,
        // The value of a header beside it may be a credential, and so may a query.
        Some(_) => {
            field.contains("HeaderModifier")
                || field.contains(".headers")
                || why == "query"
                || why.starts_with("what is written here")
        }
    };
    assert_eq!(one.line.is_some(), !is_kept_out, "{shown}");
    one
}

fn http_route(spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web}}\nspec:\n{spec}")
}

fn http_rule(rule: &str) -> String {
    let rule: String = rule.lines().map(|line| format!("  {line}\n")).collect();
    http_route(&format!("rules:\n-\n{rule}"))
}

fn gateway(spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: web}}\nspec:\n{spec}")
}

const LISTENER: &str = "- {name: http, port: 80, protocol: HTTP}";

#[test]
fn an_unknown_field_is_refused_with_a_suggestion() {
    let one =
        wrong(&http_rule("matches:\n- pth: {value: /a}"), "8:7", "spec.rules[0].matches[0]", "unknown field `pth`");
    assert_eq!(one.remedy.as_deref(), Some("did you mean `path`?"));
    assert_eq!(one.object.unwrap().to_string(), "HTTPRoute default/web");
    assert!(one.line.unwrap().contains("pth"));
    wrong(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspecs: {}\nspec: {}\n",
        "4:1",
        "",
        "unknown field `specs`",
    );
}

#[test]
fn a_wrong_type_is_refused_with_a_remedy() {
    let one = wrong(
        &gateway("listeners:\n- {name: http, port: \"80\", protocol: HTTP}"),
        "6:24",
        "spec.listeners[0].port",
        "expected a whole number",
    );
    assert_eq!(one.remedy.as_deref(), Some("write it without quotes: 80"));
    let one = wrong(
        &http_rule("matches:\n- headers: [{name: version, value: 2}]"),
        "8:40",
        "spec.rules[0].matches[0].headers[0].value",
        "expected text",
    );
    assert_eq!(one.remedy.as_deref(), Some("put it in quotes"));
    let list = "write `[` before it and `]` behind it, or begin each item with `- `";
    let one = wrong(&http_route("hostnames: a.com"), "5:14", "spec.hostnames", "expected a list");
    assert_eq!(one.remedy.as_deref(), Some(list));
    let one = wrong(&http_route("rules: [1]"), "5:11", "spec.rules[0]", "expected a mapping");
    assert!(one.remedy.is_some_and(|remedy| remedy.contains("known here: name, matches, filters")));
    let modifier = |text: &str| {
        http_rule(&format!("filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{{text}}}}}]"))
    };
    let field = "spec.rules[0].filters[0].requestHeaderModifier";
    let one = wrong(&modifier("set: {a: b}"), "7:74", &format!("{field}.set"), "expected a list, found a mapping");
    assert_eq!(one.remedy.as_deref(), Some("begin each item with `- `"));
    let one = wrong(&modifier("remove: X-A"), "7:77", &format!("{field}.remove"), "expected a list, found text");
    assert_eq!(one.remedy.as_deref(), Some(list));
    let one = wrong(&http_rule("name: [a]"), "7:11", "spec.rules[0].name", "expected text, found a list");
    assert_eq!(one.remedy.as_deref(), Some("write one text, without `[`, `]` and `- `"));
}

#[test]
fn a_word_that_is_not_allowed_is_shown_unless_it_may_be_a_credential() {
    let persistence = |kind: &str| http_rule(&format!("sessionPersistence:\n  type: {kind}\n"));
    let field = "spec.rules[0].sessionPersistence.type";
    let one = wrong(&persistence("cookie"), "8:13", field, "\"cookie\" is not allowed here");
    assert_eq!(one.remedy.as_deref(), Some("did you mean `Cookie`?"));
    assert_eq!(one.line.as_deref(), Some("      type: cookie"));
    let random = "5ec9e7deadbeefcafe0123456789abcdef";
    let one = wrong(&persistence(random), "8:13", field, "what is written here is not allowed here");
    assert_eq!(one.line, None);
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = format!(
        "{}---\n{}",
        http_route("hostnames: [A.com, 'b.com:80']\nruls: []"),
        gateway("listeners: []\nadresses: []")
    );
    let loaded = load_text(&text);
    let places: Vec<u32> = loaded.invalid.iter().map(|one| one.at.line).collect();
    assert_eq!(places, [5, 5, 6, 12, 13]);
}

#[test]
fn a_missing_field_is_named() {
    wrong(&gateway("gatewayClassName: x"), "5:3", "spec.listeners", "`listeners` is missing");
    wrong(&gateway("listeners:\n- {name: http, protocol: HTTP}"), "6:5", "spec.listeners[0].port", "`port` is missing");
    wrong("apiVersion: v1\nkind: Service\nspec: {}\n", "1:1", "", "`metadata` is missing");
    wrong("kind: Service\nmetadata: {name: a}\n", "1:1", "apiVersion", "missing");
    wrong(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\n",
        "1:1",
        "",
        "`spec` is missing",
    );
}

#[test]
fn kinds_are_recognised_or_explained() {
    let one = wrong(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HttpRout\nmetadata: {name: a}\n",
        "2:7",
        "kind",
        "no kind `HttpRout`",
    );
    assert_eq!(one.remedy.as_deref(), Some("did you mean `HTTPRoute`?"));
    let one = wrong(
        "apiVersion: v1\nkind: HTTPRoute\nmetadata: {name: a}\n",
        "1:13",
        "apiVersion",
        "HTTPRoute is not in `v1`",
    );
    assert!(one.remedy.unwrap().contains("gateway.networking.k8s.io/v1"));
    wrong(
        "apiVersion: gateway.networking.k8s.io/v7\nkind: HTTPRoute\nmetadata: {name: a}\n",
        "1:13",
        "apiVersion",
        "no HTTPRoute of version `v7`",
    );
    wrong("apiVersion: v1\nkind: Sevice\nmetadata: {name: a}\n", "2:7", "kind", "no kind");
    wrong("apiVersion: transept.dev/v1alpha1\nkind: Bakend\n", "2:7", "kind", "no kind");
    wrong("just text\n", "1:1", "", "expected an object");
    for skipped in [
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {name: a}\n",
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XMesh\nmetadata: {name: a}\n",
        "apiVersion: example.com/v1\nkind: Service\nmetadata: {name: a}\n",
    ] {
        let loaded = good(skipped);
        assert_eq!(loaded.notes.len(), 1, "{skipped}");
        assert_eq!(loaded.notes[0].object.as_ref().unwrap().name, "a");
    }
}

#[test]
fn defaults_of_the_api_are_filled_in() {
    let loaded = good(&format!(
        "{}---\n{}",
        gateway(
            "listeners:\n- {name: https, port: 443, protocol: https, tls: {certificateRefs: [{name: c}]}}\naddresses: [{}]"
        ),
        http_rule(
            "matches: [{headers: [{name: a, value: b}], queryParams: [{name: a, value: b}]}]\nfilters:\n- {type: RequestRedirect, requestRedirect: {}}\n- {type: CORS, cors: {}}"
        )
    ));
    let gateway = &loaded.world.gateways()[0].spec;
    let listener = &gateway.listeners[0];
    assert_eq!(listener.protocol, Protocol::Https);
    assert_eq!(listener.tls.as_ref().unwrap().certificate_refs[0].kind, "Secret");
    let encoded = gateway.encode();
    assert_eq!(encoded["listeners"][0]["tls"]["mode"], "Terminate");
    assert_eq!(encoded["listeners"][0]["allowedRoutes"]["namespaces"]["from"], "Same");
    assert_eq!(encoded["addresses"][0]["type"], "IPAddress");
    let route = &loaded.world.http_routes()[0].spec;
    let encoded = route.encode();
    assert_eq!(encoded["parentRefs"][0]["kind"], "Gateway");
    let one = &encoded["rules"][0]["matches"][0];
    assert_eq!(one["path"], serde_json::json!({"type": "PathPrefix", "value": "/"}));
    assert_eq!(one["headers"][0]["type"], "Exact");
    assert_eq!(one["queryParams"][0]["type"], "Exact");
    assert_eq!(encoded["rules"][0]["filters"][0]["requestRedirect"]["statusCode"], 302);
    assert_eq!(encoded["rules"][0]["filters"][1]["cors"]["maxAge"], 5);
    let bare = good(&http_route("parentRefs: [{name: x}]"));
    let encoded = bare.world.http_routes()[0].spec.encode();
    assert_eq!(encoded["rules"][0]["matches"][0]["path"]["value"], "/");
    let weighted = good(&http_rule("backendRefs: [{name: a, port: 80}]"));
    let backend = &weighted.world.http_routes()[0].spec.rules[0].backend_refs[0];
    assert_eq!((backend.weight, &*backend.kind, &*backend.group), (1, "Service", ""));
}

#[test]
fn path_matches_obey_the_rules_of_the_api() {
    let at = |value: &str| http_rule(&format!("matches: [{{path: {{type: Exact, value: '{value}'}}}}]"));
    let field = "spec.rules[0].matches[0].path.value";
    for (value, why) in [
        ("a", "begins with `/`"),
        ("/a//b", "`//`"),
        ("/a/./b", "element `.`"),
        ("/a/.", "element `.`"),
        ("/a/../b", "element `..`"),
        ("/a/..", "element `..`"),
        ("/a%2fb", "encoded `/`"),
        ("/a%2Fb", "encoded `/`"),
        ("/a#b", "fragment"),
        ("/a?b=c", "query"),
        ("/a b", "is not a path"),
        ("/%zz", "is not a path"),
    ] {
        wrong(&at(value), "7:43", field, why);
    }
    good(&http_rule("matches: [{path: {type: RegularExpression, value: 'a//b'}}]"));
    good(&http_rule("matches: [{path: {value: '/a/%20;v=1/'}}]"));
}

#[test]
fn filters_obey_the_rules_of_the_api() {
    let rule = |filters: &str| http_rule(&format!("filters:\n{filters}"));
    wrong(
        &rule("- {type: RequestRedirekt, requestRedirect: {}}"),
        "8:14",
        "spec.rules[0].filters[0].type",
        "not allowed",
    );
    wrong(
        &rule("- {type: CORS, urlRewrite: {}, cors: {}}"),
        "8:20",
        "spec.rules[0].filters[0]",
        "`urlRewrite` is set, but `type` is CORS",
    );
    wrong(&rule("- {type: CORS}"), "8:7", "spec.rules[0].filters[0]", "`cors` is not set");
    let one = wrong(&rule("- {cors: {}}"), "8:7", "spec.rules[0].filters[0]", "`type` is missing");
    assert_eq!(one.remedy.as_deref(), Some("add `type: CORS`"));
    wrong(
        &rule("- {type: CORS, cors: {}}\n- {type: CORS, cors: {}}"),
        "9:7",
        "spec.rules[0].filters[1]",
        "a second CORS filter",
    );
    wrong(
        &rule("- {type: URLRewrite, urlRewrite: {}}\n- {type: RequestRedirect, requestRedirect: {}}"),
        "8:7",
        "spec.rules[0].filters",
        "cannot stand together",
    );
    wrong(
        &http_rule("filters: [{type: RequestRedirect, requestRedirect: {}}]\nbackendRefs: [{name: a, port: 1}]"),
        "7:15",
        "spec.rules[0].filters",
        "cannot have backendRefs",
    );
    let prefix = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}";
    wrong(
        &http_rule(&format!("matches: [{{path: {{value: /a}}}}, {{path: {{value: /b}}}}]\nfilters: [{prefix}]")),
        "8:15",
        "spec.rules[0].filters[0]",
        "exactly one match",
    );
    wrong(
        &http_rule(&format!(
            "matches: [{{path: {{type: Exact, value: /a}}}}]\nbackendRefs: [{{name: a, port: 1, filters: [{prefix}]}}]"
        )),
        "8:48",
        "spec.rules[0].backendRefs[0].filters[0]",
        "exactly one match",
    );
    good(&http_rule(&format!("filters: [{prefix}]")));
    wrong(
        &rule("- {type: RequestRedirect, requestRedirect: {statusCode: 304}}"),
        "8:61",
        "spec.rules[0].filters[0].requestRedirect.statusCode",
        "304 is not a redirect",
    );
    let mirror = "- {type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}";
    wrong(
        &rule(&format!("{mirror}, percent: 5, fraction: {{numerator: 1}}}}}}")),
        "8:99",
        "spec.rules[0].filters[0].requestMirror.fraction",
        "cannot both be set",
    );
    wrong(
        &rule(&format!("{mirror}, percent: 101}}}}")),
        "8:86",
        "spec.rules[0].filters[0].requestMirror.percent",
        "between 0 and 100",
    );
    wrong(
        &rule(&format!("{mirror}, fraction: {{numerator: 3, denominator: 2}}}}}}")),
        "8:99",
        "spec.rules[0].filters[0].requestMirror.fraction.numerator",
        "more than all",
    );
    wrong(
        &rule("- {type: CORS, cors: {allowOrigins: ['*', 'https://a.com']}}"),
        "8:41",
        "spec.rules[0].filters[0].cors.allowOrigins",
        "stands alone",
    );
    wrong(
        &rule("- {type: CORS, cors: {allowOrigins: ['a.com']}}"),
        "8:42",
        "spec.rules[0].filters[0].cors.allowOrigins[0]",
        "is not an origin",
    );
    wrong(
        &rule("- {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: 'a b', value: c}]}}"),
        "8:74",
        "spec.rules[0].filters[0].requestHeaderModifier.set[0].name",
        "is not a header name",
    );
    wrong(
        &rule(
            "- {type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: a, port: 1}, http: {}, grpc: {}}}",
        ),
        "8:97",
        "spec.rules[0].filters[0].externalAuth.http",
        "`protocol` is GRPC",
    );
    let read = good(&rule("- {type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}"));
    let filters = &read.world.http_routes()[0].spec.rules[0].filters;
    assert!(matches!(&filters[0], HttpRouteFilter::ExtensionRef(one) if one.name == "d"));
}

#[test]
fn routes_obey_the_rules_of_the_api() {
    wrong(&http_rule("backendRefs: [{name: a}]"), "7:19", "spec.rules[0].backendRefs[0]", "needs a port");
    good(&http_rule("backendRefs: [{group: transept.dev, kind: Backend, name: a}]"));
    wrong(
        &http_rule("timeouts: {request: 1s, backendRequest: 2s}"),
        "7:45",
        "spec.rules[0].timeouts.backendRequest",
        "longer",
    );
    good(&http_rule("timeouts: {request: 0s, backendRequest: 2s}"));
    let one =
        wrong(&http_rule("timeouts: {request: 10}"), "7:25", "spec.rules[0].timeouts.request", "expected a duration");
    assert_eq!(one.remedy.as_deref(), Some("write the unit: 10s or 10ms"));
    wrong(&http_rule("timeouts: {request: 1.5s}"), "7:25", "spec.rules[0].timeouts.request", "is not a duration");
    wrong(&http_route("rules:\n- {name: a}\n- {name: a}"), "7:5", "spec.rules[1]", "called `a` as well");
    wrong(&http_route("hostnames: [127.0.0.1, '*']"), "5:26", "spec.hostnames[1]", "not a host name");
    wrong(
        &http_rule("matches: [{headers: [{name: a, value: b}, {name: a, value: c}]}]"),
        "7:54",
        "spec.rules[0].matches[0].headers",
        "in this list already",
    );
    wrong(&http_rule("matches: [{method: get}]"), "7:24", "spec.rules[0].matches[0].method", "not allowed");
    wrong(&http_route("parentRefs:\n- {name: a}\n- {name: a}"), "7:5", "spec.parentRefs[1]", "same parent as line 6");
    wrong(
        &http_route("parentRefs:\n- {name: a}\n- {name: a, sectionName: b}"),
        "7:5",
        "spec.parentRefs[1]",
        "not with the same fields",
    );
    good(&http_route("parentRefs:\n- {name: a, port: 1}\n- {name: a, port: 2}"));
    wrong(&http_rule("retry: {codes: [200]}"), "7:21", "spec.rules[0].retry.codes[0]", "between 400 and 599");
    let rules = vec!["- {}"; 17].join("\n");
    wrong(&http_route(&format!("rules:\n{rules}")), "22:5", "spec.rules", "at most 16 items");
    let matches = vec!["{}"; 64].join(", ");
    let rules = vec![format!("- {{matches: [{matches}]}}"); 3].join("\n");
    wrong(&http_route(&format!("rules:\n{rules}")), "6:5", "spec.rules", "192 matches");
    wrong(
        &http_rule("sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}"),
        "7:25",
        "spec.rules[0].sessionPersistence",
        "needs an end",
    );
}

#[test]
fn grpc_routes_obey_the_rules_of_the_api() {
    let rule = |rule: &str| http_rule(rule).replace("kind: HTTPRoute", "kind: GRPCRoute");
    good(&rule("matches: [{method: {service: a.b.C, method: D}}]\nbackendRefs: [{name: a, port: 1}]"));
    wrong(&rule("matches: [{method: {}}]"), "7:24", "spec.rules[0].matches[0].method", "needs a service or a method");
    wrong(
        &rule("matches: [{method: {service: a/b}}]"),
        "7:34",
        "spec.rules[0].matches[0].method.service",
        "not a gRPC service",
    );
    wrong(&rule("timeouts: {}"), "7:5", "spec.rules[0]", "unknown field `timeouts`");
    wrong(&rule("backendRefs: [{name: a}]"), "7:19", "spec.rules[0].backendRefs[0]", "needs a port");
}

#[test]
fn gateways_obey_the_rules_of_the_api() {
    let listeners = |list: &str| gateway(&format!("listeners:\n{list}"));
    wrong(
        &listeners("- {name: a, port: 80, protocol: HTTP, tls: {options: {a: b}}}"),
        "6:46",
        "spec.listeners[0].tls",
        "has no TLS",
    );
    wrong(
        &listeners("- {name: a, port: 80, protocol: HTTPS, tls: {mode: Passthrough}}"),
        "6:47",
        "spec.listeners[0].tls",
        "must end TLS itself",
    );
    wrong(
        &listeners("- {name: a, port: 80, protocol: HTTPS, tls: {}}"),
        "6:47",
        "spec.listeners[0].tls.certificateRefs",
        "needs a certificate",
    );
    wrong(&listeners("- {name: a, port: 80, protocol: TLS}"), "6:5", "spec.listeners[0]", "with a mode");
    wrong(
        &listeners("- {name: a, port: 80, protocol: TCP, hostname: a.b}"),
        "6:50",
        "spec.listeners[0].hostname",
        "cannot tell host names apart",
    );
    wrong(
        &listeners("- {name: a, port: 80, protocol: HTTP}\n- {name: a, port: 81, protocol: HTTP}"),
        "7:12",
        "spec.listeners",
        "in this list already",
    );
    wrong(
        &listeners("- {name: a, port: 80, protocol: HTTP}\n- {name: b, port: 80, protocol: HTTP}"),
        "7:5",
        "spec.listeners[1]",
        "same port, protocol and hostname",
    );
    good(&listeners("- {name: a, port: 80, protocol: HTTP}\n- {name: b, port: 80, protocol: HTTP, hostname: a.b}"));
    good(&listeners("- {name: a, port: 1111, protocol: INVALID}"));
    wrong(&listeners("- {name: a, port: 0, protocol: HTTP}"), "6:21", "spec.listeners[0].port", "between 1 and 65535");
    wrong(
        &listeners("- {name: a, port: 65536, protocol: HTTP}"),
        "6:21",
        "spec.listeners[0].port",
        "between 1 and 65535",
    );
    wrong(
        &listeners("- {name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}}"),
        "6:76",
        "spec.listeners[0].allowedRoutes.namespaces.from",
        "needs a selector",
    );
    wrong(
        &gateway(&format!("listeners:\n{LISTENER}\naddresses: [{{value: 1.1.1.1}}, {{value: 1.1.1.1}}]")),
        "7:33",
        "spec.addresses[1]",
        "already",
    );
    wrong(
        &gateway(&format!(
            "listeners:\n{LISTENER}\ntls: {{frontend: {{default: {{}}, perPort: [{{port: 1, tls: {{}}}}, {{port: 1, tls: {{}}}}]}}}}"
        )),
        "7:70",
        "spec.tls.frontend.perPort[1].port",
        "on line 7 already",
    );
}

#[test]
fn backends_and_their_tls_obey_their_rules() {
    let backend = |spec: &str| {
        let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
        format!("apiVersion: transept.dev/v1alpha1\nkind: Backend\nmetadata: {{name: b}}\nspec:\n{spec}")
    };
    let loaded = good(&backend("endpoints: [{address: '::1', port: 1}, {address: a_b.Local, port: 2, weight: 0}]"));
    let spec = &loaded.world.backend("default", "b").unwrap().spec;
    assert_eq!(spec.connect_timeout, Duration::from_secs(5));
    assert!(spec.endpoints[0].ip().is_some() && spec.endpoints[1].ip().is_none());
    for (address, remedy) in
        [("http://a", "only the name"), ("a:80", "goes into `port`"), ("[::1]:80", "goes into `port`")]
    {
        let text = backend(&format!("endpoints: [{{address: '{address}', port: 1}}]"));
        let one = wrong(&text, "5:25", "spec.endpoints[0].address", "neither an IP address");
        assert!(one.remedy.unwrap().contains(remedy));
    }
    wrong(&backend("endpoints: [{address: 1.2.3.400, port: 1}]"), "5:25", "spec.endpoints[0].address", "neither");
    wrong(&backend("endpoints: []"), "5:14", "spec.endpoints", "at least 1 item");
    wrong(
        &backend("endpoints: [{address: a, port: 1}, {address: a, port: 1}]"),
        "5:38",
        "spec.endpoints[1]",
        "same address and port",
    );
    wrong(
        &backend("endpoints: [{address: a, port: 1}]\nprotocol: H2C\ntls: {}"),
        "6:13",
        "spec.protocol",
        "without TLS",
    );
    wrong(&backend("endpoints: [{address: 1.2.3.4, port: 1}]\ntls: {}"), "6:8", "spec.tls", "for which name");
    let policy = |validation: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: p}}\nspec:\n  targetRefs: [{{group: '', kind: Service, name: s}}]\n  validation: {{hostname: a.b, {validation}}}\n"
        )
    };
    wrong(&policy(""), "6:15", "spec.validation", "which authorities");
    wrong(
        &policy("wellKnownCACertificates: System, caCertificateRefs: [{group: '', kind: ConfigMap, name: c}]"),
        "6:56",
        "spec.validation.wellKnownCACertificates",
        "cannot both be set",
    );
    let loaded = good(&policy("wellKnownCACertificates: System, subjectAltNames: [{type: URI, uri: 'spiffe://a/b'}]"));
    let names = &loaded.world.backend_tls_policies()[0].spec.validation.subject_alt_names;
    assert!(matches!(&names[0], SubjectAltName::Uri(uri) if *uri == "spiffe://a/b"));
}

#[test]
fn core_objects_take_the_fields_that_kubernetes_writes() {
    let loaded = good(concat!(
        "apiVersion: v1\nkind: Service\n",
        "metadata: {name: s, namespace: n, uid: x, resourceVersion: '5', managedFields: [{}], creationTimestamp: null}\n",
        "spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], sessionAffinity: None, selector: {a: b},\n",
        "  ports: [{port: 80, targetPort: http, protocol: TCP, nodePort: 30000}]}\nstatus: {loadBalancer: {}}\n",
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n",
        "metadata: {name: s-1, namespace: n, labels: {kubernetes.io/service-name: s}}\naddressType: IPv4\n",
        "endpoints: [{addresses: [127.0.0.1], nodeName: x, conditions: {ready: true}, targetRef: {kind: Pod}}]\n",
        "ports: [{name: '', port: 8080}]\n",
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: n, labels: {team: shop}}\nspec: {finalizers: [kubernetes]}\n",
    ));
    let world = &loaded.world;
    assert!(world.service("n", "s").is_some());
    assert_eq!(world.endpoint_slices_of("n", "s").len(), 1);
    assert_eq!(world.endpoint_slices_of("n", "t").len(), 0);
    let labels = world.namespace_labels("n");
    assert_eq!(labels.get("team").map(String::as_str), Some("shop"));
    assert_eq!(labels.get("kubernetes.io/metadata.name").map(String::as_str), Some("n"));
    assert_eq!(world.namespace_labels("other").len(), 1);
    wrong(
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 1}, {port: 2, name: b}]}\n",
        "4:16",
        "spec.ports[0]",
        "needs a name",
    );
    wrong("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selektor: {}}\n", "4:8", "spec", "unknown field");
    wrong("apiVersion: v1\nkind: Service\nmetadata: {name: S}\nspec: {}\n", "3:18", "metadata.name", "not a name");
    wrong(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: s, namespace: x}\n",
        "3:32",
        "metadata.namespace",
        "has no namespace",
    );
}

#[test]
fn secrets_are_read_and_never_shown() {
    let loaded = good(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: Opaque\ndata: {a: aGVsbG8=, b: aGVs}\nstringData: {b: plain}\n",
    );
    let secret = loaded.world.secret("default", "s").unwrap();
    assert_eq!(secret.spec.entry("a"), Some(&b"hello"[..]));
    assert_eq!(secret.spec.entry("b"), Some(&b"plain"[..]));
    assert_eq!(secret.spec.entry("c"), None);
    let shown = format!("{secret:?}{}", secret.spec.encode());
    assert!(!shown.contains("hello") && !shown.contains("plain") && !shown.contains("aGVs"), "{shown}");
    let one = wrong(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: 'pass word'}\n",
        "4:11",
        "data[a]",
        "not base64",
    );
    assert!(!one.why.contains("pass") && one.remedy.unwrap().contains("stringData"));
    wrong(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {pin: 1234}\n",
        "4:19",
        "stringData[pin]",
        "expected text",
    );
    let one = wrong(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {'pass word': 1234}\n",
        "4:27",
        "stringData[…]",
        "expected text",
    );
    assert!(!format!("{one:?}").contains("pass"), "{one:?}");
}

/// Answers like an environment in which only `GOOD` is set.
struct Surroundings(RefCell<Vec<ValueFrom>>);

impl Outside for Surroundings {
    fn read(&self, wanted: &Wanted) -> Result<Vec<u8>, String> {
        self.0.borrow_mut().push(wanted.from.clone());
        match &wanted.from {
            ValueFrom::Env(name) if name == "GOOD" => Ok(b"value".to_vec()),
            _ => Err("not there".to_owned()),
        }
    }
}

#[test]
fn values_of_secrets_come_from_outside() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n  annotations:\n    transept.dev/from-env: a=GOOD, b = BAD\n    transept.dev/from-file: c=d/e.pem\n";
    let outside = Surroundings(RefCell::new(Vec::new()));
    let files = [SourceText::new("a.yaml", text)];
    let loaded = Loader::new(&[]).outside(&outside).load(&files);
    assert!(loaded.invalid.is_empty());
    let secret = loaded.world.secret("default", "s").unwrap();
    assert_eq!(secret.spec.entry("a"), Some(&b"value"[..]));
    assert_eq!(secret.spec.entry("b"), None);
    assert_eq!(loaded.notes.len(), 2);
    assert!(loaded.notes[0].what.contains("BAD: not there"), "{}", loaded.notes[0]);
    assert_eq!(outside.0.borrow()[2], ValueFrom::File("d/e.pem".to_owned()));
    wrong(&text.replace("a=GOOD", "GOOD"), "6:28", "metadata.annotations.transept.dev/from-env", "key=source");
}

#[test]
fn the_same_object_twice_is_a_note_and_another_one_of_its_name_an_error() {
    let text = http_route("hostnames: [a.b]");
    let loaded = good(&format!("{text}---\n\n\n{text}"));
    assert_eq!(loaded.world.http_routes().len(), 1);
    assert!(loaded.notes[0].what.contains("a.yaml:1:1"), "{}", loaded.notes[0]);
    let other = text.replace("a.b", "c.d");
    wrong(&format!("{text}---\n{other}"), "7:1", "", "another one in a.yaml:1:1");
}

#[test]
fn age_is_the_creation_time_or_the_order_of_the_files() {
    let named =
        |name: &str, time: &str| http_route("hostnames: [a.b]").replace("name: web", &format!("name: {name}{time}"));
    let files = [
        SourceText::new("b.yaml", format!("{}---\n{}", named("z", ""), named("y", ""))),
        SourceText::new(
            "a.yaml",
            format!(
                "{}---\n{}---\n{}",
                named("x", ", creationTimestamp: '2026-01-02T00:00:00Z'"),
                named("w", ", creationTimestamp: '2026-01-01T00:00:00Z'"),
                named("v", ", creationTimestamp: '2026-01-01T00:00:00Z'"),
            ),
        ),
    ];
    let loaded = load(&files, &[]);
    assert!(loaded.invalid.is_empty());
    let names: Vec<&str> = loaded.world.http_routes().iter().map(|route| &*route.meta.name).collect();
    assert_eq!(names, ["v", "w", "x", "z", "y"]);
    assert_eq!(loaded.world.http_routes()[3].meta.age, Age::Written { file: 0, document: 0 });
    wrong(&named("x", ", creationTimestamp: yesterday"), "3:40", "metadata.creationTimestamp", "not a time");
}

#[test]
fn a_generation_rises_only_when_the_contents_change() {
    let load_after = |text: &str, before: Option<&World>| {
        let files = [SourceText::new("a.yaml", text)];
        let loader = Loader::new(KINDS);
        match before {
            Some(before) => loader.after(&before.past()).load(&files).world,
            None => loader.load(&files).world,
        }
    };
    let first = load_after(&http_route("hostnames: [a.b]"), None);
    assert_eq!(first.http_routes()[0].meta.generation, 1);
    // Moved down the file, labelled, written in another way: the same contents.
    let moved =
        format!("# a remark\n\n{}", http_route("hostnames:\n- a.b")).replace("name: web", "name: web, labels: {a: b}");
    let same = load_after(&moved, Some(&first));
    assert_eq!(same.http_routes()[0].meta.generation, 1);
    let changed = load_after(&http_route("hostnames: [a.c]"), Some(&same));
    assert_eq!(changed.http_routes()[0].meta.generation, 2);
    let again = load_after(&http_route("hostnames: [a.c]"), Some(&changed));
    assert_eq!(again.http_routes()[0].meta.generation, 2);
    let given = http_route("hostnames: [a.d]").replace("name: web", "name: web, generation: 7");
    assert_eq!(load_after(&given, Some(&again)).http_routes()[0].meta.generation, 7);
}

fn test_policy(spec: &str) -> String {
    format!("apiVersion: transept.dev/v1alpha1\nkind: TestPolicy\nmetadata: {{name: p}}\nspec: {spec}\n")
}

#[test]
fn a_policy_has_a_generation_like_any_object() {
    let policy = |count: u32| {
        let target = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}]";
        [SourceText::new("a.yaml", test_policy(&format!("{{{target}, count: {count}}}")))]
    };
    let first = Loader::new(KINDS).load(&policy(3)).world;
    let past = first.past();
    let generation = |count| Loader::new(KINDS).after(&past).load(&policy(count)).world.policies()[0].meta.generation;
    assert_eq!(generation(3), 1);
    assert_eq!(generation(4), 2);
}

#[test]
fn of_a_policy_the_envelope_is_read_and_the_spec_is_checked() {
    let target = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}]";
    let loaded = good(&test_policy(&format!("{{{target}, count: 3}}")));
    let policy = &loaded.world.policies()[0];
    assert_eq!(policy.kind, "TestPolicy");
    assert_eq!(policy.target_refs[0].name, "web");
    assert!(policy.spec.field("targetRefs").is_none());
    assert_eq!(policy.decode::<TestSpec>().unwrap().count, 3);
    wrong(&test_policy("{count: 3}"), "4:7", "spec.targetRefs", "missing");
    wrong(&test_policy(&format!("{{{target}, cont: 3}}")), "4:84", "spec", "unknown field `cont`");
    wrong(&test_policy(&format!("{{{target}, count: 11}}")), "4:91", "spec.count", "between 1 and 10");
    let rule = target.replace("kind: Gateway, name: web", "kind: HTTPRoute, name: web");
    let one = wrong(
        &test_policy(&format!("{{{rule}}}")),
        "4:21",
        "spec.targetRefs[0]",
        "cannot be attached to an HTTPRoute or GRPCRoute",
    );
    assert_eq!(one.remedy.as_deref(), Some("it attaches to: Gateway, rule of a route"));
    let ruled = rule.replace("name: web", "name: web, sectionName: one");
    good(&test_policy(&format!("{{{ruled}}}")));
}

#[test]
fn a_list_is_its_items() {
    let loaded = good(
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  spec: {}\n- apiVersion: v1\n  kind: Service\n  metadata: {name: b}\n  spec: {}\n",
    );
    assert_eq!(loaded.world.services().len(), 2);
}

#[test]
fn errors_of_files_come_in_the_order_of_the_files() {
    let files = [SourceText::new("z.yaml", "a: [\n"), SourceText::new("a.yaml", http_route("hostnames: [A]\nx: 1"))];
    let loaded = load(&files, &[]);
    let places: Vec<String> = loaded.invalid.iter().map(|one| one.at.to_string()).collect();
    assert_eq!(places.len(), 3, "{places:?}");
    assert!(places[0].starts_with("z.yaml") && places[2].starts_with("a.yaml:6"), "{places:?}");
}

#[test]
fn an_object_with_countless_errors_is_cut_short() {
    let keys: String = (0..50_000).map(|n| format!("  k{n}: 1\n")).collect();
    let loaded = load_text(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: a}}\nspec:\n{keys}"
    ));
    assert!(loaded.invalid.len() < 300, "{}", loaded.invalid.len());
    assert!(loaded.invalid.iter().any(|one| one.why.contains("more errors in this object")));
}

#[test]
fn endless_lists_are_refused_in_time() {
    let filters = "- {type: CORS, cors: {}}\n".repeat(20_000);
    let loaded = load_text(&http_rule(&format!("filters:\n{filters}")));
    assert!(loaded.invalid.iter().any(|one| one.why.contains("at most 16 items")));
    let parents = "- {name: a}\n".repeat(20_000);
    let loaded = load_text(&http_route(&format!("parentRefs:\n{parents}")));
    assert!(loaded.invalid.iter().any(|one| one.why.contains("at most 32 items")));
}

#[test]
fn trees_of_any_form_never_panic() {
    let values = [
        "null",
        "true",
        "0",
        "-1",
        "1.5",
        "text",
        "''",
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "{type: x}",
        "{type: CORS}",
        "[null]",
        "{name: a}",
        "[{name: a}, {name: a}]",
        "[1, a, {}]",
        "99999999999",
        "{type: [], path: 1}",
        "é",
    ];
    let fields = [
        "listeners",
        "addresses",
        "tls",
        "rules",
        "parentRefs",
        "hostnames",
        "targetRefs",
        "validation",
        "endpoints",
        "protocol",
        "ports",
        "from",
        "to",
        "infrastructure",
        "allowedListeners",
    ];
    for kind in ["Gateway", "HTTPRoute", "GRPCRoute", "ReferenceGrant", "BackendTLSPolicy"] {
        for field in fields {
            for value in values {
                load_text(&format!(
                    "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{{field}: {value}}}\n"
                ));
            }
        }
    }
    for value in values {
        for top in ["apiVersion", "kind", "metadata", "spec", "data", "items"] {
            load_text(&"apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n".replace(top, "other"));
            load_text(&format!("apiVersion: v1\nkind: List\n{top}: {value}\n"));
        }
        load_text(&http_rule(&format!(
            "matches: {value}\nfilters: {value}\nbackendRefs: {value}\ntimeouts: {value}\nretry: {value}"
        )));
        load_text(&http_rule(&format!(
            "matches: [{{path: {value}, headers: {value}}}]\nfilters: [{{type: URLRewrite, urlRewrite: {value}}}]"
        )));
    }
}
