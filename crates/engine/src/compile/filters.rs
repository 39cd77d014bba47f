//! Filters as resources write them into filters as requests meet them.
//!
//! Called by `routes` for rules and backendRefs, and by `HeaderPolicy` for its changes. A filter that cannot be compiled, or that this
//! version does not serve, makes its rule answer 500: the standard forbids to skip it.

use std::sync::{Arc, OnceLock};

use crate::policies::patterns::field_name;
use transept_model::kinds::filters::CorsMethod;
use transept_model::kinds::{
    CorsFilter, ExternalAuthFilter, GrpcRouteFilter, HttpHeader, HttpHeaderFilter, HttpRouteFilter,
    LocalObjectReference, Metadata, PathModifier, RequestMirrorFilter, RequestRedirectFilter, UrlRewriteFilter,
};
use transept_model::place::{Invalid, Place, Spot};
use transept_model::references::{BackendTarget, Referrer};

use super::backends::Backends;
use crate::callout::Callee;
use crate::filters::cors::{Cors, Credentials, List, Origin};
use crate::filters::headers::is_reserved;
use crate::filters::{FilterSite, Filters, HeaderChanges, Mirror, PathChange, Redirect, RequestFilter, Rewrite};
use crate::policies::{ExternalAuthPolicy, PolicyName, Step};
use crate::reason::Reason;
use crate::rule::{BrokenRef, Site};

/// A filter of either kind of route.
pub(super) enum AnyFilter<'w> {
    Http(&'w HttpRouteFilter),
    Grpc(&'w GrpcRouteFilter),
}

/// What compiling filters needs and finds.
pub(super) struct FilterCompiler<'c, 'w> {
    pub(super) backends: &'c mut Backends<'w>,
    pub(super) from: Referrer<'w>,
    pub(super) meta: &'w Metadata,
    pub(super) problems: &'c mut Vec<Invalid>,
}

/// Filters on their way.
#[derive(Default)]
struct Draft {
    request: Vec<RequestFilter>,
    response: Vec<HeaderChanges>,
    mirrors: Vec<Mirror>,
    cors: Option<Box<Cors>>,
    broken: Option<BrokenRef>,
    sites: Vec<FilterSite>,
    external_auth: Option<Arc<Step>>,
}

/// What filters belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FilterPlace {
    Rule,
    Backend,
}

