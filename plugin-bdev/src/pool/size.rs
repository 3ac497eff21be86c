//! How large a pool is that its device holds: as it is, or as the device has grown or shrunk.

#![forbid(unsafe_code)]

use chimaera_bdev_format::block_map::{MegabyteMap, UNITS, units_of};
use chimaera_bdev_format::{Geometry, Metadata, OpenError, Superblock};
use chimaera_bdev_proto::{MEGABYTE, UNIT_BYTES};
use chimaera_chimod::{Level, ModuleError};
use chimaera_proto::Status;

use super::opening_context::OpeningContext;
use crate::backend::file::MetadataDisk;

/// The shape that the pool will have.
///
/// # Errors
/// [`Status::ParameterMismatch`] for another size than was asked for; [`Status::CorruptedMetadata`] if the
/// pool would lose metadata; and the device's.
pub(super) fn settle_geometry(
    opening: &OpeningContext<'_>,
    superblock: &Superblock,
) -> Result<Geometry, ModuleError> {
    let geometry = &superblock.geometry;
    let (is, device) = (
        geometry.total_pages(),
        opening.device.total_size() / UNIT_BYTES,
    );
    let asked = opening.parameters.total_size / UNIT_BYTES;
    let other_size = || {
        let text = format!(
            "it holds a pool of {} bytes, asked for {}: ask for that size, or for 0 to have all of it",
            is * UNIT_BYTES,
            asked * UNIT_BYTES
        );
        Err(opening.error(Status::ParameterMismatch, format_args!("{text}")))
    };
    if opening.parameters.read_only {
        // Such a pool is as large as it is, whatever its device has: any size will do that leaves it so.
        let leaves_it = asked == is || (asked > is && geometry.grown(asked) == *geometry);
        return match asked == 0 || leaves_it {
            true => Ok(geometry.clone()),
            false => other_size(),
        };
    }
    if device == is {
        return Ok(geometry.clone());
    }
    if device > is {
        return Ok(geometry.grown(device));
    }
    if asked != 0 && opening.device.whole_size()? / UNIT_BYTES >= is {
        return other_size();
    }
    let shrunk = geometry.shrunk(device);
    shrunk.ok_or_else(|| refuse_to_shrink(opening, geometry, device, "its metadata lies there"))
}

/// The pages that the file had of the pool, if this opening has made it longer because a size was asked for and the
/// pool had lost its end: what lay there is zeroes now.
///
/// # Errors
/// [`Status::CorruptedMetadata`] if metadata lay there.
pub(super) fn held_before_growing(
    opening: &OpeningContext<'_>,
    superblock: &Superblock,
) -> Result<Option<u64>, ModuleError> {
    let geometry = &superblock.geometry;
    let device = &opening.device;
    let held = device.size_before() / UNIT_BYTES;
    if held >= geometry.total_pages() || device.total_size() / UNIT_BYTES <= held {
        return Ok(None);
    }
    match geometry.shrunk(held) {
        Some(_) => Ok(Some(held)),
        None => Err(refuse_to_shrink(
            opening,
            geometry,
            held,
            "its metadata lies there",
        )),
    }
}

/// Whether a megabyte has blocks that do not end within these pages of the pool.
pub(super) fn has_blocks_behind(pages: u64, megabyte: u32, map: MegabyteMap) -> bool {
    let first = u64::from(megabyte) * UNITS;
    map.blocks()
        .any(|slot| first + slot.first_unit() as u64 + units_of(slot.block_type) > pages)
}

/// Gives the pool the size that was settled, in its metadata.
pub(super) fn resize(
    opening: &OpeningContext<'_>,
    metadata: &mut Metadata<MetadataDisk>,
    pages: u64,
) -> Result<(), ModuleError> {
    let before = metadata.geometry().total_pages() * UNIT_BYTES;
    let resized = if pages * UNIT_BYTES > before {
        opening.set_aside(&metadata.geometry().grown(pages))?;
        metadata.grow(pages)
    } else {
        metadata.shrink(pages).map(|_| ())
    };
    resized.map_err(|error| opening.device_failed("change the size of the pool on", &error))?;
    let now = metadata.geometry().total_pages() * UNIT_BYTES;
    let text = format!("the pool has {now} bytes now, it had {before}");
    if now >= before {
        opening.log(Level::Info, &text);
    } else {
        let what =
            "its file or device has become smaller, and there was nothing in what is missing";
        opening.log(Level::Warning, &format!("{text}: {what}"));
    }
    Ok(())
}

/// Tells of space that the pool does not use, or does not get although it was asked for, so that it is not thought to
/// have grown again: warns if it has grown as often as it can.
pub(super) fn tell_of_unused(opening: &OpeningContext<'_>, geometry: &Geometry) {
    if opening.parameters.read_only {
        return;
    }
    let is = geometry.total_pages() * UNIT_BYTES;
    let (device, asked) = (opening.device.total_size(), opening.parameters.total_size);
    let what = if asked > device {
        format!("it does not grow to {asked} bytes, and its file is left as long as it is")
    } else if device.saturating_sub(is) >= MEGABYTE {
        format!("{} bytes stay unused", device - is)
    } else {
        return;
    };
    let (level, why) = match geometry.next_growth() {
        Some(next) => {
            let next = next * UNIT_BYTES;
            let why = format!("the pool grows again when its file or device has {next} bytes");
            (Level::Info, why)
        }
        None => {
            let why = "the pool has grown as often as it can; only a new one, made with overwrite, has them";
            (Level::Warning, why.to_owned())
        }
    };
    opening.log(level, &format!("{what}: {why}"));
}

/// Why a pool is not opened in which this megabyte has blocks and cannot have any.
pub(super) fn refuse_blocks(
    opening: &OpeningContext<'_>,
    megabyte: u32,
    geometry: &Geometry,
    pages: u64,
) -> ModuleError {
    if pages < geometry.total_pages() {
        let text = format!("megabyte {megabyte} of it has blocks");
        return refuse_to_shrink(opening, geometry, pages, &text);
    }
    let text = format!("megabyte {megabyte} has blocks where there can be none");
    opening.explain(OpenError::Damaged(text), false)
}

fn refuse_to_shrink(
    opening: &OpeningContext<'_>,
    geometry: &Geometry,
    pages: u64,
    why: &str,
) -> ModuleError {
    opening.error(
        Status::CorruptedMetadata,
        format_args!(
            "it has {} bytes, and the pool has {}: it was cut off, and what is missing is in use: {why}; \
             put back a copy of it, or open it read-only to read what is left",
            pages * UNIT_BYTES,
            geometry.total_pages() * UNIT_BYTES
        ),
    )
}
