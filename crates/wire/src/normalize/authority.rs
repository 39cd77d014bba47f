//! Hosts and ports: `uri-host [ ":" port ]` (RFC 9110 7.2, RFC 3986 3.2.2).
//!
//! Stricter than the grammar where the grammar lets two readers disagree: a registered name holds no percent-encoding,
//! an all-numeric last label makes it an IPv4 address, which must then be one in dotted-decimal form.

use std::net::Ipv6Addr;

/// A host with an optional port, in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority<'a> {
    /// The host as written; an IPv6 address keeps its brackets.
    pub host: &'a [u8],
    /// The port; `None` when there is none, or nothing after the colon.
    pub port: Option<u16>,
}

/// Why the bytes are no authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthority {
    /// There is no host.
    #[error("the host is empty")]
    Empty,
    /// There is an `@`: user information is not part of an HTTP authority (RFC 9110 4.2.4).
    #[error("a host cannot carry user information")]
    UserInfo,
    /// A byte that cannot stand in a host.
    #[error("the host holds a character that no host can hold")]
    Host,
    /// Not an IPv6 address in brackets, or one with a zone.
    #[error("not an IPv6 address in brackets")]
    Ipv6,
    /// Looks like an IPv4 address and is none.
    #[error("not an IPv4 address in dotted-decimal form")]
    Ipv4,
    /// Longer than 255 bytes, or with an empty label or one longer than 63 bytes.
    #[error("not a domain name: a label is empty or longer than 63 characters, or the name longer than 255")]
    Label,
    /// Not a number of 0 to 65535.
    #[error("the port is not a number of 0 to 65535")]
    Port,
}

impl<'a> Authority<'a> {
    /// The host in lower case, one trailing dot off: see [`host_lower`].
    pub fn host_lower<'b>(&self, buffer: &'b mut Vec<u8>) -> &'b str
    where
        'a: 'b,
    {
        host_lower(self.host, buffer)
    }
}

/// Takes an authority apart.
///
/// # Errors
/// [`BadAuthority`] says what is wrong with it.
pub fn authority(raw: &[u8]) -> Result<Authority<'_>, BadAuthority> {
    let (host, port) = split(raw)?;
    let port = match port {
        None | Some([]) => None,
        Some(digits) => Some(parse_port(digits)?),
    };
    Ok(Authority { host, port })
}

fn split(raw: &[u8]) -> Result<(&[u8], Option<&[u8]>), BadAuthority> {
    if raw.first() == Some(&b'[') {
        let end = memchr::memchr(b']', raw).ok_or(BadAuthority::Ipv6)?;
        let (host, rest) = raw.split_at(end + 1);
        let inner = std::str::from_utf8(&host[1..end]).map_err(|_| BadAuthority::Ipv6)?;
        inner.parse::<Ipv6Addr>().map_err(|_| BadAuthority::Ipv6)?;
        return match rest {
            [] => Ok((host, None)),
            [b':', port @ ..] => Ok((host, Some(port))),
            _ => Err(BadAuthority::Host),
        };
    }
    let (host, port) = match memchr::memchr(b':', raw) {
        Some(colon) => (&raw[..colon], Some(&raw[colon + 1..])),
        None => (raw, None),
    };
    check_name(host).map_err(|why| if raw.contains(&b'@') { BadAuthority::UserInfo } else { why })?;
    Ok((host, port))
}

fn check_name(host: &[u8]) -> Result<(), BadAuthority> {
    let name = host.strip_suffix(b".").unwrap_or(host);
    if name.is_empty() {
        return Err(if host.is_empty() { BadAuthority::Empty } else { BadAuthority::Label });
    }
    let mut label = 0usize;
    let mut digits_only = true;
    for &byte in name {
        match byte {
            b'.' if label == 0 => return Err(BadAuthority::Label),
            b'.' => {
                label = 0;
                digits_only = true;
                continue;
            }
            b'0'..=b'9' => {}
            b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' => digits_only = false,
            _ => return Err(BadAuthority::Host),
        }
        label += 1;
        if label > 63 {
            return Err(BadAuthority::Label);
        }
    }
    if label == 0 || name.len() > 255 {
        return Err(BadAuthority::Label);
    }
    // `digits_only` is now that of the last label: what resolvers take for an address (WHATWG URL 3.5).
    if digits_only && !is_ipv4(name) {
        return Err(BadAuthority::Ipv4);
    }
    Ok(())
}

/// Four numbers up to 255 in decimal, without zeros in front (RFC 3986 section 3.2.2).
fn is_ipv4(name: &[u8]) -> bool {
    let mut numbers = 0;
    let are_octets = name.split(|byte| *byte == b'.').all(|digits| {
        numbers += 1;
        match *digits {
            [a] => a.is_ascii_digit(),
            [a, b] => matches!(a, b'1'..=b'9') && b.is_ascii_digit(),
            [b'1', b, c] => b.is_ascii_digit() && c.is_ascii_digit(),
            [b'2', b, c] => (matches!(b, b'0'..=b'4') && c.is_ascii_digit()) || (b == b'5' && matches!(c, b'0'..=b'5')),
            _ => false,
        }
    });
    are_octets && numbers == 4
}

