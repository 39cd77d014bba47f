//! The reference page: every kind and every type with its fields, in Markdown.
//!
//! Called by `schema`. All words come from the documentation of the types; the order is that of the catalogue, then of the
//! alphabet, so that the page changes only when a type does.

use std::collections::BTreeMap;

use serde_json::Value;
use transept_model::Target;
use transept_model::catalogue::KindDescription;
use transept_model::kinds::Body;
use transept_model::schema::{FieldShape, ObjectShape, Rule, Shape, UnionShape};

/// A type that has a section of its own.
enum Section {
    Object(ObjectShape),
    Union(UnionShape),
}

/// Writes the page.
pub(super) fn write(kinds: &[KindDescription]) -> String {
    let mut out = String::from(
        "\
# Configuration reference

<!-- Written by `transept schema --reference`; change the types, not this page. -->

Every object has `apiVersion`, `kind` and `metadata` (`name`, `namespace`, `labels`, `annotations`). Unknown fields are errors.
A field in **bold** must be written.

",
    );
    for kind in kinds {
        out.push_str(&format!("- [{}](#{})\n", kind.kind, anchor(kind.kind)));
    }
    let mut types = BTreeMap::new();
    for kind in kinds {
        write_kind(&mut out, kind);
        if let Shape::Object(object) = &kind.shape {
            for field in &object.fields {
                collect(&field.shape, &mut types);
            }
        }
    }
    out.push_str("\n# Types\n");
    for (name, section) in &types {
        match section {
            Section::Object(object) => {
                out.push_str(&format!("\n## {name}\n\n{}\n", text(object.doc)));
                write_fields(&mut out, &object.fields);
            }
            Section::Union(union) => write_union(&mut out, union),
        }
    }
    out
}

fn write_kind(out: &mut String, kind: &KindDescription) {
    let versions: Vec<String> = kind.api_versions().iter().map(|version| format!("`{version}`")).collect();
    out.push_str(&format!("\n## {}\n\n{}\n\n`apiVersion`: {}", kind.kind, text(&kind.about), versions.join(" or ")));
    if !kind.targets.is_empty() {
        let targets: Vec<&str> = kind.targets.iter().map(|target| Target::as_str(*target)).collect();
        out.push_str(&format!(". Attaches to: {}", targets.join(", ")));
    }
    out.push_str(match kind.body {
        Body::Spec => ". Fields of `spec`:\n",
        Body::Inline => ". Fields beside `metadata`:\n",
    });
    match &kind.shape {
        Shape::Object(object) => {
            // The first paragraph says again what the kind is for.
            for paragraph in paragraphs(object.doc).skip(1) {
                out.push_str(&format!("\n{paragraph}\n"));
            }
            write_fields(out, &object.fields);
        }
        other => out.push_str(&format!("\n{}\n", name_of(other))),
    }
}

fn write_fields(out: &mut String, fields: &[FieldShape]) {
    if fields.is_empty() {
        out.push_str("\nIt has no fields.\n");
        return;
    }
    out.push_str("\n| field | type | default | meaning |\n|---|---|---|---|\n");
    for field in fields {
        let name = if field.required { format!("**`{}`**", field.name) } else { format!("`{}`", field.name) };
        let default = match &field.default {
            None | Some(Value::Null) => String::new(),
            Some(value) => format!("`{value}`"),
        };
        let mut meaning = vec![text(field.doc)];
        meaning.extend(words_of(&field.shape));
        meaning.extend(field.rules.iter().filter_map(describe));
        out.push_str(&format!(
            "| {name} | {} | {} | {} |\n",
            name_of(&field.shape),
            cell(&default),
            cell(&meaning.join(" "))
        ));
    }
}

fn write_union(out: &mut String, union: &UnionShape) {
    out.push_str(&format!(
        "\n## {}\n\n{}\n\n`{}` says which of the other fields is there.\n\n| `{}` | field | type | meaning |\n|---|---|---|---|\n",
        union.name,
        text(union.doc),
        union.tag,
        union.tag
    ));
    for variant in &union.variants {
        out.push_str(&format!(
            "| `{}` | `{}` | {} | {} |\n",
            variant.word,
            variant.field,
            name_of(&variant.shape),
            cell(&text(variant.doc))
        ));
    }
}

/// Notes every named type that a shape is made of.
fn collect(shape: &Shape, types: &mut BTreeMap<&'static str, Section>) {
    match shape {
        Shape::List(inner) | Shape::Map(inner) => collect(inner, types),
        Shape::Object(object) if types.insert(object.name, Section::Object(object.clone())).is_none() => {
            for field in &object.fields {
                collect(&field.shape, types);
            }
        }
        Shape::Union(union) if types.insert(union.name, Section::Union(union.clone())).is_none() => {
            for variant in &union.variants {
                collect(&variant.shape, types);
            }
        }
        _ => {}
    }
}

