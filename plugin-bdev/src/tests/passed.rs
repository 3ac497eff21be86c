//! Pools on files that were passed: what is taken, what is refused, and that no path is needed.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use chimaera_bdev_proto::{CreateParams, FileState, IoEngine, MEGABYTE, Method};
use chimaera_chimod::{Creator, ModuleError};
use chimaera_proto::{Permissions, PoolId, Status};
use chimaera_testing::{SystemCallFilter, disk_folder};
use nix::fcntl::OFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;

use super::engines;
use crate::testing::{POOL, ROOT, Recorder, TestPool, USER, file_params, name_in};

fn params() -> CreateParams {
    CreateParams {
        opened_by_daemon: false,
        ..file_params(MEGABYTE)
    }
}

fn pass_to(
    recorder: Recorder,
    creator: Creator,
    file: &impl AsFd,
    name: &str,
    params: &CreateParams,
) -> Result<TestPool, ModuleError> {
    let passed = (creator, Some(file.as_fd()));
    TestPool::create_on(passed, (POOL, false), name, params, (1, Arc::new(recorder)))
}

fn pass(
    creator: Creator,
    file: &impl AsFd,
    name: &str,
    params: &CreateParams,
) -> Result<TestPool, ModuleError> {
    pass_to(Recorder::default(), creator, file, name, params)
}

#[track_caller]
fn assert_refused(
    creator: Creator,
    file: &impl AsFd,
    (name, params): (&str, &CreateParams),
    (status, text): (Status, &str),
) {
    let Err(error) = pass(creator, file, name, params) else {
        panic!("{name} was made with {params:?}");
    };
    assert_eq!(error.failure.status, status, "{error}");
    assert!(error.message.contains(text), "no {text:?} in {error}");
}

fn open(name: &str) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(name).expect("opened")
}

/// Says whether io_uring can be had, without which no user's file is taken.
fn has_ring() -> bool {
    engines().contains(&IoEngine::IoUring)
}

#[test]
fn a_users_file_serves_a_pool_wherever_its_path_leads() {
    if !has_ring() {
        return;
    }
    let folder = disk_folder();
    let file = open(&name_in(&folder, "pool"));
    // In the user's mount namespace, for example.
    let name = "/a/folder/of/the/users/pool";
    let pool = pass(USER, &file, name, &params()).expect("made");
    drop(file);
    assert_eq!(pool.stats().io_engine, Some(IoEngine::IoUring));
    let block = pool.allocate(4096).expect("room")[0];
    pool.write(block, 0, &[7; 4096]).expect("written");
    pool.run(Method::Flush, [0; 3], None).expect("flushed");
    assert_eq!(pool.read(block, 0, 4096).expect("read"), [7; 4096]);
    assert_eq!(pool.stats().file, Some(FileState::InPlace));
    pool.ask_again_by(USER, &params()).expect("the same pool");
    let _ = pool.handle().flush();
    drop(pool);

    let file = open(&name_in(&folder, "pool"));
    let pool = pass(USER, &file, name, &params()).expect("opened");
    assert!(pool.handle().was_opened().expect("told"));
    assert_eq!(pool.read(block, 0, 4096).expect("read"), [7; 4096]);
}

#[test]
fn a_file_that_was_opened_otherwise_is_refused_whoever_asks() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    drop(TestPool::create(&name, &file_params(MEGABYTE), 1).expect("made"));
    let mut reads = OpenOptions::new();
    reads.read(true);
    let mut writes = OpenOptions::new();
    writes.write(true);
    let mut appends = OpenOptions::new();
    appends.read(true).append(true);
    let mut names = OpenOptions::new();
    names.read(true).custom_flags(libc::O_PATH);
    for creator in [USER, ROOT] {
        for (options, text) in [
            (&reads, "for reading only"),
            (&writes, "for writing only"),
            (&appends, "O_APPEND"),
            (&names, "O_PATH"),
        ] {
            let file = options.open(&name).expect("opened");
            let expected = (Status::InvalidArgument, text);
            assert_refused(creator, &file, (&name, &params()), expected);
        }
    }
    let read_only = CreateParams {
        read_only: true,
        total_size: 0,
        ..params()
    };
    let neither = OFlag::from_bits_retain(libc::O_WRONLY | libc::O_RDWR);
    let neither = nix::fcntl::open(&*name, neither, Mode::empty()).expect("opened");
    for params in [params(), read_only] {
        let expected = (Status::InvalidArgument, "for neither reading nor writing");
        assert_refused(ROOT, &neither, (&name, &params), expected);
    }
    let file = reads.open(&name).expect("opened");
    drop(pass(ROOT, &file, &name, &read_only).expect("reading is enough to read"));
    drop(pass(ROOT, &open(&name), &name, &params()).expect("and this for all"));
}

