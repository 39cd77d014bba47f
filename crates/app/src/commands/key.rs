//! `transept key create|list|rotate|revoke`: keys of Consumers.
//!
//! A key is shown once, to whoever makes it. What is kept is an ApiKey object with its hash, in a file that a gateway or a control plane
//! follows, or in the state of a control plane: a change is in force as soon as they have it. The secret of a key is on no command line and
//! in no file of ours.

mod book;
mod file;
mod place;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use transept_engine::key;
use transept_model::kinds::ApiKeySpec;
use transept_model::schema::Moment;

use self::book::{Book, Saved};
use self::place::Place;
use super::{Exit, status};
use crate::console::{self, FAINT, PLAIN};
use crate::{duration, table};

const EXAMPLES: &str = "\
Examples:
  transept key create --consumer mobile --file keys.yaml       prints the key, once
  transept key create --consumer mobile --scope orders.read --ttl 2160h --file keys.yaml
  transept key create --consumer mobile --print > mobile.yaml  the key to the terminal alone
  transept key create --consumer mobile                        into the state of the control plane
  transept key list --file keys.yaml
  transept key rotate mobile-1 --overlap 24h --file keys.yaml  both are good for a day
  transept key revoke mobile-1 --file keys.yaml

Only a hash of a key is stored. A gateway that runs with the file, or with its directory, takes changes over by \
itself.";

/// Make, list, replace and revoke the API keys of Consumers
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a key and print it
    Create(Create),
    /// Show all keys, without their secrets
    List(List),
    /// Make another key in place of one, which stays good for a while
    Rotate(Rotate),
    /// Make a key good for nothing
    Revoke(Revoke),
}

/// How keys are spelled and hashed.
#[derive(Debug, clap::Args)]
struct Making {
    /// First word of the key, by which scanners know whose it is
    #[arg(long, value_name = "WORD", default_value = "tr", value_parser = word)]
    brand: String,

    /// Second word of the key, such as live or test
    #[arg(long, value_name = "WORD", default_value = "live", value_parser = word)]
    environment: String,

    /// File with the pepper under which the key is hashed, the same that the policy's `pepper` holds
    #[arg(long, value_name = "FILE")]
    pepper_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Consumer that the key is for
    #[arg(long, value_name = "NAME")]
    consumer: String,

    /// Name of the key; without it, that of the Consumer and the next free number
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// What the key is good for; may be repeated
    #[arg(long = "scope", value_name = "SCOPE", value_parser = scope)]
    scopes: Vec<String>,

    /// Network of clients that may use it; may be repeated
    #[arg(long = "address", value_name = "NETWORK")]
    addresses: Vec<String>,

    /// Origin of pages that may use it, such as https://app.shop.test; may be repeated
    #[arg(long = "origin", value_name = "ORIGIN")]
    origins: Vec<String>,

    /// How long the key is good, such as 720h; without it, until it is revoked
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    ttl: Option<Duration>,

    // It looks at `--print`, and so is read before it.
    #[command(flatten)]
    place: Place,

    /// Print the object instead of keeping it; the key is told on standard error
    #[arg(long)]
    print: bool,

    #[command(flatten)]
    making: Making,
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    place: Place,

    /// Admin address of a gateway, to show when keys were last used there
    #[arg(long, env = "TRANSEPT_ADMIN", value_name = "ADDR")]
    admin: Option<String>,

    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Rotate {
    /// Name of the key that is replaced
    name: String,

    /// How long it stays good
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration::parse)]
    overlap: Duration,

    /// How long the new key is good; without it, until it is revoked. Needed where the old one has an end
    #[arg(long, value_name = "DURATION", value_parser = lifetime, conflicts_with = "without_end")]
    ttl: Option<Duration>,

    /// The new key is good until it is revoked, though the old one has an end
    #[arg(long)]
    without_end: bool,

    #[command(flatten)]
    place: Place,

    #[command(flatten)]
    making: Making,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    /// Name of the key
    name: String,

    #[command(flatten)]
    place: Place,
}

