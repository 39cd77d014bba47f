//! The command line of the real binary, as far as it needs no running gateway: exit codes, output forms, environment.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_transept"));
    command.args(arguments).env_clear();
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    read(&command(arguments).output().expect("the binary starts"))
}

fn read(output: &Output) -> (Option<i32>, String, String) {
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Runs with a text on standard input.
fn feed(arguments: &[&str], text: &str) -> (Option<i32>, String, String) {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
    read(&child.wait_with_output().expect("it ends"))
}

const GOOD: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  rules:
  - backendRefs: [{group: transept.dev, kind: Backend, name: app}]
---
apiVersion: transept.dev/v1alpha1
kind: Backend
metadata: {name: app}
spec: {endpoints: [{address: 127.0.0.1, port: 3000}]}
";

#[test]
fn a_state_without_a_mesh_is_refused_with_what_it_is_for_and_what_helps() {
    let (code, _, told) = run(&["run", "x.yaml", "--state", "somewhere"]);
    assert_eq!(code, Some(2), "{told}");
    for word in ["--state somewhere", "control plane of a mesh", "add --mesh", "proxy --control", "--quotas FILE"] {
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    for arguments in [
        &["nonsense"][..],
        &["run"],
        &["check"],
        &["proxy", "--to", "here"],
        &["proxy"],
        &["proxy", "--to", "http://a", "--control", "a:1"],
        &["run", "x.yaml", "--drain", "30"],
        &["status", "--admin", "https://x"],
        &["explain", "GET", "no url", "-f", "x.yaml"],
        &["sidecar"],
        &["sidecar", "--service", "Cart"],
        &["sidecar", "--service", "cart", "--port", "80/smtp"],
        &["sidecar", "--service", "cart", "--upstream", "catalog"],
    ] {
        let (code, out, err) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {out}{err}");
        assert!(!err.is_empty(), "{arguments:?}");
    }
    let mesh = ["control", "token", "certs", "mesh", "sidecar"];
    let gateway = ["run", "proxy", "check", "explain", "status", "demo", "schema", "completion", "version"];
    for name in gateway.into_iter().chain(mesh) {
        let (code, out, _) = run(&[name, "--help"]);
        assert_eq!(code, Some(0), "{name}");
        assert!(out.contains("Usage: transept"), "{name}");
    }
}

#[test]
fn version_tells_what_it_is() {
    let (code, out, _) = run(&["version", "--json"]);
    assert_eq!(code, Some(0));
    let version: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["gatewayApi"], "v1.6");
}

#[test]
fn completion_knows_the_subcommands() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = run(&["completion", shell]);
        assert_eq!(code, Some(0), "{shell}");
        assert!(out.contains("explain"), "{shell}");
        assert!(!out.contains("demo-part"), "{shell}: nobody writes that");
    }
}

#[test]
fn a_clean_file_is_0_and_shows_what_each_object_gets() {
    let (code, out, err) = feed(&["check", "-"], GOOD);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("default/shop"), "{out}");
    assert!(out.contains("1 route (HTTPRoute GRPCRoute)"), "{out}");
    assert!(out.contains("ok: 0 errors, 0 problems"), "{out}");
    assert!(!out.contains('\u{1b}'), "no colours in a pipe: {out:?}");
}

#[test]
fn every_error_is_shown_at_once_with_line_and_remedy() {
    let wrong = GOOD.replace("rules:", "rulez:").replace("port: 3000", "port: many");
    let (code, out, _) = feed(&["check", "-"], &wrong);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("<stdin>:5:3"), "{out}");
    assert!(out.contains("did you mean `rules`"), "{out}");
    assert!(out.contains("<stdin>:11:"), "{out}");
    assert!(out.contains("^"), "{out}");
    assert!(out.contains("2 errors"), "{out}");
}

#[test]
fn a_dangling_reference_is_a_problem_with_its_place() {
    let dangling = GOOD.replace("name: app}]", "name: gone}]");
    let (code, out, _) = feed(&["check", "-", "-o", "json"], &dangling);
    assert_eq!(code, Some(1), "{out}");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["errors"], Value::Array(Vec::new()));
    assert_eq!(report["problems"][0]["line"], 6, "{out}");
    let conditions = report["objects"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|object| object["kind"] == "HTTPRoute")
        .expect("the route")["status"]["parents"][0]["conditions"]
        .clone();
    let unresolved = conditions
        .as_array()
        .expect("a list")
        .iter()
        .find(|condition| condition["type"] == "ResolvedRefs")
        .expect("the condition");
    assert_eq!(unresolved["status"], "False");
    assert_eq!(unresolved["reason"], "BackendNotFound");
}

#[test]
fn without_a_route_there_is_a_gateway_that_knows_none() {
    let (code, out, _) = feed(&["check", "-"], "");
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("default/default") && out.contains("0 routes"), "{out}");
    let (code, out, _) = feed(&["explain", "GET", "http://localhost:8080/", "-f", "-"], "");
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("404"), "{out}");
}

