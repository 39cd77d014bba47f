//! `transept version`: what this binary is.

use anyhow::Result;
use serde_json::json;

use super::Exit;
use crate::console;

/// The released version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The source revision, as `build.rs` found it out; `unknown` when it could not.
pub(crate) const REVISION: &str = env!("TRANSEPT_REVISION");
/// The Gateway API release whose kinds are read.
pub(crate) const GATEWAY_API: &str = "v1.6";

/// Print the version
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Prints version, revision, platform and the Gateway API release.
pub(crate) fn run(args: &Args) -> Result<Exit> {
    let platform = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    if args.json {
        console::print_json(&json!({
            "version": VERSION,
            "revision": REVISION,
            "gatewayApi": GATEWAY_API,
            "platform": platform,
        }))?;
    } else {
        console::print(&format!("transept {VERSION} (revision {REVISION}, Gateway API {GATEWAY_API}, {platform})\n"))?;
    }
    Ok(Exit::Fine)
}
