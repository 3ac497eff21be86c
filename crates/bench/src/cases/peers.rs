//! The work of other cases, beside peers that do the same. Without its peer a case is not run.

use std::rc::Rc;

use hdrhistogram::Histogram;

use crate::bench::Bench;
use crate::case::{BESIDE, Case, Effort, Measure, Round, Target, Unit};
use crate::cases::file::best;
use crate::cases::tasks::DEPTH;
use crate::error::Result;
use crate::partner::Partner;
use crate::peers::fio::{FioJob, FioTarget};
use crate::peers::iceoryx2::caller::Iceoryx2Caller;
use crate::peers::need;
use crate::peers::qemu::{POLL_MANY_NS, POLL_NS, POLL_ONE_NS, Qemu, QemuServer};
use crate::peers::vhost::VhostDisk;
use crate::shared::file_pool::FilePool;
use crate::timing::{BATCH, per_call};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![Case {
        name: "empty-task-vs-iceoryx2".into(),
        title: format!("Empty task, depth 1{BESIDE}iceoryx2"),
        unit: Unit::Nanoseconds,
        yardstick: "iceoryx2 request-response",
        // Four times as fast.
        target: Target::AtMost(0.25),
        effort: Effort::Quick,
        prepare: Box::new(empty_task),
    }];
    for served_over in [ServedOver::Vhost, ServedOver::Nbd] {
        for is_write in [false, true] {
            for depth in [1, DEPTH] {
                cases.push(file_case(served_over, depth, is_write));
            }
        }
    }
    cases
}

/// How a file is reached that qemu-storage-daemon serves.
#[derive(Clone, Copy, Debug)]
enum ServedOver {
    Vhost,
    Nbd,
}

fn file_case(served_over: ServedOver, depth: usize, is_write: bool) -> Case {
    let verb = if is_write { "write" } else { "read" };
    let (short, peer, yardstick) = match served_over {
        ServedOver::Vhost => ("qemu", "qemu", "qemu over vhost-user-blk"),
        ServedOver::Nbd => ("nbd", "NBD", "fio over NBD"),
    };
    let (unit, target) = match depth {
        1 => (Unit::Nanoseconds, Target::AtMost(1.0)),
        _ => (Unit::PerSecond, Target::AtLeast(1.0)),
    };
    Case {
        name: format!("file-{verb}-depth-{depth}-vs-{short}"),
        title: format!("File pool, random {verb}s of 4 KiB, depth {depth}{BESIDE}{peer}"),
        unit,
        yardstick,
        target,
        effort: Effort::Peers,
        prepare: Box::new(move |bench| match served_over {
            ServedOver::Vhost => beside_vhost(bench, depth, is_write),
            ServedOver::Nbd => beside_nbd(bench, depth, is_write),
        }),
    }
}

fn empty_task(bench: &Rc<Bench>) -> Result<Measure> {
    need(&bench.peers.iceoryx2)?;
    let (bench, echo) = (Rc::clone(bench), bench.echo()?);
    // The peer has a process of its own: should it fail, no other case does.
    let caller = Iceoryx2Caller::new(Partner::start(bench.processors.worker)?)?;
    Ok(Box::new(move || {
        let ours = per_call(BATCH, bench.window(), || {
            echo.echo(7)?;
            Ok(())
        })?;
        bench.settle();
        let theirs = caller.round_trip(bench.window())?;
        let mut round = Round::new(ours, theirs);
        round.peers.push(("iceoryx2", theirs));
        Ok(round)
    }))
}

/// The pool, and daemons that serve the file beside it.
fn serve(bench: &Bench, qemu: &Qemu, polls_ns: &[u32]) -> Result<(Rc<FilePool>, Vec<QemuServer>)> {
    let pool = bench.file_pool(&bench.folder)?;
    let servers = qemu.serve(&pool.for_peers, polls_ns, bench.processors.worker)?;
    Ok((pool, servers))
}

fn beside_vhost(bench: &Rc<Bench>, depth: usize, is_write: bool) -> Result<Measure> {
    let polls_ns = match depth {
        1 => POLL_ONE_NS,
        _ => POLL_MANY_NS,
    };
    let (pool, servers) = serve(bench, need(&bench.peers.vhost)?, &polls_ns)?;
    let bench = Rc::clone(bench);
    // A disk is dropped before its server.
    let mut disks = Vec::new();
    for server in servers {
        let disk = VhostDisk::connect(&server.vhost_socket(), &pool.offsets())?;
        disks.push((disk, server));
    }
    Ok(Box::new(move || {
        let window = bench.device_window();
        round(&bench, &pool, depth, is_write, || {
            let all = disks.iter_mut().map(|(disk, server)| {
                let figure = match depth {
                    1 => p50_ns(&disk.latencies(window, is_write)?),
                    _ => disk.rate(depth, window, is_write)?,
                };
                Ok((server.name("qemu aio", "qemu io_uring"), figure))
            });
            all.collect()
        })
    }))
}

