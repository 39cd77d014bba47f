//! Reads trees into types and writes down everything that is wrong on the way.
//!
//! Called by the code that the schema macros make and by the loader. A decoder never stops at the first error; it leaves to
//! `place` how errors look.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::place::{Invalid, ObjectName, Place, Spot};
use crate::schema::{Rule, Schema};
use crate::secrecy;
use crate::suggest;
use crate::value::{Node, Value, quote, ticked};

/// One step of the way into an object.
#[derive(Clone, Debug)]
pub enum Step {
    /// A field with a fixed name.
    Field(&'static str),
    /// An item of a list, from 0.
    Index(usize),
    /// An entry of a free mapping.
    Key(Arc<str>),
}

impl From<&'static str> for Step {
    fn from(name: &'static str) -> Self {
        Step::Field(name)
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Step::Index(index)
    }
}

/// What happens when a field is not written.
pub enum Presence<T> {
    /// The type decides: an option is none, a list is empty, everything else is missing.
    ByType,
    /// This value is taken.
    Default(fn() -> T),
}

/// Most errors of one object that are written down. Nobody reads more, and a hostile file could have millions.
const MOST_PROBLEMS: usize = 200;

/// Collects the errors of one object while it is read.
#[derive(Debug)]
pub struct Decoder {
    file: Arc<str>,
    object: Option<ObjectName>,
    path: Vec<Step>,
    problems: Vec<Invalid>,
    /// How many errors were found when there was no more room.
    further: usize,
    /// Whether a field without a value is an error.
    refuses_nothing: bool,
}

impl Decoder {
    /// A decoder for (a part of) `file`.
    pub fn new(file: Arc<str>) -> Self {
        Self { file, object: None, path: Vec::new(), problems: Vec::new(), further: 0, refuses_nothing: false }
    }

    /// Names the object that the following errors belong to.
    pub fn about(&mut self, object: Option<ObjectName>) {
        self.object = object;
    }

    /// Writes an error at `at`, in the field that is being read. A remedy can be added to what is returned.
    pub fn refuse(&mut self, at: Spot, why: impl Into<String>) -> &mut Invalid {
        let mut invalid = Invalid::new(Place::new(self.file.clone(), at), why);
        invalid.object = self.object.clone();
        if self.problems.len() > MOST_PROBLEMS {
            // The last one stands for all further ones.
            self.further += 1;
            invalid.why = format!("{} more errors in this object", self.further);
            self.problems.pop();
        } else {
            invalid.field = self.field_path();
        }
        self.problems.push(invalid);
        let last = self.problems.len() - 1;
        &mut self.problems[last]
    }

    /// Where `at` is, for errors that are found later.
    pub fn place(&self, at: Spot) -> Place {
        Place::new(self.file.clone(), at)
    }

    /// True when further errors are only counted.
    fn is_full(&self) -> bool {
        self.problems.len() > MOST_PROBLEMS
    }

    /// Writes an error at the field `name` of `value`, or at `value` when it has no such field.
    pub fn refuse_field(&mut self, value: &Value, name: &'static str, why: impl Into<String>) -> &mut Invalid {
        self.path.push(Step::Field(name));
        let at = value.spot_of(name);
        self.refuse(at, why);
        self.path.pop();
        let last = self.problems.len() - 1;
        &mut self.problems[last]
    }

    /// Runs `work` one step further inside the object, so that its errors name the field.
    pub fn within<R>(&mut self, step: impl Into<Step>, work: impl FnOnce(&mut Self) -> R) -> R {
        self.path.push(step.into());
        let result = work(self);
        self.path.pop();
        result
    }

    /// How many errors there are so far.
    pub fn count(&self) -> usize {
        self.problems.len()
    }

    /// Adds a remedy to the error that was written last.
    pub fn amend(&mut self, remedy: impl Into<String>) {
        if let Some(last) = self.problems.last_mut() {
            last.remedy(remedy);
        }
    }

    /// True when the last error stands at `at`.
    pub(crate) fn has_refused(&self, at: Spot) -> bool {
        self.problems.last().is_some_and(|last| (last.at.line, last.at.column) == (at.line, at.column))
    }

    /// All errors, in the order they were found.
    pub fn into_problems(self) -> Vec<Invalid> {
        self.problems
    }

    /// Takes the errors found so far out of the decoder.
    pub fn take_problems(&mut self) -> Vec<Invalid> {
        std::mem::take(&mut self.problems)
    }

