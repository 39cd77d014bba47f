//! The suite on disk: cases, topology and manifests, read once. Called by `main`; it runs nothing and judges nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::case::Case;
use crate::topology::Topology;

/// Name of the GatewayClass that every Gateway of the manifests gets.
pub(crate) const CLASS_NAME: &str = "transept";
/// Name under which the binary writes status.
pub(crate) const CONTROLLER_NAME: &str = "transept.dev/gateway";

/// Everything that was read.
#[derive(Debug)]
pub(crate) struct Suite {
    root: PathBuf,
    /// All cases by name; the place in this list gives a case its addresses.
    pub cases: Vec<Case>,
    /// What the manifests expect to be running.
    pub topology: Topology,
}

impl Suite {
    /// Where the suite is when nothing else is said: beside the workspace.
    pub(crate) fn usual_root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance")
    }

    /// Reads the suite.
    ///
    /// # Errors
    /// A file is missing or is not what the suite describes.
    pub(crate) fn load(root: &Path) -> Result<Suite> {
        let topology = from_value(one_document(&read(&root.join("topology.yaml"))?)?)
            .context("topology.yaml is not as expected")?;
        let mut paths =
            std::fs::read_dir(root.join("cases"))?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
        paths.sort();
        let cases = paths
            .iter()
            .map(|path| from_value(one_document(&read(path)?)?).with_context(|| path.display().to_string()))
            .collect::<Result<Vec<_>>>()?;
        Ok(Suite { root: root.to_owned(), cases, topology })
    }

    /// The objects of a manifest, with the placeholders of the suite filled in.
    ///
    /// # Errors
    /// The file is missing or is not YAML.
    pub(crate) fn manifest(&self, name: &str) -> Result<Vec<Value>> {
        let text = read(&self.root.join("manifests").join(name))?
            .replace("{GATEWAY_CLASS_NAME}", CLASS_NAME)
            .replace("{GATEWAY_CONTROLLER_NAME}", CONTROLLER_NAME);
        documents(&text).with_context(|| name.to_owned())
    }
}

/// All documents of a YAML text.
///
/// # Errors
/// It is not YAML.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>> {
    // YAML 1.2: `yes` and `on` are text.
    let options = serde_saphyr::options! { strict_booleans: true };
    Ok(serde_saphyr::from_multiple_with_options(text, options)?)
}

fn one_document(text: &str) -> Result<Value> {
    documents(text)?.into_iter().next().context("no document")
}

fn from_value<T: DeserializeOwned>(value: Value) -> Result<T> {
    Ok(serde_json::from_value(value)?)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::scope::{Decision, Selection, decide};
    use crate::world::to_yaml;

    /// The suite, where it is present; it is no part of this repository.
    fn suite() -> Option<Suite> {
        let root = Suite::usual_root();
        if root.join("cases").is_dir() {
            return Some(Suite::load(&root).expect("the suite can be read"));
        }
        let _written = writeln!(std::io::stderr(), "skipped: there is no suite at {}", root.display());
        None
    }

    #[test]
    fn every_standalone_case_of_served_features_can_be_replayed() {
        let Some(suite) = suite() else { return };
        let everything = Selection::default();
        let standalone = suite.cases.iter().filter(|case| {
            everything.takes(case)
                && case.runs == crate::case::Runs::Standalone
                && case.features.iter().all(|feature| crate::scope::serves(feature))
        });
        for case in standalone {
            let decision = decide(case, false);
            assert!(matches!(decision, Decision::Replay(_)), "{}: {decision:?}", case.name);
        }
    }

    #[test]
    fn every_manifest_is_the_same_after_writing_and_reading() {
        let Some(suite) = suite() else { return };
        for name in suite.cases.iter().flat_map(|case| &case.manifests) {
            let objects = suite.manifest(name).expect("a manifest");
            let written = to_yaml(&objects).expect("YAML");
            assert_eq!(documents(&written).expect("YAML"), objects, "{name}");
        }
    }
}
