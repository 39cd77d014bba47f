//! Tells what happens to the configuration and the listeners: on the console for people, in the log for machines.
//!
//! Called by `gateway` and `sidecar` at start and after every update. With text output a finding is shown with its line and caret; with JSON
//! output it is one record with file, line and column. Nothing is decided here.

use transept_control::{Refused, Update};
use transept_model::Invalid;
use transept_proxy::BindOutcome;

use crate::logging::Format;
use crate::report::{self, Severity};
use crate::{console, gateway::binds};

/// Tells why there is nothing to start with.
pub(crate) fn refused_start(refused: &Refused, format: Format) {
    findings(Severity::Error, &refused.invalid, format);
    match format {
        Format::Json => {
            tracing::error!(errors = refused.invalid.len(), "the configuration is refused; nothing is started")
        }
        _ => console::fail(&format!(
            "the configuration is refused ({}); nothing is started",
            report::count(refused.invalid.len(), "error")
        )),
    }
}

/// Tells that an update is refused and the configuration before it stays.
pub(crate) fn refused_reload(update: &Update, refused: &Refused, format: Format) {
    findings(Severity::Error, &refused.invalid, format);
    tracing::error!(
        errors = refused.invalid.len(),
        generation = update.loaded.generation,
        "reload refused: the configuration of this generation stays in force"
    );
}

/// Tells that a configuration is in force, and what in it does not work.
pub(crate) fn loaded(update: &Update, format: Format) {
    let loaded = &update.loaded;
    findings(Severity::Problem, &loaded.problems, format);
    for note in &loaded.notes {
        tracing::info!("{note}");
    }
    tracing::info!(
        generation = loaded.generation,
        problems = loaded.problems.len(),
        milliseconds = update.took.as_micros() as f64 / 1000.0,
        "configuration loaded"
    );
}

/// What comes after an address could not be opened.
#[derive(Clone, Copy)]
pub(crate) enum Next {
    /// It is tried again.
    Retry,
    /// The process ends.
    End,
}

/// Tells which addresses are open and which are not, as far as that is news.
pub(crate) fn listeners(update: &Update, outcomes: &[BindOutcome], before: &[BindOutcome], next: Next) {
    let failure = match next {
        Next::Retry => "cannot listen, and will try again",
        Next::End => "cannot listen",
    };
    for outcome in outcomes {
        let was = before.iter().find(|was| was.address == outcome.address);
        let names = binds::names(&update.loaded.snapshot, outcome.address).join(", ");
        match (&outcome.bound, was.map(|was| &was.bound)) {
            (Ok(()), Some(Ok(()))) => {}
            (Ok(()), _) => opened_one(outcome, &names),
            (Err(error), _) => {
                tracing::error!(
                    address = %outcome.address,
                    listeners = names,
                    "{failure}: {}",
                    binds::explain(error)
                );
            }
        }
    }
    for was in before.iter().filter(|was| was.bound.is_ok()) {
        if outcomes.iter().all(|now| now.address != was.address) {
            tracing::info!(address = %was.address, "no longer listening");
        }
    }
}

/// Warns of a gateway that listens nowhere, when that is news: it is ready all the same, because a reload can change it.
pub(crate) fn nothing_served(outcomes: &[BindOutcome], before: Option<&[BindOutcome]>) {
    if outcomes.is_empty() && before.is_none_or(|before| !before.is_empty()) {
        tracing::warn!(
            "nothing is listened on: no Gateway here has a listener that can be served; `transept check FILE` shows which there are, and why not"
        );
    }
}

/// Tells which addresses are open now that were not before; a further attempt in vain is no news.
pub(crate) fn opened(update: &Update, outcomes: &[BindOutcome], before: &[BindOutcome]) {
    for outcome in outcomes.iter().filter(|outcome| outcome.bound.is_ok()) {
        let was_open = before.iter().any(|was| was.address == outcome.address && was.bound.is_ok());
        if !was_open {
            opened_one(outcome, &binds::names(&update.loaded.snapshot, outcome.address).join(", "));
        }
    }
}

fn opened_one(outcome: &BindOutcome, names: &str) {
    tracing::info!(address = %outcome.address, listeners = names, "listening");
}

fn findings(severity: Severity, all: &[Invalid], format: Format) {
    for invalid in all {
        if format == Format::Text {
            console::tell(report::show(severity, invalid).trim_end());
            continue;
        }
        let object = invalid.object.as_ref().map(ToString::to_string);
        tracing::warn!(
            severity = severity.word(),
            file = &*invalid.at.file,
            line = invalid.at.line,
            column = invalid.at.column,
            object,
            field = invalid.field,
            remedy = invalid.remedy,
            "{}",
            invalid.why
        );
    }
}
