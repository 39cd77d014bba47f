//! From payloads to a world: the kinds that this proxy understands, which payloads it refuses, and the loader on the rest.
//!
//! Called by `member` for every batch. The loader is the one that reads files, so a proxy understands exactly what `check` does.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use transept_engine::policies::MODEL_KINDS;
use transept_model::catalogue::catalogue;
use transept_model::company::{self, Named};
use transept_model::load::{Broken, Past};
use transept_model::{Loader, SourceText, World};
use transept_xds::client::{Batch, Change};
use transept_xds::refusal::{Reason, Refusal};
use transept_xds::{Key, TypeUrl};

use super::Received;

/// Kinds that hold for everyone, so that a sidecar asks for all of them.
const SHARED: [&str; 3] = ["Namespace", "ReferenceGrant", "GatewayClass"];

/// A kind that travels.
#[derive(Clone, Debug)]
pub(super) struct Travelling {
    pub(super) type_url: TypeUrl,
    /// Whether a sidecar asks for all of it.
    pub(super) shared: bool,
}

/// Every kind that this proxy understands.
pub(super) fn kinds() -> Vec<Travelling> {
    let describe = |kind: transept_model::catalogue::KindDescription| Travelling {
        type_url: TypeUrl::of(kind.group, kind.versions.first().copied().unwrap_or("v1"), kind.kind),
        shared: SHARED.contains(&kind.kind),
    };
    catalogue(MODEL_KINDS).into_iter().map(describe).collect()
}

/// What an object leads to, and whom it comes along with. Nothing of what is no object.
pub(super) fn company_of(payload: &Bytes) -> (BTreeSet<Key>, BTreeSet<Key>) {
    let Ok(object) = serde_json::from_slice(payload) else { return (BTreeSet::new(), BTreeSet::new()) };
    let kinds = catalogue(MODEL_KINDS);
    let keys = |named: Vec<Named>| {
        let key = |one: Named| {
            let kind = kinds.iter().find(|kind| kind.kind == one.kind && kind.group == one.group)?;
            let type_url = TypeUrl::of(kind.group, kind.versions.first().copied().unwrap_or("v1"), kind.kind);
            Some(Key::new(&type_url, &format!("{}/{}", one.namespace, one.name)))
        };
        named.into_iter().filter_map(key).collect()
    };
    (keys(company::brings(&object)), keys(company::joins(&object)))
}

/// The type of Services.
pub(super) fn service_type() -> TypeUrl {
    TypeUrl::of("", "v1", "Service")
}

/// No configuration at all.
pub(super) fn nothing() -> Received {
    Received {
        world: Loader::new(MODEL_KINDS).load(&[]).world,
        number: 0,
        kept: false,
        answered: BTreeSet::new(),
        located: BTreeSet::new(),
    }
}

/// What of a batch this proxy cannot use, each with the reason.
pub(super) fn judge(batch: &Batch) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for change in batch.changes() {
        let Change::Put { name, version, payload, .. } = change else { continue };
        let refuse = |message: String| Refusal::new(name, version, Reason::Invalid, message);
        let Some(source) = text(batch.type_url(), name, payload) else {
            refusals.push(refuse("the contents are not UTF-8".to_owned()));
            continue;
        };
        if let Some(invalid) = Loader::new(MODEL_KINDS).load(&[source]).invalid.into_iter().next() {
            let mut refusal = refuse(invalid.why);
            refusal.field = invalid.field;
            refusals.push(refusal);
        }
    }
    refusals
}

/// Whether a payload that is refused is a policy whose targets can be told, so that it can close them.
pub(super) fn closes(type_url: &TypeUrl, name: &str, payload: &Bytes) -> bool {
    let Some(source) = text(type_url, name, payload) else { return false };
    let loaded = Loader::new(MODEL_KINDS).broken_policies(Broken::Kept).load(&[source]);
    let world = &loaded.world;
    loaded.invalid.is_empty()
        && (world.policies().iter().any(|policy| policy.broken.is_some()) || world.has_broken_tls())
}

/// The world of everything that is held, and of broken policies. `None` when it is not a world, which [`judge`] has made impossible for each part alone.
pub(super) fn load<'p>(
    held: impl Iterator<Item = (&'p TypeUrl, &'p Arc<str>, &'p Bytes)>,
    past: Option<&Past>,
) -> Option<World> {
    let texts: Vec<SourceText> = held.filter_map(|(type_url, name, payload)| text(type_url, name, payload)).collect();
    let mut loader = Loader::new(MODEL_KINDS).broken_policies(Broken::Kept);
    if let Some(past) = past {
        loader = loader.after(past);
    }
    let loaded = loader.load(&texts);
    for invalid in &loaded.invalid {
        tracing::error!(why = %invalid.why, at = %invalid.at, "what was received does not fit together; the configuration before stays");
    }
    loaded.invalid.is_empty().then_some(loaded.world)
}

fn text(type_url: &TypeUrl, name: &str, payload: &Bytes) -> Option<SourceText> {
    let contents = std::str::from_utf8(payload).ok()?;
    Some(SourceText::new(format!("{type_url} {name}"), contents))
}
