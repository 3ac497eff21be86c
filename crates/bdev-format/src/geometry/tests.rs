use super::*;
use crate::limits::{MAX_EXTENTS, MAX_PAGES};

const MIB: u64 = UNITS;

fn new(version: FormatVersion, pages: u64) -> Geometry {
    Geometry::of_version(version, pages).expect("room")
}

/// Whether some megabyte has a page of both copies of something.
fn has_neighbours(geometry: &Geometry) -> bool {
    let megabytes = |range: &Range<u64>| range.start / MIB..(range.end - 1) / MIB + 1;
    let meet = |a: Range<u64>, b: Range<u64>| {
        let (a, b) = (megabytes(&a), megabytes(&b));
        a.start < b.end && b.start < a.end
    };
    let pair = |ranges: Vec<Range<u64>>| meet(ranges[0].clone(), ranges[1].clone());
    let superblocks = geometry.superblocks();
    let [.., far] = superblocks[..] else {
        return true;
    };
    far < MIB
        || pair(geometry.journal.ranges().collect())
        || geometry.extents.iter().any(|extent| {
            pair(extent.table_ranges().collect()) || pair(extent.tag_ranges().collect())
        })
}

#[test]
fn metadata_takes_a_small_part_of_a_pool() {
    for (pages, most) in [(MIB, 60), (64 * MIB, 250), (1024 * MIB, 1400)] {
        let geometry = Geometry::new(pages).expect("room");
        assert_eq!(geometry.check(), Ok(()));
        let reserved = geometry.reserved_pages();
        assert!(reserved <= most, "{reserved}");
    }
    let tebibyte = Geometry::new(1 << 28).expect("room");
    assert!(tebibyte.reserved_pages() * 210 < tebibyte.total_pages);
}

#[test]
fn the_smallest_pool_has_room_for_a_block() {
    let pages = Geometry::min_pool_bytes() / PAGE_BYTES as u64;
    let geometry = Geometry::new(pages).expect("room");
    assert!(geometry.reserved_pages() < pages);
    assert_eq!(Geometry::new(pages - 1), None);
}

#[test]
fn no_megabyte_of_a_protected_pool_has_both_copies_of_anything() {
    for megabytes in (4..200).chain([255, 256, 257, 1000, 1023, 1024, 4096, 100_000, 1 << 20]) {
        for more in [0, 1, 255] {
            let geometry = Geometry::new(megabytes * MIB + more).expect("room");
            assert!(
                geometry.is_protected() && !has_neighbours(&geometry),
                "{megabytes} {more}"
            );
            for grown in [
                megabytes + 4,
                megabytes + 5,
                megabytes * 2,
                megabytes * 5 + 3,
            ] {
                let grown = geometry.grown(grown * MIB + more);
                assert_eq!(grown.check(), Ok(()), "{grown:?}");
                assert!(!has_neighbours(&grown), "{grown:?}");
            }
        }
    }
    assert!(!Geometry::new(4 * MIB - 1).expect("room").is_protected());
}

#[test]
fn neither_place_of_a_far_superblock_is_ever_allocated() {
    for megabytes in [1, 2, 3, 4, 7, 16, 100, 5000] {
        let mut geometry = Geometry::new(megabytes * MIB).expect("room");
        geometry = geometry.grown(4 * megabytes * MIB + 7);
        let reserved = ReservedPages::of(&geometry);
        for exponent in MIN_FAR_EXPONENT..=MAX_FAR_EXPONENT {
            for page in far_page(exponent)..far_page(exponent) + KEPT_PAGES {
                assert!(
                    reserved.touches(&(page..page + 1)),
                    "{page} of {geometry:?}"
                );
            }
        }
    }
}

#[test]
fn the_largest_pool_is_possible() {
    for version in FormatVersion::ALL {
        let geometry = new(version, (u64::from(u32::MAX) - 1) * UNITS);
        assert_eq!(geometry.check(), Ok(()));
        assert_eq!(
            Geometry::of_version(version, u64::from(u32::MAX) * UNITS),
            None
        );
    }
}

#[test]
fn growth_of_version_1_adds_extents_and_shrinking_gives_them_up() {
    let small = new(FormatVersion::One, 10 * MIB + 7);
    assert_eq!(small.grown(10 * MIB + 9).extents.len(), 1);
    assert_eq!(small.grown(10 * MIB + 9).total_pages, 10 * MIB + 9);
    let clamped = small.grown(11 * MIB + 2);
    assert_eq!(clamped.total_pages, 11 * MIB, "no room for an extent");
    let grown = small.grown(40 * MIB);
    assert_eq!(grown.check(), Ok(()));
    assert_eq!(grown.extents.len(), 2);
    assert_eq!(grown.extents[1].tables[0], 11 * MIB);
    let places: Vec<_> = [0, 10, 11, 39, 40]
        .map(|megabyte| grown.extent_of(megabyte))
        .to_vec();
    assert_eq!(places, [Some(0), Some(0), Some(1), Some(1), None]);
    let shrunk = grown.shrunk(11 * MIB).expect("room");
    assert_eq!(shrunk.extents.len(), 1);
    assert_eq!(shrunk.check(), Ok(()));
    assert_eq!(grown.shrunk(11 * MIB + 1), None, "an extent would be cut");
    assert_eq!(grown.shrunk(12), None);
    assert_eq!(grown.shrunk(0), None);
}

