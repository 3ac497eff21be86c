//! Where the second copies of a pool of version 1 are put: each far from its first copy, where no block lies.
//!
//! Laws:
//! - No megabyte gets both copies of anything, unless the pool is too small for a far place.
//! - What is found depends on the pool alone: when the blocks are freed that a refusal names, the same search succeeds.

use std::collections::VecDeque;
use std::ops::Range;

use super::space::{Space, kept_place};
use crate::block_map::UNITS;
use crate::geometry::{Extent, Geometry, far_page};
use crate::limits::{KEPT_PAGES, MAX_FAR_EXPONENT, MIN_FAR_EXPONENT};
use crate::version::FormatVersion;

/// What a second copy is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartKind {
    Journal,
    /// The table of the extent in this position.
    Table(usize),
    /// The tags of the extent in this position.
    Tags(usize),
}

/// A part of the metadata that gets a second copy.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) kind: PartKind,
    pub(super) first_copy: Range<u64>,
    /// Where the second copy would begin if all were free.
    target: u64,
}

impl Part {
    pub(super) fn pages(&self) -> u64 {
        self.first_copy.end - self.first_copy.start
    }

    /// The pages that a copy must keep away from: the megabytes of the first copy, and so many on either side.
    fn forbidden(&self, margin: u64) -> Range<u64> {
        let first = (self.first_copy.start / UNITS).saturating_sub(margin);
        let end = self.first_copy.end.div_ceil(UNITS) + margin;
        first * UNITS..end * UNITS
    }
}

/// Where everything that is new is put.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) far: Option<u64>,
    pub(super) kept: u32,
    pub(super) places: Vec<(Part, u64)>,
}

/// What has no place.
#[derive(Clone, Debug)]
pub(super) enum Missing {
    FarPlace,
    Part {
        part: Part,
        /// Where it could be if no blocks were there.
        rooms: Vec<Range<u64>>,
    },
}

/// How near a copy may come to the first one: so many megabytes between them, or anywhere.
type Margin = Option<u64>;

/// Which of the places that would do is taken.
#[derive(Clone, Copy)]
enum Preference {
    /// The one nearest to the target.
    Nearest,
    /// The one that leaves least: for pools with little space.
    Tightest,
}

impl Layout {
    /// Finds a place for everything, or the first thing that has none.
    pub(super) fn find(space: &Space, geometry: &Geometry) -> Result<Self, Missing> {
        Self::find_with(space, geometry, Preference::Nearest)
            .or_else(|_| Self::find_with(space, geometry, Preference::Tightest))
    }

    fn find_with(
        space: &Space,
        geometry: &Geometry,
        preference: Preference,
    ) -> Result<Self, Missing> {
        let far = match far_exponents(space).next() {
            None => None,
            Some(_) => Some(find_far(space).ok_or(Missing::FarPlace)?),
        };
        let kept = space.kept();
        let mut taken = space.metadata().to_vec();
        taken.extend(kept_places(kept));
        let mut places = Vec::new();
        for part in parts(space, geometry, far) {
            let start = margins(far)
                .iter()
                .find_map(|margin| find_place(space, &taken, &part, *margin, preference));
            let Some(start) = start else {
                // Once no block lies in one of these places it is kept.
                taken.extend((MIN_FAR_EXPONENT..=MAX_FAR_EXPONENT).map(kept_place));
                let margin = margins(far).last().copied().flatten();
                let rooms = rooms(space, &taken, &part, margin);
                return Err(Missing::Part { part, rooms });
            };
            taken.push(start..start + part.pages());
            places.push((part, start));
        }
        Ok(Self { far, kept, places })
    }

    /// The geometry of version 2 of a pool that has this one of version 1.
    pub(super) fn geometry(&self, before: &Geometry) -> Geometry {
        let mut geometry = before.clone();
        geometry.version = FormatVersion::Two;
        geometry.far = self.far;
        geometry.kept = self.kept;
        for (part, start) in &self.places {
            match part.kind {
                PartKind::Journal => geometry.journal.regions[1] = Some(*start),
                PartKind::Table(extent) => geometry.extents[extent].tables[1] = *start,
                PartKind::Tags(extent) => geometry.extents[extent].tags[1] = Some(*start),
            }
        }
        geometry
    }
}

/// The margins to try, the best first.
fn margins(far: Option<u64>) -> &'static [Margin] {
    match far {
        Some(_) => &[Some(1), Some(0)],
        None => &[Some(1), Some(0), None],
    }
}

/// What needs a second copy, the largest first.
fn parts(space: &Space, geometry: &Geometry, far: Option<u64>) -> Vec<Part> {
    let first_target = far.map_or(space.pages() / 2, |far| far + KEPT_PAGES);
    let target = |extent: &Extent| match extent.first_megabyte {
        0 => first_target,
        first => u64::from(first + extent.megabytes / 2) * UNITS,
    };
    let journal = geometry.journal.ranges().next().map(|first_copy| Part {
        kind: PartKind::Journal,
        first_copy,
        target: first_target,
    });
    let mut parts: Vec<Part> = journal.into_iter().collect();
    for (at, extent) in geometry.extents.iter().enumerate() {
        let target = target(extent);
        let table = extent.table_ranges().next();
        let tags = extent.tag_ranges().next();
        let part = |kind, first_copy| Part {
            kind,
            first_copy,
            target,
        };
        parts.extend(table.map(|range| part(PartKind::Table(at), range)));
        parts.extend(tags.map(|range| part(PartKind::Tags(at), range)));
    }
    parts.sort_by_key(|part| std::cmp::Reverse(part.pages()));
    parts
}

