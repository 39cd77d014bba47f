//! Sets the scene of one case (section 5 of the suite's description): its objects, the addresses of its Gateways, the pods that
//! answer, and the EndpointSlices that name them.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use transept_testkit::certificates::certificate_from_pem;
use transept_testkit::echo::{Pod, Port, RequestLog, Serving, serve, server_tls};

use crate::addresses::{Addresses, UNUSABLE};
use crate::case::Case;
use crate::certificates::CertificateStore;
use crate::suite::{CLASS_NAME, CONTROLLER_NAME, Suite};
use crate::topology::{Service, Workload};
use crate::world::{World, text};

/// A world and the pods in it.
#[derive(Debug)]
pub(crate) struct Scene {
    /// The objects.
    pub world: World,
    /// The address that stands for `${usable_address}`.
    pub usable_address: Ipv4Addr,
    pods: Pods,
}

/// The pods of a case; they stop when this is dropped.
#[derive(Debug, Default)]
struct Pods {
    groups: HashMap<String, Group>,
    _serving: Vec<Serving>,
}

/// The pods of one workload.
#[derive(Debug, Default)]
struct Group {
    log: RequestLog,
    members: Vec<(String, Ipv4Addr)>,
}

impl Scene {
    /// Starts the pods and writes the files.
    ///
    /// # Errors
    /// A manifest or a certificate is missing, or an address cannot be bound.
    pub(crate) async fn set(
        suite: &Suite,
        certificates: &CertificateStore,
        case: &Case,
        mut addresses: Addresses,
        directory: &Path,
    ) -> Result<Scene> {
        if directory.exists() {
            std::fs::remove_dir_all(directory)?;
        }
        let mut world = World::new(directory);
        world.add("00-class.yaml", [gateway_class()]);
        for (number, manifest) in case.manifests.iter().enumerate() {
            let name = manifest.replace('/', "-");
            world.add(&format!("{}0-{name}", number + 1), suite.manifest(manifest)?);
        }
        world.add("70-certificates.yaml", certificates.objects().iter().cloned());
        let usable_address = addresses.gateway();
        place_gateways(&mut world, suite, &mut addresses, usable_address);
        let mut pods = Pods::default();
        let is_here = |manifest: &String| case.manifests.contains(manifest);
        for workload in suite.topology.workloads.iter().filter(|workload| is_here(&workload.manifest)) {
            pods.start(workload, certificates, &mut addresses)
                .await
                .with_context(|| format!("pods of {}/{}", workload.namespace, workload.name))?;
        }
        let services = suite.topology.services.iter().filter(|service| is_here(&service.manifest));
        let slices: Vec<Value> = services.filter_map(|service| pods.endpoint_slice(service)).collect();
        world.add("80-endpoints.yaml", slices);
        world.write()?;
        Ok(Scene { world, usable_address, pods })
    }

    /// The log of the pods of `namespace/workload`.
    ///
    /// # Errors
    /// There are no such pods.
    pub(crate) fn log(&self, namespace: &str, workload: &str) -> Result<&RequestLog> {
        let name = format!("{namespace}/{workload}");
        let group = self.pods.groups.get(&name).with_context(|| format!("no pods of {name}"))?;
        Ok(&group.log)
    }

    /// The endpoints of an EndpointSlice with the pods of `namespace/workload`; all pods have IPv4 addresses.
    ///
    /// # Errors
    /// There are no such pods.
    pub(crate) fn endpoints(&self, workload: &str, address_type: &str) -> Result<Vec<Value>> {
        let group = self.pods.groups.get(workload).with_context(|| format!("no pods of {workload}"))?;
        let namespace = workload.split('/').next().unwrap_or_default();
        match address_type {
            "IPv4" => Ok(endpoints(namespace, &group.members)),
            _ => Ok(Vec::new()),
        }
    }
}

fn gateway_class() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": CLASS_NAME},
        "spec": {"controllerName": CONTROLLER_NAME},
    })
}

/// Gives every Gateway an address of its own, except those whose addresses are part of the test.
fn place_gateways(world: &mut World, suite: &Suite, addresses: &mut Addresses, usable: Ipv4Addr) {
    world.each_of_kind("Gateway", |gateway| {
        let keeps_own = suite.topology.gateways.iter().any(|known| {
            known.keeps_own_addresses
                && known.name == text(gateway, "/metadata/name")
                && known.namespace == text(gateway, "/metadata/namespace")
        });
        if keeps_own {
            fill_placeholders(gateway, usable);
        } else if gateway.pointer("/spec/addresses").is_none() {
            gateway["spec"]["addresses"] = json!([{"type": "IPAddress", "value": addresses.gateway()}]);
        }
    });
}

