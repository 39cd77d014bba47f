//! The gRPC echo service: `Echo` and `EchoTwo` answer, every other method is UNIMPLEMENTED. Called per stream.

use bytes::Bytes;
use h2::server::SendResponse;

use super::Pod;
use super::answer::Incoming;
use super::http2::grpc_trailers;
use crate::grpc::{Assertions, ECHO_SERVICE, OK, TlsAssertions, UNIMPLEMENTED};

pub(super) fn answer(pod: &Pod, incoming: &Incoming, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut head = http::Response::new(());
    let kind = http::HeaderValue::from_static("application/grpc");
    head.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    let method = incoming.target.strip_prefix('/').and_then(|path| path.split_once('/'));
    if !matches!(method, Some((ECHO_SERVICE, "Echo" | "EchoTwo"))) {
        head.headers_mut().extend(grpc_trailers(UNIMPLEMENTED));
        respond.send_response(head, true)?;
        return Ok(());
    }
    pod.log.note(&incoming.target);
    let mut metadata = vec![(":authority".to_owned(), incoming.host.clone())];
    metadata.extend(incoming.fields.iter().cloned());
    let seen = Assertions {
        full_method: incoming.target.clone(),
        metadata,
        authority: incoming.host.clone(),
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        tls: incoming.tls.as_deref().map(|tls| TlsAssertions {
            version: tls.version.clone(),
            negotiated_protocol: tls.negotiated_protocol.clone().unwrap_or_default(),
            server_name: tls.server_name.clone(),
            cipher_suite: tls.cipher_suite.clone(),
            peer_certificates: tls.peer_certificates.clone(),
        }),
    };
    let mut body = respond.send_response(head, false)?;
    body.send_data(Bytes::from(seen.encode()), false)?;
    body.send_trailers(grpc_trailers(OK))
}
