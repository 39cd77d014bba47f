//! Replies of the gateway as responses: problem documents, pages for people, gRPC status.
//!
//! Called by the proxy with every [`Reply`]. Adds `Content-Type`, `Cache-Control`, `Proxy-Status` and what the reply brings;
//! framing, `Date` and the request id are the proxy's, and the response side of the road still runs after this.

use std::fmt::Write as _;

use serde_json::json;
use transept_wire::head::{FieldId, FieldName, Fields, Request, Response, Version, standard_reason};

use crate::protobuf::grpc_frame;
use crate::reason::GrpcCode;
use crate::verdict::{Reply, ReplyBody};

/// Who reads a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A program: `application/problem+json` (RFC 9457).
    Program,
    /// A person with a browser: `text/html`.
    Person,
    /// A gRPC client: a response of trailers only.
    Grpc,
}

impl Audience {
    /// Tells from the request's `Content-Type` and `Accept`.
    pub fn of(request: &Request) -> Audience {
        if is_grpc(request) && request.version == Version::Http2 {
            return Audience::Grpc;
        }
        let html = request.fields.all(FieldId::ACCEPT).any(|value| {
            value.split(|byte| *byte == b',').any(|range| {
                let media = range.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
                media.eq_ignore_ascii_case(b"text/html")
            })
        });
        if html { Audience::Person } else { Audience::Program }
    }
}

/// Whether the content of a request is that of gRPC.
pub fn is_grpc(request: &Request) -> bool {
    let media_type = request.fields.first(FieldId::CONTENT_TYPE);
    media_type.is_some_and(|value| value.len() >= 16 && value[..16].eq_ignore_ascii_case(b"application/grpc"))
}

static CONTENT_TYPE: FieldName = FieldName::known(FieldId::CONTENT_TYPE);
static CACHE_CONTROL: FieldName = FieldName::known(FieldId::CACHE_CONTROL);
static PROXY_STATUS: FieldName = FieldName::known(FieldId::PROXY_STATUS);
static GRPC_STATUS: FieldName = FieldName::known(FieldId::GRPC_STATUS);
static RETRY_AFTER: FieldName = FieldName::known(FieldId::RETRY_AFTER);
static GRPC_MESSAGE: FieldName = FieldName::known(FieldId::GRPC_MESSAGE);

/// Where the reasons are described; the slug of the reason follows.
const REASONS: &str = "https://transept.dev/reasons/";

/// The trailers behind the content of a reply, where it has any.
pub fn trailers(reply: &Reply) -> Option<Fields> {
    let ReplyBody::Grpc(_) = reply.body else { return None };
    let mut trailers = Fields::new();
    trailers.push(&GRPC_STATUS, b"0").ok()?;
    Some(trailers)
}

/// Writes a reply into a response head and a body, both cleared first.
pub fn render(
    reply: &Reply,
    audience: Audience,
    request_id: Option<&[u8]>,
    response: &mut Response,
    body: &mut Vec<u8>,
) {
    response.clear();
    body.clear();
    response.status = reply.status;
    let fields = &mut response.fields;
    // The values below are made of tokens, numbers and percent-encoded text, so no push is refused; a refused field of
    // a reply is left out rather than sent damaged.
    if reply.reason.is_fault() {
        let _ = fields.push(&PROXY_STATUS, reply.reason.as_proxy_status().as_bytes());
        let _ = fields.push(&CACHE_CONTROL, b"no-store");
    }
    for (name, value) in &reply.fields {
        let _ = fields.push(name, value);
    }
    // Who answers that something cannot be done now says when to ask again: soon, where nothing better is known.
    if reply.status == 503 && reply.reason.status() == 503 && !fields.contains(FieldId::RETRY_AFTER) {
        let _ = fields.push(&RETRY_AFTER, b"1");
    }
    match &reply.body {
        ReplyBody::Empty => {}
        ReplyBody::Bytes { media_type, bytes } => {
            let _ = fields.set(&CONTENT_TYPE, media_type.as_bytes());
            body.extend_from_slice(bytes);
        }
        ReplyBody::Grpc(message) => {
            let _ = fields.set(&CONTENT_TYPE, b"application/grpc");
            body.extend_from_slice(&grpc_frame(message));
        }
        ReplyBody::Problem => render_problem(reply, audience, request_id, response, body),
    }
}

