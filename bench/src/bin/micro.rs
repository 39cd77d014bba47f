//! What one request costs in memory alone: finding its route among 10, 1,000 and 100,000, and its head from bytes to bytes.
//!
//! Run by people (`cargo run --release -p transept-bench --bin micro`). Calls the very functions that the proxy calls, in the
//! proxy's order, without sockets; what the kernel and the runtime add is measured by the other program of this package.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use transept_engine::admit::admit;
use transept_engine::compile::compile;
use transept_engine::exchange::{Connection, Exchange, Notes, Now};
use transept_engine::forwarded::{announce, derive};
use transept_engine::pick::{self};
use transept_engine::policies::MODEL_KINDS;
use transept_engine::route::route;
use transept_engine::screen::screen;
use transept_engine::snapshot::{Bind, Snapshot};
use transept_engine::trace::correlate;
use transept_engine::verdict::Verdict;
use transept_model::attach::{Surroundings, attach};
use transept_model::load;
use transept_model::place::SourceText;
use transept_wire::h1::{self, Limits, parse_request, strip_hop_by_hop, write_request};
use transept_wire::h2::head::{Connect, HeadLimits, Underscore, read_request, write_response};
use transept_wire::h2::hpack::{Decoder, Encoder};
use transept_wire::head::{Request, Response};
use transept_wire::normalize;

/// Path prefixes under each host.
const PREFIXES: usize = 10;
/// Different requests that are asked in turn, so that no branch predictor knows the answer.
const ASKED: usize = 1024;
/// Length of one sample, and how many of them the median is taken of.
const SAMPLE: Duration = Duration::from_millis(20);
const SAMPLES: usize = 25;

/// A request as a browser sends it.
const HEAD: &[u8] =
    b"GET /p7/cart/items?sort=price HTTP/1.1\r\nHost: h0.test\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n\
Accept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\nCookie: session=0123456789abcdef; theme=dark\r\n\
Cache-Control: max-age=0\r\n\r\n";

