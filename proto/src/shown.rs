//! Foreign texts made safe to show.
//!
//! Names of pools, files and modules may hold anything. Where they are shown they must move no cursor, begin no line,
//! hide nothing and push nothing else out of sight. A text that was made safe does not change when that is done again.

use std::borrow::Cow;
use std::ops::RangeInclusive;

/// The most characters that are shown of a foreign text without a limit of its own.
const MAX_BRIEF_CHARACTERS: usize = 256;

/// Characters that are not visible as such, besides controls: all code points that Unicode 16.0 gives the property
/// `Default_Ignorable_Code_Point`, those that are not assigned yet included, which have all of `Bidi_Control` among
/// them; the separators of lines and paragraphs; and the marks of interlinear annotations.
const HIDDEN: [RangeInclusive<char>; 18] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fff8}',
    '\u{fff9}'..='\u{fffb}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

/// Whether a character is not visible as such: controls, line ends, characters that change the direction of writing,
/// and those of which nothing is shown by default.
#[must_use]
pub fn is_hidden(character: char) -> bool {
    character.is_control() || HIDDEN.iter().any(|range| range.contains(&character))
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

/// A name as one word of a line that has several: as it is if it has nothing but letters, digits and `/._:@+-`, else in
/// quotes, with quotes, backslashes and [hidden](is_hidden) characters escaped. So no name looks like the words behind
/// it.
#[must_use]
pub fn quoted(name: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._:@+-".contains(&byte);
    if !name.is_empty() && name.bytes().all(is_plain) {
        return name.into();
    }
    let mut shown = String::with_capacity(name.len() + 16);
    shown.push('"');
    for character in name.chars() {
        match character {
            '"' | '\\' => shown.extend(['\\', character]),
            _ if is_hidden(character) => shown.extend(character.escape_default()),
            _ => shown.push(character),
        }
    }
    shown.push('"');
    shown.into()
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
    fn what_is_shown_as_nothing_is_escaped() {
        for character in [
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{1160}',
            '\u{17b4}',
            '\u{180b}',
            '\u{180e}',
            '\u{180f}',
            '\u{200d}',
            '\u{2067}',
            '\u{3164}',
            '\u{fe00}',
            '\u{fe0f}',
            '\u{ffa0}',
            '\u{fff0}',
            '\u{fffb}',
            '\u{1bca0}',
            '\u{1d17a}',
            '\u{e0000}',
            '\u{e0061}',
            '\u{e01ef}',
        ] {
            let text = format!("a{character}b");
            let shown = format!("a\\u{{{:x}}}b", u32::from(character));
            assert_eq!(printable(&text), shown);
        }
        for character in "\u{a0}é\u{300}\u{600}ﾡ\u{fffd}\u{e1000}".chars() {
            assert!(!is_hidden(character), "{character:?}");
        }
    }

    #[test]
    fn a_name_among_others_is_one_word() {
        for (name, shown) in [
            ("/dev/nvme0n1", "/dev/nvme0n1"),
            ("user@host:a+b-c_d.e", "user@host:a+b-c_d.e"),
            ("", "\"\""),
            ("x, module y, owner 0", "\"x, module y, owner 0\""),
            ("x\", module \"y", "\"x\\\", module \\\"y\""),
            ("a\\", "\"a\\\\\""),
            ("größer\n", "\"größer\\n\""),
        ] {
            assert_eq!(quoted(name), shown);
            assert_eq!(printable(shown), shown);
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
