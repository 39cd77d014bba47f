//! Asking a control plane through its socket, and what is said when there is no answer.
//!
//! Called by the commands that look at a running mesh or change it. Whether a state is opened where nobody serves it is up to `token`.

use std::fmt;
use std::io::{self, ErrorKind};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use transept_control::plane::{Question, ask};

use super::control::StateArgs;

/// No control plane has answered; a command that ends with it ends as [`super::Exit::Unreachable`]. Displays as a sentence.
#[derive(Debug)]
pub(crate) struct Unanswered(String);

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unanswered {}

/// Asks the control plane that runs with a state.
///
/// # Errors
/// [`Unanswered`]; or it is another one than is meant, or refuses.
pub(super) fn question(state: &StateArgs, question: &Question) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    check_domain(state)?;
    runtime.block_on(ask(&state.directory(), question)).map_err(|error| unanswered(error, state, question))
}

/// Asks the same control plane once more, when something is done already: `done` says what, and what to do without the answer.
///
/// # Errors
/// [`Unanswered`], behind what is done.
pub(super) fn question_after(done: &str, state: &StateArgs, question: &Question) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(ask(&state.directory(), question));
    answer.map_err(|error| told(error, state, "")).with_context(|| done.to_owned())
}

/// Whether the control plane that runs with a state is that of the trust domain that is named, if one is.
///
/// # Errors
/// It is that of another one.
pub(super) fn check_domain(state: &StateArgs) -> Result<()> {
    let Some(domain) = state.trust_domain() else { return Ok(()) };
    let directory = state.directory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Who does not answer is told of when the real question is asked.
    let known = runtime.block_on(ask(&directory, &Question::Certificates)).ok();
    let known = known.as_ref().and_then(|shown| shown["trustDomain"].as_str());
    if let Some(known) = known.filter(|known| *known != domain.as_str()) {
        bail!(
            "the control plane with the state in {} is that of the trust domain {known}, and not of {domain}; leave --trust-domain away",
            directory.display()
        );
    }
    Ok(())
}

/// What is said of a question that was not answered.
pub(super) fn unanswered(error: io::Error, state: &StateArgs, question: &Question) -> anyhow::Error {
    told(error, state, &format!("; {}", and_now(question)))
}

/// The same, with what to do now at the end where somebody was there.
fn told(error: io::Error, state: &StateArgs, and_now: &str) -> anyhow::Error {
    let directory = state.directory();
    let shown = directory.display();
    let why = match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            format!(
                "no control plane runs with the state in {shown}: start `transept control` or `transept run --mesh` with it, or name \
                 another with --state DIR"
            )
        }
        ErrorKind::TimedOut | ErrorKind::WouldBlock => {
            format!("the control plane with the state in {shown} does not answer{and_now}")
        }
        ErrorKind::UnexpectedEof => {
            format!("the control plane with the state in {shown} ended before it had answered{and_now}")
        }
        ErrorKind::NotADirectory => {
            return anyhow!("--state {shown}: this is no directory; name that of the control plane's state");
        }
        ErrorKind::PermissionDenied => {
            return anyhow!("--state {shown}: {error}; ask as the user that the control plane runs as");
        }
        _ => return error.into(),
    };
    Unanswered(why).into()
}

/// What may have become of a question, and how that is seen.
fn and_now(question: &Question) -> &'static str {
    match question {
        Question::CreateToken { .. } => {
            "there may be a token that nobody has seen: `transept token list` shows it, and `transept token revoke` takes it back"
        }
        Question::RevokeToken { .. } => "`transept token list` shows whether the token is revoked",
        Question::PutKeys { .. } => {
            "the change may have been made: `transept key list` shows it, and `transept key revoke` takes a new key back that nobody has seen"
        }
        Question::Rotate | Question::Distrust { .. } => "it may have been done: `transept certs` shows it",
        _ => "nothing was to be changed: ask again",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        state: StateArgs,
    }

    #[test]
    fn what_is_not_answered_is_told_with_what_may_have_become_of_it() {
        let state = Line::parse_from(["transept", "--state", "/mesh"]).state;
        let told = |kind: ErrorKind, question: &Question| unanswered(kind.into(), &state, question);
        let put = Question::PutKeys { changes: Vec::new() };
        let died = told(ErrorKind::UnexpectedEof, &put);
        assert!(died.is::<Unanswered>());
        let text = died.to_string();
        assert!(text.contains("/mesh ended before") && text.contains("`transept key list`"), "{text}");
        let hangs = told(ErrorKind::TimedOut, &Question::Rotate);
        assert!(hangs.is::<Unanswered>() && hangs.to_string().contains("`transept certs` shows it"), "{hangs}");
        assert!(told(ErrorKind::TimedOut, &Question::Status).to_string().contains("ask again"));
        assert!(told(ErrorKind::ConnectionRefused, &put).to_string().starts_with("no control plane runs"));
        let gone = Line::parse_from(["transept", "--state", "/nowhere/mesh"]).state;
        let later = question_after("a root is announced", &gone, &Question::Certificates).expect_err("nobody is there");
        assert!(later.is::<Unanswered>() && format!("{later:#}").starts_with("a root is announced: no control plane"));
        let file = told(ErrorKind::NotADirectory, &put);
        assert!(
            !file.is::<Unanswered>() && file.to_string().starts_with("--state /mesh: this is no directory"),
            "{file}"
        );
    }
}
