//! How many connections are open, per listening address and per source.
//!
//! Called by `accept.rs` once per connection. The counts are shared by all workers, since the limits are.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use transept_engine::settings::Limits;

/// Open connections of the whole proxy.
#[derive(Clone, Default)]
pub(crate) struct OpenConnections {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    addresses: HashMap<SocketAddr, usize>,
    sources: HashMap<(SocketAddr, IpAddr), usize>,
}

/// One open connection; it is counted until this is dropped.
pub(crate) struct Place {
    all: OpenConnections,
    address: SocketAddr,
    source: Option<IpAddr>,
}

impl OpenConnections {
    /// Counts a connection, or says no when a limit is reached.
    pub(crate) fn enter(&self, address: SocketAddr, source: IpAddr, limits: &Limits) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = &mut *counts;
        let open = counts.addresses.entry(address).or_default();
        if *open >= limits.max_connections {
            return None;
        }
        let source = limits.max_connections_per_address.map(|most| (most, network_of(source)));
        if let Some((most, source)) = source {
            let of_source = counts.sources.entry((address, source)).or_default();
            if *of_source >= most {
                return None;
            }
            *of_source += 1;
        }
        *open += 1;
        Some(Place { all: self.clone(), address, source: source.map(|(_, source)| source) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.all.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = counts.addresses.get_mut(&self.address) {
            *open -= 1;
        }
        let Some(source) = self.source else { return };
        if let Some(open) = counts.sources.get_mut(&(self.address, source)) {
            *open -= 1;
            if *open == 0 {
                counts.sources.remove(&(self.address, source));
            }
        }
    }
}

/// One subscriber's addresses count as one: all of a /64 in IPv6.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let mut segments = address.segments();
            segments[4..].fill(0);
            IpAddr::V6(segments.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(all: usize, each: Option<usize>) -> Limits {
        Limits { max_connections: all, max_connections_per_address: each, ..Limits::default() }
    }

    #[test]
    fn a_place_is_free_again_when_left() {
        let open = OpenConnections::default();
        let address = "127.0.0.1:80".parse().unwrap();
        let source = "192.0.2.1".parse().unwrap();
        let place = open.enter(address, source, &limits(1, None)).unwrap();
        assert!(open.enter(address, source, &limits(1, None)).is_none());
        drop(place);
        assert!(open.enter(address, source, &limits(1, None)).is_some());
    }

    #[test]
    fn a_slash_64_is_one_source() {
        let open = OpenConnections::default();
        let address = "[::1]:80".parse().unwrap();
        let _one = open.enter(address, "2001:db8::1".parse().unwrap(), &limits(9, Some(1))).unwrap();
        assert!(open.enter(address, "2001:db8::2".parse().unwrap(), &limits(9, Some(1))).is_none());
        assert!(open.enter(address, "2001:db8:0:1::2".parse().unwrap(), &limits(9, Some(1))).is_some());
    }
}
