//! HTTP Message Signatures (RFC 9421): what of a request is signed, and the digest of its content (RFC 9530).
//!
//! Called by the scheme `signature` of `AuthenticationPolicy`, which knows keys and times. Only requests, and only what can be told of them
//! without doubt: a component that is not known here, or has a parameter that is not, makes the signature no good.

pub mod hmac;
pub(crate) mod structured;
#[cfg(test)]
mod tests;

use aws_lc_rs::{constant_time, digest};
use data_encoding::BASE64;
use transept_wire::head::{FieldName, Request};

use structured::{Bare, Item, Parameters, write_inner_list, write_item};

use crate::form;

/// The most components that are looked at.
const MOST_COMPONENTS: usize = 64;

/// A sentence for logs; it holds names of components and no values.
pub(crate) type Wrong = String;

/// What is signed: the signature base (RFC 9421 section 2.5).
pub(crate) fn base(
    request: &Request,
    scheme: &str,
    components: &[Item],
    parameters: &Parameters,
) -> Result<Vec<u8>, Wrong> {
    if components.len() > MOST_COMPONENTS {
        return Err(format!("it covers more than {MOST_COMPONENTS} components"));
    }
    let mut base = Vec::with_capacity(512);
    for (index, component) in components.iter().enumerate() {
        let Bare::Text(name) = &component.bare else {
            return Err("a component is not named by text".to_owned());
        };
        if components.iter().take(index).any(|other| other == component) {
            return Err("it covers a component twice".to_owned());
        }
        write_item(component, &mut base);
        base.extend_from_slice(b": ");
        let value = match name.strip_prefix('@') {
            Some(derived) => derive(request, scheme, derived, &component.parameters)?,
            None => field(request, name, &component.parameters)?,
        };
        if value.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            return Err("a component has several lines".to_owned());
        }
        base.extend_from_slice(&value);
        base.push(b'\n');
    }
    base.extend_from_slice(b"\"@signature-params\": ");
    write_inner_list(components, parameters, &mut base);
    Ok(base)
}

/// A derived component (section 2.2).
fn derive(request: &Request, scheme: &str, name: &str, parameters: &Parameters) -> Result<Vec<u8>, Wrong> {
    if name == "query-param" {
        return query_parameter(request, parameters);
    }
    if !parameters.is_empty() {
        return Err(format!("the component @{} has a parameter that is not known", known(name)));
    }
    let authority = request.authority().to_ascii_lowercase();
    let default: &[u8] = if scheme == "https" { b":443" } else { b":80" };
    let authority = authority.strip_suffix(default).map_or(authority.clone(), <[u8]>::to_vec);
    Ok(match name {
        "method" => request.method.as_bytes().to_vec(),
        "authority" => authority,
        "scheme" => scheme.as_bytes().to_vec(),
        "target-uri" => [scheme.as_bytes(), &b"://"[..], &authority[..], request.target()].concat(),
        "request-target" => request.target().to_vec(),
        "path" => {
            if request.path().is_empty() {
                b"/".to_vec()
            } else {
                request.path().to_vec()
            }
        }
        "query" => [&b"?"[..], request.query().unwrap_or_default()].concat(),
        _ => return Err("it covers a derived component that is not known".to_owned()),
    })
}

/// A name for logs: what others write is not repeated.
fn known(name: &str) -> &str {
    let names = ["method", "authority", "scheme", "target-uri", "request-target", "path", "query"];
    names.into_iter().find(|known| *known == name).unwrap_or("?")
}

/// One parameter of the query, decoded and encoded again (section 2.2.8).
fn query_parameter(request: &Request, parameters: &Parameters) -> Result<Vec<u8>, Wrong> {
    let [(key, Bare::Text(wanted))] = parameters.as_slice() else {
        return Err("the component @query-param needs one `name`".to_owned());
    };
    if key != "name" {
        return Err("the component @query-param needs one `name`".to_owned());
    }
    let query = request.query().unwrap_or_default();
    let mut found = query.split(|byte| *byte == b'&').filter(|part| !part.is_empty()).filter_map(|part| {
        let (key, value) = match part.iter().position(|byte| *byte == b'=') {
            Some(at) => (&part[..at], &part[at + 1..]),
            None => (part, &[][..]),
        };
        (form::decoded(key, encoded) == wanted.as_bytes()).then(|| form::decoded(value, encoded))
    });
    match (found.next(), found.next()) {
        (Some(value), None) => Ok(value),
        (None, _) => Err("it covers a parameter of the query that is not there".to_owned()),
        (Some(_), Some(_)) => Err("it covers a parameter of the query that is there twice".to_owned()),
    }
}