    /// The path of the field that is being read: `spec.rules[0].matches`.
    pub fn field_path(&self) -> String {
        let mut out = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) => {
                    if !out.is_empty() {
                        out.push('.');
                    }
                    out.push_str(name);
                }
                Step::Index(index) => {
                    let _ = write!(out, "[{index}]");
                }
                Step::Key(key) => {
                    let _ = write!(out, "[{key}]");
                }
            }
        }
        out
    }

    /// Whether what is read here may be a credential, or stand in the place of one: no error repeats it.
    pub(crate) fn reads_secret(&self) -> bool {
        self.object.as_ref().is_some_and(secrecy::holds_secrets) || secrecy::takes_secret(&self.field_path())
    }

    /// Writes that `what` was expected instead of `value`, with the usual remedies. A value in place of a mapping or a list is not repeated: it
    /// may be the secret that a reference should name.
    pub fn expected(&mut self, value: &Value, what: &str) {
        let wants_parts = matches!(what, "a mapping" | "a list");
        let has_parts = matches!(value.node, Node::Map(_) | Node::List(_));
        let is_hidden = wants_parts && !matches!(value.node, Node::Map(_)) || self.reads_secret();
        let found = if is_hidden { value.kind().to_owned() } else { value.describe() };
        let invalid = self.refuse(value.at, format!("expected {what}, found {found}"));
        invalid.is_misshapen = is_hidden || has_parts && !wants_parts;
        invalid.remedy = remedy(value, what, is_hidden);
    }

    /// Sorts the entries of a mapping into the fields `names`, in that order. Keys that are neither there nor in
    /// `ignored` are errors; an `ignored` of `["*"]` lets every other key pass. `null` counts as not written.
    pub fn fields<'v, const N: usize>(
        &mut self,
        value: &'v Value,
        names: &[&'static str; N],
        ignored: &[&str],
    ) -> Option<[Option<&'v Value>; N]> {
        let mut found = [None; N];
        let Node::Map(entries) = &value.node else {
            self.expected(value, "a mapping");
            self.amend(format!("write the fields with their values; known here: {}", names.join(", ")));
            return None;
        };
        for entry in entries {
            if let Some((index, name)) = names.iter().enumerate().find(|(_, name)| ***name == *entry.key) {
                if !entry.value.is_null() {
                    found[index] = Some(&entry.value);
                } else if self.refuses_nothing {
                    self.has_no_value(name, entry.at);
                }
            } else if !ignored.contains(&&*entry.key) && !ignored.contains(&"*") {
                self.unknown(&entry.key, entry.at, names);
            }
        }
        Some(found)
    }

    /// From here on a field that is written without a value is an error. What a template leaves behind (`groups:`) would be taken as not written, which
    /// mostly means everybody.
    pub fn refuse_nothing(&mut self) {
        self.refuses_nothing = true;
    }

    fn has_no_value(&mut self, name: &'static str, at: Spot) {
        self.within(name, |cx| {
            cx.refuse(at, format!("`{name}` has no value")).remedy("write one, or leave the field away");
        });
    }

    /// Writes that there is no field `key` here.
    pub fn unknown(&mut self, key: &str, at: Spot, names: &[&str]) {
        let full = self.is_full();
        // What is like no field, where a reference to a credential belongs, may be the credential in braces.
        let is_like_none = suggest::nearest(key, names.iter().copied()).is_none();
        let may_be_secret = is_like_none && self.reads_secret();
        let why = if may_be_secret { "unknown field".to_owned() } else { format!("unknown field {}", ticked(key)) };
        let invalid = self.refuse(at, why);
        invalid.is_misshapen = true;
        if !full {
            invalid.remedy = suggest::remedy(key, names);
        }
    }

    /// Reads one field of an object that begins at `owner`.
    pub fn field<T: Schema>(
        &mut self,
        name: &'static str,
        found: Option<&Value>,
        owner: Spot,
        presence: Presence<T>,
        rules: &'static [Rule],
    ) -> Option<T> {
        self.path.push(Step::Field(name));
        let result = match found {
            Some(value) => {
                for rule in rules {
                    rule.check(value, self);
                }
                T::decode(value, self)
            }
            None => self.missing(owner, presence, rules),
        };
        self.path.pop();
        result
    }

    /// Reads one word out of a closed list.
    pub fn word(&mut self, value: &Value, words: &'static [&'static str]) -> Option<&'static str> {
        let Some(text) = value.text() else {
            let what = format!("one of {}", words.join(", "));
            self.expected(value, &what);
            return None;
        };
        let found = words.iter().find(|word| **word == text);
        if found.is_none() {
            let invalid = self.refuse(value.at, format!("{} is not allowed here", quote(text)));
            invalid.remedy = match suggest::nearest(text, words.iter().copied()) {
                Some(near) => Some(format!("did you mean `{near}`?")),
                None => Some(format!("one of {}", words.join(", "))),
            };
        }
        found.copied()
    }

    /// Reads the envelope of a tagged union: which word the tag field has, and the value of that variant's own field. The
    /// fields of other variants must not be there. `words` and `fields` run in parallel.
    pub fn variant<'v>(
        &mut self,
        value: &'v Value,
        tag: &'static str,
        words: &'static [&'static str],
        fields: &[&'static str],
    ) -> Option<(&'static str, &'v Value)> {
        if !matches!(value.node, Node::Map(_)) {
            self.expected(value, "a mapping");
            return None;
        }
        let word = match value.field(tag) {
            Some(found) => self.within(tag, |cx| cx.word(found, words)),
            None => {
                let invalid = self.refuse(value.at, format!("the field `{tag}` is missing"));
                let set = fields.iter().position(|field| value.field(field).is_some());
                if let Some(word) = set.and_then(|index| words.get(index)) {
                    invalid.remedy(format!("add `{tag}: {word}`"));
                }
                None
            }
        };
        let index = word.and_then(|word| words.iter().position(|known| *known == word));
        let mut inner = None;
        for entry in value.entries() {
            let Some(position) = fields.iter().position(|field| **field == *entry.key) else {
                if *entry.key != *tag {
                    let mut known = vec![tag];
                    known.extend(fields);
                    self.unknown(&entry.key, entry.at, &known);
                }
                continue;
            };
            if Some(position) == index {
                inner = Some(&entry.value).filter(|value| !value.is_null());
            } else if let (Some(word), false) = (word, entry.value.is_null()) {
                let why = format!("`{}` is set, but `{tag}` is {word}", entry.key);
                let other = words.get(position).copied().unwrap_or_default();
                self.refuse(entry.at, why).remedy(format!("remove it, or set `{tag}: {other}`"));
            }
        }
        let (word, index) = (word?, index?);
        if inner.is_none() {
            let field = fields.get(index).copied().unwrap_or_default();
            self.refuse(value.at, format!("`{tag}` is {word}, but `{field}` is not set"))
                .remedy(format!("add `{field}:`"));
        }
        inner.map(|inner| (word, inner))
    }

    fn missing<T: Schema>(&mut self, owner: Spot, presence: Presence<T>, rules: &'static [Rule]) -> Option<T> {
        if let Presence::Default(default) = presence {
            return Some(default());
        }
        let needed = rules.iter().any(Rule::needs_something);
        match T::absent() {
            Some(absent) if !needed => Some(absent),
            _ => {
                let name = match self.path.last() {
                    Some(Step::Field(name)) => *name,
                    _ => "",
                };
                let remedy = match name {
                    // Of Kubernetes itself it is empty, which must be written all the same.
                    "group" => {
                        "add `group:` and the group of the kind; for a Service or another kind of Kubernetes itself `group: ''`".to_owned()
                    }
                    name => format!("add `{name}:`"),
                };
                self.refuse(owner, format!("the field `{name}` is missing")).remedy(remedy);
                None
            }
        }
    }
}

