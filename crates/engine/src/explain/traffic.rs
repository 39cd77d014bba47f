//! How a backend's policy spreads, limits and watches its requests, in words.
//!
//! Called by `walk` for the backend of a request. What is said here is what `pick` and `judge` do.

use std::fmt::Write as _;

use transept_model::schema::write_duration;

use crate::health::{Check, Probe};
use crate::snapshot::EndpointSet;
use crate::traffic::{Allowance, Balancer, HashKey, Limits, Locality, Outliers, Retries, Traffic};

/// Which endpoints a health check asks: those in the mesh are asked by their own sidecars, and by nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    All,
    /// Those outside the mesh alone; there are some of both.
    Some,
    None,
}

impl Asked {
    /// Which of these endpoints.
    pub(super) fn of(set: &EndpointSet) -> Asked {
        let in_mesh = set.endpoints().iter().filter(|endpoint| endpoint.tunnel.is_some()).count();
        match in_mesh {
            0 => Asked::All,
            all if all == set.endpoints().len() => Asked::None,
            _ => Asked::Some,
        }
    }
}

/// One line for each thing that the policy says.
pub(super) fn describe(traffic: &Traffic, asked: Asked) -> Vec<String> {
    let mut lines = vec![describe_balancer(&traffic.balancer)];
    if !traffic.slow_start.is_zero() {
        lines.push(format!("new endpoints get their full share after {}", write_duration(traffic.slow_start)));
    }
    lines.extend(traffic.locality.as_ref().map(describe_locality));
    lines.extend(traffic.outliers.as_ref().map(describe_outliers));
    lines.extend(traffic.check.as_deref().map(|check| describe_check(check, asked)));
    if traffic.outliers.is_some() || traffic.check.is_some() {
        lines.push(describe_panic(traffic.panic_threshold));
    }
    lines.extend(traffic.connect_timeout.map(|limit| format!("connecting may take {}", write_duration(limit))));
    lines.extend(describe_limits(&traffic.limits));
    lines.extend(traffic.retries.as_ref().map(describe_retries));
    lines
}

fn describe_balancer(balancer: &Balancer) -> String {
    let hashed = |name: &str, keys: &[HashKey], bound: u32| {
        let keys: Vec<String> = keys.iter().map(describe_key).collect();
        let bound = if bound == 0 { String::new() } else { format!(", up to {bound} percent of a share") };
        format!("{name} by {}{bound}", keys.join(", else "))
    };
    match balancer {
        Balancer::LeastRequest => "LeastRequest: of two drawn by weight the one with fewer requests".to_owned(),
        Balancer::RoundRobin => "RoundRobin: in turn, by weight".to_owned(),
        Balancer::Random => "Random: drawn by weight".to_owned(),
        Balancer::RingHash { keys, bound, .. } => hashed("RingHash", keys, *bound),
        Balancer::Maglev { keys, bound } => hashed("Maglev", keys, *bound),
    }
}

fn describe_key(key: &HashKey) -> String {
    match key {
        HashKey::Header(name) => format!("header {}", name.as_str()),
        HashKey::Cookie(name) => format!("cookie {name}"),
        HashKey::Query(name) => format!("query {name}"),
        HashKey::Path => "the path".to_owned(),
        HashKey::Address => "the client's address".to_owned(),
    }
}

fn describe_locality(locality: &Locality) -> String {
    match &locality.here {
        None => "zones do not matter: the zone of this proxy is not known".to_owned(),
        Some(here) => {
            let mut order = vec![&**here];
            order.extend(locality.failover.iter().map(|zone| &**zone));
            let near: Vec<&str> =
                locality.near.iter().filter(|zone| !order.contains(&&***zone)).map(|zone| &**zone).collect();
            let near = if near.is_empty() { String::new() } else { format!(", then the region's {}", near.join(", ")) };
            format!("zones in order: {}{near}, then all others", order.join(", "))
        }
    }
}

fn describe_outliers(outliers: &Outliers) -> String {
    let mut causes = Vec::new();
    if outliers.consecutive_errors > 0 {
        causes.push(format!("{} failures in a row", outliers.consecutive_errors));
    }
    if outliers.consecutive_gateway_errors > 0 {
        causes.push(format!("{} gateway failures in a row", outliers.consecutive_gateway_errors));
    }
    if let Some(success) = &outliers.success {
        causes.push(format!("less than {} percent successes of {} requests", success.least, success.requests));
    }
    format!(
        "an endpoint is left alone after {}, for {} and up to {}, then tried with one request",
        causes.join(" or "),
        write_duration(outliers.base),
        write_duration(outliers.most),
    )
}

