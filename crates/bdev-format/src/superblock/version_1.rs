//! The bytes of a superblock of version 1.

use chimaera_bdev_proto::CreateParams;
use chimaera_proto::PoolId;
use chimaera_proto::limits::MAX_POOL_NAME_BYTES;

use super::{
    BYTES, FormatFeatures, Identity, PoolOwner, Superblock, UUID_AT, counted, read_alignment,
    read_engine, read_io_depth, read_metrics, write_metrics,
};
use crate::geometry::{Extent, Geometry, JournalPlace};
use crate::limits::{EXTENT_BYTES, EXTENTS_AT, MAX_EXTENTS, NAME_AT};
use crate::page::{Checksum, put_u32, put_u64, u32_at, u64_at};
use crate::version::FormatVersion;

pub(super) fn read(bytes: &[u8], features: FormatFeatures) -> Option<Superblock> {
    debug_assert_eq!(bytes.len(), BYTES);
    let number = |at| u64_at(bytes, at);
    let [generation, epoch, sequence] = counted([number(64), number(152), number(160)])?;
    let extents = u32_at(bytes, 200) as usize;
    let name_bytes = u32_at(bytes, 204) as usize;
    if extents > MAX_EXTENTS || name_bytes > MAX_POOL_NAME_BYTES {
        return None;
    }
    let journal_pages = number(192);
    // The halves lie one behind the other.
    if number(176).checked_add(journal_pages) != Some(number(184)) {
        return None;
    }
    let (places, _) = bytes[EXTENTS_AT..].as_chunks::<EXTENT_BYTES>();
    let geometry = Geometry {
        version: FormatVersion::One,
        total_pages: number(168),
        journal: JournalPlace {
            regions: [Some(number(176)), None],
            pages: journal_pages,
        },
        extents: places[..extents]
            .iter()
            .map(|place| read_extent(place))
            .collect(),
        far: None,
        kept: 0,
        others: Vec::new(),
    };
    geometry.check().ok()?;
    let name = bytes[NAME_AT..NAME_AT + name_bytes].to_vec();
    let uuid = std::array::from_fn(|byte| bytes[UUID_AT + byte]);
    Some(Superblock {
        unknown_features: features.unknown(),
        uuid,
        generation,
        identity: Identity {
            pool: PoolId::new(u32_at(bytes, 72), u32_at(bytes, 76)),
            name: String::from_utf8(name).ok()?,
            owner: PoolOwner {
                user: u32_at(bytes, 80),
                group: u32_at(bytes, 84),
                mode: u32_at(bytes, 88),
            },
            // What no program has written counts as the default: in this version it was never damage.
            alignment: read_alignment(bytes, 92).unwrap_or(CreateParams::DEFAULT_ALIGNMENT),
            io_depth: read_io_depth(bytes, 96).unwrap_or(CreateParams::DEFAULT_IO_DEPTH),
            io_engine: read_engine(u32_at(bytes, 100))?,
            metrics: read_metrics(bytes, 104),
            scrubs: features.scrubs(),
        },
        created: number(144),
        epoch,
        sequence,
        history: None,
        seed: Checksum::seed_of(&uuid),
        geometry,
        template: Vec::new(),
    })
}

pub(super) fn write(superblock: &Superblock, bytes: &mut [u8]) {
    let Superblock {
        identity, geometry, ..
    } = superblock;
    let small = [
        (72, identity.pool.major),
        (76, identity.pool.minor),
        (80, identity.owner.user),
        (84, identity.owner.group),
        (88, identity.owner.mode),
        (92, identity.alignment),
        (96, identity.io_depth),
        (100, identity.io_engine as u32),
        (200, geometry.extents.len() as u32),
        (204, identity.name.len() as u32),
    ];
    for (at, value) in small {
        put_u32(bytes, at, value);
    }
    let mut halves = [0, 1]
        .map(|epoch| geometry.journal.halves(epoch).next().unwrap_or(0))
        .into_iter();
    let large = [
        (64, superblock.generation),
        (144, superblock.created),
        (152, superblock.epoch),
        (160, superblock.sequence),
        (168, geometry.total_pages),
        (176, halves.next().unwrap_or(0)),
        (184, halves.next().unwrap_or(0)),
        (192, geometry.journal.pages),
    ];
    for (at, value) in large {
        put_u64(bytes, at, value);
    }
    write_metrics(&identity.metrics, bytes, 104);
    let (places, _) = bytes[EXTENTS_AT..NAME_AT].as_chunks_mut::<EXTENT_BYTES>();
    for (extent, place) in geometry.extents.iter().zip(places) {
        write_extent(extent, place);
    }
    let name = identity.name.as_bytes();
    bytes[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
}

fn read_extent(bytes: &[u8]) -> Extent {
    Extent {
        first_megabyte: u32_at(bytes, 0),
        megabytes: u32_at(bytes, 4),
        tables: [u64_at(bytes, 8), u64_at(bytes, 16)],
        table_pages: u32_at(bytes, 24),
        table_written: u32_at(bytes, 28),
        tags: [Some(u64_at(bytes, 32)), None],
        tag_pages: u64_at(bytes, 40),
    }
}

fn write_extent(extent: &Extent, bytes: &mut [u8]) {
    put_u32(bytes, 0, extent.first_megabyte);
    put_u32(bytes, 4, extent.megabytes);
    put_u64(bytes, 8, extent.tables[0]);
    put_u64(bytes, 16, extent.tables[1]);
    put_u32(bytes, 24, extent.table_pages);
    put_u32(bytes, 28, extent.table_written);
    put_u64(bytes, 32, extent.tags[0].unwrap_or(0));
    put_u64(bytes, 40, extent.tag_pages);
}