#[test]
fn growth_of_version_2_waits_for_room_for_copies_that_lie_apart() {
    let small = new(FormatVersion::Two, 10 * MIB + 7);
    assert_eq!(small.far, Some(4 * MIB));
    for waits in [11 * MIB + 2, 12 * MIB, 14 * MIB] {
        assert_eq!(small.grown(waits).total_pages, 11 * MIB);
    }
    let grown = small.grown(14 * MIB + 100);
    assert_eq!(grown.total_pages, 14 * MIB + 100);
    assert_eq!(grown.extents[1].tables, [11 * MIB, 13 * MIB]);
    let grown = small.grown(41 * MIB).grown(80 * MIB);
    assert_eq!(grown.extents[1].tables, [11 * MIB, 26 * MIB]);
    assert_eq!(grown.far, small.far, "it never moves");
    let shrunk = grown.shrunk(41 * MIB).expect("room");
    assert_eq!(shrunk.extents.len(), 2);
    assert_eq!(grown.shrunk(42 * MIB), None, "an extent would be cut");
    assert_eq!(shrunk.shrunk(4 * MIB), None, "the far place would be cut");
    // A place for a far superblock comes before what would lie there.
    let grown = new(FormatVersion::Two, 16 * MIB).grown(32 * MIB);
    assert_eq!(grown.extents[1].tables[0], 16 * MIB + KEPT_PAGES);
    let grown = new(FormatVersion::Two, 8 * MIB).grown(24 * MIB);
    assert_eq!(
        grown.extents[1].tables,
        [8 * MIB + KEPT_PAGES, 16 * MIB + KEPT_PAGES]
    );
}

#[test]
fn a_pool_says_with_how_many_pages_it_grows_again() {
    for version in FormatVersion::ALL {
        let geometry = new(version, 10 * MIB + 7).grown(64 * MIB);
        let next = geometry.next_growth().expect("room for extents");
        assert_eq!(geometry.grown(next - 1), geometry, "{version:?}");
        assert_eq!(geometry.grown(next).total_pages, next, "{version:?}");
    }
}

#[test]
fn a_pool_has_so_many_extents_and_no_more() {
    for version in FormatVersion::ALL {
        let mut most = new(version, 10 * MIB + 7);
        for step in 1..100 {
            most = most.grown((20 + 10 * step) * MIB);
            assert_eq!(most.check(), Ok(()));
        }
        assert_eq!(most.extents.len(), MAX_EXTENTS);
        assert_eq!(most.next_growth(), None);
    }
}

#[test]
fn an_impossible_geometry_is_refused() {
    let changes: [&dyn Fn(&mut Geometry); 16] = [
        &|geometry| geometry.total_pages += 10 * MIB,
        &|geometry| geometry.total_pages = 30,
        &|geometry| geometry.journal.regions[0] = Some(19),
        &|geometry| geometry.journal.regions[1] = Some(20),
        &|geometry| geometry.journal.pages = u64::MAX / 2,
        &|geometry| geometry.extents.clear(),
        &|geometry| geometry.extents[1].first_megabyte += 1,
        &|geometry| geometry.extents[0].tags[0] = geometry.extents[0].tags[0].map(|page| page - 1),
        &|geometry| geometry.extents[0].tags[0] = None,
        &|geometry| geometry.extents[0].tables[1] = geometry.extents[0].tables[0],
        &|geometry| geometry.extents[0].tables[1] = u64::MAX - 1,
        &|geometry| geometry.extents[1].table_written = u32::MAX,
        &|geometry| geometry.extents[0].megabytes = 0,
        &|geometry| geometry.extents[0].tag_pages += 1,
        &|geometry| geometry.far = Some(3 * MIB),
        &|geometry| {
            geometry.others.push(Area {
                kind: 9,
                flags: 0,
                first_page: 17,
                pages: 3,
            });
        },
    ];
    for version in FormatVersion::ALL {
        let good = new(version, 40 * MIB).grown(80 * MIB);
        assert_eq!(good.check(), Ok(()));
        for (position, change) in changes.iter().enumerate() {
            let mut geometry = good.clone();
            change(&mut geometry);
            assert!(
                geometry.check().is_err(),
                "{version:?} {position}: {geometry:?}"
            );
        }
    }
}

#[test]
fn the_largest_pool_has_a_geometry_and_no_larger_one() {
    assert!(Geometry::new(MAX_PAGES).is_some());
    for pages in [MAX_PAGES + 1, 1 << 50, (1 << 51) - 1] {
        assert!(Geometry::new(pages).is_none(), "{pages}");
    }
}