fn main() -> anyhow::Result<()> {
    println!("| | median ns | fastest ns | slowest ns |\n|---|---|---|---|");
    for routes in [10, 1_000, 100_000] {
        let begin = Instant::now();
        let snapshot = snapshot(routes)?;
        eprintln!("{routes} routes loaded and compiled in {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);
        lookup(&snapshot, routes)?;
    }
    let snapshot = snapshot(10)?;
    let bind = snapshot.binds.first().context("no address to listen on")?;
    head(bind)?;
    h2_head()
}

/// What the same browser sends over HTTP/2, and what it is answered.
const LINES: [(&str, &str); 8] = [
    (":authority", "h0.test"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br"),
    ("cookie", "session=0123456789abcdef; theme=dark"),
    ("cache-control", "max-age=0"),
    (":path", "/p7/cart/items?sort=price"),
];
const ANSWER: [(&str, &str); 6] = [
    ("server", "shop"),
    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
    ("content-type", "text/html; charset=utf-8"),
    ("content-length", "1024"),
    ("cache-control", "private, max-age=0"),
    ("x-request-id", "0123456789abcdef0123456789abcdef"),
];

/// Heads of HTTP/2: the first request of a connection, whose lines the table takes, and the next ones, which name them.
fn h2_head() -> anyhow::Result<()> {
    let limits = HeadLimits { bytes: 64 * 1024, fields: 100, connect: Connect::Refused, underscore: Underscore::Drop };
    let mut decoder = Decoder::new(4096);
    let mut request = Request::new();
    // GET and https by number; the path changes from request to request, so no table takes it.
    let mut first = vec![0x82, 0x87];
    let (path, kept) = LINES.split_last().context("no lines")?;
    write_literal(&mut first, 0x00, path);
    for line in kept {
        write_literal(&mut first, 0x40, line);
    }
    let mut next = vec![0x82, 0x87];
    write_literal(&mut next, 0x00, path);
    next.extend((0..kept.len()).rev().map(|place| 0x80 | (62 + place) as u8));
    ensure!(read_request(&mut decoder, &first, &limits, &mut request).is_ok(), "the first request is refused");
    ensure!(read_request(&mut decoder, &next, &limits, &mut request).is_ok(), "the next request is refused");
    measure("read an HTTP/2 request head, indexed", || {
        let _ = black_box(read_request(&mut decoder, black_box(&next), &limits, &mut request));
    });
    measure("read an HTTP/2 request head, put into the table", || {
        let _ = black_box(read_request(&mut decoder, black_box(&first), &limits, &mut request));
    });
    let mut response = Response::new(200);
    for (name, value) in ANSWER {
        response.fields.push_bytes(name.as_bytes(), value.as_bytes())?;
    }
    let mut encoder = Encoder::new();
    let mut out = Vec::with_capacity(4096);
    measure("write an HTTP/2 response head", || {
        out.clear();
        write_response(&mut encoder, black_box(&response), &mut out);
        black_box(&out);
    });
    Ok(())
}

/// A field whose strings are shorter than 127 bytes, with its name in full (RFC 7541 section 6.2).
fn write_literal(out: &mut Vec<u8>, kind: u8, (name, value): &(&str, &str)) {
    out.push(kind);
    for string in [name, value] {
        out.push(string.len() as u8);
        out.extend_from_slice(string.as_bytes());
    }
}

/// A gateway with so many routes, from text as a user would write it.
fn snapshot(routes: usize) -> anyhow::Result<Arc<Snapshot>> {
    let backend = "apiVersion: transept.dev/v1alpha1\nkind: Backend\nmetadata: {name: b}\n\
                   spec: {endpoints: [{address: 127.0.0.1, port: 1}]}\n";
    let mut files = vec![SourceText::new("backend.yaml", backend)];
    let hosts: Vec<usize> = (0..routes / PREFIXES).collect();
    // The loader bounds what one file may hold.
    for (at, some) in hosts.chunks(1_000).enumerate() {
        let text: String = some.iter().map(|host| manifest(*host)).collect();
        files.push(SourceText::new(format!("routes-{at}.yaml"), text));
    }
    let loaded = load(&files, MODEL_KINDS);
    ensure!(loaded.invalid.is_empty(), "{}", loaded.invalid[0]);
    let attached = attach(&loaded.world, &Surroundings::default());
    Ok(compile(&loaded.world, &attached, None, 1).install())
}

/// One route with a host of its own and a rule for each prefix.
fn manifest(host: usize) -> String {
    let mut text = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{host}}}\nspec:\n  hostnames: [h{host}.test]\n  rules:\n"
    );
    for prefix in 0..PREFIXES {
        let _ = writeln!(
            text,
            "  - matches: [{{path: {{type: PathPrefix, value: /p{prefix}}}}}]\n    backendRefs: [{{group: transept.dev, kind: Backend, name: b}}]"
        );
    }
    text
}

