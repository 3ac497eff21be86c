//! The program's commands as scripts see them: sizes, JSON, paths.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use chimaera_bdev_client::Client;
use chimaera_tests::exit::{NOT_FOUND, WRONG_USAGE};
use chimaera_tests::{
    Daemon, PATIENCE, chimaera, disk_folder, finish, json, library_folder, program, text,
};
use serde_json::Value;

#[test]
fn json_is_offered_where_it_is_written() {
    let cases = json(&chimaera(&["bench", "--list", "--json"]).success());
    let cases = cases.as_array().expect("a list");
    assert!(!cases.is_empty());
    for case in cases {
        assert!(
            case["name"].is_string() && case["title"].is_string(),
            "{case}"
        );
    }
    let help = |command: &str| chimaera(&[command, "--help"]).success();
    assert!(help("bench").contains("--json"));
    assert!(!help("demo").contains("--json"));
    for line in [&["demo", "--json"], &["--json", "demo"]] {
        let said = json(&chimaera(line).failure(WRONG_USAGE));
        assert_eq!(said["exit_code"], WRONG_USAGE, "{said}");
    }
}

#[test]
fn a_value_that_does_not_show_is_shown_escaped_and_a_suggested_command_means_the_same() {
    for arguments in [
        &["pool", "create", "x", "--type", "\u{1b}[31mred"][..],
        &["pool", "\u{1b}[31mred"],
        &["pool", "list", "--\u{1b}[31mred"],
        &["--json", "pool", "create", "x", "--type", "\u{1b}[31mred"],
    ] {
        let said = chimaera(arguments).failure(WRONG_USAGE);
        assert!(said.contains(r"u{1b}[31mred"), "{arguments:?}: {said}");
        assert!(!said.contains('\u{1b}'), "{arguments:?}: {said}");
    }
    let daemon = Daemon::start();
    let said = daemon
        .run(&["pool", "flush", "a\u{1b}[1m'b"])
        .failure(NOT_FOUND);
    assert!(said.contains(r"a\033[1m\'b' --type file"), "{said}");
}

#[test]
fn sizes_are_read_as_people_write_them() {
    let daemon = Daemon::start();
    for (size, bytes) in [
        ("4096", 4096u64),
        ("64KiB", 64 << 10),
        ("1.5MiB", 3 << 19),
        ("1GiB", 1 << 30),
        ("1MB", 999_424),
        ("5000", 4096),
    ] {
        let create = ["pool", "create", size, "--type", "ram", "--size", size];
        let said = daemon.run(&create).success();
        let stats = json(&daemon.run(&["pool", "stats", size, "--json"]).success());
        assert_eq!(stats["total_size"], bytes, "{size}");
        // A size other than the one that was asked for is said.
        let is_said = said.contains(&format!("of {bytes} bytes: as many whole blocks"));
        assert_eq!(is_said, ["1MB", "5000"].contains(&size), "{said}");
    }
}

#[test]
fn a_pool_that_did_not_grow_as_asked_says_why() {
    let daemon = Daemon::start();
    let folder = disk_folder();
    let file = folder.path().join("pool");
    let create = |size: &str| {
        let create = [
            "pool",
            "create",
            text(&file),
            "--type",
            "file",
            "--size",
            size,
        ];
        let said = daemon.run(&create).success();
        let _ = daemon.run(&["pool", "destroy", text(&file)]).success();
        said
    };
    create("4MiB");
    let said = create("4198400");
    assert!(
        said.contains("of 4194304 bytes, and not 4198400: a pool grows by"),
        "{said}"
    );
    let said = create("8MiB");
    assert!(!said.contains("grows by"), "{said}");
    for mebibytes in (12..=256).step_by(4) {
        create(&format!("{mebibytes}MiB"));
    }
    let said = create("1GiB");
    let words = "of 268435456 bytes, and not 1073741824: it has grown 63 times";
    assert!(said.contains(words), "{said}");
    assert_eq!(std::fs::metadata(&file).expect("the file").len(), 256 << 20);
}

