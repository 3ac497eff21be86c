//! Pools of all programs are repaired after damage to one copy of their metadata.

use std::fs;

use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolQuery};
use chimaera_tests::{Daemon, chimaera, exit::DAMAGED_METADATA, text};

use crate::image::PAGE_BYTES;
use crate::restored::{RestoredPool, for_each_image, u32_at, u64_at};

/// A page that has a copy.
struct CopiedPage {
    what: String,
    page: u64,
}

/// What a superblock says of where copies are, in pages.
struct Copies {
    superblocks: Vec<u64>,
    /// The first pages of a table's copies, for each extent of which a table was written.
    tables: Vec<[u64; 2]>,
    /// The epoch that the tables have.
    epoch: u64,
    /// The halves of the journal, with both regions of version 2, and the pages of each.
    halves: Vec<u64>,
    half_pages: u64,
}

impl Copies {
    /// Reads the superblock at the beginning of a pool's file.
    fn of(bytes: &[u8]) -> Self {
        let is_version_1 = u32_at(bytes, 16) == 1;
        let (extent_count, first_extent, written) = if is_version_1 {
            (u32_at(bytes, 200), 256, 28)
        } else {
            (u32_at(bytes, 232), 320, 40)
        };
        let extents = (0..extent_count as usize).map(|extent| first_extent + 48 * extent);
        let tables = extents
            .filter(|extent| u32_at(bytes, extent + written) > 0)
            .map(|extent| [8, 16].map(|at| u64_at(bytes, extent + at)));
        let mut copies = Self {
            superblocks: vec![0, 16],
            tables: tables.collect(),
            epoch: u64_at(bytes, if is_version_1 { 152 } else { 104 }),
            halves: Vec::new(),
            half_pages: 0,
        };
        if is_version_1 {
            copies.halves = vec![u64_at(bytes, 176), u64_at(bytes, 184)];
            copies.half_pages = u64_at(bytes, 192);
            return copies;
        }
        let far_place = u64_at(bytes, 80);
        if far_place != 0 {
            copies.superblocks.extend([far_place, far_place + 3]);
        }
        // The first two areas are the regions of the journal.
        for area in [3392, 3416] {
            copies.half_pages = u64_at(bytes, area + 16) / 2;
            let first = u64_at(bytes, area + 8);
            copies.halves.extend([first, first + copies.half_pages]);
        }
        copies
    }

    /// The last record of a half: its sequence, and the pages where it begins.
    fn last_record(&self, bytes: &[u8], half: u64) -> (u64, Vec<u64>) {
        let mut last = (0, Vec::new());
        for page in half..half + self.half_pages {
            let at = page as usize * PAGE_BYTES;
            if &bytes[at..at + 4] == b"CJRN" && u64_at(bytes, at + 8) > self.epoch {
                let sequence = u64_at(bytes, at + 16);
                last.1.retain(|_| last.0 == sequence);
                last.0 = sequence;
                last.1.push(page);
            }
        }
        last
    }
}

/// The pages that have copies, as the superblock in these bytes of a file says.
fn copied_pages(bytes: &[u8]) -> Vec<CopiedPage> {
    let copies = Copies::of(bytes);
    let mut found = Vec::new();
    let mut add = |what: String, page| found.push(CopiedPage { what, page });
    for &page in &copies.superblocks {
        add(format!("superblock at page {page}"), page);
    }
    for page in copies.tables.iter().flatten() {
        add(format!("copy of a table at page {page}"), *page);
    }
    for &half in &copies.halves {
        let (sequence, pages) = copies.last_record(bytes, half);
        for page in pages {
            add(format!("record {sequence} at page {page}"), page);
        }
    }
    found
}

fn flip(bytes: &mut [u8], page: u64) {
    bytes[page as usize * PAGE_BYTES + 70] ^= 0x10;
}

fn zero(bytes: &mut [u8], page: u64) {
    bytes[page as usize * PAGE_BYTES..][..PAGE_BYTES].fill(0);
}

/// Calls `test` for each page of each image that has a copy, with a pool in which that page is damaged, and the
/// daemon to use.
fn for_each_damage(damage: fn(&mut [u8], u64), test: impl Fn(&str, &RestoredPool, &Daemon)) {
    for_each_image(|name, image| {
        let daemon = Daemon::start();
        let restored = RestoredPool::new(image);
        let bytes = restored.bytes();
        let pages = copied_pages(&bytes);
        assert!(pages.len() >= 4, "{name}: copies are found");
        for page in pages {
            let mut damaged = bytes.clone();
            damage(&mut damaged, page.page);
            fs::write(&restored.path, &damaged).expect("the pool");
            let what = format!("{name}: {}", page.what);
            test(&what, &restored, &daemon);
        }
    });
}

/// The pool opens and holds what it must.
fn assert_is_whole(restored: &RestoredPool, daemon: &Daemon) {
    restored.rename();
    let runtime = daemon.connect();
    let pool = Client::new(&runtime, PoolId::NULL);
    let opened = pool.create(
        PoolQuery::Dynamic,
        text(&restored.path),
        &CreateOptions::file(),
    );
    assert_eq!(
        opened.expect("it is opened").id.to_string(),
        restored.image.id
    );
    restored.assert_holds(daemon, &pool);
    let destroyed = runtime.admin().destroy_pool(pool.pool_id());
    destroyed.expect("the pool goes");
}

#[test]
fn each_is_opened_with_damage_to_one_copy() {
    for_each_damage(zero, |_, restored, daemon| {
        assert_is_whole(restored, daemon);
    });
}

#[test]
fn each_is_checked_and_repaired_after_damage_to_one_copy() {
    for_each_damage(flip, |what, restored, daemon| {
        let check = ["pool", "check", text(&restored.path)];
        let damaged = restored.bytes();
        let found = chimaera(&check);
        assert!(
            found.stdout.contains("can be repaired"),
            "{what}: {found:?}"
        );
        let said = found.failure(DAMAGED_METADATA);
        assert!(said.contains("check --repair"), "{what}: {said}");
        assert!(
            restored.bytes() == damaged,
            "{what}: a check changes nothing"
        );
        let said = chimaera(&[&check[..], &["--repair"]].concat()).success();
        assert!(said.contains("repaired: "), "{what}: {said}");
        assert!(restored.bytes() != damaged, "{what}: it was repaired");
        let _ = chimaera(&check).success();
        assert_is_whole(restored, daemon);
    });
}
