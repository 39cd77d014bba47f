//! `transept explain METHOD URL -f FILE...`: which route takes a request, and why, without sending it. With `tcp://HOST:PORT` alone,
//! the same of a connection.
//!
//! The decision is the engine's own, by the very functions that decide about traffic; here the request is described and the
//! answer is printed.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use transept_control::plane::{kept, kept_beside};
use transept_control::{Loader, Outcome, Reading, Sources};
use transept_engine::Snapshot;
use transept_engine::compile::mesh::{Station, compile_station};
use transept_engine::explain::{Ask, Explanation, Unlisted, explain};
use transept_engine::limit::inquiry::Inquiry;
use transept_engine::policies::MODEL_KINDS;
use transept_identity::{SpiffeId, TrustDomain, WorkloadName};
use transept_model::SourceText;
use transept_model::attach::{Locale, Surroundings, attach};
use transept_model::kinds::DEFAULT_TRUST_DOMAIN;

use super::Exit;
use crate::console::{self, BOLD, FAINT, GREEN, PLAIN, YELLOW};
use crate::report::{self, Severity};

const EXAMPLES: &str = "\
Examples:
  transept explain GET http://localhost:8080/cart -f shop.yaml
  transept explain POST https://api.shop.test/v1/orders -H 'x-user: 7' -f shop.yaml -f policies/
  transept explain GET http://localhost:8080/admin --client 203.0.113.9 -f shop.yaml --json
  transept explain GET http://localhost:8080/cart -H 'x-user: 7' -f shop.yaml --running
  transept explain GET http://cart/items --at shop/desk -f shop.yaml
  transept explain GET http://localhost:8080/ -H 'x-api-key: tr_live_...' -f shop.yaml --state DIR
  transept explain tcp://db:5432 --at shop/desk -f shop.yaml
  transept explain GET http://cart/items --at shop/cart --identity shop/desk -f shop.yaml

Nothing is sent: names are not resolved, backends are not asked. The backend is assumed to answer 200; so is a Service \
of which the files hold no endpoint, because its instances may have registered in the mesh. Limits are as if nobody \
had made a request before; with --running the process that runs is asked how much is left, which takes nothing of it, \
and which endpoints of a backend with a TrafficPolicy it leaves alone or finds unwell.";

/// Explain which route takes a request or a connection, and why
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Method, such as GET; none with `tcp://HOST:PORT`
    #[arg(value_name = "METHOD")]
    first: String,

    /// URL as the client has it; the port says which listener is asked
    url: Option<String>,

    /// Configuration: files, directories of them, or `-` for standard input; may be repeated
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Header field, as `name: value`; may be repeated
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    headers: Vec<String>,

    /// Address that the connection comes from
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    client: IpAddr,

    /// TLS server name, when it is not the host of the URL
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,

    /// Verified identity of the client: NAMESPACE/SERVICE, as policies name it, or a SPIFFE id
    #[arg(long, value_name = "IDENTITY", value_parser = parse_identity)]
    identity: Option<String>,

    /// Ask a workload of this Service instead of a gateway: its way out, or with `--identity` its way in
    #[arg(long, value_name = "[NAMESPACE/]SERVICE")]
    at: Option<String>,

    /// Take the ApiKeys and Consumers in the state of a control plane in, too: the directory that `transept run --mesh` or `transept control`
    /// has as its `--state`
    #[arg(long, value_name = "DIR", conflicts_with = "at")]
    state: Option<PathBuf>,

    /// Zone that the proxy is in, for policies about zones
    #[arg(long, env = "TRANSEPT_ZONE", value_name = "ZONE")]
    zone: Option<String>,

    /// Region of that zone
    #[arg(long, env = "TRANSEPT_REGION", value_name = "REGION")]
    region: Option<String>,

    /// Ask a gateway or sidecar that runs with these files how much is left of each limit, and how the endpoints stand; the URL is that of
    /// its admin server
    #[arg(long, value_name = "URL", num_args = 0..=1, require_equals = true, default_missing_value = "http://127.0.0.1:9908")]
    running: Option<String>,

    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Where the proxy is that is asked about.
    fn locale(&self) -> Locale {
        Locale::new(self.zone.as_deref(), self.region.as_deref())
    }
}

