//! Filters as resources write them into filters as requests meet them.

use transept_model::kinds::{HttpHeader, HttpHeaderFilter};
use transept_wire::head::FieldName;

use crate::filters::HeaderChanges;
use crate::filters::headers::is_reserved;

/// Compiles a header modifier.
///
/// # Errors
/// A sentence about the first field that cannot be changed.
pub(crate) fn compile_changes(filter: &HttpHeaderFilter) -> Result<HeaderChanges, String> {
    let name = |text: &str| {
        let name = FieldName::new(text).map_err(|why| format!("`{text}`: {why}"))?;
        if is_reserved(&name) {
            return Err(format!("`{text}` frames the message and cannot be changed"));
        }
        Ok(name)
    };
    let lines = |headers: &[HttpHeader]| {
        headers
            .iter()
            .map(|header| {
                Ok((
                    name(&header.name)?,
                    Box::from(header.value.trim().as_bytes()),
                ))
            })
            .collect::<Result<Box<[_]>, String>>()
    };
    Ok(HeaderChanges {
        remove: filter
            .remove
            .iter()
            .map(|text| name(text))
            .collect::<Result<_, _>>()?,
        set: lines(&filter.set)?,
        add: lines(&filter.add)?,
    })
}
