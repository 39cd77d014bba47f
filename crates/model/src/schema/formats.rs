//! The formats of text that Gateway API and Kubernetes define: names, host names, header names, paths, durations.
//!
//! Used by field rules. Each format is a hand-written test plus the pattern that Gateway API publishes (with its forgotten
//! anchors put right), which goes into JSON Schema; a unit test holds the two together. What a name refers to is not checked here.

use std::fmt::Write as _;
use std::time::Duration;

use crate::place::Spot;
use crate::schema::{Decoder, rules};
use crate::secrecy::{HIDDEN, has_value};
use crate::value::quote;

/// A format of text.
#[derive(Debug)]
pub struct Format {
    /// What such a text is called, with its article: `a host name`.
    pub what: &'static str,
    /// Least length in characters.
    pub least: usize,
    /// Greatest length in characters.
    pub most: usize,
    /// The regular expression that Gateway API publishes for it.
    pub pattern: &'static str,
    /// How such a text is written, for the remedy.
    pub hint: &'static str,
    /// The test.
    pub accept: fn(&str) -> bool,
}

impl Format {
    /// Writes into `cx` how `text` breaks the format.
    pub(crate) fn check(&self, text: &str, at: Spot, cx: &mut Decoder) {
        if !rules::length(text, self.least, self.most, at, cx) || (self.accept)(text) {
            return;
        }
        let is_hidden = cx.reads_secret() || std::ptr::eq(self, &HEADER_NAME) && has_value(text);
        let shown = if is_hidden { HIDDEN.to_owned() } else { quote(text) };
        let invalid = cx.refuse(at, format!("{shown} is not {}", self.what));
        invalid.is_misshapen = is_hidden;
        if !self.hint.is_empty() {
            invalid.remedy(self.hint);
        }
    }
}

/// A DNS name, or one with `*.` in front (Gateway API `Hostname`).
pub static HOSTNAME: Format = Format {
    what: "a host name",
    least: 1,
    most: 253,
    pattern: r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    hint: "lower-case letters, digits, `-` and `.`; `*.` only in front; no port and no scheme",
    accept: |text| subdomain(text.strip_prefix("*.").unwrap_or(text)),
};

/// A DNS name without wildcard (`PreciseHostname`).
pub static PRECISE_HOSTNAME: Format = Format {
    what: "a host name without wildcard",
    least: 1,
    most: 253,
    pattern: r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    hint: "lower-case letters, digits, `-` and `.`; no port, no scheme, no `*`",
    accept: subdomain,
};

/// An API group; the empty text is the core group.
pub static GROUP: Format = Format {
    what: "an API group",
    least: 0,
    most: 253,
    pattern: r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    hint: "a DNS name such as gateway.networking.k8s.io, without a version, or \"\" for Service, Secret and ConfigMap",
    accept: |text| text.is_empty() || subdomain(text),
};

/// A kind of object.
pub static KIND: Format = Format {
    what: "a kind",
    least: 1,
    most: 63,
    pattern: r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$",
    hint: "letters and digits, such as HTTPRoute",
    accept: |text| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    },
};

/// The name of an object.
pub static RESOURCE_NAME: Format = Format {
    what: "a name",
    least: 1,
    most: 253,
    pattern: r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    hint: "lower-case letters, digits, `-` and `.`",
    accept: subdomain,
};

/// The name of an object that is referred to.
pub static OBJECT_NAME: Format =
    Format { what: "a name", least: 1, most: 253, pattern: "", hint: "", accept: |_| true };

/// A namespace.
pub static NAMESPACE: Format = Format {
    what: "a namespace",
    least: 1,
    most: 63,
    pattern: r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
    hint: "lower-case letters, digits and `-`",
    accept: label,
};

/// The name of a listener, a rule or a port.
pub static SECTION_NAME: Format = Format {
    what: "a section name",
    least: 1,
    most: 253,
    pattern: r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    hint: "lower-case letters, digits, `-` and `.`",
    accept: subdomain,
};

/// The name of a controller: a domain and a path.
pub static CONTROLLER: Format = Format {
    what: "a controller name",
    least: 1,
    most: 253,
    pattern: r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$",
    hint: "a domain and a path, such as transept.dev/gateway",
    accept: domain_path,
};

/// The key of an annotation or a label: an optional domain and `/`, and a name.
pub static ANNOTATION_KEY: Format = Format {
    what: "a key",
    least: 1,
    most: 253,
    pattern: r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$",
    hint: "a name of at most 63 letters, digits, `-`, `_` and `.`, with an optional domain in front: example.com/name",
    accept: |text| match text.split_once('/') {
        Some((domain, name)) => subdomain(domain) && qualified(name),
        None => qualified(text),
    },
};

/// The value of a label.
pub static LABEL_VALUE: Format = Format {
    what: "a label value",
    least: 0,
    most: 63,
    pattern: r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$",
    hint: "at most 63 letters, digits, `-`, `_` and `.`",
    accept: |text| text.is_empty() || qualified(text),
};

