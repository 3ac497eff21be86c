//! Each megabyte that holds metadata of a pool cannot be read in turn, until it is written again: all that was flushed
//! is found, and a repair mends the pool.

use chimaera_bdev_format::Geometry;
use chimaera_tests::exit::DAMAGED_METADATA;
use chimaera_tests::{Daemon, FlushedPool, MIB, Unreadable, Watchdog, json, overwrite};

/// The sizes of a pool that has grown once.
const SIZES: [u64; 2] = [16 * MIB, 24 * MIB];
/// The megabytes with metadata of such a pool.
const MEGABYTES: [u64; 4] = [0, 8, 16, 20];
const PAGE: u64 = 4096;

/// The pool is opened by a daemon, which finds all of it.
fn open(image: &FlushedPool, unreadable: &Unreadable, megabyte: u64) {
    let lost = megabyte * MIB..(megabyte + 1) * MIB;
    image.assert_whole(&unreadable.daemon(), std::slice::from_ref(&lost));
}

#[test]
fn any_megabyte_with_metadata_of_a_pool_may_be_unreadable() {
    let _watchdog = Watchdog::start();
    let image = FlushedPool::killed(&SIZES);
    for megabyte in MEGABYTES {
        image.restore();
        let lost = megabyte * MIB..(megabyte + 1) * MIB;
        let unreadable = Unreadable::new(image.path(), lost);
        let inspected = unreadable.run(&["pool", "inspect", image.name()]);
        let said = inspected.failure(DAMAGED_METADATA);
        assert!(said.contains("pool check --repair"), "{said}");
        if megabyte == 0 {
            let said = image.create(&unreadable.daemon(), &[]);
            let said = said.failure(DAMAGED_METADATA);
            assert!(said.contains("pool check --repair"), "{said}");
            assert_eq!(unreadable.written_pages(), 0);
        } else {
            open(&image, &unreadable, megabyte);
            image.restore();
            unreadable.forget();
        }
        let _ = unreadable
            .run(&["pool", "check", "--repair", image.name()])
            .success();
        assert_ne!(unreadable.written_pages(), 0);
        let checked = unreadable.run(&["pool", "check", "--json", image.name()]);
        assert_eq!(json(&checked.success())["repairable"], json("[]"));
        open(&image, &unreadable, megabyte);
    }
}

#[test]
fn where_a_page_of_the_table_is_left_in_no_copy_the_error_names_the_megabytes() {
    let _watchdog = Watchdog::start();
    let image = FlushedPool::killed(&SIZES[..1]);
    let [first, second] = Geometry::new(SIZES[0] / PAGE).expect("room").tables();
    overwrite(image.path(), second * PAGE..(second + 1) * PAGE, Some(1));
    let unreadable = Unreadable::new(image.path(), first * PAGE..(first + 1) * PAGE);
    let daemon = unreadable.daemon();
    let wanted = "the table's page for the megabytes from 0 on is sound and can be read";
    let refusals = [
        unreadable.run(&["pool", "inspect", image.name()]),
        unreadable.run(&["pool", "check", "--repair", image.name()]),
        image.create(&daemon, &[]),
    ];
    for refusal in refusals {
        // What is damaged is among the findings.
        let found = refusal.stdout.clone();
        let said = found + &refusal.failure(DAMAGED_METADATA);
        assert!(said.contains(wanted), "{said}");
        assert!(said.contains("Input/output error"), "{said}");
    }
    assert_eq!(unreadable.written_pages(), 0);
    let _ = image.create(&daemon, &["--read-only"]).success();
    drop(daemon);
    // Nothing was changed: where it can be read again, all is there.
    image.assert_whole(&Daemon::start(), &[]);
}
