//! How the scheme `login` is written, and what is wrong with it.

use std::time::Duration;

use aws_lc_rs::digest;
use transept_model::kinds::BackendObjectReference;
use transept_model::object;
use transept_model::schema::{Decoder, Rule, SECTION_NAME, Text};
use transept_model::secrecy::ticked_url;
use transept_model::value::{Value, ticked};
use transept_wire::normalize::{self, Normal, PathRules};

use super::super::super::{CompileCx, PlainHttp, parse_url};
use super::super::claims::ClaimNames;
use super::super::client::ClientAuthentication;
use super::super::jwt::{KeysSpec, RequiredClaim};
use super::super::secret::SecretEntry;
use super::Places;
use crate::form;
use crate::login::Seals;

object! {
    /// Browsers log in at an OpenID provider, and have a session in a sealed cookie afterwards. The policy must cover the paths that are
    /// named here.
    pub struct LoginSpec {
        /// The provider: what its description calls `issuer`, byte for byte.
        issuer: Text => Rule::Length(1, 1024);
        /// The description of the provider behind another URL than ISSUER`/.well-known/openid-configuration`.
        discovery: Option<Text> => Rule::Length(1, 2048);
        /// The Service or Backend that is asked instead of the host of the provider.
        backend_ref: Option<BackendObjectReference>;
        /// Other servers where the provider may have its keys and tokens: `https://keys.login.test`.
        origins: Vec<Text> => Rule::MaxItems(8);
        /// As whom we ask.
        client_id: Text => Rule::Length(1, 1024);
        /// The secret of that client. Without it, it is a public one.
        client_secret: Option<SecretEntry>;
        /// How we say who we are.
        client_authentication: ClientAuthentication = ClientAuthentication::Basic;
        /// Where the provider sends browsers back to, as it is registered there: `https://shop.test/oauth2/callback`.
        redirect_url: Text => Rule::Length(1, 2048);
        /// What is asked for, besides `openid`. With `offline_access` most providers give a refresh token.
        scopes: Vec<Text> => Rule::MaxItems(64), Rule::Length(1, 256), Rule::Unique;
        /// What the provider is told besides, such as `{name: prompt, value: select_account}`.
        parameters: Vec<Parameter> => Rule::MaxItems(16), Rule::UniqueBy("name");
        /// The session.
        session: SessionSpec;
        /// The path that ends a session, here and at the provider.
        logout_path: Text = "/oauth2/logout".into() => Rule::Length(1, 1024);
        /// The path to go to after that.
        after_logout: Text = "/".into() => Rule::Length(1, 1024);
        /// A path where the provider itself says that somebody has logged out (OpenID Connect Back-Channel Logout), as it is registered there. Without it
        /// nobody is listened to.
        back_channel_logout_path: Option<Text> => Rule::Length(1, 1024);
        /// A path that begins a login, for sites that let in everybody: `/login?return=/cart`.
        login_path: Option<Text> => Rule::Length(1, 1024);
        /// True when the backend gets the access token, in `Authorization`.
        forward_access_token: bool = false;
        /// What ID tokens must say.
        required_claims: Vec<RequiredClaim> => Rule::MaxItems(32);
        /// Which claim says what.
        claims: ClaimNames = ClaimNames::default();
        /// How far clocks may be apart.
        leeway: Duration = Duration::from_secs(30);
        /// How long the provider may take.
        timeout: Duration = Duration::from_secs(5);
    }
    check check_spec;
}

object! {
    /// A parameter of the request to the provider.
    pub struct Parameter {
        /// Its name.
        name: Text => Rule::Length(1, 128);
        /// Its value.
        value: Text => Rule::Length(0, 1024);
    }
}

object! {
    /// The session of a browser.
    pub struct SessionSpec {
        /// By what it is sealed: an entry of a Secret with 32 random bytes or more, the same for all proxies (`openssl rand -hex 32`).
        secret: SecretEntry;
        /// What sealed sessions before: they are still known.
        previous_secret: Option<SecretEntry>;
        /// The name of its cookie, after `__Host-`. Several schemes for one host need several.
        cookie: Text = "session".into() => Rule::Is(&SECTION_NAME);
        /// How long it lasts: then the browser logs in again, whatever the provider says.
        lifetime: Duration = Duration::from_secs(12 * 3600);
    }
}

