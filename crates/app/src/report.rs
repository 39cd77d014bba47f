//! Shows findings to a person: the place, the offending line with a caret, why, and the remedy, in colours where wanted.
//!
//! Called by `check`, by `explain` and by the running gateway. The words are `model`'s ([`Invalid::snippet`]); here is only how
//! they look, and their JSON form.

use serde_json::{Value, json};
use transept_model::Invalid;

use crate::console::{BOLD, FAINT, GREEN, PLAIN, RED, YELLOW};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is loaded; what the finding concerns fails closed and says so in its status.
    Problem,
}

impl Severity {
    /// The word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Problem => "problem",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Severity::Error => RED,
            Severity::Problem => YELLOW,
        }
    }
}

/// A finding as several lines, with a newline at the end.
pub(crate) fn show(severity: Severity, invalid: &Invalid) -> String {
    let snippet = invalid.snippet();
    let mut lines = snippet.lines();
    let head = lines.next().unwrap_or_default();
    let mut out = format!("{}{}{PLAIN}{BOLD}: {head}{PLAIN}\n", severity.colour(), severity.word());
    for line in lines {
        let colour = match line.trim_start().split_once(' ') {
            Some(("|", rest)) if rest.trim_start().starts_with('^') => severity.colour(),
            Some(("=", _)) => GREEN,
            _ => FAINT,
        };
        out.push_str(colour);
        out.push_str(line);
        out.push_str(PLAIN);
        out.push('\n');
    }
    out
}

/// A finding as JSON.
pub(crate) fn to_json(severity: Severity, invalid: &Invalid) -> Value {
    json!({
        "severity": severity.word(),
        "file": &*invalid.at.file,
        "line": invalid.at.line,
        "column": invalid.at.column,
        "object": invalid.object.as_ref().map(|object| json!({
            "kind": object.kind.as_str(),
            "namespace": object.namespace.as_str(),
            "name": object.name.as_str(),
        })),
        "field": invalid.field,
        "why": invalid.why,
        "remedy": invalid.remedy,
    })
}

/// `1 error`, `2 errors`.
pub(crate) fn count(number: usize, word: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {word}{plural}")
}

#[cfg(test)]
mod tests {
    use transept_model::Place;

    use super::*;

    #[test]
    fn a_finding_keeps_its_words_and_gains_colours() {
        let mut invalid = Invalid::new(Place { file: "shop.yaml".into(), line: 3, column: 1 }, "unknown field `pth`");
        invalid.remedy("did you mean `path`?");
        invalid.line = Some("pth: /cart".into());
        let shown = show(Severity::Error, &invalid);
        let plain = anstream::adapter::strip_str(&shown).to_string();
        assert_eq!(plain, format!("error: {}\n", invalid.snippet()));
        assert!(shown.contains(RED) && shown.contains(GREEN));
        assert_eq!(count(1, "error"), "1 error");
        assert_eq!(count(0, "problem"), "0 problems");
    }
}
