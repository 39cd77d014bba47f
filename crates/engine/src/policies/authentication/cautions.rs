//! What the owner of an `AuthenticationPolicy` should know although nothing is wrong with it: schemes by which nobody can be let in.

use super::super::{Caution, Identified, Known};
use super::Named;
use super::scheme::AnyScheme;

/// What there is to say of these schemes, by what clients can prove where they are in force.
pub(super) fn find(schemes: &[Named], known: Known) -> Vec<Caution> {
    if known.proven != Identified::Nowhere {
        return Vec::new();
    }
    let say = |named: &Named| {
        let AnyScheme::ClientCertificate(scheme) = &named.scheme else { return None };
        let what = format!(
            "scheme {} looks for certificates of clients, and no listener above its targets takes only clients with one of an authority of its own: \
             it lets nobody in; write `tls.frontend.default.validation.caCertificateRefs` into the Gateway, or remove the scheme",
            named.name
        );
        Some(Caution { at: scheme.at, what })
    };
    schemes.iter().filter_map(say).collect()
}
