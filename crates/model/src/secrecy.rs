//! What a finding must not repeat: the values of Secrets, what was written in place of a reference to one, keys in place of their hashes, and
//! users, queries and fragments of URLs.
//!
//! Findings are printed, logged and sent to others, where the line, the column and the name of the field are enough. Called by `world`, which
//! keeps such a line out of a finding, by the decoder and the formats, which quote values (`quote`, `ticked`), and by whoever quotes a URL. The rules
//! are broad on purpose: a line that is not shown costs a look into the file.

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
    let (field, lower) = (&invalid.field, line.to_ascii_lowercase());
    let is_named = takes_secret(field) || is_of_header(field) || field.contains(".remove");
    // A finding about a whole match points at the line with its headers.
    if is_named || line_is_secret(line) || tests_header(&lower, &lower) {
        return true;
    }
    match &invalid.object {
        Some(object) if holds_secrets(object) => true,
        Some(object) if !matches!(&*invalid.field, "kind" | "apiVersion") => {
            invalid.is_misshapen && !PLAIN.contains(&&*object.kind)
        }
        _ => {
            let text = document(index, lines).to_ascii_lowercase();
            invalid.is_misshapen || document_is_secret(&text) || may_be_of_header(&lower, &text)
        }
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

/// Whether a field, by its path, is a part of a header or of the query, the value of which may be a credential.
fn is_of_header(field: &str) -> bool {
    let lists = [".headers", ".set", ".add", ".queryParams"];
    let is_in = |list: &&str| {
        field.match_indices(list).any(|(at, _)| matches!(field.as_bytes().get(at + list.len()), None | Some(b'[')))
    };
    lists.iter().any(is_in) || field.contains("HeaderModifier")
}

/// The same for a line of a document that could not be read, both in lower case: there is no path of a field then. What gives headers their values
/// gives them in every line.
fn may_be_of_header(line: &str, document: &str) -> bool {
    ["headermodifier", "headerpolicy"].iter().any(|word| document.contains(word)) || tests_header(line, document)
}

/// Whether a line has a field that is called like `value` in it, and something around it is about headers or the query; both in lower case.
fn tests_header(line: &str, around: &str) -> bool {
    ["headers", "queryparams"].iter().any(|word| around.contains(word))
        && ["val", "vla", "vau"].iter().any(|begin| line.contains(begin))
}

/// Whether the value seems to be written with the name of a header field, which is not repeated then.
pub fn has_value(name: &str) -> bool {
    let ends = |char: char| matches!(char, ':' | '=') || char.is_whitespace();
    name.split_once(ends).is_some_and(|(_, rest)| rest.contains(|char: char| char.is_ascii_alphanumeric()))
}

/// Whether a text may be a credential by itself, wherever it is written: it is not repeated.
pub fn may_be_credential(text: &str) -> bool {
    line_is_secret(text)
}

fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "auth"
        || name.ends_with("key")
        || name.ends_with("keys")
        || SECRET_NAMES.iter().any(|word| name.contains(word))
}

/// Whether a line has a field that takes a credential, or looks as if it had one.
fn line_is_secret(line: &str) -> bool {
    // A user before a host (RFC 3986 section 3.2.1), also where the URL is none.
    if line.contains('@') || line.contains("-----BEGIN") {
        return true;
    }
    let has_query = line.split("://").skip(1).any(|rest| rest.contains(['?', '#']))
        || line.split_once('?').is_some_and(|(_, query)| query.contains('='));
    let mut rest = line;
    let mut field = "";
    while let Some((before, word, behind)) = next_word(rest) {
        let value = behind.trim_start_matches(['"', '\'', ' ', '\t']).strip_prefix(':');
        // A list of what a limit counts by, which is called a key, too.
        let counts_by = word == "key" && value.is_some_and(|value| value.trim_start().starts_with('['));
        let is_named_so = value.is_some() && names_secret(word) && !counts_by;
        // What tells certificates apart is no secret.
        let is_print = field.eq_ignore_ascii_case("fingerprint");
        if is_named_so || names_credentials(word, value, behind) || is_random(before, word) && !is_print {
            return true;
        }
        if value.is_some() {
            field = word;
        }
        rest = behind;
    }
    has_query || has_random_base64(line)
}

