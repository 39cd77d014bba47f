//! Discovery: hostile bytes as messages to either side neither break it nor make it grow, and afterwards an honest control plane and
//! the proxy that suffered them come to agree.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use prost::Message;
use transept_xds::client::{self, Client};
use transept_xds::messages::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use transept_xds::refusal::{Reason, Refusal};
use transept_xds::server::{self, Session};
use transept_xds::source::{Everything, Store};
use transept_xds::{Key, Resource, TypeUrl, Version};

const TYPES: [&str; 2] = ["a/v1/A", "b/v1/B"];
/// Names that the store may have of each type.
const NAMES: u8 = 4;
const HELD: usize = 16;
const BYTES: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let order: Vec<TypeUrl> = TYPES.map(TypeUrl::from).to_vec();
    let settings = server::Settings {
        order: order.clone(),
        response_bytes: 64,
        types: 4,
        names: 8,
        held: HELD,
        name_bytes: 32,
        ..server::Settings::default()
    };
    let settings = Arc::new(settings);
    let mut store = Store::new();
    let mut session = Session::new((), settings.clone());
    let mut client = Client::new(client::Settings {
        types: order,
        resources: HELD,
        bytes: BYTES,
        name_bytes: 32,
        ..client::Settings::default()
    });
    for kind in TYPES {
        client.subscribe_all(&TypeUrl::from(kind)).expect("a known type");
    }
    let mut now = Duration::ZERO;
    let mut open = Vec::new();
    let mut rest = input;
    while let Some((&[what, length], tail)) = rest.split_first_chunk::<2>() {
        let (frame, tail) = tail.split_at(tail.len().min(4 * usize::from(length)));
        rest = tail;
        now += Duration::from_millis(u64::from(what) * 10);
        connect(&mut client, now);
        match what % 4 {
            0 => {
                let Ok(request) = DeltaDiscoveryRequest::decode(frame) else { continue };
                if session.receive(now, request, &store).is_err() {
                    session = Session::new((), settings.clone());
                }
            }
            1 => {
                let Ok(response) = DeltaDiscoveryResponse::decode(frame) else { continue };
                match client.receive(response) {
                    Ok(batch) => open.extend(batch),
                    Err(_) => client.disconnected(now, u64::from(length)),
                }
            }
            2 => change(&mut store, what / 4, frame),
            _ => {
                if let Some(batch) = open.pop() {
                    client.settle(now, batch, Vec::new());
                }
                client.expire(now);
            }
        }
        session.poll(now, &store, &Everything);
        while client.next_request().is_some() {}
        check(&session, &client);
    }
    agree(&mut client, Session::new((), settings), now, &store);
});

fn connect(client: &mut Client, now: Duration) {
    if !client.is_connected() && client.dial(now).is_some() {
        client.connected(now);
    }
}

fn change(store: &mut Store, what: u8, contents: &[u8]) {
    let kind = TypeUrl::from(TYPES[usize::from(what % 2)]);
    let key = Key::new(&kind, &format!("n{}", what / 2 % NAMES));
    let other = Key::new(&TypeUrl::from(TYPES[0]), &format!("n{}", what / 8 % NAMES));
    if contents.is_empty() {
        store.remove(&key);
    } else {
        let contents = contents[..contents.len().min(64)].to_vec();
        store.put(Resource::new(key, contents.into()).joining(vec![other]));
    }
}

/// Neither side grows beyond its limits.
fn check(session: &Session<()>, client: &Client) {
    assert!(session.holdings().count() <= HELD + TYPES.len() * usize::from(NAMES));
    assert!(client.holdings().count() <= HELD);
    let bytes: usize = client.holdings().map(|(_, held)| held.payload.len()).sum();
    assert!(bytes <= BYTES);
}

/// A new stream to an honest control plane.
fn agree(client: &mut Client, mut session: Session<()>, now: Duration, store: &Store) {
    let now = now + Duration::from_secs(3600);
    client.disconnected(now, 0);
    connect(client, now + Duration::from_secs(60));
    client.expire(now);
    let mut rounds = 0;
    loop {
        let mut moved = false;
        while let Some(request) = client.next_request() {
            moved = true;
            let again = DeltaDiscoveryRequest::decode(request.encode_to_vec().as_slice()).expect("decodes");
            session.receive(now, again, store).expect("an honest client");
        }
        for response in session.poll(now, store, &Everything) {
            moved = true;
            let read = DeltaDiscoveryResponse::decode(response.encode_to_vec().as_slice()).expect("decodes");
            let batch = client.receive(read).expect("an honest server").expect("a known type");
            let odd = batch.changes().iter().filter_map(|change| match change {
                client::Change::Put { name, version, payload, .. } if payload.first() == Some(&b'!') => {
                    Some(Refusal::new(name, version, Reason::Invalid, "odd"))
                }
                _ => None,
            });
            let odd = odd.collect();
            client.settle(now, batch, odd);
        }
        if !moved {
            break;
        }
        rounds += 1;
        assert!(rounds < 200, "it never ends");
    }
    assert!(client.is_synced());
    let refused: Vec<(Key, Version)> = session.refused().collect();
    let mut held = 0;
    for kind in TYPES.map(TypeUrl::from) {
        for resource in store.resources(&kind) {
            let key = resource.key();
            let version = client.held(key).map(|held| held.version.to_string());
            let agrees = version == Some(resource.version().to_string());
            assert!(agrees || refused.contains(&(key.clone(), resource.version())), "{key}");
            held += usize::from(client.held(key).is_some());
        }
    }
    assert_eq!(client.holdings().count(), held);
}
