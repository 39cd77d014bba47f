//! `transept status`: asks a running instance how it is and shows it on one screen.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::http::request::Builder;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::Exit;
use crate::console::{self, BOLD, FAINT, GREEN, PLAIN, RED, YELLOW};
use crate::table;

/// Longer answers are not ours.
const LONGEST: usize = 256 * 1024 * 1024;
/// How long the instance may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Addresses of a name that are shown; JSON has all of them.
const SHOWN_ADDRESSES: usize = 4;

const EXAMPLES: &str = "\
Examples:
  transept status
  transept status --admin http://127.0.0.1:9908 --json

Exit codes: 0 fine, 1 the last reload was refused, an object has a problem, a proxy of the mesh refuses one, a listener \
is not open or its certificate has ended, somebody whom policies ask does not answer, a backend has nobody who serves, the \
control plane of a member does not take it, or no traffic is to come: it is not ready, the program of a sidecar is not well or \
its registration is refused; 3 nobody answers.";

/// Show how a running instance is
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// URL or address of the admin server
    #[arg(long, env = "TRANSEPT_ADMIN", value_name = "URL", default_value = "http://127.0.0.1:9908")]
    admin: String,

    /// Print the whole status as JSON
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
pub(crate) fn run(args: Args) -> Result<Exit> {
    let url = if args.admin.contains("://") { args.admin.clone() } else { format!("http://{}", args.admin) };
    let authority = match url.parse::<Uri>() {
        Ok(uri) if uri.scheme_str() == Some("http") && uri.authority().is_some() => {
            uri.authority().map(ToString::to_string).unwrap_or_default()
        }
        _ => {
            console::fail(&format!(
                "`{}` is not the URL of an admin server, such as http://127.0.0.1:9908",
                args.admin
            ));
            return Ok(Exit::Usage);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, fetch(&authority, Request::get("/status"), Bytes::new()))
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {PATIENCE:?}")))
    });
    let status = match asked {
        Ok(status) => status,
        Err(error) => {
            console::fail(&format!("no instance answers at {url}: {error:#}"));
            return Ok(Exit::Unreachable);
        }
    };
    if args.json {
        console::print_json(&status)?;
    } else {
        console::print(&render(&console::harmless(&status)))?;
    }
    Ok(judge(&status))
}

/// The status of the instance whose admin server has this address or URL.
///
/// # Errors
/// It does not answer.
pub(super) fn of(admin: &str) -> Result<Value> {
    ask(admin, Request::get("/status"), Bytes::new())
}

/// What the limits are at of which these are questions, at the instance whose admin server has this address or URL.
///
/// # Errors
/// It does not answer.
pub(super) fn limits_of(admin: &str, questions: &Value) -> Result<Value> {
    let request = Request::post("/limits").header(CONTENT_TYPE, "application/json");
    ask(admin, request, questions.to_string().into())
}

fn ask(admin: &str, request: Builder, body: Bytes) -> Result<Value> {
    let authority = admin.strip_prefix("http://").unwrap_or(admin).trim_end_matches('/');
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(PATIENCE, fetch(authority, request, body)).await })?
}

async fn fetch(authority: &str, request: Builder, body: Bytes) -> Result<Value> {
    let address = if authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let stream = TcpStream::connect(&address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = request.header(HOST, authority).body(Full::new(body))?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        let hint = match response.status() {
            StatusCode::NOT_FOUND => "; a control plane is shown by `transept mesh status`",
            _ => "",
        };
        bail!("it answers {}{hint}", response.status());
    }
    let body = Limited::new(response.into_body(), LONGEST)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))?
        .to_bytes();
    serde_json::from_slice(&body).context("its answer is not JSON")
}

/// 1 when anything is found.
fn judge(status: &Value) -> Exit {
    let problems = status["problems"].as_array().is_some_and(|all| !all.is_empty());
    if problems || !findings(status).is_empty() { Exit::Findings } else { Exit::Fine }
}

