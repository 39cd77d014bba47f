//! Runs `cases/*.yaml`: resources, described requests, and what the engine must decide about them.
//!
//! The format is described in `cases/README.md`. Every failure of every case is shown at once.

mod format;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use transept_engine::compile::compile;
use transept_engine::compile::mesh::{AppPort, AppProtocol, Inbound, Station, compile_station};
use transept_engine::explain::{Ask, Explanation, explain};
use transept_engine::policies::MODEL_KINDS;
use transept_engine::snapshot::Snapshot;
use transept_model::attach::{Surroundings, attach};
use transept_model::place::SourceText;
use transept_model::schema::{Decoder, Labels, Schema};
use transept_model::value::{Budget, read};
use transept_model::{Invalid, load};
use transept_wire::head::{FieldName, Fields};

use format::{Case, Exchange, Expect, Send};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cases")
}

#[test]
fn every_case_is_decided_as_written() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("the folder cases")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    let mut failures = String::new();
    let mut count = 0;
    for file in &files {
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let text = std::fs::read_to_string(file).expect("a readable file");
        for case in parse(&name, &text, &mut failures) {
            count += 1;
            run(&name, &case, &mut failures);
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    assert!(count >= 25, "only {count} cases in {}", folder().display());
}

fn parse(file: &str, text: &str, failures: &mut String) -> Vec<Case> {
    let (documents, mut problems) = read(&SourceText::new(file, text), &Budget::default());
    let mut cases = Vec::new();
    for document in &documents {
        let mut cx = Decoder::new(file.into());
        cases.extend(Case::decode(document, &mut cx));
        problems.extend(cx.into_problems());
    }
    report(file, "the case itself", &problems, failures);
    cases
}

fn report(file: &str, what: &str, problems: &[Invalid], failures: &mut String) {
    for problem in problems {
        writeln!(failures, "{file}: {what}: {problem}").expect("a String takes all");
    }
}

fn run(file: &str, case: &Case, failures: &mut String) {
    let at = format!("{file}: {}", case.name);
    let loaded = load(&[SourceText::new(format!("{file}#{}", case.name), case.resources.as_str())], MODEL_KINDS);
    report(&at, "resources", &loaded.invalid, failures);
    let attached = attach(&loaded.world, &Surroundings::default());
    let compiled = match &case.station {
        Some(place) => compile_station(&loaded.world, &attached, &station(place), None, 1),
        None => compile(&loaded.world, &attached, None, 1),
    };
    let problems: Vec<String> =
        attached.problems.iter().chain(&compiled.problems).map(|problem| problem.to_string()).collect();
    for wanted in &case.problems {
        if !problems.iter().any(|problem| problem.contains(wanted.as_str())) {
            writeln!(failures, "{at}: no problem says {wanted:?}; there are {problems:?}").expect("a String takes all");
        }
    }
    if problems.len() != case.problems.len() {
        writeln!(failures, "{at}: {} problems expected, there are {problems:?}", case.problems.len())
            .expect("a String takes all");
    }
    let snapshot = compiled.install();
    for (index, exchange) in case.requests.iter().enumerate() {
        let at = format!("{at}: request {index} (line {})", exchange.at.line);
        check(&at, &snapshot, exchange, failures);
    }
}

/// A proxy beside a program that is told of an HTTP proxy.
fn station(place: &format::Place) -> Station {
    let local = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let service = place.services.first().cloned().unwrap_or_default();
    Station {
        namespace: place.namespace.clone(),
        workload: format!("{service}-1"),
        services: place.services.clone(),
        identity: format!("spiffe://transept.local/ns/{}/sa/{service}", place.namespace),
        inbound: vec![Inbound { listen: local(15008), announced: None }],
        app: place
            .ports
            .iter()
            .map(|port| AppPort {
                port: port.port,
                to: local(port.target_port),
                protocol: AppProtocol::of(port.app_protocol.as_deref()),
            })
            .collect(),
        outbound: Vec::new(),
        http_proxy: Some(local(3128)),

        captured: None,
        plaintext: None,
        awake: None,
    }
}

fn ask(send: &Send) -> Result<Ask, String> {
    let mut ask = Ask::new(&send.method, &send.url)?;
    for (name, value) in &send.headers {
        ask.add_field(name, value)?;
    }
    for line in &send.lines {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("{line:?} has no colon"))?;
        ask.add_field(name, value.trim())?;
    }
    ask.peer = send.client.parse().map_err(|_| format!("{:?} is no address", send.client))?;
    ask.server_name.clone_from(&send.server_name);
    ask.identity.clone_from(&send.identity);
    if let Some(answer) = &send.answer {
        ask.assumed.status = answer.status;
        for (name, value) in &answer.headers {
            ask.assumed.fields.push_bytes(name.as_bytes(), value.as_bytes()).map_err(|why| why.to_string())?;
        }
    }
    Ok(ask)
}

fn check(at: &str, snapshot: &Arc<Snapshot>, exchange: &Exchange, failures: &mut String) {
    let found = match ask(&exchange.send) {
        Ok(ask) => explain(snapshot, &ask),
        Err(why) => {
            writeln!(failures, "{at}: {why}").expect("a String takes all");
            return;
        }
    };
    // The explanation must be printable whatever was found.
    assert!(found.to_text().starts_with("request"), "{at}");
    assert!(found.to_json()["request"].is_string(), "{at}");
    let mut wrong = Vec::new();
    compare(&exchange.expect, &found, &mut wrong);
    if !wrong.is_empty() {
        writeln!(failures, "{at}:\n  {}\n{}", wrong.join("\n  "), found.to_text()).expect("a String takes all");
    }
}

