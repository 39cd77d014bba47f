//! What a policy sees of the configuration while it is compiled: where to write what is wrong, what its spec refers to, and its memory.
//!
//! Made by `compile/policies.rs` for each policy. Errors go to the [`Decoder`] that this dereferences to. A reference that leads nowhere
//! is an error of the policy, which then fails closed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use transept_model::kinds::{BackendObjectReference, ConfigMapBody, Object, SecretBody};
use transept_model::place::{ObjectName, Place, Spot};
use transept_model::policy::PROXIES;
use transept_model::schema::{Decoder, RESOURCE_NAME};
use transept_model::secrecy::{may_be_credential, ticked_url};
use transept_model::value::ticked;
use transept_model::world::World;

use crate::callout::Callee;
use crate::document::{Document, Source};
use crate::keep::Keep;
use crate::key::without_line_end;
use crate::services::{AskedService, SERVICES, ServiceRole, Services};

/// What a policy sees while it is compiled.
pub struct CompileCx<'c> {
    decoder: &'c mut Decoder,
    /// All objects of the configuration.
    pub world: &'c World,
    /// The policy itself.
    pub name: &'c ObjectName,
    keep: &'c Keep,
    needs: &'c mut Needs,
}

/// What policies need from outside, gathered while they are compiled, and what they are told beforehand.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    /// The backends that they want to ask.
    pub(crate) wanted: Vec<Wanted>,
    /// The documents that they read, each with where it is fetched once the configuration is in force.
    pub(crate) documents: Vec<(Arc<Document>, Source)>,
    /// Beside a program: the ports of the Services that it is an instance of, with those of the program that they lead to.
    pub(crate) programs: BTreeMap<u16, BTreeSet<u16>>,
}

/// A backend that a policy wants to ask.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The policy.
    pub by: ObjectName,
    /// Where the reference is written.
    pub place: Place,
    pub to: WantedBackend,
    pub callee: Callee,
}

#[derive(Debug)]
pub(crate) enum WantedBackend {
    Reference(BackendObjectReference),
    /// One that is told secrets, or whose word is believed.
    Confidant(BackendObjectReference),
    Origin(Origin),
}

/// The server of a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Whether TLS is spoken; the certificate must be valid for `host` and signed by an authority that the operating system trusts.
    pub tls: bool,
    /// A DNS name in lower case, or an address.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
}

/// A server by URL, and what to ask it.
#[derive(Clone, Debug)]
pub struct Url {
    /// Whom to ask.
    pub callee: Callee,
    /// What goes into `Host`.
    pub authority: Box<str>,
    /// `https` or `http`.
    pub scheme: &'static str,
    /// Path and query.
    pub target: Box<str>,
}