/// The type of a Gateway's address.
pub static ADDRESS_TYPE: Format = Format {
    what: "an address type",
    least: 1,
    most: 253,
    pattern: r"^(Hostname|IPAddress|NamedAddress|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+)$",
    hint: "IPAddress, Hostname, or a domain and a path such as example.com/pool",
    accept: |text| matches!(text, "Hostname" | "IPAddress" | "NamedAddress") || domain_path(text),
};

/// The protocol of a listener.
pub static PROTOCOL: Format = Format {
    what: "a protocol",
    least: 1,
    most: 255,
    pattern: r"^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9]+$",
    hint: "HTTP or HTTPS",
    accept: |text| {
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        let last = text.rsplit('/').next().unwrap_or_default();
        plain
            || (domain_path(text) && text.matches('/').count() == 1 && last.bytes().all(|b| b.is_ascii_alphanumeric()))
    },
};

/// The name of a header or of a query parameter.
pub static HEADER_NAME: Format = Format {
    what: "a header name",
    least: 1,
    most: 256,
    pattern: r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$",
    hint: "letters, digits and `-`; no spaces and no `:`",
    accept: |text| text.bytes().all(is_token),
};

/// The value of a header: printable ASCII, words separated by single spaces or tabs.
pub static HEADER_VALUE: Format = Format {
    what: "a header value",
    least: 1,
    most: 4096,
    pattern: r"^[!-~]+([\t ]?[!-~]+)*$",
    hint: "printable ASCII without spaces at the ends and without two spaces in a row",
    accept: |text| {
        let blank = |b: u8| b == b' ' || b == b'\t';
        let bytes = text.as_bytes();
        bytes.iter().all(|b| (b'!'..=b'~').contains(b) || blank(*b))
            && !bytes.first().copied().is_some_and(blank)
            && !bytes.last().copied().is_some_and(blank)
            && !bytes.windows(2).any(|pair| blank(pair[0]) && blank(pair[1]))
    },
};

/// The characters of a path (RFC 3986 `pchar` and `/`).
pub static PATH_CHARACTERS: Format = Format {
    what: "a path",
    least: 0,
    most: 1024,
    pattern: r"^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$",
    hint: "percent-encode other characters",
    accept: is_path,
};

/// A URI with a scheme.
pub static ABSOLUTE_URI: Format = Format {
    what: "an absolute URI",
    least: 1,
    most: 253,
    pattern: r"^(([^:/?#]+):)(//([^/?#]*))([^?#]*)(\?([^#]*))?(#(.*))?",
    hint: "with its scheme, such as spiffe://cluster.local/ns/shop/sa/cart",
    accept: |text| match text.split_once("://") {
        Some((scheme, _)) => !scheme.is_empty() && !scheme.contains([':', '/', '?', '#']),
        None => false,
    },
};

/// An origin of a CORS filter: `*`, or a scheme, a host that may begin with `*`, and an optional port.
pub static CORS_ORIGIN: Format = Format {
    what: "an origin",
    least: 1,
    most: 253,
    pattern: r"(^\*$)|(^(https?):\/\/(((\*\.)?([a-zA-Z0-9\-]+\.)*[a-zA-Z0-9-]+|\*)(:([0-9]{1,5}))?)$)",
    hint: "`*`, or a scheme, a host and an optional port without a path: https://*.example.com",
    accept: is_origin,
};

/// The full name of a gRPC service.
pub static GRPC_SERVICE: Format = Format {
    what: "a gRPC service",
    least: 0,
    most: 1024,
    pattern: r"^(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*$",
    hint: "with its package, without `/`: shop.v1.CartService",
    accept: |text| text.strip_prefix('.').unwrap_or(text).split('.').all(identifier),
};

/// The name of a gRPC method.
pub static GRPC_METHOD: Format = Format {
    what: "a gRPC method",
    least: 0,
    most: 1024,
    pattern: r"^[A-Za-z_][A-Za-z_0-9]*$",
    hint: "without the service and without `/`: AddItem",
    accept: identifier,
};

fn label(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn subdomain(text: &str) -> bool {
    text.split('.').all(label)
}

fn qualified(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 63
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn domain_path(text: &str) -> bool {
    let Some((domain, path)) = text.split_once('/') else {
        return false;
    };
    subdomain(domain)
        && !path.is_empty()
        && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b))
}

fn identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn is_path(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        let good = match b {
            b'%' => {
                let mut hex = || bytes.next().is_some_and(|b| b.is_ascii_hexdigit());
                hex() && hex()
            }
            b => b.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&b),
        };
        if !good {
            return false;
        }
    }
    !text.is_empty()
}

fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else {
        return false;
    };
    let (host, port) = match rest.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    };
    let port_good = port
        .is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    let name = |host: &str| {
        host.split('.').all(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
    };
    port_good && (host == "*" || name(host.strip_prefix("*.").unwrap_or(host)))
}

/// Reads a Gateway API duration (GEP-2257): one to four numbers of at most five digits, each with `h`, `m`, `s` or `ms`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for part in 0.. {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if part == 4 || digits == 0 || digits > 5 {
            return None;
        }
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, length) = match rest.as_bytes() {
            [b'm', b's', ..] => (Duration::from_millis(number), 2),
            [b'h', ..] => (Duration::from_secs(number * 3600), 1),
            [b'm', ..] => (Duration::from_secs(number * 60), 1),
            [b's', ..] => (Duration::from_secs(number), 1),
            _ => return None,
        };
        total += unit;
        rest = &rest[length..];
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}

/// Writes a duration as Gateway API does: `1h30m`, `500ms`, `0s`. Less than a millisecond is lost.
pub fn write_duration(duration: Duration) -> String {
    let mut out = String::new();
    let seconds = duration.as_secs();
    let parts = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (u64::from(duration.subsec_millis()), "ms"),
    ];
    for (number, unit) in parts {
        if number > 0 {
            let _ = write!(out, "{number}{unit}");
        }
    }
    if out.is_empty() {
        out.push_str("0s");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_published_patterns_agree() {
        let formats = [
            &HOSTNAME,
            &PRECISE_HOSTNAME,
            &GROUP,
            &KIND,
            &NAMESPACE,
            &SECTION_NAME,
            &CONTROLLER,
            &ANNOTATION_KEY,
            &LABEL_VALUE,
            &ADDRESS_TYPE,
            &PROTOCOL,
            &HEADER_NAME,
            &HEADER_VALUE,
            &PATH_CHARACTERS,
            &CORS_ORIGIN,
            &GRPC_SERVICE,
            &GRPC_METHOD,
        ];
        let pieces = [
            "", "a", "B", "9", "-", "_", ".", "/", "*", "*.", ":", ":80", " ", "  ", "\t", "%2F", "%zz", "#", "?",
            "a-b", "a.b", "http://", "https://", "~", "é", "\u{7f}", "@", "^", "=",
        ];
        for format in formats {
            let pattern = regex::Regex::new(format.pattern).unwrap();
            for first in pieces {
                for second in pieces {
                    for third in pieces {
                        let text = format!("{first}{second}{third}");
                        if text.chars().count() < format.least {
                            continue;
                        }
                        let accepted = (format.accept)(&text);
                        assert_eq!(accepted, pattern.is_match(&text), "{text:?} as {}", format.what);
                    }
                }
            }
        }
    }

    #[test]
    fn host_names() {
        for good in ["a", "a.b-c.d9", "*.example.com", "127.0.0.1"] {
            assert!((HOSTNAME.accept)(good), "{good}");
        }
        for bad in ["", "*", "*.", "a..b", "-a", "A.b", "a.b:80", "http://a", "a.*.b"] {
            assert!(!(HOSTNAME.accept)(bad), "{bad}");
        }
        assert!(!(PRECISE_HOSTNAME.accept)("*.a"));
    }

    #[test]
    fn durations() {
        for (text, milliseconds) in
            [("0s", 0), ("500ms", 500), ("1h30m", 5_400_000), ("1s500ms", 1_500), ("99999h", 99_999 * 3_600_000)]
        {
            let read = parse_duration(text).unwrap();
            assert_eq!(read, Duration::from_millis(milliseconds), "{text}");
            assert_eq!(parse_duration(&write_duration(read)).unwrap_or(read), read);
        }
        for bad in ["", "1", "s", "1.5s", "-1s", "1 s", "100000s", "1h1h1h1h1h", "1us", "1d"] {
            assert!(parse_duration(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn paths_and_origins() {
        assert!((PATH_CHARACTERS.accept)("/a/b%20c;d=1"));
        for bad in ["/a b", "/ä", "/%2", "/%zz", "/a?b"] {
            assert!(!(PATH_CHARACTERS.accept)(bad), "{bad}");
        }
        for good in ["*", "https://a.com", "http://*.a.com:8080", "https://*", "https://*:12345"] {
            assert!((CORS_ORIGIN.accept)(good), "{good}");
        }
        for bad in ["a.com", "ftp://a.com", "https://a.com/", "https://a.*.com", "https://a:99999"] {
            assert!(!(CORS_ORIGIN.accept)(bad), "{bad}");
        }
    }

    #[test]
    fn header_values_and_names() {
        assert!((HEADER_VALUE.accept)("a b\tc"));
        for bad in [" a", "a ", "a  b", "a\nb", "ü"] {
            assert!(!(HEADER_VALUE.accept)(bad), "{bad:?}");
        }
        assert!((HEADER_NAME.accept)("X-User_1"));
        assert!(!(HEADER_NAME.accept)(":method"));
    }
}
