//! The gateway on the stage: the real binary on a configuration that a test words in a few lines.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use transept_testkit::certificates::{Authority, Identity};
use transept_testkit::dns::NameServer;
use transept_testkit::launch::{Launch, Running, unused_address};

use super::{Backend, PATIENCE, Up, soon};

/// What the gateway shall be.
#[derive(Clone)]
pub(crate) struct Setup {
    endpoints: Vec<SocketAddr>,
    names: Vec<String>,
    up: Up,
    backend_refs: &'static str,
    backend: String,
    rule: String,
    policy: String,
    documents: String,
    identity: Option<(String, String)>,
    identity_files: Option<PathBuf>,
    frontend: String,
    secret_gone: bool,
    listen: Vec<SocketAddr>,
    workers: usize,
    arguments: Vec<String>,
}

impl Setup {
    /// A gateway that sends everything to one backend.
    pub(crate) fn before(backend: &Backend) -> Setup {
        Setup::of(&[backend.address], backend.up)
    }

    /// A gateway in front of these endpoints of one backend.
    pub(crate) fn of(endpoints: &[SocketAddr], up: Up) -> Setup {
        Setup {
            endpoints: endpoints.to_vec(),
            names: Vec::new(),
            up,
            backend_refs: "backendRefs: [{group: transept.dev, kind: Backend, name: app}]",
            backend: String::new(),
            rule: String::new(),
            policy: String::new(),
            documents: String::new(),
            identity: None,
            identity_files: None,
            frontend: String::new(),
            secret_gone: false,
            listen: vec![unused_address().expect("an address")],
            workers: 1,
            arguments: Vec::new(),
        }
    }

    /// A gateway in front of a backend whose endpoints have names, which this name server knows.
    pub(crate) fn named(server: &NameServer) -> Setup {
        Setup::of(&[], Up::Http1).argument(format!("--resolver={}", server.address()))
    }

    /// With another endpoint that has a name.
    pub(crate) fn name(mut self, name: &str, port: u16, weight: u32) -> Setup {
        self.names.push(format!("{{address: {name}, port: {port}, weight: {weight}}}"));
        self
    }

    /// Without the names.
    pub(crate) fn nameless(mut self) -> Setup {
        self.names.clear();
        self
    }

    /// The same before another backend.
    pub(crate) fn to(mut self, backend: &Backend) -> Setup {
        (self.endpoints, self.up) = (vec![backend.address], backend.up);
        self
    }

    /// With a line more in the route's rule, such as `timeouts: {request: 1s}`.
    pub(crate) fn rule(mut self, line: &str) -> Setup {
        self.rule.push_str(&format!("    {line}\n"));
        self
    }

    /// With a line more in the backend's spec, such as `connectTimeout: 300ms`.
    pub(crate) fn backend(mut self, line: &str) -> Setup {
        self.backend.push_str(&format!("  {line}\n"));
        self
    }

    /// With a rule that needs no backend.
    pub(crate) fn answers_itself(mut self) -> Setup {
        self.backend_refs = "name: own";
        self
    }

    /// With a line more in the policy of the listeners, such as `limits: {headerCount: 9}`.
    pub(crate) fn policy(mut self, line: &str) -> Setup {
        self.policy.push_str(&format!("  {line}\n"));
        self
    }

    /// With another object.
    pub(crate) fn document(mut self, yaml: &str) -> Setup {
        self.documents.push_str(&format!("---\n{yaml}\n"));
        self
    }

    /// With so many workers. One is the default, so that pools have no choice.
    pub(crate) fn workers(mut self, workers: usize) -> Setup {
        self.workers = workers;
        self
    }

    /// With an argument more on the command line.
    pub(crate) fn argument(mut self, argument: impl Into<String>) -> Setup {
        self.arguments.push(argument.into());
        self
    }

    /// With TLS on the listener, and this certificate.
    pub(crate) fn tls(mut self, identity: &Identity) -> Setup {
        self.identity = Some((identity.certificate_pem.clone(), identity.key_pem.clone()));
        self
    }

