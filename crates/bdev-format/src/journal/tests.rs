use super::*;
use crate::block_map::Slot;
use chimaera_bdev_proto::BlockType;

fn updates() -> Vec<MegabyteUpdate> {
    let slot = Slot {
        block_type: BlockType::Kib4,
        number: 3,
    };
    let plain = |megabyte, map| MegabyteUpdate {
        megabyte,
        entry: TableEntry { map, tagged: false },
        tags: Vec::new(),
    };
    let mut updates: Vec<_> = (5..2000).map(|at| plain(at, MegabyteMap::WHOLE)).collect();
    updates.extend((2000..2300).map(|at| plain(at, MegabyteMap::EMPTY.with(slot))));
    updates.push(plain(2300, MegabyteMap::EMPTY));
    updates.push(MegabyteUpdate {
        megabyte: 2301,
        entry: TableEntry {
            map: MegabyteMap::EMPTY.with(slot),
            tagged: true,
        },
        tags: vec![(2301 * 256 + 3, 0xABCD)],
    });
    updates
}

fn layout(version: FormatVersion, max_pages: usize) -> RecordLayout {
    RecordLayout {
        version,
        max_pages,
        checksum: Checksum::begin_with(5),
    }
}

#[test]
fn a_commit_reads_as_it_is_laid_out_with_each_record_as_often_as_a_region_has_it() {
    for version in FormatVersion::ALL {
        let layout = layout(version, 2);
        let updates = updates();
        let (pages, count) = lay_out(&updates, (3, 40), layout);
        assert!(count > 1, "it does not fit one record");
        let (mut at, mut found) = (0, Vec::new());
        let mut payload = JournalPayload::default();
        while at < pages.len() {
            let len = stated_pages(&pages[at]).expect("a record");
            let record =
                read(&pages[at..at + len], 2302, version, layout.checksum).expect("a record");
            assert_eq!(record.position.epoch, 3);
            let commit = record.position.commit;
            assert_eq!((commit.first, commit.last), (40, 40 + count - 1));
            let is_second = found.last() == Some(&record.position.sequence);
            found.push(record.position.sequence);
            if !is_second {
                payload.entries.extend(record.payload.entries);
                payload.tags.extend(record.payload.tags);
            }
            at += len;
        }
        let copies = version.copies_in_region() as usize;
        let all: Vec<_> = (40..40 + count)
            .flat_map(|sequence| vec![sequence; copies])
            .collect();
        assert_eq!(found, all);
        payload.entries.sort_by_key(|(megabyte, _)| *megabyte);
        let expected: Vec<_> = updates
            .iter()
            .map(|update| (update.megabyte, update.entry))
            .collect();
        assert_eq!(payload.entries, expected);
        assert_eq!(payload.tags, [(2301 * 256 + 3, 0xABCD)]);
    }
}

#[test]
fn a_section_of_another_kind_is_skipped_where_it_may_be_and_told_of_otherwise() {
    let layout = layout(FormatVersion::Two, 2);
    let (pages, _) = lay_out(&updates()[2290..], (3, 40), layout);
    let mut bytes = bytes_of(&pages).to_vec();
    // Behind the runs come megabytes and tags.
    let count = u32_at(&bytes, 44);
    assert_eq!(count, 3);
    let len = |at: usize| SECTION_HEADER_BYTES + u32_at(&bytes, at + 4) as usize;
    let mut end = HEADER_BYTES;
    (0..count).for_each(|_| end += len(end));
    put_u32(&mut bytes, 44, count + 1);
    put_u32(&mut bytes, end + 4, 5);
    for (flags, unknown) in [(MAY_BE_SKIPPED, None), (0, Some(77))] {
        put_u32(&mut bytes, end, u32::from(flags) << 16 | 77);
        layout.checksum.seal(MAGIC, &mut bytes);
        let (chunks, _) = bytes.as_chunks::<PAGE_BYTES>();
        let pages: Vec<_> = chunks.iter().map(|&page| Page(page)).collect();
        let record = read(&pages, 2302, FormatVersion::Two, layout.checksum).expect("sound");
        assert_eq!(record.unknown_section, unknown);
        assert_eq!(record.payload.tags, [(2301 * 256 + 3, 0xABCD)]);
    }
}

#[test]
fn no_bit_of_a_record_can_change() {
    for version in FormatVersion::ALL {
        let layout = layout(version, 2);
        let checksum = layout.checksum;
        let (pages, _) = lay_out(&updates()[1995..2000], (3, 40), layout);
        let record = &pages[..1];
        assert!(read(record, 2302, version, checksum).is_some());
        assert!(read(record, 2302, version, Checksum::begin_with(6)).is_none());
        assert!(
            read(record, 2004, version, checksum).is_none(),
            "beyond the pool"
        );
        for bit in 0..PAGE_BYTES * 8 {
            let mut damaged = record.to_vec();
            damaged[0].0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&damaged, 2302, version, checksum), None, "{bit}");
        }
    }
}

#[test]
fn many_megabytes_alike_take_little_room() {
    let whole = |megabyte| MegabyteUpdate {
        megabyte,
        entry: TableEntry {
            map: MegabyteMap::WHOLE,
            tagged: false,
        },
        tags: Vec::new(),
    };
    let updates: Vec<_> = (0..1 << 20).map(whole).collect();
    for version in FormatVersion::ALL {
        let (pages, count) = lay_out(&updates, (1, 1), layout(version, MAX_RECORD_PAGES));
        assert_eq!((pages.len() as u64, count), (version.copies_in_region(), 1));
    }
}
