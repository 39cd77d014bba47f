//! `transept schema [KIND]`: JSON Schema of the configuration, the reference page, and CustomResourceDefinitions of our own
//! kinds, all from the types themselves.

mod reference;

use anyhow::Result;
use transept_engine::policies;
use transept_model::catalogue::{KindDescription, catalogue, json_schema};
use transept_model::{crd, suggest};

use super::Exit;
use crate::console;

const EXAMPLES: &str = "\
Examples:
  transept schema > transept.schema.json
  transept schema HTTPRoute
  transept schema --reference > reference.md
  transept schema --crds | kubectl apply --server-side -f -

For completion in an editor, begin a file with:
  # yaml-language-server: $schema=transept.schema.json";

/// Print the JSON Schema of all kinds or of one
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A kind, such as HTTPRoute; all of them when left out
    kind: Option<String>,

    /// Print the reference page in Markdown instead
    #[arg(long, conflicts_with = "crds")]
    reference: bool,

    /// Print CustomResourceDefinitions of the kinds of group transept.dev instead, for a Kubernetes cluster
    #[arg(long)]
    crds: bool,
}

/// Prints the schema or the reference.
pub(crate) fn run(args: &Args) -> Result<Exit> {
    let mut kinds = catalogue(policies::MODEL_KINDS);
    if let Some(wanted) = &args.kind {
        let Some(found) = kinds.iter().position(|kind| kind.kind.eq_ignore_ascii_case(wanted)) else {
            tell_unknown(wanted, &kinds);
            return Ok(Exit::Usage);
        };
        kinds = vec![kinds.swap_remove(found)];
    }
    if args.crds {
        return print_definitions(&kinds);
    }
    if args.reference {
        console::print(&reference::write(&kinds))?;
        return Ok(Exit::Fine);
    }
    match (&args.kind, kinds.first()) {
        (Some(_), Some(kind)) => {
            let mut schema = kind.json_schema();
            schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
            console::print_json(&schema)?;
        }
        _ => console::print_json(&json_schema(policies::MODEL_KINDS))?,
    }
    Ok(Exit::Fine)
}

/// Prints the definitions of those kinds that are ours, as one YAML stream.
fn print_definitions(kinds: &[KindDescription]) -> Result<Exit> {
    let mut definitions = kinds.iter().filter_map(crd::definition).peekable();
    if definitions.peek().is_none() {
        console::fail("the kind is not one of ours; its definition comes with Kubernetes or with Gateway API");
        return Ok(Exit::Usage);
    }
    for definition in definitions {
        console::print("---\n")?;
        console::print_yaml(&definition)?;
    }
    Ok(Exit::Fine)
}

fn tell_unknown(wanted: &str, kinds: &[KindDescription]) {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.kind).collect();
    let remedy = suggest::remedy(wanted, &names).unwrap_or_else(|| format!("there are: {}", names.join(", ")));
    console::fail(&format!("there is no kind {wanted}; {remedy}"));
}
