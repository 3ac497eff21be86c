//! What children have, of whichever kind they are.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::process::hold_off_fork;
use crate::{Home, Mapping, Native, PerProcess, Private, ProcessIdentity};

const BYTES: usize = 1 << 20;

/// How a child is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fork,
    /// By the bare system call, so that no handler runs.
    Clone,
}

const KINDS: [Kind; 2] = [Kind::Fork, Kind::Clone];

/// Runs `check` in a child, and fails where it failed. The child of a process with many threads has one thread, so
/// `check` neither panics nor waits for another thread; in a child without a handler it does not allocate either.
fn child(kind: Kind, check: impl FnOnce() -> Result<(), &'static str>) {
    // SAFETY: the child runs `check` and ends; what it uses is its own, or written for children.
    let id = unsafe {
        match kind {
            Kind::Fork => libc::fork(),
            Kind::Clone => libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as libc::pid_t,
        }
    };
    assert!(id >= 0, "{}", io::Error::last_os_error());
    if id == 0 {
        // The alarm ends a child that hangs at a lock.
        // SAFETY: these end the child, after some time or now, and write bytes that are there.
        unsafe {
            libc::alarm(30);
            // An uncaught panic would end the child's only thread, and so the child, as a success.
            let found = catch_unwind(AssertUnwindSafe(check)).unwrap_or(Err("it panicked"));
            if let Err(text) = found {
                libc::write(2, text.as_ptr().cast(), text.len());
            }
            libc::_exit(i32::from(found.is_err()));
        }
    }
    let mut status = 0;
    // SAFETY: the status is written to a word that is there.
    let ended = unsafe { libc::waitpid(id, &raw mut status, 0) };
    assert_eq!((ended, status), (id, 0), "in a child by {kind:?}");
}

/// Drops a child's copy of a value, which is the parent's to drop there.
fn drop_copy<T>(value: &T) {
    // SAFETY: the child uses the value no more, and ends without dropping it.
    drop(unsafe { ptr::read(value) });
}

fn holds(condition: bool, what: &'static str) -> Result<(), &'static str> {
    if condition { Ok(()) } else { Err(what) }
}

/// Shared memory, as segments are.
fn shared_memory() -> Mapping {
    let map = || {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping where the kernel likes.
        let address = unsafe { libc::mmap(ptr::null_mut(), BYTES, protection, flags, -1, 0) };
        NonNull::new(address.cast()).ok_or_else(io::Error::last_os_error)
    };
    // SAFETY: the mapping has so many bytes and is nobody else's.
    unsafe { Mapping::new(BYTES, map) }.expect("a mapping")
}

fn identity(file: RawFd) -> Option<(u64, u64)> {
    let found = std::fs::metadata(format!("/proc/self/fd/{file}")).ok()?;
    Some((found.dev(), found.ino()))
}

#[test]
fn a_child_is_another_process_and_so_is_its_child() {
    let here = ProcessIdentity::current();
    let home = Home::new(7).expect("a home");
    for kind in KINDS {
        child(kind, || {
            holds(!here.is_current(), "the parent's process")?;
            holds(home.number() == 0 && !home.is_here(), "the parent's home")?;
            holds(
                ProcessIdentity::current().is_current(),
                "the child's process",
            )?;
            if kind == Kind::Clone {
                // What follows needs the allocator, whose locks other threads may have had.
                return Ok(());
            }
            let child_process = ProcessIdentity::current();
            let child_home = Home::new(8).map_err(|_| "no home")?;
            for kind in KINDS {
                child(kind, || {
                    let is_foreign = !here.is_current() && !child_process.is_current();
                    holds(is_foreign, "processes")?;
                    holds(!home.is_here() && !child_home.is_here(), "homes")
                });
            }
            holds(!here.is_current() && child_home.number() == 8, "unchanged")
        });
    }
    assert!(here.is_current() && home.number() == 7);
}

#[test]
fn a_child_of_fork_has_private_zeros_where_the_parent_has_shared_memory() {
    let memory = shared_memory();
    let address = memory.address();
    // SAFETY: the mapping is this test's own.
    unsafe { address.write_bytes(0xAB, BYTES) };
    child(Kind::Fork, || {
        // SAFETY: private memory of the child's, as this test is about.
        let bytes = unsafe { std::slice::from_raw_parts_mut(address.as_ptr(), BYTES) };
        holds(bytes.iter().all(|&byte| byte == 0), "not zeros")?;
        bytes.fill(0xCD);
        drop_copy(&memory);
        holds(
            bytes.iter().all(|&byte| byte == 0xCD),
            "gone with the value",
        )
    });
    // SAFETY: as above.
    assert_eq!(unsafe { address.add(BYTES - 1).read() }, 0xAB);
}

#[test]
fn no_mapping_of_a_childs_comes_to_lie_where_its_parents_are() {
    let memory = shared_memory();
    let range = memory.address().as_ptr().addr()..memory.address().as_ptr().addr() + BYTES;
    for kind in KINDS {
        child(kind, || {
            // Without a handler, the first mapping that the child makes fills its parent's address ranges.
            let mappings = [(); 8].map(|()| shared_memory());
            let meets = |mapping: &Mapping| {
                let address = mapping.address().as_ptr().addr();
                address < range.end && range.start < address + BYTES
            };
            holds(!mappings.iter().any(meets), "a mapping in the hole")
        });
    }
}

#[test]
fn a_childs_copy_of_a_file_is_another_file_that_it_may_close() {
    let file = tempfile();
    let number = file.as_raw_fd();
    let is = identity(number);
    let copy = Private::new(|| file.try_clone()).expect("a copy");
    child(Kind::Fork, || {
        holds(identity(number) != is, "the file is open")?;
        holds(identity(number).is_some(), "the number is free")?;
        drop_copy(&file);
        holds(identity(number).is_none(), "the number stays taken")?;
        // The number's next owner has it alone.
        let mut lower = Vec::new();
        let next = loop {
            let next = File::open("/dev/null").map_err(|_| "no file")?;
            if next.as_raw_fd() >= number {
                break next;
            }
            // Another test had closed a file when the parent forked.
            lower.push(next);
        };
        holds(next.as_raw_fd() == number, "another number")?;
        drop_copy(&copy);
        holds(identity(number).is_some(), "closed by somebody else")
    });
}

/// No descriptor number is free for the stand-in until one of the files to be replaced is closed.
#[test]
fn a_child_of_a_process_without_free_descriptors_has_none_of_its_files() {
    // In a process of its own, which has the limit, and the files that use up all descriptors.
    child(Kind::Fork, || {
        let files = [(); 3].map(|()| tempfile());
        let limit = files.iter().map(AsRawFd::as_raw_fd).max().unwrap_or(0) as u64 + 1;
        let limits = libc::rlimit {
            rlim_cur: limit,
            rlim_max: limit,
        };
        // SAFETY: the limits are there during the call.
        let limited = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits) };
        holds(limited == 0, "no limit")?;
        // SAFETY: the call makes a number of a file that stays as it is, until there is none.
        while unsafe { libc::dup(2) } >= 0 {}
        let are = [0, 1, 2].map(|index: usize| identity(files[index].as_raw_fd()));
        child(Kind::Fork, || {
            for (file, is) in files.iter().zip(are) {
                holds(identity(file.as_raw_fd()) != is, "the file is open")?;
                holds(identity(file.as_raw_fd()).is_some(), "the number is free")?;
            }
            files.iter().for_each(drop_copy);
            let is_free = |file: &Private<File>| identity(file.as_raw_fd()).is_none();
            holds(files.iter().all(is_free), "a number stays taken")
        });
        let now = [0, 1, 2].map(|index: usize| identity(files[index].as_raw_fd()));
        holds(now == are, "the parent's are gone")
    });
}