/// What is wrong beside the problems of objects, in one line each; where it is shown says more.
fn findings(status: &Value) -> Vec<&'static str> {
    let is_closed = |listener: &Value| !listener["error"].is_null();
    let all = [
        (status["lastReload"]["ok"] == Value::Bool(false), "the last reload was refused; see above"),
        (is_refused(&status["objects"]), "proxies of the mesh refuse objects; see `Programmed` above"),
        (misses_helpers(status), "somebody whom policies ask does not answer; see above"),
        (misses_backends(status), "a backend has nobody who serves; see above"),
        (has_ended_certificate(status), "a certificate has ended; see above"),
        (is_not_taken(&status["mesh"]), "the control plane does not take this member as it is; see above"),
        (
            status["listeners"].as_array().is_some_and(|all| all.iter().any(is_closed)),
            "not every listener is open; see above",
        ),
        (is_out(status), "no traffic is to come here; see above"),
    ];
    all.into_iter().filter(|(is_so, _)| *is_so).map(|(_, what)| what).collect()
}

/// Whether nobody is left of a backend, as far as is known: of one with a policy, or of which an endpoint could not be reached.
fn misses_backends(status: &Value) -> bool {
    let is_deserted = |backend: &Value| {
        let endpoints = backend["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
        endpoints.iter().all(|one| one["state"] != "serving")
    };
    status["backends"].as_array().is_some_and(|all| all.iter().any(is_deserted)) || !deserted(status).is_empty()
}

/// The backends of a gateway without any endpoint. A sidecar knows nothing of most services until its program calls them.
fn deserted(status: &Value) -> Vec<&str> {
    let is_gateway = status["mesh"]["service"].is_null();
    let all = status["deserted"].as_array().into_iter().flatten().filter(|_| is_gateway);
    all.filter_map(Value::as_str).collect()
}

/// Whether a certificate of a listener has ended.
fn has_ended_certificate(status: &Value) -> bool {
    status["certificates"].as_array().is_some_and(|all| all.iter().any(has_ended))
}

fn has_ended(certificate: &Value) -> bool {
    let end = certificate["notAfter"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    end.is_some_and(|end| end <= jiff::Timestamp::now())
}

/// Whether a member and its control plane do not get on: one does not take the certificate of the other, or none comes that can be kept.
fn is_not_taken(member: &Value) -> bool {
    let is_told = member["connected"] == Value::Bool(true) && member["failure"].is_string();
    is_told || member["unbelieved"] == Value::Bool(true) || member["unkept"].is_string()
}

/// Whether no traffic is to come.
fn is_out(status: &Value) -> bool {
    let is_ready = status["readiness"].as_str().is_none_or(|readiness| readiness == "ready");
    let member = &status["mesh"];
    // One that waits for the control plane is called by who knows of it from before.
    let is_refused = member["registered"] != Value::Bool(true) && member["refused"].is_string();
    !is_ready || member["health"] == "Unhealthy" || is_refused
}

/// Whether a proxy of the mesh refuses one of these objects.
pub(super) fn is_refused(objects: &Value) -> bool {
    let mut waiting = vec![objects];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Array(items) => waiting.extend(items),
            Value::Object(fields)
                if value["type"] == "Programmed" && fields.get("reason").is_some_and(|one| one == "Refused") =>
            {
                return true;
            }
            Value::Object(fields) => waiting.extend(fields.values()),
            _ => {}
        }
    }
    false
}

/// A row for an address that is listened on, or should be.
fn render_listener(listener: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let state = match (listener["error"].as_str(), listener["nextAttempt"].as_str()) {
        (Some(error), Some(next)) => format!("{error}; the next attempt is at {next}"),
        (Some(error), None) => error.to_owned(),
        (None, _) => "listening".to_owned(),
    };
    vec![text(&listener["address"]), text(&listener["protocol"]), state]
}

/// Where a problem is: what stands in no file, such as a flag, has no line.
fn place(problem: &Value) -> String {
    let file = problem["file"].as_str().unwrap_or("-");
    match problem["line"].as_u64() {
        None | Some(0) => format!("{file}:"),
        Some(line) => format!("{file}:{line}:{}", problem["column"]),
    }
}

