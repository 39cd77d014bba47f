//! What a backend is told about the client, and what clients cannot make it believe.

use crate::stage::{Ask, Backend, Caller, Down, Gateway, Served, Setup, Up};

const DOWNS: [Down; 2] = [Down::Http11, Down::H2c];
const UPS: [Up; 2] = [Up::Http1, Up::H2c];

/// What the backend hears of a request.
async fn heard(gateway: &Gateway, backend: &mut Backend, down: &Down, ask: Ask) -> Served {
    let mut caller = Caller::connect(down, gateway.address).await;
    let _call = caller.ask(ask).await;
    backend.next().await
}

fn all(served: &Served, name: &str) -> Vec<String> {
    let lines = served.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
    lines.map(|(_, value)| value.clone()).collect()
}

#[tokio::test]
async fn claims_of_strangers_are_replaced() {
    for up in UPS {
        let mut backend = Backend::start(up).await;
        let gateway = Setup::before(&backend).start().await;
        for down in DOWNS {
            let ask = Ask::get("/")
                .with("x-forwarded-for", "203.0.113.9")
                .with("X-Forwarded-For", "203.0.113.10")
                .with("x-forwarded-proto", "https")
                .with("x-forwarded-host", "evil.test")
                .with("x-forwarded-port", "1")
                .with("x-forwarded-prefix", "/evil")
                .with("x-real-ip", "203.0.113.9")
                .with("forwarded", "for=203.0.113.9")
                .with("x-original-url", "/evil")
                .with("x-rewrite-url", "/evil");
            let served = heard(&gateway, &mut backend, &down, ask).await;
            assert_eq!(all(&served, "x-forwarded-for"), ["127.0.0.1"], "{down:?} {up:?}");
            assert_eq!(all(&served, "x-forwarded-proto"), ["http"]);
            assert_eq!(all(&served, "x-forwarded-host"), ["site.test"]);
            assert_eq!(all(&served, "x-forwarded-port"), [gateway.address.port().to_string()]);
            for name in ["x-forwarded-prefix", "x-real-ip", "forwarded", "x-original-url", "x-rewrite-url"] {
                assert_eq!(served.field(name), None, "{name}");
            }
        }
    }
}

#[tokio::test]
async fn trusted_proxies_are_continued() {
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend)
        .policy("clientAddress: {trustedProxies: [127.0.0.0/8, 10.0.0.0/8]}")
        .policy("forwarding: {forwarded: true}")
        .document(
            "\
apiVersion: transept.dev/v1alpha1
kind: IpAccessPolicy
metadata: {name: block}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all}]
  deny: [203.0.113.0/24]",
        )
        .start()
        .await;
    for down in DOWNS {
        let ask = Ask::get("/")
            .with("x-forwarded-for", "203.0.113.9, 198.51.100.4, 10.1.1.1")
            .with("x-forwarded-proto", "https");
        let served = heard(&gateway, &mut backend, &down, ask).await;
        assert_eq!(all(&served, "x-forwarded-for"), ["203.0.113.9, 198.51.100.4, 10.1.1.1, 127.0.0.1"]);
        assert_eq!(all(&served, "x-forwarded-proto"), ["https"]);
        assert_eq!(all(&served, "forwarded"), ["for=127.0.0.1;host=\"site.test\";proto=http"]);
        // The client is the first hop from the right that is no proxy.
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/").with("x-forwarded-for", "198.51.100.4, 203.0.113.9, 10.1.1.1")).await;
        call.head().await;
        assert_eq!(call.status, 403);
    }
}

/// A name with underscores is the same as one with dashes to many a backend.
#[tokio::test]
async fn underscores_are_no_disguise() {
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).start().await;
    for down in DOWNS {
        let ask =
            Ask::get("/").with("x_forwarded_for", "203.0.113.9").with("content_length", "5").with("x_real_ip", "1");
        let served = heard(&gateway, &mut backend, &down, ask).await;
        assert!(served.fields.iter().all(|(name, _)| !name.contains('_')), "{:?}", served.fields);
    }
}

