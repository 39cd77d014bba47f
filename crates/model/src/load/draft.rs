//! A world while it is being read: plain lists of objects, with what was found wrong.
//!
//! Filled by the loader document by document, completed by `standalone`, then numbered and turned into a `World`.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::hash::Hash;
use std::sync::Arc;

use crate::kinds::{
    ApiKeySpec, BackendSpec, BackendTlsPolicySpec, ConfigMapBody, ConsumerSpec, EndpointSliceBody, GatewayClassSpec,
    GatewaySpec, GrpcRouteSpec, HttpRouteSpec, Metadata, NamespaceBody, Object, ReferenceGrantSpec, SecretBody,
    ServiceSpec, TcpRouteSpec, WorkloadSpec,
};
use crate::load::Broken;
use crate::load::outside::Outside;
use crate::load::past::{Past, contents, policy_contents};
use crate::place::{Invalid, Note, Place};
use crate::policy::{Policy, PolicyKind};
use crate::schema::Text;
use crate::world::{Store, World};

/// A world while it is being read.
pub(super) struct Draft<'a> {
    pub kinds: &'a [PolicyKind],
    pub outside: Option<&'a dyn Outside>,
    pub broken: Broken,
    pub invalid: Vec<Invalid>,
    pub notes: Vec<Note>,
    pub namespaces: Vec<Object<NamespaceBody>>,
    pub services: Vec<Object<ServiceSpec>>,
    pub endpoint_slices: Vec<Object<EndpointSliceBody>>,
    pub secrets: Vec<Object<SecretBody>>,
    pub config_maps: Vec<Object<ConfigMapBody>>,
    pub gateway_classes: Vec<Object<GatewayClassSpec>>,
    pub gateways: Vec<Object<GatewaySpec>>,
    pub http_routes: Vec<Object<HttpRouteSpec>>,
    pub grpc_routes: Vec<Object<GrpcRouteSpec>>,
    pub tcp_routes: Vec<Object<TcpRouteSpec>>,
    pub grants: Vec<Object<ReferenceGrantSpec>>,
    pub backend_tls_policies: Vec<Object<BackendTlsPolicySpec>>,
    pub backends: Vec<Object<BackendSpec>>,
    pub workloads: Vec<Object<WorkloadSpec>>,
    pub consumers: Vec<Object<ConsumerSpec>>,
    pub api_keys: Vec<Object<ApiKeySpec>>,
    pub policies: Vec<Policy>,
    /// Why BackendTLSPolicies that were kept cannot be used, by namespace and name.
    pub broken_tls: HashMap<(Text, Text), Box<str>>,
    /// Which objects there are, and where in its list each one is.
    known: HashMap<(&'static str, Text, Text), usize>,
    whole: Whole,
}

/// What a draft is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    /// All files: no name is there twice.
    AllFiles,
    /// One of them: which names are there twice is seen when all are together.
    OneFile,
}

/// The generation of an object that did not bring one; replaced when the draft is finished.
pub(super) const UNNUMBERED: i64 = 0;

impl<'a> Draft<'a> {
    pub(super) fn new(kinds: &'a [PolicyKind], outside: Option<&'a dyn Outside>, broken: Broken) -> Self {
        Self {
            kinds,
            outside,
            broken,
            invalid: Vec::new(),
            notes: Vec::new(),
            namespaces: Vec::new(),
            services: Vec::new(),
            endpoint_slices: Vec::new(),
            secrets: Vec::new(),
            config_maps: Vec::new(),
            gateway_classes: Vec::new(),
            gateways: Vec::new(),
            http_routes: Vec::new(),
            grpc_routes: Vec::new(),
            tcp_routes: Vec::new(),
            grants: Vec::new(),
            backend_tls_policies: Vec::new(),
            backends: Vec::new(),
            workloads: Vec::new(),
            consumers: Vec::new(),
            api_keys: Vec::new(),
            policies: Vec::new(),
            broken_tls: HashMap::new(),
            known: HashMap::new(),
            whole: Whole::AllFiles,
        }
    }

    /// A draft of one file of several ([`Draft::into_fragment`]).
    pub(super) fn of_one_file(kinds: &'a [PolicyKind], outside: Option<&'a dyn Outside>, broken: Broken) -> Self {
        Self { whole: Whole::OneFile, ..Self::new(kinds, outside, broken) }
    }

