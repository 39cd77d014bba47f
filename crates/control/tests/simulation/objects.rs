//! The objects of the files: real ones, made by the dice out of a small vocabulary, each with what the run knows of its meaning.
//!
//! Made by `truth`. The meaning is written down here before the product has seen the object, so that `oracle` can say what should
//! follow without asking the product.

use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use serde_json::{Value, json};
use transept_control::plane::source::{Kinds, objects};
use transept_model::SourceText;
use transept_model::load::{Outside, Wanted};
use transept_xds::{Key, Resource, TypeUrl};

use crate::dice::Dice;

pub(crate) const NAMESPACE: &str = "shop";
pub(crate) const SERVICES: [&str; 4] = ["cart", "desk", "bank", "till"];
/// The Gateway, whose proxy has its name.
pub(crate) const GATEWAY: &str = "web";
pub(crate) const BACKEND: &str = "copy";
/// Every request of the simulation has one of these paths.
pub(crate) const PATHS: [&str; 4] = ["/", "/a/b", "/secret/x", "/secret"];
const PREFIXES: [&str; 4] = ["/", "/a", "/a/b", "/secret"];
/// The policy that guards `/secret` of [`SERVICES`]`[0]` from the beginning to the end, in every version that there is.
pub(crate) const GUARD: &str = "guard";

/// How files change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manners {
    /// Anyhow.
    Wild,
    /// Every Service is there from the beginning to the end, and no object is refused. So whatever leads to a Service must find it, at
    /// every moment and whatever happens to connections and control planes.
    Gentle,
}

/// An object and what it means.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) key: Key,
    pub(crate) resource: Resource,
    pub(crate) version: String,
    /// Whether proxies refuse it: it is of a later version than they are.
    pub(crate) bad: bool,
    /// Whom it comes along with.
    pub(crate) joins: Vec<Key>,
    /// What comes along with it.
    pub(crate) brings: Vec<Key>,
    pub(crate) meaning: Meaning,
    /// Why a proxy refuses it, found out once: every proxy is told the same by the loader.
    judged: OnceCell<Option<String>>,
}

impl Spec {
    pub(crate) fn new(resource: Resource, bad: bool, (joins, brings): (Vec<Key>, Vec<Key>), meaning: Meaning) -> Self {
        let (key, version) = (resource.key().clone(), resource.version().to_string());
        Self { key, version, resource, bad, joins, brings, meaning, judged: OnceCell::new() }
    }