/// What is done about a value that is none of what was expected. It repeats nothing of one that is hidden.
fn remedy(value: &Value, what: &str, is_hidden: bool) -> Option<String> {
    let said = match (&value.node, what) {
        (Node::Integer(_) | Node::Float(_) | Node::Bool(_), "text") if is_hidden => "put it in quotes",
        (Node::Integer(number), "text") => return Some(format!("put it in quotes: \"{number}\"")),
        (Node::Bool(flag), "text") => return Some(format!("put it in quotes: \"{flag}\"")),
        (Node::Text(text), _) if !is_hidden && what.contains("number") && text.parse::<i64>().is_ok() => {
            return Some(format!("write it without quotes: {text}"));
        }
        (Node::Text(text), "true or false") => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "true" => "write `true`",
            "no" | "off" | "false" => "write `false`",
            _ => return None,
        },
        (Node::Map(_), "a list") => "begin each item with `- `",
        (Node::Text(_) | Node::Integer(_) | Node::Float(_) | Node::Bool(_), "a list") => {
            "write `[` before it and `]` behind it, or begin each item with `- `"
        }
        (Node::List(_), "text") => "write one text, without `[`, `]` and `- `",
        (Node::Map(_), "text") => "write a text; one in braces, such as JSON, is put in quotes",
        _ => return None,
    };
    Some(said.to_owned())
}
