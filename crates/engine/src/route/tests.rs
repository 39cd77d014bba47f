//! The index against a plain reading of the standard, on random routes and requests; and what it costs with many routes.

use std::cmp::Reverse;
use std::sync::Arc;

use transept_wire::head::{FieldName, Method, Request};

use super::RouteTable;
use super::predicates::{HeaderTest, Predicates, QueryTest, TextTest};
use super::table::{Entry, PathKey};
use crate::exchange::{below, draw};
use crate::explain::Silent;
use crate::rule::Rule;

/// Numbers in a row, from one seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(1);
        below(draw(self.0, 0), sides as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }
}

const HOSTS: &[&str] = &["", "a.test", "*.test", "b.a.test", "*.a.test"];
const PATHS: &[&str] = &["/", "/x", "/x/y", "/x/y/z", "/xy", "/X", "/x/"];
const VALUES: &[&str] = &["1", "2"];

fn header(name: &str, value: &str) -> HeaderTest {
    HeaderTest { name: FieldName::new(name).expect("a token"), value: TextTest::Exact(value.as_bytes().into()) }
}

fn random_entry(dice: &mut Dice, order: u32) -> Entry {
    let path = dice.pick(PATHS);
    let mut headers = Vec::new();
    let mut query = Vec::new();
    for name in ["h", "i"] {
        if dice.roll(4) == 0 {
            headers.push(header(name, dice.pick(VALUES)));
        }
        if dice.roll(4) == 0 {
            let value = TextTest::Exact(dice.pick(VALUES).as_bytes().into());
            query.push(QueryTest { name: name.as_bytes().into(), value });
        }
    }
    Entry {
        hostname: dice.pick(HOSTS).into(),
        path: if dice.roll(2) == 0 { PathKey::Exact(path.as_bytes().into()) } else { PathKey::prefix(path.as_bytes()) },
        specificity: (0, 0),
        predicates: Arc::new(Predicates {
            method: [None, None, Some(Method::Put)][dice.roll(3)],
            headers: headers.into(),
            query: query.into(),
            path: None,
        }),
        rule: Arc::new(Rule::for_tests(&format!("n/route-{order}/0"))),
        order,
        index: 0,
    }
}

fn random_request(dice: &mut Dice) -> (Request, &'static str) {
    let method = dice.pick(&["GET", "PUT"]);
    let host = dice.pick(&["a.test", "b.a.test", "c.a.test", "c.test", "test", "other"]);
    let mut target = dice.pick(&["/", "/x", "/x/", "/x/y", "/x/y/z/w", "/xy", "/x/yz", "/X"]).to_owned();
    if dice.roll(2) == 0 {
        target = format!("{target}?h={}&i={}", dice.pick(VALUES), dice.pick(VALUES));
    }
    let mut request = Request::build(method, "http", host, &target).expect("a request");
    for name in ["h", "i"] {
        if dice.roll(2) == 0 {
            request.fields.push_bytes(name.as_bytes(), dice.pick(VALUES).as_bytes()).expect("a field");
        }
    }
    (request, host)
}

/// The standard, read plainly: of all entries that fit, the first in the order of precedence.
fn plainly<'a>(entries: &'a [Entry], request: &Request, host: &str) -> Option<&'a Entry> {
    let host_fits = |pattern: &str| match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => pattern.is_empty() || pattern == host,
    };
    let path_fits = |path: &PathKey| match path {
        PathKey::Exact(path) => request.path() == &**path,
        PathKey::Prefix(prefix) => {
            let mut with_slash = prefix.to_vec();
            with_slash.push(b'/');
            request.path() == &**prefix || request.path().starts_with(&with_slash)
        }
        PathKey::Pattern => false,
    };
    let fits = |entry: &&Entry| {
        host_fits(&entry.hostname)
            && path_fits(&entry.path)
            && entry.predicates.lost(request, super::predicates::Preflights::Ordinary).is_none()
    };
    entries.iter().filter(fits).min_by_key(|entry| {
        let (exact, length) = match &entry.path {
            PathKey::Exact(path) => (true, path.len()),
            PathKey::Prefix(path) => (false, path.len()),
            PathKey::Pattern => (false, 0),
        };
        let wildcard = entry.hostname.starts_with('*');
        (
            Reverse(if wildcard { 0 } else { entry.hostname.len() }),
            Reverse(entry.hostname.len()),
            Reverse(exact),
            Reverse(length),
            Reverse(entry.predicates.method.is_some()),
            Reverse(entry.predicates.headers.len()),
            Reverse(entry.predicates.query.len()),
            entry.order,
        )
    })
}

