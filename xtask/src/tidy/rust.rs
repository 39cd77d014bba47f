//! Just enough of Rust's grammar to judge a file: comments and literals masked, test code, functions, imported paths.
//!
//! Called by `tree` once per file; the rules ask. Not a parser: it never fails, and on code that rustc would refuse it may
//! answer nonsense, which is fine because rustc refuses it.

/// A Rust file, masked.
#[derive(Debug)]
pub(crate) struct Source {
    /// Lines as written.
    pub(crate) raw: Vec<String>,
    /// Lines with comments blanked and the contents of literals replaced by underscores.
    pub(crate) code: Vec<String>,
    /// Per line: whether it belongs to test code.
    pub(crate) test: Vec<bool>,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// 1-based line of the `fn`.
    pub(crate) line: usize,
    /// Lines of code from the `fn` to the closing brace, blank and comment lines left out.
    pub(crate) lines: usize,
}

/// A path brought in by a `use`, flattened: `use std::{fs, net::TcpStream}` gives two.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Import {
    pub(crate) path: String,
    /// 1-based line where the `use` begins.
    pub(crate) line: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let masked = mask(text);
        let code: Vec<String> = masked.split('\n').map(str::to_owned).collect();
        let raw: Vec<String> = text.split('\n').map(str::to_owned).collect();
        let test = if is_test_file(path) { vec![true; code.len()] } else { test_lines(&masked, code.len()) };
        Self { raw, code, test }
    }

    /// Lines of code outside tests, with their 1-based numbers.
    pub(crate) fn product(&self) -> impl Iterator<Item = (usize, &str)> {
        self.numbered().filter(|(line, _)| !self.test[line - 1])
    }

    /// All lines with their 1-based numbers, masked.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.iter().enumerate().map(|(at, line)| (at + 1, line.as_str()))
    }

    /// Number of code lines that are not test code.
    pub(crate) fn product_lines(&self) -> usize {
        self.product().filter(|(_, line)| !line.trim().is_empty()).count()
    }

    /// Functions outside tests.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let text: Vec<char> = self.code.join("\n").chars().collect();
        let mut found = Vec::new();
        for (at, word) in words(&text) {
            if word != "fn" {
                continue;
            }
            let line = line_of(&text, at);
            let name = name_after(&text, at + 2);
            if name.is_empty() || self.test[line - 1] {
                continue;
            }
            if let Some(end) = end_of_item(&text, at)
                && text[end] == '}'
            {
                let last = line_of(&text, end);
                let lines = self.code[line - 1..last].iter().filter(|line| !line.trim().is_empty()).count();
                found.push(Function { name, line, lines });
            }
        }
        found
    }

    /// Every path named by a `use`.
    pub(crate) fn imports(&self) -> Vec<Import> {
        let text: Vec<char> = self.code.join("\n").chars().collect();
        let mut found = Vec::new();
        for (at, word) in words(&text) {
            if word != "use" {
                continue;
            }
            // `use<'a>` in a return type captures lifetimes and imports nothing.
            let rest: String = text[at + 3..].iter().take_while(|c| **c != ';').collect();
            if rest.trim_start().starts_with('<') {
                continue;
            }
            let line = line_of(&text, at);
            let mut paths = Vec::new();
            flatten("", &rest, &mut paths);
            found.extend(paths.into_iter().map(|path| Import { path, line }));
        }
        found
    }
}

/// Whether `word` stands in `line` as a whole identifier.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    positions(line, word).next().is_some()
}

/// Byte offsets at which `word` stands in `line` with no identifier character on either side.
pub(crate) fn positions<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    line.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = line[..*at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_test_file(path: &str) -> bool {
    let stem = path.rsplit('/').next().unwrap_or(path);
    stem == "tests.rs" || stem.ends_with("_tests.rs") || path.contains("/tests/") || path.contains("/benches/")
}

fn line_of(text: &[char], at: usize) -> usize {
    text[..at].iter().filter(|c| **c == '\n').count() + 1
}

/// The identifiers of masked text with the offsets at which they begin.
fn words(text: &[char]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if !is_word(text[at]) {
            at += 1;
            continue;
        }
        let start = at;
        while at < text.len() && is_word(text[at]) {
            at += 1;
        }
        found.push((start, text[start..at].iter().collect()));
    }
    found
}