#[tokio::test]
async fn connection_cannot_name_what_others_need() {
    for up in UPS {
        let mut backend = Backend::start(up).await;
        let gateway = Setup::before(&backend).start().await;
        let names =
            "close, Host, X-Forwarded-For, X-Forwarded-Proto, X-Request-Id, Content-Length, Transfer-Encoding, X-Hop";
        let ask = Ask::post("/", crate::stage::Framed::Length(2)).with("connection", names).with("x-hop", "1");
        let mut caller = Caller::http11(gateway.address).await;
        let mut call = caller.ask(ask).await;
        call.send(b"me").await;
        let mut served = backend.next().await;
        let host = if up == Up::Http1 { "host" } else { ":authority" };
        assert_eq!(served.field(host), Some("site.test"));
        assert_eq!(served.field("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(served.field("x-forwarded-proto"), Some("http"));
        assert!(served.field("x-request-id").is_some());
        assert_eq!(served.field("content-length"), Some("2"));
        assert_eq!(served.field("x-hop"), None);
        assert_eq!(served.whole().await.content, b"me");
    }
}

#[tokio::test]
async fn fields_of_the_hop_stay_on_the_hop() {
    for up in UPS {
        let mut backend = Backend::start(up).await;
        let gateway = Setup::before(&backend).start().await;
        let ask = Ask::get("/")
            .with("keep-alive", "timeout=5")
            .with("proxy-connection", "keep-alive")
            .with("proxy-authorization", "Basic eDp5")
            .with("te", "gzip, trailers")
            .with("upgrade", "websocket")
            .with("x-stays", "1");
        let served = heard(&gateway, &mut backend, &Down::Http11, ask).await;
        for name in ["keep-alive", "proxy-connection", "proxy-authorization", "upgrade"] {
            assert_eq!(served.field(name), None, "{name}");
        }
        assert!(matches!(served.field("te"), None | Some("trailers")), "{:?}", served.field("te"));
        assert_eq!(served.field("x-stays"), Some("1"));
    }
}

#[tokio::test]
async fn every_request_has_an_id() {
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).start().await;
    for down in DOWNS {
        let served = heard(&gateway, &mut backend, &down, Ask::get("/")).await;
        let made = served.field("x-request-id").expect("an id").to_owned();
        // A UUID of version 7 (RFC 9562).
        assert_eq!((made.len(), made.as_bytes()[14]), (36, b'7'), "{made}");
        let served = heard(&gateway, &mut backend, &down, Ask::get("/").with("x-request-id", "mine-1")).await;
        assert_eq!(all(&served, "x-request-id"), ["mine-1"]);
        for bad in ["x".repeat(129), "two words".to_owned()] {
            let served = heard(&gateway, &mut backend, &down, Ask::get("/").with("x-request-id", &bad)).await;
            let ids = all(&served, "x-request-id");
            assert_eq!(ids.len(), 1);
            assert_eq!(ids[0].len(), 36, "{bad} becomes {ids:?}");
            assert_ne!(ids[0], made);
        }
    }
}

#[tokio::test]
async fn every_request_has_a_trace() {
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    for down in DOWNS {
        let served = heard(&gateway, &mut backend, &down, Ask::get("/")).await;
        let made = all(&served, "traceparent");
        assert_eq!((made.len(), made[0].len()), (1, 55), "{made:?}");
        assert!(made[0].starts_with("00-"), "{made:?}");
        let ask = Ask::get("/")
            .with("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"))
            .with("tracestate", "congo=t61rcWkgMzE");
        let served = heard(&gateway, &mut backend, &down, ask).await;
        let kept = all(&served, "traceparent");
        assert!(kept.len() == 1 && kept[0].contains(trace), "{kept:?}");
        assert!(served.field("tracestate").is_some_and(|state| state.contains("congo=t61rcWkgMzE")));
        for bad in [
            "00-0-0-0",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            let served =
                heard(&gateway, &mut backend, &down, Ask::get("/").with("traceparent", bad).with("tracestate", "a=b"))
                    .await;
            let made = all(&served, "traceparent");
            assert!(made.len() == 1 && made[0] != bad && made[0].len() == 55, "{bad} becomes {made:?}");
            assert_eq!(served.field("tracestate"), None, "{bad}");
        }
    }
}

#[tokio::test]
async fn traces_of_strangers_can_be_cut() {
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).policy("tracing: {incoming: Restart}").start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let ask =
        Ask::get("/").with("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01")).with("x-request-id", "mine");
    let served = heard(&gateway, &mut backend, &Down::Http11, ask).await;
    assert!(!served.field("traceparent").expect("a trace").contains(trace));
    assert_ne!(served.field("x-request-id"), Some("mine"));
}