/// A row for a name of a backend: a few of its addresses, and why there are no newer ones.
fn render_name(name: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let addresses: Vec<String> = name["addresses"].as_array().into_iter().flatten().map(text).collect();
    let mut shown = addresses.iter().take(SHOWN_ADDRESSES).cloned().collect::<Vec<_>>().join(", ");
    if addresses.len() > SHOWN_ADDRESSES {
        shown.push_str(&format!(" and {} more", addresses.len() - SHOWN_ADDRESSES));
    }
    if let Some(error) = name["error"].as_str() {
        let before = if shown.is_empty() { String::new() } else { format!("{shown}, from before: ") };
        shown = format!("{before}it does not resolve ({error})");
    }
    vec![text(&name["name"]), text(&name["backend"]), shown]
}

/// A row for a backend with a policy: how many endpoints serve, which do not, and why.
fn render_backend(backend: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let empty = Vec::new();
    let endpoints = backend["endpoints"].as_array().unwrap_or(&empty);
    let (serving, others): (Vec<&Value>, Vec<&Value>) = endpoints.iter().partition(|one| one["state"] == "serving");
    let others: Vec<String> = others
        .iter()
        .map(|one| match one["why"].as_str() {
            Some(why) => format!("{} {} ({why})", text(&one["address"]), text(&one["state"])),
            None => format!("{} {}", text(&one["address"]), text(&one["state"])),
        })
        .collect();
    let others = if others.is_empty() { "-".to_owned() } else { others.join(", ") };
    vec![text(&backend["name"]), format!("{} of {}", serving.len(), endpoints.len()), others]
}

/// Tables of those on whom decisions about requests depend: stores of limits, services that are asked, and documents of identity providers.
fn render_helpers(status: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let empty = Vec::new();
    let rows = |list: &str, row: &dyn Fn(&Value) -> Vec<String>| -> Vec<Vec<String>> {
        status[list].as_array().unwrap_or(&empty).iter().map(row).collect()
    };
    let mut out = String::new();
    let stores = rows("stores", &|one| vec![text(&one["store"]), text(&one["state"])]);
    if !stores.is_empty() {
        out.push('\n');
        out.push_str(&table::lay_out(&["STORE OF LIMITS", "STATE"], &stores));
    }
    let services = rows("services", &|one| vec![text(&one["policy"]), text(&one["state"])]);
    if !services.is_empty() {
        out.push('\n');
        out.push_str(&table::lay_out(&["ASKED BY", "STATE"], &services));
    }
    if status["quotas"] == "unwritten" {
        out.push_str("\nWhat is used of quotas cannot be written to the disk. The log says why.\n");
    }
    if status["logouts"] == "unread" {
        out.push_str(
            "\nThe file of quotas cannot be read, and so not which sessions have ended: who was logged in has to log in again. The log says \
             what to do.\n",
        );
    }
    let documents = rows("documents", &|one| {
        let state = one["error"].as_str().map_or("fresh".to_owned(), |why| format!("the last fetch failed: {why}"));
        vec![text(&one["url"]), one["keys"].to_string(), state]
    });
    if !documents.is_empty() {
        out.push('\n');
        out.push_str(&table::lay_out(&["DOCUMENT", "KEYS", "STATE"], &documents));
    }
    out
}

/// Whether one of those is away.
fn misses_helpers(status: &Value) -> bool {
    let any = |list: &str, is_away: &dyn Fn(&Value) -> bool| {
        status[list].as_array().is_some_and(|all| all.iter().any(is_away))
    };
    any("stores", &|one| one["state"] == "away")
        || any("services", &|one| one["state"] == "away")
        || status["logouts"] == "unread"
        || status["quotas"] == "unwritten"
        || any("documents", &|one| one["error"].is_string())
}