    /// Adds an object to the list that `list` picks, unless there is one of that name already.
    pub(super) fn add<S: PartialEq>(&mut self, object: Object<S>, list: fn(&mut Self) -> &mut Vec<Object<S>>) {
        let next = list(self).len();
        match self.claim(&object.meta, next) {
            None => list(self).push(object),
            Some(index) => {
                let Some(first) = list(self).get(index) else {
                    return;
                };
                let same = first.spec == object.spec && same_meta(&first.meta, &object.meta);
                let first = first.meta.at.clone();
                self.twice(&object.meta, &first, same);
            }
        }
    }

    /// Adds a policy, unless there is one of that kind and name already.
    pub(super) fn add_policy(&mut self, policy: Policy) {
        let next = self.policies.len();
        match self.claim(&policy.meta, next) {
            None => self.policies.push(policy),
            Some(index) => {
                let Some(first) = self.policies.get(index) else {
                    return;
                };
                let same = first.spec == policy.spec
                    && first.target_refs == policy.target_refs
                    && same_meta(&first.meta, &policy.meta);
                let first = first.meta.at.clone();
                self.twice(&policy.meta, &first, same);
            }
        }
    }

    /// Takes a name for the object at `index` of its list, or says which object has it.
    fn claim(&mut self, meta: &Metadata, index: usize) -> Option<usize> {
        if self.whole == Whole::OneFile {
            return None;
        }
        let key = (meta.kind, meta.namespace.clone(), meta.name.clone());
        match self.known.entry(key) {
            Slot::Occupied(taken) => Some(*taken.get()),
            Slot::Vacant(free) => {
                free.insert(index);
                None
            }
        }
    }

    fn twice(&mut self, meta: &Metadata, first: &Place, same: bool) {
        let object = Some(meta.object_name());
        if same {
            self.notes.push(Note {
                at: meta.at.clone(),
                object,
                what: format!("stands word for word in {first} already"),
            });
            return;
        }
        let mut invalid =
            Invalid::new(meta.at.clone(), format!("there is another one in {first}, with other contents"));
        invalid.object = object;
        invalid.remedy("remove one, or give it another name");
        self.invalid.push(invalid);
    }

    /// Numbers the generations and hands over what was read.
    pub(super) fn finish(self, previous: Option<&Past>) -> (World, Vec<Invalid>, Vec<Note>) {
        macro_rules! store {
            ($name:ident) => {
                number(self.$name, previous)
            };
        }
        let mut policies = self.policies;
        for policy in &mut policies {
            if policy.meta.generation == UNNUMBERED {
                policy.meta.generation =
                    previous.map_or(1, |past| past.generation_after(&policy.meta, policy_contents(policy)));
            }
        }
        policies.sort_by(|a, b| a.meta.precedence().cmp(&b.meta.precedence()));
        let world = World {
            namespaces: store!(namespaces),
            services: store!(services),
            endpoint_slices: store!(endpoint_slices),
            secrets: store!(secrets),
            config_maps: store!(config_maps),
            gateway_classes: store!(gateway_classes),
            gateways: store!(gateways),
            http_routes: store!(http_routes),
            grpc_routes: store!(grpc_routes),
            tcp_routes: store!(tcp_routes),
            grants: store!(grants),
            backend_tls_policies: store!(backend_tls_policies),
            backends: store!(backends),
            workloads: store!(workloads),
            consumers: store!(consumers),
            api_keys: store!(api_keys),
            policies: policies.into_iter().map(Arc::new).collect(),
            broken_tls: self.broken_tls,
            ..World::default()
        };
        (world, self.invalid, self.notes)
    }
}

fn same_meta(a: &Metadata, b: &Metadata) -> bool {
    a.labels == b.labels && a.annotations == b.annotations
}

fn number<S: Hash>(mut objects: Vec<Object<S>>, previous: Option<&Past>) -> Store<S> {
    for object in &mut objects {
        if object.meta.generation == UNNUMBERED {
            object.meta.generation = previous.map_or(1, |past| past.generation_after(&object.meta, contents(object)));
        }
    }
    Store::new(objects)
}
