//! Every file in `examples/` passes `transept check` and decides what its comment promises, with the real binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use transept_testkit::certificates::{Identity, KeyKind, Usage};

fn transept(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_transept"))
        .args(arguments)
        .env_clear()
        .output()
        .expect("the binary starts")
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// All example files, sorted.
fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(examples())
        .expect("examples/")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
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
        Identity::self_signed(KeyKind::Ecdsa, Usage::Server, &["shop.test", "*.shop.test"])
            .expect("a certificate");
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
        assert_ne!(
            report["objects"],
            Value::Array(Vec::new()),
            "{}",
            file.display()
        );
    }
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
    serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
    })
}