/// The SPIFFE id that is meant. NAMESPACE/SERVICE is that workload in the usual trust domain; policies that name it so mean it in any.
fn parse_identity(text: &str) -> Result<String, String> {
    let remedy = "write NAMESPACE/SERVICE, such as default/web, or a SPIFFE id, such as spiffe://transept.local/ns/default/sa/web";
    let wrong = |why: &dyn std::fmt::Display| format!("{why}; {remedy}");
    if text.starts_with("spiffe://") {
        return SpiffeId::parse(text).map(|id| id.as_str().to_owned()).map_err(|why| wrong(&why));
    }
    let (namespace, service) = text.split_once('/').ok_or_else(|| wrong(&"it is no identity"))?;
    let domain = TrustDomain::new(DEFAULT_TRUST_DOMAIN).map_err(|why| wrong(&why))?;
    let id = WorkloadName::new(namespace, service).and_then(|name| name.id(&domain)).map_err(|why| wrong(&why))?;
    Ok(id.as_str().to_owned())
}

/// Explains and prints.
pub(crate) fn run(args: Args) -> Result<Exit> {
    let mut ask = match describe(&args) {
        Ok(ask) => ask,
        Err(why) => {
            console::fail(&why);
            return Ok(Exit::Usage);
        }
    };
    let Some(sources) = super::run::collect(&args.files)? else {
        return Ok(Exit::Findings);
    };
    let reading = match read(&sources, args.state.as_deref()) {
        Ok(reading) => reading,
        Err(why) => {
            console::fail(&format!("{why:#}"));
            return Ok(Exit::Findings);
        }
    };
    let loaded = match Loader::for_checking().at(args.locale()).load(reading) {
        Outcome::Loaded(loaded) => loaded,
        Outcome::Refused(refused) => {
            for invalid in &refused.invalid {
                console::tell(report::show(Severity::Error, invalid).trim_end());
            }
            console::fail("the configuration is refused; there is nothing to explain");
            return Ok(Exit::Findings);
        }
    };
    let snapshot = match &args.at {
        None => Arc::clone(&loaded.snapshot),
        Some(service) => match beside(service, &sources.read().texts, &args) {
            Ok(snapshot) => snapshot,
            Err(why) => {
                console::fail(&why);
                return Ok(Exit::Findings);
            }
        },
    };
    let explanation = match &args.running {
        None => explain(&snapshot, &ask),
        Some(admin) => match explain_running(&snapshot, &mut ask, admin) {
            Ok(explanation) => explanation,
            Err(error) => {
                console::fail(&format!("no instance answers at {admin}: {error:#}"));
                return Ok(Exit::Unreachable);
            }
        },
    };
    if args.json {
        console::print_json(&explanation.to_json())?;
    } else {
        console::print(&paint(&explanation.to_text()))?;
    }
    Ok(Exit::Fine)
}

/// What the files hold, and beside it the keys in the state of a control plane where one is named.
fn read(sources: &Sources, state: Option<&Path>) -> Result<Reading> {
    let mut reading = sources.read();
    if let Some(directory) = state {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let kept = runtime.block_on(kept(directory))?;
        reading.texts.extend(kept_beside(&kept, &reading.texts));
    }
    Ok(reading)
}

/// The explanation with what the process knows that runs, whose admin server is `admin`.
fn explain_running(snapshot: &Snapshot, ask: &mut Ask, admin: &str) -> Result<Explanation> {
    let status = super::status::of(admin)?;
    // Instances register in a mesh; who is not in one has the files alone.
    ask.unlisted = if status["mesh"].is_null() { Unlisted::Nobody } else { Unlisted::Instances };
    let mut explanation = explain(snapshot, ask);
    let questions = explanation.inquiries.iter().map(Inquiry::to_json).collect();
    explanation.learn(&super::status::limits_of(admin, &questions)?);
    explanation.learn_states(&status["backends"]);
    Ok(explanation)
}

