//! Builds trees from the events of the YAML parser, within a budget.
//!
//! Called through `value::read`. What a plain scalar means is in `scalar`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use granit_parser::{Event, Options, Parser, Span, StrInput};

use crate::place::{Invalid, Place, SourceText, Spot};
use crate::value::scalar::scalar;
use crate::value::{Entry, Node, Value, Words, quote};

/// What reading one file may cost.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Longest text, in bytes.
    pub bytes: usize,
    /// Deepest nesting of lists and mappings.
    pub depth: usize,
    /// Most nodes in all documents together.
    pub nodes: usize,
    /// Most nodes that anchors and aliases may copy; long texts count as several.
    pub repeated: usize,
    /// Most errors of the text that are reported before reading stops.
    pub errors: usize,
}

impl Default for Budget {
    /// 32 MiB, 64 levels, 2 million nodes, 200 thousand of them by repetition, 20 errors.
    fn default() -> Self {
        Self { bytes: 32 << 20, depth: 64, nodes: 2_000_000, repeated: 200_000, errors: 20 }
    }
}

/// Reads all documents of `source`. Empty documents are left out. Documents that could not be read are reported and left
/// out; the ones after them are still read.
pub fn read(source: &SourceText, budget: &Budget) -> (Vec<Value>, Vec<Invalid>) {
    let mut documents = Vec::new();
    let invalid = read_each(source, budget, &mut Words::default(), |document| documents.push(document));
    (documents, invalid)
}

/// The same, one document after the other, so that there is never more than one tree in memory. Gives the errors.
pub(crate) fn read_each(
    source: &SourceText,
    budget: &Budget,
    words: &mut Words,
    mut take: impl FnMut(Value),
) -> Vec<Invalid> {
    let mut reader =
        Reader { source, budget, words, nodes: 0, repeated: 0, anchors: HashMap::new(), invalid: Vec::new() };
    if source.text.len() > budget.bytes {
        let why = format!("the file has {} bytes, more than the limit of {}", source.text.len(), budget.bytes);
        reader.refuse(Spot { line: 1, column: 1 }, why, None);
        return reader.invalid;
    }
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = budget.depth.min(200);
    options.block_nesting_limit = budget.depth.min(200);
    let mut parser = Parser::new_from_str_with_options(&source.text, options);
    loop {
        match reader.documents(&mut parser, &mut take) {
            Ok(()) => break,
            Err(Stop::Everything) => break,
            Err(Stop::Document) => {
                if reader.invalid.len() >= budget.errors {
                    break;
                }
                match parser.proceed_next_document() {
                    Ok(true) => {}
                    Ok(false) | Err(_) => break,
                }
            }
        }
    }
    reader.invalid
}

/// Why reading stopped early; what is wrong has been written down already.
enum Stop {
    /// This document cannot be used; the next one may.
    Document,
    /// A budget of the whole file is used up.
    Everything,
}

type Events<'s> = Parser<'s, StrInput<'s>>;

/// A mapping or list that is still open.
struct Open {
    at: Spot,
    anchor: usize,
    parts: Parts,
}

enum Parts {
    List(Vec<Value>),
    Map {
        entries: Vec<Entry>,
        /// The keys so far, once there are too many to search one by one.
        seen: HashSet<Arc<str>>,
        key: Option<(Arc<str>, Spot)>,
        /// Mappings to merge in (`<<`), in order.
        merge: Vec<Value>,
    },
}

impl Parts {
    fn empty_map() -> Self {
        Parts::Map { entries: Vec::new(), seen: HashSet::new(), key: None, merge: Vec::new() }
    }
}

struct Reader<'s> {
    source: &'s SourceText,
    budget: &'s Budget,
    words: &'s mut Words,
    nodes: usize,
    repeated: usize,
    anchors: HashMap<usize, (Value, usize)>,
    invalid: Vec<Invalid>,
}

/// The key that merges other mappings into this one (YAML 1.1, kept by every Kubernetes tool).
const MERGE: &str = "<<";

/// Above this many entries a mapping keeps a set of its keys to find duplicates.
const SMALL_MAP: usize = 16;

