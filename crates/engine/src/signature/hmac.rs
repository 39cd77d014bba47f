//! The common HMAC form of signed requests: `Authorization: hmac username="...", algorithm="...", headers="...", signature="..."`, after drafts of
//! "Signing HTTP Messages" that never became an RFC.
//!
//! Called by the scheme `hmac` of `AuthenticationPolicy`, which knows secrets and times. Read here: what is shown, strictly, and what was signed:
//! a line for each name in `headers`, `NAME: VALUE`. `@request-target` (or `(request-target)`) is the method in lower case and the
//! target, `request-line` the first line of HTTP/1.1 without a name. A name that is not there is no empty line but makes the signature no good.

use aws_lc_rs::{constant_time, digest};
use transept_wire::head::{Request, Version};

use super::{MOST_COMPONENTS, Wrong, field};
use crate::base64;

/// The longest value that is read, in bytes.
const LONGEST: usize = 8 * 1024;
/// The most parameters.
const MOST_PARAMETERS: usize = 16;

/// What a client shows. Nothing in it is to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The name of the key: `username` or `keyId`.
    pub(crate) key: String,
    /// The name of the algorithm, in lower case.
    pub(crate) algorithm: String,
    /// What was signed, by names and in their order.
    pub(crate) components: Vec<String>,
    /// The signature in its only spelling.
    pub(crate) signature: String,
}

/// The parameters in the value of an `Authorization` field that is in this form; none in one that is in another.
pub(crate) fn parameters(value: &[u8]) -> Option<&[u8]> {
    let (word, rest) = value.split_at(value.iter().position(|byte| matches!(byte, b' ' | b'\t'))?);
    // The drafts say `Signature`, and products that came after them `hmac`.
    (word.eq_ignore_ascii_case(b"hmac") || word.eq_ignore_ascii_case(b"signature")).then(|| rest.trim_ascii())
}

impl Shown {
    /// Reads the parameters.
    ///
    /// # Errors
    /// When they are not well-formed, one is there twice, or one is missing.
    pub(crate) fn read(parameters: &[u8]) -> Result<Shown, Wrong> {
        let all = auth_parameters(parameters).ok_or("its parameters are not well-formed")?;
        let find = |name: &str| all.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let key = match (find("username"), find("keyid")) {
            (Some(name), None) | (None, Some(name)) => name,
            (None, None) => return Err("it names no key (`username`)".to_owned()),
            (Some(_), Some(_)) => return Err("it names a key by `username` and by `keyId`".to_owned()),
        };
        let need = |name: &str| find(name).ok_or_else(|| format!("it has no `{name}`"));
        let components: Vec<String> = need("headers")?.split_ascii_whitespace().map(str::to_owned).collect();
        if components.is_empty() || components.len() > MOST_COMPONENTS {
            return Err(format!("it covers none, or more than {MOST_COMPONENTS} components"));
        }
        for (index, component) in components.iter().enumerate() {
            if components.iter().take(index).any(|other| other.eq_ignore_ascii_case(component)) {
                return Err("it covers a component twice".to_owned());
            }
        }
        Ok(Shown {
            key: key.to_owned(),
            algorithm: need("algorithm")?.to_ascii_lowercase(),
            components,
            signature: need("signature")?.to_owned(),
        })
    }

    /// The bytes of the signature; none when it is not strict base64.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        base64::padded(self.signature.as_bytes())
    }

    /// Whether a component is among what was signed.
    pub(crate) fn covers(&self, required: &str) -> bool {
        let is_target = |name: &str| Target::of(name).is_some();
        self.components.iter().any(|name| name.eq_ignore_ascii_case(required) || is_target(name) && is_target(required))
    }

    /// What was signed.
    ///
    /// # Errors
    /// When a component is not there.
    pub(crate) fn base(&self, request: &Request) -> Result<Vec<u8>, Wrong> {
        let mut base = Vec::with_capacity(512);
        for (index, name) in self.components.iter().enumerate() {
            if index > 0 {
                base.push(b'\n');
            }
            match Target::of(name) {
                Some(Target::Line) => {
                    let version: &[u8] = match request.version {
                        Version::Http10 => b"HTTP/1.0",
                        Version::Http11 => b"HTTP/1.1",
                        Version::Http2 => b"HTTP/2.0",
                    };
                    base.extend_from_slice(
                        &[request.method.as_bytes(), b" ", request.target(), b" ", version].concat(),
                    );
                }
                Some(Target::Named) => {
                    let method = request.method.as_bytes().to_ascii_lowercase();
                    base.extend_from_slice(&[name.as_bytes(), b": ", &method, b" ", request.target()].concat());
                }
                None => {
                    // Written as the client has written it, which for most is lower case.
                    let value = field(request, &name.to_ascii_lowercase(), &Vec::new())?;
                    base.extend_from_slice(&[name.as_bytes(), b": ", &value].concat());
                }
            }
        }
        Ok(base)
    }
}