#[test]
fn the_index_decides_like_a_plain_reading_of_the_standard() {
    let mut dice = Dice(7);
    let mut found_some = 0;
    for round in 0..300 {
        let entries: Vec<Entry> = (0..1 + dice.roll(40)).map(|order| random_entry(&mut dice, order as u32)).collect();
        let mut shuffled = entries.clone();
        shuffled.sort_by_key(|entry| draw(u64::from(entry.order), round));
        let table = RouteTable::new(shuffled);
        for _ in 0..60 {
            let (request, host) = random_request(&mut dice);
            let expected = plainly(&entries, &request, host).map(|entry| entry.rule.metric_label.clone());
            let found = table.find(&request, host, &mut Silent).map(|routed| routed.rule.metric_label.clone());
            found_some += usize::from(found.is_some());
            assert_eq!(found, expected, "{host} {:?} {entries:#?}", request.target().escape_ascii().to_string());
        }
    }
    assert!(found_some > 5_000, "{found_some}");
}

fn plain_entry(hostname: &str, path: &str, order: u32) -> Entry {
    Entry {
        hostname: hostname.into(),
        path: PathKey::prefix(path.as_bytes()),
        specificity: (0, 0),
        predicates: Arc::default(),
        rule: Arc::new(Rule::for_tests(&format!("n/route-{order}/0"))),
        order,
        index: 0,
    }
}

#[test]
fn the_covered_prefix_is_known() {
    let table = RouteTable::new(vec![plain_entry("", "/", 0), plain_entry("", "/shop/cart/", 1)]);
    let covered = |path: &str| {
        let request = Request::build("GET", "http", "t.test", path).expect("a request");
        table.find(&request, "t.test", &mut Silent).map(|routed| routed.matched_prefix)
    };
    assert_eq!(covered("/shop/cart/7"), Some("/shop/cart".len()));
    assert_eq!(covered("/shop/cart"), Some("/shop/cart".len()));
    assert_eq!(covered("/shop"), Some(0));
}

#[test]
fn a_lookup_among_many_tries_only_what_can_match() {
    struct Count(usize);
    impl crate::explain::Trace for Count {
        const ON: bool = true;
        fn candidate(&mut self, _: &Arc<Rule>, _: u16, _: &str, _: Option<super::predicates::Lost<'_>>) {
            self.0 += 1;
        }
    }
    let entries = (0..20_000).map(|n| plain_entry(&format!("h{}.test", n % 500), &format!("/p{}/x", n / 500), n));
    let table = RouteTable::new(entries.collect());
    assert_eq!(table.len(), 20_000);
    let request = Request::build("GET", "http", "h499.test", "/p39/x/y/z").expect("a request");
    let mut count = Count(0);
    let routed = table.find(&request, "h499.test", &mut count).expect("a rule");
    assert_eq!(&*routed.rule.metric_label, "n/route-19999/0");
    assert_eq!(count.0, 1);
}

#[test]
fn odd_targets_only_fit_any_path() {
    let table = RouteTable::new(vec![plain_entry("", "/", 0)]);
    for target in ["*", ""] {
        let request = Request::build("OPTIONS", "http", "t.test", target).expect("a request");
        assert!(table.find(&request, "t.test", &mut Silent).is_some(), "{target:?}");
    }
    let table = RouteTable::new(vec![plain_entry("", "/x", 0)]);
    let request = Request::build("OPTIONS", "http", "t.test", "*").expect("a request");
    assert!(table.find(&request, "t.test", &mut Silent).is_none());
}
