//! What holds for every text file: links resolve, nothing points outside the repository, nothing is left to be done.
//!
//! Called by `tidy::judge`. Looks at words, not at meaning: whether a page is true is left to its reviewer and to the tests
//! that compare generated pages.

use super::Finding;
use super::tree::{File, Tree};

/// Lock files repeat what the package client wrote; nobody edits them.
const GENERATED: &[&str] = &["Cargo.lock", "LICENSE"];

/// Marks of unfinished work. Split so that this file does not find itself.
const MARKS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];

/// Package registries: builds use their clients' settings, never a host written down here.
const REGISTRIES: &[&str] = &[
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("python", "hosted.org"),
    concat!("npmjs", ".org"),
    concat!("debian", ".org"),
    concat!("golang", ".org"),
];

/// Beginnings of absolute paths that exist on one machine only.
const MACHINES: &[&str] =
    &[concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/wo", "rk/")];

/// The folder beside the repository: only the conformance runner knows it.
const BESIDE: &str = concat!("../sha", "red");

pub(crate) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for file in &tree.files {
        if GENERATED.contains(&file.name()) {
            continue;
        }
        for (number, line) in file.text.lines().enumerate() {
            words(file, number + 1, line, findings);
        }
        mentions(tree, file, findings);
        if file.name().ends_with(".md") {
            links(tree, file, findings);
        }
    }
}

fn words(file: &File, line: usize, text: &str, findings: &mut Vec<Finding>) {
    for mark in MARKS {
        if super::rust::has_word(text, mark) {
            findings.push(Finding::fail(&file.path, line, "unfinished", format!("`{mark}` on main: do it or file it")));
        }
    }
    for host in REGISTRIES {
        if text.contains(host) {
            findings.push(Finding::fail(&file.path, line, "registry", format!("names the package registry `{host}`")));
        }
    }
    for machine in MACHINES {
        let alone = text
            .match_indices(machine)
            .any(|(at, _)| !text[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || "/.~}".contains(c)));
        if alone {
            findings.push(Finding::fail(
                &file.path,
                line,
                "machine-path",
                format!("an absolute path of one machine (`{machine}`)"),
            ));
        }
    }
    if text.contains(BESIDE) && !file.path.starts_with("conformance/") {
        findings.push(Finding::fail(
            &file.path,
            line,
            "beside",
            format!("only `conformance` knows what lies in `{BESIDE}`"),
        ));
    }
}

/// Source files that a comment or a page names in backticks exist; a file that moved takes its mentions along.
fn mentions(tree: &Tree, file: &File, findings: &mut Vec<Finding>) {
    let page = file.name().ends_with(".md");
    for (number, line) in file.text.lines().enumerate() {
        let comment = file.rust.is_some() && line.trim_start().starts_with("//");
        if !page && !comment {
            continue;
        }
        for name in line.split('`').skip(1).step_by(2).filter(|name| name.len() > 3 && name.ends_with(".rs")) {
            let tail = format!("/{name}");
            if !tree.paths.iter().any(|path| path == name || path.ends_with(&tail)) {
                findings.push(Finding::fail(&file.path, number + 1, "mention", format!("there is no file `{name}`")));
            }
        }
    }
}

/// Relative links and anchors of a Markdown page.
fn links(tree: &Tree, file: &File, findings: &mut Vec<Finding>) {
    for (line, target) in targets(&file.text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
        let resolved = if path.is_empty() { file.path.clone() } else { resolve(&file.path, path) };
        let exists = resolved.is_empty() || tree.paths.contains(&resolved);
        if !exists {
            findings.push(Finding::fail(&file.path, line, "link", format!("`{target}` leads nowhere ({resolved})")));
        } else if !anchor.is_empty()
            && let Some(page) = tree.file(&resolved)
            && resolved.ends_with(".md")
            && !anchors(&page.text).iter().any(|known| known == anchor)
        {
            findings.push(Finding::fail(
                &file.path,
                line,
                "link",
                format!("`{target}`: the page has no heading `#{anchor}`"),
            ));
        }
    }
}

/// Link targets outside code, with their 1-based lines.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let mut code = false;
        let plain: String = line
            .chars()
            .map(|c| {
                code ^= c == '`';
                if code && c != '`' { ' ' } else { c }
            })
            .collect();
        for (at, _) in plain.match_indices("](") {
            if let Some(end) = plain[at + 2..].find(')') {
                let target = plain[at + 2..at + 2 + end].split_whitespace().next().unwrap_or_default();
                found.push((number, target.trim_matches(['<', '>']).to_owned()));
            }
        }
        if let Some(rest) = plain.strip_prefix('[')
            && let Some((_, target)) = rest.split_once("]: ")
        {
            found.push((number, target.trim().to_owned()));
        }
    }
    found
}

/// Lines of a page outside fenced code, with their 1-based numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((number + 1, line))
    })
}

/// The anchors of a page's headings, as the usual renderers make them.
fn anchors(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (_, line) in prose(text) {
        let Some(heading) = line.starts_with('#').then(|| line.trim_start_matches('#').trim()) else {
            continue;
        };
        let slug: String = heading
            .to_lowercase()
            .chars()
            .filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                _ => None,
            })
            .collect();
        let again = found.iter().filter(|known| **known == slug).count();
        found.push(if again == 0 { slug } else { format!("{slug}-{again}") });
    }
    found
}

/// The path a relative link leads to, from the page that holds it.
fn resolve(page: &str, link: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.trim_end_matches('/').split('/') {
        match part {
            "" | "." => {}
            ".." => {
                // A link that climbs above the root must not resolve to something inside it.
                if parts.pop().is_none() {
                    return format!("outside the repository: {link}");
                }
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}