impl<'w> FilterCompiler<'_, 'w> {
    /// Compiles the filters of one rule.
    pub(super) fn compile(&mut self, filters: impl Iterator<Item = AnyFilter<'w>>) -> Arc<Filters> {
        self.compile_at(filters, FilterPlace::Rule)
    }

    /// Compiles the filters of one backendRef.
    pub(super) fn compile_backend(&mut self, filters: impl Iterator<Item = AnyFilter<'w>>) -> Arc<Filters> {
        self.compile_at(filters, FilterPlace::Backend)
    }

    fn compile_at(&mut self, filters: impl Iterator<Item = AnyFilter<'w>>, place: FilterPlace) -> Arc<Filters> {
        let mut filters = filters.peekable();
        if filters.peek().is_none() {
            return Filters::none();
        }
        let mut draft = Draft::default();
        for filter in filters {
            match filter {
                AnyFilter::Http(filter) => self.add_http(&mut draft, filter, place),
                AnyFilter::Grpc(filter) => self.add_grpc(&mut draft, filter),
            }
        }
        Arc::new(Filters {
            cors: draft.cors,
            request: draft.request.into(),
            response: draft.response.into(),
            mirrors: draft.mirrors.into(),
            broken: draft.broken,
            sites: draft.sites.into(),
            external_auth: draft.external_auth,
        })
    }

    fn add_http(&mut self, draft: &mut Draft, filter: &'w HttpRouteFilter, place: FilterPlace) {
        let word = filter.word();
        match filter {
            HttpRouteFilter::RequestHeaderModifier(changes) => self.add_request_headers(draft, changes),
            HttpRouteFilter::ResponseHeaderModifier(changes) => self.add_response_headers(draft, changes),
            HttpRouteFilter::RequestMirror(mirror) => self.add_mirror(draft, mirror),
            HttpRouteFilter::RequestRedirect(redirect) => {
                self.site(draft, word, redirect.at);
                draft.request.push(RequestFilter::Redirect(compile_redirect(redirect)));
            }
            HttpRouteFilter::UrlRewrite(rewrite) => {
                self.site(draft, word, rewrite.at);
                draft.request.push(RequestFilter::Rewrite(compile_rewrite(rewrite)));
            }
            HttpRouteFilter::Cors(cors) => {
                self.site(draft, word, cors.at);
                draft.cors = Some(Box::new(compile_cors(cors)));
            }
            HttpRouteFilter::ExternalAuth(auth) => self.add_external_auth(draft, auth, place),
            HttpRouteFilter::ExtensionRef(extension) => self.extension(draft, extension),
        }
    }

    fn add_grpc(&mut self, draft: &mut Draft, filter: &'w GrpcRouteFilter) {
        match filter {
            GrpcRouteFilter::RequestHeaderModifier(changes) => self.add_request_headers(draft, changes),
            GrpcRouteFilter::ResponseHeaderModifier(changes) => self.add_response_headers(draft, changes),
            GrpcRouteFilter::RequestMirror(mirror) => self.add_mirror(draft, mirror),
            GrpcRouteFilter::ExtensionRef(extension) => self.extension(draft, extension),
        }
    }

    fn add_request_headers(&mut self, draft: &mut Draft, changes: &HttpHeaderFilter) {
        self.site(draft, "RequestHeaderModifier", changes.at);
        match compile_changes(changes) {
            Ok(changes) => draft.request.push(RequestFilter::Headers(changes)),
            Err(why) => self.fail(draft, changes.at, why),
        }
    }

    fn add_response_headers(&mut self, draft: &mut Draft, changes: &HttpHeaderFilter) {
        self.site(draft, "ResponseHeaderModifier", changes.at);
        match compile_changes(changes) {
            Ok(changes) => draft.response.push(changes),
            Err(why) => self.fail(draft, changes.at, why),
        }
    }

    fn add_mirror(&mut self, draft: &mut Draft, mirror: &'w RequestMirrorFilter) {
        self.site(draft, "RequestMirror", mirror.at);
        let (numerator, denominator) = match (mirror.percent, &mirror.fraction) {
            (Some(percent), _) => (percent, 100),
            (None, Some(fraction)) => (fraction.numerator, fraction.denominator.max(1)),
            (None, None) => (1, 1),
        };
        let target = self.backends.find(&self.from, BackendTarget::from(&mirror.backend_ref));
        draft.mirrors.push(Mirror { target, numerator, denominator });
    }

    fn site(&mut self, draft: &mut Draft, name: &str, at: Spot) {
        let place = Site { file: Arc::clone(&self.meta.at.file), line: at.line };
        draft.sites.push(FilterSite { name: name.into(), place });
    }

    /// No kind of ours is a filter yet, so the reference leads nowhere; `attach` has reported that.
    fn extension(&mut self, draft: &mut Draft, extension: &LocalObjectReference) {
        self.site(draft, "ExtensionRef", extension.at);
        let why = format!("there is no filter of kind {}", &*extension.kind);
        draft.broken.get_or_insert(BrokenRef { reason: Reason::FilterInvalid, why: why.into() });
    }

    /// The service is asked among the policies of the rule, so it is a step of their chain.
    fn add_external_auth(&mut self, draft: &mut Draft, auth: &'w ExternalAuthFilter, place: FilterPlace) {
        let word = "ExternalAuth";
        self.site(draft, word, auth.at);
        if place == FilterPlace::Backend {
            return self.fail(draft, auth.at, "the filter ExternalAuth stands at rules, not at backends".to_owned());
        }
        if draft.external_auth.is_some() {
            return self.fail(draft, auth.at, "the rule has the filter ExternalAuth twice".to_owned());
        }
        let found = self.backends.find(&self.from, BackendTarget::from(&auth.backend_ref));
        if let Err(broken) = found {
            draft.broken.get_or_insert(broken);
            return;
        }
        let callee = Callee::from(OnceLock::from(found));
        match ExternalAuthPolicy::of_filter(auth, callee) {
            Ok(policy) => {
                let name = PolicyName {
                    kind: word,
                    namespace: (&*self.meta.namespace).into(),
                    name: (&*self.meta.name).into(),
                    target: format!("{} {}/{}", self.from.kind, &*self.meta.namespace, &*self.meta.name).into(),
                    place: Site { file: Arc::clone(&self.meta.at.file), line: auth.at.line },
                };
                draft.external_auth = Some(Arc::new(Step::of_filter(name, policy)));
            }
            Err(why) => self.fail(draft, auth.at, why),
        }
    }

    fn fail(&mut self, draft: &mut Draft, at: Spot, why: String) {
        let mut problem = Invalid::new(Place::new(Arc::clone(&self.meta.at.file), at), why.clone());
        problem.object = Some(self.meta.object_name());
        problem.remedy("until it is mended, requests that match the rule are answered with 500");
        self.problems.push(problem);
        draft.broken.get_or_insert(BrokenRef { reason: Reason::FilterInvalid, why: why.into() });
    }
}

