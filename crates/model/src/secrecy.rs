//! What a finding must not repeat: the values of Secrets, keys that were written in place of their hashes, and users in URLs.
//!
//! Findings are printed, logged and sent to others. Called by `world`, which keeps such a line out of a finding, and by whoever quotes a URL.

use std::borrow::Cow;

use crate::place::Invalid;

/// Whether the line that a finding points at may hold a secret. A line of a Secret is one even where the finding is of something else, or
/// of text that could not be read as objects.
pub(crate) fn is_secret(invalid: &Invalid, lines: &[&str]) -> bool {
    let Some(index) = (invalid.at.line as usize).checked_sub(1) else { return false };
    let Some(line) = lines.get(index) else { return false };
    if has_user(line) || is_of_secret(line) {
        return true;
    }
    match &invalid.object {
        Some(object) if object.kind == *"Secret" => true,
        // Who writes the key itself there, is told so.
        Some(object) => object.kind == *"ApiKey" && (invalid.field.starts_with("spec.hash") || line.contains("hash")),
        None => {
            let is_border = |line: &&str| line.starts_with("---");
            let begin =
                lines.get(..index).unwrap_or_default().iter().rposition(is_border).map_or(0, |border| border + 1);
            let document = lines.get(begin..).unwrap_or_default();
            let end = document
                .iter()
                .skip(index - begin + 1)
                .position(is_border)
                .map_or(document.len(), |border| index - begin + 1 + border);
            is_of_secret(&document.get(..end).unwrap_or_default().join("\n"))
        }
    }
}

/// Whether text looks like that of a Secret, or holds one.
fn is_of_secret(text: &str) -> bool {
    let is_noise = |char: char| matches!(char, '"' | '\'' | ' ' | '\t' | '\r');
    let plain: String = text.chars().filter(|char| !is_noise(*char)).collect();
    let says = |field: &str| {
        plain.match_indices(field).any(|(at, _)| {
            let behind = plain.get(at + field.len()..).and_then(|rest| rest.chars().next());
            behind.is_none_or(|char| matches!(char, ',' | '}' | '\n' | '#'))
        })
    };
    says("kind:Secret") && says("apiVersion:v1")
}

/// Whether text holds a URL with a user before its host (RFC 3986 section 3.2.1), which is mostly one with a password.
fn has_user(text: &str) -> bool {
    let ends = |char: char| char.is_whitespace() || matches!(char, '"' | '\'' | '`');
    text.split("://").skip(1).any(|rest| rest.split(ends).next().is_some_and(|url| url.contains('@')))
}

/// A URL as it may be shown: without what stands before its host.
pub fn without_user(url: &str) -> Cow<'_, str> {
    match url.rsplit_once('@') {
        Some((before, rest)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            let dots = if scheme.is_empty() { "..." } else { "://..." };
            Cow::Owned(format!("{scheme}{dots}@{rest}"))
        }
        None => Cow::Borrowed(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::load;
    use crate::place::SourceText;

    /// The findings of a file, as they are printed.
    fn findings(text: &str) -> Vec<String> {
        load(&[SourceText::new("a.yaml", text)], &[]).invalid.iter().map(Invalid::snippet).collect()
    }

    #[test]
    fn no_finding_repeats_a_secret() {
        for text in [
            "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringDat: {k: PLANTED}}",
            "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {k: [PLANTED]}}",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata:\n  k: \"PLANTED!!\"\n",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData:\n  k: \"PLANTED\n",
            "a: 1\n---\nkind: \"Secret\"\napiVersion: \"v1\"\nstringData:\n  k: [PLANTED\n---\nb: 1\n",
            "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {k: PLANTED: x}}",
            "{apiVersion: transept.dev/v1alpha1, kind: ApiKey, metadata: {name: k}, spec: {consumer: x, hash: tr_live_PLANTED}}",
            "{apiVersion: transept.dev/v1alpha1, kind: Backend, metadata: {name: b}, spec: {ends: 'https://u:PLANTED@b.test/'}}",
        ] {
            let found = findings(text);
            assert!(!found.is_empty(), "{text}");
            assert!(found.iter().all(|one| one.starts_with("a.yaml:") && !one.contains("PLANTED")), "{found:?}");
        }
    }

    #[test]
    fn other_lines_are_shown() {
        for text in [
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nspec: {refs: [{kind: Secret, name: SHOWN: x}]}\n",
            "apiVersion: v1\nkind: Secret\n---\na: [SHOWN: x: y\n",
            "{apiVersion: transept.dev/v1alpha1, kind: Backend, metadata: {name: b}, spec: {SHOWN: 'https://b.test/'}}",
        ] {
            let found = findings(text);
            assert!(found.iter().any(|one| one.contains("SHOWN")), "{found:?}");
        }
    }

    #[test]
    fn a_url_is_shown_without_its_user() {
        assert_eq!(without_user("redis://u:secret@store.test"), "redis://...@store.test");
        assert_eq!(without_user("https://u:a/b@c@l.test/k"), "https://...@l.test/k");
        assert_eq!(without_user("u:secret@l.test"), "...@l.test");
        assert_eq!(without_user("https://l.test/k"), "https://l.test/k");
    }
}
