//! `transept mesh status`: how services are, who is connected to the control plane, what is registered, and what proxies refuse.
//!
//! Asks the running control plane through its socket.

use std::collections::HashMap;

use anyhow::Result;
use serde_json::{Value, json};
use transept_control::plane::Question;
use transept_model::suggest::nearest;

use super::{coloured, latency, rate, share};
use crate::commands::Exit;
use crate::commands::asking::question;
use crate::commands::check::render_objects;
use crate::commands::control::StateArgs;
use crate::commands::status::is_refused;
use crate::console::{self, GREEN, PLAIN, RED, YELLOW};
use crate::table;

const EXAMPLES: &str = "\
Examples:
  transept mesh status
  transept mesh status --state /var/lib/transept/control --json
  transept mesh status --objects  each object of the files, with what proxies make of it

A verdict is healthy, degraded (from 1 % of errors, or an instance is not well), failing (from 50 % of errors, or no \
instance is well) or unknown (nobody calls it, and no instance is registered). It becomes worse after two windows of \
10 s, and better after three.

Exit codes: 0 fine, 1 the last reload was refused, a service is failing, an object of the files does not work out (what is only not \
there yet does not count, unless it looks like a name that is there), a proxy asks for a service whose name looks like another, a proxy refuses a resource, an endpoint may not be called, expiries \
are frozen or the state cannot be stored, 3 no control plane answers.";

/// How messages of objects begin to say what may have been meant.
const MAY_BE_MEANT: &str = "which may be meant";
const DID_YOU_MEAN: &str = "did you mean";
/// How they say that a Service is not there, with and without a capital letter.
const NO_SERVICE: &str = "here is no Service ";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,

    /// Show the status of the objects in the files instead, with what the connected proxies say of them
    #[arg(long)]
    objects: bool,

    #[command(flatten)]
    state: StateArgs,
}

/// Asks and prints.
pub(super) fn run(args: &Args) -> Result<Exit> {
    if args.objects {
        return show_objects(args);
    }
    let mut shown = question(&args.state, &Question::Status)?;
    let problems = find_problems(&question(&args.state, &Question::Objects)?);
    let has_problems = problems.iter().any(|one| is_wrong(one, &shown["services"]));
    shown["problems"] = problems.into();
    if args.json {
        console::print_json(&shown)?;
    } else {
        console::print(&render(&console::harmless(&shown)))?;
    }
    let refused = shown["refused"].as_array().is_some_and(|all| !all.is_empty());
    let mut services = shown["services"].as_array().into_iter().flatten();
    let failing = services.any(|service| service["verdict"] == "failing");
    let left_out = shown["leftOut"].as_array().is_some_and(|all| !all.is_empty());
    let unwell = shown["frozen"] == Value::Bool(true) || shown["stored"] == Value::Bool(false);
    let misspelled = missing(&shown["members"]).any(|(_, one)| one["near"].is_string());
    let wrong =
        failing || refused || left_out || unwell || has_problems || misspelled || refused_reload(&shown).is_some();
    Ok(if wrong { Exit::Findings } else { Exit::Fine })
}