impl Reader<'_> {
    fn refuse(&mut self, at: Spot, why: impl Into<String>, remedy: Option<&str>) {
        let mut invalid = Invalid::new(Place::new(self.source.name.clone(), at), why);
        invalid.remedy = remedy.map(str::to_owned);
        self.invalid.push(invalid);
    }

    fn documents(&mut self, parser: &mut Events<'_>, take: &mut impl FnMut(Value)) -> Result<(), Stop> {
        let mut open: Vec<Open> = Vec::new();
        let mut root: Option<Value> = None;
        while let Some(event) = parser.next_event() {
            let (event, span) = match event {
                Ok(event) => event,
                Err(error) => {
                    let at = spot(error.marker().line(), error.marker().col());
                    let remedy = hint(self.source, at);
                    self.refuse(at, format!("not YAML: {}", error.info()), remedy);
                    return Err(Stop::Document);
                }
            };
            let at = start(&span);
            let (value, anchor) = match event {
                Event::DocumentStart(..) => {
                    self.anchors.clear();
                    root = None;
                    continue;
                }
                Event::DocumentEnd => {
                    if let Some(document) = root.take().filter(|value| !value.is_null()) {
                        take(document);
                    }
                    continue;
                }
                Event::SequenceStart(_, anchor, _) => {
                    self.open(&mut open, at, anchor, Parts::List(Vec::new()))?;
                    continue;
                }
                Event::MappingStart(_, anchor, _) => {
                    self.open(&mut open, at, anchor, Parts::empty_map())?;
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let Some(closed) = open.pop() else { continue };
                    close(closed)
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.count(at)?;
                    // A tag that is not of the core schema is known to nobody here.
                    let tag = tag.as_deref().map(|tag| tag.core_suffix().unwrap_or("unknown"));
                    let Some(node) = scalar(&text, style, tag, self.words) else {
                        let remedy = Some("remove the tag");
                        self.refuse(at, "this tag does not fit here", remedy);
                        return Err(Stop::Document);
                    };
                    (Value { at, node }, anchor)
                }
                Event::Alias(anchor) => (self.repeat(anchor, at)?, 0),
                _ => continue,
            };
            if anchor != 0 {
                // Keeping it for its aliases is a copy like any other.
                let weight = weigh(&value);
                self.charge(weight, at)?;
                self.anchors.insert(anchor, (value.clone(), weight));
            }
            match open.last_mut() {
                Some(parent) => self.place(parent, value)?,
                None => root = Some(value),
            }
        }
        Ok(())
    }

    fn count(&mut self, at: Spot) -> Result<(), Stop> {
        self.nodes += 1;
        if self.nodes <= self.budget.nodes {
            return Ok(());
        }
        let why = format!("the file has more than {} values", self.budget.nodes);
        self.refuse(at, why, Some("split it into several files"));
        Err(Stop::Everything)
    }

    fn open(&mut self, open: &mut Vec<Open>, at: Spot, anchor: usize, parts: Parts) -> Result<(), Stop> {
        self.count(at)?;
        if open.len() >= self.budget.depth {
            let why = format!("nested more than {} levels deep", self.budget.depth);
            self.refuse(at, why, None);
            return Err(Stop::Document);
        }
        open.push(Open { at, anchor, parts });
        Ok(())
    }

    /// The value that an alias stands for. It keeps the position where it was written, which is where a mistake is mended.
    fn repeat(&mut self, anchor: usize, at: Spot) -> Result<Value, Stop> {
        let Some((value, weight)) = self.anchors.get(&anchor) else {
            self.refuse(at, "an alias inside the value it names has no end", None);
            return Err(Stop::Document);
        };
        let (value, weight) = (value.clone(), *weight);
        self.charge(weight, at)?;
        Ok(value)
    }

    /// Takes a copy of `weight` nodes out of the budget.
    fn charge(&mut self, weight: usize, at: Spot) -> Result<(), Stop> {
        self.repeated = self.repeated.saturating_add(weight);
        if self.repeated <= self.budget.repeated {
            return Ok(());
        }
        let why = format!("anchors and aliases repeat more than {} values", self.budget.repeated);
        self.refuse(at, why, Some("write the values out, or split the file"));
        Err(Stop::Everything)
    }

    fn place(&mut self, parent: &mut Open, value: Value) -> Result<(), Stop> {
        match &mut parent.parts {
            Parts::List(items) => items.push(value),
            Parts::Map { entries, seen, key, merge } => match key.take() {
                None => {
                    let Some(text) = key_text(&value) else {
                        let why = format!("a key must be text, not {}", value.describe());
                        self.refuse(value.at, why, None);
                        return Err(Stop::Document);
                    };
                    *key = Some((text, value.at));
                }
                Some((name, at)) if &*name == MERGE => match &value.node {
                    Node::Map(_) => merge.push(value),
                    Node::List(items) if items.iter().all(|item| matches!(item.node, Node::Map(_))) => {
                        merge.extend(items.iter().cloned());
                    }
                    _ => {
                        self.refuse(at, "`<<` needs a mapping, or a list of mappings", None);
                        return Err(Stop::Document);
                    }
                },
                Some((name, at)) => {
                    let twice = if entries.len() < SMALL_MAP {
                        entries.iter().any(|entry| entry.key == name)
                    } else {
                        if seen.is_empty() {
                            seen.extend(entries.iter().map(|entry| entry.key.clone()));
                        }
                        !seen.insert(name.clone())
                    };
                    if twice {
                        let first = entries.iter().find(|entry| entry.key == name);
                        let line = first.map_or(0, |entry| entry.at.line);
                        let why = format!("the key {} stands twice here", quote(&name));
                        self.refuse(at, why, Some(&format!("the first one is on line {line}; keep one")));
                        // Not worth losing the document over: the rest of its errors are wanted too.
                        return match self.invalid.len() < self.budget.errors {
                            true => Ok(()),
                            false => Err(Stop::Everything),
                        };
                    }
                    entries.push(Entry { key: name, at, value });
                }
            },
        }
        Ok(())
    }
}

