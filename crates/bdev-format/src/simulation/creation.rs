//! New pools for histories.

use chimaera_bdev_proto::{IoEngine, PerfMetrics};
use chimaera_proto::PoolId;

use super::Numbers;
use super::disk::SimulatedDisk;
use crate::limits::MIN_JOURNAL_PAGES;
use crate::{Birth, FormatVersion, Geometry, Identity, Metadata};

pub(super) fn identity() -> Identity {
    Identity {
        pool: PoolId::new(8000, 1),
        name: "simulated".to_owned(),
        owner: crate::PoolOwner::default(),
        alignment: 512,
        io_depth: 8,
        io_engine: IoEngine::Auto,
        metrics: PerfMetrics::default(),
        scrubs: false,
    }
}

/// Makes a pool on a new device. The journal is small, so that it is full often.
pub fn format(
    numbers: &mut Numbers,
    disk: &SimulatedDisk,
    version: FormatVersion,
    total_pages: u64,
) -> Result<Metadata<SimulatedDisk>, String> {
    let journal_pages =
        MIN_JOURNAL_PAGES * version.copies_in_region() + numbers.below(3) as u64 * 5;
    let geometry = Geometry::with_journal(version, total_pages, journal_pages).expect("room");
    let mut uuid = [0; 16];
    uuid.fill_with(|| numbers.below(256) as u8);
    let birth = Birth {
        uuid,
        seed: numbers.draw() as u32,
        history: numbers.draw(),
        created: 0,
    };
    Metadata::format(disk.clone(), identity(), geometry, birth, false)
        .map_err(|error| format!("making a pool: {error}"))
}
