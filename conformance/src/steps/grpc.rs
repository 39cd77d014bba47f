//! gRPC traffic: the `grpc` step. Calls share one connection per case.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use transept_testkit::client::Endpoint;
use transept_testkit::grpc::{self, Channel, ECHO_SERVICE, Reply};
use transept_testkit::h1;

use super::Stage;
use crate::case::{Grpc, GrpcCase, GrpcExpect, Intended};
use crate::converge::{Attempt, converge};

impl Stage<'_> {
    pub(super) async fn grpc(&self, step: &Grpc) -> Result<(), Vec<String>> {
        let address = self.dial(&step.gateway, step.port).await.map_err(|why| vec![why])?;
        let mut complaints = Vec::new();
        for case in &step.cases {
            if let Err(why) = self.grpc_case(address, case).await {
                complaints.push(format!("{}: {why}", case.name));
            }
        }
        if complaints.is_empty() { Ok(()) } else { Err(complaints) }
    }

    async fn grpc_case(&self, address: SocketAddr, case: &GrpcCase) -> Result<(), String> {
        let authority = case.request.authority.clone().unwrap_or_else(|| address.to_string());
        let metadata = pairs(&case.request.metadata);
        let mut channel = None;
        converge(self.patience, async || {
            if channel.is_none() {
                match Channel::connect(&Endpoint::h2c(address)).await {
                    Ok(opened) => channel = Some(opened),
                    Err(failure) => return Attempt::Retry(failure.to_string()),
                }
            }
            let Some(open) = &channel else {
                return Attempt::Retry("not connected".to_owned());
            };
            match open.echo(&case.request.method, &authority, &metadata).await {
                Ok(reply) => judge(&case.request.method, &case.expect, &case.intended, &reply),
                Err(failure) => {
                    channel = None;
                    Attempt::Retry(failure.to_string())
                }
            }
        })
        .await
    }
}

pub(super) fn pairs(metadata: &BTreeMap<String, String>) -> Vec<(String, String)> {
    metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn judge(method: &str, expect: &GrpcExpect, intended: &Intended, reply: &Reply) -> Attempt {
    if expect.any_error {
        return match reply.code {
            grpc::OK => Attempt::Final("code OK instead of an error".to_owned()),
            _ => Attempt::Pass,
        };
    }
    let wanted = match expect.code.as_deref().map(grpc::code_named) {
        Some(Ok(code)) => code,
        other => return Attempt::Final(format!("the case names no code that is known: {other:?}")),
    };
    if reply.code != wanted {
        return Attempt::Retry(format!("code {} ({}) instead of {wanted}", reply.code, reply.message));
    }
    let Some(seen) = &reply.seen else {
        return Attempt::Pass;
    };
    let mut complaints = Vec::new();
    let full_method = format!("/{ECHO_SERVICE}/{method}");
    if seen.full_method != full_method {
        complaints.push(format!("backend saw method {} instead of {full_method}", seen.full_method));
    }
    if let Some(backend) = expect.backend.as_deref().filter(|backend| !seen.pod.starts_with(backend)) {
        complaints.push(format!("pod {:?} instead of {backend}", seen.pod));
    }
    if let Some(namespace) = expect.namespace.as_deref().filter(|namespace| seen.namespace != **namespace) {
        complaints.push(format!("namespace {:?} instead of {namespace}", seen.namespace));
    }
    for (name, wanted) in &intended.metadata_seen {
        let got = h1::joined(&seen.metadata, name);
        if got.as_ref() != Some(wanted) {
            complaints.push(format!("backend saw {name}: {got:?} instead of {wanted:?}"));
        }
    }
    for name in &intended.absent_metadata {
        if let Some(got) = h1::joined(&seen.metadata, name) {
            complaints.push(format!("backend saw {name}: {got:?}"));
        }
    }
    Attempt::from_complaints(complaints)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use transept_testkit::grpc::Assertions;

    use super::*;

    fn reply(code: u32, pod: &str) -> Reply {
        let seen = Assertions {
            full_method: format!("/{ECHO_SERVICE}/Echo"),
            metadata: vec![("x-a".to_owned(), "1".to_owned()), ("x-a".to_owned(), "2".to_owned())],
            namespace: "infra".to_owned(),
            pod: pod.to_owned(),
            ..Assertions::default()
        };
        Reply { code, message: String::new(), seen: (code == grpc::OK).then_some(seen) }
    }

    fn judged(expect: serde_json::Value, intended: serde_json::Value, reply: &Reply) -> Attempt {
        let expect = serde_json::from_value(expect).expect("an expectation");
        let intended = serde_json::from_value(intended).expect("an intention");
        judge("Echo", &expect, &intended, reply)
    }

    #[test]
    fn code_method_pod_and_namespace_are_compared_and_what_is_intended_too() {
        let wanted = json!({"code": "OK", "backend": "grpc-v1", "namespace": "infra"});
        let right = reply(grpc::OK, "grpc-v1-h-s");
        assert_eq!(judged(wanted.clone(), json!({"metadata_seen": {"X-A": "1,2"}}), &right), Attempt::Pass);
        for (intended, reply) in [
            (json!({}), reply(grpc::OK, "grpc-v2-h-s")),
            (json!({}), reply(grpc::UNIMPLEMENTED, "")),
            (json!({"metadata_seen": {"x-a": "1, 2"}}), right.clone()),
            (json!({"absent_metadata": ["x-a"]}), right.clone()),
        ] {
            assert!(matches!(judged(wanted.clone(), intended, &reply), Attempt::Retry(_)));
        }
    }

    #[test]
    fn any_error_will_do_but_a_success_is_final() {
        let wanted = json!({"any_error": true});
        assert_eq!(judged(wanted.clone(), json!({}), &reply(14, "")), Attempt::Pass);
        assert!(matches!(judged(wanted, json!({}), &reply(grpc::OK, "p")), Attempt::Final(_)));
    }
}
