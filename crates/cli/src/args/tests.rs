use chimaera_bdev_client::IoEngine;
use clap::CommandFactory;

use super::*;

#[test]
fn the_arguments_are_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn a_ram_pool_needs_a_size() {
    let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
    assert!(parse("chimaera pool create p --type ram").is_err());
    assert!(parse("chimaera pool create p --type ram --size 1GiB").is_ok());
    assert!(parse("chimaera pool create /dev/x --type file").is_ok());
    assert!(parse("chimaera pool create p --type ram --size much").is_err());
    assert!(parse("chimaera pool create p --type ram --size 1GiB --id 8000").is_err());
}

#[test]
fn what_makes_a_block_device_makes_no_pool_of_another_module() {
    let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
    assert!(parse("chimaera pool create p").is_err());
    assert!(parse("chimaera pool create p --module greeter").is_ok());
    assert!(parse("chimaera pool create p --module greeter --params hello --id 8.0").is_ok());
    assert!(parse("chimaera pool create p --module greeter --params-file f").is_ok());
    assert!(parse("chimaera pool create p --module greeter --params a --params-file f").is_err());
    assert!(parse("chimaera pool create p --type ram --size 4096 --params hello").is_err());
    for more in [
        "--type ram",
        "--size 1GiB",
        "--io-depth 1",
        "--alignment 512",
        "--io-engine auto",
        "--overwrite",
        "--read-only",
        "--iops 5",
    ] {
        let line = format!("chimaera pool create p --module greeter {more}");
        assert!(parse(&line).is_err(), "{line}");
    }
}

#[test]
fn what_a_module_is_asked_for_says_what_is_missing_or_wrong() {
    let refused = |line: &str| {
        let error = Arguments::try_parse_from(line.split(' ')).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        error.to_string()
    };
    for params in ["--params hello", "--params-file f"] {
        let text = refused(&format!("chimaera pool create p {params}"));
        assert!(text.contains("--module <NAME>"), "{text}");
        assert!(!text.contains("--type"), "{text}");
    }
    let text = refused("chimaera pool create p --module chimaera_bdev");
    assert!(text.contains("use `--type ram` or `--type file`"), "{text}");
    for line in [
        "chimaera pool create p --module A-B",
        "chimaera chimod new A-B",
    ] {
        let text = refused(line);
        assert!(text.contains("\"A-B\" is not a module name"), "{text}");
    }
}

#[test]
fn a_pool_is_not_overwritten_and_only_read_at_once() {
    let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
    assert!(parse("chimaera pool create /dev/x --type file --overwrite").is_ok());
    assert!(parse("chimaera pool create /dev/x --type file --read-only").is_ok());
    assert!(parse("chimaera pool create /dev/x --type file --overwrite --read-only").is_err());
}

#[test]
fn an_engine_has_one_name_here_and_in_statistics() {
    for engine in [IoEngine::Auto, IoEngine::Libaio, IoEngine::IoUring] {
        let line = format!("chimaera pool create /dev/x --type file --io-engine {engine}");
        let arguments = Arguments::try_parse_from(line.split(' ')).expect("understood");
        let ChimaeraCommand::Pool(PoolCommand::Create(create)) = arguments.command else {
            panic!("{line} creates a pool");
        };
        assert_eq!(create.io_engine.map(IoEngine::from), Some(engine));
        let json = serde_json::to_string(&engine).expect("encodes");
        assert_eq!(json, format!("\"{engine}\""));
    }
}

#[test]
fn a_daemon_is_named_where_one_is_needed_and_nowhere_else() {
    let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
    for with in [
        "runtime stop",
        "runtime status",
        "pool create p --type ram --size 4096",
        "pool list",
        "pool stats p",
        "pool flush p",
        "pool blocks p",
        "pool map p",
        "pool destroy p",
        "verify run --pool p --journal j --seconds 1",
        "verify check --pool p --journal j",
    ] {
        let line = format!("chimaera {with} --socket s --any-user --json");
        assert!(parse(&line).is_ok(), "{line}");
    }
    assert!(parse("chimaera runtime start --socket s").is_ok());
    for without in [
        "demo",
        "bench",
        "chimod new m",
        "pool inspect f",
        "pool check f",
        "pool upgrade f",
        "pool rename f",
    ] {
        assert!(parse(&format!("chimaera {without}")).is_ok(), "{without}");
        for option in ["--socket s", "--any-user"] {
            let line = format!("chimaera {without} {option}");
            assert!(parse(&line).is_err(), "{line}");
        }
    }
    assert!(parse("chimaera runtime start --any-user").is_err());
}

#[test]
fn a_workload_has_room_for_a_block() {
    let parse = |space: &str| {
        let line = format!("chimaera verify run --pool p --journal j --seconds 1 --space {space}");
        Arguments::try_parse_from(line.split(' '))
    };
    assert!(parse("4KiB").is_ok());
    for little in ["0", "4095"] {
        let text = parse(little).expect_err(little).to_string();
        assert!(text.contains("at least 4096 bytes"), "{text}");
    }
}

#[test]
fn a_number_that_is_none_for_its_option_is_named_with_what_would_be_one() {
    for (option, value, words) in [
        ("--size", "-1", "not negative"),
        ("--size", "-1GiB", "not negative"),
        ("--size", "8EiB", "1 less than 8EiB"),
        ("--io-depth", "0", "1..=4096"),
        ("--io-depth", "-1", "1..=4096"),
        ("--alignment", "100", "power of two from 512 to 4096"),
        ("--alignment", "8192", "power of two from 512 to 4096"),
        ("--id", "0.0", "leave it out"),
        ("--id", "1.0", "the admin pool's"),
        ("--id", "8000", "MAJOR.MINOR"),
        ("--iops", "-1", "not negative"),
        ("--iops", "inf", "finite"),
        ("--read-latency-us", "fast", "number"),
    ] {
        let line = [
            "chimaera", "pool", "create", "f", "--type", "file", option, value,
        ];
        let error = Arguments::try_parse_from(line).expect_err(value);
        let text = error.to_string();
        let named = format!("invalid value '{value}' for '{option}");
        assert!(text.contains(&named) && text.contains(words), "{text}");
        assert!(!text.contains("tip:"), "{text}");
    }
}