/// A few lines about the membership in the mesh; nothing when there is none.
fn render_member(member: &Value) -> String {
    let Some(identity) = member["identity"].as_str() else { return String::new() };
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let ends = text(&member["certificateEnds"]);
    if let Some(at) = member["control"]["address"].as_str() {
        let (proxies, workloads) = (&member["control"]["proxies"], &member["control"]["workloads"]);
        return format!(
            "{identity}, certificate until {ends}\ncontrol plane in this process, on {at}: sidecars connected {proxies}, workloads \
             registered {workloads}\n"
        );
    }
    let control = match (member["connected"].as_bool(), member["failure"].as_str()) {
        (Some(true), None) => format!("{GREEN}connected{PLAIN}"),
        (Some(true), Some(why)) => format!("{YELLOW}connected{PLAIN}, but {why}"),
        (_, Some(why)) if member["unbelieved"] == Value::Bool(true) => {
            format!("{RED}cut off{PLAIN} ({why}); what it said last is in force")
        }
        (_, Some(why)) => format!("{YELLOW}away{PLAIN} ({why}); what it said last is in force"),
        (_, None) => format!("{YELLOW}away{PLAIN}; what it said last is in force"),
    };
    let registered = match (member["tunnels"].as_str(), member["registered"].as_bool(), member["refused"].as_str()) {
        (None, _, _) => "not registered, because nobody can call it".to_owned(),
        (Some(at), Some(true), _) => format!("registered as {}, tunnels come in on {at}", text(&member["instance"])),
        (Some(_), _, Some(why)) => format!("{RED}not registered{PLAIN}: {why}"),
        (Some(_), _, None) if member["connected"] == Value::Bool(true) => "not registered yet".to_owned(),
        (Some(_), _, None) => "not registered now; that follows when the control plane is back".to_owned(),
    };
    // A gateway registers nothing.
    let registered = if member["service"].is_null() { String::new() } else { format!("{registered}\n") };
    let health = match member["health"].as_str() {
        Some("Unhealthy") => format!("{RED}the program is not well{PLAIN}; the log says why\n"),
        Some("Draining") => "stopping: nobody is to call the program any more\n".to_owned(),
        _ => String::new(),
    };
    let unkept = member["unkept"].as_str().map(|why| {
        format!("{YELLOW}the certificate cannot be written to the disk{PLAIN}: {why}; a restart would begin with an older one\n")
    });
    let unkept = unkept.unwrap_or_default();
    format!("{identity}, certificate until {ends}\ncontrol plane {control}\n{unkept}{registered}{health}")
}

/// Tables of names of backends and of their endpoints, as far as something is to be said of them.
fn render_backends(status: &Value) -> String {
    let (empty, mut out) = (Vec::new(), String::new());
    let list = |value: &Value| value.as_array().unwrap_or(&empty).clone();
    let names: Vec<Vec<String>> = list(&status["names"]).iter().map(render_name).collect();
    if !names.is_empty() {
        out.push('\n');
        out.push_str(&table::lay_out(&["NAME", "BACKEND", "ADDRESSES"], &names));
    }
    let backends: Vec<Vec<String>> = list(&status["backends"]).iter().map(render_backend).collect();
    if !backends.is_empty() {
        out.push('\n');
        out.push_str(&table::lay_out(&["BACKEND", "SERVING", "NOT SERVING"], &backends));
    }
    let deserted = deserted(status);
    if !deserted.is_empty() {
        out.push_str(&format!("\n{YELLOW}without any endpoint{PLAIN}: {}\n", deserted.join(", ")));
    }
    out
}

