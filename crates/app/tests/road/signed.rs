//! Requests signed by HMAC in `Authorization`, by a client in Python that shares no line with us.

use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use transept_testkit::parts::{lacks, python};

use crate::stage::{Backend, Gateway, Setup, Up, soon};

const SECRET: &str = "planted-secret-of-enough-bytes";

fn policy(more: &str) -> String {
    format!(
        "apiVersion: transept.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {{name: guard}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: gate-0}}]
  schemes:
  - name: partner
    hmac: {{keys: [{{username: partner-1, secret: {{name: partner, key: secret}}, consumer: partner}}]{more}}}
  failures: {{requests: 1000}}
---
{{apiVersion: transept.dev/v1alpha1, kind: Consumer, metadata: {{name: partner}}, spec: {{groups: [partners]}}}}
---
{{apiVersion: v1, kind: Secret, metadata: {{name: partner}}, stringData: {{secret: {SECRET}}}}}
"
    )
}

/// A gateway before a backend that answers with who it was told calls, and with the content that it got.
async fn gateway(more: &str) -> Option<(Gateway, impl Sized)> {
    let works = Command::new(python()).args(["-c", "import hmac"]).status().await;
    if !works.is_ok_and(|status| status.success()) {
        lacks("Python");
        return None;
    }
    let backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).document(&policy(more)).start().await;
    let answering = backend.answer_with(|mut served| async move {
        assert_eq!(served.field("authorization"), None);
        let who = served.field("x-auth-id").unwrap_or_default().to_owned();
        let content = String::from_utf8_lossy(&served.whole().await.content).into_owned();
        served.answer(200, &format!("{who} {content}")).await;
    });
    Some((gateway, answering))
}

/// What the client says of the answers that it got.
async fn signed(gateway: &Gateway, request: &[&str], options: &[&str]) -> Vec<(u64, String)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs/sign_hmac.py");
    let secret = format!("secret={SECRET}");
    let mut command = Command::new(python());
    command.arg(script).arg(gateway.address.to_string()).args(request).arg(secret).args(options);
    let output = soon(command.output()).await.expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    let answers = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    answers
        .map(|answer| {
            (answer["status"].as_u64().expect("a status"), answer["body"].as_str().expect("a body").to_owned())
        })
        .collect()
}

#[tokio::test]
async fn a_client_in_another_language_signs() {
    let Some((gateway, _backend)) = gateway("").await else { return };
    let good = |content: &str| vec![(200, format!("default/partner {content}"))];
    assert_eq!(signed(&gateway, &["GET", "/orders?a=1&b=%20", ""], &[]).await, good(""));
    for form in ["form=(request-target)", "form=request-line"] {
        assert_eq!(signed(&gateway, &["GET", "/orders", ""], &[form]).await, good(""), "{form}");
    }
    let post = &["POST", "/orders", "{\"amount\": 100}"];
    for algorithm in ["algorithm=hmac-sha256", "algorithm=hmac-sha384", "algorithm=hmac-sha512"] {
        assert_eq!(signed(&gateway, post, &[algorithm]).await, good("{\"amount\": 100}"), "{algorithm}");
    }
    let large = "x".repeat(100_000);
    assert_eq!(signed(&gateway, &["PUT", "/", &large], &[]).await, good(&large));
    // Nothing is remembered unless that is asked for.
    assert_eq!(signed(&gateway, post, &["times=2"]).await.len(), 2);
    for options in [
        &["secret=another-secret-of-enough-bytes"][..],
        &["username=partner-2"],
        &["skew=-400"],
        &["skew=400"],
        &["algorithm=hmac-sha1"],
        &["send={\"amount\": 999}"],
    ] {
        let answers = signed(&gateway, post, options).await;
        assert_eq!(answers[0].0, 401, "{options:?}: {answers:?}");
        assert!(answers[0].1.contains("auth.credentials_invalid"), "{answers:?}");
    }
    let status = gateway.running.status().await.expect("status").to_string();
    for said in [gateway.running.log(), status] {
        assert!(!said.contains(SECRET) && !said.contains("amount"), "{said}");
    }
}

#[tokio::test]
async fn a_signature_is_good_once_where_that_is_asked_for() {
    let Some((gateway, _backend)) = gateway(", once: true").await else { return };
    let answers = signed(&gateway, &["POST", "/orders", "one"], &["times=3"]).await;
    assert_eq!(answers.iter().map(|answer| answer.0).collect::<Vec<_>>(), [200, 401, 401]);
    assert_eq!(signed(&gateway, &["POST", "/orders", "two"], &[]).await[0].0, 200);
}