#[test]
fn what_is_no_file_with_a_name_is_refused() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let memory = memfd_create("memory", MFdFlags::MFD_CLOEXEC).expect("memory");
    let removed = open(&name_in(&folder, "removed"));
    fs::remove_file(name_in(&folder, "removed")).expect("removed");
    let place = File::open(folder.path()).expect("a folder");
    let fifo = name_in(&folder, "fifo");
    nix::unistd::mkfifo(Path::new(&fifo), Mode::S_IRWXU).expect("a FIFO");
    let settings = File::open("/proc/self/limits").expect("a file of the kernel's");
    let null = open("/dev/null");
    for creator in [USER, ROOT] {
        let refused = |file: &dyn AsFd, text| {
            let file = file.as_fd();
            assert_refused(
                creator,
                &file,
                (&name, &params()),
                (Status::InvalidArgument, text),
            );
        };
        refused(&memory, "memfd");
        refused(&removed, "it has no name");
        refused(&place, "a directory");
        refused(&open(&fifo), "a FIFO");
        refused(&null, "a character device");
        let read_only = CreateParams {
            read_only: true,
            total_size: 0,
            ..params()
        };
        let expected = (Status::InvalidArgument, "a file of the kernel's own");
        assert_refused(creator, &settings, (&name, &read_only), expected);
    }
}

#[test]
fn a_file_with_two_names_is_an_operators_to_pass() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let file = open(&name);
    fs::hard_link(&name, name_in(&folder, "other")).expect("linked");
    let expected = (Status::InvalidArgument, "it has 2 names");
    assert_refused(USER, &file, (&name, &params()), expected);
    drop(pass(ROOT, &file, &name, &params()).expect("made"));
    fs::remove_file(name_in(&folder, "other")).expect("removed");
    if has_ring() {
        let pool = pass(USER, &file, &name, &params());
        drop(pool.expect("with one name it is taken"));
    }
}

#[test]
fn a_file_that_the_host_needs_is_refused_whoever_asks_and_however_it_comes() {
    let folder = disk_folder();
    let name = name_in(&folder, "log");
    let file = open(&name);
    let found = file.metadata().expect("it is open");
    let host = || Recorder::needing(found.dev(), found.ino());
    let passed = [USER, ROOT].map(|creator| pass_to(host(), creator, &file, &name, &params()));
    let recorded = (1, Arc::new(host()));
    let by_path = TestPool::create_as((POOL, false), &name, &file_params(MEGABYTE), recorded);
    for refused in passed.into_iter().chain([by_path]) {
        let Err(error) = refused else {
            panic!("a pool was made");
        };
        assert_eq!(error.failure.status, Status::PermissionDenied, "{error}");
        let text = "is a file that the daemon itself needs";
        assert!(error.message.contains(text), "{error}");
    }
    assert_eq!(file.metadata().expect("it is open").len(), 0);
    drop(pass(ROOT, &file, &name, &params()).expect("another host takes it"));
}

#[test]
fn a_file_is_one_pools_also_if_its_lock_was_given_up() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let file = open(&name);
    let pool = pass(ROOT, &file, &name, &params()).expect("made");
    // The lock is the open file's, which this descriptor shares with the pool.
    file.unlock().expect("unlocked");
    let second = open(&name);
    for creator in [USER, ROOT] {
        let expected = (Status::Busy, "another pool has it");
        assert_refused(creator, &second, ("/elsewhere", &params()), expected);
    }
    drop(pool);
    drop(pass(ROOT, &second, &name, &params()).expect("it is free"));
}

