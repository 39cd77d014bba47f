//! Who gets which loopback address (section 6 of the suite's description). All of 127.0.0.0/8 is local on Linux, so every case
//! has gateways in 127.64.N.0/24 and pods in 127.65.N.0/24, and cases can run side by side on the real ports.

use std::net::Ipv4Addr;

/// An address that this machine does not have (RFC 5737).
pub(crate) const UNUSABLE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

/// The addresses of one case, handed out one by one.
#[derive(Debug)]
pub(crate) struct Addresses {
    case: u8,
    gateways: u8,
    pods: u8,
}

impl Addresses {
    /// The addresses of the case with this number.
    pub(crate) fn of_case(case: u8) -> Addresses {
        Addresses { case, gateways: 0, pods: 0 }
    }

    /// The next address for a Gateway. No world has more than 250.
    pub(crate) fn gateway(&mut self) -> Ipv4Addr {
        self.gateways = self.gateways.saturating_add(1);
        Ipv4Addr::new(127, 64, self.case, self.gateways)
    }

    /// The next address for a pod. No world has more than 250.
    pub(crate) fn pod(&mut self) -> Ipv4Addr {
        self.pods = self.pods.saturating_add(1);
        Ipv4Addr::new(127, 65, self.case, self.pods)
    }
}
