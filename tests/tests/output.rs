//! What a daemon writes may go nowhere: its reader is gone or does not read, its disk is full. No job fails for
//! that, no signal is lost, no answer changes; and when it can be written again, it is.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;

use chimaera_bdev_client::{BlockType, PoolQuery, Status};
use chimaera_faulty_runtime::Method;
use chimaera_tests::exit::NO_RUNTIME;
use chimaera_tests::{
    Daemon, Faulty, MIB, SmallFileSystem, assert_refused, memory, program, skipped, text, until,
};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::pipe2;

/// What can be wrong with where output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A pipe whose reader is gone.
    ReaderGone,
    /// A pipe whose reader does not read.
    ReaderStill,
    /// A device that takes nothing.
    FullDevice,
    /// A file on a disk without room.
    FullDisk,
}

const FAULTS: [Fault; 4] = [
    Fault::ReaderGone,
    Fault::ReaderStill,
    Fault::FullDevice,
    Fault::FullDisk,
];

/// Where a daemon's output goes, standard output and standard error alike.
struct Place {
    fault: Fault,
    output: OwnedFd,
    /// The other end of a pipe.
    reader: Option<OwnedFd>,
    disk: Option<SmallFileSystem>,
}

impl Place {
    /// A place that is all right so far; or the reason why there is none.
    fn new(fault: Fault) -> Result<Self, String> {
        let mut place = match fault {
            Fault::ReaderGone | Fault::ReaderStill => {
                let (reader, output) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
                Self {
                    fault,
                    output,
                    reader: Some(reader),
                    disk: None,
                }
            }
            Fault::FullDevice => Self {
                fault,
                output: File::options()
                    .write(true)
                    .open("/dev/full")
                    .map_err(|error| format!("no /dev/full: {error}"))?
                    .into(),
                reader: None,
                disk: None,
            },
            Fault::FullDisk => {
                let disk = SmallFileSystem::mount("size=1m")?;
                let log = File::options()
                    .create(true)
                    .append(true)
                    .open(disk.folder().join("log"))
                    .expect("a log");
                Self {
                    fault,
                    output: log.into(),
                    reader: None,
                    disk: Some(disk),
                }
            }
        };
        if fault == Fault::FullDevice {
            place.fail();
        }
        Ok(place)
    }

    /// Makes it fail, from now on.
    fn fail(&mut self) {
        match self.fault {
            Fault::ReaderGone => self.reader = None,
            Fault::ReaderStill => {
                // A description of its own: the daemon's stays as it is, and blocks.
                let path = format!("/proc/self/fd/{}", self.output.as_raw_fd());
                let mut pipe = File::options()
                    .write(true)
                    .custom_flags(OFlag::O_NONBLOCK.bits())
                    .open(path)
                    .expect("the pipe");
                while pipe.write(&[b'.'; 4096]).is_ok() {}
                while pipe.write(b".").is_ok() {}
            }
            Fault::FullDevice => {}
            Fault::FullDisk => {
                let mut filler = File::create(self.filler()).expect("a file");
                while filler.write_all(&[b'.'; 4096]).is_ok() {}
            }
        }
    }

    fn filler(&self) -> PathBuf {
        let disk = self.disk.as_ref().expect("it is a disk that is full");
        disk.folder().join("filler")
    }

    fn log(&self) -> String {
        let disk = self.disk.as_ref().expect("it is a disk that is full");
        std::fs::read_to_string(disk.folder().join("log")).expect("the log")
    }

    fn start(&self) -> Daemon {
        let copy = || self.output.try_clone().expect("descriptors are left");
        Daemon::start_writing_to(copy(), copy())
    }
}

/// All kinds of work, on every kind of thread that may have something to say.
fn work(daemon: &Daemon) {
    let file = daemon.folder().join("pool");
    let in_memory = ["pool", "create", "other", "--type", "ram", "--size", "8MiB"];
    let _ = daemon.run(&in_memory).success();
    let _ = daemon.create_file_pool(&file, "8MiB").success();
    let runtime = daemon.connect();
    let kept = memory(&runtime, 8 * MIB);
    let blocks = kept.allocate_blocks(PoolQuery::Local, 4096);
    let block = blocks.expect("there is room")[0];
    assert_eq!(block.block_type, BlockType::Kib4);
    let mut buffer = runtime.allocate_buffer(4096).expect("a buffer");
    buffer.fill(0xA5);
    kept.write(PoolQuery::Local, &block, &buffer)
        .expect("written");

    let faulty = Faulty::created(&runtime, 0);
    for _ in 0..10 {
        faulty.call(Method::LogElsewhere).expect("said");
        assert_refused(
            faulty.call(Method::PanicElsewhere),
            Status::ModulePanicked,
            &[],
        );
        assert_refused(faulty.call(Method::Panic), Status::ModulePanicked, &[]);
    }
    for name in ["other", text(&file)] {
        let _ = daemon.run(&["pool", "destroy", name]).success();
    }
    buffer.fill(0);
    kept.read(PoolQuery::Local, &block, &mut buffer)
        .expect("the pool is there");
    assert!(buffer.iter().all(|&byte| byte == 0xA5), "and what it holds");
}

