//! JSON Patch (RFC 6902) with the four operations that the suite uses. Called by `world`.

use serde_json::Value;

use crate::case::Operation;

/// Applies the operations in order.
///
/// # Errors
/// A sentence: a path leads nowhere, or a `test` operation found something else.
pub(crate) fn patch(document: &mut Value, operations: &[Operation]) -> Result<(), String> {
    operations.iter().try_for_each(|operation| apply(document, operation))
}

fn apply(document: &mut Value, operation: &Operation) -> Result<(), String> {
    match operation {
        Operation::Test { path, value } => match document.pointer(path) {
            Some(found) if found == value => Ok(()),
            found => Err(format!("{path} is {found:?}, not {value}")),
        },
        Operation::Replace { path, value } => {
            let place = document.pointer_mut(path).ok_or_else(|| nowhere(path))?;
            *place = value.clone();
            Ok(())
        }
        Operation::Add { path, value } => {
            let (parent, key) = parent_of(document, path)?;
            match parent {
                Value::Object(fields) => {
                    fields.insert(key, value.clone());
                    Ok(())
                }
                Value::Array(items) if key == "-" => {
                    items.push(value.clone());
                    Ok(())
                }
                Value::Array(items) => match key.parse() {
                    Ok(at) if at <= items.len() => {
                        items.insert(at, value.clone());
                        Ok(())
                    }
                    _ => Err(nowhere(path)),
                },
                _ => Err(nowhere(path)),
            }
        }
        Operation::Remove { path } => {
            let (parent, key) = parent_of(document, path)?;
            let removed = match parent {
                Value::Object(fields) => fields.remove(&key),
                Value::Array(items) => {
                    let at = key.parse().ok().filter(|at| *at < items.len());
                    at.map(|at| items.remove(at))
                }
                _ => None,
            };
            removed.map(drop).ok_or_else(|| nowhere(path))
        }
    }
}

fn parent_of<'a>(document: &'a mut Value, path: &str) -> Result<(&'a mut Value, String), String> {
    let (parent, key) = path.rsplit_once('/').ok_or_else(|| nowhere(path))?;
    let parent = document.pointer_mut(parent).ok_or_else(|| nowhere(path))?;
    // RFC 6901, section 4: first `~1`, then `~0`.
    Ok((parent, key.replace("~1", "/").replace("~0", "~")))
}

fn nowhere(path: &str) -> String {
    format!("{path} leads nowhere")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn operations(value: Value) -> Vec<Operation> {
        serde_json::from_value(value).expect("operations")
    }

    #[test]
    fn operations_change_lists_and_maps_in_order() {
        let mut document = json!({"spec": {"listeners": [{"name": "https"}, {"name": "http"}]}});
        let operations = operations(json!([
            {"op": "test", "path": "/spec/listeners/0/name", "value": "https"},
            {"op": "remove", "path": "/spec/listeners/0"},
            {"op": "add", "path": "/spec/listeners/-", "value": {"name": "new"}},
            {"op": "replace", "path": "/spec/listeners/0/name", "value": "first"},
        ]));
        patch(&mut document, &operations).expect("applies");
        assert_eq!(document, json!({"spec": {"listeners": [{"name": "first"}, {"name": "new"}]}}));
    }

    #[test]
    fn a_path_that_leads_nowhere_and_a_failed_test_are_errors() {
        let mut document = json!({"a": [1]});
        for wrong in [
            json!([{"op": "test", "path": "/a/0", "value": 2}]),
            json!([{"op": "remove", "path": "/a/1"}]),
            json!([{"op": "replace", "path": "/b", "value": 2}]),
            json!([{"op": "add", "path": "/a/3", "value": 2}]),
        ] {
            assert!(patch(&mut document, &operations(wrong)).is_err());
        }
        assert_eq!(document, json!({"a": [1]}));
    }
}
