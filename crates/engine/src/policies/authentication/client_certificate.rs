//! The scheme `clientCertificate`: who calls, by the certificate that the listener has verified.
//!
//! Which authorities are trusted is the business of the listener (`tls.frontend`); one that only asks for certificates and takes any
//! leaves nothing here to go by. A name decides only when it is the only one of its kind: of two, none is believed.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use hashbrown::HashMap;
use transept_model::certificate::read_names;
use transept_model::place::Spot;
use transept_model::schema::{Decoder, RESOURCE_NAME, Rule, Text};
use transept_model::value::{Value, ticked};
use transept_model::{choice, object};
use transept_wire::head::Request;

use super::super::CompileCx;
use super::consumer::Owned;
use super::exhibits::Exhibit;
use super::scheme::{Fault, Proof, Scheme};
use crate::exchange::{CertificateEnded, ClientCertificate, Exchange};
use crate::principal::{Principal, PrincipalKind};

choice! {
    /// What of a certificate says who calls.
    pub enum CertificateName {
        /// The common name of the subject.
        CommonName = "CommonName",
        /// A DNS name (`subjectAltName`).
        Dns = "DNS",
        /// A URI (`subjectAltName`).
        Uri = "URI",
        /// A mail address (`subjectAltName`).
        Email = "Email",
    }
}

/// What is said of a certificate that has ended while the connection lasted.
const ENDED: &str = "the certificate has ended";

impl CertificateName {
    const fn prefix(self) -> &'static str {
        match self {
            CertificateName::CommonName => "cn",
            CertificateName::Dns => "dns",
            CertificateName::Uri => "uri",
            CertificateName::Email => "email",
        }
    }
}

object! {
    /// Certificates of clients that the listener has verified.
    pub struct ClientCertificateSchemeSpec {
        /// What of a certificate says who calls.
        name: CertificateName = CertificateName::CommonName;
        /// Whose certificates these are. Without it, whoever has a certificate is called by its name: `cn:NAME`, `dns:NAME`,
        /// `uri:NAME`, `email:NAME`.
        consumers: Vec<CertificateConsumer> => Rule::NotEmpty, Rule::MaxItems(1024);
    }
    check check_consumers;
}

object! {
    /// The certificate of a Consumer: by its name, or by its fingerprint.
    pub struct CertificateConsumer {
        /// The Consumer.
        consumer: Text => Rule::Is(&RESOURCE_NAME);
        /// The name in its certificates.
        name: Option<Text> => Rule::Length(1, 253);
        /// The SHA-256 of its certificate, in hexadecimal digits, perhaps with colons.
        fingerprint: Option<Text> => Rule::Length(64, 95);
    }
    check check_consumer;
}

fn check_consumers(spec: &ClientCertificateSchemeSpec, value: &Value, cx: &mut Decoder) {
    let twice = spec.consumers.iter().enumerate().find_map(|(index, one)| {
        let name = one.name.as_deref()?;
        spec.consumers.iter().take(index).any(|other| other.name.as_deref() == Some(name)).then_some(name)
    });
    if let Some(name) = twice {
        cx.refuse_field(value, "consumers", format!("the name {} is there twice", ticked(name)));
    }
}

fn check_consumer(spec: &CertificateConsumer, value: &Value, cx: &mut Decoder) {
    if spec.name.is_some() == spec.fingerprint.is_some() {
        cx.refuse(value.at, "a Consumer has either a `name` or a `fingerprint` here").remedy("write one of both");
    }
    if spec.fingerprint.as_deref().is_some_and(|text| plain(text).is_none()) {
        cx.refuse_field(value, "fingerprint", "this is no SHA-256 in hexadecimal digits")
            .remedy("write what `openssl x509 -noout -fingerprint -sha256` prints");
    }
}

/// The fingerprint without colons, in lower case.
fn plain(text: &str) -> Option<[u8; 32]> {
    let digits: String = text.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
    HEXLOWER.decode(digits.as_bytes()).ok()?.try_into().ok()
}

/// The compiled scheme.
#[derive(Debug)]
pub(super) struct ClientCertificateScheme {
    scheme: Box<str>,
    name: CertificateName,
    named: HashMap<Box<str>, Owned>,
    pinned: HashMap<[u8; 32], Owned>,
    /// Where it is written.
    pub(super) at: Spot,
}

impl Scheme for ClientCertificateScheme {
    type Spec = ClientCertificateSchemeSpec;

