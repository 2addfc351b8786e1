//! Text from outside, made fit to be shown.
//!
//! Owns the one escaping function: error messages that quote outside text use it, and so does the
//! CLI for everything that it prints and did not write.

use std::fmt::{self, Write as _};

/// How much of a name an error message quotes.
pub(crate) const QUOTED_BYTES: usize = 300;

/// `text` without control characters, and no longer than about `max` bytes.
///
/// What is replaced: control characters (a terminal acts on them), the characters that reorder
/// text (Unicode's bidirectional controls), and line and paragraph separators. They are shown as
/// `\n` or `\u{1b}`, as Rust writes them. A backslash stays as it is. What is cut off is counted,
/// so that a name is not taken for another one.
pub(crate) fn escaped(text: &str, max: usize) -> impl fmt::Display + '_ {
    Escaped { text, max }
}

struct Escaped<'a> {
    text: &'a str,
    max: usize,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = String::with_capacity(self.text.len().min(self.max));
        for (at, character) in self.text.char_indices() {
            let before = shown.len();
            if acts(character) {
                let _ = write!(shown, "{}", character.escape_default()); // a String takes all
            } else {
                shown.push(character);
            }
            if shown.len() > self.max {
                shown.truncate(before);
                let _ = write!(shown, "... ({} more bytes)", self.text.len() - at);
                break;
            }
        }
        // Honours the width that a table asks for.
        formatter.pad(&shown)
    }
}

/// Whether a terminal does something else with it than to show it in its place.
fn acts(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_acts_on_is_shown_instead() {
        let hostile = "a\x1b]0;title\x07\r\nb\u{9b}2J\u{202e}c\u{7f}";
        let shown = escaped(hostile, 300).to_string();
        assert_eq!(shown, "a\\u{1b}]0;title\\u{7}\\r\\nb\\u{9b}2J\\u{202e}c\\u{7f}");
        assert_eq!(
            escaped("docker.io/é/ß:1 \\ \"x\"", 300).to_string(),
            "docker.io/é/ß:1 \\ \"x\""
        );
    }

    #[test]
    fn long_text_is_cut_at_a_character_and_counted() {
        let shown = escaped("ééééé", 5).to_string();
        assert_eq!(shown, "éé... (6 more bytes)");
        let shown = escaped(&"x".repeat(3_000_000), 300).to_string();
        assert!(shown.len() < 340 && shown.ends_with("... (2999700 more bytes)"), "{shown}");
        assert_eq!(escaped("12345", 5).to_string(), "12345");
    }

    #[test]
    fn a_width_pads() {
        assert_eq!(format!("{:4}|", escaped("a", 9)), "a   |");
    }
}
