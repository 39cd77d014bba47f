//! What the control plane was told on one stream of reports, and so what is left to tell.
//!
//! Used by `report`, which moves the messages, and by `teller` where there is no wire. Pure: no clock and no socket. A stream loses nothing and keeps the order, and only one report
//! with totals is under way at a time, so what was sent counts as told; with the stream all of this ends.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use transept_xds::report::{
    Bucket, EdgeName as Name, EdgeTotals as Totals, End, EndpointHealth, Health, MOST_EDGES, Report,
};

use crate::condition::{BackendState, EndpointState};
use crate::edges::{EdgeName, EdgeTotals, Graph, Reporter};

/// What was told on a stream.
#[derive(Default)]
pub(in crate::feed) struct Told {
    sequence: u64,
    edges: HashMap<EdgeName, Known>,
    /// How many edges were named so far.
    named: u32,
    /// Where to go on, when not all edges fit into a report.
    next: Option<EdgeName>,
    health: BTreeMap<Place, (Health, String)>,
    /// The latest report with totals, until it is acknowledged.
    open: Option<u64>,
    acknowledged: u64,
}

/// The service and the workload of an endpoint.
type Place = (String, String);

struct Known {
    id: u32,
    /// Its counts when it was told.
    moved: Movement,
}

impl Told {
    /// The next report, empty but for its number.
    pub(in crate::feed) fn begin(&mut self) -> Report {
        self.sequence += 1;
        Report { sequence: self.sequence, ..Report::default() }
    }

    /// Takes an acknowledgement in.
    pub(in crate::feed) fn acknowledge(&mut self, sequence: u64) {
        self.acknowledged = self.acknowledged.max(sequence);
        self.open = self.open.filter(|open| *open > self.acknowledged);
    }

    /// How many reports are under way.
    pub(super) fn under_way(&self) -> u64 {
        self.sequence.saturating_sub(self.acknowledged)
    }

    /// A report of all that has moved; none while the one before is under way.
    pub(in crate::feed) fn totals(&mut self, graph: &Graph, backends: &[BackendState]) -> Option<Report> {
        if self.open.is_some() {
            return None;
        }
        let mut report = self.begin();
        self.open = Some(report.sequence);
        let whole = self.add_edges(graph, &mut report);
        report.complete = self.add_health(backends, &mut report) && whole;
        Some(report)
    }

    /// Adds edges that have moved, from where the report before has ended; false when there are more.
    fn add_edges(&mut self, graph: &Graph, report: &mut Report) -> bool {
        let Self { edges, .. } = self;
        edges.retain(|name, known| {
            let stays = graph.contains_key(name);
            if !stays {
                report.forgotten.push(known.id);
            }
            stays
        });
        let from = self.next.take().map_or(Bound::Unbounded, Bound::Included);
        let until = match &from {
            Bound::Included(name) => Bound::Excluded(name.clone()),
            _ => Bound::Unbounded,
        };
        let first = graph.range((from.clone(), Bound::Unbounded));
        let second = (from != Bound::Unbounded).then(|| graph.range((Bound::Unbounded, until)));
        for (name, totals) in first.chain(second.into_iter().flatten()) {
            // What there was no room for belongs to nobody in particular.
            if name.is_other() {
                continue;
            }
            let moved = movement(totals);
            let known = self.edges.get_mut(name);
            if known.as_ref().is_some_and(|known| known.moved == moved) {
                continue;
            }
            if report.edges.len() >= MOST_EDGES {
                self.next = Some(name.clone());
                return false;
            }
            let id = match known {
                Some(known) => {
                    known.moved = moved;
                    known.id
                }
                None => {
                    let id = self.named;
                    self.named = self.named.wrapping_add(1);
                    self.edges.insert(name.clone(), Known { id, moved });
                    report.names.push(name_of(id, name));
                    id
                }
            };
            report.edges.push(totals_of(id, totals));
        }
        true
    }

    /// Adds endpoints that are not as they were; false when there are more.
    fn add_health(&mut self, backends: &[BackendState], report: &mut Report) -> bool {
        let mut now: BTreeMap<Place, (Health, String)> = BTreeMap::new();
        for backend in backends {
            for (address, state) in &backend.endpoints {
                let place = (service_of(&backend.label).to_owned(), address.to_string());
                let state = match state {
                    // What has served its time is nobody's fault until it fails again.
                    EndpointState::Serving | EndpointState::Probation => (Health::Healthy, String::new()),
                    EndpointState::Unreachable | EndpointState::Ejected => (Health::Ejected, String::new()),
                    EndpointState::Unwell(why) => (Health::Failing, why.to_string()),
                };
                now.insert(place, state);
            }
        }
        let gone = self.health.keys().filter(|place| !now.contains_key(*place)).cloned();
        let gone: Vec<_> = gone.map(|place| (place, (Health::Unknown, String::new()))).collect();
        let changed = now.into_iter().filter(|(place, state)| self.health.get(place) != Some(state));
        let changes: Vec<_> = gone.into_iter().chain(changed).collect();
        for (place, (health, why)) in changes.iter().take(MOST_EDGES).cloned() {
            match health {
                Health::Unknown => self.health.remove(&place),
                health => self.health.insert(place.clone(), (health, why.clone())),
            };
            let (service, workload) = place;
            report.health.push(EndpointHealth { service, workload, health: health.into(), why });
        }
        changes.len() <= MOST_EDGES
    }
}

/// Something that is another one whenever an edge is not as it was: a sum of counts that only grow, the connections that are open, and
/// which edge of its name it is.
type Movement = (u64, u64, u64);