    fn compile(name: &Text, spec: &ClientCertificateSchemeSpec, cx: &mut CompileCx<'_>) -> Option<Self> {
        let (mut named, mut pinned) = (HashMap::new(), HashMap::new());
        for one in &spec.consumers {
            let credential = one.name.as_deref().or(one.fingerprint.as_deref()).unwrap_or_default();
            let owned = Owned::compile(one.at, &one.consumer, name, credential, None, cx)?;
            match (&one.name, one.fingerprint.as_deref().and_then(plain)) {
                (_, Some(fingerprint)) => {
                    pinned.insert(fingerprint, owned);
                }
                (Some(name), None) => {
                    named.insert(Box::from(&**name), owned);
                }
                (None, None) => {}
            }
        }
        Some(ClientCertificateScheme { scheme: (&**name).into(), name: spec.name, named, pinned, at: spec.at })
    }

    fn presents(&self, x: &Exchange<'_>) -> bool {
        !matches!(x.client_certificate(), Ok(None))
    }

    fn exhibits<'x>(&'x self, x: &'x Exchange<'_>, add: &mut dyn FnMut(Exhibit<'x>)) {
        if self.presents(x) {
            add(Exhibit::Certificate);
        }
    }

    fn authenticate(&self, x: &mut Exchange<'_>) -> Proof {
        match x.client_certificate() {
            Ok(None) => Proof::Absent,
            Ok(Some(shown)) => self.owner(shown).map_or_else(Proof::Invalid, Proof::Valid),
            Err(CertificateEnded) => Proof::invalid(ENDED),
        }
    }

    fn strip(&self, _: &mut Request) {
        // It stands in no request.
    }

    fn challenge(&self, realm: &str, _: &Fault<'_>) -> String {
        format!("ClientCertificate realm=\"{realm}\"")
    }

    fn stands(&self, principal: &Arc<Principal>, x: &Exchange<'_>) -> Result<Arc<Principal>, Box<str>> {
        // The connection has its certificate still: it is looked at as on the first day.
        let shown = x.client_certificate().map_err(|CertificateEnded| ENDED)?.ok_or("there is no certificate")?;
        let today = self.owner(shown)?;
        if today.id == principal.id { Ok(today) } else { Err("the certificate is somebody else's by now".into()) }
    }
}

impl ClientCertificateScheme {
    /// Whose certificate it is.
    ///
    /// # Errors
    /// Why nobody's.
    fn owner(&self, shown: &ClientCertificate) -> Result<Arc<Principal>, Box<str>> {
        let ClientCertificate { leaf, until } = shown;
        if !self.pinned.is_empty()
            && let Ok(print) = <[u8; 32]>::try_from(digest::digest(&digest::SHA256, leaf).as_ref())
            && let Some(owned) = self.pinned.get(&print)
        {
            return principal_of(owned, *until);
        }
        let Some(name) = self.name_in(leaf) else {
            return Err(format!("the certificate has not exactly one name of the kind {}", self.name).into());
        };
        if self.named.is_empty() && self.pinned.is_empty() {
            let principal = Principal {
                kind: PrincipalKind::App,
                // Told apart from Consumers, whatever an authority lets stand in a name.
                id: format!("{}:{name}", self.name.prefix()).into(),
                scheme: self.scheme.clone(),
                credential: Some(name.into()),
                until: Some(*until),
                ..Principal::default()
            };
            return Ok(Arc::new(principal));
        }
        let owned = self.named.get(&*name).ok_or("the certificate is no Consumer's")?;
        principal_of(owned, *until)
    }

    /// The one name of the kind that counts.
    fn name_in(&self, leaf: &[u8]) -> Option<String> {
        let names = read_names(leaf)?;
        let mut names = match self.name {
            CertificateName::CommonName => names.common,
            CertificateName::Dns => names.dns,
            CertificateName::Uri => names.uris,
            CertificateName::Email => names.emails,
        };
        names.pop().filter(|_| names.is_empty())
    }
}

