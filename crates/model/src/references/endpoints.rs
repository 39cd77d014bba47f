//! The endpoints of a backend: ready addresses out of EndpointSlices, or names to be asked in DNS.
//!
//! Called by `backends`, and by whoever replaces one backend's endpoints without compiling everything again. Balancing and
//! resolving are left to the engine and the proxy.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::kinds::core::{EndpointSlice, ServicePort};
use crate::world::World;

/// Where a backend's endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointSource {
    /// Addresses that are known. May be empty: then there is nobody to answer.
    Static(Vec<EndpointAddress>),
    /// Names that have to be resolved, again and again as their TTL says.
    Dns(Vec<DnsEndpoint>),
}

/// One address of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointAddress {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// Its share among the endpoints; 1 unless a `Backend` says otherwise.
    pub weight: u32,
    /// The host name of the endpoint, if its slice has one.
    pub hostname: Option<Arc<str>>,
    /// The zone it lives in, if that is known.
    pub zone: Option<Arc<str>>,
}

/// One name of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsEndpoint {
    /// The name to resolve.
    pub name: Arc<str>,
    /// The port of whatever it resolves to.
    pub port: u16,
    /// Its share among the names of the backend.
    pub weight: u32,
}
