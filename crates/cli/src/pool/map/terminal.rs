//! The map in characters.
//!
//! Every character is one cell. Its darkness says how much of the cell is in use, where a split megabyte counts half;
//! `M` and `m` say that all or some of it is metadata. Colour repeats that, and adds whether more megabytes are split
//! or used; the picture can be read without it.

use std::fmt::Write;

use chimaera_bdev_client::MegabyteState;

use super::{LEGEND, MAX_CELLS, MEGABYTE, Map, Mixture};
use crate::size::show_size;

/// The most rows, so that the picture and its legend fit a usual screen.
const MAX_ROWS: u64 = 16;

/// The number of cells of a row is a multiple of this, so that the offsets of rows are round.
const ROW_UNIT: u64 = 8;

const RESET: &str = "\x1b[0m";

/// Draws the map for a terminal with this many columns.
pub(super) fn draw(map: &Map<'_>, columns: usize, colour: bool) -> String {
    // As wide as the widest label can be: "1023.9 MiB".
    let label_columns = "1023.9 MiB".len();
    let room = columns.saturating_sub(label_columns + 2) as u64;
    let per_row = (room / ROW_UNIT * ROW_UNIT).clamp(ROW_UNIT, MAX_CELLS);
    let megabytes_per_cell = map.megabytes_per_cell(per_row * MAX_ROWS);
    let cells = map.cells(megabytes_per_cell);

    let mut text = format!(
        "{}: {}, {} a character\n\n",
        map.name,
        show_size(map.total_size),
        show_size(megabytes_per_cell * MEGABYTE)
    );
    let row_bytes = per_row * megabytes_per_cell * MEGABYTE;
    for (row, cells) in (0..).zip(cells.chunks(per_row as usize)) {
        let offset = show_size(row * row_bytes);
        let _ = write!(text, "{offset:>label_columns$}  ");
        draw_row(&mut text, cells, colour);
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&legend(map, colour));
    if megabytes_per_cell > 1 {
        text.push_str("\n░▒▓ partly in use, a split megabyte by half; m with some metadata");
    }
    text
}

fn draw_row(text: &mut String, cells: &[Mixture], colour: bool) {
    // Neighbours of the same colour share one escape sequence.
    let mut current = None;
    for &cell in cells {
        let wanted = colour.then(|| escape(main_state(cell)));
        if wanted != current {
            text.push_str(wanted.unwrap_or(RESET));
            current = wanted;
        }
        text.push(character(cell));
    }
    if current.is_some() {
        text.push_str(RESET);
    }
}

/// Lines that say what each character means, how many megabytes are in that state, and their bytes.
fn legend(map: &Map<'_>, colour: bool) -> String {
    let all = Mixture::of(map.states);
    let mut lines = String::new();
    for (state, name) in LEGEND {
        let character = character(Mixture::of(&[state]));
        let (start, end) = if colour {
            (escape(state), RESET)
        } else {
            ("", "")
        };
        let (count, size) = (all.count(state), show_size(map.bytes(state)));
        let unit = if count == 1 { "megabyte" } else { "megabytes" };
        // A pool's last megabyte may be a part of one.
        let part = match map.bytes(state) < count * MEGABYTE {
            true if count == 1 => ", a part of one",
            true => ", the last a part of one",
            false => "",
        };
        let _ = write!(
            lines,
            "{start}{character}{end} {name:<9}{count:>10} {unit:<9}{size:>12}{part}"
        );
        lines.push('\n');
    }
    lines.pop();
    lines
}

/// The state that gives a cell its colour. There is little metadata and it matters, so any of it decides.
fn main_state(cell: Mixture) -> MegabyteState {
    if cell.metadata > 0 {
        MegabyteState::Metadata
    } else if cell.split > cell.used {
        MegabyteState::Split
    } else if cell.used > 0 {
        MegabyteState::Used
    } else {
        MegabyteState::Free
    }
}