fn movement(totals: &EdgeTotals) -> Movement {
    let counts = [totals.requests(), totals.retries, totals.ejections, totals.bytes_sent, totals.bytes_received];
    (counts.iter().fold(0, |sum: u64, count| sum.wrapping_add(*count)), totals.open, totals.born)
}

/// The Service in `namespace/name:port`.
fn service_of(label: &str) -> &str {
    match label.rsplit_once(':') {
        Some((service, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => service,
        _ => label,
    }
}

fn name_of(id: u32, name: &EdgeName) -> Name {
    let end = match name.reporter {
        Reporter::Source => End::Source,
        Reporter::Destination => End::Destination,
    };
    Name {
        id,
        source: name.source.to_string(),
        service: name.destination.to_string(),
        workload: name.workload.to_string(),
        end: end.into(),
    }
}

fn totals_of(edge: u32, totals: &EdgeTotals) -> Totals {
    let buckets = (0..).zip(totals.latency).filter(|(_, count)| *count > 0);
    Totals {
        edge,
        requests: totals.requests(),
        errors: totals.errors,
        retries: totals.retries,
        ejections: totals.ejections,
        bytes_sent: totals.bytes_sent,
        bytes_received: totals.bytes_received,
        latency: buckets.map(|(index, count)| Bucket { index, count }).collect(),
        refusals: totals.refusals,
        open: totals.open,
        born: totals.born,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: usize, requests: u64) -> Graph {
        let name = |number: usize| EdgeName {
            reporter: Reporter::Source,
            source: "spiffe://a/ns/default/sa/web".into(),
            destination: "default/cart".into(),
            workload: format!("{number:05}").into(),
        };
        let mut totals = EdgeTotals::default();
        totals.classes[2] = requests;
        totals.latency[7] = requests;
        (0..edges).map(|number| (name(number), totals.clone())).collect()
    }

    #[test]
    fn only_what_has_moved_is_told_and_names_once() {
        let mut told = Told::default();
        let first = told.totals(&graph(2, 1), &[]).expect("a report");
        assert_eq!((first.sequence, first.names.len(), first.edges.len(), first.complete), (1, 2, 2, true));
        assert_eq!(first.edges[0].latency, [Bucket { index: 7, count: 1 }]);
        assert!(told.totals(&graph(2, 2), &[]).is_none(), "one is under way");
        told.acknowledge(1);
        let second = told.totals(&graph(2, 1), &[]).expect("a report");
        assert_eq!((second.sequence, second.names.len(), second.edges.len()), (2, 0, 0));
        told.acknowledge(2);
        let third = told.totals(&graph(3, 2), &[]).expect("a report");
        assert_eq!((third.names.len(), third.edges.len(), third.edges[2].edge), (1, 3, 2));
    }

    #[test]
    fn an_edge_that_is_gone_is_told_once_and_returns_under_another_number() {
        let mut told = Told::default();
        let mut tell = |graph: &Graph| {
            let report = told.totals(graph, &[]).expect("a report");
            told.acknowledge(report.sequence);
            let numbers = report.names.iter().map(|name| name.id).collect::<Vec<_>>();
            (numbers, report.edges.len(), report.forgotten)
        };
        assert_eq!(tell(&graph(2, 1)), (vec![0, 1], 2, vec![]));
        assert_eq!(tell(&graph(1, 1)), (vec![], 0, vec![1]));
        assert_eq!(tell(&graph(2, 1)), (vec![2], 1, vec![]));
        // The same counts are news when they are of another edge, or when a connection was opened.
        let mut other = graph(2, 1);
        other.values_mut().for_each(|totals| totals.born = 7);
        assert_eq!(tell(&other), (vec![], 2, vec![]));
        other.values_mut().for_each(|totals| totals.open = 1);
        assert_eq!(tell(&other), (vec![], 2, vec![]));
    }

    #[test]
    fn what_does_not_fit_into_a_report_is_in_the_next_even_when_everything_moves() {
        let mut told = Told::default();
        let mut seen = std::collections::BTreeSet::new();
        for round in 1..=3_u64 {
            let report = told.totals(&graph(2 * MOST_EDGES + 5, round), &[]).expect("a report");
            assert_eq!((report.edges.len(), report.complete), (MOST_EDGES, false));
            seen.extend(report.edges.iter().map(|edge| edge.edge));
            told.acknowledge(round);
        }
        assert_eq!(seen.len(), 2 * MOST_EDGES + 5);
    }

    #[test]
    fn an_endpoint_is_told_when_it_changes_and_when_it_is_gone() {
        let backend = |state: Option<EndpointState>| BackendState {
            label: "default/cart:80".into(),
            policy: Some("".into()),
            endpoints: state.map(|state| (([10, 0, 0, 1], 80).into(), state)).into_iter().collect(),
            limits: Vec::new(),
        };
        let mut told = Told::default();
        let mut tell = |state: Option<EndpointState>| {
            let report = told.totals(&Graph::new(), &[backend(state)]).expect("a report");
            told.acknowledge(report.sequence);
            report
                .health
                .into_iter()
                .map(|one| (one.service.clone(), one.workload.clone(), one.health()))
                .collect::<Vec<_>>()
        };
        let place = |health| vec![("default/cart".to_owned(), "10.0.0.1:80".to_owned(), health)];
        assert_eq!(tell(Some(EndpointState::Serving)), place(Health::Healthy));
        assert_eq!(tell(Some(EndpointState::Serving)), []);
        assert_eq!(tell(Some(EndpointState::Ejected)), place(Health::Ejected));
        assert_eq!(tell(Some(EndpointState::Probation)), place(Health::Healthy));
        assert_eq!(tell(None), place(Health::Unknown));
        assert_eq!(tell(None), []);
    }
}
