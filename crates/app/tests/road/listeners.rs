//! Listeners whose port is taken: reported, tried again, and open as soon as the port is free.

use std::net::TcpListener;

use serde_json::Value;

use crate::stage::{Backend, Caller, Gateway, Setup, Up, soon};

#[tokio::test]
async fn a_taken_port_is_opened_when_it_becomes_free() {
    let backend = Backend::start(Up::Http1).await;
    // The second Gateway's port belongs to somebody else.
    let setup = Setup::before(&backend).listener();
    let taken = TcpListener::bind(setup.last_address()).expect("free");
    let gateway = setup.start().await;
    let _answering = backend.answer_all();
    let address = gateway.others[0];
    assert_eq!(Caller::http11(gateway.address).await.get("/").await.0, 200);

    let of_it = |status: &Value| -> Value {
        let listeners = status["listeners"].as_array().cloned().unwrap_or_default();
        listeners.into_iter().find(|one| one["address"] == address.to_string()).unwrap_or(Value::Null)
    };
    let closed = of_it(&gateway.running.status().await.expect("status"));
    assert!(closed["error"].as_str().is_some_and(|why| why.contains("another process listens")), "{closed}");
    let first = closed["nextAttempt"].as_str().expect("a time").to_owned();
    let metrics = gateway.running.metrics().await.expect("metrics");
    assert!(metrics.contains("transept_listeners_closed 1\n"), "{metrics}");
    // An attempt in vain is followed by another one.
    let again = |status: &Value| of_it(status)["nextAttempt"].as_str().is_some_and(|next| next != first);
    gateway.status_when(again).await;

    drop(taken);
    let open = |status: &Value| of_it(status)["error"].is_null();
    let status = gateway.status_when(open).await;
    assert_eq!(of_it(&status)["nextAttempt"], Value::Null);
    assert_eq!(status["generation"], 1);
    assert_eq!(Gateway::listener_condition(&status, "Programmed")["status"], "True");
    assert_eq!(Caller::http11(address).await.get("/").await.0, 200);
    soon(gateway.running.log_line_with(&format!("\"listening\",\"address\":\"{address}\""))).await;
    let metrics = gateway.running.metrics().await.expect("metrics");
    assert!(metrics.contains("transept_listeners_closed 0\n"), "{metrics}");
}