/// What the proxy beside a workload of a Service serves.
///
/// # Errors
/// A sentence for the user when there is no such Service, and who calls it is asked about.
fn beside(service: &str, texts: &[SourceText], args: &Args) -> Result<Arc<Snapshot>, String> {
    let (namespace, name) = service.split_once('/').unwrap_or(("default", service));
    // What is wrong with the objects has been said already.
    let world = transept_model::Loader::new(MODEL_KINDS).load(texts).world.of_workloads();
    let attached = attach(&world, &Surroundings { locale: args.locale(), ..Surroundings::default() });
    let station = match Station::beside(&world, namespace, name) {
        Some(station) => station,
        None if args.identity.is_some() => {
            return Err(format!(
                "there is no Service {namespace}/{name} in the files, so that nobody knows the ports on which it is called; add it, or leave \
                 --identity away to ask about the calls that {name} makes"
            ));
        }
        None => {
            console::tell(&format!(
                "{BOLD}note:{PLAIN} there is no Service {namespace}/{name} in the files; it is taken for a program that only calls"
            ));
            Station::of_caller(namespace, name)
        }
    };
    Ok(compile_station(&world, &attached, &station, None, 1).install())
}

/// The request that the command line describes.
fn describe(args: &Args) -> Result<Ask, String> {
    let mut ask = match &args.url {
        Some(url) if url.starts_with("tcp://") => {
            return Err(format!("a connection has no method; write `{url}` alone"));
        }
        Some(url) => Ask::new(&args.first, url)?,
        None if args.first.starts_with("tcp://") => Ask::new("CONNECT", &args.first)?,
        None => return Err("a method and a URL are needed, or `tcp://HOST:PORT`".to_owned()),
    };
    // A URL with an address says which socket is asked; a name may stand for any of them.
    let host = ask.authority.trim_end_matches(|c: char| c.is_ascii_digit());
    let host = host.strip_suffix(':').unwrap_or(&ask.authority);
    ask.address = host.trim_matches(['[', ']']).parse().ok();
    for header in &args.headers {
        let (name, value) =
            header.split_once(':').ok_or_else(|| format!("`{header}` is not a header; write `name: value`"))?;
        ask.add_field(name.trim(), value.trim())?;
    }
    ask.peer = args.client;
    ask.server_name.clone_from(&args.server_name);
    ask.identity.clone_from(&args.identity);
    ask.unlisted = Unlisted::Instances;
    ask.now.unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Ok(ask)
}

/// Puts the verbs in bold and tells the winner from the losers by colour.
fn paint(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for line in text.lines() {
        let inner = line.trim_start();
        match line.split_once(' ') {
            _ if inner.starts_with("won:") => out.push_str(&format!("{GREEN}{line}{PLAIN}")),
            _ if inner.starts_with("lost:") => out.push_str(&format!("{FAINT}{line}{PLAIN}")),
            Some(("close", rest)) => out.push_str(&format!("{YELLOW}close{PLAIN} {rest}")),
            Some(("reply", rest)) => out.push_str(&format!("{YELLOW}reply{PLAIN} {rest}")),
            Some((verb, rest)) if !verb.is_empty() => {
                out.push_str(&format!("{BOLD}{verb}{PLAIN} {rest}"));
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_named_as_policies_name_it_or_whole() {
        let web = "spiffe://transept.local/ns/default/sa/web";
        assert_eq!(parse_identity("default/web").as_deref(), Ok(web));
        assert_eq!(parse_identity(web).as_deref(), Ok(web));
        assert_eq!(parse_identity("spiffe://other.test/job").as_deref(), Ok("spiffe://other.test/job"));
        for garbage in ["garbage", "a/b/c", "/web", "default/", "spiffe://", "spiffe://a b/c", ""] {
            let why = parse_identity(garbage).expect_err(garbage);
            assert!(why.contains("write NAMESPACE/SERVICE"), "{garbage}: {why}");
        }
    }

    #[test]
    fn paint_changes_no_word() {
        let text =
            "request    GET http://a/\nroute      r at f:1\n           won:  a\n           lost: b\nreply      404 x\n";
        let painted = paint(text);
        assert_eq!(anstream::adapter::strip_str(&painted).to_string(), text);
        assert!(painted.contains(GREEN));
    }
}
