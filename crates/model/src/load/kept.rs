//! Key pairs that stay in use while the Secret that held them does not fit together.
//!
//! Called when a change has been read. A certificate and its key are two files, written one after the other, and a renewal can
//! go wrong in between: the listener then goes on with the pair it had, and the status says why. A Secret that never held
//! a good pair, or that is gone, keeps nothing: it fails closed.

use std::sync::Arc;

use crate::certificate::KeyPair;
use crate::kinds::SecretBody;
use crate::load::past::Past;
use crate::world::World;

/// Finds the pairs of `previous` whose Secrets do not hold a good one in `world`, and lets `world` keep them.
pub(super) fn keep_pairs(world: &mut World, previous: &Past) {
    let mut kept = Vec::new();
    for secret in world.secrets() {
        let (namespace, name) = (&*secret.meta.namespace, &*secret.meta.name);
        let Some(before) = previous.secret(namespace, name) else {
            continue;
        };
        let kept_before = previous.kept_pair(namespace, name);
        if before.spec == secret.spec {
            kept.extend(kept_before.map(|pair| (secret.meta.object_name(), pair.clone())));
            continue;
        }
        if read_pair(&secret.spec).is_some() {
            continue;
        }
        let good = kept_before.cloned().or_else(|| read_pair(&before.spec).map(Arc::new));
        kept.extend(good.map(|pair| (secret.meta.object_name(), pair)));
    }
    world.kept_pairs = kept.into_iter().map(|(name, pair)| ((name.namespace, name.name), pair)).collect();
}

fn read_pair(secret: &SecretBody) -> Option<KeyPair> {
    KeyPair::from_pem(secret.entry("tls.crt")?, secret.entry("tls.key")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Loader;
    use crate::place::SourceText;

    /// A Secret with these PEM texts.
    fn secret(certificate: &str, key: &str) -> String {
        let indent = |pem: &str| pem.replace('\n', "\n    ");
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: site}}\nstringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
            indent(certificate),
            indent(key)
        )
    }

    fn load(text: String, previous: &World) -> World {
        Loader::new(&[]).after(&previous.past()).load(&[SourceText::new("site.yaml", text)]).world
    }

    fn kept(world: &World) -> bool {
        world.kept_pair("default", "site").is_some()
    }

    #[test]
    fn a_pair_is_kept_until_there_is_a_good_one_or_no_secret() {
        let make = || rcgen::generate_simple_self_signed(["site.test".to_owned()]).unwrap();
        let (one, two) = (make(), make());
        let text = |certificate: &rcgen::CertifiedKey<rcgen::KeyPair>, key: &rcgen::CertifiedKey<rcgen::KeyPair>| {
            secret(&certificate.cert.pem(), &key.signing_key.serialize_pem())
        };
        let broken_at_first = load(text(&two, &one), &World::default());
        assert!(!kept(&broken_at_first));
        let good = load(text(&one, &one), &broken_at_first);
        assert!(!kept(&good));
        let torn = load(text(&two, &one), &good);
        assert!(kept(&torn));
        let still_torn = load(text(&two, &one), &torn);
        let otherwise_torn = load(secret("rubbish", "rubbish"), &still_torn);
        let pair = otherwise_torn.kept_pair("default", "site").unwrap();
        assert_eq!(pair.chain.first(), Some(one.cert.der()));
        assert!(!kept(&load(text(&two, &two), &otherwise_torn)));
        assert!(!kept(&load(String::new(), &torn)));
        assert!(!kept(&load(text(&two, &one), &load(String::new(), &torn))));
    }
}
