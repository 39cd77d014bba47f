//! What it costs to ask who calls and how often: keys, tokens, limits, and a server that is asked first.
//!
//! Called by `scenarios`. Each peer that can do the same is told so in its own words (`peers`); scenario a of the same run is the same
//! road without it. Tokens and keys are made here, so that no two runs share them.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};

use crate::load::Load;
use crate::options::Options;
use crate::peers::{Kind, Plan, Routes, Running};
use crate::process::{LOAD_CORE, Process};
use crate::report::Results;
use crate::scenarios::{Job, Scenario, measure};
use crate::stage::{Stage, wait_until_open};

/// Who issues the tokens, and for whom.
pub(crate) const ISSUER: &str = "https://login.bench.test";
pub(crate) const AUDIENCE: &str = "bench";

/// Where Redis listens.
pub(crate) const REDIS: u16 = 18_090;

/// Different tokens where none is to be seen twice in one measurement at the rates of one worker.
const TOKENS: usize = 60_000;
/// Tokens and keys where they come again.
const FEW: usize = 16;
/// Keys of a limit that knows many.
const MANY: usize = 1_000_000;

/// What stands before the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Guard {
    ApiKey,
    Rs256,
    Es256,
    Es256Again,
    Limit,
    LimitManyKeys,
    External,
    SharedLimit,
    Hmac,
    Session,
    Expressions,
}

impl Guard {
    pub(crate) fn letter(self) -> &'static str {
        match self {
            Self::ApiKey => "t",
            Self::Rs256 => "u",
            Self::Es256 => "v",
            Self::Es256Again => "w",
            Self::Limit => "x",
            Self::LimitManyKeys => "y",
            Self::External => "z",
            Self::SharedLimit => "l",
            Self::Hmac => "aa",
            Self::Session => "ab",
            Self::Expressions => "ac",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::ApiKey => "HTTP/1.1 keep-alive, 64 connections, 1 KiB, with an API key",
            Self::Rs256 => "the same with a JWT, RS256, each token once",
            Self::Es256 => "the same with a JWT, ES256, each token once",
            Self::Es256Again => "the same with a JWT, ES256, 16 tokens again and again",
            Self::Limit => "the same under a rate limit that is not reached, 16 keys",
            Self::LimitManyKeys => "the same under a rate limit that is not reached, a million keys",
            Self::External => "the same when a server is asked first over HTTP/1.1",
            Self::SharedLimit => "the same under a rate limit that is kept in Redis and not reached, 16 keys",
            Self::Hmac => "the same with a request that is signed by HMAC, each verified",
            Self::Session => "the same with the session of a browser, one cookie again and again",
            Self::Expressions => "the same when three expressions (CEL) must hold",
        }
    }

    /// Whether a peer can do it by what it has built in.
    fn is_known_by(self, kind: Kind) -> bool {
        match kind {
            Kind::Transept => true,
            Kind::Nginx => matches!(self, Self::ApiKey | Self::Limit | Self::LimitManyKeys | Self::External),
            Kind::Envoy => matches!(
                self,
                Self::ApiKey | Self::Rs256 | Self::Es256 | Self::Es256Again | Self::Limit | Self::External
            ),
            Kind::Haproxy => false,
        }
    }
}

/// What peers and load have to know about a guard.
#[derive(Debug)]
pub(crate) struct Guarding {
    pub(crate) guard: Guard,
    /// The one API key.
    pub(crate) key: String,
    /// The keys by which tokens are verified, as a JWK set.
    pub(crate) jwks: String,
    /// By which requests are signed and sessions sealed.
    pub(crate) secret: String,
    load: Load,
}

