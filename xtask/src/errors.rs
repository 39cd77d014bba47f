//! `docs/errors.md`: the table of reasons for which the gateway answers by itself, as the engine has it.
//!
//! Called by `main` to print the page and by the test that compares it with the one in the tree. What a reason means is said
//! in `engine/src/reason.rs`; here is only its form.

use std::fmt::Write as _;

use transept_engine::Reason;

/// The words before the table.
const OPENING: &str = "\
# Answers of the gateway itself

<!-- Written by `cargo xtask errors`; change crates/engine/src/reason.rs, not this page. -->

When a request ends at the gateway and not at a backend, one row of this table says why. The **code** is stable: it is the
member `code` of the answer's body (`application/problem+json`, RFC 9457). The **flag** stands in the access log; its letters
are Envoy's where Envoy has them. `Proxy-Status` (RFC 9209) carries the **error**. Callers of gRPC get the **gRPC status**
instead of a body.

| code | status | title | flag | error | gRPC status |
|---|---|---|---|---|---|
";

/// The whole page.
pub(crate) fn page() -> String {
    let mut page = OPENING.to_owned();
    for reason in Reason::ALL {
        let error = reason.proxy_status().map_or_else(|| "-".to_owned(), |error| format!("`{error}`"));
        let grpc = if reason.is_fault() { format!("{:?}", reason.grpc()) } else { "-".to_owned() };
        let (slug, status, title, flag) = (reason.slug(), reason.status(), reason.title(), reason.flag());
        let _ = writeln!(page, "| `{slug}` | {status} | {title} | {flag} | {error} | {grpc} |");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_tree_is_current() {
        let path = crate::tidy::root().join("docs/errors.md");
        let text = std::fs::read_to_string(&path).expect("docs/errors.md can be read");
        assert!(text == page(), "docs/errors.md is out of date: cargo xtask errors > docs/errors.md");
    }

    #[test]
    fn every_reason_has_a_row() {
        let page = page();
        for reason in Reason::ALL {
            assert_eq!(page.matches(&format!("| `{}` |", reason.slug())).count(), 1, "{}", reason.slug());
        }
    }
}
