//! The mark of a failure: it stays until a repair is durable, and nothing depends on it.

use std::rc::Rc;

use super::Numbers;
use super::creation::identity;
use super::damage_tests::{birth, change, megabyte_of};
use super::disk::{DiskImage, Loss, SimulatedDisk};
use super::model::{Expected, FoundPool, ModelState, TagComparison, WRITING};
use crate::block_map::UNITS;
use crate::check::{Checked, Repair, check};
use crate::weakness::{CrashWeakness, with_weakness};
use crate::{FormatVersion, Geometry, Metadata, OpenError, OpenMode};

const REPAIR: Repair = Repair {
    history: 9,
    seconds: 1,
    uuid: None,
};

fn look(image: &DiskImage) -> Checked {
    let disk = SimulatedDisk::new(image.clone());
    check(&disk, disk.total_pages(), None, &mut |_, _| {}).expect("a pool")
}

/// A pool with tagged blocks, all of which are in the table.
fn sound_pool() -> (SimulatedDisk, Metadata<SimulatedDisk>, Expected) {
    let total_pages = 10 * UNITS;
    let disk = SimulatedDisk::new(DiskImage::blank(total_pages));
    let geometry = Geometry::with_journal(FormatVersion::Two, total_pages, 8).expect("room");
    let metadata = Metadata::format(disk.clone(), identity(), geometry, birth(7), false);
    let mut metadata = metadata.expect("a sound device");
    let mut state = ModelState {
        total_pages,
        ..ModelState::default()
    };
    for megabyte in [1, 3, 5] {
        let change = change(megabyte, 9);
        state.set(megabyte, megabyte_of(&change));
        metadata.commit(&[change]).expect("a sound device");
    }
    metadata.checkpoint().expect("a sound device");
    let expected = Expected::exactly(Rc::new(state), Rc::default());
    (disk, metadata, expected)
}

/// A pool whose second copies of the table and the tags are damaged, and that has the mark of a failure; and its mark
/// pages.
fn marked_pool() -> (DiskImage, Expected, Vec<u64>) {
    let (disk, mut metadata, expected) = sound_pool();
    metadata.mark_failure("a flush failed", 1);
    let geometry = metadata.geometry();
    let extent = &geometry.extents[0];
    let mut image = disk.seen();
    for page in [Some(extent.tables[1]), extent.tags[1]] {
        image.change(page.expect("two copies"), |bytes| bytes.fill(0));
    }
    assert!(look(&image).repairable.len() > 2, "each is found");
    (image, expected, geometry.marks())
}

/// Repairs a marked pool, and sees that after any crash of that it has its mark, or was repaired.
fn repair_with_crashes() -> Result<(), String> {
    let (image, expected, _) = marked_pool();
    let disk = SimulatedDisk::new(image);
    let checked = check(&disk, disk.total_pages(), Some(REPAIR), &mut |_, _| {});
    assert!(checked.expect("a pool").repaired);
    let recording = disk.recording();
    let mut numbers = Numbers::new(1);
    let mut walk = recording.walk();
    for position in 0..=recording.len() {
        for loss in Loss::EACH {
            let image = walk.left.crash(loss, &mut numbers);
            let place = || format!("position {position}, lost {loss:?}");
            let found = look(&image);
            let is_done = found.repairable.is_empty()
                && found.superblock.history.is_some_and(|it| it.ended_well);
            match (found.mark, is_done) {
                (None, false) => return Err(format!("{}: cleared too early", place())),
                (Some(_), _) if position == recording.len() => {
                    return Err("the repaired pool has its mark".to_owned());
                }
                _ => {}
            }
            let disk = SimulatedDisk::new(image);
            let opened = FoundPool::open(&disk, OpenMode::ReadOnly).expect("a pool");
            expected
                .admit(&opened, TagComparison::Exact)
                .map_err(|text| format!("{}: {text}", place()))?;
        }
        walk.step();
    }
    Ok(())
}

#[test]
fn a_mark_stays_until_the_repair_is_durable() {
    repair_with_crashes().expect("it stays");
    for weakness in [CrashWeakness::MarkClearedEarly, CrashWeakness::MarkLeft] {
        let found = with_weakness(Some(weakness), repair_with_crashes);
        assert!(found.is_err(), "{weakness:?}");
    }
}

#[test]
fn a_pool_is_the_same_with_its_mark_torn_absent_or_of_another_opening() {
    let (image, expected, marks) = marked_pool();
    let whole = image.page(marks[0]);
    // A mark of an opening before that a repair has not come to remove.
    let other = {
        let (disk, mut metadata, _) = sound_pool();
        metadata.mark_failure("a write failed", 0);
        disk.seen().page(marks[0])
    };
    assert_ne!(whole, other);
    let torn = std::array::from_fn(|at| if at < 512 { whole[at] } else { 7 });
    let contents = [[0; crate::PAGE_BYTES], torn, other, whole];
    for (count, bytes) in contents.iter().enumerate() {
        let mut image = image.clone();
        marks
            .iter()
            .for_each(|page| image.change(*page, |page| *page = *bytes));
        let is_marked = look(&image).mark.is_some();
        assert_eq!(is_marked, count >= 2, "{count}");
        let disk = SimulatedDisk::new(image);
        match FoundPool::open(&disk, WRITING) {
            Err(OpenError::Marked(_)) if is_marked => {
                assert!(!disk.recording().has_writes());
                let repaired = check(&disk, disk.total_pages(), Some(REPAIR), &mut |_, _| {});
                assert!(repaired.expect("a pool").repaired);
            }
            opened => assert!(opened.is_ok() && !is_marked, "{count}"),
        }
        let found = FoundPool::open(&disk, WRITING).expect("no mark is left");
        let admitted = expected.admit(&found, TagComparison::Exact);
        admitted.unwrap_or_else(|text| panic!("{count}: {text}"));
    }
}

#[test]
fn a_repair_whose_write_or_flush_fails_leaves_a_mark() {
    let (image, expected, marks) = marked_pool();
    let mut unmarked = image.clone();
    marks.iter().for_each(|page| unmarked.clear(*page));
    let mut failures = 0;
    loop {
        let disk = SimulatedDisk::new(unmarked.clone());
        disk.lie_after(failures);
        let repaired = check(&disk, disk.total_pages(), Some(REPAIR), &mut |_, _| {});
        let Err(error) = repaired else {
            break;
        };
        failures += 1;
        let recording = disk.recording();
        let mut walk = recording.walk();
        (0..recording.len()).for_each(|_| walk.step());
        let image = walk.left.crash(Loss::All, &mut Numbers::new(1));
        let mark = look(&image).mark.expect("durable");
        assert!(mark.text.contains(&error.to_string()), "{mark}");
        let opened = FoundPool::open(&disk, WRITING).err();
        assert!(matches!(opened, Some(OpenError::Marked(_))), "{opened:?}");
        let repaired = check(&disk, disk.total_pages(), Some(REPAIR), &mut |_, _| {});
        assert!(repaired.expect("the device works again").repaired);
        let found = FoundPool::open(&disk, WRITING).expect("no mark is left");
        expected
            .admit(&found, TagComparison::Exact)
            .expect("all of it");
    }
    assert!(failures > 10, "{failures}");
}
