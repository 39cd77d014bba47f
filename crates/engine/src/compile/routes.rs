//! Routes into rules and table entries.
//!
//! Called by `compile` once per route; the rules are shared by all listeners that the route is attached to, except for their policies.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use crate::policies::patterns::field_name;
use foldhash::fast::FixedState;
use transept_model::attach::RouteRef;
use transept_model::kinds::{
    GrpcBackendRef, GrpcMethodMatch, GrpcRouteRule, HttpBackendRef, HttpHeaderMatch, HttpQueryParamMatch, HttpRetry,
    HttpRouteMatch, HttpRouteRule, HttpTimeouts, MatchType, Metadata, ParentReference, PathMatchType, TcpRouteRule,
};
use transept_model::place::{Invalid, Place, Spot};
use transept_model::references::{BackendTarget, Referrer};
use transept_model::value::ticked;
use transept_wire::head::Method;
use transept_wire::normalize::{self, Normal, PathRules, Slashes};

use super::backends::Backends;
use super::filters::{AnyFilter, FilterCompiler};
use crate::filters::Filters;
use crate::policies::Chain;
use crate::route::predicates::{HeaderTest, PathTest, Pattern, Predicates, QueryTest, TextTest};
use crate::route::table::PathKey;
use crate::rule::{Bound, Retry, RouteKind, Rule, RuleName, Site, Timeouts, WeightedBackend};
use crate::snapshot::Backend;

/// Retries when a stanza does not say how many.
const ATTEMPTS: u32 = 1;

/// The least time between two tries when a stanza does not say. Without any, a backend that serialises its work would meet
/// the next try still busy with the last.
const BACKOFF: Duration = Duration::from_millis(25);

/// A route with everything that does not depend on the listener.
pub(super) struct CompiledRoute {
    pub(super) rules: Vec<CompiledRule>,
}

/// A rule with its matches.
pub(super) struct CompiledRule {
    pub(super) rule: Arc<Rule>,
    pub(super) matches: Vec<CompiledMatch>,
}

/// One match of a rule.
pub(super) struct CompiledMatch {
    pub(super) path: PathKey,
    pub(super) specificity: (u32, u32),
    pub(super) predicates: Arc<Predicates>,
    pub(super) index: u16,
}

/// What compiling a route needs and finds.
pub(super) struct RouteCompiler<'c, 'w> {
    pub(super) backends: &'c mut Backends<'w>,
    pub(super) problems: &'c mut Vec<Invalid>,
    /// The backends of rules that have just one, without filters: hundreds of rules lead to the same place.
    pub(super) single: HashMap<(*const Backend, u32), Arc<[WeightedBackend]>>,
}

