//! The bytes of a superblock of version 2.

use chimaera_proto::PoolId;
use chimaera_proto::limits::MAX_POOL_NAME_BYTES;

use super::{
    BYTES, FAR_AT, FormatFeatures, History, Identity, PLACE_AT, PoolOwner, ROOT_BYTES, Superblock,
    UUID_AT, counted, read_alignment, read_engine, read_io_depth, read_metrics, write_metrics,
};
use crate::geometry::{Area, Extent, Geometry, JournalPlace, table_pages_of, tag_pages_of};
use crate::limits::{MAX_EXTENTS, NAME_AT};
use crate::page::{put_u32, put_u64, u32_at, u64_at};
use crate::version::FormatVersion;

// What never changes, save the UUID of a copy that becomes a pool of its own.
const SEED_AT: usize = 64;
const KEPT_AT: usize = 68;
const CREATED_AT: usize = 72;
// What changes.
const GENERATION_AT: usize = 96;
const EPOCH_AT: usize = 104;
const SEQUENCE_AT: usize = 112;
const TOTAL_PAGES_AT: usize = 120;
const HISTORY_AT: usize = 128;
const HISTORY_FLAGS_AT: usize = 152;
const NAME_BYTES_AT: usize = 156;
const POOL_AT: usize = 160;
const OWNER_AT: usize = 168;
// What may change between two openings.
const ALIGNMENT_AT: usize = 180;
const IO_DEPTH_AT: usize = 184;
const IO_ENGINE_AT: usize = 188;
const METRICS_AT: usize = 192;
const EXTENT_COUNT_AT: usize = 232;
const AREA_COUNT_AT: usize = 236;
const EXTENTS_AT: usize = 320;
const EXTENT_BYTES: usize = 48;
const AREAS_AT: usize = EXTENTS_AT + MAX_EXTENTS * EXTENT_BYTES;
const AREA_BYTES: usize = 24;
const MAX_AREAS: usize = 16;
const ROOTS_AT: usize = AREAS_AT + MAX_AREAS * AREA_BYTES;
const MAX_ROOTS: usize = 8;

const _: () = assert!(ROOTS_AT + MAX_ROOTS * ROOT_BYTES <= NAME_AT);

const ENDED_WELL: u32 = 1;
const PREDECESSOR_ENDED_WELL: u32 = 2;

/// The kind of the areas that are the regions of the journal.
const JOURNAL_KIND: u32 = 1;

pub(super) fn generation(bytes: &[u8]) -> u64 {
    u64_at(bytes, GENERATION_AT)
}

pub(super) fn read(bytes: &[u8], features: FormatFeatures, place: u64) -> Option<Superblock> {
    debug_assert_eq!(bytes.len(), BYTES);
    let number = |at| u64_at(bytes, at);
    if number(PLACE_AT) != place {
        return None;
    }
    let [generation, epoch, sequence, openings] = counted([
        number(GENERATION_AT),
        number(EPOCH_AT),
        number(SEQUENCE_AT),
        number(HISTORY_AT + 16),
    ])?;
    let name_bytes = u32_at(bytes, NAME_BYTES_AT) as usize;
    if name_bytes > MAX_POOL_NAME_BYTES {
        return None;
    }
    let geometry = read_geometry(bytes)?;
    geometry.check().ok()?;
    // A copy lies where the pool has one.
    geometry.superblocks().contains(&place).then_some(())?;
    let flags = u32_at(bytes, HISTORY_FLAGS_AT);
    let name = bytes[NAME_AT..NAME_AT + name_bytes].to_vec();
    Some(Superblock {
        unknown_features: features.unknown(),
        uuid: std::array::from_fn(|byte| bytes[UUID_AT + byte]),
        generation,
        identity: Identity {
            pool: PoolId::new(u32_at(bytes, POOL_AT), u32_at(bytes, POOL_AT + 4)),
            name: String::from_utf8(name).ok()?,
            owner: PoolOwner {
                user: u32_at(bytes, OWNER_AT),
                group: u32_at(bytes, OWNER_AT + 4),
                mode: u32_at(bytes, OWNER_AT + 8),
            },
            alignment: read_alignment(bytes, ALIGNMENT_AT)?,
            io_depth: read_io_depth(bytes, IO_DEPTH_AT)?,
            io_engine: read_engine(u32_at(bytes, IO_ENGINE_AT))?,
            metrics: read_metrics(bytes, METRICS_AT),
            scrubs: features.scrubs(),
        },
        created: number(CREATED_AT),
        epoch,
        sequence,
        history: Some(History {
            current: number(HISTORY_AT),
            predecessor: number(HISTORY_AT + 8),
            openings,
            ended_well: flags & ENDED_WELL != 0,
            predecessor_ended_well: flags & PREDECESSOR_ENDED_WELL != 0,
        }),
        seed: u32_at(bytes, SEED_AT),
        geometry,
        template: bytes.to_vec(),
    })
}