/// The status for a gRPC caller: that of the reason, or where somebody has chosen another HTTP status, what gRPC makes of that
/// ("HTTP to gRPC Status Code Mapping").
fn grpc_code(reply: &Reply) -> u8 {
    const UNKNOWN: u8 = 2;
    if reply.status == reply.reason.status() {
        return reply.reason.grpc() as u8;
    }
    match reply.status {
        400 => GrpcCode::Internal as u8,
        401 => GrpcCode::Unauthenticated as u8,
        403 => GrpcCode::PermissionDenied as u8,
        404 => GrpcCode::Unimplemented as u8,
        429 if reply.reason.is_limit() => GrpcCode::ResourceExhausted as u8,
        429 | 502 | 503 | 504 => GrpcCode::Unavailable as u8,
        _ => UNKNOWN,
    }
}

fn render_problem(
    reply: &Reply,
    audience: Audience,
    request_id: Option<&[u8]>,
    response: &mut Response,
    body: &mut Vec<u8>,
) {
    let request_id = request_id.map(String::from_utf8_lossy);
    let fields = &mut response.fields;
    match audience {
        Audience::Grpc => {
            response.status = 200;
            let code = grpc_code(reply).to_string();
            let _ = fields.set(&CONTENT_TYPE, b"application/grpc");
            let _ = fields.set(&GRPC_STATUS, code.as_bytes());
            let _ = fields.set(&GRPC_MESSAGE, percent_encoded(sentence(reply)).as_bytes());
        }
        Audience::Program => {
            let _ = fields.set(&CONTENT_TYPE, b"application/problem+json");
            let slug = reply.reason.slug();
            let mut problem = json!({
                "type": format!("{REASONS}{slug}"),
                "title": reply.reason.title(),
                "status": reply.status,
                "code": slug,
            });
            if let Some(kind) = &reply.problem {
                problem["type"] = kind.kind.into();
                for (name, value) in &kind.members {
                    problem[*name] = value.clone();
                }
            }
            if !reply.detail.is_empty() {
                problem["detail"] = reply.detail.as_ref().into();
            }
            if let Some(id) = request_id {
                problem["request_id"] = id.into();
            }
            body.extend_from_slice(problem.to_string().as_bytes());
            body.push(b'\n');
        }
        Audience::Person => {
            let _ = fields.set(&CONTENT_TYPE, b"text/html; charset=utf-8");
            body.extend_from_slice(page(reply, request_id.as_deref()).as_bytes());
        }
    }
}

fn sentence(reply: &Reply) -> &str {
    if reply.detail.is_empty() { reply.reason.title() } else { &reply.detail }
}