impl<'w> RouteCompiler<'_, 'w> {
    /// Compiles a route. What is wrong with one of its matches or filters stays inside it.
    pub(super) fn compile(&mut self, route: &'w RouteRef) -> CompiledRoute {
        let rules = match route {
            RouteRef::Http(route) => {
                let rules = route.spec.rules.iter().enumerate();
                rules.map(|(index, rule)| self.http_rule(&route.meta, &route.spec.parent_refs, index, rule)).collect()
            }
            RouteRef::Grpc(route) => {
                let rules = route.spec.rules.iter().enumerate();
                rules.map(|(index, rule)| self.grpc_rule(&route.meta, &route.spec.parent_refs, index, rule)).collect()
            }
            RouteRef::Tcp(route) => {
                let rules = route.spec.rules.iter().enumerate();
                rules.map(|(index, rule)| self.tcp_rule(&route.meta, &route.spec.parent_refs, index, rule)).collect()
            }
        };
        CompiledRoute { rules }
    }

    fn http_rule(
        &mut self,
        meta: &'w Metadata,
        parents: &'w [ParentReference],
        index: usize,
        spec: &'w HttpRouteRule,
    ) -> CompiledRule {
        let name = rule_name(RouteKind::Http, meta, index, spec.name.as_deref(), spec.at);
        self.refuse_session(meta, spec.session_persistence.as_ref().map(|session| session.at));
        let mut filters = self.filters(meta, "HTTPRoute");
        let backends = spec.backend_refs.iter().map(|backend| http_backend(&mut filters, parents, backend)).collect();
        let own = filters.compile(spec.filters.iter().map(AnyFilter::Http));
        let rule = Arc::new(Rule {
            filters: own,
            backends: self.share(backends),
            timeouts: spec.timeouts.as_deref().map(compile_timeouts).unwrap_or_default(),
            retry: spec.retry.as_deref().map(|retry| Box::new(compile_retry(retry))),
            ..bare_rule(name)
        });
        let mut matches = Vec::with_capacity(spec.matches.len());
        for (index, one) in spec.matches.iter().enumerate() {
            if let Some(one) = self.kept(meta, one.at, compile_http_match(one, index)) {
                matches.push(one);
            }
        }
        CompiledRule { rule, matches }
    }

    fn grpc_rule(
        &mut self,
        meta: &'w Metadata,
        parents: &'w [ParentReference],
        index: usize,
        spec: &'w GrpcRouteRule,
    ) -> CompiledRule {
        let name = rule_name(RouteKind::Grpc, meta, index, spec.name.as_deref(), spec.at);
        self.refuse_session(meta, spec.session_persistence.as_ref().map(|session| session.at));
        let mut filters = self.filters(meta, "GRPCRoute");
        let backends = spec.backend_refs.iter().map(|backend| grpc_backend(&mut filters, parents, backend)).collect();
        let own = filters.compile(spec.filters.iter().map(AnyFilter::Grpc));
        let rule = Arc::new(Rule { filters: own, backends: self.share(backends), ..bare_rule(name) });
        let mut matches = Vec::with_capacity(spec.matches.len().max(1));
        for (index, one) in spec.matches.iter().enumerate() {
            if let Some(one) = self.kept(meta, one.at, compile_grpc_match(one.method.as_ref(), &one.headers, index)) {
                matches.push(one);
            }
        }
        if spec.matches.is_empty()
            && let Some(all) = self.kept(meta, spec.at, compile_grpc_match(None, &[], 0))
        {
            matches.push(all);
        }
        CompiledRule { rule, matches }
    }

    /// A rule for connections, which has no matches.
    fn tcp_rule(
        &mut self,
        meta: &'w Metadata,
        parents: &'w [ParentReference],
        index: usize,
        spec: &'w TcpRouteRule,
    ) -> CompiledRule {
        let name = rule_name(RouteKind::Tcp, meta, index, spec.name.as_deref(), spec.at);
        let from = Referrer::new("TCPRoute", &meta.namespace);
        let backends = spec.backend_refs.iter().map(|backend| {
            let target = BackendTarget::from(backend).of_route(parents, from.namespace);
            let target = self.backends.find(&from, target);
            WeightedBackend { weight: backend.weight, filters: Filters::none(), target }
        });
        let backends = backends.collect();
        let rule = Arc::new(Rule { backends: self.share(backends), ..bare_rule(name) });
        CompiledRule { rule, matches: Vec::new() }
    }

    /// The backends of a rule, in memory shared with the rules that have the same.
    fn share(&mut self, backends: Vec<WeightedBackend>) -> Arc<[WeightedBackend]> {
        let [WeightedBackend { weight, filters, target: Ok(backend) }] = backends.as_slice() else {
            return backends.into();
        };
        if !Arc::ptr_eq(filters, &Filters::none()) {
            return backends.into();
        }
        let key = (Arc::as_ptr(backend), *weight);
        Arc::clone(self.single.entry(key).or_insert_with(|| backends.into()))
    }

    fn filters<'a>(&'a mut self, meta: &'w Metadata, kind: &'static str) -> FilterCompiler<'a, 'w> {
        FilterCompiler {
            backends: self.backends,
            from: Referrer::new(kind, &meta.namespace),
            meta,
            problems: self.problems,
        }
    }

    /// Session persistence is not served: the rule works without it, and says so.
    fn refuse_session(&mut self, meta: &Metadata, at: Option<Spot>) {
        if let Some(at) = at {
            let why = "sessionPersistence is not served by this version: requests of one session go to any endpoint";
            let mut problem = Invalid::new(Place::new(Arc::clone(&meta.at.file), at), why);
            problem.object = Some(meta.object_name());
            problem.remedy("remove it");
            self.problems.push(problem);
        }
    }

    /// A match that compiled; the reason of the others is reported. A match that cannot be understood matches nothing.
    fn kept(&mut self, meta: &Metadata, at: Spot, one: Result<CompiledMatch, String>) -> Option<CompiledMatch> {
        match one {
            Ok(one) => Some(one),
            Err(why) => {
                let mut problem = Invalid::new(Place::new(Arc::clone(&meta.at.file), at), why);
                problem.object = Some(meta.object_name());
                problem.remedy("until it is mended, the match fits no request");
                self.problems.push(problem);
                None
            }
        }
    }
}

