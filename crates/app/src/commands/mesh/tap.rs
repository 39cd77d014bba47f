//! `transept mesh tap`: live requests of a service, as the proxies of its instances see them.
//!
//! The control plane tells those proxies what is wanted, and hands on what they tell, as long as this process listens.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::Value;
use transept_control::plane::{Question, TapFilter, Tapping};
use transept_model::load::DEFAULT_NAMESPACE;

use super::latency;
use crate::commands::Exit;
use crate::commands::asking::{check_domain, unanswered};
use crate::commands::control::StateArgs;
use crate::console::{self, FAINT, PLAIN, RED, YELLOW};

const EXAMPLES: &str = "\
Examples:
  transept mesh tap cart
  transept mesh tap cart --status 5xx --limit 10
  transept mesh tap shop/cart --method POST --path /items --from shop/web --json

The proxies of the service's instances tell of requests that have ended, those that a policy refused among them; a \
request that never reached them is in the graph and in the caller's access log. Nothing of header fields, queries or \
contents is told. Each proxy tells of 100 requests in a second at most; how many were left out is said. A tap ends \
after an hour.

Exit codes: 0 the limit is reached or an hour is over, 3 no control plane answers, or it has gone.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The service that is called, as `mesh status` shows it
    #[arg(value_name = "[NAMESPACE/]SERVICE")]
    service: String,

    /// Its namespace, where it is not written before the service [default: default]
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,

    /// Only requests with this method
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,

    /// Only requests whose path begins like this
    #[arg(long, value_name = "PATH", value_parser = parse_path)]
    path: Option<String>,

    /// Only requests with this status: 503, 5xx or 400-499
    #[arg(long, value_name = "STATUS", value_parser = parse_status)]
    status: Option<(u16, u16)>,

    /// Only requests of this caller: web, shop/web or a SPIFFE id
    #[arg(long, value_name = "IDENTITY")]
    from: Option<String>,

    /// End after so many requests
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    /// Print each request as a line of JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    state: StateArgs,
}

fn parse_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err(format!("a path begins with `/`: `/{text}`")) }
}

fn parse_status(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("`{text}` is no status; write 503, 5xx or 400-499");
    if let Some(class) = text.strip_suffix("xx") {
        let class: u16 = class.parse().ok().filter(|class| (1..=5).contains(class)).ok_or_else(wrong)?;
        return Ok((class * 100, class * 100 + 99));
    }
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().ok().filter(|status| (100..=599).contains(status)).ok_or_else(wrong);
    let (from, to) = (number(from)?, number(to)?);
    if from <= to { Ok((from, to)) } else { Err(wrong()) }
}

/// Namespace and name of the service that is meant.
fn name(service: &str, namespace: Option<&str>) -> Result<(String, String), String> {
    let (before, name) = match service.split_once('/') {
        Some((before, name)) => (Some(before), name),
        None => (None, service),
    };
    match (before, namespace) {
        (Some(before), Some(said)) if before != said => Err(format!(
            "`{service}` is in the namespace {before}, and --namespace says {said}; leave one of them away"
        )),
        _ if name.contains('/') || name.is_empty() || before == Some("") => {
            Err(format!("`{service}` is not a service; write cart, or shop/cart with its namespace"))
        }
        _ => Ok((before.or(namespace).unwrap_or(DEFAULT_NAMESPACE).to_owned(), name.to_owned())),
    }
}

/// Listens and prints.
pub(super) fn run(args: Args) -> Result<Exit> {
    check_domain(&args.state)?;
    let (namespace, service) = match name(&args.service, args.namespace.as_deref()) {
        Ok(name) => name,
        Err(why) => {
            console::fail(&why);
            return Ok(Exit::Usage);
        }
    };
    let filter =
        TapFilter { namespace, service, method: args.method, path: args.path, status: args.status, from: args.from };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let question = Question::Tap(filter.clone());
        let tapping = Tapping::begin(&args.state.directory(), filter).await;
        let tapping = tapping.map_err(|error| unanswered(error, &args.state, &question))?;
        console::tell(&greet(&tapping.begun));
        print_all(tapping, args.limit, args.json).await
    })
}

fn greet(begun: &Value) -> String {
    let service = begun["service"].as_str().unwrap_or_default();
    match begun["proxies"].as_u64() {
        Some(0) => {
            format!("{YELLOW}no proxy of {service} reports yet{PLAIN}; its requests are shown as soon as one does")
        }
        Some(1) => format!("listening to the requests of {service} at its proxy"),
        count => format!("listening to the requests of {service} at {} proxies", count.unwrap_or_default()),
    }
}

