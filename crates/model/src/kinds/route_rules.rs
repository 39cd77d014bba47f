//! The rules between the fields of routes and their filters: what the CRDs' CEL rules forbid.
//!
//! Called while a route is read. References and attachment are not looked at here.

use std::collections::HashMap;

use crate::kinds::filters::{
    CorsFilter, CorsMethod, ExternalAuthFilter, ExternalAuthProtocol, Fraction, GrpcRouteFilter, HttpRouteFilter,
    PathModifier, RequestMirrorFilter,
};
use crate::kinds::grpc_route::{GrpcBackendRef, GrpcMethodMatch, GrpcRouteRule, GrpcRouteSpec};
use crate::kinds::http_route::{
    HttpBackendRef, HttpPathMatch, HttpRouteMatch, HttpRouteRule, HttpRouteSpec, HttpTimeouts, MatchType, PathMatchType,
};
use crate::kinds::refs::{check_parents, needs_port};
use crate::place::Spot;
use crate::schema::{Decoder, GRPC_METHOD, GRPC_SERVICE, PATH_CHARACTERS, Text};
use crate::secrecy::may_be_credential;
use crate::value::Value;

/// Most matches of all rules of a route together.
const MATCHES: usize = 128;

pub(super) fn check_http_route(route: &HttpRouteSpec, value: &Value, cx: &mut Decoder) {
    cx.within("parentRefs", |cx| check_parents(&route.parent_refs, cx));
    let names = route.rules.iter().map(|rule| (rule.name.as_ref(), rule.at));
    let matches = route.rules.iter().map(|rule| rule.matches.len()).sum();
    cx.within("rules", |cx| check_rules(names, matches, value, cx));
}

pub(super) fn check_grpc_route(route: &GrpcRouteSpec, value: &Value, cx: &mut Decoder) {
    cx.within("parentRefs", |cx| check_parents(&route.parent_refs, cx));
    let names = route.rules.iter().map(|rule| (rule.name.as_ref(), rule.at));
    let matches = route.rules.iter().map(|rule| rule.matches.len()).sum();
    cx.within("rules", |cx| check_rules(names, matches, value, cx));
}

fn check_rules<'r>(
    names: impl Iterator<Item = (Option<&'r Text>, Spot)>,
    matches: usize,
    value: &Value,
    cx: &mut Decoder,
) {
    if matches > MATCHES {
        let why = format!("the rules have {matches} matches together, more than {MATCHES}");
        cx.refuse(value.spot_of("rules"), why).remedy("split the route into several");
    }
    let mut seen: HashMap<&str, u32> = HashMap::new();
    for (index, (name, at)) in names.enumerate() {
        let Some(name) = name else { continue };
        if let Some(line) = seen.insert(name, at.line) {
            let why = format!("the rule on line {line} is called `{name}` as well");
            cx.within(index, |cx| {
                cx.refuse(at, why).remedy("give each rule its own name");
            });
        }
    }
}

pub(super) fn check_http_rule(rule: &HttpRouteRule, value: &Value, cx: &mut Decoder) {
    check_http_filters(&rule.filters, value, cx);
    let redirect = rule.filters.iter().position(|filter| matches!(filter, HttpRouteFilter::RequestRedirect(_)));
    if let (Some(index), false) = (redirect, rule.backend_refs.is_empty()) {
        let at = item_spot(value, "filters", index);
        cx.within("filters", |cx| {
            cx.refuse(at, "a redirect answers the request itself, so the rule cannot have backendRefs")
                .remedy("remove `backendRefs` or the redirect");
        });
    }
    check_prefix(&rule.filters, &rule.matches, value, cx);
    let backends = value.field("backendRefs").map_or(&[][..], Value::items);
    for (index, (backend, value)) in rule.backend_refs.iter().zip(backends).enumerate() {
        if !backend.filters.is_empty() {
            cx.within("backendRefs", |cx| {
                cx.within(index, |cx| check_prefix(&backend.filters, &rule.matches, value, cx));
            });
        }
    }
}