fn lookup(snapshot: &Snapshot, routes: usize) -> anyhow::Result<()> {
    let bind = snapshot.binds.first().context("no address to listen on")?;
    let connection = connection()?;
    let hosts = routes / PREFIXES;
    let asked = (0..ASKED)
        .map(|at| {
            // Spread over all hosts, in an order that no cache follows.
            let host = format!("h{}.test", at.wrapping_mul(7_919) % hosts);
            let request = Request::build("GET", "http", &host, &format!("/p{}/cart/items", at % PREFIXES))?;
            Ok((host, request))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let find = |(host, request): &(String, Request)| -> bool {
        admit(bind, &connection, host).is_ok_and(|listener| route(listener, request, host).is_some())
    };
    for one in &asked {
        ensure!(find(one), "no route for {}{}", one.0, String::from_utf8_lossy(one.1.path()));
    }
    let mut at = 0;
    measure(&format!("listener and route, {routes} routes"), || {
        at = (at + 1) % ASKED;
        black_box(find(black_box(&asked[at])));
    });
    Ok(())
}

fn head(bind: &Bind) -> anyhow::Result<()> {
    let limits = Limits::default();
    let mut request = Request::new();
    let mut out = Vec::with_capacity(4096);
    measure("parse a request head", || {
        let _ = black_box(parse_request(black_box(HEAD), &limits, &mut request));
    });
    measure("parse and write a request head", || {
        out.clear();
        let _ = black_box(parse_request(black_box(HEAD), &limits, &mut request));
        strip_hop_by_hop(&mut request.fields);
        write_request(&mut out, &request, &h1::Body::None, h1::Connection::KeepAlive);
        black_box(&out);
    });
    let mut road = Road::new(bind)?;
    ensure!(road.travel(), "the request does not reach a backend");
    ensure!(String::from_utf8_lossy(&road.out).contains("x-forwarded-for: 127.0.0.1"), "the head was not rewritten");
    measure("the road from head to head", || {
        black_box(road.travel());
    });
    Ok(())
}

/// Everything that decides about a request between two sockets, with the memory it reuses.
struct Road<'b> {
    bind: &'b Bind,
    connection: Connection,
    limits: Limits,
    turns: transept_engine::balance::Turns,
    request: Request,
    notes: Notes,
    scratch: Vec<u8>,
    host: String,
    out: Vec<u8>,
    random: u64,
}

impl<'b> Road<'b> {
    fn new(bind: &'b Bind) -> anyhow::Result<Self> {
        Ok(Self {
            bind,
            connection: connection()?,
            limits: Limits::default(),
            turns: transept_engine::balance::Turns::default(),
            request: Request::new(),
            notes: Notes::new(),
            scratch: Vec::new(),
            host: String::new(),
            out: Vec::with_capacity(4096),
            random: 1,
        })
    }

    /// Reads, normalises, admits, routes, screens, picks and writes; whether the request reached a backend.
    fn travel(&mut self) -> bool {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let now = Now { monotonic: Duration::from_secs(1), unix: Duration::from_secs(1_700_000_000) };
        self.notes.clear();
        self.out.clear();
        if !matches!(parse_request(black_box(HEAD), &self.limits, &mut self.request), Ok(Some(_))) {
            return false;
        }
        let settings = &self.bind.settings;
        let client = derive(&self.connection, &self.request.fields, settings);
        correlate(&mut self.request.fields, client.peer, settings.trace, now, self.random);
        self.scratch.clear();
        self.host.clear();
        let Ok(authority) = normalize::authority(self.request.authority()) else {
            return false;
        };
        self.host.push_str(authority.host_lower(&mut self.scratch));
        self.scratch.clear();
        if normalize::path(self.request.path(), &settings.path, &mut self.scratch).is_err() {
            return false;
        }
        strip_hop_by_hop(&mut self.request.fields);
        announce(&mut self.request, &self.connection, &client, settings, self.connection.local.port());
        let Ok(listener) = admit(self.bind, &self.connection, &self.host) else {
            return false;
        };
        let routed = route(listener, &self.request, &self.host);
        let mut exchange = Exchange {
            now,
            random: self.random,
            connection: &self.connection,
            client: client.address,
            listener_port: listener.port,
            request: &mut self.request,
            notes: &mut self.notes,
        };
        if !matches!(screen(listener, routed.as_ref(), &mut exchange), Verdict::Continue) {
            return false;
        }
        let Some(routed) = routed else { return false };
        let Ok(backend) = pick::pick_backend(routed.rule, &mut self.turns) else {
            return false;
        };
        if !matches!(pick::apply_backend_filters(backend, &mut exchange), Verdict::Continue) {
            return false;
        }
        write_request(&mut self.out, &self.request, &h1::Body::None, h1::Connection::KeepAlive);
        pick::target(backend).is_ok()
    }
}

fn connection() -> anyhow::Result<Connection> {
    Ok(Connection::new("127.0.0.1:40000".parse()?, "127.0.0.1:8080".parse()?, None))
}

/// Repeats an action for many short samples and prints nanoseconds per action.
fn measure(name: &str, mut action: impl FnMut()) {
    let mut count: u64 = 1;
    // Find out how often the action fits into a sample; this warms up too.
    while time(count, &mut action) < SAMPLE {
        count *= 2;
    }
    let mut samples: Vec<f64> =
        (0..SAMPLES).map(|_| time(count, &mut action).as_secs_f64() * 1e9 / count as f64).collect();
    samples.sort_by(f64::total_cmp);
    println!("| {name} | {:.0} | {:.0} | {:.0} |", samples[SAMPLES / 2], samples[0], samples[SAMPLES - 1]);
}

fn time(count: u64, action: &mut impl FnMut()) -> Duration {
    let begin = Instant::now();
    for _ in 0..count {
        action();
    }
    begin.elapsed()
}