/// A list or mapping that has come to its end, with its anchor.
fn close(closed: Open) -> (Value, usize) {
    let node = match closed.parts {
        Parts::List(items) => Node::List(items),
        Parts::Map { mut entries, merge, .. } => {
            // What stands in the mapping itself wins over what is merged in, and the first merged one over the next.
            let mut present: HashSet<Arc<str>> = match merge.is_empty() {
                true => HashSet::new(),
                false => entries.iter().map(|entry| entry.key.clone()).collect(),
            };
            for source in &merge {
                for entry in source.entries() {
                    if present.insert(entry.key.clone()) {
                        entries.push(entry.clone());
                    }
                }
            }
            Node::Map(entries)
        }
    };
    let at = closed.at;
    (Value { at, node }, closed.anchor)
}

fn spot(line: usize, column: usize) -> Spot {
    Spot {
        line: u32::try_from(line).unwrap_or(u32::MAX),
        column: u32::try_from(column).unwrap_or(u32::MAX).saturating_add(1),
    }
}

fn start(span: &Span) -> Spot {
    spot(span.start.line(), span.start.col())
}

/// The nodes of a tree, with one more for every 64 bytes of text.
fn weigh(value: &Value) -> usize {
    let inner = match &value.node {
        Node::List(items) => items.iter().map(weigh).sum(),
        Node::Map(entries) => entries.iter().map(|entry| 1 + weigh(&entry.value)).sum(),
        // The copies of a text are shared here, but not in every type that is read from them.
        Node::Text(text) => text.len() / 64,
        _ => 0,
    };
    1 + inner
}

/// Keys are text in every format we read; a number or `true` as a key (a port, a label) is taken as written.
fn key_text(value: &Value) -> Option<Arc<str>> {
    match &value.node {
        Node::Text(text) => Some(text.clone()),
        Node::Integer(number) => Some(number.to_string().into()),
        Node::Bool(value) => Some(value.to_string().into()),
        Node::Null => Some("null".into()),
        _ => None,
    }
}

/// What usually is behind a syntax error on this line.
fn hint(source: &SourceText, at: Spot) -> Option<&'static str> {
    let line = source.line(at.line)?;
    let indent = &line[..line.len() - line.trim_start().len()];
    if indent.contains('\t') {
        return Some("YAML is indented with spaces; there is a tab on this line");
    }
    if line.matches('"').count() % 2 == 1 {
        return Some("a quote is opened and not closed");
    }
    if line.contains("{{") {
        return Some("this looks like a template that has not been rendered; quote it or render it first");
    }
    if line.contains(" *.") || line.contains("[*.") || line.contains(",*.") {
        return Some("a host name that begins with `*` must be in quotes");
    }
    None
}