    /// Why a proxy refuses it, as the loader says; none when it does not.
    pub(crate) fn refusal(&self, judge: impl FnOnce(&Key, &Bytes) -> Option<String>) -> Option<&str> {
        self.judged.get_or_init(|| judge(&self.key, self.resource.payload())).as_deref()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Meaning {
    /// Nothing that requests are checked against.
    Other,
    /// Where a Service or Backend is, as `Service/cart`.
    Endpoints(Vec<(String, IpAddr)>),
    /// The same of one that is silent, and is there for when nobody else is left.
    Silent(Vec<(String, IpAddr)>),
    Route(Route),
    Access(Access),
    /// A TrafficPolicy, on `Service/cart`.
    Traffic(String),
}

/// What routes and policies are attached to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    Service(String),
    Gateway,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Route {
    pub(crate) parent: Place,
    /// A prefix of paths, and where requests go, as `Service/cart` with a weight.
    pub(crate) rules: Vec<(String, Vec<(String, u32)>)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Access {
    pub(crate) on: Place,
    pub(crate) deny: Vec<Rule>,
    pub(crate) allow: Option<Vec<Rule>>,
}

/// Who and what; none is everybody and everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rule {
    pub(crate) identity: Option<&'static str>,
    pub(crate) below: Option<&'static str>,
    pub(crate) method: Option<&'static str>,
}

pub(crate) fn service_type() -> TypeUrl {
    TypeUrl::of("", "v1", "Service")
}

pub(crate) fn access_type() -> TypeUrl {
    TypeUrl::of("transept.dev", "v1alpha1", "AuthorizationPolicy")
}

pub(crate) fn gateway_type() -> TypeUrl {
    TypeUrl::of("gateway.networking.k8s.io", "v1", "Gateway")
}

pub(crate) fn key(type_url: &TypeUrl, name: &str) -> Key {
    Key::new(type_url, &format!("{NAMESPACE}/{name}"))
}

pub(crate) fn service_key(name: &str) -> Key {
    key(&service_type(), name)
}

fn backend_key(label: &str) -> Key {
    match label.split_once('/') {
        Some(("Backend", name)) => key(&TypeUrl::of("transept.dev", "v1alpha1", "Backend"), name),
        Some((_, name)) => service_key(name),
        None => service_key(label),
    }
}

fn place_key(place: &Place) -> Key {
    match place {
        Place::Service(name) => service_key(name),
        Place::Gateway => key(&gateway_type(), GATEWAY),
    }
}

impl Rule {
    pub(crate) fn matches(&self, identity: Option<&str>, method: &str, path: &str) -> bool {
        let below = |prefix: &str| path == prefix || path.starts_with(&format!("{prefix}/"));
        self.identity.is_none_or(|wanted| identity == Some(&format!("spiffe://transept.local/ns/{}", sa(wanted))))
            && self.below.is_none_or(below)
            && self.method.is_none_or(|wanted| wanted == method)
    }

    fn json(&self) -> Value {
        let mut rule = json!({});
        if let Some(identity) = self.identity {
            rule["from"] = json!([{"identities": [identity]}]);
        }
        let mut to = json!({});
        if let Some(below) = self.below {
            to["paths"] = json!([format!("{below}/*")]);
        }
        if let Some(method) = self.method {
            to["methods"] = json!([method]);
        }
        if to != json!({}) {
            rule["to"] = json!([to]);
        }
        rule
    }
}

/// `shop/desk` as the end of an identity.
fn sa(short: &str) -> String {
    short.replace('/', "/sa/")
}

/// The identity of a service.
pub(crate) fn identity(service: &str) -> String {
    format!("spiffe://transept.local/ns/{NAMESPACE}/sa/{service}")
}

struct Nothing;

impl Outside for Nothing {
    fn read(&self, _: &Wanted) -> Result<Vec<u8>, String> {
        Err("there is nothing outside".to_owned())
    }
}

/// Makes objects.
pub(crate) struct Workshop {
    pub(crate) kinds: Kinds,
    /// Counts, so that no two objects of the run are the same by accident.
    made: usize,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        Self { kinds: Kinds::default(), made: 0 }
    }

    /// The object as the control plane reads it out of a file.
    fn finish(&self, mut object: Value, bad: bool, meaning: Meaning) -> Spec {
        if bad {
            object["spec"]["since"] = "a later version".into();
        }
        object["metadata"]["namespace"] = NAMESPACE.into();
        let resource = self.kinds.resource(&object).expect("a kind that travels");
        // What the control plane reads out of a file is the same; reading all of them would be most of the work.
        if self.made.is_multiple_of(8) {
            let read = objects(&[SourceText::new("file", object.to_string())], &Nothing);
            let read: Vec<_> = read.iter().filter_map(|object| self.kinds.resource(object)).collect();
            assert_eq!(read, std::slice::from_ref(&resource), "read from a file");
        }
        let (mut joins, mut brings) = (Vec::new(), Vec::new());
        match &meaning {
            Meaning::Endpoints(places) | Meaning::Silent(places) => {
                joins.extend(places.iter().filter_map(|(label, _)| label.strip_prefix("Service/").map(service_key)))
            }
            Meaning::Route(route) => {
                joins.push(place_key(&route.parent));
                brings.extend(route.rules.iter().flat_map(|(_, to)| to).map(|(label, _)| backend_key(label)));
            }
            Meaning::Access(access) => joins.push(place_key(&access.on)),
            Meaning::Traffic(label) => joins.push(backend_key(label)),
            Meaning::Other => {}
        }
        Spec::new(resource, bad, (joins, brings), meaning)
    }

    /// Any object, in any version.
    pub(crate) fn any(&mut self, dice: &mut Dice, manners: Manners) -> Spec {
        self.made += 1;
        let bad = manners == Manners::Wild && dice.chance(12);
        match dice.below(100) {
            0..14 => {
                let name = dice.one(&SERVICES);
                self.service(dice, name, bad)
            }
            14..26 => self.slice(dice, bad),
            26..34 => self.workload(dice, bad),
            34..58 => self.route(dice, bad),
            58..76 => self.access(dice, bad),
            76..90 => self.traffic(dice, bad),
            90..94 => self.backend(dice, bad),
            _ => self.gateway(dice, bad),
        }
    }

    pub(crate) fn service(&self, dice: &mut Dice, name: &str, bad: bool) -> Spec {
        let mut ports = json!([{"name": "http", "port": 80}]);
        if dice.chance(30) {
            ports[0]["appProtocol"] = "http".into();
        }
        if dice.chance(20) {
            ports.as_array_mut().expect("a list").push(json!({"name": "admin", "port": 81}));
        }
        let object =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports}});
        self.finish(object, bad, Meaning::Other)
    }

    pub(crate) fn slice(&self, dice: &mut Dice, bad: bool) -> Spec {
        let (service, number) = (dice.below(SERVICES.len()), dice.below(2));
        let first = dice.below(4) as u8;
        let addresses =
            (0..1 + dice.below(4) as u8).map(|at| IpAddr::from(Ipv4Addr::new(10, 1, service as u8, first + at)));
        let places: Vec<(String, IpAddr)> =
            addresses.map(|address| (format!("Service/{}", SERVICES[service]), address)).collect();
        let endpoints: Vec<Value> =
            places.iter().map(|(_, address)| json!({"addresses": [address.to_string()]})).collect();
        let family = if bad { "a later version" } else { "IPv4" };
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {"name": format!("{}-{number}", SERVICES[service]), "labels": {"kubernetes.io/service-name": SERVICES[service]}},
            "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
        });
        Spec { bad, ..self.finish(object, false, Meaning::Endpoints(places)) }
    }

    /// A workload that nobody registers.
    fn workload(&self, dice: &mut Dice, bad: bool) -> Spec {
        let service = dice.below(SERVICES.len());
        let address = Ipv4Addr::new(10, 2, service as u8, dice.below(3) as u8);
        let zone = dice.one(&["a", "b"]);
        let mut object = json!({
            "apiVersion": "transept.dev/v1alpha1", "kind": "Workload",
            "metadata": {"name": format!("{}-by-hand-{}", SERVICES[service], dice.below(2))},
            "spec": {"services": [SERVICES[service]], "address": address.to_string(), "zone": zone,
                "ports": [{"port": 80, "targetPort": 8080}], "weight": 1 + dice.below(3)},
        });
        let places = vec![(format!("Service/{}", SERVICES[service]), IpAddr::from(address))];
        if dice.chance(75) {
            return self.finish(object, bad, Meaning::Endpoints(places));
        }
        object["spec"]["health"] = "Unhealthy".into();
        Spec { joins: vec![service_key(SERVICES[service])], ..self.finish(object, bad, Meaning::Endpoints(Vec::new())) }
    }

    pub(crate) fn route(&self, dice: &mut Dice, bad: bool) -> Spec {
        let parent = match dice.below(4) {
            0 => Place::Gateway,
            _ => Place::Service(dice.one(&SERVICES).to_owned()),
        };
        let label = |dice: &mut Dice| match dice.below(6) {
            0 => format!("Backend/{BACKEND}"),
            _ => format!("Service/{}", dice.one(&SERVICES)),
        };
        let rules: Vec<(String, Vec<(String, u32)>)> = (0..1 + dice.below(3))
            .map(|_| {
                let backends = (0..1 + dice.below(2)).map(|_| (label(dice), dice.one(&[1, 1, 3, 0]))).collect();
                (dice.one(&PREFIXES).to_owned(), backends)
            })
            .collect();
        let shown: Vec<Value> = rules
            .iter()
            .map(|(prefix, backends)| {
                let refs: Vec<Value> = backends.iter().map(|(label, weight)| backend_ref(label, *weight)).collect();
                json!({"matches": [{"path": {"type": "PathPrefix", "value": prefix}}], "backendRefs": refs})
            })
            .collect();
        let mut to = json!({"name": GATEWAY});
        if let Place::Service(service) = &parent {
            to = json!({"group": "", "kind": "Service", "name": service});
        }
        let object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": format!("r{}", dice.below(5))},
            "spec": {"parentRefs": [to], "rules": shown},
        });
        self.finish(object, bad, Meaning::Route(Route { parent, rules }))
    }

    fn access(&self, dice: &mut Dice, bad: bool) -> Spec {
        let on = match dice.below(5) {
            0 => Place::Gateway,
            _ => Place::Service(dice.one(&SERVICES).to_owned()),
        };
        let rule = |dice: &mut Dice| Rule {
            identity: dice.one(&[None, None, Some("shop/desk"), Some("shop/cart")]),
            below: dice.one(&[None, Some("/a"), Some("/secret")]),
            method: dice.one(&[None, None, Some("DELETE")]),
        };
        let deny: Vec<Rule> = (0..dice.below(2)).map(|_| rule(dice)).collect();
        let wanted = deny.is_empty() || dice.chance(40);
        let allow = wanted.then(|| (0..dice.below(3)).map(|_| rule(dice)).collect());
        self.policy(&format!("p{}", dice.below(4)), Access { on, deny, allow }, bad)
    }

    /// Some version of the [`GUARD`].
    pub(crate) fn guard(&self, dice: &mut Dice, bad: bool) -> Spec {
        let secret = Rule { below: Some("/secret"), ..Rule::default() };
        let also = Rule { method: dice.one(&[Some("DELETE"), None]), below: Some("/a"), ..Rule::default() };
        let deny = if dice.chance(50) { vec![secret] } else { vec![also, secret] };
        let on = Place::Service(SERVICES[0].to_owned());
        self.policy(GUARD, Access { on, deny, allow: None }, bad)
    }

    fn policy(&self, name: &str, access: Access, bad: bool) -> Spec {
        let rules = |rules: &[Rule]| rules.iter().map(Rule::json).collect::<Value>();
        let mut object = json!({
            "apiVersion": "transept.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": {"name": name},
            "spec": {"targetRefs": [target_ref(&access.on)], "deny": rules(&access.deny)},
        });
        if let Some(allow) = &access.allow {
            object["spec"]["allow"] = rules(allow);
        }
        self.finish(object, bad, Meaning::Access(access))
    }

    pub(crate) fn traffic(&self, dice: &mut Dice, bad: bool) -> Spec {
        let (on, label) = match dice.below(6) {
            0 => (json!({"group": "transept.dev", "kind": "Backend", "name": BACKEND}), format!("Backend/{BACKEND}")),
            _ => {
                let name = dice.one(&SERVICES);
                (json!({"group": "", "kind": "Service", "name": name}), format!("Service/{name}"))
            }
        };
        let balancer = match dice.one(&["LeastRequest", "RoundRobin", "Random", "RingHash"]) {
            "RingHash" => json!({"algorithm": "RingHash", "minimumRingSize": 16, "hashOn": [{"from": "Path"}]}),
            other => json!({"algorithm": other, "slowStart": dice.one(&["0s", "0s", "10s"])}),
        };
        let mut spec = json!({"targetRefs": [on], "balancer": balancer});
        if dice.chance(80) {
            spec["outlierDetection"] = json!({
                "consecutiveErrors": 1 + dice.below(3), "baseEjectionTime": dice.one(&["2s", "20s"]),
                "maxEjectionTime": "60s", "maxEjectionPercent": dice.one(&[0, 34, 50, 100]),
            });
        }
        if dice.chance(40) {
            spec["limits"] = json!({"requests": 1 + dice.below(3)});
        }
        if dice.chance(60) {
            let budget = json!({"percent": dice.one(&[0, 20, 100]), "perSecond": dice.below(2)});
            spec["retries"] = json!({"attempts": 1 + dice.below(3), "budget": budget});
        }
        if dice.chance(20) {
            spec["healthCheck"] = json!({"path": "/health"});
        }
        if dice.chance(20) {
            spec["locality"] = json!({"failover": ["b"]});
        }
        let object = json!({
            "apiVersion": "transept.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": format!("t{}", dice.below(3))},
            "spec": spec,
        });
        self.finish(object, bad, Meaning::Traffic(label))
    }

    fn backend(&self, dice: &mut Dice, bad: bool) -> Spec {
        let first = dice.below(3) as u8;
        let addresses: Vec<Ipv4Addr> =
            (0..1 + dice.below(3) as u8).map(|at| Ipv4Addr::new(10, 3, 0, first + at)).collect();
        let endpoints: Vec<Value> =
            addresses.iter().map(|address| json!({"address": address.to_string(), "port": 8080})).collect();
        let object = json!({
            "apiVersion": "transept.dev/v1alpha1", "kind": "Backend", "metadata": {"name": BACKEND}, "spec": {"endpoints": endpoints},
        });
        let places = addresses.into_iter().map(|address| (format!("Backend/{BACKEND}"), address.into())).collect();
        self.finish(object, bad, Meaning::Endpoints(places))
    }

    pub(crate) fn gateway(&self, dice: &mut Dice, bad: bool) -> Spec {
        let name = dice.one(&[GATEWAY, GATEWAY, "other"]);
        let object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": name},
            "spec": {"gatewayClassName": "transept", "listeners": [{"name": "http", "port": 8080, "protocol": "HTTP"}]},
        });
        self.finish(object, bad, Meaning::Other)
    }
}

fn target_ref(place: &Place) -> Value {
    match place {
        Place::Gateway => json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY}),
        Place::Service(name) => json!({"group": "", "kind": "Service", "name": name}),
    }
}

fn backend_ref(label: &str, weight: u32) -> Value {
    match label.split_once('/') {
        Some(("Backend", name)) => json!({"group": "transept.dev", "kind": "Backend", "name": name, "weight": weight}),
        Some((_, name)) => json!({"name": name, "port": 80, "weight": weight}),
        None => Value::Null,
    }
}
