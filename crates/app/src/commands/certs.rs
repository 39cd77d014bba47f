//! `transept certs`: every certificate of a mesh, its holder, and how much of its life is left.
//!
//! Asks the running control plane through its socket and judges what is late.

use anyhow::Result;
use serde_json::Value;
use transept_control::plane::Question;

use super::Exit;
use super::asking::{question, question_after};
use super::control::StateArgs;
use crate::console::{self, GREEN, PLAIN, YELLOW};
use crate::table;

const EXAMPLES: &str = "\
Examples:
  transept certs
  transept certs --state /var/lib/transept/control --json
  transept certs --rotate
  transept certs --distrust 1f6e0c9a

Leaves are renewed at half of their life: one that has less than a quarter left is not being renewed. A root is \
replaced by itself when a third of its life is left.

A leaf that is `away` is that of a proxy that is not connected now; one that is `refused` is of a root that was \
distrusted.

Exit codes: 0 fine, 1 a certificate has less than a quarter of its life left or is refused, 3 no control plane \
answers.";

/// Show the certificates of a mesh
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,

    /// Begin to replace the root: a new one is announced, signs once every proxy knows it, and the old one retires once every
    /// certificate is of the new one; connections that it vouched for live on
    #[arg(long)]
    rotate: bool,

    /// Take a root out at once, because its key may be in wrong hands: whoever has no certificate of another one is cut off, and
    /// open connections that it vouched for end. The fingerprint, or its first eight digits
    #[arg(long, value_name = "FINGERPRINT", conflicts_with = "rotate")]
    distrust: Option<String>,

    #[command(flatten)]
    state: StateArgs,
}

/// Asks and prints.
pub(crate) fn run(args: Args) -> Result<Exit> {
    let mut done = None;
    if args.rotate {
        question(&args.state, &Question::Rotate)?;
        done = Some("a new root is announced");
    }
    if let Some(root) = &args.distrust {
        question(&args.state, &Question::Distrust { root: root.to_ascii_lowercase() })?;
        done = Some("the root is distrusted");
    }
    let shown = match done {
        None => question(&args.state, &Question::Certificates)?,
        Some(done) => question_after(
            &format!("{done}, and only the list is missing: `transept certs` shows it"),
            &args.state,
            &Question::Certificates,
        )?,
    };
    if args.json {
        console::print_json(&shown)?;
    } else {
        console::print(&render(&console::harmless(&shown)))?;
    }
    Ok(if late(&shown).is_empty() { Exit::Fine } else { Exit::Findings })
}

fn late(shown: &Value) -> Vec<&Value> {
    let all = shown["certificates"].as_array().into_iter().flatten();
    // What stands for everybody unknown is an identity without a path, and nobody renews it.
    let has_holder =
        |one: &&Value| one["kind"] == "root" || one["id"].as_str().is_some_and(|id| id.matches('/').count() > 2);
    all.filter(has_holder)
        .filter(|one| !has_left(one))
        .filter(|one| {
            is_refused(one) || matches!(one["remaining"].as_str(), Some("quarter" | "tenth" | "ended" | "not_yet"))
        })
        .collect()
}

/// Whether nobody takes a certificate any more, however long it lives.
fn is_refused(one: &Value) -> bool {
    one["refused"] == Value::Bool(true)
}

/// Whether the holder has said that it ends, so that nobody waits for it.
fn has_left(one: &Value) -> bool {
    one["left"] == Value::Bool(true)
}

/// What brings the holder of a certificate back.
fn way_back(id: &str) -> String {
    let parts: Vec<&str> = id.rsplit('/').take(4).collect();
    let workload = match parts[..] {
        [service, "sa", "default", "ns"] => format!(" --service {service}"),
        [service, "sa", namespace, "ns"] => format!(" --service {service} --namespace {namespace}"),
        _ => String::new(),
    };
    format!("start its proxy again with a new token: `transept token create{workload}`")
}

