//! Names and ids are those of one owner: nobody takes them from anybody, and nobody is led to the pool of somebody
//! else.

use std::os::unix::fs::PermissionsExt;

use chimaera_bdev_client::{
    Client, CreateOptions, Error, PoolChoice, PoolId, PoolQuery, Runtime, Status,
};
use chimaera_tests::exit::{IN_THE_WAY, NOT_FOUND, NOT_PERMITTED, WRONG_USAGE};
use chimaera_tests::{MIB, UsersDaemon, assert_refused, has_users, json, text};

use super::{GROUP, ID, MEMBER, OTHER, OWNER, QUERY, assert_denied, mode, owner, ram, set};

/// Writes a byte all over a block of its own, and gives what reads it.
fn filled(pool: &Client, byte: u8) -> impl Fn() -> Result<u8, Error> + use<> {
    let block = pool.allocate_blocks(QUERY, 4096).expect("there is room")[0];
    let mut buffer = pool.runtime().allocate_buffer(4096).expect("a buffer");
    buffer.fill(byte);
    pool.write(QUERY, &block, &buffer).expect("its own");
    let pool = pool.clone();
    move || {
        let mut buffer = pool.runtime().allocate_buffer(4096)?;
        pool.read(QUERY, &block, &mut buffer)?;
        Ok(buffer[0])
    }
}

fn create(runtime: &Runtime, name: &str, options: &CreateOptions) -> Result<Client, Error> {
    let pool = Client::new(runtime, PoolId::NULL);
    pool.create(PoolQuery::Dynamic, name, options).map(|_| pool)
}

#[test]
fn two_users_who_ask_for_the_same_have_a_pool_each() {
    if !has_users("names and ids of two users") {
        return;
    }
    let daemon = UsersDaemon::start();
    let (owners, others) = (daemon.user(OWNER), daemon.user(OTHER));
    // Name, id and parameters are the same.
    let first = filled(&ram(&owners, "scratch", ID, 0o666), 1);
    let second = filled(&ram(&others, "scratch", ID, 0o666), 2);
    assert_eq!((first(), second()), (Ok(1), Ok(2)));
    for (runtime, user) in [(&owners, OWNER), (&others, OTHER)] {
        let found = runtime.admin().find_pool("scratch").expect("its own");
        assert_eq!((found.id, found.permissions.owner), (ID, user.id));
        let found = runtime.admin().find_pool(ID).expect("its own");
        assert_eq!(found.permissions.owner, user.id);
    }
    let listed = |user| daemon.run_as(user, &["pool", "list", "--json"]).success();
    assert_eq!(json(&listed(MEMBER)).as_array().map(Vec::len), Some(2));
    let _ = daemon
        .run_as(OWNER, &["pool", "destroy", "scratch"])
        .success();
    assert_eq!(
        (first().map_err(|error| error.status()), second()),
        (Err(Status::PoolChanged), Ok(2))
    );
    assert_eq!(json(&listed(MEMBER))[0]["owner"], OTHER.id);
}

#[test]
fn a_connection_uses_one_pool_by_an_id_at_a_time() {
    if !has_users("two pools with one id") {
        return;
    }
    let daemon = UsersDaemon::start();
    let (owners, others) = (daemon.user(OWNER), daemon.user(OTHER));
    let first = filled(&ram(&owners, "first", ID, 0o666), 1);
    let _second = ram(&others, "second", ID, 0o666);
    let taken = Client::open_of(&owners, OTHER.id, "second");
    assert_refused(taken, Status::Busy, &["8000.0", "another connection"]);
    assert_eq!(first(), Ok(1));
    let another = daemon.user(OWNER);
    let opened = Client::open_of(&another, OTHER.id, "second").expect("another connection");
    opened.get_stats().expect("everybody may");
}