/// Measures every peer that can do it.
///
/// # Errors
/// When a peer does not start, or any answer is not the backend's.
pub(crate) fn run(guard: Guard, options: &Options, stage: &Stage, results: &mut Results) -> anyhow::Result<()> {
    let guarding = Guarding::make(guard, stage)?;
    let _redis = (guard == Guard::SharedLimit).then(|| start_redis(stage)).transpose()?;
    let mut running = Vec::new();
    for (slot, peer) in (0..).zip(options.peers.iter().filter(|peer| guard.is_known_by(peer.kind))) {
        let directory = stage.directory(&format!("{}-{}", guard.letter(), peer.kind.name()));
        let plan = Plan { guarding: Some(&guarding), ..stage.plan(slot, Routes::Any) };
        running.push(Running::start(peer, &plan, &directory)?);
    }
    if running.is_empty() {
        bail!("no peer that is to be measured can do this");
    }
    let jobs: Vec<Job<'_>> = running
        .iter()
        .map(|running| Job {
            running,
            label: running.name().to_owned(),
            load: guarding.load.clone(),
            url: format!("http://127.0.0.1:{}/", running.ports.http),
        })
        .collect();
    measure(Scenario::Guarded(guard), &jobs, options, results)
}

impl Guarding {
    fn make(guard: Guard, stage: &Stage) -> anyhow::Result<Guarding> {
        let key = api_key();
        let mut jwks = String::new();
        let directory = stage.directory(&format!("{}-load", guard.letter()));
        fs::create_dir_all(&directory)?;
        let secret = fresh_secret();
        let always = |fields: &[(&str, String)]| {
            let script = fields.iter().map(|(field, value)| every_time(field, value)).collect();
            (script, fields.iter().map(|(field, value)| format!("{field}: {value}")).collect())
        };
        let a_user = || vec!["X-User: 1".to_owned()];
        let (script, headers): (String, Vec<String>) = match guard {
            Guard::ApiKey => always(&[("X-API-Key", key.clone())]),
            Guard::External | Guard::Expressions => always(&[("X-User", "1".to_owned())]),
            Guard::Limit | Guard::SharedLimit => (by_turns(FEW), a_user()),
            Guard::LimitManyKeys => (by_turns(MANY), a_user()),
            Guard::Hmac => always(&signed(&secret)),
            Guard::Session => {
                let unix = SystemTime::now().duration_since(UNIX_EPOCH)?;
                let cookie = transept_engine::login::session_cookie(secret.as_bytes(), ISSUER, AUDIENCE, unix);
                always(&[("Cookie", cookie.context("no session could be sealed")?)])
            }
            Guard::Rs256 | Guard::Es256 | Guard::Es256Again => {
                let signer = Signer::make(guard)?;
                jwks = signer.jwks().to_string();
                let count = if guard == Guard::Es256Again { FEW } else { TOKENS };
                let tokens = (0..count).map(|number| signer.token(number)).collect::<anyhow::Result<Vec<_>>>()?;
                let file = directory.join("tokens");
                fs::write(&file, tokens.join("\n"))?;
                let first = tokens.first().context("no token")?;
                (from_file(&file), vec![format!("Authorization: Bearer {first}")])
            }
        };
        let file = directory.join("load.lua");
        fs::write(&file, script)?;
        let load = Load::Script { connections: 64, script: file, headers };
        Ok(Guarding { guard, key, jwks, secret, load })
    }
}

/// A key in the format of ours: brand, environment, random part, checksum.
fn api_key() -> String {
    transept_engine::key::make("bench", "test", |random| {
        // Fresh from the operating system, as all secrets are.
        let _ = aws_lc_rs::rand::fill(random);
    })
}

/// Letters for 32 random bytes.
fn fresh_secret() -> String {
    let mut random = [0; 32];
    // Fresh from the operating system, as all secrets are.
    let _ = aws_lc_rs::rand::fill(&mut random);
    base64url(&random)
}

