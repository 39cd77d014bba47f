//! What the schemes of `AuthenticationPolicy` have in common, and the table of them: a scheme is one file and one line here.
//!
//! A scheme finds its credential in a request, says whose it is, removes it, and tells clients how to show one. It knows nothing of other
//! schemes, of `require` and of limits.

use std::any::Any;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use transept_model::object;
use transept_model::schema::{Decoder, Rule, SECTION_NAME, Schema, Text};
use transept_model::value::Value;
use transept_wire::head::{FieldName, Request};

use super::super::CompileCx;
use super::exhibits::Exhibit;
use super::nonces::Uses;
use super::{api_key, basic, client_certificate, hmac, introspection, jwt, login, signature};
use crate::callout::{Callout, CalloutResult};
use crate::exchange::Exchange;
use crate::principal::Principal;
use crate::redact::CredentialPlaces;
use crate::verdict::Reply;

/// What a scheme says of a request. No sentence in it may hold anything of a credential.
#[derive(Debug)]
pub(super) enum Proof {
    /// There is no credential of this scheme.
    Absent,
    /// There is one, and it is no good. The sentence is for logs and explanations: `the key is not known`.
    Invalid(Box<str>),
    /// There is one, it is genuine, and its time is over: it is no good for anybody else either.
    Over(Box<str>),
    /// There is one, and nobody can tell at present. The request is refused, unless another alternative lets it in.
    Unavailable(Box<str>),
    /// The same, and it can be told after a while.
    Later(Box<str>, Later),
    /// It is good, and this is who shows it.
    Valid(Arc<Principal>),
    /// The same, where that uses something up, which may have been used before.
    Once(Arc<Principal>, Uses),
    /// Nobody is let in: this is the answer, as of a page that belongs to the scheme.
    Answer(Box<Reply>),
    /// The same, where it is the client's fault: it counts as a failure.
    Refused(Box<Reply>),
    /// Something has to be done first; the scheme goes on with what it remembers and what came of it ([`Scheme::resume`]).
    Ask(Box<Callout>, Box<dyn Any + Send>),
}

/// When it can be told whether a credential is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Later {
    /// After so long.
    pub(super) wait: Duration,
    /// Whether it counts as a failure all the same: it may be one of many guesses.
    pub(super) is_guess: bool,
}

impl Proof {
    pub(super) fn invalid(why: impl Into<Box<str>>) -> Proof {
        Proof::Invalid(why.into())
    }

    /// It is good, and uses these up.
    pub(super) fn good(principal: Arc<Principal>, uses: Uses) -> Proof {
        if uses.is_empty() { Proof::Valid(principal) } else { Proof::Once(principal, uses) }
    }
}

/// What a client is told about a scheme, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault<'a> {
    /// It has shown nothing.
    Missing,
    /// What it has shown is no good.
    Invalid,
    /// What it has shown is good, but not for these scopes.
    Scopes(&'a [&'a str]),
}

/// A way to say who one is.
pub(super) trait Scheme: Sized + Send + Sync + fmt::Debug {
    /// How it is written.
    type Spec: Schema;

