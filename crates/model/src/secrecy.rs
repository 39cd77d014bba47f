//! What a finding must not repeat: the values of Secrets, what was written in place of a reference to one, keys in place of their hashes, and
//! users, queries and fragments of URLs.
//!
//! Findings are printed, logged and sent to others, where the line, the column and the name of the field are enough. Called by `world`, which
//! keeps such a line out of a finding, by the decoder and the formats, which quote values, and by whoever quotes a URL. The rules are broad on
//! purpose: a line that is not shown costs a look into the file.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use crate::place::{Invalid, ObjectName, Place, SourceText};

/// The kinds in which what is misshapen is no secret in a wrong place. Others may hold or name credentials.
const PLAIN: &[&str] = &[
    "Backend",
    "BackendTLSPolicy",
    "EndpointSlice",
    "GRPCRoute",
    "Gateway",
    "GatewayClass",
    "HTTPRoute",
    "Namespace",
    "ReferenceGrant",
    "Service",
    "TCPRoute",
    "Workload",
];
/// What the name of a field that takes or refers to a credential has in it, in lower case.
const SECRET_NAMES: &[&str] = &["secr", "pass", "pwd", "pepper", "cred", "nonce", "inline", "users", "token", "hash"];
/// What the kinds of objects have in their names, in lower case, of which no line is shown: spelled right or wrong.
const SECRET_KINDS: &[&str] = &["secret", "apikey", "configmap"];

/// Whether the line that a finding points at may hold a secret. A line of a Secret is one even where the finding is of something else, or
/// of text that could not be read as objects.
pub(crate) fn is_secret(invalid: &Invalid, lines: &[&str]) -> bool {
    let Some(index) = (invalid.at.line as usize).checked_sub(1) else { return false };
    let Some(line) = lines.get(index) else { return false };
    if line_is_secret(line) || takes_secret(&invalid.field) || is_of_header(&invalid.field) {
        return true;
    }
    match &invalid.object {
        Some(object) if holds_secrets(object) => true,
        Some(object) if !matches!(&*invalid.field, "kind" | "apiVersion") => {
            invalid.is_misshapen && !PLAIN.contains(&&*object.kind)
        }
        _ => invalid.is_misshapen || document_is_secret(&document(index, lines).to_ascii_lowercase()),
    }
}

/// The lines with something misshapen that may be a secret. Nothing else that is found there shows them: a field may be missing, or of another
/// object, in the same line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hidden(HashSet<(Arc<str>, u32)>);

impl Hidden {
    /// Those of the files in which this was found.
    pub(crate) fn of(files: &[SourceText], invalid: &[Invalid]) -> Hidden {
        let mut hidden = HashSet::new();
        for file in files {
            let mut mine = invalid.iter().filter(|one| one.at.file == file.name).peekable();
            if mine.peek().is_some() {
                let lines: Vec<&str> = file.text.lines().collect();
                let secret = mine.filter(|one| one.is_misshapen && is_secret(one, &lines));
                hidden.extend(secret.map(|one| (Arc::clone(&file.name), one.at.line)));
            }
        }
        Hidden(hidden)
    }

    /// Whether this place is in one of them.
    pub(crate) fn contains(&self, at: &Place) -> bool {
        !self.0.is_empty() && self.0.contains(&(Arc::clone(&at.file), at.line))
    }
}

/// Whether all that is in an object may be secret.
pub(crate) fn holds_secrets(object: &ObjectName) -> bool {
    let kind = object.kind.to_ascii_lowercase();
    SECRET_KINDS.iter().any(|secret| kind.contains(secret))
}

/// Whether a field, by its path, takes a credential or refers to one.
pub(crate) fn takes_secret(field: &str) -> bool {
    // What a limit counts by is called a key, too.
    let counts_by = (["limits[", "quotas["].iter().any(|list| field.contains(list))) && !field.contains("store");
    let names_one = |part: &str| names_secret(part) && !(counts_by && part == "key");
    field.split(['.', '[', ']']).any(names_one) || field.ends_with(".url")
        // Whatever was written in place of a value, too.
        || is_of_header(field) && !field.ends_with(".name")
}

/// Whether a field, by its path, is a part of a header, the value of which may be a credential.
fn is_of_header(field: &str) -> bool {
    [".headers[", ".set[", ".add["].iter().any(|list| field.contains(list)) || field.contains("HeaderModifier")
}

