//! Who is let in and for how long: members take no places from others, and nobody is served whose root is distrusted.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transept_control::plane::{Capacity, Question};
use transept_identity::{PrivateKey, Svid, request};
use transept_xds::grpc::frame;
use transept_xds::mesh::{Issued, RENEW, RenewRequest};
use transept_xds::messages::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use crate::stage::{Control, PATIENCE, Wire};

/// Asks for another certificate; at a bad end the code of the refusal.
async fn renew(wire: &Wire, svid: &Svid) -> Result<Issued, String> {
    let key = PrivateKey::generate().expect("a key");
    let own = request::create(&key, svid.id()).expect("a request").to_vec();
    let asked = RenewRequest { request: own.into(), nonce: Bytes::from_static(b"nonce"), proxy: String::new() };
    wire.ask(RENEW, &asked).await.map_err(|(code, _)| code)
}

/// Replaces the root at once, and gives the first one up.
fn distrust_the_first_root(control: &Control) {
    let first = control.plane.ca().root().to_string();
    control.plane.answer(&Question::Rotate).expect("announced");
    control.plane.answer(&Question::Distrust { root: first }).expect("known");
}

/// Members give their places at the door back: more of them stay than strangers may be there at a time.
#[tokio::test]
async fn many_members_behind_one_address_are_served() {
    let state = tempfile::tempdir().expect("a directory");
    let control = Control::start(state.path()).await;
    let svid = control.join("cart").await;
    let mut wires = Vec::new();
    for _ in 0..300 {
        wires.push(control.connect(Some(svid.clone())).await);
    }
    // And another one can join.
    control.join("web").await;
    assert_eq!(wires.len(), 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_no_http_after_the_handshake_takes_no_place_of_a_member() {
    let state = tempfile::tempdir().expect("a directory");
    let control = Control::start_with(state.path(), Capacity::within(Some(171))).await;
    let svid = control.join("cart").await;
    let mut silent = control.secure(Some(svid.clone())).await;
    // The door has been passed when something is heard, and there is one place for members.
    silent.read_u8().await.expect("the other side speaks first");
    let cart = control.connect(Some(svid.clone())).await;
    assert!(renew(&cart, &svid).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_for_whom_there_is_no_place_hears_why() {
    let state = tempfile::tempdir().expect("a directory");
    let control = Control::start_with(state.path(), Capacity::within(Some(171))).await;
    let [cart, web] = [control.join("cart").await, control.join("web").await];
    let _only = control.connect(Some(cart)).await;
    let refused = control.connect(Some(web)).await;
    let mut call = refused.call(transept_xds::METHOD).await;
    call.send.send_data(frame(&DeltaDiscoveryRequest::default()), false).expect("sent");
    let (code, why) = call.next::<DeltaDiscoveryResponse>().await.expect_err("there is one place");
    assert!(code == "8" && why.contains("has no place for another member"), "{code} {why}");
}

/// The clock of the test stands, and goes on when there is nothing to do but to wait for it.
#[tokio::test]
async fn who_speaks_no_http_after_the_handshake_is_sent_away() {
    let state = tempfile::tempdir().expect("a directory");
    let control = Control::start(state.path()).await;
    let svid = control.join("cart").await;
    let mut silent = control.secure(Some(svid)).await;
    silent.read_u8().await.expect("the other side speaks first");
    tokio::time::pause();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest)).await;
    ended.expect("within the time for a greeting, and not with the certificate").unwrap_or_default();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_is_distrusted_between_the_handshakes_of_tls_and_http_vouches_for_nobody() {
    let state = tempfile::tempdir().expect("a directory");
    let control = Control::start(state.path()).await;
    let svid = control.join("cart").await;
    let mut early = control.secure(Some(svid.clone())).await;
    early.read_u8().await.expect("the other side speaks first");
    let open = control.connect(Some(svid.clone())).await;
    assert!(renew(&open, &svid).await.is_ok());
    distrust_the_first_root(&control);
    // An open connection has some time to hear of it, and nothing else is done for it.
    assert!(renew(&open, &svid).await.is_err_and(|code| code == "16"));
    early.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, early.read_to_end(&mut rest)).await;
    ended.expect("sent away").unwrap_or_default();
}
