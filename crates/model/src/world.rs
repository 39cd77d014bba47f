//! All objects of one configuration, indexed.
//!
//! Made by the loader, read by `attach`, `engine` and `control`. It answers which objects there are; what they mean for each other is
//! not decided here. Lists are sorted so that the object that wins a conflict comes first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::certificate::KeyPair;
use crate::kinds::cluster::{NAMESPACE_NAME_LABEL, SERVICE_NAME_LABEL};
use crate::kinds::{
    ApiKeySpec, BackendSpec, BackendTlsPolicySpec, CONTROLLER_NAME, ConfigMapBody, ConsumerSpec, EndpointSliceBody,
    GatewayClassSpec, GatewaySpec, GrpcRouteSpec, HttpRouteSpec, NamespaceBody, Object, ReferenceGrantSpec, SecretBody,
    ServiceSpec, TcpRouteSpec, WorkloadSpec,
};
use crate::load::{Past, is_implied};
use crate::place::{Invalid, ObjectName, SourceText};
use crate::policy::{PROXIES, Policy};
use crate::schema::{Labels, Text};
use crate::secrecy::{self, Hidden};

/// The objects of one kind: a list in order of precedence (oldest first), and an index by namespace and name.
#[derive(Clone, Debug)]
pub struct Store<S> {
    objects: Vec<Arc<Object<S>>>,
    by_name: HashMap<Text, HashMap<Text, u32>>,
}

impl<S> Default for Store<S> {
    fn default() -> Self {
        Self { objects: Vec::new(), by_name: HashMap::new() }
    }
}

impl<S> Store<S> {
    pub(crate) fn new(mut objects: Vec<Object<S>>) -> Self {
        objects.sort_by(|a, b| a.meta.precedence().cmp(&b.meta.precedence()));
        let mut by_name: HashMap<Text, HashMap<Text, u32>> = HashMap::new();
        for (index, object) in (0..).zip(&objects) {
            let meta = &object.meta;
            by_name.entry(meta.namespace.clone()).or_default().insert(meta.name.clone(), index);
        }
        Self { objects: objects.into_iter().map(Arc::new).collect(), by_name }
    }

    pub(crate) fn all(&self) -> &[Arc<Object<S>>] {
        &self.objects
    }

    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<&Arc<Object<S>>> {
        let index = *self.by_name.get(namespace)?.get(name)?;
        self.objects.get(index as usize)
    }
}

/// The EndpointSlices of one namespace by the Service they belong to.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlicesByService(HashMap<Box<str>, Vec<Arc<Object<EndpointSliceBody>>>>);

/// The Workloads of one namespace by the Services they belong to.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkloadsByService(HashMap<Box<str>, Vec<Arc<Object<WorkloadSpec>>>>);

/// All objects of one configuration.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub(crate) namespaces: Store<NamespaceBody>,
    pub(crate) services: Store<ServiceSpec>,
    pub(crate) endpoint_slices: Store<EndpointSliceBody>,
    pub(crate) secrets: Store<SecretBody>,
    pub(crate) config_maps: Store<ConfigMapBody>,
    pub(crate) gateway_classes: Store<GatewayClassSpec>,
    pub(crate) gateways: Store<GatewaySpec>,
    pub(crate) http_routes: Store<HttpRouteSpec>,
    pub(crate) grpc_routes: Store<GrpcRouteSpec>,
    pub(crate) tcp_routes: Store<TcpRouteSpec>,
    pub(crate) grants: Store<ReferenceGrantSpec>,
    pub(crate) backend_tls_policies: Store<BackendTlsPolicySpec>,
    pub(crate) backends: Store<BackendSpec>,
    pub(crate) workloads: Store<WorkloadSpec>,
    pub(crate) consumers: Store<ConsumerSpec>,
    pub(crate) api_keys: Store<ApiKeySpec>,
    pub(crate) policies: Vec<Arc<Policy>>,
    pub(crate) slices_of: HashMap<Box<str>, SlicesByService>,
    pub(crate) workloads_of: HashMap<Box<str>, WorkloadsByService>,
    pub(crate) grants_in: HashMap<Box<str>, Vec<Arc<Object<ReferenceGrantSpec>>>>,
    pub(crate) labels_of: HashMap<Box<str>, Arc<Labels>>,
    /// Key pairs by namespace and name of their Secret; see [`World::kept_pair`].
    pub(crate) kept_pairs: HashMap<(Text, Text), Arc<KeyPair>>,
    /// Why BackendTLSPolicies that were kept cannot be used ([`crate::load::Broken::Kept`]), by namespace and name.
    pub(crate) broken_tls: HashMap<(Text, Text), Box<str>>,
    pub(crate) sources: Vec<SourceText>,
    /// The lines of the sources that no finding shows.
    pub(crate) hidden: Hidden,
}

macro_rules! lists {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty;)*) => {$(
        $(#[doc = $doc])+
        pub fn $name(&self) -> &[Arc<Object<$type>>] {
            self.$name.all()
        }
    )*};
}