fn parse_port(digits: &[u8]) -> Result<u16, BadAuthority> {
    if digits.len() > 5 {
        return Err(BadAuthority::Port);
    }
    let mut port = 0u32;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return Err(BadAuthority::Port);
        }
        port = port * 10 + u32::from(digit - b'0');
    }
    u16::try_from(port).map_err(|_| BadAuthority::Port)
}

/// A host without port in the form in which hosts are compared: lower case, one trailing dot off. Borrows the input
/// when it already is in that form, else writes into the buffer, which is cleared first. Bytes that are no text give
/// an empty host, which matches no name.
pub fn host_lower<'a>(host: &'a [u8], buffer: &'a mut Vec<u8>) -> &'a str {
    let host = match host {
        [name @ .., b'.'] if !name.is_empty() => name,
        _ => host,
    };
    let lower = if host.iter().any(u8::is_ascii_uppercase) {
        buffer.clear();
        buffer.extend(host.iter().map(u8::to_ascii_lowercase));
        buffer.as_slice()
    } else {
        host
    };
    std::str::from_utf8(lower).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_hosts_and_ports_apart() {
        let cases: [(&str, &str, Option<u16>); 10] = [
            ("example.com", "example.com", None),
            ("example.com:8080", "example.com", Some(8080)),
            ("example.com:", "example.com", None),
            ("EXAMPLE.com.", "EXAMPLE.com.", None),
            ("127.0.0.1:80", "127.0.0.1", Some(80)),
            ("[::1]", "[::1]", None),
            ("[2001:db8::7]:65535", "[2001:db8::7]", Some(65535)),
            ("a_b.internal", "a_b.internal", None),
            ("1a.2b", "1a.2b", None),
            ("localhost:0", "localhost", Some(0)),
        ];
        for (raw, host, port) in cases {
            assert_eq!(authority(raw.as_bytes()), Ok(Authority { host: host.as_bytes(), port }), "{raw}");
        }
    }

    #[test]
    fn an_ipv4_address_is_what_the_standard_library_takes_for_one() {
        let numbers = (0..=1100).map(|number| number.to_string());
        let odd = ["", "00", "01", "001", "0255", "a", "1a", "-1", "+1", " 1"].map(str::to_owned);
        for part in numbers.chain(odd) {
            for text in
                [format!("{part}.0.0.1"), format!("9.{part}.255.10"), format!("10.20.30.{part}"), format!("1.2.{part}")]
            {
                assert_eq!(is_ipv4(text.as_bytes()), text.parse::<std::net::Ipv4Addr>().is_ok(), "{text}");
            }
        }
        assert!(!is_ipv4(b"1.2.3.4.5") && !is_ipv4(b"1.2.3.4."));
    }

    #[test]
    fn refuses_what_is_no_authority() {
        let long_label = format!("{}.com", "a".repeat(64));
        let long_name = "a.".repeat(128) + "a";
        let cases: [(&str, BadAuthority); 27] = [
            ("", BadAuthority::Empty),
            (":80", BadAuthority::Empty),
            (".", BadAuthority::Label),
            ("..", BadAuthority::Label),
            ("a..b", BadAuthority::Label),
            (".a", BadAuthority::Label),
            ("a..", BadAuthority::Label),
            (&long_label, BadAuthority::Label),
            (&long_name, BadAuthority::Label),
            ("user@host", BadAuthority::UserInfo),
            ("user:pass@host", BadAuthority::Port),
            ("a b", BadAuthority::Host),
            ("a/b", BadAuthority::Host),
            ("a?b", BadAuthority::Host),
            ("a#b", BadAuthority::Host),
            ("a\\b", BadAuthority::Host),
            ("a,b", BadAuthority::Host),
            ("a%2eb", BadAuthority::Host),
            ("é.com", BadAuthority::Host),
            ("1.2.3", BadAuthority::Ipv4),
            ("1.2.3.256", BadAuthority::Ipv4),
            ("2130706433", BadAuthority::Ipv4),
            ("a:65536", BadAuthority::Port),
            ("a:+1", BadAuthority::Port),
            ("a:1:2", BadAuthority::Port),
            ("[::1", BadAuthority::Ipv6),
            ("[fe80::1%25eth0]", BadAuthority::Ipv6),
        ];
        for (raw, why) in cases {
            assert_eq!(authority(raw.as_bytes()), Err(why), "{raw}");
        }
        assert_eq!(authority(b"[::1]x"), Err(BadAuthority::Host));
        assert_eq!(authority(b"a:000080"), Err(BadAuthority::Port));
    }

    #[test]
    fn hosts_compare_in_lower_case_without_the_root_dot() {
        let mut buffer = Vec::new();
        assert_eq!(host_lower(b"Example.COM.", &mut buffer), "example.com");
        assert_eq!(host_lower(b"example.com", &mut buffer), "example.com");
        assert_eq!(host_lower(b"example.com..", &mut buffer), "example.com.");
        assert_eq!(host_lower(b"[::ABCD]", &mut buffer), "[::abcd]");
        assert_eq!(host_lower(b"\xff", &mut buffer), "");
    }
}
