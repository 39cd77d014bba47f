//! Routes without parents: the only Gateway takes them in, and where there are several they attach to nothing.
//!
//! Used by `files`. The loader decides the same of whole files; proxies cannot, because each gateway sees its own Gateway alone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use transept_model::kinds::CONTROLLER_NAME;
use transept_xds::Key;

use super::registry::Name;
use super::source::{Kinds, name_of_object};

/// What of objects says which routes are taken in.
#[derive(Debug, Default)]
pub(super) struct Adoption {
    /// The Gateways with their classes.
    gateways: BTreeMap<Name, Option<String>>,
    /// Classes of other controllers.
    foreign: BTreeSet<String>,
    /// Routes that name no parent, and do not ask for the default ones.
    bare: BTreeSet<Key>,
}

impl Adoption {
    pub(super) fn of(objects: &[Value], kinds: &Kinds) -> Self {
        let mut found = Self::default();
        for object in objects {
            let spec = &object["spec"];
            match object["kind"].as_str() {
                Some("Gateway") => {
                    let class = spec["gatewayClassName"].as_str().map(str::to_owned);
                    found.gateways.extend(name_of_object(object).map(|name| (name, class)));
                }
                Some("GatewayClass") if spec["controllerName"] != CONTROLLER_NAME => {
                    found.foreign.extend(object["metadata"]["name"].as_str().map(str::to_owned));
                }
                Some("HTTPRoute" | "GRPCRoute" | "TCPRoute") => {
                    let is_bare = spec["parentRefs"].as_array().is_none_or(Vec::is_empty);
                    found.bare.extend(kinds.key(object).filter(|_| is_bare && spec["useDefaultGateways"].is_null()));
                }
                _ => {}
            }
        }
        found
    }

    /// Adds that of other objects.
    pub(super) fn add(&mut self, other: &Self) {
        self.gateways.extend(other.gateways.iter().map(|(name, class)| (name.clone(), class.clone())));
        self.foreign.extend(other.foreign.iter().cloned());
        self.bare.extend(other.bare.iter().cloned());
    }

    /// The routes that attach to nothing.
    pub(super) fn withheld(&self) -> BTreeSet<Key> {
        let is_ours = |class: &&Option<String>| class.as_ref().is_none_or(|class| !self.foreign.contains(class));
        match self.gateways.values().filter(is_ours).count() {
            0 | 1 => BTreeSet::new(),
            _ => self.bare.clone(),
        }
    }
}
