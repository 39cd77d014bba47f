//! Cookies: finding ours among those of the site, and writing them (RFC 6265bis).
//!
//! All are `__Host-` cookies: a browser takes them only over a secure connection, for this very host and all of its paths, and no
//! neighbour under the same domain can plant one. What does not fit into one cookie is spread over several. Cookies of the site itself stay as
//! they are.

use transept_wire::head::{FieldId, FieldName, Request};

/// Bytes of a cookie's value. Browsers take 4,096 for name, value and attributes together.
const MOST_VALUE: usize = 3800;
/// Cookies that a session is spread over, at most. More would not pass most servers, which limit the header fields of a request.
const MOST_COOKIES: usize = 4;
/// Logins that a browser may have begun at a time, in as many tabs.
const MOST_FLOWS: usize = 8;

/// What the names of cookies with the state of a login go on with.
const FLOW: &[u8] = b".login.";

/// The cookies of one scheme.
#[derive(Clone, Debug)]
pub(crate) struct Jar {
    /// With the prefix.
    name: Box<str>,
}

/// The value of a `Set-Cookie` field. It holds a secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Written(pub(crate) Box<[u8]>);

impl std::fmt::Debug for Written {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.0.split(|byte| *byte == b'=').next().unwrap_or_default();
        write!(out, "Written({}=..)", name.escape_ascii())
    }
}

impl Jar {
    /// The cookies whose names begin with `__Host-` and `name`.
    pub(crate) fn new(name: &str) -> Jar {
        Jar { name: format!("__Host-{name}").into() }
    }

    /// The name of the first cookie.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether a cookie of this name is one of ours.
    pub(crate) fn is_ours(&self, name: &[u8]) -> bool {
        let Some(rest) = name.strip_prefix(self.name.as_bytes()) else { return false };
        match rest {
            [] => true,
            [b'.', digit @ b'1'..=b'9'] => usize::from(digit - b'0') < MOST_COOKIES,
            _ => rest.starts_with(FLOW),
        }
    }

    /// Whether a request has any of ours.
    pub(crate) fn is_there(&self, request: &Request) -> bool {
        pairs(request).any(|(name, _)| self.is_ours(name))
    }

    /// Whether a request has a session, good or not.
    pub(crate) fn has_session(&self, request: &Request) -> bool {
        pairs(request).any(|(name, _)| name == self.name.as_bytes())
    }

    /// The sealed session of a request, put together.
    pub(crate) fn session(&self, request: &Request) -> Option<Vec<u8>> {
        // The first says how many belong to it: others may be left of an earlier one.
        let [digit @ b'1'..=b'9', b'.', first @ ..] = value(request, self.name.as_bytes())? else { return None };
        let count = usize::from(digit - b'0');
        if count > MOST_COOKIES {
            return None;
        }
        let mut whole = first.to_vec();
        for number in 1..count {
            whole.extend(value(request, self.part(number).as_bytes())?);
        }
        Some(whole)
    }

