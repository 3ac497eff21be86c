//! The program's output: the one place that writes to the terminal.
//!
//! Laws of this module:
//! - A command whose answer cannot be written fails ([`finish`]), although it has done what it was told. A reader that
//!   has closed its end, as `head` does, has what it wanted, and is no failure.
//! - No failure to write ends the program early: the reader may be gone, or its disk full.
//! - Texts of others (names of pools, files and modules, errors of a daemon) are shown so that they move no cursor,
//!   begin no line and hide nothing ([`printable`]). Whatever is written goes through that here, so that no command has
//!   to think of it, save for what consists of several lines: there, the command sees to the single names. In JSON such
//!   characters are escaped as JSON escapes them, so that whoever reads it has the text as it is.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use chimaera_client::proto::shown::is_hidden;
pub(crate) use chimaera_client::proto::shown::printable;
use clap::error::ContextValue;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use nix::errno::Errno;
use serde::{Serialize, Serializer};

use crate::failure::CommandFailure;
use crate::program;

/// Why nothing more can be written to standard output.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// Writes a line of the answer. After a line that could not be written, no more are.
pub(crate) fn line(text: impl Display) {
    write_answer(printable(&text.to_string()));
}

/// Writes several lines of the answer, such as a table.
pub(crate) fn lines(text: impl Display) {
    text.to_string().lines().for_each(line);
}

/// Writes a picture, with its colours, as part of the answer. All names in it are [`printable`].
pub(crate) fn picture(text: impl Display) {
    write_answer(text);
}

fn write_answer(text: impl Display) {
    if is_lost() {
        return;
    }
    if let Err(error) = writeln!(io::stdout(), "{text}") {
        let _ = LOST.set(error);
    }
}

/// Writes a line to standard output that is not part of an answer; a failure is ignored. It blocks while the output is
/// full, but holds no lock meanwhile, not even the standard library's, which the end of the program takes.
pub(crate) fn announce(text: impl Display) {
    let line = format!("{}\n", printable(&text.to_string()));
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        match nix::unistd::write(io::stdout().as_fd(), rest) {
            Ok(count) if count > 0 => rest = &rest[count..],
            Err(Errno::EINTR) => {}
            _ => return,
        }
    }
}

/// Whether notes are written as JSON.
static NOTES_ARE_JSON: AtomicBool = AtomicBool::new(false);

/// From here on, writes each note as one line of JSON, so that standard error holds nothing else.
pub(crate) fn say_notes_in_json() {
    // Relaxed: it says nothing of anything else.
    NOTES_ARE_JSON.store(true, Ordering::Relaxed);
}

/// What `--json` prints of a note.
#[derive(Serialize)]
struct NoteReport<'a> {
    note: &'a str,
}

/// Writes a line about the progress of a command to standard error.
pub(crate) fn note(text: impl Display) {
    let text = text.to_string();
    let _ = match serde_json::to_string(&NoteReport { note: &text }) {
        Ok(json) if NOTES_ARE_JSON.load(Ordering::Relaxed) => {
            writeln!(io::stderr(), "{}", shown_json(&json))
        }
        _ => writeln!(io::stderr(), "{}", printable(&text)),
    };
}

/// Whether a part of the answer could not be written: then the rest is of no use.
pub(crate) fn is_lost() -> bool {
    LOST.get().is_some()
}

/// Ends the answer.
///
/// # Errors
/// It could not be written, for another reason than that the reader has closed its end.
pub(crate) fn finish() -> Result<(), CommandFailure> {
    if !is_lost()
        && let Err(error) = io::stdout().flush()
    {
        let _ = LOST.set(error);
    }
    match LOST.get() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(CommandFailure::new(format!(
            "the command did what it was told, but its answer cannot be written to standard output: \
             {error}"
        ))),
        _ => Ok(()),
    }
}