    /// Makes the scheme with this name from its spec. What is wrong is written into `cx`; nothing is returned then.
    fn compile(name: &Text, spec: &Self::Spec, cx: &mut CompileCx<'_>) -> Option<Self>;

    /// The names of the Secrets that it needs.
    fn secrets(spec: &Self::Spec) -> Vec<Text> {
        let _ = spec;
        Vec::new()
    }

    /// Says where its credentials stand, besides `Authorization` and cookies, so that no log repeats them.
    fn places(&self, places: &mut CredentialPlaces) {
        let _ = places;
    }

    /// Whether a request shows a credential of this scheme, good or not. Cheap: it is asked before anything is computed.
    fn presents(&self, x: &Exchange<'_>) -> bool;

    /// Where that stands, each place once: what stands there may as well be meant for another scheme that reads it.
    fn exhibits<'x>(&'x self, x: &'x Exchange<'_>, add: &mut dyn FnMut(Exhibit<'x>));

    /// The fields in which what is spelled like an API key is one.
    fn key_fields(&self) -> Vec<FieldName> {
        Vec::new()
    }

    /// What is spelled like an API key in these fields is left to the schemes that read it there. Without any, no scheme reads keys.
    fn leave_keys(&mut self, fields: &[FieldName]) {
        let _ = fields;
    }

    /// Whether somebody is asked about credentials, who learns them.
    const ASKS_ISSUER: bool = false;

    /// Another scheme knows what is shown, that this one has found to be no good: it need not be computed again.
    fn note_known_elsewhere(&self, x: &Exchange<'_>) {
        let _ = x;
    }

    /// Who shows the credential.
    fn authenticate(&self, x: &mut Exchange<'_>) -> Proof;

    /// Goes on after [`Proof::Ask`].
    fn resume(&self, x: &mut Exchange<'_>, between: Box<dyn Any + Send>, result: CalloutResult) -> Proof {
        let _ = (between, result);
        self.authenticate(x)
    }

    /// Whether browsers show its credentials by themselves, also for pages of others. Then nobody is blamed for showing none.
    const IS_AMBIENT: bool = false;

    /// Whether a request is for a page that belongs to the scheme.
    fn has_page(&self, x: &Exchange<'_>) -> bool {
        let _ = x;
        false
    }

    /// Whether a request shows a credential that is known to be good, so that no limit of failures need keep it out. Cheap.
    fn is_known(&self, x: &Exchange<'_>) -> bool {
        let _ = x;
        false
    }

    /// Whether what is asked for tries a credential, at a cost: it counts as a failure until it has turned out to be none.
    fn is_try(&self, callout: &Callout, x: &Exchange<'_>) -> bool {
        let _ = x;
        matches!(callout, Callout::Compute(_))
    }

    /// What is done for a client that has shown nothing, instead of a challenge.
    fn invite(&self, x: &mut Exchange<'_>) -> Option<Proof> {
        let _ = x;
        None
    }

    /// Gives the backend what the client got by this scheme, after all credentials were removed.
    fn hand_on(&self, x: &mut Exchange<'_>) {
        let _ = x;
    }

    /// Removes its credentials from a request that is let in, wherever they stand.
    fn strip(&self, request: &mut Request);

    /// The challenge (RFC 9110 section 11.3) for a client.
    fn challenge(&self, realm: &str, fault: &Fault<'_>) -> String;

    /// Whether a principal that was let in by this scheme, on a connection that is still open, would be let in today, and as whom: its
    /// groups and scopes may have changed. Its end ([`Principal::until`]) is looked at by the caller.
    ///
    /// # Errors
    /// Why not.
    fn stands(&self, principal: &Arc<Principal>, x: &Exchange<'_>) -> Result<Arc<Principal>, Box<str>> {
        let _ = x;
        Ok(Arc::clone(principal))
    }

    /// The same where somebody else has vouched for the principal, and his answer has ended ([`Principal::asked`]): he may be asked again about
    /// what the request has shown, which goes on in [`Scheme::resume`]. Nothing is proved again by who has shown it.
    fn renew(&self, principal: &Arc<Principal>, x: &mut Exchange<'_>) -> Proof {
        self.stands(principal, x).map_or_else(Proof::Invalid, Proof::Valid)
    }
}

/// What follows this word, and space, in a value of `Authorization` (RFC 9110 section 11.4). Some programs take a tab for the space.
pub(super) fn after_word<'v>(value: &'v [u8], word: &str) -> Option<&'v [u8]> {
    let (first, rest) = value.split_at_checked(word.len())?;
    (first.eq_ignore_ascii_case(word.as_bytes()) && matches!(rest, [b' ' | b'\t', ..])).then(|| rest.trim_ascii())
}

/// A challenge with a realm, and with RFC 6750's words for what is wrong (section 3).
pub(super) fn challenge(scheme: &str, realm: &str, fault: &Fault<'_>) -> String {
    let mut text = format!("{scheme} realm=\"{realm}\"");
    match fault {
        Fault::Missing => {}
        Fault::Invalid => text.push_str(", error=\"invalid_token\""),
        Fault::Scopes(scopes) => {
            text.push_str(", error=\"insufficient_scope\"");
            if !scopes.is_empty() {
                // What may stand in a scope (RFC 6749 section 3.3) was checked when the requirement was read.
                let _ = write!(text, ", scope=\"{}\"", scopes.join(" "));
            }
        }
    }
    text
}

macro_rules! schemes {
    ($( $(#[doc = $doc:literal])+ $variant:ident: $field:ident = $type:ty; )*) => {
        object! {
            /// A way to say who one is: its name, and one of the other fields.
            pub struct SchemeSpec {
                /// Its name, by which `require` and logs speak of it.
                name: Text => Rule::Is(&SECTION_NAME);
                $( $(#[doc = $doc])+ $field: Option<<$type as Scheme>::Spec>; )*
            }
            check check_scheme;
        }

        /// Any scheme.
        #[derive(Debug)]
        pub(super) enum AnyScheme { $( $variant($type), )* }

        impl SchemeSpec {
            fn count(&self) -> usize {
                [ $( self.$field.is_some(), )* ].into_iter().filter(|written| *written).count()
            }

            /// The names of the Secrets that it needs.
            pub(super) fn secrets(&self) -> Vec<Text> {
                let mut found = Vec::new();
                $( found.extend(self.$field.iter().flat_map(<$type as Scheme>::secrets)); )*
                found
            }
        }

        const FIELDS: &[&str] = &[ $( transept_model::wire_name!($field), )* ];

        impl AnyScheme {
            /// Makes the scheme that is written.
            pub(super) fn compile(spec: &SchemeSpec, cx: &mut CompileCx<'_>) -> Option<AnyScheme> {
                $( if let Some(inner) = &spec.$field {
                    return <$type as Scheme>::compile(&spec.name, inner, cx).map(AnyScheme::$variant);
                } )*
                None
            }

            pub(super) fn places(&self, places: &mut CredentialPlaces) {
                match self { $( AnyScheme::$variant(scheme) => scheme.places(places), )* }
            }

            pub(super) fn presents(&self, x: &Exchange<'_>) -> bool {
                match self { $( AnyScheme::$variant(scheme) => scheme.presents(x), )* }
            }

            pub(super) fn exhibits<'x>(&'x self, x: &'x Exchange<'_>, add: &mut dyn FnMut(Exhibit<'x>)) {
                match self { $( AnyScheme::$variant(scheme) => scheme.exhibits(x, add), )* }
            }

            pub(super) fn key_fields(&self) -> Vec<FieldName> {
                match self { $( AnyScheme::$variant(scheme) => scheme.key_fields(), )* }
            }

            pub(super) fn leave_keys(&mut self, fields: &[FieldName]) {
                match self { $( AnyScheme::$variant(scheme) => scheme.leave_keys(fields), )* }
            }

            pub(super) fn asks_issuer(&self) -> bool {
                match self { $( AnyScheme::$variant(_) => <$type as Scheme>::ASKS_ISSUER, )* }
            }

            pub(super) fn note_known_elsewhere(&self, x: &Exchange<'_>) {
                match self { $( AnyScheme::$variant(scheme) => scheme.note_known_elsewhere(x), )* }
            }

            pub(super) fn authenticate(&self, x: &mut Exchange<'_>) -> Proof {
                match self { $( AnyScheme::$variant(scheme) => scheme.authenticate(x), )* }
            }

            pub(super) fn resume(
                &self, x: &mut Exchange<'_>, between: Box<dyn Any + Send>, result: CalloutResult,
            ) -> Proof {
                match self { $( AnyScheme::$variant(scheme) => scheme.resume(x, between, result), )* }
            }

            pub(super) fn is_ambient(&self) -> bool {
                match self { $( AnyScheme::$variant(_) => <$type as Scheme>::IS_AMBIENT, )* }
            }

            pub(super) fn has_page(&self, x: &Exchange<'_>) -> bool {
                match self { $( AnyScheme::$variant(scheme) => scheme.has_page(x), )* }
            }

            pub(super) fn is_known(&self, x: &Exchange<'_>) -> bool {
                match self { $( AnyScheme::$variant(scheme) => scheme.is_known(x), )* }
            }

            pub(super) fn is_try(&self, callout: &Callout, x: &Exchange<'_>) -> bool {
                match self { $( AnyScheme::$variant(scheme) => scheme.is_try(callout, x), )* }
            }

            pub(super) fn invite(&self, x: &mut Exchange<'_>) -> Option<Proof> {
                match self { $( AnyScheme::$variant(scheme) => scheme.invite(x), )* }
            }

            pub(super) fn hand_on(&self, x: &mut Exchange<'_>) {
                match self { $( AnyScheme::$variant(scheme) => scheme.hand_on(x), )* }
            }

            pub(super) fn strip(&self, request: &mut Request) {
                match self { $( AnyScheme::$variant(scheme) => scheme.strip(request), )* }
            }

            pub(super) fn challenge(&self, realm: &str, fault: &Fault<'_>) -> String {
                match self { $( AnyScheme::$variant(scheme) => scheme.challenge(realm, fault), )* }
            }

            pub(super) fn stands(
                &self, principal: &Arc<Principal>, x: &Exchange<'_>,
            ) -> Result<Arc<Principal>, Box<str>> {
                match self { $( AnyScheme::$variant(scheme) => scheme.stands(principal, x), )* }
            }

            pub(super) fn renew(&self, principal: &Arc<Principal>, x: &mut Exchange<'_>) -> Proof {
                match self { $( AnyScheme::$variant(scheme) => scheme.renew(principal, x), )* }
            }
        }
    };
}

schemes! {
    /// A key of an ApiKey object.
    ApiKey: api_key = api_key::ApiKeyScheme;
    /// Names and passwords.
    Basic: basic = basic::BasicScheme;
    /// Signed tokens (JWT).
    Jwt: jwt = jwt::JwtScheme;
    /// Tokens that are looked up at their issuer (OAuth 2.0 token introspection).
    Introspection: introspection = introspection::IntrospectionScheme;
    /// Sessions of browsers that log in at an OpenID provider.
    Login: login = login::LoginScheme;
    /// Certificates of clients that the listener has verified.
    ClientCertificate: client_certificate = client_certificate::ClientCertificateScheme;
    /// Requests that are signed (RFC 9421).
    Signature: signature = signature::SignatureScheme;
    /// Requests that are signed by HMAC in `Authorization`.
    Hmac: hmac = hmac::HmacScheme;
}

fn check_scheme(spec: &SchemeSpec, _: &Value, cx: &mut Decoder) {
    if spec.count() != 1 {
        let fields: Vec<String> = FIELDS.iter().map(|field| format!("`{field}`")).collect();
        let why = format!("the scheme `{}` needs one of {}", &*spec.name, fields.join(", "));
        cx.refuse(spec.at, why).remedy("write one, such as `apiKey: {}`; several ways are several schemes");
    }
}
