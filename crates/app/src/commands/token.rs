//! `transept token create|list|revoke`: the join tokens of a mesh.
//!
//! Asks the running control plane through its socket. When none runs, the state is opened directly; where there is none, it is made only
//! when that is asked for, so that a mistake in the directory makes no second mesh.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use serde_json::Value;
use transept_control::plane::store::StoreError;
use transept_control::plane::{Plane, Question, STARTING, StartError, ask, check_first_token};
use transept_identity::authority::LEAF_LIFE;
use transept_identity::token::Uses;

use super::Exit;
use super::asking::{check_domain, unanswered};
use super::control::StateArgs;
use crate::console::{self, FAINT, PLAIN};
use crate::{duration, table};

const EXAMPLES: &str = "\
Examples:
  transept token create --service cart                        good once, for a day
  transept token create --service cart --reusable --ttl 720h  for every instance, for a month
  transept token create --service cart > cart.token
  transept token create --service cart --state mesh --init    makes the state of a control plane
  transept token list
  transept token revoke 3f9a0c1b2d4e

A token lets one workload join as one service, and nothing else. The text holds the token, the fingerprint of the \
mesh's root and the identity; it is shown once and stored only as a hash. Revoking a token does not touch who has \
joined with it.";

/// Make, list and revoke the tokens with which workloads join a mesh
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token and print it
    Create(Create),
    /// Show all tokens, without their secrets
    List(List),
    /// Take a token back
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Service that the workload is an instance of
    #[arg(long, value_name = "NAME")]
    service: String,

    /// Namespace of the service
    #[arg(long, env = "TRANSEPT_NAMESPACE", value_name = "NAME", default_value = "default")]
    namespace: String,

    /// How long the token is good, such as 1h or 720h
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration::parse)]
    ttl: Duration,

    /// Good for any number of instances until it ends, instead of for one
    #[arg(long)]
    reusable: bool,

    /// Make the state when there is none yet, with the certificate authority of a new mesh
    #[arg(long)]
    init: bool,

    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Print as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    /// Name of the token, as `token list` shows it
    id: String,

    #[command(flatten)]
    state: StateArgs,
}

/// Does what is asked for.
pub(crate) fn run(args: Args) -> Result<Exit> {
    match args.action {
        Action::Create(create) => {
            let uses = if create.reusable { Uses::Many } else { Uses::Once };
            check_state(&create.state, create.init)?;
            if !is_there(&create.state)? {
                // Nothing is made for a token that cannot be.
                check_first_token(&create.namespace, &create.service, create.ttl).map_err(|why| anyhow!("{why}"))?;
            }
            let Create { namespace, service, ttl, .. } = create;
            let question = Question::CreateToken { namespace, service, uses, seconds: ttl.as_secs() };
            let made = put(&create.state, &question)?;
            let text = |field: &str| made[field].as_str().unwrap_or_default().to_owned();
            console::tell(&format!("token {} for {}", text("id"), text("workload")));
            console::print(&format!("{}\n", text("token")))?;
        }
        Action::List(list) => {
            check_state(&list.state, false)?;
            let tokens = put(&list.state, &Question::ListTokens)?;
            if list.json {
                console::print_json(&tokens)?;
            } else {
                console::print(&render(&tokens))?;
            }
        }
        Action::Revoke(revoke) => {
            check_state(&revoke.state, false)?;
            put(&revoke.state, &Question::RevokeToken { id: revoke.id.clone() })?;
            console::tell(&format!("token {} is revoked", revoke.id));
        }
    }
    Ok(Exit::Fine)
}

/// Whether the state that is named is there, unless it may be made.
fn check_state(state: &StateArgs, may_make: bool) -> Result<()> {
    if !may_make && !is_there(state)? {
        let directory = state.directory();
        let shown = directory.display();
        bail!(
            "there is no control plane's state in {shown}: start `transept control --state {shown}` first, correct --state, or say \
             `transept token create --init` to make a new mesh there"
        );
    }
    Ok(())
}

/// Whether the directory that is named holds the state of a control plane, or a part of it.
///
/// # Errors
/// It cannot be seen, because it is another user's.
fn is_there(state: &StateArgs) -> Result<bool> {
    let directory = state.directory();
    let holds = |file: &str| match directory.join(file).try_exists() {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(unanswered(error, state, &Question::ListTokens))
        }
        // What is wrong with it besides is told when it is opened.
        found => Ok(found.unwrap_or(false)),
    };
    Ok(holds("ca.pem")? || holds("state.redb")?)
}

/// Asks the control plane that runs, or answers from its state when none does.
///
/// # Errors
/// Neither can say it.
pub(super) fn put(state: &StateArgs, question: &Question) -> Result<Value> {
    let directory = state.directory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let began = Instant::now();
    // A state that nobody serves says so when it is opened.
    check_domain(state)?;
    loop {
        match runtime.block_on(ask(&directory, question)) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                match Plane::open(&directory, state.setup(LEAF_LIFE)?) {
                    // It waits for a while itself.
                    Err(StartError::Store(StoreError::Locked(_))) if began.elapsed() < STARTING => {}
                    opened => return opened?.answer(question).map_err(|error| anyhow!("{error}")),
                }
            }
            answered => return answered.map_err(|error| unanswered(error, state, question)),
        }
    }
}

fn render(tokens: &Value) -> String {
    let moment = |value: &Value| {
        let seconds = value.as_i64().unwrap_or_default();
        jiff::Timestamp::from_second(seconds).map(|at| at.to_string()).unwrap_or_default()
    };
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let rows: Vec<Vec<String>> = tokens
        .as_array()
        .into_iter()
        .flatten()
        .map(|token| {
            vec![
                text(&token["id"]),
                format!("{}/{}", text(&token["namespace"]), text(&token["service"])),
                text(&token["uses"]),
                token["used"].to_string(),
                moment(&token["ends"]),
            ]
        })
        .collect();
    if rows.is_empty() {
        return format!("{FAINT}no token; `transept token create` makes one{PLAIN}\n");
    }
    table::lay_out(&["ID", "WORKLOAD", "USES", "USED", "ENDS"], &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_names_tokens_and_not_their_secrets() {
        let token = json!({"id": "3f9a", "namespace": "shop", "service": "cart", "uses": "once", "used": 1, "ends": 0});
        assert!(render(&json!([])).contains("no token"));
        let shown = render(&json!([token]));
        assert_eq!(shown, "ID    WORKLOAD   USES  USED  ENDS\n3f9a  shop/cart  once  1     1970-01-01T00:00:00Z\n");
    }
}