fn beside_nbd(bench: &Rc<Bench>, depth: usize, is_write: bool) -> Result<Measure> {
    let (qemu, fio) = need(&bench.peers.nbd)?.clone();
    let (pool, servers) = serve(bench, &qemu, &[POLL_NS])?;
    let bench = Rc::clone(bench);
    Ok(Box::new(move || {
        round(&bench, &pool, depth, is_write, || {
            let all = servers.iter().map(|server| {
                let figures = fio.run(&FioJob {
                    disk: FioTarget::Nbd(&server.nbd_uri()),
                    is_write,
                    depth,
                    processor: bench.processors.client,
                    window: bench.device_window(),
                })?;
                let figure = match depth {
                    1 => figures.p50_ns,
                    _ => figures.rate,
                };
                Ok((server.name("NBD aio", "NBD io_uring"), figure))
            });
            all.collect()
        })
    }))
}

/// What the pool does, and then what peers do, the best of which is the yardstick. The best figure of each
/// peer counts.
fn round(
    bench: &Bench,
    pool: &FilePool,
    depth: usize,
    is_write: bool,
    theirs: impl FnOnce() -> Result<Vec<(&'static str, f64)>>,
) -> Result<Round> {
    let (value, latencies) = match depth {
        1 => {
            let latencies = pool.latencies(bench.device_window(), is_write)?;
            (p50_ns(&latencies), Some(latencies))
        }
        _ => (pool.rate(depth, bench.device_window(), is_write)?, None),
    };
    bench.settle();
    let better = if depth == 1 { f64::min } else { f64::max };
    let peers = best_of_each(theirs()?, better);
    Ok(Round {
        value,
        yardstick: best(&peers, better),
        latencies,
        peers,
    })
}

fn best_of_each(
    figures: Vec<(&'static str, f64)>,
    better: fn(f64, f64) -> f64,
) -> Vec<(&'static str, f64)> {
    let mut bests: Vec<(&'static str, f64)> = Vec::new();
    for (name, figure) in figures {
        match bests.iter_mut().find(|best| best.0 == name) {
            Some(best) => best.1 = better(best.1, figure),
            None => bests.push((name, figure)),
        }
    }
    bests
}

fn p50_ns(latencies: &Histogram<u64>) -> f64 {
    latencies.value_at_quantile(0.5) as f64
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::machine::Processors;
    use crate::peers::Absent;
    use crate::peers::{FoundPeer, Peers};
    use crate::shared::file_pool::BLOCK_BYTES;

    #[test]
    fn of_a_peer_that_ran_in_several_ways_the_best_counts() {
        let figures = vec![("a", 3.0), ("b", 5.0), ("a", 2.0), ("a", 4.0)];
        let least = best_of_each(figures.clone(), f64::min);
        assert_eq!(least, [("a", 2.0), ("b", 5.0)]);
        assert_eq!(best_of_each(figures, f64::max), [("a", 4.0), ("b", 5.0)]);
    }

    const BLOCKS: u64 = 64;
    const WINDOW: Duration = Duration::from_millis(20);

    /// Where a file may be accessed past the page cache, which temporary folders need not allow.
    fn file() -> Result<(TempDir, std::path::PathBuf)> {
        let folder = tempfile::tempdir_in("/var/tmp")?;
        let path = folder.path().join("disk");
        File::create(&path)?.set_len(BLOCKS * BLOCK_BYTES)?;
        Ok((folder, path))
    }

    /// A peer and two processors, or nothing, and the reason why a test is skipped.
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn found<T>(peer: FoundPeer<T>) -> Option<(T, Processors)> {
        match (peer, Processors::choose()) {
            (Ok(peer), Ok(processors)) => return Some((peer, processors)),
            (Err(Absent { name, reason }), _) => eprintln!("skipped: {name} is absent: {reason}"),
            (_, Err(error)) => eprintln!("skipped: {error}"),
        }
        None
    }

    #[test]
    fn a_disk_over_vhost_user_is_read_and_written() -> Result<()> {
        let Some((qemu, processors)) = found(Peers::find().vhost) else {
            return Ok(());
        };
        let (_folder, path) = file()?;
        let offsets: Vec<u64> = (0..BLOCKS).rev().map(|block| block * BLOCK_BYTES).collect();
        for server in qemu.serve(&path, &[0], processors.worker)? {
            let mut disk = VhostDisk::connect(&server.vhost_socket(), &offsets)?;
            for is_write in [false, true] {
                assert!(!disk.latencies(WINDOW, is_write)?.is_empty());
                assert!(disk.rate(DEPTH, WINDOW, is_write)? > 0.0);
            }
        }
        let beyond = [BLOCKS * BLOCK_BYTES];
        let servers = qemu.serve(&path, &[0], processors.worker)?;
        assert!(VhostDisk::connect(&servers[0].vhost_socket(), &beyond).is_err());
        Ok(())
    }

    #[test]
    fn a_disk_over_nbd_is_read_and_written() -> Result<()> {
        let Some(((qemu, fio), processors)) = found(Peers::find().nbd) else {
            return Ok(());
        };
        let (_folder, path) = file()?;
        for server in qemu.serve(&path, &[0], processors.worker)? {
            let job = |is_write, depth| {
                fio.run(&FioJob {
                    disk: FioTarget::Nbd(&server.nbd_uri()),
                    is_write,
                    depth,
                    processor: processors.client,
                    window: 5 * WINDOW,
                })
            };
            assert!(job(false, 1)?.p50_ns > 0.0);
            assert!(job(true, DEPTH)?.rate > 0.0);
        }
        Ok(())
    }
}
