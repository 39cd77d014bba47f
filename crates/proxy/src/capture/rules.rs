//! What is captured, as typed rules: the one place that knows their order. `nftables` and `iptables` only write them down.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Nothing listens there: it was given to TCPMUX (RFC 1078). What is led there is refused at once, and does not wait for an
/// answer that cannot come. As [`InboundPlan::port`] it shuts a program off from everyone but the tunnel.
pub const NOBODY: u16 = 1;

/// What a sidecar wants captured in its network namespace.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The name of the workload's instance, as in `cart-7f3a`. Rules of the same name are replaced.
    pub workload: String,
    /// The mark of the proxy's own connections, which are left alone: [`MARK`](super::MARK).
    pub mark: u32,
    /// The user that the proxy runs as, when nothing else runs as that user: its connections are left alone too.
    pub proxy_user: Option<u32>,
    /// Only what this user's programs send is captured; none is everyone's.
    pub program_user: Option<u32>,
    /// Connections that programs here open; none leaves them alone, but for those to `services`.
    pub outbound: Option<OutboundPlan>,
    /// Ports of services that have a listener of their own.
    pub services: Vec<ServicePort>,
    /// Connections that come from elsewhere; none leaves them alone.
    pub inbound: Option<InboundPlan>,
    /// Questions for names; none leaves them alone.
    pub dns: Option<DnsPlan>,
    /// The addresses that stand for services. What goes there is captured whatever is excluded: nothing else is there.
    pub virtual_range: Ipv4Net,
}

/// A port of a service, and the listener that stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The address that programs connect to, that of a service.
    pub address: IpAddr,
    /// The port that programs connect to.
    pub port: u16,
    /// The port of the listener, on 127.0.0.1, or on ::1 for an address of IPv6.
    pub listener: u16,
}

/// Questions for names that programs of this namespace ask.
#[derive(Clone, Debug, Default)]
pub struct DnsPlan {
    /// The port on 127.0.0.1 and ::1 that answers them, by UDP and TCP.
    pub port: u16,
    /// The name servers whose questions are captured, as `resolv.conf` tells programs of them; none are all. On a machine
    /// with a name server of its own name it here: what it asks others would else come back to it for ever.
    pub servers: Vec<IpAddr>,
}

/// Which connections of programs are captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All that nothing excludes.
    #[default]
    Everything,
    /// Those to virtual addresses alone.
    Services,
}

/// Connections that programs of this namespace open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboundPlan {
    /// The port on 127.0.0.1 and ::1 that they are led to.
    pub port: u16,
    /// Which of them.
    pub scope: Scope,
    /// Destination ports that are left alone.
    pub exclude_ports: Vec<u16>,
    /// Destinations that are left alone. Loopback addresses always are, and those of this namespace.
    pub exclude: Vec<IpNet>,
    /// The only destinations that are captured, besides virtual addresses; none are all.
    pub only: Vec<IpNet>,
}

/// Connections that come from outside this namespace to one of its own addresses.
#[derive(Clone, Debug, Default)]
pub struct InboundPlan {
    /// The port, on every address, that they are led to.
    pub port: u16,
    /// The port of the tunnel (HBONE), which is left alone.
    pub tunnel_port: u16,
    /// The only ports that are captured; none are all. On a machine that does other work too, name them.
    pub only_ports: Vec<u16>,
    /// Ports that are left alone.
    pub exclude_ports: Vec<u16>,
}

/// Where a rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// What programs of this namespace send.
    Output,
    /// What arrives.
    Prerouting,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What a packet must be for a rule to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// It carries this mark.
    Mark(u32),
    /// It is of a socket of this user.
    User(u32),
    /// It is of a socket of another user than this.
    OtherUser(u32),
    /// It arrived through the loopback interface.
    FromLoopback,
    /// It goes to one of these addresses.
    Destination(IpNet),
    /// It goes to an address of this namespace.
    LocalDestination,
    /// It is of this protocol.
    Transport(Transport),
    /// It goes to this port. Follows a [`Match::Transport`].
    Port(u16),
    /// It opens a TCP connection. Where the kernel begins to look at connections with these rules, those that are open already look new to
    /// it, and must not be led elsewhere. Follows a [`Match::Transport`].
    Opening,
}

/// What happens to the connection of a packet for which a rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is left alone.
    Return,
    /// It goes to this port of the namespace itself.
    Redirect(u16),
}

/// One rule: the first whose matches all hold decides about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands.
    pub chain: Chain,
    /// All must hold.
    pub matches: Vec<Match>,
    /// What happens then.
    pub verdict: Verdict,
}

