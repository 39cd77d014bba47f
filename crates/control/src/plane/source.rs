//! From configuration to resources: each object as JSON under its key, and what comes along with what.
//!
//! Called by `core` after every change of the files or of the registrations. It reads trees, not meanings: whether the objects
//! are right was decided by the loader before. Values that Secrets take from outside are filled in here, because no proxy has
//! the environment and the files of the control plane.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use transept_engine::policies::{self, MODEL_KINDS};
use transept_model::catalogue::{KindDescription, catalogue};
use transept_model::company::{self, Named, namespace_of};
use transept_model::kinds::Scope;
use transept_model::load::{DEFAULT_NAMESPACE, FROM_ENV, FROM_FILE, Outside, ValueFrom, Wanted};
use transept_model::value::Budget;
use transept_model::{ObjectName, Place, SourceText};
use transept_xds::mesh::{address_key, address_type, guard_key, guard_type, namespace_guard_key};
use transept_xds::{Key, Resource, TypeUrl};

use super::registry::Name;

/// Policies on a Service that are in force at its instances, or bind whoever calls one of them.
pub(super) const GUARDS: [&str; 2] = ["AuthorizationPolicy", "MeshPolicy"];

/// The kinds that travel.
#[derive(Debug)]
pub struct Kinds {
    kinds: Vec<KindDescription>,
}

impl Default for Kinds {
    fn default() -> Self {
        Self { kinds: catalogue(MODEL_KINDS) }
    }
}

impl Kinds {
    /// The types in the order in which they are added: what is pointed at before what points at it, and what guards something before that.
    pub fn order(&self) -> Vec<TypeUrl> {
        let rank = |kind: &str| match kind {
            "Namespace" | "GatewayClass" | "ReferenceGrant" => 0,
            "Secret" | "ConfigMap" | "Consumer" => 1,
            kind if GUARDS.contains(&kind) => 2,
            "Service" | "Backend" | "ApiKey" => 3,
            "EndpointSlice" | "Workload" => 4,
            "Gateway" => 6,
            kind if kind.ends_with("Route") => 7,
            _ => 5,
        };
        let mut kinds: Vec<&KindDescription> = self.kinds.iter().collect();
        kinds.sort_by_key(|kind| (rank(kind.kind), kind.kind));
        // Last, so that whoever asks about an address or a namespace has the answer before that says that it is complete.
        kinds.into_iter().map(type_url).chain([address_type(), guard_type()]).collect()
    }

    /// The type of a kind by group and name, as references give them.
    pub fn type_of(&self, group: &str, kind: &str) -> Option<TypeUrl> {
        self.kinds.iter().find(|one| one.kind == kind && one.group == group).map(type_url)
    }

    /// The key of an object; `None` for a kind that does not travel.
    pub fn key(&self, object: &Value) -> Option<Key> {
        let api_version = object["apiVersion"].as_str()?;
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let kind = object["kind"].as_str()?;
        let kind = self.kinds.iter().find(|one| one.kind == kind && one.group == group)?;
        let name = object["metadata"]["name"].as_str()?;
        let name = match kind.scope {
            Scope::Namespaced => format!("{}/{name}", namespace_of(object)),
            Scope::Cluster => name.to_owned(),
        };
        Some(Key::new(&type_url(kind), &name))
    }

    /// The resource of an object, with its company.
    pub fn resource(&self, object: &Value) -> Option<Resource> {
        let key = self.key(object)?;
        let mut brings: BTreeSet<Key> = self.keys(company::brings(object)).into_iter().collect();
        let targets = company::joins(object);
        let mut joins = self.keys(targets.clone());
        let services = targets.iter().filter(|one| one.kind == "Service" && one.group.is_empty());
        let guards = services.map(|service| guard_key(&service.namespace, &service.name));
        let kind = object["kind"].as_str().unwrap_or_default();
        if matches!(kind, "Service" | "Workload") {
            brings.insert(namespace_guard_key(namespace_of(object)));
        }
        let namespaces = targets.iter().filter(|one| one.kind == "Namespace" && one.group.is_empty());
        joins.extend(namespaces.map(|namespace| namespace_guard_key(&namespace.name)));
        if kind == "Workload" {
            // Who asks whose an address is, is told.
            joins.extend(object["spec"]["address"].as_str().and_then(|text| text.parse().ok()).map(address_key));
            brings.extend(guards);
        } else if GUARDS.contains(&kind) {
            joins.extend(guards);
        }
        Some(Resource::from_json(key, object).joining(joins).bringing(brings.into_iter().collect()))
    }