/// What is wrong with a certificate that is late, and what to do about it.
fn what_to_do(one: &Value, shown: &Value) -> String {
    let id = one["id"].as_str().unwrap_or_default();
    match (one["kind"].as_str(), one["remaining"].as_str()) {
        (Some("root"), Some("not_yet")) if one["signs"] == Value::Bool(false) => {
            "this root is not valid yet by the clock of this machine; it will not sign until it is".to_owned()
        }
        (Some("root"), Some("not_yet")) => {
            "the root is not valid yet by the clock of this machine: nothing can be signed until it is".to_owned()
        }
        (Some("root"), _) => "the root has little of its life left; a new one is needed before it ends".to_owned(),
        // It renews itself, and nobody could send it a token.
        (_, Some("not_yet")) if one["holder"] == "control plane" => {
            "is not valid yet by the clock of this machine; another is made once that is right, or the root is valid by it".to_owned()
        }
        _ if one["holder"] == "control plane" => {
            "the control plane cannot renew its own certificate; its log says why".to_owned()
        }
        _ if is_refused(one) => format!("is refused, because its root is not trusted any more; {}", way_back(id)),
        (_, Some("not_yet")) => {
            "is not valid yet by the clock of this machine; its holder asks for another".to_owned()
        }
        (_, Some("ended")) if shown["clockInDoubt"] == Value::Bool(true) => {
            format!("has ended by the clock of this machine, which may be wrong; if it is right, {}", way_back(id))
        }
        (_, Some("ended")) => format!("has ended; {}", way_back(id)),
        _ => "is not being renewed: can its holder reach the control plane?".to_owned(),
    }
}

/// A row for a certificate.
fn row(one: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let until = jiff::Timestamp::from_second(one["notAfter"].as_i64().unwrap_or_default());
    let mut left = in_words(one["secondsLeft"].as_u64().unwrap_or_default());
    if is_refused(one) {
        left = "refused".to_owned();
    } else if has_left(one) {
        left.push_str(", stopped");
    } else if one["connected"] == Value::Bool(false) {
        left.push_str(", away");
    }
    vec![
        text(&one["kind"]),
        text(&one["holder"]),
        text(&one["id"]),
        until.map(|at| at.to_string()).unwrap_or_default(),
        left,
        one["fingerprint"].as_str().map(|root| short(root).to_owned()).unwrap_or_default(),
    ]
}

fn render(shown: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let rows: Vec<Vec<String>> = shown["certificates"].as_array().into_iter().flatten().map(row).collect();
    let mut out = table::lay_out(&["KIND", "HOLDER", "IDENTITY", "UNTIL", "LEFT", "FINGERPRINT"], &rows);
    match shown["stage"].as_str() {
        Some("announced") => out.push_str("\na new root is announced; it signs once every proxy knows it\n"),
        Some("signing") => {
            out.push_str("\nthe new root signs; the old one retires once every certificate is of the new one\n")
        }
        _ => {}
    }
    for one in shown["waiting"].as_array().into_iter().flatten() {
        out.push_str(&format!("  waits: {}\n", text(one)));
    }
    for one in shown["retiring"].as_array().into_iter().flatten() {
        let (root, left) = (text(&one["fingerprint"]), in_words(one["secondsLeft"].as_u64().unwrap_or_default()));
        out.push_str(&format!("\nroot {} is retired, and vouches for open connections alone: {left}\n", short(&root)));
    }
    let late = late(shown);
    if late.is_empty() {
        out.push_str(&format!("\n{GREEN}all of them are renewed in time{PLAIN}\n"));
    }
    for one in late {
        let warning = what_to_do(one, shown);
        out.push_str(&format!("\n{YELLOW}{}{PLAIN} {}: {warning}\n", text(&one["holder"]), text(&one["id"])));
    }
    out
}