    /// With clients whose certificates this authority has signed, and this mode for others.
    pub(crate) fn clients(mut self, authority: &Authority, mode: &str) -> Setup {
        let pem = authority.certificate_pem().trim_end().replace('\n', "\n    ");
        self.frontend = format!(
            "  tls: {{frontend: {{default: {{validation: {{mode: {mode}, caCertificateRefs: [{{group: '', kind: ConfigMap, name: clients}}]}}}}}}}}\n"
        );
        self.document(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: clients}}\ndata:\n  ca.crt: |\n    {pem}"
        ))
    }

    /// With TLS on the listener, and the certificate in `site.pem` and `site.key` of this directory.
    pub(crate) fn tls_from(mut self, directory: &Path) -> Setup {
        self.identity_files = Some(directory.to_owned());
        self
    }

    /// Without the Secret that holds its certificate, which the listener goes on to name.
    pub(crate) fn without_secret(mut self) -> Setup {
        self.identity = None;
        self.secret_gone = true;
        self
    }

    /// With a listener more.
    pub(crate) fn listener(mut self) -> Setup {
        self.listen.push(unused_address().expect("an address"));
        self
    }

    /// The address of the listener that was added last.
    pub(crate) fn last_address(&self) -> SocketAddr {
        self.listen[self.listen.len() - 1]
    }

    /// Without the listener that was added last.
    pub(crate) fn without_last_listener(mut self) -> Setup {
        self.listen.pop();
        self
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (number, listen) in self.listen.iter().enumerate() {
            let (protocol, tls) = match self.identity.is_some() || self.identity_files.is_some() || self.secret_gone {
                true => ("HTTPS", ", tls: {certificateRefs: [{name: site}]}"),
                false => ("HTTP", ""),
            };
            text.push_str(&format!(
                "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gate-{number}}}
spec:
  gatewayClassName: transept
  addresses: [{{type: IPAddress, value: {}}}]
  listeners: [{{name: web, protocol: {protocol}, port: {}{tls}}}]
{}---
",
                listen.ip(),
                listen.port(),
                self.frontend
            ));
        }
        let gates = 0..self.listen.len();
        let parents: Vec<String> = gates.map(|n| format!("{{name: gate-{n}}}")).collect();
        let endpoint = |at: &SocketAddr| format!("{{address: {}, port: {}}}", at.ip(), at.port());
        let endpoints: Vec<String> = self.endpoints.iter().map(endpoint).chain(self.names.clone()).collect();
        let protocol = match self.up {
            Up::Http1 => "HTTP",
            Up::H2c => "H2C",
        };
        text.push_str(&format!(
            "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: all}}
spec:
  parentRefs: [{}]
  rules:
  - {}
{}---
apiVersion: transept.dev/v1alpha1
kind: Backend
metadata: {{name: app}}
spec:
  protocol: {protocol}
  endpoints: [{}]
{}",
            parents.join(", "),
            self.backend_refs,
            self.rule,
            endpoints.join(", "),
            self.backend
        ));
        if !self.policy.is_empty() {
            text.push_str(&format!(
                "\
---
apiVersion: transept.dev/v1alpha1
kind: ListenerPolicy
metadata: {{name: edge}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: gate-0}}]
{}",
                self.policy
            ));
        }
        if let Some((certificate, key)) = &self.identity {
            let indented = |pem: &str| pem.trim_end().replace('\n', "\n    ");
            text.push_str(&format!(
                "\
---
apiVersion: v1
kind: Secret
metadata: {{name: site}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
    {}
  tls.key: |
    {}
",
                indented(certificate),
                indented(key)
            ));
        }
        if let Some(files) = &self.identity_files {
            let files = files.display();
            text.push_str(&format!(
                "\
---
apiVersion: v1
kind: Secret
metadata: {{name: site, annotations: {{transept.dev/from-file: \"tls.crt={files}/site.pem, tls.key={files}/site.key\"}}}}
type: kubernetes.io/tls
"
            ));
        }
        text + &self.documents
    }

    /// Starts the gateway.
    pub(crate) async fn start(&self) -> Gateway {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().join("gateway.yaml");
        std::fs::write(&file, self.text()).expect("written");
        let mut launch = Launch::run(Path::new(env!("CARGO_BIN_EXE_transept")), [&file])
            .argument(format!("--workers={}", self.workers));
        for argument in &self.arguments {
            launch = launch.argument(argument);
        }
        let running = launch.start(PATIENCE).await.unwrap_or_else(|failure| panic!("{failure}"));
        Gateway {
            address: self.listen[0],
            others: self.listen[1..].to_vec(),
            running,
            file,
            generation: 1,
            _directory: directory,
        }
    }
}

/// A running gateway.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) others: Vec<SocketAddr>,
    pub(crate) running: Running,
    file: PathBuf,
    generation: u64,
    _directory: TempDir,
}

impl Gateway {
    /// The file with its configuration.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// The same after other changes, of files besides, have led to this status.
    pub(crate) async fn reload_after(&mut self, status: &Value, setup: &Setup) {
        self.generation = status["generation"].as_u64().expect("a number");
        self.reload(setup).await;
    }

    /// Changes the configuration and waits until it is in force.
    pub(crate) async fn reload(&mut self, setup: &Setup) {
        let beside = self.file.with_extension("new");
        std::fs::write(&beside, setup.text()).expect("written");
        std::fs::rename(&beside, &self.file).expect("renamed");
        self.generation += 1;
        let line = format!("\"message\":\"configuration loaded\",\"generation\":{},", self.generation);
        soon(self.running.log_line_with(&line)).await;
    }

    /// Waits until the status is as wanted, and gives it.
    pub(crate) async fn status_when(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            pace.tick().await;
            let status = self.running.status().await.expect("status");
            if wanted(&status) {
                return status;
            }
            assert!(tokio::time::Instant::now() < deadline, "it does not come to this in time: {status:#}");
        }
    }

    /// Waits until the metrics have this.
    pub(crate) async fn tells(&self, line: &str) {
        soon(async {
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            while !self.running.metrics().await.expect("metrics").contains(line) {
                pace.tick().await;
            }
        })
        .await;
    }

    /// The condition of a listener of the first Gateway, in a status.
    pub(crate) fn listener_condition(status: &Value, kind: &str) -> Value {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let objects = list(&status["objects"]);
        let gateway = objects.iter().find(|object| object["kind"] == "Gateway").expect("a Gateway");
        let conditions = list(&gateway["status"]["listeners"][0]["conditions"]);
        conditions.into_iter().find(|condition| condition["type"] == kind).expect("the condition")
    }
}