fn render(status: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut out = format!(
        "{BOLD}transept {}{PLAIN}  {}  configuration generation {}, loaded {}\n",
        text(&status["version"]),
        text(&status["readiness"]),
        status["generation"],
        text(&status["loadedAt"]),
    );
    out.push_str(&render_member(&status["mesh"]));
    let reload = &status["lastReload"];
    if reload["ok"] == Value::Bool(false) {
        out.push_str(&format!(
            "{RED}the last reload, {}, was refused; the configuration before it stays:{PLAIN}\n{}\n",
            text(&reload["at"]),
            text(&reload["error"]),
        ));
    }
    let empty = Vec::new();
    let list = |value: &Value| value.as_array().unwrap_or(&empty).clone();

    let binds: Vec<Vec<String>> = list(&status["listeners"]).iter().map(render_listener).collect();
    if !binds.is_empty() {
        out.push('\n');
        out.push_str(&table::lay_out(&["ADDRESS", "PROTOCOL", "STATE"], &binds));
    } else if status["mesh"]["service"].is_null() {
        // A sidecar may have nobody to let in or out.
        out.push_str(&format!(
            "\n{YELLOW}nothing is listened on: no Gateway has a listener that can be served{PLAIN}\n"
        ));
    }
    out.push_str(&render_backends(status));
    let learned: Vec<Vec<String>> = list(&status["learned"])
        .iter()
        .map(|one| vec![text(&one["listener"]), text(&one["protocol"]), text(&one["by"])])
        .collect();
    if !learned.is_empty() {
        out.push('\n');
        out.push_str(&table::lay_out(&["PORT", "HAS SPOKEN", "HEARD BY"], &learned));
    }
    out.push_str(&render_helpers(status));
    let certificates: Vec<Vec<String>> = list(&status["certificates"])
        .iter()
        .map(|one| {
            let end = text(&one["notAfter"]);
            let end = if has_ended(one) { format!("{end}, which is over") } else { end };
            vec![text(&one["name"]), text(&one["listener"]), end]
        })
        .collect();
    if !certificates.is_empty() {
        out.push('\n');
        let heads = ["CERTIFICATE", "LISTENER", "UNTIL"];
        out.push_str(&table::lay_out(&heads, &certificates));
    }
    let objects = list(&status["objects"]);
    if !objects.is_empty() || status["mesh"]["service"].is_null() {
        out.push('\n');
        out.push_str(&super::check::render_objects(&objects));
    }

    out.push_str(&render_findings(status));
    out
}

