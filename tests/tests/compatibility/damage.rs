//! Pools of all programs are repaired after damage to one copy of their metadata.

use std::fs;

use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolQuery};
use chimaera_tests::{Daemon, chimaera, exit::DAMAGED_METADATA, text};

use crate::image::PAGE_BYTES;
use crate::restored::{RestoredPool, for_each_image, u32_at, u64_at};

/// A page of version 1 of the format that has a copy.
struct CopiedPage {
    what: String,
    page: u64,
    /// Whether `pool check` speaks of the damage. It does not where opening restores a copy anyway.
    is_reported: bool,
}

/// The pages that have copies, as the superblock in these bytes of a file says.
fn copied_pages(bytes: &[u8]) -> Vec<CopiedPage> {
    let mut found = Vec::new();
    let mut add = |what: String, page, is_reported| {
        found.push(CopiedPage {
            what,
            page,
            is_reported,
        });
    };
    for page in [0, 16] {
        add(format!("superblock at page {page}"), page, true);
    }
    for extent in 0..u32_at(bytes, 200) {
        let place = 256 + 48 * extent as usize;
        let is_written = u32_at(bytes, place + 28) > 0;
        for copy in (0..2).filter(|_| is_written) {
            let page = u64_at(bytes, place + 8 + 8 * copy);
            add(format!("copy {copy} of table {extent}"), page, true);
        }
    }
    let (epoch, len) = (u64_at(bytes, 152), u64_at(bytes, 192));
    for half in [u64_at(bytes, 176), u64_at(bytes, 184)] {
        // Where the copies of the half's last record begin.
        let mut last = (0, Vec::new());
        for page in half..half + len {
            let at = page as usize * PAGE_BYTES;
            if &bytes[at..at + 4] == b"CJRN" && u64_at(bytes, at + 8) > epoch {
                let sequence = u64_at(bytes, at + 16);
                last.1.retain(|_| last.0 == sequence);
                last.0 = sequence;
                last.1.push(page);
            }
        }
        for page in last.1 {
            add(format!("record {} at page {page}", last.0), page, false);
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
fn for_each_damage(
    damage: fn(&mut [u8], u64),
    test: impl Fn(&str, &CopiedPage, &RestoredPool, &Daemon),
) {
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
            test(&what, &page, &restored, &daemon);
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
    for_each_damage(zero, |_, _, restored, daemon| {
        assert_is_whole(restored, daemon);
    });
}

#[test]
fn each_is_checked_and_repaired_after_damage_to_one_copy() {
    for_each_damage(flip, |what, page, restored, daemon| {
        let check = ["pool", "check", text(&restored.path)];
        let damaged = restored.bytes();
        let found = chimaera(&check);
        if page.is_reported {
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
        }
        let _ = chimaera(&check).success();
        assert_is_whole(restored, daemon);
    });
}
