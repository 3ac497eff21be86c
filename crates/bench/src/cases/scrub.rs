//! Allocating blocks that the pool zeroes first, beside clients that do so themselves.

use std::rc::Rc;

use chimaera_bdev_client::{Buffer, Client, CreateOptions, PoolId, PoolQuery, ScrubPolicy};
use tempfile::TempDir;

use crate::bench::Bench;
use crate::case::{Case, Effort, Measure, Round, Target, Unit};
use crate::error::Result;
use crate::own_pool::OwnPool;
use crate::timing::{BATCH, per_call};

const POOL_BYTES: u64 = 256 << 20;
const QUERY: PoolQuery = PoolQuery::Local;

pub(super) fn cases() -> Vec<Case> {
    let sizes = [("4k", 4 << 10, "4 KiB"), ("1m", 1 << 20, "1 MiB")];
    let kinds = [("memory", "in memory"), ("file", "on a file")];
    let all = kinds
        .into_iter()
        .flat_map(|kind| sizes.map(|size| (kind, size)));
    all.map(|((kind, place), (size_name, size, size_title))| Case {
        name: format!("scrub-{kind}-{size_name}"),
        title: format!("Allocate and free a block of {size_title} that is zeroed, {place}"),
        unit: Unit::Nanoseconds,
        yardstick: "allocate, write zeroes, free",
        target: Target::AtMost(1.0),
        effort: Effort::Quick,
        prepare: Box::new(move |bench| prepare(bench, kind == "file", size)),
    })
    .collect()
}

fn prepare(bench: &Rc<Bench>, on_file: bool, size: u64) -> Result<Measure> {
    let bench = Rc::clone(bench);
    let folder = tempfile::Builder::new()
        .prefix("chimaera-bench-")
        .tempdir_in(&bench.folder)?;
    let scrubbing = pool(&bench, on_file.then_some(&folder), ScrubPolicy::Allocate)?;
    let plain = pool(&bench, on_file.then_some(&folder), ScrubPolicy::None)?;
    let mut zeroes = bench.runtime.allocate_buffer(size as usize)?;
    zeroes.fill(0);
    Ok(Box::new(move || {
        // The folder goes when the pools have ended.
        let _folder = &folder;
        let nanos = per_call(BATCH, bench.window(), || pair(&scrubbing, size, None))?;
        let by_client = per_call(BATCH, bench.window(), || pair(&plain, size, Some(&zeroes)))?;
        let without = per_call(BATCH, bench.window(), || pair(&plain, size, None))?;
        let mut round = Round::new(nanos, by_client);
        round.peers.push(("not zeroed", without));
        Ok(round)
    }))
}

/// A pool that is its own, all of whose space was written.
fn pool(bench: &Bench, folder: Option<&TempDir>, scrub: ScrubPolicy) -> Result<OwnPool> {
    let bdev = OwnPool(Client::new(&bench.runtime, PoolId::NULL));
    let (name, options) = match folder {
        None => (
            format!("bench-scrub-{scrub}"),
            CreateOptions::ram(POOL_BYTES),
        ),
        Some(folder) => {
            let path = folder.path().join(scrub.to_string());
            let name = path.to_str().ok_or("the folder's name is not UTF-8")?;
            (name.to_owned(), CreateOptions::file().size(POOL_BYTES))
        }
    };
    bdev.create(PoolQuery::Dynamic, &name, &options.scrub(scrub))?;
    let piece = bench.runtime.allocate_buffer(1 << 20)?;
    let mut blocks = Vec::new();
    while let Ok(block) = bdev.allocate_blocks(QUERY, 1 << 20) {
        bdev.write_blocks(QUERY, &block, &piece)?;
        blocks.extend(block);
    }
    bdev.free_blocks(QUERY, &blocks)?;
    Ok(bdev)
}

/// Allocates a block, writes zeroes to it if there are some, and frees it.
fn pair(bdev: &OwnPool, size: u64, zeroes: Option<&Buffer>) -> Result<()> {
    let blocks = bdev.allocate_blocks(QUERY, size)?;
    if let Some(zeroes) = zeroes {
        bdev.write(QUERY, &blocks[0], zeroes)?;
    }
    bdev.free_blocks(QUERY, &blocks)?;
    Ok(())
}