/// The identifier that follows `at` after blanks, or nothing.
fn name_after(text: &[char], at: usize) -> String {
    text[at..].iter().skip_while(|c| c.is_whitespace()).take_while(|c| is_word(**c)).collect()
}

/// The offset of the `;` or of the closing brace that ends the item beginning at `from`.
fn end_of_item(text: &[char], from: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut braces = 0usize;
    for (at, c) in text.iter().enumerate().skip(from) {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            '{' => braces += 1,
            '}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 && depth == 0 {
                    return Some(at);
                }
            }
            ';' if depth == 0 && braces == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

/// Marks the lines of items behind `#[cfg(test)]`.
fn test_lines(masked: &str, lines: usize) -> Vec<bool> {
    let mut test = vec![false; lines];
    let text: Vec<char> = masked.chars().collect();
    let markers =
        ["#[cfg(test)]", "#[cfg(any(test", "#[cfg(all(test"].map(|marker| marker.chars().collect::<Vec<char>>());
    let starts = (0..text.len()).filter(|at| markers.iter().any(|marker| text[*at..].starts_with(marker)));
    for start in starts {
        let item = skip_attributes(&text, start);
        let end = end_of_item(&text, item).unwrap_or(text.len() - 1);
        for line in line_of(&text, start)..=line_of(&text, end) {
            test[line - 1] = true;
        }
    }
    test
}

/// The offset behind the attributes that begin at `at`.
fn skip_attributes(text: &[char], mut at: usize) -> usize {
    loop {
        while at < text.len() && text[at].is_whitespace() {
            at += 1;
        }
        if at >= text.len() || text[at] != '#' {
            return at;
        }
        let mut depth = 0usize;
        while at < text.len() {
            match text[at] {
                '[' => depth += 1,
                ']' => {
                    depth -= 1;
                    if depth == 0 {
                        at += 1;
                        break;
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }
}

/// Splits a `use` tree into whole paths.
fn flatten(prefix: &str, tree: &str, into: &mut Vec<String>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree).trim();
        if !path.is_empty() {
            into.push(format!("{prefix}{path}"));
        }
        return;
    };
    let prefix = format!("{prefix}{}", tree[..open].trim());
    let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let mut depth = 0usize;
    let mut start = 0;
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                flatten(&prefix, &inner[start..at], into);
                start = at + 1;
            }
            _ => {}
        }
    }
    flatten(&prefix, &inner[start..], into);
}

/// Blanks comments and replaces the contents of literals by underscores; lines stay where they are.
fn mask(text: &str) -> String {
    let text: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let next = text.get(at + 1).copied();
        at = match text[at] {
            '/' if next == Some('/') => blank(&text, at, end_of_line(&text, at), ' ', &mut out),
            '/' if next == Some('*') => blank(&text, at, end_of_block(&text, at), ' ', &mut out),
            '"' => quoted(&text, at, end_of_string(&text, at), &mut out),
            'r' | 'b' | 'c' if at == 0 || !is_word(text[at - 1]) => match end_of_prefixed(&text, at) {
                Some((open, end)) => {
                    out.extend(&text[at..open]);
                    quoted(&text, open, end, &mut out)
                }
                None => push(&text, at, &mut out),
            },
            '\'' => match end_of_character(&text, at) {
                Some(end) => quoted(&text, at, end, &mut out),
                None => push(&text, at, &mut out),
            },
            _ => push(&text, at, &mut out),
        };
    }
    out
}

fn push(text: &[char], at: usize, out: &mut String) -> usize {
    out.push(text[at]);
    at + 1
}

fn blank(text: &[char], from: usize, to: usize, fill: char, out: &mut String) -> usize {
    out.extend(text[from..to].iter().map(|c| if *c == '\n' { '\n' } else { fill }));
    to
}

fn quoted(text: &[char], from: usize, to: usize, out: &mut String) -> usize {
    out.push('"');
    if to > from + 1 {
        blank(text, from + 1, to - 1, '_', out);
        out.push('"');
    }
    to
}