/// Whether a text may be a credential by itself, wherever it is written: it is not repeated.
pub(crate) fn may_be_credential(text: &str) -> bool {
    line_is_secret(text)
}

fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with("key") || name.ends_with("keys") || SECRET_NAMES.iter().any(|word| name.contains(word))
}

/// Whether a line has a field that takes a credential, or looks as if it had one.
fn line_is_secret(line: &str) -> bool {
    // A user before a host (RFC 3986 section 3.2.1), also where the URL is none.
    if line.contains('@') || line.contains("-----BEGIN") {
        return true;
    }
    let has_query = line.split("://").skip(1).any(|rest| rest.contains(['?', '#']))
        || line.split_once('?').is_some_and(|(_, query)| query.contains('='));
    let is_part = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_');
    let mut rest = line;
    while let Some(begin) = rest.find(is_part) {
        let from = rest.get(begin..).unwrap_or_default();
        let (word, behind) = from.split_at(from.find(|char| !is_part(char)).unwrap_or(from.len()));
        let value = behind.trim_start_matches(['"', '\'', ' ', '\t']).strip_prefix(':');
        // A list of what a limit counts by, which is called a key, too.
        let counts_by = word == "key" && value.is_some_and(|value| value.trim_start().starts_with('['));
        let is_named_so = value.is_some() && names_secret(word) && !counts_by;
        if is_named_so || names_credentials(word, value.is_some()) || is_random(word) {
            return true;
        }
        rest = behind;
    }
    has_query
}

/// Whether a word of a line says that credentials of HTTP, or the values of headers, are beside it. A scheme of a policy is called `basic`, too.
fn names_credentials(word: &str, is_field: bool) -> bool {
    match &*word.to_ascii_lowercase() {
        "authorization" | "bearer" | "cookie" | "requestheadermodifier" | "responseheadermodifier" => true,
        "basic" | "digest" | "negotiate" => !is_field,
        _ => false,
    }
}

/// Whether a word looks as if chance had made it, as keys and tokens do: long, with digits and letters of both cases.
fn is_random(word: &str) -> bool {
    const LEAST: usize = 24;
    let has = |of: fn(&u8) -> bool| word.bytes().any(|byte| of(&byte));
    word.len() >= LEAST && has(u8::is_ascii_digit) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase)
}

/// The text of the document that a line is in.
fn document(index: usize, lines: &[&str]) -> String {
    // What a private key begins and ends with is no border.
    let is_border = |line: &&str| line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
    let begin = lines.get(..index).unwrap_or_default().iter().rposition(is_border).map_or(0, |border| border + 1);
    let rest = lines.get(index + 1..).unwrap_or_default();
    let end = rest.iter().position(is_border).map_or(lines.len(), |border| index + 1 + border);
    lines.get(begin..end).unwrap_or_default().join("\n")
}

/// Whether a document, in lower case, looks like one of which no line is shown, however its kind is written: with quotes, an anchor or a tag, on a
/// line of its own, in a list. In other objects, which say at the beginning of a line what they are, a reference may name such a kind.
fn document_is_secret(text: &str) -> bool {
    let mut kinds = Vec::new();
    for (at, _) in text.match_indices("kind") {
        let is_outer = text.get(..at).is_some_and(|before| before.is_empty() || before.ends_with('\n'));
        let behind = text.get(at + "kind".len()..).unwrap_or_default().trim_start_matches(['"', '\'']).trim_start();
        let Some(value) = behind.strip_prefix(':') else { continue };
        let value = value.trim_start();
        let end = value.find([',', '}', '\n']).unwrap_or(value.len());
        kinds.push((is_outer, value.get(..end).unwrap_or_default()));
    }
    let is_plain = |kind: &str| PLAIN.iter().any(|plain| plain.eq_ignore_ascii_case(kind.trim_end()));
    let says_what_it_is = kinds.iter().any(|(is_outer, kind)| *is_outer && is_plain(kind));
    let names = |kind: &str| ["authentication", "consumer"].iter().chain(SECRET_KINDS).any(|name| kind.contains(name));
    text.contains("stringdata") || !says_what_it_is && kinds.iter().any(|(_, kind)| names(kind))
}