    fn keys(&self, named: Vec<Named>) -> Vec<Key> {
        let key = |one: &Named| {
            Some(Key::new(&self.type_of(&one.group, &one.kind)?, &format!("{}/{}", one.namespace, one.name)))
        };
        named.iter().filter_map(key).collect()
    }
}

fn type_url(kind: &KindDescription) -> TypeUrl {
    TypeUrl::of(kind.group, kind.versions.first().copied().unwrap_or("v1"), kind.kind)
}

/// Namespace and name of an object that lives in a namespace.
pub(super) fn name_of_object(object: &Value) -> Option<Name> {
    Some((namespace_of(object).to_owned(), object["metadata"]["name"].as_str()?.to_owned()))
}

/// The objects in the texts, as JSON: lists taken apart, namespaces written out, status left out, values from outside filled in.
/// The texts have been loaded before; what cannot be read is passed over.
pub fn objects(texts: &[SourceText], outside: &dyn Outside) -> Vec<Value> {
    let kinds = Kinds::default();
    let mut objects = Vec::new();
    for text in texts {
        let (documents, _) = transept_model::value::read(text, &Budget::default());
        let mut waiting: Vec<Value> = documents.iter().map(transept_model::Value::to_json).collect();
        waiting.reverse();
        while let Some(mut object) = waiting.pop() {
            let kind = object["kind"].as_str().unwrap_or_default().to_owned();
            if let (true, Some(items)) = (kind.ends_with("List"), object.get_mut("items").and_then(Value::as_array_mut))
            {
                waiting.extend(items.drain(..).rev());
                continue;
            }
            if kinds.key(&object).is_none() {
                continue;
            }
            if let Some(fields) = object.as_object_mut() {
                fields.remove("status");
            }
            let namespaced = kinds.key(&object).is_some_and(|key| key.name.contains('/'));
            if namespaced && object["metadata"]["namespace"].is_null() {
                object["metadata"]["namespace"] = DEFAULT_NAMESPACE.into();
            }
            if kind == "Secret" {
                fill_in(&mut object, text, outside);
            }
            objects.push(object);
        }
    }
    objects
}

/// Whether a text may hold a Secret that takes values from outside, so that the same text can mean something else the next time.
pub(super) fn asks_outside(text: &SourceText) -> bool {
    [FROM_ENV, FROM_FILE].iter().any(|annotation| text.text.contains(annotation))
}

/// Reads the values that a Secret takes from outside and writes them into it; what cannot be read stays away.
fn fill_in(secret: &mut Value, text: &SourceText, outside: &dyn Outside) {
    let name = ObjectName {
        kind: "Secret".into(),
        namespace: namespace_of(secret).into(),
        name: secret["metadata"]["name"].as_str().unwrap_or_default().into(),
    };
    let Some(annotations) = secret["metadata"]["annotations"].as_object_mut() else {
        return;
    };
    let wishes = [
        (annotations.remove(FROM_ENV), ValueFrom::Env as fn(String) -> ValueFrom),
        (annotations.remove(FROM_FILE), ValueFrom::File as fn(String) -> ValueFrom),
    ];
    let mut data = Map::new();
    for (wish, from) in wishes {
        let wish = wish.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
        for (key, place) in wish.split(',').filter_map(|pair| pair.split_once('=')) {
            let key = key.trim().to_owned();
            let wanted = Wanted {
                at: Place { file: text.name.clone(), line: 0, column: 0 },
                secret: name.clone(),
                key: key.clone(),
                from: from(place.trim().to_owned()),
            };
            if let Ok(bytes) = outside.read(&wanted) {
                data.insert(key, data_encoding::BASE64.encode(&bytes).into());
            }
        }
    }
    if !data.is_empty() {
        if secret["data"].is_null() {
            secret["data"] = json!({});
        }
        if let Some(fields) = secret["data"].as_object_mut() {
            fields.extend(data);
        }
    }
}

