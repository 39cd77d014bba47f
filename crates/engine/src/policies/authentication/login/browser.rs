//! What a request says of the browser that sends it: whether somebody opens a page, or wants something of his own will; and its query.

use transept_wire::head::{FieldId, Method, Request};

use crate::form;
use crate::redact::{is_named, parameters};

/// Whether a browser opens a page, so that it may be sent elsewhere: Fetch Metadata says so, or else what it wants to see. Programs, scripts
/// of a page, frames, and everything that is fetched ahead or along are not.
pub(super) fn is_opening_a_page(request: &Request) -> bool {
    if !matches!(request.method, Method::Get | Method::Head) || request.protocol().is_some() {
        return false;
    }
    if header(request, b"sec-fetch-mode").is_some() {
        return is_navigation(request);
    }
    request.fields.all(FieldId::ACCEPT).any(wants_html) && header(request, b"x-requested-with").is_none()
}

/// Whether Fetch Metadata calls it the page of a window, for somebody who wants to see it now.
fn is_navigation(request: &Request) -> bool {
    header(request, b"sec-fetch-mode") == Some(b"navigate")
        && header(request, b"sec-fetch-dest").is_none_or(|kind| kind == b"document")
        && header(request, b"sec-purpose").is_none_or(|purpose| !purpose.starts_with(b"prefetch"))
}

/// Whether somebody wants to log out: on a page of the site, which is a scheme and an authority, or by its address. Without Fetch Metadata it is `Origin` and
/// `Referer` that say where a browser comes from, and `Accept` whether it opens a page. One that says nothing of that is believed.
pub(super) fn is_own_will(request: &Request, site: &str) -> bool {
    let Some(from) = header(request, b"sec-fetch-site") else {
        return is_from(request, site) && (request.method == Method::Post || may_open_a_page(request));
    };
    let is_of_the_site = matches!(from, b"same-origin" | b"none");
    // A form or a script of the site posts; what is got must be the page of a window.
    is_of_the_site && (request.method == Method::Post || is_navigation(request))
}

/// Whether nothing says that a request comes from a page of another site. A proxy in front may call this one by another name.
fn is_from(request: &Request, site: &str) -> bool {
    let is_ours = |origin: &[u8]| {
        let mut parts = origin.splitn(2, |byte| *byte == b':');
        let (_scheme, rest) = (parts.next(), parts.next().unwrap_or_default());
        let authority = rest.strip_prefix(b"//").unwrap_or_default();
        origin.eq_ignore_ascii_case(site.as_bytes())
            || (!authority.is_empty() && authority.eq_ignore_ascii_case(request.authority()))
    };
    // What it links to is behind the third slash.
    let origin_of = |url: &[u8]| {
        let end = url.iter().enumerate().filter(|(_, byte)| **byte == b'/').nth(2).map_or(url.len(), |(at, _)| at);
        url.get(..end).is_some_and(is_ours)
    };
    request.fields.all(FieldId::ORIGIN).all(is_ours) && header(request, b"referer").is_none_or(origin_of)
}

/// Whether `Accept` speaks of a page, or of nothing in particular: what is got for a page, such as an image, names its kinds.
fn may_open_a_page(request: &Request) -> bool {
    let mut lines = request.fields.all(FieldId::ACCEPT).peekable();
    lines.peek().is_none() || lines.any(|line| line.trim_ascii() == b"*/*" || wants_html(line))
}

fn wants_html(line: &[u8]) -> bool {
    line.windows(9).any(|word| word.eq_ignore_ascii_case(b"text/html"))
}

fn header<'r>(request: &'r Request, name: &'static [u8]) -> Option<&'r [u8]> {
    request.fields.iter().find(|(one, _)| one.bytes.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// A parameter of the query, decoded. None when it is there twice: nobody could say which is meant.
pub(super) fn parameter(request: &Request, name: &str) -> Option<Vec<u8>> {
    let mut found = parameters(request.query()?).filter(|(one, _)| is_named(one, name));
    let (_, value) = found.next()?;
    found.next().is_none().then(|| form::decoded(value, <[u8]>::to_vec))
}

pub(super) fn parameter_text(request: &Request, name: &str) -> Option<String> {
    String::from_utf8(parameter(request, name)?).ok()
}
