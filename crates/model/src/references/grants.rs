//! ReferenceGrants: which objects may refer to objects of another namespace.
//!
//! Asked by everything that resolves a reference. A grant stands in the namespace that is referred to; nothing may be said about
//! what exists there before a grant is found.

use std::collections::HashMap;

use super::{Referrer, Target};
use crate::kinds::reference_grant::ReferenceGrantSpec;
use crate::world::World;

/// The grants of a world, by the namespace they open.
#[derive(Debug)]
pub(super) struct Grants<'w> {
    by_namespace: HashMap<&'w str, Vec<&'w ReferenceGrantSpec>>,
}

impl<'w> Grants<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        let mut by_namespace: HashMap<&str, Vec<_>> = HashMap::new();
        for grant in world.reference_grants() {
            by_namespace
                .entry(&grant.meta.namespace)
                .or_default()
                .push(&grant.spec);
        }
        Self { by_namespace }
    }

    /// Whether `from` may refer to `to`: always inside one namespace, else when one grant names both sides.
    pub(super) fn permit(&self, from: &Referrer<'_>, to: &Target<'_>) -> bool {
        if from.namespace == to.namespace {
            return true;
        }
        let Some(grants) = self.by_namespace.get(to.namespace) else {
            return false;
        };
        grants.iter().any(|grant| {
            let from_matches = grant.from.iter().any(|f| {
                f.group == from.group && f.kind == from.kind && f.namespace == from.namespace
            });
            let to_matches = grant.to.iter().any(|t| {
                t.group == to.group
                    && t.kind == to.kind
                    && t.name.as_ref().is_none_or(|name| name == to.name)
            });
            from_matches && to_matches
        })
    }
}
