//! A pool gets the engine that was asked for; or, where the choice is free, one that is permitted.

use chimaera_bdev_proto::{CreateParams, IoEngine, MEGABYTE};
use chimaera_proto::Status;
use chimaera_testing::{SystemCallFilter, disk_folder};

use super::{engines, with_every_engine};
use crate::testing::{TestPool, file_params, memory_folder, name_in};

fn params(io_engine: IoEngine) -> CreateParams {
    CreateParams {
        io_engine,
        ..file_params(MEGABYTE)
    }
}

/// A pool on a disk whose engine is left open.
fn assert_falls_back(reason: &str) {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let pool =
        TestPool::create(&name, &params(IoEngine::Auto), 2).expect("there is another engine");
    assert_eq!(pool.stats().io_engine, Some(IoEngine::Libaio));
    let log = pool.recorder().log();
    assert!(
        matches!(&log[..], [(2, text)] if text.contains("goes through libaio")
            && text.contains(reason)),
        "{log:?}"
    );
    let block = pool.allocate(4096).expect("room")[0];
    pool.write(block, 3, &[1; 100]).expect("written");
    assert_eq!(pool.read(block, 3, 100).expect("read"), [1; 100]);
}

#[track_caller]
fn assert_refused(io_engine: IoEngine, status: Status, texts: &[&str]) {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let Err(error) = TestPool::create(&name, &params(io_engine), 1) else {
        panic!("{io_engine} was had");
    };
    assert_eq!(error.failure.status, status, "{error}");
    for text in texts {
        assert!(error.message.contains(text), "no {text:?} in {error}");
    }
    assert!(!std::fs::exists(&name).expect("the folder is there"));
}

#[test]
fn what_is_asked_for_is_had() {
    let folder = disk_folder();
    for params in with_every_engine(&file_params(MEGABYTE)) {
        let name = name_in(&folder, &params.io_engine.to_string());
        let pool = TestPool::create(&name, &params, 1).expect("made");
        assert_eq!(pool.stats().io_engine, Some(params.io_engine));
        assert_eq!(pool.recorder().log(), []);
    }
}

#[test]
fn the_choice_is_io_uring_without_the_page_cache_and_libaio_with_it() {
    let on_disk = disk_folder();
    let pool = TestPool::create(&name_in(&on_disk, "pool"), &params(IoEngine::Auto), 1);
    let expected = engines().last().copied();
    assert_eq!(pool.expect("made").stats().io_engine, expected);
    let Some(in_memory) = memory_folder() else {
        return;
    };
    let pool = TestPool::create(&name_in(&in_memory, "pool"), &params(IoEngine::Auto), 1);
    let engine = pool.expect("made").stats().io_engine;
    assert_eq!(engine, Some(IoEngine::Libaio));
}

#[test]
fn a_pool_is_the_same_whichever_engine_was_chosen_but_not_with_another_one() {
    let folder = disk_folder();
    let created = params(IoEngine::Libaio);
    let pool = TestPool::create(&name_in(&folder, "pool"), &created, 1).expect("made");
    pool.ask_again(&created).expect("the same");
    pool.ask_again(&params(IoEngine::Auto))
        .expect("any will do");
    let error = pool
        .ask_again(&params(IoEngine::IoUring))
        .expect_err("another");
    assert_eq!(error.failure.status, Status::ParameterMismatch);
    let text = "io_engine is libaio, asked for io_uring";
    assert!(error.message.contains(text), "{error}");
    drop(pool);

    let name = name_in(&folder, "open");
    let pool = TestPool::create(&name, &params(IoEngine::Auto), 1).expect("made");
    let chosen = pool.stats().io_engine.expect("a file pool has one");
    pool.ask_again(&params(chosen))
        .expect("that is what it has");
}

#[test]
fn a_sandbox_that_forbids_io_uring_leaves_libaio() {
    for call in [
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ] {
        SystemCallFilter::refusing(&[call], libc::EPERM).around(|| {
            assert_falls_back("cannot set up io_uring");
            assert_refused(
                IoEngine::IoUring,
                Status::PermissionDenied,
                &[
                    "cannot set up io_uring",
                    "Operation not permitted",
                    "ask for libaio",
                ],
            );
        });
    }
}

#[test]
fn a_kernel_without_io_uring_leaves_libaio() {
    SystemCallFilter::refusing(&[libc::SYS_io_uring_setup], libc::ENOSYS).around(|| {
        assert_falls_back("this kernel has none");
        let texts = ["this kernel has none", "ask for libaio"];
        assert_refused(IoEngine::IoUring, Status::Unsupported, &texts);
    });
}

#[test]
fn an_old_kernels_io_uring_is_not_chosen() {
    SystemCallFilter::refusing(&[libc::SYS_io_uring_setup], libc::EINVAL).around(|| {
        let folder = disk_folder();
        let pool = TestPool::create(&name_in(&folder, "pool"), &params(IoEngine::Auto), 1);
        let pool = pool.expect("made");
        assert_eq!(pool.stats().io_engine, Some(IoEngine::Libaio));
        assert_eq!(pool.recorder().log(), [], "nothing was refused");
        assert_refused(IoEngine::IoUring, Status::Unsupported, &["too old"]);
    });
}

#[test]
fn libaio_that_is_used_up_leaves_io_uring() {
    if !engines().contains(&IoEngine::IoUring) {
        return;
    }
    SystemCallFilter::refusing(&[libc::SYS_io_setup], libc::EAGAIN).around(|| {
        let texts = ["/proc/sys/fs/aio-max-nr", "32 for each of 1 workers"];
        assert_refused(IoEngine::Libaio, Status::OutOfMemory, &texts);
        let Some(folder) = memory_folder() else {
            return;
        };
        let name = name_in(&folder, "pool");
        let pool = TestPool::create(&name, &params(IoEngine::Auto), 1).expect("the other engine");
        assert_eq!(pool.stats().io_engine, Some(IoEngine::IoUring));
        let log = pool.recorder().log();
        let told = |(_, text): &(u32, String)| text.contains("goes through io_uring");
        assert!(log.iter().any(told), "{log:?}");
    });
}

/// The pool would have libaio for as long as it is open, and descriptors come back sooner.
#[test]
fn a_passing_want_of_descriptors_decides_on_no_engine() {
    for errno in [libc::EMFILE, libc::ENFILE] {
        SystemCallFilter::refusing(&[libc::SYS_io_uring_setup], errno).around(|| {
            let texts = ["cannot set up io_uring", "try again later", "ulimit -n"];
            for engine in [IoEngine::Auto, IoEngine::IoUring] {
                assert_refused(engine, Status::OutOfResources, &texts);
            }
        });
    }
}

#[test]
fn a_pool_that_gets_neither_engine_is_refused_with_both_reasons() {
    let calls = [libc::SYS_io_uring_setup, libc::SYS_io_setup];
    SystemCallFilter::refusing(&calls, libc::EPERM).around(|| {
        let texts = ["cannot set up io_uring", "(io_setup)"];
        assert_refused(IoEngine::Auto, Status::PermissionDenied, &texts);
    });
}
