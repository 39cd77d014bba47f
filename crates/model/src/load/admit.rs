//! One document becomes one object.
//!
//! Called by the loader for every document. It takes the envelope apart (apiVersion, kind, metadata), finds the kind, and lets
//! the kind's type read the contents.

use crate::kinds::metadata::MetadataFields;
use crate::kinds::{self as k, Age, Body, Kind, Metadata, Object, Scope, TRANSEPT_GROUP};
use crate::load::Broken;
use crate::load::draft::{Draft, UNNUMBERED};
use crate::load::outside::{self, FROM_ENV, FROM_FILE};
use crate::load::recognise::{Recognised, recognise, wrong};
use crate::load::standalone::DEFAULT_NAMESPACE;
use crate::place::{Invalid, Note, ObjectName, Place, SourceText, Spot};
use crate::policy::{self, Policy, PolicyKind, article};
use crate::schema::{Decoder, Schema};
use crate::value::{self, Budget, Entry, Node, Value, Words};

/// A document taken apart.
struct Envelope {
    at: Place,
    age: Age,
    api_version: Option<Value>,
    kind: Option<Value>,
    metadata: Option<Value>,
    /// Everything else, without `status`.
    rest: Vec<Entry>,
}

impl Draft<'_> {
    /// Reads one file, document by document: no tree outlives its object.
    pub(super) fn read_file(&mut self, file: u32, source: &SourceText, budget: &Budget, words: &mut Words) {
        let before = self.invalid.len();
        let mut number = 0;
        let broken = value::read_each(source, budget, words, |document| {
            for document in flatten(document) {
                let age = Age::Written { file, document: number };
                number = number.saturating_add(1);
                self.read_document(source, age, document);
            }
        });
        self.invalid.splice(before..before, broken);
    }

    fn read_document(&mut self, source: &SourceText, age: Age, document: Value) {
        let at = Place::new(source.name.clone(), document.at);
        let Node::Map(entries) = document.node else {
            let why = format!("expected an object, found {}", document.kind());
            let remedy = "an object has apiVersion, kind and metadata".to_owned();
            // It may be a file that holds a secret and nothing else.
            self.invalid.push(Invalid { is_misshapen: true, ..wrong(at, "", why, Some(remedy)) });
            return;
        };
        let mut envelope = Envelope { at, age, api_version: None, kind: None, metadata: None, rest: Vec::new() };
        for entry in entries {
            match &*entry.key {
                "apiVersion" => envelope.api_version = Some(entry.value),
                "kind" => envelope.kind = Some(entry.value),
                "metadata" => envelope.metadata = Some(entry.value),
                "status" => {}
                _ => envelope.rest.push(entry),
            }
        }
        self.dispatch(envelope);
    }

    fn dispatch(&mut self, envelope: Envelope) {
        let file = envelope.at.file.clone();
        let mut missing = |field: &'static str, value: Option<&Value>| {
            let text = value.and_then(Value::text).filter(|text| !text.is_empty());
            if text.is_none() {
                let at = value.map_or(envelope.at.spot(), |value| value.at);
                let why = match value {
                    Some(_) => "expected text".to_owned(),
                    None => format!("the field `{field}` is missing"),
                };
                let remedy = (field == "apiVersion")
                    .then(|| "for example `apiVersion: gateway.networking.k8s.io/v1`".to_owned());
                self.invalid.push(wrong(Place::new(file.clone(), at), field, why, remedy));
            }
            text.map(str::to_owned)
        };
        let api_version = missing("apiVersion", envelope.api_version.as_ref());
        let kind = missing("kind", envelope.kind.as_ref());
        let (Some(api_version), Some(kind)) = (api_version, kind) else {
            return;
        };
        match recognise(&api_version, &kind, self.kinds) {
            Recognised::Served(kind) => self.admit_kind(kind, envelope),
            Recognised::Policy(kind) => self.admit_policy(kind, envelope),
            Recognised::Skipped(what) => self.notes.push(Note {
                object: loose_name(&kind, Scope::Cluster, envelope.metadata.as_ref()),
                at: envelope.at,
                what,
            }),
            Recognised::Wrong(field, why, remedy) => {
                let value = match field {
                    "kind" => envelope.kind.as_ref(),
                    _ => envelope.api_version.as_ref(),
                };
                let at = value.map_or(envelope.at.spot(), |value| value.at);
                let mut invalid = wrong(Place::new(file, at), field, why, remedy);
                invalid.object = loose_name(&kind, Scope::Cluster, envelope.metadata.as_ref());
                self.invalid.push(invalid);
            }
        }
    }

    fn admit_kind(&mut self, kind: &'static str, envelope: Envelope) {
        match kind {
            k::NamespaceBody::KIND => self.admit(envelope, |draft| &mut draft.namespaces),
            k::ServiceSpec::KIND => self.admit(envelope, |draft| &mut draft.services),
            k::EndpointSliceBody::KIND => {
                self.admit(envelope, |draft| &mut draft.endpoint_slices);
            }
            k::SecretBody::KIND => self.admit_secret(envelope),
            k::ConfigMapBody::KIND => self.admit(envelope, |draft| &mut draft.config_maps),
            k::GatewayClassSpec::KIND => {
                self.admit(envelope, |draft| &mut draft.gateway_classes);
            }
            k::GatewaySpec::KIND => self.admit(envelope, |draft| &mut draft.gateways),
            k::HttpRouteSpec::KIND => self.admit(envelope, |draft| &mut draft.http_routes),
            k::GrpcRouteSpec::KIND => self.admit(envelope, |draft| &mut draft.grpc_routes),
            k::TcpRouteSpec::KIND => self.admit(envelope, |draft| &mut draft.tcp_routes),
            k::ReferenceGrantSpec::KIND => self.admit(envelope, |draft| &mut draft.grants),
            k::BackendTlsPolicySpec::KIND => {
                self.admit_tls_policy(envelope);
            }
            k::BackendSpec::KIND => self.admit(envelope, |draft| &mut draft.backends),
            k::WorkloadSpec::KIND => self.admit(envelope, |draft| &mut draft.workloads),
            k::ConsumerSpec::KIND => self.admit(envelope, |draft| &mut draft.consumers),
            k::ApiKeySpec::KIND => self.admit(envelope, |draft| &mut draft.api_keys),
            _ => {}
        }
    }

    fn admit<S: Kind>(&mut self, envelope: Envelope, list: fn(&mut Self) -> &mut Vec<Object<S>>) {
        if let Some(object) = self.read_object::<S>(envelope) {
            self.add(object, list);
        }
    }

    fn admit_secret(&mut self, envelope: Envelope) {
        if let Some(mut secret) = self.read_object::<k::SecretBody>(envelope) {
            outside::fetch(&mut secret, self.outside, &mut self.notes);
            self.add(secret, |draft| &mut draft.secrets);
        }
    }

    /// A BackendTLSPolicy that is not valid is kept on the targets that it tells, when policies are: without it, what it protects would
    /// go out in clear text.
    fn admit_tls_policy(&mut self, mut envelope: Envelope) {
        let is_spec = |entry: &&Entry| &*entry.key == "spec";
        let spec = envelope.rest.iter().find(is_spec).filter(|_| self.broken == Broken::Kept).cloned();
        let metadata = envelope.metadata.clone().filter(|_| spec.is_some());
        let rest = std::mem::take(&mut envelope.rest);
        let (at, age) = (envelope.at.clone(), envelope.age);
        let before = self.invalid.len();
        let read = self.read_object::<k::BackendTlsPolicySpec>(Envelope { rest, ..envelope });
        let salvaged = spec.filter(|_| self.invalid.len() > before).and_then(|entry| policy::salvage(entry.value));
        let Some((target_refs, rest)) = salvaged else {
            if let Some(policy) = read {
                self.add(policy, |draft| &mut draft.backend_tls_policies);
            }
            return;
        };
        let mut cx = Decoder::new(at.file.clone());
        let envelope = Envelope { at, age, api_version: None, kind: None, metadata, rest: Vec::new() };
        // Without its name nobody could say when it is better, or gone.
        let meta = read_metadata(&envelope, k::BackendTlsPolicySpec::KIND, k::BackendTlsPolicySpec::SCOPE, &mut cx);
        let Some(meta) = meta else { return };
        let problems = self.invalid.split_off(before);
        let reasons: Vec<String> = problems.iter().map(|problem| problem.why.clone()).collect();
        let note = |problem: Invalid| Note { at: problem.at, object: problem.object, what: problem.why };
        self.notes.extend(problems.into_iter().map(note));
        self.broken_tls.insert((meta.namespace.clone(), meta.name.clone()), reasons.join("; ").into());
        let spec = k::BackendTlsPolicySpec::broken(rest.at, target_refs);
        self.add(Object { meta, spec }, |draft| &mut draft.backend_tls_policies);
    }

    /// Reads an object of kind `S`. Its errors go to the draft; the object is kept when it could be read at all, so that
    /// later ones do not seem to refer to nothing.
    fn read_object<S: Kind>(&mut self, envelope: Envelope) -> Option<Object<S>> {
        let mut cx = Decoder::new(envelope.at.file.clone());
        cx.about(loose_name(S::KIND, S::SCOPE, envelope.metadata.as_ref()));
        let meta = read_metadata(&envelope, S::KIND, S::SCOPE, &mut cx);
        let at = envelope.at.spot();
        let spec = match S::BODY {
            Body::Inline => {
                let contents = Value { at, node: Node::Map(envelope.rest) };
                S::decode(&contents, &mut cx)
            }
            Body::Spec => {
                let contents = take_spec(envelope.rest, at, &mut cx);
                // Of the standard's own kinds Kubernetes drops such fields, too.
                if S::GROUP == TRANSEPT_GROUP {
                    cx.refuse_nothing();
                }
                contents.and_then(|spec| cx.within("spec", |cx| S::decode(&spec, cx)))
            }
        };
        self.invalid.append(&mut cx.into_problems());
        Some(Object { meta: meta?, spec: spec? })
    }

    fn admit_policy(&mut self, kind: &PolicyKind, envelope: Envelope) {
        let mut cx = Decoder::new(envelope.at.file.clone());
        cx.about(loose_name(kind.kind, Scope::Namespaced, envelope.metadata.as_ref()));
        let meta = read_metadata(&envelope, kind.kind, Scope::Namespaced, &mut cx);
        let spec = take_spec(envelope.rest, envelope.at.spot(), &mut cx);
        let kept = spec.as_ref().filter(|_| self.broken == Broken::Kept).cloned();
        cx.refuse_nothing();
        let mut read = spec.and_then(|spec| cx.within("spec", |cx| policy::read(kind, spec, cx)));
        let mut problems = cx.into_problems();
        let mut broken = None;
        if let (false, Some(_), Some(salvaged)) = (problems.is_empty(), &meta, kept.and_then(policy::salvage)) {
            read = Some(salvaged);
            let reasons: Vec<String> = problems.iter().map(|problem| problem.why.clone()).collect();
            broken = Some(reasons.join("; ").into());
            let note = |problem: Invalid| Note { at: problem.at, object: problem.object, what: problem.why };
            self.notes.extend(problems.drain(..).map(note));
        }
        self.invalid.append(&mut problems);
        if let (Some(meta), Some((target_refs, spec))) = (meta, read) {
            self.add_policy(Policy { kind: kind.kind, merge: kind.merge, meta, target_refs, spec, broken });
        }
    }
}

