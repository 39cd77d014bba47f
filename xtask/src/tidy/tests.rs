//! Tests of the rules on bad trees from memory, and the one test that matters: this tree is tidy.

use super::allowed::{Allowed, forgive};
use super::{Finding, Tree, Weight, check, judge, root};

/// A header that satisfies the header rule.
const HEADER: &str = "//! A file of a test tree, long enough to say its job.\n";

/// The rules that fire on one file, without repetition.
fn rules(path: &str, text: &str) -> Vec<&'static str> {
    rules_of(&[(path, text)])
}

fn rules_of(files: &[(&str, &str)]) -> Vec<&'static str> {
    let report = judge(&Tree::of(files));
    let mut rules: Vec<&'static str> =
        report.failures.iter().chain(&report.warnings).map(|finding| finding.rule).collect();
    rules.dedup();
    rules
}

fn rust(code: &str) -> String {
    format!("{HEADER}{code}")
}

#[test]
fn this_tree_is_tidy() {
    let report = check(&root()).expect("the tree can be read");
    assert!(report.files > 50, "only {} files were found under {}", report.files, root().display());
    let all: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert!(all.is_empty(), "{} findings:\n{}", all.len(), all.join("\n"));
}

#[test]
fn clean_code_passes() {
    assert_eq!(
        rules(
            "crates/engine/src/route.rs",
            &rust("use std::net::IpAddr;\nfn route(a: IpAddr) -> bool { a.is_loopback() }\n")
        ),
        [""; 0]
    );
}

#[test]
fn arrows_point_down() {
    let lints = "[lints]\nworkspace = true\n";
    let manifest = |name: &str, dependency: &str| {
        rules(&format!("crates/{name}/Cargo.toml"), &format!("{lints}[dependencies]\n{dependency}\n"))
    };
    assert_eq!(manifest("engine", "transept-model.workspace = true"), [""; 0]);
    assert_eq!(manifest("app", "transept-proxy = { path = \"../proxy\" }"), [""; 0]);
    for (name, dependency) in [
        ("control", "transept-wire.workspace = true"),
        ("control", "transept-proxy.workspace = true"),
        ("proxy", "transept-control = { path = \"../control\" }"),
        ("wire", "transept-model.workspace = true"),
        ("model", "transept-wire.workspace = true"),
        ("engine", "tokio.workspace = true"),
        ("proxy", "anyhow.workspace = true"),
        ("engine", "\n[dependencies.transept-proxy]\nworkspace = true"),
        ("engine", "\n[target.'cfg(unix)'.dependencies]\nsocket2 = \"1\""),
        ("proxy", "transept-testkit.workspace = true"),
    ] {
        assert_eq!(manifest(name, dependency), ["walls"], "{name}: {dependency}");
    }
    assert_eq!(manifest("proxy", "\n[dev-dependencies]\ntransept-testkit.workspace = true"), [""; 0]);
    assert_eq!(rules("crates/shop/Cargo.toml", lints), ["walls"], "an unknown crate");
    assert_eq!(rules("crates/wire/Cargo.toml", "[dependencies]\n"), ["walls"], "no lints");
}

#[test]
fn code_names_only_crates_it_may_know() {
    assert_eq!(rules("crates/control/src/a.rs", &rust("use transept_wire::head::Request;\n")), ["walls"]);
    assert_eq!(rules("crates/proxy/src/a.rs", &rust("fn f() { transept_control::watch(); }\n")), ["walls"]);
    assert_eq!(
        rules("crates/proxy/src/a.rs", &rust("// transept_control does this\nuse transept_engine::Verdict;\n")),
        [""; 0]
    );
}

#[test]
fn the_engine_is_pure() {
    for code in [
        "use tokio::net::TcpStream;",
        "use std::fs;",
        "use std::{fmt, fs::File};",
        "use std::net::{IpAddr, TcpStream};",
        "fn f() { let _ = std::fs::read(\"x\"); }",
        "fn f() { let _ = std::time::Instant::now(); }",
        "fn f() { let _ = SystemTime::now(); }",
        "fn f() { let _ = rand::random::<u8>(); }",
        "thread_local! { static A: u8 = 1; }",
    ] {
        assert_eq!(rules("crates/engine/src/a.rs", &rust(&format!("{code}\n"))), ["walls"], "{code}");
    }
    let test = "#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
    assert_eq!(rules("crates/engine/src/a.rs", &rust(test)), [""; 0], "tests may read files");
    assert_eq!(rules("crates/proxy/src/a.rs", &rust("use std::fs;\n")), [""; 0], "a shell does IO");
}