impl Plan {
    /// The rules of this plan, in their order.
    pub fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.outbound.is_some() || self.dns.is_some() || !self.services.is_empty() {
            self.write_output(&mut rules);
        }
        if let Some(inbound) = &self.inbound {
            inbound.write(&mut rules);
        }
        rules
    }

    /// Whether programs connect to virtual addresses under this plan.
    pub(super) fn uses_virtual_addresses(&self) -> bool {
        self.outbound.is_some() || !self.services.is_empty()
    }

    fn write_output(&self, rules: &mut Vec<Rule>) {
        let tcp = Match::Transport(Transport::Tcp);
        let mut rule = |matches: &[Match], verdict| {
            rules.push(Rule { chain: Chain::Output, matches: matches.to_vec(), verdict });
        };
        rule(&[Match::Mark(self.mark)], Verdict::Return);
        if let Some(user) = self.proxy_user {
            rule(&[Match::User(user)], Verdict::Return);
        }
        if let Some(user) = self.program_user {
            rule(&[Match::OtherUser(user)], Verdict::Return);
        }
        // Before loopback is left alone: the resolver that a program is told of is often a local one.
        if let Some(dns) = &self.dns {
            for transport in [Transport::Udp, Transport::Tcp].map(Match::Transport) {
                let port = Match::Port(53);
                if dns.servers.is_empty() {
                    rule(&[transport, port], Verdict::Redirect(dns.port));
                }
                for &server in &dns.servers {
                    rule(&[Match::Destination(server.into()), transport, port], Verdict::Redirect(dns.port));
                }
            }
        }
        for service in &self.services {
            let address = Match::Destination(service.address.into());
            rule(&[address, tcp, Match::Port(service.port)], Verdict::Redirect(service.listener));
        }
        if self.uses_virtual_addresses() {
            // Where services have listeners, nobody is behind what is left.
            let rest = self.outbound.as_ref().filter(|_| self.services.is_empty());
            let port = rest.map_or(NOBODY, |outbound| outbound.port);
            rule(&[tcp, Match::Destination(self.virtual_range.into())], Verdict::Redirect(port));
        }
        let Some(outbound) = self.outbound.as_ref().filter(|outbound| outbound.scope == Scope::Everything) else {
            return;
        };
        for net in loopback().into_iter().chain(outbound.exclude.iter().copied()) {
            rule(&[Match::Destination(net)], Verdict::Return);
        }
        for &port in &outbound.exclude_ports {
            rule(&[tcp, Match::Port(port)], Verdict::Return);
        }
        // What programs of one machine say to each other never leaves it.
        rule(&[tcp, Match::LocalDestination], Verdict::Return);
        for &net in &outbound.only {
            rule(&[Match::Destination(net), tcp, Match::Opening], Verdict::Redirect(outbound.port));
        }
        if outbound.only.is_empty() {
            rule(&[tcp, Match::Opening], Verdict::Redirect(outbound.port));
        }
    }
}

impl InboundPlan {
    fn write(&self, rules: &mut Vec<Rule>) {
        let tcp = Match::Transport(Transport::Tcp);
        let mut rule = |matches: &[Match], verdict| {
            rules.push(Rule { chain: Chain::Prerouting, matches: matches.to_vec(), verdict });
        };
        // The proxy delivers to the program over loopback: led back to the proxy, that would never end.
        rule(&[Match::FromLoopback], Verdict::Return);
        let own = [self.tunnel_port, self.port];
        for port in own.into_iter().chain(self.exclude_ports.iter().copied()) {
            rule(&[tcp, Match::Port(port)], Verdict::Return);
        }
        // What the machine only forwards, as to its containers, is not for the program.
        let here = [tcp, Match::LocalDestination];
        if self.only_ports.is_empty() {
            rule(&here, Verdict::Redirect(self.port));
        }
        for &port in &self.only_ports {
            rule(&[here[0], here[1], Match::Port(port)], Verdict::Redirect(self.port));
        }
    }
}