/// A `List`, as `kubectl get -o yaml` writes it, is its items.
fn flatten(document: Value) -> Vec<Value> {
    let is_list = document.field("kind").and_then(Value::text) == Some("List")
        && document.field("items").is_some_and(|items| matches!(items.node, Node::List(_)));
    if !is_list {
        return vec![document];
    }
    let Node::Map(entries) = document.node else {
        return Vec::new();
    };
    let items = entries.into_iter().find(|entry| &*entry.key == "items");
    match items.map(|entry| entry.value.node) {
        Some(Node::List(items)) => items,
        _ => Vec::new(),
    }
}

/// The `spec` of a document that may have nothing else.
fn take_spec(rest: Vec<Entry>, at: Spot, cx: &mut Decoder) -> Option<Value> {
    let mut spec = None;
    for entry in rest {
        if &*entry.key == "spec" {
            spec = Some(entry.value);
        } else {
            cx.unknown(&entry.key, entry.at, &["apiVersion", "kind", "metadata", "spec"]);
        }
    }
    if spec.is_none() {
        cx.refuse(at, "the field `spec` is missing")
            .remedy("add it, `spec: {}` where nothing must be said; `transept schema KIND` prints what belongs in it");
    }
    spec
}

fn read_metadata(envelope: &Envelope, kind: &'static str, scope: Scope, cx: &mut Decoder) -> Option<Metadata> {
    let Some(value) = envelope.metadata.as_ref().filter(|value| !value.is_null()) else {
        cx.refuse(envelope.at.spot(), "the field `metadata` is missing").remedy("add `metadata: {name: ...}`");
        return None;
    };
    let fields = cx.within("metadata", |cx| {
        let fields = MetadataFields::decode(value, cx)?;
        if scope == Scope::Cluster && fields.namespace.is_some() {
            cx.refuse_field(value, "namespace", format!("{} {kind} has no namespace", article(kind)))
                .remedy("remove `namespace`");
        }
        check_wishes(kind, &fields, value, cx);
        Some(fields)
    })?;
    let age = match fields.creation_timestamp.as_deref() {
        None => envelope.age,
        Some(text) => match text.parse::<jiff::Timestamp>() {
            Ok(time) => Age::Created(time.as_second()),
            Err(_) => {
                cx.within("metadata", |cx| {
                    cx.refuse_field(value, "creationTimestamp", "not a time")
                        .remedy("write it like 2026-08-21T10:00:00Z");
                });
                envelope.age
            }
        },
    };
    Some(Metadata {
        kind,
        name: fields.name,
        namespace: match scope {
            Scope::Cluster => "".into(),
            Scope::Namespaced => fields.namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.into()),
        },
        labels: fields.labels,
        annotations: fields.annotations,
        generation: fields.generation.unwrap_or(UNNUMBERED),
        age,
        at: envelope.at.clone(),
    })
}

