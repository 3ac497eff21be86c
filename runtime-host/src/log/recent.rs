//! The last errors and warnings, for the runtime's status.

use std::collections::VecDeque;
use std::time::UNIX_EPOCH;

use chimaera_proto::admin::{LogLine, Severity};
use chimaera_proto::limits::ADMIN_BUFFER_BYTES;

use super::Level;
use super::line::{Line, bounded};

/// The most lines of each severity that are kept.
const MAX_KEPT: usize = 8;

/// The most bytes of each.
const MAX_TEXT_BYTES: usize = 512;

const _: () = assert!(
    2 * MAX_KEPT * (MAX_TEXT_BYTES + 32) < ADMIN_BUFFER_BYTES as usize / 4,
    "they fit a reply beside the rest of the status"
);

/// The last errors and the last warnings, kept apart since there may be many more warnings. Of lines with the same text
/// the last one is kept.
#[derive(Debug)]
pub(super) struct Recent {
    errors: VecDeque<Line>,
    warnings: VecDeque<Line>,
}

impl Recent {
    pub(super) const fn new() -> Self {
        Self {
            errors: VecDeque::new(),
            warnings: VecDeque::new(),
        }
    }

    /// Whether lines of this level are kept.
    pub(super) fn keeps(level: Level) -> bool {
        matches!(level, Level::Error | Level::Warning)
    }

    pub(super) fn note(&mut self, line: &Line) {
        let kept = match line.level {
            Level::Error => &mut self.errors,
            Level::Warning => &mut self.warnings,
            Level::Info | Level::Debug => return,
        };
        let text = bounded(&line.text, MAX_TEXT_BYTES);
        // A line that comes again and again is kept once.
        kept.retain(|older| older.text != text);
        if kept.len() == MAX_KEPT {
            kept.pop_front();
        }
        kept.push_back(Line { text, ..*line });
    }

    /// The lines that are kept, the oldest first.
    pub(super) fn lines(&self) -> Vec<LogLine> {
        let mut lines: Vec<_> = self.errors.iter().chain(&self.warnings).collect();
        lines.sort_by_key(|line| line.time);
        lines.into_iter().map(report).collect()
    }
}

fn report(line: &Line) -> LogLine {
    let since_epoch = line.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    LogLine {
        unix_milliseconds: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        severity: match line.level {
            Level::Error => Severity::Error,
            _ => Severity::Warning,
        },
        text: line.text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Source;

    #[test]
    fn many_warnings_do_not_displace_the_last_errors() {
        let mut recent = Recent::new();
        let mut note = |level, text: &str| recent.note(&Line::new(level, Source::Host, &text));
        (0..20).for_each(|number| note(Level::Error, &format!("error {number}")));
        (0..100).for_each(|number| note(Level::Warning, &format!("warning {number}")));
        note(Level::Info, "no complaint");
        let texts: Vec<_> = recent.lines().into_iter().map(|line| line.text).collect();
        let errors = (12..20).map(|number| format!("error {number}"));
        let warnings = (92..100).map(|number| format!("warning {number}"));
        assert_eq!(texts, errors.chain(warnings).collect::<Vec<_>>());
    }

    #[test]
    fn a_line_that_is_said_again_and_again_displaces_no_other() {
        let mut recent = Recent::new();
        let mut note = |text: &str| recent.note(&Line::new(Level::Error, Source::Module, &text));
        note("again");
        note("once");
        (0..20).for_each(|_| note("again"));
        let texts: Vec<_> = recent.lines().into_iter().map(|line| line.text).collect();
        assert_eq!(texts, ["once", "again"]);
    }
}
