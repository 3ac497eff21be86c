//! Whose a pool on a file is: what its file records, where nobody else can have written that, and what operators say.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

use chimaera_bdev_client::{Client, CreateOptions, Error, Permissions, PoolId, PoolQuery, Runtime};
use chimaera_tests::exit::NOT_PERMITTED;
use chimaera_tests::{
    MIB, ProgramOutput, User, UsersDaemon, chimaera, disk_folder, has_users, text,
};
use tempfile::TempDir;

use super::{GROUP, MEMBER, OTHER, OWNER, QUERY, assert_allowed, assert_denied, mode, set};

/// A file that holds a pool, in a folder that everybody may look into.
pub(super) struct OwnedFile {
    _folder: TempDir,
    path: PathBuf,
}

impl OwnedFile {
    /// Root's file, with a pool that was made for this user, and is open in no daemon.
    pub(super) fn new(daemon: &UsersDaemon, owner: User) -> Self {
        let folder = disk_folder();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("its own");
        let path = folder.path().join("pool");
        let file = std::fs::File::create(&path).expect("there is room");
        file.set_len(16 * MIB).expect("there is room");
        let image = Self {
            _folder: folder,
            path,
        };
        image.is_owned(0, 0o600);
        let operator = daemon.operator();
        let options = CreateOptions::file().owner(owner.id).mode(0o640);
        image.open(&operator, &options).expect("an operator may");
        image.close(daemon, owner);
        image
    }

    pub(super) fn name(&self) -> &str {
        text(&self.path)
    }

    /// Gives the file itself an owner and a mode.
    fn is_owned(&self, user: u32, bits: u32) {
        chown(&self.path, Some(user), None).expect("root may");
        let bits = std::fs::Permissions::from_mode(bits);
        std::fs::set_permissions(&self.path, bits).expect("root may");
    }

    /// Opens the pool, and gives whose it is.
    pub(super) fn open(
        &self,
        runtime: &Runtime,
        options: &CreateOptions,
    ) -> Result<Permissions, Error> {
        let pool = Client::new(runtime, PoolId::NULL);
        let opened = pool.create(PoolQuery::Dynamic, self.name(), options);
        opened.map(|info| info.permissions)
    }

    fn close(&self, daemon: &UsersDaemon, owner: User) {
        let pool = Client::open_of(&daemon.operator(), owner.id, self.name());
        let operator = daemon.operator();
        let id = pool.expect("it is there").pool_id();
        let choice = chimaera_bdev_client::PoolChoice {
            owner: Some(owner.id),
            ..id.into()
        };
        operator
            .admin()
            .destroy_pool(choice)
            .expect("an operator may");
    }

    /// What its file records, as a command says it that changes nothing.
    fn recorded(&self) -> String {
        chimaera(&["pool", "chown", "--offline", ":2001", self.name()]).success()
    }
}

#[test]
fn an_owner_that_a_user_has_written_is_believed_by_nobody_but_an_operator_who_says_so() {
    if !has_users("owners in images") {
        return;
    }
    let daemon = UsersDaemon::start();
    let operator = daemon.operator();
    for (file_owner, bits) in [(OWNER.id, 0o600), (0, 0o660), (0, 0o602), (OTHER.id, 0o620)] {
        let what = format!("a file of user {file_owner} with mode {bits:o}");
        let image = OwnedFile::new(&daemon, OTHER);
        let options = CreateOptions::file();
        // In root's own file, what was recorded holds, and the pool is found as that user's only.
        assert_denied(
            image.open(&operator, &options),
            &["user 1003's", "--owner 1003"],
        );
        let owned = image.open(&operator, &options.owner(OTHER.id));
        let owned = owned.expect("an operator may");
        assert_eq!((owned.owner, owned.mode), (OTHER.id, 0o640));
        image.close(&daemon, OTHER);

        image.is_owned(file_owner, bits);
        let given = image.open(&operator, &options).expect("it is not believed");
        assert_eq!((given.owner, given.mode), (0, 0o600), "{what}");
        let warning = format!("records owner {}", OTHER.id);
        assert!(daemon.0.log().contains(&warning), "{what}");
        assert_denied(
            Client::open(&daemon.user(OTHER), image.name()),
            &["lacks the right"],
        );
        image.close(&daemon, User::new(0));

        let trusting = options.trust_owner(true);
        assert_denied(image.open(&operator, &trusting), &["--owner 1003"]);
        let given = image.open(&operator, &trusting.owner(OTHER.id));
        let given = given.expect("an operator says so");
        assert_eq!((given.owner, given.mode), (OTHER.id, 0o640), "{what}");
        assert_allowed(true, Client::open(&daemon.user(OTHER), image.name()), &what);
        image.close(&daemon, OTHER);
        // Nobody else may say so, not even with a file that they may use.
        let owner = daemon.user(OWNER);
        for options in [trusting, options.overwrite(true)] {
            assert_denied(image.open(&owner, &options), &["is for operators"]);
        }
    }
}