fn http_backend<'w>(
    filters: &mut FilterCompiler<'_, 'w>,
    parents: &[ParentReference],
    spec: &'w HttpBackendRef,
) -> WeightedBackend {
    let own = filters.compile_backend(spec.filters.iter().map(AnyFilter::Http));
    let target = BackendTarget::from(spec).of_route(parents, filters.from.namespace);
    let target = filters.backends.find(&filters.from, target);
    WeightedBackend { weight: spec.weight, filters: own, target }
}

fn grpc_backend<'w>(
    filters: &mut FilterCompiler<'_, 'w>,
    parents: &[ParentReference],
    spec: &'w GrpcBackendRef,
) -> WeightedBackend {
    let own = filters.compile_backend(spec.filters.iter().map(AnyFilter::Grpc));
    let target = BackendTarget::from(spec).of_route(parents, filters.from.namespace);
    let target = filters.backends.find(&filters.from, target);
    WeightedBackend { weight: spec.weight, filters: own, target }
}

fn rule_name(kind: RouteKind, meta: &Metadata, index: usize, name: Option<&str>, at: Spot) -> RuleName {
    let place = Site {
        file: Arc::clone(&meta.at.file),
        // A rule that nobody wrote (a default) is where its route is.
        line: if at.line == 0 { meta.at.line } else { at.line },
    };
    RuleName::new(kind, &meta.namespace, &meta.name, u32::try_from(index).unwrap_or(u32::MAX), name, place)
}

pub(super) fn bare_rule(name: RuleName) -> Rule {
    let metric_label = Arc::clone(name.label());
    // Fixed, so that the key of a rule is the same in every generation.
    let key = FixedState::default().hash_one((name.kind, &*metric_label));
    Rule {
        name: Arc::new(name),
        metric_label,
        filters: Filters::none(),
        chain: Chain::default(),
        backends: Arc::default(),
        timeouts: Timeouts::default(),
        retry: None,
        key,
    }
}

fn compile_timeouts(spec: &HttpTimeouts) -> Timeouts {
    let bound = |time: Option<Duration>| match time {
        None => Bound::Unset,
        Some(time) if time.is_zero() => Bound::Off,
        Some(time) => Bound::After(time),
    };
    Timeouts { request: bound(spec.request), backend_request: bound(spec.backend_request) }
}

fn compile_retry(spec: &HttpRetry) -> Retry {
    Retry {
        codes: spec.codes.iter().copied().collect(),
        attempts: spec.attempts.unwrap_or(ATTEMPTS),
        backoff: spec.backoff.unwrap_or(BACKOFF),
    }
}

fn compile_http_match(spec: &HttpRouteMatch, index: usize) -> Result<CompiledMatch, String> {
    let (path, test) = match spec.path.r#type {
        PathMatchType::Exact => (PathKey::Exact(normal(&spec.path.value)), None),
        PathMatchType::PathPrefix => (PathKey::prefix(&normal(&spec.path.value)), None),
        PathMatchType::RegularExpression => {
            let pattern =
                Pattern::new(&spec.path.value).map_err(|why| format!("{} {why}", ticked(&spec.path.value)))?;
            (PathKey::Pattern, Some(PathTest::Pattern(pattern)))
        }
    };
    Ok(CompiledMatch {
        path,
        specificity: (0, 0),
        predicates: Predicates::shared(Predicates {
            method: spec.method.and_then(|method| Method::from_bytes(method.as_str().as_bytes())),
            headers: compile_headers(&spec.headers)?,
            query: compile_query(&spec.query_params)?,
            path: test,
        }),
        index: u16::try_from(index).unwrap_or(u16::MAX),
    })
}

