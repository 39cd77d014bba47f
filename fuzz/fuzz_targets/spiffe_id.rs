//! A SPIFFE id: what is accepted is exactly what a second, simple reader of the specification accepts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transept_identity::spiffe::{MAX_ID, SpiffeId, TrustDomain, WorkloadName};

fuzz_target!(|raw: &[u8]| {
    let Ok(text) = std::str::from_utf8(raw) else {
        return;
    };
    let parsed = SpiffeId::parse(text);
    assert_eq!(parsed.is_ok(), is_right(text), "{text:?}");
    assert_eq!(TrustDomain::new(text).is_ok(), is_right(&format!("spiffe://{text}")) && !text.contains('/'));
    let id = match parsed {
        Ok(id) => id,
        Err(why) => {
            assert!(!why.to_string().is_empty() && !why.to_string().contains(char::is_control));
            return;
        }
    };
    assert_eq!(id.as_str(), text);
    assert_eq!(format!("{}{}", id.trust_domain().id(), id.path()), text);
    if let Some(name) = id.workload() {
        assert_eq!(name.id(&id.trust_domain()).as_ref(), Ok(&id));
    }
    // Two segments become a workload and come back, or are refused.
    if let Some((one, two)) = id.path().trim_start_matches('/').split_once('/')
        && let Ok(name) = WorkloadName::new(one, two)
    {
        let made = name.id(&id.trust_domain());
        assert_eq!(made.is_ok(), made.as_ref().is_ok_and(|id| id.workload() == Some(name)));
    }
});

fn is_right(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else {
        return false;
    };
    let mut parts = rest.split('/');
    let domain = parts.next().unwrap_or_default();
    text.len() <= MAX_ID
        && (1..=255).contains(&domain.len())
        && domain.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c))
        && parts.all(|part| {
            !["", ".", ".."].contains(&part) && part.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
        })
}
