//! Certificates that change under a running gateway, one file after the other, and sometimes wrongly.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use transept_testkit::certificates::{Identity, KeyKind, Usage};
use transept_testkit::client::{Endpoint, Protocol, Request, Tls, Trust, exchange};

use crate::stage::{Backend, Gateway, Setup, Up, soon};

const HOST: &str = "site.test";

fn identity(kind: KeyKind) -> Identity {
    Identity::self_signed(kind, Usage::Server, &[HOST]).expect("a certificate")
}

fn write_certificate(directory: &Path, identity: &Identity) {
    std::fs::write(directory.join("site.pem"), &identity.certificate_pem).expect("written");
}

fn write_key(directory: &Path, identity: &Identity) {
    std::fs::write(directory.join("site.key"), &identity.key_pem).expect("written");
}

/// Whether the gateway shows just this certificate, and serves.
async fn shows(address: SocketAddr, identity: &Identity) -> bool {
    let trust = Trust::Leaf(identity.certificate().expect("DER"));
    let tls = Tls { server_name: HOST.to_owned(), trust, identity: None };
    let endpoint = Endpoint { address, protocol: Protocol::Http1, tls: Some(tls) };
    let answer = soon(exchange(&endpoint, &Request::get(HOST, "/"))).await.outcome;
    answer.is_ok_and(|answer| answer.status == 200)
}

fn resolved(status: &Value) -> Value {
    Gateway::listener_condition(status, "ResolvedRefs")
}

/// Waits until the listener is served though its Secret is out of order.
async fn outdated(gateway: &Gateway) -> Value {
    let status = gateway.status_when(|status| resolved(status)["status"] == "False").await;
    assert_eq!(resolved(&status)["reason"], "InvalidCertificateRef");
    let message = resolved(&status)["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("the certificate it held before stays in use"), "{message}");
    assert_eq!(Gateway::listener_condition(&status, "Programmed")["status"], "True");
    let problems = status["problems"].as_array().expect("a list");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0]["object"]["kind"], "Secret");
    status
}

#[tokio::test]
async fn a_torn_pair_is_refused_and_the_one_before_stays() {
    let (first, second, third) = (identity(KeyKind::Ecdsa), identity(KeyKind::Ecdsa), identity(KeyKind::Rsa));
    let files = tempfile::tempdir().expect("temporary directory");
    let at = files.path();
    write_certificate(at, &first);
    write_key(at, &first);
    let backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend).tls_from(at);
    let mut gateway = setup.start().await;
    let _answering = backend.answer_all();
    assert!(shows(gateway.address, &first).await);

    write_certificate(at, &second);
    let status = outdated(&gateway).await;
    assert!(resolved(&status)["message"].as_str().is_some_and(|why| why.contains("does not belong")), "{status:#}");
    soon(gateway.running.log_line_with("the certificate it held before stays in use")).await;
    assert!(shows(gateway.address, &first).await);

    // Other changes meanwhile change nothing about it.
    gateway.reload_after(&status, &setup.clone().rule("timeouts: {request: 9s}")).await;
    outdated(&gateway).await;
    assert!(shows(gateway.address, &first).await);

    write_key(at, &second);
    let status = gateway.status_when(|status| resolved(status)["status"] == "True").await;
    assert_eq!(status["problems"].as_array().map(Vec::len), Some(0));
    assert!(shows(gateway.address, &second).await);
    assert!(!shows(gateway.address, &first).await);

    // Rubbish, a file that is gone, and at last a good pair of another kind.
    std::fs::write(at.join("site.pem"), "-----BEGIN CERTIFICATE-----\n").expect("written");
    outdated(&gateway).await;
    assert!(shows(gateway.address, &second).await);
    std::fs::remove_file(at.join("site.key")).expect("removed");
    gateway.status_when(|status| !status["notes"].as_array().is_none_or(Vec::is_empty)).await;
    assert!(shows(gateway.address, &second).await);
    write_key(at, &third);
    write_certificate(at, &third);
    gateway.status_when(|status| resolved(status)["status"] == "True").await;
    assert!(shows(gateway.address, &third).await);
}

#[tokio::test]
async fn a_broken_pair_at_the_start_keeps_the_listener_closed() {
    let (first, second) = (identity(KeyKind::Ecdsa), identity(KeyKind::Ecdsa));
    let files = tempfile::tempdir().expect("temporary directory");
    let at = files.path();
    write_certificate(at, &first);
    write_key(at, &second);
    let backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).tls_from(at).start().await;
    let _answering = backend.answer_all();
    let status = gateway.running.status().await.expect("status");
    assert_eq!(resolved(&status)["status"], "False");
    assert_eq!(Gateway::listener_condition(&status, "Programmed")["status"], "False");
    assert!(tokio::net::TcpStream::connect(gateway.address).await.is_err());

    write_key(at, &first);
    gateway.status_when(|status| resolved(status)["status"] == "True").await;
    assert!(shows(gateway.address, &first).await);
}

/// Taking a Secret away is said on purpose, so its certificate goes as well.
#[tokio::test]
async fn a_secret_that_is_gone_takes_its_certificate_along() {
    let first = identity(KeyKind::Ecdsa);
    let backend = Backend::start(Up::Http1).await;
    let setup = Setup::before(&backend).tls(&first);
    let mut gateway = setup.start().await;
    let _answering = backend.answer_all();
    assert!(shows(gateway.address, &first).await);
    gateway.reload(&setup.without_secret()).await;
    let status = gateway.running.status().await.expect("status");
    assert_eq!(Gateway::listener_condition(&status, "Programmed")["status"], "False");
    // The workers close the socket when they get to it.
    let closing = async { while tokio::net::TcpStream::connect(gateway.address).await.is_ok() {} };
    soon(closing).await;
}
