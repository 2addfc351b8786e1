//! Lists as people read them: columns as wide as their widest entry.

/// Prints a header and rows.
pub(crate) fn print(header: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let entries =
            rows.iter().filter_map(|row| row.get(column)).map(|entry| entry.chars().count());
        entries.chain(header.get(column).map(|name| name.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let line: String =
            row.iter().zip(&widths).map(|(entry, width)| format!("{entry:width$}   ")).collect();
        super::say(line.trim_end());
    }
}

/// A moment as RFC 3339 in UTC, to the second.
pub(crate) fn moment(time: Option<&prost_types::Timestamp>) -> String {
    time.map(|time| {
        let whole = prost_types::Timestamp { seconds: time.seconds, nanos: 0 };
        whole.to_string()
    })
    .unwrap_or_default()
}
