//! `HeaderPolicy`: set, add and remove header fields of requests and responses on a Gateway, a listener, a route or a rule.
//!
//! The same changes that the filters `RequestHeaderModifier` and `ResponseHeaderModifier` make in one rule, for all that is under a
//! target. Runs after every guard and limit, before the rule's own filters; on the way back after them, so that the operator of the
//! Gateway has the last word. Fields of framing and connection cannot be changed.

use transept_model::kinds::HttpHeaderFilter;
use transept_model::object;
use transept_model::policy::Target;
use transept_wire::head::Response;

use super::{CompileCx, Phase, Policy};
use crate::compile::filters::compile_changes;
use crate::exchange::Exchange;
use crate::filters::HeaderChanges;
use crate::verdict::Verdict;

object! {
    /// Changes the header fields of requests and responses.
    pub struct HeaderPolicySpec {
        /// Changes to requests on their way to the backend.
        request: Option<HttpHeaderFilter>;
        /// Changes to responses on their way to the client, those of the gateway itself included.
        response: Option<HttpHeaderFilter>;
    }
}

/// A compiled `HeaderPolicy`.
#[derive(Debug)]
pub(crate) struct HeaderPolicy {
    request: HeaderChanges,
    response: HeaderChanges,
}

impl Policy for HeaderPolicy {
    const KIND: &'static str = "HeaderPolicy";
    const ABOUT: &'static str = "Sets, adds and removes header fields of requests and responses.";
    const PHASE: Phase = Phase::Transform;
    const TARGETS: &'static [Target] = &[Target::Gateway, Target::Listener, Target::Route, Target::Rule];
    type Spec = HeaderPolicySpec;

    fn compile(spec: &HeaderPolicySpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let mut compile = |field, changes: &Option<HttpHeaderFilter>| match changes {
            None => Some(HeaderChanges::default()),
            Some(changes) => match compile_changes(changes) {
                Ok(compiled) => Some(compiled),
                Err(why) => {
                    cx.within(field, |cx| {
                        cx.refuse(changes.at, why);
                    });
                    None
                }
            },
        };
        let request = compile("request", &spec.request);
        let response = compile("response", &spec.response);
        Some(HeaderPolicy { request: request?, response: response? })
    }

    fn on_request(&self, x: &mut Exchange<'_>) -> Verdict {
        self.request.apply_to_request(x.request);
        Verdict::Continue
    }

    fn on_response(&self, _: &mut Exchange<'_>, response: &mut Response) {
        self.response.apply(&mut response.fields);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{compile, refusals};
    use super::*;

    #[test]
    fn framing_fields_are_refused_with_their_place() {
        let problems = refusals::<HeaderPolicy>("request:\n  set:\n  - {name: Content-Length, value: '0'}\n");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].why.contains("Content-Length"), "{problems:?}");
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(!refusals::<HeaderPolicy>("requests: {}\n").is_empty());
    }

    #[test]
    fn both_sides_are_changed() {
        let policy =
            compile::<HeaderPolicy>("request: {set: [{name: X-A, value: '1'}]}\nresponse: {remove: [Server]}\n");
        let mut response = Response::new(200);
        response.fields.push_bytes(b"Server", b"secret/1.0").expect("a field");
        policy.response.apply(&mut response.fields);
        assert!(response.fields.is_empty());
        assert_eq!(policy.request.set.len(), 1);
    }
}
