//! Every file in `examples/` passes `transept check` and decides what its comment promises, with the real binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use transept_testkit::certificates::{Identity, KeyKind, Usage};

fn transept(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_transept")).args(arguments).env_clear().output().expect("the binary starts")
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// All example files, sorted.
fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(examples())
        .expect("examples/")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

/// Copies an example to a directory of its own, with the certificate beside it that its comment tells how to make.
fn stage(file: &Path) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let certs = directory.path().join("certs");
    std::fs::create_dir(&certs).expect("create");
    let identity =
        Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["shop.test", "*.shop.test"]).expect("a certificate");
    std::fs::write(certs.join("shop.pem"), &identity.certificate_pem).expect("write");
    std::fs::write(certs.join("shop.key"), &identity.key_pem).expect("write");
    let copy = directory.path().join(file.file_name().expect("a name"));
    std::fs::copy(file, &copy).expect("copy");
    (directory, copy)
}

#[test]
fn every_example_is_clean() {
    let files = files();
    assert!(files.len() >= 10, "{files:?}");
    for file in files {
        let (_keep, copy) = stage(&file);
        let output = transept(&["check", copy.to_str().expect("UTF-8"), "-o", "json"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}: {text}", file.display());
        let report: Value = serde_json::from_str(&text).expect("JSON");
        assert_ne!(report["objects"], Value::Array(Vec::new()), "{}", file.display());
    }
}

#[test]
fn identities_are_noted_only_where_no_listener_asks_for_certificates() {
    let (directory, copy) = stage(&examples().join("37-certificate-bound-tokens.yaml"));
    let policy = "{apiVersion: transept.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {name: ids}, spec: {targetRefs: [{group: \
                  gateway.networking.k8s.io, kind: HTTPRoute, name: orders}], allow: [{from: [{identities: [shop/desk]}]}]}}";
    let beside = directory.path().join("policy.yaml");
    std::fs::write(&beside, policy).expect("write");
    let notes = || {
        let output = transept(&["check", copy.to_str().expect("UTF-8"), beside.to_str().expect("UTF-8"), "-o", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        report["notes"].to_string()
    };
    assert!(!notes().contains("identities"), "{}", notes());
    let text = std::fs::read_to_string(&copy).expect("readable");
    let open: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("tls: {frontend")).collect();
    std::fs::write(&copy, open.join("\n")).expect("write");
    assert!(notes().contains("it asks for identities"), "{}", notes());
}

#[test]
fn every_example_begins_with_what_it_is_for() {
    for file in files() {
        let text = std::fs::read_to_string(&file).expect("readable");
        assert!(text.starts_with("# "), "{}", file.display());
        assert!(text.lines().count() <= 45, "{}: shorten it", file.display());
    }
}

/// Explains a request against an example and returns the JSON.
fn explain(example: &str, arguments: &[&str]) -> Value {
    let (_keep, copy) = stage(&examples().join(example));
    let mut all = vec!["explain"];
    all.extend_from_slice(arguments);
    all.extend_from_slice(&["-f", copy.to_str().expect("UTF-8"), "--json"]);
    let output = transept(&all);
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn the_longest_prefix_wins_and_the_path_is_rewritten() {
    let decision = explain("02-paths-and-rewrites.yaml", &["GET", "http://localhost:8080/api/users?page=2"]);
    assert_eq!(decision["backend"], "default/api", "{decision:#}");
    assert_eq!(decision["forwarded"]["target"], "/users?page=2");
    let lost: Vec<&Value> =
        decision["considered"].as_array().expect("a list").iter().filter(|one| !one["lost"].is_null()).collect();
    assert_eq!(lost.len(), 1, "{decision:#}");
}

#[test]
fn a_tester_goes_to_the_preview() {
    let url = "http://localhost:8080/";
    for method in ["GET", "HEAD", "POST"] {
        let tester = explain("03-headers-and-methods.yaml", &[method, url, "-H", "x-tester: yes"]);
        assert_eq!(tester["backend"], "default/preview", "{tester:#}");
    }
    let nobody = explain("03-headers-and-methods.yaml", &["POST", url]);
    assert_eq!(nobody["reply"]["status"], 404, "{nobody:#}");
    let reader = explain("03-headers-and-methods.yaml", &["GET", url]);
    assert_eq!(reader["backend"], "default/stable", "{reader:#}");
}

#[test]
fn a_canary_shows_its_weights_and_its_mirror() {
    let decision = explain("04-canary.yaml", &["GET", "http://localhost:8080/"]);
    assert_eq!(decision["backends"][0]["weight"], 9, "{decision:#}");
    assert_eq!(decision["backends"][1]["weight"], 1, "{decision:#}");
}

#[test]
fn only_a_key_with_the_scope_reads_orders() {
    let url = "http://localhost:8080/orders";
    let nobody = explain("18-api-keys.yaml", &["GET", url]);
    assert_eq!(nobody["reply"]["code"], "auth.credentials_missing", "{nobody:#}");
    let header_line = "x-api-key: tr_test_ExampleKeyForTheDocs01_0kWyyA";
    let mobile = explain("18-api-keys.yaml", &["GET", url, "-H", header_line]);
    assert_eq!(mobile["principal"]["id"], "default/mobile", "{mobile:#}");
    assert_eq!(mobile["backend"], "default/orders");
    assert_eq!(header(&mobile["forwarded"]["headers"], "x-auth-scopes").as_deref(), Some("orders.read"));
    assert_eq!(header(&mobile["forwarded"]["headers"], "x-api-key"), None);
}

#[test]
fn a_browser_is_sent_to_log_in_and_a_program_is_not() {
    let url = "http://shop.test:8080/";
    let browser = explain("25-login.yaml", &["GET", url, "-H", "accept: text/html"]);
    assert_eq!(browser["reply"]["code"], "auth.login_required", "{browser:#}");
    assert!(browser.to_string().contains("is sent to https://login.test to log in"), "{browser:#}");
    let program = explain("25-login.yaml", &["GET", url, "-H", "accept: application/json"]);
    assert_eq!(program["reply"]["code"], "auth.credentials_missing", "{program:#}");
    assert!(!browser.to_string().contains("openssl"), "the secret is shown");
}

#[test]
fn tokens_must_be_bound_to_a_key_or_a_certificate() {
    for (example, url, word) in [
        ("36-proof-of-possession.yaml", "http://localhost:8080/orders", "DPoP realm="),
        ("37-certificate-bound-tokens.yaml", "https://shop.test:8443/orders", "Bearer realm="),
    ] {
        let nobody = explain(example, &["GET", url]);
        assert_eq!(nobody["reply"]["code"], "auth.credentials_missing", "{nobody:#}");
        let challenge = header(&nobody["response"]["headers"], "www-authenticate").expect("a challenge");
        assert!(challenge.starts_with(word), "{challenge}");
        // Its keys are not known here, so it is believed; and it is bound to nobody.
        let free = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL2xvZ2luLnRlc3QiLCJhdWQiOiJodHRwczovL2FwaS5zaG9wLnRlc3QiLCJzdWIiOiI3IiwiZXhwIjo0MTAyNDQ0ODAwfQ.AA";
        let shown = explain(example, &["GET", url, "-H", &format!("authorization: Bearer {free}")]);
        assert!(shown.to_string().contains("the token is not bound to who shows it"), "{shown:#}");
    }
}

#[test]
fn the_metadata_of_an_api_say_who_gives_out_tokens() {
    let place = "http://localhost:8080/.well-known/oauth-protected-resource/orders";
    let found = explain("38-protected-resource.yaml", &["GET", place]);
    assert_eq!(found["reply"]["code"], "auth.resource_metadata", "{found:#}");
    let nobody = explain("38-protected-resource.yaml", &["GET", "http://localhost:8080/orders"]);
    let challenge = header(&nobody["response"]["headers"], "www-authenticate").expect("a challenge");
    assert!(challenge.contains("resource_metadata=") && challenge.contains(place), "{challenge}");
}

#[test]
fn a_redirect_needs_no_service() {
    let decision = explain("05-redirects.yaml", &["GET", "http://www.shop.test:8080/old/page"]);
    assert_eq!(decision["response"]["status"], 301, "{decision:#}");
    let location = header(&decision["response"]["headers"], "location");
    assert_eq!(location.as_deref(), Some("http://www.shop.test:8080/new/page"));
}

#[test]
fn a_preflight_is_answered_by_the_gateway() {
    let decision = explain(
        "06-cors.yaml",
        &[
            "OPTIONS",
            "http://localhost:8080/",
            "-H",
            "origin: https://app.shop.test",
            "-H",
            "access-control-request-method: PUT",
        ],
    );
    let allowed = header(&decision["response"]["headers"], "access-control-allow-origin");
    assert_eq!(allowed.as_deref(), Some("https://app.shop.test"), "{decision:#}");
    assert!(decision["forwarded"].is_null(), "{decision:#}");
}

#[test]
fn https_goes_to_the_shop_and_http_to_https() {
    let secure = explain("09-https.yaml", &["GET", "https://www.shop.test:8443/"]);
    assert_eq!(secure["backend"], "default/web", "{secure:#}");
    let plain = explain("09-https.yaml", &["GET", "http://shop.test:8080/a"]);
    let location = header(&plain["response"]["headers"], "location");
    assert_eq!(location.as_deref(), Some("https://shop.test:8443/a"));
}

#[test]
fn only_the_office_reaches_the_staff() {
    let url = "http://localhost:8080/admin";
    let stranger = explain("10-policies.yaml", &["GET", url, "--client", "203.0.113.9"]);
    assert_eq!(stranger["reply"]["status"], 403, "{stranger:#}");
    assert_eq!(stranger["answeredBy"], "IpAccessPolicy default/office-only");
    let office = explain("10-policies.yaml", &["GET", url, "--client", "192.0.2.7"]);
    assert_eq!(office["backend"], "default/web", "{office:#}");
    let sniff = header(&office["response"]["headers"], "x-content-type-options");
    assert_eq!(sniff.as_deref(), Some("nosniff"));
}

#[test]
fn only_the_load_balancer_is_believed() {
    let url = "http://localhost:8080/";
    let forged = ["-H", "x-forwarded-for: 203.0.113.9"];
    let behind = ["GET", url, "--client", "10.1.2.3", forged[0], forged[1]];
    let decision = explain("12-behind-a-proxy.yaml", &behind);
    assert_eq!(decision["client"], "203.0.113.9", "{decision:#}");
    let direct = ["GET", url, "--client", "198.51.100.1", forged[0], forged[1]];
    let decision = explain("12-behind-a-proxy.yaml", &direct);
    assert_eq!(decision["client"], "198.51.100.1", "{decision:#}");
}

#[test]
fn every_user_has_one_endpoint() {
    let endpoint = |user: &str, client: &str| {
        let header = format!("x-user: {user}");
        let decision =
            explain("13-traffic.yaml", &["GET", "http://localhost:8080/", "-H", &header, "--client", client]);
        assert_eq!(decision["traffic"]["policy"], "TrafficPolicy default/cart", "{decision:#}");
        decision["endpoint"].as_str().expect("an endpoint").to_owned()
    };
    assert_eq!(endpoint("7", "203.0.113.9"), endpoint("7", "198.51.100.1"));
    let all: std::collections::BTreeSet<String> = (0..20).map(|n| endpoint(&n.to_string(), "203.0.113.9")).collect();
    assert_eq!(all.len(), 3, "{all:?}");
}

#[test]
fn the_office_writes_and_everybody_reads() {
    let reply = |method: &str, path: &str, client: &str| {
        let url = format!("http://localhost:8080{path}");
        explain("14-authorization.yaml", &[method, &url, "--client", client])["reply"].clone()
    };
    assert!(reply("GET", "/orders", "203.0.113.9").is_null());
    assert!(reply("POST", "/orders/7", "192.0.2.7").is_null());
    let stranger = reply("POST", "/orders", "203.0.113.9");
    assert_eq!(stranger["status"], 403, "{stranger:#}");
    assert_eq!(stranger["cause"], "AuthorizationPolicy default/front, no rule allows it");
    assert_eq!(stranger["detail"], "");
    let admin = reply("GET", "/admin/x", "192.0.2.7");
    assert_eq!(admin["cause"], "AuthorizationPolicy default/front, rule no-admin");
}

#[test]
fn members_read_writers_write_and_nobody_sees_drafts() {
    let reply = |method: &str, target: &str, key: Option<&str>| {
        let url = format!("http://localhost:8080{target}");
        let field = key.map(|key| format!("X-API-Key: {key}"));
        let mut arguments = vec![method, &*url];
        arguments.extend(field.iter().flat_map(|field| ["-H", field]));
        explain("26-authorization-principals.yaml", &arguments)["reply"].clone()
    };
    let key = Some("tr_test_ExampleKeyForTheDocs01_0kWyyA");
    assert!(reply("GET", "/orders", key).is_null());
    assert_eq!(reply("POST", "/orders", key)["cause"], "AuthorizationPolicy default/orders, no rule allows it");
    assert_eq!(reply("GET", "/drafts/1?state=draft", key)["cause"], "AuthorizationPolicy default/orders, rule drafts");
    assert_eq!(reply("GET", "/orders", None)["status"], 401);
}

#[test]
fn the_authorizer_is_asked_and_signed_requests_are_wanted() {
    let decision = explain("27-external-auth.yaml", &["GET", "http://localhost:8080/"]);
    assert!(decision["reply"].is_null() && decision.to_string().contains("Authorization/Check"), "{decision:#}");
    for example in ["28-signatures.yaml", "29-hmac.yaml"] {
        let unsigned = explain(example, &["GET", "http://localhost:8080/orders"]);
        assert_eq!(unsigned["reply"]["status"], 401, "{unsigned:#}");
    }
}

#[test]
fn a_workload_is_asked_on_both_sides() {
    let out = explain("15-mesh.yaml", &["GET", "http://cart/items", "--at", "shop/desk"]);
    assert_eq!(out["rule"]["name"], "shop/cart/0", "{out:#}");
    assert_eq!(out["backends"][1]["backend"], "shop/cart-next:80");
    assert_eq!(out["tunnels"][0]["identity"], "spiffe://transept.local/ns/shop/sa/cart");
    let at_cart = |method: &str, identity: &str| {
        let identity = format!("spiffe://transept.local/ns/shop/sa/{identity}");
        explain("15-mesh.yaml", &[method, "http://cart/items", "--at", "shop/cart", "--identity", &identity])
    };
    assert_eq!(at_cart("GET", "desk")["backend"], "shop/cart-7f3a:8080");
    assert_eq!(at_cart("DELETE", "desk")["reply"]["cause"], "AuthorizationPolicy shop/cart, rule nobody-deletes");
    assert_eq!(at_cart("GET", "till")["reply"]["cause"], "AuthorizationPolicy shop/cart, no rule allows it");
    // As policies name it, it is the same.
    let short = explain("15-mesh.yaml", &["GET", "http://cart/items", "--at", "shop/cart", "--identity", "shop/desk"]);
    let whole = at_cart("GET", "desk");
    assert!(["identity", "told", "backend"].iter().all(|part| short[part] == whole[part]), "{short:#}");
}

#[test]
fn a_namespace_is_closed_but_for_what_a_service_adds() {
    let at = |service: &str, identity: &str| {
        let (url, at) = (format!("http://{service}/"), format!("shop/{service}"));
        explain("43-namespace.yaml", &["GET", &url, "--at", &at, "--identity", identity])["reply"]["cause"].clone()
    };
    assert!(at("cart", "shop/bank").is_null() && at("cart", "default/web").is_null());
    assert_eq!(at("cart", "till/desk"), "AuthorizationPolicy shop/closed, no rule allows it");
    assert!(at("bank", "till/desk").is_null() && at("bank", "shop/cart").is_null());
    let refused = at("bank", "till/other");
    assert!(refused.as_str().is_some_and(|cause| cause.contains("no rule allows it")), "{refused}");
}

#[test]
fn a_connection_goes_by_the_weights_of_its_route() {
    let decision = explain("17-tcp-route.yaml", &["tcp://localhost:5432"]);
    assert_eq!(decision["isStream"], true, "{decision:#}");
    assert_eq!(decision["rule"]["kind"], "TCPRoute");
    assert_eq!(decision["backends"][1]["backend"], "default/db-next");
    assert_eq!(decision["backends"][1]["weight"], 1);
    assert!(decision["reply"].is_null(), "{decision:#}");
    // What is sent there makes no difference.
    let request = explain("17-tcp-route.yaml", &["GET", "http://localhost:5432/x"]);
    assert_eq!((&request["isStream"], &request["backend"]), (&true.into(), &"default/db".into()), "{request:#}");
}

/// The value of a field in `[[name, value], ...]`.
fn header(fields: &Value, name: &str) -> Option<String> {
    fields
        .as_array()?
        .iter()
        .find(|field| field[0].as_str().is_some_and(|it| it.eq_ignore_ascii_case(name)))
        .and_then(|field| field[1].as_str().map(str::to_owned))
}

#[test]
fn a_limit_says_which_bucket_and_how_much_is_left() {
    let decision = explain("30-rate-limit.yaml", &["GET", "http://localhost:8080/search/shoes"]);
    let told = decision["told"].to_string();
    assert!(told.contains("limit burst of RateLimitPolicy default/each-client, token bucket, by address "), "{told}");
    assert!(told.contains("takes 5, 15 of 20 left"), "{told}");
    let response = decision["response"].to_string();
    assert!(response.contains(";q=20;w=2") && response.contains(";r=15;t=1"), "{response}");
}

#[test]
fn a_place_is_taken_among_all_and_among_those_of_the_client() {
    let told = explain("31-concurrency.yaml", &["GET", "http://localhost:8080/"])["told"].to_string();
    assert!(
        told.contains("limit all of ConcurrencyPolicy default/places, at a time, by everybody: 99 of 100"),
        "{told}"
    );
    assert!(told.contains("3 of 4 places left"), "{told}");
}

#[test]
fn a_quota_names_its_tenant_by_a_hash_and_refuses_who_has_none() {
    let with = explain("32-quota.yaml", &["GET", "http://localhost:8080/", "-H", "X-Tenant: ada-and-her-secret"]);
    let told = with["told"].to_string();
    assert!(told.contains("999 of 1000 left") && told.contains("19999 of 20000 left"), "{told}");
    assert!(!told.contains("ada"), "{told}");
    let without = explain("32-quota.yaml", &["GET", "http://localhost:8080/"]);
    assert_eq!(without["reply"]["code"], "limit.key_missing", "{without:#}");
}

#[test]
fn a_repeat_is_free_to_a_trusted_proxy_alone() {
    let ask = ["GET", "http://localhost:8080/", "-H", "x-request-id: 7", "-H", "X-Tenant: ada", "--client"];
    let told = |client| explain("42-quota-repeats.yaml", &[&ask[..], &[client]].concat())["told"].to_string();
    let free = "takes 1, and nothing when it comes again under this x-request-id";
    assert!(told("10.1.2.3").contains(free) && told("203.0.113.9").contains("takes 1,"));
    assert!(!told("203.0.113.9").contains(free));
}

#[test]
fn an_expression_names_the_tenant_and_the_price() {
    let url = "http://localhost:8080/t/acme/export?rows=900";
    let told = explain("35-limit-expressions.yaml", &["GET", url])["told"].to_string();
    assert!(told.contains("takes 10, as costExpression or costs say, 590 of 600 left"), "{told}");
    assert!(told.contains("by value of request.path.split") && !told.contains("acme"), "{told}");
    let without = explain("35-limit-expressions.yaml", &["GET", "http://localhost:8080/"]);
    assert_eq!(without["reply"]["code"], "limit.key_missing", "{without:#}");
    for rows in [60_000, -1, -100, -150] {
        let url = format!("http://localhost:8080/t/a/b?rows={rows}");
        let unpriced = explain("35-limit-expressions.yaml", &["GET", &url]);
        assert_eq!(unpriced["reply"]["code"], "limit.cost_unknown", "{unpriced:#}");
    }
    for rows in [0, 1, 99] {
        let url = format!("http://localhost:8080/t/a/b?rows={rows}");
        let told = explain("35-limit-expressions.yaml", &["GET", &url])["told"].to_string();
        assert!(told.contains("takes 1, as costExpression or costs say, 599 of 600 left"), "{told}");
    }
}

#[test]
fn a_budget_of_tokens_says_what_is_taken_when_the_response_is_over() {
    let url = "http://localhost:8080/v1/chat";
    let told = explain("39-token-budget.yaml", &["POST", url, "-H", "X-Team: red"])["told"].to_string();
    assert!(
        told.contains("takes 1, and when the response is over usage.total_tokens of the response, 99999 of"),
        "{told}"
    );
    assert!(told.contains("the bytes of request and response / 1000"), "{told}");
    let without = explain("39-token-budget.yaml", &["POST", url]);
    assert_eq!(without["reply"]["code"], "limit.key_missing", "{without:#}");
}

#[test]
fn a_rate_limit_service_is_explained_without_its_call() {
    let url = "http://localhost:8080/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    let decision = explain("40-rate-limit-server.yaml", &["POST", url]);
    assert!(decision["told"].to_string().contains("answers ShouldRateLimit for domain shop"), "{decision:#}");
    assert_eq!(decision["reply"]["code"], "limit.answered", "{decision:#}");
}

#[test]
fn a_shared_limit_is_explained_without_its_store() {
    let decision = explain("33-shared-rate-limit.yaml", &["GET", "http://localhost:8080/"]);
    let told = decision["told"].to_string();
    assert!(
        told.contains("shared token bucket of 100") && told.contains("what is left only its store knows"),
        "{told}"
    );
    assert!(!decision.to_string().contains("change-me"), "{decision:#}");
}

#[test]
fn a_divided_limit_is_explained_as_the_share_that_it_is() {
    let decision = explain("41-divided-rate-limit.yaml", &["GET", "http://localhost:8080/", "-H", "x-tenant: ada"]);
    let told = decision["told"].to_string();
    assert!(told.contains("the share of one of 2 proxies") && told.contains("49 of 50 left"), "{decision:#}");
}

#[test]
fn who_has_a_token_of_the_provider_reads_orders() {
    let text = std::fs::read_to_string(examples().join("24-tokens.yaml")).expect("readable");
    let token = text.lines().find_map(|line| line.split_once(" TOKEN=")).expect("a token in the comment").1;
    let url = "http://localhost:8080/orders";
    let header = format!("authorization: Bearer {token}");
    let allowed = explain("24-tokens.yaml", &["GET", url, "-H", &header]);
    assert_eq!(allowed["backend"], "default/orders", "{allowed:#}");
    assert!(!allowed.to_string().contains(token), "{allowed:#}");
    let without = explain("24-tokens.yaml", &["GET", url]);
    assert_eq!(without["reply"]["status"], 401, "{without:#}");
}
