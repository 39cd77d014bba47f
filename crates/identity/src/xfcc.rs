//! The `x-forwarded-client-cert` header, and the names of all fields in which an identity may be claimed.
//!
//! Called at the inbound side after the peer was verified, and at every untrusted edge before anything else reads the
//! head. What is written here comes from a verified certificate only. Reading the header is left to the programs behind:
//! we never believe one.

use crate::spiffe::SpiffeId;
use crate::svid::Leaf;

/// The name of the header, in lower case.
pub const NAME: &str = "x-forwarded-client-cert";

/// Fields that claim an identity, in lower case: ours and those of other proxies that programs may still believe. They
/// are stripped on every untrusted edge, from heads and trailers.
pub const IDENTITY_FIELDS: &[&str] = &[
    NAME,
    "client-cert",
    "client-cert-chain",
    "l5d-client-id",
    "l5d-remote-ip",
    "ssl-client-cert",
    "ssl-client-verify",
    "ssl-client-subject-dn",
    "ssl-client-issuer-dn",
    "ssl-client-s-dn",
    "ssl-client-i-dn",
    "x-client-cert",
    "x-client-certificate",
    "x-client-dn",
    "x-client-verify",
    "x-envoy-peer-metadata",
    "x-envoy-peer-metadata-id",
    "x-forwarded-spiffe-id",
    "x-forwarded-tls-client-cert",
    "x-forwarded-tls-client-cert-info",
    "x-spiffe-id",
    "x-ssl-cert",
    "x-ssl-client-cert",
    "x-ssl-client-dn",
    "x-ssl-client-s-dn",
    "x-ssl-client-verify",
    "x-arr-clientcert",
];

/// Beginnings of such names, in lower case.
pub const IDENTITY_PREFIXES: &[&str] = &["x-amzn-mtls-", "x-consumer-", "x-transept-"];

/// Whether a field claims an identity. Case does not count, and `_` counts as `-`, since many programs see no difference.
pub fn is_identity_field(name: &[u8]) -> bool {
    let byte = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    let is = |known: &&str| name.len() == known.len() && name.iter().map(byte).eq(known.bytes());
    let begins =
        |prefix: &&str| name.get(..prefix.len()).is_some_and(|start| start.iter().map(byte).eq(prefix.bytes()));
    IDENTITY_FIELDS.iter().any(is) || IDENTITY_PREFIXES.iter().any(begins)
}

/// Writes one element: `By` (us), `Hash` (SHA-256 of the peer's leaf), `Subject`, `URI` (the peer's id) and a `DNS` for each
/// name, in this order, as Envoy writes them.
pub fn write(out: &mut String, by: &SpiffeId, peer: &Leaf) {
    push(out, "By", by.as_str());
    out.push(';');
    push(out, "Hash", &peer.fingerprint.to_string());
    // Always in quotes, so that a certificate without a subject shows as one. The text has no quote and no backslash that
    // could be taken for the beginning of one: it is escaped with digits.
    out.push_str(";Subject=\"");
    out.push_str(&peer.subject);
    out.push('"');
    out.push(';');
    push(out, "URI", peer.id.as_str());
    for name in &peer.dns_names {
        out.push(';');
        push(out, "DNS", name);
    }
}

/// The element for `peer` behind those that a trusted hop before us has written.
pub fn append(before: Option<&str>, by: &SpiffeId, peer: &Leaf) -> String {
    let mut out = before.map_or_else(String::new, |before| before.trim_matches([' ', '\t', ',']).to_owned());
    if !out.is_empty() {
        out.push(',');
    }
    write(&mut out, by, peer);
    out
}

/// A value goes into quotes when it holds a separator; a quote is escaped, and what no header value may hold is left out.
fn push(out: &mut String, key: &str, value: &str) {
    out.push_str(key);
    out.push('=');
    let quoted = value.contains([',', ';', '=', '"', '\\', ' ']);
    if quoted {
        out.push('"');
    }
    for c in value.chars().filter(|c| c.is_ascii_graphic() || *c == ' ') {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    if quoted {
        out.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fingerprint;
    use crate::svid::moment;

    fn leaf(subject: &str, dns_names: &[&str]) -> Leaf {
        Leaf {
            id: SpiffeId::parse("spiffe://mesh.local/ns/prod/sa/cli").unwrap(),
            not_before: moment(0),
            not_after: moment(1),
            fingerprint: Fingerprint::of(b"abc"),
            subject: subject.into(),
            dns_names: dns_names.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn by() -> SpiffeId {
        SpiffeId::parse("spiffe://mesh.local/ns/prod/sa/srv").unwrap()
    }

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn an_element_reads_as_envoys_does() {
        let mut out = String::new();
        write(&mut out, &by(), &leaf("", &[]));
        let expected = format!(
            "By=spiffe://mesh.local/ns/prod/sa/srv;Hash={HASH};Subject=\"\";URI=spiffe://mesh.local/ns/prod/sa/cli"
        );
        assert_eq!(out, expected);
        let mut out = String::new();
        write(&mut out, &by(), &leaf("CN=cli,O=Shop", &["cli.prod", "cli"]));
        assert!(out.contains(";Subject=\"CN=cli,O=Shop\";URI="), "{out}");
        assert!(out.ends_with(";DNS=cli.prod;DNS=cli"), "{out}");
    }

    #[test]
    fn a_name_cannot_break_out_of_its_value() {
        for (name, written) in [
            ("a;URI=spiffe://x/y", "DNS=\"a;URI=spiffe://x/y\""),
            ("a,By=x", "DNS=\"a,By=x\""),
            ("a\";URI=x", "DNS=\"a\\\";URI=x\""),
            ("a\\", "DNS=\"a\\\\\""),
            ("a\r\nset-cookie: x", "DNS=\"aset-cookie: x\""),
            ("\u{e4}b", "DNS=b"),
        ] {
            let mut out = String::new();
            push(&mut out, "DNS", name);
            assert_eq!(out, written);
        }
    }

    #[test]
    fn appends_to_what_a_trusted_hop_wrote() {
        let one = append(None, &by(), &leaf("", &[]));
        assert!(!one.contains(','));
        let two = append(Some("By=spiffe://a/b;Hash=1 ,"), &by(), &leaf("", &[]));
        assert_eq!(two, format!("By=spiffe://a/b;Hash=1,{one}"));
        assert_eq!(append(Some(""), &by(), &leaf("", &[])), one);
    }

    #[test]
    fn knows_every_spelling_of_an_identity_field() {
        for name in [
            "x-forwarded-client-cert",
            "X-Forwarded-Client-Cert",
            "X_Forwarded_Client_Cert",
            "Client-Cert",
            "client-cert-chain",
            "L5d-Client-Id",
            "X-Consumer-Username",
            "x_consumer_groups",
            "X-SSL-Client-S-DN",
            "x-amzn-mtls-clientcert-leaf",
        ] {
            assert!(is_identity_field(name.as_bytes()), "{name}");
        }
        for name in ["", "x-consumer", "x-forwarded-for", "client-certs", "xclient-cert", "host", "x-forwarded-client"]
        {
            assert!(!is_identity_field(name.as_bytes()), "{name}");
        }
        let lower = |name: &&&str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        assert!(IDENTITY_FIELDS.iter().chain(IDENTITY_PREFIXES).all(|name| lower(&name)));
    }
}