impl<'c> CompileCx<'c> {
    pub(crate) fn new(
        decoder: &'c mut Decoder,
        world: &'c World,
        name: &'c ObjectName,
        keep: &'c Keep,
        needs: &'c mut Needs,
    ) -> CompileCx<'c> {
        CompileCx { decoder, world, name, keep, needs }
    }

    /// The ports on which that is in force which a policy says of these: they themselves, and beside a program those that they lead to, because
    /// nobody but a port of the program is seen there.
    pub(crate) fn ports_meant(&self, ports: &[u16]) -> Vec<u16> {
        let led_to = ports.iter().filter_map(|port| self.needs.programs.get(port)).flatten();
        ports.iter().chain(led_to).copied().collect()
    }

    /// Memory that outlives this compile; `part` tells several of one policy apart.
    pub fn keep<T: Send + Sync + 'static>(&self, part: &str, make: impl FnOnce() -> T) -> Arc<T> {
        self.keep.of_policy(&self.name.to_string(), &format!("{} {part}", self.name), make)
    }

    /// Memory that all policies share.
    pub fn keep_for_all<T: Send + Sync + 'static>(&self, part: &str, make: impl FnOnce() -> T) -> Arc<T> {
        self.keep.of_policy(&self.name.to_string(), part, make)
    }

    /// The service that the policy asks about requests, with what is known of whether it answers.
    pub(crate) fn asked_service(&self, role: ServiceRole) -> Arc<AskedService> {
        self.keep_for_all(SERVICES, Services::default).open(role, self.name.to_string())
    }

    /// The same of one of its schemes.
    pub(crate) fn service_of_scheme(&self, role: ServiceRole, scheme: &str) -> Arc<AskedService> {
        self.keep_for_all(SERVICES, Services::default).open(role, format!("{}, scheme {scheme}", self.name))
    }

    /// Among how many proxies the policy's limits are divided, as far as it was told.
    pub(crate) fn proxies(&mut self, at: Spot) -> Option<u32> {
        let policy = self.world.policies().iter().find(|policy| policy.meta.object_name() == *self.name);
        match policy.map_or(Ok(None), |policy| policy.proxies()) {
            Ok(proxies) => Some(proxies.unwrap_or(1)),
            Err(text) => {
                self.decoder
                    .refuse(
                        at,
                        format!("the annotation {PROXIES} says {}, which is no number of proxies", ticked(text)),
                    )
                    .remedy("write a number from 1 to 10000, or leave it out where a control plane counts them");
                None
            }
        }
    }

    /// A document that is kept fresh; `part` tells documents with one label apart.
    pub fn document(&mut self, part: &str, label: &str, source: Source) -> Arc<Document> {
        let document = Document::of(self.keep, part, label, &source);
        self.needs.documents.push((Arc::clone(&document), source));
        document
    }

    /// The memories of all policies.
    pub(crate) fn keep_everywhere(&self) -> &Keep {
        self.keep
    }

    /// A Secret in the namespace of the policy.
    pub fn secret(&mut self, at: Spot, name: &str) -> Option<Arc<Object<SecretBody>>> {
        let namespace = &self.name.namespace;
        let found = self.world.secret(namespace, name).cloned();
        if found.is_none() {
            // What cannot be a name, or does not look like one, may be the secret itself.
            let why = match (RESOURCE_NAME.accept)(name) && !may_be_credential(name) {
                true => format!("there is no Secret {namespace}/{name}"),
                false => format!("there is no Secret of that name in {namespace}"),
            };
            self.decoder.refuse(at, why).remedy("add it, or mend the name");
        }
        found
    }

    /// An entry of a Secret in the namespace of the policy, without the line end that editors and tools leave behind it. `called` is what people are told
    /// it is called: where they write its name, the secret itself may stand instead.
    pub fn secret_entry(&mut self, at: Spot, name: &str, entry: &str, called: &str) -> Option<Vec<u8>> {
        let secret = self.secret(at, name)?;
        let bytes = secret.spec.entry(entry).map(|bytes| without_line_end(bytes).to_vec());
        if bytes.is_none() {
            let why = format!("the Secret {}/{name} does not have the entry {called}", self.name.namespace);
            self.decoder.refuse(at, why).remedy("add it, or mend the name");
        }
        bytes
    }

    /// As [`CompileCx::secret_entry`], where only text can be used.
    pub fn secret_text(&mut self, at: Spot, name: &str, entry: &str, called: &str) -> Option<String> {
        let text = String::from_utf8(self.secret_entry(at, name, entry, called)?).ok();
        if text.is_none() {
            let why =
                format!("the entry {called} of the Secret {}/{name} is there, but is no text", self.name.namespace);
            self.decoder.refuse(at, why).remedy("write text there (UTF-8)");
        }
        text
    }

    /// A ConfigMap in the namespace of the policy.
    pub fn config_map(&mut self, at: Spot, name: &str) -> Option<Arc<Object<ConfigMapBody>>> {
        let namespace = &self.name.namespace;
        let found = self.world.config_map(namespace, name).cloned();
        if found.is_none() {
            let why = format!("there is no ConfigMap {namespace}/{name}");
            self.decoder.refuse(at, why).remedy("add it, or mend the name");
        }
        found
    }

    /// The Service or Backend of a reference, to be asked by callouts. Whether it exists is known when the policy is first used: a
    /// callee that does not is answered for by the policy, which fails closed.
    pub fn backend(&mut self, reference: &BackendObjectReference) -> Callee {
        self.want(reference.at, WantedBackend::Reference(reference.clone()))
    }

    /// The same for one that is told secrets, or whose word is believed: it must be on this machine, or be reached by TLS or through the mesh.
    pub fn confidant(&mut self, reference: &BackendObjectReference) -> Callee {
        self.want(reference.at, WantedBackend::Confidant(reference.clone()))
    }

    /// The server of an absolute URL with the scheme `https`, or `http` where what is said there is not secret and cannot be forged on the
    /// way: on this machine, or when `plain` allows it.
    pub fn url(&mut self, at: Spot, text: &str, plain: PlainHttp) -> Option<Url> {
        match parse_url(text, plain) {
            Ok((origin, authority, target)) => {
                let scheme = if origin.tls { "https" } else { "http" };
                let callee = self.want(at, WantedBackend::Origin(origin));
                Some(Url { callee, authority: authority.into(), scheme, target: target.into() })
            }
            Err((why, remedy)) => {
                self.decoder.refuse(at, why).remedy(remedy);
                None
            }
        }
    }

    fn want(&mut self, at: Spot, to: WantedBackend) -> Callee {
        let callee = Callee::default();
        let place = self.decoder.place(at);
        self.needs.wanted.push(Wanted { by: self.name.clone(), place, to, callee: Arc::clone(&callee) });
        callee
    }
}