#[test]
fn unsafe_code_stands_in_one_named_module() {
    let code = "fn f() { unsafe { g() } }\n";
    assert_eq!(rules("crates/proxy/src/a.rs", &rust(code)), ["unsafe"]);
    let bare = rust(&format!("#![allow(unsafe_code)]\n{code}"));
    assert_eq!(judge(&Tree::of(&[("crates/proxy/src/a.rs", &bare)])).failures.len(), 2, "neither invariant nor test");
    let stated = format!(
        "{HEADER}//! Invariant: the pointer is never null.\n#![allow(unsafe_code)]\n{code}#[cfg(test)]\nmod tests {{}}\n"
    );
    assert_eq!(rules("crates/proxy/src/a.rs", &stated), [""; 0]);
    assert_eq!(rules_of(&[("crates/proxy/src/a.rs", &stated), ("crates/proxy/src/b.rs", &stated)]), ["unsafe"]);
    assert_eq!(rules_of(&[("crates/proxy/src/a.rs", &stated), ("crates/wire/src/b.rs", &stated)]), [""; 0]);
}

#[test]
fn files_have_a_header() {
    assert_eq!(rules("xtask/src/a.rs", "fn f() {}\n"), ["header"]);
    assert_eq!(rules("xtask/src/a.rs", "//! Entry point.\nfn f() {}\n"), ["header"]);
    assert_eq!(rules("xtask/src/a.rs", "use a::b;\n//! A header that comes too late to be one.\n"), ["header"]);
}

#[test]
fn files_and_functions_stay_small() {
    let weights = |text: &str| -> Vec<(&'static str, Weight)> {
        let report = judge(&Tree::of(&[("xtask/src/a.rs", text)]));
        report.failures.iter().chain(&report.warnings).map(|finding| (finding.rule, finding.weight)).collect()
    };
    let statics = |count: usize| rust(&"static A: u8 = 1;\n".repeat(count));
    assert_eq!(weights(&statics(499)), []);
    assert_eq!(weights(&statics(500)), [("file-size", Weight::Warn)]);
    assert_eq!(weights(&statics(800)), [("file-size", Weight::Fail)]);
    let tested = rust(&format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "static A: u8 = 1;\n".repeat(900)));
    assert_eq!(weights(&tested), [], "tests do not count");
    let function = |count: usize| rust(&format!("fn f() {{\n{}}}\n", "    g();\n".repeat(count)));
    assert_eq!(weights(&function(68)), []);
    assert_eq!(weights(&function(69)), [("function-size", Weight::Warn)]);
    assert_eq!(weights(&function(98)), [("function-size", Weight::Fail)]);
}

#[test]
fn empty_names_are_refused() {
    for (path, code) in [
        ("xtask/src/util.rs", "fn f() {}"),
        ("xtask/src/common/mod.rs", "fn f() {}"),
        ("xtask/src/a.rs", "pub mod helpers;"),
        ("xtask/src/a.rs", "pub(crate) struct ConnectionManager;"),
        ("xtask/src/a.rs", "enum RequestHandler {}"),
        ("xtask/src/a.rs", "type Context = u8;"),
        ("xtask/src/a.rs", "pub fn get_name() {}"),
    ] {
        assert_eq!(rules(path, &rust(&format!("{code}\n"))), ["names"], "{path}: {code}");
    }
    assert_eq!(
        rules("xtask/src/a.rs", &rust("use std::task::Context;\nstruct Utility;\nfn gets_it(mod_type: u8) {}\n")),
        [""; 0]
    );
}

#[test]
fn nothing_is_unfinished_or_switched_off() {
    let mark = concat!("TO", "DO");
    assert_eq!(rules("xtask/src/a.rs", &rust(&format!("// {mark}: later\n"))), ["unfinished"]);
    assert_eq!(rules("docs/a.md", &format!("{mark} write this\n")), ["unfinished"]);
    assert_eq!(rules("xtask/src/a.rs", &rust(concat!("fn f() { to", "do!() }\n"))), ["unfinished"]);
    assert_eq!(rules("xtask/src/a.rs", &rust(concat!("fn f() { unimpl", "emented!(\"x\") }\n"))), ["unfinished"]);
    assert_eq!(rules("xtask/src/a.rs", &rust(concat!("#[ig", "nore]\nfn f() {}\n"))), ["ignored"]);
}

#[test]
fn tests_neither_sleep_nor_take_fixed_ports() {
    let test = |body: &str| rust(&format!("#[cfg(test)]\nmod tests {{\n    fn f() {{\n        {body}\n    }}\n}}\n"));
    assert_eq!(rules("crates/proxy/src/a.rs", &test("std::thread::sleep(d);")), ["sleep"]);
    assert_eq!(rules("crates/proxy/src/a.rs", &test("tokio::time::sleep(d).await;")), ["sleep"]);
    assert_eq!(rules("testkit/src/a.rs", &rust("fn f() { sleep(d); }\n")), ["sleep"]);
    assert_eq!(
        rules("crates/proxy/src/a.rs", &rust("fn f() { tokio::time::sleep(d); }\n")),
        [""; 0],
        "product code may wait"
    );
    assert_eq!(rules("crates/proxy/src/a.rs", &test("TcpListener::bind(\"127.0.0.1:8080\");")), ["fixed-port"]);
    assert_eq!(rules("crates/proxy/src/a.rs", &test("TcpListener::bind(\"127.0.0.1:0\");")), [""; 0]);
}

