//! Rules for what a client inside the mesh saw (section 3.2), and for what the official table means but does not compare.

use transept_testkit::h1;

use super::http::Location;
use crate::case::{MeshCase, MeshExpect, MeshIntended, MeshRedirect, Scheme};
use crate::mesh::orders::{Call, Saw};

/// Compares what came back with what a case expects of it.
pub(crate) fn compare(case: &MeshCase, sent: &Call, saw: &Saw) -> Vec<String> {
    let MeshCase { expect, intended, .. } = case;
    if !expect.status.contains(&saw.status) {
        return vec![format!("status {} instead of {:?}", saw.status, expect.status)];
    }
    let mut complaints = Vec::new();
    if let Some(backend) = expect.backend.as_deref().filter(|backend| !saw.pod.starts_with(backend)) {
        complaints.push(format!("pod {:?} instead of {backend}", saw.pod));
    }
    compare_headers(expect, saw, &mut complaints);
    compare_intended(intended, sent, saw, &mut complaints);
    complaints
}

fn compare_headers(expect: &MeshExpect, saw: &Saw, complaints: &mut Vec<String>) {
    let sides = [
        ("backend saw", &saw.seen, &expect.seen.headers, &expect.seen.absent_headers),
        ("response header", &saw.fields, &expect.response_headers, &expect.response_absent_headers),
    ];
    for (what, fields, wanted, absent) in sides {
        for (name, wanted) in wanted {
            match h1::joined(fields, name) {
                Some(got) if got == *wanted => {}
                got => complaints.push(format!("{what} {name}: {got:?} instead of {wanted:?}")),
            }
        }
        for name in absent {
            if let Some(got) = h1::joined(fields, name) {
                complaints.push(format!("{what} {name}: {got:?}, which must not be there"));
            }
        }
    }
}

fn compare_intended(intended: &MeshIntended, sent: &Call, saw: &Saw, complaints: &mut Vec<String>) {
    if let Some(path) = intended.seen_path.as_deref().filter(|path| saw.path != **path) {
        complaints.push(format!("backend saw path {:?} instead of {path:?}", saw.path));
    }
    let Some(redirect) = &intended.redirect else {
        return;
    };
    let location = h1::first(&saw.fields, "location").unwrap_or_default();
    match Location::parse(location, Scheme::Http, &sent.authority) {
        Some(got) => complaints.extend(compare_redirect(redirect, &got, location)),
        None => complaints.push(format!("Location {location:?} cannot be read")),
    }
}

fn compare_redirect(wanted: &MeshRedirect, got: &Location, location: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (part, wanted, got) in
        [("scheme", &wanted.scheme, &got.scheme), ("host", &wanted.host, &got.host), ("path", &wanted.path, &got.path)]
    {
        if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != got) {
            complaints.push(format!("{part} of Location {location} is not {wanted}"));
        }
    }
    if let Some(port) = wanted.port.filter(|port| got.port != Some(*port)) {
        complaints.push(format!("port of Location {location} is not {port}"));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::case::Via;

    fn complaints(case: serde_json::Value, saw: &Saw) -> Vec<String> {
        let case: MeshCase = serde_json::from_value(case).expect("a case");
        let sent = Call {
            via: Via::Http,
            to: "echo".to_owned(),
            port: 80,
            authority: "echo".to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
        };
        compare(&case, &sent, saw)
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn status_pod_and_headers_are_compared() {
        let saw = Saw {
            status: 200,
            pod: "echo-v1-h-s".to_owned(),
            path: "/one".to_owned(),
            seen: pairs(&[("X-A", "1"), ("X-A", "2")]),
            fields: pairs(&[("x-header-set", "set")]),
        };
        let case =
            |expect: serde_json::Value| json!({"name": "n", "request": {"host": "echo", "port": 80}, "expect": expect});
        let right = json!({"status": [200], "backend": "echo-v1", "seen": {"headers": {"x-a": "1,2"}, "absent_headers": ["x-b"]},
            "response_headers": {"X-Header-Set": "set"}});
        assert_eq!(complaints(case(right), &saw), [""; 0]);
        for wrong in [
            json!({"status": [404]}),
            json!({"status": [200], "backend": "echo-v2"}),
            json!({"status": [200], "seen": {"headers": {"x-a": "1"}}}),
            json!({"status": [200], "seen": {"absent_headers": ["x-a"]}}),
            json!({"status": [200], "response_headers": {"X-Header-Set": "v1"}}),
            json!({"status": [200], "response_absent_headers": ["X-Header-Set"]}),
        ] {
            assert_eq!(complaints(case(wrong.clone()), &saw).len(), 1, "{wrong}");
        }
    }

    #[test]
    fn what_is_intended_is_compared_too() {
        let saw = |location: &str| Saw { status: 302, fields: pairs(&[("Location", location)]), ..Saw::default() };
        let case = |redirect: serde_json::Value| json!({"name": "n", "request": {"host": "echo", "port": 80}, "expect": {"status": [302]}, "intended": {"redirect": redirect}});
        let whole = json!({"scheme": "https", "host": "example.org", "path": "/x", "port": 8083});
        assert_eq!(complaints(case(whole.clone()), &saw("https://example.org:8083/x")), [""; 0]);
        assert_eq!(complaints(case(whole), &saw("http://echo/y")).len(), 4);
        assert_eq!(complaints(case(json!({"host": "echo"})), &saw("/y")), [""; 0]);
        assert_eq!(complaints(case(json!({})), &saw("")).len(), 1);
    }
}