fn principal_of(owned: &Owned, until: Duration) -> Result<Arc<Principal>, Box<str>> {
    let principal = owned.principal().map_err(|why| format!("the certificate {why}"))?;
    Ok(Arc::new(Principal { until: Some(until), ..Principal::clone(principal) }))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;

    use super::super::tests::compile_scheme;
    use super::*;
    use crate::exchange::{Connection, Notes, Now, TlsFacts};

    /// CN=mobile; DNS:mobile.clients.test, URI:urn:app:mobile, DNS:second.clients.test.
    const PEM: &str = "\
-----BEGIN CERTIFICATE-----
MIIBwTCCAWagAwIBAgIUTiiP7lIofGY1RYHl+6rmv6T+vDAwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbW9iaWxlMCAXDTI2MTEyODIxNTcwOFoYDzIxMjYxMTA0MjE1
NzA4WjARMQ8wDQYDVQQDDAZtb2JpbGUwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAQblnzthpSvlYtqPedao+FkyA09sf7HZZ5iXAzMEsNhlppbDshUl9FIBXKX6Z5D
J1oywgxXZhXShMuvNDtaCttHo4GZMIGWMB0GA1UdDgQWBBTmj8JD0KfHj3sxsv68
shjpPsDgeDAfBgNVHSMEGDAWgBTmj8JD0KfHj3sxsv68shjpPsDgeDAPBgNVHRMB
Af8EBTADAQH/MEMGA1UdEQQ8MDqCE21vYmlsZS5jbGllbnRzLnRlc3SGDnVybjph
cHA6bW9iaWxlghNzZWNvbmQuY2xpZW50cy50ZXN0MAoGCCqGSM49BAMCA0kAMEYC
IQCsrepATVI/VvfzriGu+/yYKfAZnYWIY1spRRGpey3CEAIhAP9g5QTlgl+HwGjY
wEPYRkSYfvpWKwnhaSkeABpcOsn0
-----END CERTIFICATE-----
";
    const PRINT: &str =
        "0A:65:6F:D7:D1:85:60:22:F5:A0:93:76:0B:8E:08:B4:B5:32:83:77:3E:8A:F9:F7:52:EB:25:56:10:5D:37:16";
    const OBJECTS: &str = "\
{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {name: mobile}, spec: {groups: [apps]}}
---
{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {name: gone}, spec: {suspended: true}}
";

    fn with<T>(
        spec: &str,
        leaf: Option<&str>,
        ask: impl FnOnce(&ClientCertificateScheme, &mut Exchange<'_>) -> T,
    ) -> T {
        with_at(Duration::ZERO, spec, leaf, ask)
    }

    fn with_at<T>(
        unix: Duration,
        spec: &str,
        leaf: Option<&str>,
        ask: impl FnOnce(&ClientCertificateScheme, &mut Exchange<'_>) -> T,
    ) -> T {
        let (scheme, problems) = compile_scheme::<ClientCertificateScheme>(spec, OBJECTS);
        assert!(problems.is_empty(), "{problems:?}");
        let leaf = leaf.map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate"));
        let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
        let shown = leaf.map(|leaf| ClientCertificate::read(&leaf).expect("a certificate that ends"));
        let facts = TlsFacts { client_certificate: shown, ..TlsFacts::default() };
        let mut request = Request::build("GET", "https", "a.test", "/").expect("a request");
        let scheme = scheme.expect("a scheme");
        let mut x = Exchange {
            now: Now { monotonic: Duration::ZERO, unix },
            random: 0,
            connection: &Connection::new(address, address, Some(facts)),
            client: address.ip(),
            listener_port: 443,
            request: &mut request,
            notes: &mut Notes::new(),
        };
        ask(&scheme, &mut x)
    }

    fn proof(spec: &str, leaf: Option<&str>) -> Proof {
        with(spec, leaf, |scheme, x| scheme.authenticate(x))
    }

    #[test]
    fn a_certificate_says_who_calls() {
        for (spec, id) in [
            ("{}\n".to_owned(), "cn:mobile"),
            ("{name: URI}\n".to_owned(), "uri:urn:app:mobile"),
            ("{consumers: [{consumer: mobile, name: mobile}]}\n".to_owned(), "default/mobile"),
            (format!("{{consumers: [{{consumer: mobile, fingerprint: '{PRINT}'}}]}}\n"), "default/mobile"),
        ] {
            let Proof::Valid(principal) = proof(&spec, Some(PEM)) else { panic!("{spec}") };
            assert_eq!(&*principal.id, id, "{spec}");
        }
        assert!(matches!(proof("{}\n", None), Proof::Absent));
        for spec in [
            "{name: DNS}\n",
            "{name: Email}\n",
            "{consumers: [{consumer: mobile, name: other}]}\n",
            "{consumers: [{consumer: gone, name: mobile}]}\n",
        ] {
            assert!(matches!(proof(spec, Some(PEM)), Proof::Invalid(_)), "{spec}");
        }
    }

    #[test]
    fn an_open_connection_ends_when_its_certificate_would_not_be_taken_today() {
        let other = "00".repeat(32);
        let pinned = format!("{{consumers: [{{consumer: mobile, fingerprint: '{PRINT}'}}]}}\n");
        let Proof::Valid(principal) = proof(&pinned, Some(PEM)) else { panic!("not let in") };
        let stands = |spec: &str| with(spec, Some(PEM), |scheme, x| scheme.stands(&principal, x).is_ok());
        assert!(stands(&pinned));
        assert!(stands("{consumers: [{consumer: mobile, name: mobile}]}\n"));
        for spec in [
            // The pin was replaced, or the certificate is somebody else's by now.
            format!("{{consumers: [{{consumer: mobile, fingerprint: '{other}'}}]}}\n"),
            "{consumers: [{consumer: mobile, name: other}]}\n".to_owned(),
            "{consumers: [{consumer: gone, name: mobile}]}\n".to_owned(),
            "{}\n".to_owned(),
            "{name: DNS}\n".to_owned(),
        ] {
            assert!(!stands(&spec), "{spec}");
        }
        assert!(!with(&pinned, None, |scheme, x| scheme.stands(&principal, x).is_ok()));
    }

    #[test]
    fn a_certificate_is_no_good_after_its_end_and_what_it_has_opened_ends_with_it() {
        // date -ud '2126-11-04 21:57:08' +%s
        let last = Duration::from_secs(4_949_503_028);
        let end = last + Duration::from_secs(1);
        let pinned = format!("{{consumers: [{{consumer: mobile, fingerprint: '{PRINT}'}}]}}\n");
        let named = "{consumers: [{consumer: mobile, name: mobile}]}\n".to_owned();
        for spec in ["{}\n".to_owned(), named, pinned] {
            let proof = |at| with_at(at, &spec, Some(PEM), |scheme, x| (scheme.presents(x), scheme.authenticate(x)));
            let (true, Proof::Valid(principal)) = proof(last) else { panic!("{spec}") };
            assert_eq!(principal.until, Some(end), "{spec}");
            let (true, Proof::Invalid(why)) = proof(end) else { panic!("{spec}") };
            assert_eq!(&*why, "the certificate has ended");
            assert!(!with_at(end, &spec, Some(PEM), |scheme, x| scheme.stands(&principal, x).is_ok()), "{spec}");
        }
    }

    #[test]
    fn an_identity_by_a_certificate_is_one_until_that_ends() {
        let leaf = CertificateDer::from_pem_slice(PEM.as_bytes()).expect("a certificate");
        let shown = ClientCertificate::read(&leaf).expect("a certificate that ends");
        let until = shown.until;
        let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
        let facts = TlsFacts { client_certificate: Some(shown), ..TlsFacts::default() };
        let by_certificate = Connection::new(address, address, Some(facts)).with_identity("spiffe://a.test/b");
        let of_the_mesh = Connection::new(address, address, None).with_identity("spiffe://a.test/b");
        for (connection, unix, known) in [
            (&by_certificate, until - Duration::from_secs(1), true),
            (&by_certificate, until, false),
            (&of_the_mesh, until, true),
        ] {
            let mut request = Request::build("GET", "https", "a.test", "/").expect("a request");
            let x = Exchange {
                now: Now { monotonic: Duration::ZERO, unix },
                random: 0,
                connection,
                client: address.ip(),
                listener_port: 443,
                request: &mut request,
                notes: &mut Notes::new(),
            };
            assert_eq!((x.identity().is_some(), x.principal().is_some()), (known, known));
            assert_eq!(x.connection.identity_at(unix).is_some(), known);
        }
    }

    #[test]
    fn consumers_that_cannot_be_told_are_refused() {
        for (spec, why) in [
            ("{consumers: [{consumer: nobody, name: a}]}\n", "there is no Consumer default/nobody"),
            ("{consumers: [{consumer: mobile}]}\n", "either a `name` or a `fingerprint`"),
            ("{consumers: [{consumer: mobile, name: a}, {consumer: gone, name: a}]}\n", "is there twice"),
        ] {
            let (_, problems) = compile_scheme::<ClientCertificateScheme>(spec, OBJECTS);
            assert!(problems.iter().any(|problem| problem.contains(why)), "{spec}: {problems:?}");
        }
    }

    #[test]
    fn fingerprints_are_read_with_and_without_colons() {
        let digits = "057a0e2f4fc5caf1ddcad269ef4c0458b325fc97a1b8f3c5f5843cf4b40f2387";
        let with_colons: Vec<String> =
            digits.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).to_uppercase()).collect();
        assert!(plain(digits).is_some());
        assert_eq!(plain(&with_colons.join(":")), plain(digits));
        assert!(plain("00").is_none() && plain("zz").is_none());
    }
}
