//! JSON in which no member occurs twice (RFC 8725 section 2.6, RFC 7515 section 4).
//!
//! Of two members with one name, parsers take the first or the last, and a token must not mean one thing here and another behind us.
//! Called for headers, payloads, key sets and documents of providers.

use std::fmt;

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Deeper nesting than this is refused; tokens of real issuers stay below ten.
const MOST_DEPTH: u8 = 32;

/// Reads a whole JSON text.
///
/// # Errors
/// What is wrong with it, without quoting it.
pub fn parse(text: &[u8]) -> Result<Value, &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8")?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict { depth: 0 }.deserialize(&mut reader).map_err(|error| {
        let told = error.to_string();
        if told.starts_with(TWICE) {
            TWICE
        } else if told.starts_with(DEEP) {
            DEEP
        } else {
            "it is not JSON"
        }
    })?;
    reader.end().map_err(|_| "something follows the JSON")?;
    Ok(value)
}

const TWICE: &str = "a member occurs twice";
const DEEP: &str = "it is nested too deeply";

#[derive(Clone, Copy)]
struct Strict {
    depth: u8,
}

impl Strict {
    fn deeper<E: Error>(self) -> Result<Strict, E> {
        if self.depth >= MOST_DEPTH {
            return Err(E::custom(DEEP));
        }
        Ok(Strict { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let deeper = self.deeper()?;
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(deeper)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let deeper = self.deeper()?;
        let mut all = Map::new();
        while let Some(name) = members.next_key_seed(Name)? {
            let value = members.next_value_seed(deeper)?;
            if all.insert(name, value).is_some() {
                return Err(A::Error::custom(TWICE));
            }
        }
        Ok(Value::Object(all))
    }
}

struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        String::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_as_it_is() {
        let text = br#" {"a": [1, -2, 0.5, "x", null, true], "b": {"a": 18446744073709551615}} "#;
        let expected: Value = serde_json::from_slice(text).expect("JSON");
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn a_member_that_occurs_twice_is_refused_at_any_depth_and_in_any_spelling() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"b":[{"a":1,"c":2,"a":3}]}"#, r#"{"a":1,"\u0061":2}"#] {
            assert_eq!(parse(text.as_bytes()), Err(TWICE), "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        assert_eq!(parse(b"{} {}"), Err("something follows the JSON"));
        assert_eq!(parse(b"\xff"), Err("it is not UTF-8"));
        assert_eq!(parse(&b"[".repeat(4000)), Err(DEEP));
        for text in ["", "{", "{'a':1}", "{\"a\":1,}", "NaN", "1e999", "\u{feff}{}", "{\"a\":\"\n\"}"] {
            assert_eq!(parse(text.as_bytes()), Err("it is not JSON"), "{text:?}");
        }
    }
}