fn describe_check(check: &Check, asked: Asked) -> String {
    let what = match &check.probe {
        Probe::Http { path, .. } => format!("GET {path}"),
        Probe::Tcp => "a connection".to_owned(),
        Probe::Grpc { service } if service.is_empty() => "gRPC health".to_owned(),
        Probe::Grpc { service } => format!("gRPC health of {service}"),
    };
    let every = write_duration(check.interval);
    match asked {
        Asked::All => format!("health is checked every {every} with {what}"),
        Asked::Some => {
            format!(
                "health is checked every {every} with {what}, but where an endpoint is in the mesh: its own sidecar says how it is"
            )
        }
        Asked::None => format!(
            "health is what the sidecars of the endpoints say of them: all are in the mesh, and the health check of the policy (every {every} \
             with {what}) asks nobody"
        ),
    }
}

fn describe_panic(threshold: u32) -> String {
    match threshold {
        0 => "endpoints that are left alone or unwell are never used, even when no other is there".to_owned(),
        _ => format!(
            "when less than {threshold} percent of the endpoints are neither left alone nor unwell, all are used"
        ),
    }
}

fn describe_limits(limits: &Limits) -> Option<String> {
    let mut text = String::new();
    let counts = [
        (limits.connections, "connections"),
        (limits.requests, "requests"),
        (limits.pending, "waiting for a connection"),
    ];
    for (count, what) in counts {
        if let Some(count) = count {
            let comma = if text.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{comma}{count} {what}");
        }
    }
    (!text.is_empty()).then(|| format!("at most {text}"))
}

fn describe_retries(retries: &Retries) -> String {
    let codes: Vec<String> = retries.codes.iter().map(u16::to_string).collect();
    let codes = if codes.is_empty() { String::new() } else { format!(", also for {}", codes.join(", ")) };
    let limit = retries.per_try.map_or_else(String::new, |limit| format!(", {} each", write_duration(limit)));
    let Allowance { percent, per_second } = retries.budget;
    format!(
        "up to {} retries{limit}{codes}; all together at most {percent} percent of the requests, and {per_second} a second and worker beyond",
        retries.attempts
    )
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::role::Tunnel;
    use crate::snapshot::Endpoint;
    use crate::traffic::Repeatable;

    #[test]
    fn a_policy_that_says_little_is_described_shortly() {
        let lines = describe(&Traffic::default(), Asked::All);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("LeastRequest"));
    }

    #[test]
    fn every_part_has_its_line() {
        let traffic = Traffic {
            balancer: Balancer::Maglev { keys: vec![HashKey::Cookie("sid".into()), HashKey::Address], bound: 125 },
            outliers: Some(Outliers::default()),
            limits: Limits { connections: Some(9), requests: Some(7), pending: Some(3) },
            locality: Some(Locality {
                here: Some("a".into()),
                failover: vec!["b".into()],
                near: Vec::new(),
                overprovisioning: 140,
            }),
            check: Some(crate::policies::check_for_tests()),
            panic_threshold: 10,
            connect_timeout: Some(Duration::from_secs(2)),
            retries: Some(Retries {
                attempts: 2,
                codes: [503].into(),
                per_try: Some(Duration::from_secs(1)),
                backoff: (Duration::from_millis(25), Duration::from_millis(250)),
                repeatable: Repeatable::ByMethod,
                budget: Allowance::default(),
            }),
            ..Traffic::default()
        };
        assert_eq!(
            describe(&traffic, Asked::All),
            [
                "Maglev by cookie sid, else the client's address, up to 125 percent of a share",
                "zones in order: a, b, then all others",
                "an endpoint is left alone after 5 failures in a row, for 30s and up to 5m, then tried with one request",
                "health is checked every 10s with GET /",
                "when less than 10 percent of the endpoints are neither left alone nor unwell, all are used",
                "connecting may take 2s",
                "at most 9 connections, 7 requests, 3 waiting for a connection",
                "up to 2 retries, 1s each, also for 503; all together at most 20 percent of the requests, and 3 a second and worker beyond",
            ]
        );
        assert!(describe_panic(0).contains("never used"));
    }

    #[test]
    fn nobody_is_said_to_be_asked_who_is_in_the_mesh() {
        let endpoint = |port: u16, in_mesh: bool| {
            let address = SocketAddr::from(([10, 0, 0, 7], port));
            let identity = "spiffe://shop.test/ns/default/sa/cart".into();
            let tunnel = in_mesh.then(|| Arc::new(Tunnel { address, identity }));
            Endpoint { tunnel, ..Endpoint::at(address) }
        };
        let set = |endpoints: Vec<Endpoint>| Asked::of(&EndpointSet::new(endpoints));
        assert_eq!(set(Vec::new()), Asked::All);
        assert_eq!(set(vec![endpoint(80, false)]), Asked::All);
        assert_eq!(set(vec![endpoint(80, false), endpoint(81, true)]), Asked::Some);
        assert_eq!(set(vec![endpoint(81, true)]), Asked::None);
        let said = |asked| describe_check(&crate::policies::check_for_tests(), asked);
        assert!(said(Asked::Some).contains("every 10s with GET /, but where an endpoint is in the mesh"));
        assert!(said(Asked::None).contains("asks nobody"));
    }
}