fn end_of_line(text: &[char], from: usize) -> usize {
    text[from..].iter().position(|c| *c == '\n').map_or(text.len(), |length| from + length)
}

fn end_of_block(text: &[char], from: usize) -> usize {
    let mut depth = 0usize;
    let mut at = from;
    while at + 1 < text.len() {
        match (text[at], text[at + 1]) {
            ('/', '*') => {
                depth += 1;
                at += 2;
            }
            ('*', '/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    text.len()
}

fn end_of_string(text: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < text.len() {
        match text[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// For `r"`, `r#"`, `b"`, `br#"`, `c"` and `b'`: where the quote opens and where the literal ends.
fn end_of_prefixed(text: &[char], from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    let mut raw = false;
    while at < text.len() && at < from + 2 && matches!(text[at], 'r' | 'b' | 'c') {
        raw |= text[at] == 'r';
        at += 1;
    }
    let hashes = text[at..].iter().take_while(|c| **c == '#').count();
    let open = at + hashes;
    match text.get(open) {
        Some('\'') if !raw && hashes == 0 && text[from] == 'b' => end_of_character(text, open).map(|end| (open, end)),
        Some('"') if raw => {
            let closing: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            let width = closing.len();
            let end = (open + 1..text.len()).find(|at| text.get(*at..*at + width) == Some(&closing[..]));
            Some((open, end.map_or(text.len(), |end| end + width)))
        }
        Some('"') if hashes == 0 => Some((open, end_of_string(text, open))),
        _ => None,
    }
}

/// The end of a character literal, or `None` when the quote begins a lifetime.
fn end_of_character(text: &[char], from: usize) -> Option<usize> {
    if text.get(from + 1) == Some(&'\\') {
        let close = text[from + 3..].iter().position(|c| *c == '\'')?;
        return Some(from + 3 + close + 1);
    }
    (text.get(from + 2) == Some(&'\'')).then_some(from + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_comments_and_literals_but_keeps_lines() {
        let masked = mask(
            "let a = \"x // y\"; // tail\nlet b = r#\"{ \" }\"#; /* { /* } */ */ let c = '{'; fn f<'a>() {}\nlet d = b'\"';",
        );
        let lines: Vec<&str> = masked.split('\n').collect();
        assert_eq!(lines.len(), 3);
        assert!(!lines[0].contains("tail") && !lines[0].contains('x'), "{}", lines[0]);
        assert_eq!(lines[1].matches('{').count(), 1, "{}", lines[1]);
        assert!(lines[1].contains("fn f<'a>() {}"), "{}", lines[1]);
        assert!(lines[2].ends_with(';'), "{}", lines[2]);
    }

    #[test]
    fn finds_test_regions_to_their_closing_brace() {
        let source =
            Source::new("a.rs", "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n fn b() {}\n}\nfn c() {}\n");
        assert_eq!(source.test[..7], [false, true, true, true, true, true, false]);
        assert_eq!(source.product_lines(), 2);
        let names: Vec<String> = source.functions().into_iter().map(|function| function.name).collect();
        assert_eq!(names, ["a", "c"]);
    }

    #[test]
    fn a_test_file_is_test_code_throughout() {
        assert!(Source::new("crates/x/src/a/tests.rs", "fn a() {}").test[0]);
        assert!(Source::new("crates/x/tests/road.rs", "fn a() {}").test[0]);
    }

    #[test]
    fn measures_functions_without_comments_and_blank_lines() {
        let source = Source::new(
            "a.rs",
            "fn long(\n  a: u8,\n) -> [u8; 2] {\n  // why\n\n  [a, a]\n}\ntrait T { fn none(&self); }\n",
        );
        assert_eq!(source.functions(), [Function { name: "long".to_owned(), line: 1, lines: 5 }]);
    }

    #[test]
    fn flattens_imports() {
        let source =
            Source::new("a.rs", "use std::{fs, net::{TcpStream as S, IpAddr}};\nfn f() -> impl A + use<'_> {}\n");
        let paths: Vec<String> = source.imports().into_iter().map(|import| import.path).collect();
        assert_eq!(paths, ["std::fs", "std::net::TcpStream", "std::net::IpAddr"]);
    }
}