#[test]
fn text_names_no_registry_machine_or_neighbour() {
    assert_eq!(rules("docs/a.md", concat!("See https://crates", ".io/x\n")), ["registry"]);
    assert_eq!(rules("a.toml", concat!("cache = \"/ro", "ot/.cargo\"\n")), ["machine-path"]);
    assert_eq!(rules("a.sh", "cd ~/work/x\n"), [""; 0]);
    assert_eq!(rules("docs/a.md", concat!("see ../sha", "red/x\n")), ["beside"]);
    assert_eq!(rules("conformance/a.toml", concat!("at = \"../sha", "red/x\"\n")), [""; 0]);
}

#[test]
fn links_lead_somewhere() {
    let page = "# A page\n\nSee [b](b.md#the-second-part), [up](../README.md), [here](#a-page), [web](https://example.org).\n```\n[no](link.md)\n```\n";
    let good = [("README.md", "# Top\n"), ("docs/a.md", page), ("docs/b.md", "## The second part\n")];
    assert_eq!(rules_of(&good), [""; 0]);
    for bad in ["[b](c.md)", "[b](b.md#none)", "[b](#none)", "[b](../../README.md)", "[b]: c.md"] {
        let files = [("README.md", "# Top\n"), ("docs/a.md", bad), ("docs/b.md", "## Second\n")];
        assert_eq!(rules_of(&files), ["link"], "{bad}");
    }
}

#[test]
fn files_that_are_named_exist() {
    let code = |name: &str| rust(&format!("/// Called by `{name}`.\nstatic A: u8 = 1;\n"));
    for name in ["b.rs", "src/b.rs", "xtask/src/b.rs"] {
        assert_eq!(rules_of(&[("xtask/src/a.rs", &code(name)), ("xtask/src/b.rs", HEADER)]), [""; 0], "{name}");
    }
    for name in ["c.rs", "other/b.rs"] {
        assert_eq!(rules_of(&[("xtask/src/a.rs", &code(name)), ("xtask/src/b.rs", HEADER)]), ["mention"], "{name}");
    }
    assert_eq!(rules("docs/a.md", "Read `gone.rs` first.\n"), ["mention"]);
}

#[test]
fn no_policy_is_forgotten() {
    let table = rust("mod speed;\npolicies! {\n    speed::SpeedPolicy,\n}\n");
    let policy = rust("const KIND: &'static str = \"SpeedPolicy\";\n");
    let complete = [
        ("crates/engine/src/policies/mod.rs", table.as_str()),
        ("crates/engine/src/policies/speed.rs", policy.as_str()),
        ("docs/reference.md", "# SpeedPolicy\n"),
        ("examples/speed.yaml", "kind: SpeedPolicy\n"),
    ];
    assert_eq!(rules_of(&complete), [""; 0]);
    for missing in [2, 3] {
        let mut files = complete.to_vec();
        files.remove(missing);
        assert_eq!(rules_of(&files), ["policy"], "without {}", complete[missing].0);
    }
    let nameless = rust("impl Policy for SpeedPolicy {}\n");
    let files = [complete[0], ("crates/engine/src/policies/speed.rs", nameless.as_str())];
    assert_eq!(rules_of(&files), ["policy"], "no kind");
    let shared = rust("struct Chain;\n");
    assert_eq!(rules_of(&[complete[0], ("crates/engine/src/policies/chain.rs", shared.as_str())]), [""; 0]);
    let unlisted = rust("mod speed;\n");
    let files = [("crates/engine/src/policies/mod.rs", unlisted.as_str()), complete[1], complete[2], complete[3]];
    assert_eq!(rules_of(&files), ["policy"]);
}

#[test]
fn exceptions_are_exact_and_needed() {
    let allowed = [Allowed { rule: "sleep", path: "a.rs", reason: "it measures a pause" }];
    let tree = Tree::of(&[("a.rs", HEADER)]);
    let sleep = Finding::fail("a.rs", 3, "sleep", "x");
    let other = Finding::fail("b.rs", 3, "sleep", "x");
    assert_eq!(forgive(vec![sleep, other.clone()], &allowed, &tree), [other]);
    let stale = forgive(Vec::new(), &allowed, &tree);
    assert_eq!(stale.len(), 1);
    assert_eq!(stale[0].rule, "allowed");
}

#[test]
fn a_finding_names_its_place() {
    assert_eq!(Finding::fail("a.rs", 0, "names", "no").to_string(), "a.rs:1: [names] no");
}