fn character(cell: Mixture) -> char {
    let total = cell.total();
    // In halves of megabytes: a split one has some space in use and some free.
    let (in_use, all) = (2 * cell.used + cell.split, 2 * total);
    match cell.metadata {
        metadata if metadata > 0 && metadata == total => 'M',
        1.. => 'm',
        0 if in_use == 0 => '·',
        0 if in_use == all => '█',
        0 if 4 * in_use < all => '░',
        0 if 4 * in_use < 3 * all => '▒',
        0 => '▓',
    }
}

/// The colours of a terminal's own palette, which its user has made readable.
const fn escape(state: MegabyteState) -> &'static str {
    match state {
        MegabyteState::Free => "\x1b[90m",
        MegabyteState::Split => "\x1b[33m",
        MegabyteState::Used => "\x1b[34m",
        MegabyteState::Metadata => "\x1b[35m",
    }
}

#[cfg(test)]
mod tests {
    use super::super::states;
    use super::*;

    fn map(states: &[MegabyteState]) -> Map<'_> {
        Map {
            name: "pool",
            total_size: states.len() as u64 * MEGABYTE,
            states,
        }
    }

    #[test]
    fn a_small_pool_has_a_character_for_every_megabyte() {
        let states = states("m##--...#");
        let expected = "\
pool: 9.0 MiB, 1.0 MiB a character

       0 B  M██▒▒···█

█ used              3 megabytes     3.0 MiB
▒ split             2 megabytes     2.0 MiB
M metadata          1 megabyte      1.0 MiB
· free              3 megabytes     3.0 MiB";
        assert_eq!(draw(&map(&states), 80, false), expected);
    }

    #[test]
    fn a_megabyte_that_is_not_whole_is_said_to_be_a_part_of_one() {
        let states = states("m.");
        let small = |total_size| Map {
            total_size,
            ..map(&states)
        };
        let drawn = draw(&small(MEGABYTE + 8192), 80, false);
        let expected = "· free              1 megabyte      8.0 KiB, a part of one";
        assert!(drawn.ends_with(expected), "{drawn}");
        assert!(!drawn.contains("1.0 MiB, a part"), "{drawn}");
    }

    #[test]
    fn a_large_pool_shows_mixtures() {
        let cases = [
            ("....", '·'),
            ("...-", '░'),
            ("..-.", '░'),
            ("#...", '▒'),
            ("----", '▒'),
            ("##..", '▒'),
            ("###.", '▓'),
            ("###-", '▓'),
            ("####", '█'),
            ("m...", 'm'),
            ("mmmm", 'M'),
        ];
        for (text, expected) in cases {
            assert_eq!(character(Mixture::of(&states(text))), expected, "{text}");
        }
    }

    #[test]
    fn the_picture_fits_its_screen_and_has_colour_only_if_asked() {
        for (megabytes, columns) in [(1, 80), (100, 10), (5000, 80), (100_000, 200), (3, 0)] {
            let states = vec![MegabyteState::Split; megabytes];
            let plain = draw(&map(&states), columns, false);
            assert!(!plain.contains('\x1b'));
            let lines: Vec<_> = plain.lines().collect();
            assert!(lines.len() <= 24, "{} rows", lines.len());
            for line in &lines[1..lines.len() - 6] {
                let wide = line.chars().count();
                assert!(wide <= columns.max(20), "{wide} of {columns}");
            }
            let coloured = draw(&map(&states), columns, true);
            assert!(coloured.contains("\x1b[33m") && coloured.contains(RESET));
            let mut stripped = coloured;
            for code in [30, 90, 33, 34, 35, 0] {
                stripped = stripped.replace(&format!("\x1b[{code}m"), "");
            }
            assert_eq!(stripped, plain);
        }
    }

    /// Look at it: `cargo test -p chimaera-cli --bin chimaera -- --ignored --nocapture look_at_the_map`
    #[test]
    #[ignore = "a picture to look at"]
    #[expect(clippy::print_stdout, reason = "a picture to look at")]
    fn look_at_the_map() {
        for megabytes in [300, 9000] {
            let states = super::super::svg::sample(megabytes);
            println!("{}\n", draw(&map(&states), 100, true));
            println!("{}\n", draw(&map(&states), 80, false));
        }
    }
}
