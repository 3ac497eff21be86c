//! Whether a geometry that was read from a device is possible.

use std::ops::Range;

use super::{Extent, Geometry, JOURNAL_FIRST_PAGE, far_page};
use crate::limits::{
    MAX_FAR_EXPONENT, MAX_JOURNAL_PAGES, MAX_PAGES, MIN_FAR_EXPONENT, MIN_JOURNAL_PAGES,
};
use crate::version::FormatVersion;

impl Geometry {
    /// Checks a geometry that was read from a device. The error says what does not hold.
    pub(crate) fn check(&self) -> Result<(), String> {
        let fail = |text: &str| Err(text.to_owned());
        if self.total_pages > MAX_PAGES {
            return fail("the pool's size is impossible");
        }
        let least = MIN_JOURNAL_PAGES * self.version.copies_in_region();
        if !(least..=MAX_JOURNAL_PAGES).contains(&self.journal.pages)
            || self.journal.regions[0] != Some(JOURNAL_FIRST_PAGE)
        {
            return fail("the journal's place is impossible");
        }
        let mut next_megabyte = 0;
        for (position, extent) in self.extents.iter().enumerate() {
            if extent.first_megabyte != next_megabyte || !extent.is_consistent() {
                return Err(format!("extent {position} is impossible"));
            }
            next_megabyte = extent.end_megabyte();
        }
        if self.extents.is_empty() || self.megabytes() > next_megabyte {
            return fail("its extents do not cover the pool");
        }
        match self.version {
            FormatVersion::One => self.check_together(),
            FormatVersion::Two => self.check_apart(),
        }
    }

    /// In version 1 each place follows from what lies before it.
    fn check_together(&self) -> Result<(), String> {
        for (position, extent) in self.extents.iter().enumerate() {
            let first_page = match position {
                0 => JOURNAL_FIRST_PAGE + 2 * self.journal.pages,
                _ => extent.first_page(),
            };
            let wanted = Extent {
                table_written: extent.table_written,
                ..Extent::together(extent.first_megabyte, extent.megabytes, first_page)
            };
            if *extent != wanted || extent.metadata_end() >= self.total_pages {
                return Err(format!("the place of extent {position} is impossible"));
            }
        }
        let is_alone =
            self.journal.regions[1].is_none() && self.far.is_none() && self.others.is_empty();
        is_alone
            .then_some(())
            .ok_or_else(|| "it has parts that its format does not have".to_owned())
    }

    /// In version 2 any places do that lie inside the pool and apart: those of a pool that came from version 1 are
    /// where there was room.
    fn check_apart(&self) -> Result<(), String> {
        let fail = |text: &str| Err(text.to_owned());
        let is_far = |page: u64| {
            (MIN_FAR_EXPONENT..=MAX_FAR_EXPONENT).any(|exponent| far_page(exponent) == page)
        };
        if self.far.is_some_and(|far| !is_far(far)) {
            return fail("the far place is impossible");
        }
        let has_all = |extent: &Extent| extent.tags.iter().all(Option::is_some);
        if self.journal.regions[1].is_none() || !self.extents.iter().all(has_all) {
            return fail("it has one copy of what has two");
        }
        let mut ranges: Vec<Range<u64>> = self.metadata_ranges().collect();
        ranges.sort_by_key(|range| range.start);
        let is_apart = ranges.windows(2).all(|pair| pair[0].end <= pair[1].start);
        let is_inside = ranges
            .iter()
            .all(|range| range.start < range.end && range.end <= self.total_pages);
        if !is_apart || !is_inside {
            return fail("its parts overlap, or lie beyond its end");
        }
        Ok(())
    }
}