/// What is wrong, or that nothing is.
fn render_findings(status: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let (empty, mut out) = (Vec::new(), String::new());
    let list = |value: &Value| value.as_array().unwrap_or(&empty).clone();
    let problems = list(&status["problems"]);
    let findings = findings(status);
    for finding in &findings {
        out.push_str(&format!("\n{YELLOW}{finding}{PLAIN}\n"));
    }
    if findings.is_empty() && problems.is_empty() {
        out.push_str(&format!("\n{GREEN}no problem{PLAIN}\n"));
    }
    if !problems.is_empty() {
        out.push_str(&format!("\n{YELLOW}problems{PLAIN}\n"));
        for problem in &problems {
            out.push_str(&format!(
                "  {} {}{FAINT}{}{PLAIN}\n",
                place(problem),
                text(&problem["why"]),
                problem["remedy"].as_str().map(|remedy| format!("  {remedy}")).unwrap_or_default(),
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_stands_in_no_file_has_no_line() {
        assert_eq!(place(&json!({"file": "a.yaml", "line": 3, "column": 7})), "a.yaml:3:7");
        assert_eq!(place(&json!({"file": "--upstream a=1", "line": 0, "column": 0})), "--upstream a=1:");
    }

    #[test]
    fn a_member_of_the_mesh_says_who_it_is_and_what_holds_without_a_control_plane() {
        assert_eq!(render_member(&Value::Null), "");
        let member = serde_json::json!({
            "identity": "spiffe://transept.local/ns/default/sa/cart",
            "service": "cart",
            "instance": "cart-1",
            "tunnels": "10.0.0.7:15008",
            "connected": false,
            "registered": true,
            "failure": "10.0.0.1:9909: refused",
            "certificateEnds": "2026-11-22T00:00:00Z",
        });
        let shown = render_member(&member);
        for part in ["sa/cart, certificate until 2026-11-22", "(10.0.0.1:9909: refused)", "registered as cart-1"] {
            assert!(shown.contains(part), "{shown}");
        }
        let gateway = serde_json::json!({
            "identity": "spiffe://transept.local/ns/default/sa/edge",
            "connected": false,
            "unbelieved": true,
            "failure": "10.0.0.1:9909 refuses the certificate of this proxy",
            "certificateEnds": "2026-11-22T00:00:00Z",
        });
        let shown = render_member(&gateway);
        assert!(shown.contains("cut off") && !shown.contains("registered"), "{shown}");
        let embedded = serde_json::json!({
            "identity": "spiffe://transept.local/ns/default/sa/edge",
            "certificateEnds": "2026-11-22T00:00:00Z",
            "control": {"address": "127.0.0.1:9909", "proxies": 3, "workloads": 2},
        });
        let shown = render_member(&embedded);
        assert!(shown.contains("on 127.0.0.1:9909: sidecars connected 3, workloads registered 2"), "{shown}");
    }

    #[test]
    fn whoever_takes_no_traffic_has_a_problem() {
        let status = |readiness: &str, health: &str| json!({"readiness": readiness, "mesh": {"identity": "spiffe://a/b", "service": "cart", "health": health}});
        assert_eq!(judge(&status("ready", "Healthy")), Exit::Fine);
        let ended = status("not ready: the certificate of this member of the mesh has ended", "Healthy");
        for (status, finding) in [(&ended, "certificate"), (&status("ready", "Unhealthy"), "not well")] {
            assert_eq!(judge(status), Exit::Findings);
            let shown = render(status);
            assert!(shown.contains(finding) && !shown.contains("no problem"), "{shown}");
        }
    }

    #[test]
    fn a_refused_reload_is_a_finding_and_is_shown() {
        let status = json!({
            "version": "1", "readiness": "ready", "generation": 3, "loadedAt": "then",
            "lastReload": {"ok": false, "at": "now", "error": "shop.yaml:1:1: bad"},
            "listeners": [{"address": "127.0.0.1:8080", "protocol": "HTTP", "error": null}],
            "names": [
                {"name": "a.test", "backend": "default/a", "addresses": ["10.0.0.1", "10.0.0.2"], "error": null},
                {"name": "b.test", "backend": "default/b", "addresses": ["10.0.0.3"], "error": "there is no such name"},
            ],
            "learned": [{"listener": "default/db/outbound-3306", "protocol": "tcp-server-first", "by": "instances"}],
            "objects": [], "problems": [],
        });
        assert_eq!(judge(&status), Exit::Findings);
        let shown = render(&status);
        assert!(shown.contains("shop.yaml:1:1: bad") && !shown.contains("no problem"), "{shown}");
        assert!(shown.contains("127.0.0.1:8080  HTTP      listening"));
        assert!(shown.contains("a.test  default/a  10.0.0.1, 10.0.0.2\n"), "{shown}");
        assert!(shown.contains("default/db/outbound-3306  tcp-server-first  instances\n"), "{shown}");
        assert!(shown.contains("10.0.0.3, from before: it does not resolve (there is no such name)"), "{shown}");
    }

    #[test]
    fn a_sidecar_that_may_not_register_has_a_problem() {
        let status = |refused: Value, registered: bool| {
            json!({"readiness": "ready", "problems": [], "mesh": {"identity": "spiffe://a/b", "service": "cart", "health": "Healthy",
                "tunnels": "10.0.0.7:15008", "registered": registered, "refused": refused}})
        };
        let taken = status("another instance of this name is there".into(), false);
        assert_eq!(judge(&taken), Exit::Findings);
        let shown = render(&taken);
        assert!(shown.contains("no traffic is to come here") && !shown.contains("no problem"), "{shown}");
        // It has no control plane now.
        assert_eq!(judge(&status(Value::Null, false)), Exit::Fine);
    }

    #[test]
    fn somebody_whom_policies_ask_and_who_is_away_is_a_finding() {
        let status =
            json!({"readiness": "ready", "problems": [], "stores": [{"store": "10.0.0.1:6379", "state": "away"}]});
        assert_eq!(judge(&status), Exit::Findings);
        let shown = render(&status);
        assert!(shown.contains("does not answer; see above") && !shown.contains("no problem"), "{shown}");
    }

    #[test]
    fn a_member_that_its_control_plane_does_not_take_is_a_finding() {
        let status = |member: Value| json!({"readiness": "ready", "problems": [], "mesh": member});
        let member = |more: &str, value: Value| {
            let mut member = json!({"identity": "spiffe://a/b", "connected": true, "certificateEnds": "then"});
            member[more] = value;
            member
        };
        assert_eq!(judge(&status(member("connected", true.into()))), Exit::Fine);
        for (member, shown_as) in [
            (member("failure", "it is valid only in 3600 s".into()), "connected, but it is valid only"),
            (member("unkept", "no space left".into()), "cannot be written to the disk: no space left"),
            (json!({"identity": "a", "connected": false, "unbelieved": true, "failure": "why"}), "cut off (why)"),
        ] {
            let status = status(member);
            assert_eq!(judge(&status), Exit::Findings, "{status}");
            let shown = anstream::adapter::strip_str(&render(&status)).to_string();
            assert!(shown.contains(shown_as) && !shown.contains("no problem"), "{shown}");
        }
    }

    #[test]
    fn whatever_keeps_requests_from_being_answered_is_a_finding() {
        let backend = |state: &str| json!({"name": "b", "endpoints": [{"address": "10.0.0.1:80", "state": state}]});
        for (list, good, bad, shown_as) in [
            ("backends", backend("serving"), backend("unwell"), "0 of 1"),
            ("backends", backend("serving"), json!({"name": "b", "endpoints": []}), "0 of 0"),
            (
                "certificates",
                json!({"notAfter": "2199-01-01T00:00:00Z"}),
                json!({"notAfter": "2020-01-01T00:00:00Z"}),
                "which is over",
            ),
            ("services", json!({"policy": "p", "state": "answers"}), json!({"policy": "p", "state": "away"}), "away"),
        ] {
            let status = |one: Value| json!({"readiness": "ready", "problems": [], list: [one]});
            assert_eq!(judge(&status(good)), Exit::Fine, "{list}");
            let bad = status(bad);
            assert_eq!(judge(&bad), Exit::Findings, "{list}");
            let shown = render(&bad);
            assert!(shown.contains(shown_as) && !shown.contains("no problem"), "{shown}");
        }
        assert_eq!(judge(&json!({"readiness": "ready", "quotas": "unwritten"})), Exit::Findings);
        let lost = json!({"readiness": "ready", "deserted": ["default/a:80"]});
        assert!(judge(&lost) == Exit::Findings && render(&lost).contains("without any endpoint"));
        assert_eq!(judge(&json!({"readiness": "ready", "deserted": ["a"], "mesh": {"service": "cart"}})), Exit::Fine);
    }

    #[test]
    fn a_healthy_instance_is_fine() {
        let status = json!({"lastReload": {"ok": true}, "problems": []});
        assert_eq!(judge(&status), Exit::Fine);
    }

    #[test]
    fn an_object_that_a_proxy_refuses_is_a_finding() {
        let of = |reason: &str| {
            let conditions =
                json!([{"type": "Programmed", "status": "False", "reason": reason, "message": "Refused by a (no)."}]);
            let parents = json!([{"parentRef": {"kind": "Service", "name": "cart"}, "conditions": conditions}]);
            let object = json!({"kind": "HTTPRoute", "metadata": {"name": "a"}, "status": {"parents": parents}});
            json!({"lastReload": {"ok": true}, "problems": [], "objects": [object]})
        };
        assert_eq!(judge(&of("Overridden")), Exit::Fine);
        assert_eq!(judge(&of("Refused")), Exit::Findings);
        let shown = render(&of("Refused"));
        assert!(shown.contains("Programmed=False/Refused (Refused by a (no))"), "{shown}");
        assert!(shown.contains("proxies of the mesh refuse objects") && !shown.contains("no problem"), "{shown}");
    }

    #[test]
    fn a_listener_that_is_not_open_is_a_finding() {
        let listener = json!({"address": "127.0.0.1:80", "protocol": "HTTP", "error": "taken", "nextAttempt": "soon"});
        let status = json!({"lastReload": {"ok": true}, "problems": [], "listeners": [listener]});
        assert_eq!(judge(&status), Exit::Findings);
        let shown = render(&status);
        assert!(shown.contains("taken; the next attempt is at soon"), "{shown}");
    }

    #[test]
    fn a_backend_tells_who_does_not_serve_and_why() {
        let row = render_backend(&json!({
            "name": "shop/cart:80", "policy": "TrafficPolicy shop/cart",
            "endpoints": [
                {"address": "10.0.0.1:80", "state": "serving", "why": null},
                {"address": "10.0.0.2:80", "state": "unwell", "why": "it answers 500"},
                {"address": "10.0.0.3:80", "state": "ejected", "why": null},
            ],
        }));
        assert_eq!(row, ["shop/cart:80", "1 of 3", "10.0.0.2:80 unwell (it answers 500), 10.0.0.3:80 ejected"]);
    }
}
