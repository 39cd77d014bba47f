//! The log of a running process: one line per event on standard error.
//!
//! Called once by the subcommands that serve. Text for a terminal, JSON lines otherwise, unless `--log` says which. The access
//! log is not written here: it has its own writer in `proxy`, off the hot path.

use std::io::IsTerminal;

use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::console;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Text when standard error is a terminal, JSON otherwise
    Auto,
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

impl Format {
    /// The format that lines really have.
    pub(crate) fn settle(self) -> Format {
        match self {
            Format::Auto if std::io::stderr().is_terminal() => Format::Text,
            Format::Auto => Format::Json,
            chosen => chosen,
        }
    }
}

/// Flags of every subcommand that serves.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LogArgs {
    /// Format of the log on standard error
    #[arg(long, env = "TRANSEPT_LOG", value_enum, default_value = "auto")]
    pub(crate) log: Format,

    /// What to log, for example `info`, `debug` or `info,transept_proxy=trace` [default: RUST_LOG, or info]
    #[arg(long, env = "TRANSEPT_LOG_LEVEL", value_name = "FILTER")]
    pub(crate) log_level: Option<String>,
}

/// Says where something listens, whatever else is logged: who has it choose a port waits for this line.
pub(crate) fn say_place(format: Format, message: &str) {
    match format.settle() {
        Format::Json => {
            let at = jiff::Timestamp::now();
            let record =
                json!({"timestamp": format!("{at:.6}"), "level": "INFO", "message": message, "target": "transept"});
            console::tell(&record.to_string());
        }
        _ => console::tell(message),
    }
}

/// Starts logging.
///
/// # Errors
/// The filter is not one.
pub(crate) fn start(args: &LogArgs) -> anyhow::Result<()> {
    let filter = match &args.log_level {
        Some(filter) => EnvFilter::try_new(filter).map_err(|error| anyhow::anyhow!("--log-level {filter}: {error}"))?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log.settle() {
        Format::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
        _ => {
            let colours = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
            builder.with_ansi(colours).with_target(false).compact().init();
        }
    }
    Ok(())
}
