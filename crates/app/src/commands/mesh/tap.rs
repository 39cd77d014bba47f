//! `transept mesh tap`: live requests of a service, as the proxies of its instances see them.
//!
//! The control plane tells those proxies what is wanted, and hands on what they tell, as long as this process listens.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::Value;
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
