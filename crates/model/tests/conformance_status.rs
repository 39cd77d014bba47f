//! Replays the status steps of the Gateway API conformance cases against `load` and `attach`, without any IO but reading files.
//!
//! The cases live beside the repository; without them the test says so and passes. Traffic steps are left to the
//! conformance runner, which starts the real binary.

#[path = "conformance_status/certificates.rs"]
mod certificates;
#[path = "conformance_status/checks.rs"]
mod checks;
#[path = "conformance_status/stage.rs"]
mod stage;

use std::path::{Path, PathBuf};

use serde_json::Value;
use stage::Stage;

/// Features that this build does not have; their cases are left out.
const OUT_OF_SCOPE: &[&str] = &["TLSRoute", "UDPRoute", "ListenerSet", "Mesh"];

fn cases_folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance");
    folder.join("cases").is_dir().then_some(folder)
}

fn in_scope(case: &Value) -> bool {
    strings(&case["features"]).iter().all(|feature| !OUT_OF_SCOPE.contains(feature) && !feature.starts_with("Mesh"))
}

pub(crate) fn strings(list: &Value) -> Vec<&str> {
    list.as_array().map(|items| items.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// Runs the status steps of a case; returns how many there were and what did not hold.
fn run(folder: &Path, case: &Value, base: &[Value]) -> (usize, Vec<String>) {
    let mut stage = Stage::new(base.to_vec());
    for manifest in strings(&case["manifests"]).into_iter().skip(1) {
        stage.add(stage::read_documents(&folder.join("manifests").join(manifest)));
    }
    stage.give_addresses();
    let mut checked = 0;
    let mut failures = Vec::new();
    let mut settled = None;
    let steps = case["steps"].as_array().cloned().unwrap_or_default();
    for (number, step) in steps.iter().enumerate() {
        if step["only"] == "apiserver" {
            continue;
        }
        if let stage::Change::Made = stage.change(step) {
            settled = None;
            continue;
        }
        let world = settled.get_or_insert_with(|| stage.settle());
        for problem in checks::check(step, world, &mut checked) {
            failures.push(format!("step {}: {problem}", number + 1));
        }
    }
    (checked, failures)
}

#[test]
fn every_case_in_scope_gets_the_status_it_demands() {
    let Some(folder) = cases_folder() else {
        tell_skipped();
        return;
    };
    let base = {
        let mut base = stage::read_documents(&folder.join("manifests/base/manifests.yaml"));
        base.extend(certificates::objects());
        base
    };
    let mut files: Vec<_> =
        std::fs::read_dir(folder.join("cases")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut report = String::new();
    let (mut cases, mut steps) = (0, 0);
    for file in files {
        let case = stage::read_documents(&file).remove(0);
        if !in_scope(&case) {
            continue;
        }
        let (checked, failures) = run(&folder, &case, &base);
        cases += 1;
        steps += checked;
        for failure in failures {
            report.push_str(&format!("{}: {failure}\n", case["name"].as_str().unwrap_or("?")));
        }
    }
    assert!(cases >= 90, "only {cases} cases found");
    assert!(steps >= 150, "only {steps} status steps found");
    assert!(report.is_empty(), "{cases} cases, {steps} steps:\n{report}");
}

#[allow(clippy::print_stderr)]
fn tell_skipped() {
    eprintln!("skipped: ../shared/conformance is not there, so its status steps were not replayed");
}