macro_rules! finders {
    ($($(#[doc = $doc:literal])+ $name:ident in $store:ident: $type:ty;)*) => {$(
        $(#[doc = $doc])+
        pub fn $name(&self, namespace: &str, name: &str) -> Option<&Arc<Object<$type>>> {
            self.$store.find(namespace, name)
        }
    )*};
}

impl World {
    /// What the proxy of a workload has of it: Secrets, keys and whose they are do not travel there.
    pub fn of_workloads(self) -> World {
        World {
            secrets: Store::default(),
            consumers: Store::default(),
            api_keys: Store::default(),
            kept_pairs: HashMap::new(),
            ..self
        }
    }

    lists! {
        /// All Services.
        services: ServiceSpec;
        /// All EndpointSlices.
        endpoint_slices: EndpointSliceBody;
        /// All Secrets.
        secrets: SecretBody;
        /// All ConfigMaps.
        config_maps: ConfigMapBody;
        /// All GatewayClasses.
        gateway_classes: GatewayClassSpec;
        /// All Gateways, ours and those of other controllers.
        gateways: GatewaySpec;
        /// All HTTPRoutes, the oldest first.
        http_routes: HttpRouteSpec;
        /// All GRPCRoutes, the oldest first.
        grpc_routes: GrpcRouteSpec;
        /// All TCPRoutes, the oldest first.
        tcp_routes: TcpRouteSpec;
        /// All ReferenceGrants.
        grants: ReferenceGrantSpec;
        /// All BackendTLSPolicies, the oldest first.
        backend_tls_policies: BackendTlsPolicySpec;
        /// All Backends.
        backends: BackendSpec;
        /// All Workloads.
        workloads: WorkloadSpec;
        /// All Consumers.
        consumers: ConsumerSpec;
        /// All ApiKeys.
        api_keys: ApiKeySpec;
        /// The Namespaces that are written down.
        namespaces: NamespaceBody;
    }

    finders! {
        /// A Service by namespace and name.
        service in services: ServiceSpec;
        /// A Secret by namespace and name.
        secret in secrets: SecretBody;
        /// A ConfigMap by namespace and name.
        config_map in config_maps: ConfigMapBody;
        /// A Gateway by namespace and name.
        gateway in gateways: GatewaySpec;
        /// An HTTPRoute by namespace and name.
        http_route in http_routes: HttpRouteSpec;
        /// A GRPCRoute by namespace and name.
        grpc_route in grpc_routes: GrpcRouteSpec;
        /// A TCPRoute by namespace and name.
        tcp_route in tcp_routes: TcpRouteSpec;
        /// A Backend by namespace and name.
        backend in backends: BackendSpec;
        /// A Workload by namespace and name.
        workload in workloads: WorkloadSpec;
        /// A Consumer by namespace and name.
        consumer in consumers: ConsumerSpec;
        /// An ApiKey by namespace and name.
        api_key in api_keys: ApiKeySpec;
    }

    /// A GatewayClass by name.
    pub fn gateway_class(&self, name: &str) -> Option<&Arc<Object<GatewayClassSpec>>> {
        self.gateway_classes.find("", name)
    }

    /// All policies of our own kinds, the oldest first.
    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    /// Says of policies among how many proxies their limits are divided, whatever their files say.
    pub fn tell_proxies(&mut self, numbers: &BTreeMap<ObjectName, u32>) {
        for policy in &mut self.policies {
            if let Some(number) = numbers.get(&policy.meta.object_name()) {
                Arc::make_mut(policy).meta.annotations.insert(PROXIES.to_owned(), number.to_string());
            }
        }
    }

    /// The EndpointSlices that say they belong to a Service.
    pub fn endpoint_slices_of(&self, namespace: &str, service: &str) -> &[Arc<Object<EndpointSliceBody>>] {
        self.slices_of.get(namespace).and_then(|slices| slices.0.get(service)).map_or(&[], Vec::as_slice)
    }

    /// The zones in the region of this one, without it, as Workloads tell of zones and regions; in order. In which region the zone is,
    /// Workloads in it say where it is not known.
    pub fn zones_near<'w>(&'w self, zone: &str, region: Option<&'w str>) -> BTreeSet<&'w str> {
        let placed = || {
            self.workloads.all().iter().filter_map(|one| Some((one.spec.zone.as_deref()?, one.spec.region.as_deref()?)))
        };
        let here = region.or_else(|| Some(placed().find(|(other, _)| *other == zone)?.1));
        let Some(here) = here else { return BTreeSet::new() };
        placed().filter(|(other, region)| *region == here && *other != zone).map(|(other, _)| other).collect()
    }

    /// The Workloads that say they belong to a Service, whatever their health.
    pub fn workloads_of(&self, namespace: &str, service: &str) -> &[Arc<Object<WorkloadSpec>>] {
        self.workloads_of.get(namespace).and_then(|workloads| workloads.0.get(service)).map_or(&[], Vec::as_slice)
    }

    /// The ReferenceGrants of a namespace.
    pub fn grants_in(&self, namespace: &str) -> &[Arc<Object<ReferenceGrantSpec>>] {
        self.grants_in.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// The labels of a namespace. Every namespace exists and has at least the label `kubernetes.io/metadata.name`.
    pub fn namespace_labels(&self, namespace: &str) -> Arc<Labels> {
        match self.labels_of.get(namespace) {
            Some(labels) => labels.clone(),
            None => Arc::new(implied_labels(namespace)),
        }
    }

    /// Whether a Gateway is in it that nobody wrote.
    pub fn has_implied_gateway(&self) -> bool {
        self.gateways().iter().any(|gateway| is_implied(&gateway.meta))
    }

    /// True when a Gateway is ours: its class is left out, is not written down, or names our controller.
    pub fn serves(&self, gateway: &GatewaySpec) -> bool {
        let class = gateway.gateway_class_name.as_deref();
        class
            .and_then(|name| self.gateway_class(name))
            .is_none_or(|class| class.spec.controller_name == CONTROLLER_NAME)
    }

    /// The key pair that a Secret held before a change that left it without a good one. It stays in use until the Secret holds
    /// a good pair again, or is gone.
    pub fn kept_pair(&self, namespace: &str, secret: &str) -> Option<&Arc<KeyPair>> {
        // Almost always there is none, and then nothing is worth a key.
        if self.kept_pairs.is_empty() {
            return None;
        }
        self.kept_pairs.get(&(namespace.into(), secret.into()))
    }

    /// Why a BackendTLSPolicy cannot be used that was kept although it is not valid: nothing may be sent to its targets.
    pub fn broken_tls_policy(&self, namespace: &str, name: &str) -> Option<&str> {
        if self.broken_tls.is_empty() {
            return None;
        }
        self.broken_tls.get(&(namespace.into(), name.into())).map(|why| &**why)
    }

    /// Whether there is such a policy.
    pub fn has_broken_tls(&self) -> bool {
        !self.broken_tls.is_empty()
    }

    /// What the next change needs to know of this world ([`crate::Loader::after`]); the world itself need not stay.
    pub fn past(&self) -> Past {
        Past::of(self)
    }

    /// The files the objects were read from.
    pub fn sources(&self) -> &[SourceText] {
        &self.sources
    }

    /// Fills in the line of the file that a finding is about, for its snippet.
    pub fn complete(&self, invalid: &mut Invalid) {
        complete(&self.sources, &self.hidden, std::slice::from_mut(invalid));
    }

    /// Builds everything that is looked up by something else than a name.
    pub(crate) fn index(&mut self, sources: Vec<SourceText>, hidden: Hidden) {
        (self.sources, self.hidden) = (sources, hidden);
        for slice in self.endpoint_slices.all() {
            let Some(service) = slice.meta.labels.get(SERVICE_NAME_LABEL) else {
                continue;
            };
            self.slices_of
                .entry(Box::from(&*slice.meta.namespace))
                .or_default()
                .0
                .entry(service.as_str().into())
                .or_default()
                .push(slice.clone());
        }
        for workload in self.workloads.all() {
            let by_service = self.workloads_of.entry(Box::from(&*workload.meta.namespace)).or_default();
            for service in &workload.spec.services {
                by_service.0.entry(Box::from(&**service)).or_default().push(workload.clone());
            }
        }
        for grant in self.grants.all() {
            self.grants_in.entry(Box::from(&*grant.meta.namespace)).or_default().push(grant.clone());
        }
        for namespace in self.namespaces.all() {
            let name = &namespace.meta.name;
            let mut labels = implied_labels(name);
            labels.extend(namespace.meta.labels.clone());
            // The name is not the user's to change.
            labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_string());
            self.labels_of.insert(Box::from(&**name), Arc::new(labels));
        }
    }
}

fn implied_labels(namespace: &str) -> Labels {
    let label = (NAMESPACE_NAME_LABEL.to_owned(), namespace.to_owned());
    Labels::from([label])
}

/// Fills in the offending lines from the sources, but for those that may hold a secret: what is printed ends in the logs of others.
pub(crate) fn complete(sources: &[SourceText], hidden: &Hidden, invalid: &mut [Invalid]) {
    for source in sources {
        let mut mine = invalid.iter_mut().filter(|one| one.at.file == source.name).peekable();
        if mine.peek().is_none() {
            continue;
        }
        let lines: Vec<&str> = source.text.lines().collect();
        for one in mine {
            let index = (one.at.line as usize).checked_sub(1);
            let is_shown = !hidden.contains(&one.at) && !secrecy::is_secret(one, &lines);
            let line = index.and_then(|index| lines.get(index)).filter(|_| is_shown);
            one.line = line.map(|line| Arc::from(line.trim_end_matches('\r')));
        }
    }
}
