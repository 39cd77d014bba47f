//! The flags of the access log and what they mean for `proxy`, which writes it.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::str::FromStr;

use transept_proxy::{AccessLog, LogFormat, LogTarget};

/// Flags of the access log.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AccessLogArgs {
    /// Where access log lines go: `stdout`, `stderr`, `off` or a file that is appended to (SIGUSR1 opens it again after a
    /// rotation) [default: stdout; sidecar with a program: stderr; demo: off]
    #[arg(long, env = "TRANSEPT_ACCESS_LOG", value_name = "TARGET")]
    pub(crate) access_log: Option<Target>,

    /// What an access log line looks like; `auto` is text on a terminal and JSON elsewhere
    #[arg(long, env = "TRANSEPT_ACCESS_LOG_FORMAT", value_enum, default_value = "auto")]
    pub(crate) access_log_format: Shape,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nowhere.
    Off,
    /// To standard output.
    Stdout,
    /// To standard error.
    Stderr,
    /// To a file.
    File(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("an empty name is no file; write off, stdout, stderr or a file".to_owned()),
            "off" => Ok(Target::Off),
            "stdout" | "-" => Ok(Target::Stdout),
            "stderr" => Ok(Target::Stderr),
            file => Ok(Target::File(file.into())),
        }
    }
}

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shape {
    /// Text on a terminal, JSON elsewhere
    Auto,
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

impl AccessLogArgs {
    /// What to ask of the proxy; `None` is no access log.
    pub(crate) fn settle(&self) -> Option<AccessLog> {
        let target = match &self.access_log {
            Some(Target::Off) => return None,
            None | Some(Target::Stdout) => LogTarget::Stdout,
            Some(Target::Stderr) => LogTarget::Stderr,
            Some(Target::File(file)) => LogTarget::File(file.clone()),
        };
        let on_terminal = match target {
            LogTarget::Stdout => std::io::stdout().is_terminal(),
            LogTarget::Stderr => std::io::stderr().is_terminal(),
            LogTarget::File(_) => false,
        };
        let format = match self.access_log_format {
            Shape::Text => LogFormat::Text,
            Shape::Json => LogFormat::Json,
            Shape::Auto if on_terminal => LogFormat::Text,
            Shape::Auto => LogFormat::Json,
        };
        Some(AccessLog { target, format })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_json_unless_asked_otherwise() {
        let mut args =
            AccessLogArgs { access_log: Some(Target::File("/tmp/a.log".into())), access_log_format: Shape::Auto };
        assert_eq!(args.settle().map(|log| log.format), Some(LogFormat::Json));
        args.access_log_format = Shape::Text;
        assert_eq!(args.settle().map(|log| log.format), Some(LogFormat::Text));
        args.access_log = Some(Target::Off);
        assert_eq!(args.settle(), None);
        args.access_log = None;
        assert_eq!(args.settle().map(|log| log.target), Some(LogTarget::Stdout));
    }
}
