//! Tests of `RateLimitServerPolicy`: calls in, messages out.

use std::net::SocketAddr;

use transept_wire::head::Request;

use super::super::tests::{compile, refusals};
use super::*;
use crate::exchange::{Connection, Notes, Now};
use crate::protobuf::{Reader, grpc_frame};

const SHOP: &str = "domain: shop\nheaders: Ietf\nlimits:\n\
    - {name: gold, requests: 5, per: 1m, descriptor: [{key: plan, value: gold}, {key: user}]}\n\
    - {name: user, requests: 2, per: 1m, descriptor: [{key: plan}, {key: user}]}\n\
    - {name: tokens, requests: 100, per: 1h, overdraw: true, descriptor: [{key: model}]}\n";

/// A descriptor's entries, and its own hits.
type Described<'d> = (&'d [(&'d str, &'d str)], Option<u64>);

/// A call.
fn call(domain: &str, hits: u64, descriptors: &[Described<'_>]) -> Vec<u8> {
    let mut message = Writer::default();
    message.bytes(1, domain.as_bytes());
    for (entries, own) in descriptors {
        message.message(2, |descriptor| {
            for (key, value) in *entries {
                descriptor.entry(1, key.as_bytes(), value.as_bytes());
            }
            if let Some(own) = own {
                descriptor.message(3, |wrapped| wrapped.number(1, *own));
            }
        });
    }
    message.number(3, hits);
    grpc_frame(&message.into_bytes())
}

fn ask(policy: &RateLimitServerPolicy, from: &str, result: Option<CalloutResult>) -> Verdict {
    let target = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    let mut request = Request::build("POST", "http", "limits.test", target).expect("a request");
    request.version = Version::Http2;
    let address: SocketAddr = from.parse().expect("an address");
    let mut notes = Notes::new();
    let connection = Connection::new(address, address, None);
    let mut x = Exchange {
        now: Now { monotonic: Duration::from_secs(1), unix: Duration::from_secs(1) },
        random: 7,
        connection: &connection,
        client: address.ip(),
        listener_port: 80,
        request: &mut request,
        notes: &mut notes,
    };
    match result {
        None => policy.on_request(&mut x),
        Some(result) => policy.on_callout(&mut x, result),
    }
}

/// Overall code; of each descriptor the code, what is left and the seconds; and the header fields.
type Told = (u64, Vec<(u64, u64, u64)>, Vec<String>);

fn told(policy: &RateLimitServerPolicy, call: &[u8]) -> Result<Told, Reason> {
    let verdict = ask(policy, "127.0.0.1:9", Some(CalloutResult::Body(call.into())));
    let Verdict::Respond(reply) = verdict else { panic!("{verdict:?}") };
    let ReplyBody::Grpc(message) = &reply.body else { return Err(reply.reason) };
    let (mut overall, mut statuses, mut fields) = (0, Vec::new(), Vec::new());
    let mut reader = Reader::new(message);
    while let Some((field, content)) = reader.next().expect("a message") {
        let number = |bytes: &[u8], wanted: u64| {
            let mut reader = Reader::new(bytes);
            let mut found = 0;
            while let Some((field, content)) = reader.next().expect("a message") {
                match content.number() {
                    Ok(number) if field == wanted => found = number,
                    Err(_) if field == wanted => {
                        let mut inner = Reader::new(content.bytes().expect("a message"));
                        found = inner
                            .next()
                            .expect("a message")
                            .map_or(0, |(_, content)| content.number().expect("a number"));
                    }
                    _ => {}
                }
            }
            found
        };
        match field {
            1 => overall = content.number().expect("a code"),
            2 => {
                let status = content.bytes().expect("a status");
                statuses.push((number(status, 1), number(status, 3), number(status, 4)));
            }
            _ => fields.push(String::from_utf8_lossy(content.bytes().expect("a field")).into_owned()),
        }
    }
    Ok((overall, statuses, fields))
}

fn codes(policy: &RateLimitServerPolicy, call: &[u8]) -> (u64, Vec<(u64, u64, u64)>) {
    told(policy, call).map(|(overall, statuses, _)| (overall, statuses)).expect("an answer")
}

#[test]
fn each_set_of_values_is_counted_and_the_first_limit_that_fits_holds() {
    let policy = compile::<RateLimitServerPolicy>(SHOP);
    let ada: &[(&str, &str)] = &[("plan", "free"), ("user", "ada")];
    let one = call("shop", 0, &[(ada, None)]);
    assert_eq!(codes(&policy, &one), (1, vec![(1, 1, 30)]));
    assert_eq!(codes(&policy, &one), (1, vec![(1, 0, 60)]));
    let (overall, statuses, fields) = told(&policy, &one).expect("an answer");
    assert_eq!((overall, statuses), (2, vec![(2, 0, 30)]));
    assert!(fields.iter().any(|field| field.contains("\"user\";r=0;t=30")), "{fields:?}");
    assert!(fields.iter().any(|field| field.contains("retry-after") && field.ends_with("30")), "{fields:?}");
    let bob: &[(&str, &str)] = &[("plan", "free"), ("user", "bob")];
    assert_eq!(codes(&policy, &call("shop", 2, &[(bob, None)])).0, 1, "each user has his own");
    let gold: &[(&str, &str)] = &[("plan", "gold"), ("user", "ada")];
    assert_eq!(codes(&policy, &call("shop", 5, &[(gold, None)])), (1, vec![(1, 0, 60)]));
    let unknown: &[(&str, &str)] = &[("user", "ada"), ("plan", "free")];
    assert_eq!(codes(&policy, &call("shop", 99, &[(unknown, None)])), (1, vec![(1, 0, 0)]), "no limit fits");
}

#[test]
fn what_one_descriptor_is_refused_costs_the_others_nothing() {
    let policy = compile::<RateLimitServerPolicy>(SHOP);
    let ada: &[(&str, &str)] = &[("plan", "free"), ("user", "ada")];
    let gold: &[(&str, &str)] = &[("plan", "gold"), ("user", "ada")];
    let both = call("shop", 0, &[(gold, Some(3)), (ada, Some(3))]);
    assert_eq!(codes(&policy, &both).0, 2);
    assert_eq!(codes(&policy, &call("shop", 0, &[(gold, Some(5))])).0, 1);
}

#[test]
fn hits_that_are_told_afterwards_overdraw_and_none_only_ask() {
    let policy = compile::<RateLimitServerPolicy>(SHOP);
    let model: &[(&str, &str)] = &[("model", "large")];
    let look = call("shop", 0, &[(model, Some(0))]);
    assert_eq!(codes(&policy, &look), (1, vec![(1, 100, 0)]));
    assert_eq!(codes(&policy, &call("shop", 150, &[(model, None)])).0, 2);
    let (overall, statuses) = codes(&policy, &look);
    assert_eq!((overall, statuses[0].0), (2, 2), "it is overdrawn");
    // 51 of 100 in an hour: as long as it takes to pay 50, and to get one.
    assert_eq!(statuses[0].2, 51 * 36);
}

#[test]
fn who_may_ask_is_decided_before_anything_is_read() {
    let policy = compile::<RateLimitServerPolicy>(SHOP);
    assert!(matches!(ask(&policy, "127.0.0.1:9", None), Verdict::Call(_)));
    let Verdict::Respond(reply) = ask(&policy, "192.0.2.1:9", None) else { panic!("it is let in") };
    assert_eq!(reply.reason, Reason::AddressDenied);
    let open = compile::<RateLimitServerPolicy>(&format!("callers: Any\n{SHOP}"));
    assert!(matches!(ask(&open, "192.0.2.1:9", None), Verdict::Call(_)));
}

#[test]
fn hostile_calls_are_refused() {
    let policy = compile::<RateLimitServerPolicy>(SHOP);
    let ada: &[(&str, &str)] = &[("plan", "free"), ("user", "ada")];
    let good = call("shop", 0, &[(ada, None)]);
    let mut compressed = good.clone();
    compressed[0] = 1;
    let many: Vec<Described<'_>> = vec![(ada, None); 65];
    let negative = {
        let mut message = Writer::default();
        message.bytes(1, b"shop");
        message.message(2, |descriptor| {
            descriptor.entry(1, b"model", b"large");
            descriptor.number(4, 1);
        });
        grpc_frame(&message.into_bytes())
    };
    for wrong in [
        Vec::new(),
        good[..good.len() - 1].to_vec(),
        [good.clone(), good.clone()].concat(),
        compressed,
        call("", 0, &[(ada, None)]),
        call("shop", 0, &[]),
        call("shop", 0, &[(&[], None)]),
        call("shop", 0, &[(&[("", "x")], None)]),
        call("shop", 0, &many),
        negative,
        call("another", 0, &[(ada, None)]),
        grpc_frame(&[0xff; 40]),
    ] {
        assert_eq!(told(&policy, &wrong).expect_err("it is refused"), Reason::RequestMalformed, "{wrong:?}");
    }
    let most = call("shop", u64::MAX, &[(&[("model", "m")], None)]);
    for _ in 0..3 {
        assert_eq!(codes(&policy, &most).0, 2, "however much is asked for");
    }
}

#[test]
fn mistakes_in_the_spec_are_named() {
    for (wrong, why) in [
        (
            "{name: a, requests: 1, per: 1s, descriptor: [{key: k}]}, \
             {name: b, requests: 1, per: 1s, descriptor: [{key: k, value: v}]}",
            "limit `b` is never reached, because `a` fits all that it fits",
        ),
        ("{name: a, requests: 1, per: 25h, descriptor: [{key: k}]}", "`per` must be from 1s to 24h"),
        (
            "{name: a, requests: 1, per: 1m, burst: 2, algorithm: SlidingWindow, descriptor: [{key: k}]}",
            "a sliding window has no `burst`",
        ),
        ("{name: \u{fc}, requests: 1, per: 1m, descriptor: [{key: k}]}", "printable ASCII"),
    ] {
        let found = refusals::<RateLimitServerPolicy>(&format!("domain: d\nlimits: [{wrong}]\n"));
        assert_eq!(found.len(), 1, "{wrong}: {found:?}");
        assert!(format!("{found:?}").contains(why), "{wrong}: {found:?}");
    }
}
