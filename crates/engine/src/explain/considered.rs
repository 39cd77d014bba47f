//! The matches of a listener and why each lost: first those that the lookup tried, then all others.
//!
//! Called by `walk`. The lookup itself only touches the few matches that its index offers; saying why the others were not among them is
//! done here, by asking each what it wants.

use std::sync::Arc;

use transept_wire::head::{NameRef, Request};

use super::Trace;
use crate::redact::CredentialPlaces;
use crate::route::predicates::{HeaderTest, Lost, Predicates, QueryTest};
use crate::route::table::Surveyed;
use crate::route::{RouteTable, Routed};
use crate::rule::{Rule, Site};

/// One match and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// The rule: `namespace/route/rule`.
    pub rule: String,
    /// Where the rule is written.
    pub place: Site,
    /// Position of the match in the rule.
    pub match_index: u16,
    /// What it asks for, in words.
    pub asks: String,
    /// Why it lost; none for the one that won.
    pub lost: Option<String>,
}

/// The order in which the lookup tried matches.
#[derive(Debug, Default)]
pub(super) struct Tried {
    matches: Vec<(Arc<Rule>, u16, String)>,
}

impl Trace for Tried {
    const ON: bool = true;

    fn candidate(&mut self, rule: &Arc<Rule>, match_index: u16, hostname: &str, _: Option<Lost<'_>>) {
        self.matches.push((Arc::clone(rule), match_index, hostname.to_owned()));
    }
}

impl Tried {
    fn position(&self, one: &Surveyed<'_>) -> usize {
        self.matches
            .iter()
            .position(|(rule, index, hostname)| {
                Arc::ptr_eq(rule, one.rule) && *index == one.index && *hostname == *one.hostname
            })
            .unwrap_or(usize::MAX)
    }
}

/// Explains every match of a table, and counts those under other hosts.
pub(super) fn consider(
    table: &RouteTable,
    request: &Request,
    host: &str,
    won: Option<&Routed<'_>>,
    tried: &Tried,
    credentials: &CredentialPlaces,
) -> (Vec<Considered>, usize) {
    let all = table.survey();
    let total = all.len();
    let mut here: Vec<_> = all.into_iter().filter(|one| host_fits(one.hostname, host)).collect();
    here.sort_by_key(|one| (tried.position(one), one.path, one.rule.metric_label.clone(), one.index));
    let others = total - here.len();
    let is_winner = |one: &Surveyed<'_>| {
        won.is_some_and(|won| {
            Arc::ptr_eq(won.rule, one.rule) && won.match_index == one.index && won.hostname == one.hostname
        })
    };
    let winner = here.iter().find(|one| is_winner(one)).copied();
    let considered = here
        .iter()
        .map(|one| Considered {
            rule: one.rule.metric_label.to_string(),
            place: one.rule.name.place.clone(),
            match_index: one.index,
            asks: asks(one, credentials),
            lost: if is_winner(one) { None } else { Some(why_lost(one, request, winner.as_ref(), credentials)) },
        })
        .collect();
    (considered, others)
}

fn host_fits(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(suffix) => {
            host.strip_suffix(suffix).and_then(|front| front.strip_suffix('.')).is_some_and(|front| !front.is_empty())
        }
        None => pattern.is_empty() || pattern == host,
    }
}

fn why_lost(
    one: &Surveyed<'_>,
    request: &Request,
    winner: Option<&Surveyed<'_>>,
    credentials: &CredentialPlaces,
) -> String {
    if !one.path.fits(request.path()) {
        return format!("the path {} does not fit", request.path().escape_ascii());
    }
    if let Some(lost) = one.predicates.and_then(|asked| asked.lost(request, one.preflights)) {
        return match lost {
            Lost::Method(method) => format!("the method is {}, not {method}", request.method),
            Lost::Path(_) => format!("the path {} does not fit its pattern", request.path().escape_ascii()),
            Lost::Header(test) => match request.fields.first_named(&test.name) {
                None => format!("there is no header {}", test.name),
                Some(_) => format!("the header {} is not {}", test.name, header_value(test, credentials)),
            },
            Lost::Query(test) => {
                let name = String::from_utf8_lossy(&test.name).into_owned();
                format!("the query parameter {name} is not {}", parameter_value(test, credentials))
            }
        };
    }
    match winner {
        Some(winner) => format!("it fits too, but {}", why_later(one, winner)),
        None => "it fits, but was not reached".to_owned(),
    }
}

/// The first point of the precedence on which the winner is ahead.
fn why_later(one: &Surveyed<'_>, winner: &Surveyed<'_>) -> &'static str {
    let counts = |asked: Option<&Predicates>| {
        asked.map_or((false, 0, 0), |asked| (asked.method.is_some(), asked.headers.len(), asked.query.len()))
    };
    let (ours, theirs) = (counts(one.predicates), counts(winner.predicates));
    if one.hostname != winner.hostname {
        "the rule that was chosen has a more specific hostname"
    } else if one.path != winner.path {
        "the rule that was chosen has a more specific path"
    } else if ours.0 != theirs.0 {
        "the rule that was chosen asks for the method"
    } else if ours.1 != theirs.1 {
        "the rule that was chosen asks for more headers"
    } else if ours.2 != theirs.2 {
        "the rule that was chosen asks for more query parameters"
    } else {
        "the rule that was chosen is older, or comes first"
    }
}

/// What a header must be, unless that is a credential.
fn header_value(test: &HeaderTest, credentials: &CredentialPlaces) -> String {
    let name = NameRef { id: test.name.id(), bytes: test.name.as_bytes() };
    String::from_utf8_lossy(credentials.shown(name, test.value.source().as_bytes())).into_owned()
}

/// What a parameter of the query must be, unless that is a credential.
fn parameter_value(test: &QueryTest, credentials: &CredentialPlaces) -> String {
    String::from_utf8_lossy(credentials.shown_parameter(&test.name, test.value.source().as_bytes())).into_owned()
}

fn asks(one: &Surveyed<'_>, credentials: &CredentialPlaces) -> String {
    let mut words = vec![one.path.to_string()];
    if !one.hostname.is_empty() {
        words.push(format!("on {}", one.hostname));
    }
    if let Some(asked) = one.predicates {
        if let Some(method) = &asked.method {
            words.push(format!("with method {method}"));
        }
        let header = |test: &HeaderTest| format!("with header {}: {}", test.name, header_value(test, credentials));
        words.extend(asked.headers.iter().map(header));
        words.extend(asked.query.iter().map(|test| {
            format!("with query {}={}", String::from_utf8_lossy(&test.name), parameter_value(test, credentials))
        }));
    }
    words.join(", ")
}
