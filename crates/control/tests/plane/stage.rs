//! The stage of these tests: a control plane in this process, and proxies of which the test decides what they say.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::Request;
use prost::Message;
use rustls::crypto::CryptoProvider;
use rustls::time_provider::DefaultTimeProvider;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use transept_control::plane::source::Kinds;
use transept_control::plane::{Capacity, Plane, Question, Setup, serve};
use transept_control::{Loader, Outcome, Sources};
use transept_identity::handshake::client_config;
use transept_identity::token::Uses;
use transept_identity::{
    Accept, Bundle, LiveBundles, LiveSvid, PeerVerifier, PrivateKey, SpiffeId, Svid, Ticket, TrustDomain, request,
};
use transept_model::SourceText;
use transept_xds::client::{Client, Settings};
use transept_xds::grpc::{Frames, frame};
use transept_xds::mesh::{Issued, JOIN, JoinRequest};
use transept_xds::messages::{DeltaDiscoveryResponse, Node};
use transept_xds::refusal::{Reason, Refusal};
use transept_xds::{Key, TypeUrl};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The setup of the mesh of these tests, with certificates that live for so long.
pub(crate) fn setup(leaf_life: Duration) -> Setup {
    Setup { trust_domain: TrustDomain::new("shop.test").expect("a name"), leaf_life }
}

/// A control plane in this process.
pub(crate) struct Control {
    pub(crate) plane: Arc<Plane>,
    pub(crate) address: SocketAddr,
    provider: Arc<CryptoProvider>,
}

impl Control {
    pub(crate) async fn start(state: &Path) -> Self {
        Self::start_with(state, Capacity::WHOLE).await
    }

    pub(crate) async fn start_with(state: &Path, capacity: Capacity) -> Self {
        Self::serve(Plane::open(state, setup(Duration::from_secs(3600))).expect("a plane"), capacity).await
    }

    pub(crate) async fn serve(plane: Arc<Plane>, capacity: Capacity) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(plane.clone().attend());
        tokio::spawn(serve(plane.clone(), listener, capacity));
        Self { plane, address, provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()) }
    }

    pub(crate) fn set_files(&self, text: &str) {
        self.plane.set_files(&[SourceText::new("test.yaml", text)]);
    }

    pub(crate) fn bundles(&self) -> LiveBundles {
        let root = self.plane.ca().authority().root().expect("a root").clone();
        let bundle = Bundle::new(self.plane.trust_domain().clone(), [root]).expect("a bundle");
        LiveBundles::new([bundle].into_iter().collect())
    }

    pub(crate) async fn connect(&self, svid: Option<Svid>) -> Wire {
        let (calls, connection) = h2::client::handshake(self.secure(svid).await).await.expect("HTTP/2");
        tokio::spawn(connection);
        Wire(calls)
    }

    /// A connection on which nothing was said yet but TLS.
    pub(crate) async fn secure(&self, svid: Option<Svid>) -> TlsStream<TcpStream> {
        let control = SpiffeId::parse("spiffe://shop.test/transept/control").expect("an id");
        let peers = PeerVerifier::new(self.bundles(), Accept::only(control), self.provider.clone());
        let svid = svid.map(|svid| Arc::new(LiveSvid::new(svid)));
        let config = client_config(svid, peers, &[b"h2"], Arc::new(DefaultTimeProvider)).expect("TLS");
        let stream = TcpStream::connect(self.address).await.expect("connected");
        let name = ServerName::IpAddress(std::net::IpAddr::from([0, 0, 0, 0]).into());
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake")
    }

    /// Makes a token for a service and joins with it.
    pub(crate) async fn join(&self, service: &str) -> Svid {
        let question = Question::CreateToken {
            namespace: "default".into(),
            service: service.into(),
            uses: Uses::Once,
            seconds: 60,
        };
        let made = self.plane.answer(&question).expect("a token");
        let ticket = Ticket::read(made["token"].as_str().expect("text")).expect("a ticket");
        let key = PrivateKey::generate().expect("a key");
        let message = JoinRequest {
            token: ticket.token().to_owned(),
            nonce: Bytes::from_static(b"nonce"),
            request: request::create(&key, &ticket.id).expect("a request").to_vec().into(),
            proxy: String::new(),
        };
        let issued: Issued = self.connect(None).await.ask(JOIN, &message).await.expect("joined");
        self.read(issued, key)
    }

    pub(crate) fn read(&self, issued: Issued, key: PrivateKey) -> Svid {
        let chain = issued.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        Svid::new(chain, key, &self.provider).expect("an SVID")
    }

    /// What a follower of these files does.
    pub(crate) fn load(&self, loader: &mut Loader, text: &str) {
        let mut sources = Sources::new();
        sources.add_text(SourceText::new("test.yaml", text));
        match loader.load(sources.read()) {
            Outcome::Loaded(loaded) => self.plane.note_loaded(loaded),
            Outcome::Refused(refused) => panic!("{:?}", refused.invalid),
        }
        self.set_files(text);
    }

    /// `Programmed` of the only parent or ancestor of the objects of a kind.
    pub(crate) fn programmed(&self, question: &Question, kind: &str) -> Option<Value> {
        let shown = self.plane.answer(question).expect("an answer");
        let objects = if shown.is_array() { &shown } else { &shown["objects"] };
        let object = objects.as_array()?.iter().find(|object| object["kind"] == kind)?;
        let status = &object["status"];
        let part = [&status["parents"][0], &status["ancestors"][0], status].into_iter().find(|part| !part.is_null())?;
        part["conditions"].as_array()?.iter().find(|one| one["type"] == "Programmed").cloned()
    }

    pub(crate) fn refused(&self) -> Value {
        self.plane.answer(&Question::Status).expect("a status")["refused"].clone()
    }
}

