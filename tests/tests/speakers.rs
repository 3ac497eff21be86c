//! What the log says of modules: which one it is and in which pool, a line for each thing that happens.

use chimaera_bdev_client::Status;
use chimaera_faulty_runtime::{Method, params};
use chimaera_tests::exit::{FAILED, NO_SPACE};
use chimaera_tests::{Daemon, Faulty, until};
use nix::sys::signal::Signal;

const POOL: &str = "module chimaera_faulty, pool \"faulty 6666.0\" (6666.0): ";

/// The lines of a log with these words.
fn lines<'a>(log: &'a str, words: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(words)).collect()
}

#[test]
fn what_a_module_says_and_how_it_panics_names_module_and_pool_in_one_line() {
    let mut daemon = Daemon::start_with(&["--workers", "2"]);
    let runtime = daemon.connect();
    // The first pool has the library set its panic hook; the lines that are looked for are of the second.
    let _first = Faulty::created(&runtime, 7);
    let faulty = Faulty::created(&runtime, 0);
    faulty.call(Method::LogElsewhere).expect("said");
    let panics = [
        (
            Method::Panic,
            "with the request in hand",
            POOL,
            "chimaera-worker-",
        ),
        (
            Method::PanicInPoll,
            "while polling",
            POOL,
            "chimaera-worker-",
        ),
        // The thread has no name of its own, and the one that it got from the worker that started it is not shown.
        (
            Method::PanicOnAdoptedThread,
            "on a thread that has a pool",
            POOL,
            "without a name",
        ),
        // Nothing tells which pool this thread works for.
        (
            Method::PanicElsewhere,
            "on a thread of the module's",
            "module chimaera_faulty: ",
            "without a name",
        ),
    ];
    for (method, ..) in panics {
        let error = faulty.call(method).expect_err("it panics");
        assert_eq!(error.status(), Status::ModulePanicked);
        let text = error.to_string();
        assert!(text.contains("the runtime's log says where"), "{text}");
    }
    until("the last line is written", || {
        !lines(&daemon.log(), "on a thread of the module's").is_empty()
    });
    let shown = daemon.run(&["runtime", "status"]).success();
    daemon.signal(Signal::SIGTERM);
    let (_, log) = daemon.wait();
    for said in [&*log, &shown] {
        let text = "as asked, line 7";
        assert!(said.contains(&format!("{POOL}{text}")), "{said}");
        for (_, words, who, thread) in panics {
            let lines = lines(said, words);
            assert_eq!(lines.len(), 1, "{words}: {said}");
            let line = lines[0];
            let at = format!("{who}panicked at tests/faulty/src/lib.rs:");
            assert!(line.contains(&at), "{at} in {line}");
            assert!(line.contains(&format!(" on thread {thread}")), "{line}");
        }
    }
    assert_eq!(lines(&log, "panicked").len(), panics.len(), "{log}");
}

#[test]
fn a_pool_that_is_not_made_leaves_a_line_with_the_modules_own_text() {
    let mut daemon = Daemon::start();
    let create = |module: &str, params: &str| {
        daemon.run(&[
            "pool", "create", "p", "--module", module, "--params", params,
        ])
    };
    let _ = create("chimaera_faulty", params::CREATE_ERROR).failure(NO_SPACE);
    let _ = create("chimaera_faulty", params::CREATE_PANIC).failure(FAILED);
    let _ = create("absent", "").failure(4);
    let shown = daemon.run(&["runtime", "status"]).success();
    daemon.signal(Signal::SIGTERM);
    let (_, log) = daemon.wait();
    let whom = ", for process ";
    for (module, text) in [
        ("chimaera_faulty", "as asked: no space"),
        (
            "chimaera_faulty",
            "the module panicked while creating a container: as asked, while creating p",
        ),
        ("absent", "no libabsent_runtime.so in "),
    ] {
        let lines = lines(&log, text);
        assert_eq!(lines.len(), 1, "{text}: {log}");
        let beginning = format!(" WARN pool not created: p, module {module}{whom}");
        assert!(lines[0].contains(&beginning), "{log}");
        assert!(shown.contains(text), "{shown}");
    }
    // Its id is not known before it is made.
    let panic = lines(&log, "module chimaera_faulty, pool p: ");
    assert_eq!(panic.len(), 1, "{log}");
    assert!(panic[0].contains("ERROR"), "{log}");
    assert!(
        panic[0].contains("panicked at tests/faulty/src/lib.rs:"),
        "{log}"
    );

    // A client cannot fill the log with refused creations.
    let mut daemon = Daemon::start();
    let faulty = Faulty::new(&daemon.connect(), 0);
    for _ in 0..100 {
        faulty.create(params::CREATE_ERROR).expect_err("as asked");
    }
    daemon.signal(Signal::SIGTERM);
    let (_, log) = daemon.wait();
    let told = lines(&log, "pool not created").len();
    assert!((1..50).contains(&told), "{told}");
}