#[test]
fn a_child_without_a_handler_leaves_its_parents_files_alone() {
    let file = tempfile();
    let number = file.as_raw_fd();
    let is = identity(number);
    child(Kind::Clone, || {
        drop_copy(&file);
        holds(identity(number) == is, "it was closed")?;
        let own = Private::new(|| File::open("/dev/null")).map_err(|_| "no file")?;
        let own_number = own.as_raw_fd();
        drop(own);
        holds(identity(own_number).is_none(), "its own stays open")
    });
}

#[test]
fn a_value_is_dropped_by_the_process_that_made_it() {
    static DROPPED: AtomicBool = AtomicBool::new(false);
    struct Tells;
    impl Drop for Tells {
        fn drop(&mut self) {
            DROPPED.store(true, Ordering::Relaxed);
        }
    }
    let value = Native::new(Tells);
    for kind in KINDS {
        child(kind, || {
            drop_copy(&value);
            holds(!DROPPED.load(Ordering::Relaxed), "dropped in a child")
        });
    }
    drop(value);
    assert!(DROPPED.load(Ordering::Relaxed));
}

#[test]
fn a_child_has_a_static_of_its_own_whoever_has_locked_its_parents() {
    static LIST: PerProcess<Mutex<Vec<u32>>> = PerProcess::new(Mutex::default);
    let mut locked = LIST.get().lock().expect("nobody panics");
    locked.push(1);
    child(Kind::Fork, || {
        let mut own = LIST.get().try_lock().map_err(|_| "locked")?;
        holds(own.is_empty(), "its parent's")?;
        own.push(2);
        drop(own);
        let own = LIST.get().try_lock().map_err(|_| "locked")?;
        holds(*own == [2], "another one")
    });
    drop(locked);
    assert_eq!(*LIST.get().lock().expect("nobody panics"), [1]);
}

/// A lock of another thread's would be taken in the child for ever.
#[test]
fn a_child_waits_for_no_thread_of_its_parents() {
    let (locked, is_locked) = std::sync::mpsc::channel();
    let (unlock, may_unlock) = std::sync::mpsc::channel::<()>();
    let holder = thread::spawn(move || {
        let guard = hold_off_fork();
        locked.send(()).expect("somebody waits");
        let _ = may_unlock.recv();
        drop(guard);
    });
    is_locked.recv().expect("it locks");
    child(Kind::Clone, || {
        drop(hold_off_fork());
        Ok(())
    });
    drop(unlock);
    holder.join().expect("it unlocks");
    // `fork` waits for others itself, and lets them go on.
    for _ in 0..20 {
        let others = [(); 2].map(|()| thread::spawn(|| drop(tempfile())));
        child(Kind::Fork, || {
            drop(hold_off_fork());
            Ok(())
        });
        for other in others {
            other.join().expect("it goes on");
        }
    }
}

/// The descriptor number and the address range of a dropped value may have other owners.
#[test]
fn what_was_dropped_is_not_taken_away_any_more() {
    let file = tempfile();
    let number = file.as_raw_fd();
    drop(file);
    let other: OwnedFd = File::open("/proc/self/exe").expect("a file").into();
    // SAFETY: the number is free, or this test's own.
    let other_number = unsafe { libc::fcntl(other.as_raw_fd(), libc::F_DUPFD, number) };
    let is = identity(other_number);
    child(Kind::Fork, || {
        holds(identity(other_number) == is, "it was taken")
    });
    // SAFETY: made above.
    unsafe { libc::close(other_number) };
}

fn tempfile() -> Private<File> {
    Private::new(|| {
        // SAFETY: the name is a string of this program's.
        let file = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it.
        Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(file) })
    })
    .expect("a file")
}
