//! Where a daemon listens and clients look if nobody says otherwise, and whose daemon a client takes.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use chimaera_tests::exit::{IN_THE_WAY, NO_RUNTIME, NOT_PERMITTED};
use chimaera_tests::{
    NOBODY, ROOT, SOMEBODY_ELSE, Sandbox, SandboxDaemon, Watchdog, chimaera, until,
};

#[test]
fn a_user_without_a_runtime_folder_has_a_daemon_in_a_folder_that_nobody_else_can_use() {
    let _watchdog = Watchdog::start();
    let Some(sandbox) = Sandbox::new("the default socket of a user") else {
        return;
    };
    let refused = sandbox
        .chimaera(NOBODY, &["pool", "list"])
        .failure(NO_RUNTIME);
    for words in [
        "/tmp/chimaera-65532/chimaera.sock",
        "/run/chimaera/chimaera.sock",
        "`/run/program/chimaera runtime start`",
    ] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    let daemon = SandboxDaemon::start(&sandbox, NOBODY, &[]);
    assert!(daemon.is_found_by(&sandbox, NOBODY, &[]));
    let folder = sandbox
        .path("/tmp/chimaera-65532")
        .metadata()
        .expect("made");
    assert_eq!((folder.uid(), folder.mode() & 0o7777), (NOBODY, 0o700));
    let stopped = sandbox.chimaera(NOBODY, &["runtime", "stop"]).success();
    assert!(
        stopped.starts_with("stopped the daemon with process id"),
        "{stopped}"
    );
}

#[test]
fn a_folder_that_somebody_else_made_first_is_neither_listened_in_nor_looked_in() {
    let _watchdog = Watchdog::start();
    let Some(sandbox) = Sandbox::new("a folder that was planted") else {
        return;
    };
    let planted = "umask 0; mkdir /tmp/chimaera-65532";
    let _ = sandbox.shell(SOMEBODY_ELSE, planted).success();
    let socket = ["--socket", "/tmp/chimaera-65532/chimaera.sock"];
    let _waiting = SandboxDaemon::start(&sandbox, SOMEBODY_ELSE, &socket);
    let _ = sandbox
        .shell(SOMEBODY_ELSE, "chmod 0666 /tmp/chimaera-65532/*")
        .success();
    let belongs = "belongs to user 65533, not to user 65532";
    let refused = sandbox
        .chimaera(NOBODY, &["pool", "list"])
        .failure(NO_RUNTIME);
    assert!(refused.contains(belongs), "{refused}");
    for more in [&[][..], &["--detach"]] {
        let mut start = vec!["runtime", "start"];
        start.extend(more);
        let refused = sandbox.chimaera(NOBODY, &start).failure(IN_THE_WAY);
        assert!(refused.contains(belongs), "{refused}");
    }
    // A link to a folder of the user's own still belongs to somebody else.
    let links = "rm -r /tmp/chimaera-65532; ln -s /tmp/own /tmp/chimaera-65532";
    let _ = sandbox.shell(SOMEBODY_ELSE, links).success();
    let _ = sandbox.shell(NOBODY, "mkdir -m 0700 /tmp/own").success();
    let refused = sandbox
        .chimaera(NOBODY, &["runtime", "start"])
        .failure(IN_THE_WAY);
    assert!(refused.contains("is not a folder"), "{refused}");
    // A user who cannot remove it chooses another place, as the text advises.
    let elsewhere = "export CHIMAERA_SOCKET=/tmp/own/socket; /run/program/chimaera runtime start --detach \
                     && /run/program/chimaera runtime stop";
    let _ = sandbox.shell(NOBODY, elsewhere).success();
}

#[test]
fn users_find_the_systems_daemon_whatever_the_umask_and_learn_that_it_was_killed() {
    let _watchdog = Watchdog::start();
    let Some(sandbox) = Sandbox::new("the system's daemon and its users") else {
        return;
    };
    let start = "umask 077; exec /run/program/chimaera runtime start --detach --listen \
                 /run/chimaera/users.sock,mode=0666";
    let said = sandbox.shell(ROOT, start).success();
    let id = said.trim_end().rsplit(' ').next().expect("a process id");
    let list = || sandbox.chimaera(NOBODY, &["pool", "list"]);
    let _ = list().success();
    let _ = sandbox.shell(ROOT, &format!("kill -9 {id}")).success();
    until("the daemon is gone", || {
        !Path::new(&format!("/proc/{id}")).exists()
    });
    let said = list().failure(NO_RUNTIME);
    assert!(said.contains("no daemon listens there"), "{said}");
}

