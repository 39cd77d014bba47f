//! Where things were written and what is wrong with them: positions, sources, `Invalid` and `Note`.
//!
//! Called by everything that reads configuration. It leaves to `value` how text becomes a tree and to the application how
//! (and in which colours) findings are printed: what is here is plain text.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::schema::Text;

/// A position inside one text: line and column, both counted from 1, columns in characters.
///
/// A position is not part of a value: two spots always compare equal, so that two objects which differ only in where they
/// were written are equal, and moving an object down a file is not a change of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spot {
    /// Line, from 1. Zero means that nobody wrote it (a default, an object made by the loader).
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl PartialEq for Spot {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Spot {}

impl Hash for Spot {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// A position in a named file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file's name as the user gave it; `(default)` for what the loader made itself.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl Place {
    /// The place of `spot` in `file`.
    pub fn new(file: Arc<str>, spot: Spot) -> Self {
        Self { file, line: spot.line, column: spot.column }
    }

    /// The position without the file.
    pub fn spot(&self) -> Spot {
        Spot { line: self.line, column: self.column }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return f.write_str(&self.file);
        }
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One file of configuration: what it is called and what stands in it.
#[derive(Clone, Debug)]
pub struct SourceText {
    /// The name to show in messages, as the user gave it.
    pub name: Arc<str>,
    /// YAML or JSON, any number of documents.
    pub text: Arc<str>,
}

impl SourceText {
    /// A source from text that is already known to be UTF-8.
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// A source from the bytes of a file. Text that is not UTF-8 is refused at its first wrong byte.
    pub fn from_bytes(name: impl Into<Arc<str>>, bytes: Vec<u8>) -> Result<SourceText, Box<Invalid>> {
        let name = name.into();
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { name, text: text.into() }),
            Err(error) => {
                let good = error.utf8_error().valid_up_to();
                let before = String::from_utf8_lossy(&error.as_bytes()[..good]).into_owned();
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().map_or(0, |tail| tail.chars().count()) + 1;
                Err(Box::new(Invalid {
                    at: Place {
                        file: name,
                        line: u32::try_from(line).unwrap_or(u32::MAX),
                        column: u32::try_from(column).unwrap_or(u32::MAX),
                    },
                    object: None,
                    field: String::new(),
                    why: "the file is not UTF-8 text".to_owned(),
                    remedy: Some("save it as UTF-8 without other encodings".to_owned()),
                    is_misshapen: false,
                    line: None,
                }))
            }
        }
    }

    /// The text of line `number` (from 1), if there is such a line.
    pub fn line(&self, number: u32) -> Option<&str> {
        self.text.lines().nth((number as usize).checked_sub(1)?).map(|line| line.trim_end_matches('\r'))
    }
}

/// The name of an object: kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// The kind, for example `HTTPRoute`.
    pub kind: Text,
    /// The namespace; empty for a kind without namespaces (GatewayClass, Namespace).
    pub namespace: Text,
    /// The object's own name.
    pub name: Text,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return write!(f, "{} {}", self.kind, self.name);
        }
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// One thing that is wrong with the configuration: where, of which object, why, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Where it stands.
    pub at: Place,
    /// The object it belongs to, when that is known.
    pub object: Option<ObjectName>,
    /// The path of the field inside the object, for example `spec.rules[0].matches`; may be empty.
    pub field: String,
    /// What is wrong, as a clause without a capital and without a full stop.
    pub why: String,
    /// What would make it right, when we can say.
    pub remedy: Option<String>,
    /// Whether what stands here has a shape that nothing here has, such as a field that does not exist or text in place of a mapping: nobody
    /// knows what it is, so that it may be a secret.
    pub is_misshapen: bool,
    /// The offending line of the file, for [`Invalid::snippet`]; the loader fills it in where it may be shown.
    pub line: Option<Arc<str>>,
}

impl Invalid {
    /// A finding without object, field or remedy; those are public fields.
    pub fn new(at: Place, why: impl Into<String>) -> Self {
        Self { at, object: None, field: String::new(), why: why.into(), remedy: None, is_misshapen: false, line: None }
    }

    /// Adds what would make it right.
    pub fn remedy(&mut self, remedy: impl Into<String>) -> &mut Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The finding as several lines: the message, the offending line with a caret under the place, and the remedy.
    /// Ends without a newline. Plain text, no colours.
    pub fn snippet(&self) -> String {
        let mut out = format!("{}: {}", self.at, self.subject());
        if let Some(line) = self.line.as_deref().filter(|_| self.at.line > 0) {
            let number = self.at.line.to_string();
            let margin = " ".repeat(number.len());
            let (shown, before, width) = window(line, self.at.column as usize);
            out.push_str(&format!(
                "\n{margin} |\n{number} | {shown}\n{margin} | {}{}",
                " ".repeat(before),
                "^".repeat(width)
            ));
            if let Some(remedy) = &self.remedy {
                out.push_str(&format!("\n{margin} = {remedy}"));
            }
        } else if let Some(remedy) = &self.remedy {
            out.push_str(&format!("\n  = {remedy}"));
        }
        out
    }