async fn print_all(mut tapping: Tapping, limit: Option<u64>, json: bool) -> Result<Exit> {
    let mut left = limit;
    loop {
        let Some(line) = tapping.next().await? else {
            console::fail("the control plane has gone");
            return Ok(Exit::Unreachable);
        };
        if let Some(why) = line["ended"].as_str() {
            console::tell(&format!("ended: {why}"));
            return Ok(Exit::Fine);
        }
        if let Some(count) = line["leftOut"].as_u64() {
            match json {
                true => console::print(&format!("{line}\n"))?,
                false => console::tell(&format!("{YELLOW}{count} more requests were left out{PLAIN}")),
            }
        }
        let request = &line["request"];
        if request.is_null() {
            continue;
        }
        console::print(&if json { format!("{request}\n") } else { render(request) })?;
        left = left.map(|left| left.saturating_sub(1));
        if left == Some(0) {
            return Ok(Exit::Fine);
        }
    }
}

/// One request as a line.
fn render(request: &Value) -> String {
    let text = |name: &str| plain(request[name].as_str().unwrap_or("-"));
    let number = |name: &str| request[name].as_u64().unwrap_or_default();
    let time = i64::try_from(number("timeMicros")).ok().and_then(|at| jiff::Timestamp::from_microsecond(at).ok());
    let time = time.map(|at| at.strftime("%H:%M:%S%.3f").to_string()).unwrap_or_default();
    let status = match number("status") {
        0 => "-".to_owned(),
        status if status >= 500 => format!("{RED}{status}{PLAIN}"),
        status if status >= 400 => format!("{YELLOW}{status}{PLAIN}"),
        status => status.to_string(),
    };
    #[expect(clippy::cast_precision_loss, reason = "a latency for people")]
    let took = latency(&Value::from(number("durationMicros") as f64 / 1000.0));
    let mut line = format!(
        "{FAINT}{time}{PLAIN}  {} -> {}  {} {}  {status}  {took}  {} B in, {} B out",
        caller(request["source"].as_str().unwrap_or_default()),
        text("workload"),
        text("method"),
        text("path"),
        number("bytesSent"),
        number("bytesReceived"),
    );
    // Writing to a String cannot fail.
    if !request["error"].is_null() {
        let _ = write!(line, "  {}", text("error"));
        if !request["detail"].is_null() {
            let _ = write!(line, ": {}", text("detail"));
        }
    }
    line.push('\n');
    line
}

/// `namespace/service` of an identity.
fn caller(identity: &str) -> String {
    match transept_identity::SpiffeId::parse(identity) {
        Ok(id) => match id.workload() {
            Some(workload) => format!("{}/{}", workload.namespace(), workload.service_account()),
            None => plain(identity),
        },
        Err(_) => "unknown".to_owned(),
    }
}

/// What a client has sent, so that it cannot move the cursor or hide: everything beyond visible ASCII as an escape.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for one in text.chars() {
        match one {
            ' '..='~' => out.push(one),
            one => out.extend(one.escape_unicode()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn statuses_are_numbers_classes_or_ranges() {
        assert_eq!(parse_status("503"), Ok((503, 503)));
        assert_eq!(parse_status("5xx"), Ok((500, 599)));
        assert_eq!(parse_status("400-499"), Ok((400, 499)));
        for wrong in ["", "6xx", "xx", "99", "499-400", "5x", "all"] {
            assert!(parse_status(wrong).is_err_and(|why| why.contains("5xx")), "{wrong}");
        }
        assert!(parse_path("items").is_err_and(|why| why.contains("/items")));
    }

    #[test]
    fn a_service_is_named_as_the_status_shows_it_or_with_its_namespace_apart() {
        let shop_cart = Ok(("shop".to_owned(), "cart".to_owned()));
        assert_eq!(name("cart", None), Ok(("default".to_owned(), "cart".to_owned())));
        for (service, namespace) in [("shop/cart", None), ("cart", Some("shop")), ("shop/cart", Some("shop"))] {
            assert_eq!(name(service, namespace), shop_cart);
        }
        assert!(name("shop/cart", Some("bank")).is_err_and(|why| why.contains("--namespace says bank")));
        for wrong in ["a/b/c", "/cart", "shop/", ""] {
            assert!(name(wrong, None).is_err_and(|why| why.contains("shop/cart")), "{wrong}");
        }
    }

    #[test]
    fn a_request_is_one_line_whatever_it_is_called() {
        let request = json!({
            "timeMicros": 1_763_700_000_123_456_u64, "source": "spiffe://transept.local/ns/default/sa/web", "workload": "cart-1",
            "method": "DELETE", "path": "/a\n\u{1b}[2J", "status": 403, "durationMicros": 1800, "bytesSent": 1, "bytesReceived": 20,
            "error": "access.not_authorized", "detail": "AuthorizationPolicy default/guard, rule no-deletes",
        });
        let line = render(&request);
        let expected = format!(
            "{FAINT}04:40:00.123{PLAIN}  default/web -> cart-1  DELETE /a\\u{{a}}\\u{{1b}}[2J  {YELLOW}403{PLAIN}  1.8 ms  1 B in, 20 B out  \
             access.not_authorized: AuthorizationPolicy default/guard, rule no-deletes\n"
        );
        assert_eq!(line, expected);
    }
}
