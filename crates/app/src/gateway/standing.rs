//! What is known at this moment: configuration, listeners, readiness; as status, as metrics, as a word for probes.
//!
//! Written by `gateway` and `sidecar` after every update, read by the admin server at any time.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use transept_control::Update;
use transept_control::plane::Plane;
use transept_engine::document::DocumentState;
use transept_engine::keep::Keep;
use transept_engine::key::LastUses;
use transept_engine::services::ServiceStanding;
use transept_engine::snapshot::{Secure, Speaks};
use transept_model::schema::Moment;
use transept_proxy::{BackendState, BindOutcome, EndpointState, LearnedPort, Proxy, Reading, ResolvedName};

use super::binds;
use super::certificates::{self, Ending};
use crate::admin::{Process, Subject, write_metric};
use crate::commands::version::VERSION;
use crate::report::{self, Severity};

/// Whether the process takes traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Yes.
    Ready,
    /// A data thread has ended, which none should.
    Broken,
    /// Its certificate of the mesh has ended: nobody there takes its calls, and it takes nobody's.
    Ended,
    /// No longer: it ends when the requests under way have ended.
    Draining,
}

impl fmt::Display for Readiness {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Readiness::Ready => "ready",
            Readiness::Broken => "broken: a worker has ended",
            Readiness::Ended => "not ready: the certificate of this member of the mesh has ended",
            Readiness::Draining => "draining",
        })
    }
}

const INDEX: &str = "\
transept admin

/livez     the process runs
/readyz    it takes traffic (503 while draining, and when its certificate of the mesh has ended)
/metrics   Prometheus metrics
/status    configuration generation, last reload, listeners, status of every object (JSON)
/limits    how much is left of limits, for `transept explain --running` (JSON by POST)
";

/// Says how the membership in the mesh stands, as a part of the status.
pub(super) type Member = Box<dyn Fn() -> Value + Send + Sync>;

/// The state of a running gateway or sidecar, for whoever asks.
pub(crate) struct Standing {
    proxy: Arc<Proxy>,
    member: Option<Member>,
    plane: Option<Arc<Plane>>,
    process: Process,
    draining: AtomicBool,
    now: Mutex<Arc<Now>>,
}

/// What changes with every update, as a whole.
struct Now {
    update: Arc<Update>,
    outcomes: Arc<[BindOutcome]>,
    /// When listeners that could not be opened are tried again.
    next_attempt: Option<SystemTime>,
    certificates: Vec<Ending>,
}

impl Now {
    fn new(update: Arc<Update>, outcomes: Arc<[BindOutcome]>, next_attempt: Option<SystemTime>) -> Arc<Self> {
        let certificates = certificates::find(&update.loaded.snapshot);
        Arc::new(Now { update, outcomes, next_attempt, certificates })
    }
}

impl Standing {
    /// The state after the first load; listeners that are not open are tried again after `pause`.
    pub(crate) fn new(
        proxy: Arc<Proxy>,
        update: Arc<Update>,
        outcomes: Arc<[BindOutcome]>,
        pause: Option<Duration>,
    ) -> Self {
        Standing {
            proxy,
            member: None,
            plane: None,
            process: Process::begin(),
            draining: AtomicBool::new(false),
            now: Mutex::new(Now::new(update, outcomes, after(pause))),
        }
    }

    /// The same for a member of the mesh.
    #[must_use]
    pub(crate) fn with_member(mut self, describe: impl Fn() -> Value + Send + Sync + 'static) -> Self {
        self.member = Some(Box::new(describe));
        self
    }

    /// The same for a gateway with a control plane in its process, which hears what other proxies say of the objects.
    #[must_use]
    pub(super) fn with_plane(mut self, plane: Arc<Plane>) -> Self {
        self.plane = Some(plane);
        self
    }

