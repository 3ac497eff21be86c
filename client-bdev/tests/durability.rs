//! Flushing, tagging, listing and mapping, against a module that behaves.

use chimaera_bdev_client::{
    Client, CreateOptions, ListedTag, MegabyteState, OwnedBlock, OwnerTag, PageCursor, PoolId,
    PoolQuery, Runtime, Status, TaskError,
};
use chimaera_testing::{FakeHost, LOST_TAG, MIB, Verdict, Watchdog, fake_bdev};

const LOCAL: PoolQuery = PoolQuery::Local;

fn pool(runtime: &Runtime, options: &CreateOptions) -> Client {
    let bdev = Client::new(runtime, PoolId::new(8000, 0));
    bdev.create(PoolQuery::Dynamic, "pool", options)
        .expect("creates");
    bdev
}

/// Blocks of all sizes, of two owners and of none, spread over several pages.
fn fill(bdev: &Client) -> Vec<OwnedBlock> {
    let mut all = Vec::new();
    for round in 0..3 {
        for (size, owner) in [(1, 0), (64 << 10, 7), (100_000, u64::MAX), (2 * MIB, 7)] {
            let owner = OwnerTag(owner);
            let blocks = bdev
                .allocate_blocks_for(LOCAL, size, owner)
                .expect("allocates");
            assert!(!blocks.is_empty(), "round {round}");
            all.extend(
                blocks
                    .into_iter()
                    .map(|block| OwnedBlock::new(block, owner)),
            );
        }
    }
    all
}

#[test]
fn every_block_is_listed_once_with_its_owner() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let bdev = pool(&runtime, &CreateOptions::ram(64 * MIB));
    assert_eq!(bdev.all_blocks(LOCAL).count(), 0, "only empty pages");
    let expected = fill(&bdev);
    let listed: Result<Vec<_>, _> = bdev.all_blocks(LOCAL).collect();
    assert_eq!(listed.expect("lists"), expected);

    let page = bdev
        .list_blocks(LOCAL, PageCursor::START)
        .expect("a first page");
    assert_eq!(page.blocks, expected[..page.blocks.len()]);
    let next = page.next.expect("more pages");
    assert!(page.blocks.len() < expected.len());
    let from_there = bdev
        .list_blocks(LOCAL, PageCursor::at_offset(next.megabyte() * MIB + 17))
        .expect("a second page");
    assert_eq!(from_there.blocks[0], expected[page.blocks.len()]);

    let seven = |owned: &OwnedBlock| owned.owner == OwnerTag(7);
    let mine: Vec<_> = expected.iter().copied().filter(seven).collect();
    let blocks: Vec<_> = mine.iter().map(|owned| owned.block).collect();
    bdev.free_blocks(LOCAL, &blocks).expect("frees");
    let left = bdev.all_blocks(LOCAL).map(|owned| owned.expect("lists"));
    assert_eq!(left.filter(seven).count(), 0);
}

#[test]
fn many_blocks_of_one_allocation_have_its_tag() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let bdev = pool(&runtime, &CreateOptions::ram(64 * MIB));
    let owner = OwnerTag(0xfeed);
    let blocks = bdev
        .allocate_blocks_for(LOCAL, 20 * MIB, owner)
        .expect("allocates");
    let listed: Vec<_> = bdev
        .all_blocks(LOCAL)
        .map(|owned| owned.expect("lists"))
        .collect();
    assert_eq!((blocks.len(), listed.len()), (20, 20));
    assert!(listed.iter().all(|owned| owned.owner == owner));
    let untagged = bdev.allocate_blocks(LOCAL, 1).expect("allocates");
    let last = bdev.all_blocks(LOCAL).last().expect("blocks");
    let last = last.expect("lists");
    assert_eq!(last.block, untagged[0]);
    assert_eq!(last.owner, OwnerTag::NONE);
}