/// The matches that bring GET and HEAD of pages to the rule whose policies answer them; `taken` numbers are those of other matches.
pub(super) fn page_matches(pages: &[&str], taken: usize) -> Vec<CompiledMatch> {
    let methods = pages.iter().flat_map(|page| [(page, Method::Get), (page, Method::Head)]);
    let one = |(index, (page, method)): (usize, (&&str, Method))| CompiledMatch {
        path: PathKey::Exact(normal(page)),
        specificity: (0, 0),
        predicates: Predicates::shared(Predicates { method: Some(method), ..Predicates::default() }),
        index: u16::try_from(taken + index).unwrap_or(u16::MAX),
    };
    methods.enumerate().map(one).collect()
}

/// A path as requests carry it, so that both are compared in the same form.
fn normal(path: &str) -> Box<[u8]> {
    let rules = PathRules { encoded_slash: Slashes::Keep, ..PathRules::default() };
    let mut out = Vec::new();
    match normalize::path(path.as_bytes(), &rules, &mut out) {
        Ok(Normal::Rewritten) => out.into(),
        Ok(Normal::Unchanged) | Err(_) => path.as_bytes().into(),
    }
}

fn text_test(kind: MatchType, value: &str) -> Result<TextTest, String> {
    Ok(match kind {
        MatchType::Exact => TextTest::Exact(value.as_bytes().into()),
        MatchType::RegularExpression => TextTest::Pattern(Pattern::new(value)?),
    })
}

/// Of several conditions on one field only the first counts (Gateway API, `HTTPRouteMatch.headers`).
fn compile_headers(specs: &[HttpHeaderMatch]) -> Result<Box<[HeaderTest]>, String> {
    let mut tests: Vec<HeaderTest> = Vec::with_capacity(specs.len());
    for spec in specs {
        let name = field_name(&spec.name)?;
        if tests.iter().all(|test| test.name != name) {
            let value = text_test(spec.r#type, &spec.value)
                .map_err(|why| format!("the value of the header `{}` {why}", name.as_str()))?;
            tests.push(HeaderTest { name, value });
        }
    }
    Ok(tests.into())
}

fn compile_query(specs: &[HttpQueryParamMatch]) -> Result<Box<[QueryTest]>, String> {
    let mut tests: Vec<QueryTest> = Vec::with_capacity(specs.len());
    for spec in specs {
        let name = spec.name.as_bytes();
        if tests.iter().all(|test| *test.name != *name) {
            let value = text_test(spec.r#type, &spec.value)
                .map_err(|why| format!("the value of the query parameter {} {why}", ticked(&spec.name)))?;
            tests.push(QueryTest { name: name.into(), value });
        }
    }
    Ok(tests.into())
}

fn compile_grpc_match(
    method: Option<&GrpcMethodMatch>,
    headers: &[HttpHeaderMatch],
    index: usize,
) -> Result<CompiledMatch, String> {
    let part = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    let kind = method.map_or(MatchType::Exact, |method| method.r#type);
    let service = part(method.and_then(|method| method.service.as_deref()));
    let name = part(method.and_then(|method| method.method.as_deref()));
    let length = |text: &Option<String>| text.as_ref().map_or(0, |text| text.len() as u32);
    let specificity = (length(&service), length(&name));
    let test = |text: Option<&String>| text.map(|text| text_test(kind, text)).transpose();
    let (path, path_test) = match (kind, &service, &name) {
        (_, None, None) => (PathKey::Prefix(Box::default()), None),
        (MatchType::Exact, Some(service), Some(name)) => {
            (PathKey::Exact(format!("/{service}/{name}").into_bytes().into()), None)
        }
        (MatchType::Exact, Some(service), None) => (PathKey::prefix(format!("/{service}").as_bytes()), None),
        (MatchType::Exact, None, Some(_)) => {
            let method = test(name.as_ref())?;
            (PathKey::Prefix(Box::default()), Some(PathTest::Grpc { service: None, method }))
        }
        (MatchType::RegularExpression, service, name) => {
            let (service, method) = (test(service.as_ref())?, test(name.as_ref())?);
            (PathKey::Pattern, Some(PathTest::Grpc { service, method }))
        }
    };
    Ok(CompiledMatch {
        path,
        specificity,
        predicates: Predicates::shared(Predicates {
            headers: compile_headers(headers)?,
            path: path_test,
            ..Predicates::default()
        }),
        index: u16::try_from(index).unwrap_or(u16::MAX),
    })
}