/// The fields of a request for `/` that is signed now, in the form of the scheme `hmac`.
fn signed(secret: &str) -> [(&'static str, String); 2] {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let base = format!("x-date: {date}\n@request-target: get /");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), base.as_bytes());
    // The other alphabet of base64, and padded.
    let signature = base64url(tag.as_ref()).replace('-', "+").replace('_', "/") + "=";
    let authorization = format!(
        "hmac username=\"bench\", algorithm=\"hmac-sha256\", headers=\"x-date @request-target\", signature=\"{signature}\""
    );
    [("X-Date", date), ("Authorization", authorization)]
}

fn every_time(field: &str, value: &str) -> String {
    format!("wrk.headers[\"{field}\"] = \"{}\"\n", value.replace('"', "\\\""))
}

/// Users by number, one after the other. The steps are wide, so that neighbours do not come one after the other.
fn by_turns(count: usize) -> String {
    format!(
        "local at = 0\nlocal headers = {{}}\n\
         request = function()\n  at = (at + 7919) % {count}\n  headers[\"X-User\"] = tostring(at)\n  return wrk.format(\"GET\", \"/\", headers)\nend\n"
    )
}

fn from_file(file: &std::path::Path) -> String {
    format!(
        "local tokens = {{}}\nfor line in io.lines(\"{}\") do tokens[#tokens + 1] = \"Bearer \" .. line end\n\
         local at = 0\nlocal headers = {{}}\n\
         request = function()\n  at = at % #tokens + 1\n  headers[\"Authorization\"] = tokens[at]\n  return wrk.format(\"GET\", \"/\", headers)\nend\n",
        file.display()
    )
}

/// A key pair that signs tokens.
enum Signer {
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
}

impl Signer {
    fn make(guard: Guard) -> anyhow::Result<Signer> {
        if guard == Guard::Rs256 {
            return Ok(Signer::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048)?)));
        }
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref());
        Ok(Signer::Ec(pair.map_err(|_| anyhow::anyhow!("a fresh key was refused"))?))
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Signer::Rsa(_) => "RS256",
            Signer::Ec(_) => "ES256",
        }
    }

    fn jwks(&self) -> Value {
        let mut key = json!({ "kid": "bench", "use": "sig", "alg": self.algorithm() });
        match self {
            Signer::Rsa(pair) => {
                let public = pair.public_key();
                key["kty"] = "RSA".into();
                key["n"] = base64url(public.modulus().big_endian_without_leading_zero()).into();
                key["e"] = base64url(public.exponent().big_endian_without_leading_zero()).into();
            }
            Signer::Ec(pair) => {
                // An uncompressed point: a byte for the form, then both coordinates.
                let point = pair.public_key().as_ref();
                key["kty"] = "EC".into();
                key["crv"] = "P-256".into();
                key["x"] = base64url(point.get(1..33).unwrap_or_default()).into();
                key["y"] = base64url(point.get(33..65).unwrap_or_default()).into();
            }
        }
        json!({ "keys": [key] })
    }

    fn token(&self, number: usize) -> anyhow::Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let header = json!({ "alg": self.algorithm(), "typ": "JWT", "kid": "bench" });
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": format!("user-{number}"), "iat": now, "exp": now + 3600, "scope": "read write",
            "jti": format!("{number:08}"),
        });
        let mut token =
            format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
        let signature = match self {
            Signer::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature)?;
                signature
            }
            Signer::Ec(pair) => pair.sign(&SystemRandom::new(), token.as_bytes())?.as_ref().to_vec(),
        };
        let _ = write!(token, ".{}", base64url(&signature));
        Ok(token)
    }
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len() * 4 / 3 + 3);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(char::from(DIGITS[index as usize]));
        }
    }
    text
}

fn start_redis(stage: &Stage) -> anyhow::Result<Process> {
    let directory = stage.directory("redis");
    fs::create_dir_all(&directory)?;
    let arguments: Vec<String> =
        ["--bind", "127.0.0.1", "--port", &REDIS.to_string(), "--save", "", "--appendonly", "no"]
            .map(str::to_owned)
            .to_vec();
    let program = PathBuf::from("redis-server");
    let mut redis = Process::start("Redis", LOAD_CORE, &program, &arguments, &directory.join("log"))?;
    wait_until_open(REDIS, &mut redis)?;
    Ok(redis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_that_of_rfc_4648() {
        for (bytes, text) in
            [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("\u{ff}", "w78")]
        {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
    }
}