/// A URL as it may be shown: without what stands before its host, and without its query and fragment.
pub fn plain_url(url: &str) -> Cow<'_, str> {
    let (before, rest) = match url.rsplit_once('@') {
        Some((before, rest)) => (before.split_once("://").map_or("...@", |_| "://...@"), rest),
        None => ("", url),
    };
    let scheme = if before.starts_with(':') { url.split("://").next().unwrap_or_default() } else { "" };
    match (before, rest.find(['?', '#'])) {
        ("", None) => Cow::Borrowed(url),
        (_, None) => Cow::Owned(format!("{scheme}{before}{rest}")),
        (_, Some(end)) => Cow::Owned(format!("{scheme}{before}{}...", rest.get(..=end).unwrap_or_default())),
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
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
        let key = "apiVersion: transept.dev/v1alpha1\nkind: ApiKey\nmetadata: {name: k}\nspec:\n  consumer: x\n";
        let hosts =
            "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r}, spec: {hostnames: ";
        let policy = "apiVersion: transept.dev/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {name: a}\nspec:\n";
        let rules = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  rules:\n";
        let route = format!(
            "{rules}  - filters:\n    - type: RequestHeaderModifier\n      requestHeaderModifier:\n        set:\n"
        );
        for text in [
            &format!("{secret}stringDat: {{k: PLANTED}}\n"),
            &format!("{secret}data: PLANTED\n"),
            &format!("{secret}data:\n  k: \"PLANTED!!\"\n"),
            &format!("{secret}stringData: {{k: [PLANTED]}}\n"),
            &format!("{secret}stringData:\n  k: \"PLANTED\n"),
            &format!("{secret}stringData:\n  k: \"\n---PLANTED: [\n"),
            &format!(
                "{secret}stringData:\n  k: |\n-----BEGIN PRIVATE KEY-----\nPLANTED: x: y\n-----END PRIVATE KEY-----\n"
            ),
            &format!("{secret}stringData:\n  k: PLANTED1\n  k: PLANTED2\n"),
            "a: 1\n---\nkind: \"Secret\"\napiVersion: \"v1\"\nstringData:\n  k: [PLANTED\n---\nb: 1\n",
            "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {k: PLANTED: x}}",
            "kind: Secret\nmetadata: {name: s}\ndata:\n  k: PLANTED: x\n",
            "{kind: Secret, metadata: {name: s}, data: {k: PLANTED}}",
            "{apiVersion: v1beta1, kind: Secret, metadata: {name: s}, data: {k: PLANTED}}",
            "apiVersion: v1\nkind: secret\ndata:\n  k: PLANTED: x\n",
            "{apiVersion: v1, kind: Secrets, metadata: {name: s}, data: {k: PLANTED}}",
            "apiVersion: v1\nkind: !!str Secret\ndata:\n  k: PLANTED: x\n",
            "apiVersion: v1\nkind: &a 'Secret'\ndata:\n  k: PLANTED: x\n",
            "apiVersion: v1\nkind:\n  Secret\ndata:\n  k: PLANTED: x\n",
            "apiVersion: v1\nkind: SecretList\nitems:\n- data:\n    k: PLANTED: x\n",
            "apiVersion: v1\nkind: List\nitems:\n- kind: Secret\n  data:\n    k: PLANTED: x\n",
            "{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\n\"data\":{\"k\":\"PLANTED\"\n",
            &format!("{key}  hash: tr_live_PLANTED\n"),
            &format!("{key}  hash:\n  - tr_live_PLANTED\n"),
            &format!("{key}  hash: tr_live_PLANTED: x\n"),
            &format!("{key}  hash: tr_live_PLANTED1\n  hash: tr_live_PLANTED2\n"),
            &format!("{key}  hahs: tr_live_PLANTED\n"),
            &key.replace("spec:\n  consumer: x\n", "spec: {tr_live_PLANTED}\n"),
            &format!("{key}  key: tr_live_PLANTED\n"),
            &format!("{key}  scopes: [tr_live_PLANTED: x]\n"),
            "{apiVersion: transept.dev/v1alpha1, kind: ApiKeys, metadata: {name: k}, spec: {hahs: tr_live_PLANTED}}",
            "{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {name: k}, spec: {passwd: PLANTED}}",
            "{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {name: k}, spec: {login: PLANTED}}",
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {k: {PLANTED: 1}}}",
            "{apiVersion: transept.dev/v1alpha1, kind: Backend, metadata: {name: b}, spec: {ends: 'https://u:PLANTED@b.test/'}}",
            "{apiVersion: transept.dev/v1alpha1, kind: Backend, metadata: {name: b}, spec: {ends: 'u:PLANTED@b.test'}}",
            "{apiVersion: transept.dev/v1alpha1, kind: Backend, metadata: {name: b}, spec: {ends: 'https://b.test/?k=PLANTED'}}",
            "{apiVersion: transept.dev/v1alpha1, kind: Backend, metadata: {name: b}, spec: {ends: 'https://b.test/#PLANTED'}}",
            &format!("{policy}  schemes: [{{name: s, basic: PLANTED}}]\n"),
            &format!("{policy}  schemes: PLANTED\n"),
            &format!("{policy}  schemes: [{{name: s, jwt: {{issuers: PLANTED}}}}]\n"),
            &format!("{route}        - {{name: x-api, vaule: PLANTED}}\n"),
            &format!("{route}        - {{name: x-api, PLANTED}}\n"),
            &format!("{route}        - {{name: 'not a name', value: PLANTED}}\n"),
            &format!("{route}        - PLANTED\n"),
            &format!("{route}        - {{name: a, value: Basic PLANTED: x}}\n"),
            &format!("{rules}  - matches: [{{headers: [{{name: x-api, vaule: PLANTED}}]}}]\n"),
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  k: PLANTED: x\n",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  k: \"PLANTED\n",
            &format!("{hosts}[a.test, 'u:PLANTED@b.test']}}}}"),
            &format!("{hosts}['Bearer PLANTED']}}}}"),
            &format!("{hosts}['b.test/x?token=PLANTED']}}}}"),
            &format!("{hosts}[tr_live_9PLANTEDxx8Zq2LrWmKd4]}}}}"),
            "PLANTED",
            "- PLANTED",
        ] {
            let found = findings(text);
            assert!(!found.is_empty(), "{text}");
            assert!(
                found.iter().all(|one| one.starts_with("a.yaml:") && !one.contains("PLANTED")),
                "{text}\n{found:#?}"
            );
        }
    }

    #[test]
    fn other_lines_are_shown() {
        for text in [
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nspec: {refs: [{kind: Secret, name: SHOWN: x}]}\n",
            "apiVersion: v1\nkind: Secret\n---\na: [SHOWN: x: y\n",
            "{apiVersion: transept.dev/v1alpha1, kind: Backend, metadata: {name: b}, spec: {SHOWN: 'https://b.test/'}}",
            "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: b}, spec: {SHOWN: {key: [x]}}}",
        ] {
            let found = findings(text);
            assert!(found.iter().any(|one| one.contains("SHOWN")), "{found:?}");
        }
    }

    #[test]
    fn fields_that_take_or_name_a_credential_are_known() {
        for field in
            ["spec.schemes[0].hmac.keys[0].secret", "spec.schemes[0].hmac.keys[0]", "spec.store.passwordSecret"]
        {
            assert!(takes_secret(field), "{field}");
        }
        for field in [
            "spec.quotas[0].key[0]",
            "spec.limits[0].key[1].header",
            "spec.limits[0].key",
            "spec.rules[0].matches[0].path.value",
            "spec.rules[0].matches[0].headers[0].name",
        ] {
            assert!(!takes_secret(field), "{field}");
        }
    }

    #[test]
    fn a_url_is_shown_without_its_user_and_its_query() {
        assert_eq!(plain_url("redis://u:secret@store.test"), "redis://...@store.test");
        assert_eq!(plain_url("https://u:a/b@c@l.test/k"), "https://...@l.test/k");
        assert_eq!(plain_url("https://u:a?b@l.test/k?token=x"), "https://...@l.test/k?...");
        assert_eq!(plain_url("u:secret@l.test"), "...@l.test");
        assert_eq!(plain_url("https://l.test/k?token=x"), "https://l.test/k?...");
        assert_eq!(plain_url("https://l.test/k#token=x?y"), "https://l.test/k#...");
        assert_eq!(plain_url("https://l.test/k"), "https://l.test/k");
    }
}