fn word(text: &str) -> Result<String, String> {
    if key::is_word(text.as_bytes()) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` cannot be in a key: write 1 to 16 lower-case letters and digits"))
}

/// A time that is long enough for a key: its end is told in seconds.
fn lifetime(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text)?;
    if time < Duration::from_secs(1) {
        return Err(format!("a key that is good for `{text}` has ended already: write 1s or more, such as 720h"));
    }
    Ok(time)
}

/// RFC 6749 section 3.3.
fn scope(text: &str) -> Result<String, String> {
    let is_part = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    if !text.is_empty() && text.bytes().all(is_part) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "`{text}` is no scope, which has no spaces and no quotes: write --scope once for each, such as --scope a --scope b"
    ))
}

/// How often a change is begun anew because others were faster.
const TRIES: usize = 100;

/// Does what is asked for.
pub(crate) fn run(args: Args) -> Result<Exit> {
    match args.action {
        Action::Create(create) => settle(|| run_create(&create))?,
        Action::List(list) => return run_list(&list),
        Action::Rotate(rotate) => settle(|| run_rotate(&rotate))?,
        Action::Revoke(revoke) => settle(|| run_revoke(&revoke))?,
    }
    Ok(Exit::Fine)
}

/// Reads, changes and saves until nobody has changed the same key in between.
fn settle(mut change: impl FnMut() -> Result<Saved>) -> Result<()> {
    for _ in 0..TRIES {
        if change()? == Saved::Done {
            return Ok(());
        }
    }
    bail!("others change the same keys all the time, and nothing was changed; try again")
}

fn run_revoke(revoke: &Revoke) -> Result<Saved> {
    let namespace = &revoke.place.namespace;
    let mut book = Book::existing(&revoke.place)?;
    let mut stored = book.find(namespace, &revoke.name)?;
    stored.object["spec"]["disabled"] = true.into();
    book.replace(&stored)?;
    if book.save()? == Saved::Overtaken {
        return Ok(Saved::Overtaken);
    }
    console::tell(&format!("key {namespace}/{} is revoked", revoke.name));
    Ok(Saved::Done)
}

fn run_create(create: &Create) -> Result<Saved> {
    let mut spec = json!({"consumer": create.consumer});
    if !create.scopes.is_empty() {
        spec["scopes"] = create.scopes.clone().into();
    }
    if !create.addresses.is_empty() {
        spec["addresses"] = create.addresses.clone().into();
    }
    if !create.origins.is_empty() {
        spec["origins"] = create.origins.clone().into();
    }
    set_end(&mut spec, create.ttl)?;
    let namespace = &create.place.namespace;
    let book = (!create.print).then(|| Book::open(&create.place)).transpose()?;
    let taken = book.as_ref().map(|book| book.names(namespace)).transpose()?.unwrap_or_default();
    let name = create.name.clone().unwrap_or_else(|| free_name(&create.consumer, &taken));
    if taken.contains(&name) {
        bail!("there is an ApiKey {namespace}/{name} already; choose another --name, or use `transept key rotate`");
    }
    let (key, object) = make(&create.making, namespace, &name, spec)?;
    let Some(mut book) = book else {
        console::print(&file::write(&object)?)?;
        console::tell(&format!("key {namespace}/{name}, shown this once: {key}"));
        return Ok(Saved::Done);
    };
    book.add(&object)?;
    if book.save()? == Saved::Overtaken {
        return Ok(Saved::Overtaken);
    }
    show_once(namespace, &name, &key)?;
    Ok(Saved::Done)
}

fn run_rotate(rotate: &Rotate) -> Result<Saved> {
    let namespace = &rotate.place.namespace;
    let mut book = Book::existing(&rotate.place)?;
    let mut old = book.find(namespace, &rotate.name)?;
    let mut spec = json!({"consumer": old.object["spec"]["consumer"]});
    for field in ["scopes", "addresses", "origins"] {
        if !old.object["spec"][field].is_null() {
            spec[field] = old.object["spec"][field].clone();
        }
    }
    let own_end = old.object["spec"]["expires"].as_str().and_then(Moment::parse);
    if old.object["spec"]["disabled"] == true {
        bail!(
            "key {namespace}/{} is revoked, and nothing comes after it; make another with `transept key create`",
            rotate.name
        );
    }
    if let Some(end) = own_end.filter(|end| end.unix() <= now()) {
        bail!(
            "key {namespace}/{} ended at {end}, and nothing comes after it; make another with `transept key create`",
            rotate.name
        );
    }
    if let (Some(end), None, false) = (own_end, rotate.ttl, rotate.without_end) {
        bail!(
            "key {namespace}/{} ends at {end}: say how long the new one is good, such as `--ttl 720h`, or `--without-end`",
            rotate.name
        );
    }
    let has_pepper = old.object["spec"]["hash"].as_str().is_some_and(|hash| hash.starts_with("hmac-sha256:"));
    if has_pepper && rotate.making.pepper_file.is_none() {
        bail!(
            "key {namespace}/{} is hashed under a pepper: name its file, `--pepper-file`; a key without one is made by `transept key create`",
            rotate.name
        );
    }
    set_end(&mut spec, rotate.ttl)?;
    let stem = match rotate.name.rsplit_once('-') {
        Some((stem, number)) if number.parse::<u32>().is_ok() => stem,
        _ => &rotate.name,
    };
    let name = free_name(stem, &book.names(namespace)?);
    let (key, object) = make(&rotate.making, namespace, &name, spec)?;
    let end = end_after(rotate.overlap)?;
    let end = own_end.map_or(end, |own| own.min(end));
    old.object["spec"]["expires"] = end.to_string().into();
    book.add(&object)?;
    book.replace(&old)?;
    if book.save()? == Saved::Overtaken {
        return Ok(Saved::Overtaken);
    }
    console::tell(&format!("key {namespace}/{} is good until {end}", rotate.name));
    show_once(namespace, &name, &key)?;
    Ok(Saved::Done)
}

/// Makes a key and the object that stands for it.
fn make(making: &Making, namespace: &str, name: &str, mut spec: Value) -> Result<(String, Value)> {
    let pepper = match &making.pepper_file {
        Some(path) => {
            let secret = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            Some(key::pepper(key::without_line_end(&secret)))
        }
        None => None,
    };
    let mut failed = false;
    let key = key::make(&making.brand, &making.environment, |bytes| failed |= aws_lc_rs::rand::fill(bytes).is_err());
    if failed {
        bail!("the system gives no random numbers");
    }
    spec["prefix"] = key::prefix(&key).into();
    spec["hash"] = key::hash(key.as_bytes(), pepper.as_ref()).to_string().into();
    let object = json!({
        "apiVersion": "transept.dev/v1alpha1",
        "kind": "ApiKey",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    });
    let text = transept_model::SourceText::new("the new key", file::write(&object)?);
    if let Some(problem) = transept_model::load(&[text], &[]).invalid.first() {
        let remedy = problem.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        bail!("{}: {}{remedy}", problem.field, problem.why);
    }
    Ok((key, object))
}

/// The key goes to standard output, alone, so that it can be piped to where it belongs.
fn show_once(namespace: &str, name: &str, key: &str) -> Result<()> {
    console::tell(&format!("key {namespace}/{name}, shown this once"));
    console::print(&format!("{key}\n"))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn end_after(time: Duration) -> Result<Moment> {
    Moment::of_unix(now() + time).ok_or_else(|| anyhow!("that is too long"))
}

fn set_end(spec: &mut Value, ttl: Option<Duration>) -> Result<()> {
    if let Some(ttl) = ttl {
        spec["expires"] = end_after(ttl)?.to_string().into();
    }
    Ok(())
}

/// `mobile-1`, or the first number that is free.
fn free_name(stem: &str, taken: &[String]) -> String {
    let mut number = 1;
    loop {
        let name = format!("{stem}-{number}");
        if !taken.contains(&name) {
            return name;
        }
        number += 1;
    }
}

fn run_list(list: &List) -> Result<Exit> {
    let keys = Book::existing(&list.place)?.keys();
    let used = match &list.admin {
        Some(admin) => match last_uses(admin) {
            Ok(used) => Some(used),
            Err(why) => {
                console::fail(&format!("{admin} does not say when keys were used: {why:#}"));
                return Ok(Exit::Unreachable);
            }
        },
        None => None,
    };
    let of_namespace = keys.iter().filter(|key| key.object["metadata"]["namespace"] == *list.place.namespace);
    let rows: Vec<Value> = of_namespace.map(|key| describe(&key.object, used.as_ref())).collect();
    if list.json {
        console::print_json(&Value::Array(rows))?;
    } else {
        console::print(&render(&rows))?;
    }
    Ok(Exit::Fine)
}

/// When keys were last used at a gateway, by namespace and name.
fn last_uses(admin: &str) -> Result<HashMap<String, String>> {
    let status = status::of(admin)?;
    let keys = status["keys"].as_array().cloned().unwrap_or_default();
    let entry = |key: &Value| Some((key["key"].as_str()?.to_owned(), key["lastUsed"].as_str()?.to_owned()));
    Ok(keys.iter().filter_map(entry).collect())
}

fn describe(object: &Value, used: Option<&HashMap<String, String>>) -> Value {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    let moment = |field: &str| spec[field].as_str().and_then(Moment::parse);
    let state = if spec["disabled"] == true {
        "revoked"
    } else if moment("expires").is_some_and(|end| now() >= end.unix()) {
        "expired"
    } else if moment("notBefore").is_some_and(|begin| now() < begin.unix()) {
        "not yet"
    } else {
        "good"
    };
    let full = format!(
        "{}/{}",
        metadata["namespace"].as_str().unwrap_or_default(),
        metadata["name"].as_str().unwrap_or_default()
    );
    json!({
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "consumer": spec["consumer"],
        // A list is shown to others: whatever is no prefix may be the key.
        "prefix": spec["prefix"].as_str().map(|prefix| ApiKeySpec::shown_prefix(prefix).unwrap_or("(hidden)")),
        "scopes": spec["scopes"],
        "state": state,
        "expires": spec["expires"],
        "lastUsed": used.map(|used| used.get(&full)),
    })
}

fn render(rows: &[Value]) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let words = |value: &Value| {
        let words: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if words.is_empty() { "-".to_owned() } else { words.join(" ") }
    };
    let row = |row: &Value| {
        vec![
            text(&row["name"]),
            text(&row["consumer"]),
            text(&row["prefix"]),
            text(&row["state"]),
            words(&row["scopes"]),
            text(&row["expires"]),
            text(&row["lastUsed"]),
        ]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    if rows.is_empty() {
        return format!("{FAINT}no key; `transept key create` makes one{PLAIN}\n");
    }
    table::lay_out(&["NAME", "CONSUMER", "PREFIX", "STATE", "SCOPES", "EXPIRES", "LAST USED"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_what_a_key_is_good_for_and_whether() {
        let object = json!({"metadata": {"name": "mobile-1", "namespace": "default"},
            "spec": {"consumer": "mobile", "prefix": "tr_live_7Xk2", "scopes": ["a", "b"], "expires": "2001-01-01T00:00:00Z"}});
        let used = HashMap::from([("default/mobile-1".to_owned(), "2000-12-31T23:59:00Z".to_owned())]);
        assert!(render(&[]).contains("no key"));
        let shown = render(&[describe(&object, Some(&used))]);
        let row = shown.lines().nth(1).expect("a row");
        let words: Vec<&str> = row.split_whitespace().collect();
        let expected =
            ["mobile-1", "mobile", "tr_live_7Xk2", "expired", "a", "b", "2001-01-01T00:00:00Z", "2000-12-31T23:59:00Z"];
        assert_eq!(words, expected);
        let whole =
            json!({"metadata": {"name": "a"}, "spec": {"consumer": "c", "prefix": "live_7Xk2mQ9dVb3nR5tYc8pLsw"}});
        assert!(render(&[describe(&whole, None)]).contains("(hidden)"));
        assert!(!describe(&whole, None).to_string().contains("7Xk2"));
    }

    #[test]
    fn a_key_is_good_for_some_time_and_a_scope_is_one_word() {
        assert_eq!(lifetime("720h"), Ok(Duration::from_secs(720 * 3600)));
        assert!(lifetime("0s").is_err_and(|why| why.contains("1s or more")));
        assert_eq!(scope("orders.read"), Ok("orders.read".to_owned()));
        for wrong in ["a b", "", "a\"", "é"] {
            assert!(scope(wrong).is_err_and(|why| why.contains("--scope a --scope b")), "{wrong}");
        }
    }

    #[test]
    fn names_are_numbered() {
        assert_eq!(free_name("mobile", &[]), "mobile-1");
        assert_eq!(free_name("mobile", &["mobile-1".to_owned(), "mobile-3".to_owned()]), "mobile-2");
    }
}
