//! Tests of reading text, hostile text above all.

use super::*;
use crate::place::{Invalid, SourceText};

fn read_text(text: &str) -> (Vec<Value>, Vec<Invalid>) {
    read(&SourceText::new("a.yaml", text), &Budget::default())
}

fn one(text: &str) -> Value {
    let (mut documents, invalid) = read_text(text);
    assert!(invalid.is_empty(), "{invalid:?}");
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn refused(text: &str) -> Invalid {
    let (_, mut invalid) = read_text(text);
    assert_eq!(invalid.len(), 1, "{invalid:?}");
    invalid.remove(0)
}

#[test]
fn every_key_and_value_knows_its_place() {
    let value = one("a:\n  - b: x\n    c: [1, 2]\n");
    let item = &value.field("a").unwrap().items()[0];
    let entry = item.entry("c").unwrap();
    assert_eq!((entry.at.line, entry.at.column), (3, 5));
    let second = &entry.value.items()[1];
    assert_eq!((second.at.line, second.at.column), (3, 12));
    assert_eq!(second.node, Node::Integer(2));
}

#[test]
fn scalars_follow_the_core_schema() {
    let value = one(concat!(
        "a: 1\nb: -0x1\nc: 0x1F\nd: 0o17\ne: 1.5\nf: 1e3\ng: true\nh: yes\ni: ~\nj: '1'\n",
        "k: 1.2.3.4\nl: 99999999999999999999\nm: 10s\nn: !!str 5\no: .\np: 1_000\n"
    ));
    let node = |key: &str| value.field(key).unwrap().node.clone();
    let text = |text: &str| Node::Text(text.into());
    assert_eq!(node("a"), Node::Integer(1));
    assert_eq!(node("b"), text("-0x1"));
    assert_eq!(node("c"), Node::Integer(31));
    assert_eq!(node("d"), Node::Integer(15));
    assert_eq!(node("e"), Node::Float(1.5));
    assert_eq!(node("f"), Node::Float(1000.0));
    assert_eq!(node("g"), Node::Bool(true));
    assert_eq!(node("h"), text("yes"));
    assert_eq!(node("i"), Node::Null);
    assert_eq!(node("j"), text("1"));
    assert_eq!(node("k"), text("1.2.3.4"));
    assert_eq!(node("l"), Node::Float(1e20));
    assert_eq!(node("m"), text("10s"));
    assert_eq!(node("n"), text("5"));
    assert_eq!(node("o"), text("."));
    assert_eq!(node("p"), text("1_000"));
}

#[test]
fn json_is_yaml() {
    let value = one(r#"{"a": [1, "x", null, {"b": false}], "c": "\u00e9"}"#);
    assert_eq!(value.to_json(), serde_json::json!({"a": [1, "x", null, {"b": false}], "c": "é"}));
}

#[test]
fn a_file_has_many_documents_and_empty_ones_do_not_count() {
    let (documents, invalid) = read_text("# nothing\n---\na: 1\n---\n---\n# nothing\n---\nb: 2\n...\n");
    assert!(invalid.is_empty(), "{invalid:?}");
    assert_eq!(documents.len(), 2);
    assert_eq!(read_text("").0.len(), 0);
}

#[test]
fn a_broken_document_does_not_hide_the_ones_after_it() {
    let (documents, invalid) = read_text("a: [1, 2\n---\nb: 2\n---\nc: {\n---\nd: 4\n");
    assert_eq!(documents.len(), 2, "{documents:?}");
    assert_eq!(invalid.len(), 2, "{invalid:?}");
    assert!(documents[1].field("d").is_some());
}

#[test]
fn a_key_that_stands_twice_is_an_error_and_the_rest_is_still_read() {
    let (documents, invalid) = read_text("a: 1\nb: 2\na: 3\n");
    assert_eq!(invalid.len(), 1);
    assert_eq!((invalid[0].at.line, invalid[0].at.column), (3, 1));
    assert!(invalid[0].remedy.as_deref().unwrap().contains("line 1"));
    assert_eq!(documents[0].field("a").unwrap().node, Node::Integer(1));
    let mut many: String = (0..50).map(|n| format!("k{n}: 1\n")).collect();
    many.push_str("k40: 2\n");
    assert_eq!(refused(&many).at.line, 51);
}

#[test]
fn anchors_aliases_and_merge_keys_are_understood() {
    let value = one(concat!(
        "base: &base {a: 1, b: 2}\nother: &other {b: 3, c: 4}\n",
        "one: *base\ntwo:\n  <<: *base\n  b: 9\nthree:\n  <<: [*base, *other]\n"
    ));
    let json = value.to_json();
    assert_eq!(json["one"], serde_json::json!({"a": 1, "b": 2}));
    assert_eq!(json["two"], serde_json::json!({"b": 9, "a": 1}));
    assert_eq!(json["three"], serde_json::json!({"a": 1, "b": 2, "c": 4}));
    assert!(refused("a: &x 1\nb:\n  <<: *x\n").why.contains("<<"));
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        let list = vec![before; 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    let invalid = refused(&text);
    assert!(invalid.why.contains("aliases repeat"), "{}", invalid.why);
    assert!(invalid.at.line > 3);
}

#[test]
fn an_alias_inside_what_it_names_is_refused() {
    assert!(refused("a: &a [1, *a]\n").why.contains("no end"));
    assert!(refused("a: &a {b: {c: *a}}\n").why.contains("no end"));
    assert_eq!(refused("a: *nowhere\n").at.line, 1);
}

#[test]
fn nesting_has_a_limit() {
    for text in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000)] {
        let (documents, invalid) = read_text(&text);
        assert!(documents.is_empty());
        assert_eq!(invalid.len(), 1);
    }
    let fits = format!("{}{}", "[".repeat(60), "]".repeat(60));
    assert_eq!(read_text(&fits).0.len(), 1);
}

#[test]
fn size_and_number_of_values_have_limits() {
    let budget = Budget { bytes: 1_000, nodes: 50, ..Budget::default() };
    let long = SourceText::new("a.yaml", "#".repeat(1_001));
    assert!(read(&long, &budget).1[0].why.contains("1001 bytes"));
    let many = SourceText::new("a.yaml", format!("[{}]", "1,".repeat(200)));
    assert!(read(&many, &budget).1[0].why.contains("more than 50 values"));
}

#[test]
fn tabs_and_open_quotes_are_explained() {
    let tab = refused("a:\n\tb: 1\n");
    assert!(tab.remedy.unwrap().contains("tab"), "{}", tab.why);
    for text in ["hostnames:\n- *.a.com\n", "hostname: *.a.com\n", "hostnames: [*.a.com]\n"] {
        let star = refused(text);
        assert!(star.remedy.unwrap().contains("in quotes"), "{}", star.why);
    }
}

#[test]
fn hostile_text_never_panics() {
    let seeds = [
        "a: 1\0b",
        "\u{feff}a: 1",
        "%YAML 1.2\n---\na",
        "%TAG ! x\n--- !y",
        "? [a]\n: b",
        "? {a: b}\n: c",
        "a: !!binary x",
        "a: !!int x",
        "&a",
        "*a",
        "<<: 1",
        "<<:",
        "- - - -",
        "|",
        ">\n",
        "'",
        "\"",
        "\"\\x\"",
        "\"\\ud800\"",
        "a: b: c",
        "{a",
        "[a",
        "}",
        "]",
        ":",
        "-",
        "?",
        "!",
        "%",
        "@",
        "`",
        "---\n---\n---",
        "...\n...",
        "a: |9\n b",
        "\r\r\r",
        "\u{85}",
        "\u{2028}",
        "a: &a\nb: *a",
        "!<tag:yaml.org,2002:str> x",
        "key: [a, b]: c",
        "\u{10ffff}: x",
        "a:\n  b\n c",
    ];
    for seed in seeds {
        read_text(seed);
        for other in seeds {
            read_text(&format!("{seed}\n{other}"));
            read_text(&format!("x: {seed}{other}"));
        }
    }
    // Every prefix of a real document, and the document with each byte replaced.
    let real = "apiVersion: v1\nkind: Service\nmetadata: {name: \"a\"}\nspec:\n  ports:\n  - port: 80 # x\n";
    for end in 0..real.len() {
        read_text(&real[..end]);
        for byte in ['\0', '\t', '{', '"', '&', '*', '|', '\n'] {
            let mut text = real.to_owned();
            text.replace_range(end..end + 1, &byte.to_string());
            read_text(&text);
        }
    }
}

#[test]
fn errors_of_one_file_are_limited() {
    let text = "a: [\n---\n".repeat(1_000);
    let (_, invalid) = read_text(&text);
    assert!(invalid.len() <= Budget::default().errors, "{}", invalid.len());
}