/// A name that stands for method and target.
enum Target {
    Named,
    Line,
}

impl Target {
    fn of(name: &str) -> Option<Target> {
        if name.eq_ignore_ascii_case("request-line") {
            Some(Target::Line)
        } else if ["@request-target", "(request-target)"].iter().any(|one| name.eq_ignore_ascii_case(one)) {
            Some(Target::Named)
        } else {
            None
        }
    }
}

/// Parameters of credentials (RFC 9110 section 11.4), with their names in lower case. None when they are not well-formed or one is there twice.
fn auth_parameters(text: &[u8]) -> Option<Vec<(String, String)>> {
    if text.len() > LONGEST {
        return None;
    }
    let mut rest = text;
    let mut all: Vec<(String, String)> = Vec::new();
    loop {
        let name = token(&mut rest)?.to_ascii_lowercase();
        spaces(&mut rest);
        rest = rest.strip_prefix(b"=")?;
        spaces(&mut rest);
        let value = if rest.first() == Some(&b'"') { quoted(&mut rest)? } else { token(&mut rest)? };
        if all.len() == MOST_PARAMETERS || all.iter().any(|(known, _)| *known == name) {
            return None;
        }
        all.push((name, value));
        spaces(&mut rest);
        if rest.is_empty() {
            return Some(all);
        }
        rest = rest.strip_prefix(b",")?;
        spaces(&mut rest);
    }
}

fn spaces(rest: &mut &[u8]) {
    *rest = rest.trim_ascii_start();
}

fn token(rest: &mut &[u8]) -> Option<String> {
    let is = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let count = rest.iter().take_while(|byte| is(byte)).count();
    let (taken, after) = rest.split_at(count);
    *rest = after;
    (count > 0).then(|| String::from_utf8_lossy(taken).into_owned())
}

fn quoted(rest: &mut &[u8]) -> Option<String> {
    let mut text = String::new();
    let mut bytes = rest.iter().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => {
                *rest = rest.get(at + 1..)?;
                return Some(text);
            }
            b'\\' => match bytes.next()?.1 {
                escaped @ b' '..=b'~' => text.push(char::from(*escaped)),
                _ => return None,
            },
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => return None,
        }
    }
    None
}

/// Whether `Digest` (RFC 3230) is that of the content: every digest of a kind that is known must be, and one must be known.
pub(crate) fn is_digest_of(value: &[u8], content: &[u8]) -> bool {
    let mut known = 0;
    for one in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        let Some(at) = one.iter().position(|byte| *byte == b'=') else { return false };
        let (name, stated) = (&one[..at], &one[at + 1..]);
        let algorithm = if name.eq_ignore_ascii_case(b"sha-256") {
            &digest::SHA256
        } else if name.eq_ignore_ascii_case(b"sha-512") {
            &digest::SHA512
        } else {
            continue;
        };
        known += 1;
        let Some(stated) = base64::padded(stated) else { return false };
        if constant_time::verify_slices_are_equal(&stated, digest::digest(algorithm, content).as_ref()).is_err() {
            return false;
        }
    }
    known > 0
}