#[test]
fn a_creation_whose_pool_somebody_destroys_at_once_says_so() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            while !is_over.load(Ordering::Relaxed) && start.elapsed() < PATIENCE {
                if let Ok(pool) = Client::open(&runtime, "pool") {
                    let _ = runtime.admin().destroy_pool(pool.pool_id());
                }
            }
        });
        let create = ["pool", "create", "pool", "--type", "ram", "--size", "1MiB"];
        let mut said = (0..500).map(|_| daemon.run(&create));
        let refused = said.find(|output| output.code != Some(0));
        is_over.store(true, Ordering::Relaxed);
        let said = refused.expect("one of them meets it").failure(NOT_FOUND);
        assert!(said.contains("another client has destroyed it"), "{said}");
    });
}

#[test]
fn json_of_pools_has_the_fields_that_scripts_rely_on() {
    let daemon = Daemon::start_with(&["--workers", "2"]);
    let none = json(&daemon.run(&["pool", "list", "--json"]).success());
    assert_eq!(none, Value::Array(Vec::new()));

    let create = [
        "pool", "create", "first", "--type", "ram", "--size", "1MiB", "--id", "8001.7", "--json",
    ];
    let first = json(&daemon.run(&create).success());
    let pool = serde_json::json!({
        "id": "8001.7", "name": "first", "module": "chimaera_bdev",
        "owner": nix::unistd::geteuid().as_raw(), "group": nix::unistd::getegid().as_raw(), "mode": "0600",
    });
    let with_created = |created: bool| {
        let mut expected = pool.clone();
        expected["total_size"] = 1_048_576.into();
        expected["created"] = created.into();
        expected["opened"] = false.into();
        expected
    };
    assert_eq!(first, with_created(true));
    let again = json(&daemon.run(&create).success());
    assert_eq!(again, with_created(false));
    let list = json(&daemon.run(&["pool", "list", "--json"]).success());
    let mut listed = pool.clone();
    listed["perf_metrics"] = serde_json::json!({
        "read_bandwidth_mbps": 100.0, "write_bandwidth_mbps": 100.0,
        "read_latency_us": 1000.0, "write_latency_us": 1000.0, "iops": 1000.0,
    });
    assert_eq!(list, Value::Array(vec![listed]));
}

#[test]
fn json_of_statistics_has_the_fields_that_scripts_rely_on() {
    let daemon = Daemon::start();
    let create = ["pool", "create", "first", "--type", "ram", "--size", "1MiB"];
    let _ = daemon
        .run(&[&create[..], &["--id", "8001.7"]].concat())
        .success();
    let stats = json(&daemon.run(&["pool", "stats", "first", "--json"]).success());
    for (field, value) in [
        ("id", Value::from("8001.7")),
        ("name", "first".into()),
        ("total_size", (1 << 20).into()),
        ("remaining_size", (1 << 20).into()),
        ("metadata_size", 0.into()),
        ("allocated_blocks", 0.into()),
        ("persistent", false.into()),
        ("read_only", false.into()),
        ("direct_io", false.into()),
        ("io_depth", 32.into()),
        ("alignment", 4096.into()),
    ] {
        assert_eq!(stats[field], value, "{field}");
    }
    for (field, value) in [
        ("read_bandwidth_mbps", 100.0),
        ("write_bandwidth_mbps", 100.0),
        ("read_latency_us", 1000.0),
        ("write_latency_us", 1000.0),
        ("iops", 1000.0),
    ] {
        assert_eq!(stats["metrics"][field], value, "{field}");
    }
    for field in [
        "read_operations",
        "write_operations",
        "read_bytes",
        "write_bytes",
        "allocations",
        "frees",
        "unaligned_operations",
        "errors",
    ] {
        assert_eq!(stats["activity"][field], 0, "{field}");
    }
}

