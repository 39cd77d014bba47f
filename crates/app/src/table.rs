//! Lays out rows of text in columns for the terminal.

/// Lays out `rows` under `heads`, two blanks between columns, nothing behind the last one; rows may be shorter than the heads.
pub(crate) fn lay_out(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heads.iter().map(|head| head.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    write_row(&mut out, heads.iter().copied(), &widths);
    for row in rows {
        write_row(&mut out, row.iter().map(String::as_str), &widths);
    }
    out
}

/// Lays out `rows` without heads, one line each, two blanks between columns, nothing behind the last one.
pub(crate) fn align(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let text = lay_out(&vec![""; columns], rows);
    text.lines().skip(1).map(ToOwned::to_owned).collect()
}

fn write_row<'a>(out: &mut String, cells: impl Iterator<Item = &'a str>, widths: &[usize]) {
    let start = out.len();
    for (cell, width) in cells.zip(widths) {
        out.push_str(cell);
        let pad = width.saturating_sub(cell.chars().count()) + 2;
        out.extend(std::iter::repeat_n(' ', pad));
    }
    let end = out[start..].trim_end().len();
    out.truncate(start + end);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_have_no_tail() {
        let rows = vec![vec!["Gateway".into(), "shop".into(), "True".into()], vec!["HTTPRoute".into(), "a".into()]];
        assert_eq!(
            lay_out(&["KIND", "NAME", "ACCEPTED"], &rows),
            "KIND       NAME  ACCEPTED\nGateway    shop  True\nHTTPRoute  a\n"
        );
    }
}
