//! Replies that the gateway makes itself: what programs, people and gRPC callers can read from them.

use serde_json::Value;

use crate::stage::{Ask, Backend, Call, Caller, Down, Framed, Gateway, Nobody, Setup, Up};

const DOWNS: [Down; 2] = [Down::Http11, Down::H2c];

/// A gateway whose one route knows `/known`, before a backend that is gone.
async fn stage() -> (Gateway, Nobody) {
    let nobody = Nobody::here();
    let gateway = Setup::of(&[nobody.address], Up::Http1).rule("matches: [{path: {value: /known}}]").start().await;
    (gateway, nobody)
}

async fn problem(call: &mut Call<'_>) -> Value {
    let (_, body) = call.answer().await;
    assert_eq!(call.field("content-type"), Some("application/problem+json"));
    serde_json::from_str(&body).expect("JSON")
}

#[tokio::test]
async fn programs_get_a_problem_document() {
    let (gateway, _nobody) = stage().await;
    for down in DOWNS {
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/unknown").with("x-request-id", "mine-1")).await;
        let problem = problem(&mut call).await;
        assert_eq!(call.status, 404);
        assert_eq!(problem["status"], 404);
        assert_eq!(problem["code"], "route.not_found");
        assert_eq!(problem["request_id"], "mine-1");
        assert!(
            problem["title"].is_string() && problem["type"].as_str().is_some_and(|link| link.starts_with("https://"))
        );
        assert_eq!(call.field("x-request-id"), Some("mine-1"));
        assert_eq!(call.field("cache-control"), Some("no-store"));
        assert_eq!(call.field("proxy-status"), Some("transept; error=destination_not_found"));
        assert!(call.field("date").is_some());
        // The connection goes on.
        drop(call);
        assert_eq!(caller.get("/unknown").await.0, 404);
    }
}

/// Nobody outside learns where a backend is.
#[tokio::test]
async fn problems_name_no_address() {
    let (gateway, _nobody) = stage().await;
    for down in DOWNS {
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/known")).await;
        let problem = problem(&mut call).await;
        assert_eq!(call.status, 503);
        assert_eq!(problem["code"], "upstream.connection_refused");
        assert_eq!(call.field("retry-after"), Some("1"));
        let told = format!("{problem} {:?}", call.fields);
        assert!(!told.contains("127.0.0.1") && !told.contains("os error"), "{told}");
    }
}

#[tokio::test]
async fn people_get_a_page() {
    let (gateway, _nobody) = stage().await;
    for down in DOWNS {
        let mut caller = Caller::connect(&down, gateway.address).await;
        let accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let ask = Ask::get("/unknown").with("accept", accept).with("x-request-id", "<script>");
        let mut call = caller.ask(ask).await;
        let (status, page) = call.answer().await;
        assert_eq!(status, 404);
        assert_eq!(call.field("content-type"), Some("text/html; charset=utf-8"));
        assert!(page.contains("404") && !page.contains("<script>"), "{page}");
    }
}

#[tokio::test]
async fn grpc_callers_get_a_status() {
    let (gateway, _nobody) = stage().await;
    let mut caller = Caller::connect(&Down::H2c, gateway.address).await;
    for (target, code) in [("/shop.Cart/Add", "12"), ("/known/Cart", "14")] {
        let ask = Ask::post(target, Framed::Open).with("content-type", "application/grpc+proto").with("te", "trailers");
        let mut call = caller.ask(ask).await;
        call.end(&[]).await;
        assert_eq!(call.answer().await, (200, String::new()), "{target}");
        assert_eq!(call.field("grpc-status"), Some(code), "{target}");
        assert!(call.field("grpc-message").is_some_and(|message| !message.is_empty()));
        assert_eq!(call.field("content-type"), Some("application/grpc"));
    }
}

#[tokio::test]
async fn head_gets_the_head_alone() {
    let (gateway, _nobody) = stage().await;
    for down in DOWNS {
        let mut caller = Caller::connect(&down, gateway.address).await;
        for target in ["/unknown", "/known"] {
            let mut call = caller.ask(Ask::new("HEAD", target)).await;
            let (status, body) = call.answer().await;
            assert_eq!((status, &*body), (if target == "/known" { 503 } else { 404 }, ""), "{down:?}");
            // HTTP/2 needs no length.
            assert_ne!(call.field("content-length"), Some("0"), "{down:?}");
            let closes = call.field("connection") == Some("close");
            drop(call);
            if closes {
                caller = Caller::connect(&down, gateway.address).await;
            }
        }
        assert_eq!(caller.get("/unknown").await.0, 404);
    }
}

/// A page on another origin can read why it failed.
#[tokio::test]
async fn cors_covers_replies_of_the_gateway() {
    let nobody = Nobody::here();
    let cors =
        "filters: [{type: CORS, cors: {allowOrigins: ['https://app.test'], allowMethods: [GET, PUT], maxAge: 60}}]";
    let gateway = Setup::of(&[nobody.address], Up::Http1).rule(cors).start().await;
    for down in DOWNS {
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/").with("origin", "https://app.test")).await;
        call.head().await;
        assert_eq!(call.status, 503);
        assert_eq!(call.field("access-control-allow-origin"), Some("https://app.test"));
        call.whole().await;
        drop(call);
        let mut caller = Caller::connect(&down, gateway.address).await;
        let ask =
            Ask::new("OPTIONS", "/").with("origin", "https://app.test").with("access-control-request-method", "PUT");
        let mut call = caller.ask(ask).await;
        let (status, body) = call.answer().await;
        assert!(matches!(status, 200 | 204) && body.is_empty(), "{status} {body}");
        assert_eq!(call.field("access-control-allow-origin"), Some("https://app.test"));
        assert!(call.field("access-control-allow-methods").is_some_and(|methods| methods.contains("PUT")));
        assert_eq!(call.field("access-control-max-age"), Some("60"));
    }
}

/// A reply of a backend is the backend's, errors and all.
#[tokio::test]
async fn errors_of_a_backend_are_its_own() {
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).start().await;
    for status in [400, 404, 500, 502, 503, 504] {
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        backend.next().await.answer(status, "mine").await;
        assert_eq!(call.answer().await, (status, "mine".to_owned()));
        assert_eq!(call.field("proxy-status"), None);
    }
}
