//! Tests of `rotation`: the stages, and that no order of events ever separates two workloads.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;
use rustls::crypto::aws_lc_rs;

use super::*;
use crate::authority::{Authority, LEAF_LIFE};
use crate::bundle::{Bundle, Bundles};
use crate::forge::{NOW, domain, id, now};
use crate::key::PrivateKey;
use crate::request::{self, Request};
use crate::verify::{Accept, Purpose, verify};

const LIFE: u64 = 86_400;

fn root(number: u8) -> Fingerprint {
    Fingerprint::of(&[number])
}

fn lacking(advance: Advance) -> Vec<String> {
    match advance {
        Advance::Waits(waiting) => waiting.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rotation_goes_through_its_stages_one_by_one() {
    let (old, new) = (root(1), root(2));
    let mut rotation = Rotation::new(old);
    rotation.note_issued("cart", old, moment(NOW + LIFE));
    rotation.note_report("cart", 1, old, moment(NOW + LIFE));
    assert_eq!((rotation.trusted(), rotation.signer(), rotation.sequence()), (vec![old], old, 1));
    assert_eq!(rotation.advance(now()), Advance::Idle);

    rotation.announce(new, now()).unwrap();
    assert_eq!((rotation.trusted(), rotation.signer(), rotation.sequence()), (vec![old, new], old, 2));
    assert_eq!(lacking(rotation.advance(now())), ["`cart` has not confirmed bundle 2"]);
    rotation.note_report("cart", 2, old, moment(NOW + LIFE));
    assert_eq!(rotation.advance(now()), Advance::Signs(new));

    assert_eq!((rotation.trusted(), rotation.signer(), rotation.sequence()), (vec![new, old], new, 2));
    assert_eq!(lacking(rotation.advance(now())), ["`cart` may still show a leaf of the old root"]);
    rotation.note_issued("cart", new, moment(NOW + LIFE));
    assert_eq!(lacking(rotation.advance(now())).len(), 1, "issued is not received");
    rotation.note_report("cart", 2, new, moment(NOW + LIFE));
    assert_eq!(rotation.advance(now()), Advance::Retired(old));
    assert_eq!((rotation.trusted(), rotation.signer(), rotation.sequence()), (vec![new], new, 3));
    assert_eq!(rotation.stage().slug(), "steady");
    assert!(rotation.is_gone(&old) && !rotation.is_gone(&new));
}

#[test]
fn a_proxy_out_of_sight_counts_until_its_leaf_ends() {
    let mut rotation = Rotation::new(root(1));
    rotation.note_issued("lost", root(1), moment(NOW + LIFE));
    rotation.announce(root(2), now()).unwrap();
    let slack = CLOCK_SLACK.as_secs();
    assert_eq!(lacking(rotation.advance(moment(NOW + LIFE + slack))).len(), 1);
    assert_eq!(rotation.advance(moment(NOW + LIFE + slack + 1)), Advance::Signs(root(2)));
    assert_eq!(rotation.proxies(), 0);
}

#[test]
fn a_proxy_that_has_ended_counts_no_more() {
    let mut rotation = Rotation::new(root(1));
    rotation.note_issued("gone", root(1), moment(NOW + LIFE));
    rotation.announce(root(2), now()).unwrap();
    rotation.note_ended("gone");
    assert_eq!(rotation.advance(now()), Advance::Signs(root(2)));
}

#[test]
fn a_proxy_that_comes_during_a_rotation_counts_from_its_first_leaf() {
    let mut rotation = Rotation::new(root(1));
    rotation.announce(root(2), now()).unwrap();
    rotation.note_issued("new", root(1), moment(NOW + LIFE));
    assert_eq!(lacking(rotation.advance(now())).len(), 1);
    rotation.note_report("new", 2, root(1), moment(NOW + LIFE));
    assert_eq!(rotation.advance(now()), Advance::Signs(root(2)));
    rotation.note_issued("newer", root(2), moment(NOW + LIFE));
    let lacks: Vec<_> = rotation.waiting().into_iter().map(|waiting| waiting.proxy).collect();
    assert_eq!(lacks, ["new", "newer"]);
}

#[test]
fn a_proxy_that_falls_back_is_waited_for_again() {
    let mut rotation = Rotation::new(root(1));
    rotation.note_report("cart", 1, root(1), moment(NOW + LIFE));
    rotation.announce(root(2), now()).unwrap();
    rotation.note_report("cart", 2, root(1), moment(NOW + LIFE));
    rotation.note_report("cart", 1, root(1), moment(NOW + LIFE));
    assert_eq!(lacking(rotation.advance(now())).len(), 1);
    rotation.note_report("cart", 2, root(1), moment(NOW + LIFE));
    assert_eq!(rotation.advance(now()), Advance::Signs(root(2)));
    rotation.note_report("cart", 2, root(2), moment(NOW + LIFE));
    rotation.note_report("cart", 2, root(1), moment(NOW + LIFE));
    assert_eq!(lacking(rotation.advance(now())).len(), 1);
}

#[test]
fn only_an_announced_rotation_is_given_up() {
    let mut rotation = Rotation::new(root(1));
    assert_eq!(rotation.give_up(), Err(NotNow::TooLate));
    assert_eq!(rotation.announce(root(1), now()), Err(NotNow::SameRoot));
    rotation.note_report("cart", 1, root(1), moment(NOW + LIFE));
    rotation.announce(root(2), now()).unwrap();
    assert_eq!(rotation.announce(root(3), now()), Err(NotNow::UnderWay));
    rotation.note_report("cart", 2, root(1), moment(NOW + LIFE));
    rotation.give_up().unwrap();
    assert_eq!((rotation.trusted(), rotation.sequence()), (vec![root(1)], 3));
    // What was said about the root that was given up does not count for the next one.
    rotation.announce(root(3), now()).unwrap();
    assert_eq!(lacking(rotation.advance(now())), ["`cart` has not confirmed bundle 4"]);
    rotation.note_report("cart", 4, root(1), moment(NOW + LIFE));
    assert_eq!(rotation.advance(now()), Advance::Signs(root(3)));
    assert_eq!(rotation.give_up(), Err(NotNow::TooLate));
}

#[test]
fn after_everything_has_ended_nothing_is_waited_for() {
    let mut rotation = Rotation::new(root(1));
    for proxy in ["a", "b", "c"] {
        rotation.note_report(proxy, 1, root(1), moment(NOW + LIFE));
    }
    rotation.announce(root(2), now()).unwrap();
    let late = moment(NOW + 100 * LIFE);
    assert_eq!(rotation.advance(late), Advance::Signs(root(2)));
    assert_eq!(rotation.advance(late), Advance::Retired(root(1)));
}

#[test]
fn a_retired_root_counts_for_what_is_open_until_its_time_is_over() {
    let mut rotation = Rotation::new(root(1));
    rotation.announce(root(2), now()).unwrap();
    rotation.advance(now());
    assert_eq!(rotation.advance(now()), Advance::Retired(root(1)));
    rotation.keep_for_open(vec![1].into(), moment(NOW + LIFE));
    assert_eq!(rotation.trusted(), [root(2)]);
    let stored: Rotation = serde_json::from_str(&serde_json::to_string(&rotation).unwrap()).unwrap();
    assert_eq!(stored, rotation);
    assert_eq!(stored.retired()[&root(1)], Retired { certificate: vec![1].into(), until: NOW + LIFE });
    assert!(!rotation.forget_retired(moment(NOW + LIFE)));
    assert_eq!((rotation.sequence(), rotation.retired().len()), (3, 1));
    assert!(rotation.forget_retired(moment(NOW + LIFE + 1)));
    assert_eq!((rotation.sequence(), rotation.retired().len()), (4, 0));
}

#[test]
fn bundles_are_numbered_by_the_clock_where_that_is_ahead() {
    let mut lost = Rotation::new(root(1));
    lost.number_by_clock(now());
    lost.announce(root(2), now()).unwrap();
    assert_eq!(lost.sequence(), NOW + 1);
    lost.number_by_clock(now());
    assert_eq!(lost.sequence(), NOW + 1, "it never falls");
    let mut next = Rotation::new(root(1));
    next.number_by_clock(moment(NOW + 60));
    assert!(next.sequence() > lost.sequence());
}

#[test]
fn a_state_from_before_there_were_retired_roots_is_read() {
    let text = format!(r#"{{"stage":"steady","root":"{}","sequence":4,"proxies":{{}}}}"#, root(1));
    let rotation: Rotation = serde_json::from_str(&text).unwrap();
    assert!(rotation.retired().is_empty());
}

#[test]
fn retired_roots_are_bounded() {
    let mut rotation = Rotation::new(root(0));
    for number in 0..u8::try_from(MOST_RETIRING).unwrap() {
        rotation.announce(root(number + 1), now()).unwrap();
        rotation.advance(now());
        rotation.advance(now());
        rotation.keep_for_open(vec![number].into(), moment(NOW + LIFE));
    }
    assert_eq!(rotation.announce(root(99), now()), Err(NotNow::TooMany));
    assert_eq!(rotation.clone().take_in(root(99), now()), Ok(()), "it is there already");
    assert!(rotation.forget_retired(moment(NOW + LIFE + 1)));
    rotation.announce(root(99), now()).unwrap();
}

#[test]
fn distrust_waits_for_nobody() {
    let announced = || {
        let mut rotation = Rotation::new(root(1));
        rotation.note_issued("cart", root(1), moment(NOW + LIFE));
        rotation.announce(root(2), now()).unwrap();
        rotation
    };
    let mut rotation = announced();
    assert_eq!(rotation.distrust(&root(3)), Err(NotDistrusted::Unknown));
    rotation.distrust(&root(2)).unwrap();
    assert_eq!((rotation.trusted(), rotation.sequence()), (vec![root(1)], 3), "the new one never signs");
    assert_eq!(rotation.distrust(&root(1)), Err(NotDistrusted::Only));
    for again in [Rotation::announce, Rotation::take_in] {
        assert_eq!(again(&mut rotation, root(2), now()), Err(NotNow::Gone), "it never comes back");
    }

    let mut rotation = announced();
    rotation.distrust(&root(1)).unwrap();
    assert_eq!((rotation.trusted(), rotation.signer(), rotation.sequence()), (vec![root(2)], root(2), 3));
    assert!(rotation.retired().is_empty(), "it counts for nothing");
    assert_eq!(rotation.proxies(), 0, "a leaf of it is worth nothing, so nobody waits for its end");

    let mut rotation = announced();
    rotation.note_report("cart", 2, root(1), moment(NOW + LIFE));
    assert_eq!(rotation.advance(now()), Advance::Signs(root(2)));
    assert_eq!(rotation.distrust(&root(2)), Err(NotDistrusted::Signs));
    rotation.distrust(&root(1)).unwrap();
    assert_eq!((rotation.trusted(), rotation.proxies()), (vec![root(2)], 0));
}

#[test]
fn a_root_that_has_retired_can_be_distrusted() {
    let mut rotation = Rotation::new(Fingerprint::of(&[1]));
    rotation.announce(root(2), now()).unwrap();
    rotation.advance(now());
    rotation.advance(now());
    rotation.keep_for_open(vec![1].into(), moment(NOW + LIFE));
    rotation.distrust(&root(1)).unwrap();
    assert_eq!((rotation.trusted(), rotation.retired().len(), rotation.sequence()), (vec![root(2)], 0, 4));
}

#[test]
fn it_is_stored_and_read_back_at_every_stage() {
    let mut rotation = Rotation::new(root(1));
    let check = |rotation: &Rotation| {
        let text = serde_json::to_string(rotation).unwrap();
        assert_eq!(&serde_json::from_str::<Rotation>(&text).unwrap(), rotation, "{text}");
    };
    check(&rotation);
    rotation.note_report("cart", 1, root(1), moment(NOW + LIFE));
    rotation.announce(root(2), now()).unwrap();
    check(&rotation);
    rotation.note_report("cart", 2, root(1), moment(NOW + LIFE));
    rotation.advance(now());
    check(&rotation);
}

#[test]
fn a_new_root_is_due_in_the_last_third() {
    let due = |seconds| is_due(moment(0), moment(1000), moment(seconds));
    assert!(!due(0) && !due(666) && due(667) && due(1000) && due(2000));
}

/// One workload as it really is.
#[derive(Debug, Default)]
struct Proxy {
    sequence: u64,
    bundle: BTreeSet<Fingerprint>,
    leaf: Option<(Fingerprint, u64)>,
    /// On their way from the control plane, in order.
    mail: VecDeque<Mail>,
    /// On their way to it, in order.
    reports: VecDeque<(u64, Fingerprint, u64)>,
}

#[derive(Debug, Clone)]
struct Mail {
    sequence: u64,
    bundle: BTreeSet<Fingerprint>,
    leaf: Option<(Fingerprint, u64)>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Issue(u8),
    SendBundle(u8),
    Receive(u8),
    Report(u8),
    Hear(u8),
    Disconnect(u8),
    End(u8),
    Wait(u64),
    Announce,
    GiveUp,
    Advance,
    Restart,
}

/// The world as a control plane and its proxies make it, with messages late and lost.
struct Mesh {
    rotation: Rotation,
    proxies: BTreeMap<u8, Proxy>,
    now: u64,
    roots: u8,
    /// Roots retired, to see that rotations do come to an end.
    retired: usize,
}

impl Mesh {
    fn new() -> Self {
        Self { rotation: Rotation::new(root(0)), proxies: BTreeMap::new(), now: NOW, roots: 0, retired: 0 }
    }

    fn mail(&self, leaf: Option<(Fingerprint, u64)>) -> Mail {
        Mail { sequence: self.rotation.sequence(), bundle: self.rotation.trusted().into_iter().collect(), leaf }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Issue(number) => {
                let leaf = (self.rotation.signer(), self.now + LIFE);
                self.rotation.note_issued(&number.to_string(), leaf.0, moment(leaf.1));
                let mail = self.mail(Some(leaf));
                self.proxies.entry(number).or_default().mail.push_back(mail);
            }
            Step::SendBundle(number) => {
                let mail = self.mail(None);
                if let Some(proxy) = self.proxies.get_mut(&number) {
                    proxy.mail.push_back(mail);
                }
            }
            Step::Receive(number) => {
                if let Some(proxy) = self.proxies.get_mut(&number)
                    && let Some(mail) = proxy.mail.pop_front()
                {
                    (proxy.sequence, proxy.bundle) = (mail.sequence, mail.bundle);
                    proxy.leaf = mail.leaf.or(proxy.leaf);
                }
            }
            Step::Report(number) => {
                if let Some(proxy) = self.proxies.get_mut(&number)
                    && let Some((root, until)) = proxy.leaf
                {
                    proxy.reports.push_back((proxy.sequence, root, until));
                }
            }
            Step::Hear(number) => {
                if let Some((sequence, root, until)) =
                    self.proxies.get_mut(&number).and_then(|proxy| proxy.reports.pop_front())
                {
                    self.rotation.note_report(&number.to_string(), sequence, root, moment(until));
                }
            }
            Step::Disconnect(number) => {
                if let Some(proxy) = self.proxies.get_mut(&number) {
                    proxy.mail.clear();
                    proxy.reports.clear();
                }
            }
            Step::End(number) => {
                self.proxies.remove(&number);
                self.rotation.note_ended(&number.to_string());
            }
            Step::Wait(seconds) => self.now += seconds,
            Step::Announce => {
                if self.rotation.announce(root(self.roots + 1), moment(self.now)).is_ok() {
                    self.roots += 1;
                }
            }
            Step::GiveUp => drop(self.rotation.give_up()),
            Step::Advance => {
                let advance = self.rotation.advance(moment(self.now));
                self.retired += usize::from(matches!(advance, Advance::Retired(_)));
            }
            Step::Restart => {
                let stored = serde_json::to_string(&self.rotation).unwrap();
                self.rotation = serde_json::from_str(&stored).unwrap();
            }
        }
    }

    /// Every workload with a leaf that has not ended is believed by every other one.
    fn check(&self) -> Result<(), String> {
        let live = |proxy: &&Proxy| proxy.leaf.is_some_and(|(_, until)| until >= self.now);
        for shown in self.proxies.values().filter(live) {
            for verifying in self.proxies.values().filter(live) {
                if !shown.leaf.is_some_and(|(root, _)| verifying.bundle.contains(&root)) {
                    return Err(format!("{shown:?} is not believed by {verifying:?} in {:?}", self.rotation));
                }
            }
        }
        Ok(())
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let proxy = || 0..4_u8;
    let step = prop_oneof![
        4 => proxy().prop_map(Step::Issue),
        3 => proxy().prop_map(Step::SendBundle),
        8 => proxy().prop_map(Step::Receive),
        6 => proxy().prop_map(Step::Report),
        6 => proxy().prop_map(Step::Hear),
        1 => proxy().prop_map(Step::Disconnect),
        1 => proxy().prop_map(Step::End),
        1 => (0..LIFE / 3).prop_map(Step::Wait),
        1 => (0..3 * LIFE).prop_map(Step::Wait),
        2 => Just(Step::Announce),
        1 => Just(Step::GiveUp),
        5 => Just(Step::Advance),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn at_every_step_everyone_believes_everyone(steps in steps()) {
        let mut mesh = Mesh::new();
        for step in steps {
            mesh.take(step);
            prop_assert_eq!(mesh.check(), Ok(()), "after {:?}", step);
        }
    }

    #[test]
    fn a_mesh_that_answers_comes_to_the_end_of_its_rotation(before in steps()) {
        let mut mesh = Mesh::new();
        before.into_iter().for_each(|step| mesh.take(step));
        mesh.take(Step::Announce);
        let retired = mesh.retired;
        for _ in 0..2 {
            for number in 0..4 {
                [Step::Disconnect(number), Step::Issue(number), Step::Receive(number), Step::Report(number), Step::Hear(number)]
                    .into_iter()
                    .for_each(|step| mesh.take(step));
            }
            mesh.take(Step::Advance);
            prop_assert_eq!(mesh.check(), Ok(()));
        }
        prop_assert_eq!(mesh.retired, retired + 1, "{:?}", mesh.rotation);
    }
}

/// A proxy with real certificates.
struct Holder {
    name: &'static str,
    bundles: Bundles,
    chain: Vec<rustls_pki_types::CertificateDer<'static>>,
}

fn believes(verifying: &Holder, shown: &Holder) -> bool {
    let provider = aws_lc_rs::default_provider();
    let algorithms = provider.signature_verification_algorithms.all;
    let accept = Accept::TrustDomain(domain("shop.test"));
    [Purpose::Client, Purpose::Server]
        .into_iter()
        .all(|purpose| verify(&shown.chain, &verifying.bundles, purpose, &accept, algorithms, now()).is_ok())
}

#[test]
fn real_certificates_are_believed_through_a_whole_rotation() {
    let shop = domain("shop.test");
    let authorities: Vec<_> = (1..3).map(|n| Authority::create_root(&shop, now(), [n; 16]).unwrap()).collect();
    let fingerprint = |at: usize| Fingerprint::of(authorities[at].root().unwrap());
    let by = |root: Fingerprint| authorities.iter().find(|one| Fingerprint::of(one.root().unwrap()) == root).unwrap();
    let in_force = |rotation: &Rotation| -> Bundles {
        let roots = rotation.trusted().into_iter().map(|root| by(root).root().unwrap().clone());
        [Bundle::new(shop.clone(), roots).unwrap()].into_iter().collect()
    };
    let renew = |rotation: &mut Rotation, holder: &mut Holder| {
        let key = PrivateKey::generate().unwrap();
        let name = id(&format!("spiffe://shop.test/ns/default/sa/{}", holder.name));
        let request = Request::read(&request::create(&key, &name).unwrap(), &name).unwrap();
        let issued = by(rotation.signer()).issue(&request, LEAF_LIFE, now(), [9; 16]).unwrap();
        rotation.note_issued(holder.name, issued.root.unwrap(), issued.leaf.not_after);
        (holder.chain, holder.bundles) = (issued.chain, in_force(rotation));
        rotation.note_report(holder.name, rotation.sequence(), issued.root.unwrap(), issued.leaf.not_after);
    };
    let mut rotation = Rotation::new(fingerprint(0));
    let mut holders = ["cart", "bank", "mail"].map(|name| Holder { name, bundles: Bundles::default(), chain: vec![] });
    let check = |holders: &[Holder]| {
        assert!(holders.iter().all(|one| holders.iter().all(|other| believes(one, other))));
    };
    holders.iter_mut().for_each(|holder| renew(&mut rotation, holder));
    check(&holders);
    rotation.announce(fingerprint(1), now()).unwrap();
    for at in 0..3 {
        assert!(matches!(rotation.advance(now()), Advance::Waits(_)));
        renew(&mut rotation, &mut holders[at]);
        check(&holders);
    }
    assert_eq!(rotation.advance(now()), Advance::Signs(fingerprint(1)));
    for at in 0..3 {
        assert!(matches!(rotation.advance(now()), Advance::Waits(_)));
        renew(&mut rotation, &mut holders[at]);
        check(&holders);
    }
    assert_eq!(rotation.advance(now()), Advance::Retired(fingerprint(0)));
    for at in 0..3 {
        holders[at].bundles = in_force(&rotation);
        check(&holders);
    }
}
