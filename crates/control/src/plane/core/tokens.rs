//! Join tokens as people ask for them: made for names that a workload can have, and taken back.
//!
//! Asked by `admin`. What a token is, and how it is redeemed, is the matter of `transept_identity::token` and of `core`.

use std::time::Duration;

use serde_json::{Value, json};
use transept_identity::token::{NotMade, SECRET, TokenId, Uses};
use transept_identity::{Ticket, Tokens, WorkloadName};

use super::super::ca::random;
use super::super::store::Write;
use super::{NotDone, Plane, now};

impl Plane {
    /// Makes a token for a workload; the text is shown once.
    pub(in crate::plane) fn create_token(
        &self,
        namespace: &str,
        service: &str,
        uses: Uses,
        life: Duration,
    ) -> Result<Value, NotDone> {
        let wrong = |why: String| NotDone::Wrong(why);
        self.check_names(namespace, service).map_err(wrong)?;
        let workload = WorkloadName::new(namespace, service).map_err(|error| wrong(error.to_string()))?;
        let id = workload.id(self.trust_domain()).map_err(|error| wrong(error.to_string()))?;
        let root = self.ca.root();
        let secret = random::<SECRET>(self.ca.provider()).ok_or_else(|| wrong("there is no randomness".into()))?;
        let mut inner = self.lock();
        let mut tokens = inner.tokens.clone();
        let (name, token) =
            tokens.create(workload, uses, life, now(), secret.into()).map_err(|error| wrong(error.to_string()))?;
        self.store(&[Write::Tokens(&tokens)])?;
        inner.tokens = tokens;
        let text = Ticket::new(token.as_str(), root, id.clone()).write();
        Ok(json!({"id": name.as_str(), "workload": id.as_str(), "token": text.as_str()}))
    }

    /// Whether a workload can have these names: as a Service, or as a Gateway of the files, which may have dots in its name.
    fn check_names(&self, namespace: &str, service: &str) -> Result<(), String> {
        let place = (namespace.to_owned(), service.to_owned());
        check_names(namespace, service, self.lock().files.secrets.gateways.contains_key(&place))
    }

    /// Takes a token back.
    pub(in crate::plane) fn revoke_token(&self, id: &str) -> Result<Value, NotDone> {
        let mut inner = self.lock();
        let mut tokens = inner.tokens.clone();
        if !tokens.revoke(&TokenId::from(id)) {
            return Err(NotDone::Wrong(format!("there is no token `{id}`; `transept token list` shows all")));
        }
        self.store(&[Write::Tokens(&tokens)])?;
        inner.tokens = tokens;
        Ok(json!({"revoked": id}))
    }
}

/// Whether a control plane without files would make such a token.
///
/// # Errors
/// Why it would not, as a sentence.
pub fn check_first_token(namespace: &str, service: &str, life: Duration) -> Result<(), String> {
    check_names(namespace, service, false)?;
    if !Tokens::may_live(life) {
        return Err(NotMade::Life.to_string());
    }
    Ok(())
}

fn check_names(namespace: &str, service: &str, is_gateway: bool) -> Result<(), String> {
    const RULE: &str = "lower-case letters, digits and `-` between them, at most 63";
    if !is_label(namespace) {
        return Err(format!("no namespace can be called `{namespace}`; write {RULE}"));
    }
    if is_label(service) || is_gateway {
        return Ok(());
    }
    let parts = service.split_once('.').map(|(service, rest)| (service, rest.split('.').next().unwrap_or(rest)));
    let meant = match parts {
        Some((service, namespace)) if is_label(service) && is_label(namespace) => {
            format!(
                "for Service {service} in namespace {namespace} write `--service {service} --namespace {namespace}`"
            )
        }
        _ => format!("write {RULE}"),
    };
    Err(format!("no Service can be called `{service}`, and no Gateway of the files is; {meant}"))
}

/// Whether a text is a name that a Service or a namespace can have (RFC 1123 label).
fn is_label(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inside) && !name.starts_with('-') && !name.ends_with('-')
}
