//! Names that others choose, wherever they are shown: they move no cursor, begin no line and hide nothing.

use std::path::Path;

use chimaera_client::proto::shown::{is_hidden, printable};
use chimaera_tests::exit::{IN_THE_WAY, NOT_FOUND};
use chimaera_tests::{Daemon, ProgramOutput, chimaera, json, text, within};

/// A name that clears the screen, begins a line, and turns the direction of writing.
const NAME: &str = "a\u{1b}[2J\nready\u{202e}b";

/// What a command wrote has the name in it, escaped, and no hidden character but the ends of its lines, none of which
/// is the name's.
#[track_caller]
fn assert_shown(said: &str, name: &str) {
    assert!(said.contains(&*printable(name)), "{said:?}");
    let whole = said.replace('\n', "");
    assert!(!whole.contains(is_hidden), "{said:?}");
    assert!(
        said.lines().all(|line| !line.starts_with("ready")),
        "{said:?}"
    );
}

/// JSON that hides nothing either, and from which the name is read as it is.
#[track_caller]
fn assert_in_json(said: &str, name: &str) {
    let whole = said.replace('\n', "");
    assert!(!whole.contains(is_hidden), "{said:?}");
    let quoted = serde_json::to_string(name).expect("it is text");
    // As serde writes it, which escapes less.
    let again = serde_json::to_string(&json(said)).expect("it was read");
    assert!(again.contains(quoted.trim_matches('"')), "{again}");
}

/// What a command wrote that did what it was told.
#[track_caller]
fn told(output: ProgramOutput) -> String {
    assert_eq!(output.code, Some(0), "{output:?}");
    output.stdout + &output.stderr
}

#[test]
fn a_pools_name_is_shown_escaped_by_every_command_and_in_the_log() {
    let mut daemon = Daemon::start();
    let run = |words: &[&str]| daemon.run(words);
    let create = ["pool", "create", NAME, "--type", "ram", "--size", "1MiB"];
    assert_shown(&told(run(&create)), NAME);
    // The commands that do not say the name either show nothing of it.
    for words in [
        &create[..],
        &["pool", "list"],
        &["pool", "map", NAME],
        &["pool", "flush", NAME],
    ] {
        assert_shown(&told(run(words)), NAME);
        assert_in_json(&told(run(&[words, &["--json"]].concat())), NAME);
    }
    assert_in_json(&told(run(&["pool", "stats", NAME, "--json"])), NAME);
    for words in [["pool", "stats", NAME], ["pool", "blocks", NAME]] {
        let said = told(run(&words));
        assert!(!said.replace('\n', "").contains(is_hidden), "{said:?}");
    }
    let absent = format!("{NAME}?");
    let stats = ["pool", "stats", &absent];
    assert_shown(&run(&stats).failure(NOT_FOUND), &absent);
    let said = run(&[&stats[..], &["--json"]].concat()).failure(NOT_FOUND);
    // The sentence has the name as sentences show it.
    assert_shown(json(&said)["error"].as_str().expect("a text"), &absent);

    // A pool that is refused is among the daemon's complaints.
    let larger = ["pool", "create", NAME, "--type", "ram", "--size", "2MiB"];
    assert_shown(&run(&larger).failure(IN_THE_WAY), NAME);
    let status = ["runtime", "status"];
    assert_shown(&told(run(&status)), NAME);
    let said = told(run(&[&status[..], &["--json"]].concat()));
    assert!(!said.replace('\n', "").contains(is_hidden), "{said:?}");

    assert_shown(&told(run(&["pool", "destroy", NAME])), NAME);
    assert_shown(&told(run(&["runtime", "stop"])), "");
    let log = within("the end of the daemon", move || daemon.wait().1);
    assert_shown(&log, NAME);
}

#[test]
fn a_files_name_is_shown_escaped_by_commands_that_need_no_daemon() {
    let daemon = Daemon::start();
    let file = daemon.folder().join(NAME);
    let _ = daemon.create_file_pool(&file, "4MiB").success();
    let _ = daemon.run(&["pool", "destroy", text(&file)]).success();
    let run = |words: &[&str], file: &Path| {
        let words = [&["pool"][..], words, &[text(file)]].concat();
        chimaera(&words)
    };
    assert_shown(&told(run(&["inspect"], &file)), text(&file));
    assert_in_json(&told(run(&["inspect", "--json"], &file)), text(&file));
    assert_shown(&told(run(&["check", "--repair"], &file)), text(&file));
    let absent = daemon.folder().join(format!("{NAME}?"));
    let said = run(&["inspect"], &absent).failure(NOT_FOUND);
    assert_shown(&said, text(&absent));
    let other = daemon.folder().join(format!("{NAME}2"));
    std::fs::rename(&file, &other).expect("renamed");
    assert_shown(&told(run(&["rename"], &other)), text(&other));
}
