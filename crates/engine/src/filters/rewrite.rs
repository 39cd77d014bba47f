//! `URLRewrite`: another host, another path, for the backend only.
//!
//! Called by `Filters`; the path arithmetic is shared with `redirect`. The query is never touched.

use smallvec::SmallVec;
use transept_wire::head::Request;

/// A URL rewrite.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// The new host; the port goes with the old one.
    pub hostname: Option<Box<str>>,
    /// The new path.
    pub path: Option<PathChange>,
}

/// How a path changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// `ReplaceFullPath`.
    Full(Box<[u8]>),
    /// `ReplacePrefixMatch`: the part that the match covered is replaced, by whole segments.
    Prefix(Box<[u8]>),
}

impl PathChange {
    /// Writes the new path to `out`; gives how much of it stands for the old prefix.
    pub fn apply(&self, path: &[u8], prefix: usize, out: &mut SmallVec<[u8; 256]>) -> usize {
        match self {
            PathChange::Full(full) => {
                out.extend_from_slice(full);
                if out.first() != Some(&b'/') {
                    out.insert(0, b'/');
                }
                out.len()
            }
            PathChange::Prefix(replacement) => {
                let rest = path.get(prefix..).unwrap_or_default();
                let rest = rest.strip_prefix(b"/").map_or(rest, |_| rest);
                if replacement.first().is_some_and(|byte| *byte != b'/') {
                    out.push(b'/');
                }
                out.extend_from_slice(replacement);
                if rest.is_empty() {
                    if out.is_empty() {
                        out.push(b'/');
                    }
                    return trimmed(out);
                }
                // Exactly one slash between the new prefix and the rest.
                out.truncate(trimmed(out));
                let covered = out.len();
                if rest.first() != Some(&b'/') {
                    out.push(b'/');
                }
                out.extend_from_slice(rest);
                covered
            }
        }
    }
}

/// The length without trailing slashes.
fn trimmed(path: &[u8]) -> usize {
    path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1)
}

impl Rewrite {
    /// Rewrites a request; gives how much of the new path stands for the old prefix.
    pub(crate) fn apply(&self, request: &mut Request, prefix: usize) -> usize {
        if let Some(hostname) = &self.hostname {
            // Checked when it was compiled.
            let _ = request.set_authority(hostname.as_bytes());
        }
        let Some(change) = &self.path else {
            return prefix;
        };
        let mut path = SmallVec::new();
        let covered = change.apply(request.path(), prefix, &mut path);
        let _ = request.set_path(&path);
        covered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(path: &str, matched: &str, replacement: &str) -> String {
        let mut out = SmallVec::new();
        let matched = matched.trim_end_matches('/').len();
        PathChange::Prefix(replacement.as_bytes().into()).apply(path.as_bytes(), matched, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn the_table_of_the_standard() {
        for (path, matched, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/strip-prefix/three", "/strip-prefix", "/", "/three"),
            ("/anything", "/", "/v1", "/v1/anything"),
            ("/", "/", "/v1", "/v1/"),
        ] {
            assert_eq!(prefix(path, matched, replacement), expected, "{path} {matched} {replacement}");
        }
    }

    #[test]
    fn query_and_port() {
        let mut request = Request::build("GET", "http", "a.test:81", "/old/x?q=1").expect("a request");
        let rewrite =
            Rewrite { hostname: Some("b.test".into()), path: Some(PathChange::Full(b"/new".as_slice().into())) };
        assert_eq!(rewrite.apply(&mut request, 4), 4);
        assert_eq!(request.target(), b"/new?q=1");
        assert_eq!(request.authority(), b"b.test");
    }
}
