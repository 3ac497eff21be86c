//! Files and folders that somebody else could change: what a daemon does not load, listen at, lock or write.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use chimaera_bdev_client::Status;
use chimaera_tests::exit::{IN_THE_WAY, NO_RUNTIME, NOT_PERMITTED};
use chimaera_tests::{
    Daemon, NOBODY, Plugins, ProgramOutput, ROOT, SOMEBODY_ELSE, Sandbox, SandboxDaemon, Watchdog,
    chimaera, finish, is_root, json, library_folder, program, text,
};
use nix::sys::stat::Mode;
use tempfile::TempDir;

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its own");
}

fn bdev_library() -> PathBuf {
    library_folder().join("libchimaera_bdev_runtime.so")
}

#[test]
fn a_library_that_others_could_change_is_refused_by_roots_daemon() {
    if !is_root("a library of root's daemon") {
        return;
    }
    let elsewhere = TempDir::new().expect("a folder");
    let plugins = Plugins::with_folders(&[elsewhere.path()]);
    let library = plugins.path("chimaera_bdev");
    std::fs::copy(bdev_library(), &library).expect("copied");
    let refused = |changed: &Path, words: &str| {
        let (status, said) = plugins.refusal("chimaera_bdev");
        assert_eq!(status, Status::PermissionDenied, "{said}");
        for words in [text(&library), text(changed), words] {
            assert!(said.contains(words), "{words}: {said}");
        }
    };
    for (path, mode, usual) in [
        (plugins.folder(), 0o777, 0o755),
        (plugins.folder(), 0o775, 0o755),
        (&library, 0o664, 0o644),
        (&library, 0o646, 0o644),
    ] {
        set_mode(path, mode);
        refused(path, &format!("mode {mode:04o}): take that right"));
        set_mode(path, usual);
    }
    for path in [plugins.folder(), &library] {
        chown(path, Some(NOBODY), None).expect("root may");
        refused(path, "owner: user 65532");
        chown(path, Some(ROOT), None).expect("root may");
    }
    // What a link leads to counts.
    let target = elsewhere.path().join("library");
    std::fs::rename(&library, &target).expect("moved");
    std::os::unix::fs::symlink(&target, &library).expect("a link");
    set_mode(elsewhere.path(), 0o777);
    refused(elsewhere.path(), "mode 0777");
    set_mode(elsewhere.path(), 0o700);
    plugins.assert_bdev_works();
}

#[test]
fn a_users_own_daemon_warns_of_a_library_and_a_folder_that_others_could_change() {
    let _watchdog = Watchdog::start();
    let Some(sandbox) = Sandbox::new("warnings of a user's daemon") else {
        return;
    };
    let library = bdev_library();
    let make = format!(
        "umask 002; mkdir /tmp/open; cp {} /tmp/open",
        text(&library)
    );
    let _ = sandbox.shell(NOBODY, &make).success();
    let socket = ["--socket", "/tmp/open/socket"];
    let start = [&socket[..], &["--plugin-dir", "/tmp/open"]].concat();
    let _daemon = SandboxDaemon::start(&sandbox, NOBODY, &start);
    let create = ["pool", "create", "pool", "--type", "ram", "--size", "1MiB"];
    let create = [&create[..], &socket].concat();
    let _ = sandbox.chimaera(NOBODY, &create).success();
    let log = std::fs::read_to_string(sandbox.path("/tmp/open/socket.log")).expect("a log");
    for words in [
        "others could put a socket of their own in the place of /tmp/open/socket",
        "/tmp/open/libchimaera_bdev_runtime.so: its code runs with this runtime's rights",
        "mode 0775): take that right from group and others (`chmod go-w`)",
    ] {
        let warned = |line: &str| line.contains("WARN") && line.contains(words);
        assert!(log.lines().any(warned), "{words}: {log}");
    }
}