fn loopback() -> [IpNet; 2] {
    let v4 = Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8);
    let v6 = ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128);
    [v4.into(), v6.into()]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A plan that uses every kind of rule.
    pub(in crate::capture) fn full() -> Plan {
        Plan {
            workload: "cart-1".to_owned(),
            mark: super::super::MARK,
            proxy_user: Some(1337),
            program_user: Some(1000),
            outbound: Some(OutboundPlan {
                port: 15001,
                scope: Scope::Everything,
                exclude_ports: vec![5432],
                exclude: vec!["10.0.0.0/9".parse().unwrap(), "fd00::/8".parse().unwrap()],
                only: Vec::new(),
            }),
            services: vec![ServicePort { address: [240, 7, 8, 9].into(), port: 80, listener: 20001 }],
            inbound: Some(InboundPlan {
                port: 15006,
                tunnel_port: 15008,
                only_ports: vec![8080],
                exclude_ports: vec![22],
            }),
            dns: Some(DnsPlan { port: 15053, servers: vec!["127.0.0.53".parse().unwrap()] }),
            virtual_range: "240.0.0.0/4".parse().unwrap(),
        }
    }

    fn position(rules: &[Rule], wanted: impl Fn(&Rule) -> bool) -> usize {
        rules.iter().position(wanted).unwrap()
    }

    #[test]
    fn own_traffic_comes_first_and_the_catch_all_last() {
        let rules = full().rules();
        assert_eq!(rules[0].matches, [Match::Mark(0x539)]);
        assert_eq!(rules[0].verdict, Verdict::Return);
        let output: Vec<_> = rules.iter().filter(|rule| rule.chain == Chain::Output).collect();
        assert_eq!(output.last().unwrap().matches, [Match::Transport(Transport::Tcp), Match::Opening]);
        assert_eq!(output.last().unwrap().verdict, Verdict::Redirect(15001));
    }

    #[test]
    fn where_destinations_are_named_nothing_else_is_captured() {
        let mut plan = full();
        plan.outbound.as_mut().unwrap().only = vec!["10.0.0.0/8".parse().unwrap()];
        let rules = plan.rules();
        let output: Vec<_> = rules.iter().filter(|rule| rule.chain == Chain::Output).collect();
        let destination = Match::Destination("10.0.0.0/8".parse().unwrap());
        let named = [destination, Match::Transport(Transport::Tcp), Match::Opening];
        assert_eq!(output.last().unwrap().matches, named);
        let virtual_range = Match::Destination("240.0.0.0/4".parse().unwrap());
        let rest = rules.iter().find(|rule| rule.matches.contains(&virtual_range)).unwrap();
        assert_eq!(rest.verdict, Verdict::Redirect(NOBODY), "the services have listeners of their own");
    }

    #[test]
    fn questions_and_virtual_addresses_are_captured_before_loopback_is_left_alone() {
        let rules = full().rules();
        let question = position(&rules, |rule| rule.matches.contains(&Match::Port(53)));
        let virtual_range = "240.0.0.0/4".parse().unwrap();
        let service = position(&rules, |rule| rule.matches.contains(&Match::Destination(virtual_range)));
        let loopback = position(&rules, |rule| rule.matches == [Match::Destination("127.0.0.0/8".parse().unwrap())]);
        assert!(question < loopback && service < loopback);
    }

    #[test]
    fn nothing_is_written_for_what_is_not_wanted() {
        let mut plan = full();
        plan.outbound = None;
        plan.inbound = None;
        assert!(plan.rules().iter().all(|rule| rule.verdict != Verdict::Redirect(15001)));
        assert_eq!(plan.rules().last().unwrap().verdict, Verdict::Redirect(NOBODY));
        plan.services.clear();
        assert!(plan.rules().iter().all(|rule| rule.verdict != Verdict::Redirect(NOBODY)));
        plan.dns = None;
        assert_eq!(plan.rules(), []);
    }

    #[test]
    fn without_named_servers_all_questions_are_captured() {
        let mut plan = full();
        plan.dns.as_mut().unwrap().servers.clear();
        let question = [Match::Transport(Transport::Udp), Match::Port(53)];
        assert!(plan.rules().iter().any(|rule| rule.matches == question && rule.verdict == Verdict::Redirect(15053)));
    }

    #[test]
    fn without_named_ports_all_inbound_is_captured_but_the_proxys_own() {
        let mut plan = full();
        plan.inbound.as_mut().unwrap().only_ports.clear();
        let rules = plan.rules();
        let inbound: Vec<_> = rules.iter().filter(|rule| rule.chain == Chain::Prerouting).collect();
        assert_eq!(inbound[0].matches, [Match::FromLoopback]);
        for port in [15008, 15006, 22] {
            assert!(inbound.iter().any(|r| r.matches.contains(&Match::Port(port)) && r.verdict == Verdict::Return));
        }
        let last = inbound.last().unwrap();
        assert_eq!(last.matches, [Match::Transport(Transport::Tcp), Match::LocalDestination]);
        assert_eq!(last.verdict, Verdict::Redirect(15006));
    }
}