#[test]
fn a_name_leads_to_ones_own_pool_then_to_an_operators_and_to_nobody_elses() {
    if !has_users("whose pool a name means") {
        return;
    }
    let daemon = UsersDaemon::start();
    let (owners, others, operator) = (daemon.user(OWNER), daemon.user(OTHER), daemon.operator());
    ram(&operator, "shared", ID, 0o666);
    let of = |runtime: &Runtime| {
        let found = runtime.admin().find_pool("shared");
        found.map(|found| found.permissions.owner)
    };
    assert_eq!((of(&owners), of(&others)), (Ok(0), Ok(0)));
    // To ask for it by the same parameters finds it too, and to name oneself makes one of one's own.
    let options = CreateOptions::ram(4 * MIB);
    create(&owners, "shared", &options).expect("it is there");
    assert_eq!(operator.admin().list_pools().expect("a list").len(), 1);
    create(&owners, "shared", &options.owner(OWNER.id)).expect("another one");
    assert_eq!((of(&owners), of(&others)), (Ok(OWNER.id), Ok(0)));
    Client::open_of(&owners, 0, "shared").expect("root's, by its owner");

    ram(&owners, "private", PoolId::new(8000, 1), 0o604);
    let words = ["named private", "user 1001's", "1001:NAME"];
    assert_denied(Client::open(&others, "private"), &words);
    assert_denied(others.admin().find_pool("private"), &words);
    assert_denied(
        others.admin().find_pool(PoolId::new(8000, 1)),
        &["user 1001's"],
    );
    assert_denied(others.admin().destroy_pool("private"), &words);
    assert_denied(operator.admin().find_pool("private"), &words);
    // Whoever names the owner means that pool.
    Client::open_of(&others, OWNER.id, "private").expect("everybody may read");
    let said = daemon.run_as(OTHER, &["pool", "stats", "private"]);
    let said = said.failure(NOT_PERMITTED);
    assert!(said.contains("1001:NAME"), "{said}");
    let _ = daemon
        .run_as(OTHER, &["pool", "stats", "1001:private"])
        .success();
    let said = daemon.run_as(OTHER, &["pool", "flush", "1001:private"]);
    let said = said.failure(NOT_PERMITTED);
    assert!(
        said.contains("user 1003 lacks the right to write"),
        "{said}"
    );
    let _ = daemon
        .run_as(OWNER, &["pool", "flush", "private"])
        .success();
    let _ = daemon
        .run_as(OTHER, &["pool", "stats", "1002:private"])
        .failure(NOT_FOUND);
    // One of the same name is made beside it, and nobody was told more of the other than its owner.
    create(&others, "private", &options).expect("a name of one's own");
    assert_eq!(
        others
            .admin()
            .find_pool("private")
            .expect("there")
            .permissions
            .owner,
        OTHER.id
    );
}

#[test]
fn only_operators_make_pools_for_others() {
    if !has_users("pools for others") {
        return;
    }
    let daemon = UsersDaemon::start();
    let (owners, operator) = (daemon.user(OWNER), daemon.operator());
    let for_other = CreateOptions::ram(MIB).owner(OTHER.id);
    let words = ["only operators make pools for others", "user 1001"];
    assert_denied(create(&owners, "theirs", &for_other), &words);
    let line = [
        "pool", "create", "theirs", "--type", "ram", "--size", "1MiB",
    ];
    let line = [&line[..], &["--owner", "1003", "--mode", "640"]].concat();
    let said = daemon.run_as(OWNER, &line).failure(NOT_PERMITTED);
    assert!(said.contains(words[0]), "{said}");
    assert_eq!(operator.admin().list_pools().expect("a list"), []);
    let _ = daemon.0.run(&line).success();
    let found = daemon
        .user(OTHER)
        .admin()
        .find_pool("theirs")
        .expect("its own");
    assert_eq!(
        (found.permissions.owner, found.permissions.mode),
        (OTHER.id, 0o640)
    );
    let _ = daemon
        .run_as(OTHER, &["pool", "destroy", "theirs"])
        .success();
}