/// Compiles a header modifier.
///
/// # Errors
/// A sentence about the first field that cannot be changed.
pub(crate) fn compile_changes(filter: &HttpHeaderFilter) -> Result<HeaderChanges, String> {
    let name = |text: &str| {
        let name = field_name(text)?;
        if is_reserved(&name) {
            return Err(format!("`{text}` frames the message and cannot be changed"));
        }
        Ok(name)
    };
    let lines = |headers: &[HttpHeader]| {
        headers
            .iter()
            .map(|header| Ok((name(&header.name)?, Box::from(header.value.trim().as_bytes()))))
            .collect::<Result<Box<[_]>, String>>()
    };
    Ok(HeaderChanges {
        remove: filter.remove.iter().map(|text| name(text)).collect::<Result<_, _>>()?,
        set: lines(&filter.set)?,
        add: lines(&filter.add)?,
    })
}

fn compile_path(path: &PathModifier) -> PathChange {
    match path {
        PathModifier::ReplaceFullPath(full) => PathChange::Full(encoded(full)),
        PathModifier::ReplacePrefixMatch(prefix) => PathChange::Prefix(encoded(prefix)),
    }
}

/// A replacement as it can stand in a path: what cannot is percent-encoded, so that a space is not the end of the target.
fn encoded(path: &str) -> Box<[u8]> {
    let mut out = Vec::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'!'..=b'~'
                if !matches!(byte, b'"' | b'#' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}') =>
            {
                out.push(byte);
            }
            _ => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    out.into()
}

fn compile_redirect(redirect: &RequestRedirectFilter) -> Redirect {
    Redirect {
        scheme: redirect.scheme.map(|scheme| scheme.as_str().into()),
        hostname: redirect.hostname.as_deref().map(Into::into),
        port: redirect.port,
        path: redirect.path.as_ref().map(compile_path),
        status: redirect.status_code.code(),
    }
}

fn compile_rewrite(rewrite: &UrlRewriteFilter) -> Rewrite {
    Rewrite { hostname: rewrite.hostname.as_deref().map(Into::into), path: rewrite.path.as_ref().map(compile_path) }
}

fn compile_cors(cors: &CorsFilter) -> Cors {
    Cors {
        origins: cors.allow_origins.iter().map(|origin| Origin::new(origin)).collect(),
        methods: List::new(cors.allow_methods.iter().map(|method: &CorsMethod| method.as_str())),
        headers: List::new(cors.allow_headers.iter().map(|name| &**name)),
        expose: List::new(cors.expose_headers.iter().map(|name| &**name)),
        credentials: match cors.allow_credentials {
            Some(true) => Credentials::Allowed,
            _ => Credentials::Forbidden,
        },
        max_age: cors.max_age,
    }
}