/// Replacing the matched prefix needs one match, by prefix: otherwise nobody could say what is replaced.
fn check_prefix(filters: &[HttpRouteFilter], matches: &[HttpRouteMatch], value: &Value, cx: &mut Decoder) {
    let one_prefix = match matches {
        [one] => one.path.r#type == PathMatchType::PathPrefix,
        _ => false,
    };
    if one_prefix {
        return;
    }
    for (index, filter) in filters.iter().enumerate() {
        let path = match filter {
            HttpRouteFilter::RequestRedirect(redirect) => &redirect.path,
            HttpRouteFilter::UrlRewrite(rewrite) => &rewrite.path,
            _ => continue,
        };
        if matches!(path, Some(PathModifier::ReplacePrefixMatch(_))) {
            let at = item_spot(value, "filters", index);
            cx.within("filters", |cx| {
                cx.within(index, |cx| {
                    cx.refuse(at, "`replacePrefixMatch` needs a rule with exactly one match, of type PathPrefix")
                        .remedy("split the rule, or use `replaceFullPath`");
                });
            });
        }
    }
}

pub(super) fn check_http_backend(backend: &HttpBackendRef, value: &Value, cx: &mut Decoder) {
    needs_port(&backend.group, &backend.kind, backend.port, value.at, cx);
    check_http_filters(&backend.filters, value, cx);
}

fn check_http_filters(filters: &[HttpRouteFilter], value: &Value, cx: &mut Decoder) {
    const MANY: &[&str] = &["RequestMirror", "ExtensionRef"];
    let words: Vec<&'static str> = filters.iter().map(HttpRouteFilter::word).collect();
    check_repeated(&words, MANY, value, cx);
    let redirect = words.contains(&"RequestRedirect");
    let rewrite = words.iter().position(|word| *word == "URLRewrite");
    if let (true, Some(index)) = (redirect, rewrite) {
        let at = item_spot(value, "filters", index);
        cx.within("filters", |cx| {
            cx.refuse(at, "URLRewrite and RequestRedirect cannot stand together")
                .remedy("a redirect can change the path by itself: `requestRedirect.path`");
        });
    }
}

pub(super) fn check_grpc_rule(rule: &GrpcRouteRule, value: &Value, cx: &mut Decoder) {
    check_grpc_filters(&rule.filters, value, cx);
}

pub(super) fn check_grpc_backend(backend: &GrpcBackendRef, value: &Value, cx: &mut Decoder) {
    needs_port(&backend.group, &backend.kind, backend.port, value.at, cx);
    check_grpc_filters(&backend.filters, value, cx);
}

fn check_grpc_filters(filters: &[GrpcRouteFilter], value: &Value, cx: &mut Decoder) {
    const MANY: &[&str] = &["RequestMirror", "ExtensionRef"];
    let words: Vec<&'static str> = filters.iter().map(GrpcRouteFilter::word).collect();
    check_repeated(&words, MANY, value, cx);
}

fn check_repeated(words: &[&'static str], many: &[&str], value: &Value, cx: &mut Decoder) {
    // A list that is longer has been refused for its length.
    for (index, word) in words.iter().enumerate().take(64) {
        if !many.contains(word) && words[..index].contains(word) {
            let at = item_spot(value, "filters", index);
            cx.within("filters", |cx| {
                cx.within(index, |cx| {
                    cx.refuse(at, format!("a second {word} filter")).remedy("put both into one filter");
                });
            });
        }
    }
}

fn item_spot(value: &Value, field: &str, index: usize) -> Spot {
    let items = value.field(field).map_or(&[][..], Value::items);
    items.get(index).map_or(value.at, |item| item.at)
}

pub(super) fn check_path(path: &HttpPathMatch, value: &Value, cx: &mut Decoder) {
    if path.r#type == PathMatchType::RegularExpression {
        return;
    }
    let at = value.spot_of("value");
    let text = path.value.as_str();
    cx.within("value", |cx| {
        let why = if !text.starts_with('/') {
            "a path begins with `/`"
        } else if text.contains("//") {
            "a path cannot contain `//`"
        } else if text.contains("/./") || text.ends_with("/.") {
            "a path cannot contain the element `.`"
        } else if text.contains("/../") || text.ends_with("/..") {
            "a path cannot contain the element `..`"
        } else if text.contains("%2f") || text.contains("%2F") {
            "a path cannot contain an encoded `/`"
        } else if text.contains('#') {
            "a path has no fragment (`#`)"
        } else if text.contains('?') {
            "a path has no query (`?`)"
        } else {
            PATH_CHARACTERS.check(text, at, cx);
            return;
        };
        let invalid = cx.refuse(at, why);
        if !text.starts_with('/') && may_be_credential(text) {
            invalid.remedy("begin it with `/`");
        } else if !text.starts_with('/') {
            invalid.remedy(format!("write `/{}`", text.trim_start_matches('.')));
        } else if text.contains('?') {
            invalid.remedy("match query parameters with `queryParams`");
        }
    });
}