#[test]
fn after_the_users_own_daemon_the_systems_is_looked_for() {
    let _watchdog = Watchdog::start();
    let Some(sandbox) = Sandbox::new("the system's daemon") else {
        return;
    };
    let system = SandboxDaemon::start(&sandbox, ROOT, &[]);
    assert!(system.is_found_by(&sandbox, ROOT, &[]));
    // Its operator says who may use it.
    let refused = sandbox
        .chimaera(NOBODY, &["pool", "list"])
        .failure(NOT_PERMITTED);
    assert!(refused.contains("/run/chimaera/chimaera.sock"), "{refused}");
    assert!(refused.contains("may not use the daemon"), "{refused}");
    let _ = sandbox
        .shell(ROOT, "chmod 0666 /run/chimaera/chimaera.sock")
        .success();
    let refused = sandbox
        .chimaera(NOBODY, &["pool", "list"])
        .failure(NOT_PERMITTED);
    assert!(refused.contains("is not one of them"), "{refused}");
    let stopped = sandbox.chimaera(ROOT, &["runtime", "stop"]);
    let _ = stopped.success();
    drop(system);
    // Operators may come as other users, so their socket is open to all. Users have one of their own.
    let arguments = [
        "--operators",
        "65530",
        "--listen",
        "/run/chimaera/users.sock,mode=0666",
    ];
    let system = SandboxDaemon::start(&sandbox, ROOT, &arguments);
    assert!(system.is_found_by(&sandbox, NOBODY, &[]));
    // Users cannot keep each other from the daemon by making folders.
    let _ = sandbox
        .shell(SOMEBODY_ELSE, "mkdir /tmp/chimaera-65532")
        .success();
    assert!(system.is_found_by(&sandbox, NOBODY, &[]));
    let _ = sandbox
        .shell(SOMEBODY_ELSE, "rmdir /tmp/chimaera-65532")
        .success();

    let own = SandboxDaemon::start(&sandbox, NOBODY, &[]);
    assert!(own.is_found_by(&sandbox, NOBODY, &[]));
    assert!(system.is_found_by(&sandbox, SOMEBODY_ELSE, &[]));
    // A socket that is named is the only one that counts.
    let nowhere = ["pool", "list", "--socket", "/tmp/nowhere"];
    let refused = sandbox.chimaera(NOBODY, &nowhere).failure(NO_RUNTIME);
    assert!(
        refused.contains("start one (`/run/program/chimaera runtime start --socket /tmp/nowhere`)")
    );
    let line = "CHIMAERA_SOCKET=/tmp/nowhere /run/program/chimaera pool list";
    let _ = sandbox.shell(NOBODY, line).failure(NO_RUNTIME);
    // An empty variable counts as none.
    let line = "CHIMAERA_SOCKET= /run/program/chimaera pool list";
    let said = sandbox.shell(NOBODY, line).success();
    assert!(said.starts_with("no pools"), "{said}");
}

#[test]
fn a_daemon_that_somebody_else_runs_is_used_only_by_whoever_says_so() {
    let _watchdog = Watchdog::start();
    let Some(sandbox) = Sandbox::new("somebody else's daemon") else {
        return;
    };
    let _ = sandbox
        .shell(SOMEBODY_ELSE, "mkdir -m 0755 /tmp/theirs")
        .success();
    let socket = ["--socket", "/tmp/theirs/chimaera.sock"];
    let users = "/tmp/theirs/users.sock";
    let listen = format!("{users},mode=0666");
    let start = [&socket[..], &["--listen", &listen]].concat();
    let daemon = SandboxDaemon::start(&sandbox, SOMEBODY_ELSE, &start);
    assert!(daemon.is_found_by(&sandbox, SOMEBODY_ELSE, &socket));
    for (user, socket) in [(NOBODY, ["--socket", users]), (ROOT, socket)] {
        let command = [&["pool", "list"], &socket[..]].concat();
        let refused = sandbox.chimaera(user, &command).failure(NOT_PERMITTED);
        for words in ["user 65533 runs the daemon", socket[1], "--any-user"] {
            assert!(refused.contains(words), "{words}: {refused}");
        }
        let all = [&socket[..], &["--any-user"]].concat();
        assert!(daemon.is_found_by(&sandbox, user, &all));
    }
}

#[test]
fn a_daemon_that_sees_other_files_is_not_taken_for_one_whose_socket_was_removed() {
    let _watchdog = Watchdog::start();
    let Some(sandbox) = Sandbox::new("a daemon in a container") else {
        return;
    };
    let socket = ["--socket", "/run/in-a-container-of-its-own.sock"];
    let _daemon = SandboxDaemon::start(&sandbox, ROOT, &socket);
    let list = [&["pool", "list"], &socket[..]].concat();
    let _ = sandbox.chimaera(ROOT, &list).success();
    let said = chimaera(&list).failure(NO_RUNTIME);
    assert!(
        said.contains("no daemon listens there: start one"),
        "{said}"
    );
    // Inside it is one, once the file is gone.
    let removed = format!("rm {}", socket[1]);
    let _ = sandbox.shell(ROOT, &removed).success();
    let _ = sandbox.shell(ROOT, &format!("{removed}.lock")).success();
    let said = sandbox.chimaera(ROOT, &list).failure(NO_RUNTIME);
    assert!(said.contains("was removed"), "{said}");
}