fn fill_placeholders(gateway: &mut Value, usable: Ipv4Addr) {
    let entries = gateway.pointer_mut("/spec/addresses").and_then(Value::as_array_mut);
    for entry in entries.into_iter().flatten() {
        let address = match text(entry, "/value") {
            "PLACEHOLDER_UNUSABLE_ADDRS" => UNUSABLE,
            "PLACEHOLDER_USABLE_ADDRS" => usable,
            _ => continue,
        };
        *entry = json!({"type": "IPAddress", "value": address});
    }
}

impl Pods {
    async fn start(
        &mut self,
        workload: &Workload,
        certificates: &CertificateStore,
        addresses: &mut Addresses,
    ) -> Result<()> {
        let mut group = Group::default();
        for replica in 1..=workload.replicas {
            // Neither the hash nor the suffix holds a dash: the name of the workload is found again by dropping both.
            let name = format!("{}-6d5f7c9b8-p{replica}", workload.name);
            let address = addresses.pod();
            let pod = Pod::new(&name, &workload.namespace, group.log.clone());
            for number in &workload.ports {
                if let Some(port) = port(workload, *number, certificates)? {
                    let serving = serve(SocketAddr::from((address, *number)), port, &pod).await?;
                    self._serving.push(serving);
                }
            }
            group.members.push((name, address));
        }
        self.groups.insert(format!("{}/{}", workload.namespace, workload.name), group);
        Ok(())
    }

    /// The slice of a Service with a selector; `None` when its slices come with the manifest.
    fn endpoint_slice(&self, service: &Service) -> Option<Value> {
        let workloads = service.endpoints.as_array()?;
        let groups = workloads.iter().filter_map(Value::as_str).filter_map(|name| {
            let namespace = name.split('/').next()?;
            Some((namespace, self.groups.get(name)?))
        });
        let endpoints = groups.flat_map(|(namespace, group)| endpoints(namespace, &group.members)).collect();
        Some(endpoint_slice(service, endpoints))
    }
}

/// A slice with all ports of a Service.
pub(crate) fn endpoint_slice(service: &Service, endpoints: Vec<Value>) -> Value {
    let ports = service.ports.iter().map(|port| {
        let mut entry = json!({"name": port.name, "port": port.target_port, "protocol": port.protocol});
        if let Some(protocol) = &port.app_protocol {
            entry["appProtocol"] = json!(protocol);
        }
        entry
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-x1", service.name),
            "namespace": service.namespace,
            "labels": {"kubernetes.io/service-name": service.name},
        },
        "addressType": "IPv4",
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": endpoints,
    })
}

/// Pods, by name and address, as endpoints of a slice.
pub(crate) fn endpoints(namespace: &str, pods: &[(String, Ipv4Addr)]) -> Vec<Value> {
    let endpoint = |(name, address): &(String, Ipv4Addr)| {
        json!({
            "addresses": [address],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "name": name, "namespace": namespace},
        })
    };
    pods.iter().map(endpoint).collect()
}

/// What a port of a workload speaks; `None` for workloads that no case in scope calls.
fn port(workload: &Workload, number: u16, certificates: &CertificateStore) -> Result<Option<Port>> {
    let tls = |alpn: &[&str]| {
        let options = workload.tls.as_ref().context("a TLS port without a certificate")?;
        let identity = certificates.identity(&options.certificate)?;
        let authority = match &options.client_ca {
            Some(reference) => Some(certificate_from_pem(certificates.authority(reference)?)?),
            None => None,
        };
        Ok::<_, anyhow::Error>(server_tls(identity, authority.as_ref(), alpn)?)
    };
    Ok(match (workload.role.as_str(), number) {
        ("http-echo", 3000) => Some(Port::Http1),
        ("http-echo", 3001) => Some(Port::H2c),
        ("http-echo", 8443) => Some(Port::Https(tls(&["h2", "http/1.1"])?)),
        ("grpc-echo", 3000) => Some(Port::Grpc),
        ("tcp-echo", 3000) => Some(Port::Tcp),
        ("grpc-echo", 8443) => Some(Port::GrpcTls(tls(&["h2"])?)),
        _ => None,
    })
}