/// An open connection.
pub(crate) struct Wire(pub(crate) SendRequest<Bytes>);

/// An open call.
pub(crate) struct Call {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) response: Option<ResponseFuture>,
    pub(crate) body: Option<RecvStream>,
    pub(crate) frames: Frames,
}

impl Wire {
    pub(crate) async fn call(&self, path: &str) -> Call {
        let request = Request::post(format!("https://control{path}")).body(()).expect("a request");
        let mut calls = self.0.clone().ready().await.expect("ready");
        let (response, send) = calls.send_request(request, false).expect("sent");
        Call { send, response: Some(response), body: None, frames: Frames::new(1 << 24) }
    }

    pub(crate) async fn ask<M: Message + Default>(
        &self,
        path: &str,
        message: &impl Message,
    ) -> Result<M, (String, String)> {
        let mut call = self.call(path).await;
        // Who is refused at once may be refused before it has said anything.
        let _ = call.send.send_data(frame(message), true);
        call.next().await.map(|answer| answer.expect("an answer"))
    }
}

impl Call {
    /// The next message; at a bad end the code and the sentence.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, (String, String)> {
        let next = async {
            if let Some(response) = self.response.take() {
                self.body = Some(response.await.expect("a response").into_body());
            }
            let body = self.body.as_mut().expect("a body");
            loop {
                if let Some(message) = self.frames.take().expect("frames") {
                    return Ok(Some(message));
                }
                let Some(data) = body.data().await else { break };
                let data = data.expect("data");
                self.frames.push(&data);
                body.flow_control().release_capacity(data.len()).expect("released");
            }
            let trailers = body.trailers().await.expect("trailers").unwrap_or_default();
            let text = |name: &str| trailers[name].to_str().expect("text").to_owned();
            if text("grpc-status") == "0" { Ok(None) } else { Err((text("grpc-status"), text("grpc-message"))) }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("in time")
    }
}

/// A proxy of which the test decides what it refuses.
pub(crate) struct Proxy {
    pub(crate) client: Client,
    pub(crate) call: Call,
    pub(crate) began: Instant,
}

impl Proxy {
    pub(crate) async fn begin(control: &Control, svid: Svid, wants: &[(&str, &str)]) -> Self {
        Self::knowing(Kinds::default().order(), control, svid, wants).await
    }

    /// The same of a version that knows these types.
    pub(crate) async fn knowing(types: Vec<TypeUrl>, control: &Control, svid: Svid, wants: &[(&str, &str)]) -> Self {
        let wire = control.connect(Some(svid)).await;
        let call = wire.call(transept_xds::METHOD).await;
        let mut client = Client::new(Settings {
            node: Node { id: "proxy".into(), ..Node::default() },
            types,
            ..Settings::default()
        });
        for (type_url, name) in wants {
            let type_url = TypeUrl::from(*type_url);
            match *name {
                "*" => client.subscribe_all(&type_url),
                name => client.subscribe(&Key::new(&type_url, name)),
            }
            .expect("a known type");
        }
        let mut proxy = Self { client, call, began: Instant::now() };
        assert_eq!(proxy.client.dial(Duration::ZERO), Some(0));
        proxy.client.connected(Duration::ZERO);
        proxy.flush();
        proxy
    }

    pub(crate) fn flush(&mut self) {
        while let Some(request) = self.client.next_request() {
            self.call.send.send_data(frame(&request), false).expect("sent");
        }
    }

    /// Takes responses in until `done`; refuses what `refuse` says.
    pub(crate) async fn until(&mut self, refuse: &[&str], done: impl Fn(&Client) -> bool) {
        while !done(&self.client) {
            let response: DeltaDiscoveryResponse = self.call.next().await.expect("a stream").expect("a response");
            let Some(batch) = self.client.receive(response).expect("allowed") else { continue };
            let refusals = batch.changes().iter().map(|change| change.name().to_string());
            let refusals = refusals.filter(|name| refuse.contains(&name.as_str()));
            let refusals = refusals.map(|name| Refusal::new(&name, "", Reason::Invalid, "I do not like it")).collect();
            self.client.settle(self.began.elapsed(), batch, refusals);
            self.flush();
        }
    }
}
