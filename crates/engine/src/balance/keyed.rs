//! What of a request is hashed, so that requests that belong together find the same endpoint.
//!
//! Called by `pick` once for each request or connection to a backend that is balanced by hash.

use std::net::IpAddr;

use transept_wire::head::{FieldId, Request};

use super::table::hash;
use crate::traffic::HashKey;

/// The hash of the first of these parts that the request has; none when it has none of them.
pub(crate) fn hash_request(keys: &[HashKey], request: &Request, client: IpAddr) -> Option<u64> {
    keys.iter().find_map(|key| match key {
        HashKey::Header(name) => request.fields.first_named(name).map(hash),
        HashKey::Cookie(name) => cookie(request, name.as_bytes()).map(hash),
        HashKey::Query(name) => parameter(request.query()?, name.as_bytes()).map(hash),
        HashKey::Path => Some(hash(request.path())),
        HashKey::Address => Some(hash_address(client)),
    })
}

/// The same for a connection that is not looked at, which has an address and nothing else.
pub(crate) fn hash_connection(keys: &[HashKey], client: IpAddr) -> Option<u64> {
    keys.contains(&HashKey::Address).then(|| hash_address(client))
}

fn hash_address(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => hash(&address.octets()),
        IpAddr::V6(address) => hash(&address.octets()),
    }
}

/// The value of a cookie (RFC 6265 section 4.2.1), which may stand in any of several lines.
fn cookie<'r>(request: &'r Request, name: &[u8]) -> Option<&'r [u8]> {
    let pairs = request.fields.all(FieldId::COOKIE).flat_map(|line| line.split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| value_of(pair, name)).filter(|value| !value.is_empty())
}

/// The value of a parameter, as it is written.
fn parameter<'r>(query: &'r [u8], name: &[u8]) -> Option<&'r [u8]> {
    query.split(|byte| *byte == b'&').find_map(|pair| value_of(pair, name)).filter(|value| !value.is_empty())
}

fn value_of<'r>(pair: &'r [u8], name: &[u8]) -> Option<&'r [u8]> {
    pair.strip_prefix(name)?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use super::*;
    use transept_wire::head::FieldName;

    fn request(target: &str, fields: &[(&str, &str)]) -> Request {
        let mut request = Request::build("GET", "http", "a.test", target).expect("a request");
        for (name, value) in fields {
            request.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
        }
        request
    }

    fn of(key: HashKey, request: &Request) -> Option<u64> {
        hash_request(&[key], request, IpAddr::from([192, 0, 2, 1]))
    }

    #[test]
    fn each_part_is_found() {
        let request =
            request("/cart?a=&id=7&id=8", &[("X-User", "ada"), ("Cookie", "a=1; sid=xyz"), ("Cookie", "late=2")]);
        let header = HashKey::Header(FieldName::new("x-user").expect("a name"));
        assert_eq!(of(header, &request), Some(hash(b"ada")));
        assert_eq!(of(HashKey::Cookie("sid".into()), &request), Some(hash(b"xyz")));
        assert_eq!(of(HashKey::Cookie("late".into()), &request), Some(hash(b"2")));
        assert_eq!(of(HashKey::Query("id".into()), &request), Some(hash(b"7")));
        assert_eq!(of(HashKey::Path, &request), Some(hash(b"/cart")));
        assert_eq!(of(HashKey::Address, &request), Some(hash(&[192, 0, 2, 1])));
    }

    #[test]
    fn what_is_absent_or_empty_gives_way_to_the_next() {
        let request = request("/cart?a=", &[("Cookie", "asid=1; sid=")]);
        let keys =
            [HashKey::Cookie("sid".into()), HashKey::Query("a".into()), HashKey::Query("b".into()), HashKey::Path];
        let client = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(hash_request(&keys, &request, client), Some(hash(b"/cart")));
        assert_eq!(hash_request(&keys[..3], &request, client), None);
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        let request = request("/", &[]);
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("an address");
        assert_eq!(hash_request(&[HashKey::Address], &request, mapped), of(HashKey::Address, &request));
    }

    #[test]
    fn a_connection_has_nothing_but_its_address() {
        let client: IpAddr = [192, 0, 2, 7].into();
        let keys = [HashKey::Path, HashKey::Address];
        let of_request = hash_request(&keys[1..], &request("/", &[]), client);
        assert_eq!(hash_connection(&keys, client), of_request);
        assert_eq!(hash_connection(&keys[..1], client), None);
    }
}
