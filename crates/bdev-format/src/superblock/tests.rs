use super::*;

fn superblock(version: FormatVersion) -> Superblock {
    let identity = Identity {
        pool: PoolId::new(8000, 1),
        name: "/var/tmp/pööl".to_owned(),
        owner: PoolOwner {
            user: 1,
            group: 2,
            mode: 0o640,
        },
        alignment: 512,
        io_depth: 64,
        io_engine: IoEngine::IoUring,
        metrics: PerfMetrics::default(),
        scrubs: false,
    };
    let geometry = Geometry::of_version(version, 40 * 256).expect("room");
    let birth = Birth {
        uuid: [9; 16],
        seed: 77,
        history: 0xABCD,
        created: 1_700_000_000,
    };
    let mut superblock = Superblock::of_new_pool(identity, geometry.grown(100 * 256), birth);
    superblock.generation = 3;
    superblock.epoch = 4;
    superblock.sequence = 77;
    superblock
}

#[test]
fn it_reads_as_it_is_written_and_no_bit_of_it_can_change() {
    for version in FormatVersion::ALL {
        let superblock = superblock(version);
        for place in superblock.geometry.superblocks() {
            let pages = superblock.to_pages(place);
            let mut read = Superblock::read(&pages, place).expect("sound");
            assert!(read.is_same(&superblock));
            read.template.clear();
            assert_eq!(read, superblock);
            if place != 0 {
                continue;
            }
            for bit in 0..BYTES * 8 {
                let mut damaged = pages.clone();
                damaged[bit / 8 / PAGE_BYTES].0[bit / 8 % PAGE_BYTES] ^= 1 << (bit % 8);
                assert_eq!(
                    Superblock::read(&damaged, place),
                    Err(NoSuperblock::Damaged),
                    "{bit}"
                );
            }
        }
        assert_eq!(
            Superblock::read(&Page::zeroes(2), 0),
            Err(NoSuperblock::Absent)
        );
    }
}

#[test]
fn a_copy_of_version_2_counts_only_in_its_own_place() {
    let superblock = superblock(FormatVersion::Two);
    let places = superblock.geometry.superblocks();
    assert_eq!(places, [0, 16 * 256, 16, 16 * 256 + 3]);
    for place in &places {
        for other in places.iter().chain(&[8 * 256]) {
            let read = Superblock::read(&superblock.to_pages(*place), *other);
            assert_eq!(read.is_ok(), place == other, "{place} at {other}");
        }
    }
    let elsewhere = 8 * 256;
    let forged = Superblock::read(&superblock.to_pages(elsewhere), elsewhere);
    assert_eq!(
        forged,
        Err(NoSuperblock::Damaged),
        "where the pool has no copy"
    );
}

/// A superblock that was read after one of its bytes had changed, which got a right checksum again.
fn changed(version: FormatVersion, at: usize) -> Result<Superblock, NoSuperblock> {
    resealed(version, |bytes| bytes[at] ^= 0x42)
}

/// A superblock that was read after this change of its bytes, which got a right checksum again.
fn resealed(
    version: FormatVersion,
    change: impl FnOnce(&mut [u8]),
) -> Result<Superblock, NoSuperblock> {
    let mut bytes = bytes_of(&superblock(version).to_pages(0)).to_vec();
    change(&mut bytes);
    Checksum::UNSEEDED.seal(MAGIC, &mut bytes);
    let (pages, _) = bytes.as_chunks::<PAGE_BYTES>();
    let pages: Vec<_> = pages.iter().map(|&page| Page(page)).collect();
    Superblock::read(&pages, 0)
}