#[test]
fn json_and_yaml_say_the_same() {
    let (_, json, _) = feed(&["check", "-", "-o", "json"], GOOD);
    let (_, yaml, _) = feed(&["check", "-", "-o", "yaml"], GOOD);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let yaml: Value = serde_saphyr::from_str(&yaml).expect("YAML");
    assert_eq!(json, yaml);
}

#[test]
fn nobody_at_the_admin_address_is_3() {
    // Bound and dropped: nobody listens there now.
    let address =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let (code, _, err) = run(&["status", "--admin", &address.to_string()]);
    assert_eq!(code, Some(3), "{err}");
    assert!(err.contains("no instance answers"), "{err}");
}

#[test]
fn the_environment_mirrors_flags() {
    let address =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let output =
        command(&["status"]).env("TRANSEPT_ADMIN", format!("http://{address}")).output().expect("the binary starts");
    let (code, _, err) = read(&output);
    assert_eq!(code, Some(3));
    assert!(err.contains(&address.to_string()), "{err}");
}

#[test]
fn proxy_prints_the_configuration_that_check_accepts() {
    for to in ["http://127.0.0.1:3000", "https://www.example.com/api"] {
        let (code, yaml, err) = run(&["proxy", "--to", to, "--listen", ":8080", "--print"]);
        assert_eq!(code, Some(0), "{err}");
        let (code, out, _) = feed(&["check", "-"], &yaml);
        assert_eq!(code, Some(0), "{yaml}\n{out}");
    }
}

#[test]
fn schema_knows_every_kind() {
    let (code, out, _) = run(&["schema"]);
    assert_eq!(code, Some(0));
    let all: Value = serde_json::from_str(&out).expect("JSON");
    assert!(all["$schema"].is_string(), "{out}");
    for kind in ["Gateway", "HTTPRoute", "Backend", "HeaderPolicy", "IpAccessPolicy"] {
        let (code, out, err) = run(&["schema", kind]);
        assert_eq!(code, Some(0), "{kind}: {err}");
        let schema: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(schema["properties"]["kind"]["const"], kind, "{out}");
    }
    let (code, _, err) = run(&["schema", "HTTPRout"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("HTTPRoute"), "{err}");
}

const MESH: &str = "\
{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80, appProtocol: http}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec: {rules: [{backendRefs: [{name: cart, port: 80}]}]}
";

#[test]
fn a_service_without_endpoints_in_the_files_is_that_of_instances_that_register() {
    for (url, at) in [("http://localhost:8080/", None), ("http://cart/", Some("cart")), ("http://cart/", Some("web"))] {
        let mut arguments = vec!["explain", "GET", url, "-f", "-"];
        arguments.extend(at.into_iter().flat_map(|at| ["--at", at]));
        let (code, out, err) = feed(&arguments, MESH);
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains("connect    default/cart:80: no endpoint\n"), "{out}");
        assert!(out.contains("instance that has registered") && out.contains("503 (backend.no_endpoints)"), "{out}");
        assert!(out.contains("relay      200"), "{out}");
        assert_eq!(err.contains("only calls"), at == Some("web"), "{err}");
    }
    let (code, _, err) = feed(&["explain", "GET", "http://web/", "-f", "-", "--at", "web", "--identity", "a/b"], MESH);
    assert_eq!(code, Some(1));
    assert!(err.contains("there is no Service default/web") && err.contains("--identity"), "{err}");
}

#[test]
fn beside_a_workload_there_are_no_keys() {
    // Format: brand, environment, 130 random bits and a checksum; this one is in the cases, too.
    let key = "X-API-Key: tr_test_ExampleKeyForTheCases1_0SZ3Ym";
    let guarded = format!(
        "{MESH}---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: calls}}
spec:
  parentRefs: [{{group: '', kind: Service, name: cart}}]
  rules: [{{backendRefs: [{{name: cart, port: 80}}]}}]
---
apiVersion: transept.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {{name: known}}
spec: {{targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: calls}}, {{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}}], schemes: [{{name: key, apiKey: {{}}}}]}}
---
{{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {{name: mobile}}, spec: {{}}}}
---
{{apiVersion: transept.dev/v1alpha1, kind: ApiKey, metadata: {{name: mobile-1}}, spec: {{consumer: mobile,
  hash: 'sha256:3dd2cee603758167246661abbb5d9937c4346264e1e8525e5b641edeb89645b7'}}}}
"
    );
    for (arguments, status) in
        [(&["http://localhost:8080/"][..], "relay      200"), (&["http://cart/", "--at", "web"], "relay      401")]
    {
        let mut all = vec!["explain", "GET", "-f", "-", "-H", key];
        all.extend_from_slice(arguments);
        let (code, out, err) = feed(&all, &guarded);
        assert!(code == Some(0) && out.contains(status), "{out}{err}");
    }
}