#[test]
fn json_of_a_status_has_the_fields_that_scripts_rely_on() {
    let daemon = Daemon::start_with(&["--workers", "2"]);
    let create = ["pool", "create", "first", "--type", "ram", "--size", "1MiB"];
    let _ = daemon
        .run(&[&create[..], &["--id", "8001.7"]].concat())
        .success();
    let status = daemon.status();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["process_id"], daemon.process_id());
    assert!(status["uptime_seconds"].is_u64(), "{status}");
    assert_eq!(status["workers"], 2);
    assert_eq!(status["sessions"], 1, "the one that asks");
    assert_eq!(status["pools"], 1);
    assert_eq!(status["stopping"], false);
    assert_eq!(status["pools_changing"], 0);
    assert_eq!(status["changing"], serde_json::json!([]));
    let library = library_folder().join("libchimaera_bdev_runtime.so");
    let module = serde_json::json!({
        "name": "chimaera_bdev",
        "version": env!("CARGO_PKG_VERSION"),
        "built_in": false,
        "library": text(&library),
        "stale": false,
        "removed": false,
    });
    assert_eq!(status["modules"], serde_json::json!([module]));
}

#[test]
fn what_json_has_is_also_there_for_people() {
    let daemon = Daemon::start();
    let create = ["pool", "create", "first", "--type", "ram", "--size", "1MiB"];
    let _ = daemon
        .run(&[&create[..], &["--id", "8001.7"]].concat())
        .success();
    let library = library_folder().join("libchimaera_bdev_runtime.so");
    let shown = daemon.run(&["pool", "stats", "first"]).success();
    assert!(shown.contains("1.0 MiB (1048576 bytes)"), "{shown}");
    let lost = "persistent            no (lost when the pool or the daemon ends)";
    assert!(shown.contains(lost), "{shown}");
    let shown = daemon.run(&["runtime", "status"]).success();
    let module = format!(
        "modules     chimaera_bdev {} ({})",
        env!("CARGO_PKG_VERSION"),
        library.display()
    );
    assert!(shown.contains(&module), "{shown}");
    let shown = daemon.run(&["pool", "destroy", "first"]).success();
    assert!(
        shown.contains("destroyed pool first with id 8001.7"),
        "{shown}"
    );
    let shown = daemon.run(&["pool", "list"]).success();
    assert!(shown.starts_with("no pools are open"), "{shown}");
}

#[test]
fn a_file_pool_may_be_named_by_a_relative_path() {
    let daemon = Daemon::start();
    let folder = disk_folder();
    let run = |arguments: &[&str]| {
        let mut command = daemon.command(arguments);
        command.current_dir(folder.path());
        finish(command).success()
    };
    let created = json(&run(&[
        "pool", "create", "relative", "--type", "file", "--size", "1MiB", "--json",
    ]));
    let path = folder.path().canonicalize().expect("a folder");
    let name = created["name"].as_str().expect("a name");
    assert_eq!(PathBuf::from(name), path.join("relative"));
    let stats = json(&run(&["pool", "stats", "relative", "--json"]));
    assert_eq!(stats["id"], created["id"]);
    let _ = run(&["pool", "destroy", "relative"]);
    assert!(path.join("relative").exists(), "the data stays");
}