/// Whether a URL may be asked without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainHttp {
    /// On this machine only.
    OnLoopback,
    /// Anywhere, because the configuration says so.
    Anywhere,
}

pub(crate) type Refused = (String, &'static str);

/// Takes an absolute URL apart: the server, its authority as it is written, and what to ask it.
///
/// # Errors
/// Why it cannot be asked, and the remedy.
pub(crate) fn parse_url(text: &str, plain: PlainHttp) -> Result<(Origin, &str, String), Refused> {
    let whole = "write all of it, such as `https://login.test/keys`";
    let shown = ticked_url(text);
    let (tls, rest) = match text.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        _ => return Err((format!("{shown} is not an https URL"), whole)),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if authority.contains('@') || target.contains('#') || !target.is_ascii() || target.contains(char::is_whitespace) {
        let remedy = "leave out user names, passwords and fragments, and write other characters as %XX";
        return Err((format!("{shown} holds what a server is not sent"), remedy));
    }
    let parts = transept_wire::normalize::authority(authority.as_bytes())
        .map_err(|why| (format!("{shown} has no host: {why}"), whole))?;
    let host = String::from_utf8_lossy(parts.host).to_ascii_lowercase();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    if !tls && plain == PlainHttp::OnLoopback && !is_here {
        let remedy = "write https; in clear text anybody on the way could answer";
        return Err((format!("{shown} is asked in clear text"), remedy));
    }
    let target = match target {
        "" => "/".to_owned(),
        query if query.starts_with('?') => format!("/{query}"),
        target => target.to_owned(),
    };
    let port = parts.port.unwrap_or(if tls { 443 } else { 80 });
    Ok((Origin { tls, host: bare.into(), port }, authority, target))
}

impl Deref for CompileCx<'_> {
    type Target = Decoder;

    fn deref(&self) -> &Decoder {
        self.decoder
    }
}

impl DerefMut for CompileCx<'_> {
    fn deref_mut(&mut self) -> &mut Decoder {
        self.decoder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let (origin, authority, target) =
            parse_url("https://Login.test:8443/keys?v=1", PlainHttp::OnLoopback).expect("a URL");
        assert_eq!((&*origin.host, origin.port, origin.tls), ("login.test", 8443, true));
        assert_eq!((authority, &*target), ("Login.test:8443", "/keys?v=1"));
        let (origin, _, target) = parse_url("http://[::1]:80", PlainHttp::OnLoopback).expect("a URL");
        assert_eq!((&*origin.host, &*target), ("::1", "/"));
    }

    #[test]
    fn clear_text_is_for_this_machine_unless_the_configuration_says_so() {
        assert!(parse_url("http://login.test/", PlainHttp::OnLoopback).is_err());
        assert!(parse_url("http://login.test/", PlainHttp::Anywhere).is_ok());
        for wrong in ["login.test", "ftp://a.test/", "https://u:p@a.test/", "https://a.test/#x", "https:///x"] {
            assert!(parse_url(wrong, PlainHttp::Anywhere).is_err(), "{wrong}");
        }
        for wrong in
            ["https://u:PLANTED@a.test/", "ftp://u:PLANTED@a.test/", "u:PLANTED@a.test", "https://u:PLA/NTED@a.test"]
        {
            let (why, remedy) = parse_url(wrong, PlainHttp::OnLoopback).expect_err("a user");
            assert!(why.contains("@a.test") && !format!("{why} {remedy}").contains("PLA"), "{why}");
        }
    }
}