#[test]
fn a_users_file_gets_io_uring_or_nothing() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let file = open(&name);
    let libaio = CreateParams {
        io_engine: IoEngine::Libaio,
        ..params()
    };
    let expected = (
        Status::PermissionDenied,
        "io_engine is libaio, which is for operators",
    );
    assert_refused(USER, &file, (&name, &libaio), expected);
    let filter = SystemCallFilter::refusing(&[libc::SYS_io_uring_setup], libc::EPERM);
    filter.around(|| {
        let expected = (
            Status::PermissionDenied,
            "let an operator create the pool for you",
        );
        assert_refused(USER, &file, (&name, &params()), expected);
        assert_eq!(file.metadata().expect("it is open").len(), 0, "as it was");
        let pool = pass(ROOT, &file, &name, &params()).expect("operators get AIO");
        assert_eq!(pool.stats().io_engine, Some(IoEngine::Libaio));
    });
    // Also where the pool records that it was made for AIO.
    drop(
        pass(
            ROOT,
            &file,
            &name,
            &CreateParams {
                overwrite: true,
                ..libaio
            },
        )
        .expect("made"),
    );
    if has_ring() {
        let pool = pass(USER, &file, &name, &params()).expect("opened");
        assert_eq!(pool.stats().io_engine, Some(IoEngine::IoUring));
    }
}

#[test]
fn no_path_is_opened_unless_an_operator_asks_for_it() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let create = |creator, params: &CreateParams| {
        let recorded = (1, Arc::new(Recorder::default()));
        TestPool::create_by(creator, (POOL, false), &name, params, recorded)
    };
    for (creator, params, status, text) in [
        (
            USER,
            file_params(MEGABYTE),
            Status::PermissionDenied,
            "opens paths for operators only",
        ),
        (ROOT, params(), Status::Busy, "no file was passed"),
    ] {
        let Err(error) = create(creator, &params) else {
            panic!("a pool was made");
        };
        assert_eq!(error.failure.status, status, "{error}");
        assert!(error.message.contains(text), "{error}");
        assert!(!fs::exists(&name).expect("the folder is there"));
    }
    drop(create(ROOT, &file_params(MEGABYTE)).expect("made"));
}

#[test]
fn a_path_is_not_opened_where_the_kernel_cannot_keep_to_it() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let filter = SystemCallFilter::refusing(&[libc::SYS_openat2], libc::ENOSYS);
    filter.around(|| {
        let Err(error) = TestPool::create(&name, &file_params(MEGABYTE), 1) else {
            panic!("a pool was made");
        };
        assert_eq!(error.failure.status, Status::PermissionDenied, "{error}");
        assert!(error.message.contains("openat2, Linux 5.6"), "{error}");
        assert!(!fs::exists(&name).expect("the folder is there"));
        drop(pass(ROOT, &open(&name), &name, &params()).expect("a passed file needs no path"));
    });
}

#[test]
fn what_a_user_may_have_written_to_a_file_that_he_passed_is_not_believed() {
    if !has_ring() {
        return;
    }
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let record = |permissions| {
        let pool = pass(ROOT, &open(&name), &name, &params()).expect("an operator's");
        pool.handle().set_permissions(permissions).expect("set");
    };
    let of_root = Permissions {
        mode: 0o666,
        ..Permissions::of_owner(ROOT.uid, ROOT.gid)
    };
    let of_user = Permissions {
        mode: 0o640,
        ..Permissions::of_owner(USER.uid, USER.gid)
    };
    let given = |file: &File, params: &CreateParams| {
        let pool = pass(USER, file, &name, params).expect("opened");
        pool.handle().permissions().expect("told")
    };
    record(of_root);
    let (written, read) = (open(&name), File::open(&name).expect("opened"));
    // Whoever was let in once has it open for writing, whatever the file says later.
    let closed = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&name, closed).expect("its own");
    let read_only = CreateParams {
        read_only: true,
        total_size: 0,
        ..params()
    };
    let own = Permissions::of_owner(USER.uid, USER.gid);
    assert_eq!(given(&written, &params()), Some(own));
    assert_eq!(given(&written, &read_only), Some(own));
    assert_eq!(given(&read, &read_only), Some(of_root));
    record(of_user);
    assert_eq!(given(&written, &params()), Some(of_user));
}

