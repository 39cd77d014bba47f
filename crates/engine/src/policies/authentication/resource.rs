//! Metadata of the API for OAuth clients (RFC 9728): who gives out tokens for it, and for what, served at its well-known place and named in
//! challenges, so that a client finds its way from a 401 to a token.
//!
//! The document is made once, from what is written, and is for everybody: it is served before anything is asked of a client.

use transept_model::object;
use transept_model::schema::{Decoder, Rule, Text};
use transept_model::value::{Value, ticked};
use transept_wire::head::{FieldId, FieldName, Method, Request};
use transept_wire::normalize::{self, Normal, PathRules};

use super::super::{PlainHttp, parse_url};
use crate::reason::Reason;
use crate::verdict::{Reply, ReplyBody};

object! {
    /// An API as OAuth clients know it (RFC 9728).
    pub struct ProtectedResource {
        /// Its identifier: the URL under which clients use it, such as `https://api.shop.test/orders`. It is what they ask tokens for.
        url: Text => Rule::Length(1, 2048);
        /// Who gives out tokens for it: issuers.
        authorization_servers: Vec<Text> => Rule::MinItems(1), Rule::MaxItems(16), Rule::Length(1, 1024);
        /// Scopes that clients may ask for.
        scopes: Vec<Text> => Rule::MaxItems(256), Rule::Length(1, 256), Rule::Unique;
        /// Its name for people.
        name: Option<Text> => Rule::Length(1, 256);
        /// Where people read about it.
        documentation: Option<Text> => Rule::Length(1, 2048);
    }
    check check_resource;
}

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

fn check_resource(spec: &ProtectedResource, value: &Value, cx: &mut Decoder) {
    match parse_url(&spec.url, PlainHttp::OnLoopback) {
        Ok((_, _, target)) if is_normal(&target) => {}
        Ok((_, _, target)) if !target.contains('?') => {
            cx.refuse_field(
                value,
                "url",
                format!("{} is not in the form that paths have when they come", ticked(&target)),
            )
            .remedy("write no `//`, no dots as segments, and %XX only for what must be encoded");
        }
        Ok(_) => {
            cx.refuse_field(value, "url", "the identifier has a query").remedy("write scheme, host and path");
        }
        Err((why, remedy)) => {
            cx.refuse_field(value, "url", why).remedy(remedy);
        }
    }
    for text in &spec.authorization_servers {
        if let Err((why, remedy)) = parse_url(text, PlainHttp::OnLoopback) {
            cx.refuse_field(value, "authorizationServers", why).remedy(remedy);
        }
    }
}

/// Whether a path is what normalising makes of it, so that requests for what is made of it are known.
fn is_normal(path: &str) -> bool {
    let mut out = Vec::new();
    !path.contains('?') && normalize::path(path.as_bytes(), &PathRules::default(), &mut out) == Ok(Normal::Unchanged)
}

/// The document and where it is.
#[derive(Debug)]
pub(super) struct Metadata {
    path: Box<str>,
    document: Vec<u8>,
    parameter: Box<str>,
}

impl Metadata {
    /// None of what `check` has refused.
    pub(super) fn compile(spec: &ProtectedResource) -> Option<Metadata> {
        let (origin, authority, target) = parse_url(&spec.url, PlainHttp::OnLoopback).ok()?;
        // RFC 9728 section 3.1: a slash alone after the host goes.
        let path = format!("{WELL_KNOWN}{}", if target == "/" { "" } else { &target });
        let texts = |all: &[Text]| all.iter().map(|text| text.to_string()).collect::<Vec<String>>();
        let mut document = serde_json::json!({
            "resource": &*spec.url,
            "authorization_servers": texts(&spec.authorization_servers),
            "bearer_methods_supported": ["header"],
        });
        if !spec.scopes.is_empty() {
            document["scopes_supported"] = texts(&spec.scopes).into();
        }
        for (member, text) in [("resource_name", &spec.name), ("resource_documentation", &spec.documentation)] {
            if let Some(text) = text {
                document[member] = (**text).into();
            }
        }
        let scheme = if origin.tls { "https" } else { "http" };
        let parameter = format!("resource_metadata=\"{scheme}://{authority}{path}\"").into();
        Some(Metadata { path: path.into(), document: document.to_string().into_bytes(), parameter })
    }

    /// Where the document is.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The document, when that is what a request asks for.
    pub(super) fn answer(&self, request: &Request) -> Option<Reply> {
        let asks = matches!(request.method, Method::Get | Method::Head);
        if !asks || request.path() != self.path.as_bytes() {
            return None;
        }
        let mut reply = Reply::new(Reason::ResourceMetadata)
            .with_field(FieldName::known(FieldId::CACHE_CONTROL), "max-age=3600")
            .with_field(FieldName::new("access-control-allow-origin").ok()?, "*");
        reply.body = ReplyBody::Bytes { media_type: "application/json".into(), bytes: self.document.clone().into() };
        Some(reply)
    }

    /// A challenge that says where the document is, when it asks for a token.
    pub(super) fn name_in(&self, challenge: String) -> String {
        if challenge.starts_with("Bearer ") || challenge.starts_with("DPoP ") {
            format!("{challenge}, {}", self.parameter)
        } else {
            challenge
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::refusals;
    use super::super::AuthenticationPolicy;

    #[test]
    fn an_identifier_that_clients_could_not_use_is_refused_with_a_remedy() {
        let spec = |url: &str, server: &str| {
            format!(
                "schemes: [{{name: key, apiKey: {{}}}}]\nresource: {{url: '{url}', authorizationServers: ['{server}']}}\n"
            )
        };
        let good = "https://login.test";
        for url in ["https://api.test", "https://api.test/", "https://api.test/orders", "http://localhost:8080/v1/x"] {
            assert!(refusals::<AuthenticationPolicy>(&spec(url, good)).is_empty(), "{url}");
        }
        for (url, server, why) in [
            ("https://api.test/a/../b", good, "not in the form"),
            ("https://api.test//a", good, "not in the form"),
            ("https://api.test/%61", good, "not in the form"),
            ("https://api.test/?a=1", good, "has a query"),
            ("http://api.test/", good, "in clear text"),
            ("api.test", good, "not an https URL"),
            ("https://api.test/", "login.test", "not an https URL"),
        ] {
            let problems = refusals::<AuthenticationPolicy>(&spec(url, server));
            assert!(problems.iter().any(|one| one.why.contains(why) && one.remedy.is_some()), "{url}: {problems:?}");
        }
    }
}
