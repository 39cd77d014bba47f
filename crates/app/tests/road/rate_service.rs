//! A rate limit service in Python says whether requests may pass, with every way to be of no use.

use std::net::SocketAddr;

use crate::service::Service;
use crate::stage::{Answering, Ask, Backend, Caller, Down, Gateway, Nobody, Setup, Up, soon};

async fn behind(address: SocketAddr, unavailable: &str) -> (Gateway, Answering) {
    let backend = Backend::start(Up::Http1).await;
    let gateway = before(&backend, address, unavailable).await;
    (gateway, backend.answer_all())
}

/// A gateway before a backend that asks the service at an address.
async fn before(backend: &Backend, address: SocketAddr, unavailable: &str) -> Gateway {
    let service = format!(
        "apiVersion: transept.dev/v1alpha1\nkind: Backend\nmetadata: {{name: limits}}\nspec: {{protocol: H2C, endpoints: \
         [{{address: {}, port: {}}}]}}",
        address.ip(),
        address.port()
    );
    let policy = format!(
        "apiVersion: transept.dev/v1alpha1\nkind: RateLimitServicePolicy\nmetadata: {{name: ask}}\nspec:\n  \
         targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all}}]\n  \
         backendRef: {{group: transept.dev, kind: Backend, name: limits}}\n  domain: shop\n  timeout: 2s\n  \
         onUnavailable: {unavailable}\n  descriptors:\n  \
         - entries: [{{key: how, header: X-How}}, {{key: remote_address, from: Address}}]"
    );
    let setup = Setup::before(backend).document(&service).document(&policy).argument("--access-log=stdout");
    setup.argument("--access-log-format=json").start().await
}

/// The status, and `Retry-After`.
async fn ask(gateway: &Gateway, how: Option<&str>) -> (u16, Option<String>) {
    let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
    let ask = match how {
        Some(how) => Ask::get("/").with("X-How", how),
        None => Ask::get("/"),
    };
    let mut call = caller.ask(ask).await;
    let (status, _) = call.answer().await;
    (status, call.field("retry-after").map(str::to_owned))
}

#[tokio::test]
async fn a_service_in_another_language_counts() {
    let Some(service) = Service::start("rate_limit.py").await else { return };
    let (gateway, answering) = behind(service.address, "Deny").await;
    for how in ["a", "b"] {
        let mut statuses = Vec::new();
        for _ in 0..5 {
            statuses.push(ask(&gateway, Some(how)).await);
        }
        let over = (429, Some("17".to_owned()));
        let ok = (200, None);
        assert_eq!(statuses, [ok.clone(), ok.clone(), ok, over.clone(), over]);
    }
    // A request that lacks a part of every descriptor is not asked about.
    for _ in 0..6 {
        assert_eq!(ask(&gateway, None).await.0, 200);
    }
    assert_eq!(answering.heard().len(), 12);
}

#[tokio::test]
async fn a_service_that_is_of_no_use_lets_nobody_pass_unless_it_is_said() {
    let Some(service) = Service::start("rate_limit.py").await else { return };
    for (unavailable, status) in [("Deny", 503), ("Allow", 200)] {
        let (gateway, _answering) = behind(service.address, unavailable).await;
        for how in ["garbage", "unknown", "fail", "slow"] {
            assert_eq!(ask(&gateway, Some(how)).await.0, status, "{how}");
        }
        let nobody = Nobody::here();
        let (gateway, _answering) = behind(nobody.address, unavailable).await;
        for _ in 0..3 {
            assert_eq!(ask(&gateway, Some("a")).await.0, status);
        }
        let down = "transept_rate_limit_service_up{policy=\"RateLimitServicePolicy default/ask\"} 0";
        let metrics = gateway.running.metrics().await.expect("metrics");
        assert!(metrics.contains(down), "{metrics}");
        if unavailable == "Allow" {
            let line = "\"uncounted\":\"RateLimitServicePolicy default/ask: ";
            soon(gateway.running.log_line_with(line)).await;
        }
        let log = gateway.running.log();
        assert_eq!(log.matches("the rate limit service does not answer").count(), 1, "{log}");
    }
}

#[tokio::test]
async fn all_that_a_service_says_is_passed_on() {
    let Some(service) = Service::start("rate_limit.py").await else { return };
    let backend = Backend::start(Up::Http1).await;
    let gateway = before(&backend, service.address, "Deny").await;
    let _answering = backend.answer_with(|mut served| async move {
        let seen = format!("{:?} {:?}", served.field("x-tier"), served.field("x-auth-id"));
        if served.try_whole().await.is_ok() {
            served.answer(200, &seen).await;
        }
    });
    let mut caller = Caller::connect(&Down::Http11, gateway.address).await;
    for left in [2, 1, 0, 0] {
        let mut call = caller.ask(Ask::get("/").with("X-How", "told").with("X-Tier", "gold")).await;
        let (status, body) = call.answer().await;
        let (passes, reset) = (status == 200, 17);
        assert_eq!(call.field("x-from-limits"), Some("seen"));
        assert_eq!(call.field("ratelimit-policy"), Some("\"three\";q=3;w=60"));
        assert_eq!(call.field("ratelimit"), Some(&*format!("\"three\";r={left};t={reset}")));
        assert_eq!(call.field("retry-after"), if passes { None } else { Some("17") });
        assert_eq!(body, if passes { "Some(\"free\") None" } else { "no more" });
    }
}