fn compare(expect: &Expect, found: &Explanation, wrong: &mut Vec<String>) {
    let mut same = |what: &str, wanted: &Option<String>, got: Option<String>| {
        if let Some(wanted) = wanted
            && got.as_deref() != Some(wanted.as_str())
        {
            wrong.push(format!("{what} should be {wanted:?} and is {got:?}"));
        }
    };
    let forwarded = found.forwarded.as_ref();
    let rule = found.rule.as_ref();
    same("code", &expect.code, found.reply.as_ref().map(|reply| reply.reason.slug().to_owned()));
    same("rule", &expect.rule, rule.map(|rule| rule.metric_label.to_string()));
    same("route", &expect.route, rule.map(|rule| format!("{}/{}", rule.name.namespace(), rule.name.route())));
    same("listener", &expect.listener, found.listener.as_ref().map(|listener| listener.name.to_string()));
    same("backend", &expect.backend, found.backend.clone());
    same("endpoint", &expect.endpoint, found.endpoint.clone());
    same("traffic", &expect.traffic, found.traffic.as_ref().map(|(policy, _)| policy.clone()));
    same("path", &expect.path, forwarded.map(|request| lossy(request.path())));
    same("target", &expect.target, forwarded.map(|request| lossy(request.target())));
    same("host", &expect.host, forwarded.map(|request| lossy(request.authority())));
    same("client", &expect.client, found.client.map(|client| client.address.to_string()));
    same("cause", &expect.cause, found.reply.as_ref().and_then(|reply| reply.cause.as_deref().map(str::to_owned)));
    same("answeredBy", &expect.answered_by, found.answered_by.as_ref().map(|policy| policy.to_string()));
    let status = found.response.as_ref().map(|(status, _)| *status).or(found.reply.as_ref().map(|reply| reply.status));
    if let Some(wanted) = expect.status
        && status != Some(wanted)
    {
        wrong.push(format!("status should be {wanted} and is {status:?}"));
    }
    let empty = Fields::new();
    let request_fields = forwarded.map_or(&empty, |request| &request.fields);
    let response_fields = found.response.as_ref().map_or(&empty, |(_, fields)| fields);
    compare_fields("header", request_fields, &expect.headers, &expect.absent_headers, wrong);
    compare_fields(
        "response header",
        response_fields,
        &expect.response_headers,
        &expect.absent_response_headers,
        wrong,
    );
    compare_lists(expect, found, wrong);
}

fn compare_lists(expect: &Expect, found: &Explanation, wrong: &mut Vec<String>) {
    let says = found.traffic.as_ref().map(|(_, says)| says.join("\n")).unwrap_or_default();
    for part in expect.traffic_says.iter().filter(|part| !says.contains(part.as_str())) {
        wrong.push(format!("the traffic policy should say {part:?} and says {says:?}"));
    }
    let mut list = |what: &str, wanted: &Option<Vec<String>>, got: Vec<String>| {
        if let Some(wanted) = wanted
            && *wanted != got
        {
            wrong.push(format!("{what} should be {wanted:?} and are {got:?}"));
        }
    };
    list("policies", &expect.policies, found.policies.iter().map(|policy| policy.to_string()).collect());
    let tunnels = found.tunnels.iter().map(|(address, identity)| format!("{address} {identity}"));
    list("tunnels", &expect.tunnels, tunnels.collect());
    list("mirrors", &expect.mirrors, found.mirrors.clone());
    list("endpoints", &expect.endpoints, found.endpoints.iter().map(|(address, _)| address.clone()).collect());
    for (label, weight) in &expect.backends {
        let got = found.backends.iter().find(|share| share.backend.as_ref() == Ok(label)).map(|share| share.weight);
        if got.map(|weight| weight.to_string()).as_ref() != Some(weight) {
            wrong.push(format!("the weight of {label} should be {weight} and is {got:?}"));
        }
    }
    for (rule, why) in &expect.lost {
        let got: Vec<_> = found
            .considered
            .iter()
            .filter(|one| one.rule == *rule)
            .map(|one| one.lost.clone().unwrap_or_else(|| "won".to_owned()))
            .collect();
        if !got.iter().any(|got| got.contains(why.as_str())) {
            wrong.push(format!("{rule} should have lost because {why:?}; it is {got:?}"));
        }
    }
}

fn compare_fields(what: &str, fields: &Fields, wanted: &Labels, absent: &[String], wrong: &mut Vec<String>) {
    let joined = |name: &str| {
        let name = FieldName::new(name).expect("a field name");
        let values: Vec<_> = fields.all_named(&name).map(lossy).collect();
        (!values.is_empty()).then(|| values.join(","))
    };
    for (name, value) in wanted {
        let got = joined(name);
        if got.as_ref() != Some(value) {
            wrong.push(format!("{what} {name} should be {value:?} and is {got:?}"));
        }
    }
    for name in absent {
        if let Some(got) = joined(name) {
            wrong.push(format!("{what} {name} should be absent and is {got:?}"));
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
