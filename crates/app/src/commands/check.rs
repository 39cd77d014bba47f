//! `transept check FILE...`: every error at once, and the status that each object would get.
//!
//! It runs what a gateway runs up to the sockets: the same loader, attachment and compile. What only a running gateway can know
//! (a port that is taken, an address of another machine, a DNS name without an answer) it does not judge.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};
use transept_control::{Loader, Outcome};
use transept_model::place::{Invalid, Note};
use transept_model::status::{Condition, Truth};

use super::Exit;
use crate::console::{self, GREEN, PLAIN, RED, YELLOW};
use crate::report::{self, Severity};
use crate::table;

const EXAMPLES: &str = "\
Examples:
  transept check shop.yaml
  transept check /etc/transept -o json
  generate | transept check -

Exit codes: 0 nothing to say, 1 findings, 2 wrong usage.";

/// Check configuration files: all errors, and the status each object would get
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// YAML or JSON files, directories of them, or `-` for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Form of the result
    #[arg(short, long, env = "TRANSEPT_OUTPUT", value_enum, default_value = "table")]
    output: Output,
}

/// Form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people
    Table,
    /// YAML
    Yaml,
    /// JSON
    Json,
}

/// Everything that a check finds.
struct Findings {
    errors: Vec<Invalid>,
    problems: Vec<Invalid>,
    notes: Vec<Note>,
    objects: Value,
}

/// Checks and prints.
pub(crate) fn run(args: Args) -> Result<Exit> {
    let Some(sources) = super::run::collect(&args.files)? else {
        return Ok(Exit::Findings);
    };
    let findings = match Loader::for_checking().load(sources.read()) {
        Outcome::Loaded(loaded) => Findings {
            errors: Vec::new(),
            problems: loaded.problems.clone(),
            notes: loaded.notes.clone(),
            objects: loaded.settled.status.to_json(),
        },
        Outcome::Refused(refused) => Findings {
            errors: refused.invalid.clone(),
            // What is not valid is a problem of its targets as well, and need not be said twice.
            problems: refused.problems.iter().filter(|one| !refused.invalid.contains(one)).cloned().collect(),
            notes: refused.notes.clone(),
            objects: refused.status.to_json(),
        },
    };
    match args.output {
        Output::Table => console::print(&findings.render())?,
        Output::Yaml => console::print_yaml(&findings.to_json())?,
        Output::Json => console::print_json(&findings.to_json())?,
    }
    if findings.errors.is_empty() && findings.problems.is_empty() { Ok(Exit::Fine) } else { Ok(Exit::Findings) }
}

impl Findings {
    fn to_json(&self) -> Value {
        let list = |severity: Severity, all: &[Invalid]| -> Value {
            all.iter().map(|invalid| report::to_json(severity, invalid)).collect()
        };
        json!({
            "errors": list(Severity::Error, &self.errors),
            "problems": list(Severity::Problem, &self.problems),
            "notes": self.notes.iter().map(ToString::to_string).collect::<Value>(),
            "objects": self.objects,
        })
    }

    /// Whether a policy is attached to nothing, and so to nothing that could fail closed.
    fn misses_targets(&self) -> bool {
        let mut waiting = vec![&self.objects];
        while let Some(value) = waiting.pop() {
            match value {
                Value::Array(items) => waiting.extend(items),
                Value::Object(fields) if fields.get("reason").is_some_and(|reason| reason == "TargetNotFound") => {
                    return true;
                }
                Value::Object(fields) => waiting.extend(fields.values()),
                _ => {}
            }
        }
        false
    }

    fn render(&self) -> String {
        let mut out = String::new();
        for (severity, all) in [(Severity::Error, &self.errors), (Severity::Problem, &self.problems)] {
            for invalid in all {
                out.push_str(&report::show(severity, invalid));
                out.push('\n');
            }
        }
        for note in &self.notes {
            out.push_str(&format!("note: {note}\n\n"));
        }
        if let Some(objects) = self.objects.as_array().filter(|all| !all.is_empty()) {
            out.push_str(&render_objects(objects));
            out.push('\n');
        }
        let counts =
            format!("{}, {}", report::count(self.errors.len(), "error"), report::count(self.problems.len(), "problem"));
        let verdict = match (self.errors.is_empty(), self.problems.is_empty()) {
            (true, true) => format!("{GREEN}ok{PLAIN}: {counts}"),
            (true, false) => {
                let but = match self.misses_targets() {
                    true => "; but a policy whose target is not there protects nothing",
                    false => "",
                };
                format!("{YELLOW}{counts}{PLAIN}: it would run, and what the problems concern fails closed{but}")
            }
            (false, true) => format!("{RED}{counts}{PLAIN}: it would be refused"),
            (false, false) => {
                format!("{RED}{counts}{PLAIN}: it would be refused; some problems may come from the errors")
            }
        };
        out.push_str(&verdict);
        out.push('\n');
        out
    }
}

/// Objects with their status, in Kubernetes' shape, as a table; `transept status` shows the same.
pub(super) fn render_objects(objects: &[Value]) -> String {
    let mut rows = Vec::new();
    for object in objects {
        let metadata = &object["metadata"];
        let name = match metadata["namespace"].as_str() {
            Some(namespace) => format!("{namespace}/{}", text(&metadata["name"])),
            None => text(&metadata["name"]).to_owned(),
        };
        let kind = text(&object["kind"]).to_owned();
        rows.extend(rows_of(&kind, &name, &object["status"]));
    }
    table::lay_out(&["KIND", "NAME", "PART", "CONDITIONS"], &rows)
}

