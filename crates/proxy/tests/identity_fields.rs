//! What `identity` calls a claim of identity, `engine` removes at every untrusted edge.

use transept_engine::forwarded::claims_identity;
use transept_identity::xfcc::IDENTITY_FIELDS;

#[test]
fn every_field_that_claims_an_identity_is_removed() {
    for name in IDENTITY_FIELDS {
        assert!(claims_identity(name.as_bytes()), "{name}");
        assert!(claims_identity(name.to_ascii_uppercase().replace('-', "_").as_bytes()), "{name}");
    }
    for name in ["x-request-id", "x-user", "cookie", "server", "x-client-certificates", "ssl-client"] {
        assert!(!claims_identity(name.as_bytes()), "{name}");
    }
}