fn read_geometry(bytes: &[u8]) -> Option<Geometry> {
    let extents = u32_at(bytes, EXTENT_COUNT_AT) as usize;
    let areas = u32_at(bytes, AREA_COUNT_AT) as usize;
    if extents > MAX_EXTENTS || areas > MAX_AREAS {
        return None;
    }
    let (places, _) = bytes[EXTENTS_AT..AREAS_AT].as_chunks::<EXTENT_BYTES>();
    let extents = places[..extents]
        .iter()
        .map(|place| read_extent(place))
        .collect();
    let (places, _) = bytes[AREAS_AT..ROOTS_AT].as_chunks::<AREA_BYTES>();
    let areas = places[..areas].iter().map(|place| read_area(place));
    let (journal, others): (Vec<_>, Vec<_>) = areas.partition(|area| area.kind == JOURNAL_KIND);
    let [near, far] = journal[..] else {
        return None;
    };
    if near.pages != far.pages || !near.pages.is_multiple_of(2) {
        return None;
    }
    let far_place = u64_at(bytes, FAR_AT);
    Some(Geometry {
        version: FormatVersion::Two,
        total_pages: u64_at(bytes, TOTAL_PAGES_AT),
        journal: JournalPlace {
            regions: [Some(near.first_page), Some(far.first_page)],
            pages: near.pages / 2,
        },
        extents,
        far: (far_place != 0).then_some(far_place),
        kept: u32_at(bytes, KEPT_AT),
        others,
    })
}

pub(super) fn write(superblock: &Superblock, bytes: &mut [u8], place: u64) {
    let Superblock {
        identity, geometry, ..
    } = superblock;
    let history = superblock.history.unwrap_or_default();
    let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
    let flags = flag(history.ended_well, ENDED_WELL)
        | flag(history.predecessor_ended_well, PREDECESSOR_ENDED_WELL);
    let small = [
        (SEED_AT, superblock.seed),
        (KEPT_AT, geometry.kept),
        (HISTORY_FLAGS_AT, flags),
        (NAME_BYTES_AT, identity.name.len() as u32),
        (POOL_AT, identity.pool.major),
        (POOL_AT + 4, identity.pool.minor),
        (OWNER_AT, identity.owner.user),
        (OWNER_AT + 4, identity.owner.group),
        (OWNER_AT + 8, identity.owner.mode),
        (ALIGNMENT_AT, identity.alignment),
        (IO_DEPTH_AT, identity.io_depth),
        (IO_ENGINE_AT, identity.io_engine as u32),
    ];
    for (at, value) in small {
        put_u32(bytes, at, value);
    }
    let large = [
        (CREATED_AT, superblock.created),
        (FAR_AT, geometry.far.unwrap_or(0)),
        (PLACE_AT, place),
        (GENERATION_AT, superblock.generation),
        (EPOCH_AT, superblock.epoch),
        (SEQUENCE_AT, superblock.sequence),
        (TOTAL_PAGES_AT, geometry.total_pages),
        (HISTORY_AT, history.current),
        (HISTORY_AT + 8, history.predecessor),
        (HISTORY_AT + 16, history.openings),
    ];
    for (at, value) in large {
        put_u64(bytes, at, value);
    }
    write_metrics(&identity.metrics, bytes, METRICS_AT);
    write_places(geometry, bytes);
    let name = identity.name.as_bytes();
    bytes[NAME_AT..].fill(0);
    bytes[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
}

fn write_places(geometry: &Geometry, bytes: &mut [u8]) {
    bytes[EXTENTS_AT..ROOTS_AT].fill(0);
    let journal = geometry.journal.ranges().map(|range| Area {
        kind: JOURNAL_KIND,
        flags: 0,
        first_page: range.start,
        pages: range.end - range.start,
    });
    let areas: Vec<Area> = journal.chain(geometry.others.iter().copied()).collect();
    put_u32(bytes, EXTENT_COUNT_AT, geometry.extents.len() as u32);
    put_u32(bytes, AREA_COUNT_AT, areas.len() as u32);
    let (places, _) = bytes[EXTENTS_AT..AREAS_AT].as_chunks_mut::<EXTENT_BYTES>();
    for (extent, place) in geometry.extents.iter().zip(places) {
        write_extent(extent, place);
    }
    let (places, _) = bytes[AREAS_AT..ROOTS_AT].as_chunks_mut::<AREA_BYTES>();
    for (area, place) in areas.iter().zip(places) {
        put_u32(place, 0, area.kind);
        put_u32(place, 4, area.flags);
        put_u64(place, 8, area.first_page);
        put_u64(place, 16, area.pages);
    }
}

fn read_area(bytes: &[u8]) -> Area {
    Area {
        kind: u32_at(bytes, 0),
        flags: u32_at(bytes, 4),
        first_page: u64_at(bytes, 8),
        pages: u64_at(bytes, 16),
    }
}

fn read_extent(bytes: &[u8]) -> Extent {
    let megabytes = u32_at(bytes, 4);
    Extent {
        first_megabyte: u32_at(bytes, 0),
        megabytes,
        tables: [u64_at(bytes, 8), u64_at(bytes, 16)],
        table_pages: table_pages_of(megabytes),
        table_written: u32_at(bytes, 40),
        tags: [Some(u64_at(bytes, 24)), Some(u64_at(bytes, 32))],
        tag_pages: tag_pages_of(megabytes),
    }
}

fn write_extent(extent: &Extent, bytes: &mut [u8]) {
    put_u32(bytes, 0, extent.first_megabyte);
    put_u32(bytes, 4, extent.megabytes);
    put_u64(bytes, 8, extent.tables[0]);
    put_u64(bytes, 16, extent.tables[1]);
    put_u64(bytes, 24, extent.tags[0].unwrap_or(0));
    put_u64(bytes, 32, extent.tags[1].unwrap_or(0));
    put_u32(bytes, 40, extent.table_written);
}
