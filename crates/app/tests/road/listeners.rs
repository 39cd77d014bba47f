//! Listeners whose port is taken: reported, tried again, and open as soon as the port is free.

use std::net::TcpListener;

use serde_json::Value;

use crate::stage::{Backend, Caller, Down, Gateway, Setup, Up, soon};

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

/// A Gateway that listens everywhere beside one that has an address, and alone: our own sockets are in nobody's way, and connections from before
/// are served as new ones are.
#[tokio::test]
async fn addresses_of_one_port_come_and_go() {
    let backend = Backend::start(Up::Http1).await;
    let narrow = Setup::before(&backend);
    let mut gateway = narrow.start().await;
    let _answering = backend.answer_all();
    let port = gateway.address.port();
    let wide = format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: wide}}
spec: {{gatewayClassName: transept, listeners: [{{name: http, protocol: HTTP, port: {port}}}]}}
"
    );
    let both = narrow.clone().document(&wide);
    let alone = both.clone().without_last_listener();
    let mut callers = Vec::new();
    for (setup, open) in [(&both, 2), (&alone, 1), (&narrow, 1)] {
        for down in [Down::Http11, Down::H2c] {
            callers.push(Caller::connect(&down, gateway.address).await);
        }
        gateway.reload(setup).await;
        for caller in &mut callers {
            assert_eq!(caller.get("/").await.0, 200);
        }
        let status = gateway.running.status().await.expect("status");
        let listeners = status["listeners"].as_array().expect("a list");
        assert_eq!(listeners.len(), open, "{listeners:?}");
        assert!(listeners.iter().all(|one| one["error"].is_null()), "{listeners:?}");
        assert_eq!(Caller::http11(gateway.address).await.get("/").await.0, 200);
    }
}