/// Reads what a client sends and builds what it would have signed: false when what is read is not read again from its usual spelling, or
/// when there is not a line for each component. What a fuzzer calls.
#[doc(hidden)]
pub fn probe(input: &[u8], request: &Request) -> bool {
    let _ = is_digest_of(input, input);
    let Some(parameters) = parameters(input) else { return true };
    let Ok(shown) = Shown::read(parameters) else { return true };
    let lines = shown.base(request).map(|base| base.split(|byte| *byte == b'\n').count());
    if lines.is_ok_and(|lines| lines != shown.components.len()) {
        return false;
    }
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let again = format!(
        r#"username="{}", algorithm="{}", headers="{}", signature="{}""#,
        escaped(&shown.key),
        escaped(&shown.algorithm),
        escaped(&shown.components.join(" ")),
        escaped(&shown.signature),
    );
    // Escapes make it longer than what was read.
    again.len() > LONGEST || Shown::read(again.as_bytes()).is_ok_and(|again| again == shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = r#"username="ann", algorithm="hmac-sha256", headers="date @request-target", signature="AAEC""#;

    fn read(text: &str) -> Result<Shown, Wrong> {
        Shown::read(text.as_bytes())
    }

    #[test]
    fn the_form_is_told_by_its_first_word() {
        assert_eq!(parameters(b"hmac  a=b "), Some(&b"a=b"[..]));
        assert_eq!(parameters(b"HMAC a=b"), Some(&b"a=b"[..]));
        assert_eq!(parameters(b"Signature a=b"), Some(&b"a=b"[..]));
        for other in [&b"Bearer a=b"[..], b"hmac", b"", b"hmacs a=b"] {
            assert_eq!(parameters(other), None);
        }
    }

    #[test]
    fn what_is_shown_is_read() {
        let shown = read(SHOWN).expect("well-formed");
        assert_eq!((&*shown.key, &*shown.algorithm), ("ann", "hmac-sha256"));
        assert_eq!(shown.components, ["date", "@request-target"]);
        assert_eq!(shown.bytes(), Some(vec![0, 1, 2]));
        let other =
            r#"keyId = "a\"n,n" ,Algorithm=HMAC-SHA256,headers="date @request-target",signature="AAEC",opaque=x"#;
        assert_eq!(read(other).expect("well-formed"), Shown { key: "a\"n,n".into(), ..shown });
    }

    #[test]
    fn what_is_ambiguous_or_not_whole_is_refused() {
        for (wrong, why) in [
            (SHOWN.replace("username=\"ann\"", "username=\"ann\", username=\"bob\""), "not well-formed"),
            (SHOWN.replace("username=\"ann\"", "username=\"ann\", USERNAME=\"bob\""), "not well-formed"),
            (SHOWN.replace("username=\"ann\"", "username=\"ann"), "not well-formed"),
            (SHOWN.replace("\"ann\",", "\"ann\""), "not well-formed"),
            (SHOWN.replace("ann", "\u{e9}"), "not well-formed"),
            (format!("{SHOWN},"), "not well-formed"),
            (format!("{SHOWN} x"), "not well-formed"),
            (String::new(), "not well-formed"),
            (format!("{SHOWN}, pad=\"{}\"", "x".repeat(LONGEST)), "not well-formed"),
            (SHOWN.replace("username", "user"), "names no key"),
            (SHOWN.replace("username=\"ann\"", "username=\"ann\", keyId=\"ann\""), "by `username` and by `keyId`"),
            (SHOWN.replace("algorithm", "a"), "has no `algorithm`"),
            (SHOWN.replace("headers", "h"), "has no `headers`"),
            (SHOWN.replace("signature", "s"), "has no `signature`"),
            (SHOWN.replace("date @request-target", " "), "covers none"),
            (SHOWN.replace("date @request-target", "date Date"), "twice"),
            (SHOWN.replace("date", &(0..64).map(|n| format!("x-{n}")).collect::<Vec<_>>().join(" ")), "more than"),
        ] {
            let said = read(&wrong).expect_err(&wrong);
            assert!(said.contains(why), "{wrong}: {said}");
        }
        assert_eq!(Shown { signature: "AAF=".into(), ..read(SHOWN).expect("well-formed") }.bytes(), None);
    }

    #[test]
    fn there_is_a_line_for_each_component() {
        let mut request = Request::build("GET", "http", "a.test:8080", "/x?y=1").expect("a request");
        for (name, value) in [("date", "d"), ("x-tag", " a "), ("x-tag", "b"), ("x-none", "")] {
            request.fields.push_bytes(name.as_bytes(), value.as_bytes()).expect("a field");
        }
        let base = |components: &str| {
            let shown = read(&SHOWN.replace("date @request-target", components)).expect("well-formed");
            shown.base(&request).map(|base| String::from_utf8(base).expect("text"))
        };
        assert_eq!(
            base("(request-target) host Date x-tag x-none"),
            Ok("(request-target): get /x?y=1\nhost: a.test:8080\nDate: d\nx-tag: a, b\nx-none: ".to_owned())
        );
        assert_eq!(base("request-line date"), Ok("GET /x?y=1 HTTP/1.1\ndate: d".to_owned()));
        assert_eq!(base("@request-target"), Ok("@request-target: get /x?y=1".to_owned()));
        assert!(base("date x-gone").is_err() && base("(created) date").is_err());
    }

    #[test]
    fn any_form_of_the_target_covers_the_target() {
        let shown = read(SHOWN).expect("well-formed");
        assert!(shown.covers("request-line") && shown.covers("(request-target)") && shown.covers("Date"));
        assert!(!shown.covers("host"));
    }

    #[test]
    fn a_digest_is_that_of_the_content() {
        let good = b"SHA-256=X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=";
        assert!(is_digest_of(good, br#"{"hello": "world"}"#));
        assert!(is_digest_of(&[&good[..], b", MD5=x"].concat(), br#"{"hello": "world"}"#));
        for wrong in [&b"MD5=x"[..], b"", b"sha-256", b"SHA-256=AA==", b"SHA-256=x"] {
            assert!(!is_digest_of(wrong, br#"{"hello": "world"}"#));
            assert!(!is_digest_of(&[&good[..], b",", wrong].concat(), b""));
        }
    }
}