/// What stands before the next word of a text, the word, and what stands behind it.
fn next_word(text: &str) -> Option<(&str, &str, &str)> {
    let is_part = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_');
    let (before, from) = text.split_at(text.find(is_part)?);
    let (word, behind) = from.split_at(from.find(|char| !is_part(char)).unwrap_or(from.len()));
    Some((before, word, behind))
}

/// Whether a word of a line says that credentials of HTTP, or the values of headers, are beside it; `value` is what stands behind it if it is a field.
/// The word alone is none, as where a field, a kind of sessions or a scheme of a policy is named.
fn names_credentials(word: &str, value: Option<&str>, behind: &str) -> bool {
    let says = |text: &str| text.contains(|char: char| char.is_ascii_alphanumeric());
    let is_before_word =
        behind.starts_with([' ', '\t']) && behind.trim_start().starts_with(|char: char| char.is_ascii_alphanumeric());
    match &*word.to_ascii_lowercase() {
        "bearer" => is_before_word || value.is_some_and(says),
        "basic" | "digest" | "negotiate" => value.is_none() && is_before_word,
        "authorization" | "cookie" => match value {
            Some(value) => says(value),
            // `{name: Authorization, value: ...}`
            None => behind.contains(':') && behind.to_ascii_lowercase().contains("va"),
        },
        "requestheadermodifier" | "responseheadermodifier" => {
            behind.split_once(':').is_some_and(|(_, value)| says(value))
        }
        _ => false,
    }
}

/// Whether a word looks as if chance had made it, as keys and tokens do: long, with digits and letters of both cases; with nothing but hexadecimal
/// digits, as UUIDs are; or with letters and digits that take turns. UUIDs stand in the paths of URLs, too, where they name whose service it is.
fn is_random(before: &str, word: &str) -> bool {
    const LEAST: usize = 24;
    const TURNS: usize = 6;
    let has = |of: fn(&u8) -> bool| word.bytes().any(|byte| of(&byte));
    if word.len() < LEAST || !has(u8::is_ascii_digit) || !has(u8::is_ascii_alphabetic) {
        return false;
    }
    if before.ends_with('/') && word.split('-').map(str::len).eq([8, 4, 4, 4, 12]) {
        return false;
    }
    let digits = || word.bytes().filter(|byte| *byte != b'-');
    let turns = |part: &str| {
        let pairs = part.as_bytes().windows(2);
        pairs.filter(|pair| matches!(pair, [one, other] if one.is_ascii_digit() != other.is_ascii_digit())).count()
    };
    has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase)
        || digits().count() >= LEAST && digits().all(|byte| byte.is_ascii_hexdigit())
        || word.split(['-', '_']).any(|part| part.len() >= LEAST && turns(part) >= TURNS)
}

/// Whether a text has a word of base64 in it that looks as if chance had made it, and that `/` or `+` would tear apart. What begins with `/` is a path.
fn has_random_base64(text: &str) -> bool {
    const LEAST: usize = 40;
    let is_part = |char: char| char.is_ascii_alphanumeric() || matches!(char, '/' | '+');
    text.split(|char| !is_part(char)).any(|word| {
        let has = |of: fn(&u8) -> bool| word.bytes().any(|byte| of(&byte));
        word.len() >= LEAST
            && !word.starts_with('/')
            && has(u8::is_ascii_digit)
            && has(u8::is_ascii_lowercase)
            && has(u8::is_ascii_uppercase)
    })
}

/// A text in which `(hidden)` stands in place of words that look as if chance had made them. Those that stand in `known`, too, are shown.
pub fn without_random(text: &str, known: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, word, behind)) = next_word(rest) {
        out.push_str(before);
        out.push_str(if is_random(before, word) && !known.contains(word) { "(hidden)" } else { word });
        rest = behind;
    }
    out.push_str(rest);
    out
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
    // Where a border was forgotten, one document says it more than once.
    let mut outer = kinds.iter().filter(|(is_outer, _)| *is_outer).peekable();
    let says_what_it_is = outer.peek().is_some() && outer.all(|(_, kind)| is_plain(kind));
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

/// A URL in backticks, as it may be shown; it is not repeated where it looks as if it were a credential itself.
pub fn ticked_url(url: &str) -> String {
    let shown = plain_url(url);
    if has_random_base64(&shown) || without_random(&shown, "") != *shown {
        return HIDDEN.to_owned();
    }
    format!("`{shown}`")
}

