//! Copies of the table whose mending has failed, and that look sound since.

use super::Numbers;
use super::creation::format;
use super::damage_tests::change;
use super::disk::{DiskImage, SimulatedDisk};
use super::doubt::see_that_a_copy_is_durable;
use super::model::{FoundPool, WRITING};
use crate::block_map::UNITS;
use crate::weakness::{CrashWeakness, with_weakness};
use crate::{FormatVersion, OpenError};

/// Megabytes of the first and of the second page of the table.
const MEGABYTES: [u32; 2] = [5, 150];

/// A pool with two pages of the table, of which a copy of the second one is damaged.
fn damaged_pool(copy: usize) -> DiskImage {
    let total_pages = 256 * UNITS;
    let disk = SimulatedDisk::new(DiskImage::blank(total_pages));
    let made = format(&mut Numbers::new(1), &disk, FormatVersion::Two, total_pages);
    let mut metadata = made.expect("room");
    let changes = MEGABYTES.map(|megabyte| change(megabyte, 1));
    metadata.commit(&changes).expect("a sound device");
    metadata.checkpoint().expect("a sound device");
    let table = metadata.geometry().extents[0].tables[copy];
    let mut image = disk.seen();
    image.clear(table + 1);
    image
}

/// Opens the pool while a flush fails, the first one behind so many writes and flushes, and again; then brings commits
/// of one page of the table after the other into it. Sees that one copy of each page is durable all the time. `None` if
/// no flush has failed.
fn mend_with_a_failure(image: &DiskImage, events: u64) -> Option<Result<(), String>> {
    let disk = SimulatedDisk::new(image.clone());
    disk.lie_after(events);
    match FoundPool::open(&disk, WRITING) {
        Ok(_) => return None,
        Err(OpenError::Device(_)) => {}
        Err(error) => panic!("{error}"),
    }
    let found = FoundPool::open(&disk, WRITING);
    let mut metadata = found.expect("the device works again").metadata;
    for megabyte in MEGABYTES {
        let committed = metadata.commit(&[change(megabyte, 2)]);
        committed
            .and_then(|()| metadata.checkpoint())
            .expect("a sound device");
    }
    let recording = disk.recording();
    let mut walk = recording.walk();
    let results = (0..recording.len()).map(|position| {
        walk.step();
        see_that_a_copy_is_durable(&walk.left).map_err(|text| format!("{position}: {text}"))
    });
    Some(results.collect())
}

fn mend_with_each_failure() -> Result<(), String> {
    let mut failures = 0;
    for copy in 0..2 {
        let image = damaged_pool(copy);
        let results = (0..).map_while(|events| mend_with_a_failure(&image, events));
        failures += results.collect::<Result<Vec<_>, _>>()?.len();
    }
    assert!(failures > 10, "{failures}");
    Ok(())
}

#[test]
fn each_page_of_the_table_is_doubted_until_a_checkpoint_has_written_it() {
    mend_with_each_failure().expect("never both");
    for weakness in [
        CrashWeakness::SecondCopiesTrusted,
        CrashWeakness::SecondCopiesTrustedSoon,
    ] {
        let found = with_weakness(Some(weakness), mend_with_each_failure);
        assert!(found.is_err(), "{weakness:?}");
    }
}