/// Order, spelling and repetition are the sender's business.
#[tokio::test]
async fn other_fields_pass_as_they_are() {
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).start().await;
    let ask =
        Ask::get("/").with("X-Mixed-Case", "One  Two").with("x-list", "1").with("X-LIST", "2").with("x-empty", "");
    let served = heard(&gateway, &mut backend, &Down::Http11, ask).await;
    let wanted = [("X-Mixed-Case", "One  Two"), ("x-list", "1"), ("X-LIST", "2"), ("x-empty", "")];
    let got: Vec<_> = served.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for field in wanted {
        assert!(got.contains(&field), "{field:?} in {got:?}");
    }
}

/// A target in normal form is not touched.
#[tokio::test]
async fn targets_pass_as_they_are() {
    for up in UPS {
        let mut backend = Backend::start(up).await;
        let gateway = Setup::before(&backend).start().await;
        for down in DOWNS {
            let mut caller = Caller::connect(&down, gateway.address).await;
            for target in [
                "/a?b?c",
                "/a?",
                "/a;p=1/b?x=%2F..%2f&y=%00",
                "/%E4",
                "/a%20b",
                "/~a-b_c.d",
                "/a+b:c@d!$&'()*,=",
                "/?",
                "/a?//b/../c",
                "/a/",
                "/a?x=[1]|2",
                "/.well-known/x",
                "/...",
            ] {
                let mut call = caller.ask(Ask::get(target)).await;
                let served = backend.next().await;
                // An empty query is as good as none.
                let (got, wanted) = (served.target.trim_end_matches('?'), target.trim_end_matches('?'));
                assert_eq!(got, wanted, "{down:?} {up:?}");
                served.answer(200, "").await;
                assert_eq!(call.answer().await.0, 200, "{down:?} {up:?} {target}");
            }
        }
    }
}

/// Several cookies stay several lines, and bytes beyond ASCII stay what they are.
#[tokio::test]
async fn fields_of_responses_pass_as_they_are() {
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).start().await;
    for down in DOWNS {
        let mut caller = Caller::connect(&down, gateway.address).await;
        let mut call = caller.ask(Ask::get("/")).await;
        let mut served = backend.next().await;
        let head = b"HTTP/1.1 200 Fine\r\nSet-Cookie: a=1\r\nset-cookie: b=2; Path=/\r\nX-Text: \xc3\xa4\r\ncontent-length: 0\r\n\r\n";
        served.send_raw(head).await;
        served.end(&[]).await;
        assert_eq!(call.answer().await.0, 200);
        let cookies = call.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
        assert_eq!(cookies.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["a=1", "b=2; Path=/"], "{down:?}");
        assert_eq!(call.field("x-text"), Some("\u{e4}"), "{down:?}");
    }
}

#[tokio::test]
async fn options_for_the_whole_server_are_forwarded_or_refused() {
    let backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).start().await;
    let backend = backend.answer_all();
    let request = "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = crate::stage::raw::to_the_end(gateway.address, request).await;
    assert!(matches!(*crate::stage::raw::statuses(&answer), [200] | [404]), "{answer}");
    assert!(backend.heard().iter().all(|line| line == "OPTIONS *"), "{:?}", backend.heard());
}

/// A request that counts its hops stops when it has none left (RFC 9110 section 7.6.2).
#[tokio::test]
async fn hops_are_counted() {
    let mut backend = Backend::start(Up::Http1).await;
    let gateway = Setup::before(&backend).start().await;
    for down in DOWNS {
        for method in ["OPTIONS", "TRACE"] {
            let ask = Ask::new(method, "/").with("max-forwards", "5");
            let served = heard(&gateway, &mut backend, &down, ask).await;
            assert_eq!(all(&served, "max-forwards"), ["4"], "{down:?} {method}");
            let mut caller = Caller::connect(&down, gateway.address).await;
            let mut call = caller.ask(Ask::new(method, "/").with("max-forwards", "0")).await;
            call.head().await;
            assert!(backend.unheard().is_none(), "{down:?} {method}");
        }
        let served = heard(&gateway, &mut backend, &down, Ask::get("/").with("max-forwards", "5")).await;
        assert_eq!(all(&served, "max-forwards"), ["5"]);
    }
}