#[test]
fn other_users_have_pools_only_of_modules_that_the_operator_has_opened_to_them() {
    let _watchdog = Watchdog::start();
    let Some(sandbox) = Sandbox::new("modules for other users") else {
        return;
    };
    let users = ["--listen", "/run/chimaera/users.sock,mode=0666"];
    let echo = |name: &'static str| ["pool", "create", name, "--module", "chimaera_echo"];
    let ram = ["pool", "create", "ram", "--type", "ram", "--size", "1MiB"];
    let folder = [&["--plugin-dir", text(library_folder())], &users[..]].concat();

    let daemon = SandboxDaemon::start(&sandbox, ROOT, &folder);
    let _ = sandbox.chimaera(NOBODY, &ram).success();
    for module in ["chimaera_echo", "absent"] {
        let create = ["pool", "create", "a", "--module", module];
        let said = sandbox.chimaera(NOBODY, &create).failure(NOT_PERMITTED);
        let remedy = format!("`--modules chimaera_bdev,{module}`");
        assert!(said.contains(&remedy), "{said}");
    }
    let status = json(
        &sandbox
            .chimaera(ROOT, &["runtime", "status", "--json"])
            .success(),
    );
    assert_eq!(
        status["modules"].as_array().map(Vec::len),
        Some(1),
        "nothing was loaded"
    );
    let _ = sandbox.chimaera(ROOT, &echo("of_root")).success();
    // Those that root has are not for others either, who have no right to them.
    let _ = sandbox
        .chimaera(NOBODY, &echo("of_root"))
        .failure(NOT_PERMITTED);
    let _ = sandbox.chimaera(NOBODY, &echo("a")).failure(NOT_PERMITTED);
    let _ = sandbox.chimaera(ROOT, &["runtime", "stop"]).success();
    drop(daemon);

    let opened = [&folder[..], &["--modules", "chimaera_echo"]].concat();
    let _daemon = SandboxDaemon::start(&sandbox, ROOT, &opened);
    let _ = sandbox.chimaera(NOBODY, &echo("a")).success();
    let said = sandbox.chimaera(NOBODY, &ram).failure(NOT_PERMITTED);
    assert!(
        said.contains("`--modules chimaera_echo,chimaera_bdev`"),
        "{said}"
    );
}

fn start_at(socket: &Path, more: &[&str]) -> ProgramOutput {
    let start = ["runtime", "start", "--socket", text(socket)];
    chimaera(&[&start[..], more].concat())
}

fn files_in(folder: &Path) -> usize {
    std::fs::read_dir(folder).expect("a folder").count()
}