/// gRPC's percent-encoding of `grpc-message` (PROTOCOL-HTTP2, "Responses").
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn page(reply: &Reply, request_id: Option<&str>) -> String {
    let status = reply.status;
    let phrase = standard_reason(status);
    let title = escaped(reply.reason.title());
    let detail = escaped(&reply.detail);
    let code = reply.reason.slug();
    let id = request_id.map(|id| format!("<br>Request <code>{}</code>", escaped(id))).unwrap_or_default();
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{status} {phrase}</title>\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem;color:#222}}\
         h1{{font-size:1.5rem}}small,code{{color:#666}}</style>\
         <h1>{status} {phrase}</h1><p>{title}.</p><p>{detail}</p><small>Code <code>{code}</code>{id}</small></html>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    fn request(version: Version, fields: &[(&str, &str)]) -> Request {
        let mut request = Request::build("POST", "http", "a.test", "/").expect("a request");
        request.version = version;
        for (name, value) in fields {
            request.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
        }
        request
    }

    #[test]
    fn audiences() {
        let audience = |version, fields: &[_]| Audience::of(&request(version, fields));
        assert_eq!(audience(Version::Http11, &[]), Audience::Program);
        assert_eq!(audience(Version::Http11, &[("accept", "*/*")]), Audience::Program);
        assert_eq!(audience(Version::Http11, &[("accept", "application/xml, Text/HTML;q=0.9")]), Audience::Person);
        assert_eq!(audience(Version::Http2, &[("content-type", "application/grpc+proto")]), Audience::Grpc);
    }

    #[test]
    fn a_problem_document() {
        let (mut response, mut body) = (Response::new(0), Vec::new());
        let reply = Reply::new(Reason::RouteNotFound).with_detail("Nothing is here.");
        render(&reply, Audience::Program, Some(b"abc"), &mut response, &mut body);
        assert_eq!(response.status, 404);
        assert_eq!(response.fields.first(FieldId::PROXY_STATUS), Some(&b"transept; error=destination_not_found"[..]));
        let problem: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(problem["code"], "route.not_found");
        assert_eq!(problem["request_id"], "abc");
        assert_eq!(problem["status"], 404);
        assert_eq!(problem["detail"], "Nothing is here.");
    }

    #[test]
    fn grpc_gets_trailers_only() {
        let (mut response, mut body) = (Response::new(0), Vec::new());
        let reply = Reply::new(Reason::RouteNotFound).with_detail("100% ü");
        render(&reply, Audience::Grpc, None, &mut response, &mut body);
        assert_eq!(response.status, 200);
        assert_eq!(response.fields.first(FieldId::GRPC_STATUS), Some(&b"12"[..]));
        assert_eq!(response.fields.first(FieldId::GRPC_MESSAGE), Some(&b"100%25 %C3%BC"[..]));
        assert!(body.is_empty());
    }

    #[test]
    fn grpc_hears_of_a_status_that_somebody_has_chosen() {
        for (reason, status, code) in [
            (Reason::NotAuthorized, 403, "7"),
            (Reason::NotAuthorized, 401, "16"),
            (Reason::NotAuthorized, 503, "14"),
            (Reason::NotAuthorized, 418, "2"),
            (Reason::RateLimited, 429, "8"),
        ] {
            let (mut response, mut body) = (Response::new(0), Vec::new());
            render(&Reply::new(reason).with_status(status), Audience::Grpc, None, &mut response, &mut body);
            let told = response.fields.first(FieldId::GRPC_STATUS).map(String::from_utf8_lossy);
            assert_eq!(told.as_deref(), Some(code), "{reason:?} {status}");
        }
    }

    #[test]
    fn what_cannot_be_done_now_can_be_asked_for_again() {
        let told = |reply: Reply| {
            let (mut response, mut body) = (Response::new(0), Vec::new());
            render(&reply, Audience::Program, None, &mut response, &mut body);
            response.fields.first(FieldId::RETRY_AFTER).map(|value| String::from_utf8_lossy(value).into_owned())
        };
        for reason in [Reason::AuthenticationUnavailable, Reason::AuthorizerUnavailable, Reason::NoEndpoints] {
            assert_eq!(told(Reply::new(reason)).as_deref(), Some("1"), "{reason:?}");
        }
        let later = Reply::new(Reason::Overloaded).with_field(FieldName::known(FieldId::RETRY_AFTER), *b"30");
        assert_eq!(told(later).as_deref(), Some("30"));
        assert_eq!(told(Reply::new(Reason::NotAuthorized).with_status(503)), None, "somebody else's answer");
    }

    #[test]
    fn pages_are_escaped() {
        let (mut response, mut body) = (Response::new(0), Vec::new());
        render(&Reply::new(Reason::PathRefused), Audience::Person, Some(b"<script>"), &mut response, &mut body);
        let page = String::from_utf8(body).expect("text");
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"));
    }

    #[test]
    fn a_redirect_is_no_fault() {
        let (mut response, mut body) = (Response::new(0), Vec::new());
        let reply = Reply::new(Reason::Redirected)
            .with_status(308)
            .with_field(FieldName::known(FieldId::LOCATION), *b"/x")
            .without_body();
        render(&reply, Audience::Person, None, &mut response, &mut body);
        assert_eq!((response.status, response.fields.len(), body.len()), (308, 1, 0));
    }
}
