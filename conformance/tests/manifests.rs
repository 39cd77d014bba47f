//! The manifests of the official Gateway API conformance suite are valid configuration: every file loads.

use std::fs;
use std::path::{Path, PathBuf};

use transept_model::{SourceText, load};

const MANIFESTS: &str = "../../shared/conformance/manifests";

#[test]
#[allow(clippy::print_stderr)]
fn every_manifest_of_the_official_suite_loads() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(MANIFESTS);
    if !root.is_dir() {
        eprintln!("skipped: the manifests of the official suite are not at {}", root.display());
        return;
    }
    let files = yaml_files(&root);
    assert!(files.len() > 100, "only {} manifests found", files.len());
    let mut wrong = Vec::new();
    let mut routes = 0;
    for file in &files {
        // The suite fills these in before it applies a file.
        let text = fs::read_to_string(file)
            .unwrap()
            .replace("{GATEWAY_CLASS_NAME}", "transept")
            .replace("{GATEWAY_CONTROLLER_NAME}", "transept.dev/gateway");
        let source = SourceText::new(file.display().to_string(), text);
        let loaded = load(&[source], &[]);
        routes += loaded.world.http_routes().len();
        wrong.extend(loaded.invalid.iter().map(|invalid| invalid.snippet()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(routes > 100, "only {routes} HTTPRoutes were read");
}

fn yaml_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(yaml_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    files
}