    /// The sealed state of the login that `state` belongs to.
    pub(crate) fn flow<'r>(&self, request: &'r Request, state: &str) -> Option<&'r [u8]> {
        value(request, self.flow_name(state).as_bytes())
    }

    /// Writes a session for so many seconds, and takes away what an earlier one had more. None when it is too large.
    pub(crate) fn keep(&self, request: &Request, sealed: &str, seconds: u64) -> Option<Vec<Written>> {
        let parts: Vec<&[u8]> = sealed.as_bytes().chunks(MOST_VALUE).collect();
        if parts.len() > MOST_COOKIES {
            return None;
        }
        let count = parts.len();
        let prefix = |number: usize| if number == 0 { format!("{count}.").into_bytes() } else { Vec::new() };
        let line =
            |(number, part): (usize, &&[u8])| write(&self.part(number), &[&*prefix(number), part].concat(), seconds);
        let mut written: Vec<Written> = parts.iter().enumerate().map(line).collect();
        let more = (count..MOST_COOKIES).map(|number| self.part(number));
        written.extend(more.filter(|name| value(request, name.as_bytes()).is_some()).map(|name| write(&name, b"", 0)));
        Some(written)
    }

    /// Writes the state of a login. A browser that has begun too many forgets the others.
    pub(crate) fn keep_flow(&self, request: &Request, state: &str, sealed: &str, seconds: u64) -> Vec<Written> {
        let mut written = vec![write(&self.flow_name(state), sealed.as_bytes(), seconds)];
        let begun: Vec<&[u8]> = pairs(request).map(|(name, _)| name).filter(|name| self.is_flow(name)).collect();
        if begun.len() >= MOST_FLOWS {
            written.extend(begun.into_iter().filter_map(forget));
        }
        written
    }

    /// Takes away the state of one login.
    pub(crate) fn forget_flow(&self, state: &str) -> Written {
        write(&self.flow_name(state), b"", 0)
    }

    /// Takes away all of ours that the browser has shown.
    pub(crate) fn forget(&self, request: &Request) -> Vec<Written> {
        pairs(request).map(|(name, _)| name).filter(|name| self.is_ours(name)).filter_map(forget).collect()
    }

    /// Removes ours from a request, which goes on to a backend. Others stay, in their order.
    pub(crate) fn remove(&self, request: &mut Request) {
        if !self.is_there(request) {
            return;
        }
        let field = FieldName::known(FieldId::COOKIE);
        let lines: Vec<Vec<u8>> = request.fields.all(FieldId::COOKIE).map(|line| self.without_ours(line)).collect();
        request.fields.remove_id(FieldId::COOKIE);
        for line in lines.iter().filter(|line| !line.is_empty()) {
            // It is a part of a value that was one.
            let _ = request.fields.push(&field, line);
        }
    }

    fn without_ours(&self, line: &[u8]) -> Vec<u8> {
        let mut rest = Vec::with_capacity(line.len());
        let is_kept = |part: &&[u8]| !part.is_empty() && !self.is_ours(split(part).0);
        for part in line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(is_kept) {
            if !rest.is_empty() {
                rest.extend(b"; ");
            }
            rest.extend(part);
        }
        rest
    }

    fn part(&self, number: usize) -> Box<str> {
        if number == 0 { self.name.clone() } else { format!("{}.{number}", self.name).into() }
    }

    /// The begin of a state tells logins apart; that it is the right one is seen inside.
    fn flow_name(&self, state: &str) -> String {
        let begin: String =
            state.chars().take(8).filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect();
        format!("{}.login.{begin}", self.name)
    }

    fn is_flow(&self, name: &[u8]) -> bool {
        name.strip_prefix(self.name.as_bytes()).is_some_and(|rest| rest.starts_with(FLOW))
    }
}

/// The cookies of a request, in order. HTTP/2 may spread them over several fields (RFC 9113 section 8.2.3).
pub(super) fn pairs(request: &Request) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = request.fields.all(FieldId::COOKIE);
    lines
        .flat_map(|line| line.split(|byte| *byte == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|part| !part.is_empty())
        .map(split)
}

fn split(part: &[u8]) -> (&[u8], &[u8]) {
    match part.iter().position(|byte| *byte == b'=') {
        Some(at) => {
            (part.get(..at).unwrap_or_default().trim_ascii(), part.get(at + 1..).unwrap_or_default().trim_ascii())
        }
        None => (part, b""),
    }
}

fn value<'r>(request: &'r Request, name: &[u8]) -> Option<&'r [u8]> {
    pairs(request).find(|(one, _)| *one == name).map(|(_, value)| value)
}

fn write(name: &str, value: &[u8], seconds: u64) -> Written {
    let mut text = Vec::with_capacity(name.len() + value.len() + 80);
    text.extend(name.bytes());
    text.push(b'=');
    text.extend(value);
    text.extend(format!("; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={seconds}").bytes());
    Written(text.into())
}