/// How long that is.
fn in_words(seconds: u64) -> String {
    match seconds {
        0 => "ended".to_owned(),
        seconds if seconds < 3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        seconds if seconds < 2 * 86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// As much of a fingerprint as names a root.
fn short(fingerprint: &str) -> &str {
    fingerprint.get(..8).unwrap_or(fingerprint)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_certificate_that_is_not_renewed_is_a_finding() {
        let certificate = |remaining: &str| {
            json!({"kind": "leaf", "holder": "default/cart/a", "id": "spiffe://a/b", "notAfter": 0,
                "secondsLeft": 90, "remaining": remaining})
        };
        let shown = json!({"certificates": [certificate("half"), certificate("tenth")]});
        assert_eq!(late(&shown).len(), 1);
        let text = render(&shown);
        assert!(text.contains("default/cart/a  spiffe://a/b  1970-01-01T00:00:00Z  1m 30s"), "{text}");
        assert!(text.contains("is not being renewed"), "{text}");
        assert!(render(&json!({"certificates": [certificate("half")]})).contains("renewed in time"));
        assert!(render(&json!({"certificates": [certificate("not_yet")]})).contains("is not valid yet"));
    }

    #[test]
    fn a_certificate_of_a_distrusted_root_is_a_finding_however_long_it_lives() {
        let leaf = |id: &str, refused: bool| {
            json!({"kind": "leaf", "holder": "shop/cart/a", "id": id, "notAfter": 0, "secondsLeft": 86_000,
                "remaining": "plenty", "connected": false, "refused": refused})
        };
        let (cart, web) = ("spiffe://a/ns/shop/sa/cart", "spiffe://a/ns/default/sa/web");
        let text = render(&json!({"certificates": [leaf(cart, true), leaf(web, true)]}));
        assert!(text.contains("  refused") && !text.contains("renewed in time"), "{text}");
        assert!(text.contains("`transept token create --service cart --namespace shop`"), "{text}");
        assert!(text.contains("`transept token create --service web`"), "{text}");
        let away = json!({"certificates": [leaf(cart, false)]});
        assert!(late(&away).is_empty() && render(&away).contains("23h 53m, away"), "{}", render(&away));
    }

    #[test]
    fn who_has_stopped_in_order_is_no_finding() {
        let leaf = |left: bool| {
            json!({"kind": "leaf", "holder": "shop/cart/a", "id": "spiffe://a/ns/shop/sa/cart", "notAfter": 0, "secondsLeft": 90,
                "remaining": "tenth", "connected": false, "left": left})
        };
        let stopped = json!({"certificates": [leaf(true)]});
        assert!(late(&stopped).is_empty() && render(&stopped).contains("1m 30s, stopped"), "{}", render(&stopped));
        assert_eq!(late(&json!({"certificates": [leaf(false)]})).len(), 1);
    }

    #[test]
    fn the_control_plane_is_sent_no_token() {
        let own = json!({"kind": "leaf", "holder": "control plane", "id": "spiffe://a/ns/transept/sa/control", "notAfter": 0,
            "secondsLeft": 0, "remaining": "ended"});
        let text = render(&json!({"certificates": [own]}));
        assert!(text.contains("cannot renew its own certificate") && !text.contains("token"), "{text}");
    }

    #[test]
    fn a_clock_that_may_be_wrong_is_told_of() {
        let leaf = |holder: &str, remaining: &str| json!({"kind": "leaf", "holder": holder, "id": "spiffe://a/ns/shop/sa/cart", "notAfter": 0, "secondsLeft": 0, "remaining": remaining});
        let shown = json!({"certificates": [leaf("control plane", "not_yet")], "clockInDoubt": true});
        let text = render(&shown);
        assert!(
            text.contains("is not valid yet by the clock of this machine; another") && !text.contains("log"),
            "{text}"
        );
        let shown = |doubt: bool| json!({"certificates": [leaf("shop/cart/a", "ended")], "clockInDoubt": doubt});
        assert!(render(&shown(true)).contains("which may be wrong; if it is right, start its proxy again"));
        assert!(render(&shown(false)).contains("has ended; start its proxy again"));
    }

    #[test]
    fn a_retired_root_is_shown_and_is_no_finding() {
        let root = json!({"kind": "root", "holder": "control plane", "id": "spiffe://a", "notAfter": 0,
            "secondsLeft": 90, "remaining": "whole", "fingerprint": "00112233445566"});
        let retiring = json!([{"fingerprint": "8899aabbccddee", "until": 0, "secondsLeft": 7260}]);
        let shown = json!({"certificates": [root], "retiring": retiring});
        assert!(late(&shown).is_empty());
        let text = render(&shown);
        assert!(text.contains("1m 30s  00112233\n"), "{text}");
        assert!(text.contains("root 8899aabb is retired, and vouches for open connections alone: 2h 1m"), "{text}");
    }
}
