//! Leases, lapses and replacements, moment by moment.

use serde_json::json;
use transept_model::kinds::workload::{SILENT, UNPROVEN};
use transept_xds::mesh::Condition;

use super::*;

const CART: &str = "spiffe://transept.local/ns/default/sa/cart";

fn cart() -> SpiffeId {
    SpiffeId::parse(CART).expect("an id")
}

fn workload(name: &str) -> Workload {
    Workload {
        namespace: "default".into(),
        name: name.into(),
        services: vec!["cart".into()],
        service_account: "cart".into(),
        address: address_of(name),
        ports: vec![Port { port: 80, target_port: 8080, app_protocol: "http".into(), ..Port::default() }],
        tunnel_port: 15008,
        ..Workload::default()
    }
}

/// One for each name.
fn address_of(name: &str) -> String {
    let number = name.bytes().fold(0u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let [high, low] = number.to_be_bytes();
    format!("10.0.{high}.{low}")
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn name(name: &str) -> Name {
    ("default".into(), name.into())
}

/// A registry with `count` instances `a`, `b`, ... that all were heard at zero.
fn registry(count: u8) -> Registry {
    let mut registry = Registry::default();
    for letter in (b'a'..).take(count.into()) {
        let workload = workload(&char::from(letter).to_string());
        assert_eq!(registry.register(workload, &cart(), &[letter], Origin::Home, at(0)), Ok(true));
    }
    registry
}

#[test]
fn one_missed_lease_is_unhealthy_then_comes_the_grace_and_then_the_end() {
    let mut registry = registry(2);
    let mut swept = |second| {
        registry.beat(&name("b"), b"b", at(second));
        let changed = registry.sweep(at(second), &Members::default());
        (changed, registry.entry(&name("a")).map(|entry| entry.lapsed))
    };
    assert_eq!(swept(30), (vec![], Some(false)));
    assert_eq!(swept(31), (vec![name("a")], Some(true)));
    assert_eq!(swept(90), (vec![], Some(true)));
    assert_eq!(swept(91), (vec![name("a")], None));
}

#[test]
fn who_is_left_last_is_kept_and_gives_way_to_another() {
    let mut registry = registry(2);
    registry.beat(&name("b"), b"b", at(20));
    assert_eq!(registry.sweep(at(31), &Members::default()), [name("a")], "there is another one");
    assert!(registry.sweep(at(50), &Members::default()).is_empty());
    assert!(registry.leave(&name("a"), b"a", at(0)));
    for second in [51, 3620] {
        assert!(registry.sweep(at(second), &Members::default()).is_empty(), "{second}");
        assert_eq!(registry.kept_silence(&name("b"), at(second)), Some(at(second - 20)));
    }
    // One that comes under its name takes its place, and one that comes beside it leaves it a moment to come back, too.
    let mut replaced = registry.clone();
    assert_eq!(replaced.register(workload("b"), &cart(), b"new", Origin::Home, at(3620)), Ok(true));
    assert_eq!(registry.register(workload("c"), &cart(), b"c", Origin::Home, at(3620)), Ok(true));
    assert!(registry.sweep(at(3620), &Members::default()).is_empty());
    assert!(registry.sweep(at(3635), &Members::default()).is_empty());
    assert_eq!(registry.sweep(at(3636), &Members::default()), [name("b")]);
}

#[test]
fn who_fell_silent_before_counts_again_when_the_others_are_gone() {
    let none = Members::default();
    // The other one stops in order, or is no more heard either, or says that it is not well.
    type Event = fn(&mut Registry);
    let stops: Event = |registry| assert!(registry.leave(&name("b"), b"b", at(0)));
    let is_unwell: Event = |registry| {
        let unwell = Workload { condition: Condition::Unhealthy.into(), ..workload("b") };
        assert_eq!(registry.register(unwell, &cart(), b"b", Origin::Home, at(40)), Ok(true));
    };
    for (event, second) in [(stops, 41), (is_unwell, 41), (|_| (), 71)] {
        let mut registry = registry(2);
        registry.beat(&name("b"), b"b", at(40));
        assert_eq!(registry.sweep(at(31), &none), [name("a")]);
        event(&mut registry);
        assert_eq!(registry.sweep(at(second), &none), [name("a")], "at {second}");
        assert!(registry.iter().all(|(_, entry)| !entry.lapsed), "at {second}");
        assert!(registry.sweep(at(200), &none).is_empty(), "at {second}");
        // Once another one serves, it has half a lease to come back.
        assert_eq!(registry.register(workload("c"), &cart(), b"c", Origin::Home, at(200)), Ok(true));
        assert!(registry.sweep(at(200), &none).is_empty());
        registry.beat(&name("c"), b"c", at(215));
        assert!(registry.sweep(at(215), &none).is_empty());
        assert!(registry.sweep(at(216), &none).contains(&name("a")));
    }
}

#[test]
fn who_comes_where_a_silent_one_was_takes_its_place() {
    let none = Members::default();
    let mut registry = registry(1);
    assert!(registry.sweep(at(100), &none).is_empty(), "the last one is kept");
    let next = Workload { address: address_of("a"), ..workload("z") };
    assert_eq!(registry.register(next, &cart(), b"z", Origin::Home, at(100)), Ok(true));
    assert_eq!(registry.sweep(at(101), &none), [name("a")]);
    assert_eq!(registry.iter().map(|(name, _)| name.1.as_str()).collect::<Vec<_>>(), ["z"]);
}

#[test]
fn the_name_of_one_that_is_kept_is_free_for_its_own_kind_alone() {
    let mut registry = registry(1);
    registry.sweep(at(40), &Members::default());
    let bank = SpiffeId::parse("spiffe://transept.local/ns/default/sa/bank").expect("an id");
    let other = Workload { services: vec!["bank".into()], service_account: "bank".into(), ..workload("a") };
    let elsewhere = Workload { address: "10.9.0.9".into(), ..other.clone() };
    assert_eq!(registry.register(elsewhere, &bank, b"z", Origin::Home, at(41)), Err(Refused::Kept));
    assert_eq!(registry.register(other.clone(), &bank, b"z", Origin::Elsewhere, at(41)), Err(Refused::Kept));
    let mut reused = registry.clone();
    assert_eq!(reused.register(other, &bank, b"z", Origin::Home, at(41)), Ok(true), "its machine has another task");
    assert_eq!(registry.register(workload("a"), &cart(), b"z", Origin::Home, at(41)), Ok(true));
}

#[test]
fn a_name_is_that_of_its_service_for_an_hour_after_its_instance() {
    let none = Members::default();
    let bank = SpiffeId::parse("spiffe://transept.local/ns/default/sa/bank").expect("an id");
    let foreign = |address: &str| Workload {
        services: vec!["bank".into()],
        service_account: "bank".into(),
        address: address.into(),
        ..workload("a")
    };
    let squats = |registry: &Registry| {
        registry.clone().register(foreign("10.9.0.9"), &bank, b"z", Origin::Home, at(41)) != Err(Refused::Left)
    };
    // It stops in order, with a tunnel and without; it is silent, is unhealthy for that, and is taken out.
    let mut plain = registry(1);
    let without = Workload { tunnel_port: 0, ..workload("p") };
    assert_eq!(plain.register(Workload { name: "a".into(), ..without }, &cart(), b"a", Origin::Home, at(1)), Ok(true));
    for mut stopped in [registry(1), plain] {
        assert!(stopped.leave(&name("a"), b"a", at(40)));
        assert!(!squats(&stopped));
        stopped.sweep(at(40) + PATIENCE, &none);
        stopped.forget_left(at(40) + PATIENCE, &none);
        assert!(!squats(&stopped));
        assert_eq!(stopped.clone().register(workload("a"), &cart(), b"n", Origin::Home, at(42)), Ok(true));
        stopped.sweep(at(41) + PATIENCE, &none);
        assert!(squats(&stopped), "not for ever");
    }
    let mut silent = registry(2);
    for second in [31, 91] {
        silent.beat(&name("b"), b"b", at(second));
        assert_eq!(silent.sweep(at(second), &none), [name("a")]);
        let refused = silent.clone().register(foreign("10.9.0.9"), &bank, b"z", Origin::Home, at(second));
        assert_eq!(refused, Err(if second == 31 { Refused::Kept } else { Refused::Left }));
        let claimed = silent.clone().register(foreign(&address_of("a")), &bank, b"z", Origin::Elsewhere, at(second));
        assert!(claimed.is_err());
        assert_eq!(silent.clone().register(foreign(&address_of("a")), &bank, b"z", Origin::Home, at(91)), Ok(true));
    }
    // An identity that starts and stops without end keeps no more than it may have.
    let mut many = Registry::default();
    for index in 0..=MOST_INSTANCES {
        let one = format!("a{index}");
        assert_eq!(many.register(workload(&one), &cart(), b"n", Origin::Home, at(0)), Ok(true));
        assert!(many.leave(&name(&one), b"n", at(index as u64)));
        many.forget_left(at(0), &none);
    }
    assert!(many.names.len() == MOST_INSTANCES && !many.names.contains_key(&name("a0")));
}

#[test]
fn who_is_silent_is_published_for_when_nobody_else_is_there() {
    let none = Members::default();
    let mut registry = registry(3);
    for name in ["b", "c"] {
        registry.beat(&super::tests::name(name), name.as_bytes(), at(30));
    }
    let unwell = Workload { condition: Condition::Unhealthy.into(), ..workload("d") };
    assert_eq!(registry.register(unwell, &cart(), b"d", Origin::Home, at(0)), Ok(true));
    assert_eq!(registry.sweep(at(31), &none), [name("a"), name("d")]);
    let shown = |registry: &Registry| {
        let objects = registry.objects(&BTreeSet::new(), &none).into_iter();
        let workloads = objects.filter(|object| object["kind"] == "Workload");
        let shown = workloads.map(|o| format!("{} {}", o["spec"]["health"], o["metadata"]["annotations"][SILENT]));
        shown.map(|text| text.replace('"', "")).collect::<Vec<_>>()
    };
    let said = ["Unhealthy cart", "Healthy null", "Healthy null", "Unhealthy null"];
    assert_eq!(shown(&registry), said, "one that was not well is there for nobody");
    // So callers need not wait for a sweep when the others stop, nor for a lease when that happens after a restart.
    let entries: Vec<Entry> = registry.iter().map(|(_, entry)| entry.clone()).collect();
    let mut again = Registry::restore(entries, at(0));
    assert_eq!(shown(&again), said);
    assert!(again.leave(&name("b"), b"b", at(1)) && again.leave(&name("c"), b"c", at(1)));
    assert_eq!(shown(&again), ["Unhealthy cart", "Unhealthy null"]);
}

#[test]
fn who_comes_to_an_address_puts_another_service_out_of_it() {
    let none = Members::default();
    let bank = SpiffeId::parse("spiffe://transept.local/ns/default/sa/bank").expect("an id");
    let other = Workload {
        services: vec!["bank".into()],
        service_account: "bank".into(),
        address: address_of("a"),
        ..workload("z")
    };
    let plain = Workload { tunnel_port: 0, ..other.clone() };
    let shown = |registry: &Registry| {
        let objects = registry.objects(&BTreeSet::new(), &none).into_iter();
        let annotations = |object: &Value| object["metadata"]["annotations"].clone();
        objects.take(2).map(|one| (one["spec"]["health"].clone(), annotations(&one))).collect::<Vec<_>>()
    };
    let out = (json!("Unhealthy"), json!({UNPROVEN: "true"}));
    let (well, guest) = ((json!("Healthy"), Value::Null), (json!("Healthy"), json!({UNPROVEN: "true"})));
    for (comes, heard) in [(&other, 0), (&other, 84), (&plain, 0)] {
        let mut registry = registry(1);
        registry.beat(&name("a"), b"a", at(heard));
        registry.sweep(at(100), &none);
        assert_eq!(registry.register(comes.clone(), &bank, b"z", Origin::Home, at(100)), Ok(true));
        assert_eq!(shown(&registry), [out.clone(), well.clone()], "at once");
        assert_eq!(registry.replaced_by(&name("a")), Some(&name("z")));
        // After a restart it has a beat to say that it lives. A tunnel and none may be beside each other.
        let entries: Vec<Entry> = registry.iter().map(|(_, entry)| entry.clone()).collect();
        let mut again = Registry::restore(entries, at(0));
        let has_tunnel = comes.tunnel_port != 0;
        assert_eq!(again.register(comes.clone(), &bank, b"z", Origin::Home, at(1)), Ok(false));
        assert_eq!(again.sweep(at(15), &none), []);
        again.beat(&name("z"), b"z", at(16));
        assert_eq!(again.sweep(at(16), &none).len(), usize::from(has_tunnel));
        assert_eq!(shown(&again) == shown(&registry), has_tunnel);
        // It is heard, so it lives, whatever that means; else it is gone with its lease, though it is the last one.
        let mut heard_again = registry.clone();
        assert_eq!(heard_again.beat(&name("a"), b"a", at(101)), Some(true));
        assert_eq!(shown(&heard_again)[0], well);
        registry.beat(&name("z"), b"z", at(131));
        assert_eq!(registry.sweep(at(131), &none), [name("a")]);
    }
    // Who only says that he is there puts nobody out, and takes no calls of the address unless slices of his own Service say so, too.
    let mut registry = registry(1);
    assert_eq!(registry.register(other.clone(), &bank, b"z", Origin::Elsewhere, at(1)), Ok(true));
    assert_eq!(shown(&registry), [well.clone(), guest]);
    let named = Members::of(&[slice("bank", &address_of("a"))]);
    let objects = registry.objects(&BTreeSet::new(), &named);
    assert_eq!(objects[1]["metadata"]["annotations"], Value::Null);
    // Another tunnel at the same address is another machine behind it.
    let beside = Workload { tunnel_port: 15009, ..other };
    assert_eq!(registry.register(beside, &bank, b"z", Origin::Home, at(2)), Ok(true));
    assert_eq!(shown(&registry), [well.clone(), well]);
}

#[test]
fn nobody_puts_out_who_is_alive_nor_takes_its_name_or_its_place() {
    let none = Members::default();
    let bank = SpiffeId::parse("spiffe://transept.local/ns/default/sa/bank").expect("an id");
    let other = |name: &str, tunnel_port: u32| Workload {
        services: vec!["bank".into()],
        service_account: "bank".into(),
        address: address_of("a"),
        tunnel_port,
        ..workload(name)
    };
    let shown = |registry: &Registry| {
        let objects = registry.objects(&BTreeSet::new(), &none).into_iter();
        let annotated = |object: &Value| object["metadata"]["annotations"].get(UNPROVEN).is_some();
        objects.take(2).map(|one| (one["spec"]["health"] == "Healthy", annotated(&one))).collect::<Vec<_>>()
    };
    // With a tunnel; without, as one program that is registered for two services.
    for tunnel_port in [15008, 0] {
        let mut registry = Registry::default();
        let first = Workload { tunnel_port, ..workload("a") };
        assert_eq!(registry.register(first.clone(), &cart(), b"a", Origin::Home, at(0)), Ok(true));
        for second in 1..100 {
            if second % 10 == 0 {
                registry.beat(&name("a"), b"a", at(second));
            }
            let comes = registry.register(other("z", tunnel_port), &bank, b"z", Origin::Home, at(second));
            assert_eq!(comes, Ok(second == 1), "at {second}");
            let named = registry.clone().register(other("a", tunnel_port), &bank, b"z", Origin::Home, at(second));
            assert_eq!(named, Err(Refused::Taken), "at {second}");
            assert_eq!(registry.sweep(at(second), &none), []);
            assert_eq!(shown(&registry), [(true, false), (true, true)], "at {second}");
        }
        // What it says of itself changes nothing about who was there first.
        assert_eq!(registry.register(first, &cart(), b"a", Origin::Home, at(99)), Ok(false));
        // Both give signs of life, and one of them ends: the other one is there.
        let mut ended = registry.clone();
        assert!(ended.leave(&name("a"), b"a", at(100)));
        assert_eq!(ended.sweep(at(100), &none), [name("z")]);
        assert_eq!(ended.entry(&name("z")).map(Entry::is_proven), Some(true));
        // It registers once more, and the first one is not heard any more: it is out as soon as it has missed a beat, and keeps its name for its lease.
        assert_eq!(registry.register(other("z", tunnel_port), &bank, b"z", Origin::Home, at(100)), Ok(false));
        assert_eq!(registry.sweep(at(114), &none), []);
        registry.beat(&name("z"), b"z", at(115));
        assert_eq!(registry.sweep(at(115), &none), [name("a"), name("z")]);
        assert_eq!(shown(&registry), [(false, true), (true, false)]);
        let named = registry.register(other("a", tunnel_port), &bank, b"n", Origin::Home, at(115));
        assert_eq!(named, Err(Refused::Taken));
    }
}

/// An instance of another service that says that it is where `a` is.
fn stranger(name: &str) -> (Workload, SpiffeId) {
    let (services, service_account) = (vec!["bank".into()], "bank".into());
    let own = Workload { services, service_account, address: address_of("a"), tunnel_port: 15008, ..workload(name) };
    (own, SpiffeId::parse("spiffe://transept.local/ns/default/sa/bank").expect("an id"))
}

#[test]
fn who_comes_back_has_its_place_again() {
    let none = Members::default();
    let (guest, bank) = stranger("z");
    let mut registry = Registry::default();
    let first = Workload { tunnel_port: 15008, ..workload("a") };
    assert_eq!(registry.register(first, &cart(), b"a", Origin::Home, at(0)), Ok(true));
    assert_eq!(registry.register(guest, &bank, b"z", Origin::Home, at(1)), Ok(true));
    registry.beat(&name("a"), b"a", at(2));
    let proven = |registry: &Registry| ["a", "z"].map(|one| registry.entry(&name(one)).is_some_and(Entry::is_proven));
    for second in 3..=32 {
        registry.beat(&name("z"), b"z", at(second));
        registry.sweep(at(second), &none);
        assert_eq!(proven(&registry), [true, false], "at {second}");
    }
    registry.beat(&name("z"), b"z", at(33));
    registry.sweep(at(33), &none);
    assert!(proven(&registry)[1], "nobody else is heard there");
    // With a sign of life, on another connection too, and after a restart of the control plane.
    let mut again = registry.clone();
    let entries: Vec<Entry> = registry.iter().map(|(_, entry)| entry.clone()).collect();
    let mut restored = Registry::restore(entries, at(34));
    for registry in [&mut registry, &mut restored] {
        registry.beat(&name("a"), b"a", at(34));
    }
    let first = Workload { tunnel_port: 15008, ..workload("a") };
    assert_eq!(again.register(first, &cart(), b"a", Origin::Home, at(34)), Ok(false));
    for mut registry in [registry, again, restored] {
        assert_eq!(registry.sweep(at(34), &none), [name("z")]);
        assert_eq!(proven(&registry), [true, false]);
    }
}

#[test]
fn nobody_is_put_out_by_who_is_gone_himself() {
    let none = Members::default();
    let (rival, bank) = stranger("z");
    let mut registry = Registry::default();
    let first = Workload { tunnel_port: 15008, ..workload("a") };
    assert_eq!(registry.register(first, &cart(), b"a", Origin::Home, at(0)), Ok(true));
    assert_eq!(registry.register(rival, &bank, b"z", Origin::Home, at(5)), Ok(true));
    assert_eq!(registry.sweep(at(6), &none), []);
    let mut left = registry.clone();
    assert!(left.leave(&name("z"), b"z", at(8)));
    registry.beat(&name("z"), b"z", at(15));
    for (registry, replaced) in [(&mut registry, true), (&mut left, false)] {
        registry.sweep(at(16), &none);
        assert_eq!(registry.replaced_by(&name("a")).is_some(), replaced);
    }
    // It is there once more when that one has gone.
    assert!(registry.leave(&name("z"), b"z", at(17)));
    registry.sweep(at(18), &none);
    assert!(registry.replaced_by(&name("a")).is_none());
}

#[test]
fn whom_a_slice_names_is_not_taken_out_by_silence() {
    let slice = json!({
        "kind": "EndpointSlice", "metadata": {"name": "all", "labels": {"kubernetes.io/service-name": "all"}},
        "ports": [{"port": 8080}], "endpoints": [{"addresses": [address_of("a")]}, {"addresses": [address_of("b")]}],
    });
    let members = Members::of(&[slice]);
    let mut registry = registry(2);
    // The Service of the slices has another instance: this one is unhealthy, and stays in the way of calls in clear text.
    for second in (0..3600).step_by(10) {
        registry.beat(&name("b"), b"b", at(second));
        registry.sweep(at(second), &members);
    }
    assert_eq!(registry.entry(&name("a")).map(|entry| entry.lapsed), Some(true));
    registry.beat(&name("b"), b"b", at(3601));
    assert_eq!(registry.sweep(at(3601), &members), [name("a")], "not for ever");
    // One whose slices name nobody else is the last of that Service, though its own has others.
    let one = Members::of(&[json!({
        "kind": "EndpointSlice", "metadata": {"name": "all", "labels": {"kubernetes.io/service-name": "all"}},
        "ports": [{"port": 8080}], "endpoints": [{"addresses": [address_of("a")]}],
    })]);
    let mut registry = super::tests::registry(2);
    registry.beat(&name("b"), b"b", at(20));
    assert_eq!(registry.sweep(at(31), &one), [name("a")], "it is news");
    assert_eq!(registry.entry(&name("a")).map(|entry| entry.lapsed), Some(false));
    assert!(registry.sweep(at(32), &one).is_empty());
    // It is called for that one alone.
    let silent = |registry: &Registry| {
        let object = &registry.objects(&BTreeSet::new(), &one)[0];
        (object["spec"]["health"].clone(), object["metadata"]["annotations"][SILENT].clone())
    };
    assert_eq!(silent(&registry), (json!("Healthy"), json!("cart")));
    assert!(registry.is_silent_for(&name("a"), "cart") && !registry.is_silent_for(&name("a"), "all"));
    let mut emptied = registry.clone();
    assert_eq!((emptied.leave(&name("b"), b"b", at(0)), emptied.sweep(at(33), &one)), (true, vec![name("a")]));
    assert_eq!(silent(&emptied), (json!("Healthy"), Value::Null), "nobody else serves the other one either");
    let mut mass = registry.clone();
    for other in ["c", "d"] {
        assert_eq!(mass.register(workload(other), &cart(), b"n", Origin::Home, at(0)), Ok(true));
    }
    assert!(mass.sweep(at(33), &one).is_empty() && mass.is_frozen(), "nothing changes when most fall silent");
    assert_eq!(silent(&mass), silent(&registry));
    assert!(mass.leave(&name("b"), b"b", at(0)) && mass.sweep(at(34), &one).contains(&name("a")) && mass.is_frozen());
    assert_eq!(silent(&mass), (json!("Healthy"), Value::Null), "but for those whom nobody serves any more");
    let mut back = registry.clone();
    assert_eq!(
        back.register(workload("a"), &cart(), b"a", Origin::Home, at(33)),
        Ok(true),
        "it is heard: that is news"
    );
    assert_eq!(silent(&back), (json!("Healthy"), Value::Null));
    assert_eq!(registry.beat(&name("a"), b"a", at(33)), Some(true));
    assert_eq!(silent(&registry), (json!("Healthy"), Value::Null));
}

/// A slice of a Service that names one address.
fn slice(service: &str, address: &str) -> Value {
    json!({
        "kind": "EndpointSlice", "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"port": 8080}], "endpoints": [{"addresses": [address]}],
    })
}

#[test]
fn slices_that_name_others_empty_no_service_and_those_that_name_it_no_more_do() {
    let here = address_of("a");
    // Registered through a translation of addresses; beside a machine without a sidecar, and in the slice of another Service; beside that machine alone.
    let cases = [
        (Origin::Elsewhere, vec![slice("cart", &here)]),
        (Origin::Home, vec![slice("cart", "10.9.0.9"), slice("all", &here)]),
        (Origin::Home, vec![slice("cart", "10.9.0.9")]),
    ];
    for (origin, slices) in cases {
        let members = Members::of(&slices);
        let mut registry = Registry::default();
        assert_eq!(registry.register(workload("a"), &cart(), b"a", origin, at(0)), Ok(true));
        for second in [1, 31, 100, 3600] {
            assert!(registry.sweep(at(second), &members).is_empty(), "{slices:?} at {second}");
        }
        assert_eq!(registry.sweep(at(3601), &members), [name("a")], "for an hour");
    }
    // What was in the slices and is not any more is somebody else's address, and who is in those of another Service is not called in clear text there.
    let before = Members::of(&[slice("cart", &here), slice("all", &here)]);
    for (after, ends) in
        [(vec![slice("cart", "10.9.0.9")], 91), (vec![slice("cart", "10.9.0.9"), slice("all", &here)], 3601)]
    {
        let (mut registry, after) = (registry(1), Members::of(&after));
        assert!(registry.sweep(at(1), &before).is_empty());
        let other = Workload { services: vec!["all".into()], service_account: "all".into(), ..workload("z") };
        let all = SpiffeId::parse("spiffe://transept.local/ns/default/sa/all").expect("an id");
        assert_eq!(registry.register(other, &all, b"z", Origin::Home, at(1)), Ok(true));
        let mut swept = |second| {
            registry.beat(&name("z"), b"z", at(second));
            registry.sweep(at(second), &after)
        };
        assert_eq!((swept(31), swept(ends - 1), swept(ends)), (vec![name("a")], vec![], vec![name("a")]));
    }
}

#[test]
fn whom_a_slice_names_is_not_called_in_clear_text_when_it_has_left() {
    let members = Members::of(&[slice("cart", &address_of("a")), slice("all", &address_of("a"))]);
    let known = BTreeSet::from([name("cart"), name("all")]);
    let mut registry = registry(2);
    assert!(registry.leave(&name("a"), b"a", at(0)) && registry.leave(&name("b"), b"b", at(0)));
    assert_eq!(registry.iter().count(), 0);
    assert_eq!(registry.beat(&name("a"), b"a", at(1)), None, "it has ended");
    let objects = registry.objects(&known, &members);
    let shown: Vec<(&Value, &Value)> =
        objects.iter().map(|one| (&one["spec"]["services"], &one["spec"]["health"])).collect();
    assert_eq!(shown, [(&json!(["all", "cart"]), &json!("Unhealthy"))], "the other one is in no slice");
    assert_eq!(registry.forget_left(at(1), &members), [name("b")]);
    assert_eq!(registry.left().map(|(name, _)| name.1.as_str()).collect::<Vec<_>>(), ["a"]);
    let entries: Vec<Entry> = [name("a"), name("b")].iter().filter_map(|name| registry.stored(name)).cloned().collect();
    let registry = Registry::restore(entries, at(0));
    assert_eq!(registry.objects(&known, &members), objects, "also after a restart");
    // Until the slices name it no more, for an hour, or until somebody is there.
    type Event = fn(&mut Registry);
    let returns: Event =
        |registry| assert_eq!(registry.register(workload("a"), &cart(), b"z", Origin::Home, at(1)), Ok(true));
    let comes_without: Event = |registry| {
        let plain = Workload { tunnel_port: 0, address: address_of("a"), ..workload("c") };
        assert_eq!(registry.register(plain, &cart(), b"c", Origin::Home, at(1)), Ok(true));
    };
    let comes_with: Event = |registry| {
        let next = Workload { address: address_of("a"), ..workload("c") };
        assert_eq!(registry.register(next, &cart(), b"c", Origin::Home, at(1)), Ok(true));
    };
    let comes_elsewhere: Event =
        |registry| assert_eq!(registry.register(workload("c"), &cart(), b"c", Origin::Home, at(1)), Ok(true));
    for (event, second, is_over) in [
        (returns, 1, true),
        (comes_without, 1, true),
        (comes_with, 1, true),
        (comes_elsewhere, 3600, false),
        (comes_elsewhere, 3601, true),
    ] {
        let mut registry = registry.clone();
        event(&mut registry);
        registry.forget_left(at(second), &members);
        assert_eq!(registry.left.is_empty(), is_over, "at {second}");
    }
    let mut dropped = registry.clone();
    assert_eq!(dropped.forget_left(at(1), &Members::default()), [name("a")]);
    let bank = SpiffeId::parse("spiffe://transept.local/ns/default/sa/bank").expect("an id");
    let other = Workload {
        services: vec!["bank".into()],
        service_account: "bank".into(),
        address: address_of("z"),
        ..workload("a")
    };
    assert_eq!(registry.clone().register(other, &bank, b"z", Origin::Home, at(1)), Err(Refused::Left));
}

#[test]
fn an_instance_that_comes_and_goes_does_not_keep_one_that_is_dead() {
    let none = Members::default();
    let mut registry = registry(2);
    let mut lapsed = 0;
    for second in 0..200 {
        let condition = if second % 14 < 4 { Condition::Unhealthy } else { Condition::Healthy };
        let flapping = Workload { condition: condition.into(), ..workload("b") };
        registry.register(flapping, &cart(), b"b", Origin::Home, at(second)).expect("its own");
        registry.sweep(at(second), &none);
        lapsed += u64::from(registry.entry(&name("a")).is_none_or(|entry| entry.lapsed));
        assert!(
            second < 62 || condition == Condition::Unhealthy || lapsed > 0,
            "called at {second}, while another is well"
        );
    }
    assert!(lapsed > 90, "unhealthy for {lapsed} s");
    assert!(registry.entry(&name("a")).is_some(), "and there for the next time that nobody is well");
}

#[test]
fn nobody_is_kept_for_ever() {
    let mut registry = registry(1);
    assert!(registry.sweep(PATIENCE, &Members::default()).is_empty());
    for _ in 0..2 {
        assert_eq!(registry.sweep(PATIENCE + at(1), &Members::default()), [name("a")]);
    }
    assert_eq!(registry.iter().count(), 0);
}

#[test]
fn a_sign_of_life_makes_it_healthy_again() {
    let mut registry = registry(2);
    assert_eq!(registry.beat(&name("a"), b"a", at(20)), Some(false));
    registry.beat(&name("b"), b"b", at(50));
    assert!(registry.sweep(at(50), &Members::default()).is_empty());
    assert_eq!(registry.sweep(at(51), &Members::default()), [name("a")]);
    assert_eq!(registry.beat(&name("a"), b"a", at(60)), Some(true));
    registry.beat(&name("b"), b"b", at(90));
    assert!(registry.sweep(at(90), &Members::default()).is_empty());
    assert_eq!(registry.beat(&name("a"), b"other", at(60)), None);
    assert_eq!(registry.beat(&name("c"), b"c", at(60)), None);
}

#[test]
fn a_mass_lapse_empties_no_service() {
    let mut registry = registry(4);
    // One still lives, three were cut off within a heartbeat of each other.
    registry.beat(&name("b"), b"b", at(4));
    registry.beat(&name("c"), b"c", at(9));
    for second in 0..3600 {
        registry.beat(&name("d"), b"d", at(second));
        assert!(registry.sweep(at(second), &Members::default()).is_empty(), "{second}");
    }
    assert!(registry.is_frozen());
    assert_eq!(registry.kept_silence(&name("a"), at(3600)), Some(at(3600)));
    assert_eq!(registry.kept_silence(&name("d"), at(3600)), None, "it lives");
    // Two return: the one that does not is on its own again.
    registry.beat(&name("b"), b"b", at(3600));
    registry.beat(&name("c"), b"c", at(3600));
    assert!(registry.sweep(at(3600), &Members::default()).is_empty());
    assert!(!registry.is_frozen());
    for second in 3600..3616 {
        for one in ["b", "c", "d"] {
            registry.beat(&name(one), one.as_bytes(), at(second));
        }
        assert!(registry.sweep(at(second), &Members::default()).is_empty(), "{second}");
    }
    assert_eq!(registry.sweep(at(3616), &Members::default()), [name("a")]);
}

#[test]
fn who_comes_back_first_from_a_mass_lapse_ends_nobody_else() {
    let mut registry = registry(3);
    assert!(registry.sweep(at(31), &Members::default()).is_empty() && registry.is_frozen());
    // Two of three are too few for a mass; they are heard a moment later.
    registry.beat(&name("a"), b"a", at(32));
    assert!(registry.sweep(at(32), &Members::default()).is_empty());
    registry.beat(&name("b"), b"b", at(33));
    assert!(registry.sweep(at(33), &Members::default()).is_empty());
    assert!(registry.iter().all(|(_, entry)| !entry.lapsed));
}

#[test]
fn a_beat_that_came_a_moment_late_does_not_hide_a_mass_lapse() {
    let mut registry = registry(3);
    // The last one heard before the cut: its beat was on its way for a moment.
    registry.beat(&name("c"), b"c", HEARTBEAT + Duration::from_millis(900));
    for tenth in 0..1000 {
        let now = Duration::from_millis(tenth * 100);
        assert!(registry.sweep(now, &Members::default()).is_empty(), "{now:?}");
    }
    assert!(registry.is_frozen());
}

#[test]
fn a_mass_lapse_does_not_last_for_ever() {
    let mut registry = registry(3);
    assert!(registry.sweep(PATIENCE, &Members::default()).is_empty());
    let late = PATIENCE + at(1);
    assert_eq!(registry.sweep(late, &Members::default()).len(), 3);
    assert_eq!(registry.sweep(late, &Members::default()).len(), 3);
    assert_eq!(registry.iter().count(), 0);
}

#[test]
fn a_few_that_end_of_many_are_no_mass_lapse() {
    let mut registry = registry(8);
    for letter in b'a'..=b'd' {
        registry.beat(&name(&char::from(letter).to_string()), &[letter], at(25));
    }
    assert_eq!(registry.sweep(at(31), &Members::default()).len(), 4);
}

#[test]
fn the_name_of_a_live_instance_is_not_taken_over() {
    let mut registry = registry(1);
    assert_eq!(registry.register(workload("a"), &cart(), b"z", Origin::Home, at(1)), Err(Refused::Taken));
    // The instance itself may say something else, and says the same without a change.
    assert_eq!(registry.register(workload("a"), &cart(), b"a", Origin::Home, at(1)), Ok(false));
    let changed = Workload { condition: Condition::Draining.into(), ..workload("a") };
    assert_eq!(registry.register(changed, &cart(), b"a", Origin::Home, at(1)), Ok(true));
    registry.sweep(at(40), &Members::default());
    assert_eq!(registry.register(workload("a"), &cart(), b"z", Origin::Home, at(41)), Ok(true));
    assert!(!registry.leave(&name("a"), b"a", at(0)));
    assert!(registry.leave(&name("a"), b"z", at(0)));
    assert!(!registry.leave(&name("a"), b"z", at(0)));
}

#[test]
fn who_one_is_decides_what_one_may_register() {
    let mut registry = Registry::default();
    let mut refused = |change: fn(&mut Workload)| {
        let mut workload = workload("a");
        change(&mut workload);
        registry.register(workload, &cart(), b"a", Origin::Home, at(0)).expect_err("refused").to_string()
    };
    assert!(refused(|w| w.namespace = "bank".into()).contains("bank/cart"));
    assert!(refused(|w| w.service_account = "bank".into()).contains("default/bank"));
    assert!(refused(|w| w.services.push("bank".into())).contains("`bank`"));
    assert!(refused(|w| w.services.clear()).contains("at least one service"));
    assert!(refused(|w| w.address = "0.0.0.0".into()).contains("0.0.0.0"));
    assert!(refused(|w| w.address.clear()).contains("IP address"));
    assert!(refused(|w| w.name = "A_b".into()).contains("A_b"));
    assert!(refused(|w| w.zone = "z".repeat(64)).contains("spec.zone"));
    assert!(refused(|w| w.ports.clear()).contains("spec.ports"));
    assert!(refused(|w| w.ports[0].port = 70_000).contains("65535"));
    let control = SpiffeId::parse("spiffe://transept.local/transept/control").expect("an id");
    assert!(registry.register(workload("a"), &control, b"a", Origin::Home, at(0)).is_err());
    assert!(registry.register(workload("a"), &cart(), b"", Origin::Home, at(0)).is_err());
}

#[test]
fn objects_stand_for_instances_and_for_services_that_no_file_has() {
    let mut registry = registry(2);
    registry.beat(&name("b"), b"b", at(30));
    registry.sweep(at(31), &Members::default());
    let objects = registry.objects(&BTreeSet::new(), &Members::default());
    let shown: Vec<String> = objects
        .iter()
        .map(|o| format!("{} {} {}", o["kind"], o["metadata"]["name"], o["spec"]["health"]).replace('"', ""))
        .collect();
    assert_eq!(shown, ["Workload a Unhealthy", "Workload b Healthy", "Service cart null"]);
    assert_eq!(
        objects[0]["spec"],
        json!({
            "services": ["cart"], "serviceAccount": "cart", "trustDomain": "transept.local", "address": "10.0.0.97", "weight": 1, "health": "Unhealthy",
            "ports": [{"port": 80, "targetPort": 8080, "appProtocol": "http"}],
            "tunnel": {"protocol": "HBONE", "port": 15008},
        })
    );
    assert_eq!(objects[2]["spec"], json!({"ports": [{"port": 80, "appProtocol": "http"}]}));
    let known = BTreeSet::from([("default".to_owned(), "cart".to_owned())]);
    assert_eq!(registry.objects(&known, &Members::default()).len(), 2);
}

#[test]
fn what_a_port_was_heard_to_speak_is_a_remark_on_the_object() {
    let mut registry = Registry::default();
    let heard = |port: u32, protocol: &str, word: &str| Port {
        port,
        app_protocol: protocol.into(),
        learned: word.into(),
        ..Port::default()
    };
    let ports =
        vec![heard(80, "", "http"), heard(25, "", "tcp-server-first"), heard(81, "", "spdy"), heard(82, "tcp", "http")];
    let with = |ports: Vec<Port>| Workload { ports, ..workload("a") };
    assert_eq!(registry.register(with(ports), &cart(), b"a", Origin::Home, at(0)), Ok(true));
    let object = workload_object(registry.entry(&name("a")).expect("it is registered"));
    assert_eq!(object["metadata"]["annotations"], json!({"transept.dev/learned": "25=tcp-server-first,80=http"}));
    // It is news like any other change, and nothing is left of it when nothing is known any more.
    assert_eq!(registry.register(with(vec![heard(80, "", "")]), &cart(), b"a", Origin::Home, at(1)), Ok(true));
    let object = workload_object(registry.entry(&name("a")).expect("it is registered"));
    assert_eq!(object["metadata"], json!({"name": "a", "namespace": "default"}));
    let long = with(vec![heard(80, "", &"x".repeat(33))]);
    assert!(matches!(registry.register(long, &cart(), b"a", Origin::Home, at(2)), Err(Refused::Wrong(_))));
}

#[test]
fn slices_make_an_instance_of_more_services_if_it_is_where_it_says() {
    let slice = |service: &str, address: &str| {
        json!({
            "kind": "EndpointSlice", "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"port": 8080}], "endpoints": [{"addresses": [address]}],
        })
    };
    let members = Members::of(&[slice("all", "10.0.0.7"), slice("cart", "10.0.0.7"), slice("far", "10.0.0.8")]);
    let mut registry = Registry::default();
    for (name, origin) in [("a", Origin::Home), ("b", Origin::Elsewhere)] {
        let workload = Workload { address: "10.0.0.7".into(), ..workload(name) };
        assert_eq!(registry.register(workload, &cart(), name.as_bytes(), origin, at(0)), Ok(true));
    }
    let objects = registry.objects(&BTreeSet::new(), &members);
    let services: Vec<&Value> = objects[..2].iter().map(|object| &object["spec"]["services"]).collect();
    assert_eq!(services, [&json!(["cart", "all"]), &json!(["cart"])]);
    assert_eq!(objects.len(), 3, "the files know what the Services of slices are");
}

#[test]
fn a_restart_begins_every_lease_anew() {
    let before = registry(2);
    let entries: Vec<Entry> = before.iter().map(|(_, entry)| entry.clone()).collect();
    let mut after = Registry::restore(entries, at(1000));
    assert!(after.sweep(at(1030), &Members::default()).is_empty());
    assert_eq!(after.register(workload("a"), &cart(), b"a", Origin::Home, at(1001)), Ok(false));
}

#[test]
fn one_identity_does_not_fill_the_registry() {
    let mut registry = Registry::default();
    for index in 0..MOST_INSTANCES {
        assert_eq!(registry.register(workload(&format!("a{index}")), &cart(), b"n", Origin::Home, at(0)), Ok(true));
    }
    assert!(matches!(
        registry.register(workload("more"), &cart(), b"n", Origin::Home, at(0)),
        Err(Refused::NotAllowed(_))
    ));
    assert_eq!(registry.register(workload("a0"), &cart(), b"n", Origin::Home, at(1)), Ok(false));
}

#[test]
fn an_address_leads_to_a_machine() {
    for address in
        ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "0.0.0.0", "::ffff:0.0.0.0", "224.0.0.1", "cart"]
    {
        let workload = Workload { address: address.into(), ..workload("a") };
        let refused = Registry::default().register(workload, &cart(), b"n", Origin::Home, at(0));
        assert!(matches!(refused, Err(Refused::Wrong(_))), "{address}");
    }
}

#[test]
fn only_a_tunnel_is_registered_at_another_address() {
    let from = |text: &str| text.parse().expect("an address");
    let plain = Workload { tunnel_port: 0, address: "10.0.0.7".into(), ..workload("a") };
    assert_eq!(check_place(&plain, from("::ffff:10.0.0.7")), Ok(Origin::Home));
    assert!(matches!(check_place(&plain, from("10.0.0.8")), Err(Refused::NotAllowed(_))));
    assert_eq!(check_place(&workload("a"), from("10.0.0.8")), Ok(Origin::Elsewhere));
    let local = Workload { address: "127.0.0.1".into(), ..workload("a") };
    assert!(matches!(check_place(&local, from("10.0.0.8")), Err(Refused::Wrong(_))));
    assert_eq!(check_place(&local, from("127.0.0.2")), Ok(Origin::Elsewhere));
}