/// The annotations that fetch values from outside are lists of `key=source`.
fn check_wishes(kind: &str, fields: &MetadataFields, value: &Value, cx: &mut Decoder) {
    if kind != k::SecretBody::KIND {
        return;
    }
    for annotation in [FROM_ENV, FROM_FILE] {
        let Some(list) = fields.annotations.get(annotation) else {
            continue;
        };
        let good = list.split(',').all(|item| {
            item.split_once('=').is_some_and(|(key, source)| !key.trim().is_empty() && !source.trim().is_empty())
        });
        if !good {
            let at = value.field("annotations").map_or(value.at, |annotations| annotations.spot_of(annotation));
            cx.within("annotations", |cx| {
                cx.within(annotation, |cx| {
                    cx.refuse(at, "expected `key=source`, separated by commas")
                        .remedy("for example \"tls.crt=certs/shop.pem, tls.key=certs/shop.key\"");
                });
            });
        }
    }
}

/// The name of a document as far as it can be told without reading it, for messages.
fn loose_name(kind: &str, scope: Scope, metadata: Option<&Value>) -> Option<ObjectName> {
    let text = |field: &str| metadata?.field(field)?.text();
    let name = text("name")?;
    let implied = match scope {
        Scope::Namespaced => DEFAULT_NAMESPACE,
        Scope::Cluster => "",
    };
    Some(ObjectName { kind: kind.into(), namespace: text("namespace").unwrap_or(implied).into(), name: name.into() })
}