pub(super) fn check_timeouts(timeouts: &HttpTimeouts, value: &Value, cx: &mut Decoder) {
    let (Some(request), Some(backend)) = (timeouts.request, timeouts.backend_request) else {
        return;
    };
    if !request.is_zero() && backend > request {
        cx.refuse_field(value, "backendRequest", "one try may not take longer than the whole request")
            .remedy("make `backendRequest` shorter or `request` longer");
    }
}

pub(super) fn check_fraction(fraction: &Fraction, value: &Value, cx: &mut Decoder) {
    if fraction.numerator > fraction.denominator {
        let why = format!("{} of {} is more than all", fraction.numerator, fraction.denominator);
        cx.refuse_field(value, "numerator", why);
    }
}

pub(super) fn check_mirror(mirror: &RequestMirrorFilter, value: &Value, cx: &mut Decoder) {
    if mirror.percent.is_some() && mirror.fraction.is_some() {
        cx.refuse_field(value, "fraction", "`percent` and `fraction` cannot both be set").remedy("keep one of them");
    }
}

pub(super) fn check_cors(cors: &CorsFilter, value: &Value, cx: &mut Decoder) {
    let lists = [
        ("allowOrigins", has_star(&cors.allow_origins), cors.allow_origins.len()),
        ("allowMethods", cors.allow_methods.contains(&CorsMethod::Any), cors.allow_methods.len()),
        ("allowHeaders", has_star(&cors.allow_headers), cors.allow_headers.len()),
    ];
    for (field, star, items) in lists {
        if star && items > 1 {
            cx.refuse_field(value, field, "`*` includes everything and stands alone")
                .remedy("remove `*` or everything else");
        }
    }
}

fn has_star(items: &[Text]) -> bool {
    items.iter().any(|item| *item == "*")
}

pub(super) fn check_external_auth(auth: &ExternalAuthFilter, value: &Value, cx: &mut Decoder) {
    let protocol = auth.protocol;
    let (mine, other) = match protocol {
        ExternalAuthProtocol::Grpc => (("grpc", auth.grpc.is_some()), ("http", auth.http.is_some())),
        ExternalAuthProtocol::Http => (("http", auth.http.is_some()), ("grpc", auth.grpc.is_some())),
    };
    if !mine.1 {
        cx.refuse(value.at, format!("`protocol` is {protocol}, but `{}` is not set", mine.0))
            .remedy(format!("add `{}: {{}}`", mine.0));
    }
    if other.1 {
        cx.refuse_field(value, other.0, format!("is set, but `protocol` is {protocol}"));
    }
}

pub(super) fn check_grpc_method(method: &GrpcMethodMatch, value: &Value, cx: &mut Decoder) {
    let says_nothing = |text: &Option<Text>| text.as_deref().is_none_or(str::is_empty);
    if says_nothing(&method.service) && says_nothing(&method.method) {
        cx.refuse(value.at, "a method match needs a service or a method").remedy("add `service:` or `method:`");
        return;
    }
    if method.r#type == MatchType::RegularExpression {
        return;
    }
    // An empty text is no name: to match every service, or every method, the field is left out.
    if let Some(service) = &method.service {
        cx.within("service", |cx| GRPC_SERVICE.check(service, value.spot_of("service"), cx));
    }
    if let Some(name) = &method.method {
        cx.within("method", |cx| GRPC_METHOD.check(name, value.spot_of("method"), cx));
    }
}

#[cfg(test)]
mod tests {
    use crate::load::load;
    use crate::place::SourceText;

    /// What is wrong with an object, by field and reason.
    fn findings(yaml: &str) -> Vec<String> {
        let loaded = load(&[SourceText::new("a.yaml", yaml)], &[]);
        loaded.invalid.iter().map(|invalid| format!("{}: {}", invalid.field, invalid.why)).collect()
    }

