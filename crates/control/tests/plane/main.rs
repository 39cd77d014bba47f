//! The control plane against proxies that say on the wire exactly what the test wants: TLS, HTTP/2 and gRPC are real, what a proxy makes
//! of its configuration is not.

mod admission;
mod stage;

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use transept_control::Loader;
use transept_control::plane::source::Kinds;
use transept_control::plane::{Admin, Capacity, Plane, Question, TapFilter, Tapping, say_farewell};
use transept_identity::token::Uses;
use transept_identity::{PrivateKey, SpiffeId, Ticket, request};
use transept_xds::client::Client;
use transept_xds::grpc::{decode_message, frame};
use transept_xds::mesh::{Answer, Beat, Issued, JOIN, JoinRequest, REGISTER, RENEW, RenewRequest};
use transept_xds::report::{EdgeName, EdgeTotals, End, Report, ReportAck, Tapped};
use transept_xds::{Key, TypeUrl};

use crate::stage::{Call, Control, PATIENCE, Proxy, setup};

fn service(name: &str, port: u16) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{port: {port}}}]}}}}\n---\n")
}

const SERVICE: &str = "core/v1/Service";
const SECRET: &str = "core/v1/Secret";

fn holds(type_url: &str, name: &str) -> impl Fn(&Client) -> bool {
    let key = Key::new(&TypeUrl::from(type_url), name);
    move |client| client.held(&key).is_some()
}