/// The fewest bytes of a secret.
const LEAST_SECRET: usize = 32;
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 86_400);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
const MOST_LEEWAY: Duration = Duration::from_secs(300);
/// Parameters that are ours to write.
const OURS: &[&str] = &[
    "response_type",
    "response_mode",
    "client_id",
    "client_secret",
    "redirect_uri",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "request",
    "request_uri",
];

fn check_spec(spec: &LoginSpec, value: &Value, cx: &mut Decoder) {
    match site(&spec.redirect_url) {
        Ok((_, "/")) => {
            cx.refuse_field(value, "redirectUrl", "the path that browsers come back to is that of the first page")
                .remedy("give it one of its own, such as `https://shop.test/oauth2/callback`, and register it at the provider");
        }
        Ok((_, path)) if !is_normal(path) => {
            cx.refuse_field(
                value,
                "redirectUrl",
                format!("{} is not in the form that paths have when they come", ticked(path)),
            )
            .remedy("write no `//`, no dots as segments, and %XX only for what must be encoded");
        }
        Ok((_, path)) if path == &*spec.logout_path || spec.login_path.as_deref() == Some(path) => {
            cx.refuse_field(value, "redirectUrl", "its path has another meaning already")
                .remedy("give it one of its own");
        }
        Ok(_) => {}
        Err((why, remedy)) => {
            cx.refuse_field(value, "redirectUrl", why).remedy(remedy);
        }
    }
    check_paths(spec, value, cx);
    if spec.session.cookie.contains('.') {
        cx.refuse(spec.session.at, "the name of the cookie holds a dot, by which its parts are told apart")
            .remedy("write a name without dots");
    }
    if let Some(one) = spec.parameters.iter().find(|one| &*one.name == "max_age") {
        cx.refuse(one.at, "`max_age` could be asked for and is not looked at afterwards")
            .remedy("write `session.lifetime`");
    }
    let is_word = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    if let Some(scope) = spec.scopes.iter().find(|scope| !scope.bytes().all(is_word)) {
        cx.refuse_field(value, "scopes", format!("{} is no scope", ticked(scope))).remedy("write one word each");
    }
    if let Some(one) = spec.parameters.iter().find(|one| OURS.contains(&&*one.name)) {
        cx.refuse(one.at, format!("`{}` is written by the gateway itself", &*one.name)).remedy("remove it");
    }
    if spec.session.lifetime.is_zero() || spec.session.lifetime > LONGEST_LIFE {
        cx.refuse(spec.session.at, "the lifetime must be above 0s and at most 30d (720h)");
    }
    if spec.timeout.is_zero() || spec.timeout > LONGEST_TIMEOUT {
        cx.refuse_field(value, "timeout", "the time must be above 0s and at most 60s");
    }
    if spec.leeway > MOST_LEEWAY {
        cx.refuse_field(value, "leeway", "the leeway is above 300s").remedy("set the clocks right instead");
    }
    if spec.client_secret.is_none() && spec.client_authentication == ClientAuthentication::Post {
        cx.refuse_field(value, "clientAuthentication", "a public client has nothing to say who it is")
            .remedy("write `clientSecret`, or remove this");
    }
}

/// Paths of the site, each with one meaning.
fn check_paths(spec: &LoginSpec, value: &Value, cx: &mut Decoder) {
    let paths = [
        ("logoutPath", Some(&spec.logout_path)),
        ("afterLogout", Some(&spec.after_logout)),
        ("loginPath", spec.login_path.as_ref()),
        ("backChannelLogoutPath", spec.back_channel_logout_path.as_ref()),
    ];
    for (field, path) in paths {
        if let Some(path) = path
            && !is_normal(if field == "afterLogout" { path.split('?').next().unwrap_or(path) } else { path })
        {
            cx.refuse_field(value, field, format!("{} is no path of this site", ticked(path)))
                .remedy("begin it with `/`; write no `//`, no dots as segments, and %XX only for what must be encoded");
        }
    }
    if let Some(path) = spec.back_channel_logout_path.as_deref()
        && (path == &*spec.logout_path
            || spec.login_path.as_deref() == Some(path)
            || site(&spec.redirect_url).is_ok_and(|(_, callback)| callback == path))
    {
        cx.refuse_field(value, "backChannelLogoutPath", "the path has another meaning already")
            .remedy("give it one of its own");
    }
    if spec.login_path.as_deref() == Some(&*spec.logout_path) {
        cx.refuse_field(value, "loginPath", "the same path begins and ends a session");
    }
}