/// The Services among objects.
pub fn services(objects: &[Value]) -> BTreeSet<Name> {
    named(objects, "Service").map(|(name, _)| name).collect()
}

/// Whose Secrets are whose.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Secrets {
    /// The Gateways, each with the Secrets that it names itself.
    pub gateways: BTreeMap<Name, BTreeSet<Name>>,
    /// The Secrets that other objects name, such as Backends: every gateway may have to use those.
    pub shared: BTreeSet<Name>,
}

impl Secrets {
    /// Adds those of other objects.
    pub(super) fn add(&mut self, other: &Secrets) {
        self.gateways.extend(other.gateways.iter().map(|(gateway, secrets)| (gateway.clone(), secrets.clone())));
        self.shared.extend(other.shared.iter().cloned());
    }
}

/// The Gateways among objects, and which Secrets are named by what.
pub fn secrets(objects: &[Value]) -> Secrets {
    let mut found = Secrets::default();
    for object in objects {
        let secrets = secrets_in(object);
        match (object["kind"].as_str(), object["metadata"]["name"].as_str()) {
            (Some("Gateway"), Some(name)) => {
                found.gateways.insert((namespace_of(object).to_owned(), name.to_owned()), secrets);
            }
            _ => {
                found.shared.extend(secrets);
                found.shared.extend(secrets_of_policy(object));
            }
        }
    }
    found
}

/// The Secrets that a policy names in its own way.
fn secrets_of_policy(object: &Value) -> BTreeSet<Name> {
    let Some(kind) = object["kind"].as_str().filter(|kind| MODEL_KINDS.iter().any(|one| one.kind == *kind)) else {
        return BTreeSet::new();
    };
    let mut spec = object["spec"].clone();
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("targetRefs");
    }
    // The engine reads trees with positions, and JSON is YAML.
    let text = SourceText::new("spec", spec.to_string());
    let (documents, _) = transept_model::value::read(&text, &Budget::default());
    let secrets = documents.iter().flat_map(|spec| policies::secrets_of(kind, spec));
    secrets.map(|name| (namespace_of(object).to_owned(), name.to_string())).collect()
}

/// The Secrets that an object names, wherever in it: what refers to an object of this kind, or says by its own name that it does.
fn secrets_in(object: &Value) -> BTreeSet<Name> {
    let mut named = BTreeSet::new();
    let mut waiting = vec![("", &object["spec"])];
    while let Some((field, value)) = waiting.pop() {
        match value {
            Value::Array(items) => waiting.extend(items.iter().map(|item| (field, item))),
            Value::Object(fields) => {
                let implied = matches!(field, "certificateRefs" | "clientCertificateRef");
                let kind = value["kind"].as_str().or(implied.then_some("Secret"));
                if let (Some("Secret"), Some(name)) = (kind, value["name"].as_str()) {
                    let namespace = value["namespace"].as_str().unwrap_or(namespace_of(object));
                    named.insert((namespace.to_owned(), name.to_owned()));
                }
                waiting.extend(fields.iter().map(|(field, inner)| (field.as_str(), inner)));
            }
            _ => {}
        }
    }
    named
}

fn named<'o>(objects: &'o [Value], kind: &'o str) -> impl Iterator<Item = (Name, &'o Value)> {
    let of_kind = objects.iter().filter(move |object| object["kind"] == kind);
    of_kind.filter_map(|object| Some((name_of_object(object)?, object)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Outside for Nothing {
        fn read(&self, wanted: &Wanted) -> Result<Vec<u8>, String> {
            match &wanted.from {
                ValueFrom::Env(name) => Ok(name.clone().into_bytes()),
                ValueFrom::File(_) => Err("there is no such file".into()),
            }
        }
    }

    const SHOP: &str = "\
kind: List
apiVersion: v1
items:
- {apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80}]}, status: {x: 1}}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: cart-1, labels: {kubernetes.io/service-name: cart}}
  addressType: IPv4
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: shop}
spec:
  parentRefs: [{name: cart, kind: Service, group: '', namespace: default}, {name: web}]
  rules:
  - backendRefs: [{name: bank}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {group: transept.dev, kind: Backend, name: copy}}}]