/// The texts of the errors that the daemon tells of.
fn errors(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status();
    let recent = status["log"]["recent"].as_array().expect("a list");
    let errors = recent.iter().filter(|line| line["severity"] == "error");
    errors
        .map(|line| line["text"].as_str().expect("a text").to_owned())
        .collect()
}

fn run_with(fault: Fault, is_broken_from_the_start: bool, stops_by_signal: bool) {
    let mut place = match Place::new(fault) {
        Ok(place) => place,
        Err(reason) => return skipped(&format!("output with {fault:?}"), &reason),
    };
    if is_broken_from_the_start {
        place.fail();
    }
    let mut daemon = place.start();
    place.fail();
    work(&daemon);
    let errors = errors(&daemon);
    for expected in ["as asked, line 7", "as asked, on a thread of the module's"] {
        assert!(
            errors.iter().any(|text| text.contains(expected)),
            "{fault:?}: {expected} is not in {errors:?}"
        );
    }
    if fault != Fault::ReaderStill {
        let shown = daemon.run(&["runtime", "status"]).success();
        assert!(shown.contains("it cannot be written"), "{fault:?}: {shown}");
    } else {
        until("it is known that nobody reads", || {
            let shown = daemon.run(&["runtime", "status"]).success();
            shown.contains("it stands still")
        });
    }
    if stops_by_signal {
        daemon.signal(Signal::SIGTERM);
    } else {
        let said = daemon.run(&["runtime", "stop"]).success();
        assert!(
            said.starts_with("stopped the daemon with process id"),
            "{said}"
        );
    }
    assert_eq!(daemon.wait().0, Some(0), "{fault:?}");
}

#[test]
fn a_daemon_whose_output_goes_nowhere_from_the_start_works_and_ends_on_a_signal() {
    for fault in FAULTS {
        run_with(fault, true, true);
    }
}

#[test]
fn a_daemon_whose_output_goes_nowhere_from_the_start_works_and_stops_when_told() {
    for fault in FAULTS {
        run_with(fault, true, false);
    }
}

#[test]
fn a_daemon_whose_output_fails_later_works_on_and_ends_on_a_signal() {
    for fault in FAULTS {
        run_with(fault, false, true);
    }
}

#[test]
fn a_daemon_whose_output_fails_later_works_on_and_stops_when_told() {
    for fault in FAULTS {
        run_with(fault, false, false);
    }
}

#[test]
fn what_could_not_be_written_is_when_there_is_room_again_with_the_number_of_what_is_lost() {
    let mut place = match Place::new(Fault::FullDisk) {
        Ok(place) => place,
        Err(reason) => return skipped("a log with room again", &reason),
    };
    let mut daemon = place.start();
    place.fail();
    let runtime = daemon.connect();
    let faulty = Faulty::created(&runtime, 0);
    // Three lines each are logged, and there is room for a third of them; the errors find it.
    for _ in 0..4000 {
        faulty.call(Method::LogElsewhere).expect("said");
    }
    let status = daemon.status();
    let lost = status["log"]["lost_lines"].as_u64().expect("a number");
    assert!(lost > 0, "{status}");
    std::fs::remove_file(place.filler()).expect("room again");
    until("all is written", || {
        daemon.status()["log"]["problem"].is_null()
    });
    until("the last error is written", || {
        place
            .log()
            .matches("ERROR module chimaera_faulty, pool \"faulty 6666.0\" (6666.0): as asked")
            .count()
            == 4000
    });
    let log = place.log();
    assert!(
        log.contains(&format!("{lost} were lost: 0 errors")),
        "{lost}: {log}"
    );
    assert!(log.contains("serving"), "what came first is there: {log}");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().0, Some(0));
    assert!(place.log().ends_with("stopped\n"));
}

#[test]
fn a_reader_that_reads_again_gets_all_that_was_said_in_its_order() {
    let mut place = Place::new(Fault::ReaderStill).expect("a pipe");
    place.fail();
    let mut daemon = place.start();
    let runtime = daemon.connect();
    let faulty = Faulty::created(&runtime, 0);
    faulty.call(Method::LogElsewhere).expect("said");
    let reader = place.reader.take().expect("it is there");
    drop(place);
    daemon.signal(Signal::SIGTERM);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut File::from(reader), &mut text).expect("what it says");
    assert_eq!(daemon.wait().0, Some(0));
    let places: Vec<_> = [
        "ready on",
        "serving",
        "(6666.0): as asked, line 7",
        "stopped",
    ]
    .iter()
    .map(|words| {
        text.find(words)
            .unwrap_or_else(|| panic!("{words} in {text}"))
    })
    .collect();
    assert!(places[1..].is_sorted(), "{places:?}: {text}");
}

#[test]
fn a_command_whose_complaints_go_nowhere_ends_with_the_code_that_says_the_same() {
    let run = |stderr: OwnedFd| {
        let mut command = Command::new(program("chimaera"));
        command
            .args(["pool", "list", "--socket", "/nowhere/chimaera.sock"])
            .stderr(stderr);
        command.status().expect("it runs").code()
    };
    let (reader, gone) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    drop(reader);
    assert_eq!(run(gone), Some(NO_RUNTIME));
    match File::options().write(true).open("/dev/full") {
        Ok(full) => assert_eq!(run(full.into()), Some(NO_RUNTIME)),
        Err(error) => skipped("complaints to /dev/full", &error.to_string()),
    }
}
