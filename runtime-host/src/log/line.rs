//! One line of the log.

use std::fmt::{self, Display, Write};
use std::time::SystemTime;

use chimaera_proto::shown::is_hidden;

use super::Level;

/// The most bytes of a line's text. A longer one is cut, so that a pool's name cannot fill the log.
pub(super) const MAX_TEXT_BYTES: usize = 8 * 1024;

/// Shown at the end of a text that was cut.
const CUT: &str = " […]";

/// Who a line is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The host.
    Host,
    /// A module.
    Module,
}

/// A line of the log.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it was logged. It may be written much later.
    pub time: SystemTime,
    /// How severe it is.
    pub level: Level,
    /// Who logged it.
    pub source: Source,
    /// What it says, without line ends and anything else that a terminal interprets: names of pools and clients may
    /// hold whatever a client likes.
    pub text: String,
}

impl Line {
    pub(super) fn new(level: Level, source: Source, text: &dyn Display) -> Self {
        Self {
            time: SystemTime::now(),
            level,
            source,
            text: bounded(text, MAX_TEXT_BYTES),
        }
    }

    /// The bytes that the line takes in the queue.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.text.len()
    }
}

/// A text with its hidden characters escaped, cut to `max_bytes`.
pub(super) fn bounded(text: &dyn Display, max_bytes: usize) -> String {
    let mut writer = Bounded {
        text: String::new(),
        max_bytes,
    };
    if write!(writer, "{text}").is_err() {
        writer.text.push_str(CUT);
    }
    writer.text
}

struct Bounded {
    text: String,
    max_bytes: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        part.chars()
            .try_for_each(|character| self.write_char(character))
    }

    fn write_char(&mut self, character: char) -> fmt::Result {
        if self.text.len() + CUT.len() + character.len_utf8() > self.max_bytes {
            return Err(fmt::Error);
        }
        if is_hidden(character) {
            self.text.extend(character.escape_default());
        } else {
            self.text.push(character);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_begin_a_line_of_the_log_by_a_name() {
        let name = "a\n2026-01-01 ERROR all is lost\r\u{1b}[2J\u{202e}";
        let text = bounded(&name, 1000);
        assert_eq!(
            text,
            "a\\n2026-01-01 ERROR all is lost\\r\\u{1b}[2J\\u{202e}"
        );
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        let text = bounded(&"ä".repeat(1000), 100);
        assert!(text.len() <= 100 && text.ends_with("ä […]"), "{text}");
        assert_eq!(bounded(&"short", 100), "short");
    }
}