/// That the files of now are not those in force, and the first reason; nothing when they are.
fn refused_reload(shown: &Value) -> Option<String> {
    let reload = &shown["lastReload"];
    if reload["ok"] != Value::Bool(false) {
        return None;
    }
    let at = reload["at"].as_i64().and_then(|at| jiff::Timestamp::from_second(at).ok());
    let at = at.map(|at| format!(", {at},")).unwrap_or_default();
    let errors: Vec<&str> = reload["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let first = errors.first().copied().unwrap_or_default();
    let more = match errors.len() {
        0 | 1 => String::new(),
        count => format!("\nand {} more; the log of the control plane has all", count - 1),
    };
    Some(format!("{RED}the last reload{at} was refused; the configuration before it stays:{PLAIN}\n{first}{more}\n"))
}

/// Whether a problem is one that does not end by itself. A Service that is not there may come yet with its first instance, unless its name looks like
/// that of one that is there.
fn is_wrong(problem: &Value, services: &Value) -> bool {
    let message = problem["message"].as_str().unwrap_or_default();
    if message.contains("with a part named") || [MAY_BE_MEANT, DID_YOU_MEAN].iter().any(|words| message.contains(words))
    {
        return true;
    }
    let known = || services.as_array().into_iter().flatten().filter_map(|one| one["service"].as_str()?.split_once('/'));
    let is_misspelled = |name: &str| {
        let (namespace, name) = name.trim_end_matches(['.', ';', ',']).split_once('/').unwrap_or_default();
        nearest(name, known().filter(|(of, _)| *of == namespace).map(|(_, other)| other)).is_some()
    };
    let mut missing = message.split(NO_SERVICE).skip(1).filter_map(|rest| rest.split_whitespace().next()).peekable();
    missing.peek().is_none() || missing.any(is_misspelled)
}

/// What of the objects does not work out because something that they name is not there, or they cannot be used.
fn find_problems(objects: &Value) -> Vec<Value> {
    let mut problems = Vec::new();
    for object in objects.as_array().into_iter().flatten() {
        let (kind, meta) = (&object["kind"], &object["metadata"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = format!("{} {}/{}", text(kind), text(&meta["namespace"]), text(&meta["name"]));
        let mut waiting = vec![&object["status"]];
        while let Some(value) = waiting.pop() {
            match value {
                Value::Array(items) => waiting.extend(items),
                Value::Object(fields)
                    if (value["type"] == "Accepted" || value["type"] == "ResolvedRefs")
                        && value["status"] == "False" =>
                {
                    let problem =
                        json!({"object": name, "reason": fields.get("reason"), "message": fields.get("message")});
                    if !problems.contains(&problem) {
                        problems.push(problem);
                    }
                }
                Value::Object(fields) => waiting.extend(fields.values()),
                _ => {}
            }
        }
    }
    problems
}

/// Prints the objects, which are those in force; a finding when one does not work out, a proxy refuses one, or the files of now are not in force.
fn show_objects(args: &Args) -> Result<Exit> {
    let status = question(&args.state, &Question::Status)?;
    let refused = refused_reload(&status);
    if let Some(refused) = &refused {
        console::tell(refused.trim_end());
    }
    let objects = question(&args.state, &Question::Objects)?;
    if args.json {
        console::print_json(&objects)?;
    } else {
        let shown = console::harmless(&objects);
        console::print(&render_objects(shown.as_array().map_or(&[][..], Vec::as_slice)))?;
    }
    let has_problems = find_problems(&objects).iter().any(|one| is_wrong(one, &status["services"]));
    let wrong = refused.is_some() || is_refused(&objects) || has_problems;
    Ok(if wrong { Exit::Findings } else { Exit::Fine })
}

/// How the instances of services are, by name: what is not well in one of several is what matters.
fn health_by_name(services: &[Value]) -> HashMap<String, &str> {
    let mut all = HashMap::new();
    for service in services {
        let namespace = service["service"].as_str().and_then(|name| name.split_once('/')).map_or("", |(name, _)| name);
        for instance in service["instances"].as_array().into_iter().flatten() {
            if let (Some(name), Some(state)) = (instance["name"].as_str(), instance["state"].as_str()) {
                let known = all.entry(format!("{namespace}/{name}")).or_insert(state);
                if *known == "healthy" {
                    *known = state;
                }
            }
        }
    }
    all
}

/// How an instance is registered, in words; with how the control plane sees it in its services.
fn state_of(workload: &Value, seen: Option<&str>) -> String {
    if workload["left"] == Value::Bool(true) {
        return "left, not called in clear text".to_owned();
    }
    if let Some(other) = workload["replacedBy"].as_str() {
        return format!("replaced by {other} at its address");
    }
    match (&workload["lapsed"], workload["silentFor"].as_u64(), workload["health"].as_str()) {
        (Value::Bool(true), ..) => return "silent".to_owned(),
        (_, Some(seconds), None | Some("Healthy")) => {
            let others = workload["notCalledFor"].as_array().into_iter().flatten();
            let others: Vec<&str> = others.filter_map(Value::as_str).collect();
            return match &*others {
                [] => format!("silent for {seconds} s, kept"),
                others => format!("silent for {seconds} s, kept, and not called for {}", others.join(", ")),
            };
        }
        // Nobody calls it, whether it answers or not.
        (_, Some(seconds), Some(health)) => {
            return format!("silent for {seconds} s, not called: {}", health.to_lowercase());
        }
        _ => {}
    }
    let word = match seen {
        Some("unhealthy") => "not well",
        Some("shunned") => "left alone by its callers",
        Some("draining") => "stopping",
        _ => "registered",
    };
    word.to_owned()
}

/// A row for an instance.
fn render_workload(one: &Value, health: &HashMap<String, &str>) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let services: Vec<String> = one["services"].as_array().into_iter().flatten().map(text).collect();
    let name = format!("{}/{}", text(&one["namespace"]), text(&one["name"]));
    let state = state_of(one, health.get(&name).copied());
    let learned = one["learned"].as_object().into_iter().flatten();
    let learned: Vec<String> = learned.map(|(port, word)| format!("{port} {}", text(word))).collect();
    let learned = if learned.is_empty() { "-".to_owned() } else { learned.join(", ") };
    vec![name, services.join(", "), text(&one["address"]), state, learned]
}

fn render(shown: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let list = |name: &str| shown[name].as_array().cloned().unwrap_or_default();
    let mut out = refused_reload(shown).map(|refused| format!("{refused}\n")).unwrap_or_default();
    out.push_str(&render_services(&list("services")));
    let members: Vec<Vec<String>> = list("members")
        .iter()
        .map(|one| {
            let state = if one["connected"] == Value::Bool(true) { "connected" } else { "away" };
            vec![text(&one["proxy"]), text(&one["identity"]), text(&one["address"]), state.to_owned()]
        })
        .collect();
    out.push_str(&table::lay_out(&["PROXY", "IDENTITY", "ADDRESS", "STATE"], &members));
    let services = list("services");
    let health = health_by_name(&services);
    let workloads: Vec<Vec<String>> = list("workloads").iter().map(|one| render_workload(one, &health)).collect();
    if !workloads.is_empty() {
        out.push('\n');
        out.push_str(&table::lay_out(&["WORKLOAD", "SERVICES", "ADDRESS", "STATE", "HEARD"], &workloads));
    }
    if shown["frozen"] == Value::Bool(true) {
        out.push_str(&format!(
            "\n{YELLOW}most workloads fell silent at once: nobody is taken out until they return{PLAIN}\n"
        ));
    }
    if shown["stored"] == Value::Bool(false) {
        out.push_str(&format!(
            "\n{RED}the state cannot be stored{PLAIN}: nobody can join, register or renew a certificate until it can; the log of the control plane says why\n"
        ));
    }
    for one in &list("problems") {
        out.push_str(&format!(
            "\n{YELLOW}{}{PLAIN} does not work out: {}\n",
            text(&one["object"]),
            text(&one["message"])
        ));
    }
    out.push_str(&render_missing(&shown["members"]));
    for one in &list("leftOut") {
        let endpoints: Vec<String> = one["endpoints"].as_array().into_iter().flatten().map(text).collect();
        let service = format!("{}:{}", text(&one["service"]), one["port"]);
        let rest = match one["called"].as_u64() {
            Some(0) | None => "nobody is left, and calls get 503 (mesh.no_tunnel)".to_owned(),
            Some(called) => format!("{called} with one are called"),
        };
        out.push_str(&format!(
            "\n{YELLOW}{service}{PLAIN} is not called at {}: no tunnel leads there, and {} wants one; {rest}\n",
            endpoints.join(", "),
            text(&one["policy"]),
        ));
    }
    let refused = list("refused");
    if refused.is_empty() {
        out.push_str(&format!("\n{GREEN}no proxy refuses anything{PLAIN}\n"));
    }
    for one in &refused {
        for (proxy, why) in one["proxies"].as_object().into_iter().flatten() {
            let what = format!("{} {}", text(&one["type"]), text(&one["name"]));
            out.push_str(&format!("\n{YELLOW}{what}{PLAIN} is refused by {proxy}: {}\n", text(why)));
        }
    }
    out
}

/// The services that connected proxies ask for and that are not there, each with its proxy.
fn missing(members: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    let connected = members.as_array().into_iter().flatten().filter(|one| one["connected"] == Value::Bool(true));
    connected.flat_map(|member| {
        let all = member["missing"].as_array().into_iter().flatten();
        all.map(move |one| (&member["proxy"], one))
    })
}

fn render_missing(members: &Value) -> String {
    let mut out = String::new();
    for (proxy, one) in missing(members) {
        let service = one["service"].as_str().unwrap_or_default();
        let proxy = proxy.as_str().unwrap_or_default();
        let near = one["near"].as_str().map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        if one["wasThere"] == Value::Bool(true) {
            out.push_str(&format!(
                "\n{YELLOW}the service {service} has gone{PLAIN} with its last instance, and {proxy} asks for it\n"
            ));
            continue;
        }
        out.push_str(&format!("\n{YELLOW}there is no service {service}{PLAIN}, which {proxy} asks for{near}\n"));
    }
    out
}

/// The services, each with its verdict and what its callers see.
fn render_services(services: &[Value]) -> String {
    if services.is_empty() {
        return String::new();
    }
    let word = |service: &Value| service["verdict"].as_str().unwrap_or("unknown").to_owned();
    let rows: Vec<Vec<String>> = services
        .iter()
        .map(|service| {
            let instances: Vec<&Value> = service["instances"].as_array().into_iter().flatten().collect();
            let well = instances.iter().filter(|instance| instance["state"] == "healthy").count();
            vec![
                service["service"].as_str().unwrap_or("-").to_owned(),
                word(service),
                format!("{well}/{}", instances.len()),
                rate(service),
                share(service),
                latency(&service["p50Ms"]),
                latency(&service["p99Ms"]),
            ]
        })
        .collect();
    let heads = ["SERVICE", "VERDICT", "INSTANCES", "REQUESTS", "ERRORS", "P50", "P99"];
    let text = table::lay_out(&heads, &rows);
    let mut out = String::new();
    let verdicts = std::iter::once(String::new()).chain(services.iter().map(word));
    for (line, verdict) in text.lines().zip(verdicts) {
        out.push_str(&coloured(line, &verdict));
        out.push('\n');
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_reload_comes_first() {
        assert!(!render(&json!({"lastReload": {"ok": true}})).contains("reload"));
        let text = render(&json!({"lastReload": {"ok": false, "at": 0, "errors": ["shop.yaml:1:1: bad", "b", "c"]}}));
        let first = format!(
            "{RED}the last reload, 1970-01-01T00:00:00Z, was refused; the configuration before it stays:{PLAIN}"
        );
        assert!(text.starts_with(&format!("{first}\nshop.yaml:1:1: bad\nand 2 more")), "{text}");
    }

    #[test]
    fn an_object_whose_target_is_not_there_is_a_problem() {
        let object = |status: &str, reason: &str| {
            let conditions =
                json!([{"type": "Accepted", "status": status, "reason": reason, "message": "there is no Service a/b"}]);
            let ancestors =
                json!([{"ancestorRef": {}, "conditions": conditions}, {"ancestorRef": {}, "conditions": conditions}]);
            let meta = json!({"name": "guard", "namespace": "a"});
            json!([{"kind": "AuthorizationPolicy", "metadata": meta, "status": {"ancestors": ancestors}}])
        };
        assert_eq!(find_problems(&object("True", "Accepted")), [Value::Null; 0]);
        let problems = find_problems(&object("False", "TargetNotFound"));
        assert_eq!((problems.len(), &problems[0]["reason"]), (1, &"TargetNotFound".into()));
        let text = render(&json!({"problems": problems}));
        assert!(text.contains("AuthorizationPolicy a/guard"), "{text}");
        assert!(text.contains("does not work out: there is no Service a/b"), "{text}");
        let services = json!([{"service": "a/cart"}, {"service": "b/desk"}]);
        let of = |message: &str| is_wrong(&json!({"message": message}), &services);
        assert!(!of("There is no Service a/bank. Add it, or correct the name.") && !of("there is no Service a/desk"));
        assert!(
            of("There is no Service a/carrt. Add it, or correct the name.") && of("the Service a/cart has no port 7")
        );
        assert!(of("There is no Service a/cart with a part named 81; the whole of it is without this"));
        assert!(of("there is no Service a/b; Service a/bb, which may be meant, is without this"));
        assert!(of("Namespace b is not the one that this AuthorizationPolicy is in, which is a"));
    }

    #[test]
    fn a_refusal_is_shown_with_its_proxy_and_its_reason() {
        let shown = json!({
            "members": [{"proxy": "default/cart/a", "identity": "spiffe://a/b", "address": "127.0.0.1:1", "connected": true,
                         "missing": [{"service": "default/carr", "near": "default/cart"},
                                     {"service": "default/reg", "near": null, "wasThere": true}]}],
            "workloads": [{"namespace": "default", "name": "a", "services": ["cart"], "address": "10.0.0.1", "lapsed": true,
                           "learned": {"25": "tcp-server-first", "80": "http"}},
                          {"namespace": "default", "name": "b", "services": ["cart"], "address": "10.0.0.2", "lapsed": false, "silentFor": 100},
                          {"namespace": "default", "name": "g", "services": ["cart"], "address": "10.0.0.7", "lapsed": false, "silentFor": 149, "notCalledFor": ["cart"]},
                          {"namespace": "default", "name": "c", "services": ["cart"], "address": "10.0.0.3", "lapsed": false},
                          {"namespace": "default", "name": "d", "services": ["cart"], "address": "10.0.0.4", "lapsed": false},
                          {"namespace": "default", "name": "e", "services": ["cart"], "address": "10.0.0.5", "lapsed": false, "silentFor": 9, "health": "Draining"},
                          {"namespace": "default", "name": "f", "services": ["cart"], "address": "10.0.0.6", "lapsed": true, "left": true},
                          {"namespace": "default", "name": "h", "services": ["cart"], "address": "10.0.0.8", "lapsed": false, "replacedBy": "default/bank-1"}],
            "refused": [{"type": "core/v1/Service", "name": "default/cart", "proxies": {"default/cart/a": "no port"}}],
            "frozen": true,
            "stored": false,
            "leftOut": [{"service": "default/cart", "port": 80, "policy": "MeshPolicy default/cart", "endpoints": ["10.0.0.9:80"], "called": 1}],
            "services": [{
                "service": "default/cart", "verdict": "failing", "requestsPerSecond": 3.0, "errorRate": 0.75, "p50Ms": 2.0, "p99Ms": 40.0,
                "instances": [{"name": "a", "state": "healthy"}, {"name": "b", "state": "silent"}],
            }, {
                "service": "default/reg", "verdict": "healthy", "requestsPerSecond": 0.0, "errorRate": null, "p50Ms": null, "p99Ms": null,
                "instances": [{"name": "c", "state": "unhealthy"}, {"name": "d", "state": "healthy"}],
            }],
        });
        let text = render(&shown);
        for part in [
            "default/cart/a  spiffe://a/b  127.0.0.1:1  connected",
            "default/a  cart      10.0.0.1  silent                                           25 tcp-server-first, 80 http",
            "default/b  cart      10.0.0.2  silent for 100 s, kept",
            "default/g  cart      10.0.0.7  silent for 149 s, kept, and not called for cart",
            "default/c  cart      10.0.0.3  not well",
            "default/d  cart      10.0.0.4  registered",
            "default/e  cart      10.0.0.5  silent for 9 s, not called: draining",
            "default/f  cart      10.0.0.6  left, not called in clear text",
            "default/h  cart      10.0.0.8  replaced by default/bank-1 at its address",
            &format!("the service default/reg has gone{PLAIN} with its last instance, and default/cart/a asks for it"),
            "fell silent at once",
            "the state cannot be stored",
            &format!(
                "there is no service default/carr{PLAIN}, which default/cart/a asks for; did you mean default/cart?"
            ),
            "is not called at 10.0.0.9:80: no tunnel leads there, and MeshPolicy default/cart wants one; 1 with one are called",
            &format!("default/cart  {RED}failing{PLAIN}  1/2        3.0/s     75.0 %  2.0 ms  40 ms"),
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(text.contains("is refused by default/cart/a: no port"), "{text}");
    }
}