/// The far places that a pool may have, the farthest first.
fn far_exponents(space: &Space) -> impl Iterator<Item = u32> {
    let pages = space.pages();
    let exponents = (MIN_FAR_EXPONENT..=MAX_FAR_EXPONENT).rev();
    exponents.filter(move |exponent| 2 * far_page(*exponent) <= pages)
}

fn find_far(space: &Space) -> Option<u64> {
    let is_free = |exponent: &u32| {
        let place = kept_place(*exponent);
        space.has_no_block(place.clone()) && !space.has_metadata(&place)
    };
    far_exponents(space).find(is_free).map(far_page)
}

fn kept_places(kept: u32) -> impl Iterator<Item = Range<u64>> {
    (MIN_FAR_EXPONENT..=MAX_FAR_EXPONENT)
        .filter(move |exponent| kept >> exponent & 1 == 1)
        .map(kept_place)
}

/// The ranges between what is taken that are far enough from a part's first copy, in order.
fn rooms(space: &Space, taken: &[Range<u64>], part: &Part, margin: Margin) -> Vec<Range<u64>> {
    let mut taken = taken.to_vec();
    taken.extend(margin.map(|margin| part.forbidden(margin)));
    taken.sort_by_key(|range| range.start);
    let mut rooms = Vec::new();
    let mut from = 0;
    for range in taken {
        let end = range.start.min(space.pages());
        if from < end {
            rooms.push(from..end);
        }
        from = from.max(range.end);
    }
    if from < space.pages() {
        rooms.push(from..space.pages());
    }
    rooms
}

fn find_place(
    space: &Space,
    taken: &[Range<u64>],
    part: &Part,
    margin: Margin,
    preference: Preference,
) -> Option<u64> {
    let mut best: Option<(u64, u64)> = None;
    for room in rooms(space, taken, part, margin) {
        space.free_runs(&room, &mut |run| {
            let Some(left) = (run.end - run.start).checked_sub(part.pages()) else {
                return;
            };
            let start = part.target.clamp(run.start, run.start + left);
            let (cost, start) = match preference {
                Preference::Nearest => (start.abs_diff(part.target), start),
                Preference::Tightest => (left, run.start),
            };
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, start));
            }
        });
    }
    best.map(|(_, start)| start)
}

/// The blocks, in order, whose freeing gives everything a place; `None` if no freeing does. Where there is a choice,
/// those with the fewest bytes.
pub(super) fn blocks_in_the_way(space: &Space, geometry: &Geometry) -> Option<Vec<Range<u64>>> {
    let mut space = space.clone();
    let mut freed = Vec::new();
    while let Err(missing) = Layout::find(&space, geometry) {
        let blocks = match missing {
            Missing::FarPlace => blocks_in_far_place(&space)?,
            Missing::Part { part, rooms } => {
                let place = cheapest_place(&space, part.pages(), &rooms)?;
                space.blocks(place).collect()
            }
        };
        if blocks.is_empty() {
            return None;
        }
        space.free(&blocks);
        freed.extend(blocks);
    }
    freed.sort_by_key(|block: &Range<u64>| block.start);
    Some(freed)
}

fn blocks_in_far_place(space: &Space) -> Option<Vec<Range<u64>>> {
    let places = far_exponents(space).map(kept_place);
    let candidates = places.filter(|place| !space.has_metadata(place));
    let blocks = candidates.map(|place| space.blocks(place).collect::<Vec<_>>());
    blocks.min_by_key(|blocks| blocks.iter().map(length_of).sum::<u64>())
}

fn length_of(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// So many pages, inside one of these rooms, where the blocks have the fewest bytes. A place that is best can be moved
/// to the end of its room, or to where a block begins behind it, and is still best: so only such places are looked at.
fn cheapest_place(space: &Space, pages: u64, rooms: &[Range<u64>]) -> Option<Range<u64>> {
    let mut best: Option<(u64, u64)> = None;
    for room in rooms {
        let mut window = VecDeque::new();
        let mut cost = 0;
        let mut look_at = |end: u64, window: &mut VecDeque<Range<u64>>, cost: &mut u64| {
            while let Some(gone) = window.pop_front_if(|block| block.end + pages <= end) {
                *cost -= length_of(&gone);
            }
            let is_inside = end >= room.start + pages;
            if is_inside && best.is_none_or(|(least, _)| *cost < least) {
                best = Some((*cost, end));
            }
        };
        for block in space.blocks(room.clone()) {
            look_at(block.start, &mut window, &mut cost);
            cost += length_of(&block);
            window.push_back(block);
        }
        look_at(room.end, &mut window, &mut cost);
    }
    best.map(|(_, end)| end - pages..end)
}
