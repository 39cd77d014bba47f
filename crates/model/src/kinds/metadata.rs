//! What every object has: its name, labels, annotations, age and generation; and what a kind is.
//!
//! Filled by the loader. It leaves the contents of an object to the type of its kind.

use std::fmt;

use crate::place::{ObjectName, Place};
use crate::schema::{ANNOTATION_KEY, LABEL_VALUE, Labels, Rule, Schema, Text};

/// Where the contents of a kind stand in its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Under `spec`.
    Spec,
    /// Beside `metadata`, as in ConfigMap, Secret and EndpointSlice.
    Inline,
}

/// Whether objects of a kind live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// They do.
    Namespaced,
    /// There is one set of names for everything.
    Cluster,
}

/// A kind of object.
pub trait Kind: Schema + PartialEq {
    /// Its name.
    const KIND: &'static str;
    /// Its API group; empty for the core group.
    const GROUP: &'static str;
    /// The versions that are read, the preferred one first. All have the same contents.
    const VERSIONS: &'static [&'static str];
    /// Where its contents stand.
    const BODY: Body;
    /// Whether it lives in namespaces.
    const SCOPE: Scope;
    /// What it is for, in a sentence or two.
    const ABOUT: &'static str;
}

/// How old an object is, for "the oldest wins". Objects that say when they were created come before those that do not; among
/// the latter the order of the files and of the documents in them counts. Equal ages are settled by
/// `{namespace}/{name}`, see [`Metadata::precedence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Age {
    /// `metadata.creationTimestamp`, in seconds since 1970.
    Created(i64),
    /// The object's place in what was loaded.
    Written {
        /// Which file, from 0.
        file: u32,
        /// Which document in it, from 0.
        document: u32,
    },
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Age::Created(seconds) => match jiff::Timestamp::from_second(*seconds) {
                Ok(time) => write!(f, "created {time}"),
                Err(_) => write!(f, "created {seconds}"),
            },
            Age::Written { file, document } => {
                write!(f, "document {} of file {}", document + 1, file + 1)
            }
        }
    }
}

/// What every object has.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    /// The kind.
    pub kind: &'static str,
    /// The name.
    pub name: Text,
    /// The namespace; empty for kinds without namespaces.
    pub namespace: Text,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// Rises by one with every change of the contents. Starts at 1 unless the object brings its own.
    pub generation: i64,
    /// For "the oldest wins".
    pub age: Age,
    /// Where the object begins.
    pub at: Place,
}

impl Metadata {
    /// The object's full name.
    pub fn object_name(&self) -> ObjectName {
        ObjectName { kind: self.kind.into(), namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// The key to sort by when the oldest wins: age, then namespace, then name.
    pub fn precedence(&self) -> (Age, &str, &str) {
        (self.age, &self.namespace, &self.name)
    }
}

/// An object of a kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Object<S> {
    /// Name, labels, age.
    pub meta: Metadata,
    /// The contents.
    pub spec: S,
}

crate::object! {
    /// What is read of an object's `metadata`. What a server writes is accepted and not used.
    pub struct MetadataFields ignoring &[
        "uid", "resourceVersion", "managedFields", "ownerReferences", "finalizers", "selfLink",
        "generateName", "deletionTimestamp", "deletionGracePeriodSeconds", "clusterName",
    ]; {
        /// The name, unique among objects of the kind in the namespace.
        name: Text => Rule::Is(&crate::schema::RESOURCE_NAME);
        /// The namespace. Without it the object is in `default`.
        namespace: Option<Text> => Rule::Is(&crate::schema::NAMESPACE);
        /// Labels: short words that selectors look for.
        labels: Labels => Rule::Keys(&ANNOTATION_KEY), Rule::Is(&LABEL_VALUE);
        /// Annotations: remarks for tools.
        annotations: Labels => Rule::Keys(&ANNOTATION_KEY);
        /// When the object was created (RFC 3339). Decides which of two conflicting objects is the older one.
        creation_timestamp: Option<String>;
        /// The generation that a server has given the object.
        generation: Option<i64>;
    }
}
