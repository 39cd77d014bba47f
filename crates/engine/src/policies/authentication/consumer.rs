//! A Consumer as a principal, for the schemes whose credentials belong to Consumers.

use std::sync::Arc;

use transept_model::kinds::ConsumerSpec;
use transept_model::place::Spot;
use transept_model::schema::Text;
use transept_model::secrecy::may_be_credential;

use super::super::CompileCx;
use crate::principal::{Principal, PrincipalKind, StoredMark, Voucher};

/// A credential of a Consumer, and whether it may be used at all.
#[derive(Debug)]
pub(super) struct Owned {
    principal: Arc<Principal>,
    /// Why it is no good whatever is shown.
    barred: Option<&'static str>,
}

impl Owned {
    /// The credential with this name, which is stored as `stored` says. A Consumer that does not exist is refused.
    pub(super) fn compile(
        at: Spot,
        consumer: &Text,
        scheme: &Text,
        credential: &str,
        stored: Option<StoredMark>,
        cx: &mut CompileCx<'_>,
    ) -> Option<Owned> {
        let namespace = cx.name.namespace.clone();
        let Some(known) = cx.world.consumer(&namespace, consumer) else {
            let why = match may_be_credential(consumer) {
                true => format!("there is no Consumer of that name in {}", &*namespace),
                false => format!("there is no Consumer {}/{}", &*namespace, &**consumer),
            };
            cx.refuse(at, why).remedy("add it, or mend the name");
            return None;
        };
        let principal = Principal {
            credential: Some(credential.into()),
            stored,
            ..principal(&namespace, consumer, Some(&known.spec), scheme)
        };
        let barred = known.spec.suspended.then_some("belongs to a Consumer that is suspended");
        Some(Owned { principal: Arc::new(principal), barred })
    }

    /// Whose it is.
    ///
    /// # Errors
    /// Why it is no good: `belongs to a Consumer that is suspended`.
    pub(super) fn principal(&self) -> Result<&Arc<Principal>, &'static str> {
        self.barred.map_or(Ok(&self.principal), Err)
    }

    /// Whether it is the one that a principal has shown before.
    pub(super) fn is_of(&self, principal: &Principal) -> bool {
        self.principal.id == principal.id
    }

    /// Who a principal is today that has shown a key of this name before; `found` is what stands under the name now.
    ///
    /// # Errors
    /// Why it is none any more.
    pub(super) fn stands(found: Option<&Owned>, principal: &Principal) -> Result<Arc<Principal>, Box<str>> {
        let owned = found.filter(|owned| owned.is_of(principal)).ok_or("the key is not known any more")?;
        if !owned.is_stored_as_of(principal) {
            return Err("the key is another one by now".into());
        }
        owned.principal().cloned().map_err(|why| format!("the key {why}").into())
    }

    /// Whether both are the same under two names.
    pub(super) fn is_stored_like(&self, other: &Owned) -> bool {
        self.principal.stored == other.principal.stored
    }

    /// Whether both belong to one Consumer.
    pub(super) fn is_of_consumer(&self, other: &Owned) -> bool {
        self.principal.id == other.principal.id
    }

    /// Whether it is stored as it was then.
    pub(super) fn is_stored_as_of(&self, principal: &Principal) -> bool {
        self.principal.stored == principal.stored
    }
}

/// The principal of a Consumer by this scheme, without a credential. One that does not exist is in no group.
pub(super) fn principal(namespace: &str, name: &str, consumer: Option<&ConsumerSpec>, scheme: &str) -> Principal {
    let boxed = |text: &Text| Box::from(&**text);
    Principal {
        kind: PrincipalKind::App,
        id: format!("{namespace}/{name}").into(),
        voucher: Voucher::Consumer,
        groups: consumer.map_or_else(Vec::new, |consumer| consumer.groups.iter().map(boxed).collect()),
        plan: consumer.and_then(|consumer| consumer.plan.as_ref()).map(boxed),
        tenant: consumer.and_then(|consumer| consumer.tenant.as_ref()).map(boxed),
        scheme: scheme.into(),
        ..Principal::default()
    }
}
