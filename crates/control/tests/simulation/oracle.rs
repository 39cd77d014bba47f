//! What a proxy should decide with the versions that it has in force: said by the meaning of the objects, without the engine.
//!
//! Asked by `calls` about every request. Since the versions are those that were published and acknowledged, a decision that agrees is
//! one under a published state of each object, and a deny rule that was acknowledged is enforced.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;

use transept_xds::Key;

use crate::objects::{Access, GATEWAY, Meaning, Place, Route, Spec, gateway_type, key, service_key};
use crate::proxy::{InForce, Proxy};
use crate::truth::Archive;

/// The objects in force at a proxy, by their meaning.
pub(crate) struct Force {
    routes: Vec<(Key, Route)>,
    access: Vec<Access>,
    /// Places whose requests are to be refused, because a policy there cannot be used.
    closed: BTreeSet<Place>,
    /// Services and Backends whose traffic is to be refused for that.
    unusable: BTreeSet<String>,
    endpoints: BTreeSet<(String, IpAddr)>,
    silent: BTreeSet<(String, IpAddr)>,
    /// Services with a registered instance that is well or silent.
    manned: BTreeSet<String>,
    keys: BTreeSet<Key>,
}

/// What a request should meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer of the proxy itself.
    Refused,
    /// This rule of this route, `shop/r1/0`, with the backends of which one is taken.
    Rule(String, Vec<(String, u32)>),
    /// The Service itself.
    Straight(String),
}

/// A request as far as decisions depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'q> {
    pub(crate) identity: Option<&'q str>,
    pub(crate) method: &'q str,
    pub(crate) path: &'q str,
}

impl Force {
    pub(crate) fn of(in_force: &InForce, archive: &Archive) -> Result<Self, String> {
        let mut force = Self {
            routes: Vec::new(),
            access: Vec::new(),
            closed: BTreeSet::new(),
            unusable: BTreeSet::new(),
            endpoints: BTreeSet::new(),
            silent: BTreeSet::new(),
            manned: BTreeSet::new(),
            keys: in_force.held.keys().cloned().collect(),
        };
        let mut governed = BTreeSet::new();
        for (key, version) in &in_force.held {
            let spec: &Rc<Spec> = archive.find(key, version)?;
            if spec.bad {
                return Err(format!("{key} is in force although it is of a later version"));
            }
            if let (true, Meaning::Endpoints(places) | Meaning::Silent(places)) =
                (key.type_url.as_str().ends_with("/Workload"), &spec.meaning)
            {
                force.manned.extend(places.iter().map(|(label, _)| label.clone()));
            }
            match &spec.meaning {
                Meaning::Route(route) => force.routes.push((key.clone(), route.clone())),
                Meaning::Access(access) => force.access.push(access.clone()),
                Meaning::Endpoints(places) => force.endpoints.extend(places.iter().cloned()),
                Meaning::Silent(places) => force.silent.extend(places.iter().cloned()),
                Meaning::Traffic(label) => {
                    governed.insert(label);
                }
                Meaning::Other => {}
            }
        }
        for (key, payload) in &in_force.broken {
            match &archive.of_payload(key, payload)?.meaning {
                Meaning::Access(access) => force.closed.insert(access.on.clone()),
                Meaning::Traffic(label) => force.unusable.insert(label.clone()),
                _ => return Err(format!("{key} is kept as a broken policy and is none")),
            };
        }
        // Of several on one target the oldest counts, and what cannot be used is loaded last.
        force.unusable.retain(|label| !governed.contains(label));
        Ok(force)
    }

    pub(crate) fn of_proxy(proxy: &Proxy, archive: &Archive) -> Result<Self, String> {
        Self::of(&proxy.in_force, archive)
    }

    pub(crate) fn knows(&self, service: &str) -> bool {
        self.keys.contains(&service_key(service))
    }

    /// Whether the policies at a place let a request through.
    pub(crate) fn allows(&self, on: &Place, question: &Question<'_>) -> bool {
        let matches = |rule: &crate::objects::Rule| rule.matches(question.identity, question.method, question.path);
        let here = || self.access.iter().filter(|access| access.on == *on);
        let denied = here().any(|access| access.deny.iter().any(matches));
        let mut lists = here().filter_map(|access| access.allow.as_ref()).peekable();
        let allowed = lists.peek().is_none() || lists.flatten().any(matches);
        !self.closed.contains(on) && !denied && allowed
    }

    /// What a call of a Service meets at the side of the caller.
    pub(crate) fn outbound(&self, service: &str, path: &str) -> Outcome {
        let here = Place::Service(service.to_owned());
        let is_known = self.knows(service);
        let routed = is_known && self.routes.iter().any(|(_, route)| route.parent == here);
        match (is_known, routed) {
            (false, _) => Outcome::Refused,
            (true, false) => Outcome::Straight(format!("Service/{service}")),
            (true, true) => self.by_routes(&here, path),
        }
    }

    /// What a request meets at the gateway. None when it has no listener.
    pub(crate) fn at_gateway(&self, question: &Question<'_>) -> Option<Outcome> {
        if !self.keys.contains(&key(&gateway_type(), GATEWAY)) {
            return None;
        }
        Some(match self.allows(&Place::Gateway, question) {
            true => self.by_routes(&Place::Gateway, question.path),
            false => Outcome::Refused,
        })
    }

    /// The longest prefix wins, then the older route, then the first rule.
    fn by_routes(&self, parent: &Place, path: &str) -> Outcome {
        let mut best: Option<(usize, Outcome)> = None;
        for (key, route) in self.routes.iter().filter(|(_, route)| route.parent == *parent) {
            for (index, (prefix, backends)) in route.rules.iter().enumerate() {
                let fits = prefix == "/" || path == prefix || path.starts_with(&format!("{prefix}/"));
                if fits && best.as_ref().is_none_or(|(length, _)| prefix.len() > *length) {
                    best = Some((prefix.len(), Outcome::Rule(format!("{}/{index}", key.name), backends.clone())));
                }
            }
        }
        best.map_or(Outcome::Refused, |(_, outcome)| outcome)
    }

    /// Whether a Service or Backend, as `Service/cart`, may be there at all.
    pub(crate) fn is_closed(&self, label: &str) -> bool {
        self.unusable.contains(label)
    }

    /// Whether an address takes requests like others.
    pub(crate) fn is_heard(&self, label: &str, address: IpAddr) -> bool {
        self.endpoints.contains(&(label.to_owned(), address))
    }

    pub(crate) fn is_endpoint(&self, label: &str, address: IpAddr) -> bool {
        self.is_heard(label, address) || self.silent.contains(&(label.to_owned(), address))
    }

    /// Whether a registered instance is there to be called, be it silent. What slices name may be a port that the Service does not have.
    pub(crate) fn has_instance(&self, label: &str) -> bool {
        self.manned.contains(label)
    }
}
