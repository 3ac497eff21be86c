//! Paths in folders that somebody else controls: what a command does not write to, and no pool is made on.

use std::fs;

use chimaera_tests::exit::{NOT_PERMITTED, WRONG_USAGE};
use chimaera_tests::{ROOT, Sandbox, SandboxDaemon, Watchdog};

const ALICE: u32 = 1003;
const BOB: u32 = 1004;

const USERS: [&str; 2] = ["--socket", "/run/chimaera/users.sock"];

/// A sandbox with root's daemon, and folders of two users.
fn sandbox_with_users(what: &str) -> Option<(Sandbox, SandboxDaemon)> {
    let sandbox = Sandbox::new(what)?;
    let listen = ["--listen", "/run/chimaera/users.sock,mode=0666"];
    let daemon = SandboxDaemon::start(&sandbox, ROOT, &listen);
    let make =
        format!("mkdir /run/alice /run/bob && chown {ALICE} /run/alice && chown {BOB} /run/bob");
    let _ = sandbox.shell(ROOT, &make).success();
    Some((sandbox, daemon))
}

/// Makes a pool on this file as this user, which is open in no daemon then.
fn make_pool(sandbox: &Sandbox, user: u32, path: &str) {
    let create = ["pool", "create", path, "--type", "file", "--size", "4MiB"];
    let _ = sandbox
        .chimaera(user, &[&create[..], &USERS].concat())
        .success();
    let destroy = ["pool", "destroy", path];
    let _ = sandbox
        .chimaera(user, &[&destroy[..], &USERS].concat())
        .success();
}

#[test]
fn what_writes_follows_no_link_that_somebody_else_has_put_in_the_way() {
    let _watchdog = Watchdog::start();
    let Some((sandbox, _daemon)) = sandbox_with_users("links of others") else {
        return;
    };
    make_pool(&sandbox, ALICE, "/run/alice/pool");
    let links = "ln -s /run/alice/pool /run/bob/mine; ln -s /run/alice /run/bob/way";
    let _ = sandbox.shell(BOB, links).success();
    let image = || fs::read(sandbox.path("/run/alice/pool")).expect("it is there");
    let before = image();
    let writing: [&[&str]; 5] = [
        &["pool", "chmod", "--offline", "604"],
        &["pool", "chown", "--offline", "1004"],
        &["pool", "rename"],
        &["pool", "check", "--repair"],
        &["pool", "upgrade"],
    ];
    for command in writing {
        for (path, link) in [
            ("/run/bob/mine", "/run/bob/mine is a symbolic link"),
            ("/run/bob/way/pool", "/run/bob/way is a symbolic link"),
        ] {
            let said = sandbox.chimaera(ROOT, &[command, &[path]].concat());
            let said = said.failure(NOT_PERMITTED);
            for words in [link, "belongs to user 1004", "name the file itself"] {
                assert!(said.contains(words), "{command:?} {words}: {said}");
            }
        }
    }
    assert!(image() == before, "nothing was written");
    // Nothing is lost by reading, and the links of root lead root and everybody.
    let _ = sandbox
        .chimaera(ROOT, &["pool", "inspect", "/run/bob/mine"])
        .success();
    let links = "mkdir /run/by-id; ln -s ../alice/pool /run/by-id/pool";
    let _ = sandbox.shell(ROOT, links).success();
    for user in [ROOT, ALICE] {
        let chmod = ["pool", "chmod", "--offline", "640", "/run/by-id/pool"];
        let _ = sandbox.chimaera(user, &chmod).success();
    }
}

#[test]
fn a_map_goes_into_no_file_that_somebody_elses_link_leads_to() {
    let _watchdog = Watchdog::start();
    let Some((sandbox, _daemon)) = sandbox_with_users("a map and a link") else {
        return;
    };
    let create = ["pool", "create", "ram", "--type", "ram", "--size", "4MiB"];
    let _ = sandbox.chimaera(ROOT, &create).success();
    let make = "echo precious > /run/precious; ln -s /run/precious /run/map; \
                ln -s /run/precious /run/bob/map; chown -h 1004 /run/bob/map";
    let _ = sandbox.shell(ROOT, make).success();
    let map = |path: &str| sandbox.chimaera(ROOT, &["pool", "map", "ram", "--svg", path]);
    let said = map("/run/bob/map").failure(NOT_PERMITTED);
    assert!(said.contains("belongs to user 1004"), "{said}");
    let held = || fs::read_to_string(sandbox.path("/run/precious")).expect("it is there");
    assert_eq!(held(), "precious\n");
    for path in ["/run/map", "/run/new", "/dev/null", "/dev/stdout"] {
        let _ = map(path).success();
    }
    assert!(held().ends_with("</svg>\n"));
}

#[test]
fn no_pool_is_made_in_a_file_that_somebody_else_has_put_into_a_shared_folder() {
    let _watchdog = Watchdog::start();
    let Some((sandbox, _daemon)) = sandbox_with_users("a file that was put there") else {
        return;
    };
    let put = "umask 0; : > /tmp/pool; ln -s /tmp/pool /tmp/link; : > /run/bob/pool";
    let _ = sandbox.shell(BOB, put).success();
    let link = "ln -s /tmp/pool /run/alice/link";
    let _ = sandbox.shell(ALICE, link).success();
    let create = |user: u32, path: &str| {
        let create = ["pool", "create", path, "--type", "file", "--size", "4MiB"];
        sandbox.chimaera(user, &[&create[..], &USERS].concat())
    };
    for user in [ALICE, ROOT] {
        for path in ["/tmp/pool", "/run/alice/link"] {
            let said = create(user, path).failure(NOT_PERMITTED);
            for words in [path, "belongs to user 1004", "file of your own"] {
                assert!(said.contains(words), "{words}: {said}");
            }
        }
    }
    let held = fs::metadata(sandbox.path("/tmp/pool")).expect("it is there");
    assert_eq!(held.len(), 0);
    // Who knows whose folder it is has chosen it, and one's own file is one's own.
    for path in ["/run/bob/pool", "/tmp/own"] {
        make_pool(&sandbox, ALICE, path);
        let _ = create(ALICE, path).success();
    }
}

#[test]
fn a_file_that_is_larger_than_a_pool_can_be_is_said_to_be_that() {
    let _watchdog = Watchdog::start();
    let Some((sandbox, _daemon)) = sandbox_with_users("huge files in memory") else {
        return;
    };
    make_pool(&sandbox, ROOT, "/tmp/pool");
    for size in ["4611686018427387904", "9223372036854775807"] {
        let make = format!("truncate -s {size} /tmp/huge");
        let _ = sandbox.shell(ROOT, &make).success();
        for (path, size) in [("/tmp/huge", "0"), ("/tmp/new", size), ("/tmp/pool", size)] {
            let create = ["pool", "create", path, "--size", size, "--type", "file"];
            let said = sandbox.chimaera(ROOT, &create).failure(WRONG_USAGE);
            let most = "cannot be managed: give at most 281474975662080";
            assert!(said.contains(most), "{path} {size}: {said}");
        }
    }
    let _ = sandbox
        .chimaera(ROOT, &["pool", "check", "/tmp/pool"])
        .success();
}