    fn now(&self) -> Arc<Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, now: Arc<Now>) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// The generation of the configuration in force.
    pub(crate) fn generation(&self) -> u64 {
        self.now().update.loaded.generation
    }

    /// What became of the listeners.
    pub(crate) fn outcomes(&self) -> Arc<[BindOutcome]> {
        self.now().outcomes.clone()
    }

    /// Notes that a new configuration is in force.
    pub(crate) fn replace(&self, update: Arc<Update>, outcomes: Arc<[BindOutcome]>, pause: Option<Duration>) {
        self.set(Now::new(update, outcomes, after(pause)));
    }

    /// Notes what came of another attempt to open listeners; the configuration, which is returned, stays.
    pub(crate) fn note_attempt(&self, outcomes: Arc<[BindOutcome]>, pause: Option<Duration>) -> Arc<Update> {
        let update = self.now().update.clone();
        self.set(Now::new(update.clone(), outcomes, after(pause)));
        update
    }

    /// Notes that the latest attempt was refused; the configuration and the listeners stay.
    pub(crate) fn note_refusal(&self, update: Arc<Update>) {
        let now = self.now();
        self.set(Now::new(update, now.outcomes.clone(), now.next_attempt));
    }

    /// From now on probes hear that no traffic should come.
    pub(crate) fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether this is a member of the mesh whose certificate has ended.
    fn has_ended(&self) -> bool {
        let ends = self.member.as_ref().and_then(|describe| certificate_end(&describe()));
        ends.is_some_and(|ends| ends <= jiff::Timestamp::now())
    }
}

impl Subject for Standing {
    const INDEX: &'static str = INDEX;

    fn readiness(&self) -> Readiness {
        if !self.proxy.is_sound() {
            Readiness::Broken
        } else if self.draining.load(Ordering::Relaxed) {
            Readiness::Draining
        } else if self.has_ended() {
            Readiness::Ended
        } else {
            Readiness::Ready
        }
    }

    /// The objects are in Kubernetes' own shape.
    async fn status(&self) -> Option<Value> {
        let backends = self.proxy.backends().await;
        let now = self.now();
        let update = &now.update;
        let refused = update.refused.as_deref();
        let errors: Vec<Value> = refused
            .map(|refused| refused.invalid.iter().map(|invalid| report::to_json(Severity::Error, invalid)).collect())
            .unwrap_or_default();
        let error = refused.map(|refused| {
            let all: Vec<String> = refused.invalid.iter().map(ToString::to_string).collect();
            all.join("\n")
        });
        let mut objects = update.loaded.settled.status_after(&binds::failed(&now.outcomes));
        if let Some(plane) = &self.plane {
            objects = plane.with_refusals(objects);
        }
        Some(json!({
            "version": VERSION,
            "readiness": self.readiness().to_string(),
            "mesh": self.member.as_ref().map(|describe| describe()),
            "generation": update.loaded.generation,
            "loadedAt": write_time(update.loaded_at),
            "lastReload": {
                "ok": refused.is_none(),
                "at": write_time(update.at),
                "error": error,
                "errors": errors,
            },
            "listeners": listeners(&now),
            "names": self.proxy.names().iter().map(name_to_json).collect::<Value>(),
            "stores": self.proxy.stores().iter().map(store_to_json).collect::<Value>(),
            "services": self.proxy.services().iter().map(service_to_json).collect::<Value>(),
            "quotas": self.proxy.loses_quotas().then_some("unwritten"),
            "logouts": self.proxy.misses_logouts().then_some("unread"),
            "documents": self.proxy.documents().iter().map(document_to_json).collect::<Value>(),
            "learned": self.proxy.learned().iter().map(learned_to_json).collect::<Value>(),
            "deserted": self.proxy.deserted().iter().map(|label| Value::from(&**label)).collect::<Value>(),
            "backends": backends.iter().map(backend_to_json).collect::<Value>(),
            "keys": keys(&update.loaded.snapshot.keep),
            "certificates": now.certificates.iter().map(Ending::to_json).collect::<Value>(),
            "problems": update
                .loaded
                .problems
                .iter()
                .map(|problem| report::to_json(Severity::Problem, problem))
                .collect::<Value>(),
            "notes": update.loaded.notes.iter().map(ToString::to_string).collect::<Value>(),
            "objects": objects.to_json(),
        }))
    }

