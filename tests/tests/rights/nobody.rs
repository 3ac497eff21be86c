//! The user and group that stand for whoever has none here: they own nothing, and are nobody's.

use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolQuery, Status};
use chimaera_proto::rights::OVERFLOW_ID;
use chimaera_tests::exit::WRONG_USAGE;
use chimaera_tests::{MIB, User, UsersDaemon, assert_refused, has_users};

use super::{ID, OTHER, OWNER, QUERY, assert_denied, group, owner, ram, set};

const NOBODY: User = User::new(OVERFLOW_ID);

#[test]
fn nobody_owns_nothing_and_is_one_of_all_others() {
    if !has_users("the user that stands for none") {
        return;
    }
    let daemon = UsersDaemon::start();
    let (nobody, somebody) = (daemon.user(NOBODY), daemon.user(OWNER));
    let create = |runtime, options: &CreateOptions| {
        let pool = Client::new(runtime, PoolId::NULL);
        let made = pool.create(PoolQuery::Dynamic, "pool", options);
        made.map(|_| pool)
    };
    let options = CreateOptions::ram(MIB).mode(0o604);
    assert_denied(create(&nobody, &options), &["65534", "owns nothing"]);
    let pool = create(&somebody, &options).expect("somebody may");
    let seen = Client::open_of(&nobody, OWNER.id, "pool").expect("all others may read");
    seen.get_stats().expect("all others may read");
    assert_denied(seen.allocate_blocks(QUERY, 4096), &[]);
    pool.allocate_blocks(QUERY, 4096).expect("the owner may");
    let operator = daemon.operator();
    // As one of the others it is, even where root's group has no name here.
    set(&operator, OWNER, "pool", group(0)).expect("an operator may");
    seen.get_stats().expect("all others may read");
}

#[test]
fn nothing_is_given_to_nobody() {
    if !has_users("pools for the user that stands for none") {
        return;
    }
    let daemon = UsersDaemon::start();
    let (operator, owners) = (daemon.operator(), daemon.user(OWNER));
    ram(&owners, "pool", ID, 0o600);
    for id in [OVERFLOW_ID, u32::MAX] {
        let text = id.to_string();
        let given = set(&operator, OWNER, "pool", owner(id));
        assert_refused(given, Status::InvalidArgument, &[&text]);
        let given = set(&operator, OWNER, "pool", group(id));
        assert_refused(given, Status::InvalidArgument, &[&text]);
        let made = Client::new(&operator, PoolId::NULL).create(
            PoolQuery::Dynamic,
            "another",
            &CreateOptions::ram(MIB).owner(id),
        );
        assert_refused(made, Status::InvalidArgument, &[&text]);
        let line = ["pool", "chown", &text, "1001:pool"];
        let said = daemon.0.run(&line).failure(WRONG_USAGE);
        assert!(said.contains("nobody's number"), "{said}");
    }
    let now = owners.admin().find_pool("pool").expect("as before");
    assert_eq!(now.permissions.owner, OWNER.id);
    assert_eq!(now.permissions.group, OWNER.group);
    set(&operator, OWNER, "pool", owner(OTHER.id)).expect("to somebody");
}

#[test]
fn nobody_is_no_operator_by_user_or_group() {
    if !has_users("operators of no name") {
        return;
    }
    for operators in ["65534", "@65534"] {
        let socket = tempfile::tempdir().expect("a folder");
        let socket = socket.path().join("socket");
        let socket = socket.to_str().expect("UTF-8");
        let start = ["runtime", "start", "--socket", socket];
        let start = [&start[..], &["--operators", operators]].concat();
        let said = chimaera_tests::chimaera(&start).failure(WRONG_USAGE);
        assert!(said.contains("nobody's number"), "{said}");
    }
    let daemon = UsersDaemon::start_with(&["--operators", "1001"]);
    let in_its_group = User {
        group: OVERFLOW_ID,
        ..OTHER
    };
    for user in [NOBODY, in_its_group] {
        let id = format!("user {}", user.id);
        assert_denied(user.try_connect(&daemon.0.socket()), &[&id]);
    }
    let _ = OWNER.connect(&daemon.0.socket());
    // Nor is somebody in its group a member of a pool's group that has no name.
    let owners = daemon.user(User {
        group: OVERFLOW_ID,
        ..OWNER
    });
    let pool = ram(&owners, "pool", ID, 0o660);
    pool.get_stats().expect("the owner");
    let group_of = owners.admin().find_pool("pool").expect("there").permissions;
    assert_eq!(group_of.group, OVERFLOW_ID, "as its process had it");
    let member = Client::open_of(&daemon.user(in_its_group), OWNER.id, "pool");
    assert_denied(member, &["user 1003"]);
}
