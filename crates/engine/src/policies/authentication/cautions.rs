//! What the owner of an `AuthenticationPolicy` should know although nothing is wrong with it: schemes by which nobody can be let in, two that are
//! one, and issuers that are asked for nothing.

use super::super::{Caution, Identified, Known};
use super::Named;
use super::requirement::Alternative;
use super::scheme::AnyScheme;

/// What there is to say of these schemes, by what is required of them and by what clients can prove where they are in force.
pub(super) fn find(schemes: &[Named], alternatives: &[Alternative], known: Known) -> Vec<Caution> {
    let mut found: Vec<Caution> = alternatives.iter().flat_map(|one| one_key_for_two(schemes, one)).collect();
    found.extend(asked_first(schemes, alternatives));
    if known.proven == Identified::Nowhere {
        found.extend(schemes.iter().filter_map(without_certificates));
    }
    found
}

fn without_certificates(named: &Named) -> Option<Caution> {
    let AnyScheme::ClientCertificate(scheme) = &named.scheme else { return None };
    let what = format!(
        "scheme {} looks for certificates of clients, and no listener above its targets takes only clients with one of an authority of its own: \
         it lets nobody in; write `tls.frontend.default.validation.caCertificateRefs` into the Gateway, or remove the scheme",
        named.name
    );
    Some(Caution { at: scheme.at, what })
}

/// Schemes for keys that are asked for together and look at one field: the keys are those of one namespace.
fn one_key_for_two(schemes: &[Named], alternative: &Alternative) -> Option<Caution> {
    let asked: Vec<&Named> = alternative.needs.iter().filter_map(|need| schemes.get(need.scheme)).collect();
    asked.iter().enumerate().find_map(|(index, second)| {
        let AnyScheme::ApiKey(scheme) = &second.scheme else { return None };
        let (first, place) = asked.iter().take(index).find_map(|first| {
            let AnyScheme::ApiKey(other) = &first.scheme else { return None };
            Some((first, scheme.place_shared_with(other)?))
        })?;
        let what = format!(
            "schemes {} and {} are asked for together, and both look for keys in {place}, so that one key is enough for both; write `bearer: false` \
             and a `header` of its own into each",
            first.name, second.name
        );
        Some(Caution { at: scheme.at, what })
    })
}

/// Introspection that is tried before a scheme that could tell by itself: each of its tokens is asked about, and an issuer that is away holds up all of them.
fn asked_first(schemes: &[Named], alternatives: &[Alternative]) -> Option<Caution> {
    let alone = |one: &Alternative| match &*one.needs {
        [need] => schemes.get(need.scheme),
        _ => None,
    };
    let alone: Vec<&Named> = alternatives.iter().filter_map(alone).collect();
    alone.iter().enumerate().find_map(|(index, first)| {
        let AnyScheme::Introspection(scheme) = &first.scheme else { return None };
        let is_alike = |later: &&&Named| matches!(&later.scheme, AnyScheme::Jwt(other) if other.header == scheme.header);
        let later = alone.iter().skip(index + 1).find(is_alike)?;
        let what = format!(
            "scheme {} is tried before {}, so that its issuer is asked about each token that {} could know by itself, and holds all of them up while it \
             is away; put {} first",
            first.name, later.name, later.name, later.name
        );
        Some(Caution { at: scheme.at, what })
    })
}