---
apiVersion: v1
kind: Secret
metadata: {name: key, annotations: {transept.dev/from-env: 'a = ONE, b=TWO', transept.dev/from-file: c=none}}
---
apiVersion: example.com/v1
kind: Unknown
metadata: {name: x}
";

    fn shop() -> Vec<Value> {
        objects(&[SourceText::new("shop.yaml", SHOP)], &Nothing)
    }

    #[test]
    fn objects_are_written_out_and_keep_only_what_proxies_need() {
        let objects = shop();
        let kinds = Kinds::default();
        let keys: Vec<String> = objects.iter().filter_map(|o| Some(kinds.key(o)?.to_string())).collect();
        assert_eq!(
            keys,
            [
                "core/v1/Service default/cart",
                "discovery.k8s.io/v1/EndpointSlice default/cart-1",
                "gateway.networking.k8s.io/v1/HTTPRoute shop/shop",
                "core/v1/Secret default/key",
            ]
        );
        assert!(objects[0].get("status").is_none());
        assert_eq!(objects[3]["data"], json!({"a": "T05F", "b": "VFdP"}));
        assert_eq!(objects[3]["metadata"]["annotations"], json!({}));
        assert_eq!(services(&objects).into_iter().collect::<Vec<_>>(), [("default".to_owned(), "cart".to_owned())]);
    }

    #[test]
    fn what_belongs_together_travels_together() {
        let (objects, kinds) = (shop(), Kinds::default());
        let company = |at: usize| {
            let resource = kinds.resource(&objects[at]).expect("a resource");
            let names = |keys: &[Key]| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
            (names(resource.joins()), names(resource.brings()))
        };
        assert_eq!(company(1).0, ["core/v1/Service default/cart"]);
        let (joins, brings) = company(2);
        assert_eq!(joins, ["core/v1/Service default/cart", "gateway.networking.k8s.io/v1/Gateway shop/web"]);
        assert_eq!(brings, ["core/v1/Service shop/bank", "transept.dev/v1alpha1/Backend shop/copy"]);
    }

    #[test]
    fn an_instance_comes_along_with_its_address() {
        let object = json!({
            "apiVersion": "transept.dev/v1alpha1",
            "kind": "Workload",
            "metadata": {"name": "cart-1", "namespace": "shop"},
            "spec": {"services": ["cart"], "address": "10.0.0.7", "ports": [{"port": 80}]},
        });
        let resource = Kinds::default().resource(&object).expect("a resource");
        let joins: Vec<String> = resource.joins().iter().map(ToString::to_string).collect();
        assert_eq!(joins, ["core/v1/Service shop/cart", "transept.dev/v1alpha1/Address 10.0.0.7"]);
    }

    #[test]
    fn what_holds_for_a_namespace_comes_along_with_its_services_and_instances() {
        let resource = |kind: &str, api: &str, spec: Value| {
            let object = json!({"apiVersion": api, "kind": kind, "metadata": {"name": "all", "namespace": "shop"}, "spec": spec});
            Kinds::default().resource(&object).expect("a resource")
        };
        let target = json!({"targetRefs": [{"group": "", "kind": "Namespace", "name": "shop"}]});
        let guard = namespace_guard_key("shop");
        for kind in ["AuthorizationPolicy", "MeshPolicy", "TrafficPolicy"] {
            assert!(resource(kind, "transept.dev/v1alpha1", target.clone()).joins().contains(&guard), "{kind}");
        }
        assert!(resource("Service", "v1", json!({"ports": [{"port": 80}]})).brings().contains(&guard));
        let workload = json!({"services": ["cart"], "address": "10.0.0.7", "ports": [{"port": 80}]});
        assert!(resource("Workload", "transept.dev/v1alpha1", workload).brings().contains(&guard));
    }

    #[test]
    fn what_guards_a_service_comes_along_with_all_its_instances() {
        let policy = |kind: &str| {
            let object = json!({
                "apiVersion": "transept.dev/v1alpha1", "kind": kind, "metadata": {"name": "all", "namespace": "shop"},
                "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "all"}]},
            });
            Kinds::default().resource(&object).expect("a resource")
        };
        let instance = json!({
            "apiVersion": "transept.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "cart-1", "namespace": "shop"},
            "spec": {"services": ["cart", "all"], "address": "10.0.0.7", "ports": [{"port": 80}]},
        });
        let mut store = transept_xds::Store::new();
        store.put(Kinds::default().resource(&instance).expect("a resource"));
        for kind in ["AuthorizationPolicy", "MeshPolicy", "TrafficPolicy"] {
            store.put(policy(kind));
        }
        let with = |asked: Key| -> Vec<String> {
            let found = store.bundles().follow([asked]);
            found.iter().filter(|key| key.type_url.as_str().ends_with("Policy")).map(ToString::to_string).collect()
        };
        let service = |name: &str| Key::new(&TypeUrl::of("", "v1", "Service"), &format!("shop/{name}"));
        let guards =
            ["transept.dev/v1alpha1/AuthorizationPolicy shop/all", "transept.dev/v1alpha1/MeshPolicy shop/all"];
        assert_eq!(with(service("cart")), guards, "by its instance, which is one of all, too");
        assert_eq!(with(address_key([10, 0, 0, 7].into())), guards);
        assert_eq!(with(service("all")).len(), 3);
        assert_eq!(with(service("bank")), [""; 0]);
    }

    #[test]
    fn what_is_pointed_at_comes_first() {
        let order: Vec<String> = Kinds::default().order().iter().map(ToString::to_string).collect();
        let at = |kind: &str| order.iter().position(|one| one.ends_with(kind)).expect(kind);
        assert!(at("/Secret") < at("/Gateway") && at("/Service") < at("/EndpointSlice"));
        assert!(at("/Gateway") < at("/HTTPRoute") && at("/Workload") < at("/HTTPRoute"));
        // Nobody is to know of a Service, or of an instance, and not yet of what guards it.
        assert!(GUARDS.iter().all(|guard| at(&format!("/{guard}")) < at("/Service")));
    }

    #[test]
    fn secrets_belong_to_whom_they_are_named_by() {
        let text = "\
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: web}, spec: {listeners: [{tls: {certificateRefs: [{name: a},
  {name: b, namespace: certs}, {kind: ConfigMap, name: c}]}}], tls: {backend: {clientCertificateRef: {name: d}}}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: empty}, spec: {listeners: []}}
---
{apiVersion: transept.dev/v1alpha1, kind: Backend, metadata: {name: bank, namespace: shop}, spec: {tls: {caCertificateRefs: [{group: '',
  kind: Secret, name: ca}, {group: '', kind: ConfigMap, name: other}], clientCertificateRef: {name: key}}}}
---
{apiVersion: transept.dev/v1alpha1, kind: AuthenticationPolicy, metadata: {name: people, namespace: shop}, spec: {targetRefs: [
  {group: gateway.networking.k8s.io, kind: Gateway, name: web}], schemes: [{name: staff, basic: {users: {name: htpasswd, key: users}}}]}}
";
        let objects = objects(&[SourceText::new("web.yaml", text)], &Nothing);
        let name = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        let web = BTreeSet::from([name("default", "a"), name("certs", "b"), name("default", "d")]);
        let expected = Secrets {
            gateways: BTreeMap::from([(name("default", "web"), web), (name("default", "empty"), BTreeSet::new())]),
            shared: BTreeSet::from([name("shop", "ca"), name("shop", "htpasswd"), name("shop", "key")]),
        };
        assert_eq!(secrets(&objects), expected);
    }
}
