//! How a Rust file reads: header, size, names, and what tests may not do.
//!
//! Called by `tidy::judge`. Formatting is rustfmt's, idiom is clippy's; here is only what neither can see.

use super::Finding;
use super::rust::{Source, has_word, positions};
use super::tree::{File, Tree};

/// Code lines of a file without tests: from here it needs a reason, and from there it fails.
const FILE_LINES: (usize, usize) = (500, 800);
/// Code lines of a function: likewise.
const FUNCTION_LINES: (usize, usize) = (70, 100);
/// Words a file header needs before it can say anything; a test file says what it tests.
const HEADER_WORDS: usize = 5;
const TEST_HEADER_WORDS: usize = 3;

/// Words that name nothing, in module and type names.
const EMPTY_WORDS: &[&str] =
    &["util", "utils", "helper", "helpers", "manager", "handler", "handlers", "common", "context"];

pub(crate) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for (file, source) in tree.rust() {
        header(file, source, findings);
        sizes(file, source, findings);
        names(file, source, findings);
        unfinished(file, source, findings);
        tests(file, source, findings);
    }
}

/// A file opens with `//!`: its job, who calls it, what it leaves to others.
fn header(file: &File, source: &Source, findings: &mut Vec<Finding>) {
    let words = source
        .raw
        .iter()
        .take_while(|line| line.starts_with("//!"))
        .flat_map(|line| line[3..].split_whitespace())
        .count();
    let needed = if source.test.iter().all(|test| *test) { TEST_HEADER_WORDS } else { HEADER_WORDS };
    if words < needed {
        let message = "the file does not open with a `//!` header: its job, who calls it, what it leaves to others";
        findings.push(Finding::fail(&file.path, 1, "header", message));
    }
}

fn sizes(file: &File, source: &Source, findings: &mut Vec<Finding>) {
    let lines = source.product_lines();
    let (reason, limit) = FILE_LINES;
    if lines >= limit {
        findings.push(Finding::fail(
            &file.path,
            0,
            "file-size",
            format!("{lines} code lines without tests, at most {limit}"),
        ));
    } else if lines >= reason {
        findings.push(Finding::warn(
            &file.path,
            0,
            "file-size",
            format!("{lines} code lines without tests, aim below {reason}"),
        ));
    }
    let (reason, limit) = FUNCTION_LINES;
    for function in source.functions() {
        let message = format!("`{}` has {} code lines", function.name, function.lines);
        if function.lines >= limit {
            findings.push(Finding::fail(
                &file.path,
                function.line,
                "function-size",
                format!("{message}, at most {limit}"),
            ));
        } else if function.lines > reason {
            findings.push(Finding::warn(
                &file.path,
                function.line,
                "function-size",
                format!("{message}, aim below {reason}"),
            ));
        }
    }
}

fn names(file: &File, source: &Source, findings: &mut Vec<Finding>) {
    let stem = file.name().trim_end_matches(".rs");
    let directory = file.path.rsplit('/').nth(1).unwrap_or_default();
    for part in [stem, directory] {
        if EMPTY_WORDS.contains(&part) {
            let message = format!("a module called `{part}` says nothing; name what it does");
            findings.push(Finding::fail(&file.path, 0, "names", message));
        }
    }
    for (line, code) in source.numbered() {
        for keyword in ["struct", "enum", "trait", "type", "mod", "union"] {
            let Some(name) = name_behind(code, keyword) else {
                continue;
            };
            if let Some(word) = empty_word(name) {
                let message = format!("`{name}`: the word `{word}` says nothing; name what it does");
                findings.push(Finding::fail(&file.path, line, "names", message));
            }
        }
        if let Some(name) = name_behind(code, "fn")
            && name.starts_with("get_")
        {
            findings.push(Finding::fail(&file.path, line, "names", format!("`{name}`: no `get_` prefix")));
        }
    }
}

/// The identifier behind a keyword that stands where a definition can begin.
fn name_behind<'a>(code: &'a str, keyword: &str) -> Option<&'a str> {
    let at = positions(code, keyword).next()?;
    let before = code[..at].trim();
    let leads = before.is_empty()
        || before.ends_with(')')
        || ["pub", "async", "const", "unsafe", "extern"].contains(&before.split_whitespace().last()?);
    let rest = code[at + keyword.len()..].trim_start();
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    (leads && end > 0).then(|| &rest[..end])
}

/// The empty word in a name, looking at `snake_case` names whole and at `CamelCase` names word by word.
fn empty_word(name: &str) -> Option<&'static str> {
    let mut camel = vec![String::new()];
    for c in name.chars() {
        if c.is_uppercase() {
            camel.push(String::new());
        }
        if let Some(last) = camel.last_mut() {
            last.extend(c.to_lowercase());
        }
    }
    let is_type = name.starts_with(char::is_uppercase);
    EMPTY_WORDS.iter().copied().find(|word| if is_type { camel.iter().any(|part| part == word) } else { name == *word })
}

/// Nothing on main is half done.
fn unfinished(file: &File, source: &Source, findings: &mut Vec<Finding>) {
    for (line, code) in source.numbered() {
        for name in ["todo", "unimplemented"] {
            let call = format!("{name}!");
            if positions(code, name).any(|at| code[at..].starts_with(&call)) {
                findings.push(Finding::fail(&file.path, line, "unfinished", format!("`{call}` on main")));
            }
        }
    }
}

/// Tests wait for events, not for time, take free ports and are never switched off.
fn tests(file: &File, source: &Source, findings: &mut Vec<Finding>) {
    let all_test = file.path.starts_with("testkit/");
    for (line, code) in source.numbered() {
        if code.contains("#[ignore") {
            findings.push(Finding::fail(
                &file.path,
                line,
                "ignored",
                "a test that is switched off proves nothing: mend or remove it",
            ));
        }
        if !all_test && !source.test[line - 1] {
            continue;
        }
        let sleeps = ["sleep", "sleep_until"].iter().any(|name| {
            positions(code, name).any(|at| {
                code[at + name.len()..].trim_start().starts_with('(') && !code[..at].trim_end().ends_with("fn")
            })
        });
        if sleeps {
            let message = "a test does not sleep: wait for the event itself, with a time limit around it";
            findings.push(Finding::fail(&file.path, line, "sleep", message));
        }
        if has_word(code, "bind") && fixed_port(&source.raw[line - 1]) {
            findings.push(Finding::fail(
                &file.path,
                line,
                "fixed-port",
                "a test binds port 0 and asks which port it got",
            ));
        }
    }
}

/// Whether a line names an address with a port other than 0 in a string.
fn fixed_port(raw: &str) -> bool {
    raw.match_indices(':').any(|(at, _)| {
        let digits = raw[at + 1..].chars().take_while(char::is_ascii_digit).count();
        digits > 0 && raw[at + 1..at + 1 + digits] != *"0" && raw[at + 1 + digits..].starts_with('"')
    })
}