/// What is written in place of what may be a credential, in a sentence.
pub(crate) const HIDDEN: &str = "what is written here";

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
        let header =
            "apiVersion: transept.dev/v1alpha1\nkind: HeaderPolicy\nmetadata: {name: h}\nspec:\n  request:\n    set:\n";
        let backend = "apiVersion: transept.dev/v1alpha1\nkind: Backend\nmetadata: {name: b}\n";
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
            &format!("{header}    - name: X-Upstream\n      value: PLANTED: x\n"),
            &format!("{header}    - name: X-Upstream\n     value: PLANTED\n"),
            &format!("{header}    - name: X-Upstream\n      value: PLANTED1\n      value: PLANTED2\n"),
            &format!("{header}    - name: X-Upstream\n      value: \"PLANTED\n"),
            &format!("{header}      X-Upstream: PLANTED: x\n"),
            &format!("{route}        - name: X-Upstream\n         value: PLANTED\n"),
            &format!("{route}        - name: X-Upstream\n          value: PLANTED1\n          value: PLANTED2\n"),
            &format!("{route}          X-Upstream: PLANTED\n"),
            &format!("{rules}  - matches:\n    - headers:\n      - name: X-Upstream\n        vaule: PLANTED: x\n"),
            &format!("{rules}  - matches:\n    - headers:\n        X-Upstream: PLANTED\n"),
            &format!("{rules}  - matches: [{{queryParams: [{{name: token, valu: PLANTED}}]}}]\n"),
            &format!("{rules}  - matches: [{{queryParams: [{{name: token, value: [PLANTED]}}]}}]\n"),
            &format!("{backend}spec: {{endpoints: []}}\n{secret}data:\n  k: PLANTED : x: y\n"),
            &format!("{rules}  - {{}}\n{secret}data:\n  k: a\n j: PLANTED\n"),
            &format!("{backend}spec:\n  auth: PLANTED\n"),
            "{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {name: k}, spec: {plan: [PLANTED]}}",
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
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {rules: [{sessionPersistence: {type: cookie, SHOWN: a}}]}\n",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  rules:\n  - matches: [{headers: []}]\n   SHOWN: x\n",
        ] {
            let found = findings(text);
            assert!(found.iter().any(|one| one.contains("SHOWN")), "{found:?}");
        }
    }

    #[test]
    fn words_that_name_schemes_and_fields_alone_are_no_credentials() {
        for text in [
            "basic",
            "Bearer",
            "cookie",
            "Authorization",
            "requestHeaderModifier",
            "      clientAuthentication: basic",
            "  forward: [Authorization]",
            "    from: [{kinds: [bearer]}]",
            "  - sessionPersistence: {type: cookie, sessionName: a}",
            "    - type: requestHeaderModifier",
            "      issuer: https://login.test/2b4f81d4-fae7-41d0-a765-00a0c91e6bf6/v2.0",
            "      fingerprint: 057a0e2f4fc5caf1ddcad269ef4c0458b325fc97a1b8f3c5f5843cf4b40f2387",
            "gateway.networking.k8s.io/v1",
            "/Api/V1/GetUserById/OrderHistory2/Of/All/Users",
            "internationalization-of-the-shop",
        ] {
            assert!(!may_be_credential(text), "{text}");
        }
        for text in [
            "Basic cGxhbnRlZA",
            "bearer: planted",
            "Authorization: planted",
            "{name: Authorization, value: planted}",
            "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: planted}]}}",
            // openssl rand -hex 32, uuidgen, and the key of a cloud.
            "057a0e2f4fc5caf1ddcad269ef4c0458b325fc97a1b8f3c5f5843cf4b40f2387",
            "2b4f81d4-fae7-41d0-a765-00a0c91e6bf6",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        ] {
            assert!(may_be_credential(text), "{text}");
        }
    }

    #[test]
    fn what_looks_like_chance_is_left_out_of_a_text_unless_it_is_known() {
        let random = "057a0e2f4fc5caf1ddcad269ef4c0458";
        let text = format!("/hooks/{random}?x%3Dsig={random}&a=b");
        assert_eq!(without_random(&text, "/"), "/hooks/(hidden)?x%3Dsig=(hidden)&a=b");
        assert_eq!(without_random(&text, random), text);
        assert_eq!(ticked_url(&format!("https://h.test/hooks/{random}")), HIDDEN);
        assert_eq!(ticked_url("https://u:p@h.test/?k=v"), "`https://...@h.test/?...`");
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
            "spec.limits[0].key[0].headersOf",
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
