//! ReferenceGrant (gateway.networking.k8s.io/v1 and v1beta1).
//!
//! Says who may refer to objects of its namespace; `references` asks it.

use crate::kinds::GATEWAY_GROUP;
use crate::kinds::metadata::{Body, Kind, Scope};
use crate::schema::{GROUP, KIND, NAMESPACE, OBJECT_NAME, Rule, Text};

crate::object! {
    /// A ReferenceGrant: objects of `from` may refer to the objects of `to` in this namespace.
    pub struct ReferenceGrantSpec {
        /// Who may refer.
        from: Vec<ReferenceGrantFrom> => Rule::MinItems(1), Rule::MaxItems(16);
        /// What may be referred to.
        to: Vec<ReferenceGrantTo> => Rule::MinItems(1), Rule::MaxItems(16);
    }
}

impl Kind for ReferenceGrantSpec {
    const KIND: &'static str = "ReferenceGrant";
    const GROUP: &'static str = GATEWAY_GROUP;
    const VERSIONS: &'static [&'static str] = &["v1", "v1beta1"];
    const BODY: Body = Body::Spec;
    const SCOPE: Scope = Scope::Namespaced;
    const ABOUT: &'static str = "Allows objects of other namespaces to refer to objects of this one.";
}

crate::object! {
    /// Who may refer: objects of a kind in a namespace.
    pub struct ReferenceGrantFrom {
        /// The group of the referring objects.
        group: Text => Rule::Is(&GROUP);
        /// The kind of the referring objects.
        kind: Text => Rule::Is(&KIND);
        /// The namespace of the referring objects.
        namespace: Text => Rule::Is(&NAMESPACE);
    }
}

crate::object! {
    /// What may be referred to: objects of a kind, or one of them.
    pub struct ReferenceGrantTo {
        /// The group of the objects; empty for the core group.
        group: Text => Rule::Is(&GROUP);
        /// The kind of the objects.
        kind: Text => Rule::Is(&KIND);
        /// The name of the one object; without it, all.
        name: Option<Text> => Rule::Is(&OBJECT_NAME);
    }
}
