//! What the rules of a route refer to: backends, mirrors, authorization services, filters that are objects of their own.
//!
//! Called once per route. It judges the references only; requests of a rule with a broken one are answered by the engine.

use crate::attach::RouteRef;
use crate::attach::findings::{Findings, sentence};
use crate::kinds::{GrpcRouteFilter, HttpRouteFilter, LocalObjectReference};
use crate::place::Spot;
use crate::references::{BackendTarget, FoundBackend, References, Referrer};
use crate::status::{Condition, Truth};

/// The references of a route: backends that are there, and what is wrong with the others.
pub(super) struct JudgedRefs<'w> {
    pub(super) backends: Vec<FoundBackend<'w>>,
    broken: Vec<(&'static str, String)>,
}

/// Most sentences that one condition holds; `check` prints them all.
const SENTENCES: usize = 4;

impl JudgedRefs<'_> {
    /// The condition `ResolvedRefs`.
    pub(super) fn condition(&self) -> Condition {
        let Some((reason, _)) = self.broken.first() else {
            let message = "Everything it refers to is there.";
            return Condition::new("ResolvedRefs", Truth::True, "ResolvedRefs", message);
        };
        let mut messages: Vec<_> = self.broken.iter().map(|(_, m)| m.as_str()).collect();
        messages.dedup();
        let more = messages.len().saturating_sub(SENTENCES);
        messages.truncate(SENTENCES);
        let mut message = messages.join(" ");
        if more > 0 {
            message.push_str(&format!(" And {more} more."));
        }
        Condition::new("ResolvedRefs", Truth::False, *reason, message)
    }
}

/// Judges every reference of `route`.
pub(super) fn judge_refs<'w>(references: &References<'w>, route: &RouteRef, findings: &mut Findings) -> JudgedRefs<'w> {
    let mut judge = Judge {
        references,
        route,
        from: Referrer::new(route.kind(), &route.meta().namespace),
        findings,
        judged: JudgedRefs { backends: Vec::new(), broken: Vec::new() },
    };
    match route {
        RouteRef::Http(http) => {
            for (r, rule) in http.spec.rules.iter().enumerate() {
                judge.filters(rule.filters.iter().map(http_filter), || format!("spec.rules[{r}]"));
                for (b, backend) in rule.backend_refs.iter().enumerate() {
                    let field = || format!("spec.rules[{r}].backendRefs[{b}]");
                    let target = BackendTarget::from(backend).of_route(route.parent_refs(), &route.meta().namespace);
                    judge.backend(target, backend.at, field);
                    judge.filters(backend.filters.iter().map(http_filter), field);
                }
            }
        }
        RouteRef::Grpc(grpc) => {
            for (r, rule) in grpc.spec.rules.iter().enumerate() {
                judge.filters(rule.filters.iter().map(grpc_filter), || format!("spec.rules[{r}]"));
                for (b, backend) in rule.backend_refs.iter().enumerate() {
                    let field = || format!("spec.rules[{r}].backendRefs[{b}]");
                    let target = BackendTarget::from(backend).of_route(route.parent_refs(), &route.meta().namespace);
                    judge.backend(target, backend.at, field);
                    judge.filters(backend.filters.iter().map(grpc_filter), field);
                }
            }
        }
        RouteRef::Tcp(tcp) => {
            for (r, rule) in tcp.spec.rules.iter().enumerate() {
                for (b, backend) in rule.backend_refs.iter().enumerate() {
                    let target = BackendTarget::from(backend).of_route(route.parent_refs(), &route.meta().namespace);
                    judge.backend(target, backend.at, || format!("spec.rules[{r}].backendRefs[{b}]"));
                }
            }
        }
    }
    judge.judged
}

/// What a filter refers to.
enum FilterRef<'a> {
    Nothing,
    Backend(BackendTarget<'a>, Spot, &'static str),
    Extension(&'a LocalObjectReference),
}

fn http_filter(filter: &HttpRouteFilter) -> FilterRef<'_> {
    match filter {
        HttpRouteFilter::RequestMirror(mirror) => {
            let backend = &mirror.backend_ref;
            FilterRef::Backend(backend.into(), backend.at, "requestMirror.backendRef")
        }
        HttpRouteFilter::ExternalAuth(auth) => {
            let backend = &auth.backend_ref;
            FilterRef::Backend(backend.into(), backend.at, "externalAuth.backendRef")
        }
        HttpRouteFilter::ExtensionRef(reference) => FilterRef::Extension(reference),
        _ => FilterRef::Nothing,
    }
}

fn grpc_filter(filter: &GrpcRouteFilter) -> FilterRef<'_> {
    match filter {
        GrpcRouteFilter::RequestMirror(mirror) => {
            let backend = &mirror.backend_ref;
            FilterRef::Backend(backend.into(), backend.at, "requestMirror.backendRef")
        }
        GrpcRouteFilter::ExtensionRef(reference) => FilterRef::Extension(reference),
        _ => FilterRef::Nothing,
    }
}

struct Judge<'a, 'w> {
    references: &'a References<'w>,
    route: &'a RouteRef,
    from: Referrer<'a>,
    findings: &'a mut Findings,
    judged: JudgedRefs<'w>,
}

impl Judge<'_, '_> {
    fn backend(&mut self, target: BackendTarget<'_>, spot: Spot, field: impl Fn() -> String) {
        match self.references.check_backend(&self.from, &target) {
            Ok(found) => self.judged.backends.push(found),
            Err(problem) => {
                let reason = problem.reason.as_str();
                self.judged.broken.push((reason, problem.to_string()));
                let meta = self.route.meta();
                self.findings.add(meta, spot, field(), problem.why, problem.remedy);
            }
        }
    }

    fn filters<'f>(&mut self, filters: impl Iterator<Item = FilterRef<'f>>, parent: impl Fn() -> String) {
        for (position, filter) in filters.enumerate() {
            match filter {
                FilterRef::Nothing => {}
                FilterRef::Backend(target, spot, name) => {
                    let field = || format!("{}.filters[{position}].{name}", parent());
                    self.backend(target, spot, field);
                }
                FilterRef::Extension(reference) => {
                    let why = format!("no filter of kind {} in group {} is known", reference.kind, reference.group);
                    let remedy = "use one of the filters of Gateway API, or a policy";
                    let message = sentence(&why, remedy);
                    self.judged.broken.push(("InvalidKind", message));
                    let field = format!("{}.filters[{position}].extensionRef", parent());
                    let meta = self.route.meta();
                    self.findings.add(meta, reference.at, field, why, remedy);
                }
            }
        }
    }
}
