//! ReferenceGrants: which objects may refer to objects of another namespace.
//!
//! Asked by everything that resolves a reference. A grant stands in the namespace that is referred to; nothing may be said about
//! what exists there before a grant is found.

use super::{Referrer, Target};
use crate::world::World;

/// Whether `from` may refer to `to`: always inside one namespace, else when one grant names both sides.
pub(super) fn permit(world: &World, from: &Referrer<'_>, to: &Target<'_>) -> bool {
    if from.namespace == to.namespace {
        return true;
    }
    world.grants_in(to.namespace).iter().any(|grant| {
        let from_matches = grant
            .spec
            .from
            .iter()
            .any(|f| f.group == *from.group && f.kind == *from.kind && f.namespace == *from.namespace);
        let to_matches = grant.spec.to.iter().any(|t| {
            t.group == *to.group && t.kind == *to.kind && t.name.as_ref().is_none_or(|name| *name == *to.name)
        });
        from_matches && to_matches
    })
}