#[test]
fn a_creation_says_whether_the_pool_was_made_or_opened_or_is_there_already() {
    let mut daemon = Daemon::start();
    let folder = disk_folder();
    let file = folder.path().join("pool");
    let create = ["pool", "create", text(&file), "--type", "file"];
    let sized = [&create[..], &["--size", "1MiB"]].concat();
    let made = daemon.run(&sized).success();
    assert!(made.starts_with("created pool"), "{made}");
    let there = json(&daemon.run(&[&create[..], &["--json"]].concat()).success());
    assert_eq!(
        (&there["created"], &there["opened"]),
        (&false.into(), &false.into())
    );

    let again = daemon.kill_and_leave();
    daemon = Daemon::start_in(again, &[] as &[&str]);
    let opened = json(&daemon.run(&[&create[..], &["--json"]].concat()).success());
    assert_eq!(
        (&opened["created"], &opened["opened"]),
        (&true.into(), &true.into())
    );
    let destroy = || daemon.run(&["pool", "destroy", text(&file)]).success();
    let _ = destroy();
    let opened = daemon.run(&create).success();
    assert!(
        opened.starts_with("opened what was there: pool"),
        "{opened}"
    );
    let there = daemon.run(&create).success();
    assert!(there.starts_with("exists with these parameters"), "{there}");
    let _ = destroy();
    let anew = daemon
        .run(&[&create[..], &["--overwrite"]].concat())
        .success();
    assert!(anew.starts_with("created pool"), "{anew}");
}

#[test]
fn what_is_declared_of_a_device_is_given_by_options_and_changed_one_by_one() {
    let daemon = Daemon::start();
    let declare = |options: &[&str]| {
        let create = ["pool", "create", "p", "--type", "ram", "--size", "1MiB"];
        let _ = daemon.run(&[&create[..], options].concat()).success();
        let listed = json(&daemon.run(&["pool", "list", "--json"]).success());
        let stats = json(&daemon.run(&["pool", "stats", "p", "--json"]).success());
        assert_eq!(listed[0]["perf_metrics"], stats["metrics"]);
        let metrics = &stats["metrics"];
        let names = [
            "read_bandwidth_mbps",
            "write_bandwidth_mbps",
            "read_latency_us",
            "write_latency_us",
            "iops",
        ];
        names.map(|name| metrics[name].as_f64().expect("a number"))
    };
    let first = declare(&["--iops", "500000", "--read-latency-us", "12.5"]);
    assert_eq!(first, [100.0, 100.0, 12.5, 1000.0, 500_000.0]);
    let later = declare(&["--write-bandwidth-mbps", "3000"]);
    assert_eq!(later, [100.0, 3000.0, 12.5, 1000.0, 500_000.0]);
    assert_eq!(declare(&[]), later, "nothing is declared anew");
    let all = declare(&[
        "--read-bandwidth-mbps",
        "1",
        "--write-bandwidth-mbps",
        "2",
        "--read-latency-us",
        "3",
        "--write-latency-us",
        "4",
        "--iops",
        "5",
    ]);
    assert_eq!(all, [1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn a_list_is_as_wide_as_a_line_whatever_pools_are_named() {
    let daemon = Daemon::start();
    let long = format!("first{}last", "x".repeat(4087));
    for name in ["short", &long] {
        let create = ["pool", "create", name, "--type", "ram", "--size", "1MiB"];
        let _ = daemon.run(&create).success();
    }
    let listed = daemon.run(&["pool", "list"]).success();
    assert!(
        listed.lines().all(|line| line.chars().count() < 170),
        "{listed}"
    );
    assert!(
        listed.contains("first") && listed.contains("xlast"),
        "{listed}"
    );
    let all = json(&daemon.run(&["pool", "list", "--json"]).success());
    let names: Vec<_> = all
        .as_array()
        .expect("a list")
        .iter()
        .map(|pool| &pool["name"])
        .collect();
    assert!(names.contains(&&Value::from(long.as_str())), "{names:?}");
}

#[test]
fn an_argument_that_is_no_text_is_named() {
    use std::os::unix::ffi::OsStrExt;
    let mut command = std::process::Command::new(program("chimaera"));
    command
        .args(["pool", "stats"])
        .arg(std::ffi::OsStr::from_bytes(b"a\xffb"));
    let said = finish(command).failure(WRONG_USAGE);
    assert!(
        said.contains(r"a\xFFb") && said.contains("not UTF-8"),
        "{said}"
    );
}