/// One row per set of conditions of an object.
fn rows_of(kind: &str, name: &str, status: &Value) -> Vec<Vec<String>> {
    let row =
        |part: String, conditions: &Value| vec![kind.to_owned(), name.to_owned(), part, write_conditions(conditions)];
    let mut rows = Vec::new();
    if status["conditions"].is_array() {
        rows.push(row(String::new(), &status["conditions"]));
    }
    for listener in items(&status["listeners"]) {
        let kinds: Vec<&str> = items(&listener["supportedKinds"]).iter().map(|kind| text(&kind["kind"])).collect();
        let routes = listener["attachedRoutes"].as_u64().unwrap_or(0);
        let part = format!(
            "listener {}: {} ({})",
            text(&listener["name"]),
            report::count(usize::try_from(routes).unwrap_or(usize::MAX), "route"),
            kinds.join(" ")
        );
        rows.push(row(part, &listener["conditions"]));
    }
    for parent in items(&status["parents"]) {
        let part = format!("on {}", write_ref(&parent["parentRef"]));
        rows.push(row(part, &parent["conditions"]));
    }
    for ancestor in items(&status["ancestors"]) {
        let part = format!("on {}", write_ref(&ancestor["ancestorRef"]));
        rows.push(row(part, &ancestor["conditions"]));
    }
    if rows.is_empty() {
        rows.push(vec![kind.to_owned(), name.to_owned()]);
    }
    rows
}

fn write_ref(reference: &Value) -> String {
    let mut out = format!("{} {}", text(&reference["kind"]), text(&reference["name"]));
    if let Some(section) = reference["sectionName"].as_str() {
        out.push('/');
        out.push_str(section);
    }
    out
}

/// What holds by name; what is wrong with reason and message; what goes without saying not at all.
fn write_conditions(conditions: &Value) -> String {
    let mut parts = Vec::new();
    for json in items(conditions) {
        let truth = match json["status"].as_str() {
            Some("True") => Truth::True,
            Some("False") => Truth::False,
            _ => Truth::Unknown,
        };
        let condition = Condition::new(
            text(&json["type"]).to_owned(),
            truth,
            text(&json["reason"]).to_owned(),
            text(&json["message"]),
        );
        if condition.is_trouble() {
            parts.push(format!(
                "{}={}/{} ({})",
                condition.kind,
                truth.as_str(),
                condition.reason,
                condition.message.trim_end_matches('.')
            ));
        } else if condition.kind == "Programmed" && condition.reason != "Programmed" && truth != Truth::Unknown {
            // No trouble, but not all of what its owner wrote.
            let equals = if truth == Truth::True { "" } else { "=False" };
            let message = condition.message.trim_end_matches('.');
            parts.push(format!("Programmed{equals}/{} ({message})", condition.reason));
        } else if truth == Truth::True {
            parts.push(condition.kind.into_owned());
        }
    }
    parts.join(" ")
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_shows_its_listeners_and_a_route_its_parents() {
        let objects = json!([
            {
                "kind": "Gateway",
                "metadata": {"namespace": "shop", "name": "web"},
                "status": {
                    "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""}],
                    "listeners": [{
                        "name": "http",
                        "attachedRoutes": 2,
                        "supportedKinds": [{"kind": "HTTPRoute"}, {"kind": "GRPCRoute"}],
                        "conditions": [{"type": "Conflicted", "status": "False", "reason": "NoConflicts", "message": ""}],
                    }],
                },
            },
            {
                "kind": "HTTPRoute",
                "metadata": {"namespace": "shop", "name": "cart"},
                "status": {"parents": [{
                    "parentRef": {"kind": "Gateway", "name": "web", "sectionName": "https"},
                    "conditions": [{"type": "Accepted", "status": "False", "reason": "NoMatchingParent", "message": "There is no such listener."}],
                }]},
            },
        ]);
        let shown = render_objects(items(&objects));
        assert!(shown.contains("shop/web"), "{shown}");
        assert!(shown.contains("listener http: 2 routes (HTTPRoute GRPCRoute)"), "{shown}");
        assert!(shown.contains("on Gateway web/https "), "{shown}");
        let policy = |status: &str, reason: &str| {
            let condition = json!({"type": "Programmed", "status": status, "reason": reason, "message": "Because."});
            json!([{
                "kind": "TrafficPolicy",
                "metadata": {"namespace": "shop", "name": "late"},
                "status": {"ancestors": [{"ancestorRef": {"kind": "Service", "name": "cart"}, "conditions": [condition]}]},
            }])
        };
        for (status, reason, expected) in [
            ("False", "Overridden", "Programmed=False/Overridden (Because)\n"),
            ("True", "PartiallyProgrammed", "Programmed/PartiallyProgrammed (Because)\n"),
            ("True", "Programmed", " Programmed\n"),
        ] {
            let shown = render_objects(items(&policy(status, reason)));
            assert!(shown.contains(expected), "{shown}");
        }
        assert!(shown.contains("Accepted=False/NoMatchingParent (There is no such listener)\n"), "{shown}");
    }
}