    async fn metrics(&self) -> String {
        let mut out = String::new();
        self.proxy.write_metrics(&mut out).await;
        let now = self.now();
        write_update_metrics(&now.update, &mut out);
        write_listener_metrics(&now, &mut out);
        if let Some(describe) = &self.member {
            write_member_metrics(&describe(), &mut out);
        }
        if let Some(plane) = &self.plane {
            write_plane_metrics(plane, &mut out).await;
        }
        self.process.write_metrics(&mut out);
        out
    }

    async fn limits(&self, questions: &Value) -> Option<Value> {
        Some(self.proxy.limits(questions).await)
    }
}

/// A store of shared limits, and whether it answers.
fn store_to_json((store, answers): &(String, Option<bool>)) -> Value {
    let state = match answers {
        None => "connecting",
        Some(true) => "answers",
        Some(false) => "away",
    };
    json!({"store": store, "state": state})
}

fn service_to_json(service: &ServiceStanding) -> Value {
    json!({"policy": service.policy, "state": if service.is_up { "answers" } else { "away" }})
}

fn document_to_json(document: &DocumentState) -> Value {
    json!({
        "url": document.label,
        "ageSeconds": document.age.map(|age| age.as_secs()),
        "keys": document.keys,
        "fetched": document.fetched,
        "failed": document.failed,
        "error": document.error,
        "remarks": document.remarks,
    })
}

/// The keys that were used here, each with the minute in which it was used last.
fn keys(keep: &Keep) -> Value {
    let entry = |(namespace, name, at): (Box<str>, Box<str>, Duration)| {
        let at = Moment::of_unix(at).map(|at| at.to_string());
        json!({"key": format!("{namespace}/{name}"), "lastUsed": at})
    };
    LastUses::kept(keep).all().into_iter().map(entry).collect()
}

fn listeners(now: &Now) -> Value {
    now.outcomes
        .iter()
        .map(|outcome| {
            let snapshot = &now.update.loaded.snapshot;
            let bind = snapshot.bind(&outcome.address);
            let is_opaque = bind.is_some_and(|bind| {
                !bind.listeners.is_empty() && bind.listeners.iter().all(|one| one.speaks == Speaks::Opaque)
            });
            let protocol = match bind.map(|bind| bind.secure) {
                Some(Secure::Mesh) => "HBONE",
                Some(Secure::Tls) => "HTTPS",
                _ if is_opaque => "TCP",
                _ => "HTTP",
            };
            json!({
                "address": outcome.address.to_string(),
                "protocol": protocol,
                "error": outcome.bound.as_ref().err().map(binds::explain),
                "nextAttempt": outcome.bound.as_ref().err().and(now.next_attempt).map(write_time),
                "names": binds::names(snapshot, outcome.address),
            })
        })
        .collect()
}

/// A name of a backend: what it resolves to, and why not.
fn name_to_json(name: &ResolvedName) -> Value {
    json!({
        "name": &*name.name,
        "backend": &*name.backend,
        "addresses": name.addresses.iter().map(ToString::to_string).collect::<Value>(),
        "error": name.error,
    })
}

/// What a port has spoken.
fn learned_to_json(port: &LearnedPort) -> Value {
    json!({"listener": &*port.listener, "protocol": port.protocol, "by": port.by.as_str()})
}

/// A backend with a policy: its endpoints and how they are, and what is taken of its limits.
fn backend_to_json(backend: &BackendState) -> Value {
    let endpoint = |(address, state): (&SocketAddr, &EndpointState)| {
        let why = match state {
            EndpointState::Unwell(why) => Some(why.to_string()),
            EndpointState::Probation => Some("its time alone is over, and the next request decides".to_owned()),
            EndpointState::Unreachable => {
                Some("it could not be reached; others are used where there are any".to_owned())
            }
            EndpointState::Serving | EndpointState::Ejected => None,
        };
        json!({"address": address.to_string(), "state": state.as_str(), "why": why})
    };
    let limit = |one: &Reading| json!({"resource": one.resource, "taken": one.taken, "limit": one.limit});
    json!({
        "name": &*backend.label,
        "policy": backend.policy.as_deref(),
        "endpoints": backend.endpoints.iter().map(endpoint).collect::<Value>(),
        "limits": backend.limits.iter().map(limit).collect::<Value>(),
    })
}