    fn grpc_rule(rule: &str) -> Vec<String> {
        let route =
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: calls}\nspec:\n  rules:\n";
        findings(&format!("{route}  - {rule}\n"))
    }

    /// The CEL rules of GRPCMethodMatch.
    #[test]
    fn a_grpc_method_is_matched_by_names_or_by_expressions() {
        let method = |text: &str| grpc_rule(&format!("matches: [{{method: {text}}}]"));
        for good in [
            "{service: shop.v1.Cart}",
            "{method: Add}",
            "{service: .shop.Cart, method: _Add2}",
            "{type: RegularExpression, service: '.*', method: ''}",
        ] {
            assert_eq!(method(good), Vec::<String>::new(), "{good}");
        }
        for nothing in ["{}", "{type: Exact}", "{service: ''}", "{service: '', method: ''}"] {
            let found = method(nothing);
            assert_eq!(found.len(), 1, "{nothing}: {found:?}");
            assert!(found[0].contains("needs a service or a method"), "{found:?}");
        }
        for (bad, field) in [
            ("{service: shop/Cart}", "service"),
            ("{service: '', method: Add}", "service"),
            ("{service: Cart, method: ''}", "method"),
            ("{service: Cart, method: 2}", "method"),
            ("{method: a.b}", "method"),
        ] {
            let found = method(bad);
            assert_eq!(found.len(), 1, "{bad}: {found:?}");
            assert!(found[0].starts_with(&format!("spec.rules[0].matches[0].method.{field}: ")), "{bad}: {found:?}");
        }
    }

    /// The bounds of GRPCRoute: 16 rules, 64 matches a rule, 128 together, 16 filters and headers.
    #[test]
    fn a_grpc_route_has_bounds() {
        let matches = |count: usize| format!("matches: [{}]", vec!["{method: {method: A}}"; count].join(", "));
        assert_eq!(grpc_rule(&matches(64)), Vec::<String>::new());
        assert_eq!(grpc_rule(&matches(65)).len(), 1);
        assert_eq!(grpc_rule(&format!("{0}\n  - {0}", matches(64))), Vec::<String>::new());
        let found = grpc_rule(&format!("{0}\n  - {0}\n  - {1}", matches(64), matches(1)));
        assert!(found.len() == 1 && found[0].contains("129 matches"), "{found:?}");
        assert_eq!(grpc_rule(&["name: a"; 2].join("\n  - ")).len(), 1);
        let header = "{name: a, value: b}";
        assert_eq!(grpc_rule(&format!("matches: [{{headers: [{header}, {header}]}}]")).len(), 1);
        let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}}}";
        assert_eq!(grpc_rule(&format!("filters: [{mirror}, {mirror}]")), Vec::<String>::new());
        let modify = "{type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}}";
        assert_eq!(grpc_rule(&format!("filters: [{modify}, {modify}]")).len(), 1);
        assert_eq!(grpc_rule("filters: [{type: RequestMirror}]").len(), 1);
        assert!(!grpc_rule("filters: [{type: URLRewrite, urlRewrite: {}}]").is_empty());
    }

    /// The rules of GatewayClass: a controller, a short description, whole references.
    #[test]
    fn a_gateway_class_names_its_controller() {
        let class = |spec: &str| {
            findings(&format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: c}}\nspec: {spec}\n"
            ))
        };
        for good in [
            "{controllerName: transept.dev/gateway}",
            "{controllerName: a.test/b/c, parametersRef: {group: '', kind: ConfigMap, name: Any_Name, namespace: n}}",
            &format!("{{controllerName: a.test/b, description: {}}}", "x".repeat(64)),
        ] {
            assert_eq!(class(good), Vec::<String>::new(), "{good}");
        }
        for bad in [
            "{}",
            "{controllerName: transept}",
            "{controllerName: a.test/}",
            "{controllerName: A.test/b}",
            "{controllerName: a.test/b, parametersRef: {kind: ConfigMap, name: c}}",
            "{controllerName: a.test/b, parametersRef: {group: '', kind: ConfigMap, name: ''}}",
            "{controllerName: a.test/b, parametersRef: {group: '', kind: ConfigMap, name: c, namespace: N}}",
            &format!("{{controllerName: a.test/b, description: {}}}", "x".repeat(65)),
        ] {
            assert_eq!(class(bad).len(), 1, "{bad}: {:?}", class(bad));
        }
    }
}
