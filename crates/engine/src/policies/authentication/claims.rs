//! From claims to a principal: which claim is the name, the groups, the scopes. Used by all schemes whose credentials say such things.

use std::time::Duration;

use serde_json::Value;
use transept_model::schema::{Rule, Text};
use transept_model::{choice, object};

use crate::jose::{Claims, names};
use crate::principal::{Principal, PrincipalKind, Voucher, claim};

object! {
    /// Which claim says what. A claim inside another is written with a dot, such as `realm_access.roles`.
    pub struct ClaimNames {
        /// Who it is.
        id: Text = "sub".into() => Rule::Length(1, 256);
        /// Its groups: a list, or words.
        groups: Text = "groups".into() => Rule::Length(1, 256);
        /// What the token is good for: a list, or words; those of all that are there.
        scopes: Vec<Text> = vec!["scope".into(), "scp".into()] => Rule::MaxItems(8), Rule::Length(1, 256);
        /// Its plan.
        plan: Option<Text> => Rule::Length(1, 256);
        /// Its tenant.
        tenant: Option<Text> => Rule::Length(1, 256);
    }
}

choice! {
    /// Who shows a token.
    pub enum TokenOwner {
        /// A program, when the token says that it was issued to a client for itself (`sub` is `client_id` or `azp`, `gty` is
        /// `client-credentials`, or `idtyp` is `app`); else a person.
        Auto = "Auto",
        /// A person.
        User = "User",
        /// A program.
        App = "App",
    }
}

impl Default for ClaimNames {
    fn default() -> Self {
        ClaimNames {
            at: Default::default(),
            id: "sub".into(),
            groups: "groups".into(),
            scopes: vec!["scope".into(), "scp".into()],
            plan: None,
            tenant: None,
        }
    }
}

/// Whom claims are about.
///
/// # Errors
/// When they do not say it.
pub(super) fn principal(
    claims: Claims,
    wanted: &ClaimNames,
    owner: TokenOwner,
    scheme: &str,
    until: Option<Duration>,
) -> Result<Principal, Box<str>> {
    let text = |path: &str| claim(&claims, path).and_then(Value::as_str);
    let client = text("client_id").or_else(|| text("azp"));
    let kind = match owner {
        TokenOwner::User => PrincipalKind::User,
        TokenOwner::App => PrincipalKind::App,
        TokenOwner::Auto if is_for_itself(&claims, client) => PrincipalKind::App,
        TokenOwner::Auto => PrincipalKind::User,
    };
    let id = match (text(&wanted.id), kind) {
        (Some(id), _) => id,
        // A client that stands for itself may be named as such only (RFC 7662 section 2.2).
        (None, PrincipalKind::App) => client.unwrap_or_default(),
        (None, _) => "",
    };
    if id.is_empty() {
        return Err(format!("the token does not say whose it is (`{}`)", &*wanted.id).into());
    }
    Ok(Principal {
        kind,
        id: id.into(),
        voucher: text("iss").map_or(Voucher::Scheme, |issuer| Voucher::Issuer(issuer.into())),
        groups: names(&claims, &wanted.groups),
        scopes: wanted.scopes.iter().flat_map(|path| names(&claims, path)).collect(),
        plan: wanted.plan.as_deref().and_then(text).map(Into::into),
        tenant: wanted.tenant.as_deref().and_then(text).map(Into::into),
        scheme: scheme.into(),
        credential: text("jti").map(Into::into),
        until,
        claims,
        ..Principal::default()
    })
}

fn is_for_itself(claims: &Claims, client: Option<&str>) -> bool {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let subject = text("sub");
    (client.is_some() && (subject == client || subject.is_none()))
        || text("gty") == Some("client-credentials")
        || text("idtyp") == Some("app")
}