/// Prints what the parser of arguments has to say: help, the version, or what is wrong with them.
pub(crate) fn usage(error: clap::Error, json: bool) -> ExitCode {
    if !error.use_stderr() {
        if let Err(error) = error.print() {
            let _ = LOST.set(error);
        }
        return finish().map_or_else(
            |failure| self::error(&failure, json),
            |()| ExitCode::SUCCESS,
        );
    }
    if error.kind() == clap::error::ErrorKind::InvalidUtf8
        && let Some(argument) = std::env::args_os().find(|word| word.to_str().is_none())
    {
        let failure = CommandFailure::usage(format!(
            "the argument {argument:?} is not UTF-8: of all that a command is given, only paths of files of this \
             machine may be something else, and a pool's name is none"
        ));
        return self::error(&failure, json);
    }
    let error = with_values_shown(error);
    if json {
        let text = error.to_string();
        let said = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        return self::error(&CommandFailure::usage(said), true);
    }
    let _ = error.print();
    CommandFailure::usage("").exit_code()
}

/// An error of the parser's whose values, as they were typed, are [`printable`]. The parser would take escape sequences
/// in a value for its own styles, and leave them out.
fn with_values_shown(mut error: clap::Error) -> clap::Error {
    let typed: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) => Some((kind, printable(text).into_owned())),
            _ => None,
        })
        .collect();
    for (kind, text) in typed {
        error.insert(kind, ContextValue::String(text));
    }
    error
}

/// A path as it is shown.
pub(crate) fn printable_path(path: &Path) -> String {
    printable(&path.to_string_lossy()).into_owned()
}

/// A path in JSON. Bytes of it that are not UTF-8 are replaced, as a JSON string cannot hold them.
pub(crate) fn path_in_json<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// The screen that pictures are drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Screen {
    /// Characters of a line.
    pub(crate) columns: usize,
    /// Whether colours are seen and wanted.
    pub(crate) colour: bool,
}

/// Characters of a line where there is no terminal to ask.
const COLUMNS: usize = 80;

/// The terminal that the output goes to, or what is assumed where there is none. Colours are not wanted if `NO_COLOR`
/// is set (<https://no-color.org>).
pub(crate) fn screen() -> Screen {
    let columns = terminal_columns();
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Screen {
        columns: columns.unwrap_or(COLUMNS),
        colour: columns.is_some() && !refused,
    }
}

/// Characters of a line of the terminal that the output goes to, if it goes to one.
pub(crate) fn terminal_columns() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = terminal_size::terminal_size_of(&stdout);
    Some(size.map_or(COLUMNS, |(width, _)| usize::from(width.0)))
}

/// Writes a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), CommandFailure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CommandFailure::new(format!("cannot write JSON: {error}")))?;
    json_text(&text);
    Ok(())
}

/// Writes a value that is JSON already.
pub(crate) fn json_text(text: &str) {
    write_answer(shown_json(text));
}

/// JSON that means the same, in which no character is hidden but the ends of its lines: JSON has none of them outside
/// of strings, and in a string each can be escaped.
fn shown_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_hidden(character) && character != '\n' {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            shown.push(character);
        }
    }
    shown
}

/// What `--json` prints of a failure.
#[derive(Serialize)]
struct ErrorReport<'a> {
    error: &'a str,
    exit_code: u8,
}

/// Writes an error where errors go, and gives the exit code that says the same.
pub(crate) fn error(failure: &CommandFailure, json: bool) -> ExitCode {
    let text = program::as_called(failure.text());
    let report = ErrorReport {
        error: &text,
        exit_code: failure.code(),
    };
    let _ = match serde_json::to_string(&report) {
        Ok(text) if json => writeln!(io::stderr(), "{}", shown_json(&text)),
        _ => writeln!(io::stderr(), "chimaera: {}", printable(&text)),
    };
    failure.exit_code()
}

/// A table with a heading. The columns from `first_number` on are numbers.
pub(crate) fn table(heading: &[&str], first_number: usize) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(heading);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index >= first_number {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_hides_nothing_and_means_the_same() {
        let text = "a\u{1b}[2J\n\u{9b}\u{7f}\u{202e}\u{feff}\\\"é";
        let json = serde_json::to_string_pretty(&[text]).expect("it is text");
        let shown = shown_json(&json);
        assert!(!shown.replace('\n', "").contains(is_hidden), "{shown}");
        let read: Vec<String> = serde_json::from_str(&shown).expect("it is JSON");
        assert_eq!(read, [text]);
    }
}
