//! Foreign texts made safe to show.
//!
//! Names of pools, files and modules may hold anything. Where they are shown they must move no cursor, begin no line,
//! hide nothing and push nothing else out of sight. A text that was made safe does not change when that is done again.

use std::borrow::Cow;

/// The most characters that are shown of a foreign text without a limit of its own.
const MAX_BRIEF_CHARACTERS: usize = 256;

/// Whether a character is not visible as such: controls, line ends, and characters that change the direction of
/// writing.
#[must_use]
pub fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

/// The text with its [hidden](is_hidden) characters escaped.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_hidden(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown.into()
}

/// As [`printable`], of a long text only the beginning.
#[must_use]
pub fn brief(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_BRIEF_CHARACTERS) {
        None => printable(text),
        Some((end, _)) => format!("{}…", printable(&text[..end])).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_show_is_escaped_once_and_all_else_is_left() {
        for (text, shown) in [
            ("/dev/nvme0n1", "/dev/nvme0n1"),
            ("größer 日本 👍 \"'\\", "größer 日本 👍 \"'\\"),
            ("a\nb\tc\0", "a\\nb\\tc\\u{0}"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
            ("a\u{202e}b\u{2028}", "a\\u{202e}b\\u{2028}"),
        ] {
            assert_eq!(printable(text), shown);
            assert_eq!(printable(shown), shown);
            assert_eq!(brief(text), shown);
        }
    }

    #[test]
    fn a_long_text_is_cut_before_it_is_escaped() {
        let long = "ö".repeat(MAX_BRIEF_CHARACTERS);
        assert_eq!(brief(&long), long);
        assert_eq!(brief(&format!("{long}x")), format!("{long}…"));
        let hidden = "\0".repeat(1 << 20);
        let shown = format!("{}…", "\\u{0}".repeat(MAX_BRIEF_CHARACTERS));
        assert_eq!(brief(&hidden), shown);
    }
}