#[test]
fn a_tag_that_the_pool_has_lost_is_unknown_and_matches_nobodys() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let bdev = pool(&runtime, &CreateOptions::ram(64 * MIB));
    for tag in [LOST_TAG, OwnerTag(7), OwnerTag::NONE] {
        bdev.allocate_blocks_for(LOCAL, 1, tag).expect("allocates");
    }
    let listed = bdev
        .all_blocks(LOCAL)
        .map(|owned| owned.expect("lists").owner);
    let listed: Vec<_> = listed.collect();
    let known = ListedTag::Known;
    assert_eq!(
        listed,
        [
            ListedTag::Unknown,
            known(OwnerTag(7)),
            known(OwnerTag::NONE)
        ]
    );
    for tag in [OwnerTag::NONE, LOST_TAG, OwnerTag(u64::MAX)] {
        assert_ne!(listed[0], tag);
    }
}

#[test]
fn the_map_has_every_megabyte_from_all_pages() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let bdev = pool(&runtime, &CreateOptions::ram(8 * MIB));
    assert_eq!(bdev.map(LOCAL).expect("maps"), [MegabyteState::Free; 8]);
    bdev.allocate_blocks(LOCAL, 5 * MIB).expect("allocates");
    bdev.allocate_blocks(LOCAL, 1).expect("allocates");
    let mut expected = [MegabyteState::Used; 8];
    expected[5] = MegabyteState::Split;
    expected[6..].fill(MegabyteState::Free);
    assert_eq!(bdev.map(LOCAL).expect("maps"), expected);
}

#[test]
fn flushes_listings_and_maps_can_be_awaited() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let bdev = pool(&runtime, &CreateOptions::ram(8 * MIB));
    bdev.flush(LOCAL).expect("flushes");
    let tokio = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("tokio");
    tokio
        .block_on(async {
            let owner = OwnerTag(3);
            let blocks = bdev.async_allocate_blocks_for(LOCAL, 1, owner).await?;
            bdev.async_flush(LOCAL).await?;
            let page = bdev.async_list_blocks(LOCAL, PageCursor::START).await?;
            let block = blocks[0];
            assert_eq!(page.blocks, [OwnedBlock::new(block, owner)]);
            let page = bdev.async_map_page(LOCAL, PageCursor::START).await?;
            assert_eq!(page.states[0], MegabyteState::Split);
            assert_eq!(page.next.map(PageCursor::megabyte), Some(3));
            Ok::<_, TaskError>(())
        })
        .expect("works");
}

#[test]
fn a_pool_that_is_open_for_reading_refuses_all_changes() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(fake_bdev());
    let options = CreateOptions::ram(8 * MIB);
    assert!(options.overwrite(true).params().overwrite);
    let bdev = pool(&runtime, &options.read_only(true));
    assert!(bdev.get_stats().expect("statistics").read_only);
    let error = bdev.allocate_blocks(LOCAL, 1).expect_err("read only");
    assert_eq!(error.status(), Status::ReadOnly);
    assert!(error.to_string().contains("for reading only"), "{error}");
}

#[test]
fn what_failed_says_what_was_tried() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(|_, _| Verdict::fail(Status::IoError));
    let bdev = Client::new(&runtime, PoolId::new(8000, 1));
    let listing = bdev.list_blocks(LOCAL, PageCursor::at_offset(5 * MIB));
    let mut all = bdev.all_blocks(LOCAL);
    let first = all.next().expect("an error");
    assert!(all.next().is_none(), "it ends after an error");
    for (error, text) in [
        (
            bdev.flush(LOCAL).expect_err("fails"),
            "flushing pool 8000.1",
        ),
        (
            listing.expect_err("fails"),
            "listing the blocks of pool 8000.1 from megabyte 5 on",
        ),
        (
            first.expect_err("fails"),
            "listing the blocks of pool 8000.1 from megabyte 0 on",
        ),
        (
            bdev.map(LOCAL).expect_err("fails"),
            "reading the map of pool 8000.1",
        ),
    ] {
        assert_eq!(error.status(), Status::IoError);
        assert!(error.to_string().starts_with(text), "{error}");
    }
}
