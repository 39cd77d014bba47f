//! A certificate or a signing request: what is accepted names one workload, and a second parser finds the same name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use transept_identity::{Bundle, Leaf, Request, SpiffeId, TrustDomain, xfcc};
use webpki::EndEntityCert;

fuzz_target!(|raw: &[u8]| {
    let der = CertificateDer::from(raw);
    let domain = TrustDomain::new("shop.test").expect("a right name");
    if let Ok(bundle) = Bundle::new(domain.clone(), [der.clone().into_owned()]) {
        assert_eq!(bundle.roots().len(), 1);
        assert_eq!(Bundle::from_pem(domain.clone(), &bundle.to_pem()).as_ref(), Ok(&bundle));
        let document = Bundle::from_jwks(domain, &bundle.to_jwks()).expect("our own document");
        assert!(document.roots().is_empty() || document == bundle);
        assert!(Leaf::parse(raw).is_err(), "a root is no leaf");
    }
    let allowed = SpiffeId::parse("spiffe://shop.test/ns/default/sa/cart").expect("a right id");
    if let Ok(request) = Request::read(raw, &allowed) {
        assert_eq!(request.id(), &allowed);
    }
    let Ok(leaf) = Leaf::parse(raw) else {
        return;
    };
    assert!(!leaf.id.path().is_empty() && leaf.not_before.as_secs() <= leaf.not_after.as_secs());
    if let Ok(other) = EndEntityCert::try_from(&der) {
        assert_eq!(other.valid_uri_names().collect::<Vec<_>>(), [leaf.id.as_str()]);
    }
    let mut header = String::new();
    xfcc::write(&mut header, &allowed, &leaf);
    assert_eq!(
        keys(&header),
        ["By", "Hash", "Subject", "URI"].into_iter().chain(leaf.dns_names.iter().map(|_| "DNS")).collect::<Vec<_>>()
    );
});

/// The keys of the one element that a reader of the header finds.
fn keys(header: &str) -> Vec<&str> {
    assert!(header.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
    let (mut keys, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in header.bytes().chain([b';']).enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => panic!("two elements: {header}"),
            b';' if !quoted => {
                keys.push(header[start..at].split('=').next().unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
    }
    assert!(!quoted, "{header}");
    keys
}
