//! References from one object to another.
//!
//! Used by every kind. Whether the other object exists, and whether it may be referred to, is decided by `attach`.

use crate::kinds::GATEWAY_GROUP;
use crate::place::Spot;
use crate::schema::{Decoder, GROUP, KIND, NAMESPACE, OBJECT_NAME, Rule, SECTION_NAME, Text};
use crate::value::Value;

crate::object! {
    /// The parent that a route attaches to: a Gateway, or for the mesh a Service.
    pub struct ParentReference {
        /// The group of the parent.
        group: Text = GATEWAY_GROUP.into() => Rule::Is(&GROUP);
        /// The kind of the parent.
        kind: Text = "Gateway".into() => Rule::Is(&KIND);
        /// The namespace of the parent; without it the route's own.
        namespace: Option<Text> => Rule::Is(&NAMESPACE);
        /// The name of the parent.
        name: Text => Rule::Is(&OBJECT_NAME);
        /// The part of the parent: the name of a listener, or of a port of a Service. Without it, every part.
        section_name: Option<Text> => Rule::Is(&SECTION_NAME);
        /// Only the parts of the parent with this port.
        port: Option<u16> => Rule::Range(1, 65535);
    }
}

crate::object! {
    /// An object in the same namespace.
    pub struct LocalObjectReference {
        /// The group of the object; empty for the core group.
        group: Text => Rule::Is(&GROUP);
        /// The kind of the object.
        kind: Text => Rule::Is(&KIND);
        /// The name of the object.
        name: Text => Rule::Is(&OBJECT_NAME);
    }
}

crate::object! {
    /// An object that may be in another namespace; then a ReferenceGrant there must allow it.
    pub struct ObjectReference {
        /// The group of the object; empty for the core group.
        group: Text => Rule::Is(&GROUP);
        /// The kind of the object.
        kind: Text => Rule::Is(&KIND);
        /// The name of the object.
        name: Text => Rule::Is(&OBJECT_NAME);
        /// The namespace of the object; without it the one of the referring object.
        namespace: Option<Text> => Rule::Is(&NAMESPACE);
    }
}

crate::object! {
    /// A Secret, or an object that stands for one. In another namespace a ReferenceGrant there must allow it.
    pub struct SecretObjectReference {
        /// The group of the object; empty for the core group.
        group: Text = "".into() => Rule::Is(&GROUP);
        /// The kind of the object.
        kind: Text = "Secret".into() => Rule::Is(&KIND);
        /// The name of the object.
        name: Text => Rule::Is(&OBJECT_NAME);
        /// The namespace of the object; without it the one of the referring object.
        namespace: Option<Text> => Rule::Is(&NAMESPACE);
    }
}

crate::object! {
    /// Where requests go: a Service or a Backend. In another namespace a ReferenceGrant there must allow it.
    pub struct BackendObjectReference {
        /// The group of the backend; empty for Service.
        group: Text = "".into() => Rule::Is(&GROUP);
        /// The kind of the backend.
        kind: Text = "Service".into() => Rule::Is(&KIND);
        /// The name of the backend.
        name: Text => Rule::Is(&OBJECT_NAME);
        /// The namespace of the backend; without it the route's own.
        namespace: Option<Text> => Rule::Is(&NAMESPACE);
        /// The port of the Service. A Backend has its ports at its endpoints.
        port: Option<u16> => Rule::Range(1, 65535);
    }
    check check_backend_object;
}

fn check_backend_object(backend: &BackendObjectReference, value: &Value, cx: &mut Decoder) {
    needs_port(&backend.group, &backend.kind, backend.port, value.at, cx);
}

/// A reference to a Service must say which port (a rule of the CRDs).
pub(crate) fn needs_port(group: &str, kind: &str, port: Option<u16>, at: Spot, cx: &mut Decoder) {
    if group.is_empty() && kind == "Service" && port.is_none() {
        cx.refuse(at, "a reference to a Service needs a port").remedy("add `port:` with a port of the Service");
    }
}

/// Holds the rules that parent references of one route must be distinct.
pub(crate) fn check_parents(parents: &[ParentReference], cx: &mut Decoder) {
    let same = |a: &ParentReference, b: &ParentReference| {
        a.group == b.group && a.kind == b.kind && a.name == b.name && a.namespace == b.namespace
    };
    // A list that is longer has been refused for its length.
    for (index, parent) in parents.iter().enumerate().take(64) {
        for earlier in &parents[..index] {
            if !same(parent, earlier) {
                continue;
            }
            let line = earlier.at.line;
            let fields = |p: &ParentReference| (p.section_name.is_some(), p.port.is_some());
            if fields(parent) != fields(earlier) {
                cx.within(index, |cx| {
                    cx.refuse(
                        parent.at,
                        format!("refers to the same parent as line {line}, but not with the same fields"),
                    )
                    .remedy("set `sectionName` (or `port`) on both, or keep only the one without");
                });
                break;
            }
            if parent.section_name == earlier.section_name && parent.port == earlier.port {
                cx.within(index, |cx| {
                    cx.refuse(parent.at, format!("refers to the same parent as line {line}"))
                        .remedy("remove one of them");
                });
                break;
            }
        }
    }
}