/// The type of a field in a few words.
fn name_of(shape: &Shape) -> String {
    match shape {
        Shape::Any => "anything".to_owned(),
        Shape::Bool => "boolean".to_owned(),
        Shape::Integer(..) | Shape::Numbers(_) => "integer".to_owned(),
        Shape::IntegerOrText => "integer or string".to_owned(),
        Shape::Text | Shape::Open(_) | Shape::Choice(..) => "string".to_owned(),
        Shape::Base64 => "string (base64)".to_owned(),
        Shape::Duration => "duration".to_owned(),
        Shape::List(inner) => format!("list of {}", name_of(inner)),
        Shape::Map(inner) => format!("map of {}", name_of(inner)),
        Shape::Object(object) => format!("[{}](#{})", object.name, anchor(object.name)),
        Shape::Union(union) => format!("[{}](#{})", union.name, anchor(union.name)),
    }
}

/// The words that a field may hold, each with what it means.
fn words_of(shape: &Shape) -> Option<String> {
    let list = |words: &[(&str, &str)]| -> String {
        let words: Vec<String> = words
            .iter()
            .map(|(word, doc)| match text(doc).trim_end_matches('.') {
                "" => format!("`{word}`"),
                doc => format!("`{word}` ({doc})"),
            })
            .collect();
        words.join(", ")
    };
    match shape {
        Shape::Choice(_, words) => Some(format!("One of {}.", list(words))),
        Shape::Open(words) => Some(format!("Known: {}.", list(words))),
        Shape::Numbers(numbers) => {
            let numbers: Vec<String> = numbers.iter().map(|number| format!("`{number}`")).collect();
            Some(format!("One of {}.", numbers.join(", ")))
        }
        Shape::List(inner) | Shape::Map(inner) => words_of(inner),
        _ => None,
    }
}

/// A rule in a few words; rules of format are told by the documentation of the field.
fn describe(rule: &Rule) -> Option<String> {
    match rule {
        Rule::MinItems(0) | Rule::Is(_) | Rule::Keys(_) => None,
        Rule::MinItems(least) => Some(format!("At least {least}.")),
        Rule::NotEmpty => Some("Not empty.".to_owned()),
        Rule::MaxItems(most) | Rule::MaxEntries(most) => Some(format!("At most {most}.")),
        Rule::Length(0, most) => Some(format!("At most {most} characters.")),
        Rule::Length(least, most) => Some(format!("{least} to {most} characters.")),
        Rule::Range(least, i64::MAX) => Some(format!("At least {least}.")),
        Rule::Range(least, most) => Some(format!("{least} to {most}.")),
        Rule::Unique => Some("Each once.".to_owned()),
        Rule::UniqueBy(field) => Some(format!("Each `{field}` once.")),
    }
}

/// Documentation by its paragraphs, each as one line.
fn paragraphs(doc: &str) -> impl Iterator<Item = String> {
    let lines: Vec<&str> = doc.lines().map(str::trim).collect();
    let whole = lines.join("\n");
    let paragraphs: Vec<String> = whole.trim().split("\n\n").map(text).collect();
    paragraphs.into_iter()
}

/// Documentation as one line.
fn text(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text that fits into a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The anchor that Markdown renderers give a heading of one word.
fn anchor(name: &str) -> String {
    name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use transept_engine::policies;
    use transept_model::catalogue::catalogue;

    use super::*;

    #[test]
    fn every_link_has_its_heading() {
        let page = write(&catalogue(policies::MODEL_KINDS));
        let headings: Vec<String> = page.lines().filter_map(|line| line.strip_prefix("## ")).map(anchor).collect();
        let mut links = 0;
        for rest in page.split("](#").skip(1) {
            let link = rest.split(')').next().unwrap_or_default();
            assert!(headings.iter().any(|heading| heading == link), "{link}");
            links += 1;
        }
        assert!(links > 50, "{links}");
        let mut unique = headings.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), headings.len(), "two headings are the same");
    }

    /// What every type with a section says of itself, by name.
    fn walk(shape: &Shape, said: &mut BTreeMap<&'static str, &'static str>) {
        let (name, doc, inner): (_, _, Vec<&Shape>) = match shape {
            Shape::List(inner) | Shape::Map(inner) => return walk(inner, said),
            Shape::Object(object) => {
                (object.name, object.doc, object.fields.iter().map(|field| &field.shape).collect())
            }
            Shape::Union(union) => (union.name, union.doc, union.variants.iter().map(|one| &one.shape).collect()),
            _ => return,
        };
        match said.insert(name, doc) {
            Some(other) => assert_eq!(other, doc, "two types are called {name}, and one of them has no section"),
            None => inner.into_iter().for_each(|shape| walk(shape, said)),
        }
    }

    #[test]
    fn no_two_types_have_one_name() {
        let mut said = BTreeMap::new();
        for kind in catalogue(policies::MODEL_KINDS) {
            walk(&kind.shape, &mut said);
        }
        assert!(said.len() > 50, "{}", said.len());
    }
}