/// Only a name that could have been written by us is taken away: a browser may send anything.
fn forget(name: &[u8]) -> Option<Written> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let name = std::str::from_utf8(name).ok()?;
    name.as_bytes().iter().all(is_plain).then(|| write(name, b"", 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(lines: &[&str]) -> Request {
        let mut request = Request::build("GET", "https", "a.test", "/").expect("a request");
        for line in lines {
            request.fields.push_bytes(b"Cookie", line.as_bytes()).expect("a field");
        }
        request
    }

    fn texts(written: &[Written]) -> Vec<String> {
        written.iter().map(|one| String::from_utf8(one.0.to_vec()).expect("text")).collect()
    }

    #[test]
    fn ours_are_removed_and_those_of_the_site_stay() {
        let jar = Jar::new("session");
        let mut request = request(&[
            "a=1; __Host-session=x;b=2 ; __Host-session.1=y",
            "__Host-session.login.abc=z",
            "__Host-sessions=of the site; c=\"q; q\"; __Host-session.x=theirs",
        ]);
        assert!(jar.is_there(&request));
        jar.remove(&mut request);
        let left: Vec<&[u8]> = request.fields.all(FieldId::COOKIE).collect();
        assert_eq!(left, [&b"a=1; b=2"[..], b"__Host-sessions=of the site; c=\"q; q\"; __Host-session.x=theirs"]);
        assert!(!jar.is_there(&request));
    }

    #[test]
    fn a_large_session_is_spread_and_put_together() {
        let jar = Jar::new("session");
        let sealed = "s".repeat(9000);
        let written = texts(&jar.keep(&request(&[]), &sealed, 60).expect("it fits"));
        assert_eq!(written.len(), 3);
        assert!(written.iter().all(|one| one.len() < 4096), "browsers take 4,096 bytes");
        assert!(written[0].ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=60"), "{}", written[0]);
        let shown: Vec<&str> = written.iter().map(|one| one.split(';').next().expect("a pair")).collect();
        assert_eq!(jar.session(&request(&[&shown.join("; ")])), Some(sealed.clone().into_bytes()));
        assert_eq!(jar.session(&request(&shown)), Some(sealed.into_bytes()), "one field each, as HTTP/2 may");
        assert_eq!(jar.keep(&request(&[]), &"s".repeat(MOST_VALUE * MOST_COOKIES + 1), 60), None);
    }

    #[test]
    fn what_an_earlier_session_had_more_is_taken_away() {
        let jar = Jar::new("session");
        let before = request(&["__Host-session=a; __Host-session.1=b; __Host-session.2=c"]);
        let written = texts(&jar.keep(&before, "short", 60).expect("it fits"));
        assert_eq!(written.len(), 3);
        assert!(written[1].starts_with("__Host-session.1=; ") && written[1].ends_with("Max-Age=0"));
        assert_eq!(texts(&jar.forget(&before)).len(), 3);
        // A part that another tab has left does no harm; one that is missing is noticed.
        assert_eq!(jar.session(&request(&["__Host-session=1.a; __Host-session.1=b"])), Some(b"a".to_vec()));
        for wrong in ["2.a", "a", "9.a", "0.a", ""] {
            assert_eq!(jar.session(&request(&[&format!("__Host-session={wrong}")])), None, "{wrong}");
        }
    }

    #[test]
    fn a_browser_that_has_begun_many_logins_forgets_them() {
        let jar = Jar::new("session");
        let line: Vec<String> = (0..8).map(|number| format!("__Host-session.login.{number}=x")).collect();
        let few = texts(&jar.keep_flow(&request(&[&line[..7].join("; ")]), "statestate", "sealed", 600));
        assert_eq!(few.len(), 1);
        assert!(few[0].starts_with("__Host-session.login.statesta=sealed; "), "{}", few[0]);
        assert_eq!(jar.keep_flow(&request(&[&line.join("; ")]), "statestate", "sealed", 600).len(), 9);
    }
}