#[test]
fn no_pool_is_given_to_somebody_who_has_one_of_its_name_or_id() {
    if !has_users("giving pools away") {
        return;
    }
    let daemon = UsersDaemon::start();
    let (owners, others, operator) = (daemon.user(OWNER), daemon.user(OTHER), daemon.operator());
    let (second, third) = (PoolId::new(8000, 1), PoolId::new(8000, 2));
    let named = filled(&ram(&owners, "name", ID, 0o600), 1);
    let with_id = filled(&ram(&owners, "other name", second, 0o600), 2);
    let theirs = filled(&ram(&others, "name", third, 0o600), 3);
    let theirs_too = filled(&ram(&others, "another name", second, 0o600), 4);
    let give = |name: &str| set(&operator, OWNER, name, owner(OTHER.id));
    for name in ["name", "other name"] {
        let words = ["user 1003 has a pool", name];
        assert_refused(give(name), Status::Busy, &words);
        let mine = owners.admin().find_pool(name).expect("as before");
        assert_eq!(mine.permissions.owner, OWNER.id);
        let said = daemon
            .0
            .run(&["pool", "chown", "1003", &format!("1001:{name}")]);
        let _ = said.failure(IN_THE_WAY);
    }
    let all = || [named(), with_id(), theirs(), theirs_too()];
    assert_eq!(all(), [1, 2, 3, 4].map(Ok), "nobody has lost anything");
    assert_denied(others.admin().destroy_pool(ID), &["user 1001's"]);

    // As soon as it is free, the pool is given away, with all that is in it.
    others.admin().destroy_pool("name").expect("its own");
    let _ = daemon
        .0
        .run(&["pool", "chown", "1003", "1001:name"])
        .success();
    let given = others.admin().find_pool("name").expect("its own now");
    assert_eq!((given.id, given.permissions.owner), (ID, OTHER.id));
    assert_denied(named(), &[]);
    assert_denied(set(&owners, OTHER, "name", mode(0o666)), &["manage"]);
    let _ = daemon
        .run_as(OTHER, &["pool", "chmod", "640", "name"])
        .success();
    assert_eq!(named(), Ok(1));
}

#[test]
fn the_name_of_a_pool_is_told_to_nobody_who_has_no_right_to_it_and_does_not_know_it() {
    if !has_users("names of other users' pools") {
        return;
    }
    let daemon = UsersDaemon::start();
    let _owners = ram(&daemon.user(OWNER), "/home/owner/secret", ID, 0o600);
    let (member, other) = (daemon.user(MEMBER), daemon.user(OTHER));
    let create = |runtime: &Runtime, name: &str, id: PoolId| {
        let pool = Client::new(runtime, id);
        let options = CreateOptions::ram(4 * MIB).owner(OWNER.id);
        pool.create(PoolQuery::Dynamic, name, &options).map(drop)
    };
    let choice = PoolChoice {
        owner: Some(OWNER.id),
        ..ID.into()
    };
    let guesses = [
        create(&other, "guess", ID),
        other.admin().find_pool(choice.clone()).map(drop),
        other.admin().destroy_pool(choice),
    ];
    for guess in guesses {
        let said = guess.expect_err("no right to it").to_string();
        assert!(said.contains("lacks the right"), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
    // What is compared is not told either.
    let elsewhere = PoolId::new(8000, 77);
    let guess = create(&other, "/home/owner/secret", elsewhere);
    let said = guess.expect_err("no right to it").to_string();
    assert!(said.contains("lacks the right"), "{said}");

    set(
        &daemon.user(OWNER),
        OWNER,
        "/home/owner/secret",
        mode(0o604),
    )
    .expect("its own");
    let error = create(&member, "guess", ID).expect_err("it has another name");
    assert!(error.to_string().contains("/home/owner/secret"), "{error}");
}

#[test]
fn a_pool_of_somebody_elses_is_verified_and_not_made_by_its_owners_name() {
    if !has_users("verifying another user's pool") {
        return;
    }
    let daemon = UsersDaemon::start();
    let owners = daemon.user(OWNER.with_groups(&[GROUP]));
    let options = CreateOptions::ram(MIB).group(GROUP).mode(0o660);
    let pool = Client::new(&owners, PoolId::NULL);
    pool.create(PoolQuery::Dynamic, "shared", &options)
        .expect("made");
    let folder = tempfile::tempdir().expect("a folder");
    let everybody = PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), everybody).expect("its own");
    let journal = folder.path().join("journal");
    let on = ["--pool", "1001:shared", "--journal", text(&journal)];
    let run = ["verify", "run", "--seconds", "1"];
    let _ = daemon.run_as(MEMBER, &[&run[..], &on].concat()).success();
    let _ = daemon
        .run_as(MEMBER, &[&["verify", "check"][..], &on].concat())
        .success();

    for name in ["1001:shared", "root:other"] {
        let create = ["pool", "create", name, "--type", "ram", "--size", "1MiB"];
        let said = daemon.run_as(MEMBER, &create).failure(WRONG_USAGE);
        assert!(said.contains("give `--owner"), "{said}");
    }
}
