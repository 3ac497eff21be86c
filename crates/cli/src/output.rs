//! The program's output: the one place that writes to the terminal.

#![expect(
    clippy::print_stderr,
    reason = "writing to the terminal is what this is for"
)]

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::failure::Failure;

/// Writes a line. Whoever reads may have gone; then there is nobody to tell.
pub(crate) fn line(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// What pictures are drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Screen {
    /// Characters of a line.
    pub(crate) columns: usize,
    /// Whether colours are seen and wanted.
    pub(crate) colour: bool,
}

/// Columns where there is no terminal to ask.
const COLUMNS: usize = 80;

/// The terminal that the output goes to, or what stands for one. Colours are not wanted if `NO_COLOR`
/// is set (<https://no-color.org>).
pub(crate) fn screen() -> Screen {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return Screen {
            columns: COLUMNS,
            colour: false,
        };
    }
    let columns = terminal_size::terminal_size_of(&stdout).map(|(width, _)| usize::from(width.0));
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Screen {
        columns: columns.unwrap_or(COLUMNS),
        colour: !refused,
    }
}

/// Writes a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(format!("cannot write JSON: {error}")))?;
    line(text);
    Ok(())
}

/// Writes an error where errors go.
pub(crate) fn error(failure: &Failure) {
    eprintln!("chimaera: {failure}");
}

/// A table with a heading; columns from `first_number` on are numbers.
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
