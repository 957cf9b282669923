//! Columns aligned with spaces, as Docker's tables are: each column is as wide as its widest cell and three spaces, at least ten.

const COLUMN_WIDTH_MIN: usize = 10;
const PADDING: usize = 3;

/// Aligns rows of cells. The last cell of a row is not padded.
pub fn align(rows: &[Vec<String>]) -> String {
    align_with(rows, COLUMN_WIDTH_MIN, PADDING)
}

/// The same with other widths.
pub fn align_with(rows: &[Vec<String>], width_min: usize, padding: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    for row in rows {
        for (index, cell) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
            widths[index] = widths[index].max((cell.chars().count() + padding).max(width_min));
        }
    }
    let mut text = String::new();
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if index + 1 < row.len() {
                let fill = widths[index] - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', fill));
            }
        }
        text.push('\n');
    }
    text
}

/// Aligns text whose cells are separated by tabs and whose rows end with newlines.
pub fn align_text(text: &str) -> String {
    let rows: Vec<Vec<String>> = text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
    align(&rows)
}

/// The first `length` characters, the last of them an ellipsis when something is cut.
pub fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(length.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = align_text("NAME\tSTATE\tX\na-very-long-name\tup\tlast\n");
        assert_eq!(text, "NAME               STATE     X\na-very-long-name   up        last\n");
        assert_eq!(align_text("ONE\n"), "ONE\n");
    }

    #[test]
    fn long_texts_end_in_an_ellipsis() {
        assert_eq!(ellipsis("sleep 300", 20), "sleep 300");
        assert_eq!(ellipsis("abcdefghij", 5), "abcd…");
    }
}