/// The time that a pause from now leads to.
fn after(pause: Option<Duration>) -> Option<SystemTime> {
    Some(SystemTime::now() + pause?)
}

/// How the mesh stands, by its control plane: asked apart, because that may be waiting for the disk.
pub(crate) async fn write_plane_metrics(plane: &Arc<Plane>, out: &mut String) {
    let plane = Arc::clone(plane);
    let ask = move || {
        let mut out = String::new();
        plane.write_metrics(&mut out);
        out
    };
    out.push_str(&tokio::task::spawn_blocking(ask).await.unwrap_or_default());
}

/// How the configuration stands, and the latest attempt to load it.
pub(crate) fn write_update_metrics(update: &Update, out: &mut String) {
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let plain = |value: f64| vec![(String::new(), value)];
    let ok = if update.refused.is_none() { 1.0 } else { 0.0 };
    let families = [
        (
            "transept_config_last_reload_successful",
            "gauge",
            "Whether the latest attempt to load the configuration succeeded.",
            plain(ok),
        ),
        (
            "transept_config_last_reload_success_timestamp_seconds",
            "gauge",
            "When the configuration in force was loaded, in seconds since the epoch.",
            plain(seconds(update.loaded_at)),
        ),
        (
            "transept_config_last_reload_duration_seconds",
            "gauge",
            "How long the latest attempt took.",
            plain(update.took.as_secs_f64()),
        ),
        (
            "transept_config_reloads_total",
            "counter",
            "Attempts to load the configuration, the first included.",
            vec![
                ("{result=\"success\"}".to_owned(), update.succeeded as f64),
                ("{result=\"failure\"}".to_owned(), update.failed as f64),
            ],
        ),
        (
            "transept_config_generation",
            "gauge",
            "Generation of the configuration in force.",
            plain(update.loaded.generation as f64),
        ),
        (
            "transept_config_problems",
            "gauge",
            "Problems in the configuration in force.",
            plain(update.loaded.problems.len() as f64),
        ),
    ];
    for (name, kind, help, samples) in families {
        write_metric(out, name, kind, help, &samples);
    }
}

fn write_listener_metrics(now: &Now, out: &mut String) {
    let closed = now.outcomes.iter().filter(|outcome| outcome.bound.is_err()).count() as f64;
    let families = [
        (
            "transept_listeners_closed",
            "gauge",
            "Addresses that should be listened on and could not be opened; they are tried again.",
            vec![(String::new(), closed)],
        ),
        (
            "transept_certificate_expiration_timestamp_seconds",
            "gauge",
            "When a certificate of a listener ends, in seconds since the epoch.",
            now.certificates.iter().map(Ending::to_sample).collect(),
        ),
    ];
    for (name, kind, help, samples) in families {
        write_metric(out, name, kind, help, &samples);
    }
}

/// What an alarm needs of a membership, out of what the status says about it. A gateway that lives in the process of its control plane has
/// no connection to it.
fn write_member_metrics(member: &Value, out: &mut String) {
    if let Some(ends) = certificate_end(member) {
        let help = "When the certificate of this member of the mesh ends, in seconds since the epoch.";
        let samples = [(String::new(), ends.as_second() as f64)];
        write_metric(out, "transept_mesh_certificate_expiration_timestamp_seconds", "gauge", help, &samples);
    }
    let states = [
        ("connected", "transept_mesh_control_connected", "Whether this member is connected to its control plane."),
        (
            "unbelieved",
            "transept_mesh_certificate_refused",
            "Whether this member and its control plane did not take each other's certificates when they met last: a new join token helps.",
        ),
    ];
    for (state, name, help) in states {
        if let Some(state) = member[state].as_bool() {
            write_metric(out, name, "gauge", help, &[(String::new(), if state { 1.0 } else { 0.0 })]);
        }
    }
}

/// When the certificate of a member ends, by what the status says about it.
fn certificate_end(member: &Value) -> Option<jiff::Timestamp> {
    member["certificateEnds"].as_str()?.parse().ok()
}

/// RFC 3339 in UTC, to the millisecond.
fn write_time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map(|at| format!("{at:.3}")).unwrap_or_default()
}