#[test]
fn keys_of_a_file_that_is_not_there_are_not_none() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("keys.yaml");
    let file = file.to_str().expect("UTF-8");
    for arguments in [&["list"][..], &["revoke", "mobile-1"], &["rotate", "mobile-1"]] {
        let mut all = vec!["key"];
        all.extend_from_slice(arguments);
        all.extend(["--file", file]);
        let (code, _, err) = run(&all);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains(&format!("there is no file {file}")) && err.contains("key create"), "{err}");
    }
    let (code, _, err) = run(&["key", "create", "--consumer", "mobile", "--file", file]);
    assert_eq!(code, Some(0), "{err}");
    let (code, out, _) = run(&["key", "list", "--file", file]);
    assert!(code == Some(0) && out.contains("mobile-1"), "{out}");
}

#[test]
fn keys_are_in_one_place_and_what_is_written_goes_before_the_environment() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let (file, of_environment, state) = (path("keys.yaml"), path("others.yaml"), path("nowhere"));
    let create = |rest: &[&str]| {
        let mut making = command(&["key", "create", "--consumer", "mobile"]);
        making.args(rest).env("TRANSEPT_KEYS", &of_environment).env("TRANSEPT_TRUST_DOMAIN", "shop.test");
        read(&making.output().expect("the binary starts"))
    };
    for (one, other) in [
        (&["--file", &file][..], &["--state", &state][..]),
        (&["--file", &file], &["--trust-domain", "a.test"]),
        (&["--file", &file], &["--print"]),
        (&["--print"], &["--state", &state]),
    ] {
        let (code, out, err) = create(&[one, other].concat());
        assert!(code == Some(2) && out.is_empty() && err.contains("cannot be used with"), "{one:?} {other:?}: {err}");
        assert!(err.contains(one[0]) && err.contains(other[0]), "{err}");
    }
    let (code, _, err) = create(&["--state", &state]);
    assert!(code == Some(1) && err.contains(&state) && !err.contains("others.yaml"), "{err}");
    let (code, out, err) = create(&["--print"]);
    assert!(code == Some(0) && out.contains("kind: ApiKey"), "{err}");
    assert!(!directory.path().join("others.yaml").exists());
    let (code, _, err) = create(&[]);
    assert!(code == Some(0) && directory.path().join("others.yaml").exists(), "{err}");
}

#[test]
fn a_key_under_a_pepper_is_followed_by_one_under_a_pepper() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let (file, pepper) = (path("keys.yaml"), path("pepper"));
    std::fs::write(&pepper, "0123456789abcdef0123456789abcdef").expect("written");
    let making = ["key", "create", "--consumer", "mobile", "--file", &file, "--pepper-file", &pepper];
    assert_eq!(run(&making).0, Some(0));
    let (code, out, err) = run(&["key", "rotate", "mobile-1", "--file", &file]);
    assert!(code == Some(1) && out.is_empty() && err.contains("--pepper-file"), "{err}");
    assert_eq!(run(&["key", "rotate", "mobile-1", "--file", &file, "--pepper-file", &pepper]).0, Some(0));
}

#[test]
fn an_address_that_a_proxy_cannot_listen_on_is_blamed_on_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|at| (at.to_string(), taken)).expect("bound");
    // The second is for documentation (RFC 5737), and no machine's.
    for (address, why) in [(&*taken.0, "another process listens"), ("192.0.2.1:8080", "not one of this machine")] {
        let (code, _, err) = run(&["proxy", "--to", "http://127.0.0.1:3000", "--listen", address, "--admin", "off"]);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains(why) && err.contains(address) && err.contains("--listen ADDR"), "{err}");
    }
}

#[test]
fn the_socket_that_is_explained_is_the_one_that_the_system_would_choose() {
    let gateway = |name: &str, address: &str| {
        let addresses = match address {
            "" => String::new(),
            address => format!("addresses: [{{type: IPAddress, value: '{address}'}}], "),
        };
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}}}, spec: {{gatewayClassName: transept, \
             {addresses}listeners: [{{name: http, protocol: HTTP, port: 8080}}]}}}}\n---\n"
        )
    };
    let here = gateway("here", "127.0.0.1");
    let explained =
        |yaml: &str, host: &str| feed(&["explain", "GET", &format!("http://{host}:8080/"), "-f", "-"], yaml).1;
    let both = format!("{}{here}", gateway("all", ""));
    assert!(explained(&both, "127.0.0.1").contains("default/here/http"));
    assert!(explained(&both, "127.0.0.2").contains("default/all/http"));
    let none = explained(&both, "[::1]");
    assert!(none.contains("Nothing listens on port 8080"), "all IPv4 addresses: {none}");
    let wide = format!("{}{here}", gateway("wide", "::"));
    assert!(explained(&wide, "[::1]").contains("default/wide/http"));
    assert!(explained(&wide, "127.0.0.2").contains("default/wide/http"), "it takes IPv4 as well");
    assert!(explained(&wide, "127.0.0.1").contains("default/here/http"));
}