#[test]
fn whoever_may_only_read_a_pool_does_not_decide_how_it_is_opened() {
    if !has_users("opening a pool of an operator's") {
        return;
    }
    let daemon = UsersDaemon::start();
    let root = User::new(0);
    let image = OwnedFile::new(&daemon, root);
    let readable = ["pool", "chmod", "--offline", "644", image.name()];
    let _ = chimaera(&readable).success();
    let other = daemon.user(OTHER);
    let reading = CreateOptions::file().read_only(true);
    assert_denied(
        image.open(&other, &reading),
        &["user 0's", "operators open it"],
    );
    let opened = image.open(&daemon.operator(), &CreateOptions::file());
    assert_eq!(opened.expect("its own").owner, 0);
    // The pool is found then, by its name alone, since it is an operator's.
    let pool = Client::open(&other, image.name()).expect("it may be read");
    assert!(!pool.get_stats().expect("it may be read").read_only);
    image.close(&daemon, root);
}

#[test]
fn permissions_are_changed_in_a_file_by_whoever_may_write_to_it() {
    if !has_users("permissions in a file") {
        return;
    }
    let daemon = UsersDaemon::start();
    let image = OwnedFile::new(&daemon, OTHER);
    let as_user = |user: User, arguments: &[&str]| -> ProgramOutput {
        daemon.run_offline_as(user, &[arguments, &[image.name()]].concat())
    };
    let chmod = ["pool", "chmod", "--offline", "604"];
    let to_owner = ["pool", "chown", "--offline", "1001:2001"];
    for line in [&chmod, &to_owner] {
        let _ = as_user(OTHER, line).failure(NOT_PERMITTED);
    }
    let said = image.recorded();
    assert!(said.contains("owner 1003, group 2001, mode 0640"), "{said}");
    let name = image.name();
    let said = chimaera(&[&chmod[..], &[name]].concat()).success();
    assert!(said.contains("owner 1003, group 2001, mode 0604"), "{said}");
    // Whose the file is has written the owner that he likes: the next test but this one says what comes of it.
    image.is_owned(OTHER.id, 0o600);
    let said = as_user(OTHER, &to_owner).success();
    assert!(said.contains("owner 1001, group 2001, mode 0604"), "{said}");
    let given = image.open(&daemon.operator(), &CreateOptions::file());
    assert_eq!(given.expect("not believed").owner, 0);
    image.close(&daemon, User::new(0));

    image.is_owned(0, 0o600);
    let options = CreateOptions::file().owner(OWNER.id);
    let given = image.open(&daemon.operator(), &options).expect("believed");
    assert_eq!(
        (given.owner, given.group, given.mode),
        (OWNER.id, GROUP, 0o604)
    );
    // In use it is changed by the daemon alone.
    let said = chimaera(&[&chmod[..], &[name]].concat());
    let _ = said.failure(chimaera_tests::exit::IN_THE_WAY);
    assert_allowed(
        true,
        Client::open_of(&daemon.user(OTHER), OWNER.id, name),
        "other",
    );
    assert_allowed(
        false,
        Client::open_of(&daemon.user(MEMBER), OWNER.id, name),
        "member",
    );
}

#[test]
fn what_was_changed_holds_when_the_daemon_is_killed_at_once_or_stops() {
    if !has_users("permissions that outlive the daemon") {
        return;
    }
    let mut daemon = UsersDaemon::start();
    let image = OwnedFile::new(&daemon, OWNER);
    let owned = |user: User| CreateOptions::file().owner(user.id);
    let mut heir = OWNER;
    let open = |daemon: &UsersDaemon, user: User| {
        let given = image.open(&daemon.operator(), &owned(user));
        given.expect("an operator may")
    };
    open(&daemon, OWNER);
    for (round, bits) in [0o604, 0o666, 0o000, 0o660, 0o640].into_iter().enumerate() {
        let (owners, operator) = (daemon.user(heir), daemon.operator());
        set(&owners, heir, image.name(), mode(bits)).expect("its own");
        let next = [OTHER, OWNER][round % 2];
        let given = set(&operator, heir, image.name(), super::owner(next.id));
        assert_eq!(given.expect("an operator may").permissions.mode, bits);
        let before = heir;
        heir = next;
        daemon = daemon.killed_and_started();
        let now = open(&daemon, heir);
        assert_eq!((now.owner, now.mode), (heir.id, bits), "round {round}");
        let known = Client::open_of(&daemon.user(heir), heir.id, image.name());
        assert_allowed(true, known, "the owner");
        let former = Client::open_of(&daemon.user(before), heir.id, image.name());
        assert_allowed(bits & 0o006 != 0, former, "the former owner");
    }
    let owners = daemon.user(heir);
    set(&owners, heir, image.name(), mode(0o604)).expect("its own");
    daemon = daemon.stopped_and_started();
    let now = open(&daemon, heir);
    assert_eq!((now.owner, now.mode), (heir.id, 0o604));
    let other = Client::open_of(&daemon.user(MEMBER), heir.id, image.name());
    let other = other.expect("all others may read");
    assert_allowed(true, other.get_stats(), "all others");
    assert_allowed(false, other.allocate_blocks(QUERY, 4096), "all others");
}