#[test]
fn an_impossible_alignment_or_depth_is_damage_and_in_version_1_the_default() {
    let read = |version, alignment: u32, io_depth: u32| {
        let [alignment_at, io_depth_at] = match version {
            FormatVersion::One => [92, 96],
            FormatVersion::Two => [180, 184],
        };
        let read = resealed(version, |bytes| {
            put_u32(bytes, alignment_at, alignment);
            put_u32(bytes, io_depth_at, io_depth);
        });
        read.map(|read| (read.identity.alignment, read.identity.io_depth))
    };
    for version in FormatVersion::ALL {
        for alignment in [512, 1024, 2048, 4096] {
            assert_eq!(read(version, alignment, 1), Ok((alignment, 1)));
        }
        assert_eq!(read(version, 512, 4096), Ok((512, 4096)));
    }
    for alignment in [0, 1, 256, 513, 3072, 8192, 1 << 20, 1 << 31, u32::MAX] {
        let two = read(FormatVersion::Two, alignment, 9);
        assert_eq!(two, Err(NoSuperblock::Damaged), "{alignment}");
        assert_eq!(read(FormatVersion::One, alignment, 9), Ok((4096, 9)));
    }
    for io_depth in [0, 4097, 1 << 31, u32::MAX] {
        let two = read(FormatVersion::Two, 512, io_depth);
        assert_eq!(two, Err(NoSuperblock::Damaged), "{io_depth}");
        assert_eq!(read(FormatVersion::One, 512, io_depth), Ok((512, 32)));
    }
}

#[test]
fn what_is_newer_than_the_program_is_refused_or_only_read() {
    for version in FormatVersion::ALL {
        let unsupported = |result| matches!(result, Err(NoSuperblock::Unsupported(_)));
        assert!(unsupported(changed(version, VERSION_AT)));
        assert!(unsupported(changed(version, FEATURES_AT)));
        let only_read = changed(version, FEATURES_AT + 8).expect("may be read");
        assert!(only_read.features().forbid_writing());
        let kept = changed(version, FEATURES_AT + 16).expect("may be used");
        assert!(!kept.features().forbid_writing());
        let again = Superblock::read(&kept.to_pages(0), 0).expect("sound");
        assert_eq!(again.features(), kept.features());
    }
}

#[test]
fn what_a_newer_program_has_put_into_it_is_kept() {
    // A root slot, and bytes that are not in use.
    for at in [3780, 300, 4090] {
        let read = changed(FormatVersion::Two, at).expect("may be used");
        let pages = read.to_pages(16);
        assert_eq!(bytes_of(&pages)[at], 0x42, "{at}");
    }
    let mut superblock = superblock(FormatVersion::Two);
    superblock.geometry.others.push(crate::geometry::Area {
        kind: 77,
        flags: 3,
        first_page: 5000,
        pages: 10,
    });
    let read = Superblock::read(&superblock.to_pages(0), 0).expect("may be used");
    assert_eq!(read.geometry.others, superblock.geometry.others);
    assert!(read.geometry.reserved().any(|range| range == (5000..5010)));
}

#[test]
fn a_history_holds_for_its_successor_if_it_ended_well() {
    let mut history = History::default().next(11);
    assert_eq!(
        (history.openings, history.predecessor_ended_well),
        (1, false)
    );
    assert!(history.follows(11) && !history.follows(0));
    history.ended_well = true;
    let after = history.next(12);
    assert!(after.follows(12) && after.follows(11) && !after.follows(13));
    // It was killed.
    let again = after.next(13);
    assert!(again.follows(13) && !again.follows(12) && !again.follows(11));
    assert_eq!(again.openings, 3);
}

#[test]
fn permissions_that_may_let_somebody_in_are_told_from_others() {
    let owner = |user, group, mode| PoolOwner { user, group, mode };
    let before = owner(1, 2, 0o640);
    for (after, expected) in [
        (before, false),
        (owner(1, 2, 0o600), false),
        (owner(1, 2, 0o740), false),
        (owner(1, 2, 0o651), false),
        (owner(1, 2, 0o660), true),
        (owner(1, 2, 0o644), true),
        (owner(1, 3, 0o640), true),
        (owner(1, 3, 0o600), false),
        // Members of the former group have the others' bits now.
        (owner(1, 3, 0o604), true),
        (owner(3, 2, 0o640), true),
        (owner(3, 2, 0), true),
    ] {
        assert_eq!(after.lets_others_in(before), expected, "{after:?}");
    }
    // As above, where the others had those bits before.
    assert!(owner(1, 3, 0o606).lets_others_in(owner(1, 2, 0o606)));
    // A class that loses bits falls to no other class: the group's members stay the group's.
    assert!(!owner(1, 2, 0o604).lets_others_in(owner(1, 2, 0o644)));
}
