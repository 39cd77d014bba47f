//! The objects of one case as files in a directory, and their changes. The binary watches the directory; a change rewrites the
//! files that it touches, each by a rename, so that no half-written file is ever seen.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::case::{ObjectRef, Operation};
use crate::certificates::split;
use crate::patch::patch;

/// Kinds that are for the runner and never for the binary.
const FOR_THE_RUNNER: [&str; 1] = ["Deployment"];
/// File for objects that come while the binary runs.
const APPLIED: &str = "90-applied.yaml";

/// All objects of a case.
#[derive(Debug)]
pub(crate) struct World {
    directory: PathBuf,
    files: Vec<(String, Vec<Value>)>,
    changed: BTreeSet<usize>,
    created: u32,
}

impl World {
    /// An empty world that will be written to this directory, which should hold nothing else.
    pub(crate) fn new(directory: &Path) -> World {
        World { directory: directory.to_owned(), files: Vec::new(), changed: BTreeSet::new(), created: 0 }
    }

    /// Where the files are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Adds objects to a file, in order. Each gets a creation time one second after the one before it; what is for the runner is
    /// dropped.
    pub(crate) fn add(&mut self, file: &str, objects: impl IntoIterator<Item = Value>) {
        let at = match self.files.iter().position(|(name, _)| name == file) {
            Some(at) => at,
            None => {
                self.files.push((file.to_owned(), Vec::new()));
                self.files.len() - 1
            }
        };
        for mut object in objects {
            if FOR_THE_RUNNER.contains(&text(&object, "/kind")) {
                continue;
            }
            self.finish(&mut object);
            self.files[at].1.push(object);
        }
        self.changed.insert(at);
    }

    /// Takes all objects out of a file.
    pub(crate) fn clear(&mut self, file: &str) {
        if let Some(at) = self.files.iter().position(|(name, _)| name == file) {
            self.files[at].1.clear();
            self.changed.insert(at);
        }
    }

    /// Adds objects while the binary runs.
    pub(crate) fn apply(&mut self, objects: &[Value]) {
        self.add(APPLIED, objects.iter().cloned());
    }

    /// What an API server would add.
    fn finish(&mut self, object: &mut Value) {
        let seconds = self.created;
        self.created += 1;
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        object["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T{hours:02}:{minutes:02}:{seconds:02}Z"));
        if text(object, "/kind") == "Namespace" {
            let name = object["metadata"]["name"].clone();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
        }
    }

    /// All objects.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Value> {
        self.files.iter().flat_map(|(_, objects)| objects)
    }

    /// All objects of a kind.
    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> + 'a {
        self.objects().filter(move |object| text(object, "/kind") == kind)
    }

    /// Changes all objects of a kind in place, before anything is written.
    pub(crate) fn each_of_kind(&mut self, kind: &str, mut change: impl FnMut(&mut Value)) {
        let objects = self.files.iter_mut().flat_map(|(_, objects)| objects);
        objects.filter(|object| text(object, "/kind") == kind).for_each(&mut change);
    }

    /// Applies a JSON Patch to an object.
    ///
    /// # Errors
    /// There is no such object, or the patch does not apply.
    pub(crate) fn patch(&mut self, object: &ObjectRef, operations: &[Operation]) -> Result<()> {
        let (file, at) = self.place(&object.kind, &object.namespace, &object.name)?;
        patch(&mut self.files[file].1[at], operations).map_err(anyhow::Error::msg)?;
        self.changed.insert(file);
        Ok(())
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// There is no such object.
    pub(crate) fn delete(&mut self, object: &ObjectRef) -> Result<()> {
        let (file, at) = self.place(&object.kind, &object.namespace, &object.name)?;
        self.files[file].1.remove(at);
        self.changed.insert(file);
        Ok(())
    }

    /// Sets the endpoints of an EndpointSlice given as `namespace/name`.
    ///
    /// # Errors
    /// There is no such slice.
    pub(crate) fn set_endpoints(&mut self, slice: &str, endpoints: Value) -> Result<()> {
        let (namespace, name) = split(slice)?;
        let (file, at) = self.place("EndpointSlice", namespace, name)?;
        self.files[file].1[at]["endpoints"] = endpoints;
        self.changed.insert(file);
        Ok(())
    }

    fn place(&self, kind: &str, namespace: &str, name: &str) -> Result<(usize, usize)> {
        for (file, (_, objects)) in self.files.iter().enumerate() {
            let matches = |object: &Value| text(object, "/kind") == kind && is(object, namespace, name);
            if let Some(at) = objects.iter().position(matches) {
                return Ok((file, at));
            }
        }
        bail!("the world has no {kind} {namespace}/{name}")
    }

    /// Writes the files that have changed since the last time.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn write(&mut self) -> Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        for at in std::mem::take(&mut self.changed) {
            let (name, objects) = &self.files[at];
            let path = self.directory.join(name);
            let unfinished = self.directory.join(format!(".{name}.new"));
            std::fs::write(&unfinished, to_yaml(objects)?)?;
            std::fs::rename(&unfinished, &path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

pub(crate) fn to_yaml(objects: &[Value]) -> Result<String> {
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(object)?);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(text)
}

fn is(object: &Value, namespace: &str, name: &str) -> bool {
    text(object, "/metadata/name") == name && text(object, "/metadata/namespace") == namespace
}

/// The text at a JSON pointer; empty when there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::documents;

    fn service(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "n"}, "spec": {}})
    }

    #[test]
    fn objects_are_as_old_as_their_place_and_deployments_are_dropped() {
        let mut world = World::new(Path::new("unused"));
        let deployment = json!({"kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}});
        world.add("10-a.yaml", [service("a"), deployment, service("b")]);
        world.apply(&[service("c")]);
        let ages = ["a", "b", "c"].map(|name| {
            let found = world.of_kind("Service").find(|object| is(object, "n", name)).expect("present");
            text(found, "/metadata/creationTimestamp").to_owned()
        });
        assert_eq!(ages, ["2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"]);
        assert_eq!(world.of_kind("Deployment").count(), 0);
    }

    #[test]
    fn a_file_that_is_cleared_is_written_without_objects() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut world = World::new(directory.path());
        world.add("10-a.yaml", [service("a")]);
        world.add("50-case.yaml", [service("b")]);
        world.write().expect("writes");
        world.clear("50-case.yaml");
        world.write().expect("writes");
        assert_eq!(world.objects().count(), 1);
        assert_eq!(std::fs::read_to_string(directory.path().join("50-case.yaml")).expect("reads"), "");
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut world = World::new(directory.path());
        let tricky = json!({"kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": {
            "number": "8080", "word": "yes", "null": "null", "colon": "a: b", "block": "x\n  y\n\nz\n", "empty": "",
            "quotes": "it's \"so\"", "star": "*.example.com", "tab": "a\tb", "end": "trailing ", "hash": "a #b",
        }});
        world.add("10-a.yaml", [tricky.clone(), service("a")]);
        world.write().expect("writes");
        let text = std::fs::read_to_string(directory.path().join("10-a.yaml")).expect("reads");
        let read = documents(&text).expect("YAML");
        assert_eq!(read[0]["data"], tricky["data"]);
        assert_eq!(read.len(), 2);
    }
}