fn encoded(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plain.len());
    for byte in plain {
        match byte {
            byte if byte.is_ascii_alphanumeric() || matches!(byte, b'*' | b'-' | b'.' | b'_') => out.push(*byte),
            byte => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    out
}

/// A header field (section 2.1).
fn field(request: &Request, name: &str, parameters: &Parameters) -> Result<Vec<u8>, Wrong> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("a component is not in lower case".to_owned());
    }
    if name == "host" {
        return if parameters.is_empty() {
            Ok(request.authority().to_vec())
        } else {
            Err("the component host has a parameter".to_owned())
        };
    }
    let Ok(field) = FieldName::new(name) else { return Err("it covers what is not the name of a field".to_owned()) };
    let lines: Vec<&[u8]> = request.fields.all_named(&field).map(<[u8]>::trim_ascii).collect();
    if lines.is_empty() {
        return Err("it covers a field that is not there".to_owned());
    }
    match parameters.as_slice() {
        [] => Ok(lines.join(&b", "[..])),
        [(key, Bare::Bool(true))] if key == "bs" => {
            let lines: Vec<String> = lines.iter().map(|line| format!(":{}:", BASE64.encode(line))).collect();
            Ok(lines.join(", ").into_bytes())
        }
        [(key, Bare::Text(member))] if key == "key" => {
            let members =
                structured::dictionary(&lines.join(&b", "[..])).ok_or("it covers a field that is no dictionary")?;
            let found =
                members.iter().find(|(name, _)| name == member).ok_or("it covers a member that is not there")?;
            let mut out = Vec::new();
            found.1.write(&mut out);
            Ok(out)
        }
        _ => Err("a component has a parameter that is not known".to_owned()),
    }
}

/// Whether a required component is covered, by itself or within a larger one.
pub(crate) fn covers(components: &[Item], required: &str) -> bool {
    let names = || {
        components.iter().filter(|component| component.parameters.is_empty()).filter_map(|component| {
            match &component.bare {
                Bare::Text(name) => Some(name.as_str()),
                _ => None,
            }
        })
    };
    let within: &[&str] = match required {
        "@authority" => &["@target-uri", "host"],
        "@scheme" => &["@target-uri"],
        "@path" | "@query" => &["@target-uri", "@request-target"],
        _ => &[],
    };
    names().any(|name| name == required || within.contains(&name))
}

/// Whether `Content-Digest` is that of the content (RFC 9530 section 2): every digest of a kind that is known must be, and one must be known.
pub(crate) fn is_digest_of(value: &[u8], content: &[u8]) -> bool {
    let Some(members) = structured::dictionary(value) else { return false };
    let mut known = 0;
    for (name, member) in &members {
        let algorithm = match name.as_str() {
            "sha-256" => &digest::SHA256,
            "sha-512" => &digest::SHA512,
            _ => continue,
        };
        known += 1;
        let structured::Member::Item(Item { bare: Bare::Bytes(stated), .. }) = member else { return false };
        if constant_time::verify_slices_are_equal(stated, digest::digest(algorithm, content).as_ref()).is_err() {
            return false;
        }
    }
    known > 0
}

/// Reads what a client sends, builds what it would have signed, and writes it again: false when what is written is not what was read. What a
/// fuzzer calls.
#[doc(hidden)]
pub fn probe(input: &[u8], request: &Request) -> bool {
    let Some(members) = structured::dictionary(input) else { return true };
    members.iter().all(|(name, member)| {
        if let structured::Member::List(items, parameters) = member {
            // Whatever comes of it, it is one line for each component and one more.
            let lines = base(request, "https", items, parameters).map(|base| base.split(|byte| *byte == b'\n').count());
            if lines.is_ok_and(|lines| lines != items.len() + 1) {
                return false;
            }
        }
        let mut written = [name.as_bytes(), b"="].concat();
        member.write(&mut written);
        structured::dictionary(&written)
            .is_some_and(|again| again.len() == 1 && again.iter().all(|(_, one)| one == member))
    })
}
