//! Tables for people: each column is as wide as its widest entry.

use crate::text::escaped;

/// The limit of an entry. `-q` of a command prints whole names.
const ENTRY_BYTES: usize = 512;

/// Prints a header and rows.
pub(crate) fn print(header: &[&str], rows: &[Vec<String>]) {
    lines(header, rows).iter().for_each(super::say);
}

fn lines(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let shown = |entry: &str| escaped(entry, ENTRY_BYTES).to_string();
    let header: Vec<String> = header.iter().map(|name| shown(name)).collect();
    let rows = rows.iter().map(|row| row.iter().map(|entry| shown(entry)).collect());
    let table: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let entries = table.iter().filter_map(|row| row.get(column));
        entries.map(|entry: &String| entry.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (entry, width) in row.iter().zip(&widths) {
            line.push_str(entry);
            // A width in a format string panics when it is too large.
            let pad = width.saturating_sub(entry.chars().count()) + 3;
            line.extend(std::iter::repeat_n(' ', pad));
        }
        line.truncate(line.trim_end().len());
        line
    };
    table.iter().map(line).collect()
}

/// A time as RFC 3339 in UTC, to the second.
pub(crate) fn moment(time: Option<&prost_types::Timestamp>) -> String {
    time.map(|time| {
        let whole = prost_types::Timestamp { seconds: time.seconds, nanos: 0 };
        whole.to_string()
    })
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_entry() {
        let rows = [vec!["a".to_owned(), "long entry".to_owned()], vec!["bcd".to_owned()]];
        assert_eq!(lines(&["ID", "B"], &rows), ["ID    B", "a     long entry", "bcd"]);
    }

    #[test]
    fn no_entry_is_too_wide_and_none_reaches_the_terminal_raw() {
        let rows = [
            vec!["x".repeat(3_000_000), "\x1b[2J\nforged".to_owned()],
            vec!["y".to_owned(), "z".to_owned(), "one column more".to_owned()],
            vec![],
        ];
        let lines = lines(&["ID", "NAME"], &rows);
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.len() < 4 * ENTRY_BYTES));
        assert!(lines[1].contains("\\u{1b}[2J\\nforged"), "{}", lines[1]);
        assert!(lines.iter().all(|line| !line.contains(char::is_control)));
    }

    #[test]
    fn no_time_from_a_daemon_is_too_far_away_to_be_shown() {
        for seconds in [i64::MIN, i64::MAX, -62_135_596_800, 253_402_300_800] {
            let _ = moment(Some(&prost_types::Timestamp { seconds, nanos: -1 }));
        }
    }
}