#[test]
fn roots_daemon_does_not_listen_where_others_could() {
    if !is_root("the socket's folder of root's daemon") {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).expect("a folder");
    let socket = inner.join("socket");
    let (rights, inside) = ("`chmod go-w`", "make a folder in it");
    for (open, mode, remedy) in [
        (&*inner, 0o775, rights),
        (&inner, 0o1777, inside),
        (folder.path(), 0o777, rights),
    ] {
        set_mode(open, mode);
        let said = start_at(&socket, &[]).failure(NOT_PERMITTED);
        for words in [
            text(&socket),
            text(open),
            &format!("mode {mode:04o}"),
            remedy,
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
        let said = start_at(&socket, &["--detach"]).failure(NOT_PERMITTED);
        assert!(said.contains(remedy), "{said}");
        assert_eq!(files_in(&inner), 0, "nothing was made");
        set_mode(open, 0o755);
    }
    chown(&inner, Some(NOBODY), None).expect("root may");
    let said = start_at(&socket, &[]).failure(NOT_PERMITTED);
    assert!(said.contains("owner: user 65532"), "{said}");
}

#[test]
fn a_file_that_is_known_by_another_name_or_is_somebody_elses_is_no_lock_and_no_log() {
    let folder = TempDir::new().expect("a folder");
    let (socket, precious) = (folder.path().join("socket"), folder.path().join("precious"));
    std::fs::write(&precious, "mine").expect("a file");
    let place = |ending: &str| PathBuf::from(format!("{}{ending}", text(&socket)));
    let refused = |ending: &str, more: &[&str], words: &str| {
        let said = start_at(&socket, more).failure(IN_THE_WAY);
        for words in [text(&place(ending)), words] {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert_eq!(std::fs::read(&precious).expect("there"), b"mine");
        assert_eq!(files_in(folder.path()), 2, "nothing was made");
    };
    for (ending, more) in [(".lock", &[][..]), (".log", &["--detach"])] {
        std::fs::hard_link(&precious, place(ending)).expect("a link");
        refused(ending, more, "hard link");
        std::fs::remove_file(place(ending)).expect("removed");
        // Its reader keeps it from being refused by the system.
        nix::unistd::mkfifo(&place(ending), Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
        let reader = std::fs::File::options()
            .read(true)
            .write(true)
            .open(place(ending));
        refused(ending, more, "not a regular file");
        drop(reader);
        std::fs::remove_file(place(ending)).expect("removed");
        if is_root("files of somebody else") {
            std::fs::write(place(ending), "").expect("a file");
            chown(place(ending), Some(NOBODY), None).expect("root may");
            refused(ending, more, "root");
            std::fs::remove_file(place(ending)).expect("removed");
        }
    }
}

#[test]
fn the_socket_has_its_mode_whatever_the_umask() {
    for umask in ["0377", "0777", "0"] {
        if umask == "0777" && !is_root("files that not even their owner may open") {
            continue;
        }
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
            .arg(program("chimaera"))
            .args(["runtime", "start"]);
        let daemon = Daemon::start_by(command, TempDir::new().expect("a folder"));
        let mode = daemon.socket().metadata().expect("there").mode();
        assert_eq!(mode & 0o7777, 0o600, "{umask}");
        daemon.connect().admin().ping().expect("it serves");
    }
}

#[test]
fn the_environment_of_whoever_starts_a_set_user_id_program_leads_it_nowhere() {
    let _watchdog = Watchdog::start();
    let Some(sandbox) = Sandbox::new("a set-user-ID program") else {
        return;
    };
    let program = "/run/program/setuid";
    let make = format!(
        "cp /run/program/chimaera {program}; chown {NOBODY} {program}; chmod 4755 {program}"
    );
    let _ = sandbox.shell(ROOT, &make).success();
    let named = "CHIMAERA_SOCKET=/tmp/named XDG_RUNTIME_DIR=/tmp/folder CHIMAERA_LOG=nonsense";
    for user in [ROOT, SOMEBODY_ELSE] {
        let list = format!("{named} {program} pool list");
        let said = sandbox.shell(user, &list).failure(NO_RUNTIME);
        assert!(said.contains("/tmp/chimaera-65532/chimaera.sock"), "{said}");
        assert!(
            !said.contains("/tmp/named") && !said.contains("/tmp/folder"),
            "{said}"
        );
    }
    // Who has no rights but his own has his variables.
    let list = "CHIMAERA_SOCKET=/tmp/named /run/program/chimaera pool list";
    let said = sandbox.shell(NOBODY, list).failure(NO_RUNTIME);
    assert!(said.contains("/tmp/named"), "{said}");
    let start =
        format!("{named} CHIMAERA_PLUGIN_PATH=/tmp/plugins {program} runtime start --detach");
    let said = sandbox.shell(SOMEBODY_ELSE, &start).success();
    assert!(said.contains("/tmp/chimaera-65532/chimaera.sock"), "{said}");
    let create = ["pool", "create", "a", "--module", "absent"];
    let refused =
        finish(sandbox.command(NOBODY, &[&["/run/program/chimaera"][..], &create].concat()));
    let stopped = sandbox.chimaera(NOBODY, &["runtime", "stop"]);
    let (_, said) = (stopped.success(), refused.failure(4));
    assert!(!said.contains("/tmp/plugins"), "{said}");
}