/// Waits until the control plane has heard what the proxy said.
async fn eventually(what: impl Fn() -> bool) {
    let heard = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("heard in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_known_until_the_resource_is_right() {
    let state = tempfile::tempdir().expect("temporary directory");
    let control = Control::start(state.path()).await;
    control.set_files(&(service("cart", 80) + &service("bank", 80)));
    let svid = control.join("cart").await;
    let mut proxy = Proxy::begin(&control, svid, &[(SERVICE, "*")]).await;
    proxy.until(&["default/cart"], |client| client.is_synced()).await;
    assert!(!holds(SERVICE, "default/cart")(&proxy.client) && holds(SERVICE, "default/bank")(&proxy.client));
    eventually(|| control.refused() != Value::Array(Vec::new())).await;
    let refused = control.refused();
    assert_eq!(refused[0]["name"], "default/cart");
    assert_eq!(refused[0]["proxies"]["default/cart/proxy"], "I do not like it");

    control.set_files(&(service("cart", 81) + &service("bank", 80)));
    proxy.until(&[], holds(SERVICE, "default/cart")).await;
    eventually(|| control.refused() == Value::Array(Vec::new())).await;
}

/// What the control plane says that a proxy misses.
fn missed(control: &Control) -> Value {
    let status = control.plane.answer(&Question::Status).expect("a status");
    status["members"][0]["missing"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_comes_back_misses_what_it_misses_now() {
    let state = tempfile::tempdir().expect("temporary directory");
    let control = Control::start(state.path()).await;
    control.set_files(&service("cart", 80));
    let svid = control.join("web").await;
    let mut proxy = Proxy::begin(&control, svid, &[(SERVICE, "default/crt")]).await;
    proxy.until(&[], |client| client.is_synced()).await;
    eventually(|| missed(&control)[0]["service"] == "default/crt").await;
    drop(proxy);
    // Its command line was mended.
    let svid = control.join("web").await;
    let mut proxy = Proxy::begin(&control, svid, &[(SERVICE, "default/cart")]).await;
    proxy.until(&[], holds(SERVICE, "default/cart")).await;
    eventually(|| missed(&control) == Value::Array(Vec::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_hears_that_the_control_plane_is_stopped() {
    let state = tempfile::tempdir().expect("temporary directory");
    let control = Control::start(state.path()).await;
    let svid = control.join("cart").await;
    let wire = control.connect(Some(svid)).await;
    let mut call = wire.call(REGISTER).await;
    call.send.send_data(frame(&Beat::default()), false).expect("sent");
    let _: Answer = call.next().await.expect("an answer").expect("a message");
    let (said, ()) = tokio::join!(call.next::<Answer>(), say_farewell(&control.plane));
    let (code, why) = said.expect_err("an end");
    assert_eq!((&*code, decode_message(&why).as_str()), ("14", "the control plane was stopped"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_lost_its_certificate_while_no_control_plane_ran_is_shown() {
    let certificates = known_later(false).await;
    eventually(|| certificates().is_some_and(|cart| cart["remaining"] == "ended")).await;
    assert_eq!(certificates().expect("cart")["connected"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_stopped_in_order_is_not_shown_as_one_whose_certificate_has_ended() {
    let certificates = known_later(true).await;
    assert!(certificates().is_none_or(|cart| cart["left"] == true));
    eventually(|| certificates().is_none()).await;
}

/// What a control plane says of the certificate of a member of the one before, which has said that it ends or was lost.
async fn known_later(leaves: bool) -> impl Fn() -> Option<Value> {
    let (state, later) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let short = Duration::from_secs(2);
    let control = Control::serve(Plane::open(state.path(), setup(short)).expect("a plane"), Capacity::WHOLE).await;
    let svid = control.join("cart").await;
    if leaves {
        let mut call = control.connect(Some(svid)).await.call(REGISTER).await;
        let beat = Beat { nonce: "nonce".into(), leaves, ..Beat::default() };
        call.send.send_data(frame(&beat), false).expect("sent");
        let _: Answer = call.next().await.expect("an answer").expect("a message");
    }
    // As it is left by a control plane that is killed.
    for file in ["ca.key", "ca.pem", "state.redb"] {
        std::fs::copy(state.path().join(file), later.path().join(file)).expect("copied");
    }
    let plane = Plane::open(later.path(), setup(short)).expect("a plane");
    move || {
        let _ = &later;
        let shown = plane.answer(&Question::Certificates).expect("certificates");
        let mut all = shown["certificates"].as_array().expect("a list").iter();
        all.find(|one| one["id"].as_str().is_some_and(|id| id.ends_with("/sa/cart"))).cloned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_in_the_status_of_the_object_that_caused_it() {
    const ROUTE: &str = "gateway.networking.k8s.io/v1/HTTPRoute";
    const POLICY: &str = "transept.dev/v1alpha1/TrafficPolicy";
    let text = |timeout: &str| {
        let route = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: shop}}\nspec: {{parentRefs: [{{group: '', kind: \
             Service, name: cart}}], rules: [{{timeouts: {{request: {timeout}}}, backendRefs: [{{name: cart, port: 80}}]}}]}}\n---\n"
        );
        let policy = format!(
            "apiVersion: transept.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: cart}}\nspec: {{targetRefs: [{{group: '', kind: Service, \
             name: cart}}], connectTimeout: {timeout}}}\n---\n"
        );
        service("cart", 80) + &route + &policy
    };
    let state = tempfile::tempdir().expect("temporary directory");
    let control = Control::start(state.path()).await;
    let mut loader = Loader::for_checking();
    control.load(&mut loader, &text("1s"));
    assert_eq!(control.programmed(&Question::Objects, "HTTPRoute"), None, "nobody is asked yet");

    let svid = control.join("cart").await;
    let wants = [(SERVICE, "*"), (ROUTE, "*"), (POLICY, "*")];
    let mut proxy = Proxy::begin(&control, svid, &wants).await;
    proxy.until(&["default/shop", "default/cart"], |client| client.is_synced()).await;
    let says = |question: Question, kind: &'static str, status: &'static str, generation: i64| {
        let programmed = control.programmed(&question, kind);
        programmed.is_some_and(|one| one["status"] == status && one["observedGeneration"] == generation)
    };
    for kind in ["HTTPRoute", "TrafficPolicy"] {
        eventually(|| says(Question::Objects, kind, "False", 1)).await;
        let shown = control.programmed(&Question::Status, kind).expect("what is refused is in the short form too");
        assert_eq!(shown["reason"], "Refused");
        let message = shown["message"].as_str().expect("text");
        assert!(message.contains("default/cart/proxy (I do not like it)"), "{message}");
    }
    // A Service has no other status.
    eventually(|| says(Question::Objects, "Service", "False", 0)).await;

    // Until the proxy has answered, its refusal is one of what was there before.
    control.load(&mut loader, &text("2s"));
    assert!(says(Question::Objects, "HTTPRoute", "False", 1));
    proxy.until(&[], |client| holds(ROUTE, "default/shop")(client) && holds(POLICY, "default/cart")(client)).await;
    for kind in ["HTTPRoute", "TrafficPolicy"] {
        eventually(|| says(Question::Objects, kind, "True", 2)).await;
        assert_eq!(control.programmed(&Question::Status, kind), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_a_kind_that_a_proxy_does_not_know_is_told_of() {
    let state = tempfile::tempdir().expect("temporary directory");
    let control = Control::start(state.path()).await;
    let policy = |name: &str, group: &str, kind: &str| {
        let target = format!("{{group: '{group}', kind: {kind}, name: cart}}");
        let spec = if kind == "Gateway" { "allow: [10.0.0.0/8]" } else { "connectTimeout: 1s" };
        let policy = if kind == "Gateway" { "IpAccessPolicy" } else { "TrafficPolicy" };
        format!(
            "{{apiVersion: transept.dev/v1alpha1, kind: {policy}, metadata: {{name: {name}}}, spec: {{targetRefs: [{target}], {spec}}}}}\n---\n"
        )
    };
    let on_gateway = policy("office", "gateway.networking.k8s.io", "Gateway");
    let text = service("cart", 80) + &policy("cart", "", "Service") + &on_gateway;
    control.load(&mut Loader::for_checking(), &text);
    let older =
        |kind: &TypeUrl| !kind.as_str().ends_with("/TrafficPolicy") && !kind.as_str().ends_with("/IpAccessPolicy");
    let types = Kinds::default().order().into_iter().filter(older).collect();
    let mut proxy = Proxy::knowing(types, &control, control.join("cart").await, &[(SERVICE, "*")]).await;
    proxy.until(&[], holds(SERVICE, "default/cart")).await;
    eventually(|| control.refused() != Value::Array(Vec::new())).await;
    let refused = control.refused();
    assert_eq!(refused.as_array().map(Vec::len), Some(1), "what is on a Gateway does not concern a sidecar: {refused}");
    let why = refused[0]["proxies"]["default/cart/proxy"].as_str().expect("a reason");
    assert!(why.contains("does not know the kind"), "{why}");
    let programmed = control.programmed(&Question::Objects, "TrafficPolicy").expect("a condition");
    assert_eq!((&programmed["status"], &programmed["reason"]), (&"False".into(), &"Refused".into()));

    drop(proxy);
    eventually(|| control.refused() == Value::Array(Vec::new())).await;
    let mut newer = Proxy::begin(&control, control.join("bank").await, &[(SERVICE, "*")]).await;
    newer.until(&[], holds(SERVICE, "default/cart")).await;
    eventually(|| control.programmed(&Question::Objects, "TrafficPolicy").is_some_and(|one| one["status"] == "True"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_while_a_proxy_connects_reaches_it() {
    let state = tempfile::tempdir().expect("temporary directory");
    let control = Control::start(state.path()).await;
    let svid = control.join("cart").await;
    for round in 0..50 {
        let name = format!("s{round}");
        let wanted = format!("default/{name}");
        let wants = [(SERVICE, wanted.as_str()), ("core/v1/Namespace", "*")];
        let begun = Proxy::begin(&control, svid.clone(), &wants);
        let files = async {
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            control.set_files(&service(&name, 80));
        };
        let (mut proxy, ()) = tokio::join!(begun, files);
        proxy.until(&[], holds(SERVICE, &wanted)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_for_the_gateway_that_uses_them() {
    let state = tempfile::tempdir().expect("temporary directory");
    let control = Control::start(state.path()).await;
    control.set_files(
        "{apiVersion: v1, kind: Secret, metadata: {name: key}, stringData: {a: b}}\n---\n\
         {apiVersion: v1, kind: Secret, metadata: {name: nobodys}, stringData: {a: b}}\n---\n\
         {apiVersion: v1, kind: Secret, metadata: {name: key, namespace: other}, stringData: {a: b}}\n---\n\
         {apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: web}, spec: {gatewayClassName: transept, \
         listeners: [{name: https, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: key}]}}]}}\n---\n\
         {apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: office}, spec: {gatewayClassName: transept, \
         listeners: [{name: http, protocol: HTTP, port: 81}]}}\n",
    );
    let all = [(SECRET, "*"), ("gateway.networking.k8s.io/v1/Gateway", "*")];
    let mut web = Proxy::begin(&control, control.join("web").await, &all).await;
    web.until(&[], |client| client.is_synced()).await;
    assert!(holds(SECRET, "default/key")(&web.client));
    assert!(["default/nobodys", "other/key"].iter().all(|name| !holds(SECRET, name)(&web.client)));
    let mut office = Proxy::begin(&control, control.join("office").await, &all).await;
    office.until(&[], |client| client.is_synced()).await;
    assert!(!holds(SECRET, "default/key")(&office.client));
    let gateway = "gateway.networking.k8s.io/v1/Gateway";
    assert!(holds(gateway, "default/web")(&web.client) && !holds(gateway, "default/office")(&web.client));
    let mut cart = Proxy::begin(&control, control.join("cart").await, &all).await;
    cart.until(&[], |client| client.is_synced()).await;
    assert!(!holds(SECRET, "default/key")(&cart.client));
    assert!(holds(gateway, "default/web")(&cart.client));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_one_may_join_and_nothing_else() {
    let state = tempfile::tempdir().expect("temporary directory");
    let control = Control::start(state.path()).await;
    let nobody = control.connect(None).await;
    for path in [transept_xds::METHOD, transept_xds::mesh::REGISTER, transept_xds::report::METHOD, RENEW] {
        let refused = nobody.ask::<Issued>(path, &RenewRequest::default()).await.expect_err("refused");
        assert_eq!(refused.0, "16", "{path}: {}", refused.1);
    }
    let unknown = nobody.ask::<Issued>("/transept.v1.Mesh/Other", &RenewRequest::default()).await.expect_err("refused");
    assert_eq!(unknown.0, "12");

    // The identity of the connection is renewed, and no other one.
    let svid = control.join("cart").await;
    let cart = control.connect(Some(svid.clone())).await;
    let key = PrivateKey::generate().expect("a key");
    let own = request::create(&key, svid.id()).expect("a request").to_vec();
    let issued: Issued = cart
        .ask(RENEW, &RenewRequest { request: own.into(), nonce: Bytes::from_static(b"nonce"), proxy: String::new() })
        .await
        .expect("renewed");
    assert_eq!(control.read(issued, key.clone()).id(), svid.id());
    let bank = SpiffeId::parse("spiffe://shop.test/ns/default/sa/bank").expect("an id");
    let other = request::create(&key, &bank).expect("a request").to_vec();
    let refused = cart
        .ask::<Issued>(
            RENEW,
            &RenewRequest { request: other.into(), nonce: Bytes::from_static(b"nonce"), proxy: String::new() },
        )
        .await
        .expect_err("refused");
    assert_eq!(refused.0, "7", "{}", refused.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_tells_of_its_own_edges_and_of_the_requests_that_somebody_watches() {
    let state = tempfile::tempdir().expect("temporary directory");
    let control = Control::start(state.path()).await;
    control.set_files(&service("cart", 80));
    let admin = Admin::bind(state.path()).expect("a socket");
    tokio::spawn(admin.serve(control.plane.clone()));
    let wire = control.connect(Some(control.join("cart").await)).await;
    let mut call = wire.call(transept_xds::report::METHOD).await;
    let tell = |call: &mut Call, report: Report| {
        let report = Report { epoch: 1, proxy: "cart-1".into(), complete: true, ..report };
        call.send.send_data(frame(&report), false).expect("sent");
    };
    let acknowledged = async |call: &mut Call| call.next::<ReportAck>().await.expect("a stream").expect("an answer");
    tell(&mut call, Report { sequence: 1, ..Report::default() });
    let ack = acknowledged(&mut call).await;
    assert_eq!((ack.sequence, ack.interval_ms, ack.taps), (1, 5000, vec![]));

    let name = |id: u32, source: &str, end: End| EdgeName {
        id,
        source: format!("spiffe://shop.test/ns/default/sa/{source}"),
        service: "default/cart".into(),
        workload: "cart-1".into(),
        end: end.into(),
    };
    let totals = |edge: u32| EdgeTotals { edge, requests: 3, ..EdgeTotals::default() };
    let names = vec![name(0, "web", End::Destination), name(1, "bank", End::Source)];
    tell(&mut call, Report { sequence: 2, names, edges: vec![totals(0), totals(1)], ..Report::default() });
    assert_eq!(acknowledged(&mut call).await.sequence, 2);
    let graph = control.plane.answer(&Question::Graph).expect("a graph");
    assert_eq!(graph["edges"].as_array().map(Vec::len), Some(1), "{graph}");
    assert_eq!((&graph["edges"][0]["source"], &graph["edges"][0]["requests"]), (&"default/web".into(), &3.into()));

    let filter = TapFilter {
        namespace: "default".into(),
        service: "cart".into(),
        method: Some("get".into()),
        from: Some("web".into()),
        ..TapFilter::default()
    };
    let mut tapping = Tapping::begin(state.path(), filter).await.expect("a tap");
    assert_eq!(tapping.begun["proxies"], 1);
    let asked = acknowledged(&mut call).await;
    assert_eq!((asked.sequence, asked.taps.len()), (2, 1), "unasked, and at once");
    let wanted = &asked.taps[0];
    assert_eq!((wanted.method.as_str(), wanted.source.as_str()), ("GET", "spiffe://shop.test/ns/default/sa/web"));
    let tapped =
        Tapped { taps: vec![wanted.id], path: "/items".into(), service: "default/bank".into(), ..Tapped::default() };
    tell(&mut call, Report { sequence: 3, tapped: vec![tapped], left_out: 2, ..Report::default() });
    let line = tapping.next().await.expect("a line").expect("a request");
    assert_eq!(line["request"]["path"], "/items");
    assert_eq!(line["request"]["destination"], "default/cart", "it can tell of its own service only");
    assert_eq!(tapping.next().await.expect("a line"), Some(serde_json::json!({"leftOut": 2})));
    assert_eq!(acknowledged(&mut call).await.taps.len(), 1);
    drop(tapping);
    assert_eq!(acknowledged(&mut call).await.taps, vec![], "nobody watches any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_can_be_asked_for_again_and_a_bad_request_costs_no_token() {
    let state = tempfile::tempdir().expect("temporary directory");
    let control = Control::start(state.path()).await;
    let question =
        Question::CreateToken { namespace: "default".into(), service: "cart".into(), uses: Uses::Once, seconds: 60 };
    let made = control.plane.answer(&question).expect("a token");
    let ticket = Ticket::read(made["token"].as_str().expect("text")).expect("a ticket");
    let join = async |nonce: &'static [u8], request: Vec<u8>| {
        let message = JoinRequest {
            token: ticket.token().to_owned(),
            nonce: nonce.into(),
            request: request.into(),
            proxy: String::new(),
        };
        control.connect(None).await.ask::<Issued>(JOIN, &message).await
    };
    let key = PrivateKey::generate().expect("a key");
    let good = request::create(&key, &ticket.id).expect("a request").to_vec();
    assert_eq!(join(b"one", b"junk".to_vec()).await.expect_err("no request").0, "7");
    assert!(join(b"one", good.clone()).await.is_ok());
    assert!(join(b"one", good.clone()).await.is_ok(), "the same instance may ask again");
    assert_eq!(join(b"two", good).await.expect_err("another instance").0, "16");
}