#[test]
fn nobody_learns_from_a_pool_on_a_file_that_he_passed_where_a_path_leads() {
    if !has_ring() {
        return;
    }
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let there = name_in(&folder, "there");
    fs::write(&there, "precious").expect("written");
    let pool = pass(USER, &open(&name), &name, &params()).expect("made");
    let kept = name_in(&folder, "kept");
    fs::rename(&name, &kept).expect("moved");
    // Whoever may put links there would have the daemon look at what he may not.
    for target in [there, name_in(&folder, "absent"), kept.clone()] {
        symlink(&target, &name).expect("a link");
        pool.ask_again_by(USER, &params()).expect("the same pool");
        pool.run(Method::Flush, [0; 3], None).expect("flushed");
        assert_eq!(pool.stats().file, Some(FileState::InPlace), "{target}");
        fs::remove_file(&name).expect("removed");
    }
    assert_eq!(pool.recorder().log(), []);
    // What its file says of itself is told.
    fs::remove_file(&kept).expect("removed");
    let error = pool.ask_again_by(USER, &params()).expect_err("it is lost");
    assert!(error.message.contains("it was removed"), "{error}");
    assert_eq!(pool.stats().file, Some(FileState::Removed));
}

#[test]
fn a_path_that_a_file_records_is_not_looked_at_for_the_user_who_passed_it() {
    let folder = disk_folder();
    let (name, link) = (name_in(&folder, "pool"), name_in(&folder, "link"));
    drop(pass(ROOT, &open(&name), &name, &params()).expect("made"));
    symlink(&name, &link).expect("a link");
    let refusal = |creator| {
        let refused = pass(creator, &open(&link), &link, &params());
        refused.err().expect("it has another name").message
    };
    assert!(refusal(ROOT).contains("both lead to it"));
    if has_ring() {
        let said = refusal(USER);
        assert!(said.contains("`chimaera pool rename"), "{said}");
    }
}

#[test]
fn a_file_that_holds_another_pool_by_the_time_it_is_opened_is_refused() {
    if !has_ring() {
        return;
    }
    let folder = disk_folder();
    let (name, other) = (name_in(&folder, "pool"), name_in(&folder, "other"));
    let of_root = Permissions {
        mode: 0o640,
        ..Permissions::of_owner(ROOT.uid, ROOT.gid)
    };
    let make = |path: &str, id| {
        let passed = (ROOT, Some(open(path)));
        let passed = (passed.0, passed.1.as_ref().map(AsFd::as_fd));
        let recorded = (1, Arc::new(Recorder::default()));
        let pool = TestPool::create_on(passed, (id, false), &name, &params(), recorded);
        let pool = pool.expect("made");
        pool.handle().set_permissions(of_root).expect("set");
    };
    make(&name, POOL);
    make(&other, PoolId::new(8000, 9));
    // The log is told whose the first one is before its blocks are read.
    let (to, image) = (name.clone(), fs::read(&other).expect("read"));
    let host = Recorder::doing(move |line| {
        if line.contains("is not believed") {
            fs::write(&to, &image).expect("written");
        }
    });
    let file = open(&name);
    let passed = (USER, Some(file.as_fd()));
    let opened = TestPool::create_on(
        passed,
        (PoolId::new(9000, 0), true),
        &name,
        &params(),
        (1, Arc::new(host)),
    );
    let error = opened.err().expect("it is another pool");
    assert_eq!(error.failure.status, Status::Busy, "{error}");
    let text = "somebody has written another pool";
    assert!(error.message.contains(text), "{error}");
}
