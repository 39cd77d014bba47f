//! `IpAccessPolicy`: who may come in, by the client's address.
//!
//! Looks only at the derived address (`forwarded::derive`): the socket's peer, or what trusted proxies say, so a client cannot choose
//! it; for a connection that carries no requests, at its peer. `deny` is looked at first; then, when `allow` is written, the address must be in it. An address that is not allowed gets 403
//! before anything else is decided about the request, on a Gateway or listener also where no route matches.

use std::net::IpAddr;

use transept_model::object;
use transept_model::policy::Target;
use transept_model::schema::Rule;

use super::{Arrival, Carried, CompileCx, Network, Phase, Policy};
use crate::exchange::Exchange;
use crate::reason::Reason;
use crate::verdict::{Reply, Verdict};

object! {
    /// Allows and denies clients by address.
    pub struct IpAccessPolicySpec {
        /// Networks whose clients may come in. When written, everybody else may not; an empty list allows nobody.
        allow: Option<Vec<Network>> => Rule::MaxItems(4096);
        /// Networks whose clients may not come in, whatever `allow` says.
        deny: Vec<Network> => Rule::MaxItems(4096);
    }
}

/// A compiled `IpAccessPolicy`.
#[derive(Debug)]
pub(crate) struct IpAccessPolicy {
    allow: Option<Vec<Network>>,
    deny: Vec<Network>,
}

impl Policy for IpAccessPolicy {
    const KIND: &'static str = "IpAccessPolicy";
    const ABOUT: &'static str = "Allows and denies clients by address.";
    const PHASE: Phase = Phase::Guard;
    const TARGETS: &'static [Target] =
        &[Target::Gateway, Target::Listener, Target::Route, Target::Rule, Target::TcpRoute];
    type Spec = IpAccessPolicySpec;

    fn compile(spec: &IpAccessPolicySpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        if spec.allow.is_none() && spec.deny.is_empty() {
            cx.refuse(spec.at, "the policy says nothing").remedy("write `allow`, `deny` or both");
            return None;
        }
        Some(IpAccessPolicy { allow: spec.allow.clone(), deny: spec.deny.clone() })
    }

    fn on_connect(&self, x: &Arrival<'_>) -> Verdict {
        match x.carried {
            // Nobody says whom the peer stands for.
            Carried::Opaque => self.judge(x.connection.peer.ip()),
            // Requests may say it, and are judged one by one.
            Carried::Unknown => Verdict::Continue,
        }
    }

    fn on_request(&self, x: &mut Exchange<'_>) -> Verdict {
        self.judge(x.client)
    }
}

impl IpAccessPolicy {
    fn judge(&self, client: IpAddr) -> Verdict {
        let client = client.to_canonical();
        let within = |networks: &[Network]| networks.iter().any(|network| network.contains(client));
        if within(&self.deny) || self.allow.as_deref().is_some_and(|allow| !within(allow)) {
            return Reply::new(Reason::AddressDenied).into();
        }
        Verdict::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{compile, on_request_from, refusals};
    use super::*;

    fn passes(policy: &IpAccessPolicy, client: &str) -> bool {
        on_request_from(policy, client).goes_on()
    }

    #[test]
    fn deny_beats_allow() {
        let policy = compile::<IpAccessPolicy>("allow: [192.0.2.0/24]\ndeny: [192.0.2.7]\n");
        assert!(passes(&policy, "192.0.2.8"));
        assert!(!passes(&policy, "192.0.2.7"));
        assert!(!passes(&policy, "198.51.100.1"));
    }

    #[test]
    fn without_allow_everybody_else_passes() {
        let policy = compile::<IpAccessPolicy>("deny: ['2001:db8::/32']\n");
        assert!(passes(&policy, "192.0.2.8"));
        assert!(!passes(&policy, "2001:db8::1"));
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        let policy = compile::<IpAccessPolicy>("deny: [192.0.2.7]\n");
        assert!(!passes(&policy, "::ffff:192.0.2.7"));
    }

    #[test]
    fn an_empty_allow_list_allows_nobody() {
        assert!(!passes(&compile::<IpAccessPolicy>("allow: []\n"), "192.0.2.8"));
    }

    #[test]
    fn a_policy_that_says_nothing_is_refused() {
        assert_eq!(refusals::<IpAccessPolicy>("{}\n").len(), 1);
        assert_eq!(refusals::<IpAccessPolicy>("deny: [192.0.2.7/24]\n").len(), 1);
    }
}