/// Whether a path is what normalising makes of it, so that it can be compared with those of requests.
fn is_normal(path: &str) -> bool {
    let mut out = Vec::new();
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#' | b'?'));
    path.starts_with('/')
        && is_plain
        && normalize::path(path.as_bytes(), &PathRules::default(), &mut out) == Ok(Normal::Unchanged)
}

/// A URL of the site in two: `https://shop.test` and `/callback`.
fn site(url: &str) -> Result<(&str, &str), (String, &'static str)> {
    let (_, _, target) = parse_url(url, PlainHttp::OnLoopback)?;
    if target.contains('?') {
        return Err((
            format!("{} has a query", ticked_url(url)),
            "write a path only: the provider adds its answer as the query",
        ));
    }
    let begin = url.find("://").map_or(0, |at| at + 3);
    let at = url.get(begin..).and_then(|rest| rest.find('/')).map_or(url.len(), |at| begin + at);
    let (site, path) = url.split_at(at);
    Ok((site, if path.is_empty() { "/" } else { path }))
}

impl LoginSpec {
    /// The names of the Secrets that it needs.
    pub(super) fn secrets(&self) -> Vec<Text> {
        let entries = [self.client_secret.as_ref(), Some(&self.session.secret), self.session.previous_secret.as_ref()];
        entries.into_iter().flatten().map(|entry| entry.name.clone()).collect()
    }

    /// The paths of the site that are answered by the scheme.
    pub(in super::super) fn pages(&self) -> Vec<String> {
        let callback = site(&self.redirect_url).map(|(_, path)| path.to_owned());
        let others = std::iter::once(&self.logout_path).chain(&self.login_path).chain(&self.back_channel_logout_path);
        callback.into_iter().chain(others.map(|path| path.to_string())).collect()
    }

    /// Where the provider is, as the scheme `jwt` says it.
    pub(super) fn whereabouts(&self) -> KeysSpec {
        KeysSpec {
            at: self.at,
            url: None,
            discovery: self.discovery.clone(),
            inline: None,
            config_map: None,
            shared_secret: None,
            backend_ref: self.backend_ref.clone(),
            origins: self.origins.clone(),
        }
    }

    /// The places of the site. None is one that was refused when it was read.
    pub(super) fn places(&self) -> Option<Places> {
        let (site, path) = site(&self.redirect_url).ok()?;
        let authority = site.split_once("://").map_or(site, |(_, authority)| authority);
        let host = normalize::authority(authority.as_bytes()).ok()?.host.to_ascii_lowercase();
        Some(Places {
            redirect_url: (&*self.redirect_url).into(),
            callback: path.into(),
            site: site.into(),
            host: String::from_utf8_lossy(&host).into(),
            login: self.login_path.as_deref().map(Into::into),
            logout: (&*self.logout_path).into(),
            after_logout: (&*self.after_logout).into(),
            back_channel: self.back_channel_logout_path.as_deref().map(Into::into),
        })
    }

    /// What is asked for, in words.
    pub(super) fn scope(&self) -> String {
        let others = self.scopes.iter().map(|scope| &**scope).filter(|scope| *scope != "openid");
        std::iter::once("openid").chain(others).collect::<Vec<&str>>().join(" ")
    }

    /// What is always the same in a request to the provider (OpenID Connect Core 1.0 section 3.1.2.1).
    pub(super) fn query(&self) -> String {
        let scope = self.scope();
        let ours = [
            ("response_type", "code"),
            ("client_id", &*self.client_id),
            ("redirect_uri", &*self.redirect_url),
            ("scope", &scope),
        ];
        form::written(ours.into_iter().chain(self.parameters.iter().map(|one| (&*one.name, &*one.value))))
    }
}

impl SessionSpec {
    /// The keys that seal and open. What is remembered of sessions is bound to the secrets by `identity`.
    pub(super) fn seals(&self, context: &str, identity: &mut digest::Context, cx: &mut CompileCx<'_>) -> Option<Seals> {
        let mut secrets = Vec::new();
        for entry in std::iter::once(&self.secret).chain(&self.previous_secret) {
            let secret = entry.read(cx)?;
            if secret.len() < LEAST_SECRET {
                cx.refuse(entry.at, "the secret has fewer than 32 bytes, and could be guessed")
                    .remedy("make one with `openssl rand -hex 32`");
                return None;
            }
            identity.update(&secret);
            secrets.push(secret);
        }
        let secrets: Vec<&[u8]> = secrets.iter().map(Vec::as_slice).collect();
        Seals::new(&secrets, context)
    }
}