    fn subject(&self) -> String {
        let mut out = String::new();
        if let Some(object) = &self.object {
            out.push_str(&format!("{object}: "));
        }
        if !self.field.is_empty() {
            out.push_str(&format!("{}: ", self.field));
        }
        out.push_str(&self.why);
        out
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.subject())?;
        if let Some(remedy) = &self.remedy {
            write!(f, " ({remedy})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// Longest piece of a source line that a snippet shows, in characters; a line may be megabytes long.
const SNIPPET_WIDTH: usize = 120;

/// The part of `line` to show for a finding at `column`, how many characters stand before the caret in it, and how wide
/// the caret is. Tabs and control characters become single spaces, so that the caret stays under its place.
fn window(line: &str, column: usize) -> (String, usize, usize) {
    let start = column.saturating_sub(1);
    let skip = if start > SNIPPET_WIDTH * 2 / 3 { start - SNIPPET_WIDTH / 3 } else { 0 };
    let mut shown: String =
        line.chars().skip(skip).take(SNIPPET_WIDTH).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut before = start - skip;
    let width = token_width(&shown, before);
    if skip > 0 {
        shown.insert_str(0, "...");
        before += 3;
    }
    let shown = shown.trim_end().to_owned();
    (shown, before, width)
}

/// How many characters the word at `start` has: a quoted string, or everything up to white space, `:`, `,` or a bracket.
fn token_width(line: &str, start: usize) -> usize {
    let mut rest = line.chars().skip(start);
    let Some(first) = rest.next() else { return 1 };
    if first == '"' || first == '\'' {
        let mut width = 1;
        for c in rest {
            width += 1;
            if c == first {
                return width;
            }
        }
        return width;
    }
    let tail = line.chars().skip(start).collect::<Vec<_>>();
    let mut width = 0;
    for (index, c) in tail.iter().enumerate() {
        let ends = match c {
            ' ' | ',' | ']' | '}' | '[' | '{' => true,
            ':' => tail.get(index + 1).is_none_or(|next| *next == ' '),
            _ => false,
        };
        if ends {
            break;
        }
        width += 1;
    }
    width.max(1)
}

/// Something the user should know that does not make the configuration wrong: an object this version does not serve, a
/// duplicate that says the same thing twice, a secret that could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where it stands.
    pub at: Place,
    /// The object it belongs to, when that is known.
    pub object: Option<ObjectName>,
    /// What there is to know, as a clause.
    pub what: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.object {
            Some(object) => write!(f, "{}: {object}: {}", self.at, self.what),
            None => write!(f, "{}: {}", self.at, self.what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalid(line: &str, column: u32) -> Invalid {
        let mut invalid = Invalid::new(Place { file: "shop.yaml".into(), line: 12, column }, "unknown field `pth`");
        invalid.remedy("did you mean `path`?");
        invalid.line = Some(line.into());
        invalid
    }

    #[test]
    fn a_snippet_points_at_the_word() {
        assert_eq!(
            invalid("      pth: /cart", 7).snippet(),
            "shop.yaml:12:7: unknown field `pth`\n   |\n12 |       pth: /cart\n   |       ^^^\n   = did you mean `path`?"
        );
    }

    #[test]
    fn a_snippet_of_an_endless_line_is_cut_around_the_place() {
        let mut line = "x".repeat(1_000_000);
        line.push_str(" 'wrong' ");
        let shown = invalid(&line, 1_000_002).snippet();
        assert!(shown.len() < 1_000, "{}", shown.len());
        let caret = shown.lines().find(|line| line.contains('^')).unwrap();
        let text = shown.lines().nth(2).unwrap();
        let at = caret.find('^').unwrap();
        assert_eq!(&text[at..at + 7], "'wrong'");
        assert_eq!(caret.matches('^').count(), 7);
    }

    #[test]
    fn a_column_past_the_end_still_gives_a_caret() {
        assert!(invalid("a", 40).snippet().contains('^'));
        assert!(invalid("", 1).snippet().contains('^'));
    }

    #[test]
    fn bytes_that_are_no_utf8_are_refused_at_their_place() {
        let error = SourceText::from_bytes("a.yaml", b"a: 1\nb: \xff\n".to_vec()).unwrap_err();
        assert_eq!((error.at.line, error.at.column), (2, 4));
    }
}
