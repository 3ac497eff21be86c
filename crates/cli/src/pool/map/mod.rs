//! `chimaera pool map`: a picture of which megabytes of a pool are in use.
//!
//! The picture has cells, each for a number of megabytes that is chosen so that all fit. This file counts what each
//! cell holds; [`terminal`] draws cells as characters, and [`svg`] as an image.

mod svg;
mod terminal;

use std::path::Path;

use chimaera_bdev_client::{Client, MegabyteState, PoolQuery};
use serde::Serialize;

use super::stats::note_unknown_blocks;
use crate::args::{GlobalArguments, MapArguments};
use crate::failure::CommandFailure;
use crate::output::{self, printable};
use crate::output_file::write_output;

/// Bytes of a megabyte of the pool, which has one state.
const MEGABYTE: u64 = 1 << 20;

/// The most cells of a picture: more could not be told apart.
const MAX_CELLS: u64 = 4096;

pub(crate) fn run(
    arguments: &MapArguments,
    pool: &Client,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let name = printable(&arguments.name);
    let stats = pool.get_stats()?;
    note_unknown_blocks(&stats);
    let map = Map {
        name: &name,
        total_size: stats.total_size,
        states: &pool.map(PoolQuery::Local)?,
    };
    match &arguments.svg {
        Some(path) => write_svg(path, &map, global),
        None if global.json => output::json(&MapReport {
            name: &arguments.name,
            total_size: map.total_size,
            runs: runs(map.states),
        }),
        None => {
            let screen = output::screen();
            output::picture(terminal::draw(&map, screen.columns, screen.colour));
            Ok(())
        }
    }
}

/// What `map --json` prints.
#[derive(Serialize)]
struct MapReport<'a> {
    name: &'a str,
    total_size: u64,
    runs: Vec<MegabyteRun>,
}

/// Neighbouring megabytes in one state. The last one of a pool may be a part of a megabyte.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct MegabyteRun {
    state: &'static str,
    first_megabyte: usize,
    megabytes: usize,
}

fn runs(states: &[MegabyteState]) -> Vec<MegabyteRun> {
    let mut first_megabyte = 0;
    let chunks = states.chunk_by(|one, other| one == other);
    let run = |chunk: &[MegabyteState]| {
        let run = MegabyteRun {
            state: name_of(chunk[0]),
            first_megabyte,
            megabytes: chunk.len(),
        };
        first_megabyte += chunk.len();
        run
    };
    chunks.map(run).collect()
}

fn write_svg(path: &Path, map: &Map<'_>, global: &GlobalArguments) -> Result<(), CommandFailure> {
    write_output(path, &svg::draw(map))?;
    if global.json {
        return output::json(&SvgReport { svg: path });
    }
    output::line(format_args!("wrote {}", output::printable_path(path)));
    Ok(())
}

/// What `map --svg FILE --json` prints.
#[derive(Serialize)]
struct SvgReport<'a> {
    #[serde(serialize_with = "output::path_in_json")]
    svg: &'a Path,
}

/// What is drawn of a pool.
struct Map<'a> {
    /// The pool's name.
    name: &'a str,
    /// Bytes of the pool.
    total_size: u64,
    states: &'a [MegabyteState],
}

impl Map<'_> {
    /// How many megabytes a cell stands for: the smallest power of two with which `cells` are enough.
    fn megabytes_per_cell(&self, cells: u64) -> u64 {
        (self.states.len() as u64)
            .div_ceil(cells.max(1))
            .next_power_of_two()
    }

    /// What each cell holds.
    fn cells(&self, megabytes_per_cell: u64) -> Vec<Mixture> {
        let len = usize::try_from(megabytes_per_cell).unwrap_or(usize::MAX);
        let chunks = self.states.chunks(len.max(1));
        chunks.map(Mixture::of).collect()
    }

    /// Bytes of all megabytes in this state. The last megabyte may be a part of one.
    fn bytes(&self, state: MegabyteState) -> u64 {
        let with_index = (0..).zip(self.states);
        let those = with_index.filter(|&(_, &other)| other == state);
        those
            .map(|(index, _)| {
                self.total_size
                    .saturating_sub(index * MEGABYTE)
                    .min(MEGABYTE)
            })
            .sum()
    }
}

/// The states in the order of a legend, and what they are called.
const LEGEND: [(MegabyteState, &str); 4] = [
    (MegabyteState::Used, "used"),
    (MegabyteState::Split, "split"),
    (MegabyteState::Metadata, "metadata"),
    (MegabyteState::Free, "free"),
];

fn name_of(state: MegabyteState) -> &'static str {
    let named = LEGEND.iter().find(|(named, _)| *named == state);
    named.map_or("unknown", |(_, name)| name)
}

/// How many megabytes of a cell are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mixture {
    free: u64,
    split: u64,
    used: u64,
    metadata: u64,
}

impl Mixture {
    fn of(states: &[MegabyteState]) -> Self {
        let mut mixture = Self::default();
        for &state in states {
            *mixture.count_mut(state) += 1;
        }
        mixture
    }

    fn count_mut(&mut self, state: MegabyteState) -> &mut u64 {
        match state {
            MegabyteState::Free => &mut self.free,
            MegabyteState::Split => &mut self.split,
            MegabyteState::Used => &mut self.used,
            MegabyteState::Metadata => &mut self.metadata,
        }
    }

    fn count(mut self, state: MegabyteState) -> u64 {
        *self.count_mut(state)
    }

    fn total(self) -> u64 {
        self.free + self.split + self.used + self.metadata
    }
}

/// States from the spelling of tests: `.` free, `-` split, `#` used, `m` metadata.
#[cfg(test)]
fn states(text: &str) -> Vec<MegabyteState> {
    text.chars()
        .map(|letter| match letter {
            '-' => MegabyteState::Split,
            '#' => MegabyteState::Used,
            'm' => MegabyteState::Metadata,
            _ => MegabyteState::Free,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_hold_every_megabyte_once() {
        let states = states("m##-....#");
        let map = Map {
            name: "p",
            total_size: 8 * MEGABYTE + 4096,
            states: &states,
        };
        for (cells, megabytes) in [(100, 1), (9, 1), (8, 2), (4, 4), (1, 16), (0, 16)] {
            assert_eq!(map.megabytes_per_cell(cells), megabytes, "{cells}");
            let cells = map.cells(megabytes);
            assert_eq!(cells.iter().map(|cell| cell.total()).sum::<u64>(), 9);
        }
        let first = Mixture {
            free: 0,
            split: 1,
            used: 2,
            metadata: 1,
        };
        assert_eq!(map.cells(4)[0], first);
    }

    #[test]
    fn runs_hold_every_megabyte_once() {
        let run = |state, first_megabyte, megabytes| MegabyteRun {
            state,
            first_megabyte,
            megabytes,
        };
        let expected = [
            run("metadata", 0, 1),
            run("used", 1, 2),
            run("split", 3, 1),
            run("free", 4, 4),
            run("used", 8, 1),
        ];
        assert_eq!(runs(&states("m##-....#")), expected);
        assert_eq!(runs(&[]), []);
    }

    #[test]
    fn the_last_megabyte_counts_for_what_there_is_of_it() {
        let states = states("m##-....#");
        let map = Map {
            name: "p",
            total_size: 8 * MEGABYTE + 4096,
            states: &states,
        };
        assert_eq!(map.bytes(MegabyteState::Used), 2 * MEGABYTE + 4096);
        let all = LEGEND.iter().map(|&(state, _)| map.bytes(state));
        assert_eq!(all.sum::<u64>(), map.total_size);
    }
}
